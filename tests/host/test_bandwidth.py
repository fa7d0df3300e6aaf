"""Memory bandwidth from width and clock, against the specifications of real products."""

import pytest

from exporter.host.bandwidth import bandwidth_by_clock, find_bandwidth
from exporter.host.products import find_products

STRIX_HALO = find_products("1586", None, 40)


@pytest.mark.parametrize(
    ("gfx", "bits", "clock", "gigabytes"),
    [
        ("gfx1103", 128, 800, 102.4),  # Phoenix, LPDDR5-6400
        ("gfx1103", 128, 2800, 89.6),  # Phoenix, DDR5-5600
        ("gfx1150", 128, 1000, 128.0),  # Strix Point, LPDDR5X-8000
        ("gfx1151", 256, 1000, 256.0),  # Strix Halo
        ("gfx1100", 384, 1249, 959.2),  # RX 7900 XTX, 20 Gbps
        ("gfx1102", 128, 1124, 287.7),  # RX 7600
        ("gfx90a", 4096, 1600, 1638.4),  # HBM2e
        ("gfx942", 8192, 1300, 5324.8),  # MI300X
    ],
)
def test_each_memory_has_its_multiplier(gfx: str, bits: int, clock: int, gigabytes: float) -> None:
    """Width and clock give what the product's specification says, for each kind of memory."""
    value, source = find_bandwidth(gfx, (), bits, clock, None)
    assert value == pytest.approx(gigabytes * 1e9, rel=1e-3)
    assert source == "memory bank"


def test_memory_of_an_unknown_gpu() -> None:
    """Without knowing the memory there is no multiplier, and no guess."""
    assert find_bandwidth("gfx803", (), 256, 1750, None) == (None, None)
    assert find_bandwidth(None, (), 256, 1000, 8000) == (None, None)


def test_width_that_is_twice_the_real_one() -> None:
    """Some kernels report an APU's bus twice as wide: the product's own width counts."""
    assert find_bandwidth("gfx1151", STRIX_HALO, 512, 1000, None) == (256e9, "memory bank")


def test_clock_that_fits_neither_memory() -> None:
    """Where clock and modules disagree by a factor, the modules' rate decides; where by little, the clock does."""
    point = find_products("150e", None, 12)
    assert find_bandwidth("gfx1150", point, 128, 1100, 2200) == (128 * 2200e6 / 8, "memory modules")
    assert find_bandwidth("gfx1150", point, 128, 937, 8000) == (128 * 937 * 8e6 / 8, "memory bank")


def test_hidden_bank() -> None:
    """Without the GPU's own bank, an APU's bus and the modules tell, and otherwise the product's data sheet."""
    assert find_bandwidth("gfx1103", find_products("15bf", "dd", None), None, None, 6400) == (102.4e9, "memory modules")
    assert find_bandwidth("gfx1100", find_products("744c", "c8", None), None, None, None) == (960e9, "table")
    assert find_bandwidth("gfx1151", STRIX_HALO, None, None, 8533) == (256e9, "table")
    assert find_bandwidth("gfx1150", find_products("150e", "c4", None), None, None, None) == (None, None)


@pytest.mark.parametrize(
    ("gfx", "pci_id", "revision", "clock", "gigabytes"),
    [
        ("gfx1010", "731f", "ca", 750, 288.0),  # RX 5600 XT as it was announced: 12 Gbps
        ("gfx1010", "731f", "ca", 875, 336.0),  # the same with the BIOS that came a week later: 14 Gbps
        ("gfx1032", "73ef", "c3", 1000, 256.0),  # RX 6650M
        ("gfx1034", "743f", "c3", 1124, 143.872),  # RX 6500 or 6500M
        ("gfx1102", "7481", "c7", 1000, 256.0),  # Steam Machine
        ("gfx900", "687f", "c3", 800, 409.6),  # RX Vega 56
        ("gfx1102", "7499", "c1", 675, None),  # RX 7300, of whose bus nothing is known
        ("gfx1010", "731f", "ca", 96, None),  # a level of rest is no memory's highest
        ("gfx1010", "731f", "ca", None, None),
        ("gfx1151", "1586", "c1", 1000, None),  # an APU's levels are not those of one memory
        (None, "731f", "ca", 875, None),
    ],
)
def test_cards_sold_with_several_memories(
    gfx: str | None, pci_id: str, revision: str, clock: int | None, gigabytes: float | None
) -> None:
    """The highest level of the card's own memory clock tells which memory it has, with the bus of its product."""
    value, source = bandwidth_by_clock(gfx, find_products(pci_id, revision, None), clock)
    assert value == (gigabytes and pytest.approx(gigabytes * 1e9))
    assert source == (gigabytes and "memory clock")


def test_bank_that_contradicts_the_data_sheet() -> None:
    """A bank that says a fraction or a multiple of what the product has is not believed."""
    xtx = find_products("744c", "c8", 96)
    assert find_bandwidth("gfx1100", xtx, 384, 96, None) == (960e9, "table")
    assert find_bandwidth("gfx1100", xtx, 384, 1249, None) == (384 * 1249 * 16e6 / 8, "memory bank")
