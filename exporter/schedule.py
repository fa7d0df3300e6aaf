"""When things run: named jobs on a fixed grid of time, each at most once at a time. APScheduler is the clock, no more.

A job's first run is spread by a hash of its name and then repeats exactly every interval: jitter would accumulate, a fixed
phase keeps jobs apart for good. The scheduler runs in its own thread, and so does each run of a job.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from apscheduler.executors.base import BaseExecutor, MaxInstancesReachedError, run_job
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

log = logging.getLogger(__name__)

# The first runs of few jobs come within seconds, those of many are spread over their whole interval.
SPREAD_SECONDS_PER_JOB: Final = 0.5
BEAT_SECONDS: Final = 5.0
# Six beats: a machine under heavy load misses one or two, a scheduler that hangs misses all.
ALIVE_SECONDS: Final = 6 * BEAT_SECONDS
CLOCK_STEP_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Job:
    """Something to run every that many seconds. ``run`` is expected not to raise; if it does, the traceback is logged.

    ``at_once`` runs it first as soon as it is added instead of at its phase; ``after`` that many seconds later than that.
    """

    name: str
    every: float
    run: Callable[[], None]
    at_once: bool = False
    after: float = 0.0


def phase_of(name: str) -> float:
    """A number in [0, 1) that is the same for a name on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64


class _Threads(BaseExecutor):  # type: ignore[misc]
    """A thread for each run, which ends with it; since a job runs once at a time, there are never more than jobs.

    A pool would keep as many threads as ever ran at once, each with its stack and with what the C library keeps for it.
    """

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        def run() -> None:
            alias = job._jobstore_alias  # noqa: SLF001 - which run_job asks for
            self._run_job_success(job.id, run_job(job, alias, run_times, self._logger.name))

        try:
            threading.Thread(target=run, name=job.id).start()
        except RuntimeError as exc:
            log.warning("%s was not started this time: %s (check the limit on processes and threads)", job.id, exc)
            raise MaxInstancesReachedError(job) from None


class Schedule:
    """The running jobs. Thread-safe; ``start`` once, then ``replace`` as often as needed, ``stop`` at the end."""

    def __init__(self, on_beat: Callable[[], None] | None = None) -> None:
        self._scheduler = BackgroundScheduler(
            executors={"default": _Threads()},
            job_defaults={"coalesce": True, "max_instances": 1},
            timezone=UTC,
        )
        self._jobs: dict[str, Job] = {}
        self._first: dict[str, float] = {}
        self._running: set[str] = set()
        self._again: set[str] = set()
        self._lock = threading.Lock()
        self._on_beat = on_beat
        self._beat = Job("beat", BEAT_SECONDS, self._note_beat, at_once=True)
        self._last_beat = time.monotonic()
        self._wall_minus_monotonic = time.time() - time.monotonic()
        self.delay_seconds: float | None = None
        """How late the last job began after its time; None before the first."""

    def start(self) -> None:
        """Begin to run what has been added; returns at once."""
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._last_beat = time.monotonic()
        self._add(self._beat, total=1)
        self._scheduler.start()

    def replace(self, jobs: Iterable[Job]) -> None:
        """Make these the jobs: new ones begin, missing ones end (a running one finishes), the others keep their phase.

        Raises ValueError when two jobs have one name.
        """
        wanted: dict[str, Job] = {}
        for job in jobs:
            if job.name in wanted or job.name == self._beat.name:
                raise ValueError(f"two jobs are named {job.name!r}")
            wanted[job.name] = job
        with self._lock:
            for name, old in list(self._jobs.items()):
                if name not in wanted or wanted[name].every != old.every:
                    self._scheduler.remove_job(name)
                    del self._jobs[name], self._first[name]
            new = wanted.keys() - self._jobs.keys()
            # Known before they are added: a job that is to run at once may run before this loop goes on.
            self._jobs.update(wanted)
            for name in new:
                self._add(wanted[name], total=len(wanted))

    def run_soon(self, name: str) -> bool:
        """Run a job now and keep its grid from here; False when there is none of that name.

        One that runs already may have read what is old by now: it runs once more when it has ended.
        """
        with self._lock:
            if name not in self._jobs:
                return False
            if name in self._running:
                self._again.add(name)
                return True
            self._first[name] = time.time()
            self._scheduler.modify_job(name, next_run_time=datetime.fromtimestamp(self._first[name], UTC))
            return True

    def alive(self) -> bool:
        """True while the scheduler runs its own heartbeat job; a monotonic clock decides, so that a clock step can't fake it."""
        return time.monotonic() - self._last_beat < ALIVE_SECONDS

    def follow_clock(self) -> bool:
        """Put all jobs on the new time after a step of the wall clock; True when there was one. Call it every second.

        APScheduler computes in wall time: after a step back by an hour nothing would run for that hour.
        """
        offset = time.time() - time.monotonic()
        step = offset - self._wall_minus_monotonic
        if abs(step) < CLOCK_STEP_SECONDS:
            # Slewing by NTP is followed without a word.
            self._wall_minus_monotonic = offset
            return False
        log.warning("the clock stepped by %.0f s: all jobs are scheduled again from now", step)
        with self._lock:
            self._wall_minus_monotonic = offset
            for job in (self._beat, *self._jobs.values()):
                self._scheduler.remove_job(job.name)
                self._add(job, total=len(self._jobs))
        return True

    def stop(self) -> None:
        """End the clock; jobs that run are not waited for (cancel them first)."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _note_beat(self) -> None:
        self._last_beat = time.monotonic()
        if self._on_beat is not None:
            self._on_beat()

    def _add(self, job: Job, total: int) -> None:
        spread = min(job.every, max(total * SPREAD_SECONDS_PER_JOB, 1.0))
        first = time.time() + job.after + (0.0 if job.at_once else phase_of(job.name) * spread)
        start = datetime.fromtimestamp(first, UTC)
        self._first[job.name] = first
        self._scheduler.add_job(
            self._run,
            IntervalTrigger(seconds=job.every, start_date=start, timezone=UTC),
            args=(job.name,),
            id=job.name,
            next_run_time=start,
            misfire_grace_time=max(1, round(job.every)),
        )

    def _run(self, name: str) -> None:
        job = self._beat if name == self._beat.name else self._jobs.get(name)
        first = self._first.get(name)
        if job is None or first is None:
            return
        late = (time.time() - first) % job.every
        # A run that is slightly early must not count as one interval late.
        self.delay_seconds = 0.0 if late > job.every - 0.05 else late
        while self._begins(name):
            try:
                job.run()
            except Exception:
                log.exception("job %s failed", name)

    def _begins(self, name: str) -> bool:
        """Whether a job that has not run yet, or just did, runs now."""
        with self._lock:
            if name in self._running and name not in self._again:
                self._running.discard(name)
                return False
            self._running.add(name)
            self._again.discard(name)
            return True
