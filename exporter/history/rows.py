"""What stands in the rows of the history, and how an hour of a series grows. The caller owns the connection."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from exporter.history.hours import HOUR_SECONDS, Hour, hour_number, hour_of, joined
from exporter.history.sample import Sample, Samples, is_whole

if TYPE_CHECKING:
    import sqlite3

HOURS: Final = 2**24
"""Keys that a series has in the tables ``raw`` and ``hour``."""


def key_of(series: int, hour: int) -> int:
    """The key of one hour of one series."""
    return series * HOURS + hour


def series_of(connection: "sqlite3.Connection", target: str, module: str) -> int | None:
    """The number of a series; None if it has no probe."""
    row = connection.execute("SELECT id FROM series WHERE target = ? AND module = ?", (target, module)).fetchone()
    return None if row is None else int(row[0])


def samples_in(packed: bytes) -> list[Sample]:
    """The samples of a row; none if it was cut off."""
    return list(Samples(packed)) if is_whole(packed) else []


def waiting(connection: "sqlite3.Connection", series: int) -> list[Sample]:
    """The probes of a series that are not in an hour yet, in the order in which they came."""
    rows = connection.execute("SELECT packed FROM probe WHERE series = ? ORDER BY id", (series,))
    return [sample for (packed,) in rows for sample in samples_in(packed)]


def by_hour(samples: Iterable[Sample]) -> Mapping[int, list[Sample]]:
    """Samples by the number of their hour."""
    found: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[hour_number(sample.at_seconds)].append(sample)
    return found


def hour_in(key: int, figures: Sequence[Any]) -> Hour:
    """The hour that a row of ``hour`` holds beside its key."""
    return Hour(key % HOURS * HOUR_SECONDS, *figures)


def grown(connection: "sqlite3.Connection", key: int, samples: Iterable[Sample]) -> tuple[Hour, list[Sample]]:
    """An hour with more probes, and all its single probes by time; none if those that it had are gone."""
    row = connection.execute("SELECT * FROM hour WHERE key = ?", (key,)).fetchone()
    raw = connection.execute("SELECT packed FROM raw WHERE key = ?", (key,)).fetchone()
    if row is not None and raw is None:
        return joined(hour_in(key, row[1:]), hour_of(key % HOURS, samples)), []
    every = sorted([*(samples_in(raw[0]) if raw else ()), *samples], key=lambda sample: sample.at_seconds)
    return hour_of(key % HOURS, every), every


def slices(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """A sequence in parts of at most ``size``."""
    return (values[start : start + size] for start in range(0, len(values), size))
