"""Reports of probes and their medians, for scripts and as rows for a person."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.probe.result import Identity, Measurements, ProbeResult, Result, TargetState
from exporter.report import (
    below,
    combined,
    expected_text,
    percentile,
    report_of,
    rows_of,
    server_text,
    why_no_speed,
)
from exporter.settings import Thresholds, load_profiles
from exporter.snapshot import TargetInfo
from exporter.tiers import Judgement

BOUNDS = load_profiles(None).tiers
JUDGEMENT = Judgement("good", Thresholds(excellent=20, good=15, acceptable=10), "vllm-fp16-aiter", 12.0, 20.0)
URL = "http://127.0.0.1:8000"


def result_of(speed: float | None, result: Result = "ok", **changes: Any) -> ProbeResult:
    """A made-up probe of a vLLM that decodes at this speed."""
    identity = Identity("vllm", "0.32.0", "Qwen2.5-14B-Instruct", "awq")
    measured = Measurements(
        tokens_per_second=speed,
        end_to_end_tokens_per_second=speed and speed * 0.9,
        ttft_seconds=0.312,
        time_to_first_answer_seconds=2.5,
        gaps=((0.05, 60), (0.09, 3), (0.2, 1)),
        prompt_tokens=64,
        output_tokens=65,
        token_count_exact=True,
        phases=(("queue", 0.0001), ("first_token", 0.312), ("decode", 4.0), ("total", 4.4)),
    )
    state = TargetState("vllm", URL, 0.0, up=True, identity=identity)
    probe = ProbeResult("vllm", "default", result, "", 0.0, 60.0, measurements=measured, state=state)
    return replace(probe, **changes)


def report(speed: float | None, result: Result = "ok", **changes: Any) -> dict[str, Any]:
    """The report of such a probe."""
    return report_of(result_of(speed, result, **changes), URL, replace(JUDGEMENT, tier="good" if speed else None))


# Reports


def test_a_report_has_the_documented_keys() -> None:
    """Scripts rely on every key, whether or not its value was measured."""
    documented = (
        "success result error url backend backend_version model module tokens_per_second end_to_end_tokens_per_second "
        "ttft_seconds time_to_first_answer_seconds prefill_tokens_per_second inter_token_seconds phase_seconds tokens "
        "token_count_exact stream_buffered server_tokens_per_second cold_start clock_error_seconds tier scenario expected"
    ).split()
    assert set(documented) <= set(report(17.5))
    assert set(report(17.5)) == set(report(None, "connect", state=None, measurements=Measurements()))


def test_what_was_not_measured_is_null_or_absent() -> None:
    """A failed probe has no figures: nothing is 0, and the kinds of tokens and the phases are empty."""
    failed = report(None, "connect", state=None, measurements=Measurements(), error="refused")
    assert (failed["success"], failed["result"], failed["error"]) == (False, "connect", "refused")
    assert failed["tokens"] == {}
    assert failed["phase_seconds"] == {}
    assert [
        failed[key] for key in ("backend", "model", "tokens_per_second", "ttft_seconds", "inter_token_seconds", "tier")
    ] == [None] * 6


def test_a_quantization_that_the_server_does_not_tell() -> None:
    """It is that of the model's file or of the launch settings, where these were read."""
    told = result_of(6.4, state=TargetState("vllm", URL, 0.0, up=True, identity=Identity("vllm", "0.32.0", "14b")))
    assert report_of(told, URL, JUDGEMENT)["quantization"] is None
    known = report_of(told, URL, JUDGEMENT, TargetInfo(URL, quantization="BF16"))
    assert known["quantization"] == "BF16"
    assert server_text(known) == "vLLM 0.32.0, 14b (BF16)"


def test_a_strangers_text_cant_command_a_terminal() -> None:
    """Escape sequences and line breaks in what a server says are left out, and figures are finite or null."""
    hostile = "\x1b[2Jname\r\nforged"
    identity = Identity("vllm", hostile, hostile, hostile)
    state = TargetState("vllm", URL, 0.0, up=True, identity=identity, error=hostile)
    measured = Measurements(server_tokens_per_second=math.inf, ttft_seconds=math.nan)
    shown = report(None, "server_error", state=state, error=hostile, measurements=measured, model=hostile)
    assert [shown[key] for key in ("error", "model", "backend_version", "quantization")] == ["[2Jnameforged"] * 4
    assert (shown["server_tokens_per_second"], shown["ttft_seconds"]) == (None, None)
    assert server_text({"backend": "vllm", "model": hostile}).isprintable()


def test_percentiles_count_tokens_not_chunks() -> None:
    """A gap before a chunk of four tokens weighs four times."""
    assert report(17.5)["inter_token_seconds"] == {"p50": 0.05, "p99": 0.2}
    assert percentile([(0.1, 1), (0.2, 4)], 0.5) == 0.2
    assert percentile([(0.1, 4), (0.2, 1)], 0.5) == 0.1


@given(st.lists(st.tuples(st.floats(0.001, 9), st.integers(1, 9)), min_size=1, max_size=9), st.floats(0.01, 1))
def test_a_percentile_is_the_one_of_the_values_written_out(gaps: list[tuple[float, int]], share: float) -> None:
    """Weighted as if each token had its own value."""
    values = sorted(value for value, weight in gaps for _ in range(weight))
    assert percentile(gaps, share) == values[max(math.ceil(share * len(values)), 1) - 1]


def test_several_runs_give_medians_and_their_spread() -> None:
    """The odd run out doesn't move the figures, and all runs stay readable."""
    runs = [report(speed) for speed in (17.0, 30.0, 17.5)]
    both = combined(runs, BOUNDS)
    assert both["tokens_per_second"] == 17.5
    assert both["spread"]["tokens_per_second"] == {"min": 17.0, "max": 30.0}
    assert both["tokens"] == {"prompt": 64, "output": 65}
    assert isinstance(both["tokens"]["prompt"], int)
    assert both["inter_token_seconds"] == {"p50": 0.05, "p99": 0.2}
    assert (both["tier"], both["success"]) == ("good", True)
    assert both["runs"] == runs


def test_one_failed_run_makes_the_whole_fail_but_keeps_the_figures() -> None:
    """The medians are of the runs that were fine, the reason is that of the one that was not."""
    both = combined([report(17.0), report(None, "truncated", error="cut off"), report(18.0)], BOUNDS)
    assert (both["success"], both["result"], both["error"]) == (False, "truncated", "cut off")
    assert both["tokens_per_second"] == 17.5


def test_runs_without_a_speed_have_no_tier() -> None:
    """Three bursts are three measurements of nothing."""
    both = combined([report(None)] * 3, BOUNDS)
    assert (both["tokens_per_second"], both["tier"]) == (None, None)
    assert "tokens_per_second" not in both["spread"]


# Words


def test_a_report_in_rows() -> None:
    """What a person sees of a good probe."""
    assert server_text(report(17.5)) == "vLLM 0.32.0, Qwen2.5-14B-Instruct (awq)"
    assert rows_of(report(17.5)) == [
        ("answer", "fine"),
        ("speed", "17.5 tok/s"),
        ("tier", "good"),
        ("expected", "12–20 tok/s for vllm-fp16-aiter: within"),
        ("time to first token", "312 ms"),
        ("time to first answer", "2.5 s"),
        ("between tokens", "p50 50 ms, p99 200 ms"),
        ("end to end", "15.8 tok/s"),
        ("tokens", "64 prompt, 65 output"),
        ("phases", "queue 100 µs, first token 312 ms, decode 4 s, total 4.4 s"),
    ]


def test_medians_in_rows_show_their_spread() -> None:
    """A median without its spread would look surer than it is."""
    rows = dict(rows_of(combined([report(speed) for speed in (17.0, 17.5, 19.0)], BOUNDS)))
    assert rows["speed"] == "17.5 tok/s  (17.0 tok/s to 19.0 tok/s)"
    assert rows["time to first token"] == "312 ms"


def test_several_streams_show_both_speeds() -> None:
    """The speed of one user and that of all together are different figures."""
    measured = Measurements(tokens_per_second=9.0, aggregate_tokens_per_second=33.0)
    rows = dict(rows_of(report(9.0, concurrency=4, measurements=measured)))
    assert rows["speed"] == "9.0 tok/s for each stream"
    assert rows["speed of 4 streams"] == "33.0 tok/s"


def test_a_failed_probe_has_no_rows_of_figures() -> None:
    """Nothing was measured, so nothing is shown; nothing is known of the server either."""
    failed = report(None, "connect", state=None, measurements=Measurements(phases=(("queue", 0.00001),)))
    assert rows_of(failed) == [("expected", "12–20 tok/s for vllm-fp16-aiter")]
    assert server_text(failed) == ""


@pytest.mark.parametrize(
    ("speed", "low", "high", "text"),
    [
        (11.9, 12.0, 20.0, "12–20 tok/s for s: below it"),
        (12.0, 12.0, 20.0, "12–20 tok/s for s: within"),
        (20.0, 12.0, 20.0, "12–20 tok/s for s: within"),
        (20.1, 12.0, 20.0, "12–20 tok/s for s: above it"),
        (5.0, 12.0, None, "at least 12 tok/s for s: below it"),
        (5.0, None, 20.0, "at most 20 tok/s for s: within"),
        (None, 12.0, 20.0, "12–20 tok/s for s"),
        (5.0, None, None, None),
    ],
)
def test_the_band_of_a_scenario_as_text(
    speed: float | None, low: float | None, high: float | None, text: str | None
) -> None:
    """Both ends belong to the band, and either may be open."""
    assert expected_text({"scenario": "s", "expected": {"min": low, "max": high}, "tokens_per_second": speed}) == text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cold_start": True}, "load"),
        ({"measurements": Measurements(stream_buffered=True)}, "burst"),
        ({"measurements": Measurements(output_tokens=3)}, "too few tokens"),
    ],
)
def test_a_good_probe_without_a_speed_says_why(changes: dict[str, Any], words: str) -> None:
    """A person who asked for a speed learns why there is none."""
    assert words in (why_no_speed(report(None, **changes)) or "")
    assert why_no_speed(report(17.0)) is None


def test_tiers_below_a_wanted_one() -> None:
    """The wanted tier itself is good enough; no tier is not."""
    assert [below(tier, "good") for tier in ("excellent", "good", "acceptable", "poor", None)] == [
        False,
        False,
        True,
        True,
        True,
    ]
