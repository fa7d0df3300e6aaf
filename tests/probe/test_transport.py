"""The connection: whose stamps it gives, what ends it, and what it never does."""

import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest

from exporter.probe import transport
from exporter.probe.client import Deadlines, Request, fetch, stream
from exporter.probe.failure import Cancelled, ProbeFailure
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta, Timeline, Usage
from exporter.probe.transport import Cancellation, Connection
from tests.servers.certificates import make_certificate
from tests.servers.exact import Answer, ExactServer, Played, chat, plain

DEADLINES = Deadlines(connect=5, first_token=5, stalled=5, total=10)
REQUEST = Request("/chat", b"{}")
linux = pytest.mark.skipif(not Path("/proc").is_dir(), reason="kernel arrival times are read on Linux only")


def read(event: Event) -> Delta:
    """What a chat event says, as far as these tests need it."""
    if event.data == b"[DONE]":
        return Delta(final=True)
    said = json.loads(event.data)
    choice = said["choices"][0] if said["choices"] else {"delta": {}, "finish_reason": None}
    counts = said.get("usage") or {}
    return Delta(
        answer=choice["delta"].get("content") or "",
        reasoning=choice["delta"].get("reasoning_content") or "",
        output_tokens=counts.get("completion_tokens"),
        usage=Usage(counts["prompt_tokens"], counts["completion_tokens"]) if counts else None,
        finish_reason=choice["finish_reason"],
        model=said.get("model"),
    )


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


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and localhost, good for long."""
    return make_certificate(tmp_path_factory.mktemp("certificate") / "good")


@pytest.fixture
def blackhole() -> Iterator[str]:
    """The URL of a port that drops attempts to connect: its queue is full and nobody accepts."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for one in waiting:
            one.close()


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
    true_wall, true_stamp = time.time_ns, transport._kernel_stamp
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
        monkeypatch.setattr(transport, "_kernel_stamp", stamp)
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
    monkeypatch.setattr(transport, "_kernel_stamp", lambda _: next(nonsense))
    with ExactServer({"/chat": chat(tokens=20)}, own_process=True) as server:
        timeline = stream(Connection(server.url), REQUEST, read, DEADLINES)
        played = server.played()[-1]
    assert timeline.coalesced == 20
    for chunk, (before, after) in zip(timeline.chunks, played.texts, strict=True):
        assert before <= chunk.at_ns
        assert chunk.at_ns - chunk.late_ns <= after


def cancelled_soon(run: Callable[[Cancellation], object]) -> float:
    """Run something, cancel it from another thread, and say how long it went on after that."""
    cancellation = Cancellation()
    at = []

    def cancel() -> None:
        at.append(time.monotonic())
        cancellation.cancel()

    timer = threading.Timer(0.15, cancel)
    timer.start()
    with pytest.raises(Cancelled):
        run(cancellation)
    timer.join()
    return time.monotonic() - at[0]


@pytest.mark.parametrize(
    "answer",
    [Answer((), "hang"), chat(tokens=5, end="hang", whole=False, done=False, finish=None, usage=False)],
    ids=["before the answer", "in the stream"],
)
def test_cancelling_ends_a_read(answer: Answer) -> None:
    """A probe that waits for its server ends at once when another thread cancels it."""
    with ExactServer({"/chat": answer}) as server:
        took = cancelled_soon(lambda c: stream(Connection(server.url, cancellation=c), REQUEST, read, DEADLINES))
    assert took < DEADLINES.first_token / 2


def test_cancelling_ends_connecting(blackhole: str) -> None:
    """So does one that waits for a connection."""
    took = cancelled_soon(lambda c: stream(Connection(blackhole, cancellation=c), REQUEST, read, DEADLINES))
    assert took < DEADLINES.connect / 2


def test_cancelling_ends_a_tls_handshake() -> None:
    """So does one whose server accepts and says nothing."""
    with ExactServer({}) as server:
        url = server.url.replace("http:", "https:")
        took = cancelled_soon(lambda c: stream(Connection(url, cancellation=c), REQUEST, read, DEADLINES))
    assert took < DEADLINES.connect / 2


def test_what_is_cancelled_before_does_not_start() -> None:
    """A cancelled connection reaches no server."""
    cancellation = Cancellation()
    cancellation.cancel()
    with ExactServer({"/": plain()}) as server:
        with pytest.raises(Cancelled):
            fetch(Connection(server.url, cancellation=cancellation), "/", timeout=5, limit_bytes=10)
        assert server.played() == []


@pytest.fixture
def stuck_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names are never resolved; gives the list of those asked for."""
    asked: list[str] = []
    release = threading.Event()

    def hang(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        release.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield asked
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("resolve "):
            thread.join()


def two_failures_at_nowhere(deadlines: Deadlines) -> list[ProbeFailure]:
    """What two probes raise that look up one name at the same time."""
    failures = []

    def probe() -> None:
        with pytest.raises(ProbeFailure) as caught:
            stream(Connection("http://nowhere.example:1"), REQUEST, read, deadlines)
        failures.append(caught.value)

    threads = [threading.Thread(target=probe) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_a_resolver_that_hangs_is_bounded_and_asked_once(stuck_names: list[str]) -> None:
    """Two probes of one name wait for one look-up, no longer than they may connect, and name what was not found."""
    failures = two_failures_at_nowhere(Deadlines(0.3, 5, 5, 5))
    assert [each.result for each in failures] == ["resolve", "resolve"]
    assert all("nowhere.example was not resolved within 0.3 s" in each.message for each in failures)
    assert stuck_names == ["nowhere.example"]


def test_each_who_waits_for_a_name_gets_a_failure_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look-up fails for two probes, and each raises another exception: one of both would mix their tracebacks."""
    asked, both_wait = list[str](), threading.Barrier(3)

    def fail(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        both_wait.wait(10)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    class Waiting(SimpleQueue[Any]):
        def get(self, *args: Any, **kwargs: Any) -> Any:
            both_wait.wait(10)
            return super().get(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(transport, "queue", SimpleNamespace(SimpleQueue=Waiting, Empty=Empty))

    failures = two_failures_at_nowhere(DEADLINES)
    causes = [each.__cause__ for each in failures]
    assert asked == ["nowhere.example"]
    assert [type(cause) for cause in causes] == [socket.gaierror] * 2
    assert causes[0] is not causes[1]
    assert all("the host name is not known" in each.message for each in failures)


def test_cancelling_ends_a_look_up(stuck_names: list[str]) -> None:
    """A resolver that hangs does not hold up the end of the daemon."""
    url = "http://nowhere.example:1"
    took = cancelled_soon(lambda c: stream(Connection(url, cancellation=c), REQUEST, read, DEADLINES))
    assert took < DEADLINES.connect / 2
    assert stuck_names == ["nowhere.example"]


def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch, blackhole: str) -> None:
    """A name with a dead address, a silent one and a good one is reached by the good one."""
    with ExactServer({"/": plain(b"here")}) as server:
        ports = [1, int(blackhole.rpartition(":")[2]), server.port]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert fetch(Connection("http://three.example"), "/", timeout=2, limit_bytes=100).body == b"here"


def test_tls_is_verified_unless_told_otherwise(certificate: tuple[Path, Path]) -> None:
    """A self-signed certificate is refused, accepted as its own CA, or accepted unseen where that was asked for."""
    with ExactServer({"/": plain(b"here")}, certificate=certificate) as server:
        with pytest.raises(
            ProbeFailure, match=r"self-signed certificate\. Name the right host in url, or its CA"
        ) as caught:
            fetch(Connection(server.url), "/", timeout=5, limit_bytes=100)
        assert caught.value.result == "tls"
        for connection in (
            Connection(server.url, ca_file=certificate[0]),
            Connection(server.url, insecure_skip_verify=True),
            Connection(server.url.replace("127.0.0.1", "localhost"), ca_file=certificate[0]),
        ):
            assert fetch(connection, "/", timeout=5, limit_bytes=100).body == b"here"


def test_a_changed_ca_file_is_read_again(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    """The CA is not remembered beyond a change of its file."""
    ca_file = tmp_path / "ca.pem"
    with ExactServer({"/": plain(b"here")}, certificate=certificate) as server:
        ca_file.write_bytes(make_certificate(tmp_path / "other")[0].read_bytes())
        os.utime(ca_file, ns=(1, 1))
        with pytest.raises(ProbeFailure, match="certificate"):
            fetch(Connection(server.url, ca_file=ca_file), "/", timeout=5, limit_bytes=100)
        ca_file.write_bytes(certificate[0].read_bytes())
        assert fetch(Connection(server.url, ca_file=ca_file), "/", timeout=5, limit_bytes=100).body == b"here"


def test_tls_records_may_come_in_any_pieces(certificate: tuple[Path, Path]) -> None:
    """A server that sends its records byte by byte, and many records at once, is read like any other."""
    body = bytes(range(256)) * 200
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve_tls_in_bytes, args=(listener, context, raw))
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        reply = fetch(Connection(url, ca_file=certificate[0]), "/", timeout=10, limit_bytes=100_000)
        thread.join()
    assert reply.body == body


def _serve_tls_in_bytes(listener: socket.socket, context: ssl.SSLContext, raw: bytes) -> None:
    """One answer over TLS: its first 300 bytes of ciphertext each in a packet of its own, the rest at once."""
    connection, _ = listener.accept()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        for step in (tls.do_handshake, lambda: tls.read(4096)):
            while True:
                try:
                    step()
                    break
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    incoming.write(connection.recv(4096))
        for at in range(0, len(raw), 1000):
            tls.write(raw[at : at + 1000])
        cipher = outgoing.read()
        for byte in range(300):
            connection.sendall(cipher[byte : byte + 1])
        connection.sendall(cipher[300:])


def test_nothing_of_the_environment_gets_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no netrc, no cookie of an answer before, no compression is asked for."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", "/dev/null")
    with ExactServer({"/": plain(b"here", headers=[("set-cookie", "a=b")])}) as server:
        for _ in range(2):
            assert fetch(Connection(server.url), "/", timeout=5, limit_bytes=100).body == b"here"
        sent = server.played()[-1].headers
    assert sent["accept-encoding"] == "identity"
    assert sent["user-agent"].startswith("llm-probe-exporter/")
    assert "cookie" not in sent
    assert "authorization" not in sent


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_no_descriptor_and_no_thread_is_left_behind(blackhole: str) -> None:
    """After successes and all kinds of failures the process holds what it held before."""
    fine = chat(tokens=3, tokens_per_second=1000, ttft=0)
    broken = Answer(((0.0, b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {"),), "reset")
    quick = Deadlines(connect=0.05, first_token=0.05, stalled=0.05, total=0.2)

    def held() -> tuple[int, int]:
        return sum(1 for _ in Path("/proc/self/fd").iterdir()), threading.active_count()

    def everything() -> None:
        with ExactServer({"/chat": fine, "/broken": broken, "/silent": Answer((), "hang")}) as server:
            for url, path in [
                *[(server.url, path) for path in ("/chat", "/broken", "/silent", "/nothing")],
                (server.url.replace("http:", "https:"), "/chat"),
                (blackhole, "/chat"),
                ("http://127.0.0.1:1", "/chat"),
            ]:
                with suppress(ProbeFailure):
                    stream(Connection(url), Request(path, b"{}"), read, quick)

    everything()
    before = held()
    for _ in range(3):
        everything()
    assert held() == before
