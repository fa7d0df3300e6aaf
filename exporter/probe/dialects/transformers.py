"""``transformers serve``: refuses unknown fields, ignores ``max_completion_tokens``, ends its stream without [DONE].

Started with a model, it lists none and serves that one; started without, it lists what is on the disk and loads on request.
So no model is ever picked from its list: a probe names the configured one, or none.
"""

from dataclasses import dataclass
from typing import Final

from exporter.probe.client import Request
from exporter.probe.dialects.dialect import ChatRequest, Get, ServerStatus, StatusQuery, json_of, member, unusable
from exporter.probe.dialects.openai import OPTIONAL, chat_request, read_chat
from exporter.probe.result import Identity
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta

NOTICE: Final = "transformers serve can't tell whether it is busy, nor which model is in memory"


@dataclass(frozen=True, slots=True)
class Transformers:
    """``transformers serve``."""

    name: str = "transformers"
    # It takes max_tokens and ignores the newer name, so that field must stay.
    optional: frozenset[str] = OPTIONAL - {"max_tokens"}

    def recognise(self, get: Get) -> bool:
        """A health check like llama.cpp's, but every answer carries a request id and there is no version to ask for."""
        health = get("/health")
        return (
            member(json_of(health), "status") == "ok"
            and "x-request-id" in health.headers
            and isinstance(member(json_of(get("/v1/models")), "data"), list)
            and get("/version").status == 404
        )

    def status(self, query: StatusQuery) -> ServerStatus:
        """One read: its health check. The model that it serves is told by its answers."""
        health = query.get("/health")
        if health.status != 200:
            raise unusable("/health", health)
        return ServerStatus(Identity(self.name, model=query.wanted), model=query.wanted, notice=NOTICE)

    def request(self, chat: ChatRequest) -> Request:
        """The plain streaming chat request; its length can't be fixed, its cache not be passed by."""
        return chat_request(chat)

    def read(self, event: Event) -> Delta:
        """One chunk of a chat completion."""
        return read_chat(event)
