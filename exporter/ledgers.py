"""The ledgers of all targets: facts and results go into them, and the store keeps them over restarts."""

import logging
import math
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from exporter.history import change
from exporter.history.change import Entry, Ledger
from exporter.history.hours import HOUR_SECONDS
from exporter.history.noted_figures import Figures, NotedFigures
from exporter.history.record import Point
from exporter.history.sample import Sample
from exporter.history.store import RAW_HOURS, HistoryError, Reader, Store
from exporter.probe.result import SKIPPED, ProbeResult
from exporter.text import finite

log = logging.getLogger(__name__)

SINGLE_SECONDS: Final = RAW_HOURS * HOUR_SECONDS
Packed = Mapping[str, bytes]
"""What is known of the first tokens of models, by their identity."""

LONG_PROMPT: Final = 400
"""Tokens from which on the speed of prefill is watched for changes by itself: with fewer, most of its time is something else."""


class Ledgers:
    """What changed of each target, and what each change cost. Thread-safe; ``start`` before anything else.

    Without a store nothing is kept after the process. For one target the caller keeps the order of what it observes.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._ledgers: dict[str, Ledger] = {}
        self._noted: dict[str, NotedFigures] = {}
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int | None:
        """The size of the history; None before it was measured."""
        return (self._store.status.bytes or None) if self._store else None

    def start(self) -> None:
        """Open the store and take up the ledgers that it holds; the store says why if it can't keep a file."""
        if self._store is None:
            return
        self._store.start()
        try:
            kept = {each.target: each for each in _caught_up(self._store.reader)}
        except HistoryError as exc:
            log.warning("what changed before this start is not known: %s", exc)
            return
        with self._lock:
            self._ledgers |= kept
        path = self._store.status.path
        if path is not None:
            log.info("the history is kept in %s", path)

    def close(self) -> None:
        """Write what waits, and end."""
        if self._store is not None and not self._store.close():
            log.warning("the history could not be written in time")

    def of(self, target: str) -> Ledger:
        """What is known of a target now."""
        with self._lock:
            return self._ledgers.get(target) or Ledger(target)

    def observe(
        self,
        target: str,
        at_seconds: float,
        facts: Mapping[str, str | None],
        result: ProbeResult | None = None,
        *,
        fingerprints: Packed | None = None,
        figures: Figures | None = None,
    ) -> Ledger:
        """The ledger of a target after its facts were read (Unix time) and, if there is one, after a probe's result.

        ``fingerprints`` are what is known of the models after a result with a reading, ``figures`` what the machine did
        beside it, by the names in ``KINDS``.
        """
        with self._lock:
            before = self._ledgers.get(target) or Ledger(target)
            after = change.observe_facts(before, at_seconds, facts)
            sample = None if result is None else sample_of(result)
            if result is not None and result.fingerprint is not None and fingerprints is not None:
                stepped = result.fingerprint.stepped
                after = change.observe_fingerprint(after, at_seconds, fingerprints, stepped=stepped)
            if result is not None and sample is not None:
                noted = self._noted.get(target, NotedFigures())
                if figures and sample.counts:
                    noted = noted.followed_by(sample.at_seconds, figures)
                    self._noted[target] = noted
                observed = change.observe(after, result.module, sample, prefill=_is_long(result))
                after = change.note_what_stood_out(after, observed, noted)
            self._keep(before, after)
        if self._store is not None and result is not None and sample is not None:
            self._store.add(target, result.module, sample)
        return after

    def retain(self, target: str, modules: Collection[str]) -> None:
        """Forget the speeds of a target by modules that no longer probe it."""
        with self._lock:
            before = self._ledgers.get(target)
            if before is not None and not {each.module for each in before.trackers.values()} <= set(modules):
                self._keep(before, change.retain(before, modules))

    def accept(self, target: str, at_seconds: float) -> Ledger:
        """The speeds of now are the usual ones for this target: the ledger in which no drop stands."""
        with self._lock:
            before = self._ledgers.get(target) or Ledger(target)
            self._keep(before, change.accept(before, at_seconds))
            return self._ledgers.get(target) or before

    def entries(self, since: float = 0.0, target: str | None = None) -> tuple[Entry, ...]:
        """Changes and unexplained steps since a time (Unix), of one target or of all, newest first: kept ones and new ones."""
        found: dict[tuple[str, float, bool], Entry] = {}
        if self._store is not None:
            try:
                for each in self._store.reader.entries(since, target):
                    found[_key_of(each)] = each
            except HistoryError as exc:
                log.warning("older changes are not shown: %s", exc)
        with self._lock:
            ledgers = [each for name, each in self._ledgers.items() if target in {None, name}]
        found |= {_key_of(each): each for ledger in ledgers for each in ledger.entries if each.at_seconds >= since}
        return tuple(sorted(found.values(), key=lambda each: each.at_seconds, reverse=True))

    def points(self, target: str, module: str, since: float, until: float) -> tuple[Point, ...]:
        """The speeds of a module between two times (Unix), oldest first: single probes of two days, medians by the hour beyond."""
        if self._store is None:
            return ()
        reader = self._store.reader
        try:
            if since >= time.time() - SINGLE_SECONDS - HOUR_SECONDS:
                return tuple(
                    Point(each.at_seconds, each.tokens_per_second if each.counts else None, each.ok)
                    for each in reader.samples(target, module, since, until)
                )
            return tuple(
                Point(each.at_seconds + HOUR_SECONDS / 2, each.tokens_per_second, each.good > 0)
                for each in reader.hours(target, module, since, until)
            )
        except HistoryError as exc:
            log.warning("older speeds are not shown: %s", exc)
            return ()

    def _keep(self, before: Ledger, after: Ledger) -> None:
        if after is before:
            return
        self._ledgers[after.target] = after
        if self._store is not None:
            self._store.save(after)


def _caught_up(reader: Reader) -> Iterator[Ledger]:
    """The kept ledgers with the probes that were kept after them: a ledger that says nothing new is written once an hour."""
    ledgers = reader.ledgers()
    for target, module in reader.series():
        ledger = ledgers.get(target)
        if ledger is None:
            continue
        tracker = ledger.trackers.get(module)
        last = tracker.last_at_seconds if tracker and tracker.last_at_seconds is not None else -math.inf
        for sample in reader.samples(target, module, max(0.0, math.nextafter(last, math.inf)), math.inf):
            ledger = change.observe(ledger, module, sample)
        ledgers[target] = ledger
    yield from ledgers.values()


def _is_long(result: ProbeResult) -> bool:
    """Whether the prompt that was measured is long enough for its prefill to be a figure of its own."""
    measured = result.measurements
    tokens = (measured.prompt_tokens or 0) - (measured.cached_tokens or 0)
    return tokens / max(result.concurrency, 1) >= LONG_PROMPT


def _key_of(entry: Entry) -> tuple[str, float, bool]:
    return entry.target, entry.at_seconds, bool(entry.differences)


def sample_of(result: ProbeResult) -> Sample | None:
    """A probe as the history keeps it; None for one that was skipped. An estimated speed is none."""
    if result.result in SKIPPED:
        return None
    measured, ok = result.measurements, result.result == "ok"
    counted = ok and measured.token_count_exact is not False
    return Sample(
        result.at_seconds,
        tokens_per_second=finite(measured.tokens_per_second) if counted else None,
        ttft_seconds=finite(measured.ttft_seconds) if ok else None,
        prefill_tokens_per_second=finite(measured.prefill_tokens_per_second) if ok else None,
        ok=ok,
        cold_start=result.cold_start,
        beside_users=bool(result.beside_users),
    )
