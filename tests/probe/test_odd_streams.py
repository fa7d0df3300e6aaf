"""Streams in shapes that servers and gateways really send: no wrong number comes of any, and what can't be known is said."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from exporter.probe.client import Deadlines, Request, stream, words_in
from exporter.probe.dialects import DIALECTS
from exporter.probe.dialects.texts import Texts, texts_of
from exporter.probe.failure import ProbeFailure
from exporter.probe.http.encoding import decoded
from exporter.probe.http.transport import Connection
from exporter.probe.measure import measure, why_no_speed
from exporter.probe.result import Measurements
from exporter.probe.stream import Event
from exporter.probe.timeline import Chunk, Timeline, Usage
from tests.servers.captured import STREAMS
from tests.servers.exact import ExactServer, ScriptedAnswer, event, head, streamed

DEADLINES = Deadlines(connect=5, first_token=5, stalled=5, total=10)
GAP = 0.004
DONE = event("[DONE]")


def events_of(name: str) -> list[bytes]:
    """The events of a made-up stream."""
    body = (STREAMS / "odd" / f"{name}.txt").read_bytes()
    return [each + b"\n\n" for each in body.split(b"\n\n") if each.strip()]


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    """One chunk of a chat."""
    return event({"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more})


def used(output: int, prompt: int = 20) -> dict[str, Any]:
    """A usage to put into a chunk."""
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": output}}


def final(output: int, finish: str = "length") -> list[bytes]:
    """The end of a stream: finish, usage, [DONE]."""
    return [chunk({}, finish), event({"choices": [], **used(output)}), DONE]


def words(count: int, **more: Any) -> list[bytes]:
    """So many chunks of a word each."""
    return [chunk({"content": " word"}, **more) for _ in range(count)]


def paced(events: list[bytes]) -> ScriptedAnswer:
    """A stream of these events, one after the other."""
    return streamed([(0.02 + GAP * number, each) for number, each in enumerate(events)])


def follow(answer: ScriptedAnswer, *, backend: str = "openai", max_tokens: int | None = 64) -> Timeline:
    """What the client sees of an answer, over a real socket, with its chunks set at one pace: when a busy machine reads them is
    no part of these tests.
    """
    with ExactServer({"/chat": answer}) as server:
        request = Request("/chat", b"{}", max_tokens=max_tokens)
        timeline = stream(Connection(server.url), request, DIALECTS[backend].read, DEADLINES)
    assert timeline.sent_ns is not None
    first = timeline.sent_ns + 50_000_000
    even = (first + number * 20_000_000 for number in range(len(timeline.chunks)))
    return replace(
        timeline,
        chunks=tuple(replace(each, at_ns=at, late_ns=0) for each, at in zip(timeline.chunks, even, strict=True)),
    )


def pace(timeline: Timeline, tokens: float = 1) -> object:
    """The speed by the marks themselves, where each chunk has so many tokens (or its words, for 0)."""
    first, last = timeline.chunks[0].at_ns, timeline.chunks[-1].at_ns
    after = sum(tokens or each.words or 0 for each in timeline.chunks if each.at_ns > first)
    return pytest.approx(after * 1e9 / (last - first))


def measured(name: str, **how: Any) -> tuple[Timeline, Measurements]:
    """The marks and the figures of a made-up stream."""
    timeline = follow(paced(events_of(name)), **how)
    return timeline, measure(timeline)


# Text in other shapes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["content-as-parts", "thinking-field"])
def test_thinking_in_other_shapes_is_text(name: str) -> None:
    """Parts of a list and fields of other names are read: 6 tokens, the TTFT at the first of the thinking."""
    timeline, found = measured(name)
    assert [each.kind for each in timeline.chunks] == ["reasoning"] * 2 + ["answer"] * 4
    assert (found.output_tokens, found.token_count_exact, why_no_speed(timeline)) == (6, True, "")
    assert found.ttft_seconds is not None
    assert found.time_to_first_answer_seconds is not None
    assert found.time_to_first_answer_seconds > found.ttft_seconds


@pytest.mark.parametrize(
    ("delta", "texts"),
    [
        ({"content": "a"}, Texts("a")),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, Texts("ab")),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}]}, Texts("", "t")),
        ({"content": {"type": "output_text", "text": "a"}}, Texts("a")),
        ({"content": ["a", "b"]}, Texts("ab")),
        ({"reasoning_content": "t"}, Texts("", "t")),
        ({"reasoning": {"content": "t"}}, Texts("", "t")),
        ({"thinking": "t"}, Texts("", "t")),
        ({"thinking_content": "t"}, Texts("", "t")),
        ({"reasoning_text": "t"}, Texts("", "t")),
        ({"reasoning": "t", "reasoning_details": [{"type": "reasoning.text", "text": "t"}]}, Texts("", "t")),
        ({"reasoning_details": [{"type": "reasoning.summary", "summary": "t"}]}, Texts("", "t")),
        ({"thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "x"}]}, Texts("", "t")),
        ({"refusal": "no"}, Texts("no")),
        ({"role": "assistant", "content": ""}, Texts()),
        ({"role": "assistant", "content": None, "annotations": []}, Texts()),
        ({"content": "", "reasoning_details": [{"type": "reasoning.encrypted", "data": "eA=="}]}, Texts(unread=True)),
        ({"inner_monologue": "t"}, Texts(unread=True)),
        ({"tool_calls": [{"function": {"arguments": "{"}}]}, Texts(unread=True)),
        ({"content": [[[[[[[["deep"]]]]]]]]}, Texts(unread=True)),
    ],
)
def test_what_a_delta_says(delta: dict[str, Any], texts: Texts) -> None:
    """Each known form of answer and thinking is read once; something else is noticed, and nothing is not."""
    assert texts_of(delta) == texts


def test_thinking_that_is_counted_and_not_shown_gives_no_speed() -> None:
    """64 tokens counted, 4 words shown: no speed and no TTFT, and the reason is said."""
    timeline, found = measured("thinking-not-shown")
    assert "the server counted 64 tokens, and the stream shows 4 words" in why_no_speed(timeline)
    assert (found.tokens_per_second, found.end_to_end_tokens_per_second, found.ttft_seconds) == (None, None, None)
    assert (found.gaps, found.token_count_exact, found.output_tokens) == ((), False, 64)


def test_a_third_shown_gives_no_speed_either() -> None:
    """Of 64 tokens 23 are shown: a speed by the count would be nearly three times the true one."""
    timeline = follow(paced([*words(23), *final(64)]))
    assert "no speed" in why_no_speed(timeline)
    assert measure(timeline).tokens_per_second is None


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([chunk({"inner_monologue": "hm"})], id="a form that is not known"),
        pytest.param([chunk({"content": ""})] * 12, id="without the text"),
    ],
)
@pytest.mark.parametrize("counted", [True, False])
def test_chunks_that_can_not_be_read_before_the_text_give_no_speed(before: list[bytes], *, counted: bool) -> None:
    """What came before the first text may have been tokens, counted or not."""
    shown = words(20)
    end = final(20 + len(before) * 2) if counted else [chunk({}, "length"), DONE]
    timeline = follow(paced([chunk({"role": "assistant", "content": ""}), *before, *shown, *end]))
    assert "chunks without text that can be read came before the first text" in why_no_speed(timeline)
    found = measure(timeline)
    assert (found.tokens_per_second, found.ttft_seconds) == (None, None)


def test_empty_chunks_that_were_no_tokens_do_no_harm() -> None:
    """Where the server counted just the chunks with text, the empty ones before them were signs of life."""
    timeline = follow(paced([*[chunk({"content": ""})] * 12, *words(20), *final(20)]))
    assert why_no_speed(timeline) == ""
    assert (measure(timeline).token_count_exact, measure(timeline).tokens_per_second is not None) == (True, True)


def test_running_counts_are_right_whatever_is_hidden() -> None:
    """A server that counts in each chunk tells how many tokens came between the first text and the last."""
    hidden = [chunk({"content": ""}, **used(n)) for n in range(1, 41)]
    shown = [chunk({"content": " word"}, **used(40 + n)) for n in range(1, 21)]
    timeline = follow(paced([*hidden, *shown, *final(60)]))
    found = measure(timeline)
    assert found.tokens_per_second == pace(timeline)
    assert (found.output_tokens, found.token_count_exact, found.ttft_seconds) == (60, True, None)


# Counts --------------------------------------------------------------------------------------------------------------


def test_a_count_above_what_was_asked_for_is_not_believed() -> None:
    """text-generation-webui counts a token that it did not generate; of a prompt it says 0, which is no count."""
    timeline, found = measured("count-above-max-tokens", max_tokens=4)
    assert (found.output_tokens, found.prompt_tokens, timeline.chunks[-1].words) == (4, None, 1)
    longer = follow(paced([*words(20), *final(22)]), max_tokens=20)
    more = measure(longer)
    assert (more.output_tokens, more.token_count_exact) == (20, False)
    assert more.tokens_per_second == pace(longer)
    stopped = measure(follow(paced([*words(20), *final(40, "stop")]), max_tokens=32))
    assert (stopped.output_tokens, stopped.token_count_exact) == (20, False)


def test_chunks_too_long_for_tokens_are_counted_by_their_text() -> None:
    """Without a usage, 4 chunks of 16 words are about 16 tokens; that is an estimate, and says so."""
    timeline, found = measured("several-tokens-no-usage")
    assert [each.words for each in timeline.chunks] == [5, 4, 4, 3]
    assert (found.output_tokens, found.token_count_exact) == (16, False)
    assert found.tokens_per_second == pace(timeline, 0)


def test_an_estimate_above_what_was_asked_for_is_not_believed() -> None:
    """Digits look like a token each; where nobody counted, no more than was asked for is taken for tokens."""
    timeline = follow(paced([*[chunk({"content": " 2026-11"})] * 12, chunk({}, "length"), DONE]), max_tokens=24)
    found = measure(timeline)
    assert sum(each.words or 0 for each in timeline.chunks) == 84
    assert (found.output_tokens, found.token_count_exact) == (24, False)
    assert found.tokens_per_second == pace(timeline, 2)


def test_single_letters_that_nobody_counted_give_no_speed() -> None:
    """A proxy that passes the text on letter by letter: its chunks are no tokens. With a count they are shared out."""
    letters = [chunk({"content": each}) for each in "the sea is calm tonight and the moon lies fair"]
    timeline = follow(paced([*letters, chunk({}, "stop"), DONE]))
    assert "are pieces of tokens" in why_no_speed(timeline)
    assert measure(timeline).tokens_per_second is None
    counted = follow(paced([*letters, *final(10)]))
    assert why_no_speed(counted) == ""
    assert measure(counted).output_tokens == 10
    assert measure(counted).tokens_per_second == pace(counted, 10 / len(letters))


def test_a_usage_inside_the_choice_is_read() -> None:
    """Moonshot's API has it there, beside the finish."""
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length", **used(16)}]}
    found = measure(follow(paced([*words(16), event(end), DONE])))
    assert (found.output_tokens, found.prompt_tokens, found.token_count_exact) == (16, 20, True)


@pytest.mark.parametrize(
    ("text", "count"),
    [(" word", 1), ("\n\n", 1), ("two words.", 3), ("2026", 4), ("naïve", 1), ("\U0001f469", 2), ("漢字仮名", 4)],
)
def test_words_of_a_text(text: str, count: int) -> None:
    """Words, marks and digits one by one; other scripts by their bytes."""
    assert words_in(text) == count


def test_litellms_usage_comes_beside_an_empty_choice() -> None:
    """After the finish: 4 tokens, exact."""
    timeline, found = measured("usage-with-empty-choice")
    assert (found.output_tokens, found.prompt_tokens, found.token_count_exact) == (4, 20, True)
    assert (timeline.finish_reason, len(timeline.chunks)) == ("length", 4)


def test_vllms_own_figures_of_a_request_are_read() -> None:
    """TTFT, queue and speed of ``--enable-per-request-metrics``; the prefill is the TTFT without the queue."""
    timeline, found = measured("per-request-metrics", backend="vllm")
    assert timeline.server is not None
    assert timeline.server.ttft_seconds == pytest.approx(0.0492)
    assert found.server_tokens_per_second == 23.4
    assert timeline.server.queue_seconds == pytest.approx(0.000047)
    assert found.prefill_tokens_per_second == pytest.approx(20 / 0.049153)


def test_llama_servers_drafted_tokens_are_read() -> None:
    """The share of a draft that was accepted; a share above one, or of nothing, is none."""
    timings = {"predicted_n": 20, "predicted_ms": 100.0, "predicted_per_second": 190.0}
    for drafted, accepted, ratio in ((40, 30, 0.75), (0, 0, None), (4, 9, None)):
        own = {**timings, "draft_n": drafted, "draft_n_accepted": accepted}
        end = [chunk({}, "length", timings=own), DONE]
        found = measure(follow(paced([*words(20), *end]), backend="llama_cpp"))
        assert found.speculative_accepted_ratio == ratio


# Framing -------------------------------------------------------------------------------------------------------------


def test_events_of_a_gateway_are_left_out() -> None:
    """``event: ping`` with a time in plain text is no chunk and no error."""
    timeline, found = measured("ping-event")
    assert (len(timeline.chunks), found.output_tokens, found.token_count_exact) == (4, 4, True)


def test_a_finish_reason_that_comes_early_ends_nothing() -> None:
    """All text is read; a stream that is cut off after such a finish is truncated all the same."""
    timeline, found = measured("finish-reason-early")
    assert (len(timeline.chunks), found.output_tokens, timeline.finish_reason) == (4, 4, "stop")
    with pytest.raises(ProbeFailure) as caught:
        follow(paced([chunk({"content": "The"}), chunk({"content": " sea"}, "stop"), chunk({"content": " is"})]))
    assert caught.value.result == "truncated"


def test_text_may_come_late_after_an_early_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once text came after a finish, the next finish is no reason to hurry."""
    monkeypatch.setattr("exporter.probe.client._CLOSING_SECONDS", 0.1)
    early = [chunk({"content": " a"}, "stop") for _ in range(4)]
    answer = streamed([*((0.02 * number, each) for number, each in enumerate(early)), (0.5, early[0]), (0.5, DONE)])
    assert len(follow(answer).chunks) == 5


def test_an_error_in_a_field_of_that_name() -> None:
    """llama-server of old: the message is the server's."""
    with pytest.raises(ProbeFailure) as caught:
        measured("error-in-a-field-named-error", backend="llama_cpp")
    assert caught.value.result == "server_error"
    assert "the request exceeds the available context size" in caught.value.message


def test_an_error_event_in_plain_text() -> None:
    """It needs no JSON."""
    assert DIALECTS["openai"].read(Event(b"out of memory", "error")).error == "out of memory"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (
            {"object": "error", "message": "EngineCore died", "type": "InternalServerError", "code": 500},
            "EngineCore died",
        ),
        ({"type": "error", "message": "out of memory"}, "out of memory"),
        ({"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}, "finish_reason is error"),
        ({"choices": [{"index": 0, "delta": {}, "finish_reason": "abort"}]}, "finish_reason is abort"),
    ],
)
def test_an_answer_that_the_server_broke_off_is_no_good_one(broken: dict[str, Any], said: str) -> None:
    """An error as an object of its own before [DONE] (vLLM until 2025), or by the finish: 20 words are then no answer."""
    with pytest.raises(ProbeFailure) as caught:
        follow(paced([*words(20), event(broken), DONE]))
    assert caught.value.result == "server_error"
    assert said in caught.value.message


def test_the_word_null_finishes_nothing() -> None:
    """Some gateways write it into each chunk: a stream that is cut off is truncated all the same."""
    each = [chunk({"content": " word"}, "null")] * 16
    assert measure(follow(paced([*each, *final(16)]))).output_tokens == 16
    with pytest.raises(ProbeFailure) as caught:
        follow(paced(each))
    assert caught.value.result == "truncated"


@pytest.mark.parametrize("after", [b"data: keep-alive\n\n", b"data: [done]\n\n", b'data: {"choices":\n\n'])
def test_what_follows_a_whole_answer_may_be_anything(after: bytes) -> None:
    """The answer is finished and counted; before its end such an event is an error."""
    found = measure(follow(paced([*words(16), *final(16)[:-1], after])))
    assert (found.output_tokens, found.token_count_exact) == (16, True)
    with pytest.raises(ProbeFailure, match="not of this API"):
        follow(paced([*words(4), after, *words(12), *final(16)]))


def test_a_character_that_is_cut_in_two_is_read() -> None:
    """A server that makes a chunk of each token's bytes sends halves of characters; the rest of the stream is as good as ever."""
    half = chunk({"content": " word@"}).replace(b"@", b"\xf0\x9f")
    found = measure(follow(paced([half, *words(15), *final(16)])))
    assert (found.output_tokens, found.token_count_exact) == (16, True)


def test_events_under_a_type_of_json_are_read() -> None:
    """Some proxies call every answer JSON; whether it is a stream, its first bytes tell."""
    body = [(0.0, b"\n"), *((0.02 + GAP * n, each) for n, each in enumerate([*words(16), *final(16)]))]
    found = measure(follow(streamed(body, content_type="application/json; charset=utf-8")))
    assert (found.output_tokens, found.token_count_exact) == (16, True)
    with pytest.raises(ProbeFailure, match="application/json, not with a stream"):
        follow(streamed([(0.0, b'{"data": '), (0.01, b'"x"}')], content_type="application/json"))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_stream_that_is_packed_is_read(encoding: str) -> None:
    """A proxy may pack it though nobody asked; each event comes as soon as its bytes do."""
    packer = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    steps = [(0.0, head(200, [("content-type", "text/event-stream"), ("content-encoding", encoding)]))]
    for number, each in enumerate([*words(16), *final(16)]):
        data = packer.compress(each) + packer.flush(zlib.Z_SYNC_FLUSH)
        steps.append((0.02 + GAP * number, data))
    timeline = follow(ScriptedAnswer(tuple(steps), "close"))
    found = measure(timeline)
    assert (found.output_tokens, found.token_count_exact, found.stream_buffered) == (16, True, False)
    assert found.tokens_per_second == pace(timeline)


def test_each_event_is_unpacked_as_soon_as_its_bytes_are_there() -> None:
    """Nothing is held back until more comes."""
    packer, events = zlib.compressobj(wbits=31), words(4)
    packed = [packer.compress(each) + packer.flush(zlib.Z_SYNC_FLUSH) for each in events]
    unpacked: list[bytes] = []

    def coming() -> Iterator[bytes]:
        for number, each in enumerate(packed):
            assert b"".join(unpacked) == b"".join(events[:number])
            yield each

    for each in decoded(coming(), {"content-encoding": "gzip"}, 10_000):
        unpacked.append(each)  # noqa: PERF402 - one by one: what comes next looks at it
    assert b"".join(unpacked) == b"".join(events)


def test_a_packed_answer_may_have_several_parts() -> None:
    """As gzip files that were appended to each other; the parts of a bomb are bounded together."""
    parts = [gzip.compress(b"".join(words(8))), gzip.compress(b"".join([*words(8), *final(16)]))]
    sse = head(200, [("content-type", "text/event-stream"), ("content-encoding", "gzip")])
    assert len(follow(ScriptedAnswer(((0.0, sse + b"".join(parts)),), "close")).chunks) == 16
    with pytest.raises(ProbeFailure) as caught:
        follow(ScriptedAnswer(((0.0, sse + gzip.compress(b":\n" * 500_000) * 20),), "close"))
    assert caught.value.result == "too_large"


def test_an_error_that_is_packed_is_read() -> None:
    """Its message is there for people."""
    body = gzip.compress(b'{"error": {"message": "no memory"}}')
    headers = [("content-type", "application/json"), ("content-encoding", "gzip"), ("content-length", str(len(body)))]
    with pytest.raises(ProbeFailure, match="answered 500: no memory"):
        follow(ScriptedAnswer(((0.0, head(500, headers) + body),)))


# Hidden thinking -----------------------------------------------------------------------------------------------------


def test_thinking_that_uses_up_the_answer_is_measured_by_its_tokens() -> None:
    """No text at all, but the server counts in each chunk: those are the tokens, and they have a speed and a TTFT."""
    hidden = [chunk({"content": ""}, **used(n)) for n in range(1, 33)]
    timeline = follow(paced([chunk({"role": "assistant", "content": ""}, **used(0)), *hidden, *final(32)]))
    found = measure(timeline)
    assert (len(timeline.chunks), found.output_tokens, found.token_count_exact) == (32, 32, True)
    assert found.tokens_per_second == pace(timeline)
    assert found.time_to_first_answer_seconds is None


def thought(output: int, reasoning: int) -> list[bytes]:
    """The end of a stream whose usage tells how much of it was thinking."""
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": output,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    return [chunk({}, "stop"), event({"choices": [], "usage": usage}), DONE]


def test_thinking_that_is_told_and_not_shown_leaves_no_ttft() -> None:
    """The first text came after 40 tokens of thinking: the speed is that of the text, and when the first token came isn't known."""
    timeline = follow(paced([*words(20), *thought(61, 40)]))
    found = measure(timeline)
    assert found.tokens_per_second == pace(timeline)
    assert (found.ttft_seconds, found.prefill_tokens_per_second, found.reasoning_tokens) == (None, None, 40)
    assert found.time_to_first_answer_seconds is not None


def test_thinking_inside_the_answer_is_shown() -> None:
    """A server that counts it, and streams it between marks in the content: each chunk is a token, all of them count."""
    timeline = follow(paced([*words(30), *thought(31, 12)]))
    found = measure(timeline)
    assert found.tokens_per_second == pace(timeline)
    assert (found.ttft_seconds is not None, found.token_count_exact) == (True, True)


def test_thinking_in_an_unknown_form_is_measured_where_each_chunk_is_a_token() -> None:
    """As many chunks as the server counted tokens."""
    timeline = follow(paced([*[chunk({"monologue": "hm"})] * 16, *final(16)]))
    found = measure(timeline)
    assert (found.output_tokens, found.token_count_exact) == (16, True)
    assert found.tokens_per_second == pace(timeline)


def test_thinking_of_which_nothing_comes_is_told() -> None:
    """The failure says what it is and what helps."""
    with pytest.raises(ProbeFailure) as caught:
        follow(paced([chunk({"role": "assistant", "content": ""}), *final(64)]))
    assert caught.value.result == "empty"
    for said in ("the server counted 64 tokens", "max_tokens", "enable_thinking"):
        assert said in caught.value.message


def test_an_answer_of_equal_tokens_that_was_cut_off_says_so() -> None:
    """Ollama ends such a stream without its last line."""
    line = b'{"model":"m","message":{"role":"assistant","content":"ha"},"done":false}\n'
    with ExactServer({"/chat": streamed([(0.0, line * 31)], content_type="application/x-ndjson")}) as server:
        request = Request("/chat", b"{}", framing="ndjson")
        with pytest.raises(ProbeFailure, match="its last 31 chunks are the same text") as caught:
            stream(Connection(server.url), request, DIALECTS["ollama"].read, DEADLINES)
    assert caught.value.result == "truncated"


def test_tokens_of_chunks_without_text_are_shared_out_evenly() -> None:
    """Two tokens in each of 16 chunks, 10 ms apart."""
    chunks = tuple(Chunk((10 + number) * 10_000_000, "reasoning", 0) for number in range(16))
    found = measure(Timeline(0, sent_ns=0, chunks=chunks, usage=Usage(20, 32), finish_reason="length", max_tokens=32))
    assert found.tokens_per_second == pytest.approx(200)
