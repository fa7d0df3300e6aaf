"""text-generation-webui (oobabooga): one model, named by ``/v1/internal/model/info``; requests never change which.

With ``--idle-timeout`` it goes on to name a model that it has unloaded, and any request for text loads that again. Its
tokenizer leaves the memory with the model (modules/models.py, unload_model). Asking it loads nothing, waits for no request and
restarts no timer (modules/text_generation.py, encode). So counting the tokens of a word works while the model is in memory, and
is a 500 while it is not.
"""

import json
from collections.abc import Mapping
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
    refused_without_key,
    text_of,
    unusable,
    wants_key,
)
from exporter.probe.dialects.openai import OPTIONAL, chat_request, read_chat
from exporter.probe.result import Identity
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta

INFO: Final = "/v1/internal/model/info"
COUNT: Final = "/v1/internal/token-count"
_WORD: Final = json.dumps({"text": "a"}).encode()
# The 500 leaves a traceback in the server's log, so that a model which is not in memory is asked for this seldom.
ASK_AGAIN_SECONDS: Final = 300.0
NOTICE: Final = "text-generation-webui can't tell whether it is busy"


@dataclass(frozen=True, slots=True)
class TextGenerationWebui(Dialect):
    """The API of text-generation-webui (``--api``)."""

    name: str = "text_generation_webui"
    optional: frozenset[str] = OPTIONAL | {"ban_eos_token"}

    def recognise(self, get: Get) -> bool:
        """It says which model and which LoRAs are loaded, at a path of its own."""
        info = json_of(get(INFO))
        return isinstance(info, Mapping) and {"model_name", "lora_names"} <= info.keys()

    def status(self, query: StatusQuery) -> ServerStatus:
        """Two reads. The configured model does not count: a request is answered by the model in memory, whatever it names."""
        wanted = query.wanted
        reply = query.get(INFO)
        if refused_without_key(reply):
            return wants_key(self.name, wanted)
        info = json_of(reply)
        if not isinstance(info, Mapping):
            raise unusable(INFO, reply)
        named = text_of(info.get("model_name"))
        model = None if named == "None" else named
        identity = Identity(self.name, model=model or wanted)
        status = ServerStatus(identity, model=model or wanted, resident=False, unloads=None, notice=NOTICE)
        return _with_residency(status, query) if model is not None and wanted in {None, model} else status

    def request(self, chat: ChatRequest) -> Request:
        """A chat that the end-of-text token does not end."""
        return chat_request(chat, {"ban_eos_token": True})

    def read(self, event: Event) -> Delta:
        """One chunk of a chat completion."""
        return read_chat(event)


def _with_residency(status: ServerStatus, query: StatusQuery) -> ServerStatus:
    """Whether the model that it names is in memory, by its tokenizer; None if that can't be asked."""
    last = query.last
    asked_at = last.resident_asked_at if last and last.model == status.model and last.resident is False else None
    if asked_at is not None and 0 <= query.now - asked_at < ASK_AGAIN_SECONDS:
        return replace(status, resident_asked_at=asked_at)
    resident = {200: True, 500: False}.get(query.get(COUNT, _WORD).status)
    return replace(status, resident=resident, resident_asked_at=query.now)
