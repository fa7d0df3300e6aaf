"""The status page in a terminal: what ``top`` draws, again and again, until it is interrupted."""

import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from exporter.status_report import (
    TREND_POINTS,
    StatusDocument,
    headline,
    next_text,
    rows_of,
    speeds_of,
    trend_range,
    trend_text,
)
from exporter.text import ERROR_CHARACTERS, printable

ASK_SECONDS: Final = 2.0
DRAW_SECONDS: Final = 1.0
LINES_AROUND: Final = 6
"""Lines of a screen that are no targets: a headline of one line, headings, how many are left out, footer, and the empty ones between."""
HEADINGS: Final = ("TARGET", "VERDICT", "SPEED", "LAST SPEEDS", "TTFT", "AGE", "NEXT", "WHY")
LEAVE: Final = ("NEXT", "TTFT", "LAST SPEEDS", "AGE")
"""The columns that a narrow terminal leaves out, in this order, so that names, verdicts and reasons can be read."""
WIDE: Final = 140
"""Columns of a terminal in which a trend has all its points and its range beside it; a narrower one shows half of the points."""
LEAST_WHY: Final = 36
LEAST_TARGET: Final = 16

STYLES: Final[Mapping[str, str]] = {
    "down": "bold white on red",
    "stuck": "bold white on red",
    "failing": "bold red",
    "wrong": "bold red",
    "poor": "bold dark_orange",
    "acceptable": "yellow",
    "good": "green",
    "excellent": "bold green",
    "right": "green",
    "loading": "blue",
    "busy": "magenta",
}

Trends = dict[str, deque[tuple[float, float]]]
"""By target: the newest speeds with their Unix times, oldest first."""


class Screen:
    """What ``top`` knows: the newest document, the speeds that it has seen, and why the daemon does not answer, if it does not.

    ``ask`` gets a document from the daemon and raises ``problem`` if that fails; ``history`` gives the past speeds of a target.
    """

    def __init__(
        self,
        ask: Callable[[], StatusDocument],
        history: Callable[[str], Sequence[tuple[float, float]]],
        problem: type[Exception],
    ) -> None:
        self._ask, self._history, self._problem = ask, history, problem
        self._document: StatusDocument | None = None
        self._trends: Trends = {}
        self._error, self._answered_at = "", 0.0

    def refresh(self, now: float) -> None:
        """Ask the daemon once. ``now`` is Unix time."""
        try:
            self._document = self._ask()
            for target, newest in speeds_of(self._document).items():
                if target not in self._trends:
                    self._trends[target] = deque(self._history(target), maxlen=TREND_POINTS)
                trend = self._trends[target]
                if not trend or trend[-1][0] < newest[0]:
                    trend.append(newest)
        except self._problem as exc:
            self._error = printable(str(exc), ERROR_CHARACTERS)
            return
        self._error, self._answered_at = "", now

    def draw(self, now: float, height: int, width: int) -> RenderableType:
        """The screen at ``now`` (Unix time), for that many lines and columns."""
        if self._document is None:
            return Text(self._error or "asking the daemon …", style="bold red" if self._error else "")
        if self._error:
            at = datetime.fromtimestamp(self._answered_at).astimezone().strftime("%H:%M:%S")
            top = Text(f"The exporter has not answered since {at}: {self._error}", style="bold white on red")
        else:
            top = Text(headline(self._document), style="bold")
        room = max(height - LINES_AROUND + 1 - len(textwrap.wrap(top.plain, width)), 1)
        rows = rows_of(self._document, now)
        table = self._table(rows[:room], now, width)
        left = len(rows) - room
        below = Text(f"and {left} more, as good or better" if left > 0 else "", style="dim")
        foot = Text("Ctrl-C ends this", style="dim")
        return Group(top, Text(""), table, below, foot)

    def _table(self, rows: Sequence[tuple[str, ...]], now: float, width: int) -> Table:
        targets = self._document["targets"] if self._document else ()
        lines = [self._line(row, told, now, width) for row, told in zip(rows, targets, strict=False)]
        widths = {name: max(len(name), *(len(line[name]) for line in lines)) for name in HEADINGS} if lines else {}
        table = Table(box=None, pad_edge=False, expand=True, style="dim" if self._error else "")
        shown = columns_for(widths, width)
        for name in shown:
            limit = _target_width(widths, shown, width) if name == "TARGET" and lines else None
            table.add_column(
                name, no_wrap=True, overflow="ellipsis", ratio=1 if name == "WHY" else None, max_width=limit
            )
        for line in lines:
            styles = {"VERDICT": STYLES.get(line["VERDICT"], "dim"), "LAST SPEEDS": "cyan", "NEXT": "dim"}
            table.add_row(*(Text(line[name], style="" if self._error else styles.get(name, "")) for name in shown))
        return table

    def _line(self, row: tuple[str, ...], told: StatusDocument, now: float, width: int) -> dict[str, str]:
        """The cells of one target by their headings."""
        target, verdict, speed, ttft, age, _, why = row
        speeds = [each for _, each in self._trends.get(str(told.get("target")), ())]
        short = trend_text(speeds[-TREND_POINTS // 2 :])
        trend = f"{trend_text(speeds)} {trend_range(speeds)}".strip() if width >= WIDE else short
        return dict(zip(HEADINGS, (target, verdict, speed, trend, ttft, age, next_text(told, now), why), strict=True))


def columns_for(widths: Mapping[str, int], width: int) -> tuple[str, ...]:
    """The columns that fit into a terminal of this width; ``widths`` are those of their longest cells, empty without a row."""
    left = list(HEADINGS)
    for name in LEAVE:
        if _taken(widths, left) + min(widths.get("TARGET", 0), LEAST_TARGET) <= width - LEAST_WHY:
            break
        left.remove(name)
    return tuple(left)


def _taken(widths: Mapping[str, int], names: Sequence[str]) -> int:
    """What these columns take with the spaces between all, without the names of targets and the reasons."""
    return sum(widths.get(name, len(name)) for name in names if name not in {"TARGET", "WHY"}) + 2 * (len(names) - 1)


def _target_width(widths: Mapping[str, int], names: Sequence[str], width: int) -> int:
    """What the names of targets may take, so that the reasons have room."""
    return max(min(widths["TARGET"], width - LEAST_WHY - _taken(widths, names)), LEAST_TARGET)


def watch(screen: Screen, console: Console, stop: threading.Event) -> None:
    """Draw until ``stop``; the daemon is asked in a thread of its own, so that a slow answer holds nothing up."""

    def ask() -> None:
        while not stop.is_set():
            screen.refresh(time.time())
            stop.wait(ASK_SECONDS)

    thread = threading.Thread(target=ask, name="top", daemon=True)
    thread.start()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not stop.is_set():
            live.update(screen.draw(time.time(), console.size.height, console.size.width), refresh=True)
            stop.wait(DRAW_SECONDS)
