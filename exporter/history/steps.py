"""Steps that no fact explains: the level in the long run, and the sums that rise when a series leaves it. Pure.

A winsorised CUSUM: of each residual, cut at ``WINSOR`` standard deviations, ``SLACK`` is taken off and the rest is summed up.
A sum of ``ALARM`` is a step. The textbook's ``SLACK`` 0.5 and ``ALARM`` 5 would give thousands of alarms a year, because
probes resemble the one before; see tests/bench/changes.py for what these give.
"""

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from exporter.history.ratio import scatter_of
from exporter.history.sample import positive

SLACK: Final = 1.0
ALARM: Final = 15.0
WINSOR: Final = 3.0
"""Standard deviations. One probe, however slow, adds 2 to a sum."""
LEAST_SCATTER: Final = 0.005
"""A quieter series is taken to be this noisy: half a percent is no step."""
MOST_SPEEDS: Final = 240
WIDEST_STRIDE: Final = 8


@dataclass(frozen=True, slots=True)
class Reference:
    """The level in the long run: up to 240 speeds, one in ``stride``, packed as 32-bit floats, oldest first.

    It starts with every speed and thins itself out until it spans 32 hours of a probe a minute, and from then on the
    oldest is dropped. ``middle`` is the median of their logarithms, ``scatter`` the standard deviation by absolute deviations.
    """

    packed: bytes = b""
    stride: int = 1
    skipped: int = 0
    middle: float = 0.0
    scatter: float = LEAST_SCATTER

    @classmethod
    def of(cls, speeds: Iterable[float]) -> "Reference":
        return _measured(cls(array("f", [speed for speed in speeds if positive(speed) is not None]).tobytes()))

    def __len__(self) -> int:
        return len(self.packed) // 4

    def followed_by(self, speed: float) -> "Reference":
        """With one more speed, or without it if it is not one in ``stride``."""
        if self.skipped + 1 < self.stride:
            return replace(self, skipped=self.skipped + 1)
        speeds = array("f", self.packed)
        speeds.append(speed)
        stride = self.stride
        if len(speeds) > MOST_SPEEDS:
            if stride < WIDEST_STRIDE:
                speeds, stride = speeds[::2], stride * 2
            else:
                speeds = speeds[1:]
        return _measured(Reference(speeds.tobytes(), stride))

    def residual(self, speed: float) -> float:
        """How far a speed is from the level, in standard deviations."""
        return (math.log(speed) - self.middle) / self.scatter


def _measured(reference: Reference) -> Reference:
    logarithms = [math.log(speed) for speed in array("f", reference.packed)]
    if not logarithms:
        return reference
    middle = median(logarithms)
    scatter = scatter_of([value - middle for value in logarithms])
    return replace(reference, middle=middle, scatter=max(LEAST_SCATTER, scatter))


@dataclass(frozen=True, slots=True)
class Cusum:
    """The sum of one direction, at most ``ALARM``, and how many samples it has been above 0."""

    value: float = 0.0
    run: int = 0

    @property
    def alarmed(self) -> bool:
        return self.value >= ALARM

    def followed_by(self, residual: float) -> "Cusum":
        """After one more residual, positive in the direction of this sum."""
        value = self.value + max(-WINSOR, min(WINSOR, residual)) - SLACK
        return Cusum(min(value, ALARM), self.run + 1) if value > 0 else Cusum()
