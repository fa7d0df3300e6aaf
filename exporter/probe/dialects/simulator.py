"""The exporter's own simulated server: the OpenAI chat API under a name of its own, so that its figures can't be mistaken."""

from dataclasses import dataclass
from typing import Final

from exporter.probe.client import Request
from exporter.probe.dialects.dialect import ChatRequest, Dialect, Get, ServerStatus, StatusQuery, entries_of
from exporter.probe.dialects.openai import OPTIONAL, chat_request, read_chat, status_by_models
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta

OWNER: Final = "llm-probe-exporter"


@dataclass(frozen=True, slots=True)
class Simulator(Dialect):
    """``llm-probe-exporter demo``."""

    name: str = "simulator"
    optional: frozenset[str] = OPTIONAL

    def recognise(self, get: Get) -> bool:
        """It says whose it is."""
        return any(each.get("owned_by") == OWNER for each in entries_of(get("/v1/models"), "data"))

    def status(self, query: StatusQuery) -> ServerStatus:
        """One read: the list of models."""
        return status_by_models(self.name, query)

    def request(self, chat: ChatRequest) -> Request:
        """The plain streaming chat request."""
        return chat_request(chat)

    def read(self, event: Event) -> Delta:
        """One chunk of a chat completion."""
        return read_chat(event)
