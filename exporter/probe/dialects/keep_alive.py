"""How long a model stays in memory after its last use, and how to probe it without changing that (Ollama's keep-alive).

A request's ``keep_alive`` is set when the last running request ends, and stays in force for later requests that name none. So a
probe asks for just what is left. When a user's request is seen to have come since, the next probe gives back what that request
would have got. Pure: times are Unix seconds and come in as numbers.
"""

from dataclasses import dataclass, replace
from typing import Final

# The server reports nanoseconds; reading it right after the probe leaves only the time of that read.
TOLERANCE_SECONDS: Final = 0.3
FOREVER_SECONDS: Final = 10 * 365 * 86400.0
# A user who asks when this little is left could find the model gone before the next probe gives the time back.
MARGIN_INTERVALS: Final = 1.5


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """``leaves_at`` is when the model would unload if no probe had come, ``full_seconds`` the longest stay that a request gave.

    ``expires_at`` is what the server says now. ``sent_seconds`` is what the last probe asked for, ``expected_at`` the end that the server reported right after it.
    """

    leaves_at: float
    full_seconds: float
    expires_at: float = 0.0
    sent_seconds: float | None = None
    expected_at: float | None = None

    @property
    def owed(self) -> bool:
        """Whether requests that name no keep-alive get less now than before the last probe."""
        return self.sent_seconds is not None and 0 <= self.sent_seconds < self.full_seconds - 1.0


def observe(before: KeepAlive | None, expires_at: float, now: float) -> KeepAlive:
    """What the server's timer says, given what was known before."""
    remaining = max(expires_at - now, 0.0)
    if before is None or before.sent_seconds is None or before.expected_at is None:
        return KeepAlive(expires_at, max(remaining, before.full_seconds if before else 0.0), expires_at)
    if abs(expires_at - before.expected_at) <= TOLERANCE_SECONDS:
        return replace(before, expires_at=expires_at)
    full = max(before.full_seconds, remaining)
    used_at = expires_at - before.sent_seconds
    if expires_at < before.expected_at or used_at > now + TOLERANCE_SECONDS:
        # That request named a time of its own: what the server says now is what its user wants.
        return KeepAlive(expires_at, full, expires_at)
    # It named none, and got what the probe had left in force: it is given back the full time from its end on.
    return replace(
        before,
        leaves_at=max(expires_at, used_at + full),
        full_seconds=full,
        expires_at=expires_at,
        expected_at=expires_at,
    )


def seconds_to_ask(keep_alive: KeepAlive, now: float, probe_seconds: float) -> float:
    """What a probe of that many seconds asks for, so that the model unloads when it would have; -1 is no limit.

    ``probe_seconds`` is the probe's own work, without a wait in the server's queue.
    """
    remaining = keep_alive.leaves_at - now - probe_seconds
    return -1.0 if remaining > FOREVER_SECONDS else max(remaining, 1.0)


def after_probe(
    keep_alive: KeepAlive, sent_seconds: float, expires_at: float, *, queued: bool, now: float
) -> KeepAlive:
    """The keep-alive after a probe that asked for that many seconds; ``expires_at`` is what the server reports right after it.

    A probe that was ``queued`` ran behind a user's request, which ended just before: that request is given its full time.
    """
    leaves_at = max(keep_alive.leaves_at, now + keep_alive.full_seconds) if queued else keep_alive.leaves_at
    return replace(
        keep_alive,
        leaves_at=leaves_at,
        sent_seconds=sent_seconds,
        expected_at=None if sent_seconds < 0 else expires_at,
    )


def after_failure(keep_alive: KeepAlive, sent_seconds: float, expires_at: float) -> KeepAlive:
    """The keep-alive after a probe that failed or was given up: what it asked for may be in force, and nothing else is known.

    ``expires_at`` is what the server reports right after it.
    """
    return replace(
        keep_alive,
        sent_seconds=sent_seconds,
        expected_at=None if sent_seconds < 0 else expires_at,
        expires_at=expires_at,
    )


def nearly_over(keep_alive: KeepAlive, now: float, interval: float) -> bool:
    """True if so little is left that a probe could shorten the stay that the next user's request gives."""
    return keep_alive.leaves_at - now <= min(MARGIN_INTERVALS * interval, keep_alive.full_seconds / 2)
