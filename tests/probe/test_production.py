"""What a server does for its users between status checks: scripted readings, and a hang of a server over a real socket."""

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from exporter.probe.dialects.dialect import ServerStatus
from exporter.probe.prober import Prober
from exporter.probe.production import WINDOW_SECONDS, Production, ProductionMeter
from exporter.probe.result import Identity, TargetState
from exporter.probe.server import Server
from exporter.probe.slots import SlotReading
from exporter.probe.users import Served
from exporter.settings import Module, Target
from tests.servers.captured import STREAMS, Captured
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.ollama import SimulatedOllama
from tests.servers.user import User
from tests.servers.vllm import SimulatedVllm

STATUS = ServerStatus(Identity("llama_cpp"), model="m", started="1")


@dataclass
class ProductionClock:
    """Seconds that a test sets."""

    now: float = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class Meter:
    """A meter and its clock: ``at`` reads a status at a time."""

    def __init__(self) -> None:
        self.clock = ProductionClock()
        self.server = Server()
        self.meter = ProductionMeter(self.server, self.clock)

    def at(self, now: float, status: ServerStatus) -> Production:
        """What a status at this time says."""
        self.clock.now = now
        return self.meter.read(status)

    def wants_another(self) -> bool:
        """Whether another reading soon is of use."""
        return self.meter.wants_another


def slots(*readings: SlotReading) -> ServerStatus:
    """A llama-server that may be asked for its slots."""
    return replace(STATUS, slot_readings=readings, running=float(sum(each.running for each in readings)))


def answer(decoded: int, *, task: int = 7) -> SlotReading:
    """A slot in which an answer runs."""
    return SlotReading(0, task, running=True, decoded=decoded, held=60 + decoded)


def test_a_new_answer_wants_a_second_reading_soon() -> None:
    """Seen once it has no speed, three seconds later it has; then the next check is early enough."""
    meter = Meter()
    meter.at(0, slots(SlotReading(0)))
    assert meter.at(30, slots(answer(100))).user_tokens_per_second is None
    assert meter.wants_another()
    assert meter.at(33, slots(answer(160))).user_tokens_per_second == 20
    assert not meter.wants_another()
    found = meter.at(63, slots(answer(760)))
    assert (found.user_tokens_per_second, found.generated_tokens_per_second) == (20, 20)


def test_an_answer_has_its_speed_for_the_reading_after_it() -> None:
    """It ran since the last reading; at the one after that, nobody is served and nothing is said."""
    meter = Meter()
    meter.at(0, slots(answer(100)))
    meter.at(30, slots(answer(400)))
    ended = SlotReading(0, 7, held=600)
    assert meter.at(60, slots(ended)) == Production(140 / 30, 10.0)
    assert meter.at(90, slots(ended)) == Production(0.0, None)


def test_two_answers_at_once_are_two_users() -> None:
    """What one gets is the mean, what all get the sum."""
    meter = Meter()
    other = SlotReading(1, 8, running=True, decoded=10, held=40)
    meter.at(0, slots(answer(100), other))
    found = meter.at(10, slots(answer(200), replace(other, decoded=210)))
    assert (found.user_tokens_per_second, found.generated_tokens_per_second) == (15, 30)


def test_a_probe_between_two_readings_breaks_no_figure() -> None:
    """Its request is in the slots: what was known stays, and the next two readings count again."""
    meter = Meter()
    meter.at(0, slots(answer(100)))
    assert meter.at(10, slots(answer(200))).user_tokens_per_second == 10
    with meter.server.streaming(1):
        assert (
            meter.at(15, slots(answer(250), SlotReading(1, 9, running=True, decoded=16))).user_tokens_per_second == 10
        )
    assert meter.at(20, slots(answer(300), SlotReading(1, 9))).user_tokens_per_second == 10
    assert meter.at(30, slots(answer(500), SlotReading(1, 9))).user_tokens_per_second == 20


def test_a_counter_that_moves_at_the_end_is_read_from_idle_to_idle() -> None:
    """Neither 0 during an answer nor a peak at its end: nothing while it runs, then its mean over the time since."""
    meter = Meter()
    counting = replace(STATUS, counts_at_end=True, running=0.0)
    meter.at(0, replace(counting, generated_tokens=1000.0))
    for now in (30, 60, 90):
        running = replace(counting, generated_tokens=1000.0, running=1.0)
        assert meter.at(now, running).generated_tokens_per_second is None
    assert meter.at(120, replace(counting, generated_tokens=3400.0)).generated_tokens_per_second == 20


def test_an_answer_that_no_check_saw_run_has_its_speed_where_counters_are_read() -> None:
    """It began and ended between two checks: by the counters its speed is known, until a check at which nothing ended."""
    meter = Meter()
    meter.at(0, replace(slots(SlotReading(0)), ended=Served(tokens=1000, gap_seconds=40)))
    ended = SlotReading(0, 7, held=300)
    after = replace(slots(ended), ended=Served(tokens=1241, gap_seconds=52))
    assert meter.at(30, after).user_tokens_per_second == 20
    assert meter.at(60, after).user_tokens_per_second is None


def test_an_answer_that_runs_comes_before_those_that_ended() -> None:
    """What is seen in the slots is the newer of the two."""
    meter = Meter()
    meter.at(0, replace(slots(answer(100)), ended=Served(tokens=1000, gap_seconds=40)))
    found = meter.at(30, replace(slots(answer(400)), ended=Served(tokens=1241, gap_seconds=52)))
    assert found.user_tokens_per_second == 10


def test_a_slow_server_is_waited_for() -> None:
    """Three tokens in five seconds are too few for a speed: the window grows until there are enough."""
    meter = Meter()
    status = replace(STATUS, generated_tokens=0.0, running=1.0)
    found: list[float | None] = []
    for now in range(0, 35, 5):
        sums = Served(1, 0.5, 1 + now * 0.6, float(now))
        found.append(meter.at(now, replace(status, sums=sums)).user_tokens_per_second)
    assert found[:3] == [None, None, None]
    assert found[-1] == pytest.approx(0.6)


def checked(one: Prober) -> TargetState:
    """A status check that was not cancelled."""
    state = one.status()
    assert state is not None
    return state


def test_a_vllm_whose_requests_stand_still_is_stuck_after_four_minutes() -> None:
    """Two requests run and no counter moves; one token, or nobody there any more, and it is well again."""
    clock = ProductionClock()
    with SimulatedVllm() as server:
        one = Prober(Target(url=server.url), monotonic=clock)
        assert checked(one).stuck is False
        server.users = 2
        found = []
        for now in range(0, 300, 30):
            clock.now = 1000.0 + now
            found.append(checked(one).stuck)
        assert found == [False] * 8 + [True] * 2
        server.generated += 1
        assert checked(one).stuck is False
        clock.now += 400
        assert checked(one).stuck is True
        server.users = 0
        assert checked(one).stuck is False


def test_a_prompt_that_is_worked_on_is_not_stuck() -> None:
    """Minutes without a token: a vLLM counts its steps and prompt tokens, a llama-server each batch of the prompt."""
    meter = Meter()
    status = replace(STATUS, running=1.0)
    batches = [SlotReading(0, 7, running=True, processed=512 * number) for number in range(20)]
    for number, batch in enumerate(batches):
        assert meter.at(60.0 * number, replace(status, progress=(batch,))).stuck is False
    assert meter.at(60.0 * 24, replace(status, progress=(batches[-1],))).stuck is True


def test_a_hang_that_only_probes_can_see_is_told() -> None:
    """A llama-server that may sleep is read in full only before a probe: two such readings far apart suffice."""
    meter = Meter()
    full = replace(STATUS, running=1.0, read_is_use=True, progress=(answer(50),))
    assert meter.at(0, full).stuck is False
    assert meter.at(30, STATUS).stuck is False
    assert meter.at(270, full).stuck is True
    assert meter.at(290, STATUS).stuck is True
    assert meter.at(520, STATUS).stuck is None


def test_a_server_that_cannot_tell_is_never_stuck() -> None:
    """Ollama counts nothing; a llama-server that may sleep is not asked."""
    with SimulatedOllama() as ollama, SimulatedLlamaServer(sleep_idle_seconds=600) as llama:
        for server in (ollama, llama):
            state = checked(Prober(Target(url=server.url)))
            assert (state.stuck, state.user_tokens_per_second) == (None, None)


def windows() -> list[dict[str, Any]]:
    """What the clients of a real vLLM measured between each two readings of its /metrics."""
    found: list[dict[str, Any]] = json.loads((STREAMS / "vllm-users" / "clients.json").read_text(encoding="utf-8"))
    return found


def test_a_real_vllms_histograms_tell_what_its_users_got() -> None:
    """Its own expositions, replayed with users' requests and two probes: speed within 3 % of what the clients measured, TTFT within
    6 %, during long answers too; none where a probe was alone. The machine was busy, so the clients' TTFTs hold some more.
    """
    clock, shares = ProductionClock(), []
    gets = {
        "/v1/models": "vllm/get-v1-models",
        "/version": "vllm/get-version",
        "/health": "vllm/get-health",
        "/metrics": "vllm-users/get-metrics-1-idle",
    }
    with Captured(gets, "vllm/error-404") as server:
        one = Prober(Target(url=server.url), monotonic=clock)
        assert checked(one).user_tokens_per_second is None
        for window in windows():
            clock.now += max(window["seconds"], WINDOW_SECONDS)
            gets["/metrics"] = f"vllm-users/get-metrics-{window['to']}"
            if probe := window["probe"]:
                one.server.count(probe["tokens"], Served(1, probe["ttft_seconds"], probe["tokens"], probe["seconds"]))
            state, users = checked(one), window["users"]
            ttfts = [each["ttft_seconds"] for each in users if each["ttft_seconds"] is not None]
            if users:
                measured = sum(each["tokens"] for each in users) / sum(each["seconds"] for each in users)
                assert state.user_tokens_per_second == pytest.approx(measured, rel=0.03)
                assert state.user_ttft_seconds == (pytest.approx(sum(ttfts) / len(ttfts), rel=0.06) if ttfts else None)
            else:
                assert (state.user_tokens_per_second, state.user_ttft_seconds) == (None, None)
            shares.append((len(users), len(ttfts), probe is not None))
    assert shares == [(2, 2, False), (2, 0, False), (2, 0, True), (3, 3, False), (0, 0, True)]


def test_an_answer_between_two_checks_of_a_llama_server_with_counters() -> None:
    """Over a socket, with a probe of ours beside: within 5 % of what its client measured, though it may sleep and no check saw it."""
    clock = ProductionClock()
    with SimulatedLlamaServer(tokens_per_second=200, sleep_idle_seconds=3600) as server:
        one = Prober(Target(url=server.url, server_metrics=True), monotonic=clock)
        assert checked(one).user_tokens_per_second is None
        with User(server.url, tokens=150) as user:
            user.finished()
        one.probe("default", Module(max_tokens=16, prompt_tokens=48))
        clock.now += 30
        speed = checked(one).user_tokens_per_second
        times = user.token_times
    assert speed == pytest.approx((len(times) - 1) / (times[-1] - times[0]), rel=0.05)


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_llama_server_with_counters_counts_during_the_answer(parallel: int) -> None:
    """With ``server_metrics`` its counter and the answers that run are one count, which never falls and never jumps."""
    with SimulatedLlamaServer(tokens_per_second=200, parallel=parallel, build=7000) as server:
        one = Prober(Target(url=server.url, server_metrics=True))
        one.add_hints(sleeps=False)
        seen = []
        with User(server.url, tokens=150) as user:
            for _ in range(3):
                checked(one)
                counted = one.tracker.last
                assert counted is not None
                assert not counted.counts_at_end
                seen.append(counted.generated_tokens or 0.0)
            user.finished()
        checked(one)
        counted = one.tracker.last
        assert counted is not None
        assert counted.generated_tokens == server.generated == 200
        assert seen == sorted(seen)
        assert 50 < seen[-1] <= 200
