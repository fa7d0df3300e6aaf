"""Hashing what is named by its hash."""

import os
from pathlib import Path

from exporter.cache.facts import CacheFolder
from exporter.cache.verify import Checked, find_blobs, owner_of, verify
from tests.cache.build import SMALL_GGUF, Hub, ollama


def checked(kind: str, path: Path) -> list[Checked]:
    """Every blob of a cache, verified."""
    return [verify(blob) for blob in find_blobs(CacheFolder("it", kind, str(path)))]


def damage(path: Path) -> None:
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_hub(tmp_path: Path) -> None:
    """Large files by SHA-256 and small ones by git's hash; one changed bit is found, and in which model."""
    hub = Hub(tmp_path / "hub")
    folder = hub.repository("org/m", {"model.gguf": SMALL_GGUF, "config.json": b"{}"})
    hub.repository("org/n", {"config.json": b"{ }"})
    (folder / "blobs" / "not-a-hash").write_text("x")
    assert [each.problem for each in checked("huggingface", tmp_path)] == [None, None, None]
    assert {each.blob.algorithm for each in checked("huggingface", tmp_path)} == {"sha256", "git"}
    for blob in (folder / "blobs").glob("[0-9a-f]*"):
        damage(blob)
    bad = [each for each in checked("huggingface", tmp_path) if each.corrupt]
    assert [owner_of(each.blob) for each in bad] == ["org/m", "org/m"]
    assert all(each.problem and "another hash" in each.problem for each in bad)


def test_layers_of_ollama(tmp_path: Path) -> None:
    """A layer is named by its SHA-256; a partial one is no layer."""
    ollama(tmp_path, "m:1", {"model": SMALL_GGUF, "config": b"{}"})
    (tmp_path / "blobs" / f"sha256-{'a' * 64}-partial").write_bytes(b"part")
    assert [each.problem for each in checked("ollama", tmp_path)] == [None, None]
    damage(max((tmp_path / "blobs").iterdir(), key=lambda path: path.stat().st_size))
    assert sum(each.corrupt for each in checked("ollama", tmp_path)) == 1


def test_progress_and_use(tmp_path: Path) -> None:
    """Progress adds up to the bytes, and looking at a file is not using it."""
    folder = Hub(tmp_path).repository("org/m", {"model.gguf": SMALL_GGUF})
    (path,) = (folder / "blobs").iterdir()
    os.utime(path, (1_000_000, 2_000_000))
    (blob,) = find_blobs(CacheFolder("it", "huggingface", str(tmp_path)))
    read: list[int] = []
    assert verify(blob, read.append).problem is None
    assert sum(read) == blob.bytes == len(SMALL_GGUF)
    assert path.stat().st_atime == 1_000_000


def test_one_that_is_gone(tmp_path: Path) -> None:
    """A file that can't be read is named, and isn't called corrupt."""
    folder = Hub(tmp_path).repository("org/m", {"model.gguf": SMALL_GGUF})
    (blob,) = find_blobs(CacheFolder("it", "huggingface", str(tmp_path)))
    next((folder / "blobs").iterdir()).unlink()
    assert verify(blob) == Checked(blob, "can't be read: No such file or directory")


def test_other_kinds_have_no_hashes(tmp_path: Path) -> None:
    """Names of plain files say nothing of their content."""
    (tmp_path / "m.gguf").write_bytes(SMALL_GGUF)
    assert find_blobs(CacheFolder("it", "files", str(tmp_path))) == ()
