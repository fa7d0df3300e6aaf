"""What is known of this machine and its servers, as plain data, as lines and as Markdown to paste into an issue. Pure.

Nothing private is in it: no host name, user name, path, key or serial number, and of an image's name no registry.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from exporter.advice import AdviceFacts, advise, model_on
from exporter.backends import name_of
from exporter.containers.facts import EngineReading
from exporter.containers.servers import repository_of
from exporter.host.gpu import GpuFacts, GpuSample, named_apart
from exporter.host.machine import GpuSettings, MachineFacts
from exporter.host.rocm import RocmFacts
from exporter.snapshot import TargetInfo
from exporter.target_facts import Machine
from exporter.text import ERROR_CHARACTERS, bytes_text, printable, share_text
from exporter.tiers import Judgement

HOLDS: Final[Mapping[str, str]] = {
    "thermal": "heat",
    "power": "the power limit",
    "current": "the current limit",
    "other": "a limit without a name",
}
"""What holds a GPU's clocks down, by the reason of its throttling."""
_PATH: Final = re.compile(r"(?<![\w.])~?/[^\s:;,)]+")


@dataclass(frozen=True, slots=True)
class ServerReport:
    """One inference server of this machine: a process or a container, with what follows from its facts."""

    info: TargetInfo
    judgement: Judgement
    port: int | None = None
    image: str = ""
    model_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was read."""

    machine: Machine
    facts: MachineFacts
    rocm: RocmFacts
    engine: EngineReading
    servers: tuple[ServerReport, ...] = ()


def machine_json(found: Findings) -> dict[str, Any]:
    """As ``machine --json`` prints it; null if it isn't known, with the reason under ``unknown``."""
    facts, rocm = found.facts, found.rocm
    return {
        "kernel": facts.kernel_release,
        "kernel_parameters": dict(facts.parameters),
        "bios": {"version": facts.bios_version, "date": facts.bios_date},
        "memory_bytes": facts.memory_bytes,
        "power_profile": {
            "platform_profile": facts.power.platform_profile,
            "governor": facts.power.governor,
            "driver": facts.power.driver,
            "energy_preference": facts.power.energy_preference,
            "tuned": facts.power.tuned,
        },
        "rocm": {"version": rocm.version, "source": rocm.source},
        "amdgpu_driver": {"version": rocm.driver.version, "source": rocm.driver.source} if rocm.driver else None,
        "gpus": [_gpu_json(gpu, found) for gpu in found.machine.gpus],
        "other_gpus": [
            {"name": each.title, "vendor": each.vendor, "driver": each.driver, "address": each.address}
            for each in found.machine.names.others
        ],
        "containers": [
            {"image": public_image(each.image), "running": each.running, "rocm": each.rocm.raw if each.rocm else None}
            for each in found.engine.containers
        ],
        "servers": [_server_json(each) for each in found.servers],
        "advice": [each.sentence for each in _advice(found)],
        "unknown": [{"what": what, "why": why} for what, why in _unknown(found)],
    }


def _gpu_json(gpu: GpuFacts, found: Findings) -> dict[str, Any]:
    sample = next((each for each in found.machine.samples if each.address == gpu.address), GpuSample(gpu.address))
    settings = _settings_of(gpu, found)
    return {
        "address": gpu.address,
        "name": gpu.name,
        "gfx_target": gpu.gfx_target,
        "compute_units": gpu.compute_units,
        "unified_memory": gpu.unified_memory,
        "vram_bytes": gpu.vram_total_bytes,
        "gtt_bytes": gpu.gtt_total_bytes,
        "memory_pool_bytes": gpu.memory_pool_bytes,
        "bandwidth_bytes_per_second": gpu.bandwidth_bytes_per_second,
        "bandwidth_source": gpu.bandwidth_source,
        "asleep": sample.suspended,
        "throttled": dict(sample.throttling),
        "temperatures_celsius": dict(sample.temperatures),
        "power_cap_watts": settings.power_cap_watts,
        "power_cap_default_watts": settings.power_cap_default_watts,
        "performance_level": settings.performance_level,
        "vbios": settings.vbios_version,
        "firmware": dict(settings.firmware),
    }


def _server_json(server: ServerReport) -> dict[str, Any]:
    info, judgement = server.info, server.judgement
    return {
        "backend": info.backend,
        "port": server.port,
        "image": public_image(server.image) or None,
        "model": public(info.model) or None,
        "quantization": info.quantization or None,
        "weights_bytes": server.model_bytes,
        "hardware": info.hardware or None,
        "gpu": info.gpu_reason or None,
        "settings": dict(info.settings),
        "ceiling_tokens_per_second": judgement.ceiling_tokens_per_second,
        "no_ceiling": public(judgement.no_ceiling) or None,
        "unknown": [public(why) for why in info.unknown],
    }


def _settings_of(gpu: GpuFacts, found: Findings) -> GpuSettings:
    return next((each for each in found.facts.gpus if each.address == gpu.address), GpuSettings(gpu.address))


def _advice(found: Findings) -> tuple[Any, ...]:
    models = [model for server in found.servers for model in model_on(server.info.gpus, server.model_bytes)]
    driver = found.rocm.driver
    return advise(AdviceFacts(found.facts, found.machine.gpus, tuple(models), driver.source if driver else None))


def public(text: str) -> str:
    """A text without what looks like a path: of a file's only its name is left."""
    return printable(_PATH.sub(lambda path: path[0].rstrip("/").rpartition("/")[2], text), ERROR_CHARACTERS)


def public_image(reference: str) -> str:
    """An image's name and tag without its registry, which may be a private host."""
    if not reference:
        return ""
    tag = reference.rpartition("/")[2].partition("@")[0].partition(":")[2]
    return printable(f"{repository_of(reference)}:{tag}" if tag else repository_of(reference))


def _unknown(found: Findings) -> Iterator[tuple[str, str]]:
    """What isn't known, and why."""
    yield from _unknown_of_gpus(found)
    yield from _unknown_of_machine(found)
    for server in found.servers:
        if server.judgement.no_ceiling:
            yield f"ceiling of {_name_of(server)}", public(server.judgement.no_ceiling)
        for why in server.info.unknown:
            yield f"settings of {_name_of(server)}", public(why)


def _name_of(server: ServerReport) -> str:
    port = f" at port {server.port}" if server.port else ""
    return f"{name_of(server.info.backend)}{port}" if server.info.backend else f"the server{port}"


def _unknown_of_gpus(found: Findings) -> Iterator[tuple[str, str]]:
    if not found.machine.gpus and not found.machine.names.others:
        yield "GPU", "none can be seen: check that the machine's sysfs is visible here, and that a driver is loaded"
    for gpu in named_apart(found.machine.gpus):
        yield from ((f"{what} of {gpu.name}", why) for what, why in _unknown_of_gpu(gpu, found))
    for other in found.machine.names.others:
        yield f"memory and sensors of {other.title}", f"the exporter does not read them with the driver {other.driver}"


def _unknown_of_gpu(gpu: GpuFacts, found: Findings) -> Iterator[tuple[str, str]]:
    sample = next((each for each in found.machine.samples if each.address == gpu.address), None)
    settings = _settings_of(gpu, found)
    if gpu.gfx_target is None:
        yield "gfx target", "KFD is hidden, and ip_discovery can't be read"
    if gpu.compute_units is None:
        yield "compute units", "KFD is hidden, and the PCI id alone doesn't tell them"
    if gpu.memory_pool_bytes is None:
        yield "memory", "its driver shows no mem_info files here"
    if gpu.bandwidth_bytes_per_second is None:
        yield "memory bandwidth", "neither its memory bank, its memory clock nor a data sheet gives it"
    if not settings.firmware:
        yield "firmware", "its fw_version files can't be seen here"
    if settings.vbios_version is None:
        yield "vBIOS", "its vbios_version can't be read"
    if sample is None or sample.suspended:
        yield (
            "sensors",
            "the GPU is suspended, and reading them would wake it" if sample else "its device folder is hidden",
        )
    elif settings.power_cap_watts is None:
        why = "its driver has no power1_cap"
        yield "power limit", f"{why}, as on every APU" if gpu.unified_memory else why


def _unknown_of_machine(found: Findings) -> Iterator[tuple[str, str]]:
    facts = found.facts
    if found.rocm.version is None:
        yield (
            "ROCm of the host",
            public(found.rocm.problems[0]) if found.rocm.problems else "none is installed in the usual places",
        )
    if found.rocm.driver is None:
        yield "amdgpu driver", "it isn't loaded, or /sys/module is hidden"
    absent = (
        ("kernel", facts.kernel_release, "/proc/sys/kernel/osrelease can't be read"),
        ("memory", facts.memory_bytes, "/proc/meminfo can't be read"),
        ("platform profile", facts.power.platform_profile, "the firmware has none, or it is hidden, as in a container"),
        ("CPU governor", facts.power.governor, "no CPU frequency driver can be seen, as in a virtual machine"),
        ("tuned profile", facts.power.tuned, "tuned isn't installed or has no active profile"),
        ("BIOS version", facts.bios_version, "the machine's DMI table can't be seen here"),
    )
    yield from ((what, why) for what, value, why in absent if value is None)
    if not found.engine.available:
        yield "containers", public(found.engine.problem or "the engine doesn't answer")
    if hidden := found.machine.processes.reading.hidden:
        yield "other server processes", hidden


# For people ---------------------------------------------------------------------------------------------------------------


def machine_rows(found: Findings) -> list[tuple[str, str]]:
    """As lines of a table: what, and how it is."""
    document = machine_json(found)
    rows = [*_machine_rows(document)]
    for gpu in document["gpus"]:
        rows.append(("GPU", _gpu_text(gpu)))
        firmware = [f"{block} {version}" for block, version in sorted(gpu["firmware"].items())]
        firmware += [f"vBIOS {gpu['vbios']}"] if gpu["vbios"] else []
        if firmware:
            rows.append(("firmware", ", ".join(firmware)))
    rows += [
        ("other GPU", f"{each['name']} ({each['address']}), driver {each['driver']}") for each in document["other_gpus"]
    ]
    rows += [("container", _container_text(each)) for each in document["containers"]]
    rows += [("server", _server_text(server)) for server in document["servers"]]
    rows += [("advice", sentence) for sentence in document["advice"]]
    rows += [("unknown", f"{each['what']}: {each['why']}") for each in document["unknown"]]
    return rows


def _machine_rows(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    parameters = ", ".join(f"{name}={value}" for name, value in document["kernel_parameters"].items())
    power = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in document["power_profile"].items() if value)
    bios, rocm, driver = document["bios"], document["rocm"], document["amdgpu_driver"]
    found = {
        "kernel": document["kernel"],
        "parameters": parameters,
        "BIOS": " of ".join(filter(None, (bios["version"], bios["date"]))),
        "memory": bytes_text(document["memory_bytes"]) if document["memory_bytes"] else "",
        "power": power,
        "ROCm": rocm["version"] or "",
        "amdgpu driver": f"{driver['version']} ({driver['source']})" if driver else "",
    }
    yield from ((name, text) for name, text in found.items() if text)


def _gpu_text(gpu: Mapping[str, Any]) -> str:
    size, width, cap = gpu["memory_pool_bytes"], gpu["bandwidth_bytes_per_second"], gpu["power_cap_watts"]
    vram, gtt, kind = gpu["vram_bytes"], gpu["gtt_bytes"], "carve-out" if gpu["unified_memory"] else "VRAM"
    held = [f"{HOLDS[reason]} ({share_text(share)})" for reason, share in gpu["throttled"].items() if share > 0]
    hottest = max(gpu["temperatures_celsius"].values(), default=None)
    parts = (
        f"{gpu['name']} ({gpu['address']})",
        gpu["gfx_target"],
        f"{gpu['compute_units']} CUs" if gpu["compute_units"] else None,
        f"{bytes_text(size)} for models" if size else None,
        f"{kind} {bytes_text(vram)}" if vram else None,
        f"GTT {bytes_text(gtt)}" if gtt else None,
        f"{bytes_text(width)}/s ({gpu['bandwidth_source']})" if width else None,
        f"{hottest:.0f} °C" if hottest is not None else None,
        f"clocks lowered by {' and '.join(held)}" if held else None,
        f"power limit {cap:g} W" if cap else None,
        f"level {gpu['performance_level']}" if gpu["performance_level"] else None,
        "suspended" if gpu["asleep"] else None,
    )
    return ", ".join(filter(None, parts))


def _container_text(container: Mapping[str, Any]) -> str:
    rocm = f", ROCm {container['rocm']}" if container["rocm"] else ""
    return (
        f"{container['image'] or 'an image without a name'}, {'running' if container['running'] else 'stopped'}{rocm}"
    )


def _server_text(server: Mapping[str, Any]) -> str:
    ceiling = server["ceiling_tokens_per_second"]
    parts = (
        (name_of(server["backend"]) or "a server") + (f" at port {server['port']}" if server["port"] else ""),
        server["image"],
        server["model"] and f"{server['model']}" + (f" ({server['quantization']})" if server["quantization"] else ""),
        bytes_text(server["weights_bytes"]) if server["weights_bytes"] else None,
        server["gpu"],
        ", ".join(f"{name} {value}" for name, value in server["settings"].items() if name != "gpu"),
        f"ceiling {ceiling:.1f} tok/s" if ceiling else None,
    )
    return "; ".join(filter(None, parts))


def machine_markdown(found: Findings) -> str:
    """As a table to paste into an issue."""
    lines = ["| what | |", "|---|---|"]
    lines += [f"| {what} | {text.replace('|', chr(92) + '|')} |" for what, text in machine_rows(found)]
    return "\n".join(lines)
