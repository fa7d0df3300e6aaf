"""The timer: the nearer deadline counts, and a passed one says what was missing."""

import time

import pytest

from exporter.probe.failure import Expired
from exporter.probe.http.deadlines import Timer

SECOND = 1_000_000_000


@pytest.fixture
def now_ns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The monotonic clock as a list of one instant, which a test may set."""
    instant = [0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: instant[0])
    return instant


def test_the_nearer_deadline_counts(now_ns: list[int]) -> None:
    """A stage shortens the time that remains, and none lengthens it beyond the whole request's."""
    timer = Timer(0, 10, "not done")
    assert timer.remaining() == 10
    timer.allow("timeout_connect", 2, "no connection", since_ns=0)
    assert timer.remaining() == 2
    now_ns[0] = 4 * SECOND
    timer.allow("timeout_stalled", 30, "no token", since_ns=4 * SECOND)
    assert timer.remaining() == 6


@pytest.mark.parametrize(
    ("at", "expected"),
    [(2, ("timeout_connect", 2, "no connection")), (11, ("timeout_connect", 2, "no connection"))],
    ids=["at its end", "long after"],
)
def test_a_passed_stage_says_what_was_missing(now_ns: list[int], at: int, expected: tuple[str, float, str]) -> None:
    """The first deadline that passed gives the result, also where the whole request's has passed since."""
    timer = Timer(0, 10, "not done")
    timer.allow("timeout_connect", 2, "no connection", since_ns=0)
    now_ns[0] = at * SECOND
    with pytest.raises(Expired) as caught:
        timer.remaining()
    assert (caught.value.result, caught.value.seconds, caught.value.doing) == expected


def test_the_whole_request_ends_in_whatever_stage(now_ns: list[int]) -> None:
    """A stage that may still go on does not keep a request alive beyond its total."""
    timer = Timer(0, 10, "not done")
    timer.allow("timeout_stalled", 30, "no token", since_ns=0)
    now_ns[0] = 10 * SECOND
    with pytest.raises(Expired) as caught:
        timer.remaining()
    assert caught.value.result == "timeout_total"
