"""What a record keeps of the results that were folded into it, and what it forgets."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.history import record
from exporter.history.record import (
    INTER_TOKEN_BOUNDS,
    TTFT_BOUNDS,
    Histogram,
    Plan,
    Point,
    Record,
    SpeedHistory,
    fold,
    planned,
)
from exporter.probe.result import RESULTS, SKIPPED, Measurements, ProbeResult, Result
from tests.scenes import probe

RECORD = planned(None, "a", "default", Plan(60))


def folded(*results: ProbeResult) -> Record:
    """The record after these results, oldest first."""
    found = RECORD
    for result in results:
        found = fold(found, result)
    return found


def test_a_plan_gives_zero_counters_before_the_first_probe() -> None:
    """Intervals and counters are there as soon as a module is planned."""
    assert RECORD.interval_seconds == 60
    assert set(RECORD.totals.results) == {0}
    assert RECORD.success is None
    assert RECORD.figures is None


def test_a_failed_probe_leaves_no_figure_behind() -> None:
    """After a failure nothing of the good probe before it is a current figure; its counters and time stay."""
    found = folded(probe("a", 60, speed=20), probe("a", 0, "connect", error="refused"))
    assert found.success is False
    assert found.figures is None
    assert found.totals.last_success_seconds == probe("a", 60).at_seconds
    assert found.totals.last_run_seconds == probe("a", 0).at_seconds


@pytest.mark.parametrize("skipped", sorted(SKIPPED))
def test_a_skipped_probe_leaves_everything_as_it_was(skipped: Result) -> None:
    """A skip is counted and remembered, and changes no figure, no success and no time of the last run."""
    before = folded(probe("a", 60, speed=20))
    after = fold(before, probe("a", 0, skipped))
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
    found = folded(*reversed(failures), *(probe("a", 100 - i, speed=20) for i in range(50)))
    results = [result.result for result in found.recent]
    assert results == ["ok"] * record.RECENT + ["http_5xx"] * record.RECENT_FAILED
    assert [result.at_seconds for result in found.recent] == sorted((r.at_seconds for r in found.recent), reverse=True)


def test_history_is_bounded() -> None:
    """The history keeps the newest probes that ran."""
    found = folded(*(probe("a", 10_000 - i, speed=20) for i in range(record.HISTORY + 20)))
    assert len(found.history) == record.HISTORY
    assert [*found.history][-1].at_seconds == probe("a", 10_000 - record.HISTORY - 19).at_seconds


@given(st.lists(st.builds(Point, st.floats(0, 4e9), st.none() | st.floats(0, 1e6), st.booleans()), max_size=30))
def test_a_history_gives_back_its_newest_points(points: list[Point]) -> None:
    """Times, speeds and outcomes come out as they went in, oldest first; of too many, the oldest are forgotten."""
    history = SpeedHistory()
    for point in (*points, *points[:1] * record.HISTORY, *points):
        history = history.followed_by(point)
    assert [*history] == [*points[:1] * record.HISTORY, *points][-record.HISTORY :]
    assert len(history) == len([*history])


def test_gaps_count_once_for_each_token() -> None:
    """A gap of four tokens is four observations of its seconds per token; a bound belongs to the bucket below it."""
    measurements = Measurements(ttft_seconds=0.5, gaps=((0.05, 4), (0.051, 1), (0.1, 2)))
    found = folded(dataclasses.replace(probe("a", 0), measurements=measurements))
    (histograms,) = found.histograms
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
    assert folded(probe("a", 0, speed=20, cold_start=True)).histograms == ()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 10**400])
def test_what_cannot_be_observed_is_left_out(value: Any) -> None:
    """An impossible duration changes no histogram, an impossible count no counter."""
    assert Histogram((0, 0)).observe([(value, 1)], (1.0,)) == Histogram((0, 0))
    result = dataclasses.replace(probe("a", 0), prompt_tokens_spent=value, busy_seconds=value)
    totals = folded(result).totals
    assert (totals.prompt_tokens, totals.busy_seconds) == (0, 0)


def test_a_target_that_stays_keeps_its_counters() -> None:
    """A new plan changes the interval and leaves counters, histograms and figures."""
    before = folded(probe("a", 0, speed=20))
    after = planned(before, "a", "default", Plan(30, concurrency=4))
    assert after.interval_seconds == 30
    assert (after.totals, after.histograms, after.figures) == (before.totals, before.histograms, before.figures)


def test_a_stretched_interval_survives_a_reload_that_changes_nothing() -> None:
    """What a budget made of the interval holds until the plan's own interval changes, or the next result says otherwise."""
    stretched = folded(dataclasses.replace(probe("a", 0), interval_seconds=900.0))
    assert planned(stretched, "a", "default", Plan(60)).interval_seconds == 900
    assert planned(stretched, "a", "default", Plan(120)).interval_seconds == 120


def test_only_marks_of_a_stream_are_kept() -> None:
    """Of a timeline with many chunks the first and the last stay; gaps are in the histogram and nowhere else."""
    result = probe("a", 0, speed=20)
    kept = folded(result).last
    assert kept is not None
    assert kept.timelines[0].chunks == (result.timelines[0].chunks[0], result.timelines[0].chunks[-1])
    assert kept.measurements.gaps == ()
    assert kept.timelines[0].end_ns == result.timelines[0].end_ns


def test_the_speed_without_users_outlives_probes_beside_them() -> None:
    """A probe beside users and a failed one leave it, another model takes it away."""
    alone = fold(Record("a", "default", Plan(60), 60), probe("a", 9, speed=22.0))
    assert alone.alone is not None
    assert alone.alone[1] == 22.0
    beside = fold(alone, dataclasses.replace(probe("a", 8, speed=12.0), beside_users=2.0))
    failed = fold(beside, probe("a", 7, "connect"))
    assert alone.alone == beside.alone == failed.alone
    assert fold(failed, dataclasses.replace(probe("a", 6, speed=12.0, model="other"), beside_users=1.0)).alone is None
    assert fold(failed, probe("a", 6, speed=15.0, model="other")).alone == ("other", 15.0)
