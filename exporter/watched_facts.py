"""The facts of a target whose changes are reported, by name and as text. Pure.

To watch one more fact, give it a line in ``watched_facts``. None and empty are unknown, which is no change. A value never
holds an environment, a key or a command line; times and sizes that waver are no facts.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import exporter
from exporter.containers.facts import ContainerFacts
from exporter.history.compare import BACKEND, MODEL, QUANTIZATION, shape_fact
from exporter.host.gpu import GpuFacts
from exporter.host.machine import GpuSettings, MachineFacts
from exporter.host.rocm import RocmFacts
from exporter.launch.settings import defaults_of
from exporter.probe.result import Identity, TargetState
from exporter.settings import Module, Target
from exporter.snapshot import GPU_SENSORS, MACHINE, ROCM, TargetInfo, View
from exporter.target_facts import machine_of, paths_of, setup_of
from exporter.tiers import Weights

Facts = dict[str, str | None]

_REVISION: Final = re.compile(r"/snapshots/([0-9a-f]{7,40})(?:/|$)")
WEIGHTS_FILE: Final = "weights file"
"""The size and time of the model's file: another file under the same name is a change of weights."""
# The settings that other facts hold already.
_TOLD: Final = frozenset({"gpu"})


def watched_facts(
    target: Target,
    identity: Identity | None,
    info: TargetInfo,
    weights: Weights,
    *,
    modules: Mapping[str, Module],
    view: View,
) -> Facts:
    """All facts of a target that are watched; those of the machine only if it serves."""
    facts: Facts = {
        **_served_facts(identity, info, weights),
        "exporter": exporter.__version__,
        **{shape_fact(name): shape_of(module) for name, module in modules.items() if name in target.modules},
        **{f"setting {name}": value for name, value in info.settings if name not in _TOLD},
    }
    machine = machine_of(view)
    setup = setup_of(target.url, machine)
    if not setup.local:
        return facts
    gpus = [gpu for gpu in machine.gpus if gpu.address in info.gpus]
    for name, value in defaults_of(setup.launch, setup.compute).items() if setup.launch else ():
        facts.setdefault(f"setting {name}", value)
    facts |= _container_facts(setup.container)
    paths, stamps = paths_of(target.url, identity, machine), dict(machine.models.stamps)
    facts["model revision"] = _revision(paths)
    facts[WEIGHTS_FILE] = next((stamps[path] for path in paths if path in stamps), None) if identity else None
    facts["gpu"] = ", ".join(f"{gpu.name} {gpu.address}" for gpu in gpus)
    return facts | dict(_host_facts(view.get(ROCM), view.get(MACHINE), gpus))


def figures_beside(info: TargetInfo, state: TargetState | None, view: View) -> dict[str, float]:
    """What the machine did beside a probe, by the names in ``KINDS``: of the GPU that serves, if one does; users."""
    found: dict[str, float | None] = {"requests of users": state.requests_running if state else None}
    samples = {each.address: each for each in view.get(GPU_SENSORS) or () if not each.suspended}
    if len(info.gpus) == 1 and (sample := samples.get(info.gpus[0])) is not None:
        used = [each for each in (sample.vram_used_bytes, sample.gtt_used_bytes) if each is not None]
        found |= {
            "GPU temperature": next((value for _, value in sample.temperatures), None),
            "GPU clock": next((value for _, value in sample.clocks), None),
            "GPU power": sample.power_watts,
            "GPU memory in use": float(sum(used)) if used else None,
            # A power limit at full load is normal, and would hide that heat holds the clocks down too.
            "time throttled": dict(sample.throttling).get("thermal"),
        }
    return {name: value for name, value in found.items() if value is not None}


def _served_facts(identity: Identity | None, info: TargetInfo, weights: Weights) -> Facts:
    """What the server says of itself. While it says nothing, other sources name things differently: that is no change."""
    if identity is None:
        return {}
    return {
        BACKEND: info.backend,
        "backend version": info.backend_version,
        MODEL: info.model,
        QUANTIZATION: info.quantization,
        "weights": _size(identity.weight_bytes),
        "weight files": None if identity.weight_bytes else _size(weights.bytes),
        "parameters": _size(identity.parameters, "parameters"),
    }


def _container_facts(container: ContainerFacts | None) -> Facts:
    if container is None:
        return {}
    digest = container.image_id.removeprefix("sha256:")[:12]
    return {
        "image": f"{container.image} ({digest})" if digest else container.image,
        "container ROCm": container.rocm.raw if container.rocm else None,
    }


def _host_facts(
    rocm: RocmFacts | None, machine: MachineFacts | None, gpus: Iterable[GpuFacts]
) -> Iterator[tuple[str, str | None]]:
    if rocm is not None:
        yield "host ROCm", rocm.version
        yield "driver", f"{rocm.driver.version} ({rocm.driver.source})" if rocm.driver else None
    if machine is not None:
        power = machine.power
        yield "kernel", machine.kernel_release
        yield "BIOS", machine.bios_version
        yield "platform profile", power.platform_profile
        yield "CPU governor", power.governor
        yield "tuned profile", power.tuned
        for name, value in machine.parameters:
            yield f"kernel parameter {name}", value
    for gpu in gpus:
        yield f"GTT size of {gpu.address}", _size(gpu.gtt_total_bytes)
        for settings in machine.gpus if machine else ():
            if settings.address == gpu.address:
                yield from _gpu_facts(settings)


def _gpu_facts(settings: GpuSettings) -> Iterator[tuple[str, str | None]]:
    address = settings.address
    yield f"vBIOS of {address}", settings.vbios_version
    yield f"performance level of {address}", settings.performance_level
    yield f"power cap of {address}", None if settings.power_cap_watts is None else f"{settings.power_cap_watts:g} W"
    for block, version in settings.firmware:
        yield f"firmware {block} of {address}", version


def shape_of(module: Module) -> str:
    """What a module sends, in words: figures of two shapes are no comparison."""
    shape = f"{module.prompt_tokens} prompt tokens, at most {module.max_tokens} answered, {module.concurrency} at once"
    if module.depth is not None:
        shape += f", {module.depth} tokens deep"
    if not module.request:
        return shape
    # The fields themselves may hold anything; that they are others is what counts.
    fields = json.dumps(module.request, sort_keys=True).encode()
    return f"{shape}, request fields {hashlib.sha256(fields).hexdigest()[:8]}"


def _size(number: float | None, unit: str = "bytes") -> str | None:
    return f"{number:.0f} {unit}" if number else None


def _revision(paths: Iterable[str]) -> str | None:
    found = (_REVISION.search(path) for path in paths)
    return next((match[1] for match in found if match), None)
