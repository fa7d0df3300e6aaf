"""TabbyAPI (ExLlama): ``/v1/model`` is the model in memory; a request is answered by it, unless inline loading is on."""

from dataclasses import dataclass, replace
from typing import Final

from exporter.probe.client import Request
from exporter.probe.dialects.dialect import (
    ChatRequest,
    Get,
    ServerStatus,
    StatusQuery,
    json_of,
    member,
    refused_without_key,
    size_of,
    text_of,
    unusable,
    wants_key,
)
from exporter.probe.dialects.openai import NOTICE, OPTIONAL, OpenAI, chat_request, is_owned_by
from exporter.probe.result import Identity

MODEL: Final = "/v1/model"


@dataclass(frozen=True, slots=True)
class TabbyAPI(OpenAI):
    """TabbyAPI."""

    name: str = "tabbyapi"
    optional: frozenset[str] = OPTIONAL | {"min_tokens", "ban_eos_token"}

    def recognise(self, get: Get) -> bool:
        """Its models are owned by "tabbyAPI"."""
        return is_owned_by(get, "tabbyAPI")

    def status(self, query: StatusQuery) -> ServerStatus:
        """One read. It never unloads a model by itself, and can't tell whether it is busy."""
        wanted = query.wanted
        reply = query.get(MODEL)
        if refused_without_key(reply):
            return wants_key(self.name, wanted)
        if reply.status != 200 and query.get("/v1/models").status != 200:
            raise unusable("/v1/models", query.get("/v1/models"))
        card = json_of(reply)  # of another status while nothing is loaded
        loaded = text_of(member(card, "id"))
        model = wanted or loaded
        identity = Identity(self.name, model=model)
        if model == loaded:
            identity = replace(identity, context_length=size_of(member(card, "parameters", "max_seq_len")))
        return ServerStatus(identity, model=model, resident=loaded is not None and model == loaded, notice=NOTICE)

    def request(self, chat: ChatRequest) -> Request:
        """A chat that the end-of-text token does not end."""
        return chat_request(chat, {"ban_eos_token": True, "min_tokens": chat.max_tokens})
