"""A simulated llama-server: slots with their prompt caches, counters, sleep, end, and a router of several models, by build.

Read in llama.cpp b11434 (tools/server), in its pull requests 18228 (sleep) and 27376 (sleep and ``/metrics``), and at running
servers b11434; answers that never change are recorded ones.

Costs: ``wake`` (a sleeping model is loaded again), ``timer restart`` (the time until it sleeps begins anew), ``counter reset``
(a read of ``/metrics`` emptied the gauges of speed). Of a router also ``load``, ``eviction`` and ``use`` (a model counts as
used just now). Conversations that were overwritten are in ``slots.lost``.
"""

import json
import math
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

from tests.servers.captured import load
from tests.servers.clock import Clock
from tests.servers.llama_slots import POLL_SECONDS, Slot, Slots
from tests.servers.queue import ticks
from tests.servers.simulated import DONE, ReceivedRequest, RejectedError, ServerAnswer, Simulated, as_json, sse

# Before it /metrics is a use of the server: it wakes a sleeping one and restarts its timer (pull request 27376).
FREE_METRICS_BUILD = 10_531
# About the builds of December 2025 (sleep) and October 2025 (prompts in the host's memory).
SLEEP_BUILD = 7_500
HOST_CACHE_BUILD = 6_730
# About the build of September 2025 (pull request 15827).
PROGRESS_BUILD = 6_400
# At a build between this and b11434 the check for embeddings went: chat with a model of text is answered, with others it is a 500.
NO_501_BUILD = 11_434
CONTEXT = 2048
# tools/server/server-context.cpp: how often a request that has nothing to send looks whether its client is gone.
HTTP_POLLING_SECONDS = 1.0

METRICS = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total {prompt}
# HELP llamacpp:prompt_tokens_cached_total Number of prompt tokens reused from the cache
# TYPE llamacpp:prompt_tokens_cached_total counter
llamacpp:prompt_tokens_cached_total {cached}
# HELP llamacpp:prompt_seconds_total Total time spent processing prompts
# TYPE llamacpp:prompt_seconds_total counter
llamacpp:prompt_seconds_total {prompt_seconds:.6g}
# HELP llamacpp:tokens_predicted_total Number of generation tokens processed
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total {generated}
# HELP llamacpp:tokens_predicted_seconds_total Total time spent generating tokens
# TYPE llamacpp:tokens_predicted_seconds_total counter
llamacpp:tokens_predicted_seconds_total {generated_seconds:.6g}
# HELP llamacpp:n_decode_total Total number of llama_decode() calls
# TYPE llamacpp:n_decode_total counter
llamacpp:n_decode_total {decodes}
# HELP llamacpp:prompt_tokens_seconds Average prompt throughput in tokens/s
# TYPE llamacpp:prompt_tokens_seconds gauge
llamacpp:prompt_tokens_seconds {prompt_speed:.6g}
# HELP llamacpp:predicted_tokens_seconds Average generation throughput in tokens/s
# TYPE llamacpp:predicted_tokens_seconds gauge
llamacpp:predicted_tokens_seconds {speed:.6g}
# HELP llamacpp:requests_processing Number of requests processing
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing {running}
# HELP llamacpp:requests_deferred Number of requests deferred
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred {waiting}
"""


class Bucket:
    """Tokens and seconds since the last read of ``/metrics``."""

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0

    @property
    def speed(self) -> float:
        """Tokens a second; 0 where nothing was counted."""
        return self.tokens / self.seconds if self.seconds else 0.0


class RouterModel:
    """One model in memory, or asleep: its slots and counters. A router has one for each of its models."""

    def __init__(self, server: "SimulatedLlamaServer", name: str) -> None:
        self.server = server
        self.name = name
        self.slots = Slots(server.parallel, host_cache=server.host_cache)
        self.forced_asleep = False
        self.prompt = self.cached = self.decodes = 0
        self.generated = 50
        self.prompt_seconds = self.generated_seconds = 0.0
        self.prompt_bucket, self.bucket = Bucket(), Bucket()
        self._last_decode = 0.0
        self._last_task = server.clock()
        self._tasks = 0

    # Sleep ----------------------------------------------------------------------------------------------------------

    @property
    def asleep(self) -> bool:
        """Whether it has unloaded itself because nobody used it."""
        idle = self.server.sleep_idle_seconds
        if idle is not None and not self.slots.running and self.server.clock() - self._last_task >= idle:
            self.forced_asleep = True
        return self.forced_asleep

    def touch(self) -> None:
        """A task was posted: a sleeping model is loaded again, without its prompts, and the time until it sleeps begins anew."""
        if self.asleep:
            self.server.cost("wake")
            self.slots.all = [Slot(each.number) for each in self.slots.all]
            if self.slots.host is not None:
                self.slots.host.clear()
            self.forced_asleep = False
            time.sleep(self.server.load_seconds)
        if self.server.sleep_idle_seconds is not None:
            self.server.cost("timer restart")
        self._last_task = self.server.clock()

    # Reads ----------------------------------------------------------------------------------------------------------

    def metrics(self) -> ServerAnswer:
        """Each read empties the gauges of speed, in all builds; before b10531 it is a task like a request."""
        if not self.server.metrics:
            return load("llama-server/error-metrics-not-enabled")
        if self.server.build < FREE_METRICS_BUILD:
            self.touch()
        self.server.cost("counter reset", int(bool(self.bucket.tokens or self.prompt_bucket.tokens)))
        text = METRICS.format(
            prompt=self.prompt,
            cached=self.cached,
            prompt_seconds=self.prompt_seconds,
            generated=self.generated,
            generated_seconds=self.generated_seconds,
            decodes=self.decodes,
            prompt_speed=self.prompt_bucket.speed,
            speed=self.bucket.speed,
            running=self.slots.running,
            waiting=self.slots.waiting,
        )
        self.prompt_bucket, self.bucket = Bucket(), Bucket()
        headers = {"Process-Start-Time-Unix": str(self.server.started)}
        return ServerAnswer(body=text.encode(), kind="text/plain; version=0.0.4", headers=headers)

    def list_slots(self) -> ServerAnswer:
        """A read of ``/slots`` is a task in all builds: it wakes, and restarts the timer."""
        if not self.server.slots_endpoint:
            text = "This server does not support slots endpoint. Start it with `--slots`"
            return self.server.error(text, "not_supported_error", 501)
        self.touch()
        return as_json([self._slot(each) for each in self.slots.all])

    def props(self) -> dict[str, Any]:
        """``/props`` wakes nothing."""
        props = {
            "default_generation_settings": {"n_ctx": CONTEXT, "speculative": self.server.props_drafts},
            "total_slots": len(self.slots.all),
            "model_alias": self.name,
            "model_ftype": "Q8_0",
            "model_path": self.name,
            "endpoint_slots": self.server.slots_endpoint,
            "endpoint_props": False,
            "endpoint_metrics": self.server.metrics,
            "build_info": f"b{self.server.build}-unknown",
        }
        return props | ({"is_sleeping": self.asleep} if self.server.build >= SLEEP_BUILD else {})

    def _slot(self, slot: Slot) -> dict[str, Any]:
        busy = self.slots.is_busy(slot)
        shown: dict[str, Any] = {"id": slot.number, "n_ctx": CONTEXT, "speculative": False, "is_processing": busy}
        if slot.task is None and not busy:
            return shown
        token = {
            "has_next_token": busy,
            "has_new_line": False,
            "n_remain": slot.most - slot.decoded if slot.busy else -1,
            "n_decoded": slot.decoded,
        }
        return shown | {
            "id_task": slot.task or 0,
            "n_prompt_tokens": len(slot.tokens),
            "n_prompt_tokens_processed": slot.processed,
            "n_prompt_tokens_cache": slot.cached,
            "next_token": [token],
        }

    # A request ------------------------------------------------------------------------------------------------------

    def chat(self, request: ReceivedRequest, chunk: dict[str, Any]) -> Iterator[bytes]:
        """The stream of one request. Its headers come when it has its slot, its role with the first token."""
        self.touch()
        body, server = request.body, self.server
        tokens = tokens_of(body)
        slot = self.slots.take(tokens, body.get("id_slot") if body.get("id_slot", -1) >= 0 else None, request.left)
        if slot is None:
            return
        try:
            slot.task = self._next_task()
            yield b""
            cached = self.slots.fill(slot, tokens, use_cache=body.get("cache_prompt", True))
            prompt_seconds = yield from self._work_through(slot, len(tokens) - cached, cached, request, chunk)
            if prompt_seconds is None:
                return
            yield from self._decode(request, slot, chunk, cached, prompt_seconds)
        finally:
            self.generated += slot.decoded
            seconds = max(slot.decoded - 1, 0) * server.pace
            self.generated_seconds += seconds
            self.bucket.tokens += slot.decoded
            self.bucket.seconds += seconds
            self._last_task = server.clock()
            self.slots.release(slot)

    def _work_through(
        self, slot: Slot, fresh: int, cached: int, request: ReceivedRequest, chunk: dict[str, Any]
    ) -> Generator[bytes, None, float | None]:
        """A batch that has begun is worked through to its end even if its client has left. Gives the prompt's seconds, None if the
        client has left.

        That it has is noticed when something is sent, which ``return_progress`` does after each batch; else once a second.
        """
        slot.cached = cached
        began, seconds = time.monotonic(), self.server.prefill_seconds + fresh * self.server.prompt_pace
        progress = bool(request.body.get("return_progress")) and self.server.build >= PROGRESS_BUILD
        batches, polls = max(math.ceil(fresh / self.server.batch), 1), 0
        for number in range(1, batches + 1):
            if progress and number == 1:
                yield self._progress(chunk, len(slot.tokens), cached, 0, 0.0)
            yield from self._compute(began, began + seconds * number / batches, request)
            before, polls = polls, int((time.monotonic() - began) / HTTP_POLLING_SECONDS)
            slot.processed = fresh * number // batches
            if progress:
                yield self._progress(chunk, len(slot.tokens), cached, slot.processed, seconds * number / batches)
            if self.server.ending.is_set() or (request.left() and (progress or polls > before)):
                break
        share = slot.processed / fresh if fresh else 1.0
        self.prompt += slot.processed
        self.cached += cached
        self.prompt_seconds += seconds * share
        self.prompt_bucket.tokens += slot.processed
        self.prompt_bucket.seconds += seconds * share
        return None if request.left() else seconds

    def _compute(self, began: float, until: float, request: ReceivedRequest) -> Iterator[bytes]:
        """Take the time of a batch; a stream that is silent for long gets comments."""
        pings = (time.monotonic() - began) // self.server.ping_seconds
        while (now := time.monotonic()) < until and not self.server.ending.is_set():
            time.sleep(min(until - now, 0.02))
            if (due := (time.monotonic() - began) // self.server.ping_seconds) > pings:
                pings = due
                yield b"" if request.left() else b":\n\n"

    def _progress(self, chunk: dict[str, Any], prompt: int, cached: int, fresh: int, seconds: float) -> bytes:
        delta = {"role": "assistant", "content": None}
        progress = {"total": prompt, "cache": cached, "processed": cached + fresh, "time_ms": round(seconds * 1000)}
        choices = [{"index": 0, "finish_reason": None, "delta": delta}]
        return sse({**chunk, "choices": choices, "prompt_progress": progress})

    def _decode(
        self, request: ReceivedRequest, slot: Slot, chunk: dict[str, Any], cached: int, prompt_seconds: float
    ) -> Iterator[bytes]:
        server, body, prompt = self.server, request.body, len(slot.tokens)
        most = body.get("n_predict") or body.get("max_tokens") or body.get("max_completion_tokens") or CONTEXT
        slot.most = most = min(most, CONTEXT - prompt)
        finish = "length"
        if server.answer_tokens is not None and server.answer_tokens < most and not body.get("ignore_eos"):
            most, finish = server.answer_tokens, "stop"
        options = body.get("stream_options") or {}
        role = {"role": "assistant", "content": None}
        for number in ticks(most, self._pace, request.left):
            if server.ending.is_set():
                yield from self._hang(request)
                return
            self._count_decode()
            slot.decoded = number
            slot.tokens.append(f"word{number}")
            if number == 1:
                yield sse({**chunk, "choices": [{"index": 0, "finish_reason": None, "delta": role}]})
            kind = "reasoning_content" if number <= server.thinks else "content"
            event = {**chunk, "choices": [{"index": 0, "finish_reason": None, "delta": {kind: f" word{number}"}}]}
            if body.get("timings_per_token"):
                event["timings"] = timings(prompt - cached, cached, prompt_seconds, number, server.pace)
            yield sse(event)
        if slot.decoded < most:
            return
        last = {**chunk, "choices": [{"index": 0, "finish_reason": finish, "delta": {}}]}
        times = timings(prompt - cached, cached, prompt_seconds, most, server.pace)
        if server.drafts:
            times |= {"draft_n": most, "draft_n_accepted": most // 2}
        if not options.get("include_usage"):
            yield sse({**last, "timings": times})
        else:
            yield sse(last)
            usage = {"completion_tokens": most, "prompt_tokens": prompt, "total_tokens": prompt + most}
            details = {"prompt_tokens_details": {"cached_tokens": cached}}
            yield sse({**chunk, "choices": [], "usage": usage | details, "timings": times})
        yield DONE

    def _pace(self) -> float:
        """Requests that run at once take each other's time."""
        return self.server.pace * (1 + self.server.slowdown * (self.slots.running - 1))

    def _count_decode(self) -> None:
        """The tokens of all slots are decoded together: one call for all that come at about the same time."""
        now = time.monotonic()
        if now - self._last_decode >= 0.5 * self.server.pace or self.slots.running <= 1:
            self._last_decode = now
            self.decodes += 1

    def _hang(self, request: ReceivedRequest) -> Iterator[bytes]:
        """After SIGTERM nothing is decoded any more, but open streams are held until they leave or their time is over."""
        until = time.monotonic() + self.server.drain_seconds
        while time.monotonic() < until and not request.left(0.02):
            yield b""

    def _next_task(self) -> int:
        with self.server.lock:
            self._tasks += 1
            return self._tasks


class SimulatedLlamaServer(Simulated):
    """llama-server with one model, or a router: ``router`` names its models, with their status.

    ``users`` is how many requests of others are there without a connection. ``parallel`` is the number of slots, ``batch`` the
    tokens of a prompt that it works through at once (--batch-size), ``drafts``
    says that a smaller model proposes its tokens, ``props_drafts`` that ``/props`` says so. ``host_cache`` is
    --cache-ram (on from autumn 2025), ``models_max`` the most that a router loads at once.
    """

    name = "llama.cpp"

    def __init__(
        self,
        *,
        build: int = 11_434,
        metrics: bool = True,
        slots_endpoint: bool = True,
        parallel: int = 1,
        host_cache: bool | None = None,
        tokens_per_second: float = 1000.0,
        prompt_tokens_per_second: float = 20_000.0,
        prefill_seconds: float = 0.0,
        batch: int = 2048,
        slowdown: float = 0.0,
        router: dict[str, str] | None = None,
        models_max: int = 4,
        embeddings: bool = False,
        reranking: bool = False,
        sleep_idle_seconds: float | None = None,
        load_seconds: float = 0.0,
        drain_seconds: float = 30.0,
        ping_seconds: float = 30.0,
        clock: Clock | None = None,
        model: str = "tiny.gguf",
        drafts: bool = False,
        props_drafts: bool = False,
    ) -> None:
        super().__init__()
        self.props_drafts = props_drafts
        self.build = build
        self.drafts = drafts
        self.metrics = metrics
        self.slots_endpoint = slots_endpoint
        self.parallel = parallel
        self.host_cache = build >= HOST_CACHE_BUILD if host_cache is None else host_cache
        self.pace = 1 / tokens_per_second
        self.prompt_pace = 1 / prompt_tokens_per_second
        self.prefill_seconds = prefill_seconds
        self.batch = batch
        self.slowdown = slowdown
        self.models_max = models_max
        self.no_text = embeddings or reranking
        self.sleep_idle_seconds = sleep_idle_seconds
        self.load_seconds = load_seconds
        self.drain_seconds = drain_seconds
        self.ping_seconds = ping_seconds
        self.clock = clock or Clock()
        self.loading = False
        self.started = 1337476110
        self.thinks = 0
        self.answer_tokens: int | None = None
        self.ending = threading.Event()
        self.only = RouterModel(self, model)
        self.routed = {name: RouterModel(self, name) for name in router or {}}
        self.is_router = router is not None
        self._status = dict(router or {})
        self._last_used = dict.fromkeys(self._status, 0.0)
        self._requests = dict.fromkeys(self._status, 0)
        self._order = threading.Lock()

    # What tests ask and do ------------------------------------------------------------------------------------------

    @property
    def slots(self) -> Slots:
        """The slots of its only model."""
        return self.only.slots

    @property
    def users(self) -> int:
        """Requests of others, without a connection."""
        return self.only.slots.held

    @users.setter
    def users(self, count: int) -> None:
        self.only.slots.held = count

    @property
    def generated(self) -> int:
        """``tokens_predicted_total``."""
        return self.only.generated

    @generated.setter
    def generated(self, count: int) -> None:
        self.only.generated = count

    @property
    def asleep(self) -> bool:
        """Whether its only model sleeps."""
        return self.only.asleep

    @asleep.setter
    def asleep(self, asleep: bool) -> None:
        self.only.forced_asleep = asleep

    @property
    def woken(self) -> int:
        """How often a request woke or loaded a model."""
        return self.costs["wake"] + self.costs["load"]

    @property
    def router(self) -> dict[str, str]:
        """Its models with their status: unloaded, loading, loaded or sleeping."""
        return {
            name: "sleeping" if status == "loaded" and self.routed[name].asleep else status
            for name, status in self._status.items()
        }

    @router.setter
    def router(self, status: dict[str, str]) -> None:
        self._status = dict(status)
        for name in status:
            self.routed.setdefault(name, RouterModel(self, name))
            self._last_used.setdefault(name, 0.0)
            self._requests.setdefault(name, 0)

    def terminate(self) -> None:
        """SIGTERM, as at a running b11434: connecting is refused, nothing is decoded, and open streams hang in silence.

        ``idle`` waits until the last one has left: only then does the process end.
        """
        self.ending.set()
        self.stop()

    # Answers --------------------------------------------------------------------------------------------------------

    def answer(self, request: ReceivedRequest) -> ServerAnswer:
        """As llama-server, or as its router."""
        if self.loading:
            return load("llama-server/loading-health")
        if self.is_router:
            return self._route(request)
        return self._answer_with(self.only, request)

    def _answer_with(self, model: RouterModel, request: ReceivedRequest) -> ServerAnswer:  # noqa: PLR0911 - one case for each path
        match request.method, request.path:
            case "GET", "/health" | "/v1/health":
                return load("llama-server/get-health")
            case "GET", "/v1/models" | "/models":
                return self._models(model)
            case "GET", "/props":
                return as_json(model.props())
            case "GET", "/metrics":
                return model.metrics()
            case "GET", "/slots":
                return model.list_slots()
            case "POST", "/v1/chat/completions":
                return self._chat(request.body, model, request)
            case _:
                return load("llama-server/error-404")

    def _models(self, model: RouterModel) -> ServerAnswer:
        listing = json.loads(load("llama-server/get-v1-models").body)
        for each in (*listing["data"], *listing["models"]):
            each |= {key: model.name for key in ("id", "name", "model") if key in each}
        return as_json(listing)

    def _chat(self, body: Any, model: RouterModel, request: ReceivedRequest) -> ServerAnswer:  # noqa: PLR0911 - one for each refusal
        if not isinstance(body, dict):
            return load("llama-server/error-malformed-json")
        if "messages" not in body:
            return load("llama-server/error-no-messages")
        if self.no_text and self.build >= NO_501_BUILD:
            return self.error("the current context does not support logits computation. skipping", "server_error", 500)
        if self.no_text:
            text = "This server does not support completions. Start it without `--embeddings`"
            return self.error(text, "not_supported_error", 501)
        if len(tokens_of(body)) >= CONTEXT:
            return load("llama-server/error-prompt-too-long")
        chunk = {"model": model.name, "system_fingerprint": f"b{self.build}-unknown", "object": "chat.completion.chunk"}
        pieces = model.chat(request, chunk)
        if body.get("stream"):
            return ServerAnswer(kind="text/event-stream", pieces=pieces, late=True)
        return ServerAnswer(pieces=_whole(pieces), late=True)

    def error(self, text: str, kind: str, status: int) -> ServerAnswer:
        """An error in its shape."""
        return as_json({"error": {"code": status, "message": text, "type": kind}}, status)

    # The router (server-models.cpp) -----------------------------------------------------------------------------------

    def _route(self, request: ReceivedRequest) -> ServerAnswer:  # noqa: PLR0911 - one case for each path
        match request.method, request.path:
            case "GET", "/health":
                return load("llama-server-router/get-health")
            case "GET", "/props" if "model" not in request.query:
                props = json.loads(load("llama-server-router/get-props").body)
                return as_json(props | {"max_instances": self.models_max, "build_info": f"b{self.build}-unknown"})
            case "GET", "/v1/models" | "/models":
                return as_json({"data": [self._entry(name) for name in self._status], "object": "list"})
        name = request.query.get("model") if request.method == "GET" else (request.body or {}).get("model")
        if not name:
            return load("llama-server-router/error-metrics-no-model")
        if name not in self._status:
            return self.error(f"model '{name}' not found", "invalid_request_error", 400)
        autoload = request.query.get("autoload", "true") in {"true", "1"}
        # A sleeping model counts as running: autoload=false doesn't keep a read from waking it.
        if not autoload and self._status[name] not in {"loaded", "loading", "sleeping"}:
            return load("llama-server-router/error-chat-not-loaded")
        if request.method == "GET":
            self._ensure_loaded(name, request)
            return self._answer_with(self.routed[name], request)
        return self._proxied(name, request)

    def _entry(self, name: str) -> dict[str, Any]:
        status = self.router[name]
        idle = self.sleep_idle_seconds
        args = ["llama-server", "--alias", name, *([] if idle is None else ["--sleep-idle-seconds", f"{idle:g}"])]
        state = {"value": status, "args": args}
        entry = {"id": name, "aliases": [], "object": "model", "owned_by": "llamacpp", "status": state}
        if status in {"loaded", "sleeping"}:
            entry["meta"] = {"n_ctx": CONTEXT, "n_params": 2_756_864, "size": 2_941_952, "ftype": "Q8_0"}
        return entry

    def _proxied(self, name: str, request: ReceivedRequest) -> ServerAnswer:
        """A POST makes the model the most recently used one, and while it runs the model isn't evicted."""

        def pieces() -> Iterator[bytes]:
            self._ensure_loaded(name, request)
            answer = self._answer_with(self.routed[name], request)
            if answer.pieces is None:
                raise RejectedError(answer)
            with self.lock:
                self.cost("use")
                self._last_used[name] = self.clock()
                self._requests[name] += 1
            try:
                yield from answer.pieces
            finally:
                with self.lock:
                    self._requests[name] -= 1

        kind = "text/event-stream" if (request.body or {}).get("stream") else "application/json"
        return ServerAnswer(kind=kind, pieces=pieces(), late=True)

    def _ensure_loaded(self, name: str, request: ReceivedRequest) -> None:
        if self._status[name] in {"loaded", "sleeping"}:
            return
        with self._order:  # one after another
            if self._status[name] in {"loaded", "sleeping"}:
                return
            while sum(status != "unloaded" for status in self._status.values()) >= self.models_max:
                idle = [
                    each for each, status in self._status.items() if status == "loaded" and not self._requests[each]
                ]
                if idle:
                    self.cost("eviction")
                    victim = min(idle, key=lambda each: self._last_used[each])
                    self._status[victim] = "unloaded"
                    self.routed[victim] = RouterModel(self, victim)
                elif request.left(POLL_SECONDS):
                    text = f"request cancelled while waiting for model name={name}"
                    raise RejectedError(self.error(text, "server_error", 500))
            self.cost("load")
            self._status[name] = "loading"
            self.routed[name] = RouterModel(self, name)
            self._last_used[name] = self.clock()
            time.sleep(self.load_seconds)
            self._status[name] = "loaded"


def tokens_of(body: Any) -> list[str]:
    """The prompt in tokens, with those of the chat's template: a word is a token."""
    tokens = []
    for each in body["messages"]:
        content = each.get("content") or ""
        text = " ".join(part.get("text", "") for part in content) if isinstance(content, list) else content
        tokens += ["<|im_start|>", each.get("role", "user"), *text.split(), "<|im_end|>"]
    return [*tokens, "<|im_start|>", "assistant"]


def timings(fresh: int, cached: int, prompt_seconds: float, predicted: int, pace: float) -> dict[str, Any]:
    """The ``timings`` object. The speed is that of the tokens after the first, as in server-task.cpp."""
    after = predicted - 1
    return {
        "cache_n": cached,
        "prompt_n": fresh,
        "prompt_ms": prompt_seconds * 1000,
        "prompt_per_second": fresh / prompt_seconds if prompt_seconds else 0.0,
        "predicted_n": predicted,
        "predicted_ms": after * pace * 1000,
        "predicted_per_second": 1 / pace if after else 0.0,
    }


def _whole(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The answer without a stream."""
    events = [json.loads(each.removeprefix(b"data: ")) for each in pieces if each.startswith(b"data: {")]
    if not events:
        return
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
    finish = next((each["choices"][0]["finish_reason"] for each in reversed(events) if each["choices"]), None)
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    count = sum(bool(event["choices"] and event["choices"][0]["delta"].get("content")) for event in events)
    usage = {
        "completion_tokens": count,
        "prompt_tokens": events[-1]["timings"]["prompt_n"] + events[-1]["timings"]["cache_n"],
    }
    whole = {"object": "chat.completion", "model": events[0]["model"], "choices": [choice], "usage": usage}
    yield json.dumps(whole | {"timings": events[-1]["timings"]}).encode()
