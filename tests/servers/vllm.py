"""A simulated vLLM: the gauges and counters of its /metrics, continuous usage, sleep mode, users who keep it busy."""

import time
from collections.abc import Iterator
from typing import Any

from tests.servers.simulated import Answer, Asked, Simulated, as_json, sse

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="tiny"}} {running}
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0",model_name="tiny"}} {waiting}
# TYPE vllm:engine_sleep_state gauge
vllm:engine_sleep_state{{engine="0",model_name="tiny",sleep_state="awake"}} {awake}
vllm:engine_sleep_state{{engine="0",model_name="tiny",sleep_state="weights_offloaded"}} {asleep}
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{engine="0",model_name="tiny"}} {kv}
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{engine="0",model_name="tiny"}} {generated}
# TYPE process_start_time_seconds gauge
process_start_time_seconds {started}
"""


class Vllm(Simulated):
    """One model, whose first ``thinks`` tokens are reasoning. ``users`` is how many requests of others run, ``waiting`` how many of
    them wait.
    """

    name = "uvicorn"

    def __init__(
        self,
        *,
        tokens_per_second: float = 2000.0,
        prefill_seconds: float = 0.0,
        generated: int = 100,
        model: str = "tiny",
    ) -> None:
        super().__init__()
        self.model = model
        self.pace = 1 / tokens_per_second
        self.prefill_seconds = prefill_seconds
        self.users = 0
        self.waiting = 0
        self.thinks = 0
        self.ours = 0
        self.most_at_once = 0
        self.generated = generated
        self.started = 1.79555261282e09
        self.asleep = False
        self.woken = 0
        self.version = "0.32.0"

    def answer(self, asked: Asked) -> Answer:
        """As vLLM 0.32.0."""
        match asked.path:
            case "/health" | "/ping":
                return Answer(kind="")
            case "/version":
                return as_json({"version": self.version})
            case "/metrics":
                return Answer(body=self._metrics().encode(), kind="text/plain; version=1.0.0; charset=utf-8")
            case "/v1/models":
                model = {
                    "id": self.model,
                    "object": "model",
                    "owned_by": "vllm",
                    "root": f"/models/{self.model}",
                    "max_model_len": 2048,
                }
                return as_json({"object": "list", "data": [model]})
            case "/v1/chat/completions" if asked.method == "GET":
                return as_json({"detail": "Method Not Allowed"}, 405)
            case "/v1/chat/completions":
                return Answer(kind="text/event-stream; charset=utf-8", pieces=self._chat(asked.body))
            case _:
                return as_json({"detail": "Not Found"}, 404)

    def _metrics(self) -> str:
        return METRICS.format(
            running=float(self.users + self.ours - self.waiting),
            waiting=float(self.waiting),
            awake=float(not self.asleep),
            asleep=float(self.asleep),
            kv=0.25 if self.users else 0.0,
            generated=float(self.generated),
            started=repr(self.started),
        )

    def _chat(self, body: Any) -> Iterator[bytes]:
        with self.lock:
            self.woken += self.asleep
            self.asleep = False
            self.ours += 1
            self.most_at_once = max(self.most_at_once, self.ours)
        try:
            yield from self._tokens(body)
        finally:
            with self.lock:
                self.ours -= 1

    def _tokens(self, body: Any) -> Iterator[bytes]:
        prompt, most = len(body["messages"][0]["content"].split()), body["max_tokens"]
        continuous = body.get("stream_options", {}).get("continuous_usage_stats")
        chunk: dict[str, Any] = {"object": "chat.completion.chunk", "model": body.get("model", self.model)}
        for n in range(most + 1):
            if n == 1:
                time.sleep(self.prefill_seconds)
            elif n:
                time.sleep(self.pace)
            kind = "reasoning" if n <= self.thinks else "content"
            delta = {kind: f" word{n}"} if n else {"role": "assistant", "content": ""}
            finish = "length" if n == most else None
            event = {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            if continuous:
                event["usage"] = self._usage(prompt, n)
            with self.lock:
                self.generated += n > 0
            yield sse(event)
        yield sse({**chunk, "choices": [], "usage": self._usage(prompt, most)})
        yield b"data: [DONE]\n\n"

    def _usage(self, prompt: int, output: int) -> dict[str, Any]:
        details = {"reasoning_tokens": min(output, self.thinks)} if self.thinks else None
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}
        return {**usage, "completion_tokens_details": details}
