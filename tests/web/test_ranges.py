"""How far back the lines of speeds go: three hours from memory, two days and thirty from the history, with marks of changes."""

import pytest

from exporter.history.change import Ledger, observe, observe_facts
from exporter.history.record import Plan, Point
from exporter.history.sample import Sample
from exporter.snapshot import Snapshot, plan_key, probe_key
from exporter.web.page import render_page
from exporter.web.ranges import MOST_POINTS, RANGES, Stretch, thinned
from tests.scenes import NOW, probe, publish_all

DAY = 86400.0


def test_a_long_history_is_thinned() -> None:
    """A minute's probes of two days become so many medians, in order; an outlier among them is no point of its own."""
    points = [Point(60.0 * number, 5.0 if number % 50 == 0 else 12.0, True) for number in range(2880)]
    found = thinned(points, 0.0, 2 * DAY)
    assert len(found) == MOST_POINTS
    assert [point.at_seconds for point in found] == sorted(point.at_seconds for point in found)
    assert {point.tokens_per_second for point in found} == {12.0}
    assert thinned(points, 3 * DAY, 4 * DAY) == ()


def test_where_all_failed_the_line_breaks() -> None:
    """One that failed among good ones is not shown at that width; an hour without a good one is."""
    points = [Point(720.0 * number + 1, None if number == 7 else 12.0, number != 7) for number in range(20)]
    found = thinned([*points, Point(2.0, None, False)], 0.0, 2 * DAY)
    assert [point.ok for point in found] == [number != 7 for number in range(20)]


def test_the_history_is_asked_for_what_memory_does_not_hold() -> None:
    """For three hours only what was before the recent probes, for longer from the beginning; changes are marked."""
    record = publish_all(Snapshot()).view().records["vllm", "default"]
    asked: list[tuple[str, str, float, float]] = []

    def points(target: str, module: str, since: float, until: float) -> list[Point]:
        asked.append((target, module, since, until))
        return [Point(since + number * (until - since) / 50, 24.0, True) for number in range(50)]

    ledger = observe_facts(observe_facts(Ledger("vllm"), NOW - 3 * DAY, {"image": "A"}), NOW - DAY, {"image": "B"})
    ledger = observe(ledger, "default", Sample(NOW - DAY + 60, 12.0))
    month = Stretch("30d", points).line(record, ledger, NOW)
    assert month is not None
    assert month.seconds == pytest.approx(30 * DAY, rel=0.02)
    (mark,) = month.changes
    assert mark == pytest.approx(100 * 29 / 30, abs=0.5)
    first = next(iter(record.history)).at_seconds
    assert asked.pop() == ("vllm", "default", NOW - 30 * DAY, first)
    hours = Stretch("3h", points).line(record, ledger, NOW)
    assert hours is not None
    assert hours.changes == ()
    assert all(since >= NOW - RANGES["3h"] for _, _, since, _ in asked)
    unread = Stretch("3h").line(record, None, NOW)
    assert unread is not None


def test_the_newest_speed_lies_in_what_the_line_says() -> None:
    """Where probes are so frequent that medians are drawn, the speed that is shown beside the line is not outside of its range."""
    snapshot = Snapshot()
    snapshot.publish(plan_key("a", "default"), Plan(15))
    for number in range(40):
        snapshot.publish(
            probe_key("a", "default"), probe("a", 15.0 * (40 - number), speed=14.9 if number == 39 else 16.0)
        )
    line = Stretch().line(snapshot.view().records["a", "default"], None, NOW)
    assert line is not None
    assert (line.low, line.high) == (14.9, 16.0)


@pytest.mark.parametrize(("name", "current"), [("2d", "2d"), ("30d", "30d"), ("nonsense<b>", "3h")])
def test_the_page_says_which_stretch_it_shows(name: str, current: str) -> None:
    """The one that is shown is marked, the others are links; any other word is the usual one."""
    html = render_page(publish_all(Snapshot()).view(), NOW, {}, stretch=Stretch(name))
    assert f'<b aria-current="true">{current}</b>' in html
    assert html.count('<a href="?range=') == len(RANGES) - 1
    assert name == current or name not in html
