"""GPUs of whole machines; each machine's file says where its values come from."""

import struct
from pathlib import Path

import pytest

from exporter.host.gpu import read_gpus, sample_gpus
from exporter.host.gpu_links import GpuLink, read_links, read_render_nodes
from exporter.host.other_gpus import OtherGpu, read_other_gpus
from exporter.settings import load_profiles
from exporter.tiers import TargetFacts, hardware_of
from tests.host.machines import NAMES, build, describe

PROFILES = load_profiles(None)
NVIDIA_INFORMATION = "Model: \t\t NVIDIA GB10\nIRQ:   \t\t 1\nBus Location: \t 000f:01:00.0\n"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Where a machine's files are written."""
    return tmp_path / "machine"


@pytest.mark.parametrize("name", NAMES)
def test_every_machine_has_an_origin_and_reads_without_a_problem(machine: Path, name: str) -> None:
    """A fixture says where it comes from and what in it is made up, and nothing in it is in the way of reading it."""
    described = describe(name)
    assert described["origin"]
    assert described["made_up"]
    assert read_gpus(build(name, machine) / "sys").problems == ()


@pytest.mark.parametrize(
    ("name", "gpus"),
    [
        (
            "ryzen-7800x3d-rx-7900-xtx",
            [
                ("Radeon RX 7900 XTX", "gfx1100", 96, False, 960e9),
                ("Radeon Graphics (Raphael)", "gfx1036", 2, True, None),
            ],
        ),
        (
            "ryzen-7500x3d-rx-7900-xt",
            [
                ("Radeon RX 7900 XT", "gfx1100", 84, False, 800e9),
                ("Radeon Graphics (Raphael)", "gfx1036", 2, True, None),
            ],
        ),
        (
            "ryzen-rx-6600",
            [("Radeon Graphics (Raphael)", "gfx1036", 2, True, None), ("Radeon RX 6600", "gfx1032", 28, False, 224e9)],
        ),
        ("ryzen-9950x-rtx-4000", [("Radeon Graphics (Granite Ridge)", "gfx1036", 2, True, 57.6e9)]),
        ("two-r9700", [("Radeon AI PRO R9700", "gfx1201", 64, False, 640e9)] * 2),
        (
            "strix-halo-r9700-egpu",
            [("Radeon AI PRO R9700", "gfx1201", 64, False, 640e9), ("Radeon 8060S", "gfx1151", 40, True, 256e9)],
        ),
        (
            "mi50-renoir",
            [("Instinct MI50", "gfx906", 60, False, 1024e9), ("Radeon Graphics (Renoir)", "gfx90c", 7, True, None)],
        ),
        ("mi25-old-kernel", [("Radeon Instinct MI25", "gfx900", 64, False, 2048 * 945 * 2e6 / 8)]),
        ("three-mi210", [("Instinct MI210", "gfx90a", 104, False, 1638e9)] * 3),
        ("rx-6900-xt", [("Radeon RX 6900 XT", "gfx1030", 80, False, 512e9)]),
        ("rx-7800-xt", [("Radeon RX 7800 XT", "gfx1101", 60, False, 624e9)]),
        ("rx-9070", [("Radeon RX 9070", "gfx1201", 56, False, 640e9)]),
        ("rx-9070-xt", [("Radeon RX 9070 XT", "gfx1201", 64, False, 640e9)]),
        ("vega-56", [("Radeon RX Vega 56", "gfx900", 56, False, 410e9)]),
        ("steam-deck", [("Radeon Graphics (Van Gogh)", "gfx1033", 8, True, None)]),
        ("kubernetes-rx-7900-xtx", [("Radeon RX 7900 XTX", "gfx1100", 96, False, 960e9)]),
        ("mi300a", [("Instinct MI300A", "gfx942", 228, True, 8192 * 1300 * 4e6 / 8)]),
        ("bc-250", [("BC-250", "gfx1013", 24, True, 448e9)]),
        ("strix-halo-96-gib", [("Radeon 8060S", "gfx1151", 40, True, 256e9)]),
        ("rtx-4080", []),
    ],
)
def test_gpus_of_machines(
    machine: Path, name: str, gpus: list[tuple[str, str, int | None, bool | None, float | None]]
) -> None:
    """Each GPU is named and measured as it is, where KFD is hidden too."""
    found = read_gpus(build(name, machine) / "sys").gpus
    assert [
        (gpu.name, gpu.gfx_target, gpu.compute_units, gpu.unified_memory, gpu.bandwidth_bytes_per_second)
        for gpu in found
    ] == gpus


def test_product_that_only_its_name_leaves_open(machine: Path) -> None:
    """Without a revision and KFD a card is one of several, but its target and that it has its own memory are known."""
    (gpu,) = read_gpus(build("rx-7600s", machine) / "sys").gpus
    assert gpu.name.startswith("Radeon RX 7600 / RX 7600 XT / ")
    assert (gpu.gfx_target, gpu.compute_units, gpu.unified_memory) == ("gfx1102", None, False)


@pytest.mark.parametrize(
    ("name", "watts", "scope", "cap"),
    [
        ("rx-6900-xt", 36.0, "gpu", 289.0),
        ("rx-9070-xt", 55.0, "gpu", 120.0),
        ("vega-56", 8.0, "gpu", 260.0),
        ("steam-deck", 4.057, "socket", 15.0),
    ],
)
def test_power(machine: Path, name: str, watts: float, scope: str, cap: float) -> None:
    """Power carries what it counts, and the limit that is set."""
    (sample,) = sample_gpus(build(name, machine) / "sys")
    assert (sample.power_watts, sample.power_scope, sample.power_cap_watts) == (watts, scope, cap)


def test_throttle_status_at_rest(machine: Path) -> None:
    """The status of an RX 7600S at rest has its hot spot's bit, as dumped: it isn't throttled by heat."""
    metrics = bytearray(b"\xff" * 120)
    struct.pack_into("<HBB", metrics, 0, 120, 1, 3)
    struct.pack_into("<I", metrics, 68, 0x2)
    struct.pack_into("<Q", metrics, 112, 0x10_0000_0000)
    sysfs = build("rx-7600s", machine) / "sys"
    (sysfs / "class/drm/card1/device/gpu_metrics").write_bytes(metrics)
    (sample,) = sample_gpus(sysfs)
    assert dict(sample.throttling) == {"thermal": 0.0, "power": 0.0, "current": 0.0, "other": 0.0}


def test_names_of_one_gpu(machine: Path) -> None:
    """PCI address, render node, KFD's node and GPU id are tied together; two nodes of one board are two GPUs."""
    sysfs = build("two-r9700", machine) / "sys"
    assert read_links(sysfs) == (
        GpuLink("0000:05:00.0", ("renderD128",), (1,), (56387,)),
        GpuLink("0000:08:00.0", ("renderD129",), (2,), (18121,)),
    )
    assert read_render_nodes(sysfs) == {"renderD128": "0000:05:00.0", "renderD129": "0000:08:00.0"}


def test_names_where_only_kfd_or_only_drm_is_seen(machine: Path) -> None:
    """KFD alone gives render nodes by their minors, and ids; DRM alone gives what it has."""
    (_, second, _) = read_links(build("three-mi210", machine / "a") / "sys")
    assert second == GpuLink("0000:43:00.0", ("renderD129",), (3,), (), ("51276ac12ce05db3",))
    assert read_links(build("kubernetes-rx-7900-xtx", machine / "b") / "sys") == (
        GpuLink("0000:03:00.0", ("renderD128",)),
    )


@pytest.mark.parametrize(
    ("name", "others"),
    [
        (
            "ryzen-9950x-rtx-4000",
            [OtherGpu("nvidia", "nvidia", "0000:01:00.0", "NVIDIA RTX 4000 Ada Generation", integrated=False)],
        ),
        (
            "rtx-3090-without-drm",
            [OtherGpu("nvidia", "nvidia", "0000:0a:00.0", "NVIDIA GeForce RTX 3090", integrated=False)],
        ),
        ("rtx-4080", [OtherGpu("nvidia", "nvidia", "0000:09:00.0", None, integrated=False)]),
        (
            "intel-uhd-770-rx-7900-xtx",
            [OtherGpu("intel", "i915", "0000:00:02.0", "Intel UHD Graphics 770", integrated=True, small=True)],
        ),
        ("arc-a380-rx-5700-xt", [OtherGpu("intel", "i915", "0000:0b:00.0", "Intel Arc A380", integrated=False)]),
        ("passed-through-rx-6800", [OtherGpu("amd", "vfio-pci", "0000:0a:00.0")]),
        ("two-r9700", []),
    ],
)
def test_gpus_of_other_drivers(machine: Path, name: str, others: list[OtherGpu]) -> None:
    """A card of another vendor, and one that a virtual machine has, are seen, and never taken for one of amdgpu's."""
    root = build(name, machine)
    assert list(read_other_gpus(root / "sys", root / "proc")) == others
    assert not {gpu.address for gpu in others} & {gpu.address for gpu in read_gpus(root / "sys").gpus}


@pytest.mark.parametrize(
    ("model", "pci_id", "name", "bandwidth"),
    [
        ("NVIDIA GeForce RTX 3080", "2206", "NVIDIA GeForce RTX 3080", 760e9),
        ("NVIDIA GeForce RTX 3080", "220A", "NVIDIA GeForce RTX 3080 12GB", 912e9),
        ("NVIDIA GeForce RTX 3060 Ti", "24C9", "NVIDIA GeForce RTX 3060 Ti GDDR6X", 608e9),
        ("NVIDIA GeForce RTX 3060", "24C7", "NVIDIA GeForce RTX 3060 8GB", 240e9),
        ("NVIDIA GeForce RTX 3060", "2503", "NVIDIA GeForce RTX 3060", 360e9),
    ],
)
def test_cards_that_their_driver_calls_alike(
    machine: Path, model: str, pci_id: str, name: str, bandwidth: float
) -> None:
    """NVIDIA sells some names with two memories: the PCI id tells which, and the profiles have the bandwidth of each."""
    device = machine / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    uevent = f"DRIVER=nvidia\nPCI_CLASS=30000\nPCI_ID=10DE:{pci_id}\nPCI_SLOT_NAME=0000:01:00.0\n"
    (device / "uevent").write_text(uevent)
    information = machine / "proc/driver/nvidia/gpus/0000:01:00.0/information"
    information.parent.mkdir(parents=True)
    information.write_text(f"Model: \t\t {model}\n")
    (gpu,) = read_other_gpus(machine / "sys", machine / "proc")
    profile = hardware_of(TargetFacts("llama_cpp", gpu_name=gpu.title), PROFILES)
    assert (gpu.name, profile and PROFILES.hardware[profile].memory_bandwidth) == (name, bandwidth)


@pytest.mark.parametrize(
    ("pci_id", "profile"),
    [
        ("56A2", "arc-a580"),
        ("56A6", "arc-a310"),
        ("E20B", "arc-b580"),
        ("E211", "arc-pro-b60"),
        ("E212", "arc-pro-b50"),
        ("E222", "arc-pro-b65"),
        ("E223", "arc-pro-b70"),
        ("56A0", None),  # an A770 of 8 or of 16 GB
    ],
)
def test_intels_cards_have_their_profiles(machine: Path, pci_id: str, profile: str | None) -> None:
    """Intel's driver gives no name: the PCI id names the card, and by its name its bandwidth is found."""
    device = machine / "sys/bus/pci/devices/0000:03:00.0"
    device.mkdir(parents=True)
    uevent = f"DRIVER=xe\nPCI_CLASS=38000\nPCI_ID=8086:{pci_id}\nPCI_SLOT_NAME=0000:03:00.0\n"
    (device / "uevent").write_text(uevent)
    (gpu,) = read_other_gpus(machine / "sys", machine / "proc")
    assert hardware_of(TargetFacts("llama_cpp", gpu_name=gpu.title), PROFILES) == profile


def test_other_gpus_by_the_bus(machine: Path) -> None:
    """The PCI bus shows cards without a DRM node; a display of a server's controller, and sound, are no GPUs."""
    bus = machine / "sys/bus/pci/devices"
    for address, uevent in {
        "0000:01:00.0": "DRIVER=nvidia\nPCI_CLASS=30200\nPCI_ID=10DE:20B5\nPCI_SLOT_NAME=0000:01:00.0\n",
        "0000:02:00.0": "DRIVER=ast\nPCI_CLASS=30000\nPCI_ID=1A03:2000\nPCI_SLOT_NAME=0000:02:00.0\n",
        "0000:03:00.1": "DRIVER=vfio-pci\nPCI_CLASS=40300\nPCI_ID=10DE:10F0\nPCI_SLOT_NAME=0000:03:00.1\n",
        "0000:04:00.0": "PCI_CLASS=30000\nPCI_ID=10DE:2204\nPCI_SLOT_NAME=0000:04:00.0\n",
        "0000:05:00.0": "DRIVER=xe\nPCI_CLASS=38000\nPCI_ID=8086:E20B\nPCI_SLOT_NAME=0000:05:00.0\n",
    }.items():
        (bus / address).mkdir(parents=True)
        (bus / address / "uevent").write_text(uevent)
    information = machine / "proc/driver/nvidia/gpus/000f:01:00.0/information"
    information.parent.mkdir(parents=True)
    information.write_text(NVIDIA_INFORMATION)
    found = read_other_gpus(machine / "sys", machine / "proc")
    assert [(gpu.address, gpu.title, gpu.integrated) for gpu in found] == [
        ("0000:01:00.0", "NVIDIA GPU", False),
        ("0000:05:00.0", "Intel Arc B580", False),
        ("000f:01:00.0", "NVIDIA GB10", True),
    ]
    assert read_other_gpus(machine / "absent", machine / "absent") == ()
