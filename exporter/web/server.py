"""The listening socket and uvicorn on it, in a thread of its own; and how much one client may take.

The socket is bound when the daemon starts, so that a port in use is an error at start and not a line in a log.

No client can keep the others out. A request must be whole within seconds, and an answer must be taken. When there are too many
connections, the one goes that has been of no use for longest. So clients that are idle or slow are never in the way of a
scrape, however many they are.
"""

import asyncio
import errno
import logging
import re
import socket
import ssl
import threading
import time
from asyncio import sslproto
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from exporter.address import DEFAULT_LISTEN

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
AsgiApp = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

HEADER_BYTES: Final = 16 * 1024
REQUEST_BYTES: Final = 64 * 1024
"""Of a whole request. None that this exporter answers has a body; one that comes nevertheless is not read."""
CONNECTIONS: Final = 512
"""Half of the file descriptors that a process usually may have: the other half is for probes."""
REQUEST_SECONDS: Final = 10.0
"""From the first byte of a request, or from the connection, to the last; the handshake of TLS has as many of its own."""
IDLE_SECONDS: Final = 75.0
"""Between requests. Longer than any usual scrape interval: Prometheus keeps its connection."""
WRITE_SECONDS: Final = 30.0
WRITE_BYTES: Final = 16 * 1024
"""Bytes of a waiting answer that a client must take in that time."""
TLS_BUFFER_BYTES: Final = 16 * 1024
"""Of each connection. A record of TLS has at most that many; asyncio's 256 KiB would be 130 MB for idle clients alone."""
sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES
_NOT_ACCEPTED: Final = frozenset({"PEER_DID_NOT_RETURN_A_CERTIFICATE", "CERTIFICATE_VERIFY_FAILED"})
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
ACCEPT_PAUSE_SECONDS: Final = 0.05


class ListenError(Exception):
    """The address can't be listened on; the message says why and what to do."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on the address (``""`` is every address); ListenError if that can't be."""
    at = f"{f'[{host}]' if ':' in host else host}:{port}"
    if not host and (both := _listen_on_all(port)) is not None:
        return both
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as exc:
        raise ListenError(f"can't listen on {at}: {host} is not an address of this machine ({exc.strerror})") from exc
    bound = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as exc:
        bound.close()
        raise ListenError(f"can't listen on {at}: {_advice(exc, port)}") from exc
    bound.setblocking(False)
    return bound


def _listen_on_all(port: int) -> socket.socket | None:
    """A socket on every address, IPv6 and IPv4; None if this machine has no IPv6, or the port is taken."""
    if not socket.has_dualstack_ipv6():
        return None
    try:
        bound = socket.create_server(("", port), family=socket.AF_INET6, backlog=128, dualstack_ipv6=True)
    except OSError:
        return None
    bound.setblocking(False)
    return bound


def _advice(error: OSError, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"the port is in use, perhaps by another llm-probe-exporter (`ss -ltnp 'sport = :{port}'` shows by what)."
                " Stop that, or choose another address with --listen"
            )
        case errno.EACCES:
            return f"ports below 1024 need privileges. Choose another with --listen, such as {DEFAULT_LISTEN}"
        case errno.EADDRNOTAVAIL:
            return f"the address is not of this machine. Choose another with --listen, such as {DEFAULT_LISTEN}"
        case _:
            return error.strerror or str(error)


class WebServer:
    """Serves an ASGI application on a bound socket until ``stop``.

    ``app`` is what answers, with whatever guards it already around it. ``tls`` is asked for each new connection what it must
    speak: TLS by a context, or plain HTTP (None). ``refused`` gets the address of a client whose certificate was missing
    or not accepted.
    """

    def __init__(
        self,
        app: AsgiApp,
        bound: socket.socket,
        *,
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        refused: Callable[[str], object] = lambda _: None,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # what clients do wrong would fill the log
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=round(IDLE_SECONDS),
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=HEADER_BYTES,
        )
        config.load()
        self._server = _Server(config, bound, tls, refused)
        self._socket = bound
        # A daemon thread, and so are those that it starts: a probe that still runs for a client can't hold up the end.
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it serves: started, and its thread still runs."""
        return bool(self._server.started) and self._thread.is_alive()

    def start(self, timeout: float = 5.0) -> None:
        """Serve; returns once requests are answered. RuntimeError if that takes longer than ``timeout`` seconds."""
        self._thread.start()
        deadline = time.monotonic() + timeout
        while not self.alive:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("the web server did not start; the log says why")
            time.sleep(0.01)

    def drop(self, is_stale: Callable[[ssl.SSLContext | None], bool]) -> None:
        """Close the connections that were made with a context that is stale now; from any thread."""
        with suppress(RuntimeError):  # the loop has ended, and all its connections with it
            if self._server.loop is not None:
                self._server.loop.call_soon_threadsafe(self._server.drop, is_stale)

    def stop(self, timeout: float = 2.0) -> bool:
        """Take no more requests, let running ones end, within ``timeout`` seconds; False if some did not."""
        self._server.should_exit = True
        self._thread.join(timeout * 0.75)
        self._server.force_exit = True
        self._thread.join(timeout * 0.25)
        self._socket.close()
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[])
        except Exception:
            log.exception("the web server has stopped")


class _Server(uvicorn.Server):
    """uvicorn that accepts connections itself: they are counted from the moment that they are accepted."""

    def __init__(
        self,
        config: uvicorn.Config,
        bound: socket.socket,
        tls: Callable[[], ssl.SSLContext | None],
        refused: Callable[[str], object],
    ) -> None:
        super().__init__(config)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._bound = bound
        self._tls = tls
        self._refused = refused
        self._shaking: dict[asyncio.Task[None], ssl.SSLContext | None] = {}
        self._accepting: asyncio.Task[None] | None = None
        self._arriving: dict[asyncio.Task[None], float] = {}
        """Connections that are not connections yet, TLS shaking hands, and since when."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self._accepting = asyncio.create_task(self._accept())
        self._accepting.add_done_callback(self._close)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        tasks = [task for task in (self._accepting, *self._arriving) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._bound.close()
        await super().shutdown(sockets)

    def _close(self, accepting: asyncio.Task[None]) -> None:
        """End the server when its socket is closed, so that no server seems to run that accepts no connections."""
        self.should_exit = True
        if not accepting.cancelled() and (fault := accepting.exception()):
            log.error("no new connections are accepted", exc_info=fault)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._bound)
            except OSError:  # no file descriptor is left, or the client has gone already
                self._make_room()
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            if len(self._arriving) + len(self.server_state.connections) >= CONNECTIONS and not self._make_room():
                sock.close()
            else:
                task = asyncio.create_task(self._welcome(sock))
                self._arriving[task] = loop.time()
                task.add_done_callback(self._arrived)
            await asyncio.sleep(0)  # if many come at once, let those that are here go on

    async def _welcome(self, sock: socket.socket) -> None:
        tls, loop = self._tls(), asyncio.get_running_loop()
        limits = {"ssl_handshake_timeout": REQUEST_SECONDS, "ssl_shutdown_timeout": 1.0} if tls else {}
        task = asyncio.current_task()
        connection = _Connection(self.config, self.server_state, {})
        connection.tls = tls
        connection.on_made = lambda: task and self._arriving.pop(task, None)
        if task:
            self._shaking[task] = tls
        client = sock.getpeername()[0] if tls and tls.verify_mode is not ssl.CERT_NONE else ""
        try:
            await loop.connect_accepted_socket(lambda: connection, sock, ssl=tls, **limits)
        except ssl.SSLError as exc:
            if client and (exc.reason or "") in _NOT_ACCEPTED:
                self._refused(client)
        except OSError:
            pass  # a handshake that failed; the client knows why

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._arriving.pop(task, None)
        self._shaking.pop(task, None)

    def drop(self, is_stale: Callable[[ssl.SSLContext | None], bool]) -> None:
        """Close what was made with a stale context, and TLS handshakes with one."""
        for connection in [each for each in self.server_state.connections if isinstance(each, _Connection)]:
            if is_stale(connection.tls):
                connection.drop()
        for task in [task for task, tls in self._shaking.items() if is_stale(tls)]:
            task.cancel()

    def _make_room(self) -> bool:
        """Drop the connection that has been waited for longest; False if none is waited for."""
        candidates: list[tuple[float, Callable[[], object]]] = [
            (since, task.cancel) for task, since in self._arriving.items()
        ]
        connections = [each for each in self.server_state.connections if isinstance(each, _Connection)]
        candidates.extend((each.since, each.drop) for each in connections if each.is_waited_for)
        if not candidates:
            return False
        _, drop = min(candidates, key=lambda candidate: candidate[0])
        drop()
        return True


class _Connection(H11Protocol):
    """uvicorn's HTTP/1.1 with a clock on whatever is waited for: the request, the next request, that an answer is taken."""

    on_made: Callable[[], object]
    tls: ssl.SSLContext | None = None
    since = 0.0
    """When its last request was answered, or it was made."""
    _received = 0
    _waits_for = ""
    _clock: asyncio.TimerHandle | None = None
    _write_clock: asyncio.TimerHandle | None = None
    _unsent = 0

    @property
    def is_waited_for(self) -> bool:
        """Whether it is the client that has to do something."""
        return not self._requested or self.cycle.response_complete or self.flow.write_paused

    @property
    def _requested(self) -> bool:
        return self.scope is not None  # as long as there was no request, uvicorn has None there, whatever its types say

    def drop(self) -> None:
        """Close it at once, whatever is still to be sent."""
        self.connections.discard(self)
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.on_made()
        self.since = self.loop.time()
        self._wait_for("request")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wait_for("")
        self.resume_writing()
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received <= REQUEST_BYTES:
            super().data_received(data)
        elif self.conn.our_state is h11.IDLE:
            self.send_400_response("The request is too large.")
        else:
            self.drop()

    def handle_events(self) -> None:
        if self._headers_are_too_large():
            self.send_400_response("The headers are too large.")
            return
        super().handle_events()
        state = self.conn.their_state
        if state is h11.SEND_BODY or (state is h11.IDLE and self.conn.trailing_data[0]):
            self._wait_for("request")
        elif state is h11.IDLE and self._requested:
            self._received = 0
            self._wait_for("next request")
        else:
            self._wait_for("")

    def _headers_are_too_large(self) -> bool:
        """Whether the request that comes next has more headers than any may. h11 looks only if they have not all come."""
        if self.conn.their_state is not h11.IDLE or self.conn.our_state is not h11.IDLE:
            return False
        received = self.conn.trailing_data[0]
        return len(received) > HEADER_BYTES and _BLANK_LINE.search(received, 0, HEADER_BYTES) is None

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_to_write()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing: the clock of this class says when to close, also when the client doesn't take what it is sent."""

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_to_write()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_clock is not None:
            self._write_clock.cancel()
            self._write_clock = None

    def _expect_to_write(self) -> None:
        if self._write_clock is None:
            self._unsent = self.transport.get_write_buffer_size()
            self._write_clock = self.loop.call_later(WRITE_SECONDS, self._still_writes)

    def _still_writes(self) -> None:
        """Give a client that has taken something more time for the rest."""
        self._write_clock = None
        if self.transport.get_write_buffer_size() > self._unsent - WRITE_BYTES:
            self.drop()
        else:
            self._expect_to_write()

    def _wait_for(self, what: str) -> None:
        """Give the client its time for what is waited for now; a clock that runs for the same is not set again."""
        if what == self._waits_for:
            return
        if self._clock is not None:
            self._clock.cancel()
        self._waits_for = what
        seconds = REQUEST_SECONDS if what == "request" else IDLE_SECONDS
        self._clock = self.loop.call_later(seconds, self._has_waited) if what else None

    def _has_waited(self) -> None:
        """Drop it, unless the answer before is still on its way: that has a clock of its own."""
        what, self._waits_for = self._waits_for, ""
        if what == "next request" and self._write_clock is not None:
            self._wait_for(what)
        else:
            self.drop()
