"""A connection that stamps what it reads with the kernel's arrival time; an httpcore network backend under httpx.

On Linux ``SO_TIMESTAMPNS`` makes the kernel hand out, with the bytes, the time at which the last of them arrived, whatever
the interpreter was doing since. Three things make the most of that:

- A read ends where an event ends, even when more bytes wait (the look ahead is a ``MSG_PEEK``): packets that queued up
  while this process was not running still give their own stamps.
- The kernel merges waiting packets when it can, and then only the last one's stamp is left. Bytes that are followed by
  others of the same stamp may be older, so their ``Arrival`` says since when they may have been there.
- TLS is done on memory buffers above the same reads, record by record, so it has the same stamps.

Stamps are wall time. Each is mapped to monotonic time by a pair of clock readings taken at that read; when the wall clock
has stepped since the pair before, or when the mapped stamp can't be true, the time right after the read stands instead.
"""

import errno
import ipaddress
import os
import queue
import re
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

import httpcore
import httpx

from exporter import __version__
from exporter.probe.failure import Cancelled, Expired, ProbeFailure
from exporter.probe.result import Result

_T = TypeVar("_T")

HEADERS_LIMIT: Final = 64 * 1024
_READ_BYTES: Final = 16 * 1024
_ADDRESSES_LIMIT: Final = 8
_SMALL_EVENT: Final = 32
"""Reads are not cut before so many bytes: shorter events are noise, and a read for each would cost too much."""
_SO_TIMESTAMPNS: Final = 35
_STEP_NS: Final = 20_000
"""Clock pairs that differ by more than their own uncertainty and this saw the wall clock step."""
_EVENT_END: Final = re.compile(rb"(?:\n\r?\n|\r\r|\}\r?\n)[\r\n]*")
"""Where an event of SSE or a line of JSON ends, with the end of the HTTP chunk that it came in."""


class Cancellation:
    """Ends running probes from another thread: whatever they wait for, they raise ``Cancelled`` at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakers: dict[int, Callable[[], object]] = {}
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """End all probes that run with it, and those that will."""
        with self._lock:
            self._cancelled = True
            for wake in self._wakers.values():
                wake()

    def check(self) -> None:
        """Raise ``Cancelled`` if it is."""
        if self._cancelled:
            raise Cancelled

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Call ``wake`` on ``cancel`` while the block runs; it must be quick and not raise."""
        with self._lock:
            self.check()
            self._wakers[id(wake)] = wake
        try:
            yield
        finally:
            with self._lock:
                del self._wakers[id(wake)]


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a server is and how to reach it. ``kernel_stamps`` off is for comparing with stamps after the read.

    ``permit`` says of an IP address whether it may be connected to, once its name is resolved; None permits all.
    """

    base_url: str
    ca_file: str | Path | None = None
    insecure_skip_verify: bool = False
    cancellation: Cancellation = field(default_factory=Cancellation)
    kernel_stamps: bool = True
    permit: Callable[[str], bool] | None = None


Stage = tuple[Result, float, str]
"""A deadline that can be set: the result when it passes, seconds, and what was missing until then."""


class Timer:
    """The deadlines of one request: that of the whole, and that of what is being waited for now."""

    def __init__(self, started_ns: int, total: float, doing: str) -> None:
        self._total: tuple[int, Stage] = (started_ns + _ns(total), ("timeout_total", total, doing))
        self._stage: tuple[int, Stage] = self._total

    def allow(self, result: Result, seconds: float, doing: str, *, since_ns: int) -> None:
        """Let what comes next take so long since ``since_ns``; the failure will say ``doing`` and for how long."""
        self._stage = (since_ns + _ns(seconds), (result, seconds, doing))

    def remaining(self) -> float:
        """Seconds until the next deadline; raises ``Expired`` where it has passed."""
        at_ns, stage = min(self._total, self._stage, key=lambda limit: limit[0])
        left = at_ns - time.monotonic_ns()
        if left <= 0:
            raise Expired(*stage)
        return left / 1e9


class Arrival:
    """When the last byte of a read arrived: at ``at_ns``, or if that is not its ``own``, between ``floor_ns`` and then."""

    __slots__ = ("at_ns", "floor_ns", "own")

    def __init__(self, at_ns: int, floor_ns: int, *, own: bool) -> None:
        self.at_ns = at_ns
        self.floor_ns = floor_ns
        self.own = own


@dataclass(slots=True)
class Wire:
    """What one connection has seen so far: marks in monotonic ns, and the arrival of what was read last."""

    timer: Timer
    cancellation: Cancellation
    answer: Stage
    """The deadline from sent on."""
    kernel_stamps: bool = True
    limit_bytes: int = 8 * 1024 * 1024
    started_ns: int | None = None
    resolved_ns: int | None = None
    connected_ns: int | None = None
    secured_ns: int | None = None
    sent_ns: int | None = None
    sent_late_ns: int = 0
    """How long the last part of the request took to hand to the kernel: it left between ``sent_ns`` and so much later."""
    headers_ns: int | None = None
    arrival: Arrival | None = None
    received: int = 0
    head: bytes = b""
    ended: bool = False
    clock_error_ns: int = 0
    """The worst uncertainty of mapping a stamp to monotonic time."""


def open_client(connection: Connection, wire: Wire) -> httpx.Client:
    """An HTTP client for one request: a fresh connection, no proxy, no cookies, no redirects, no compression."""
    context = _tls_context(connection) if connection.base_url.lower().startswith("https:") else None
    return httpx.Client(
        transport=_Transport(wire, context, connection.permit),
        headers={"accept-encoding": "identity", "user-agent": f"llm-probe-exporter/{__version__}"},
        timeout=None,  # noqa: S113 - the wire has its own deadlines, finer than httpx's
        trust_env=False,
        follow_redirects=False,
    )


class _Transport(httpx.BaseTransport):
    """httpx on httpcore on our backend, by the public parts of both."""

    def __init__(self, wire: Wire, context: ssl.SSLContext | None, permit: Callable[[str], bool] | None) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=context, max_connections=1, max_keepalive_connections=0, network_backend=_Backend(wire, permit)
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        response = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        assert isinstance(response.stream, Iterable)  # noqa: S101 - the sync pool gives no other
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response.stream))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        self._stream.close()


class _Backend(httpcore.NetworkBackend):
    def __init__(self, wire: Wire, permit: Callable[[str], bool] | None) -> None:
        self._wire = wire
        self._permit = permit

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the wire's timer rules
        local_address: str | None = None,  # noqa: ARG002 - never set
        socket_options: object = None,  # noqa: ARG002 - never set
    ) -> "_PlainStream":
        wire = self._wire
        wire.started_ns = time.monotonic_ns()
        addresses = _resolve(host.strip("[]"), port, wire)
        wire.resolved_ns = time.monotonic_ns()
        if self._permit is not None and not (addresses := [each for each in addresses if self._permit(each[4][0])]):
            raise ProbeFailure("connect", f"{host} is now an address that may not be reached under this name")
        wired = _connect(addresses, wire)
        wire.connected_ns = time.monotonic_ns()
        return _PlainStream(wired, wire)


class _PlainStream(httpcore.NetworkStream):
    def __init__(self, wired: "_Socket", wire: Wire) -> None:
        self._socket = wired
        self._wire = wire

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the wire's timer rules
        return self._socket.receive(max_bytes, _event_end)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the wire's timer rules
        _write(self._wire, self._socket, buffer)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 - the wire's timer rules
    ) -> "_TlsStream":
        stream = _TlsStream(self._socket, self._wire, ssl_context, server_hostname)
        try:
            stream.handshake()
        except BaseException:
            self.close()
            raise
        self._wire.secured_ns = time.monotonic_ns()
        return stream

    def close(self) -> None:
        self._socket.close()


class _TlsStream(httpcore.NetworkStream):
    """TLS on memory buffers, so that every read from the socket is ours to stamp."""

    def __init__(self, wired: "_Socket", wire: Wire, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self._socket = wired
        self._wire = wire
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._header = b""
        self._left = 0

    def handshake(self) -> None:
        self._perform(self._tls.do_handshake)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the wire's timer rules
        with suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return self._perform(lambda: self._tls.read(max_bytes))
        self._wire.ended = True
        return b""

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the wire's timer rules
        if buffer:
            self._tls.write(buffer)
            _write(self._wire, self._socket, self._outgoing.read())

    def close(self) -> None:
        self._socket.close()

    def _perform(self, step: Callable[[], _T]) -> _T:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._socket.receive(_READ_BYTES, self._record_end)
                self._incoming.write(data) if data else self._incoming.write_eof()
            except ssl.SSLError:
                with suppress(OSError):  # the alert that says why; the failure itself counts
                    self._flush()
                raise
            else:
                self._flush()
                return done

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._socket.send(self._outgoing.read())

    def _record_end(self, ahead: bytes) -> int:
        """Bytes up to the end of the TLS record that is being read: 5 of header, the last two of which are its length."""
        if not self._left:
            had = len(self._header)
            self._header += ahead[: 5 - had]
            if len(self._header) < 5:
                return len(ahead)
            self._left = 5 - had + int.from_bytes(self._header[3:])
            self._header = b""
        length = min(self._left, len(ahead))
        self._left -= length
        return length


class _Socket:
    """A socket: bounded by the timer, ended by the cancellation, each read stamped."""

    def __init__(self, sock: socket.socket, wire: Wire) -> None:
        self._sock = sock
        self._wire = wire
        self._cancellation = wire.cancellation
        self._space = socket.CMSG_SPACE(16) if wire.kernel_stamps and sys.platform == "linux" else 0
        if self._space:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._offset, self._offset_error = _clock_pair()
        self._distrust = 0
        """How many looks ahead a step of the wall clock makes doubtful."""
        self._peeked = memoryview(bytearray(_READ_BYTES))
        """Where looks go. A bytes object of that size would be made for each, and shrunk in place: holes in the heap that grow
        a daemon for weeks.
        """
        self._ahead = b""
        self._ahead_stamp: int | None = None
        """What is known to lie in the queue, and the stamp of its last byte when it was looked at."""
        self._seen_all = True
        self._looked_ns = self._floor_ns = time.monotonic_ns()
        """When that look began; what was not seen by the look before arrived after ``_floor_ns``."""
        self._stamp: int | None = None
        self._stamped = Arrival(0, 0, own=False)
        """The last read whose stamp could be trusted, and that stamp."""

    def send(self, data: bytes) -> tuple[int, int]:
        """Hand all of it to the kernel; gives the instants just before and after the last part went."""
        view = memoryview(data)
        before = after = time.monotonic_ns()
        while view:
            self.wait(select.POLLOUT)
            before = time.monotonic_ns()
            with suppress(BlockingIOError):
                view = view[self._sock.send(view, socket.MSG_DONTWAIT) :]
            after = time.monotonic_ns()
        return before, after

    def receive(self, size: int, end: Callable[[bytes], int]) -> bytes:
        """Read up to where ``end`` says that what is ahead should be cut; empty at the end of the stream."""
        wire = self._wire
        if wire.headers_ns is None and wire.received >= HEADERS_LIMIT:
            raise ProbeFailure("too_large", f"the answer's headers are longer than {HEADERS_LIMIT} bytes")
        if wire.received >= wire.limit_bytes:
            raise ProbeFailure("too_large", f"the answer is longer than {wire.limit_bytes} bytes")
        self._cancellation.check()
        wire.timer.remaining()
        if not self._ahead:
            self._look(min(size, _READ_BYTES))
        data, ancillary, _, _ = self._sock.recvmsg(end(self._ahead) or 1, self._space)
        if not data:
            wire.ended = True
            return b""
        self._ahead = self._ahead[len(data) :]
        wire.arrival = self._arrival(self._stamp_of(ancillary))
        wire.received += len(data)
        if len(wire.head) < 16:
            wire.head += data[:16]
        return data

    def _look(self, size: int) -> None:
        """Wait in the kernel for what comes next, and look at it as it is then.

        Not by a poll: after that the interpreter may be busy for a while, and what comes meanwhile could be merged with what
        came first.
        """
        if self._seen_all:
            self._floor_ns = max(self._looked_ns, self._stamped.at_ns)
        self._distrust = max(self._distrust - 1, 0)
        self._looked_ns = time.monotonic_ns()
        room = self._peeked[:size]
        with self._cancellation.waking(self._wake):
            while True:
                left = self._wire.timer.remaining()
                timeout = struct.pack("@ll", int(left), int(left % 1 * 1e6) + 1)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
                with suppress(BlockingIOError):
                    found, ancillary, _, _ = self._sock.recvmsg_into([room], self._space, socket.MSG_PEEK)
                    break
        self._cancellation.check()
        self._ahead = bytes(room[:found])
        self._seen_all = found < size
        self._ahead_stamp = _kernel_stamp(ancillary)

    def _stamp_of(self, ancillary: list[tuple[int, int, bytes]]) -> int | None:
        """The stamp of a read, or if it is earlier that of the look: meanwhile others may have been merged with it."""
        stamp = _kernel_stamp(ancillary)
        if stamp is None or self._ahead_stamp is None:
            return None
        return min(stamp, self._ahead_stamp)

    def _arrival(self, stamp: int | None) -> Arrival:
        """Map a stamp to monotonic time, if it can be trusted."""
        read_ns = time.monotonic_ns()
        before = self._stamped
        floor_ns = max(self._floor_ns, before.at_ns)
        offset, error = _clock_pair()
        if abs(offset - self._offset) > error + self._offset_error + _STEP_NS:
            # What is ahead now, and what came while it was read, may be stamped on either side of the step.
            self._distrust = 2
        self._offset, self._offset_error = offset, error
        same = stamp is not None and stamp == self._stamp
        if same:
            before.own = False  # the same packet goes on, or packets were merged: what was read before may be older
        if stamp is None or self._distrust:
            return Arrival(read_ns, self._floor_ns, own=False)
        if same:
            self._stamped = Arrival(before.at_ns, before.floor_ns, own=True)
            return self._stamped
        if not self._floor_ns - error <= stamp + offset <= read_ns + error:
            return Arrival(read_ns, self._floor_ns, own=False)
        at_ns = min(max(stamp + offset, before.at_ns), read_ns)  # a packet that overtook another waits for it
        self._stamp, self._stamped = stamp, Arrival(at_ns, floor_ns, own=True)
        self._wire.clock_error_ns = max(self._wire.clock_error_ns, error)
        return self._stamped

    def wait(self, event: int, until_ns: int | None = None) -> None:
        """Wait until the socket is ready, the timer ends, somebody cancels, or (``TimeoutError``) ``until_ns``."""
        poll = select.poll()
        poll.register(self._sock, event)
        with self._cancellation.waking(self._wake):
            while True:
                left = self._wire.timer.remaining()
                if until_ns is not None:
                    left = min(left, (until_ns - time.monotonic_ns()) / 1e9)
                    if left <= 0:
                        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
                if poll.poll(left * 1000):
                    break
        self._cancellation.check()

    def connect(self, address: Any, until_ns: int | None) -> None:
        """Connect, or raise the ``OSError`` that says why not."""
        self._sock.setblocking(False)
        with suppress(BlockingIOError):
            self._sock.connect(address)
        self.wait(select.POLLOUT, until_ns)
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        self._sock.setblocking(True)

    def close(self) -> None:
        self._sock.close()

    def _wake(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


def _write(wire: Wire, wired: _Socket, data: bytes) -> None:
    """Send a part of the request. A server may refuse before it has read all; then what it says is to be read."""
    if not data:
        return
    wire.timer.allow(*wire.answer, since_ns=time.monotonic_ns())
    try:
        before, after = wired.send(data)
    except OSError as exc:
        raise httpcore.WriteError(str(exc)) from exc
    wire.sent_ns, wire.sent_late_ns = before, after - before


def _connect(addresses: list[Any], wire: Wire) -> _Socket:
    """Connect to the first address that answers; each gets an equal part of what is left of the time."""
    failure: OSError | None = None
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        others = len(addresses) - tried
        share = wire.timer.remaining() / others
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wired = _Socket(sock, wire)
            wired.connect(address, time.monotonic_ns() + _ns(share) if others > 1 else None)
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
        else:
            return wired
    assert failure is not None  # noqa: S101 - getaddrinfo gives at least one address
    raise failure


def _event_end(ahead: bytes) -> int:
    """Bytes up to the end of the first event ahead, or all of them."""
    found = _EVENT_END.search(ahead, _SMALL_EVENT)
    return found.end() if found else len(ahead)


def _kernel_stamp(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """The wall time in ns that came with a read."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) == 16:
            seconds, nanoseconds = struct.unpack("qq", data)
            return int(seconds * 1_000_000_000 + nanoseconds)
    return None


def _clock_pair() -> tuple[int, int]:
    """Monotonic minus wall time in ns, and how far off that may be: the best of three, or the first that is good."""
    best: tuple[int, int] | None = None
    for _ in range(3):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        error = (after - before) // 2 + 1
        if best is None or error < best[1]:
            best = ((before + after) // 2 - wall, error)
        if error < 2_000:
            break
    assert best is not None  # noqa: S101 - the loop runs
    return best


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


_lookups: Final[dict[tuple[str, int], list["queue.SimpleQueue[Any]"]]] = {}
_lookups_lock: Final = threading.Lock()


def _resolve(host: str, port: int, wire: Wire) -> list[Any]:
    """Look a name up, in a thread of its own since ``getaddrinfo`` may hang; at most one a name, which others join."""
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with _lookups_lock:
        waiting = _lookups.get((host, port))
        if waiting is None:
            waiting = _lookups[host, port] = []
            threading.Thread(target=_look_up, args=(host, port), name=f"resolve {host}", daemon=True).start()
        waiting.append(answer)
    with wire.cancellation.waking(lambda: answer.put(None)):
        seconds = wire.timer.remaining()
        try:
            found = answer.get(timeout=seconds)
        except queue.Empty:
            raise ProbeFailure("resolve", f"the name {host} was not resolved within {seconds:.1f} s") from None
    wire.cancellation.check()
    if isinstance(found, Exception):
        raise copy(found)  # to each who waited its own: what is raised in two threads mixes their frames
    return list(found)


def _look_up(host: str, port: int) -> None:
    found: Any
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[:_ADDRESSES_LIMIT]
    except (OSError, UnicodeError) as exc:
        found = exc
    with _lookups_lock:
        for answer in _lookups.pop((host, port)):
            answer.put(found)


def _tls_context(connection: Connection) -> ssl.SSLContext:
    changed = Path(connection.ca_file).stat().st_mtime_ns if connection.ca_file else 0
    return _make_tls_context(str(connection.ca_file or ""), connection.insecure_skip_verify, changed)


@lru_cache(maxsize=32)
def _make_tls_context(ca_file: str, insecure: bool, _changed: int) -> ssl.SSLContext:  # noqa: FBT001 - a cache key
    context = ssl.create_default_context(cafile=ca_file or None)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
