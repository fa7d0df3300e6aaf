"""What a prober is given: the sleep timer, the prompt cache, the table of connections."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from exporter.containers.facts import CandidateUrl
from exporter.host.process import OTHERS_HIDDEN, OWN_CONTAINER, Network, ProcessReading
from exporter.snapshot import ServerProcesses
from exporter.target_facts import Machine, connections_to, hints_of
from tests.target_facts.machines import HERE, MACHINE, VLLM, ran


@pytest.mark.parametrize(
    ("command", "hints"),
    [
        ("--port 8000", {"sleeps": False}),
        ("--port 8000 --sleep-idle-seconds 300 --cache-ram 0", {"sleeps": True, "prompt_cache": False}),
        ("--port 8000 -cram 2048", {"sleeps": False, "prompt_cache": True}),
    ],
)
def test_what_a_prober_is_told(command: str, hints: dict[str, bool]) -> None:
    """The sleep timer and the prompt cache of a llama-server, by its own command line."""
    assert hints_of(HERE, Machine(processes=ran(command))) == hints
    assert hints_of(HERE, MACHINE) == {}


def table_of(url: str, machine: Machine) -> tuple[str, int] | None:
    """The process whose table is read for a URL, and the port in it; None where none is."""
    read = connections_to(url, machine, Path("/proc"))
    return (read.args[0].name, read.args[1]) if isinstance(read, partial) else None


@pytest.mark.parametrize(
    ("network", "table"),
    [("own", ("self", 8000)), (None, ("self", 8000)), ("other", ("42", 8080)), ("host", ("42", 8080))],
)
def test_whose_table_tells_who_is_connected(network: Network | None, table: tuple[str, int]) -> None:
    """A container's network has a table of its own, with the port inside."""
    port = 8000 if network in {"own", None} else 8080
    inside = replace(ran("--port 8080").reading.processes[0], port=port, network=network, container=VLLM.id)
    served = replace(VLLM, backend="llama_cpp")
    machine = Machine(containers=(served,), processes=ServerProcesses(ProcessReading((inside,))))
    assert table_of(HERE.url, machine) == table


def test_where_no_table_tells_who_is_connected() -> None:
    """A server elsewhere, in a container that can't be seen into, or behind Docker's proxy, past which others reach it."""
    forwarded = Machine(processes=ServerProcesses(ProcessReading(forwarded=frozenset({8000}))))
    on_host = replace(VLLM, urls=(CandidateUrl(HERE.url, "host_network"),))
    assert table_of("http://localhost:8000", Machine()) == ("self", 8000)
    assert table_of(HERE.url, Machine(containers=(on_host,))) == ("self", 8000)
    assert table_of("http://10.0.0.7:8000", Machine()) is None
    assert table_of(HERE.url, Machine(containers=(VLLM,))) is None
    assert table_of(HERE.url, forwarded) is None
    assert connections_to("http://10.0.0.7:8000", Machine(), Path("/proc"))() is None


@pytest.mark.parametrize(
    ("hidden", "found", "doubts"),
    [(OTHERS_HIDDEN, False, True), (OTHERS_HIDDEN, True, False), (OWN_CONTAINER, False, False), ("", False, False)],
)
def test_a_listener_of_root_is_doubted_where_processes_are_hidden(hidden: str, *, found: bool, doubts: bool) -> None:
    """It may be Docker's proxy, unless the server's own process is seen; in a pod of its own there is no such proxy."""
    processes = ran("--port 8000").reading.processes if found else ()
    machine = Machine(processes=ServerProcesses(ProcessReading(processes, hidden)))
    read = connections_to(HERE.url, machine, Path("/proc"))
    assert isinstance(read, partial)
    assert read.keywords == {"doubts_root": doubts}
