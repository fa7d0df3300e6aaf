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
METADATA_HOSTS: Final = frozenset({"metadata", "metadata.google.internal", "instance-data"})


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
    return None if any(host in pattern for pattern in matching) else _danger_of(host)


def _matches(url: str, pattern: str) -> bool:
    parts = urlsplit(url)
    place = parts.netloc if parts.port else f"{parts.netloc}:{443 if parts.scheme == 'https' else 80}"
    wanted = re.escape(pattern.rstrip("/")).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    return re.fullmatch(wanted, url if "://" in pattern else place, re.IGNORECASE) is not None


def _danger_of(host: str) -> str | None:
    """Why a host that only a wildcard allows is refused all the same: it is, or resolves to, a link-local address."""
    if host.lower().rstrip(".") in METADATA_HOSTS:
        return f"{host} is a metadata service: name it literally in probe_endpoint.allow if it is meant"
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None  # the probe will say that it can't be resolved
    for *_, place in found:
        address = ipaddress.ip_address(str(place[0]).partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        if mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified:
            return f"{host} is {mapped}, which is link-local or no host: name it literally in probe_endpoint.allow"
    return None


@dataclass(slots=True)
class _Shared:
    """The newest probe of one address by one module, and the lock that makes all who ask at once wait for one."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    at: float = float("-inf")
    result: ProbeResult | None = None


class OnDemand:
    """Runs and shares probes of allowed addresses. Thread-safe."""

    def __init__(self, run: Callable[[Target, str, Module], ProbeResult | None]) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._shared: OrderedDict[tuple[str, str], _Shared] = OrderedDict()

    def probe(self, address: str, name: str, module: Module) -> ProbeResult | None:
        """The probe of an address, at most one within the module's interval; None where the exporter stops."""
        url = check_url(address if "://" in address else f"http://{address}")
        target = Target(url=url, name=address, modules=(name,))
        with self._lock:
            shared = self._shared.setdefault((url, name), _Shared())
            self._shared.move_to_end((url, name))
            while len(self._shared) > MOST_ADDRESSES:
                self._shared.popitem(last=False)
        with shared.lock:
            if shared.result is None or time.monotonic() - shared.at >= module.interval:
                shared.result = self._run(target, name, module)
                shared.at = time.monotonic()
            return shared.result
