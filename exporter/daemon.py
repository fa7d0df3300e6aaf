"""The composition root: builds the rooms, starts them, reloads, drains. The only file that knows them all.

The main thread waits for signals and follows the clock. Probes, status checks and collectors run in the scheduler's threads, serving
in uvicorn's thread, and one thread follows the container engine's events.
"""

import gc
import logging
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

from exporter import allocator, systemd
from exporter.cache.facts import CacheFolder
from exporter.cache.folders import folders_of
from exporter.cache.scanner import Scanner
from exporter.containers.engine import Engine
from exporter.discovery import (
    LOCAL_PORTS,
    Candidate,
    Found,
    Survey,
    container_candidates,
    local_candidates,
    survey,
)
from exporter.host.energy import PowerMeter
from exporter.host.gpu import GpuSample, read_gpus, sample_gpus
from exporter.host.rocm import read_rocm
from exporter.metrics import Exposition
from exporter.on_demand import OnDemand, permit_of, refusal_of
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.result import SKIPPED, Measurements, ProbeResult, TargetState
from exporter.probe.run import Prober
from exporter.probe.server import Servers
from exporter.probe.status import Identified, identify
from exporter.schedule import Job, Schedule
from exporter.settings import (
    Docker,
    Host,
    Module,
    Profiles,
    Settings,
    SettingsError,
    Target,
    load_profiles,
    split_listen,
)
from exporter.snapshot import (
    CONTAINERS,
    EXPORTER,
    GPU,
    GPU_SENSORS,
    ROCM,
    CollectorRun,
    ExporterState,
    Key,
    Observation,
    Plan,
    Snapshot,
    View,
    cache_key,
    collector_key,
    info_key,
    judgement_key,
    plan_key,
    probe_key,
    target_key,
)
from exporter.target_facts import (
    Machine,
    container_of,
    info_of,
    is_local,
    judgement_of,
    machine_of,
    target_facts_of,
)
from exporter.tiers import Judgement
from exporter.web.app import Refused, build_app
from exporter.web.auth import Auth, is_loopback, read_rules
from exporter.web.server import WebServer, listen

log = logging.getLogger(__name__)

# A status check is one to three small reads; twice a minute is often enough for a "down" alert of some minutes.
STATUS_SECONDS: Final = 30.0
# Reading sensors wakes the GPU's controller, so not more often than a dashboard can show.
SENSOR_SECONDS: Final = 15.0
# A collector that takes longer is reported as failing while it still hangs; its next run waits for it.
COLLECTOR_SECONDS: Final = 30.0
# How soon a changed password or certificate is noticed; it is used when it has stayed the same for as long.
AUTH_SECONDS: Final = 2.0
SWITCH_SECONDS: Final = 0.0005
TARGET_STATES: Final = ("up", "loading", "down", "unknown")


class Daemon:
    """The running product: ``start``, ``run`` until a signal comes, ``drain``; all from the main thread.

    ``load`` gives the settings, at the start and at each reload; it raises ``SettingsError``. ``listen_on`` overrides their
    address.
    """

    def __init__(self, load: Callable[[], Settings], *, listen_on: str | None = None) -> None:
        self._load = load
        self._settings = load()
        self._profiles = load_profiles(self._settings.profiles_file)
        self._address = listen_on or self._settings.listen
        self._auth = Auth(self._settings.web_config_file, name=split_listen(self._address)[0])
        self._cancellation = Cancellation()
        self._schedule = Schedule(on_beat=self._beat)
        self._servers = Servers()
        self._engine = Engine(self._settings.docker.host)
        self._engine_gone: threading.Event | None = None
        self._docker: Docker | None = None
        self._on_demand = OnDemand(self._probe_once)
        self._watched: dict[str, Prober] = {}
        self._survey = Survey()
        self._surveyed = False
        self._scanner = Scanner()
        self._folders: tuple[CacheFolder, ...] = ()
        self._collecting: dict[str, float] = {}
        self._watts: dict[tuple[str, str], float] = {}
        self._said: dict[str, tuple[str, ...]] = {}
        self._samples: tuple[GpuSample, ...] = ()
        self._changing = threading.RLock()
        self._stop = threading.Event()
        self._reload_wanted = threading.Event()
        self._exporter = ExporterState(reload_success_at_seconds=time.time())
        self._loaded = True
        self._web: WebServer | None = None
        self._exposition = Exposition()
        self.snapshot = Snapshot(watch=self._exposition.prepare)

    # Life ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to serve and to watch; returns when everything runs. Raises ListenError where the port can't be had."""
        allocator.keep_small()
        # A thread whose bytes have arrived gets the interpreter within this time, also beside a scrape of many targets:
        # packets that wait longer are merged by the kernel, and lose their own arrival times.
        sys.setswitchinterval(SWITCH_SECONDS)
        bound = listen(*split_listen(self._address))
        self._apply(self._settings, self._profiles)
        app = self._auth.guard(build_app(self.snapshot, self._exposition.render, self))
        self._web = WebServer(app, bound, tls=self._auth.context)
        self._web.start()
        self._schedule.start()
        self._say_what_comes()
        self._warn_if_open()
        # What is here now stays. Left out of garbage collections, each of the full ones is short: all else waits for them,
        # and they were the longest waits of a scrape and of a probe's reads where targets are many.
        gc.collect()
        gc.freeze()

    def _say_what_comes(self) -> None:
        settings = self._settings
        url = f"{'https' if self._auth.rules.tls else 'http'}://{self._address}"
        log.info("%s/ shows the targets, %s/metrics is for Prometheus", url, url)
        for target in settings.targets:
            modules = ", ".join(f"{name} every {settings.modules[name].interval:g} s" for name in target.modules)
            log.info("target %s at %s: modules %s", target.name, target.url, modules)
        if settings.discovery.local:
            ports = ", ".join(str(port) for port in LOCAL_PORTS)
            log.info("looking for inference servers at the ports %s, every %g s", ports, settings.discovery.interval)

    def _warn_if_open(self) -> None:
        if not self._auth.rules.closed and not is_loopback(split_listen(self._address)[0]):
            log.warning(
                "NO AUTHENTICATION: anyone who can reach %s can read everything that is measured here and reload the configuration."
                " Set web_config_file to a file with basic_auth_users or client certificates, or listen on 127.0.0.1",
                self._address,
            )

    def run(self) -> None:
        """Wait for SIGTERM or SIGINT; reload at SIGHUP. From the main thread, which owns the signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        signal.signal(signal.SIGHUP, lambda *_: self._reload_wanted.set())
        systemd.notify("READY=1")
        while not self._stop.wait(1.0):
            self._schedule.follow_clock()
            if self._reload_wanted.is_set():
                self._reload_wanted.clear()
                self.reload()

    def drain(self) -> None:
        """Cancel the running probes and stop serving; bounded to some seconds whatever hangs."""
        systemd.notify("STOPPING=1")
        self._stop.set()
        self._cancellation.cancel()
        self._schedule.stop()
        self._leave_engine()
        if self._web is not None:
            self._web.stop()

    # Actions ---------------------------------------------------------------------------------------------------------

    def reload(self) -> tuple[str, ...]:
        """Validate, then swap. Returns what is wrong; then nothing has changed."""
        with self._changing:
            try:
                settings = self._load()
                profiles = load_profiles(settings.profiles_file)
                rules = read_rules(settings.web_config_file)
            except SettingsError as exc:
                errors = tuple(str(problem) for problem in exc.errors)
                log.error("the configuration is not reloaded: %s", "; ".join(errors))  # noqa: TRY400 - the user's mistake
                self._loaded = False
                self._publish_exporter()
                return errors
            self._loaded = True
            self._exporter = replace(self._exporter, reload_success_at_seconds=time.time())
            was_closed = self._auth.rules.closed
            self._auth.use(settings.web_config_file, rules)
            self._apply(settings, profiles)
            if was_closed:
                self._warn_if_open()
            log.info("the configuration is reloaded: %d targets", len(self._watched))
            return ()

    def probe(self, target: str, module: str) -> ProbeResult | Refused:
        """One probe of an allowed address, shared by all that ask within its interval."""
        settings = self._settings
        if module not in settings.modules:
            return Refused(f"there is no module {module!r}: the configuration has {', '.join(settings.modules)}")
        if (why := refusal_of(target, settings.probe_endpoint.allow)) is not None:
            return Refused(why)
        return self._on_demand.probe(target, module, settings.modules[module]) or Refused("the exporter stops")

    def _probe_once(self, target: Target, name: str, module: Module) -> ProbeResult | None:
        permit = permit_of(target.url, self._settings.probe_endpoint.allow)
        server = self._servers.at(target.url)
        return Prober(target, server=server, cancellation=self._cancellation, permit=permit).probe(name, module)

    def healthy(self) -> tuple[bool, str]:
        """Whether the scheduler beats."""
        if self._schedule.alive():
            return True, "The scheduler runs."
        return False, "The scheduler has not run for a while: nothing is probed."

    def ready(self) -> tuple[bool, str]:
        """Whether every module of every target ran or was skipped once."""
        records = self.snapshot.view().records
        waiting = sorted({target for (target, _), record in records.items() if record.last is None})
        if waiting:
            return False, f"Not probed yet: {', '.join(waiting)}"
        return True, f"Every target was probed: {len(self._watched)}"

    # What is watched -------------------------------------------------------------------------------------------------

    def _apply(self, settings: Settings, profiles: Profiles) -> None:
        """Make these the settings: targets that stay keep their prober and their counters, others come and go."""
        with self._changing:
            self._settings, self._profiles = settings, profiles
            before, self._watched = self._watched, {}
            for target in (*settings.targets, *map(_target_of, self._survey.found)):
                kept = before.get(target.name)
                # The user's own name for something wins over the same one for something found.
                self._watched.setdefault(target.name, kept if kept and kept.target == target else self._prober(target))
            for prober in self._watched.values():
                self._announce(prober.target)
            self._follow_engine(settings.docker)
            self._retain()
            self._schedule.replace(self._jobs())
            self._publish_exporter()

    def _follow_engine(self, docker: Docker) -> None:
        """Follow the events of the engine that the settings name now, and of no other."""
        if docker == self._docker:
            return
        self._leave_engine()
        self._docker, self._engine = docker, Engine(docker.host)
        if docker.enabled is False:
            self.snapshot.retain(lambda key: key != CONTAINERS)
        else:
            self._engine_gone = threading.Event()
            self._engine.watch(self._look_at_containers_soon, self._engine_gone)

    def _leave_engine(self) -> None:
        if self._engine_gone is not None:
            self._engine_gone.set()
        self._engine.close()

    def _prober(self, target: Target) -> Prober:
        return Prober(target, server=self._servers.at(target.url), cancellation=self._cancellation)

    def _announce(self, target: Target) -> None:
        """Publish what is known before the first probe: the plan, the thresholds, the identity as configured."""
        for name in target.modules:
            module = self._settings.modules[name]
            self.snapshot.publish(plan_key(target.name, name), Plan(module.interval, module.concurrency))
        self._describe(target)

    def _retain(self) -> None:
        """Drop what belongs to targets, modules and caches that are gone."""
        pairs = {(name, module) for name, prober in self._watched.items() for module in prober.target.modules}
        collectors = {job.name for job in self._collectors()} | {f"cache:{folder.name}" for folder in self._folders}
        self._watts = {pair: watts for pair, watts in self._watts.items() if pair in pairs}

        def keep(key: Key[Any]) -> bool:
            match key.kind:
                case "plan" | "probe" | "judgement":
                    return key.names in pairs
                case "target" | "info":
                    return key.names[0] in self._watched
                case "cache":
                    return f"cache:{key.names[0]}" in collectors
                case "collector":
                    return key.names[0] in collectors
                case _:
                    return True

        self.snapshot.retain(keep)

    def _jobs(self) -> Iterator[Job]:
        settings = self._settings
        for name, prober in self._watched.items():
            intervals = [settings.modules[each].interval for each in prober.target.modules]
            yield Job(f"status:{name}", min(STATUS_SECONDS, *intervals), partial(self._check_status, name))
            for module, interval in zip(prober.target.modules, intervals, strict=True):
                yield Job(f"probe:{name}:{module}", interval, partial(self._probe, name, module))
        if settings.discovery.local or settings.discovery.docker:
            yield Job("discovery", settings.discovery.interval, self._discover, at_once=True)
        if settings.web_config_file is not None:
            yield Job("auth", AUTH_SECONDS, self._refresh_auth)
        yield from self._collectors()

    def _collectors(self) -> Iterator[Job]:
        """The jobs that read facts of the machine; all but the caches, of which each scan is one, are one collector each."""
        settings = self._settings
        host, every = settings.host, settings.host.interval
        yield self._collector("rocm", every, lambda: self._read_rocm(host))
        yield self._collector("gpu", every, lambda: self._read_gpus(host))
        yield self._collector("sensors", SENSOR_SECONDS, lambda: self._read_sensors(host))
        yield Job("caches", settings.cache.interval, self._scan_caches, at_once=True)
        if settings.docker.enabled is not False:
            yield self._collector("containers", settings.discovery.interval, self._read_containers)

    def _collector(self, name: str, every: float, read: Callable[[], bool]) -> Job:
        return Job(name, every, partial(self._collect, name, read), at_once=True)

    # Probes ----------------------------------------------------------------------------------------------------------

    def _probe(self, name: str, module_name: str) -> None:
        prober, module = self._watched.get(name), self._settings.modules.get(module_name)
        if prober is None or module is None or not prober.due(module_name, module):
            return
        meter = self._power_meter(prober.target)
        try:
            result = prober.probe(module_name, module)
        finally:
            if meter is not None:
                meter.stop()
        if result is not None:
            self._note_power((name, module_name), result, meter)
            self._publish(result)
            _log_result(result)

    def _check_status(self, name: str) -> None:
        prober = self._watched.get(name)
        state = prober.status() if prober else None
        if prober and state:
            self.snapshot.publish(target_key(name), state)
            self._describe(prober.target)

    def _publish(self, result: ProbeResult) -> None:
        """Publish a probe together with its judgement, so that no scrape sees one without the other."""
        prober = self._watched.get(result.target)
        if prober is None:
            return
        observations: list[Observation] = [(probe_key(result.target, result.module), result)]
        if result.result not in SKIPPED:
            figures = result.measurements if result.result == "ok" else None
            key = judgement_key(result.target, result.module)
            observations.append((key, self._judge(prober.target, result.module, figures, result.state)))
        self.snapshot.publish_all(observations)
        self._describe(prober.target)

    def _describe(self, target: Target) -> None:
        """Publish who a target is and how good it is, from the newest facts of all rooms."""
        view = self.snapshot.view()
        state = view.get(target_key(target.name))
        machine, identity = self._machine(), state.identity if state else None
        known = target_facts_of(target, identity, machine)
        info = info_of(target, identity, known, machine, self._profiles)
        observations: list[Observation] = [(info_key(target.name), info)]
        for module in target.modules:
            record = view.records.get((target.name, module))
            judgement = self._judge(target, module, record.figures if record else None, state)
            observations.append((judgement_key(target.name, module), judgement))
        self.snapshot.publish_all(observations)

    def _judge(self, target: Target, module: str, figures: Measurements | None, state: TargetState | None) -> Judgement:
        known = target_facts_of(target, state.identity if state else None, self._machine())
        watts = self._watts.get((target.name, module))
        return judgement_of(target, known, figures, self._profiles, decode_watts=watts)

    def _machine(self) -> Machine:
        return machine_of(self.snapshot.view())

    def _power_meter(self, target: Target) -> PowerMeter | None:
        """A running meter of the GPU that serves a target, where that is known and on this machine."""
        machine = self._machine()
        if len(machine.gpus) != 1 or not is_local(target.url, container_of(target.url, machine.containers)):
            return None
        meter = PowerMeter(self._settings.host.sysfs, machine.gpus[0].address)
        meter.start()
        return meter

    def _note_power(self, pair: tuple[str, str], result: ProbeResult, meter: PowerMeter | None) -> None:
        if result.result in SKIPPED:
            return
        spans = [(line.chunks[0].at_ns, line.chunks[-1].at_ns) for line in result.timelines if line.chunks]
        watts = meter.mean_watts(min(spans)[0], max(end for _, end in spans)) if meter and spans else None
        self._watts.pop(pair, None)
        if watts is not None:
            self._watts[pair] = watts

    # Discovery -------------------------------------------------------------------------------------------------------

    def _discover(self) -> None:
        """Look for servers that nobody named; what is new becomes a target, what is gone leaves."""
        settings, before = self._settings, self._survey
        taken = [target.url for target in settings.targets]
        found = survey(self._candidates(settings), taken, before, self._ask, time.time())
        with self._changing:
            if self._settings is not settings:
                return  # reloaded meanwhile: the next round knows the new settings
            self._survey = found
            if not (self._surveyed or found.found or settings.targets):
                log.info("no inference server was found yet: one that starts later will be found")
            self._surveyed = True
            if [_target_of(each) for each in found.found] != [_target_of(each) for each in before.found]:
                _log_survey(before, found)
                self._apply(self._settings, self._profiles)

    def _candidates(self, settings: Settings) -> Iterator[Candidate]:
        if settings.discovery.docker:
            yield from container_candidates(self._machine().containers)
        if settings.discovery.local:
            yield from local_candidates(own_port=split_listen(self._address)[1])

    def _ask(self, url: str) -> Identified:
        return identify(url, cancellation=self._cancellation)

    # Facts of the machine --------------------------------------------------------------------------------------------

    def _collect(self, name: str, read: Callable[[], bool]) -> None:
        """Run one collector, timed and classified; whatever it raises takes nothing else down."""
        started, begun = time.time(), time.monotonic()
        self._collecting[name] = begun
        try:
            success = read()
        except Exception:
            log.exception("collector %s failed", name)
            success = False
        finally:
            self._collecting.pop(name, None)
        self.snapshot.publish(collector_key(name), CollectorRun(success, time.monotonic() - begun, started))

    def _report_hanging(self) -> None:
        """A collector that hangs publishes nothing itself, so the beat says it."""
        for name, begun in tuple(self._collecting.items()):
            if (seconds := time.monotonic() - begun) > COLLECTOR_SECONDS:
                self.snapshot.publish(collector_key(name), CollectorRun(False, seconds, time.time() - seconds))

    def _read_rocm(self, host: Host) -> bool:
        facts = read_rocm(host.rocm, sysfs=host.sysfs)
        self.snapshot.publish(ROCM, facts)
        self._say_once("rocm", facts.problems)
        return True

    def _read_gpus(self, host: Host) -> bool:
        reading = read_gpus(host.sysfs)
        self.snapshot.publish(GPU, reading)
        self._describe_all()
        # What is hidden from this process (KFD's nodes, in a container) isn't measured; that is no failure.
        self._say_once("gpu", reading.problems)
        return True

    def _read_sensors(self, host: Host) -> bool:
        self._samples = sample_gpus(host.sysfs, self._samples)
        self.snapshot.publish(GPU_SENSORS, self._samples)
        return True

    def _read_containers(self) -> bool:
        gpus = self._machine().gpus
        reading = self._engine.read([gpu.gfx_target for gpu in gpus if gpu.gfx_target])
        notes = [f"{each.name}: {note}" for each in reading.containers for note in each.notes]
        self._say_once("containers", tuple(notes))
        before = self._machine().containers
        self.snapshot.publish(CONTAINERS, reading)
        self._describe_all()
        if self._machine().containers != before:
            # A container that came or went is a target to find or to drop, within seconds.
            self._schedule.run_soon("discovery")
        # Without an engine that anyone asked for, there is nothing to fail.
        return reading.available or self._settings.docker.enabled is None

    def _scan_caches(self) -> None:
        """Scan the model caches that are there now, one after the other; those that are gone take their series with them."""
        folders = folders_of(self._settings.cache)
        with self._changing:
            self._folders = folders
            self._scanner.forget(folders)
            self._retain()
        for folder in folders:
            self._collect(f"cache:{folder.name}", partial(self._scan, folder))
        self._describe_all()

    def _scan(self, folder: CacheFolder) -> bool:
        facts = self._scanner.scan(folder, cancel=self._stop)
        if not self._stop.is_set():
            self.snapshot.publish(cache_key(folder.name), facts)
            self._say_once(f"cache {folder.name}", (facts.error,) if facts.error else facts.problems)
        return facts.error is None

    def _say_once(self, collector: str, problems: tuple[str, ...]) -> None:
        if problems != self._said.get(collector, ()):
            for problem in problems:
                log.info("%s: %s", collector, problem)
        self._said[collector] = problems

    def _look_at_containers_soon(self) -> None:
        self._schedule.run_soon("containers")

    def _describe_all(self) -> None:
        for prober in tuple(self._watched.values()):
            self._describe(prober.target)

    # The exporter itself -----------------------------------------------------------------------------------------------

    def _refresh_auth(self) -> None:
        with self._changing:
            before = self._auth.problems
            if self._auth.refresh() != before:
                self._publish_exporter()

    def _beat(self) -> None:
        if self._web is None or self._web.alive:
            # Whoever can't be scraped any more is no use alive.
            systemd.notify("WATCHDOG=1")
        self._report_hanging()
        self._publish_exporter()
        systemd.notify(f"STATUS={systemd.in_words(self._exporter.targets_by_state)}")

    def _publish_exporter(self) -> None:
        view = self.snapshot.view()
        states = Counter(_state_of(view, name) for name in tuple(self._watched))
        self._exporter = replace(
            self._exporter,
            reload_successful=self._loaded and not self._auth.problems,
            schedule_delay_seconds=self._schedule.delay_seconds,
            minimum_rocm=self._settings.host.minimum_rocm or self._profiles.rocm.minimum,
            targets_by_state=tuple((state, states[state]) for state in TARGET_STATES),
        )
        self.snapshot.publish(EXPORTER, self._exporter)


def _target_of(found: Found) -> Target:
    return Target(name=found.name, url=found.url)


def _state_of(view: View, name: str) -> str:
    state = view.get(target_key(name))
    if state is None:
        return "unknown"
    return "loading" if state.loading else "up" if state.up else "down"


def _log_result(result: ProbeResult) -> None:
    speed, ttft = result.measurements.tokens_per_second, result.measurements.ttft_seconds
    figures = [f"{speed:.2f} tok/s" if speed else "", f"TTFT {ttft:.3f} s" if ttft else "", result.error]
    level = logging.INFO if result.result == "ok" or result.result in SKIPPED else logging.WARNING
    told = ", ".join(each for each in figures if each)
    log.log(level, "probe of %s by %s: %s%s", result.target, result.module, result.result, told and f": {told}")


def _log_survey(before: Survey, after: Survey) -> None:
    known = {each.name for each in before.found}
    for each in after.found:
        if each.name not in known:
            found = (each.identity.backend, each.url, each.why)
            log.info("found %s at %s (%s): the target %s, probed from now on", *found, each.name)
    for name in known - {each.name for each in after.found}:
        log.info("%s is gone: it is no target any more", name)
