"""Near a bound a speed agrees with its tier, and what people see does not flicker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.settings import Thresholds
from exporter.tiers import NEAR, tier_of
from exporter.web.steady import IN_A_ROW, near_bound, speed_shown, steady_tier

LIMITS = Thresholds(excellent=20, good=15, acceptable=10)
SPEEDS = st.floats(0.01, 5000)


@pytest.mark.parametrize(
    ("speed", "said"),
    [
        (19.96, "19.96"),
        (20.0, "20.0"),
        (19.996, "19.996"),
        (9.97, "9.97"),
        (14.2, "14.2"),
        (20.04, "20.0"),
        (None, "–"),
    ],
)
def test_a_speed_does_not_contradict_its_tier(speed: float | None, said: str) -> None:
    """It gets more digits where fewer would carry it over a bound."""
    assert speed_shown(speed, LIMITS) == said


@given(SPEEDS)
def test_no_speed_contradicts_its_tier(speed: float) -> None:
    """What is read has the tier of what was measured, but for less than a hundredth of a per cent."""
    shown = float(speed_shown(speed, LIMITS).replace(",", ""))
    assert tier_of(shown, LIMITS) == tier_of(speed, LIMITS) or abs(shown / speed - 1) < 1e-4


@pytest.mark.parametrize(
    ("speeds", "shown"),
    [
        ([], None),
        ([19.9], "good"),
        ([19.9, 20.1], "good"),
        ([19.9, 20.1, 19.9, 20.1, 19.9, 20.1], "good"),
        ([20.1, 19.9, 20.1, 19.9], "excellent"),
        ([19.9, 20.1, 20.1, 20.1], "excellent"),
        ([19.9, 20.5], "excellent"),
        ([24.0, 6.4], "poor"),
        ([10.1, 9.9, 9.9], "acceptable"),
        ([10.1, 9.9, 9.9, 9.9], "poor"),
    ],
)
def test_a_tier_changes_beyond_the_bound_or_for_the_third_time(speeds: list[float], shown: str | None) -> None:
    """A wavering of 1 % around a bound keeps the tier that was shown; a step beyond it counts at once."""
    assert steady_tier(speeds, LIMITS) == shown


@given(st.lists(SPEEDS, min_size=1), SPEEDS)
def test_a_speed_that_stays_is_shown_as_what_it_is(before: list[float], speed: float) -> None:
    """After so many probes at one speed the tier is that speed's, whatever came before."""
    assert steady_tier([*before, *[speed] * IN_A_ROW], LIMITS) == tier_of(speed, LIMITS)


@given(st.lists(SPEEDS, min_size=1))
def test_what_is_shown_is_never_far_off(speeds: list[float]) -> None:
    """The tier that is shown is that of a speed at most so far from the newest."""
    near = {tier_of(speeds[-1] * factor, LIMITS) for factor in (1 - NEAR, 1, 1 + NEAR)}
    assert steady_tier(speeds, LIMITS) in near


def test_the_bound_between_a_speed_and_what_is_shown() -> None:
    """It is named where the two disagree, and only there."""
    assert near_bound(20.1, "good", LIMITS) == 20
    assert near_bound(9.9, "acceptable", LIMITS) == 10
    assert near_bound(16.0, "good", LIMITS) is None
