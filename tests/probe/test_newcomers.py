"""Who came into a probe, by what the table of connections says at each reading."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest

from exporter.probe.newcomers import Came, Connected, Newcomers, unseen


@dataclass(frozen=True)
class Ends:
    """One reading of a table."""

    others: frozenset[bytes]
    ours: int = 1
    unanswered: frozenset[bytes] = frozenset()


def at(names: str, ours: int = 1) -> Ends:
    """A reading with these far ends, a letter each: a capital one where a request waits for its answer."""
    waiting = frozenset(each.lower().encode() for each in names if each.isupper())
    return Ends(frozenset(each.encode() for each in names.lower()), ours, waiting)


def came_at(readings: Iterable[Connected | None], streams: int = 1) -> Iterator[Came | None]:
    """What each reading gives; the first reading is the one before the probe."""
    found = iter([*readings])
    newcomers = Newcomers(lambda: next(found), streams)
    while True:
        try:
            yield newcomers.read()
        except StopIteration:
            return


@pytest.mark.parametrize(
    ("readings", "came"),
    [
        pytest.param("| | ", [(0, 0), (0, 0)], id="nobody"),
        pytest.param("|a|a|a", [(1, 0), (1, 1), (1, 1)], id="one who stays"),
        pytest.param("|a||b|", [(1, 0), (0, 0), (1, 0), (0, 0)], id="a scrape each second"),
        pytest.param("|a|b|c", [(1, 0), (1, 0), (1, 0)], id="a scrape at each reading"),
        pytest.param("k|k|k", [(0, 0), (0, 0)], id="kept from before"),
        pytest.param("k|ka|ka", [(1, 0), (1, 1)], id="one beside a kept one"),
        pytest.param("k||", [(0, 0), (0, 0)], id="a kept one that leaves"),
        pytest.param("|ab|abc|bc", [(2, 0), (3, 2), (2, 2)], id="several"),
        pytest.param("k|K|K|k", [(1, 0), (1, 1), (0, 0)], id="a request over a kept one"),
        pytest.param("kl|K|L|kl", [(1, 0), (1, 0), (0, 0)], id="a scrape over a kept one at each reading"),
        pytest.param("K|K|K", [(0, 0), (0, 0)], id="a kept one whose client spoke last before"),
        pytest.param("|A|A|A", [(1, 0), (1, 1), (1, 1)], id="one who came and waits is one"),
    ],
)
def test_who_is_there_at_two_readings_came(readings: str, came: list[tuple[int, int]]) -> None:
    """One that was there before the probe does not count, nor one that is seen once only."""
    assert [*came_at(map(at, readings.replace(" ", "").split("|")))] == [Came(*each) for each in came]


def test_where_ours_are_not_known_so_many_are_taken_off() -> None:
    """Behind a proxy, or in a network of its own, our connection has another address."""
    readings = [at("k", ours=0), at("kp", ours=0), at("kp", ours=0), at("kpu", ours=0), at("kpu", ours=0)]
    assert [*came_at(readings)] == [Came(0, 0), Came(0, 0), Came(1, 0), Came(1, 1)]
    assert [*came_at([at("", ours=0), at("pqu", ours=0), at("pqu", ours=0)], streams=2)] == [Came(1, 0), Came(1, 1)]


def test_a_table_without_our_own_connection_tells_nothing() -> None:
    """The server's connections are in another one, so nobody in this one means nothing."""
    assert [*came_at([at("", ours=0), at("", ours=0), at("u", ours=0)], streams=2)] == [None, None]


def test_where_no_table_can_be_read_nothing_is_told() -> None:
    """Neither before the probe nor in it."""
    assert Newcomers(iter([None, at("u")]).__next__, 1).read() is None
    assert Newcomers(unseen, 1).read() is None
    assert [*came_at([at(""), None, at("u")])] == [None, Came(1, 0)]
