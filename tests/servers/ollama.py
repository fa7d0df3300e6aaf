"""A simulated Ollama: its scheduler, timers, queue, lists and answers, by version.

Read in Ollama's source (server/sched.go, server/routes.go, llm/server.go, api/types.go of 0.9.6, 0.24.0, 0.30.0 and 0.33.0) and
at running servers 0.24 and 0.33. Timers go by a clock that tests move; loads, queues and decoding take real time.

Costs: ``load`` (a model comes into memory), ``reload`` (because a request's options differ; is a load too), ``eviction``
(another model had to go). Also ``timer restart`` (a request ended, so the model's time began anew) and ``paid call`` (a model
of the cloud).
"""

import hashlib
import json
import random
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from tests.servers.clock import Clock
from tests.servers.queue import Queue, ticks
from tests.servers.simulated import (
    DONE,
    ReceivedRequest,
    RejectedError,
    ServerAnswer,
    Simulated,
    as_json,
    as_text,
    sse,
    words_of,
)

DEFAULT_CONTEXT = 4096
DEFAULT_KEEP_ALIVE = 300.0
# What a negative keep_alive stands for: the longest duration that Go knows (api/types.go).
FOREVER = 2**63 / 1e9
# A stream is given up when the same token came more often than this after its first time (llm/server.go).
MOST_REPEATS = 30
POLL_SECONDS = 0.005
_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Stored:
    """A model on its disk, or one of the cloud. ``digest`` is that of its manifest, ``weights`` that of its file."""

    size: int
    digest: str
    weights: str
    family: str = "llama"
    parameters: str = "3.2B"
    quantization: str = "Q4_K_M"
    trained: int = 131_072
    """Tokens of context that it was trained for."""
    capabilities: tuple[str, ...] = ("completion", "tools")
    options: Mapping[str, Any] = field(default_factory=dict)
    """PARAMETER lines of its Modelfile."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """More of what ``/api/show`` gives under ``model_info``."""
    modified: float = 1_764_000_000.0
    remote_host: str = ""
    remote_model: str = ""


def stored(name: str, size: int, **more: Any) -> Stored:
    """A model as ``ollama pull`` leaves it."""
    weights, digest = (hashlib.sha256(f"{part} {name}".encode()).hexdigest() for part in ("weights", "manifest"))
    return Stored(size, digest, weights, **more)


EMBEDDING = stored(
    "nomic-embed-text",
    274_302_450,
    family="nomic-bert",
    parameters="137M",
    quantization="F16",
    trained=2048,
    capabilities=("embedding",),
)
CLOUD = stored(
    "gpt-oss",
    384,
    family="gptoss",
    parameters="116.8B",
    quantization="MXFP4",
    remote_host="https://ollama.com:443",
    remote_model="gpt-oss:120b",
)


@dataclass(frozen=True)
class RunnerOptions:
    """The options that belong to a loaded model (api.Runner), with Ollama's defaults."""

    num_ctx: int = DEFAULT_CONTEXT
    num_batch: int = 512
    num_gpu: int = -1
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int = 0


@dataclass(eq=False)
class Loaded:
    """A model in memory. ``keep_alive`` is the time that it stays after its last request."""

    name: str
    """The name by which it was loaded; ``ollama cp`` gives one model several."""
    model: Stored
    options: RunnerOptions
    keep_alive: float
    automatic: frozenset[str]
    """Options that no request and no Modelfile named."""
    clock: Clock
    queue: Queue
    requests: int = 0
    ended_at: float | None = None
    dead: bool = False
    leaving: bool = False
    loaded_at: float = field(default_factory=time.monotonic)

    @property
    def expires_at(self) -> float:
        """As ``/api/ps`` says: set when the last request ended; until one ended, a time that moves with the clock."""
        return self.clock() + self.keep_alive if self.ended_at is None else self.ended_at

    @property
    def num_ctx(self) -> int:
        """As ``/api/ps`` says: at most what the model was trained for (llm/server.go)."""
        return min(self.options.num_ctx, self.model.trained)


class SimulatedOllama(Simulated):
    """Models ``small:latest`` and ``large:latest`` on its disk, none in memory; ``disk`` may be changed.

    ``max_loaded`` is OLLAMA_MAX_LOADED_MODELS, or how many the GPU holds; ``parallel`` is OLLAMA_NUM_PARALLEL. A model says
    ``word1 word2 …`` without end; with ``answer_tokens`` it ends by itself, with ``repeats`` it says one word again and again.
    """

    name = ""  # Go's net/http sends no Server header

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        version: str = "0.24.0",
        load_seconds: float = 1.2,
        tokens_per_second: float = 500.0,
        prompt_tokens_per_second: float = 10_000.0,
        parallel: int = 1,
        max_loaded: int = 1,
        max_queue: int = 512,
        gpu_memory_gib: float = 16.0,
        gpu_share: float = 1.0,
        keep_alive: float = DEFAULT_KEEP_ALIVE,
        cloud_in_ps: bool = False,
        draw: random.Random | None = None,
    ) -> None:
        super().__init__()
        self.clock = clock or Clock()
        self.version = version
        self.load_seconds = load_seconds
        self.pace = 1 / tokens_per_second
        self.prompt_pace = 1 / prompt_tokens_per_second
        self.parallel = parallel
        self.max_loaded = max_loaded
        self.max_queue = max_queue
        self.gpu_memory_gib = gpu_memory_gib
        self.gpu_share = gpu_share
        self.keep_alive = keep_alive
        self.cloud_in_ps = cloud_in_ps
        self.draw = draw or random.Random()
        self.disk = {"small:latest": stored("small", 2_019_393_189), "large:latest": stored("large", 9_000_000_000)}
        self.thinks = 0
        self.repeats = False
        self.answer_tokens: int | None = None
        self._loaded: dict[str, Loaded] = {}
        self._pending: deque[object] = deque()
        self._changed = threading.Condition(self.lock)
        self._cloud_used: set[str] = set()

    # What tests ask and do ------------------------------------------------------------------------------------------

    def now(self) -> float:
        """By the clock that tests can move."""
        return self.clock()

    @property
    def loads(self) -> int:
        """How often a model was brought into memory, by whomever."""
        return self.costs["load"]

    @property
    def memory(self) -> dict[str, Loaded]:
        """What is in memory now, by the names that ``/api/ps`` says."""
        with self.lock:
            self._unload_expired()
            return {each.name: each for each in self._loaded.values()}

    def resident(self) -> dict[str, Loaded]:
        """The same as ``memory``."""
        return self.memory

    @property
    def default_context(self) -> int:
        """``num_ctx`` of a request that names none: by GPU memory from 0.15.5 on (server/routes.go), 4096 before."""
        if self._since(0, 15, 5):
            for gib, context in ((47, 262_144), (23, 32_768)):
                if self.gpu_memory_gib >= gib:
                    return context
        return DEFAULT_CONTEXT

    def use(self, model: str, *, keep_alive: float | str | None = None, **options: Any) -> Loaded:
        """A request of a user that came and ended just now, by its effect on the memory; a load takes no time."""
        name = self._existing(model)
        assert name is not None
        with self._scheduled(name, options, _duration(keep_alive), instant=True) as runner:
            assert runner is not None
        return runner

    def copy(self, source: str, name: str) -> None:
        """``ollama cp``: a second name for the same manifest, and so the same runner."""
        found = self._existing(source)
        assert found is not None
        self.disk[_full_name(name)] = replace(self.disk[found], modified=self.clock())

    def kill_runner(self, model: str) -> None:
        """The runner's process dies, as by SIGKILL. It stays in ``/api/ps``, and the next request loads the model anew."""
        with self._changed:
            self.memory[_full_name(model)].dead = True
            self._changed.notify_all()

    # Answers --------------------------------------------------------------------------------------------------------

    def answer(self, request: ReceivedRequest) -> ServerAnswer:  # noqa: PLR0911 - one case for each path
        """As Ollama (server/routes.go)."""
        match request.method, request.path:
            case "GET" | "HEAD", "/":
                return as_text("Ollama is running")
            case "GET" | "HEAD", "/api/version":
                return as_json({"version": self.version})
            case "GET" | "HEAD", "/api/tags":
                return as_json({"models": self._tags()})
            case "GET", "/api/ps":
                return as_json({"models": self._ps()})
            case "GET", "/v1/models":
                data = [{"id": each["name"], "object": "model", "owned_by": "library"} for each in self._tags()]
                return as_json({"object": "list", "data": data})
            case "POST", "/api/show":
                return self._show(request)
            case "POST", "/api/chat" | "/api/generate" | "/v1/chat/completions" | "/api/embed":
                return self._infer(request)
            case _, "/api/tags" | "/api/ps" | "/api/show" | "/api/chat" | "/api/generate" | "/v1/chat/completions":
                return as_text("405 method not allowed", 405)
            case _:
                return as_text("404 page not found", 404)

    def _since(self, *version: int) -> bool:
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3]) >= version

    def _existing(self, name: Any) -> str | None:
        """Names are compared without regard to case (getExistingName in server/routes.go); the tag may be left out."""
        wanted = _full_name(str(name)).lower()
        return next((each for each in self.disk if each.lower() == wanted), None)

    def _tags(self) -> list[dict[str, Any]]:
        """Newest first by the second; models of one second in any order, since Go walks maps in any order."""
        names = list(self.disk)
        self.draw.shuffle(names)
        names.sort(key=lambda name: -int(self.disk[name].modified))
        entries = []
        for name in names:
            model = self.disk[name]
            entry = {**_entry(name, model), "modified_at": _time(model.modified)}
            if model.remote_host:
                entry |= {"remote_model": model.remote_model, "remote_host": model.remote_host}
            if self._since(0, 30):
                entry["capabilities"] = list(model.capabilities)
            entries.append(entry)
        return entries

    def _ps(self) -> list[dict[str, Any]]:
        """Longest time first by the second, else in any order. What is being loaded isn't there yet.

        Ollama itself lists no model of the cloud here (ProcessModelResponse has no such field); with ``cloud_in_ps`` those that
        were used are listed, as by servers that imitate it.
        """
        with self.lock:
            self._unload_expired()
            runners = list(self._loaded.values())
        self.draw.shuffle(runners)
        runners.sort(key=lambda each: -int(each.expires_at))
        entries = []
        for each in runners:
            more: dict[str, Any] = {
                "expires_at": _time(each.expires_at),
                "size_vram": int(each.model.size * self.gpu_share),
            }
            if self._since(0, 9, 7):
                more["context_length"] = each.num_ctx
            entries.append({**_entry(each.name, each.model), **more})
        cloud = [(name, self.disk[name]) for name in self._cloud_used] if self.cloud_in_ps else []
        entries[:0] = [
            {**_entry(name, model), "size_vram": 0, "expires_at": _time(self.clock() + self.keep_alive)}
            | {"remote_model": model.remote_model, "remote_host": model.remote_host}
            for name, model in cloud
        ]
        return entries

    def _show(self, request: ReceivedRequest) -> ServerAnswer:
        wanted = (request.body or {}).get("model") or (request.body or {}).get("name")
        if not wanted:
            return as_json({"error": "model is required"}, 400)
        name = self._existing(wanted)
        if name is None:
            return as_json({"error": f"model '{_full_name(wanted)}' not found"}, 404)
        model = self.disk[name]
        details = _entry(name, model)["details"]
        info = {"general.architecture": model.family, f"{model.family}.context_length": model.trained} | dict(
            model.info
        )
        shown = {"details": details, "model_info": info, "capabilities": list(model.capabilities)}
        if model.options:
            shown["parameters"] = "\n".join(f"{key:30} {value}" for key, value in model.options.items())
        return as_json(shown)

    def _infer(self, request: ReceivedRequest) -> ServerAnswer:  # noqa: PLR0911 - one for each refusal
        """The refusals of ChatHandler and GenerateHandler, with their texts, then the stream."""
        body = request.body
        if not isinstance(body, dict):
            return as_json({"error": "missing request body" if not request.raw else "invalid character"}, 400)
        wanted = body.get("model") or ""
        if not wanted:
            return as_json({"error": "model is required"}, 400)
        name = self._existing(wanted)
        if name is None:
            return self._error(request, f"model '{wanted}' not found", 404)
        model = self.disk[name]
        try:
            keep_alive = _duration(body.get("keep_alive"))
        except ValueError as exc:
            return as_json({"error": str(exc)}, 400)
        empty = not (body.get("messages") or body.get("prompt") or body.get("input"))
        if empty and keep_alive == 0:
            self._expire(model)
            return as_json({"model": wanted, "message": {"role": "assistant"}, "done": True, "done_reason": "unload"})
        if model.remote_host:
            self.cost("paid call")
            self._cloud_used.add(name)
        elif request.path == "/api/embed":
            if "embedding" not in model.capabilities:
                return self._error(request, "this model does not support embeddings", 501)
        elif "completion" not in model.capabilities:
            kind = "generate" if request.path == "/api/generate" else "chat"
            return self._error(request, f'"{wanted}" does not support {kind}', 400)
        stream = body.get("stream", not request.path.startswith("/v1/"))
        pieces = self._lines(request, name, keep_alive)
        if empty or not stream or request.path == "/api/embed":
            return ServerAnswer(pieces=self._last(request, pieces), late=True)
        if request.path.startswith("/v1/"):
            return ServerAnswer(kind="text/event-stream", pieces=self._events(request, pieces), late=True)
        return ServerAnswer(kind="application/x-ndjson", pieces=(_line(each) for each in pieces), late=True)

    def _error(self, request: ReceivedRequest, text: str, status: int) -> ServerAnswer:
        """The OpenAI paths have the same texts in OpenAI's shape (middleware/openai.go)."""
        if not request.path.startswith("/v1/"):
            return as_json({"error": text}, status)
        kind = "not_found_error" if status == 404 else "invalid_request_error"
        return as_json({"error": {"message": text, "type": kind, "param": None, "code": None}}, status)

    # One request ----------------------------------------------------------------------------------------------------

    def _lines(self, request: ReceivedRequest, name: str, keep_alive: float | None) -> Iterator[dict[str, Any]]:
        """Schedule, wait for the slot, work through the prompt, decode: the lines of the answer.

        ``total_duration`` counts from the request's arrival. ``load_duration`` is the time until the scheduler gave a runner.
        Prompt and decoding are the runner's own times: what is left is the wait for the slot.
        """
        began, body, model = time.monotonic(), request.body, self.disk[name]
        base = {"model": body["model"], "created_at": _time(time.time())}
        if model.remote_host:
            yield from self._decode(
                request, base | {"remote_model": model.remote_model, "remote_host": model.remote_host}
            )
            return
        with self._scheduled(name, body.get("options") or {}, keep_alive, request) as runner:
            if runner is None:
                return
            loaded = time.monotonic()
            if request.path == "/api/embed":
                yield {**base, "embeddings": [[0.1, 0.2]], "load_duration": _nanoseconds(loaded - began)}
                return
            if not (body.get("messages") or body.get("prompt")):
                yield {**base, "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "load"}
                return
            with runner.queue.slot(request.left) as waited:
                if waited is None:
                    return
                for line in self._decode(request, base, runner):
                    if line.get("done"):
                        times = {"total_duration": time.monotonic() - began, "load_duration": loaded - began}
                        line |= {key: _nanoseconds(seconds) for key, seconds in times.items()}
                    yield line

    def _decode(
        self, request: ReceivedRequest, base: dict[str, Any], runner: Loaded | None = None
    ) -> Iterator[dict[str, Any]]:
        body, began = request.body, time.monotonic()
        prompt = len(words_of(body))
        if request.left(prompt * self.prompt_pace):
            return
        at, sent = time.monotonic(), 0
        most, reason = self._length(body, runner)
        for number in ticks(most, lambda: self.pace, request.left):
            if runner and runner.dead:
                yield {"error": "an error was encountered while running the model: unexpected EOF"}
                return
            if self.repeats and number > MOST_REPEATS + 1:
                return
            kind = "thinking" if number <= self.thinks else "content"
            message = {"role": "assistant", "content": "", kind: " again" if self.repeats else f" word{number}"}
            sent = number
            yield {**base, **_said(request, message), "done": False}
        if sent < most:
            return
        yield {
            **base,
            **_said(request, {"role": "assistant", "content": ""}),
            "done": True,
            "done_reason": reason,
            "total_duration": _nanoseconds(time.monotonic() - began),
            "prompt_eval_count": prompt,
            "prompt_eval_duration": _nanoseconds(at - began),
            "eval_count": sent,
            "eval_duration": _nanoseconds(time.monotonic() - at),
        }

    def _length(self, body: Any, runner: Loaded | None) -> tuple[int, str]:
        """At most ``num_predict`` tokens, and never more than ten times the context (llm/server.go)."""
        wanted = body.get("max_tokens") or (body.get("options") or {}).get("num_predict", -1)
        cap = 10 * (runner.num_ctx if runner else DEFAULT_CONTEXT)
        most = cap if wanted < 0 or wanted > cap else max(wanted, 1)
        if self.answer_tokens is not None and self.answer_tokens < most:
            return self.answer_tokens, "stop"
        return most, "length"

    def _last(self, request: ReceivedRequest, lines: Iterator[dict[str, Any]]) -> Iterator[bytes]:
        """The answer without a stream: the last line with the whole text."""
        found = list(lines)
        if not found:
            return
        last = found[-1]
        if "message" in last:
            last["message"]["content"] = "".join(each["message"]["content"] for each in found if "message" in each)
        if request.path.startswith("/v1/"):
            choice = {"index": 0, "message": last.get("message"), "finish_reason": last.get("done_reason")}
            last = {"object": "chat.completion", "model": last["model"], "choices": [choice]}
        yield json.dumps(last).encode()

    def _events(self, request: ReceivedRequest, lines: Iterator[dict[str, Any]]) -> Iterator[bytes]:
        """The OpenAI path: the same lines as chunks (openai/openai.go), usage in a chunk of its own if it was asked for."""
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "system_fingerprint": "fp_ollama"}
        for line in lines:
            if "error" in line:
                yield sse(line)
                return
            done, message = line["done"], line["message"]
            delta = {"role": "assistant", "content": message.get("content", "")}
            if message.get("thinking"):
                delta["reasoning"] = message["thinking"]
            choice = {"index": 0, "delta": delta, "finish_reason": line["done_reason"] if done else None}
            yield sse({**chunk, "model": line["model"], "choices": [choice]})
            if done and (request.body.get("stream_options") or {}).get("include_usage"):
                usage = {"prompt_tokens": line["prompt_eval_count"], "completion_tokens": line["eval_count"]}
                usage["total_tokens"] = sum(usage.values())
                yield sse({**chunk, "model": line["model"], "choices": [], "usage": usage})
            if done:
                yield DONE

    # The scheduler --------------------------------------------------------------------------------------------------

    @contextmanager
    def _scheduled(
        self,
        name: str,
        options: Mapping[str, Any],
        keep_alive: float | None,
        request: ReceivedRequest | None = None,
        *,
        instant: bool = False,
    ) -> Iterator[Loaded | None]:
        """A runner for a request, from the moment that it is there until the request ends; None where the client left before.

        A loaded runner with equal options is used at once. All other requests wait in one line, and the first one holds it up
        until its model is loaded. It waits for the requests that run, and no other model is loaded meanwhile.
        """
        left = request.left if request else (lambda *_: False)
        with self._changed:
            self._unload_expired()
            runner = self._usable(name, options)
            if runner is None and len(self._pending) >= self.max_queue:
                text = "server busy, please try again.  maximum pending requests exceeded"
                raise RejectedError(as_json({"error": text}, 503))
            if runner is None:
                runner = self._wait_in_line(name, options, keep_alive, left, instant=instant)
            else:
                self._take_runner(runner, keep_alive)
        if runner is None:
            yield None
            return
        try:
            yield runner
        finally:
            with self._changed:
                self._release(runner)
                self._changed.notify_all()

    def _usable(self, name: str, options: Mapping[str, Any]) -> Loaded | None:
        runner = self._loaded.get(self.disk[name].weights)
        return runner if runner and not self._differs(runner, name, options) else None

    def _wait_in_line(
        self, name: str, options: Mapping[str, Any], keep_alive: float | None, left: Any, *, instant: bool
    ) -> Loaded | None:
        ticket = object()
        self._pending.append(ticket)
        try:
            while self._pending[0] is not ticket:
                self._changed.wait(POLL_SECONDS)
            if left():
                return None
            return self._bring(name, options, keep_alive, left, instant=instant)
        finally:
            self._pending.remove(ticket)
            self._changed.notify_all()

    def _bring(
        self, name: str, options: Mapping[str, Any], keep_alive: float | None, left: Any, *, instant: bool
    ) -> Loaded | None:
        """The first in line gets its runner (processPending in server/sched.go): what is in its way is unloaded first."""
        key, differs = self.disk[name].weights, False
        while True:
            runner = self._loaded.get(key)
            if runner and not self._differs(runner, name, options):
                self._take_runner(runner, keep_alive)
                return runner
            if runner:
                differs = True
                self._unload_when_idle(runner)
            elif len(self._loaded) >= self.max_loaded:
                self.cost("eviction")
                self._unload_when_idle(self._cheapest())
            else:
                break
        self.cost("load")
        self.cost("reload", int(differs))
        self._changed.release()
        try:
            gone = left(0.0 if instant else self.load_seconds)
        finally:
            self._changed.acquire()
        if gone:
            # The load fails with its request (Load and WaitUntilRunning get the request's context).
            return None
        runner = self._new_runner(name, options, keep_alive)
        self._loaded[key] = runner
        return runner

    def _new_runner(self, name: str, options: Mapping[str, Any], keep_alive: float | None) -> Loaded:
        model = self.disk[name]
        chosen, automatic = self._options(model, options)
        if self._since(0, 30):
            # The runner's options have the context that it has in fact, and a batch that fits to it (applyAutomaticGenerationBatch).
            chosen = replace(chosen, num_ctx=min(chosen.num_ctx, model.trained))
            if "num_batch" in automatic:
                batch = 2048 if chosen.num_ctx > 32_768 else 1024 if chosen.num_ctx > 4096 else 512
                chosen = replace(chosen, num_batch=batch)
        slots = self.parallel if "completion" in model.capabilities else 1
        session = self.keep_alive if keep_alive is None else keep_alive
        return Loaded(name, model, chosen, session, automatic, self.clock, Queue(slots), requests=1)

    def _options(self, model: Stored, options: Mapping[str, Any]) -> tuple[RunnerOptions, frozenset[str]]:
        named = {**model.options, **options}
        known = {key: named[key] for key in RunnerOptions.__dataclass_fields__ if named.get(key) is not None}
        chosen = replace(RunnerOptions(num_ctx=self.default_context), **known)
        return replace(chosen, num_ctx=max(chosen.num_ctx, 4)), frozenset({"num_ctx", "num_batch"}) - known.keys()

    def _differs(self, runner: Loaded, name: str, options: Mapping[str, Any]) -> bool:
        """Whether a request needs the model loaded anew (needsReload in server/sched.go): any option differs, or it is dead.

        A request that names no num_gpu, or -1, takes any. Before 0.30 a context above the model's own is compared as it was asked
        for, though ``/api/ps`` says the model's own. From 0.30 on both are cut to it, and what was left to Ollama at the load and
        in the request is not compared.
        """
        wanted, automatic = self._options(self.disk[name], options)
        has = runner.options
        if self._since(0, 30):
            wanted = replace(wanted, num_ctx=min(wanted.num_ctx, runner.model.trained))
            for key in automatic & runner.automatic:
                wanted = replace(wanted, **{key: getattr(has, key)})
        if wanted.num_gpu < 0:
            wanted, has = replace(wanted, num_gpu=-1), replace(has, num_gpu=-1)
        return runner.dead or wanted != has

    def _take_runner(self, runner: Loaded, keep_alive: float | None) -> None:
        """The timer stops while a request runs; what ``/api/ps`` says doesn't change (useLoadedRunner)."""
        runner.requests += 1
        if keep_alive is not None:
            runner.keep_alive = keep_alive

    def _release(self, runner: Loaded) -> None:
        """When the last request has ended the timer starts: now + keep_alive (processCompleted)."""
        runner.requests -= 1
        if runner.requests:
            return
        if runner.keep_alive <= 0:
            self._unload(runner)
            return
        self.cost("timer restart")
        runner.ended_at = self.clock() + runner.keep_alive

    def _expire(self, model: Stored) -> None:
        """An empty request with keep_alive 0 unloads (expireRunner)."""
        with self._changed:
            if runner := self._loaded.get(model.weights):
                runner.keep_alive, runner.ended_at = 0.0, self.clock()
                if not runner.requests:
                    self._unload(runner)

    def _unload_when_idle(self, runner: Loaded) -> None:
        """Wait for the requests that run; a later one with a keep_alive of its own keeps the runner, as in the real one."""
        runner.keep_alive = 0.0
        while self._loaded.get(runner.model.weights) is runner:
            if not runner.requests and (runner.keep_alive <= 0 or runner.expires_at <= self.clock()):
                self._unload(runner)
                return
            self._changed.wait(POLL_SECONDS)

    def _cheapest(self) -> Loaded:
        """An idle one if there is one, of those the one with the shortest keep-alive (findRunnerToUnload)."""
        return min(self._loaded.values(), key=lambda each: (each.requests > 0, each.keep_alive, each.model.weights))

    def _unload(self, runner: Loaded) -> None:
        if self._loaded.get(runner.model.weights) is runner:
            del self._loaded[runner.model.weights]
            self._changed.notify_all()

    def _unload_expired(self) -> None:
        now = self.clock()
        for runner in list(self._loaded.values()):
            if not runner.requests and runner.expires_at <= now:
                self._unload(runner)


def _full_name(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _entry(name: str, model: Stored) -> dict[str, Any]:
    """What ``/api/tags`` and ``/api/ps`` say alike (api/types.go)."""
    details = {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameters,
        "quantization_level": model.quantization,
    }
    return {"name": name, "model": name, "size": model.size, "digest": model.digest, "details": details}


def _said(request: ReceivedRequest, message: dict[str, str]) -> dict[str, Any]:
    return {"response": message["content"]} if request.path == "/api/generate" else {"message": message}


def _duration(value: Any) -> float | None:
    """Seconds of a keep_alive: a number of seconds or a duration of Go; a negative one is for ever. Raises ValueError."""
    if value is None:
        return None
    if isinstance(value, str):
        parts = re.findall(r"(\d+(?:\.\d*)?)(ns|us|ms|s|m|h)", value)
        text = value.lstrip("+-")
        if text != "0" and "".join(number + unit for number, unit in parts) != text:
            raise ValueError(f'time: missing unit in duration "{value}"')
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
        value = -seconds if value.startswith("-") else seconds
    return FOREVER if value < 0 else float(value)


def _time(seconds: float) -> str:
    """As Go writes it: nanoseconds, and the longest duration ends in the year 2318."""
    whole = int(seconds)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{int((seconds - whole) * 1e9):09d}Z"


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"
