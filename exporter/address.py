"""Addresses: a server's, which is the host and port of its URL with one name for all names of this machine, and the daemon's own."""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

LOOPBACK: Final = "127.0.0.1"
DEFAULT_LISTEN: Final = f"{LOOPBACK}:9937"
"""Where the daemon answers scrapes, unless another address is set."""
_OWN_NAMES: Final = frozenset({"localhost", "::1", "0.0.0.0"})  # noqa: S104 - compared, not bound

Address = tuple[str, int]


def address_of(url: str) -> Address:
    """Two URLs of one server have the same address, whatever their paths and whichever name of this machine they use."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return LOOPBACK if host in _OWN_NAMES else host, port


def is_loopback(host: str) -> bool:
    """Whether an address, or a name, certainly means this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
