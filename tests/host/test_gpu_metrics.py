"""The driver's binary file, by layout. Bytes are made up except where a fixture is named."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.host.gpu_metrics import OTHER_BIT, GpuMetrics, Residency, decode

STRIX_POINT = Path(__file__).parent.parent / "fixtures/host/sys/radeon-880m/class/drm/card1/device/gpu_metrics"


def table(size: int, form: int, content: int, *fields: tuple[str, int, int]) -> bytes:
    data = bytearray(b"\xff" * size)
    struct.pack_into("<HBB", data, 0, size, form, content)
    for kind, offset, value in fields:
        struct.pack_into(f"<{kind}", data, offset, value)
    return bytes(data)


def test_strix_point() -> None:
    """The dump of a Strix Point gives its memory clock and counters, which alone don't say that it is throttled now."""
    counts = {"prochot": 28, "spl": 1868, "fppt": 92382, "sppt": 257, "thm_core": 1795, "thm_gfx": 0, "thm_soc": 0}
    residency = Residency(tuple(counts.items()), total=152155057)
    assert decode(STRIX_POINT.read_bytes()) == GpuMetrics(residency=residency, memory_clock_mhz=836)


@pytest.mark.parametrize(
    ("layout", "kind", "offset", "bit"),
    [
        ((120, 1, 3), "Q", 112, 3),
        ((120, 1, 3), "I", 68, OTHER_BIT),
        ((288, 1, 4), "I", 40, 38),
        ((328, 1, 5), "I", 72, 38),
        ((120, 2, 1), "I", 108, 7),
        ((152, 2, 3), "Q", 120, 3),
        ((152, 2, 3), "I", 108, OTHER_BIT),
    ],
)
def test_status_of_each_layout(layout: tuple[int, int, int], kind: str, offset: int, bit: int) -> None:
    """A status is read where its layout has it: 0 is free, a bit has one meaning for all GPUs, all ones is not supported."""
    assert decode(table(*layout, (kind, offset, 0))).status == 0
    assert decode(table(*layout, (kind, offset, 1 << 3))).status == 1 << bit
    assert decode(table(*layout)).status is None


def test_bits_of_a_gpu_that_are_not_known() -> None:
    """A bit beyond those that an APU is known to have is kept as one that stands for no reason in particular."""
    assert decode(table(120, 2, 1, ("I", 108, 1 << 31 | 1 << 4))).status == 1 << OTHER_BIT | 1 << 33


@pytest.mark.parametrize(("content", "offset"), [(6, 32), (7, 40), (8, 40)])
def test_counters_of_the_large_gpus(content: int, offset: int) -> None:
    """MI300's newer layouts count what held them down, and how often they counted."""
    counters = [("I", offset + 4 * place, 10 + place) for place in range(6)]
    assert decode(table(2208, 1, content, *counters)).residency == Residency(
        (("prochot", 11), ("ppt", 12), ("socket_thm", 13), ("vr_thm", 14), ("hbm_thm", 15)), total=10
    )


@pytest.mark.parametrize(
    "data", [b"", b"\x78", b"\x78\x00\x01", table(120, 9, 9, ("Q", 112, 1)), table(120, 1, 3, ("Q", 112, 1))[:60]]
)
def test_unknown_and_cut_off_files(data: bytes) -> None:
    """A layout that isn't known, or a file that ends too early, gives nothing."""
    assert decode(data) == GpuMetrics()


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    """Any bytes decode to something or nothing."""
    assert isinstance(decode(data), GpuMetrics)
