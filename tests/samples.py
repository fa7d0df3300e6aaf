"""An exposition as samples, for tests that read one many times a second while they wait for what it will say.

The client library's parser takes ten times as long. It stays the reference, here and for the format.
"""

import functools
import re
from typing import Final

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
_LINE: Final = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)", re.ASCII)
_LABEL: Final = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\[\\"n])*)"(?:,|$)', re.ASCII)
_ESCAPED: Final = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


def samples_of(text: str) -> Samples:
    """All samples, by name and labels; ValueError for a line that is none, or a label set that is there twice."""
    found: Samples = {}
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    for line in lines:
        if (match := _LINE.fullmatch(line)) is None:
            raise ValueError(f"not a sample: {line!r}")
        found[match[1], _labels(match[2] or "")] = float(match[3])
    if len(found) < len(lines):
        raise ValueError("a label set is there twice")
    return found


@functools.lru_cache(maxsize=10_000)
def _labels(text: str) -> frozenset[tuple[str, str]]:
    found, end = set[tuple[str, str]](), 0
    while end < len(text):
        if (match := _LABEL.match(text, end)) is None:
            raise ValueError(f"not a label: {text[end:]!r}")
        found.add((match[1], re.sub(r"\\.", lambda escape: _ESCAPED[escape[0]], match[2])))
        end = match.end()
    return frozenset(found)
