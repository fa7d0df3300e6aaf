"""One probe from its being due to its result, against simulated servers over real sockets."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exporter.probe.http.cancellation import Cancellation
from exporter.probe.prober import Prober
from exporter.probe.result import ProbeResult
from exporter.probe.server import Server, Servers
from exporter.probe.status import identify
from exporter.settings import Module, Target, Timeouts
from tests.probe.probes import SHORT, probe, prober
from tests.servers.captured import Captured, load
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.ollama import SimulatedOllama
from tests.servers.simulated import ReceivedRequest, ServerAnswer, Simulated, as_json
from tests.servers.vllm import SimulatedVllm
from tests.waiting import eventually

SHORT_TIMEOUTS = Timeouts(connect=1.0, first_token=1.0, stalled=1.0, total=2.0)
TRANSFORMERS = {
    "/health": "transformers-serve/get-health",
    "/v1/models": "transformers-serve/get-v1-models",
    "/version": "transformers-serve/get-version",
}


def warm(url: str, **target: Any) -> Prober:
    """A prober whose target has answered before, so that the next probe is no cold start."""
    one = prober(url, **target)
    probe(one)
    return one


# What comes out ------------------------------------------------------------------------------------------------------


def test_a_probe_of_vllm_counts_every_token() -> None:
    """Result, speed, exact counts, identity and cost of a probe that went well."""
    with SimulatedVllm(tokens_per_second=100) as server:
        result = probe(warm(server.url))
    measured = result.measurements
    assert (result.result, result.error, result.model) == ("ok", "", "tiny")
    assert measured.tokens_per_second is not None
    assert measured.ttft_seconds is not None
    assert (measured.output_tokens, measured.token_count_exact) == (16, True)
    assert result.output_tokens_spent == 16
    assert result.prompt_tokens_spent == measured.prompt_tokens
    assert 0 < result.busy_seconds < 5
    assert result.state is not None
    assert result.state.identity is not None
    assert (result.state.up, result.state.identity.backend, result.state.identity.backend_version) == (
        True,
        "vllm",
        "0.32.0",
    )
    assert [phase for phase, _ in measured.phases] == ["resolve", "connect", "queue", "first_token", "decode", "total"]


def test_a_probe_of_llama_server_has_the_servers_own_speed() -> None:
    """llama.cpp's timings stand beside our own figures."""
    with SimulatedLlamaServer() as server:
        result = probe(warm(server.url))
    assert (result.result, result.measurements.server_tokens_per_second) == ("ok", 1000.0)
    assert (result.measurements.output_tokens, result.measurements.token_count_exact) == (16, True)


def test_a_probe_of_ollama_tells_thinking_from_the_answer() -> None:
    """Thinking counts as text, and the answer comes later."""
    with SimulatedOllama() as server:
        server.thinks = 8
        server.use("small:latest")
        result = probe(prober(server.url))
    measured = result.measurements
    assert (result.result, result.model, measured.output_tokens) == ("ok", "small:latest", 16)
    assert measured.ttft_seconds is not None
    assert measured.time_to_first_answer_seconds is not None
    assert measured.time_to_first_answer_seconds > measured.ttft_seconds


def test_concurrent_streams_run_at_once() -> None:
    """Four streams are open together, each with a prompt of its own; the aggregate is more than one stream's speed."""
    with SimulatedVllm(tokens_per_second=200) as server:
        result = probe(warm(server.url), Module(max_tokens=64, concurrency=4))
        prompts = {json.dumps(each["messages"]) for each in server.posts()}
    assert (result.result, result.concurrency, server.most_at_once) == ("ok", 4, 4)
    assert len(prompts) == 5
    assert result.output_tokens_spent == 256
    assert result.measurements.aggregate_tokens_per_second is not None
    assert result.measurements.tokens_per_second is not None
    assert result.measurements.aggregate_tokens_per_second > 2 * result.measurements.tokens_per_second


def test_a_probe_can_be_followed_by_its_log() -> None:
    """The log says who was asked, what, and how it went, with times; never the prompt."""
    with SimulatedVllm() as server:
        result = probe(warm(server.url))
        prompt = server.posts()[-1]["messages"][0]["content"]
    text = "\n".join(result.log)
    for said in ("vllm 0.32.0 tiny", "POST /v1/chat/completions", "first text", "finish_reason length", "ok"):
        assert said in text
    assert all(line.startswith("+") and " s " in line for line in result.log)
    assert prompt[:20] not in text


def test_the_prompt_gets_its_length_by_the_servers_count() -> None:
    """A tokenizer that takes twice as many tokens as estimated gets half the text the next time."""

    class Fine(SimulatedVllm):
        def _tokens(self, request: ReceivedRequest) -> Iterator[bytes]:
            words = len(request.body["messages"][0]["content"].split())
            body = {**request.body, "messages": [{"content": " ".join(["w"] * 3 * words)}]}
            return super()._tokens(replace(request, body=body))

    with Fine() as server:
        one = prober(server.url)
        module = Module(max_tokens=16, prompt_tokens=300)
        found = [probe(one, module).measurements.prompt_tokens for _ in range(3)]
    assert found[0] is not None
    assert found[0] > 600
    assert found[-1] == pytest.approx(300, rel=0.1)


def test_a_prompt_is_cut_to_the_models_context() -> None:
    """Prompt and answer fit into what the server says that it holds."""
    with SimulatedVllm() as server:
        result = probe(warm(server.url), Module(max_tokens=16, prompt_tokens=50_000))
    assert result.result == "ok"
    assert result.measurements.prompt_tokens is not None
    assert 1000 < result.measurements.prompt_tokens < 2048
    assert any("the context holds 2048" in line for line in result.log)


# Rejected fields -----------------------------------------------------------------------------------------------------


class RejectingServer(Captured):
    """transformers serve, but with a version, so that it is taken for a plain server; it rejects ``seed``."""

    def __init__(self, rejects: str = "seed", status: int = 422) -> None:
        super().__init__(
            {**TRANSFORMERS, "/v1/models": "vllm/get-v1-models"}, "transformers-serve/error-404", self._post
        )
        self.rejects = rejects
        self.status = status

    def _post(self, request: ReceivedRequest) -> ServerAnswer:
        if self.rejects in request.body:
            fields = f"{{'{self.rejects}'}}" if self.rejects else ""
            return as_json({"detail": f"Unexpected fields in the request: {fields}"}, self.status)
        return load("transformers-serve/chat-stream-usage")


def test_a_rejected_field_is_left_out_once_more_and_from_then_on() -> None:
    """The request goes once more without the field that was named; the next probe goes without it at once."""
    with RejectingServer() as server:
        one = prober(server.url, backend="openai")
        assert probe(one).result == "ok"
        assert [("seed" in each, "temperature" in each) for each in server.posts()] == [(True, True), (False, True)]
        assert probe(one).result == "ok"
        assert len(server.posts()) == 3


def test_what_was_rejected_is_forgotten_with_the_servers_version() -> None:
    """A new version gets the whole request again."""

    class PickyVllm(SimulatedVllm):
        def answer(self, request: ReceivedRequest) -> ServerAnswer:
            if request.method == "POST" and "cache_salt" in request.body and self.version == "0.32.0":
                return as_json({"error": {"message": "Parameter 'cache_salt' is not supported"}}, 400)
            return super().answer(request)

    with PickyVllm() as server:
        one = prober(server.url)
        assert [probe(one).result for _ in range(2)] == ["ok", "ok"]
        assert ["cache_salt" in each for each in server.posts()] == [True, False, False]
        server.version, server.started = "0.33.0", server.started + 100
        assert probe(one).result == "ok"
        assert "cache_salt" in server.posts()[-1]


def test_what_a_server_serves_is_asked_anew_after_a_refusal() -> None:
    """A model that left while the server ran on is not asked for again and again."""
    with SimulatedVllm() as server:
        one = warm(server.url)
        server.model = "other"
        assert [probe(one).result for _ in range(2)] == ["no_model", "ok"]


def test_a_refusal_for_another_reason_is_tried_once_more_and_no_further() -> None:
    """A server that refuses whatever is sent gets two requests, each time, and nothing is remembered of it."""
    with RejectingServer("messages", 400) as server:
        one = prober(server.url, backend="openai")
        assert [probe(one).result for _ in range(2)] == ["http_4xx", "http_4xx"]
        assert len(server.posts()) == 4


def test_transformers_gets_no_model_that_nobody_named() -> None:
    """Its list is empty: the request goes without a model, and the answer tells which one it was."""
    post = lambda _: load("transformers-serve/chat-stream-usage")  # noqa: E731 - shorter than a function
    with Captured(TRANSFORMERS, "transformers-serve/error-404", post) as server:
        result = probe(prober(server.url))
    assert (result.result, result.model) == ("ok", "tiny-hf")
    assert "model" not in server.posts()[0]
    assert result.state is not None
    assert result.state.identity is not None
    assert result.state.identity.backend == "transformers"


# Failures ------------------------------------------------------------------------------------------------------------


def test_a_failed_probe_has_no_speed_and_says_what_it_cost() -> None:
    """A stream that stops: the tokens are counted as spent, phases are there, no speed, no TTFT."""

    class Breaks(SimulatedVllm):
        def _tokens(self, request: ReceivedRequest) -> Iterator[bytes]:
            for number, piece in enumerate(super()._tokens(request)):
                if number == 11:
                    return
                yield piece

    with Breaks() as server:
        result = probe(prober(server.url))
    measured = result.measurements
    assert result.result == "truncated"
    assert (measured.tokens_per_second, measured.ttft_seconds, measured.gaps) == (None, None, ())
    assert result.output_tokens_spent == 11
    assert 20 < result.prompt_tokens_spent < 100
    assert "first_token" in dict(measured.phases)
    assert result.busy_seconds > 0


def test_a_refused_probe_cost_the_server_nothing() -> None:
    """A 4xx before any work counts no tokens."""
    with Captured(TRANSFORMERS, "transformers-serve/error-404", lambda _: load("vllm/error-401-no-key")) as server:
        result = probe(prober(server.url))
    assert (result.result, result.prompt_tokens_spent, result.output_tokens_spent) == ("auth", 0, 0)


def test_a_silent_server_costs_the_prompt() -> None:
    """A prompt goes on in the server after its client has left, so a timeout counts it, by estimate."""
    with SimulatedVllm(prefill_seconds=3.0) as server:
        result = probe(prober(server.url), Module(max_tokens=16, prompt_tokens=64, timeouts=SHORT_TIMEOUTS))
    assert result.result == "timeout_first_token"
    assert 40 < result.prompt_tokens_spent < 100
    assert result.output_tokens_spent == 0


def test_a_server_that_is_gone_is_refused_within_its_time() -> None:
    """Nothing listens: connect, not up, its identity still known from before."""
    with SimulatedVllm() as server:
        one = warm(server.url)
    result = probe(one)
    assert (result.result, result.measurements.tokens_per_second, result.busy_seconds) == ("connect", None, 0.0)
    assert result.state is not None
    assert result.state.up is False
    assert result.state.identity is not None
    assert result.state.identity.model == "tiny"


def test_an_unknown_server_is_named_so() -> None:
    """Something answers, but no inference server: protocol, with what to do; nothing was sent to it."""

    class Page(Simulated):
        def answer(self, _: ReceivedRequest) -> ServerAnswer:
            return ServerAnswer(body=b"<html>router login</html>", kind="text/html")

    with Page() as server:
        result = probe(prober(server.url))
        assert server.paths("POST") == []
    assert result.result == "protocol"
    assert "backend" in result.error


def test_a_fault_of_the_exporter_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a bug ends as a failed probe."""
    with SimulatedVllm() as server:
        one = prober(server.url)
        monkeypatch.setattr("exporter.probe.run.compose", lambda *_: 1 / 0)
        result = probe(one)
    assert (result.result, "ZeroDivisionError" in result.error) == ("protocol", True)


# Keys ----------------------------------------------------------------------------------------------------------------


class KeyedServer(SimulatedVllm):
    """Wants the key of the day."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def answer(self, request: ReceivedRequest) -> ServerAnswer:
        """As vLLM with --api-key."""
        if request.path.startswith("/v1") and request.headers.get("authorization") != f"Bearer {self.key}":
            return as_json({"error": "Unauthorized"}, 401)
        return super().answer(request)


def test_the_key_is_read_at_use_and_told_to_nobody(tmp_path: Path) -> None:
    """A wrong key is ``auth``; the file may change without a reload; no key in any message, log or state."""
    key_file = tmp_path / "key"
    key_file.write_text("wr0ng\n")
    with KeyedServer("r1ght") as server:
        one = prober(server.url, api_key_file=key_file)
        refused = probe(one)
        key_file.write_text("r1ght\n")
        accepted = probe(one)
    assert (refused.result, accepted.result) == ("auth", "ok")
    assert accepted.state is not None
    assert accepted.state.identity is not None
    assert (accepted.model, accepted.state.identity.context_length) == ("tiny", 2048)
    assert "wr0ng" not in repr(refused)
    assert "r1ght" not in repr(accepted)


def test_a_key_that_cant_be_read_is_named(tmp_path: Path) -> None:
    """The message names the file and the reason, not what is in it."""
    key_file = tmp_path / "key"
    key_file.write_text("one\ntwo")
    with KeyedServer("one") as server:
        one = prober(server.url, api_key_file=key_file)
        several = probe(one)
        key_file.unlink()
        missing = probe(one)
    assert (several.result, missing.result) == ("auth", "auth")
    assert "more than one line" in several.error
    assert "No such file" in missing.error


# In turn -------------------------------------------------------------------------------------------------------------


def test_probes_of_one_server_wait_for_each_other() -> None:
    """Two targets of one host and port never probe at once; the second one's wait is its ``queue`` phase."""
    with SimulatedVllm(tokens_per_second=100) as server:
        servers = Servers()
        urls = [server.url, server.url.replace("127.0.0.1", "localhost")]
        probers = [Prober(Target(url=url, name=url), server=servers.at(url)) for url in urls]
        for one in probers:
            probe(one)
        server.most_at_once = 0
        results = list[ProbeResult]()
        threads = [threading.Thread(target=lambda one=one: results.append(probe(one))) for one in probers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [each.result for each in results] == ["ok", "ok"]
    assert server.most_at_once == 1
    waits = sorted(dict(each.measurements.phases)["queue"] for each in results)
    assert waits[1] > 0.1 > waits[0]


def test_a_server_that_nobody_probes_any_more_is_forgotten() -> None:
    """The registry of servers doesn't grow with targets that come and go."""
    servers = Servers()
    one = servers.at("http://localhost:8000/a")
    assert servers.at("http://127.0.0.1:8000/b") is one
    assert servers.at("http://127.0.0.1:8001") is not one
    assert servers.at("https://h").__class__ is Server
    del one
    assert len(servers._known) == 0


def test_a_cancelled_probe_has_no_result() -> None:
    """Cancelling ends a running probe and a waiting one at once, and both give None."""
    with SimulatedVllm(prefill_seconds=5.0) as server:
        cancellation = Cancellation()
        shared = Server()
        probers = [
            Prober(Target(url=server.url, name=name), server=shared, cancellation=cancellation) for name in ("a", "b")
        ]
        results = list[ProbeResult | None]()
        threads = [
            threading.Thread(target=lambda one=one: results.append(one.probe("default", SHORT))) for one in probers
        ]
        for thread in threads:
            thread.start()
        eventually(server.posts, "a request", every=0.01)
        started = time.monotonic()
        cancellation.cancel()
        for thread in threads:
            thread.join()
    assert results == [None, None]
    assert time.monotonic() - started < 2
    assert probers[0].status() is None


# Status checks and discovery -------------------------------------------------------------------------------------------------


def test_a_status_check_costs_two_reads() -> None:
    """Once it is known who the server is, a status check reads its health and its metrics, and sends nothing."""
    with SimulatedVllm() as server:
        one = prober(server.url)
        one.status()
        server.requests.clear()
        state = one.status()
        assert server.paths() == ["/health", "/metrics"]
    assert state is not None
    assert (state.target, state.up, state.requests_running, state.requests_waiting) == ("t", True, 0.0, 0.0)


def test_another_server_at_the_same_address_is_recognised() -> None:
    """A port that another kind of server took over while it was down is not asked as the old one."""
    first = SimulatedVllm()
    with first:
        one = prober(first.url)
        one.status()
    port = int(first.url.rpartition(":")[2]) if first._http else 0
    assert one.status() is not None
    second = SimulatedLlamaServer()
    second.start(port)
    try:
        state = one.status()
    finally:
        second.stop()
    assert state is not None
    assert state.identity is not None
    assert state.identity.backend == "llama_cpp"


def test_identify_tells_servers_from_other_things() -> None:
    """Who answers, that something answers which is no inference server, or that nothing is there."""
    with SimulatedOllama() as server:
        found = identify(server.url)
        assert found.identity is not None
        assert (found.identity.backend, found.listening, found.why_not) == ("ollama", True, "")
        assert server.paths("POST") == []
        url = server.url
    gone = identify(url)
    assert (gone.identity, gone.listening) == (None, False)
    with Captured({}, "transformers-serve/error-404") as other:
        strange = identify(other.url)
    assert (strange.identity, strange.listening) == (None, True)
    assert "not a server type that I know" in strange.why_not
