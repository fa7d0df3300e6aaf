"""``changes`` where no daemon runs: what the file says, what is accepted in it, and what stands in the way."""

import json
import os
import socket
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from exporter.cli import main
from exporter.demo import SimulatedServers, Simulation
from exporter.history.change import Ledger, observe_facts
from exporter.history.compare import shape_fact
from exporter.history.sample import Sample
from exporter.history.store import Store, open_reader
from exporter.settings import Module
from exporter.watched_facts import shape_of
from tests.scenes import fed
from tests.waiting import eventually


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A history in which a new image halved the speed a quarter of an hour ago; its daemon is gone."""
    path, now = tmp_path / "history.sqlite", 1_790_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    ledger = fed(observe_facts(Ledger("vllm"), now - 9000, {"image": "A"}), 12.0, 0.4, 8000, 900)
    ledger = fed(observe_facts(ledger, now - 900, {"image": "B"}), 6.0, 0.8, 840, 240)
    store = Store(path, clock=lambda: now)
    store.start()
    store.save(ledger)
    for number in range(130):
        at = now - 8000 + 60 * number
        store.add("vllm", "default", Sample(at, 12.0 if at < now - 900 else 6.0, 0.4))
    assert store.close()
    return path


def run(path: Path, *arguments: str, command: str = "changes") -> Result:
    """A command beside no daemon."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        listen = f"127.0.0.1:{closed.getsockname()[1]}"
    clean = {name: None for name in os.environ if name.startswith("LLM_PROBE_")}
    environ = {**clean, "LLM_PROBE_LISTEN": listen, "LLM_PROBE_HISTORY__PATH": str(path)}
    return CliRunner().invoke(main, [command, *arguments], env=environ)


def test_the_file_says_what_changed(path: Path) -> None:
    """A table of what, before, after and the ratio with its interval; stderr says where it comes from."""
    result = run(path)
    assert result.exit_code == 0, result.stderr
    heading, row = result.stdout.splitlines()
    assert heading.split("  ")[0] == "TIME"
    assert "vllm" in row
    assert "image changed from A to B" in row
    assert "slower: 6.0, before 12.0 tok/s, \N{MINUS SIGN}50 %" in row
    assert str(path) in result.stderr
    found = json.loads(run(path, "--json").stdout)
    (change,) = found["changes"]
    assert change["modules"][0]["tokens_per_second"]["ratio"] == pytest.approx(0.5, rel=0.02)
    assert "nothing changed in the last 5m" in run(path, "--since", "5m").stdout


def test_a_level_is_accepted_in_the_file(path: Path) -> None:
    """Nothing stands any more, and the entry says so."""
    result = run(path, "--accept", "--target", "vllm")
    assert result.exit_code == 0, result.stderr
    assert "accepted the current speed of vllm" in result.stdout
    assert open_reader(path).ledgers()["vllm"].standing == ()
    assert "accepted: 6.0, before 12.0 tok/s" in run(path).stdout


def test_without_a_target_nothing_is_accepted(tmp_path: Path) -> None:
    """A history that has just begun."""
    path = tmp_path / "history.sqlite"
    store = Store(path)
    store.start()
    assert store.close()
    result = run(path, "--accept")
    assert result.exit_code == 0
    assert result.stdout.startswith("nothing to accept: no target has a history yet (")


def test_what_is_not_there_is_said(path: Path, tmp_path: Path) -> None:
    """An unknown target, no file, no history at all, a wrong duration, a daemon that is not there."""
    unknown = run(path, "--target", "nobody")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "there is no target nobody" in unknown.stderr
    assert run(path, "--target", "nobody", "--accept").exit_code == 1
    missing = run(tmp_path / "none.sqlite")
    assert missing.exit_code == 1
    assert "there is no history at" in missing.stderr
    assert "in memory only" in run(Path("none")).stderr
    assert run(path, "--since", "yesterday").exit_code == 2
    elsewhere = run(path, "--url", "http://127.0.0.1:1")
    assert elsewhere.exit_code == 1
    assert "127.0.0.1:1" in elsewhere.stderr
    (tmp_path / "text").write_text("no database, but some text that is long enough to be one" * 20)
    assert run(tmp_path / "text").exit_code == 1


def test_a_file_that_a_daemon_writes_is_left_alone(path: Path) -> None:
    """A daemon that can't be asked still has the only right to write."""
    store = Store(path)
    store.start()
    try:
        eventually(lambda: store.status.path is not None, "the store is open")
        refused = run(path, "--accept")
    finally:
        store.close()
    assert refused.exit_code == 1
    assert "another process writes this file" in refused.stderr


def test_two_times_are_compared(path: Path) -> None:
    """The facts that differ between them are named, and the verdict is that of any comparison."""
    result = run(path, "vllm@1h", "vllm@8m", command="compare")
    assert result.exit_code == 1, result.stderr
    assert "image differs" in result.stdout, result.stderr
    assert "0.50×" in result.stdout
    assert "slower" in result.stdout
    found = json.loads(run(path, "vllm@8m", "vllm@1h", "--json", command="compare").stdout)
    assert found["ratio"] == pytest.approx(2.0, rel=0.01)
    assert found["verdict"] in {"minimum", "good"}
    same = run(path, "vllm@1h", "vllm@90m", command="compare")
    assert "within the noise" in same.stdout


def test_a_time_that_the_history_does_not_have_is_said(path: Path, tmp_path: Path) -> None:
    """An unknown target, a time long ago, a time that is none, and no history."""
    for name, why in (
        ("nobody@1h", "there is no history of nobody"),
        ("vllm@20d", "the history has no good probe"),
        ("vllm@soon", "is not a time"),
    ):
        result = run(path, name, "vllm@8m", command="compare")
        assert result.exit_code == 1
        assert f"{name}: {why}" in result.stderr
    assert "there is no history at" in run(tmp_path / "none", "vllm@1h", "vllm@2h", command="compare").stderr


@pytest.mark.parametrize(("shape", "code"), [("8 prompt tokens", 2), (shape_of(Module()), 0)])
def test_a_server_of_now_is_compared_with_its_past_by_the_same_shape(tmp_path: Path, shape: str, code: int) -> None:
    """What the module sent then and what it sends now: where these differ, it is refused."""
    path, now = tmp_path / "history.sqlite", time.time()
    store = Store(path)
    store.start()
    store.save(observe_facts(Ledger("vllm"), now - 9000, {shape_fact("default"): shape}))
    for number in range(20):
        store.add("vllm", "default", Sample(now - 4000 + 60 * number, 12.0 + number / 100, 0.4))
    assert store.close()
    with SimulatedServers((Simulation("fast", "simulated", 100.0, 0.02, "", wavers=0.0),)) as servers:
        result = run(path, "vllm@1h", servers.urls[0][1], "--count", "3", command="compare")
    assert result.exit_code == code, result.output
    assert ("not compared: the module default differs: 8 prompt tokens and 64 prompt tokens" in result.stderr) == (
        code == 2
    )
