"""How long a model stays in memory after its last use, and how to probe it without changing that (Ollama's keep-alive).

A request's ``keep_alive`` starts the timer anew and stays in force for later requests that name none. So a probe asks for just
what is left, and when a user's request is seen to have come since, the next one gives back what that request would have got.
Pure: times are Unix seconds and come in as numbers.
"""

from dataclasses import dataclass, replace
from typing import Final

# The server's clock has a second's resolution for us, and a probe ends a little earlier or later than expected.
TOLERANCE_SECONDS: Final = 3.0
FOREVER_SECONDS: Final = 10 * 365 * 86400.0
# Whoever asks when this little is left could find the model gone before the next probe gives its time back.
MARGIN_INTERVALS: Final = 1.5


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """``leaves_at`` is when the model would go if no probe had come, ``full_seconds`` the most that a request was seen to give.

    ``sent_seconds`` is what the last probe asked for, ``expected_at`` the end that should be seen after it if nobody else came.
    """

    leaves_at: float
    full_seconds: float
    sent_seconds: float | None = None
    expected_at: float | None = None


def observe(before: KeepAlive | None, expires_at: float, now: float) -> KeepAlive:
    """What a status check at the server's timer says, given what was known before."""
    remaining = max(expires_at - now, 0.0)
    if before is None or before.sent_seconds is None or before.expected_at is None:
        return KeepAlive(expires_at, max(remaining, before.full_seconds if before else 0.0))
    if abs(expires_at - before.expected_at) <= TOLERANCE_SECONDS:
        return before
    full = max(before.full_seconds, remaining)
    used_at = expires_at - before.sent_seconds
    if expires_at < before.expected_at or used_at > now + TOLERANCE_SECONDS:
        # That request named a time of its own: what the server says now is what its user wants.
        return KeepAlive(expires_at, full)
    return KeepAlive(max(expires_at, used_at + full), full)


def seconds_to_ask(keep_alive: KeepAlive, now: float, probe_seconds: float) -> float:
    """What a probe of so many seconds asks for, so that the model leaves when it would have left; -1 is for ever."""
    remaining = keep_alive.leaves_at - now - probe_seconds
    return -1.0 if remaining > FOREVER_SECONDS else max(remaining, 1.0)


def after_probe(keep_alive: KeepAlive, sent_seconds: float, ended_at: float) -> KeepAlive:
    """The keep-alive after a probe that asked for so many seconds and ended then."""
    return replace(
        keep_alive, sent_seconds=sent_seconds, expected_at=None if sent_seconds < 0 else ended_at + sent_seconds
    )


def nearly_over(keep_alive: KeepAlive, now: float, interval: float) -> bool:
    """True where so little is left that a probe could shorten the stay of whoever asks next."""
    return keep_alive.leaves_at - now <= min(MARGIN_INTERVALS * interval, keep_alive.full_seconds / 2)
