"""What a server does for its users, from one status check to the next: how much it generates, what one user gets, or nothing at all.

Readings are taken while no probe of ours runs. What probes added between two readings is taken out: their tokens, and of a server
with histograms the seconds that they took of its sums.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from exporter.probe.dialects.dialect import ServerStatus
from exporter.probe.server import Server
from exporter.probe.slots import Growth, SlotReading, growth
from exporter.probe.users import Served, UserFigures, speed_of_ended, users_between

# Throughput between two readings closer than this would be noise.
WINDOW_SECONDS: Final = 5.0
# A slow server's few tokens are waited for so long.
LONGEST_WINDOW_SECONDS: Final = 30.0
# The slots say exactly what was generated between two readings, so these may be closer if nothing is known yet.
FIRST_WINDOW_SECONDS: Final = 2.0
# Between the readings of one status check, if an answer runs that is seen for the first time.
AGAIN_SECONDS: Final = 3.0
LEAST_FOLLOWED: Final = 8
# Requests that run for so long without any sign of work are stuck.
STUCK_SECONDS: Final = 240.0


@dataclass(frozen=True, slots=True)
class Production:
    """Tokens per second of all users together, tokens per second and seconds to first token of one, whether requests are stuck.

    None if the server can't tell or, for what one user gets, if nobody was served.
    """

    generated_tokens_per_second: float | None = None
    user_tokens_per_second: float | None = None
    user_ttft_seconds: float | None = None
    stuck: bool | None = None


@dataclass(frozen=True, slots=True)
class ProductionReading:
    """The server's own count of generated tokens at a time, how many were ours by then, and which run of it counted them."""

    tokens: float
    ours: int
    at: float
    started: str | None = None


@dataclass(frozen=True, slots=True)
class SumsReading:
    """The sums of a server's histograms at a time, what probes added to them by then, and which run of it counted them."""

    sums: Served
    ours: Served
    at: float
    started: str | None = None


@dataclass(frozen=True, slots=True)
class SlotsReading:
    """The slots at a time, of which model and which run of the server, and how many probes there had been."""

    slots: tuple[SlotReading, ...]
    at: float
    of: tuple[str | None, ...]
    probes: int


class ProductionMeter:
    """Makes ``Production`` of the status checks of one target. Not thread-safe."""

    def __init__(self, server: Server, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._monotonic = monotonic
        self._reading: ProductionReading | None = None
        self._throughput: float | None = None
        self._sums: SumsReading | None = None
        self._slots: SlotsReading | None = None
        self._users = UserFigures()
        self._ended: SumsReading | None = None
        self._speed_of_ended: float | None = None
        self._progress: tuple[float, tuple[object, ...]] | None = None
        self._stuck: tuple[float, bool] | None = None
        self.wants_another = False
        """Whether an answer runs that was seen for the first time: another reading soon gives its speed."""

    def read(self, status: ServerStatus) -> Production:
        """What this status check says together with those before."""
        now = self._monotonic()
        self.wants_another = False
        stuck = self._is_stuck(status, now)
        if not self._server.streams:
            self._read_slots(status, now)
            self._read_counter(status, now)
            self._read_sums(status, now)
            self._read_ended(status, now)
        speed = self._users.tokens_per_second
        return Production(
            self._throughput, self._speed_of_ended if speed is None else speed, self._users.ttft_seconds, stuck
        )

    def _read_counter(self, status: ServerStatus, now: float) -> None:
        """What others made the server generate between the last two readings; None until there are two since its start."""
        before = self._reading
        if status.generated_tokens is None:
            self._reading = None
            if status.slot_readings is None:
                self._throughput = None
            return
        reading = ProductionReading(status.generated_tokens, self._server.generated, now, status.started)
        if before is None or before.started != reading.started or reading.tokens < before.tokens:
            self._reading, self._throughput = reading, None
            idle = not (status.running or status.waiting)
            if status.counts_at_end and not idle:
                self._reading = None  # it counts an answer that began before
            return
        if status.counts_at_end and (status.running or status.waiting):
            self._throughput = None  # nothing of what runs is counted yet: known when all has ended
        elif now - before.at >= WINDOW_SECONDS:
            self._reading, self._throughput = reading, throughput(before, reading)

    def _read_sums(self, status: ServerStatus, now: float) -> None:
        """What users got by the server's histograms."""
        if status.sums is None:
            self._sums = None
            if status.slot_readings is None:
                self._users = UserFigures()
            return
        before, reading = self._sums, SumsReading(status.sums, self._server.ours, now, status.started)
        if before is None or before.started != reading.started or reading.sums.tokens < before.sums.tokens:
            self._sums, self._users = reading, UserFigures()
            return
        if (elapsed := now - before.at) < WINDOW_SECONDS:
            return
        ours = reading.ours - before.ours
        found = users_between(before.sums, reading.sums, ours)
        few = reading.sums.tokens - before.sums.tokens - ours.tokens >= 1 and found.tokens_per_second is None
        if not few or elapsed >= LONGEST_WINDOW_SECONDS:
            self._sums, self._users = reading, found

    def _read_ended(self, status: ServerStatus, now: float) -> None:
        """What users got whose answers ended between two checks, also those that no check saw run."""
        if status.ended is None:
            self._ended = self._speed_of_ended = None
            return
        before, reading = self._ended, SumsReading(status.ended, self._server.ours, now, status.started)
        if before is None or before.started != reading.started or reading.sums.tokens < before.sums.tokens:
            self._ended, self._speed_of_ended = reading, None
        elif now - before.at >= WINDOW_SECONDS:
            self._ended = reading
            self._speed_of_ended = speed_of_ended(before.sums, reading.sums, reading.ours - before.ours)

    def _read_slots(self, status: ServerStatus, now: float) -> None:
        """What users got and all together generate, by llama-server's slots; read if that costs the server nothing."""
        if status.slot_readings is None:
            self._slots = None
            return
        of = (status.started, status.model)
        before, reading = self._slots, SlotsReading(status.slot_readings, now, of, self._server.probes)
        if before is None or before.of != of:
            self._slots, self._users = reading, UserFigures()
            if status.generated_tokens is None:
                self._throughput = None
        elif before.probes != reading.probes:
            # What the slots hold now is partly ours: what was known of users stays until the next reading.
            self._slots = reading
            self._users = UserFigures() if _idle(before) and _idle(reading) else self._users
        elif (elapsed := now - before.at) >= self._slots_window or before.slots == reading.slots:
            found = growth(before.slots, reading.slots)
            if found.answers and found.followed < LEAST_FOLLOWED and elapsed < LONGEST_WINDOW_SECONDS:
                return
            self._slots, self._users = reading, self._users_by(found, elapsed)
            if status.generated_tokens is None:
                self._throughput = None if found.tokens is None else found.tokens / max(elapsed, FIRST_WINDOW_SECONDS)
        followed = {(each.number, each.task) for each in before.slots if each.running} if before else set()
        self.wants_another = any(
            each.running and each.decoded and (each.number, each.task) not in followed for each in status.slot_readings
        )

    @property
    def _slots_window(self) -> float:
        return FIRST_WINDOW_SECONDS if self._users.tokens_per_second is None else WINDOW_SECONDS

    def _users_by(self, found: Growth, elapsed: float) -> UserFigures:
        """The mean speed of the answers that ran all the time; of one that has ended since, what was measured before."""
        if found.answers and found.followed >= LEAST_FOLLOWED:
            return UserFigures(found.followed / found.answers / elapsed)
        return self._users if found.ended and not found.answers else UserFigures()

    def _is_stuck(self, status: ServerStatus, now: float) -> bool | None:
        """Whether requests have been there for minutes, and nothing that the server counts has moved."""
        if status.progress is None or status.running is None:
            # What only some status checks read stays known for as long as they may be apart.
            known = self._stuck
            return known[1] if known and now - known[0] < STUCK_SECONDS else None
        progress = (status.started, *status.progress)
        if not (status.running + (status.waiting or 0)):
            self._progress = None
        elif self._progress is None or self._progress[1] != progress:
            self._progress = (now, progress)
        stuck = self._progress is not None and now - self._progress[0] >= STUCK_SECONDS
        self._stuck = (now, stuck)
        return stuck


def _idle(reading: SlotsReading) -> bool:
    return not any(each.running for each in reading.slots)


def throughput(before: ProductionReading, after: ProductionReading) -> float:
    """Tokens per second that others made the server generate between two readings of one run of it."""
    tokens = (after.tokens - before.tokens) - (after.ours - before.ours)
    return max(tokens, 0.0) / (after.at - before.at)
