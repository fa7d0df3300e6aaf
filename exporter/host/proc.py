"""One process as ``/proc/<pid>`` shows it: its files, read and parsed, nothing judged.

Most of it anyone may read; the environment, the memory map, open files and links only a process of the same user, or one
with CAP_SYS_PTRACE. What can't be read is ``None``: the process has ended, or belongs to somebody else.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exporter.regular_file import read_start

MOST_PROCESSES: Final = 1 << 16
_COMMAND_LINE: Final = 256 * 1024
_ENVIRONMENT: Final = 1 << 20
_MAPS: Final = 16 << 20
_SOCKETS: Final = 4 << 20
_MOST_FILES: Final = 1 << 14
_LISTENING: Final = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_CONTAINER = re.compile(r"(?:^|[/-])(?<!conmon-)(?P<id>[0-9a-f]{64})(?=\.scope|/|$)", re.MULTILINE)
_LXC = re.compile(r"/lxc(?:\.payload)?[./](?P<name>[^/\s]+)")
_SERVICE = re.compile(r"[\w@.:\\-]{1,128}\.service", re.ASCII)


@dataclass(frozen=True, slots=True)
class Stat:
    """Of ``/proc/<pid>/stat``: the parent, and the clock ticks from the machine's start to the process's."""

    parent: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP socket that waits for connections: its port, its owner's user id, its inode."""

    port: int
    user_id: int
    inode: int


def list_pids(proc: Path) -> list[int]:
    """The processes that can be seen, by number."""
    try:
        names = os.listdir(proc)  # noqa: PTH208 - only the names are needed
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isdecimal())[:MOST_PROCESSES]


def read_command_line(folder: Path) -> tuple[str, ...] | None:
    """The words of a command line; none for a kernel thread and for a process that has ended.

    A process that renames itself leaves one word, with blanks in it and zeros after it.
    """
    content = _read(folder / "cmdline", _COMMAND_LINE)
    return None if content is None else tuple(_strings(content.rstrip(b"\0"))) if content.strip(b"\0") else ()


def read_environment(folder: Path) -> tuple[str, ...] | None:
    """The environment that a process was started with, as ``NAME=value``. Holds secrets: never keep or log it."""
    content = _read(folder / "environ", _ENVIRONMENT)
    return None if content is None else tuple(_strings(content.rstrip(b"\0")))


def read_stat(folder: Path) -> Stat | None:
    """The name in it may hold blanks and brackets, so the fields are counted from its last bracket."""
    content = _read(folder / "stat", 4096)
    fields = (content or b"").rpartition(b")")[2].split()
    try:
        return Stat(parent=int(fields[1]), start_ticks=int(fields[19]))
    except (IndexError, ValueError):
        return None


def read_user_id(folder: Path) -> int | None:
    """The effective user."""
    found = re.search(rb"^Uid:\s+\d+\s+(\d+)", _read(folder / "status", 64 * 1024) or b"", re.MULTILINE)
    return int(found[1]) if found else None


def read_libraries(folder: Path) -> frozenset[str] | None:
    """The paths of all files that are mapped into a process, as it sees them."""
    content = _read(folder / "maps", _MAPS)
    if content is None:
        return None
    # address perms offset device inode path
    fields = (line.split(None, 5) for line in content.splitlines())
    return frozenset(os.fsdecode(field[5]) for field in fields if len(field) == 6 and field[5].startswith(b"/"))


def read_link(folder: Path, name: str) -> str | None:
    """Where one of the links of a process leads (``cwd``)."""
    try:
        return os.readlink(folder / name)  # noqa: PTH115 - as it is written, no Path made of it
    except OSError:
        return None


def read_sockets(folder: Path) -> frozenset[int] | None:
    """The inodes of a process's open sockets."""
    try:
        names = os.listdir(folder / "fd")[:_MOST_FILES]  # noqa: PTH208 - only the names are needed
    except OSError:
        return None
    links = (read_link(folder / "fd", name) for name in names)
    return frozenset(int(found[1]) for link in links if link and (found := _SOCKET.fullmatch(link)))


def read_listeners(folder: Path) -> tuple[Listener, ...] | None:
    """The listening TCP sockets in the network namespace of a process, whoever owns them."""
    tables = [_read(folder / "net" / name, _SOCKETS) for name in ("tcp", "tcp6")]
    if tables == [None, None]:
        return None
    return tuple(listener for table in tables for line in (table or b"").splitlines() if (listener := _listener(line)))


def _listener(line: bytes) -> Listener | None:
    # number: local_address remote_address state queues timer retransmits user timeout inode
    fields = line.decode("ascii", "replace").split()
    try:
        if fields[3] != _LISTENING:
            return None
        return Listener(int(fields[1].rpartition(":")[2], 16), int(fields[7]), int(fields[9]))
    except (IndexError, ValueError):
        return None


def network_of(folder: Path) -> int | None:
    """What distinguishes two network namespaces; anyone may ask it, unlike ``ns/net``.

    It is the inode of the namespace's own table of sockets.
    """
    try:
        return os.stat(folder / "net" / "tcp").st_ino  # noqa: PTH116 - see read_link
    except OSError:
        return None


def read_container(folder: Path) -> str:
    """The container that a process belongs to, by its control group: the first 12 digits of its id, or LXC's name.

    Empty for a process of the machine itself. Docker, Podman, containerd and CRI-O end the path with the container's id.
    """
    groups = _groups(folder)
    if found := list(_CONTAINER.finditer(groups)):
        return found[-1]["id"][:12]
    lxc = _LXC.search(groups)
    return lxc["name"] if lxc else ""


def read_unit(folder: Path) -> str:
    """The systemd service that a process belongs to; empty for one that was started by hand."""
    for line in _groups(folder).splitlines():
        for part in reversed(line.rpartition(":")[2].split("/")):
            if _SERVICE.fullmatch(part):
                return "" if part.startswith("user@") else part
    return ""


def _groups(folder: Path) -> str:
    return (_read(folder / "cgroup", 64 * 1024) or b"").decode("utf-8", "replace")


def read_boot_seconds(proc: Path) -> int | None:
    """When the machine was started, in Unix seconds."""
    found = re.search(rb"^btime (\d+)", _read(proc / "stat", 4 << 20) or b"", re.MULTILINE)
    return int(found[1]) if found else None


def descendants(parents: Mapping[int, int], pid: int) -> tuple[int, ...]:
    """All processes below one, by ``{process: its parent}``."""
    children: dict[int, list[int]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    left = [pid]
    while left:
        below = [child for child in children.pop(left.pop(), ()) if child != pid]
        found += below
        left += below
    return tuple(sorted(found))


def _read(path: Path, limit: int) -> bytes | None:
    try:
        return read_start(path, limit)
    except OSError:
        return None


def _strings(content: bytes) -> list[str]:
    return [os.fsdecode(word) for word in content.split(b"\0")]
