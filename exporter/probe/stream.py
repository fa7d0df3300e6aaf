"""Bytes of a stream → events, incrementally: server-sent events (SSE) and newline-delimited JSON (NDJSON).

Pure: no sockets, no clocks. A decoder takes the bytes in pieces, cut anywhere, and gives each event as soon as its last
byte is there. Only CR, LF and CRLF end a line: model text contains U+2028, U+2029 and U+0085, which text-based line
splitting takes for line ends. The work is linear in the bytes, and no more than ``limit_bytes`` of them are held.
"""

from dataclasses import dataclass
from typing import Final, Protocol

_BOM: Final = b"\xef\xbb\xbf"


class TooLarge(Exception):  # noqa: N818 - it names what is wrong, as the result it leads to does
    """A line or an event is longer than the limit; ``limit_bytes`` says how long it may be."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"a line or an event of more than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its data without framing, and its name (``event:`` of SSE, else empty)."""

    data: bytes
    name: str = ""


class Decoder(Protocol):
    """What both decoders offer."""

    @property
    def pending(self) -> bool:
        """Whether bytes of an unfinished event are held."""

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes; give the events that they complete. Raises ``TooLarge`` and nothing else."""

    def close(self) -> list[Event]:
        """Say that nothing more comes; give what was left without its last line end, which may be half an event."""


class NdjsonDecoder:
    """One event for each line that is not blank."""

    def __init__(self, limit_bytes: int) -> None:
        self._lines = _Lines(limit_bytes)

    @property
    def pending(self) -> bool:
        """Whether bytes of an unfinished line are held."""
        return self._lines.pending

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes; give the events that they complete."""
        return [Event(line) for line in self._lines.feed(data) if line.strip()]

    def close(self) -> list[Event]:
        """Give the last line, if it had no line end."""
        return [Event(line) for line in self._lines.close() if line.strip()]


class SseDecoder:
    """Events of the WHATWG format: ``data`` lines joined by LF and ended by a blank line; comments say nothing.

    A field ``error``, which that format does not have, is the data of an event of this name.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lines = _Lines(limit_bytes)
        self._data: list[bytes] = []
        self._size = 0
        self._name = ""

    @property
    def pending(self) -> bool:
        """Whether bytes of an unfinished event are held."""
        return bool(self._data) or self._lines.pending

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes; give the events that they complete."""
        return self._events(self._lines.feed(data))

    def close(self) -> list[Event]:
        """Give the last event, if the blank line after it, or even its line end, is missing."""
        return self._events([*self._lines.close(), b""])

    def _events(self, lines: list[bytes]) -> list[Event]:
        events = []
        for line in lines:
            if line:
                self._take(line)
                continue
            if self._data:
                events.append(Event(b"\n".join(self._data), self._name))
            self._data, self._size, self._name = [], 0, ""
        return events

    def _take(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field in {b"data", b"error"}:
            # llama-server before September 2025 sends an error in a field of that name.
            self._name = "error" if field == b"error" else self._name
            self._size += len(value) + 1
            if self._size > self._limit_bytes + 1:
                raise TooLarge(self._limit_bytes)
            self._data.append(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")


class _Lines:
    """Splits bytes into lines without their ends; a CR ends a line at once, and an LF right after it is part of it."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._tail = bytearray()
        self._after_cr = False
        self._first = True

    @property
    def pending(self) -> bool:
        return bool(self._tail)

    def feed(self, data: bytes) -> list[bytes]:
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if not data:
            return []
        self._after_cr = data.endswith(b"\r")
        pieces = data.splitlines()  # of bytes: at CR, LF and CRLF only
        rest = b"" if data.endswith((b"\r", b"\n")) else pieces.pop()
        lines = []
        for piece in pieces:
            line = piece
            if self._tail:
                self._hold(piece)
                line = bytes(self._tail)
                self._tail.clear()
            lines.append(self._checked(line))
        self._hold(rest)
        return lines

    def close(self) -> list[bytes]:
        line = bytes(self._tail)
        self._tail.clear()
        return [self._checked(line)] if line else []

    def _hold(self, piece: bytes) -> None:
        if len(self._tail) + len(piece) > self._limit_bytes:
            self._tail.clear()
            raise TooLarge(self._limit_bytes)
        self._tail += piece

    def _checked(self, line: bytes) -> bytes:
        if len(line) > self._limit_bytes:
            raise TooLarge(self._limit_bytes)
        if self._first:
            self._first = False
            return line.removeprefix(_BOM)
        return line
