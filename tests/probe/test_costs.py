"""What status checks and probes cost each kind of server: no paid call, load, eviction, wake or restarted timer of theirs."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from exporter.probe.prober import Prober
from exporter.settings import Module
from tests.probe.guest import believe, prober
from tests.probe.probes import probe
from tests.servers.lemonade import SimulatedLemonade
from tests.servers.litellm import SimulatedLiteLLM
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.llama_swap import SimulatedLlamaSwap
from tests.servers.localai import SimulatedLocalAI
from tests.servers.nobody import SimulatedNobody
from tests.servers.ollama import SimulatedOllama, stored
from tests.servers.simulated import Simulated
from tests.servers.text_generation_webui import SimulatedTextGenerationWebui
from tests.servers.transformers_serve import SimulatedTransformersServe
from tests.servers.user import User
from tests.servers.vllm import SimulatedVllm
from tests.simulated.plain import chat, post, wait_for

LONG = "once upon a time there was a keeper of a lighthouse who told " * 20


def asleep(build: int) -> SimulatedLlamaServer:
    """A llama-server that sleeps."""
    server = SimulatedLlamaServer(build=build, sleep_idle_seconds=60)
    server.asleep = True
    return server


def idle_webui() -> SimulatedTextGenerationWebui:
    """A text-generation-webui that has unloaded its model."""
    server = SimulatedTextGenerationWebui(idle_timeout=10)
    server.clock.ahead += 601
    return server


FREE: list[Any] = [
    SimulatedLiteLLM,
    lambda: SimulatedLocalAI("localai"),
    lambda: SimulatedLocalAI("mlx_lm"),
    lambda: SimulatedLocalAI("docker"),
    SimulatedLemonade,
    lambda: SimulatedLemonade(cloud_used=True),
    lambda: SimulatedLlamaSwap(ttl=300),
    idle_webui,
    lambda: asleep(9760),
    lambda: asleep(11_434),
    lambda: SimulatedLlamaServer(router={"a": "unloaded", "b": "unloaded"}),
    SimulatedOllama,
    *(lambda kind=kind: SimulatedNobody(kind) for kind in ("nas", "airplay", "torrent")),
    lambda: SimulatedNobody("router"),
    lambda: SimulatedNobody("page"),
]


@pytest.mark.parametrize("made", FREE)
def test_servers_with_nothing_in_memory_are_left_alone(made: Callable[[], Simulated]) -> None:
    """Three status checks and two probes without a configured model cost nothing, whatever answers."""
    with made() as server:
        one = prober(server)
        for _ in range(3):
            one.status()
        for _ in range(2):
            probe(one)
        assert server.costs == {}


def test_transformers_without_a_model_is_not_asked() -> None:
    """It would load what the request names, and drop it after five minutes."""
    with SimulatedTransformersServe(model=None) as server:
        probe(prober(server, model="other/model"))
        assert server.costs == {}


def test_a_server_that_refuses_the_key_gets_no_chat() -> None:
    """Its reads say so already."""
    with SimulatedLiteLLM(key="sk-x") as server:
        assert probe(prober(server)).result == "auth"
        assert server.posts() == []


def test_a_status_query_leaves_llama_servers_gauges_alone() -> None:
    """The next reader of /metrics has the speed of the users' requests."""
    with SimulatedLlamaServer() as server:
        post(server, "/v1/chat/completions", chat(tokens=20))
        prober(server).status()
        assert server.costs == {}


@pytest.mark.parametrize(
    "made",
    [
        (48.0, {}),
        (16.0, {"num_thread": 8}),
        (16.0, {"num_ctx": 8192}),
    ],
)
def test_a_model_is_reloaded_once_at_most(made: tuple[float, dict[str, int]]) -> None:
    """Probes and a user's requests in turn: after the first reload the model is left alone."""
    gpu, options = made
    with SimulatedOllama(gpu_memory_gib=gpu, load_seconds=1.1) as server:
        server.disk["small:latest"] = stored("small", 2_019_393_189, trained=40_960)
        one = prober(server)
        for _ in range(3):
            server.use("small", **options)
            server.costs.clear()
            probe(one)
        assert server.costs["load"] == 0


@pytest.mark.parametrize(
    "made",
    [
        lambda: SimulatedVllm(pooling=True),
        lambda: SimulatedLlamaServer(build=9760, embeddings=True),
        lambda: SimulatedVllm(chat_template=False),
    ],
)
def test_a_server_without_chats_does_not_fail(made: Callable[[], Simulated]) -> None:
    """The second probe knows what the first one was told."""
    with made() as server:
        one = prober(server)
        probe(one)
        assert probe(one).result not in {"http_4xx", "http_5xx", "no_model"}


def test_a_model_for_embeddings_is_not_asked() -> None:
    """Its capabilities say so."""
    with SimulatedOllama(version="0.33.0") as server:
        server.disk["e5:latest"] = stored("e5", 600_000_000, family="qwen3", capabilities=("embedding",))
        server.use("e5")
        assert probe(prober(server)).result == "skipped_unable"
        assert set(server.paths("POST")) <= {"/api/show"}


def test_a_users_conversation_stays_in_its_slot() -> None:
    """With two slots and no cache in the host."""
    with SimulatedLlamaServer(parallel=2, host_cache=False) as server:
        post(server, "/v1/chat/completions", chat(LONG, 10))
        one = prober(server)
        for _ in range(3):
            probe(one)
        assert not any("lighthouse" in lost for lost in server.slots.lost)


def in_background(one: Prober, module: Module) -> threading.Thread:
    """A probe that runs meanwhile."""
    thread = threading.Thread(target=lambda: one.probe("default", module))
    thread.start()
    return thread


def test_a_probe_gives_way_to_a_user() -> None:
    """One slot: a user that comes into a probe waits for a part of it only."""
    with SimulatedVllm(tokens_per_second=20, slots=1) as server:
        one = prober(server)
        believe(one, 1000.0)
        thread = in_background(one, Module(max_tokens=120, prompt_tokens=48))
        wait_for(lambda: server.generated > 110)
        with User(server.url, tokens=2) as user:
            user.finished()
        thread.join()
        assert server.generated < 100 + 100
        assert user.ttft_seconds < 100 / 20


def test_a_server_that_is_told_to_end_can_end() -> None:
    """It refuses connects and waits for the probe's stream, which is given up long before the server's patience ends."""
    with SimulatedLlamaServer(tokens_per_second=50, drain_seconds=8) as server:
        one = prober(server)
        believe(one, 1000.0)
        thread = in_background(one, Module(max_tokens=500, prompt_tokens=48))
        wait_for(lambda: server.slots.all[0].decoded > 20)
        server.terminate()
        ended = server.idle(5)
        thread.join()
        assert ended
