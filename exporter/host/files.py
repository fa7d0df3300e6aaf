"""Small reads from folders that belong to others: bounded, never blocking, regular files only.

A file that isn't there is normal and gives ``None``. Anything else that is wrong (no permission, a folder, a FIFO, too
large) gives ``None`` too, and one line in ``problems`` that names the file and the reason.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

SMALL: Final = 64 * 1024
"""Bytes. No file of sysfs or of a ROCm installation that is read here is larger."""


def read_bytes(path: Path, limit: int = SMALL) -> bytes:
    """Read a regular file of at most ``limit`` bytes; anything else is an ``OSError``."""
    content = read_start(path, limit + 1)
    if len(content) > limit:
        raise OSError(None, f"larger than the {limit} bytes expected of it")
    return content


def read_start(path: Path, limit: int) -> bytes:
    """Read the first ``limit`` bytes of a regular file; anything else is an ``OSError``."""
    # The look before the open keeps devices unopened, O_NONBLOCK keeps a FIFO that came in between from blocking.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(None, "not a regular file")
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(None, "not a regular file")
        content = bytearray()
        while len(content) < limit and (piece := os.read(handle, limit - len(content))):
            content += piece
    finally:
        os.close(handle)
    return bytes(content)


def read_text(path: Path, problems: list[str], limit: int = SMALL) -> str | None:
    """Read a text file without the white space around it; bytes that are no UTF-8 are replaced."""
    try:
        return read_bytes(path, limit).decode("utf-8", "replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        problems.append(describe(path, error))
        return None


def read_number(path: Path) -> int | None:
    """Read a decimal integer as sysfs gives it; ``None`` for whatever else is there or isn't."""
    with suppress(OSError, ValueError):
        return int(read_bytes(path))
    return None


def list_names(folder: Path, problems: list[str]) -> list[str]:
    """List the names in a folder, sorted; none where it isn't there."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - only the names are needed
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problems.append(describe(folder, error))
        return []


def describe(path: Path, error: OSError) -> str:
    """Say in one line what is wrong with which file."""
    return f"{path}: {error.strerror or error}"
