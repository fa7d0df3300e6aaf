"""vLLM: state from its own /metrics, exact counts in every chunk, a fixed length, a salt against its prefix cache."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from exporter.probe.client import Request
from exporter.probe.dialects.dialect import (
    ChatRequest,
    Dialect,
    Get,
    ServerStatus,
    StatusQuery,
    entries_of,
    json_of,
    member,
    number_of,
    object_of,
    refused_without_key,
    text_of,
    unusable,
    wants_key,
    without_ours,
)
from exporter.probe.dialects.openai import CHAT, COUNTED_OPTIONAL, V1_ONLY, counted_request, identity_of, read_chat
from exporter.probe.exposition import MetricSample, parse, total
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta, ServerTimings
from exporter.probe.users import SUMS, served_of

PREFIX: Final = b"vllm:"
LOAD: Final = ("vllm:num_requests_running", "vllm:num_requests_waiting")
NOTICE: Final = "this vLLM can't tell whether it is busy (--disable-log-stats)"
UNREAD: Final = "this vLLM's /metrics can't be read: it can't tell whether it is busy"
# What a proxy answers at paths that it doesn't pass on; vLLM itself has /health, open without the key.
_HIDDEN: Final[frozenset[int]] = frozenset({401, 403, 404})
PROGRESS: Final = ("vllm:prompt_tokens_total", "vllm:iteration_tokens_total_count")
"""What moves while it works, besides the tokens that it generates."""
DRAFTED: Final = "vllm:spec_decode_num_draft_tokens_total"
METRICS: Final = (
    DRAFTED,
    "vllm:engine_sleep_state",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "vllm:generation_tokens_created",
    *(f"vllm:{name}" for name in SUMS),
    *PROGRESS,
    "vllm:request_queue_time_seconds_",
    "process_start_time_seconds",
)


@dataclass(frozen=True, slots=True)
class Vllm(Dialect):
    """``vllm serve``."""

    name: str = "vllm"
    optional: frozenset[str] = COUNTED_OPTIONAL

    def recognise(self, get: Get) -> bool:
        """Its models are owned by vllm; without the key its open /version and /metrics show it."""
        reply = get("/v1/models")
        if refused_without_key(reply):
            return member(json_of(get("/version")), "version") is not None and PREFIX in get("/metrics").body
        return any(each.get("owned_by") == "vllm" for each in entries_of(reply, "data"))

    def status(self, query: StatusQuery) -> ServerStatus:
        """Two reads; two more for the identity after a restart (there is no loading state: it answers when it is ready)."""
        get, last = query.get, query.last
        health = get("/health")
        if health.status in _HIDDEN:
            return _status_by_v1(query)
        if health.status != 200:
            raise unusable("/health", health)
        metrics = get("/metrics")
        samples = parse(metrics.body.decode("utf-8", "replace"), *METRICS)
        started = _start_of(samples)
        unchanged = last is not None and started is not None and last.started == started and not last.error
        seen = last if last is not None and unchanged else _identify(get, query.wanted)
        generated = total(samples, "vllm:generation_tokens_total")
        awake = total(samples, "vllm:engine_sleep_state", sleep_state="awake")
        return replace(
            seen,
            started=started,
            resident=None if awake is None else awake > 0,
            running=total(samples, "vllm:num_requests_running"),
            waiting=total(samples, "vllm:num_requests_waiting"),
            served=None if generated is None else generated > 0,
            queue=_queue_of(samples),
            notice="" if _has_load(samples) else NOTICE if metrics.status == 200 else UNREAD,
            kv_cache_usage=_fullest(samples),
            generated_tokens=generated,
            sums=served_of(samples),
            progress=_progress_of(samples, generated),
            drafts=bool(total(samples, DRAFTED)),
        )

    def others(self, get: Get, status: ServerStatus, ours: int) -> float | None:
        """By ``/metrics``: what runs and waits, without ours."""
        if status.running is None:
            return None
        samples = parse(get("/metrics").body.decode("utf-8", "replace"), *LOAD)
        running, waiting = (total(samples, name) for name in LOAD)
        return without_ours(running, waiting, ours)

    def request(self, chat: ChatRequest) -> Request:
        """A chat of exactly that many tokens, with the usage so far in every chunk."""
        return counted_request(chat)

    def read(self, event: Event) -> Delta:
        """One chunk of a chat completion; with ``--enable-per-request-metrics`` the last one has ``metrics``."""
        delta = read_chat(event)
        if b'"metrics"' not in event.data:
            return delta
        metrics = object_of(event.data).get("metrics")
        return replace(delta, server=_timings(metrics)) if isinstance(metrics, Mapping) else delta


def _timings(metrics: Mapping[str, Any]) -> ServerTimings:
    """Its TTFT counts from the request's arrival, so the time in the queue is a part of it."""
    waited, first = _seconds_of(metrics.get("queue_time_ms")), _seconds_of(metrics.get("time_to_first_token_ms"))
    prefill = None if first is None else first - (waited or 0.0)
    return ServerTimings(
        decode_tokens_per_second=number_of(metrics.get("tokens_per_second")),
        prefill_seconds=prefill if prefill is not None and prefill > 0 else None,
        queue_seconds=waited,
        ttft_seconds=first,
    )


def _seconds_of(milliseconds: Any) -> float | None:
    usable = isinstance(milliseconds, int | float) and not isinstance(milliseconds, bool) and 0 <= milliseconds < 1e9
    return milliseconds / 1000 if usable else None


def _has_load(samples: tuple[MetricSample, ...]) -> bool:
    return total(samples, "vllm:num_requests_running") is not None


def _progress_of(samples: tuple[MetricSample, ...], generated: float | None) -> tuple[float, ...] | None:
    if generated is None:
        return None
    return (generated, *(value for name in PROGRESS if (value := total(samples, name)) is not None))


def _queue_of(samples: tuple[MetricSample, ...]) -> tuple[float, float] | None:
    """How many requests have left the queue since the start, and how long they waited in all."""
    count = total(samples, "vllm:request_queue_time_seconds_count")
    seconds = total(samples, "vllm:request_queue_time_seconds_sum")
    return None if count is None or seconds is None else (count, seconds)


def _identify(get: Get, wanted: str | None) -> ServerStatus:
    version = text_of(member(json_of(get("/version")), "version"))
    reply = get("/v1/models")
    entries = [each for each in entries_of(reply, "data") if text_of(each.get("id"))]
    model = wanted or next((each["id"] for each in entries), None)
    entry = next((each for each in entries if each["id"] == model), {})
    identity = replace(identity_of("vllm", model, entry), backend_version=version)
    if refused_without_key(reply):
        return replace(wants_key("vllm", model), identity=identity)
    return ServerStatus(identity, model=model, unable=_why_unable(get))


def _status_by_v1(query: StatusQuery) -> ServerStatus:
    """What ``/v1`` alone says: the model and its context, nothing of what runs."""
    models = query.get("/v1/models")
    if models.status != 200 and not refused_without_key(models):
        raise unusable("/v1/models", models)
    return replace(_identify(query.get, query.wanted), notice=V1_ONLY)


def _why_unable(get: Get) -> str:
    """Whether it serves no text generation: a path that only answers POST answers GET with 405, a missing one with 404."""
    missing = all(get(path).status == 404 for path in (CHAT, "/v1/completions"))
    return "this vLLM serves no text generation (a pooling model)" if missing else ""


def _start_of(samples: tuple[MetricSample, ...]) -> str | None:
    start = total(samples, "process_start_time_seconds", "vllm:generation_tokens_created")
    return None if start is None else repr(start)


def _fullest(samples: tuple[MetricSample, ...]) -> float | None:
    """The fullest engine's share; until 2025 the gauge had another name."""
    names = {"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"}
    shares = [each.value for each in samples if each.name in names and 0 <= each.value <= 1]
    return max(shares, default=None)
