"""PCI devices as sysfs describes them: the lines of ``uevent``, addresses, ids."""

import re
from pathlib import Path
from typing import Final

from exporter.host.files import read_text

_ADDRESS: Final = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])")


def parse_address(text: str) -> str | None:
    """Normalise a PCI address: ``03:00.0`` and ``0000:03:00.0`` are ``0000:03:00.0``; None for a text that is none."""
    found = _ADDRESS.fullmatch(text.strip().lower())
    return f"{found[1] or '0000'}:{found[2]}" if found else None


def read_uevent(device: Path, problems: list[str]) -> dict[str, str]:
    """Read the ``KEY=value`` lines of a device's ``uevent``; empty if there are none."""
    lines = (read_text(device / "uevent", problems) or "").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def address_in(uevent: dict[str, str]) -> str | None:
    """The device's PCI address; None for one that isn't on that bus."""
    return parse_address(uevent.get("PCI_SLOT_NAME", ""))


def ids_in(uevent: dict[str, str]) -> tuple[str, str]:
    """Vendor and device id in lower-case hex without prefix; empty if unknown."""
    vendor, _, device = uevent.get("PCI_ID", "").lower().partition(":")
    return vendor, device


def is_suspended(device: Path) -> bool:
    """Tell whether reading a sensor would wake the device."""
    return (read_text(device / "power/runtime_status", []) or "").startswith("suspend")
