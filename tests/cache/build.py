"""Caches as the programs that fill them leave them: the layouts, with small files. Everything here is made up."""

import hashlib
import json
import os
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from exporter.cache.facts import CacheFacts, CacheFolder, ModelFacts, combine
from exporter.cache.scan_share import ScanJob, ScanShare, scan_share

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "89abcdef0123456789abcdef0123456789abcdef"


def scan(kind: str, path: Path | str, previous: Iterable[ModelFacts] = (), *, name: str = "it") -> CacheFacts:
    """One scan in this process."""
    folder = CacheFolder(name, kind, str(path))
    answer = answer_of(kind, path, previous)
    assert answer.error is None, answer.error
    return combine(folder, list(answer.models), time.time())


def answer_of(kind: str, path: Path | str, previous: Iterable[ModelFacts] = ()) -> ScanShare:
    """What one worker finds, with the entries that it could not read."""
    return scan_share(ScanJob(CacheFolder("it", kind, str(path)), tuple(previous)), 0, time.time())


def settle(root: Path) -> None:
    """Make everything an hour old: what has just changed is read again in any case."""
    past = time.time() - 3600
    for folder, _, files in os.walk(root, topdown=False):
        for path in (*(Path(folder, file) for file in files), Path(folder)):
            os.utime(path, (past, past), follow_symlinks=False)


def model_named(facts: CacheFacts, name: str) -> ModelFacts:
    """The one model of that name."""
    (model,) = [model for model in facts.models if model.name == name]
    return model


class Hub:
    """A hub cache of Hugging Face at ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def repository(
        self,
        name: str,
        files: Mapping[str, bytes | int],
        *,
        commit: str = COMMIT,
        reference: str | None = "main",
        kind: str = "models",
    ) -> Path:
        """A revision of a repository; a number as content makes an empty file of that size."""
        folder = self.root / f"{kind}--{name.replace('/', '--')}"
        for below in ("blobs", "refs", f"snapshots/{commit}"):
            (folder / below).mkdir(parents=True, exist_ok=True)
        if reference is not None:
            (folder / "refs" / reference).parent.mkdir(parents=True, exist_ok=True)
            (folder / "refs" / reference).write_text(commit)
        for file, content in files.items():
            self.file(folder, f"snapshots/{commit}/{file}", content)
        return folder

    @staticmethod
    def file(folder: Path, link: str, content: bytes | int) -> Path:
        """A blob and the link to it; returns the blob."""
        if isinstance(content, int):
            blob = folder / "blobs" / hashlib.sha256(f"{link}{content}".encode()).hexdigest()
            with blob.open("wb") as sparse:
                sparse.truncate(content)
        else:
            name = hashlib.sha256(content).hexdigest()
            if len(content) < 1000:
                name = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            blob = folder / "blobs" / name
            blob.write_bytes(content)
        where = folder / link
        where.parent.mkdir(parents=True, exist_ok=True)
        where.symlink_to(os.path.relpath(blob, where.parent))
        return blob


def safetensors(tensors: Mapping[str, int]) -> bytes:
    """A safetensors file with tensors of so many bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, size in tensors.items():
        header[name] = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(at)


def index(weight_map: Mapping[str, str], total: int) -> bytes:
    """A model.safetensors.index.json."""
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}).encode()


def _gguf_string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _gguf_value(value: object) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _gguf_string(value)
        case [str(), *_]:
            words = b"".join(_gguf_string(str(word)) for word in value)
            return struct.pack("<IIQ", 9, 8, len(value)) + words
        case [*numbers]:
            kind, form = (7, "?") if isinstance(numbers[0], bool) else (4, "I")
            return struct.pack(f"<IIQ{len(numbers)}{form}", 9, kind, len(numbers), *numbers)
    raise TypeError(value)


def gguf(metadata: Mapping[str, object], tensors: Mapping[str, tuple[tuple[int, ...], int]]) -> bytes:
    """A GGUF file, version 3; tensors are (dimensions, ggml type): 0 is F32, 1 is F16, 8 is Q8_0, 30 is BF16, 39 is MXFP4."""
    header, size = gguf_header(metadata, tensors)
    return header + bytes(size)


def sparse_gguf(path: Path, metadata: Mapping[str, object], tensors: Mapping[str, tuple[tuple[int, ...], int]]) -> Path:
    """A GGUF file of any size: its header, and room for its tensors that takes none on the disk."""
    header, size = gguf_header(metadata, tensors)
    path.write_bytes(header)
    os.truncate(path, len(header) + size)
    return path


def gguf_header(
    metadata: Mapping[str, object], tensors: Mapping[str, tuple[tuple[int, ...], int]]
) -> tuple[bytes, int]:
    """The header of a GGUF file, and the bytes of the tensors that follow it. An unknown type takes a byte an element."""
    block_bytes = {0: (4, 1), 1: (2, 1), 8: (34, 32), 12: (144, 256), 14: (210, 256), 30: (2, 1), 39: (17, 32)}
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        out += _gguf_string(key) + _gguf_value(value)
    at = 0
    for name, (dimensions, kind) in tensors.items():
        out += _gguf_string(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, at)
        size, elements = block_bytes.get(kind, (1, 1))
        count = 1
        for dimension in dimensions:
            count *= dimension
        at += -(-(count // elements * size) // 32) * 32
    out += bytes(-len(out) % 32)
    return out, at


SMALL_GGUF = gguf(
    {
        "general.architecture": "qwen2",
        "general.file_type": 7,
        "qwen2.block_count": 2,
        "qwen2.embedding_length": 64,
        "qwen2.attention.head_count": 4,
        "qwen2.attention.head_count_kv": 2,
        "tokenizer.ggml.tokens": ["a", "b", "c"],
    },
    {"token_embd.weight": ((64, 32), 8), "output.weight": ((64, 32), 8), "blk.0.attn_q.weight": ((64, 64), 8)},
)
"""Two layers, two KV heads of 16, an untied embedding; tensors of 2176, 2176 and 4352 bytes."""


def ollama(root: Path, tag: str, layers: Mapping[str, bytes], *, host: str = "registry.ollama.ai/library") -> Path:
    """A tag ``model:tag`` with its layers by media type; returns the manifest."""
    model, _, version = tag.partition(":")
    manifest = root / "manifests" / host / model / version
    manifest.parent.mkdir(parents=True, exist_ok=True)
    (root / "blobs").mkdir(exist_ok=True)
    entries = []
    for kind, content in layers.items():
        digest = hashlib.sha256(content).hexdigest()
        (root / "blobs" / f"sha256-{digest}").write_bytes(content)
        media_type = f"application/vnd.ollama.image.{kind}"
        entries.append({"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)})
    document = {"schemaVersion": 2, "config": entries[-1], "layers": entries[:-1]}
    manifest.write_text(json.dumps(document))
    return manifest
