"""The simulated LiteLLM does what the real proxy does, shown over HTTP."""

from tests.servers.litellm import SimulatedLiteLLM
from tests.simulated.plain import chat, events, get, post, read, spent

CHAT = "/v1/chat/completions"


def test_health_calls_every_model() -> None:
    """The paid ones too; the two other health paths and the lists call none."""
    with SimulatedLiteLLM() as server:
        for path in (
            "/",
            "/health/liveliness",
            "/health/readiness",
            "/v1/models",
            "/v1/model/info",
            "/props",
            "/metrics",
        ):
            get(server, path)
        assert server.costs == {}
        assert spent(server, lambda: get(server, "/health")) == {"paid call": 1, "call": 1}
        assert read(server, "/health")["healthy_count"] == 2


def test_the_list_has_all_models_and_says_nothing_of_memory() -> None:
    """Their owner is openai, and only the model info tells what costs something, where it may be read."""
    with SimulatedLiteLLM() as server:
        found = read(server, "/v1/models")["data"]
        assert [each["id"] for each in found] == ["local", "gpt-4o"]
        assert {(each["owned_by"], each["created"]) for each in found} == {("openai", 1677610602)}
        costs = [each["model_info"]["input_cost_per_token"] for each in read(server, "/v1/model/info")["data"]]
        assert costs == [None, 2.5e-06]
        server.open_info = False
        assert get(server, "/v1/model/info").status_code == 403


def test_a_chat_is_paid_by_its_model() -> None:
    """Only the answer of a chat names LiteLLM and its version; an unknown model and none are refused without a call."""
    with SimulatedLiteLLM() as server:
        assert spent(server, lambda: post(server, CHAT, chat(model="gpt-4o"))) == {"paid call": 1}
        answer = post(server, CHAT, chat(model="local", stream=True))
        assert answer.headers["x-litellm-version"] == "1.108.0"
        assert "x-litellm-version" not in get(server, "/v1/models").headers
        for body in (chat(model="zzz"), chat()):
            refused = post(server, CHAT, body)
            assert (refused.status_code, server.costs["paid call"]) == (400, 1)
            assert "Invalid model name passed in model=" in refused.json()["error"]["message"]


def test_usage_comes_after_the_finish_with_choices() -> None:
    """In a chunk of its own whose choices are not empty."""
    with SimulatedLiteLLM() as server:
        found = events(
            post(server, CHAT, chat(tokens=2, model="local", stream=True, stream_options={"include_usage": True}))
        )
        assert [each["choices"][0].get("finish_reason") for each in found] == [None, None, None, "length", None]
        assert found[-1]["choices"] == [{"index": 0, "delta": {}}]
        assert found[-1]["usage"]["completion_tokens"] == 2
        assert found[0]["choices"][0]["delta"] == {"role": "assistant"}


def test_a_key_is_wanted_for_all_but_the_free_health_paths() -> None:
    """401 in JSON."""
    with SimulatedLiteLLM(key="sk-x") as server:
        assert [get(server, path).status_code for path in ("/v1/models", "/health", "/props")] == [401, 401, 404]
        assert [get(server, path).status_code for path in ("/health/liveliness", "/health/readiness")] == [200, 200]
        assert get(server, "/v1/models", Authorization="Bearer sk-x").status_code == 200
        assert server.costs == {}
