"""A simulated Ollama: what is in memory and for how long, by the rules of its scheduler as its source has them.

A request's keep_alive replaces that of the loaded model and stays in force for requests that name none; the timer starts anew
when a request ends; another num_ctx than the loaded one, and the model is loaded anew. Time is a clock that tests can move.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.servers.simulated import Answer, Asked, Simulated, as_json

DEFAULT_CONTEXT = 4096
DEFAULT_KEEP_ALIVE = 300.0


class Clock:
    """Unix time that a test moves on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        """Now, by it."""
        return time.time() + self.ahead


@dataclass
class Loaded:
    """A model in memory."""

    keep_alive: float
    expires_at: float
    num_ctx: int


class Ollama(Simulated):
    """Models ``small:latest`` and ``large:latest`` on its disk, none in memory."""

    def __init__(self, clock: Clock | None = None, *, load_seconds: float = 1.5) -> None:
        super().__init__()
        self.clock = clock or Clock()
        self.load_seconds = load_seconds
        self.disk = {"small:latest": 2_019_393_189, "large:latest": 9_000_000_000}
        self.memory: dict[str, Loaded] = {}
        self.loads = 0
        self.thinks = 0

    def now(self) -> float:
        """By the clock that tests can move."""
        return self.clock()

    def use(self, model: str, *, num_ctx: int = DEFAULT_CONTEXT, keep_alive: float | None = None) -> Loaded:
        """What a request of this model does to the memory, and when it ends at once."""
        self._unload_expired()
        loaded = self.memory.get(model)
        if loaded is None or loaded.num_ctx != num_ctx:
            self.loads += 1
            loaded = self.memory[model] = Loaded(DEFAULT_KEEP_ALIVE, 0.0, num_ctx)
        if keep_alive is not None:
            loaded.keep_alive = keep_alive
        loaded.expires_at = self.clock() + loaded.keep_alive
        return loaded

    def resident(self) -> dict[str, Loaded]:
        """What is in memory now."""
        self._unload_expired()
        return self.memory

    def answer(self, asked: Asked) -> Answer:  # noqa: PLR0911 - one case for each path
        """As Ollama."""
        match asked.path:
            case "/":
                return Answer(body=b"Ollama is running", kind="text/plain; charset=utf-8")
            case "/api/version":
                return as_json({"version": "0.12.6"})
            case "/api/tags":
                return as_json({"models": [self._entry(name) for name in self.disk]})
            case "/api/ps":
                entries = [
                    {
                        **self._entry(name),
                        "expires_at": datetime.fromtimestamp(each.expires_at, UTC).isoformat(),
                        "size_vram": self.disk[name],
                        "context_length": each.num_ctx,
                    }
                    for name, each in self.resident().items()
                ]
                return as_json({"models": entries})
            case "/v1/models":
                return as_json({"object": "list", "data": [{"id": each, "owned_by": "library"} for each in self.disk]})
            case "/api/chat" if asked.body["model"] not in self.disk:
                return as_json({"error": f"model '{asked.body['model']}' not found"}, 404)
            case "/api/chat":
                return Answer(kind="application/x-ndjson", pieces=self._chat(asked.body))
            case _:
                return Answer(404, b"404 page not found", "text/plain")

    def _entry(self, name: str) -> dict[str, Any]:
        details = {"format": "gguf", "family": "llama", "parameter_size": "3.2B", "quantization_level": "Q4_K_M"}
        return {"name": name, "model": name, "size": self.disk[name], "digest": "a80c4f17acd5", "details": details}

    def _chat(self, body: Any) -> Iterator[bytes]:
        options = body.get("options", {})
        most, context = options["num_predict"], options.get("num_ctx", DEFAULT_CONTEXT)
        loads = self.loads
        keep_alive = body.get("keep_alive")
        if keep_alive is not None and keep_alive < 0:
            keep_alive = 1e9
        self.use(body["model"], num_ctx=context, keep_alive=keep_alive)
        load = self.load_seconds if self.loads > loads else 0.02
        started = time.monotonic()
        for n in range(most):
            kind = "thinking" if n < self.thinks else "content"
            message = {"role": "assistant", "content": "", kind: f" word{n}"}
            yield self._line({"model": body["model"], "message": message, "done": False})
            time.sleep(0.001)
        self.use(body["model"], num_ctx=context)
        yield self._line(
            {
                "model": body["model"],
                "message": {"role": "assistant", "content": ""},
                "done": True,
                "done_reason": "length",
                "load_duration": round(load * 1e9),
                "prompt_eval_count": len(body["messages"][0]["content"].split()),
                "prompt_eval_duration": 5_000_000,
                "eval_count": most,
                "eval_duration": round((time.monotonic() - started) * 1e9),
            }
        )

    def _unload_expired(self) -> None:
        now = self.clock()
        self.memory = {name: each for name, each in self.memory.items() if each.expires_at > now}

    @staticmethod
    def _line(value: Any) -> bytes:
        return json.dumps(value).encode() + b"\n"
