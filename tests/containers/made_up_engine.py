"""A made-up container engine on a Unix socket, with the answers that a test gives it."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any, Final

from tests.containers.documents import CANARY
from tests.server_thread import in_thread

PREFIX: Final = "/v1.44"


class EngineAnswer:
    """What the made-up engine says to one path: a status, headers, a body; or nothing until the test ends."""

    def __init__(self, body: object = None, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status = status
        self.headers = headers or {}


SILENCE = EngineAnswer()


class MadeUpEngine(ThreadingMixIn, UnixStreamServer):
    """Answers by path; what it has no answer for is 404. Counts the calls."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, EngineAnswer] = {"/version": EngineAnswer({"ApiVersion": "1.44"})}
        self.calls: Counter[str] = Counter()
        self.ended = threading.Event()
        self.host = f"unix://{path}"
        super().__init__(str(path), Handler)

    def holds(self, *documents: dict[str, Any]) -> None:
        """Let these containers run."""
        self.answers[f"{PREFIX}/containers/json"] = EngineAnswer([{"Id": each["Id"]} for each in documents])
        for each in documents:
            self.answers[f"{PREFIX}/containers/{each['Id']}/json"] = EngineAnswer(each)

    def has_file(self, document: dict[str, Any], path: str, answer: EngineAnswer) -> None:
        """Answer the archive call for one path in a container."""
        self.answers[f"{PREFIX}/containers/{document['Id']}/archive?path={path.replace('/', '%2F')}"] = answer


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 on a Unix socket."""

    protocol_version = "HTTP/1.1"
    server: MadeUpEngine

    def do_GET(self) -> None:
        """Answer from the table."""
        self.server.calls[self.path] += 1
        answer = self.server.answers.get(self.path, EngineAnswer({"message": CANARY}, 404))
        if answer is SILENCE:
            self.server.ended.wait(30)
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        with suppress(BrokenPipeError):  # a client that was killed
            self.end_headers()
            self.wfile.write(answer.body)

    def address_string(self) -> str:
        """A Unix socket's client has none."""
        return "unix"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def running_engine(path: Path, *documents: dict[str, Any]) -> Iterator[MadeUpEngine]:
    """An engine at a socket, in which these containers run, until the block ends."""
    with in_thread(MadeUpEngine(path)) as server:
        server.holds(*documents)
        try:
            yield server
        finally:
            server.ended.set()
