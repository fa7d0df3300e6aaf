"""Through the whole daemon: a server whose answers go wrong at full speed, in metrics, on the page, in the API and in the log."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from exporter.daemon import Daemon
from exporter.settings import Discovery, Docker, HistoryFile, Host, Settings
from tests.ports import free_port
from tests.probe.faults import FAULTS
from tests.real.daemon import scrape, value
from tests.servers.answering import AnsweringServer
from tests.waiting import eventually

FAULT = {each.name: each for each in FAULTS}


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
        ("slashes", ("default", "degenerate", "short", "degenerate")),
        ("other-slots-answer", ("default", "foreign_answer", "short", "foreign")),
        ("wrong-logits-above-micro-batch", ("canary", "degenerate", "deep", "degenerate")),
        ("five-of-23-tools", ("canary", "wrong_answer", "deep", "wrong")),
    ],
)
def test_a_fault_is_seen_and_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, told: tuple[str, str, str, str]
) -> None:
    """Right before, named in every place while it lasts, and right again after it; no answer's text is in metrics or log."""
    module, result, depth, verdict = told
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
            assert seen("llm_probe_prefill_tokens_per_second", module="canary", model="answering")
            assert seen("llm_probe_tokens_per_second", module="canary", model="answering")
            assert seen("llm_performance_tier", module="canary", tier="good") is None
            server.use(FAULT[name])
            eventually(lambda: seen("llm_probes_total", module=module, result=result), result)
            eventually(
                lambda: seen("llm_answer_checks_total", module="canary", depth=depth, verdict=verdict), "the verdict"
            )
            eventually(lambda: seen("llm_probe_success", module=module) == 0, "the failure")
            assert seen("llm_probe_tokens_per_second", module=module, model="answering") is None
            assert seen("llm_probe_ttft_seconds", module=module, model="answering") is None
            status = json.loads(read(f"{url}/api/v1/status"))
            assert status["targets"][0]["verdict"] == "wrong"
            assert "1 is wrong" in read(f"{url}/")
            recent = json.loads(read(f"{url}/api/v1/probes?target=t"))["probes"]
            assert any(each["result"] == result and each["error"] for each in recent)
            server.use(None)
            eventually(lambda: correct(1) and seen("llm_probe_success", module=module) == 1, "right answers again")
        finally:
            daemon.drain()
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert f"by {module}: {result}" in logged
    assert "repeats" not in logged


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
