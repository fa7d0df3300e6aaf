"""What the tests of a guest's manners share: a prober of a simulated server, and moving time."""

from typing import Any

from exporter.probe.prober import Prober
from exporter.probe.speeds import Speeds
from exporter.settings import Module
from tests.probe import probes
from tests.probe.probes import SHORT, check, probe
from tests.servers.clock import Clock
from tests.servers.simulated import Simulated


class Later:
    """A monotonic clock that goes with the clock of a simulated server."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __call__(self) -> float:
        """Seconds, by it."""
        return self.clock()


def prober(server: Simulated, clock: Clock | None = None, **more: Any) -> Prober:
    """A prober of a simulated server; with a clock its time is that of the server."""
    if clock is not None:
        more |= {"wall": clock, "monotonic": Later(clock)}
    return probes.prober(server.url, **more)


def believe(one: Prober, tokens_per_second: float) -> None:
    """Let the next probe go by this as the last speed of what is served now."""
    check(one)
    assert one.tracker.last is not None
    one.speeds = Speeds({"default": tokens_per_second}, one.tracker.last.identity)


def chats(server: Simulated) -> list[Any]:
    """The bodies of the requests that asked for text."""
    paths = {"/api/chat", "/v1/chat/completions", "/v1/completions"}
    return [each.body for each in server.requests if each.method == "POST" and each.path in paths]


def run_for(one: Prober, clock: Clock, seconds: float, *, step: float = 60.0, module: Module = SHORT) -> list[str]:
    """A status check and, where one is due, a probe at each step; gives the results."""
    results: list[str] = []
    until = clock() + seconds
    while clock() < until:
        one.status()
        if one.due("default", module):
            results.append(probe(one, module).result)
        clock.ahead += step
    return results
