"""What the history costs: bytes a day, milliseconds a write and a read, for 1, 100 and 1,000 targets.

    python tests/bench/history.py [--days 3] [--targets 1,100,1000]

Days of a probe a minute for each target are lived through as fast as they can be written, with a commit for every five seconds
in which something came in, as the daemon does it; hours end, probes move on, what is two days old leaves. From then on only
medians add to the file: those of the days before are put in by the hour, up to 90 days, and the file is measured again. ``written`` is what the process gave to
the disk (``/proc/self/io``), the log and its checkpoints included. Exits with 1 where a probe is lost or the file not whole.
"""

import argparse
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from exporter.history.change import Ledger, observe_facts
from exporter.history.hours import hour_number
from exporter.history.rows import key_of
from exporter.history.sample import Sample
from exporter.history.store import FLUSH_SECONDS, Store
from tests.history.series import FACTS, fed, known, speeds

START: Final = 1_790_000_000.0 // 86400 * 86400
DAY: Final = 86_400
KEPT_DAYS: Final = 90


@dataclass
class Lived:
    """The clock that the store sees, and what its writes took."""

    seconds: float = 0.0
    commits: list[float] = field(default_factory=list)
    adding: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)


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
            store.save(Ledger(name, like.known, like.recent, like.changes, 0, like.watches))


def live(store: Store, path: Path, targets: int, days: int, lived: Lived) -> None:
    """Each target probes at its second of the minute; ledgers are handed over every ten minutes."""
    due = defaultdict(list)
    for number in range(targets):
        due[number % 60].append(f"target-{number:04}")
    ledgers = [typical(f"target-{number:04}", number) for number in range(min(targets, 20))]
    for day in range(days):
        before = given_to_the_disk()
        for second in range(day * DAY, (day + 1) * DAY):
            names = due.get(second % 60, ())
            lived.seconds = float(second)
            if names:
                hand_over(store, names, second, ledgers, lived)
            if second % FLUSH_SECONDS == 0 and store.flush(60):
                lived.commits.append(store.status.commit_seconds)
        lived.sizes.append(path.stat().st_size + path.with_name(f"{path.name}-wal").stat().st_size)
        lived.written.append(given_to_the_disk() - before)


def aged(path: Path, days: int) -> int:
    """The size of the file with the medians of so many days before the first, which came in hour by hour."""
    first = hour_number(START)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        series = [each for (each,) in connection.execute("SELECT id FROM series")]
        for hour in range(first - days * 24, first):
            connection.execute("BEGIN")
            rows = [(key_of(each, hour), 60, 60, 12.13, 0.31, 520.0) for each in series]
            connection.executemany("INSERT INTO hour VALUES (?, ?, ?, ?, ?, ?)", rows)
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return path.stat().st_size


def timed_read(store: Store, hours: float, *, single: bool) -> float:
    """Milliseconds to read one target's series."""
    until = START + 10 * DAY
    read = store.reader.samples if single else store.reader.hours
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        read("target-0000", "default", until - 10 * DAY - hours * 3600, until)
        taken.append(time.perf_counter() - started)
    return median(taken) * 1000


def measure(targets: int, days: int) -> tuple[list[str], bool]:
    """The figures of so many targets, and whether everything was kept."""
    lived = Lived()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.sqlite"
        store = Store(path, flush_seconds=0, clock=lambda: START + lived.seconds, monotonic=lambda: lived.seconds)
        store.start()
        live(store, path, targets, days, lived)
        kept = sum(hour.probes for hour in store.reader.hours("target-0000", "default", 0, 1e12))
        reads = timed_read(store, 48, single=True), timed_read(store, 720, single=False)
        longest = store.status.longest_commit_seconds
        whole = store.close(60)
        with closing(sqlite3.connect(path)) as connection:
            whole &= connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        final = aged(path, KEPT_DAYS - days)
    figures = [
        f"{targets:,}",
        f"{lived.sizes[0] / 1e6:.2f} MB",
        f"{lived.sizes[-1] / 1e6:.2f} MB",
        f"{final / 1e6:.1f} MB",
        f"{lived.written[-1] / 1e6:.0f} MB",
        f"{median(lived.commits) * 1e3:.2f} ms / {quantiles(lived.commits, n=100)[98] * 1e3:.2f} ms / {longest * 1e3:.0f} ms",
        f"{median(lived.adding) * 1e6:.0f} µs",
        f"{reads[0]:.1f} ms / {reads[1]:.1f} ms",
    ]
    return figures, whole and kept == days * 1440


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=3)
    parser.add_argument("--targets", default="1,100,1000")
    options = parser.parse_args()
    print(
        f"| targets | file after a day | after {options.days} | after 90 days | written a day "
        "| a commit: median / p99 / longest | handing over a probe | read 2 d of probes / 30 d of medians |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    lost = False
    for targets in map(int, options.targets.split(",")):
        figures, kept = measure(targets, options.days)
        print(f"| {' | '.join(figures)} |", flush=True)
        if not kept:
            print(f"{targets} targets: probes were lost, or the file is not whole", file=sys.stderr)
            lost = True
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
