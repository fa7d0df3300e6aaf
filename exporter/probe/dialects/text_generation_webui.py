"""text-generation-webui (oobabooga): one model in memory, named by ``/v1/internal/model/info``; requests never change it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from exporter.probe.client import Request
from exporter.probe.dialects.dialect import (
    ChatRequest,
    Get,
    ServerStatus,
    StatusQuery,
    json_of,
    refused_without_key,
    text_of,
    unusable,
)
from exporter.probe.dialects.openai import KEY_WANTED, OPTIONAL, chat_request, read_chat
from exporter.probe.result import Identity
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta

INFO: Final = "/v1/internal/model/info"
NOTICE: Final = "text-generation-webui can't tell whether it is busy"


@dataclass(frozen=True, slots=True)
class TextGenerationWebui:
    """The API of text-generation-webui (``--api``)."""

    name: str = "text_generation_webui"
    optional: frozenset[str] = OPTIONAL | {"ban_eos_token"}

    def recognise(self, get: Get) -> bool:
        """It says which model and which LoRAs are loaded, at a path of its own."""
        info = json_of(get(INFO))
        return isinstance(info, Mapping) and {"model_name", "lora_names"} <= info.keys()

    def status(self, query: StatusQuery) -> ServerStatus:
        """One read. The configured model does not count: a request is answered by the model in memory, whatever it names."""
        wanted = query.wanted
        reply = query.get(INFO)
        if refused_without_key(reply):
            return ServerStatus(Identity(self.name, model=wanted), model=wanted, error=KEY_WANTED)
        info = json_of(reply)
        if not isinstance(info, Mapping):
            raise unusable(INFO, reply)
        loaded = text_of(info.get("model_name"))
        model = None if loaded == "None" else loaded
        resident = model is not None and wanted in {None, model}
        identity = Identity(self.name, model=model or wanted)
        return ServerStatus(identity, model=model or wanted, resident=resident, notice=NOTICE)

    def request(self, chat: ChatRequest) -> Request:
        """A chat that the end-of-text token does not end."""
        return chat_request(chat, {"ban_eos_token": True})

    def read(self, event: Event) -> Delta:
        """One chunk of a chat completion."""
        return read_chat(event)
