"""A simulated TabbyAPI: one model in memory, which answers whatever a request names; with inline loading the named one is loaded.

Read in its source (endpoints/core/router.py, core/types/model.py, OAI/utils/chat_completion.py, OAI/types/common.py); no real
one was at hand.

Costs: ``load``, ``eviction`` (inline loading).
"""

from tests.servers.openai import AnswerShape, OpenAIServer
from tests.servers.simulated import ReceivedRequest, ServerAnswer, as_json


class SimulatedTabbyAPI(OpenAIServer):
    """``models`` are in its folder, ``loaded`` is in memory. ``inline`` is inline_model_loading; ``key`` the admin's."""

    # The usage stands in the last chunk, which has the finish; no chunk names a role.
    shape = AnswerShape(role="never", usage="finish")

    def __init__(
        self,
        *,
        models: tuple[str, ...] = ("Qwen3-8B-exl3", "Mistral-7B-exl3"),
        loaded: str | None = "Qwen3-8B-exl3",
        inline: bool = False,
        key: str | None = None,
        tokens_per_second: float = 1000.0,
        prefill_seconds: float = 0.0,
    ) -> None:
        super().__init__(tokens_per_second=tokens_per_second, prefill_seconds=prefill_seconds, slots=8)
        self.models = models
        self.loaded = loaded
        self.inline = inline
        self.key = key

    def answer(self, request: ReceivedRequest) -> ServerAnswer:  # noqa: PLR0911 - one case for each path
        """As TabbyAPI."""
        if (
            self.key
            and request.path.startswith("/v1/")
            and request.headers.get("authorization") != f"Bearer {self.key}"
        ):
            return as_json({"detail": "Please provide an API key"}, 401)
        match request.method, request.path:
            case "GET", "/health":
                return as_json({"status": "healthy", "issues": []})
            case "GET", "/v1/models" | "/v1/model/list":
                return as_json({"object": "list", "data": [self._card(each) for each in self.models]})
            case "GET", "/v1/model":
                if self.loaded is None:
                    return as_json({"detail": "No models are currently loaded."}, 503)
                parameters = {"max_seq_len": 32768, "cache_size": 65536, "cache_mode": "8,8", "draft": None}
                return as_json({**self._card(self.loaded), "parameters": parameters})
            case "POST", "/v1/chat/completions":
                return self._chat(request)
            case _:
                return as_json({"detail": "Not Found"}, 404)

    def _card(self, name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": 1790000000,
            "owned_by": "tabbyAPI",
            "logging": None,
            "parameters": None,
        }

    def _chat(self, request: ReceivedRequest) -> ServerAnswer:
        named = (request.body or {}).get("model")
        if self.inline and named in self.models and named != self.loaded:
            self.cost("eviction", int(self.loaded is not None))
            self.cost("load")
            self.loaded = named
        if self.loaded is None:
            return as_json({"detail": "No models are currently loaded."}, 503)
        return self.reply(request, self.loaded, late=False)
