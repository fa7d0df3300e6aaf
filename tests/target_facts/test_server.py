"""Which container and which process run a target."""

from dataclasses import replace
from typing import Any

import pytest

from exporter.containers.facts import CandidateUrl, ContainerFacts
from exporter.host.process import ProcessReading
from exporter.launch.settings import read_launch
from exporter.settings import make_target
from exporter.snapshot import ServerProcesses
from exporter.target_facts import Machine, info_of, is_local, target_facts_of
from tests.target_facts.machines import HERE, LLAMA, MACHINE, PROFILES, SAYS, VLLM, ran


def test_a_server_elsewhere_has_nothing_of_this_machine() -> None:
    """The GPU, containers and caches here say nothing of a server on another one."""
    away = make_target(url="http://10.0.0.7:8000")
    known = target_facts_of(away, SAYS, MACHINE)
    assert not is_local(away.url, None)
    assert (known.gfx_target, known.memory_bandwidth, known.aiter, known.quantization) == (None, None, None, None)
    assert known.weights.bytes is None


def test_a_container_that_stopped_is_not_the_targets() -> None:
    """Another server on the port of a stopped container is not that container."""
    machine = replace(MACHINE, containers=(replace(VLLM, running=False),))
    assert info_of(HERE, SAYS, target_facts_of(HERE, SAYS, machine), machine, PROFILES).container == ""


def test_a_toolbox_whose_engine_does_not_tell_what_runs_in_it() -> None:
    """The process that answers is in a container: its name and image are the target's, and its process tells the rest."""
    toolbox = ContainerFacts("0123456789ab", "llama-vulkan", "kyuz0/toolbox:1", "sha256:1", None, running=True)
    processes = ran("--port 8000 -np 3", compute="vulkan")
    inside = replace(processes.reading.processes[0], container=toolbox.id)
    machine = Machine(containers=(toolbox,), processes=replace(processes, reading=ProcessReading((inside,))))
    known = target_facts_of(HERE, LLAMA, machine)
    info = info_of(HERE, LLAMA, known, machine, PROFILES)
    assert (info.container, info.image) == ("llama-vulkan", "kyuz0/toolbox:1")
    assert dict(info.settings).items() >= {"slots": "3", "compute": "vulkan"}.items()
    stopped = replace(machine, containers=(replace(toolbox, running=False),))
    assert info_of(HERE, LLAMA, known, stopped, PROFILES).container == ""


@pytest.mark.parametrize(
    ("network", "published", "slots"), [("own", 8001, "2"), ("own", 8000, "1"), ("other", 9090, "1")]
)
def test_of_several_servers_in_one_container_the_one_at_the_port(network: Any, published: int, slots: str) -> None:
    """On the machine's network by the URL's port; behind a published one by the port that the container listens on."""
    url = f"http://127.0.0.1:{published}"
    launch = read_launch("llama-server", ["--port", "8000"], {}, complete=True)
    container = ContainerFacts(
        "0123456789ab", "two", "image", "sha256:1", "llama_cpp", running=True, launch=launch,
        urls=(CandidateUrl(url, "published_port"),),
    )  # fmt: skip
    first = ran("--port 8000 -np 1", compute="cpu").reading.processes[0]
    second = ran("--port 8001 -np 2", compute="cpu").reading.processes[0]
    inside = tuple(
        replace(each, pid=pid, port=pid, container=container.id, network=network)
        for pid, each in ((8000, first), (8001, second))
    )
    machine = Machine(containers=(container,), processes=ServerProcesses(ProcessReading(inside)))
    target = HERE.model_copy(update={"url": url})
    known = target_facts_of(target, LLAMA, machine)
    assert dict(info_of(target, LLAMA, known, machine, PROFILES).settings)["slots"] == slots
