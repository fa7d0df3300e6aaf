"""The daemon's libraries without what it uses none of: each module costs memory for as long as the daemon runs, and time at its start.

A library imports all of itself: a web server of its own, a command line, process pools. While it is imported here, placeholders
stand for such modules; afterwards they are gone, so that anyone who imports such a module gets the real one. Only the daemon
does this, before it imports anything else of ours.
"""

import importlib
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

log = logging.getLogger(__name__)

LEFT_OUT: Final[Mapping[str, tuple[str, ...]]] = {
    "pydantic_settings": (
        "pydantic_settings.sources.providers.cli",
        "argparse",
        "dotenv",
    ),  # settings from arguments and .env
    "apscheduler.schedulers.background": ("multiprocessing", "concurrent.futures.process"),  # pools of processes
    "httpcore": ("httpcore._async", "certifi"),  # the asynchronous half; CAs other than the system's
    "uvicorn": ("uvicorn.supervisors", "logging.config", "configparser"),  # worker processes; logging from a file
    "prometheus_client": ("http.server", "wsgiref.simple_server"),  # a web server beside ours
}
"""By the module to be imported, in this order: the modules that are left out of it."""


def import_libraries() -> None:
    """Import the libraries. One that can't be imported so is imported whole: the memory is not worth a daemon that ends."""
    for library, names in LEFT_OUT.items():
        before = set(sys.modules)
        try:
            with placeholders(names):
                importlib.import_module(library)
        except Exception as exc:  # noqa: BLE001 - whatever a library makes of a placeholder
            log.debug("%s is imported whole: %r", library, exc)
            for name in set(sys.modules) - before:
                del sys.modules[name]
            importlib.import_module(library)


@contextmanager
def placeholders(names: tuple[str, ...]) -> Iterator[None]:
    """Placeholders for those of these modules that are not loaded yet, for as long as the context lasts."""
    added = {name: _Placeholder(name) for name in names if name not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


class _Placeholder(ModuleType):
    """Has whatever is asked for, as a class: to be imported, subclassed, subscripted or caught, and an error when it is called."""

    def __getattr__(self, name: str) -> type[Exception]:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_LeftOutError,), {"__module__": self.__name__})


class _LeftOutError(Exception):
    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__(f"{type(self).__module__}.{type(self).__name__} is left out of the daemon (exporter/lean.py)")
        raise RuntimeError(self)

    def __class_getitem__(cls, _: Any) -> type["_LeftOutError"]:
        return cls
