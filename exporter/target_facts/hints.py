"""What a prober should know of its server: how it was started, and how to see who is connected to it."""

from functools import partial
from pathlib import Path

from exporter.address import LOOPBACK, address_of
from exporter.host.connections import read_connections
from exporter.host.process import OTHERS_HIDDEN
from exporter.probe.newcomers import ReadConnected, unseen
from exporter.settings import Target
from exporter.target_facts.server import Machine, setup_of


def hints_of(target: Target, machine: Machine) -> dict[str, bool]:
    """What a prober should know of its server's launch: ``sleeps`` and ``prompt_cache``, if it is known."""
    found: dict[str, bool] = {}
    for launch in setup_of(target.url, machine).launches:
        if launch.name != "llama-server":
            continue
        if launch.sleep_idle_seconds is not None or launch.complete:
            found.setdefault("sleeps", launch.sleep_idle_seconds is not None)
        if launch.prompt_cache is not None:
            found.setdefault("prompt_cache", launch.prompt_cache)
    return found


def connections_to(url: str, machine: Machine, proc: Path) -> ReadConnected:
    """How to read who is connected to the server at a URL; it gives None if that server's table can't be read.

    A process in another network has a table of its own. In ours it is enough that something listens at the port, but for Docker's
    proxy: what comes from another machine goes past it. If other users' processes are hidden, root's listener may be one.
    """
    setup, (host, port) = setup_of(url, machine), address_of(url)
    own, process, container = proc / "self", setup.process, setup.container
    if process is not None and process.network in {"host", "other"}:
        return partial(read_connections, proc / str(process.pid), process.port, own) if process.port else unseen
    shared = container is not None and any(each.found_by == "host_network" for each in container.urls)
    if process is None and container is not None and not shared:
        return unseen
    if host != LOOPBACK or port in machine.processes.reading.forwarded:
        return unseen
    doubts_root = process is None and not shared and machine.processes.reading.hidden == OTHERS_HIDDEN
    return partial(read_connections, own, port, own, doubts_root=doubts_root)
