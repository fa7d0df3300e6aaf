"""One model that a server runs, by its path, wherever it lies: a GGUF, the first of its shards, or a folder of files.

Only headers are read. A path may lie on a filesystem that hangs, and a server may name any file: a program that must not hang or
grow has it read in a process (``models``).
"""

import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from exporter.cache.facts import WeightFacts, printable
from exporter.cache.files import MAX_HEADERS, judge
from exporter.cache.links import LinkBounds
from exporter.cache.tree import ScanErrors, described, folder
from exporter.cache.weights import Header, WeightsError, read_gguf_header, weights_of_gguf

_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_MAX_FILES = 4096


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why nothing can be said of a model's weights, in words."""

    reason: str


def read_model(path: str, tick: Callable[[], None] | None = None) -> WeightFacts | Unreadable:
    """The weights of a model by the path with which its server was started. Never raises. ``tick`` runs once a file.

    A GGUF may have any name, as Ollama's blobs do; of one in shards any may be named, and all must be there.
    """
    tick = tick or (lambda: None)
    try:
        found = os.stat(path)
        if LinkBounds("/").is_of_kernel(found.st_dev):
            return Unreadable(f"{printable(path)}: is a file that the kernel provides")
        return _read_folder(path, tick) if stat.S_ISDIR(found.st_mode) else _read_gguf(path, tick)
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else path
        return Unreadable(f"{printable(name)}: {error.strerror or error}")
    except ValueError as error:  # WeightsError is one; a path with a zero in it another
        return Unreadable(f"{printable(path)}: {error}")
    except Exception as error:  # noqa: BLE001  # any bytes may be in these files; the other models must be read
        return Unreadable(f"{printable(path)}: can't be read: {described(error)}")


@dataclass(frozen=True, slots=True)
class ReadJob:
    """A model to be read in a process of its own."""

    path: str
    niceness: int = 0
    memory_bytes: int = 0
    workers: int = 1

    def run(self, share: int, now: float, tick: Callable[[], None]) -> WeightFacts | Unreadable:  # noqa: ARG002 - one process
        """Its weights."""
        return read_model(self.path, tick)


def _read_gguf(path: str, tick: Callable[[], None]) -> WeightFacts:
    shard = _SHARD.fullmatch(path)
    if shard is None:
        return weights_of_gguf([read_gguf_header(path)], os.stat(path).st_size)
    count = int(shard["count"])
    if not 0 < count <= MAX_HEADERS:
        raise WeightsError(f"belongs to a set of {count} shards; from 1 to {MAX_HEADERS} are possible")
    shards = [f"{shard['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    headers = _each(shards, tick)
    return weights_of_gguf(headers, sum(os.stat(each).st_size for each in shards))


def _each(shards: Iterable[str], tick: Callable[[], None]) -> Iterator[Header]:
    for shard in shards:
        tick()
        yield read_gguf_header(shard)


def _read_folder(path: str, tick: Callable[[], None]) -> WeightFacts:
    scan_errors = ScanErrors(time.time(), tick)
    with folder(path, follow=True) as here:
        files: dict[str, int | None] = {}
        with os.scandir(here) as entries:
            for entry in entries:
                if len(files) >= _MAX_FILES:
                    raise WeightsError(f"more than {_MAX_FILES} files")
                files[entry.name] = _size(entry)
        verdict = judge({name: size for name, size in files.items() if size != 0}, "", here, path, scan_errors)
    if verdict.weights is None:
        holds = f"{len(verdict.variants)} models" if verdict.variants else "no model's weights"
        raise WeightsError(next(iter([*verdict.missing, *scan_errors.problems]), f"holds {holds}"))
    if not verdict.complete:
        raise WeightsError(f"incomplete: {verdict.missing[0]}")
    return verdict.weights


def _size(entry: "os.DirEntry[str]") -> int | None:
    """A file's size, 0 for anything else, None for a link that leads nowhere."""
    try:
        found = entry.stat()
    except FileNotFoundError:
        return None
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
