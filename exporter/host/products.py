"""What AMD calls its GPUs, as data: one PCI id covers several products, told apart by compute units and PCI revision.

Names and revisions are those of the public list ``amdgpu.ids``; compute units, bus widths and bandwidths are AMD's
specifications where a reading confirms them, ``None`` where none does or where they depend on the memory a maker fitted.
"""

from dataclasses import dataclass
from typing import Final

UNIFIED_TARGETS: Final = frozenset(
    "gfx902 gfx909 gfx90c gfx1013 gfx1033 gfx1035 gfx1036 gfx1037 gfx1103 gfx1150 gfx1151 gfx1152 gfx1153".split()
)
"""GPUs that have no memory of their own, but a part of the system's."""
PARTITIONED_TARGETS: Final = frozenset({"gfx942", "gfx950"})
"""GPUs that can be divided into several compute partitions."""


@dataclass(frozen=True, slots=True)
class Product:
    """One product. ``bus_bits`` is the width of its memory bus, ``bandwidth`` what AMD states, in bytes per second."""

    name: str
    gfx_target: str
    pci_id: str
    revisions: frozenset[str]
    compute_units: int | None = None
    bus_bits: int | None = None
    bandwidth: float | None = None


def _product(
    name: str,
    gfx: str,
    pci_id: str,
    revisions: str,
    cu: int | None = None,
    *,
    bits: int | None = None,
    gb_s: int | None = None,
) -> Product:
    return Product(name, gfx, pci_id, frozenset(revisions.split()), cu, bits, None if gb_s is None else gb_s * 1e9)


PRODUCTS: Final[tuple[Product, ...]] = (
    _product("Radeon 8060S", "gfx1151", "1586", "c1 c3 c6 d1", 40, bits=256, gb_s=256),
    _product("Radeon 8050S", "gfx1151", "1586", "c2 c4 d2 d4", 32, bits=256, gb_s=256),
    _product("Radeon 8040S", "gfx1151", "1586", "d5", 16),
    _product("Radeon 890M", "gfx1150", "150e", "c1 c5 c6 c7 d1 d3 e1 e3 e4 f1 f3", bits=128),
    _product("Radeon 880M", "gfx1150", "150e", "c4 d2", 12, bits=128),
    _product(
        "Radeon 780M", "gfx1103", "15bf", "00 02 06 c1 c2 c4 c6 c7 c9 cf d0 d1 d2 d3 d4 d7 d9 da dd", 12, bits=128
    ),
    _product("Radeon 760M", "gfx1103", "15bf", "01 03 05 c3 c8 cb cd d5 d6 db dc df f0", bits=128),
    _product("Radeon 740M", "gfx1103", "15bf", "07 08 c5 ca cc ce d8 de", bits=128),
    _product(
        "Radeon 780M",
        "gfx1103",
        "1900",
        "01 03 05 06 b0 b1 b2 b3 b4 b5 b6 b9 ba bb c0 c2 c4 c5 c7 c9 cb cc ce d0 d2 d4 d5 d7 d9 db dc de f0 f1 f2",
        12,
        bits=128,
    ),
    _product("Radeon 760M", "gfx1103", "1900", "02 04 07 b7 b8 c1 c3 c6 c8 ca cd cf d1 d3 d6 d8 da dd df", bits=128),
    _product("Radeon RX 7900 XTX", "gfx1100", "744c", "c8", 96, bits=384, gb_s=960),
    _product("Radeon RX 7900 XT", "gfx1100", "744c", "cc"),
    _product("Radeon RX 7900 GRE", "gfx1100", "744c", "ce"),
    _product("Radeon RX 7900M", "gfx1100", "744c", "cf"),
    _product("Radeon RX 7600", "gfx1102", "7480", "cf", 32, bits=128, gb_s=288),
    _product("Radeon RX 7600 XT", "gfx1102", "7480", "c0", 32, bits=128),
    _product("Radeon RX 7700S", "gfx1102", "7480", "c1", bits=128, gb_s=288),
    _product("Radeon RX 7600S", "gfx1102", "7480", "c3", bits=128),
    _product("Radeon RX 7600M XT", "gfx1102", "7480", "c7", bits=128),
    _product("Radeon RX 7800 XT", "gfx1101", "747e", "c8"),
    _product("Radeon RX 7700 XT", "gfx1101", "747e", "ff"),
    _product("Radeon Pro W7900", "gfx1100", "7448", "00"),
    _product("Radeon Pro W7800", "gfx1100", "745e", "cc"),
    _product("Instinct MI300X", "gfx942", "74a1", "00", 304, bits=8192, gb_s=5300),
    _product("Instinct MI300X VF", "gfx942", "74b5", "00"),
    _product("Instinct MI308X", "gfx942", "74a2", "00", 80, bits=8192),
    _product("Instinct MI325X", "gfx942", "74a5", "00"),
    _product("Radeon RX 9070 XT", "gfx1201", "7550", "c0"),
    _product("Radeon RX 9070", "gfx1201", "7550", "c3"),
    _product("Radeon AI PRO R9700", "gfx1201", "7551", "c0"),
    _product("Radeon RX 9060 XT", "gfx1200", "7590", "c0"),
)


def find_products(pci_id: str | None, revision: str | None, compute_units: int | None) -> tuple[Product, ...]:
    """Find the products that the evidence leaves: one where it decides, several where it doesn't, none for an unknown id.

    ``pci_id`` and ``revision`` are lower-case hex without prefix. What was counted goes before what a revision says.
    """
    left = [product for product in PRODUCTS if product.pci_id == pci_id]
    if compute_units is not None:
        left = [product for product in left if product.compute_units in (compute_units, None)] or left
        counted = [product for product in left if product.compute_units == compute_units]
        if len(counted) == 1 and not any(revision in product.revisions for product in left):
            left = counted
    revised = [product for product in left if revision in product.revisions]
    return tuple(revised or left)


def describe(products: tuple[Product, ...]) -> str | None:
    """Name what was found: ``Radeon 8060S``, or ``Radeon 8060S / 8050S`` where it may be either."""
    if not products:
        return None
    first, *others = (product.name for product in products)
    make = first.split()[0] + " "
    return " / ".join([first, *(name.removeprefix(make) for name in others)])
