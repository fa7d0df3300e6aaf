"""text-generation-webui (oobabooga): one model in memory, named by ``/v1/internal/model/info``; requests never change it."""

from collections.abc import Mapping
from dataclasses import dataclass
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
        """One read. The configured model does not count: a request is answered by the model in memory, whatever it names.

        With ``--idle-timeout`` it names a model that it has unloaded, so a name is no sign that the model is in memory.
        """
        wanted = query.wanted
        reply = query.get(INFO)
        if refused_without_key(reply):
            return wants_key(self.name, wanted)
        info = json_of(reply)
        if not isinstance(info, Mapping):
            raise unusable(INFO, reply)
        named = text_of(info.get("model_name"))
        model = None if named == "None" else named
        resident = None if model is not None and wanted in {None, model} else False
        identity = Identity(self.name, model=model or wanted)
        return ServerStatus(identity, model=model or wanted, resident=resident, unloads=None, notice=NOTICE)

    def request(self, chat: ChatRequest) -> Request:
        """A chat that the end-of-text token does not end."""
        return chat_request(chat, {"ban_eos_token": True})

    def read(self, event: Event) -> Delta:
        """One chunk of a chat completion."""
        return read_chat(event)
