"""One TCP socket of this machine, as the kernel lists it."""

from dataclasses import dataclass
from typing import Final

TABLE_BYTES: Final = 1 << 20
"""The most that is read of one list of sockets: a longer one is not read whole, so it tells nothing."""
MAPPED: Final = b"\0" * 8 + b"\0\0\xff\xff"
"""What stands before an IPv4 address that is written as an IPv6 one."""


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """A socket that listens or is connected. An end is an address and a port, as bytes that tell ends apart in one list."""

    local: bytes
    remote: bytes
    local_port: int
    listens: bool
    user_id: int
    inode: int
    unanswered: bool = False
    """Whether the last bytes came from the other side: a request that waits. False if the list doesn't say it."""
