"""One streaming request → its Timeline: marks as they were observed, no formulas. And small reads beside it.

Both use a fresh connection each time: that measures the connecting, and no stale keep-alive can fail a probe. Whatever the
server does, both end by their deadlines, and what they hold in memory is bounded.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal

import httpcore
import httpx

from exporter.probe.failure import Cancelled, Expired, ProbeFailure, classify, one_line, refuse
from exporter.probe.http.deadlines import Stage, Timer
from exporter.probe.http.encoding import decoded, is_readable
from exporter.probe.http.exchange import Arrival, Exchange
from exporter.probe.http.stamped_socket import HEADERS_LIMIT
from exporter.probe.http.transport import Connection, connect, open_client
from exporter.probe.secret import hide
from exporter.probe.stream import Decoder, Event, NdjsonDecoder, SseDecoder, TooLarge
from exporter.probe.timeline import Chunk, Delta, ServerTimings, TextKind, Timeline, Usage

Framing = Literal["sse", "ndjson"]

LINE_LIMIT: Final = 1024 * 1024
STREAM_LIMIT: Final = 8 * 1024 * 1024
ERROR_LIMIT: Final = 64 * 1024
CHUNKS_LIMIT: Final = 65_536
TEXT_LIMIT: Final = 65_536
_TLS_ALERT: Final = b"\x15\x03"
_HTTP2: Final = re.compile(rb"\x00..\x04[\x00\x01]\x00\x00\x00\x00|PRI \* HTTP/2", re.DOTALL)
"""The beginning of the answer of a server that speaks only HTTP/2: its settings frame."""
_SSE_START: Final = re.compile(rb"(?:\xef\xbb\xbf)?(?:data|event|id|retry|error)?:")
_LONGEST_FIELD: Final = 7
_JSON_TYPES: Final = frozenset({"application/json", "text/json"})
_HIDDEN: Final = (
    ", though the server counted {} tokens: a model whose thinking is not streamed may have used them up. Give the module a larger"
    " max_tokens, or switch thinking off by its `request:`, such as {{chat_template_kwargs: {{enable_thinking: false}}}}"
)
_ENDLESS: Final = ": its last {} chunks are the same text, and some servers (Ollama) cut off such an answer"
_EQUAL_TOKENS: Final = 30
"""This many chunks of the same text in a row are no answer; Ollama cuts off its stream there."""
_WORD: Final = re.compile(r"[^\W\d_]+|\S")
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
    """What to POST: a path below the base URL, the body, headers such as the key's, and how the answer is framed.

    ``max_tokens`` is the length of the answer that the body asks for; ``secrets`` are values of headers that no message shows.
    """

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    framing: Framing = "sse"
    max_tokens: int | None = None
    secrets: tuple[str, ...] = ()


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
        self.said: list[tuple[TextKind, str]] = []
        """The text, until it is judged: no part of the timeline, which is published. At most ``TEXT_LIMIT`` characters."""
        self._characters = 0

    def hear(self, delta: Delta) -> None:
        """Keep the text of an event."""
        for kind, text in (("reasoning", delta.reasoning), ("answer", delta.answer)):
            if kept := text[: TEXT_LIMIT - self._characters]:
                self.said.append((kind, kept))  # type: ignore[arg-type]  # both are kinds
                self._characters += len(kept)

    @property
    def begun(self) -> bool:
        """Whether text has come."""
        return self._chunks > 0

    def note(self, at_ns: int) -> None:
        """Note a chunk with text."""
        self._first_ns = self._first_ns or at_ns
        self._chunks, self._last_ns = self._chunks + 1, at_ns
        self.complete = False

    def silent_limit_ns(self, gaps: float, seconds: float) -> int | None:
        """Until when the next chunk is not overdue: that many mean gaps and that many seconds after the last; None without a gap."""
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
    notes = _Notes(started_ns, exchange, deadlines, progress, request.max_tokens)
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
        raise _without_secrets(failure, request.headers, request.secrets) from exc
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

    Raises ``ProbeFailure`` if there is no answer, or one of more than ``limit_bytes``; ``Cancelled``.
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
            if not is_readable(response.headers):
                raise refuse(200, response.headers, b"", path)
            try:
                _gather(decoded(response.iter_raw(), response.headers, limit_bytes), found, limit_bytes)
            finally:
                _close(response)
    except _CATCHES as exc:
        raise _without_secrets(_explain(exc, exchange), headers) from exc
    if len(found) > limit_bytes:
        raise ProbeFailure(
            "too_large", f"{path} answered with more than {limit_bytes} bytes", status=response.status_code
        )
    return Reply(response.status_code, dict(response.headers), bytes(found))


def is_refused(connection: Connection, timeout: float = 2.0) -> bool:
    """Whether nothing listens any more: one connect, closed at once. False if that can't be known."""
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

    def __init__(
        self, started_ns: int, exchange: Exchange, deadlines: Deadlines, progress: Progress, max_tokens: int | None
    ) -> None:
        self._max_tokens = max_tokens
        self._progress = progress
        self._started_ns = started_ns
        self._deadlines = deadlines
        self.exchange = exchange
        self.chunks: list[tuple[Arrival, TextKind, int, int | None, float | None]] = []
        self._blank: list[tuple[Arrival, int | None]] = []
        """Chunks without text, and the server's running count at each."""
        self._blanks_before = 0
        self._unread_before = 0
        self._last_text = ""
        self.repeated = 0
        """How many chunks in a row, up to the last one, have the same text."""
        self._shared: set[int] = set()
        self._server: ServerTimings | None = None
        self._model: str | None = None
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self._went_on = False
        """Whether text came after a finish."""
        self.complete = False
        """Whether the answer is whole: what still comes is usage and the like, and is not waited for at any price."""
        self.ended_well = False
        """Whether a stream that ends here was not cut off: a finish, or usage after the text, was the last thing said."""
        self.end_ns: int | None = None

    def take(self, delta: Delta) -> None:
        """Note what one event says."""
        self.note_more()
        if delta.error is not None:
            raise ProbeFailure("server_error", f"the server ended the stream with an error: {one_line(delta.error)}")
        self.usage = delta.usage or self.usage
        self._server = delta.server or self._server
        self._model = delta.model or self._model
        self.finish_reason = delta.finish_reason or self.finish_reason
        text = delta.answer + delta.reasoning
        if text:
            # A proxy may finish each chunk: what goes on is not finished.
            self.finish_reason = delta.finish_reason
            self._went_on = self._went_on or self.complete
            self.complete = False
            self._progress.hear(delta)
            self._take_text("answer" if delta.answer else "reasoning", text, delta.output_tokens)
        elif delta.blank or delta.unread:
            self._take_blank(delta)
        counted = delta.usage is not None and not text and not delta.blank
        self.ended_well = bool(self.finish_reason or delta.final or counted)
        if (self.finish_reason or delta.final) and not self.complete:
            self.complete = self._progress.complete = True
            seconds = self._deadlines.stalled if self._went_on else _CLOSING_SECONDS
            now_ns = time.monotonic_ns()
            self.exchange.timer.allow("timeout_total", seconds, "no end of the stream", since_ns=now_ns)

    def _take_blank(self, delta: Delta) -> None:
        if not self.chunks:
            self._blanks_before += delta.blank
            self._unread_before += delta.unread
            if len(self._blank) < CHUNKS_LIMIT and not self.finish_reason:
                self._blank.append((self._arrival, delta.output_tokens))

    def show_blanks(self) -> None:
        """If no text came at all, take the chunks without text as the answer, if they are its tokens.

        They are if the server's count rises with them, or if it counted as many tokens as there are chunks.
        """
        counts = [count for _, count in self._blank if count]
        rising = len(counts) == len(self._blank) and len(set(counts)) > 1
        if self.chunks or not self._blank or not (rising or (self.usage and self.usage.output == len(self._blank))):
            return
        self.chunks = [(arrival, "reasoning", 0, count, None) for arrival, count in self._blank]
        self._blanks_before = self._unread_before = 0

    def _take_text(self, kind: TextKind, text: str, output_tokens: int | None) -> None:
        if len(self.chunks) >= CHUNKS_LIMIT:
            raise ProbeFailure("too_large", f"the stream has more than {CHUNKS_LIMIT} events with text")
        self.repeated = self.repeated + 1 if text == self._last_text else 1
        self._last_text = text
        self.chunks.append((self._arrival, kind, len(text), output_tokens, words_in(text)))
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
                Chunk(arrival.at_ns, kind, characters, tokens, late_ns, words)
                for (arrival, kind, characters, tokens, words), late_ns in zip(self.chunks, late, strict=True)
            ),
            end_ns=self.end_ns,
            finish_reason=self.finish_reason,
            usage=self.usage,
            server=self._server,
            model=self._model,
            reads=len({id(arrival) for arrival, *_ in self.chunks}),
            coalesced=sum(1 for i, (arrival, *_) in enumerate(self.chunks) if i in self._shared or not arrival.own),
            clock_error_ns=exchange.clock_error_ns + exchange.sent_late_ns if exchange.sent_ns is not None else None,
            blank=self._blanks_before,
            unread=self._unread_before,
            max_tokens=self._max_tokens,
        )


def words_in(text: str) -> int:
    """How many tokens a text has at least by its look: words, digits, marks, and characters of other scripts; 1 for spaces.

    A character of more than one byte may be a token for each byte, so it counts for half of them.
    """
    if text.isascii():
        return max(len(_WORD.findall(text)), 1)
    wide = sum(len(character.encode("utf-8", "replace")) - 1 for character in text if not character.isascii())
    return max(len(_WORD.findall(text)), -(-wide // 2), 1)


def _listen(
    client: httpx.Client, outgoing: httpx.Request, request: Request, read: Callable[[Event], Delta], notes: _Notes
) -> None:
    """Send, and read until the end."""
    response = _send(client, outgoing, notes.exchange)
    try:
        pieces = _pieces(response)
        opening = _opening(pieces) if _kind_of(response) in _JSON_TYPES and request.framing == "sse" else b""
        whole = chain((opening,), pieces)
        if not _is_stream(response, request.framing, opening):
            raise _refused(response, request.path, notes.exchange, whole)
        _follow(whole, request.framing, read, notes)
    finally:
        notes.end_ns = time.monotonic_ns()
        _close(response)
    notes.show_blanks()
    if not notes.chunks:
        said = _HIDDEN.format(notes.usage.output) if notes.usage and notes.usage.output else ""
        raise ProbeFailure("empty", f"the stream ended without any text{said}", status=response.status_code)
    if not notes.ended_well:
        why = _ENDLESS.format(notes.repeated) if notes.repeated >= _EQUAL_TOKENS else ""
        raise ProbeFailure(
            "truncated",
            f"the stream ended after {len(notes.chunks)} chunks without a mark of its end{why}",
            status=response.status_code,
        )


def _send(client: httpx.Client, outgoing: httpx.Request, exchange: Exchange) -> httpx.Response:
    response = client.send(outgoing, stream=True)
    exchange.headers_ns = exchange.arrival.at_ns if exchange.arrival else time.monotonic_ns()
    return response


def _close(response: httpx.Response) -> None:
    """End the connection, and release it: httpx's response and its stream hold each other, and with them all that was used,
    until a garbage collection.
    """
    response.close()
    response.stream = httpx.ByteStream(b"")


def _follow(pieces: Iterable[bytes], framing: Framing, read: Callable[[Event], Delta], notes: _Notes) -> None:
    """Read events until the dialect expects no more, or the stream ends. Once the answer is whole, any end will do."""
    decoder: Decoder = SseDecoder(LINE_LIMIT) if framing == "sse" else NdjsonDecoder(LINE_LIMIT)
    try:
        for piece in pieces:
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
    """Note one event; whether it was the last. What is not of this API ends a stream, but not an answer that is whole by then."""
    try:
        delta = read(event)
    except (ValueError, RecursionError) as exc:
        if notes.complete:
            return False
        shown = one_line(event.data[:400].decode("utf-8", "replace"))
        raise ProbeFailure(
            "protocol", f"an event of the stream is not of this API ({one_line(str(exc))}): {shown}"
        ) from exc
    notes.take(delta)
    return delta.final


def _pieces(response: httpx.Response) -> Iterator[bytes]:
    """The body as it comes, unpacked; nothing if it is packed in a way that can't be read."""
    if not is_readable(response.headers):
        return iter(())
    return decoded(response.iter_raw(), response.headers, STREAM_LIMIT)


def _kind_of(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _opening(pieces: Iterator[bytes]) -> bytes:
    """The beginning of a body, long enough to distinguish server-sent events from JSON."""
    found = b""
    while len(found) < _LONGEST_FIELD and (piece := next(pieces, None)) is not None:
        found = (found + piece).lstrip()
    return found


def _is_stream(response: httpx.Response, framing: Framing, opening: bytes) -> bool:
    """Whether an answer is a stream: by its type, or if that is JSON (some proxies say so) by its beginning."""
    if response.status_code != 200 or not is_readable(response.headers):
        return False
    events = framing == "sse" and _SSE_START.match(opening) is not None
    return events or _kind_of(response) in _STREAM_TYPES[framing] | _SLOPPY_TYPES


def _refused(response: httpx.Response, path: str, exchange: Exchange, pieces: Iterable[bytes]) -> ProbeFailure:
    """Say what an answer means that is no stream, from as much of its body as comes soon."""
    body = bytearray()
    exchange.timer.allow("timeout_total", _CLOSING_SECONDS, "no whole answer", since_ns=time.monotonic_ns())
    with suppress(Expired, ProbeFailure, OSError, httpx.HTTPError, httpcore.ProtocolError):
        _gather(pieces, body, ERROR_LIMIT)
    return refuse(response.status_code, response.headers, bytes(body[:ERROR_LIMIT]), path)


def _gather(pieces: Iterable[bytes], into: bytearray, limit_bytes: int) -> None:
    """Read a body, not much further than the limit."""
    for piece in pieces:
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
        return ProbeFailure("protocol", "the server uses TLS on this port: begin its url with https://")
    if exchange.secured_ns is None and _HTTP2.match(exchange.head) and not handshake:
        return ProbeFailure(
            "protocol",
            "the server speaks only HTTP/2 on this port, as gRPC does: set url to the port of its HTTP/1.1 API",
        )
    if broken and exchange.headers_ns is not None:
        return ProbeFailure("truncated", "the connection broke off in the middle of the stream")
    if broken and not exchange.received:
        return ProbeFailure("connect", "the connection was accepted, and closed without an answer. Is the server up?")
    failure = classify(exc)
    if failure.result == "truncated":
        failure.result = "tls" if handshake else "connect" if exchange.connected_ns is None else "truncated"
    return failure


def _without_secrets(
    failure: ProbeFailure, headers: tuple[tuple[str, str], ...], secrets: tuple[str, ...] = ()
) -> ProbeFailure:
    """Take out the key and other secrets, which a server may repeat in its error."""
    named = (value for name, value in headers if any(word in name.lower() for word in ("auth", "key", "token")))
    for secret in (*(value.removeprefix("Bearer ").strip() for value in named), *secrets):
        if secret:
            failure.message = hide(failure.message, secret)
            failure.body = failure.body.replace(secret.encode(), b"...")
    return failure


def _url(connection: Connection, path: str) -> str:
    return connection.base_url.rstrip("/") + path
