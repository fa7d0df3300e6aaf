"""At which addresses the exporter can reach a container's server. Pure; nothing is tried here."""

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any, Final

from exporter.containers.facts import CandidateUrl, FoundBy, OwnNetwork
from exporter.containers.json_access import items, mapping, text

# On an engine's default network names are not resolved.
_NETWORKS_WITHOUT_NAMES: Final = frozenset({"bridge", "podman"})
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::", "*"})  # noqa: S104 - compared, not bound


def candidate_urls(
    inspect: Mapping[str, Any], port: int, listen: str, own_network: OwnNetwork
) -> tuple[tuple[CandidateUrl, ...], str]:
    """The addresses under which ``port`` of the container may answer, best first; without one, why there is none.

    ``inspect`` is the document of the container whose network it is: for ``network_mode: container:X`` that of X.
    ``listen`` is the host that the server was told to bind.
    """
    mode = text(inspect, "HostConfig", "NetworkMode")
    if mode == "none":
        return (), "it has no network"
    if mode == "host":
        urls = tuple(_on_host_network(port, listen, own_network))
        return urls, "" if urls else "it listens on the host's 127.0.0.1, and the exporter is not on the host's network"
    if _is_loopback(listen):
        return (), f"it listens on {listen} inside its own network: start it with --host 0.0.0.0"
    found = [*_published(inspect, port, own_network), *_by_address(inspect, port, own_network)]
    if not own_network.on_host_network:
        found.sort(key=lambda each: each.found_by != "shared_network")
    urls = tuple(dict.fromkeys(found))
    where = "the exporter" if own_network.on_host_network else "the exporter's container"
    return (
        urls,
        "" if urls else f"port {port} is not published at an address that {where} can reach, and they share no network",
    )


def _on_host_network(port: int, listen: str, own_network: OwnNetwork) -> Iterator[CandidateUrl]:
    if own_network.on_host_network:
        local = listen in _EVERYWHERE or _is_loopback(listen) or not _is_address(listen)
        yield _url("127.0.0.1" if local else listen, port, "host_network")
    elif not _is_loopback(listen) and own_network.gateway:
        yield _url(own_network.gateway, port, "host_network")


def _published(inspect: Mapping[str, Any], port: int, own_network: OwnNetwork) -> Iterator[CandidateUrl]:
    for binding in items(inspect, "NetworkSettings", "Ports", f"{port}/tcp"):
        host, published = text(binding, "HostIp"), text(binding, "HostPort")
        if not published.isdecimal() or not 0 < int(published) < 65536:
            continue
        if own_network.on_host_network:
            yield _url(
                "127.0.0.1" if host in _EVERYWHERE or not _is_address(host) else host, published, "published_port"
            )
        elif host in _EVERYWHERE and own_network.gateway:
            # What is published on the host's 127.0.0.1 can't be reached from another container.
            yield _url(own_network.gateway, published, "published_port")
        elif _is_address(host) and not _is_loopback(host):
            yield _url(host, published, "published_port")


def _by_address(inspect: Mapping[str, Any], port: int, own_network: OwnNetwork) -> Iterator[CandidateUrl]:
    name = text(inspect, "Name").lstrip("/")
    for network, settings in mapping(inspect, "NetworkSettings", "Networks").items():
        address = text(settings, "IPAddress")
        if own_network.on_host_network:
            if _is_address(address):
                yield _url(address, port, "container_address")
        elif network in own_network.networks:
            if name and network not in _NETWORKS_WITHOUT_NAMES:
                yield _url(name, port, "shared_network")
            elif _is_address(address):
                yield _url(address, port, "shared_network")


def _url(host: str, port: int | str, found_by: FoundBy) -> CandidateUrl:
    return CandidateUrl(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", found_by)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)
