"""The machine's other facts; origins in the machines' files."""

from pathlib import Path

import pytest

from exporter.host.machine import GpuSettings, MachineFacts, PowerProfile, read_machine
from tests.host.machines import build


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Where a machine's files are written."""
    return tmp_path / "machine"


def test_strix_halo(machine: Path) -> None:
    """Kernel, the parameters that decide, and memory; a parameter that decides nothing is left out."""
    facts = read_machine(build("strix-halo-96-gib", machine))
    assert facts == MachineFacts(
        kernel_release="7.1.0",
        parameters=(
            ("amd_pstate", "active"),
            ("iommu.passthrough", "0"),
            ("ttm.page_pool_size", "25165824"),
            ("ttm.pages_limit", "25165824"),
        ),
        memory_bytes=127098456 * 1024,
        gpus=(GpuSettings("0000:c4:00.0", performance_level="auto"),),
    )


def test_framework_desktop(machine: Path) -> None:
    """BIOS, profiles and firmware, by block and without those that the GPU doesn't have."""
    facts = read_machine(build("framework-desktop-fedora", machine))
    assert facts.power == PowerProfile(
        platform_profile="low-power",
        governor="powersave",
        driver="amd-pstate-epp",
        energy_preference="balance_performance",
        tuned="throughput-performance",
    )
    assert (facts.bios_version, facts.bios_date) == ("03.02", "07/21/2025")
    assert dict(facts.parameters) == {
        "amd_iommu": "pt",
        "amdgpu.gttsize": "126976",
        "amdgpu.cwsr_enable": "1",
        "ttm.pages_limit": "32505856",
    }
    (gpu,) = facts.gpus
    assert gpu.firmware == (("mes", "0x83"), ("mes_kiq", "0x6f"))
    assert (gpu.vbios_version, gpu.performance_level) == ("113-STRXLGEN-001", "low")


def test_nothing_that_names_the_machine_or_its_owner(machine: Path) -> None:
    """Serial numbers, host names and the rest of the command line never leave the reader."""
    assert "secret" not in repr(read_machine(build("framework-desktop-fedora", machine))).lower()


def test_limits_of_a_discrete_gpu(machine: Path) -> None:
    """The power limit that is set stands beside the one that the GPU came with."""
    (gpu,) = read_machine(build("rx-9070-xt", machine)).gpus
    assert (gpu.power_cap_watts, gpu.power_cap_default_watts) == (120.0, 304.0)
    (gpu,) = read_machine(build("rx-6900-xt", machine / "other")).gpus
    assert gpu.firmware == (("mec", "0x68"), ("smc", "0x3a5600"))


def test_sleeping_gpu_is_not_asked(machine: Path) -> None:
    """What would wake a GPU is left out while it sleeps."""
    sleeping, awake = read_machine(build("sleeping-rx-7600m-xt", machine)).gpus
    assert sleeping == GpuSettings("0000:03:00.0")
    assert awake.address == "0000:64:00.0"


def test_machine_that_shows_nothing(tmp_path: Path) -> None:
    """A container that masks everything gives no fact, and no error."""
    assert read_machine(tmp_path) == MachineFacts()


def test_sysfs_and_proc_elsewhere(machine: Path, tmp_path: Path) -> None:
    """Roots that are mounted elsewhere are read in place of the root's own."""
    build("strix-halo-96-gib", machine)
    facts = read_machine(tmp_path / "absent", sysfs=machine / "sys", proc=machine / "proc")
    assert facts.kernel_release == "7.1.0"
    assert len(facts.gpus) == 1


def test_newer_path_of_the_platform_profile(machine: Path) -> None:
    """Since kernel 6.14 the profile stands in a class of its own too."""
    profile = machine / "sys/class/platform-profile/platform-profile-0/profile"
    profile.parent.mkdir(parents=True)
    profile.write_text("performance\n")
    assert read_machine(machine).power.platform_profile == "performance"


@pytest.mark.parametrize("text", ["", "a b\nc", "x" * 65, "a\x1b[31m", "ä"])
def test_texts_that_are_no_names(machine: Path, text: str) -> None:
    """A stranger's text that is no version or name is left out."""
    profile = machine / "etc/tuned/active_profile"
    profile.parent.mkdir(parents=True)
    profile.write_text(text)
    assert read_machine(machine).power.tuned is None


def test_file_that_may_not_be_read_is_named(machine: Path) -> None:
    """A folder in a file's place is a problem with its path; the rest is read."""
    build("strix-halo-96-gib", machine)
    (machine / "etc/tuned/active_profile").mkdir(parents=True)
    facts = read_machine(machine)
    assert facts.kernel_release == "7.1.0"
    assert len(facts.problems) == 1
    assert "etc/tuned/active_profile: is a directory" in facts.problems[0]
