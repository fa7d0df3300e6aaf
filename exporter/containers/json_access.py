"""Reading JSON of an engine that may be of any version and make: each function gives one type, or its empty value."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

EMPTY: Final[Mapping[str, Any]] = {}


def mapping(value: object, *path: str) -> Mapping[str, Any]:
    """The mapping under ``path``; empty if anything on the way is missing or of another type."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else EMPTY


def text(value: object, *path: str) -> str:
    """The string under ``path``, else an empty one."""
    found = mapping(value, *path[:-1]).get(path[-1])
    return found if isinstance(found, str) else ""


def items(value: object, *path: str) -> Sequence[Any]:
    """The list under ``path``, else an empty one."""
    found = mapping(value, *path[:-1]).get(path[-1])
    return found if isinstance(found, list | tuple) else ()


def strings(value: object, *path: str) -> tuple[str, ...]:
    """A list of strings under ``path``; Podman and old images give a single string for an entry point."""
    found = text(value, *path)
    return (found,) if found else tuple(each for each in items(value, *path) if isinstance(each, str))


def seconds(timestamp: str) -> float | None:
    """Unix time of an RFC 3339 timestamp; None for what is none, and for the year 1, which stands for never."""
    try:
        at = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return at.timestamp() if at.tzinfo is not None and at.year > 1 else None
