"""A socket whose reads carry the kernel's arrival time.

On Linux ``SO_TIMESTAMPNS`` makes the kernel return, with the bytes, the time at which the last of them arrived, however long
the interpreter was busy since. Three things keep these stamps exact:

- A read ends where an event ends, even when more bytes wait (the socket peeks ahead with ``MSG_PEEK``). So packets that queued
  up while this process was not running still give their own stamps.
- The kernel may merge waiting packets, and then only the stamp of the last one is left. Bytes followed by others with the same
  stamp may be older, so their ``Arrival`` gives the earliest time at which they can have arrived.
- TLS runs on memory buffers above the same reads, one record at a time, so it has the same stamps.

Stamps are wall time. Each is mapped to monotonic time by a pair of clock readings taken at that read. When the wall clock has
stepped since the pair before, or when the mapped stamp is impossible, the time right after the read is used instead.
"""

import errno
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import httpcore

from exporter.probe.failure import ProbeFailure
from exporter.probe.http.exchange import Arrival, Exchange

HEADERS_LIMIT: Final = 64 * 1024
"""Bytes of an answer's headers."""
READ_BYTES: Final = 16 * 1024
_SO_TIMESTAMPNS: Final = 35
_STEP_NS: Final = 20_000
"""The wall clock has stepped when two clock pairs differ by more than their own errors and this."""
_HEAD_BYTES: Final = 16


class StampedSocket:
    """A socket: bounded by the timer, ended by the cancellation, each read stamped."""

    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        self._sock = sock
        self._exchange = exchange
        self._cancellation = exchange.cancellation
        self._space = socket.CMSG_SPACE(16) if exchange.kernel_stamps and sys.platform == "linux" else 0
        if self._space:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._offset, self._offset_error = _clock_pair()
        self._doubtful_peeks = 0
        """How many peeks a step of the wall clock makes doubtful."""
        self._buffer = memoryview(bytearray(READ_BYTES))
        """Where peeks go. A new bytes object for each would be shrunk in place, and the holes that this leaves in the heap make
        a daemon grow for weeks.
        """
        self._ahead = b""
        self._ahead_stamp: int | None = None
        """The bytes known to wait in the queue, and the stamp of the last one when the socket peeked."""
        self._seen_all = True
        self._peeked_ns = self._floor_ns = time.monotonic_ns()
        """When the last peek began; bytes that the peek before did not see arrived after ``_floor_ns``."""
        self._stamp: int | None = None
        self._stamped = Arrival(0, 0, own=False)
        """The last stamp that was trusted, and the arrival made of it."""

    def connect(self, address: Any, until_ns: int | None) -> None:
        """Connect, or raise the ``OSError`` that says why not."""
        self._sock.setblocking(False)
        with suppress(BlockingIOError):
            self._sock.connect(address)
        self._wait(select.POLLOUT, until_ns)
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        self._sock.setblocking(True)

    def write(self, data: bytes) -> None:
        """Send a part of the request, and begin the stage of its answer.

        Raises ``httpcore.WriteError`` when the server closes the connection: it may refuse before it has read all, and then
        httpcore still reads its answer.
        """
        if not data:
            return
        exchange = self._exchange
        exchange.timer.allow(*exchange.answer, since_ns=time.monotonic_ns())
        try:
            before, after = self.send(data)
        except OSError as exc:
            raise httpcore.WriteError(str(exc)) from exc
        exchange.sent_ns, exchange.sent_late_ns = before, after - before

    def send(self, data: bytes) -> tuple[int, int]:
        """Hand all of it to the kernel; returns the instants just before and just after it took the last part."""
        view = memoryview(data)
        before = after = time.monotonic_ns()
        while view:
            self._wait(select.POLLOUT)
            before = time.monotonic_ns()
            with suppress(BlockingIOError):
                view = view[self._sock.send(view, socket.MSG_DONTWAIT) :]
            after = time.monotonic_ns()
        return before, after

    def receive(self, size: int, end: Callable[[bytes], int]) -> bytes:
        """Read as many of the waiting bytes as ``end`` says; empty at the end of the stream."""
        exchange = self._exchange
        if exchange.headers_ns is None and exchange.received >= HEADERS_LIMIT:
            raise ProbeFailure("too_large", f"the answer's headers are longer than {HEADERS_LIMIT} bytes")
        if exchange.received >= exchange.limit_bytes:
            raise ProbeFailure("too_large", f"the answer is longer than {exchange.limit_bytes} bytes")
        self._cancellation.check()
        exchange.timer.remaining()
        if not self._ahead:
            self._peek(min(size, READ_BYTES))
        data, ancillary, _, _ = self._sock.recvmsg(end(self._ahead) or 1, self._space)
        if not data:
            exchange.ended = True
            return b""
        self._ahead = self._ahead[len(data) :]
        exchange.arrival = self._arrival(self._earlier_stamp(ancillary))
        exchange.received += len(data)
        if len(exchange.head) < _HEAD_BYTES:
            exchange.head += data[:_HEAD_BYTES]
        return data

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def _peek(self, size: int) -> None:
        """Wait in the kernel for the next bytes, and see them as they are at that moment.

        Not with a poll: the interpreter may be busy for a while after it, and bytes that come meanwhile could be merged with
        the first ones.
        """
        if self._seen_all:
            self._floor_ns = max(self._peeked_ns, self._stamped.at_ns)
        self._doubtful_peeks = max(self._doubtful_peeks - 1, 0)
        self._peeked_ns = time.monotonic_ns()
        room = self._buffer[:size]
        with self._cancellation.waking(self._wake):
            while True:
                left = self._exchange.timer.remaining()
                timeout = struct.pack("@ll", int(left), int(left % 1 * 1e6) + 1)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
                with suppress(BlockingIOError):
                    found, ancillary, _, _ = self._sock.recvmsg_into([room], self._space, socket.MSG_PEEK)
                    break
        self._cancellation.check()
        self._ahead = bytes(room[:found])
        self._seen_all = found < size
        self._ahead_stamp = _kernel_stamp(ancillary)

    def _earlier_stamp(self, ancillary: list[tuple[int, int, bytes]]) -> int | None:
        """The earlier of a read's stamp and its peek's: the kernel may have merged later packets into it meanwhile."""
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
            # The bytes ahead, and those that came during this read, may be stamped on either side of the step.
            self._doubtful_peeks = 2
        self._offset, self._offset_error = offset, error
        same = stamp is not None and stamp == self._stamp
        if same:
            before.own = False  # one packet in two reads, or merged packets: the bytes read before may be older
        if stamp is None or self._doubtful_peeks:
            return Arrival(read_ns, self._floor_ns, own=False)
        if same:
            self._stamped = Arrival(before.at_ns, before.floor_ns, own=True)
            return self._stamped
        if not self._floor_ns - error <= stamp + offset <= read_ns + error:
            return Arrival(read_ns, self._floor_ns, own=False)
        at_ns = min(max(stamp + offset, before.at_ns), read_ns)  # a packet that overtook another waits for it
        self._stamp, self._stamped = stamp, Arrival(at_ns, floor_ns, own=True)
        self._exchange.clock_error_ns = max(self._exchange.clock_error_ns, error)
        return self._stamped

    def _wait(self, event: int, until_ns: int | None = None) -> None:
        """Wait until the socket is ready.

        Raises ``Expired`` at the timer's deadline, ``Cancelled``, and ``TimeoutError`` at ``until_ns``.
        """
        poll = select.poll()
        poll.register(self._sock, event)
        with self._cancellation.waking(self._wake):
            while True:
                left = self._exchange.timer.remaining()
                if until_ns is not None:
                    left = min(left, (until_ns - time.monotonic_ns()) / 1e9)
                    if left <= 0:
                        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
                if poll.poll(left * 1000):
                    break
        self._cancellation.check()

    def _wake(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


def _kernel_stamp(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """The wall time in ns that came with a read."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) == 16:
            seconds, nanoseconds = struct.unpack("qq", data)
            return int(seconds * 1_000_000_000 + nanoseconds)
    return None


def _clock_pair() -> tuple[int, int]:
    """Monotonic minus wall time in ns, and its largest error: the best of three pairs, or the first good one."""
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
