"""The canary: a model that recalls what it is told is right, one with a fault is wrong, and where nothing can be told nothing is."""

import re
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.probe.answer import AnswerJudgement, AnswerVerdict
from exporter.probe.canary import (
    DEFAULT_DEPTH,
    LEAST_DEPTH,
    Answer,
    Canary,
    after_thinking,
    compose_canary,
    judge_deep,
    judge_expected,
    judge_short,
)
from exporter.probe.marker import Markers, foreign_markers, marker_of, remember
from exporter.probe.prompt import compose, estimate
from tests.probe.faults import FAULTS, Fault, FaultyServer

SEEDS = st.integers(0, 2**64 - 1)
MICRO_BATCH: Final = 512
CANARY: Final = compose_canary(1)
RIGHT: Final = " ".join(CANARY.short.fact)
KNOWN: Final = remember(Markers(), CANARY.words)


def judge_answers(server: FaultyServer, canary: Canary, known: Markers) -> dict[str, AnswerJudgement]:
    """Ask both questions, the deep one where the short one was answered right."""
    short = server.answer(canary.short.prompt)
    found = {"short": judge_short(canary.short, short, known)}
    if found["short"].verdict == "right":
        found["deep"] = judge_deep(canary.deep, server.answer(canary.deep.prompt), short, known)
    return found


@settings(deadline=None)
@given(seed=SEEDS, depth=st.integers(0, 6000))
def test_the_questions_are_as_long_as_asked_for(seed: int, depth: int) -> None:
    """The short one is under 100 tokens even at six for its name, the deep one beyond the micro-batch and as deep as asked."""
    canary = compose_canary(seed, depth)
    assert estimate(canary.short.prompt) < 60
    assert MICRO_BATCH < max(depth, LEAST_DEPTH) - 1 <= estimate(canary.deep.prompt) <= max(depth, LEAST_DEPTH) + 30


@settings(deadline=None)
@given(seed=SEEDS)
def test_a_fact_stands_once_and_before_everything_else(seed: int) -> None:
    """Each question has a fact of its own, at its beginning; the notes do not name it, and the prompt ends with the question."""
    canary = compose_canary(seed)
    assert not set(canary.short.fact) & set(canary.deep.fact)
    assert canary.short.marker != canary.deep.marker
    for each in (canary.short, canary.deep):
        assert each.prompt.startswith(f"{each.marker} keeps a {' '.join(each.fact)} in the cellar.")
        assert each.prompt.endswith(
            f"What does {each.marker} keep in the cellar? Answer with one whole sentence that begins with {each.marker}."
        )
        assert all(len(re.findall(rf"\b{word}\b", each.prompt)) == 1 for word in each.fact)


def test_the_same_seed_asks_the_same() -> None:
    """And another seed something else."""
    assert compose_canary(7) == compose_canary(7)
    assert compose_canary(7).deep.prompt[:60] != compose_canary(8).deep.prompt[:60]


def test_no_fact_is_named_by_a_probe() -> None:
    """The words of the facts are in no prompt of a probe, so that no story about one is taken for an answer."""
    words = {word for seed in range(300) for word in compose(300, seed).lower().split()}
    facts = {
        word
        for seed in range(300)
        for each in (compose_canary(seed).short, compose_canary(seed).deep)
        for word in each.fact
    }
    assert not words & facts


@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: each.name)
def test_each_fault_is_found_by_the_reading_that_is_said_to_find_it(fault: Fault) -> None:
    """Asked beyond the depth at which it begins, a server with the fault is wrong, degenerate or foreign; a healthy one right."""
    canary = compose_canary(11, max(DEFAULT_DEPTH, fault.begins + 100))
    known = remember(Markers(), canary.words)
    healthy = judge_answers(FaultyServer(), canary, known)
    assert {each.verdict for each in healthy.values()} == {"right"}
    found = judge_answers(FaultyServer(fault), canary, known)
    alarms: set[AnswerVerdict] = {each.verdict for each in found.values()} - {"right", "undecided"}
    assert bool(alarms) == ("canary" in fault.detectors), found


@pytest.mark.parametrize("fault", [each for each in FAULTS if "foreign" in each.detectors], ids=lambda each: each.name)
def test_an_answer_to_another_request_is_foreign(fault: Fault) -> None:
    """The server answers with what another request of ours got: a probe's story, or another canary's fact."""
    server, known = FaultyServer(fault), Markers()
    for seed in (1, 2):
        known = remember(known, [marker_of(seed)])
    prompts = [f"{marker_of(seed)}, {compose(1300, seed)}" for seed in (1, 2)]
    server.answer(prompts[0])
    assert foreign_markers(server.answer(prompts[1]).text, known, [marker_of(2)]) == (marker_of(1).lower(),)

    canary, other = compose_canary(3), compose_canary(4)
    known = remember(known, [*canary.words, *other.words])
    said = Answer(f"It is a {' '.join(other.deep.fact)}.", finish_reason="stop")
    assert judge_deep(canary.deep, said, Answer(RIGHT, finish_reason="stop"), known).verdict == "foreign"


@pytest.mark.parametrize(
    ("answer", "short", "deep"),
    [
        (Answer(RIGHT, finish_reason="stop"), "right", "right"),
        (Answer(f"**{RIGHT.upper()}**", finish_reason="length"), "right", "right"),
        (Answer("I do not know.", finish_reason="stop"), "undecided", "wrong"),
        (Answer(f"A {CANARY.short.fact[0]} something.", finish_reason="stop"), "undecided", "wrong"),
        (Answer("I do not know, and I go on and on", finish_reason="length"), "undecided", "wrong"),
        (Answer("<think>She keeps", finish_reason="length"), "undecided", "undecided"),
        (Answer(f"<think>It is a {RIGHT}", finish_reason="length"), "undecided", "undecided"),
        (Answer("", f"It is a {RIGHT}", "length"), "undecided", "undecided"),
        (Answer("\n\n", "Hmm.", "stop"), "undecided", "undecided"),
        (Answer(f"<think>A red door?</think>\n\n{RIGHT}", finish_reason="stop"), "right", "right"),
        (Answer(f"<think>It is a {RIGHT}</think>I can't say.", finish_reason="stop"), "undecided", "wrong"),
        (Answer(f"So, it is…</think>{RIGHT}", finish_reason="stop"), "right", "right"),
        (Answer(f"<|channel|>analysis<|message|>x<|end|><|channel|>final<|message|>{RIGHT}"), "right", "right"),
        (Answer("<|channel|>analysis<|message|>We need to", finish_reason="length"), "undecided", "undecided"),
        (Answer("!" * 64, finish_reason="length"), "degenerate", "degenerate"),
        (Answer("", "G" * 200, "length"), "degenerate", "degenerate"),
        (Answer(RIGHT + "/" * 500, finish_reason="length"), "degenerate", "degenerate"),
        (Answer(f"Why, {marker_of(99)} keeps a {RIGHT}.", finish_reason="stop"), "foreign", "foreign"),
    ],
)
def test_an_answer_is_judged_by_what_follows_the_thinking(
    answer: Answer, short: AnswerVerdict, deep: AnswerVerdict
) -> None:
    """Right where both words are in the answer; short without them is undecided, deep is wrong; thinking is not the answer."""
    known = remember(KNOWN, [marker_of(99)])
    before = Answer(RIGHT, finish_reason="stop")
    assert judge_short(CANARY.short, answer, known).verdict == short
    assert judge_deep(CANARY.short, answer, before, known).verdict == deep


def test_a_model_that_thinks_aloud_without_a_tag_is_not_called_wrong() -> None:
    """Where even the short answer was cut off, a deep one that was cut off too may have come to it later."""
    aloud = Answer("Okay, the user wants to know what is kept.", finish_reason="length")
    cut_short = Answer(f"Okay, the text says {RIGHT}, so", finish_reason="length")
    assert judge_deep(CANARY.short, aloud, cut_short, KNOWN).verdict == "undecided"
    assert judge_deep(CANARY.short, aloud, Answer(RIGHT, finish_reason="stop"), KNOWN).verdict == "wrong"


def test_a_verdict_that_is_an_alarm_has_a_reason_without_the_answers_text() -> None:
    """What a server said may be another user's; only what repeats is named."""
    said = Answer("The contract of Smith ends in May.", finish_reason="stop")
    found = judge_deep(CANARY.deep, said, Answer(RIGHT, finish_reason="stop"), KNOWN)
    assert found.verdict == "wrong"
    assert "Smith" not in found.reason
    assert found.reason


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer("The capital is Paris.", finish_reason="stop"), "right"),
        (Answer("The capital is Rome.", finish_reason="stop"), "wrong"),
        (Answer("<think>Paris, surely", finish_reason="length"), "undecided"),
        (Answer("<think>Rome?</think>Paris", finish_reason="stop"), "right"),
        (Answer("/" * 60), "degenerate"),
        (Answer(f"{marker_of(1)} says Paris"), "foreign"),
    ],
)
def test_a_users_pattern_is_looked_for_in_the_answer(answer: Answer, expected: AnswerVerdict) -> None:
    """Anywhere in the answer, after the thinking; nonsense and other requests' words come first."""
    known = remember(Markers(), [marker_of(1)])
    assert judge_expected(re.compile(r"\bparis\b", re.IGNORECASE), answer, known).verdict == expected


@given(
    text=st.text(max_size=200), reasoning=st.text(max_size=50), finish=st.sampled_from([None, "stop", "length", "x"])
)
def test_any_answer_gets_a_verdict(text: str, reasoning: str, finish: str | None) -> None:
    """No text raises; without the fact it is never right, and short never wrong."""
    answer = Answer(text, reasoning, finish)
    assert judge_short(CANARY.short, answer, KNOWN).verdict in {"degenerate", "undecided"}
    assert judge_deep(CANARY.deep, answer, answer, KNOWN).verdict in {"degenerate", "undecided", "wrong"}
    after_thinking(answer)
