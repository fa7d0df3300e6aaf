"""What was different around an unexplained step: figures of the machine that are no facts, since they waver all the time. Pure.

Beside each good probe a few figures are noted (temperature, clock, power, memory in use, users). When a step is found, those
stand out whose median since differs from the median before by more than their own noise and by more than means anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from exporter.history.ratio import scatter_of

MOST: Final = 150
LEAST: Final = 5
"""Fewer readings on either side show nothing."""
SIGMAS: Final = 4.0
MOST_TOLD: Final = 4

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class FigureKind:
    """How a figure is written, and how much of a difference means something: absolute, and as a share of what it was."""

    unit: str
    least: float
    share: float = 0.0
    per_unit: float = 1.0
    digits: int = 0

    def text(self, value: float) -> str:
        return f"{value / self.per_unit:.{self.digits}f} {self.unit}".rstrip()


KINDS: Final[Mapping[str, FigureKind]] = {
    "GPU temperature": FigureKind("°C", least=5.0),
    "GPU clock": FigureKind("MHz", least=50e6, share=0.05, per_unit=1e6),
    "GPU power": FigureKind("W", least=3.0, share=0.08),
    "GPU memory in use": FigureKind("GB", least=256e6, share=0.03, per_unit=1e9, digits=1),
    "time throttled": FigureKind("%", least=0.05, per_unit=0.01),
    "requests of users": FigureKind("", least=0.5, digits=1),
}
"""The figures that are noted; to note one more, give it a line here and a value in ``exporter/watched_facts.py``."""


@dataclass(frozen=True, slots=True)
class NotedFigures:
    """The newest readings of one target, oldest first: Unix time and figures by the names in ``KINDS``."""

    readings: tuple[tuple[float, Figures], ...] = ()

    def followed_by(self, at_seconds: float, figures: Figures) -> "NotedFigures":
        """With one more."""
        return NotedFigures((*self.readings[-(MOST - 1) :], (at_seconds, dict(figures))))

    def stood_out(self, since_seconds: float) -> tuple[tuple[str, str, str], ...]:
        """What differs since a time (Unix): name, before, after, as text; the largest difference first."""
        found = []
        for name, kind in KINDS.items():
            sides = [
                [figures[name] for at, figures in self.readings if name in figures and (at >= since_seconds) is later]
                for later in (False, True)
            ]
            if (told := _difference(kind, *sides)) is not None:
                found.append((told[0], (name, *told[1:])))
        return tuple(each for _, each in sorted(found, key=lambda one: -one[0])[:MOST_TOLD])


def _difference(kind: FigureKind, before: Sequence[float], after: Sequence[float]) -> tuple[float, str, str] | None:
    """How far apart, in units of what means something, and both medians in words; None if that may be noise."""
    if min(len(before), len(after)) < LEAST:
        return None
    old, new = median(before), median(after)
    noise = scatter_of([*(each - old for each in before), *(each - new for each in after)])
    least = max(kind.least, kind.share * abs(old))
    if abs(new - old) <= max(least, SIGMAS * noise):
        return None
    return abs(new - old) / least, kind.text(old), kind.text(new)
