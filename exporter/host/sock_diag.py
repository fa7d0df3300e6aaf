"""The TCP sockets of this process's own network namespace, from the kernel's sock_diag, which also says who spoke last.

A netlink socket is asked for the sockets with one port, in the states LISTEN and ESTABLISHED (man 7 sock_diag;
include/uapi/linux/inet_diag.h; ``struct tcp_info`` in include/uapi/linux/tcp.h). The kernel needs no right for it, and leaves out
other ports and closed connections itself: on a machine with thousands of these, it takes about a millisecond.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Final

from exporter.host.tcp_socket import MAPPED, TABLE_BYTES, TcpSocket

_SOCK_DIAG: Final = 4
"""NETLINK_SOCK_DIAG."""
_BY_FAMILY: Final = 20
"""SOCK_DIAG_BY_FAMILY."""
_DUMP: Final = 0x301
"""NLM_F_REQUEST with NLM_F_ROOT and NLM_F_MATCH: all that fit."""
_ERROR, _DONE = 2, 3
_INFO: Final = 2
"""INET_DIAG_INFO: the attribute that holds a ``struct tcp_info``."""
_ESTABLISHED, _LISTEN = 1, 10
_HEADER: Final = struct.Struct("=IHHII")
"""Length, type, flags, sequence, port of netlink."""
_REQUEST: Final = struct.Struct("=BBBBI")
"""Family, protocol, extensions, padding, states."""
_ENDS: Final = struct.Struct("!HH16s16s")
_ANY_ADDRESS: Final = b"\0" * 32
_REST: Final = struct.Struct("=III")
"""Interface and cookie of a socket; what any of them may be."""
_ANY: Final = (0, 0xFFFFFFFF, 0xFFFFFFFF)
_COUNTS: Final = struct.Struct("=IIIII")
"""When a timer expires, bytes that wait to be read and to be sent, user, inode."""
_ENDS_AT, _COUNTS_AT, _ATTRIBUTES_AT = 4, 52, 72
_SENT_AT, _RECEIVED_AT, _BYTES_AT = 44, 52, 120
"""In ``struct tcp_info``: milliseconds since the last data was sent, and since some was received; bytes that were acknowledged, and received."""
_BUFFER: Final = 1 << 16
_SECONDS: Final = 1.0


def ask_kernel(port: int) -> list[TcpSocket] | None:
    """The sockets with a port at one of their ends; None if the kernel doesn't answer, or lists more than are read."""
    if not hasattr(socket, "AF_NETLINK"):
        return None
    found: list[TcpSocket] = []
    try:
        with contextlib.closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG)) as netlink:
            netlink.settimeout(_SECONDS)
            for family in (socket.AF_INET, socket.AF_INET6):
                for source, target in ((port, 0), (0, port)):
                    request = _REQUEST.pack(
                        family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, 1 << _ESTABLISHED | 1 << _LISTEN
                    )
                    request += struct.pack("!HH", source, target) + _ANY_ADDRESS + _REST.pack(*_ANY)
                    netlink.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _DUMP, 0, 0) + request)
                    found += map(_socket, _answers(netlink))
    except (OSError, IndexError, struct.error, ValueError):
        return None
    return found


def _answers(netlink: socket.socket) -> Iterator[bytes]:
    """The bodies of one dump. Raises OSError if the kernel refuses, and ValueError if there are too many."""
    read = 0
    while True:
        data = netlink.recv(_BUFFER)
        read += len(data)
        if not data or read > TABLE_BYTES:
            raise ValueError("the kernel lists more sockets than are read")
        at = 0
        while at < len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            if kind == _DONE:
                return
            if kind == _ERROR or length < _HEADER.size:
                raise OSError(None, "the kernel refuses to list sockets")
            yield data[at + _HEADER.size : at + length]
            at += (length + 3) & ~3


def _socket(body: bytes) -> TcpSocket:
    """One socket from a ``struct inet_diag_msg`` and its attributes."""
    family, state = body[0], body[1]
    local_port, remote_port, local, remote = _ENDS.unpack_from(body, _ENDS_AT)
    _, unread, _, user_id, inode = _COUNTS.unpack_from(body, _COUNTS_AT)
    info = _attribute(body, _INFO)
    listens = state == _LISTEN
    return TcpSocket(
        _end(family, local, local_port),
        _end(family, remote, remote_port),
        local_port,
        listens,
        user_id,
        inode,
        unanswered=not listens and (unread > 0 or _waits(info)),
    )


def _end(family: int, address: bytes, port: int) -> bytes:
    plain = address[:4] if family == socket.AF_INET else address.removeprefix(MAPPED)
    return plain + port.to_bytes(2, "big")


def _attribute(body: bytes, wanted: int) -> bytes:
    at = _ATTRIBUTES_AT
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            break
        if kind == wanted:
            return body[at + 4 : at + length]
        at += (length + 3) & ~3
    return b""


def _waits(info: bytes) -> bool:
    """Whether data came after the last was sent; an old kernel's short answer tells nothing."""
    if len(info) < _BYTES_AT + 16:
        return False
    (sent,), (received,) = struct.unpack_from("=I", info, _SENT_AT), struct.unpack_from("=I", info, _RECEIVED_AT)
    bytes_sent, bytes_received = struct.unpack_from("=QQ", info, _BYTES_AT)
    # The clock of both ages has steps of 1 to 10 ms: a connection that has sent nothing yet may have both in one.
    return bool(bytes_received) and (received < sent or (received == sent and not bytes_sent))
