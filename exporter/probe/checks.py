"""What the streams of a probe said → the failure of a probe whose answer is none: nonsense, another request's answer, a wrong one.

A server can send nonsense at full speed, so a probe's figures count only if its text is an answer. The text is kept until it is
judged here, and then dropped: what is published of it is what repeats, in at most 40 characters. Pure.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from exporter.probe.answer import FAULTS, AnswerFault, judge_text
from exporter.probe.canary import Answer, judge_expected
from exporter.probe.client import Progress, Request
from exporter.probe.failure import ProbeFailure
from exporter.probe.marker import Markers, foreign_markers, markers_in
from exporter.probe.result import Result
from exporter.probe.timeline import TextKind, Timeline

BROKEN_OFF: Final[frozenset[Result]] = frozenset({"truncated", "server_error", "timeout_stalled", "timeout_total"})
"""Failures after some text. Some servers end a stream that repeats itself: then the text is the cause, the end is not."""
FORCED: Final = b'"ignore_eos": true'


@dataclass(frozen=True, slots=True)
class Said:
    """What one stream said, in the order in which it came; ``own`` are the markers of its prompt.

    ``forced`` says that the model was not allowed to end, ``tokens`` how many tokens the text has.
    """

    own: tuple[str, ...]
    text: tuple[tuple[TextKind, str], ...]
    forced: bool = False
    tokens: int | None = None
    finish_reason: str | None = None

    @property
    def answer(self) -> Answer:
        """The answer and the reasoning apart."""
        answer, reasoning = (
            "".join(text for each, text in self.text if each == kind) for kind in ("answer", "reasoning")
        )
        return Answer(answer, reasoning, self.finish_reason)


def said_of(prompt: str, request: Request, progress: Progress, timeline: Timeline | None) -> Said:
    """What one stream said, after its end."""
    counted = timeline.usage.output if timeline and timeline.usage else None
    return Said(
        own=markers_in(prompt),
        text=tuple(progress.said),
        forced=FORCED in request.body,
        tokens=len(progress.said) if counted is None else counted,
        finish_reason=timeline.finish_reason if timeline else None,
    )


def judge_answers(
    failure: ProbeFailure | None, said: Sequence[Said], known: Markers, expect: str | None = None
) -> ProbeFailure | None:
    """The failure of a probe: its own, or if that has none, what is wrong with its answers. None for a good probe.

    ``expect`` is a regular expression that every answer has to match; an answer whose thinking did not end isn't judged by it.
    """
    if failure is not None:
        if failure.result not in BROKEN_OFF or (found := nonsense_of(said)) is None:
            return failure
        found.message += f"; then: {failure.message}"
        return found
    return nonsense_of(said) or foreign_of(said, known) or _unexpected(said, expect)


def nonsense_of(said: Iterable[Said]) -> ProbeFailure | None:
    """The failure if one of the texts is none."""
    for each in said:
        ended = each.finish_reason == "stop" and not each.forced
        if found := judge_text((text for _, text in each.text), forced=each.forced, tokens=each.tokens, ended=ended):
            return ProbeFailure("degenerate", found.message, fault=found.fault)
    return None


def foreign_of(said: Iterable[Said], known: Markers) -> ProbeFailure | None:
    """The failure if one of the answers holds the marker of another request."""
    for each in said:
        if foreign_markers(f"{each.answer.reasoning}\n{each.answer.text}", known, each.own):
            fault: AnswerFault = "name_of_another_request"
            return ProbeFailure("foreign_answer", FAULTS[fault], fault=fault)
    return None


def _unexpected(said: Iterable[Said], expect: str | None) -> ProbeFailure | None:
    if expect is None:
        return None
    for each in said:
        # Without markers: that no other request's are in the answer is known by now.
        if (found := judge_expected(re.compile(expect), each.answer, Markers())).verdict == "wrong":
            return ProbeFailure("wrong_answer", found.reason, fault=found.fault)
    return None
