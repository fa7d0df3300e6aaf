"""A guest that does no harm: nothing is woken or loaded, users go first, cold is told from warm, and the cost is bounded."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.probe import run
from exporter.probe.politeness import Pace, stretched
from exporter.probe.production import ProductionReading, throughput
from exporter.probe.result import ProbeResult, TargetState
from exporter.settings import Budget, Module, Timeouts
from tests.probe.guest import prober
from tests.probe.probes import SHORT, check, probe
from tests.servers.clock import Clock
from tests.servers.llama_cpp import RouterModel, SimulatedLlamaServer
from tests.servers.ollama import DEFAULT_KEEP_ALIVE, SimulatedOllama
from tests.servers.simulated import ReceivedRequest, ServerAnswer, Simulated, as_json
from tests.servers.vllm import SimulatedVllm

HURRIED = Module(
    max_tokens=16, prompt_tokens=48, timeouts=Timeouts(connect=0.2, first_token=0.2, stalled=0.2, total=0.5)
)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a busy server in hundredths of a second."""
    monkeypatch.setattr(run, "BUSY_POLL_SECONDS", 0.02)


class Time:
    """A monotonic clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Now, by it."""
        return self.now


def state_of(result: ProbeResult) -> TargetState:
    """The state at the time of a probe."""
    assert result.state is not None
    return result.state


# Nothing is woken, loaded, swapped or evicted -------------------------------------------------------------------------


def test_a_sleeping_llama_server_stays_asleep() -> None:
    """Ten probes and ten status checks, with /metrics or with /slots alone: skipped, not resident, never woken, no error state."""
    for metrics in (True, False):
        with SimulatedLlamaServer(metrics=metrics) as server:
            server.asleep = True
            one = prober(server)
            for _ in range(10):
                result = probe(one)
                assert (result.result, state_of(result).model_resident, state_of(result).up) == (
                    "skipped_unloaded",
                    False,
                    True,
                )
                assert check(one).model_resident is False
            assert (server.woken, server.paths("POST")) == (0, [])


def test_a_router_loads_nothing_for_a_probe() -> None:
    """With two models and none in memory, ten probes and status checks load none; a configured one neither."""
    with SimulatedLlamaServer(router={"a": "unloaded", "b": "unloaded"}) as server:
        for model in (None, "b"):
            one = prober(server, model=model)
            assert {probe(one).result for _ in range(10)} == {"skipped_unloaded"}
            assert check(one).model_resident is False
        assert (server.woken, server.router) == (0, {"a": "unloaded", "b": "unloaded"})


def test_a_router_is_probed_with_the_model_in_memory() -> None:
    """The loaded model is probed, and the other one stays where it is."""
    with SimulatedLlamaServer(router={"a": "unloaded", "b": "loaded"}) as server:
        one = prober(server)
        assert [probe(one).result for _ in range(2)] == ["ok", "ok"]
        assert server.posts()[0]["model"] == "b"
        assert (server.woken, server.router) == (0, {"a": "unloaded", "b": "loaded"})


def test_a_model_that_leaves_between_check_and_request_is_not_loaded_again() -> None:
    """The router is told not to load; its refusal is a skip, not a failure."""

    class Leaving(SimulatedLlamaServer):
        def answer(self, request: ReceivedRequest) -> ServerAnswer:
            if request.method == "POST":
                self.router = {"a": "unloaded"}
            return super().answer(request)

    with Leaving(router={"a": "loaded"}) as server:
        result = probe(prober(server))
        assert (result.result, server.woken) == ("skipped_unloaded", 0)


def test_a_sleeping_vllm_stays_asleep() -> None:
    """engine_sleep_state says that the weights are not in memory."""
    with SimulatedVllm() as server:
        server.asleep = True
        one = prober(server)
        assert {probe(one).result for _ in range(10)} == {"skipped_unloaded"}
        assert (check(one).model_resident, server.woken) == (False, 0)


def test_ollama_with_nothing_in_memory_stays_empty() -> None:
    """Ten probes: skipped, not resident, nothing loaded."""
    with SimulatedOllama() as server:
        one = prober(server, model="large")
        results = [probe(one) for _ in range(10)]
        assert {each.result for each in results} == {"skipped_unloaded"}
        assert {state_of(each).model_resident for each in results} == {False}
        assert (server.loads, server.resident()) == (0, {})


def test_another_model_in_ollamas_memory_is_not_swapped_out() -> None:
    """The configured model is not in memory: it is not loaded in the place of the user's."""
    with SimulatedOllama() as server:
        server.use("small:latest")
        assert probe(prober(server, model="large")).result == "skipped_unloaded"
        assert list(server.resident()) == ["small:latest"]


def test_a_probe_keeps_the_context_that_a_user_loaded_a_model_with() -> None:
    """Another num_ctx than the one in memory would make Ollama load the model anew."""
    with SimulatedOllama() as server:
        server.use("small:latest", num_ctx=32_768)
        assert probe(prober(server)).result == "ok"
        assert (server.loads, server.resident()["small:latest"].num_ctx) == (1, 32_768)


def test_a_probe_may_load_where_the_user_wants_that() -> None:
    """``when_unloaded: load``: it loads, is a cold start without a speed, and says how long the load took."""
    module = Module(max_tokens=16, prompt_tokens=48, when_unloaded="load")
    with SimulatedOllama(load_seconds=1.2) as server:
        one = prober(server, model="small")
        first, second = probe(one, module), probe(one, module)
    assert (first.result, first.cold_start) == ("ok", True)
    assert first.model_load_seconds is not None
    assert first.model_load_seconds >= 1.2
    assert (first.measurements.tokens_per_second, first.measurements.ttft_seconds) == (None, None)
    assert (second.result, second.cold_start, second.model_load_seconds) == ("ok", False, None)
    assert second.measurements.tokens_per_second is not None


def test_ollamas_timer_is_not_extended() -> None:
    """Probed every minute, the model leaves when it would have left without us."""
    clock = Clock()
    with SimulatedOllama(clock) as server:
        server.use("small:latest")
        one = prober(server, wall=clock)
        leaves_at = clock() + DEFAULT_KEEP_ALIVE
        results = []
        while clock() < leaves_at - 5:
            results.append(probe(one).result)
            server.idle()
            assert abs(server.memory["small:latest"].expires_at - leaves_at) < 3
            clock.ahead += 60
        clock.ahead += 5
        assert probe(one).result == "skipped_unloaded"
        assert (server.resident(), server.loads) == ({}, 1)
    # With less than one and a half intervals left, a probe would be a risk for the next user.
    assert results == ["ok", "ok", "ok", "ok", "skipped_unloaded"]


def test_who_asks_after_a_probe_gets_the_models_full_time_back() -> None:
    """A probe's short keep-alive stays in force for the next user; the probe after that gives back what he lost."""
    clock = Clock()
    with SimulatedOllama(clock) as server:
        server.use("small:latest")
        one = prober(server, wall=clock)
        check(one)
        clock.ahead += 60
        assert probe(one).result == "ok"
        server.idle()
        clock.ahead += 100
        used_at = clock()
        assert server.use("small:latest").expires_at < used_at + DEFAULT_KEEP_ALIVE - 50
        clock.ahead += 20
        assert probe(one).result == "ok"
        server.idle()
        assert abs(server.memory["small:latest"].expires_at - (used_at + DEFAULT_KEEP_ALIVE)) < 3


def test_a_model_kept_for_ever_is_kept_for_ever() -> None:
    """keep_alive -1 stays what it is."""
    with SimulatedOllama() as server:
        server.use("small:latest", keep_alive=1e9)
        assert probe(prober(server)).result == "ok"
        chats = [each.body for each in server.requests if each.path == "/api/chat"]
        assert [each["keep_alive"] for each in chats] == [-1]


# Users go first -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["vllm", "llama_cpp", "llama_cpp by its slots"])
def busy(request: pytest.FixtureRequest) -> Iterator[SimulatedVllm | SimulatedLlamaServer]:
    """A server with a user's request."""
    server: SimulatedVllm | SimulatedLlamaServer = (
        SimulatedVllm()
        if request.param == "vllm"
        else SimulatedLlamaServer(build=7000, metrics=request.param == "llama_cpp")
    )
    server.users = 1
    with server:
        yield server


def test_a_probe_yields_to_users(busy: SimulatedVllm | SimulatedLlamaServer) -> None:
    """While a request of a user runs, a probe is skipped: nothing is sent, the state says who is there."""
    result = probe(prober(busy))
    assert (result.result, busy.paths("POST")) == ("skipped_busy", [])
    assert (state_of(result).up, state_of(result).requests_running) == (True, 1.0)
    assert "1 running" in result.error
    assert (result.measurements.tokens_per_second, result.busy_seconds) == (None, 0.0)


def test_a_probe_waits_a_little_for_users_to_end() -> None:
    """A request that ends within the wait costs no skip."""

    class Ending(SimulatedVllm):
        def _metrics(self) -> str:
            self.users = max(self.users - 1, 0)
            return super()._metrics()

    with Ending() as server:
        server.users = 2
        assert probe(prober(server)).result == "ok"


def test_after_enough_skips_one_probe_may_run() -> None:
    """With max_skips 3 the fourth probe goes to the busy server, and then the count begins anew."""
    module = Module(max_tokens=16, prompt_tokens=48, max_skips=3)
    with SimulatedVllm() as server:
        server.users = 1
        one = prober(server)
        results = [probe(one, module).result for _ in range(9)]
    assert results == [*["skipped_busy"] * 3, "ok", *["skipped_busy"] * 3, "ok", "skipped_busy"]


def test_a_module_may_say_that_it_probes_busy_servers() -> None:
    """``when_busy: probe`` sends at once."""
    with SimulatedVllm() as server:
        server.users = 1
        assert probe(prober(server), Module(max_tokens=16, prompt_tokens=48, when_busy="probe")).result == "ok"


@pytest.mark.parametrize("heavy", [{"prompt_tokens": 512}, {"concurrency": 2}])
def test_heavy_probes_only_go_to_an_idle_server(heavy: dict[str, int]) -> None:
    """A long prompt and several streams never run while users are served, whatever the module says and however often."""
    module = Module.model_validate({"max_tokens": 16, "max_skips": 1, "when_busy": "probe", **heavy})
    with SimulatedVllm() as server:
        one = prober(server)
        server.users = 1
        assert {probe(one, module).result for _ in range(4)} == {"skipped_busy"}
        server.users = 0
        assert probe(one, module).result == "ok"


def test_a_server_that_cant_tell_is_named_in_the_log() -> None:
    """Where nobody can know whether users are there, the log says so, and what a second request does to the first."""

    class Python(Simulated):
        def answer(self, request: ReceivedRequest) -> ServerAnswer:
            if request.path == "/v1/models":
                return as_json({"object": "list", "data": [{"id": "tiny", "owned_by": "me"}]})
            return as_json({"detail": "Not Found"}, 404)

    with Python() as server:
        assert any("cut off a user's answer" in line for line in probe(prober(server)).log)
    with SimulatedOllama() as ollama:
        ollama.use("small:latest")
        heavy = probe(prober(ollama), Module(max_tokens=16, concurrency=2))
    assert heavy.result == "ok"
    assert any("can't tell whether it is busy" in line for line in heavy.log)
    assert any("may slow down users" in line for line in heavy.log)


# Production speed -----------------------------------------------------------------------------------------------------


def test_production_speed_comes_from_the_servers_own_counter() -> None:
    """Two status checks ten seconds apart: what users generated, our own tokens taken out; nothing before the second status check."""
    clock = Time()
    with SimulatedVllm(generated=1000) as server:
        one = prober(server, monotonic=clock)
        assert check(one).generated_tokens_per_second is None
        clock.now += 10
        assert probe(one).output_tokens_spent == 16
        server.generated += 250
        clock.now += 10
        assert check(one).generated_tokens_per_second == pytest.approx(25.0)


def test_production_speed_is_left_out_over_a_restart() -> None:
    """A counter that fell or a new start time begins a new series of readings."""
    clock = Time()
    with SimulatedVllm(generated=1000) as server:
        one = prober(server, monotonic=clock)
        check(one)
        clock.now += 10
        server.generated = 30
        assert check(one).generated_tokens_per_second is None
        clock.now += 10
        server.generated += 100
        assert check(one).generated_tokens_per_second == pytest.approx(10.0)
        clock.now += 10
        server.generated, server.started = 5000, server.started + 20
        assert check(one).generated_tokens_per_second is None


def test_production_speed_goes_on_while_probes_are_skipped() -> None:
    """A busy server is not probed, but how fast it serves its users is known, with its queue and its cache."""
    clock = Time()
    with SimulatedVllm() as server:
        server.users, server.waiting = 3, 1
        one = prober(server, monotonic=clock)
        check(one)
        clock.now += 30
        server.generated += 1200
        state = state_of(probe(one))
    assert (state.requests_running, state.requests_waiting, state.kv_cache_usage) == (2.0, 1.0, 0.25)
    assert state.generated_tokens_per_second == pytest.approx(40.0)


@settings(deadline=None)
@given(
    ours=st.integers(0, 10**6), users=st.integers(0, 10**9), before=st.integers(0, 10**9), seconds=st.floats(1.0, 1e5)
)
def test_throughput_is_what_others_made(ours: int, users: int, before: int, seconds: float) -> None:
    """Whatever we generated in between, what is left is theirs."""
    found = throughput(ProductionReading(before, 7, 0.0), ProductionReading(before + ours + users, 7 + ours, seconds))
    assert found == pytest.approx(users / seconds)


# Cold starts ----------------------------------------------------------------------------------------------------------


def test_a_loading_server_is_loading_not_down() -> None:
    """503 while it loads: result ``loading``, state loading and up; how long it took is told by the first probe after it."""
    clock = Time()
    with SimulatedLlamaServer() as server:
        server.generated = 0
        server.loading = True
        one = prober(server, monotonic=clock)
        result = probe(one)
        assert (result.result, state_of(result).loading, state_of(result).up) == ("loading", True, True)
        identity = state_of(result).identity
        assert identity is not None
        assert identity.backend == "llama_cpp"
        clock.now += 42
        assert check(one).loading is True
        server.loading = False
        clock.now += 8
        state = check(one)
        assert (state.loading, state.up) == (False, True)
        first, second = probe(one), probe(one)
    assert (first.result, first.cold_start, first.model_load_seconds) == ("ok", True, 50.0)
    assert (first.measurements.tokens_per_second, first.measurements.server_tokens_per_second) == (None, None)
    assert (first.measurements.ttft_seconds, first.measurements.gaps) == (None, ())
    assert (second.cold_start, second.model_load_seconds) == (False, None)
    assert second.measurements.tokens_per_second is not None


def test_the_first_request_after_a_restart_is_a_cold_start() -> None:
    """Seen by the start time and an empty counter; the next one gives a speed."""
    with SimulatedVllm(tokens_per_second=100) as server:
        one = prober(server)
        assert probe(one).cold_start is False
        server.started, server.generated = server.started + 60, 0
        first, second = probe(one), probe(one)
    assert (first.result, first.cold_start, first.measurements.tokens_per_second) == ("ok", True, None)
    assert (second.cold_start, second.measurements.tokens_per_second is not None) == (False, True)


def test_a_server_that_was_gone_and_came_back_is_cold() -> None:
    """Without a start time, refused connections before tell the same. Its slots tell that it had served nobody at first."""
    server = SimulatedLlamaServer(metrics=False)
    with server:
        one = prober(server)
        assert [probe(one).cold_start for _ in range(2)] == [True, False]
    server.only = RouterModel(server, server.only.name)
    assert probe(one).result == "connect"
    server.start(int(one.target.url.rpartition(":")[2]))
    try:
        assert [probe(one).cold_start for _ in range(2)] == [True, False]
    finally:
        server.stop()


def test_a_server_that_users_have_warmed_is_not_cold() -> None:
    """After a restart, a user's request was the first one."""
    with SimulatedVllm() as server:
        one = prober(server)
        probe(one)
        server.started, server.generated = server.started + 60, 500
        assert probe(one).cold_start is False


# Cost -----------------------------------------------------------------------------------------------------------------


def test_after_timeouts_the_target_is_given_a_growing_pause() -> None:
    """Each abandoned probe doubles the interval of all modules; a success ends that."""
    clock = Time()
    with SimulatedVllm(prefill_seconds=0.4) as server:
        one = prober(server, monotonic=clock)
        intervals = []
        for _ in range(3):
            intervals.append(probe(one, HURRIED).interval_seconds)
            # What was abandoned goes on in the server: until it is done, a probe would be skipped.
            while server.ours:
                time.sleep(0.02)
        assert intervals == [120.0, 240.0, 480.0]
        assert one.interval_seconds("other", Module(interval=600.0)) == 3600.0
        clock.now += 400
        assert not one.due("default", HURRIED)
        clock.now += 60
        assert one.due("default", HURRIED)
        server.prefill_seconds = 0.0
        assert probe(one).interval_seconds == 60.0


def test_a_server_that_asks_for_a_pause_gets_it() -> None:
    """Retry-After of a 429 is waited out."""
    clock = Time()

    class Limited(SimulatedVllm):
        def answer(self, request: ReceivedRequest) -> ServerAnswer:
            if request.method == "POST":
                return ServerAnswer(429, b'{"error": "slow down"}', headers={"Retry-After": "300"})
            return super().answer(request)

    with Limited() as server:
        one = prober(server, monotonic=clock)
        assert probe(one).result == "rate_limited"
        clock.now += 299
        assert not one.due("default", SHORT)
        clock.now += 2
        assert one.due("default", SHORT)


def test_a_budget_stretches_the_interval() -> None:
    """Probes that take six seconds of sixty, and may take five in a hundred, run every two minutes; the result says so."""
    pace = Pace(0.05)
    assert pace.interval("default", SHORT) == 60.0
    pace.ran("default", SHORT, "ok", 0.0, 6.0)
    assert pace.interval("default", SHORT) == 120.0
    assert not pace.due("default", SHORT, 60.0)
    assert pace.due("default", SHORT, 119.0)
    pace.ran("prefill", Module(interval=600.0), "ok", 0.0, 60.0)
    assert pace.interval("default", SHORT) == 240.0


def test_the_budget_is_in_the_result() -> None:
    """A target with a tiny budget says with its first result that it will run less often."""
    with SimulatedVllm(tokens_per_second=100) as server:
        one = prober(server, budget=Budget(share=0.0005))
        result = probe(one)
    assert result.interval_seconds >= 240.0
    assert result.interval_seconds % 60.0 == 0


def test_a_skipped_probe_is_due_again_at_the_next_interval() -> None:
    """Only a probe that ran moves the time on."""
    clock = Time()
    with SimulatedVllm() as server:
        one = prober(server, monotonic=clock)
        assert one.due("default", SHORT)
        probe(one)
        clock.now += 1
        assert not one.due("default", SHORT)
        clock.now += 59
        server.users = 1
        assert probe(one).result == "skipped_busy"
        assert one.due("default", SHORT)


@settings(deadline=None)
@given(
    interval=st.floats(1.0, 86400.0),
    busy=st.floats(0.0, 10.0),
    share=st.floats(0.001, 1.0),
    abandoned=st.integers(0, 1000),
)
def test_an_interval_is_a_multiple_that_keeps_the_budget(
    interval: float, busy: float, share: float, abandoned: int
) -> None:
    """Never shorter than asked for, always a whole multiple, never above the budget, a pause of at most an hour."""
    found = stretched(interval, busy, share, abandoned)
    assert found >= interval
    assert round(found / interval) == pytest.approx(found / interval)
    assert busy * interval / found <= share * (1 + 1e-6)
    if busy <= share:
        assert found <= max(3600.0, interval) + interval
