"""What lies behind a target: its own API, its container or process, the GPU, the files of its model, brought together. Pure.

Each source knows a part, and none knows all: the server its model, its command line its switches, sysfs the bandwidth, the
files the weights. Where two know the same thing, the one that runs it wins over the one that was told to; what the user set
wins over both.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from exporter.address import LOOPBACK, address_of
from exporter.cache.facts import CacheFacts, WeightFacts
from exporter.cache.find import find_weights
from exporter.containers.facts import ContainerFacts
from exporter.host.connections import read_connections
from exporter.host.gpu import GpuFacts, GpuSample
from exporter.host.gpu_memory import ProcessMemory
from exporter.host.process import OTHERS_HIDDEN, ProcessFacts, awaited_at, process_of, settings_of_process, working
from exporter.launch.settings import Compute, LaunchSettings, aiter_usable, settings_of
from exporter.probe.newcomers import ReadConnected, unseen
from exporter.probe.result import Identity, Measurements, ProbeResult, TargetState
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
from exporter.settings import Profiles, Target
from exporter.snapshot import (
    CACHE,
    CONTAINERS,
    GPU,
    GPU_NAMES,
    GPU_SENSORS,
    MODEL_FILES,
    PROCESSES,
    TARGET,
    GpuNames,
    ModelFiles,
    ServerProcesses,
    Service,
    TargetInfo,
    View,
    collector_key,
)
from exporter.tiers import (
    NO_GPU_GIVEN,
    ON_CPU,
    SAID_BY_THE_SERVER,
    UNQUANTIZED,
    Judgement,
    TargetFacts,
    Weights,
    hardware_of,
    judge,
    scenario_of,
    tier_of,
)

SERVER_COLLECTORS: Final = frozenset({"containers", "processes"})
# Heat that holds the clocks down for less of the time than this explains no slow speed.
THROTTLED_SHARE: Final = 0.1
NOT_HERE: Final = "the server doesn't run on this machine, so its GPU isn't known: set targets[].hardware"


@dataclass(frozen=True, slots=True)
class Machine:
    """The newest facts of the machine that the exporter runs on. ``samples`` change all the time: they are no new facts."""

    containers: tuple[ContainerFacts, ...] = ()
    gpus: tuple[GpuFacts, ...] = ()
    caches: tuple[CacheFacts, ...] = ()
    names: GpuNames = field(default_factory=GpuNames)
    processes: ServerProcesses = field(default_factory=ServerProcesses)
    models: ModelFiles = field(default_factory=ModelFiles)
    servers_read: frozenset[str] = frozenset()
    """Which of the collectors that see servers have run: ``containers``, ``processes``."""
    samples: tuple[GpuSample, ...] = field(default=(), compare=False)


def machine_of(view: View) -> Machine:
    """What a view knows of the machine."""
    engine, gpus = view.get(CONTAINERS), view.get(GPU)
    return Machine(
        containers=engine.last_known if engine else (),
        gpus=gpus.gpus if gpus else (),
        caches=tuple(record.facts for record in view.of(CACHE).values()),
        names=view.get(GPU_NAMES) or GpuNames(),
        processes=view.get(PROCESSES) or ServerProcesses(),
        models=view.get(MODEL_FILES) or ModelFiles(),
        servers_read=frozenset(name for name in SERVER_COLLECTORS if view.get(collector_key(name)) is not None),
        samples=view.get(GPU_SENSORS) or (),
    )


def model_paths(view: View) -> tuple[str, ...]:
    """Where on this machine the files of the targets' models lie, as far as that is known."""
    machine = machine_of(view)
    return tuple(
        dict.fromkeys(
            path for state in view.of(TARGET).values() for path in paths_of(state.url, state.identity, machine)
        )
    )


@dataclass(frozen=True, slots=True)
class Behind:
    """What runs a target: its container, its process, both or neither; whether on this machine."""

    container: ContainerFacts | None = None
    process: ProcessFacts | None = None
    local: bool = False

    @property
    def launch(self) -> LaunchSettings | None:
        """How it was started: by its own command line, else by its container's."""
        if self.process is not None:
            return (working(self.process) or self.process).launch
        return self.container.launch if self.container else None

    @property
    def launches(self) -> tuple[LaunchSettings, ...]:
        """All that says how it was started, the surest first."""
        process = self.process
        own = (working(process) or process).launch if process else None
        found = (own, process.launch if process else None, self.container.launch if self.container else None)
        return tuple(dict.fromkeys(each for each in found if each is not None))

    @property
    def compute(self) -> Compute | None:
        """What computes in it."""
        if self.process is not None and (computing := working(self.process)) is not None and computing.compute:
            return computing.compute
        return next((each.compute for each in self.launches if each.compute), None)


def behind(url: str, machine: Machine) -> Behind:
    """What runs the server at a URL. A container gives the URL, and the process in it the rest."""
    container = container_of(url, machine.containers)
    processes = machine.processes.reading.processes
    if container is None:
        process = process_of(url, processes)
        if process is not None and process.container:
            # A toolbox, whose engine doesn't tell what runs in it.
            container = next(
                (each for each in machine.containers if each.running and each.id == process.container), None
            )
        return Behind(container, process, local=is_local(url, None))
    inside = [each for each in processes if each.container == container.id and each.launch.backend == container.backend]
    if len(inside) > 1:
        # Of several the one at the URL's port; behind a published port, the one that the container's address is of.
        launch, at = container.launch, address_of(url)[1]
        inside = [each for each in inside if each.port == (at if each.network == "own" else launch and launch.port)]
    return Behind(container, inside[0] if len(inside) == 1 else None, local=True)


def starts_of(url: str, machine: Machine) -> tuple[float | None, ...]:
    """When the container and the process behind a URL were started, Unix time, as far as that is known."""
    setup = behind(url, machine)
    process = setup.process or (None if setup.container else awaited_at(url, machine.processes.reading.processes))
    return (
        setup.container.started_at_seconds if setup.container else None,
        process.started_at_seconds if process else None,
    )


def service_of(target: Target, state: TargetState | None, profiles: Profiles) -> Service:
    """How good what users get is, by the bounds of the target."""
    bounds = target.tiers or profiles.tiers
    speed = state.user_tokens_per_second if state else None
    return Service(None if speed is None else tier_of(speed, bounds), bounds.acceptable)


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


def target_facts_of(
    target: Target, identity: Identity | None, machine: Machine, state: TargetState | None = None
) -> TargetFacts:
    """All that is known of one target; None, field by field, where nobody said. ``state`` is its newest status check."""
    setup = behind(target.url, machine)
    container = setup.container
    identity = identity or Identity(_decided(target.backend) or (container and container.backend) or "")
    model = identity.model or target.model or (container and (container.served_model_name or container.model)) or None
    users = state.requests_running if state else None
    known = TargetFacts(identity.backend, model=model, quantization=identity.quantization, users=users)
    if not setup.local:
        return replace(
            known,
            weights=_stated_weights(identity, None),
            no_gpu=ON_CPU if identity.on_cpu else "",
            offloaded=identity.offloaded,
            speculative=_speculative(None, state),
            bandwidth_problem=NOT_HERE,
        )
    files, problem = _files(setup, identity, model, machine)
    settings = dict(settings_in(target, identity, machine))
    kv_cache = settings.get("kv_cache") or (container.kv_cache_dtype if container else None)
    quantization = container.quantization if container else None
    quantization = quantization or next((each.quantization for each in setup.launches if each.quantization), None)
    weights = _weights(identity, files, kv_cache, quantization)
    served = serving_of(target, identity, machine)
    known = replace(
        known,
        quantization=identity.quantization or quantization or (files and (files.quantization or files.dtype)) or None,
        kv_cache=kv_cache,
        aiter=_aiter(setup),
        weights=weights,
        weights_problem=problem,
        no_gpu=_why_no_gpu(setup, identity),
        offloaded=identity.offloaded,
        offload=settings.get("cpu_offload"),
        speculative=_speculative(settings.get("speculative"), state),
    )
    return _with_gpu(known, setup, served, machine)


def _speculative(launched: str | None, state: TargetState | None) -> str | None:
    """How tokens are drafted, by the launch settings, else by what the answers told; ``none`` where neither says that they are."""
    if launched in {None, "none"} and state is not None and state.drafts:
        return SAID_BY_THE_SERVER
    return launched


def _decided(word: str) -> str | None:
    """What the settings say; ``auto`` is no decision."""
    return None if word == "auto" else word


def _compute(setup: Behind, identity: Identity | None) -> Compute | None:
    """What computes: by the server's own word, else by its process and how it was started."""
    return "cpu" if identity is not None and identity.on_cpu else setup.compute


def _why_no_gpu(setup: Behind, identity: Identity) -> str:
    """Why no GPU computes, in words; empty where one may."""
    if _compute(setup, identity) == "cpu":
        return ON_CPU
    return NO_GPU_GIVEN if setup.container is not None and not setup.container.devices.gives_gpu else ""


# Settings -----------------------------------------------------------------------------------------------------------------


def settings_in(target: Target, identity: Identity | None, machine: Machine) -> tuple[tuple[str, str], ...]:
    """The launch settings that decide speed, by name, in words, and the GPU that serves, as far as they can be read."""
    setup = behind(target.url, machine)
    if not setup.local:
        return ()
    served = serving_of(target, identity, machine)
    gfx_targets = tuple(gpu.gfx_target for gpu in _gpus_of(served, machine) if gpu.gfx_target)
    files, _ = _files(setup, identity or Identity(""), identity.model if identity else None, machine)
    layers = files.layers if files else None
    known: dict[str, str] = {}
    if setup.container and setup.container.launch:
        known = settings_of(setup.container.launch, layers=layers, gfx_targets=gfx_targets)
    if setup.process:
        known |= settings_of_process(setup.process, layers=layers, gfx_targets=gfx_targets)
    if (compute := _compute(setup, identity)) is not None:
        known["compute"] = compute
    if served.gpus:
        known["gpu"] = ",".join(served.gpus)
    return tuple(sorted(known.items()))


def hints_of(target: Target, machine: Machine) -> dict[str, bool]:
    """What a prober should know of its server's launch: ``sleeps`` and ``prompt_cache``, where it is known."""
    found: dict[str, bool] = {}
    for launch in behind(target.url, machine).launches:
        if launch.name != "llama-server":
            continue
        if launch.sleep_idle_seconds is not None or launch.complete:
            found.setdefault("sleeps", launch.sleep_idle_seconds is not None)
        if launch.prompt_cache is not None:
            found.setdefault("prompt_cache", launch.prompt_cache)
    return found


def connections_to(url: str, machine: Machine, proc: Path) -> ReadConnected:
    """How to read who is connected to the server at a URL; it gives None where that server's table can't be read.

    A process in another network has a table of its own. In ours it is enough that something listens at the port, but for Docker's
    proxy: what comes from another machine goes past it. Where other users' processes are hidden, root's listener may be one.
    """
    setup, (host, port) = behind(url, machine), address_of(url)
    own, process, container = proc / "self", setup.process, setup.container
    if process is not None and process.network in {"host", "other"}:
        return partial(read_connections, proc / str(process.pid), process.port, own) if process.port else unseen
    shared = container is not None and any(each.found_by == "host_network" for each in container.urls)
    if process is None and container is not None and not shared:
        return unseen
    if host != LOOPBACK or port in machine.processes.reading.forwarded:
        return unseen
    doubts_root = process is None and not shared and machine.processes.reading.hidden == OTHERS_HIDDEN
    return partial(read_connections, own, port, own, doubts_root=doubts_root)


# The GPU ------------------------------------------------------------------------------------------------------------------


def candidates_in(machine: Machine) -> tuple[Candidate, ...]:
    """All GPUs of a machine that may serve."""
    names = machine.names
    return candidates_of(machine.gpus, machine.samples, names.links, names.others, names.render_nodes)


def serving_of(target: Target, identity: Identity | None, machine: Machine) -> Serving:
    """Which GPUs serve a target of this machine, and by which rule; or why that isn't known."""
    setup = behind(target.url, machine)
    named = _decided(target.gpu)
    if not setup.local:
        return Serving(reason=NOT_HERE)
    launches = setup.launches
    memory = _memory_of(setup, machine)
    files, _ = _files(setup, identity or Identity(""), identity.model if identity else None, machine)
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
            compute=_compute(setup, identity),
            process_found=setup.process is not None or setup.container is not None,
            held=memory.by_gpu,
            held_complete=memory.complete,
            held_problem=memory.problem,
            tensor_parallel=_tensor_parallel(setup),
            weights_bytes=weights,
        )
    )


def _memory_of(setup: Behind, machine: Machine) -> ProcessMemory:
    """What the server's processes hold of the GPUs' memory."""
    reading, process = machine.processes.reading, setup.process
    if process is None:
        return ProcessMemory(problem=reading.hidden)
    return next((memory for pid, memory in machine.processes.memory if process.pid == pid), ProcessMemory())


def _tensor_parallel(setup: Behind) -> int | None:
    stated = next((each.tensor_parallel for each in setup.launches if each.tensor_parallel is not None), None)
    return stated or (setup.container.tensor_parallel if setup.container else None)


def _gpus_of(served: Serving, machine: Machine) -> tuple[GpuFacts, ...]:
    return tuple(gpu for gpu in machine.gpus if gpu.address in served.gpus)


def _with_gpu(known: TargetFacts, setup: Behind, served: Serving, machine: Machine) -> TargetFacts:
    """The GPUs that serve: what they are, and the bandwidth that they have together."""
    gpus = _gpus_of(served, machine)
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


def _foreign(setup: Behind, served: Serving, machine: Machine) -> str:
    """The name of another maker's GPU that serves: decided, or the only one of the kind that computes here."""
    by_address = {each.address: each for each in machine.names.others}
    found = [by_address[address] for address in served.others if address in by_address]
    if served.rule is None and len(served.in_question) == 1 and setup.compute in {"cuda", "vulkan"}:
        found = [by_address[address] for address in served.in_question if address in by_address]
    return found[0].title if len(found) == 1 else ""


def _split_mode(setup: Behind) -> str | None:
    return next((each.split_mode for each in setup.launches if each.split_mode), None)


def _aiter(setup: Behind) -> bool | None:
    stated = next((each.aiter for each in setup.launches if each.aiter is not None), None)
    return setup.container.aiter if stated is None and setup.container else stated


def _aiter_usable(setup: Behind, gpus: Sequence[GpuFacts]) -> bool | None:
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


# In words -----------------------------------------------------------------------------------------------------------------


def info_of(
    target: Target, identity: Identity | None, known: TargetFacts, machine: Machine, profiles: Profiles
) -> TargetInfo:
    """The identity of a target in words, as ``llm_target_info`` carries it; empty where it is not known."""
    setup = behind(target.url, machine)
    container, served = setup.container, serving_of(target, identity, machine)
    return TargetInfo(
        url=target.url,
        backend=known.backend,
        backend_version=(identity.backend_version if identity else None) or "",
        model=known.model or "",
        quantization=known.quantization or "",
        container=container.name if container else "",
        image=container.image if container else "",
        scenario=_decided(target.scenario) or scenario_of(known, profiles) or "",
        hardware=_decided(target.hardware) or hardware_of(known, profiles) or known.gpu_name,
        gpus=served.gpus,
        gpu_rule=served.rule or "",
        gpu_reason=served.reason,
        settings=settings_in(target, identity, machine),
        unknown=_unknown(setup, machine),
        weight_bytes=known.weights.bytes,
    )


def judged_figures(result: ProbeResult) -> Measurements | None:
    """What a speed is judged by: beside users a probe measures what is left for it, which says nothing of the setup."""
    if result.result != "ok":
        return None
    return replace(result.measurements, tokens_per_second=None) if result.beside_users else result.measurements


def _unknown(setup: Behind, machine: Machine) -> tuple[str, ...]:
    """What could not be read of a server on this machine, and why."""
    if not setup.local:
        return ()
    if setup.process is not None:
        computing = working(setup.process)
        return tuple(dict.fromkeys((*setup.process.unknown, *(computing.unknown if computing else ()))))
    if setup.container is not None and setup.container.launch is not None:
        return ()
    hidden = machine.processes.reading.hidden
    return (f"how it was started: {hidden}",) if hidden else ()


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


# The model's files --------------------------------------------------------------------------------------------------------


def paths_of(url: str, identity: Identity | None, machine: Machine) -> tuple[str, ...]:
    """Where on this machine the file or folder of a server's model may lie, the surest first."""
    return tuple(dict.fromkeys(_paths(behind(url, machine), identity)))


def _paths(setup: Behind, identity: Identity | None) -> Iterator[str]:
    """Where the file or folder of its model may lie, as the exporter can open it; the surest first."""
    if not setup.local:
        return
    told = identity.model_root if identity and identity.model_root and identity.model_root.startswith("/") else None
    process, container = setup.process, setup.container
    if process is not None and (computing := working(process)) is not None and computing.model_file:
        yield computing.model_file
    if container is not None:
        stated = container.launch.model_path if container.launch else None
        for path in (told, stated):
            if path and path.startswith("/"):
                yield from _on_host(path, container)
    elif told is not None and (process is None or not process.container):
        yield told


def _on_host(path: str, container: ContainerFacts) -> Iterator[str]:
    """A path inside a container as the host has it, by the container's mounts."""
    for mount in container.cache_mounts:
        inside = mount.destination.rstrip("/")
        if path == inside or path.startswith(f"{inside}/"):
            yield mount.source.rstrip("/") + path.removeprefix(inside)


def _files(setup: Behind, identity: Identity, model: str | None, machine: Machine) -> tuple[WeightFacts | None, str]:
    """The weights that a server runs, or why they aren't known.

    By the path of its file, else in any cache of this machine by its folder, its repository, or its name.
    """
    by_path, problem = dict(machine.models.by_path), ""
    for path in _paths(setup, identity):
        found = by_path.get(path)
        if isinstance(found, WeightFacts):
            return found, ""
        if found is not None:
            problem = problem or f"its file can't be read: {found.reason}"
    names = [
        identity.model_root,
        *(each.model_path for each in setup.launches),
        *(each.model for each in setup.launches),
    ]
    names += [setup.container.model if setup.container else None, model]
    for name in dict.fromkeys(name for name in names if name):
        if (weights := find_weights(machine.caches, name)) is not None:
            return weights, ""
    return None, problem


# Bytes of one number of the key-value cache, by how its type's name begins; a server's default is 16 bits.
_KV_BYTES: Final = (("fp8", 1.0), ("q8", 1.0625), ("q4", 0.5625), ("q5", 0.6875), ("f32", 4.0), ("fp32", 4.0))


def _kv_bytes(kv_cache: str | None) -> float:
    return next((size for start, size in _KV_BYTES if (kv_cache or "").lower().startswith(start)), 2.0)


def _weights(identity: Identity, facts: WeightFacts | None, kv_cache: str | None, quantization: str | None) -> Weights:
    """Sizes by what the server says of itself, the rest by the files."""
    if facts is None:
        return _stated_weights(identity, kv_cache)
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


def _stated_weights(identity: Identity, kv_cache: str | None) -> Weights:
    """Sizes by what the server alone says."""
    size, active, parameters = identity.weight_bytes, identity.active_parameters, identity.parameters
    return Weights(
        bytes=size,
        streamed_bytes=size * active / parameters if size and active and parameters else None,
        parameters=parameters,
        kv_bytes_per_token=None if identity.kv_elements is None else identity.kv_elements * _kv_bytes(kv_cache),
        experts=identity.experts,
    )
