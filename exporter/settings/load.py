"""Files and the environment into settings and profiles: as a whole, or not at all with everything that is wrong."""

import functools
import glob
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from exporter.regular_file import read_start
from exporter.settings.document import MAX_BYTES, Document, SourceLocation, read_document
from exporter.settings.environment import NOWHERE, read_environment
from exporter.settings.errors import (
    Loc,
    Problem,
    SettingsError,
    inner_type,
    is_path,
    loc_of,
    path_of,
    sentence,
    suggestion,
    unknown_key,
)
from exporter.settings.model import BUILT_IN_MODULES, Profiles, Settings, Target, WebConfig, merged
from exporter.settings.values import check_url, kind_of, name_from_url, quote

M = TypeVar("M", bound=BaseModel)

EMPTY: Final = "holds no settings: it is empty, or was truncated. Write {} if only the defaults are meant"
CUT: Final = (
    "was truncated: it ends in the middle of a line, with the first part of the settings in use. Write the whole file; if this "
    "content is intended, end its last line with a line break, or restart"
)
PROFILES: Final = Path(__file__).parent.with_name("profiles.yaml")


@dataclass(slots=True)
class Draft:
    """Data on its way to a model, with everything that is known to be wrong so far.

    ``listed`` says, for a target from a file of targets, where in that file's list it stands.
    """

    data: dict[str, Any]
    locations: dict[Loc, SourceLocation]
    problems: list[tuple[SourceLocation, Problem]]
    listed: dict[int, int] = field(default_factory=dict)

    def add(self, loc: Loc, message: str) -> None:
        """Note a problem at the location of a value, or of what it stands in."""
        location = next(
            (self.locations[loc[:end]] for end in range(len(loc), -1, -1) if loc[:end] in self.locations), NOWHERE
        )
        if len(loc) > 1 and loc[0] == "targets" and isinstance(loc[1], int) and loc[1] in self.listed:
            loc = (self.listed[loc[1]], *loc[2:])
        self.problems.append((location, Problem(path_of(loc), message, location.source)))

    def raise_if_wrong(self) -> None:
        """Raise SettingsError with all problems in the order of their locations."""
        if self.problems:
            raise SettingsError(problem for _, problem in sorted(self.problems, key=lambda found: found[0].order))


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of a file (None: the defaults) with the environment over it; SettingsError with all that is wrong.

    Mappings merge key by key, lists replace. Paths in a file are seen from the file's folder. Of a key nothing is read but
    that its file is there. The oldest supported ROCm is that of the profiles if nothing else is given.
    """
    draft = _draft_of(path, 0, Settings)
    _overlay(draft, read_environment(environ))
    _append_targets_files(draft)
    _check_named(draft, "web_config_file", load_web_config)
    named = _check_named(draft, "profiles_file", load_profiles)
    # Ids are not checked against the shipped profiles if the user's own can't be read: they may be in there.
    profiles = named if "profiles_file" in draft.data else load_profiles(None)
    for loc, message in [*_contradictions(draft.data), *(_unknown_ids(draft.data, profiles) if profiles else ())]:
        draft.add(loc, message)
    if profiles and isinstance(host := draft.data.get("host", {}), dict):
        draft.data["host"] = {"minimum_rocm": profiles.rocm.minimum, **host}
    return _made(Settings, draft)


def loader(path: Path | None, environ: Mapping[str, str]) -> Callable[[], Settings]:
    """A function that reads the settings at each call, as ``load`` does, and refuses a file that was truncated meanwhile.

    A full disk and a copy that was interrupted leave the first part of a file, which may be a configuration of its own.
    """
    used = b""

    def read() -> Settings:
        nonlocal used
        content = _content_of(path) if path is not None else b""
        if content and len(content) < len(used) and used.startswith(content) and not content.endswith(b"\n"):
            raise SettingsError([Problem("", CUT, str(path))])
        settings = load(path, environ)
        used = content
        return settings

    return read


def _content_of(path: Path) -> bytes:
    try:
        return read_start(path, MAX_BYTES)
    except (OSError, ValueError):
        return b""  # ``load`` says why


def load_profiles(user_file: Path | None) -> Profiles:
    """The shipped profiles with a user's file over them, key by key; SettingsError with all that is wrong.

    Scenarios of the user's come before the shipped ones, since the first match wins.
    """
    shipped = _shipped_profiles()
    draft = _draft_of(user_file, 0, Profiles)
    own = draft.data.get("scenarios")
    draft.data = merged(shipped, draft.data)
    if isinstance(own, dict):
        draft.data["scenarios"] = {name: draft.data["scenarios"][name] for name in {**own, **shipped["scenarios"]}}
    return _made(Profiles, draft)


@functools.cache
def _shipped_profiles() -> dict[str, Any]:
    return _draft_of(PROFILES, 1, Profiles, shipped=True).data


def load_web_config(path: Path) -> WebConfig:
    """What guards the exporter's own endpoints; SettingsError with all that is wrong."""
    return _made(WebConfig, _draft_of(path, 0, WebConfig))


def make_target(**given: Any) -> Target:
    """A target that was not read from a file, such as one that a command was given; SettingsError as for a file."""
    data = {key: value for key, value in given.items() if value is not None}
    return _made(Target, Draft(data, {}, []))


def _draft_of(path: Path | None, number: int, model: type[BaseModel], *, shipped: bool = False) -> Draft:
    """A file that must hold a mapping as a draft of a model; SettingsError if there is nothing to go on with.

    Only a file that adds to something, or whose model says so itself, may be empty.
    """
    if path is None:
        return Draft({}, {}, [])
    document = read_document(path, number, shipped=shipped)
    draft = Draft({}, document.locations, document.problems)
    if () not in document.locations and not document.problems:
        if model is Settings:
            raise SettingsError([Problem("", EMPTY, str(path))])
        draft.locations[()] = SourceLocation((number, 0, 0), str(path))
    if isinstance(document.data, dict):
        draft.data = _seen_from(path.parent, document.data, model)
        return draft
    if document.data is not None:
        draft.add((), f"must be a mapping (key: value), not {kind_of(document.data)}")
    draft.raise_if_wrong()
    return draft


def _made(model: type[M], draft: Draft) -> M:
    """The model made of a draft; SettingsError if it had problems before or has some now."""
    # A leading underscore is pydantic-settings' mark for arguments of its own.
    for key in [key for key in draft.data if key.startswith("_")]:
        del draft.data[key]
        draft.add((key,), unknown_key(key, model))
    try:
        made = model(**draft.data)
    except ValidationError as exc:
        for error in exc.errors(include_url=False):
            if error["type"] != "default_factory_not_called":  # says no more than that another key is wrong
                draft.add(loc_of(error), sentence(error, model))
        draft.raise_if_wrong()
        raise  # not reached: a validation error has at least one problem in it
    draft.raise_if_wrong()
    return made


def _seen_from(folder: Path, data: Any, annotation: Any) -> Any:
    """The same data with its paths seen from a folder, and without keys that say null: those stay at their defaults.

    Which values are paths follows from the types of the settings: ``annotation`` is the type that the data is meant for.
    """
    if isinstance(data, list):
        return [_seen_from(folder, item, inner_type(annotation, index)) for index, item in enumerate(data)]
    if isinstance(data, str) and data and is_path(annotation, data):
        return str(folder / os.path.expanduser(data))  # noqa: PTH111 - never raises
    if not isinstance(data, dict):
        return data
    kept = {
        key: _seen_from(folder, value, inner_type(annotation, key)) for key, value in data.items() if value is not None
    }
    if isinstance(modules := data.get("modules"), dict):
        kept["modules"] = {name: kept["modules"].get(name, {}) for name in modules}
    return kept


def _overlay(draft: Draft, environment: Document) -> None:
    """Put the environment over a file. What it replaces loses its location in the file."""
    for loc in environment.locations:
        for old in [old for old in draft.locations if old[: len(loc)] == loc]:
            del draft.locations[old]
    draft.data = merged(draft.data, _seen_from(Path(), environment.data, Settings))
    draft.locations.update(environment.locations)
    draft.problems.extend(environment.problems)


def _append_targets_files(draft: Draft) -> None:
    """Add the targets of ``targets_files`` to those of the draft; they keep their locations in their own files."""
    patterns, targets = draft.data.get("targets_files"), draft.data.get("targets", [])
    if not isinstance(patterns, list) or not isinstance(targets, list):
        return
    draft.data["targets"] = targets = list(targets)
    seen: set[str] = set()
    for index, pattern in enumerate(patterns):
        if not isinstance(pattern, str) or "\0" in pattern:
            continue
        found = sorted(glob.glob(pattern))  # noqa: PTH207 - a pattern may be absolute
        if not found and not glob.has_magic(pattern):
            draft.add(("targets_files", index), f"there is no such file: {quote(pattern, 200)}")
        for name in found:
            if name not in seen:
                seen.add(name)
                _append_targets(draft, targets, Path(name), len(seen))


def _append_targets(draft: Draft, targets: list[Any], path: Path, number: int) -> None:
    document = read_document(path, number)
    draft.problems.extend(document.problems)
    if isinstance(document.data, list):
        base = len(targets)
        targets.extend(_seen_from(path.parent, document.data, tuple[Target, ...]))
        draft.listed.update({base + index: index for index in range(len(document.data))})
        for (index, *rest), location in ((loc, location) for loc, location in document.locations.items() if loc):
            assert isinstance(index, int)  # noqa: S101 - the document is a list
            draft.locations[("targets", base + index, *rest)] = location
    elif document.data is not None:
        location = document.locations[()]
        message = f"must be a list of targets, not {kind_of(document.data)}"
        draft.problems.append((location, Problem("", message, location.source)))


def _check_named(draft: Draft, key: str, read: Callable[[Path], M]) -> M | None:
    """What another file holds that a key of the draft names; None if there is none, or its problems are the draft's."""
    name = draft.data.get(key)
    if not isinstance(name, str) or not os.path.isfile(name):  # noqa: PTH113 - takes any text
        return None
    try:
        return read(Path(name))
    except SettingsError as exc:
        location = draft.locations.get((key,), NOWHERE)
        draft.problems.extend((location, problem) for problem in exc.errors)
        return None


def _contradictions(data: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    """What is wrong between parts of the settings, whether or not each is right by itself."""
    modules = {**BUILT_IN_MODULES, **(data["modules"] if isinstance(data.get("modules"), dict) else {})}
    names: dict[str, Loc] = {}
    for loc, target in _mappings(data, "targets"):
        name, key = _name_of(target)
        if name is not None and names.setdefault(name, loc) != loc:
            yield (*loc, key), f"{quote(name)} is also the name of another target: give each its own name"
        chosen = target.get("modules")
        for index, module in enumerate(chosen if isinstance(chosen, list) else ()):
            if isinstance(module, str) and module not in modules:
                yield (*loc, "modules", index), f"unknown module{suggestion(module, modules)}"
    caches: dict[str, Loc] = {}
    for loc, folder in _mappings(data.get("cache"), "paths"):
        name = folder.get("name")
        if isinstance(name, str) and caches.setdefault(name, loc) != loc:
            yield ("cache", *loc, "name"), f"{quote(name)} is also the name of another cache: give each its own name"


def _unknown_ids(data: Mapping[str, Any], profiles: Profiles) -> Iterator[tuple[Loc, str]]:
    """Hardware and scenarios of targets that no profile describes."""
    for loc, target in _mappings(data, "targets"):
        for kind, ids in (("hardware", profiles.hardware), ("scenario", profiles.scenarios)):
            wanted = target.get(kind, "auto")
            if isinstance(wanted, str) and wanted not in {"auto", *ids}:
                yield (*loc, kind), f"unknown {kind}{suggestion(wanted, ['auto', *ids])}"


def _mappings(data: Any, key: str) -> Iterator[tuple[Loc, dict[str, Any]]]:
    """Those items of the list at a key that are mappings, if it is a list."""
    items = data.get(key) if isinstance(data, dict) else None
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield (key, index), item


def _name_of(target: Mapping[str, Any]) -> tuple[str | None, str]:
    """A target's name, given or by its address, and the key that it comes from; None if neither is of use."""
    name, url = target.get("name"), target.get("url")
    if name is not None:
        return (name if isinstance(name, str) else None), "name"
    try:
        return (name_from_url(check_url(url)) if isinstance(url, str) else None), "url"
    except ValueError:
        return None, "url"
