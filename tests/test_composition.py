"""The daemon that is built but never serves: what it reloads, what it warns of, and whom it tells what."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import bcrypt
import pytest

from exporter import systemd
from exporter.containers.facts import CandidateUrl, ContainerFacts
from exporter.daemon import Daemon
from exporter.history.store import open_reader
from exporter.host.gpu import GpuFacts
from exporter.settings import Settings, SettingsError
from exporter.settings.errors import Problem
from exporter.snapshot import EXPORTER, ExporterState
from exporter.target_facts import Machine
from exporter.web.app import Refused
from tests.scenes import probe

URL = "http://127.0.0.1:8000"
COLLECTORS = ("rocm", "gpu", "sensors", "machine", "processes", "models", "caches")


@dataclass
class Files:
    """The settings as a test writes them: what is loaded next, or what is wrong with it."""

    folder: Path
    values: dict[str, object] = field(default_factory=dict)
    wrong: str = ""

    def load(self) -> Settings:
        if self.wrong:
            raise SettingsError([Problem("targets[0].url", self.wrong)])
        base: dict[str, object] = {
            "discovery": {"local": False, "docker": False},
            "docker": {"enabled": False},
            "host": {"sysfs": self.folder, "rocm": self.folder},
            "cache": {"paths": ()},
            "targets": [{"name": "a", "url": URL}],
        }
        return Settings.model_validate(base | self.values)

    def passwords(self) -> Path:
        """A web configuration that lets in who knows a password."""
        path = self.folder / "web.yml"
        hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
        path.write_text(f'basic_auth_users:\n  prom: "{hashed}"\n')
        return path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that a daemon wants to run now."""
    asked: list[str] = []
    monkeypatch.setattr("exporter.schedule.Schedule.run_soon", lambda _, name: asked.append(name))
    return asked


def made(files: Files) -> Daemon:
    """A daemon that has applied its settings, as ``start`` does."""
    daemon = Daemon(files.load)
    daemon._apply(daemon._settings, daemon._profiles)
    return daemon


def state_of(daemon: Daemon) -> ExporterState:
    """What the daemon published of itself."""
    state = daemon.snapshot.view().get(EXPORTER)
    assert state is not None
    return state


def test_a_reload_takes_no_authentication_away(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """A configuration that names no web_config_file any more is refused, and said; without one from the start it is not."""
    files.values = {"web_config_file": files.passwords()}
    daemon = made(files)
    assert daemon.reload() == ()
    del files.values["web_config_file"]
    (problem,) = daemon.reload()
    assert problem.startswith("web_config_file: asks for no password and no client certificate any more.")
    assert state_of(daemon).reload_successful is False
    assert problem in caplog.text
    assert made(files).reload() == ()


def test_a_reload_that_is_wrong_changes_nothing(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """Its errors are returned, logged and published; the next good one clears them."""
    daemon = made(files)
    before = state_of(daemon)
    files.wrong, files.values = "has no scheme", {"targets": []}
    assert daemon.reload() == ("targets[0].url: has no scheme",)
    assert state_of(daemon).reload_successful is False
    assert state_of(daemon).reload_success_at_seconds == before.reload_success_at_seconds
    assert daemon.snapshot.view().targets == ("a",)
    assert "has no scheme" in caplog.text
    files.wrong = ""
    assert daemon.reload() == ()
    assert state_of(daemon).reload_successful is True
    assert (state_of(daemon).reload_success_at_seconds or 0.0) > (before.reload_success_at_seconds or 0.0)
    assert daemon.snapshot.view().targets == ()


def test_a_web_configuration_that_breaks_is_an_unsuccessful_reload(files: Files) -> None:
    """The rules that were in force stay, and the metric says that the newest file is not used."""
    path = files.passwords()
    files.values = {"web_config_file": path}
    daemon = made(files)
    assert "auth" in [job.name for job in daemon._jobs()]
    daemon._refresh_auth()
    assert state_of(daemon).reload_successful is True
    path.write_text("basic_auth_users: {prom: nonsense}\n")
    for _ in range(3):
        daemon._refresh_auth()
    assert state_of(daemon).reload_successful is False
    assert daemon._auth.rules.closed


def test_a_reload_reads_the_machine_anew(files: Files, soon: list[str]) -> None:
    """A cache or an engine that the new settings name is not first read when an interval is over."""
    daemon = made(files)
    assert soon == []
    daemon.reload()
    assert soon == [*COLLECTORS]


def test_a_container_that_comes_starts_a_search(files: Files, soon: list[str]) -> None:
    """Other facts of the machine are only judged by."""
    files.values = {"discovery": {"local": False, "docker": True}}
    daemon = made(files)
    urls = (CandidateUrl(URL, "published_port"),)
    vllm = ContainerFacts("0123456789ab", "vllm", "rocm/vllm", "sha256:1", "vllm", running=True, urls=urls)
    daemon._machine_changed(Machine(), Machine(gpus=(GpuFacts("0000:c1:00.0", "Radeon 8060S"),)))
    assert soon == []
    daemon._machine_changed(Machine(), Machine(containers=(vllm,)))
    assert soon == ["discovery"]


def test_every_job_is_scheduled(files: Files) -> None:
    """Targets, collectors and the files of the authentication each have theirs, and a reload replaces them."""
    daemon = made(files)
    assert set(daemon._schedule._jobs) == {"status:a", "probe:a:default", "probe:a:canary", *COLLECTORS}
    files.values = {"targets": []}
    daemon.reload()
    assert set(daemon._schedule._jobs) == {*COLLECTORS}


def test_ready_when_every_target_was_probed(files: Files) -> None:
    """Until then the names of those that were not are told."""
    daemon = made(files)
    assert daemon.ready() == (False, "Not probed yet: a")
    daemon._targets.publish(probe("a", 0, "skipped_busy"))
    assert daemon.ready() == (False, "Not probed yet: a")
    daemon._targets.publish(probe("a", 0, "skipped_busy", module="canary"))
    assert daemon.ready() == (True, "Every target was probed: 1")


def test_healthy_while_the_scheduler_runs(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that stands still probes nothing, whatever the web server answers."""
    daemon = made(files)
    assert daemon.healthy()[0] is True
    monkeypatch.setattr(daemon._schedule, "alive", lambda: False)
    assert daemon.healthy() == (False, "The scheduler has not run for a while: nothing is probed.")


def test_probes_on_demand_are_refused_with_their_reason(files: Files) -> None:
    """An unknown module, an address that no pattern allows, and an exporter that stops."""
    files.values = {"probe_endpoint": {"allow": ["127.0.0.1:*"]}}
    daemon = made(files)
    unknown, forbidden = daemon.probe(URL, "nonsense"), daemon.probe("http://10.0.0.7:8000", "default")
    assert isinstance(unknown, Refused)
    assert unknown.message.startswith("there is no such module: the configuration has default, ")
    assert isinstance(forbidden, Refused)
    assert "probe_endpoint.allow" in forbidden.message
    daemon.drain()
    assert daemon.probe(URL, "default") == Refused("the exporter stops")


class DeadServer:
    """Stands in for a web server whose thread has died."""

    alive = False

    def stop(self) -> None:
        """Nothing is left to stop."""


def test_the_watchdog_is_fed_while_the_web_server_lives(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that can't be scraped any more is restarted by systemd, which is told how the targets are."""
    told: list[str] = []
    monkeypatch.setattr(systemd, "notify", told.append)
    daemon = made(files)
    daemon._beat()
    monkeypatch.setattr(daemon, "_web", DeadServer())
    daemon._beat()
    assert told == ["WATCHDOG=1", "STATUS=1 target: 1 unknown", "STATUS=1 target: 1 unknown"]


@pytest.fixture
def handlers() -> Iterator[None]:
    """The process's handlers of signals, put back afterwards."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class Impatient(threading.Event):
    """An event that is waited for no longer than a moment."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(0.01 if timeout else None)


@pytest.mark.usefixtures("handlers")
def test_a_signal_during_the_start_is_not_lost(files: Files) -> None:
    """The daemon ends as soon as it would begin to run."""
    stop = threading.Event()
    daemon = Daemon(files.load, stop=stop)
    stop.set()
    daemon.run()


@pytest.mark.usefixtures("handlers")
def test_signals_reload_and_end(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGHUP reloads once, SIGTERM ends; meanwhile the clock is followed."""
    caplog.set_level(logging.INFO, "exporter.daemon")
    daemon = made(files)
    followed: list[int] = []

    def follow_clock() -> None:
        followed.append(len(followed))
        os.kill(os.getpid(), signal.SIGHUP if len(followed) == 1 else signal.SIGTERM)

    monkeypatch.setattr(daemon, "_stop", Impatient())
    monkeypatch.setattr(daemon._schedule, "follow_clock", follow_clock)
    daemon.run()
    assert len(followed) == 2
    assert caplog.text.count("the configuration is reloaded") == 1


def test_the_history_is_kept_where_the_settings_say(files: Files, tmp_path: Path) -> None:
    """A folder of the settings holds the file; a daemon that is gone has left it readable, and `none` leaves no file."""
    folder = tmp_path / "state"
    files.values = {"history": {"path": folder / "history.sqlite"}}
    daemon = Daemon(files.load)
    daemon._ledgers.start()
    daemon._apply(daemon._settings, daemon._profiles)
    daemon._targets.publish(probe("a", 0, speed=12.0))
    daemon._ledgers.close()
    assert open_reader(folder / "history.sqlite").series() == (("a", "default"),)
    files.values = {"history": {"path": "none"}}
    unkept = Daemon(files.load)
    unkept._ledgers.start()
    unkept._ledgers.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]


def test_a_changed_history_setting_needs_a_restart(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """A reload says that the setting is not applied."""
    daemon = made(files)
    files.values = {"history": {"keep": "7d"}}
    assert daemon.reload() == ()
    assert "restart the exporter to apply it" in caplog.text


def test_a_folder_that_can_not_be_written_is_said_once(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The history is kept in memory then, and the log says why."""
    (tmp_path / "file").write_text("")
    files.values = {"history": {"path": tmp_path / "file" / "history.sqlite"}}
    daemon = Daemon(files.load)
    daemon._ledgers.start()
    daemon._ledgers.close()
    assert caplog.text.count("kept in memory only") == 1
