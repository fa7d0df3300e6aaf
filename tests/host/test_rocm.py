"""ROCm of the host, layout by layout; origins in tests/fixtures/host/ORIGIN.md."""

import os
import shutil
from pathlib import Path

import pytest

from exporter.host.rocm import DPKG_STATUS_LIMIT, DriverFacts, RocmFacts, follow, read_rocm

TREES = Path(__file__).parent.parent / "fixtures" / "host" / "rocm"


def read(root: Path) -> RocmFacts:
    return read_rocm(root / "opt/rocm", root)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root that a test may change."""
    return tmp_path / "machine"


def copy(name: str, to: Path) -> Path:
    shutil.copytree(TREES / name, to)
    return to


@pytest.mark.parametrize(
    ("tree", "source", "version", "normalised"),
    [
        ("classic", "info", "7.2.0-43", "7.2.0"),
        ("versioned", "info", "7.10.1-36", "7.10.1"),
        ("core", "info", "7.14.0", "7.14.0"),
        ("core-folder-only", "folder", "10.1", "10.1"),
        ("header", "header", "7.2.0", "7.2.0"),
        ("manifest", "manifest", "7.14.0a20260526+a0", "7.14.0"),
        ("hip", "hip", "7.2", "7.2"),
        ("library", "library", "7.2.70200", "7.2.0"),
        ("fedora", "library", "6.4.43483", "6.4"),
        ("debian", "package", "7.2.3.70203-140~24.04", "7.2.3"),
    ],
)
def test_layouts(tree: str, source: str, version: str, normalised: str) -> None:
    """Each layout is found without its links, told by its kind, and raises no problem."""
    facts = read(TREES / tree)
    assert (facts.source, facts.version, facts.normalised) == (source, version, normalised)
    assert facts.release == ".".join(normalised.split(".")[:2])
    assert facts.problems == ()


def test_host_without_rocm() -> None:
    """A host that has no ROCm is normal: nothing known, nothing wrong."""
    assert read(TREES / "none") == RocmFacts()


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    """A root that doesn't exist gives nothing and no problem."""
    assert read_rocm(tmp_path / "opt/rocm", tmp_path / "absent") == RocmFacts()


def test_pip_wheels() -> None:
    """The wheels count where their folder is given; the placeholder of the same name doesn't."""
    facts = read_rocm(TREES / "none/opt/rocm", TREES / "none", site_packages=[TREES / "pip/site-packages"])
    assert (facts.source, facts.version, facts.release) == ("pip", "7.11.0a20251211", "7.11")


def test_current_release_goes_before_the_newest(machine: Path) -> None:
    """Where ``/opt/rocm`` leads, there is the release in use, though a newer one lies beside it."""
    copy("versioned", machine)
    (machine / "etc/alternatives").mkdir(parents=True)
    (machine / "etc/alternatives/rocm").symlink_to("/opt/rocm-6.4.1")
    (machine / "opt/rocm").symlink_to("/etc/alternatives/rocm")
    assert read(machine).version == "6.4.1-83"


def test_absolute_links_are_followed_below_the_root(machine: Path) -> None:
    """TheRock's ``core`` leads through ``/etc/alternatives``, read as the mounted host's and not as our own."""
    copy("core", machine)
    (machine / "etc/alternatives").mkdir(parents=True)
    (machine / "opt/rocm/core").symlink_to("/etc/alternatives/rocm-core")
    (machine / "etc/alternatives/rocm-core").symlink_to("/opt/rocm/core-7.9")
    assert read(machine).version == "7.9.0"


def test_dangling_links(machine: Path) -> None:
    """With only ``/opt`` mounted the links lead nowhere: the folders beside them tell."""
    copy("core", machine)
    (machine / "opt/rocm/core").symlink_to("/etc/alternatives/rocm-core")
    (machine / "opt/rocm/core-7").symlink_to("/etc/alternatives/rocm-core-7")
    assert read(machine).version == "7.14.0"
    copy("classic", machine / "other")
    (machine / "other/opt/rocm").symlink_to("/etc/alternatives/rocm")
    assert read(machine / "other").version == "7.2.0-43"


def test_link_loops_and_ways_out(tmp_path: Path) -> None:
    """A loop of links ends, and no link leads above the root."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "up").symlink_to("../../../../..")
    assert follow(tmp_path / "a", tmp_path) is None
    assert follow(tmp_path / "up", tmp_path) == tmp_path
    assert read_rocm(tmp_path / "a", tmp_path).version is None


def test_a_broken_file_is_named_and_the_next_one_is_read(machine: Path) -> None:
    """A version file that holds something else is a problem with its path, and the header is read instead."""
    copy("header", machine)
    info = machine / "opt/rocm/.info/version"
    info.parent.mkdir()
    info.write_bytes(b"\x7fELF\x00\xff")
    facts = read(machine)
    assert (facts.source, facts.version) == ("header", "7.2.0")
    assert len(facts.problems) == 1
    assert str(info) in facts.problems[0]


def test_a_huge_file_a_folder_and_a_fifo(machine: Path) -> None:
    """Whatever stands in a file's place is a problem that names it, never a crash, never a wait."""
    info = copy("header", machine) / "opt/rocm/.info"
    info.mkdir()
    (info / "version").write_bytes(b"7" * 1_000_000)
    (info / "version-rocm").mkdir()
    os.mkfifo(info / "version-dev")
    facts = read(machine)
    assert facts.version == "7.2.0"
    assert [problem.rpartition("/")[2].partition(":")[0] for problem in facts.problems] == [
        "version",
        "version-rocm",
        "version-dev",
    ]


def test_dpkg_list_that_is_too_large(machine: Path) -> None:
    """A package list beyond all measure is not read into memory."""
    status = machine / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    with status.open("wb") as file:
        file.truncate(DPKG_STATUS_LIMIT + 2)
    facts = read(machine)
    assert facts.version is None
    assert str(status) in facts.problems[0]


def test_drivers(machine: Path) -> None:
    """AMD's module has a version of its own; the kernel's has the kernel's release, also where it is built in."""
    assert read(TREES / "classic").driver == DriverFacts("6.16.13", "dkms")
    assert read(TREES / "fedora").driver == DriverFacts("6.19.8-200.fc43.x86_64", "in-tree")
    copy("none", machine)
    (machine / "sys/module/amdgpu").mkdir(parents=True)
    assert read(machine).driver == DriverFacts("6.19.8-200.fc43.x86_64", "in-tree")


def test_kfd(machine: Path) -> None:
    """KFD is seen by its device or, in a container that has no device, by its folder in sysfs."""
    assert read(TREES / "classic").kfd_present
    assert not read(TREES / "fedora").kfd_present
    (machine / "dev").mkdir(parents=True)
    (machine / "dev/kfd").touch()
    assert read(machine).kfd_present


def test_sysfs_elsewhere() -> None:
    """A sysfs mounted elsewhere is read for the driver in place of the root's own."""
    facts = read_rocm(Path("/nonexistent/rocm"), TREES / "none", sysfs=TREES / "classic/sys")
    assert facts.driver == DriverFacts("6.16.13", "dkms")
