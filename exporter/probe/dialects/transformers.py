"""``transformers serve``: refuses unknown fields, ignores ``max_completion_tokens``, ends its stream without [DONE].

Started with a model, it lists none and serves that one; started without, it lists what is on the disk and loads on request.
So no model is ever picked from its list: a probe names the configured one, or none.
"""

from dataclasses import dataclass, replace
from typing import Final

from exporter.probe.client import Request
from exporter.probe.dialects.dialect import (
    ChatRequest,
    Dialect,
    Get,
    ServerStatus,
    StatusQuery,
    json_of,
    member,
    text_of,
    unusable,
)
from exporter.probe.dialects.openai import OPTIONAL, chat_request, read_chat
from exporter.probe.result import Identity
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta

_ID: Final = "x-request-id"
NOTICE: Final = "transformers serve can't tell whether it is busy, nor which model is in memory"


@dataclass(frozen=True, slots=True)
class Transformers(Dialect):
    """``transformers serve``."""

    name: str = "transformers"
    # It takes max_tokens and ignores the newer name, so that field must stay.
    optional: frozenset[str] = OPTIONAL - {"max_tokens"}

    def recognise(self, get: Get) -> bool:
        """Its answers carry a request id, but for the list of models, which fails while the cache folder is missing: then the
        path that it does not have shows it. Its health is asked last, since that costs something on another server.
        """
        models = get("/v1/models")
        listing = isinstance(member(json_of(models), "data"), list)
        if not (models.status == 500 or (listing and _ID in models.headers)):
            return False
        missing = get("/version")
        return missing.status == 404 and _ID in missing.headers and member(json_of(get("/health")), "status") == "ok"

    def status(self, query: StatusQuery) -> ServerStatus:
        """Two reads: its health check and its list. Started with a model, it lists none and answers with that one; started
        without, it loads (and downloads) what a request names, and can't tell what is in memory.
        """
        health = query.get("/health")
        if health.status != 200:
            raise unusable("/health", health)
        listing = member(json_of(query.get("/v1/models")), "data")
        loads = query.wanted is not None and bool(listing)
        names = (
            tuple(name for each in listing or () if (name := text_of(member(each, "id"))))
            if query.wanted is None
            else ()
        )
        return ServerStatus(
            Identity(self.name, model=query.wanted),
            model=query.wanted,
            choices=names,
            resident=False if loads else None,
            unloads=bool(listing),
            notice=NOTICE,
        )

    def request(self, chat: ChatRequest) -> Request:
        """The plain streaming chat request; its length can't be fixed, its cache not be passed by.

        It names a model only if it may load one: a server that was started with a model answers with that one anyway.
        """
        return chat_request(chat if chat.may_load else replace(chat, model=None))

    def read(self, event: Event) -> Delta:
        """One chunk of a chat completion."""
        return read_chat(event)
