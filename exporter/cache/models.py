"""The models that servers run, by path, as a long-lived program reads them: in a bounded process, and only what has changed."""

import math
import os
import stat
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from exporter.cache.facts import WeightFacts, printable
from exporter.cache.memory import LEAST_BYTES
from exporter.cache.model_file import ReadJob, Unreadable
from exporter.cache.worker_process import NICENESS, STALL_SECONDS, WorkerError, Workers

READ_SECONDS: Final = 60.0
"""For all headers of one model together."""
AGAIN_SECONDS: Final = 300.0
"""A file that could not be read to the end, as on a filesystem that hangs, is tried again after so long."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What was read of a path, what its file was then, and until when (monotonic) that holds."""

    mark: tuple[int, ...]
    facts: WeightFacts | Unreadable
    until: float = math.inf


class Models:
    """Models by path, each read again only when its file or folder has changed. For one thread.

    A header is read in a process of its own, whose memory and time are bounded. Only the look at whether a file has changed is
    this thread's own: it hangs when the filesystem does.
    """

    def __init__(self, *, stall_seconds: float = STALL_SECONDS, most_seconds: float = READ_SECONDS) -> None:
        self._workers = Workers(stall_seconds=stall_seconds, most_seconds=most_seconds)
        self._known: dict[str, _Known] = {}

    @property
    def stamps(self) -> tuple[tuple[str, str], ...]:
        """Of each file that was read last, what distinguishes it from another one under its name: its size and time, as text."""
        return tuple((path, stamp) for path in self._known if (stamp := _stamp(path)))

    def read(
        self, paths: Iterable[str], cancel: threading.Event | None = None
    ) -> tuple[tuple[str, WeightFacts | Unreadable], ...]:
        """The weights at these paths, in their order; what was read of others is forgotten. Never raises."""
        known: dict[str, _Known] = {}
        for path in dict.fromkeys(paths):
            try:
                mark = _mark(path)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                known[path] = _Known((), Unreadable(f"{printable(path)}: {reason}"))
                continue
            before = self._known.get(path)
            still = before is not None and before.mark == mark and time.monotonic() < before.until
            known[path] = before if before and still else self._read(path, mark, cancel)
        self._known = known
        return tuple((path, each.facts) for path, each in known.items())

    def _read(self, path: str, mark: tuple[int, ...], cancel: threading.Event | None) -> _Known:
        try:
            (facts,) = self._workers.run(path, ReadJob(path, NICENESS, LEAST_BYTES), cancel)
        except WorkerError as error:
            return _Known(mark, Unreadable(f"{printable(path)}: {error}"), time.monotonic() + AGAIN_SECONDS)
        return _Known(mark, facts)


def _mark(path: str) -> tuple[int, ...]:
    """What changes when a file is replaced or written to. Raises OSError, ValueError if there is none."""
    seen = os.stat(path)
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns


def _stamp(path: str) -> str:
    """Size and time of a file; empty for a folder, whose time says nothing of what it holds."""
    try:
        seen = os.stat(path)
    except (OSError, ValueError):
        return ""
    if not stat.S_ISREG(seen.st_mode):
        return ""
    try:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seen.st_mtime))
    except (OverflowError, ValueError, OSError):
        when = f"{seen.st_mtime:.0f}"  # beyond what a calendar goes to
    return f"{seen.st_size} bytes of {when}"
