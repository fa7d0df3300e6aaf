"""What ``/api/v1`` answers: a view and the verdicts on it as JSON. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from exporter import __version__
from exporter.cache.facts import CacheFacts
from exporter.history.change import Entry
from exporter.history.change_lines import entry_json
from exporter.probe.result import RESULTS, Measurements, ProbeResult
from exporter.probe.timeline import Timeline
from exporter.settings import Thresholds
from exporter.snapshot import (
    CACHE,
    COLLECTOR,
    CONTAINERS,
    EXPORTER,
    GPU,
    GPU_NAMES,
    GPU_SENSORS,
    MACHINE,
    PROCESSES,
    ROCM,
    View,
)
from exporter.text import ERROR_CHARACTERS, finite, printable
from exporter.web.status import ProbeStatus, TargetStatus, counted, targets_of


def status_json(view: View, now: float) -> dict[str, Any]:
    """What ``/api/v1/status`` answers: the targets, the worst first, the machine and the exporter."""
    targets = targets_of(view, now)
    return {
        "timestamp_seconds": now,
        "version": __version__,
        "exporter": as_json(view.get(EXPORTER)),
        "verdicts": counted(targets),
        "targets": [target_json(target) for target in targets],
        "host": host_json(view),
    }


def changes_json(entries: Iterable[Entry]) -> dict[str, Any]:
    """What ``/api/v1/changes`` answers: what changed, in the order given."""
    return {"changes": [as_json(entry_json(each)) for each in entries]}


def host_json(view: View) -> dict[str, Any]:
    """What is known of the machine; null if nothing was read."""
    return {
        "rocm": as_json(view.get(ROCM)),
        "gpus": as_json(view.get(GPU)),
        "sensors": as_json(view.get(GPU_SENSORS)),
        "gpu_names": as_json(view.get(GPU_NAMES)),
        "machine": as_json(view.get(MACHINE)),
        "processes": as_json(view.get(PROCESSES)),
        "containers": as_json(view.get(CONTAINERS)),
        "caches": [_cache_json(record.facts) for _, record in sorted(view.of(CACHE).items())],
        "collectors": {names[0]: as_json(run) for names, run in sorted(view.of(COLLECTOR).items())},
    }


def _cache_json(cache: CacheFacts) -> dict[str, Any]:
    models = [
        {"name": model.name, "bytes": model.bytes, "complete": model.complete, "missing": model.missing}
        for model in cache.models
    ]
    return {**as_json(replace(cache, models=(), others=())), "models": as_json(models)}


def target_json(status: TargetStatus) -> dict[str, Any]:
    """One target as ``/api/v1/status`` answers it: keys are metric names without their prefix."""
    return {
        "target": status.target,
        "verdict": status.verdict.name,
        "reason": status.reason,
        "info": as_json(status.info),
        "state": as_json(status.state),
        "probes": [_probe_json(probe) for probe in status.probes],
        "changes": [as_json(each) for each in status.changes],
        "advice": [as_json(each) for each in status.advice],
    }


def _probe_json(probe: ProbeStatus) -> dict[str, Any]:
    record, judgement, totals = probe.record, probe.judgement, probe.record.totals
    return {
        "module": record.module,
        "verdict": probe.verdict.name,
        "reason": probe.reason,
        "success": record.success,
        "last_result": record.last.result if record.last else None,
        **_figures_json(record.ran, probe.figures),
        "tier": probe.tier,
        "judgement": as_json(judgement),
        "concurrency": record.plan.concurrency,
        "interval_seconds": finite(record.interval_seconds),
        "last_run_timestamp_seconds": finite(totals.last_run_seconds),
        "last_success_timestamp_seconds": finite(totals.last_success_seconds),
        "next_run_timestamp_seconds": finite(probe.next_run_seconds),
        "stale": probe.stale,
        "probes_total": dict(zip(RESULTS, totals.results, strict=True)),
        "answer_correct": {check.depth: check.verdict for check in record.ran.checks} if record.ran else {},
        "answer_fingerprint_distance": finite(record.fingerprint.distance) if record.fingerprint else None,
        "consumed_tokens_total": {"prompt": totals.prompt_tokens, "output": totals.output_tokens},
        "busy_seconds_total": totals.busy_seconds,
    }


def _figures_json(ran: ProbeResult | None, figures: Measurements) -> dict[str, Any]:
    """``figures`` are of a good probe, the rest of any that ran."""
    m = ran.measurements if ran else Measurements()
    tokens = {
        "prompt": m.prompt_tokens,
        "cached": m.cached_tokens,
        "reasoning": m.reasoning_tokens,
        "output": m.output_tokens,
    }
    return {
        "result": ran.result if ran else None,
        "error": ran.error if ran else "",
        "answer_fault": ran.fault if ran else None,
        "model": ran.model if ran else None,
        "tokens_per_second": finite(figures.tokens_per_second),
        "end_to_end_tokens_per_second": finite(figures.end_to_end_tokens_per_second),
        "aggregate_tokens_per_second": finite(figures.aggregate_tokens_per_second),
        "ttft_seconds": finite(figures.ttft_seconds),
        "time_to_first_answer_seconds": finite(figures.time_to_first_answer_seconds),
        "prefill_tokens_per_second": finite(figures.prefill_tokens_per_second),
        "server_tokens_per_second": finite(figures.server_tokens_per_second),
        "phase_seconds": {phase: finite(seconds) for phase, seconds in m.phases},
        "tokens": {kind: count for kind, count in tokens.items() if count is not None},
        "token_count_exact": m.token_count_exact,
        "stream_buffered": m.stream_buffered,
        "cold_start": ran.cold_start if ran else None,
        "model_load_seconds": finite(ran.model_load_seconds) if ran else None,
        "clock_error_seconds": finite(m.clock_error_seconds),
    }


def recent_json(view: View, target: str) -> dict[str, Any] | None:
    """What ``/api/v1/probes`` answers: a target's recent probes, newest first, and by module the history of its speed.

    None for a target that isn't configured.
    """
    records = [record for (name, _), record in sorted(view.records.items()) if name == target]
    results = sorted((result for record in records for result in record.recent), key=lambda each: -each.at_seconds)
    found = {
        "target": printable(target),
        "probes": [result_json(result) for result in results],
        "history": {record.module: [as_json(point._asdict()) for point in record.history] for record in records},
    }
    return found if records else None


def result_json(result: ProbeResult) -> dict[str, Any]:
    """One probe with its marks and its log."""
    return {
        "target": result.target,
        "module": result.module,
        "timestamp_seconds": finite(result.at_seconds),
        **_figures_json(result, result.measurements),
        "marks_seconds": [_marks(timeline) for timeline in result.timelines],
        "log": list(result.log),
    }


def _marks(timeline: Timeline) -> dict[str, float]:
    """Seconds since the probe's turn came, for each mark that was reached."""
    chunks = timeline.chunks
    marks = {
        "resolved": timeline.resolved_ns,
        "connected": timeline.connected_ns,
        "secured": timeline.secured_ns,
        "sent": timeline.sent_ns,
        "headers": timeline.headers_ns,
        "first_text": chunks[0].at_ns if chunks else None,
        "last_text": chunks[-1].at_ns if chunks else None,
        "end": timeline.end_ns,
    }
    return {name: (at - timeline.started_ns) / 1e9 for name, at in marks.items() if at is not None}


def as_json(value: Any) -> Any:
    """Records as what JSON can hold: a number that isn't finite is null, text from outside is printable and bounded."""
    simple: Any = None
    match value:
        case None | bool() | int():
            simple = value
        case float():
            simple = finite(value)
        case str() | Path():
            simple = printable(str(value), ERROR_CHARACTERS)
        case Mapping():
            simple = {printable(str(key)): as_json(each) for key, each in value.items()}
        case Thresholds():
            simple = {name: as_json(each) for name, each in value}
        case _ if is_dataclass(value):
            simple = {each.name: as_json(getattr(value, each.name)) for each in fields(value)}
        case _:
            simple = [as_json(each) for each in value]
    return simple
