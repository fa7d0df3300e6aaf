"""Probes of one hour as their medians, which are kept when the single probes are deleted. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Final

from exporter.history.sample import Sample

HOUR_SECONDS: Final = 3600.0
_LAST_HOUR: Final = 2**24 - 1
"""In the year 3883. Hours are numbered from 1970; what a clock says beyond both ends is put there."""


@dataclass(frozen=True, slots=True)
class Hour:
    """The probes of one hour: its beginning (Unix time), how many ran, how many counted, and the medians of those.

    Tokens per second and seconds; None if none was measured.
    """

    at_seconds: float
    probes: int
    good: int
    tokens_per_second: float | None = None
    ttft_seconds: float | None = None
    prefill_tokens_per_second: float | None = None


def hour_number(at_seconds: float) -> int:
    """Which hour a time lies in, counted from 1970, between 0 and 2**24 - 1."""
    return int(min(max(at_seconds / HOUR_SECONDS, 0), _LAST_HOUR))


def hour_of(number: int, samples: Iterable[Sample]) -> Hour:
    """The medians of those that count."""
    ran = tuple(samples)
    good = [each for each in ran if each.counts]
    return Hour(
        number * HOUR_SECONDS,
        len(ran),
        len(good),
        _median(each.tokens_per_second for each in good),
        _median(each.ttft_seconds for each in good),
        _median(each.prefill_tokens_per_second for each in good),
    )


def joined(one: Hour, other: Hour) -> Hour:
    """Both together, if the single probes of one are gone: the medians of the one with more of them."""
    larger = max(one, other, key=lambda hour: hour.good)
    return Hour(
        one.at_seconds,
        one.probes + other.probes,
        one.good + other.good,
        larger.tokens_per_second,
        larger.ttft_seconds,
        larger.prefill_tokens_per_second,
    )


def _median(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return median(found) if found else None
