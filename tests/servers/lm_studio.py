"""A simulated LM Studio: loads on request for an hour, says what is in memory, answers unknown paths with 200.

Read in its documentation (REST API v0, Idle TTL and Auto-Evict); that unknown paths give 200 is what its log says of them.

Costs: ``load`` (just in time), ``eviction`` (Auto-Evict keeps one of those), ``timer restart``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.servers.clock import Clock
from tests.servers.memory import Memory
from tests.servers.openai import AnswerShape, OpenAIServer
from tests.servers.simulated import ReceivedRequest, ServerAnswer, as_json

JIT_TTL = 3600.0


@dataclass(frozen=True)
class Downloaded:
    """A model on its disk: ``kind`` is llm, vlm or embeddings."""

    kind: str = "llm"
    quantization: str = "Q4_K_M"
    context: int = 131_072


class SimulatedLMStudio(OpenAIServer):
    """A model of text, one of pictures, one for embeddings. ``load`` puts one into memory as its user does, for good."""

    name = ""
    shape = AnswerShape(role_delta={"role": "assistant", "content": ""})

    def __init__(
        self,
        *,
        just_in_time: bool = True,
        ttl: float = JIT_TTL,
        load_seconds: float = 0.0,
        tokens_per_second: float = 1000.0,
        prefill_seconds: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(tokens_per_second=tokens_per_second, prefill_seconds=prefill_seconds)
        self.just_in_time = just_in_time
        self.models = {
            "meta-llama-3.1-8b-instruct": Downloaded(),
            "qwen2-vl-7b-instruct": Downloaded("vlm", "4bit", 32_768),
            "text-embedding-nomic-embed-text-v1.5": Downloaded("embeddings", "Q4_0", 2048),
        }
        self.clock = clock or Clock()
        self.memory = Memory(self.cost, self.clock, ttl=ttl, load_seconds=load_seconds, spares_pinned=True)

    def load(self, name: str, *, just_in_time: bool = False) -> None:
        """A user's load; one by a request of its user is just in time."""
        self.memory.add(name, ttl=self.memory.ttl if just_in_time else None)

    def answer(self, request: ReceivedRequest) -> ServerAnswer:
        """As its server."""
        match request.method, request.path:
            case "GET", "/v1/models":
                names = self.models if self.just_in_time else self.memory.ready
                data = [{"id": each, "object": "model", "owned_by": "organization_owner"} for each in names]
                return as_json({"object": "list", "data": data})
            case "GET", "/api/v0/models":
                return as_json({"object": "list", "data": [self._entry(each) for each in self.models]})
            case "POST", "/v1/chat/completions" | "/api/v0/chat/completions":
                return self._chat(request)
            case _:
                return as_json({"error": f"Unexpected endpoint or method. ({request.method} {request.path})"})

    def _entry(self, name: str) -> dict[str, Any]:
        model, loaded = self.models[name], name in self.memory.ready
        state = {"state": "loaded", "loaded_context_length": 4096} if loaded else {"state": "not-loaded"}
        entry = {"id": name, "object": "model", "type": model.kind, "publisher": "lmstudio-community", "arch": "llama"}
        more = {"quantization": model.quantization, "max_context_length": model.context}
        return {**entry, **more, "compatibility_type": "gguf", **state}

    def _chat(self, request: ReceivedRequest) -> ServerAnswer:
        name = (request.body or {}).get("model") or next(iter(self.memory.ready), None)
        if name not in self.models or (name not in self.memory.ready and not self.just_in_time):
            text = f"Model not found: {name}" if name else "No models loaded. Please load a model first."
            return as_json(
                {"error": {"message": text, "type": "invalid_request_error", "code": "model_not_found"}}, 404
            )
        if self.models[name].kind == "embeddings":
            # The text is made up: what the real one says was not seen.
            return as_json(
                {"error": {"message": f'Model "{name}" is not an LLM', "type": "invalid_request_error"}}, 400
            )
        answer = self.reply(request, name)
        return ServerAnswer(kind=answer.kind, pieces=self._served(request, name, answer), late=True)

    def _served(self, request: ReceivedRequest, name: str, answer: ServerAnswer) -> Iterator[bytes]:
        assert answer.pieces is not None
        with self.memory.use(name, request.left) as model:
            if model is not None:
                if model.ttl is not None and (ttl := request.body.get("ttl")):
                    model.ttl = float(ttl)
                yield from answer.pieces
