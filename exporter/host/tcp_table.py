"""The kernel's table of TCP sockets as text, for the network namespace of any process.

``/proc/<pid>/net/tcp`` and ``tcp6`` list the sockets of the namespace, one a line (Documentation/networking/proc_net_tcp.rst,
net/ipv4/tcp_ipv4.c)::

    sl: local_address:port remote_address:port state queues timer retransmits user timeout inode …

All of it is in hex but for user, timeout and inode; state 01 is ESTABLISHED, 0A is LISTEN. Closed connections stand in it for a
minute (TIME_WAIT). Anyone who sees a process may read its table: the kernel asks for no right (fs/proc/proc_net.c,
get_proc_task_net).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from exporter.host.tcp_socket import TABLE_BYTES, TcpSocket
from exporter.regular_file import read_start

_STATES: Final = {b"01": False, b"0A": True}
_MAPPED: Final = b"0000000000000000FFFF0000"


def read_table(folder: Path, port: int) -> list[TcpSocket] | None:
    """The sockets with a port at one of their ends in the namespace of the process whose folder it is.

    None if there is no table, or if one is too long to be read whole: some 7,000 sockets, which the kernel takes 10 ms to write.
    """
    tables = [_read(folder / "net" / name) for name in ("tcp", "tcp6")]
    read = [table for table in tables if table is not None]
    if not read or any(len(table) >= TABLE_BYTES for table in read):
        return None
    return [socket for table in read for socket in _sockets(table, b":%04X" % port)]


def _read(path: Path) -> bytes | None:
    try:
        return read_start(path, TABLE_BYTES)
    except OSError:
        return None


def _sockets(table: bytes, at: bytes) -> Iterator[TcpSocket]:
    """Those in whose line a port stands; the other lines are not taken apart, since there may be many."""
    end = 0
    while (found := table.find(at + b" ", end)) >= 0:
        start = table.rfind(b"\n", 0, found) + 1
        end = table.find(b"\n", found)
        end = len(table) if end < 0 else end
        fields = table[start:end].split()
        try:
            local, remote = (each.removeprefix(_MAPPED) for each in fields[1:3])
            listens = _STATES[fields[3]]
            yield TcpSocket(local, remote, int(local.rpartition(b":")[2], 16), listens, int(fields[7]), int(fields[9]))
        except (IndexError, KeyError, ValueError):
            continue
