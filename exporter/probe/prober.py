"""Probes of one target and checks of its status: the entry point of this package.

A ``Prober`` belongs to one target and is kept across reloads while the target stays. Both ``status`` (what the server says of
itself) and ``probe`` end in bounded time and never raise.

How it is used: a job for each target and module asks ``due`` at every interval of the module, and calls ``probe`` when that is
True. If a budget or a pause stretches the interval, ``interval_seconds`` says to what. Another job calls ``status``, so that
state and production throughput are known between probes. Probers of one server get one ``Server`` (``Servers.at(url)``), so
that its probes wait for each other.
"""

import logging
import time
from dataclasses import replace
from typing import Any, Final

from exporter.probe import client
from exporter.probe.canary_run import CanaryRun
from exporter.probe.failure import Cancelled, ProbeFailure
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.outcome import Outcome
from exporter.probe.prober_state import ProberState
from exporter.probe.production import AGAIN_SECONDS
from exporter.probe.result import ProbeResult, TargetState
from exporter.probe.run import Run
from exporter.probe.server import pause
from exporter.probe.status import READ_BYTES
from exporter.settings import Module

log = logging.getLogger(__name__)

# All reads of one status check that no probe waits for.
STATUS_SECONDS: Final = 30.0
# A status check waits so long for a probe of ours to end: none is made beside one, which it could disturb.
TURN_SECONDS: Final = 2.0
# All that giving back the time of a model may take while the daemon ends.
GIVE_BACK_SECONDS: Final = 2.0


class Prober(ProberState):
    """Probes one target, one probe at a time for each server. Thread-safe."""

    def interval_seconds(self, name: str, module: Module) -> float:
        """How often this module is meant to run now: its interval, or a multiple if a budget or a pause wants that."""
        return self.pace.interval(name, module)

    def add_hints(self, **known: Any) -> None:
        """Add what is known of the server from elsewhere: fields of ``Hints``."""
        self.tracker.hints = replace(self.tracker.hints, **known)

    @property
    def owes(self) -> bool:
        """Whether probes have changed the time that the model stays for others."""
        last = self.tracker.last
        return last is not None and last.keep_alive is not None and last.keep_alive.owed

    def give_back(self) -> None:
        """Undo what probes did to the time that the model stays in memory; for the end of the program. Never raises."""
        try:
            connection, headers = self.tracker.connection()
            connection = replace(connection, cancellation=Cancellation())
            checked = self.tracker.status(GIVE_BACK_SECONDS, until=time.monotonic() + GIVE_BACK_SECONDS, fresh=True)
            owed = self.tracker.dialect.give_back(checked.status) if self.tracker.dialect and checked.status else None
            if owed:
                path, body = owed
                client.fetch(
                    connection,
                    path,
                    timeout=GIVE_BACK_SECONDS,
                    limit_bytes=READ_BYTES,
                    headers=headers,
                    method="POST",
                    body=body,
                )
        except (ProbeFailure, Cancelled) as exc:
            log.info("the keep-alive of %s could not be restored: %s", self.target.name, exc)

    def due(self, name: str, module: Module) -> bool:
        """Whether a module that asks at each of its intervals should run this time. A skipped probe was no run."""
        return self.pace.due(name, module, self.monotonic())

    def status(self) -> TargetState | None:
        """What the server says of itself, by reads that cost it nothing. None when it was cancelled, or a probe runs."""
        try:
            with self.server.in_turn(TURN_SECONDS, self.cancellation) as mine:
                if not mine:
                    return None
                state = self.check(STATUS_SECONDS)[1]
                if self.tracker.production.wants_another:
                    pause(AGAIN_SECONDS, self.cancellation)
                    state = self.check(STATUS_SECONDS)[1]
                return state
        except (Cancelled, ProbeFailure):
            return None

    def probe(self, name: str, module: Module) -> ProbeResult | None:
        """Send one probe, or skip it and say why. None when it was cancelled, or other probes of the server took its time."""
        run = CanaryRun(self, name, module, module.depth) if module.depth else Run(self, name, module)
        try:
            return run.result()
        except Cancelled:
            return None
        except ProbeFailure as exc:
            return run.end(Outcome(failure=exc.settled()))
        except Exception as exc:  # noqa: BLE001 - reported by fault
            return run.end(Outcome(failure=self.fault("probe", exc)))
