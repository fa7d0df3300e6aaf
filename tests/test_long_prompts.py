"""Through the whole daemon: behind long prompts decode may hold while prefill loses, and the reverse; each is told by itself."""

import json
from functools import partial
from pathlib import Path

import pytest

from tests.daemon_settings import PROBES_ONLY
from tests.ports import free_port
from tests.real.daemon import forked_daemon, scrape, value
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.test_changes import get
from tests.waiting import eventually

PROMPT_SPEED, SPEED = 6000.0, 100.0
"""Tokens a second of prefill, as the server says it of each request, and of decode."""
LOST = 0.39
"""The share of the one speed that the new version loses, while the other holds."""
BEFORE, WITHIN = 5, 8
"""Canaries before the change, and good ones after it at most until it is told."""


def configure(path: Path, url: str) -> None:
    path.write_text(f"""
targets: [{{name: llama, url: "{url}", budget: {{share: 100%}}, modules: [canary]}}]
modules: {{canary: {{interval: 1s, max_tokens: 64}}}}
{PROBES_ONLY}host: {{sysfs: {path.parent}, proc: {path.parent}, rocm: {path.parent}}}
history: {{path: none}}
""")


@pytest.mark.parametrize(("phase", "holds"), [("prefill", "decode"), ("decode", "prefill")])
def test_one_figure_of_long_prompts_falls_and_the_other_holds(tmp_path: Path, phase: str, holds: str) -> None:
    """A version that loses 39 % of one: the metrics of the alert, the page and the ledger name it, and not the other."""
    config, port = tmp_path / "config.yml", free_port()
    with SimulatedLlamaServer(tokens_per_second=SPEED, prompt_tokens_per_second=PROMPT_SPEED, build=11_434) as server:
        configure(config, server.url)
        with forked_daemon("--config", config, port=port, log=tmp_path / "log"):

            def seen(name: str, **labels: str) -> float | None:
                return value(scrape(port), name, target="llama", **labels)

            def good() -> float:
                return seen("llm_probes_total", module="canary", result="ok") or 0.0

            eventually(lambda: good() >= BEFORE, "good canaries")
            assert seen("llm_probe_prefill_tokens_per_second", module="canary") == pytest.approx(PROMPT_SPEED, rel=0.05)
            assert seen("llm_probe_tokens_per_second", module="canary")
            address, server.build = server.kill(), 11_500
            server.started += 100
            if phase == "prefill":
                server.prompt_pace /= 1 - LOST
            else:
                server.pace /= 1 - LOST
            server.start(address)
            before = good()
            told = {"module": "canary", "cause": "change", "what": "backend version"}
            eventually(lambda: seen("llm_slowdown_speed_ratio", phase=phase, **told), "what was lost")
            assert good() - before <= WITHIN
            assert seen("llm_slowdown_speed_ratio", phase=phase, **told) == pytest.approx(1 - LOST, rel=0.15)
            assert seen("llm_slowdown_speed_ratio", phase=holds, **told) is None
            speed, prefill = (
                eventually(partial(seen, f"llm_last_change_{name}_ratio", module="canary"), f"the change's {name}")
                for name in ("speed", "prefill")
            )
            lost, held = (prefill, speed) if phase == "prefill" else (speed, prefill)
            assert lost == pytest.approx(1 - LOST, rel=0.15)
            assert held == pytest.approx(1, rel=0.15)
            page = " ".join(get(port, "/").split())
            assert "Long prompt: prefill" in page
            figure = "prefill " if phase == "prefill" else ""
            assert f"lower since the backend version changed from b11434-unknown to b11500-unknown: {figure}" in page
            (change,) = json.loads(get(port, "/api/v1/changes?target=llama"))["changes"]
            standing = [each["phase"] for each in change["modules"] if each["verdict"] == "slower"]
            assert standing == [phase]
