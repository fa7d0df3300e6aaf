"""A simulated llama-swap: starts a server for the model that a request names, and stops it when nobody used it.

Read in its source (internal/server/server.go and api.go, internal/process/process_command.go).

Costs: ``load``, ``eviction``, ``timer restart``, ``unload`` (GET /unload stops all that runs).
"""

from collections.abc import Iterator
from typing import Any

from tests.servers.clock import Clock
from tests.servers.memory import Memory
from tests.servers.openai import AnswerShape, OpenAIServer
from tests.servers.simulated import ReceivedRequest, RejectedError, ServerAnswer, as_json, as_text


class SimulatedLlamaSwap(OpenAIServer):
    """``ttl`` is that of each model in seconds, 0 for never; the servers behind it are llama-servers."""

    name = ""  # Go's net/http sends no Server header
    shape = AnswerShape(role_delta={"role": "assistant", "content": None})

    def __init__(
        self,
        *,
        models: tuple[str, ...] = ("coder", "writer"),
        ttl: float = 0,
        most: int = 1,
        load_seconds: float = 0.0,
        tokens_per_second: float = 1000.0,
        prefill_seconds: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(tokens_per_second=tokens_per_second, prefill_seconds=prefill_seconds)
        self.models = models
        self.ttl = ttl
        self.clock = clock or Clock()
        self.memory = Memory(self.cost, self.clock, most=most, ttl=ttl or None, load_seconds=load_seconds)

    def load(self, name: str) -> None:
        """A request of a user that came and ended just now."""
        self.memory.add(name, ttl=self.ttl or None)

    def answer(self, request: ReceivedRequest) -> ServerAnswer:  # noqa: PLR0911 - one case for each path
        """As llama-swap. GET /props and everything under /upstream go to a model's server, which is started for it."""
        match request.method, request.path:
            case "GET", "/v1/models" | "/models":
                return as_json({"object": "list", "data": [self._entry(each) for each in self.models]})
            case "GET", "/running":
                return as_json({"running": self._running()})
            case "GET", "/health" | "/wol-health":
                return as_text("OK")
            case "GET", "/api/version":
                return as_json({"version": "230", "commit": "0bdb372", "build_date": "2026-08-22"})
            case "GET", "/metrics":
                return as_text("# performance monitor not available\n", 503)
            case "GET", "/unload":
                for name in self.memory.ready:
                    self.cost("unload")
                    self.memory.remove(name)
                return as_text("OK")
            case "GET", "/props":
                return self._forwarded(request, request.query.get("model", ""), "/props")
            case "POST", "/v1/chat/completions":
                return self._forwarded(request, (request.body or {}).get("model") or "", request.path)
            case _, path if path.startswith("/upstream/"):
                _, _, name, *rest = path.split("/")
                return self._forwarded(request, name, "/" + "/".join(rest))
            case _:
                return as_text("404 page not found", 404)

    def _entry(self, name: str) -> dict[str, Any]:
        """One that is starting or stopping is told as loaded too."""
        status = "loaded" if name in self.memory.models else "unloaded"
        return {"id": name, "object": "model", "created": 1, "owned_by": "llama-swap", "status": {"value": status}}

    def _running(self) -> list[dict[str, Any]]:
        return [
            {
                "model": each.name,
                "state": each.state,
                "cmd": "llama-server",
                "proxy": "http://127.0.0.1:5800",
                "ttl": self.ttl,
            }
            for each in sorted(self.memory.models.values(), key=lambda each: each.name)
        ]

    def _forwarded(self, request: ReceivedRequest, name: str, path: str) -> ServerAnswer:
        if name not in self.models:
            return as_text(
                "model not found" if request.path.startswith("/upstream/") else "no router found for model", 404
            )
        kind = "text/event-stream" if (request.body or {}).get("stream") else "application/json"
        return ServerAnswer(kind=kind, pieces=self._upstream(request, name, path), late=True)

    def _upstream(self, request: ReceivedRequest, name: str, path: str) -> Iterator[bytes]:
        """The time until it stops begins anew when the request ends, whatever its path."""
        with self.memory.use(name, request.left) as model:
            if model is None:
                return
            if path == "/v1/chat/completions":
                answer = self.reply(request, name)
                assert answer.pieces is not None
                yield from answer.pieces
                return
        raise RejectedError(as_json({"status": "ok"} if path == "/health" else {"model_alias": name}))
