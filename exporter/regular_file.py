"""Reads of files that others may have replaced: bounded, never blocking, regular files only.

A FIFO or a device in the place of a file would block the thread that opens it without end.
"""

import os
import stat
from pathlib import Path
from typing import Final

_PIECE: Final = 64 * 1024
"""Bytes of one read: a file of the kernel gives a page at a time, and the room for each read is taken anew."""


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes; anything else is an ``OSError``."""
    content = read_start(path, limit + 1)
    if len(content) > limit:
        raise OSError(None, f"larger than the {limit} bytes expected of it")
    return content


def read_start(path: Path, limit: int) -> bytes:
    """Read the first ``limit`` bytes of a regular file; anything else is an ``OSError``."""
    # The look before the open keeps devices unopened, O_NONBLOCK keeps a FIFO that came in between from blocking.
    require_regular(path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _require_regular(os.fstat(handle))
        content = bytearray()
        while len(content) < limit and (piece := os.read(handle, min(limit - len(content), _PIECE))):
            content += piece
    finally:
        os.close(handle)
    return bytes(content)


def require_regular(path: Path) -> None:
    """Raise an ``OSError`` if there is no regular file: for libraries that open a file by its path."""
    _require_regular(path.stat())


def _require_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(None, "is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(None, "not a regular file")
