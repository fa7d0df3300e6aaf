"""Whether files are what their names say: blobs that are named by a hash of their content."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from exporter.cache.facts import CacheFolder, printable
from exporter.cache.huggingface import type_and_name
from exporter.cache.layouts import LAYOUTS
from exporter.cache.tree import folder, open_file

_PIECE: Final = 4 << 20
_HUB_BLOB: Final = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_OLLAMA_BLOB: Final = re.compile(r"sha256[-:]([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Blob:
    """A file named by its hash: ``sha256`` of large files, ``git`` (SHA-1 with git's header) of small ones."""

    path: str
    algorithm: Literal["sha256", "git"]
    digest: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Checked:
    """One blob and what is wrong with it: ``None`` if nothing is. ``corrupt`` is False if it can't be read."""

    blob: Blob
    problem: str | None = None
    corrupt: bool = False


def find_blobs(cache_folder: CacheFolder) -> tuple[Blob, ...]:
    """The files of a cache that are named by a hash of their content, in the order of their paths.

    Layouts without such files have none. Raises OSError if the cache can't be read.
    """
    layout = LAYOUTS[cache_folder.kind]
    if layout.blobs == "none":
        return ()
    path = layout.folder_of(cache_folder.path)
    if layout.blobs == "store":
        with folder(path, follow=True) as store:
            return tuple(sorted(_blobs(f"{path}/blobs", store, _OLLAMA_BLOB), key=lambda blob: blob.path))
    found: list[Blob] = []
    with folder(path, follow=True) as hub, os.scandir(hub) as entries:
        for entry in entries:
            if type_and_name.fullmatch(entry.name) and entry.is_dir():
                with folder(entry.name, hub, follow=True) as repo:
                    found += _blobs(f"{path}/{entry.name}/blobs", repo, _HUB_BLOB)
    return tuple(sorted(found, key=lambda blob: blob.path))


def _blobs(path: str, above: int, name: re.Pattern[str]) -> Iterator[Blob]:
    try:
        with folder("blobs", above, follow=True) as here, os.scandir(here) as entries:
            for entry in entries:
                if (named := name.fullmatch(entry.name)) and entry.is_file():
                    digest = named[named.lastindex or 0]
                    size = entry.stat().st_size
                    yield Blob(f"{path}/{entry.name}", "sha256" if len(digest) == 64 else "git", digest, size)
    except FileNotFoundError:
        return


def verify(blob: Blob, progress: Callable[[int], object] = lambda _: None) -> Checked:
    """Read and hash one blob. ``progress`` gets the number of bytes read since its last call.

    What was read is dropped from the page cache: hashing a terabyte must not push out the model that is being served.
    """
    try:
        descriptor = open_file(blob.path)
    except OSError as error:
        return Checked(blob, f"can't be read: {error.strerror or error}")
    try:
        hashed = hashlib.sha256() if blob.algorithm == "sha256" else _git_hash(os.fstat(descriptor).st_size)
        offset = 0
        while piece := os.pread(descriptor, _PIECE, offset):
            hashed.update(piece)
            os.posix_fadvise(descriptor, offset, len(piece), os.POSIX_FADV_DONTNEED)
            offset += len(piece)
            progress(len(piece))
    except OSError as error:
        return Checked(blob, f"can't be read: {error.strerror or error}", corrupt=True)
    finally:
        os.close(descriptor)
    if hashed.hexdigest() == blob.digest:
        return Checked(blob)
    return Checked(blob, f"its content has another hash: {hashed.hexdigest()}", corrupt=True)


def _git_hash(size: int) -> "hashlib._Hash":
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def owner_of(blob: Blob) -> str:
    """The model that a blob of a hub lies in, by its folder; for Ollama, whose layers are shared, its file."""
    parts = blob.path.split("/")
    named = type_and_name.fullmatch(parts[-3]) if len(parts) > 2 else None
    return printable(named[2].replace("--", "/")) if named else parts[-1]
