"""The formulas: what is measured equals what a script of chunks, tokens and pauses says, and what can't be known is absent."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from math import inf
from statistics import median

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.probe.measure import combine, measure
from exporter.probe.result import Measurements
from exporter.probe.timeline import Chunk, ServerTimings, TextKind, Timeline, Usage

MS = 1_000_000
SENT = 5_000 * MS
Script = list[tuple[int, int, TextKind]]
"""Chunks: the pause before it in ns, its tokens, what they are."""
KINDS: st.SearchStrategy[TextKind] = st.sampled_from(["answer", "reasoning"])
SCRIPTS = st.lists(st.tuples(st.integers(5 * MS, 2_000 * MS), st.integers(1, 8), KINDS), min_size=1, max_size=40)


def play(script: Script, *, running: bool = False, letters: Sequence[int] = (5,)) -> Timeline:
    """A timeline as the client would note it, with a true usage; token ``i`` is ``letters[i]`` long, over and over."""
    at = list(accumulate((pause for pause, _, _ in script), initial=SENT))[1:]
    counts = list(accumulate(tokens for _, tokens, _ in script))
    chunks, token = [], 0
    for (_, tokens, kind), at_ns, count in zip(script, at, counts, strict=True):
        length = sum(letters[(token + i) % len(letters)] for i in range(tokens))
        token += tokens
        chunks.append(Chunk(at_ns, kind, length, count if running else None))
    return Timeline(
        started_ns=SENT - 3 * MS,
        resolved_ns=SENT - 3 * MS,
        connected_ns=SENT - MS,
        sent_ns=SENT,
        headers_ns=SENT + MS,
        chunks=tuple(chunks),
        end_ns=at[-1] + MS,
        finish_reason="length",
        usage=Usage(prompt=30, output=counts[-1]),
        clock_error_ns=1000,
    )


def steady(chunks: int, *, tokens: int = 1, gap_ms: float = 20, first_ms: float = 100) -> Script:
    """A script at one pace."""
    return [(round((gap_ms if n else first_ms) * MS), tokens, "answer") for n in range(chunks)]


@given(script=SCRIPTS)
def test_what_is_measured_is_what_the_script_says(script: Script) -> None:
    """With the server's running counts, every figure is exactly that of the script, for any pauses and chunk sizes."""
    found = measure(play(script, running=True))
    pauses, tokens, kinds = zip(*script, strict=True)
    after, decode = sum(tokens[1:]), sum(pauses[1:]) / 1e9
    answer = kinds.index("answer") if "answer" in kinds else None
    assert found.ttft_seconds == pytest.approx(pauses[0] / 1e9)
    assert found.time_to_first_answer_seconds == (
        None if answer is None else pytest.approx(sum(pauses[: answer + 1]) / 1e9)
    )
    assert found.output_tokens == sum(tokens)
    assert found.end_to_end_tokens_per_second == pytest.approx(sum(tokens) / (sum(pauses) / 1e9))
    assert found.token_count_exact is True
    if after >= 8 and len(script) > 2:
        assert found.tokens_per_second == pytest.approx(after / decode)
        assert found.stream_buffered is False
        assert [many for _, many in found.gaps] == list(tokens[1:])
        assert [gap * many for gap, many in found.gaps] == pytest.approx([pause / 1e9 for pause in pauses[1:]])
    else:
        assert found.tokens_per_second is None


@given(
    script=SCRIPTS,
    each=st.integers(1, 2),  # of one word a chunk: more tokens don't fit its text, and give no speed
    letters=st.lists(st.integers(3, 7), min_size=1, max_size=9),
)
def test_equal_chunks_are_counted_right_by_the_final_usage(script: Script, each: int, letters: list[int]) -> None:
    """Where all chunks hold equally many tokens, usage alone gives the same figures, whatever the words' lengths."""
    even: Script = [(pause, each, kind) for pause, _, kind in script]
    by_usage = measure(play(even, letters=letters))
    by_count = measure(play(even, running=True, letters=letters))
    assert by_usage == replace(by_count, token_count_exact=each == 1)


@given(script=SCRIPTS, shift=st.integers(-SENT, 10**15), running=st.booleans())
def test_shifted_marks_change_nothing(script: Script, shift: int, *, running: bool) -> None:
    """Only differences count: the same marks at another time of the clock give the same figures."""
    timeline = play(script, running=running)
    assert measure(scaled(timeline, 1, shift)) == measure(timeline)


@given(script=SCRIPTS, factor=st.integers(2, 50), running=st.booleans())
def test_scaled_marks_scale(script: Script, factor: int, *, running: bool) -> None:
    """Everything so many times slower gives times so many times longer and speeds so many times smaller."""
    timeline = play(script, running=running)
    one, other = measure(timeline), measure(scaled(timeline, factor, 0))
    for name in ("tokens_per_second", "end_to_end_tokens_per_second", "prefill_tokens_per_second"):
        assert times(getattr(other, name), factor) == approx(getattr(one, name))
    for name in ("ttft_seconds", "time_to_first_answer_seconds"):
        assert getattr(other, name) == approx(times(getattr(one, name), factor))
    assert [gap for gap, _ in other.gaps] == pytest.approx([gap * factor for gap, _ in one.gaps])
    assert dict(other.phases) == pytest.approx({name: seconds * factor for name, seconds in one.phases})


def scaled(timeline: Timeline, factor: int, shift: int) -> Timeline:
    """The same timeline, every mark of it moved."""
    marks = ("started_ns", "resolved_ns", "connected_ns", "sent_ns", "headers_ns", "end_ns")
    moved = {name: getattr(timeline, name) * factor + shift for name in marks}
    chunks = tuple(replace(chunk, at_ns=chunk.at_ns * factor + shift) for chunk in timeline.chunks)
    return replace(timeline, chunks=chunks, **moved)


def times(figure: float | None, factor: float) -> float | None:
    """Multiply what is known."""
    return None if figure is None else figure * factor


def approx(figure: float | None) -> object:
    """Compare with rounding, or with nothing."""
    return None if figure is None else pytest.approx(figure)


@given(
    script=SCRIPTS,
    late=st.lists(st.integers(0, 5 * MS), min_size=40, max_size=40),
    sent_late=st.integers(0, MS),
)
def test_the_error_bar_is_never_smaller_than_the_error(script: Script, late: list[int], sent_late: int) -> None:
    """Marks that are late by anything up to what they admit move TTFT and the decoding time by no more than the bar."""
    true = play(script, running=True)
    assert true.sent_ns is not None
    seen, at_ns = [], 0
    for chunk, late_ns in zip(true.chunks, late, strict=False):
        at_ns = max(at_ns, chunk.at_ns + late_ns)
        seen.append(replace(chunk, at_ns=at_ns, late_ns=at_ns - chunk.at_ns))
    marked = replace(true, chunks=tuple(seen), sent_ns=true.sent_ns - sent_late, clock_error_ns=sent_late)
    found, right = measure(marked), measure(true)
    assert found.clock_error_seconds is not None
    assert found.ttft_seconds is not None
    assert right.ttft_seconds is not None
    bar = found.clock_error_seconds + 1e-12
    assert abs(found.ttft_seconds - right.ttft_seconds) <= bar
    assert abs(dict(found.phases)["decode"] - dict(right.phases)["decode"]) <= bar


@given(
    reads=st.lists(st.integers(1, 5), min_size=12, max_size=30),
    end_ms=st.integers(0, 15),
)
def test_a_steady_pace_is_measured_right_where_its_end_was_read_late(reads: list[int], end_ms: int) -> None:
    """Chunks that were read together have the time of the last; the last read went on with what came after the text."""
    true = play(steady(sum(reads)), running=True)
    chunks, since = list[Chunk](), SENT
    for upto in accumulate(reads):
        together = true.chunks[len(chunks) : upto]
        last = upto == len(true.chunks)
        at_ns = together[-1].at_ns + end_ms * MS * last
        lates = [at_ns - since] * len(together) if last else [at_ns - since] * (len(together) - 1) + [0]
        chunks += [replace(chunk, at_ns=at_ns, late_ns=late_ns) for chunk, late_ns in zip(together, lates, strict=True)]
        since = at_ns
    found = measure(replace(true, chunks=tuple(chunks)))
    assert found.stream_buffered is False
    assert found.tokens_per_second == pytest.approx(50)
    assert found.clock_error_seconds is not None
    assert found.clock_error_seconds >= end_ms / 1000


def test_marks_that_are_all_late_give_the_speed_of_the_whole() -> None:
    """Where no chunk is surer than another, the first and the last count."""
    true = play(steady(30), running=True)
    found = measure(replace(true, chunks=tuple(replace(chunk, late_ns=20 * MS) for chunk in true.chunks)))
    assert found.tokens_per_second == measure(true).tokens_per_second


@given(
    scripts=st.lists(SCRIPTS, min_size=2, max_size=4),
    garbage=st.builds(Usage, *[st.none() | st.integers(-(10**12), 10**12)] * 4),
    server=st.builds(ServerTimings, *[st.none() | st.floats()] * 4),
)
@example([[(5_000_000, 1, "answer")]] * 2, Usage(), ServerTimings(prefill_tokens_per_second=9e307))
@example([[(5_000_000, 1, "answer")]] * 2, Usage(prompt=64), ServerTimings(prefill_seconds=5e-324))
def test_no_usage_and_no_timings_make_the_formulas_raise_or_lie(
    scripts: list[Script], garbage: Usage, server: ServerTimings
) -> None:
    """Whatever a server counts or claims, figures are positive and finite or absent, alone and combined."""
    timelines = [replace(play(script), usage=garbage, server=server) for script in scripts]
    for found in (measure(timelines[0]), combine(timelines)):
        for name in Measurements.__slots__:
            value = getattr(found, name)
            if isinstance(value, (int, float)):
                assert 0 <= value < inf, name
        assert all(0 < gap < inf and tokens > 0 for gap, tokens in found.gaps)


@pytest.mark.parametrize(
    ("usage", "tokens", "exact"),
    [
        (Usage(output=20), 20, True),
        (None, 20, False),
        (Usage(output=-1), 20, False),
        (Usage(output=0), 20, False),
        (Usage(output=5), 20, False),
        (Usage(output=100_000), 20, False),
        (Usage(output=10**15), 20, False),
        (Usage(output=520, reasoning=500), 520, True),
    ],
)
def test_a_usage_that_contradicts_the_text_is_ignored(usage: Usage | None, tokens: int, *, exact: bool) -> None:
    """Counts that 20 chunks of one word each can't have made are not believed; hidden reasoning is left out of the speed."""
    found = measure(replace(play(steady(20)), usage=usage))
    assert (found.output_tokens, found.token_count_exact) == (tokens, exact)
    assert found.tokens_per_second == pytest.approx(50)


def test_prompt_counts_that_can_not_be_true_are_absent() -> None:
    """A negative prompt, more cached than prompt tokens, more reasoning than output: none of them is exported."""
    usage = Usage(prompt=-3, output=20, cached=5, reasoning=21)
    found = measure(replace(play(steady(20)), usage=usage))
    assert (found.prompt_tokens, found.cached_tokens, found.reasoning_tokens) == (None, None, None)
    assert found.prefill_tokens_per_second is None


def test_the_end_of_text_token_is_not_counted_into_the_speed() -> None:
    """It is in the usage and has no chunk: 20 words and a stop are 21 tokens, of which 19 followed the first word."""
    found = measure(replace(play(steady(20)), usage=Usage(output=21), finish_reason="stop"))
    assert (found.output_tokens, found.token_count_exact) == (21, True)
    assert found.tokens_per_second == pytest.approx(50)


def test_running_counts_may_run_ahead_of_the_text() -> None:
    """Tokens before the first text, and halves of a character, count where the server counts them."""
    timeline = play(steady(10, gap_ms=100))
    counts = [7, 8, 9, 12, 13, 14, 15, 16, 17, 18]
    chunks = tuple(replace(c, output_tokens=n) for c, n in zip(timeline.chunks, counts, strict=True))
    found = measure(replace(timeline, chunks=chunks, usage=Usage(output=19), finish_reason="stop"))
    assert found.tokens_per_second == pytest.approx(11 / 0.9)
    assert (found.output_tokens, found.token_count_exact) == (19, True)


def test_running_counts_that_fall_are_ignored() -> None:
    """Then the usage counts."""
    timeline = play(steady(20))
    chunks = tuple(replace(c, output_tokens=20 - n) for n, c in enumerate(timeline.chunks))
    assert measure(replace(timeline, chunks=chunks)) == measure(timeline)


def test_chunks_that_arrived_together_count_as_one() -> None:
    """Of three that share an instant at the start only their sum has a time: 17 tokens followed, in 17 gaps."""
    script: Script = [(100 * MS, 1, "answer"), (0, 1, "answer"), (0, 1, "answer"), *steady(17, first_ms=20)]
    found = measure(play(script))
    assert found.tokens_per_second == pytest.approx(50)
    assert [tokens for _, tokens in found.gaps] == [1] * 17
    assert [gap for gap, _ in found.gaps] == pytest.approx([0.02] * 17)


@pytest.mark.parametrize(
    ("script", "buffered"),
    [
        pytest.param(steady(64), False, id="50 tokens/s"),
        pytest.param(steady(64, gap_ms=0.5, first_ms=20), False, id="a tiny model at 2000 tokens/s"),
        pytest.param(steady(16, tokens=4, gap_ms=80), False, id="4 tokens a chunk"),
        pytest.param(steady(4, tokens=16, gap_ms=320), False, id="16 tokens a chunk"),
        pytest.param(
            [(p, 1, k) for p, _, k in steady(16, gap_ms=80) for p in (p, 20_000, 20_000, 20_000)],
            False,
            id="speculative decoding, 4 tokens accepted at a time",
        ),
        pytest.param([*steady(30), (60_000 * MS, 1, "answer"), *steady(30, first_ms=20)], False, id="a long pause"),
        pytest.param(steady(16, gap_ms=9, first_ms=7000), False, id="fast after a long prompt"),
        pytest.param([(1280 * MS, 64, "answer")], True, id="all in one chunk"),
        pytest.param([(20 * MS, 1, "answer"), (1280 * MS, 63, "answer")], True, id="the first token, then the rest"),
        pytest.param(steady(64, gap_ms=0, first_ms=1280), True, id="all in one read"),
        pytest.param(steady(64, gap_ms=0.02, first_ms=1280), True, id="generated whole, then sent piece by piece"),
        pytest.param(steady(64, gap_ms=0.2, first_ms=1280), True, id="the same, slowly"),
        pytest.param(
            [(p, 1, k) for p, _, k in steady(5, gap_ms=260) for p in (p, *[10_000] * 12)],
            True,
            id="a proxy that fills buffers of 4 KiB",
        ),
        pytest.param(steady(4, gap_ms=0), None, id="too short to tell"),
    ],
)
def test_a_burst_gives_no_speed(script: Script, *, buffered: bool | None) -> None:
    """Text that came in too few instants, or too fast, is told from fast models, big chunks and long pauses."""
    found = measure(play(script))
    assert found.stream_buffered is buffered
    assert (found.tokens_per_second is None) == (buffered is not False)
    assert found.ttft_seconds == pytest.approx(script[0][0] / 1e9)


def test_without_enough_tokens_there_is_no_speed() -> None:
    """8 tokens after the first chunk are enough, 7 are not; TTFT is there all the same."""
    assert measure(play(steady(9))).tokens_per_second == pytest.approx(50)
    short = measure(play(steady(8)))
    assert short.tokens_per_second is None
    assert short.ttft_seconds == pytest.approx(0.1)


def test_prefill_is_the_servers_own_where_it_gives_one() -> None:
    """The server's speed, else the uncached tokens over its prefill time, else over TTFT."""
    usage = Usage(prompt=30, output=20, cached=10)
    timeline = replace(play(steady(20)), usage=usage)
    by_time = replace(timeline, server=ServerTimings(prefill_seconds=0.05))
    by_speed = replace(timeline, server=ServerTimings(prefill_seconds=0.05, prefill_tokens_per_second=321.0))
    found = [measure(one).prefill_tokens_per_second for one in (timeline, by_time, by_speed)]
    assert found == pytest.approx([200, 400, 321])


def test_phases_are_those_that_happened() -> None:
    """In the order of METRICS.md, without TLS on a plain connection, and only the first of them when nothing came back."""
    whole = play(steady(20))
    assert [name for name, _ in measure(whole).phases] == ["resolve", "connect", "first_token", "decode", "total"]
    silent = replace(whole, chunks=(), usage=None)
    assert dict(measure(silent).phases) == pytest.approx({"resolve": 0, "connect": 0.002, "total": 0.484})
    assert measure(silent) == Measurements(phases=measure(silent).phases)


@given(scripts=st.lists(SCRIPTS, min_size=2, max_size=5))
def test_streams_that_ran_at_once_are_combined(scripts: list[Script]) -> None:
    """The aggregate is all tokens over the time in which they ran; of the rest, medians and sums."""
    timelines = [play(script, running=True) for script in scripts]
    each, found = [measure(one) for one in timelines], combine(timelines)
    tokens = sum(tokens for script in scripts for _, tokens, _ in script)
    ran = max(sum(pause for pause, _, _ in script) for script in scripts) / 1e9
    speeds = [one.tokens_per_second for one in each if one.tokens_per_second is not None]
    assert found.output_tokens == tokens
    assert found.aggregate_tokens_per_second == pytest.approx(tokens / ran)
    assert found.tokens_per_second == (pytest.approx(median(speeds)) if speeds else None)
    assert found.ttft_seconds == pytest.approx(median(script[0][0] for script in scripts) / 1e9)
    assert len(found.gaps) == sum(len(one.gaps) for one in each)


def test_one_stream_combined_is_that_stream() -> None:
    """And has no aggregate of its own."""
    timeline = play(steady(20))
    assert combine([timeline]) == measure(timeline)


@given(script=SCRIPTS, letters=st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_tokens_shared_out_over_chunks_add_up(script: Script, letters: list[int]) -> None:
    """By usage alone, the gaps' tokens and those of the first chunk are all there are, and none is negative."""
    found = measure(play(script, letters=letters))
    total = sum(tokens for _, tokens, _ in script)
    assert found.output_tokens in {total, len(script)}
    if found.gaps:
        assert 0 <= found.output_tokens - sum(tokens for _, tokens in found.gaps) <= total
        assert min(tokens for _, tokens in found.gaps) > 0
