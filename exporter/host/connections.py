"""Who is connected to a server of this machine, by the kernel's table of TCP sockets: a read that costs the server nothing.

``/proc/<pid>/net/tcp`` and ``tcp6`` list the sockets of the network namespace of a process, one a line
(Documentation/networking/proc_net_tcp.rst, net/ipv4/tcp_ipv4.c)::

    sl: local_address:port remote_address:port state queues timer retransmits user timeout inode …

All of it is in hex but for user, timeout and inode; state 01 is ESTABLISHED, 0A is LISTEN. A connection within one namespace has
two lines, one for each end. An IPv4 client of an IPv6 socket stands in ``tcp6``, its address after ``FFFF``. Anyone who sees a
process may read its table: the kernel asks for no right (fs/proc/proc_net.c, get_proc_task_net).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from exporter.host.proc import read_sockets
from exporter.regular_file import read_start

TABLE_BYTES: Final = 1 << 20
"""Of one table, some 7,000 sockets, which the kernel takes 10 ms to write: a longer one is not read whole, so it tells nothing."""
_ESTABLISHED: Final = b"01"
_LISTEN: Final = b"0A"
_MAPPED: Final = b"0000000000000000FFFF0000"


@dataclass(frozen=True, slots=True)
class Connections:
    """Who is connected to a server: the far ends of the connections that this process did not make, as text that tells them
    apart, and how many it made, as far as its own sockets are in the same table.
    """

    others: frozenset[bytes] = field(default_factory=frozenset)
    ours: int = 0


@dataclass(frozen=True, slots=True)
class _Row:
    local: bytes
    remote: bytes
    state: bytes
    user_id: int
    inode: int


def read_connections(folder: Path, port: int, own: Path, *, doubts_root: bool = False) -> Connections | None:
    """Who is connected to a port of the network namespace of a process; ``folder`` is the process's, ``own`` that of this one.

    None where nothing listens at that port, or no table can be read whole. With ``doubts_root`` a listener of root's counts as none: it
    may be Docker's proxy, past which other machines reach the container.
    """
    tables = [_read(folder / "net" / name) for name in ("tcp", "tcp6")]
    read = [table for table in tables if table is not None]
    if not read or any(len(table) >= TABLE_BYTES for table in read):
        return None
    at = b":%04X" % port
    rows = [row for table in read for row in _rows(table, at)]
    listeners = [row for row in rows if row.state == _LISTEN and row.local.endswith(at)]
    if all(doubts_root and row.user_id == 0 for row in listeners):
        return None
    sockets = read_sockets(own) or frozenset()
    mine = {row.local for row in rows if row.inode in sockets}
    ends = {row.remote for row in rows if row.state == _ESTABLISHED and row.local.endswith(at)}
    return Connections(frozenset(ends - mine), len(ends & mine))


def _read(path: Path) -> bytes | None:
    try:
        return read_start(path, TABLE_BYTES)
    except OSError:
        return None


def _rows(table: bytes, at: bytes) -> Iterator[_Row]:
    """The lines in which a port stands; the others are not taken apart, since there may be many."""
    end = 0
    while (found := table.find(at + b" ", end)) >= 0:
        start = table.rfind(b"\n", 0, found) + 1
        end = table.find(b"\n", found)
        end = len(table) if end < 0 else end
        fields = table[start:end].split()
        try:
            yield _Row(_plain(fields[1]), _plain(fields[2]), fields[3], int(fields[7]), int(fields[9]))
        except (IndexError, ValueError):
            continue


def _plain(address: bytes) -> bytes:
    """An IPv4 address as such where it is written as an IPv6 one."""
    return address.removeprefix(_MAPPED)
