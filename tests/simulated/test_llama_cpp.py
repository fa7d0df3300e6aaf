"""The simulated llama-server does what the real one does, shown over HTTP."""

import re
import time
from typing import Any

import httpx
import pytest

from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.user import User, several
from tests.simulated.plain import chat, events, get, post, read, spent, wait_for

CHAT = "/v1/chat/completions"
LONG = "once upon a time there was a keeper of a lighthouse who told " * 20


def metric(server: SimulatedLlamaServer, name: str, path: str = "/metrics") -> float:
    """One value of ``/metrics``; the read empties the gauges of speed."""
    found = re.search(rf"^llamacpp:{name} (\S+)$", get(server, path).text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def user(server: SimulatedLlamaServer, **more: Any) -> User:
    """A user's chat."""
    return User(server.url, **more)


# Counters and slots ---------------------------------------------------------------------------------------------------


def test_the_tokens_counter_moves_at_the_end_of_a_request() -> None:
    """n_decode_total and the slot's n_decoded move meanwhile; id_task tells requests apart, and idle slots say 0 decoded."""
    with SimulatedLlamaServer(tokens_per_second=100) as server:
        before = metric(server, "tokens_predicted_total")
        with user(server, tokens=60) as one:
            wait_for(lambda: one.tokens >= 10)
            (slot,) = read(server, "/slots")
            assert slot["is_processing"] is True
            assert slot["next_token"][0]["n_decoded"] >= 10
            assert metric(server, "n_decode_total") >= 10
            assert metric(server, "tokens_predicted_total") == before
            assert metric(server, "requests_processing") == 1
            one.finished()
        wait_for(lambda: metric(server, "tokens_predicted_total") == before + 60)
        (idle,) = read(server, "/slots")
        assert (idle["is_processing"], idle["id_task"], idle["next_token"][0]["n_decoded"]) == (
            False,
            slot["id_task"],
            0,
        )
        post(server, CHAT, chat())
        assert read(server, "/slots")[0]["id_task"] > slot["id_task"]


def test_each_read_of_metrics_empties_the_gauges_of_speed() -> None:
    """The next reader gets 0."""
    with SimulatedLlamaServer() as server:
        post(server, CHAT, chat(tokens=20))
        assert spent(server, lambda: get(server, "/slots")) == {}
        assert metric(server, "predicted_tokens_seconds") == pytest.approx(1000, rel=0.2)
        assert server.costs == {"counter reset": 1}
        assert metric(server, "predicted_tokens_seconds") == 0
        assert metric(server, "prompt_tokens_seconds") == 0
        assert server.costs == {"counter reset": 1}


def test_one_slot_is_a_queue() -> None:
    """The second user's headers come after the first one's last token; one runs and one is deferred."""
    with SimulatedLlamaServer(tokens_per_second=100) as server:
        first, second = user(server, tokens=30), user(server, tokens=5)
        with several(first, second):
            first.started()
            assert (metric(server, "requests_processing"), metric(server, "requests_deferred")) == (1, 1)
            second.finished()
        assert second.waited_for(first)


def test_headers_come_with_the_slot_and_the_role_with_the_first_token() -> None:
    """Between them is the prompt."""
    with SimulatedLlamaServer(prefill_seconds=0.3) as server, user(server, tokens=2) as one:
        one.finished()
        assert one.headers_at is not None
        assert one.first_at is not None
        assert one.headers_at - one.sent < 0.5 * (one.first_at - one.sent)
        assert one.first_at - one.lines[0][0] < 0.5 * (one.first_at - one.sent)


def test_id_slot_chooses_the_slot_and_waits_for_it() -> None:
    """A busy slot that was asked for is waited for though another is idle, and is then given before those that came earlier."""
    with SimulatedLlamaServer(tokens_per_second=100, parallel=2) as server:
        with user(server, tokens=40, id_slot=1) as first:
            assert [each["is_processing"] for each in read(server, "/slots")] == [False, True]
            second = user(server, tokens=2, id_slot=1).send()
            time.sleep(0.05)
            assert metric(server, "requests_deferred") == 1
            first.finished()
            second.finished()
        assert second.waited_for(first)
    with SimulatedLlamaServer(tokens_per_second=100) as server:
        first, waits, jumps = user(server, tokens=30), user(server, tokens=5), user(server, tokens=5, id_slot=0)
        with several(first, waits, jumps):
            waits.finished()
        assert jumps.ttft_seconds < waits.ttft_seconds


def test_without_a_similar_prompt_the_least_recently_used_slot_is_taken() -> None:
    """Of slots that were never used the last one is."""
    with SimulatedLlamaServer(parallel=3, host_cache=False) as server:
        used = []
        for word in "a b c d".split():
            post(server, CHAT, chat(" ".join([word] * 100), 1))
            tasks = {each["id"]: each.get("id_task", 0) for each in read(server, "/slots")}
            used.append(max(tasks, key=lambda number: tasks[number]))
        assert used == [2, 1, 0, 2]


# Prompt caches --------------------------------------------------------------------------------------------------------


def follow_up(server: SimulatedLlamaServer, **more: Any) -> tuple[int, float]:
    """A user's second message in a conversation: cached tokens, and seconds to the first token."""
    answer = " ".join(f"word{n}" for n in range(1, 11))
    messages = [
        {"role": "user", "content": LONG},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "go on"},
    ]
    with user(server, tokens=2, messages=messages, **more) as one:
        one.finished()
    return one.events[-1]["usage"]["prompt_tokens_details"]["cached_tokens"], one.ttft_seconds


def begin(server: SimulatedLlamaServer) -> None:
    """A user's first message."""
    post(server, CHAT, chat(LONG, 10, stream=True))


def test_a_conversation_that_stays_in_its_slot_is_not_worked_through_again() -> None:
    """The follow-up's first token comes far sooner than that of the first message."""
    with SimulatedLlamaServer(prompt_tokens_per_second=500, host_cache=False) as server:
        begin(server)
        cached, seconds = follow_up(server)
        assert cached > 240
        post(server, CHAT, chat("other words"))
        cold, longer = follow_up(server)
        assert cold < 10
        assert longer > 5 * seconds
        assert any("lighthouse" in lost for lost in server.slots.lost)


def test_a_short_prompt_takes_the_slot_of_a_conversation_by_the_template_they_share() -> None:
    """With several slots and no cache in the host: a prompt of a few words is similar enough to any; a named idle slot isn't."""
    with SimulatedLlamaServer(parallel=2, host_cache=False) as server:
        begin(server)
        post(server, CHAT, chat("short", 2))
        assert follow_up(server)[0] < 10
    with SimulatedLlamaServer(parallel=2, host_cache=False) as server:
        begin(server)
        for _ in range(5):
            post(server, CHAT, chat("short", 2, id_slot=0))
        assert follow_up(server)[0] > 240
        assert not any("lighthouse" in lost for lost in server.slots.lost)


def test_the_hosts_cache_gives_a_conversation_back() -> None:
    """With --cache-ram, one slot, and another prompt between them."""
    with SimulatedLlamaServer(host_cache=True) as server:
        begin(server)
        post(server, CHAT, chat("something else that has nothing of it", 2))
        assert follow_up(server)[0] > 240
        assert server.slots.lost == []


def test_cache_prompt_false_works_through_the_whole_prompt() -> None:
    """As the probe asks for."""
    with SimulatedLlamaServer() as server:
        begin(server)
        assert follow_up(server, cache_prompt=False)[0] == 0


# Sleep ----------------------------------------------------------------------------------------------------------------


def sleepy(build: int, **more: Any) -> SimulatedLlamaServer:
    """A server that sleeps after a minute."""
    return SimulatedLlamaServer(build=build, sleep_idle_seconds=60, **more)


@pytest.mark.parametrize(("build", "wakes"), [(9760, 1), (10_530, 1), (10_531, 0), (11_434, 0)])
def test_before_b10531_a_read_of_metrics_wakes(build: int, wakes: int) -> None:
    """And restarts the timer of one that is awake; /health, /props and /v1/models never do, /slots always does."""
    with sleepy(build) as server:
        server.clock.ahead += 61
        for path in ("/health", "/props", "/v1/models"):
            assert spent(server, lambda path=path: get(server, path)) == {}  # type: ignore[misc]
        assert read(server, "/props")["is_sleeping"] is True
        assert spent(server, lambda: get(server, "/metrics"))["wake"] == wakes
        server.asleep = True
        assert spent(server, lambda: get(server, "/slots"))["wake"] == 1
        server.clock.ahead += 50
        assert spent(server, lambda: get(server, "/metrics"))["timer restart"] == wakes
        server.clock.ahead += 20
        assert read(server, "/props")["is_sleeping"] is not bool(wakes)


def test_a_chat_wakes_and_counters_survive() -> None:
    """The prompts in the slots don't."""
    with sleepy(11_434) as server:
        begin(server)
        generated = metric(server, "tokens_predicted_total")
        server.clock.ahead += 61
        assert read(server, "/props")["is_sleeping"] is True
        assert spent(server, lambda: follow_up(server))["wake"] == 1
        assert metric(server, "tokens_predicted_total") > generated
        assert follow_up(server)[0] > 240


def test_builds_before_sleep_say_nothing_of_it() -> None:
    """/props has no is_sleeping, and no cache of the host."""
    with SimulatedLlamaServer(build=6000) as server:
        assert "is_sleeping" not in read(server, "/props")
        assert read(server, "/props")["build_info"] == "b6000-unknown"
        assert server.slots.host is None


# The end --------------------------------------------------------------------------------------------------------------


def test_at_sigterm_connects_are_refused_and_an_open_stream_hangs() -> None:
    """Nothing more is decoded, and the server ends when the client has left, or after its patience."""
    with SimulatedLlamaServer(tokens_per_second=100, drain_seconds=20) as server:
        one = user(server, tokens=1000).send().started()
        server.terminate()
        with pytest.raises(httpx.ConnectError):
            get(server, "/health")
        time.sleep(0.1)
        count = one.tokens
        time.sleep(0.2)
        assert one.tokens == count
        assert not server.idle(0.05)
        one.leave()
        assert server.idle()
        assert not one.complete


def test_a_client_that_leaves_while_decoding_frees_its_slot_and_during_the_prompt_does_not() -> None:
    """A prompt is worked through to its end."""
    with SimulatedLlamaServer(tokens_per_second=50, prefill_seconds=0.6) as server:
        one = user(server, tokens=2).send()
        wait_for(lambda: metric(server, "requests_processing") == 1)
        one.leave()
        time.sleep(0.05)
        assert metric(server, "requests_processing") == 1
        wait_for(lambda: metric(server, "requests_processing") == 0)
        two = user(server, tokens=2000).send().started()
        two.leave()
        wait_for(lambda: metric(server, "requests_processing") == 0, 1)


# What it does not do, and what it says ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "progress", "worked"), [(11_434, True, 60), (11_434, False, 150), (6_000, True, 150)]
)
def test_a_client_that_left_is_noticed_by_what_is_sent_to_it(build: int, progress: bool, worked: int) -> None:  # noqa: FBT001 - a parameter of the test
    """In a prompt of 150 tokens, left after some 20: with ``return_progress`` after the next batch, else at the next whole second."""
    with SimulatedLlamaServer(build=build, prompt_tokens_per_second=100, batch=5) as server:
        one = user(server, prompt=" ".join(f"w{number}" for number in range(150)), return_progress=progress).send()
        wait_for(lambda: server.slots.all[0].processed >= 20)
        one.leave()
        assert server.idle()
        assert worked - 55 <= server.only.prompt <= worked


def test_the_progress_of_a_prompt_is_told() -> None:
    """From 0 on, after each batch; then the first token, whose role is told once more."""
    with SimulatedLlamaServer(batch=5) as server:
        body = chat(" ".join(f"w{number}" for number in range(20)), 2, stream=True, return_progress=True)
        told = [each["prompt_progress"] for each in events(post(server, CHAT, body)) if "prompt_progress" in each]
        processed = [each["processed"] for each in told]
        assert len(processed) > 3
        assert processed == sorted(set(processed))
        assert (processed[0], {processed[-1]}) == (0, {each["total"] for each in told})


def test_a_server_of_embeddings_refuses_chats() -> None:
    """501 with its text; the newest builds have 500 with another."""
    for flag in ("embeddings", "reranking"):
        with SimulatedLlamaServer(build=9760, **{flag: True}) as server:  # type: ignore[arg-type]
            refused = post(server, CHAT, chat())
            assert refused.status_code == 501
            assert "Start it without `--embeddings`" in refused.json()["error"]["message"]
    with SimulatedLlamaServer(embeddings=True) as server:
        assert post(server, CHAT, chat()).status_code == 500


def test_answers_have_the_shape_of_the_real_one() -> None:
    """Timings in each chunk if asked for, else in the last one; usage in a chunk of its own; 503 on every path while it loads."""
    with SimulatedLlamaServer() as server:
        stream: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        found = events(post(server, CHAT, chat(tokens=3, timings_per_token=True, **stream)))
        assert [each.get("timings", {}).get("predicted_n") for each in found] == [None, 1, 2, 3, None, 3]
        assert (found[0]["choices"][0]["delta"], found[-1]["choices"]) == ({"role": "assistant", "content": None}, [])
        assert found[-1]["usage"]["completion_tokens"] == 3
        assert "usage" not in events(post(server, CHAT, chat(stream=True)))[-1]
        assert post(server, CHAT, {}).json()["error"]["message"] == "'messages' is required"
        assert post(server, CHAT, chat(tokens=3)).json()["usage"]["completion_tokens"] == 3
        server.loading = True
        assert {get(server, path).status_code for path in ("/health", "/metrics", "/v1/models")} == {503}


def test_without_metrics_or_slots_their_paths_are_501() -> None:
    """/props says so before."""
    with SimulatedLlamaServer(metrics=False, slots_endpoint=False) as server:
        assert [get(server, path).status_code for path in ("/metrics", "/slots")] == [501, 501]
        props = read(server, "/props")
        assert (props["endpoint_metrics"], props["endpoint_slots"]) == (False, False)


# The router -----------------------------------------------------------------------------------------------------------


def test_a_router_loads_what_is_read_of_it() -> None:
    """GET /metrics?model= and /slots?model= load, unless told not to; its lists and its health never do."""
    with SimulatedLlamaServer(router={"a": "unloaded", "b": "unloaded"}) as server:
        for path in ("/health", "/props", "/v1/models", "/metrics", "/slots"):
            get(server, path)
        assert get(server, "/metrics?model=a&autoload=false").json()["error"]["message"] == "model is not loaded"
        assert get(server, "/metrics?model=zzz").json()["error"]["message"] == "model 'zzz' not found"
        assert server.costs == {}
        assert spent(server, lambda: get(server, "/slots?model=a")) == {"load": 1}
        assert server.router == {"a": "loaded", "b": "unloaded"}
        assert spent(server, lambda: get(server, "/metrics?model=a&autoload=false")) == {}


def test_a_router_evicts_the_least_recently_used_model() -> None:
    """A chat counts as use, a read does not."""
    with SimulatedLlamaServer(router=dict.fromkeys("abc", "unloaded"), models_max=2) as server:
        for name in "aba":
            post(server, CHAT, chat(model=name))
        get(server, "/metrics?model=b")
        assert spent(server, lambda: post(server, CHAT, chat(model="c"))) == {"load": 1, "eviction": 1, "use": 1}
        assert server.router == {"a": "loaded", "b": "unloaded", "c": "loaded"}


def test_a_router_waits_for_a_busy_model_before_it_evicts_it() -> None:
    """The user's stream ends whole."""
    with SimulatedLlamaServer(router=dict.fromkeys("ab", "unloaded"), models_max=1, tokens_per_second=100) as server:
        one, two = user(server, model="a", tokens=30), user(server, model="b", tokens=2)
        with several(one, two):
            two.finished()
        assert one.complete
        assert two.waited_for(one)


def test_the_status_of_a_routers_model_is_told() -> None:
    """Unloaded, loading, loaded, sleeping; and before b10531 not even autoload=false keeps a read from waking a sleeping one."""
    with SimulatedLlamaServer(router={"a": "unloaded"}, load_seconds=0.3, sleep_idle_seconds=60, build=9760) as server:
        one = user(server, model="a", tokens=2).send()
        wait_for(lambda: server.router["a"] == "loading")
        one.finished()
        assert server.router["a"] == "loaded"
        server.clock.ahead += 61
        status = read(server, "/v1/models")["data"][0]["status"]["value"]
        assert status == "sleeping"
        assert spent(server, lambda: get(server, "/metrics?model=a&autoload=false"))["wake"] == 1
