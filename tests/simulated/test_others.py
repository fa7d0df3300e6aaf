"""Services that are no inference servers, and a proxy before one, shown over HTTP."""

import pytest

from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.nobody import ANSWERS, Kind, SimulatedNobody
from tests.servers.proxy_v1_only import ProxyV1Only
from tests.servers.user import User
from tests.servers.vllm import SimulatedVllm
from tests.simulated.plain import chat, events, get, post, read, spent, wait_for


@pytest.mark.parametrize("kind", ANSWERS)
def test_nobody_answers_every_path_alike_and_counts_posts(kind: Kind) -> None:
    """401 or 403 in HTML, JSON, text or nothing, or a page."""
    with SimulatedNobody(kind) as server:
        answers = {
            (get(server, path).status_code, get(server, path).text) for path in ("/", "/v1/models", "/api/version")
        }
        assert len(answers) == 1
        assert server.costs == {}
        assert spent(server, lambda: post(server, "/v1/chat/completions", chat())) == {"stranger posted to": 1}


def test_the_proxy_passes_v1_and_nothing_else() -> None:
    """Its own page for the rest; streams pass, and when the client leaves the server behind stops."""
    with SimulatedVllm(tokens_per_second=100) as server, ProxyV1Only(server) as proxy:
        assert read(proxy, "/v1/models")["data"][0]["owned_by"] == "vllm"
        assert get(proxy, "/v1/models").headers["server"] == "nginx/1.22.1"
        for path in ("/health", "/metrics", "/version"):
            assert "nginx" in get(proxy, path).text
        assert server.paths() == ["/v1/models", "/v1/models"]
        assert len(events(post(proxy, "/v1/chat/completions", chat(tokens=3, stream=True)))) == 4
        with User(proxy.url, tokens=2000):
            assert server.ours == 1
        wait_for(lambda: server.ours == 0)


def test_the_proxy_says_when_nothing_is_behind_it() -> None:
    """502."""
    server = SimulatedLlamaServer()
    with server, ProxyV1Only(server) as proxy:
        assert read(proxy, "/v1/models")["data"]
        server.kill()
        assert get(proxy, "/v1/models").status_code == 502
