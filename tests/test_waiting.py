"""The helper that the tests wait with."""

import pytest

from tests.waiting import eventually


def test_it_gives_what_was_waited_for() -> None:
    """The first value that is true, whatever came before it."""
    values = iter(["", None, "there"])
    assert eventually(lambda: next(values), "a value", every=0) == "there"


def test_it_says_what_did_not_happen() -> None:
    """The message names it, with what was seen last."""
    with pytest.raises(AssertionError, match=r"did not happen within 0 s: a third probe; seen last: \[\]"):
        eventually(list, "a third probe", seconds=0)


def test_what_does_not_listen_yet_is_waited_for() -> None:
    """A refused connection is no failure of the test, until the time is over; then it is told."""

    def refuse() -> bool:
        raise ConnectionRefusedError(111, "Connection refused")

    with pytest.raises(AssertionError, match="a start; seen last: ConnectionRefusedError"):
        eventually(refuse, "a start", seconds=0)
