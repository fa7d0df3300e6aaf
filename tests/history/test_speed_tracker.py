"""What one module's series tells: steps, their recovery, their acceptance, and that noise tells nothing."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from exporter.history.sample import Sample
from exporter.history.shift import Shift
from exporter.history.speed_tracker import (
    DAY_SECONDS,
    MOST_BEFORE,
    MOST_SHIFTS,
    MOST_SINCE,
    SpeedTracker,
    accept,
    begin,
    observe,
)
from tests.history.series import MINUTE, SPEED, START, noise, probe, speeds


def watched(values: Iterable[float | None], tracker: SpeedTracker | None = None, start: int = 0) -> SpeedTracker:
    """After a probe a minute with these speeds; None is a probe that was skipped, so nothing comes in."""
    tracker = tracker or SpeedTracker("default")
    for number, speed in enumerate(values, start):
        if speed is not None:
            tracker = observe(tracker, probe(number, speed))
    return tracker


def told(tracker: SpeedTracker) -> tuple[Shift, ...]:
    return tuple(shift for shift in tracker.shifts if shift.told_at_seconds is not None)


def minutes_until_told(tracker: SpeedTracker, values: Sequence[float], start: int) -> int | None:
    before = len(told(tracker))
    for number, speed in enumerate(values):
        tracker = watched([speed], tracker, start + number)
        if len(told(tracker)) > before:
            return number + 1
    return None


@pytest.mark.parametrize("drop", [0.10, 0.47])
def test_a_step_that_nothing_explains_is_told_within_fifteen_minutes(drop: float) -> None:
    """In every one of 20 series, with the minute of the step, or one that is two off."""
    for seed in range(20):
        values = speeds(seed, 260)
        tracker = watched(values[:200])
        after = [value * (1 - drop) for value in values[200:]]
        minutes = minutes_until_told(tracker, after, 200)
        assert minutes is not None
        assert minutes <= 15
        (shift,) = told(watched(after[:minutes], tracker, 200))
        assert not shift.explained
        assert shift.standing
        assert abs(shift.since_seconds - (START + 200 * MINUTE)) <= 2 * MINUTE
        assert shift.speed.ratio == pytest.approx(1 - drop, rel=0.03)


def test_noise_is_no_step() -> None:
    """Nothing is told of a day and a half of an unchanged target."""
    for seed in range(3):
        assert told(watched(speeds(seed, 2200))) == ()


def test_a_step_is_over_when_the_speed_is_back() -> None:
    """An hour at -10 %: the step is told, is over at the time of the return, and the return is no step of its own."""
    values = speeds(3, 400)
    slow = [value * (0.9 if 200 <= number < 260 else 1) for number, value in enumerate(values)]
    (shift,) = told(watched(slow))
    assert shift.speed.below
    assert not shift.standing
    assert shift.back_at_seconds == pytest.approx(START + 260 * MINUTE, abs=2 * MINUTE)


def test_a_burst_shorter_than_the_settling_time_is_over_too() -> None:
    """Twelve slow minutes are told, and over within half an hour."""
    values = speeds(4, 260)
    (shift,) = told(watched([value * (0.8 if 200 <= n < 212 else 1) for n, value in enumerate(values)]))
    assert shift.back_at_seconds is not None
    assert shift.back_at_seconds <= START + 245 * MINUTE


def test_half_of_the_way_back_is_not_back() -> None:
    """A drop of 47 % of which half is made up for still stands."""
    values = speeds(5, 400)
    levels = [1.0] * 200 + [0.53] * 100 + [0.76] * 100
    first, second = told(watched(value * level for value, level in zip(values, levels, strict=True)))
    assert first.standing
    assert first.speed.ratio == pytest.approx(0.53, rel=0.03)
    assert second.speed.above


def test_the_end_of_a_short_rise_is_no_loss() -> None:
    """A rise that nothing explains and that lasts an hour ends without a drop being told."""
    values = speeds(6, 400)
    (shift,) = told(watched(value * (1.2 if 200 <= n < 260 else 1) for n, value in enumerate(values)))
    assert shift.speed.above
    assert shift.back_at_seconds is not None


def test_a_new_level_can_be_accepted() -> None:
    """After it is accepted a drop stands no more, stays told, and a further one is told anew."""
    values = speeds(7, 400)
    tracker = watched(value * (0.9 if number >= 200 else 1) for number, value in enumerate(values))
    accepted = accept(tracker, START + 400 * MINUTE)
    (shift,) = accepted.shifts
    assert shift.told
    assert not shift.standing
    assert accept(accepted, START + 500 * MINUTE) == accepted
    worse = watched((value * 0.8 for value in values[:60]), accepted, 400)
    assert [each.standing for each in told(worse)] == [False, True]


def test_a_level_counts_as_accepted_after_thirty_days() -> None:
    """By the time under watch: nights without probes count, a clock that is set by years counts as a day."""
    values = speeds(8, 260)
    tracker = watched(value * (0.9 if number >= 200 else 1) for number, value in enumerate(values))
    assert tracker.shifts[0].standing
    at = START + 260 * MINUTE
    for _ in range(28):
        at += DAY_SECONDS - 1
        tracker = observe(tracker, Sample(at, 0.9 * SPEED))
    assert tracker.shifts[0].standing
    jumped = observe(tracker, Sample(at + 20 * 365 * DAY_SECONDS, 0.9 * SPEED))
    assert jumped.shifts[0].standing
    for _ in range(2):
        at += DAY_SECONDS
        tracker = observe(tracker, Sample(at, 0.9 * SPEED))
    assert not tracker.shifts[0].standing
    assert tracker.shifts[0].accepted_at_seconds == at


@pytest.mark.parametrize("jump", [-1e9, -3600, 3600, 1e9])
def test_a_clock_that_is_set_moves_no_probe(jump: float) -> None:
    """The order tells before from after: a step is found as well, and nothing is told of a clock step alone."""
    values = speeds(9, 300)
    tracker = watched(values[:100])
    for number, value in enumerate(values[100:200], 100):
        tracker = observe(tracker, replace(probe(number, value), at_seconds=START + jump + number * MINUTE))
    assert told(tracker) == ()
    for number, value in enumerate(values[200:230], 200):
        tracker = observe(tracker, replace(probe(number, 0.9 * value), at_seconds=START + jump + number * MINUTE))
    assert len(told(tracker)) == 1


def test_gaps_and_skipped_probes_change_nothing() -> None:
    """A night without probes and every third one skipped: no step, and one that comes is found among the next probes."""
    values: list[float | None] = list(speeds(10, 1500))
    values[300:800] = [None] * 500
    values[::3] = [None] * len(values[::3])
    tracker = watched(values)
    assert told(tracker) == ()
    after = [0.9 * value for value in speeds(11, 15)]
    assert minutes_until_told(tracker, after, 1500) is not None


@pytest.mark.parametrize(
    "sample",
    [
        Sample(START, 1.0, cold_start=True),
        Sample(START, 1.0, ok=False),
        Sample(START, 1.0, beside_users=True),
        Sample(START),
        Sample(START, 0.0),
        Sample(START, float("nan")),
        Sample(START, float("inf")),
    ],
)
def test_what_says_nothing_of_the_speed_does_not_count(sample: Sample) -> None:
    """A cold start, a failure, a probe beside users and one without a speed leave no trace but the time that passed."""
    tracker = begin(watched(speeds(12, 100)), START + 100 * MINUTE)
    after = tracker
    for _ in range(50):
        after = observe(after, sample)
    assert replace(after, last_at_seconds=tracker.last_at_seconds, watched_seconds=tracker.watched_seconds) == tracker


def test_a_slow_drift_is_no_step_and_blames_no_change() -> None:
    """-5 % over three days: no step is told, and a change in the middle of it is not said to have cost anything."""
    count = 3 * 1440
    factors = noise(13)
    values = [SPEED * (1 - 0.05 * number / count) * next(factors) for number in range(count)]
    tracker = begin(watched(values[:1440]), START + 1440 * MINUTE)
    assert told(watched(values[1440:], tracker, 1440)) == ()


def test_memory_is_bounded() -> None:
    """Whatever happens for weeks, a tracker keeps a bounded number of samples and shifts."""
    factors = noise(14)
    tracker = SpeedTracker("default")
    for number in range(6000):
        level = 1.0 if number // 60 % 2 else 0.7
        if number % 97 == 0:
            tracker = begin(tracker, START + number * MINUTE)
        tracker = watched([SPEED * level * next(factors)], tracker, number)
    assert len(tracker.since) <= MOST_SINCE
    assert len(tracker.before) <= MOST_BEFORE
    assert 0 < len(tracker.shifts) <= MOST_SHIFTS
    assert all(one.since_seconds != other.since_seconds for one, other in itertools.pairwise(tracker.shifts))
