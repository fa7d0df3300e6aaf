"""The file of the history: what is kept comes back, and whatever disk, clock and file do, nothing is corrupted or raised."""

import logging
import os
import sqlite3
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from exporter.history import schema, store, sweep
from exporter.history.change import Ledger, observe_facts
from exporter.history.hours import HOUR_SECONDS
from exporter.history.sample import Sample
from exporter.history.store import RAW_HOURS, HistoryError, Store, open_reader
from tests.history.series import FACTS, MINUTE, SPEED, START, fed, known, speeds

DAY = 86400.0
FIRST_HOUR = START // HOUR_SECONDS * HOUR_SECONDS


class StoreClock:
    """A wall clock and a monotonic one, which pass together and of which the first can be set."""

    def __init__(self) -> None:
        self.wall, self.monotonic = FIRST_HOUR, 1000.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


class Fixture:
    """A store on a file, with its clock, that can be closed and opened again."""

    def __init__(self, path: Path | None, **options: float) -> None:
        self.path, self.options, self.clock = path, options, StoreClock()
        self.store = self.opened()

    def opened(self) -> Store:
        made = Store(
            self.path,
            flush_seconds=0,
            clock=lambda: self.clock.wall,
            monotonic=lambda: self.clock.monotonic,
            **self.options,
        )
        made.start()
        return made

    def reopened(self) -> Store:
        self.store.close()
        self.store = self.opened()
        return self.store

    def probes(self, count: int, target: str = "vllm", every: float = MINUTE, speed: float = SPEED) -> None:
        """A good probe every so often, each written; what the hour brings is tidied up."""
        for _ in range(count):
            self.store.add(target, "default", Sample(self.clock.wall, speed, 0.31, 520.0))
            assert self.store.flush()
            self.clock.passes(every)
        assert self.store.flush()

    def rows(self, table: str) -> int:
        assert self.path is not None
        with closing(sqlite3.connect(self.path)) as connection:
            ((count,),) = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
            return int(count)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Fixture]:
    fixture = Fixture(tmp_path / "state" / "history.sqlite")
    yield fixture
    fixture.store.close()


def written(tmp_path: Path) -> Path:
    """A file with a day of probes and a change in it."""
    fixture = Fixture(tmp_path / "history.sqlite")
    fixture.probes(200)
    fixture.store.save(observe_facts(known(), START, FACTS | {"image": "new"}))
    assert fixture.store.close()
    return tmp_path / "history.sqlite"


# What is kept


def test_probes_come_back_single_and_by_the_hour(kept: Fixture) -> None:
    """Across the end of an hour, before and after it has moved on, and after the store was opened anew."""
    kept.probes(150)
    for reader in (kept.store.reader, open_reader(kept.path or Path()), kept.reopened().reader):
        samples = reader.samples("vllm", "default", FIRST_HOUR, FIRST_HOUR + DAY)
        assert [sample.at_seconds for sample in samples] == [FIRST_HOUR + number * MINUTE for number in range(150)]
        assert set(samples) == {Sample(sample.at_seconds, SPEED, 0.31, 520.0) for sample in samples}
        hours = reader.hours("vllm", "default", FIRST_HOUR, FIRST_HOUR + DAY)
        assert [(hour.at_seconds - FIRST_HOUR, hour.probes, hour.good) for hour in hours] == [
            (0, 60, 60),
            (3600, 60, 60),
            (7200, 30, 30),
        ]
        assert {hour.tokens_per_second for hour in hours} == {SPEED}
        assert reader.series() == (("vllm", "default"),)
    part = kept.store.reader.samples("vllm", "default", FIRST_HOUR + 600, FIRST_HOUR + 1200)
    assert len(part) == 10
    assert kept.store.reader.samples("other", "default", 0, 1e12) == ()
    assert kept.store.reader.hours("vllm", "other", 0, 1e12) == ()


def test_single_probes_leave_after_two_days_and_medians_after_their_time(tmp_path: Path) -> None:
    """What is kept stops growing, in rows and in bytes."""
    kept = Fixture(tmp_path / "history.sqlite", keep_seconds=4 * DAY)
    sizes = []
    for _ in range(8):
        for _ in range(24):
            kept.probes(4, every=900)
        sizes.append(kept.rows("hour"))
    assert kept.rows("raw") == pytest.approx(RAW_HOURS, abs=2)
    assert sizes[-1] == sizes[-2] == pytest.approx(4 * 24, abs=2)
    assert kept.rows("probe") <= 8
    assert len(kept.store.reader.samples("vllm", "default", 0, kept.clock.wall)) == pytest.approx(4 * RAW_HOURS, abs=8)
    kept.store.close()


def test_changes_and_what_they_cost_come_back(kept: Fixture) -> None:
    """With their effects, of one target or all, since a time, newest first; the ledger goes on where it was."""
    ledger = fed(known(), speeds(1, 60), START)
    ledger = fed(observe_facts(ledger, START + 3600, FACTS | {"image": "new"}), [9.0] * 40, START + 3601)
    other = observe_facts(known("other"), START + 9000, FACTS | {"kernel": "6.15.0"})
    for each in (ledger, other):
        kept.store.save(each)
    assert kept.store.flush()
    for reader in (kept.store.reader, kept.reopened().reader):
        newest, oldest = reader.entries()
        assert (newest.target, oldest.target) == ("other", "vllm")
        assert oldest.differences == ledger.changes[0].differences
        assert oldest.shifts == ledger.shifts
        assert reader.entries(target="other") == (newest,)
        assert reader.entries(since=START + 5000) == (newest,)
        assert reader.entries(since=START + 3600, target="vllm") == (oldest,)
        assert reader.ledgers() == {"vllm": ledger, "other": other}


def test_a_change_over_a_restart_of_the_exporter_is_seen(kept: Fixture) -> None:
    """What was known last is compared with what is seen first; the probes before the restart are those before it."""
    kept.store.save(fed(known(), speeds(2, 60), START))
    ledger = kept.reopened().reader.ledgers()["vllm"]
    ledger = fed(observe_facts(ledger, START + DAY, FACTS | {"image": "new"}), [9.0] * 5, START + DAY + 1)
    assert ledger.changes[0].differences[0].before == FACTS["image"]
    (standing,) = ledger.standing
    assert standing.speed.n_before == 60


def test_what_is_undone_leaves_the_file(kept: Fixture) -> None:
    """A change that was rolled back before any probe, and a step that a change explained, are no entries any more."""
    changed = observe_facts(known(), START, FACTS | {"image": "new"})
    kept.store.save(changed)
    assert kept.store.flush()
    assert len(kept.store.reader.entries()) == 1
    kept.store.save(observe_facts(changed, START + 60, FACTS))
    assert kept.store.flush()
    assert kept.store.reader.entries() == ()
    values = speeds(14, 260)
    ledger = fed(known(weights="one"), values[:200], START)
    ledger = fed(ledger, [0.8 * v for v in values[200:209]], START + 200 * MINUTE)
    kept.store.save(ledger)
    assert kept.store.flush()
    assert [entry.differences for entry in kept.store.reader.entries()] == [()]
    ledger = observe_facts(ledger, START + 209 * MINUTE, {"weights": "other"})
    kept.store.save(fed(ledger, [0.8 * v for v in values[209:]], START + 209 * MINUTE + 1))
    assert kept.store.flush()
    assert [entry.differences[0].fact for entry in kept.store.reader.entries()] == ["weights"]


def test_a_ledger_without_news_is_written_within_the_hour(kept: Fixture) -> None:
    """Each probe changes a ledger; the disk sees it when it says something new, an hour later, or at the end."""
    kept.store.save(known())
    assert kept.store.flush()
    later = fed(known(), speeds(3, 20), START)
    kept.store.save(later)
    assert kept.store.flush()
    assert kept.store.reader.ledgers()["vllm"] == known()
    kept.clock.passes(3601)
    assert kept.store.flush()
    assert kept.store.reader.ledgers()["vllm"] == later
    last = fed(later, speeds(4, 20), START + 3600)
    kept.store.save(last)
    assert kept.reopened().reader.ledgers()["vllm"] == last


def test_each_target_is_bounded(kept: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest changes stay, and of too many series those that probed last."""
    monkeypatch.setattr(store, "MOST_CHANGES", 5)
    monkeypatch.setattr(sweep, "MOST_SERIES", 3)
    ledger = known()
    for number in range(12):
        ledger = observe_facts(ledger, START + number * 3600, FACTS | {"image": str(number)})
        kept.store.save(ledger)
        assert kept.store.flush()
    assert [entry.at_seconds - START for entry in kept.store.reader.entries()] == [n * 3600 for n in (11, 10, 9, 8, 7)]
    for number in range(6):
        kept.probes(2, target=f"target {number}", every=HOUR_SECONDS)
    assert {target for target, _ in kept.store.reader.series()} == {"target 3", "target 4", "target 5"}


def test_what_was_known_of_a_target_that_is_gone_leaves(tmp_path: Path) -> None:
    """After the time for which anything is kept: its medians, its changes, its facts."""
    kept = Fixture(tmp_path / "history.sqlite", keep_seconds=2 * DAY)
    kept.store.save(observe_facts(known(), START, FACTS | {"image": "new"}))
    kept.probes(30)
    assert kept.store.reader.ledgers()
    for _ in range(8 * 24):
        kept.probes(1, target="other", every=HOUR_SECONDS)
    assert kept.store.reader.series() == (("other", "default"),)
    assert kept.store.reader.ledgers() == {}
    assert kept.store.reader.entries() == ()
    kept.store.close()


def test_many_threads_hand_over_at_once(kept: Fixture) -> None:
    """Every probe of eight threads arrives, while others read."""

    def hand_over(name: str) -> None:
        for number in range(200):
            kept.store.add(name, "default", Sample(FIRST_HOUR + number, SPEED))
            if number % 50 == 0:
                kept.store.reader.samples(name, "default", 0, 1e12)

    threads = [threading.Thread(target=hand_over, args=(f"target {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept.store.flush()
    assert [len(kept.store.reader.samples(target, "default", 0, 1e12)) for target, _ in kept.store.reader.series()] == [
        200
    ] * 8


# Clocks


@pytest.mark.parametrize("jump", [-50 * 365 * DAY, -3 * DAY, -1800, 1800, 3 * DAY, 20 * 365 * DAY])
def test_a_clock_that_is_set_empties_nothing(kept: Fixture, jump: float) -> None:
    """A day before, an hour under the wrong time, a day after it is right again: what was kept before is still there."""
    kept.probes(24, every=HOUR_SECONDS)
    kept.clock.wall += jump
    kept.probes(60)
    kept.clock.wall -= jump
    kept.probes(24, every=HOUR_SECONDS)
    samples = kept.store.reader.samples("vllm", "default", FIRST_HOUR, FIRST_HOUR + 60 * HOUR_SECONDS)
    assert len(samples) >= 47
    assert [sample.at_seconds for sample in samples] == sorted(sample.at_seconds for sample in samples)
    hours = kept.store.reader.hours("vllm", "default", FIRST_HOUR, FIRST_HOUR + 60 * HOUR_SECONDS)
    assert len(hours) >= 47
    assert sum(hour.probes for hour in hours) >= 48


def test_a_clock_that_stays_wrong_empties_it_slowly(kept: Fixture) -> None:
    """Four hours of history are lost for each hour that the clock is years ahead, not all of it at once."""
    kept.probes(20 * 24, every=HOUR_SECONDS)
    kept.clock.wall += 10 * 365 * DAY
    kept.probes(3, every=HOUR_SECONDS)
    left = kept.store.reader.hours("vllm", "default", FIRST_HOUR, FIRST_HOUR + 20 * DAY)
    assert 20 * 24 - 3 * 4 <= len(left) < 20 * 24


def test_a_clock_that_stands_still_fills_nothing(kept: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an end of the hour probes move on when they are many, and an hour keeps so many and no more."""
    monkeypatch.setattr(sweep, "MOST_WAITING", 100)
    monkeypatch.setattr(sweep, "MOST_OF_AN_HOUR", 150)
    for _ in range(20):
        for _ in range(50):
            kept.store.add("vllm", "default", Sample(FIRST_HOUR, SPEED))
        kept.clock.monotonic += 3700
        assert kept.store.flush()
    assert kept.rows("probe") <= 150
    assert len(kept.store.reader.samples("vllm", "default", 0, 1e12)) <= 300
    assert kept.store.reader.hours("vllm", "default", 0, 1e12)[0].probes <= 1000


# Disks and files


def test_a_full_disk_is_said_once_and_waited_for(kept: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing raises, what came meanwhile is written when there is space again, and each is said once."""
    kept.probes(3)
    connection = kept.store._writer._connection
    assert connection is not None
    ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with caplog.at_level(logging.INFO, logger="exporter.history"):
        for number in range(2000):
            kept.store.add("vllm", "default", Sample(FIRST_HOUR + 300 + number, SPEED))
        assert not kept.store.flush()
        assert not kept.store.flush()
        assert "full" in kept.store.status.problem
        # The thread writes while probes are added, and the last page has room for some of them.
        assert 3 <= len(kept.store.reader.samples("vllm", "default", 0, 1e12)) < 1000
        connection.execute("PRAGMA max_page_count = 1000000")
        assert kept.store.flush()
    assert kept.store.status.problem == ""
    assert len(kept.store.reader.samples("vllm", "default", 0, 1e12)) == 2003
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_what_waits_for_a_disk_is_bounded(kept: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest leave, and are counted."""
    monkeypatch.setattr(store, "MOST_WAITING", 10)
    kept.probes(1)
    connection = kept.store._writer._connection
    assert connection is not None
    connection.execute("PRAGMA query_only = 1")
    for number in range(100):
        kept.store.add("vllm", "default", Sample(START + number, SPEED))
    assert not kept.store.flush()
    assert "readonly" in kept.store.status.problem
    assert kept.store.status.dropped == 90
    connection.execute("PRAGMA query_only = 0")
    assert kept.store.flush()
    assert [s.at_seconds - START for s in kept.store.reader.samples("vllm", "default", START, 1e12)] == list(
        range(90, 100)
    )


def read_only_folder(tmp_path: Path) -> Path:
    """A folder that nobody can write into, not even root."""
    if os.geteuid() == 0:
        return Path("/sys/kernel")
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    return folder


def test_a_folder_that_can_not_be_written_leaves_a_history_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once why, and everything else works, for the time of the process."""
    path = read_only_folder(tmp_path) / "history.sqlite"
    kept = Fixture(path)
    kept.probes(70)
    ledger = observe_facts(known(), START, FACTS | {"image": "new"})
    kept.store.save(ledger)
    assert kept.store.flush()
    assert kept.store.status.path is None
    assert str(path) in kept.store.status.problem
    assert len(kept.store.reader.samples("vllm", "default", 0, 1e12)) == 70
    assert len(kept.store.reader.hours("vllm", "default", 0, 1e12)) == 2
    assert kept.store.reader.ledgers() == {"vllm": ledger}
    assert kept.store.status.bytes > 0
    assert kept.store.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_without_a_path_a_smaller_history_is_kept_in_memory() -> None:
    """Three hours of single probes, a week of medians, and no file."""
    kept = Fixture(None)
    kept.probes(9 * 24, every=HOUR_SECONDS)
    assert len(kept.store.reader.samples("vllm", "default", 0, kept.clock.wall)) <= 6
    assert len(kept.store.reader.hours("vllm", "default", 0, kept.clock.wall)) == pytest.approx(7 * 24, abs=2)
    assert kept.store.status.problem == ""
    assert kept.store.close()
    with pytest.raises(HistoryError, match="not open"):
        kept.store.reader.series()


def test_the_file_is_its_owners(kept: Fixture) -> None:
    """Others read neither the folder that was made for it nor the file."""
    kept.probes(1)
    assert kept.path is not None
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.path.parent.stat().st_mode) == 0o700


def test_one_process_writes(kept: Fixture) -> None:
    """A second store on the same file keeps its history in memory, and says why; the first goes on."""
    other = Store(kept.path, flush_seconds=0)
    other.start()
    assert other.status.path is None
    assert "another process" in other.status.problem
    other.add("vllm", "default", Sample(START, SPEED))
    assert other.close()
    kept.probes(2)
    assert len(open_reader(kept.path or Path()).samples("vllm", "default", 0, 1e12)) == 2


@pytest.mark.parametrize(
    "damage",
    [
        b"not a database at all, but longer than its header of a hundred bytes" * 3,
        b"SQLite format 3\0" + b"\xff" * 5000,
    ],
    ids=["no database", "a torn header"],
)
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Under another name, said once; of several only the newest stays, and an empty one is begun."""
    path = tmp_path / "history.sqlite"
    (tmp_path / "history.sqlite.damaged-20200101T000000Z").write_bytes(b"older")
    path.write_bytes(damage)
    kept = Fixture(path)
    kept.probes(2)
    (aside,) = tmp_path.glob("history.sqlite.damaged-*")
    assert aside.read_bytes() == damage
    assert kept.store.status.set_aside == aside
    assert kept.store.status.path == path
    assert len(kept.store.reader.samples("vllm", "default", 0, 1e12)) == 2
    assert kept.store.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_damage_that_shows_later_is_set_aside_then(tmp_path: Path) -> None:
    """Pages overwritten while nobody looked: found by the first read of them, and what came in is in the new file."""
    path = written(tmp_path)
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    kept = Fixture(path)
    if kept.store.status.path is not None and kept.store.status.set_aside is None:
        with pytest.raises(HistoryError):
            kept.store.reader.samples("vllm", "default", 0, 1e12)
    kept.probes(2)
    assert kept.store.status.set_aside is not None
    assert len(kept.store.reader.samples("vllm", "default", 0, 1e12)) == 2
    assert kept.store.close()


def test_damage_in_one_table_is_found_by_its_reader(tmp_path: Path) -> None:
    """A file that opens and whose medians can't be read: the reader is told, the writer sets it aside."""
    path = written(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'hour'").fetchall()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xa5" * 4096)
    kept = Fixture(path)
    with pytest.raises(HistoryError, match="malformed"):
        kept.store.reader.hours("vllm", "default", 0, 1e12)
    kept.probes(2)
    assert kept.store.status.set_aside is not None
    assert len(kept.store.reader.hours("vllm", "default", 0, 1e12)) == 1
    assert kept.store.close()


def make_foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (precious)")


def make_newer(path: Path) -> None:
    Fixture(path).store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.UPGRADES) + 1}")


@pytest.mark.parametrize(
    ("make", "why"), [(make_foreign, "another program"), (make_newer, "newer version"), (Path.mkdir, "directory")]
)
def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path, make: object, why: str) -> None:
    """The database of another program, one of a newer version, a folder: untouched, and the history is in memory."""
    path = tmp_path / "history.sqlite"
    assert callable(make)
    make(path)
    before = path.read_bytes() if path.is_file() else None
    kept = Fixture(path)
    kept.probes(1)
    assert kept.store.status.path is None
    assert why in kept.store.status.problem.lower()
    assert kept.store.close()
    assert (path.read_bytes() if path.is_file() else None) == before


def test_an_older_file_is_upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step runs once, what was kept stays, and a step that fails leaves the file as it was."""
    path, added = written(tmp_path), ("ALTER TABLE series ADD COLUMN note",)
    monkeypatch.setattr(store, "UPGRADES", (*schema.UPGRADES, (*added, "INSERT INTO series VALUES (1, 'a', 'b', '')")))
    failed = Fixture(path)
    assert "UNIQUE" in failed.store.status.problem
    failed.store.close()
    monkeypatch.setattr(store, "UPGRADES", (*schema.UPGRADES, added))
    for _ in range(2):
        kept = Fixture(path)
        assert kept.store.status.path == path
        assert len(kept.store.reader.entries()) == 1
        assert len(kept.store.reader.samples("vllm", "default", 0, 1e12)) == 200
        assert kept.store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(schema.UPGRADES) + 1,)


def test_a_document_that_can_not_be_read_takes_no_other_with_it(tmp_path: Path) -> None:
    """One ledger and one change are lost; the rest is there."""
    path = written(tmp_path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO ledger VALUES ('broken', 0, '{\"version\": 1}')")
        connection.execute("INSERT INTO change VALUES ('broken', 5.0, 'no JSON')")
        connection.execute("INSERT INTO probe (series, packed) VALUES (1, x'00')")
    kept = Fixture(path)
    assert set(kept.store.reader.ledgers()) == {"vllm"}
    assert len(kept.store.reader.entries()) == 1
    assert len(kept.store.reader.samples("vllm", "default", 0, 1e12)) == 200
    assert kept.store.close()


def test_what_can_never_be_written_holds_nothing_up(kept: Fixture) -> None:
    """A name that is no text is dropped with what came with it, said, and the next is written."""
    kept.store.add("lone \ud800 surrogate", "default", Sample(START, SPEED))
    assert not kept.store.flush()
    assert "surrogate" in kept.store.status.problem
    kept.probes(2)
    assert kept.store.status.problem == ""
    kept.store.save(Ledger("vllm"))
    assert kept.store.flush()


def test_a_missing_file_can_not_be_read(tmp_path: Path) -> None:
    """A reader of a file that is not there says so, and makes none."""
    with pytest.raises(HistoryError, match="can't be read"):
        open_reader(tmp_path / "none.sqlite").series()
    assert list(tmp_path.iterdir()) == []


def test_handing_over_does_not_wait_for_the_disk(kept: Fixture) -> None:
    """While another connection holds the file, probes are taken; they are written when it lets go."""
    kept.probes(1)
    assert kept.path is not None
    with closing(sqlite3.connect(kept.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(100):
            kept.store.add("vllm", "default", Sample(START + number, SPEED))
        assert not kept.store.flush(timeout=0.05)
        other.execute("COMMIT")
    assert kept.store.flush()
    assert len(kept.store.reader.samples("vllm", "default", 0, 1e12)) == 101


def test_what_the_status_says_of_size_and_commits(kept: Fixture) -> None:
    """Bytes of the file and its log, measured once a minute; how many commits, and how long they took."""
    kept.probes(3)
    kept.clock.passes(61)
    kept.probes(1)
    status = kept.store.status
    assert kept.path is not None
    assert status.bytes >= kept.path.stat().st_size > 0
    assert status.commits >= 1
    assert 0 < status.commit_seconds <= status.longest_commit_seconds
    assert status.dropped == 0


@pytest.mark.skipif(sys.platform != "linux", reason="flock and /proc")
def test_closing_lets_go_of_everything(tmp_path: Path) -> None:
    """No descriptor of the file, its log or its lock stays open, and a store that was never started closes too."""
    path = written(tmp_path)
    held = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert not [name for name in held if str(path) in name]
    assert Store(path).close()
