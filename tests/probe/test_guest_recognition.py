"""Nothing paid and nothing that nobody named: recognition, status checks and discovery send only what is free on every server."""

from pathlib import Path

import pytest

from exporter.probe.status import identify
from tests.probe.guest import chats, prober
from tests.probe.probes import check, probe
from tests.servers.clock import Clock
from tests.servers.koboldcpp import SimulatedKoboldCpp
from tests.servers.lemonade import SimulatedLemonade
from tests.servers.litellm import SimulatedLiteLLM
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.llama_swap import SimulatedLlamaSwap
from tests.servers.lm_studio import SimulatedLMStudio
from tests.servers.localai import Kind as ListKind
from tests.servers.localai import SimulatedLocalAI
from tests.servers.nobody import Kind, SimulatedNobody
from tests.servers.ollama import CLOUD, EMBEDDING, SimulatedOllama, stored
from tests.servers.sglang import SimulatedSGLang
from tests.servers.simulated import ReceivedRequest, ServerAnswer, Simulated, as_json
from tests.servers.tabbyapi import SimulatedTabbyAPI
from tests.servers.text_generation_webui import SimulatedTextGenerationWebui
from tests.servers.transformers_serve import SimulatedTransformersServe
from tests.servers.user import User
from tests.servers.vllm import SimulatedVllm
from tests.simulated.plain import read

# Paid calls -----------------------------------------------------------------------------------------------------------


def test_recognising_litellm_calls_no_model() -> None:
    """Recognition read ``GET /health``, which LiteLLM answers by calling each configured model, paid ones included."""
    with SimulatedLiteLLM() as server:
        found = identify(server.url)
        one = prober(server)
        for _ in range(3):
            assert check(one).up
        assert found.identity is not None
        assert found.identity.backend == "litellm"
        assert (server.costs, "/health" in server.paths(), server.paths("POST")) == ({}, False, [])


def test_failed_probes_of_litellm_in_a_row_pay_once_each_and_recognise_nobody() -> None:
    """Each failed probe recognised the server anew: ten paid calls in 16 s. Now a refused chat costs nothing else."""
    with SimulatedLiteLLM({"gpt-4o": 2.5e-06}) as server:
        one = prober(server, model="gone")
        results = [probe(one).result for _ in range(4)]
        assert set(results) <= {"no_model", "http_4xx"}
        assert (server.costs, "/health" in server.paths()) == ({}, False)


def test_litellm_is_probed_only_by_the_name_that_a_target_gives() -> None:
    """The first model of the list was taken, which may be a cloud's. Now: ``no_model``, with the names; a named one is probed."""
    with SimulatedLiteLLM() as server:
        result = probe(prober(server))
        assert (result.result, server.costs) == ("no_model", {})
        assert "name one of: local, gpt-4o" in result.error
        assert probe(prober(server, model="local")).result == "ok"
        assert server.costs == {"call": 1}


def test_a_single_model_of_litellm_is_not_taken_by_itself() -> None:
    """Even one listed model may be a cloud's, and without ``/v1/model/info`` nothing tells."""
    for open_info in (True, False):
        with SimulatedLiteLLM({"gpt-4o": 2.5e-06}, open_info=open_info) as server:
            assert (probe(prober(server)).result, server.costs) == ("no_model", {})


def test_litellm_behind_its_key_is_left_alone() -> None:
    """With a wrong key, or none, a target of LiteLLM got a chat each minute."""
    with SimulatedLiteLLM(key="right") as server:
        one = prober(server)
        assert [probe(one).result for _ in range(3)] == ["auth"] * 3
        assert (server.paths("POST"), server.costs) == ([], {})


# Several models, one model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["localai", "mlx_lm", "docker"])
def test_no_model_of_many_is_guessed(kind: ListKind) -> None:
    """The first listed model was asked for, which loads it and evicts the user's."""
    with SimulatedLocalAI(kind) as server:
        server.memory.add("qwen3-14b", ttl=server.memory.ttl)
        result = probe(prober(server))
        if kind == "mlx_lm":
            assert (result.result, "name one of: llama-3.2-3b, qwen3-14b" in result.error) == ("no_model", True)
        else:
            assert (result.result, chats(server)[0]["model"]) == ("ok", "qwen3-14b")
        assert (server.costs["load"], server.costs["eviction"]) == (0, 0)


@pytest.mark.parametrize("kind", ["localai", "mlx_lm", "docker"])
def test_a_single_listed_model_is_probed(kind: ListKind) -> None:
    """One listed model needs no name; where residency can be read it has to be in memory."""
    with SimulatedLocalAI(kind, models=("only",), loaded=("only",)) as server:
        assert probe(prober(server)).result == "ok"
        assert server.costs["load"] == 0


def test_a_named_model_of_many_is_probed() -> None:
    """mlx_lm can't say what is in memory; the name is the user's decision, and the notice says what it may cost."""
    with SimulatedLocalAI("mlx_lm", loaded=("qwen3-14b",)) as server:
        one = prober(server, model="qwen3-14b")
        assert probe(one).result == "ok"
        assert "a probe may load the one that the target names" in check(one).notice
    with SimulatedLocalAI("mlx_lm", models=("only",), loaded=("only",)) as server:
        assert "may load" not in check(prober(server, model="only")).notice


def test_a_named_model_of_a_cloud_has_a_notice() -> None:
    """The user named it, so it is probed; the notice says that this may cost money."""
    with SimulatedLemonade(loaded=("Qwen3-8B-GGUF",)) as server:
        cloud = next(each["id"] for each in read(server, "/v1/models")["data"] if each.get("recipe") == "cloud")
        assert "runs in a cloud, so a probe may cost money" in check(prober(server, model=cloud)).notice
        assert "cloud" not in check(prober(server)).notice


@pytest.mark.parametrize("kind", ["localai", "docker"])
def test_a_named_model_that_is_not_in_memory_is_not_loaded(kind: ListKind) -> None:
    """Naming a model loaded it, where the server can tell that it isn't there."""
    with SimulatedLocalAI(kind, loaded=("qwen3-14b",)) as server:
        assert probe(prober(server, model="llama-3.2-3b")).result == "skipped_unloaded"
        assert (server.costs, server.memory.ready) == ({}, ["qwen3-14b"])


# Clouds ---------------------------------------------------------------------------------------------------------------


def test_ollamas_cloud_models_are_never_taken() -> None:
    """A model of Ollama's cloud is listed, and by imitators shown as running: it costs money and measures another machine."""
    with SimulatedOllama(cloud_in_ps=True) as server:
        server.disk["gpt-oss:120b-cloud"] = CLOUD
        server._cloud_used.add("gpt-oss:120b-cloud")
        one = prober(server)
        assert {probe(one).result for _ in range(3)} <= {"no_model", "skipped_unloaded"}
        assert (chats(server), server.costs) == ([], {})
        server.use("small:latest")
        before = server.costs.copy()
        assert (probe(one).result, chats(server)[0]["model"]) == ("ok", "small:latest")
        assert server.costs["paid call"] == before["paid call"] == 0


@pytest.mark.parametrize("cloud_used", [False, True])
def test_lemonades_cloud_models_are_never_taken(cloud_used: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A cloud's model that was used once stays first among those in memory."""
    with SimulatedLemonade(loaded=("Qwen3-8B-GGUF",), cloud_used=cloud_used) as server:
        assert (probe(prober(server)).result, chats(server)[0]["model"]) == ("ok", "Qwen3-8B-GGUF")
        assert (server.costs["paid call"], server.costs["load"], server.costs["eviction"]) == (0, 0, 0)
    with SimulatedLemonade(cloud_used=cloud_used) as server:
        assert (probe(prober(server)).result, server.costs) == ("skipped_unloaded", {})


def test_lemonade_evicts_nothing_for_a_probe() -> None:
    """Lemonade holds one model: naming another one evicted the user's."""
    with SimulatedLemonade(loaded=("Qwen3-8B-GGUF",)) as server:
        assert probe(prober(server, model="Gemma-3-4b-it-GGUF")).result == "skipped_unloaded"
        assert (server.costs, server.memory.ready) == ({}, ["Qwen3-8B-GGUF"])


def test_lemonades_order_of_eviction_is_not_changed() -> None:
    """Of two models in memory the one that was used last is probed, and a named one only while it is that."""
    clock = Clock()
    with SimulatedLemonade(loaded=("Qwen3-8B-GGUF", "Gemma-3-4b-it-GGUF"), most=2, clock=clock) as server:
        one, named = prober(server, clock), prober(server, clock, model="Qwen3-8B-GGUF")
        for used in ("Gemma-3-4b-it-GGUF", "Qwen3-8B-GGUF", "Gemma-3-4b-it-GGUF"):
            clock.ahead += 60
            User(server.url, tokens=2, model=used).send().finished()
            server.idle()
            assert (probe(one).result, chats(server)[-1]["model"]) == ("ok", used)
            assert probe(named).result == ("ok" if used == "Qwen3-8B-GGUF" else "skipped_unloaded")
        assert +server.costs == {}


# Strangers, keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["router", "nas", "airplay", "torrent", "page"])
def test_discovery_takes_only_what_names_itself(kind: Kind) -> None:
    """A 401 or 403 was taken for an OpenAI server and got a chat each minute: routers, NAS, AirPlay on port 5000."""
    with SimulatedNobody(kind) as server:
        found = identify(server.url)
        assert (found.identity, found.listening, server.paths("POST")) == (None, True, [])
        wants_key = kind in {"nas", "airplay", "torrent"}
        assert ("requires a key" in found.why_not) == wants_key


def test_a_key_of_ours_makes_no_stranger_a_target(tmp_path: Path) -> None:
    """With a key at hand, something that refuses it was taken for an inference server."""
    key = tmp_path / "key"
    key.write_text("secret")
    with SimulatedNobody("nas") as server:
        assert identify(server.url, api_key_file=key).identity is None


@pytest.mark.parametrize("kind", ["nas", "airplay", "torrent", "router"])
def test_a_configured_stranger_gets_no_chat(kind: Kind) -> None:
    """A target whose status check says that the key is refused gets no request for text."""
    with SimulatedNobody(kind) as server:
        one = prober(server)
        results = [probe(one) for _ in range(3)]
        assert {each.result for each in results} <= {"auth", "protocol"}
        assert server.costs == {}


@pytest.mark.parametrize("simulated", ["vllm", "llama_cpp", "openai"])
def test_a_refused_key_keeps_chats_away_until_the_file_changes(simulated: str, tmp_path: Path) -> None:
    """A refused key was tried by a chat at each interval; now the status check decides, and reads the file anew each time."""
    base = {"vllm": SimulatedVllm, "llama_cpp": SimulatedLlamaServer, "openai": SimulatedLiteLLM}[simulated]

    class KeyedServer(base):  # type: ignore[misc,valid-type]
        def answer(self, request: ReceivedRequest) -> ServerAnswer:
            if (
                request.path not in {"/health", "/version", "/metrics"}
                and request.headers.get("authorization") != "Bearer b"
            ):
                return as_json({"error": "Unauthorized"}, 401)
            answer: ServerAnswer = super().answer(request)
            return answer

    key = tmp_path / "key"
    key.write_text("a\n")
    with KeyedServer() as server:
        one = prober(server, api_key_file=key, model="local" if simulated == "openai" else None)
        assert [probe(one).result for _ in range(3)] == ["auth"] * 3
        assert chats(server) == []
        key.write_text("b\n")
        assert probe(one).result == "ok"


# What generates no text -----------------------------------------------------------------------------------------------


def unable(server: Simulated, chats_at_most: int = 0) -> None:
    """Three probes and a status check: skipped, with one text, and hardly a request."""
    one = prober(server)
    results = [probe(one) for _ in range(3)]
    assert ({each.result for each in results}, len({each.error for each in results})) == ({"skipped_unable"}, 1)
    assert check(one).up
    assert len(chats(server)) <= chats_at_most


@pytest.mark.parametrize("build", [10_000, 11_434])
@pytest.mark.parametrize("kind", ["embeddings", "reranking"])
def test_a_llama_server_without_text_is_asked_once(build: int, kind: str) -> None:
    """llama-server --embeddings and --reranking were reported as broken each minute: 501, in new builds 500."""
    with SimulatedLlamaServer(build=build, embeddings=kind == "embeddings", reranking=kind == "reranking") as server:
        unable(server, chats_at_most=1)


def test_a_pooling_vllm_is_not_asked() -> None:
    """Its route for chats is missing, which a GET tells."""
    with SimulatedVllm(pooling=True) as server:
        unable(server)


@pytest.mark.parametrize("version", ["0.9.6", "0.24.0", "0.33.0"])
def test_an_embedding_model_in_ollamas_memory_is_not_asked(version: str) -> None:
    """Ollama's resident embedding model was asked for a chat; its capabilities tell, before 0.30 by ``/api/show``."""
    with SimulatedOllama(version=version) as server:
        server.disk["nomic-embed-text:latest"] = EMBEDDING
        server.use("nomic-embed-text")
        unable(server)


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0"])
def test_of_two_models_in_memory_the_one_that_chats_is_asked(version: str) -> None:
    """The embedding model came first, by family it can't be told, and it stays longer."""
    with SimulatedOllama(version=version, max_loaded=2) as server:
        server.disk["qwen3-embedding:latest"] = stored(
            "qwen3-embedding", 10**9, family="qwen3", capabilities=("embedding",)
        )
        server.use("qwen3-embedding", keep_alive=3600)
        one = prober(server)
        assert probe(one).result == "skipped_unable"
        server.use("small")
        assert (probe(one).result, [each["model"] for each in chats(server)]) == ("ok", ["small:latest"])


def test_lm_studios_embedding_models_are_not_asked() -> None:
    """Alone: unable. Beside a model of text: that one is asked."""
    with SimulatedLMStudio() as server:
        server.load("text-embedding-nomic-embed-text-v1.5")
        unable(server)
        server.load("meta-llama-3.1-8b-instruct")
        assert probe(prober(server)).result == "ok"
        assert [each["model"] for each in chats(server)] == ["meta-llama-3.1-8b-instruct"]


# All of them ----------------------------------------------------------------------------------------------------------

SERVERS = (
    SimulatedLiteLLM,
    SimulatedLlamaServer,
    SimulatedSGLang,
    SimulatedTabbyAPI,
    SimulatedVllm,
    SimulatedOllama,
    SimulatedLemonade,
    SimulatedLocalAI,
    SimulatedLMStudio,
    SimulatedLlamaSwap,
    SimulatedKoboldCpp,
    SimulatedTextGenerationWebui,
    SimulatedTransformersServe,
)


@pytest.mark.parametrize("simulated", SERVERS)
def test_recognition_and_status_checks_cost_nothing_anywhere(simulated: type[Simulated]) -> None:
    """A read that is free on one server costs on another: whatever stands at an address, recognising and checking it is free."""
    with simulated() as server:
        identify(server.url)
        one = prober(server)
        for _ in range(3):
            assert check(one).up
        assert (+server.costs, chats(server)) == ({}, [])
