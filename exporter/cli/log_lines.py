"""The daemon's log: one line for each record, for programs in a pipe and for a person at a terminal."""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Final

import click

from exporter.text import escaped


class LogLine(logging.Formatter):
    """One line for each record: ``ts=2026-01-31T12:00:00.000Z level=info component=daemon msg="…"``, line breaks escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as pairs of key and value."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        message = escaped(json.dumps(text, ensure_ascii=False))
        component = record.name.removeprefix("exporter.")
        return f"ts={at} level={record.levelname.lower()} component={component} msg={message}"


class PersonLine(logging.Formatter):
    """A record as a person at a terminal reads it: ``12:00:00 warning targets: …``, coloured by its level."""

    COLORS: Final = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}

    def __init__(self, *, color: bool) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line, control characters escaped; a traceback follows on lines of its own."""
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        text = escaped(record.getMessage())
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        line = f"{at} {record.name.removeprefix('exporter.')}: {level}{text}"
        if self._color and record.levelname in self.COLORS:
            line = click.style(line, fg=self.COLORS[record.levelname])
        if record.exc_info:
            line += "\n" + escaped(self.formatException(record.exc_info), keep="\n")
        return line


def log_to_stderr(level: str) -> None:
    """Log from this level on, each record as a line that fits what stderr is; libraries from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    person = PersonLine(color="NO_COLOR" not in os.environ)
    handler.setFormatter(person if sys.stderr.isatty() else LogLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("exporter").setLevel(level.upper())
