"""A simulated text-generation-webui: one lock, a role chunk before it, a model that unloads when idle and keeps its name.

Read in its source (modules/api/script.py, completions.py, models.py; modules/models.py; modules/text_generation.py).

Costs: ``load`` (by a request after an idle unload, or by its own API), ``timer restart``.
"""

import threading
import time
from collections.abc import Iterator
from typing import Any

from tests.servers.clock import Clock
from tests.servers.openai import AnswerShape, OpenAIServer
from tests.servers.simulated import ReceivedRequest, ServerAnswer, as_json, as_text

LOADERS = ("llama.cpp", "Transformers")


class SimulatedTextGenerationWebui(OpenAIServer):
    """``model`` is loaded at the start. ``idle_timeout`` is in minutes, 0 is never. ``loader`` is llama.cpp or Transformers.

    Usage is the answer tokenised again, which has a token for its beginning more than were generated; the Transformers loader says
    of every prompt that it has no tokens.
    """

    shape = AnswerShape(role="at once", role_delta={"role": "assistant", "refusal": None, "content": ""})
    extra_tokens = 1

    def __init__(
        self,
        *,
        model: str | None = "qwen3-8b.gguf",
        loader: str = "llama.cpp",
        idle_timeout: float = 0,
        load_seconds: float = 0.0,
        tokens_per_second: float = 1000.0,
        prefill_seconds: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(tokens_per_second=tokens_per_second, prefill_seconds=prefill_seconds)
        self.model = model
        self.loader = loader
        self.idle_timeout = idle_timeout
        self.load_seconds = load_seconds
        self.clock = clock or Clock()
        self.prompt_tokens = 0 if loader == "Transformers" else None
        self.used_at = self.clock()
        self._in_memory = model is not None
        self._loop = threading.Lock()

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory; the real one looks once a minute."""
        idle = self.clock() - self.used_at
        if self.idle_timeout > 0 and not self.queue.running and idle > self.idle_timeout * 60:
            self._in_memory = False
        return self._in_memory

    def answer(self, request: ReceivedRequest) -> ServerAnswer:
        """As its API; a load by the API holds all other answers."""
        with self._loop:
            return self._answer(request)

    def _answer(self, request: ReceivedRequest) -> ServerAnswer:  # noqa: PLR0911 - one case for each path
        match request.method, request.path:
            case "GET", "/v1/models":
                return as_json({"object": "list", "data": [self._entry()] if self.model else []})
            case "GET", "/v1/internal/model/info":
                # The name stays while the model is unloaded for being idle.
                return as_json({"model_name": self.model or "None", "lora_names": [], "loader": self.loader})
            case "POST", "/v1/internal/token-count":
                # Its tokenizer leaves the memory with the model; asking it loads nothing (modules/text_generation.py, encode).
                if not self.loaded:
                    return as_text("Internal Server Error", 500)
                return as_json({"length": len(request.body["text"].split()) + 1})
            case "GET", "/v1/internal/health":
                return as_json({"status": "ok"})
            case "POST", "/v1/internal/model/load":
                self._load()
                self.model = request.body["model_name"]
                return as_json("OK")
            case "POST", "/v1/internal/model/unload":
                self.model, self._in_memory = None, False
                return as_json("OK")
            case "POST", "/v1/chat/completions":
                return self.reply(request, self.model or "None", late=False)
            case _:
                return as_json({"detail": "Not Found"}, 404)

    def _entry(self) -> dict[str, Any]:
        return {"id": self.model, "object": "model", "created": 0, "owned_by": "user"}

    def _load(self) -> None:
        self.cost("load")
        time.sleep(self.load_seconds)
        self._in_memory = True
        self.used_at = self.clock()

    def stream(self, request: ReceivedRequest, model: str) -> Iterator[bytes]:
        """The model field of a request is not looked at: a chat can't load another one, but any loads the one that was unloaded.

        That is before the lock, so two requests at once load it twice.
        """
        events = super().stream(request, model)
        yield next(events)
        if not self.loaded:
            if self.model is None:
                # Without a model there is no tokenizer for the usage: the stream breaks off.
                return
            self._load()
        try:
            yield from events
        finally:
            self.used_at = self.clock()
            if self.idle_timeout:
                self.cost("timer restart")
