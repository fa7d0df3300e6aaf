"""The driver's binary file, by layout. Bytes are made up except where a fixture is named."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.host.gpu_metrics import GpuMetrics, decode

STRIX_POINT = Path(__file__).parent.parent / "fixtures/host/sys/radeon-880m/class/drm/card1/device/gpu_metrics"


def table(size: int, form: int, content: int, *fields: tuple[str, int, int]) -> bytes:
    data = bytearray(b"\xff" * size)
    struct.pack_into("<HBB", data, 0, size, form, content)
    for kind, offset, value in fields:
        struct.pack_into(f"<{kind}", data, offset, value)
    return bytes(data)


def test_strix_point() -> None:
    """The dump of a Strix Point gives its memory clock and counters, which alone don't say that it is throttled now."""
    assert decode(STRIX_POINT.read_bytes()) == GpuMetrics(None, (28, 1868, 92382, 257, 1795, 0, 0), 836)


@pytest.mark.parametrize(
    ("size", "form", "content", "kind", "offset"),
    [
        (120, 1, 3, "Q", 112),
        (120, 1, 3, "I", 68),
        (288, 1, 4, "I", 40),
        (328, 1, 5, "I", 72),
        (120, 2, 1, "I", 108),
        (152, 2, 3, "Q", 120),
    ],
)
def test_status_of_each_layout(size: int, form: int, content: int, kind: str, offset: int) -> None:
    """A status is read where its layout has it: 0 is free, a bit is held down, all ones is not supported."""
    assert decode(table(size, form, content, (kind, offset, 0))).throttled is False
    assert decode(table(size, form, content, (kind, offset, 1 << 3))).throttled is True
    assert decode(table(size, form, content)).throttled is None


def test_counters_of_the_large_gpus() -> None:
    """MI300's newer layouts count what held them down."""
    assert decode(table(2208, 1, 7, *(("I", 44 + 4 * index, index) for index in range(5)))).residency == (0, 1, 2, 3, 4)


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
