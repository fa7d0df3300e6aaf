"""The status page: a view, drawn on the server. It needs no network, no script for its first view, and no other site."""

import functools
import platform
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import exporter
from exporter.cache.facts import CacheFacts, filesystems
from exporter.host.gpu import GpuFacts, GpuSample
from exporter.snapshot import CACHE, COLLECTOR, CONTAINERS, EXPORTER, GPU, GPU_SENSORS, ROCM, View
from exporter.text import finite
from exporter.web import status
from exporter.web.draw import bar_of, sparkline_of

if TYPE_CHECKING:
    from jinja2 import Environment

SHOWN: Final = 100
"""Targets on the page, the worst first; the API has all."""
MODELS_SHOWN: Final = 8

NAMES: Final[Mapping[str, str]] = {
    "vllm": "vLLM",
    "llama_cpp": "llama.cpp",
    "ollama": "Ollama",
    "text_generation_webui": "text-generation-webui",
    "transformers": "Transformers",
    "openai": "OpenAI API",
    "simulator": "Simulator",
}


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


def _headline(targets: tuple[status.TargetStatus, ...]) -> str:
    counts = {verdict: sum(target.verdict == verdict for target in targets) for verdict in status.Verdict}
    bad = {name: counts[name] for name in (status.Verdict.down, status.Verdict.failing, status.Verdict.poor)}
    whole = "1 server" if len(targets) == 1 else f"{len(targets)} servers"
    if not targets:
        return "No inference server yet"
    if any(bad.values()):
        said = [f"{count} {'is' if count == 1 else 'are'} {verdict.name}" for verdict, count in bad.items() if count]
        return f"Of {whole}, {', '.join(said)}"
    fine = sum(
        counts[verdict] for verdict in (status.Verdict.acceptable, status.Verdict.good, status.Verdict.excellent)
    )
    if fine == len(targets):
        return "The server is fine" if fine == 1 else f"All {fine} servers are fine"
    return f"{fine} of {whole} {'is' if fine == 1 else 'are'} fine, nothing is wrong"


def _gpus(view: View) -> list[tuple[GpuFacts, GpuSample | None]]:
    reading, sensors = view.get(GPU), view.get(GPU_SENSORS) or ()
    samples = {sample.address: sample for sample in sensors}
    return [(gpu, samples.get(gpu.address)) for gpu in (reading.gpus if reading else ())]


def _caches(view: View) -> list[tuple[CacheFacts, Any]]:
    """Each cache with the filesystem it lies on, a filesystem only beside the first of its caches."""
    caches = tuple(record.facts for _, record in sorted(view.of(CACHE).items()))
    left = {each.device: each for each in filesystems(caches)}
    return [(cache, left.pop(cache.filesystem.device, None) if cache.filesystem else None) for cache in caches]


def in_tokens(speed: float | None) -> str:
    """A speed as people read it: three digits are enough."""
    number = finite(speed)
    if number is None:
        return "\N{EN DASH}"
    return f"{number:.1f}" if number < 99.95 else f"{number:,.0f}"


def in_seconds(seconds: float | None) -> str:
    """A duration measured: 0.8 ms, 410 ms, 1.24 s, 85 s."""
    number = finite(seconds)
    if number is None:
        return "\N{EN DASH}"
    if number < 0.01:
        return f"{number * 1000:.1f} ms"
    if number < 0.9995:
        return f"{number * 1000:.0f} ms"
    return f"{number:.2f} s" if number < 9.995 else f"{number:.0f} s"


def in_words(seconds: float) -> str:
    """A stretch of time said roughly: 12 s, 4 min, 3 h, 2 d. The page's script says it in the same words."""
    seconds = max(seconds, 0.0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= (2 * size if unit != "min" else 90):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def in_bytes(count: float | None) -> str:
    """A size in the units in which disks and models are sold."""
    number = finite(count)
    if number is None:
        return "\N{EN DASH}"
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 999.5 * size else f"{number / size:.0f} {unit}"
    return f"{number / 1e3:.0f} kB"


def in_share(ratio: float | None) -> str:
    """A ratio in per cent."""
    number = finite(ratio)
    return "\N{EN DASH}" if number is None else f"{number * 100:.0f} %"


def as_instant(seconds: float) -> str:
    """Unix time for a ``datetime`` attribute, in UTC."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return ""


@functools.cache
def _environment() -> "Environment":
    # With the first page that is asked for: a daemon that is only scraped never loads Jinja, which takes 2 MB.
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    environment = Environment(
        loader=PackageLoader("exporter.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "tokens": in_tokens,
        "seconds": in_seconds,
        "words": in_words,
        "bytes": in_bytes,
        "share": in_share,
        "instant": as_instant,
        "backend": lambda backend: NAMES.get(backend, backend),
        "said": lambda result: status.IN_WORDS.get(result, result),
    }
    environment.globals |= {
        "bar_of": bar_of,
        "sparkline_of": sparkline_of,
        "models_shown": MODELS_SHOWN,
        "skipped_in_words": SKIPPED_IN_WORDS,
    }
    return environment
