"""Text and figures as people read them, in one form on the page, at the prompt and in the log. Pure.

A figure that is None or not finite is shown as ``NONE``, never as 0.
"""

import hashlib
import math
import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from typing import Final

LABEL_CHARACTERS: Final = 128
ERROR_CHARACTERS: Final = 500
_DIGEST_CHARACTERS: Final = 8
NONE: Final = "–"
# Printable to Python, and yet nothing is seen of them: joiners, fillers, variation selectors, the empty pattern of Braille.
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


# Text from servers and files, which may hold anything


def printable(text: str, characters: int = LABEL_CHARACTERS) -> str:
    """Text from outside without what can't be seen, lone surrogates and line breaks, cut to a number of characters.

    What can't be seen are control, format and direction characters, and letters and marks that show nothing: they make a text
    look like another one.
    """
    if is_visible(text) and len(text) <= characters:
        return text
    return "".join(islice((c for c in text[: 16 * characters] if is_visible(c)), characters))


def printable_text(value: object) -> str | None:
    """The same for a value that may be no text: None if it is none."""
    return printable(value) if isinstance(value, str) else None


def is_visible(text: str) -> bool:
    """Whether each character of a text shows something, spaces included."""
    # ASCII is most of what comes, and has none of the letters that show nothing.
    return text.isprintable() and (text.isascii() or not _BLANK.search(text))


def escaped(text: str, keep: str = "") -> str:
    """A text in which what can't be seen is written by its number, as JSON does; ``keep`` stays as it is."""
    if is_visible(text):
        return text
    return "".join(c if c in keep or is_visible(c) else _escape(c) for c in text)


def _escape(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


@lru_cache(maxsize=2048)
def label(text: str) -> str:
    """Text from outside as a label: printable, and cut so that two long texts which differ anywhere stay two."""
    # The same few names stand in each of a target's hundred lines.
    shown = printable(text)
    if len(text) <= LABEL_CHARACTERS or len(shown) < LABEL_CHARACTERS:
        return shown
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{shown[: LABEL_CHARACTERS - _DIGEST_CHARACTERS - 1]}…{digest}"


def finite(value: float | None) -> float | None:
    """The value as a float; None for what no exposition can hold: nothing, NaN, an infinity, an integer beyond floats."""
    if value is None:
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


# Figures: three digits and a unit are enough


def rate_text(per_second: float | None) -> str:
    """Tokens per second without the unit: 0.35, 6.4, 18.0, 412, 1,412."""
    number = finite(per_second)
    if number is None:
        return NONE
    if number < 0.95:
        return f"{number:.2g}"
    return f"{number:.1f}" if number < 99.95 else f"{number:,.0f}"


def speed_text(per_second: float | None) -> str:
    """Tokens per second: 18.4 tok/s."""
    return f"{rate_text(per_second)} tok/s"


def seconds_text(seconds: float | None) -> str:
    """A duration that was measured: 10 µs, 12.3 ms, 410 ms, 1.24 s, 312 s."""
    number = finite(seconds)
    if number is None:
        return NONE
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        shown = number * factor
        # In the larger unit as soon as three digits of the smaller one would be rounded up to it.
        if shown >= 0.9995 or (unit == "µs" and shown > 0):
            return f"{shown:.3g} {unit}" if shown < 99.95 else f"{shown:.0f} {unit}"
    return "0 s"


def age_text(seconds: float) -> str:
    """A stretch of time said roughly: 12 s, 4 min, 3 h, 2 d. The page's script says it in the same words."""
    seconds = max(seconds, 0.0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= (2 * size if unit != "min" else 90):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def bytes_text(size: float | None) -> str:
    """A size in the decimal units in which disks and models are sold: 0 B, 3.2 kB, 29.5 GB, 1.97 TB."""
    number = finite(size)
    if number is None:
        return NONE
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB" if number < 999.5 else f"{number:.0f} TB"


def share_text(ratio: float | None) -> str:
    """A ratio in per cent."""
    number = finite(ratio)
    return NONE if number is None else f"{number * 100:.0f} %"


def band_text(low: float | None, high: float | None) -> str:
    """A range of which either end may be open: 12–20, at least 12, at most 1,420."""
    if low is None:
        return NONE if high is None else f"at most {number_text(high)}"
    return f"at least {number_text(low)}" if high is None else f"{number_text(low)}–{number_text(high)}"


def number_text(number: float) -> str:
    """Three digits without a zero that says nothing: 12, 9.15, 1,420."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


# Sentences

BUFFERED: Final = "the text came in one burst, so its speed can't be measured: a proxy in between may buffer it"


def count_text(number: int, noun: str) -> str:
    """1 target, 2 targets."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def states_text(targets_by_state: Iterable[tuple[str, int]]) -> str:
    """How many targets are in which state, as ``systemctl status`` shows it: ``3 targets: 2 up, 1 down``."""
    counts = [(state, count) for state, count in targets_by_state if count]
    if not counts:
        return "no target yet"
    listed = ", ".join(f"{count} {state}" for state, count in counts)
    return f"{count_text(sum(count for _, count in counts), 'target')}: {listed}"


def no_speed_text(*, cold_start: bool, stream_buffered: bool | None) -> str:
    """Why a probe that succeeded gave no speed."""
    if cold_start:
        return "the probe waited for the model to load, which gives no speed"
    if stream_buffered:
        return BUFFERED
    return "too few tokens came to measure a speed: raise max_tokens"
