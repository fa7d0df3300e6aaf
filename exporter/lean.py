"""The daemon's libraries without what it uses none of: each module costs memory for as long as the daemon runs, and time at its start.

A library imports all of itself: a web server of its own, a command line, process pools. No option of it and no other import
leaves these out, since they are imported where the package is. So while such a library is imported here, placeholders stand for
these modules; afterwards they are gone, and anyone who imports such a module gets the real one. Only the daemon does this, before
it imports anything else of ours. It is 2 MB of 61.

It holds for versions with which the tests have run. A newer one may use what its predecessors did not, and is imported whole:
the memory is not worth a daemon that ends.
"""

import importlib
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType
from typing import Any, Final

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeanLibrary:
    """A library as the daemon imports it.

    ``module`` is imported without ``left_out``, and ``why`` says what these are. ``newest`` is the last version, major and minor,
    with which ``tests/test_lean.py`` and ``tests/test_imports.py`` have passed; they fail if a newer one is installed.
    """

    distribution: str
    module: str
    newest: tuple[int, int]
    left_out: tuple[str, ...]
    why: str


LIBRARIES: Final = (
    LeanLibrary(
        "pydantic-settings",
        "pydantic_settings",
        (2, 16),
        ("pydantic_settings.sources.providers.cli", "argparse", "dotenv"),
        "settings from arguments and .env",
    ),
    LeanLibrary(
        "apscheduler",
        "apscheduler.schedulers.background",
        (3, 11),
        ("multiprocessing", "concurrent.futures.process"),
        "pools of processes",
    ),
    LeanLibrary(
        "httpcore",
        "httpcore",
        (1, 0),
        ("httpcore._async", "certifi"),
        "the asynchronous half, and CAs other than the system's",
    ),
    LeanLibrary(
        "uvicorn",
        "uvicorn",
        (0, 54),
        ("uvicorn.supervisors", "logging.config", "configparser"),
        "worker processes, and logging from a file",
    ),
    LeanLibrary(
        "prometheus-client",
        "prometheus_client",
        (0, 26),
        ("http.server", "wsgiref.simple_server"),
        "a web server beside ours",
    ),
)
"""In the order in which they are imported: a module that an earlier one has loaded is not left out of a later one."""


def import_libraries() -> None:
    """Import the libraries, each without its parts if that is known to be safe."""
    for library in LIBRARIES:
        if not is_known(library):
            log.debug(
                "%s is imported with all its parts: its version is newer than those that were tried",
                library.distribution,
            )
            continue  # by those who use it
        before = set(sys.modules)
        try:
            with placeholders(library.left_out):
                importlib.import_module(library.module)
        except Exception as exc:  # noqa: BLE001 - whatever a library makes of a placeholder
            log.debug("%s is imported with all its parts: %r", library.distribution, exc)
            for name in set(sys.modules) - before:
                del sys.modules[name]
            importlib.import_module(library.module)


def is_known(library: LeanLibrary) -> bool:
    """Whether the installed version is one of those that were tried."""
    try:
        # Not by ``version``, which parses the whole description: that takes longer than all else here.
        found = re.search(
            r"^Version: (\d+)\.(\d+)", distribution(library.distribution).read_text("METADATA") or "", re.MULTILINE
        )
    except PackageNotFoundError:
        return False
    return found is not None and (int(found[1]), int(found[2])) <= library.newest


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
