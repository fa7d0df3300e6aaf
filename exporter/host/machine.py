"""What else of a machine decides how fast it infers: kernel and its parameters, firmware, power profiles.

World-readable files only; what isn't there, or is masked in a container, is absent. No serial number and no host name is
read, and of the kernel's command line nothing but the parameters named here. Firmware and limits of a GPU that sleeps are
read only if that doesn't wake it.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exporter.host.files import list_names, read_text
from exporter.host.gpu import find_cards
from exporter.host.pci import is_suspended
from exporter.host.sensors import find_hwmon, read_power_cap

MOST_BLOCKS: Final = 128
_FIRMWARE: Final = "_fw_version"
# What the kernel was started with; a module's parameter is read from sysfs, where its value in force stands.
_BOOT_PARAMETERS: Final = ("amd_iommu", "iommu", "iommu.passthrough", "iommu.strict", "amd_pstate", "pcie_aspm")
_MODULE_PARAMETERS: Final = {
    "amdgpu": ("gttsize", "cwsr_enable", "ppfeaturemask", "runpm", "noretry", "mes", "no_system_mem_limit"),
    "ttm": ("pages_limit", "page_pool_size"),
    "amdttm": ("pages_limit", "page_pool_size"),
}
_VALUE: Final = re.compile(r"[\w.,:+-]{1,64}", re.ASCII)
_WORD: Final = re.compile(r"[\w.,:+ -]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PowerProfile:
    """The settings that decide the clocks, each as its owner names it.

    ``platform_profile`` is the firmware's, ``governor`` and ``driver`` are those of the CPU's frequency (with ``amd-pstate``
    in its active mode the governor ``powersave`` is normal, and ``energy_preference`` decides), ``tuned`` is tuned's profile.
    """

    platform_profile: str | None = None
    governor: str | None = None
    driver: str | None = None
    energy_preference: str | None = None
    tuned: str | None = None


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """How a GPU is set up: versions of its firmware by block (``0x83``), of its BIOS, and its limits.

    ``performance_level`` is ``auto`` unless somebody pinned the clocks. Level and watts are ``None`` while it sleeps.
    """

    address: str
    firmware: tuple[tuple[str, str], ...] = ()
    vbios_version: str | None = None
    performance_level: str | None = None
    power_cap_watts: float | None = None
    power_cap_default_watts: float | None = None


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """A machine's other facts; ``None`` if nothing readable says it. ``parameters`` are (name, value), by name."""

    kernel_release: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    power: PowerProfile = PowerProfile()
    bios_version: str | None = None
    bios_date: str | None = None
    memory_bytes: int | None = None
    gpus: tuple[GpuSettings, ...] = ()
    problems: tuple[str, ...] = ()


def read_machine(system_root: Path = Path("/"), *, sysfs: Path | None = None, proc: Path | None = None) -> MachineFacts:
    """Read the machine below ``system_root``; ``sysfs`` and ``proc`` are its ``sys`` and ``proc`` unless given. Never raises."""
    problems: list[str] = []
    sysfs, proc = sysfs or system_root / "sys", proc or system_root / "proc"
    cards = find_cards(sysfs, problems)
    return MachineFacts(
        kernel_release=_word(proc / "sys/kernel/osrelease", problems),
        parameters=_parameters(sysfs, proc, problems),
        power=_power(system_root, sysfs, problems),
        bios_version=_word(sysfs / "class/dmi/id/bios_version", problems),
        bios_date=_word_of(read_text(sysfs / "class/dmi/id/bios_date", problems), slashes=True),
        memory_bytes=_memory(proc, problems),
        gpus=tuple(_settings(address, device, problems) for address, device in sorted(cards.items())),
        problems=tuple(dict.fromkeys(problems)),
    )


def _parameters(sysfs: Path, proc: Path, problems: list[str]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for token in (read_text(proc / "cmdline", problems) or "").split():
        name, _, value = token.partition("=")
        module, _, parameter = name.partition(".")
        # Hyphens and underscores mean the same in a parameter's name.
        name, parameter = name.replace("-", "_"), parameter.replace("-", "_")
        known = name in _BOOT_PARAMETERS or parameter in _MODULE_PARAMETERS.get(module, ())
        if known and _VALUE.fullmatch(value):
            found[name] = value
    for module, parameters in _MODULE_PARAMETERS.items():
        for parameter in parameters:
            value = read_text(sysfs / "module" / module / "parameters" / parameter, problems) or ""
            if _VALUE.fullmatch(value):
                found[f"{module}.{parameter}"] = value
    return tuple(sorted(found.items()))


def _power(system_root: Path, sysfs: Path, problems: list[str]) -> PowerProfile:
    frequency = sysfs / "devices/system/cpu/cpu0/cpufreq"
    return PowerProfile(
        platform_profile=_word(sysfs / "firmware/acpi/platform_profile", problems)
        or _word(sysfs / "class/platform-profile/platform-profile-0/profile", problems),
        governor=_word(frequency / "scaling_governor", problems),
        driver=_word(frequency / "scaling_driver", problems),
        energy_preference=_word(frequency / "energy_performance_preference", problems),
        tuned=_word(system_root / "etc/tuned/active_profile", problems),
    )


def _memory(proc: Path, problems: list[str]) -> int | None:
    found = re.match(r"MemTotal:\s+(\d{1,15}) kB", read_text(proc / "meminfo", problems) or "")
    return int(found[1]) * 1024 if found else None


def _settings(address: str, device: Path, problems: list[str]) -> GpuSettings:
    asleep = is_suspended(device)
    cap, default = (None, None) if asleep else read_power_cap(find_hwmon(device))
    return GpuSettings(
        address=address,
        firmware=_firmware(device / "fw_version", problems),
        vbios_version=_word(device / "vbios_version", problems),
        performance_level=None if asleep else _word(device / "power_dpm_force_performance_level", problems),
        power_cap_watts=cap,
        power_cap_default_watts=default,
    )


def _firmware(folder: Path, problems: list[str]) -> tuple[tuple[str, str], ...]:
    """Versions by block, as hexadecimal numbers; 0 is a block that this GPU doesn't have."""
    found: list[tuple[str, str]] = []
    for name in list_names(folder, problems)[:MOST_BLOCKS]:
        text = read_text(folder / name, problems) if name.endswith(_FIRMWARE) else None
        if text and re.fullmatch(r"0x[0-9a-f]{1,8}", text) and int(text, 16):
            found.append((name.removesuffix(_FIRMWARE), f"{int(text, 16):#x}"))
    return tuple(found)


def _word(path: Path, problems: list[str]) -> str | None:
    return _word_of(read_text(path, problems))


def _word_of(text: str | None, *, slashes: bool = False) -> str | None:
    """The text, if it looks like a version or a name."""
    plain = text.replace("/", "") if text and slashes else text
    return text if plain and _WORD.fullmatch(plain) else None
