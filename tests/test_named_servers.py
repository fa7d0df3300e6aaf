"""Each server by name through the whole daemon: a real file, a simulated server over a real socket, /metrics."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_settings import PROBES_ONLY
from tests.ports import free_port
from tests.real.daemon import forked_daemon, labels_of, scrape, value
from tests.servers.koboldcpp import SimulatedKoboldCpp
from tests.servers.lemonade import SimulatedLemonade
from tests.servers.litellm import SimulatedLiteLLM
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.llama_swap import SimulatedLlamaSwap
from tests.servers.lm_studio import SimulatedLMStudio
from tests.servers.localai import SimulatedLocalAI
from tests.servers.proxy_v1_only import ProxyV1Only
from tests.servers.sglang import SimulatedSGLang
from tests.servers.simulated import Simulated
from tests.servers.tabbyapi import SimulatedTabbyAPI
from tests.servers.vllm import SimulatedVllm
from tests.waiting import eventually

FREE = {"call", "counter reset", "timer restart"}


def servers(stack: ExitStack) -> dict[str, tuple[Simulated, str, str]]:
    """One of each, running, with the model that is to be probed and the backend's name."""
    studio, swap = SimulatedLMStudio(), SimulatedLlamaSwap()
    studio.load("meta-llama-3.1-8b-instruct")
    swap.load("coder")
    made: dict[str, tuple[Simulated, str, str]] = {
        "sglang": (SimulatedSGLang(), "Qwen/Qwen3-8B", "sglang"),
        "lemonade": (SimulatedLemonade(loaded=("Qwen3-8B-GGUF",)), "Qwen3-8B-GGUF", "lemonade"),
        "studio": (studio, "meta-llama-3.1-8b-instruct", "lm_studio"),
        "kobold": (SimulatedKoboldCpp(), "koboldcpp/qwen3-8b", "koboldcpp"),
        "swap": (swap, "coder", "llama_swap"),
        "tabby": (SimulatedTabbyAPI(), "Qwen3-8B-exl3", "tabbyapi"),
        "localai": (SimulatedLocalAI(loaded=("qwen3-14b",)), "qwen3-14b", "localai"),
        "litellm": (SimulatedLiteLLM(), "local", "litellm"),
    }
    vllm, llama = stack.enter_context(SimulatedVllm()), stack.enter_context(SimulatedLlamaServer())
    made["vllm-by-v1"] = (ProxyV1Only(vllm), "tiny", "vllm")
    made["llama-by-v1"] = (ProxyV1Only(llama), "tiny.gguf", "llama_cpp")
    for server, _, _ in made.values():
        stack.enter_context(server)
    return made


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Where the daemon's file is written."""
    return tmp_path / "config.yml"


def test_each_reaches_the_metrics_under_its_own_name(tmp_path: Path, config: Path) -> None:
    """Of all at once: a speed, exact tokens where the server counts, the backend's name, and nothing loaded or paid for."""
    with ExitStack() as stack:
        made = servers(stack)
        targets: list[dict[str, Any]] = [
            {"name": name, "url": server.url, "budget": {"share": 1}, "modules": ["default"]}
            | ({"model": "local"} if name == "litellm" else {})
            for name, (server, _, _) in made.items()
        ]
        config.write_text(f"""
targets: {targets}
modules: {{default: {{interval: 2s, max_tokens: 16, prompt_tokens: 48, when_idle: probe}}}}
{PROBES_ONLY}""")
        port = free_port()
        with forked_daemon("--config", config, port=port, log=tmp_path / "log"):

            def done() -> bool:
                found = scrape(port)
                return all(value(found, "llm_probe_tokens_per_second", target=name) for name in made)

            eventually(done, "each has a speed")
            samples = scrape(port)
        for name, (server, model, backend) in made.items():
            info = labels_of(samples, "llm_target_info", target=name)
            assert (name, info["backend"], info["model"]) == (name, backend, model)
            exact = value(samples, "llm_probe_token_count_exact", target=name)
            assert (name, exact) == (name, 0.0 if name == "kobold" else 1.0)  # it streams no usage
            assert (name, (+server.costs).keys() - FREE) == (name, set())
    running = {name for name in made if value(samples, "llm_server_requests_running", target=name) is not None}
    assert running == {"sglang", "lemonade", "kobold"}
