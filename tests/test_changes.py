"""The whole daemon over real sockets beside a server that changes: what it is said to have cost, also after a kill -9."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.daemon_settings import PROBES_ONLY
from tests.ports import free_port
from tests.real.daemon import forked_daemon, scrape, value
from tests.samples import Samples
from tests.servers.vllm import SimulatedVllm
from tests.waiting import eventually

BEFORE, AFTER = 200.0, 106.0
"""Tokens a second, 47 % apart."""
WITHIN = 6
"""Good probes since the change, after which all that tells of it has to."""


def changes(port: int, config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a person runs it beside the daemon."""
    environ = {**os.environ, "LLM_PROBE_LISTEN": f"127.0.0.1:{port}"}
    command = [sys.executable, "-m", "exporter", "changes", "--config", str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environ)


def get(port: int, path: str) -> str:
    """The body of an answer."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return str(answer.read().decode())


def good(samples: Samples) -> float:
    """How many probes were good since the daemon's start."""
    return value(samples, "llm_probes_total", target="vllm", module="default", result="ok") or 0.0


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.yml"


def configure(path: Path, url: str) -> None:
    path.write_text(f"""
targets: [{{name: vllm, url: "{url}", budget: {{share: 100%}}}}]
modules: {{default: {{interval: 1s, max_tokens: 40}}}}
{PROBES_ONLY}host: {{sysfs: {path.parent}, proc: {path.parent}, rocm: {path.parent}}}
history: {{path: state}}
""")


def replace_by(server: SimulatedVllm, version: str, speed: float) -> None:
    """End the server, and start another version on its port."""
    port = server.kill()
    server.version, server.pace = version, 1 / speed
    server.started += 100.0
    server.start(port)


def slowed_down(port: int) -> Samples:
    """A scrape that tells of the drop."""
    found: list[Samples] = []

    def told() -> bool:
        found.append(scrape(port))
        return value(found[-1], "llm_slowdown_speed_ratio", target="vllm") is not None

    eventually(told, "the change that made it slower")
    return found[-1]


def test_a_slower_version_is_named_although_the_daemon_was_killed(tmp_path: Path, config: Path) -> None:
    """A server is replaced while the daemon is dead: metrics, page, API and command name version, before, after and ratio."""
    (tmp_path / "state").mkdir()
    with SimulatedVllm(tokens_per_second=BEFORE, version="0.11.0") as server:
        configure(config, server.url)
        first = free_port()
        with forked_daemon("--config", config, port=first, log=tmp_path / "first") as daemon:
            eventually(lambda: good(scrape(first)) >= 12, "a dozen of good probes")
            size = value(scrape(first), "llm_probe_exporter_history_bytes")
            assert size
            daemon.kill()
            daemon.wait()
        replace_by(server, "0.12.0", AFTER)
        second = free_port()
        with forked_daemon("--config", config, port=second, log=tmp_path / "second"):
            samples = slowed_down(second)
            assert good(samples) <= WITHIN
            ratio = value(samples, "llm_slowdown_speed_ratio", target="vllm", what="backend version")
            assert ratio == pytest.approx(AFTER / BEFORE, rel=0.1)
            change = {"what": "backend version", "before": "0.11.0", "after": "0.12.0"}
            assert value(samples, "llm_slowdown_speed_ratio", cause="change", **change) == ratio
            assert value(samples, "llm_last_change_info", target="vllm", **change) == 1
            page = " ".join(get(second, "/").split())
            assert "ackend version changed from 0.11.0 to 0.12.0" in page
            (told,) = json.loads(get(second, "/api/v1/changes?target=vllm"))["changes"]
            assert told["differences"] == [change]
            asked = changes(second, config)
            assert asked.returncode == 0, asked.stderr
            assert f"from the daemon at http://127.0.0.1:{second}" in asked.stderr
            assert "backend version changed from 0.11.0 to 0.12.0" in asked.stdout
            assert "slower: " in asked.stdout
            accepted = changes(second, config, "--accept", "--target", "vllm")
            assert accepted.stdout.startswith("accepted the current speed of vllm")
            assert value(scrape(second), "llm_slowdown_speed_ratio", target="vllm") is None
            assert changes(second, config, "--target", "nobody").returncode == 1
        from_file = changes(free_port(), config, "--json")
        assert from_file.returncode == 0, from_file.stderr
        assert json.loads(from_file.stdout)["source"].startswith("no daemon answers; read from ")


def test_a_rollback_clears_it(tmp_path: Path, config: Path) -> None:
    """The server changes beside the running daemon, and back: the drop is told, and is over a few probes after."""
    (tmp_path / "state").mkdir()
    with SimulatedVllm(tokens_per_second=BEFORE, version="0.11.0") as server:
        configure(config, server.url)
        port = free_port()
        with forked_daemon("--config", config, port=port, log=tmp_path / "log"):
            eventually(lambda: good(scrape(port)) >= 12, "a dozen of good probes")
            replace_by(server, "0.12.0", AFTER)
            slowed_down(port)
            replace_by(server, "0.11.0", BEFORE)
            eventually(
                lambda: value(scrape(port), "llm_slowdown_speed_ratio", target="vllm") is None,
                "the drop is over",
            )
            newest = json.loads(get(port, "/api/v1/changes"))["changes"]
            assert [each["differences"][0]["after"] for each in newest] == ["0.11.0", "0.12.0"]
            assert newest[1]["modules"][0]["verdict"] == "back"
