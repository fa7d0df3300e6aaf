"""What a cancellation ends, and how soon."""

import pytest

from exporter.probe.client import fetch, stream
from exporter.probe.failure import Cancelled
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.http.transport import Connection
from tests.probe.http.probing import DEADLINES, REQUEST, cancelled_soon, read
from tests.servers.exact import ExactServer, ScriptedAnswer, chat, plain


@pytest.mark.parametrize(
    "answer",
    [ScriptedAnswer((), "hang"), chat(tokens=5, end="hang", whole=False, done=False, finish=None, usage=False)],
    ids=["before the answer", "in the stream"],
)
def test_cancelling_ends_a_read(answer: ScriptedAnswer) -> None:
    """A probe that waits for its server ends at once when another thread cancels it."""
    with ExactServer({"/chat": answer}) as server:
        took = cancelled_soon(lambda c: stream(Connection(server.url, cancellation=c), REQUEST, read, DEADLINES))
    assert took < DEADLINES.first_token / 2


def test_cancelling_ends_connecting(blackhole: str) -> None:
    """So does one that waits for a connection."""
    took = cancelled_soon(lambda c: stream(Connection(blackhole, cancellation=c), REQUEST, read, DEADLINES))
    assert took < DEADLINES.connect / 2


def test_cancelling_ends_a_tls_handshake() -> None:
    """So does one whose server accepts and says nothing."""
    with ExactServer({}) as server:
        url = server.url.replace("http:", "https:")
        took = cancelled_soon(lambda c: stream(Connection(url, cancellation=c), REQUEST, read, DEADLINES))
    assert took < DEADLINES.connect / 2


def test_what_is_cancelled_before_does_not_start() -> None:
    """A cancelled connection reaches no server."""
    cancellation = Cancellation()
    cancellation.cancel()
    with ExactServer({"/": plain()}) as server:
        with pytest.raises(Cancelled):
            fetch(Connection(server.url, cancellation=cancellation), "/", timeout=5, limit_bytes=10)
        assert server.played() == []
