"""The base of the simulated inference servers: HTTP over real sockets, requests remembered, costs counted, streams word by word.

A simulated server has no model, but its queue, its memory and its timers are real ones. What it does in response to each
request is what the real server does. Each behaviour names where it was read: the server's source, its documentation, or an
answer of a running one. ``costs`` counts what a request did that somebody has to pay for; a read that is free adds nothing.
"""

import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class ReceivedRequest:
    """One request that came in. ``body`` is None where it is no JSON."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    raw: bytes = b""
    connection: socket.socket | None = field(default=None, repr=False, compare=False)
    at: float = field(default_factory=time.monotonic, compare=False)
    """When it came, monotonic seconds."""

    def left(self, seconds: float = 0.0) -> bool:
        """Wait so long, at most until the client closes its connection; True where it has."""
        until = time.monotonic() + max(seconds, 0.0)
        if self.connection is None:
            time.sleep(max(seconds, 0.0))
            return False
        try:
            readable, _, _ = select.select([self.connection], [], [], max(seconds, 0.0))
            if not readable:
                return False
            if not self.connection.recv(1, socket.MSG_PEEK):
                return True
        except (OSError, ValueError):
            return True
        # The client sent more than its request; that is no sign that it left.
        time.sleep(max(until - time.monotonic(), 0.0))
        return False


@dataclass(frozen=True)
class ServerAnswer:
    """A whole body, or pieces that are sent one by one.

    Before an answer in pieces its headers are sent at once. With ``late`` they are sent when the first piece is there, which
    may be empty: some servers send them only when a request has its slot, or its first token.
    """

    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Iterable[bytes] | None = None
    late: bool = False


class RejectedError(Exception):
    """Raised while an answer is made, or by the pieces of a ``late`` one before the first: this answer is sent in its place."""

    def __init__(self, answer: ServerAnswer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def as_json(value: Any, status: int = 200) -> ServerAnswer:
    """An answer with a JSON body."""
    return ServerAnswer(status, json.dumps(value).encode())


def as_text(text: str, status: int = 200) -> ServerAnswer:
    """An answer in plain text."""
    return ServerAnswer(status, text.encode(), "text/plain; charset=utf-8")


def sse(value: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def word(number: int) -> str:
    """Another word of letters alone for each number: a tokenizer makes one token of it, and several of a word with digits."""
    return "word" + "".join(chr(ord("a") + int(digit)) for digit in str(number))


def words_of(body: Any) -> list[str]:
    """The prompt of a chat or a completion, as words; a word stands for a token."""
    messages = body.get("messages") or [{"content": body.get("prompt") or ""}]
    texts = []
    for each in messages:
        content = each.get("content") or ""
        parts = [part.get("text", "") for part in content] if isinstance(content, list) else [content]
        texts += [f"{each.get('role', '')} {part}" if len(messages) > 1 else part for part in parts]
    return " ".join(texts).split()


class Simulated:
    """A server that answers by ``answer``; subclasses say how. Use it as a context manager.

    A fault of the simulation itself is raised when the context ends, so that no test takes it for a behaviour.
    """

    name = "simulated"
    """Its Server header; empty for servers that send none."""

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self.costs: Counter[str] = Counter()
        """What requests cost so far, by kind: ``load``, ``reload``, ``eviction``, ``wake``, ``paid call``, ``timer restart``, …"""
        self.lock = threading.RLock()
        self.serving = 0
        """Requests that are being answered now."""
        self._faults: list[Exception] = []
        self._http: _Http | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[socket.socket] = set()

    def now(self) -> float:
        """Unix time, as its Date header tells it."""
        return time.time()

    def answer(self, request: ReceivedRequest) -> ServerAnswer:
        """The answer to one request."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Its address."""
        assert self._http is not None
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def paths(self, method: str | None = None) -> list[str]:
        """The paths that were asked, in order."""
        return [each.path for each in self.requests if method in {None, each.method}]

    def posts(self) -> list[Any]:
        """The bodies of the POST requests, in order."""
        return [each.body for each in self.requests if each.method == "POST"]

    def cost(self, kind: str, count: int = 1) -> None:
        """Count what a request did; nothing stays nothing."""
        if count:
            with self.lock:
                self.costs[kind] += count

    def start(self, port: int = 0, *, answering: bool = True) -> None:
        """Listen, on the port of before if it is started again; without ``answering`` connections wait until ``serve``."""
        self._http = _Http(("127.0.0.1", port), _handler(self))
        self._http.faults = self._faults
        if answering:
            self.serve()

    def serve(self) -> None:
        """Answer what is asked."""
        assert self._http is not None
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Listen no more, so that connecting is refused, while running streams go on; gives the port."""
        assert self._http is not None
        port = int(self._http.server_address[1])
        if self._thread is not None:
            self._http.shutdown()
            self._thread.join()
            self._thread = None
        self._http.server_close()
        return port

    def drop(self) -> None:
        """Close all connections, as the end of a process does."""
        with self.lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def kill(self) -> int:
        """End at once, as by SIGKILL; gives the port."""
        port = self.stop()
        self.drop()
        return port

    def idle(self, seconds: float = 10.0) -> bool:
        """Wait until no request is being answered; False where one still is after so long."""
        until = time.monotonic() + seconds
        while self.serving and time.monotonic() < until:
            time.sleep(0.005)
        return not self.serving

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.kill()
        if self._faults and kind is None:
            raise self._faults[0]

    def _take(self, request: ReceivedRequest) -> ServerAnswer:
        with self.lock:
            self.requests.append(request)
        try:
            return self.answer(request)
        except RejectedError as refused:
            return refused.answer

    def _opened(self, connection: socket.socket) -> None:
        with self.lock:
            self.serving += 1
            self._connections.add(connection)

    def _closed(self, connection: socket.socket) -> None:
        with self.lock:
            self.serving -= 1
            self._connections.discard(connection)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    faults: list[Exception]

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the signature of the base class
        """A client that leaves is no error; anything else is a fault of the simulation."""
        import sys

        fault = sys.exc_info()[1]
        if isinstance(fault, Exception) and not isinstance(fault, OSError):
            self.faults.append(fault)


def _handler(server: Simulated) -> type[BaseHTTPRequestHandler]:
    take = server._take

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            server._opened(self.connection)
            try:
                super().handle_one_request()
            finally:
                server._closed(self.connection)

        def do_GET(self) -> None:
            self._give(take(self._received(b"")))

        def do_HEAD(self) -> None:
            self._give(take(self._received(b"")))

        def do_POST(self) -> None:
            self._give(take(self._received(self.rfile.read(int(self.headers.get("content-length", 0))))))

        def do_DELETE(self) -> None:
            self.do_POST()

        def _received(self, raw: bytes) -> ReceivedRequest:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            headers = {key.lower(): value for key, value in self.headers.items()}
            try:
                body = json.loads(raw) if raw else None
            except ValueError:
                body = None
            return ReceivedRequest(self.command, parts.path, query, headers, body, raw, self.connection)

        def _give(self, answer: ServerAnswer) -> None:
            if answer.pieces is None:
                self._head(answer, {"Content-Length": str(len(answer.body))})
                if self.command != "HEAD":
                    self.wfile.write(answer.body)
                return
            pieces = iter(answer.pieces)
            try:
                self._send(answer, pieces)
            finally:
                if close := getattr(pieces, "close", None):
                    close()

        def _send(self, answer: ServerAnswer, pieces: Any) -> None:
            first = b""
            if answer.late:
                try:
                    first = next(pieces, b"")
                except RejectedError as refused:
                    self._give(refused.answer)
                    return
            self._head(answer, {"Transfer-Encoding": "chunked"})
            self._piece(first)
            for piece in pieces:
                self._piece(piece)
            self.wfile.write(b"0\r\n\r\n")

        def _head(self, answer: ServerAnswer, headers: dict[str, str]) -> None:
            self.send_response_only(answer.status)
            named = {"Server": server.name, "Date": self.date_time_string(server.now()), "Content-Type": answer.kind}
            for key, value in {**named, "Connection": "close", **answer.headers, **headers}.items():
                if value:
                    self.send_header(key, value)
            self.end_headers()
            self.wfile.flush()

        def _piece(self, piece: bytes) -> None:
            if piece:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
