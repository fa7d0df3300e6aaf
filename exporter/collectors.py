"""The collectors: facts of the machine, each read on a schedule of its own, timed, and reported if it fails or hangs.

A collector is a function that gives ``Collected``. To add one, write the function and give it a row in ``_rows``.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from exporter.cache.facts import CacheFolder
from exporter.cache.folders import folders_of
from exporter.cache.models import Models
from exporter.cache.scanner import Scanner
from exporter.containers.engine import Engine
from exporter.host.gpu import read_gpus, sample_gpus
from exporter.host.gpu_links import read_links, read_render_nodes
from exporter.host.gpu_memory import read_process_memory
from exporter.host.machine import read_machine
from exporter.host.other_gpus import read_other_gpus
from exporter.host.process import read_processes
from exporter.host.rocm import read_rocm
from exporter.schedule import Job
from exporter.settings import Docker, Host, Settings
from exporter.snapshot import (
    CACHE,
    COLLECTOR,
    CONTAINERS,
    GPU,
    GPU_NAMES,
    GPU_SENSORS,
    MACHINE,
    MODEL_FILES,
    PROCESSES,
    ROCM,
    CollectorRun,
    GpuNames,
    ModelFiles,
    Observation,
    ServerProcesses,
    Snapshot,
    cache_key,
    collector_key,
)
from exporter.target_facts import Machine, machine_of, model_paths

log = logging.getLogger(__name__)

# Reading sensors wakes the GPU's controller, so not more often than a dashboard can show.
SENSOR_SECONDS: Final = 15.0
# A collector that takes longer is reported as failed while it still hangs; its next run waits for it.
COLLECTOR_SECONDS: Final = 30.0
# A look at whether a model's file is still the same costs next to nothing; only one that is new is read.
MODEL_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Collected:
    """What one run of a collector gave: observations to publish, whether it worked, and problems that a person should know."""

    observations: tuple[Observation, ...] = ()
    success: bool = True
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Collector:
    """One source of facts. ``every`` is in seconds; ``read`` may raise, and gives None if its run was cancelled."""

    name: str
    every: float
    read: Callable[[], Collected | None]


class Collectors:
    """Runs the collectors that the settings ask for. Thread-safe; ``use`` before anything else, ``stop`` at the end.

    ``changed`` is called after a run that changed what targets are judged by, with what was known before and after it.
    ``run_soon`` runs a job of the schedule by its name.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        settings: Settings,
        *,
        changed: Callable[[Machine, Machine], None],
        run_soon: Callable[[str], object],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._snapshot = snapshot
        self._settings = settings
        self._changed = changed
        self._run_soon = run_soon
        self._monotonic = monotonic
        self._scanner = Scanner()
        self._models = Models()
        self._folders: tuple[CacheFolder, ...] = ()
        self._docker: Docker | None = None
        self._engine = Engine(settings.docker.host)
        self._engine_left = threading.Event()
        self._names: frozenset[str] = frozenset()
        self._running: dict[str, tuple[float, float]] = {}
        """When the runs that have not ended began, in Unix and in monotonic time."""
        self._hanging: set[str] = set()
        self._said: dict[str, tuple[str, ...]] = {}
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def use(self, settings: Settings) -> None:
        """Make these the settings; the series of what they no longer ask for are removed."""
        with self._lock:
            self._settings = settings
            self._follow_engine(settings.docker)
            self._forget_gone()

    def jobs(self) -> Iterator[Job]:
        """One job for each collector; all caches are scanned by one, since a scan waits for the one before."""
        for each in self._rows():
            yield Job(each.name, each.every, partial(self._collect, (each,)), at_once=True)
        yield Job("caches", self._settings.cache.interval, self._scan_caches, at_once=True)

    def report_hanging(self) -> None:
        """Publish a failed run for each collector that hangs: it publishes nothing itself. Call it every few seconds."""
        with self._lock:
            for name, (wall, begun) in self._running.items():
                seconds = self._monotonic() - begun
                if name not in self._names or seconds <= COLLECTOR_SECONDS:
                    continue
                if name not in self._hanging:
                    self._hanging.add(name)
                    log.warning(
                        "collector %s has been running for %.0f s; it counts as failed until it ends", name, seconds
                    )
                self._snapshot.publish(collector_key(name), CollectorRun(False, seconds, wall))

    def stop(self) -> None:
        """Cancel a scan that runs and leave the container engine; waits for nothing."""
        self._stopping.set()
        self._leave_engine()

    # Which there are -------------------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[Collector]:
        settings = self._settings
        host, docker = settings.host, settings.docker
        yield Collector("rocm", host.interval, partial(_read_rocm, host))
        yield Collector("gpu", host.interval, partial(_read_gpus, host))
        yield Collector("sensors", SENSOR_SECONDS, partial(self._read_sensors, host))
        yield Collector("machine", host.interval, partial(_read_machine, host))
        yield Collector("processes", host.interval, partial(self._read_processes, host))
        yield Collector("models", MODEL_SECONDS, self._read_models)
        if docker.enabled is not False:
            yield Collector("containers", settings.discovery.interval, partial(self._read_containers, docker))

    def _caches(self) -> tuple[Collector, ...]:
        every = self._settings.cache.interval
        return tuple(Collector(_name_of(each), every, partial(self._scan, each)) for each in self._folders)

    def _forget_gone(self) -> None:
        """Drop what was read by collectors that are gone."""
        self._names = frozenset({each.name for each in (*self._rows(), *self._caches())})
        self._said = {name: said for name, said in self._said.items() if name in self._names}
        self._snapshot.keep_only(COLLECTOR, {(name,) for name in self._names})
        self._snapshot.keep_only(CACHE, {(folder.name,) for folder in self._folders})
        if "containers" not in self._names:
            self._snapshot.keep_only(CONTAINERS.kind, ())

    # Running ---------------------------------------------------------------------------------------------------------

    def _collect(self, collectors: Iterable[Collector]) -> None:
        """Run collectors one after the other, then report what they read to ``changed``."""
        before = machine_of(self._snapshot.view())
        for each in collectors:
            self._run(each)
        after = machine_of(self._snapshot.view())
        if after != before:
            self._changed(before, after)

    def _run(self, collector: Collector) -> None:
        """Run one collector, timed and classified; an exception in it ends nothing else."""
        name, wall, begun = collector.name, time.time(), self._monotonic()
        with self._lock:
            self._running[name] = wall, begun
        try:
            collected = collector.read()
        except Exception:
            log.exception("collector %s failed", name)
            collected = Collected(success=False, problems=self._said.get(name, ()))
        with self._lock:
            del self._running[name]
            self._hanging.discard(name)
            if collected is None or name not in self._names:
                return  # a reload took it away while it ran, or the exporter stops
            run = CollectorRun(collected.success, self._monotonic() - begun, wall)
            self._snapshot.publish_all((*collected.observations, (collector_key(name), run)))
            if collected.problems != self._said.get(name, ()):
                for problem in collected.problems:
                    log.info("%s: %s", name.replace(":", " "), problem)
            self._said[name] = collected.problems

    # Reading ---------------------------------------------------------------------------------------------------------

    def _read_sensors(self, host: Host) -> Collected:
        before = self._snapshot.view().get(GPU_SENSORS) or ()
        return Collected(((GPU_SENSORS, sample_gpus(host.sysfs, before)),))

    def _read_processes(self, host: Host) -> Collected:
        """The servers among the processes; may hang if one of them hangs in the kernel."""
        reading = read_processes(host.proc)
        names = self._snapshot.view().get(GPU_NAMES) or GpuNames()
        memory = tuple(
            (each.pid, read_process_memory(each.pids, host.proc, host.sysfs, names.links)) for each in reading.processes
        )
        # What is hidden from the exporter is no failure, and the targets that it concerns say so.
        return Collected(((PROCESSES, ServerProcesses(reading, memory)),))

    def _read_models(self) -> Collected | None:
        """The weights of the models that targets run, by their own files; may hang if a filesystem does."""
        by_path = self._models.read(model_paths(self._snapshot.view()), self._stopping)
        if self._stopping.is_set():
            return None
        return Collected(((MODEL_FILES, ModelFiles(by_path, self._models.stamps)),))

    def _read_containers(self, docker: Docker) -> Collected:
        gpus = machine_of(self._snapshot.view()).gpus
        reading = self._engine.read([gpu.gfx_target for gpu in gpus if gpu.gfx_target])
        notes = tuple(f"{each.name}: {note}" for each in reading.containers for note in each.notes)
        # Without an engine that the user asked for, there is nothing to fail.
        return Collected(((CONTAINERS, reading),), reading.available or docker.enabled is None, notes)

    def _scan_caches(self) -> None:
        """Scan the model caches that are there now, one after the other; the series of those that are gone are removed."""
        folders = folders_of(self._settings.cache)
        with self._lock:
            self._folders = folders
            self._forget_gone()
            caches = self._caches()
        self._scanner.forget(folders)
        self._collect(caches)

    def _scan(self, folder: CacheFolder) -> Collected | None:
        facts = self._scanner.scan(folder, cancel=self._stopping)
        if self._stopping.is_set():
            return None
        problems = (facts.error,) if facts.error else facts.problems
        return Collected(((cache_key(folder.name), facts),), facts.error is None, problems)

    # The container engine --------------------------------------------------------------------------------------------

    def _follow_engine(self, docker: Docker) -> None:
        """Follow the events of the engine that the settings name now, and of no other."""
        if docker == self._docker:
            return
        self._leave_engine()
        self._docker, self._engine, self._engine_left = docker, Engine(docker.host), threading.Event()
        if docker.enabled is not False:
            self._engine.watch(self._containers_changed, self._engine_left)

    def _containers_changed(self) -> None:
        self._run_soon("containers")

    def _leave_engine(self) -> None:
        self._engine_left.set()
        self._engine.close()


def _name_of(folder: CacheFolder) -> str:
    return f"cache:{folder.name}"


def _read_rocm(host: Host) -> Collected:
    facts = read_rocm(host.rocm, sysfs=host.sysfs)
    return Collected(((ROCM, facts),), problems=facts.problems)


def _read_gpus(host: Host) -> Collected:
    reading = read_gpus(host.sysfs)
    names = GpuNames(
        read_links(host.sysfs),
        read_other_gpus(host.sysfs, host.proc),
        tuple(sorted(read_render_nodes(host.sysfs).items())),
    )
    # What is hidden from this process (KFD's nodes, in a container) isn't measured; that is no failure.
    return Collected(((GPU, reading), (GPU_NAMES, names)), problems=reading.problems)


def _read_machine(host: Host) -> Collected:
    facts = read_machine(sysfs=host.sysfs, proc=host.proc)
    return Collected(((MACHINE, facts),), problems=facts.problems)
