"""A simulated LiteLLM proxy: it has no model, every request goes to somebody else, and some of those send a bill.

Read at a running proxy 1.108.0 and in its source (proxy/health_endpoints, proxy/proxy_server.py, proxy/common_request_processing.py).

Costs: ``paid call`` (a chat to a model of a cloud, by whichever path), ``call`` (a chat to any other).
"""

from typing import Any

from tests.servers.openai import AnswerShape, OpenAIServer
from tests.servers.simulated import ReceivedRequest, ServerAnswer, as_json

GUARDED = (
    "/v1/models",
    "/models",
    "/health",
    "/v1/model/info",
    "/model/info",
    "/v1/chat/completions",
    "/chat/completions",
)


class SimulatedLiteLLM(OpenAIServer):
    """``models`` are the names that it serves with what a token of their input costs in USD; None costs nothing.

    ``open_info`` says whether ``/v1/model/info`` may be read; ``key`` is wanted for all but the free health paths.
    """

    name = ""  # the real one's answers have no Server header
    shape = AnswerShape(
        role_delta={"role": "assistant"}, usage_choices=[{"index": 0, "delta": {}}], more={"system_fingerprint": None}
    )

    def __init__(
        self,
        models: dict[str, float | None] | None = None,
        *,
        version: str = "1.108.0",
        key: str | None = None,
        open_info: bool = True,
        tokens_per_second: float = 1000.0,
    ) -> None:
        super().__init__(tokens_per_second=tokens_per_second, slots=64)
        self.models = {"local": None, "gpt-4o": 2.5e-06} if models is None else models
        self.version = version
        self.key = key
        self.open_info = open_info

    def answer(self, request: ReceivedRequest) -> ServerAnswer:  # noqa: PLR0911 - one case for each path
        """As the proxy."""
        match request.method, request.path:
            case "GET", "/":
                return ServerAnswer(
                    body=b"<!DOCTYPE html><html><title>LiteLLM API</title></html>", kind="text/html; charset=utf-8"
                )
            case "GET", "/health/liveliness" | "/health/liveness":
                return as_json("I'm alive!")
            case "GET", "/health/readiness":
                return as_json({"status": "healthy", "db": "Not connected"})
            case _, path if (
                path in GUARDED and self.key and request.headers.get("authorization") != f"Bearer {self.key}"
            ):
                return _error("Authentication Error, No api key passed in.", "auth_error", 401)
            case "GET", "/v1/models" | "/models":
                return as_json({"data": [self._entry(name) for name in self.models], "object": "list"})
            case "GET", "/health":
                return self._health()
            case "GET", "/v1/model/info" | "/model/info":
                return self._info()
            case "POST", "/v1/chat/completions" | "/chat/completions":
                return self._chat(request)
            case "GET", "/v1/chat/completions" | "/chat/completions":
                return as_json({"detail": "Method Not Allowed"}, 405)
            case _:
                return as_json({"detail": "Not Found"}, 404)

    def _entry(self, name: str) -> dict[str, Any]:
        """All that are configured, wherever they are; the time of creation is always the same."""
        return {"id": name, "object": "model", "created": 1677610602, "owned_by": "openai"}

    def _health(self) -> ServerAnswer:
        """A chat is sent to every model that is configured, unless background_health_checks is on."""
        for name in self.models:
            self._count(name)
        healthy = [{"model": f"openai/{name}", "model_id": name} for name in self.models]
        counts = {"healthy_count": len(healthy), "unhealthy_count": 0}
        return as_json({"healthy_endpoints": healthy, "unhealthy_endpoints": [], **counts})

    def _info(self) -> ServerAnswer:
        if not self.open_info:
            return _error("Authentication Error, Only proxy admin can be used to see this.", "auth_error", 403)
        data = [
            {
                "model_name": name,
                "litellm_params": {"model": f"openai/{name}"},
                "model_info": {"id": name, "db_model": False, "mode": "chat", "input_cost_per_token": cost},
            }
            for name, cost in self.models.items()
        ]
        return as_json({"data": data})

    def _chat(self, request: ReceivedRequest) -> ServerAnswer:
        name = (request.body or {}).get("model")
        if name not in self.models:
            text = f"/chat/completions: Invalid model name passed in model={name}. Call `/v1/models` to view available models for your key."
            return _error(text, "invalid_request_error", 400)
        self._count(name)
        answer = self.reply(request, name)
        headers = {"x-litellm-version": self.version, "x-litellm-model-id": name}
        return ServerAnswer(kind=answer.kind, headers=headers, pieces=answer.pieces, late=True)

    def _count(self, name: str) -> None:
        self.cost("call" if self.models[name] is None else "paid call")


def _error(text: str, kind: str, status: int) -> ServerAnswer:
    return as_json({"error": {"message": text, "type": kind, "param": "None", "code": str(status)}}, status)
