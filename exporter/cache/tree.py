"""Reading folders with any content: bounded, by descriptor, no link followed unasked, errors counted.

A folder is opened once and its entries are read relative to it, which is faster than by path, and safe when a folder is
replaced by a link meanwhile.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from exporter.cache.facts import ModelFacts, Unfinished, printable
from exporter.cache.links import LinkBounds, LinkLoops

MAX_DEPTH = 24
"""Folders below folders: deeper than any cache, and far from the limit of open files."""
MAX_MARKS = 2000
SETTLED_NS = 2_000_000_000
"""A folder changed this recently may change again within the resolution of its time stamp."""
BLOCK_BYTES = 512

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class ScanErrors:
    """What one scan can't read: the number of entries, and the first twenty by name. ``tick`` runs once a file."""

    def __init__(
        self, now: float, tick: Callable[[], None] | None = None, link_bounds: LinkBounds | None = None
    ) -> None:
        self.now = now
        self.link_bounds = link_bounds or LinkBounds("/")
        self._loops = LinkLoops()
        self.unreadable = 0
        self.problems: list[str] = []
        self.tick = tick or (lambda: None)

    def add(self, where: str, why: object) -> None:
        reason = (why.strerror or str(why)) if isinstance(why, OSError) else str(why)
        if isinstance(why, OSError) and why.errno == errno.ELOOP and not self._loops.is_new(where):
            return
        self.unreadable += 1
        if len(self.problems) < 20:
            self.problems.append(f"{printable(where)}: {reason}")


def described(error: BaseException) -> str:
    """An unexpected exception as the reason of a problem: its kind, and what it says."""
    return f"{type(error).__name__}: {printable(str(error)[:200])}" if str(error) else type(error).__name__


@contextmanager
def folder(name: str, dir_fd: int | None = None, *, follow: bool = False) -> Iterator[int]:
    """A folder's descriptor. Raises OSError; ELOOP or ENOTDIR for a link unless ``follow``."""
    descriptor = os.open(name, _FOLDER if follow else _FOLDER | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(name: str, dir_fd: int | None = None) -> int:
    """A regular file's descriptor; a pipe or a device is refused, not waited for. Raises OSError.

    Reading must not count as use, so the time of access is kept if the system can do so.
    """
    # The look before the open keeps devices unopened: the open of some does something.
    if not stat.S_ISREG(os.stat(name, dir_fd=dir_fd).st_mode):
        raise OSError(0, "not a regular file")
    try:
        descriptor = os.open(name, _FILE | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError:
        descriptor = os.open(name, _FILE, dir_fd=dir_fd)  # somebody else's file
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a regular file")
    return descriptor


def read(name: str, limit: int, dir_fd: int | None = None, *, offset: int = 0) -> bytes:
    """Up to ``limit`` bytes of a regular file. Raises OSError."""
    descriptor = open_file(name, dir_fd)
    try:
        return read_at(descriptor, limit, offset)
    finally:
        os.close(descriptor)


def read_at(descriptor: int, limit: int, offset: int) -> bytes:
    """Up to ``limit`` bytes of an open file from ``offset`` on. Raises OSError."""
    pieces = []
    while limit > 0 and (piece := os.pread(descriptor, limit, offset)):
        pieces.append(piece)
        limit -= len(piece)
        offset += len(piece)
    return b"".join(pieces)


def mark(name: str, found: os.stat_result, marks: list[tuple[str, int]], now: float) -> None:
    """Remember a folder's or file's time of change, so that the next scan sees a change; 0 if it can't be relied on."""
    settled = now * 1e9 - found.st_mtime_ns > SETTLED_NS
    if len(marks) <= MAX_MARKS:
        marks.append((name, found.st_mtime_ns if settled else 0))


def usable_marks(marks: list[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """Marks worth keeping: none at all if one is unreliable or they are too many, so that the next scan reads."""
    if len(marks) > MAX_MARKS or any(not time for _, time in marks):
        return ()
    return tuple(marks)


def unchanged(previous: ModelFacts, dir_fd: int) -> bool:
    """Whether every folder and small file that was marked still has its time of change."""
    try:
        return bool(previous.marks) and all(
            os.stat(name, dir_fd=dir_fd).st_mtime_ns == time for name, time in previous.marks
        )
    except OSError:
        return False


def measure_partial(name: str, path: str, dir_fd: int) -> Unfinished | None:
    """A partial download as it stands now, by blocks: its file is often made at full size before it is filled."""
    try:
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except OSError:
        return None
    return Unfinished(path, found.st_blocks * BLOCK_BYTES, found.st_mtime)
