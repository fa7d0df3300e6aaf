"""Keeping the key of a server out of what is published: a server, or a proxy before it, may repeat what it was sent.

What is asked and read stays as it is; the key is hidden in what leaves this package: messages, logs, names.

A key is found in upper and lower case, as JSON, HTML and URLs write it (also twice over), as base64, base32, numbers and
hexadecimal digits. It is found backwards, with anything between its letters and digits, and in part: from half of it on, at
least 8 characters.
"""

import base64
import html
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Final, TypeVar

from exporter.text import is_visible

R = TypeVar("R")

HIDDEN: Final = "…"
SHORTEST: Final = 4
"""Shorter keys are no secrets, and hiding them would make every other word unreadable."""
_SHORTEST_PART: Final = 8
_LONGEST_PART: Final = 24
"""This many characters of a long key are hidden wherever they stand, though they are less than its half."""
_SHORTEST_CODED: Final = 12
_SHORTEST_BARE: Final = 12
_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
"""What is left of a text without what may stand between the letters and digits of a key."""

_UNIT: Final = re.compile(
    r"&#x(?P<hex>[0-9a-f]{1,6});?|&#(?P<decimal>[0-9]{1,7});?|&(?P<name>[a-z0-9]{2,31});"
    r"|%u(?P<wide>[0-9a-f]{4})|%(?P<percent>[0-9a-f]{2})|\\u(?P<unicode>[0-9a-f]{4})|\\x(?P<byte>[0-9a-f]{2})|\\(?P<octal>[0-3][0-7]{2})|\\(?P<escaped>.)|(?P<plain>.)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Pieces:
    """All parts of one length of the forms of a key."""

    length: int
    parts: frozenset[str]


def hide(text: str, key: str) -> str:
    """A text without the key, whole or in part, however it is written."""
    if len(key) < SHORTEST:
        return text
    once = _Decoded.of(text)
    # A key that stands in the text coded is found there as it is, one of escaped characters in what they mean.
    seen = [once] if not once.coded else [_Decoded.plain(text), once, once.again()]
    # What can't be seen is taken out of a text before it is shown, which would put the parts of a key together again.
    seen = [decoded.without(lambda c: not is_visible(c)) for decoded in seen]
    spans = [span for decoded in seen for span in decoded.spans_of(_pieces_of(key))]
    spans += [
        span for decoded in seen for span in decoded.without(lambda c: c not in _BARE).spans_of(_bare_pieces_of(key))
    ]
    return _without(text, sorted(spans))


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A text with its escapes read and in lower case, and where in the text each of its characters begins and ends."""

    text: str
    begins: list[int]
    ends: list[int]
    coded: bool

    @classmethod
    def plain(cls, text: str) -> "_Decoded":
        places = list(range(len(text) + 1))
        return cls("".join(map(_lower, text)), places[:-1], places[1:], coded=False)

    @classmethod
    def of(cls, text: str) -> "_Decoded":
        if not any(each in text for each in "&%\\"):
            return cls.plain(text)
        units = list(_UNIT.finditer(text))
        return cls("".join(map(_meant, units)), [each.start() for each in units], [each.end() for each in units], True)

    def again(self) -> "_Decoded":
        """The same, with what the escapes had been escaped from read too."""
        inner = _Decoded.of(self.text)
        return _Decoded(
            inner.text, [self.begins[at] for at in inner.begins], [self.ends[at - 1] for at in inner.ends], coded=True
        )

    def without(self, is_left_out: Callable[[str], bool]) -> "_Decoded":
        """The same without some characters."""
        kept = [at for at, character in enumerate(self.text) if not is_left_out(character)]
        if len(kept) == len(self.text):
            return self
        return _Decoded(
            "".join(self.text[at] for at in kept),
            [self.begins[at] for at in kept],
            [self.ends[at] for at in kept],
            coded=self.coded,
        )

    def spans_of(self, pieces: tuple[_Pieces, ...]) -> Iterator[tuple[int, int]]:
        """Where in the text parts of a key stand."""
        for each in pieces:
            for at in range(len(self.text) - each.length + 1):
                if self.text[at : at + each.length] in each.parts:
                    yield self.begins[at], self.ends[at + each.length - 1]


def _meant(unit: re.Match[str]) -> str:
    """The character that an escape stands for, in lower case; what is none stands for its first character."""
    code = unit["hex"] or unit["wide"] or unit["percent"] or unit["unicode"] or unit["byte"]
    if unit["octal"]:
        return _lower(chr(int(unit["octal"], 8)))
    if code or unit["decimal"]:
        number = int(code, 16) if code else int(unit["decimal"])
        return _lower(chr(number)) if number < 0x110000 else "?"
    if unit["name"]:
        found = html.unescape(unit[0])
        return _lower(found) if len(found) == 1 else "&"
    return _lower(unit["escaped"] or unit["plain"])


def _lower(character: str) -> str:
    """In lower case, and letters of another width or style as the usual ones; always one character."""
    if not character.isascii():
        folded = unicodedata.normalize("NFKC", character)
        if not (len(folded) == 1 and folded.isascii()):
            return character
        character = folded
    return character.lower()


@lru_cache(maxsize=16)
def _pieces_of(key: str) -> tuple[_Pieces, ...]:
    """What is searched for a key: parts of it and of its coded forms. Of a path, which a name of a model may be, each name too."""
    least = min(max(len(key) // 2, _SHORTEST_PART), _LONGEST_PART)
    forms = [(key.lower(), least)]
    forms += [(part.lower(), len(part)) for part in key.split("/") if len(part) >= _SHORTEST_PART]
    if len(key) >= _SHORTEST_PART:
        forms += [(each.lower(), _SHORTEST_CODED) for each in _coded_forms_of(key)]
    found: defaultdict[int, set[str]] = defaultdict(set)
    for form, wanted in forms:
        length = min(wanted, len(form))
        found[length].update(form[at : at + length] for at in range(len(form) - length + 1))
    return tuple(_Pieces(length, frozenset(parts)) for length, parts in found.items())


@lru_cache(maxsize=16)
def _bare_pieces_of(key: str) -> tuple[_Pieces, ...]:
    """What is searched for in a text of which only letters and digits are left."""
    raw = key.encode()
    # Base32 takes 5 bytes at a time, so each of 5 places in a longer text gives another form.
    base32 = [base64.b32encode(b"\0" * before + raw).decode().rstrip("=") for before in range(5)]
    forms = [
        *((each, _SHORTEST_BARE) for each in _coded_forms_of(key)),
        *((each[math.ceil(before * 8 / 5) : -1], _SHORTEST_BARE) for before, each in enumerate(base32)),
        ("".join(f"u{ord(each):04x}" for each in key), 30),
        ("".join(f"0x{each:02x}" for each in raw), 24),
        ("".join(map(str, raw)), 16),
        (raw.decode().encode("utf-16-le").hex(), 24),
    ]
    for plain in (key, key[::-1]):
        bare = len(_bared(plain))
        if bare >= _SHORTEST_PART:
            forms.append((plain, min(max(bare // 2, _SHORTEST_BARE), _LONGEST_PART)))
    found: defaultdict[int, set[str]] = defaultdict(set)
    for form, wanted in forms:
        bared = _bared(form)
        length = min(wanted, len(bared))
        if length >= _SHORTEST_PART:
            found[length].update(bared[at : at + length] for at in range(len(bared) - length + 1))
    return tuple(_Pieces(length, frozenset(parts)) for length, parts in found.items())


def _bared(text: str) -> str:
    return "".join(character for character in text.lower() if character in _BARE)


def _coded_forms_of(key: str) -> Iterator[str]:
    """The key in hexadecimal digits and in base64, of which each of three places in a longer text gives another form."""
    raw = key.encode()
    yield raw.hex()
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        # The first and the last character may hold bits of what stands beside the key.
        core = whole[math.ceil(before * 8 / 6) : len(whole) - (1 if (before + len(raw)) % 3 else 0)]
        yield from {core, core.replace("+", "-").replace("/", "_")}


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with what the spans cover replaced; spans that overlap are one."""
    found: list[tuple[int, int]] = []
    for begin, end in spans:
        if found and begin < found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    for begin, end in reversed(found):
        text = f"{text[:begin]}{HIDDEN}{text[end:]}"
    return text


def without_key(record: R, key: str) -> R:
    """A frozen record whose texts don't hold the key."""
    found: dict[str, Any] = {each.name: getattr(record, each.name) for each in fields(record)}  # type: ignore[arg-type]
    changes = {name: hide(value, key) for name, value in found.items() if isinstance(value, str)}
    return replace(record, **changes)  # type: ignore[type-var]
