"""llama.cpp's llama-server, alone or as a router of several.

``/props`` tells nearly everything and wakes nothing. ``GET /slots`` wakes a sleeping server and counts as a use of it, so it is
read only just before a request; a router's ``/metrics?model=`` would load the model, but for ``autoload=false``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from exporter.probe.client import Reply, Request
from exporter.probe.dialects.dialect import (
    ChatRequest,
    Get,
    ServerStatus,
    StatusQuery,
    count_of,
    entries_of,
    json_of,
    listed,
    member,
    number_of,
    object_of,
    refused_without_key,
    size_of,
    text_of,
    unusable,
)
from exporter.probe.dialects.openai import (
    CHAT,
    KEY_WANTED,
    OPTIONAL,
    chat_request,
    choose,
    identity_of,
    read_chat,
    read_chunk,
)
from exporter.probe.exposition import parse, total
from exporter.probe.result import Identity
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta, ServerTimings, Usage


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """``llama-server``."""

    name: str = "llama_cpp"
    optional: frozenset[str] = OPTIONAL | {"ignore_eos", "cache_prompt", "timings_per_token"}

    def recognise(self, get: Get) -> bool:
        """Every answer names llama.cpp as the server, also while it loads and without the key; a proxy may hide that."""
        reply = get("/v1/models")
        if reply.headers.get("server") == "llama.cpp":
            return True
        owned = any(each.get("owned_by") == "llamacpp" for each in entries_of(reply, "data"))
        return owned or is_loading(reply)

    def status(self, query: StatusQuery) -> ServerStatus:
        """Two reads (``/props``, ``/metrics``), one more for the identity after a change."""
        get, wanted, last = query.get, query.wanted, query.last
        reply = get("/props")
        if refused_without_key(reply):
            return ServerStatus(Identity(self.name, model=wanted), model=wanted, error=KEY_WANTED)
        props = json_of(reply)
        if not isinstance(props, Mapping):
            raise unusable("/props", reply)
        if props.get("role") == "router":
            return _router_status(query, props)
        asleep = props.get("is_sleeping") is True
        known = last.identity if last else Identity(self.name)
        status = _with_load(ServerStatus(known, resident=not asleep), get, "/metrics", props.get("endpoint_metrics"))
        if query.thorough and not asleep and status.running is None and props.get("endpoint_slots"):
            status = replace(status, running=_busy_slots(get("/slots")))
        identity = _identity(get, props, status.started, last)
        # The name in a request doesn't matter here: the server answers with what it has.
        return replace(status, identity=identity, model=wanted or identity.model)

    def request(self, chat: ChatRequest) -> Request:
        """A chat of exactly so many tokens, past the prompt cache, with the server's own times in every chunk."""
        more = {"ignore_eos": True, "cache_prompt": False, "timings_per_token": True}
        held = chat.status.router and not chat.may_load
        return chat_request(chat, more, CHAT + ("?autoload=false" if held else ""))

    def read(self, event: Event) -> Delta:
        """One chunk of a chat completion, with ``timings``."""
        if event.name or event.data.strip() == b"[DONE]":
            return read_chat(event)
        chunk = object_of(event.data)
        delta, timings = read_chunk(chunk), chunk.get("timings")
        if not isinstance(timings, Mapping):
            return delta
        predicted = count_of(timings.get("predicted_n"))
        fresh, cached = count_of(timings.get("prompt_n")), count_of(timings.get("cache_n"))
        prompt = None if fresh is None else fresh + (cached or 0)
        running = predicted if delta.answer or delta.reasoning else None
        usage = delta.usage or (Usage(prompt, predicted, cached) if delta.finish_reason else None)
        return replace(delta, output_tokens=running, usage=usage, server=_server_timings(timings))


def is_loading(reply: Reply) -> bool:
    """True for the answer that llama-server gives at every path while it loads its model."""
    return reply.status == 503 and b"oading model" in reply.body


def _server_timings(timings: Mapping[str, Any]) -> ServerTimings:
    prompt_ms = number_of(timings.get("prompt_ms"))
    return ServerTimings(
        decode_tokens_per_second=number_of(timings.get("predicted_per_second")),
        prefill_tokens_per_second=number_of(timings.get("prompt_per_second")),
        prefill_seconds=None if prompt_ms is None else prompt_ms / 1000,
    )


def _with_load(status: ServerStatus, get: Get, path: str, enabled: object) -> ServerStatus:
    reply = get(path) if enabled is not False else None
    if reply is None or reply.status != 200:
        return status
    samples = parse(reply.body.decode("utf-8", "replace"), "llamacpp:")
    return replace(
        status,
        running=total(samples, "llamacpp:requests_processing"),
        waiting=total(samples, "llamacpp:requests_deferred"),
        kv_cache_usage=total(samples, "llamacpp:kv_cache_usage_ratio"),
        generated_tokens=total(samples, "llamacpp:tokens_predicted_total"),
        started=reply.headers.get("process-start-time-unix"),
    )


def _busy_slots(reply: Reply) -> float | None:
    slots = listed({"slots": json_of(reply)}, "slots")
    return float(sum(each.get("is_processing") is True for each in slots)) if slots else None


def _identity(get: Get, props: Mapping[str, Any], started: str | None, last: ServerStatus | None) -> Identity:
    version, root = text_of(props.get("build_info")), text_of(props.get("model_path"))
    if last and last.started == started and not last.error:
        known = last.identity
        if (known.backend_version, known.model_root) == (version, root) and not last.router:
            return known
    entry = next(iter(entries_of(get("/v1/models"), "data")), {})
    name = text_of(entry.get("id")) or text_of(props.get("model_alias")) or (PurePath(root).name if root else None)
    listing = identity_of("llama_cpp", name, entry)
    return replace(
        listing,
        backend_version=version,
        quantization=text_of(props.get("model_ftype")) or listing.quantization,
        context_length=size_of(member(props, "default_generation_settings", "n_ctx")) or listing.context_length,
        model_root=root,
    )


def _router_status(query: StatusQuery, props: Mapping[str, Any]) -> ServerStatus:
    """A router's state is that of the model which a probe would use: the configured one, else one that is loaded."""
    get, wanted = query.get, query.wanted
    entries = [each for each in entries_of(get("/v1/models"), "data") if text_of(each.get("id"))]
    states = {each["id"]: text_of(member(each, "status", "value")) for each in entries}
    loaded = {name: state for name, state in states.items() if state == "loaded"}
    model = next((name for each in entries for name in [each["id"]] if wanted in _names(each)), wanted)
    model = model or choose(list(states), loaded, query.last)
    entry = next((each for each in entries if each["id"] == model), {})
    status = ServerStatus(
        replace(identity_of("llama_cpp", model, entry), backend_version=text_of(props.get("build_info"))),
        loading=states.get(model or "") == "loading",
        model=model,
        resident=model in loaded,
        router=True,
    )
    if model in loaded:
        status = _with_load(status, get, f"/metrics?model={quote(str(model), safe='')}&autoload=false", enabled=True)
    return status


def _names(entry: Mapping[str, Any]) -> list[Any]:
    aliases = entry.get("aliases")
    return [entry["id"], *(aliases if isinstance(aliases, list) else [])]
