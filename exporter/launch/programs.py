"""Inference server programs: by which switches each is configured, and which of them a command line runs. Pure.

Only what stands in these tables is ever read of a command line or an environment: a key has no row here. Switches and
defaults were read off llama.cpp b11434 (common/arg.cpp), Ollama (llm/llama_server.go, envconfig), vLLM's and SGLang's
engine arguments, text-generation-webui (modules/shared.py) and KoboldCpp (koboldcpp.py).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from posixpath import basename
from typing import Final, Literal

from exporter.backends import BACKENDS

ProgramName = str
"""The name of a ``Program`` in ``exporter.backends``."""
Setting = Literal[
    "all_experts_on_cpu",
    "cache_ram",
    "cache_type_k",
    "cache_type_v",
    "config_file",
    "context",
    "cpu_offload_gb",
    "cpu_only",
    "device",
    "draft_model",
    "experts_on_cpu",
    "ffn_on_cpu",
    "flash_attention",
    "gpu_layers",
    "hf_file",
    "kernels",
    "kv_on_cpu",
    "listen",
    "main_gpu",
    "micro_batch",
    "model",
    "offload_groups",
    "other_parallel",
    "override_tensor",
    "port",
    "quantization",
    "remote_devices",
    "served_name",
    "sleep_idle_seconds",
    "slots",
    "speculation",
    "split_mode",
    "tensor_parallel",
]


@dataclass(frozen=True, slots=True)
class Switch:
    """How one setting is given: options without dashes (with ``-`` for ``_``), and variables that mean the same."""

    options: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


def _switch(options: str, variables: str = "") -> Switch:
    return Switch(tuple(options.split()), tuple(variables.split()))


@dataclass(frozen=True, slots=True)
class ServerProgram:
    """How one server program is configured, and its defaults.

    ``backend`` and ``port`` are those of the program's row in ``exporter.backends``.

    ``flags`` are options that take no value and ``single`` options that take one, besides those of ``switches``: after
    them a positional argument may follow. What follows an option that is in neither may be that option's.
    """

    backend: str = ""
    port: int | None = None
    listen: str = ""
    """The host that it binds by default; empty for all."""
    model_is_positional: bool = False
    cache_type: str | None = None
    """The type of its KV cache by default."""
    switches: Mapping[Setting, Switch] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()
    single: frozenset[str] = frozenset()

    def switch(self, setting: Setting) -> Switch:
        """The options and variables of a setting; none if the program has no such setting."""
        return self.switches.get(setting, _NO_SWITCH)


_NO_SWITCH: Final = Switch()
_LLAMA: Final[Mapping[Setting, Switch]] = {
    "all_experts_on_cpu": _switch("cmoe cpu-moe", "LLAMA_ARG_CPU_MOE"),
    "cache_ram": _switch("cram cache-ram", "LLAMA_ARG_CACHE_RAM"),
    "cache_type_k": _switch("ctk cache-type-k", "LLAMA_ARG_CACHE_TYPE_K"),
    "cache_type_v": _switch("ctv cache-type-v", "LLAMA_ARG_CACHE_TYPE_V"),
    "config_file": _switch("models-preset", "LLAMA_ARG_MODELS_PRESET"),
    "context": _switch("c ctx-size", "LLAMA_ARG_CTX_SIZE"),
    "device": _switch("dev device", "LLAMA_ARG_DEVICE"),
    "draft_model": _switch(
        "md model-draft spec-draft-model hfd hfrd hf-repo-draft spec-draft-hf",
        "LLAMA_ARG_SPEC_DRAFT_MODEL LLAMA_ARG_MODEL_DRAFT LLAMA_ARG_SPEC_DRAFT_HF_REPO LLAMA_ARG_HFD_REPO",
    ),
    "experts_on_cpu": _switch("ncmoe n-cpu-moe", "LLAMA_ARG_N_CPU_MOE"),
    "ffn_on_cpu": _switch("ncffn n-cpu-ffn", "LLAMA_ARG_N_CPU_FFN"),
    "flash_attention": _switch("fa flash-attn", "LLAMA_ARG_FLASH_ATTN"),
    "gpu_layers": _switch("ngl gpu-layers n-gpu-layers", "LLAMA_ARG_N_GPU_LAYERS"),
    "hf_file": _switch("hff hf-file", "LLAMA_ARG_HF_FILE"),
    "kv_on_cpu": _switch("nkvo no-kv-offload", "LLAMA_ARG_NO_KV_OFFLOAD"),
    "listen": _switch("host", "LLAMA_ARG_HOST"),
    "main_gpu": _switch("mg main-gpu", "LLAMA_ARG_MAIN_GPU"),
    "micro_batch": _switch("ub ubatch-size", "LLAMA_ARG_UBATCH"),
    "model": _switch(
        "hf hfr hf-repo m model mu model-url dr docker-repo",
        "LLAMA_ARG_HF_REPO LLAMA_ARG_MODEL LLAMA_ARG_MODEL_URL LLAMA_ARG_DOCKER_REPO",
    ),
    "override_tensor": _switch("ot override-tensor", "LLAMA_ARG_OVERRIDE_TENSOR"),
    "port": _switch("port", "LLAMA_ARG_PORT"),
    "remote_devices": _switch("rpc", "LLAMA_ARG_RPC"),
    "served_name": _switch("a alias", "LLAMA_ARG_ALIAS"),
    "sleep_idle_seconds": _switch("sleep-idle-seconds"),
    "slots": _switch("np parallel", "LLAMA_ARG_N_PARALLEL"),
    "speculation": _switch("spec-type", "LLAMA_ARG_SPEC_TYPE"),
    "split_mode": _switch("sm split-mode", "LLAMA_ARG_SPLIT_MODE"),
}

_CONFIGURED: Final[Mapping[ProgramName, ServerProgram]] = {
    "vllm": ServerProgram(
        model_is_positional=True,
        cache_type="auto",
        switches={
            "cache_type_k": _switch("kv-cache-dtype"),
            "config_file": _switch("config"),
            "context": _switch("max-model-len"),
            "cpu_offload_gb": _switch("cpu-offload-gb"),
            "draft_model": _switch("speculative-model"),
            "kernels": _switch("attention-backend moe-backend", "VLLM_ATTENTION_BACKEND"),
            "listen": _switch("host"),
            "model": _switch("model model-tag"),
            "offload_groups": _switch("offload-group-size"),
            "other_parallel": _switch("pipeline-parallel-size pp data-parallel-size dp"),
            "port": _switch("port"),
            "quantization": _switch("quantization q"),
            "served_name": _switch("served-model-name"),
            "slots": _switch("max-num-seqs"),
            "speculation": _switch("speculative-config sc speculative-config.method"),
            "tensor_parallel": _switch("tensor-parallel-size tp"),
        },
        flags=frozenset("enforce-eager trust-remote-code async-scheduling headless calculate-kv-scales".split()),
        single=frozenset(
            "gpu-memory-utilization dtype max-num-batched-tokens seed load-format tokenizer revision download-dir"
            " reasoning-parser tool-call-parser chat-template block-size".split()
        ),
    ),
    "llama-server": ServerProgram(listen="127.0.0.1", cache_type="f16", switches=_LLAMA),
    "ollama": ServerProgram(
        listen="127.0.0.1",
        cache_type="f16",
        switches={
            "cache_type_k": _switch("", "OLLAMA_KV_CACHE_TYPE"),
            "context": _switch("", "OLLAMA_CONTEXT_LENGTH"),
            "flash_attention": _switch("", "OLLAMA_FLASH_ATTENTION"),
            "listen": _switch("", "OLLAMA_HOST"),
            "slots": _switch("", "OLLAMA_NUM_PARALLEL"),
        },
    ),
    "ollama-runner": ServerProgram(
        listen="127.0.0.1",
        switches={
            "cache_type_k": _switch("kv-cache-type"),
            "context": _switch("ctx-size"),
            "flash_attention": _switch("flash-attn"),
            "gpu_layers": _switch("n-gpu-layers"),
            "main_gpu": _switch("main-gpu"),
            "model": _switch("model"),
            "port": _switch("port"),
            "slots": _switch("parallel"),
        },
        flags=frozenset("flash-attn ollama-engine mlx-engine no-mmap mlock verbose multiuser-cache".split()),
    ),
    "text-generation-webui": ServerProgram(
        listen="127.0.0.1",
        switches={
            "all_experts_on_cpu": _switch("cpu-moe"),
            "cache_type_k": _switch("cache-type ctx-type"),
            "context": _switch("ctx-size n-ctx max-seq-len"),
            "cpu_offload_gb": _switch("cpu-memory"),
            "cpu_only": _switch("cpu"),
            "draft_model": _switch("model-draft"),
            "gpu_layers": _switch("gpu-layers n-gpu-layers"),
            "kv_on_cpu": _switch("no-kv-offload"),
            "listen": _switch("listen-host"),
            "micro_batch": _switch("ubatch-size"),
            "model": _switch("model"),
            "port": _switch("api-port"),
            "slots": _switch("parallel"),
            "speculation": _switch("spec-type"),
            "split_mode": _switch("split-mode"),
        },
        flags=frozenset("listen api verbose public-api cpu cpu-moe no-kv-offload nowebui portable".split()),
    ),
    "transformers": ServerProgram(
        listen="127.0.0.1",
        model_is_positional=True,
        switches={
            "device": _switch("device"),
            "listen": _switch("host"),
            "model": _switch("force-model"),
            "port": _switch("port"),
            "quantization": _switch("quantization"),
        },
        flags=frozenset("trust-remote-code continuous-batching".split()),
    ),
    "tgi": ServerProgram(
        switches={
            "cache_type_k": _switch("kv-cache-dtype"),
            "context": _switch("max-total-tokens"),
            "listen": _switch("hostname"),
            "model": _switch("model-id", "MODEL_ID"),
            "port": _switch("port p", "PORT"),
            "quantization": _switch("quantize"),
            "served_name": _switch("served-model-name"),
            "tensor_parallel": _switch("num-shard"),
        },
    ),
    "sglang": ServerProgram(
        listen="127.0.0.1",
        cache_type="auto",
        switches={
            "cache_type_k": _switch("kv-cache-dtype"),
            "config_file": _switch("config"),
            "context": _switch("context-length"),
            "cpu_offload_gb": _switch("cpu-offload-gb"),
            "draft_model": _switch("speculative-draft-model-path"),
            "kernels": _switch("attention-backend"),
            "listen": _switch("host"),
            "model": _switch("model-path model"),
            "other_parallel": _switch("pipeline-parallel-size pp-size pp data-parallel-size dp-size dp"),
            "port": _switch("port"),
            "quantization": _switch("quantization"),
            "served_name": _switch("served-model-name"),
            "slots": _switch("max-running-requests"),
            "speculation": _switch("speculative-algorithm speculative-algo"),
            "tensor_parallel": _switch("tensor-parallel-size tp-size tp"),
        },
        flags=frozenset({"trust-remote-code"}),
    ),
    "koboldcpp": ServerProgram(
        model_is_positional=True,
        switches={
            "cache_type_k": _switch("quantkv"),
            "config_file": _switch("config"),
            "context": _switch("contextsize"),
            "cpu_only": _switch("usecpu"),
            "draft_model": _switch("draftmodel"),
            "experts_on_cpu": _switch("moecpu"),
            "flash_attention": _switch("flashattention"),
            "gpu_layers": _switch("gpulayers"),
            "listen": _switch("host"),
            "model": _switch("model"),
            "override_tensor": _switch("overridetensors"),
            "port": _switch("port"),
        },
        flags=frozenset("usecpu flashattention skiplauncher quiet".split()),
    ),
}
# A program that has no row there is configured as most are.
_USUAL: Final = ServerProgram(
    switches={
        "listen": _switch("host"),
        "model": _switch("model"),
        "port": _switch("port"),
        "served_name": _switch("model-alias"),
    }
)
_PROGRAM_ROWS: Final = [(backend, program) for backend in BACKENDS.values() for program in backend.programs]
SERVERS: Final[Mapping[ProgramName, ServerProgram]] = {
    program.name: replace(_CONFIGURED.get(program.name, _USUAL), backend=backend.id, port=program.port)
    for backend, program in _PROGRAM_ROWS
}

# llama-server's own presets: an option that stands for a repository and a port.
PRESETS: Final[Mapping[str, tuple[str, int]]] = {
    "embd-gemma-default": ("ggml-org/embeddinggemma-300M-qat-q4_0-GGUF", 8011),
    "fim-qwen-1.5b-default": ("ggml-org/Qwen2.5-Coder-1.5B-Q8_0-GGUF", 8012),
    "fim-qwen-3b-default": ("ggml-org/Qwen2.5-Coder-3B-Q8_0-GGUF", 8012),
    "fim-qwen-7b-default": ("ggml-org/Qwen2.5-Coder-7B-Q8_0-GGUF", 8012),
    "fim-qwen-7b-spec": ("ggml-org/Qwen2.5-Coder-7B-Q8_0-GGUF", 8012),
    "fim-qwen-14b-spec": ("ggml-org/Qwen2.5-Coder-14B-Q8_0-GGUF", 8012),
    "fim-qwen-30b-default": ("ggml-org/Qwen3-Coder-30B-A3B-Instruct-Q8_0-GGUF", 8012),
    "gpt-oss-20b-default": ("ggml-org/gpt-oss-20b-GGUF", 8013),
    "gpt-oss-120b-default": ("ggml-org/gpt-oss-120b-GGUF", 8013),
    "vision-gemma-4b-default": ("ggml-org/gemma-3-4b-it-qat-GGUF", 8014),
    "vision-gemma-12b-default": ("ggml-org/gemma-3-12b-it-qat-GGUF", 8014),
}

DEVICE_VARIABLES: Final = (
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "CUDA_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
)
AITER_SWITCHES: Final[Mapping[ProgramName, str]] = {"vllm": "VLLM_ROCM_USE_AITER", "sglang": "SGLANG_USE_AITER"}
AITER_ARCHITECTURES: Final = "AITER_ROCM_ARCH"
TLS_VARIABLE: Final = "LLAMA_ARG_SSL_CERT_FILE"
VARIABLES: Final = frozenset(
    {variable for server in SERVERS.values() for switch in server.switches.values() for variable in switch.variables}
    | {"LLAMA_ARG_KV_OFFLOAD", TLS_VARIABLE, AITER_ARCHITECTURES, *DEVICE_VARIABLES, *AITER_SWITCHES.values()}
)
"""All that is read of an environment."""

_MODULES: Final[Mapping[str, ProgramName]] = {module: row.name for _, row in _PROGRAM_ROWS for module in row.modules}
_SUBCOMMANDS: Final[Mapping[tuple[str, ...], ProgramName]] = {
    command: row.name for _, row in _PROGRAM_ROWS for command in row.subcommands
}
# With another subcommand these are known to be no server; "llama" alone is a word like any other.
_TOOLS: Final = frozenset(tool for tool, *_ in _SUBCOMMANDS) - {"llama"}
_PROGRAMS: Final[Mapping[str, ProgramName]] = {
    executable: row.name for _, row in _PROGRAM_ROWS for executable in row.executables
}
_LLAMA_PROGRAM = re.compile(r"llama-(?P<tool>[a-z0-9]+)(?:-.*)?")
_KOBOLD_BINARY = re.compile(r"koboldcpp[-_]\w[\w.-]*")
_WEBUI_SCRIPT: Final = "server.py"
_WEBUI_FLAGS: Final = frozenset({"--api", "--listen", "--public-api", "--nowebui"})
# A Python program, whose own name is the script's or the module's that it runs.
_PYTHON = re.compile(r"(?:python|pypy)[\d.]*")
_PYTHON_OPTIONS_WITH_VALUE: Final = frozenset({"-X", "-W", "--check-hash-based-pycs"})
_PYTHON_COMMAND = re.compile(r"-[a-zA-Z]*c")
_LOADER = re.compile(r"ld-(?:linux|musl)[\w.-]*\.so\S*")
_WRAPPED = re.compile(r"\.(?P<name>.+)-wrapped")


# vLLM's name for the processes that compute for a server. They show no arguments.
_WORKER_TITLE: Final = "VLLM::"


@dataclass(frozen=True, slots=True)
class Started:
    """A server that a command line starts, with its arguments; ``name`` is None if the command is known to be no server."""

    name: ProgramName | None
    arguments: tuple[str, ...] = ()


def started_by(command: Sequence[str]) -> Started | None:
    """What one simple command starts, whatever wraps it (``tini -- vllm serve``); None if the command doesn't say it."""
    found = (_started_at(command, at) for at in range(len(command)))
    return next((started for started in found if started), None)


def run_by(command: Sequence[str]) -> Started | None:
    """The server that a process is, by its own command line; None for any other process.

    Only the program itself counts: a shell, ``podman run`` or an editor that has a server's name among its arguments is
    none. A Python program goes by its script or module.
    """
    rest = list(command)
    if rest and _LOADER.fullmatch(basename(rest[0])):
        rest = rest[1:]
    if rest and _PYTHON.fullmatch(basename(rest[0])):
        rest = _python_program(rest[1:])
    if rest and rest[0].startswith(_WORKER_TITLE):
        return None
    started = _started_at(rest, 0)
    return started if started is not None and started.name is not None else None


def _python_program(command: Sequence[str]) -> list[str]:
    """The module or script that Python runs, and its arguments."""
    rest = list(command)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option == "-m":
            break
        if option in _PYTHON_OPTIONS_WITH_VALUE and rest:
            rest.pop(0)
        elif _PYTHON_COMMAND.fullmatch(option):
            return []
    return rest


def _started_at(command: Sequence[str], at: int) -> Started | None:
    """What the program at a place among the words starts."""
    if at >= len(command):
        return None
    word, after = command[at], tuple(command[at + 1 :])
    program = basename(word)
    if wrapped := _WRAPPED.fullmatch(program):  # as NixOS names what it wraps
        program = wrapped["name"]
    if (program, *after[:1]) in _SUBCOMMANDS or program in _TOOLS:
        return Started(_SUBCOMMANDS.get((program, *after[:1])), after[1:])
    if program not in _PROGRAMS and (tool := _LLAMA_PROGRAM.fullmatch(program)) and tool["tool"] != "server":
        return Started(None, after)
    if word.startswith(_WORKER_TITLE):
        return Started("vllm")
    name = _module(word) or _program(program, after)
    if name is None:
        return None
    return Started(name, after[1:] if word.endswith("vllm.entrypoints.cli.main") else after)


def _program(program: str, arguments: Sequence[str]) -> ProgramName | None:
    """The server that a program is by its own name."""
    if program not in _PROGRAMS and _LLAMA_PROGRAM.fullmatch(program):
        return "llama-server"
    if _KOBOLD_BINARY.fullmatch(program):
        return "koboldcpp"
    if program == _WEBUI_SCRIPT and _WEBUI_FLAGS.intersection(arguments):
        return "text-generation-webui"
    return _PROGRAMS.get(program)


def _module(word: str) -> ProgramName | None:
    """The server behind ``-m package.module`` or the path of such a module's file."""
    dotted = word.removesuffix(".py").replace("/", ".")
    return next((name for module, name in _MODULES.items() if dotted == module or dotted.endswith(f".{module}")), None)
