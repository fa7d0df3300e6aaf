"""Small reads from folders that belong to others: bounded, never blocking, regular files only.

A file that isn't there is normal and gives ``None``. Anything else that is wrong (no permission, a folder, a FIFO, too
large) gives ``None`` too, and one line in ``problems`` that names the file and the reason.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from exporter import regular_file

SMALL: Final = 64 * 1024
"""Bytes. No file of sysfs or of a ROCm installation that is read here is larger."""


def read_bytes(path: Path, limit: int = SMALL) -> bytes:
    """Read a regular file of at most ``limit`` bytes; anything else is an ``OSError``."""
    return regular_file.read_bytes(path, limit)


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
    """List the names in a folder, sorted; none if it isn't there."""
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
