"""Alerts end to end: real servers' sockets, the real daemon, Prometheus and Alertmanager with the shipped files, a webhook.

The files are the shipped ones, built with ``--time-scale 0.05``: every window, ``for`` and interval is a twentieth, and so is
the probe's interval.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grafana.alerts import ALERTS
from grafana.build import ROOT
from tests.daemon_settings import PROBES_ONLY
from tests.ports import free_port
from tests.real.conftest import need
from tests.real.daemon import running_daemon, scrape, value
from tests.real.prometheus import Webhook, missing_tools, query, query_range, running_alertmanager, running_prometheus
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.simulated import ReceivedRequest, ServerAnswer, as_json
from tests.servers.vllm import SimulatedVllm
from tests.waiting import eventually

pytestmark = pytest.mark.real

SCALE = 0.05
FAST, SLOW = 24.0, 6.4


@pytest.fixture(autouse=True)
def tools() -> None:
    """The programs that these tests run."""
    missing = missing_tools("prometheus", "promtool", "prometheus-alertmanager", "amtool")
    need(not missing, f"prometheus and prometheus-alertmanager ({missing})")


class ChangingVllm(SimulatedVllm):
    """A vLLM whose model and pace a test changes while it runs."""

    def __init__(self, tokens_per_second: float = FAST) -> None:
        super().__init__(tokens_per_second=tokens_per_second, prefill_seconds=0.05, model="one")
        self.broken = False

    def swap(self, model: str) -> None:
        """Serve another model: a vLLM does that by starting anew."""
        self.model = model
        self.started += 60
        self.generated = 0

    def answer(self, request: ReceivedRequest) -> ServerAnswer:
        """As before, with the present model; a broken one has no answer but an error."""
        if self.broken and request.method == "POST":
            return as_json({"error": {"message": "out of memory", "type": "InternalServerError"}}, 500)
        return super().answer(request)


@pytest.mark.parametrize("name", ["alerts.yml", "baselines.yml"])
def test_the_rules_pass_their_unit_tests(name: str) -> None:
    """``promtool test rules`` on the committed files."""
    folder = ROOT / "deploy/prometheus/tests"
    run = subprocess.run(["promtool", "test", "rules", name], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_shipped_files_are_valid() -> None:
    """``promtool check`` with every lint, and ``amtool check-config``."""
    for command in (
        ["promtool", "check", "config", "--lint-fatal", "deploy/prometheus/prometheus.yml"],
        [
            "promtool",
            "check",
            "rules",
            "--lint=all",
            "--lint-fatal",
            *map(str, (ROOT / "deploy/prometheus/rules").glob("*.yml")),
        ],
        ["amtool", "check-config", "deploy/alertmanager/alertmanager.yml"],
    ):
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr


def inhibited(url: str, alerts: list[dict[str, str]]) -> set[str]:
    """Names of those alerts that Alertmanager keeps quiet when all of them are sent to it."""
    for labels in alerts:
        words = [f"{name}={text}" for name, text in labels.items() if name != "alertname"]
        subprocess.run(["amtool", f"--alertmanager.url={url}", "alert", "add", labels["alertname"], *words], check=True)
    command = ["amtool", f"--alertmanager.url={url}", "alert", "query", "--inhibited", "-o", "json"]
    found: set[str] = set()

    def is_inhibited() -> bool:
        output = subprocess.run(command, capture_output=True, check=True).stdout
        listed = json.loads(output)
        found.clear()
        found.update(alert["labels"]["alertname"] for alert in listed if alert["status"]["inhibitedBy"])
        return bool(found)

    eventually(is_inhibited, what="Alertmanager inhibits something")
    return found


def test_a_cause_silences_its_consequences_of_the_same_server_only(tmp_path: Path) -> None:
    """A server that is down silences its own other alerts; another server's and another host's go through."""
    here = {"job": "llm-probe-exporter", "instance": "a", "target": "vllm"}
    there = here | {"target": "other"}
    with running_alertmanager(ROOT / "deploy/alertmanager/alertmanager.yml", tmp_path, free_port()) as url:
        quiet = inhibited(
            url,
            [
                here | {"alertname": "LLMTargetDown"},
                here | {"alertname": "LLMProbeFailing", "module": "default"},
                here | {"alertname": "LLMSlowerSinceChange", "module": "default"},
                here | {"alertname": "LLMModelCacheDiskFull"},
                there | {"alertname": "LLMThroughputPoor", "module": "default"},
                there | {"alertname": "LLMThroughputBelowExpected", "module": "default"},
                there | {"alertname": "LLMTTFTRegressed", "module": "prefill"},
            ],
        )
        assert quiet == {"LLMProbeFailing", "LLMSlowerSinceChange", "LLMThroughputBelowExpected"}


@pytest.fixture
def servers() -> Iterator[dict[str, Any]]:
    """One server for each fate."""
    made = {
        "falls": ChangingVllm(),
        "killed": ChangingVllm(),
        "breaks": ChangingVllm(),
        "busy": ChangingVllm(SLOW),
        "swaps": ChangingVllm(),
        "reloads": SimulatedLlamaServer(),
    }
    for server in made.values():
        server.start()
    yield made
    for server in made.values():
        server.stop()


def daemon_config(folder: Path, servers: dict[str, Any]) -> Path:
    """Each server is probed every three seconds: a twentieth of a minute."""
    path = folder / "config.yml"
    targets = [
        f"  - {{name: {name}, url: '{server.url}', modules: [default], budget: {{share: 100%}}}}"
        for name, server in servers.items()
    ]
    lines = [
        PROBES_ONLY,
        "modules: {default: {interval: 3s, max_tokens: 16, max_skips: 1000}}",
        "targets:",
        *targets,
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_must_fire_fires_and_nothing_else(tmp_path: Path, servers: dict[str, Any]) -> None:
    """A server falls from 24 to 6.4, one is killed, one breaks: all reach the webhook with their texts and resolve.

    Another is slow but busy with users, one swaps its model, one loads its model again: of those nothing is heard.
    """
    exporter, alertmanager = free_port(), free_port()
    with Webhook() as webhook:
        build = [
            sys.executable,
            "-m",
            "grafana.build",
            "--out",
            tmp_path,
            "--time-scale",
            SCALE,
            "--webhook-url",
            webhook.url,
        ]
        build += ["--exporter", f"127.0.0.1:{exporter}", "--alertmanager", f"127.0.0.1:{alertmanager}"]
        subprocess.run([str(word) for word in build], cwd=ROOT, check=True)
        servers["busy"].users = 3
        began = time.time()
        with (
            running_daemon("--config", daemon_config(tmp_path, servers), port=exporter, log=tmp_path / "daemon.log"),
            running_alertmanager(tmp_path / "deploy/alertmanager/alertmanager.yml", tmp_path / "am", alertmanager),
            running_prometheus(tmp_path / "deploy/prometheus/prometheus.yml", tmp_path / "tsdb") as prometheus,
        ):
            eventually(lambda: tier(exporter, "falls", "excellent") == 1, what="the first speed is excellent")
            eventually(lambda: skipped(exporter, "busy") >= 2, what="a busy server is skipped")
            servers["falls"].pace = 1 / SLOW
            servers["breaks"].broken = True
            killed_at = servers["killed"].stop()
            servers["swaps"].swap("two")
            servers["reloads"].loading = True
            eventually(
                lambda: bool(webhook.got("LLMThroughputPoor", "firing", "falls")), what="poor is told", seconds=120
            )
            eventually(lambda: bool(webhook.got("LLMTargetDown", "firing", "killed")), what="down is told", seconds=60)
            eventually(
                lambda: bool(webhook.got("LLMProbeFailing", "firing", "breaks")), what="failing is told", seconds=60
            )
            check_texts(webhook)
            assert value(scrape(exporter), "llm_target_loading", target="reloads") == 1
            assert query(prometheus, 'llm_probe_tokens_per_second{target="swaps",model="two"}')
            servers["reloads"].loading = False
            servers["falls"].pace = 1 / FAST
            servers["breaks"].broken = False
            servers["killed"].start(killed_at)
            eventually(
                lambda: bool(webhook.got("LLMThroughputPoor", "resolved", "falls")), what="poor resolves", seconds=120
            )
            eventually(
                lambda: bool(webhook.got("LLMTargetDown", "resolved", "killed")), what="down resolves", seconds=60
            )
            eventually(
                lambda: bool(webhook.got("LLMProbeFailing", "resolved", "breaks")), what="failing resolves", seconds=60
            )
            fired = query_range(prometheus, 'ALERTS{alertstate="firing"}', began, time.time(), 1.0)
    assert {(row["metric"]["alertname"], row["metric"].get("target")) for row in fired} == {
        ("LLMThroughputPoor", "falls"),
        ("LLMTargetDown", "killed"),
        ("LLMProbeFailing", "breaks"),
    }
    assert {alert["labels"]["alertname"] for alert in webhook.alerts} == {
        "LLMThroughputPoor",
        "LLMTargetDown",
        "LLMProbeFailing",
    }


def tier(port: int, target: str, name: str) -> float | None:
    """Whether a target's tier is this one."""
    return value(scrape(port), "llm_performance_tier", target=target, module="default", tier=name)


def skipped(port: int, target: str) -> float:
    """How many probes of a target were skipped because it was busy."""
    return value(scrape(port), "llm_probes_total", target=target, module="default", result="skipped_busy") or 0.0


def check_texts(webhook: Webhook) -> None:
    """What a person reads: the figure, the server, the model, a page and a dashboard that name them."""
    (first, *_) = webhook.got("LLMThroughputPoor", "firing", "falls")
    said = first["annotations"]
    assert said["summary"] == next(alert.summary for alert in ALERTS if alert.name == "LLMThroughputPoor")
    assert said["description"].startswith("falls on 127.0.0.1:")
    assert "with one" in said["description"]
    figure = float(said["description"].split(" decodes ")[1].split()[0])
    assert figure == pytest.approx(SLOW, rel=0.1)
    assert said["runbook_url"] == f"http://{first['labels']['instance']}/runbook#llmthroughputpoor"
    assert "/d/llm-target?" in said["dashboard_url"]
    assert "var-target=falls" in said["dashboard_url"]
    for alert in webhook.alerts:
        for text in alert["annotations"].values():
            assert "{{" not in text
            assert "<no value>" not in text
            assert "<error" not in text
