"""A speed and its tier as people see them: near a bound they neither contradict each other nor flicker. Pure.

Metrics and ``tier`` in the JSON are exact; this is about what is read at a glance.
"""

from collections.abc import Iterable
from typing import Final

from exporter.settings import Thresholds
from exporter.text import finite, rate_text
from exporter.tiers import NEAR, Tier, tier_of

IN_A_ROW: Final = 3
"""This many probes in another tier are no noise, however near the bound they are."""


def steady_tier(speeds: Iterable[float], bounds: Thresholds) -> Tier | None:
    """The tier to show after these speeds (tokens/s, oldest first); None without any.

    It changes with a speed that is beyond the bound by more than ``NEAR``, or with the third in a row on the other side.
    """
    shown: Tier | None = None
    away = 0
    for speed in speeds:
        if shown is None or tier_of(speed, bounds) == shown:
            shown, away = shown or tier_of(speed, bounds), 0
            continue
        away += 1
        # A little worse or a little better, it would still be elsewhere.
        clear = shown not in {tier_of(speed * (1 + NEAR), bounds), tier_of(speed * (1 - NEAR), bounds)}
        if clear or away >= IN_A_ROW:
            shown, away = tier_of(speed, bounds), 0
    return shown


def near_bound(speed: float, shown: Tier, bounds: Thresholds) -> float | None:
    """The bound between a speed and the tier that is shown for it; None if they agree."""
    own = tier_of(speed, bounds)
    if own == shown:
        return None
    steps = (bounds.acceptable, bounds.good, bounds.excellent)
    return min(steps, key=lambda bound: abs(bound - speed))


def speed_shown(speed: float | None, bounds: Thresholds) -> str:
    """A speed with as many digits as keep it on its side of a bound: 19.96 is not 20.0, which would be another tier."""
    number, text = finite(speed), rate_text(speed)
    if number is None:
        return text
    for digits in (None, 2, 3, 4):
        text = rate_text(number) if digits is None else f"{number:.{digits}f}"
        if tier_of(float(text.replace(",", "")), bounds) == tier_of(number, bounds):
            break
    return text
