"""A body that is compressed though that was not asked for: read piece by piece, and within bounds."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from exporter.probe.failure import ProbeFailure

_WINDOWS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 47}
"""zlib's ``wbits``; 47 takes both forms that servers call deflate, but for the one without a header."""
_PIECE_BYTES: Final = 64 * 1024


def encoding_of(headers: Mapping[str, str]) -> str:
    """The content encoding of an answer; empty for none."""
    name = headers.get("content-encoding", "").strip().lower()
    return "" if name == "identity" else name


def is_readable(headers: Mapping[str, str]) -> bool:
    """Whether its body can be read: it has no encoding, or one that ``decoded`` knows."""
    name = encoding_of(headers)
    return not name or name in _WINDOWS


def decoded(pieces: Iterable[bytes], headers: Mapping[str, str], limit_bytes: int) -> Iterator[bytes]:
    """The pieces of a body without its encoding, each as soon as its bytes are there.

    Raises ProbeFailure: ``too_large`` if they become more than ``limit_bytes``, ``protocol`` if they are not so encoded.
    """
    name = encoding_of(headers)
    if not name:
        yield from pieces
        return
    decoder, left = zlib.decompressobj(_WINDOWS[name]), limit_bytes
    for piece in pieces:
        waiting = piece
        while waiting:
            try:
                plain = decoder.decompress(waiting, _PIECE_BYTES)
            except zlib.error as exc:
                raise ProbeFailure(
                    "protocol", f"the answer is declared as {name}, but can't be decoded: {exc}"
                ) from exc
            waiting = decoder.unconsumed_tail
            if decoder.eof:  # another member may follow, as in a file that was appended to
                waiting, decoder = decoder.unused_data, zlib.decompressobj(_WINDOWS[name])
            left -= len(plain)
            if left < 0:
                raise ProbeFailure("too_large", f"the answer unpacks to more than {limit_bytes} bytes")
            if plain:
                yield plain
