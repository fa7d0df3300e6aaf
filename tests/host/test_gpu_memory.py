"""Whose processes hold how much memory of which GPU. Files of ``fdinfo`` are made up in the kernel's form."""

import os
from pathlib import Path

import pytest

from exporter.host.gpu_links import GpuLink
from exporter.host.gpu_memory import ProcessMemory, find_descendants, read_process_memory

FIRST, SECOND = "0000:05:00.0", "0000:08:00.0"
LINKS = (GpuLink(FIRST, gpu_ids=(56387,)), GpuLink(SECOND, gpu_ids=(18121,)))
MIB = 1 << 20


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """An empty ``/proc``."""
    return tmp_path / "proc"


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """An empty ``/sys``."""
    return tmp_path / "sys"


def start(proc: Path, pid: int, parent: int = 1, *files: str, name: str = "llama-server") -> Path:
    folder = proc / str(pid) / "fdinfo"
    folder.mkdir(parents=True)
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} {pid} {pid} 0 -1 4194560 100 0 0 0\n")
    for number, text in enumerate(files):
        (folder / str(number)).write_text(text)
    return folder


def client(address: str, number: int, *lines: str) -> str:
    head = f"pos:\t0\nflags:\t02100002\ndrm-driver:\tamdgpu\ndrm-client-id:\t{number}\ndrm-pdev:\t{address}\npasid:\t32770\n"
    return head + "".join(f"{line}\n" for line in lines)


def rocm(sysfs: Path, pid: int, **held: int) -> None:
    folder = sysfs / f"class/kfd/kfd/proc/{pid}"
    folder.mkdir(parents=True)
    for name, count in held.items():
        (folder / name).write_text(f"{count}\n")


def test_rocm_process_of_another_user(proc: Path, sysfs: Path) -> None:
    """What ROCm allocated is readable by everyone, where fdinfo is not."""
    folder = start(proc, 7)
    folder.rmdir()
    folder.symlink_to(folder)  # a loop of links stands for a folder that may not be read
    rocm(sysfs, 7, vram_56387=20 << 30, vram_18121=0, sdma_56387=5)
    found = read_process_memory([7], proc, sysfs, LINKS)
    assert (found.by_gpu, found.complete) == (((FIRST, 20 << 30),), False)
    assert "/proc/7/fdinfo" in found.problem


def test_vulkan_process(proc: Path, sysfs: Path) -> None:
    """A DRM client's memory counts in all regions of its GPU, once for all of its descriptors, whatever the unit."""
    text = client(SECOND, 12, "drm-memory-vram:\t2048 MiB", "drm-memory-gtt: \t1024 KiB", "drm-memory-cpu: \t9000 KiB")
    start(proc, 7, 1, text, text, client(SECOND, 13, "drm-memory-vram:\t4096"), "pos:\t0\nflags:\t02\n")
    found = read_process_memory([7], proc, sysfs, LINKS)
    assert found == ProcessMemory(((SECOND, 2048 * MIB + MIB + 4096),), complete=True)


def test_newer_kernels_and_other_drivers(proc: Path, sysfs: Path) -> None:
    """``drm-resident-`` counts where there is no ``drm-memory-``, of any driver, and never twice."""
    start(
        proc,
        7,
        1,
        client(FIRST, 1, "drm-total-vram:\t9 GiB", "drm-resident-vram:\t3 MiB", "drm-memory-vram:\t2 MiB"),
        "drm-driver:\txe\ndrm-pdev:\t0000:0b:00.0\ndrm-client-id:\t1\ndrm-resident-vram0:\t5 MiB\n",
    )
    assert read_process_memory([7], proc, sysfs, ()).by_gpu == (("0000:0b:00.0", 5 * MIB), (FIRST, 2 * MIB))


def test_memory_seen_in_both_places_counts_once(proc: Path, sysfs: Path) -> None:
    """A ROCm process is a DRM client too: the larger figure counts."""
    start(proc, 7, 1, client(FIRST, 1, "drm-memory-vram:\t20480 MiB"))
    rocm(sysfs, 7, vram_56387=20000 * MIB, vram_18121=100 * MIB)
    found = read_process_memory([7], proc, sysfs, LINKS)
    assert found.by_gpu == ((FIRST, 20480 * MIB), (SECOND, 100 * MIB))


def test_workers_hold_a_servers_memory(proc: Path, sysfs: Path) -> None:
    """What the processes hold that a server started is the server's; a descriptor that they share counts once."""
    shared = client(FIRST, 5, "drm-memory-vram:\t10 MiB")
    start(proc, 7, 1, shared, name="ollama (serve) S 9 9")
    start(proc, 8, 7, shared)
    start(proc, 9, 8, client(FIRST, 6, "drm-memory-vram:\t30 MiB"))
    start(proc, 10, 1, client(FIRST, 7, "drm-memory-vram:\t500 MiB"))
    assert find_descendants([7], proc) == (7, 8, 9)
    assert read_process_memory([7], proc, sysfs, LINKS).by_gpu == ((FIRST, 40 * MIB),)


def test_processes_that_hold_nothing_or_are_gone(proc: Path, sysfs: Path) -> None:
    """Nothing held is a measurement of processes that could be looked at; one that isn't there is told."""
    start(proc, 7)
    assert read_process_memory([7], proc, sysfs, LINKS) == ProcessMemory(complete=True)
    gone = read_process_memory([99], proc, sysfs, LINKS)
    assert (gone.by_gpu, gone.complete) == ((), False)
    assert gone.problem == "process 99 is not in /proc: it has ended, or is hidden from the exporter"
    assert read_process_memory([], proc, sysfs, LINKS) == ProcessMemory()


def test_hidden_process_that_uses_rocm(proc: Path, sysfs: Path) -> None:
    """A process that /proc hides is still in KFD's own list."""
    rocm(sysfs, 7, vram_18121=3 * MIB)
    assert read_process_memory([7], proc, sysfs, LINKS).by_gpu == ((SECOND, 3 * MIB),)


@pytest.mark.parametrize(
    "text",
    [
        "drm-pdev:\tno address\ndrm-memory-vram:\t5 KiB\n",
        "drm-pdev\n",
        f"drm-pdev:\t{FIRST}\ndrm-memory-vram:\t-5 KiB\n",
        f"drm-pdev:\t{FIRST}\ndrm-memory-vram:\t5 parsecs\n",
        f"drm-pdev:\t{FIRST}\ndrm-memory-vram:\t{'9' * 40} KiB\n",
        "\ufffd",
    ],
)
def test_lines_that_are_none(proc: Path, sysfs: Path, text: str) -> None:
    """Anything that is no address, number or unit is left out."""
    folder = start(proc, 7, 1, text)
    os.mkfifo(folder / "9")
    assert read_process_memory([7], proc, sysfs, LINKS) == ProcessMemory(complete=True)
