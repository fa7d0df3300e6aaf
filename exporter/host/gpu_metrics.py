"""The driver's binary ``gpu_metrics`` file: the few fields that no other file has. Pure.

Little endian; a header of size (u16), format and content (u8 each) says which layout follows. Sizes and offsets are those
of the kernel's ``kgd_pp_interface.h``; a layout that isn't in the tables is not read at all. A field full of ones is one
that this GPU doesn't support.

Older layouts have a status, a bit for each limit that holds the clocks down now. Newer ones count for how long each limit did
so. Format 3.0 (Ryzen AI) counts in cycles of the firmware's power management timer. 1.6 to 1.8 (MI300 and later) count in
updates of a table, whose number stands beside them.
"""

import struct
from dataclasses import dataclass
from typing import Final

CYCLES_PER_SECOND: Final = 1000
"""Of the timer in which format 3.0 counts. Not documented; the firmware's loop has 1 ms, and counters that grow faster
than that are not believed (``throttling.by_counters``)."""
OTHER_BIT: Final = 56
"""A bit of the status that stands for no reason in particular."""

# (format, content): offset of the status whose bits mean the same on all GPUs (u64).
_STATUS_U64: Final = {(1, 3): 112, (2, 2): 120, (2, 3): 120, (2, 4): 120}
# (format, content): offset of the status whose bits are this GPU's own (u32).
_STATUS_U32: Final = {(1, 3): 68, (1, 4): 40, (1, 5): 72, (2, 1): 108, (2, 2): 108, (2, 3): 108, (2, 4): 108}
# A GPU's own bits, lowest first, as bits of the status that is the same for all: SPL, FPPT, SPPT, SPPT_APU, THM_CORE,
# THM_GFX, THM_SOC, TDC_VDD, TDC_SOC, PROCHOT_CPU, PROCHOT_GFX, EDC_CPU, EDC_GFX for APUs; PROCHOT, PPT, and the
# temperatures of socket, regulators and memory for MI300.
_APU_BITS: Final = (4, 5, 6, 7, 33, 32, 37, 19, 17, 46, 47, 21, 22)
_MI300_BITS: Final = (47, 0, 32, 38, 34)
_BITS: Final = {(2, 1): _APU_BITS, (1, 4): _MI300_BITS, (1, 5): _MI300_BITS}
_APU_LIMITS: Final = ("prochot", "spl", "fppt", "sppt", "thm_core", "thm_gfx", "thm_soc")
_MI300_LIMITS: Final = ("prochot", "ppt", "socket_thm", "vr_thm", "hbm_thm")
# (format, content): offset of the first counter (u32) and what each counts.
_RESIDENCY: Final = {
    (1, 6): (36, _MI300_LIMITS),
    (1, 7): (44, _MI300_LIMITS),
    (1, 8): (44, _MI300_LIMITS),
    (3, 0): (228, _APU_LIMITS),
}
# (format, content): offset of the number of updates of the table (u32).
_UPDATES: Final = {(1, 6): 32, (1, 7): 40, (1, 8): 40}
# (format, content): offset of the driver's time of the reading, in nanoseconds since boot (u64).
_CLOCK: Final = {(3, 0): 104}
_MEMORY_CLOCK_U16: Final = {(3, 0): 186}


@dataclass(frozen=True, slots=True)
class Residency:
    """For how long each limit held the clocks down, as (limit, count); the difference of two readings is what counts.

    ``total`` is what a limit would have counted that held them down all the time.
    """

    counts: tuple[tuple[str, int], ...]
    total: int


@dataclass(frozen=True, slots=True)
class GpuMetrics:
    """``status`` has a bit for each limit that holds the clocks down now, numbered as in the kernel's ``amdgpu_smu.h``."""

    status: int | None = None
    residency: Residency | None = None
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
        status = _translate(layout, _field(data, "<I", _STATUS_U32.get(layout)))
    return GpuMetrics(
        status=status,
        residency=_residency(data, layout),
        memory_clock_mhz=_field(data, "<H", _MEMORY_CLOCK_U16.get(layout)),
    )


def _translate(layout: tuple[int, int], own: int | None) -> int | None:
    """A GPU's own status as the one that is the same for all; a bit that isn't known stands for no reason in particular."""
    if not own:
        return own
    known = _BITS.get(layout, ())
    status = sum(1 << bit for place, bit in enumerate(known) if own >> place & 1)
    return status | (1 << OTHER_BIT if own >> len(known) else 0)


def _residency(data: bytes, layout: tuple[int, int]) -> Residency | None:
    first, limits = _RESIDENCY.get(layout, (0, ()))
    counts = [(limit, _field(data, "<I", first + 4 * place)) for place, limit in enumerate(limits)]
    total = _field(data, "<I", _UPDATES.get(layout))
    if total is None and (nanoseconds := _field(data, "<Q", _CLOCK.get(layout))) is not None:
        total = nanoseconds * CYCLES_PER_SECOND // 1_000_000_000
    measured = tuple((limit, count) for limit, count in counts if count is not None)
    return Residency(measured, total) if measured and total is not None else None


def _field(data: bytes, kind: str, offset: int | None) -> int | None:
    width = struct.calcsize(kind)
    if offset is None or offset + width > len(data):
        return None
    (value,) = struct.unpack_from(kind, data, offset)
    return None if value == (1 << 8 * width) - 1 else int(value)
