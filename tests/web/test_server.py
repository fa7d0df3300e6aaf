"""The server on real sockets: where it listens, how it ends, and that no client holds up another."""

import http.client
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from exporter.exposition import Exposition
from exporter.history.record import Plan
from exporter.probe.result import ProbeResult
from exporter.snapshot import Snapshot, plan_key, probe_key
from exporter.web.app import Refused, build_app
from exporter.web.server import HEADER_BYTES, AsgiApp, ListenError, WebServer, listen
from tests.scenes import probe
from tests.web.actions import StubActions


class Held:
    """A probe on demand that lasts until it is let go."""

    def __init__(self) -> None:
        self.probing = threading.Event()
        self.release = threading.Event()

    def __call__(self, target: str, module: str) -> ProbeResult | Refused:
        self.probing.set()
        self.release.wait(30)
        return Refused(f"{target} {module}")


@contextmanager
def serving(app: AsgiApp) -> Iterator[tuple[WebServer, int]]:
    """A running server and its port."""
    bound = listen("127.0.0.1", 0)
    server = WebServer(app, bound)
    server.start()
    try:
        yield server, bound.getsockname()[1]
    finally:
        server.stop()


def get(port: int, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def many_targets(count: int) -> tuple[Snapshot, Exposition]:
    exposition = Exposition()
    snapshot = Snapshot(watch=exposition.prepare)
    snapshot.publish_all((plan_key(f"t{number:03}", "default"), Plan(60)) for number in range(count))
    return snapshot, exposition


def test_a_port_alone_is_every_address_of_both_kinds() -> None:
    """``:9937`` is reached by IPv4 and by IPv6, where the machine has it."""
    with listen("", 0) as bound:
        port = bound.getsockname()[1]
        hosts = ["127.0.0.1", *(["::1"] if bound.family is socket.AF_INET6 else [])]
        for host in hosts:
            with socket.create_connection((host, port), timeout=5):
                pass
        assert socket.has_dualstack_ipv6() == (len(hosts) == 2)
        with pytest.raises(ListenError, match="the port is in use"):
            listen("", port)


def test_a_port_in_use_is_an_error_that_says_what_to_do() -> None:
    """The second who wants a port learns at start which, why, how to find the other, and what to do."""
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ListenError) as refused:
            listen("127.0.0.1", port)
    message = str(refused.value)
    assert message.startswith(f"can't listen on 127.0.0.1:{port}: the port is in use")
    assert f"sport = :{port}" in message
    assert "--listen" in message


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("192.0.2.1", "the address is not of this machine"),
        ("no-such-host.invalid", "is not an address of this machine"),
    ],
)
def test_an_address_that_is_not_here(host: str, message: str) -> None:
    """An address of another machine, or none at all, is said to be that."""
    with pytest.raises(ListenError, match=message):
        listen(host, 9937)


def test_a_port_can_be_used_again_at_once() -> None:
    """A restart finds its port free though connections of before have not timed out."""
    snapshot, exposition = many_targets(1)
    with serving(build_app(snapshot, exposition.render, StubActions())) as (_, port):
        assert get(port, "/-/healthy") == (200, b"the scheduler runs\n")
    listen("127.0.0.1", port).close()


def test_it_answers_on_ipv6() -> None:
    """An IPv6 address is listened on as any other."""
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        bound = listen("::1", 0)
    except ListenError:
        pytest.skip("this machine has no ::1")
    with bound:
        assert bound.family == socket.AF_INET6


def test_head_has_no_body() -> None:
    """HEAD tells the length and sends nothing."""
    snapshot, exposition = many_targets(1)
    with serving(build_app(snapshot, exposition.render, StubActions())) as (_, port):
        assert get(port, "/metrics", "HEAD") == (200, b"")


def test_stop_does_not_wait_for_a_probe() -> None:
    """A probe that a client waits for can't hold up the end of the process."""
    held = Held()
    snapshot, exposition = many_targets(1)
    with (
        serving(build_app(snapshot, exposition.render, StubActions(outcome=held))) as (server, port),
        ThreadPoolExecutor(1) as clients,
    ):
        waiting = clients.submit(get, port, "/probe?target=a")
        assert held.probing.wait(20)
        server.stop()
        assert not held.release.is_set()
        with pytest.raises(OSError, match=r"refused"):
            socket.create_connection(("127.0.0.1", port), 5)
        held.release.set()
        assert waiting.exception(20) is not None or waiting.result()[0] >= 400


def test_a_server_that_is_stopped_is_not_alive() -> None:
    """Alive is what start waits for and stop ends; stopping says that everything ended."""
    snapshot, exposition = many_targets(1)
    with serving(build_app(snapshot, exposition.render, StubActions())) as (server, _):
        assert server.alive
        assert server.stop()
        assert not server.alive


def test_clients_that_read_nothing_hold_up_nobody() -> None:
    """Connections that ask for a large page and don't read it leave others their answers."""
    snapshot, exposition = many_targets(400)
    with serving(build_app(snapshot, exposition.render, StubActions())) as (_, port):
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        for connection in idle:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        status, body = get(port, "/metrics")
        assert status == 200
        assert b'target="t399"' in body
        for connection in idle:
            connection.close()
        assert get(port, "/-/healthy")[0] == 200


def test_every_scrape_is_one_consistent_view() -> None:
    """While two targets are published at one instant, again and again, twenty scrapers never see one without the other."""
    snapshot, exposition = many_targets(2)
    pattern = re.compile(rb'llm_probes_total\{module="default",result="ok",target="(t\d+)"\} (\S+)')
    with (
        serving(build_app(snapshot, exposition.render, StubActions())) as (_, port),
        ThreadPoolExecutor(20) as scrapers,
    ):
        scrapes = [scrapers.submit(get, port, "/metrics") for _ in range(100)]
        published = 0
        while not all(scrape.done() for scrape in scrapes):
            results = (probe(f"t{number:03}", 0, speed=20) for number in range(2))
            snapshot.publish_all([(probe_key(result.target, "default"), result) for result in results])
            published += 1
        bodies = [scrape.result()[1] for scrape in scrapes]
    seen = [dict(pattern.findall(body)) for body in bodies]
    assert all(values[b"t000"] == values[b"t001"] for values in seen)
    assert published > 1


def test_headers_without_end_are_refused() -> None:
    """A request whose headers outgrow the limit gets an error or a closed connection, and others are served on."""
    snapshot, exposition = many_targets(1)
    with serving(build_app(snapshot, exposition.render, StubActions())) as (_, port):
        try:
            status, _ = get(port, "/metrics", headers={"X-Long": "a" * (20 * HEADER_BYTES)})
        except OSError:  # closed while it still sent
            status = 400
        assert status == 400
        assert get(port, "/-/healthy")[0] == 200
