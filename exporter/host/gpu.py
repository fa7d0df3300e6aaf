"""AMD GPUs from sysfs: what they are, and what they do now. No tool, no library, no root.

``/sys/class/drm`` says which GPUs there are, their memory and their sensors; KFD's topology adds compute units and the
memory bank. Either may be missing or hidden; then the facts that only it has are ``None``, or a data sheet's. VRAM and
GTT are never added up: on an APU both are parts of the same memory. Reads are small and of regular files; a caller that
must not hang on a wedged driver still runs these functions in a thread of their own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from exporter.host.bandwidth import bandwidth_by_clock, find_bandwidth
from exporter.host.files import list_names, read_number, read_text
from exporter.host.gpu_metrics import GpuMetrics, Residency
from exporter.host.ip_discovery import read_target
from exporter.host.kfd import Node, group_by_gpu, read_topology
from exporter.host.pci import address_in, ids_in, is_suspended, read_uevent
from exporter.host.products import (
    PARTITIONED_TARGETS,
    UNIFIED_IDS,
    UNIFIED_TARGETS,
    Product,
    describe,
    find_products,
    shared,
)
from exporter.host.sensors import (
    find_hwmon,
    find_power_files,
    read_clocks,
    read_highest_mclk,
    read_metrics,
    read_power_cap,
    read_temperatures,
    read_watts,
    within,
)
from exporter.host.throttling import Throttling, by_counters, by_status

MOST_CARDS: Final = 128
_CARD: Final = re.compile(r"card\d{1,4}")

PowerScope = Literal["gpu", "socket"]


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """One compute partition of a GPU that is divided; its bandwidth is its share of the GPU's, by memory."""

    compute_units: int | None
    memory_bytes: int | None
    bandwidth_bytes_per_second: float | None


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What a GPU is. ``None`` if nothing readable says it.

    ``address`` is its PCI address (``0000:c1:00.0``). ``compute_units`` are counted by KFD, or the data sheet's if KFD
    is hidden and only one product can be meant. ``memory_pool_bytes`` is what a model can use: a discrete GPU's VRAM, an
    APU's share of the system's memory as the compute driver or GTT limits it. ``bandwidth_source`` is ``memory bank``,
    ``memory modules``, ``memory clock`` or ``table``. ``partitions`` is empty for a GPU that is whole, and what may be seen of the others
    otherwise; the GPU's own figures are then the sums.
    """

    address: str
    name: str
    gfx_target: str | None = None
    compute_units: int | None = None
    unified_memory: bool | None = None
    vram_total_bytes: int | None = None
    gtt_total_bytes: int | None = None
    memory_pool_bytes: int | None = None
    bandwidth_bytes_per_second: float | None = None
    bandwidth_source: str | None = None
    partitions: tuple[PartitionFacts, ...] = ()

    @property
    def power_scope(self) -> PowerScope | None:
        """What the power sensor counts: ``socket`` if the GPU shares it with the CPU."""
        return None if self.unified_memory is None else "socket" if self.unified_memory else "gpu"


def named_apart(gpus: Sequence[GpuFacts]) -> tuple[GpuFacts, ...]:
    """GPUs whose names differ: those that are alike have their address in it."""
    names = [gpu.name for gpu in gpus]
    return tuple(replace(gpu, name=f"{gpu.name} ({gpu.address})") if names.count(gpu.name) > 1 else gpu for gpu in gpus)


@dataclass(frozen=True, slots=True)
class GpuReading:
    """All GPUs, by address, and what was in the way of reading them."""

    gpus: tuple[GpuFacts, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuSample:
    """What a GPU does now; ``None`` or missing if it wasn't measured.

    ``busy_ratio`` is the driver's own and may stay at 1 while an idle process holds a queue. ``power_scope`` is
    ``socket`` if the sensor counts the CPU too. ``temperatures`` are (sensor, degrees Celsius), ``clocks`` (domain,
    Hz). ``throttling`` are the reasons that held the clocks down with their shares of the time since the sample before,
    computed from ``residency`` if the firmware counts. A suspended GPU is not woken: only ``suspended`` is known of it.
    """

    address: str
    suspended: bool = False
    busy_ratio: float | None = None
    vram_used_bytes: int | None = None
    gtt_used_bytes: int | None = None
    power_watts: float | None = None
    power_scope: PowerScope | None = None
    temperatures: tuple[tuple[str, float], ...] = ()
    clocks: tuple[tuple[str, float], ...] = ()
    throttling: Throttling = ()
    power_cap_watts: float | None = None
    residency: Residency | None = field(default=None, repr=False)


def read_gpus(sysfs: Path) -> GpuReading:
    """Read what GPUs the machine has; a machine without one gives none. Never raises, and wakes none."""
    problems: list[str] = []
    cards = find_cards(sysfs, problems)
    topology = read_topology(sysfs, problems)
    nodes = group_by_gpu(topology.nodes, cards)
    gpus = [
        _facts(address, cards.get(address), nodes.get(address, ()), topology.module_mts)
        for address in sorted(cards.keys() | nodes.keys())
    ]
    return GpuReading(tuple(gpus), tuple(dict.fromkeys(problems)))


def sample_gpus(sysfs: Path, previous: Sequence[GpuSample] = ()) -> tuple[GpuSample, ...]:
    """Read what every GPU does now. ``previous`` are the samples of the call before. Never raises.

    It asks the GPU's firmware, so once a second is the most.
    """
    cards = find_cards(sysfs, [])
    before = {sample.address: sample for sample in previous}
    return tuple(
        _sample(gpu, cards[gpu.address], before.get(gpu.address))
        for gpu in read_gpus(sysfs).gpus
        if gpu.address in cards
    )


def memory_in_use(gpu: GpuFacts, sample: GpuSample) -> int | None:
    """Bytes of a GPU's memory in use by all processes; ``None`` if that isn't measured. A suspended GPU holds nothing."""
    if sample.suspended:
        return 0
    if sample.vram_used_bytes is None or gpu.unified_memory is None:
        return None
    return sample.vram_used_bytes + (sample.gtt_used_bytes or 0 if gpu.unified_memory else 0)


def find_cards(sysfs: Path, problems: list[str]) -> dict[str, Path]:
    """Find the device folders of all GPUs that amdgpu drives, by PCI address. Wakes none."""
    cards: dict[str, Path] = {}
    folder = sysfs / "class/drm"
    for name in [name for name in list_names(folder, problems) if _CARD.fullmatch(name)][:MOST_CARDS]:
        device = folder / name / "device"
        uevent = read_uevent(device, problems)
        address = address_in(uevent)
        if uevent.get("DRIVER") == "amdgpu" and address:
            cards.setdefault(address, device)
    return cards


def _facts(address: str, device: Path | None, nodes: Sequence[Node], module_mts: int | None) -> GpuFacts:
    vram, gtt = (read_number(device / f"mem_info_{kind}_total") if device else None for kind in ("vram", "gtt"))
    pci_id, revision = _ids(device, nodes)
    counted = sum(node.compute_units or 0 for node in nodes) or None
    products = find_products(pci_id, revision, counted)
    target = (
        next((node.gfx_target for node in nodes if node.gfx_target), None)
        or (read_target(device) if device else None)
        or shared([product.gfx_target for product in products])
    )
    unified = _is_unified(target, pci_id, vram, gtt, device)
    banks = [node.bank for node in nodes if node.bank]
    in_banks = sum(bank.size_bytes for bank in banks)
    bandwidth, source = find_bandwidth(
        target, products, banks[0].width if banks else None, banks[0].clock if banks else None, module_mts
    )
    if bandwidth is None and device and not is_suspended(device):
        bandwidth, source = bandwidth_by_clock(target, products, read_highest_mclk(device))
    return GpuFacts(
        address=address,
        name=describe(products) or target or f"AMD GPU {pci_id or '?'}",
        gfx_target=target,
        compute_units=counted or shared([product.compute_units for product in products]),
        unified_memory=unified,
        vram_total_bytes=vram,
        gtt_total_bytes=gtt,
        memory_pool_bytes=(in_banks or max(vram or 0, gtt or 0) or None) if unified else vram or in_banks or None,
        bandwidth_bytes_per_second=bandwidth,
        bandwidth_source=source,
        partitions=_partitions(nodes, products, vram, bandwidth),
    )


def _partitions(
    nodes: Sequence[Node], products: tuple[Product, ...], vram: int | None, bandwidth: float | None
) -> tuple[PartitionFacts, ...]:
    """The parts of a divided GPU. A lone node is one too if its kind has more units: the others are hidden."""
    units = [product.compute_units or 0 for product in products]
    if not nodes or nodes[0].gfx_target not in PARTITIONED_TARGETS:
        return ()
    if len(nodes) == 1 and (len(units) != 1 or (nodes[0].compute_units or units[0]) >= units[0]):
        return ()
    sizes = [node.bank.size_bytes if node.bank else None for node in nodes]
    memory = max(vram or 0, sum(size or 0 for size in sizes) if len(nodes) > 1 else 0)
    return tuple(
        PartitionFacts(
            compute_units=node.compute_units,
            memory_bytes=size,
            bandwidth_bytes_per_second=bandwidth * size / memory if bandwidth and size and memory else None,
        )
        for node, size in zip(nodes, sizes, strict=True)
    )


def _is_unified(
    target: str | None, pci_id: str | None, vram: int | None, gtt: int | None, device: Path | None
) -> bool | None:
    if pci_id in UNIFIED_IDS:
        return True
    if target:
        return target in UNIFIED_TARGETS
    if device and (device / "mem_busy_percent").exists():  # only a memory of its own has a load of its own
        return False
    return gtt >= 8 * vram if vram and gtt else None


def _sample(gpu: GpuFacts, device: Path, before: GpuSample | None) -> GpuSample:
    if is_suspended(device):
        return GpuSample(gpu.address, suspended=True)
    hwmon = find_hwmon(device)
    metrics = read_metrics(device)
    watts = read_watts(find_power_files(device))
    temperatures, limits = read_temperatures(hwmon)
    return GpuSample(
        address=gpu.address,
        busy_ratio=within((0.0, 1.0), read_number(device / "gpu_busy_percent"), 100),
        vram_used_bytes=_used(device, "vram", gpu.vram_total_bytes),
        gtt_used_bytes=_used(device, "gtt", gpu.gtt_total_bytes),
        power_watts=watts,
        power_scope=None if watts is None else gpu.power_scope,
        temperatures=tuple(temperatures.items()),
        clocks=read_clocks(device, hwmon, metrics),
        throttling=_throttling(gpu, metrics, before, temperatures, limits),
        power_cap_watts=read_power_cap(hwmon)[0],
        residency=metrics.residency,
    )


def _throttling(
    gpu: GpuFacts,
    metrics: GpuMetrics,
    before: GpuSample | None,
    temperatures: dict[str, float],
    limits: dict[str, float],
) -> Throttling:
    if metrics.status is not None:
        return by_status(metrics.status, gpu.gfx_target, temperatures, limits)
    if metrics.residency is not None:
        return by_counters(before.residency if before else None, metrics.residency)
    return ()


def _used(device: Path, kind: str, total: int | None) -> int | None:
    """Bytes in use. Some kernels let the count run below zero or above the total."""
    used = read_number(device / f"mem_info_{kind}_used")
    if used is None or used < 0:
        return None
    return used if total is None else min(used, total)


def _ids(device: Path | None, nodes: Sequence[Node]) -> tuple[str | None, str | None]:
    """Device id and revision, in lower-case hex without prefix."""
    known = nodes[0].pci_id if nodes else None
    if device is None:
        return known, None
    revision = (read_text(device / "revision", []) or "").lower().removeprefix("0x")
    return ids_in(read_uevent(device, []))[1] or known, revision or None
