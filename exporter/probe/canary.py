"""Whether a model still recalls what its prompt said: a fact at its start, asked for at its end, and the verdict.

The same kind of fact is asked for twice: in a short prompt, and in a deep one with harmless notes between the fact and the
question. The model is judged against itself: what it recalls in the short prompt it must recall in the deep one. Where it does
not even recall the short one, or its budget ended while it was thinking, there is no verdict. ``judge_expected`` judges by the
pattern of a user's module instead. Pure: the same seed gives the same prompts.

    canary = compose_canary(seed, depth)
    markers = remember(markers, canary.words)      # before anything is sent
    short = judge_short(canary.short, answer, markers)
    if short.verdict == "right":                   # else the deep one says nothing
        deep = judge_deep(canary.deep, answer, short_answer, markers)
"""

import random
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from exporter.probe.answer import FAULTS, AnswerFault, AnswerJudgement, AnswerVerdict, judge_text, printable
from exporter.probe.marker import Markers, foreign_markers, is_known, marker_of
from exporter.probe.prompt import estimate

DEFAULT_DEPTH: Final = 2048
LEAST_DEPTH: Final = 600
"""Tokens of a deep prompt at least: more than the micro-batch of 512 that llama.cpp computes at once."""

# What is kept in the cellar: one token for each word in nearly every vocabulary, none of them in the notes or in a probe's prompt.
_KINDS: Final = (
    "purple copper striped marble velvet wooden yellow frozen ceramic crooked polished square rusty tiny wicker granite"
).split()
_THINGS: Final = (
    "lantern teapot violin helmet compass anchor saddle trumpet blanket hammer puppet telescope ladder drum piano statue"
    " umbrella bicycle necklace sword globe barrel kite crown shovel carriage balloon tractor"
).split()
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_NOTES: Final = (
    "On {day} the wind came from the {side} and the road stayed {state}.",
    "The post arrived at {hour} o'clock on {day}, and nobody was in a hurry.",
    "At {hour} o'clock the {side} side of the field was {state}, as it often is.",
    "Nothing much happened on {day}; the bread was good and the evening was {state}.",
    "A bus with {hour} passengers stopped near the {side} gate on {day}.",
    "The neighbours talked for a while on {day} about the {state} weather.",
    "By {hour} o'clock on {day} the clouds had moved to the {side}.",
)
_SIDES: Final = ("north", "south", "east", "west")
_STATES: Final = ("dry", "wet", "calm", "cold", "warm", "bright", "quiet")
_HOURS: Final = ("seven", "eight", "nine", "ten", "eleven", "twelve")

# Openings of thinking, and its ends. Some templates put the opening into the prompt, so that only the end is in the answer.
_TAG: Final = r"(?:[a-z]{0,8}:)?(?:think|thinking|thought|thoughts|reasoning)"
_THINKING: Final = re.compile(
    rf"<{_TAG}>|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|channel\|>(?:analysis|commentary)|<\|channel>thought",
    re.IGNORECASE,
)
_THOUGHT: Final = re.compile(
    rf"</{_TAG}>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<\|channel\|>final(?:<\|message\|>)?|<channel\|>", re.IGNORECASE
)
# Of an answer, so much is searched for what was asked.
_JUDGED_CHARACTERS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, the name that it is about, and the two words that answer it."""

    prompt: str
    marker: str
    fact: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Canary:
    """The short question and the deep one; each has a fact of its own."""

    short: Question
    deep: Question

    @property
    def words(self) -> tuple[str, ...]:
        """The words of both to remember, so that they are recognised if they come back in another answer."""
        return tuple(word for each in (self.short, self.deep) for word in (each.marker, " ".join(each.fact)))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said: the answer, the reasoning that the server sent apart from it, and why it ended."""

    text: str
    reasoning: str = ""
    finish_reason: str | None = None


def compose_canary(seed: int, depth: int = DEFAULT_DEPTH) -> Canary:
    """The two questions. The deep prompt has about ``depth`` tokens by ``estimate``, ``LEAST_DEPTH`` at least."""
    draw = random.Random(f"canary {seed}")
    kinds, things = draw.sample(_KINDS, 2), draw.sample(_THINGS, 2)
    short = _question(marker_of(2 * seed), (kinds[0], things[0]), "")
    bare = _question(marker_of(2 * seed + 1), (kinds[1], things[1]), "")
    notes = _notes(draw, max(depth, LEAST_DEPTH) - estimate(bare.prompt))
    return Canary(short, _question(bare.marker, bare.fact, notes))


def judge_short(question: Question, answer: Answer, known: Markers) -> AnswerJudgement:
    """Right; degenerate; foreign; or undecided, if the fact is not recalled: then the model can't be judged by it."""
    return _judge_nonsense(question, answer, known) or _judge_recall(question, answer, or_else="undecided")


def judge_deep(question: Question, answer: Answer, short: Answer, known: Markers) -> AnswerJudgement:
    """Right; wrong; degenerate; foreign; or undecided. For a model that answered the short question right with ``short``."""
    if found := _judge_nonsense(question, answer, known):
        return found
    if answer.finish_reason == short.finish_reason == "length":
        # It thinks aloud without any tag: even the short answer did not come to its end.
        return _judge_recall(question, answer, or_else="undecided")
    return _judge_recall(question, answer, or_else="wrong")


def judge_expected(pattern: re.Pattern[str], answer: Answer, known: Markers) -> AnswerJudgement:
    """By the pattern that a user's module expects somewhere in the answer, after the thinking."""
    if found := _judge_nonsense(None, answer, known):
        return found
    said = after_thinking(answer)
    if said is None:
        return AnswerJudgement("undecided", "the budget ended within the thinking")
    if pattern.search(said[:_JUDGED_CHARACTERS]):
        return AnswerJudgement("right")
    why = f"the answer does not match the pattern {printable(pattern.pattern)!r}"
    return AnswerJudgement("wrong", why, "pattern_not_matched")


def after_thinking(answer: Answer) -> str | None:
    """What was said after the thinking; None if the budget ended within it, or nothing followed it."""
    said, thought = answer.text, bool(answer.reasoning.strip())
    if ends := list(_THOUGHT.finditer(said)):
        said, thought = said[ends[-1].end() :], True
    if _THINKING.search(said) or (thought and not said.strip()):
        return None
    return said


def _judge_nonsense(question: Question | None, answer: Answer, known: Markers) -> AnswerJudgement | None:
    ended = answer.finish_reason == "stop"
    if nonsense := judge_text([answer.reasoning]) or judge_text([answer.text], ended=ended):
        return AnswerJudgement("degenerate", nonsense.message, nonsense.fault)
    own = (question.marker,) if question else ()
    if foreign_markers(answer.reasoning + "\n" + answer.text, known, own):
        return _judgement("foreign", "name_of_another_request")
    said = after_thinking(answer)
    if question and said and not _has(said, question.fact):
        others = (fact for fact in _facts_in(said) if fact != question.fact)
        if any(is_known(known, " ".join(fact)) for fact in others):
            return _judgement("foreign", "fact_of_another_request")
    return None


def _judgement(verdict: AnswerVerdict, fault: AnswerFault) -> AnswerJudgement:
    return AnswerJudgement(verdict, FAULTS[fault], fault)


def _judge_recall(question: Question, answer: Answer, *, or_else: Literal["wrong", "undecided"]) -> AnswerJudgement:
    said = after_thinking(answer)
    if said is None:
        return AnswerJudgement("undecided", "the budget ended within the thinking")
    if _has(said, question.fact):
        return AnswerJudgement("right")
    if or_else == "wrong":
        return _judgement("wrong", "fact_not_recalled")
    return AnswerJudgement("undecided", "the model does not answer the question of the canary")


def _has(text: str, fact: tuple[str, str]) -> bool:
    """Whether both words of the fact are in a text."""
    words = set(re.findall(r"\w+", text[:_JUDGED_CHARACTERS].casefold()))
    return all(word in words or f"{word}s" in words for word in fact)


def _facts_in(text: str) -> list[tuple[str, str]]:
    """The facts that a text names: a kind and right after it a thing."""
    words = re.findall(r"\w+", text[:_JUDGED_CHARACTERS].casefold())
    return [(one, two) for one, two in pairwise(words) if one in _KINDS and two in _THINGS]


def _question(marker: str, fact: tuple[str, str], notes: str) -> Question:
    told = f"{marker} keeps a {' '.join(fact)} in the cellar. Remember that."
    between = f" Here are some notes.\n\n{notes}\n\nThat was the last note." if notes else ""
    asked = f"What does {marker} keep in the cellar? Answer with one whole sentence that begins with {marker}."
    return Question(f"{told}{between} {asked}", marker, fact)


def _notes(draw: random.Random, tokens: int) -> str:
    """Harmless notes of about so many tokens, none like the one before."""
    notes: list[str] = []
    left = tokens - estimate("Here are some notes. That was the last note.")
    while left > 0:
        note = draw.choice(_NOTES).format(
            day=draw.choice(_DAYS), side=draw.choice(_SIDES), state=draw.choice(_STATES), hour=draw.choice(_HOURS)
        )
        notes.append(note)
        left -= estimate(note)
    return " ".join(notes)
