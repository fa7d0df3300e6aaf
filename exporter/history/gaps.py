"""The gaps between the tokens of one probe, as a picture of it needs them. Pure."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import starmap
from typing import Final

MOST_GAPS: Final = 128
"""Columns of a picture; of more gaps neighbours are one, and the longest of them stands."""
_GAP = struct.Struct("<fI")


@dataclass(frozen=True, slots=True)
class Gaps:
    """(seconds per token, tokens) of each gap, in the order in which they came.

    Packed, for the same reason as the history: a thousand targets each keep some.
    """

    packed: bytes = b""

    def __len__(self) -> int:
        return len(self.packed) // _GAP.size

    def __iter__(self) -> Iterator[tuple[float, int]]:
        return iter(_GAP.iter_unpack(self.packed))


NO_GAPS: Final = Gaps()


def gaps_of(gaps: Iterable[tuple[float, int]]) -> Gaps:
    """The gaps of a probe; what can't have been measured is left out."""
    kept = [(seconds, tokens) for seconds, tokens in gaps if 0 <= seconds < 1e6 and 0 < tokens < 1 << 32]
    if (together := -(-len(kept) // MOST_GAPS)) > 1:
        parts = [kept[begin : begin + together] for begin in range(0, len(kept), together)]
        kept = [(max(part)[0], sum(tokens for _, tokens in part)) for part in parts]
    return Gaps(b"".join(starmap(_GAP.pack, kept)))
