"""What stays between the probes of one target: the door of this room.

A ``Prober`` belongs to one target and is kept across reloads while the target stays. Both ``status`` (what the server says of
itself) and ``probe`` end in bounded time and never raise.

How it is used: a job for each target and module asks ``due`` at every interval of the module, and calls ``probe`` when that is
True; where a budget or a pause stretches the interval, ``interval_seconds`` says to what. Another job calls ``status``, so that
state and production throughput are known between probes. Probers of one server get one ``Server`` (``Servers.at(url)``), so that
its probes wait for each other.
"""

import logging
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from exporter.probe import client
from exporter.probe.canary_run import CanaryRun
from exporter.probe.failure import Cancelled, ProbeFailure
from exporter.probe.fingerprint_memory import Fingerprints
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.outcome import Outcome
from exporter.probe.politeness import Pace
from exporter.probe.production import AGAIN_SECONDS
from exporter.probe.result import ProbeResult, TargetState
from exporter.probe.run import Run
from exporter.probe.secret import hide
from exporter.probe.server import Server, pause
from exporter.probe.speeds import Speeds
from exporter.probe.status import READ_BYTES, StatusResult, StatusTracker
from exporter.settings import Module, Target

if TYPE_CHECKING:
    from collections import deque

log = logging.getLogger(__name__)

# One harmless read. A server under load answers slowly, and slow is not down.
READ_SECONDS: Final = 10.0
# All reads of one status check that no probe waits for.
STATUS_SECONDS: Final = 30.0
# A status check waits so long for a probe of ours to end: none is made beside one, which it could disturb.
TURN_SECONDS: Final = 2.0
# All that giving back the time of a model may take while the daemon ends.
GIVE_BACK_SECONDS: Final = 2.0


class Prober:
    """Probes one target, one probe at a time for each server. Thread-safe."""

    def __init__(
        self,
        target: Target,
        *,
        server: Server | None = None,
        cancellation: Cancellation | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        draw: random.Random | None = None,
        permit: Callable[[str], bool] | None = None,
        by_hand: bool = False,
        fingerprints: Fingerprints | None = None,
        speeds: Speeds | None = None,
    ) -> None:
        self.target = target
        self.server = server or Server()
        self.cancellation = cancellation or Cancellation()
        self.pace = Pace(target.budget.share)
        self.tracker = StatusTracker(target, self.server, self.cancellation, monotonic, wall, permit=permit)
        self.monotonic = monotonic
        self.wall = wall
        self.started_at = wall()
        self.draw = draw or random.SystemRandom()
        self.rejected: dict[tuple[str, str | None], frozenset[str]] = {}
        """Fields that the backend in its present version is known to refuse."""
        self.completes: tuple[str | None, ...] | None = None
        """What is served, where it has no chat template: it is asked for a plain completion."""
        self.fits: tuple[tuple[str | None, ...], int] = ((), 0)
        """What is served, where it refused a prompt as too long, and how many tokens it may take."""
        self.secrets: dict[str, tuple[str, ...]] = {}
        """By module: secrets that its headers hold."""
        self.prompt_factor = 1.0
        """Tokens that the server counts for each token of our estimate."""
        self.by_hand = by_hand
        """Whether a person asked for it now: then it has its whole length, and is a use of the server like any other."""
        self.fingerprints = fingerprints
        """What is known of the models' first tokens; None where nobody keeps it."""
        self.took_seconds = 0.0
        """How long the streams of the last probe ran, without a wait in the server's queue."""
        self.speeds = speeds or Speeds()
        """The last speed by module, tokens per second; those of a restart ago, where they are known."""
        self.ttfts: dict[str, deque[float]] = {}
        """The last TTFTs by module, seconds, of probes that did not wait behind others."""
        self.depths: dict[str, tuple[tuple[str | None, ...], int]] = {}
        """What was served, and how deep a canary may ask it, by module: a deeper question took too long, or did not fit; tokens."""
        self._checking = Lock()

    def interval_seconds(self, name: str, module: Module) -> float:
        """How often this module is meant to run now: its interval, or a multiple where a budget or a pause wants that."""
        return self.pace.interval(name, module)

    def tell(self, **known: Any) -> None:
        """Say what is known of the server from elsewhere: fields of ``Hints``."""
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
            log.info("the keep-alive of %s could not be given back: %s", self.target.name, exc)

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
        except Exception as exc:  # noqa: BLE001 - told by fault
            return run.end(Outcome(failure=self.fault("probe", exc)))

    def hide(self, text: str) -> str:
        """A text in which the server may have repeated our key, without it."""
        for secret in chain((self.tracker.key,), *self.secrets.values()):
            text = hide(text, secret)
        return text

    def fault(self, doing: str, exc: Exception) -> ProbeFailure:
        """Log a fault of the exporter itself; what is said of it may hold what the server sent."""
        trace = self.hide("".join(traceback.format_exception(exc)))
        log.error("a %s of %s failed in the exporter: %s", doing, self.target.name, trace)
        return ProbeFailure("protocol", f"a fault of the exporter: {exc!r}")

    def check(self, seconds: float, *, thorough: bool = False) -> tuple[StatusResult, TargetState]:
        """Check the status within so many seconds, one check of a target at a time. Raises ProbeFailure when its turn does
        not come.
        """
        until = time.monotonic() + seconds
        if not self._checking.acquire(timeout=seconds):
            raise ProbeFailure("timeout_total", f"the server has not answered the reads before for {seconds:.1f} s")
        try:
            try:
                checked = self.tracker.status(READ_SECONDS, until=until, thorough=thorough)
            except Cancelled:
                raise
            except Exception as exc:  # noqa: BLE001 - told by fault
                checked = StatusResult(failure=self.fault("status check", exc))
            return checked, self.tracker.state(checked)
        finally:
            self._checking.release()
