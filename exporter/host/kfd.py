"""The nodes of the kernel's compute driver (KFD), as it describes them in ``/sys/class/kfd/kfd/topology/nodes``.

The kernel hides a GPU's node (EPERM) from a process that may not use the GPU's device, as in a container or a service that
wasn't given it. That is a problem line and a missing node, nothing more.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exporter.host.files import list_names, read_number, read_text

NODES: Final = "class/kfd/kfd/topology/nodes"
MOST_NODES: Final = 512
AMD: Final = 0x1002


@dataclass(frozen=True, slots=True)
class Bank:
    """One memory bank. Of a GPU: bus width in bits, clock in MHz. Of a CPU: one module's width, its rate in MT/s."""

    size_bytes: int
    width: int
    clock: int


@dataclass(frozen=True, slots=True)
class Node:
    """A GPU, or one partition of it. ``address`` is that of its PCI function, ``unique_id`` 0 if it has none.

    ``number`` is the node's, by which ROCm orders its devices; ``gpu_id`` names the GPU in KFD's other files, and
    ``render_minor`` is 128 for ``renderD128``. Old kernels give no ``gfx_target``.
    """

    address: str
    unique_id: int
    gfx_target: str | None
    compute_units: int | None
    pci_id: str
    bank: Bank | None
    number: int = 0
    gpu_id: int | None = None
    render_minor: int | None = None


@dataclass(frozen=True, slots=True)
class Topology:
    """The GPU nodes that may be read, and the rated speed of the system's memory modules (MT/s)."""

    nodes: tuple[Node, ...] = ()
    module_mts: int | None = None


def read_topology(sysfs: Path, problems: list[str]) -> Topology:
    """Read every node; a machine without KFD has none."""
    nodes: list[Node] = []
    hidden: list[str] = []
    module_mts: int | None = None
    folder = sysfs / NODES
    for name in sorted(filter(str.isdecimal, list_names(folder, problems)), key=int)[:MOST_NODES]:
        properties = _read_properties(folder / name / "properties", hidden)
        if not properties:
            continue
        bank = _read_bank(folder / name, problems)
        if properties.get("simd_count") and properties.get("vendor_id") == AMD:
            nodes.append(_node(int(name), read_number(folder / name / "gpu_id"), properties, bank))
        elif properties.get("cpu_cores_count") and bank and bank.clock >= 1000:
            module_mts = bank.clock
    if hidden:
        problems.append(
            f"{hidden[0]} ({len(hidden)} of KFD's nodes can't be read; a process may read those of the GPUs "
            "whose /dev/dri/renderD* it may use)"
        )
    return Topology(tuple(nodes), module_mts)


def gfx_target(version: int) -> str | None:
    """Name a ``gfx_target_version``: 110501 is gfx1151, 90010 is gfx90a, 0 is none."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}" if version else None


def pci_address(domain: int, location: int) -> str:
    """Write a ``location_id`` as a PCI address. Bits above the lowest 16 number a partition, in some kernels."""
    return f"{domain:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}.{location & 7}"


def group_by_gpu(nodes: Sequence[Node], cards: Container[str]) -> dict[str, tuple[Node, ...]]:
    """Group nodes by the GPU of which they are parts: partitions share a unique id, and differ in their function.

    ``cards`` are the addresses of the GPUs that DRM knows.
    """
    groups: dict[str, list[Node]] = {}
    by_id: dict[int, str] = {}
    for node in sorted(nodes, key=lambda node: node.address):
        whole = node.address[:-1] + "0"
        address = node.address if node.address in cards or whole not in cards else whole
        if node.unique_id:
            address = by_id.setdefault(node.unique_id, address)
        groups.setdefault(address, []).append(node)
    return {address: tuple(group) for address, group in groups.items()}


def _node(number: int, gpu_id: int | None, properties: dict[str, int], bank: Bank | None) -> Node:
    per_unit = properties.get("simd_per_cu", 0)
    return Node(
        address=pci_address(properties.get("domain", 0), properties.get("location_id", 0)),
        unique_id=properties.get("unique_id", 0),
        gfx_target=gfx_target(properties.get("gfx_target_version", 0)),
        compute_units=properties["simd_count"] // per_unit if per_unit else None,
        pci_id=f"{properties.get('device_id', 0):04x}",
        bank=bank,
        number=number,
        gpu_id=gpu_id or None,
        render_minor=properties.get("drm_render_minor") or None,
    )


def _read_bank(node: Path, problems: list[str]) -> Bank | None:
    """The largest bank of a node: beside it a GPU may list small windows into the same memory."""
    folder = node / "mem_banks"
    banks = [_read_properties(folder / name / "properties", problems) for name in list_names(folder, problems)[:64]]
    sized = [
        Bank(bank["size_in_bytes"], bank.get("width", 0), bank.get("mem_clk_max", 0))
        for bank in banks
        if "size_in_bytes" in bank
    ]
    return max(sized, key=lambda bank: bank.size_bytes, default=None)


def _read_properties(path: Path, problems: list[str]) -> dict[str, int]:
    """Lines of ``key value``; lines that are none are left out."""
    pairs = [line.split() for line in (read_text(path, problems) or "").splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal() and len(pair[1]) <= 20}
