"""The OpenAI chat API as such: what TGI, mlx_lm, Docker Model Runner, llama-cpp-python and others serve.

Other dialects build on its functions. Some of these servers load a model on request and list many. If they say which ones are
in memory (``residency``), only those are probed. If they don't, only one that the target names is probed, or the only one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from exporter.probe.client import Reply, Request
from exporter.probe.dialects.dialect import (
    MOST_LISTED,
    ChatRequest,
    Dialect,
    Get,
    ServerStatus,
    StatusQuery,
    count_of,
    entries_of,
    json_of,
    listed,
    member,
    object_of,
    refused_without_key,
    short_name,
    size_of,
    text_of,
    unusable,
    wants_key,
    without_ours,
)
from exporter.probe.dialects.residency import KOBOLD_PERF, ModelResidency, kobold_load, residency_of
from exporter.probe.dialects.texts import texts_of
from exporter.probe.result import Identity
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta, Usage

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
NOTICE: Final = "this server can't tell whether it is busy"
UNORDERED: Final = (
    "several models are in memory, and it doesn't say which was used last: a probe could change which is evicted first, so none is"
    " probed on schedule, unless its module says `when_idle: probe`"
)
LOADS: Final = "it doesn't say which models are in memory, so a probe may load the one that the target names"
PAID: Final = "the model that the target names runs in a cloud, so a probe may cost money"
V1_ONLY: Final = "only /v1 of this server can be reached, as through a proxy that passes nothing else: it can't tell whether it is busy"
GATEWAY: Final = "LiteLLM passes requests on to other servers: only a model that the target names is probed"
# The date of creation that LiteLLM gives to every model in its list.
LITELLM_CREATED: Final = 1677610602
INTERRUPTS: Final = (
    "llama-cpp-python's server: a second request interrupts the first one's stream, and it can't tell whether it is busy,"
    " so a probe may cut off a user's answer"
)
# Fields that a probe can do without. max_tokens is among them because newer APIs of OpenAI want max_completion_tokens.
OPTIONAL: Final = frozenset({"stream_options", "temperature", "seed", "max_tokens"})
COUNTED_OPTIONAL: Final = OPTIONAL | {"ignore_eos", "min_tokens", "cache_salt"}
# Some gateways write the null of JSON as a word.
_UNFINISHED: Final = frozenset({"null", "none", "None"})
# vLLM, SGLang and gateways end an answer so that they could not go on with.
_BROKEN_OFF: Final = frozenset({"error", "abort"})


@dataclass(frozen=True, slots=True)
class OpenAI(Dialect):
    """Any server of the OpenAI chat API that is no other dialect."""

    name: str = "openai"
    optional: frozenset[str] = OPTIONAL

    def recognise(self, get: Get) -> bool:
        """It lists models. One that refuses the list names itself in nothing: many a router and NAS answers so."""
        listing = json_of(get("/v1/models"))
        entries = member(listing, "data")
        if not isinstance(entries, list):
            return False
        return member(listing, "object") == "list" or (
            bool(entries)
            and all(isinstance(each, Mapping) and text_of(each.get("id")) for each in entries[:MOST_LISTED])
        )

    def status(self, query: StatusQuery) -> ServerStatus:
        """One read: the list of models; one more if the server says what is in memory."""
        return status_by_models(self.name, query)

    def others(self, get: Get, status: ServerStatus, ours: int) -> float | None:
        """KoboldCpp says who runs and who waits; the others can't."""
        if status.waiting is None:
            return None
        running, waiting = kobold_load(json_of(get(KOBOLD_PERF)))
        return without_ours(running, waiting, ours)

    def request(self, chat: ChatRequest) -> Request:
        """The plain streaming chat request."""
        return chat_request(chat)

    def read(self, event: Event) -> Delta:
        """One chunk of a chat completion."""
        return read_chat(event)


def is_owned_by(get: Get, owner: str) -> bool:
    """Whether the server's list names this owner of a model."""
    return any(each.get("owned_by") == owner for each in entries_of(get("/v1/models"), "data"))


def status_by_models(backend: str, query: StatusQuery) -> ServerStatus:
    """What ``GET /v1/models`` and the residency reads of such servers say."""
    wanted = query.wanted
    reply = query.get("/v1/models")
    if refused_without_key(reply):
        return wants_key(backend, wanted)
    if reply.status == 0 or reply.status >= 500:
        raise unusable("/v1/models", reply)
    entries = [each for each in entries_of(reply, "data") if text_of(each.get("id"))]
    if is_gateway(reply):
        return _gateway_status(backend, query, entries)
    memory = residency_of(query.get, entries)
    resident, remote = (memory.models, memory.remote) if memory else (None, frozenset())
    served = [each["id"] for each in entries if each["id"] not in remote]
    if there := [each for each in served if resident and each in resident]:
        served = [each for each in there if resident and _generates(resident[each])] or there
    model = wanted or (memory and memory.recent) or choose(served, resident, query.last)
    entry = next((each for each in entries if each["id"] == model), {})
    if resident and model is not None and model in resident:
        entry = {**resident[model], **entry}
    # A model of a cloud that the target names is in nobody's memory here, and asking it loads nothing.
    known = memory is not None and model is not None and model not in remote
    told = memory or ModelResidency({})
    activity = told.uses.get(model or "", told.activity)
    return ServerStatus(
        identity_of(backend, model, entry),
        model=model,
        choices=tuple(served) if model is None and len(served) > 1 else (),
        resident=model in told.models if known else None,
        running=told.running,
        waiting=told.waiting,
        activity=activity,
        activity_is_free=activity is not None,
        recent=told.recent,
        crowded=told.crowded,
        unloads=memory is not None,
        unable="" if _generates(entry) else f"{short_name(model)} is an embedding model",
        notice=_notice_of(
            entry,
            told,
            loads=wanted is not None and memory is None and served != [wanted],
            paid=model in remote,
        ),
    )


def _notice_of(entry: Mapping[str, Any], told: ModelResidency, *, loads: bool, paid: bool) -> str:
    """What a person should know of probes: what the server can't tell, and what a probe of a named model may cost."""
    if text_of(entry.get("owned_by")) == "me":
        return INTERRUPTS
    said = {
        NOTICE: told.running is None,
        UNORDERED: told.crowded and told.recent is None,
        LOADS: loads,
        PAID: paid,
    }
    return "; ".join(text for text, holds in said.items() if holds)


def is_gateway(models: Reply) -> bool:
    """Whether the answer to ``/v1/models`` is LiteLLM's: by its header, or by the date that it gives to every model."""
    if any(name.startswith("x-litellm-") for name in models.headers):
        return True
    entries = entries_of(models, "data")
    return bool(entries) and all(each.get("created") == LITELLM_CREATED for each in entries)


def _gateway_status(backend: str, query: StatusQuery, entries: list[dict[str, Any]]) -> ServerStatus:
    """A gateway passes requests on, to servers that cost money too: it is asked only for a model that the user names."""
    names = tuple(each["id"] for each in entries)
    return ServerStatus(
        Identity(backend, model=query.wanted), model=query.wanted, choices=() if query.wanted else names, notice=GATEWAY
    )


def _generates(entry: Mapping[str, Any]) -> bool:
    """False for a model that its entry calls one for embeddings (``type`` of LM Studio and Lemonade)."""
    return entry.get("type") not in {"embeddings", "embedding", "reranker"}


def choose(served: list[str], resident: Mapping[str, Any] | None, last: ServerStatus | None) -> str | None:
    """The model to probe if none is configured: the one before while it stays, else the first that is in memory.

    None if several are listed and nothing says which is in memory: a request for one could load it, or cost money.
    """
    first = [each for each in served if resident is None or each in resident]
    if resident is None and len(served) > 1:
        return None
    if last and last.model in first:
        return last.model
    return next(iter(first or served), None)


def identity_of(backend: str, model: str | None, entry: Mapping[str, Any]) -> Identity:
    """What an entry of a model list says of a model; the fields are those of vLLM, llama.cpp and LM Studio."""
    contexts = (entry.get("max_model_len"), member(entry, "meta", "n_ctx"), entry.get("loaded_context_length"))
    return Identity(
        backend,
        model=short_name(model),
        quantization=text_of(member(entry, "meta", "ftype")) or text_of(entry.get("quantization")),
        parameters=size_of(member(entry, "meta", "n_params")),
        weight_bytes=size_of(member(entry, "meta", "size")),
        context_length=next(filter(None, map(size_of, contexts)), None),
        model_root=text_of(entry.get("root")),
    )


def chat_request(chat: ChatRequest, more: Mapping[str, Any] | None = None, path: str = CHAT) -> Request:
    """A streaming chat request with these fields besides, all minus what the server rejects, and the module's own fields.

    For a model that has no chat template it is a plain completion of the prompt.
    """
    fields = {
        "stream_options": {"include_usage": True},
        "max_tokens": chat.max_tokens,
        "temperature": 0,
        "seed": 1,
        **(more or {}),
    }
    asked = {"prompt": chat.prompt} if chat.completion else {"messages": [{"role": "user", "content": chat.prompt}]}
    body: dict[str, Any] = {**asked, "stream": True}
    if chat.model is not None:
        body = {"model": chat.model, **body}
    body |= {name: value for name, value in fields.items() if name not in chat.rejected}
    if "max_tokens" in chat.rejected:
        body["max_completion_tokens"] = chat.max_tokens
    body |= chat.fields
    if chat.completion:
        path = path.replace(CHAT, COMPLETIONS, 1)
    return Request(path=path, body=json.dumps(body).encode(), framing="sse", max_tokens=chat.max_tokens)


def counted_request(chat: ChatRequest) -> Request:
    """A chat of exactly that many tokens, with the usage so far in every chunk, past the prefix cache: of vLLM and SGLang."""
    more = {
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "ignore_eos": True,
        "min_tokens": chat.max_tokens,
        "cache_salt": chat.salt,
    }
    return chat_request(chat, more)


def read_chat(event: Event) -> Delta:
    """One event of a chat completion's stream. Raises ValueError if it is no JSON object."""
    if event.data.strip() == b"[DONE]":
        return Delta(final=True)
    if event.name == "error":
        return Delta(error=_error_text(event.data))
    try:
        return read_chunk(object_of(event.data))
    except ValueError:
        # Gateways send events of their own beside those of the API (``ping``).
        if event.name in {"", "message"}:
            raise
        return Delta()


def read_chunk(chunk: Mapping[str, Any]) -> Delta:
    """One chunk of a chat completion, in all the shapes that servers give it."""
    if error := error_of(chunk):
        return Delta(error=error)
    choices = listed(chunk, "choices")
    choice: dict[str, Any] = choices[0] if choices else {}
    delta = choice.get("delta", choice.get("message"))
    said = delta if isinstance(delta, Mapping) else {}
    texts = texts_of(said)
    answer = texts.answer or text_of(choice.get("text")) or ""
    has_text = bool(answer or texts.reasoning)
    finish_reason = text_of(choice.get("finish_reason"))
    if finish_reason in _UNFINISHED:
        finish_reason = None
    if finish_reason in _BROKEN_OFF:
        return Delta(error=_why_broken_off(chunk, finish_reason))
    # Moonshot's API, which gateways pass on, puts the usage into the choice.
    usage = usage_of(chunk.get("usage")) or usage_of(choice.get("usage"))
    # vLLM sends usage beside the role, before the first token: then it counts nothing yet. LiteLLM sends it beside an empty
    # choice, after the finish.
    settled = not choices or has_text or finish_reason or (usage and usage.output and "role" not in said)
    return Delta(
        answer=answer,
        reasoning=texts.reasoning,
        output_tokens=usage.output if usage and choices else None,
        usage=usage if settled else None,
        finish_reason=finish_reason,
        model=text_of(chunk.get("model")),
        blank=bool(choices) and not (has_text or texts.unread or finish_reason or "role" in said),
        unread=texts.unread and not has_text,
    )


def usage_of(usage: Any) -> Usage | None:
    """The token counts of a ``usage`` object, each only if it is a sane number."""
    if not isinstance(usage, Mapping):
        return None
    return Usage(
        # No prompt has no tokens: servers that don't count it say 0.
        prompt=count_of(usage.get("prompt_tokens")) or None,
        output=count_of(usage.get("completion_tokens")),
        cached=count_of(member(usage, "prompt_tokens_details", "cached_tokens")),
        reasoning=count_of(member(usage, "completion_tokens_details", "reasoning_tokens")),
    )


def _error_text(data: bytes) -> str:
    """The message of an event that is named an error: in an object, or plain text."""
    try:
        chunk = object_of(data)
    except ValueError:
        return data.decode("utf-8", "replace")[:500]
    return error_of(chunk) or text_of(chunk.get("message")) or json.dumps(chunk)[:500]


def error_of(chunk: Mapping[str, Any]) -> str | None:
    """The message of an error object inside a stream, whatever its shape."""
    error = chunk.get("error")
    if isinstance(error, Mapping):
        return text_of(error.get("message")) or json.dumps(error)[:500]
    if error is None and "error" in (chunk.get("object"), chunk.get("type")):  # vLLM until 2025, FastChat
        return text_of(chunk.get("message")) or json.dumps(chunk)[:500]
    return text_of(error)


def _why_broken_off(chunk: Mapping[str, Any], finish_reason: str) -> str:
    """What is said of an answer that the server could not go on with."""
    return f"its finish_reason is {finish_reason}" + (f": {said}" if (said := text_of(chunk.get("message"))) else "")
