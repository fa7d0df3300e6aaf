"""The files of the model that a target serves: where they may be, and how much a token reads of them. Pure."""

from collections.abc import Iterator
from typing import Final

from exporter.cache.facts import WeightFacts
from exporter.cache.find import find_weights
from exporter.containers.facts import ContainerFacts
from exporter.host.process import working
from exporter.probe.result import Identity
from exporter.snapshot import TARGET, View
from exporter.target_facts.server import Machine, ServerSetup, machine_of, setup_of
from exporter.tiers import UNQUANTIZED, Weights


def paths_of(url: str, identity: Identity | None, machine: Machine) -> tuple[str, ...]:
    """Where on this machine the file or folder of a server's model may lie, the surest first."""
    return tuple(dict.fromkeys(_paths(setup_of(url, machine), identity)))


def model_paths(view: View) -> tuple[str, ...]:
    """Where on this machine the files of the targets' models lie, as far as that is known."""
    machine = machine_of(view)
    return tuple(
        dict.fromkeys(
            path for state in view.of(TARGET).values() for path in paths_of(state.url, state.identity, machine)
        )
    )


def _paths(setup: ServerSetup, identity: Identity | None) -> Iterator[str]:
    """Where the file or folder of its model may lie, as the exporter can open it; the surest first."""
    if not setup.local:
        return
    told = identity.model_root if identity and identity.model_root and identity.model_root.startswith("/") else None
    process, container = setup.process, setup.container
    if process is not None and (computing := working(process)) is not None and computing.model_file:
        yield computing.model_file
    if container is not None:
        stated = container.launch.model_path if container.launch else None
        for path in (told, stated):
            if path and path.startswith("/"):
                yield from _on_host(path, container)
    elif told is not None and (process is None or not process.container):
        yield told


def _on_host(path: str, container: ContainerFacts) -> Iterator[str]:
    """A path inside a container as the host has it, by the container's mounts."""
    for mount in container.cache_mounts:
        inside = mount.destination.rstrip("/")
        if path == inside or path.startswith(f"{inside}/"):
            yield mount.source.rstrip("/") + path.removeprefix(inside)


def files_of(
    setup: ServerSetup, identity: Identity, model: str | None, machine: Machine
) -> tuple[WeightFacts | None, str]:
    """The weights that a server runs, or why they aren't known.

    By the path of its file, else in any cache of this machine by its folder, its repository, or its name.
    """
    by_path, problem = dict(machine.models.by_path), ""
    for path in _paths(setup, identity):
        found = by_path.get(path)
        if isinstance(found, WeightFacts):
            return found, ""
        if found is not None:
            problem = problem or f"its file can't be read: {found.reason}"
    names = [
        identity.model_root,
        *(each.model_path for each in setup.launches),
        *(each.model for each in setup.launches),
    ]
    names += [setup.container.model if setup.container else None, model]
    for name in dict.fromkeys(name for name in names if name):
        if (weights := find_weights(machine.caches, name)) is not None:
            return weights, ""
    return None, problem


# Bytes of one number of the key-value cache, by how its type's name begins; a server's default is 16 bits.
_KV_BYTES: Final = (("fp8", 1.0), ("q8", 1.0625), ("q4", 0.5625), ("q5", 0.6875), ("f32", 4.0), ("fp32", 4.0))


def _kv_bytes(kv_cache: str | None) -> float:
    return next((size for start, size in _KV_BYTES if (kv_cache or "").lower().startswith(start)), 2.0)


def weights_of(
    identity: Identity, facts: WeightFacts | None, kv_cache: str | None, quantization: str | None
) -> Weights:
    """Sizes by what the server says of itself, the rest by the files."""
    if facts is None:
        return stated_weights(identity, kv_cache)
    if quantization is not None and facts.quantization is None and quantization.lower() not in UNQUANTIZED:
        # Quantized while loading: what is in memory isn't what is on disk.
        return Weights(bytes=identity.weight_bytes, parameters=identity.parameters, experts=facts.moe)
    per_token = facts.kv_elements_per_token
    return Weights(
        bytes=identity.weight_bytes or facts.weight_bytes,
        # For a mixture of experts the files say how much of it one token reads.
        streamed_bytes=facts.read_bytes_per_token,
        parameters=identity.parameters,
        kv_bytes_per_token=None if per_token is None else per_token * _kv_bytes(kv_cache),
        experts=facts.moe,
    )


def stated_weights(identity: Identity, kv_cache: str | None) -> Weights:
    """Sizes by what the server alone says."""
    size, active, parameters = identity.weight_bytes, identity.active_parameters, identity.parameters
    return Weights(
        bytes=size,
        streamed_bytes=size * active / parameters if size and active and parameters else None,
        parameters=parameters,
        kv_bytes_per_token=None if identity.kv_elements is None else identity.kv_elements * _kv_bytes(kv_cache),
        experts=identity.experts,
    )
