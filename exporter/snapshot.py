"""What is known now: observations by key, published whole and read as one consistent view.

A writer replaces an observation; a reader takes a ``View``, which never changes afterwards. Both are cheap: publishing
copies the index of one kind, taking a view is reading one attribute, so readers never hold up writers.

Publishing a ``ProbeResult`` is the one place where counters, histograms, recent probes and the history grow (``fold``).
"""

import math
import struct
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final, Generic, NamedTuple, TypeVar

from exporter.cache.facts import CacheFacts
from exporter.containers.facts import EngineReading
from exporter.host.gpu import GpuReading, GpuSample
from exporter.host.rocm import RocmFacts
from exporter.probe.result import RESULTS, SKIPPED, Measurements, ProbeResult, TargetState
from exporter.probe.timeline import Timeline
from exporter.tiers import Judgement

T = TypeVar("T")

LABEL_CHARACTERS: Final = 128
ERROR_CHARACTERS: Final = 500
LOG_LINES: Final = 40
MODELS_PER_TARGET: Final = 8
RECENT: Final = 4
RECENT_FAILED: Final = 4
HISTORY: Final = 180

TTFT_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Seconds."""
INTER_TOKEN_BOUNDS: Final = (
    *(1 / speed for speed in (400, 200, 100, 80, 60, 50, 40, 30, 25)),
    *(1 / speed for speed in (20, 15, 12, 10, 8, 5, 2, 1)),
    2.5,
)
"""Seconds per token; those of 20, 15 and 10 tokens/s are the bounds of the tiers."""


def printable(text: str, characters: int = LABEL_CHARACTERS) -> str:
    """A stranger's text without control characters, lone surrogates and line breaks, cut to a number of characters."""
    if text.isprintable() and len(text) <= characters:
        return text
    return "".join(islice((c for c in text[: 16 * characters] if c.isprintable()), characters))


def finite(value: float | None) -> float | None:
    """The value as a float; None for what no exposition can hold: nothing, NaN, an infinity, an integer beyond floats."""
    if value is None:
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True, slots=True)
class Key(Generic[T]):
    """The name of an observation of type ``T``; made by the functions below."""

    kind: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a module is meant to do on a target; published at start and reload, before the first probe."""

    interval_seconds: float
    concurrency: int = 1


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What a target is, in words; empty where it is not known."""

    url: str
    backend: str = ""
    backend_version: str = ""
    model: str = ""
    quantization: str = ""
    container: str = ""
    image: str = ""
    scenario: str = ""
    hardware: str = ""


@dataclass(frozen=True, slots=True)
class CollectorRun:
    """The last run of one collector of facts."""

    success: bool
    duration_seconds: float
    at_seconds: float


@dataclass(frozen=True, slots=True)
class ExporterState:
    """The daemon's own state; Unix time and seconds, ``targets_by_state`` as (state, number) pairs.

    ``minimum_rocm`` is the oldest release (``7.0``) that counts as supported.
    """

    reload_successful: bool = True
    reload_success_at_seconds: float | None = None
    schedule_delay_seconds: float | None = None
    targets_by_state: tuple[tuple[str, int], ...] = ()
    minimum_rocm: str | None = None


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations counted by bucket (not cumulated; one more bucket than bounds) and their sum."""

    counts: tuple[int, ...]
    sum: float = 0.0

    def observe(self, values: Iterable[tuple[float, int]], bounds: tuple[float, ...]) -> "Histogram":
        """With more (value, times); what can't have been observed is left out. A bound belongs to the bucket below it."""
        counts, total = list(self.counts), self.sum
        for value, times in values:
            number = finite(value)
            if number is not None and number >= 0 and times > 0:
                counts[bisect_left(bounds, number)] += times
                total += number * times
        return Histogram(tuple(counts), total)


@dataclass(frozen=True, slots=True)
class ModelHistograms:
    """TTFT and inter-token time of one model since the start."""

    model: str
    ttft: Histogram = Histogram((0,) * (len(TTFT_BOUNDS) + 1))
    inter_token: Histogram = Histogram((0,) * (len(INTER_TOKEN_BOUNDS) + 1))


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters of one module on one target; ``results`` is parallel to ``RESULTS``."""

    results: tuple[int, ...] = (0,) * len(RESULTS)
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    busy_seconds: float = 0.0
    last_run_seconds: float | None = None
    last_success_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """The last scan of a cache, and how many have failed since the start."""

    facts: CacheFacts
    scan_errors: int = 0


class Point(NamedTuple):
    """One probe that ran, for the history: Unix time, and its speed unless it failed or had none."""

    at_seconds: float
    tokens_per_second: float | None
    ok: bool


_POINT: Final = struct.Struct("<dd?")


@dataclass(frozen=True, slots=True)
class History:
    """The newest ``HISTORY`` points, oldest first.

    Packed, because a thousand targets each keep one: as objects they would be most of those that a full garbage collection
    visits, and nothing else runs meanwhile.
    """

    packed: bytes = b""

    def __len__(self) -> int:
        return len(self.packed) // _POINT.size

    def __iter__(self) -> Iterator[Point]:
        for at_seconds, speed, ok in _POINT.iter_unpack(self.packed):
            yield Point(at_seconds, finite(speed), ok)

    def followed_by(self, point: Point) -> "History":
        """The history after one more probe."""
        speed = math.nan if point.tokens_per_second is None else point.tokens_per_second
        kept = self.packed[-(HISTORY - 1) * _POINT.size :]
        return History(kept + _POINT.pack(point.at_seconds, speed, point.ok))


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of one module on one target.

    ``last`` is the newest result, ``ran`` the newest of a probe that was not skipped; a skipped probe leaves everything
    that ``ran`` says as it was, a failed one leaves nothing of an older one behind. ``recent`` holds results newest first,
    failures outliving successes.
    """

    target: str
    module: str
    plan: Plan
    interval_seconds: float
    last: ProbeResult | None = None
    ran: ProbeResult | None = None
    totals: Totals = Totals()
    histograms: tuple[ModelHistograms, ...] = ()
    recent: tuple[ProbeResult, ...] = ()
    history: History = History()

    @property
    def success(self) -> bool | None:
        """Whether the last probe that ran was good; None before the first."""
        return None if self.ran is None else self.ran.result == "ok"

    @property
    def figures(self) -> Measurements | None:
        """What the last probe that ran measured; None before the first and after a failed one."""
        return self.ran.measurements if self.ran is not None and self.ran.result == "ok" else None


def planned(record: Record | None, target: str, module: str, plan: Plan) -> Record:
    """The record under a new plan: counters stay, and so does a stretched interval unless the plan's own has changed."""
    if record is None:
        return Record(target, module, plan, plan.interval_seconds)
    if record.plan.interval_seconds == plan.interval_seconds:
        return replace(record, plan=plan)
    return replace(record, plan=plan, interval_seconds=plan.interval_seconds)


def fold(record: Record, result: ProbeResult) -> Record:
    """The record after one more probe."""
    result = trimmed(result)
    changed = replace(
        record,
        interval_seconds=finite(result.interval_seconds) or record.interval_seconds,
        last=result,
        totals=_counted(record.totals, result),
        recent=_recent((result, *record.recent)),
    )
    if result.result in SKIPPED:
        return changed
    ok = result.result == "ok"
    point = Point(result.at_seconds, finite(result.measurements.tokens_per_second) if ok else None, ok)
    return replace(changed, ran=result, history=record.history.followed_by(point))


def trimmed(result: ProbeResult) -> ProbeResult:
    """What is kept of a result: strings safe to show, and of its streams the marks without the chunks between.

    Memory is why: a thousand targets each keep several.
    """
    return replace(
        result,
        model=None if result.model is None else printable(result.model),
        error=printable(result.error, ERROR_CHARACTERS),
        log=tuple(printable(line, ERROR_CHARACTERS) for line in result.log[:LOG_LINES]),
        measurements=replace(result.measurements, gaps=()),
        timelines=tuple(_marks(timeline) for timeline in result.timelines),
        state=None,
    )


def _marks(timeline: Timeline) -> Timeline:
    return replace(timeline, chunks=(*timeline.chunks[:1], *timeline.chunks[1:][-1:]))


def _recent(results: tuple[ProbeResult, ...]) -> tuple[ProbeResult, ...]:
    failed = [result for result in results[RECENT:] if result.result != "ok" and result.result not in SKIPPED]
    return (*results[:RECENT], *failed[:RECENT_FAILED])


def _counted(totals: Totals, result: ProbeResult) -> Totals:
    results = tuple(count + (name == result.result) for name, count in zip(RESULTS, totals.results, strict=True))
    ran = result.result not in SKIPPED
    return Totals(
        results=results,
        prompt_tokens=totals.prompt_tokens + _amount(result.prompt_tokens_spent),
        output_tokens=totals.output_tokens + _amount(result.output_tokens_spent),
        busy_seconds=totals.busy_seconds + _amount(result.busy_seconds),
        last_run_seconds=result.at_seconds if ran else totals.last_run_seconds,
        last_success_seconds=result.at_seconds if result.result == "ok" else totals.last_success_seconds,
    )


def _amount(value: float) -> float:
    # A counter that once took an absurd number never recovers: what can't be is not counted.
    number = finite(value)
    return number if number is not None and 0 <= number < 1e12 else 0.0


def observed(histograms: tuple[ModelHistograms, ...], result: ProbeResult) -> tuple[ModelHistograms, ...]:
    """The histograms after one more probe: one observation of TTFT, one of inter-token time for each token of a gap.

    Only a good probe of a warm model counts: the wait for a model to load is no TTFT.
    """
    if result.result != "ok" or result.cold_start:
        return histograms
    model = printable(result.model or "")
    old = next((each for each in histograms if each.model == model), ModelHistograms(model))
    ttft = result.measurements.ttft_seconds
    new = ModelHistograms(
        model,
        old.ttft if ttft is None else old.ttft.observe([(ttft, 1)], TTFT_BOUNDS),
        old.inter_token.observe(result.measurements.gaps, INTER_TOKEN_BOUNDS),
    )
    return (*(each for each in histograms if each.model != model), new)


def without_model(record: Record, model: str) -> Record:
    """The record with nothing left that carries this model's name as a label."""
    ran = record.ran
    if ran is not None and (ran.model or "") == model:
        ran = replace(ran, model=None, measurements=Measurements())
    return replace(record, ran=ran, histograms=tuple(each for each in record.histograms if each.model != model))


def plan_key(target: str, module: str) -> Key[Plan]:
    """How often and how a module probes a target."""
    return Key("plan", (target, module))


def probe_key(target: str, module: str) -> Key[ProbeResult]:
    """The results of one module on one target; the view holds them as a ``Record``."""
    return Key("probe", (target, module))


def target_key(target: str) -> Key[TargetState]:
    """What a target said of itself at the last status check."""
    return Key("target", (target,))


def info_key(target: str) -> Key[TargetInfo]:
    """What a target is."""
    return Key("info", (target,))


def judgement_key(target: str, module: str) -> Key[Judgement]:
    """Thresholds from the start, the tier once a speed is known."""
    return Key("judgement", (target, module))


def cache_key(name: str) -> Key[CacheFacts]:
    """The last scan of one model cache."""
    return Key("cache", (name,))


def collector_key(name: str) -> Key[CollectorRun]:
    """The last run of a collector."""
    return Key("collector", (name,))


ROCM: Final[Key[RocmFacts]] = Key("rocm")
GPU: Final[Key[GpuReading]] = Key("gpu")
GPU_SENSORS: Final[Key[tuple[GpuSample, ...]]] = Key("gpu_sensors")
CONTAINERS: Final[Key[EngineReading]] = Key("containers")
EXPORTER: Final[Key[ExporterState]] = Key("exporter")

# What is published under one kind and kept in a record of another, with the attribute that holds it.
_KEPT_IN: Final = {"plan": ("record", "plan"), "probe": ("record", "last"), "cache": ("cache_record", "facts")}
_OF_A_TARGET: Final = frozenset({"probe", "target", "info", "judgement"})

Index = Mapping[tuple[str, ...], Any]


@dataclass(frozen=True, slots=True)
class View:
    """Everything as it was at one instant. Plans and results are together in ``records``, by (target, module)."""

    kinds: Mapping[str, Index] = field(default_factory=dict)

    def of(self, kind: str) -> Index:
        """All observations of one kind, by the names of their keys."""
        return self.kinds.get(kind, {})

    def get(self, key: Key[T]) -> T | None:
        """The observation under a key; None where nothing was published."""
        kind, attribute = _KEPT_IN.get(key.kind, (key.kind, None))
        kept = self.of(kind).get(key.names)
        found: T | None = kept if kept is None or attribute is None else getattr(kept, attribute)
        return found

    @property
    def records(self) -> Mapping[tuple[str, str], Record]:
        """One record for each module of each target that is configured now."""
        return self.of("record")  # type: ignore[return-value]  # the keys of this kind are pairs

    @property
    def targets(self) -> tuple[str, ...]:
        """The configured targets, by name."""
        return tuple(sorted({target for target, _ in self.records}))


Observation = tuple[Key[Any], Any]


class Snapshot:
    """Holds what is published. Any thread may publish, any thread may take a view.

    ``watch`` is called after each publication, outside the lock, with the view and the (kind, names) that changed in it.
    """

    def __init__(self, watch: Callable[[View, tuple[str, tuple[str, ...]]], None] | None = None) -> None:
        self._watch = watch
        self._lock = threading.Lock()
        self._view = View()
        self._models: dict[str, tuple[str, ...]] = {}
        self._planned: set[tuple[str, ...]] = set()
        """The names of what is known of a whole target, by which a draft finds without a search that it has a plan."""

    def view(self) -> View:
        """Everything as it is at this instant."""
        return self._view

    def publish(self, key: Key[T], value: T) -> bool:
        """Replace one observation. False, and nothing kept, for a target without a plan: one that a reload took away."""
        return self.publish_all(((key, value),))

    def publish_all(self, observations: Iterable[Observation]) -> bool:
        """Replace several observations at one instant; False if any was of a target without a plan."""
        with self._lock:
            draft = _Draft(self._view.kinds, self._models, self._planned)
            kept = [draft.put(key, value) for key, value in observations]
            self._view = draft.view()
            view = self._view
        if self._watch is not None:
            for changed in draft.changed:
                self._watch(view, changed)
        return all(kept)

    def retain(self, keep: Callable[[Key[Any]], bool]) -> None:
        """Drop every observation whose key is not to be kept; plans and results go together, under ``probe_key``.

        What is known of a target goes with its last plan, whatever ``keep`` says.
        """
        with self._lock:
            kept = {
                kind: {
                    names: value for names, value in index.items() if keep(Key(_PUBLISHED_AS.get(kind, kind), names))
                }
                for kind, index in self._view.kinds.items()
            }
            records = kept.get("record", {})
            self._planned = {names[:1] for names in records}
            for kind in ("target", "info", "judgement"):
                index = kept.get(kind, {})
                kept[kind] = {
                    names: value for names, value in index.items() if names in records or names in self._planned
                }
            self._view = View(kept)
            self._models = {target: models for target, models in self._models.items() if (target,) in self._planned}


_PUBLISHED_AS: Final = {"record": "probe", "cache_record": "cache"}


class _Draft:
    """The next view while it is being made; kinds that don't change are shared with the last one."""

    def __init__(
        self, kinds: Mapping[str, Index], models: dict[str, tuple[str, ...]], planned: set[tuple[str, ...]]
    ) -> None:
        self._kinds = dict(kinds)
        self._copied: dict[str, dict[tuple[str, ...], Any]] = {}
        self._models = models
        self._planned = planned
        self.changed: list[tuple[str, tuple[str, ...]]] = []

    def view(self) -> View:
        return View({**self._kinds, **self._copied})

    def put(self, key: Key[Any], value: Any) -> bool:
        if key.kind in _OF_A_TARGET and not self._is_planned(key):
            return False
        match key.kind:
            case "plan":
                target, module = key.names
                self._planned.add((target,))
                self._set("record", key.names, planned(self._get("record", key.names), target, module, value))
            case "probe":
                self._put_result(key.names, value)
            case "cache":
                errors = record.scan_errors if (record := self._get("cache_record", key.names)) else 0
                self._set("cache_record", key.names, CacheRecord(value, errors + (value.error is not None)))
            case "target":
                self._set("target", key.names, _shown(value))
            case _:
                # What says nothing new stays the same object, and what was made of it stays good.
                if self._get(key.kind, key.names) != value:
                    self._set(key.kind, key.names, value)
        return True

    def _put_result(self, names: tuple[str, ...], result: ProbeResult) -> None:
        record: Record = self._get("record", names)
        histograms = observed(record.histograms, result)
        self._set("record", names, replace(fold(record, result), histograms=histograms))
        if result.state is not None:
            self._set("target", names[:1], _shown(result.state))
        if result.result not in SKIPPED:
            self._remember_model(names[0], printable(result.model or ""))

    def _remember_model(self, target: str, model: str) -> None:
        models = (*(each for each in self._models.get(target, ()) if each != model), model)
        for gone in models[:-MODELS_PER_TARGET]:
            for names, record in list(self._index("record").items()):
                if names[0] == target:
                    self._set("record", names, without_model(record, gone))
        self._models[target] = models[-MODELS_PER_TARGET:]

    def _is_planned(self, key: Key[Any]) -> bool:
        return key.names in self._planned or key.names in self._index("record")

    def _index(self, kind: str) -> Index:
        return self._copied.get(kind) or self._kinds.get(kind, {})

    def _get(self, kind: str, names: tuple[str, ...]) -> Any:
        return self._index(kind).get(names)

    def _set(self, kind: str, names: tuple[str, ...], value: Any) -> None:
        if kind not in self._copied:
            self._copied[kind] = dict(self._kinds.get(kind, {}))
        self._copied[kind][names] = value
        self.changed.append((kind, names))


def _shown(state: TargetState) -> TargetState:
    return replace(state, error=printable(state.error, ERROR_CHARACTERS))
