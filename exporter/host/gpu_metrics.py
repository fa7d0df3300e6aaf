"""The driver's binary ``gpu_metrics`` file: the few fields that no other file has. Pure.

Little endian; a header of size (u16), format and content (u8 each) says which layout follows. Sizes and offsets are those
of the kernel's ``kgd_pp_interface.h``; a layout that isn't in the tables is not read at all. A field full of ones is one
that this GPU doesn't support.
"""

import struct
from dataclasses import dataclass
from typing import Final

# (format, content): offset of the status that is the same for all GPUs (u64), else of the GPU's own (u32); not 0 means
# that something holds the clocks down now.
_STATUS_U64: Final = {(1, 3): 112, (2, 2): 120, (2, 3): 120, (2, 4): 120}
_STATUS_U32: Final = {(1, 3): 68, (1, 4): 40, (1, 5): 72, (2, 1): 108, (2, 2): 108, (2, 3): 108, (2, 4): 108}
# (format, content): (offset, how many u32) of counters that only ever grow while something holds the clocks down.
_RESIDENCY: Final = {(1, 6): (36, 5), (1, 7): (44, 5), (1, 8): (44, 5), (3, 0): (228, 7)}
_MEMORY_CLOCK_U16: Final = {(3, 0): 186}


@dataclass(frozen=True, slots=True)
class GpuMetrics:
    """``throttled`` where the file says so at once, else ``residency``: counters of which two readings tell."""

    throttled: bool | None = None
    residency: tuple[int, ...] = ()
    memory_clock_mhz: int | None = None


def decode(data: bytes) -> GpuMetrics:
    """Decode one reading; whatever is not known of its layout stays empty. Never raises."""
    if len(data) < 4:
        return GpuMetrics()
    size, form, content = struct.unpack_from("<HBB", data)
    layout = (form, content)
    data = data[:size]
    status = _field(data, "<Q", _STATUS_U64.get(layout))
    if status is None:
        status = _field(data, "<I", _STATUS_U32.get(layout))
    first, count = _RESIDENCY.get(layout, (0, 0))
    counters = [_field(data, "<I", first + 4 * index) for index in range(count)]
    return GpuMetrics(
        throttled=None if status is None else status != 0,
        residency=tuple(counter for counter in counters if counter is not None),
        memory_clock_mhz=_field(data, "<H", _MEMORY_CLOCK_U16.get(layout)),
    )


def _field(data: bytes, kind: str, offset: int | None) -> int | None:
    width = struct.calcsize(kind)
    if offset is None or offset + width > len(data):
        return None
    (value,) = struct.unpack_from(kind, data, offset)
    return None if value == (1 << 8 * width) - 1 else int(value)
