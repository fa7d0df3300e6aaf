"""The C library's memory, kept small.

glibc gives threads up to eight arenas for each core, and each keeps what it once held. So a few hundred threads that now and
then read a megabyte make a daemon grow for days though nothing leaks. Threads that take turns by the interpreter's lock gain
nothing by more than one; and what is large is mapped on its own, and so goes back at once.
"""

import ctypes
from contextlib import suppress
from typing import Final

# From malloc.h; musl has no arenas, and no mallopt.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
LARGE_BYTES: Final = 128 * 1024


def keep_small() -> bool:
    """Limit the arenas of this process, before its threads start. True if the C library supports it."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_ARENA_MAX, 1) and mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES))


def give_back() -> None:
    """Return to the system what is free in the heap: a start leaves half a megabyte or more in pieces."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
