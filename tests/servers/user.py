"""A user beside the exporter: one streaming request over plain HTTP, with the times at which its answer came.

with User(server.url, tokens=400) as user:   # returns when the first token is there
    ...                                      # the slot is busy
assert user.ttft_seconds < 1                 # leaving the block closes the connection
"""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from itertools import pairwise
from typing import Any, Self
from urllib.parse import urlsplit


class User:
    """Sends one request in a thread of its own.

    ``status``, ``lines`` (all that came), ``sent``, ``headers_at``, ``first_at`` and ``ended_at`` (monotonic seconds) fill up
    meanwhile. ``complete`` says that the server ended its answer itself.
    """

    def __init__(
        self,
        url: str,
        *,
        tokens: int = 100,
        prompt: str = "Tell me a story.",
        model: str | None = None,
        path: str = "/v1/chat/completions",
        messages: list[dict[str, str]] | None = None,
        **fields: Any,
    ) -> None:
        self.body: dict[str, Any] = {
            "messages": [{"role": "user", "content": prompt}] if messages is None else messages,
            "stream": True,
        }
        if path.startswith("/api/"):
            self.body["options"] = {"num_predict": tokens, **fields.pop("options", {})}
        else:
            self.body |= {"max_tokens": tokens, "stream_options": {"include_usage": True}}
        if model is not None:
            self.body["model"] = model
        self.body |= fields
        self.status: int | None = None
        self.lines: list[tuple[float, bytes]] = []
        self.sent = 0.0
        self.headers_at: float | None = None
        self.first_at: float | None = None
        self.ended_at: float | None = None
        self.complete = False
        self.asked = threading.Event()
        """Set when the request is written, or when that failed."""
        self._path = path
        parts = urlsplit(url)
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._changed = threading.Condition()

    @property
    def ttft_seconds(self) -> float:
        """From sending to the first text."""
        assert self.first_at is not None
        return self.first_at - self.sent

    @property
    def token_times(self) -> list[float]:
        """When the chunks with text came, monotonic seconds."""
        return [when for when, line in self.lines if _has_text(line)]

    @property
    def tokens(self) -> int:
        """Chunks with text."""
        return len(self.token_times)

    @property
    def gaps(self) -> list[float]:
        """Seconds between chunks with text."""
        return [later - earlier for earlier, later in pairwise(self.token_times)]

    def waited_for(self, other: "User") -> bool:
        """Whether the answer to this one began only when that of another was over, but for its last three tokens."""
        return self.headers_at is not None and other.token_times[-3] < self.headers_at

    @property
    def events(self) -> list[Any]:
        """What came, as JSON."""
        return list(_json_of(line for _, line in self.lines))

    def connect(self) -> Self:
        """Connect, as a client does that keeps its connections; the request follows with ``send``."""
        self._connection.connect()
        return self

    def send(self) -> Self:
        """Send the request, and don't wait."""
        self.sent = time.monotonic()
        if self._connection.sock is None:
            self._connection.connect()
        # The connection forgets its socket as soon as the headers are there.
        self._socket = self._connection.sock
        self._thread.start()
        return self

    def started(self, seconds: float = 30.0) -> Self:
        """Wait for the first token, or for the end."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.first_at or self.ended_at, seconds)
        return self

    def finished(self, seconds: float = 60.0) -> Self:
        """Wait for the end of the answer."""
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        return self

    def leave(self) -> None:
        """Close the connection."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._connection.close()

    def __enter__(self) -> Self:
        return self.send().started()

    def __exit__(self, *_: object) -> None:
        self.leave()

    def _run(self) -> None:
        try:
            headers = {"Content-Type": "application/json"}
            self._connection.request("POST", self._path, json.dumps(self.body), headers)
            self.asked.set()
            self._read(self._connection.getresponse())
        except (OSError, HTTPException, ValueError, AttributeError):
            pass
        finally:
            self.asked.set()
            with self._changed:
                self.ended_at = time.monotonic()
                self._changed.notify_all()

    def _read(self, response: HTTPResponse) -> None:
        self.status, self.headers_at = response.status, time.monotonic()
        while line := response.readline():
            now = time.monotonic()
            with self._changed:
                self.lines.append((now, line.strip()))
                if self.first_at is None and _has_text(line):
                    self.first_at = now
                    self._changed.notify_all()
        # http.client takes a stream that was cut for one that ended; only the last chunk leaves no chunk open.
        self.complete = not response.chunked or getattr(response, "chunk_left", None) is None


@contextmanager
def several(*users: User) -> Iterator[tuple[User, ...]]:
    """Users that are there at once; sent in this order."""
    try:
        for each in users:
            each.send().asked.wait(60)
            time.sleep(0.02)
        yield users
    finally:
        for each in users:
            each.leave()


def _json_of(lines: Iterator[bytes]) -> Iterator[Any]:
    for line in lines:
        text = line.removeprefix(b"data: ").strip()
        if text.startswith((b"{", b"[")) and text != b"[DONE]":
            yield json.loads(text)


def _has_text(line: bytes) -> bool:
    for event in _json_of(iter([line])):
        choices = event.get("choices") or [{}]
        delta = choices[0].get("delta") or choices[0]
        message = event.get("message") or {}
        said = [delta.get("content"), delta.get("reasoning"), delta.get("reasoning_content"), delta.get("text")]
        said += [message.get("content"), message.get("thinking"), event.get("response")]
        return any(said)
    return False
