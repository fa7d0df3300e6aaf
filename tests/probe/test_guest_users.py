"""No user is kept waiting: probes are short, give way, say what ran beside them, and never pass a wait off as a TTFT."""

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from exporter.host.connections import read_connections
from exporter.probe.dialects.dialect import Hints
from exporter.probe.newcomers import ReadConnected, unseen
from exporter.probe.prober import Prober
from exporter.probe.result import ProbeResult
from exporter.probe.status import identify
from exporter.settings import Budget, Module, Timeouts
from tests.probe.guest import believe, chats, prober
from tests.probe.probes import SHORT, check, probe
from tests.servers.koboldcpp import SimulatedKoboldCpp
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.ollama import SimulatedOllama
from tests.servers.simulated import Simulated
from tests.servers.text_generation_webui import SimulatedTextGenerationWebui
from tests.servers.transformers_serve import SimulatedTransformersServe
from tests.servers.user import User
from tests.servers.vllm import SimulatedVllm
from tests.simulated.plain import get

linux = pytest.mark.skipif(sys.platform != "linux", reason="the table of connections is Linux's")

# A probe of a server of 20 tokens a second that takes long enough to be given up.
LONG = Module(max_tokens=200, prompt_tokens=48, when_idle="probe")


class Beside:
    """A probe in a thread of its own."""

    def __init__(self, one: Prober, module: Module) -> None:
        self.found: list[ProbeResult] = []
        self._thread = threading.Thread(target=lambda: self.found.append(probe(one, module)))
        self._thread.start()

    def sent(self, server: Simulated, before: int) -> float:
        """Wait until its request is there; gives when."""
        while len(chats(server)) == before:
            assert self._thread.is_alive()
            time.sleep(0.005)
        return server.requests[-1].at

    @property
    def runs(self) -> bool:
        """Whether it has no result yet."""
        return self._thread.is_alive()

    def result(self) -> ProbeResult:
        """Its result."""
        self._thread.join()
        return self.found[0]


def guest(kind: str, server: Simulated) -> Prober:
    """A prober that learns by reads who waits: of a llama-server with one slot only where the user wants its ``/metrics`` read."""
    return prober(server, server_metrics=kind == "llama_cpp")


def one_slot(kind: str, tokens_per_second: float) -> Any:
    """A server with one slot."""
    if kind == "vllm":
        return SimulatedVllm(tokens_per_second=tokens_per_second, slots=1)
    if kind == "koboldcpp":
        return SimulatedKoboldCpp(tokens_per_second=tokens_per_second)
    return SimulatedLlamaServer(tokens_per_second=tokens_per_second)


# Giving way -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp", "koboldcpp"])
@pytest.mark.parametrize(("speed", "result"), [(20.0, "ok"), (5.0, "yielded")])
def test_a_probe_gives_way_to_a_user(kind: str, speed: float, result: str) -> None:
    """A user sent into a probe waited 6 to 11 s for its end. Now the probe ends about a second after he came.

    What was measured before counts where it has 16 tokens and a second of decode; else the probe has ``yielded``.
    """
    with one_slot(kind, speed) as server:
        one = guest(kind, server)
        probe(one)
        believe(one, 1000.0)
        running = Beside(one, LONG)
        running.sent(server, 1)
        time.sleep(2.4 if result == "ok" else 0.5)
        with User(server.url, tokens=4) as user:
            found = running.result()
        assert user.ttft_seconds < LONG.max_tokens / speed / 2, "half of the probe, had it not given way"
        assert found.result == result
        assert found.interval_seconds >= 60
        if result == "ok":
            # KoboldCpp counts no tokens, so its speed is an estimate.
            assert found.measurements.token_count_exact == (kind != "koboldcpp")
            assert kind == "koboldcpp" or found.measurements.tokens_per_second == pytest.approx(speed, rel=0.15)
            assert found.beside_users in {None, 0.0}
        else:
            assert found.measurements.tokens_per_second is None


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp", "koboldcpp"])
def test_no_read_in_the_first_moments_and_few_afterwards(kind: str) -> None:
    """Each read costs a real vLLM 7 ms of the loop that streams to users: none for 1.5 s, then one a second at most."""
    with one_slot(kind, 20.0) as server:
        one = guest(kind, server)
        probe(one)
        believe(one, 1000.0)
        running = Beside(one, Module(max_tokens=90, prompt_tokens=48, when_idle="probe"))
        sent = running.sent(server, 1)
        time.sleep(0.2)
        assert running.result().result == "ok"
        ended = server.requests[-1].at
        beside = [each.at - sent for each in server.requests if sent < each.at < ended - 0.3 and each.method == "GET"]
        rounds = [at for before, at in zip([0.0, *beside], beside, strict=False) if at - before > 0.2]
        assert rounds
        assert min(rounds) >= 1.4
        assert all(later - earlier >= 0.9 for earlier, later in pairwise(rounds))


def by_table(server: Simulated) -> ReadConnected:
    """Who is connected, as a process sees it that is neither the server nor the user: this one is both, and the prober."""
    return partial(read_connections, Path("/proc/self"), int(server.url.rpartition(":")[2]), Path("/proc/none"))


CANT_TELL_WHO_WAITS: dict[str, Callable[[float], Any]] = {
    "llama_cpp": lambda speed: SimulatedLlamaServer(tokens_per_second=speed),
    "transformers": lambda speed: SimulatedTransformersServe(on_disk=(), tokens_per_second=speed),
    "text-generation-webui": lambda speed: SimulatedTextGenerationWebui(tokens_per_second=speed),
    "vLLM without statistics": lambda speed: SimulatedVllm(log_stats=False, slots=1, tokens_per_second=speed),
    "ollama": lambda speed: SimulatedOllama(version="0.33.0", tokens_per_second=speed),
}


HEAD_WITH_THE_FIRST_TOKEN = ("llama_cpp", "ollama")
"""The others send the head of an answer at once, so a request over a kept connection looks answered."""


@linux
@pytest.mark.parametrize(
    ("kind", "kept"),
    [*((kind, False) for kind in CANT_TELL_WHO_WAITS), *((kind, True) for kind in HEAD_WITH_THE_FIRST_TOKEN)],
)
@pytest.mark.parametrize(("speed", "result"), [(20.0, "ok"), (5.0, "yielded")])
def test_a_probe_gives_way_to_whoever_connects(kind: str, speed: float, result: str, *, kept: bool) -> None:
    """Servers that can't say that somebody waits: the kernel's list of connections does, also of one that the client had kept,
    and no read is sent for it.
    """
    with CANT_TELL_WHO_WAITS[kind](speed) as server:
        if isinstance(server, SimulatedOllama):
            server.use("small")
        one = prober(server)
        one.add_hints(connected=by_table(server))
        probe(one)
        believe(one, 1000.0)
        coming = User(server.url, tokens=4, model="small" if kind == "ollama" else None)
        if kept:
            coming.connect()
        running = Beside(one, LONG)
        before = len(server.requests)
        running.sent(server, len(chats(server)))
        sent = len(server.requests)
        time.sleep(2.4 if result == "ok" else 0.5)
        with coming as user:
            reads = [each for each in server.requests[sent:] if each.at < user.sent and each.method == "GET"]
            found = running.result()
        assert user.ttft_seconds < LONG.max_tokens / speed / 2, "half of the probe, had it not given way"
        assert (found.result, found.beside_users) in {(result, None), (result, 0.0)}
        assert "/metrics" not in server.paths() or kind.startswith("vLLM")
        assert before <= sent
        assert kind == "llama_cpp" or reads == []


@linux
@pytest.mark.parametrize("keeps", [False, True])
def test_no_scrape_ends_a_probe(keeps: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Reads that others make all the time, each on a connection of its own or all on one that stood before, are no users."""
    with SimulatedLlamaServer(tokens_per_second=20) as server:
        one = prober(server)
        one.add_hints(connected=by_table(server))
        probe(one)
        believe(one, 1000.0)
        kept = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) if keeps else None
        running = Beside(one, Module(max_tokens=60, prompt_tokens=48, when_idle="probe"))
        running.sent(server, 1)
        while running.runs and not keeps:
            get(server, "/health")
        found = running.result()
        if kept is not None:
            kept.close()
    assert (found.result, found.measurements.output_tokens) == ("ok", 60)


def test_a_probe_beside_users_does_not_give_way() -> None:
    """``when_busy: probe`` and probes by hand go on: that is what was asked for."""
    with SimulatedVllm(tokens_per_second=20) as server:
        server.users = 1
        one = prober(server)
        believe(one, 1000.0)
        result = probe(one, Module(max_tokens=50, prompt_tokens=48, when_busy="probe"))
        assert (result.result, result.measurements.output_tokens, result.beside_users) == ("ok", 50, 1.0)


# Short probes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp", "koboldcpp"])
def test_a_probe_of_a_slow_server_is_short(kind: str) -> None:
    """At 6.4 tokens a second a probe of 64 tokens took 10.7 s, 18 % of the server's time. Now it has 16, in under 4 s."""
    with one_slot(kind, 6.4) as server:
        one = prober(server)
        believe(one, 6.4)
        result = probe(one, Module(prompt_tokens=48, when_idle="probe"))
        assert (result.result, chats(server)[0]["max_tokens"]) == ("ok", 16)
        assert result.busy_seconds < 4
        assert result.interval_seconds == 60


def test_the_length_follows_the_last_speed() -> None:
    """2.5 s of decode at the last known speed, between 16 and ``max_tokens``, 16 where none is known; by hand the whole length."""
    with SimulatedVllm() as server:
        one = prober(server)
        for speed in (None, 1.0, 10.0, 20.0, 1000.0):
            if speed:
                believe(one, speed)
            probe(one, Module(prompt_tokens=48))
        by_hand = prober(server, by_hand=True)
        believe(by_hand, 1.0)
        probe(by_hand, Module(prompt_tokens=48))
        assert [each["max_tokens"] for each in chats(server)] == [16, 16, 25, 50, 64, 64]


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp", "koboldcpp"])
def test_the_first_probe_of_a_slow_server_is_short(kind: str) -> None:
    """Without a speed to go by it asked for 64 tokens, which took 10 s at 6.4 tokens a second."""
    with one_slot(kind, 6.4) as server:
        result = probe(prober(server), Module(prompt_tokens=48, when_idle="probe"))
        assert (result.result, chats(server)[0]["max_tokens"]) == ("ok", 16)
        assert result.busy_seconds < 4


def test_a_speed_of_another_model_is_no_speed_of_this_one() -> None:
    """After a swap on a router the next probe is as short as the first one."""
    with SimulatedLlamaServer(router={"a": "loaded", "b": "unloaded"}) as server:
        one = prober(server)
        module = Module(prompt_tokens=48, when_idle="probe")
        probe(one, module)
        probe(one, module)
        probe(one, module)
        server.router = {"a": "unloaded", "b": "loaded"}
        probe(one, module)
        asked = [(each["model"], each["max_tokens"]) for each in chats(server)]
    assert (asked[0], asked[2], asked[3]) == (("a", 16), ("a", 64), ("b", 16))


def test_a_burst_tells_how_long_a_probe_may_be() -> None:
    """Sixteen tokens of a fast server come at once and have no speed: the whole probe tells at least how long they take."""
    with SimulatedVllm(tokens_per_second=1e6) as server:
        one = prober(server)
        for _ in range(3):
            probe(one, Module(prompt_tokens=48))
        assert [each["max_tokens"] for each in chats(server)][-1] == 64


def test_the_default_budget_is_a_tenth() -> None:
    """Probes that take 12 s of a minute run every two minutes."""
    assert Budget().share == 0.1
    with SimulatedVllm() as server:
        one = prober(server)
        one.pace.ran("default", SHORT, "ok", 0.0, 12.0)
        assert one.interval_seconds("default", SHORT) == 120


# Who runs, who waits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vllm", "koboldcpp"])
def test_one_user_is_one_running_while_our_probe_waits(kind: str) -> None:
    """One user who runs was told as "0 running, 1 waiting" while our own probe waited."""
    with one_slot(kind, 20.0) as server, User(server.url, tokens=80):
        one = prober(server)
        state = check(one)
        assert (state.requests_running, state.requests_waiting) == (1.0, 0.0)
        running = Beside(one, SHORT.model_copy(update={"when_busy": "probe"}))
        running.sent(server, 1)
        time.sleep(0.2)
        checked, seen = one.check(5.0)
        assert checked.status is not None
        assert (seen.requests_running, seen.requests_waiting) == (1.0, 0.0)
        assert running.result().result == "ok"


def test_a_check_that_waits_for_a_probe_is_no_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    """``skipped_busy`` is for users: a second module of the target waits for the turn of the first, and then runs."""
    monkeypatch.setattr("exporter.probe.prober.TURN_SECONDS", 0.1)
    with SimulatedVllm(tokens_per_second=40, slots=1) as server:
        one = prober(server)
        first = Beside(one, Module(max_tokens=40, prompt_tokens=48))
        first.sent(server, 0)
        assert one.status() is None
        second = probe(one, SHORT, "second")
        assert (first.result().result, second.result) == ("ok", "ok")


# Beside users -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["max_skips", "by hand", "race"])
def test_a_probe_beside_users_carries_a_mark(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The speed beside a user's request was judged like that of an idle server."""
    monkeypatch.setattr("exporter.probe.run.BUSY_POLL_SECONDS", 0.02)
    with SimulatedVllm(tokens_per_second=60) as server:
        one = prober(server, by_hand=how == "by hand")
        probe(one)
        if how == "race":
            running = Beside(one, Module(max_tokens=40, prompt_tokens=48))
            running.sent(server, 1)
            with User(server.url, tokens=15) as user:
                user.finished()
            result = running.result()
        else:
            module = Module(
                max_tokens=16, prompt_tokens=48, max_skips=1, when_busy="probe" if how == "by hand" else "skip"
            )
            with User(server.url, tokens=400):
                results = [probe(one, module) for _ in range(1 if how == "by hand" else 2)]
            result = results[-1]
        assert (result.result, result.beside_users) == ("ok", 1.0)


def test_sharing_measures_on_a_free_slot_only() -> None:
    """``when_busy: share`` measures beside users where a slot is free, and skips where it would have to wait."""
    module = Module(max_tokens=16, prompt_tokens=48, when_busy="share")
    for parallel, expected in ((1, "skipped_busy"), (2, "ok")):
        with SimulatedLlamaServer(build=7_000, parallel=parallel) as server:
            server.users = 1
            result = probe(prober(server), module)
            assert result.result == expected
            assert result.beside_users == (1.0 if expected == "ok" else None)
    with SimulatedVllm() as server:
        server.users, server.waiting = 2, 1
        assert probe(prober(server), module).result == "skipped_busy"


# Queues ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metrics", [True, False])
def test_a_wait_in_vllms_queue_is_no_ttft(metrics: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A TTFT with a user's whole answer in it was exported. The queue's time is told instead, by request or by histogram."""
    with SimulatedVllm(tokens_per_second=30, slots=1, per_request_metrics=metrics) as server:
        one = prober(server, by_hand=True)
        with User(server.url, tokens=30):
            result = probe(one, SHORT.model_copy(update={"when_busy": "probe"}))
    assert (result.result, result.queued) == ("ok", True)
    assert (result.measurements.ttft_seconds, result.measurements.prefill_tokens_per_second) == (None, None)
    if metrics:
        assert result.queue_seconds == pytest.approx(1.0, abs=0.4)
    assert result.measurements.tokens_per_second == pytest.approx(30, rel=0.15)


def test_a_wait_in_vllms_queue_is_read_off_its_histogram() -> None:
    """Where only our request left the queue since the check before, its count and sum tell how long it waited."""
    with SimulatedVllm(tokens_per_second=30, slots=1) as server:
        one = prober(server)
        assert probe(one).queue_seconds == pytest.approx(0.0, abs=0.04)

        def hold() -> None:
            server.queue.held = 1
            time.sleep(0.9)
            server.queue.held = 0

        # The queue takes the request only after 0.9 s; who holds it is no request that is counted.
        holding = threading.Thread(target=hold)
        one.by_hand = True
        holding.start()
        time.sleep(0.05)
        result = probe(one, SHORT.model_copy(update={"when_busy": "probe"}))
        holding.join()
    assert (result.queued, result.measurements.ttft_seconds) == (True, None)
    assert result.queue_seconds == pytest.approx(0.85, abs=0.3)


def test_a_wait_for_llama_servers_slot_is_no_ttft() -> None:
    """llama-server tells no queue's time, but how long it worked on the prompt: a TTFT far above that holds a wait."""
    with SimulatedLlamaServer(tokens_per_second=40) as server:
        one = prober(server, by_hand=True)
        assert probe(one).cold_start
        idle = probe(one)
        with User(server.url, tokens=40):
            result = probe(one, SHORT.model_copy(update={"when_busy": "probe"}))
    assert (idle.queued, idle.measurements.ttft_seconds is not None) == (False, True)
    assert (result.result, result.queued, result.measurements.ttft_seconds) == ("ok", True, None)


# Servers that can't tell ----------------------------------------------------------------------------------------------

CANT_TELL: dict[str, Callable[[], Any]] = {
    "transformers": lambda: SimulatedTransformersServe(on_disk=(), tokens_per_second=40),
    "text-generation-webui": lambda: SimulatedTextGenerationWebui(tokens_per_second=40),
    "vLLM without statistics": lambda: SimulatedVllm(log_stats=False, slots=1, tokens_per_second=40),
}


@pytest.mark.parametrize("kind", CANT_TELL)
def test_a_late_first_token_means_busy_where_nothing_tells(kind: str) -> None:
    """A probe behind a user failed with ``timeout_first_token`` and raised a critical alert. Now it is ``skipped_busy``."""
    hurried = Module(max_tokens=16, prompt_tokens=48, timeouts=Timeouts(first_token=0.5, total=5.0))
    with CANT_TELL[kind]() as server:
        one = prober(server)
        with User(server.url, tokens=60):
            result = probe(one, hurried)
        assert (result.result, result.measurements.ttft_seconds) == ("skipped_busy", None)
        assert "busy with others" in result.error


@pytest.mark.parametrize("kind", CANT_TELL)
def test_a_ttft_far_above_the_usual_one_is_not_told(kind: str) -> None:
    """A first token that came after a user's answer, but in time, was exported as TTFT."""
    with CANT_TELL[kind]() as server:
        one = prober(server)
        usual = [probe(one) for _ in range(3)]
        assert all(each.measurements.ttft_seconds is not None for each in usual)
        with User(server.url, tokens=70):
            result = probe(one)
        assert (result.result, result.queued, result.measurements.ttft_seconds) == ("ok", True, None)


@pytest.mark.parametrize(
    ("parallel", "metrics", "wanted", "seen", "told"),
    [
        (1, True, False, False, True),
        (1, False, True, False, True),
        (1, True, True, False, False),
        (1, True, False, True, False),
        (1, False, False, True, False),
        (4, False, False, False, False),
    ],
)
def test_a_llama_server_that_cant_tell_who_waits_says_so(
    parallel: int,
    *,
    metrics: bool,
    wanted: bool,
    seen: bool,
    told: bool,
) -> None:
    """With one slot only its connections tell that a user waits for a probe's end, or ``/metrics`` where a user wants that read."""
    with SimulatedLlamaServer(metrics=metrics, parallel=parallel) as server:
        connected = by_table(server) if seen else unseen
        one = prober(server, server_metrics=wanted)
        one.add_hints(connected=connected)
        notice = check(one).notice
        hints = Hints(server_metrics=wanted, connected=connected)
        assert identify(server.url, hints=hints).notice == notice
    assert ("a user who comes into a probe waits for its end, unless `server_metrics: true`" in notice) == told


@pytest.mark.parametrize("kind", CANT_TELL)
def test_a_server_that_cant_tell_says_so(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its notice is in the state, for the page, in each probe's own lines, and once in the log."""
    caplog.set_level(logging.INFO)
    with CANT_TELL[kind]() as server:
        one = prober(server)
        results = [probe(one) for _ in range(3)]
        state = check(one)
    assert "can't tell whether it is busy" in state.notice
    assert all(any(state.notice in line for line in each.log) for each in results)
    assert sum(state.notice in record.getMessage() for record in caplog.records) == 1


def test_a_server_that_is_down_is_not_called_busy() -> None:
    """A first token that is late while the server answers nothing else is a failure."""
    hurried = Module(max_tokens=16, prompt_tokens=48, timeouts=Timeouts(first_token=0.5, total=5.0))

    class Hangs(SimulatedTransformersServe):
        def answer(self, request: Any) -> Any:
            if request.method == "GET" and chats(self):
                time.sleep(4)
            return super().answer(request)

    with Hangs(on_disk=(), prefill_seconds=2.0) as server:
        assert probe(prober(server), hurried).result == "timeout_first_token"
