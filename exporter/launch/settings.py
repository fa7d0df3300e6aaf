"""A server's arguments and environment → the settings it was started with. Pure; reads only what ``programs`` lists.

What nobody stated is None. A program's own default stands for it only if everything that could state something else
was read (``complete``) and every version of the program has that default.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from exporter.launch.command import Options, expand, parse_options
from exporter.launch.programs import (
    AITER_ARCHITECTURES,
    AITER_SWITCHES,
    DEVICE_VARIABLES,
    PRESETS,
    SERVERS,
    TLS_VARIABLE,
    VARIABLES,
    ProgramName,
    ServerProgram,
    Setting,
)

FlashAttention = Literal["on", "off", "auto"]
Compute = Literal["rocm", "vulkan", "cuda", "cpu"]
AiterState = Literal["on", "off", "no_effect"]

NONE: Final = "none"
AITER_BUILT_FOR: Final = ("gfx942", "gfx950")
"""For these vLLM builds AITER's kernels unless the image says otherwise (AITER_ROCM_ARCH in its Dockerfile for ROCm)."""

_TERM = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}", re.ASCII)
_LONGEST_NAME: Final = 256
_LONGEST_PATH: Final = 4096
_ONE_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_HOST = re.compile(r"[\w.:\[\]%,/-]{1,255}", re.ASCII)
_DEVICE_LIST = re.compile(r"[\w.,:-]{0,128}", re.ASCII)
_HUB_PATH = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)")
_GFX = re.compile(r"gfx[0-9a-f]{3,4}")
_INTEGER = re.compile(r"[+-]?\d{1,9}", re.ASCII)
_SCALE: Final = {"": 1, "k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}
_TRUE: Final = frozenset({"1", "true", "on", "enabled"})
_FALSE: Final = frozenset({"0", "false", "f", "off", "disabled"})
_KOBOLD_CACHE_TYPES: Final = {"0": "f16", "1": "q8_0", "2": "q4_0"}
# How ggml names a device of each of its backends: ROCm0, Vulkan1.
_DEVICE_COMPUTE: Final[tuple[tuple[str, Compute], ...]] = (
    ("rocm", "rocm"),
    ("hip", "rocm"),
    ("vulkan", "vulkan"),
    ("cuda", "cuda"),
    ("cpu", "cpu"),
)
_HOST_BUFFERS: Final = re.compile(r"CPU|.*_Host")
DEFAULT: Final = "default"
"""The value of a setting that a complete command line leaves to the program."""
# Programs that serve one model from start to end: what theirs leave out stays what the program chose.
_OF_ONE_MODEL: Final = frozenset({"llama-server", "sglang", "vllm"})
_WITH_A_DEFAULT: Final = ("context", "flash_attention", "micro_batch", "slots", "split_mode")
# By one of these a text-generation-webui reads more arguments from a file, so its own are never all.
_HAS_A_FLAGS_FILE: Final = frozenset({"text-generation-webui"})


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """How a server was started; None, empty or False if nobody stated it.

    ``complete``: whether all that could state a setting was read, so that what isn't stated is the program's default.
    ``model`` is for people (no credentials, no folders of a cache or before a file), ``model_path`` is the same as given,
    if it can be a path. ``gpu_layers`` is the number of layers to be put on the GPU, ``all``, or None for the
    program's own choice. ``offloads`` names, in the words of the switches, what else keeps a part of the work off this
    machine's GPU. ``visible_devices`` are (variable, value). ``aiter_architectures`` are the gfx targets that the AITER
    of the image is built for, if the environment names them.
    """

    name: ProgramName
    backend: str
    complete: bool = False
    model: str | None = None
    model_path: str | None = None
    hf_file: str | None = None
    served_name: str | None = None
    quantization: str | None = None
    listen: str | None = None
    """The host that it was told to bind, several with commas; empty for all."""
    port: int | None = None
    """As stated, 0 for any that is free; ``default_port`` is the program's own."""
    default_port: int | None = None
    unix_socket: bool = False
    tls: bool = False
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    context: int | None = None
    """Tokens, of all slots together if the program divides them."""
    tensor_parallel: int | None = None
    slots: int | None = None
    micro_batch: int | None = None
    flash_attention: FlashAttention | None = None
    split_mode: str | None = None
    main_gpu: int | None = None
    devices: tuple[str, ...] = ()
    visible_devices: tuple[tuple[str, str], ...] = ()
    compute: Compute | None = None
    gpu_layers: int | Literal["all"] | None = None
    offloads: tuple[str, ...] = ()
    speculative: str | None = None
    """How tokens are drafted (``draft``, ``draft-mtp``, ``ngram-mod``, ``eagle3``), ``none`` if they are not."""
    aiter: bool | None = None
    aiter_architectures: tuple[str, ...] = ()
    sleep_idle_seconds: int | None = None
    prompt_cache: bool | None = None
    """Whether llama-server keeps replaced prompts in the machine's memory, if the command line says it."""

    @property
    def kv_cache(self) -> str | None:
        """The type of the KV cache; ``q8_0/f16`` if keys and values differ, ``?`` for the one that nobody stated."""
        if self.cache_type_k == self.cache_type_v:
            return self.cache_type_k
        return f"{self.cache_type_k or '?'}/{self.cache_type_v or '?'}"


def allowed(pairs: Iterable[str]) -> dict[str, str]:
    """The variables of an environment (``NAME=value``) that may be read; all others are dropped here."""
    split = (pair.partition("=") for pair in pairs)
    return {name: value for name, equals, value in split if equals and name in VARIABLES}


def read_launch(
    name: ProgramName,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    complete: bool,
    positionals: bool = True,
) -> LaunchSettings:
    """The settings of a server by its arguments (without program and subcommand) and its environment.

    ``environment`` may hold more than ``allowed`` variables, since arguments may refer to them (``$PORT``). ``complete``
    is whether both are all there is. ``positionals`` is False if the arguments may be another program's.
    """
    server = SERVERS[name]
    options = parse_options(arguments, server.flags, _single(server))
    given = _Arguments(name, server, options, environment)
    complete = complete and not given.has("config_file") and name not in _HAS_A_FLAGS_FILE
    return _settings(given, complete=complete, positionals=positionals)


def _single(server: ServerProgram) -> frozenset[str]:
    """The options that take one value. A name that is served may be several."""
    of_switches = (switch.options for setting, switch in server.switches.items() if setting != "served_name")
    return server.single.union(*of_switches)


@dataclass(frozen=True, slots=True)
class _Arguments:
    """Arguments and environment of one program, asked by setting."""

    name: ProgramName
    server: ServerProgram
    options: Options
    environment: Mapping[str, str]

    def texts(self, setting: Setting) -> tuple[str, ...]:
        """All values of a setting: of its options, else of its variables."""
        switch = self.server.switch(setting)
        if values := self.options.values(*switch.options):
            return tuple(value for text in values if (value := expand(text, self.environment)) is not None)
        return tuple(value for name in switch.variables if (value := self.environment.get(name, "")))

    def accumulated(self, setting: Setting) -> tuple[str, ...]:
        """All values of a setting to which each of them adds: of its variables and of its options."""
        of_variables = (self.environment.get(name, "") for name in self.server.switch(setting).variables)
        of_options = self.texts(setting) if self.options.values(*self.server.switch(setting).options) else ()
        return (*filter(None, of_variables), *of_options)

    def text(self, setting: Setting) -> str | None:
        """The value that counts: the last option's, else the first variable's."""
        values = self.texts(setting)
        if not values:
            return None
        return values[-1] if self.options.values(*self.server.switch(setting).options) else values[0]

    def term(self, setting: Setting) -> str | None:
        """A value that is one plain word, in lower case."""
        value = self.text(setting)
        return value.lower() if value is not None and _TERM.fullmatch(value) else None

    def has(self, setting: Setting) -> bool:
        """Whether a setting is given, with a value or without; a variable that says no doesn't give it."""
        switch = self.server.switch(setting)
        variables = (self.environment.get(name, "") for name in switch.variables)
        return self.options.has(*switch.options) or any(_is_yes(value) for value in variables)

    def number(self, setting: Setting) -> int | None:
        """A whole number, of either sign."""
        value = self.text(setting)
        return int(value) if value is not None and _INTEGER.fullmatch(value) else None

    def count(self, setting: Setting) -> int | None:
        """A positive number as vLLM takes it: ``32768``, ``32k`` (thousands), ``32K`` (1024), ``1.5k``."""
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([kKmM]?)", self.text(setting) or "", re.ASCII)
        count = int(float(found[1]) * _SCALE[found[2]]) if found else 0
        return count or None


def _settings(given: _Arguments, *, complete: bool, positionals: bool) -> LaunchSettings:
    model = _model(given, positionals=positionals)
    listen, port = _listen(given)
    devices = tuple(each for each in (given.text("device") or "").split(",") if _TERM.fullmatch(each))
    cache_types = _cache_types(given, complete=complete)
    return LaunchSettings(
        given.name,
        given.server.backend,
        complete,
        model=display_name(model),
        model_path=model if model is not None and "://" not in model and _is_one_line(model) else None,
        hf_file=display_name(given.text("hf_file")),
        served_name=display_name(given.text("served_name")),
        quantization=given.term("quantization"),
        listen=listen,
        port=port,
        default_port=given.server.port,
        unix_socket=given.options.has("uds") or (listen is not None and listen.startswith("/")),
        tls=given.options.has("ssl-keyfile", "ssl-key-file", "ssl-certfile", "ssl-cert-file")
        or TLS_VARIABLE in given.environment,
        cache_type_k=cache_types[0],
        cache_type_v=cache_types[1],
        context=given.count("context"),
        tensor_parallel=_tensor_parallel(given, complete=complete),
        slots=given.count("slots"),
        micro_batch=given.count("micro_batch"),
        flash_attention=_flash_attention(given),
        split_mode=given.term("split_mode"),
        main_gpu=given.number("main_gpu"),
        devices=devices,
        visible_devices=_visible_devices(given.environment),
        compute=_compute(given, devices),
        gpu_layers=_gpu_layers(given),
        offloads=_offloads(given, devices),
        speculative=_speculative(given) or (NONE if complete else None),
        aiter=_aiter(given, complete=complete),
        aiter_architectures=tuple(_GFX.findall(given.environment.get(AITER_ARCHITECTURES, ""))),
        sleep_idle_seconds=given.count("sleep_idle_seconds"),
        prompt_cache=None if (cache_ram := given.number("cache_ram")) is None else cache_ram != 0,
    )


def _model(given: _Arguments, *, positionals: bool) -> str | None:
    value = given.text("model")
    if value is None and positionals and given.server.model_is_positional and given.options.positional:
        value = expand(given.options.positional[0], given.environment)
    return value or next((PRESETS[preset][0] for preset in _presets(given)), None)


def _presets(given: _Arguments) -> list[str]:
    return [preset for preset in PRESETS if given.name == "llama-server" and given.options.has(preset)]


def display_name(value: str | None) -> str | None:
    """A model's name that can be shown: no credentials of a URL, no folders of a cache or before a file.

    Bytes of a path that are no UTF-8 become U+FFFD; a name of more than 256 characters is none.
    """
    if value is None or not _is_one_line(value):
        return None
    if "://" in value:
        value = re.sub(r"^([^:]+://)[^/]*@", r"\1", value.partition("?")[0].partition("#")[0])
    if hub := _HUB_PATH.search(value):
        value = f"{hub['owner']}/{hub['name']}"
    elif value.lower().endswith(".gguf"):
        value = value.rsplit("/", 1)[-1]
    return _SURROGATE.sub("\ufffd", value) if 0 < len(value) <= _LONGEST_NAME else None


def _is_one_line(value: str) -> bool:
    return len(value) <= _LONGEST_PATH and _ONE_LINE.fullmatch(value) is not None and not value.isspace()


def _listen(given: _Arguments) -> tuple[str | None, int | None]:
    """The host and the port that it was told to bind."""
    listen = given.text("listen")
    if given.name == "ollama" and listen:
        return _ollama_host(listen)
    if listen is None and given.options.has("listen"):
        listen = ""
    port = _port(given.text("port"))
    if given.name == "koboldcpp" and port is None and len(given.options.positional) > 1:
        port = _port(given.options.positional[1])
    if port is None:
        port = next((PRESETS[preset][1] for preset in _presets(given)), None)
    return listen if listen is None or not listen or _HOST.fullmatch(listen) else None, port


def _ollama_host(value: str) -> tuple[str, int | None]:
    """``OLLAMA_HOST`` is ``[scheme://]host[:port]``, and a scheme brings its own default port."""
    try:
        parts = urlsplit(value if "://" in value else f"//{value}")
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None
    host = parts.hostname or ""
    return host if _HOST.fullmatch(host) else "", port


def _port(value: str | None) -> int | None:
    return int(value) if value and re.fullmatch(r"\d{1,5}", value, re.ASCII) and int(value) < 65536 else None


def _cache_types(given: _Arguments, *, complete: bool) -> tuple[str | None, str | None]:
    """The KV cache's type of keys and of values; one for both if the program has one switch."""
    default = given.server.cache_type if complete else None
    keys = given.term("cache_type_k")
    if given.name == "koboldcpp":
        keys = _KOBOLD_CACHE_TYPES.get(keys or "")
    if "cache_type_v" not in given.server.switches:
        return keys or default, keys or default
    return keys or default, given.term("cache_type_v") or default


def _tensor_parallel(given: _Arguments, *, complete: bool) -> int | None:
    stated = given.count("tensor_parallel")
    is_default = complete and given.name in {"vllm", "sglang"} and not given.has("other_parallel")
    return stated or (1 if is_default else None)


def _flash_attention(given: _Arguments) -> FlashAttention | None:
    value = given.text("flash_attention")
    if value is None:
        return "on" if given.has("flash_attention") else None
    if value.lower() == "auto":
        return "auto"
    return "on" if _is_yes(value) else "off" if value.lower() in _FALSE else None


def _visible_devices(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    named = ((name, environment[name].strip()) for name in DEVICE_VARIABLES if name in environment)
    return tuple((name, value) for name, value in named if _DEVICE_LIST.fullmatch(value))


def _compute(given: _Arguments, devices: Sequence[str]) -> Compute | None:
    """Which runtime computes, as far as the arguments say it."""
    if given.has("cpu_only") or devices == (NONE,):
        return "cpu"
    kinds = {kind for device in devices for start, kind in _DEVICE_COMPUTE if device.lower().startswith(start)}
    if len(kinds) == 1 and given.name == "llama-server":
        return kinds.pop()
    if given.name == "koboldcpp" and given.options.has("usevulkan"):
        return "vulkan"
    return "cpu" if given.name == "transformers" and devices == ("cpu",) else None


def _gpu_layers(given: _Arguments) -> int | Literal["all"] | None:
    """A negative number is a program's own choice; llama-server's -2 and below is all."""
    if given.term("gpu_layers") == "all":
        return "all"
    number = given.number("gpu_layers")
    if number is not None and number < -1 and given.name == "llama-server":
        return "all"
    return number if number is not None and number >= 0 else None


def _offloads(given: _Arguments, devices: Sequence[str]) -> tuple[str, ...]:
    """What keeps work off this machine's GPU, besides the number of layers, in the words of the switches."""
    found = ["cpu"] if given.has("cpu_only") else []
    if devices in {(NONE,), ("cpu",)}:
        found.append(f"device {devices[0]}")
    found += _layers_on_cpu(given)
    overrides = [part.partition("=")[2] for value in given.accumulated("override_tensor") for part in value.split(",")]
    if any(_HOST_BUFFERS.fullmatch(buffer.strip()) for buffer in overrides):
        found.append("override_tensor")
    if _keeps_cache_on_cpu(given):
        found.append("no_kv_offload")
    amounts: tuple[tuple[Setting, str], ...] = (
        ("cpu_offload_gb", "cpu_offload_gb"),
        ("offload_groups", "offload_group_size"),
    )
    for setting, word in amounts:
        value = given.text(setting) or ""
        if re.fullmatch(r"\d{1,6}(?:\.\d{1,6})?", value, re.ASCII) and float(value) > 0:
            found.append(f"{word} {value}")
    if given.text("remote_devices"):
        found.append("rpc")
    return tuple(found)


def _layers_on_cpu(given: _Arguments) -> list[str]:
    """The switches that keep a part of the first layers on the CPU, or of all."""
    found = []
    words: tuple[tuple[Setting, str], ...] = (("experts_on_cpu", "n_cpu_moe"), ("ffn_on_cpu", "n_cpu_ffn"))
    for setting, word in words:
        layers = [int(value) for value in given.accumulated(setting) if _INTEGER.fullmatch(value)]
        if any(count > 0 for count in layers):
            found.append(f"{word} {max(layers)}")
        elif given.has(setting) and not given.texts(setting):
            found.append(word)
    return [*found, "cpu_moe"] if given.has("all_experts_on_cpu") else found


def _keeps_cache_on_cpu(given: _Arguments) -> bool:
    switch = given.server.switch("kv_on_cpu")
    if not switch.options or given.options.has("kvo", "kv-offload"):
        return False
    # llama-server takes the mere presence of the variable with NO in its name for a no.
    by_variable = any(name in given.environment for name in switch.variables)
    if switch.variables and given.environment.get("LLAMA_ARG_KV_OFFLOAD", "").lower() in _FALSE:
        by_variable = True
    return given.options.has(*switch.options) or by_variable


def _speculative(given: _Arguments) -> str | None:
    """How the server drafts tokens, ``none`` if it is set not to, None if nothing is set."""
    found = [word for value in given.accumulated("speculation") for word in _methods(value)]
    if any(name.startswith("speculative-config") for name, _ in given.options.named) and not found:
        found.append("on")
    if given.options.has("spec-default"):
        found.append("ngram-mod")
    if given.options.has("mtp", "multi-token-prediction"):
        found.append("mtp")
    drafts = given.text("draft_model") is not None or given.options.has("fim-qwen-7b-spec", "fim-qwen-14b-spec")
    if drafts and not any(word not in {NONE, "on"} for word in found):
        found.append("draft")
    kinds = [word for word in dict.fromkeys(found) if word != NONE]
    return ",".join(kinds) if kinds else NONE if found else None


def _methods(value: str) -> list[str]:
    """The methods that a value names: ``draft-mtp,ngram-mod``, or the one in vLLM's JSON."""
    if not value.lstrip().startswith("{"):
        return [word.lower() for word in value.split(",") if _TERM.fullmatch(word)]
    try:
        config = json.loads(value)
    except (ValueError, RecursionError):
        return []
    method = config.get("method") if isinstance(config, dict) else None
    if isinstance(method, str) and _TERM.fullmatch(method):
        return [method.lower()]
    return ["draft"] if isinstance(config, dict) and config.get("model") else []


def _aiter(given: _Arguments, *, complete: bool) -> bool | None:
    """Off by default in vLLM and SGLang; a kernel of AITER's that is asked for by name needs no switch."""
    switch = AITER_SWITCHES.get(given.name)
    if switch is None:
        return None
    if any("aiter" in value.lower() for value in given.texts("kernels")):
        return True
    value = given.environment.get(switch)
    if value is None:
        return False if complete else None
    return value.strip().lower() in {"1", "true"}


def _is_yes(value: str) -> bool:
    return value.strip().lower() in _TRUE


def aiter_usable(architectures: Sequence[str], gfx_targets: Sequence[str]) -> bool | None:
    """Whether AITER works on one of the GPUs; None if no GPU is known.

    If the image doesn't say what it is built for: on gfx942 and gfx950. On RDNA 4 (gfx12) it depends on vLLM's
    version, which an environment doesn't hold: None. On others, gfx1151 with them, it has no effect or ends the engine.
    """
    if not gfx_targets:
        return None
    if not set(gfx_targets).isdisjoint(architectures or AITER_BUILT_FOR):
        return True
    return None if not architectures and any(gfx.startswith("gfx12") for gfx in gfx_targets) else False


def aiter_state(launch: LaunchSettings, gfx_targets: Sequence[str] = ()) -> AiterState | None:
    """What AITER does for this server on these GPUs; None if nobody stated whether it is on."""
    if not launch.aiter:
        return None if launch.aiter is None else "off"
    return "no_effect" if aiter_usable(launch.aiter_architectures, gfx_targets) is False else "on"


def cpu_offload(launch: LaunchSettings, layers: int | None = None) -> str | None:
    """What of the model's work is kept off the GPU, in the words of the switches; ``none`` if nothing is.

    ``layers`` is the number of the model's layers: llama-server counts the output as one more. None if it can't be
    told, as when the program itself chooses how many layers to put on the GPU.
    """
    found = list(launch.offloads)
    on_gpu = launch.gpu_layers
    if isinstance(on_gpu, int) and (on_gpu == 0 or (layers is not None and on_gpu <= layers)):
        found.append(f"gpu_layers {on_gpu}")
    if found:
        return ", ".join(found)
    all_on_gpu = on_gpu == "all" or (on_gpu is not None and layers is not None)
    return NONE if launch.complete and (all_on_gpu or launch.name in {"vllm", "sglang"}) else None


def settings_of(
    launch: LaunchSettings, *, layers: int | None = None, gfx_targets: Sequence[str] = ()
) -> dict[str, str]:
    """The settings that decide speed, by name, in words; a setting that nobody stated is missing.

    ``layers`` are the model's, ``gfx_targets`` those of the GPUs that serve.
    """
    known = {
        "aiter": aiter_state(launch, gfx_targets),
        "compute": launch.compute,
        "context": launch.context,
        "cpu_offload": cpu_offload(launch, layers),
        "flash_attention": launch.flash_attention,
        "kv_cache": launch.kv_cache,
        "micro_batch": launch.micro_batch,
        "slots": launch.slots,
        "speculative": launch.speculative,
        "split_mode": launch.split_mode,
        "tensor_parallel": launch.tensor_parallel,
    }
    return {name: str(value) for name, value in known.items() if value is not None}


def defaults_of(launch: LaunchSettings, compute: Compute | None) -> dict[str, str]:
    """The settings that nobody stated, as ``default``, if all that could state them was read.

    Without it a switch that is given for the first time, or no more, would be no change. ``compute`` is what computes; if
    that is not known, neither is whether a part of the work is off the GPU.
    """
    if not launch.complete or launch.name not in _OF_ONE_MODEL or launch.model is None:
        return {}
    names = list(_WITH_A_DEFAULT)
    if launch.gpu_layers is None and compute not in {None, "cpu"}:
        names.append("cpu_offload")
    stated = settings_of(launch)
    return {name: DEFAULT for name in names if name not in stated}
