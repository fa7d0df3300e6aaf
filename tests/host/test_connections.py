"""Who is connected to a server, by tables that were captured and by the machine's own."""

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.host.connections import Connections, read_connections
from exporter.host.sock_diag import ask_kernel
from exporter.host.tcp_socket import TcpSocket
from tests.ports import free_port
from tests.processes import running_process
from tests.waiting import eventually

CAPTURED = Path(__file__).parent.parent / "fixtures" / "host" / "proc" / "connections"
LLAMA_PORT, PROBE_SOCKET = 18232, 5546948
SELF = Path("/proc/self")
NOBODY = Path("/proc/none")
"""A process whose sockets can't be read."""
LISTENS_ALSO = """
import socket, sys
server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
kept = []
while True:
    kept.append(server.accept()[0])
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="the table is Linux's")


def in_tables(folder: Path, port: int, own: tuple[int, ...] = ()) -> Connections | None:
    """Who is connected to a port by the tables of a folder, read by a process that has sockets with these inodes."""
    reader = folder / "reader"
    (reader / "fd").mkdir(parents=True, exist_ok=True)
    for number, inode in enumerate(own):
        (reader / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
    return read_connections(folder, port, reader)


def tables(folder: Path, *rows: str, name: str = "tcp") -> Path:
    """A folder with one table of these rows."""
    (folder / "net").mkdir(parents=True, exist_ok=True)
    header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
    (folder / "net" / name).write_text("\n".join([header, *rows, ""]))
    return folder


def row(local: str, remote: str, state: str, inode: int = 1) -> str:
    """One line of a table."""
    return f"   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0 20 4 30 10 -1"


LISTENS = row("00000000:1F90", "00000000:0000", "0A")


def test_only_established_connections_to_the_port_count(tmp_path: Path) -> None:
    """Not one that is closing, nor one to another port, nor the client's own end of it."""
    there = tables(
        tmp_path,
        LISTENS,
        row("0100007F:1F90", "0100007F:C001", "01"),
        row("0100007F:C001", "0100007F:1F90", "01"),
        row("0100007F:1F90", "0100007F:C002", "06"),
        row("0100007F:1F90", "0100007F:C003", "08"),
        row("0100007F:1F91", "0100007F:C004", "01"),
        row("0100007F:C005", "0100007F:01BB", "01"),
    )
    assert in_tables(there, 0x1F90) == Connections(frozenset({b"0100007F:C001"}))


def test_connections_of_our_own_are_told_apart(tmp_path: Path) -> None:
    """By the inode of our end, which is in the same table; an IPv4 client of an IPv6 socket stands in two tables."""
    mapped = "0000000000000000FFFF0000"
    there = tables(
        tmp_path,
        row("0100007F:C001", "0100007F:1F90", "01", 77),
        row("0100007F:C002", "0100007F:1F90", "01", 78),
    )
    tables(
        tmp_path,
        row(f"{'0' * 32}:1F90", f"{'0' * 32}:0000", "0A"),
        row(f"{mapped}0100007F:1F90", f"{mapped}0100007F:C001", "01"),
        row(f"{mapped}0100007F:1F90", f"{mapped}0100007F:C002", "01"),
        name="tcp6",
    )
    assert in_tables(there, 0x1F90, own=(77, 5)) == Connections(frozenset({b"0100007F:C002"}), ours=1)


def test_a_table_in_which_nothing_listens_tells_nothing(tmp_path: Path) -> None:
    """The server is in another network, or there is no table."""
    there = tables(tmp_path, row("0100007F:C001", "0100007F:1F90", "01"), row("0100007F:1F91", "00000000:0000", "0A"))
    assert in_tables(there, 0x1F90) is None
    assert in_tables(tmp_path / "nothing", 0x1F90) is None


@pytest.mark.parametrize(("user", "seen"), [(0, False), (1000, True)])
def test_a_listener_of_root_may_be_dockers_proxy(user: int, *, seen: bool, tmp_path: Path) -> None:
    """Where other users' processes are hidden nothing tells it from a server."""
    there = tables(tmp_path, LISTENS.replace("1000        0", f"{user}        0"))
    assert (read_connections(there, 0x1F90, NOBODY, doubts_root=True) is not None) == seen
    assert read_connections(there, 0x1F90, NOBODY) == Connections()


def test_a_table_that_is_not_read_whole_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of it could leave out the user."""
    there = tables(tmp_path, LISTENS, row("0100007F:1F90", "0100007F:C001", "01"))
    monkeypatch.setattr("exporter.host.tcp_table.TABLE_BYTES", 300)
    assert in_tables(there, 0x1F90) is None


@pytest.mark.parametrize(
    "line", ["   0: 0100007F:1F90 ", "x", "   0: 0100007F:1F90 0100007F:C009 01 a b c d e not", ":1F90 " * 9]
)
def test_lines_that_are_none_are_left_out(tmp_path: Path, line: str) -> None:
    """The others count."""
    there = tables(tmp_path, line, LISTENS, row("0100007F:1F90", "0100007F:C001", "01"))
    assert in_tables(there, 0x1F90) == Connections(frozenset({b"0100007F:C001"}))


@given(text=st.binary(max_size=300), port=st.integers(0, 65535))
def test_no_table_makes_it_raise(text: bytes, port: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever stands there."""
    there = tables(tmp_path_factory.mktemp("tables"))
    (there / "net" / "tcp6").write_bytes(text)
    read_connections(there, port, NOBODY)


@pytest.mark.parametrize(("own", "found"), [((), (2, 0)), ((PROBE_SOCKET,), (1, 1))])
def test_a_captured_llama_server(own: tuple[int, ...], found: tuple[int, int], tmp_path: Path) -> None:
    """A user and a probe at a real llama-server: two connections, one of them ours where our socket is known."""
    (tmp_path / "net").mkdir()
    for name in ("tcp", "tcp6"):
        (tmp_path / "net" / name).write_bytes((CAPTURED / name).read_bytes())
    seen = in_tables(tmp_path, LLAMA_PORT, own=own)
    assert seen is not None
    assert (len(seen.others), seen.ours) == found


@contextmanager
def listening() -> Iterator[int]:
    """A process that accepts all connections at a port of IPv6 and IPv4, and keeps them; the port."""
    port = free_port()
    with running_process([sys.executable, "-c", LISTENS_ALSO, str(port)]):
        eventually(lambda: read_connections(SELF, port, SELF) is not None, "it listens")
        yield port


@linux
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("diagnosed", [True, False])
def test_the_sockets_of_this_machine(address: str, monkeypatch: pytest.MonkeyPatch, *, diagnosed: bool) -> None:
    """Two connections of this process are its own, and others' to a process that has no such sockets.

    Both sock_diag and the table, which is read if sock_diag isn't allowed, show that.
    """
    if not diagnosed:
        monkeypatch.setattr("exporter.host.connections.ask_kernel", lambda _: None)
    with listening() as port:
        ends = [closing(socket.create_connection((address, port))) for _ in range(2)]
        with ends[0], ends[1]:
            eventually(lambda: read_connections(SELF, port, SELF) == Connections(ours=2), "both are there")
            seen = read_connections(SELF, port, NOBODY)
            assert seen is not None
            assert (len(seen.others), seen.ours) == (2, 0)
        eventually(lambda: read_connections(SELF, port, NOBODY) == Connections(), "both are gone")


@linux
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_request_that_waits_is_told_from_an_idle_connection(family: socket.AddressFamily) -> None:
    """From its first byte until the server answers; whether the server has read it or not, and once more at the next request."""

    def unanswered() -> int:
        found = read_connections(SELF, port, NOBODY)
        assert found is not None
        assert found.unanswered <= found.others
        assert len(found.others) == 1
        return len(found.unanswered)

    with socket.create_server(("", 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection(server.getsockname()[:2]) as client, server.accept()[0] as served:
            assert unanswered() == 0
            for _ in range(2):
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                eventually(lambda: unanswered() == 1, "it is there, and not read")
                assert served.recv(100)
                assert unanswered() == 1
                time.sleep(0.02)  # two steps of the clock by which the kernel tells who spoke last
                served.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                eventually(lambda: unanswered() == 0, "it is answered")
                assert client.recv(100)
                time.sleep(0.02)


@linux
def test_closed_connections_cost_nothing() -> None:
    """The kernel keeps them for a minute, and thousands of them make the table too long to be read."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
                pass
        eventually(
            lambda: ask_kernel(port) is not None and len(ask_kernel(port) or ()) == 1, "only the listener is left"
        )
        assert (SELF / "net/tcp").read_text().count(f":{port:04X} ") > 1


class Netlink:
    """A netlink socket whose kernel answers each request with the same."""

    def __init__(self, answer: bytes | OSError) -> None:
        self.answer = answer

    def settimeout(self, _: float) -> None:
        """It has an answer at once."""

    def close(self) -> None:
        """Nothing is open."""

    def send(self, request: bytes) -> int:
        """What the kernel accepts."""
        return len(request)

    def recv(self, _: int) -> bytes:
        """The answer, again and again."""
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


def netlink(kind: int, body: bytes = b"") -> bytes:
    """One message of the kernel."""
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        pytest.param(netlink(3), [], id="no socket"),
        pytest.param(netlink(2, struct.pack("=i", -1)), None, id="refused"),
        pytest.param(OSError(97, "Address family not supported by protocol"), None, id="not allowed"),
        pytest.param(TimeoutError(), None, id="no answer"),
        pytest.param(netlink(20, bytes(20)), None, id="too short"),
        pytest.param(netlink(20, b"\x02\x01" + bytes(398)), None, id="more than is read"),
        pytest.param(b"", None, id="nothing"),
        pytest.param(bytes(16), None, id="no length"),
    ],
)
def test_a_kernel_that_lists_no_sockets(
    answer: bytes | OSError, found: list[TcpSocket] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it refuses, or a part could be missing, the table is read instead."""
    monkeypatch.setattr("socket.socket", lambda *_: Netlink(answer))
    assert ask_kernel(8000) == found


@given(body=st.binary(max_size=400))
def test_no_answer_makes_it_raise(body: bytes) -> None:
    """Whatever the kernel sends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.socket", lambda *_: Netlink(netlink(20, body) + netlink(3)))
        found = ask_kernel(8000)
    assert found is None or len(found) == 4


@linux
def test_the_sockets_of_another_process() -> None:
    """The one of a process that runs elsewhere is read by its number."""
    with listening() as port, subprocess.Popen(["sleep", "30"]) as other:
        try:
            assert read_connections(Path(f"/proc/{other.pid}"), port, SELF) == Connections()
        finally:
            other.kill()
