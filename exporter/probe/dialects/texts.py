"""The text in a chunk of an OpenAI chat stream, in all the shapes that servers and gateways give it.

The answer is ``content``, thinking has many names. Either is a string, an object with the text in it, or a list of such parts;
a part of ``type: thinking`` in the content is thinking.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

ANSWER: Final = ("content", "refusal")
THINKING: Final = (
    "reasoning_content",
    "reasoning",
    "thinking",
    "thinking_content",
    "reasoning_text",
    "reasoning_details",
    "thinking_blocks",
)
_INNER: Final = ("text", "thinking", "reasoning", "content", "summary", "value")
_DEPTH: Final = 5
# Members of a delta that are never generated text.
_NO_TEXT: Final = frozenset({"role", "name", "id", "provider_specific_fields", "annotations", "token_ids", "logprobs"})


@dataclass(frozen=True, slots=True)
class Texts:
    """What a delta says. ``unread`` if it holds something, and none of it is a known form of text."""

    answer: str = ""
    reasoning: str = ""
    unread: bool = False


def texts_of(delta: Mapping[str, Any]) -> Texts:
    """The text of a delta. If several members repeat the same thinking, one of them counts."""
    answer, inner = "", ""
    for name in ANSWER:
        for text, thinks in _parts(delta.get(name), thinks=False):
            answer, inner = (answer, inner + text) if thinks else (answer + text, inner)
    named = ("".join(text for text, _ in _parts(delta.get(name), thinks=True)) for name in THINKING)
    reasoning = inner or next(filter(None, named), "")
    unread = not (answer or reasoning) and any(
        isinstance(value, str | list | Mapping) and bool(value) for name, value in delta.items() if name not in _NO_TEXT
    )
    return Texts(answer, reasoning, unread)


def _parts(value: Any, *, thinks: bool, depth: int = 0) -> Iterator[tuple[str, bool]]:
    """Each piece of text in a value, and whether it is thinking."""
    if isinstance(value, str):
        if value:
            yield value, thinks
    elif depth >= _DEPTH:
        return
    elif isinstance(value, list):
        for each in value:
            yield from _parts(each, thinks=thinks, depth=depth + 1)
    elif isinstance(value, Mapping):
        kind = value.get("type")
        inside = thinks or (isinstance(kind, str) and ("thinking" in kind or "reasoning" in kind))
        found = (list(_parts(value.get(name), thinks=inside, depth=depth + 1)) for name in _INNER)
        yield from next(filter(None, found), [])
