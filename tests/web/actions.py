"""Stands in for the daemon behind the web server: answers what a test sets, and keeps what it was asked."""

from collections.abc import Callable
from dataclasses import dataclass, field

from exporter.history.change import Entry
from exporter.history.record import Point
from exporter.probe.result import ProbeResult
from exporter.web.app import Refused


@dataclass
class StubActions:
    """``outcome`` gives what a probe on demand ends in, ``errors`` are those of a reload."""

    errors: tuple[str, ...] = ()
    fine: bool = True
    outcome: Callable[[str, str], ProbeResult | Refused] = lambda target, _: Refused(f"{target} is not allowed")
    entries: tuple[Entry, ...] = ()
    calls: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def reloads(self) -> int:
        """How often it was told to reload."""
        return self.calls.count(("reload",))

    def reload(self) -> tuple[str, ...]:
        self.calls.append(("reload",))
        return self.errors

    def probe(self, target: str, module: str) -> ProbeResult | Refused:
        self.calls.append(("probe", target, module))
        return self.outcome(target, module)

    def changes(self, since: float, target: str | None) -> tuple[Entry, ...]:
        self.calls.append(("changes", f"{since:.0f}", target or ""))
        return tuple(each for each in self.entries if target in {None, each.target})

    def points(self, target: str, module: str, since: float, until: float) -> tuple[Point, ...]:
        self.calls.append(("points", target, module, f"{until - since:.0f}"))
        return ()

    def accept(self, target: str | None) -> tuple[str, ...]:
        self.calls.append(("accept", target or ""))
        return (target or "all",)

    def healthy(self) -> tuple[bool, str]:
        return self.fine, "the scheduler runs" if self.fine else "the scheduler stands still"

    def ready(self) -> tuple[bool, str]:
        return self.fine, "every target ran" if self.fine else "3 of 11 targets were not probed yet: new"
