"""``probe --markdown``: a table to paste, with what communities ask for, unknowns named, and nothing private."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exporter.cli import main
from exporter.demo import SimulatedServers, Simulation
from exporter.evidence import evidence_markdown
from exporter.report import combined
from exporter.settings import Thresholds
from tests.host.machines import build

FAST = Simulation("fast", "simulated|14b", 100.0, 0.02, "", wavers=0.02)
ROWS = [
    "GPU", "memory", "kernel", "BIOS", "firmware", "power profile", "amdgpu driver", "ROCm of the host", "server", "image", "model",
    "quantization", "weights", "settings", "answer", "decode speed", "time to first token", "prefill", "depth", "output",
    "ceiling by memory bandwidth", "measured by",
]  # fmt: skip
LIMITS = Thresholds(excellent=20, good=15, acceptable=10)


def rows_of(markdown: str) -> dict[str, str]:
    """The table as what → how it is."""
    lines = markdown.splitlines()
    assert lines[:2] == ["| what | |", "|---|---|"]
    pairs = [line.strip("| ").partition(" | ") for line in lines[2:]]
    return {what: text for what, _, text in pairs}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A Strix Halo as files."""
    root = build("framework-desktop-fedora", tmp_path / "machine")
    (tmp_path / "proc").mkdir()
    path = tmp_path / "config.yml"
    path.write_text(
        f"host: {{sysfs: {root / 'sys'}, proc: {tmp_path / 'proc'}, rocm: {tmp_path / 'rocm'}}}\n"
        "docker: {enabled: false}\ncache: {paths: []}\n"
    )
    return path


def test_the_evidence_has_every_row(config: Path) -> None:
    """Machine, software, model, speed with the spread of its runs; what isn't known says so in its row."""
    clean = {name: None for name in os.environ if name.startswith("LLM_PROBE_")}
    with SimulatedServers((FAST,)) as servers:
        url = servers.urls[0][1]
        arguments = ["probe", url, "--config", str(config), "--count", "3", "--markdown"]
        result = CliRunner().invoke(main, arguments, env=clean)
    assert result.exit_code == 0, result.stderr
    rows = rows_of(result.stdout)
    assert list(rows) == ROWS
    assert "gfx1151" in rows["GPU"]
    assert "40 CUs" in rows["GPU"]
    assert "mes 0x83" in rows["firmware"]
    assert "(median of 3: " in rows["decode speed"]
    assert rows["answer"] == "fine (3 of 3 runs)"
    assert rows["model"] == "simulated\\|14b"
    assert rows["quantization"] == "unknown"
    assert rows["ceiling by memory bandwidth"].startswith("unknown: ")


def test_the_evidence_holds_nothing_private(config: Path) -> None:
    """No URL, host name, user or path: neither of this machine nor of the server."""
    clean = {name: None for name in os.environ if name.startswith("LLM_PROBE_")}
    simulation = Simulation("private", "/home/canary-user/models/qwen.gguf", 400.0, 0.02, "", wavers=0.0)
    with SimulatedServers((simulation,)) as servers:
        result = CliRunner().invoke(
            main, ["probe", servers.urls[0][1], "--config", str(config), "--markdown"], env=clean
        )
    assert result.exit_code == 0, result.stderr
    for private in ("http", "127.0.0.1", "canary-user", "/home", "/models", "/tmp", socket.gethostname()):
        assert private not in result.stdout, private
    assert rows_of(result.stdout)["model"] == "qwen.gguf"


def test_a_failed_probe_and_a_machine_elsewhere_are_said() -> None:
    """No speed of before, the kind of failure without the address in its message, and no facts of another machine."""
    run: dict[str, Any] = {
        "success": False, "result": "connect", "error": "10.0.0.7:8000 refused", "module": "default", "concurrency": 1, "tokens": {},
        **dict.fromkeys(
            ("backend", "backend_version", "model", "quantization", "settings", "tokens_per_second", "ttft_seconds",
             "end_to_end_tokens_per_second", "aggregate_tokens_per_second", "prefill_tokens_per_second", "server_tokens_per_second",
             "time_to_first_answer_seconds", "clock_error_seconds", "inter_token_seconds", "phase_seconds", "token_count_exact",
             "stream_buffered", "cold_start", "ceiling_tokens_per_second", "no_ceiling", "efficiency", "expected")
        ),
    }  # fmt: skip
    rows = rows_of(evidence_markdown(combined([run, run], LIMITS), None, None, "0.1.0"))
    assert rows["machine"].startswith("unknown: the server does not run on the machine")
    assert rows["answer"] == "connect: no connection (0 of 2 runs)"
    assert rows["decode speed"] == "unknown: the probe failed"
    assert "10.0.0.7" not in str(rows)
