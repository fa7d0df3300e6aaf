"""Documents of a container engine → facts about one inference server. Pure: no engine, no file, no clock.

Signals in order: the command, then what the container's processes are, the image's name, the environment. A document may
come from any engine and miss anything; what it does not say is None.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from exporter.containers.cache import cache_of
from exporter.containers.command import Options, assignments, commands_in, expand, parse_options
from exporter.containers.facts import ON_HOST, CandidateUrl, ContainerFacts, Devices, OwnNetwork
from exporter.containers.json_access import items, mapping, seconds, text, words
from exporter.containers.quantization import gguf_type, method_in
from exporter.containers.rocm import stated_version
from exporter.containers.servers import (
    SERVERS,
    Name,
    Server,
    Started,
    configured_for,
    is_idle,
    made_for,
    started_by,
)
from exporter.containers.urls import candidate_urls

# For these vLLM builds AITER's kernels unless the image says otherwise (AITER_ROCM_ARCH in its Dockerfile for ROCm).
AITER_BUILT_FOR: Final = ("gfx942", "gfx950")
AITER_SWITCH: Final = "VLLM_ROCM_USE_AITER"
_SWITCHES = re.compile(
    r"VLLM_ROCM_USE_\w+|VLLM_ROCM_FP8_PADDING|VLLM_ROCM_CUSTOM_PAGED_ATTN|VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT"
    r"|VLLM_USE_TRITON_FLASH_ATTN|TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL|FLASH_ATTENTION_TRITON_AMD_ENABLE"
)
_ANY_NAME = re.compile(r"\w+")
_TERM = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}")
_MODEL = re.compile(r"[^\s\x00-\x1f\x7f]{1,256}")
_HUB_PATH = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)")
_SCALE: Final = {"": 1, "k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}


@dataclass(frozen=True, slots=True)
class _Launch:
    """How the server in a container is started; ``seen`` where the arguments are its own and not a guess."""

    name: Name | None
    options: Options
    environment: Mapping[str, str]
    seen: bool
    by_hand: bool = False

    @property
    def server(self) -> Server | None:
        return SERVERS[self.name] if self.name else None

    def option(self, names: Sequence[str], variables: Iterable[str | None] = ()) -> str | None:
        """The value of an option, else of its twin in the environment."""
        if value := expand(self.options.value(*names), self.environment):
            return value
        return next((self.environment[name] for name in variables if name and self.environment.get(name)), None)


def environment_of(inspect: Mapping[str, Any]) -> dict[str, str]:
    """The container's variables, the image's included. Holds secrets: never keep or log it."""
    pairs = (entry.partition("=") for entry in words(inspect, "Config", "Env"))
    return {name: value for name, equals, value in pairs if equals}


def needs_processes(inspect: Mapping[str, Any], image: Mapping[str, Any] | None = None) -> bool:
    """Whether only the container's processes can tell which server runs in it: a toolbox, or a start script."""
    commands = _commands(inspect)
    if not text(inspect, "Id") or any(started_by(command) for command in commands):
        return False
    devices = _devices(inspect)
    given = (
        devices.kfd or devices.dri or devices.cdi or (devices.privileged and is_idle(commands[0] if commands else ()))
    )
    return given or made_for(image_reference(inspect, image)) is not None


def recognise(
    inspect: Mapping[str, Any],
    image: Mapping[str, Any] | None = None,
    top: Mapping[str, Any] | None = None,
    *,
    peer: Mapping[str, Any] | None = None,
    own_network: OwnNetwork = ON_HOST,
    host_gfx: Sequence[str] = (),
) -> ContainerFacts | None:
    """The facts of a container that runs, or is made to run, an inference server; None for any other.

    ``inspect``, ``image`` and ``top`` are the answers of ``/containers/{id}/json``, ``/images/{id}/json`` and
    ``/containers/{id}/top``; ``peer`` is the document of the container whose network this one uses. ``host_gfx`` are the
    gfx targets of the host's GPUs.
    """
    identifier = text(inspect, "Id")
    reference = image_reference(inspect, image)
    launch = _launch(inspect, reference, top) if identifier else None
    if launch is None:
        return None
    server, environment = launch.server, launch.environment
    model = _model(launch)
    urls, unreachable = _urls(launch, inspect, peer or inspect, own_network)
    uses_aiter = _aiter(launch)
    cache = cache_of(server.backend if server else None, _weights_at(launch), inspect, environment)
    return ContainerFacts(
        id=identifier[:12],
        name=text(inspect, "Name").lstrip("/") or identifier[:12],
        image=reference,
        image_id=text(inspect, "Image"),
        backend=server.backend if server else None,
        running=_is_running(inspect),
        started_at_seconds=seconds(text(inspect, "State", "StartedAt")),
        urls=urls,
        unreachable=unreachable,
        model=model,
        served_model_name=_name(launch.option(server.served_name_options, [server.served_name_variable]))
        if server
        else None,
        quantization=_quantization(launch, model),
        kv_cache_dtype=_kv_cache_dtype(launch, model),
        max_model_len=_count(launch.option(server.context_options, [server.context_variable])) if server else None,
        tensor_parallel=_count(launch.option(server.parallel_options)) if server else None,
        aiter=uses_aiter,
        aiter_usable=_aiter_usable(environment, host_gfx) if uses_aiter else None,
        switches=_switches(environment),
        devices=_devices(inspect),
        cache_path=cache.path,
        cache_source=cache.source,
        cache_mounts=cache.mounts,
        rocm=stated_version(environment, mapping(inspect, "Config", "Labels"), reference),
    )


def image_reference(inspect: Mapping[str, Any], image: Mapping[str, Any] | None = None) -> str:
    """The image as configured, or a tag of it where only an id is configured."""
    configured = text(inspect, "Config", "Image") or text(inspect, "ImageName")
    if configured and not is_bare_id(configured):
        return configured
    tags = [*words(image, "RepoTags"), *words(image, "RepoDigests")]
    return tags[0] if tags else configured or text(inspect, "Image")


def is_bare_id(reference: str) -> bool:
    """Whether an image's reference is an id, as it is once its tag points to another image."""
    return re.fullmatch(r"(?:sha256:)?[0-9a-f]{12,64}", reference) is not None


def _commands(inspect: Mapping[str, Any]) -> list[tuple[str, ...]]:
    command = [*words(inspect, "Config", "Entrypoint"), *words(inspect, "Config", "Cmd")]
    if not command and text(inspect, "Path"):
        command = [text(inspect, "Path"), *words(inspect, "Args")]
    return list(commands_in(command))


def _launch(inspect: Mapping[str, Any], reference: str, top: Mapping[str, Any] | None) -> _Launch | None:
    commands = _commands(inspect)
    environment = environment_of(inspect)
    environment |= assignments(commands, _ANY_NAME)
    configured = [started for command in commands if (started := started_by(command))]
    if server := next((started for started in configured if started.name), None):
        return _started(server, environment)
    if configured:
        return None
    processes = [row[-1].split() for row in items(top, "Processes") if row and isinstance(row[-1], str)]
    running = [started for process in processes if (started := started_by(process)) and started.name]
    if running:
        return _started(max(running, key=lambda each: len(each.arguments)), environment, by_hand=True)
    idle = all(is_idle(command) for command in commands)
    name = made_for(reference) or (None if idle else configured_for(environment, _ports(inspect)))
    if name is None:
        return None
    arguments = commands[-1][1:] if commands else ()
    options = parse_options(arguments, SERVERS[name].switches)
    return _Launch(None if idle or processes or _is_script(commands) else name, options, environment, seen=False)


def _started(started: Started, environment: Mapping[str, str], *, by_hand: bool = False) -> _Launch:
    switches = SERVERS[started.name].switches if started.name else ()
    return _Launch(started.name, parse_options(started.arguments, switches), environment, seen=True, by_hand=by_hand)


def _is_script(commands: Sequence[Sequence[str]]) -> bool:
    """Whether the command is a Python program of the user's own, which may be anything."""
    return any(re.fullmatch(r"(?:.*/)?python[\d.]*", command[0]) for command in commands if command)


def _model(launch: _Launch) -> str | None:
    if launch.server is None:
        return None
    value = launch.option(launch.server.model_options, launch.server.model_variables)
    if value is None and launch.server.model_is_positional and launch.seen and launch.options.positional:
        value = expand(launch.options.positional[0], launch.environment)
    return _name(value)


def _name(value: str | None) -> str | None:
    """A model's name that can be shown: no credentials of a URL, no folders of a cache or before a file."""
    if value is None or not _MODEL.fullmatch(value):
        return None
    if "://" in value:
        value = re.sub(r"^([^:]+://)[^/]*@", r"\1", value.partition("?")[0].partition("#")[0])
    if hub := _HUB_PATH.search(value):
        return f"{hub['owner']}/{hub['name']}"
    return value.rsplit("/", 1)[-1] if value.lower().endswith(".gguf") else value


def _weights_at(launch: _Launch) -> str | None:
    """The absolute path of the model inside the container, where it is configured by one."""
    if launch.server is None:
        return None
    value = launch.option(launch.server.model_options, launch.server.model_variables)
    if value is None and launch.server.model_is_positional and launch.options.positional:
        value = expand(launch.options.positional[0], launch.environment)
    return value if value is not None and value.startswith("/") and _MODEL.fullmatch(value) else None


def _quantization(launch: _Launch, model: str | None) -> str | None:
    if launch.server is None:
        return None
    asked = launch.option(launch.server.quantization_options)
    if asked and _TERM.fullmatch(asked):
        return asked.lower()
    file = expand(launch.options.value("hff", "hf-file"), launch.environment) or launch.environment.get(
        "LLAMA_ARG_HF_FILE"
    )
    by_name = gguf_type(file or model or "")
    if by_name or launch.server.backend in {"llama_cpp", "ollama"}:
        return by_name
    return (method_in(model) or ("none" if launch.server.quantization_options else None)) if model else None


def _kv_cache_dtype(launch: _Launch, model: str | None) -> str | None:
    if launch.server is None:
        return None
    asked = launch.option(launch.server.cache_type_options, launch.server.cache_type_variables)
    if asked and _TERM.fullmatch(asked):
        return asked.lower()
    return "auto" if launch.name == "vllm" and model else None


def _count(value: str | None) -> int | None:
    """A positive number as vLLM takes it: ``32768``, ``32k`` (thousands), ``32K`` (1024), ``1.5k``."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([kKmM]?)", value or "")
    count = int(float(found[1]) * _SCALE[found[2]]) if found else 0
    return count or None


def _aiter(launch: _Launch) -> bool | None:
    """Off by default in vLLM; of a server that was started by hand the environment is not known."""
    if launch.server is None or launch.server.backend != "vllm":
        return None
    value = launch.environment.get(AITER_SWITCH)
    if value is None:
        return None if launch.by_hand or not launch.seen else False
    return _is_true(value)


def _aiter_usable(environment: Mapping[str, str], host_gfx: Sequence[str]) -> bool | None:
    if not host_gfx:
        return None
    named = re.findall(r"gfx[0-9a-f]{3,4}", environment.get("AITER_ROCM_ARCH", ""))
    return not set(host_gfx).isdisjoint(named or AITER_BUILT_FOR)


def _switches(environment: Mapping[str, str]) -> tuple[tuple[str, bool], ...]:
    return tuple(sorted((name, _is_true(value)) for name, value in environment.items() if _SWITCHES.fullmatch(name)))


def _is_true(value: str) -> bool:
    return value.strip().lower() in {"1", "true"}


def _devices(inspect: Mapping[str, Any]) -> Devices:
    host = mapping(inspect, "HostConfig")
    paths = [text(device, "PathOnHost") for device in items(host, "Devices")]
    requested = [device for request in items(host, "DeviceRequests") for device in words(request, "DeviceIDs")]
    return Devices(
        kfd="/dev/kfd" in paths,
        dri=any(path == "/dev/dri" or path.startswith("/dev/dri/") for path in paths),
        privileged=host.get("Privileged") is True,
        cdi=text(host, "Runtime") == "amd" or any(name.startswith("amd.com/gpu") for name in [*requested, *paths]),
    )


def _is_running(inspect: Mapping[str, Any]) -> bool:
    state = mapping(inspect, "State")
    return state.get("Running") is True and not (state.get("Paused") is True or state.get("Restarting") is True)


def _ports(inspect: Mapping[str, Any]) -> list[int]:
    """The TCP ports that the image exposes and the container publishes."""
    exposed = mapping(inspect, "Config", "ExposedPorts")
    published = mapping(inspect, "HostConfig", "PortBindings")
    names = dict.fromkeys([*published, *exposed, *mapping(inspect, "NetworkSettings", "Ports")])
    return [int(found[1]) for name in names if (found := re.fullmatch(r"(\d{1,5})/tcp", str(name)))]


def _urls(
    launch: _Launch, inspect: Mapping[str, Any], network: Mapping[str, Any], own_network: OwnNetwork
) -> tuple[tuple[CandidateUrl, ...], str]:
    server = launch.server
    if server is None:
        return (), "no server was seen in it"
    listen, port = _listen(launch, server)
    if listen.startswith("/") or launch.options.has("uds"):
        return (), "it listens on a Unix socket"
    port = port or _likely_port(server, _ports(inspect) or _ports(network))
    if port is None:
        return (), "its port is not known"
    urls, unreachable = candidate_urls(network, port, listen, own_network)
    if launch.options.has("ssl-keyfile", "ssl-key-file", "ssl-certfile", "ssl-cert-file"):
        urls = tuple(CandidateUrl(each.url.replace("http:", "https:", 1), each.found_by) for each in urls)
    return urls, unreachable


def _listen(launch: _Launch, server: Server) -> tuple[str, int | None]:
    """The host that the server was told to bind, or binds by itself, and the port where it was told one."""
    port = launch.option(server.port_options, [server.port_variable])
    listen = launch.option(server.listen_options, [server.listen_variable])
    if launch.name == "ollama" and listen:
        return _ollama_host(listen)
    if listen is None:
        listen = "" if launch.options.has("listen") or not launch.seen else server.listen
    return listen, _port(port)


def _ollama_host(value: str) -> tuple[str, int | None]:
    """``OLLAMA_HOST`` is ``[scheme://]host[:port]``, and a scheme brings its own default port."""
    try:
        parts = urlsplit(value if "://" in value else f"//{value}")
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None
    return parts.hostname or "", port


def _port(value: str | None) -> int | None:
    return int(value) if value and re.fullmatch(r"\d{1,5}", value) and 0 < int(value) < 65536 else None


def _likely_port(server: Server, ports: Sequence[int]) -> int | None:
    if server.port is None or (ports and server.port not in ports and len(ports) == 1):
        return ports[0] if ports else None
    return server.port
