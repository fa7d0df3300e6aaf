"""The GPUs that serve a target, and the memory bandwidth that they have together. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from exporter.host.gpu import GpuFacts
from exporter.host.gpu_memory import ProcessMemory
from exporter.launch.settings import aiter_usable
from exporter.probe.result import Identity
from exporter.serving_gpu import (
    Candidate,
    Evidence,
    Serving,
    Split,
    are_alike,
    bandwidth_together,
    candidates_of,
    which_gpu,
)
from exporter.settings import Target
from exporter.target_facts.server import Machine, ServerSetup, compute_of, decided, setup_of
from exporter.target_facts.weights import files_of
from exporter.tiers import TargetFacts

# Heat that holds the clocks down for less of the time than this explains no slow speed.
THROTTLED_SHARE: Final = 0.1
NOT_HERE: Final = "the server doesn't run on this machine, so its GPU isn't known: set targets[].hardware"


def candidates_in(machine: Machine) -> tuple[Candidate, ...]:
    """All GPUs of a machine that may serve."""
    names = machine.names
    return candidates_of(machine.gpus, machine.samples, names.links, names.others, names.render_nodes)


def serving_of(target: Target, identity: Identity | None, machine: Machine) -> Serving:
    """Which GPUs serve a target of this machine, and by which rule; or why that isn't known."""
    setup = setup_of(target.url, machine)
    named = decided(target.gpu)
    if not setup.local:
        return Serving(reason=NOT_HERE)
    launches = setup.launches
    memory = _memory_of(setup, machine)
    files, _ = files_of(setup, identity or Identity(""), identity.model if identity else None, machine)
    weights = (files.weight_bytes if files else None) or (identity.weight_bytes if identity else None)
    given = setup.container.devices if setup.container else None
    return which_gpu(
        Evidence(
            gpus=candidates_in(machine),
            named=tuple(named.split(",")) if named else (),
            render_nodes=(given.render_nodes or None) if given else None,
            vendors=("amd",) if given and given.kfd and not given.nvidia else None,
            variables=next((each.visible_devices for each in launches if each.visible_devices), ()),
            devices=next((",".join(each.devices) for each in launches if each.devices), None),
            main_gpu=next((each.main_gpu for each in launches if each.main_gpu is not None), None),
            split_mode=next((each.split_mode for each in launches if each.split_mode), None),
            compute=compute_of(setup, identity),
            process_found=setup.process is not None or setup.container is not None,
            held=memory.by_gpu,
            held_complete=memory.complete,
            held_problem=memory.problem,
            tensor_parallel=_tensor_parallel(setup),
            weights_bytes=weights,
        )
    )


def _memory_of(setup: ServerSetup, machine: Machine) -> ProcessMemory:
    """What the server's processes hold of the GPUs' memory."""
    reading, process = machine.processes.reading, setup.process
    if process is None:
        return ProcessMemory(problem=reading.hidden)
    return next((memory for pid, memory in machine.processes.memory if process.pid == pid), ProcessMemory())


def _tensor_parallel(setup: ServerSetup) -> int | None:
    stated = next((each.tensor_parallel for each in setup.launches if each.tensor_parallel is not None), None)
    return stated or (setup.container.tensor_parallel if setup.container else None)


def gpus_of(served: Serving, machine: Machine) -> tuple[GpuFacts, ...]:
    return tuple(gpu for gpu in machine.gpus if gpu.address in served.gpus)


def with_gpu(known: TargetFacts, setup: ServerSetup, served: Serving, machine: Machine) -> TargetFacts:
    """The GPUs that serve: what they are, and the bandwidth that they have together."""
    gpus = gpus_of(served, machine)
    foreign = _foreign(setup, served, machine)
    parallel = _tensor_parallel(setup)
    splits_layers = known.backend in {"llama_cpp", "ollama"} and _split_mode(setup) != "row"
    if served.rule is None and len(served.in_question) > 1:
        # Whichever of equal GPUs serves: one alone, or in turns one after the other, reads as fast as any of them.
        likely = tuple(gpu for gpu in machine.gpus if gpu.address in served.in_question)
        if len(likely) == len(served.in_question) and are_alike(likely) and (splits_layers or parallel == 1):
            gpus = likely[:1]
    if not gpus:
        if foreign:
            return replace(known, gpu_name=foreign)
        return replace(known, bandwidth_problem=served.reason)
    first, alike = gpus[0], are_alike(gpus)
    whole = not any(gpu.partitions for gpu in gpus)
    bandwidth = first.bandwidth_bytes_per_second
    problem = "" if whole else f"{first.name} is partitioned, and it isn't known which partition serves"
    if len(gpus) > 1:
        split: Split = "layers" if splits_layers else "parallel"
        together = bandwidth_together([gpu.bandwidth_bytes_per_second for gpu in gpus], split)
        bandwidth = together if splits_layers or parallel == len(gpus) else None
        if bandwidth is None:
            problem = problem or f"how its {len(gpus)} GPUs share the work isn't known, or their memory's bandwidth"
    elif bandwidth is None:
        problem = problem or f"the memory bandwidth of {first.name} isn't known: set targets[].hardware"
    return replace(
        known,
        gfx_target=first.gfx_target if alike else None,
        compute_units=first.compute_units if alike else None,
        gpu_name=first.name if alike else "",
        memory_bandwidth=bandwidth if whole else None,
        bandwidth_problem=problem if bandwidth is None or not whole else "",
        aiter_usable=_aiter_usable(setup, gpus),
        throttled=_is_throttled(served, machine),
        power_scope=first.power_scope,
    )


def _foreign(setup: ServerSetup, served: Serving, machine: Machine) -> str:
    """The name of another maker's GPU that serves: decided, or the only one of the kind that computes here."""
    by_address = {each.address: each for each in machine.names.others}
    found = [by_address[address] for address in served.others if address in by_address]
    if served.rule is None and len(served.in_question) == 1 and setup.compute in {"cuda", "vulkan"}:
        found = [by_address[address] for address in served.in_question if address in by_address]
    return found[0].title if len(found) == 1 else ""


def _split_mode(setup: ServerSetup) -> str | None:
    return next((each.split_mode for each in setup.launches if each.split_mode), None)


def _aiter_usable(setup: ServerSetup, gpus: Sequence[GpuFacts]) -> bool | None:
    if setup.container is not None and setup.container.aiter_usable is not None:
        return setup.container.aiter_usable
    targets = [gpu.gfx_target for gpu in gpus if gpu.gfx_target]
    launch = next((each for each in setup.launches if each.aiter is not None), None)
    return aiter_usable(launch.aiter_architectures if launch else (), targets)


def _is_throttled(served: Serving, machine: Machine) -> bool | None:
    shares = [
        share
        for sample in machine.samples
        if sample.address in served.gpus
        for reason, share in sample.throttling
        if reason == "thermal"
    ]
    return max(shares) >= THROTTLED_SHARE if shares else None
