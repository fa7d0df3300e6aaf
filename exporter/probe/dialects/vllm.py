"""vLLM: state from its own /metrics, exact counts in every chunk, a fixed length, a salt against its prefix cache."""

from dataclasses import dataclass, replace
from typing import Final

from exporter.probe.client import Request
from exporter.probe.dialects.dialect import (
    ChatRequest,
    Get,
    ServerStatus,
    StatusQuery,
    entries_of,
    json_of,
    member,
    refused_without_key,
    text_of,
    unusable,
)
from exporter.probe.dialects.openai import KEY_WANTED, OPTIONAL, chat_request, identity_of, read_chat
from exporter.probe.exposition import Sample, parse, total
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta

PREFIX: Final = b"vllm:"
METRICS: Final = (
    "vllm:engine_sleep_state",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "vllm:generation_tokens_",
    "process_start_time_seconds",
)


@dataclass(frozen=True, slots=True)
class Vllm:
    """``vllm serve``."""

    name: str = "vllm"
    optional: frozenset[str] = OPTIONAL | {"ignore_eos", "min_tokens", "cache_salt"}

    def recognise(self, get: Get) -> bool:
        """Its models are owned by vllm; without the key its open /version and /metrics tell."""
        reply = get("/v1/models")
        if refused_without_key(reply):
            return member(json_of(get("/version")), "version") is not None and PREFIX in get("/metrics").body
        return any(each.get("owned_by") == "vllm" for each in entries_of(reply, "data"))

    def status(self, query: StatusQuery) -> ServerStatus:
        """Two reads; two more for the identity after a restart (there is no loading state: it answers when it is ready)."""
        get, last = query.get, query.last
        health = get("/health")
        if health.status != 200:
            raise unusable("/health", health)
        samples = parse(get("/metrics").body.decode("utf-8", "replace"), *METRICS)
        started = _start_of(samples)
        unchanged = last is not None and started is not None and last.started == started and not last.error
        seen = last if last is not None and unchanged else _identify(get, query.wanted)
        awake = total(samples, "vllm:engine_sleep_state", sleep_state="awake")
        return replace(
            seen,
            started=started,
            resident=None if awake is None else awake > 0,
            running=total(samples, "vllm:num_requests_running"),
            waiting=total(samples, "vllm:num_requests_waiting"),
            kv_cache_usage=_fullest(samples),
            generated_tokens=total(samples, "vllm:generation_tokens_total"),
        )

    def request(self, chat: ChatRequest) -> Request:
        """A chat of exactly so many tokens, with the usage so far in every chunk."""
        more = {
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "ignore_eos": True,
            "min_tokens": chat.max_tokens,
            "cache_salt": chat.salt,
        }
        return chat_request(chat, more)

    def read(self, event: Event) -> Delta:
        """One chunk of a chat completion."""
        return read_chat(event)


def _identify(get: Get, wanted: str | None) -> ServerStatus:
    version = text_of(member(json_of(get("/version")), "version"))
    reply = get("/v1/models")
    entries = [each for each in entries_of(reply, "data") if text_of(each.get("id"))]
    model = wanted or next((each["id"] for each in entries), None)
    entry = next((each for each in entries if each["id"] == model), {})
    identity = replace(identity_of("vllm", model, entry), backend_version=version)
    error = KEY_WANTED if refused_without_key(reply) else ""
    return ServerStatus(identity, model=model, error=error)


def _start_of(samples: tuple[Sample, ...]) -> str | None:
    start = total(samples, "process_start_time_seconds", "vllm:generation_tokens_created")
    return None if start is None else repr(start)


def _fullest(samples: tuple[Sample, ...]) -> float | None:
    """The fullest engine's share; until 2025 the gauge had another name."""
    names = {"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"}
    shares = [each.value for each in samples if each.name in names and 0 <= each.value <= 1]
    return max(shares, default=None)
