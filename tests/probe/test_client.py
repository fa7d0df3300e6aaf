"""One request over real sockets: what is measured of good streams, and what bad servers get."""

import gzip
import json
import socket
import threading
import time
import tracemalloc
from math import inf
from pathlib import Path
from statistics import median

import pytest

from exporter.probe.client import Deadlines, Request, fetch, stream
from exporter.probe.failure import ProbeFailure
from exporter.probe.http.transport import Connection
from exporter.probe.measure import measure
from exporter.probe.result import Result
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta, Timeline, Usage
from tests.probe.http.probing import read
from tests.servers.certificates import make_certificate
from tests.servers.exact import (
    ExactServer,
    Played,
    ScriptedAnswer,
    chat,
    event,
    head,
    piece,
    plain,
    stream_head,
    streamed,
)

DEADLINES = Deadlines(connect=1, first_token=1, stalled=1, total=2)
AMPLE = Deadlines(30, 30, 30, 40)
REQUEST = Request("/chat", b'{"stream": true}', (("authorization", "Bearer sesame-street"),))
TEXT = event({"choices": [{"delta": {"content": " word"}, "finish_reason": None}]})
ROLE = event({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
FINISH = event({"choices": [{"delta": {}, "finish_reason": "length"}]})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
DONE = event("[DONE]")


def probe(url: str, request: Request = REQUEST, deadlines: Deadlines = DEADLINES) -> Timeline:
    """One probe of a URL."""
    return stream(Connection(url), request, read, deadlines)


def fail(url: str, request: Request = REQUEST, deadlines: Deadlines = DEADLINES) -> ProbeFailure:
    """The failure of a probe that must fail."""
    with pytest.raises(ProbeFailure) as caught:
        probe(url, request, deadlines)
    assert caught.value.timeline is not None
    return caught.value


# --- Truth: compared with what the server did -------------------------------------------------------------------------

SPEEDS = [(5.0, 12), (40.0, 16), (200.0, 32)]
SHAPES = [(per_chunk, reasoning) for per_chunk in (1, 4) for reasoning in (0, 8)]
PROBES = 5


def test_speed_and_ttft_are_those_of_the_server() -> None:
    """At 5 to 200 tokens/s, 1 or 4 tokens a chunk, reasoning or not: medians within 0.2 % and 1 ms of what it did."""
    cases = {
        f"/{speed:g}-{per_chunk}-{reasoning}": (
            tokens * (2 if per_chunk > 1 and speed > 5 else 1),
            speed,
            per_chunk,
            reasoning,
        )
        for speed, tokens in SPEEDS
        for per_chunk, reasoning in SHAPES
    }
    answers = {
        path: chat(tokens=tokens, tokens_per_second=speed, per_chunk=per_chunk, reasoning=reasoning, ttft=0.1)
        for path, (tokens, speed, per_chunk, reasoning) in cases.items()
    }
    found: dict[str, list[Timeline]] = {path: [] for path in cases}
    with ExactServer(answers, own_process=True) as server:

        def run(path: str) -> None:
            found[path].append(stream(Connection(server.url), Request(path, b"{}"), read, Deadlines(5, 5, 5, 10)))

        threads = [threading.Thread(target=run, args=(path,)) for path in cases for _ in range(PROBES)]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
        for thread in threads:
            thread.join()
        played = server.played()
    sure = 0
    for path, (tokens, _, per_chunk, reasoning) in cases.items():
        did = sorted((one for one in played if one.path == path), key=lambda one: one.arrived_ns)
        seen = sorted(found[path], key=lambda timeline: timeline.sent_ns or 0)
        assert {measure(timeline).output_tokens for timeline in seen} == {tokens}
        # Where this process was starved, several chunks came in one read, and the error bar says so.
        pairs = [(measure(t), one) for t, one in zip(seen, did, strict=True)]
        pairs = [(m, one) for m, one in pairs if m.clock_error_seconds is not None and m.clock_error_seconds < 0.001]
        sure += len(pairs)
        if not pairs:
            continue
        assert {m.stream_buffered for m, _ in pairs} == {False}
        assert median(off(m.tokens_per_second, *speeds(one, tokens - per_chunk)) for m, one in pairs) < 0.002, path
        answer = -(-reasoning // per_chunk)
        assert median(away(m.ttft_seconds, *times(one, 0)) for m, one in pairs) < 0.001, path
        assert median(away(m.time_to_first_answer_seconds, *times(one, answer)) for m, one in pairs) < 0.001, path
    assert sure >= len(cases) * PROBES / 3


def speeds(played: Played, tokens: int) -> tuple[float, float]:
    """The least and the most that the speed of the tokens after the first chunk can have been, by the sends."""
    (first, first_done), (last, last_done) = played.texts[0], played.texts[-1]
    return tokens * 1e9 / (last_done - first), tokens * 1e9 / (last - first_done)


def times(played: Played, chunk: int) -> tuple[float, float]:
    """The least and the most time from the request's arrival to that of a chunk with text, by its send."""
    before, after = played.texts[chunk]
    return (before - played.arrived_ns) / 1e9, (after - played.arrived_ns) / 1e9


def away(figure: float | None, least: float, most: float) -> float:
    """How far a figure lies outside of what it can have been."""
    return inf if figure is None else max(least - figure, figure - most, 0.0)


def off(figure: float | None, least: float, most: float) -> float:
    """The same as a share."""
    return away(figure, least, most) / least


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_the_marks_are_in_order(tmp_path: Path, *, tls: bool) -> None:
    """Started, resolved, connected, secured, sent, headers, text, end: each happened, after the one before."""
    certificate = make_certificate(tmp_path / "certificate") if tls else None
    with ExactServer({"/chat": chat()}, certificate=certificate) as server:
        connection = Connection(server.url.replace("127.0.0.1", "localhost"), ca_file=certificate and certificate[0])
        timeline = stream(connection, REQUEST, read, Deadlines(5, 5, 5, 10))
    marks = [
        timeline.started_ns,
        timeline.resolved_ns,
        timeline.connected_ns,
        *([timeline.secured_ns] if tls else []),
        timeline.sent_ns,
        timeline.headers_ns,
        *(chunk.at_ns for chunk in timeline.chunks),
        timeline.end_ns,
    ]
    known = [mark for mark in marks if mark is not None]
    assert len(known) == len(marks) == (23 if tls else 22)
    assert known == sorted(known)
    assert (timeline.secured_ns is not None) == tls
    assert [(chunk.kind, chunk.characters) for chunk in timeline.chunks] == [("answer", 5)] * 16
    assert (timeline.finish_reason, timeline.usage, timeline.model) == ("length", Usage(20, 16), "exact")


def test_role_and_comments_are_not_the_first_token() -> None:
    """Neither headers nor an early role chunk nor keep-alive comments count; reasoning does, and the answer is its own mark."""
    thought = event({"choices": [{"delta": {"reasoning_content": "hm"}, "finish_reason": None}]})
    events = [(0.0, ROLE), (0.05, b": ping\n\n"), (0.1, thought), (0.2, TEXT), (0.21, FINISH), (0.21, DONE)]
    with ExactServer({"/chat": streamed(events, texts=[2, 3])}, own_process=True) as server:
        timeline = probe(server.url)
        played = server.played()[0]
    found = measure(timeline)
    assert [chunk.kind for chunk in timeline.chunks] == ["reasoning", "answer"]
    assert found.clock_error_seconds is not None
    bar = found.clock_error_seconds + 0.005
    assert away(found.ttft_seconds, *times(played, 0)) < bar
    assert away(found.time_to_first_answer_seconds, *times(played, 1)) < bar


def test_the_request_arrives_as_it_is() -> None:
    """Method, path below the base URL, body, key and content type; and nothing that was not asked for."""
    with ExactServer({"/base/chat": chat(tokens=2)}) as server:
        probe(server.url + "/base/")
        played = server.played()[0]
    assert (played.method, played.path, played.body) == ("POST", "/base/chat", REQUEST.body)
    assert played.headers.keys() == {
        *(
            "host",
            "accept",
            "accept-encoding",
            "connection",
            "user-agent",
            "content-type",
            "content-length",
            "authorization",
        )
    }
    assert played.headers["content-type"] == "application/json"
    assert played.headers["authorization"] == "Bearer sesame-street"


# --- Ends that are fine ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(streamed([(0, TEXT), (0, TEXT), (0, FINISH), (0, USAGE), (0, DONE)], end="hang"), id="[DONE]"),
        pytest.param(streamed([(0, TEXT), (0, TEXT), (0, FINISH)]), id="a finish and no [DONE]"),
        pytest.param(streamed([(0, TEXT), (0, TEXT), (0, USAGE)]), id="usage and no finish"),
        pytest.param(streamed([(0, TEXT), (0, TEXT), (0, DONE)]), id="[DONE] alone"),
        pytest.param(
            streamed([(0, TEXT), (0, TEXT), (0, FINISH)], whole=False, end="reset"), id="a finish, then a reset"
        ),
        pytest.param(streamed([(0, TEXT), (0, TEXT), (0, FINISH.rstrip())]), id="a finish without its line end"),
        pytest.param(
            ScriptedAnswer(((0, head(200, [("content-type", "text/event-stream")]) + TEXT + TEXT + FINISH),), "close"),
            id="no length, the connection closes",
        ),
        pytest.param(streamed([(0, TEXT), (0, TEXT), (0, DONE)], content_type="text/plain"), id="sloppy content type"),
        pytest.param(streamed([(0, (TEXT + TEXT + FINISH).replace(b"\n", b"\r\n"))]), id="CRLF"),
        pytest.param(streamed([(0, (TEXT + TEXT + FINISH).replace(b"\n", b"\r"))]), id="CR"),
        pytest.param(
            streamed([(0, b"\xef\xbb\xbf" + TEXT + b"data:\n\n" + TEXT + FINISH)]), id="a BOM, an empty event"
        ),
        pytest.param(streamed([(0, bytes([byte])) for byte in TEXT + TEXT + FINISH]), id="one byte per packet"),
        pytest.param(
            streamed([(0, TEXT.replace(b"word", "a\u2028b\u0085c".encode())), (0, TEXT), (0, FINISH)]),
            id="U+2028 in the text",
        ),
        pytest.param(streamed([(0, TEXT.replace(b"word", b"\xff\xfe")), (0, TEXT), (0, FINISH)]), id="bad UTF-8"),
        pytest.param(streamed([(0, TEXT.replace(b"word", b"\\u0000")), (0, TEXT), (0, FINISH)]), id="NUL in the text"),
    ],
)
def test_ends_that_are_fine(answer: ScriptedAnswer) -> None:
    """However the answer is framed and ends, once it says that it is whole it is taken as such."""

    def read_any(event: Event) -> Delta:
        return read(Event(event.data.decode("utf-8", "replace").encode()))

    with ExactServer({"/chat": answer}) as server:
        timeline = stream(Connection(server.url), REQUEST, read_any, DEADLINES)
    assert len(timeline.chunks) == 2


def test_a_stream_that_stays_open_after_its_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never closes after the finish costs a short wait, not the probe."""
    monkeypatch.setattr("exporter.probe.client._CLOSING_SECONDS", 0.2)
    with ExactServer({"/chat": streamed([(0, TEXT), (0, FINISH)], whole=False, end="hang")}) as server:
        timeline = probe(server.url, deadlines=Deadlines(5, 10, 10, 20))
    assert timeline.end_ns is not None
    assert timeline.end_ns - timeline.chunks[-1].at_ns < 5e9


def test_ndjson_is_read_too() -> None:
    """Lines of JSON, the last without its line end, end like any other stream."""
    lines = [
        (n / 100, json.dumps({"word": " a", "done": n == 4}).encode() + (b"\n" if n < 4 else b"")) for n in range(5)
    ]

    def read_line(event: Event) -> Delta:
        said = json.loads(event.data)
        return Delta(answer=said["word"], final=said["done"])

    with ExactServer({"/chat": streamed(lines, content_type="application/x-ndjson")}) as server:
        timeline = stream(Connection(server.url), Request("/chat", b"{}", framing="ndjson"), read_line, DEADLINES)
    assert len(timeline.chunks) == 5


# --- Hostile and broken servers --------------------------------------------------------------------------------------

ENDLESS = 2000
LONG_HEADER = b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 1_000_000 + b"\r\n\r\n"
MANY_HEADERS = b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(100_000)) + b"\r\n"
BOMB = gzip.compress(b": silence\n" * 1_000_000)
MIXED = head(
    200, [("content-type", "text/event-stream"), ("content-encoding", "gzip"), ("content-length", str(len(BOMB)))]
)

FAULTS: dict[str, tuple[ScriptedAnswer, Result, str]] = {
    "silent": (ScriptedAnswer((), "hang"), "timeout_first_token", "no token for 1 s"),
    "closed without an answer": (ScriptedAnswer((), "close"), "connect", "closed without an answer"),
    "reset without an answer": (ScriptedAnswer((), "reset"), "connect", "closed without an answer"),
    "not HTTP": (ScriptedAnswer(((0, b"SSH-2.0-OpenSSH_9\r\n"),), "close"), "protocol", "not HTTP"),
    "half a header": (ScriptedAnswer(((0, b"HTTP/1.1 200 OK\r\ncont"),), "close"), "protocol", "not HTTP"),
    "a header of 1 MB": (ScriptedAnswer(((0, LONG_HEADER),), "close"), "too_large", "headers are longer than 65536"),
    "100,000 headers": (ScriptedAnswer(((0, MANY_HEADERS),), "close"), "too_large", "headers are longer"),
    "100 Continue for ever": (
        ScriptedAnswer(((0, b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000),), "close"),
        "too_large",
        "headers are longer",
    ),
    "redirect": (
        plain(status=301, headers=[("location", "http://elsewhere.example/")]),
        "protocol",
        "elsewhere.example",
    ),
    "wrong key": (plain({"error": "no: sesame-street"}, status=401), "auth", "answered 401: no: …"),
    "422": (
        plain({"detail": [{"loc": ["body", "x"], "msg": "Extra"}]}, status=422),
        "http_4xx",
        "422: Extra at body.x",
    ),
    "429": (plain(status=429, headers=[("retry-after", "9")]), "rate_limited", "429"),
    "500 that never ends": (
        ScriptedAnswer(((0, head(500, [("content-length", "9999")]) + b"Internal"),), "hang"),
        "http_5xx",
        "answered 500: Internal",
    ),
    "502 with HTML": (plain("<h1>Bad Gateway</h1>", status=502, content_type="text/html"), "http_5xx", "Bad Gateway"),
    "loading": (plain({"error": {"message": "Loading model"}}, status=503), "loading", "Loading model"),
    "HTML with 200": (plain("<p>Welcome</p>", content_type="text/html"), "protocol", "a web page (Welcome)"),
    "JSON with 200": (plain({"choices": []}), "protocol", "application/json, not with a stream"),
    "an error with 200": (plain({"error": {"message": "no memory"}}), "server_error", "no memory"),
    "gzip bomb": (ScriptedAnswer(((0, MIXED + BOMB),), "close"), "too_large", "unpacks to more than 8388608 bytes"),
    "an encoding that is not known": (
        plain(TEXT, content_type="text/event-stream", headers=[("content-encoding", "br")]),
        "protocol",
        "in the encoding br",
    ),
    "no gzip": (
        plain(TEXT, content_type="text/event-stream", headers=[("content-encoding", "gzip")]),
        "protocol",
        "is declared as gzip, but can't be decoded",
    ),
    "HTTP/2 alone": (
        ScriptedAnswer(((0, b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x04\0\0\xff\xff\0\5\0\0\x40\0"),), "close"),
        "protocol",
        "speaks only HTTP/2",
    ),
    "empty stream": (streamed([]), "empty", "without any text"),
    "only role chunks": (streamed([(0, ROLE), (0, ROLE), (0, FINISH), (0, DONE)]), "empty", "without any text"),
    "counted but no text": (
        streamed([(0, ROLE), (0, FINISH), (0, USAGE), (0, DONE)]),
        "empty",
        "the server counted 2 tokens",
    ),
    "role, then silence": (streamed([(0, ROLE)], whole=False, end="hang"), "timeout_first_token", "no token for 1 s"),
    "comments for ever": (
        streamed([(n / 100, b": ping\n\n") for n in range(ENDLESS)]),
        "timeout_first_token",
        "no token for 1 s",
    ),
    "role chunks for ever": (streamed([(n / 100, ROLE) for n in range(ENDLESS)]), "timeout_first_token", "no token"),
    "text, then silence": (
        streamed([(0, TEXT)], whole=False, end="hang"),
        "timeout_stalled",
        "no further token for 1 s",
    ),
    "text, then comments": (
        streamed([(0, TEXT), *((n / 100, b": ping\n\n") for n in range(ENDLESS))]),
        "timeout_stalled",
        "no further token for 1 s",
    ),
    "tokens for ever": (streamed([(n / 50, TEXT) for n in range(ENDLESS)]), "timeout_total", "has run for 2 s"),
    "reset in the stream": (streamed([(0, TEXT)], whole=False, end="reset"), "truncated", "in the middle"),
    "closed in the stream": (streamed([(0, TEXT)], whole=False, end="close"), "truncated", "in the middle"),
    "closed in an event": (
        streamed([(0, TEXT), (0, TEXT[:20])], whole=False, end="close"),
        "truncated",
        "in the middle",
    ),
    "ended in an event": (streamed([(0, TEXT), (0, TEXT[:20])]), "truncated", "after 1 chunks"),
    "ended without a finish": (streamed([(0, TEXT), (0, TEXT)]), "truncated", "after 2 chunks without a mark"),
    "an error in the stream": (
        streamed([(0, TEXT), (0, event({"error": {"message": "CUDA\nout of memory"}}))]),
        "server_error",
        "CUDA out of memory",
    ),
    "bad JSON": (streamed([(0, TEXT), (0, b"data: {nonsense\n\n")]), "protocol", "is not of this API"),
    "JSON of another API": (streamed([(0, b"data: 42\n\n")]), "protocol", "(not an object): 42"),
    "deep JSON": (streamed([(0, b"data: " + b"[" * 100_000 + b"\n\n")]), "protocol", "is not of this API"),
    "NUL bytes": (streamed([(0, b"data: \x00\x00\n\n")]), "protocol", "is not of this API"),
    "a line without end": (
        streamed([(0, b"data: "), *((0, b"x" * 65536) for _ in range(200))], whole=False, end="hang"),
        "too_large",
        "more than 1048576 bytes",
    ),
    "bad chunk framing": (ScriptedAnswer(((0, stream_head() + b"zz\r\n"),), "close"), "protocol", "not HTTP"),
    "an endless chunk size": (ScriptedAnswer(((0, stream_head() + b"0" * 200_000),), "hang"), "protocol", "not HTTP"),
}


@pytest.fixture(scope="module")
def faults() -> "dict[str, tuple[ProbeFailure, float]]":
    """What each fault gave, and how long after its start; all at once, since most of them wait."""
    found: dict[str, tuple[ProbeFailure, float]] = {}
    names = {f"/{number}": name for number, name in enumerate(FAULTS)}
    with ExactServer({path: FAULTS[name][0] for path, name in names.items()}) as server:

        def run(path: str, name: str) -> None:
            start = time.monotonic()
            waits = FAULTS[name][1].startswith("timeout")  # the others get more time than they need
            deadlines = DEADLINES if waits else AMPLE
            failure = fail(server.url, Request(path, b"{}", REQUEST.headers), deadlines)
            found[name] = failure, time.monotonic() - start

        threads = [threading.Thread(target=run, args=item) for item in names.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return found


@pytest.mark.parametrize("name", FAULTS)
def test_what_a_fault_gives(name: str, faults: "dict[str, tuple[ProbeFailure, float]]") -> None:
    """Every fault has its result, a clean message with no key in it, an end in time, and leaves no finished measurement."""
    _, result, message = FAULTS[name]
    failure, took = faults[name]
    assert (failure.result, message in failure.message) == (result, True), failure.message
    assert failure.message.isprintable()
    assert "sesame" not in failure.message
    assert b"sesame" not in failure.body
    assert took < (DEADLINES if result.startswith("timeout") else AMPLE).total + 10  # a machine in use is late
    if name == "429":
        assert failure.retry_after_seconds == 9


def test_a_refused_connection() -> None:
    """Nothing listens: said at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    failure = fail(f"http://127.0.0.1:{port}")
    assert (failure.result, "nothing listens" in failure.message) == ("connect", True)


def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that says no."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    failure = fail("http://nowhere.example:1")
    assert (failure.result, failure.message) == ("resolve", "the host name is not known: Name or service not known")


@pytest.mark.parametrize(
    "url", ["http://", "ftp://127.0.0.1:1", "http://127.0.0.1:99999", "http://[::1", "nonsense", ""]
)
def test_a_url_that_is_none(url: str) -> None:
    """Settings refuse such a URL; should one get here all the same, it is a failure and no crash."""
    assert fail(url).result in {"connect", "resolve"}


def test_tls_to_a_plain_port() -> None:
    """The message says which scheme would fit."""
    with ExactServer({"/chat": chat()}) as server:
        failure = fail(server.url.replace("http:", "https:"))
    assert failure.result in {"tls", "timeout_connect"}


def test_plain_to_a_tls_port(tmp_path: Path) -> None:
    """A TLS alert instead of an answer is recognised; a server that only closes is not there."""
    with ExactServer({"/chat": chat()}, certificate=make_certificate(tmp_path / "c")) as server:
        failure = fail(server.url.replace("https:", "http:"))
    assert (failure.result, "https://" in failure.message) in {("protocol", True), ("connect", False)}


@pytest.mark.parametrize(
    ("certificate", "message"),
    [
        ({}, "self-signed certificate"),
        ({"ends": "20200102000000Z"}, "certificate has expired"),
        ({"names": "DNS:other.example"}, "not valid for '127.0.0.1'"),
    ],
    ids=["self-signed", "expired", "wrong name"],
)
def test_certificates_that_are_not_accepted(tmp_path: Path, certificate: dict[str, str], message: str) -> None:
    """The result is tls, and the message has the reason."""
    made = make_certificate(tmp_path / "c", **certificate)
    trusted = made[0] if certificate else None
    with ExactServer({"/chat": chat()}, certificate=made) as server, pytest.raises(ProbeFailure) as caught:
        stream(Connection(server.url, ca_file=trusted), REQUEST, read, DEADLINES)
    assert caught.value.result == "tls"
    assert message in caught.value.message


def test_a_key_that_is_no_header_value() -> None:
    """A key with a line end can't be sent, and is not repeated."""
    with ExactServer({"/chat": chat()}) as server:
        failure = fail(server.url, Request("/chat", b"{}", (("authorization", "Bearer se\nsame"),)))
    assert (failure.result, "same" in failure.message) == ("auth", False)


def test_a_key_is_not_sent_to_where_a_redirect_points() -> None:
    """The other host hears nothing."""
    with ExactServer({"/chat": chat()}) as other:
        moved = plain(status=307, headers=[("location", other.url + "/chat")])
        with ExactServer({"/chat": moved}) as server:
            assert fail(server.url).result == "protocol"
        assert other.played() == []


def send_for_ever(data: bytes) -> tuple[socket.socket, threading.Thread]:
    """A server that sends the same bytes again and again, as fast as they are taken."""
    listener = socket.create_server(("127.0.0.1", 0))

    listener.settimeout(20)

    def run() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # nobody came
            return
        with connection:
            connection.settimeout(5)
            try:
                connection.recv(65536)
                connection.sendall(stream_head())
                while True:
                    connection.sendall(data)
            except OSError:
                return

    thread = threading.Thread(target=run)
    thread.start()
    return listener, thread


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(piece(b"data:\n\n" * 5000), id="tiny events"),
        pytest.param(piece(b":\n" * 20000), id="tiny comments"),
        pytest.param(piece(TEXT * 500), id="text"),
        pytest.param(piece(b"x" * 65000), id="one line"),
        pytest.param(piece(b"data: x\n" * 5000), id="one event"),
        pytest.param(b"1\r\n:\r\n" * 5000, id="chunks of one byte"),
    ],
)
def test_a_flood_is_bounded_in_memory_and_time(data: bytes) -> None:
    """A server that sends without end and without pause is left, before it costs 32 MB or much more time than allowed."""
    listener, thread = send_for_ever(data)
    quick = Deadlines(connect=0.5, first_token=0.5, stalled=0.5, total=0.8)
    tracemalloc.start()
    start = time.monotonic()
    try:
        failure = fail(f"http://127.0.0.1:{listener.getsockname()[1]}", deadlines=quick)
        took, (_, peak) = time.monotonic() - start, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        listener.close()
        thread.join()
    assert failure.result in {"too_large", "timeout_first_token", "timeout_total"}, failure.message
    assert took < quick.total + 5, "without a limit it would have no end"
    assert peak < 32 * 1024 * 1024


# --- Small reads -----------------------------------------------------------------------------------------------------


def test_any_status_is_a_reply() -> None:
    """Status, headers in lower case, body; a POST with a body where it is asked for."""
    routes = {
        "/v1/models": plain({"data": []}),
        "/health": plain({"error": "x"}, status=503, headers=[("Retry-After", "3")]),
    }
    with ExactServer(routes) as server:
        connection = Connection(server.url)
        models = fetch(connection, "/v1/models", timeout=5, limit_bytes=1000, headers=(("authorization", "Bearer k"),))
        health = fetch(connection, "/health", timeout=5, limit_bytes=1000)
        show = fetch(connection, "/api/show", timeout=5, limit_bytes=1000, method="POST", body=b'{"model": "x"}')
        played = server.played()
    assert (models.status, models.body) == (200, b'{"data": []}')
    assert models.headers["content-type"] == "application/json"
    assert (health.status, health.headers["retry-after"]) == (503, "3")
    assert show.status == 404
    assert [one.method for one in played] == ["GET", "GET", "POST"]
    assert played[0].headers["authorization"] == "Bearer k"
    assert (played[2].body, played[2].headers["content-type"]) == (b'{"model": "x"}', "application/json")


@pytest.mark.parametrize(
    ("answer", "result", "message"),
    [
        (ScriptedAnswer((), "hang"), "timeout_total", "no whole answer for 0.4 s"),
        (
            ScriptedAnswer(((0, head(200, [("content-length", "9")]) + b"1"),), "hang"),
            "timeout_total",
            "no whole answer",
        ),
        (ScriptedAnswer(((0, head(200, [("content-length", "9")]) + b"1"),), "close"), "truncated", "broke off"),
        (plain(b"x" * 1001), "too_large", "/path answered with more than 1000 bytes"),
        (plain(b"x" * 9_000_000), "too_large", "more than 1000 bytes"),
        (
            plain(gzip.compress(b"x" * 10_000_000)[:900], headers=[("content-encoding", "gzip")]),
            "too_large",
            "unpacks to more than 1000 bytes",
        ),
        (ScriptedAnswer((), "close"), "connect", "closed without an answer"),
    ],
)
def test_a_read_that_gets_no_answer_fails(answer: ScriptedAnswer, result: Result, message: str) -> None:
    """A small read is bounded in time and bytes like a probe."""
    start = time.monotonic()
    with ExactServer({"/path": answer}) as server, pytest.raises(ProbeFailure, match=message) as caught:
        fetch(Connection(server.url), "/path", timeout=0.4, limit_bytes=1000)
    assert caught.value.result == result
    assert time.monotonic() - start < 1.4


def test_a_body_of_just_the_limit_is_read() -> None:
    """The limit is what may come."""
    with ExactServer({"/path": plain(b"x" * 1000)}) as server:
        assert len(fetch(Connection(server.url), "/path", timeout=5, limit_bytes=1000).body) == 1000
