"""Collectors by themselves: timed, reported when they fail or hang, and gone with what they read when nobody asks for them."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from exporter import collectors as room
from exporter.collectors import COLLECTOR_SECONDS, Collectors
from exporter.containers.facts import ContainerFacts, EngineReading
from exporter.host.gpu import GpuSample
from exporter.host.gpu_metrics import Residency
from exporter.host.rocm import RocmFacts
from exporter.settings import Cache, CachePath, Docker, Settings
from exporter.snapshot import CONTAINERS, GPU, GPU_SENSORS, ROCM, CollectorRun, Snapshot, cache_key, collector_key
from exporter.target_facts import Machine

STRIX_HALO = Path(__file__).parent / "fixtures" / "host" / "sys" / "radeon-8060s"
VLLM = ContainerFacts("0123456789ab", "vllm", "rocm/vllm:latest", "sha256:ab", "vllm", running=True)


@dataclass
class CollectorBench:
    """Collectors over a snapshot of their own, a clock that a test sets, and what they told."""

    settings: Settings
    now: float = 1000.0
    soon: list[str] = field(default_factory=list)
    changes: list[tuple[Machine, Machine]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.snapshot = Snapshot()
        self.collectors = Collectors(
            self.snapshot,
            self.settings,
            changed=lambda before, after: self.changes.append((before, after)),
            run_soon=self.soon.append,
            monotonic=lambda: self.now,
        )
        self.collectors.use(self.settings)

    def use(self, **changes: object) -> None:
        """Reload with some settings changed."""
        self.settings = self.settings.model_copy(update=changes)
        self.collectors.use(self.settings)

    def job(self, name: str) -> Callable[[], None]:
        """What the schedule would run under a name."""
        return next(job.run for job in self.collectors.jobs() if job.name == name)

    def last_run(self, name: str) -> CollectorRun | None:
        """The last run that was published of a collector."""
        return self.snapshot.view().get(collector_key(name))


def settings_of(folder: Path, **changes: object) -> Settings:
    """Settings of a machine without an engine and without caches, whose files lie in a folder."""
    values: dict[str, object] = {
        "host": {"sysfs": folder, "rocm": folder},
        "docker": {"enabled": False},
        "cache": {"paths": ()},
    }
    return Settings.model_validate(values | changes)


@pytest.fixture
def bench(tmp_path: Path) -> CollectorBench:
    """A machine on which nothing is found."""
    return CollectorBench(settings_of(tmp_path))


class StubEngine:
    """Stands in for a container engine: answers what a test sets, and says whether it was left."""

    made: list["StubEngine"]
    reading = EngineReading(available=True, containers=(VLLM,), last_known=(VLLM,))

    def __init__(self, host: str = "") -> None:
        self.host = host
        self.on_change: Callable[[], None] | None = None
        self.left: threading.Event | None = None
        self.closed = False
        self.host_gfx: Sequence[str] = ()
        self.made.append(self)

    def read(self, host_gfx: Sequence[str] = ()) -> EngineReading:
        self.host_gfx = host_gfx
        return self.reading

    def watch(self, on_change: Callable[[], None], cancellation: threading.Event) -> None:
        self.on_change, self.left = on_change, cancellation

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[StubEngine]:
    """The engines that collectors make from now on."""
    monkeypatch.setattr(room, "Engine", StubEngine)
    monkeypatch.setattr(StubEngine, "made", [], raising=False)
    return StubEngine.made


def test_each_run_is_timed_and_published_with_what_it_read(
    bench: CollectorBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One publication holds the facts, the success and the seconds of a run."""

    def read(*_: object, **__: object) -> RocmFacts:
        bench.now += 2.5
        return RocmFacts("7.2.0", "7.2.0", "7.2", "info")

    monkeypatch.setattr(room, "read_rocm", read)
    bench.job("rocm")()
    rocm, run = bench.snapshot.view().get(ROCM), bench.last_run("rocm")
    assert rocm is not None
    assert rocm.release == "7.2"
    assert run is not None
    assert (run.success, run.duration_seconds) == (True, 2.5)


def test_a_collector_that_raises_is_reported_as_failed(
    bench: CollectorBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its failure is published and logged with its traceback, and the other collectors go on."""
    monkeypatch.setattr(room, "read_rocm", lambda *_, **__: 1 / 0)
    bench.job("rocm")()
    bench.job("gpu")()
    failed, fine = bench.last_run("rocm"), bench.last_run("gpu")
    assert failed is not None
    assert fine is not None
    assert (failed.success, fine.success) == (False, True)
    assert bench.snapshot.view().get(ROCM) is None
    assert "collector rocm failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@dataclass
class Hanging:
    """A read that hangs until it is let go, in a thread of its own."""

    begun: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, *_: object, **__: object) -> RocmFacts:
        self.begun.set()
        assert self.go.wait(30)
        return RocmFacts("7.2.0", "7.2.0", "7.2", "info")

    def start(self, run: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=run)
        thread.start()
        assert self.begun.wait(30)
        return thread


def test_a_collector_that_hangs_is_reported_while_it_hangs(
    bench: CollectorBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After half a minute it counts as failed, which is logged once; when it ends at last, its facts are published."""
    read = Hanging()
    monkeypatch.setattr(room, "read_rocm", read)
    thread = read.start(bench.job("rocm"))
    bench.now += COLLECTOR_SECONDS
    bench.collectors.report_hanging()
    assert bench.last_run("rocm") is None
    for seconds in (1.0, 5.0):
        bench.now += seconds
        bench.collectors.report_hanging()
    run = bench.last_run("rocm")
    assert run is not None
    assert (run.success, run.duration_seconds) == (False, COLLECTOR_SECONDS + 6.0)
    assert caplog.text.count("collector rocm has been running for 31 s") == 1
    read.go.set()
    thread.join()
    bench.collectors.report_hanging()
    run = bench.last_run("rocm")
    assert run is not None
    assert run.success
    assert bench.snapshot.view().get(ROCM) is not None


def test_a_collector_that_is_gone_takes_its_series(bench: CollectorBench, engines: list[StubEngine]) -> None:
    """With the engine switched off, its containers and its collector are gone, and its events are not followed."""
    bench.use(docker=Docker(enabled=True))
    bench.job("containers")()
    assert bench.snapshot.view().get(CONTAINERS) == StubEngine.reading
    assert bench.last_run("containers") is not None
    bench.use(docker=Docker(enabled=False))
    assert bench.snapshot.view().get(CONTAINERS) is None
    assert bench.last_run("containers") is None
    assert "containers" not in [job.name for job in bench.collectors.jobs()]
    used = engines[0]
    assert used.left is not None
    assert (used.left.is_set(), used.closed) == (True, True)


def test_what_ends_after_it_was_taken_away_publishes_nothing(
    bench: CollectorBench, engines: list[StubEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload that comes while a collector runs, or hangs, leaves nothing of it behind."""
    assert engines == []
    bench.use(docker=Docker(enabled=True))
    read = Hanging()

    def hang(*_: object) -> EngineReading:
        read()
        return StubEngine.reading

    monkeypatch.setattr(StubEngine, "read", hang)
    thread = read.start(bench.job("containers"))
    bench.use(docker=Docker(enabled=False))
    bench.now += 2 * COLLECTOR_SECONDS
    bench.collectors.report_hanging()
    assert bench.last_run("containers") is None
    read.go.set()
    thread.join()
    assert bench.last_run("containers") is None
    assert bench.snapshot.view().get(CONTAINERS) is None


def test_an_event_of_the_engine_asks_for_a_reading(bench: CollectorBench, engines: list[StubEngine]) -> None:
    """A container that starts is read at once; after a change of the address only the new engine is followed."""
    bench.use(docker=Docker(host="unix:///run/a.sock"))
    bench.use(docker=Docker(host="unix:///run/b.sock"))
    bench.collectors.use(bench.settings)
    assert [engine.host for engine in engines] == ["unix:///run/a.sock", "unix:///run/b.sock"]
    assert [engine.closed for engine in engines] == [True, False]
    assert engines[1].on_change is not None
    engines[1].on_change()
    assert bench.soon == ["containers"]
    bench.collectors.stop()
    assert [engine.closed for engine in engines] == [True, True]


@pytest.mark.parametrize(("enabled", "success"), [(None, True), (True, False)])
def test_an_engine_that_is_not_there_fails_only_where_it_was_asked_for(
    bench: CollectorBench,
    engines: list[StubEngine],
    monkeypatch: pytest.MonkeyPatch,
    *,
    enabled: bool | None,
    success: bool,
) -> None:
    """Without Docker on the machine and in the settings, nothing is wrong."""
    assert engines == []
    monkeypatch.setattr(StubEngine, "reading", EngineReading(available=False, problem="nothing listens there"))
    bench.use(docker=Docker(enabled=enabled))
    bench.job("containers")()
    run = bench.last_run("containers")
    assert run is not None
    assert run.success is success


def test_the_engine_is_told_the_gpus_of_this_machine(tmp_path: Path, engines: list[StubEngine]) -> None:
    """Whether an image is built for the GPU can only be seen by who knows the GPU."""
    bench = CollectorBench(
        settings_of(tmp_path, host={"sysfs": STRIX_HALO, "rocm": tmp_path}, docker={"enabled": True})
    )
    bench.job("gpu")()
    bench.job("containers")()
    assert engines[-1].host_gfx == ["gfx1151"]


def test_those_who_judge_are_told_what_changed(tmp_path: Path) -> None:
    """A GPU that was not known changes what is judged by, the same GPU read again does not."""
    bench = CollectorBench(settings_of(tmp_path, host={"sysfs": STRIX_HALO, "rocm": tmp_path}))
    bench.job("gpu")()
    bench.job("gpu")()
    bench.job("rocm")()
    ((before, after),) = bench.changes
    assert (before.gpus, [gpu.gfx_target for gpu in after.gpus]) == ((), ["gfx1151"])
    reading = bench.snapshot.view().get(GPU)
    assert reading is not None
    assert reading.gpus == after.gpus


def test_a_sample_of_the_sensors_knows_the_one_before(bench: CollectorBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Throttling is told by counters that rose since the last sample."""
    sample = GpuSample("0000:c1:00.0", residency=Residency((("thermal", 1),), 2))
    given: list[Sequence[GpuSample]] = []

    def read(_: Path, previous: Sequence[GpuSample]) -> tuple[GpuSample, ...]:
        given.append(previous)
        return (sample,)

    monkeypatch.setattr(room, "sample_gpus", read)
    bench.job("sensors")()
    bench.job("sensors")()
    assert [*map(tuple, given)] == [(), (sample,)]
    assert bench.snapshot.view().get(GPU_SENSORS) == (sample,)


def test_problems_are_logged_when_they_change(
    bench: CollectorBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same problem at every run is one line; it is told again after it was gone, and not after a run that failed."""
    caplog.set_level(logging.INFO, "exporter.collectors")
    problems: list[tuple[str, ...]] = [("a",), ("a",), (), ("a",), ("a", "b")]
    for problem in problems:
        monkeypatch.setattr(room, "read_rocm", lambda *_, problem=problem, **__: RocmFacts(problems=problem))
        bench.job("rocm")()
    monkeypatch.setattr(room, "read_rocm", lambda *_, **__: 1 / 0)
    bench.job("rocm")()
    monkeypatch.setattr(room, "read_rocm", lambda *_, **__: RocmFacts(problems=("a", "b")))
    bench.job("rocm")()
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert told == ["rocm: a", "rocm: a", "rocm: a", "rocm: b"]


def cache_settings(*folders: Path) -> Cache:
    """The part of the settings that names caches."""
    return Cache(paths=tuple(CachePath(name=folder.name, kind="files", path=folder) for folder in folders))


def test_each_cache_is_a_collector_of_its_own(
    bench: CollectorBench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that can't be read fails with its reason and leaves the others; one that is gone takes its series."""
    caplog.set_level(logging.INFO, "exporter.collectors")
    (tmp_path / "fine").mkdir()
    (tmp_path / "file").write_text("no folder")
    bench.use(cache=cache_settings(tmp_path / "fine", tmp_path / "file"))
    bench.job("caches")()
    fine, bad = bench.last_run("cache:fine"), bench.last_run("cache:file")
    assert fine is not None
    assert bad is not None
    assert (fine.success, bad.success) == (True, False)
    assert "cache file: " in caplog.text
    bench.use(cache=cache_settings(tmp_path / "fine"))
    bench.job("caches")()
    assert bench.last_run("cache:file") is None
    assert bench.snapshot.view().get(cache_key("file")) is None
    assert bench.snapshot.view().get(cache_key("fine")) is not None
    assert bench.changes


def test_a_scan_that_the_end_cancels_publishes_nothing(bench: CollectorBench, tmp_path: Path) -> None:
    """While the exporter stops, half a scan is no fact."""
    (tmp_path / "hub").mkdir()
    bench.use(cache=cache_settings(tmp_path / "hub"))
    bench.collectors.stop()
    bench.job("caches")()
    assert bench.last_run("cache:hub") is None
    assert bench.snapshot.view().get(cache_key("hub")) is None
