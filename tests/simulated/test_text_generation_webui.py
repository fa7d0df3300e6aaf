"""The simulated text-generation-webui does what the real one does, shown over HTTP."""

import time
from typing import Any

from tests.servers.text_generation_webui import SimulatedTextGenerationWebui
from tests.servers.user import User, several
from tests.simulated.plain import chat, events, get, post, read, wait_for

CHAT = "/v1/chat/completions"
USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}


def test_the_role_comes_before_the_lock() -> None:
    """A second request has its headers and its role at once, and its first token after the first one's last."""
    with SimulatedTextGenerationWebui(tokens_per_second=100) as server:
        first, second = User(server.url, tokens=40), User(server.url, tokens=4)
        with several(first, second):
            second.finished()
        assert second.first_at is not None
        assert second.lines[0][0] < first.token_times[-3] < second.first_at


def test_an_idle_model_is_unloaded_and_keeps_its_name() -> None:
    """model/info and the list say the same as before; any chat loads it, reads don't."""
    with SimulatedTextGenerationWebui(idle_timeout=10) as server:
        server.clock.ahead += 601
        assert not server.loaded
        assert read(server, "/v1/internal/model/info")["model_name"] == "qwen3-8b.gguf"
        assert read(server, "/v1/models")["data"][0]["id"] == "qwen3-8b.gguf"
        assert get(server, "/v1/internal/health").status_code == 200
        assert server.costs == {}
        post(server, CHAT, chat(model="another"))
        assert server.costs == {"load": 1, "timer restart": 1}
        server.clock.ahead += 500
        assert server.loaded


def test_two_at_once_load_it_twice() -> None:
    """The load is before the lock."""
    with SimulatedTextGenerationWebui(idle_timeout=10, load_seconds=0.2) as server:
        server.clock.ahead += 601
        users = [User(server.url, tokens=2) for _ in range(2)]
        with several(*users):
            for each in users:
                each.finished()
        assert server.costs["load"] == 2


def test_usage_counts_one_more_and_may_have_no_prompt() -> None:
    """65 for 64; 0 for the prompt with the Transformers loader."""
    for loader, prompt in (("llama.cpp", 3), ("Transformers", 0)):
        with SimulatedTextGenerationWebui(loader=loader) as server:
            usage = events(post(server, CHAT, chat(tokens=64, stream=True, **USAGE)))[-1]["usage"]
            assert (usage["completion_tokens"], usage["prompt_tokens"]) == (65, prompt)


def test_a_chat_loads_nothing_where_no_model_was_chosen() -> None:
    """Its stream breaks off after the role; info says None."""
    with SimulatedTextGenerationWebui(model=None) as server:
        assert read(server, "/v1/internal/model/info")["model_name"] == "None"
        assert read(server, "/v1/models")["data"] == []
        assert len(events(post(server, CHAT, chat(model="qwen3-8b.gguf", stream=True)))) == 1
        assert server.costs == {}


def test_a_load_by_its_api_holds_all_answers() -> None:
    """Not even the list answers meanwhile."""
    with SimulatedTextGenerationWebui(load_seconds=0.4) as server:
        began = time.monotonic()
        loads = User(server.url, path="/v1/internal/model/load", model_name="other").send()
        wait_for(lambda: server.costs["load"])
        get(server, "/v1/models")
        took = time.monotonic() - began
        loads.finished()
        assert took > 0.3
