"""The names under which one GPU is known: PCI address, DRM render node, KFD's node and GPU id. Reading wakes none."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exporter.host.files import list_names
from exporter.host.gpu import find_cards
from exporter.host.kfd import group_by_gpu, read_topology
from exporter.host.pci import address_in, read_uevent

MOST_NODES: Final = 512
_RENDER: Final = re.compile(r"renderD\d{1,4}")


@dataclass(frozen=True, slots=True)
class GpuLink:
    """One AMD GPU's names; a divided GPU has several of each but its address. Empty if hidden.

    ``render_nodes`` are names in ``/dev/dri``, ``kfd_nodes`` the numbers of its nodes, by which ROCm orders its devices,
    ``gpu_ids`` KFD's ids, ``unique_ids`` 16 hex digits by which ROCm names a GPU (``GPU-<id>``).
    """

    address: str
    render_nodes: tuple[str, ...] = ()
    kfd_nodes: tuple[int, ...] = ()
    gpu_ids: tuple[int, ...] = ()
    unique_ids: tuple[str, ...] = ()


def read_links(sysfs: Path) -> tuple[GpuLink, ...]:
    """Read the names of every AMD GPU, by address. Never raises."""
    cards = find_cards(sysfs, [])
    nodes = group_by_gpu(read_topology(sysfs, []).nodes, cards)
    render = read_render_nodes(sysfs)
    links: list[GpuLink] = []
    for address in sorted(cards.keys() | nodes.keys()):
        own = sorted(nodes.get(address, ()), key=lambda node: node.number)
        # A partition's render node is a device of its own, which only KFD ties to its GPU.
        names = {name for name, other in render.items() if other == address}
        names |= {f"renderD{node.render_minor}" for node in own if node.render_minor}
        links.append(
            GpuLink(
                address=address,
                render_nodes=tuple(sorted(names, key=lambda name: int(name.removeprefix("renderD")))),
                kfd_nodes=tuple(node.number for node in own),
                gpu_ids=tuple(node.gpu_id for node in own if node.gpu_id),
                unique_ids=tuple(dict.fromkeys(f"{node.unique_id:016x}" for node in own if node.unique_id)),
            )
        )
    return tuple(links)


def read_render_nodes(sysfs: Path) -> dict[str, str]:
    """Read the PCI addresses of all render nodes, whatever drives them: ``renderD128`` → ``0000:03:00.0``."""
    folder = sysfs / "class/drm"
    names = [name for name in list_names(folder, []) if _RENDER.fullmatch(name)][:MOST_NODES]
    found = ((name, address_in(read_uevent(folder / name / "device", []))) for name in names)
    return {name: address for name, address in found if address}
