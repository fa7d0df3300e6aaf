"""Jobs on untrusted files, each in a process of its own: bounded in memory, watched for progress, ended when it hangs.

Why processes: their work takes nothing from the threads that time a stream, and the kernel runs them at low priority. One that
hangs in a dead network filesystem is killed or left behind. The memory that a huge file took is given back, and a crash ends
nothing else. A process that doesn't even die when killed waits in the kernel; until it is gone its job isn't run again.
"""

import contextlib
import io
import math
import os
import pickle
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

from exporter.cache.worker import ALIVE, ANSWER
from exporter.cache.worker_job import WorkerJob

WORKER: Final = Path(__file__).with_name("worker.py")
MAX_ANSWER_BYTES: Final = 64 << 20
STALL_SECONDS: Final = 20.0
NICENESS: Final = 10
_PIECE: Final = 1 << 16


class WorkerError(Exception):
    """Why a job gave no answer, in words."""


class Workers:
    """Runs jobs, and remembers by a key of each which of them could not be ended. For one thread at a time.

    ``stall_seconds``: a job that gets on to no further file for so long hangs. ``most_seconds``: what it may take in all.
    """

    def __init__(self, *, stall_seconds: float = STALL_SECONDS, most_seconds: float = math.inf) -> None:
        self.stall_seconds = stall_seconds
        self._most_seconds = most_seconds
        self._hanging: dict[Hashable, subprocess.Popen[bytes]] = {}

    def run(self, key: Hashable, job: WorkerJob, cancel: threading.Event | None = None) -> list[Any]:
        """The answers of a job's processes. Raises WorkerError; within a tenth of a second if ``cancel`` is set."""
        hanging = self._hanging.pop(key, None)
        if hanging is not None and not _gone(hanging):
            self._hanging[key] = hanging
            raise WorkerError("has not answered since an earlier scan")
        try:
            process = _start()
        except OSError as error:
            raise WorkerError(f"the scanning process did not start: {error}") from error
        try:
            _send(process, job)
            output = _collect(process, self.stall_seconds, self._most_seconds, cancel or threading.Event())
            return _answers(output, job.workers)
        finally:
            if not _end(process):
                self._hanging[key] = process


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  # our own file, with our own interpreter
        [sys.executable, "-I", "-S", str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,  # a Ctrl-C at the terminal is for the parent; and so all of its processes end together
    )


def _send(process: subprocess.Popen[bytes], job: WorkerJob) -> None:
    assert process.stdin is not None  # noqa: S101  # it was opened as a pipe
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pickle.dump(job, pipe, protocol=pickle.HIGHEST_PROTOCOL)


def _collect(
    process: subprocess.Popen[bytes], stall_seconds: float, most_seconds: float, cancel: threading.Event
) -> bytes:
    """What a job's processes say once all have ended. Raises WorkerError if they hang or say too much."""
    assert process.stdout is not None  # noqa: S101  # it was opened as a pipe
    output = bytearray()
    begun = quiet_since = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            ready = selector.select(0.1)
            now = time.monotonic()
            if cancel.is_set():
                raise WorkerError("the scan was cancelled")
            if now - begun > most_seconds:
                raise WorkerError(f"took more than {most_seconds:g} s to be read")
            if ready:
                quiet_since = now
                piece = os.read(process.stdout.fileno(), _PIECE)
                if not piece:
                    return bytes(output)
                output += piece if output else piece.lstrip(ALIVE)
                if len(output) > MAX_ANSWER_BYTES:
                    raise WorkerError(f"holds more than {MAX_ANSWER_BYTES >> 20} MiB of facts")
            elif now - quiet_since > stall_seconds:
                raise WorkerError(f"no answer from its filesystem for {stall_seconds:g} s")


def _answers(output: bytes, workers: int) -> list[Any]:
    stream = io.BytesIO(output.removeprefix(ANSWER))
    try:
        return [pickle.load(stream) for _ in range(workers)]  # noqa: S301  # from our own child
    except (EOFError, pickle.UnpicklingError):
        raise WorkerError("the scanning process ended without an answer") from None


def _end(process: subprocess.Popen[bytes]) -> bool:
    """Make a job end, with the processes that it split off; whether it has. One that waits in the kernel stays."""
    if _gone(process, within=0.2):
        return True
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the first isn't waited for yet, so its number is still its own
    return _gone(process, within=1.0)


def _gone(process: subprocess.Popen[bytes], within: float = 0.0) -> bool:
    """Whether no process of a job is left, or will be in that many seconds: each holds the pipe's other end open."""
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
