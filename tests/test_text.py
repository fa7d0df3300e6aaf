"""Text of strangers made safe to show, and figures as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.text import (
    age_text,
    band_text,
    bytes_text,
    count_text,
    finite,
    label,
    no_speed_text,
    printable,
    rate_text,
    seconds_text,
    share_text,
    speed_text,
    states_text,
)


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


@given(st.text(max_size=300))
def test_a_label_is_final(text: str) -> None:
    """Any text comes out printable, short and unchanged by a second time."""
    once = label(text)
    assert once.isprintable()
    assert len(once) <= 128
    assert label(once) == once


def test_long_names_that_differ_at_their_end_stay_apart() -> None:
    """Two models whose names are the same for 128 characters are two labels; a short name is its own label."""
    base = "registry.example/" + "a" * 120
    assert len({label(f"{base}-{end}") for end in ("q4", "q8", "f16")}) == 3
    assert label(f"{base}-q4").startswith(base[:100])
    assert label("Qwen/Qwen2.5-14B") == "Qwen/Qwen2.5-14B"


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf"), 10**400])
def test_what_is_not_finite_is_none(value: float | None) -> None:
    """Nothing, NaN, infinities and integers beyond floats have no value that an exposition can hold."""
    assert finite(value) is None


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (rate_text(0.0), "0"),
        (rate_text(0.035), "0.035"),
        (rate_text(0.96), "1.0"),
        (rate_text(6.44), "6.4"),
        (rate_text(99.94), "99.9"),
        (rate_text(99.96), "100"),
        (rate_text(1412.0), "1,412"),
        (rate_text(None), "–"),
        (speed_text(18.0), "18.0 tok/s"),
        (speed_text(float("nan")), "– tok/s"),
        (seconds_text(0.0), "0 s"),
        (seconds_text(1e-8), "0.01 µs"),
        (seconds_text(0.00001), "10 µs"),
        (seconds_text(0.0004), "400 µs"),
        (seconds_text(0.000_999_7), "1 ms"),
        (seconds_text(0.0123), "12.3 ms"),
        (seconds_text(0.41), "410 ms"),
        (seconds_text(0.9994), "999 ms"),
        (seconds_text(0.9996), "1 s"),
        (seconds_text(3.456), "3.46 s"),
        (seconds_text(99.96), "100 s"),
        (seconds_text(312.0), "312 s"),
        (seconds_text(None), "–"),
        (age_text(12), "12 s"),
        (age_text(89), "89 s"),
        (age_text(240), "4 min"),
        (age_text(3 * 3600), "3 h"),
        (age_text(3 * 86400), "3 d"),
        (age_text(-5), "0 s"),
        (bytes_text(0), "0 B"),
        (bytes_text(999), "999 B"),
        (bytes_text(3200), "3.2 kB"),
        (bytes_text(29_540_067_328), "29.5 GB"),
        (bytes_text(999_900_000_000), "1 TB"),
        (bytes_text(1_967_000_000_000), "1.97 TB"),
        (bytes_text(1_234_000_000_000_000), "1234 TB"),
        (bytes_text(None), "–"),
        (share_text(0.836), "84 %"),
        (share_text(None), "–"),
        (band_text(12, 20), "12–20"),
        (band_text(12.5, None), "at least 12.5"),
        (band_text(None, 20), "at most 20"),
        (band_text(998.6, 1420.4), "999–1,420"),
        (band_text(None, None), "–"),
        (count_text(0, "target"), "0 targets"),
        (count_text(1, "target"), "1 target"),
        (count_text(1200, "file"), "1,200 files"),
        (states_text([("up", 2), ("loading", 0), ("down", 1)]), "3 targets: 2 up, 1 down"),
        (states_text([("up", 1)]), "1 target: 1 up"),
        (states_text([("up", 0)]), "no target yet"),
    ],
)
def test_figures_as_people_read_them(shown: str, wanted: str) -> None:
    """Three digits and a unit; what is not known is a dash and never 0."""
    assert shown == wanted


@given(st.floats(1e-6, 1e6))
def test_a_duration_is_shown_within_half_a_per_cent(seconds: float) -> None:
    """Whatever the unit, three digits of the value are what is read back."""
    number, unit = seconds_text(seconds).split()
    assert float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6}[unit] == pytest.approx(seconds, rel=0.0051)


@given(st.floats(1, 1e15))
def test_a_size_is_shown_within_half_a_per_cent(size: float) -> None:
    """Whatever the unit, three digits of the value are what is read back, and there are never more before the point."""
    number, unit = bytes_text(size).split()
    assert float(number) * 1000 ** ["B", "kB", "MB", "GB", "TB"].index(unit) == pytest.approx(size, rel=0.0051)
    assert "e" not in number


def test_each_reason_for_no_speed_is_a_sentence_of_its_own() -> None:
    """A load, a burst and a short answer are told apart, and in this order."""
    reasons = [
        no_speed_text(cold_start=cold_start, stream_buffered=buffered)
        for cold_start, buffered in ((True, True), (False, True), (False, False), (False, None))
    ]
    assert ["load" in reasons[0], "burst" in reasons[1], "too few tokens" in reasons[2]] == [True] * 3
    assert reasons[2] == reasons[3]
