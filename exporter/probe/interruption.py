"""The early end of a probe: while its streams run, it checks for requests of users, and for a server that shuts down.

From 1.5 s after it was sent, once a second, a read that costs the server nothing shows whether requests of others run or wait.
If they do, the streams end at once. A read before the first token is repeated right after it: llama-server answers in the
middle of a prompt without having seen who has come since. If no read shows it, the connections to the server do. They are read
twice a second from 1 s on, so one that came in the first second is known to stay after 1.5 s. If nothing has come for long, one
connect shows whether the server still listens: a server that is ending waits for our stream, and refuses new connections
meanwhile.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, Self

from exporter.probe.client import Progress, is_refused
from exporter.probe.failure import ProbeFailure
from exporter.probe.http.transport import Connection
from exporter.probe.newcomers import Newcomers
from exporter.text import count_text

# A read costs a real vLLM 7 ms of the loop that streams to users: none while the first tokens are timed, then few.
FIRST_READ_SECONDS: Final = 1.5
READ_EVERY_SECONDS: Final = 1.0
FIRST_CHECK_SECONDS: Final = 1.0
CHECK_EVERY_SECONDS: Final = 0.5
SILENT_GAPS: Final = 20.0
SILENT_SECONDS: Final = 2.0
_STEP_SECONDS: Final = 0.25


class Interruption:
    """Watches the streams of one probe in a thread of its own, while the ``with`` block runs.

    ``others`` reads how many requests of others run or wait (None if the server can't tell) and may raise ProbeFailure.
    ``newcomers`` are asked if it can't.
    ``connection`` is that of the server, whose cancellation ends the streams: it must be of this probe alone.
    """

    def __init__(
        self,
        connection: Connection,
        others: Callable[[], float | None],
        newcomers: Newcomers,
        progress: list[Progress],
        *,
        yields: bool,
    ) -> None:
        self._connection = connection
        self._others = others
        self._newcomers = newcomers
        self._users_seen = False
        """Whether the last read said how many others there are."""
        self._progress = progress
        self._yields = yields
        self._over = threading.Event()
        self._asked_at: tuple[int, ...] | None = None
        self._thread = threading.Thread(target=self._watch, name="probe: users", daemon=True)
        self.seen: float | None = None
        """The most requests of others that were seen; None if no read showed any."""
        self.clean_until_ns = time.monotonic_ns()
        """The start of the last read, or look, that saw nobody, in monotonic ns."""
        self.failure: ProbeFailure | None = None
        """Why the streams were ended from here."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        started = time.monotonic()
        next_read, next_check = started + FIRST_READ_SECONDS, started + FIRST_CHECK_SECONDS
        early = False
        while not self._over.wait(_STEP_SECONDS):
            begun = any(each.begun for each in self._progress)
            if self._yields and (time.monotonic() >= next_read or (early and begun)):
                next_read, early = time.monotonic() + READ_EVERY_SECONDS, not begun
                if self._sees_users():
                    self._end(
                        ProbeFailure(
                            "yielded",
                            f"the probe was stopped for {count_text(round(self.seen or 0), 'request')} of users",
                        )
                    )
                    return
            if self._yields and not self._users_seen and time.monotonic() >= next_check:
                next_check = time.monotonic() + CHECK_EVERY_SECONDS
                if standing := self._newcomers_standing():
                    self._end(ProbeFailure("yielded", f"given up for {standing} connection(s) of users"))
                    return
            if self._falls_silent() and is_refused(self._connection):
                self._end(
                    ProbeFailure(
                        "truncated",
                        "the server is shutting down: it accepts no new connections, and sends nothing more",
                    )
                )
                return

    def _sees_users(self) -> bool:
        at_ns = time.monotonic_ns()
        try:
            others = self._others()
        except ProbeFailure:
            others = None
        self._users_seen = others is not None
        if others is None:
            return False
        self.seen = max(self.seen or 0.0, others)
        if others == 0:
            self.clean_until_ns = at_ns
        return others > 0

    def _newcomers_standing(self) -> int:
        at_ns = time.monotonic_ns()
        came = self._newcomers.read()
        if came is None:
            return 0
        if came.seen == 0:
            self.clean_until_ns = at_ns
        return came.standing

    def _falls_silent(self) -> bool:
        """Whether each stream has brought nothing for 20 of its mean gaps, and for at least 2 s; True once for each silence."""
        now_ns = time.monotonic_ns()
        limits = [each.silent_limit_ns(SILENT_GAPS, SILENT_SECONDS) for each in self._progress]
        overdue = tuple(limit for limit in limits if limit is not None and now_ns > limit)
        if not limits or len(overdue) < len(limits) or overdue == self._asked_at:
            return False
        self._asked_at = overdue
        return True

    def _end(self, failure: ProbeFailure) -> None:
        if not self._over.is_set():
            self.failure = failure
            self._connection.cancellation.cancel()
