"""The models that a simulated server has in memory: loaded on request, evicted for others, unloaded when nobody used them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.servers.clock import Clock

POLL_SECONDS = 0.005


@dataclass(eq=False)
class Resident:
    """A model in memory. ``used_at`` is when its last request ended, or when it was loaded."""

    name: str
    used_at: float
    ttl: float | None = None
    state: str = "ready"
    requests: int = 0


class Memory:
    """At most ``most`` models. One that nobody used for ``ttl`` seconds leaves; what a request does to it goes to ``cost``.

    With ``spares_pinned`` models without a time of their own are neither counted nor evicted.
    """

    def __init__(
        self,
        cost: Callable[[str], None],
        clock: Clock,
        *,
        most: int = 1,
        ttl: float | None = None,
        load_seconds: float = 0.0,
        spares_pinned: bool = False,
    ) -> None:
        self.most = most
        self.ttl = ttl
        self.load_seconds = load_seconds
        self.spares_pinned = spares_pinned
        self.clock = clock
        self._cost = cost
        self._models: dict[str, Resident] = {}
        self._changed = threading.Condition()

    @property
    def models(self) -> dict[str, Resident]:
        """What is in memory now, or on its way there."""
        with self._changed:
            self._unload_idle()
            return dict(self._models)

    @property
    def ready(self) -> list[str]:
        """What is in memory whole."""
        return [each.name for each in self.models.values() if each.state == "ready"]

    def add(self, name: str, *, ttl: float | None = None) -> Resident:
        """Put a model there, as its user did; without ``ttl`` it stays."""
        with self._changed:
            self._models[name] = Resident(name, self.clock(), ttl)
            return self._models[name]

    def remove(self, name: str) -> None:
        """Take a model out."""
        with self._changed:
            self._models.pop(name, None)
            self._changed.notify_all()

    @contextmanager
    def use(self, name: str, left: Callable[[float], bool]) -> Iterator[Resident | None]:
        """The model for a request until the request ends; None where the client left before it was there.

        Models with running requests are waited for before they are evicted, the least recently used one goes first.
        """
        with self._changed:
            self._unload_idle()
            model = self._bring(name, left)
            if model is not None:
                model.requests += 1
        if model is None:
            yield None
            return
        try:
            yield model
        finally:
            with self._changed:
                model.requests -= 1
                model.used_at = self.clock()
                if model.ttl is not None:
                    self._cost("timer restart")
                self._changed.notify_all()

    def _bring(self, name: str, left: Callable[[float], bool]) -> Resident | None:
        while True:
            model = self._models.get(name)
            if model and model.state == "ready":
                return model
            if model is None:
                counted = [each for each in self._models.values() if each.ttl is not None or not self.spares_pinned]
                if len(counted) < self.most:
                    return self._load(name, left)
                idle = [each for each in counted if not each.requests and each.state == "ready"]
                if idle:
                    self._cost("eviction")
                    del self._models[min(idle, key=lambda each: each.used_at).name]
                    continue
            if left(0.0):
                return None
            self._changed.wait(POLL_SECONDS)

    def _load(self, name: str, left: Callable[[float], bool]) -> Resident | None:
        """A load goes on even if the client leaves."""
        self._cost("load")
        model = self._models[name] = Resident(name, self.clock(), self.ttl, "starting")
        self._changed.release()
        try:
            time.sleep(self.load_seconds)
        finally:
            self._changed.acquire()
        model.state, model.used_at = "ready", self.clock()
        self._changed.notify_all()
        return None if left(0.0) else model

    def _unload_idle(self) -> None:
        now = self.clock()
        for each in list(self._models.values()):
            if each.ttl is not None and each.state == "ready" and not each.requests and now - each.used_at > each.ttl:
                del self._models[each.name]
