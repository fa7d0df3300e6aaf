"""Timeline → Measurements: pure formulas, ``None`` if a figure is undefined.

What tokens are counted by, best first: the server's running count in each chunk; its total for the request, shared out over the
chunks by their text; the chunks themselves. Words replace chunks that are too long for tokens. Where tokens were generated that
the stream does not show, there is no speed (``why_no_speed``). Chunks that arrived at the same instant count as one: of tokens
that came together only their sum has a time. Speed is taken from the first instant to the last, unless the time of one of them
is in doubt and that of a neighbour is not.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from statistics import median
from typing import Final

from exporter.probe.result import Measurements
from exporter.probe.timeline import Chunk, ServerTimings, Timeline, Usage

_MIN_TOKENS: Final = 8
"""This many tokens must follow the first chunk for a speed."""
_PLAUSIBLE_TOKENS: Final = 10_000_000
_LEAST, _MOST = 1e-9, 1e9
"""A server's own seconds and tokens per second are believed between these. Beyond, a quotient or a mean could be infinite."""
_TOKENS_PER_CHARACTER: Final = 4
"""A character is at most 4 bytes of UTF-8, and a token is at least one byte."""
_HIDDEN_TOKENS: Final = 32
"""This many tokens beyond that may have no text: markers of a chat format, the end of the text."""
_CHARACTERS_PER_TOKEN: Final = 16
_CHARACTERS_PER_SPLIT_TOKEN: Final = 8
"""If there are more chunks than counted tokens, a lower bound: either tokens were split up or not all were counted."""
_TOKENS_PER_WORD: Final = 2
_SPARE_TOKENS: Final = 8
"""Tokens a word: a model needs no more, so further tokens were generated without being shown."""
_BLANKS: Final = 3
"""This many chunks before the first text may be empty: the role, a character that is split over several tokens."""
_WORDS_PER_CHUNK: Final = 1.6
"""Chunks that hold more words than this in the mean are not tokens."""
_CHARACTERS_PER_WORD: Final = 8
_LEAST_CHARACTERS: Final = 2
"""Chunks that hold fewer characters in the mean are pieces of tokens, or tokens of another script; which of them can't be known."""
_INSTANT_SHARE: Final = 0.05
_INSTANT_SECONDS: Final = 0.001
"""Chunks closer to each other than this, and than this share of the mean gap, came together as far as buffering goes."""
_TOO_FEW_INSTANTS: Final = 2
_CHUNKS_PER_INSTANT: Final = 8
"""More than this in the mean are no longer explained by speculative decoding, which gives a few tokens at once."""
_NEVER_FASTER: Final = 10_000.0
"""Tokens per second that no server decodes for one request: they had been generated before."""
_HARDLY_FASTER: Final = 2_500.0
_BURST_SHARE: Final = 0.05
"""A stream at more than ``_HARDLY_FASTER`` that took less than this share of the wait before it had been generated before."""


@dataclass(frozen=True, slots=True)
class _Count:
    """Tokens up to and including each chunk, and whether the server's counts say so exactly."""

    running: tuple[float, ...]
    exact: bool


@dataclass(frozen=True, slots=True)
class _Instant:
    """Text that arrived at one instant, the tokens up to and including it, and by how much the instant may be late."""

    at_ns: int
    running: float
    late_ns: int


def measure(timeline: Timeline) -> Measurements:
    """Compute the figures of METRICS.md for one stream, from marks in ns to seconds and tokens per second.

    ``clock_error_seconds`` bounds how far the marks that TTFT and speed rest on may be off: sent, the first text, the first
    of the answer, and the last text.
    """
    chunks = timeline.chunks
    usage = _believed(timeline)
    server = timeline.server
    found = Measurements(
        prompt_tokens=usage.prompt,
        cached_tokens=usage.cached,
        reasoning_tokens=usage.reasoning,
        output_tokens=usage.output,
        server_tokens_per_second=_believable(server.decode_tokens_per_second) if server else None,
        speculative_accepted_ratio=_accepted_ratio(server),
        phases=_phases(timeline),
    )
    if not chunks or timeline.sent_ns is None:
        return found
    count = _count(timeline, usage)
    output = usage.output if usage.output is not None else round(count.running[-1])
    ttft = _seconds(timeline.sent_ns, chunks[0].at_ns)
    answer = next((chunk for chunk in chunks if chunk.kind == "answer"), None)
    answered = _seconds(timeline.sent_ns, answer.at_ns) if answer else None
    if why_no_speed(timeline):
        return replace(
            found,
            time_to_first_answer_seconds=answered,
            prefill_tokens_per_second=_prefill_speed(timeline, usage, None),
            output_tokens=output,
            token_count_exact=False,
            clock_error_seconds=_clock_error(timeline, answer),
        )
    first = None if _hides_the_first(timeline, usage) or _thinks_unseen(usage, chunks) else ttft
    instants = _instants(chunks, count)
    speed = _decode_speed(instants)
    buffered = _is_buffered(chunks, instants, speed, ttft)
    return replace(
        found,
        tokens_per_second=None if buffered else speed,
        end_to_end_tokens_per_second=_ratio(output, _seconds(timeline.sent_ns, chunks[-1].at_ns)),
        ttft_seconds=first,
        time_to_first_answer_seconds=answered,
        prefill_tokens_per_second=_prefill_speed(timeline, usage, first),
        gaps=() if buffered else _gaps(instants),
        output_tokens=output,
        token_count_exact=count.exact,
        stream_buffered=buffered,
        clock_error_seconds=_clock_error(timeline, answer),
    )


def combine(timelines: Sequence[Timeline]) -> Measurements:
    """Compute the figures of streams that ran at once.

    Speeds and times of a stream are medians over the streams, tokens are sums, and ``total`` is that of the longest. The
    aggregate speed is all output tokens over the time from the first request sent to the last text of any.
    """
    each = [measure(timeline) for timeline in timelines]
    if len(each) == 1:
        return each[0]
    sent = [timeline.sent_ns for timeline in timelines if timeline.sent_ns is not None and timeline.chunks]
    last = [timeline.chunks[-1].at_ns for timeline in timelines if timeline.sent_ns is not None and timeline.chunks]
    output = _sum([one.output_tokens for one in each])
    return Measurements(
        tokens_per_second=_median([one.tokens_per_second for one in each]),
        end_to_end_tokens_per_second=_median([one.end_to_end_tokens_per_second for one in each]),
        ttft_seconds=_median([one.ttft_seconds for one in each]),
        time_to_first_answer_seconds=_median([one.time_to_first_answer_seconds for one in each]),
        prefill_tokens_per_second=_median([one.prefill_tokens_per_second for one in each]),
        server_tokens_per_second=_median([one.server_tokens_per_second for one in each]),
        speculative_accepted_ratio=_median([one.speculative_accepted_ratio for one in each]),
        aggregate_tokens_per_second=_ratio(output, _seconds(min(sent), max(last))) if sent and output else None,
        gaps=tuple(gap for one in each for gap in one.gaps),
        prompt_tokens=_sum([one.prompt_tokens for one in each]),
        cached_tokens=_sum([one.cached_tokens for one in each]),
        reasoning_tokens=_sum([one.reasoning_tokens for one in each]),
        output_tokens=output,
        token_count_exact=_worst([one.token_count_exact for one in each], all),
        stream_buffered=_worst([one.stream_buffered for one in each], any),
        clock_error_seconds=max((e for one in each if (e := one.clock_error_seconds) is not None), default=None),
        phases=_combined_phases(each),
    )


def why_no_speed(timeline: Timeline) -> str:
    """Why a stream that was read to its end gives no speed: it does not show all that was generated. Empty if it may."""
    chunks = timeline.chunks
    if not chunks:
        return ""
    usage = _believed(timeline)
    if _counted_by_chunk(timeline, usage) is not None:
        return ""
    if _hides_the_first(timeline, usage):
        before = timeline.unread + timeline.blank
        return (
            f"no speed: {before} chunks without text that can be read came before the first text, so tokens were"
            " generated that the stream does not show"
        )
    claimed = timeline.usage.output if timeline.usage else None
    tokens = usage.output or (claimed if _is_within(claimed, timeline.max_tokens) else None)
    if tokens is None:
        return _too_short_for_tokens(chunks)
    shown, words = _visible(tokens, usage.reasoning, chunks), math.fsum(map(_words, chunks))
    if words and shown > _TOKENS_PER_WORD * words + _SPARE_TOKENS:
        return (
            f"no speed: the server counted {shown} tokens, and the stream shows {words:.0f} words: thinking that it does not"
            " show is counted"
        )
    return ""


def _too_short_for_tokens(chunks: Sequence[Chunk]) -> str:
    """Why chunks that nobody counted give no speed: a proxy that passes on single letters cuts each token into several."""
    characters = sum(chunk.characters for chunk in chunks)
    if not 0 < characters < _LEAST_CHARACTERS * len(chunks):
        return ""
    return (
        f"no speed: {len(chunks)} chunks hold {characters} characters, so they are pieces of tokens, and nothing tells how"
        " many tokens they are"
    )


def _hides_the_first(timeline: Timeline, usage: Usage) -> bool:
    """Whether tokens came before the first text that the stream shows: chunks did, and not all tokens are in those with text."""
    if not timeline.unread and timeline.blank <= _BLANKS:
        return False
    return usage.output is None or _visible(usage.output, usage.reasoning, timeline.chunks) > len(timeline.chunks) + 1


def _thinks_unseen(usage: Usage, chunks: Sequence[Chunk]) -> bool:
    """Whether the first tokens were thinking that the server counted, and of which the stream shows nothing."""
    return usage.output is not None and _visible(usage.output, usage.reasoning, chunks) < usage.output


def _is_within(tokens: int | None, most: int | None) -> bool:
    """Whether a count is known to be one that was asked for."""
    return tokens is not None and most is not None and 0 < tokens <= most


def _believed(timeline: Timeline) -> Usage:
    """Keep of a server's token counts what can be true."""
    usage, chunks, most = timeline.usage, timeline.chunks, timeline.max_tokens
    if usage is None:
        return Usage()
    prompt, cached, reasoning, output = (
        count if count is not None and 0 <= count <= _PLAUSIBLE_TOKENS else None
        for count in (usage.prompt, usage.cached, usage.reasoning, usage.output)
    )
    if output is not None and reasoning is not None and reasoning > output:
        reasoning = None
    if output is not None and most is not None and output > most:
        output = None  # it counts what it did not generate
    prompt = prompt or None
    if output is not None and chunks and not _fits(_visible(output, reasoning, chunks), chunks):
        output = None
    if cached is not None and (prompt is None or cached > prompt):
        cached = None
    return Usage(prompt=prompt, output=output, cached=cached, reasoning=reasoning)


def _visible(output: int, reasoning: int | None, chunks: Sequence[Chunk]) -> int:
    """Tokens whose text the stream showed: a server may count reasoning that it keeps to itself. Where there is a chunk for
    each token (and the end of the text), it kept nothing: the thinking stands in the answer.
    """
    shown = any(chunk.kind == "reasoning" for chunk in chunks) or 0 <= output - len(chunks) <= 1
    return output if shown or reasoning is None else output - reasoning


def _fits(tokens: float, chunks: Sequence[Chunk]) -> bool:
    """Whether that many tokens can have made the text of these chunks; any number if they show none."""
    characters = sum(chunk.characters for chunk in chunks)
    if not characters:
        return tokens >= len(chunks) - 1
    each = _CHARACTERS_PER_TOKEN if tokens >= len(chunks) else _CHARACTERS_PER_SPLIT_TOKEN
    return characters <= each * tokens and tokens <= _TOKENS_PER_CHARACTER * characters + _HIDDEN_TOKENS


def _counted_by_chunk(timeline: Timeline, usage: Usage) -> tuple[float, ...] | None:
    """The server's running count at each chunk, if it gives one that can be true."""
    chunks, most = timeline.chunks, timeline.max_tokens
    running = [float(chunk.output_tokens) for chunk in chunks if chunk.output_tokens is not None]
    if len(running) != len(chunks) or not _is_running(running, chunks):
        return None
    if (most is not None and running[-1] > most) or (usage.output is not None and usage.output < running[-1]):
        return None
    return tuple(running)


def _count(timeline: Timeline, usage: Usage) -> _Count:
    """Count the tokens up to and including each chunk."""
    chunks, finish_reason = timeline.chunks, timeline.finish_reason
    if (running := _counted_by_chunk(timeline, usage)) is not None:
        return _Count(running, exact=True)
    ones = tuple(float(n) for n in range(1, len(chunks) + 1))
    if usage.output is None:
        words, most = tuple(accumulate(map(_words, chunks))), timeline.max_tokens
        if words[-1] <= _WORDS_PER_CHUNK * len(chunks):
            return _Count(ones, exact=False)
        # Digits and marks are fewer tokens than they look; more chunks than were asked for come of a server that ignores that.
        fewer = most is not None and len(chunks) <= most < words[-1]
        return _Count(_shared_out(most, chunks) if most is not None and fewer else words, exact=False)
    tokens = _visible(usage.output, usage.reasoning, chunks)
    if finish_reason == "stop" and tokens > len(chunks):
        tokens -= 1  # the end-of-text token counts, and has no text
    if tokens == len(chunks):
        return _Count(ones, exact=True)
    return _Count(_shared_out(tokens, chunks), exact=False)


def _is_running(running: Sequence[float], chunks: Sequence[Chunk]) -> bool:
    """Whether counts that the server gave chunk by chunk can be true; tokens before the first text may be any number."""
    rises = all(0 <= a <= b for a, b in pairwise(running)) and running[0] >= 0 and running[-1] <= _PLAUSIBLE_TOKENS
    return rises and (len(chunks) == 1 or _fits(running[-1] - running[0], chunks[1:]))


def _shared_out(tokens: int, chunks: Sequence[Chunk]) -> tuple[float, ...]:
    """Share a total out over chunks by their text, or evenly if both the total and the first text are about so."""
    characters = list(accumulate(chunk.characters or 1 for chunk in chunks))
    by_text = tuple(tokens * upto / characters[-1] for upto in characters)
    even = -(-tokens // len(chunks))
    if even > 1 and even * (len(chunks) - 1) < tokens and even / 2 < by_text[0] < even * 1.5:
        return tuple(float(min(even * n, tokens)) for n in range(1, len(chunks) + 1))
    return by_text


def _words(chunk: Chunk) -> float:
    """How many words, digits and marks a chunk holds, or about that many by its length; 0 for one without text."""
    return chunk.words if chunk.words is not None else float(-(-chunk.characters // _CHARACTERS_PER_WORD))


def _instants(chunks: Sequence[Chunk], count: _Count) -> list[_Instant]:
    found: list[_Instant] = []
    for chunk, running in zip(chunks, count.running, strict=True):
        if found and chunk.at_ns <= found[-1].at_ns:
            found.pop()
        found.append(_Instant(chunk.at_ns, running, chunk.late_ns))
    return found


def _decode_speed(instants: Sequence[_Instant]) -> float | None:
    if instants[-1].running - instants[0].running < _MIN_TOKENS:
        return None
    first, last = min(_spans(instants), key=_doubt)
    return _ratio(last.running - first.running, _seconds(first.at_ns, last.at_ns))


def _spans(instants: Sequence[_Instant]) -> Iterator[tuple[_Instant, _Instant]]:
    """From the first instant to the last, and where the time of one is in doubt, from others of its half that are surer."""
    yield instants[0], instants[-1]
    middle = (instants[0].running + instants[-1].running) / 2
    for first in _surer(instant for instant in instants if instant.running <= middle):
        for last in _surer(instant for instant in reversed(instants) if instant.running >= middle):
            if last.running - first.running >= _MIN_TOKENS:
                yield first, last


def _surer(instants: Iterable[_Instant]) -> Iterator[_Instant]:
    late = None
    for instant in instants:
        if late is None or instant.late_ns < late:
            yield instant
            late = instant.late_ns


def _doubt(span: tuple[_Instant, _Instant]) -> float:
    """By what share of it a span may be wrong."""
    first, last = span
    return (first.late_ns + last.late_ns) / max(last.at_ns - first.at_ns, 1)


def _gaps(instants: Sequence[_Instant]) -> tuple[tuple[float, int], ...]:
    """Seconds per token and tokens, from instant to instant; an instant that brought no whole token joins the next."""
    gaps = []
    since = instants[0]
    for instant in instants[1:]:
        tokens = round(instant.running) - round(since.running)
        if tokens > 0:
            gaps.append((_seconds(since.at_ns, instant.at_ns) / tokens, tokens))
            since = instant
    return tuple(gaps)


def _is_buffered(
    chunks: Sequence[Chunk], instants: Sequence[_Instant], speed: float | None, ttft: float
) -> bool | None:
    """Whether the text came in too few instants, or too fast, to have been sent as it was generated.

    ``None`` if there were too few tokens to tell. Few instants mean nothing by themselves when each chunk holds many
    tokens (a server may send every 16th); many chunks at each instant do.
    """
    if instants[-1].running <= _MIN_TOKENS:
        return None
    span = _seconds(chunks[0].at_ns, chunks[-1].at_ns)
    apart = min(_INSTANT_SHARE * span / max(1, len(chunks) - 1), _INSTANT_SECONDS)
    distinct = 1 + sum(_seconds(a.at_ns, b.at_ns) > apart for a, b in pairwise(chunks))
    if distinct <= _TOO_FEW_INSTANTS or len(chunks) > _CHUNKS_PER_INSTANT * distinct:
        return True
    if speed is None:
        return False
    return speed > _NEVER_FASTER or (speed > _HARDLY_FASTER and span < _BURST_SHARE * ttft)


def _accepted_ratio(server: ServerTimings | None) -> float | None:
    """The share of the drafted tokens that the model accepted."""
    if server is None or not server.drafted_tokens or server.accepted_tokens is None:
        return None
    return server.accepted_tokens / server.drafted_tokens if server.accepted_tokens <= server.drafted_tokens else None


def _prefill_speed(timeline: Timeline, usage: Usage, ttft: float | None) -> float | None:
    server = timeline.server
    if server and _believable(server.prefill_tokens_per_second):
        return server.prefill_tokens_per_second
    if usage.prompt is None:
        return None
    uncached = usage.prompt - (usage.cached or 0)
    own = _believable(server.prefill_seconds) if server else None
    seconds = own or ttft
    return _ratio(uncached, seconds) if uncached > 0 and seconds else None


def _clock_error(timeline: Timeline, answer: Chunk | None) -> float | None:
    if timeline.clock_error_ns is None:
        return None
    rests_on = [timeline.chunks[0], timeline.chunks[-1], *([answer] if answer else [])]
    return (timeline.clock_error_ns + max(chunk.late_ns for chunk in rests_on)) / 1e9


def _phases(timeline: Timeline) -> tuple[tuple[str, float], ...]:
    first, last = (timeline.chunks[0].at_ns, timeline.chunks[-1].at_ns) if timeline.chunks else (None, None)
    spans = (
        ("resolve", timeline.started_ns, timeline.resolved_ns),
        ("connect", timeline.resolved_ns, timeline.connected_ns),
        ("tls", timeline.connected_ns, timeline.secured_ns),
        ("first_token", timeline.sent_ns, first),
        ("decode", first, last),
        ("total", timeline.started_ns, timeline.end_ns),
    )
    return tuple((name, _seconds(a, b)) for name, a, b in spans if a is not None and b is not None)


def _combined_phases(each: Sequence[Measurements]) -> tuple[tuple[str, float], ...]:
    found: dict[str, list[float]] = {}
    for one in each:
        for name, seconds in one.phases:
            found.setdefault(name, []).append(seconds)
    return tuple((name, max(all_) if name == "total" else median(all_)) for name, all_ in found.items())


def _seconds(start_ns: int, end_ns: int) -> float:
    return (end_ns - start_ns) / 1e9


def _ratio(amount: float, seconds: float) -> float | None:
    return amount / seconds if seconds > 0 else None


def _believable(figure: float | None) -> float | None:
    """Seconds, or tokens per second, that a server claims, if they can be true."""
    return figure if figure is not None and _LEAST < figure < _MOST else None


def _median(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return median(known) if known else None


def _sum(figures: Sequence[int | None]) -> int | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) if known else None


def _worst(figures: Sequence[bool | None], judge: Callable[[Iterable[bool]], bool]) -> bool | None:
    known = [figure for figure in figures if figure is not None]
    return judge(known) if known else None
