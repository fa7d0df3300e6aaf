"""The whole daemon beside a history that is switched off, can't be written, or is damaged: it probes, serves, and says so once."""

import json
import os
import resource
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from exporter.history import store
from exporter.history.store import open_reader
from exporter.settings import Target
from tests.daemon_settings import settings_of
from tests.ports import free_port
from tests.real.daemon import forked_daemon, scrape
from tests.servers.vllm import SimulatedVllm
from tests.test_changes import configure, get, good
from tests.test_daemon import get as fetched
from tests.test_daemon import running, server
from tests.test_daemon import scrape as scraped
from tests.test_daemon import value as one
from tests.waiting import eventually

DAMAGED = b"not a database at all, but longer than its header of a hundred bytes" * 30


@dataclass(frozen=True)
class Kept:
    """A running daemon: its port, its process id, its folder, and where its log is."""

    port: int
    pid: int
    folder: Path
    log: Path

    def warnings(self) -> list[str]:
        """The lines that tell a person of the history."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if "component=history" in line and "level=warning" in line]

    def probed(self, count: int) -> None:
        """Wait until so many probes were good."""
        eventually(lambda: good(scrape(self.port)) >= count, f"{count} good probes", seconds=60)


@contextmanager
def probing(folder: Path, history: Path | str) -> Iterator[Kept]:
    """A daemon with this history beside a fast server. It has to answer a scrape, tell changes, and end well, whatever it is."""
    with SimulatedVllm(tokens_per_second=200.0) as server:
        config, log = folder / "config.yml", folder / "log"
        configure(config, server.url)
        config.write_text(config.read_text().replace("history: {path: state}", f"history: {{path: {history}}}"))
        port = free_port()
        with forked_daemon("--config", config, port=port, log=log) as daemon:
            kept = Kept(port, daemon.pid, folder, log)
            yield kept
            kept.probed(3)
            assert json.loads(get(port, "/api/v1/changes"))["changes"] == []
            assert "vllm" in get(port, "/?range=2d")
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(30) == 0


def test_none_writes_no_file(tmp_path: Path) -> None:
    """The history is in memory, nothing is warned of, and the folder holds the configuration and the log."""
    with probing(tmp_path, "none") as kept:
        kept.probed(3)
        assert kept.warnings() == []
    assert {each.name for each in tmp_path.iterdir()} == {"config.yml", "log"}


def test_a_folder_that_can_not_be_written_is_said_once(tmp_path: Path) -> None:
    """The history is in memory only, and says where it would have been."""
    folder = Path("/sys/kernel") if os.geteuid() == 0 else tmp_path / "read-only"
    folder.mkdir(mode=0o555, exist_ok=True)
    path = folder / "history.sqlite"
    with probing(tmp_path, path) as kept:
        kept.probed(3)
    (line,) = kept.warnings()
    assert "memory only" in line
    assert str(path) in line


def test_a_file_that_can_not_grow_is_said_once(tmp_path: Path) -> None:
    """As on a full disk: what is new waits, the daemon goes on, and the file that is there stays whole."""
    path = tmp_path / "history.sqlite"
    with probing(tmp_path, path) as kept:
        kept.probed(2)
        size = max(each.stat().st_size for each in tmp_path.glob("history.sqlite*"))
        resource.prlimit(kept.pid, resource.RLIMIT_FSIZE, (size, size))
        eventually(lambda: bool(kept.warnings()), "the full disk is said", seconds=60)
        kept.probed(12)
    (line,) = kept.warnings()[:1]
    assert "can't be written" in line
    assert len([each for each in kept.warnings() if "can't be written" in each]) == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_damaged_file_is_set_aside_and_said_once(tmp_path: Path) -> None:
    """Its bytes are kept under another name, and a new file takes the probes."""
    path = tmp_path / "history.sqlite"
    path.write_bytes(DAMAGED)
    with probing(tmp_path, path) as kept:
        kept.probed(3)
    (line,) = kept.warnings()
    (aside,) = tmp_path.glob("history.sqlite.damaged-*")
    assert aside.name in line
    assert aside.read_bytes() == DAMAGED
    assert len(open_reader(path).samples("vllm", "default", 0.0, 1e12)) >= 3


def test_a_scrape_reads_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it tells of changes is rendered when it is published: only the page of two days opens the file."""
    opened: list[Path] = []
    connect = store._connect

    def counted(path: Path, mode: str) -> sqlite3.Connection:
        opened.append(path)
        return connect(path, mode)

    monkeypatch.setattr(store, "_connect", counted)
    with server() as exact:
        settings = settings_of(
            tmp_path, [Target(url=exact.url, name="t")], history={"path": tmp_path / "history.sqlite"}
        )
        with running(lambda: settings) as (_, url):
            eventually(lambda: one(scraped(url), "llm_probe_success", target="t") == 1, "a good probe", seconds=60)
            before = len(opened)
            assert before > 0
            for _ in range(20):
                assert one(scraped(url), "llm_probe_success", target="t") == 1
            assert len(opened) == before
            fetched(f"{url}/?range=2d")
            assert len(opened) > before
