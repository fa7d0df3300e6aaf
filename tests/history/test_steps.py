"""The level in the long run, and the sums that rise when a series leaves it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.history.steps import ALARM, LEAST_SCATTER, MOST_SPEEDS, WIDEST_STRIDE, Cusum, Reference
from tests.history.series import speeds


def test_the_reference_keeps_a_bounded_span_of_time() -> None:
    """It thins itself out while it fills, never exceeds its size, and its oldest leave once it spans 32 hours."""
    reference = Reference()
    for number in range(10_000):
        reference = reference.followed_by(1.0 + number / 10_000)
        assert len(reference) <= MOST_SPEEDS
    assert reference.stride == WIDEST_STRIDE
    # The middle of the last 1920 of 10,000 speeds that rise from 1 to 2.
    assert math.exp(reference.middle) == pytest.approx(2 - 960 / 10_000, abs=0.01)


def test_the_reference_measures_the_noise() -> None:
    """Median and deviation are those of the series, whatever 2 % of outliers do."""
    reference = Reference.of(speeds(1, 240))
    assert math.exp(reference.middle) == pytest.approx(12.1, rel=0.005)
    assert reference.scatter == pytest.approx(0.01, rel=0.3)
    assert abs(Reference.of([12.0] * 60).residual(12.0)) < 1e-6
    assert Reference.of([12.0] * 60).scatter == LEAST_SCATTER


def test_one_probe_raises_no_alarm_however_slow() -> None:
    """A single outlier adds 2, and the sum needs 15: eight in a row."""
    cusum = Cusum().followed_by(1000.0)
    assert cusum == Cusum(2.0, 1)
    for _ in range(7):
        assert not cusum.alarmed
        cusum = cusum.followed_by(1000.0)
    assert cusum.alarmed
    assert cusum.run == 8


@given(st.lists(st.floats(-1e6, 1e6), max_size=200))
def test_a_sum_stays_within_its_bounds(residuals: list[float]) -> None:
    """Whatever comes, the sum is 0 to the alarm, and counts the samples since it was last 0."""
    cusum = Cusum()
    for residual in residuals:
        cusum = cusum.followed_by(residual)
        assert 0 <= cusum.value <= ALARM
        assert (cusum.run == 0) == (cusum.value == 0)
    assert cusum.run <= len(residuals)
