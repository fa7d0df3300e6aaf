"""What one module has measured on one target: counters, histograms, recent probes and a history, folded from results. Pure.

A record is replaced whole with every result, so a reader that holds one sees nothing change.
"""

import math
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from exporter.history.gaps import NO_GAPS, Gaps, gaps_of
from exporter.probe.result import (
    CHECKS,
    RESULTS,
    SKIPPED,
    AnswerCheck,
    FingerprintReading,
    Measurements,
    ProbeResult,
)
from exporter.probe.timeline import Timeline
from exporter.text import ERROR_CHARACTERS, finite, label, printable

LOG_LINES: Final = 40
RECENT: Final = 4
RECENT_FAILED: Final = 4
HISTORY: Final = 180

TTFT_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Seconds."""
INTER_TOKEN_BOUNDS: Final = (
    *(1 / speed for speed in (400, 200, 100, 80, 60, 50, 40, 30, 25)),
    *(1 / speed for speed in (20, 15, 12, 10, 8, 5, 2, 1)),
    2.5,
)
"""Seconds per token; those of 20, 15 and 10 tokens/s are the bounds of the tiers."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a module is meant to do on a target; published at start and reload, before the first probe."""

    interval_seconds: float
    concurrency: int = 1
    canary: bool = False
    """Whether it asks if the answers are right."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations counted by bucket (not cumulated; one more bucket than bounds) and their sum."""

    counts: tuple[int, ...]
    sum: float = 0.0

    def observe(self, values: Iterable[tuple[float, int]], bounds: tuple[float, ...]) -> "Histogram":
        """With more (value, times); what can't have been observed is left out. A bound belongs to the bucket below it."""
        counts, total = list(self.counts), self.sum
        for value, times in values:
            number = finite(value)
            if number is not None and number >= 0 and times > 0:
                counts[bisect_left(bounds, number)] += times
                total += number * times
        return Histogram(tuple(counts), total)


@dataclass(frozen=True, slots=True)
class ModelHistograms:
    """TTFT and inter-token time of one model since the start."""

    model: str
    ttft: Histogram = Histogram((0,) * (len(TTFT_BOUNDS) + 1))
    inter_token: Histogram = Histogram((0,) * (len(INTER_TOKEN_BOUNDS) + 1))


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters of one module on one target; ``results`` is parallel to ``RESULTS``."""

    results: tuple[int, ...] = (0,) * len(RESULTS)
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    busy_seconds: float = 0.0
    last_run_seconds: float | None = None
    last_success_seconds: float | None = None
    checks: tuple[int, ...] = (0,) * len(CHECKS)
    """Parallel to ``CHECKS``."""


class Point(NamedTuple):
    """One probe that ran, for the history: Unix time, and its speed unless it failed or had none."""

    at_seconds: float
    tokens_per_second: float | None
    ok: bool


_POINT: Final = struct.Struct("<dd?")


@dataclass(frozen=True, slots=True)
class SpeedHistory:
    """The newest ``HISTORY`` points, oldest first.

    Packed, because a thousand targets each keep one: as objects they would be most of those that a full garbage collection
    visits, and nothing else runs meanwhile.
    """

    packed: bytes = b""

    def __len__(self) -> int:
        return len(self.packed) // _POINT.size

    def __iter__(self) -> Iterator[Point]:
        for at_seconds, speed, ok in _POINT.iter_unpack(self.packed):
            yield Point(at_seconds, finite(speed), ok)

    def followed_by(self, point: Point) -> "SpeedHistory":
        """The history after one more probe."""
        speed = math.nan if point.tokens_per_second is None else point.tokens_per_second
        kept = self.packed[-(HISTORY - 1) * _POINT.size :]
        return SpeedHistory(kept + _POINT.pack(point.at_seconds, speed, point.ok))


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of one module on one target.

    ``last`` is the newest result, ``ran`` the newest of a probe that was not skipped. A skipped probe leaves everything that
    ``ran`` says as it was; a failed one leaves nothing of an older one behind. ``recent`` holds results newest first, failures
    for longer than successes.
    """

    target: str
    module: str
    plan: Plan
    interval_seconds: float
    last: ProbeResult | None = None
    ran: ProbeResult | None = None
    totals: Totals = Totals()
    histograms: tuple[ModelHistograms, ...] = ()
    recent: tuple[ProbeResult, ...] = ()
    history: SpeedHistory = SpeedHistory()
    fingerprint: FingerprintReading | None = None
    """The last one that was taken."""
    gaps: Gaps = NO_GAPS
    """Between the tokens of the last good probe of one stream that ran; none after another."""
    alone: tuple[str, float] | None = None
    """Model and speed of the newest good probe that no user's request ran beside: what users get is set beside it."""

    @property
    def success(self) -> bool | None:
        """Whether the last probe that ran was good; None before the first."""
        return None if self.ran is None else self.ran.result == "ok"

    @property
    def figures(self) -> Measurements | None:
        """What the last probe that ran measured; None before the first and after a failed one."""
        return self.ran.measurements if self.ran is not None and self.ran.result == "ok" else None


def planned(record: Record | None, target: str, module: str, plan: Plan) -> Record:
    """The record under a new plan: counters stay, and so does a stretched interval unless the plan's own has changed."""
    if record is None:
        return Record(target, module, plan, plan.interval_seconds)
    if record.plan.interval_seconds == plan.interval_seconds:
        return replace(record, plan=plan)
    return replace(record, plan=plan, interval_seconds=plan.interval_seconds)


def fold(record: Record, result: ProbeResult) -> Record:
    """The record after one more probe."""
    histograms = observed(record.histograms, result)
    gaps = gaps_of(result.measurements.gaps) if result.concurrency == 1 else NO_GAPS
    result = trimmed(result)
    changed = replace(
        record,
        interval_seconds=finite(result.interval_seconds) or record.interval_seconds,
        histograms=histograms,
        last=result,
        totals=_counted(record.totals, result),
        recent=_recent((result, *record.recent)),
        fingerprint=result.fingerprint or record.fingerprint,
    )
    if result.result in SKIPPED:
        return changed
    ok = result.result == "ok"
    point = Point(result.at_seconds, finite(result.measurements.tokens_per_second) if ok else None, ok)
    return replace(
        changed,
        ran=result,
        history=record.history.followed_by(point),
        gaps=gaps if ok else NO_GAPS,
        alone=_alone(record.alone, result, point.tokens_per_second),
    )


def _alone(before: tuple[str, float] | None, result: ProbeResult, speed: float | None) -> tuple[str, float] | None:
    if speed is not None and not result.beside_users:
        return result.model or "", speed
    return before if before and (result.result != "ok" or before[0] == (result.model or "")) else None


def trimmed(result: ProbeResult) -> ProbeResult:
    """What is kept of a result: strings safe to show, and of its streams the marks without the chunks between.

    Memory is why: a thousand targets each keep several.
    """
    return replace(
        result,
        model=None if result.model is None else label(result.model),
        error=printable(result.error, ERROR_CHARACTERS),
        checks=tuple(replace(each, reason=printable(each.reason, ERROR_CHARACTERS)) for each in result.checks),
        log=tuple(printable(line, ERROR_CHARACTERS) for line in result.log[:LOG_LINES]),
        measurements=replace(result.measurements, gaps=()),
        timelines=tuple(_marks(timeline) for timeline in result.timelines),
        state=None,
    )


def _marks(timeline: Timeline) -> Timeline:
    return replace(timeline, chunks=(*timeline.chunks[:1], *timeline.chunks[1:][-1:]))


def _recent(results: tuple[ProbeResult, ...]) -> tuple[ProbeResult, ...]:
    failed = [result for result in results[RECENT:] if result.result != "ok" and result.result not in SKIPPED]
    return (*results[:RECENT], *failed[:RECENT_FAILED])


def _counted(totals: Totals, result: ProbeResult) -> Totals:
    results = tuple(count + (name == result.result) for name, count in zip(RESULTS, totals.results, strict=True))
    ran = result.result not in SKIPPED
    return Totals(
        results=results,
        prompt_tokens=totals.prompt_tokens + _amount(result.prompt_tokens_spent),
        output_tokens=totals.output_tokens + _amount(result.output_tokens_spent),
        busy_seconds=totals.busy_seconds + _amount(result.busy_seconds),
        last_run_seconds=result.at_seconds if ran else totals.last_run_seconds,
        last_success_seconds=result.at_seconds if result.result == "ok" else totals.last_success_seconds,
        checks=_checked(totals.checks, result.checks),
    )


def _checked(counts: tuple[int, ...], checks: tuple[AnswerCheck, ...]) -> tuple[int, ...]:
    found = [(each.depth, each.verdict) for each in checks]
    return tuple(count + found.count(each) for each, count in zip(CHECKS, counts, strict=True))


def _amount(value: float) -> float:
    # A counter that once took an absurd number never recovers: what can't be is not counted.
    number = finite(value)
    return number if number is not None and 0 <= number < 1e12 else 0.0


def observed(histograms: tuple[ModelHistograms, ...], result: ProbeResult) -> tuple[ModelHistograms, ...]:
    """The histograms after one more probe: one observation of TTFT, one of inter-token time for each token of a gap.

    Only a good probe of a warm model counts, measured while nobody else used the server: a wait is not a TTFT, and users share the speed.
    """
    if result.result != "ok" or result.cold_start or result.beside_users:
        return histograms
    model = label(result.model or "")
    old = next((each for each in histograms if each.model == model), ModelHistograms(model))
    ttft = result.measurements.ttft_seconds
    new = ModelHistograms(
        model,
        old.ttft if ttft is None else old.ttft.observe([(ttft, 1)], TTFT_BOUNDS),
        old.inter_token.observe(result.measurements.gaps, INTER_TOKEN_BOUNDS),
    )
    return (*(each for each in histograms if each.model != model), new)


def without_model(record: Record, model: str) -> Record:
    """The record with nothing left that carries this model's name as a label."""
    ran = record.ran
    if ran is not None and (ran.model or "") == model:
        ran = replace(ran, model=None, measurements=Measurements())
    return replace(record, ran=ran, histograms=tuple(each for each in record.histograms if each.model != model))
