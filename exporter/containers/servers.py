"""What an image is made for, by its name, and which server an environment configures. Pure; tables and a few rules.

Names mislead in both directions. ``open-webui`` and exporters have the name of the server that they use. In a container of an
image with ``/bin/bash`` as its command, a server may have been started by hand.
"""

import re
from collections.abc import Mapping, Sequence
from posixpath import basename
from typing import Final

from exporter.backends import BACKENDS
from exporter.launch.programs import ProgramName

# On the repository; what is before the last slash is an owner, whose images are of all kinds.
_IMAGES: Final = tuple(
    (re.compile(program.image), program.name)
    for backend in BACKENDS.values()
    for program in backend.programs
    if program.image
)
# Words that make of the name before or after them something that talks to a server, and is none.
_NOT_SERVERS: Final = frozenset(
    {"bench", "benchmark", "benchmarks", "exporter", "proxy", "router", "gateway", "ui", "webui", "dashboard", "client"}
)
_IDLE: Final = frozenset(
    {"sh", "bash", "zsh", "fish", "ash", "sleep", "tail", "tini", "pause", "init", "jupyter", "sshd"}
)


def is_idle(command: Sequence[str]) -> bool:
    """Whether the command only keeps the container alive, so that a server in it was started by hand."""
    return not command or basename(command[0]) in _IDLE


def repository_of(reference: str) -> str:
    """``registry:5000/Org/Name:tag@sha256:…`` without registry, tag and digest: ``org/name``."""
    path = reference.partition("@")[0].lower()
    first, slash, rest = path.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        path = rest
    return path.partition(":")[0]


def made_for(reference: str) -> ProgramName | None:
    """The server that an image is made for, by its repository's name: the first of the names that stand in it.

    What is before the last slash is an owner, whose images are of all kinds.
    """
    repository = repository_of(reference)
    matches = [(match.start(), name) for pattern, name in _IMAGES if (match := pattern.search(repository))]
    found = min(matches, key=lambda each: each[0])[1] if matches else None
    if found != "text-generation-webui" and _NOT_SERVERS.intersection(re.split(r"[-_.]", basename(repository))):
        return None
    return found


def configured_for(environment: Mapping[str, str], ports: Sequence[int]) -> ProgramName | None:
    """The server that the environment configures. ``OLLAMA_HOST`` alone may be that of a client."""
    if {"LLAMA_ARG_MODEL", "LLAMA_ARG_HF_REPO", "LLAMA_ARG_MODEL_URL"}.intersection(environment):
        return "llama-server"
    if any(name.startswith(("VLLM_ROCM_", "VLLM_USE_")) for name in environment):
        return "vllm"
    if "OLLAMA_HOST" in environment and 11434 in ports:
        return "ollama"
    return None
