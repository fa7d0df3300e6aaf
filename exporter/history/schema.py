"""The tables of the history and how an older file becomes a newer one. Text only: ``store`` runs it."""

from typing import Final

APPLICATION_ID: Final = 0x4C4C5048
"""In the header of the file: a database that has another one belongs to another program."""

UPGRADES: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE series (id INTEGER PRIMARY KEY, target TEXT NOT NULL, module TEXT NOT NULL, UNIQUE (target, module))",
        # Every probe comes in here, at the end of the table, so that a write touches few pages however many targets there are.
        "CREATE TABLE probe (id INTEGER PRIMARY KEY, series INTEGER NOT NULL, packed BLOB NOT NULL)",
        # Once an hour they move on. A key is series × 2**24 + hour since 1970: the hours of a series lie side by side.
        "CREATE TABLE raw (key INTEGER PRIMARY KEY, packed BLOB NOT NULL)",
        """CREATE TABLE hour (
            key INTEGER PRIMARY KEY, probes INTEGER NOT NULL, good INTEGER NOT NULL, speed REAL, ttft REAL, prefill REAL
        )""",
        """CREATE TABLE change (
            target TEXT NOT NULL, at REAL NOT NULL, document TEXT NOT NULL, PRIMARY KEY (target, at)
        ) WITHOUT ROWID""",
        """CREATE TABLE shift (
            target TEXT NOT NULL, module TEXT NOT NULL, since REAL NOT NULL, document TEXT NOT NULL,
            PRIMARY KEY (target, module, since)
        ) WITHOUT ROWID""",
        "CREATE TABLE ledger (target TEXT PRIMARY KEY, saved REAL NOT NULL, document TEXT NOT NULL)",
    ),
)
"""What makes a file of each version out of one of the version before; the first makes it out of an empty one."""
