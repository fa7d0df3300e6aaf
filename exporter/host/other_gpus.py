"""GPUs that amdgpu doesn't drive, seen without any library: another vendor's, or one that is passed through to a virtual machine.

They matter because a server may run on them: beside one, that a machine has a single AMD GPU decides nothing. What they
do is not read. ``/sys/bus/pci/devices`` and ``/sys/class/drm`` say which there are, ``/proc/driver/nvidia`` what NVIDIA
calls its own, which need no DRM node. Reading wakes none.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from exporter.host.files import list_names, read_text
from exporter.host.pci import address_in, ids_in, parse_address, read_uevent

Vendor = Literal["nvidia", "intel", "amd", "other"]

MOST_DEVICES: Final = 1024
_DRIVERS: Final = frozenset({"nvidia", "nouveau", "i915", "xe", "vfio-pci"})
_VENDORS: Final[dict[str, Vendor]] = {"10de": "nvidia", "8086": "intel", "1002": "amd"}
_CLASSES: Final = ("300", "302", "380")
"""PCI's classes of display controllers: VGA compatible, 3D, other; as ``uevent`` writes them, without leading zeros."""

# Graphics of Intel's desktop processors with 32 execution units or fewer, by PCI device id.
_SMALL_INTEL: Final = {
    pci_id: name
    for name, pci_ids in (
        ("Intel HD Graphics 510", "1902"),
        ("Intel HD Graphics 530", "1912"),
        ("Intel HD Graphics 610", "5902"),
        ("Intel HD Graphics 630", "5912"),
        ("Intel UHD Graphics 610", "3e90 9ba8"),
        ("Intel UHD Graphics 630", "3e91 3e92 3e98 3e9b 9bc5 9bc8"),
        ("Intel UHD Graphics 710", "4693"),
        ("Intel UHD Graphics 730", "4682 4692 4c8b"),
        ("Intel UHD Graphics 750", "4c8a"),
        ("Intel UHD Graphics 770", "4680 4690 a780"),
        ("Intel UHD Graphics", "a782 a783 a788"),
    )
    for pci_id in pci_ids.split()
}


# Cards that NVIDIA's driver calls like others with another memory, by PCI device id (pci-ids.ucw.cz), with what tells them apart.
# Of the RTX 3060's id 2504 there are cards of 12 and of 8 GB, so nothing tells those apart.
_OTHER_MEMORY: Final = {"220a": "12GB", "24c7": "8GB", "24c9": "GDDR6X"}

# Intel's graphics cards, by PCI device id, as Intel calls them (pci-ids.ucw.cz, and for the B series Intel's product pages, listed
# in zolotukhin.ai's reference of the series). One id is the A770's of 8 and of 16 GB, whose bandwidths differ.
_ARC: Final = {
    "56a0": "Intel Arc A770",
    "56a1": "Intel Arc A750",
    "56a2": "Intel Arc A580",
    "56a5": "Intel Arc A380",
    "56a6": "Intel Arc A310",
    "e20b": "Intel Arc B580",
    "e20c": "Intel Arc B570",
    "e211": "Intel Arc Pro B60",
    "e212": "Intel Arc Pro B50",
    "e222": "Intel Arc Pro B65",
    "e223": "Intel Arc Pro B70",
}


@dataclass(frozen=True, slots=True)
class OtherGpu:
    """A GPU of which only this much is known; ``name`` is ``None`` if nothing readable says it.

    ``integrated`` says whether it is a part of the processor, ``small`` whether it is known to be too small for a model.
    """

    vendor: Vendor
    driver: str
    address: str
    name: str | None = None
    integrated: bool | None = None
    small: bool = False

    @property
    def title(self) -> str:
        """What to call it: its name, else its vendor."""
        makers = {"nvidia": "NVIDIA GPU", "intel": "Intel GPU", "amd": "AMD GPU", "other": "GPU"}
        return self.name or makers[self.vendor]

    @property
    def passed_through(self) -> bool:
        """Whether it is passed through to a virtual machine, so that no process of this machine can use it."""
        return self.driver == "vfio-pci"


def read_other_gpus(sysfs: Path, proc: Path) -> tuple[OtherGpu, ...]:
    """Read which GPUs there are besides those of amdgpu, by address. Never raises."""
    names = _nvidia_names(proc)
    found: dict[str, OtherGpu] = {}
    for device in _devices(sysfs):
        uevent = read_uevent(device, [])
        address, driver = address_in(uevent), uevent.get("DRIVER", "")
        display = uevent.get("PCI_CLASS", "").zfill(6)[1:4] in _CLASSES
        if address and display and driver in _DRIVERS:
            found[address] = _gpu(address, driver, ids_in(uevent), names.get(address))
    for address, name in names.items():
        found.setdefault(address, OtherGpu("nvidia", "nvidia", address, name, integrated="GB10" in (name or "")))
    return tuple(found[address] for address in sorted(found))


def _gpu(address: str, driver: str, ids: tuple[str, str], name: str | None) -> OtherGpu:
    vendor = _VENDORS.get(ids[0], "other")
    integrated = None
    if vendor == "nvidia":
        integrated = "GB10" in (name or "")
        name = f"{name} {_OTHER_MEMORY[ids[1]]}" if name and ids[1] in _OTHER_MEMORY else name
    elif vendor == "intel":
        integrated = address.startswith("0000:00:")
        name = name or _SMALL_INTEL.get(ids[1]) or _ARC.get(ids[1])
    small = vendor == "intel" and ids[1] in _SMALL_INTEL
    return OtherGpu(vendor, driver, address, name, integrated, small)


def _devices(sysfs: Path) -> list[Path]:
    """Folders of devices that may be GPUs; a machine whose PCI bus is hidden still has its DRM nodes."""
    bus, drm = sysfs / "bus/pci/devices", sysfs / "class/drm"
    cards = [name for name in list_names(drm, []) if name.startswith("card") and "-" not in name]
    return [bus / name for name in list_names(bus, [])[:MOST_DEVICES]] + [drm / name / "device" for name in cards]


def _nvidia_names(proc: Path) -> dict[str, str | None]:
    """NVIDIA's own list: model names by PCI address."""
    folder = proc / "driver/nvidia/gpus"
    names: dict[str, str | None] = {}
    for entry in list_names(folder, [])[:MOST_DEVICES]:
        lines = (read_text(folder / entry / "information", []) or "").splitlines()
        pairs = dict(line.split(":", 1) for line in lines if ":" in line)
        address = parse_address(entry)
        if address:
            names[address] = pairs.get("Model", "").strip() or None
    return names
