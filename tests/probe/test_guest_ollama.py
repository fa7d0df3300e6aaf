"""Ollama as it was without us: no reload, no model that stays longer or leaves earlier, no cloud, and users' waits are told."""

import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exporter.host.connections import read_connections
from exporter.probe.result import ProbeResult
from exporter.settings import Module, Timeouts
from tests.probe.guest import believe, chats, prober, run_for
from tests.probe.probes import SHORT, check, probe
from tests.servers.clock import Clock
from tests.servers.ollama import DEFAULT_KEEP_ALIVE, SimulatedOllama, stored
from tests.servers.user import User
from tests.waiting import eventually

SMALL = "small:latest"


def expires(server: SimulatedOllama) -> float:
    """When its model would leave now, once no request runs."""
    server.idle()
    return server.memory[SMALL].expires_at


# Status checks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.9.6", "0.14.0", "0.24.0", "0.33.0"])
def test_status_checks_leave_no_trace(version: str) -> None:
    """Memory, timers and loads are the same with and without status checks, also while a user's request runs."""
    clock = Clock()
    with SimulatedOllama(clock, version=version, tokens_per_second=200) as server:
        server.use("small")
        before, costs = expires(server), server.costs.copy()
        one = prober(server, clock)
        with User(server.url, tokens=100, model="small", path="/api/chat"):
            for _ in range(3):
                check(one)
            assert server.memory[SMALL].expires_at == before
        server.idle()
        costs["timer restart"] += 1
        ended = expires(server)
        for _ in range(20):
            check(one)
            clock.ahead += 1
        assert (server.costs, expires(server), chats(server)[1:]) == (costs, ended, [])


# Reloads --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "trained", "used", "gib", "runs"),
    [
        ("0.9.6", 131_072, {"num_ctx": 8192}, 16.0, False),
        ("0.14.0", 131_072, {"num_ctx": 8192}, 16.0, True),
        ("0.24.0", 131_072, {"num_ctx": 8192}, 16.0, True),
        ("0.24.0", 131_072, {}, 48.0, False),
        ("0.24.0", 2048, {}, 16.0, False),
        ("0.30.0", 131_072, {}, 48.0, True),
        ("0.33.0", 2048, {}, 48.0, True),
        ("0.33.0", 131_072, {"num_ctx": 8192}, 16.0, True),
    ],
)
def test_a_probe_repeats_the_context_or_does_not_run(
    version: str, trained: int, used: dict[str, int], gib: float, *, runs: bool
) -> None:
    """0.15.5 to 0.24 report a context cut to the model's own: each probe and each user request then loaded the model anew."""
    with SimulatedOllama(version=version, gpu_memory_gib=gib, load_seconds=1.1) as server:
        server.disk[SMALL] = stored("small", 2 * 10**9, trained=trained)
        server.use("small", **used)
        one = prober(server)
        results = []
        for _ in range(2):
            results.append(probe(one))
            server.use("small", **used)
        assert server.costs["reload"] == 0
        assert [each.result for each in results] == ["ok" if runs else "skipped_unloaded"] * 2
        assert runs or "targets[].options" in results[0].error
        assert ("skipped_would_reload" in " ".join(results[0].log)) != runs


def test_a_probe_by_hand_causes_no_reload_either() -> None:
    """A person's probe loaded the user's model anew as well."""
    with SimulatedOllama(gpu_memory_gib=48) as server:
        server.use("small")
        assert probe(prober(server, by_hand=True)).result == "skipped_unloaded"
        assert server.costs["reload"] == 0


def test_options_of_a_target_match_those_of_its_clients() -> None:
    """``options:`` stand in for what can't be read; a context that can't be repeated is left to the same default."""
    for gib, used in ((16.0, {"num_thread": 8}), (48.0, {"num_thread": 8}), (48.0, {"num_ctx": 200_000})):
        with SimulatedOllama(gpu_memory_gib=gib) as server:
            server.use("small", **used)
            assert probe(prober(server, options=used)).result == "ok"
            server.use("small", **used)
            assert server.costs["reload"] == 0


@pytest.mark.parametrize("version", ["0.14.0", "0.24.0", "0.33.0"])
@pytest.mark.parametrize("option", [{"num_thread": 8}, {"num_batch": 256}, {"main_gpu": 1}, {"use_mmap": False}])
def test_a_reload_that_a_probe_caused_is_not_caused_again(version: str, option: dict[str, int]) -> None:
    """Options that can't be read made each probe reload the model. The first one is noticed, said, and the last."""
    with SimulatedOllama(version=version, load_seconds=1.1) as server:
        server.use("small", **option)
        one = prober(server)
        results = [probe(one) for _ in range(3)]
        assert [each.result for each in results] == ["ok", "skipped_unloaded", "skipped_unloaded"]
        assert server.costs["reload"] == 1
        assert (results[0].cold_start, results[0].measurements.tokens_per_second) == (True, None)
        assert "targets[].options" in results[1].error
        assert "skipped_would_reload" in " ".join(results[1].log)


def test_another_model_is_probed_after_a_reload() -> None:
    """What was learned belongs to the model that was loaded then."""
    with SimulatedOllama(load_seconds=1.1) as server:
        server.use("small", num_thread=8)
        one = prober(server)
        assert [probe(one).result for _ in range(2)] == ["ok", "skipped_unloaded"]
        server.use("large")
        assert probe(one).result == "ok"


# The model's time ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.14.0", "0.24.0", "0.33.0"])
def test_a_model_leaves_when_it_would_have_left_without_us(version: str) -> None:
    """Status checks each 30 s, probes each 60 s: never off by more than what the test itself takes, and gone at its time."""
    clock = Clock()
    with SimulatedOllama(clock, version=version) as server:
        server.use("small")
        one, leaves_at = prober(server, clock), expires(server)
        while clock() < leaves_at:
            check(one)
            if one.due("default", SHORT):
                assert probe(one).result in {"ok", "skipped_unloaded"}
            assert abs(expires(server) - leaves_at) < 2
            clock.ahead += 30
        assert (server.memory, server.costs["load"]) == ({}, 1)


def test_a_user_after_a_probe_gets_his_full_time() -> None:
    """A probe's short keep-alive stayed in force for the next user. The next probe gives back what he lost."""
    clock = Clock()
    with SimulatedOllama(clock) as server:
        server.use("small")
        one = prober(server, clock)
        check(one)
        clock.ahead += 60
        probe(one)
        clock.ahead += 30
        server.use("small")
        used_at = clock()
        clock.ahead += 30
        check(one)
        probe(one)
        assert abs(expires(server) - (used_at + DEFAULT_KEEP_ALIVE)) < 0.5


@pytest.mark.parametrize("queued", [False, True])
def test_a_probe_that_is_given_up_learns_nothing_and_owes(queued: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A timed-out probe left its short keep-alive in force for good, and took its own end for a user's use."""
    clock = Clock()
    hurried = Module(max_tokens=16, prompt_tokens=48, timeouts=Timeouts(total=0.5))
    with SimulatedOllama(clock, tokens_per_second=20) as server:
        server.use("small")
        one, leaves_at = prober(server, clock), expires(server)
        check(one)
        clock.ahead += 60
        if queued:
            with User(server.url, tokens=40, model="small", path="/api/chat") as user:
                assert probe(one, hurried).result in {"timeout_first_token", "timeout_total", "skipped_busy"}
                user.finished()
            server.idle()
            leaves_at = clock() + DEFAULT_KEEP_ALIVE
        else:
            assert probe(one, hurried).result == "timeout_total"
        assert one.owes
        server.pace = 0.001
        clock.ahead += 60
        check(one)
        assert probe(one).result == "ok"
        assert abs(expires(server) - leaves_at) < 1.5


@pytest.mark.skipif(sys.platform != "linux", reason="the table of connections is Linux's")
def test_a_user_for_whom_a_probe_ended_gets_his_full_time() -> None:
    """The probe's short keep-alive is in force while he is served; the next probe gives back what he lost."""
    clock = Clock()
    long = Module(max_tokens=200, prompt_tokens=48)
    with SimulatedOllama(clock, tokens_per_second=4) as server:
        server.use("small")
        port = int(server.url.rpartition(":")[2])
        one, found = prober(server, clock), list[ProbeResult]()
        one.add_hints(connected=partial(read_connections, Path("/proc/self"), port, Path("/proc/none")))
        believe(one, 100.0)
        clock.ahead += 60
        running = threading.Thread(target=lambda: found.append(probe(one, long)))
        running.start()
        eventually(lambda: chats(server), "a probe that has begun", every=0.01)
        with User(server.url, tokens=4, model="small", path="/api/chat") as user:
            running.join()
            user.finished()
        assert found[0].result == "yielded"
        server.idle()
        leaves_at = clock() + DEFAULT_KEEP_ALIVE
        server.pace = 0.001
        clock.ahead += 60
        check(one)
        assert probe(one).result == "ok"
        assert abs(expires(server) - leaves_at) < 1.5
        assert (server.costs["load"], server.costs["reload"]) == (1, 0)


def test_who_waits_behind_a_user_gives_the_full_time_back() -> None:
    """A probe behind a user's request ended after it, so its short keep-alive replaced the user's."""
    clock = Clock()
    with SimulatedOllama(clock, tokens_per_second=100) as server:
        server.use("small")
        one = prober(server, clock)
        check(one)
        clock.ahead += 100
        with User(server.url, tokens=100, model="small", path="/api/chat") as user:
            result = probe(one)
            user.finished()
        assert (result.result, result.queued, result.measurements.ttft_seconds) == ("ok", True, None)
        assert result.queue_seconds == pytest.approx(1.0, abs=0.4)
        used_at = clock()
        clock.ahead += 20
        assert probe(one).result == "ok"
        assert abs(expires(server) - (used_at + DEFAULT_KEEP_ALIVE)) < 1.0


def test_the_end_of_the_program_gives_back() -> None:
    """After the exporter's end its short keep-alive stayed in force for every later request."""
    clock = Clock()
    with SimulatedOllama(clock) as server:
        server.use("small")
        one = prober(server, clock)
        check(one)
        owed = [one.owes]
        clock.ahead += 100
        probe(one)
        assert [*owed, one.owes] == [False, True]
        one.cancellation.cancel()
        loads = server.costs["load"]
        one.give_back()
        server.idle()
        assert server.memory[SMALL].keep_alive == pytest.approx(DEFAULT_KEEP_ALIVE, abs=0.5)
        assert server.costs["load"] == loads
        used_at = clock()
        server.use("small")
        assert abs(expires(server) - (used_at + DEFAULT_KEEP_ALIVE)) < 0.5


def test_nothing_is_given_back_to_a_model_that_left() -> None:
    """Giving back would load it."""
    clock = Clock()
    with SimulatedOllama(clock) as server:
        server.use("small")
        one = prober(server, clock)
        check(one)
        clock.ahead += 60
        probe(one)
        clock.ahead += 400
        one.give_back()
        assert (server.memory, server.costs["load"]) == ({}, 1)


def test_a_probe_by_hand_is_a_use_like_any_other() -> None:
    """``probe`` and ``compare`` at the prompt send no keep-alive: nobody is there afterwards to give anything back."""
    with SimulatedOllama() as server:
        server.use("small", keep_alive=1000)
        one = prober(server, by_hand=True)
        probe(one)
        probe(one)
        assert ["keep_alive" in each for each in chats(server)] == [False, False]
        assert (server.memory[SMALL].keep_alive, one.owes) == (1000, False)


def test_the_real_interval_counts_for_a_model_that_leaves_soon() -> None:
    """With a budget that stretches the interval, a probe near the end would shorten the stay for longer than was reckoned."""
    clock = Clock()
    with SimulatedOllama(clock) as server:
        server.use("small")
        one = prober(server, clock)
        check(one)
        one.pace.ran("default", SHORT, "ok", clock() - 1000, 12.0)
        assert one.interval_seconds("default", SHORT) == 120
        clock.ahead += 155
        assert probe(one).result == "skipped_unloaded"


# Several models in memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("small", "large"), ("large", "small")])
def test_which_model_is_evicted_first_is_not_changed(order: tuple[str, str]) -> None:
    """The model with the shortest keep-alive goes first, and a probe that asked for what was left of it made that its own."""
    left = []
    for watched in (False, True):
        clock = Clock()
        with SimulatedOllama(clock, max_loaded=2) as server:
            server.disk["third:latest"] = stored("third", 10**9)
            for name in order:
                server.use(name)
                clock.ahead += 5
            if watched:
                assert "ok" in run_for(prober(server, clock), clock, 120)
                server.idle()
            server.use("third")
            left.append(set(server.memory))
    assert left[0] == left[1]


def test_beside_another_model_a_probe_comes_after_a_users_request() -> None:
    """It restarts the model's time there, so without a use by somebody else there is one only, and the model leaves."""
    clock = Clock()
    with SimulatedOllama(clock, max_loaded=2) as server:
        server.use("large")
        server.use("small")
        one = prober(server, clock, model="small")
        assert run_for(one, clock, 180) == ["ok", "skipped_unloaded", "skipped_unloaded"]
        server.use("large")
        server.use("small")
        assert run_for(one, clock, 180) == ["ok", "skipped_unloaded", "skipped_unloaded"]
        assert not any("keep_alive" in each for each in chats(server))
        clock.ahead += 200
        assert (server.memory, server.costs["load"]) == ({}, 2)


def test_what_is_owed_is_given_back_as_soon_as_another_model_comes() -> None:
    """The short keep-alive of a probe would make the model the first one to be evicted."""
    clock = Clock()
    with SimulatedOllama(clock, max_loaded=2) as server:
        server.use("small")
        one = prober(server, clock)
        check(one)
        clock.ahead += 60
        assert probe(one).result == "ok"
        assert server.memory[SMALL].keep_alive < DEFAULT_KEEP_ALIVE - 30
        server.use("large")
        assert probe(one).result == "ok"
        server.idle()
        assert server.memory[SMALL].keep_alive == pytest.approx(DEFAULT_KEEP_ALIVE, abs=1)
        assert not one.owes


def test_names_and_copies_are_one_model() -> None:
    """Upper and lower case are one name, ``ollama cp`` makes another name for the same runner: neither loads anything."""
    with SimulatedOllama() as server:
        server.copy("small", "mine")
        server.use("small")
        for name in ("SMALL", "small:latest", "mine"):
            assert probe(prober(server, model=name)).result == "ok"
        assert server.costs["load"] == 1


def test_a_name_that_is_nowhere_is_told_with_the_nearest() -> None:
    """A wrong name was asked for again and again."""
    with SimulatedOllama() as server:
        server.use("small")
        result = probe(prober(server, model="smal"))
        assert (result.result, "small:latest" in result.error, chats(server)) == ("no_model", True, [])


# Users ----------------------------------------------------------------------------------------------------------------


def test_a_first_token_that_is_late_means_busy() -> None:
    """Behind a long request of a user a probe failed with ``timeout_first_token``, and an alert fired."""
    module = Module(max_tokens=16, prompt_tokens=48, timeouts=Timeouts(first_token=0.4, total=5.0))
    with SimulatedOllama(tokens_per_second=50) as server:
        server.use("small")
        one = prober(server)
        probe(one)
        with User(server.url, tokens=100, model="small", path="/api/chat"):
            result = probe(one, module)
        assert (result.result, result.measurements.ttft_seconds) == ("skipped_busy", None)
        assert "busy with others" in result.error


def test_two_users_and_a_day_of_probes_reload_nothing() -> None:
    """A user each few minutes, status checks and probes in between: one load, and the model leaves after the last user's time."""
    clock = Clock()
    with SimulatedOllama(clock) as server:
        server.use("small")
        one = prober(server, clock)
        for _ in range(5):
            run_for(one, clock, 180)
            server.use("small")
        used_at = clock()
        run_for(one, clock, 240)
        assert abs(expires(server) - (used_at + DEFAULT_KEEP_ALIVE)) < 1
        run_for(one, clock, 120)
        assert (server.memory, server.costs["load"], server.costs["reload"]) == ({}, 1, 0)


def test_a_probe_never_waits_for_another_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A status check while a probe of ours runs is left out: it would take our own request for a user's."""
    monkeypatch.setattr("exporter.probe.prober.TURN_SECONDS", 0.1)
    with SimulatedOllama(tokens_per_second=20) as server:
        server.use("small")
        one = prober(server)
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(probe(one)))
        thread.start()
        eventually(lambda: chats(server), "its request", every=0.01)
        assert one.status() is None
        thread.join()
        assert found[0].result == "ok"
