"""What runs a target on this machine: its container, its process, both or neither. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from exporter.address import LOOPBACK, address_of
from exporter.cache.facts import CacheFacts
from exporter.containers.facts import ContainerFacts
from exporter.host.gpu import GpuFacts, GpuSample
from exporter.host.process import ProcessFacts, awaited_at, process_of, working
from exporter.launch.settings import Compute, LaunchSettings
from exporter.probe.result import Identity
from exporter.snapshot import (
    CACHE,
    CONTAINERS,
    GPU,
    GPU_NAMES,
    GPU_SENSORS,
    MODEL_FILES,
    PROCESSES,
    GpuNames,
    ModelFiles,
    ServerProcesses,
    View,
    collector_key,
)

SERVER_COLLECTORS: Final = frozenset({"containers", "processes"})


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


@dataclass(frozen=True, slots=True)
class ServerSetup:
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


def setup_of(url: str, machine: Machine) -> ServerSetup:
    """What runs the server at a URL. A container gives the URL, and the process in it the rest."""
    container = container_of(url, machine.containers)
    processes = machine.processes.reading.processes
    if container is None:
        process = process_of(url, processes)
        if process is not None and process.container:
            # A toolbox, whose engine doesn't say what runs in it.
            container = next(
                (each for each in machine.containers if each.running and each.id == process.container), None
            )
        return ServerSetup(container, process, local=is_local(url, None))
    inside = [each for each in processes if each.container == container.id and each.launch.backend == container.backend]
    if len(inside) > 1:
        # Of several the one at the URL's port; behind a published port, the one that the container's address is of.
        launch, at = container.launch, address_of(url)[1]
        inside = [each for each in inside if each.port == (at if each.network == "own" else launch and launch.port)]
    return ServerSetup(container, inside[0] if len(inside) == 1 else None, local=True)


def starts_of(url: str, machine: Machine) -> tuple[float | None, ...]:
    """When the container and the process behind a URL were started, Unix time, as far as that is known."""
    setup = setup_of(url, machine)
    process = setup.process or (None if setup.container else awaited_at(url, machine.processes.reading.processes))
    return (
        setup.container.started_at_seconds if setup.container else None,
        process.started_at_seconds if process else None,
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


def compute_of(setup: ServerSetup, identity: Identity | None) -> Compute | None:
    """What computes: by the server's own word, else by its process and how it was started."""
    return "cpu" if identity is not None and identity.on_cpu else setup.compute


def decided(word: str) -> str | None:
    """What the settings say; ``auto`` is no decision."""
    return None if word == "auto" else word
