"""What is known to slow down or break servers on a machine, and what to do: one table of conditions, each with a sentence and its fact. Pure.

A condition looks at facts that were read, and says nothing if they weren't. A sentence says what is so, why that matters,
and what to do, in this order.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from exporter.advice.advice import Advice
from exporter.host.gpu import GpuFacts, named_apart
from exporter.host.machine import GpuSettings, MachineFacts
from exporter.text import bytes_text

PAGE: Final = 4096
"""Bytes of a page, in which ``ttm.pages_limit`` counts."""
GFX1151_KERNEL: Final = (6, 18, 4)
"""The first kernel that has the corrections for Strix Halo's compute (kyuz0/amd-strix-halo-toolboxes, README)."""
BROKEN_MES: Final = 0x83
"""Firmware of the scheduler (linux-firmware 20251125) with which gfx1150 and gfx1151 hang (ROCm/legacy-rocm-build#5724)."""
LOWERED: Final = 0.8
"""A power limit below this share of the default one is reported."""


@dataclass(frozen=True, slots=True)
class AdviceFacts:
    """What the conditions look at. ``models`` are (address of the one GPU that serves it, bytes) of models.

    ``driver_source`` is ``in-tree`` if the kernel's own amdgpu drives the GPUs, ``dkms`` for AMD's module.
    """

    machine: MachineFacts
    gpus: tuple[GpuFacts, ...] = ()
    models: tuple[tuple[str, float], ...] = ()
    driver_source: str | None = None

    @property
    def parameters(self) -> dict[str, str]:
        """Kernel parameters by name."""
        return dict(self.machine.parameters)

    def model_bytes(self, gpu: GpuFacts) -> float | None:
        """The size of the largest model that this GPU alone serves."""
        return max((size for address, size in self.models if address == gpu.address), default=None)

    def settings(self, gpu: GpuFacts) -> GpuSettings:
        """How one GPU is set up."""
        found = (each for each in self.machine.gpus if each.address == gpu.address)
        return next(found, GpuSettings(gpu.address))


def model_on(gpus: Sequence[str], model_bytes: float | None) -> tuple[tuple[str, float], ...]:
    """A server's model as ``AdviceFacts.models`` has it; none if its size isn't known, or not one GPU has all of it."""
    return ((gpus[0], model_bytes),) if len(gpus) == 1 and model_bytes else ()


def advise(facts: AdviceFacts) -> tuple[Advice, ...]:
    """Give the advice of every condition that holds: of each GPU first, in the order of the tables."""
    gpus = named_apart(facts.gpus)
    about_gpus = [
        Advice(condition, sentence, gpu.address, title=TITLES[condition])
        for condition, say in GPU_CONDITIONS.items()
        for gpu in gpus
        if (sentence := say(facts, gpu))
    ]
    about_machine = [
        Advice(condition, sentence, title=TITLES[condition])
        for condition, say in MACHINE_CONDITIONS.items()
        if (sentence := say(facts))
    ]
    return (*about_gpus, *about_machine)


# Each returns its sentence if it holds, and None if it doesn't or nothing says whether it does. -----------------


def _broken_mes_firmware(facts: AdviceFacts, gpu: GpuFacts) -> str | None:
    version = dict(facts.settings(gpu).firmware).get("mes")
    if gpu.gfx_target not in {"gfx1150", "gfx1151"} or version is None or int(version, 16) & 0xFFF != BROKEN_MES:
        return None
    return (
        f"The scheduler firmware (MES) of {gpu.name} is {version}. With this version the GPU hangs, or a server ends with a "
        "memory access fault. Install a linux-firmware other than 20251125, rebuild the initramfs and restart."
    )


def _old_kernel(facts: AdviceFacts, gpu: GpuFacts) -> str | None:
    release = facts.machine.kernel_release
    version = _numbers(release)
    if gpu.gfx_target != "gfx1151" or facts.driver_source == "dkms" or version is None or version >= GFX1151_KERNEL:
        return None
    wanted = ".".join(map(str, GFX1151_KERNEL))
    return (
        f"Kernel {release} is older than {wanted}. With older kernels compute on {gpu.name} is known to be unstable. Update "
        "the kernel, unless your distribution says that its kernel has the corrections."
    )


def _pool_below_model(facts: AdviceFacts, gpu: GpuFacts) -> str | None:
    model, pool = facts.model_bytes(gpu), gpu.memory_pool_bytes
    if not gpu.unified_memory or model is None or pool is None or pool >= model:
        return None
    return (
        f"The model takes {bytes_text(model)}, but {gpu.name} may use only {bytes_text(pool)} of the system's memory: the rest "
        "is computed on the CPU, or loading fails. If the machine has the memory, set the kernel parameter ttm.pages_limit "
        f"to more than {-(-int(model) // PAGE)} pages of {PAGE} bytes."
    )


def _clocks_pinned_low(facts: AdviceFacts, gpu: GpuFacts) -> str | None:
    level = facts.settings(gpu).performance_level
    if level not in {"low", "profile_min_sclk", "profile_min_mclk"}:
        return None
    return f"The performance level {level} keeps the clocks of {gpu.name} at their lowest. Set the level to auto."


def _power_cap_lowered(facts: AdviceFacts, gpu: GpuFacts) -> str | None:
    settings = facts.settings(gpu)
    cap, default = settings.power_cap_watts, settings.power_cap_default_watts
    if cap is None or default is None or cap >= LOWERED * default:
        return None
    return f"The power limit of {gpu.name} is set to {cap:g} W instead of the default of {default:g} W: its clocks are lower under load."


def _tuned_profile(facts: AdviceFacts, gpu: GpuFacts) -> str | None:
    profile = facts.machine.power.tuned
    if gpu.gfx_target != "gfx1151" or profile in {None, "accelerator-performance"}:
        return None
    return (
        f"The tuned profile is {profile}. With accelerator-performance, prefill was 5 to 8 % faster on this hardware. "
        "Set it: `tuned-adm profile accelerator-performance`."
    )


def _iommu_option_ignored(facts: AdviceFacts) -> str | None:
    value = facts.parameters.get("amd_iommu")
    if value == "pt":
        return "The kernel ignores amd_iommu=pt, which is not one of its options. The parameter for passthrough is iommu=pt."
    if value == "on":
        return "The kernel ignores amd_iommu=on, which is not one of its options. The IOMMU is on without it."
    return None


def _gttsize_deprecated(facts: AdviceFacts) -> str | None:
    size = facts.parameters.get("amdgpu.gttsize", "-1")
    if size == "-1" or not any(gpu.unified_memory for gpu in facts.gpus):
        return None
    return (
        f"amdgpu.gttsize={size} is deprecated and can contradict ttm.pages_limit. Only ttm.pages_limit sets how much memory "
        "the GPU may use. Remove amdgpu.gttsize, and set ttm.pages_limit."
    )


def _platform_profile(facts: AdviceFacts) -> str | None:
    profile = facts.machine.power.platform_profile
    if profile not in {"low-power", "quiet", "cool"} or not any(gpu.unified_memory for gpu in facts.gpus):
        return None
    return (
        f"The platform profile of the firmware is {profile}, which lowers the power that the CPU and the GPU share. "
        "Set the profile to performance."
    )


def _governor(facts: AdviceFacts) -> str | None:
    power = facts.machine.power
    # Under the active modes of amd-pstate and intel_pstate every machine has "powersave", and it means no such thing.
    if power.governor != "powersave" or power.driver not in {"acpi-cpufreq", "amd-pstate", "intel_cpufreq"}:
        return None
    return (
        f"The CPU governor is powersave under {power.driver}, which keeps the clock at its lowest. Set it to schedutil."
    )


GPU_CONDITIONS: Final[dict[str, Callable[[AdviceFacts, GpuFacts], str | None]]] = {
    "broken_mes_firmware": _broken_mes_firmware,
    "kernel_too_old_for_gfx1151": _old_kernel,
    "memory_pool_below_model": _pool_below_model,
    "gpu_clocks_pinned_low": _clocks_pinned_low,
    "power_cap_lowered": _power_cap_lowered,
    "tuned_profile": _tuned_profile,
}
MACHINE_CONDITIONS: Final[dict[str, Callable[[AdviceFacts], str | None]]] = {
    "amd_iommu_option_ignored": _iommu_option_ignored,
    "gttsize_deprecated": _gttsize_deprecated,
    "platform_profile_saves_power": _platform_profile,
    "governor_saves_power": _governor,
}
TITLES: Final[dict[str, str]] = {
    "broken_mes_firmware": "old GPU firmware",
    "kernel_too_old_for_gfx1151": "old kernel",
    "memory_pool_below_model": "the GPU's memory is smaller than the model",
    "gpu_clocks_pinned_low": "GPU clocks kept low",
    "power_cap_lowered": "lowered power limit",
    "tuned_profile": "tuned profile",
    "amd_iommu_option_ignored": "a kernel parameter without effect",
    "gttsize_deprecated": "a deprecated kernel parameter",
    "platform_profile_saves_power": "platform profile saves power",
    "governor_saves_power": "CPU governor saves power",
}
"""Each condition in a few words."""


def _numbers(release: str | None) -> tuple[int, ...] | None:
    """The first three numbers of a kernel's release."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release or "")
    return tuple(int(number or 0) for number in found.groups()) if found else None
