"""Memory bandwidth from width and clock, against the specifications of real products."""

import pytest

from exporter.host.bandwidth import find_bandwidth
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


def test_bank_that_contradicts_the_data_sheet() -> None:
    """A bank that says a fraction or a multiple of what the product has is not believed."""
    xtx = find_products("744c", "c8", 96)
    assert find_bandwidth("gfx1100", xtx, 384, 96, None) == (960e9, "table")
    assert find_bandwidth("gfx1100", xtx, 384, 1249, None) == (384 * 1249 * 16e6 / 8, "memory bank")
