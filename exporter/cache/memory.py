"""How much memory scans may take: a part of what this process and all others of its control group may have together."""

import os
from collections.abc import Iterator
from typing import Final

LEAST_BYTES: Final = 96 << 20
"""Of one scanning process: the largest published mixtures of experts take 70 MiB of it."""
MOST_BYTES: Final = 384 << 20
_SHARE: Final = 2


def memory_for_scans(cgroups: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> int:
    """Bytes of address space for all processes of a scan together: half of the control group's limit, within bounds."""
    return max(LEAST_BYTES, min((MOST_BYTES, *(limit // _SHARE for limit in _limits(cgroups, own)))))


def _limits(cgroups: str, own: str) -> Iterator[int]:
    """The limits of the group that this process is in, and of all above it."""
    for line in _text(own).splitlines():
        _, controllers, group = ([*line.split(":", 2), "", ""])[:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        base = f"{cgroups}/memory" if controllers else cgroups
        names = ("memory.limit_in_bytes",) if controllers else ("memory.max", "memory.high")
        parts = [part for part in group.split("/") if part not in {"", ".", ".."}]
        for depth in range(len(parts) + 1):
            for name in names:
                limit = _text(os.path.join(base, *parts[:depth], name)).strip()
                if limit.isdecimal() and len(limit) < 20:
                    yield int(limit)


def _text(path: str) -> str:
    """The start of a file; empty if there is none."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""
