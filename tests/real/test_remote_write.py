"""A real Prometheus agent that sends what it scrapes from the demo to a second Prometheus, by the shipped configurations."""

import json
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_ports
from tests.real.conftest import need
from tests.waiting import eventually

pytestmark = pytest.mark.real

FOLDER = Path(__file__).parents[2] / "deploy" / "remote-write"


@contextmanager
def running(log: Path, *command: str) -> Iterator[None]:
    """A program that is ended at the end."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def query(port: int, expression: str) -> list[Any]:
    """What a Prometheus gives for an expression; empty where it doesn't answer."""
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return list(json.load(answer)["data"]["result"])
    except OSError:
        return []


@pytest.mark.parametrize(("name", "options"), [("agent.yml", ["--agent"]), ("central.yml", [])])
def test_promtool_accepts_the_configurations(name: str, options: list[str]) -> None:
    """Prometheus' own check takes both files, with the rules that one of them names."""
    need(shutil.which("promtool"), "promtool")
    done = subprocess.run(
        ["promtool", "check", "config", *options, FOLDER / name],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stdout + done.stderr


def test_an_agent_sends_to_a_second_prometheus(tmp_path: Path) -> None:
    """Speeds of the demo arrive at the central Prometheus under the machine's name, and its rules work on them."""
    need(shutil.which("prometheus"), "prometheus")
    demo, agent, central = free_ports(3)
    shutil.copytree(FOLDER.parent / "prometheus", tmp_path / "prometheus")
    (tmp_path / "remote-write").mkdir()
    for name in ("agent.yml", "central.yml"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        text = text.replace("127.0.0.1:9937", f"127.0.0.1:{demo}").replace("127.0.0.1:9090", f"127.0.0.1:{central}")
        (tmp_path / "remote-write" / name).write_text(text.replace("_interval: 15s", "_interval: 1s"), encoding="utf-8")
    prometheus, configs = "prometheus", tmp_path / "remote-write"
    with (
        running(tmp_path / "demo.log", sys.executable, "-m", "exporter", "demo", f"--listen=127.0.0.1:{demo}"),
        running(
            tmp_path / "central.log", prometheus, f"--config.file={configs / 'central.yml'}",
            f"--storage.tsdb.path={tmp_path / 'central'}", f"--web.listen-address=127.0.0.1:{central}",
            "--web.enable-remote-write-receiver",
        ),
        running(
            tmp_path / "agent.log", prometheus, f"--config.file={configs / 'agent.yml'}", "--enable-feature=agent",
            f"--storage.agent.path={tmp_path / 'agent'}", f"--web.listen-address=127.0.0.1:{agent}",
        ),
    ):  # fmt: skip
        what = f"a speed arrives; the agent's log is {tmp_path / 'agent.log'}"
        speed = 'llm_probe_tokens_per_second{instance="big-box"}'
        speeds = eventually(lambda: query(central, speed), what, seconds=90, every=0.5)
        assert speeds[0]["metric"]["job"] == "llm-probe-exporter"
        assert float(speeds[0]["value"][1]) > 1
        assert query(central, 'up{job="llm-probe-exporter", instance="big-box"}')[0]["value"][1] == "1"
        recorded = "target_module_result:llm_probes:increase_recent"
        eventually(lambda: query(central, recorded), "a recorded series", seconds=90, every=0.5)
