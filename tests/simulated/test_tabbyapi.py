"""The simulated TabbyAPI does what its source says of the real one, shown over HTTP."""

from tests.servers.tabbyapi import SimulatedTabbyAPI
from tests.simulated.plain import chat, events, get, post, read, spent

LOADED, OTHER = "Qwen3-8B-exl3", "Mistral-7B-exl3"


def test_the_model_in_memory_answers_whatever_is_named() -> None:
    """It loads nothing, unless inline loading is on."""
    with SimulatedTabbyAPI() as server:
        assert read(server, "/v1/model")["id"] == LOADED
        assert spent(server, lambda: post(server, "/v1/chat/completions", chat(model=OTHER))) == {}
        assert server.loaded == LOADED
    with SimulatedTabbyAPI(inline=True) as server:
        costs = spent(server, lambda: post(server, "/v1/chat/completions", chat(model=OTHER)))
        assert costs == {"load": 1, "eviction": 1}
        assert read(server, "/v1/model")["id"] == OTHER


def test_without_a_model_it_says_so() -> None:
    """503 at its own path and for a chat; its list names what is in the folder."""
    with SimulatedTabbyAPI(loaded=None) as server:
        assert get(server, "/v1/model").status_code == 503
        assert post(server, "/v1/chat/completions", chat()).status_code == 503
        assert [each["id"] for each in read(server, "/v1/models")["data"]] == [LOADED, OTHER]


def test_its_usage_stands_beside_the_finish() -> None:
    """No role; the last chunk has finish and usage."""
    with SimulatedTabbyAPI() as server:
        body = chat(tokens=3, stream=True) | {"stream_options": {"include_usage": True}}
        found = events(post(server, "/v1/chat/completions", body))
        assert not any("role" in each["choices"][0]["delta"] for each in found)
        last = found[-1]
        assert (last["choices"][0]["finish_reason"], last["usage"]["completion_tokens"]) == ("length", 3)


def test_it_wants_its_key() -> None:
    """401 under /v1; the health check is open."""
    with SimulatedTabbyAPI(key="right") as server:
        assert (get(server, "/v1/model").status_code, get(server, "/health").status_code) == (401, 200)
