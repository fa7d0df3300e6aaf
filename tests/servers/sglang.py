"""A simulated SGLang: its batch, the gauges and counters of its /metrics, usage in every chunk, a health check that generates.

Read in its source (python/sglang/srt: entrypoints/http_server.py, entrypoints/openai/protocol.py, metrics/collector.py) and its
documentation; no real one was at hand. Its histogram of time between tokens counts each token while the answer runs.

Costs: ``health token`` (``GET /health`` and ``/health_generate`` make an idle server generate one; by default both do).
"""

import time
from collections.abc import Iterator
from typing import Any

from tests.servers.histogram import ServerHistogram
from tests.servers.openai import AnswerShape, OpenAIServer
from tests.servers.simulated import ReceivedRequest, ServerAnswer, as_json, sse

# Some of those of its collector.
BUCKETS = (0.002, 0.006, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.2, 0.4, 0.8, 1.0, 2.0, 8.0)
SECRET = "the-key-in-its-settings"


class SimulatedSGLang(OpenAIServer):
    """One model. ``metrics`` is --enable-metrics; ``ranks`` are those of one replica, each of which tells the same."""

    name = "uvicorn"
    shape = AnswerShape(role_delta={"role": "assistant", "content": "", "reasoning_content": None, "tool_calls": None})

    def __init__(
        self,
        *,
        model: str = "Qwen/Qwen3-8B",
        version: str = "0.5.9",
        metrics: bool = True,
        embedding: bool = False,
        ranks: int = 1,
        by_priority: bool = False,
        key: str | None = None,
        slots: int = 64,
        tokens_per_second: float = 500.0,
        prefill_seconds: float = 0.0,
    ) -> None:
        super().__init__(tokens_per_second=tokens_per_second, prefill_seconds=prefill_seconds, slots=slots)
        self.model = model
        self.version = version
        self.metrics = metrics
        self.embedding = embedding
        self.ranks = ranks
        self.by_priority = by_priority
        self.key = key
        self.first_token = ServerHistogram("sglang:time_to_first_token_seconds", BUCKETS)
        self.gaps = ServerHistogram("sglang:inter_token_latency_seconds", BUCKETS)

    def answer(self, request: ReceivedRequest) -> ServerAnswer:  # noqa: PLR0911 - one case for each path
        """As its HTTP server."""
        free = request.path.startswith(("/health", "/metrics"))
        if self.key and not free and request.headers.get("authorization") != f"Bearer {self.key}":
            return as_json({"error": "Unauthorized"}, 401)
        match request.method, request.path:
            case "GET", "/health" | "/health_generate":
                self.cost("health token", int(not self.queue.running))
                return ServerAnswer(kind="")
            case "GET", "/v1/models":
                entry = {"id": self.model, "object": "model", "created": 1790000000, "owned_by": "sglang"}
                return as_json({"object": "list", "data": [{**entry, "root": self.model, "max_model_len": 40960}]})
            case "GET", "/get_server_info" | "/server_info":
                return as_json({"model_path": self.model, "api_key": SECRET, "version": self.version})
            case "GET", "/get_model_info" | "/model_info":
                return as_json({"model_path": self.model, "is_generation": not self.embedding})
            case "GET", "/metrics" if self.metrics:
                return ServerAnswer(body=self._metrics().encode(), kind="text/plain; version=0.0.4; charset=utf-8")
            case "POST", "/v1/chat/completions":
                return self.reply(request, self.model)
            case _:
                return as_json({"detail": "Not Found"}, 404)

    def stream(self, request: ReceivedRequest, model: str) -> Iterator[bytes]:
        """The events; with ``continuous_usage_stats`` each token's has the usage so far."""
        options = request.body.get("stream_options") or {}
        tokens, before = 0, time.monotonic()
        for piece in super().stream(request, model):
            if b'"content": " ' not in piece:
                yield piece
                continue
            tokens += 1
            now = time.monotonic()
            with self.lock:
                (self.first_token if tokens == 1 else self.gaps).observe(now - before)
            before = now
            if not options.get("continuous_usage_stats"):
                yield piece
                continue
            usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
            # The role, which comes with the first token, is an event of its own.
            *role, token = piece.rstrip().split(b"\n\n")
            yield b"".join(each + b"\n\n" for each in role) + sse(_with(token, usage))

    def _metrics(self) -> str:
        generated = sum(self.generated.values())
        lines = [f'sglang:generation_tokens_total{{model_name="{self.model}"}} {generated}.0']
        for rank in range(self.ranks):
            labels = f'engine_type="unified",model_name="{self.model}",tp_rank="{rank}"'
            lines += [
                f'sglang:realtime_tokens_total{{{labels},mode="decode"}} {generated}.0',
                f'sglang:realtime_tokens_total{{{labels},mode="prefill_compute"}} 100000.0',
                f"sglang:token_usage{{{labels}}} 0.25",
            ]
            for priority in ("", "0") if self.by_priority else (None,):
                more = labels if priority is None else f'{labels},priority="{priority}"'
                lines += [
                    f"sglang:num_running_reqs{{{more}}} {self.queue.running}.0",
                    f"sglang:num_queue_reqs{{{more}}} {self.queue.waiting}.0",
                ]
        histograms = [each.render(f'model_name="{self.model}"') for each in (self.first_token, self.gaps)]
        return "\n".join([*lines, *histograms])


def _with(event: bytes, usage: dict[str, int]) -> Any:
    import json

    return {**json.loads(event.removeprefix(b"data: ")), "usage": usage}
