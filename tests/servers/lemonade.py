"""A simulated Lemonade: loads what a request names and evicts another for it, imitates Ollama, answers unknown paths with a page.

Read in its source 11.7 (src/cpp/server: server.cpp, ollama_api.cpp, prometheus_metrics.cpp, router.cpp) and at a running 11.7.

Costs: ``load``, ``eviction``, ``paid call`` (a model of a cloud), ``counter reset`` (a read of ``/metrics`` reads that of the
llama-server behind it, which empties its gauges).
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.servers.clock import Clock
from tests.servers.memory import Memory
from tests.servers.openai import AnswerShape, OpenAIServer
from tests.servers.simulated import ReceivedRequest, ServerAnswer, as_json, as_text

PAGE = b"<!DOCTYPE html><html><head><title>Lemonade</title></head><body></body></html>"


@dataclass(frozen=True)
class Offer:
    """A model that it lists: ``recipe`` is llamacpp, cloud, flm, …, ``kind`` llm, embedding, …"""

    recipe: str = "llamacpp"
    kind: str = "llm"


class SimulatedLemonade(OpenAIServer):
    """Two local models and one of a cloud; ``loaded`` are in memory, ``cloud_used`` says that the cloud's was asked before."""

    name = ""  # cpp-httplib sends no Server header
    shape = AnswerShape(role_delta={"role": "assistant", "content": None})

    def __init__(
        self,
        *,
        version: str = "11.7.0",
        loaded: tuple[str, ...] = (),
        cloud_used: bool = False,
        most: int = 1,
        load_seconds: float = 0.0,
        tokens_per_second: float = 1000.0,
        prefill_seconds: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(tokens_per_second=tokens_per_second, prefill_seconds=prefill_seconds)
        self.version = version
        self.models = {
            "Qwen3-8B-GGUF": Offer(),
            "Gemma-3-4b-it-GGUF": Offer(),
            "nomic-embed-text-v1-GGUF": Offer(kind="embedding"),
            "openrouter.gpt-4o": Offer(recipe="cloud"),
        }
        self.memory = Memory(self.cost, clock or Clock(), most=most, load_seconds=load_seconds)
        for name in loaded:
            self.memory.add(name)
        self.cloud_used = ["openrouter.gpt-4o"] if cloud_used else []

    def answer(self, request: ReceivedRequest) -> ServerAnswer:  # noqa: PLR0911 - one case for each path
        """As Lemonade; its own paths have four prefixes."""
        path = request.path
        for prefix in ("/api/v0/", "/api/v1/", "/v0/", "/v1/"):
            if path.startswith(prefix):
                return self._own(request, path.removeprefix(prefix))
        match request.method, path:
            case "GET", "/live":
                return as_json({"status": "ok"})
            case "GET", "/metrics":
                return self._metrics()
            case "GET", "/api/version":
                return as_json({"version": "0.16.1"})
            case "GET", "/api/tags":
                return as_json({"models": [self._ollama(name) for name in self.models]})
            case "GET", "/api/ps":
                return as_json({"models": [self._ollama(each) | self._stay() for each in self._loaded()]})
            case "POST", "/api/chat":
                return self._chat(request)
            case "GET", _ if not path.startswith(("/api", "/v0", "/v1", "/static", "/live", "/status", "/internal")):
                return ServerAnswer(body=PAGE, kind="text/html")
            case _:
                return as_text("", 404)

    def _own(self, request: ReceivedRequest, path: str) -> ServerAnswer:
        match request.method, path:
            case "GET", "health":
                return as_json(self._health())
            case "GET", "models":
                return as_json({"object": "list", "data": [self._entry(name) for name in self.models]})
            case "POST", "chat/completions":
                return self._chat(request)
            case "GET", "chat/completions":
                return as_json({"error": "Method Not Allowed. Use POST for this endpoint"}, 405)
            case _:
                return as_json({"error": {"message": f"The requested endpoint does not exist: {path}"}}, 404)

    def _loaded(self) -> list[str]:
        """A cloud's model that was used once counts as loaded, and stays the first."""
        return [*self.cloud_used, *self.memory.ready]

    def _health(self) -> dict[str, Any]:
        loaded = self._loaded()
        entries = [
            {
                "model_name": name,
                "type": self.models[name].kind,
                "recipe": self.models[name].recipe,
                "status": "ready",
                "loaded": True,
                "last_use": self.memory.models[name].used_at if name in self.memory.models else 0.0,
                "is_busy": bool(self.queue.running),
                "is_streaming": bool(self.queue.running),
            }
            for name in loaded
        ]
        state = {"status": "ok", "version": self.version, "model_loaded": loaded[-1] if loaded else None}
        return {**state, "all_models_loaded": entries, "max_models": {"llm": self.memory.most}}

    def _entry(self, name: str) -> dict[str, Any]:
        offer = self.models[name]
        labels = {"embedding": ["embeddings"]}.get(offer.kind, [])
        entry = {"id": name, "object": "model", "created": 1234567890, "owned_by": "lemonade", "recipe": offer.recipe}
        cloud = {"cloud_provider": "openrouter", "cost_input_per_million": 2.5} if offer.recipe == "cloud" else {}
        return {**entry, "labels": labels, "downloaded": True, **cloud}

    def _ollama(self, name: str) -> dict[str, Any]:
        details = {"format": "gguf", "family": self.models[name].recipe, "families": [self.models[name].recipe]}
        named = {"name": f"{name}:latest", "model": f"{name}:latest"}
        return {**named, "size": 0, "digest": "sha256:" + "0" * 64, "details": details}

    @staticmethod
    def _stay() -> dict[str, Any]:
        return {"expires_at": "2099-01-01T00:00:00Z", "size_vram": 0}

    def _metrics(self) -> ServerAnswer:
        lines = [f'lemonade_server_info{{version="{self.version}"}} 1', "lemonade_server_up 1"]
        for name in {*self.generated, *self._loaded()}:
            labels = f'model_name="{name}",recipe="{self.models[name].recipe}",type="{self.models[name].kind}"'
            lines.append(f"lemonade_model_loaded{{{labels}}} {int(name in self._loaded())}")
            lines.append(f"lemonade_model_output_tokens_total{{{labels}}} {self.generated[name]}")
            if name in self.memory.ready and self.models[name].recipe == "llamacpp":
                self.cost("counter reset")
                lines.append(f"lemonade_llamacpp_requests_processing{{{labels}}} {self.queue.running}")
                lines.append(f"lemonade_llamacpp_requests_deferred{{{labels}}} {self.queue.waiting}")
        return ServerAnswer(body="\n".join([*lines, ""]).encode(), kind="text/plain; version=0.0.4; charset=utf-8")

    def _chat(self, request: ReceivedRequest) -> ServerAnswer:
        named = ((request.body or {}).get("model") or "").removesuffix(":latest")
        name = named or next(iter(self._loaded()), None)
        if name is None:
            return as_json({"error": "No model loaded and no model specified in request"}, 400)
        if name not in self.models:
            error = {"message": f"Model '{name}' was not found. ", "type": "model_not_found", "code": "model_not_found"}
            return as_json({"error": error}, 404)
        if self.models[name].kind != "llm":
            text = "This model does not support chat completion. Only LLM models support this endpoint."
            return as_json({"error": {"message": text, "type": "invalid_request_error"}}, 400)
        if request.path == "/api/chat":
            answer = ServerAnswer(kind="application/x-ndjson", pieces=self.imitated(request, name))
        else:
            answer = self.reply(request, name)
        return ServerAnswer(kind=answer.kind, pieces=self._served(request, name, answer), late=True)

    def _served(self, request: ReceivedRequest, name: str, answer: ServerAnswer) -> Iterator[bytes]:
        assert answer.pieces is not None
        if self.models[name].recipe == "cloud":
            self.cost("paid call")
            with suppress(ValueError):
                self.cloud_used.remove(name)
            self.cloud_used.insert(0, name)
            yield from answer.pieces
            return
        with self.memory.use(name, request.left) as model:
            if model is None:
                return
            yield from answer.pieces
