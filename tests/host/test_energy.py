"""Power over a stretch of time."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.host.energy import PowerMeter, mean_watts

TREES = Path(__file__).parent.parent / "fixtures" / "host" / "sys"
MS = 1_000_000


def test_steady_and_changing_power() -> None:
    """A mean is over the stretch asked about, not over the samples; between two samples power changes evenly."""
    ramp = [(0, 0.0), (100 * MS, 100.0), (200 * MS, 200.0)]
    assert mean_watts(ramp, 0, 200 * MS) == pytest.approx(100.0)
    assert mean_watts(ramp, 50 * MS, 100 * MS) == pytest.approx(75.0)
    assert mean_watts([(0, 10.0), (100 * MS, 10.0), (110 * MS, 90.0), (200 * MS, 90.0)], 0, 200 * MS) == pytest.approx(
        48.0
    )


@given(st.floats(0, 1000), st.lists(st.integers(1, 900), min_size=1, max_size=50), st.integers(0, 10**15))
def test_constant_power_has_itself_as_mean(watts: float, gaps: list[int], origin: int) -> None:
    """However unevenly it is sampled, and whenever: a constant's mean is the constant."""
    times = [origin]
    for gap in gaps:
        times.append(times[-1] + gap * MS)
    assert mean_watts([(at, watts) for at in times], times[0], times[-1]) == pytest.approx(watts)


@pytest.mark.parametrize(
    ("samples", "start", "end"),
    [
        ([], 0, 100 * MS),
        ([(50 * MS, 10.0)], 0, 100 * MS),
        ([(0, 10.0), (50 * MS, 10.0)], 0, 100 * MS),
        ([(0, 10.0), (5000 * MS, 10.0)], 0, 5000 * MS),
        ([(0, 10.0), (100 * MS, 10.0)], 50 * MS, 50 * MS),
        ([(0, 10.0), (100 * MS, 10.0)], 100 * MS, 0),
    ],
)
def test_too_little_measured(samples: list[tuple[int, float]], start: int, end: int) -> None:
    """Half a stretch, a gap of seconds, or no stretch at all give no mean."""
    assert mean_watts(samples, start, end) is None


def test_meter_reads_the_sensor() -> None:
    """A meter that ran around a stretch of time knows the sensor's power over it."""
    with PowerMeter(TREES / "radeon-880m", "0000:c1:00.0", interval=0.01) as meter:
        time.sleep(0.05)
        start = time.monotonic_ns()
        time.sleep(0.05)
        end = time.monotonic_ns()
    assert meter.mean_watts(start, end) == pytest.approx(9.087)


@pytest.mark.parametrize(
    ("tree", "address"), [("radeon-880m", "0000:01:00.0"), ("radeon-8060s", "0000:c2:00.0"), ("no-gpu", "")]
)
def test_meter_without_a_sensor(tree: str, address: str) -> None:
    """An unknown GPU, or one without a power sensor, gives nothing and no error."""
    meter = PowerMeter(TREES / tree, address, interval=0.01)
    meter.start()
    start = time.monotonic_ns()
    meter.stop()
    meter.stop()
    assert meter.mean_watts(start, time.monotonic_ns()) is None


def test_meter_that_nobody_stopped() -> None:
    """A meter ends by itself after its longest time."""
    meter = PowerMeter(TREES / "radeon-880m", "0000:c1:00.0", interval=0.01, longest=0.02)
    meter.start()
    thread = meter._thread
    assert thread is not None
    thread.join(timeout=10)
    assert not thread.is_alive()
