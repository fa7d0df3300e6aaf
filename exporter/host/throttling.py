"""What holds a GPU's clocks down: heat, power, current, or something else. Pure.

A power limit at full load is normal and says only that the GPU does what it can; heat is a fault that someone can mend.
A firmware's bit is a claim: Navi 31, 32, 33 and 48 keep the one for a hot spot that is too hot at 37 degrees. A bit that
names a sensor is believed if that sensor's temperature is near its limit.
"""

from collections.abc import Mapping
from typing import Final, Literal

from exporter.host.gpu_metrics import Residency

Reason = Literal["thermal", "power", "current", "other"]
REASONS: Final[tuple[Reason, ...]] = ("thermal", "power", "current", "other")
Throttling = tuple[tuple[Reason, float], ...]
"""(reason, share of the time); 0 or 1 if the firmware says only what holds now. A reason that can't be known is left out."""

NEAR: Final = 10.0
"""Degrees below its limit from which a sensor may be what throttles: readings are averages, and the firmware's is quicker."""
STUCK_HOTSPOT: Final = frozenset({"gfx1100", "gfx1101", "gfx1102", "gfx1201"})
"""GPUs whose hot spot's bit is set at rest, so that it says nothing if its temperature can't be read."""
TOLERANCE: Final = 1.2
"""How much faster than time a counter may seem to grow; one that is faster still doesn't count time."""

_MASKS: Final[dict[Reason, int]] = {
    "power": 0xFFFF,
    "current": 0xFFFF << 16,
    "thermal": 0xFF_FFFF << 32,
    "other": 0xFF << 56,
}
_SENSORS: Final = {"mem": 34, "edge": 35, "junction": 36}
"""Bits that name a sensor, by the label of its temperature."""
_HOTSPOT: Final = 1 << _SENSORS["junction"]

# The current's limits are not counted.
_COUNTED: Final[dict[Reason, frozenset[str]]] = {
    "thermal": frozenset("prochot thm_core thm_gfx thm_soc socket_thm vr_thm hbm_thm".split()),
    "power": frozenset("spl fppt sppt ppt".split()),
}


def by_status(
    status: int, gfx_target: str | None, temperatures: Mapping[str, float], limits: Mapping[str, float]
) -> Throttling:
    """Tell what holds the clocks down now. ``temperatures`` and ``limits`` are degrees Celsius by the sensor's label."""
    for sensor, bit in _SENSORS.items():
        if sensor in temperatures and sensor in limits and temperatures[sensor] < limits[sensor] - NEAR:
            status &= ~(1 << bit)
    unknown = gfx_target in STUCK_HOTSPOT and not {"junction"} <= temperatures.keys() & limits.keys()
    if unknown:
        status &= ~_HOTSPOT
    held = {reason: float(status & _MASKS[reason] != 0) for reason in REASONS}
    if unknown and not held["thermal"]:
        del held["thermal"]
    return tuple(held.items())


def by_counters(then: Residency | None, now: Residency) -> Throttling:
    """Tell for what share of the time between two readings each reason held the clocks down.

    Several limits of one reason may have done so at the same time: the share is that of the one that did for longest.
    Nothing is known without two readings, or if the counters were reset in between.
    """
    if then is None or now.total <= then.total:
        return ()
    elapsed = now.total - then.total
    before = dict(then.counts)
    growth = {limit: count - before[limit] for limit, count in now.counts if limit in before}
    if any(grown < 0 for grown in growth.values()):
        return ()
    shares: list[tuple[Reason, float]] = []
    for reason, limits in _COUNTED.items():
        grown = max((growth[limit] for limit in limits & growth.keys()), default=None)
        if grown is not None and grown <= elapsed * TOLERANCE:
            shares.append((reason, min(1.0, grown / elapsed)))
    return tuple(shares)
