"""One module of one target: which samples lie before and after a change, when they are compared, and what that shows. Pure.

After a change or a step, the samples since are compared with those before when there are 3, 5, 10 and 30, and then
daily. Samples are told apart by their order, so that a clock that is set moves none to the other side. From 30 on the CUSUM
looks for steps; what it finds counts only if the two-sample test confirms it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from exporter.history.ratio import LEAST_CHANGE, LEAST_SAMPLES, Ratio, ratio_of
from exporter.history.sample import Sample, Samples
from exporter.history.shift import DECODE, Phase, Shift, series_name
from exporter.history.steps import Cusum, Reference

JUDGED_AT: Final = (3, 5, 10, 30)
"""Good samples since a change at which it is judged; after the last of them daily."""
SETTLED: Final = JUDGED_AT[-1]
APART: Final = 10
"""Two changes with fewer good samples between them are judged together."""
MOST_BEFORE: Final = 60
MOST_SINCE: Final = 120
MOST_SHIFTS: Final = 32
MOST_TOGETHER: Final = 8
DAY_SECONDS: Final = 86400.0
ACCEPTED_SECONDS: Final = 30 * DAY_SECONDS
EARLY: Final = 10
"""What a change did shows in the first samples since. What comes later was something else."""
DELAY: Final = 15
"""The newest samples may belong to a step that is not found yet, so they join the reference that many samples later."""
WINDOWS: Final = (10, 30, 60)
NEWEST: Final = 5
LEAST_STEP: Final = math.log(1.03)
"""A step has no known time: the place where the series differs most is looked for, so it must differ by more."""

NOTHING: Final = Samples()
UNKNOWN: Final = Reference()
ZERO: Final = Cusum()


@dataclass(frozen=True, slots=True)
class SpeedTracker:
    """What is known of one module's speed.

    ``since`` are the newest good samples at the present level, ``before`` those before the change or step that is judged.
    ``count`` is how many good samples there have been since it, ``early`` how the first of them compared (a logarithm).
    ``judged`` is when that change or step was (Unix time); None if there was none yet. ``shifts`` are oldest first.
    """

    module: str
    since: Samples = NOTHING
    before: Samples = NOTHING
    judged: float | None = None
    changes: tuple[float, ...] = ()
    count: int = 0
    early: float | None = None
    reference: Reference = UNKNOWN
    down: Cusum = ZERO
    up: Cusum = ZERO
    shifts: tuple[Shift, ...] = ()
    last_at_seconds: float | None = None
    watched_seconds: float = 0.0
    judged_after_seconds: float = 0.0
    phase: Phase = DECODE
    """Whose speed the samples hold: in a series of prefill it stands in the place of the decode speed."""

    @property
    def series(self) -> str:
        """The name of its series."""
        return series_name(self.module, self.phase)

    @property
    def shift(self) -> Shift | None:
        """That of the change or step that is judged now."""
        return next((each for each in self.shifts if each.since_seconds == self.judged), None)


def begin(tracker: SpeedTracker, at_seconds: float) -> SpeedTracker:
    """Facts have changed: from here on it is judged what that did."""
    if tracker.judged is not None and tracker.count < APART:
        return _together(tracker, at_seconds)
    before = tracker.since
    reference = tracker.reference
    if tracker.judged is not None and tracker.count < SETTLED:
        tracker = _judge(tracker, at_seconds)
        if _moved(tracker):
            reference = Reference.of(tracker.since.speeds())
        else:
            before = tracker.before.joined(tracker.since, MOST_BEFORE)
    return replace(
        tracker,
        before=before.newest(MOST_BEFORE),
        since=NOTHING,
        judged=at_seconds,
        changes=(at_seconds,),
        count=0,
        early=None,
        reference=reference,
        down=ZERO,
        up=ZERO,
    )


def _together(tracker: SpeedTracker, at_seconds: float) -> SpeedTracker:
    """One more change before the last could be judged. A step that a change follows so soon is explained by it."""
    shifts, judged = tracker.shifts, tracker.judged
    if not tracker.changes:
        shifts, judged = tuple(each for each in shifts if each.since_seconds != judged), at_seconds
    changes = (*tracker.changes[:1], *tracker.changes[1:][-MOST_TOGETHER + 2 :], at_seconds)
    return replace(tracker, since=NOTHING, judged=judged, changes=changes, count=0, early=None, shifts=shifts)


def observe(tracker: SpeedTracker, sample: Sample) -> SpeedTracker:
    """After one more probe; one that doesn't count only lets time pass."""
    tracker = _accept_old(_later(tracker, sample.at_seconds), sample.at_seconds)
    if not sample.counts or sample.tokens_per_second is None:
        return tracker
    tracker = replace(tracker, since=tracker.since.followed_by(sample, MOST_SINCE), count=tracker.count + 1)
    if tracker.count < SETTLED:
        return _judge(tracker, sample.at_seconds) if tracker.count in JUDGED_AT else tracker
    if tracker.count == SETTLED:
        return _settle(_judge(tracker, sample.at_seconds), sample.at_seconds)
    tracker = _learn(_sum_up(tracker, sample.tokens_per_second))
    if tracker.down.alarmed or tracker.up.alarmed:
        tracker = _find_step(tracker, sample.at_seconds)
    if tracker.watched_seconds - tracker.judged_after_seconds >= DAY_SECONDS:
        level = median(tracker.since.newest(MOST_BEFORE).speeds())
        tracker = _drift_back(_judge(tracker, sample.at_seconds), level, sample.at_seconds)
    return tracker


def accept(tracker: SpeedTracker, at_seconds: float) -> SpeedTracker:
    """The present level is the usual one from now on: nothing stands any more."""
    return replace(tracker, shifts=tuple(_accepted(each, at_seconds) for each in tracker.shifts))


def note_meanwhile(
    tracker: SpeedTracker, since_seconds: float, meanwhile: tuple[tuple[str, str, str], ...]
) -> SpeedTracker:
    """What else was different since an unexplained step."""
    shifts = (
        replace(each, meanwhile=meanwhile) if each.since_seconds == since_seconds and not each.explained else each
        for each in tracker.shifts
    )
    return replace(tracker, shifts=tuple(shifts))


def _accepted(shift: Shift, at_seconds: float) -> Shift:
    return replace(shift, accepted_at_seconds=at_seconds) if shift.standing else shift


def _later(tracker: SpeedTracker, at_seconds: float) -> SpeedTracker:
    # A clock that was set forward makes no more than a day pass, one that was set back none.
    passed = 0.0 if tracker.last_at_seconds is None else at_seconds - tracker.last_at_seconds
    watched = tracker.watched_seconds + min(max(passed, 0.0), DAY_SECONDS)
    return replace(tracker, last_at_seconds=at_seconds, watched_seconds=watched)


def _accept_old(tracker: SpeedTracker, at_seconds: float) -> SpeedTracker:
    old = tracker.watched_seconds - ACCEPTED_SECONDS
    if old <= 0 or not any(each.standing and each.told_after_seconds < old for each in tracker.shifts):
        return tracker
    shifts = (_accepted(each, at_seconds) if each.told_after_seconds < old else each for each in tracker.shifts)
    return replace(tracker, shifts=tuple(shifts))


def _judge(tracker: SpeedTracker, at_seconds: float) -> SpeedTracker:
    """Compare the newest samples since with those before."""
    tracker = replace(tracker, judged_after_seconds=tracker.watched_seconds)
    after = tracker.since.newest(min(tracker.count, MOST_BEFORE))
    speed = ratio_of(tracker.before.speeds(), after.speeds())
    if tracker.judged is None or speed is None:
        return tracker
    early = tracker.early
    if early is None and tracker.count >= EARLY:
        first = (
            tracker.since.without_newest(len(tracker.since) - EARLY) if len(tracker.since) > EARLY else tracker.since
        )
        early = math.log(median(first.speeds()) / speed.before)
        tracker = replace(tracker, early=early)
    if speed.beyond_noise and early is not None and early / math.log(speed.ratio) < 1 / 2:
        return tracker
    tracker, shift = _changed_level(tracker, after, speed, at_seconds)
    return _return_to(tracker, speed, at_seconds, but=shift.since_seconds)


def _changed_level(
    tracker: SpeedTracker, after: Samples, speed: Ratio, at_seconds: float
) -> tuple[SpeedTracker, Shift]:
    """Note how the change or step that is judged compares now."""
    old = tracker.shift
    told_at, told_after, back_at, accepted_at = None, tracker.watched_seconds, None, None
    if old is not None and (old.told or not speed.beyond_noise):
        told_at, told_after = old.told_at_seconds, old.told_after_seconds
        back_at, accepted_at = old.back_at_seconds, old.accepted_at_seconds
    if speed.beyond_noise:
        told_at = at_seconds if told_at is None else told_at
    elif told_at is not None and back_at is None:
        back_at = at_seconds
    shift = Shift(
        module=tracker.module,
        since_seconds=at_seconds if tracker.judged is None else tracker.judged,
        changes=tracker.changes,
        judged_at_seconds=at_seconds,
        speed=speed,
        ttft=_compared("ttft_seconds", tracker.before, after),
        prefill=_compared("prefill_tokens_per_second", tracker.before, after),
        told_at_seconds=told_at,
        back_at_seconds=back_at,
        accepted_at_seconds=accepted_at,
        told_after_seconds=told_after,
        phase=tracker.phase,
        meanwhile=old.meanwhile if old is not None else (),
    )
    others = tuple(each for each in tracker.shifts if each.since_seconds != shift.since_seconds)
    return replace(tracker, shifts=(*others, shift)[-MOST_SHIFTS:]), shift


def _compared(figure: str, before: Samples, after: Samples) -> Ratio | None:
    return ratio_of(before.column(figure), after.column(figure))


def _moved(tracker: SpeedTracker) -> bool:
    shift = tracker.shift
    return shift is not None and shift.told


def _settle(tracker: SpeedTracker, at_seconds: float) -> SpeedTracker:
    """Enough samples since: the level is known, and the CUSUM begins, also over the samples that were waited for."""
    recent = tracker.since.speeds()
    if not len(tracker.before):
        return replace(tracker, reference=Reference.of(recent), down=ZERO, up=ZERO)
    if _moved(tracker):
        tracker = replace(tracker, reference=Reference.of(recent), down=ZERO, up=ZERO)
    else:
        since = tracker.before.joined(tracker.since, MOST_SINCE)
        enough = len(tracker.reference) >= SETTLED
        reference = tracker.reference if enough else Reference.of(since.without_newest(DELAY).speeds())
        tracker = replace(tracker, since=since, reference=reference, down=ZERO, up=ZERO)
    for speed in recent:
        tracker = _sum_up(tracker, speed)
    return _find_step(tracker, at_seconds) if tracker.down.alarmed or tracker.up.alarmed else tracker


def _sum_up(tracker: SpeedTracker, speed: float) -> SpeedTracker:
    residual = tracker.reference.residual(speed)
    return replace(tracker, down=tracker.down.followed_by(-residual), up=tracker.up.followed_by(residual))


def _learn(tracker: SpeedTracker) -> SpeedTracker:
    if len(tracker.since) <= DELAY:
        return tracker
    delayed = tracker.since.newest(DELAY + 1).without_newest(DELAY)
    return replace(tracker, reference=tracker.reference.followed_by(*delayed.speeds()))


def _find_step(tracker: SpeedTracker, at_seconds: float) -> SpeedTracker:
    """The step that a sum is alarmed by, if the test confirms it; else nothing has happened."""
    for size in _windows(tracker.down if tracker.down.alarmed else tracker.up):
        if len(tracker.since) < size + APART:
            continue
        count = _since_onset(tracker.since.newest(size + APART).speeds(), tracker.reference.middle)
        before, after = tracker.since.without_newest(count).newest(MOST_BEFORE), tracker.since.newest(count)
        speed = ratio_of(before.speeds(), after.speeds())
        if speed is None or abs(math.log(speed.ratio)) < LEAST_STEP:
            continue
        if speed.below if tracker.down.alarmed else speed.above:
            return _take_step(tracker, before, after, speed, at_seconds)
    return tracker


def _since_onset(speeds: Sequence[float], level: float) -> int:
    """How many of the newest speeds lie after a step away from a level (a logarithm).

    The split at which the earlier ones are nearest to the level and the later ones nearest to the newest. The sum that is
    alarmed often began to rise before the step, by noise.
    """
    values = [math.log(speed) for speed in speeds]
    now = median(values[-NEWEST:])
    best, cost, count = 0.0, 0.0, NEWEST
    for number, value in enumerate(reversed(values), 1):
        cost += abs(value - now) - abs(value - level)
        if number >= NEWEST and cost < best:
            best, count = cost, number
    return count


def _windows(cusum: Cusum) -> Iterator[int]:
    if LEAST_SAMPLES < cusum.run <= MOST_BEFORE:
        yield cusum.run
    yield from WINDOWS


def _take_step(tracker: SpeedTracker, before: Samples, after: Samples, speed: Ratio, at_seconds: float) -> SpeedTracker:
    """The level has moved: back to what it was, or to a new one."""
    since = next(iter(after)).at_seconds
    returned = _return_to(tracker, speed, since)
    if returned is not tracker:
        # The samples of both times at this level belong together.
        known = tracker.before if _moved(tracker) and not _moved(returned) else NOTHING
        return replace(_at_level(returned, known.joined(after, MOST_SINCE)), before=NOTHING, judged=None)
    moved = replace(_at_level(tracker, after), before=before, judged=since)
    return _changed_level(moved, after, speed, at_seconds)[0]


def _at_level(tracker: SpeedTracker, since: Samples) -> SpeedTracker:
    return replace(
        tracker,
        since=since,
        changes=(),
        count=min(len(since), SETTLED),
        early=None,
        reference=Reference.of(since.speeds()),
        down=ZERO,
        up=ZERO,
        judged_after_seconds=tracker.watched_seconds,
    )


def _return_to(tracker: SpeedTracker, speed: Ratio, at_seconds: float, but: float | None = None) -> SpeedTracker:
    """What is over now that the speed has moved: drops that it made up for, and short unexplained rises that it ended."""
    return _over(
        tracker,
        at_seconds,
        lambda shift: (
            shift.since_seconds != but
            and (speed.above if shift.speed.below else speed.below and _is_passing(tracker, shift))
            and _is_as_before(shift, speed.after)
        ),
    )


def _drift_back(tracker: SpeedTracker, level: float, at_seconds: float) -> SpeedTracker:
    """Drops that are over although the speed never moved at once."""
    return _over(tracker, at_seconds, lambda shift: shift.speed.below and _is_as_before(shift, level))


def _over(tracker: SpeedTracker, at_seconds: float, is_over: Callable[[Shift], bool]) -> SpeedTracker:
    if not any(each.told and is_over(each) for each in tracker.shifts):
        return tracker
    shifts = (
        replace(each, back_at_seconds=at_seconds) if each.told and is_over(each) else each for each in tracker.shifts
    )
    return replace(tracker, shifts=tuple(shifts))


def _is_passing(tracker: SpeedTracker, shift: Shift) -> bool:
    """A rise that nothing explains is the usual level after a day."""
    return not shift.explained and tracker.watched_seconds - shift.told_after_seconds < DAY_SECONDS


def _is_as_before(shift: Shift, level: float) -> bool:
    """Whether a level is the one before a shift, as far as the noise lets one tell, and not rather the one since."""
    left = abs(math.log(level / shift.speed.before))
    noise = math.log(shift.speed.max / shift.speed.ratio)
    return left <= max(LEAST_CHANGE, noise) and left < abs(math.log(shift.speed.ratio)) / 2
