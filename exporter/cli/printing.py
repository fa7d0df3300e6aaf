"""What commands print: rows, JSON and progress bars, and on stderr sentences. A stranger's text moves no cursor."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NoReturn

import click

from exporter.text import escaped

STYLES: Final = {
    "excellent": "bold green",
    "good": "green",
    "minimum": "green",
    "acceptable": "yellow",
    "below the minimum": "yellow",
    "no change": "yellow",
    "poor": "bold red",
    "down": "bold red",
    "stuck": "bold red",
    "failing": "bold red",
    "wrong": "bold red",
    "right": "green",
    "slower": "bold red",
}
"""The colour of a cell, by the words before its colon."""


def say(text: str) -> None:
    """A sentence on stderr."""
    click.echo(escaped(text, keep="\n\t"), err=True)


def fail(text: str) -> NoReturn:
    """A sentence on stderr, and exit code 1."""
    say(text)
    sys.exit(1)


@contextlib.contextmanager
def wrong_settings() -> Iterator[None]:
    """Print all errors of the settings, a line each, and exit with 2."""
    from exporter.settings import SettingsError

    try:
        yield
    except SettingsError as exc:
        for problem in exc.errors:
            say(str(problem))
        sys.exit(2)


def print_json(document: Any) -> None:
    """A document for scripts; a figure that is no number of JSON is an error."""
    click.echo(escaped(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False), keep="\n"))


LEAST_LAST: Final = 40
"""Characters that the last column of a table needs on a terminal, so that its sentences can be read."""


def print_rows(rows: Sequence[tuple[str, ...]], headings: tuple[str, ...] = (), leave_out: Sequence[str] = ()) -> None:
    """Columns: in colour and fitted on a terminal, plain and never cut elsewhere.

    ``leave_out`` are the headings of the columns that a narrow terminal doesn't show, in this order.
    """
    rows = [tuple(escaped(words) for words in row) for row in rows]
    if not sys.stdout.isatty():
        lines = [headings, *rows] if headings else list(rows)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            click.echo("  ".join(f"{words:{width}}" for words, width in zip(line, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    headings, rows = fitted(rows, headings, leave_out, console.width)
    table = Table(*headings, box=None, pad_edge=False, show_header=bool(headings))
    for column in table.columns:
        column.overflow = "fold"
    for first, *others in rows:
        words = [Text(each, style=STYLES.get(each.partition(":")[0], "")) for each in others]
        table.add_row(Text(first, style="dim"), *words)
    console.print(table)


def fitted(
    rows: Sequence[tuple[str, ...]], headings: tuple[str, ...], leave_out: Sequence[str], width: int
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The headings and rows without those columns that would leave too little of a terminal's width for the last one."""
    kept = list(range(len(headings) or max(map(len, rows), default=0)))
    for name in leave_out:
        taken = sum(max(len(line[column]) for line in (headings, *rows)) + 2 for column in kept[:-1])
        if taken + LEAST_LAST <= width:
            break
        kept.remove(headings.index(name))
    return tuple(headings[column] for column in kept if headings), [tuple(row[i] for i in kept) for row in rows]


@contextlib.contextmanager
def probes_progress(total: int) -> Iterator[Callable[[int, str], None]]:
    """A progress bar of probes on a terminal's stderr; elsewhere nothing. It gives what is called before each probe."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),  # [fd00::1] in an address is no markup
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    shown = Progress(*columns, console=console, transient=True, refresh_per_second=4, disable=not console.is_terminal)
    with shown as progress:
        task = progress.add_task("", total=total)
        yield lambda done, what: progress.update(task, description=f"probing {what}", completed=done)


@contextlib.contextmanager
def bytes_progress(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar of bytes on a terminal's stderr; elsewhere nothing. It gives what is called with the bytes since its last call."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda size: progress.advance(task, size)
