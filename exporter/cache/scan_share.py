"""One worker's share of a scan, in whatever process: job → answer."""

from collections.abc import Callable
from dataclasses import dataclass

from exporter.cache.facts import CacheFolder, FilesystemFacts, ModelFacts
from exporter.cache.layouts import LAYOUTS
from exporter.cache.links import LinkBounds
from exporter.cache.mounts import filesystem_of
from exporter.cache.tree import ScanErrors


@dataclass(frozen=True, slots=True)
class ScanJob:
    """What to scan, in how many processes. ``previous``: the models of the last scan.

    ``memory_bytes``: what each process may take, its program included; 0 for no bound.
    """

    cache_folder: CacheFolder
    previous: tuple[ModelFacts, ...] = ()
    workers: int = 1
    niceness: int = 0
    memory_bytes: int = 0

    def run(self, share: int, now: float, tick: Callable[[], None]) -> "ScanShare":
        """The share of one of its processes."""
        return scan_share(self, share, now, tick)


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
    path = job.cache_folder.path
    scan_errors = ScanErrors(now, tick, LinkBounds(path))
    previous = {model.path: model for model in job.previous}
    try:
        models = tuple(LAYOUTS[job.cache_folder.kind].scan(path, previous, scan_errors, (share, job.workers)))
        filesystem = filesystem_of(path) if share == 0 else None
    except OSError as error:
        return ScanShare(error=f"{path}: {error.strerror or error}")
    except MemoryError:
        return ScanShare(error=f"{path}: needs more than {job.memory_bytes >> 20} MiB of memory to be scanned")
    return ScanShare(models, scan_errors.unreadable, tuple(scan_errors.problems), None, filesystem)
