"""llama-server as it was without us: no wake, no timer, no rate reset by status checks, no prompt cache of a user's taken."""

import threading
import time

import pytest

from tests.probe.guest import believe, prober, run_for
from tests.probe.probes import SHORT, check, probe
from tests.servers.clock import Clock
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.user import User
from tests.simulated.plain import wait_for

BUILDS = (6_000, 7_600, 9_760, 10_530, 10_531, 11_434)


# Status checks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDS)
def test_status_checks_leave_no_trace(build: int) -> None:
    """Before b10531 ``/metrics`` woke a sleeping server and restarted its timer.

    In all builds it emptied the rates that the user's own Prometheus reads. With and without status checks, all is the same.
    """
    sleeps = 60.0 if build >= 7_500 else None
    clock = Clock()
    with SimulatedLlamaServer(build=build, sleep_idle_seconds=sleeps, clock=clock) as server:
        one = prober(server, clock)
        with User(server.url, tokens=20):
            check(one)
        server.idle()
        costs, rate = server.costs.copy(), server.only.bucket.speed
        for _ in range(12):
            check(one)
            clock.ahead += 4
        assert (server.costs, server.only.bucket.speed) == (costs, rate)
        assert rate > 0
        clock.ahead += 20
        assert server.asleep == (sleeps is not None)
        for _ in range(3):
            assert check(one).model_resident is (sleeps is None)
        assert server.costs["wake"] == 0


def test_metrics_are_read_where_a_user_asks_for_them() -> None:
    """``server_metrics: true`` reads them at each check, of a sleeping server only in builds that don't wake for it."""
    for build, reads in ((9_760, False), (11_434, True)):
        with SimulatedLlamaServer(build=build, sleep_idle_seconds=600.0) as server:
            one = prober(server, server_metrics=True)
            check(one)
            assert ("/metrics" in server.paths()) == reads
            assert server.costs["timer restart"] == 0


# Sleep ----------------------------------------------------------------------------------------------------------------


def test_a_server_with_an_unknown_timer_sleeps_between_probes_that_grow_apart() -> None:
    """A probe each minute kept a server awake that sleeps after ten. Now the interval doubles until it does, and it is not woken."""
    clock = Clock()
    with SimulatedLlamaServer(sleep_idle_seconds=600.0, clock=clock) as server:
        one = prober(server, clock)
        results = run_for(one, clock, 2 * 3600)
        assert results.count("ok") == 4  # after 0, 2, 6 and 14 minutes; it sleeps after 24
        assert set(results[4:]) == {"skipped_unloaded"}
        assert (server.asleep, server.costs["wake"]) == (True, 0)


def test_use_by_others_brings_the_interval_back() -> None:
    """After a user's request the model is in use anyway, so the interval is the configured one again."""
    clock = Clock()
    with SimulatedLlamaServer(sleep_idle_seconds=3000.0, parallel=2, clock=clock) as server:
        one = prober(server, clock)
        run_for(one, clock, 1000)
        assert one.interval_seconds("default", SHORT) >= 480
        User(server.url, tokens=5).send().finished()
        clock.ahead += 1000
        assert probe(one).result == "ok"
        assert one.interval_seconds("default", SHORT) == 60


def test_a_server_without_a_timer_gets_its_interval_back() -> None:
    """An hour without any use, and awake: it has no sleep timer, so it is probed as before, and its slots are read again."""
    clock = Clock()
    with SimulatedLlamaServer(clock=clock) as server:
        one = prober(server, clock)
        assert check(one).requests_running is None
        run_for(one, clock, 4 * 3600)
        assert one.interval_seconds("default", SHORT) == 60
        assert check(one).requests_running == 0


def test_a_busy_hour_is_no_sign_of_a_server_without_a_timer() -> None:
    """Users who kept it awake for hours were taken for a missing timer; then status checks kept it awake for ever."""
    clock = Clock()
    with SimulatedLlamaServer(sleep_idle_seconds=900.0, parallel=2, clock=clock) as server:
        one = prober(server, clock)
        for _ in range(20):
            run_for(one, clock, 300)
            User(server.url, tokens=5).send().finished()
        run_for(one, clock, 3 * 3600)
        assert (server.asleep, server.costs["wake"]) == (True, 0)


def test_a_timer_that_is_known_is_obeyed_from_the_start() -> None:
    """``sleeps`` from the launch settings: without a timer the interval stays, with one it doubles."""
    clock = Clock()
    with SimulatedLlamaServer(clock=clock) as server:
        one = prober(server, clock)
        one.add_hints(sleeps=False)
        assert run_for(one, clock, 600) == ["ok"] * 10
        assert check(one).requests_running == 0
    with SimulatedLlamaServer(sleep_idle_seconds=600.0, clock=clock) as server:
        one = prober(server, clock)
        one.add_hints(sleeps=True)
        assert run_for(one, clock, 600) == ["ok"] * 3


def test_what_was_learned_of_a_timer_is_forgotten_with_a_restart() -> None:
    """A server that is started again may have a timer now."""
    clock = Clock()
    server = SimulatedLlamaServer(clock=clock)
    with server:
        one = prober(server, clock)
        run_for(one, clock, 4 * 3600)
        assert check(one).requests_running == 0
    assert not check(one).up
    server.start(int(one.target.url.rpartition(":")[2]))
    try:
        assert check(one).requests_running is None
    finally:
        server.stop()


def test_counters_that_are_free_to_read_pause_a_model_that_nobody_uses() -> None:
    """With ``server_metrics`` the use by others is seen, so an unused server isn't touched at all."""
    clock = Clock()
    with SimulatedLlamaServer(sleep_idle_seconds=600.0, clock=clock) as server:
        one = prober(server, clock, server_metrics=True)
        results = run_for(one, clock, 400)
        assert results == ["ok", *["skipped_unloaded"] * 6]
        User(server.url, tokens=5).send().finished()
        assert run_for(one, clock, 120) == ["ok", "skipped_unloaded"]


# Prompt caches --------------------------------------------------------------------------------------------------------


def chat(server: SimulatedLlamaServer, history: list[dict[str, str]], words: str) -> User:
    """One turn of a conversation."""
    history.append({"role": "user", "content": words})
    user = User(server.url, tokens=4, messages=history).send().finished()
    history.append({"role": "assistant", "content": "word1 word2 word3 word4"})
    return user


@pytest.mark.parametrize(("parallel", "build"), [(2, 6_000), (4, 6_000), (4, 11_434)])
def test_a_conversation_survives_probes_on_several_slots(parallel: int, build: int) -> None:
    """A chat's follow-up came 16 times later after one probe, which had taken its slot. Probes have one slot, always the same."""
    with SimulatedLlamaServer(parallel=parallel, build=build, host_cache=False) as server:
        one = prober(server)
        long = " ".join(f"w{number}" for number in range(200))
        history: list[dict[str, str]] = []
        chat(server, history, long)
        used = next(each for each in server.slots.all if each.tokens)
        for turn in range(4):
            assert probe(one).result == "ok"
            check(one)
            chat(server, history, f"turn {turn}")
            assert used.tokens[:100] == server.slots.all[used.number].tokens[:100]
        lost = [each for each in server.slots.lost if "w50" in each]
        slots = {each.body["id_slot"] for each in server.requests if each.method == "POST" and "id_slot" in each.body}
        assert (lost, len(slots), used.number in slots) == ([], 1, False)


def test_a_single_slot_without_a_host_cache_is_left_to_its_conversation() -> None:
    """--cache-ram 0, or a build before it: a probe would cost the conversation its prompt cache. Our own prompt is no reason."""
    with SimulatedLlamaServer(build=6_000) as server:
        one = prober(server)
        assert [probe(one).result for _ in range(3)] == ["ok"] * 3
        history: list[dict[str, str]] = []
        chat(server, history, "one two three four five six")
        results = [probe(one) for _ in range(3)]
        assert {each.result for each in results} == {"skipped_busy"}
        assert "conversation" in results[0].error
        assert not any("three" in each for each in server.slots.lost)
    with SimulatedLlamaServer(host_cache=False) as server:
        one = prober(server)
        one.add_hints(prompt_cache=False)
        chat(server, [], "one two three four five six")
        assert probe(one).result == "skipped_busy"


def test_a_single_slot_with_a_host_cache_is_probed() -> None:
    """Since October 2025 a replaced prompt goes to the host's memory and comes back."""
    with SimulatedLlamaServer() as server:
        one = prober(server)
        history: list[dict[str, str]] = []
        chat(server, history, "one two three four five six")
        assert probe(one).result == "ok"
        assert server.slots.lost == []


def test_streams_at_once_are_not_held_on_one_slot() -> None:
    """Two streams of one probe, both on the same ``id_slot``, would have run one after the other."""
    with SimulatedLlamaServer(parallel=4) as server:
        result = probe(prober(server), SHORT.model_copy(update={"concurrency": 2}))
        assert result.result == "ok"
        assert all("id_slot" not in each.body for each in server.requests if each.method == "POST")


# Routers --------------------------------------------------------------------------------------------------------------


def test_a_router_is_checked_without_any_load() -> None:
    """With what is loaded and what isn't, status checks load, wake, use and evict nothing."""
    with SimulatedLlamaServer(router={"a": "loaded", "b": "loaded", "c": "unloaded"}, models_max=2) as server:
        one = prober(server)
        for _ in range(5):
            check(one)
        assert +server.costs == {}


def test_a_routers_order_of_eviction_is_not_changed() -> None:
    """A probe made its model the most recently used, so the user's own was evicted. Now only the one that was used last is probed."""
    clock = Clock()
    with SimulatedLlamaServer(
        router={"a": "loaded", "b": "loaded", "c": "unloaded"}, models_max=2, clock=clock
    ) as server:
        one = prober(server, clock)
        assert run_for(one, clock, 240) == ["skipped_unloaded"] * 4
        User(server.url, tokens=3, model="b").send().finished()
        assert run_for(one, clock, 180) == ["ok", "skipped_unloaded", "skipped_unloaded"]
        assert [each["model"] for each in server.posts()] == ["b", "b"]
        User(server.url, tokens=3, model="c").send().finished()
        assert server.router == {"a": "unloaded", "b": "loaded", "c": "loaded"}


def test_a_routers_sleeping_model_is_not_woken() -> None:
    """``autoload=false`` keeps no read from waking a model that sleeps: only models known to have no timer are read."""
    clock = Clock()
    with SimulatedLlamaServer(router={"a": "loaded"}, sleep_idle_seconds=300.0, clock=clock) as server:
        one = prober(server, clock)
        costs = server.costs.copy()
        clock.ahead += 200
        check(one)
        assert server.costs == costs
        clock.ahead += 200
        assert server.router == {"a": "sleeping"}
        check(one)
        assert probe(one).result == "skipped_unloaded"
        assert server.costs == costs


def test_what_a_router_says_of_users_does_not_come_and_go() -> None:
    """Without --metrics the numbers of requests were there after a probe and gone at the next status check."""
    for sleep in (None, 600.0):
        with SimulatedLlamaServer(router={"a": "loaded"}, sleep_idle_seconds=sleep, metrics=False) as server:
            one = prober(server)
            said = []
            for _ in range(3):
                said.append(check(one).requests_running)
                result = probe(one)
                assert result.state is not None
                said.append(result.state.requests_running)
            assert set(said) == ({0.0} if sleep is None else {None})


def test_a_swap_on_a_router_is_seen() -> None:
    """Another model in memory: the identity follows, and nothing is loaded."""
    with SimulatedLlamaServer(router={"a": "loaded", "b": "unloaded"}) as server:
        one = prober(server)
        assert probe(one).model == "a"
        server.router = {"a": "unloaded", "b": "loaded"}
        assert probe(one).model == "b"
        assert server.costs["load"] == 0


# A user who comes while a prompt is worked through ---------------------------------------------------------------------


def test_a_probe_that_is_given_up_in_its_prompt_ends_with_its_batch() -> None:
    """llama-server looked only once a second whether a probe that has no token yet is still there; asked for progress, it notices."""
    with SimulatedLlamaServer(prompt_tokens_per_second=12, batch=2) as server:
        one, found = prober(server, server_metrics=True), list[str]()
        running = threading.Thread(target=lambda: found.append(probe(one, SHORT).result))
        running.start()
        wait_for(lambda: server.slots.running)
        with User(server.url, tokens=2, prompt="hello") as user:
            running.join()
            user.finished()
    assert found == ["yielded"]
    # Looked for 1.5 s after it was sent: 18 of its 48 tokens are done then, and with what a busy machine adds, not half of them more.
    assert server.only.prompt < 36


# The end of a server ---------------------------------------------------------------------------------------------------


def test_a_server_that_is_told_to_end_ends() -> None:
    """llama-server's SIGTERM waited 30 s for our stream: one connect tells that it ends, and the probe hangs up."""
    with SimulatedLlamaServer(tokens_per_second=40, drain_seconds=30) as server:
        one = prober(server)
        probe(one)
        believe(one, 1000.0)
        found = []
        module = SHORT.model_copy(update={"max_tokens": 400})
        thread = threading.Thread(target=lambda: found.append(probe(one, module)))
        thread.start()
        time.sleep(0.8)
        at = time.monotonic()
        server.terminate()
        assert server.idle(12)
        assert time.monotonic() - at < 6
        thread.join()
        server.start(int(one.target.url.rpartition(":")[2]))
    assert (found[0].result, found[0].error.partition(":")[0]) == ("truncated", "the server is shutting down")
    assert one.pace._abandoned == 0


def test_a_stream_that_stalls_costs_one_connect() -> None:
    """A server that is merely slow gets a single connect for a silence, not one each quarter of a second."""

    class Stalls(SimulatedLlamaServer):
        connects = 0

        def _opened(self, connection: object) -> None:
            self.connects += 1
            super()._opened(connection)  # type: ignore[arg-type]

    with Stalls(tokens_per_second=100) as server:
        one = prober(server)
        probe(one)
        server.pace = 0.01

        def stall() -> None:
            time.sleep(0.3)
            server.pace = 3.5
            time.sleep(0.3)
            server.pace = 0.001

        thread = threading.Thread(target=stall)
        thread.start()
        one.by_hand = True
        result = probe(one, SHORT.model_copy(update={"max_tokens": 200}))
        thread.join()
        assert result.result == "ok"
        assert server.connects - len(server.requests) == 1
