"""Servers that unload models which nobody uses can do so although they are watched."""

import pytest

from exporter.probe.status import identify
from exporter.settings import Module
from tests.probe.guest import chats, prober, run_for
from tests.probe.probes import SHORT, check, probe
from tests.servers.clock import Clock
from tests.servers.koboldcpp import SimulatedKoboldCpp
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.llama_swap import SimulatedLlamaSwap
from tests.servers.lm_studio import SimulatedLMStudio
from tests.servers.localai import SimulatedLocalAI
from tests.servers.ollama import SimulatedOllama
from tests.servers.simulated import ReceivedRequest, ServerAnswer, as_json
from tests.servers.text_generation_webui import SimulatedTextGenerationWebui
from tests.servers.transformers_serve import SimulatedTransformersServe
from tests.servers.user import User
from tests.servers.vllm import SimulatedVllm

HOUR = 3600.0


def test_llama_swap_stops_a_server_that_nobody_uses() -> None:
    """Each probe restarted its ``ttl``, so a model was never stopped."""
    clock = Clock()
    with SimulatedLlamaSwap(ttl=900, clock=clock) as server:
        server.load("coder")
        one = prober(server, clock)
        results = run_for(one, clock, 3 * HOUR)
        assert (results.count("ok"), set(results[4:])) == (4, {"skipped_unloaded"})
        assert (server.memory.ready, server.costs["load"]) == ([], 0)


def test_lm_studio_unloads_what_was_loaded_just_in_time() -> None:
    """Each probe restarted the model's TTL of an hour. A probe an hour remains; the TTL ends where it is shorter than the pause."""
    clock = Clock()
    with SimulatedLMStudio(ttl=1200, clock=clock) as server:
        server.load("meta-llama-3.1-8b-instruct", just_in_time=True)
        run_for(prober(server, clock), clock, 3 * HOUR)
        assert (server.memory.ready, server.costs["load"]) == ([], 0)


def test_localais_watchdog_unloads_an_idle_model() -> None:
    """Each probe made the watchdog's time begin anew."""
    clock = Clock()
    with SimulatedLocalAI(ttl=900, loaded=("qwen3-14b",), clock=clock) as server:
        run_for(prober(server, clock), clock, 3 * HOUR)
        assert (server.memory.ready, server.costs["load"]) == ([], 0)


def test_localais_order_of_eviction_is_not_changed() -> None:
    """With several models loaded it doesn't say which was used last: a probe made its own the newest, and the user's was evicted."""
    clock = Clock()
    models = ("llama-3.2-3b", "qwen3-14b", "gemma-3-4b")
    with SimulatedLocalAI(models=models, loaded=models[:2], most=2, clock=clock) as server:
        User(server.url, model=models[1], tokens=3).send().finished()
        for model in (None, *models[:2]):
            one = prober(server, clock, model=model)
            assert set(run_for(one, clock, 300)) == {"skipped_unloaded"}
            assert "doesn't say which was used last" in check(one).notice
        assert identify(server.url).notice == check(prober(server)).notice
        User(server.url, model=models[2], tokens=3).send().finished()
        # The one that was used longest ago has gone, not the one that a user had.
        assert (server.memory.ready, server.costs["eviction"]) == (["qwen3-14b", "gemma-3-4b"], 1)


def test_localai_with_several_models_is_probed_where_that_is_wanted() -> None:
    """``when_idle: probe`` says so, and a person at the prompt; one model is probed anyway, and brings no such notice."""
    loaded = ("llama-3.2-3b", "qwen3-14b")
    with SimulatedLocalAI(loaded=loaded, most=2) as server:
        assert probe(prober(server), SHORT.model_copy(update={"when_idle": "probe"})).result == "ok"
        assert probe(prober(server, by_hand=True)).result == "ok"
        server.memory.remove(loaded[0])
        one = prober(server)
        assert (probe(one).result, "used last" in check(one).notice) == ("ok", False)


def test_use_of_one_model_of_docker_model_runner_is_none_of_another() -> None:
    """A user of one model gave the other one, which nobody used, five minutes more with each probe."""
    clock = Clock()
    with SimulatedLocalAI("docker", loaded=("llama-3.2-3b", "qwen3-14b"), most=2, clock=clock) as server:
        one = prober(server, clock, model="qwen3-14b")
        results = []
        for _ in range(8):
            User(server.url, model="llama-3.2-3b", tokens=3).send().finished()
            results += run_for(one, clock, 60)
        assert (results[0], set(results[1:])) == ("ok", {"skipped_unloaded"})
        assert (server.memory.ready, server.costs["load"]) == (["llama-3.2-3b"], 0)


def test_docker_model_runner_unloads_an_idle_model() -> None:
    """Its five minutes began anew with each probe. Its list of running models tells each use: none by others, no probe."""
    clock = Clock()
    with SimulatedLocalAI("docker", loaded=("qwen3-14b",), clock=clock) as server:
        results = run_for(prober(server, clock), clock, 600)
        assert (results[0], set(results[1:])) == ("ok", {"skipped_unloaded"})
        assert (server.memory.ready, server.costs["load"]) == ([], 0)


def test_text_generation_webui_unloads_and_is_not_loaded_again() -> None:
    """It names a model that it has unloaded, so each probe loaded it again. Its tokenizer tells, and probes grow apart."""
    clock = Clock()
    with SimulatedTextGenerationWebui(idle_timeout=10, clock=clock) as server:
        one = prober(server, clock)
        assert check(one).model_resident is True
        results = run_for(one, clock, 6 * HOUR)
        # At 0, 2, 6 and 14 minutes; ten minutes after the last one it is unloaded, and stays so.
        assert (results[:4], set(results[4:])) == (["ok"] * 4, {"skipped_unloaded"})
        assert (server.loaded, server.costs["load"], check(one).model_resident) == (False, 0, False)


def test_text_generation_webui_is_probed_again_after_its_users() -> None:
    """While it is unloaded its tokenizer is asked every five minutes only: each time leaves a traceback in its log."""
    clock = Clock()
    with SimulatedTextGenerationWebui(idle_timeout=10, clock=clock) as server:
        clock.ahead += 700
        one = prober(server, clock)
        assert set(run_for(one, clock, 1200)) == {"skipped_unloaded"}
        assert server.paths().count("/v1/internal/token-count") == 4
        User(server.url, tokens=3).send().finished()
        assert "ok" in run_for(one, clock, 360)


def test_text_generation_webui_that_hides_its_tokenizer_is_probed_seldom() -> None:
    """Behind a proxy that does not pass that path nothing tells what is in memory: never called resident, probed more and more seldom."""

    class Hidden(SimulatedTextGenerationWebui):
        def answer(self, request: ReceivedRequest) -> ServerAnswer:
            return as_json({}, 404) if request.path.endswith("token-count") else super().answer(request)

    clock = Clock()
    with Hidden(idle_timeout=10, clock=clock) as server:
        one = prober(server, clock)
        assert check(one).model_resident is None
        # 0, 2, 6, 14, 30, 62 minutes, then once an hour.
        assert run_for(one, clock, 6 * HOUR) == ["ok"] * 10


def test_koboldcpp_is_probed_after_its_users_only() -> None:
    """--adminunloadtimeout began anew with each probe. It counts its answers, so others' use is seen without any."""
    clock = Clock()
    with SimulatedKoboldCpp(unload_timeout=900, clock=clock) as server:
        one = prober(server, clock)
        assert run_for(one, clock, 300) == ["ok", *["skipped_unloaded"] * 4]
        User(server.url, tokens=3).send().finished()
        server.idle()
        assert run_for(one, clock, 120) == ["ok", "skipped_unloaded"]
        run_for(one, clock, 1200)
        assert (server.memory.ready, server.costs["load"]) == ([], 0)
        assert (probe(one).result, check(one).up) == ("skipped_unloaded", True)


def test_koboldcpps_router_swaps_nothing_for_a_probe() -> None:
    """Naming another configuration evicted the one in memory."""
    with SimulatedKoboldCpp(router=("big.kcpps", "small.kcpps")) as server:
        assert probe(prober(server, model="big.kcpps")).result == "skipped_unloaded"
        assert probe(prober(server)).result == "ok"
        assert +server.costs == {}


def test_a_paused_target_says_since_when() -> None:
    """The pause is no failure, says since when nobody used the model, and a use by somebody moves that time."""
    clock = Clock()
    with SimulatedKoboldCpp(clock=clock) as server:
        one = prober(server, clock)
        probe(one)
        paused = probe(one)
        assert paused.result == "skipped_unloaded"
        assert paused.error.startswith("paused: nobody used koboldcpp/qwen3-8b since ")
        assert paused.paused_since == one.started_at
        clock.ahead += 5000
        User(server.url, tokens=3).send().finished()
        server.idle()
        used_at = clock()
        assert [probe(one).result for _ in range(2)] == ["ok", "skipped_unloaded"]
        again = probe(one).paused_since
        assert again == pytest.approx(used_at, abs=5)


def test_a_module_may_say_what_is_done_when_idle() -> None:
    """``when_idle: probe`` keeps the interval everywhere, ``pause`` lets it grow even where nothing unloads."""
    clock = Clock()
    always = Module(max_tokens=16, prompt_tokens=48, when_idle="probe")
    with SimulatedKoboldCpp(clock=clock) as server:
        assert run_for(prober(server, clock), clock, 300, module=always) == ["ok"] * 5
    with SimulatedVllm() as vllm:
        seldom = Module(max_tokens=16, prompt_tokens=48, when_idle="pause")
        assert run_for(prober(vllm, clock), clock, 900, module=seldom) == ["ok"] * 4


@pytest.mark.parametrize(
    "server", [SimulatedVllm(), SimulatedLlamaServer(build=7_000), SimulatedTransformersServe(on_disk=())]
)
def test_servers_that_never_unload_keep_their_interval(
    server: SimulatedVllm | SimulatedLlamaServer | SimulatedTransformersServe,
) -> None:
    """vLLM, a llama-server that can't sleep, transformers with a model of its own: every minute, whoever uses them."""
    clock = Clock()
    with server:
        assert run_for(prober(server, clock), clock, 600) == ["ok"] * 10


def test_ollama_keeps_its_interval_within_its_keep_alive() -> None:
    """Its timer is left as it is, so no pause is needed."""
    clock = Clock()
    with SimulatedOllama(clock) as server:
        server.use("small", keep_alive=-1)
        assert run_for(prober(server, clock), clock, 600) == ["ok"] * 10


def test_the_interval_is_an_hour_at_most() -> None:
    """The interval of a model with a ``ttl`` doubles after each lone probe, up to an hour."""
    clock = Clock()
    with SimulatedLlamaSwap(clock=clock, ttl=7200) as server:
        server.load("coder")
        one = prober(server, clock)
        intervals = []
        for _ in range(9):
            probe(one)
            intervals.append(one.interval_seconds("default", SHORT))
        assert intervals == [120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600]


# transformers serve, started without a model --------------------------------------------------------------------------


def test_transformers_without_a_model_loads_and_downloads_nothing() -> None:
    """With ``model:`` set and none loaded, each probe loaded it, downloaded it first, and five minutes later again."""
    with SimulatedTransformersServe(model=None) as server:
        for name in ("Qwen/Qwen3-8B", "Qwen/Qwen3-235B"):
            assert probe(prober(server, model=name)).result == "skipped_unloaded"
        assert probe(prober(server)).result == "no_model"
        assert (+server.costs, chats(server)) == ({}, [])


def test_transformers_loads_where_the_user_wants_that() -> None:
    """``when_unloaded: load`` asks for the model by its name."""
    module = Module(max_tokens=16, prompt_tokens=48, when_unloaded="load")
    with SimulatedTransformersServe(model=None) as server:
        assert probe(prober(server, model="Qwen/Qwen3-8B"), module).result == "ok"
        assert server.costs["load"] == 1


def test_transformers_with_a_model_is_probed_also_while_its_list_fails() -> None:
    """``/v1/models`` is a 500 while the cache's folder is missing."""
    for hub in (True, False):
        with SimulatedTransformersServe(hub=hub, on_disk=()) as server:
            result = probe(prober(server))
            assert (result.result, result.state and result.state.identity and result.state.identity.backend) == (
                "ok",
                "transformers",
            )
