"""The simulated LocalAI, mlx_lm and Docker Model Runner do what the real ones do, shown over HTTP."""

import pytest

from tests.servers.localai import Kind, SimulatedLocalAI
from tests.servers.user import User, several
from tests.simulated.plain import chat, get, post, read, spent

CHAT = "/v1/chat/completions"
FIRST, SECOND = "llama-3.2-3b", "qwen3-14b"


@pytest.mark.parametrize("kind", ["localai", "mlx_lm", "docker"])
def test_the_list_has_all_and_a_chat_loads_the_one_that_is_named(kind: Kind) -> None:
    """The list is the same before and after; reads load nothing; another model evicts."""
    with SimulatedLocalAI(kind) as server:
        before = read(server, "/v1/models")
        assert [each["id"] for each in before["data"]] == [FIRST, SECOND]
        for path in ("/", "/health", "/readyz", "/system", "/props", "/api/version", "/api/ps", "/api/tags"):
            get(server, path)
        assert server.costs == {}
        assert spent(server, lambda: post(server, CHAT, chat(model=SECOND)))["load"] == 1
        assert spent(server, lambda: post(server, CHAT, chat(model=FIRST)))["eviction"] == 1
        assert read(server, "/v1/models") == before
        assert post(server, CHAT, chat(model="none")).status_code == 404


def test_localai_says_elsewhere_what_is_in_memory() -> None:
    """At /system; and a chat without a name loads the first."""
    with SimulatedLocalAI() as server:
        assert read(server, "/system")["loaded_models"] == []
        post(server, CHAT, chat())
        assert read(server, "/system")["loaded_models"] == [{"id": FIRST}]
        assert get(server, "/readyz").text == "OK"


def test_localais_watchdog_unloads() -> None:
    """Each request restarts its time."""
    with SimulatedLocalAI(ttl=900, loaded=(FIRST,)) as server:
        server.clock.ahead += 800
        assert spent(server, lambda: post(server, CHAT, chat())) == {"timer restart": 1}
        server.clock.ahead += 800
        assert read(server, "/system")["loaded_models"]
        server.clock.ahead += 200
        assert read(server, "/system")["loaded_models"] == []


def test_docker_model_runner_imitates_ollama() -> None:
    """Under /engines too; what runs has no end in ps, and an idle model leaves after five minutes."""
    with SimulatedLocalAI("docker", tokens_per_second=50) as server:
        assert read(server, "/engines/v1/models")["data"][0]["owned_by"] == "docker"
        assert read(server, "/api/version") == {"version": "0.1.0"}
        with User(server.url, model=FIRST, tokens=500, path="/engines/llama.cpp/v1/chat/completions"):
            assert read(server, "/api/ps")["models"][0]["expires_at"] == "0001-01-01T00:00:00Z"
        server.idle()
        assert read(server, "/api/ps")["models"][0]["expires_at"] > "2020"
        server.clock.ahead += 301
        assert read(server, "/api/ps")["models"] == []


def test_a_busy_model_is_waited_for_before_it_is_evicted() -> None:
    """The user's stream ends whole."""
    with SimulatedLocalAI("mlx_lm", tokens_per_second=100) as server:
        one, two = User(server.url, model=FIRST, tokens=30), User(server.url, model=SECOND, tokens=4)
        with several(one, two):
            two.finished()
        assert one.complete
        assert two.waited_for(one)
