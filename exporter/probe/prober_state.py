"""What stays between the probes of one target, as each probe reads and changes it."""

import logging
import random
import time
import traceback
from collections.abc import Callable
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Final

from exporter.probe.failure import Cancelled, ProbeFailure
from exporter.probe.fingerprint_memory import Fingerprints
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.politeness import Pace
from exporter.probe.result import TargetState
from exporter.probe.secret import hide
from exporter.probe.server import Server
from exporter.probe.speeds import Speeds
from exporter.probe.status import StatusResult, StatusTracker
from exporter.settings import Target

if TYPE_CHECKING:
    from collections import deque

log = logging.getLogger(__name__)

# One harmless read. A server under load answers slowly, and slow is not down.
READ_SECONDS: Final = 10.0


class ProberState:
    """What is known of a target and its server, and how its status is checked."""

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
        """What is served, if it has no chat template: it is asked for a plain completion."""
        self.fits: tuple[tuple[str | None, ...], int] = ((), 0)
        """What is served, if it refused a prompt as too long, and how many tokens it may take."""
        self.secrets: dict[str, tuple[str, ...]] = {}
        """By module: secrets that its headers hold."""
        self.prompt_factor = 1.0
        """Tokens that the server counts for each token of our estimate."""
        self.by_hand = by_hand
        """Whether a person asked for it now: then it has its whole length, and is a use of the server like any other."""
        self.fingerprints = fingerprints
        """What is known of the models' first tokens; None if nobody keeps it."""
        self.took_seconds = 0.0
        """How long the streams of the last probe ran, without a wait in the server's queue."""
        self.speeds = speeds or Speeds()
        """The last speed by module, tokens per second; those of a restart ago, if they are known."""
        self.ttfts: dict[str, deque[float]] = {}
        """The last TTFTs by module, seconds, of probes that did not wait behind others."""
        self.depths: dict[str, tuple[tuple[str | None, ...], int]] = {}
        """What was served, and how deep a canary may ask it, by module: a deeper question took too long, or did not fit; tokens."""
        self._checking = Lock()

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
            raise ProbeFailure("timeout_total", f"the server has not answered earlier reads for {seconds:.1f} s")
        try:
            try:
                checked = self.tracker.status(READ_SECONDS, until=until, thorough=thorough)
            except Cancelled:
                raise
            except Exception as exc:  # noqa: BLE001 - reported by fault
                checked = StatusResult(failure=self.fault("status check", exc))
            return checked, self.tracker.state(checked)
        finally:
            self._checking.release()
