"""The two-sample test: how a figure after compares with the same figure before, and whether the difference is noise.

Medians, so that single outliers decide nothing. The noise is the median of absolute deviations. It is widened because probes of
one server resemble the one before (autocorrelation), and once more if few probes show how large it is. Pure.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final

from exporter.history.sample import positive

LEAST_SAMPLES: Final = 3
"""Fewer on either side give no ratio."""
LEAST_CHANGE: Final = math.log(1.02)
"""A difference of less than 2 % is never reported, however quiet the series is."""
SIGMAS: Final = 4.0
FEW: Final = 5
"""With fewer than these on a side, single samples decide: two outliers of three are their median."""

_NORMAL: Final = 1.4826
"""Standard deviation ÷ median absolute deviation of a normal distribution."""
_MEDIAN: Final = math.pi / 2
"""Variance of the median ÷ that of the mean."""
_USUAL_AUTOCORRELATION: Final = 0.5
_USUAL_WEIGHT: Final = 20
"""A short series says little of its autocorrelation: the usual one is mixed in, as if it came from that many samples."""
_MOST_AUTOCORRELATION: Final = 0.9
_WIDER: Final = 10 / 3
"""How much wider for few samples, by simulation: below 1 false in 1,000 changes; see tests/bench/changes.py."""
_WINSOR: Final = 3.0


@dataclass(frozen=True, slots=True)
class Ratio:
    """Medians before and after in the figure's own unit, ``ratio`` = after ÷ before, and the interval that it lies in.

    The interval is as wide as what counts as noise: if it includes 1, the difference is noise.
    """

    before: float
    after: float
    ratio: float
    min: float
    max: float
    n_before: int
    n_after: int

    @property
    def beyond_noise(self) -> bool:
        return not self.min <= 1 <= self.max

    @property
    def below(self) -> bool:
        """Lower, beyond the noise."""
        return self.max < 1

    @property
    def above(self) -> bool:
        """Higher, beyond the noise."""
        return self.min > 1


def ratio_of(before: Iterable[float], after: Iterable[float]) -> Ratio | None:
    """Compare two series, each in the order in which it was measured; what is not a positive number is left out.

    None if a side has fewer than ``LEAST_SAMPLES``. With fewer than ``FEW`` on a side, the interval also covers what each of
    these samples would give alone. So a difference is reported only if all of them show it.
    """
    old, new = _logarithms(before), _logarithms(after)
    if min(len(old), len(new)) < LEAST_SAMPLES:
        return None
    middle, now = median(old), median(new)
    width = max(LEAST_CHANGE, _width(_residuals(old, middle), _residuals(new, now)))
    low, high = now - middle - width, now - middle + width
    if min(len(old), len(new)) < FEW:
        olds = old if len(old) < FEW else [middle]
        news = new if len(new) < FEW else [now]
        low = min(low, min(news) - max(olds) - LEAST_CHANGE)
        high = max(high, max(news) - min(olds) + LEAST_CHANGE)
    return Ratio(
        before=math.exp(middle),
        after=math.exp(now),
        ratio=math.exp(now - middle),
        min=_exp(low),
        max=_exp(high),
        n_before=len(old),
        n_after=len(new),
    )


def scatter_of(residuals: Sequence[float]) -> float:
    """The standard deviation of residuals around their median, by the median of their absolute values."""
    return _NORMAL * median(map(abs, residuals)) if residuals else 0.0


def _logarithms(values: Iterable[float]) -> list[float]:
    return [math.log(value) for value in values if positive(value) is not None]


def _residuals(values: Sequence[float], middle: float) -> list[float]:
    return [value - middle for value in values]


def _width(old: Sequence[float], new: Sequence[float]) -> float:
    """Four standard deviations of the difference of both medians, as far as the samples show it."""
    total = len(old) + len(new)
    # Two medians were taken from the same samples, which makes their residuals smaller than the noise is.
    scatter = scatter_of([*old, *new]) * total / (total - 2)
    correlation = _autocorrelation(old, scatter)
    alone = [len(side) / _repetition(len(side), correlation) for side in (old, new)]
    error = scatter * math.sqrt(_MEDIAN * sum(1 / count for count in alone))
    return SIGMAS * error * (1 + _WIDER / max(1.0, sum(alone) - 1))


def _autocorrelation(residuals: Sequence[float], scatter: float) -> float:
    """How much a sample resembles the one before it, 0 to ``_MOST_AUTOCORRELATION``, outliers cut."""
    if scatter <= 0:
        return _USUAL_AUTOCORRELATION
    cut = [max(-_WINSOR, min(_WINSOR, value / scatter)) for value in residuals]
    power = math.fsum(value * value for value in cut)
    seen = math.fsum(one * other for one, other in pairwise(cut)) / power if power else 0.0
    mixed = (len(cut) * max(0.0, seen) + _USUAL_WEIGHT * _USUAL_AUTOCORRELATION) / (len(cut) + _USUAL_WEIGHT)
    return min(mixed, _MOST_AUTOCORRELATION)


def _repetition(count: int, correlation: float) -> float:
    """By how much the autocorrelation multiplies the variance of a mean of ``count``: 1 if there is none."""
    rest = 1 - correlation
    return (1 + correlation) / rest - 2 * correlation * (1 - correlation**count) / (count * rest * rest)


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
