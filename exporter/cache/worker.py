"""The scanning process: a job from stdin, its answer to stdout. ``worker_process`` starts it.

It runs isolated, with the standard library and this package alone, so that it starts in a few hundredths of a second.
What it writes: while it gets on from file to file a dot every fifth of a second, to show that it runs, then ``=`` and the
pickled answer.
"""

import contextlib
import gc
import os
import pickle
import resource
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.cache.worker_job import WorkerJob

ALIVE, ANSWER = b".", b"="
ALIVE_SECONDS = 0.2
MOST_WILLING_TO_BE_ENDED = b"1000"


def main() -> None:
    """Import, then split into as many processes as the job asks for: each takes its share, the first gathers."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    gc.disable()  # it makes no cycles and ends soon
    job: WorkerJob = pickle.load(sys.stdin.buffer)  # noqa: S301  # from the parent, which is the same program
    with contextlib.suppress(OSError):  # a sandbox may forbid it; then the scan is a process like any other
        os.nice(job.niceness)
    _bound_memory(job.memory_bytes)
    share, to_first, others = 0, -1, list[int]()
    for index in range(1, job.workers):
        reader, writer = os.pipe()
        if os.fork() == 0:
            share, to_first, others = index, writer, []
            break
        os.close(writer)
        others.append(reader)
    answer = pickle.dumps(job.run(share, time.time(), _sign_of_life()), pickle.HIGHEST_PROTOCOL)
    if share:
        _write(to_first, answer)
        os._exit(0)
    # only when all have ended: their signs of life go to the same pipe
    answers = [answer, *(_read(reader) for reader in others)]
    for _ in others:
        os.wait()
    _write(1, ANSWER + b"".join(answers))
    os._exit(0)  # taking every object apart first would cost as much as reading some models


def _bound_memory(memory_bytes: int) -> None:
    """Bound this process and those that it splits off; if the machine runs out, the kernel ends them before others."""
    with contextlib.suppress(OSError, ValueError):
        if memory_bytes:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb") as score:
        score.write(MOST_WILLING_TO_BE_ENDED)


def _sign_of_life() -> Callable[[], None]:
    last = 0.0

    def tick() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= ALIVE_SECONDS:
            last = now
            _write(1, ALIVE)

    return tick


def _read(descriptor: int) -> bytes:
    return b"".join(iter(lambda: os.read(descriptor, 1 << 16), b""))


def _write(descriptor: int, piece: bytes) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece) :]


if __name__ == "__main__":
    main()
