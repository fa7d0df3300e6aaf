"""How much memory of which GPU the processes of a server hold: evidence for which GPU serves it.

Two places say it. ``/sys/class/kfd/kfd/proc/<pid>/vram_<gpu id>`` is readable by everyone and counts what ROCm allocated.
``/proc/<pid>/fdinfo`` counts all that a DRM client holds, under Vulkan too, and may be read by the process's own user
and by root. A ROCm process is in both, so per GPU the larger figure counts, never the sum. NVIDIA's driver gives neither.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exporter.host.files import list_names, read_bytes, read_number, read_text
from exporter.host.gpu_links import GpuLink
from exporter.host.pci import parse_address

MOST_PROCESSES: Final = 65_536
MOST_FILES: Final = 4096
"""File descriptors of one process that are looked at."""
_MEMORY: Final = re.compile(r"drm-(memory|resident)-([a-z0-9_]+)")
_UNITS: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_PARENT: Final = re.compile(r"\)\s+\S\s+(\d+)\s")


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Bytes that some processes hold, as (PCI address, bytes), the most first; GPUs on which they hold none are left out.

    ``complete`` says that every process could be looked at, so that nothing is a measurement too. ``problem`` says what
    could not, as a sentence for a person.
    """

    by_gpu: tuple[tuple[str, int], ...] = ()
    complete: bool = False
    problem: str = ""


def read_process_memory(pids: Sequence[int], proc: Path, sysfs: Path, links: Sequence[GpuLink]) -> ProcessMemory:
    """Read what ``pids`` and the processes that they started hold. Process ids are those that ``proc`` has. Never raises."""
    family = find_descendants(pids, proc)
    by_kfd = _by_kfd(tuple(dict.fromkeys((*pids, *family))), sysfs, links)
    by_drm, unreadable = _by_drm(family, proc)
    found = {address: max(by_kfd.get(address, 0), by_drm.get(address, 0)) for address in by_kfd.keys() | by_drm.keys()}
    held = sorted(((address, held) for address, held in found.items() if held), key=lambda pair: (-pair[1], pair[0]))
    problem = ""
    if unreadable:
        problem = f"/proc/{unreadable[0]}/fdinfo may not be read: the GPU memory of another user's process is hidden"
    elif pids and not family:
        problem = f"process {pids[0]} is not in /proc: it has ended, or is hidden from the exporter"
    return ProcessMemory(tuple(held), complete=bool(family) and not unreadable, problem=problem)


def find_descendants(pids: Iterable[int], proc: Path) -> tuple[int, ...]:
    """Find the processes that exist among ``pids``, and all that they started: a server's workers hold its memory."""
    children: dict[int, list[int]] = {}
    present: set[int] = set()
    for name in list_names(proc, [])[:MOST_PROCESSES]:
        if name.isdecimal() and (parent := _PARENT.search(read_text(proc / name / "stat", []) or "")):
            present.add(int(name))
            children.setdefault(int(parent[1]), []).append(int(name))
    found: dict[int, None] = {}
    waiting = sorted(set(pids) & present)
    while waiting:
        pid = waiting.pop(0)
        if pid not in found:
            found[pid] = None
            waiting += children.get(pid, [])
    return tuple(found)


def _by_kfd(pids: Sequence[int], sysfs: Path, links: Sequence[GpuLink]) -> dict[str, int]:
    held: dict[str, int] = {}
    for link in links:
        for pid in pids:
            folder = sysfs / f"class/kfd/kfd/proc/{pid}"
            values = [read_number(folder / f"vram_{gpu_id}") or 0 for gpu_id in link.gpu_ids]
            held[link.address] = held.get(link.address, 0) + sum(value for value in values if value > 0)
    return held


def _by_drm(pids: Sequence[int], proc: Path) -> tuple[dict[str, int], list[int]]:
    """Bytes by address, and the processes that may not be looked at."""
    clients: dict[tuple[str, str], int] = {}
    unreadable: list[int] = []
    for pid in pids:
        folder = proc / str(pid) / "fdinfo"
        problems: list[str] = []
        names = list_names(folder, problems)
        if problems or not (names or folder.is_dir()):
            unreadable.append(pid)
        for number, name in enumerate(names[:MOST_FILES]):
            client = _client(folder / name, f"{pid}/{number}")
            if client:
                # Several descriptors, of several processes too, may be one client's.
                place, held = client
                clients[place] = max(held, clients.get(place, 0))
    by_address: dict[str, int] = {}
    for (address, _), held in clients.items():
        by_address[address] = by_address.get(address, 0) + held
    return by_address, unreadable


def _client(path: Path, unnamed: str) -> tuple[tuple[str, str], int] | None:
    """The address and the id of a DRM client, and the bytes of GPU memory that it holds."""
    try:
        text = read_bytes(path).decode("utf-8", "replace")
    except OSError:  # closed in the meantime
        return None
    if "drm-pdev" not in text:
        return None
    pairs = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    address = parse_address(pairs["drm-pdev"]) if "drm-pdev" in pairs else None
    if address is None:
        return None
    return (address, pairs.get("drm-client-id", unnamed).strip()), _held(pairs)


def _held(pairs: Mapping[str, str]) -> int:
    """Bytes in all regions of GPU memory. Newer kernels write ``drm-resident-`` beside or in place of ``drm-memory-``."""
    regions: dict[str, dict[str, int]] = {}
    for key, value in pairs.items():
        found = _MEMORY.fullmatch(key)
        if found and found[2] != "cpu":
            regions.setdefault(found[2], {})[found[1]] = _bytes(value)
    return sum(figures.get("memory", figures.get("resident", 0)) for figures in regions.values())


def _bytes(text: str) -> int:
    number, _, unit = text.strip().partition(" ")
    return int(number) * _UNITS.get(unit.strip(), 0) if number.isdecimal() and len(number) < 20 else 0
