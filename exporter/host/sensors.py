"""A GPU's sensors, read from its device folder: power, temperatures, clocks. Every read wakes a GPU that sleeps.

What lies outside what the thing can have is a register full of ones, or a sensor that isn't there: it is left out.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from exporter.host.files import list_names, read_bytes, read_number, read_text
from exporter.host.gpu_metrics import GpuMetrics, decode

MHZ: Final = 1_000_000
_LEVELS: Final = re.compile(r"^\d+:\s*(\d{1,5})\s*mhz", re.IGNORECASE | re.MULTILINE)
_LEVEL: Final = re.compile(r"^\d+:\s*(\d+)\s*mhz\s*\*", re.IGNORECASE | re.MULTILINE)

_CELSIUS: Final = (-60.0, 250.0)
_WATTS: Final = (0.0, 10_000.0)
_HERTZ: Final = (0.0, 20e9)


def find_hwmon(device: Path) -> Path | None:
    """Find the folder of a GPU's sensors; its number varies."""
    folder = device / "hwmon"
    names = [name for name in list_names(folder, []) if read_text(folder / name / "name", []) == "amdgpu"]
    return folder / names[0] if names else None


def find_power_files(device: Path) -> tuple[Path, ...]:
    """Find the files of a GPU's power sensor, in microwatts: what it takes now before what it took of late."""
    hwmon = find_hwmon(device)
    return (hwmon / "power1_input", hwmon / "power1_average") if hwmon else ()


def read_watts(files: Sequence[Path]) -> float | None:
    """Read the first of the power sensor's files that gives a plausible value."""
    values = (within(_WATTS, read_number(path), 1_000_000) for path in files)
    return next((watts for watts in values if watts is not None), None)


def read_power_cap(hwmon: Path | None) -> tuple[float | None, float | None]:
    """Read the power limit in watts that is set, and the one that the GPU came with; an APU has none here."""
    if hwmon is None:
        return None, None
    cap, default = (
        within(_WATTS, read_number(hwmon / name), 1_000_000) or None for name in ("power1_cap", "power1_cap_default")
    )
    return cap, default


def read_temperatures(hwmon: Path | None) -> tuple[dict[str, float], dict[str, float]]:
    """Read degrees Celsius by the sensor's label, and the limits at which the firmware throttles.

    Exactly 0 is a register that nothing fills, as the memory's on some GPUs: no running chip is that cold.
    """
    found: dict[str, float] = {}
    limits: dict[str, float] = {}
    if hwmon is None:
        return found, limits
    for number in range(1, 9):
        celsius, limit = (
            within(_CELSIUS, read_number(hwmon / f"temp{number}_{kind}"), 1000) or None for kind in ("input", "crit")
        )
        if celsius is None:
            continue
        label = read_text(hwmon / f"temp{number}_label", []) or f"temp{number}"
        found.setdefault(label, celsius)
        if limit is not None:
            limits.setdefault(label, limit)
    return found, limits


def read_clocks(device: Path, hwmon: Path | None, metrics: GpuMetrics) -> tuple[tuple[str, float], ...]:
    """Read current clocks in Hz by the kernel's names: ``sclk`` (shaders), ``mclk`` (memory), ``fclk`` (data fabric)."""
    hertz: dict[str, float | None] = {}
    for number in (1, 2):
        label = read_text(hwmon / f"freq{number}_label", []) if hwmon else None
        if hwmon and label in {"sclk", "mclk"}:
            hertz[label] = within(_HERTZ, read_number(hwmon / f"freq{number}_input"))
    for domain in ("sclk", "mclk", "fclk"):
        if hertz.get(domain) is None:
            hertz[domain] = _level(device / f"pp_dpm_{domain}")
    if hertz["mclk"] is None and metrics.memory_clock_mhz is not None:  # an APU's need not be one of its levels
        hertz["mclk"] = within(_HERTZ, metrics.memory_clock_mhz * MHZ)
    return tuple((domain, value) for domain in ("sclk", "mclk", "fclk") if (value := hertz[domain]) is not None)


def read_highest_mclk(device: Path) -> int | None:
    """Read the highest level of the memory clock, in MHz."""
    return max(map(int, _LEVELS.findall(read_text(device / "pp_dpm_mclk", []) or "")), default=None)


def read_metrics(device: Path) -> GpuMetrics:
    """Read the driver's binary file; empty if there is none."""
    with suppress(OSError):
        return decode(read_bytes(device / "gpu_metrics"))
    return GpuMetrics()


def within(bounds: tuple[float, float], value: int | None, divisor: int = 1) -> float | None:
    """The value in its base unit, unless it is none that the thing can have."""
    if value is None:
        return None
    scaled = value / divisor
    return scaled if bounds[0] <= scaled <= bounds[1] else None


def _level(path: Path) -> float | None:
    """The level marked with an asterisk in a ``pp_dpm_*`` file, in Hz; of several the last."""
    marked = _LEVEL.findall(read_text(path, []) or "")
    return within(_HERTZ, int(marked[-1]) * MHZ) if marked else None
