"""What a scanning process is given to do: anything that can be pickled, and says what it may take."""

from collections.abc import Callable
from typing import Protocol


class WorkerJob(Protocol):
    """Work for one or more processes, each of which does its share.

    ``memory_bytes``: what each process may take, its program included; 0 for no bound. ``niceness`` is added to its priority.
    """

    @property
    def workers(self) -> int:
        """How many processes share it."""

    @property
    def niceness(self) -> int:
        """What is added to their priority."""

    @property
    def memory_bytes(self) -> int:
        """What each may take of memory."""

    def run(self, share: int, now: float, tick: Callable[[], None]) -> object:
        """Do a share: the answer, which can be pickled. ``tick`` is called once a file. ``now`` is Unix time."""
