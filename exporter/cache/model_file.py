"""One model that a server runs, by its path, wherever it lies: a GGUF, the first of its shards, or a folder of files.

Only headers are read. A path may lie on a filesystem that hangs: a caller that must not hang runs this in a thread of its
own.
"""

import os
import re
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass

from exporter.cache.facts import WeightFacts, printable
from exporter.cache.files import MAX_HEADERS, judge
from exporter.cache.tree import ScanErrors, described, folder
from exporter.cache.weights import WeightsError, read_gguf_header, weigh_gguf

_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_MAX_FILES = 4096


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why nothing can be said of a model's weights, in words."""

    reason: str


def read_model(path: str) -> WeightFacts | Unreadable:
    """The weights of a model by the path with which its server was started. Never raises.

    A GGUF may bear any name, as Ollama's blobs do; of one in shards any may be named, and all must be there.
    """
    try:
        return _read_folder(path) if stat.S_ISDIR(os.stat(path).st_mode) else _read_gguf(path)
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else path
        return Unreadable(f"{printable(name)}: {error.strerror or error}")
    except ValueError as error:  # WeightsError is one; a path with a zero in it another
        return Unreadable(f"{printable(path)}: {error}")
    except Exception as error:  # noqa: BLE001  # any bytes may be in these files; the other models must be read
        return Unreadable(f"{printable(path)}: can't be judged: {described(error)}")


class Models:
    """Models by path, each read again only when its file or folder has changed. For one thread."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, ...], WeightFacts | Unreadable]] = {}

    @property
    def stamps(self) -> tuple[tuple[str, str], ...]:
        """Of each file that was read last, what tells it from another one under its name: its size and time, in words."""
        return tuple((path, stamp) for path in self._known if (stamp := _stamp(path)))

    def read(self, paths: Iterable[str]) -> tuple[tuple[str, WeightFacts | Unreadable], ...]:
        """The weights at these paths, in their order; what was read of others is forgotten."""
        known: dict[str, tuple[tuple[int, ...], WeightFacts | Unreadable]] = {}
        for path in dict.fromkeys(paths):
            mark = _mark(path)
            before = self._known.get(path)
            known[path] = before if before and mark and before[0] == mark else (mark, read_model(path))
        self._known = known
        return tuple((path, facts) for path, (_, facts) in known.items())


def _mark(path: str) -> tuple[int, ...]:
    """What changes when a file is replaced or written to; empty where there is none."""
    try:
        seen = os.stat(path)
    except (OSError, ValueError):
        return ()
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns


def _stamp(path: str) -> str:
    """Size and time of a file; empty for a folder, whose time says nothing of what it holds."""
    try:
        seen = os.stat(path)
    except (OSError, ValueError):
        return ""
    if not stat.S_ISREG(seen.st_mode):
        return ""
    try:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seen.st_mtime))
    except (OverflowError, ValueError, OSError):
        when = f"{seen.st_mtime:.0f}"  # beyond what a calendar goes to
    return f"{seen.st_size} bytes of {when}"


def _read_gguf(path: str) -> WeightFacts:
    shard = _SHARD.fullmatch(path)
    if shard is None:
        return weigh_gguf([read_gguf_header(path)], os.stat(path).st_size)
    count = int(shard["count"])
    if not 0 < count <= MAX_HEADERS:
        raise WeightsError(f"one of {count} shards")
    shards = [f"{shard['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    return weigh_gguf((read_gguf_header(each) for each in shards), sum(os.stat(each).st_size for each in shards))


def _read_folder(path: str) -> WeightFacts:
    scan_errors = ScanErrors(time.time())
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
