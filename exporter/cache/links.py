"""Which links of a cache are followed: none in a loop, none to files that the kernel provides, none to the system's folders."""

import os
from collections.abc import Iterable
from functools import cached_property

from exporter.cache.mounts import kernel_devices, read_mounts

FileIdentity = tuple[int, int]
"""Device and inode."""

# A link to one of these is a mistake; one to a folder in them (a disk's, another user's models) may be meant.
_SYSTEM_FOLDERS = "/ /bin /boot /dev /etc /home /lib /lib64 /proc /root /run /sbin /sys /tmp /usr /var /var/lib".split()
_MAX_CHAIN = 10_000
_MAX_KNOWN = 100_000


class LinkBounds:
    """The links that a scan doesn't follow. The mount table is read at the first link."""

    def __init__(self, root: str) -> None:
        self._root = root

    def refusal(self, found: os.stat_result) -> str | None:
        """Why a folder to which a link leads is not entered; None if it is."""
        if found.st_dev in self._kernel:
            return "is a link to files that the kernel provides"
        return (
            "is a link to a folder that holds the system or this cache"
            if (found.st_dev, found.st_ino) in self._system
            else None
        )

    def is_of_kernel(self, device: int) -> bool:
        """Whether files of this device are made up by the kernel, as those in /proc are."""
        return device in self._kernel

    @cached_property
    def _kernel(self) -> frozenset[int]:
        return kernel_devices(read_mounts())

    @cached_property
    def _system(self) -> frozenset[FileIdentity]:
        """The system's own folders, and those that the cache lies in."""
        root = os.path.realpath(self._root)
        above = [root[:end] or "/" for end, letter in enumerate(root) if letter == "/"]
        return frozenset(_identities([*_SYSTEM_FOLDERS, *above]))


def _identities(paths: Iterable[str]) -> Iterable[FileIdentity]:
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            continue
        yield found.st_dev, found.st_ino


class LinkLoops:
    """Which links belong to one loop, so that a loop is reported once, however many links are in it."""

    def __init__(self) -> None:
        self._loop_of: dict[str, str] = {}

    def is_new(self, path: str) -> bool:
        """Whether a path that leads round in a loop is the first of its loop."""
        chain: dict[str, None] = {}
        at = path
        while at not in self._loop_of and at not in chain and len(chain) < _MAX_CHAIN:
            chain[at] = None
            try:
                at = os.path.normpath(os.path.join(os.path.dirname(at), os.readlink(at)))
            except (OSError, ValueError):
                return True  # no loop of links alone
        is_new = at not in self._loop_of
        if len(self._loop_of) < _MAX_KNOWN:
            self._loop_of.update(dict.fromkeys(chain, at))
        return is_new
