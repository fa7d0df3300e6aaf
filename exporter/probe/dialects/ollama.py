"""Ollama by its own API: ``/api/chat`` as NDJSON, ``/api/ps`` for what is in memory, durations in nanoseconds.

A request with another context length than the model was loaded with makes Ollama load it anew, so a probe names the one that
``/api/ps`` gives; it names no other option that belongs to loading.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from exporter.probe.client import Reply, Request
from exporter.probe.dialects.dialect import (
    ChatRequest,
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
from exporter.probe.dialects.openai import choose
from exporter.probe.result import Identity
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta, ServerTimings, Usage

NOTICE: Final = "Ollama can't tell whether it is busy"
CLOCK_SKEW_SECONDS: Final = 5.0
_MULTIPLES: Final = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
# Models of these families give embeddings, not text.
_NO_CHAT: Final = frozenset({"bert", "nomic-bert"})


@dataclass(frozen=True, slots=True)
class Ollama:
    """``ollama serve``."""

    name: str = "ollama"
    optional: frozenset[str] = frozenset()

    def recognise(self, get: Get) -> bool:
        """It has a version and a list of running models at paths of its own; koboldcpp imitates them and says so elsewhere."""
        if text_of(member(json_of(get("/api/version")), "version")) is None:
            return False
        owners = {text_of(each.get("owned_by")) for each in entries_of(get("/v1/models"), "data")}
        return isinstance(member(json_of(get("/api/ps")), "models"), list) and "koboldcpp" not in owners

    def status(self, query: StatusQuery) -> ServerStatus:
        """Two reads, one more (``/api/tags``) when the model is another one than before."""
        get, wanted, last = query.get, query.wanted, query.last
        version = text_of(member(json_of(get("/api/version")), "version"))
        reply = get("/api/ps")
        if version is None or reply.status != 200:
            raise unusable("/api/ps", reply)
        running = {each["name"]: each for each in entries_of(reply, "models") if text_of(each.get("name"))}
        known = last.identity if last else None
        model = _full_name(wanted) if wanted else choose(_chatting(running), running, last)
        if known is None or model is None or (known.model, known.backend_version) != (model, version):
            tags = {each["name"]: each for each in entries_of(get("/api/tags"), "models") if _is_local(each)}
            model = model or choose(_chatting(tags), running, last)
            known = _identity(version, model, tags.get(model or "", {}))
        loaded = running.get(model or "")
        return ServerStatus(
            replace(known, offloaded=_is_offloaded(loaded) if loaded else known.offloaded),
            model=model,
            resident=loaded is not None,
            context_length=count_of(loaded.get("context_length")) if loaded else None,
            keep_alive=_keep_alive(reply, loaded, last if last and last.model == model else None, query.now)
            if loaded
            else None,
            notice=NOTICE,
        )

    def request(self, chat: ChatRequest) -> Request:
        """A chat of at most so many tokens that leaves the model's timer where it is (the end of text can't be banned)."""
        options = {"num_predict": chat.max_tokens, "temperature": 0, "seed": 1}
        if chat.status.context_length:
            options["num_ctx"] = chat.status.context_length
        body: dict[str, Any] = {
            "model": chat.model,
            "messages": [{"role": "user", "content": chat.prompt}],
            "stream": True,
            "options": options,
        }
        if chat.keep_alive_seconds is not None:
            body["keep_alive"] = round(chat.keep_alive_seconds, 3)
        return Request(path="/api/chat", body=json.dumps(body).encode(), framing="ndjson")

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


def _is_local(entry: Mapping[str, Any]) -> bool:
    """Models of Ollama's cloud are listed too; a probe of one would cost money and measure another machine."""
    return text_of(entry.get("name")) is not None and not entry.get("remote_host") and not entry.get("remote_model")


def _chatting(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [name for name, each in entries.items() if text_of(member(each, "details", "family")) not in _NO_CHAT]


def _identity(version: str, model: str | None, entry: Mapping[str, Any]) -> Identity:
    return Identity(
        "ollama",
        backend_version=version,
        model=model,
        quantization=text_of(member(entry, "details", "quantization_level")),
        parameters=_parameters(member(entry, "details", "parameter_size")),
        weight_bytes=size_of(entry.get("size")),
    )


def _is_offloaded(loaded: Mapping[str, Any]) -> bool | None:
    """``/api/ps`` gives what a model takes in all, and how much of it the GPU holds."""
    whole, held = size_of(loaded.get("size")), loaded.get("size_vram")
    return held < whole if whole is not None and isinstance(held, int) else None


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
    """The server's clock where it is far from ours, by the second that its answer names."""
    try:
        theirs = parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
    except ValueError:
        return now
    return theirs if abs(theirs - now) > CLOCK_SKEW_SECONDS else now


def _timings(line: Mapping[str, Any]) -> ServerTimings:
    return ServerTimings(
        decode_tokens_per_second=_rate(line.get("eval_count"), line.get("eval_duration")),
        prefill_tokens_per_second=_rate(line.get("prompt_eval_count"), line.get("prompt_eval_duration")),
        prefill_seconds=_seconds(line.get("prompt_eval_duration")),
        load_seconds=_seconds(line.get("load_duration")),
    )


def _seconds(nanoseconds: Any) -> float | None:
    value = number_of(nanoseconds)
    return None if value is None else value / 1e9


def _rate(count: Any, nanoseconds: Any) -> float | None:
    tokens, seconds = count_of(count), _seconds(nanoseconds)
    return tokens / seconds if tokens and seconds else None
