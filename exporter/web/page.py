"""The status page: a view, drawn on the server. It needs no network, no script for its first view, and no other site."""

import functools
import platform
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import exporter
from exporter.backends import name_of
from exporter.cache.facts import CacheFacts, filesystems
from exporter.history.change import Ledger
from exporter.host.gpu import GpuFacts, GpuSample
from exporter.snapshot import CACHE, COLLECTOR, CONTAINERS, EXPORTER, GPU, GPU_SENSORS, ROCM, View
from exporter.text import age_text, band_text, bytes_text, count_text, rate_text, seconds_text, share_text
from exporter.web import status
from exporter.web.draw import bar_of, sparkline_of
from exporter.web.templating import new_environment

if TYPE_CHECKING:
    from jinja2 import Environment

SHOWN: Final = 100
"""Targets on the page, the worst first; the API has all."""
MODELS_SHOWN: Final = 8


def render_page(view: View, now: float, links: Mapping[str, str]) -> str:
    """The page as HTML, with all times relative to ``now``."""
    targets = status.targets_of(view, now)
    return (
        _environment()
        .get_template("status.html")
        .render(
            now=now,
            version=exporter.__version__,
            python=platform.python_version(),
            targets=targets[:SHOWN],
            hidden=len(targets[SHOWN:]),
            headline=_headline(targets),
            counts=status.counted(targets),
            state=view.get(EXPORTER),
            collectors=sorted((names[0], run) for names, run in view.of(COLLECTOR).items()),
            rocm=view.get(ROCM),
            engine=view.get(CONTAINERS),
            gpus=_gpus(view),
            caches=_caches(view),
            links=links,
        )
    )


SKIPPED_IN_WORDS: Final[Mapping[str, str]] = {
    "skipped_busy": "busy",
    "skipped_unloaded": "not loaded",
    "skipped_unable": "serves no text generation",
    "yielded": "gave way to a user",
}

_BAD: Final = (
    status.Verdict.down,
    status.Verdict.stuck,
    status.Verdict.failing,
    status.Verdict.wrong,
    status.Verdict.poor,
)
_FINE: Final = (status.Verdict.acceptable, status.Verdict.good, status.Verdict.excellent, status.Verdict.right)
_PREDICATES: Final = {
    status.Verdict.unmeasured: "without a speed",
    status.Verdict.unloaded: "not loaded",
    status.Verdict.unable: "not for text generation",
    status.Verdict.waiting: "not probed yet",
}


def _headline(targets: tuple[status.TargetStatus, ...]) -> str:
    """One sentence: what is bad, else that all is fine, else what the others do."""
    counts = Counter(target.verdict for target in targets)
    fine, whole = sum(counts[verdict] for verdict in _FINE), count_text(len(targets), "server")
    if not targets:
        return "No inference server yet"
    if bad := _said(counts, _BAD):
        return f"Of {whole}, {bad}"
    if fine == len(targets):
        return "The server is fine" if fine == 1 else f"All {whole} are fine"
    others = _said(counts, [verdict for verdict in status.Verdict if verdict not in (*_BAD, *_FINE)])
    return (
        f"{fine} of {whole} {'is' if fine == 1 else 'are'} fine, {others}" if fine else f"No server measured: {others}"
    )


def _said(counts: Counter[status.Verdict], verdicts: Iterable[status.Verdict]) -> str:
    return ", ".join(
        f"{counts[verdict]} {'is' if counts[verdict] == 1 else 'are'} {_PREDICATES.get(verdict, verdict.name)}"
        for verdict in verdicts
        if counts[verdict]
    )


def _gpus(view: View) -> list[tuple[GpuFacts, GpuSample | None]]:
    reading, sensors = view.get(GPU), view.get(GPU_SENSORS) or ()
    samples = {sample.address: sample for sample in sensors}
    return [(gpu, samples.get(gpu.address)) for gpu in (reading.gpus if reading else ())]


def _caches(view: View) -> list[tuple[CacheFacts, Any]]:
    """Each cache with the filesystem it lies on, a filesystem only beside the first of its caches."""
    caches = tuple(record.facts for _, record in sorted(view.of(CACHE).items()))
    left = {each.device: each for each in filesystems(caches)}
    return [(cache, left.pop(cache.filesystem.device, None) if cache.filesystem else None) for cache in caches]


def as_instant(seconds: float) -> str:
    """Unix time for a ``datetime`` attribute, in UTC."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return ""


def _change_times(ledger: Ledger | None) -> tuple[float, ...]:
    """When something changed, or stepped for no known reason."""
    return tuple(entry.at_seconds for entry in ledger.entries) if ledger else ()


@functools.cache
def _environment() -> "Environment":
    environment = new_environment()
    environment.filters |= {
        "tokens": rate_text,
        "seconds": seconds_text,
        "age": age_text,
        "bytes": bytes_text,
        "share": share_text,
        "instant": as_instant,
        "moment": lambda seconds: as_instant(seconds).replace("T", " ")[:16] + " UTC",
        "backend": name_of,
        "said": lambda result: status.IN_WORDS.get(result, result),
    }
    environment.globals |= {
        "band_text": band_text,
        "count_text": count_text,
        "bar_of": bar_of,
        "sparkline_of": sparkline_of,
        "change_times": _change_times,
        "models_shown": MODELS_SHOWN,
        "skipped_in_words": SKIPPED_IN_WORDS,
    }
    return environment
