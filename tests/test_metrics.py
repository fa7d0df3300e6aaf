"""The exposition: what it says, that it always parses, and that the fast way gives the library's bytes."""

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter import exposition, metrics
from exporter.cache.facts import CacheFacts, FilesystemFacts, ModelFacts
from exporter.exposition import OPENMETRICS, TEXT, Exposition, render_probe
from exporter.history.change import Ledger, accept, observe_facts
from exporter.history.record import Plan
from exporter.host.gpu import GpuFacts, GpuReading, GpuSample
from exporter.metrics import FAMILIES, SECTIONS
from exporter.probe.result import RESULTS, Measurements, ProbeResult, TargetState
from exporter.settings import Thresholds
from exporter.snapshot import (
    EXPORTER,
    GPU,
    GPU_SENSORS,
    RECORD,
    CollectorRun,
    ExporterState,
    Snapshot,
    TargetInfo,
    View,
    cache_key,
    collector_key,
    info_key,
    judgement_key,
    ledger_key,
    plan_key,
    probe_key,
    target_key,
)
from exporter.text import label
from exporter.tiers import TIERS, Judgement
from tests.library import LibraryCollector
from tests.scenes import NOW, fed, probe, publish_all

GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"
LIMITS = Thresholds(excellent=20, good=15, acceptable=10)


def scene() -> Snapshot:
    return publish_all(Snapshot())


def rendered(view: View, content_type: str = TEXT) -> str:
    """The exposition without the client library's own process metrics."""
    body = Exposition().render(view, content_type).decode()
    return "".join(re.split(r"(?m)^# HELP process_[^\0]*?(?=^# EOF|\Z)", body))


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every series of an exposition with its value; fails on a series that is there twice."""
    found = [
        ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
        for family in parse_text(text)
        for sample in family.samples
    ]
    twice = [series for series, count in Counter(series for series, _ in found).items() if count > 1]
    assert not twice
    return dict(found)


def value_of(view: View, name: str, **labels: str) -> float | None:
    return samples(rendered(view)).get((name, tuple(sorted(labels.items()))))


def names_in(view: View) -> set[str]:
    return {name for name, _ in samples(rendered(view))}


def by_library(snapshot: Snapshot) -> tuple[str, str]:
    registry = CollectorRegistry()
    registry.register(LibraryCollector(snapshot))
    return generate_latest(registry).decode(), openmetrics.generate_latest(registry).decode()  # type: ignore[no-untyped-call]


def planned() -> Snapshot:
    snapshot = Snapshot()
    snapshot.publish(plan_key("a", "default"), Plan(60))
    snapshot.publish(judgement_key("a", "default"), Judgement(None, LIMITS, "vllm-fp16", 8, 12, 61.0))
    return snapshot


def judge(snapshot: Snapshot, speed: float) -> None:
    snapshot.publish(probe_key("a", "default"), probe("a", 60, speed=speed))
    snapshot.publish(judgement_key("a", "default"), Judgement("excellent", LIMITS, "vllm-fp16", 8, 12, 61.0, 0.4, 3.2))


def test_the_whole_scene_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with everything gives exactly the golden exposition (python tests/test_metrics.py writes it anew)."""
    monkeypatch.setattr("exporter.__version__", "1.2.3")
    monkeypatch.setattr("platform.python_version", lambda: "3.11.0")
    assert rendered(scene().view()) == GOLDEN.read_text(encoding="utf-8")


def test_the_golden_scene_has_every_metric() -> None:
    """No row of the table is left untried by the golden exposition."""
    headers = set(re.findall(r"(?m)^# TYPE (\S+)", GOLDEN.read_text(encoding="utf-8")))
    assert {family.name for family in FAMILIES} - headers == set()


def test_the_table_is_sound() -> None:
    """Names are unique and say their type, labels are unique, and help is a sentence that both formats write alike."""
    assert len({family.name for family in FAMILIES}) == len(FAMILIES) == sum(map(len, SECTIONS.values()))
    for family in FAMILIES:
        assert family.name.endswith("_total") == (family.type == "counter")
        assert bool(family.bounds) == (family.type == "histogram")
        assert len(set(family.all_labels)) == len(family.all_labels)
        assert "le" not in family.all_labels
        assert family.help.endswith(".")
        assert not set(family.help) & set('\\\n"|')


@pytest.mark.parametrize("content_type", [TEXT, OPENMETRICS])
def test_the_fast_way_gives_the_librarys_bytes(content_type: str) -> None:
    """For a full scene, both ways write the same exposition."""
    snapshot = scene()
    assert rendered(snapshot.view(), content_type) == by_library(snapshot)[content_type == OPENMETRICS]


def test_both_formats_say_the_same() -> None:
    """OpenMetrics parses to the samples of the text format."""
    view = scene().view()
    families = parse_openmetrics(rendered(view, OPENMETRICS))  # type: ignore[no-untyped-call]
    in_openmetrics = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for each in families
        for sample in each.samples
    }
    assert in_openmetrics == samples(rendered(view))
    assert not any(name.endswith("_created") for name, _ in in_openmetrics)


def test_process_metrics_come_last() -> None:
    """The client library's process_* close the exposition, and OpenMetrics ends with EOF, once."""
    text = Exposition().render(View(), OPENMETRICS).decode()
    assert "\nprocess_open_fds " in text
    assert text.endswith("\n# EOF\n")
    assert text.count("# EOF") == 1


def test_counters_begin_at_zero() -> None:
    """Every result of a planned module is there at 0 before the first probe, and so are thresholds and interval."""
    view = planned().view()
    for result in RESULTS:
        assert value_of(view, "llm_probes_total", target="a", module="default", result=result) == 0
    for kind in ("prompt", "output"):
        assert value_of(view, "llm_probe_consumed_tokens_total", target="a", module="default", kind=kind) == 0
    assert value_of(view, "llm_probe_interval_seconds", target="a", module="default") == 60
    threshold = "llm_performance_tier_threshold_tokens_per_second"
    assert value_of(view, threshold, target="a", module="default", tier="good") == 15
    assert not {"llm_probe_success", "llm_performance_tier", "llm_probe_last_run_timestamp_seconds"} & names_in(view)


ALWAYS = {
    "llm_probe_consumed_tokens_total",
    "llm_probe_busy_seconds_total",
    "llm_probe_concurrency",
    "llm_probe_interval_seconds",
    "llm_probes_total",
    "llm_performance_tier_threshold_tokens_per_second",
    "llm_expected_tokens_per_second",
    "llm_decode_ceiling_tokens_per_second",
    "llm_probe_exporter_build_info",
    "llm_probe_exporter_collector_success",
}


def test_a_failed_probe_leaves_no_speed_ttft_or_tier() -> None:
    """At once with the failure, before anything is judged again, every figure of the good probe is gone."""
    snapshot = planned()
    judge(snapshot, 24)
    assert {"llm_probe_tokens_per_second", "llm_performance_tier", "llm_probe_ttft_seconds"} <= names_in(
        snapshot.view()
    )
    snapshot.publish(probe_key("a", "default"), probe("a", 0, "truncated", error="the stream broke off"))
    gauges = {name for name in names_in(snapshot.view()) if not name.endswith(("_bucket", "_sum", "_count"))}
    assert gauges - ALWAYS == {
        "llm_probe_success",
        "llm_probe_phase_seconds",
        "llm_probe_cold_start",
        "llm_probe_queued",
        "llm_probe_queue_seconds",
        "llm_probe_beside_users",
        "llm_probe_last_run_timestamp_seconds",
        "llm_probe_last_success_timestamp_seconds",
    }
    assert value_of(snapshot.view(), "llm_probe_success", target="a", module="default") == 0


def test_a_skipped_probe_changes_only_its_counter() -> None:
    """Speed, tier, success and times are the same after a skip."""
    snapshot = planned()
    judge(snapshot, 24)
    before = samples(rendered(snapshot.view()))
    snapshot.publish(probe_key("a", "default"), probe("a", 0, "skipped_busy"))
    after = samples(rendered(snapshot.view()))
    changed = {series for series in before.keys() | after.keys() if before.get(series) != after.get(series)}
    assert {dict(labels).get("result") for name, labels in changed if name == "llm_probes_total"} == {"skipped_busy"}
    assert {name for name, _ in changed} == {"llm_probes_total"}


def test_one_tier_is_one_and_the_rest_zero() -> None:
    """The tiers are a state set."""
    snapshot = planned()
    judge(snapshot, 24)
    tiers = [value_of(snapshot.view(), "llm_performance_tier", target="a", module="default", tier=t) for t in TIERS]
    assert tiers == [1, 0, 0, 0]


def test_what_is_not_known_is_absent() -> None:
    """None, NaN and infinities give no sample; the rest of the same record stands."""
    snapshot = planned()
    measurements = Measurements(
        tokens_per_second=float("nan"), ttft_seconds=0.2, prefill_tokens_per_second=float("inf")
    )
    result = dataclasses.replace(probe("a", 0), measurements=measurements, at_seconds=float("inf"))
    snapshot.publish(probe_key("a", "default"), result)
    snapshot.publish(judgement_key("a", "default"), Judgement("poor", LIMITS, ceiling_tokens_per_second=float("nan")))
    names = names_in(snapshot.view())
    assert "llm_probe_ttft_seconds" in names
    assert not names & {
        "llm_probe_tokens_per_second",
        "llm_performance_tier",
        "llm_probe_prefill_tokens_per_second",
        "llm_decode_ceiling_tokens_per_second",
        "llm_probe_last_run_timestamp_seconds",
    }


def test_names_that_look_alike_give_one_series() -> None:
    """Two targets whose names are the same once printable don't make a duplicate."""
    snapshot = Snapshot()
    for target in ("a", "a\n", "x" * 128, "x" * 129):
        snapshot.publish(plan_key(target, "default"), Plan(60))
        snapshot.publish(target_key(target), TargetState(target, "", 0.0, up=True))
    ups = [labels for name, labels in samples(rendered(snapshot.view())) if name == "llm_target_up"]
    assert ups == [(("target", "a"),), (("target", "x" * 128),), (("target", label("x" * 129)),)]


def test_a_filesystem_appears_once() -> None:
    """Two caches on one filesystem share its series."""
    snapshot = Snapshot()
    disk = FilesystemFacts("/", "8:1", 5, 10)
    for name in ("one", "two"):
        snapshot.publish(cache_key(name), CacheFacts(name, "files", f"/{name}", 1, filesystem=disk))
    assert value_of(snapshot.view(), "llm_model_cache_filesystem_free_bytes", mountpoint="/") == 5


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> str:
    """One family whose samples can't be read."""
    family = next(family for family in FAMILIES if family.name == "llm_target_up")

    def fail(_: TargetState) -> Any:
        raise ValueError("a fact of a shape that nobody expected")

    mended = dataclasses.replace(family, read=fail)
    of_source = tuple(mended if each is family else each for each in exposition._FAMILIES_OF[family.source])
    monkeypatch.setitem(exposition._FAMILIES_OF, family.source, of_source)
    return family.name


def test_a_row_that_raises_takes_only_itself_down(broken: str, caplog: pytest.LogCaptureFixture) -> None:
    """The rest of the exposition stands, the failure is a metric and a line in the log, and both ways agree."""
    snapshot = scene()
    whole = names_in(snapshot.view())
    assert broken not in whole
    assert "llm_target_loading" in whole
    assert value_of(snapshot.view(), "llm_probe_exporter_collector_success", collector="exposition") == 0
    assert f"{broken} can't be shown for mi300x" in caplog.text
    assert rendered(snapshot.view()) == by_library(snapshot)[0]


def test_a_scrape_reads_only_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was prepared at publication is not read again by a scrape, and what has left is forgotten."""
    written = Exposition()
    snapshot = publish_all(Snapshot(watch=written.prepare))
    written.render(snapshot.view())
    read: list[tuple[str, ...]] = []
    piece = exposition._piece

    def counted(source: Any, names: tuple[str, ...], parts: tuple[Any, ...]) -> Any:
        read.append(names)
        return piece(source, names, parts)

    monkeypatch.setattr(exposition, "_piece", counted)
    snapshot.publish(probe_key("vllm", "default"), probe("vllm", 0, speed=9))
    read.clear()
    body = written.render(snapshot.view())
    assert read == [("exposition",)]
    assert body.startswith(rendered(snapshot.view()).encode())
    snapshot.keep_only(RECORD, {("ollama", "default")})
    written.render(snapshot.view())
    assert {names[0] for _, names in written._pieces if len(names) == 2} == {"ollama"}


def test_one_probe_alone() -> None:
    """/probe's exposition has the families of that module and target and no others; without totals, gauges only."""
    view = scene().view()
    text = render_probe(view, "vllm-aiter", "prefill").decode()
    found = samples(text)
    assert {dict(labels)["target"] for _, labels in found} == {"vllm-aiter"}
    assert {dict(labels).get("module", "prefill") for _, labels in found} == {"prefill"}
    assert ("llm_probes_total", (("module", "prefill"), ("result", "ok"), ("target", "vllm-aiter"))) in found
    gauges = samples(render_probe(view, "vllm-aiter", "prefill", totals=False).decode())
    assert not any(name.endswith(("_total", "_bucket")) for name, _ in gauges)
    assert gauges.keys() < found.keys()
    in_openmetrics = render_probe(view, "vllm-aiter", "prefill", OPENMETRICS).decode()
    assert list(parse_openmetrics(in_openmetrics))  # type: ignore[no-untyped-call]


texts = st.text(max_size=8) | st.sampled_from(["a", "a\n", 'q"uote', "back\\slash", "\ud800", "x" * 200])
numbers = st.none() | st.floats() | st.integers(-(10**400), 10**400)
counts = st.none() | st.integers(-5, 10**30)


MEASUREMENTS = st.builds(
    Measurements,
    **dict.fromkeys(
        ("tokens_per_second", "ttft_seconds", "prefill_tokens_per_second", "server_tokens_per_second"), numbers
    ),
    gaps=st.lists(st.tuples(st.floats(), st.integers(-1, 5)), max_size=3).map(tuple),
    phases=st.lists(st.tuples(texts, st.floats()), max_size=3).map(tuple),
    prompt_tokens=counts,
    output_tokens=counts,
)
RESULT = st.builds(
    ProbeResult,
    target=texts,
    module=texts,
    result=st.sampled_from(RESULTS),
    error=texts,
    at_seconds=st.floats(),
    interval_seconds=st.floats(),
    model=st.none() | texts,
    measurements=MEASUREMENTS,
    cold_start=st.booleans(),
    prompt_tokens_spent=st.integers(-5, 10**400),
    busy_seconds=st.floats(),
)
JUDGEMENT = st.builds(
    Judgement,
    tier=st.none() | st.sampled_from(TIERS),
    thresholds=st.builds(Thresholds.model_construct, excellent=st.floats(), good=st.floats(), acceptable=st.floats()),
    scenario=st.none() | texts,
    expected_min=numbers,
    efficiency=numbers,
)
GPU_FACTS = st.builds(GpuFacts, address=texts, name=texts, compute_units=counts, bandwidth_bytes_per_second=numbers)
SENSORS = st.builds(
    GpuSample,
    address=texts,
    busy_ratio=numbers,
    temperatures=st.lists(st.tuples(texts, st.floats()), max_size=3).map(tuple),
)
MODEL = st.builds(ModelFacts, name=texts, path=texts, bytes=st.integers(), complete=st.none() | st.booleans())
CACHE = st.builds(
    CacheFacts,
    name=texts,
    kind=texts,
    path=texts,
    bytes=counts,
    models=st.lists(MODEL, max_size=3).map(tuple),
    error=st.none() | texts,
    filesystem=st.none() | st.builds(FilesystemFacts, texts, texts, st.integers(0), st.integers(0)),
)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Anything that the other rooms could publish, and worse."""
    snapshot = Snapshot()
    for result in draw(st.lists(RESULT, max_size=4)):
        target, module = result.target, result.module
        snapshot.publish(plan_key(target, module), Plan(draw(st.floats()), draw(st.integers(1, 9))))
        snapshot.publish(probe_key(target, module), result)
        snapshot.publish(judgement_key(target, module), draw(JUDGEMENT))
        snapshot.publish(info_key(target), TargetInfo(*draw(st.tuples(*[texts] * 9))))
        snapshot.publish(
            target_key(target), TargetState(target, "", 0.0, draw(st.booleans()), requests_running=draw(numbers))
        )
    for cache in draw(st.lists(CACHE, max_size=2)):
        snapshot.publish(cache_key(cache.name), cache)
    snapshot.publish(GPU, GpuReading(tuple(draw(st.lists(GPU_FACTS, max_size=2)))))
    snapshot.publish(GPU_SENSORS, tuple(draw(st.lists(SENSORS, max_size=2))))
    snapshot.publish(
        EXPORTER, ExporterState(targets_by_state=tuple(draw(st.lists(st.tuples(texts, st.integers()), max_size=3))))
    )
    snapshot.publish(collector_key(draw(texts)), CollectorRun(draw(st.booleans()), draw(st.floats()), 0.0))
    return snapshot


@settings(max_examples=40, deadline=None)
@given(snapshots())
def test_any_snapshot_renders(snapshot: Snapshot) -> None:
    """Whatever was published: nothing raises, no series is there twice, both formats parse, and the library agrees."""
    view = snapshot.view()
    text, in_openmetrics = rendered(view), rendered(view, OPENMETRICS)
    found = samples(text)
    assert value_of(view, "llm_probe_exporter_collector_success", collector="exposition") == 1
    families: list[Metric] = list(parse_openmetrics(in_openmetrics))  # type: ignore[no-untyped-call]
    assert sum(len(family.samples) for family in families) == len(found)
    assert (text, in_openmetrics) == by_library(snapshot)


def with_ledger(ledger: Ledger) -> View:
    snapshot = planned()
    snapshot.publish(ledger_key("a"), ledger)
    return snapshot.view()


def test_a_change_is_told_with_what_it_cost() -> None:
    """What, before, after, the ratio and its interval come with the third probe since; the drop stands until it is accepted."""
    ledger = fed(observe_facts(Ledger("a"), NOW - 9000, {"image": "A", "kernel": "1"}), 12.0, 0.4, 8000, 4000)
    ledger = observe_facts(ledger, NOW - 4000, {"image": "B", "kernel": "1"})
    waiting = fed(ledger, 6.0, 0.8, 3900, 3780)
    assert value_of(with_ledger(waiting), "llm_last_change_info", target="a", what="image", before="A", after="B") == 1
    assert value_of(with_ledger(waiting), "llm_last_change_timestamp_seconds", target="a") == NOW - 4000
    assert "llm_last_change_speed_ratio" not in names_in(with_ledger(waiting))
    view = with_ledger(found := fed(ledger, 6.0, 0.8, 3900, 3700))
    of = {"target": "a", "module": "default"}
    assert value_of(view, "llm_last_change_speed_ratio", **of) == pytest.approx(0.5, rel=0.02)
    assert value_of(view, "llm_last_change_ttft_ratio", **of) == pytest.approx(2.0)
    assert (value_of(view, "llm_last_change_speed_ratio_bound", bound="max", **of) or 1.0) < 1
    drop = {**of, "phase": "decode", "cause": "change", "what": "image", "before": "A", "after": "B"}
    assert value_of(view, "llm_slowdown_speed_ratio", **drop) == pytest.approx(0.5, rel=0.02)
    assert "llm_slowdown_speed_ratio" not in names_in(with_ledger(accept(found, NOW)))
    back = fed(observe_facts(found, NOW - 3000, {"image": "A"}), 12.0, 0.4, 2900, 2600)
    assert "llm_slowdown_speed_ratio" not in names_in(with_ledger(back))


def test_a_step_that_nothing_explains_is_told_as_such() -> None:
    """It has no facts, its own time and its own ratio."""
    ledger = observe_facts(Ledger("a"), NOW - 20000, {"image": "A"})
    view = with_ledger(fed(fed(ledger, 12.0, 0.4, 12000, 6000), 9.0, 0.4, 6000, 3000))
    of = {"target": "a", "module": "default"}
    assert value_of(view, "llm_unexplained_change_speed_ratio", **of) == pytest.approx(0.75, rel=0.02)
    at = value_of(view, "llm_unexplained_change_timestamp_seconds", **of)
    assert at == pytest.approx(NOW - 6000, abs=300)
    drop = {**of, "phase": "decode", "cause": "unexplained", "what": "", "before": "", "after": ""}
    assert value_of(view, "llm_slowdown_speed_ratio", **drop) == pytest.approx(0.75, rel=0.02)
    assert "llm_last_change_info" not in names_in(view)


if __name__ == "__main__":
    import exporter

    exporter.__version__ = "1.2.3"
    metrics.platform.python_version = lambda: "3.11.0"  # type: ignore[attr-defined]
    GOLDEN.write_text(rendered(scene().view()), encoding="utf-8")
