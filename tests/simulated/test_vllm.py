"""The simulated vLLM does what the real one does, shown over HTTP."""

import time
from typing import Any

import pytest

from tests.servers.user import User, several
from tests.servers.vllm import SimulatedVllm
from tests.simulated.plain import chat, events, get, post, read, wait_for

CHAT = "/v1/chat/completions"


def metric(server: SimulatedVllm, name: str) -> float:
    """The first value of a name in ``/metrics``."""
    lines = get(server, "/metrics").text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"vllm:{name}{{"))


def test_counters_move_at_each_step() -> None:
    """Before the request ends; requests that are done are counted when it ends."""
    with SimulatedVllm(tokens_per_second=100, generated=0) as server:
        with User(server.url, tokens=60) as one:
            wait_for(lambda: one.tokens >= 20)
            assert 20 <= metric(server, "generation_tokens_total") < 60
            assert metric(server, "prompt_tokens_total") == 4
            assert metric(server, "num_requests_running") == 1
            assert metric(server, "time_to_first_token_seconds_count") == 1
            assert metric(server, "inter_token_latency_seconds_count") >= 19
            assert metric(server, "request_queue_time_seconds_count") == 0
            one.finished()
        wait_for(lambda: metric(server, "num_requests_running") == 0)
        assert metric(server, "request_queue_time_seconds_count") == 1
        assert server.finished == {"stop": 0, "length": 1}


def test_what_finds_no_slot_waits_in_turn() -> None:
    """With --max-num-seqs 1: the second user's headers come at once, its first token after the first one's last."""
    with SimulatedVllm(tokens_per_second=100, slots=1, per_request_metrics=True) as server:
        first, second = User(server.url, tokens=40), User(server.url, tokens=5)
        with several(first, second):
            first.started()
            assert (metric(server, "num_requests_running"), metric(server, "num_requests_waiting")) == (1, 1)
            second.finished()
        assert second.headers_at is not None
        assert second.first_at is not None
        assert second.headers_at < first.token_times[-3] < second.first_at
        queued = second.events[-1]["metrics"]["queue_time_ms"]
        assert queued > 20 * first.events[-1]["metrics"]["queue_time_ms"]
        assert queued == pytest.approx(metric(server, "request_queue_time_seconds_sum") * 1000, rel=0.1)


def test_slots_run_at_once_and_may_slow_each_other() -> None:
    """Two requests take as long as one; with a slowdown of 1 twice as long."""
    took = []
    for slowdown in (0.0, 1.0):
        with SimulatedVllm(tokens_per_second=100, slowdown=slowdown) as server:
            users = [User(server.url, tokens=40) for _ in range(2)]
            with several(*users):
                for each in users:
                    each.finished()
            took.append(users[0].token_times[-1] - users[0].token_times[0])
    assert took[1] > 1.6 * took[0]


def test_a_client_that_leaves_stops_decoding_at_once() -> None:
    """And is in no count of finished requests."""
    with SimulatedVllm(tokens_per_second=50) as server:
        with User(server.url, tokens=2000):
            pass
        wait_for(lambda: metric(server, "num_requests_running") == 0, 1)
        assert server.finished == {"stop": 0, "length": 0}
        assert metric(server, "request_queue_time_seconds_count") == 0


def test_an_abandoned_prompt_is_worked_through_uncounted() -> None:
    """The gauge says that nothing runs, yet the next request waits for it."""
    with SimulatedVllm(slots=1, prefill_seconds=0.6) as server:
        one = User(server.url, tokens=2).send()
        wait_for(lambda: metric(server, "num_requests_running") == 1)
        one.leave()
        wait_for(lambda: metric(server, "num_requests_running") == 0, 0.3)
        assert server.ours == 1
        with User(server.url, tokens=2, prompt="next") as two:
            two.finished()
        assert two.ttft_seconds > 0.7


def test_metrics_of_a_request_come_in_the_last_chunk() -> None:
    """Only with --enable-per-request-metrics, whether usage was asked for or not."""
    with SimulatedVllm(per_request_metrics=True) as server:
        asked: list[dict[str, Any]] = [{}, {"stream_options": {"include_usage": True}}]
        for options in asked:
            last = events(post(server, CHAT, chat(stream=True, **options)))[-1]
            names = {
                "time_to_first_token_ms",
                "generation_time_ms",
                "queue_time_ms",
                "mean_itl_ms",
                "tokens_per_second",
            }
            assert set(last["metrics"]) == names
            assert ("usage" in last) == bool(options)
    with SimulatedVllm() as server:
        assert "metrics" not in events(post(server, CHAT, chat(stream=True)))[-1]


def test_without_statistics_no_line_of_vllm_is_there() -> None:
    """--disable-log-stats: only the process is described; the metrics of a request are null."""
    with SimulatedVllm(log_stats=False, per_request_metrics=True) as server:
        assert "vllm:" not in get(server, "/metrics").text
        assert "process_start_time_seconds" in get(server, "/metrics").text
        assert events(post(server, CHAT, chat(stream=True)))[-1]["metrics"] is None


def test_a_pooling_server_has_no_path_for_chats() -> None:
    """404 for POST and GET, while a server of text says 405 to a GET."""
    with SimulatedVllm(pooling=True) as server:
        assert [post(server, CHAT, chat()).status_code, get(server, CHAT).status_code] == [404, 404]
        assert read(server, "/v1/models")["data"][0]["owned_by"] == "vllm"
    with SimulatedVllm() as server:
        assert [get(server, path).status_code for path in (CHAT, "/v1/completions", "/nothing")] == [405, 405, 404]


def test_without_a_chat_template_only_completions_work() -> None:
    """400 that names no field."""
    with SimulatedVllm(chat_template=False) as server:
        refused = post(server, CHAT, chat(stream=True))
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, None)
        found = events(post(server, "/v1/completions", {"prompt": "a b", "max_tokens": 2, "stream": True}))
        assert [each["choices"][0]["text"] for each in found] == [" word1", " word2"]


def test_sleep_is_told_and_a_request_to_a_sleeper_counted() -> None:
    """engine_sleep_state says it; reads change nothing."""
    with SimulatedVllm() as server:
        server.asleep = True
        for path in ("/health", "/ping", "/version", "/v1/models", "/metrics"):
            get(server, path)
        assert 'sleep_state="weights_offloaded"} 1.0' in get(server, "/metrics").text
        assert server.costs == {}
        post(server, CHAT, chat(stream=True))
        assert server.costs == {"wake": 1}


def test_answers_have_the_shape_of_the_real_one() -> None:
    """Role with content "", finish_reason in the last token's chunk, usage in a chunk of its own if asked for, in each if asked for."""
    with SimulatedVllm() as server:
        server.thinks = 1
        options: dict[str, Any] = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        found = events(post(server, CHAT, chat(tokens=3, stream=True, **options)))
        assert [each["usage"]["completion_tokens"] for each in found] == [0, 1, 2, 3, 3]
        assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert found[1]["choices"][0]["delta"] == {"reasoning": " word1"}
        assert [each["choices"][0]["finish_reason"] for each in found[:-1]] == [None, None, None, "length"]
        assert (found[-1]["choices"], found[-1]["usage"]["total_tokens"]) == ([], 6)
        assert "usage" not in events(post(server, CHAT, chat(stream=True)))[-1]
        assert post(server, CHAT, chat(model="other")).status_code == 404
        assert post(server, CHAT, {}).status_code == 400


def test_an_answer_may_end_by_itself() -> None:
    """Unless ignore_eos or min_tokens keep it from that."""
    with SimulatedVllm() as server:
        server.answer_tokens = 3
        counts = []
        options: dict[str, Any] = {"stream_options": {"include_usage": True}}
        for more in ({}, {"ignore_eos": True}, {"min_tokens": 5}):
            last = events(post(server, CHAT, chat(tokens=9, stream=True, **options, **more)))[-1]
            counts.append(last["usage"]["completion_tokens"])
        assert counts == [3, 9, 5]


def test_a_read_of_metrics_holds_the_streams() -> None:
    """As the real one's event loop does: the longest gap of a stream is about as long as the read."""
    with SimulatedVllm(tokens_per_second=200, look_seconds=0.3) as server, User(server.url, tokens=100) as one:
        began = time.monotonic()
        get(server, "/metrics")
        took = time.monotonic() - began
        one.finished()
        assert max(one.gaps) > 0.5 * took
