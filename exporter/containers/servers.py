"""Which inference server a command line starts, an image is made for, or a process is. Pure; a table and a few rules.

Names lie in both directions: ``vllm bench`` is no server, ``open-webui`` and exporters bear the name of what they talk to,
and an image with ``/bin/bash`` as its command may have a server started in it by hand.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from posixpath import basename
from typing import Final, Literal

from exporter.containers.facts import Backend

Name = Literal["vllm", "llama-server", "ollama", "text-generation-webui", "transformers", "tgi", "sglang", "other"]


@dataclass(frozen=True, slots=True)
class Server:
    """How one server program is configured: its options (without dashes), their twins in the environment, its defaults."""

    backend: Backend
    port: int | None
    listen: str = ""
    """The host that it binds unless told otherwise; empty for all."""
    port_options: tuple[str, ...] = ("port",)
    port_variable: str | None = None
    listen_options: tuple[str, ...] = ("host",)
    listen_variable: str | None = None
    model_options: tuple[str, ...] = ("model",)
    model_variables: tuple[str, ...] = ()
    model_is_positional: bool = False
    served_name_options: tuple[str, ...] = ()
    served_name_variable: str | None = None
    quantization_options: tuple[str, ...] = ()
    cache_type_options: tuple[str, ...] = ()
    cache_type_variables: tuple[str, ...] = ()
    context_options: tuple[str, ...] = ()
    context_variable: str | None = None
    parallel_options: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    """Options without a value, where a positional argument may follow."""


SERVERS: Final[Mapping[Name, Server]] = {
    "vllm": Server(
        backend="vllm",
        port=8000,
        model_options=("model", "model-tag"),
        model_is_positional=True,
        served_name_options=("served-model-name",),
        quantization_options=("quantization", "q"),
        cache_type_options=("kv-cache-dtype",),
        context_options=("max-model-len",),
        parallel_options=("tensor-parallel-size", "tp"),
        switches=("enforce-eager", "trust-remote-code", "async-scheduling", "headless", "calculate-kv-scales"),
    ),
    "llama-server": Server(
        backend="llama_cpp",
        port=8080,
        listen="127.0.0.1",
        port_variable="LLAMA_ARG_PORT",
        listen_variable="LLAMA_ARG_HOST",
        model_options=("hf", "hfr", "hf-repo", "m", "model", "mu", "model-url"),
        model_variables=("LLAMA_ARG_HF_REPO", "LLAMA_ARG_MODEL", "LLAMA_ARG_MODEL_URL"),
        served_name_options=("a", "alias"),
        served_name_variable="LLAMA_ARG_ALIAS",
        cache_type_options=("ctk", "cache-type-k"),
        cache_type_variables=("LLAMA_ARG_CACHE_TYPE_K",),
        context_options=("c", "ctx-size"),
        context_variable="LLAMA_ARG_CTX_SIZE",
    ),
    "ollama": Server(
        backend="ollama",
        port=11434,
        listen="127.0.0.1",
        listen_variable="OLLAMA_HOST",
        cache_type_variables=("OLLAMA_KV_CACHE_TYPE",),
        context_variable="OLLAMA_CONTEXT_LENGTH",
    ),
    "text-generation-webui": Server(
        backend="text_generation_webui",
        port=5000,
        listen="127.0.0.1",
        port_options=("api-port",),
        listen_options=("listen-host",),
        cache_type_options=("ctx-type", "cache-type"),
        context_options=("ctx-size", "n-ctx"),
        switches=("listen", "api", "verbose", "public-api", "cpu"),
    ),
    "transformers": Server(
        backend="transformers",
        port=8000,
        listen="127.0.0.1",
        model_options=("force-model",),
        model_is_positional=True,
        quantization_options=("quantization",),
        switches=("trust-remote-code", "continuous-batching"),
    ),
    "tgi": Server(
        backend="transformers",
        port=80,
        port_options=("port", "p"),
        port_variable="PORT",
        listen_options=("hostname",),
        model_options=("model-id",),
        model_variables=("MODEL_ID",),
        served_name_options=("served-model-name",),
        quantization_options=("quantize",),
        cache_type_options=("kv-cache-dtype",),
        context_options=("max-total-tokens",),
        parallel_options=("num-shard",),
    ),
    "sglang": Server(
        backend="openai",
        port=30000,
        listen="127.0.0.1",
        model_options=("model-path", "model"),
        served_name_options=("served-model-name",),
        quantization_options=("quantization",),
        cache_type_options=("kv-cache-dtype",),
        context_options=("context-length",),
        parallel_options=("tensor-parallel-size", "tp-size", "tp"),
        switches=("trust-remote-code",),
    ),
    "other": Server(backend="openai", port=None, served_name_options=("model-alias", "model_alias")),
}

_MODULES: Final[Mapping[str, Name]] = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "vllm.entrypoints.cli.main": "vllm",
    "sglang.launch_server": "sglang",
    # Not llama-server: it has neither its API beyond OpenAI's nor its options.
    "llama_cpp.server": "other",
}
_SUBCOMMANDS: Final[Mapping[tuple[str, str], Name]] = {
    ("vllm", "serve"): "vllm",
    ("ollama", "serve"): "ollama",
    ("ollama", "start"): "ollama",
    ("transformers", "serve"): "transformers",
    ("transformers-cli", "serve"): "transformers",
    ("sglang", "serve"): "sglang",
    ("lmdeploy", "serve"): "other",
    ("lemonade-server", "serve"): "other",
    ("tools.sh", "--server"): "llama-server",
    ("tools.sh", "-s"): "llama-server",
}
_TOOLS: Final = frozenset(tool for tool, _ in _SUBCOMMANDS)
_PROGRAMS: Final[Mapping[str, Name]] = {
    "text-generation-launcher": "tgi",
    "sglang_router": "other",
    "llama-swap": "other",
    "lemond": "other",
    "koboldcpp": "other",
    "koboldcpp.py": "other",
}
_LLAMA_PROGRAM = re.compile(r"llama-(?P<tool>[a-z0-9]+)(?:-.*)?")

# On the repository; what is before the last slash is an owner, whose images are of all kinds.
_IMAGES: Final[tuple[tuple[re.Pattern[str], Name], ...]] = (
    (re.compile(r"(?:text-generation-webui|oobabooga)[^/]*$"), "text-generation-webui"),
    (re.compile(r"(?:^|[/_.-])vllm(?:[_.-][^/]*)?$"), "vllm"),
    (re.compile(r"(?:^|/)ollama(?:[_.-][^/]*)?$"), "ollama"),
    (re.compile(r"text-generation-inference[^/]*$"), "tgi"),
    (re.compile(r"(?:^|[/_.-])sglang(?:[_.-][^/]*)?$|^rocm/sgl-dev$"), "sglang"),
    (re.compile(r"(?:llama-swap|lemonade|koboldcpp)[^/]*$"), "other"),
    (re.compile(r"(?:llama[._-]?cpp|llama-server|amd-strix-halo-toolboxes)[^/]*$"), "llama-server"),
)
# Words that make of the name before or after them something that talks to a server, and is none.
_NOT_SERVERS: Final = frozenset(
    {"bench", "benchmark", "benchmarks", "exporter", "proxy", "router", "gateway", "ui", "webui", "dashboard", "client"}
)
_IDLE: Final = frozenset(
    {"sh", "bash", "zsh", "fish", "ash", "sleep", "tail", "tini", "pause", "init", "jupyter", "sshd"}
)


@dataclass(frozen=True, slots=True)
class Started:
    """A server that a command line starts, with its arguments; ``name`` is None where the command is known to be no server."""

    name: Name | None
    arguments: tuple[str, ...] = ()


def started_by(words: Sequence[str]) -> Started | None:
    """What one simple command starts; None where that can't be told from the command."""
    for at, word in enumerate(words):
        program, after = basename(word), words[at + 1 :]
        if name := _PROGRAMS.get(program) or _module(word):
            arguments = after[1:] if word.endswith("vllm.entrypoints.cli.main") else after
            return Started(name, tuple(arguments))
        if program in _TOOLS:
            subcommand = after[0] if after else ""
            return Started(_SUBCOMMANDS.get((program, subcommand)), tuple(after[1:]))
        if tool := _LLAMA_PROGRAM.fullmatch(program):
            return Started("llama-server" if tool["tool"] == "server" else None, tuple(after))
        if program == "server.py" and {"--api", "--listen", "--public-api"}.intersection(after):
            return Started("text-generation-webui", tuple(after))
        if word.startswith("VLLM::"):
            return Started("vllm")
    return None


def _module(word: str) -> Name | None:
    """The server behind ``-m package.module`` or the path of such a module's file."""
    dotted = word.removesuffix(".py").replace("/", ".")
    return next((name for module, name in _MODULES.items() if dotted == module or dotted.endswith(f".{module}")), None)


def is_idle(words: Sequence[str]) -> bool:
    """Whether the command only keeps the container alive, so that a server in it was started by hand."""
    return not words or basename(words[0]) in _IDLE


def repository_of(reference: str) -> str:
    """``registry:5000/Org/Name:tag@sha256:…`` without registry, tag and digest: ``org/name``."""
    path = reference.partition("@")[0].lower()
    first, slash, rest = path.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        path = rest
    return path.partition(":")[0]


def made_for(reference: str) -> Name | None:
    """The server that an image is made for, by its repository's name."""
    repository = repository_of(reference)
    found = next((name for pattern, name in _IMAGES if pattern.search(repository)), None)
    if found != "text-generation-webui" and _NOT_SERVERS.intersection(re.split(r"[-_.]", basename(repository))):
        return None
    return found


def configured_for(environment: Mapping[str, str], ports: Sequence[int]) -> Name | None:
    """The server that the environment configures. ``OLLAMA_HOST`` alone may be that of a client."""
    if {"LLAMA_ARG_MODEL", "LLAMA_ARG_HF_REPO", "LLAMA_ARG_MODEL_URL"}.intersection(environment):
        return "llama-server"
    if any(name.startswith(("VLLM_ROCM_", "VLLM_USE_")) for name in environment):
        return "vllm"
    if "OLLAMA_HOST" in environment and 11434 in ports:
        return "ollama"
    return None
