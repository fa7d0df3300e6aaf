"""Documents of a container engine → facts about one inference server. Pure: no engine, no file, no clock.

Signals in order: the command, then what the container's processes are, the image's name, the environment. A document may
come from any engine and miss anything; what it does not say is None.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from posixpath import basename
from typing import Any, Final

from exporter.backends import BACKENDS
from exporter.containers.cache import cache_of
from exporter.containers.facts import ON_HOST, CandidateUrl, ContainerFacts, Devices, OwnNetwork
from exporter.containers.json_access import items, mapping, seconds, strings, text
from exporter.containers.quantization import gguf_type, method_in
from exporter.containers.rocm import stated_version
from exporter.containers.servers import configured_for, is_idle, made_for
from exporter.containers.urls import candidate_urls
from exporter.launch.command import assignments, commands_in
from exporter.launch.programs import SERVERS, ProgramName, Started, started_by
from exporter.launch.settings import LaunchSettings, aiter_usable, read_launch

_ANY_NAME = re.compile(r"\w+")
# These start servers of their own, which are to be seen beside them among the processes.
_PARENTS: Final[tuple[ProgramName, ...]] = (
    "ollama",
    "text-generation-webui",
    "koboldcpp",
    "lemonade",
    "llama-swap",
    "localai",
    "other",
)


@dataclass(frozen=True, slots=True)
class _Launch:
    """How the server in a container is started, with the container's whole environment; never keep or log it.

    ``settings`` are None if an inference image runs no server that was seen. ``seen`` if the arguments are the
    server's own and not a guess.
    """

    settings: LaunchSettings | None
    environment: Mapping[str, str]
    seen: bool


def environment_of(inspect: Mapping[str, Any]) -> dict[str, str]:
    """The container's variables, the image's included. Holds secrets: never keep or log it."""
    pairs = (entry.partition("=") for entry in strings(inspect, "Config", "Env"))
    return {name: value for name, equals, value in pairs if equals}


def needs_processes(inspect: Mapping[str, Any], image: Mapping[str, Any] | None = None) -> bool:
    """Whether only the container's processes show which server runs in it: a toolbox, or a start script."""
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
    started, environment = launch.settings, launch.environment
    urls, unreachable = _urls(launch, inspect, peer or inspect, own_network)
    weights_at = started.model_path if started else None
    cache = cache_of(
        started.backend if started else None,
        weights_at if weights_at and weights_at.startswith("/") else None,
        inspect,
        environment,
    )
    return ContainerFacts(
        id=identifier[:12],
        name=text(inspect, "Name").lstrip("/") or identifier[:12],
        image=reference,
        image_id=text(inspect, "Image"),
        backend=started.backend if started else None,
        running=_is_running(inspect),
        started_at_seconds=seconds(text(inspect, "State", "StartedAt")),
        urls=urls,
        unreachable=unreachable,
        model=started.model if started else None,
        served_model_name=started.served_name if started else None,
        quantization=_quantization(started) if started else None,
        kv_cache_dtype=started.cache_type_k if started else None,
        tensor_parallel=started.tensor_parallel if started else None,
        aiter=started.aiter if started else None,
        aiter_usable=aiter_usable(started.aiter_architectures, host_gfx) if started and started.aiter else None,
        devices=_devices(inspect),
        cache_path=cache.path,
        cache_source=cache.source,
        cache_mounts=cache.mounts,
        rocm=stated_version(environment, mapping(inspect, "Config", "Labels"), reference),
        launch=started,
    )


def image_reference(inspect: Mapping[str, Any], image: Mapping[str, Any] | None = None) -> str:
    """The image as configured, or a tag of it if only an id is configured."""
    configured = text(inspect, "Config", "Image") or text(inspect, "ImageName")
    if configured and not is_bare_id(configured):
        return configured
    tags = [*strings(image, "RepoTags"), *strings(image, "RepoDigests")]
    return tags[0] if tags else configured or text(inspect, "Image")


def is_bare_id(reference: str) -> bool:
    """Whether an image's reference is an id, as it is once its tag points to another image."""
    return re.fullmatch(r"(?:sha256:)?[0-9a-f]{12,64}", reference) is not None


def _commands(inspect: Mapping[str, Any]) -> list[tuple[str, ...]]:
    command = [*strings(inspect, "Config", "Entrypoint"), *strings(inspect, "Config", "Cmd")]
    if not command and text(inspect, "Path"):
        command = [text(inspect, "Path"), *strings(inspect, "Args")]
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
        return _started(max(running, key=_detail_of), environment, complete=False)
    idle = all(is_idle(command) for command in commands)
    name = made_for(reference) or (None if idle else configured_for(environment, _ports(inspect)))
    if name is None:
        return None
    if idle or processes or _is_script(commands):
        return _Launch(None, environment, seen=False)
    arguments = commands[-1][1:] if commands else ()
    settings = read_launch(name, arguments, environment, complete=False, positionals=False)
    return _Launch(settings, environment, seen=False)


def _started(started: Started, environment: Mapping[str, str], *, complete: bool = True) -> _Launch:
    """``complete`` is False for a server that was started by hand: its environment may be another one."""
    settings = read_launch(started.name or "other", started.arguments, environment, complete=complete)
    return _Launch(settings, environment, seen=True)


def _detail_of(started: Started) -> tuple[bool, int]:
    return started.name in _PARENTS, len(started.arguments)


def _is_script(commands: Sequence[Sequence[str]]) -> bool:
    """Whether the command is a Python program of the user's own, which may be anything."""
    return any(re.fullmatch(r"(?:.*/)?python[\d.]*", command[0]) for command in commands if command)


def _quantization(started: LaunchSettings) -> str | None:
    if started.quantization:
        return started.quantization
    by_name = gguf_type(started.hf_file or started.model or "")
    if by_name or BACKENDS[started.backend].gguf:
        return by_name
    unquantized = "none" if "quantization" in SERVERS[started.name].switches else None
    return method_in(started.model) or unquantized if started.model else None


def _devices(inspect: Mapping[str, Any]) -> Devices:
    host = mapping(inspect, "HostConfig")
    paths = [text(device, "PathOnHost") for device in items(host, "Devices")]
    requests = items(host, "DeviceRequests")
    requested = [device for request in requests for device in strings(request, "DeviceIDs")]
    whole = host.get("Privileged") is True or "/dev/dri" in paths
    named = sorted({basename(path) for path in paths if path.startswith("/dev/dri/renderD")})
    by_driver = any(
        text(request, "Driver") == "nvidia" or (not text(request, "Driver") and _asks_for_gpu(request))
        for request in requests
    )
    return Devices(
        kfd="/dev/kfd" in paths,
        dri=any(path == "/dev/dri" or path.startswith("/dev/dri/") for path in paths),
        privileged=host.get("Privileged") is True,
        cdi=text(host, "Runtime") == "amd" or any(name.startswith("amd.com/gpu") for name in [*requested, *paths]),
        nvidia=text(host, "Runtime") == "nvidia"
        or by_driver
        or any(name.startswith(("nvidia.com/gpu", "/dev/nvidia")) for name in [*requested, *paths]),
        render_nodes=() if whole else tuple(named),
    )


def _asks_for_gpu(request: object) -> bool:
    """Whether a device request is that of ``--gpus``: by capability, without a driver's name."""
    wanted = request.get("Capabilities") if isinstance(request, Mapping) else None
    return isinstance(wanted, list) and any(isinstance(each, list) and "gpu" in each for each in wanted)


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
    started = launch.settings
    if started is None:
        return (), "no server was seen in it"
    if started.unix_socket:
        return (), "it listens on a Unix socket"
    port = started.port or _likely_port(started.default_port, _ports(inspect) or _ports(network))
    if port is None:
        return (), "its port is not known"
    listen = started.listen
    if listen is None:
        listen = SERVERS[started.name].listen if launch.seen else ""
    urls, unreachable = candidate_urls(network, port, listen, own_network)
    if started.tls:
        urls = tuple(CandidateUrl(each.url.replace("http:", "https:", 1), each.found_by) for each in urls)
    return urls, unreachable


def _likely_port(default: int | None, ports: Sequence[int]) -> int | None:
    if default is None or (ports and default not in ports and len(ports) == 1):
        return ports[0] if ports else None
    return default
