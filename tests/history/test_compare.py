"""TARGET@TIME: which time is meant, which probes stand for it, which facts differ, and what may not be compared."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from exporter.history.change import Difference, Entry, Known, observe_facts
from exporter.history.compare import (
    MOST_OF_A_DAY,
    NEAREST,
    Moment,
    Side,
    beside,
    chosen,
    facts_at,
    parse_moment,
    shape_fact,
    side_at,
    split_target_at,
)
from exporter.history.sample import Sample
from exporter.history.store import Reader, Store, open_reader
from tests.history.series import FACTS, MINUTE, fed, known, speeds

NOW = datetime(2026, 11, 21, 15, 30, tzinfo=UTC).timestamp()
CET = timezone(timedelta(hours=1))
HOUR = 3600.0
DAY = 86400.0


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("2h", NOW - 2 * HOUR, None),
        ("90m", NOW - 1.5 * HOUR, None),
        ("1d12h", NOW - 1.5 * DAY, None),
        ("1.5d", NOW - 1.5 * DAY, None),
        ("6w", NOW - 42 * DAY, None),
        ("today", datetime(2026, 11, 21, tzinfo=CET).timestamp(), DAY),
        ("yesterday", datetime(2026, 11, 20, tzinfo=CET).timestamp(), DAY),
        ("2026-11-18", datetime(2026, 11, 18, tzinfo=CET).timestamp(), DAY),
        ("2026-11-20T12:00", datetime(2026, 11, 20, 11, tzinfo=UTC).timestamp(), None),
        ("2026-11-20T12:00:30", datetime(2026, 11, 20, 11, 0, 30, tzinfo=UTC).timestamp(), None),
        ("2026-11-20T12:00Z", datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp(), None),
        ("2026-11-20T12:00+05:30", datetime(2026, 11, 20, 6, 30, tzinfo=UTC).timestamp(), None),
        ("2026-11-20 12:00", datetime(2026, 11, 20, 11, tzinfo=UTC).timestamp(), None),
    ],
)
def test_times_as_text(text: str, since: float, until: float | None) -> None:
    """How long ago, a day as a whole, a time in the zone of the person or in its own."""
    assert parse_moment(text, NOW, CET) == Moment(text, since, since if until is None else since + until)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's zone, with summer time."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_the_machine_s_zone_counts_with_its_summer_time() -> None:
    """The day on which the clocks go back has 25 hours, and noon in July is another hour of UTC than noon in November."""
    moment = parse_moment("2026-10-25", NOW)
    assert moment.until - moment.since == 25 * HOUR
    assert parse_moment("2026-07-01T12:00", NOW).since == datetime(2026, 7, 1, 10, tzinfo=UTC).timestamp()
    assert parse_moment("2026-11-01T12:00", NOW).since == datetime(2026, 11, 1, 11, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "text",
    ["", "soon", "2", "h", "2026-13-01", "2026-11", "25:00", "2026-11-22", "2026-11-21T17:00", "x" * 500],
)
def test_what_is_no_time_of_the_past(text: str) -> None:
    """Says so in a ValueError, or that it lies in the future; nothing else is raised."""
    with pytest.raises(ValueError, match=r"is not a time|is in the future"):
        parse_moment(text, NOW, CET)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("vllm@2h", ("vllm", "2h")),
        ("127.0.0.1:8000@yesterday", ("127.0.0.1:8000", "yesterday")),
        ("a@b@2h", ("a@b", "2h")),
        ("vllm", None),
        ("@2h", None),
        ("vllm@", None),
        ("http://user@host:8000", None),
    ],
)
def test_a_target_and_its_time(text: str, parts: tuple[str, str] | None) -> None:
    """The last @ parts them; a URL is no target in the history."""
    assert split_target_at(text) == parts


# Which probes


def every_minute(count: int, start: float = NOW - DAY) -> list[Sample]:
    return [Sample(start + number * MINUTE, 12.0) for number in range(count)]


def test_the_nearest_probes_stand_for_a_time() -> None:
    """60 around it, good ones only, none farther than six hours."""
    moment = Moment("", NOW - 12 * HOUR, NOW - 12 * HOUR)
    found = chosen([*every_minute(1440), Sample(moment.since, 3.0, cold_start=True)], moment, ())
    assert len(found) == NEAREST
    assert max(abs(sample.at_seconds - moment.since) for sample in found) <= 30 * MINUTE
    assert {sample.tokens_per_second for sample in found} == {12.0}
    assert [s.at_seconds for s in found] == sorted(s.at_seconds for s in found)
    assert chosen(every_minute(60), moment, ()) == ()


def test_no_side_crosses_a_change() -> None:
    """A time shortly after a change is compared by the probes since; one shortly before it by those before."""
    change = NOW - 12 * HOUR
    for offset, expected in ((120.0, range(2)), (-120.0, range(-1, 0))):
        moment = Moment("", change + offset, change + offset)
        found = chosen(every_minute(1440), moment, (change, NOW - DAY - 1))
        assert len(found) == NEAREST
        assert all((sample.at_seconds >= change) == (expected[0] >= 0) for sample in found)


def test_a_day_stands_for_all_of_its_probes() -> None:
    """Evenly thinned out; of a day in which something changed, those since."""
    moment = Moment("", NOW - DAY, NOW)
    found = chosen(every_minute(3000, NOW - DAY - 500 * MINUTE), moment, ())
    assert MOST_OF_A_DAY / 2 < len(found) <= MOST_OF_A_DAY
    assert moment.since <= found[0].at_seconds
    assert found[-1].at_seconds < moment.until
    since_change = chosen(every_minute(1440), moment, (NOW - HOUR,))
    assert len(since_change) == 60
    assert since_change[0].at_seconds >= NOW - HOUR


# Which facts


def test_facts_of_a_time_are_those_of_now_with_the_changes_undone() -> None:
    """Backwards through the changes; what was first seen later is unknown then."""
    facts = {"image": Known("c", 300.0), "kernel": Known("6.15", 400.0), "driver": Known("1", 250.0)}
    entries = [
        Entry("vllm", 200.0, (Difference("image", "a", "b"),), ()),
        Entry("vllm", 300.0, (Difference("image", "b", "c"),), ()),
    ]
    assert facts_at(facts, entries, 500.0) == {"image": "c", "kernel": "6.15", "driver": "1"}
    assert facts_at(facts, entries, 260.0) == {"image": "b", "driver": "1"}
    assert facts_at(facts, entries, 100.0) == {"image": "a"}
    assert facts_at({}, (), 100.0) == {}


def side(module: str = "default", speed: float = 12.0, **facts: str) -> Side:
    return Side("vllm@2h", "vllm", module, facts, tuple(Sample(float(n), speed, 0.3) for n in range(10)))


def shaped(shape: str) -> Side:
    return replace(side(), facts={shape_fact("default"): shape})


def test_what_differs_between_two_sides() -> None:
    """Their ratios by the ledger's test, the facts that differ, and those that only one side knows."""
    sides = beside(side(image="a", kernel="6", model="m"), side(speed=9.0, image="b", model="m", driver="1"))
    assert sides.speed is not None
    assert sides.speed.ratio == pytest.approx(0.75)
    assert sides.ttft is not None
    assert not sides.ttft.beyond_noise
    assert sides.prefill is None
    assert sides.differences == (Difference("image", "a", "b"),)
    assert sides.unequal == ()
    assert sides.unknown == ("driver", "kernel")


@pytest.mark.parametrize(
    ("one", "other", "fact"),
    [
        (side(model="a"), side(model="b"), "model"),
        (side(module="default"), side(module="prefill"), "module"),
        (shaped("64 tokens"), shaped("16 tokens"), "module default"),
    ],
)
def test_unequal_things_are_named(one: Side, other: Side, fact: str) -> None:
    """Another model, another module, another shape of it: what is measured is then not the same thing."""
    assert [each.fact for each in beside(one, other).unequal] == [fact]


# From a history


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Five days of a target, with an update three hours ago and one of its kernel three days ago."""
    path = tmp_path_factory.mktemp("history") / "history.sqlite"
    store = Store(path, flush_seconds=0, clock=lambda: NOW)
    store.start()
    ledger = known()
    start = NOW - 5 * DAY
    ledger = observe_facts(ledger, start, FACTS)
    ledger = observe_facts(fed(ledger, speeds(1, 60), start), NOW - 3 * DAY, FACTS | {"kernel": "6.15.0"})
    updated = FACTS | {"kernel": "6.15.0", "image": "new"}
    ledger = observe_facts(fed(ledger, speeds(2, 60), NOW - 3 * DAY + 1), NOW - 3 * HOUR, updated)
    for number, speed in enumerate(speeds(3, 5 * 144)):
        at = start + number * 600 + 5
        level = 0.7 if at > NOW - 3 * HOUR else 1.0
        store.add("vllm", "default", Sample(at, speed * level, 0.3))
        store.add("vllm", "prefill", Sample(at + 60, 30.0, 2.0, 900.0))
    store.save(fed(ledger, [8.5] * 20, NOW - 3 * HOUR + 1))
    assert store.close()
    return open_reader(path)


def test_yesterday_against_two_hours_ago(reader: Reader) -> None:
    """The ratio, and the image as the one fact that differs."""
    sides = beside(side_at(reader, "vllm@yesterday", NOW, zone=UTC), side_at(reader, "vllm@2h", NOW))
    assert sides.speed is not None
    assert sides.speed.ratio == pytest.approx(0.7, rel=0.03)
    assert sides.speed.below
    assert sides.differences == (Difference("image", FACTS["image"], "new"),)
    assert sides.unequal == ()


def test_medians_stand_in_for_probes_that_are_gone(reader: Reader) -> None:
    """Once single probes are swept away, hours answer; here they still are there, so they do."""
    found = side_at(reader, "vllm@4d", NOW, module="prefill")
    assert not found.hourly
    assert found.facts["kernel"] == "6.14.0"
    assert {sample.prefill_tokens_per_second for sample in found.samples} == {900.0}

    class Swept(Reader):
        def samples(self, target: str, module: str, since: float, until: float) -> tuple[Sample, ...]:
            del target, module, since, until
            return ()

    by_hour = side_at(Swept(reader._connect), "vllm@4d", NOW)
    assert by_hour.hourly
    assert 10 <= len(by_hour.samples) <= 13
    assert math.isclose(by_hour.samples[0].tokens_per_second or 0, 12.1, rel_tol=0.05)


@pytest.mark.parametrize(
    ("text", "module", "why"),
    [
        ("vllm", None, "names no time"),
        ("other@2h", None, r"no history of other \(targets: vllm\)"),
        ("vllm@2h", "parallel", r"by the module parallel \(modules: default, prefill\)"),
        ("vllm@30d", None, "no good probe of vllm by the module default within 6 h of 30d; the nearest hour"),
        ("vllm@2026-11-01", None, "no good probe of vllm by the module default in 2026-11-01"),
        ("vllm@soon", None, "is not a time: 'soon'"),
    ],
)
def test_what_the_history_can_not_answer(reader: Reader, text: str, module: str | None, why: str) -> None:
    """Each is a sentence that says what there is instead."""
    with pytest.raises(ValueError, match=why):
        side_at(reader, text, NOW, module=module)


def test_a_day_with_a_change_says_so(reader: Reader) -> None:
    """Only the probes since the last change of that day count, and the side notes it."""
    found = side_at(reader, "vllm@today", NOW, zone=UTC)
    assert found.notes
    assert found.facts["image"] == "new"
    assert found.samples[0].at_seconds >= NOW - 3 * HOUR
