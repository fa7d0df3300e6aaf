"""The queue of a server with so many slots: first come, first served, and one that leaves frees its place."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_SECONDS = 0.005


class Queue:
    """``slots`` requests run at once; the others wait in the order in which they came.

    ``held`` is how many more requests are there without a connection of their own: users that a test makes up. They take slots
    first, and those that find none wait.
    """

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.held = 0
        self._running = 0
        self._line: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def running(self) -> int:
        """Requests that have a slot."""
        return self._running + min(self.held, self.slots)

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return len(self._line) + max(self.held - self.slots, 0)

    @contextmanager
    def slot(self, left: Callable[[], bool]) -> Iterator[float | None]:
        """Wait for a slot and keep it; gives the seconds that were waited, or None where ``left`` said that nobody waits any more."""
        ticket, began = object(), time.monotonic()
        with self._changed:
            self._line.append(ticket)
            while not (self._line[0] is ticket and self.running < self.slots):
                self._changed.wait(POLL_SECONDS)
                if left():
                    self._line.remove(ticket)
                    self._changed.notify_all()
                    ticket = None
                    break
            else:
                self._line.popleft()
                self._running += 1
                self._changed.notify_all()
        if ticket is None:
            yield None
            return
        try:
            yield time.monotonic() - began
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()


def ticks(count: int, pace: Callable[[], float], left: Callable[[float], bool]) -> Iterator[int]:
    """Count the tokens of a stream, 1 to ``count``, each ``pace()`` seconds after the one before; ends early when the client leaves.

    The first one comes at once. Times don't drift: each is reckoned from the time at which the one before was due.
    """
    due = time.monotonic()
    for number in range(1, count + 1):
        if number > 1:
            due += pace()
        if left(due - time.monotonic()):
            return
        yield number
