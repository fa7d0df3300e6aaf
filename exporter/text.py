"""Text and figures as people read them, in one form on the page, at the prompt and in the log. Pure."""

import math
from itertools import islice
from typing import Final

LABEL_CHARACTERS: Final = 128
ERROR_CHARACTERS: Final = 500


def printable(text: str, characters: int = LABEL_CHARACTERS) -> str:
    """A stranger's text without control characters, lone surrogates and line breaks, cut to a number of characters."""
    if text.isprintable() and len(text) <= characters:
        return text
    return "".join(islice((c for c in text[: 16 * characters] if c.isprintable()), characters))


def finite(value: float | None) -> float | None:
    """The value as a float; None for what no exposition can hold: nothing, NaN, an infinity, an integer beyond floats."""
    if value is None:
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
