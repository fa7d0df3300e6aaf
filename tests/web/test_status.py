"""One verdict for each state that a target can be in, with the reason that a person reads."""

import dataclasses
from typing import Any

import pytest

from exporter.history.record import Plan
from exporter.probe.result import RESULTS, SKIPPED, Measurements, ProbeResult, Result
from exporter.snapshot import CollectorRun, Snapshot, judgement_key, plan_key, probe_key, target_key
from exporter.tiers import Judgement
from exporter.web.documents import as_json, target_json
from exporter.web.status import RESULT_TEXTS, TargetStatus, Verdict, counted, failed, targets_of
from tests.scenes import NOW, judged, probe, publish_all, up
from tests.states import publish_states

BURST = dataclasses.replace(probe("a", 10), measurements=Measurements(stream_buffered=True, ttft_seconds=1.0))
FEW = dataclasses.replace(probe("a", 10), measurements=Measurements(ttft_seconds=1.0))
BAND = (12.0, 20.0)


def status_of(
    *results: ProbeResult, judgement: Judgement | None = None, state: Any = None, now: float = NOW
) -> TargetStatus:
    """The status of a target after these results."""
    snapshot = Snapshot()
    for module in {"default", *(result.module for result in results)}:
        snapshot.publish(plan_key("a", module), Plan(60))
    for result in results:
        snapshot.publish(probe_key("a", result.module), result)
    if judgement:
        snapshot.publish(judgement_key("a", "default"), judgement)
    if state:
        snapshot.publish(target_key("a"), state)
    (status,) = targets_of(snapshot.view(), now)
    return status


@pytest.mark.parametrize(
    ("results", "judgement", "state", "verdict", "reason"),
    [
        ((), None, None, "waiting", "not probed yet"),
        ((), None, up("a", "", up=False, error="refused"), "down", "refused"),
        ((), None, up("a", "", loading=True), "loading", "the server is loading a model"),
        ((probe("a", 9, "skipped_busy"),), None, up("a", ""), "busy", RESULT_TEXTS["skipped_busy"]),
        ((probe("a", 9, "skipped_unloaded"),), None, None, "unloaded", RESULT_TEXTS["skipped_unloaded"]),
        ((probe("a", 9, "skipped_unable", error="it embeds"),), None, None, "unable", "it embeds"),
        ((probe("a", 9, "yielded"),), None, up("a", ""), "busy", RESULT_TEXTS["yielded"]),
        ((probe("a", 9, "auth", error="401"),), None, up("a", ""), "failing", "the server refused the key: 401"),
        ((probe("a", 9, "connect", error="refused"),), None, up("a", "", 10, up=False), "down", "no connection: refused"),
        ((probe("a", 9, "loading"),), None, None, "loading", RESULT_TEXTS["loading"]),
        ((BURST,), judged(None, "x", *BAND), None, "unmeasured", "the text came in one burst, so its speed can't be"),
        ((FEW,), None, None, "unmeasured", "too few tokens came to measure a speed"),
        ((probe("a", 9, cold_start=True),), None, None, "unmeasured", "the probe waited for the model to load"),
        ((probe("a", 9, speed=16),), None, None, "unmeasured", "the speed is measured, and not judged yet"),
        ((probe("a", 9, speed=16),), judged(16, "x", *BAND), None, "good", "as expected of x: 12–20 tokens/s"),
        ((probe("a", 9, speed=22),), judged(22, "x", *BAND), None, "excellent", "faster than expected of x: 12–20 tokens/s"),
        ((probe("a", 9, speed=11),), judged(11, "x", *BAND), None, "acceptable", "slower than x should be: 12–20 tokens/s"),
        ((probe("a", 9, speed=11.96),), judged(11.96, "x", *BAND), None, "acceptable", "just below what x should reach: 12–20 "),
        ((probe("a", 9, speed=20.04),), judged(20.04, "x", *BAND), None, "excellent", "as expected of x: 12–20 tokens/s"),
        ((probe("a", 9, speed=9),), judged(9, "y", 8, 12), None, "poor", "below the acceptable minimum of 10 tokens/s; y is known"),
        ((probe("a", 9, speed=9),), judged(9, "", None, None), None, "poor", "below the acceptable minimum of 10 tokens/s"),
        ((probe("a", 9, speed=16),), judged(16, "x", *BAND), up("a", "", 5, up=False), "down", "the server does not answer"),
        ((probe("a", 9, speed=16),), judged(16, "x", *BAND), up("a", "", 15, up=False), "good", "as expected"),
        ((probe("a", 9, speed=16), probe("a", 5, "skipped_busy")), judged(16, "x", *BAND), None, "good", "as expected"),
    ],
)  # fmt: skip
def test_verdict(
    results: tuple[ProbeResult, ...], judgement: Judgement | None, state: Any, verdict: str, reason: str
) -> None:
    """Each state has one verdict and says why; a status check that is newer than its probe overrules it."""
    status = status_of(*results, judgement=judgement, state=state)
    assert status.verdict.name == verdict
    assert status.reason.startswith(reason)


def test_the_default_module_judges_and_any_module_can_fail() -> None:
    """Another module's slower figures change no verdict; its failure does, and is named."""
    good = judged(16, "x", *BAND)
    slow = probe("a", 9, module="parallel", speed=4)
    assert status_of(probe("a", 9, speed=16), slow, judgement=good).verdict is Verdict.good
    broken = probe("a", 9, "timeout_total", module="parallel")
    status = status_of(probe("a", 9, speed=16), broken, judgement=good)
    assert status.verdict is Verdict.failing
    assert status.reason == "parallel: the answer took too long"


def test_what_was_skipped_or_stopped_for_users_has_not_failed() -> None:
    """Of one probe with each result, the page counts as failed those that its list of failures has."""
    results = [probe("a", 9, result) for result in RESULTS]
    (only,) = status_of(*results).probes
    assert only.good_failed_skipped == (1, sum(map(failed, results)), len(SKIPPED))
    assert sum(only.good_failed_skipped) == len(RESULTS)


def test_stale_after_three_intervals() -> None:
    """A figure that is older than three intervals is marked, and a skip does not freshen it."""
    results = (probe("a", 0, speed=16), probe("a", -170, "skipped_busy"))
    assert not status_of(*results, now=NOW + 180).probes[0].stale
    assert status_of(*results, now=NOW + 181).probes[0].stale


def test_the_worst_comes_first() -> None:
    """Targets are sorted by verdict, then by name, and counted in the same order."""
    targets = targets_of(publish_all(Snapshot()).view(), NOW)
    assert [target.verdict for target in targets] == sorted(target.verdict for target in targets)
    assert [target.target for target in targets[:3]] == ["transformers", "webui", "garbled"]
    assert list(counted(targets)) == [
        verdict.name
        for verdict in Verdict
        if verdict not in {Verdict.stuck, Verdict.unable, Verdict.right, Verdict.undecided, Verdict.measured}
    ]


@pytest.mark.parametrize("result", [result for result in RESULTS if result != "ok"])
def test_every_result_has_a_text(result: Result) -> None:
    """No class of result is without words for people."""
    assert RESULT_TEXTS[result] != result


def test_json_of_any_record() -> None:
    """Nested records become JSON: numbers that aren't finite are null, texts are printable."""
    status = status_of(dataclasses.replace(probe("a", 9, "protocol"), error="<html>\x00"))
    assert target_json(status)["probes"][0]["error"] == "<html>"
    assert as_json((float("nan"), {"a": CollectorRun(True, float("inf"), 2)})) == [
        None,
        {"a": {"success": True, "duration_seconds": None, "at_seconds": 2}},
    ]
    thresholds = {"excellent": 20, "good": 15, "acceptable": 10}
    assert as_json(judged(16, "x", *BAND))["thresholds"] == thresholds


def test_a_module_of_several_streams_has_its_aggregate_and_no_tier() -> None:
    """Tiers are of one stream; what the streams reach together is said."""
    snapshot = Snapshot()
    snapshot.publish(plan_key("a", "parallel"), Plan(600, concurrency=4))
    measured = Measurements(tokens_per_second=9.0, aggregate_tokens_per_second=34.5)
    snapshot.publish(
        probe_key("a", "parallel"), dataclasses.replace(probe("a", 9, module="parallel"), measurements=measured)
    )
    snapshot.publish(judgement_key("a", "parallel"), judged(9.0, "x", *BAND))
    (status,) = targets_of(snapshot.view(), NOW)
    assert (status.verdict.name, status.probes[0].tier, status.probes[0].speed_text) == ("measured", None, "34.5")
    assert status.reason == "34.5 tokens/s of 4 streams together, 9.0 for each; tiers are of one stream"


def test_near_a_bound_the_verdict_stays_and_says_so() -> None:
    """A wavering speed keeps its verdict; the exact tier is beside it."""
    status = status_of(probe("a", 69, speed=19.9), probe("a", 9, speed=20.1), judgement=judged(20.1, "x", *BAND))
    assert (status.verdict.name, status.probes[0].tier) == ("good", "excellent")
    assert status.reason.endswith("20.1 is within 2 % of the bound at 20")


def test_a_speed_below_a_bound_is_not_shown_as_the_bound() -> None:
    """19.96 would be read as 20.0, which is another tier."""
    status = status_of(probe("a", 9, speed=19.96), judgement=judged(19.96, "x", *BAND))
    (first,) = status.probes
    assert (status.verdict.name, first.speed_text, first.measured_text) == ("good", "19.96", "19.96")


def test_the_speed_beside_a_verdict_is_the_one_that_it_is_about() -> None:
    """Poor for its users: what they get, and not the better speed of a probe alone. Wrong answers have no speed."""
    found = {each.target: each for each in targets_of(publish_states(Snapshot()).view(), NOW)}
    users = found["slow-for-users"]
    assert (users.verdict.name, users.users_decide, users.speed_text) == ("poor", True, "4.2")
    assert (users.probes[0].verdict.name, users.probes[0].speed_text) == ("good", "16.2")
    assert [found[name].speed_text for name in ("wrong", "stuck", "measured", "poor")] == ["", "", "44.6", "6.4"]
    assert not found["poor"].users_decide


def test_a_canary_names_the_prompts_that_were_answered() -> None:
    """One prompt or both, as a sentence."""
    found = {each.target: each for each in targets_of(publish_states(Snapshot()).view(), NOW)}
    assert found["right-alone"].reason == "the answers to the short and the long prompt are right"


def test_the_reason_of_a_status_comes_with_its_fact() -> None:
    """What advice looks at is taken out of the view: containers, sensors and the machine of the GPU that serves."""
    statuses = {each.target: each for each in targets_of(publish_all(Snapshot()).view(), NOW)}
    found = {name: each.why.condition for name, each in statuses.items() if each.why}
    assert found == {
        "behind-nginx": "stream_buffered",
        "garbled": "no_text",
        "llamacpp-q4": "at_memory_limit",
        "mi300x": "users",
        "ollama": "slower_unexplained",
        "transformers": "failed_connect",
        "vllm": "slower_since_change",
        "vllm-aiter": "at_memory_limit",
        "webui": "failed_http_5xx",
    }
    assert target_json(statuses["garbled"])["advice"][0]["condition"] == "no_text"
