"""The table of products: what it says of a few, and what must hold for all."""

from itertools import groupby

import pytest

from exporter.host.bandwidth import transfers_per_clock
from exporter.host.ip_discovery import target_of
from exporter.host.products import PRODUCTS, UNIFIED_TARGETS, Product, describe, find_products


@pytest.mark.parametrize(
    ("pci_id", "revision", "units", "name", "bandwidth"),
    [
        ("73bf", "c1", None, "Radeon RX 6800 XT", 512e9),
        ("73bf", "c3", 60, "Radeon RX 6800", 512e9),
        ("744c", "cc", None, "Radeon RX 7900 XT", 800e9),
        ("744c", "cc", 96, "Radeon RX 7900 XTX", 960e9),
        ("7448", "00", None, "Radeon Pro W7900", 864e9),
        ("7551", "c0", None, "Radeon AI PRO R9700", 640e9),
        ("7550", "c3", 56, "Radeon RX 9070", 640e9),
        ("7480", "c3", None, "Radeon RX 7600S", 256e9),
        ("164e", "c1", None, "Radeon Graphics (Raphael)", None),
        ("164e", "d8", 2, "Radeon 610M", None),
        ("13c0", "c1", 2, "Radeon Graphics (Granite Ridge)", None),
        ("740c", "01", 104, "Instinct MI250", 1638e9),
        ("7590", "c1", None, "Radeon RX 9060 XT LP", 320e9),
        ("7499", "c0", None, "Radeon RX 7400", 173e9),
        ("7424", "00", None, "Radeon RX 6300", 64e9),
        ("7551", "c8", None, "Radeon AI PRO R9600D", 640e9),
        ("743f", "cc", None, "Radeon RX 6550S", 128e9),
        ("743f", "ce", 12, "Radeon RX 6450M", 128e9),
        ("7423", "00", None, "Radeon Pro W6300M", 64e9),
        ("7423", "01", None, "Radeon Pro W6300", 64e9),
    ],
)
def test_products(pci_id: str, revision: str, units: int | None, name: str, bandwidth: float | None) -> None:
    """Id, revision and compute units give one product; what was counted goes before what a revision says."""
    (product,) = find_products(pci_id, revision, units)
    assert (product.name, product.bandwidth) == (name, bandwidth)


def test_products_that_stay_open() -> None:
    """What can't be told apart is named as what it may be, each name once."""
    assert describe(find_products("66a1", "02", None)) == "Instinct MI60 / MI50"
    assert describe(find_products("164e", None, None)) == "Radeon 610M / Graphics (Raphael)"
    assert describe(find_products("ffff", "00", None)) is None


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: f"{product.pci_id}-{product.name}")
def test_a_bandwidth_is_possible(product: Product) -> None:
    """A stated bandwidth is one that the bus gives at a clock its kind of memory has."""
    if product.bandwidth is None or product.bus_bits is None or product.gfx_target == "gfx1013":
        return
    if product.gfx_target in UNIFIED_TARGETS:
        megatransfers = product.bandwidth / product.bus_bits * 8 / 1e6
        assert 5500 <= megatransfers <= 9600
        return
    transfers = transfers_per_clock(product.gfx_target, 0)
    assert transfers is not None
    clock = product.bandwidth / product.bus_bits * 8 / transfers / 1e6
    assert 600 <= clock <= 2000


def test_cards_without_a_bandwidth() -> None:
    """Of the discrete cards since Vega these alone have none: nobody publishes one, sources differ, or its memory does."""
    missing = {
        product.name
        for product in PRODUCTS
        if product.bandwidth is None
        and product.gfx_target not in UNIFIED_TARGETS
        and not product.name.startswith("Instinct")
    }
    assert missing == {
        "Radeon RX 9050",
        "Radeon RX 7300",
        "Steam Machine",
        "Radeon RX 6650M",
        "Radeon RX 6500 / 6500M",
        "Radeon RX 5600 XT",
    }


def test_no_id_and_revision_mean_two_targets() -> None:
    """One id, revision and number of units is one product."""

    def place(product: Product) -> tuple[str, tuple[str, ...], int]:
        return product.pci_id, tuple(sorted(product.revisions)), product.compute_units or 0

    for _, same in groupby(sorted(PRODUCTS, key=place), key=place):
        assert len(list(same)) == 1


def test_targets_of_graphics_cores() -> None:
    """The compiler's target of a core is its version, with the exceptions that the kernel has."""
    cores = [(11, 5, 1), (11, 0, 0), (11, 0, 3), (12, 0, 1), (10, 3, 6), (10, 3, 2), (9, 4, 2), (9, 4, 3), (9, 5, 0)]
    assert [target_of(*core) for core in cores] == (
        "gfx1151 gfx1100 gfx1101 gfx1201 gfx1036 gfx1031 gfx90a gfx942 gfx950".split()
    )
