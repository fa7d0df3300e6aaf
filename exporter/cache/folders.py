"""Where model caches are, by the same rules as the programs that fill them."""

import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final

from exporter.cache.facts import CacheFolder
from exporter.cache.layouts import LAYOUTS
from exporter.settings import Cache

# The home of root in a container, and where packages of Ollama keep the service's models.
OTHER_HOMES: Final = ("/root",)
OLLAMA_SERVICE: Final = (
    "/usr/share/ollama/.ollama/models",
    "/var/lib/ollama/.ollama/models",
    "/var/lib/ollama/models",
    "/var/snap/ollama/common/models",
)
LOOK_SECONDS: Final = 2.0

_VARIABLE: Final = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")


def folders_of(settings: Cache) -> tuple[CacheFolder, ...]:
    """The caches that the settings name, or those that this machine has."""
    if settings.paths is not None:
        return tuple(CacheFolder(each.name, each.kind, str(each.path)) for each in settings.paths)
    return find_caches(os.environ, own_home())


def own_home() -> str:
    """The home of this process's user; ``~`` if there is none."""
    return os.path.expanduser("~")


def find_caches(
    environ: Mapping[str, str],
    home: str,
    *,
    other_homes: Sequence[str] = OTHER_HOMES,
    services: Sequence[str] = OLLAMA_SERVICE,
) -> tuple[CacheFolder, ...]:
    """The caches that are there, each once, whatever names lead to it; a second one of a kind is called ``<kind>-2``.

    If one can't be looked into or doesn't answer within two seconds, it is kept if it is this user's or a service's. Its scan
    then says what is wrong.
    """
    own = {folder.path for folder in candidates(environ, home)} | set(services)
    folders = [*candidates(environ, home), *(CacheFolder("ollama", "ollama", path) for path in services)]
    for other in other_homes:
        folders += candidates({}, other)
    return _present(folders, own)


def find_compile_caches(environ: Mapping[str, str], home: str) -> tuple[CacheFolder, ...]:
    """What servers compile for this machine's GPU: it grows with each version, and isn't a model."""
    cache = _cache_home(environ, home)
    paths = [
        _path(environ, home, "VLLM_CACHE_ROOT") or f"{cache}/vllm",
        _path(environ, home, "TRITON_CACHE_DIR") or f"{home}/.triton",
        _path(environ, home, "MIOPEN_USER_DB_PATH") or f"{home}/.config/miopen",
        f"{cache}/miopen",
        f"{cache}/comgr",
        f"{home}/.aiter",
    ]
    return _present([CacheFolder(PurePosixPath(path).name.strip("."), "compiled", path) for path in paths], set())


def candidates(environ: Mapping[str, str], home: str) -> tuple[CacheFolder, ...]:
    """Where the programs of one user look, by their own precedence, whether or not it exists."""
    cache = _cache_home(environ, home)
    hugging_face = _path(environ, home, "HF_HOME") or f"{cache}/huggingface"
    hub = _path(environ, home, "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") or f"{hugging_face}/hub"
    return (
        CacheFolder("huggingface", "huggingface", hub),
        CacheFolder("ollama", "ollama", _path(environ, home, "OLLAMA_MODELS") or f"{home}/.ollama/models"),
        CacheFolder("llama_cpp", "llama_cpp", _path(environ, home, "LLAMA_CACHE") or f"{cache}/llama.cpp"),
        CacheFolder("lm_studio", "lm_studio", f"{home}/.lmstudio/models"),
        CacheFolder("lm_studio", "lm_studio", f"{cache}/lm-studio/models"),
    )


def _cache_home(environ: Mapping[str, str], home: str) -> str:
    return _path(environ, home, "XDG_CACHE_HOME") or f"{home}/.cache"


def _path(environ: Mapping[str, str], home: str, *names: str) -> str | None:
    """The first of the variables that is set, with ``~`` and other variables put in."""
    for name in names:
        if value := environ.get(name):
            value = _VARIABLE.sub(lambda found: environ.get(found[1] or found[2], found[0]), value)
            return home + value[1:] if value == "~" or value.startswith("~/") else value
    return None


def _present(folders: Iterable[CacheFolder], own: set[str]) -> tuple[CacheFolder, ...]:
    found: dict[object, CacheFolder] = {}
    count: dict[str, int] = {}
    for folder in folders:
        identity = _identity_soon(folder)
        if identity is None or (isinstance(identity, str) and folder.path not in own) or identity in found:
            continue
        count[folder.name] = count.get(folder.name, 0) + 1
        name = folder.name if count[folder.name] == 1 else f"{folder.name}-{count[folder.name]}"
        found[identity] = CacheFolder(name, folder.kind, folder.path)
    return tuple(found.values())


_IDENTIFYING: Final[dict[str, threading.Thread]] = {}  # looks that have not come back, so that none is started twice


def _identity_soon(folder: CacheFolder) -> tuple[int, int] | str | None:
    """The folder's (device, inode); its path if that isn't known in time; None if it isn't there."""
    pending = _IDENTIFYING.get(folder.path)
    if pending is not None and pending.is_alive():
        return folder.path
    answer: list[tuple[int, int] | str | None] = []
    thread = threading.Thread(target=lambda: answer.append(_identity(folder)), name="look at a cache", daemon=True)
    _IDENTIFYING[folder.path] = thread
    thread.start()
    thread.join(LOOK_SECONDS)
    if not answer:
        return folder.path
    _IDENTIFYING.pop(folder.path, None)
    return answer[0]


def _identity(folder: CacheFolder) -> tuple[int, int] | str | None:
    try:
        found = os.stat(LAYOUTS[folder.kind].folder_of(folder.path))
    except PermissionError:
        return folder.path
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
