"""What publishing changes, what it leaves, and that a view never changes."""

import dataclasses
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.cache.facts import CacheFacts
from exporter.history.record import RECENT, RECENT_FAILED, Plan, Record
from exporter.probe.result import RESULTS, SKIPPED, Measurements, ProbeResult
from exporter.settings import Thresholds
from exporter.snapshot import (
    CACHE,
    INFO,
    JUDGEMENT,
    MODELS_PER_TARGET,
    RECORD,
    CacheRecord,
    Changed,
    Key,
    Kind,
    Snapshot,
    TargetInfo,
    View,
    cache_key,
    info_key,
    judgement_key,
    plan_key,
    probe_key,
    target_key,
)
from exporter.tiers import Judgement
from tests.scenes import probe, up

LIMITS = Thresholds(excellent=20, good=15, acceptable=10)


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


def test_a_target_that_leaves_takes_everything_with_it() -> None:
    """Once its plan isn't retained nothing of a target is left, and a probe that ends late can't bring it back."""
    snapshot = planned(("a", "default"), ("b", "default"))
    for name in ("a", "b"):
        publish(snapshot, probe(name, 0, speed=20))
        snapshot.publish(target_key(name), up(name, "http://x"))
        snapshot.publish(info_key(name), TargetInfo("http://x"))
        snapshot.publish(judgement_key(name, "default"), Judgement("excellent", LIMITS))
    snapshot.keep_only(RECORD, {("b", "default")})
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
    after = snapshot.view().get(probe_key("a", "default"))
    assert after is not None
    assert (after.plan, after.last is None) == (Plan(60), False)


def test_a_result_brings_its_status_check_along() -> None:
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
    assert snapshot.view().get(cache_key("hub")) == CacheRecord(fine, scan_errors=1)


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
        assert len(record.recent) <= RECENT + RECENT_FAILED
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
    told: list[Changed] = []
    snapshot = Snapshot(watch=lambda _, changed: told.append(changed))
    snapshot.publish(plan_key("a", "default"), Plan(60))
    first = Judgement("good", LIMITS)
    snapshot.publish(judgement_key("a", "default"), first)
    snapshot.publish(judgement_key("a", "default"), Judgement("good", LIMITS))
    assert snapshot.view().get(judgement_key("a", "default")) is first
    assert [kind for kind, _ in told] == [RECORD, JUDGEMENT]


def test_the_callback_gets_what_changed() -> None:
    """The watch gets a view that has the change in it, and its kind and names."""
    told: list[tuple[View, Changed]] = []
    snapshot = Snapshot(watch=lambda view, changed: told.append((view, changed)))
    snapshot.publish(plan_key("a", "default"), Plan(60))
    snapshot.publish(probe_key("a", "default"), probe("a", 0, speed=20))
    assert [changed for _, changed in told] == [(RECORD, ("a", "default"))] * 2
    assert told[-1][0].records["a", "default"].success is True


@pytest.mark.parametrize("wrong", ["cache", "record", Kind("cache", CacheRecord)])
def test_a_kind_that_no_view_holds_is_an_error(wrong: Any) -> None:
    """A name, or a kind of one's own, gives no empty mapping: nothing could ever stand there."""
    snapshot = planned()
    for view in (View(), snapshot.view()):
        with pytest.raises(KeyError):
            view.of(wrong)
        with pytest.raises(KeyError):
            view.get(Key(wrong))
    with pytest.raises(KeyError):
        snapshot.publish(Key(wrong), CacheRecord(CacheFacts("hub", "huggingface", "/hub", 1)))
    assert View().of(CACHE) == {}


def test_a_value_of_another_kind_is_an_error() -> None:
    """What a view holds under a kind is of its type, whatever a caller says."""
    wrong: Any = Judgement(None, LIMITS)
    with pytest.raises(TypeError, match="info holds TargetInfo, not Judgement"):
        planned().publish_all(((Key(INFO, ("a",)), wrong),))
    with pytest.raises(TypeError, match="record holds Record, not Judgement"):
        planned().publish_all(((probe_key("a", "default"), wrong),))
