"""The deadlines of one request, on the monotonic clock."""

import time

from exporter.probe.failure import Expired
from exporter.probe.result import Result

Stage = tuple[Result, float, str]
"""A stage of a request: the result if it takes too long, the seconds that it may take, and what is missing until it ends."""


class Timer:
    """Two deadlines of one request: that of the whole request, and that of its current stage."""

    def __init__(self, started_ns: int, total: float, doing: str) -> None:
        self._total: tuple[int, Stage] = (started_ns + nanoseconds(total), ("timeout_total", total, doing))
        self._stage: tuple[int, Stage] = self._total

    def allow(self, result: Result, seconds: float, doing: str, *, since_ns: int) -> None:
        """Begin a stage that may take that many seconds since ``since_ns``; its failure says ``doing`` and the seconds."""
        self._stage = (since_ns + nanoseconds(seconds), (result, seconds, doing))

    def remaining(self) -> float:
        """Seconds until the next deadline; raises ``Expired`` when one has passed."""
        at_ns, stage = min(self._total, self._stage, key=lambda deadline: deadline[0])
        left = at_ns - time.monotonic_ns()
        if left <= 0:
            raise Expired(*stage)
        return left / 1e9


def nanoseconds(seconds: float) -> int:
    """Seconds as whole nanoseconds."""
    return round(seconds * 1e9)
