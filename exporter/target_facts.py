"""What lies behind a target: its own API, its container, the GPU and the files of its model, brought together. Pure.

Each source knows a part, and none knows all: the server its model, the container its switches, sysfs the bandwidth, the
cache the weights. Where two know the same thing, the one that runs it wins over the one that was told to.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from exporter.address import LOOPBACK, address_of
from exporter.cache.facts import CacheFacts, WeightFacts
from exporter.cache.find import find_weights
from exporter.containers.facts import ContainerFacts
from exporter.host.gpu import GpuFacts
from exporter.probe.result import Identity, Measurements, ProbeResult
from exporter.settings import Profiles, Target
from exporter.snapshot import CACHE, CONTAINERS, GPU, TargetInfo, View
from exporter.tiers import UNQUANTIZED, Judgement, TargetFacts, Weights, hardware_of, judge, scenario_of


@dataclass(frozen=True, slots=True)
class Machine:
    """The newest facts of the machine that the exporter runs on."""

    containers: tuple[ContainerFacts, ...] = ()
    gpus: tuple[GpuFacts, ...] = ()
    caches: tuple[CacheFacts, ...] = ()


def machine_of(view: View) -> Machine:
    """What a view knows of the machine."""
    engine, gpus = view.get(CONTAINERS), view.get(GPU)
    return Machine(
        containers=engine.last_known if engine else (),
        gpus=gpus.gpus if gpus else (),
        caches=tuple(record.facts for record in view.of(CACHE).values()),
    )


def container_of(url: str, containers: Iterable[ContainerFacts]) -> ContainerFacts | None:
    """The running container that answers at a URL, by the addresses under which it can be reached."""
    address = address_of(url)
    for container in containers:
        if container.running and any(address_of(each.url) == address for each in container.urls):
            return container
    return None


def is_local(url: str, container: ContainerFacts | None) -> bool:
    """Whether the server runs on this machine, so that this machine's GPU is its GPU."""
    return container is not None or address_of(url)[0] == LOOPBACK


def target_facts_of(target: Target, identity: Identity | None, machine: Machine) -> TargetFacts:
    """All that is known of one target; None, field by field, where nobody said."""
    container = container_of(target.url, machine.containers)
    local = is_local(target.url, container)
    identity = identity or Identity(_decided(target.backend) or (container and container.backend) or "")
    model = identity.model or target.model or (container and (container.served_model_name or container.model)) or None
    files = _files(identity, container, model, machine.caches) if local else None
    kv_cache = container.kv_cache_dtype if container else None
    known = TargetFacts(
        identity.backend,
        model=model,
        quantization=identity.quantization or (container.quantization if container else None),
        kv_cache=kv_cache,
        aiter=container.aiter if container else None,
        weights=_weights(identity, files, kv_cache, container.quantization if container else None),
    )
    if not local:
        return known
    return replace(_with_gpu(known, machine.gpus, container), offloaded=identity.offloaded or _has_no_gpu(container))


def _decided(word: str) -> str | None:
    """What the settings say; ``auto`` is no decision."""
    return None if word == "auto" else word


def _has_no_gpu(container: ContainerFacts | None) -> bool | None:
    """True for a container that was given no GPU: its server computes on the CPU."""
    if container is None:
        return None
    given = container.devices
    return not (given.kfd or given.dri or given.privileged or given.cdi) or None


def info_of(
    target: Target, identity: Identity | None, known: TargetFacts, machine: Machine, profiles: Profiles
) -> TargetInfo:
    """The identity of a target in words, as ``llm_target_info`` carries it; empty where it is not known."""
    container = container_of(target.url, machine.containers)
    return TargetInfo(
        url=target.url,
        backend=known.backend,
        backend_version=(identity.backend_version if identity else None) or "",
        model=known.model or "",
        quantization=known.quantization or "",
        container=container.name if container else "",
        image=container.image if container else "",
        scenario=_decided(target.scenario) or scenario_of(known, profiles) or "",
        hardware=_decided(target.hardware)
        or hardware_of(known.gfx_target, known.compute_units, profiles)
        or _gpu_name(known, machine),
    )


def judged_figures(result: ProbeResult) -> Measurements | None:
    """What a speed is judged by: beside users a probe measures what is left for it, which says nothing of the set-up."""
    if result.result != "ok":
        return None
    return replace(result.measurements, tokens_per_second=None) if result.beside_users else result.measurements


def judgement_of(
    target: Target,
    known: TargetFacts,
    figures: Measurements | None,
    profiles: Profiles,
    *,
    decode_watts: float | None = None,
) -> Judgement:
    """How good a target's speed is; None for ``figures`` while none is known. ``decode_watts`` is as ``judge`` takes it.

    A speed whose tokens were estimated is not judged: an estimate may be off by more than a tier.
    """
    counted = figures is not None and figures.token_count_exact is not False
    return judge(
        figures.tokens_per_second if figures is not None and counted else None,
        bounds=target.tiers or profiles.tiers,
        known=known,
        profiles=profiles,
        scenario=_decided(target.scenario),
        hardware=_decided(target.hardware),
        context_tokens=_context_tokens(figures),
        decode_watts=decode_watts,
    )


def _context_tokens(figures: Measurements | None) -> float:
    """The mean length of the context while a probe decoded: its prompt and half of its answer."""
    if figures is None:
        return 0.0
    return (figures.prompt_tokens or 0) + (figures.output_tokens or 0) / 2


def _gpu_name(known: TargetFacts, machine: Machine) -> str:
    names = [gpu.name for gpu in machine.gpus if gpu.gfx_target == known.gfx_target is not None]
    return names[0] if len(names) == 1 else ""


def _with_gpu(known: TargetFacts, gpus: Sequence[GpuFacts], container: ContainerFacts | None) -> TargetFacts:
    """The GPU that serves: the only one, or nothing but their number where there are several."""
    if not gpus:
        return known
    if len(gpus) > 1:
        parallel = container.tensor_parallel if container else None
        # Which of several GPUs serves isn't known, unless all are of one kind and it uses one.
        kinds = {(gpu.gfx_target, gpu.compute_units, gpu.bandwidth_bytes_per_second) for gpu in gpus}
        if len(kinds) > 1 or parallel != 1:
            return replace(known, gpus=parallel or len(gpus))
    gpu = gpus[0]
    return replace(
        known,
        gpus=1,
        gfx_target=gpu.gfx_target,
        compute_units=gpu.compute_units,
        memory_bandwidth=None if gpu.partitions else gpu.bandwidth_bytes_per_second,
    )


def _files(
    identity: Identity, container: ContainerFacts | None, model: str | None, caches: Iterable[CacheFacts]
) -> WeightFacts | None:
    """The weights in the caches of this machine that a server runs, by its folder, its repository, or its name."""
    names = (identity.model_root, container.model if container else None, model)
    found = (find_weights(caches, name) for name in names if name)
    return next((each for each in found if each is not None), None)


# Bytes of one number of the key-value cache, by how its type's name begins; a server's default is 16 bits.
_KV_BYTES: Final = (("fp8", 1.0), ("q8", 1.0625), ("q4", 0.5625), ("q5", 0.6875), ("f32", 4.0), ("fp32", 4.0))


def _kv_bytes(kv_cache: str | None) -> float:
    return next((size for start, size in _KV_BYTES if (kv_cache or "").lower().startswith(start)), 2.0)


def _weights(identity: Identity, facts: WeightFacts | None, kv_cache: str | None, quantization: str | None) -> Weights:
    """Sizes by what the server says of itself, the rest by the files."""
    if facts is None:
        return Weights(bytes=identity.weight_bytes, parameters=identity.parameters)
    if quantization is not None and facts.quantization is None and quantization.lower() not in UNQUANTIZED:
        # Quantized while loading: what is in memory isn't what is on disk.
        return Weights(bytes=identity.weight_bytes, parameters=identity.parameters, experts=facts.moe)
    per_token = facts.kv_elements_per_token
    return Weights(
        bytes=identity.weight_bytes or facts.weight_bytes,
        # For a mixture of experts the files say how much of it one token reads.
        streamed_bytes=facts.read_bytes_per_token,
        parameters=identity.parameters,
        kv_bytes_per_token=None if per_token is None else per_token * _kv_bytes(kv_cache),
        experts=facts.moe,
    )
