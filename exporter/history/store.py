"""The file that keeps the history over restarts: SQLite, one writer thread, any number of readers.

Probes and ledgers are handed over without waiting; the writer commits them together about once a second. Each probe is
kept for two days, then the medians of its hour. In write-ahead mode a process that is killed at any point leaves a whole
file. If no file can be kept, a smaller history is kept in memory, and ``Status.problem`` says why.
"""

import contextlib
import fcntl
import json
import logging
import os
import sqlite3
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from exporter.history.change import Change, Entry, Ledger, entries_of, news
from exporter.history.document import change_of, document_of, ledger_of, shift_of
from exporter.history.hours import HOUR_SECONDS, Hour, hour_number
from exporter.history.rows import HOURS, by_hour, grown, hour_in, key_of, samples_in, series_of, waiting
from exporter.history.sample import Sample, Samples
from exporter.history.schema import APPLICATION_ID, UPGRADES
from exporter.history.shift import Shift  # noqa: TC001 - beside the other records
from exporter.history.sweep import Limits, sweep

log = logging.getLogger(__name__)
T = TypeVar("T")

KEEP_SECONDS: Final = 90 * 86400.0
RAW_HOURS: Final = 48
IN_MEMORY_RAW_HOURS: Final = 3
IN_MEMORY_HOURS: Final = 7 * 24
FLUSH_SECONDS: Final = 5.0
"""How long a probe may wait to be committed together with others; the probes of this time are lost if the process is killed."""
RETRY_SECONDS: Final = 30.0
OPEN_SECONDS: Final = 10.0
MINUTE: Final = 60.0
SAVE_SECONDS: Final = 3600.0
"""How old what is kept of a ledger may become that says nothing new."""
MOST_WAITING: Final = 50_000
"""Probes that wait while the disk takes none; beyond that number the oldest are dropped."""
MOST_CHANGES: Final = 500
"""Changes kept of each target, and as many shifts."""
JUMP_SECONDS: Final = 60.0
STEADY_SECONDS: Final = 7200.0
"""A clock that was set by more than a minute in the last two hours is not trusted."""
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class HistoryError(Exception):
    """The history can't be read, or not be kept in this file; the message says why."""


@dataclass(frozen=True, slots=True)
class Status:
    """How the history is kept: in a file, or in memory only if ``path`` is None.

    ``problem`` says why it is in memory or what keeps it from being written, ``set_aside`` where a damaged file is now.
    ``bytes`` is the size of the file and its log, ``dropped`` counts probes that could not be written. ``commits`` are
    those since the start, ``commit_seconds`` how long the last of them took and ``longest_commit_seconds`` the longest.
    """

    path: Path | None = None
    problem: str = ""
    set_aside: Path | None = None
    bytes: int = 0
    dropped: int = 0
    commits: int = 0
    commit_seconds: float = 0.0
    longest_commit_seconds: float = 0.0


class Reader:
    """What the history holds. Any thread may ask; each answer is of one instant. Raises HistoryError."""

    def __init__(self, connect: Callable[[], AbstractContextManager[sqlite3.Connection]]) -> None:
        self._connect = connect

    def series(self) -> tuple[tuple[str, str], ...]:
        """The (target, module) pairs that have probes."""
        with self._reading() as connection:
            return tuple(connection.execute("SELECT target, module FROM series ORDER BY target, module"))

    def samples(self, target: str, module: str, since: float, until: float) -> tuple[Sample, ...]:
        """The single probes from ``since`` up to ``until`` (Unix time), oldest first; they are kept for two days."""
        with self._reading() as connection:
            series = series_of(connection, target, module)
            if series is None:
                return ()
            keys = key_of(series, hour_number(since)), key_of(series, hour_number(until))
            rows = connection.execute("SELECT packed FROM raw WHERE key BETWEEN ? AND ?", keys)
            found = [sample for (packed,) in rows for sample in samples_in(packed)]
            found += waiting(connection, series)
        return tuple(sorted((each for each in found if since <= each.at_seconds < until), key=_time_of))

    def hours(self, target: str, module: str, since: float, until: float) -> tuple[Hour, ...]:
        """The hours in which ``since`` to ``until`` (Unix time) lies, oldest first; without those that had no probe."""
        first, last = hour_number(since), hour_number(until)
        with self._reading() as connection:
            series = series_of(connection, target, module)
            if series is None:
                return ()
            keys = key_of(series, first), key_of(series, last)
            rows = connection.execute("SELECT * FROM hour WHERE key BETWEEN ? AND ?", keys)
            found = {key % HOURS: hour_in(key, figures) for key, *figures in rows}
            for number, samples in by_hour(waiting(connection, series)).items():
                if first <= number <= last:
                    found[number], _ = grown(connection, key_of(series, number), samples)
        return tuple(found[number] for number in sorted(found))

    def entries(self, since: float = 0.0, target: str | None = None) -> tuple[Entry, ...]:
        """Changes and unexplained steps since a time (Unix), of one target or of all, newest first."""
        changes: dict[str, list[Change]] = defaultdict(list)
        shifts: dict[str, list[Shift]] = defaultdict(list)
        asked = since, target, target
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT target, document FROM change WHERE at >= ? AND (? IS NULL OR target = ?)", asked
            )
            for name, text in rows:
                changes[name] += _read(change_of, text)
            rows = connection.execute(
                # What is judged together is kept under the first of its changes.
                "SELECT target, document FROM shift WHERE since >= ? - 604800 AND (? IS NULL OR target = ?)",
                asked,
            )
            for name, text in rows:
                shifts[name] += _read(shift_of, text)
        found = (each for name in {*changes, *shifts} for each in entries_of(name, changes[name], shifts[name]))
        return tuple(sorted((each for each in found if each.at_seconds >= since), key=_time_of, reverse=True))

    def ledgers(self) -> dict[str, Ledger]:
        """What was known of each target when it was kept last, by its name."""
        with self._reading() as connection:
            texts = connection.execute("SELECT document FROM ledger").fetchall()
        return {ledger.target: ledger for (text,) in texts for ledger in _read(ledger_of, text)}

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._connect() as connection:
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise HistoryError(f"the history can't be read: {error}") from error


def open_reader(path: Path) -> Reader:
    """A reader of a file that another process may be writing; the first answer raises HistoryError if it can't be read."""
    return Reader(lambda: closing(_connect(path, "ro")))


class Store:
    """Keeps the history in a thread of its own; ``path`` None in memory only.

    ``start`` opens the file, ``close`` writes what waits and ends. ``add`` and ``save`` never wait for the disk. What
    the file holds is in ``reader``. ``clock`` is Unix time, which may be set at any time.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        keep_seconds: float = KEEP_SECONDS,
        flush_seconds: float = FLUSH_SECONDS,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reader = Reader(self._reading)
        self._writer = _Writer(path, keep_seconds, clock, monotonic)
        self._flush_seconds, self._monotonic = flush_seconds, monotonic
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._opened = threading.Event()
        # Handed over, under this condition:
        self._handing = threading.Condition()
        self._probes: deque[_Probe] = deque()
        self._ledgers: dict[str, Ledger] = {}
        self._flushes_asked = self._flushes_done = self._dropped = 0
        self._closing = False
        self._retry_at: float | None = None

    @property
    def status(self) -> Status:
        """How the history is kept, as it was noted last: this reads no file."""
        return replace(self._writer.status, dropped=self._dropped)

    def start(self) -> None:
        """Open the file; returns when it is open, or after 10 s if the disk hangs."""
        self._thread.start()
        self._opened.wait(OPEN_SECONDS)

    def add(self, target: str, module: str, sample: Sample) -> None:
        """Keep one probe that ran."""
        probe = _Probe(target, module, Samples.of((sample,)).packed)
        with self._handing:
            self._probes.append(probe)
            self._drop_surplus()
            self._handing.notify_all()

    def save(self, ledger: Ledger) -> None:
        """Keep what is known of a target: at once if it says something new, else within the hour."""
        with self._handing:
            self._ledgers[ledger.target] = ledger
            self._handing.notify_all()

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until all probes and news that were handed over are in the file; False if they are not in time (seconds)."""
        with self._handing:
            self._flushes_asked += 1
            mine = self._flushes_asked
            self._handing.notify_all()
            return self._handing.wait_for(lambda: self._flushes_done >= mine, timeout) and self._retry_at is None

    def close(self, timeout: float = 10.0) -> bool:
        """Write what waits, every ledger too, and end; False if that was not done in time (seconds)."""
        with self._handing:
            self._closing = True
            self._handing.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive() and self._retry_at is None

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        path = self._writer.status.path
        if path is None:
            with self._writer.shared() as connection:
                yield connection
            return
        try:
            with closing(_connect(path, "ro")) as connection:
                yield connection
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                self._writer.suspect = True
            raise

    def _drop_surplus(self) -> None:
        for _ in range(len(self._probes) - MOST_WAITING):
            self._probes.popleft()
            self._dropped += 1

    # In the thread

    def _run(self) -> None:
        try:
            self._writer.open()
        finally:
            self._opened.set()
        try:
            while self._turn():
                pass
        finally:
            self._writer.close()

    def _turn(self) -> bool:
        """Wait for what is handed over, write it, tidy up; False when it was the last time."""
        with self._handing:
            self._handing.wait_for(lambda: self._must_write() or bool(self._probes or self._ledgers), timeout=1.0)
            # More is soon to come, and one commit costs as much as several.
            self._handing.wait_for(self._must_write, self._flush_seconds)
            last, asked = self._closing, self._flushes_asked
            at_once = self._must_write()
        if at_once or self._retry_at is None or self._monotonic() >= self._retry_at:
            for _ in range(2):  # once more if a damaged file was replaced
                if self._write(last=last):
                    break
        with self._handing:
            self._flushes_done = asked
            self._handing.notify_all()
        return not last

    def _must_write(self) -> bool:
        return self._closing or self._flushes_asked > self._flushes_done

    def _write(self, *, last: bool) -> bool:
        """Whatever the disk does, nothing raises, and what it did not take waits; False if an empty file awaits it."""
        with self._handing:
            probes, ledgers = self._probes, self._ledgers
            self._probes, self._ledgers = deque(), {}
        replaced = False
        try:
            self._writer.write(probes, ledgers, everything=last)
            probes, ledgers = deque(), {}
            if not last:
                self._writer.tidy_up()
        except (sqlite3.Error, OSError) as error:
            replaced = self._writer.replace_damaged(error)
            if not replaced:
                self._fail(str(error))
        except Exception as error:
            # Not the disk's fault, so another attempt would fail as well.
            log.exception(
                "%d probes and the changes of %d targets can't be stored, and are lost", len(probes), len(ledgers)
            )
            probes, ledgers = deque(), {}
            self._fail(repr(error))
        else:
            self._succeed()
        with self._handing:
            self._probes.extendleft(reversed(probes))
            self._drop_surplus()
            self._ledgers = ledgers | self._ledgers
        return not replaced

    def _succeed(self) -> None:
        if self._retry_at is not None:
            log.info("the history can be written again")
            self._retry_at = None
            self._writer.note(problem="")

    def _fail(self, why: str) -> None:
        if self._retry_at is None:
            log.warning("the history can't be written: %s; the next attempt is in %d s", why, RETRY_SECONDS)
        self._retry_at = self._monotonic() + RETRY_SECONDS
        self._writer.note(problem=f"can't be written: {why}")


@dataclass(frozen=True, slots=True)
class _Probe:
    target: str
    module: str
    packed: bytes


class _Writer:
    """The one connection that writes, and the file that it is of. For one thread, but for ``shared``, ``status``, ``suspect``."""

    def __init__(
        self, path: Path | None, keep_seconds: float, clock: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self.status = Status(path)
        self.suspect = False
        """A reader met damage: the file is to be checked."""
        self._path, self._clock, self._monotonic = path, clock, monotonic
        self._raw_hours, self._keep_hours = RAW_HOURS, max(1, round(keep_seconds / HOUR_SECONDS))
        self._using = threading.RLock()
        """Held while the connection is in use: if the history is in memory, readers share it."""
        self._connection: sqlite3.Connection | None = None
        self._lock_file: int | None = None
        self._series: dict[tuple[str, str], int] = {}
        self._saved: dict[str, tuple[Ledger, float]] = {}
        """What is kept of each target now, and when it was written."""
        self._unsaved: dict[str, Ledger] = {}
        """Newer ledgers that say nothing new."""
        self._checked_at, self._swept = -MINUTE, (-1, 0.0)
        self._clock_offset, self._steady_since = clock() - monotonic(), monotonic()

    def note(self, **changes: Any) -> None:
        """Put something into the status."""
        self.status = replace(self.status, **changes)

    @contextlib.contextmanager
    def shared(self) -> Iterator[sqlite3.Connection]:
        """The connection, for a reader of a history in memory. Raises HistoryError if it is not open."""
        with self._using:
            if self._connection is None:
                raise HistoryError("the history is not open")
            yield self._connection

    # The file

    def open(self) -> None:
        """Open the file, set it aside if it is damaged, and go without one if there can be none."""
        if self._path is None:
            self._open_in_memory()
            return
        try:
            self._open_file(self._path)
        except (OSError, sqlite3.Error, HistoryError) as error:
            if isinstance(error, sqlite3.Error) and _is_damage(error):
                self._start_anew(self._path, str(error))
            else:
                self._open_in_memory(f"{self._path}: {error}")

    def close(self) -> None:
        """Close the file and let another process write it."""
        self._disconnect()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _disconnect(self) -> None:
        with self._using:
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.close()
            self._connection = None

    def _open_in_memory(self, problem: str = "") -> None:
        self.close()
        if problem:
            log.warning("the history is kept in memory only, and is lost when the exporter stops: %s", problem)
        self.note(path=None, problem=problem)
        self._raw_hours, self._keep_hours = IN_MEMORY_RAW_HOURS, min(self._keep_hours, IN_MEMORY_HOURS)
        self._use(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))

    def _open_file(self, path: Path) -> None:
        """Raises OSError, sqlite3.Error, and HistoryError for a file that must be left alone."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock(path)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._use(_connect(path, "rw"))

    def _use(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._series.clear()
        _upgrade(connection)
        rows = connection.execute("SELECT document FROM ledger").fetchall()
        ledgers = (ledger for (text,) in rows for ledger in _read(ledger_of, text))
        self._saved = {ledger.target: (ledger, self._monotonic()) for ledger in ledgers}

    def _lock(self, path: Path) -> None:
        """One writer. The lock goes with the process, however that ends."""
        if self._lock_file is not None:
            return
        self._lock_file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HistoryError("another process writes this file") from None
        except OSError as error:
            log.info("%s can't be locked on this filesystem (%s): only one process may write it", path, error)

    def _start_anew(self, path: Path, why: str) -> None:
        """Set a damaged file aside under another name and begin an empty one. Of several only the newest is kept."""
        self._disconnect()
        aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(self._clock()))}")
        try:
            for old in path.parent.glob(f"{path.name}.damaged-*"):
                old.unlink(missing_ok=True)
            path.replace(aside)
            path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                path.with_name(f"{path.name}-wal").replace(f"{aside}-wal")
            self._open_file(path)
        except (OSError, sqlite3.Error, HistoryError) as error:
            self._open_in_memory(f"{path} is damaged ({why}) and can't be replaced: {error}")
            return
        log.warning("%s is damaged (%s): it was renamed to %s, and a new one was started", path, why, aside.name)
        self.note(set_aside=aside)

    def replace_damaged(self, error: Exception) -> bool:
        """Begin an empty file if the error says that this one is damaged; whether it did."""
        if self.status.path is None or not isinstance(error, sqlite3.Error) or not _is_damage(error):
            return False
        self._start_anew(self.status.path, str(error))
        return True

    # Writing

    def write(self, probes: Iterable[_Probe], ledgers: Mapping[str, Ledger], *, everything: bool) -> None:
        """In one transaction: the probes, and those ledgers that say something new, or all. Raises sqlite3.Error."""
        if self.suspect:
            self._check()
        self._unsaved |= ledgers
        now = self._monotonic()
        asked = self._unsaved if everything or now - self._checked_at >= MINUTE else ledgers
        due = [ledger for ledger in asked.values() if everything or self._is_due(ledger, now)]
        try:
            if probes or due:
                with self._transaction() as connection:
                    rows = [(self._series_id(connection, probe.target, probe.module), probe.packed) for probe in probes]
                    connection.executemany("INSERT INTO probe (series, packed) VALUES (?, ?)", rows)
                    for ledger in due:
                        self._put_ledger(connection, ledger)
        except BaseException:
            self._series.clear()
            raise
        for ledger in due:
            self._saved[ledger.target] = (ledger, now)
            self._unsaved.pop(ledger.target, None)

    def _is_due(self, ledger: Ledger, now: float) -> bool:
        saved, at = self._saved.get(ledger.target, (None, 0.0))
        if saved is None or now - at >= SAVE_SECONDS:
            return True
        return saved.known != ledger.known or saved.fingerprints != ledger.fingerprints or bool(news(saved, ledger))

    def _check(self) -> None:
        self.suspect = False
        if self._connection is None or self.status.path is None:
            return
        try:
            ((found,),) = self._connection.execute("PRAGMA quick_check(1)").fetchall()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            found = str(error)
        if found != "ok":
            self._start_anew(self.status.path, found)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._using:
            connection = self._connection
            if connection is None:
                raise sqlite3.OperationalError("the file is not open")
            started = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # After some errors SQLite has rolled back itself.
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        took = time.perf_counter() - started
        longest = max(took, self.status.longest_commit_seconds)
        self.note(commits=self.status.commits + 1, commit_seconds=took, longest_commit_seconds=longest)

    def _series_id(self, connection: sqlite3.Connection, target: str, module: str) -> int:
        found = self._series.get((target, module))
        if found is None:
            statement = "INSERT INTO series (target, module) VALUES (?, ?) ON CONFLICT DO NOTHING"
            connection.execute(statement, (target, module))
            found = series_of(connection, target, module)
            assert found is not None  # noqa: S101 - it was inserted
            self._series[target, module] = found
        return found

    def _put_ledger(self, connection: sqlite3.Connection, ledger: Ledger) -> None:
        name, saved = ledger.target, self._saved.get(ledger.target)
        told = news(saved[0] if saved else Ledger(name), ledger)
        connection.executemany(
            "DELETE FROM change WHERE target = ? AND at = ?", [(name, each.at_seconds) for each in told.gone_changes]
        )
        connection.executemany(
            "DELETE FROM shift WHERE target = ? AND module = ? AND since = ?",
            [(name, each.series, each.since_seconds) for each in told.gone_shifts],
        )
        connection.executemany(
            "INSERT OR REPLACE INTO change VALUES (?, ?, ?)",
            [(name, each.at_seconds, _text(asdict(each))) for each in told.changes],
        )
        connection.executemany(
            "INSERT OR REPLACE INTO shift VALUES (?, ?, ?, ?)",
            [(name, each.series, each.since_seconds, _text(asdict(each))) for each in told.shifts],
        )
        for table, time_of in (("change", "at"), ("shift", "since")) if told else ():
            statement = (
                f"DELETE FROM {table} WHERE target = ?1 AND {time_of} < "  # noqa: S608 - two names from the line above
                f"(SELECT {time_of} FROM {table} WHERE target = ?1 ORDER BY {time_of} DESC LIMIT 1 OFFSET ?2)"
            )
            connection.execute(statement, (name, MOST_CHANGES - 1))
        row = name, self._clock(), _text(document_of(ledger))
        connection.execute("INSERT OR REPLACE INTO ledger VALUES (?, ?, ?)", row)

    # Tidying up

    def tidy_up(self) -> None:
        """Once a minute measure the file, once an hour sweep. Raises sqlite3.Error."""
        now, hour = self._monotonic(), hour_number(self._clock())
        offset = self._clock() - now
        if abs(offset - self._clock_offset) > JUMP_SECONDS:
            self._steady_since = now
        self._clock_offset = offset
        if hour != self._swept[0] or now - self._swept[1] >= HOUR_SECONDS:
            steady = now - self._steady_since >= STEADY_SECONDS
            self._sweep(Limits(hour, steady, self._raw_hours, self._keep_hours))
            self._swept = hour, now
        if now - self._checked_at >= MINUTE:
            self._checked_at = now
            self.note(bytes=self._size())

    def _sweep(self, limits: Limits) -> None:
        connection = self._connection
        if connection is None:
            return
        for step in sweep(connection, limits):
            with self._transaction():
                step()
        if limits.steady:
            with self._transaction():
                self._delete_targets(connection, self._clock() - limits.keep_hours * HOUR_SECONDS)
        self._series.clear()
        connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()

    def _delete_targets(self, connection: sqlite3.Connection, before: float) -> None:
        """What is known of targets without probes that were not heard of for as long as anything is kept."""
        connection.execute(
            "DELETE FROM ledger WHERE saved < ? AND target NOT IN (SELECT target FROM series)", (before,)
        )
        connection.execute("DELETE FROM change WHERE target NOT IN (SELECT target FROM ledger)")
        connection.execute("DELETE FROM shift WHERE target NOT IN (SELECT target FROM ledger)")
        known = {name for (name,) in connection.execute("SELECT target FROM ledger")}
        self._saved = {name: each for name, each in self._saved.items() if name in known}

    def _size(self) -> int:
        path, total = self.status.path, 0
        if path is None and self._connection is not None:
            ((total,),) = self._connection.execute(
                "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
            ).fetchall()
        elif path is not None:
            for name in (path.name, f"{path.name}-wal"):
                with contextlib.suppress(OSError):
                    total += path.with_name(name).stat().st_size
        return total


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    address = f"file:{quote(str(path))}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=5.0, isolation_level=None, check_same_thread=False)


def _upgrade(connection: sqlite3.Connection) -> None:
    """Make the tables, or those of this version out of an older one's. HistoryError for a file that must be left alone."""
    ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    if application != APPLICATION_ID and (application or version or tables):
        raise HistoryError("it is the database of another program")
    if version > len(UPGRADES):
        raise HistoryError("it was written by a newer version")
    if not tables:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    # If the filesystem has no shared memory, SQLite keeps its rollback journal, which is as safe and slower.
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 256").fetchall()
    connection.execute("PRAGMA journal_size_limit = 1048576")
    for number, statements in enumerate(UPGRADES[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def _time_of(each: Sample | Entry) -> float:
    return each.at_seconds


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def _read(make: Callable[[Mapping[str, Any]], T], text: str) -> list[T]:
    """What a document says; nothing if it can't be read, so that one damaged document does not affect the others."""
    try:
        return [make(json.loads(text))]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        log.warning("a part of the history can't be read: %r", error)
        return []
