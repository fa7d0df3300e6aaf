"""Words for what is wrong, and where: pydantic's errors and the paths of the settings as a person would say them."""

import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from exporter.settings.values import PathPattern, kind_of, quote

Loc = tuple[str | int, ...]
"""Where a value stands in the settings, as keys and indexes."""

WORD: Final = re.compile(r"[a-z_]{1,40}", re.IGNORECASE)
UNSAID: Final = "…"
"""In place of a key that is no setting and not close to one: an error does not quote what a file holds."""
SECRETS: Final = frozenset({"api_key", "apikey", "api-key", "key", "token", "bearer_token", "password", "secret"})
NO_SECRETS: Final = "a key is not allowed here: put it into a file of its own and name that with {name}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where in the settings, in words, and in which line of a file or in which variable."""

    path: str
    message: str
    source: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.path, self.message) if part)


class SettingsError(Exception):
    """Settings that can't be used; ``errors`` is everything that is wrong with them, in the order of the files."""

    def __init__(self, errors: Iterable[Problem]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(map(str, self.errors)))


_SENTENCES: Final[Mapping[str, str]] = {
    "missing": "is missing",
    "model_type": "must be a mapping (key: value), not {input}",
    "model_attributes_type": "must be a mapping (key: value), not {input}",
    "dict_type": "must be a mapping (key: value), not {input}",
    "tuple_type": "must be a list, not {input}",
    "string_type": "must be text, not {input}",
    "string_unicode": "has a byte in it that is not UTF-8",
    "path_type": "must be a path, not {input}",
    "int_type": "must be a whole number, not {input}",
    "int_parsing": "must be a whole number, not {input}",
    "int_parsing_size": "must be a whole number, not {input}",
    "int_from_float": "must be a whole number, not {input}",
    "float_type": "must be a number, not {input}",
    "float_parsing": "must be a number, not {input}",
    "finite_number": "must be a finite number, not {input}",
    "bool_type": "must be true or false, not {input}",
    "bool_parsing": "must be true or false, not {input}",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "value_error": "{error}",
}


def sentence(error: Mapping[str, Any], model: type[BaseModel]) -> str:
    """One of pydantic's errors in plain words."""
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "extra_forbidden":
        section: Any = model
        for step in error["loc"][:-1]:
            section = inner_type(section, step)
        return unknown_key(str(error["loc"][-1]), section_type(section) or model)
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return f"must be one of {', '.join(choices)}{nearest(given, choices)}"
    if kind in _SENTENCES:
        return _SENTENCES[kind].format(input=kind_of(given), **context)
    return str(error["msg"])


def unknown_key(key: str, section: type[BaseModel]) -> str:
    """What to say of a key that a section doesn't have."""
    if key.lower() in SECRETS:
        names = (name for name in section.model_fields if name.endswith("key_file"))
        return NO_SECRETS.format(name=next(names, "api_key_file"))
    return f"unknown key{suggestion(key, section.model_fields)}"


def suggestion(text: str, known: Iterable[str]) -> str:
    """What may have been meant, else all that could be."""
    return nearest(text, known) or f" (known: {', '.join(known)})"


def nearest(text: object, known: Iterable[str]) -> str:
    """The known word that a text is close to, as a question; empty if none is."""
    found = close_to(text.lower(), known) if isinstance(text, str) else None
    return f": did you mean {found}?" if found else ""


def close_to(text: str, known: Iterable[str]) -> str | None:
    """The known word that a text is closest to; None if none is close."""
    from difflib import get_close_matches  # noqa: PLC0415 - with the first mistake

    return next(iter(get_close_matches(text, list(known), n=1)), None)


def path_of(loc: Loc) -> str:
    """``("targets", 1, "url")`` as ``targets[1].url``; a key that is not a plain word in quotes.

    A first key that is no word is left out: a file that is no configuration may hold anything there.
    """
    path = ""
    for number, step in enumerate(loc):
        if isinstance(step, int):
            path += f"[{step}]"
        elif not number and not WORD.fullmatch(step):
            path += UNSAID
        else:
            plain = step == UNSAID or re.fullmatch(r"[\w-]+", step, re.ASCII)
            path += ("." if path else "") + (step if plain else quote(step))
    return path


def loc_of(error: Mapping[str, Any]) -> Loc:
    """Where one of pydantic's errors is. A bad key, which ends in ``[key]`` there, and an unknown one that is no word are not repeated."""
    loc: Loc = error["loc"]
    if error["type"] == "extra_forbidden" and not WORD.fullmatch(str(loc[-1])):
        return (*loc[:-1], UNSAID)
    return (*loc[:-2], UNSAID) if loc[-1:] == ("[key]",) else loc


def _bare(annotation: Any) -> Any:
    """A type without what is said about it and without None beside it."""
    while get_origin(annotation) in {Annotated, Union, types.UnionType}:
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def section_type(annotation: Any) -> type[BaseModel] | None:
    """The model that a type is, if it is one."""
    bare = _bare(annotation)
    return bare if isinstance(bare, type) and issubclass(bare, BaseModel) else None


def is_path(annotation: Any, value: str) -> bool:
    """Whether a text stands for a path in a setting of this type; a word that the type knows (``Literal``) is none."""
    parts = tuple(_alternatives(annotation))
    words = {word for part in parts if get_origin(part) is Literal for word in get_args(part)}
    return value not in words and any(part in {Path, PathPattern} for part in parts)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """What a type may be: each part of a union, without what is said about it."""
    if get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif get_origin(annotation) in {Union, types.UnionType}:
        for part in get_args(annotation):
            yield from _alternatives(part)
    else:
        yield annotation


def inner_type(annotation: Any, step: str | int) -> Any:
    """The type of what stands at a key or an index of a type; None if nothing can."""
    bare = _bare(annotation)
    if (section := section_type(bare)) is not None:
        known = section.model_fields.get(str(step))
        return known.annotation if known else None
    if get_origin(bare) is dict:
        return get_args(bare)[1]
    return get_args(bare)[0] if get_origin(bare) is tuple and isinstance(step, int) else None
