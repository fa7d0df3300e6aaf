"""The servers that have a dialect of their own beside the OpenAI API: what each says of itself, and what its probe sends."""

from pathlib import Path
from typing import Any

import pytest

from exporter.probe.dialects.litellm import INFO
from exporter.probe.dialects.openai import GATEWAY
from exporter.probe.dialects.sglang import NOTICE
from exporter.probe.status import identify
from tests.probe.guest import chats, prober
from tests.probe.probes import SHORT, check, probe
from tests.servers.captured import Captured
from tests.servers.koboldcpp import SimulatedKoboldCpp
from tests.servers.lemonade import SimulatedLemonade
from tests.servers.litellm import SimulatedLiteLLM
from tests.servers.llama_swap import SimulatedLlamaSwap
from tests.servers.lm_studio import SimulatedLMStudio
from tests.servers.localai import SimulatedLocalAI
from tests.servers.sglang import SECRET, SimulatedSGLang
from tests.servers.simulated import Simulated, as_json
from tests.servers.tabbyapi import SimulatedTabbyAPI
from tests.servers.user import User


def studio() -> SimulatedLMStudio:
    """An LM Studio with a model of text in memory."""
    server = SimulatedLMStudio()
    server.load("meta-llama-3.1-8b-instruct")
    return server


def swap(ttl: float = 0) -> SimulatedLlamaSwap:
    """A llama-swap with a running model."""
    server = SimulatedLlamaSwap(ttl=ttl)
    server.load("coder")
    return server


SERVERS: dict[str, tuple[Any, str, str | None]] = {
    "sglang": (SimulatedSGLang, "Qwen/Qwen3-8B", "0.5.9"),
    "lemonade": (lambda: SimulatedLemonade(loaded=("Qwen3-8B-GGUF",)), "Qwen3-8B-GGUF", "11.7.0"),
    "lm_studio": (studio, "meta-llama-3.1-8b-instruct", None),
    "koboldcpp": (SimulatedKoboldCpp, "koboldcpp/qwen3-8b", "1.104"),
    "llama_swap": (swap, "coder", "230"),
    "tabbyapi": (SimulatedTabbyAPI, "Qwen3-8B-exl3", None),
    "localai": (lambda: SimulatedLocalAI(loaded=("qwen3-14b",)), "qwen3-14b", "v3.7.0 (1a2b3c4)"),
}


@pytest.mark.parametrize("backend", SERVERS)
def test_it_is_recognised_named_and_probed_at_no_cost_but_the_probe(backend: str) -> None:
    """By name and version where it tells one; the model in memory is probed, and nothing is loaded, evicted or paid for."""
    make, model, version = SERVERS[backend]
    with make() as server:
        found = identify(server.url)
        assert found.identity is not None
        assert (found.identity.backend, found.identity.model, found.identity.backend_version) == (
            backend,
            model,
            version,
        )
        one = prober(server)
        for _ in range(2):
            state = check(one)
            assert state.identity is not None
            assert (state.up, state.identity.backend_version) == (True, version)
        assert +server.costs == {}
        assert (probe(one).result, chats(server)[0]["model"]) == ("ok", model)
        assert not {"load", "eviction", "paid call", "health token"} & (+server.costs).keys()


@pytest.mark.parametrize("backend", SERVERS)
def test_a_target_that_says_openai_is_probed_the_same_way(backend: str) -> None:
    """``backend: openai`` keeps working: nothing is loaded or evicted for it."""
    make, *_ = SERVERS[backend]
    with make() as server:
        one = prober(server, backend="openai", model=SERVERS[backend][1])
        assert probe(one).result == "ok"
        assert not {"load", "eviction", "paid call", "health token"} & (+server.costs).keys()


# SGLang ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ranks", "by_priority"), [(1, False), (2, False), (2, True)])
def test_sglangs_requests_are_counted_once(ranks: int, by_priority: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Two ranks that tell the same, and the parts by priority beside their sum, are one request."""
    with (
        SimulatedSGLang(ranks=ranks, by_priority=by_priority, tokens_per_second=20) as server,
        User(server.url, model=server.model, tokens=200),
    ):
        state = check(prober(server))
        assert (state.requests_running, state.requests_waiting, state.kv_cache_usage) == (1, 0, 0.25)
        assert probe(prober(server)).result == "skipped_busy"
        assert len(chats(server)) == 1


def test_sglang_answers_exactly_as_long_as_asked_counted_by_itself() -> None:
    """The end-of-text token ends nothing, each chunk is counted, and the prefix cache is passed by."""
    with SimulatedSGLang() as server:
        result = probe(prober(server))
        body = chats(server)[0]
        assert (body["ignore_eos"], body["min_tokens"], body["max_tokens"]) == (True, 16, 16)
        assert body["stream_options"]["continuous_usage_stats"]
        assert body["cache_salt"]
        assert (result.measurements.output_tokens, result.measurements.token_count_exact) == (16, True)


def test_an_sglang_without_metrics_says_what_it_lacks() -> None:
    """Without --enable-metrics it can't tell whether it is busy; it is probed all the same."""
    with SimulatedSGLang(metrics=False) as server:
        one = prober(server)
        state = check(one)
        assert (state.requests_running, state.notice) == (None, NOTICE)
        assert probe(one).result == "ok"


def test_an_embedding_model_of_sglang_gets_no_chat() -> None:
    """Its model info tells."""
    with SimulatedSGLang(embedding=True) as server:
        one = prober(server)
        assert [probe(one).result for _ in range(2)] == ["skipped_unable"] * 2
        assert chats(server) == []


def test_the_key_in_sglangs_settings_is_nowhere(tmp_path: Path) -> None:
    """Its settings tell its key beside its version; of these only the version is kept."""
    key = tmp_path / "key"
    key.write_text("right")
    with SimulatedSGLang(key="right") as server:
        assert probe(prober(server, backend="sglang")).result == "auth"
        one = prober(server, api_key_file=key)
        result = probe(one)
        assert result.result == "ok"
        assert SECRET not in repr(result) + repr(check(one)) + repr(one.tracker.last)


# Lemonade -------------------------------------------------------------------------------------------------------------


def test_lemonades_metrics_are_read_only_where_the_user_wants_that() -> None:
    """Each read empties the gauges of the llama-server behind it; then who waits is known, and each use is seen."""
    with SimulatedLemonade(loaded=("Qwen3-8B-GGUF",)) as server:
        assert check(prober(server)).requests_waiting is None
        assert ("/metrics" in server.paths(), +server.costs) == (False, {})
        one = prober(server, server_metrics=True)
        state = check(one)
        assert (state.requests_running, state.requests_waiting) == (0, 0)
        assert probe(one).result == "ok"
        assert probe(one).result == "skipped_unloaded"  # nobody else used it: it is left alone
        with User(server.url, model="Qwen3-8B-GGUF", tokens=4) as user:
            user.finished()
        assert probe(one).result == "ok"


def test_lemonade_with_a_users_request_is_busy() -> None:
    """``is_busy`` of the model tells."""
    with (
        SimulatedLemonade(loaded=("Qwen3-8B-GGUF",), tokens_per_second=20) as server,
        User(server.url, model="Qwen3-8B-GGUF", tokens=200),
    ):
        assert probe(prober(server)).result == "skipped_busy"


# KoboldCpp, llama-swap ------------------------------------------------------------------------------------------------


def test_koboldcpp_tells_its_context_and_who_runs() -> None:
    """The context is asked once for each model."""
    with SimulatedKoboldCpp(tokens_per_second=20) as server:
        one = prober(server)
        state = [check(one) for _ in range(3)][-1]
        assert state.identity is not None
        assert (state.identity.context_length, state.requests_running) == (8192, 0)
        assert server.paths().count("/api/extra/true_max_context_length") == 1
        with User(server.url, tokens=200):
            assert check(one).requests_running == 1


def test_a_model_of_llama_swap_without_a_ttl_is_probed_at_each_interval() -> None:
    """It is never stopped for being idle, so nothing is prolonged; one with a ``ttl`` is given time to end."""
    for ttl, doubled in ((0.0, 60.0), (300.0, 240.0)):
        with swap(ttl) as server:
            one = prober(server)
            assert [probe(one).result for _ in range(2)] == ["ok", "ok"]
            assert one.interval_seconds("default", SHORT) == doubled
            assert server.costs["load"] == 0


# TabbyAPI -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inline", [False, True])
def test_tabbyapi_loads_nothing_for_a_probe(inline: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A configured model that is not the one in memory is not asked for, since inline loading would evict the user's."""
    with SimulatedTabbyAPI(inline=inline) as server:
        assert probe(prober(server, model="Mistral-7B-exl3")).result == "skipped_unloaded"
        assert (+server.costs, chats(server)) == ({}, [])
    with SimulatedTabbyAPI(loaded=None, inline=inline) as server:
        assert probe(prober(server)).result == "skipped_unloaded"
        assert chats(server) == []


def test_tabbyapi_tells_its_context_and_answers_exactly_as_long_as_asked() -> None:
    """The context is the one that it was loaded with."""
    with SimulatedTabbyAPI() as server:
        one = prober(server)
        state = check(one)
        assert state.identity is not None
        assert state.identity.context_length == 32768
        result = probe(one)
        assert (chats(server)[0]["ban_eos_token"], chats(server)[0]["min_tokens"]) == (True, 16)
        assert (result.measurements.output_tokens, result.measurements.token_count_exact) == (16, True)


def test_tabbyapi_behind_its_key_is_left_alone() -> None:
    """Without the key there is no chat."""
    with SimulatedTabbyAPI(key="right") as server:
        one = prober(server, backend="tabbyapi")
        assert [probe(one).result for _ in range(2)] == ["auth"] * 2
        assert chats(server) == []


# LiteLLM --------------------------------------------------------------------------------------------------------------


def test_what_a_probe_of_litellm_costs_is_said_where_it_can_be_read() -> None:
    """A price makes the notice; without one, or where the key may not read it, the notice is that it is a gateway."""
    with SimulatedLiteLLM() as server:
        assert (
            "each probe of gpt-4o is paid: 2.5 USD for a million prompt tokens"
            in check(prober(server, model="gpt-4o")).notice
        )
        assert check(prober(server, model="local")).notice == GATEWAY
        assert INFO not in [each.path for each in server.requests[:1]]
    with SimulatedLiteLLM(open_info=False) as server:
        assert check(prober(server, model="gpt-4o")).notice == GATEWAY
        assert server.costs == {}


class RecordedLiteLLM(Captured):
    """LiteLLM 1.108.0 by its recorded answers."""

    def __init__(self, mode: str | None = None) -> None:
        paths = {"/v1/models": "litellm/get-v1-models", INFO: "litellm/get-v1-model-info"}
        super().__init__(paths, "litellm/get-v1-models")
        self.mode = mode

    def answer(self, request: Any) -> Any:
        """As recorded; with ``mode`` the info is a made-up one, of an embedding model for example."""
        if self.mode and request.path == INFO:
            return as_json({"data": [{"model_name": "local", "model_info": {"mode": self.mode}}]})
        return super().answer(request)


def test_the_recorded_litellm_is_recognised_and_its_prices_read() -> None:
    """One of its two models was configured with prices, of which most fields are null."""
    with RecordedLiteLLM() as server:
        found = identify(server.url)
        assert found.identity is not None
        assert found.identity.backend == "litellm"
        assert check(prober(server, model="local")).notice == GATEWAY
        assert "each probe of paid is paid: 2.5 USD" in check(prober(server, model="paid")).notice


@pytest.mark.parametrize("mode", ["embedding", "rerank", "image_generation"])
def test_a_model_of_litellm_without_text_gets_no_chat(mode: str) -> None:
    """Its mode tells, before anything is sent upstream."""
    with RecordedLiteLLM(mode) as server:
        assert probe(prober(server, model="local")).result == "skipped_unable"
        assert server.paths("POST") == []


@pytest.mark.parametrize("simulated", [SimulatedSGLang, SimulatedTabbyAPI, SimulatedLocalAI])
def test_a_server_that_is_gone_is_down(simulated: type[Simulated]) -> None:
    """Nothing listens any more."""
    with simulated() as server:
        one = prober(server)
        assert check(one).up
        server.kill()
        assert not check(one).up
