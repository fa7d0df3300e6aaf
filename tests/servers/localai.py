"""A simulated server that lists all models it could serve and loads the one that is named: LocalAI, mlx_lm or Docker Model Runner.

Read in their sources: LocalAI (core/http: routes, middleware/request.go, endpoints/openai/list.go), mlx_lm (server.py) and
Docker Model Runner (pkg/inference, pkg/ollama, pkg/middleware/alias.go). None says in ``/v1/models`` what is in memory.

Costs: ``load``, ``eviction``, ``timer restart`` (where it unloads idle models), ``download`` (mlx_lm looks for an unknown name).
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from tests.servers.clock import Clock
from tests.servers.memory import Memory
from tests.servers.openai import AnswerShape, OpenAIServer
from tests.servers.simulated import ReceivedRequest, ServerAnswer, as_json, as_text

Kind = Literal["localai", "mlx_lm", "docker"]
SERVER_HEADERS: dict[Kind, str] = {"localai": "", "mlx_lm": "BaseHTTP/0.6 Python/3.12.7", "docker": ""}


class SimulatedLocalAI(OpenAIServer):
    """``models`` are what it could serve. ``ttl`` is LocalAI's watchdog; Docker Model Runner unloads after five minutes."""

    shape = AnswerShape(finish="own")

    def __init__(
        self,
        kind: Kind = "localai",
        *,
        models: tuple[str, ...] = ("llama-3.2-3b", "qwen3-14b"),
        loaded: tuple[str, ...] = (),
        ttl: float | None = None,
        most: int = 1,
        load_seconds: float = 0.0,
        tokens_per_second: float = 1000.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(tokens_per_second=tokens_per_second)
        self.kind = kind
        self.name = SERVER_HEADERS[kind]
        self.models = models
        self.clock = clock or Clock()
        ttl = 300.0 if kind == "docker" and ttl is None else ttl
        self.memory = Memory(self.cost, self.clock, most=most, ttl=ttl, load_seconds=load_seconds)
        for name in loaded:
            self.memory.add(name, ttl=ttl)

    def answer(self, request: ReceivedRequest) -> ServerAnswer:
        """As the one that it stands for."""
        path = (
            request.path.removeprefix("/engines/llama.cpp").removeprefix("/engines")
            if self.kind == "docker"
            else request.path
        )
        match request.method, path:
            case "GET", "/v1/models":
                return as_json({"object": "list", "data": [self._entry(each) for each in self.models]})
            case "POST", "/v1/chat/completions":
                return self._chat(request)
            case "POST", "/api/chat" if self.kind == "docker":
                return self._chat(request)
        found = {"localai": self._localai, "mlx_lm": self._mlx_lm, "docker": self._docker}[self.kind](request)
        return found or as_text("404 page not found", 404)

    def _entry(self, name: str) -> dict[str, Any]:
        created = {} if self.kind == "localai" else {"created": 1}
        owner = {"owned_by": "docker"} if self.kind == "docker" else {}
        return {"id": name, "object": "model", **created, **owner}

    def _localai(self, request: ReceivedRequest) -> ServerAnswer | None:
        match request.path:
            case "/readyz" | "/healthz":
                return as_text("OK")
            case "/version":
                return as_json({"version": "v3.7.0 (1a2b3c4)"})
            case "/system":
                return as_json(
                    {"backends": ["llama-cpp"], "loaded_models": [{"id": each} for each in self.memory.ready]}
                )
        return as_json({"error": {"code": 404, "message": "Resource not found", "type": ""}}, 404)

    def _mlx_lm(self, request: ReceivedRequest) -> ServerAnswer | None:
        return as_json({"status": "ok"}) if request.path == "/health" else as_text("Not Found", 404)

    def _docker(self, request: ReceivedRequest) -> ServerAnswer | None:
        """It imitates Ollama: what runs has no end, what is idle ends after its time."""
        match request.path:
            case "/":
                return as_text("Docker Model Runner is running")
            case "/api/version":
                return as_json({"version": "0.1.0"})
            case "/api/tags":
                return as_json({"models": [{"name": each, "model": each, "digest": "0" * 64} for each in self.models]})
            case "/api/ps":
                return as_json({"models": [self._running(each) for each in self.memory.ready]})
        return None

    def _running(self, name: str) -> dict[str, Any]:
        model = self.memory.models[name]
        ends = "0001-01-01T00:00:00Z"
        if not model.requests:
            ends = datetime.fromtimestamp(model.used_at + (model.ttl or 0), UTC).isoformat()
        return {"name": name, "model": name, "digest": "0" * 64, "expires_at": ends, "size": 0, "size_vram": 0}

    def _chat(self, request: ReceivedRequest) -> ServerAnswer:
        """Without a name the first one is taken; an unknown one is refused, by mlx_lm after it looked for it at the hub."""
        name = (request.body or {}).get("model") or self.models[0]
        if name not in self.models:
            self.cost("download", int(self.kind == "mlx_lm"))
            text = f'model "{name}" not found. To see available models, call GET /v1/models'
            return as_json({"error": {"code": 404, "message": text, "type": "invalid_request_error"}}, 404)
        if request.path == "/api/chat":
            answer = ServerAnswer(kind="application/x-ndjson", pieces=self.imitated(request, name))
        else:
            answer = self.reply(request, name)
        return ServerAnswer(kind=answer.kind, pieces=self._served(request, name, answer), late=True)

    def _served(self, request: ReceivedRequest, name: str, answer: ServerAnswer) -> Iterator[bytes]:
        assert answer.pieces is not None
        with self.memory.use(name, request.left) as model:
            if model is not None:
                yield from answer.pieces
