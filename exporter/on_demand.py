"""Probes that ``/probe`` asks for: which addresses it may reach, and one probe for all who ask within an interval.

Nothing but the configured targets and what the user allowed by pattern can be reached, so that an open port of the exporter
is no way into a network. Addresses of a cloud's metadata service and other link-local ones need to be named literally.
"""

import ipaddress
import re
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from exporter.probe.result import ProbeResult
from exporter.settings import Module, Target, check_url

# Addresses that were asked for are remembered, so that their probes keep their pace; so many, the oldest leaves first.
MOST_ADDRESSES: Final = 256
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
METADATA_HOSTS: Final = frozenset({"metadata", "metadata.google.internal", "instance-data"})
# Where clouds answer with credentials besides 169.254.169.254: AWS and Google over IPv6, Alibaba, Azure, Oracle.
METADATA_ADDRESSES: Final = frozenset(
    {"fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"}
)


def refusal_of(address: str, allow: Sequence[str]) -> str | None:
    """Why an address may not be probed on demand; None where a pattern of ``probe_endpoint.allow`` allows it.

    A pattern is compared with the whole URL (``http://10.0.0.*:8000``) or, where it has no scheme, with ``host:port``. ``*``
    stands for any text and ``?`` for any character but ``/``.
    """
    try:
        url = check_url(address if "://" in address else f"http://{address}")
    except ValueError as exc:
        return f"the address {exc}"
    matching = [pattern for pattern in allow if _matches(url, pattern)]
    if not matching:
        return (
            "this address is neither a configured target nor allowed by probe_endpoint.allow; "
            "/api/v1/targets lists the targets"
        )
    host = urlsplit(url).hostname or ""
    return None if _is_named(host, matching) else _danger_of(host)


def permit_of(url: str, allow: Sequence[str]) -> Callable[[str], bool] | None:
    """Which addresses a name may turn out to be when it is connected to: it may mean another one than when it was checked.

    None permits all: the host is named literally.
    """
    host = urlsplit(url).hostname or ""
    if _is_named(host, [pattern for pattern in allow if _matches(url, pattern)]):
        return None
    return lambda address: not _is_dangerous(address)


def _is_named(host: str, patterns: Sequence[str]) -> bool:
    """Whether a host stands in one of these patterns without any wildcard."""
    netlocs = (pattern if "://" in pattern else f"//{pattern}" for pattern in patterns)
    return host.lower() in {re.sub(r"^[^/]*//|:[^:\]]*$|/.*$|[\[\]]", "", netloc).lower() for netloc in netlocs}


def _matches(url: str, pattern: str) -> bool:
    parts = urlsplit(url)
    netloc = parts.netloc if parts.port else f"{parts.netloc}:{443 if parts.scheme == 'https' else 80}"
    wanted = re.escape(pattern.rstrip("/")).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    return re.fullmatch(wanted, url if "://" in pattern else netloc, re.IGNORECASE) is not None


def _danger_of(host: str) -> str | None:
    """Why a host that only a wildcard allows is refused all the same: it is, or resolves to, a link-local address."""
    if host.lower().rstrip(".") in METADATA_HOSTS:
        return f"{host} is a metadata service; to probe it all the same, name it literally in probe_endpoint.allow"
    for address in _addresses_of(host):
        if _is_dangerous(address):
            return (
                f"{host} is {address}, which is link-local, a metadata service or no single host; "
                "to probe it all the same, name it literally in probe_endpoint.allow"
            )
    return None


def _addresses_of(host: str) -> list[str]:
    """What a host means now; nothing where it can't be resolved: then the probe will say so."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        return [str(sockaddr[0]) for *_, sockaddr in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []


def _is_dangerous(address: str) -> bool:
    """Whether an IP address is link-local, a metadata service, or no single host; also inside of an IPv6 address."""
    found = ipaddress.ip_address(address.partition("%")[0])
    inner: list[ipaddress.IPv4Address | ipaddress.IPv6Address | None] = [found]
    if isinstance(found, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if found in _TRANSLATED else None
        inner += [found.ipv4_mapped, found.sixtofour, translated]
    return any(
        each.is_link_local or each.is_multicast or each.is_unspecified or str(each) in METADATA_ADDRESSES
        for each in inner
        if each is not None
    )


@dataclass(slots=True)
class _SharedProbe:
    """The newest probe of one address by one module, and the lock that makes all who ask at once wait for one."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    at: float = float("-inf")
    result: ProbeResult | None = None


class OnDemand:
    """Runs and shares probes of allowed addresses. Thread-safe."""

    def __init__(self, run: Callable[[Target, str, Module], ProbeResult | None]) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._shared: OrderedDict[tuple[str, str], _SharedProbe] = OrderedDict()

    def probe(self, address: str, name: str, module: Module) -> ProbeResult | None:
        """The probe of an address, at most one within the module's interval; None where the exporter stops."""
        url = check_url(address if "://" in address else f"http://{address}")
        target = Target(url=url, name=address, modules=(name,))
        with self._lock:
            shared = self._shared.setdefault((url, name), _SharedProbe())
            self._shared.move_to_end((url, name))
            while len(self._shared) > MOST_ADDRESSES:
                self._shared.popitem(last=False)
        with shared.lock:
            if shared.result is None or time.monotonic() - shared.at >= module.interval:
                shared.result = self._run(target, name, module)
                shared.at = time.monotonic()
            return shared.result
