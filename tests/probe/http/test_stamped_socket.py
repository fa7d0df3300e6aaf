"""Whose stamps a read gives, and what they are worth when the reader sleeps or the clock steps."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from exporter.probe.client import stream
from exporter.probe.http import stamped_socket
from exporter.probe.http.transport import Connection
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta, Timeline
from tests.probe.http.probing import DEADLINES, REQUEST, read
from tests.servers.exact import ExactServer, Played, chat

linux = pytest.mark.skipif(not Path("/proc").is_dir(), reason="kernel arrival times are read on Linux only")


def drowsy(seconds: float) -> Callable[[Event], Delta]:
    """A reader that sleeps at the first text, as a starved process would, so that the rest of the text queues up."""
    naps = [seconds]

    def read_and_sleep(event: Event) -> Delta:
        delta = read(event)
        if delta.answer and naps:
            time.sleep(naps.pop())
        return delta

    return read_and_sleep


def outside(timeline: Timeline, played: Played) -> list[float]:
    """For each chunk, how many seconds the send that brought it lies outside of the time that its stamp allows."""
    spans = [(chunk.at_ns - chunk.late_ns, chunk.at_ns) for chunk in timeline.chunks]
    return [
        max(before - latest, earliest - after, 0) / 1e9
        for (earliest, latest), (before, after) in zip(spans, played.texts, strict=True)
    ]


@linux
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("sleepy", [False, True], ids=["prompt", "drowsy"])
def test_stamps_are_the_kernels_however_late_the_read(
    certificate: tuple[Path, Path], *, tls: bool, sleepy: bool
) -> None:
    """A reader that slept through the stream sees text of long ago at its time; what was merged says how old it may be."""
    answer = chat(tokens=30, tokens_per_second=200)
    with ExactServer({"/chat": answer}, own_process=True, certificate=certificate if tls else None) as server:
        connection = Connection(server.url, ca_file=certificate[0])
        timeline = stream(connection, REQUEST, drowsy(0.4) if sleepy else read, DEADLINES)
        played = server.played()[-1]
    assert timeline.end_ns is not None
    assert timeline.end_ns - timeline.chunks[-1].at_ns > (100_000_000 if sleepy else 0)
    assert median(outside(timeline, played)) < 0.001
    if not sleepy:
        assert timeline.coalesced < 30


@pytest.mark.parametrize("sleepy", [False, True], ids=["prompt", "drowsy"])
def test_without_kernel_stamps_the_bar_covers_the_whole_wait(*, sleepy: bool) -> None:
    """A stamp taken after the read may be late by any part of the time since the queue was empty, and says so."""
    with ExactServer({"/chat": chat(tokens=20)}, own_process=True) as server:
        connection = Connection(server.url, kernel_stamps=False)
        timeline = stream(connection, REQUEST, drowsy(0.2) if sleepy else read, DEADLINES)
        played = server.played()[-1]
    for chunk, (before, after) in zip(timeline.chunks, played.texts, strict=True):
        assert chunk.at_ns - chunk.late_ns <= after
        assert chunk.at_ns >= before
    assert timeline.coalesced == 20


@linux
@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.parametrize("sleepy", [False, True], ids=["prompt", "drowsy"])
def test_a_wall_clock_that_steps_moves_no_mark(monkeypatch: pytest.MonkeyPatch, hours: int, *, sleepy: bool) -> None:
    """Clock and stamps jump by an hour at the fifth text: marks stay within their bars, and some stamps are not used."""
    true_wall, true_stamp = time.time_ns, stamped_socket._kernel_stamp
    stepped_at: list[int] = []
    texts: list[Event] = []
    plain_read = drowsy(0.1) if sleepy else read

    def read_and_step(event: Event) -> Delta:
        delta = plain_read(event)
        if delta.answer:
            texts.append(event)
            if len(texts) == 5:
                stepped_at.append(time.monotonic_ns())
        return delta

    def stepped(wall_ns: int, now_ns: int) -> int:
        return wall_ns + hours * 3_600_000_000_000 if stepped_at and now_ns >= stepped_at[0] else wall_ns

    def stamp(ancillary: list[tuple[int, int, bytes]]) -> int | None:
        at = true_stamp(ancillary)
        return at if at is None else stepped(at, at + time.monotonic_ns() - true_wall())

    with ExactServer({"/chat": chat(tokens=30, tokens_per_second=200)}, own_process=True) as server:
        monkeypatch.setattr(time, "time_ns", lambda: stepped(true_wall(), time.monotonic_ns()))
        monkeypatch.setattr(stamped_socket, "_kernel_stamp", stamp)
        timeline = stream(Connection(server.url), REQUEST, read_and_step, DEADLINES)
        monkeypatch.undo()
        played = server.played()[-1]
    assert timeline.clock_error_ns is not None
    for chunk, (before, after) in zip(timeline.chunks, played.texts, strict=True):
        assert chunk.at_ns + timeline.clock_error_ns >= before
        assert chunk.at_ns - chunk.late_ns - timeline.clock_error_ns <= after
    assert any(chunk.late_ns > 0 for chunk in timeline.chunks)


@linux
def test_impossible_stamps_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that stamps with nonsense is not trusted: every mark is that of its read."""
    nonsense = iter([0, 2**62, -5, 1] * 100)
    monkeypatch.setattr(stamped_socket, "_kernel_stamp", lambda _: next(nonsense))
    with ExactServer({"/chat": chat(tokens=20)}, own_process=True) as server:
        timeline = stream(Connection(server.url), REQUEST, read, DEADLINES)
        played = server.played()[-1]
    assert timeline.coalesced == 20
    for chunk, (before, after) in zip(timeline.chunks, played.texts, strict=True):
        assert before <= chunk.at_ns
        assert chunk.at_ns - chunk.late_ns <= after
