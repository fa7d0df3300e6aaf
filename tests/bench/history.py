"""What the history costs: bytes a day, milliseconds a write and a read, for 1, 100 and 1,000 targets.

    python tests/bench/history.py [--hours 24] [--targets 1,100,1000]

Hours of a probe a minute for each target are written as fast as they can be. There is a commit for every five seconds in which
something came in, as the daemon does it. Hours end, and probes move on. Then what 90 days leave is put in: single probes of two
days, medians by the hour of the rest. At that size six hours more are lived through, in which as much leaves as comes.
``written`` is what the process gave to the disk (``/proc/self/io``), the log and its checkpoints included, in a day. Exits with
1 where a probe is lost or the file not whole.
"""

import argparse
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from exporter.history.change import Ledger, observe_facts
from exporter.history.hours import hour_number
from exporter.history.rows import key_of
from exporter.history.sample import Sample, Samples
from exporter.history.store import FLUSH_SECONDS, RAW_HOURS, Store
from tests.history.series import FACTS, fed, known, speeds

START: Final = 1_790_000_000.0 // 86400 * 86400
HOUR: Final = 3600
FULL_HOURS: Final = 6
KEPT_HOURS: Final = 90 * 24


@dataclass
class Lived:
    """The clock that the store sees, and what its writes took."""

    seconds: float = 0.0
    written: int = 0
    commits: list[float] = field(default_factory=list)
    adding: list[float] = field(default_factory=list)


def typical(target: str, seed: int) -> Ledger:
    """A ledger as a target has it: two modules' worth of samples, a change that was judged."""
    ledger = fed(known(target), speeds(seed, 200), START - 20_000)
    ledger = observe_facts(ledger, START - 7000, FACTS | {"image": "vllm:0.12@sha256:bb"})
    return fed(ledger, speeds(seed + 1, 100), START - 6999)


def given_to_the_disk() -> int:
    """Bytes that this process has written to it so far."""
    lines = Path("/proc/self/io").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def hand_over(store: Store, names: Sequence[str], second: int, ledgers: Sequence[Ledger], lived: Lived) -> None:
    started = time.perf_counter()
    for name in names:
        store.add(name, "default", Sample(START + second, 12.1 + second % 7 / 100, 0.31, 520.0))
    lived.adding.append((time.perf_counter() - started) / len(names))
    if second % 600 < 60:
        for name in names:
            like = ledgers[int(name[-4:]) % len(ledgers)]
            store.save(Ledger(name, like.known, like.recent, like.changes, 0, like.trackers))


def live(store: Store, targets: int, hours: range, lived: Lived) -> None:
    """Each target probes at its second of the minute; ledgers are handed over every ten minutes."""
    due = defaultdict(list)
    for number in range(targets):
        due[number % 60].append(f"target-{number:04}")
    ledgers = [typical(f"target-{number:04}", number) for number in range(min(targets, 20))]
    before = given_to_the_disk()
    for second in range(hours.start * HOUR, hours.stop * HOUR):
        names = due.get(second % 60, ())
        lived.seconds = float(second)
        if names:
            hand_over(store, names, second, ledgers, lived)
        if second % FLUSH_SECONDS == 0 and store.flush(60):
            lived.commits.append(store.status.commit_seconds)
    lived.written += given_to_the_disk() - before


def put_in(path: Path, hours: int) -> None:
    """What 90 days before the present hour leave: an hour's row of single probes for two days, medians for all."""
    present = hour_number(START) + hours
    every = Samples.of(Sample(number * 60.0, 12.13, 0.31, 520.0) for number in range(60)).packed
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        series = [each for (each,) in connection.execute("SELECT id FROM series")]
        for hour in range(present - KEPT_HOURS, present):
            connection.execute("BEGIN")
            medians = [(key_of(each, hour), 60, 60, 12.13, 0.31, 520.0) for each in series]
            connection.executemany("INSERT OR IGNORE INTO hour VALUES (?, ?, ?, ?, ?, ?)", medians)
            if hour >= present - RAW_HOURS:
                singles = [(key_of(each, hour), every) for each in series]
                connection.executemany("INSERT OR IGNORE INTO raw VALUES (?, ?)", singles)
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def size_of(path: Path) -> int:
    """Bytes of the file and its log."""
    return sum(each.stat().st_size for each in (path, path.with_name(f"{path.name}-wal")) if each.exists())


def timed_read(store: Store, until: float, hours: float, *, single: bool) -> float:
    """Milliseconds to read one target's series of so many hours up to a time."""
    read = store.reader.samples if single else store.reader.hours
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        read("target-0000", "default", until - hours * HOUR, until)
        taken.append(time.perf_counter() - started)
    return median(taken) * 1000


def measure(targets: int, hours: int) -> tuple[list[str], bool]:
    """The figures of so many targets, and whether everything was kept."""
    first, full = Lived(), Lived()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.sqlite"
        with closing_store(path, first) as store:
            live(store, targets, range(hours), first)
            day, kept = size_of(path), kept_in(store)
        put_in(path, hours)
        before, lived = size_of(path), range(hours, hours + FULL_HOURS)
        with closing_store(path, full) as store:
            live(store, targets, lived, full)
            until = START + lived.stop * HOUR
            reads = timed_read(store, until, RAW_HOURS, single=True), timed_read(store, until, 720, single=False)
            longest = store.status.longest_commit_seconds
        after = size_of(path)
        with closing(sqlite3.connect(path)) as connection:
            whole = connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    p99 = quantiles(full.commits, n=100)[98]
    figures = [
        f"{targets:,}",
        f"{day / 1e6:.2f} MB",
        f"{before / 1e6:.1f} MB",
        f"{(after - before) / 1e6:+.2f} MB",
        f"{first.written / hours * 24 / 1e6:.0f} MB, then {full.written / FULL_HOURS * 24 / 1e6:.0f} MB",
        f"{median(full.commits) * 1e3:.2f} / {p99 * 1e3:.2f} / {longest * 1e3:.0f} ms",
        f"{median(full.adding) * 1e6:.0f} µs",
        f"{reads[0]:.1f} / {reads[1]:.1f} ms",
    ]
    return figures, whole and kept == hours * 60


@contextmanager
def closing_store(path: Path, lived: Lived) -> Iterator[Store]:
    """A store whose clock is that of what is lived through; what waits at the end is written."""
    store = Store(path, flush_seconds=0, clock=lambda: START + lived.seconds, monotonic=lambda: lived.seconds)
    store.start()
    yield store
    if not store.close(60):
        raise RuntimeError(f"not all was written: {store.status.problem}")


def kept_in(store: Store) -> int:
    """How many probes of the first target there are."""
    return sum(hour.probes for hour in store.reader.hours("target-0000", "default", 0, 1e12))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=24, help="lived through from an empty file on")
    parser.add_argument("--targets", default="1,100,1000")
    options = parser.parse_args()
    print(
        f"| targets | file after {options.hours} h | after 90 days | {FULL_HOURS} h more | written a day, first and "
        "after 90 days | a commit: median / p99 / longest | handing over a probe | read 2 d of probes / 30 d of medians |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    lost = False
    for targets in map(int, options.targets.split(",")):
        figures, kept = measure(targets, options.hours)
        print(f"| {' | '.join(figures)} |", flush=True)
        if not kept:
            print(f"{targets} targets: probes were lost, or the file is not whole", file=sys.stderr)
            lost = True
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
