"""AMD GPUs from sysfs: what they are, and what they do now. No tool, no library, no root.

``/sys/class/drm`` says which GPUs there are, their memory and their sensors; KFD's topology adds compute units and the
memory bank. Either may be missing or hidden; then the facts that only it has are ``None``. VRAM and GTT are never added
up: on an APU both are parts of the same memory. Reads are small and of regular files; a caller that must not hang on a
wedged driver still runs these functions in a thread of their own.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from exporter.host.bandwidth import find_bandwidth
from exporter.host.files import list_names, read_bytes, read_number, read_text
from exporter.host.gpu_metrics import GpuMetrics, decode
from exporter.host.kfd import Node, read_topology
from exporter.host.products import PARTITIONED_TARGETS, UNIFIED_TARGETS, Product, describe, find_products

MOST_CARDS: Final = 128
MHZ: Final = 1_000_000
_CARD: Final = re.compile(r"card\d{1,4}")
_ADDRESS: Final = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_LEVEL: Final = re.compile(r"^\d+:\s*(\d+)\s*mhz\s*\*", re.IGNORECASE | re.MULTILINE)

# What lies outside is a register full of ones, or a sensor that isn't there.
_CELSIUS: Final = (-60.0, 250.0)
_WATTS: Final = (0.0, 10_000.0)
_HERTZ: Final = (0.0, 20e9)


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """One compute partition of a GPU that is divided; its bandwidth is its share of the GPU's, by memory."""

    compute_units: int | None
    memory_bytes: int | None
    bandwidth_bytes_per_second: float | None


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What a GPU is. ``None`` where nothing readable says it.

    ``address`` is its PCI address (``0000:c1:00.0``). ``memory_pool_bytes`` is what a model can use: a discrete GPU's
    VRAM, an APU's share of the system's memory as the compute driver or GTT limits it. ``bandwidth_source`` is
    ``memory bank``, ``memory modules`` or ``table``. ``partitions`` is empty for a GPU that is whole, and what may be
    seen of the others otherwise; the GPU's own figures are then the sums.
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


@dataclass(frozen=True, slots=True)
class GpuReading:
    """All GPUs, by address, and what was in the way of reading them."""

    gpus: tuple[GpuFacts, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuSample:
    """What a GPU does now; ``None`` or missing where it wasn't measured.

    ``busy_ratio`` is the driver's own and may stick at 1 while an idle process holds a queue. ``power_scope`` is
    ``socket`` where the sensor counts the CPU too. ``temperatures`` are (sensor, degrees Celsius), ``clocks`` (domain,
    Hz). ``residency`` are the throttling counters from which the next sample tells whether it was throttled since this
    one. A suspended GPU is left asleep: all it gives is ``suspended``.
    """

    address: str
    suspended: bool = False
    busy_ratio: float | None = None
    vram_used_bytes: int | None = None
    gtt_used_bytes: int | None = None
    power_watts: float | None = None
    power_scope: Literal["gpu", "socket"] | None = None
    temperatures: tuple[tuple[str, float], ...] = ()
    clocks: tuple[tuple[str, float], ...] = ()
    throttled: bool | None = None
    residency: tuple[int, ...] = field(default=(), repr=False)


def read_gpus(sysfs: Path) -> GpuReading:
    """Read what GPUs the machine has; a machine without one gives none. Never raises."""
    problems: list[str] = []
    cards = find_cards(sysfs, problems)
    topology = read_topology(sysfs, problems)
    nodes = _group(topology.nodes, cards)
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


def find_cards(sysfs: Path, problems: list[str]) -> dict[str, Path]:
    """Find the device folders of all GPUs that amdgpu drives, by PCI address. Wakes none."""
    cards: dict[str, Path] = {}
    folder = sysfs / "class/drm"
    for name in [name for name in list_names(folder, problems) if _CARD.fullmatch(name)][:MOST_CARDS]:
        device = folder / name / "device"
        uevent = _uevent(device, problems)
        address = uevent.get("PCI_SLOT_NAME", "").lower()
        if uevent.get("DRIVER") == "amdgpu" and _ADDRESS.fullmatch(address):
            cards.setdefault(address, device)
    return cards


def is_suspended(device: Path) -> bool:
    """Tell whether reading a sensor would wake the GPU."""
    return (read_text(device / "power/runtime_status", []) or "").startswith("suspend")


def find_power_files(device: Path) -> tuple[Path, ...]:
    """Find the files of a GPU's power sensor, in microwatts: what it takes now before what it took of late."""
    hwmon = _find_hwmon(device)
    return (hwmon / "power1_input", hwmon / "power1_average") if hwmon else ()


def read_watts(files: Sequence[Path]) -> float | None:
    """Read the first of the power sensor's files that gives a plausible value."""
    values = (_within(_WATTS, read_number(path), 1_000_000) for path in files)
    return next((watts for watts in values if watts is not None), None)


def _group(nodes: Sequence[Node], cards: dict[str, Path]) -> dict[str, tuple[Node, ...]]:
    """KFD's nodes by the GPU of which they are parts: partitions share a unique id, and differ in their function."""
    groups: dict[str, list[Node]] = {}
    by_id: dict[int, str] = {}
    for node in sorted(nodes, key=lambda node: node.address):
        whole = node.address[:-1] + "0"
        address = node.address if node.address in cards or whole not in cards else whole
        if node.unique_id:
            address = by_id.setdefault(node.unique_id, address)
        groups.setdefault(address, []).append(node)
    return {address: tuple(group) for address, group in groups.items()}


def _facts(address: str, device: Path | None, nodes: Sequence[Node], module_mts: int | None) -> GpuFacts:
    vram, gtt = (read_number(device / f"mem_info_{kind}_total") if device else None for kind in ("vram", "gtt"))
    pci_id, revision = _pci_id(device)
    units = [node.compute_units for node in nodes if node.compute_units]
    products = find_products(pci_id or (nodes[0].pci_id if nodes else None), revision, sum(units) or None)
    target = nodes[0].gfx_target if nodes else next((product.gfx_target for product in products), None)
    unified = _is_unified(target, vram, gtt, device)
    banks = [node.bank for node in nodes if node.bank]
    in_banks = sum(bank.size_bytes for bank in banks)
    bandwidth, source = find_bandwidth(
        target, products, banks[0].width if banks else None, banks[0].clock if banks else None, module_mts
    )
    return GpuFacts(
        address=address,
        name=describe(products) or target or f"AMD GPU {pci_id or '?'}",
        gfx_target=target,
        compute_units=sum(units) or None,
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
    """The parts of a divided GPU. A lone node is one too where its kind has more units: the others are hidden."""
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


def _is_unified(target: str | None, vram: int | None, gtt: int | None, device: Path | None) -> bool | None:
    if target:
        return target in UNIFIED_TARGETS
    if device and (device / "mem_busy_percent").exists():  # only a memory of its own has a load of its own
        return False
    return gtt >= 8 * vram if vram and gtt else None


def _sample(gpu: GpuFacts, device: Path, before: GpuSample | None) -> GpuSample:
    if is_suspended(device):
        return GpuSample(gpu.address, suspended=True)
    metrics = _read_metrics(device)
    watts = read_watts(find_power_files(device))
    clocks = _clocks(device, metrics)
    return GpuSample(
        address=gpu.address,
        busy_ratio=_within((0.0, 1.0), read_number(device / "gpu_busy_percent"), 100),
        vram_used_bytes=_used(device, "vram", gpu.vram_total_bytes),
        gtt_used_bytes=_used(device, "gtt", gpu.gtt_total_bytes),
        power_watts=watts,
        power_scope=None if watts is None or gpu.unified_memory is None else "socket" if gpu.unified_memory else "gpu",
        temperatures=_temperatures(device),
        clocks=clocks,
        throttled=_is_throttled(metrics, before, dict(clocks).get("sclk")),
        residency=metrics.residency,
    )


def _is_throttled(metrics: GpuMetrics, before: GpuSample | None, shader_hertz: float | None) -> bool | None:
    """Whether something holds the clocks down, where that can be told."""
    if metrics.throttled is None:
        return _moved(before, metrics.residency)
    # With its shaders off, a mobile RX 7600S at 54 degrees keeps a status that says "too hot".
    return None if shader_hertz == 0 else metrics.throttled


def _moved(before: GpuSample | None, residency: tuple[int, ...]) -> bool | None:
    """Whether a throttling counter grew; ``None`` without two readings, or where they began anew in between."""
    if before is None or not residency or len(before.residency) != len(residency):
        return None
    pairs = list(zip(before.residency, residency, strict=True))
    return None if any(now < then for then, now in pairs) else any(now > then for then, now in pairs)


def _used(device: Path, kind: str, total: int | None) -> int | None:
    """Bytes in use. Some kernels let the count run below zero or above the total."""
    used = read_number(device / f"mem_info_{kind}_used")
    if used is None or used < 0:
        return None
    return used if total is None else min(used, total)


def _temperatures(device: Path) -> tuple[tuple[str, float], ...]:
    hwmon = _find_hwmon(device)
    found: dict[str, float] = {}
    for number in range(1, 9):
        celsius = _within(_CELSIUS, read_number(hwmon / f"temp{number}_input"), 1000) if hwmon else None
        if hwmon and celsius is not None:
            found.setdefault(read_text(hwmon / f"temp{number}_label", []) or f"temp{number}", celsius)
    return tuple(found.items())


def _clocks(device: Path, metrics: GpuMetrics) -> tuple[tuple[str, float], ...]:
    """Current clocks by the kernel's names: ``sclk`` (shaders), ``mclk`` (memory), ``fclk`` (data fabric)."""
    hwmon = _find_hwmon(device)
    hertz: dict[str, float | None] = {}
    for number in (1, 2):
        label = read_text(hwmon / f"freq{number}_label", []) if hwmon else None
        if hwmon and label in {"sclk", "mclk"}:
            hertz[label] = _within(_HERTZ, read_number(hwmon / f"freq{number}_input"))
    for domain in ("sclk", "mclk", "fclk"):
        if hertz.get(domain) is None:
            hertz[domain] = _level(device / f"pp_dpm_{domain}")
    if hertz["mclk"] is None and metrics.memory_clock_mhz is not None:  # an APU's need not be one of its levels
        hertz["mclk"] = _within(_HERTZ, metrics.memory_clock_mhz * MHZ)
    return tuple((domain, value) for domain in ("sclk", "mclk", "fclk") if (value := hertz[domain]) is not None)


def _level(path: Path) -> float | None:
    """The level marked with an asterisk in a ``pp_dpm_*`` file, in Hz; of several the last."""
    marked = _LEVEL.findall(read_text(path, []) or "")
    return _within(_HERTZ, int(marked[-1]) * MHZ) if marked else None


def _read_metrics(device: Path) -> GpuMetrics:
    with suppress(OSError):
        return decode(read_bytes(device / "gpu_metrics"))
    return GpuMetrics()


def _find_hwmon(device: Path) -> Path | None:
    folder = device / "hwmon"
    names = [name for name in list_names(folder, []) if read_text(folder / name / "name", []) == "amdgpu"]
    return folder / names[0] if names else None


def _pci_id(device: Path | None) -> tuple[str | None, str | None]:
    """Device id and revision, in lower-case hex without prefix."""
    if device is None:
        return None, None
    pci_id = _uevent(device, []).get("PCI_ID", "").lower().partition(":")[2]
    revision = (read_text(device / "revision", []) or "").lower().removeprefix("0x")
    return pci_id or None, revision or None


def _uevent(device: Path, problems: list[str]) -> dict[str, str]:
    lines = (read_text(device / "uevent", problems) or "").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _within(bounds: tuple[float, float], value: int | None, divisor: int = 1) -> float | None:
    """The value in its base unit, unless it is none that the thing can have."""
    if value is None:
        return None
    scaled = value / divisor
    return scaled if bounds[0] <= scaled <= bounds[1] else None
