"""What the two-sample test calls a difference, what it calls noise, and how sure it says it is."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.history.ratio import LEAST_SAMPLES, ratio_of
from tests.history.series import speeds

POSITIVE = st.floats(0.01, 10_000, allow_nan=False)
SERIES = st.lists(POSITIVE, min_size=LEAST_SAMPLES, max_size=70)


def found(before: list[float], after: list[float]) -> float:
    ratio = ratio_of(before, after)
    assert ratio is not None
    return ratio.ratio if ratio.beyond_noise else 1.0


@pytest.mark.parametrize(("share", "needed"), [(0.9, 5), (0.53, 3), (0.95, 10), (0.97, 60)])
def test_a_drop_is_found_within_so_many_probes(share: float, needed: int) -> None:
    """-10 % in 5 probes, -47 % in 3, -5 % in 10, in at least 19 of 20 series of the usual noise."""
    hits = 0
    for seed in range(40):
        values = speeds(seed, 60 + needed)
        ratio = ratio_of(values[:60], [share * value for value in values[60:]])
        hits += ratio is not None and ratio.below and math.isclose(ratio.ratio, share, rel_tol=0.04)
    assert hits >= 38


def test_noise_is_no_difference() -> None:
    """Of 200 series in which nothing happened, none shows a difference after 3, 5, 10 or 30 probes."""
    for seed in range(200):
        values = speeds(seed, 90)
        assert [found(values[:60], values[60 : 60 + count]) for count in (3, 5, 10, 30)] == [1.0] * 4


def test_autocorrelation_widens_the_interval() -> None:
    """Probes that resemble the one before say less: their interval is wider than that of independent ones as noisy."""
    widths = {}
    for correlation in (0.0, 0.8):
        each = []
        for seed in range(30):
            values = speeds(seed, 70, correlation=correlation, outliers=0, scatter=0.03)
            ratio = ratio_of(values[:60], values[60:])
            assert ratio is not None
            each.append(math.log(ratio.max / ratio.min))
        widths[correlation] = statistics.median(each)
    assert widths[0.8] > 1.4 * widths[0.0]


def test_less_than_two_percent_is_never_a_difference() -> None:
    """Even where a series is perfectly quiet."""
    assert found([12.0] * 60, [11.8] * 30) == 1.0
    assert found([12.0] * 60, [11.7] * 30) == pytest.approx(11.7 / 12)


def test_two_outliers_of_three_decide_nothing() -> None:
    """With fewer than five probes on a side, a difference takes all of them."""
    assert found([12.0] * 60, [12.01, 6.0, 6.1]) == 1.0
    assert found([12.0] * 60, [6.2, 6.0, 6.1]) == pytest.approx(6.1 / 12)
    assert found([12.01, 6.0, 6.1], [12.0] * 60) == 1.0


@pytest.mark.parametrize("few", [[], [12.0], [12.0, 12.1], [12.0, 12.1, 0.0], [12.0, 12.1, math.nan, -1, math.inf]])
def test_fewer_than_three_give_no_ratio(few: list[float]) -> None:
    """What is not a positive number is no measurement, and two measurements are too few."""
    assert ratio_of(few, [12.0] * 60) is None
    assert ratio_of([12.0] * 60, few) is None


@given(SERIES, SERIES)
def test_the_interval_holds_the_ratio_and_decides(before: list[float], after: list[float]) -> None:
    """The ratio lies in its interval, which includes 1 exactly where the difference is noise."""
    ratio = ratio_of(before, after)
    assert ratio is not None
    assert ratio.min < ratio.ratio < ratio.max
    assert ratio.beyond_noise == (ratio.below or ratio.above)
    assert (ratio.n_before, ratio.n_after) == (len(before), len(after))
    assert ratio.ratio == pytest.approx(ratio.after / ratio.before)


@given(SERIES, SERIES, st.floats(0.1, 10))
def test_the_unit_does_not_matter(before: list[float], after: list[float], unit: float) -> None:
    """The same figures in another unit give the same ratio and the same interval."""
    one = ratio_of(before, after)
    other = ratio_of([unit * value for value in before], [unit * value for value in after])
    assert one is not None
    assert other is not None
    assert (other.ratio, other.min, other.max) == pytest.approx((one.ratio, one.min, one.max), rel=1e-6)
