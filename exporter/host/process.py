"""Inference servers that are plain processes: how each was started, where it listens, what computes in it.

Found by their command lines, which anyone may read. What only the same user may read (the environment, the memory map,
the working folder) is used if it can be read, else said to be unknown, with the reason. A server in a
container is a process of this machine, too: ``container`` says so. Processes that a server started belong to it; those of
them that are servers themselves (Ollama's llama-server) are its ``workers``.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from exporter.address import LOOPBACK, address_of
from exporter.host.proc import (
    Stat,
    descendants,
    list_pids,
    network_of,
    read_boot_seconds,
    read_command_line,
    read_container,
    read_environment,
    read_libraries,
    read_link,
    read_listeners,
    read_sockets,
    read_stat,
    read_unit,
    read_user_id,
)
from exporter.host.runtime import find_compute, find_version
from exporter.launch.programs import Started, run_by
from exporter.launch.settings import Compute, LaunchSettings, allowed, read_launch, settings_of

Network = Literal["own", "host", "other"]

PROC: Final = Path("/proc")
NO_PROC: Final = "no process can be seen: there is no /proc"
OTHERS_HIDDEN: Final = (
    "processes of other users are hidden from the exporter: by ProtectProc= in its unit (the drop-in processes.conf opens"
    " it), or by hidepid= of /proc"
)
OWN_CONTAINER: Final = "the exporter sees only the processes of its own container: pid: host (in Kubernetes hostPID: true) shows the machine's"
_NOT_READABLE: Final = (
    "can't be read: the process belongs to another user (the drop-in processes.conf names the rights)"
)
_LLAMA_CONFIG: Final = "llama.cpp/config.ini"
_ANY_ADDRESS: Final = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104 - compared, not bound
_LOOPBACK_NAMES: Final = frozenset({"localhost", "::1"})
# Folders that Toolbx and Distrobox share with the machine, under the same path.
_SHARED_FOLDERS: Final = ("/home/", "/var/home/", "/mnt/", "/media/", "/run/media/")
_MACHINE_IN_CONTAINER: Final = "/run/host/"


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """One server process. ``None`` or empty if it isn't known; ``unknown`` then says why, a sentence each.

    ``pids`` are the process and all that it started, workers' too: some of them may hold the GPU's memory. ``container``
    is the container that it runs in (the first 12 digits of its id, or LXC's name), ``unit`` its systemd service; both
    are empty for a process of a login. ``network`` is ``own`` if it has the exporter's network, ``host`` for the
    machine's if that is another. ``port`` is the one it is asked at, ``listening`` whether a socket of its user was
    seen there. ``model_file`` is the model's file or folder as the exporter can open it. ``runtime`` is the version of
    what computes: ROCm's, Mesa's, CUDA's.
    """

    pid: int
    launch: LaunchSettings
    start_ticks: int
    """Since the machine's start: together with ``pid`` it shows a restart, whatever the clock does."""
    started_at_seconds: float | None = None
    user_id: int | None = None
    pids: tuple[int, ...] = ()
    workers: tuple["ProcessFacts", ...] = ()
    container: str = ""
    unit: str = ""
    network: Network | None = None
    port: int | None = None
    listening: bool | None = None
    model_file: str | None = None
    compute: Compute | None = None
    runtime: str | None = None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessReading:
    """All servers that were seen, by process id. ``hidden``: why there may be others, empty if there can't be.

    ``forwarded`` are the ports at which Docker's proxy listens for a container. What comes from another machine goes to the
    container past it.
    """

    processes: tuple[ProcessFacts, ...] = ()
    hidden: str = ""
    forwarded: frozenset[int] = frozenset()


def read_processes(proc: Path = PROC, *, ticks_per_second: int | None = None) -> ProcessReading:
    """Read the server processes under a ``/proc``. Never raises.

    A command line is kept in the memory of its process, so a process that hangs in the kernel can hold the reader up. A caller
    that must not hang runs this in a thread of its own.
    """
    pids = list_pids(proc)
    if not pids:
        return ProcessReading(hidden=NO_PROC)
    commands = {pid: command for pid in pids if (command := read_command_line(proc / str(pid)))}
    started = {pid: found for pid, command in commands.items() if (found := run_by(command))}
    hidden = _hidden(proc, pids)
    forwarded = frozenset(port for command in commands.values() if (port := _forwarded(command)))
    if not started:
        return ProcessReading(hidden=hidden, forwarded=forwarded)
    stats = {pid: stat for pid in pids if (stat := read_stat(proc / str(pid)))}
    table = _Table(
        proc,
        started={pid: found for pid, found in started.items() if pid in stats},
        stats=stats,
        boot_seconds=read_boot_seconds(proc),
        ticks_per_second=ticks_per_second or os.sysconf("SC_CLK_TCK"),
    )
    return ProcessReading(tuple(table.facts(pid) for pid in table.tops()), hidden, forwarded)


def process_of(url: str, processes: Iterable[ProcessFacts], host_names: Collection[str] = ()) -> ProcessFacts | None:
    """The process that answers at a URL; None if none or more than one may.

    ``host_names`` are the machine's names and addresses besides loopback's, which is that of the exporter's own network.
    If no socket was seen, only a port that was stated counts.
    """
    host, port = address_of(url)
    found = [
        process
        for process in _all(processes)
        if process.port == port and _may_listen(process) and _is_at(process, host, host_names)
    ]
    seen = [process for process in found if process.listening] or found
    return seen[0] if len(seen) == 1 else None


def awaited_at(url: str, processes: Iterable[ProcessFacts], host_names: Collection[str] = ()) -> ProcessFacts | None:
    """The newest process that is meant to answer at a URL, whether or not it listens by now; None without one."""
    host, port = address_of(url)
    found = [each for each in _all(processes) if each.port == port and _is_at(each, host, host_names)]
    return max(found, key=lambda each: each.start_ticks, default=None)


def _all(processes: Iterable[ProcessFacts]) -> Iterator[ProcessFacts]:
    for process in processes:
        yield process
        yield from _all(process.workers)


def _may_listen(process: ProcessFacts) -> bool:
    return process.listening or (process.listening is None and process.launch.port == process.port)


def _is_at(process: ProcessFacts, host: str, host_names: Collection[str]) -> bool:
    """Whether a server that binds what it was told to answers at a host's name or address."""
    if process.network not in {"own", None}:
        return process.network == "host" and host in host_names
    bound = {each.strip("[] ").lower() for each in (process.launch.listen or "").split(",")} - {""}
    is_everywhere = not bound or not bound.isdisjoint(_ANY_ADDRESS)
    if host == LOOPBACK:
        return is_everywhere or any(each in _LOOPBACK_NAMES or each.startswith("127.") for each in bound)
    return host in bound or (is_everywhere and host in host_names)


def working(process: ProcessFacts) -> ProcessFacts | None:
    """The process that computes for a server: itself, or its only worker; None if it has several."""
    if not process.workers:
        return process
    return process.workers[0] if len(process.workers) == 1 else None


def compute_of(process: ProcessFacts) -> Compute | None:
    """What computes for a server, in itself or in its worker."""
    computing = working(process)
    return (computing.compute if computing else None) or process.compute


def settings_of_process(
    process: ProcessFacts, *, layers: int | None = None, gfx_targets: Iterable[str] = ()
) -> dict[str, str]:
    """The settings that decide a server's speed, by name, in words: what the process that computes was started with."""
    computing = working(process)
    targets = tuple(gfx_targets)
    known = settings_of(process.launch, layers=layers, gfx_targets=targets)
    if computing is None:
        return known
    if computing is not process:
        known |= settings_of(computing.launch, layers=layers, gfx_targets=targets)
    if computing.compute:
        known["compute"] = computing.compute
    if computing.compute == "cpu":
        known["cpu_offload"] = "all"
    if computing.runtime:
        known["runtime"] = computing.runtime
    return known


def _forwarded(command: Sequence[str]) -> int | None:
    """The port at which a ``docker-proxy -proto tcp -host-ip … -host-port 8080 …`` listens."""
    if PurePosixPath(command[0]).name != "docker-proxy":
        return None
    port = dict(pairwise(command)).get("-host-port", "")
    return int(port) if port.isdecimal() and len(port) <= 5 else None


def _hidden(proc: Path, pids: list[int]) -> str:
    """Why other users' processes, or the machine's, can't be seen."""
    if 1 not in pids or read_command_line(proc / "1") is None:
        return OTHERS_HIDDEN
    # Process 2 of a machine is the kernel's; in a PID namespace there is none.
    second = read_stat(proc / "2")
    is_kernel = second is not None and second.parent == 0 and read_command_line(proc / "2") == ()
    return "" if is_kernel else OWN_CONTAINER


@dataclass(frozen=True, slots=True)
class _Table:
    """What was seen of all processes at one moment: the servers among them, and who started whom."""

    proc: Path
    started: Mapping[int, Started]
    stats: Mapping[int, Stat]
    boot_seconds: int | None
    ticks_per_second: int

    def tops(self) -> list[int]:
        """The servers that no other server started."""
        return [pid for pid in sorted(self.started) if self._server_above(pid) is None]

    def facts(self, pid: int) -> ProcessFacts:
        """All that can be read of one server and of what it started."""
        folder = self.proc / str(pid)
        below = descendants({child: stat.parent for child, stat in self.stats.items()}, pid)
        workers = tuple(self.facts(each) for each in below if self._is_worker_of(each, pid))
        of_workers = {each for worker in workers for each in worker.pids}
        unknown: list[str] = []
        launch = self._launch(pid, unknown)
        container = read_container(folder)
        network = self._network(folder)
        own = [pid, *(each for each in below if each not in of_workers)]
        port, listening = _port([self.proc / str(each) for each in own], launch)
        compute, runtime = self._runtime(own, launch, container, unknown)
        ticks = self.stats[pid].start_ticks
        return ProcessFacts(
            pid,
            launch,
            start_ticks=ticks,
            started_at_seconds=None if self.boot_seconds is None else self.boot_seconds + ticks / self.ticks_per_second,
            user_id=read_user_id(folder),
            pids=(pid, *below),
            workers=workers,
            container=container,
            unit=read_unit(folder),
            network=network,
            port=port,
            listening=listening,
            model_file=_model_file(folder, launch, container, unknown),
            compute=compute,
            runtime=runtime,
            unknown=tuple(unknown),
        )

    def _server_above(self, pid: int) -> int | None:
        """The nearest server among the processes above one."""
        seen = {pid}
        while (stat := self.stats.get(pid)) and stat.parent not in seen:
            pid = stat.parent
            seen.add(pid)
            if pid in self.started:
                return pid
        return None

    def _is_worker_of(self, pid: int, server: int) -> bool:
        """A server of its own, and no fork that shows the same command line (as a program that unpacks itself does)."""
        return pid in self.started and self._server_above(pid) == server and self.started[pid] != self.started[server]

    def _launch(self, pid: int, unknown: list[str]) -> LaunchSettings:
        started = self.started[pid]
        folder = self.proc / str(pid)
        environment = read_environment(folder)
        if environment is None:
            unknown.append(f"its environment {_NOT_READABLE}")
        name = started.name or "other"
        has_config = name == "llama-server" and any(
            _exists(folder / "root" / path.lstrip("/")) for path in _llama_config_files(environment or ())
        )
        return read_launch(
            name, started.arguments, allowed(environment or ()), complete=environment is not None and not has_config
        )

    def _network(self, folder: Path) -> Network | None:
        of_process = network_of(folder)
        if of_process is None:
            return None
        if of_process == network_of(self.proc / "self"):
            return "own"
        return "host" if of_process == network_of(self.proc / "1") else "other"

    def _runtime(
        self, pids: list[int], launch: LaunchSettings, container: str, unknown: list[str]
    ) -> tuple[Compute | None, str | None]:
        """What computes in these processes, and its version."""
        libraries: set[str] = set()
        for pid in pids:
            loaded = read_libraries(self.proc / str(pid))
            if loaded is None:
                unknown.append(f"what it computes with: its memory map {_NOT_READABLE}")
                return launch.compute, None
            libraries |= loaded
        found = find_compute(libraries)
        compute = launch.compute or (found[0] if len(found) == 1 else None)
        if compute is None:
            unknown.append(f"what it computes with: it has loaded {' and '.join(found)}")
            return None, None
        root = self.proc / str(pids[0]) / "root"
        version = find_version(compute, libraries, root)
        if version is None and not container:
            version = find_version(compute, libraries, Path("/"))
        return compute, version


def _llama_config_files(environment: Iterable[str]) -> list[str]:
    """The files from which llama-server takes options before it looks at its environment."""
    variables = dict(pair.partition("=")[::2] for pair in environment)
    folder = variables.get("XDG_CONFIG_HOME") or f"{variables.get('HOME', '')}/.config"
    return [f"/etc/{_LLAMA_CONFIG}", f"{folder}/{_LLAMA_CONFIG}"]


def _port(folders: Sequence[Path], launch: LaunchSettings) -> tuple[int | None, bool | None]:
    """The port that a server is asked at, and whether it was seen to listen there. ``folders``: its own first."""
    stated = launch.port if launch.port is not None else launch.default_port
    listeners = read_listeners(folders[0])
    if listeners is None:
        return stated or None, None
    if read_sockets(folders[0]) is None:
        user = read_user_id(folders[0])
        users = {each.user_id for each in listeners if each.port == stated}
        # Of a server that changed its user after it began to listen the socket has another.
        return stated or None, user in users or (None if users else False)
    sockets = frozenset[int]().union(*(read_sockets(folder) or () for folder in folders))
    own = {each.port for each in listeners if each.inode in sockets}
    if stated in own or launch.port or len(own) != 1:
        return stated or None, stated in own
    return own.pop(), True


def _model_file(folder: Path, launch: LaunchSettings, container: str, unknown: list[str]) -> str | None:
    """The model's file or folder as the exporter can open it; None if it is a repository's name, or out of reach."""
    path = launch.model_path
    if path is not None and not path.startswith("/"):
        path = _resolve(folder, path, unknown)
    if path is None or not container:
        return path
    inside = folder / "root" / path.lstrip("/")
    if _exists(inside):
        return str(inside)
    if path.startswith(_MACHINE_IN_CONTAINER):
        return path.removeprefix(_MACHINE_IN_CONTAINER.rstrip("/"))
    if not path.startswith(_SHARED_FOLDERS):
        unknown.append(f"its model's file: the files of its container {_NOT_READABLE}")
        return None
    return path


def _resolve(folder: Path, path: str, unknown: list[str]) -> str | None:
    """A path that begins in the process's working folder; None for a repository's name, which looks the same."""
    here = read_link(folder, "cwd")
    if here is None:
        if path.lower().endswith(".gguf"):
            unknown.append(f"its model's file: its working folder {_NOT_READABLE}")
        return None
    absolute = os.path.normpath(f"{here}/{path}")
    seen = _exists(folder / "root" / absolute.lstrip("/")) or _exists(Path(absolute))
    return absolute if seen else None


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True
