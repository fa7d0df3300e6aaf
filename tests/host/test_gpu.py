"""GPUs from trees of real machines; origins in tests/fixtures/host/ORIGIN.md."""

import errno
import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.host.gpu import (
    GpuFacts,
    GpuReading,
    GpuSample,
    PartitionFacts,
    memory_in_use,
    read_gpus,
    sample_gpus,
)
from exporter.host.gpu_metrics import Residency
from exporter.host.kfd import gfx_target, pci_address

TREES = Path(__file__).parent.parent / "fixtures" / "host" / "sys"
STRIX_POINT_COUNTS = (
    ("prochot", 28),
    ("spl", 1868),
    ("fppt", 92382),
    ("sppt", 257),
    ("thm_core", 1795),
    ("thm_gfx", 0),
    ("thm_soc", 0),
)
CARD = "class/drm/card1/device"
NODE = "class/kfd/kfd/topology/nodes/1"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Where a test may put a tree and change it."""
    return tmp_path / "sys"


def copy(name: str, to: Path) -> Path:
    shutil.copytree(TREES / name, to, dirs_exist_ok=True)
    return to


def only(reading: GpuReading) -> GpuFacts:
    (gpu,) = reading.gpus
    return gpu


def sample(sysfs: Path) -> GpuSample:
    (each,) = sample_gpus(sysfs)
    return each


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (
            "radeon-8060s",
            GpuFacts(
                address="0000:c2:00.0",
                name="Radeon 8060S",
                gfx_target="gfx1151",
                compute_units=40,
                unified_memory=True,
                vram_total_bytes=1073741824,
                gtt_total_bytes=118111600640,
                memory_pool_bytes=118111600640,
                bandwidth_bytes_per_second=256e9,
                bandwidth_source="table",
            ),
        ),
        (
            "radeon-8050s",
            GpuFacts("0000:bf:00.0", "Radeon 8050S", "gfx1151", 32, True, None, None, None, 256e9, "table"),
        ),
        (
            "radeon-880m",
            GpuFacts(
                address="0000:c1:00.0",
                name="Radeon 880M",
                gfx_target="gfx1150",
                compute_units=12,
                unified_memory=True,
                vram_total_bytes=536870912,
                gtt_total_bytes=16441004032,
                memory_pool_bytes=16441004032,
                bandwidth_bytes_per_second=128e9,
                bandwidth_source="memory bank",
            ),
        ),
        (
            "radeon-780m",
            GpuFacts(
                address="0000:64:00.0",
                name="Radeon 780M",
                gfx_target="gfx1103",
                compute_units=12,
                unified_memory=True,
                vram_total_bytes=4294967296,
                gtt_total_bytes=31433977856,
                memory_pool_bytes=31433977856,
                bandwidth_bytes_per_second=102.4e9,
                bandwidth_source="memory bank",
            ),
        ),
        (
            "radeon-rx-7900-xtx",
            GpuFacts("0000:03:00.0", "Radeon RX 7900 XTX", "gfx1100", 96, False, None, None, None, 960e9, "table"),
        ),
        (
            "radeon-rx-7600",
            GpuFacts(
                address="0000:03:00.0",
                name="Radeon RX 7600",
                gfx_target="gfx1102",
                compute_units=32,
                unified_memory=False,
                vram_total_bytes=8573157376,
                memory_pool_bytes=8573157376,
                bandwidth_bytes_per_second=288e9,
                bandwidth_source="table",
            ),
        ),
        (
            "instinct-mi300x",
            GpuFacts("0000:0a:00.0", "Instinct MI300X", "gfx942", 304, False, None, None, None, 5300e9, "table"),
        ),
    ],
)
def test_facts_of_real_machines(tree: str, expected: GpuFacts) -> None:
    """Each machine's GPU is named and measured as it is, and reading it raises no problem."""
    assert read_gpus(TREES / tree) == GpuReading((expected,), ())


def test_machine_without_a_gpu(tmp_path: Path) -> None:
    """No GPU, no driver, or no sysfs at all: nothing, and no error."""
    assert read_gpus(TREES / "no-gpu") == GpuReading()
    assert sample_gpus(TREES / "no-gpu") == ()
    assert read_gpus(tmp_path) == GpuReading()


def test_partitioned_gpu() -> None:
    """Four partitions are one GPU: units and memory add up, its bandwidth counts once, each part has its share of it."""
    gpu = only(read_gpus(TREES / "instinct-mi308x-cpx"))
    assert (gpu.address, gpu.name, gpu.compute_units) == ("0000:0a:00.0", "Instinct MI308X", 80)
    assert gpu.memory_pool_bytes == 4 * 51539607552
    assert (gpu.bandwidth_bytes_per_second, gpu.bandwidth_source) == (8192 * 1300 * 4e6 / 8, "memory bank")
    assert gpu.partitions == (PartitionFacts(20, 51539607552, 8192 * 1300 * 4e6 / 8 / 4),) * 4


def test_partitions_without_their_card(machine: Path) -> None:
    """Where only KFD can be read, partitions are still one GPU, by the id that they share."""
    copy("instinct-mi308x-cpx", machine)
    shutil.rmtree(machine / "class/drm")
    gpu = only(read_gpus(machine))
    assert (gpu.address, gpu.compute_units, len(gpu.partitions)) == ("0000:0a:00.0", 80, 4)


def test_one_visible_partition(machine: Path) -> None:
    """Where a container sees one partition of four, that one's share is still a share of the whole."""
    copy("instinct-mi308x-cpx", machine)
    for node in (2, 3, 5):
        shutil.rmtree(machine / f"class/kfd/kfd/topology/nodes/{node}")
    assert only(read_gpus(machine)).partitions == (PartitionFacts(20, 51539607552, None),)
    (machine / CARD / "mem_info_vram_total").write_text(f"{4 * 51539607552}\n")
    gpu = only(read_gpus(machine))
    assert gpu.address == "0000:0a:00.0"
    assert gpu.partitions == (PartitionFacts(20, 51539607552, 8192 * 1300 * 4e6 / 8 / 4),)


def test_several_gpus(machine: Path) -> None:
    """An APU beside a discrete GPU: two GPUs, in the order of their addresses, each with its own facts."""
    copy("radeon-rx-7900-xtx", machine)
    shutil.copytree(TREES / "radeon-8060s" / CARD, machine / CARD)
    shutil.copytree(TREES / "radeon-8060s" / NODE, machine / "class/kfd/kfd/topology/nodes/2")
    gpus = read_gpus(machine).gpus
    assert [(gpu.address, gpu.compute_units, gpu.unified_memory) for gpu in gpus] == [
        ("0000:03:00.0", 96, False),
        ("0000:c2:00.0", 40, True),
    ]
    assert [each.power_scope for each in sample_gpus(machine)] == ["gpu", None]


def test_hidden_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """KFD's nodes denied to this process: the card still tells what it is, its units are the product's, the reason is named."""
    opened = os.open

    def refuse(path: Path, flags: int) -> int:
        if "nodes/1/" in str(path):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        return opened(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    reading = read_gpus(TREES / "radeon-880m")
    gpu = only(reading)
    assert (gpu.name, gpu.gfx_target, gpu.compute_units) == ("Radeon 880M", "gfx1150", 12)
    assert (gpu.unified_memory, gpu.memory_pool_bytes) == (True, 16441004032)
    assert (gpu.bandwidth_bytes_per_second, gpu.bandwidth_source) == (128e9, "memory modules")
    assert len(reading.problems) == 1
    assert "nodes/1/properties: Operation not permitted" in reading.problems[0]
    assert "/dev/dri/renderD" in reading.problems[0]


RX_5600_XT = "0: 100Mhz\n1: 500Mhz\n2: 625Mhz\n3: {highest}Mhz *\n"
"""Levels of a Navi 10 as LACT's snapshot of an RX 5700 XT has them; the highest is the memory's."""


@pytest.mark.parametrize(("highest", "gigabytes"), [(750, 288), (875, 336)])
def test_hidden_bank_of_a_card_sold_with_two_memories(machine: Path, highest: int, gigabytes: int) -> None:
    """An RX 5600 XT whose KFD is hidden: its memory clock tells which it has; asleep it is not woken to be asked."""
    copy("radeon-rx-7600", machine)
    shutil.rmtree(machine / "class/kfd")
    device = machine / "class/drm/card0/device"
    uevent = (device / "uevent").read_text().replace("1002:7480", "1002:731F")
    assert "1002:731F" in uevent
    (device / "uevent").write_text(uevent)
    (device / "revision").write_text("0xca\n")
    assert only(read_gpus(machine)).bandwidth_bytes_per_second is None
    (device / "pp_dpm_mclk").write_text(RX_5600_XT.format(highest=highest))
    gpu = only(read_gpus(machine))
    assert (gpu.name, gpu.bandwidth_bytes_per_second, gpu.bandwidth_source) == (
        "Radeon RX 5600 XT",
        gigabytes * 1e9,
        "memory clock",
    )
    (device / "power/runtime_status").write_text("suspended\n")
    assert only(read_gpus(machine)).bandwidth_bytes_per_second is None


def test_unknown_product_on_one_of_several(machine: Path) -> None:
    """A PCI id that covers several products is named as what it may be, and nothing is taken from a data sheet."""
    copy("radeon-8060s", machine)
    shutil.rmtree(machine / "class/kfd")
    gpu = only(read_gpus(machine))
    assert (gpu.name, gpu.compute_units) == ("Radeon 8060S / 8050S / 8040S", None)
    assert gpu.gfx_target == "gfx1151"
    assert gpu.bandwidth_bytes_per_second is None


def test_revision_names_it_where_units_are_hidden(machine: Path) -> None:
    """With the nodes hidden the PCI revision still tells an 8060S, and with that its bandwidth."""
    copy("radeon-8060s", machine)
    shutil.rmtree(machine / "class/kfd")
    (machine / CARD / "revision").write_text("0xc1\n")
    gpu = only(read_gpus(machine))
    assert (gpu.name, gpu.bandwidth_bytes_per_second) == ("Radeon 8060S", 256e9)


def test_card_of_an_unknown_kind(machine: Path) -> None:
    """A GPU newer than the table is named by its target, and without KFD by its id."""
    copy("radeon-rx-7600", machine)
    (machine / "class/drm/card0/device/uevent").write_text(
        "DRIVER=amdgpu\nPCI_ID=1002:FFFF\nPCI_SLOT_NAME=0000:03:00.0\n"
    )
    assert only(read_gpus(machine)).name == "gfx1102"
    shutil.rmtree(machine / "class/kfd")
    gpu = only(read_gpus(machine))
    assert (gpu.name, gpu.gfx_target, gpu.unified_memory) == ("AMD GPU ffff", None, None)


def test_unified_memory_of_an_unknown_gpu(machine: Path) -> None:
    """Much more shared memory than its own is an APU; a load of its own memory is a discrete GPU."""
    device = copy("radeon-8060s", machine) / CARD
    shutil.rmtree(machine / "class/kfd")
    (device / "uevent").write_text("DRIVER=amdgpu\nPCI_ID=1002:FFFF\nPCI_SLOT_NAME=0000:c2:00.0\n")
    gpu = only(read_gpus(machine))
    assert (gpu.unified_memory, gpu.memory_pool_bytes) == (True, 118111600640)
    (device / "mem_busy_percent").write_text("0\n")
    gpu = only(read_gpus(machine))
    assert (gpu.unified_memory, gpu.memory_pool_bytes) == (False, 1073741824)


@pytest.mark.parametrize("name", ["card0-DP-1", "renderD128", "version"])
def test_connectors_and_render_nodes_are_no_cards(machine: Path, name: str) -> None:
    """Only cards are GPUs, whatever else the folder holds."""
    copy("no-gpu", machine)
    shutil.rmtree(machine / "class/drm")
    shutil.copytree(TREES / "radeon-8060s" / CARD, machine / "class/drm" / name / "device")
    assert read_gpus(machine) == GpuReading()


def test_cards_of_other_drivers(machine: Path) -> None:
    """A card that amdgpu doesn't drive is none of ours, nor is a partition's, which has no PCI address."""
    device = copy("no-gpu", machine) / CARD
    for uevent in (
        "DRIVER=i915\nPCI_SLOT_NAME=0000:00:02.0\n",
        "DRIVER=amdgpu\nMODALIAS=platform:amdgpu_xcp\n",
        "\xff",
    ):
        device.mkdir(parents=True, exist_ok=True)
        (device / "uevent").write_text(uevent)
        assert read_gpus(machine) == GpuReading()


def test_folders_and_fifos_in_the_place_of_files(machine: Path) -> None:
    """Whatever stands where a file should is left unread and named; the rest is read."""
    copy("radeon-8060s", machine)
    (machine / NODE / "mem_banks/0/properties").unlink()
    os.mkfifo(machine / NODE / "mem_banks/0/properties")
    (machine / CARD / "mem_info_vram_total").unlink()
    (machine / CARD / "mem_info_vram_total").mkdir()
    reading = read_gpus(machine)
    gpu = only(reading)
    assert (gpu.name, gpu.vram_total_bytes, gpu.memory_pool_bytes) == ("Radeon 8060S", None, 118111600640)
    assert len(reading.problems) == 1
    assert "mem_banks/0/properties: not a regular file" in reading.problems[0]


def test_sample_of_an_apu() -> None:
    """A Strix Point at rest: power of the socket, no memory clock among its levels but one in the binary file."""
    assert sample(TREES / "radeon-880m") == GpuSample(
        address="0000:c1:00.0",
        busy_ratio=0.03,
        vram_used_bytes=514580480,
        gtt_used_bytes=3946811392,
        power_watts=9.087,
        power_scope="socket",
        temperatures=(("edge", 38.0),),
        clocks=(("sclk", 848e6), ("mclk", 836e6)),
        residency=Residency(STRIX_POINT_COUNTS, total=152155057),
    )


def test_sample_of_a_discrete_gpu() -> None:
    """An RX 7900 XTX at rest: power of the GPU alone, three sensors, clocks from the level that is marked."""
    assert sample(TREES / "radeon-rx-7900-xtx") == GpuSample(
        address="0000:03:00.0",
        busy_ratio=0.03,
        power_watts=68.0,
        power_scope="gpu",
        temperatures=(("edge", 53.0), ("junction", 61.0), ("mem", 68.0)),
        clocks=(("sclk", 31e6), ("mclk", 1249e6)),
        power_cap_watts=290.0,
    )


def test_power_now_goes_before_power_of_late() -> None:
    """Of two power readings the instant one is taken."""
    assert sample(TREES / "radeon-780m").power_watts == 3.142


def test_machine_that_measures_little() -> None:
    """What isn't there is absent, never 0."""
    assert sample(TREES / "radeon-8050s") == GpuSample(address="0000:bf:00.0")


def test_suspended_gpu_sleeps_on(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file that would wake a suspended GPU is opened."""
    copy("radeon-rx-7900-xtx", machine)
    (machine / "class/drm/card0/device/power/runtime_status").write_text("suspended\n")
    opened: list[str] = []
    real = os.open

    def record(path: Path, flags: int) -> int:
        opened.append(Path(path).name)
        return real(path, flags)

    monkeypatch.setattr(os, "open", record)
    assert sample(machine) == GpuSample(address="0000:03:00.0", suspended=True)
    assert "runtime_status" in opened
    waking = {"gpu_busy_percent", "gpu_metrics", "pp_dpm_sclk", "power1_average", "power1_cap", "temp1_input"}
    assert not waking & set(opened)


@pytest.mark.parametrize(
    ("file", "text", "field"),
    [
        ("gpu_busy_percent", "65535", "busy_ratio"),
        ("gpu_busy_percent", "N/A", "busy_ratio"),
        ("mem_info_vram_used", "-4096", "vram_used_bytes"),
        ("hwmon/hwmon6/power1_input", "", "power_watts"),
    ],
)
def test_values_that_are_none(machine: Path, file: str, text: str, field: str) -> None:
    """A register full of ones, an empty file or a count below zero is not a measurement."""
    copy("radeon-880m", machine)
    (machine / CARD / "hwmon/hwmon6/power1_average").write_text("4294967295000000\n")
    (machine / CARD / file).write_text(text + "\n")
    assert getattr(sample(machine), field) is None


def test_sensors_that_are_none(machine: Path) -> None:
    """A sensor or a clock of all ones is left out of the list, the others stay."""
    hwmon = copy("radeon-880m", machine) / CARD / "hwmon/hwmon6"
    (hwmon / "temp2_input").write_text("65535000\n")
    (hwmon / "temp3_input").write_text("41500\n")
    (hwmon / "freq1_input").write_text("4294967295000000\n")
    found = sample(machine)
    assert found.temperatures == (("edge", 38.0), ("temp3", 41.5))
    assert found.clocks == (("sclk", 848e6), ("mclk", 836e6))


def test_used_never_exceeds_total(machine: Path) -> None:
    """A count that some kernels let run past the total is cut to it."""
    copy("radeon-880m", machine)
    (machine / CARD / "mem_info_vram_used").write_text("18446744073709547520\n")
    assert sample(machine).vram_used_bytes == 536870912


def test_throttling_by_counters(machine: Path) -> None:
    """Of two samples the counters tell each reason's share of the time between; smaller ones were begun anew."""
    metrics = copy("radeon-880m", machine) / CARD / "gpu_metrics"
    first = sample_gpus(machine)
    assert [each.throttling for each in first] == [()]
    data = bytearray(metrics.read_bytes())
    (nanoseconds,) = struct.unpack_from("<Q", data, 104)
    struct.pack_into("<Q", data, 104, nanoseconds + 10_000_000_000)
    struct.pack_into("<I", data, 252, 2500)
    metrics.write_bytes(data)
    second = sample_gpus(machine, first)
    assert [each.throttling for each in second] == [(("thermal", 0.25), ("power", 0.0))]
    struct.pack_into("<Q", data, 104, nanoseconds + 20_000_000_000)
    struct.pack_into("<I", data, 252, 0)
    metrics.write_bytes(data)
    assert [each.throttling for each in sample_gpus(machine, second)] == [()]


@pytest.mark.parametrize(("junction", "thermal"), [("61000", 0.0), ("104000", 1.0)])
def test_throttling_by_status(machine: Path, junction: str, thermal: float) -> None:
    """An RX 7900 XTX's bit for a hot spot counts where the hot spot is near its limit of 110 degrees."""
    device = copy("radeon-rx-7900-xtx", machine) / "class/drm/card0/device"
    data = bytearray(b"\xff" * 120)
    struct.pack_into("<HBB", data, 0, 120, 1, 3)
    struct.pack_into("<Q", data, 112, 1 << 36 | 1)
    (device / "gpu_metrics").write_bytes(data)
    (device / "hwmon/hwmon8/temp2_crit").write_text("110000\n")
    (device / "hwmon/hwmon8/temp2_input").write_text(junction + "\n")
    assert dict(sample(machine).throttling) == {"thermal": thermal, "power": 1.0, "current": 0.0, "other": 0.0}


def test_memory_at_zero_degrees_has_no_sensor(machine: Path) -> None:
    """A memory temperature of exactly 0 is left out, and so is a power limit of 0."""
    hwmon = copy("radeon-rx-7900-xtx", machine) / "class/drm/card0/device/hwmon/hwmon8"
    (hwmon / "temp3_input").write_text("0\n")
    (hwmon / "power1_cap").write_text("0\n")
    assert [name for name, _ in sample(machine).temperatures] == ["edge", "junction"]
    assert sample(machine).power_cap_watts is None


def test_memory_in_use(machine: Path) -> None:
    """A discrete GPU's is its VRAM, an APU's both parts of what it shares, a sleeping one's nothing."""
    gpu = only(read_gpus(copy("radeon-880m", machine)))
    assert memory_in_use(gpu, sample(machine)) == 514580480 + 3946811392
    assert memory_in_use(gpu, GpuSample(gpu.address, suspended=True)) == 0
    assert memory_in_use(gpu, GpuSample(gpu.address)) is None
    discrete = replace(gpu, unified_memory=False)
    assert memory_in_use(discrete, sample(machine)) == 514580480


def test_compute_driver_that_names_no_target(machine: Path) -> None:
    """An old kernel's node gives no target: the table of the GPU's blocks does, and what it has before the product's."""
    device = copy("radeon-rx-7600", machine) / "class/drm/card0/device"
    properties = machine / NODE / "properties"
    properties.write_text(properties.read_text().replace("gfx_target_version 110002", "gfx_target_version 0"))
    assert only(read_gpus(machine)).gfx_target == "gfx1102"
    for name, number in (("major", 11), ("minor", 0), ("revision", 3)):
        (device / "ip_discovery/die/0/GC/0").mkdir(parents=True, exist_ok=True)
        (device / "ip_discovery/die/0/GC/0" / name).write_text(f"{number}\n")
    assert only(read_gpus(machine)).gfx_target == "gfx1101"


def test_names_and_addresses() -> None:
    """Targets are hexadecimal in their stepping; a location's high bits number a partition and are no address."""
    assert gfx_target(0) is None
    assert [gfx_target(version) for version in (110501, 90010, 90402, 120001)] == [
        "gfx1151",
        "gfx90a",
        "gfx942",
        "gfx1201",
    ]
    assert pci_address(0, 49408) == "0000:c1:00.0"
    assert pci_address(2, 3 << 28 | 25600) == "0002:64:00.0"
