"""The stretches of time that the page can show, and a history thinned to what a line of some hundred pixels shows. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from exporter.history.change import Ledger
from exporter.history.hours import HOUR_SECONDS
from exporter.history.record import Point, Record
from exporter.web.draw import Sparkline, sparkline_of

RANGES: Final[dict[str, float]] = {"3h": 3 * 3600.0, "2d": 2 * 86400.0, "30d": 30 * 86400.0}
"""Seconds, by the name in the page's address; the first is the usual one, which the memory of the recent probes shows."""
USUAL: Final = next(iter(RANGES))
SINGLE_SECONDS: Final = RANGES["2d"]
"""For so long single probes are kept; beyond it there are medians by the hour."""
MOST_POINTS: Final = 240


def thinned(points: Iterable[Point], since: float, until: float) -> tuple[Point, ...]:
    """At most ``MOST_POINTS`` for a stretch of Unix time: medians of those that lie together. Failed if all of them failed."""
    width = max((until - since) / MOST_POINTS, 1e-9)
    together: dict[int, list[Point]] = {}
    for point in points:
        if since <= point.at_seconds < until:
            together.setdefault(int((point.at_seconds - since) / width), []).append(point)
    return tuple(_joined(each) for _, each in sorted(together.items()))


def _joined(points: list[Point]) -> Point:
    speeds = [point.tokens_per_second for point in points if point.tokens_per_second is not None]
    middle = points[len(points) // 2].at_seconds
    return Point(middle, median(speeds) if speeds else None, any(point.ok for point in points))


@dataclass(frozen=True, slots=True)
class Stretch:
    """Which stretch of time the lines of speeds show (a name in ``RANGES``, any other is the usual one), and the history."""

    name: str = USUAL
    points: Callable[[str, str, float, float], Iterable[Point]] | None = None

    @property
    def known(self) -> str:
        """The name of the stretch that is shown."""
        return self.name if self.name in RANGES else USUAL

    def line(self, record: Record, ledger: Ledger | None, now: float) -> Sparkline | None:
        """The line of one module; None for fewer than two probes.

        What the memory of the recent probes holds comes from there, what was before from the history.
        """
        seconds = RANGES[self.known]
        since = now - seconds
        recent = [point for point in record.history if point.at_seconds >= since]
        begins = recent[0].at_seconds if recent else now
        older = self.points(record.target, record.module, since, begins) if self.points and begins > since else ()
        step = HOUR_SECONDS if seconds > SINGLE_SECONDS else seconds / MOST_POINTS
        points = thinned((*older, *recent), since, now + 1)
        line = sparkline_of(points, max(record.interval_seconds, step), now, _change_times(ledger))
        newest = recent[-1].tokens_per_second if recent else None
        if line is None or line.low is None or line.high is None or newest is None:
            return line
        # The newest speed stands beside the line, and a median of several probes can leave it out.
        return replace(line, low=min(line.low, newest), high=max(line.high, newest))


USUALLY: Final = Stretch()


def _change_times(ledger: Ledger | None) -> tuple[float, ...]:
    """When something changed, or stepped for no known reason."""
    return tuple(entry.at_seconds for entry in ledger.entries) if ledger else ()
