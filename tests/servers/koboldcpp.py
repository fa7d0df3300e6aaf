"""A simulated KoboldCpp: imitates Ollama and OpenAI, tells its queue, unloads when idle, and as a router swaps configurations.

Read in its source (request handler of do_GET and do_POST, the loop of --adminunloadtimeout, the router's proxy) and documentation.

Costs: ``load``, ``eviction``, ``timer restart``.
"""

from collections.abc import Iterator
from typing import Any

from tests.servers.clock import Clock
from tests.servers.memory import Memory
from tests.servers.openai import AnswerShape, OpenAIServer
from tests.servers.simulated import ReceivedRequest, ServerAnswer, as_json

# Requests that wait for the one that runs; one more is refused (--multiuser).
MOST_WAITING = 6
MISSING = b"Error: HTTP Server is running, but this endpoint does not exist. Please check the URL."


class SimulatedKoboldCpp(OpenAIServer):
    """``router`` are the further configurations of --routermode, ``unload_timeout`` is --adminunloadtimeout in seconds."""

    name = "ConcedoLlamaForKoboldServer"
    shape = AnswerShape(role="never", usage="never")

    def __init__(
        self,
        *,
        model: str = "qwen3-8b",
        router: tuple[str, ...] = (),
        unload_timeout: float = 0,
        load_seconds: float = 0.0,
        tokens_per_second: float = 1000.0,
        prefill_seconds: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(tokens_per_second=tokens_per_second, prefill_seconds=prefill_seconds)
        self.model = f"koboldcpp/{model}"
        self.router = router
        self.clock = clock or Clock()
        self.started = self.clock()
        self.memory = Memory(self.cost, self.clock, ttl=unload_timeout or None, load_seconds=load_seconds)
        self.memory.add(self.model, ttl=unload_timeout or None)
        self.requested_at = self.clock()
        self.answers = 0

    def answer(self, request: ReceivedRequest) -> ServerAnswer:  # noqa: PLR0911 - one case for each path
        """As KoboldCpp."""
        match request.method, request.path.rstrip("/"):
            case "GET", "/api/extra/version":
                return as_json(
                    {"result": "KoboldCpp", "version": "1.104", "protected": False, "admin": 1 if self.router else 0}
                )
            case "GET", "/api/extra/perf":
                return as_json(self._perf())
            case "GET", "/api/extra/true_max_context_length":
                return as_json({"value": 8192})
            case "GET", "/api/v1/model":
                return as_json({"result": self._name()})
            case "GET", "/v1/models" | "/models":
                data = [self._entry(each) for each in (self._name(), *self.router)]
                return as_json({"object": "list", "data": data})
            case "GET", "/api/tags" | "/api/ps":
                # The same for both, in memory or not, with a time far away.
                return as_json({"models": [self._ollama(f"{self._name()}:latest"), self._ollama(self._name())]})
            case "GET", "/api/version":
                return as_json({"version": "0.7.0"})
            case "GET", "/ping":
                return as_json({"status": "healthy"})
            case "POST", "/v1/chat/completions":
                return self._chat(request)
            case _:
                return ServerAnswer(404, MISSING, "text/html")

    def _name(self) -> str:
        return next(iter(self.memory.ready), "koboldcpp/inactive")

    def _entry(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": 1,
            "owned_by": "koboldcpp",
            "permission": [],
            "root": "koboldcpp",
        }

    def _ollama(self, name: str) -> dict[str, Any]:
        details = {"format": "gguf", "family": "koboldcpp", "parameter_size": "128M", "quantization_level": "Q4_0"}
        stay = {"expires_at": "2055-06-04T19:06:25.5433636+08:00", "size": 394998579, "size_vram": 394998579}
        return {"name": "koboldcpp", "model": name, "digest": "0" * 64, "details": details, **stay}

    def _perf(self) -> dict[str, Any]:
        """``queue`` is who waits, ``idle`` 0 while one runs, ``idletime`` the time since the last request began."""
        return {
            "last_process_speed": 0.0,
            "last_eval_speed": 1 / self.pace if self.answers else 0.0,
            "last_token_count": self.last_count,
            "total_gens": self.answers,
            "queue": self.queue.waiting,
            "idle": 0 if self.queue.running else 1,
            "uptime": self.clock() - self.started,
            "idletime": self.clock() - self.requested_at,
            "quiet": False,
        }

    def _chat(self, request: ReceivedRequest) -> ServerAnswer:
        """Only a router loads: the model that is named, or the first one after it was unloaded for being idle."""
        if self.queue.waiting >= MOST_WAITING:
            detail = {"msg": "Server is busy; please try again later.", "type": "service_unavailable"}
            return as_json({"detail": detail}, 503)
        named = (request.body or {}).get("model")
        name = named if named in self.router else self.model
        if not self.router and name not in self.memory.ready:
            # The text is made up: what the real one says without a model was not seen.
            return as_json({"detail": {"msg": "No text model loaded", "type": "service_unavailable"}}, 503)
        answer = self.reply(request, name)
        return ServerAnswer(kind=answer.kind, pieces=self._served(request, name, answer), late=True)

    def _served(self, request: ReceivedRequest, name: str, answer: ServerAnswer) -> Iterator[bytes]:
        assert answer.pieces is not None
        with self.memory.use(name, request.left) as model:
            if model is None:
                return
            self.requested_at = self.clock()
            try:
                yield from answer.pieces
            finally:
                self.answers += 1
