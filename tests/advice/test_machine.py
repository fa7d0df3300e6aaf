"""What hurts on a machine: each condition where it holds, where it doesn't, and where nothing says."""

from dataclasses import replace
from pathlib import Path

import pytest

from exporter.advice import Advice, AdviceFacts, advise, model_on
from exporter.advice.machine import GPU_CONDITIONS, MACHINE_CONDITIONS
from exporter.host.gpu import GpuFacts, read_gpus
from exporter.host.machine import GpuSettings, MachineFacts, PowerProfile, read_machine
from tests.host.machines import build

HALO = GpuFacts("0000:c1:00.0", "Radeon 8060S", "gfx1151", 40, unified_memory=True, memory_pool_bytes=62 * 1024**3)
XTX = GpuFacts(
    "0000:03:00.0", "Radeon RX 7900 XTX", "gfx1100", 96, unified_memory=False, memory_pool_bytes=24 * 1024**3
)
NOTHING = MachineFacts()


def facts_of(name: str, root: Path, model_bytes: float | None = None) -> AdviceFacts:
    build(name, root)
    gpus = read_gpus(root / "sys").gpus
    models = [model for gpu in gpus for model in model_on([gpu.address], model_bytes)]
    return AdviceFacts(read_machine(root), gpus, tuple(models), "in-tree")


def conditions(facts: AdviceFacts) -> list[str]:
    return [advice.condition for advice in advise(facts)]


def test_machine_with_all_that_is_known_to_hurt(tmp_path: Path) -> None:
    """A Strix Halo set up by old guides: each fault is told once, with the fact that shows it."""
    told = {advice.condition: advice for advice in advise(facts_of("framework-desktop-fedora", tmp_path, 140e9))}
    assert list(told) == [
        "broken_mes_firmware",
        "kernel_too_old_for_gfx1151",
        "memory_pool_below_model",
        "gpu_clocks_pinned_low",
        "tuned_profile",
        "amd_iommu_option_ignored",
        "gttsize_deprecated",
        "platform_profile_saves_power",
    ]
    for condition, fact in {
        "broken_mes_firmware": "0x83",
        "kernel_too_old_for_gfx1151": "6.17.9-300.fc43.x86_64",
        "memory_pool_below_model": "140 GB",
        "gpu_clocks_pinned_low": "low",
        "tuned_profile": "throughput-performance",
        "amd_iommu_option_ignored": "amd_iommu=pt",
        "gttsize_deprecated": "amdgpu.gttsize=126976",
        "platform_profile_saves_power": "low-power",
    }.items():
        assert fact in told[condition].sentence
        assert told[condition].sentence.endswith(".")
    assert told["tuned_profile"].gpu == "0000:c1:00.0"
    assert told["gttsize_deprecated"].gpu == ""


@pytest.mark.parametrize("name", ["strix-halo-96-gib", "rx-6900-xt", "rx-9070", "rx-7800-xt", "steam-deck", "rtx-4080"])
def test_machines_that_are_well_set_up(tmp_path: Path, name: str) -> None:
    """Nothing is said where nothing hurts; a power limit a little below its default is somebody's choice."""
    assert advise(facts_of(name, tmp_path, 80e9)) == ()


def test_lowered_power_limit(tmp_path: Path) -> None:
    """A limit far below the one that the GPU came with is told with both."""
    (advice,) = advise(facts_of("rx-9070-xt", tmp_path))
    assert advice == Advice(
        "power_cap_lowered",
        "The power limit of Radeon RX 9070 XT is set to 120 W instead of the default of 304 W: its clocks are lower under load.",
        "0000:0f:00.0",
        title="lowered power limit",
    )


def test_what_was_not_read_is_no_fault() -> None:
    """Without a fact no condition holds."""
    assert advise(AdviceFacts(NOTHING, (HALO, XTX))) == ()


@pytest.mark.parametrize(
    ("release", "source", "expected"),
    [
        ("6.18.3-arch1-1", "in-tree", True),
        ("6.14.0-1018-oem", None, True),
        ("6.18.4", "in-tree", False),
        ("7.0-rc1", "in-tree", False),
        ("6.14.0-37-generic", "dkms", False),
        ("unknown", "in-tree", False),
    ],
)
def test_kernels(release: str, source: str | None, expected: bool) -> None:  # noqa: FBT001
    """A kernel before 6.18.4 is told on gfx1151, unless AMD's own module drives the GPU."""
    machine = replace(NOTHING, kernel_release=release)
    assert ("kernel_too_old_for_gfx1151" in conditions(AdviceFacts(machine, (HALO,), (), source))) is expected
    assert conditions(AdviceFacts(machine, (XTX,), (), source)) == []


def test_memory_of_an_apu_and_a_model() -> None:
    """A model beyond what an APU may use is told with the pages to set; a discrete GPU's memory is what it is."""
    on_both = ((HALO.address, 64 * 1024.0**3), (HALO.address, 1e9), (XTX.address, 64 * 1024.0**3))
    (advice,) = advise(AdviceFacts(NOTHING, (HALO, XTX), on_both))
    assert "more than 16777216 pages" in advice.sentence
    assert advise(AdviceFacts(NOTHING, (HALO,), ((HALO.address, 60 * 1024.0**3),))) == ()
    assert advise(AdviceFacts(NOTHING, (HALO, XTX), ((XTX.address, 64 * 1024.0**3),))) == ()


def test_models_that_one_gpu_serves() -> None:
    """A model on several GPUs, on none that is known or of an unknown size is nothing to compare a GPU's memory with."""
    assert model_on([HALO.address], 29.5e9) == ((HALO.address, 29.5e9),)
    assert model_on([HALO.address, XTX.address], 29.5e9) == ()
    assert model_on([], 29.5e9) == ()
    assert model_on([HALO.address], None) == ()


def test_gpus_that_are_alike_are_told_apart() -> None:
    """Of two equal cards the advice says which."""
    other = replace(XTX, address="0000:83:00.0")
    lowered = GpuSettings(other.address, power_cap_watts=120.0, power_cap_default_watts=304.0)
    (advice,) = advise(AdviceFacts(replace(NOTHING, gpus=(lowered,)), (XTX, other)))
    assert advice.sentence.startswith(f"The power limit of {XTX.name} (0000:83:00.0) is set to 120 W")


@pytest.mark.parametrize(
    ("driver", "expected"),
    [("acpi-cpufreq", True), ("amd-pstate", True), ("amd-pstate-epp", False), ("intel_pstate", False), (None, False)],
)
def test_governor(driver: str | None, expected: bool) -> None:  # noqa: FBT001
    """The governor powersave means a low clock only under drivers that take it at its word."""
    machine = replace(NOTHING, power=PowerProfile(governor="powersave", driver=driver))
    assert (conditions(AdviceFacts(machine)) == ["governor_saves_power"]) is expected


@pytest.mark.parametrize(("value", "expected"), [("pt", True), ("on", True), ("off", False), ("fullflush", False)])
def test_iommu_options(value: str, expected: bool) -> None:  # noqa: FBT001
    """An option that the kernel doesn't have is told, one that it has is not."""
    machine = replace(NOTHING, parameters=(("amd_iommu", value),))
    assert (conditions(AdviceFacts(machine)) == ["amd_iommu_option_ignored"]) is expected


def test_firmware_of_another_gpu() -> None:
    """The version is broken on the GPUs that are known to hang with it, and on no other."""
    broken = GpuSettings(HALO.address, firmware=(("mes", "0x83"),))
    assert conditions(AdviceFacts(replace(NOTHING, gpus=(broken,)), (HALO,))) == ["broken_mes_firmware"]
    assert conditions(AdviceFacts(replace(NOTHING, gpus=(broken,)), (replace(HALO, gfx_target="gfx1200"),))) == []
    fine = replace(broken, firmware=(("mes", "0x80"),))
    assert conditions(AdviceFacts(replace(NOTHING, gpus=(fine,)), (HALO,))) == []


def test_ids_are_words() -> None:
    """Ids are what a metric's label and an anchor in a page can be, and each stands once."""
    ids = [*GPU_CONDITIONS, *MACHINE_CONDITIONS]
    assert len(ids) == len(set(ids))
    assert all(name.replace("_", "").isalnum() and name.islower() for name in ids)
