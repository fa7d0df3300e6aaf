"""The simulated llama-swap does what the real one does, shown over HTTP."""

import pytest

from tests.servers.llama_swap import SimulatedLlamaSwap
from tests.servers.user import User
from tests.simulated.plain import chat, get, post, read, spent, wait_for

CHAT = "/v1/chat/completions"


def test_its_own_paths_start_nothing() -> None:
    """Lists, health, version, metrics."""
    with SimulatedLlamaSwap() as server:
        for path in ("/v1/models", "/running", "/health", "/api/version", "/metrics", "/slots", "/api/ps", "/props"):
            get(server, path)
        assert server.costs == {}
        assert read(server, "/running") == {"running": []}


@pytest.mark.parametrize("path", ["/upstream/coder/health", "/upstream/coder/slots", "/props?model=coder"])
def test_a_get_that_goes_to_a_models_server_starts_it(path: str) -> None:
    """Even its health."""
    with SimulatedLlamaSwap() as server:
        assert spent(server, lambda: get(server, path)) == {"load": 1}
        assert read(server, "/running")["running"][0]["model"] == "coder"


def test_each_request_restarts_its_time() -> None:
    """A GET under /upstream too; /running tells the ttl."""
    with SimulatedLlamaSwap(ttl=300) as server:
        server.load("coder")
        for doing in (lambda: post(server, CHAT, chat(model="coder")), lambda: get(server, "/upstream/coder/health")):
            server.clock.ahead += 290
            assert spent(server, doing) == {"timer restart": 1}
        assert read(server, "/running")["running"][0]["ttl"] == 300
        server.clock.ahead += 301
        assert read(server, "/running")["running"] == []


def test_a_model_that_starts_is_listed_as_loaded() -> None:
    """/running says starting."""
    with SimulatedLlamaSwap(load_seconds=0.3) as server:
        one = User(server.url, model="writer", tokens=2).send()
        wait_for(lambda: server.costs["load"])
        assert read(server, "/running")["running"][0]["state"] == "starting"
        status = {each["id"]: each["status"]["value"] for each in read(server, "/v1/models")["data"]}
        assert status == {"coder": "unloaded", "writer": "loaded"}
        one.finished()
        assert read(server, "/running")["running"][0]["state"] == "ready"
        assert one.tokens == 2


def test_another_model_evicts_and_unload_is_a_get() -> None:
    """GET /unload stops what runs."""
    with SimulatedLlamaSwap() as server:
        server.load("coder")
        assert spent(server, lambda: post(server, CHAT, chat(model="writer"))) == {"load": 1, "eviction": 1}
        assert spent(server, lambda: get(server, "/unload")) == {"unload": 1}
        assert post(server, CHAT, chat(model="none")).status_code == 404
