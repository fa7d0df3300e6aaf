"""The log of a probe as a person reads it: when, and what; a server's JSON as the message that is in it. Pure."""

import json
import re
from typing import Any, Final

_WHEN: Final = re.compile(r"\+(\d+\.\d+) s (.*)", re.DOTALL)
_MESSAGES: Final = ("message", "detail", "error", "msg")


def log_rows(log: tuple[str, ...]) -> list[tuple[float | None, str]]:
    """Each line as seconds since the probe was due, if it says so, and its text."""
    found = [(_WHEN.fullmatch(line), line) for line in log]
    return [(float(when[1]), plain(when[2])) if when else (None, plain(line)) for when, line in found]


def plain(text: str) -> str:
    """The text with an object of JSON replaced by the message in it, or left out if there is none."""
    begin, end = text.find("{"), text.rfind("}")
    if begin < 0 or end < begin:
        return text
    try:
        held = json.loads(text[begin : end + 1])
    except (ValueError, RecursionError):
        return text
    return f"{text[:begin]}{_message_in(held)}{text[end + 1 :]}".strip()


def _message_in(held: Any) -> str:
    """The first message at any depth, by the names under which servers send one."""
    if isinstance(held, str):
        return held
    if not isinstance(held, dict):
        return ""
    return next((said for name in _MESSAGES if (said := _message_in(held.get(name)))), "")
