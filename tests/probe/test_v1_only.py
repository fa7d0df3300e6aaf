"""A vLLM or a llama-server behind a proxy that passes only ``/v1``: its own dialect without the extras."""

from collections.abc import Callable

import pytest

from exporter.probe.dialects.openai import V1_ONLY
from exporter.probe.status import identify
from tests.probe.guest import chats, prober
from tests.probe.probes import check, probe
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.proxy_v1_only import ProxyV1Only
from tests.servers.simulated import Simulated
from tests.servers.vllm import SimulatedVllm


@pytest.mark.parametrize(
    ("behind", "backend", "field"),
    [(SimulatedVllm, "vllm", "min_tokens"), (SimulatedLlamaServer, "llama_cpp", "timings_per_token")],
)
def test_it_is_probed_by_its_own_dialect(behind: Callable[[], Simulated], backend: str, field: str) -> None:
    """It was ``down``, since ``/health`` and ``/props`` are pages of the proxy; now its own request measures it exactly."""
    with behind() as server, ProxyV1Only(server) as proxy:
        found = identify(proxy.url)
        assert found.identity is not None
        assert (found.identity.backend, found.notice) == (backend, V1_ONLY)
        one = prober(proxy)
        state = check(one)
        assert (state.up, state.requests_running, state.notice) == (True, None, V1_ONLY)
        result = probe(one)
        assert (result.result, result.model) == ("ok", found.identity.model)
        assert result.measurements.token_count_exact
        assert field in chats(server)[0]


@pytest.mark.parametrize("behind", [SimulatedVllm, SimulatedLlamaServer])
def test_no_read_is_repeated_while_a_probe_runs(behind: Callable[..., Simulated]) -> None:
    """Who else is there can't be read through the proxy, so nothing is asked beside the stream."""
    with behind(tokens_per_second=8) as server, ProxyV1Only(server) as proxy:
        one = prober(proxy)
        assert probe(one).result == "ok"
        asked = proxy.paths()
        assert {"/metrics", "/slots"}.isdisjoint(asked[asked.index("/v1/chat/completions") :])


@pytest.mark.parametrize("behind", [SimulatedVllm, SimulatedLlamaServer])
def test_a_server_that_is_gone_is_down(behind: Callable[[], Simulated]) -> None:
    """The proxy goes on answering: 502 on what it passes, its page on the rest."""
    with behind() as server, ProxyV1Only(server) as proxy:
        one = prober(proxy)
        assert check(one).up
        server.kill()
        state = check(one)
        assert not state.up
        assert "502" in state.error


def test_a_llama_server_that_loads_is_loading() -> None:
    """It says so at each path, so the proxy passes that on."""
    with SimulatedLlamaServer() as server, ProxyV1Only(server) as proxy:
        server.loading = True
        state = check(prober(proxy))
        assert (state.up, state.loading) == (True, True)


def test_a_router_behind_it_loads_nothing() -> None:
    """Its list says what is in memory: nothing, so nothing is probed; what somebody loaded is."""
    with SimulatedLlamaServer(router={"a": "unloaded", "b": "unloaded"}) as server, ProxyV1Only(server) as proxy:
        assert probe(prober(proxy)).result == "skipped_unloaded"
        assert (server.costs["load"], chats(server)) == (0, [])
        server.router = {"a": "unloaded", "b": "loaded"}
        result = probe(prober(proxy))
        assert (result.result, result.model, server.costs["load"]) == ("ok", "b", 0)
