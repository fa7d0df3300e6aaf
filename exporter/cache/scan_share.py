"""One worker's share of a scan, in whatever process: job → answer."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from exporter.cache.facts import CacheFolder, FilesystemFacts, ModelFacts
from exporter.cache.layouts import LAYOUTS
from exporter.cache.tree import ScanErrors

MOUNTS = "/proc/self/mountinfo"


@dataclass(frozen=True, slots=True)
class ScanJob:
    """What to scan, in how many processes. ``previous``: the models of the last scan."""

    cache_folder: CacheFolder
    previous: tuple[ModelFacts, ...] = ()
    workers: int = 1
    niceness: int = 0


@dataclass(frozen=True, slots=True)
class ScanShare:
    """A share of a scan. With ``error`` the cache could not be read and the rest says nothing."""

    models: tuple[ModelFacts, ...] = ()
    unreadable_entries: int = 0
    problems: tuple[str, ...] = ()
    error: str | None = None
    filesystem: FilesystemFacts | None = None


def scan_share(job: ScanJob, share: int, now: float, tick: Callable[[], None] | None = None) -> ScanShare:
    """Scan the share of process ``share``. Errors within the cache are counted; one that concerns it whole is ``error``."""
    scan_errors = ScanErrors(now, tick)
    previous = {model.path: model for model in job.previous}
    path = job.cache_folder.path
    try:
        models = tuple(LAYOUTS[job.cache_folder.kind].scan(path, previous, scan_errors, (share, job.workers)))
        filesystem = filesystem_of(path) if share == 0 else None
    except OSError as error:
        return ScanShare(error=f"{path}: {error.strerror or error}")
    return ScanShare(models, scan_errors.unreadable, tuple(scan_errors.problems), None, filesystem)


def filesystem_of(path: str) -> FilesystemFacts | None:
    """Free bytes (for whom isn't root) and size of the filesystem that holds ``path``; None where nothing says so.

    The mount is found by the path, not by its device: files of a btrfs subvolume have another device than their mount.
    """
    size = os.statvfs(path)
    mount = mount_of(os.path.realpath(path), read_mounts())
    if mount is None or not size.f_blocks:
        return None
    mountpoint, device = mount
    return FilesystemFacts(mountpoint, device, size.f_bavail * size.f_frsize, size.f_blocks * size.f_frsize)


def read_mounts() -> bytes:
    """The mount table of this process; empty where there is none."""
    try:
        with open(MOUNTS, "rb") as table:
            return table.read()
    except OSError:
        return b""


def mount_of(path: str, mounts: bytes) -> tuple[str, str] | None:
    """(mount point, device) of the filesystem that a real path lies in, by /proc/self/mountinfo.

    A later mount hides an earlier one at the same place. One device mounted several times goes by its shortest mount
    point: a container sees the same disk under each of the files that are mounted into it.
    """
    best: tuple[str, str] | None = None
    shortest: dict[str, str] = {}
    for line in mounts.splitlines():
        fields = line.split(b" ")
        if len(fields) < 6:
            continue
        point = os.fsdecode(fields[4].replace(b"\\040", b" ").replace(b"\\011", b"\t").replace(b"\\012", b"\n"))
        point, device = point.replace("\\134", "\\"), os.fsdecode(fields[2])
        shortest[device] = min(shortest.get(device, point), point, key=lambda known: (len(known), known))
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best[0])):
            best = point, device
    return None if best is None else (shortest[best[1]], best[1])
