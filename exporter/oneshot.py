"""What a person asks for at a prompt, done now and once: measure servers, look for them, look at caches. No schedule."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from exporter import report
from exporter.address import address_of
from exporter.advice import AdviceFacts, Case, advise_target, model_on
from exporter.cache.facts import CacheFacts, CacheFolder
from exporter.cache.folders import find_compile_caches, folders_of, own_home
from exporter.cache.models import Models
from exporter.cache.scanner import Scanner
from exporter.cache.verify import Blob, Checked, find_blobs, verify
from exporter.containers.engine import Engine
from exporter.containers.facts import EngineReading
from exporter.discovery import (
    OtherAddress,
    Survey,
    container_candidates,
    local_candidates,
    process_candidates,
    survey,
)
from exporter.host.gpu import read_gpus, sample_gpus
from exporter.host.gpu_links import read_links, read_render_nodes
from exporter.host.gpu_memory import read_process_memory
from exporter.host.machine import read_machine as read_facts
from exporter.host.other_gpus import read_other_gpus
from exporter.host.process import read_processes
from exporter.host.rocm import read_rocm
from exporter.machine_report import Findings, ServerReport
from exporter.probe.dialects.dialect import Hints
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.prober import Prober
from exporter.probe.result import Identity, ProbeResult
from exporter.probe.status import Identified, identify
from exporter.report import Report
from exporter.settings import (
    Problem,
    Profiles,
    Settings,
    SettingsError,
    Target,
    check_url,
    load,
    load_profiles,
    make_target,
    prompt_url,
    split_listen,
)
from exporter.snapshot import GpuNames, ModelFiles, ServerProcesses, TargetInfo
from exporter.target_facts import (
    Machine,
    connections_to,
    info_of,
    judged_figures,
    judgement_of,
    paths_of,
    setup_of,
    target_facts_of,
)
from exporter.tiers import Judgement

# Somebody waits at a prompt: an engine that doesn't answer by then is left out.
ENGINE_SECONDS = 1.0


class Session:
    """Settings, profiles and one module of them, to measure servers with.

    Raises SettingsError if the settings are wrong or have no such module.
    """

    def __init__(self, config: Path | None, module: str, *, may_load: bool = False) -> None:
        self.settings = load(config, os.environ)
        self.profiles = load_profiles(self.settings.profiles_file)
        self.cancellation = Cancellation()
        self._models = Models()
        if module not in self.settings.modules:
            known = ", ".join(self.settings.modules)
            raise SettingsError([Problem("", f"there is no module {module!r} (known: {known})", "--module")])
        self.name = module
        # A person who asks for a probe wants it now, but does not expect it to evict a model.
        changes = {"when_busy": "probe", **({"when_unloaded": "load"} if may_load else {})}
        self.module = self.settings.modules[module].model_copy(update=changes)

    def target(self, url: str, **given: str | None) -> Target:
        """A target to probe: the configured one with this name or URL, changed by what is given, or a new one."""
        said: Mapping[str, Any] = {key: value for key, value in given.items() if value is not None}
        address = _normal(prompt_url(url))
        named = [known for known in self.settings.targets if known.name == url]
        for known in (*named, *(each for each in self.settings.targets if each.url == address)):
            return make_target(**{**known.model_dump(), **said})
        names = ", ".join(known.name for known in self.settings.targets)
        if names and "://" not in prompt_url(url):
            raise SettingsError(
                [Problem("", f"no target is named {url!r}, and it is no URL (targets: {names})", "URL")]
            )
        return make_target(url=prompt_url(url), **said)

    def is_named(self, name: str) -> bool:
        """Whether a target of the configuration has this name."""
        return any(known.name == name for known in self.settings.targets)

    def measure(self, targets: Sequence[Target], count: int, step: Callable[[int, str], None]) -> list[Report]:
        """Probe the targets alternately, that many times; a report for each.

        ``step`` is called before each probe with the number of those that are done and with what comes. A cancellation ends
        it: the reports are then of what was measured before. Raises KeyboardInterrupt if a target has nothing yet.
        """
        machine = read_machine(self.settings)
        probers = [Prober(target, cancellation=self.cancellation, by_hand=True) for target in targets]
        for prober in probers:
            prober.add_hints(connected=connections_to(prober.target.url, machine, self.settings.host.proc))
        reports: list[list[Report]] = [[] for _ in targets]
        turns = [each for _ in range(count) for each in zip(probers, reports, strict=True)]
        for done, (prober, found) in enumerate(turns):
            result = self._probe(prober, partial(step, done))
            if result is None:
                break
            machine = self._with_model(prober.target, result, machine)
            found.append(self._report(prober.target, result, machine))
        if not all(reports):
            raise KeyboardInterrupt
        return [
            report.combined(found, target.tiers or self.profiles.tiers) if count > 1 else found[0]
            for target, found in zip(targets, reports, strict=True)
        ]

    def _probe(self, prober: Prober, step: Callable[[str], None]) -> ProbeResult | None:
        """One probe, and a second one if the model had to be loaded first; None after a cancellation."""
        step(prober.target.url)
        result = prober.probe(self.name, self.module)
        if result is not None and result.result == "ok" and result.cold_start:
            step(f"{prober.target.url} again: its model had to be loaded first")
            result = prober.probe(self.name, self.module)
        return result

    def _with_model(self, target: Target, result: ProbeResult, machine: Machine) -> Machine:
        """The machine with the weights that a server of it runs: its own file, else all caches, which takes longer."""
        identity = result.state.identity if result.state else None
        if not setup_of(target.url, machine).local:
            return machine
        paths = paths_of(target.url, identity, machine)
        machine = replace(machine, models=ModelFiles(self._models.read(paths)))
        known = target_facts_of(target, identity, machine)
        if known.weights.streamed_bytes is None and not machine.caches:
            machine = replace(machine, caches=tuple(scan_caches(folders_of(self.settings.cache))))
        return machine

    def _report(self, target: Target, result: ProbeResult, machine: Machine) -> Report:
        identity = result.state.identity if result.state else None
        known = target_facts_of(target, identity, machine, result.state)
        judgement = judgement_of(target, known, judged_figures(result), self.profiles)
        info = info_of(target, identity, known, machine, self.profiles)
        return report.report_of(
            result, target.url, judgement, info, advise_target(self._case(result, info, judgement, machine))
        )

    def _case(self, result: ProbeResult, info: TargetInfo, judgement: Judgement, machine: Machine) -> Case:
        """All that advice looks at. The machine's own setup is read if it is this machine's GPU that serves."""
        container = next((each for each in machine.containers if info.container and each.name == info.container), None)
        facts = None
        if info.gpus:
            host = self.settings.host
            gpus = tuple(gpu for gpu in machine.gpus if gpu.address in info.gpus)
            driver = read_rocm(host.rocm, sysfs=host.sysfs).driver
            facts = AdviceFacts(
                read_facts(sysfs=host.sysfs, proc=host.proc),
                gpus,
                model_on(info.gpus, info.weight_bytes),
                driver.source if driver else None,
            )
        return Case(
            info,
            judgement,
            result,
            state=result.state,
            container=container,
            machine=facts,
            samples=tuple(sample for sample in machine.samples if sample.address in info.gpus),
        )


def _normal(url: str) -> str | None:
    try:
        return check_url(url)
    except ValueError:
        return None


def read_engine(settings: Settings, gfx_targets: Sequence[str] = ()) -> EngineReading:
    """The containers of this machine; unavailable if the settings say not to look."""
    if settings.docker.enabled is False:
        return EngineReading(available=False, problem="the configuration says docker: {enabled: false}")
    return Engine(settings.docker.host, timeout_seconds=ENGINE_SECONDS).read(gfx_targets)


def read_machine(settings: Settings, *, containers: bool = True) -> Machine:
    """The GPUs, the containers and the server processes of this machine, which decide what to expect of a server on it."""
    sysfs, proc = settings.host.sysfs, settings.host.proc
    gpus = read_gpus(sysfs).gpus
    targets = [gpu.gfx_target for gpu in gpus if gpu.gfx_target]
    engine = read_engine(settings, targets) if containers else EngineReading(available=False)
    links, reading = read_links(sysfs), read_processes(proc)
    memory = tuple((each.pid, read_process_memory(each.pids, proc, sysfs, links)) for each in reading.processes)
    return Machine(
        gpus=gpus,
        containers=engine.containers,
        names=GpuNames(links, read_other_gpus(sysfs, proc), tuple(sorted(read_render_nodes(sysfs).items()))),
        processes=ServerProcesses(reading, memory),
        samples=sample_gpus(sysfs),
    )


def read_findings(settings: Settings) -> Findings:
    """All that is known of this machine and its servers, by files and the container engine; asks no server."""
    host, profiles = settings.host, load_profiles(settings.profiles_file)
    with ThreadPoolExecutor(2) as pool:
        # The engine may take as long as it is given; all else is read meanwhile.
        asked = pool.submit(read_engine, settings)
        rocm = pool.submit(read_rocm, host.rocm, sysfs=host.sysfs)
        facts = read_facts(sysfs=host.sysfs, proc=host.proc)
        machine = read_machine(settings, containers=False)
        engine = asked.result()
    machine = replace(machine, containers=engine.containers)
    servers = tuple(_servers_of(settings, machine, profiles))
    return Findings(machine, facts, rocm.result(), engine, servers)


def _servers_of(settings: Settings, machine: Machine, profiles: Profiles) -> Iterator[ServerReport]:
    """The servers that were seen to run, containers first; a process in one of them is not another."""
    places: list[tuple[str, str, int | None, str]] = [
        (each.urls[0].url, each.backend, address_of(each.urls[0].url)[1], each.image)
        for each in machine.containers
        if each.running and each.backend and each.urls
    ]
    inside = {each.id for each in machine.containers}
    places += [
        (f"http://127.0.0.1:{each.port}", each.launch.backend, each.port, "")
        for each in machine.processes.reading.processes
        if each.port and each.container not in inside
    ]
    models = Models()
    for url, backend, port, image in places:
        configured = (target for target in settings.targets if address_of(target.url) == address_of(url))
        target = next(configured, None) or Target(url=url, name=f"{backend}:{port}")
        setup = setup_of(url, machine)
        identity = Identity(backend, model=next((each.model for each in setup.launches if each.model), None))
        with_model = replace(machine, models=ModelFiles(models.read(paths_of(url, identity, machine))))
        known = target_facts_of(target, identity, with_model)
        info = info_of(target, identity, known, with_model, profiles)
        judgement = judgement_of(target, known, None, profiles)
        yield ServerReport(info, judgement, port, image, known.weights.bytes)


def findings_about(settings: Settings, url: str) -> tuple[Findings | None, ServerReport | None]:
    """What is known of the machine that a server runs on, and of the server; None for a machine that is not this one."""
    found = read_findings(settings)
    if not setup_of(url, found.machine).local:
        return None, None
    port = address_of(url)[1]
    return found, next((each for each in found.servers if each.port == port), None)


def survey_machine(settings: Settings) -> tuple[Survey, str]:
    """One round of discovery by reads that cost a server nothing, and why containers were not looked at (or empty)."""
    engine, own_port, proc = read_engine(settings), split_listen(settings.listen)[1], settings.host.proc
    reading = read_processes(proc)
    processes = reading.processes
    machine = Machine(containers=engine.containers, processes=ServerProcesses(reading))
    candidates = [
        *container_candidates(engine.containers),
        *process_candidates(processes, engine.containers, own_port),
        *local_candidates(own_port=own_port),
    ]
    now, taken = time.time(), [target.url for target in settings.targets]

    def ask(url: str) -> Identified:
        return identify(url, hints=Hints(connected=connections_to(url, machine, proc)))

    found = survey(candidates, taken, Survey(), ask, now)
    unreachable = [(each.name, note) for each in engine.containers if not each.urls for note in each.notes]
    seen = (
        *found.seen,
        *(OtherAddress(f"container {name}", note, listening=True, at=now) for name, note in unreachable),
    )
    return replace(found, seen=seen), "" if engine.available else engine.problem


def cache_folders(settings: Settings) -> tuple[CacheFolder, ...]:
    """The configured caches; or those that this machine has, with those of compiled code."""
    models = folders_of(settings.cache)
    return models if settings.cache.paths is not None else (*models, *find_compile_caches(os.environ, own_home()))


def scan_caches(folders: Sequence[CacheFolder]) -> Iterator[CacheFacts]:
    """Scan one cache after the other, at normal priority, since somebody waits."""
    scanner = Scanner(niceness=0)
    return (scanner.scan(folder) for folder in folders)


def blobs_of(folders: Sequence[CacheFolder]) -> tuple[Blob, ...]:
    """The files of all caches that can be verified; a cache that can't be read has none."""
    found: dict[str, Blob] = {}
    for folder in folders:
        try:
            found.update((blob.path, blob) for blob in find_blobs(folder))
        except OSError:
            continue  # its scan says why
    return tuple(found.values())


def verify_blobs(blobs: Sequence[Blob], progress: Callable[[int], object]) -> Iterator[Checked]:
    """Hash one file after the other; ``progress`` gets the bytes read since its last call."""
    return (verify(blob, progress) for blob in blobs)
