"""The status page: a view, drawn on the server. It needs no network, no script for its first view, and no other site."""

import functools
import platform
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import exporter
from exporter.backends import name_of
from exporter.cache.facts import CacheFacts, filesystems
from exporter.host.gpu import GpuFacts, GpuSample
from exporter.host.throttling import Reason, Throttling
from exporter.snapshot import (
    CACHE,
    COLLECTOR,
    CONTAINERS,
    EXPORTER,
    GPU,
    GPU_NAMES,
    GPU_SENSORS,
    MACHINE,
    ROCM,
    GpuNames,
    View,
)
from exporter.text import age_text, band_text, bytes_text, count_text, rate_text, seconds_text, share_text
from exporter.tiers import EnergyScope
from exporter.web import status
from exporter.web.draw import bar_of, strip_of, waterfall_of
from exporter.web.probe_log import log_rows
from exporter.web.ranges import RANGES, USUALLY, Stretch
from exporter.web.templating import new_environment

if TYPE_CHECKING:
    from jinja2 import Environment

CARDS: Final = 12
"""Targets that are drawn as cards; more are rows, grouped by reason."""
MODELS_SHOWN: Final = 8
LONGEST_NAMED: Final = 32
"""Characters of a server's name that the headline says; a longer one is only counted."""


@dataclass(frozen=True, slots=True)
class PageQuery:
    """What a reader asked for: the board, one target, or those that a text and a verdict fit; all if nothing is given."""

    board: bool = False
    target: str = ""
    text: str = ""
    verdict: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """What a target has to hold, all of it."""
        return tuple(self.text.lower().split())


@dataclass(frozen=True, slots=True)
class Group:
    """Targets that are as they are for the same reason; ``said`` and ``remedy`` if they are the same for all."""

    verdict: status.Verdict
    cause: str
    said: str
    remedy: str
    targets: tuple[status.TargetStatus, ...]

    @property
    def dense(self) -> bool:
        """Whether nothing has to be said of each."""
        return bool(self.said) or self.verdict in _FINE


def render_page(
    view: View, now: float, links: Mapping[str, str], asked: PageQuery = PageQuery(), stretch: Stretch = USUALLY
) -> str:
    """The page as HTML, with all times relative to ``now``."""
    targets = status.targets_of(view, now)
    shown = tuple(each for each in targets if is_wanted(each, asked))
    return (
        _environment()
        .get_template("board.html" if asked.board else "status.html")
        .render(
            now=now,
            version=exporter.__version__,
            python=platform.python_version(),
            asked=asked,
            many=len(targets) > CARDS,
            total=len(targets),
            targets=shown,
            groups=groups_of(shown) if len(shown) > CARDS else (),
            advice=status.machine_advice(view),
            machine=view.get(MACHINE),
            headline=_headline(targets),
            counts=status.counted(targets),
            state=view.get(EXPORTER),
            collectors=sorted((names[0], run) for names, run in view.of(COLLECTOR).items()),
            rocm=view.get(ROCM),
            engine=view.get(CONTAINERS),
            gpus=_gpus(view),
            other_gpus=(view.get(GPU_NAMES) or GpuNames()).others,
            caches=_caches(view),
            links=links,
            stretch=stretch,
            ranges=RANGES,
        )
    )


def is_wanted(target: status.TargetStatus, asked: PageQuery) -> bool:
    """Whether a reader asked for this target."""
    if asked.target:
        return target.target == asked.target
    text = found_by(target)
    return asked.verdict in {"", target.verdict.name} and all(word in text for word in asked.words)


def found_by(target: status.TargetStatus) -> str:
    """The text, in lower case, in which a search looks."""
    info = target.info
    parts = (target.target, target.verdict.name, target.cause, target.reason, info.url, info.model, info.quantization)
    return " ".join((*parts, name_of(info.backend), info.container, info.image, info.hardware)).lower()


def groups_of(targets: Iterable[status.TargetStatus]) -> tuple[Group, ...]:
    """Targets by verdict and reason: the worst verdict first, then the reason that most of them share."""
    found: dict[tuple[status.Verdict, str], list[status.TargetStatus]] = {}
    for each in targets:
        # Of those that are fine the cause says nothing that a reader has to know of each.
        found.setdefault((each.verdict, "" if each.verdict in _FINE else each.cause), []).append(each)
    ordered = sorted(found.items(), key=lambda item: (item[0][0], -len(item[1]), item[0][1]))
    return tuple(_group(verdict, cause, each) for (verdict, cause), each in ordered)


def _group(verdict: status.Verdict, cause: str, targets: list[status.TargetStatus]) -> Group:
    if verdict in _FINE:
        return Group(verdict, cause, "", "", tuple(targets))
    said = _shared(said_of(each) for each in targets)
    return Group(verdict, cause, said, _shared(each.why.remedy if each.why else "" for each in targets), tuple(targets))


def _shared(texts: Iterable[str]) -> str:
    """What all of them say, else nothing."""
    different = set(texts)
    return different.pop() if len(different) == 1 else ""


def said_of(target: status.TargetStatus) -> str:
    """What a row says of a target: the error of one that doesn't answer, else the reason with its fact."""
    if target.why is None or target.verdict <= status.Verdict.failing:
        return target.reason[:1].upper() + target.reason[1:]
    return target.why.sentence


SKIPPED_TEXTS: Final[Mapping[str, str]] = {
    "skipped_busy": "busy",
    "skipped_unloaded": "not loaded",
    "skipped_unable": "serves no text generation",
    "yielded": "stopped for users",
}

_BAD: Final = (
    status.Verdict.down,
    status.Verdict.stuck,
    status.Verdict.failing,
    status.Verdict.wrong,
    status.Verdict.poor,
)
_FINE: Final = (
    status.Verdict.acceptable,
    status.Verdict.good,
    status.Verdict.excellent,
    status.Verdict.right,
    status.Verdict.measured,
)
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
    if len(targets) == 1:
        (only,) = targets
        return f"{only.target} is {'fine' if fine else _predicate(only.verdict)}"
    if fine == len(targets):
        return f"All {whole} are fine"
    if len(counts) == 1:
        return f"All {whole} are {_predicate(targets[0].verdict)}"
    if bad := _said(counts, _BAD, _named(targets)):
        return f"Of {whole}, {bad}"
    others = _said(counts, [verdict for verdict in status.Verdict if verdict not in (*_BAD, *_FINE)])
    return (
        f"{fine} of {whole} {'is' if fine == 1 else 'are'} fine, {others}" if fine else f"No server measured: {others}"
    )


def _predicate(verdict: status.Verdict) -> str:
    return _PREDICATES.get(verdict, verdict.name)


def _named(targets: Iterable[status.TargetStatus]) -> dict[status.Verdict, str]:
    """By verdict the name of the one server that has it, where that is short enough for a headline."""
    found: dict[status.Verdict, str] = {}
    for each in targets:
        found[each.verdict] = "" if each.verdict in found else each.target
    return {verdict: name for verdict, name in found.items() if 0 < len(name) <= LONGEST_NAMED}


def _said(
    counts: Counter[status.Verdict],
    verdicts: Iterable[status.Verdict],
    named: Mapping[status.Verdict, str] = MappingProxyType({}),
) -> str:
    return ", ".join(
        f"{named.get(verdict, counts[verdict])} {'is' if counts[verdict] == 1 else 'are'} {_predicate(verdict)}"
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


_CAPITALS: Final[Mapping[str, str]] = {
    "aiter": "AITER", "cpu": "CPU", "gpu": "GPU", "gb": "GB", "kv": "KV", "rpc": "RPC", "ffn": "FFN",
}  # fmt: skip


def setting_text(name: str) -> str:
    """The name of a launch setting for people: ``cpu_offload`` is "CPU offload"."""
    words = " ".join(_CAPITALS.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]


LEAST_HELD: Final = 0.01
"""Share of the time below which nothing is said of a limit."""


def energy_text(joules_per_token: float, scope: EnergyScope | None = None) -> str:
    """What a token takes while it is decoded, and what a million of them do; ``scope`` says whose energy that is."""
    of = {"socket": " (CPU and GPU together)", "gpu": " (GPU)"}.get(scope or "", "")
    return f"{joules_per_token:.3g} J per token, {joules_per_token / 3.6:.3g} kWh per million tokens{of}"


_HELD: Final[Mapping[Reason, str]] = {
    "thermal": "throttled by heat",
    "power": "at its power limit, which is normal at full load",
    "current": "throttled by its current limit",
    "other": "throttled for a reason that its firmware doesn't name",
}


def held_down(throttling: Throttling) -> list[tuple[str, bool]]:
    """What holds a GPU's clocks down, in words, and whether that is a fault: only heat is one that somebody can mend."""
    return [
        (_HELD[reason] + (f" for {share_text(share)} of the time" if share < 1 else ""), reason == "thermal")
        for reason, share in throttling
        if share >= LEAST_HELD
    ]


def day_text(watts: float) -> str:
    """What a day takes at this power."""
    return f"{watts * 24 / 1000:.2g} kWh per day at this power"


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
        "setting": setting_text,
        "said": lambda result: status.RESULT_TEXTS.get(result, result),
    }
    environment.globals |= {
        "band_text": band_text,
        "count_text": count_text,
        "bar_of": bar_of,
        "found_by": found_by,
        "waterfall_of": waterfall_of,
        "strip_of": strip_of,
        "log_rows": log_rows,
        "energy_text": energy_text,
        "held_down": held_down,
        "day_text": day_text,
        "said_of": said_of,
        "models_shown": MODELS_SHOWN,
        "skipped_texts": SKIPPED_TEXTS,
    }
    return environment
