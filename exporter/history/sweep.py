"""Tidying up, once an hour: probes move on to the row of their hour, and what is too old or too much is deleted.

It works in steps, each of which the caller runs in a transaction of its own. None takes long, and a process that is killed
between two of them leaves nothing half moved.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from exporter.history.hours import hour_number
from exporter.history.rows import HOURS, grown, key_of, samples_in, slices
from exporter.history.sample import Sample, Samples

if TYPE_CHECKING:
    import sqlite3

SLICE: Final = 64
"""Series or hours in one step."""
MOST_SERIES: Final = 10_000
MOST_WAITING: Final = 200_000
"""Probes that wait for the end of their hour: under a clock that stands still none ends."""
MOST_OF_AN_HOUR: Final = 3600
AT_ONCE_HOURS: Final = 4
"""Hours of a series that may be deleted by their age at once: a clock that is wrong for a while can't empty it."""
SPARE_HOURS: Final = 24


@dataclass(frozen=True, slots=True)
class Limits:
    """What may stay. ``hour`` is the present one, by number; ``steady`` says that its clock can be trusted.

    ``raw_hours`` is how long single probes are kept, ``keep_hours`` how long medians are.
    """

    hour: int
    steady: bool
    raw_hours: int
    keep_hours: int


def sweep(connection: "sqlite3.Connection", limits: Limits) -> Iterator[Callable[[], None]]:
    """The steps, in order. Without a steady clock nothing is deleted by its age, but never more kept than fits into it."""
    yield from _moves(connection, limits)
    series = [each for (each,) in connection.execute("SELECT id FROM series ORDER BY id").fetchall()]
    in_use = {each for (each,) in connection.execute("SELECT DISTINCT series FROM probe").fetchall()}
    for some in slices(series, SLICE):
        yield partial(_delete_old, connection, limits, some, in_use)
    if len(series) > MOST_SERIES:
        yield partial(_delete_surplus, connection, len(series) - MOST_SERIES)


def _moves(connection: "sqlite3.Connection", limits: Limits) -> Iterator[Callable[[], None]]:
    rows = connection.execute("SELECT id, series, packed FROM probe ORDER BY id").fetchall()
    groups: dict[int, list[tuple[int, Sample]]] = defaultdict(list)
    for row, series, packed in rows:
        for sample in samples_in(packed):
            groups[key_of(series, hour_number(sample.at_seconds))].append((row, sample))
    everything = len(rows) > MOST_WAITING
    past = [key for key in groups if everything or key % HOURS != limits.hour]
    for some in slices(past, SLICE):
        yield partial(_move, connection, {key: groups[key] for key in some})


def _move(connection: "sqlite3.Connection", groups: dict[int, list[tuple[int, Sample]]]) -> None:
    for key, found in groups.items():
        hour, every = grown(connection, key, [sample for _, sample in found])
        figures = hour.tokens_per_second, hour.ttft_seconds, hour.prefill_tokens_per_second
        connection.execute(
            "INSERT OR REPLACE INTO hour VALUES (?, ?, ?, ?, ?, ?)", (key, hour.probes, hour.good, *figures)
        )
        if every:
            packed = Samples.of(every[-MOST_OF_AN_HOUR:]).packed
            connection.execute("INSERT OR REPLACE INTO raw VALUES (?, ?)", (key, packed))
        connection.executemany("DELETE FROM probe WHERE id = ?", [(row,) for row, _ in found])


def _delete_old(connection: "sqlite3.Connection", limits: Limits, series: Sequence[int], in_use: set[int]) -> None:
    for each in series:
        for table, hours in (("raw", limits.raw_hours), ("hour", limits.keep_hours)):
            _delete_old_of(connection, each, table, hours, limits)
        if each not in in_use and _oldest(connection, "hour", each) is None:
            _delete_series(connection, each)


def _oldest(connection: "sqlite3.Connection", table: str, series: int) -> int | None:
    statement = f"SELECT min(key) FROM {table} WHERE key >= ? AND key < ?"  # noqa: S608 - a table's name, from here
    ((found,),) = connection.execute(statement, (key_of(series, 0), key_of(series + 1, 0))).fetchall()
    return None if found is None else int(found)


def _delete_old_of(connection: "sqlite3.Connection", series: int, table: str, hours: int, limits: Limits) -> None:
    oldest = _oldest(connection, table, series)
    if oldest is None:
        return
    if limits.steady:
        cut = min(key_of(series, max(0, limits.hour - hours)), oldest + AT_ONCE_HOURS)
        statement = f"DELETE FROM {table} WHERE key >= ? AND key < ?"  # noqa: S608 - a table's name, from here
        connection.execute(statement, (oldest, cut))
    if limits.hour % 24 == series % 24:  # counting takes longer: once a day
        statement = (
            f"DELETE FROM {table} WHERE key >= ?1 AND key <= "  # noqa: S608 - a table's name, from here
            f"(SELECT key FROM {table} WHERE key >= ?1 AND key < ?2 ORDER BY key DESC LIMIT 1 OFFSET ?3)"
        )
        connection.execute(statement, (key_of(series, 0), key_of(series + 1, 0), hours + SPARE_HOURS))


def _delete_surplus(connection: "sqlite3.Connection", count: int) -> None:
    """The series that had no probe for the longest time."""
    rows = connection.execute(
        "SELECT id FROM series ORDER BY "
        "(SELECT max(key) % ?1 FROM hour WHERE key >= series.id * ?1 AND key < (series.id + 1) * ?1) LIMIT ?2",
        (HOURS, count),
    )
    for (series,) in rows.fetchall():
        _delete_series(connection, series)


def _delete_series(connection: "sqlite3.Connection", series: int) -> None:
    for table in ("raw", "hour"):
        statement = f"DELETE FROM {table} WHERE key >= ? AND key < ?"  # noqa: S608 - a table's name, from here
        connection.execute(statement, (key_of(series, 0), key_of(series + 1, 0)))
    connection.execute("DELETE FROM probe WHERE series = ?", (series,))
    connection.execute("DELETE FROM series WHERE id = ?", (series,))
