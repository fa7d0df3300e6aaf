"""Memory bandwidth of a GPU from the width and clock of its memory bank. Pure.

Theoretical bytes per second = bits / 8 * clock * transfers per clock, and these depend on the kind of memory. What the
driver reports is checked: its width can be twice the real one, and an APU's clock can be that of either kind of memory.
"""

from typing import Final

from exporter.host.products import UNIFIED_TARGETS, Product, shared

PLAUSIBLE_MHZ: Final = (600, 2000)
"""What the highest level of a discrete GPU's memory clock can be: 675 MHz on an RX 7400, 1600 on an MI210."""
LPDDR5_CLOCK_LIMIT: Final = 1200
"""MHz. An APU's memory clock up to here is LPDDR5's, which counts one in eight transfers; DDR5's counts one in two."""


def transfers_per_clock(gfx_target: str, clock_mhz: int) -> int | None:
    """Transfers in one cycle of the memory clock that amdgpu reports; ``None`` for a GPU whose memory is not known."""
    if gfx_target in UNIFIED_TARGETS:
        return 8 if clock_mhz <= LPDDR5_CLOCK_LIMIT else 2
    if gfx_target in {"gfx900", "gfx906", "gfx908", "gfx90a"}:  # HBM2
        return 2
    if gfx_target in {"gfx942", "gfx950"}:  # HBM3
        return 4
    if gfx_target.startswith(("gfx10", "gfx11", "gfx12")):  # GDDR6
        return 16
    return None


def find_bandwidth(
    gfx_target: str | None,
    products: tuple[Product, ...],
    width_bits: int | None,
    clock_mhz: int | None,
    module_mts: int | None,
) -> tuple[float, str] | tuple[None, None]:
    """Work out (bytes per second, where that comes from), or nothing if it can't be known.

    ``width_bits`` and ``clock_mhz`` are those of the GPU's memory bank, ``module_mts`` the rated megatransfers per second
    of the system's memory modules, which an APU shares. The source is ``memory bank``, ``memory modules`` or ``table``.
    """
    gfx_target = gfx_target or ""
    bus_bits = shared([product.bus_bits for product in products])
    stated = shared([product.bandwidth for product in products])
    bits, clock = width_bits or 0, clock_mhz or 0
    if bus_bits and not _near(bits, bus_bits):
        bits = int(bus_bits)
    value, source = bits * clock * (transfers_per_clock(gfx_target, clock) or 0) * 1e6 / 8, "memory bank"
    if gfx_target in UNIFIED_TARGETS and module_mts:
        by_modules = bits * module_mts * 1e6 / 8
        if not _near(value, by_modules):
            value, source = by_modules, "memory modules"
    # Modules are rated, often above what they run at: a data sheet knows better, a bank better still.
    if stated and (source != "memory bank" or not _near(value, stated)):
        value, source = stated, "table"
    return (value, source) if value else (None, None)


def bandwidth_by_clock(
    gfx_target: str | None, products: tuple[Product, ...], clock_mhz: int | None
) -> tuple[float, str] | tuple[None, None]:
    """Work out the same from the highest level of a discrete GPU's memory clock and the width that its product has.

    For a GPU whose bank is hidden and whose product was sold with several memories: its clock says which one it has.
    """
    bus_bits = shared([product.bus_bits for product in products])
    transfers = transfers_per_clock(gfx_target or "", clock_mhz or 0)
    least, most = PLAUSIBLE_MHZ
    if gfx_target in UNIFIED_TARGETS or not (bus_bits and transfers and clock_mhz and least <= clock_mhz <= most):
        return None, None
    return bus_bits * clock_mhz * transfers * 1e6 / 8, "memory clock"


def _near(value: float, expected: float) -> bool:
    """Tell apart what slower or faster memory explains from a factor of two."""
    return expected / 1.6 < value < expected * 1.6
