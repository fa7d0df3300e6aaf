"""Probes that ``/probe`` asks for: which addresses it may reach, and one probe for all who ask within an interval.

Nothing but the configured targets and what the user allowed by pattern can be reached, so that an open port of the exporter
gives no access to a network. Addresses of a cloud's metadata service and other link-local ones need to be named literally,
and a name that a wildcard allows does not reach what is not public.
"""

import ipaddress
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from exporter.address import address_of
from exporter.probe.result import ProbeResult
from exporter.settings import (
    AddressPattern,
    Module,
    ProbeAddress,
    Target,
    is_covered,
    matches,
    parse_allowed,
    probe_address_of,
)
from exporter.text import label

# Addresses that were asked for are remembered, so that their probes keep their pace.
MOST_ADDRESSES: Final = 256
METADATA_HOSTS: Final = frozenset({"metadata", "metadata.google.internal", "instance-data"})
# Where clouds answer with credentials besides 169.254.169.254: AWS (metadata, DNS and time), Google, Oracle and Scaleway over
# IPv6, Alibaba, Azure, Oracle.
METADATA_ADDRESSES: Final = frozenset(
    {
        "fd00:ec2::254",
        "fd00:ec2::253",
        "fd00:ec2::123",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
    }
)
# IPv6 addresses in which an IPv4 address stands: NAT64, local NAT64, 6to4, Teredo, mapped, compatible, SIIT.
_TRANSLATED: Final = tuple(
    map(
        ipaddress.IPv6Network,
        ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::ffff:0:0/96", "::/96", "::ffff:0:0:0/96"),
    )
)


_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""All that is public of IPv6; Python takes more for it, such as the site-local fec0::/10."""
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})
"""Before an IPv4 address in the second half of one of IPv6, where a tunnel leads to it."""
_LOOPBACK: Final = ipaddress.IPv6Address("::1")
_BROADCAST: Final = ipaddress.IPv4Network("255.255.255.255/32")


class CrowdedError(Exception):
    """So many addresses were probed within their intervals that another one can't be remembered."""


def refusal_of(address: str, allow: Sequence[str]) -> str | None:
    """Why an address may not be probed on demand; None if a pattern of ``probe_endpoint.allow`` allows it.

    A pattern is compared part by part (``exporter.settings.pattern``). A host that is named without a wildcard may mean any
    address. A name that only a wildcard allows must mean a public address, or one that a pattern of addresses allows as such.
    """
    try:
        wanted = probe_address_of(address)
    except ValueError as exc:
        return f"the address {exc}"
    patterns = [parse_allowed(each) for each in allow]
    matching = [each for each in patterns if matches(wanted, each)]
    if not matching:
        return (
            "this address is neither a configured target nor allowed by probe_endpoint.allow; "
            "/api/v1/targets lists the targets"
        )
    return None if any(each.literal for each in matching) else _danger_of(wanted, patterns)


def permit_of(url: str, allow: Sequence[str]) -> Callable[[str], bool] | None:
    """Which addresses a name may turn out to be when it is connected to: it may mean another one than when it was checked.

    None permits all: the host is named literally.
    """
    wanted, patterns = probe_address_of(url), [parse_allowed(each) for each in allow]
    if any(each.literal and matches(wanted, each) for each in patterns):
        return None
    return lambda address: _wrong_with(wanted, address, patterns) is None


def _danger_of(wanted: ProbeAddress, patterns: Sequence[AddressPattern]) -> str | None:
    """Why a host that a wildcard allows is refused nevertheless."""
    if wanted.host in METADATA_HOSTS:
        return f"{wanted.host} is a metadata service; to probe it anyway, name it literally in probe_endpoint.allow"
    for address in _addresses_of(wanted):
        if (wrong := _wrong_with(wanted, address, patterns)) is not None:
            return f"{wanted.host} is {address}, {wrong}"
    return None


def _wrong_with(wanted: ProbeAddress, address: str, patterns: Sequence[AddressPattern]) -> str | None:
    """Why an IP address may not be connected to for an address that only wildcards allow."""
    if _is_dangerous(address):
        return (
            "which is link-local, a metadata service, a translated address or no single host; "
            "to probe it anyway, name it literally in probe_endpoint.allow"
        )
    found: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    public = found.is_global and (found.version == 4 or found in _UNICAST)
    if not public and not is_covered(wanted, address, patterns):
        return (
            "which is not public; to probe it anyway, name the host without a wildcard in probe_endpoint.allow, "
            "or allow the address itself there"
        )
    return None


def _addresses_of(wanted: ProbeAddress) -> list[str]:
    """What a host means now; nothing if it can't be resolved: then the probe will say so."""
    if wanted.ip is not None:
        return [str(wanted.ip)]
    try:
        return [str(sockaddr[0]) for *_, sockaddr in socket.getaddrinfo(wanted.host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []


def _is_dangerous(address: str) -> bool:
    """Whether an IP address is link-local, a metadata service, no single host, or one of IPv6 in which one of IPv4 stands."""
    found = ipaddress.ip_address(address.partition("%")[0])
    special = found.is_link_local or found.is_multicast or found.is_unspecified or str(found) in METADATA_ADDRESSES
    if isinstance(found, ipaddress.IPv4Address):
        return special or found in _BROADCAST
    tunnelled = int(found) >> 32 & 0xFFFFFFFF in _ISATAP
    return special or tunnelled or (found != _LOOPBACK and any(found in each for each in _TRANSLATED))


@dataclass(slots=True)
class _SharedProbe:
    """The newest probe of one address by one module, and the lock that makes all who ask at once wait for one."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    until: float = float("inf")
    """Until when all requests get this probe: an interval of its module after its end; without limit while it runs."""
    result: ProbeResult | None = None
    measured: ProbeResult | None = None
    """The newest one with a speed."""


class OnDemand:
    """Runs and shares probes of allowed addresses. Thread-safe. ``run`` gets the last one that measured a speed, too."""

    def __init__(self, run: Callable[[Target, str, Module, ProbeResult | None], ProbeResult | None]) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._shared: OrderedDict[tuple[str, int, str, str, str], _SharedProbe] = OrderedDict()

    def probe(self, address: str, name: str, module: Module) -> ProbeResult | None:
        """The probe of an address, at most one within the module's interval; None if the exporter stops.

        All spellings of an address share it. Raises CrowdedError if too many others were probed within their intervals.
        """
        wanted = probe_address_of(address)
        shown = label(wanted.url if "://" in address else wanted.url.partition("://")[2])
        shared = self._of((*address_of(wanted.url), wanted.scheme, wanted.path, name))
        with shared.lock:
            if shared.result is None or time.monotonic() >= shared.until:
                shared.until = float("inf")
                try:
                    target = Target(url=wanted.url, name=shown, modules=(name,))
                    shared.result = self._run(target, name, module, shared.measured)
                finally:
                    shared.until = time.monotonic() + module.interval
            if shared.result and shared.result.measurements.tokens_per_second:
                shared.measured = shared.result
            return replace(shared.result, target=shown) if shared.result else None

    def _of(self, key: tuple[str, int, str, str, str]) -> _SharedProbe:
        with self._lock:
            if key not in self._shared and len(self._shared) >= MOST_ADDRESSES:
                now = time.monotonic()
                oldest = next((each for each, shared in self._shared.items() if shared.until <= now), None)
                if oldest is None:
                    raise CrowdedError
                del self._shared[oldest]
            shared = self._shared.setdefault(key, _SharedProbe())
            self._shared.move_to_end(key)
            return shared
