"""How much clients may take: over real sockets, however many there are, a scrape gets its answer."""

import contextlib
import http.client
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from exporter.host.connections import read_connections
from exporter.web import server as limits
from exporter.web.server import WebServer, listen
from tests.waiting import eventually

HEAD = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
LARGE = b"x" * (32 << 20)
"""More than the kernel buffers of both sides of a connection."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """A small answer, or one that doesn't fit into any buffer."""
    request = Request(scope)
    content = LARGE if request.url.path == "/large" else b"fine\n"
    await PlainTextResponse(content)(scope, receive, send)


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a running server."""
    bound = listen("127.0.0.1", 0)
    server = WebServer(app, bound)
    server.start()
    yield bound.getsockname()[1]
    assert server.stop()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for both ends of a thousand connections in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a process may have {hard} files open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def scrape(port: int) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def clients(stack: contextlib.ExitStack, port: int, count: int, first: bytes) -> list[socket.socket]:
    """So many connections that have sent this."""
    made = []
    for _ in range(count):
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        connection.settimeout(10)
        connection.sendall(first)
        made.append(connection)
    return made


def answer(connection: socket.socket) -> int:
    """The status of the next answer, which is read whole."""
    with http.client.HTTPResponse(connection) as found:
        found.begin()
        found.read()
        return found.status


def serves_nobody(port: int) -> bool:
    """Whether the server at a port has closed its end of each connection."""
    found = read_connections(Path("/proc/self"), port, Path("/proc/none"))
    return found is not None and not found.others


def is_closed(connection: socket.socket, taken: bytearray) -> bool:
    """Whether the server has closed a connection, after whatever it sent."""
    try:
        while piece := connection.recv(65536):
            taken += piece
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.usefixtures("many_files")
def test_a_thousand_idle_and_dripping_clients_do_not_stop_a_scrape(port: int) -> None:
    """500 connections that say nothing and 500 that drip a header without end leave every scrape its answer."""
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        clients(stack, port, 500, b"")
        dripping = clients(stack, port, 500, HEAD)

        def drip() -> None:
            while not over.wait(1.0):
                for connection in dripping:
                    with contextlib.suppress(OSError):  # dropped, as it should be
                        connection.send(b"X-A: b\r\n")

        dripper = threading.Thread(target=drip)
        dripper.start()
        try:
            assert [scrape(port) for _ in range(20)] == [(200, b"fine\n")] * 20
        finally:
            over.set()
            dripper.join(10)


@pytest.mark.usefixtures("many_files")
def test_new_clients_without_end_do_not_stop_a_scrape(port: int) -> None:
    """Where there are more connections than are kept, and ever more come, a scrape still gets its answer."""
    with contextlib.ExitStack() as stack:
        clients(stack, port, limits.CONNECTIONS + 10, b"")
        assert scrape(port) == (200, b"fine\n")
        clients(stack, port, 10, b"")
        assert scrape(port) == (200, b"fine\n")


def test_the_oldest_of_no_use_goes_first(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there are too many, the connection goes whose last request is longest ago; the others stay."""
    monkeypatch.setattr(limits, "CONNECTIONS", 3)
    with contextlib.ExitStack() as stack:
        first, second, third = clients(stack, port, 3, HEAD + b"\r\n")
        assert [answer(each) for each in (first, second, third)] == [200] * 3
        first.sendall(HEAD + b"\r\n")
        assert answer(first) == 200
        assert scrape(port) == (200, b"fine\n")
        assert is_closed(second, bytearray())
        for connection in (first, third):
            connection.sendall(HEAD + b"\r\n")
            assert answer(connection) == 200


def test_clients_that_take_no_answer_make_room(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections full of answers that nobody reads are no reason to refuse a scrape."""
    monkeypatch.setattr(limits, "CONNECTIONS", 2)
    with contextlib.ExitStack() as stack:
        for connection in clients(stack, port, 2, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"):
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert scrape(port) == (200, b"fine\n")


@pytest.mark.parametrize(
    ("limit", "first", "drip"),
    [
        ("REQUEST_SECONDS", b"", b""),
        ("REQUEST_SECONDS", b"GET /metrics HT", b""),
        ("REQUEST_SECONDS", HEAD, b"X-A: b\r\n"),
        ("REQUEST_SECONDS", b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n", b"x"),
        ("REQUEST_SECONDS", b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        ("REQUEST_SECONDS", HEAD + b"\r\n" + HEAD, b""),
        ("IDLE_SECONDS", HEAD + b"\r\n", b""),
        ("WRITE_SECONDS", b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", b""),
        ("WRITE_SECONDS", b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b""),
    ],
    ids=[
        "silence",
        "half a line",
        "header",
        "body",
        "chunks",
        "second request",
        "idle",
        "unread",
        "unread, then close",
    ],
)
def test_what_takes_too_long_ends(
    port: int, monkeypatch: pytest.MonkeyPatch, limit: str, first: bytes, drip: bytes
) -> None:
    """A request, a body, a pause or an answer not taken ends by its own limit, also while bytes drip on."""
    monkeypatch.setattr(limits, limit, 0.3)
    with contextlib.ExitStack() as stack:
        (connection,) = clients(stack, port, 1, first)
        deadline = time.monotonic() + 8
        while drip:
            try:
                connection.sendall(drip)
            except OSError:
                return
            time.sleep(0.02)
            assert time.monotonic() < deadline, "it could drip on"
        if limit == "WRITE_SECONDS":
            eventually(lambda: serves_nobody(port), "the server closes its end, while nothing is taken")
        taken = bytearray()
        assert is_closed(connection, taken)
        assert len(taken) < len(LARGE)


def test_a_slow_reader_gets_all(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes an answer slowly, but takes it, gets it whole, however much longer than the limits that takes."""
    monkeypatch.setattr(limits, "WRITE_SECONDS", 1.0)
    monkeypatch.setattr(limits, "IDLE_SECONDS", 1.0)
    with contextlib.ExitStack() as stack:
        (connection,) = clients(stack, port, 1, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        begun, taken = time.monotonic(), 0
        while taken < len(LARGE):
            piece = connection.recv(1 << 19)
            assert piece, f"cut after {taken} bytes"
            taken += len(piece)
            time.sleep(0.05)
        assert time.monotonic() - begun > 2.0


def test_a_request_without_end_is_cut(port: int) -> None:
    """A body that comes fast, and as long as the limits allow it, is not read to its end."""
    with contextlib.ExitStack() as stack:
        head = b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n"
        (connection,) = clients(stack, port, 1, head)
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            connection.sendall(LARGE)
        assert scrape(port) == (200, b"fine\n")


def test_pipelined_requests_are_all_answered(port: int) -> None:
    """The clock on requests leaves those alone that came together."""
    with contextlib.ExitStack() as stack:
        (connection,) = clients(stack, port, 1, (HEAD + b"\r\n") * 20)
        found = bytearray()
        while found.count(b"fine\n") < 20:
            piece = connection.recv(65536)
            assert piece, f"closed after {found.count(b'fine')} answers"
            found += piece
        assert found.count(b"HTTP/1.1 200") == 20
