"""Scanning that blocks nothing else: in bounded processes, one cache at a time."""

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from exporter.cache.facts import CacheFacts, CacheFolder, ModelFacts, combine
from exporter.cache.layouts import LAYOUTS
from exporter.cache.memory import LEAST_BYTES, memory_for_scans
from exporter.cache.scan_share import ScanJob, ScanShare
from exporter.cache.worker_process import NICENESS, STALL_SECONDS, WorkerError, Workers

MAX_MODELS: Final = 5000


class Scanner:
    """Scans caches, one at a time, and remembers what it found so that a rescan reads only what changed.

    ``stall_seconds``: a scan that gets on to no further file for so long hangs. ``niceness``: added to its priority.
    ``memory_bytes``: what its processes may take together, by default a part of what this one may.
    """

    def __init__(
        self,
        *,
        stall_seconds: float = STALL_SECONDS,
        niceness: int = NICENESS,
        workers: int | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self._niceness = niceness
        self._memory_bytes = memory_bytes or memory_for_scans()
        self._workers = workers or min(4, os.cpu_count() or 1, max(1, self._memory_bytes // LEAST_BYTES))
        self._turn = threading.Lock()
        self._known: dict[CacheFolder, tuple[ModelFacts, ...]] = {}
        self._processes = Workers(stall_seconds=stall_seconds)

    def scan(self, cache_folder: CacheFolder, *, cancel: threading.Event | None = None) -> CacheFacts:
        """One scan, after those that were asked for before. Never raises for what is on the disk.

        A cache that can't be read, hangs, or still hangs from the last time, gives facts with ``error`` and no
        ``bytes``. ``cancel`` ends a scan within a tenth of a second.
        """
        with self._turn:
            started, now = time.monotonic(), time.time()
            workers = self._workers if LAYOUTS[cache_folder.kind].split else 1
            known = self._known.get(cache_folder, ())
            job = ScanJob(cache_folder, known, workers, self._niceness, self._memory_bytes // workers)
            try:
                facts = self._facts(cache_folder, self._processes.run(cache_folder, job, cancel), now)
            except WorkerError as error:
                facts = _failed(cache_folder, str(error), now)
            return replace(facts, scan_seconds=time.monotonic() - started)

    def forget(self, keep: Iterable[CacheFolder]) -> None:
        """Drop what is remembered of caches that are no longer scanned."""
        wanted = set(keep)
        with self._turn:
            self._known = {
                cache_folder: models for cache_folder, models in self._known.items() if cache_folder in wanted
            }

    def _facts(self, cache_folder: CacheFolder, answers: list[ScanShare], now: float) -> CacheFacts:
        for answer in answers:
            if answer.error is not None:
                return _failed(cache_folder, answer.error, now)
        models = [model for answer in answers for model in answer.models]
        self._known[cache_folder] = tuple(models)
        facts = combine(cache_folder, models, now)
        problems = [problem for answer in answers for problem in answer.problems]
        if len(facts.models) > MAX_MODELS:
            problems.append(
                f"{cache_folder.path}: {len(facts.models)} models, of which the {MAX_MODELS} largest are listed"
            )
            largest = sorted(facts.models, key=lambda model: model.bytes, reverse=True)[:MAX_MODELS]
            facts = replace(facts, models=tuple(sorted(largest, key=lambda model: model.name)))
        return replace(
            facts,
            unreadable_entries=sum(answer.unreadable_entries for answer in answers),
            problems=tuple(problems[:20]),
            filesystem=next((answer.filesystem for answer in answers if answer.filesystem is not None), None),
        )


def _failed(cache_folder: CacheFolder, error: str, now: float) -> CacheFacts:
    return CacheFacts(
        cache_folder.name, cache_folder.kind, cache_folder.path, bytes=None, error=error, scanned_at_seconds=now
    )
