"""Comparisons at the edges of noise and of the success criteria, of what differs between the sides, and as rows."""

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.comparison import (
    REACHED,
    ComparisonSide,
    Noise,
    compare,
    comparison_rows,
    side_of,
    side_of_history,
    verdict_of,
)
from exporter.history.change import Difference
from exporter.history.compare import Side
from exporter.history.sample import Sample
from exporter.report import Report
from exporter.settings import load_profiles

PROFILES = load_profiles(None)
CRITERIA = PROFILES.success_criteria
BOUNDS = PROFILES.tiers
APART = Noise(beyond=True, min=None, max=None, why="")


def saved(speed: float) -> Report:
    """What `probe --json` has saved of a made-up vLLM, as far as a comparison reads it."""
    facts = {"backend": "vllm", "backend_version": "0.32.0", "model": "Qwen2.5-14B-Instruct", "quantization": "awq"}
    return {"tokens_per_second": speed, "module": "default", **facts}


def side(*speeds: float) -> ComparisonSide:
    """A side with these runs."""
    return side_of(
        "x", {"tokens_per_second": median(speeds), "runs": [{"tokens_per_second": speed} for speed in speeds]}, BOUNDS
    )


@pytest.mark.parametrize(
    ("speed", "ratio", "verdict"),
    [
        (11.99, 1.9, "below"),
        (12.0, 1.875, "minimum"),
        (14.99, 2.0, "minimum"),
        (15.0, 2.34, "good"),
        (18.0, 2.8, "good"),
        (19.99, 2.99, "good"),
        (20.0, 2.99, "excellent"),
        (4.0, 1.99, "below"),
        (4.0, 2.0, "minimum"),
        (4.0, 2.49, "minimum"),
        (4.0, 2.5, "good"),
        (4.0, 2.99, "good"),
        (4.0, 3.0, "excellent"),
        (50.0, 0.99, "slower"),
        (50.0, 1.01, "excellent"),
    ],
)
def test_verdicts_at_the_edges_of_the_success_criteria(speed: float, ratio: float, verdict: str) -> None:
    """12, 15 and 20 tok/s and 2, 2.5 and 3 times belong to the better verdict; speed or ratio is enough."""
    assert verdict_of(speed, ratio, APART, CRITERIA) == verdict


def test_the_faqs_own_change_is_a_success() -> None:
    """From the 6.4 tok/s that were seen to 12, the FAQ's minimum, though that is a little less than twice."""
    before = side(6.4, 6.41, 6.39, 6.4)
    assert compare(before, side(12.0, 12.01, 12.02, 11.99), CRITERIA).verdict == "minimum"
    assert compare(before, side(19.2, 19.21, 19.19, 19.2), CRITERIA).verdict == "excellent"


def test_a_fast_server_that_did_not_change_is_no_success() -> None:
    """Where the difference is noise, no speed makes the change a success."""
    judged = compare(side(30, 31, 32, 33), side(31, 32, 33, 34), CRITERIA)
    assert (judged.verdict, judged.noise.beyond) == ("no_change", False)


@pytest.mark.parametrize("runs", [1, 2])
def test_too_few_runs_are_no_success(runs: int) -> None:
    """Fewer than three of each say nothing about how they vary, however far they are apart."""
    judged = compare(side(*[6.4] * runs), side(*[25.0] * 5), CRITERIA)
    assert (judged.verdict, judged.noise.beyond) == ("too_few", None)
    assert judged.verdict not in REACHED
    assert "--count 3" in judged.noise.why
    assert judged.ratio == pytest.approx(25 / 6.4)


@pytest.mark.parametrize(("count", "beyond"), [(3, True), (5, True), (8, True)])
def test_three_runs_that_all_agree_can_tell(count: int, *, beyond: bool) -> None:
    """By the test of the ledger, which is stricter the fewer there are."""
    one, other = [6 + n / 50 for n in range(count)], [9 + n / 50 for n in range(count)]
    judged = compare(side(*one), side(*other), CRITERIA)
    assert judged.noise.beyond is beyond
    assert judged.noise.min is not None
    assert judged.noise.max is not None
    assert judged.noise.min < judged.ratio < judged.noise.max


@given(st.lists(st.floats(1, 100), min_size=1, max_size=6), st.lists(st.floats(1, 100), min_size=1, max_size=6))
def test_a_comparison_turned_round_says_the_opposite(one: list[float], other: list[float]) -> None:
    """The ratio is inverted, and never are both a success; how alike successive runs are is read from the baseline."""
    there, back = compare(side(*one), side(*other), CRITERIA), compare(side(*other), side(*one), CRITERIA)
    assert there.ratio * back.ratio == pytest.approx(1)
    assert (there.verdict == "too_few") == (back.verdict == "too_few")
    assert not {there.verdict, back.verdict} <= {*REACHED, "below"}
    for judged in (there, back):
        assert (judged.verdict == "slower") <= (judged.ratio < 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tokens_per_second": None, "error": "refused"}, "has no speed to compare: refused"),
        ({"tokens_per_second": None, "stream_buffered": True}, "has no speed to compare: the text came in one burst"),
        ({"tokens_per_second": 0}, "has no speed to compare"),
        ({"tokens_per_second": True}, "has no speed to compare"),
        ({"tokens_per_second": float("nan")}, "has no speed to compare"),
        ({"tokens_per_second": "12"}, "has no speed to compare"),
        (
            {
                "tokens_per_second": 40,
                "runs": [{"tokens_per_second": 40}, {"result": "degenerate", "error": "it repeats"}],
            },
            "answers that are nonsense, so its speed means nothing: it repeats",
        ),
        ({"tokens_per_second": 12, "runs": "many"}, "has runs that are not a list of probes"),
        ({"tokens_per_second": 12, "runs": [12]}, "has runs that are not a list of probes"),
    ],
)
def test_a_report_that_cant_be_compared_says_why(content: dict[str, object], message: str) -> None:
    """A file may hold anything."""
    with pytest.raises(ValueError, match=message):
        side_of("file", content, BOUNDS)


def test_a_comparison_of_different_models_says_so() -> None:
    """A ratio of two models is not the effect of a change; other facts are named and forbid nothing."""
    one = side_of("a", saved(10.0), BOUNDS)
    other = side_of("b", {**saved(20.0), "model": "another", "backend_version": "9"}, BOUNDS)
    judged = compare(one, other, CRITERIA)
    assert judged.unequal == (Difference("model", "Qwen2.5-14B-Instruct", "another"),)
    assert [each.fact for each in judged.differences] == ["model", "backend version"]
    module = side_of("c", {**saved(10.0), "module": "prefill"}, BOUNDS)
    assert [each.fact for each in compare(one, module, CRITERIA).unequal] == ["module"]


def test_a_time_of_the_past_is_a_side() -> None:
    """Its speed is the median of the probes of then, its facts are those of then, its notes are told."""
    samples = tuple(Sample(float(n), 12.0 + n / 100, 0.4) for n in range(5))
    facts = {"model": "qwen", "image": "A"}
    past = side_of_history(
        Side("vllm@2d", "vllm", "default", facts, samples, hourly=True, notes=("it changed",)), BOUNDS
    )
    assert (past.tokens_per_second, past.model, past.module) == (12.02, "qwen", "default")
    assert [note.partition(":")[0] for note in past.notes] == ["vllm@2d", "vllm@2d"]
    now = side_of_history(Side("vllm@1h", "vllm", "default", facts | {"image": "B"}, samples), BOUNDS)
    judged = compare(past, now, CRITERIA)
    assert judged.differences == (Difference("image", "A", "B"),)
    assert judged.unequal == ()
    assert judged.ttft_ratio == pytest.approx(1.0)
    assert ("image differs", "A and B") in comparison_rows(judged)


def test_a_comparison_in_rows() -> None:
    """Speed, tier and name of each side, the ratio, how sure it is, and the verdict."""
    judged = compare(side(6.4, 6.45, 6.5, 6.55, 6.6), side(16.0, 16.1, 16.2, 16.3, 16.4), CRITERIA)
    assert judged.noise.min is not None
    assert judged.noise.max is not None
    assert comparison_rows(judged) == [
        ("baseline", "6.5 tok/s  poor  x  (median of 5 runs)"),
        ("candidate", "16.2 tok/s  good  x  (median of 5 runs)"),
        ("ratio", "2.49×"),
        ("noise", f"beyond the noise: the ratio lies between {judged.noise.min:.2f} and {judged.noise.max:.2f}"),
        ("verdict", "good: worth the change"),
    ]
