"""Words that belong to one request of ours, and how they are recognised when they come back in another answer.

A marker is a made-up name such as ``Tavoribedak``: five syllables and a rare ending. There are five thousand million, so
neither a word nor a name that a model invents is one. A prompt holds one at its beginning and in its request, so that an answer
about it holds it too. Common words are no evidence: a healthy answer may hold any of them. Only hashes are kept, of the last
``REMEMBERED`` words. Pure: ``Markers`` is a value, and its owner replaces it.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

REMEMBERED: Final = 512
"""Words that are kept for each server: those of some hundreds of requests, which is hours."""

_CONSONANTS: Final = "bdfgklmnprstvz"
_VOWELS: Final = "aeiou"
_ENDINGS: Final = "kxz"
_SYLLABLES: Final = 5
_MARKER: Final = re.compile(
    rf"(?<![^\W_])(?:[{_CONSONANTS}][{_VOWELS}]){{{_SYLLABLES}}}[{_ENDINGS}](?![^\W_])", re.IGNORECASE
)
# Of an answer, so much is looked through.
_JUDGED_CHARACTERS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Markers:
    """Hashes of the words of earlier requests to one server, the oldest first."""

    hashes: tuple[int, ...] = ()


def marker_of(seed: int) -> str:
    """The marker of a request: the same for the same seed."""
    draw = random.Random(f"marker {seed}")
    name = "".join(draw.choice(_CONSONANTS) + draw.choice(_VOWELS) for _ in range(_SYLLABLES))
    return (name + draw.choice(_ENDINGS)).capitalize()


def markers_in(text: str) -> tuple[str, ...]:
    """The words in a prompt that look like markers: those are its own."""
    return tuple(_MARKER.findall(text[:_JUDGED_CHARACTERS]))


def remember(known: Markers, words: Iterable[str]) -> Markers:
    """The markers with these words besides, the latest ``REMEMBERED`` of them. To be called before the request is sent."""
    return Markers((*known.hashes, *map(_hash, words))[-REMEMBERED:])


def is_known(known: Markers, word: str) -> bool:
    """Whether an earlier request had this word."""
    return _hash(word) in known.hashes


def foreign_markers(text: str, known: Markers, own: Iterable[str] = ()) -> tuple[str, ...]:
    """The markers of other requests that an answer holds, each once; ``own`` are those of the request that it answers."""
    found = {each.casefold() for each in _MARKER.findall(text[:_JUDGED_CHARACTERS])} - {each.casefold() for each in own}
    return tuple(sorted(each for each in found if is_known(known, each)))


def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.casefold().encode("utf-8", "replace"), digest_size=8).digest())
