"""What publishing changes, what it leaves, and that a view never changes."""

import dataclasses
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import snapshot as room
from exporter.cache.facts import CacheFacts
from exporter.probe.result import RESULTS, SKIPPED, Measurements, ProbeResult, Result
from exporter.snapshot import (
    INTER_TOKEN_BOUNDS,
    MODELS_PER_TARGET,
    TTFT_BOUNDS,
    Histogram,
    History,
    Plan,
    Point,
    Record,
    Snapshot,
    TargetInfo,
    View,
    cache_key,
    finite,
    info_key,
    judgement_key,
    plan_key,
    printable,
    probe_key,
    target_key,
)
from exporter.tiers import Judgement, Thresholds
from tests.scenes import probe, up

LIMITS = Thresholds(20, 15, 10)


def planned(*names: tuple[str, str]) -> Snapshot:
    snapshot = Snapshot()
    for target, module in names or (("a", "default"),):
        snapshot.publish(plan_key(target, module), Plan(60))
    return snapshot


def record_of(snapshot: Snapshot, target: str = "a", module: str = "default") -> Record:
    return snapshot.view().records[target, module]


def publish(snapshot: Snapshot, *results: ProbeResult) -> Record:
    for result in results:
        assert snapshot.publish(probe_key(result.target, result.module), result)
    return record_of(snapshot, results[-1].target, results[-1].module)


def test_a_plan_gives_zero_counters_before_the_first_probe() -> None:
    """Intervals and counters are there as soon as a module is planned."""
    record = record_of(planned())
    assert record.interval_seconds == 60
    assert set(record.totals.results) == {0}
    assert record.success is None
    assert record.figures is None


def test_a_failed_probe_leaves_no_figure_behind() -> None:
    """After a failure nothing of the good probe before it is a current figure; its counters and time stay."""
    record = publish(planned(), probe("a", 60, speed=20), probe("a", 0, "connect", error="refused"))
    assert record.success is False
    assert record.figures is None
    assert record.totals.last_success_seconds == probe("a", 60).at_seconds
    assert record.totals.last_run_seconds == probe("a", 0).at_seconds


@pytest.mark.parametrize("skipped", sorted(SKIPPED))
def test_a_skipped_probe_leaves_everything_as_it_was(skipped: Result) -> None:
    """A skip is counted and remembered, and changes no figure, no success and no time of the last run."""
    snapshot = planned()
    before = publish(snapshot, probe("a", 60, speed=20))
    after = publish(snapshot, probe("a", 0, skipped))
    assert after.figures == before.figures
    assert after.success is True
    assert after.totals.last_run_seconds == before.totals.last_run_seconds
    assert after.history == before.history
    assert after.last is not None
    assert after.last.result == skipped
    assert after.totals.results[RESULTS.index(skipped)] == 1


def test_failures_outlive_successes() -> None:
    """Of many probes, some failures that are older than all kept successes are still there, the newest first."""
    failures = [probe("a", 1000 + i, "http_5xx") for i in range(6)]
    record = publish(planned(), *reversed(failures), *(probe("a", 100 - i, speed=20) for i in range(50)))
    results = [result.result for result in record.recent]
    assert results == ["ok"] * room.RECENT + ["http_5xx"] * room.RECENT_FAILED
    assert [result.at_seconds for result in record.recent] == sorted(
        (r.at_seconds for r in record.recent), reverse=True
    )


def test_history_is_bounded() -> None:
    """The history keeps the newest probes that ran."""
    record = publish(planned(), *(probe("a", 10_000 - i, speed=20) for i in range(room.HISTORY + 20)))
    assert len(record.history) == room.HISTORY
    assert [*record.history][-1].at_seconds == probe("a", 10_000 - room.HISTORY - 19).at_seconds


@given(st.lists(st.builds(Point, st.floats(0, 4e9), st.none() | st.floats(0, 1e6), st.booleans()), max_size=30))
def test_a_history_gives_back_its_newest_points(points: list[Point]) -> None:
    """Times, speeds and outcomes come out as they went in, oldest first; of too many, the oldest are forgotten."""
    history = History()
    for point in (*points, *points[:1] * room.HISTORY, *points):
        history = history.followed_by(point)
    assert [*history] == [*points[:1] * room.HISTORY, *points][-room.HISTORY :]
    assert len(history) == len([*history])


def test_gaps_count_once_for_each_token() -> None:
    """A gap of four tokens is four observations of its seconds per token; a bound belongs to the bucket below it."""
    measurements = Measurements(ttft_seconds=0.5, gaps=((0.05, 4), (0.051, 1), (0.1, 2)))
    record = publish(planned(), dataclasses.replace(probe("a", 0), measurements=measurements))
    (histograms,) = record.histograms
    assert histograms.inter_token.counts[INTER_TOKEN_BOUNDS.index(0.05)] == 4
    assert histograms.inter_token.counts[INTER_TOKEN_BOUNDS.index(1 / 15)] == 1
    assert histograms.inter_token.counts[INTER_TOKEN_BOUNDS.index(0.1)] == 2
    assert histograms.inter_token.sum == pytest.approx(0.05 * 4 + 0.051 + 0.2)
    assert histograms.ttft.counts[TTFT_BOUNDS.index(0.5)] == 1


def test_bounds_are_sorted_and_hold_the_tiers() -> None:
    """Buckets rise, and every tier can be read off the inter-token histogram."""
    assert list(INTER_TOKEN_BOUNDS) == sorted(set(INTER_TOKEN_BOUNDS))
    assert list(TTFT_BOUNDS) == sorted(set(TTFT_BOUNDS))
    assert {0.05, 1 / 15, 0.1} <= set(INTER_TOKEN_BOUNDS)


def test_a_cold_start_is_in_no_histogram() -> None:
    """The wait for a model to load is no time to first token."""
    assert publish(planned(), probe("a", 0, speed=20, cold_start=True)).histograms == ()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 10**400])
def test_what_cannot_be_observed_is_left_out(value: Any) -> None:
    """An impossible duration changes no histogram, an impossible count no counter."""
    assert Histogram((0, 0)).observe([(value, 1)], (1.0,)) == Histogram((0, 0))
    result = dataclasses.replace(probe("a", 0), prompt_tokens_spent=value, busy_seconds=value)
    totals = publish(planned(), result).totals
    assert (totals.prompt_tokens, totals.busy_seconds) == (0, 0)


def test_at_most_eight_models_are_kept_the_oldest_leaves_first() -> None:
    """A server that renames its model at every request can't grow what is kept; one in use stays."""
    snapshot = planned()
    for i in range(50):
        publish(
            snapshot, probe("a", 100 - i, speed=20, model=f"model-{i}"), probe("a", 100 - i, speed=20, model="steady")
        )
    models = [each.model for each in record_of(snapshot).histograms]
    assert models == [*(f"model-{i}" for i in range(50 - MODELS_PER_TARGET + 1, 50)), "steady"]


def test_models_count_over_all_modules_of_a_target() -> None:
    """A module whose model was pushed out by another's has no figures under that name left."""
    snapshot = planned(("a", "default"), ("a", "prefill"))
    publish(snapshot, probe("a", 100, speed=20, model="first", module="prefill"))
    for i in range(MODELS_PER_TARGET):
        publish(snapshot, probe("a", 90 - i, speed=20, model=f"model-{i}"))
    left = record_of(snapshot, "a", "prefill")
    assert left.histograms == ()
    assert left.figures == Measurements()
    assert left.ran is not None
    assert left.ran.model is None


def test_a_target_that_stays_keeps_its_counters() -> None:
    """A new plan changes the interval and leaves counters, histograms and figures."""
    snapshot = planned()
    before = publish(snapshot, probe("a", 0, speed=20))
    snapshot.publish(plan_key("a", "default"), Plan(30, concurrency=4))
    after = record_of(snapshot)
    assert after.interval_seconds == 30
    assert (after.totals, after.histograms, after.figures) == (before.totals, before.histograms, before.figures)


def test_a_stretched_interval_survives_a_reload_that_changes_nothing() -> None:
    """What a budget made of the interval holds until the plan's own interval changes, or the next result says otherwise."""
    snapshot = planned()
    publish(snapshot, dataclasses.replace(probe("a", 0), interval_seconds=900.0))
    snapshot.publish(plan_key("a", "default"), Plan(60))
    assert record_of(snapshot).interval_seconds == 900
    snapshot.publish(plan_key("a", "default"), Plan(120))
    assert record_of(snapshot).interval_seconds == 120


def test_a_target_that_leaves_takes_everything_with_it() -> None:
    """Once its plan isn't retained nothing of a target is left, and a probe that ends late can't bring it back."""
    snapshot = planned(("a", "default"), ("b", "default"))
    for name in ("a", "b"):
        publish(snapshot, probe(name, 0, speed=20))
        snapshot.publish(target_key(name), up(name, "http://x"))
        snapshot.publish(info_key(name), TargetInfo("http://x"))
        snapshot.publish(judgement_key(name, "default"), Judgement("excellent", LIMITS))
    snapshot.retain(lambda key: key.kind != "probe" or key.names[0] == "b")
    view = snapshot.view()
    assert view.targets == ("b",)
    assert {names[0] for kind in view.kinds for names in view.of(kind)} == {"b"}
    assert not snapshot.publish(probe_key("a", "default"), probe("a", 0, speed=20))
    assert not snapshot.publish(target_key("a"), up("a", "http://x"))
    assert not snapshot.publish(judgement_key("a", "default"), Judgement(None, LIMITS))
    assert snapshot.view() == view


def test_a_view_never_changes() -> None:
    """What a reader took stays as it was, whatever is published afterwards."""
    snapshot = planned()
    before = snapshot.view()
    publish(snapshot, probe("a", 0, speed=20))
    snapshot.publish(info_key("a"), TargetInfo("http://x"))
    assert before.records["a", "default"].last is None
    assert before.get(info_key("a")) is None
    assert snapshot.view().get(probe_key("a", "default")) is not None
    assert snapshot.view().get(plan_key("a", "default")) == Plan(60)


def test_only_marks_of_a_stream_are_kept() -> None:
    """Of a timeline with many chunks the first and the last stay; gaps are in the histogram and nowhere else."""
    result = probe("a", 0, speed=20)
    kept = publish(planned(), result).last
    assert kept is not None
    assert kept.timelines[0].chunks == (result.timelines[0].chunks[0], result.timelines[0].chunks[-1])
    assert kept.measurements.gaps == ()
    assert kept.timelines[0].end_ns == result.timelines[0].end_ns


def test_a_result_brings_its_look_at_the_target_along() -> None:
    """The state inside a result is published as the target's own."""
    snapshot = planned()
    state = up("a", "http://x", error="bad\nline")
    publish(snapshot, dataclasses.replace(probe("a", 0), state=state))
    assert snapshot.view().get(target_key("a")) == dataclasses.replace(state, error="badline")


def test_scan_errors_are_counted() -> None:
    """Each scan that could not read the cache counts once; the newest facts are what is known."""
    snapshot = Snapshot()
    fine = CacheFacts("hub", "huggingface", "/hub", 1)
    for facts in (fine, dataclasses.replace(fine, bytes=None, error="permission denied"), fine):
        snapshot.publish(cache_key("hub"), facts)
    assert snapshot.view().of("cache_record")[("hub",)].scan_errors == 1
    assert snapshot.view().get(cache_key("hub")) == fine


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Qwen/Qwen2.5-14B", "Qwen/Qwen2.5-14B"),
        ('a"b\\c', 'a"b\\c'),
        ("a\nb\x00c\x85d\u2028e\x1b[31m", "abcde[31m"),
        ("\ud800x\u202ey", "xy"),
        ("m" * 100_000, "m" * 128),
        ("\n" * 100 + "x", "x"),
    ],
)
def test_strings_of_strangers_are_made_printable(text: str, shown: str) -> None:
    """Control characters, surrogates and direction marks go, and 128 characters stay."""
    assert printable(text) == shown


@given(st.text())
def test_printable_is_final(text: str) -> None:
    """Any text comes out printable, short and unchanged by a second time."""
    once = printable(text)
    assert once.isprintable()
    assert len(once) <= 128
    assert printable(once) == once
    once.encode()


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf"), 10**400])
def test_what_is_not_finite_is_none(value: float | None) -> None:
    """Nothing, NaN, infinities and integers beyond floats have no value that an exposition can hold."""
    assert finite(value) is None


results = st.builds(
    ProbeResult,
    target=st.just("a"),
    module=st.sampled_from(["default", "prefill"]),
    result=st.sampled_from(RESULTS),
    error=st.text(max_size=5),
    at_seconds=st.floats(0, 2e9),
    interval_seconds=st.sampled_from([30.0, 60.0]),
    model=st.sampled_from([None, *(f"m{i}" for i in range(12))]),
    measurements=st.builds(
        Measurements,
        tokens_per_second=st.none() | st.floats(0, 1e6),
        ttft_seconds=st.none() | st.floats(),
        gaps=st.lists(st.tuples(st.floats(), st.integers(-1, 9)), max_size=4).map(tuple),
    ),
    cold_start=st.booleans(),
)


@given(st.lists(results, max_size=40))
def test_any_run_of_results_adds_up(run: list[ProbeResult]) -> None:
    """Counters count every result once, a figure is of the newest that ran, and models stay bounded over all modules."""
    snapshot = planned(("a", "default"), ("a", "prefill"))
    for result in run:
        snapshot.publish(probe_key(result.target, result.module), result)
    view = snapshot.view()
    assert sum(sum(record.totals.results) for record in view.records.values()) == len(run)
    for (_, module), record in view.records.items():
        ran = [each for each in run if each.module == module and each.result not in SKIPPED]
        assert record.success == (ran[-1].result == "ok" if ran else None)
        assert (record.figures is not None) == (record.success is True)
        assert len(record.recent) <= room.RECENT + room.RECENT_FAILED
        for each in record.histograms:
            assert sum(each.ttft.counts) <= sum(1 for result in ran if result.result == "ok")
    models = {each.model for record in view.records.values() for each in record.histograms}
    models |= {record.ran.model for record in view.records.values() if record.ran and record.ran.model}
    assert len(models) <= MODELS_PER_TARGET


def test_what_is_published_together_is_seen_together() -> None:
    """While one thread publishes a result with its judgement, no view ever has one of them without the other."""
    snapshot = planned()
    stop = threading.Event()
    seen: list[tuple[Any, Any]] = []

    def read() -> None:
        while not stop.is_set():
            view = snapshot.view()
            record, judgement = view.records["a", "default"], view.get(judgement_key("a", "default"))
            seen.append((record.figures and record.figures.tokens_per_second, judgement and judgement.expected_min))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(300):
        result = probe("a", 0, speed=10 + i)
        judged = Judgement("good", LIMITS, expected_min=10 + i)
        snapshot.publish_all(((probe_key("a", "default"), result), (judgement_key("a", "default"), judged)))
    stop.set()
    reader.join()
    assert all(speed == judged for speed, judged in seen)


def test_what_says_nothing_new_changes_nothing() -> None:
    """The same facts published again leave the object that readers may have made something of, and tell no watch."""
    told: list[tuple[str, tuple[str, ...]]] = []
    snapshot = Snapshot(watch=lambda _, changed: told.append(changed))
    snapshot.publish(plan_key("a", "default"), Plan(60))
    first = Judgement("good", LIMITS)
    snapshot.publish(judgement_key("a", "default"), first)
    snapshot.publish(judgement_key("a", "default"), Judgement("good", LIMITS))
    assert snapshot.view().get(judgement_key("a", "default")) is first
    assert [kind for kind, _ in told] == ["record", "judgement"]


def test_the_watch_is_told_what_changed() -> None:
    """Who watches gets a view that has the change in it, and its kind and names."""
    told: list[tuple[View, tuple[str, tuple[str, ...]]]] = []
    snapshot = Snapshot(watch=lambda view, changed: told.append((view, changed)))
    snapshot.publish(plan_key("a", "default"), Plan(60))
    snapshot.publish(probe_key("a", "default"), probe("a", 0, speed=20))
    assert [changed for _, changed in told] == [("record", ("a", "default"))] * 2
    assert told[-1][0].records["a", "default"].success is True
