"""What a probe may do on a server that others use, and how often: the rules, without I/O. Times are seconds and come in as numbers."""

import math
import statistics
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, Literal

from exporter.probe.dialects.dialect import ServerStatus
from exporter.probe.result import Result
from exporter.settings import Module

# From this many prompt tokens on, a prompt is work that a server in use should not be given.
LONG_PROMPT_TOKENS: Final = 512
# A busy server is looked at so often, so far apart, before the probe is skipped.
BUSY_POLLS: Final = 4
BUSY_POLL_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 3600.0
# Results after which the server may go on working for a client that has left.
ABANDONED: Final[frozenset[Result]] = frozenset({"timeout_first_token", "timeout_stalled", "timeout_total"})
# What a probe costs is the mean of that many, so that one slow probe doesn't thin out the next day.
_COSTS: Final = 5
# A probe is as short as its precision allows.
DECODE_SECONDS: Final = 2.5
LEAST_TOKENS: Final = 16
# What was measured before a user came counts from so much undisturbed decode on.
LEAST_DECODE_SECONDS: Final = 1.0
# A wait in the server's queue below this is its scheduler's own step.
QUEUED_SECONDS: Final = 0.05
# A wait that only the server's own time for the prompt shows: besides a queue it may be the network or a prompt cache.
HIDDEN_WAIT_SECONDS: Final = 0.3
LATE_TIMES: Final = 3.0
LATE_SECONDS: Final = 1.0

Standing = Literal["idle", "busy", "unknown"]


def is_heavy(module: Module) -> bool:
    """True for probes that only an idle server gets: several streams, or a long prompt, which goes on after a client left."""
    return max(module.prompt_tokens, module.depth or 0) >= LONG_PROMPT_TOKENS or module.concurrency > 1


def standing_of(status: ServerStatus) -> Standing:
    """Whether requests run or wait, by the server's own word."""
    if status.running is None and status.waiting is None:
        return "unknown"
    return "busy" if (status.running or 0) + (status.waiting or 0) > 0 else "idle"


def short_length(module: Module, tokens_per_second: float | None) -> int:
    """Tokens that a probe asks for: those of some seconds of decode at the last known speed, the fewest if none is known."""
    return min(max(math.ceil((tokens_per_second or 0.0) * DECODE_SECONDS), LEAST_TOKENS), module.max_tokens)


def is_late(ttft_seconds: float, earlier: Sequence[float]) -> bool:
    """Whether a first token came so much later than usual that the request waited behind others, for servers that can't say.

    Never before there are three to compare with.
    """
    return len(earlier) >= 3 and ttft_seconds > LATE_TIMES * statistics.median(earlier) + LATE_SECONDS


def stretched(interval: float, busy_share: float, allowed_share: float, doublings: int) -> float:
    """How often a module of this interval may run: a whole multiple of it.

    ``busy_share`` is the share of the time that all modules of a target would take at their own intervals. Each abandoned
    probe in a row doubles the interval, and so does each probe that nobody's use lies between, up to an hour.
    """
    budgeted = interval * max(1.0, busy_share / allowed_share)
    paused = min(interval * 2.0 ** min(doublings, 30), max(interval, LONGEST_PAUSE_SECONDS))
    return interval * math.ceil(max(budgeted, paused) / interval - 1e-9)


class Pace:
    """How often one target is probed, by what its probes have cost and how they ended. Thread-safe."""

    def __init__(self, allowed_share: float) -> None:
        self._allowed_share = allowed_share
        self._lock = threading.Lock()
        self._intervals: dict[str, float] = {}
        self._costs: dict[str, deque[float]] = {}
        self._ran_at: dict[str, float] = {}
        self._skips: dict[str, int] = {}
        self._lone: dict[str, int] = {}
        self._abandoned = 0
        self._not_before = -math.inf

    def interval(self, name: str, module: Module) -> float:
        """Seconds from one run of this module to the next, as things are now."""
        with self._lock:
            self._intervals[name] = module.interval
            share = math.fsum(
                sum(costs) / len(costs) / self._intervals[key] for key, costs in self._costs.items() if costs
            )
            doublings = max(self._abandoned, self._lone.get(name, 0))
            return stretched(module.interval, share, self._allowed_share, doublings)

    def due(self, name: str, module: Module, now: float) -> bool:
        """Whether a module that is asked about at each of its intervals should run this time."""
        interval = self.interval(name, module)
        with self._lock:
            ran_at = self._ran_at.get(name, -math.inf)
            return now >= self._not_before and now - ran_at >= interval - module.interval / 2

    def may_probe_busy(self, name: str, module: Module) -> bool:
        """Whether a probe goes to a busy server: by the module's wish, or after enough skips; heavy ones never do."""
        with self._lock:
            patient = self._skips.get(name, 0) < module.max_skips
        return not is_heavy(module) and (module.when_busy == "probe" or not patient)

    def lone(self, name: str, *, paused: bool) -> None:
        """Note whether a probe that ran was the model's only use since the one before, on a server that unloads it when idle."""
        with self._lock:
            self._lone[name] = self._lone.get(name, 0) + 1 if paused else 0

    def skipped(self, name: str) -> int:
        """Note a skip because of users; gives how many there have been in a row."""
        with self._lock:
            self._skips[name] = self._skips.get(name, 0) + 1
            return self._skips[name]

    def ran(self, name: str, module: Module, result: Result, started_at: float, busy_seconds: float) -> None:
        """Note a probe that went to the server."""
        with self._lock:
            self._intervals[name] = module.interval
            self._skips[name] = 0
            self._ran_at[name] = started_at
            self._costs.setdefault(name, deque(maxlen=_COSTS)).append(busy_seconds)
            if result in ABANDONED:
                self._abandoned += 1
            elif result == "ok":
                self._abandoned = 0

    def hold_until(self, at: float) -> None:
        """Let nothing be due before then: the server asked for it."""
        with self._lock:
            self._not_before = max(self._not_before, at)
