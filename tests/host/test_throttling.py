"""What holds clocks down, from statuses and counters that real GPUs reported."""

import pytest

from exporter.host.gpu_metrics import Residency
from exporter.host.throttling import by_counters, by_status

COOL = {"edge": 53.0, "junction": 54.0, "mem": 60.0}
LIMITS = {"edge": 100.0, "junction": 100.0, "mem": 105.0}


def reasons(
    status: int, target: str = "gfx1100", now: dict[str, float] | None = None, limits: dict[str, float] | None = None
) -> dict[str, float]:
    return dict(by_status(status, target, COOL if now is None else now, LIMITS if limits is None else limits))


@pytest.mark.parametrize(
    ("bit", "reason"),
    [(0, "power"), (7, "power"), (16, "current"), (22, "current"), (32, "thermal"), (47, "thermal"), (56, "other")],
)
def test_reason_of_a_bit(bit: int, reason: str) -> None:
    """Each group of bits is one reason, and the others are measured to be none."""
    assert reasons(1 << bit) == {"thermal": 0.0, "power": 0.0, "current": 0.0, "other": 0.0, reason: 1.0}


def test_hot_spot_that_is_always_too_hot() -> None:
    """An RX 7600S at 54 degrees and an R9700 at 37 keep the bit: it isn't believed. At its limit it is."""
    assert reasons(0x10_0000_0000, "gfx1102")["thermal"] == 0.0
    idle = {"edge": 35.0, "junction": 37.0}
    assert reasons(1 << 36, "gfx1201", idle, {"junction": 110.0})["thermal"] == 0.0
    assert reasons(1 << 36 | 1, "gfx1201", idle | {"junction": 75.0}, {"junction": 110.0})["power"] == 1.0
    assert reasons(1 << 36, "gfx1201", idle | {"junction": 108.0}, {"junction": 110.0})["thermal"] == 1.0


def test_hot_spot_whose_temperature_is_hidden() -> None:
    """Without a temperature the bit says nothing on a GPU that keeps it, and is believed on one that doesn't."""
    assert "thermal" not in reasons(1 << 36, "gfx1100", {})
    assert "thermal" not in reasons(1 << 36, "gfx1100", COOL, {"edge": 100.0})
    assert reasons(1 << 36 | 1 << 38, "gfx1100", {})["thermal"] == 1.0
    assert reasons(1 << 36, "gfx1030", {})["thermal"] == 1.0


def test_other_sensors_are_checked_too() -> None:
    """A bit that names the edge or the memory isn't believed while that sensor is far from its limit."""
    assert reasons(1 << 34 | 1 << 35)["thermal"] == 0.0
    assert reasons(1 << 34, now=COOL | {"mem": 104.0})["thermal"] == 1.0


def ryzen(total: int, **counts: int) -> Residency:
    names = ("prochot", "spl", "fppt", "sppt", "thm_core", "thm_gfx", "thm_soc")
    return Residency(tuple((name, counts.get(name, 0)) for name in names), total)


def test_shares_of_time() -> None:
    """The share of a reason is that of its limit which held for longest."""
    shares = by_counters(ryzen(1000, fppt=5), ryzen(11000, fppt=2505, sppt=5000, thm_gfx=100))
    assert dict(shares) == {"thermal": 0.01, "power": 0.5}


def test_share_is_never_above_one() -> None:
    """A counter that seems a little quicker than time counts as all of it; one that is much quicker counts something else."""
    assert dict(by_counters(ryzen(0), ryzen(1000, sppt=1100))) == {"thermal": 0.0, "power": 1.0}
    assert dict(by_counters(ryzen(0), ryzen(1000, sppt=100_000))) == {"thermal": 0.0}


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (None, ryzen(1000)),
        (ryzen(1000), ryzen(1000)),
        (ryzen(5000), ryzen(1000)),
        (ryzen(1000, spl=5), ryzen(2000, spl=4)),
    ],
)
def test_readings_that_tell_nothing(then: Residency | None, now: Residency) -> None:
    """One reading, no time between two, or counters that began anew tell nothing."""
    assert by_counters(then, now) == ()


def test_counters_of_a_large_gpu() -> None:
    """MI300 counts updates of its table, so a share needs no clock."""
    then = Residency((("prochot", 0), ("ppt", 10), ("socket_thm", 0), ("vr_thm", 0), ("hbm_thm", 0)), 100)
    now = Residency((("prochot", 0), ("ppt", 110), ("socket_thm", 0), ("vr_thm", 0), ("hbm_thm", 50)), 300)
    assert dict(by_counters(then, now)) == {"thermal": 0.25, "power": 0.5}
