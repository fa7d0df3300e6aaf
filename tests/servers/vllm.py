"""A simulated vLLM: its queue, its batch, the counters and histograms of its /metrics, continuous usage, sleep, what it refuses.

Read at a running vLLM 0.32.0 (its answers are among the recorded ones) and, for ``metrics`` of a request, in its pull request
46768. A read of ``/metrics`` holds the event loop that streams to users; ``look_seconds`` says how long (7 ms at the real one).

Costs: ``wake`` (a request came to a sleeping server; what the real one does with it wasn't seen).
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.servers.captured import load
from tests.servers.histogram import ServerHistogram
from tests.servers.queue import Queue, ticks
from tests.servers.simulated import DONE, ReceivedRequest, ServerAnswer, Simulated, as_json, sse, words_of

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{labels}}} {running}
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{{labels}}} {waiting}
# TYPE vllm:engine_sleep_state gauge
vllm:engine_sleep_state{{{labels},sleep_state="awake"}} {awake}
vllm:engine_sleep_state{{{labels},sleep_state="weights_offloaded"}} {asleep}
vllm:engine_sleep_state{{{labels},sleep_state="discard_all"}} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{{labels}}} {kv}
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{{{labels}}} {prompt}
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{{labels}}} {generated}
# TYPE vllm:request_success_total counter
vllm:request_success_total{{{labels},finished_reason="stop"}} {stop}
vllm:request_success_total{{{labels},finished_reason="length"}} {length}
"""
PROCESS = """\
# TYPE process_start_time_seconds gauge
process_start_time_seconds {started}
"""
# The buckets of the recorded /metrics.
SHORT = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0)
BUCKETS: Mapping[str, Sequence[float]] = {
    "vllm:time_to_first_token_seconds": (
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
        *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
    ),
    "vllm:inter_token_latency_seconds": (
        *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
        *(10.0, 20.0, 40.0, 80.0),
    ),
    "vllm:e2e_request_latency_seconds": (*SHORT, 1920.0, 7680.0),
    "vllm:request_queue_time_seconds": (*SHORT, 1920.0, 7680.0),
    "vllm:request_prefill_time_seconds": (*SHORT, 1920.0, 7680.0),
    "vllm:request_decode_time_seconds": (*SHORT, 1920.0, 7680.0),
}
DRAFTED = "vllm:spec_decode_num_draft_tokens_total"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CONTEXT = 2048


class SimulatedVllm(Simulated):
    """One model, whose first ``thinks`` tokens are reasoning. ``slots`` is --max-num-seqs, ``drafts`` says that it has --speculative-config.

    ``users`` is how many requests of others are there without a connection, ``waiting`` how many of these wait. ``ours`` counts the
    requests of clients, also those whose client left while their prompt goes on.
    """

    name = "uvicorn"

    def __init__(
        self,
        *,
        tokens_per_second: float = 500.0,
        prompt_tokens_per_second: float = 1e6,
        prefill_seconds: float = 0.0,
        slots: int = 256,
        slowdown: float = 0.0,
        generated: int = 100,
        model: str = "tiny",
        version: str = "0.32.0",
        per_request_metrics: bool = False,
        log_stats: bool = True,
        pooling: bool = False,
        chat_template: bool = True,
        look_seconds: float = 0.0,
        buckets: Mapping[str, Sequence[float]] = BUCKETS,
        drafts: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.pace = 1 / tokens_per_second
        self.prompt_pace = 1 / prompt_tokens_per_second
        self.prefill_seconds = prefill_seconds
        self.slowdown = slowdown
        self.queue = Queue(slots)
        self._users = self._waiting = 0
        self.thinks = 0
        self.answer_tokens: int | None = None
        self.ours = 0
        self.most_at_once = 0
        self.prompt = 0
        self.generated = generated
        self.finished = {"stop": 0, "length": 0}
        self.started = 1.79555261282e09
        self.asleep = False
        self.version = version
        self.per_request_metrics = per_request_metrics
        self.log_stats = log_stats
        self.pooling = pooling
        self.chat_template = chat_template
        self.look_seconds = look_seconds
        self.drafts = drafts
        self.histograms = {name: ServerHistogram(name, {**BUCKETS, **buckets}[name]) for name in BUCKETS}
        self._abandoned = 0
        self._loop = threading.Lock()

    @property
    def users(self) -> int:
        """Requests of others, without a connection."""
        return self._users

    @users.setter
    def users(self, count: int) -> None:
        self._users = count
        self.queue.held = max(self._users - self._waiting, 0)

    @property
    def waiting(self) -> int:
        """How many of these wait whatever is free."""
        return self._waiting

    @waiting.setter
    def waiting(self, count: int) -> None:
        self._waiting = count
        self.queue.held = max(self._users - self._waiting, 0)

    @property
    def woken(self) -> int:
        """How often a request came while it slept."""
        return self.costs["wake"]

    def answer(self, request: ReceivedRequest) -> ServerAnswer:  # noqa: PLR0911 - one case for each path
        """As vLLM 0.32.0."""
        match request.method, request.path:
            case "GET", "/health" | "/ping":
                return ServerAnswer(kind="")
            case "GET", "/version":
                return as_json({"version": self.version})
            case "GET", "/metrics":
                with self._loop:
                    time.sleep(self.look_seconds)
                    return ServerAnswer(body=self._metrics().encode(), kind="text/plain; version=1.0.0; charset=utf-8")
            case "GET", "/v1/models":
                return as_json({"object": "list", "data": [self._entry()]})
            case "POST", "/v1/chat/completions" | "/v1/completions" if not self.pooling:
                return self._refusal(request) or ServerAnswer(
                    kind="text/event-stream; charset=utf-8", pieces=self._chat(request)
                )
            case "GET", "/v1/chat/completions" | "/v1/completions" if not self.pooling:
                return load("vllm/error-405-get-chat")
            case _:
                return load("vllm/error-404")

    def _entry(self) -> dict[str, Any]:
        root = f"/models/{self.model}"
        return {"id": self.model, "object": "model", "owned_by": "vllm", "root": root, "max_model_len": CONTEXT}

    def _refusal(self, request: ReceivedRequest) -> ServerAnswer | None:
        body = request.body
        if not isinstance(body, dict):
            return load("vllm/error-malformed-json")
        if request.path == CHAT and "messages" not in body:
            return load("vllm/error-no-messages")
        if body.get("model", self.model) != self.model:
            text = f"The model `{body['model']}` does not exist. Valid aliases: {self.model}."
            return as_json({"error": {"message": text, "type": "NotFoundError", "param": "model", "code": 404}}, 404)
        if request.path == CHAT and not self.chat_template:
            text = (
                "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template"
                " if the tokenizer does not define one."
            )
            return as_json({"error": {"message": text, "type": "BadRequestError", "param": None, "code": 400}}, 400)
        return None

    def _metrics(self) -> str:
        """With --disable-log-stats nothing of vLLM is in it."""
        if not self.log_stats:
            return PROCESS.format(started=repr(self.started))
        labels = f'engine="0",model_name="{self.model}"'
        text = METRICS.format(
            labels=labels,
            # An abandoned prompt is worked through to its end, but isn't counted.
            running=float(self.queue.running - self._abandoned),
            waiting=float(self.queue.waiting + self._waiting),
            awake=float(not self.asleep),
            asleep=float(self.asleep),
            kv=0.25 if self.queue.running else 0.0,
            prompt=float(self.prompt),
            generated=float(self.generated),
            **{reason: float(count) for reason, count in self.finished.items()},
        )
        if self.drafts:
            # Only with a speculative config; two of three drafted tokens are accepted here.
            text += f"# TYPE {DRAFTED} counter\n{DRAFTED}{{{labels}}} {float(self.generated * 3 // 2)}\n"
        histograms = "".join(each.render(labels) for each in self.histograms.values())
        return text + histograms + PROCESS.format(started=repr(self.started))

    # A request ------------------------------------------------------------------------------------------------------

    def _chat(self, request: ReceivedRequest) -> Iterator[bytes]:
        """Headers come at once, the role with the first token."""
        with self.lock:
            self.cost("wake", int(self.asleep))
            self.asleep = False
            self.ours += 1
            self.most_at_once = max(self.most_at_once, self.ours)
        try:
            yield from self._tokens(request)
        finally:
            with self.lock:
                self.ours -= 1

    def _tokens(self, request: ReceivedRequest) -> Iterator[bytes]:
        arrived, body = time.monotonic(), request.body
        prompt = len(words_of(body))
        with self.queue.slot(request.left) as waited:
            if waited is None:
                return
            began = time.monotonic()
            if not self._work_through(prompt, request):
                return
            first = time.monotonic()
            with self.lock:
                self.prompt += prompt
                self.histograms["vllm:time_to_first_token_seconds"].observe(first - arrived)
            most, reason = self._length(body, prompt)
            chunk = {"object": "chat.completion.chunk", "model": body.get("model", self.model)}
            sent, before = 0, first
            for number in ticks(most, self._pace, request.left):
                with self.lock, self._loop:
                    self.generated += 1
                    now = time.monotonic()
                    if number > 1:
                        self.histograms["vllm:inter_token_latency_seconds"].observe(now - before)
                    sent, before = number, now
                yield self._token(request, chunk, number, prompt, reason if number == most else None)
            if sent < most:
                return
            last = {**chunk, "choices": []}
            if (body.get("stream_options") or {}).get("include_usage"):
                last["usage"] = self._usage(prompt, most)
                last["system_fingerprint"] = f"vllm-{self.version}-440da23f"
            if self.per_request_metrics:
                last["metrics"] = self._times(arrived, began, first, most)
            self._finish(reason, arrived, began, first)
            if len(last) > len(chunk) + 1:
                yield sse(last)
            yield DONE

    def _work_through(self, prompt: int, request: ReceivedRequest) -> bool:
        """A prompt is worked through to its end even if its client leaves; False where it did."""
        until = time.monotonic() + self.prefill_seconds + prompt * self.prompt_pace
        gone = False
        try:
            while (remaining := until - time.monotonic()) > 0:
                time.sleep(min(remaining, 0.02))
                if not gone and request.left():
                    gone = True
                    with self.lock:
                        self._abandoned += 1
        finally:
            with self.lock:
                self._abandoned -= gone
        return not gone

    def _length(self, body: Any, prompt: int) -> tuple[int, str]:
        most = body.get("max_tokens") or body.get("max_completion_tokens") or CONTEXT
        most = max(min(most, CONTEXT - prompt), 1)
        ends = self.answer_tokens
        if ends is not None and not body.get("ignore_eos") and max(ends, body.get("min_tokens") or 0) < most:
            return max(ends, body.get("min_tokens") or 0), "stop"
        return most, "length"

    def _pace(self) -> float:
        """Requests that run at once take some of each other's time."""
        return self.pace * (1 + self.slowdown * (self.queue.running - 1))

    def _token(
        self, request: ReceivedRequest, chunk: dict[str, Any], number: int, prompt: int, finish: str | None
    ) -> bytes:
        """A token's chunk; before the first one the role."""
        body = request.body
        kind = "reasoning" if number <= self.thinks else "content"
        said = {"text": f" word{number}"} if request.path == COMPLETIONS else {"delta": {kind: f" word{number}"}}
        event = {**chunk, "choices": [{"index": 0, **said, "finish_reason": finish}]}
        role = {"role": "assistant", "content": ""}
        begin = {**chunk, "choices": [{"index": 0, "delta": role, "finish_reason": None}]}
        if (body.get("stream_options") or {}).get("continuous_usage_stats"):
            event["usage"], begin["usage"] = self._usage(prompt, number), self._usage(prompt, 0)
        return (sse(begin) if number == 1 and request.path == CHAT else b"") + sse(event)

    def _usage(self, prompt: int, output: int) -> dict[str, Any]:
        details = {"reasoning_tokens": min(output, self.thinks)} if self.thinks else None
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}
        return {**usage, "completion_tokens_details": details}

    def _times(self, arrived: float, began: float, first: float, count: int) -> dict[str, float | None] | None:
        """``metrics`` of --enable-per-request-metrics; null where statistics are switched off."""
        if not self.log_stats:
            return None
        now = time.monotonic()
        return {
            "time_to_first_token_ms": (first - arrived) * 1000,
            "generation_time_ms": (now - first) * 1000,
            "queue_time_ms": (began - arrived) * 1000,
            "mean_itl_ms": (now - first) / (count - 1) * 1000 if count > 1 else None,
            "tokens_per_second": count / (now - began) if now > began else None,
        }

    def _finish(self, reason: str, arrived: float, began: float, first: float) -> None:
        """The histograms of whole requests get those that ended, never one whose client left."""
        now = time.monotonic()
        with self.lock:
            self.finished[reason] += 1
            self.histograms["vllm:request_queue_time_seconds"].observe(began - arrived)
            self.histograms["vllm:request_prefill_time_seconds"].observe(first - began)
            self.histograms["vllm:request_decode_time_seconds"].observe(now - first)
            self.histograms["vllm:e2e_request_latency_seconds"].observe(now - arrived)
