"""LiteLLM's proxy: a gateway to other servers, some of which send a bill. Only a model that the target names is probed.

``/v1/models`` is free and lists all that are configured; ``/health`` would call each of them, so it is never read.
``/v1/model/info`` says, if the key may read it, what kind of model a name is and what its tokens cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from exporter.probe.dialects.dialect import (
    Get,
    ServerStatus,
    StatusQuery,
    entries_of,
    number_of,
    size_of,
    text_of,
)
from exporter.probe.dialects.openai import OpenAI, is_gateway, status_by_models

INFO: Final = "/v1/model/info"
_NO_TEXT: Final = frozenset(
    {"embedding", "rerank", "image_generation", "audio_transcription", "audio_speech", "moderation"}
)


@dataclass(frozen=True, slots=True)
class LiteLLM(OpenAI):
    """LiteLLM's proxy."""

    name: str = "litellm"

    def recognise(self, get: Get) -> bool:
        """By its headers, or the date that it gives to every model."""
        return is_gateway(get("/v1/models"))

    def status(self, query: StatusQuery) -> ServerStatus:
        """One read, the list; one more for a named model: what it is and what it costs."""
        status = status_by_models(self.name, query)
        if status.key_refused:
            return status
        version = query.get("/v1/models").headers.get("x-litellm-version")
        status = replace(status, identity=replace(status.identity, backend_version=version))
        if query.wanted is None:
            return status
        # Several deployments may stand behind one name: what one of them costs, a probe may cost.
        deployments = [each for each in entries_of(query.get(INFO), "data") if each.get("model_name") == query.wanted]
        return _described(status, query.wanted, deployments)


def _described(status: ServerStatus, name: str, deployments: list[dict[str, Any]]) -> ServerStatus:
    infos = [info for each in deployments if isinstance(info := each.get("model_info"), Mapping)]
    modes = {text_of(each.get("mode")) for each in infos}
    context = next(filter(None, (size_of(each.get("max_input_tokens")) for each in infos)), None)
    identity = replace(status.identity, context_length=status.identity.context_length or context)
    unable = f"{name} is no model of text" if modes and modes <= _NO_TEXT else ""
    return replace(status, identity=identity, unable=unable, notice=_price(name, infos) or status.notice)


def _price(name: str, infos: list[Mapping[str, Any]]) -> str:
    """What a probe of a model costs, in words; empty if LiteLLM names no price."""
    prices = [
        (number_of(each.get("input_cost_per_token")), number_of(each.get("output_cost_per_token"))) for each in infos
    ]
    paid = [each for each in prices if any(each)]
    if not paid:
        return ""
    prompt, output = (max(each[kind] or 0.0 for each in paid) * 1e6 for kind in (0, 1))
    return (
        f"each probe of {name} is paid: {prompt:g} USD for a million prompt tokens, {output:g} for a million of output"
    )
