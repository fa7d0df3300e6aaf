"""A simulated ``transformers serve``: with a model of its own, or loading (and downloading) what a request names.

Read in transformers 5.19 (cli/serving/model_manager.py, server.py, utils.py) and at a running one, whose answers are recorded.

Costs: ``load``, ``download`` (a model that isn't on the disk), ``timer restart``.
"""

from collections.abc import Iterator
from typing import Any

from tests.servers.captured import load
from tests.servers.clock import Clock
from tests.servers.memory import Memory
from tests.servers.openai import AnswerShape, OpenAIServer
from tests.servers.simulated import ReceivedRequest, ServerAnswer, as_json, as_text

MODEL_TIMEOUT = 300.0
ACCEPTED = frozenset({"model", "messages", "stream", "stream_options", "max_tokens", "temperature", "seed", "top_p"})


class SimulatedTransformersServe(OpenAIServer):
    """``model`` is what it was started with, None for a server that loads on request. ``hub`` says that the cache's folder is there.

    One request at a time; no read tells whether one runs. Several models may be in memory.
    """

    shape = AnswerShape(
        role="at once",
        role_delta={"role": "assistant"},
        usage="finish",
        always=True,
        done=False,
        more={"system_fingerprint": ""},
    )

    def __init__(
        self,
        *,
        model: str | None = "./tiny-hf",
        on_disk: tuple[str, ...] = ("Qwen/Qwen3-8B",),
        hub: bool = True,
        load_seconds: float = 0.0,
        tokens_per_second: float = 1000.0,
        prefill_seconds: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(tokens_per_second=tokens_per_second, prefill_seconds=prefill_seconds)
        self.model = model
        self.on_disk = on_disk
        self.hub = hub
        self.clock = clock or Clock()
        ttl = MODEL_TIMEOUT if model is None else None
        self.memory = Memory(self.cost, self.clock, most=99, ttl=ttl, load_seconds=load_seconds)
        if model is not None:
            self.memory.add(model)

    def answer(self, request: ReceivedRequest) -> ServerAnswer:
        """As it; each answer has a request id, but for one that failed in the server."""
        answer = self._answer(request)
        if answer.status == 500:
            return answer
        headers = {**answer.headers, "x-request-id": "0c5a7d3e-1b6f-4f0e-9a53-3c1d1e2f0a01"}
        return ServerAnswer(answer.status, answer.body, answer.kind, headers, answer.pieces, answer.late)

    def _answer(self, request: ReceivedRequest) -> ServerAnswer:
        match request.method, request.path:
            case "GET", "/health":
                return as_json({"status": "ok"})
            case "GET", "/v1/models":
                if not self.hub:
                    return load("transformers-serve/error-no-cache-folder")
                data = [
                    {"id": each, "object": "model", "owned_by": each.split("/")[0], "created": 1}
                    for each in self.on_disk
                ]
                return as_json({"object": "list", "data": data})
            case "POST", "/v1/chat/completions":
                return self._chat(request)
            case "GET", "/v1/chat/completions":
                return as_json({"detail": "Method Not Allowed"}, 405)
            case _:
                return load("transformers-serve/error-404")

    def _chat(self, request: ReceivedRequest) -> ServerAnswer:
        body: Any = request.body
        if not isinstance(body, dict):
            return as_json({"detail": [{"type": "json_invalid", "msg": "JSON decode error"}]}, 422)
        if unknown := body.keys() - ACCEPTED:
            return as_json({"detail": f"Unexpected fields in the request: {unknown}"}, 422)
        if "messages" not in body or (self.model is None and not body.get("model")):
            return as_text("Internal Server Error", 500)
        name = str(body.get("model") or self.model)
        if self.model is not None and name != self.model:
            return as_json({"detail": f"Server is pinned to '{self.model}'; requested '{name}'."}, 400)
        answer = self.reply(request, f"{name}@main")
        return ServerAnswer(
            kind="text/event-stream; charset=utf-8", pieces=self._served(request, name, answer), late=True
        )

    def _served(self, request: ReceivedRequest, name: str, answer: ServerAnswer) -> Iterator[bytes]:
        assert answer.pieces is not None
        if name not in self.memory.models and name not in self.on_disk:
            self.cost("download")
        with self.memory.use(name, request.left) as model:
            if model is not None:
                yield from answer.pieces
