"""One container engine: a reading of all its containers, and its events, which say when to read again."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final, Protocol

from exporter.containers.connection import EngineConnection
from exporter.containers.errors import FAILURES, NotFoundError, RefusedError, explain, shown
from exporter.containers.facts import ContainerFacts, EngineReading, ImageRocm, OwnNetwork
from exporter.containers.json_access import mapping, text
from exporter.containers.own_network import own_container, own_network_in
from exporter.containers.recognise import environment_of, image_reference, is_bare_id, needs_processes, recognise
from exporter.containers.rocm import files_to_read, version_in

log = logging.getLogger(__name__)

DEFAULT_HOST: Final = "unix:///var/run/docker.sock"
MOST_CONTAINERS: Final = 500
# Podman filters by names of its own (died, remove), and then says die.
EVENTS: Final = {
    "type": ["container"],
    "event": ["start", "die", "died", "destroy", "remove", "rename", "pause", "unpause"],
}
# A reading in the midst of which something changed is done again, so often at most.
READINGS: Final = 3
# A container is given a moment after its event: its process has to appear, and a reading that still runs to end.
SETTLE_SECONDS: Final = 0.2
# A stream of events that is silent for so long is opened again: a connection can break without a notice.
SILENT_SECONDS: Final = 60.0
# If a proxy refuses events, changes are looked for this often.
POLL_SECONDS: Final = 5.0
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0


def default_host(environment: Mapping[str, str]) -> str:
    """``DOCKER_HOST``, else the first socket there is: Docker's, rootless Docker's, Podman's, rootless Podman's."""
    if host := environment.get("DOCKER_HOST"):
        return host
    runtime = environment.get("XDG_RUNTIME_DIR", "/run/user/0")
    sockets = (
        "/var/run/docker.sock",
        f"{runtime}/docker.sock",
        "/run/podman/podman.sock",
        f"{runtime}/podman/podman.sock",
    )
    return next((f"unix://{socket}" for socket in sockets if _exists(socket)), DEFAULT_HOST)


def _exists(path: str) -> bool:
    with suppress(OSError):
        return Path(path).exists()
    return False


class _Closable(Protocol):
    def close(self) -> object: ...


class Engine:
    """One container engine. ``read`` reads it once, ``watch`` says when to read again; neither ever raises.

    ``host`` is an address as in ``DOCKER_HOST``; empty for ``default_host``. ``timeout_seconds`` bounds every connect and
    every read. ``own_network`` is how the exporter is connected, found out by itself when None.
    """

    def __init__(
        self,
        host: str = "",
        timeout_seconds: float = 5.0,
        *,
        own_network: OwnNetwork | None = None,
        proc: Path = Path("/proc"),
    ) -> None:
        self._host = host or default_host(os.environ)
        self._timeout = timeout_seconds
        self._own_network = own_network
        self._proc = proc
        self._uninteresting: frozenset[str] = frozenset()
        self._rocm: dict[str, ImageRocm | None] = {}
        self._last_known: tuple[ContainerFacts, ...] = ()
        self._changes_seen = 0
        self._said: str | None = None
        self._was_available = False
        self._events: _Closable | None = None

    def read(self, host_gfx: Sequence[str] = ()) -> EngineReading:
        """Read every running container: one list, one document for each that may be of interest, files once per image."""
        for _ in range(READINGS - 1):
            changes = self._changes_seen
            reading = self._read_once(host_gfx)
            if changes == self._changes_seen:
                break
        else:
            reading = self._read_once(host_gfx)
        self._say(reading)
        return reading

    def watch(self, on_change: Callable[[], None], cancellation: Event) -> Thread:
        """Start a thread that calls ``on_change`` when a container starts, stops or is renamed, and after every gap.

        ``on_change`` is called from that thread and possibly often: it should only ask for a reading. The thread ends soon
        after ``cancellation`` is set and ``close`` called.
        """
        thread = Thread(target=self._follow, args=(on_change, cancellation), name="container-events", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """End the stream of events that ``watch`` is reading, if there is one."""
        if self._events is not None:
            with suppress(OSError, AttributeError):  # it may end by itself at the same moment
                self._events.close()

    def _read_once(self, host_gfx: Sequence[str]) -> EngineReading:
        try:
            with closing(EngineConnection(self._host, self._timeout)) as connection:
                containers, problem = self._read_containers(connection, host_gfx)
        except FAILURES as error:
            problem = explain(error, self._host, self._timeout)
            return EngineReading(available=False, problem=problem, last_known=self._last_known)
        self._last_known = containers
        return EngineReading(available=True, containers=containers, problem=problem, last_known=containers)

    def _say(self, reading: EngineReading) -> None:
        if reading.problem != self._said:
            if reading.problem:
                # A machine without an engine is a normal machine.
                level = logging.WARNING if self._was_available or reading.available else logging.INFO
                log.log(level, "%s", reading.problem)
            elif self._said:
                log.info("the container engine at %s answers again", shown(self._host))
        self._said = reading.problem
        self._was_available = self._was_available or reading.available

    def _read_containers(
        self, connection: EngineConnection, host_gfx: Sequence[str]
    ) -> tuple[tuple[ContainerFacts, ...], str]:
        listed = connection.json("/containers/json")
        identifiers = [text(each, "Id") for each in listed if text(each, "Id")] if isinstance(listed, list) else []
        own_network = self._own_network or self._find_own_network(connection, identifiers)
        self._uninteresting &= frozenset(identifiers)
        known = {each.id: each for each in self._last_known}
        found = []
        images = set()
        for identifier in identifiers[:MOST_CONTAINERS]:
            if identifier in self._uninteresting:
                continue
            try:
                facts = self._facts(connection, identifier, own_network, host_gfx)
            except NotFoundError:
                continue  # gone since it was listed
            except RefusedError:
                connection.refused("/containers/{id}/json")
                break
            except FAILURES as error:
                # One that hangs or is broken takes no other down, and is still what it was: it was listed as running.
                connection.note(f"container {identifier[:12]}: {explain(error, self._host, self._timeout)}")
                facts = known.get(identifier[:12])
            if facts is not None:
                found.append(facts)
                images.add(facts.image_id)
        self._rocm = {image: rocm for image, rocm in self._rocm.items() if image in images}
        return tuple(found), connection.problem()

    def _facts(
        self, connection: EngineConnection, identifier: str, own_network: OwnNetwork, host_gfx: Sequence[str]
    ) -> ContainerFacts | None:
        inspect = mapping(connection.json(f"/containers/{identifier}/json"))
        image = connection.optional(f"/images/{text(inspect, 'Image')}/json") if _has_no_tag(inspect) else None
        asks = needs_processes(inspect, image)
        # Of a container with the machine's processes Podman lists those of the whole machine, or none.
        is_told = not (connection.is_podman and text(inspect, "HostConfig", "PidMode") == "host")
        top = self._processes(connection, identifier) if asks and is_told else None
        shares, _, peer_id = text(inspect, "HostConfig", "NetworkMode").partition(":")
        peer = connection.optional(f"/containers/{peer_id}/json") if shares == "container" and peer_id else None
        facts = recognise(inspect, image, top, peer=peer, own_network=own_network, host_gfx=host_gfx)
        if facts is None:
            if not asks:
                self._uninteresting |= {identifier}
            return None
        rocm = self._rocm_in(connection, identifier, inspect)
        return facts if rocm is None else replace(facts, rocm=rocm)

    def _processes(self, connection: EngineConnection, identifier: str) -> Mapping[str, Any] | None:
        """Docker runs ``ps``, which cuts lines at COLUMNS by default; Podman may not know that option."""
        path = f"/containers/{identifier}/top"
        return connection.optional(path, {"ps_args": "-efww"}) or connection.optional(path)

    def _rocm_in(self, connection: EngineConnection, identifier: str, inspect: Mapping[str, Any]) -> ImageRocm | None:
        """What the image's files say; read once, since an image does not change under its id."""
        image = text(inspect, "Image")
        if image in self._rocm:
            return self._rocm[image]
        rocm = None
        for file in files_to_read(environment_of(inspect)):
            if not connection.has_time_for_files():
                return None
            read = connection.link_target if file.reading == "library" else connection.file
            try:
                content = read(identifier, file.path)
            except RefusedError:
                connection.refused("/containers/{id}/archive")
                return None
            except OSError:
                connection.note(f"files of container {identifier[:12]} could not be read in time")
                return None
            if content is not None and (rocm := version_in(content, file.reading)):
                break
        self._rocm[image] = rocm
        return rocm

    def _find_own_network(self, connection: EngineConnection, identifiers: Sequence[str]) -> OwnNetwork:
        own = own_container(self._proc)
        inspect = connection.optional(f"/containers/{own}/json") if own in identifiers else None
        return own_network_in(inspect, self._proc)

    def _follow(self, on_change: Callable[[], None], cancellation: Event) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not cancellation.is_set():
            try:
                for _ in self._changes(cancellation):
                    pause = FIRST_PAUSE_SECONDS
                    _notify(on_change)
            except RefusedError:
                _notify(on_change)
                pause = POLL_SECONDS
            except FAILURES as error:
                if cancellation.is_set():
                    return  # ``close`` ended the stream
                log.debug("events of containers: %s", explain(error, self._host, self._timeout))
                if pause == FIRST_PAUSE_SECONDS:
                    _notify(on_change)
                cancellation.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            cancellation.wait(pause)

    def _changes(self, cancellation: Event) -> Iterator[None]:
        """Yield once when the stream is open, since something may have changed before, and at the end of each event."""
        with (
            closing(EngineConnection(self._host, self._timeout)) as connection,
            connection.events(EVENTS, SILENT_SECONDS) as (stream, content),
        ):
            self._events = stream
            try:
                yield
                # ``close`` may have come before there was a stream to close.
                while not cancellation.is_set() and (byte := next(content, b"")):
                    if byte == b"\n":
                        self._changes_seen += 1
                        cancellation.wait(SETTLE_SECONDS)
                        yield
            finally:
                self._events = None


def _notify(on_change: Callable[[], None]) -> None:
    try:
        on_change()
    except Exception:
        log.exception("a change of containers could not be handled")


def _has_no_tag(inspect: Mapping[str, Any]) -> bool:
    return is_bare_id(image_reference(inspect)) and bool(text(inspect, "Image"))
