"""Ollama by its own API: ``/api/chat`` as NDJSON, ``/api/ps`` for what is in memory, durations in nanoseconds.

A request that names another runner option than the model was loaded with makes Ollama load it again. So a probe repeats the
context length that ``/api/ps`` gives, if that is the one which Ollama compares with:

- up to 0.9.6 it gives none;
- from 0.15.5 on it gives one that is cut to the model's training context, while the uncut one is compared;
- from 0.30 on it may be repeated.

If it can't be known, there is no probe, unless the target states the ``options`` of its clients. Other options
(``num_thread``, ``num_batch``, ``main_gpu``, ``use_mmap``) can't be read at all: a reload that a probe causes is noticed after it.

Of several models in memory, Ollama evicts the one with the shortest keep-alive first (server/sched.go, ByDurationAndName).
Asking for what is left of it would make the probed one the first. There a probe names no keep-alive, which restarts the model's
time as any request does, and comes only after somebody else's request, which ``expires_at`` shows.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from exporter.probe.client import Reply, Request
from exporter.probe.dialects.dialect import (
    ChatRequest,
    Dialect,
    Get,
    ServerStatus,
    StatusQuery,
    count_of,
    entries_of,
    json_of,
    member,
    number_of,
    object_of,
    size_of,
    text_of,
    unusable,
)
from exporter.probe.dialects.keep_alive import KeepAlive, observe
from exporter.probe.dialects.model_info import Shape, shape_of
from exporter.probe.result import Identity
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta, ServerTimings, Usage

CLAMPED_FROM: Final = (0, 15, 5)
CLAMPED_UNTIL: Final = (0, 30)
NOTICE: Final = "Ollama can't tell whether it is busy"
CLOCK_SKEW_SECONDS: Final = 5.0
_MULTIPLES: Final = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
# Servers that answer at Ollama's paths too.
IMITATORS: Final = frozenset({"docker", "koboldcpp", "lemonade"})
# Models of these families give embeddings, not text.
_NO_CHAT: Final = frozenset({"bert", "nomic-bert"})


@dataclass(frozen=True, slots=True)
class Ollama(Dialect):
    """``ollama serve``."""

    name: str = "ollama"
    optional: frozenset[str] = frozenset()

    def recognise(self, get: Get) -> bool:
        """It has a version and a list of running models at paths of its own; others imitate them, and name themselves in their list."""
        if text_of(member(json_of(get("/api/version")), "version")) is None:
            return False
        owners = {text_of(each.get("owned_by")) for each in entries_of(get("/v1/models"), "data")}
        return isinstance(member(json_of(get("/api/ps")), "models"), list) and not owners & IMITATORS

    def status(self, query: StatusQuery) -> ServerStatus:
        """Two reads; two more (``/api/tags``, ``/api/show``) when the model is another one than before."""
        get, wanted, last = query.get, query.wanted, query.last
        version = text_of(member(json_of(get("/api/version")), "version"))
        reply = get("/api/ps")
        if version is None or reply.status != 200:
            raise unusable("/api/ps", reply)
        running = _by_name(entries_of(reply, "models"))
        known = last.identity if last else Identity(self.name, backend_version=version)
        base = ServerStatus(replace(known, backend_version=version), resident=False, unloads=False, notice=NOTICE)
        if wanted is None and not running:
            # Which of those on the disk comes next is the users' choice: the identity stays that of the last one.
            return replace(base, model=last.model if last else None)
        tags = _by_name(entries_of(get("/api/tags"), "models")) if _is_new(last, wanted, running, version) else {}
        if wanted:
            model = _listed_name(wanted, running, tags)
        else:
            names = _in_order(running, tags, last)
            writes = (
                name for name in names if tags and _generates(_details(get, name, tags.get(name) or running[name]))
            )
            model = next(writes, names[0])
        same = last if last and last.model == model else None
        digest = text_of(tags.get(model, {}).get("digest")) or (same.digest if same else None)
        loaded = _loaded(model, running, digest)
        if last is None or last.model != model or tags:
            shown = _show(get, model) if loaded or model in tags else None
            base = _identified(base, version, model, tags.get(model) or loaded or {}, shown)
            if wanted and tags and model not in tags and loaded is None:
                return replace(base, missing=_nearest(wanted, tags))
        elif same is not None:
            base = replace(base, unable=same.unable, training_context=same.training_context)
        base = replace(base, digest=digest)
        if loaded is None:
            return replace(base, model=model)
        keep_alive = _keep_alive(reply, loaded, same, query.now)
        context = count_of(loaded.get("context_length"))
        reloads = _why_reload(version, context, base.training_context)
        crowded = len(running) > 1
        return replace(
            base,
            identity=replace(base.identity, offloaded=_is_offloaded(loaded), on_cpu=_is_on_cpu(loaded)),
            model=model,
            crowded=crowded,
            recent=model,
            unloads=crowded,
            activity=str(loaded.get("expires_at")) if crowded else None,
            activity_is_free=crowded,
            resident=True,
            served=True,
            # If the clients' options are stated, one that can't be repeated is left to them.
            context_length=None if reloads and query.hints.options else context,
            keep_alive=keep_alive,
            would_reload="" if query.hints.options else reloads,
        )

    def request(self, chat: ChatRequest) -> Request:
        """A chat of at most that many tokens that leaves the model's timer where it is (the end of text can't be banned)."""
        options: dict[str, Any] = {"num_ctx": chat.status.context_length} if chat.status.context_length else {}
        options |= {**chat.options, "num_predict": chat.max_tokens, "temperature": 0, "seed": 1}
        body: dict[str, Any] = {
            "model": chat.model,
            "messages": [{"role": "user", "content": chat.prompt}],
            "stream": True,
            "options": options,
        }
        if chat.keep_alive_seconds is not None:
            body["keep_alive"] = round(chat.keep_alive_seconds, 3)
        body |= chat.fields
        return Request(path="/api/chat", body=json.dumps(body).encode(), framing="ndjson", max_tokens=chat.max_tokens)

    def give_back(self, status: ServerStatus) -> tuple[str, bytes] | None:
        """A chat without messages: it loads nothing that is in memory, and later requests get the model's full time again."""
        keep_alive = status.keep_alive
        if not status.resident or keep_alive is None or not keep_alive.owed:
            return None
        body: dict[str, Any] = {"model": status.model, "messages": [], "keep_alive": round(keep_alive.full_seconds, 3)}
        return "/api/chat", json.dumps(body).encode()

    def read(self, event: Event) -> Delta:
        """One line of the answer; the last one has the counts and the durations."""
        line = object_of(event.data)
        if error := text_of(line.get("error")):
            return Delta(error=error)
        done = line.get("done") is True
        return Delta(
            answer=text_of(member(line, "message", "content")) or "",
            reasoning=text_of(member(line, "message", "thinking")) or "",
            usage=Usage(count_of(line.get("prompt_eval_count")), count_of(line.get("eval_count"))) if done else None,
            server=_timings(line) if done else None,
            finish_reason=(text_of(line.get("done_reason")) or "stop") if done else None,
            model=text_of(line.get("model")),
            final=done,
        )


def _full_name(name: str) -> str:
    """Ollama lists a model that was asked for without a tag under ``:latest``."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _by_name(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The models of this machine by name: those of Ollama's cloud are listed too, cost money and measure another machine."""
    return {each["name"]: each for each in entries if _is_local(each)}


def _is_local(entry: Mapping[str, Any]) -> bool:
    remote = entry.get("remote_host") or entry.get("remote_model") or member(entry, "details", "family") == "cloud"
    return text_of(entry.get("name")) is not None and not remote


def _is_new(last: ServerStatus | None, wanted: str | None, running: Mapping[str, Any], version: str) -> bool:
    """Whether the list on the disk has to be read: the first time, after an update, and for a model not seen before."""
    if last is None or last.model is None or last.missing or last.identity.backend_version != version:
        return True
    if last.unable and len(running) > 1:
        return True  # one of the others may write text
    name = last.model
    return name.lower() != _full_name(wanted).lower() if wanted else name not in running


def _listed_name(wanted: str, *lists: Mapping[str, Any]) -> str:
    """The name as the server lists it: upper and lower case are one to it."""
    full = _full_name(wanted)
    return next((name for each in lists for name in each if name.lower() == full.lower()), full)


def _in_order(
    running: Mapping[str, Mapping[str, Any]], tags: Mapping[str, Mapping[str, Any]], last: ServerStatus | None
) -> list[str]:
    """The models in memory in the order in which a probe would ask them: those that may write text, the one before, the one
    that stays longest.
    """

    def preference(name: str) -> tuple[bool, bool, str, str]:
        before = last is not None and last.model == name
        return _generates({**tags.get(name, {}), **running[name]}), before, str(running[name].get("expires_at")), name

    return sorted(running, key=preference, reverse=True)


def _show(get: Get, model: str) -> Any:
    return json_of(get("/api/show", json.dumps({"model": model}).encode()))


def _details(get: Get, model: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the lists say of a model, with its capabilities, which before 0.30 only ``/api/show`` gives."""
    capabilities = entry.get("capabilities") or member(_show(get, model), "capabilities")
    return {**entry, "capabilities": capabilities}


def _loaded(model: str, running: Mapping[str, dict[str, Any]], digest: str | None) -> dict[str, Any] | None:
    """The entry in memory of a model, also under another name of the same files, which are one runner."""
    if model in running:
        return running[model]
    return next((each for each in running.values() if digest and each.get("digest") == digest), None)


def _generates(entry: Mapping[str, Any]) -> bool:
    """Whether a model writes text, by its capabilities, before 0.30 by its family."""
    capabilities = entry.get("capabilities")
    if isinstance(capabilities, list) and capabilities:
        return "completion" in capabilities
    return text_of(member(entry, "details", "family")) not in _NO_CHAT


def _nearest(wanted: str, tags: Mapping[str, Any]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - with the first wrong name

    near = get_close_matches(_full_name(wanted), tags, n=1, cutoff=0.0)
    return f"Ollama has no model {wanted}" + (f"; the nearest name is {near[0]}" if near else "")


def _identified(status: ServerStatus, version: str, model: str, entry: Mapping[str, Any], shown: Any) -> ServerStatus:
    """The status with what the lists and ``/api/show`` say of the model."""
    details = {**entry, **({"capabilities": shown["capabilities"]} if member(shown, "capabilities") else {})}
    contexts = [
        value
        for key, value in (member(shown, "model_info") or {}).items()
        if key.endswith(".context_length") and "." not in key.removesuffix(".context_length")
    ]
    return replace(
        status,
        identity=_identity(version, model, entry, shape_of(member(shown, "model_info"))),
        unable="" if _generates(details) else f"{model} is an embedding model",
        training_context=next(filter(None, map(count_of, contexts)), None),
    )


def _why_reload(version: str, context: int | None, training_context: int | None) -> str:
    """Why repeating what ``/api/ps`` says could load the model again; empty if it can't."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    how = "state the options of its clients in targets[].options, or update Ollama to 0.30"
    if context is None:
        return f"Ollama {version} does not say with which context length its model was loaded: {how}"
    if CLAMPED_FROM <= numbers < CLAMPED_UNTIL and not (training_context and context < training_context):
        return f"Ollama {version} cuts the context length that it reports to the model's training context: {how}"
    return ""


def _identity(version: str, model: str | None, entry: Mapping[str, Any], shape: Shape) -> Identity:
    return Identity(
        "ollama",
        backend_version=version,
        model=model,
        quantization=text_of(member(entry, "details", "quantization_level")),
        parameters=shape.parameters or _parameters(member(entry, "details", "parameter_size")),
        weight_bytes=size_of(entry.get("size")),
        experts=shape.experts,
        active_parameters=shape.active_parameters,
        kv_elements=shape.kv_elements,
    )


def _is_offloaded(loaded: Mapping[str, Any]) -> bool | None:
    """``/api/ps`` gives what a model takes in all, and how much of it the GPU holds."""
    whole, held = size_of(loaded.get("size")), loaded.get("size_vram")
    return held < whole if whole is not None and isinstance(held, int) else None


def _is_on_cpu(loaded: Mapping[str, Any]) -> bool | None:
    """What ``ollama ps`` shows as 100% CPU."""
    whole, held = size_of(loaded.get("size")), loaded.get("size_vram")
    return held == 0 if whole is not None and isinstance(held, int) else None


def _parameters(size: Any) -> int | None:
    """``14.8B`` in full."""
    text = size if isinstance(size, str) else ""
    try:
        return int(float(text[:-1]) * _MULTIPLES[text[-1:].upper()])
    except (ValueError, KeyError, OverflowError):
        return None


def _keep_alive(reply: Reply, loaded: Mapping[str, Any], last: ServerStatus | None, now: float) -> KeepAlive | None:
    try:
        expires = datetime.fromisoformat(str(loaded.get("expires_at"))).timestamp()
    except (ValueError, OverflowError):
        return None
    skew = _server_time(reply, now) - now
    return observe(last.keep_alive if last else None, expires - skew, now) if expires > 0 else None


def _server_time(reply: Reply, now: float) -> float:
    """The server's clock if it is far from ours, by the second that its answer names."""
    try:
        theirs = parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
    except ValueError:
        return now
    return theirs if abs(theirs - now) > CLOCK_SKEW_SECONDS else now


def _timings(line: Mapping[str, Any]) -> ServerTimings:
    parts = [_seconds(line.get(f"{name}_duration")) or 0.0 for name in ("load", "prompt_eval", "eval")]
    whole = _seconds(line.get("total_duration"))
    return ServerTimings(
        decode_tokens_per_second=_rate(line.get("eval_count"), line.get("eval_duration")),
        prefill_tokens_per_second=_rate(line.get("prompt_eval_count"), line.get("prompt_eval_duration")),
        prefill_seconds=_seconds(line.get("prompt_eval_duration")),
        load_seconds=_seconds(line.get("load_duration")),
        queue_seconds=None if whole is None or not line.get("eval_duration") else max(whole - sum(parts), 0.0),
    )


def _seconds(nanoseconds: Any) -> float | None:
    value = number_of(nanoseconds)
    return None if value is None else value / 1e9


def _rate(count: Any, nanoseconds: Any) -> float | None:
    tokens, seconds = count_of(count), _seconds(nanoseconds)
    return tokens / seconds if tokens and seconds else None
