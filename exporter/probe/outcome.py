"""How a probe went: its streams, what came before users did, what it cost, and what is left of one that failed. Pure."""

from dataclasses import dataclass, replace

from exporter.probe.failure import ProbeFailure
from exporter.probe.politeness import LEAST_DECODE_SECONDS, LEAST_TOKENS
from exporter.probe.result import Measurements
from exporter.probe.timeline import Timeline, Usage


@dataclass(frozen=True, slots=True)
class Stream:
    """How one stream of a probe went: its marks, its failure if it failed, and about how many tokens its prompt has."""

    timeline: Timeline | None
    failure: ProbeFailure | None
    prompt_estimate: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a probe went: its streams, the failure that decides if there is one, and how long it ran.

    ``spent`` are the prompt and output tokens of each stream. ``cut`` says that it ended for users, and that of its streams
    only what came before them is left.
    """

    streams: tuple[Stream, ...] = ()
    failure: ProbeFailure | None = None
    busy_seconds: float = 0.0
    spent: tuple[tuple[int, int], ...] = ()
    cut: bool = False

    @property
    def timelines(self) -> tuple[Timeline, ...]:
        """The marks of all streams that have some."""
        return tuple(each.timeline for each in self.streams if each.timeline is not None)


def hidden_wait(marks: Timeline) -> float:
    """Seconds from sending to the first token that the server did not work on the prompt, by its own time for that."""
    worked = marks.server.prefill_seconds if marks.server else None
    if worked is None or marks.sent_ns is None or not marks.chunks:
        return 0.0
    return (marks.chunks[0].at_ns - marks.sent_ns) / 1e9 - worked


def undisturbed(stream: Stream, until_ns: int) -> Stream:
    """A stream that was given up for a user, as a measurement of what came before; still given up if that is too little."""
    marks = stream.timeline
    chunks = tuple(each for each in marks.chunks if each.at_ns <= until_ns) if marks else ()
    if marks is None or not chunks:
        return stream
    tokens = chunks[-1].output_tokens or len(chunks)
    if tokens < LEAST_TOKENS or chunks[-1].at_ns - chunks[0].at_ns < LEAST_DECODE_SECONDS * 1e9:
        return stream
    return Stream(replace(marks, chunks=chunks, usage=None, server=None), None, stream.prompt_estimate)


def spent_by(stream: Stream) -> tuple[int, int]:
    """What one stream cost the server, prompt and output tokens: by its own count, else estimated.

    A failed one cost something if the server could have worked: the request was sent, and it was not refused. Then the
    prompt counts whole (it goes on after a client has left), and of the output what arrived.
    """
    marks, failure = stream.timeline, stream.failure
    if marks is None or marks.sent_ns is None or (failure and failure.status is not None and failure.status >= 400):
        return 0, 0
    usage = marks.usage or Usage()
    counted = max((each.output_tokens for each in marks.chunks if each.output_tokens is not None), default=None)
    prompt = usage.prompt if usage.prompt is not None else round(stream.prompt_estimate)
    output = next((each for each in (usage.output, counted) if each is not None), len(marks.chunks))
    return prompt, output


def course_of(stream: Stream) -> str:
    """The marks of a stream in words, milliseconds from its start."""
    marks = stream.timeline
    if marks is None:
        return stream.failure.message if stream.failure else "nothing"
    first, last = (marks.chunks[0].at_ns, marks.chunks[-1].at_ns) if marks.chunks else (None, None)
    steps = {
        "connected": marks.connected_ns,
        "TLS": marks.secured_ns,
        "sent": marks.sent_ns,
        "headers": marks.headers_ns,
        "first text": first,
        "last text": last,
        "end": marks.end_ns,
    }
    times = [f"{name} {(at - marks.started_ns) / 1e6:.1f} ms" for name, at in steps.items() if at is not None]
    said = f"{len(marks.chunks)} chunks of text, finish_reason {marks.finish_reason}"
    return ", ".join([*times, said])


def without_speed(measured: Measurements) -> Measurements:
    """What is left of a probe that failed or had to wait for a load: its phases, and the tokens that were counted."""
    return Measurements(
        prompt_tokens=measured.prompt_tokens,
        cached_tokens=measured.cached_tokens,
        reasoning_tokens=measured.reasoning_tokens,
        output_tokens=measured.output_tokens,
        token_count_exact=measured.token_count_exact,
        phases=measured.phases,
    )
