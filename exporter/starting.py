"""Whether a server that doesn't answer is starting or down, by when its container or process was started. Pure.

vLLM compiles for 5 to 20 minutes before it listens. A server that has been silent for its whole ``start_window`` is down, however
often it was started meanwhile; so is one that was started over and over without ever answering.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from exporter.probe.result import ProbeResult, TargetState

# The third start without an answer in between is that of a server which fails at each.
MOST_STARTS: Final = 2
# The start of a process is known to about a second.
SAME_START_SECONDS: Final = 5.0
# Clocks of a container engine and of this machine may differ by so much.
AHEAD_SECONDS: Final = 60.0
_NOT_THERE: Final = frozenset({"connect", "timeout_connect", "protocol", "truncated", "http_5xx"})


@dataclass(frozen=True, slots=True)
class Silence:
    """Since when a server has not answered, and when it was started meanwhile; Unix time. ``there`` says whether it still runs."""

    since: float
    starts: tuple[float, ...] = ()
    there: bool = False


def silence_of(before: Silence | None, state: TargetState, started: Iterable[float | None]) -> Silence | None:
    """How long a server has been silent by its newest status check; None for one that answers.

    ``started`` are the starts of its container and its process, as far as they are known: the newest counts.
    """
    if state.up:
        return None
    silence = before or Silence(state.at_seconds)
    newest = max((each for each in started if each is not None), default=None)
    if newest is None or any(abs(each - newest) < SAME_START_SECONDS for each in silence.starts):
        return replace(silence, there=newest is not None)
    return replace(silence, starts=(*silence.starts, newest), there=True)


def starting_since(silence: Silence | None, window: float, now: float) -> float | None:
    """When a silent server was started, if it may still be starting; None if it is down."""
    if silence is None or not silence.there or len(silence.starts) > MOST_STARTS or now - silence.since >= window:
        return None
    return silence.starts[-1] if -AHEAD_SECONDS <= now - silence.starts[-1] < window else None


def with_start(state: TargetState, since: float | None) -> TargetState:
    """The state of a server that is starting, which counts as loading."""
    return state if since is None else replace(state, loading=True, starting_since=since)


def probe_of_starting(result: ProbeResult) -> ProbeResult:
    """The result of a probe of a server that is starting, which is no failure of it."""
    state = result.state
    if state is None or state.starting_since is None or result.result not in _NOT_THERE:
        return result
    return replace(result, result="loading", error=f"the server is starting: {result.error}")
