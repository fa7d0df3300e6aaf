"""The ground of the simulated inference servers: HTTP over a real socket, every request remembered, streams word by word.

They are made up, but answer as the recorded servers of tests/fixtures/streams do.
"""

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request that came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    """What goes out: a whole body, or pieces that are sent one by one."""

    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Iterable[bytes] | None = None


def as_json(value: Any, status: int = 200) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, json.dumps(value).encode())


def sse(value: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


class Simulated:
    """A server that answers by ``answer``; subclasses say how. Use it as a context manager."""

    name = "simulated"

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.lock = threading.RLock()
        self._http: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def now(self) -> float:
        """Unix time, as its Date header tells it."""
        return time.time()

    def answer(self, asked: Asked) -> Answer:
        """What one request gets."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Its address."""
        assert self._http is not None
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def paths(self, method: str | None = None) -> list[str]:
        """The paths that were asked, in order."""
        return [each.path for each in self.asked if method in {None, each.method}]

    def posts(self) -> list[Any]:
        """The bodies of the POST requests, in order."""
        return [each.body for each in self.asked if each.method == "POST"]

    def start(self, port: int = 0) -> None:
        """Listen; on the port of before, if it is started again."""
        self._http = _Http(("127.0.0.1", port), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Listen no more; gives the port."""
        assert self._http is not None
        assert self._thread is not None
        port = int(self._http.server_address[1])
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        return port

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _take(self, asked: Asked) -> Answer:
        with self.lock:
            self.asked.append(asked)
        return self.answer(asked)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error."""


def _handler(server: Simulated) -> type[BaseHTTPRequestHandler]:
    take = server._take

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._give(take(self._asked(None)))

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            self._give(take(self._asked(json.loads(raw))))

        def _asked(self, body: Any) -> Asked:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            headers = {key.lower(): value for key, value in self.headers.items()}
            return Asked(self.command, parts.path, query, headers, body)

        def version_string(self) -> str:
            return server.name

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(server.now() if timestamp is None else timestamp)

        def _give(self, answer: Answer) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Connection", "close")
            for key, value in answer.headers.items():
                self.send_header(key, value)
            if answer.pieces is None:
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in answer.pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
