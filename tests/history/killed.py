"""Kill a process that writes the history, again and again, and see each time what the file holds.

    python tests/history/killed.py FILE ROUNDS

A process of its own, because it forks: each child writes probes, ledgers and ends of hours as fast as it can, and reports
how many probes are surely kept. Prints one line of JSON: the rounds, the probes, those that are lost, and how many kills came
before the file was even open. Exits with 1 and says why where a file was not whole, or a probe that was kept is gone or there twice.
"""

import json
import os
import random
import signal
import sqlite3
import struct
import sys
import time
from contextlib import closing
from pathlib import Path

from exporter.history.change import Ledger, observe, observe_facts
from exporter.history.sample import Sample
from exporter.history.store import Store, open_reader

START = 1_790_000_000.0
EVERY = 900.0
MOST_PROBES = 8000
"""In all rounds: later ones would push the first hours out of the history, which keeps 90 days."""
NUMBER = struct.Struct("<q")


def write(path: Path, first: int, pipe: int, most: int) -> None:
    """Until it is killed: a probe, its ledger, a commit, a report. After so many probes it only waits for that."""
    now = START + first * EVERY
    store = Store(path, flush_seconds=0, clock=lambda: now)
    store.start()
    ledger = store.reader.ledgers().get("vllm", Ledger("vllm"))
    for number in range(first, first + most):
        now = START + number * EVERY
        sample = Sample(now, 12.0 if number // 50 % 2 else 9.0, 0.3)
        ledger = observe(observe_facts(ledger, now, {"image": str(number // 20)}), "default", sample)
        store.add("vllm", "default", sample)
        store.save(ledger)
        if number % 3 == 0 and store.flush():
            os.write(pipe, NUMBER.pack(number))
    signal.pause()


def kept_of(path: Path) -> int:
    """How many probes the file holds; raises where it is not whole, or one is missing or there twice."""
    with closing(sqlite3.connect(path)) as connection:
        ((found,),) = connection.execute("PRAGMA integrity_check").fetchall()
        if found != "ok":
            raise ValueError(f"the file is not whole: {found}")
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
            return 0
    reader = open_reader(path)
    hours = reader.hours("vllm", "default", 0.0, 1e12)
    total = sum(hour.probes for hour in hours)
    recent = reader.samples("vllm", "default", hours[-1].at_seconds - 36_000, 1e12) if hours else ()
    numbers = [round((sample.at_seconds - START) / EVERY) for sample in recent]
    if numbers != list(range(total - len(numbers), total)):
        raise ValueError(f"of {total} probes the last are {numbers}")
    entries, ledgers = reader.entries(), reader.ledgers()
    if any(entry.target != "vllm" for entry in entries) or len(ledgers) > 1:
        raise ValueError("a ledger is not what was written")
    return total


def round_of(path: Path, first: int, seconds: float, most: int) -> tuple[int, int]:
    """Fork a writer and kill it after so long; the last probe that it reported, -1 where none, and how many are kept."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        write(path, first, writing, most)
        os._exit(1)
    os.close(writing)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        reports = pipe.read()
    reported = NUMBER.unpack(reports[-NUMBER.size :])[0] if reports else -1
    return reported, kept_of(path)


def seconds_to_first_report(path: Path) -> float:
    """How long a writer takes from its start until its first probes are surely kept, on this machine now."""
    reading, writing = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        write(path, 0, writing, MOST_PROBES)
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        pipe.read(NUMBER.size)
        seconds = time.monotonic() - began
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return seconds


def main(path: Path, rounds: int) -> int:
    rng, longest = random.Random(rounds), 3 * seconds_to_first_report(path.with_name("first.sqlite"))
    kept = early = lost = 0
    for number in range(rounds):
        reported, total = round_of(path, kept, rng.uniform(0, longest), MOST_PROBES // rounds)
        early += reported < 0
        surely = max(kept, reported + 1)
        if total < surely:
            print(f"round {number}: {surely} probes were kept, {total} are there", file=sys.stderr)
            lost += surely - total
        kept = total
    print(json.dumps({"rounds": rounds, "probes": kept, "lost": lost, "early": early}))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
