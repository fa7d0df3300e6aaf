"""Scanning without disturbing or holding up anything: in processes of their own, one cache at a time.

Why processes: their work takes nothing from the threads that time a stream, the kernel runs them at low priority, a
scan that hangs in a dead network filesystem is killed or left behind, and what a huge cache took of memory is given
back. A process that doesn't even die when killed waits in the kernel; until it is gone its cache isn't scanned again.
"""

import contextlib
import io
import os
import pickle
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from exporter.cache.facts import CacheFacts, CacheFolder, ModelFacts, combine
from exporter.cache.layouts import LAYOUTS
from exporter.cache.memory import LEAST_BYTES, memory_for_scans
from exporter.cache.scan_share import ScanJob, ScanShare
from exporter.cache.worker import ALIVE, ANSWER

WORKER: Final = Path(__file__).with_name("worker.py")
MAX_MODELS: Final = 5000
MAX_ANSWER_BYTES: Final = 64 << 20
_PIECE: Final = 1 << 16


class Scanner:
    """Scans caches, one at a time, and remembers what it found so that a rescan reads only what changed.

    ``stall_seconds``: a scan that gets on to no further file for so long hangs. ``niceness``: added to its priority.
    ``memory_bytes``: what its processes may take together, by default a part of what this one may.
    """

    def __init__(
        self,
        *,
        stall_seconds: float = 20.0,
        niceness: int = 10,
        workers: int | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self._stall_seconds = stall_seconds
        self._niceness = niceness
        self._memory_bytes = memory_bytes or memory_for_scans()
        self._workers = workers or min(4, os.cpu_count() or 1, max(1, self._memory_bytes // LEAST_BYTES))
        self._turn = threading.Lock()
        self._known: dict[CacheFolder, tuple[ModelFacts, ...]] = {}
        self._hanging: dict[CacheFolder, subprocess.Popen[bytes]] = {}

    def scan(self, cache_folder: CacheFolder, *, cancel: threading.Event | None = None) -> CacheFacts:
        """One scan, after those that were asked for before. Never raises for what is on the disk.

        A cache that can't be read, hangs, or still hangs from the last time, gives facts with ``error`` and no
        ``bytes``. ``cancel`` ends a scan within a tenth of a second.
        """
        with self._turn:
            started, now = time.monotonic(), time.time()
            hanging = self._hanging.pop(cache_folder, None)
            if hanging is not None and not _gone(hanging):
                self._hanging[cache_folder] = hanging
                return _failed(cache_folder, "still hangs since an earlier scan", now)
            answers = self._run(cache_folder, cancel or threading.Event())
            facts = self._facts(cache_folder, answers, now)
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

    def _run(self, cache_folder: CacheFolder, cancel: threading.Event) -> list[ScanShare]:
        workers = self._workers if LAYOUTS[cache_folder.kind].split else 1
        try:
            process = _start()
        except OSError as error:
            return [ScanShare(error=f"the scanning process did not start: {error}")]
        try:
            known = self._known.get(cache_folder, ())
            _send(process, ScanJob(cache_folder, known, workers, self._niceness, self._memory_bytes // workers))
            return _collect(process, workers, self._stall_seconds, cancel)
        finally:
            if not _end(process):
                self._hanging[cache_folder] = process


def _failed(cache_folder: CacheFolder, error: str, now: float) -> CacheFacts:
    return CacheFacts(
        cache_folder.name, cache_folder.kind, cache_folder.path, bytes=None, error=error, scanned_at_seconds=now
    )


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  # our own file, with our own interpreter
        [sys.executable, "-I", "-S", str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,  # a Ctrl-C at the terminal is for the parent; and so both of its processes end together
    )


def _send(process: subprocess.Popen[bytes], job: ScanJob) -> None:
    assert process.stdin is not None  # noqa: S101  # it was opened as a pipe
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pickle.dump(job, pipe, protocol=pickle.HIGHEST_PROTOCOL)


def _collect(
    process: subprocess.Popen[bytes], workers: int, stall_seconds: float, cancel: threading.Event
) -> list[ScanShare]:
    """What the scanning processes say once all have ended; one answer with an error where they hang or break."""
    assert process.stdout is not None  # noqa: S101  # it was opened as a pipe
    output = bytearray()
    quiet_since = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            ready = selector.select(0.1)
            if cancel.is_set():
                return [ScanShare(error="the scan was cancelled")]
            if ready:
                quiet_since = time.monotonic()
                piece = os.read(process.stdout.fileno(), _PIECE)
                if not piece:
                    break
                output += piece if output else piece.lstrip(ALIVE)
                if len(output) > MAX_ANSWER_BYTES:
                    return [ScanShare(error=f"holds more than {MAX_ANSWER_BYTES >> 20} MiB of facts")]
            elif time.monotonic() - quiet_since > stall_seconds:
                return [ScanShare(error=f"no answer from its filesystem for {stall_seconds:g} s")]
    return _answers(bytes(output), workers)


def _answers(output: bytes, workers: int) -> list[ScanShare]:
    stream = io.BytesIO(output.removeprefix(ANSWER))
    try:
        return [pickle.load(stream) for _ in range(workers)]  # noqa: S301  # from our own child
    except (EOFError, pickle.UnpicklingError):
        return [ScanShare(error="the scanning process ended without an answer")]


def _end(process: subprocess.Popen[bytes]) -> bool:
    """Make a scan end, with the processes that it split off; whether it has. One that waits in the kernel stays."""
    if _gone(process, within=0.2):
        return True
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the first isn't waited for yet, so its number is still its own
    return _gone(process, within=1.0)


def _gone(process: subprocess.Popen[bytes], within: float = 0.0) -> bool:
    """Whether no process of a scan is left, or will be in so many seconds: each holds the pipe's other end open."""
    assert process.stdout is not None  # noqa: S101  # it was opened as a pipe
    until = time.monotonic() + within
    pipe = select.poll()
    pipe.register(process.stdout, select.POLLIN)
    while pipe.poll(max(0.0, until - time.monotonic()) * 1000):
        if not os.read(process.stdout.fileno(), _PIECE):
            process.stdout.close()
            process.wait()
            return True
    return False
