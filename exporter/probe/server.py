"""What all probers of one host and port share: whose turn it is, and what probing has made the server generate."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from exporter.address import Address, address_of
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.marker import Markers, remember
from exporter.probe.users import Served


@dataclass(eq=False)
class Server:
    """One server in use by probers. Thread-safe."""

    _turn: threading.Lock = field(default_factory=threading.Lock)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    streams: int = 0
    """Streams of ours that run now."""
    generated: int = 0
    """Tokens that probes have made it generate."""
    ours: Served = field(default_factory=Served)
    """What probes have added to the sums of its histograms, as they themselves measured it; replaced whole."""
    probes: int = 0
    """How many times streams of ours have run."""
    markers: Markers = field(default_factory=Markers)
    """The words of our requests to it, hashed; replaced whole."""

    @contextmanager
    def in_turn(self, seconds: float, cancellation: Cancellation) -> Iterator[bool]:
        """Wait so long for the turn and hold it; gives whether it came. Raises Cancelled."""
        mine = self._wait(seconds, cancellation)
        try:
            yield mine
        finally:
            if mine:
                self._turn.release()

    @contextmanager
    def streaming(self, streams: int) -> Iterator[None]:
        """Count that many streams as ours while the block runs."""
        with self._lock:
            self.streams += streams
        try:
            yield
        finally:
            with self._lock:
                self.streams -= streams
                self.probes += 1

    def count(self, tokens: int, served: Served | None = None) -> None:
        """Note that a probe has made it generate that many tokens, and what that added to its sums."""
        with self._lock:
            self.generated += tokens
            self.ours += served or Served()

    def remember(self, words: Iterable[str]) -> None:
        """Keep these words of requests that are about to be sent: in the answer to another one they are foreign."""
        with self._lock:
            self.markers = remember(self.markers, words)

    def _wait(self, seconds: float, cancellation: Cancellation) -> bool:
        until = time.monotonic() + seconds
        while True:
            cancellation.check()
            left = until - time.monotonic()
            if self._turn.acquire(timeout=min(max(left, 0.0), 0.25)):
                return True
            if left <= 0:
                return False


class Servers:
    """The servers that are probed, by host and port; one that no prober holds any more is forgotten."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[Address, Server] = WeakValueDictionary()
        self._lock = threading.Lock()

    def at(self, url: str) -> Server:
        """The server of a URL; the names of this machine are one."""
        address = address_of(url)
        with self._lock:
            known = self._known.get(address)
            if known is None:
                known = self._known[address] = Server()
            return known


def pause(seconds: float, cancellation: Cancellation) -> None:
    """Wait so long. Raises Cancelled as soon as it is."""
    over = threading.Event()
    with cancellation.waking(over.set):
        over.wait(seconds)
    cancellation.check()
