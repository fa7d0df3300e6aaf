"""The kinds of inference servers that the exporter knows, one row each: every other list of them follows from this table.

A row is data only. How a server is recognised over HTTP, asked and read is in the file of the same name in
``exporter/probe/dialects/``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Program:
    """One server program: the port on which it listens by default, and the names by which it is seen.

    ``image`` is a regular expression, searched in an image's repository (``org/name``); of several programs whose
    expression matches, the one that matches first in the name counts. ``executables`` are file names, ``subcommands``
    pairs of a file name and its first argument, ``modules`` what ``python -m`` runs.
    """

    name: str
    port: int | None = None
    image: str = ""
    executables: tuple[str, ...] = ()
    subcommands: tuple[tuple[str, str], ...] = ()
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Backend:
    """One kind of inference server.

    ``id`` is the ``backend`` of settings and metrics, ``name`` what people read, ``dialect`` the class in the file
    ``probe/dialects/<id>.py``. ``ports`` are tried on this machine. ``owned_by`` are the values of that field in
    ``/v1/models`` that are of this kind of server. ``gguf`` says that its models are GGUF files, whose names say the
    quantization. One that is not ``configurable`` is found, but can't be chosen in the settings. ``imitated`` says that no
    real one was measured yet: its dialect is written by its documentation and source, and tested against an imitation.
    """

    id: str
    name: str
    dialect: str
    ports: tuple[int, ...] = ()
    owned_by: tuple[str, ...] = ()
    programs: tuple[Program, ...] = ()
    gguf: bool = False
    configurable: bool = True
    imitated: bool = False


# In the order in which they are recognised: each is asked whether it knows a server that none before it knew.
_ROWS: Final = (
    Backend(
        "llama_cpp",
        "llama.cpp",
        "LlamaCpp",
        ports=(8080, 8081),
        owned_by=("llamacpp",),
        gguf=True,
        programs=(
            Program(
                "llama-server",
                port=8080,
                image=r"(?:llama[._-]?cpp|llama-server|amd-strix-halo-toolboxes)[^/]*$",
                subcommands=(("tools.sh", "--server"), ("tools.sh", "-s"), ("llama", "serve"), ("llama", "server")),
            ),
        ),
    ),
    Backend(
        "vllm",
        "vLLM",
        "Vllm",
        ports=(8000, 8001),
        owned_by=("vllm",),
        programs=(
            Program(
                "vllm",
                port=8000,
                image=r"(?:^|[/_.-])vllm(?:[_.-][^/]*)?$",
                subcommands=(("vllm", "serve"),),
                modules=("vllm.entrypoints.openai.api_server", "vllm.entrypoints.cli.main"),
            ),
        ),
    ),
    Backend(
        "ollama",
        "Ollama",
        "Ollama",
        ports=(11434,),
        gguf=True,
        imitated=True,
        programs=(
            Program(
                "ollama",
                port=11434,
                image=r"(?:^|/)ollama(?:[_.-][^/]*)?$",
                subcommands=(("ollama", "serve"), ("ollama", "start")),
            ),
            # What computes for it, in a process of its own.
            Program("ollama-runner", executables=("ollama_llama_server",), subcommands=(("ollama", "runner"),)),
        ),
    ),
    Backend("simulator", "Simulator", "Simulator", owned_by=("llm-probe-exporter",), configurable=False),
    # A gateway to other servers: only a model that a target names is probed, so no program, image or port makes it a target.
    Backend("litellm", "LiteLLM", "LiteLLM"),
    Backend(
        "sglang",
        "SGLang",
        "SGLang",
        ports=(30000,),
        owned_by=("sglang",),
        imitated=True,
        programs=(
            Program(
                "sglang",
                port=30000,
                image=r"(?:^|[/_.-])sglang(?:[_.-][^/]*)?$|^rocm/sgl-dev$",
                subcommands=(("sglang", "serve"),),
                modules=("sglang.launch_server",),
            ),
        ),
    ),
    Backend(
        "lemonade",
        "Lemonade",
        "Lemonade",
        ports=(13305, 8000),
        owned_by=("lemonade",),
        imitated=True,
        programs=(
            Program(
                "lemonade",
                port=13305,
                image=r"lemonade[^/]*$",
                executables=("lemond",),
                subcommands=(("lemonade-server", "serve"),),
            ),
        ),
    ),
    Backend(
        "lm_studio", "LM Studio", "LMStudio", ports=(1234,), owned_by=("organization_owner",), gguf=True, imitated=True
    ),
    Backend(
        "koboldcpp",
        "KoboldCpp",
        "KoboldCpp",
        ports=(5001,),
        owned_by=("koboldcpp",),
        gguf=True,
        imitated=True,
        programs=(
            Program("koboldcpp", port=5001, image=r"koboldcpp[^/]*$", executables=("koboldcpp", "koboldcpp.py")),
        ),
    ),
    Backend(
        "llama_swap",
        "llama-swap",
        "LlamaSwap",
        ports=(9292, 8080),
        owned_by=("llama-swap",),
        imitated=True,
        programs=(Program("llama-swap", port=8080, image=r"llama-swap[^/]*$", executables=("llama-swap",)),),
    ),
    Backend(
        "tabbyapi",
        "TabbyAPI",
        "TabbyAPI",
        ports=(5000,),
        owned_by=("tabbyAPI",),
        imitated=True,
        programs=(Program("tabbyapi", port=5000, image=r"tabby-?api[^/]*$"),),
    ),
    Backend(
        "text_generation_webui",
        "text-generation-webui",
        "TextGenerationWebui",
        ports=(5000,),
        imitated=True,
        programs=(Program("text-generation-webui", port=5000, image=r"(?:text-generation-webui|oobabooga)[^/]*$"),),
    ),
    Backend(
        "transformers",
        "Transformers",
        "Transformers",
        ports=(8000,),
        programs=(
            Program("transformers", port=8000, subcommands=(("transformers", "serve"), ("transformers-cli", "serve"))),
            Program(
                "tgi", port=80, image=r"text-generation-inference[^/]*$", executables=("text-generation-launcher",)
            ),
        ),
    ),
    Backend(
        "localai",
        "LocalAI",
        "LocalAI",
        ports=(8080,),
        imitated=True,
        programs=(Program("localai", port=8080, image=r"local-?ai[^/]*$", executables=("local-ai",)),),
    ),
    Backend(
        "openai",
        "OpenAI API",
        "OpenAI",
        ports=(52625, 1337),  # FastFlowLM, Jan
        owned_by=("me",),
        imitated=True,
        programs=(
            Program(
                "other",
                executables=("sglang_router",),
                subcommands=(("lmdeploy", "serve"),),
                modules=("llama_cpp.server",),  # not llama-server: it has neither its API nor its options
            ),
        ),
    ),
)

BACKENDS: Final[Mapping[str, Backend]] = MappingProxyType({row.id: row for row in _ROWS})
"""Every kind by its id, in the order in which they are recognised."""

CONFIGURABLE: Final = tuple(row.id for row in _ROWS if row.configurable)
"""The ids that the settings and the command line take."""


def name_of(backend: str) -> str:
    """What people read for a backend's id; the id itself if there is no such backend."""
    return BACKENDS[backend].name if backend in BACKENDS else backend
