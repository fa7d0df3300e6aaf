"""A simulated llama-server: loading, asleep, busy, or a router of two models; it counts what wakes or loads something."""

import time
from collections.abc import Iterator
from typing import Any

from tests.servers.captured import load
from tests.servers.simulated import Answer, Asked, Simulated, as_json, sse

METRICS = """\
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total {generated}
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing {running}
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred {waiting}
"""


class LlamaCpp(Simulated):
    """As llama-server b11434. ``router`` names its models, with their status."""

    name = "llama.cpp"

    def __init__(
        self, *, metrics: bool = True, router: dict[str, str] | None = None, prefill_seconds: float = 0.0
    ) -> None:
        super().__init__()
        self.metrics = metrics
        self.router = router
        self.prefill_seconds = prefill_seconds
        self.loading = False
        self.asleep = False
        self.woken = 0
        self.users = 0
        self.generated = 50
        self.started = 1337476110

    def answer(self, asked: Asked) -> Answer:  # noqa: PLR0911 - one case for each path
        """As llama-server, or as its router."""
        if self.loading:
            return load("llama-server/loading-health")
        if self.router is not None:
            return self._route(asked)
        match asked.path:
            case "/health" | "/v1/models":
                return load("llama-server/get-" + asked.path.strip("/").replace("/", "-"))
            case "/props":
                return as_json(
                    {
                        "default_generation_settings": {"n_ctx": 2048},
                        "model_alias": "tiny.gguf",
                        "model_ftype": "Q8_0",
                        "model_path": "tiny.gguf",
                        "endpoint_slots": True,
                        "endpoint_metrics": self.metrics,
                        "build_info": "b11434-unknown",
                        "is_sleeping": self.asleep,
                    }
                )
            case "/metrics":
                return self._metrics() if self.metrics else load("llama-server/error-metrics-not-enabled")
            case "/slots":
                self._wake()
                return as_json([{"id": 0, "is_processing": self.users > 0}])
            case "/v1/chat/completions" if asked.method == "POST":
                self._wake()
                return self._chat(asked.body)
            case _:
                return load("llama-server/error-404")

    def _route(self, asked: Asked) -> Answer:
        assert self.router is not None
        match asked.path:
            case "/health":
                return load("llama-server-router/get-health")
            case "/props" if "model" not in asked.query:
                return load("llama-server-router/get-props")
            case "/v1/models":
                entries = [
                    {"id": name, "aliases": [], "object": "model", "owned_by": "llamacpp", "status": {"value": status}}
                    for name, status in self.router.items()
                ]
                return as_json({"data": entries, "object": "list"})
        model = asked.query.get("model") if asked.method == "GET" else asked.body.get("model")
        if model not in self.router:
            return load("llama-server-router/error-chat-unknown-model")
        if self.router[model] != "loaded":
            if asked.query.get("autoload") == "false":
                return load("llama-server-router/error-chat-not-loaded")
            self.woken += 1
            self.router[model] = "loaded"
        return self._metrics() if asked.method == "GET" else self._chat(asked.body)

    def _wake(self) -> None:
        self.woken += self.asleep
        self.asleep = False

    def _metrics(self) -> Answer:
        text = METRICS.format(generated=self.generated, running=min(self.users, 1), waiting=max(self.users - 1, 0))
        headers = {"Process-Start-Time-Unix": str(self.started)}
        return Answer(body=text.encode(), kind="text/plain; version=0.0.4", headers=headers)

    def _chat(self, body: Any) -> Answer:
        return Answer(kind="text/event-stream", pieces=self._tokens(body))

    def _tokens(self, body: Any) -> Iterator[bytes]:
        most = body["max_tokens"]
        prompt = len(body["messages"][0]["content"].split())
        chunk: dict[str, Any] = {"model": "tiny.gguf", "system_fingerprint": "b11434-unknown"}
        time.sleep(self.prefill_seconds)
        role = {"role": "assistant", "content": None}
        yield sse({**chunk, "choices": [{"index": 0, "finish_reason": None, "delta": role}]})
        timings = {"cache_n": 0, "prompt_n": prompt, "prompt_ms": 5.0, "prompt_per_second": prompt * 200.0}
        for n in range(1, most + 1):
            delta = {"content": f" word{n}"}
            now = {**timings, "predicted_n": n, "predicted_ms": n * 1.0, "predicted_per_second": 1000.0}
            yield sse({**chunk, "choices": [{"index": 0, "finish_reason": None, "delta": delta}], "timings": now})
            time.sleep(0.001)
        self.generated += most
        yield sse({**chunk, "choices": [{"index": 0, "finish_reason": "length", "delta": {}}]})
        usage = {"completion_tokens": most, "prompt_tokens": prompt, "prompt_tokens_details": {"cached_tokens": 0}}
        last = {**timings, "predicted_n": most, "predicted_ms": most * 1.0, "predicted_per_second": 1000.0}
        yield sse({**chunk, "choices": [], "usage": usage, "timings": last})
        yield b"data: [DONE]\n\n"
