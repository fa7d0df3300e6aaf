"""How the exporter itself is connected: on the host, or in a container with networks of its own."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.containers.facts import ON_HOST, OwnNetwork
from exporter.containers.json_access import mapping, text

# The engine mounts these three from a folder that bears the container's id.
_OWN_MOUNT = re.compile(
    r"^\S+ \S+ \S+ \S*/(?P<id>[0-9a-f]{64})/\S* /etc/(?:hostname|hosts|resolv\.conf) ", re.MULTILINE
)


def own_container(proc: Path) -> str | None:
    """The id of the container that this process runs in; None on a host, or if the engine hides it."""
    try:
        found = _OWN_MOUNT.search((proc / "self" / "mountinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found["id"] if found else None


def own_network_in(inspect: Mapping[str, Any] | None, proc: Path) -> OwnNetwork:
    """How the exporter's own container is connected; ``inspect`` is None if the engine does not list one.

    A container that the engine does not know may be any: only its default gateway is taken for the host.
    """
    if inspect is None:
        return (
            ON_HOST
            if own_container(proc) is None
            else OwnNetwork(on_host_network=False, gateway=_default_gateway(proc))
        )
    if text(inspect, "HostConfig", "NetworkMode") == "host":
        return ON_HOST
    networks = mapping(inspect, "NetworkSettings", "Networks")
    gateways = (text(settings, "Gateway") for settings in networks.values())
    gateway = next((gateway for gateway in gateways if gateway), None)
    return OwnNetwork(on_host_network=False, networks=frozenset(networks), gateway=gateway or _default_gateway(proc))


def _default_gateway(proc: Path) -> str | None:
    """From ``/proc/net/route``: the line with destination 0, its gateway in little-endian hex."""
    try:
        lines = (proc / "net" / "route").read_text(encoding="ascii", errors="replace").splitlines()[1:]
    except OSError:
        return None
    for fields in (line.split() for line in lines):
        if len(fields) > 2 and fields[1] == "00000000" and re.fullmatch(r"[0-9A-F]{8}", fields[2]):
            return ".".join(str(byte) for byte in reversed(bytes.fromhex(fields[2])))
    return None
