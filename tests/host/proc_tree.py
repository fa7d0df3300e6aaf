"""A ``/proc`` to read: the captured one, and processes that are made up in its form."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

CAPTURED = Path(__file__).parent.parent / "fixtures" / "host" / "proc" / "llama-server"
LLAMA = 29813
"""The captured server, which listens on 18231 as root."""
SOCKET = 172584
"""The inode of the socket on which it listens."""
_ROW = "   {number}: 0100007F:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 {user} 0 {inode} 1 0 0"
_HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"


class ProcTree:
    """A folder that looks like ``/proc``: a kernel thread, an init, and the processes that a test adds."""

    def __init__(self, folder: Path, *, captured: bool = False) -> None:
        self.path = folder
        shutil.copytree(CAPTURED, folder)
        if captured:
            self.network(1, like=LLAMA)
        else:
            shutil.rmtree(folder / str(LLAMA))
            self.network(1)
        self.network("self", like=1)

    def network(self, pid: int | str, *listeners: tuple[int, int, int], like: int | None = None) -> None:
        """Give a process a network of its own, with (port, user, inode) that listen, or that of another process."""
        folder = self.path / str(pid) / "net"
        folder.mkdir(parents=True, exist_ok=True)
        if like is not None:
            os.link(self.path / str(like) / "net" / "tcp", folder / "tcp")
            return
        rows = [
            _ROW.format(number=number, port=port, user=user, inode=inode)
            for number, (port, user, inode) in enumerate(listeners)
        ]
        (folder / "tcp").write_text("\n".join([_HEADER, *rows, ""]), encoding="ascii")

    def add(
        self,
        pid: int,
        command: Sequence[str],
        *,
        parent: int = 1,
        environment: Mapping[str, str] | None = None,
        libraries: Sequence[str] | None = None,
        group: str = "/system.slice/session-1.scope",
        user: int = 1000,
        sockets: Sequence[int] | None = None,
        cwd: str | None = None,
    ) -> Path:
        """Add a process; what is None can't be read. It has the network of process 1."""
        folder = self.path / str(pid)
        folder.mkdir()
        (folder / "cmdline").write_bytes(b"".join(os.fsencode(word) + b"\0" for word in command))
        fields = " ".join(["0"] * 15)
        (folder / "stat").write_text(f"{pid} (a) b) S {parent} {pid} {pid} {fields} 1234 0 0\n", encoding="ascii")
        (folder / "status").write_text(f"Name:\ta\nUid:\t{user}\t{user}\t{user}\t{user}\n", encoding="ascii")
        (folder / "cgroup").write_text(f"0::{group}\n", encoding="ascii")
        if environment is not None:
            (folder / "environ").write_bytes(b"".join(f"{n}={v}".encode() + b"\0" for n, v in environment.items()))
        if libraries is not None:
            lines = [f"7f0000000000-7f0000001000 r-xp 00000000 fe:00 12 {path}" for path in libraries]
            (folder / "maps").write_text("\n".join([*lines, "7ffe-7fff rw-p 0 00:00 0 [stack]", ""]), encoding="utf-8")
        if sockets is not None:
            self.open_sockets(pid, *sockets)
        if cwd is not None:
            (folder / "cwd").symlink_to(cwd)
        self.network(pid, like=1)
        return folder

    def open_sockets(self, pid: int, *inodes: int) -> None:
        """Let a process's open files be read."""
        files = self.path / str(pid) / "fd"
        files.mkdir()
        for number, inode in enumerate(inodes):
            (files / str(number)).symlink_to(f"socket:[{inode}]")
        (files / "99").symlink_to("/dev/null")
