"""The watch list: which servers are probed and when, and what follows from each result.

Targets are those of the settings and those that discovery has found. One that stays keeps its prober, and with it the
pace and the knowledge of its server, over reloads.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from exporter.discovery import (
    LOCAL_PORTS,
    Found,
    ServerCandidate,
    Survey,
    container_candidates,
    local_candidates,
    process_candidates,
    survey,
)
from exporter.history.change import Ledger
from exporter.history.compare import BACKEND, MODEL, QUANTIZATION
from exporter.history.record import Plan
from exporter.history.shift import DECODE
from exporter.host.energy import PowerMeter
from exporter.ledgers import Ledgers
from exporter.probe.answer import FAULTS
from exporter.probe.dialects.dialect import Hints
from exporter.probe.fingerprint_memory import Fingerprints
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.prober import Prober
from exporter.probe.result import NOT_AN_ANSWER, SKIPPED, Identity, Measurements, ProbeResult, TargetState
from exporter.probe.server import Servers
from exporter.probe.speeds import Speeds
from exporter.probe.status import Identified, identify
from exporter.schedule import Job
from exporter.settings import Profiles, Settings, Target
from exporter.snapshot import (
    RECORD,
    Observation,
    Snapshot,
    View,
    info_key,
    judgement_key,
    ledger_key,
    plan_key,
    probe_key,
    service_key,
    target_key,
)
from exporter.starting import Silence, probe_of_starting, silence_of, starting_since, with_start
from exporter.target_facts import (
    SERVER_COLLECTORS,
    Machine,
    connections_to,
    hints_of,
    info_of,
    judged_figures,
    judgement_of,
    machine_of,
    paths_of,
    service_of,
    serving_of,
    starts_of,
    target_facts_of,
)
from exporter.text import seconds_text, speed_text
from exporter.watched_facts import figures_beside, watched_facts

log = logging.getLogger(__name__)

# A status check is one to three small reads; twice a minute is often enough for a "down" alert of some minutes.
STATUS_SECONDS: Final = 30.0
# Ollamas that are given back their keep-alive at once when the program ends.
GIVING_AT_ONCE: Final = 16
TARGET_STATES: Final = ("up", "loading", "down", "unknown")


@dataclass(eq=False, slots=True)
class Watched:
    """One target on the list.

    ``watts`` is the mean power of its GPU while the newest probe of each module decoded, if that was measured.
    ``publishing`` is held while its observations are made and published, so that no older ones replace newer ones.
    ``silence`` is how long it has not answered.
    """

    prober: Prober
    watts: dict[str, float] = field(default_factory=dict)
    publishing: threading.Lock = field(default_factory=threading.Lock)
    silence: Silence | None = None

    @property
    def target(self) -> Target:
        """As the settings or discovery gave it."""
        return self.prober.target


class Targets:
    """Probes the targets and publishes what follows. Thread-safe; ``use`` before anything else.

    ``changed`` is called when discovery has changed the list, from a thread of the schedule, ``models_changed`` when a target
    runs another model's file. ``own_port`` is the port of the exporter itself, at which no server is looked for.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        settings: Settings,
        profiles: Profiles,
        *,
        servers: Servers,
        cancellation: Cancellation,
        own_port: int,
        changed: Callable[[], None],
        models_changed: Callable[[], object] = lambda: None,
        ledgers: Ledgers | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._settings = settings
        self._profiles = profiles
        self._servers = servers
        self._cancellation = cancellation
        self._own_port = own_port
        self._changed = changed
        self._models_changed = models_changed
        self._ledgers = ledgers or Ledgers()
        self._watched: dict[str, Watched] = {}
        self._survey = Survey()
        self._surveyed = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._watched)

    def use(self, settings: Settings, profiles: Profiles) -> None:
        """Make these the settings: targets that stay keep their prober and their counters, others come and go."""
        with self._lock:
            self._settings, self._profiles = settings, profiles
            self._watch()

    def jobs(self) -> Iterator[Job]:
        """For each target a status check and a probe by each of its modules, and the search for more targets."""
        settings = self._settings
        for name, watched in tuple(self._watched.items()):
            modules = watched.target.modules
            intervals = {each: settings.modules[each].interval for each in modules}
            yield Job(f"status:{name}", min(STATUS_SECONDS, *intervals.values()), partial(self.check_status, name))
            short = [interval for each, interval in intervals.items() if settings.modules[each].depth is None]
            for module, interval in intervals.items():
                # A canary may take a minute of a slow server: the speed is known before it.
                after = (
                    min(interval, 2 * min(short, default=0.0)) if settings.modules[module].depth is not None else 0.0
                )
                yield Job(f"probe:{name}:{module}", interval, partial(self.probe, name, module), after=after)
        if settings.discovery.local or settings.discovery.docker:
            yield Job("discovery", settings.discovery.interval, self.discover, at_once=True)

    def states(self) -> tuple[tuple[str, int], ...]:
        """How many targets are in each of ``TARGET_STATES``."""
        view = self._snapshot.view()
        counts = Counter(_state_of(view, name) for name in tuple(self._watched))
        return tuple((state, counts[state]) for state in TARGET_STATES)

    def judge(self) -> None:
        """Judge every target again: facts of the machine have changed."""
        for watched in tuple(self._watched.values()):
            self._publish(watched)

    def accept(self, name: str | None = None) -> tuple[str, ...]:
        """Take the speeds of now for the usual ones, of one target or of all; the names of those."""
        chosen = [each for each in tuple(self._watched.values()) if name in {None, each.target.name}]
        for each in chosen:
            with each.publishing:
                ledger = self._ledgers.accept(each.target.name, time.time())
                self._snapshot.publish(ledger_key(each.target.name), ledger)
        return tuple(each.target.name for each in chosen)

    def give_back(self) -> None:
        """Undo what probes did to the time that models stay in memory; for the end of the program, bounded to some seconds."""
        probers = [each.prober for each in tuple(self._watched.values()) if each.prober.owes]
        if probers:
            with ThreadPoolExecutor(min(len(probers), GIVING_AT_ONCE)) as pool:
                list(pool.map(Prober.give_back, probers))

    def log_plan(self) -> None:
        """Log what will be probed and where servers are looked for."""
        settings = self._settings
        for target in settings.targets:
            modules = ", ".join(f"{name} every {settings.modules[name].interval:g} s" for name in target.modules)
            log.info("target %s at %s: modules %s", target.name, target.url, modules)
        if settings.discovery.local:
            ports = ", ".join(str(port) for port in LOCAL_PORTS)
            log.info("looking for inference servers on the ports %s, every %g s", ports, settings.discovery.interval)

    # Jobs ------------------------------------------------------------------------------------------------------------

    def probe(self, name: str, module_name: str) -> None:
        """Probe a target by a module if it is due, and publish the result."""
        watched, module = self._watched.get(name), self._settings.modules.get(module_name)
        if watched is None or module is None or not watched.prober.due(module_name, module):
            return
        meter = self._power_meter(watched.target)
        try:
            result = watched.prober.probe(module_name, module)
        finally:
            if meter is not None:
                meter.stop()
        if result is not None:
            _note_power(watched, result, meter)
            _log_result(self._publish(watched, result=result) or result)

    def check_status(self, name: str) -> None:
        """Ask a target what it says of itself, and publish that."""
        watched = self._watched.get(name)
        state = watched.prober.status() if watched else None
        if watched and state:
            self._publish(watched, state=state)

    def discover(self) -> None:
        """Look for servers that nobody named; what is new becomes a target, what is gone leaves."""
        settings, before = self._settings, self._survey
        taken = [target.url for target in settings.targets]
        machine = machine_of(self._snapshot.view())

        def ask(url: str) -> Identified:
            hints = Hints(connected=connections_to(url, machine, settings.host.proc))
            return identify(url, cancellation=self._cancellation, hints=hints)

        after = survey(self._candidates(settings), taken, before, ask, time.time())
        with self._lock:
            if self._settings is not settings:
                return  # reloaded meanwhile: the next round knows the new settings
            self._survey = after
            if self._knows_servers(settings):
                if not (self._surveyed or after.found or settings.targets):
                    log.info(
                        "no inference server found; the search is repeated every %g s", settings.discovery.interval
                    )
                self._surveyed = True
            changed = [*map(_target_of, after.found)] != [*map(_target_of, before.found)]
            if changed:
                _log_survey(before, after)
                self._watch()
        if changed:
            self._changed()

    def _knows_servers(self, settings: Settings) -> bool:
        """Whether all that sees servers on this machine was read once, so that to find none says something."""
        missing = SERVER_COLLECTORS - machine_of(self._snapshot.view()).servers_read
        return not missing or (settings.docker.enabled is False and missing == {"containers"})

    def sees_others(self, before: Machine, after: Machine) -> bool:
        """Whether a container or process to ask has come or gone, so that a search shouldn't wait for its interval."""
        settings = self._settings
        if after.servers_read != before.servers_read:
            return True
        return [*self._seen_in(before, settings)] != [*self._seen_in(after, settings)]

    def _candidates(self, settings: Settings) -> Iterator[ServerCandidate]:
        yield from self._seen_in(machine_of(self._snapshot.view()), settings)
        if settings.discovery.local:
            yield from local_candidates(own_port=self._own_port)

    def _seen_in(self, machine: Machine, settings: Settings) -> Iterator[ServerCandidate]:
        """The servers among the containers and processes."""
        if settings.discovery.docker:
            yield from container_candidates(machine.containers)
        if settings.discovery.local or settings.discovery.docker:
            processes = machine.processes.reading.processes
            for each in process_candidates(processes, machine.containers, self._own_port):
                if settings.discovery.docker if each.container else settings.discovery.local:
                    yield each

    # The list --------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Watch the targets that there are now, and drop what belongs to others."""
        watched: dict[str, Watched] = {}
        for target in (*self._settings.targets, *map(_target_of, self._survey.found)):
            # The user's own name for something wins over the same one for something found.
            if target.name not in watched:
                watched[target.name] = self._kept_or_new(target)
        self._watched = watched
        for each in watched.values():
            self._announce(each)
        pairs = {(name, module) for name, each in watched.items() for module in each.target.modules}
        self._snapshot.keep_only(RECORD, pairs)

    def _kept_or_new(self, target: Target) -> Watched:
        before = self._watched.get(target.name)
        if before and before.target == target:
            return before
        server = self._servers.at(target.url)
        ledger = self._ledgers.of(target.name)
        prober = Prober(
            target,
            server=server,
            cancellation=self._cancellation,
            fingerprints=Fingerprints(ledger.fingerprints),
            speeds=_speeds_of(ledger),
        )
        return Watched(prober, dict(before.watts) if before else {})

    def _announce(self, watched: Watched) -> None:
        """Publish what is known before the first probe: the plan, the thresholds, the identity as configured."""
        for name in watched.target.modules:
            module = self._settings.modules[name]
            self._snapshot.publish(
                plan_key(watched.target.name, name), Plan(module.interval, module.concurrency, module.depth is not None)
            )
        self._ledgers.retain(watched.target.name, watched.target.modules)
        self._publish(watched)

    # What is published -----------------------------------------------------------------------------------------------

    def publish(self, result: ProbeResult) -> None:
        """Publish a result of a target, unless a reload has taken that target away."""
        watched = self._watched.get(result.target)
        if watched is not None:
            self._publish(watched, result=result)

    def _publish(
        self, watched: Watched, *, result: ProbeResult | None = None, state: TargetState | None = None
    ) -> ProbeResult | None:
        """Publish what is new together with what follows from it, so that no scrape sees one without the other.

        Gives the result as it was published.
        """
        target = watched.target
        with watched.publishing:
            news: list[Observation] = []
            view = self._snapshot.view()
            state = result.state if result is not None else state
            if state is not None:
                state = _with_start(watched, state, machine_of(view))
            if result is not None:
                result = probe_of_starting(replace(result, state=state))
                news.append((probe_key(result.target, result.module), result))
            elif state is not None:
                news.append((target_key(target.name), state))
            before = _paths_of(target, view.get(target_key(target.name)), view)
            self._snapshot.publish_all((*news, *self._judged(watched, result, state)))
            changed = state is not None and (
                _paths_of(target, state, view) != before or _changed_since(view, self._snapshot.view(), target.name)
            )
        if changed:
            self._models_changed()
        return result

    def _judged(self, watched: Watched, result: ProbeResult | None, state: TargetState | None) -> Iterator[Observation]:
        """What a target is and how good each of its modules is, by the newest facts of all collectors."""
        target, view, profiles = watched.target, self._snapshot.view(), self._profiles
        state = state or view.get(target_key(target.name))
        identity, machine = state.identity if state else None, machine_of(view)
        _hint(watched.prober, machine, self._settings.host.proc)
        known = target_facts_of(target, identity, machine, state)
        info = info_of(target, identity, known, machine, profiles)
        yield info_key(target.name), info
        yield service_key(target.name), service_of(target, state, profiles)
        facts = watched_facts(target, identity, info, known.weights, modules=self._settings.modules, view=view)
        yield (
            ledger_key(target.name),
            self._ledger(watched.prober, facts, result, figures_beside(info, state, view) if result else None),
        )
        for module in target.modules:
            if (record := view.records.get((target.name, module))) and record.plan.canary:
                continue  # the tiers are about short prompts
            figures, watts = _figures(view, target.name, module, result), watched.watts.get(module)
            if record and record.plan.concurrency > 1:
                figures = None  # the tiers are about one stream
            judgement = judgement_of(target, known, figures, profiles, decode_watts=watts)
            yield judgement_key(target.name, module), judgement

    def _ledger(
        self,
        prober: Prober,
        facts: Mapping[str, str | None],
        result: ProbeResult | None,
        figures: Mapping[str, float] | None,
    ) -> Ledger:
        """The ledger after these; what has changed may have changed the answers too, so their fingerprint is taken soon."""
        name, memory = prober.target.name, prober.fingerprints
        changes = self._ledgers.of(name).changes
        packed = memory.packed() if memory is not None and result is not None and result.fingerprint else None
        ledger = self._ledgers.observe(name, time.time(), facts, result, fingerprints=packed, figures=figures)
        if memory is not None and ledger.changes != changes:
            memory.soon()
        return ledger

    def _power_meter(self, target: Target) -> PowerMeter | None:
        """A running meter of the GPU that serves a target, if that is known and on this machine."""
        view = self._snapshot.view()
        state = view.get(target_key(target.name))
        served = serving_of(target, state.identity if state else None, machine_of(view))
        if len(served.gpus) != 1 or served.others:
            return None
        meter = PowerMeter(self._settings.host.sysfs, served.gpus[0])
        meter.start()
        return meter


def _target_of(found: Found) -> Target:
    return Target(name=found.name, url=found.url)


def _paths_of(target: Target, state: TargetState | None, view: View) -> tuple[str, ...]:
    return paths_of(target.url, state.identity, machine_of(view)) if state else ()


def _with_start(watched: Watched, state: TargetState, machine: Machine) -> TargetState:
    """The state, as loading if the server was started not long ago and doesn't answer yet."""
    target = watched.target
    watched.silence = silence_of(watched.silence, state, starts_of(target.url, machine) if not state.up else ())
    return with_start(state, starting_since(watched.silence, target.start_window, state.at_seconds))


def _changed_since(before: View, after: View, target: str) -> bool:
    """Whether facts of a target have changed: then its model's file may be another one too."""
    old, new = before.get(ledger_key(target)), after.get(ledger_key(target))
    return old is not None and new is not None and old.changes != new.changes


def _hint(prober: Prober, machine: Machine, proc: Path) -> None:
    """Give a prober what its server's launch settings say, and how to see who is connected to it."""
    prober.add_hints(**hints_of(prober.target, machine), connected=connections_to(prober.target.url, machine, proc))


def _speeds_of(ledger: Ledger) -> Speeds:
    """The newest speeds that are known of a target, and of which model they are."""
    facts, known = ledger.facts, dict[str, float]()
    for tracker in ledger.trackers.values():
        speeds = tracker.since.speeds() or tracker.before.speeds()
        if tracker.phase == DECODE and speeds:
            known[tracker.module] = speeds[-1]
    model = Identity(facts.get(BACKEND, ""), model=facts.get(MODEL), quantization=facts.get(QUANTIZATION))
    return Speeds(known, model)


def _figures(view: View, target: str, module: str, result: ProbeResult | None) -> Measurements | None:
    """What the newest probe that ran has measured: ``result`` if it is that, else what the view holds."""
    if result is not None and result.module == module and result.result not in SKIPPED:
        return judged_figures(result)
    record = view.records.get((target, module))
    return judged_figures(record.ran) if record and record.ran else None


def _note_power(watched: Watched, result: ProbeResult, meter: PowerMeter | None) -> None:
    """Keep the mean power while the streams of a probe decoded, or that it is not known."""
    if result.result in SKIPPED:
        return
    spans = [(line.chunks[0].at_ns, line.chunks[-1].at_ns) for line in result.timelines if line.chunks]
    watts = meter.mean_watts(min(spans)[0], max(end for _, end in spans)) if meter and spans else None
    watched.watts.pop(result.module, None)
    if watts is not None:
        watched.watts[result.module] = watts


def _state_of(view: View, name: str) -> str:
    state = view.get(target_key(name))
    if state is None:
        return "unknown"
    return "loading" if state.loading else "up" if state.up else "down"


def _log_result(result: ProbeResult) -> None:
    speed, ttft = result.measurements.tokens_per_second, result.measurements.ttft_seconds
    # What an answer says, even what it repeats, is no business of a log, unless somebody asked for everything.
    error = _fault_text(result) if result.result in NOT_AN_ANSWER else result.error
    if error != result.error:
        log.debug("probe of %s by %s: %s", result.target, result.module, result.error)
    figures = [speed_text(speed) if speed else "", f"TTFT {seconds_text(ttft)}" if ttft else "", error]
    level = logging.INFO if result.result == "ok" or result.result in SKIPPED else logging.WARNING
    told = ", ".join(each for each in figures if each)
    log.log(level, "probe of %s by %s: %s%s", result.target, result.module, result.result, told and f": {told}")


def _fault_text(result: ProbeResult) -> str:
    """What is wrong with an answer, without any text of it."""
    return f"{FAULTS[result.fault]} ({result.fault}); see the status page" if result.fault else "see the status page"


def _log_survey(before: Survey, after: Survey) -> None:
    known = {each.name for each in before.found}
    for each in after.found:
        if each.name not in known:
            found = (each.identity.backend, each.url, each.why)
            log.info("found %s at %s (%s); it is probed as the target %s", *found, each.name)
    for name in known - {each.name for each in after.found}:
        log.info("%s is gone; it is no longer a target", name)
