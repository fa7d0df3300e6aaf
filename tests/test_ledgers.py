"""The ledgers of all targets over a real store: what feeds them, what a restart keeps, what a person accepts."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.history.store import Store, open_reader
from exporter.ledgers import Ledgers, sample_of
from exporter.probe.result import ProbeResult
from tests.scenes import NOW, probe

BEFORE, AFTER = {"image": "vllm:0.11"}, {"image": "vllm:0.12"}


def results(speed: float, count: int, start: float) -> Iterator[ProbeResult]:
    """A probe a minute with a speed that wavers by 0.2 %."""
    for number in range(count):
        at = start + 60 * number
        yield replace(probe("vllm", 0, speed=speed * (1 + 0.002 * (number % 3 - 1))), at_seconds=at)


def feed(ledgers: Ledgers, facts: dict[str, str | None], speed: float, count: int, start: float) -> None:
    for result in results(speed, count, start):
        ledgers.observe("vllm", result.at_seconds, facts, result)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


def opened(path: Path | None) -> Ledgers:
    ledgers = Ledgers(Store(path, flush_seconds=0.01))
    ledgers.start()
    return ledgers


def test_a_restart_goes_on_where_it_ended(path: Path) -> None:
    """The change comes while the exporter is down; the level before it is known from the file, the ratio after 3 probes."""
    first = opened(path)
    feed(first, {**BEFORE}, 12.0, 40, NOW)
    first.close()
    second = opened(path)
    feed(second, {**AFTER}, 6.4, 3, NOW + 7200)
    (shift,) = second.of("vllm").standing
    second.close()
    assert shift.speed.ratio == pytest.approx(6.4 / 12, rel=0.02)
    third = opened(path)
    (entry,) = third.entries(target="vllm")
    third.close()
    assert (entry.differences[0].before, entry.differences[0].after) == ("vllm:0.11", "vllm:0.12")
    assert entry.shifts == (shift,)


def test_a_killed_process_loses_no_probe_that_was_kept(path: Path) -> None:
    """The ledger in the file is older than its probes; a start observes these again, each once and in their order."""
    first = opened(path)
    assert first._store is not None
    feed(first, {**BEFORE}, 12.0, 1, NOW)
    assert first._store.flush()
    feed(first, {**BEFORE}, 12.0, 39, NOW + 60)
    expected = first.of("vllm")
    assert first._store.flush()
    assert len(open_reader(path).ledgers()["vllm"].trackers["default"].since) < 40
    aside = path.with_name("killed.sqlite")
    for end in ("", "-wal"):  # as the process leaves it that ends here
        shutil.copy(f"{path}{end}", f"{aside}{end}")
    first.close()
    second = opened(aside)
    assert second.of("vllm").trackers["default"].since.speeds() == expected.trackers["default"].since.speeds()
    feed(second, {**AFTER}, 6.4, 3, NOW + 7200)
    assert second.of("vllm").standing
    second.close()


def test_what_is_new_is_told_before_it_is_in_the_file(path: Path) -> None:
    """The entries of now and the kept ones are one list, each entry once."""
    ledgers = Ledgers(Store(path, flush_seconds=60))
    ledgers.start()
    feed(ledgers, {**BEFORE}, 12.0, 10, NOW)
    feed(ledgers, {**AFTER}, 6.4, 5, NOW + 900)
    (entry,) = ledgers.entries()
    assert len(entry.shifts) == 1
    assert ledgers.entries(since=NOW + 3600) == ()
    assert ledgers.entries(target="other") == ()
    ledgers.close()
    assert opened(path).entries() == (entry,)


def test_speeds_of_two_days_and_of_a_month(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single probes of the last two days, medians by the hour of longer ago; nothing without a store."""
    ledgers = opened(path)
    feed(ledgers, {**BEFORE}, 12.0, 90, NOW - 5400)
    assert ledgers._store is not None
    assert ledgers._store.flush()
    monkeypatch.setattr("exporter.ledgers.time.time", lambda: NOW)
    single = ledgers.points("vllm", "default", NOW - 3600, NOW)
    assert len(single) == 60
    assert {point.ok for point in single} == {True}
    hours = ledgers.points("vllm", "default", NOW - 30 * 86400, NOW)
    assert 2 <= len(hours) <= 3
    assert hours[0].tokens_per_second == pytest.approx(12, rel=0.01)
    assert ledgers.points("other", "default", NOW - 3600, NOW) == ()
    ledgers.close()
    assert Ledgers().points("vllm", "default", NOW - 3600, NOW) == ()


def test_an_accepted_level_stands_no_more() -> None:
    """What a person accepts is no drop from then on, also without a store."""
    ledgers = Ledgers()
    feed(ledgers, {**BEFORE}, 12.0, 10, NOW)
    feed(ledgers, {**AFTER}, 6.4, 5, NOW + 900)
    assert ledgers.of("vllm").standing
    assert ledgers.accept("vllm", NOW + 2000).standing == ()
    assert ledgers.of("vllm").standing == ()
    assert ledgers.bytes is None


def test_a_module_that_is_gone_leaves_its_speeds() -> None:
    """What a target is no longer probed by is no longer judged."""
    ledgers = Ledgers()
    feed(ledgers, {**BEFORE}, 12.0, 10, NOW)
    ledgers.retain("vllm", ("prefill",))
    assert ledgers.of("vllm").trackers == {}
    ledgers.retain("unknown", ())


def test_which_probes_are_samples() -> None:
    """A skipped one is none; a failed, cold, shared or estimated one is there and does not count."""
    good = probe("vllm", 0, speed=12.0)
    sample = sample_of(good)
    assert sample is not None
    assert sample.counts
    assert sample_of(probe("vllm", 0, "skipped_busy")) is None
    estimated = replace(good, measurements=replace(good.measurements, token_count_exact=False))
    for result in (
        probe("vllm", 0, "connect"),
        replace(good, cold_start=True),
        replace(good, beside_users=2.0),
        estimated,
    ):
        kept = sample_of(result)
        assert kept is not None
        assert not kept.counts
