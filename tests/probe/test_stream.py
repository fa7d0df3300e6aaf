"""The decoders: any events, cut at any byte, come out the same; no bytes make them raise; the work is linear."""

import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.probe.stream import Decoder, Event, NdjsonDecoder, SseDecoder, TooLarge

LIMIT = 1 << 20
DECODERS: list[Callable[[int], Decoder]] = [SseDecoder, NdjsonDecoder]
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))
CUTS = st.lists(st.integers(0, 400), max_size=12)


def decode(decoder: Decoder, data: bytes, cuts: list[int]) -> list[Event]:
    """Feed the bytes in pieces."""
    bounds = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    found = [event for a, b in pairwise(bounds) for event in decoder.feed(data[a:b])]
    return found + decoder.close()


@given(
    events=st.lists(st.tuples(st.lists(TEXT, min_size=1, max_size=3), TEXT), max_size=6),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    space=st.sampled_from(["", " "]),
    comment=st.booleans(),
    bom=st.booleans(),
    cuts=CUTS,
)
def test_sse_events_survive_any_framing_and_any_cut(
    *, events: list[tuple[list[str], str]], line_end: str, space: str, comment: bool, bom: bool, cuts: list[int]
) -> None:
    """Whatever the line ends, comments, BOM and cuts, the events that went in come out."""
    lines = []
    for data, name in events:
        lines += [": keep-alive"] if comment else []
        lines += [f"event:{space}{name}"] if name else []
        lines += [f"data:{space}{line}" for line in data] + [""]
    raw = ("\ufeff" if bom else "") + "".join(line + line_end for line in lines)
    expected = [
        Event(
            "\n".join(line if space else line.removeprefix(" ") for line in data).encode(),
            name if space else name.removeprefix(" "),
        )
        for data, name in events
    ]
    assert decode(SseDecoder(LIMIT), raw.encode(), cuts) == expected


@given(
    lines=st.lists(TEXT.filter(lambda text: bool(text.encode().strip()) and not text.startswith("\ufeff")), max_size=8),
    line_end=st.sampled_from(["\n", "\r\n"]),
    last_ends=st.booleans(),
    cuts=CUTS,
)
def test_ndjson_lines_survive_any_cut(*, lines: list[str], line_end: str, last_ends: bool, cuts: list[int]) -> None:
    """Each line comes out once, the last one with or without its line end."""
    raw = line_end.join(lines) + (line_end if last_ends and lines else "")
    assert [event.data.decode() for event in decode(NdjsonDecoder(LIMIT), raw.encode(), cuts)] == lines


@pytest.mark.parametrize("make", DECODERS)
@given(data=st.binary(max_size=400) | st.text(alphabet="data: \r\n\ufeff{}\x00e").map(str.encode), cuts=CUTS)
def test_no_bytes_make_a_decoder_raise(make: Callable[[int], Decoder], data: bytes, cuts: list[int]) -> None:
    """Any bytes give the same events cut as whole, and with a small limit nothing but TooLarge is raised."""
    assert decode(make(LIMIT), data, cuts) == decode(make(LIMIT), data, [])
    try:
        events = decode(make(8), data, cuts)
    except TooLarge:
        assert len(data) > 8
    else:
        assert all(len(event.data) <= 8 for event in events)


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_cr_and_lf_end_a_line(char: str) -> None:
    """Characters that str.splitlines takes for line ends stay in the data."""
    text = f'{{"content": "a{char}b"}}'.encode()
    assert SseDecoder(LIMIT).feed(b"data: " + text + b"\n\n") == [Event(text)]
    assert NdjsonDecoder(LIMIT).feed(text + b"\n") == [Event(text)]


def test_an_event_comes_out_with_its_last_byte() -> None:
    """Not one byte after the blank line is needed, not even after a lone CR that an LF might follow."""
    decoder = SseDecoder(LIMIT)
    assert decoder.feed(b"data: 1\r\n\r") == [Event(b"1")]
    pending = [decoder.pending]
    assert decoder.feed(b"\ndata: 2\n") == []
    pending.append(decoder.pending)
    assert decoder.feed(b"\n") == [Event(b"2")]
    assert [*pending, decoder.pending] == [False, True, False]


@pytest.mark.parametrize("make", DECODERS)
def test_a_line_over_the_limit_is_refused_whole_or_in_pieces(make: Callable[[int], Decoder]) -> None:
    """A line of exactly the limit passes, one byte more does not, however it is cut."""
    assert len(decode(make(100), b"data: " + b"x" * 94 + b"\n\n", [])) == 1
    for cuts in ([], [1], [101], list(range(102))):
        with pytest.raises(TooLarge, match="more than 100 bytes"):
            decode(make(100), b"data: " + b"x" * 95 + b"\n\n", cuts)


def test_an_event_of_many_lines_is_bounded_too() -> None:
    """Short lines without end add up, empty ones too."""
    decoder = SseDecoder(1000)
    with pytest.raises(TooLarge):
        decode(decoder, b"data:\n" * 2000, list(range(0, 12_000, 6)))


@pytest.mark.parametrize("make", DECODERS)
def test_a_line_without_end_holds_no_more_than_the_limit(make: Callable[[int], Decoder]) -> None:
    """A decoder that refuses has let go of what it held."""
    decoder = make(1000)
    decoder.feed(b"x" * 1000)
    held = decoder.pending
    with pytest.raises(TooLarge):
        decoder.feed(b"x")
    assert (held, decoder.pending) == (True, False)


@pytest.mark.parametrize("make", DECODERS)
def test_the_work_is_linear(make: Callable[[int], Decoder]) -> None:
    """Eight times the bytes, one by one without a line end, take nowhere near 64 times the work."""

    def work(size: int) -> float:
        decoder = make(LIMIT)
        start = time.thread_time()
        for _ in range(size):
            decoder.feed(b"x")
        return time.thread_time() - start

    small, large = min(work(20_000) for _ in range(3)), min(work(160_000) for _ in range(3))
    assert large < 24 * small
