"""One streaming request → its Timeline: marks as they were observed, no formulas. And small reads beside it.

Both use a fresh connection each time: that measures the connecting, and no stale keep-alive can fail a probe. Whatever the
server does, both end by their deadlines, and what they hold in memory is bounded.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

import httpcore
import httpx

from exporter.probe.failure import Cancelled, Expired, ProbeFailure, classify, one_line, refuse
from exporter.probe.http.deadlines import Stage, Timer
from exporter.probe.http.exchange import Arrival, Exchange
from exporter.probe.http.stamped_socket import HEADERS_LIMIT
from exporter.probe.http.transport import Connection, connect, open_client
from exporter.probe.secret import hide
from exporter.probe.stream import Decoder, Event, NdjsonDecoder, SseDecoder, TooLarge
from exporter.probe.timeline import Chunk, Delta, Kind, ServerTimings, Timeline, Usage

Framing = Literal["sse", "ndjson"]

LINE_LIMIT: Final = 1024 * 1024
STREAM_LIMIT: Final = 8 * 1024 * 1024
ERROR_LIMIT: Final = 64 * 1024
CHUNKS_LIMIT: Final = 65_536
_TLS_ALERT: Final = b"\x15\x03"
_CLOSING_SECONDS: Final = 2.0
"""How long to wait for the rest once the answer is complete (usage, [DONE]), or for the rest of an error's body."""
_SLOPPY_TYPES: Final = frozenset({"", "text/plain", "application/octet-stream"})
_STREAM_TYPES: Final[dict[Framing, frozenset[str]]] = {
    "sse": frozenset({"text/event-stream"}),
    "ndjson": frozenset(
        {
            "application/x-ndjson",
            "application/ndjson",
            "application/jsonl",
            "application/x-jsonlines",
            "application/stream+json",
            "application/json",
        }
    ),
}
_CATCHES: Final = (
    ProbeFailure,
    Expired,
    TooLarge,
    OSError,
    UnicodeError,
    OverflowError,
    httpx.HTTPError,
    httpx.InvalidURL,
    httpcore.ProtocolError,
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)


@dataclass(frozen=True, slots=True)
class Request:
    """What to POST: a path below the base URL, the body, headers such as the key's, and how the answer is framed."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    framing: Framing = "sse"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: to connect; from sent to the first text; from text to text; and for the whole."""

    connect: float = 5.0
    first_token: float = 120.0
    stalled: float = 30.0
    total: float = 180.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a small read, whatever its status; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Progress:
    """How far a stream has come, for another thread; and what was seen of it when it was cancelled."""

    def __init__(self) -> None:
        self._first_ns = 0
        self._last_ns = 0
        self._chunks = 0
        self.complete = False
        self.timeline: Timeline | None = None

    def note(self, at_ns: int) -> None:
        """Note a chunk with text."""
        self._first_ns = self._first_ns or at_ns
        self._chunks, self._last_ns = self._chunks + 1, at_ns

    def silent_limit_ns(self, gaps: float, seconds: float) -> int | None:
        """Until when the next chunk is not overdue: so many mean gaps and so many seconds after the last; None without a gap."""
        if self.complete or self._chunks < 2:
            return None
        gap = (self._last_ns - self._first_ns) / (self._chunks - 1)
        return self._last_ns + round(max(gaps * gap, seconds * 1e9))


def stream(
    connection: Connection,
    request: Request,
    read: Callable[[Event], Delta],
    deadlines: Deadlines,
    progress: Progress | None = None,
) -> Timeline:
    """Send the request and note when its text arrives, until the stream ends.

    ``read`` says what an event means; a ``ValueError`` from it means that the event is not of this API. Raises
    ``ProbeFailure``, which carries the marks seen by then, or ``Cancelled``: then ``progress`` has them.
    """
    progress = progress or Progress()
    started_ns = time.monotonic_ns()
    timer = Timer(started_ns, deadlines.total, "not done: the request has run")
    timer.allow("timeout_connect", deadlines.connect, "no connection", since_ns=started_ns)
    exchange = Exchange(
        timer,
        connection.cancellation,
        answer=("timeout_first_token", deadlines.first_token, "no token"),
        kernel_stamps=connection.kernel_stamps,
        limit_bytes=STREAM_LIMIT,
    )
    notes = _Notes(started_ns, exchange, deadlines, progress)
    try:
        with open_client(connection, exchange) as client:
            headers = [("content-type", "application/json"), *request.headers]
            outgoing = client.build_request(
                "POST", _url(connection, request.path), content=request.body, headers=headers
            )
            _listen(client, outgoing, request, read, notes)
    except Cancelled:
        progress.timeline = notes.timeline()
        raise
    except _CATCHES as exc:
        failure = _explain(exc, exchange)
        failure.timeline = notes.timeline()
        raise _without_secrets(failure, request.headers) from exc
    return notes.timeline()


def fetch(
    connection: Connection,
    path: str,
    *,
    timeout: float,
    limit_bytes: int,
    headers: tuple[tuple[str, str], ...] = (),
    method: str = "GET",
    body: bytes = b"",
) -> Reply:
    """Read something small within ``timeout`` seconds. Any status is a reply.

    Raises ``ProbeFailure`` where there is no answer, or one of more than ``limit_bytes``; ``Cancelled``.
    """
    started_ns = time.monotonic_ns()
    timer = Timer(started_ns, timeout, "no whole answer")
    timer.allow("timeout_connect", timeout, "no connection", since_ns=started_ns)
    answer: Stage = ("timeout_total", timeout, "no whole answer")
    exchange = Exchange(
        timer, connection.cancellation, answer, kernel_stamps=False, limit_bytes=2 * limit_bytes + HEADERS_LIMIT
    )
    found = bytearray()
    try:
        with open_client(connection, exchange) as client:
            extra = [("content-type", "application/json")] if body else []
            outgoing = client.build_request(
                method, _url(connection, path), content=body or None, headers=[*extra, *headers]
            )
            response = _send(client, outgoing, exchange)
            try:
                _gather(response, found, limit_bytes)
            finally:
                _close(response)
    except _CATCHES as exc:
        raise _without_secrets(_explain(exc, exchange), headers) from exc
    if len(found) > limit_bytes:
        raise ProbeFailure(
            "too_large", f"{path} answered with more than {limit_bytes} bytes", status=response.status_code
        )
    if not _is_plain(response):
        raise refuse(200, response.headers, b"", path)
    return Reply(response.status_code, dict(response.headers), bytes(found))


def is_refused(connection: Connection, timeout: float = 2.0) -> bool:
    """Whether nothing listens any more: one connect, closed at once. False where that can't be told."""
    started_ns = time.monotonic_ns()
    timer = Timer(started_ns, timeout, "no connection")
    exchange = Exchange(
        timer, connection.cancellation, ("timeout_total", timeout, "no connection"), kernel_stamps=False
    )
    try:
        connect(connection, exchange)
    except ConnectionRefusedError:
        return True
    except (*_CATCHES, Cancelled):
        return False
    return False


class _Notes:
    """What is being seen of one request."""

    def __init__(self, started_ns: int, exchange: Exchange, deadlines: Deadlines, progress: Progress) -> None:
        self._progress = progress
        self._started_ns = started_ns
        self._deadlines = deadlines
        self.exchange = exchange
        self.chunks: list[tuple[Arrival, Kind, int, int | None]] = []
        self._shared: set[int] = set()
        self._server: ServerTimings | None = None
        self._model: str | None = None
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.complete = False
        """Whether the answer is whole: what still comes is usage and the like, and is not waited for at any price."""
        self.ended_well = False
        """Whether a stream that ends here was not cut off: a finish, or usage after the text, was the last thing said."""
        self.end_ns: int | None = None

    def take(self, delta: Delta) -> None:
        """Note what one event says."""
        self.note_more()
        if delta.error is not None:
            raise ProbeFailure("server_error", f"the server broke off with an error: {one_line(delta.error)}")
        self.usage = delta.usage or self.usage
        self._server = delta.server or self._server
        self._model = delta.model or self._model
        self.finish_reason = delta.finish_reason or self.finish_reason
        characters = len(delta.answer) + len(delta.reasoning)
        if characters:
            self._take_text("answer" if delta.answer else "reasoning", characters, delta.output_tokens)
        self.ended_well = bool(self.finish_reason or delta.final or (delta.usage and not characters))
        if (self.finish_reason or delta.final) and not self.complete:
            self.complete = self._progress.complete = True
            now_ns = time.monotonic_ns()
            self.exchange.timer.allow("timeout_total", _CLOSING_SECONDS, "no end of the stream", since_ns=now_ns)

    def _take_text(self, kind: Kind, characters: int, output_tokens: int | None) -> None:
        if len(self.chunks) >= CHUNKS_LIMIT:
            raise ProbeFailure("too_large", f"the stream has more than {CHUNKS_LIMIT} events with text")
        self.chunks.append((self._arrival, kind, characters, output_tokens))
        self._progress.note(self._arrival.at_ns)
        if not self.complete:
            stalled, now_ns = (
                self._deadlines.stalled,
                time.monotonic_ns(),
            )  # not since its arrival: more may wait already
            self.exchange.timer.allow("timeout_stalled", stalled, "no further token", since_ns=now_ns)

    def note_more(self) -> None:
        """Note that the read in which the last text came goes on after it: its stamp is that of what followed."""
        if self.chunks and self.chunks[-1][0] is self.exchange.arrival:
            self._shared.add(len(self.chunks) - 1)

    @property
    def _arrival(self) -> Arrival:
        assert self.exchange.arrival is not None  # noqa: S101 - no event without a read
        return self.exchange.arrival

    def timeline(self) -> Timeline:
        """Freeze what was seen."""
        exchange = self.exchange
        late = [
            0 if arrival.own and index not in self._shared else max(0, arrival.at_ns - arrival.floor_ns)
            for index, (arrival, *_) in enumerate(self.chunks)
        ]
        return Timeline(
            started_ns=exchange.started_ns or self._started_ns,
            resolved_ns=exchange.resolved_ns,
            connected_ns=exchange.connected_ns,
            secured_ns=exchange.secured_ns,
            sent_ns=exchange.sent_ns,
            headers_ns=exchange.headers_ns,
            chunks=tuple(
                Chunk(arrival.at_ns, kind, characters, tokens, late_ns)
                for (arrival, kind, characters, tokens), late_ns in zip(self.chunks, late, strict=True)
            ),
            end_ns=self.end_ns,
            finish_reason=self.finish_reason,
            usage=self.usage,
            server=self._server,
            model=self._model,
            reads=len({id(arrival) for arrival, *_ in self.chunks}),
            coalesced=sum(1 for i, (arrival, *_) in enumerate(self.chunks) if i in self._shared or not arrival.own),
            clock_error_ns=exchange.clock_error_ns + exchange.sent_late_ns if exchange.sent_ns is not None else None,
        )


def _listen(
    client: httpx.Client, outgoing: httpx.Request, request: Request, read: Callable[[Event], Delta], notes: _Notes
) -> None:
    """Send, and read until the end."""
    response = _send(client, outgoing, notes.exchange)
    try:
        if not _is_stream(response, request.framing):
            raise _refused(response, request.path, notes.exchange)
        _follow(response, request.framing, read, notes)
    finally:
        notes.end_ns = time.monotonic_ns()
        _close(response)
    if not notes.chunks:
        said = f", though the server counted {notes.usage.output} tokens" if notes.usage and notes.usage.output else ""
        raise ProbeFailure("empty", f"the stream ended without any text{said}", status=response.status_code)
    if not notes.ended_well:
        raise ProbeFailure(
            "truncated",
            f"the stream ended after {len(notes.chunks)} chunks without saying that it is finished",
            status=response.status_code,
        )


def _send(client: httpx.Client, outgoing: httpx.Request, exchange: Exchange) -> httpx.Response:
    response = client.send(outgoing, stream=True)
    exchange.headers_ns = exchange.arrival.at_ns if exchange.arrival else time.monotonic_ns()
    return response


def _close(response: httpx.Response) -> None:
    """End the connection, and let go of it: httpx's response and its stream hold each other, and with them all that was used,
    until a garbage collection.
    """
    response.close()
    response.stream = httpx.ByteStream(b"")


def _follow(response: httpx.Response, framing: Framing, read: Callable[[Event], Delta], notes: _Notes) -> None:
    """Read events until the dialect expects no more, or the stream ends. Once the answer is whole, any end will do."""
    decoder: Decoder = SseDecoder(LINE_LIMIT) if framing == "sse" else NdjsonDecoder(LINE_LIMIT)
    try:
        for piece in response.iter_raw():
            notes.note_more()
            for event in decoder.feed(piece):
                if event.data.strip() and _take(event, read, notes):
                    return
            if decoder.pending:
                notes.note_more()
    except (Expired, OSError, httpx.HTTPError, httpcore.ProtocolError):
        if not notes.complete:
            raise
    for event in decoder.close():
        with suppress(ValueError, RecursionError):  # half an event is no news: the end is judged below
            notes.take(read(event))


def _take(event: Event, read: Callable[[Event], Delta], notes: _Notes) -> bool:
    """Note one event; whether it was the last."""
    try:
        delta = read(event)
    except (ValueError, RecursionError) as exc:
        shown = one_line(event.data[:400].decode("utf-8", "replace"))
        raise ProbeFailure(
            "protocol", f"an event of the stream is not of this API ({one_line(str(exc))}): {shown}"
        ) from exc
    notes.take(delta)
    return delta.final


def _is_plain(response: httpx.Response) -> bool:
    return str(response.headers.get("content-encoding", "identity")).lower() == "identity"


def _is_stream(response: httpx.Response, framing: Framing) -> bool:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return response.status_code == 200 and _is_plain(response) and kind in _STREAM_TYPES[framing] | _SLOPPY_TYPES


def _refused(response: httpx.Response, path: str, exchange: Exchange) -> ProbeFailure:
    """Say what an answer means that is no stream, from as much of its body as comes soon."""
    body = bytearray()
    exchange.timer.allow("timeout_total", _CLOSING_SECONDS, "no whole answer", since_ns=time.monotonic_ns())
    with suppress(Expired, ProbeFailure, OSError, httpx.HTTPError, httpcore.ProtocolError):
        _gather(response, body, ERROR_LIMIT)
    plain = bytes(body[:ERROR_LIMIT]) if _is_plain(response) else b""
    return refuse(response.status_code, response.headers, plain, path)


def _gather(response: httpx.Response, into: bytearray, limit_bytes: int) -> None:
    """Read a body, not much further than the limit."""
    for piece in response.iter_raw():
        into += piece
        if len(into) > limit_bytes:
            return


def _explain(exc: Exception, exchange: Exchange) -> ProbeFailure:
    """Classify an exception, with what the exchange says of how far the request had come."""
    if isinstance(exc, (ProbeFailure, Expired, TooLarge)):
        return classify(exc)
    handshake = exchange.connected_ns is not None and exchange.sent_ns is None
    broken = exchange.ended or (isinstance(exc, ConnectionError) and exchange.sent_ns is not None)
    if exchange.secured_ns is None and exchange.head.startswith(_TLS_ALERT) and not handshake:
        return ProbeFailure("protocol", "the server speaks TLS on this port: its url begins with https://")
    if broken and exchange.headers_ns is not None:
        return ProbeFailure("truncated", "the connection broke off in the middle of the stream")
    if broken and not exchange.received:
        return ProbeFailure("connect", "the connection was accepted, and closed without an answer. Is the server up?")
    failure = classify(exc)
    if failure.result == "truncated":
        failure.result = "tls" if handshake else "connect" if exchange.connected_ns is None else "truncated"
    return failure


def _without_secrets(failure: ProbeFailure, headers: tuple[tuple[str, str], ...]) -> ProbeFailure:
    """Take out the key, which a server may repeat in its error."""
    for name, value in headers:
        secret = value.removeprefix("Bearer ").strip()
        if secret and any(word in name.lower() for word in ("auth", "key", "token")):
            failure.message = hide(failure.message, secret)
            failure.body = failure.body.replace(secret.encode(), b"...")
    return failure


def _url(connection: Connection, path: str) -> str:
    return connection.base_url.rstrip("/") + path
