"""From which folder a container's server loads its models, and which part of the host lies behind it. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from posixpath import commonpath, dirname, join, normpath
from typing import Any

from exporter.containers.facts import CacheMount
from exporter.containers.json_access import items, text
from exporter.launch.command import expand
from exporter.settings import CacheKind


@dataclass(frozen=True, slots=True)
class ContainerCache:
    """The folder inside the container, the same on the host if a mount covers it, and all mounts that hold models."""

    path: str | None
    source: str | None
    mounts: tuple[CacheMount, ...]


def cache_of(
    backend: str | None, weights_at: str | None, inspect: Mapping[str, Any], environment: Mapping[str, str]
) -> ContainerCache:
    """``weights_at`` is the absolute path of the model if it is configured by one, else a cache is used."""
    mounts = tuple(_mounts(inspect))
    folders = tuple(_folders(backend, weights_at, inspect, environment))
    held = tuple(
        CacheMount(source, destination, kind)
        for source, destination in mounts
        if (kind := next((kind for kind, folder in folders if _related(destination, folder)), None))
    )
    if not folders:
        return ContainerCache(None, None, held)
    # Which of several caches a server uses depends on its version: the one that somebody mounted is meant.
    path = next((folder for _, folder in folders if _source(folder, mounts)), folders[0][1])
    return ContainerCache(path, _source(path, mounts), held)


def _folders(
    backend: str | None, weights_at: str | None, inspect: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[tuple[CacheKind, str]]:
    home = environment.get("HOME") or _home_of(text(inspect, "Config", "User"))
    cache = _path(environment, home, "XDG_CACHE_HOME") or join(home, ".cache")
    hub = (
        _path(environment, home, "HF_HUB_CACHE")
        or _path(environment, home, "HUGGINGFACE_HUB_CACHE")
        or join(_path(environment, home, "HF_HOME") or join(cache, "huggingface"), "hub")
    )
    if weights_at and not _is_below(weights_at, hub):
        yield "files", dirname(weights_at) if weights_at.lower().endswith(".gguf") else normpath(weights_at)
    elif backend == "ollama":
        yield "ollama", _path(environment, home, "OLLAMA_MODELS") or join(home, ".ollama", "models")
    elif backend == "text_generation_webui":
        working = text(inspect, "Config", "WorkingDir") or "/app"
        yield from (("files", join(working, folder)) for folder in ("user_data/models", "models"))
    else:
        if backend == "llama_cpp":
            yield "llama_cpp", _path(environment, home, "LLAMA_CACHE") or join(cache, "llama.cpp")
        yield "huggingface", hub


def _home_of(user: str) -> str:
    name = user.partition(":")[0]
    return "/root" if name in {"", "0", "root"} else join("/home", name)


def _path(environment: Mapping[str, str], home: str, name: str) -> str | None:
    value = expand(environment.get(name), environment)
    if value and value.startswith("~/"):
        value = join(home, value[2:])
    return normpath(value) if value and value.startswith("/") and value.isprintable() else None


def _mounts(inspect: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for mount in items(inspect, "Mounts"):
        source, destination = text(mount, "Source"), text(mount, "Destination")
        if source and destination.startswith("/") and text(mount, "Type") in {"bind", "volume"}:
            yield source, normpath(destination)


def _source(folder: str, mounts: tuple[tuple[str, str], ...]) -> str | None:
    """The host's path of ``folder``: of the mounts that cover it the innermost counts."""
    covering = [(destination, source) for source, destination in mounts if _is_below(folder, destination)]
    if not covering:
        return None
    destination, source = max(covering, key=lambda each: len(each[0]))
    return normpath(join(source, folder[len(destination) :].lstrip("/")))


def _related(destination: str, folder: str) -> bool:
    return _is_below(folder, destination) or _is_below(destination, folder)


def _is_below(path: str, folder: str) -> bool:
    return path.startswith("/") and folder.startswith("/") and commonpath((path, folder)) == normpath(folder)
