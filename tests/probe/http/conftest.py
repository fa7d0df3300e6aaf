"""What several tests of the connection need."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.certificates import make_certificate


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and localhost, good for long."""
    return make_certificate(tmp_path_factory.mktemp("certificate") / "good")


@pytest.fixture
def blackhole() -> Iterator[str]:
    """The URL of a port that drops attempts to connect: its queue is full and nobody accepts."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for one in waiting:
            one.close()
