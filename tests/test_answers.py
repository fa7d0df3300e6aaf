"""Through the whole daemon: a server whose answers go wrong at full speed, in metrics, on the page, in the API and in the log."""

import html
import json
import logging
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest
import yaml

from exporter.daemon import Daemon
from exporter.probe.answer import FAULTS, AnswerFault
from exporter.settings import Discovery, Docker, HistoryFile, Host, Settings
from grafana.advice import remedy_of
from grafana.alerts import ALERTS
from tests.ports import free_port
from tests.probe import faults
from tests.real.daemon import scrape, value
from tests.samples import Samples
from tests.servers.answering import AnsweringServer
from tests.waiting import eventually

RULES: Final = Path(__file__).parents[1] / "deploy" / "prometheus" / "rules"
FAULT = {each.name: each for each in faults.FAULTS}
BANGS: Final = faults.Fault("bangs", "made up", 0, frozenset({"text"}), faults.repeating("!"))


def settings_of(folder: Path, url: str, **target: Any) -> Settings:
    """Settings of a daemon that probes one server often, and nothing else."""
    values: dict[str, Any] = {
        "listen": f"127.0.0.1:{free_port()}",
        "targets": [{"name": "t", "url": url, "budget": {"share": 1.0}, **target}],
        "discovery": Discovery(local=False, docker=False),
        "docker": Docker(enabled=False),
        "host": Host(sysfs=folder, rocm=folder),
        "cache": {"paths": ()},
        "modules": {"default": {"interval": "1s", "max_tokens": 64}, "canary": {"interval": "1s"}},
    }
    return Settings.model_validate(values)


def read(url: str) -> str:
    """A page of the daemon."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("slashes", ("default", "degenerate", "short", "degenerate", "repeated_character")),
        ("other-slots-answer", ("default", "foreign_answer", "short", "foreign", "name_of_another_request")),
        ("wrong-logits-above-micro-batch", ("canary", "degenerate", "deep", "degenerate", "mixed_scripts")),
        ("five-of-23-tools", ("canary", "wrong_answer", "deep", "wrong", "fact_not_recalled")),
    ],
)
def test_a_fault_is_seen_and_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, told: tuple[str, str, str, str, AnswerFault]
) -> None:
    """Right before, named in every place while it lasts, and right again after it; no answer's text is in metrics or log."""
    module, result, depth, verdict, fault = told
    with AnsweringServer() as server:
        settings = settings_of(tmp_path, server.url)
        port, url = int(settings.listen.rpartition(":")[2]), f"http://{settings.listen}"
        daemon = Daemon(lambda: settings)
        daemon.start()

        def seen(name: str, **labels: str) -> float | None:
            return value(scrape(port), name, target="t", **labels)

        def correct(deep: float) -> bool:
            return seen("llm_answer_correct", module="canary", depth="deep") == deep

        try:
            eventually(lambda: correct(1) and seen("llm_probe_success", module="default") == 1, "right answers")
            # A burst of text has no speed, and on a busy machine a short answer may come as one.
            eventually(lambda: seen("llm_probe_tokens_per_second", module="default", model="answering"), "a speed")
            for metric in ("llm_probe_tokens_per_second", "llm_probe_prefill_tokens_per_second"):
                eventually(partial(seen, metric, module="canary", model="answering"), "a speed at depth")
            assert seen("llm_performance_tier", module="canary", tier="good") is None
            server.use(FAULT[name])
            eventually(lambda: seen("llm_probes_total", module=module, result=result), result)
            eventually(
                lambda: seen("llm_answer_checks_total", module="canary", depth=depth, verdict=verdict), "the verdict"
            )
            eventually(lambda: seen("llm_probe_success", module=module) == 0, "the failure")
            assert seen("llm_probe_tokens_per_second", module=module, model="answering") is None
            assert seen("llm_probe_ttft_seconds", module=module, model="answering") is None
            eventually(lambda: seen("llm_answer_fault_info", module=module, fault=fault) == 1, "the fault by its name")
            status = json.loads(read(f"{url}/api/v1/status"))
            assert status["targets"][0]["verdict"] == "wrong"
            assert "t is wrong" in read(f"{url}/")
            recent = json.loads(read(f"{url}/api/v1/probes?target=t"))["probes"]
            errors = [each["error"] for each in recent if each["result"] == result]
            assert errors
            server.use(None)
            eventually(lambda: correct(1) and seen("llm_probe_success", module=module) == 1, "right answers again")
            assert seen("llm_answer_fault_info", module=module) is None
        finally:
            daemon.drain()
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert f"by {module}: {result}: {FAULTS[fault]} ({fault})" in logged
    assert not [each for each in errors if '"' in each and each[each.index('"') :] in logged]


@dataclass(frozen=True, slots=True)
class Told:
    """What a daemon said of a server that answers ``!!!!``."""

    samples: Samples
    page: str
    probes: list[dict[str, Any]]
    log: list[str]


@pytest.fixture
def told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Told:
    """All of it, once three probes have ended so."""
    caplog.set_level(logging.INFO)
    with AnsweringServer(BANGS) as server:
        settings = settings_of(tmp_path, server.url, modules=["default"])
        port, url = int(settings.listen.rpartition(":")[2]), f"http://{settings.listen}"
        daemon = Daemon(lambda: settings)
        daemon.start()
        try:
            eventually(
                lambda: (value(scrape(port), "llm_probes_total", target="t", result="degenerate") or 0) >= 3, "3 probes"
            )
            recent = json.loads(read(f"{url}/api/v1/probes?target=t"))["probes"]
            return Told(scrape(port), read(f"{url}/"), recent, list(caplog.messages))
        finally:
            daemon.drain()


def test_what_is_wrong_is_named_by_metric_page_and_log(told: Told) -> None:
    """Each names the kind; the page and ``/api`` alone name what repeats: no label and no line of the log holds it."""
    fault = {"target": "t", "module": "default", "fault": "repeated_character"}
    assert value(told.samples, "llm_answer_fault_info", **fault) == 1
    assert not [labels for _, labels in told.samples for _, text in labels if "!" in text]
    assert 'the answer repeats one character to its end: "!"' in html.unescape(told.page)
    newest = told.probes[0]
    assert (newest["answer_fault"], newest["error"][-3:]) == ("repeated_character", '"!"')
    named = "the answer repeats one character to its end (repeated_character); see the status page"
    assert f"probe of t by default: degenerate: {named}" in told.log
    assert not [line for line in told.log if "!" in line]


def test_the_alert_names_what_is_wrong(told: Told, tmp_path: Path) -> None:
    """By the shipped rules, what the daemon exports raises LLMAnswersDegenerate, whose text names the kind and no answer."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    alert = next(each for each in ALERTS if each.name == "LLMAnswersDegenerate")
    probe = {"job": "llm-probe-exporter", "instance": "box:9937", "target": "t", "module": "default"}
    texts = {
        "summary": alert.summary,
        "description": (
            "Answers to the default probe of t on box:9937 are nonsense or belong to another request, however fast they come: "
            "repeated_character. The status page and /api/v1/probes say what repeats."
        ),
        **remedy_of(alert),
        "runbook_url": "http://box:9937/runbook#llmanswersdegenerate",
        "dashboard_url": f"http://localhost:3000/d/llm-target?{urlencode({f'var-{key}': each for key, each in probe.items()})}",
    }
    labels = {"severity": "critical", "service": "llm-probe", "fault": "repeated_character", **probe}
    firing = 'ALERTS{alertstate="firing", target="t", severity!="info"}'
    case = {
        "rule_files": [str(RULES / "recording.yml"), str(RULES / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": list(series_of(told.samples, rising="degenerate")),
                "promql_expr_test": [
                    {
                        "expr": f"count by (alertname) ({firing})",
                        "eval_time": "30m",
                        "exp_samples": [{"labels": '{alertname="LLMAnswersDegenerate"}', "value": 1}],
                    }
                ],
                "alert_rule_test": [
                    {
                        "eval_time": "30m",
                        "alertname": alert.name,
                        "exp_alerts": [{"exp_labels": labels, "exp_annotations": texts}],
                    }
                ],
            }
        ],
    }
    (tmp_path / "case.yml").write_text(yaml.safe_dump(case))
    ran = subprocess.run(
        [promtool, "test", "rules", tmp_path / "case.yml"], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def series_of(samples: Samples, *, rising: str) -> Iterator[dict[str, str]]:
    """Each sample as it would go on for half an hour: times and the count of one result rise, all else stays."""
    for (name, labels), number in samples.items():
        if not name.startswith("llm_"):
            continue
        own = {**dict(labels), "job": "llm-probe-exporter", "instance": "box:9937"}
        words = ",".join(f"{key}={json.dumps(each)}" for key, each in sorted(own.items()))
        rises = name.endswith("_timestamp_seconds") or (name == "llm_probes_total" and own["result"] == rising)
        yield {"series": f"{name}{{{words}}}", "values": "0+60x30" if rises else f"{number}+0x30"}


def test_another_model_behind_the_same_name_is_a_change(tmp_path: Path) -> None:
    """The fingerprint's step is told as a change of the answers; what was learned before a restart is not learned anew."""
    with AnsweringServer(logprobs=True) as server:
        settings = settings_of(tmp_path, server.url)
        settings = settings.model_copy(update={"history": HistoryFile(path=tmp_path / "history.sqlite")})
        port, url = int(settings.listen.rpartition(":")[2]), f"http://{settings.listen}"
        daemon = Daemon(lambda: settings)
        daemon.start()
        try:
            eventually(
                lambda: value(scrape(port), "llm_answer_fingerprint_distance", target="t") is not None, "a distance"
            )
        finally:
            daemon.drain()
        server.use(FAULT["accuracy-lost-in-a-commit"])
        daemon = Daemon(lambda: settings)
        daemon.start()
        try:
            change = {"what": "answers", "before": "fingerprint 1", "after": "fingerprint 2"}
            eventually(lambda: value(scrape(port), "llm_last_change_info", target="t", **change) == 1, "the change")
            assert (value(scrape(port), "llm_answer_fingerprint_distance", target="t") or 0) > 6
            assert "odel&#39;s answers changed, though its name did not" in read(f"{url}/")
            (told,) = json.loads(read(f"{url}/api/v1/changes?target=t"))["changes"]
            assert told["differences"] == [change]
        finally:
            daemon.drain()


def test_a_target_without_the_canary_has_none(tmp_path: Path) -> None:
    """``modules: [default]`` switches it off: no question, no series."""
    with AnsweringServer() as server:
        settings = settings_of(tmp_path, server.url, modules=["default"])
        port = int(settings.listen.rpartition(":")[2])
        daemon = Daemon(lambda: settings)
        daemon.start()
        try:
            eventually(lambda: value(scrape(port), "llm_probe_success", target="t") == 1, "a probe")
            assert not [name for name, _ in scrape(port) if name.startswith("llm_answer_")]
            assert not any("cellar" in each["messages"][0]["content"] for each in server.posts())
        finally:
            daemon.drain()
