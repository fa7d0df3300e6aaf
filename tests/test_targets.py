"""The watch list by itself, with probers that answer what a test sets: who is watched, and what follows from a result."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from exporter import targets as room
from exporter.containers.facts import CandidateUrl, ContainerFacts, EngineReading
from exporter.host.gpu import GpuFacts, GpuReading
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.result import Identity, ProbeResult, TargetState
from exporter.probe.server import Servers
from exporter.probe.status import Identified
from exporter.settings import Module, Settings, load_profiles, make_target
from exporter.snapshot import (
    CONTAINERS,
    GPU,
    CollectorRun,
    Snapshot,
    View,
    collector_key,
    info_key,
    judgement_key,
    ledger_key,
    target_key,
)
from exporter.target_facts import judgement_of
from exporter.targets import Targets
from exporter.tiers import Judgement
from tests.scenes import probe

STRIX_HALO = GpuFacts("0000:c1:00.0", "Radeon 8060S", "gfx1151", 40, True, bandwidth_bytes_per_second=256e9)
LLAMA = Identity("llama_cpp", model="qwen2.5-14b", weight_bytes=9_000_000_000, parameters=14_000_000_000)
URL = "http://127.0.0.1:8000"


class StubProber:
    """Stands in for a prober: always due, and gives what a test sets by the name of its target."""

    results: dict[str, ProbeResult | None]
    states: dict[str, TargetState | None]
    is_due = True

    def __init__(self, target: Any, **_: object) -> None:
        self.target = target
        self.fingerprints = None
        self.probed: list[str] = []
        self.told: dict[str, bool] = {}

    def add_hints(self, **known: bool) -> None:
        self.told |= known

    def due(self, *_: object) -> bool:
        return self.is_due

    def probe(self, name: str, _: Module) -> ProbeResult | None:
        self.probed.append(name)
        result = self.results[self.target.name]
        return replace(result, module=name) if result else None

    def status(self) -> TargetState | None:
        return self.states.get(self.target.name)


class StubMeter:
    """Stands in for a power meter: 50 W, and whether it was stopped."""

    made: list["StubMeter"]

    def __init__(self, _: Path, address: str) -> None:
        self.address = address
        self.running = False
        self.made.append(self)

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def mean_watts(self, *_: int) -> float:
        return 50.0


@dataclass
class TargetBench:
    """Targets over a snapshot of their own, and how often they told that discovery changed them."""

    settings: Settings
    told: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.snapshot = Snapshot()
        profiles = load_profiles(None)
        self.targets = Targets(
            self.snapshot,
            self.settings,
            profiles,
            servers=Servers(),
            cancellation=Cancellation(),
            own_port=9937,
            changed=lambda: self.told.append(self.names),
        )
        self.targets.use(self.settings, profiles)

    @property
    def view(self) -> View:
        return self.snapshot.view()

    @property
    def names(self) -> tuple[str, ...]:
        """The targets that have a record."""
        return self.view.targets

    def use(self, *targets: Mapping[str, object], **changes: object) -> None:
        """Reload with other targets."""
        self.settings = settings_of(*targets, **changes)
        self.targets.use(self.settings, load_profiles(None))

    def prober(self, name: str) -> StubProber:
        """The prober of a target."""
        prober: Any = self.targets._watched[name].prober
        return prober  # type: ignore[no-any-return]


def settings_of(*targets: Mapping[str, object], **changes: object) -> Settings:
    """Settings with these targets that look for no others."""
    made = tuple(make_target(**each) for each in targets)
    return Settings.model_validate({"targets": made, "discovery": {"local": False, "docker": False}} | changes)


def up(name: str, identity: Identity | None = LLAMA, *, at_seconds: float = 1.0) -> TargetState:
    """A server that is up."""
    return TargetState(name, URL, at_seconds, up=True, identity=identity)


@pytest.fixture(autouse=True)
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No prober and no power meter of these tests is a real one."""
    monkeypatch.setattr(room, "Prober", StubProber)
    monkeypatch.setattr(room, "PowerMeter", StubMeter)
    monkeypatch.setattr(StubProber, "results", {}, raising=False)
    monkeypatch.setattr(StubProber, "states", {}, raising=False)
    monkeypatch.setattr(StubMeter, "made", [], raising=False)


@pytest.fixture
def bench() -> TargetBench:
    """One target on this machine."""
    return TargetBench(settings_of({"name": "a", "url": URL}))


def run(bench: TargetBench, result: ProbeResult | None, module: str = "default") -> None:
    """One probe of the target ``a``, which gives this result."""
    StubProber.results["a"] = result
    bench.targets.probe("a", module)


def test_before_the_first_probe_plan_and_thresholds_are_known(bench: TargetBench) -> None:
    """A target has its interval, its identity as configured and the bounds of its tiers as soon as it is watched."""
    record, judgement = bench.view.records["a", "default"], bench.view.get(judgement_key("a", "default"))
    assert record.interval_seconds == 60
    assert judgement is not None
    assert (judgement.tier, judgement.thresholds.acceptable) == (None, 10)
    info = bench.view.get(info_key("a"))
    assert info is not None
    assert info.url == URL


def test_the_jobs_are_a_status_check_and_a_probe_for_each_module() -> None:
    """A status is checked twice a minute, or as often as the most frequent module probes."""
    bench = TargetBench(
        settings_of(
            {"name": "a", "url": URL, "modules": ["default", "prefill"]},
            {"name": "b", "url": "http://127.0.0.1:8001"},
            modules={"default": {"interval": "10s"}, "prefill": {"interval": "5m"}},
            discovery={"local": True, "docker": False, "interval": "2m"},
        )
    )
    assert {job.name: (job.every, job.at_once) for job in bench.targets.jobs()} == {
        "status:a": (10, False),
        "probe:a:default": (10, False),
        "probe:a:prefill": (300, False),
        "status:b": (10, False),
        "probe:b:default": (10, False),
        "probe:b:canary": (600, False),
        "discovery": (120, True),
    }
    assert {job.name: job.after for job in bench.targets.jobs() if job.after} == {"probe:b:canary": 20}
    bench.use({"name": "a", "url": URL}, modules={"default": {"interval": "5m"}})
    assert {job.name: job.every for job in bench.targets.jobs()} == {
        "status:a": 30,
        "probe:a:default": 300,
        "probe:a:canary": 600,
    }


def test_a_speed_is_accepted_for_one_target_or_for_all() -> None:
    """The names of those whose speed of now is the usual one from here on; a name that nobody has accepts nothing."""
    bench = TargetBench(settings_of({"name": "a", "url": URL}, {"name": "b", "url": "http://127.0.0.1:8001"}))
    assert bench.targets.accept("b") == ("b",)
    assert bench.targets.accept() == ("a", "b")
    assert bench.targets.accept("nobody") == ()
    assert bench.view.get(ledger_key("b")) is not None


def test_a_result_is_published_with_its_judgement(bench: TargetBench) -> None:
    """No view has a speed without its tier, nor a tier without its speed."""
    seen: list[tuple[float | None, str | None]] = []

    def note(view: View, _: object) -> None:
        record, judgement = view.records["a", "default"], view.get(judgement_key("a", "default"))
        figures = record.figures
        seen.append((figures.tokens_per_second if figures else None, judgement.tier if judgement else None))

    bench.snapshot._watch = note
    run(bench, probe("a", 0, speed=17.0))
    run(bench, probe("a", 0, "connect", error="refused"))
    assert set(seen) == {(17.0, "good"), (None, None)}


def test_each_result_is_judged_once(bench: TargetBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One probe makes one judgement for each module of its target, by the state that came with it."""
    bench.use({"name": "a", "url": URL, "modules": ["default", "prefill"]})
    judged: list[tuple[str | None, float | None]] = []

    def noted(*args: Any, **options: Any) -> Judgement:
        known, figures = args[1], args[2]
        judged.append((known.model, figures and figures.tokens_per_second))
        return judgement_of(*args, **options)

    monkeypatch.setattr(room, "judgement_of", noted)
    run(bench, replace(probe("a", 0, speed=17.0), state=up("a")))
    assert judged == [("qwen2.5-14b", 17.0), ("qwen2.5-14b", None)]


def test_several_streams_have_no_tier(bench: TargetBench) -> None:
    """A module that runs several streams at once has bounds and no tier, in the metrics too."""
    bench.use({"name": "a", "url": URL, "modules": ["default", "parallel"]})
    run(bench, replace(probe("a", 0, module="parallel", speed=4.0), state=up("a")), "parallel")
    judgement = bench.view.get(judgement_key("a", "parallel"))
    assert judgement is not None
    assert (judgement.tier, judgement.efficiency, judgement.thresholds.good) == (None, None, 15)


def test_a_skipped_probe_leaves_the_judgement_as_it_was(bench: TargetBench) -> None:
    """The tier and the figures of the last probe that ran are still the newest."""
    run(bench, probe("a", 60, speed=17.0))
    before = bench.view.get(judgement_key("a", "default"))
    run(bench, probe("a", 0, "skipped_busy"))
    assert bench.view.get(judgement_key("a", "default")) is before
    assert before is not None
    assert before.tier == "good"


def test_a_slow_judgement_of_old_figures_does_not_replace_a_newer_one(
    bench: TargetBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the machine's facts are judged by, a probe ends: what stays is the judgement of its speed."""
    run(bench, probe("a", 60, speed=17.0))
    judging, go = threading.Event(), threading.Event()

    def slow(*args: Any, **options: Any) -> Judgement:
        judging.set()
        assert go.wait(30)
        return judgement_of(*args, **options)

    monkeypatch.setattr(room, "judgement_of", slow)
    older = threading.Thread(target=bench.targets.judge)
    older.start()
    assert judging.wait(30)
    monkeypatch.setattr(room, "judgement_of", judgement_of)
    newer = threading.Thread(target=run, args=(bench, probe("a", 0, speed=5.0)))
    newer.start()
    newer.join(0.2)
    go.set()
    older.join()
    newer.join()
    judgement = bench.view.get(judgement_key("a", "default"))
    assert judgement is not None
    assert judgement.tier == "poor"


@pytest.mark.parametrize(("result", "is_due"), [(None, True), (probe("a", 0, speed=17.0), False)])
def test_a_probe_that_was_cancelled_or_is_not_due_publishes_nothing(
    bench: TargetBench, monkeypatch: pytest.MonkeyPatch, result: ProbeResult | None, *, is_due: bool
) -> None:
    """Neither is a result."""
    monkeypatch.setattr(StubProber, "is_due", is_due)
    run(bench, result)
    assert bench.view.records["a", "default"].last is None


def test_what_ends_after_a_reload_took_its_target_away_is_dropped(bench: TargetBench) -> None:
    """A late result brings back neither the target nor any of its series."""
    bench.use({"name": "b", "url": URL})
    bench.targets.publish(probe("a", 0, speed=17.0))
    bench.targets.probe("a", "default")
    bench.targets.check_status("a")
    bench.targets.probe("b", "prefills")
    assert bench.names == ("b",)
    assert bench.view.get(info_key("a")) is None


def test_a_target_that_stays_keeps_its_prober(bench: TargetBench) -> None:
    """A reload that changes nothing of a target leaves its prober and counters; a changed one gets a new prober."""
    run(bench, probe("a", 0, speed=17.0))
    before = bench.prober("a")
    bench.use({"name": "a", "url": URL}, {"name": "b", "url": URL})
    assert bench.prober("a") is before
    bench.use({"name": "a", "url": URL, "budget": {"share": 0.5}})
    assert bench.prober("a") is not before
    assert bench.view.records["a", "default"].totals.results[0] == 1
    assert len(bench.targets) == 1


def test_a_module_that_leaves_takes_its_series(bench: TargetBench) -> None:
    """Of a target that stays, only the plans of its modules are left."""
    bench.use({"name": "a", "url": URL, "modules": ["default", "prefill"]})
    bench.use({"name": "a", "url": URL, "modules": ["prefill"]})
    assert [*bench.view.records] == [("a", "prefill")]
    assert bench.view.get(judgement_key("a", "default")) is None


def test_a_status_tells_what_the_target_is(bench: TargetBench) -> None:
    """The identity that the server gives is published with the state; a check that was cancelled changes nothing."""
    bench.targets.check_status("a")
    assert bench.view.get(target_key("a")) is None
    StubProber.states["a"] = up("a")
    bench.targets.check_status("a")
    info, state = bench.view.get(info_key("a")), bench.view.get(target_key("a"))
    assert info is not None
    assert (info.backend, info.model) == ("llama_cpp", "qwen2.5-14b")
    assert state is not None
    assert state.up


def test_new_facts_of_the_machine_are_judged_by(bench: TargetBench) -> None:
    """A GPU that is found after the first probe gives the ceiling and the efficiency of the speed that is known."""
    run(bench, replace(probe("a", 0, speed=17.0), state=up("a")))
    bench.snapshot.publish(GPU, GpuReading((STRIX_HALO,)))
    bench.targets.judge()
    judgement = bench.view.get(judgement_key("a", "default"))
    assert judgement is not None
    assert judgement.ceiling_tokens_per_second == pytest.approx(256 / 9)
    assert judgement.efficiency == pytest.approx(17 * 9 / 256)


def test_the_power_of_the_one_gpu_here_gives_the_energy_of_a_token(bench: TargetBench) -> None:
    """It is measured while a probe runs, kept while probes are skipped or the target changes, and gone after a failure."""

    def energy() -> float | None:
        judgement = bench.view.get(judgement_key("a", "default"))
        assert judgement is not None
        return judgement.energy_joules_per_token

    run(bench, probe("a", 0, speed=20.0))
    assert (energy(), StubMeter.made) == (None, [])
    bench.snapshot.publish(GPU, GpuReading((STRIX_HALO,)))
    run(bench, probe("a", 0, speed=20.0))
    assert energy() == 2.5
    run(bench, probe("a", 0, "skipped_busy"))
    assert energy() == 2.5
    bench.use({"name": "a", "url": URL, "budget": {"share": 0.5}})
    assert energy() == 2.5
    run(bench, replace(probe("a", 0, "connect"), timelines=()))
    assert bench.targets._watched["a"].watts == {}
    assert [(meter.address, meter.running) for meter in StubMeter.made] == [("0000:c1:00.0", False)] * 3


def test_no_power_is_measured_of_a_server_elsewhere_or_of_several_gpus(bench: TargetBench) -> None:
    """What another machine or one of two GPUs takes is not known."""
    bench.snapshot.publish(GPU, GpuReading((STRIX_HALO, replace(STRIX_HALO, address="0000:c2:00.0"))))
    run(bench, probe("a", 0, speed=20.0))
    bench.use({"name": "a", "url": "http://10.0.0.7:8000"})
    bench.snapshot.publish(GPU, GpuReading((STRIX_HALO,)))
    run(bench, probe("a", 0, speed=20.0))
    assert StubMeter.made == []


def test_a_meter_stops_whatever_its_probe_does(bench: TargetBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that raises leaves no thread behind that reads a sensor."""
    bench.snapshot.publish(GPU, GpuReading((STRIX_HALO,)))
    monkeypatch.setattr(StubProber, "probe", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.targets.probe("a", "default")
    assert [meter.running for meter in StubMeter.made] == [False]


def test_targets_are_counted_by_state() -> None:
    """Each target is in one state; one that was never reached is in none that is known."""
    names = ("fine", "loads", "down", "new")
    bench = TargetBench(
        settings_of(*({"name": name, "url": f"http://127.0.0.1:{number}"} for number, name in enumerate(names, 8001)))
    )
    StubProber.states |= {
        "fine": up("fine"),
        "loads": replace(up("loads"), loading=True),
        "down": replace(up("down"), up=False),
    }
    for name in names:
        bench.targets.check_status(name)
    assert bench.targets.states() == (("up", 1), ("loading", 1), ("down", 1), ("unknown", 1))


def test_each_result_is_logged_with_its_figures(bench: TargetBench, caplog: pytest.LogCaptureFixture) -> None:
    """A good or skipped probe is information, any other a warning."""
    caplog.set_level(logging.INFO, "exporter.targets")
    run(bench, probe("a", 0, speed=17.0))
    run(bench, probe("a", 0, "skipped_busy"))
    run(bench, probe("a", 0, "connect", error="refused"))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "probe of a by default: ok: 17.0 tok/s, TTFT 410 ms"),
        ("INFO", "probe of a by default: skipped_busy"),
        ("WARNING", "probe of a by default: connect: refused"),
    ]


@pytest.mark.parametrize(("level", "told"), [(logging.INFO, False), (logging.DEBUG, True)])
def test_what_an_answer_repeats_is_logged_for_who_asked(
    bench: TargetBench, caplog: pytest.LogCaptureFixture, level: int, *, told: bool
) -> None:
    """The log names the fault; what repeats it names at the level debug only."""
    caplog.set_level(level, "exporter.targets")
    error = 'the answer repeats one character to its end: "/"'
    run(bench, replace(probe("a", 0, "degenerate", error=error), fault="repeated_character"))
    named = "the answer repeats one character to its end (repeated_character); see the status page"
    assert f"probe of a by default: degenerate: {named}" in caplog.messages
    assert (f"probe of a by default: {error}" in caplog.messages) is told


def test_what_will_be_probed_is_logged(bench: TargetBench, caplog: pytest.LogCaptureFixture) -> None:
    """At the start a person reads which servers are probed how often, and where others are looked for."""
    caplog.set_level(logging.INFO, "exporter.targets")
    bench.targets.log_plan()
    assert caplog.messages == [f"target a at {URL}: modules default every 60 s, canary every 600 s"]
    bench.use(discovery={"local": True, "docker": False})
    bench.targets.log_plan()
    assert "8080" in caplog.messages[-1]


# Discovery


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Identity]:
    """The servers that listen on this machine, by URL."""
    listening: dict[str, Identity] = {}

    def identify(url: str, **_: object) -> Identified:
        return Identified(listening[url], listening=True) if url in listening else Identified(why_not="nothing listens")

    monkeypatch.setattr(room, "identify", identify)
    return listening


def discovering(**changes: object) -> TargetBench:
    """Targets that are looked for on the usual ports and among the containers."""
    return TargetBench(settings_of(**({"discovery": {"local": True, "docker": True}} | changes)))


def container(name: str, url: str) -> ContainerFacts:
    """A running container that serves a model."""
    urls = (CandidateUrl(url, "published_port"),)
    return ContainerFacts(f"id-{name}", name, "rocm/vllm", "sha256:1", "vllm", running=True, urls=urls)


def test_a_server_that_is_found_is_watched(answers: dict[str, Identity], caplog: pytest.LogCaptureFixture) -> None:
    """What answers becomes a target, is told once, and is watched while it is down.

    That there is none is said once, when containers and processes were read.
    """
    caplog.set_level(logging.INFO, "exporter.targets")
    bench = discovering()
    bench.targets.discover()
    assert caplog.messages == []
    for name in ("processes", "containers"):
        bench.snapshot.publish(collector_key(name), CollectorRun(success=True, duration_seconds=0.01, at_seconds=0.0))
    bench.targets.discover()
    bench.targets.discover()
    assert caplog.messages == ["no inference server found; the search is repeated every 60 s"]
    answers["http://127.0.0.1:8080"] = LLAMA
    bench.targets.discover()
    assert bench.told == [("localhost:8080",)]
    assert "found llama_cpp at http://127.0.0.1:8080" in caplog.text
    answers.clear()
    bench.targets.discover()
    assert bench.told == [("localhost:8080",)]
    assert bench.names == ("localhost:8080",)


def test_a_server_whose_container_is_gone_is_no_target_any_more(
    answers: dict[str, Identity], caplog: pytest.LogCaptureFixture
) -> None:
    """It leaves the list with its series, and the log says so."""
    caplog.set_level(logging.INFO, "exporter.targets")
    answers["http://127.0.0.1:8000"] = LLAMA
    bench = discovering(discovery={"local": False, "docker": True})
    there = (container("vllm", "http://127.0.0.1:8000"),)
    bench.snapshot.publish(CONTAINERS, EngineReading(True, there, last_known=there))
    bench.targets.discover()
    assert bench.names == ("vllm",)
    bench.snapshot.publish(CONTAINERS, EngineReading(True))
    bench.targets.discover()
    assert bench.told == [("vllm",), ()]
    assert caplog.messages[-1].startswith("vllm is gone")


def test_a_configured_target_keeps_its_name(answers: dict[str, Identity]) -> None:
    """A container that has the name of a configured target does not take its place."""
    answers["http://127.0.0.1:8001"] = LLAMA
    bench = discovering(targets=(make_target(name="vllm", url="http://10.0.0.7:8000"),))
    there = (container("vllm", "http://127.0.0.1:8001"),)
    bench.snapshot.publish(CONTAINERS, EngineReading(True, there, last_known=there))
    bench.targets.discover()
    assert bench.names == ("vllm",)
    assert bench.prober("vllm").target.url == "http://10.0.0.7:8000"


def test_a_search_that_a_reload_overtakes_is_dropped(
    answers: dict[str, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found under the old settings is no target of the new ones, which may have forbidden it."""
    answers["http://127.0.0.1:8080"] = LLAMA
    bench = discovering()

    def reload(url: str, **_: object) -> Identified:
        bench.use()
        return Identified(answers.get(url), listening=url in answers)

    monkeypatch.setattr(room, "identify", reload)
    bench.targets.discover()
    assert (bench.told, bench.names) == ([], ())
