"""The simulated LM Studio does what its documentation says, shown over HTTP."""

from typing import Any

from tests.servers.lm_studio import SimulatedLMStudio
from tests.simulated.plain import chat, get, post, read, spent

CHAT = "/v1/chat/completions"
TEXT, PICTURES, EMBEDS = "meta-llama-3.1-8b-instruct", "qwen2-vl-7b-instruct", "text-embedding-nomic-embed-text-v1.5"


def states(server: SimulatedLMStudio) -> dict[str, str]:
    """State of each model."""
    return {each["id"]: each["state"] for each in read(server, "/api/v0/models")["data"]}


def test_all_are_listed_with_their_type_and_state() -> None:
    """In /v1/models without either; reads load nothing."""
    with SimulatedLMStudio() as server:
        kinds = {each["id"]: each["type"] for each in read(server, "/api/v0/models")["data"]}
        assert kinds == {TEXT: "llm", PICTURES: "vlm", EMBEDS: "embeddings"}
        assert {each["owned_by"] for each in read(server, "/v1/models")["data"]} == {"organization_owner"}
        assert set(states(server).values()) == {"not-loaded"}
        assert server.costs == {}


def test_a_chat_loads_just_in_time_and_each_one_restarts_the_hour() -> None:
    """A time in the request counts for that model."""
    with SimulatedLMStudio() as server:
        assert spent(server, lambda: post(server, CHAT, chat(model=TEXT))) == {"load": 1, "timer restart": 1}
        server.clock.ahead += 3500
        assert spent(server, lambda: post(server, CHAT, chat(model=TEXT))) == {"timer restart": 1}
        server.clock.ahead += 3500
        assert states(server)[TEXT] == "loaded"
        post(server, CHAT, chat(model=TEXT, ttl=60))
        server.clock.ahead += 61
        assert states(server)[TEXT] == "not-loaded"


def test_auto_evict_spares_what_its_user_loaded() -> None:
    """That has no time, and isn't counted."""
    with SimulatedLMStudio() as server:
        server.load(EMBEDS)
        post(server, CHAT, chat(model=TEXT))
        assert spent(server, lambda: post(server, CHAT, chat(model=PICTURES)))["eviction"] == 1
        server.clock.ahead += 1e6
        assert states(server) == {TEXT: "not-loaded", PICTURES: "not-loaded", EMBEDS: "loaded"}


def test_without_just_in_time_only_what_is_loaded_is_there() -> None:
    """In the list, and for chats."""
    with SimulatedLMStudio(just_in_time=False) as server:
        server.load(TEXT)
        assert [each["id"] for each in read(server, "/v1/models")["data"]] == [TEXT]
        assert post(server, CHAT, chat(model=PICTURES)).status_code == 404
        assert server.costs == {}


def test_unknown_paths_give_200_with_an_error() -> None:
    """So a status says nothing there; a model for embeddings has no chat."""
    with SimulatedLMStudio() as server:
        answers: list[Any] = [get(server, path) for path in ("/health", "/props", "/metrics", "/api/version")]
        assert {each.status_code for each in answers} == {200}
        assert all("Unexpected endpoint" in each.json()["error"] for each in answers)
        assert post(server, CHAT, chat(model=EMBEDS)).status_code == 400
