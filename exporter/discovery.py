"""Which servers to watch when nobody named them: candidates in, targets out, each with its reason.

Candidates are the ports on which inference servers usually listen on this machine, the processes that are one, and the
containers that look like one.
What answers as an inference server becomes a target; it stays one while it is down, so that its going down is seen.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from exporter.address import address_of
from exporter.backends import BACKENDS
from exporter.containers.facts import ContainerFacts
from exporter.host.process import ProcessFacts
from exporter.probe.result import Identity
from exporter.probe.status import Identified

LOCAL_PORTS: Final = tuple(dict.fromkeys(port for backend in BACKENDS.values() for port in backend.ports))
# Long enough for a night's maintenance, short enough that a server tried once doesn't haunt the dashboards for a week.
FORGET_SECONDS: Final = 24 * 3600.0
# Something else that listens on such a port is asked again, in case it makes room for an inference server.
ASK_AGAIN_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class ServerCandidate:
    """An address where a server may be: URLs to try in this order, the name that a target of it gets, and why it is one."""

    name: str
    urls: tuple[str, ...]
    why: str
    container: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A server that became a target."""

    name: str
    url: str
    why: str
    identity: Identity
    container: str | None
    last_seen: float
    notice: str = ""
    """What a person should know of probes of this server."""


@dataclass(frozen=True, slots=True)
class OtherAddress:
    """An address that did not become a target, and why; ``at`` is when it was asked."""

    url: str
    why_not: str
    listening: bool
    at: float


@dataclass(frozen=True, slots=True)
class Survey:
    """The outcome of one round of discovery; the next round starts from it."""

    found: tuple[Found, ...] = ()
    seen: tuple[OtherAddress, ...] = ()


def local_candidates(own_port: int | None = None) -> tuple[ServerCandidate, ...]:
    """The usual ports of this machine, without the exporter's own."""
    return tuple(
        ServerCandidate(
            f"localhost:{port}", (f"http://127.0.0.1:{port}",), f"port {port} is usual for an inference server"
        )
        for port in LOCAL_PORTS
        if port != own_port
    )


def container_candidates(containers: Iterable[ContainerFacts]) -> Iterator[ServerCandidate]:
    """The running containers that look like inference servers and can be reached."""
    for each in containers:
        if each.running and each.backend and each.urls:
            why = f"container {each.name} runs {each.backend}"
            yield ServerCandidate(each.name, tuple(url.url for url in each.urls), why, each.name)


def process_candidates(
    processes: Iterable[ProcessFacts], containers: Iterable[ContainerFacts], own_port: int | None = None
) -> Iterator[ServerCandidate]:
    """The server processes of this machine at ports that no other candidate has.

    A toolbox has the machine's network, and its engine may not say what runs in it: then the process does, and its container
    gives the name.
    """
    names = {each.id: each.name for each in containers if each.running and not each.urls}
    for each in processes:
        if each.network not in {"own", None} or each.port is None or each.port == own_port:
            continue
        if each.listening is False or (each.listening is None and each.launch.port != each.port):
            continue
        container = names.get(each.container)
        if container is None and each.port in LOCAL_PORTS:
            continue
        why = f"process {each.pid} {f'in container {container} ' if container else ''}is {each.launch.name}"
        name = container or f"localhost:{each.port}"
        yield ServerCandidate(name, (f"http://127.0.0.1:{each.port}",), why, container)


def survey(
    candidates: Iterable[ServerCandidate],
    taken: Iterable[str],
    before: Survey,
    ask: Callable[[str], Identified],
    now: float,
) -> Survey:
    """Ask every candidate that is not a target already, and say what became of each.

    ``taken`` are the URLs of configured targets, ``ask`` reads from one URL (it must be harmless and bounded), ``now`` is
    Unix time in seconds. A container's server that is no longer a candidate is forgotten at once, one on a local port after
    a day without an answer.
    """
    addresses = {address_of(url): "it is configured as a target" for url in taken}
    known = {each.name: each for each in before.found}
    asked = {each.url: each for each in before.seen}
    found: list[Found] = []
    seen: list[OtherAddress] = []
    # Containers first: their targets have better names than a port has.
    for candidate in sorted(candidates, key=lambda each: each.container is None):
        outcome = _ask_in_turn(candidate, addresses, asked, ask, now)
        if isinstance(outcome, Found):
            found.append(outcome)
            addresses[address_of(outcome.url)] = f"it is the target {outcome.name}"
            continue
        old = known.get(candidate.name)
        if old and now - old.last_seen < FORGET_SECONDS and address_of(old.url) not in addresses:
            found.append(old)
            addresses[address_of(old.url)] = f"it is the target {old.name}"
        else:
            seen.extend(outcome)
    return Survey(tuple(found), tuple(seen))


def _ask_in_turn(
    candidate: ServerCandidate,
    addresses: Mapping[tuple[str, int], str],
    asked: Mapping[str, OtherAddress],
    ask: Callable[[str], Identified],
    now: float,
) -> Found | list[OtherAddress]:
    refusals: list[OtherAddress] = []
    for url in candidate.urls:
        if (reason := addresses.get(address_of(url))) is not None:
            refusals.append(OtherAddress(url, reason, listening=True, at=now))
            continue
        last = asked.get(url)
        if last and last.listening and now - last.at < ASK_AGAIN_SECONDS and not _was_taken(last):
            refusals.append(last)
            continue
        answer = ask(url)
        if answer.identity is not None:
            return Found(candidate.name, url, candidate.why, answer.identity, candidate.container, now, answer.notice)
        refusals.append(OtherAddress(url, answer.why_not, answer.listening, now))
    return refusals


def _was_taken(seen: OtherAddress) -> bool:
    return seen.why_not.startswith("it is ")
