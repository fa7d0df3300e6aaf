"""Who is connected to a server of this machine, by the kernel's list of TCP sockets: a read that costs the server nothing.

A connection within one network namespace has two sockets, one for each end. The list of this process's own namespace is taken from
sock_diag, and that of another, or if sock_diag isn't allowed, from ``/proc/<pid>/net/tcp``.
"""

from dataclasses import dataclass, field
from pathlib import Path

from exporter.host.proc import read_sockets
from exporter.host.sock_diag import ask_kernel
from exporter.host.tcp_socket import TcpSocket
from exporter.host.tcp_table import read_table


@dataclass(frozen=True, slots=True)
class Connections:
    """Who is connected to a server.

    ``others`` are the far ends of the connections that this process did not make, as text that tells them apart. ``ours`` is
    how many it made, as far as its own sockets are in the same list.
    """

    others: frozenset[bytes] = field(default_factory=frozenset)
    ours: int = 0
    unanswered: frozenset[bytes] = field(default_factory=frozenset)
    """Those of others over which the last bytes came from the client. Empty if only the table shows who is connected."""


def read_connections(folder: Path, port: int, own: Path, *, doubts_root: bool = False) -> Connections | None:
    """Who is connected to a port of the network namespace of a process; ``folder`` is the process's, ``own`` that of this one.

    None if nothing listens at that port, or no list can be read whole. With ``doubts_root`` a listener of root's counts as none: it
    may be Docker's proxy, past which other machines reach the container.
    """
    found = _sockets(folder, port)
    if found is None or all(doubts_root and each.user_id == 0 for each in found if each.listens):
        return None
    inodes = read_sockets(own) or frozenset()
    mine = {each.local for each in found if each.inode in inodes}
    served = [each for each in found if each.local_port == port and not each.listens]
    ends = {each.remote for each in served}
    unanswered = {each.remote for each in served if each.unanswered}
    return Connections(frozenset(ends - mine), len(ends & mine), frozenset(unanswered - mine))


def _sockets(folder: Path, port: int) -> list[TcpSocket] | None:
    found = ask_kernel(port) if _is_own_network(folder) else None
    return read_table(folder, port) if found is None else found


def _is_own_network(folder: Path) -> bool:
    """Whether a process is in this one's network namespace; False if that can't be seen."""
    try:
        return (folder / "ns/net").samefile("/proc/self/ns/net")
    except OSError:
        return False
