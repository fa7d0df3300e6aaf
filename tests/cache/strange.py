"""Files and links that no program leaves in a cache, by name: tables of attempts, shared by the tests. All made up."""

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.cache.build import gguf

U32, U8, STRING, ARRAY, U64, BOOL = 4, 0, 8, 9, 10, 7


def with_header(header: str | bytes) -> bytes:
    """A safetensors file with this text for a header, and no tensors."""
    raw = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(raw)) + raw


def with_offsets(*offsets: str) -> bytes:
    """A safetensors file whose tensors lie at these offsets, written as given."""
    tensors = ", ".join(f'"t{n}": {{"data_offsets": {each}}}' for n, each in enumerate(offsets))
    return with_header(f"{{{tensors}}}")


SAFETENSORS: Mapping[str, bytes] = {
    "an exponent that is infinite": with_offsets("[0, 1e999]"),
    "infinity": with_offsets("[0, Infinity]"),
    "minus infinity": with_offsets("[-Infinity, 0]"),
    "not a number": with_offsets("[0, NaN]"),
    "4,300 digits": with_offsets(f"[0, {'9' * 4300}]"),
    "more digits than Python reads": with_offsets(f"[0, {'9' * 5000}]"),
    "an end of 2^63": with_offsets(f"[0, {1 << 63}]"),
    "negative": with_offsets("[-8, 0]"),
    "an end before its begin": with_offsets("[8, 0]"),
    "overlapping": with_offsets("[0, 8]", "[4, 12]"),
    "the same range twice": with_offsets("[0, 8]", "[0, 8]"),
    "one number": with_offsets("[0]"),
    "three numbers": with_offsets("[0, 1, 2]"),
    "texts": with_offsets('["0", "8"]'),
    "truths": with_offsets("[false, true]"),
    "fractions": with_offsets("[0.0, 8.0]"),
    "nothing": with_offsets("null"),
    "no offsets": with_header('{"t": {}}'),
    "a list": with_header("[]"),
    "deep": with_header("[" * 100_000),
    "deep within an object": with_header('{"a":' * 50_000),
    "two million values": with_header('{"a": [' + "[]," * 2_000_000 + "0]}"),
    "no text": with_header(b"\xff" * 40),
    "a length of 2^63": struct.pack("<Q", 1 << 63),
}


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _header(tensors: int, *pairs: bytes, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(pairs)) + b"".join(pairs)


def _list(key: bytes, inner: int, count: int, content: bytes = b"") -> bytes:
    return _text(key) + struct.pack("<IIQ", ARRAY, inner, count) + content


def _tensor(name: bytes, dimensions: tuple[int, ...], kind: int, offset: int) -> bytes:
    return _text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)


def lists_of_heads(pairs: int) -> bytes:
    """A header of so many lists, each as long as the longest that is used, and each by a key that is used."""
    content = b"\1" * 4096
    return _header(0, *(_list(b"x%d.attention.head_count_kv" % n, U8, 4096, content) for n in range(pairs)))


GGUF: Mapping[str, Callable[[], bytes]] = {
    "9,999 lists in 41 MB": lambda: lists_of_heads(9999),
    "a list of 2^63": lambda: _header(0, _list(b"a.block_count", U8, 1 << 63)),
    "a list of texts that has no end": lambda: _header(0, _list(b"t", STRING, 1 << 63, bytes(8 * 1000))),
    "five million empty texts": lambda: _header(0, _list(b"t", STRING, 5_000_000, bytes(8 * 5_000_000))),
    "a text longer than the file": lambda: _header(0, _text(b"k") + struct.pack("<IQ", STRING, 1 << 62)),
    "a key longer than any": lambda: _header(0, _text(b"k" * 70_000) + struct.pack("<II", U32, 1)),
    "a tensor's name longer than any": lambda: _header(1) + _tensor(b"n" * 600, (32,), 0, 0),
    "lists within lists": lambda: _header(0, _list(b"k", ARRAY, 3)),
    "a type that is none": lambda: _header(0, _text(b"k") + struct.pack("<I", 99)),
    "a tensor of 2^512 elements": lambda: _header(1) + _tensor(b"t", (2**64 - 1,) * 8, 0, 0),
    "a tensor at 2^63": lambda: _header(1) + _tensor(b"t", (32,), 0, 1 << 63),
    "nine dimensions": lambda: _header(1) + _tensor(b"t", (1,) * 9, 0, 0),
    "2^63 tensors": lambda: b"GGUF" + struct.pack("<IQQ", 3, 1 << 63, 0),
    "2^63 pairs": lambda: b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 63),
    "data that begin at 2^62": lambda: _header(0, _text(b"general.alignment") + struct.pack("<IQ", U64, 1 << 62)),
    "version 9": lambda: _header(0, version=9),
    "nothing after its name": lambda: b"GGUF",
}

LAYERS_WITHOUT_END = gguf(
    {
        "general.architecture": "x",
        "x.block_count": 2**32 - 1,
        "x.attention.head_count": 2**32 - 1,
        "x.attention.key_length": 2**32 - 1,
        "x.full_attention_interval": 1,
    },
    {"token_embd.weight": ((32, 32), 8)},
)
"""A whole file whose layers would need a list of four thousand million numbers."""

MANIFESTS: Mapping[str, bytes] = {
    "a size of 4,000 digits": b'{"layers": [{"digest": "sha256:%s", "size": %s}]}' % (b"a" * 64, b"9" * 4000),
    "an infinite size": b'{"layers": [{"digest": "sha256:%s", "size": 1e999}]}' % (b"a" * 64),
    "a negative size": b'{"layers": [{"digest": "sha256:%s", "size": -1}]}' % (b"a" * 64),
    "a size that is a truth": b'{"layers": [{"digest": "sha256:%s", "size": true}]}' % (b"a" * 64),
    "a digest that is a path": b'{"layers": [{"digest": "sha256:../../../etc/passwd"}]}',
    "a digest that is a list": b'{"layers": [{"digest": []}]}',
    "layers that are an object": b'{"layers": {}}',
    "two thousand layers": json.dumps({"layers": [{"digest": "sha256:" + "a" * 64, "size": 1}] * 2000}).encode(),
    "2 MiB": b'{"layers": [], "x": "' + b"x" * (2 << 20) + b'"}',
    "deep": b"[" * 100_000,
    "no text": b"\xff\xfe\x00",
    "empty": b"",
}


def ring_of_links(folder: Path, links: int) -> None:
    """Links of which each leads to the next, and the last to the first."""
    for n in range(links):
        (folder / f"ring{n}").symlink_to(f"ring{(n + 1) % links}")


def ways_out(cache: Path) -> Iterator[tuple[str, str]]:
    """(name of a link, where it leads) for each that leads out of a cache to what is no cache."""
    yield from (
        (f"to{path.replace('/', '-')}", path) for path in ("/", "/proc", "/proc/self", "/sys", "/dev", "/etc", "/usr")
    )
    yield "to-above", os.fspath(cache.parent)
    yield "to-above-all", os.fspath(cache.parent.parent)
    yield "round", "/proc/self/root"
