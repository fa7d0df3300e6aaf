"""How the client connects, and what it never does."""

import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from exporter.probe.client import Deadlines, Request, fetch, stream
from exporter.probe.failure import ProbeFailure
from exporter.probe.http.transport import Connection
from tests.probe.http.probing import read
from tests.servers.exact import ExactServer, ScriptedAnswer, chat, plain


def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch, blackhole: str) -> None:
    """A name with a dead address, a silent one and a good one is reached by the good one."""
    with ExactServer({"/": plain(b"here")}) as server:
        ports = [1, int(blackhole.rpartition(":")[2]), server.port]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert fetch(Connection("http://three.example"), "/", timeout=2, limit_bytes=100).body == b"here"


def test_nothing_of_the_environment_gets_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no netrc, no cookie of an answer before, no compression is asked for."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", "/dev/null")
    with ExactServer({"/": plain(b"here", headers=[("set-cookie", "a=b")])}) as server:
        for _ in range(2):
            assert fetch(Connection(server.url), "/", timeout=5, limit_bytes=100).body == b"here"
        sent = server.played()[-1].headers
    assert sent["accept-encoding"] == "identity"
    assert sent["user-agent"].startswith("llm-probe-exporter/")
    assert "cookie" not in sent
    assert "authorization" not in sent


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_no_descriptor_and_no_thread_is_left_behind(blackhole: str) -> None:
    """After successes and all kinds of failures the process holds what it held before."""
    fine = chat(tokens=3, tokens_per_second=1000, ttft=0)
    broken = ScriptedAnswer(((0.0, b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {"),), "reset")
    quick = Deadlines(connect=0.05, first_token=0.05, stalled=0.05, total=0.2)

    def held() -> tuple[int, int]:
        return sum(1 for _ in Path("/proc/self/fd").iterdir()), threading.active_count()

    def everything() -> None:
        with ExactServer({"/chat": fine, "/broken": broken, "/silent": ScriptedAnswer((), "hang")}) as server:
            for url, path in [
                *[(server.url, path) for path in ("/chat", "/broken", "/silent", "/nothing")],
                (server.url.replace("http:", "https:"), "/chat"),
                (blackhole, "/chat"),
                ("http://127.0.0.1:1", "/chat"),
            ]:
                with suppress(ProbeFailure):
                    stream(Connection(url), Request(path, b"{}"), read, quick)

    everything()
    before = held()
    for _ in range(3):
        everything()
    assert held() == before
