"""Who came into a probe, by the connections to its server: for servers that can't say themselves that somebody waits.

A connection counts that came after the probe was sent and stays for two readings: a scrape or a health check is over by then. One that
stood before the probe counts if a request came over it since then, and waits for its answer at two readings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Connected(Protocol):
    """Who is connected to a server at one moment."""

    @property
    def others(self) -> frozenset[bytes]:
        """The far ends of connections that aren't known to be ours."""

    @property
    def unanswered(self) -> frozenset[bytes]:
        """Those of them over which the last bytes came from the client, as far as that can be seen."""

    @property
    def ours(self) -> int:
        """How many are known to be ours: none if the server is behind a proxy or in a network of its own."""


ReadConnected = Callable[[], Connected | None]
"""Who is connected now; None if that can't be seen."""


def unseen() -> Connected | None:
    """Nobody can be seen: the server is elsewhere."""
    return None


@dataclass(frozen=True, slots=True)
class Came:
    """How many connections of others came, or brought a request, since a probe was sent; how many of them at the reading before."""

    seen: int
    standing: int


class Newcomers:
    """The requests to a server that come while a probe of so many streams runs. Made before these are sent."""

    def __init__(self, read: ReadConnected, streams: int) -> None:
        self._read = read
        self._streams = streams
        self._before = read()
        self._last: frozenset[bytes] = frozenset()

    def read(self) -> Came | None:
        """Who came; None if that can't be seen. Meant to be called a fraction of a second apart."""
        now = self._read() if self._before is not None else None
        if now is None or self._before is None:
            return None
        # What the client said last before the probe may wait for ever: a WebSocket over which only it speaks.
        came = (now.others - self._before.others) | (now.unanswered - self._before.unanswered)
        standing, self._last = came & self._last, came
        # If ours are not known by their address, so many of those that came are ours. If they aren't there at all, the
        # server's connections are in another list.
        hidden = 0 if now.ours else self._streams
        if len(came) < hidden:
            return None
        return Came(len(came) - hidden, max(len(standing) - hidden, 0))
