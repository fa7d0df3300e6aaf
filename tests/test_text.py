"""Text of strangers made safe to show, and figures as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.text import finite, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Qwen/Qwen2.5-14B", "Qwen/Qwen2.5-14B"),
        ('a"b\\c', 'a"b\\c'),
        ("a\nb\x00c\x85d\u2028e\x1b[31m", "abcde[31m"),
        ("\ud800x\u202ey", "xy"),
        ("m" * 100_000, "m" * 128),
        ("\n" * 100 + "x", "x"),
    ],
)
def test_strings_of_strangers_are_made_printable(text: str, shown: str) -> None:
    """Control characters, surrogates and direction marks go, and 128 characters stay."""
    assert printable(text) == shown


@given(st.text())
def test_printable_is_final(text: str) -> None:
    """Any text comes out printable, short and unchanged by a second time."""
    once = printable(text)
    assert once.isprintable()
    assert len(once) <= 128
    assert printable(once) == once
    once.encode()


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf"), 10**400])
def test_what_is_not_finite_is_none(value: float | None) -> None:
    """Nothing, NaN, infinities and integers beyond floats have no value that an exposition can hold."""
    assert finite(value) is None
