"""Lemonade: ``/v1/health`` says which models are in memory, of which type, by which recipe, and whether they are busy.

``/metrics`` counts tokens and says who waits. But each read empties the gauges of the llama-server behind it, as a user's own
Prometheus would notice. It is read only if the target wants ``server_metrics``. Models of a cloud are listed too; they are
never taken.
"""

from dataclasses import dataclass, replace
from typing import Final

from exporter.probe.dialects.dialect import Get, ServerStatus, StatusQuery, json_of, member, text_of, without_ours
from exporter.probe.dialects.openai import OpenAI, is_owned_by, status_by_models
from exporter.probe.exposition import MetricSample, parse, total

RUNNING: Final = "lemonade_llamacpp_requests_processing"
WAITING: Final = "lemonade_llamacpp_requests_deferred"
TOKENS: Final = "lemonade_model_output_tokens_total"


@dataclass(frozen=True, slots=True)
class Lemonade(OpenAI):
    """Lemonade Server."""

    name: str = "lemonade"

    def recognise(self, get: Get) -> bool:
        """Its models are owned by "lemonade"; it looks like an Ollama elsewhere."""
        return is_owned_by(get, "lemonade")

    def status(self, query: StatusQuery) -> ServerStatus:
        """Two reads: the list and ``/v1/health``; ``/metrics`` too with ``server_metrics``."""
        status = status_by_models(self.name, query)
        if status.key_refused:
            return status
        version = text_of(member(json_of(query.get("/v1/health")), "version"))
        status = replace(status, identity=replace(status.identity, backend_version=version))
        return _with_metrics(status, query.get) if query.hints.server_metrics else status

    def others(self, get: Get, status: ServerStatus, ours: int) -> float | None:
        """By ``/metrics``, if that is read: ``is_busy`` can't tell our request from another one."""
        if status.waiting is None:
            return None
        load = _with_metrics(status, get)
        return without_ours(load.running, load.waiting, ours)


def _with_metrics(status: ServerStatus, get: Get) -> ServerStatus:
    """Who runs and who waits, and a count that rises with each use; nothing of what a cloud generated."""
    reply = get("/metrics")
    samples = parse(reply.body.decode("utf-8", "replace"), RUNNING, WAITING, TOKENS) if reply.status == 200 else ()
    own = tuple(each for each in samples if each.labels.get("recipe") != "cloud")
    generated = total(own, TOKENS)
    return replace(
        status,
        running=_known(own, RUNNING, status.running),
        waiting=_known(own, WAITING, status.waiting),
        generated_tokens=generated,
        activity=None if generated is None else f"{generated:.0f} tokens",
        activity_is_free=generated is not None,
    )


def _known(samples: tuple[MetricSample, ...], name: str, otherwise: float | None) -> float | None:
    """The sum of a metric, or what else is known if it is not there (an engine that is no llama-server)."""
    found = total(samples, name)
    return otherwise if found is None else found
