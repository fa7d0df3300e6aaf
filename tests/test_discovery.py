"""Discovery as a pure decision: candidates and their answers in, targets and reasons out."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from exporter.containers.facts import CandidateUrl, ContainerFacts
from exporter.discovery import (
    ASK_AGAIN_SECONDS,
    FORGET_SECONDS,
    ServerCandidate,
    Survey,
    local_candidates,
    process_candidates,
    survey,
)
from exporter.host.process import ProcessFacts
from exporter.launch.settings import read_launch
from exporter.probe.result import Identity
from exporter.probe.status import Identified

VLLM = Identity("vllm", model="tiny")
OLLAMA = Identity("ollama")
NOBODY = Identified(why_not="nothing listens there")
NGINX = Identified(why_not="answers, but not as an inference server", listening=True)


class World:
    """Identifieds by URL, and the record of who was asked."""

    def __init__(self, answers: Mapping[str, Identified]) -> None:
        self.answers = dict(answers)
        self.identified: list[str] = []

    def ask(self, url: str) -> Identified:
        self.identified.append(url)
        return self.answers.get(url, NOBODY)


def test_the_exporters_own_port_is_no_candidate() -> None:
    """An exporter that listens on a usual port doesn't probe itself."""
    urls = [candidate.urls[0] for candidate in local_candidates(own_port=8080)]
    assert "http://127.0.0.1:8000" in urls
    assert "http://127.0.0.1:8080" not in urls


def test_a_server_that_answers_becomes_a_target() -> None:
    """What answers on a usual port is found under a stable name, the rest is seen with its reason."""
    world = World({"http://127.0.0.1:8000": Identified(VLLM), "http://127.0.0.1:8080": NGINX})
    result = survey(local_candidates(), (), Survey(), world.ask, now=0)
    assert [(each.name, each.url, each.identity) for each in result.found] == [
        ("localhost:8000", "http://127.0.0.1:8000", VLLM)
    ]
    reasons = {each.url: each.why_not for each in result.seen}
    assert reasons["http://127.0.0.1:8080"] == "answers, but not as an inference server"
    assert reasons["http://127.0.0.1:11434"] == "nothing listens there"


def test_a_server_that_starts_later_is_found_in_a_later_round() -> None:
    """Where nothing listened an hour ago, every round asks again."""
    world = World({})
    first = survey(local_candidates(), (), Survey(), world.ask, now=0)
    assert first.found == ()
    world.answers["http://127.0.0.1:11434"] = Identified(OLLAMA)
    second = survey(local_candidates(), (), first, world.ask, now=3600)
    assert [each.name for each in second.found] == ["localhost:11434"]


def test_a_found_server_that_goes_down_stays_a_target_for_a_day() -> None:
    """Going down must be seen, so the target stays; after a day without an answer it is forgotten."""
    world = World({"http://127.0.0.1:8000": Identified(VLLM)})
    up = survey(local_candidates(), (), Survey(), world.ask, now=0)
    world.answers.clear()
    down = survey(local_candidates(), (), up, world.ask, now=FORGET_SECONDS - 1)
    assert down.found == up.found
    gone = survey(local_candidates(), (), down, world.ask, now=FORGET_SECONDS)
    assert gone.found == ()


def test_a_container_names_the_target_of_its_published_port() -> None:
    """One server that is a container and a local port is one target, with the container's name."""
    container = ServerCandidate("vllm-prod", ("http://127.0.0.1:8000",), "container", container="vllm-prod")
    world = World({"http://127.0.0.1:8000": Identified(VLLM)})
    result = survey([*local_candidates(), container], (), Survey(), world.ask, now=0)
    assert [(each.name, each.container) for each in result.found] == [("vllm-prod", "vllm-prod")]
    assert world.identified.count("http://127.0.0.1:8000") == 1


def test_the_first_url_of_a_container_that_answers_is_used() -> None:
    """A container's addresses are tried in their order."""
    container = ServerCandidate("ollama", ("http://172.17.0.2:11434", "http://127.0.0.1:11434"), "container", "ollama")
    world = World({"http://127.0.0.1:11434": Identified(OLLAMA)})
    result = survey([container], (), Survey(), world.ask, now=0)
    assert [each.url for each in result.found] == ["http://127.0.0.1:11434"]


def test_a_container_that_is_gone_takes_its_target_with_it() -> None:
    """Without its candidate a target has nothing left to probe."""
    container = ServerCandidate("ollama", ("http://172.17.0.2:11434",), "container", "ollama")
    world = World({"http://172.17.0.2:11434": Identified(OLLAMA)})
    before = survey([container], (), Survey(), world.ask, now=0)
    assert len(before.found) == 1
    assert survey([], (), before, world.ask, now=1).found == ()


def test_a_configured_target_is_not_found_a_second_time() -> None:
    """The user's own name for a server wins, by whatever name of this machine it is written."""
    world = World({"http://127.0.0.1:8000": Identified(VLLM)})
    result = survey(local_candidates(), ("http://localhost:8000/",), Survey(), world.ask, now=0)
    assert result.found == ()
    assert "it is configured as a target" in {each.why_not for each in result.seen}
    assert "http://127.0.0.1:8000" not in world.identified


def test_another_service_is_not_bothered_every_round() -> None:
    """Something else that listens on a usual port is asked again only after a while."""
    world = World({"http://127.0.0.1:8080": NGINX})
    first = survey(local_candidates(), (), Survey(), world.ask, now=0)
    second = survey(local_candidates(), (), first, world.ask, now=60)
    assert world.identified.count("http://127.0.0.1:8080") == 1
    third = survey(local_candidates(), (), second, world.ask, now=ASK_AGAIN_SECONDS)
    assert world.identified.count("http://127.0.0.1:8080") == 2
    assert {each.url for each in third.seen} == {each.url for each in first.seen}


SERVER = ProcessFacts(
    42,
    read_launch("llama-server", ["--port", "18231"], {}, complete=True),
    1,
    network="own",
    port=18231,
    listening=True,
)
TOOLBOX = ContainerFacts("0123456789ab", "llama-vulkan", "toolbox", "sha256:1", None, running=True)


def test_a_server_process_is_a_candidate_at_its_own_port() -> None:
    """By its port, in a toolbox by its container's name; on a usual port it is one already."""
    (found,) = process_candidates([SERVER], [])
    assert (found.name, found.urls, found.container) == ("localhost:18231", ("http://127.0.0.1:18231",), None)
    assert found.why == "process 42 is llama-server"
    (found,) = process_candidates([replace(SERVER, container=TOOLBOX.id)], [TOOLBOX])
    assert (found.name, found.container) == ("llama-vulkan", "llama-vulkan")
    assert found.why == "process 42 in container llama-vulkan is llama-server"
    assert list(process_candidates([replace(SERVER, port=8080)], [])) == []
    assert list(process_candidates([replace(SERVER, port=8080, container=TOOLBOX.id)], [TOOLBOX])) != []


@pytest.mark.parametrize(
    ("process", "container"),
    [
        (replace(SERVER, network="other"), TOOLBOX),
        (replace(SERVER, network="host"), TOOLBOX),
        (replace(SERVER, port=None), TOOLBOX),
        (replace(SERVER, listening=False), TOOLBOX),
        (replace(SERVER, port=9937), TOOLBOX),
        (replace(SERVER, listening=None, port=18232), TOOLBOX),
        (replace(SERVER, port=8000, container=TOOLBOX.id), replace(TOOLBOX, running=False)),
        (
            replace(SERVER, port=8000, container=TOOLBOX.id),
            replace(TOOLBOX, urls=(CandidateUrl("http://127.0.0.1:8000", "host_network"),)),
        ),
    ],
)
def test_processes_that_are_no_candidates(process: ProcessFacts, container: ContainerFacts) -> None:
    """In another network, without a port, not listening, the exporter's own port, or told by a container's own addresses."""
    assert list(process_candidates([process], [container], own_port=9937)) == []
