"""What is known now: observations by kind and name, published whole and read as one consistent view.

A writer replaces an observation; a reader takes a ``View``, which never changes afterwards. Both are cheap: publishing
copies the index of one kind, taking a view is reading one attribute, so readers never hold up writers.

Publishing a ``ProbeResult`` is the one place where counters, histograms, recent probes and the history grow (``fold``).
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeVar

from exporter.cache.facts import CacheFacts, WeightFacts
from exporter.cache.model_file import Unreadable
from exporter.containers.facts import EngineReading
from exporter.history.change import Ledger
from exporter.history.record import Plan, Record, fold, planned, without_model
from exporter.host.gpu import GpuReading, GpuSample
from exporter.host.gpu_links import GpuLink
from exporter.host.gpu_memory import ProcessMemory
from exporter.host.machine import MachineFacts
from exporter.host.other_gpus import OtherGpu
from exporter.host.process import ProcessReading
from exporter.host.rocm import RocmFacts
from exporter.probe.result import SKIPPED, ProbeResult, TargetState
from exporter.text import ERROR_CHARACTERS, label, printable
from exporter.tiers import Judgement, Tier

P = TypeVar("P")
T = TypeVar("T")

MODELS_PER_TARGET: Final = 8

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What a target is, in words; empty if it is not known.

    ``gpus`` are the addresses of those that serve it, ``gpu_rule`` the rule that decided that, ``gpu_reason`` the decision or
    why there is none. ``settings`` are the launch settings that decide speed, by name; ``unknown`` says what could not be
    read of the server, and why. ``weight_bytes`` is the size of the model.
    """

    url: str
    backend: str = ""
    backend_version: str = ""
    model: str = ""
    quantization: str = ""
    container: str = ""
    image: str = ""
    scenario: str = ""
    hardware: str = ""
    gpus: Names = ()
    gpu_rule: str = ""
    gpu_reason: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    unknown: Names = ()
    weight_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """How good what a server's users get is; ``tier`` is None while nobody is served. ``acceptable`` is the tier's lower bound."""

    tier: Tier | None = None
    acceptable: float | None = None


@dataclass(frozen=True, slots=True)
class CollectorRun:
    """The last run of one collector of facts."""

    success: bool
    duration_seconds: float
    at_seconds: float


@dataclass(frozen=True, slots=True)
class ExporterState:
    """The daemon's own state; Unix time and seconds, ``targets_by_state`` as (state, number) pairs.

    ``minimum_rocm`` is the oldest release (``7.0``) that counts as supported, ``history_bytes`` the size of the history,
    ``auth_failures`` the failed logins since the start.
    """

    reload_successful: bool = True
    reload_success_at_seconds: float | None = None
    schedule_delay_seconds: float | None = None
    targets_by_state: tuple[tuple[str, int], ...] = ()
    minimum_rocm: str | None = None
    history_bytes: int | None = None
    auth_failures: int = 0


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """The last scan of a cache, and how many have failed since the start."""

    facts: CacheFacts
    scan_errors: int = 0


@dataclass(frozen=True, slots=True)
class GpuNames:
    """Under which names the GPUs of this machine are known, and those that amdgpu doesn't drive.

    ``render_nodes`` are (name, address) of all GPUs.
    """

    links: tuple[GpuLink, ...] = ()
    others: tuple[OtherGpu, ...] = ()
    render_nodes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ServerProcesses:
    """The inference servers among this machine's processes; ``memory`` is what each holds of GPUs, by process id."""

    reading: ProcessReading = field(default_factory=ProcessReading)
    memory: tuple[tuple[int, ProcessMemory], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The weights of the models that servers run, by the path of their file or folder; ``stamps`` are its size and time."""

    by_path: tuple[tuple[str, WeightFacts | Unreadable], ...] = ()
    stamps: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Kind(Generic[T]):
    """One kind of observation that a view holds, each of this type. The kinds of ``_KINDS`` are all that there are."""

    name: str
    type: type[T]


@dataclass(frozen=True, slots=True)
class Key(Generic[P, T]):
    """Where an observation is published as a ``P``; a view holds it as a ``T``. Made by the functions below."""

    kind: Kind[T]
    names: Names = ()


RECORD: Final = Kind("record", Record)
TARGET: Final = Kind("target", TargetState)
INFO: Final = Kind("info", TargetInfo)
JUDGEMENT: Final = Kind("judgement", Judgement)
LEDGER: Final = Kind("ledger", Ledger)
SERVICE: Final = Kind("service", Service)
CACHE: Final = Kind("cache", CacheRecord)
COLLECTOR: Final = Kind("collector", CollectorRun)

ROCM: Final[Key[RocmFacts, RocmFacts]] = Key(Kind("rocm", RocmFacts))
GPU: Final[Key[GpuReading, GpuReading]] = Key(Kind("gpu", GpuReading))
GPU_SENSORS: Final[Key[tuple[GpuSample, ...], tuple[GpuSample, ...]]] = Key(Kind("gpu_sensors", tuple))
CONTAINERS: Final[Key[EngineReading, EngineReading]] = Key(Kind("containers", EngineReading))
EXPORTER: Final[Key[ExporterState, ExporterState]] = Key(Kind("exporter", ExporterState))
GPU_NAMES: Final[Key[GpuNames, GpuNames]] = Key(Kind("gpu_names", GpuNames))
MACHINE: Final[Key[MachineFacts, MachineFacts]] = Key(Kind("machine", MachineFacts))
PROCESSES: Final[Key[ServerProcesses, ServerProcesses]] = Key(Kind("processes", ServerProcesses))
MODEL_FILES: Final[Key[ModelFiles, ModelFiles]] = Key(Kind("model_files", ModelFiles))

_KINDS: Final[tuple[Kind[Any], ...]] = (
    *(RECORD, TARGET, INFO, JUDGEMENT, LEDGER, SERVICE, CACHE, COLLECTOR),
    *(key.kind for key in (ROCM, GPU, GPU_SENSORS, GPU_NAMES, MACHINE, PROCESSES, MODEL_FILES, CONTAINERS, EXPORTER)),
)
_OF_A_TARGET: Final = (TARGET, INFO, JUDGEMENT, LEDGER, SERVICE)


def plan_key(target: str, module: str) -> Key[Plan, Record]:
    """How often and how a module probes a target."""
    return Key(RECORD, (target, module))


def probe_key(target: str, module: str) -> Key[ProbeResult, Record]:
    """The results of one module on one target."""
    return Key(RECORD, (target, module))


def target_key(target: str) -> Key[TargetState, TargetState]:
    """What a target said of itself at the last status check."""
    return Key(TARGET, (target,))


def info_key(target: str) -> Key[TargetInfo, TargetInfo]:
    """What a target is."""
    return Key(INFO, (target,))


def judgement_key(target: str, module: str) -> Key[Judgement, Judgement]:
    """Thresholds from the start, the tier once a speed is known."""
    return Key(JUDGEMENT, (target, module))


def ledger_key(target: str) -> Key[Ledger, Ledger]:
    """What changed of a target, and what that did to its speed."""
    return Key(LEDGER, (target,))


def service_key(target: str) -> Key[Service, Service]:
    """How good what a target's users get is."""
    return Key(SERVICE, (target,))


def cache_key(name: str) -> Key[CacheFacts, CacheRecord]:
    """The last scan of one model cache."""
    return Key(CACHE, (name,))


def collector_key(name: str) -> Key[CollectorRun, CollectorRun]:
    """The last run of a collector."""
    return Key(COLLECTOR, (name,))


@dataclass(frozen=True, slots=True)
class View:
    """Everything as it was at one instant. Plans and results are together in ``records``, by (target, module)."""

    kinds: Mapping[Kind[Any], Mapping[Names, Any]] = field(default_factory=lambda: {kind: {} for kind in _KINDS})

    def of(self, kind: Kind[T]) -> Mapping[Names, T]:
        """All observations of one kind, by the names of their keys. Raises KeyError for what is no kind of a view."""
        return self.kinds[kind]

    def get(self, key: Key[Any, T]) -> T | None:
        """The observation under a key; None if nothing was published. Raises KeyError for what is no kind of a view."""
        return self.of(key.kind).get(key.names)

    @property
    def records(self) -> Mapping[tuple[str, str], Record]:
        """One record for each module of each target that is configured now."""
        return self.of(RECORD)  # type: ignore[return-value]  # the keys of this kind are pairs

    @property
    def targets(self) -> tuple[str, ...]:
        """The configured targets, by name."""
        return tuple(sorted({target for target, _ in self.records}))


Observation = tuple[Key[Any, Any], Any]
Changed = tuple[Kind[Any], Names]


class Snapshot:
    """Holds what is published. Any thread may publish, any thread may take a view.

    ``watch`` is called after each publication, outside the lock, with the view and the (kind, names) that changed in it.
    """

    def __init__(self, watch: Callable[[View, Changed], None] | None = None) -> None:
        self._watch = watch
        self._lock = threading.Lock()
        self._view = View()
        self._models: dict[str, Names] = {}
        self._planned: set[Names] = set()
        """The names of what is known of a whole target, by which a draft finds without a search that it has a plan."""

    def view(self) -> View:
        """Everything as it is at this instant."""
        return self._view

    def publish(self, key: Key[P, Any], value: P) -> bool:
        """Replace one observation. False, and nothing kept, for a target without a plan: one that a reload took away."""
        return self.publish_all(((key, value),))

    def publish_all(self, observations: Iterable[Observation]) -> bool:
        """Replace several observations at one instant; False if any was of a target without a plan."""
        with self._lock:
            draft = _Draft(self._view, self._models, self._planned)
            kept = [draft.put(key, value) for key, value in observations]
            self._view = draft.view()
            view = self._view
        if self._watch is not None:
            for changed in draft.changed:
                self._watch(view, changed)
        return all(kept)

    def keep_only(self, kind: Kind[Any], names: Collection[Names]) -> None:
        """Drop every observation of a kind but those under these names.

        What is known of a target goes with the last of its records, and a judgement with its record.
        """
        with self._lock:
            kept = {**self._view.kinds, kind: _only(self._view.of(kind), names)}
            if kind is RECORD:
                records = kept[RECORD]
                self._planned = {names[:1] for names in records}
                for each in _OF_A_TARGET:
                    kept[each] = _only(kept[each], records.keys() | self._planned)
                self._models = {target: models for target, models in self._models.items() if (target,) in self._planned}
            self._view = View(kept)


def _only(index: Mapping[Names, T], wanted: Collection[Names]) -> Mapping[Names, T]:
    return {names: value for names, value in index.items() if names in wanted}


class _Draft:
    """The next view while it is being made; kinds that don't change are shared with the last one."""

    def __init__(self, view: View, models: dict[str, Names], planned: set[Names]) -> None:
        self._before = view
        self._copied: dict[Kind[Any], dict[Names, Any]] = {}
        self._models = models
        self._planned = planned
        self.changed: list[Changed] = []

    def view(self) -> View:
        return View({**self._before.kinds, **self._copied})

    def put(self, key: Key[Any, Any], value: Any) -> bool:
        match value:
            case Plan():
                target, module = key.names
                self._planned.add((target,))
                self._set(RECORD, key.names, planned(self._get(RECORD, key.names), target, module, value))
            case _ if key.kind in (RECORD, *_OF_A_TARGET) and not self._is_planned(key):
                return False
            case ProbeResult():
                self._put_result(key.names, value)
            case CacheFacts():
                before = self._get(CACHE, key.names)
                errors = before.scan_errors if before else 0
                self._set(CACHE, key.names, CacheRecord(value, errors + (value.error is not None)))
            case TargetState():
                self._set(TARGET, key.names, _shown(value))
            case _:
                # What says nothing new stays the same object, and what was made of it stays good.
                if self._get(key.kind, key.names) != value:
                    self._set(key.kind, key.names, value)
        return True

    def _put_result(self, names: Names, result: ProbeResult) -> None:
        record = self._index(RECORD)[names]
        self._set(RECORD, names, fold(record, result))
        if result.state is not None:
            self._set(TARGET, names[:1], _shown(result.state))
        if result.result not in SKIPPED:
            self._remember_model(names[0], label(result.model or ""))

    def _remember_model(self, target: str, model: str) -> None:
        models = (*(each for each in self._models.get(target, ()) if each != model), model)
        for gone in models[:-MODELS_PER_TARGET]:
            for names, record in list(self._index(RECORD).items()):
                if names[0] == target:
                    self._set(RECORD, names, without_model(record, gone))
        self._models[target] = models[-MODELS_PER_TARGET:]

    def _is_planned(self, key: Key[Any, Any]) -> bool:
        return key.names in self._planned or key.names in self._index(RECORD)

    def _index(self, kind: Kind[T]) -> Mapping[Names, T]:
        return self._copied.get(kind) or self._before.of(kind)

    def _get(self, kind: Kind[T], names: Names) -> T | None:
        return self._index(kind).get(names)

    def _set(self, kind: Kind[T], names: Names, value: T) -> None:
        if not isinstance(value, kind.type):
            raise TypeError(f"{kind.name} holds {kind.type.__name__}, not {type(value).__name__}")
        if kind not in self._copied:
            self._copied[kind] = dict(self._before.of(kind))
        self._copied[kind][names] = value
        self.changed.append((kind, names))


def _shown(state: TargetState) -> TargetState:
    return replace(state, error=printable(state.error, ERROR_CHARACTERS))
