"""The geometry of the page's drawings, in percent of their box. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final

from exporter.history.gaps import Gaps
from exporter.history.record import Point
from exporter.tiers import TIERS, Judgement

LEAST_APART: Final = 8.0
"""Percent of the width between two labels of ticks."""
GAP_INTERVALS: Final = 3
"""Probes further apart than this many intervals are not joined by a line."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch from the left; ``name`` is the tier that it stands for."""

    name: str
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A speed on the scale of its tiers: the zones behind, the ticks between them, the expected band, the ceiling."""

    zones: tuple[Span, ...]
    ticks: tuple[tuple[str, float], ...]
    speed: float | None
    band: Span | None
    ceiling: float | None


@dataclass(frozen=True, slots=True)
class Sparkline:
    """Speed over time from 0 up: lines as SVG points, failures, changes and the newest point by their position."""

    lines: tuple[str, ...]
    failures: tuple[float, ...]
    changes: tuple[float, ...]
    newest: tuple[float, float] | None
    seconds: float
    low: float | None
    high: float | None


def bar_of(speed: float | None, judgement: Judgement) -> Bar:
    """Where a speed stands. The scale holds tiers, band and speed; a ceiling only if it doesn't crush the rest."""
    limits = judgement.thresholds
    top = max(1.3 * limits.excellent, 1.1 * (speed or 0.0), 1.1 * (judgement.expected_max or 0.0))
    ceiling = judgement.ceiling_tokens_per_second
    if ceiling is not None and ceiling <= 2 * top:
        top = max(top, 1.05 * ceiling)
    else:
        ceiling = None

    def at(value: float) -> float:
        return round(100 * min(max(value, 0.0), top) / top, 2)

    bounds = (0.0, limits.acceptable, limits.good, limits.excellent, top)
    tiers = zip(reversed(TIERS), pairwise(bounds), strict=True)
    zones = tuple(_span(tier, at(low), at(high)) for tier, (low, high) in tiers)
    least, most = judgement.expected_min, judgement.expected_max
    return Bar(
        zones=zones,
        ticks=_apart((f"{bound:g}", at(bound)) for bound in bounds[1:-1]),
        speed=None if speed is None else at(speed),
        band=None if least is None and most is None else _span("expected", at(least or 0.0), at(most or top)),
        ceiling=None if ceiling is None else at(ceiling),
    )


def _apart(ticks: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Those whose labels have room, the rightmost always: on the scale of a very fast server the tiers lie close together."""
    kept: list[tuple[str, float]] = []
    for each in reversed(list(ticks)):
        if not kept or kept[-1][1] - each[1] >= LEAST_APART:
            kept.append(each)
    return tuple(reversed(kept))


def _span(name: str, begin: float, end: float) -> Span:
    return Span(name, begin, round(end - begin, 2))


def sparkline_of(
    history: Iterable[Point], interval_seconds: float, now: float, changes: Iterable[float] = ()
) -> Sparkline | None:
    """The history as a line that breaks where a probe failed or none ran; None for fewer than two probes.

    ``changes`` are Unix times; those within the history are marked.
    """
    points = [point for point in history if point.at_seconds <= now]
    if len(points) < 2:
        return None
    begin = points[0].at_seconds
    seconds = max(now - begin, 1.0)
    speeds = [point.tokens_per_second for point in points if point.tokens_per_second is not None]
    top = 1.15 * max(speeds, default=1.0) or 1.0

    def position(point: Point, speed: float) -> tuple[float, float]:
        return round(100 * (point.at_seconds - begin) / seconds, 2), round(100 * (1 - speed / top), 2)

    lines: list[list[str]] = [[]]
    last: Point | None = None
    newest: tuple[float, float] | None = None
    for point in points:
        if point.tokens_per_second is None or (
            last and point.at_seconds - last.at_seconds > GAP_INTERVALS * interval_seconds
        ):
            lines.append([])
        if point.tokens_per_second is not None:
            newest = position(point, point.tokens_per_second)
            lines[-1].append(f"{newest[0]:g},{newest[1]:g}")
        last = point
    return Sparkline(
        lines=tuple(" ".join(line if len(line) > 1 else line * 2) for line in lines if line),
        failures=tuple(round(100 * (point.at_seconds - begin) / seconds, 2) for point in points if not point.ok),
        changes=tuple(round(100 * (at - begin) / seconds, 2) for at in changes if begin <= at <= now),
        newest=newest if points[-1].ok else None,
        seconds=seconds,
        low=min(speeds, default=None),
        high=max(speeds, default=None),
    )


@dataclass(frozen=True, slots=True)
class WaterfallPhase:
    """One phase of a probe: where it begins, how wide it is, and its seconds."""

    name: str
    x: float
    width: float
    seconds: float


def waterfall_of(phases: Iterable[tuple[str, float]]) -> tuple[WaterfallPhase, ...]:
    """The phases of a probe, each beginning where the one before ended; the whole is the total, or their sum if that is more."""
    held = dict(phases)
    total = held.pop("total", 0.0)
    scale = max(total, sum(held.values()))
    if not scale > 0:
        return ()
    found, begin = [], 0.0
    for name, seconds in held.items():
        found.append(
            WaterfallPhase(
                name.replace("_", " "), round(100 * begin / scale, 2), round(100 * seconds / scale, 2), seconds
            )
        )
        begin += seconds
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Strip:
    """The gaps between tokens as columns from the left, all of one width; heights in percent of the longest gap.

    Seconds per token: ``median`` over the gaps, ``longest`` and the number of the token after it.
    """

    columns: tuple[tuple[float, float], ...]
    width: float
    median: float
    longest: float
    longest_at: int
    tokens: int


def strip_of(gaps: Gaps) -> Strip | None:
    """The gaps of the last probe as a strip; None for fewer than two."""
    held = list(gaps)
    if len(held) < 2:
        return None
    seconds = [each for each, _ in held]
    longest = max(seconds)
    if longest <= 0:
        return None
    at = seconds.index(longest)
    width = 100 / len(held)
    return Strip(
        columns=tuple(
            (round(number * width, 2), round(100 * each / longest, 1)) for number, each in enumerate(seconds)
        ),
        width=round(0.8 * width, 2),
        median=median(seconds),
        longest=longest,
        longest_at=1 + sum(tokens for _, tokens in held[: at + 1]),
        tokens=sum(tokens for _, tokens in held),
    )
