"""Look-ups of names: bounded, shared, and cancelled."""

import socket
import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from exporter.probe.client import Deadlines, stream
from exporter.probe.failure import ProbeFailure
from exporter.probe.http import resolve
from exporter.probe.http.transport import Connection
from tests.probe.http.probing import DEADLINES, REQUEST, cancelled_soon, read


@pytest.fixture
def stuck_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names are never resolved; gives the list of those asked for."""
    asked: list[str] = []
    release = threading.Event()

    def hang(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        release.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield asked
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("resolve "):
            thread.join()


def two_failures_at_nowhere(deadlines: Deadlines) -> list[ProbeFailure]:
    """What two probes raise that look up one name at the same time."""
    failures = []

    def probe() -> None:
        with pytest.raises(ProbeFailure) as caught:
            stream(Connection("http://nowhere.example:1"), REQUEST, read, deadlines)
        failures.append(caught.value)

    threads = [threading.Thread(target=probe) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_a_resolver_that_hangs_is_bounded_and_asked_once(stuck_names: list[str]) -> None:
    """Two probes of one name wait for one look-up, no longer than they may connect, and name what was not found."""
    failures = two_failures_at_nowhere(Deadlines(0.3, 5, 5, 5))
    assert [each.result for each in failures] == ["resolve", "resolve"]
    assert all("nowhere.example was not resolved within 0.3 s" in each.message for each in failures)
    assert stuck_names == ["nowhere.example"]


def test_each_who_waits_for_a_name_gets_a_failure_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look-up fails for two probes, and each raises another exception: one of both would mix their tracebacks."""
    asked, both_wait = list[str](), threading.Barrier(3)

    def fail(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        both_wait.wait(10)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    class Waiting(SimpleQueue[Any]):
        def get(self, *args: Any, **kwargs: Any) -> Any:
            both_wait.wait(10)
            return super().get(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(resolve, "queue", SimpleNamespace(SimpleQueue=Waiting, Empty=Empty))

    failures = two_failures_at_nowhere(DEADLINES)
    causes = [each.__cause__ for each in failures]
    assert asked == ["nowhere.example"]
    assert [type(cause) for cause in causes] == [socket.gaierror] * 2
    assert causes[0] is not causes[1]
    assert all("the host name is not known" in each.message for each in failures)


def test_cancelling_ends_a_lookup(stuck_names: list[str]) -> None:
    """A resolver that hangs does not hold up the end of the daemon."""
    url = "http://nowhere.example:1"
    took = cancelled_soon(lambda c: stream(Connection(url, cancellation=c), REQUEST, read, DEADLINES))
    assert took < DEADLINES.connect / 2
    assert stuck_names == ["nowhere.example"]
