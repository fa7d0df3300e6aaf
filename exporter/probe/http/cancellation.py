"""Ending running probes from another thread, also while they wait in the kernel."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from exporter.probe.failure import Cancelled


class Cancellation:
    """Ends running probes from another thread: whatever they wait for, they raise ``Cancelled`` at once.

    One with a ``parent`` ends with it, and can be ended alone.
    """

    def __init__(self, parent: "Cancellation | None" = None) -> None:
        self._parent = parent
        self._lock = threading.Lock()
        self._wakers: dict[int, Callable[[], object]] = {}
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        return self._cancelled or (self._parent is not None and self._parent.cancelled)

    def cancel(self) -> None:
        """End every probe that uses this object, now and later."""
        with self._lock:
            self._cancelled = True
            for wake in self._wakers.values():
                wake()

    def check(self) -> None:
        """Raise ``Cancelled`` after ``cancel``."""
        if self.cancelled:
            raise Cancelled

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Call ``wake`` on ``cancel`` while the block runs; it must be quick and not raise."""
        with self._parent.waking(wake) if self._parent is not None else nullcontext():
            with self._lock:
                self.check()
                self._wakers[id(wake)] = wake
            try:
                yield
            finally:
                with self._lock:
                    del self._wakers[id(wake)]
