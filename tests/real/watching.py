"""Readings of a container engine, and a watch on it that reads at each change."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from exporter.containers.engine import Engine
from exporter.containers.facts import ContainerFacts, EngineReading


def by_name(reading: EngineReading) -> dict[str, ContainerFacts]:
    """The containers of a reading that succeeded."""
    assert reading.available, reading.problem
    return {each.name: each for each in reading.containers}


class WatchedEngine:
    """A watch on an engine that reads at each change, with the times of its calls."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.changed = threading.Event()
        self.cancellation = threading.Event()
        self.thread = engine.watch(self.changed.set, self.cancellation)

    def next_reading(
        self, wanted: Callable[[EngineReading], bool], seconds: float = 20.0
    ) -> tuple[EngineReading, float]:
        """The first reading after a call of the watch that is as wanted, and how long it took."""
        began = time.monotonic()
        while (left := began + seconds - time.monotonic()) > 0 and self.changed.wait(left):
            self.changed.clear()
            reading = self.engine.read()
            if wanted(reading):
                return reading, time.monotonic() - began
        raise AssertionError(f"no such reading within {seconds} s")

    def end(self) -> None:
        """End the thread."""
        self.cancellation.set()
        self.engine.close()
        self.thread.join(10)
        assert not self.thread.is_alive()


@contextmanager
def watching(engine: Engine) -> Iterator[WatchedEngine]:
    """A watch that is ended whatever happens."""
    watched = WatchedEngine(engine)
    try:
        watched.next_reading(lambda _: True)
        yield watched
    finally:
        watched.end()
