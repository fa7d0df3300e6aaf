"""With status checks a server is as it would be without: its own metrics, its models in memory, their timers, what it has spent.

The same users do the same at two servers of a kind. One of them is checked before, between, during and after their requests.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from exporter.probe.dialects import DIALECTS
from exporter.probe.prober import Prober
from tests.probe.guest import prober
from tests.servers.clock import Clock
from tests.servers.koboldcpp import SimulatedKoboldCpp
from tests.servers.lemonade import SimulatedLemonade
from tests.servers.litellm import SimulatedLiteLLM
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.llama_swap import SimulatedLlamaSwap
from tests.servers.lm_studio import SimulatedLMStudio
from tests.servers.localai import SimulatedLocalAI
from tests.servers.memory import Memory
from tests.servers.ollama import SimulatedOllama
from tests.servers.sglang import SimulatedSGLang
from tests.servers.tabbyapi import SimulatedTabbyAPI
from tests.servers.text_generation_webui import SimulatedTextGenerationWebui
from tests.servers.transformers_serve import SimulatedTransformersServe
from tests.servers.user import User
from tests.servers.vllm import SimulatedVllm
from tests.simulated.plain import get

CHECKS = 3
TTL = 600.0


class Still(Clock):
    """A clock that only its test moves."""

    def __call__(self) -> float:
        """The same time, and ``ahead`` seconds."""
        return 1_795_000_000.0 + self.ahead


# By a name that begins with the dialect's: the server, and whom its user asks.
SERVERS: dict[str, tuple[Callable[[Clock], Any], str | None]] = {
    "vllm": (lambda _: SimulatedVllm(tokens_per_second=100), None),
    "llama_cpp": (lambda clock: SimulatedLlamaServer(clock=clock, tokens_per_second=100), None),
    "llama_cpp b9760 that sleeps": (
        lambda clock: SimulatedLlamaServer(clock=clock, build=9_760, sleep_idle_seconds=TTL, tokens_per_second=100),
        None,
    ),
    "llama_cpp that sleeps": (
        lambda clock: SimulatedLlamaServer(clock=clock, sleep_idle_seconds=TTL, tokens_per_second=100),
        None,
    ),
    "llama_cpp as a router": (
        lambda clock: SimulatedLlamaServer(clock=clock, router={"a": "loaded", "b": "loaded", "c": "unloaded"}),
        "a",
    ),
    "ollama 0.9.6": (lambda clock: SimulatedOllama(clock, version="0.9.6", load_seconds=0.01), "small"),
    "ollama 0.24.0": (lambda clock: SimulatedOllama(clock, load_seconds=0.01), "small"),
    "ollama 0.33.0": (lambda clock: SimulatedOllama(clock, version="0.33.0", load_seconds=0.01), "small"),
    "litellm": (lambda _: SimulatedLiteLLM(tokens_per_second=100), "gpt-4o"),
    "sglang": (lambda _: SimulatedSGLang(tokens_per_second=100), None),
    "lemonade": (lambda clock: SimulatedLemonade(clock=clock, cloud_used=True, tokens_per_second=100), "Qwen3-8B-GGUF"),
    "lm_studio": (lambda clock: SimulatedLMStudio(clock=clock, ttl=TTL), "meta-llama-3.1-8b-instruct"),
    "koboldcpp": (lambda clock: SimulatedKoboldCpp(clock=clock, unload_timeout=TTL, tokens_per_second=100), None),
    "llama_swap": (lambda clock: SimulatedLlamaSwap(clock=clock, ttl=TTL), "coder"),
    "localai": (lambda clock: SimulatedLocalAI("localai", clock=clock, ttl=TTL), "qwen3-14b"),
    "openai: mlx_lm": (lambda clock: SimulatedLocalAI("mlx_lm", clock=clock), "qwen3-14b"),
    "openai: Docker Model Runner": (lambda clock: SimulatedLocalAI("docker", clock=clock), "qwen3-14b"),
    "tabbyapi": (lambda _: SimulatedTabbyAPI(), None),
    "text_generation_webui": (
        lambda clock: SimulatedTextGenerationWebui(clock=clock, idle_timeout=TTL / 60, tokens_per_second=100),
        None,
    ),
    "transformers": (lambda clock: SimulatedTransformersServe(clock=clock, model=None), "Qwen/Qwen3-8B"),
}


def test_each_kind_of_server_is_here() -> None:
    """All that a target may be, but for the simulator of ``demo``."""
    named = {name.replace(":", " ").split()[0] for name in SERVERS}
    assert named == DIALECTS.keys() - {"simulator"}


@pytest.mark.parametrize("name", SERVERS)
def test_status_checks_change_nothing(name: str) -> None:
    """Used, idle, used again and left alone beyond its timer: at each of these times both servers are the same."""
    made, model = SERVERS[name]
    alone, watched = lives(made, model, checks=0), lives(made, model, checks=CHECKS)
    assert list(alone) == list(watched)


def lives(made: Callable[[Clock], Any], model: str | None, *, checks: int) -> Iterator[dict[str, Any]]:
    """What a server says of itself over a while in which its user asks twice; with so many status checks at each time."""
    clock = Still()
    with made(clock) as server:
        one = prober(server, clock)
        for seconds in (1.0, TTL / 2, TTL / 2 + 10.0, 4 * TTL):
            check(one, checks)
            if seconds < TTL:
                with User(server.url, tokens=12, model=model) as user:
                    check(one, checks)
                    user.finished()
                server.idle()
            check(one, checks)
            clock.ahead += seconds
            check(one, checks)
            yield picture(server)


def check(one: Prober, times: int) -> None:
    """So many status checks, each of which finds the server."""
    for _ in range(times):
        state = one.status()
        assert state is not None
        assert state.up


def picture(server: Any) -> dict[str, Any]:
    """What is in memory, until when, what was spent and counted, and the server's own ``/metrics`` but for times that were taken."""
    told: dict[str, Any] = {"costs": dict(+server.costs)}
    match server:
        case SimulatedLlamaServer():
            told["router"] = server.router
            told["asleep"] = server.asleep
        case SimulatedOllama():
            told["memory"] = {each.name: (each.expires_at, each.num_ctx) for each in server.memory.values()}
        case SimulatedTextGenerationWebui():
            told["memory"] = server.loaded, server.used_at
        case SimulatedTabbyAPI():
            told["memory"] = server.loaded
    if isinstance(memory := getattr(server, "memory", None), Memory):
        told["memory"] = {each.name: (each.used_at, each.ttl, each.state) for each in memory.models.values()}
    told["generated"] = server.generated if not isinstance(server, SimulatedOllama) else None
    if not isinstance(server, SimulatedLlamaServer) or not server.is_router:
        before = server.costs.copy()
        answer = get(server, "/metrics")
        server.costs.clear()
        server.costs.update(before)
        taken = ("_sum", "_bucket", "prompt_seconds_total")
        lines = answer.text.splitlines() if answer.status_code == 200 else []
        told["metrics"] = [line for line in lines if not any(each in line for each in taken)]
    return told
