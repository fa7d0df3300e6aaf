"""YAML into plain data with the source location of everything in it, within bounds, and with all that is wrong with it."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from exporter.regular_file import read_start
from exporter.settings.errors import Loc, Problem, path_of

# Bounds on what a file may cost to read: room for thousands of targets, none for a bomb.
MAX_BYTES: Final = 1 << 20
MAX_VALUES: Final = 100_000
MAX_DEPTH: Final = 16

NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
TAGS: Final = frozenset({"!", *(f"tag:yaml.org,2002:{tag}" for tag in "str null bool int float seq map".split())})


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """Where a value stands: a number that sorts its document, line and column from 1, and what a person calls it."""

    order: tuple[int, int, int]
    source: str


@dataclass(slots=True)
class Document:
    """Plain data, every scalar as its text or None, with the location of each key and item, and what was wrong.

    ``data`` is None if the text was empty or could not be read at all; then a problem says why.
    """

    data: Any = None
    locations: dict[Loc, SourceLocation] = field(default_factory=dict)
    problems: list[tuple[SourceLocation, Problem]] = field(default_factory=list)


QUICK: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, if PyYAML has it. It words errors differently, and takes some texts that the other does not."""


class _UnreadableError(Exception):
    """What ends the reading of a document: a bound exceeded, or something that data can't be made of."""

    def __init__(self, message: str, event: Any) -> None:
        super().__init__(message)
        self.mark = event.start_mark


class _Composer:
    """Builds a Document from YAML's events. A scalar stays text: the type of the setting decides what it means.

    Reading from events bounds depth and size before anything is built; an alias counts as what it repeats.
    """

    def __init__(self, text: str, number: int, label: str, loader: Any) -> None:
        self.events: Any = yaml.parse(text, Loader=loader)
        self.number, self.label = number, label
        self.document = Document()
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.values = 0

    def compose(self) -> Document:
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if self.document.locations:
                    raise _UnreadableError("has more than one document in it", event)
                self.document.data = self.value((), next(self.events))
        return self.document

    def value(self, loc: Loc, event: Any) -> Any:
        """The value that begins with an event, or with the next one."""
        self.document.locations[loc] = self.document.locations.get(loc) or self.location(event)
        self.count(1, event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise _UnreadableError("an alias (*name) names nothing that is complete before it", event)
            value, size = self.anchors[event.anchor]
            self.count(size, event)
            return value
        if len(loc) > MAX_DEPTH:
            raise _UnreadableError(f"is nested deeper than {MAX_DEPTH} levels", event)
        if event.tag is not None and event.tag not in TAGS:
            self.problem(loc, event, "has a tag, and tags are not supported: write the value itself")
        before = self.values
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(loc, event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self.sequence(loc)
        else:
            value = self.mapping(loc)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, self.values - before
        return value

    def scalar(self, loc: Loc, event: Any) -> str | None:
        if event.implicit[0] and event.value in NULLS:
            return None
        if _has_half_character(event.value):
            self.problem(loc, event, "has a lone surrogate in it, which is half of a character")
            return None
        return str(event.value)

    def sequence(self, loc: Loc) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value((*loc, len(items)), event))
        return items

    def mapping(self, loc: Loc) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        inherited: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or _has_half_character(event.value):
                raise _UnreadableError("has a key that is not text", event)
            inner = (*loc, event.value)
            if event.value == "<<":
                inherited = self.inherited(inner)
            elif event.value in entries:
                self.problem(inner, event, f"is given twice: first in {self.document.locations[inner].source}")
                self.value(inner, next(self.events))
            else:
                self.document.locations[inner] = self.location(event)
                entries[event.value] = self.value(inner, next(self.events))
        return {**inherited, **entries}

    def inherited(self, loc: Loc) -> dict[str, Any]:
        """What ``<<`` merges in: the keys of a mapping, or of a list of them, of which the first wins."""
        event = next(self.events)
        value = self.value(loc, event)
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            self.problem(loc, event, "merges something that is not a mapping")
            return {}
        return {key: part[key] for part in reversed(parts) for key in part}

    def count(self, values: int, event: Any) -> None:
        self.values += values
        if self.values > MAX_VALUES:
            raise _UnreadableError(f"has more than {MAX_VALUES} values, those that aliases repeat included", event)

    def location(self, event: Any) -> SourceLocation:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        return SourceLocation((self.number, line, column), f"{self.label}:{line}")

    def problem(self, loc: Loc, event: Any, message: str) -> None:
        location = self.location(event)
        self.document.problems.append((location, Problem(path_of(loc), message, location.source)))


def _has_half_character(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def compose(text: str, number: int, label: str, loader: Any = yaml.SafeLoader) -> Document:
    """The Document of a text that a person calls ``label``; it never raises. ``number`` sorts it among other documents."""
    try:
        return _Composer(text, number, label, loader).compose()
    except _UnreadableError as exc:
        return _failed(str(exc), number, label, exc.mark)
    except yaml.MarkedYAMLError as exc:
        context = f", {exc.context} that begins in line {exc.context_mark.line + 1}" if exc.context_mark else ""
        return _failed(f"is not valid YAML: {_without_content(exc.problem)}{context}", number, label, exc.problem_mark)
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        code = f"U+{ord(text[exc.position]):04X}"
        return _failed(f"is not valid YAML: the character {code} in line {line} is not allowed there", number, label)
    except (ValueError, OverflowError):
        # PyYAML makes no error of its own of an escape such as "\UFFFFFFFF".
        return _failed("is not valid YAML: it has an escaped character that does not exist", number, label)


def _without_content(problem: str | None) -> str:
    """PyYAML's words for a problem, without what they quote of the file: single characters and its own names stay."""
    quoted = re.compile(r"'[^']+'" r'|"[^"]+"')
    return quoted.sub(lambda found: found[0] if len(found[0]) <= 4 or found[0][1] == "<" else "…", problem or "")


def _failed(message: str, number: int, label: str, mark: Any = None) -> Document:
    order, source = (number, 0, 0), label
    if mark is not None:
        order, source = (number, mark.line + 1, mark.column + 1), f"{label}:{mark.line + 1}:{mark.column + 1}"
    return Document(problems=[(SourceLocation(order, source), Problem("", message, source))])


def read_document(path: Path, number: int, *, shipped: bool = False) -> Document:
    """The Document of a file; it never raises. One that is shipped is right, and is read by the parser that is quick."""
    label = str(path)
    try:
        content = read_start(path, MAX_BYTES + 1)
    except FileNotFoundError:
        return _failed("there is no such file", number, label)
    except OSError as exc:
        return _failed(f"can't be read: {(exc.strerror or str(exc)).lower()}", number, label)
    except ValueError:
        return _failed("is not a path", number, label)
    if len(content) > MAX_BYTES:
        return _failed(f"is larger than {MAX_BYTES >> 20} MiB", number, label)
    try:
        return compose(content.decode("utf-8-sig"), number, label, QUICK if shipped else yaml.SafeLoader)
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        return _failed(f"is not UTF-8: byte 0x{content[exc.start]:02x} in line {line}", number, label)
