"""SGLang: state from its own /metrics (where it was started with ``--enable-metrics``), a fixed length, counts in every chunk.

``/health`` is never read: by default it makes an idle server generate a token. ``/v1/models`` answers as soon as it listens.
"""

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
    short_name,
    text_of,
    unusable,
    wants_key,
    without_ours,
)
from exporter.probe.dialects.openai import COUNTED_OPTIONAL, OpenAI, counted_request, identity_of, is_owned_by
from exporter.probe.exposition import MetricSample, parse
from exporter.probe.users import served_by_gaps

NOTICE: Final = "this SGLang can't tell whether it is busy (start it with --enable-metrics)"
RUNNING: Final = "sglang:num_running_reqs"
WAITING: Final = "sglang:num_queue_reqs"
USAGE: Final = "sglang:token_usage"
# The first one moves while an answer runs, the second one when it ends.
GENERATED: Final = ("sglang:realtime_tokens_total", "sglang:generation_tokens_total")
# The mean of what one step gives: 1 without drafts, 0 before the first step.
ACCEPTED: Final = "sglang:spec_accept_length"
SUMS: Final = ("sglang:time_to_first_token_seconds_", "sglang:inter_token_latency_seconds_")


@dataclass(frozen=True, slots=True)
class SGLang(OpenAI):
    """``sglang serve``."""

    name: str = "sglang"
    optional: frozenset[str] = COUNTED_OPTIONAL

    def recognise(self, get: Get) -> bool:
        """Its models are owned by "sglang"."""
        return is_owned_by(get, "sglang")

    def status(self, query: StatusQuery) -> ServerStatus:
        """Two reads: the list and ``/metrics``; two more for a new model: its version, and whether it generates text."""
        get = query.get
        models = get("/v1/models")
        if refused_without_key(models):
            return wants_key(self.name, query.wanted)
        if models.status != 200:
            raise unusable("/v1/models", models)
        # Adapters have a parent, or the base model as their root.
        entries = [each for each in entries_of(models, "data") if text_of(each.get("id"))]
        model = query.wanted or next((each["id"] for each in entries if not each.get("parent")), None)
        entry = next((each for each in entries if each["id"] == model), {})
        status = ServerStatus(identity_of(self.name, model, entry), model=model)
        last = query.last if query.last and query.last.model == model else None
        if last:
            known = last.identity.backend_version
            status = replace(status, identity=replace(status.identity, backend_version=known), unable=last.unable)
        else:
            status = _introduced(status, get)
        return _with_metrics(status, get)

    def others(self, get: Get, status: ServerStatus, ours: int) -> float | None:
        """By ``/metrics``: what runs and waits, without ours."""
        if status.running is None:
            return None
        load = _with_metrics(status, get)
        return without_ours(load.running, load.waiting, ours)

    def request(self, chat: ChatRequest) -> Request:
        """A chat of exactly that many tokens, with the usage so far in every chunk, past the prefix cache."""
        return counted_request(chat)


def _introduced(status: ServerStatus, get: Get) -> ServerStatus:
    """With the version, and why it generates no text. Of its settings, which hold its key, nothing else is kept."""
    version = text_of(member(json_of(get("/get_server_info")), "version"))
    generates = member(json_of(get("/get_model_info")), "is_generation")
    unable = f"{short_name(status.model)} is an embedding model" if generates is False else ""
    return replace(status, identity=replace(status.identity, backend_version=version), unable=unable)


def _with_metrics(status: ServerStatus, get: Get) -> ServerStatus:
    reply = get("/metrics")
    samples = (
        parse(reply.body.decode("utf-8", "replace"), RUNNING, WAITING, USAGE, ACCEPTED, *GENERATED, *SUMS)
        if reply.status == 200
        else ()
    )
    decoded = tuple(each for each in samples if each.labels.get("mode", "decode") == "decode")
    generated = next(filter(lambda each: each is not None, (_sum(decoded, name) for name in GENERATED)), None)
    running = _sum(samples, RUNNING)
    shares = [each.value for each in samples if each.name == USAGE and 0 <= each.value <= 1]
    return replace(
        status,
        running=running,
        waiting=_sum(samples, WAITING),
        kv_cache_usage=max(shares, default=None),
        generated_tokens=generated,
        counts_at_end=generated is not None and _sum(decoded, GENERATED[0]) is None,
        sums=served_by_gaps(samples),
        progress=_progress_of(samples),
        served=None if generated is None else generated > 0,
        drafts=any(each.name == ACCEPTED and each.value > 1 for each in samples),
        notice=NOTICE if running is None else "",
    )


def _progress_of(samples: tuple[MetricSample, ...]) -> tuple[float, ...] | None:
    """Prompt and answer tokens as they are worked on; None if it counts only what has ended."""
    moving = tuple(each.value for each in samples if each.name == GENERATED[0])
    return (*moving, *(each.value for each in samples if each.name == f"{SUMS[1]}count")) if moving else None


def _sum(samples: tuple[MetricSample, ...], name: str) -> float | None:
    """The sum over the replicas (``dp_rank``). The ranks of one replica each give the same, and so do the series by priority
    beside their sum, whose ``priority`` is empty.
    """
    replicas: dict[str, float] = {}
    for each in samples:
        if each.name == name and not each.labels.get("priority"):
            replica = each.labels.get("dp_rank", "")
            replicas[replica] = max(each.value, replicas.get(replica, each.value))
    return sum(replicas.values()) if replicas else None
