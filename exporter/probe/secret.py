"""Keeping the key of a server out of what is published: a server, or a proxy before it, may repeat what it was sent.

What is asked and read stays as it is; hidden is what leaves this room: messages, logs, names.
"""

import html
import json
from dataclasses import fields, replace
from typing import Any, Final, TypeVar
from urllib.parse import quote

R = TypeVar("R")

HIDDEN: Final = "…"
SHORTEST: Final = 4
"""Shorter keys are no secrets, and hiding them would make every other word unreadable."""
_SHORTEST_PART: Final = 8


def hide(text: str, key: str) -> str:
    """A text without the key, as it is or as JSON, HTML and URLs write it, also where it was cut behind the first half."""
    if len(key) < SHORTEST:
        return text
    forms = sorted(_forms_of(key), key=len, reverse=True)
    for form in forms:
        text = text.replace(form, HIDDEN)
    for form in forms:
        least = max(len(form) // 2, _SHORTEST_PART)
        if form[:least] in text:
            for end in range(len(form) - 1, least - 1, -1):
                text = text.replace(form[:end], HIDDEN)
    # Of a path, which a name of a model may be, only the end is shown.
    for part in key.split("/"):
        text = text.replace(part, HIDDEN) if len(part) >= _SHORTEST_PART else text
    return text


def _forms_of(key: str) -> set[str]:
    as_json = json.dumps(key)[1:-1]
    return {key, as_json, as_json.replace("/", "\\/"), html.escape(key), quote(key), quote(key, safe="")}


def without_key(record: R, key: str) -> R:
    """A frozen record whose texts don't hold the key."""
    found: dict[str, Any] = {each.name: getattr(record, each.name) for each in fields(record)}  # type: ignore[arg-type]
    changes = {name: hide(value, key) for name, value in found.items() if isinstance(value, str)}
    return replace(record, **changes)  # type: ignore[type-var]
