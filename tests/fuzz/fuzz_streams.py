"""Fuzzing of everything that reads what an inference server sends (``make fuzz``).

Any bytes, cut anywhere, give the same events as whole ones. What a dialect reads from an event are plain values or a
``ValueError``, and the formulas give finite figures of them. A status query to a server that answers anything at all ends with
a ``ServerStatus`` or a ``ProbeFailure``. Anything else that is raised is a find, and the input that did it is written to a
file.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

from tests.fuzz import engine

with engine.instrumented():
    from exporter.probe.client import Reply
    from exporter.probe.dialects import DIALECTS, recognise
    from exporter.probe.dialects.dialect import ServerStatus, StatusQuery
    from exporter.probe.failure import ProbeFailure, refuse
    from exporter.probe.measure import measure
    from exporter.probe.stream import Decoder, Event, NdjsonDecoder, SseDecoder, TooLarge
    from exporter.probe.timeline import Chunk, Delta, Timeline

FIXTURES = Path(__file__).parents[1] / "fixtures" / "streams"
DICTIONARY = Path(__file__).with_name("streams.dict")
SEED_BYTES = 2000
NAMES = list(DIALECTS)
LIMIT = 4096


def decoded(decoder: Decoder, data: bytes, cuts: list[int]) -> list[Event] | None:
    """The events of a stream that comes in pieces; None where one is too long."""
    bounds = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    try:
        found = [event for a, b in pairwise(bounds) for event in decoder.feed(data[a:b])]
        return found + decoder.close()
    except TooLarge:
        return None


def check_stream(dialect: str, data: bytes, cuts: list[int]) -> None:
    """Decode whole and in pieces, read each event, and measure what was read."""
    make = NdjsonDecoder if dialect == "ollama" else SseDecoder
    events = decoded(make(LIMIT), data, cuts)
    whole = decoded(make(LIMIT), data, [])
    assert events == whole, "the cuts show"
    deltas = [delta for event in events or () for delta in _read(dialect, event)]
    usage = next((each.usage for each in reversed(deltas) if each.usage), None)
    chunks = tuple(
        Chunk(
            1_000_000 * number,
            "answer" if each.answer else "reasoning",
            len(each.answer + each.reasoning),
            each.output_tokens,
        )
        for number, each in enumerate(deltas, start=1)
        if each.answer or each.reasoning
    )
    server = next((each.server for each in reversed(deltas) if each.server), None)
    found = measure(Timeline(0, sent_ns=0, chunks=chunks, end_ns=10**12, usage=usage, server=server, clock_error_ns=1))
    for field in fields(found):
        value = getattr(found, field.name)
        assert not isinstance(value, float) or (math.isfinite(value) and value >= 0), f"{field.name} is {value}"


def _read(dialect: str, event: Event) -> Iterator[Delta]:
    with suppress(ValueError):
        delta = DIALECTS[dialect].read(event)
        texts = (delta.answer, delta.reasoning, delta.finish_reason or "", delta.model or "", delta.error or "")
        assert all(isinstance(text, str) for text in texts)
        yield delta


def check_status_query(dialect: str, replies: list[Reply]) -> None:
    """Check the status of a server whose paths answer in turn with these."""
    asked: dict[str, Reply] = {}

    def get(path: str, _body: bytes | None = None, /) -> Reply:
        return asked.setdefault(path, replies[len(asked) % len(replies)])

    recognise(get)
    last = None
    for thorough in (False, True):
        try:
            last = DIALECTS[dialect].status(StatusQuery(get, None, last, thorough, 1_790_000_000.0))
        except ProbeFailure:
            continue
        assert isinstance(last, ServerStatus)
    refuse(replies[0].status, replies[0].headers, replies[0].body, "/path")


def one_input(data: bytes) -> None:
    """One run of the fuzzer."""
    given = engine.Data(data)
    dialect = NAMES[given.number(0, len(NAMES) - 1)]
    if given.flag():
        statuses = [200, 200, 200, 401, 404, 503, 0]
        replies = [
            Reply(statuses[given.number(0, 6)], {}, given.take(given.number(0, 600))) for _ in range(given.number(1, 4))
        ]
        check_status_query(dialect, replies)
    else:
        cuts = [given.number(0, 2000) for _ in range(given.number(0, 4))]
        check_stream(dialect, given.rest(), cuts)


def seeds() -> Iterator[bytes]:
    """The recorded answers as inputs: what is consumed as bytes comes first, the choices come from the end."""
    for number in range(len(NAMES)):
        for recorded in sorted(FIXTURES.glob("*/*.txt")):
            body = recorded.read_bytes().partition(b"\r\n\r\n")[2]
            if b"data: " in body[:200]:
                events = body.split(b"\n\n")
                yield b"\n\n".join([*events[:4], *events[-4:]]) + bytes([0, 0, number])
            elif len(body) < SEED_BYTES:
                yield body + bytes([len(body) & 255, len(body) >> 8, 0, 1, 1, number])


if __name__ == "__main__":
    engine.run("streams", one_input, seeds(), DICTIONARY)
