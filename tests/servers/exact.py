"""An HTTP server that says exactly when it sent what.

It plays scripts of bytes over real sockets, each at its time after the request arrived, and records the instants just
before and just after each send. A test compares with what the server did, not with what it was asked to do.

    with ExactServer({"/v1/chat/completions": chat(tokens=32, tokens_per_second=50)}) as server:
        ...                     # requests to server.url
        played = server.played()[-1]
        played.texts            # [(before_ns, after_ns) of each send with generated text]

With ``own_process=True`` it runs in a process of its own, so that the interpreter of the test does not move its times. If it
may, it goes before all other processes, as a clock has to. Monotonic time is the same in both. A route is a path,
or a method and a path (``GET /v1/models``). It has an ``Answer``, or a list of them: one for each request, the last repeats. Other
paths answer 404.
"""

import json
import os
import pickle
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, Self

Steps = tuple[tuple[float, bytes], ...]
End = Literal["keep", "close", "reset", "hang"]
Route = "Answer | Sequence[Answer]"

_SO_TIMESTAMPNS: Final = 35
_SPIN_NS: Final = 100_000
WORDS: Final = tuple(
    f" {word}"
    for word in "lamp boat moon road tree lake bird coat door fire gate hill king leaf milk nest wind salt".split()
)
"""What a healthy answer is made of: words of one length, in an order that repeats late."""


@dataclass(frozen=True, slots=True)
class ScriptedAnswer:
    """Bytes to send, each so many seconds after the request arrived, and what happens to the connection then.

    ``keep`` waits for the next request, ``hang`` for the client to leave. ``texts`` are the indexes of those steps that
    carry generated text.
    """

    steps: Steps
    end: End = "keep"
    texts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Played:
    """One request and what was sent on it: instants in monotonic ns; ``arrived_ns`` is the kernel's, where it gives one."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    arrived_ns: int
    sends: list[tuple[int, int]]
    text_steps: tuple[int, ...]

    @property
    def texts(self) -> list[tuple[int, int]]:
        """Before and after each send with generated text."""
        return [self.sends[step] for step in self.text_steps if step < len(self.sends)]


def plain(
    body: bytes | str | dict[str, Any] | list[Any] = b"",
    *,
    status: int = 200,
    content_type: str = "application/json",
    headers: Sequence[tuple[str, str]] = (),
    at: float = 0.0,
    end: End = "keep",
) -> ScriptedAnswer:
    """A whole answer with a length; a dict or a list becomes JSON."""
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return ScriptedAnswer(
        ((at, head(status, [("content-type", content_type), ("content-length", str(len(raw))), *headers]) + raw),), end
    )


def head(status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """A status line and headers."""
    lines = [f"HTTP/1.1 {status} Played", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def stream_head(content_type: str = "text/event-stream") -> bytes:
    """The head of a chunked stream."""
    return head(200, [("content-type", content_type), ("transfer-encoding", "chunked")])


def piece(data: bytes) -> bytes:
    """One HTTP chunk; of nothing, the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    return b"data: " + (data if isinstance(data, str) else json.dumps(data)).encode() + b"\n\n"


def streamed(
    events: Sequence[tuple[float, bytes]],
    *,
    texts: Sequence[int] = (),
    content_type: str = "text/event-stream",
    whole: bool = True,
    end: End = "keep",
) -> ScriptedAnswer:
    """A chunked stream: the head at once, each piece at its time, and the closing chunk if it is to be ``whole``."""
    steps = [(0.0, stream_head(content_type)), *((at, piece(data)) for at, data in events)]
    if whole:
        steps.append((steps[-1][0], piece(b"")))
    return ScriptedAnswer(tuple(steps), end, tuple(index + 1 for index in texts))


def chat(
    *,
    tokens: int = 16,
    tokens_per_second: float = 200.0,
    ttft: float = 0.03,
    per_chunk: int = 1,
    reasoning: int = 0,
    role_first: bool = True,
    usage: bool = True,
    running: bool = False,
    finish: str | None = "length",
    done: bool = True,
    prompt_tokens: int = 20,
    model: str = "exact",
    word: str | None = None,
    rest_after: float = 0.001,
    whole: bool = True,
    end: End = "keep",
) -> ScriptedAnswer:
    """An OpenAI chat stream: ``tokens`` tokens, the first ``reasoning`` of them as reasoning, ``per_chunk`` at a time.

    The first chunk comes ``ttft`` seconds after the request, then ``tokens_per_second``. ``role_first`` sends the role at once,
    long before. ``word`` is said again and again instead of ``WORDS``. ``running`` puts a running usage into each chunk,
    ``usage`` a final one behind the finish. The finish comes ``rest_after`` seconds after the last text: about a millisecond
    with llama-server.
    """

    def chunk(delta: dict[str, Any] | None, *, count: int | None = None, reason: str | None = None) -> bytes:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
        counts = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": count,
            "total_tokens": prompt_tokens + (count or 0),
        }
        extra = {} if count is None else {"usage": counts}
        return event({"id": "1", "object": "chat.completion.chunk", "model": model, "choices": choices, **extra})

    events: list[tuple[float, bytes]] = [(0.0, chunk({"role": "assistant", "content": ""}))] if role_first else []
    texts, sent, at = [], 0, ttft
    while sent < tokens:
        thinking = sent < reasoning
        many = min(per_chunk, (reasoning if thinking else tokens) - sent)
        at = ttft + sent / tokens_per_second
        sent += many
        texts.append(len(events))
        text = (
            "".join(WORDS[number % len(WORDS)] for number in range(sent - many, sent)) if word is None else word * many
        )
        delta = {"reasoning_content" if thinking else "content": text}
        events.append((at, chunk(delta, count=sent if running else None)))
    at += rest_after
    if finish is not None:
        events.append((at, chunk({}, reason=finish)))
    if usage:
        events.append((at, chunk(None, count=tokens)))
    if done:
        events.append((at, event("[DONE]")))
    return streamed(events, texts=texts, whole=whole, end=end)


class ExactServer:
    """Serves ``routes`` on a port of its own while the ``with`` block runs; ``certificate`` makes it speak TLS."""

    def __init__(
        self,
        routes: "Mapping[str, ScriptedAnswer | Sequence[ScriptedAnswer]]",
        *,
        own_process: bool = False,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self._scripts = {
            path: [astuple(answer) for answer in ([route] if isinstance(route, ScriptedAnswer) else route)]
            for path, route in routes.items()
        }
        self._certificate = [str(path) for path in certificate] if certificate else None
        self._own_process = own_process
        self.port = 0

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{'https' if self._certificate else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        if self._own_process:
            self._process = subprocess.Popen(
                [sys.executable, "-E", "-S", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self.port = self._ask((self._scripts, self._certificate))
        else:
            self._player = _Player(self._scripts, self._certificate)
            self.port = self._player.port
        return self

    def __exit__(self, *_: object) -> None:
        if not self._own_process:
            self._player.close()
            return
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(10)

    def played(self) -> list[Played]:
        """Every request so far, in the order of their arrival; one that still runs with the sends so far."""
        found = self._ask("played") if self._own_process else self._player.played()
        return [Played(*one) for one in found]

    def forget(self) -> None:
        """Begin the list anew."""
        if self._own_process:
            self._ask("forget")
        else:
            self._player.forget()

    def _ask(self, what: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump(what, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)


class _Player:
    """The server itself: a thread that accepts and one for each connection."""

    def __init__(self, scripts: dict[str, list[Any]], certificate: list[str] | None) -> None:
        self._scripts = scripts
        self._served = dict.fromkeys(scripts, 0)
        self._tls: ssl.SSLContext | None = None
        if certificate:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*certificate)
        self._lock = threading.Lock()
        self._log: list[list[Any]] = []
        self._open: set[socket.socket] = set()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def played(self) -> list[list[Any]]:
        with self._lock:
            return [list(one) for one in self._log]

    def forget(self) -> None:
        with self._lock:
            self._log.clear()

    def close(self) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads = [*(t for t in self._threads if t.is_alive()), thread]
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        if self._tls:
            connection.settimeout(10)
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
                return
            connection.settimeout(None)
        with self._lock:
            self._open.add(connection)
        try:
            with connection, suppress(OSError):
                while not self._closing.is_set() and self._answer(connection):
                    pass
        finally:
            with self._lock:
                self._open.discard(connection)

    def _answer(self, connection: socket.socket) -> bool:
        """Read one request and play its answer; whether another may follow."""
        request = _read_request(connection)
        if request is None:
            return False
        method, path, headers, body, arrived_ns = request
        sends: list[tuple[int, int]] = []
        with self._lock:
            plain_path = path.partition("?")[0]
            route = next((each for each in (f"{method} {plain_path}", plain_path) if each in self._scripts), None)
            if route is None:
                steps, end, texts = astuple(plain({"error": {"message": "no such path"}}, status=404))
            else:
                script, turn = self._scripts[route], self._served[route]
                self._served[route] += 1
                steps, end, texts = script[min(turn, len(script) - 1)]
            self._log.append([method, path, headers, body, arrived_ns, sends, texts])
        for at, data in steps:
            if not self._sleep_until(arrived_ns + round(at * 1e9)):
                return False
            before = time.monotonic_ns()
            connection.sendall(data)
            sends.append((before, time.monotonic_ns()))
        if end == "hang":
            while connection.recv(4096):
                pass
        if end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return bool(end == "keep")

    def _sleep_until(self, due_ns: int) -> bool:
        left = due_ns - time.monotonic_ns() - _SPIN_NS
        if left > 0 and self._closing.wait(left / 1e9):
            return False
        while time.monotonic_ns() < due_ns:
            pass
        return True


def _read_request(connection: socket.socket) -> tuple[str, str, dict[str, str], bytes, int] | None:
    received = b""
    arrived_ns = 0
    while b"\r\n\r\n" not in received:
        data, arrived_ns = _receive(connection)
        if not data:
            return None
        received += data
    top, _, body = received.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        data, arrived_ns = _receive(connection)
        if not data:
            return None
        body += data
    return method, path, headers, body, arrived_ns


def _receive(connection: socket.socket) -> tuple[bytes, int]:
    """Read, with the kernel's time of arrival in monotonic ns; over TLS, the time after the read."""
    if isinstance(connection, ssl.SSLSocket):
        return connection.recv(65536), time.monotonic_ns()
    data, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(16))
    now_ns = time.monotonic_ns()
    for _, kind, stamp in ancillary:
        if kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("qq", stamp)
            return data, min(now_ns, seconds * 1_000_000_000 + nanoseconds - _wall_minus_monotonic())
    return data, now_ns


def _wall_minus_monotonic() -> int:
    """Read both clocks without being interrupted in between: the closest of five pairs."""
    pairs = [(time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(5)]
    before, wall, after = min(pairs, key=lambda pair: pair[2] - pair[0])
    return wall - (before + after) // 2


def _run(commands: IO[bytes], answers: IO[bytes]) -> None:
    """Serve for the process that started this one, until it closes its end."""
    with suppress(OSError):  # which root may
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    player = None
    try:
        while True:
            try:
                command = pickle.load(commands)
            except EOFError:
                return
            answer: Any = None
            if command == "played" and player:
                answer = player.played()
            elif command == "forget" and player:
                player.forget()
            else:
                player = _Player(*command)
                answer = player.port
            pickle.dump(answer, answers)
            answers.flush()
    finally:
        if player:
            player.close()


if __name__ == "__main__":
    _run(sys.stdin.buffer, sys.stdout.buffer)
