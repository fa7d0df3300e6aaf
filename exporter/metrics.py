"""Every metric that this exporter has, in one table (``SECTIONS``).

A row says a metric's name, type, help and labels, and reads its samples from an observation. A value that is None or not
finite is absent.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from prometheus_client import Metric

import exporter
from exporter.cache.facts import CacheFacts, filesystems
from exporter.containers.facts import Devices, EngineReading
from exporter.history.change import Difference, Ledger
from exporter.history.change_text import after_text, before_text, differences_of, facts_text
from exporter.history.record import INTER_TOKEN_BOUNDS, TTFT_BOUNDS, Histogram, ModelHistograms, Record
from exporter.history.shift import DECODE, PREFILL, Phase, Shift
from exporter.host.gpu import GpuFacts, GpuReading, GpuSample
from exporter.host.machine import GpuSettings, MachineFacts
from exporter.host.process import compute_of
from exporter.host.rocm import RocmFacts
from exporter.host.rocm_minimum import meets_minimum, serves_by
from exporter.probe.answer import FAULTS
from exporter.probe.result import CHECKS, RESULTS, Measurements, TargetState
from exporter.rocm_version import RocmVersion, parse_version
from exporter.snapshot import (
    CACHE,
    COLLECTOR,
    CONTAINERS,
    EXPORTER,
    GPU,
    GPU_SENSORS,
    INFO,
    JUDGEMENT,
    LEDGER,
    MACHINE,
    PROCESSES,
    RECORD,
    ROCM,
    SERVICE,
    TARGET,
    CacheRecord,
    ExporterState,
    Kind,
    Names,
    ServerProcesses,
    Service,
    TargetInfo,
    View,
)
from exporter.text import finite
from exporter.tiers import TIERS, Judgement

LabelledValue = tuple[Names, float | Histogram | None]
"""The values of a family's own labels, in their order, and the value."""
LabelledValues = Iterable[LabelledValue]


@dataclass(frozen=True, slots=True)
class Source:
    """Where families are read from: one piece of exposition for each key of a kind, made of one or more observations.

    ``kinds`` are those whose publication changes a piece; ``labels`` name the parts of the key. A source without labels is
    one piece of all that its kinds hold.
    """

    kinds: tuple[Kind[Any], ...]
    labels: Names
    keys: Callable[[View], Iterable[Names]]
    parts: Callable[[View, Names], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table. ``labels`` come after those of the source's key; ``read`` takes the source's parts."""

    name: str
    type: Literal["gauge", "counter", "histogram"]
    help: str
    source: Source
    labels: Names
    read: Callable[..., LabelledValues]
    bounds: tuple[float, ...] = ()

    @property
    def all_labels(self) -> Names:
        """Those of the key, then its own."""
        return self.source.labels + self.labels

    def metric(self) -> Metric:
        """The family in the client library's terms, still without samples."""
        return Metric(self.name.removesuffix("_total") if self.type == "counter" else self.name, self.help, self.type)


def _each(kind: Kind[Any]) -> Callable[[View], Iterable[Names]]:
    return lambda view: sorted(view.of(kind))


def _always(_: View) -> Iterable[Names]:
    return ((),)


def _by(kind: Kind[Any], *labels: str) -> Source:
    return Source((kind,), labels, _each(kind), lambda view, names: (view.of(kind)[names],))


PROBES: Final = Source(
    (RECORD, JUDGEMENT),
    ("target", "module"),
    _each(RECORD),
    lambda view, names: (view.of(RECORD)[names], view.of(JUDGEMENT).get(names)),
)
TARGETS: Final = _by(TARGET, "target")
INFOS: Final = _by(INFO, "target")
LEDGERS: Final = _by(LEDGER, "target")
SERVICES: Final = _by(SERVICE, "target")
OWN_COLLECTOR: Final = "exposition"
"""Under which the exposition says whether it worked."""
COLLECTORS: Final = Source(
    (COLLECTOR,),
    ("collector",),
    lambda view: sorted(names for names in view.of(COLLECTOR) if names != (OWN_COLLECTOR,)),
    lambda view, names: (view.of(COLLECTOR)[names],),
)
DAEMON: Final = _by(EXPORTER.kind)
BUILD: Final = Source((), (), _always, lambda _, __: ())
GPUS: Final = _by(GPU.kind)
SENSORS: Final = _by(GPU_SENSORS.kind)
HOSTS: Final = _by(MACHINE.kind)
CACHES: Final = _by(CACHE, "cache")
FILESYSTEMS: Final = Source((CACHE,), (), _always, lambda view, _: tuple(view.of(CACHE).values()))
RELEASES: Final = Source(
    (ROCM.kind, CONTAINERS.kind, EXPORTER.kind, GPU.kind, PROCESSES.kind),
    (),
    _always,
    lambda view, _: (
        *(view.get(ROCM), view.get(CONTAINERS), view.get(EXPORTER)),
        *(view.get(GPU), view.get(PROCESSES)),
    ),
)
SHARING: Final = Source(
    (CONTAINERS.kind, CACHE),
    (),
    _always,
    lambda view, _: (view.get(CONTAINERS), *view.of(CACHE).values()),
)

OF_A_TARGET: Final = (PROBES, TARGETS, INFOS, LEDGERS, SERVICES)


# What follows reads a sample or two from an observation; a row of the table stays one line.


def _one(value: float | None) -> LabelledValues:
    return (((), value),)


def _gauge(source: Source, name: str, text: str, read: Callable[..., LabelledValues], *labels: str) -> Family:
    return Family(name, "gauge", text, source, labels, read)


def _record(name: str, text: str, read: Callable[[Record], LabelledValues], *labels: str) -> Family:
    return Family(name, "gauge", text, PROBES, labels, lambda record, _judgement: read(record))


def _record_counter(name: str, text: str, read: Callable[[Record], LabelledValues], *labels: str) -> Family:
    return Family(name, "counter", text, PROBES, labels, lambda record, _judgement: read(record))


def _measured(name: str, text: str, read: Callable[[Measurements], float | None]) -> Family:
    """Of the last probe that ran, when it was good; by model."""

    def samples(record: Record, _judgement: Judgement | None) -> LabelledValues:
        return () if record.figures is None else (((_model(record),), read(record.figures)),)

    return Family(name, "gauge", text, PROBES, ("model",), samples)


def _ran(name: str, text: str, read: Callable[[Measurements], float | None]) -> Family:
    """Of the last probe that ran, good or not."""
    return _record(name, text, lambda record: () if record.ran is None else _one(read(record.ran.measurements)))


def _histogram(name: str, text: str, bounds: tuple[float, ...], read: Callable[[ModelHistograms], Histogram]) -> Family:
    def samples(record: Record, _judgement: Judgement | None) -> LabelledValues:
        # One that has observed nothing says nothing.
        return [((each.model,), read(each)) for each in record.histograms if any(read(each).counts)]

    return Family(name, "histogram", text, PROBES, ("model",), samples, bounds)


def _judged(name: str, text: str, read: Callable[[Judgement], LabelledValues], *labels: str) -> Family:
    """Known as soon as a judgement is."""
    return Family(
        name, "gauge", text, PROBES, labels, lambda _, judgement: () if judgement is None else read(judgement)
    )


def _speed_judged(name: str, text: str, read: Callable[[Record, Judgement], LabelledValues], *labels: str) -> Family:
    """Known only as long as the speed that was judged is: a failed probe removes it before the target is judged again."""

    def samples(record: Record, judgement: Judgement | None) -> LabelledValues:
        has_speed = record.figures is not None and finite(record.figures.tokens_per_second) is not None
        return read(record, judgement) if judgement is not None and has_speed else ()

    return Family(name, "gauge", text, PROBES, labels, samples)


def _target(name: str, text: str, read: Callable[[TargetState], float | None]) -> Family:
    return _gauge(TARGETS, name, text, lambda state: _one(read(state)))


def _model(record: Record) -> str:
    return (record.ran and record.ran.model) or ""


def _phases(record: Record) -> LabelledValues:
    return () if record.ran is None else [((phase,), seconds) for phase, seconds in record.ran.measurements.phases]


def _tokens(record: Record) -> LabelledValues:
    if record.ran is None:
        return ()
    m, model = record.ran.measurements, _model(record)
    counts = {
        "prompt": m.prompt_tokens,
        "cached": m.cached_tokens,
        "reasoning": m.reasoning_tokens,
        "output": m.output_tokens,
    }
    return [((kind, model), count) for kind, count in counts.items()]


def _results(record: Record) -> LabelledValues:
    return [((result,), count) for result, count in zip(RESULTS, record.totals.results, strict=True)]


def _correct(record: Record) -> LabelledValues:
    checks = record.ran.checks if record.ran else ()
    return [((each.depth,), each.verdict == "right") for each in checks if each.verdict != "undecided"]


def _fault(record: Record) -> LabelledValues:
    return [((record.ran.fault,), 1)] if record.ran is not None and record.ran.fault else ()


def _checks(record: Record) -> LabelledValues:
    return [(each, count) for each, count in zip(CHECKS, record.totals.checks, strict=True) if record.plan.canary]


def _spent(record: Record) -> LabelledValues:
    return [(("prompt",), record.totals.prompt_tokens), (("output",), record.totals.output_tokens)]


def _info(info: TargetInfo) -> LabelledValues:
    return [
        (
            (
                info.url,
                info.backend,
                info.backend_version,
                info.model,
                info.quantization,
                info.container,
                info.image,
                info.scenario,
                info.hardware,
            ),
            1,
        )
    ]


def _user_tier(service: Service) -> LabelledValues:
    return [((tier,), tier == service.tier) for tier in TIERS] if service.tier else ()


def _tier(_record: Record, judgement: Judgement) -> LabelledValues:
    return [((tier,), tier == judgement.tier) for tier in TIERS] if judgement.tier else ()


def _energy(record: Record, judgement: Judgement) -> LabelledValues:
    return [((_model(record), judgement.energy_scope or "unknown"), judgement.energy_joules_per_token)]


def _thresholds(judgement: Judgement) -> LabelledValues:
    limits = judgement.thresholds
    return [(("excellent",), limits.excellent), (("good",), limits.good), (("acceptable",), limits.acceptable)]


def _expected(judgement: Judgement) -> LabelledValues:
    scenario, source = judgement.scenario or "", judgement.expected_source or ""
    return [
        (("min", scenario, source), judgement.expected_min),
        (("max", scenario, source), judgement.expected_max),
    ]


def _limit(_record: Record, judgement: Judgement) -> LabelledValues:
    return [((judgement.limit,), 1)] if judgement.limit else ()


def _last_change(ledger: Ledger) -> LabelledValues:
    return _one(ledger.changes[-1].at_seconds) if ledger.changes else ()


def _last_differences(ledger: Ledger) -> LabelledValues:
    last = ledger.changes[-1].differences if ledger.changes else ()
    return [((each.fact, each.before, each.after), 1) for each in last]


def _since_change(
    read: Callable[[Shift], Iterable[tuple[Names, float | None]]], phase: Phase = DECODE
) -> Callable[[Ledger], LabelledValues]:
    """Of each module's shift since the newest change."""

    def samples(ledger: Ledger) -> LabelledValues:
        last = ledger.changes[-1].at_seconds if ledger.changes else None
        shifts = [shift for shift in ledger.shifts if last in shift.changes and (shift.phase == phase)]
        return [((shift.module, *own), value) for shift in shifts for own, value in read(shift)]

    return samples


def _unexplained(read: Callable[[Shift], float]) -> Callable[[Ledger], LabelledValues]:
    """Of each module's newest step that no fact explains."""

    def samples(ledger: Ledger) -> LabelledValues:
        newest = {shift.module: shift for shift in ledger.shifts if not shift.explained and shift.phase == DECODE}
        return [((module,), read(shift)) for module, shift in newest.items()]

    return samples


def _slowdowns(ledger: Ledger) -> LabelledValues:
    # Of a step that no fact explains, what else was different at that time.
    found = [
        (shift, differences_of(shift, ledger.changes) or tuple(Difference(*each) for each in shift.meanwhile))
        for shift in ledger.standing
    ]
    return [
        (
            (
                shift.module,
                shift.phase,
                "change" if shift.explained else "unexplained",
                facts_text(told),
                before_text(told),
                after_text(told),
            ),
            shift.speed.ratio,
        )
        for shift, told in reversed(found)  # of two with the same labels the newest counts
    ]


def _gpu(name: str, text: str, read: Callable[[GpuFacts], LabelledValues], *labels: str) -> Family:
    def samples(reading: GpuReading) -> LabelledValues:
        return [((gpu.address, *own), value) for gpu in reading.gpus for own, value in read(gpu)]

    return _gauge(GPUS, name, text, samples, "gpu", *labels)


def _sensor(name: str, text: str, read: Callable[[GpuSample], LabelledValues], *labels: str) -> Family:
    def samples(sampled: tuple[GpuSample, ...]) -> LabelledValues:
        return [((gpu.address, *own), value) for gpu in sampled for own, value in read(gpu)]

    return _gauge(SENSORS, name, text, samples, "gpu", *labels)


def _host(name: str, text: str, read: Callable[[MachineFacts], LabelledValues], *labels: str) -> Family:
    return _gauge(HOSTS, name, text, read, *labels)


def _gpu_settings(name: str, text: str, read: Callable[[GpuSettings], LabelledValues], *labels: str) -> Family:
    def samples(machine: MachineFacts) -> LabelledValues:
        return [((gpu.address, *own), value) for gpu in machine.gpus for own, value in read(gpu)]

    return _gauge(HOSTS, name, text, samples, "gpu", *labels)


def _power_profile(machine: MachineFacts) -> LabelledValues:
    power = machine.power
    levels = sorted({gpu.performance_level for gpu in machine.gpus if gpu.performance_level})
    words = (power.platform_profile, power.governor, power.tuned, ",".join(levels))
    return [(tuple(each or "" for each in words), 1)] if any(words) else ()


def _cache(name: str, text: str, read: Callable[[CacheFacts], LabelledValues], *labels: str) -> Family:
    """Known as long as the last scan worked."""

    def samples(record: CacheRecord) -> LabelledValues:
        return read(record.facts) if record.facts.error is None else ()

    return _gauge(CACHES, name, text, samples, *labels)


def _gpu_info(gpu: GpuFacts) -> LabelledValues:
    units = "" if gpu.compute_units is None else str(gpu.compute_units)
    unified = "" if gpu.unified_memory is None else str(gpu.unified_memory).lower()
    return [((gpu.name, gpu.gfx_target or "", units, unified), 1)]


def _releases(host: RocmFacts | None, engine: EngineReading | None) -> Iterator[tuple[str, str, str, str, str]]:
    """(scope, container, version, release, source) of every ROCm that was found."""
    if host and host.version is not None and host.release is not None:
        yield "host", "", host.version, host.release, host.source or ""
    for container in engine.containers if engine else ():
        if container.rocm is not None:
            yield "container", container.name, container.rocm.raw, container.rocm.release, container.rocm.source


def _rocm_info(host: RocmFacts | None, engine: EngineReading | None, *_: object) -> LabelledValues:
    return [(found, 1) for found in _releases(host, engine)]


def _rocm_supported(
    host: RocmFacts | None,
    engine: EngineReading | None,
    state: ExporterState | None,
    gpus: GpuReading | None,
    processes: ServerProcesses | None,
) -> LabelledValues:
    minimum = parse_version(state.minimum_rocm) if state and state.minimum_rocm else None
    if minimum is None:
        return ()
    targets = [gpu.gfx_target for gpu in gpus.gpus] if gpus else []
    seen = processes.reading.processes if processes else ()
    containers = {each.name: each for each in engine.containers} if engine else {}

    def supported(name: str, release: str) -> bool | None:
        version: RocmVersion | None = parse_version(release)
        container = containers[name] if name else None
        inside = [compute_of(each) for each in seen if each.container == (container.id if container else "")]
        serves = serves_by(inside)
        if container and serves is None:
            # An image brings a ROCm for its server, which can't use it without the compute driver.
            serves = container.backend is not None and _may_compute(container.devices)
        return None if version is None else meets_minimum(version, minimum, targets, serves=serves)

    found = _releases(host, engine)
    return [((scope, container), supported(container, release)) for scope, container, _, release, _ in found]


def _may_compute(given: Devices) -> bool:
    """Whether a container can reach the compute driver."""
    return given.kfd or given.privileged or given.cdi


def _rocm_matches(host: RocmFacts | None, engine: EngineReading | None, *_: object) -> LabelledValues:
    if host is None or host.release is None:
        return ()
    found = [
        (container, release) for scope, container, _, release, _ in _releases(host, engine) if scope == "container"
    ]
    return [((container,), release == host.release) for container, release in found]


def _driver(host: RocmFacts | None, *_: object) -> LabelledValues:
    return [((host.driver.version, host.driver.source), 1)] if host and host.driver else ()


def _filesystem(read: Callable[[Any], float]) -> Callable[..., LabelledValues]:
    def samples(*records: CacheRecord) -> LabelledValues:
        return [((each.mountpoint,), read(each)) for each in filesystems(tuple(record.facts for record in records))]

    return samples


def _shared(engine: EngineReading | None, *records: CacheRecord) -> LabelledValues:
    """A container whose weights lie in its own layer shares nothing; the paths say which cache a mounted one is of.

    A folder that is mounted but is no cache known here may be one under another path: nothing is claimed of it.
    """
    found: list[LabelledValue] = []
    for container in engine.containers if engine else ():
        if container.backend is None or container.cache_path is None:
            continue
        if container.cache_source is None:
            found.append((("", container.name), 0))
            continue
        names = [r.facts.name for r in records if _overlap(r.facts.path, container.cache_source)]
        found += [((name, container.name), 1) for name in names[:1]]
    return found


def _overlap(one: str, other: str) -> bool:
    """Whether two folders are the same, or one holds the other."""
    one, other = f"{one.rstrip('/')}/", f"{other.rstrip('/')}/"
    return one.startswith(other) or other.startswith(one)


def _build() -> LabelledValues:
    return [((exporter.__version__, platform.python_version()), 1)]


def _states(state: ExporterState) -> LabelledValues:
    return [((name,), count) for name, count in state.targets_by_state]


ONE_PROBE: Final = (
    _record(
        "llm_probe_success",
        "1 when the last probe that ran finished and passed its checks, else 0. A skipped probe does not change the value.",
        lambda r: _one(r.success),
    ),
    _measured(
        "llm_probe_tokens_per_second",
        "Decode speed of the last successful probe: tokens after the first text chunk / (last text chunk - first text"
        " chunk). The tiers apply to this speed. Absent when too few tokens followed or the stream came in a burst.",
        lambda m: m.tokens_per_second,
    ),
    _measured(
        "llm_probe_end_to_end_tokens_per_second",
        "Output tokens / (last text chunk - request sent).",
        lambda m: m.end_to_end_tokens_per_second,
    ),
    _measured(
        "llm_probe_ttft_seconds",
        "Time to first token of the last successful probe: request sent to first chunk with generated text, reasoning or"
        " answer.",
        lambda m: m.ttft_seconds,
    ),
    _measured(
        "llm_probe_time_to_first_answer_seconds",
        "Request sent to first chunk of the answer itself; longer than the TTFT on models that think first.",
        lambda m: m.time_to_first_answer_seconds,
    ),
    _measured(
        "llm_probe_prefill_tokens_per_second",
        "Uncached prompt tokens / prefill time. The prefill time is the server's own figure if it gives one, else the TTFT.",
        lambda m: m.prefill_tokens_per_second,
    ),
    _histogram(
        "llm_probe_time_to_first_token_seconds",
        "TTFT of successful probes over time; probes that waited for a model to load are left out.",
        TTFT_BOUNDS,
        lambda h: h.ttft,
    ),
    _histogram(
        "llm_probe_inter_token_seconds",
        "Seconds per token of each gap between chunks, counted once per token in the gap. The tiers' bounds are bucket bounds.",
        INTER_TOKEN_BOUNDS,
        lambda h: h.inter_token,
    ),
    _record(
        "llm_probe_phase_seconds",
        "Phases of the last probe that ran: resolve, connect, tls, queue (the wait for its turn in the exporter), first_token, decode,"
        " total.",
        _phases,
        "phase",
    ),
    _record(
        "llm_probe_tokens",
        "Tokens of the last probe that ran, by kind: prompt, cached, reasoning, output.",
        _tokens,
        "kind",
        "model",
    ),
    _ran(
        "llm_probe_token_count_exact",
        "1 when the server counted the tokens, 0 when they were estimated from the chunks.",
        lambda m: m.token_count_exact,
    ),
    _ran(
        "llm_probe_stream_buffered",
        "1 when the text came in a burst (a buffering proxy, a server that does not really stream), else 0; a burst has no speed.",
        lambda m: m.stream_buffered,
    ),
    _measured(
        "llm_probe_speculative_accepted_ratio",
        "Share of the drafted tokens that the model accepted, 0 to 1; absent unless the server decodes speculatively and reports it.",
        lambda m: m.speculative_accepted_ratio,
    ),
    _measured(
        "llm_probe_server_tokens_per_second",
        "Decode speed of the same request as the server reports it.",
        lambda m: m.server_tokens_per_second,
    ),
    _record(
        "llm_probe_cold_start",
        "1 when the last probe that ran had to wait for the model to load, else 0; such a probe gives no speed.",
        lambda r: () if r.ran is None else _one(r.ran.cold_start),
    ),
    _record(
        "llm_probe_model_load_seconds",
        "Time that the last probe that ran waited for the model to load; absent unless the server reports it or a load was seen.",
        lambda r: () if r.ran is None else _one(r.ran.model_load_seconds),
    ),
    _record(
        "llm_probe_queued",
        "1 when the last probe that ran waited behind other requests in the server's queue, else 0; such a probe gives no TTFT.",
        lambda r: () if r.ran is None else _one(r.ran.queued),
    ),
    _record(
        "llm_probe_queue_seconds",
        "Time that the last probe that ran waited in the server's queue; absent unless the server reports it.",
        lambda r: () if r.ran is None else _one(r.ran.queue_seconds),
    ),
    _record(
        "llm_probe_beside_users",
        "Requests of others that ran during the last probe that ran; above 0, the probe has no tier and is in no histogram.",
        lambda r: () if r.ran is None else _one(r.ran.beside_users),
    ),
    _record(
        "llm_probe_concurrency",
        "Number of streams that the module runs at once.",
        lambda r: _one(r.plan.concurrency),
    ),
    _measured(
        "llm_probe_aggregate_tokens_per_second",
        "Tokens of all concurrent streams / the time in which they ran.",
        lambda m: m.aggregate_tokens_per_second,
    ),
    _speed_judged(
        "llm_probe_energy_joules_per_token",
        "Power sampled during decode / speed; absent unless the GPU is local and has a power sensor; scope gpu, socket (counts"
        " the CPU too), or unknown.",
        _energy,
        "model",
        "scope",
    ),
    _record(
        "llm_probe_interval_seconds",
        "Present interval of the module's probes, a longer one under a budget or a pause included; rules for stale values use it.",
        lambda r: _one(r.interval_seconds),
    ),
    _record(
        "llm_probe_last_run_timestamp_seconds",
        "Unix time of the last probe that ran.",
        lambda r: _one(r.totals.last_run_seconds),
    ),
    _record(
        "llm_probe_last_success_timestamp_seconds",
        "Unix time of the last successful probe.",
        lambda r: _one(r.totals.last_success_seconds),
    ),
    _ran(
        "llm_probe_clock_error_seconds",
        "Error bar of the measurement: the longest time between the arrival of a chunk of the last probe and its reading.",
        lambda m: m.clock_error_seconds,
    ),
    _record_counter(
        "llm_probes_total",
        "Probes by result: ok; skipped_* and yielded, which say nothing about the server's health; all others are failures.",
        _results,
        "result",
    ),
    _record_counter(
        "llm_probe_consumed_tokens_total",
        "Tokens that probes have cost the server, by kind: prompt, output.",
        _spent,
        "kind",
    ),
    _record_counter(
        "llm_probe_busy_seconds_total",
        "Time in which a probe ran; its rate is the share of the server's time that probes take.",
        lambda r: _one(r.totals.busy_seconds),
    ),
)

THE_TARGET: Final = (
    _gauge(
        INFOS,
        "llm_target_info",
        "Facts about the target, to join with other metrics; always 1.",
        _info,
        *("url", "backend", "backend_version", "model", "quantization", "container", "image", "scenario", "hardware"),
    ),
    _gauge(
        INFOS,
        "llm_target_setting_info",
        "Launch options that decide speed, and the GPU that serves (by PCI address), as far as they can be read; always 1.",
        lambda info: [(pair, 1) for pair in info.settings],
        *("setting", "value"),
    ),
    _target(
        "llm_target_up",
        "1 when the server answers its health check, else 0, whether or not a probe ran.",
        lambda s: s.up,
    ),
    _target(
        "llm_target_loading",
        "1 while the server says that it is loading a model, or was started within its start_window and does not answer yet; else"
        " 0.",
        lambda s: s.loading,
    ),
    _target(
        "llm_target_model_resident",
        "1 when the model is in memory, 0 when a request would load it; absent when the server can't tell.",
        lambda s: s.model_resident,
    ),
    _target(
        "llm_server_requests_running",
        "Requests that the server is processing, by its own metrics.",
        lambda s: s.requests_running,
    ),
    _target(
        "llm_server_requests_waiting",
        "Requests that wait in the server's queue, by its own metrics.",
        lambda s: s.requests_waiting,
    ),
    _target(
        "llm_server_kv_cache_usage_ratio",
        "Share of the server's key-value cache in use, 0 to 1, by its own metrics.",
        lambda s: s.kv_cache_usage,
    ),
    _target(
        "llm_server_generated_tokens_per_second",
        "Throughput of all users together between two readings, without the probes' tokens: by the server's token counter. For"
        " llama.cpp by its slots, so that the value is right during a long answer.",
        lambda s: s.generated_tokens_per_second,
    ),
    _target(
        "llm_server_user_tokens_per_second",
        "Decode speed that one user gets: the mean over the answers that ran since the last reading. For vLLM and SGLang by their"
        " histograms, for llama.cpp by its slots, and by its counters with server_metrics. Absent while nobody is served.",
        lambda s: s.user_tokens_per_second,
    ),
    _target(
        "llm_server_user_ttft_seconds",
        "Mean time to first token of users' requests since the last reading; absent unless the server reports it.",
        lambda s: s.user_ttft_seconds,
    ),
    _gauge(
        SERVICES,
        "llm_server_user_tier",
        "Tier of the speed that one user gets: one of excellent, good, acceptable, poor is 1, the others are 0; absent while nobody"
        " is served.",
        _user_tier,
        "tier",
    ),
    _target(
        "llm_target_stuck",
        "1 when requests have been running for four minutes and the server counted no work on them, else 0; absent when the server"
        " counts none of its work.",
        lambda s: s.stuck,
    ),
)

HOW_GOOD: Final = (
    _speed_judged(
        "llm_performance_tier",
        "Tier of the decode speed: one of excellent, good, acceptable, poor is 1, the others are 0; absent while no speed is known.",
        _tier,
        "tier",
    ),
    _judged(
        "llm_performance_tier_threshold_tokens_per_second",
        "Lower bound of the tiers excellent, good and acceptable; below is poor.",
        _thresholds,
        "tier",
    ),
    _judged(
        "llm_expected_tokens_per_second",
        "Band of decode speeds that this setup should reach, by bound min and max. Source faq is the band of the performance FAQ,"
        " cut at the ceiling; source ceiling is a share of the ceiling.",
        _expected,
        *("bound", "scenario", "source"),
    ),
    _judged(
        "llm_decode_ceiling_tokens_per_second",
        "Upper bound of the decode speed: memory bandwidth / bytes read per token; absent when either is not known.",
        lambda j: _one(j.ceiling_tokens_per_second),
    ),
    _speed_judged(
        "llm_decode_efficiency_ratio",
        "Decode speed / ceiling; absent under speculative decoding and offload.",
        lambda _, j: _one(j.efficiency),
    ),
    _speed_judged(
        "llm_limit_info",
        "What limits the decode speed, as far as is known: memory_bandwidth (near the ceiling), users, offload, throttling,"
        " unknown; always 1.",
        _limit,
        "limit",
    ),
)

ANSWERS: Final = (
    _record(
        "llm_answer_fault_info",
        "What is wrong with the answer of the last probe that ran, by a name that holds no text of it: "
        + ", ".join(FAULTS)
        + "; absent if nothing is; always 1.",
        _fault,
        "fault",
    ),
    _record(
        "llm_answer_correct",
        "1 when the model recalled the canary's fact, else 0, by depth short and deep; absent when the model does not recall it"
        " even in a short prompt.",
        _correct,
        "depth",
    ),
    _record_counter(
        "llm_answer_checks_total",
        "Answers that a canary judged, by verdict: right, wrong, degenerate, foreign, undecided.",
        _checks,
        "depth",
        "verdict",
    ),
    _record(
        "llm_answer_fingerprint_distance",
        "Distance of the model's first-token log-probabilities from its earlier ones, in units of their own noise; above 6 the"
        " model, quantization or kernel is another one.",
        lambda r: _one(r.fingerprint.distance) if r.fingerprint else (),
    ),
)

WHAT_CHANGED: Final = (
    _gauge(
        LEDGERS,
        "llm_last_change_timestamp_seconds",
        "Unix time at which facts about this target or its machine were last seen to change.",
        _last_change,
    ),
    _gauge(
        LEDGERS,
        "llm_last_change_info",
        "Facts that the last change changed, a series for each; always 1.",
        _last_differences,
        *("what", "before", "after"),
    ),
    _gauge(
        LEDGERS,
        "llm_last_change_speed_ratio",
        "Median decode speed since the last change / before it; absent until 3 good probes lie on both sides.",
        _since_change(lambda shift: [((), shift.speed.ratio)]),
        "module",
    ),
    _gauge(
        LEDGERS,
        "llm_last_change_speed_ratio_bound",
        "Interval of the ratio llm_last_change_speed_ratio, by bound min and max. If it includes 1, the difference is noise.",
        _since_change(lambda shift: [(("min",), shift.speed.min), (("max",), shift.speed.max)]),
        *("module", "bound"),
    ),
    _gauge(
        LEDGERS,
        "llm_last_change_ttft_ratio",
        "Median TTFT since the last change / before it.",
        _since_change(lambda shift: [((), shift.ttft.ratio if shift.ttft else None)]),
        "module",
    ),
    _gauge(
        LEDGERS,
        "llm_last_change_prefill_ratio",
        "Median prefill speed of long prompts since the last change / before it.",
        _since_change(lambda shift: [((), shift.speed.ratio)], PREFILL),
        "module",
    ),
    _gauge(
        LEDGERS,
        "llm_unexplained_change_timestamp_seconds",
        "Unix time of the last step in decode speed that no watched fact explains.",
        _unexplained(lambda shift: shift.since_seconds),
        "module",
    ),
    _gauge(
        LEDGERS,
        "llm_unexplained_change_speed_ratio",
        "Median decode speed since the last step that no watched fact explains / before it.",
        _unexplained(lambda shift: shift.speed.ratio),
        "module",
    ),
    _gauge(
        LEDGERS,
        "llm_slowdown_speed_ratio",
        "Speed since / before, for each drop beyond the noise that is neither over nor accepted. Phase is decode, or prefill of"
        " long prompts; cause is change or unexplained. The labels what, before and after hold the facts that changed; for an"
        " unexplained drop, the figures of the machine that were different.",
        _slowdowns,
        *("module", "phase", "cause", "what", "before", "after"),
    ),
)

ROCM_AND_GPU: Final = (
    _gauge(
        RELEASES,
        "rocm_version_info",
        "ROCm's user space on the host and in each inference container; always 1. The release is major.minor.",
        _rocm_info,
        *("scope", "container", "version", "release", "source"),
    ),
    _gauge(
        RELEASES,
        "rocm_version_supported",
        "1 when the release is at or above the configured minimum, 0 when a release that computes for a server is below it. Absent"
        " for a GPU whose last ROCm release is a 6.x, and for a ROCm that isn't known to compute for a server.",
        _rocm_supported,
        "scope",
        "container",
    ),
    _gauge(
        RELEASES,
        "rocm_container_release_matches_host",
        "1 when a container's ROCm release is the host's, else 0. They need not match: only the kernel driver is shared.",
        _rocm_matches,
        "container",
    ),
    _gauge(
        RELEASES,
        "amdgpu_driver_info",
        "Version of the amdgpu kernel driver, and its source, dkms or in-tree; always 1.",
        _driver,
        "version",
        "source",
    ),
    _gpu(
        "amdgpu_info",
        "Facts about the GPU, by PCI address; always 1.",
        _gpu_info,
        *("name", "gfx_target", "compute_units", "unified_memory"),
    ),
    _gpu(
        "amdgpu_memory_bandwidth_bytes_per_second",
        "Peak bandwidth of the memory that the GPU uses, and the source of that figure.",
        lambda gpu: [((gpu.bandwidth_source or "",), gpu.bandwidth_bytes_per_second)],
        "source",
    ),
    _sensor(
        "amdgpu_busy_ratio",
        "Share of time in which the GPU was busy, 0 to 1, by the driver; may stay at 1 while an idle process has the GPU open.",
        lambda gpu: _one(gpu.busy_ratio),
    ),
    _sensor(
        "amdgpu_memory_used_bytes",
        "Memory in use, by kind: vram, gtt (system memory that the GPU uses).",
        lambda gpu: [(("vram",), gpu.vram_used_bytes), (("gtt",), gpu.gtt_used_bytes)],
        "kind",
    ),
    _gpu(
        "amdgpu_memory_total_bytes",
        "Size of the memory, by kind: vram, gtt. On an APU both are parts of the system's memory.",
        lambda gpu: [(("vram",), gpu.vram_total_bytes), (("gtt",), gpu.gtt_total_bytes)],
        "kind",
    ),
    _sensor(
        "amdgpu_power_watts",
        "Power draw; scope gpu, socket (counts the CPU too), or unknown.",
        lambda gpu: [((gpu.power_scope or "unknown",), gpu.power_watts)],
        "scope",
    ),
    _sensor(
        "amdgpu_temperature_celsius",
        "Temperature by sensor.",
        lambda gpu: [((sensor,), celsius) for sensor, celsius in gpu.temperatures],
        "sensor",
    ),
    _sensor(
        "amdgpu_clock_hertz",
        "Clock by domain.",
        lambda gpu: [((domain,), hertz) for domain, hertz in gpu.clocks],
        "domain",
    ),
    _sensor(
        "amdgpu_throttled",
        "Share of the time since the last reading in which this reason (thermal, power, current, other) lowered the clocks; only 0"
        " or 1 if the firmware does not count the time. A power limit at full load is normal.",
        lambda gpu: [((reason,), share) for reason, share in gpu.throttling],
        "reason",
    ),
    _sensor(
        "amdgpu_suspended",
        "1 while the GPU is suspended, else 0; its other series are absent meanwhile.",
        lambda gpu: _one(gpu.suspended),
    ),
    _sensor(
        "amdgpu_power_cap_watts",
        "Power limit that is set.",
        lambda gpu: _one(gpu.power_cap_watts),
    ),
    _gpu_settings(
        "amdgpu_firmware_info",
        "Version of the GPU's firmware by block; always 1.",
        lambda gpu: [(pair, 1) for pair in gpu.firmware],
        *("block", "version"),
    ),
    _gpu_settings(
        "amdgpu_vbios_info",
        "Version of the GPU's BIOS; always 1.",
        lambda gpu: [((gpu.vbios_version,), 1)] if gpu.vbios_version else (),
        "version",
    ),
)

THE_MACHINE: Final = (
    _host(
        "host_kernel_info",
        "Release of the kernel; always 1.",
        lambda machine: [((machine.kernel_release,), 1)] if machine.kernel_release else (),
        "release",
    ),
    _host(
        "host_kernel_parameter_info",
        "Kernel parameters that decide how much memory a GPU may use and how fast it is; always 1.",
        lambda machine: [(pair, 1) for pair in machine.parameters],
        *("parameter", "value"),
    ),
    _host(
        "host_power_profile_info",
        "Settings that decide the clocks; a label is empty if the machine has no such setting; always 1.",
        _power_profile,
        *("platform_profile", "governor", "tuned", "gpu_performance_level"),
    ),
    _host(
        "host_bios_info",
        "Version of the machine's BIOS; always 1.",
        lambda machine: [((machine.bios_version,), 1)] if machine.bios_version else (),
        "version",
    ),
)

MODEL_CACHE: Final = (
    _cache(
        "llm_model_cache_bytes",
        "Bytes of all files in the cache, each counted once.",
        lambda cache: _one(cache.bytes),
    ),
    _cache(
        "llm_model_cache_models",
        "Models in the cache.",
        lambda cache: _one(len(cache.models)),
    ),
    _cache(
        "llm_model_cache_model_bytes",
        "Bytes of one model's files.",
        lambda cache: [((model.name,), model.bytes) for model in cache.models],
        "model",
    ),
    _cache(
        "llm_model_cache_model_complete",
        "1 when every file that the model's own index names is there, else 0; absent when nothing says which files belong to it.",
        lambda cache: [((model.name,), model.complete) for model in cache.models],
        "model",
    ),
    _cache(
        "llm_model_cache_model_last_used_timestamp_seconds",
        "Unix time at which a file of the model was last read, as far as the filesystem records it.",
        lambda cache: [((model.name,), model.last_used_seconds) for model in cache.models],
        "model",
    ),
    _cache(
        "llm_model_cache_incomplete_bytes",
        "Bytes of unfinished downloads.",
        lambda cache: _one(cache.incomplete_bytes),
    ),
    _gauge(
        FILESYSTEMS,
        "llm_model_cache_filesystem_free_bytes",
        "Free space of a filesystem that holds a cache.",
        _filesystem(lambda each: each.free_bytes),
        "mountpoint",
    ),
    _gauge(
        FILESYSTEMS,
        "llm_model_cache_filesystem_size_bytes",
        "Size of a filesystem that holds a cache.",
        _filesystem(lambda each: each.size_bytes),
        "mountpoint",
    ),
    _cache(
        "llm_model_cache_unreadable_entries",
        "Entries of the cache that could not be read in the last scan.",
        lambda cache: _one(cache.unreadable_entries),
    ),
    _gauge(
        CACHES,
        "llm_model_cache_scan_seconds",
        "Duration of the last scan.",
        lambda record: _one(record.facts.scan_seconds),
    ),
    _gauge(
        CACHES,
        "llm_model_cache_last_scan_timestamp_seconds",
        "Unix time of the last scan.",
        lambda record: _one(record.facts.scanned_at_seconds),
    ),
    Family(
        "llm_model_cache_scan_errors_total",
        "counter",
        "Scans that could not read the cache at all.",
        CACHES,
        (),
        lambda record: _one(record.scan_errors),
    ),
    _gauge(
        SHARING,
        "llm_model_cache_shared",
        "1 when a container mounts a cache of the host, 0 when it stores models in its own layer.",
        _shared,
        "cache",
        "container",
    ),
)

ITSELF: Final = (
    _gauge(
        BUILD,
        "llm_probe_exporter_build_info",
        "Version of the exporter and of the Python that runs it; always 1.",
        _build,
        "version",
        "python",
    ),
    _gauge(
        DAEMON,
        "llm_probe_exporter_config_last_reload_successful",
        "1 when the last reload of the configuration worked, 0 when it was refused and the previous one stays in use.",
        lambda s: _one(s.reload_successful),
    ),
    _gauge(
        DAEMON,
        "llm_probe_exporter_config_last_reload_success_timestamp_seconds",
        "Unix time of the last configuration that was accepted.",
        lambda s: _one(s.reload_success_at_seconds),
    ),
    _gauge(
        DAEMON,
        "llm_probe_exporter_targets",
        "Targets by state.",
        _states,
        "state",
    ),
    Family(
        "llm_probe_exporter_auth_failures_total",
        "counter",
        "Failed logins: wrong passwords, and client certificates that were missing or not accepted.",
        DAEMON,
        (),
        lambda s: _one(s.auth_failures),
    ),
    _gauge(
        COLLECTORS,
        "llm_probe_exporter_collector_success",
        "1 when the last run of a collector of facts worked, else 0. The collector exposition is 0 while a metric can't be shown.",
        lambda run: _one(run.success),
    ),
    _gauge(
        COLLECTORS,
        "llm_probe_exporter_collector_duration_seconds",
        "Duration of the last run of a collector of facts.",
        lambda run: _one(run.duration_seconds),
    ),
    _gauge(
        DAEMON,
        "llm_probe_exporter_schedule_delay_seconds",
        "Time by which the last job started late.",
        lambda s: _one(s.schedule_delay_seconds),
    ),
    _gauge(
        DAEMON,
        "llm_probe_exporter_history_bytes",
        "Size of the history of changes and speeds: of its file, or in memory if it has no file.",
        lambda s: _one(s.history_bytes),
    ),
)

SECTIONS: Final[Mapping[str, tuple[Family, ...]]] = {
    "One probe": ONE_PROBE,
    "What the target is": THE_TARGET,
    "How good that is": HOW_GOOD,
    "Whether the answers are right": ANSWERS,
    "What changed, and what it cost": WHAT_CHANGED,
    "ROCm and GPU": ROCM_AND_GPU,
    "The machine": THE_MACHINE,
    "Model cache": MODEL_CACHE,
    "The exporter itself": ITSELF,
}
FAMILIES: Final = tuple(family for section in SECTIONS.values() for family in section)


def metrics_page() -> str:
    """The table as Markdown: ``docs/metrics.md``."""
    parts = [
        "# Metrics",
        "Written by `make docs` from the table in `exporter/metrics.py`.",
        "A value that was not measured is absent: never 0, never NaN. The series of a target, GPU, container or model end with it.",
    ]
    for title, families in SECTIONS.items():
        rows = [f"| `{f.name}` | {f.type} | {_label_list(f.all_labels)} | {f.help} |" for f in families]
        parts += [f"## {title}", "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows])]
    bounds = [f"- `{f.name}`: {', '.join(f'{bound:.4g}' for bound in f.bounds)}" for f in FAMILIES if f.bounds]
    return "\n\n".join([*parts, "## Histogram buckets", "\n".join(bounds)]) + "\n"


def _label_list(labels: Names) -> str:
    return ", ".join(f"`{label}`" for label in labels)
