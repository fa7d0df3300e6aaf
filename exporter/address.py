"""The address of a server: host and port of its URL, with all names of this machine made one."""

from typing import Final
from urllib.parse import urlsplit

LOOPBACK: Final = "127.0.0.1"
_OWN_NAMES: Final = frozenset({"localhost", "::1", "0.0.0.0"})  # noqa: S104 - compared, not bound

Address = tuple[str, int]


def address_of(url: str) -> Address:
    """Two URLs of one server have the same address, whatever their paths and whichever name of this machine they use."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return LOOPBACK if host in _OWN_NAMES else host, port
