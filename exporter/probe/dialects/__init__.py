"""The kinds of inference servers that a probe can measure, in the order in which they are recognised."""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Final

from exporter.backends import BACKENDS, Backend
from exporter.probe.dialects.dialect import Dialect, Get
from exporter.probe.dialects.openai import is_gateway


def _dialect_of(backend: Backend) -> Dialect:
    """The dialect of a row: its class, in the file that is named by its id."""
    made: Dialect = getattr(import_module(f"{__name__}.{backend.id}"), backend.dialect)()
    return made


DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType({id_: _dialect_of(row) for id_, row in BACKENDS.items()})


def recognise(get: Get) -> Dialect | None:
    """The first dialect that knows the server from what it answers; None if none does.

    Every dialect asks ``/v1/models`` first, which is free on every server, and another path only if that answer fits. The same
    path is free on one server and costs money on another (LiteLLM's ``/health`` calls every model that it knows).
    """
    if is_gateway(get("/v1/models")):
        return DIALECTS["litellm"]
    return next((each for each in DIALECTS.values() if each.recognise(get)), None)
