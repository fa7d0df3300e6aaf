"""What must not run together: a probe and the status check beside it, an IPv6 address, long names, a server with nothing in memory."""

import socket
import threading

import pytest

from exporter.settings import load_profiles, make_target
from exporter.snapshot import TargetInfo
from exporter.target_facts import Machine, info_of, target_facts_of
from exporter.text import label
from tests.probe.guest import prober
from tests.probe.probes import check, probe
from tests.servers.ollama import SimulatedOllama, stored
from tests.servers.simulated import _handler, _Http
from tests.servers.vllm import SimulatedVllm
from tests.waiting import eventually


def test_a_status_check_during_the_first_probe_leaves_it_a_cold_start() -> None:
    """What belongs to a probe is as it was when it was sent: the check beside it already sees an answered server."""
    with SimulatedVllm(tokens_per_second=20) as server:
        one = prober(server)
        probe(one)
        server.started, server.generated = server.started + 60, 0
        found = []
        thread = threading.Thread(target=lambda: found.append(probe(one)))
        thread.start()
        eventually(lambda: server.generated >= 3, "its first tokens")
        checked, _ = one.check(5.0)
        assert checked.status is not None
        assert (checked.status.served, one.tracker.cold) == (True, False)
        thread.join()
    assert [(each.result, each.cold_start, each.measurements.ttft_seconds) for each in found] == [("ok", True, None)]


class OnSix(SimulatedVllm):
    """A vLLM on the loopback of IPv6."""

    def start(self, port: int = 0, *, answering: bool = True) -> None:
        """Listen there."""

        class Http(_Http):
            address_family = socket.AF_INET6

        self._http = Http(("::1", port), _handler(self))
        self._http.faults = self._faults
        if answering:
            self.serve()

    @property
    def url(self) -> str:
        """Its address."""
        return super().url.replace("127.0.0.1", "[::1]")


def test_an_address_of_ipv6_is_probed() -> None:
    """With its brackets, as it stands in the settings and in Docker's list."""
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with OnSix() as server:
        result = probe(prober(server))
        assert (result.result, result.model) == ("ok", "tiny")


def info(server: SimulatedVllm) -> TargetInfo:
    """What the daemon says of it after a probe."""
    result = probe(prober(server))
    assert result.state is not None
    target, identity = make_target(url=server.url), result.state.identity
    known = target_facts_of(target, identity, Machine(), result.state)
    return info_of(target, identity, known, Machine(), load_profiles(None))


def test_models_that_differ_after_128_characters_are_two() -> None:
    """Of two servers, whose models differ in their quantization only, at the end of a long path's name."""
    names = ["m" * 140 + end for end in ("-q4", "-q8")]
    found = set()
    for name in names:
        with SimulatedVllm(model=name) as server:
            found.add(label(info(server).model))
    assert len(found) == 2
    assert all(len(each) <= 128 for each in found)


def test_an_ollama_with_nothing_in_memory_is_always_the_same() -> None:
    """Its list ties in random order; as long as nothing is loaded it names no model, and none that nobody asked for."""
    with SimulatedOllama() as server:
        for number in range(4):
            server.disk[f"m{number}:latest"] = stored(f"m{number}", 10**9)
        one = prober(server)
        before = check(one).identity
        for _ in range(4):
            server.disk = dict(reversed(server.disk.items()))
            assert check(one).identity == before
        assert before is not None
        assert before.model is None
        assert probe(one).result == "skipped_unloaded"
