"""An independent library sees the same changes of level in the same series, at the same time, and none where there is none."""

from itertools import islice

import pytest

from exporter.history.shift import Shift
from exporter.history.speed_tracker import SpeedTracker, begin, observe
from tests.history.oracle import level_changes
from tests.history.series import MINUTE, SPEED, START, noise, probe

BEFORE = 200
SERIES = 30
OFF = 2
"""Probes by which two searches may differ: the first ones at a new level may lie within the noise of the old one."""


def series(seed: int, *levels: tuple[float, int]) -> list[float]:
    """Speeds at levels, each held for so many probes, under the usual noise."""
    shares = (share for share, count in levels for _ in range(count))
    return [SPEED * share * factor for share, factor in zip(shares, noise(seed), strict=False)]


def watched(speeds: list[float], changed: int | None = None) -> tuple[Shift, ...]:
    """What is told of a series; at ``changed`` a watched fact changes."""
    tracker = SpeedTracker("default")
    for number, speed in enumerate(speeds):
        if number == changed:
            tracker = begin(tracker, START + number * MINUTE - 1)
        tracker = observe(tracker, probe(number, speed))
    return tuple(shift for shift in tracker.shifts if shift.told_at_seconds is not None)


def number_of(at_seconds: float | None) -> float:
    assert at_seconds is not None
    return (at_seconds - START) / MINUTE


@pytest.mark.parametrize("drop", [0.47, 0.10, 0.05])
def test_a_step_that_nothing_explains_lies_where_the_oracle_has_it(drop: float) -> None:
    """Each search finds one step, in at least 29 of 30 series, and both have it at the same probe or two off."""
    agreed = 0
    for seed in range(SERIES):
        speeds = series(seed, (1.0, BEFORE), (1 - drop, 60))
        found, theirs = watched(speeds), level_changes(speeds)
        agreed += (
            len(found) == len(theirs) == 1
            and found[0].standing
            and abs(number_of(found[0].since_seconds) - theirs[0]) <= OFF
        )
    assert agreed >= SERIES - 1


@pytest.mark.parametrize("drop", [0.47, 0.10, 0.05])
def test_a_change_is_blamed_where_the_oracle_has_a_step(drop: float) -> None:
    """A fact changes at the time of the drop: it is told as slower, and the oracle's step lies at its time."""
    agreed = 0
    for seed in range(SERIES):
        speeds = series(seed, (1.0, 60), (1 - drop, 30))
        found, theirs = watched(speeds, changed=60), level_changes(speeds)
        agreed += [each.speed.below for each in found] == [True] and len(theirs) == 1 and abs(theirs[0] - 60) <= OFF
    assert agreed >= SERIES - 1


def test_a_change_is_not_blamed_where_the_oracle_has_no_step() -> None:
    """A fact changes and the level stays: neither search says anything."""
    for seed in range(100, 100 + SERIES):
        speeds = series(seed, (1.0, 120))
        assert watched(speeds, changed=60) == ()
        assert level_changes(speeds) == []


def test_where_nothing_happens_neither_says_anything() -> None:
    """Ten hours of the usual noise with its outliers."""
    for seed in range(200, 210):
        speeds = list(islice((SPEED * factor for factor in noise(seed)), 600))
        assert watched(speeds) == ()
        assert level_changes(speeds) == []


def test_a_drop_that_ends_has_both_its_times() -> None:
    """An hour at -10 %: its begin and its end are the oracle's two steps."""
    agreed = 0
    for seed in range(SERIES):
        speeds = series(seed, (1.0, BEFORE), (0.9, 60), (1.0, 60))
        found, theirs = watched(speeds), level_changes(speeds)
        agreed += (
            len(found) == 1
            and len(theirs) == 2
            and abs(number_of(found[0].since_seconds) - theirs[0]) <= OFF
            and abs(number_of(found[0].back_at_seconds) - theirs[1]) <= OFF
        )
    assert agreed >= SERIES - 2
