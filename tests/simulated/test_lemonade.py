"""The simulated Lemonade does what the real one does, shown over HTTP."""

from typing import Any

import pytest

from tests.servers.lemonade import SimulatedLemonade
from tests.servers.user import User, several
from tests.simulated.plain import chat, events, get, post, read, spent, wait_for

LOCAL, OTHER, CLOUD = "Qwen3-8B-GGUF", "Gemma-3-4b-it-GGUF", "openrouter.gpt-4o"


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1"])
def test_naming_another_model_evicts(prefix: str) -> None:
    """One at a time by default; reads load nothing."""
    with SimulatedLemonade(loaded=(LOCAL,)) as server:
        for path in ("/v1/models", "/v1/health", "/api/tags", "/api/ps", "/api/version", "/live"):
            get(server, path)
        assert server.costs == {}
        assert read(server, f"{prefix}/health")["model_loaded"] == LOCAL
        assert spent(server, lambda: post(server, f"{prefix}/chat/completions", chat(model=OTHER))) == {
            "load": 1,
            "eviction": 1,
        }
        assert [each["model_name"] for each in read(server, "/v1/health")["all_models_loaded"]] == [OTHER]


def test_a_cloud_model_costs_and_stays_the_first_in_ps() -> None:
    """Its family says cloud; it evicts nothing."""
    with SimulatedLemonade(loaded=(LOCAL,)) as server:
        assert spent(server, lambda: post(server, "/v1/chat/completions", chat(model=CLOUD))) == {"paid call": 1}
        found = [(each["name"], each["details"]["family"]) for each in read(server, "/api/ps")["models"]]
        assert found == [(f"{CLOUD}:latest", "cloud"), (f"{LOCAL}:latest", "llamacpp")]
        recipes = {each["model_name"]: each["recipe"] for each in read(server, "/v1/health")["all_models_loaded"]}
        assert recipes == {CLOUD: "cloud", LOCAL: "llamacpp"}


def test_it_looks_like_an_ollama_and_says_who_it_is_elsewhere() -> None:
    """Version 0.16.1, a list of what is in memory; the owner of its models and its metrics name it; other paths give a page."""
    with SimulatedLemonade() as server:
        assert read(server, "/api/version") == {"version": "0.16.1"}
        assert {each["owned_by"] for each in read(server, "/v1/models")["data"]} == {"lemonade"}
        assert 'lemonade_server_info{version="11.7.0"} 1' in get(server, "/metrics").text
        for path in ("/props", "/slots", "/health", "/version"):
            page = get(server, path)
            assert (page.status_code, page.headers["content-type"]) == (200, "text/html")


def test_its_metrics_tell_who_runs_and_empty_the_gauges_behind_them() -> None:
    """The counters of llama-server are read anew with each read."""
    with SimulatedLemonade(loaded=(LOCAL,), tokens_per_second=50) as server:
        first, second = (User(server.url, model=LOCAL, tokens=30) for _ in range(2))
        with several(first, second):
            wait_for(lambda: server.queue.waiting)
            text = get(server, "/metrics").text
            assert any(
                line.startswith("lemonade_llamacpp_requests_processing{") and line.endswith(" 1")
                for line in text.splitlines()
            )
            second.finished()
        assert server.costs == {"counter reset": 1}
        server.idle()
        tokens = [line for line in get(server, "/metrics").text.splitlines() if "output_tokens_total" in line]
        assert tokens[0].endswith(" 60")


def test_refusals() -> None:
    """Nothing loaded and none named; an unknown model; one for embeddings."""
    with SimulatedLemonade() as server:
        bodies = (chat(), chat(model="x"), chat(model="nomic-embed-text-v1-GGUF"))
        assert [post(server, "/v1/chat/completions", body).status_code for body in bodies] == [400, 404, 400]
        assert server.costs == {}


def test_its_ollama_path_costs_the_same() -> None:
    """Lines in place of events, with counts and no times."""
    with SimulatedLemonade() as server:
        body = {
            "model": f"{LOCAL}:latest",
            "messages": [{"role": "user", "content": "a b"}],
            "options": {"num_predict": 3},
        }
        found: list[Any] = []
        assert spent(server, lambda: found.extend(events(post(server, "/api/chat", body)))) == {"load": 1}
        assert [each["done"] for each in found] == [False, False, False, True]
        assert (found[-1]["eval_count"], found[-1]["total_duration"]) == (3, 0)
