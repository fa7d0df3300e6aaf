"""The drawings stay inside their box and show what they are given."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.history.gaps import gaps_of
from exporter.history.record import Point
from exporter.settings import Thresholds
from exporter.tiers import Judgement
from exporter.web.draw import LEAST_APART, bar_of, sparkline_of, strip_of, waterfall_of

LIMITS = Thresholds(excellent=20, good=15, acceptable=10)
speeds = st.none() | st.floats(0, 1000)


@given(speeds, speeds, speeds, speeds)
def test_everything_is_inside_the_bar(
    speed: float | None, low: float | None, high: float | None, ceiling: float | None
) -> None:
    """Zones fill the box from 0 to 100 in the order of the tiers, and every mark lies in it."""
    judgement = Judgement(None, LIMITS, expected_min=low, expected_max=high, ceiling_tokens_per_second=ceiling)
    bar = bar_of(speed, judgement)
    assert [zone.name for zone in bar.zones] == ["poor", "acceptable", "good", "excellent"]
    assert bar.zones[0].x == 0
    assert bar.zones[-1].x + bar.zones[-1].width == pytest.approx(100)
    for mark in (bar.speed, bar.ceiling, *(x for _, x in bar.ticks)):
        assert mark is None or 0 <= mark <= 100
    assert (bar.speed is None) == (speed is None)
    assert (bar.band is None) == (low is None and high is None)


def test_a_speed_on_a_bound_reaches_its_tick() -> None:
    """A speed of exactly 15 ends where the tick of 15 stands."""
    bar = bar_of(15.0, Judgement("good", LIMITS))
    assert bar.speed == dict(bar.ticks)["15"]


@given(speeds, speeds)
def test_labels_of_ticks_have_room(speed: float | None, high: float | None) -> None:
    """On the scale of a very fast server the tiers lie close together: the highest bound keeps its label."""
    ticks = bar_of(speed, Judgement(None, LIMITS, expected_max=high)).ticks
    assert ticks[-1][0] == "20"
    assert all(right - left >= LEAST_APART for (_, left), (_, right) in pairwise(ticks))


def test_a_far_ceiling_does_not_crush_the_scale() -> None:
    """A ceiling many times above the tiers is left to the caption."""
    assert bar_of(15.0, Judgement("good", LIMITS, ceiling_tokens_per_second=400)).ceiling is None
    assert bar_of(15.0, Judgement("good", LIMITS, ceiling_tokens_per_second=30)).ceiling is not None


def test_the_line_breaks_where_a_probe_failed_or_none_ran() -> None:
    """A failure and a pause each end one stretch of the line; the failure has its own mark."""
    at = [0, 60, 120, 180, 240, 900, 960]
    history = [Point(float(t), None if t == 120 else 20.0, t != 120) for t in at]
    line = sparkline_of(history, 60, 960)
    assert line is not None
    assert len(line.lines) == 3
    assert line.failures == (12.5,)
    assert (line.low, line.high) == (20, 20)


def test_changes_are_marked_where_they_were() -> None:
    """Those before the first probe, and after now, are not on the line."""
    line = sparkline_of([Point(100.0, 20.0, True), Point(200.0, 10.0, True)], 60, 300, (50.0, 150.0, 400.0))
    assert line is not None
    assert line.changes == (25.0,)


@given(st.lists(st.builds(Point, st.floats(0, 1e6), st.none() | st.floats(0, 1e4), st.booleans()), max_size=30))
def test_any_history_is_drawn_inside_its_box(history: list[Point]) -> None:
    """Whatever the clock did, every point lies in the box; fewer than two probes are no line."""
    history.sort(key=lambda point: point.at_seconds)
    line = sparkline_of(history, 60, 1e6)
    assert (line is None) == (len(history) < 2)
    if line is not None:
        coordinates = [float(number) for points in line.lines for pair in points.split() for number in pair.split(",")]
        assert all(0 <= number <= 100 for number in (*coordinates, *line.failures))


PHASES = (("resolve", 0.0), ("connect", 0.1), ("first_token", 0.4), ("decode", 1.5), ("total", 2.0))


def test_phases_follow_each_other() -> None:
    """Each begins where the one before ended; together they fill what the total does."""
    drawn = waterfall_of(PHASES)
    assert [(each.name, each.x, each.width) for each in drawn] == [
        ("resolve", 0.0, 0.0),
        ("connect", 0.0, 5.0),
        ("first token", 5.0, 20.0),
        ("decode", 25.0, 75.0),
    ]
    assert waterfall_of(()) == ()
    assert waterfall_of((("total", 0.0),)) == ()


@given(st.lists(st.tuples(st.text(max_size=5), st.floats(0, 1e6)), max_size=8))
def test_no_phase_sticks_out(phases: list[tuple[str, float]]) -> None:
    """Whatever was measured, every bar lies within the box."""
    for each in waterfall_of(phases):
        assert 0 <= each.x <= 100.01
        assert each.x + each.width <= 100.1


def test_the_longest_gap_is_named_with_its_token() -> None:
    """Columns of one width in the order of the tokens; the highest is the longest gap."""
    strip = strip_of(gaps_of([(0.05, 1), (0.05, 2), (0.5, 1), (0.25, 1)]))
    assert strip is not None
    assert [height for _, height in strip.columns] == [10.0, 10.0, 100.0, 50.0]
    assert [x for x, _ in strip.columns] == [0.0, 25.0, 50.0, 75.0]
    assert (strip.longest, strip.longest_at, strip.tokens) == (0.5, 5, 5)
    assert strip.median == pytest.approx(0.15)
    assert strip_of(gaps_of([(0.05, 1)])) is None
    assert strip_of(gaps_of([(0.0, 1), (0.0, 1)])) is None
