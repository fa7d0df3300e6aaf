"""Patterns of addresses: scheme, host, port and path, each matched by itself. Pure.

A text that is matched as a whole lets one part stand for another: ``http://10.0.0.*:8000`` would match the name
``10.0.0.evil.example``. Here a host is a name, an address or a network, and matches nothing of another kind.
"""

import ipaddress
import posixpath
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from exporter.settings.values import check_url

MAX_HOST: Final = 253
MAX_ADDRESS: Final = 300
"""Characters of a name in the DNS, and of an address that anyone may ask for."""

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_OWN_PORTS: Final = {"http": 80, "https": 443}
_PATTERN: Final = re.compile(
    r"(?:(?P<scheme>https?|\*)://)?"
    r"(?P<host>\[[0-9a-f:.*?/]+\](?:/\d{1,3})?|[0-9]+(?:\.[0-9]+){3}/\d{1,2}|[a-z0-9._*?-]+)"
    r"(?::(?P<port>[0-9]{1,5}|\*))?"
    r"(?P<path>/[^?#%\\\s]*)?",
    re.IGNORECASE,
)
_NAME: Final = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?")
_LIKE_IPV4: Final = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+))*")


@dataclass(frozen=True, slots=True)
class ProbeAddress:
    """One address, in the one form that all spellings of it have: ``host`` is lower case, an IP address in its usual form."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def ip(self) -> IpAddress | None:
        """The address, if the host is one and no name."""
        return _ip_of(self.host)

    @property
    def url(self) -> str:
        """The URL, without the port if it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _OWN_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


@dataclass(frozen=True, slots=True)
class AddressPattern:
    """What an entry of ``probe_endpoint.allow`` means. ``scheme`` and ``port`` None stand for any, ``ports_own`` for the scheme's."""

    scheme: str | None
    host: str
    port: int | None
    ports_own: bool
    path: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None

    @property
    def literal(self) -> bool:
        """Whether the host is one name or one address."""
        return self.network is None and not _has_wildcard(self.host)

    @property
    def of_addresses(self) -> bool:
        """Whether the host stands for IP addresses: ``*`` alone stands for addresses and names."""
        return self.network is not None or _ip_of(self.host) is not None or _is_address_with_wildcard(self.host)


def probe_address_of(address: str) -> ProbeAddress:
    """The address that the text of a person or a scraper names; ValueError with what is wrong, which does not repeat it."""
    wanted = _read_address(address)
    while (again := _read_address(wanted.url)) != wanted:  # /./v1, /v1/v1: what is taken off may leave more of it
        wanted = again
    return wanted


def _read_address(address: str) -> ProbeAddress:
    if len(address) > MAX_ADDRESS:
        raise ValueError(f"is longer than {MAX_ADDRESS} characters")
    parts = urlsplit(check_url(address if "://" in address else f"http://{address}"))
    if re.search(r"[%\\]", parts.path):
        raise ValueError("has an escaped character in its path")
    host = canonical_host(parts.hostname or "")
    path = posixpath.normpath(f"/{parts.path}").strip("/")
    return ProbeAddress(parts.scheme, host, parts.port or _OWN_PORTS[parts.scheme], f"/{path}" if path else "")


def canonical_host(host: str) -> str:
    """A host in its one form; ValueError for what is neither a name nor an address."""
    host = host.lower().rstrip(".")
    if len(host) > MAX_HOST:
        raise ValueError(f"has a host of more than {MAX_HOST} characters")
    if ":" in host:
        try:
            return str(ipaddress.IPv6Address(host.partition("%")[0]))
        except ValueError:
            raise ValueError("has a host that is not an IPv6 address") from None
    if _LIKE_IPV4.fullmatch(host):
        # 2130706433, 0x7f.1 and 127.1 are 127.0.0.1 to the system, which would connect there.
        try:
            return socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            raise ValueError("has a host that is not an IPv4 address") from None
    if not _NAME.fullmatch(host) or ".." in host:
        raise ValueError(
            "has a host that is not a valid name: letters, digits, dots and hyphens are allowed; write others as xn--…"
        )
    return host


@lru_cache(maxsize=1024)
def parse_allowed(text: str) -> AddressPattern:
    """A pattern such as ``http://10.0.0.*:8000``, ``10.0.0.0/24:8000``, ``*.lan:8000`` or ``[fd00::]/8:*``; else ValueError.

    Without a scheme it allows http and https, without a port the scheme's own, without a path none.
    """
    found = _PATTERN.fullmatch(text)
    if found is None:
        raise ValueError(
            "is not a pattern of addresses: write it like http://10.0.0.7:8000, 10.0.0.0/24:8000 or *.lan:8000"
        )
    scheme = (found["scheme"] or "*").lower()
    host, port = found["host"].lower(), found["port"]
    if port not in {None, "*"} and not 1 <= int(port) <= 65535:
        raise ValueError("has a port out of range: it must be a number from 1 to 65535, or *")
    network, host = _network_of(host)
    if network is None and not _has_wildcard(host):
        host = canonical_host(host)
    path = (found["path"] or "").rstrip("/").removesuffix("/v1").rstrip("/")
    return AddressPattern(
        None if scheme == "*" else scheme, host, None if port in {None, "*"} else int(port), port is None, path, network
    )


def _network_of(host: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network | None, str]:
    bare = host.replace("[", "").replace("]", "")
    if "/" not in bare:
        return None, bare.rstrip(".")
    try:
        return ipaddress.ip_network(bare, strict=False), bare
    except ValueError:
        raise ValueError("has an invalid network: write it like 10.0.0.0/24:8000 or [fd00::]/8:8000") from None


def matches(wanted: ProbeAddress, pattern: AddressPattern) -> bool:
    """Whether a pattern allows an address: by its scheme, its host, its port and its path."""
    return (
        pattern.scheme in {None, wanted.scheme}
        and (wanted.port == _OWN_PORTS[wanted.scheme] if pattern.ports_own else pattern.port in {None, wanted.port})
        and _matches_host(wanted, pattern)
        and glob_matches(wanted.path, pattern.path)
    )


def _matches_host(wanted: ProbeAddress, pattern: AddressPattern) -> bool:
    ip = wanted.ip
    if pattern.network is not None:
        return ip is not None and ip in pattern.network
    if pattern.host.strip("*") == "":
        return True
    return (ip is not None) == pattern.of_addresses and glob_matches(wanted.host, pattern.host)


def glob_matches(text: str, pattern: str) -> bool:
    """Whether a text is as a pattern says, in which ``*`` is any text and ``?`` any character; in time length times length."""
    at = star = mark = 0
    has_star, index = False, 0
    while at < len(text):
        if index < len(pattern) and pattern[index] == "*":
            has_star, star, mark = True, index, at
            index += 1
        elif index < len(pattern) and pattern[index] in {"?", text[at]}:
            at, index = at + 1, index + 1
        elif has_star:
            mark += 1
            at, index = mark, star + 1
        else:
            return False
    return not pattern[index:].strip("*")


def is_covered(wanted: ProbeAddress, address: str, patterns: Sequence[AddressPattern]) -> bool:
    """Whether the address that a name turned out to be is allowed as such: by a pattern of addresses, or by ``*``."""
    found = ProbeAddress(wanted.scheme, canonical_host(address), wanted.port, wanted.path)
    return any((each.of_addresses or not each.host.strip("*")) and matches(found, each) for each in patterns)


def _has_wildcard(host: str) -> bool:
    return "*" in host or "?" in host


def _is_address_with_wildcard(host: str) -> bool:
    return _has_wildcard(host) and (":" in host or re.fullmatch(r"[0-9.*?]*[0-9][0-9.*?]*", host) is not None)


def _ip_of(host: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
