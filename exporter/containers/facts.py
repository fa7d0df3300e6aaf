"""The facts about containers: frozen records of one inference container, no behaviour.

Of the container's environment they hold only the switches, paths and types named here. They hold no key and no command line:
what a field can hold is checked by its shape before it gets here.
"""

from dataclasses import dataclass
from typing import Final, Literal

from exporter.launch.settings import LaunchSettings
from exporter.settings import CacheKind

FoundBy = Literal["host_network", "published_port", "shared_network", "container_address"]
RocmSource = Literal["file", "env", "label", "tag"]


@dataclass(frozen=True, slots=True)
class CandidateUrl:
    """One address under which the server may answer, and how it was found; not yet tried."""

    url: str
    found_by: FoundBy


@dataclass(frozen=True, slots=True)
class Devices:
    """Which GPU devices the container was given. ``privileged`` implies all of them, with no device listed.

    ``render_nodes`` are names in ``/dev/dri`` if it was given these and not the whole folder; ``nvidia`` that it was given
    NVIDIA's devices.
    """

    kfd: bool = False
    dri: bool = False
    privileged: bool = False
    cdi: bool = False
    nvidia: bool = False
    render_nodes: tuple[str, ...] = ()

    @property
    def gives_gpu(self) -> bool:
        """Whether the container can use a GPU at all."""
        return self.kfd or self.dri or self.privileged or self.cdi or self.nvidia


@dataclass(frozen=True, slots=True)
class CacheMount:
    """A part of the host (a path, as the engine sees it) that holds models inside the container."""

    source: str
    destination: str
    kind: CacheKind


@dataclass(frozen=True, slots=True)
class ImageRocm:
    """ROCm's user space in the image: as written there, its ``major.minor``, and where it was read."""

    raw: str
    release: str
    source: RocmSource


@dataclass(frozen=True, slots=True)
class OwnNetwork:
    """How the exporter itself is connected: on the host's network, or in a container with networks of its own.

    ``gateway`` is the host's address as seen from that container. The default is a process on the host.
    """

    on_host_network: bool = True
    networks: frozenset[str] = frozenset()
    gateway: str | None = None


ON_HOST: Final = OwnNetwork()


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """One container that runs, or is made to run, an inference server; ``None`` if unknown.

    ``quantization`` is ``none`` and ``kv_cache_dtype`` ``auto`` if the command line and the model's name are known and ask for
    nothing else. ``cache_path`` is the folder inside the container from which the weights come (the hub folder of a Hugging
    Face cache). ``cache_source`` is the same on the host, None if no mount covers it: then the weights lie in the container's
    own layer.
    """

    id: str
    """The first 12 hex digits."""
    name: str
    image: str
    """As configured; if only an id is configured, a tag of that id."""
    image_id: str
    backend: str | None
    """None if the image or the devices are of an inference container, but no server was seen in it (a toolbox)."""
    running: bool
    """False also for a container that is paused or restarting."""
    started_at_seconds: float | None = None
    urls: tuple[CandidateUrl, ...] = ()
    """Best first."""
    unreachable: str = ""
    """Why there are no ``urls``, as a sentence for a person; empty if there are."""
    model: str | None = None
    """As configured: a repository, a path or a file's name, without credentials."""
    served_model_name: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    tensor_parallel: int | None = None
    aiter: bool | None = None
    aiter_usable: bool | None = None
    """Whether the image's AITER is built for the host's GPU; None if the GPU is not known or AITER not asked for."""
    devices: Devices = Devices()
    cache_path: str | None = None
    cache_source: str | None = None
    cache_mounts: tuple[CacheMount, ...] = ()
    rocm: ImageRocm | None = None
    launch: LaunchSettings | None = None
    """How its server was started, if one was seen or the image is made for one."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What an operator should know about the container, in sentences."""
        useless = "AITER is switched on, but the one in this image is not built for this GPU: it has no effect, or the engine ends with an error"
        unused = (useless,) if self.aiter and self.aiter_usable is False else ()
        return unused + ((self.unreachable,) if self.running and self.backend and self.unreachable else ())


@dataclass(frozen=True, slots=True)
class EngineReading:
    """One reading of the engine. Not ``available``: nothing could be read, and ``problem`` says why.

    ``problem`` may also name what is missing from an available reading (a proxy that refuses to give files).
    """

    available: bool
    containers: tuple[ContainerFacts, ...] = ()
    problem: str = ""
    last_known: tuple[ContainerFacts, ...] = ()
    """Those of the newest available reading, this one included: servers may continue to run while an engine restarts."""
