"""llama.cpp's llama-server, alone or as a router of several.

``/props`` and ``/health`` are free always. What else is read depends on what the read does to this server:

- ``GET /slots`` wakes a sleeping server and restarts its sleep timer, so a server that may sleep is asked only just before a
  request, which does the same.
- ``GET /metrics`` wakes a sleeping server before build 10531, and in all builds each read resets the rates that a user's own
  Prometheus reads. It is read only if the user wants it. Nothing else here shows who waits for a single slot.
- A router's ``?model=`` would load the model, but for ``autoload=false``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote

from exporter.probe.client import Reply, Request
from exporter.probe.dialects.dialect import (
    ChatRequest,
    Dialect,
    Get,
    Hints,
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
    wants_key,
    without_ours,
)
from exporter.probe.dialects.openai import (
    CHAT,
    OPTIONAL,
    V1_ONLY,
    chat_request,
    choose,
    identity_of,
    read_chat,
    read_chunk,
    status_by_models,
)
from exporter.probe.exposition import parse, total
from exporter.probe.result import Identity
from exporter.probe.slots import running_tokens, slot_readings
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta, ServerTimings, Usage
from exporter.probe.users import ended_of

BLIND: Final = (
    "this llama-server has one slot, and who is connected to it can't be seen from here: a user who comes into a probe waits for its"
    " end, unless `server_metrics: true` lets it give way (which needs --metrics)"
)
METRICS_WAKE_NOTHING: Final = 10531
PROGRESS: Final = (
    "llamacpp:n_decode_total",
    "llamacpp:prompt_tokens_total",
    "llamacpp:tokens_predicted_total",
)
HOST_PROMPT_CACHE: Final = 6735


@dataclass(frozen=True, slots=True)
class LlamaCpp(Dialect):
    """``llama-server``."""

    name: str = "llama_cpp"
    optional: frozenset[str] = OPTIONAL | {
        "ignore_eos",
        "cache_prompt",
        "timings_per_token",
        "return_progress",
        "id_slot",
    }

    def recognise(self, get: Get) -> bool:
        """Every answer names llama.cpp as the server, also while it loads and without the key; a proxy may hide that."""
        reply = get("/v1/models")
        if reply.headers.get("server") == "llama.cpp":
            return True
        owned = any(each.get("owned_by") == "llamacpp" for each in entries_of(reply, "data"))
        return owned or is_loading(reply)

    def status(self, query: StatusQuery) -> ServerStatus:
        """One or two reads (``/props``, ``/slots``), one more for the identity after a change."""
        get, wanted, last = query.get, query.wanted, query.last
        reply = get("/props")
        if refused_without_key(reply):
            return wants_key(self.name, wanted)
        if reply.status == 404:
            return _status_by_v1(query)
        props = json_of(reply)
        if not isinstance(props, Mapping):
            raise unusable("/props", reply)
        if props.get("role") == "router":
            return _router_status(query, props)
        asleep = props.get("is_sleeping") is True
        unloads = _may_sleep(props, query.hints)
        started = text_of(props.get("media_marker"))
        before = last if last and last.started == started else ServerStatus(Identity(self.name))
        status = ServerStatus(
            Identity(self.name),
            started=started,
            resident=not asleep,
            slot=before.slot,
            own_task=before.own_task,
            unloads=unloads,
            drafts=_drafts(props),
            metrics_wanted=query.hints.server_metrics and props.get("endpoint_metrics") is not False,
        )
        if props.get("total_slots") == 1 and not status.metrics_wanted and query.hints.connected() is None:
            status = replace(status, notice=BLIND)
        if not asleep and (query.thorough or unloads is False):
            status = replace(_with_slots(status, get, "/slots", query, props), read_is_use=unloads is not False)
            if unloads is not False:
                status = replace(status, slot_readings=None)
        if query.hints.server_metrics and (unloads is False or _build_of(props) >= METRICS_WAKE_NOTHING):
            status = _counting(_with_metrics(status, get, "/metrics", props.get("endpoint_metrics")))
        identity = _identity(get, props, started, last)
        # The name in a request doesn't matter here: the server answers with what it has.
        return replace(status, identity=identity, model=wanted or identity.model)

    def others(self, get: Get, status: ServerStatus, ours: int) -> float | None:
        """By the slots; if all are ours, by ``/metrics``: it alone shows that somebody waits."""
        if status.notice == V1_ONLY:
            return None
        model = f"?model={quote(str(status.model), safe='')}&autoload=false" if status.router else ""
        # Each read waits for the server's current step, so the slots are left out if they can't show it.
        slots = _slots(get(f"/slots{model}")) if status.slots is None or status.slots > ours else None
        busy = None if slots is None else sum(each.get("is_processing") is True for each in slots) - ours
        if busy or (slots is not None and len(slots) > ours):
            return None if busy is None else float(max(busy, 0))
        if not status.metrics_wanted:
            return None
        load = _with_metrics(replace(status, running=None), get, f"/metrics{model}", enabled=True)
        # Slots that are all taken don't show whether somebody waits.
        return without_ours(load.running, load.waiting, ours)

    def request(self, chat: ChatRequest) -> Request:
        """A chat of exactly that many tokens, past the prompt cache, with the server's own times in every chunk.

        It asks for the progress of the prompt. While llama-server has nothing to send, it checks only once a second whether its
        client is gone (HTTP_POLLING_SECONDS in its source). With something to send after each batch, it notices that at once.
        """
        more: dict[str, Any] = {
            "ignore_eos": True,
            "cache_prompt": False,
            "timings_per_token": True,
            "return_progress": True,
        }
        if chat.status.slot is not None:
            more["id_slot"] = chat.status.slot
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
        running = predicted if delta.answer or delta.reasoning or delta.blank else None
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
        drafted_tokens=count_of(timings.get("draft_n")),
        accepted_tokens=count_of(timings.get("draft_n_accepted")),
    )


def _drafts(props: Mapping[str, Any]) -> bool:
    """Whether it was started to draft tokens, by what it does for a request that doesn't say. A server that drafts may still report ``none``."""
    defaults = member(props, "default_generation_settings")
    types = text_of(member(defaults, "params", "speculative.types")) or text_of(member(defaults, "speculative.types"))
    return member(defaults, "speculative") is True or any(
        each.strip() != "none" for each in (types or "none").split(",")
    )


def _build_of(props: Mapping[str, Any]) -> int:
    """The number in ``b11434-0d4c86e``; 0 if there is none."""
    found = re.match(r"b(\d{1,6})\b", text_of(props.get("build_info")) or "")
    return int(found[1]) if found else 0


def _may_sleep(props: Mapping[str, Any], hints: Hints) -> bool | None:
    """Whether it unloads its model when idle: by its launch settings, else unknown if its build can."""
    if props.get("is_sleeping") is True:
        return True
    return False if "is_sleeping" not in props else hints.sleeps


def _with_metrics(status: ServerStatus, get: Get, path: str, enabled: object) -> ServerStatus:
    reply = get(path) if enabled is not False else None
    if reply is None or reply.status != 200:
        return status
    samples = parse(reply.body.decode("utf-8", "replace"), "llamacpp:")
    generated = total(samples, "llamacpp:tokens_predicted_total")
    return replace(
        status,
        running=total(samples, "llamacpp:requests_processing"),
        waiting=total(samples, "llamacpp:requests_deferred"),
        kv_cache_usage=total(samples, "llamacpp:kv_cache_usage_ratio"),
        generated_tokens=generated,
        counts_at_end=True,
        ended=ended_of(samples),
        progress=tuple(each for each in map(partial(total, samples), PROGRESS) if each is not None) or status.progress,
        served=status.served if generated is None else generated > 0,
        started=reply.headers.get("process-start-time-unix") or status.started,
    )


def _counting(status: ServerStatus) -> ServerStatus:
    """The server's counters count each use, and reading them is none."""
    if status.generated_tokens is None:
        return status
    counted = replace(
        status, activity=f"{status.generated_tokens:.0f} tokens", activity_is_free=True, read_is_use=False
    )
    if status.slot_readings is None:
        return counted
    slots = status.slot_readings
    if status.running != sum(each.running for each in slots):
        return replace(counted, generated_tokens=None)  # a request began or ended between the two reads
    return replace(counted, generated_tokens=status.generated_tokens + running_tokens(slots), counts_at_end=False)


def _slots(reply: Reply) -> list[dict[str, Any]] | None:
    return listed({"slots": json_of(reply)}, "slots") or None


def _with_slots(
    status: ServerStatus, get: Get, path: str, query: StatusQuery, props: Mapping[str, Any]
) -> ServerStatus:
    """What runs, the slot for a probe, and who used the slots last; nothing if the endpoint is switched off."""
    slots = _slots(get(path)) if props.get("endpoint_slots") is not False else None
    if slots is None:
        return status
    busy = sum(each.get("is_processing") is True for each in slots)
    tasks = {each.get("id"): each.get("id_task") for each in slots}
    slot, task, taken = _slot_of(slots, status)
    kept = query.hints.prompt_cache
    # Since October 2025 a slot's prompt goes to the host's memory when another request takes the slot.
    if kept is None:
        kept = _build_of(props) >= HOST_PROMPT_CACHE
    return replace(
        status,
        running=float(busy),
        slots=len(slots),
        served=any(isinstance(each, int) and each >= 0 for each in tasks.values()),
        activity=repr(sorted(tasks.items(), key=repr)),
        slot_readings=(readings := slot_readings(slots)),
        progress=readings,
        slot=slot if len(slots) > 1 else None,
        slot_task=task,
        conversation=taken and not kept,
    )


def _slot_of(slots: list[dict[str, Any]], status: ServerStatus) -> tuple[int | None, int | None, bool]:
    """The slot that a probe takes, the number of its newest request, and whether a prompt of somebody else lies in it.

    Always the same one while it is idle; at first one that nobody has used yet, else the last.
    """
    idle = [each for each in slots if each.get("is_processing") is not True and isinstance(each.get("id"), int)]
    ours = next((each for each in idle if status.slot == each["id"]), None)
    unused = next((each for each in reversed(idle) if each.get("id_task") in {None, -1}), None)
    chosen = ours or unused or next(iter(reversed(idle)), None)
    if chosen is None:
        return status.slot, None, False
    task = chosen.get("id_task")
    # Older builds don't say how long the prompt is.
    taken = task not in {None, -1, status.own_task} and chosen.get("n_prompt_tokens") != 0
    return chosen["id"], task if isinstance(task, int) else None, taken


def _identity(get: Get, props: Mapping[str, Any], started: str | None, last: ServerStatus | None) -> Identity:
    version, root = text_of(props.get("build_info")), text_of(props.get("model_path"))
    if last and last.started == started and not last.key_refused:
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
    named = next((name for each in entries for name in [each["id"]] if wanted in _names(each)), wanted)
    # A sleep timer is restarted by reading the slots, so only a model that is known to have none is read at each check.
    sleepless = {each["id"] for each in entries if each["id"] in loaded and _never_sleeps(each)}
    uses = _uses(get, sleepless) if len(loaded) > 1 else {}
    recent = _recent(list(loaded), uses, query.last)
    model = named or recent or choose(list(states), loaded, query.last)
    entry = next((each for each in entries if each["id"] == model), {})
    status = ServerStatus(
        replace(identity_of("llama_cpp", model, entry), backend_version=text_of(props.get("build_info"))),
        loading=states.get(model or "") == "loading",
        model=model,
        resident=model in loaded,
        slot=same.slot if (same := query.last) and same.model == model else None,
        own_task=same.own_task if same and same.model == model else None,
        uses=uses,
        recent=recent,
        unloads=not (len(loaded) == 1 and model in sleepless),
        router=True,
        metrics_wanted=query.hints.server_metrics,
        crowded=len(loaded) > 1,
    )
    if model in loaded and (query.thorough or model in sleepless):
        status = _with_slots(status, get, _slots_path(str(model)), query, props)
        free = model in sleepless
        status = replace(status, activity_is_free=free and status.activity is not None, read_is_use=not free)
        if not free:
            status = replace(status, slot_readings=None)
    return status


def _slots_path(model: str) -> str:
    return f"/slots?model={quote(model, safe='')}&autoload=false"


def _never_sleeps(entry: Mapping[str, Any]) -> bool:
    """Whether a router's model has no sleep timer, by the arguments that its list names."""
    args = member(entry, "status", "args")
    return isinstance(args, list) and "--sleep-idle-seconds" not in args


def _uses(get: Get, models: set[str]) -> Mapping[str, str]:
    """The newest task of each slot of these models, as text; without those whose slots can't be read."""
    found = {name: _slots(get(_slots_path(name))) for name in sorted(models)}
    return {name: repr([each.get("id_task") for each in slots]) for name, slots in found.items() if slots}


def _recent(loaded: list[str], uses: Mapping[str, str], last: ServerStatus | None) -> str | None:
    """The loaded model that was used last: the only one, else the one whose slots have changed since the last check."""
    if len(loaded) == 1:
        return loaded[0]
    if last is None or uses.keys() != set(loaded):
        return None
    used = [name for name, use in uses.items() if name in last.uses and last.uses[name] != use]
    if not used:
        return last.recent if last.recent in loaded else None
    return used[0] if len(used) == 1 else None


def _status_by_v1(query: StatusQuery) -> ServerStatus:
    """What ``/v1`` alone says, through a proxy that passes nothing else: the model, of a router also which are in memory."""
    status = status_by_models("llama_cpp", query)
    if status.key_refused:
        return status
    router = status.resident is not None
    # Whether it sleeps when idle stands in /props only.
    return replace(status, router=router, unloads=True if router else query.hints.sleeps, notice=V1_ONLY)


def _names(entry: Mapping[str, Any]) -> list[Any]:
    aliases = entry.get("aliases")
    return [entry["id"], *(aliases if isinstance(aliases, list) else [])]
