"""One request and its answer, as the connection observed them."""

from dataclasses import dataclass

from exporter.probe.http.cancellation import Cancellation
from exporter.probe.http.deadlines import Stage, Timer


class Arrival:
    """When the last byte of a read arrived: at ``at_ns``; if that is not its ``own`` stamp, from ``floor_ns`` to ``at_ns``.

    Both in monotonic ns.
    """

    __slots__ = ("at_ns", "floor_ns", "own")

    def __init__(self, at_ns: int, floor_ns: int, *, own: bool) -> None:
        self.at_ns = at_ns
        self.floor_ns = floor_ns
        self.own = own


@dataclass(slots=True)
class Exchange:
    """The deadlines and limits of one request, and the marks observed so far, in monotonic ns; None before they happen."""

    timer: Timer
    cancellation: Cancellation
    answer: Stage
    """The stage that begins when the request is sent."""
    kernel_stamps: bool = True
    limit_bytes: int = 8 * 1024 * 1024
    started_ns: int | None = None
    resolved_ns: int | None = None
    connected_ns: int | None = None
    secured_ns: int | None = None
    sent_ns: int | None = None
    sent_late_ns: int = 0
    """How long the kernel took to accept the last part of the request: it was sent between ``sent_ns`` and that much later."""
    headers_ns: int | None = None
    arrival: Arrival | None = None
    """That of the last read."""
    received: int = 0
    """Bytes, those of TLS included."""
    head: bytes = b""
    """The first bytes received, at least 16 if there are as many."""
    ended: bool = False
    clock_error_ns: int = 0
    """The largest error of mapping a stamp to monotonic time."""
