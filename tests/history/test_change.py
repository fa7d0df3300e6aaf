"""Facts into changes, and what each change cost: which differences are one, which are none, and what belongs to what."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.history.change import (
    CHARACTERS,
    MOST_CHANGES,
    MOST_FACTS,
    MOST_SERIES,
    RESTLESS,
    Change,
    Difference,
    Ledger,
    accept,
    entries_of,
    news,
    observe,
    observe_facts,
    observe_fingerprint,
    retain,
)
from exporter.history.change_text import change_text
from exporter.history.document import document_of, ledger_of
from exporter.history.sample import Sample
from exporter.history.shift import Shift
from tests.history.series import FACTS, MINUTE, SPEED, START, fed, known, probe, speeds

FACT_SETS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["1", "2", "3", "", None]), max_size=4)


def fact_changes(*sets: dict[str, str | None], good_probes: bool = True) -> Ledger:
    """The ledger after these facts, read a minute apart, each followed by a good probe."""
    ledger = Ledger("vllm")
    for number, facts in enumerate(sets):
        ledger = observe_facts(ledger, START + number * MINUTE, facts)
        if good_probes:
            ledger = observe(ledger, "default", probe(number, SPEED))
    return ledger


def told(ledger: Ledger, module: str = "default") -> list[Shift]:
    return [shift for shift in ledger.shifts if shift.module == module and shift.told_at_seconds is not None]


def after_change(ledger: Ledger, values: list[float], at: float, **facts: str) -> Ledger:
    """The ledger after a change at a time and a probe a minute since."""
    return fed(observe_facts(ledger, at, FACTS | facts), values, at + 1)


# Facts


@pytest.mark.parametrize(
    ("sets", "changes"),
    [
        ([{"image": "a"}, {"image": "a"}], []),
        ([{}, {"image": "a"}], []),
        ([{"image": None}, {"image": "a"}], []),
        ([{"image": "a"}, {"image": "b"}], [("image", "a", "b")]),
        ([{"image": "a"}, {"image": None}, {"image": "a"}], []),
        ([{"image": "a"}, {}, {"image": "a"}], []),
        ([{"image": "a"}, {"image": ""}, {"image": "a"}], []),
        ([{"image": "a"}, {"image": None}, {"image": "b"}], [("image", "a", "b")]),
        ([{"image": "a"}, {"image": "b"}, {"image": "a"}], [("image", "a", "b"), ("image", "b", "a")]),
        ([{"image": "a", "kernel": "6"}, {"image": "b"}], [("image", "a", "b")]),
        ([{"image": "a\n"}, {"image": " a"}], []),
        ([{"image": "a" * 200}, {"image": "a" * 300}], []),
    ],
)
def test_what_is_a_change_of_a_fact(sets: list[dict[str, str | None]], changes: list[tuple[str, str, str]]) -> None:
    """A first value and an unknown one are none; another value after an unknown one is."""
    ledger = fact_changes(*sets)
    assert [(d.fact, d.before, d.after) for change in ledger.changes for d in change.differences] == changes


def test_what_changes_together_is_one_change() -> None:
    """An image brings its ROCm along, also where that is read a minute later and the server answers again only then."""
    at = START + MINUTE
    ledger = observe_facts(known(), at, FACTS | {"image": "vllm:0.12@sha256:bb"})
    ledger = observe(ledger, "default", Sample(at + 30, ok=False))
    ledger = observe_facts(ledger, at + 60, FACTS | {"image": "vllm:0.12@sha256:bb", "host ROCm": "7.1.0"})
    ledger = observe(ledger, "default", probe(3, SPEED))
    (change,) = ledger.changes
    assert change == Change(
        "vllm",
        at,
        (
            Difference("image", FACTS["image"], "vllm:0.12@sha256:bb"),
            Difference("host ROCm", "7.0.2", "7.1.0"),
        ),
    )


def test_what_is_undone_before_a_good_probe_is_no_change() -> None:
    """A rollback while the server is down leaves nothing, and the news say what is gone; a part of it leaves the rest."""
    changed = observe_facts(known(), START + 60, FACTS | {"image": "new", "kernel": "6.15.0"})
    part = observe_facts(changed, START + 120, FACTS | {"kernel": "6.15.0"})
    assert [each.fact for each in part.changes[0].differences] == ["kernel"]
    back = observe_facts(part, START + 180, FACTS)
    assert back.changes == ()
    assert news(part, back).gone_changes == part.changes
    assert fed(back, speeds(1, 40), START + 200).shifts == ()


def test_a_change_during_a_long_outage_is_one_of_its_own() -> None:
    """Without a good probe between them, what changes more than ten minutes later has its own time."""
    ledger = observe_facts(known(), START, FACTS | {"image": "new"})
    ledger = observe_facts(ledger, START + 5 * 3600, FACTS | {"image": "new", "kernel": "6.15.0"})
    assert [change.at_seconds for change in ledger.changes] == [START, START + 5 * 3600]


def test_a_fact_that_never_rests_is_left_out() -> None:
    """A power profile that flips every minute is told three times; then only what it is once it has rested for an hour."""
    ledger = known(profile="0")
    for number in range(200):
        ledger = observe_facts(ledger, START + number * MINUTE, FACTS | {"profile": str(number % 2 + 1)})
        ledger = observe(ledger, "default", probe(number, SPEED))
    assert len(ledger.changes) == RESTLESS - 1
    assert ledger.restless == ("profile",)
    for number in range(200, 262):
        ledger = observe_facts(ledger, START + number * MINUTE, FACTS | {"profile": "9"})
    assert ledger.restless == ()
    assert ledger.changes[-1].differences[0].after == "9"
    assert len(ledger.changes) == RESTLESS


def test_facts_are_kept_as_short_texts() -> None:
    """Names and values lose control characters and are cut to 128 characters."""
    ledger = observe_facts(Ledger("vllm"), START, {"a\x00b" * 200: "\x1b[31mred\n" + "x" * 500})
    ((name, value),) = ledger.facts.items()
    assert len(name) == CHARACTERS
    assert value.startswith("[31mredxxx")
    assert len(value) == CHARACTERS


@given(st.lists(FACT_SETS, max_size=12))
def test_no_change_says_that_a_fact_became_what_it_was(sets: list[dict[str, str | None]]) -> None:
    """Each difference is one, follows from the one before it, and ends at what is known now."""
    ledger = fact_changes(*sets)
    values: dict[str, str] = {}
    for each in (difference for change in ledger.changes for difference in change.differences):
        assert each.before != each.after
        assert values.setdefault(each.fact, each.before) == each.before
        values[each.fact] = each.after
    if not ledger.recent or max(len(seen.times) for seen in ledger.recent.values()) < RESTLESS:
        assert values.items() <= ledger.facts.items()


def test_what_is_known_of_a_target_is_bounded() -> None:
    """Names that come and go, changes without end and ever new modules leave so much and no more."""
    ledger = Ledger("vllm")
    for number in range(300):
        at = START + number * 2 * 3600
        ledger = observe_facts(ledger, at, {f"gpu {number} firmware": "1", "image": str(number)})
        ledger = observe(ledger, f"module {number}", Sample(at + 60, SPEED))
    assert len(ledger.known) == MOST_FACTS
    assert len(ledger.changes) == MOST_CHANGES
    assert len(ledger.trackers) == MOST_SERIES


# What a change cost


@pytest.mark.parametrize(("share", "probes"), [(0.9, 5), (0.53, 3), (0.95, 15)])
def test_a_change_that_made_it_slower_is_told(share: float, probes: int) -> None:
    """-10 % within 5 probes, -47 % within 3, -5 % within 15: with ratio, interval, and how many probes stand for it."""
    hits = 0
    for seed in range(20):
        values = speeds(seed, 60 + probes)
        ledger = fed(known(), values[:60], START)
        ledger = after_change(ledger, [share * v for v in values[60:]], START + 60 * MINUTE, image="new")
        for shift in told(ledger):
            assert shift.changes == (ledger.changes[0].at_seconds,)
            assert shift.speed.min <= share * 1.02
            assert shift.speed.max >= share * 0.98
            assert shift.speed.n_before == 60
            hits += shift.standing
    assert hits >= 19


def test_a_change_without_an_effect_is_listed_without_blame() -> None:
    """Its ratio is near 1, its interval includes 1, and nothing stands."""
    values = speeds(5, 160)
    ledger = after_change(fed(known(), values[:60], START), values[60:], START + 60 * MINUTE, kernel="6.15.0")
    (shift,) = ledger.shifts
    assert shift.told_at_seconds is None
    assert not shift.speed.beyond_noise
    assert shift.speed.ratio == pytest.approx(1, abs=0.02)
    assert ledger.standing == ()
    (entry,) = ledger.entries
    assert entry.differences == (Difference("kernel", "6.14.0", "6.15.0"),)
    assert entry.shifts == (shift,)


def test_the_cold_start_after_a_change_does_not_count() -> None:
    """What came with a restart has a slow first probe: it is none of the three."""
    ledger = observe_facts(fed(known(), speeds(6, 60), START), START + 3600, FACTS | {"image": "new"})
    for number in range(3):
        ledger = observe(ledger, "default", probe(61 + number, 1.0, cold_start=True))
    assert ledger.open == 1
    ledger = fed(ledger, speeds(7, 30), START + 66 * MINUTE)
    assert told(ledger) == []
    assert [shift.speed.n_after for shift in ledger.shifts] == [30]


def test_before_the_first_change_nothing_is_judged() -> None:
    """And neither is a change with fewer than three good probes before it."""
    assert fed(known(), speeds(8, 100), START).shifts == ()
    ledger = fed(known(), [SPEED, SPEED], START)
    assert after_change(ledger, [6.0] * 100, START + 120, image="new").shifts == ()


def test_a_drop_that_the_next_probes_do_not_confirm_is_told_with_its_end() -> None:
    """Three slow probes are told; when ten show that it was nothing, it is over."""
    ledger = fed(known(), [SPEED] * 60, START)
    ledger = after_change(ledger, [0.8 * SPEED] * 3, START + 3600, image="new")
    (shift,) = told(ledger)
    assert shift.standing
    ledger = fed(ledger, [SPEED] * 7, START + 3800)
    (shift,) = told(ledger)
    assert not shift.standing
    assert shift.back_at_seconds is not None
    assert shift.speed.ratio == pytest.approx(1)


def test_a_rollback_ends_what_the_update_cost() -> None:
    """The update's drop is over when the rollback's effect is found, which is listed too."""
    values = speeds(9, 160)
    ledger = fed(known(), values[:60], START)
    ledger = after_change(ledger, [0.8 * v for v in values[60:100]], START + 3600, image="new")
    assert len(ledger.standing) == 1
    ledger = after_change(ledger, values[100:], START + 7200)
    drop, rise = told(ledger)
    assert drop.back_at_seconds is not None
    assert rise.speed.above
    assert ledger.standing == ()


def test_a_later_change_without_effect_does_not_end_a_drop() -> None:
    """What made it slower still stands after something else has changed."""
    values = speeds(10, 200)
    ledger = fed(known(), values[:60], START)
    ledger = after_change(ledger, [0.8 * v for v in values[60:120]], START + 3600, image="new")
    ledger = after_change(ledger, [0.8 * v for v in values[120:]], START + 7200, image="new", kernel="6.15.0")
    (standing,) = ledger.standing
    assert standing.changes == (ledger.changes[0].at_seconds,)
    assert not ledger.shifts[-1].speed.beyond_noise


@pytest.mark.parametrize("minutes", [1, 5, 9])
def test_two_changes_within_ten_minutes_are_judged_together(minutes: int) -> None:
    """Both are told, and what they cost belongs to both: too few probes lie between them to tell them apart."""
    values = speeds(11, 130)
    ledger = fed(known(), values[:60], START)
    first = START + 3600
    ledger = after_change(ledger, [0.8 * v for v in values[60 : 60 + minutes]], first, image="new")
    second = first + minutes * MINUTE
    ledger = after_change(ledger, [0.8 * v for v in values[80:]], second, image="new", kernel="6.15.0")
    assert [change.at_seconds for change in ledger.changes] == [first, second]
    (shift,) = ledger.shifts
    assert shift.changes == (first, second)
    assert shift.speed.ratio == pytest.approx(0.8, rel=0.02)
    assert all(entry.shifts == (shift,) for entry in ledger.entries)


def test_two_changes_twelve_minutes_apart_are_told_apart() -> None:
    """The first cost 20 %, the second nothing."""
    values = speeds(12, 130)
    ledger = fed(known(), values[:60], START)
    ledger = after_change(ledger, [0.8 * v for v in values[60:72]], START + 3600, image="new")
    second = START + 3600 + 12 * MINUTE
    ledger = after_change(ledger, [0.8 * v for v in values[72:]], second, image="new", kernel="6.15.0")
    one, other = ledger.shifts
    assert one.speed.ratio == pytest.approx(0.8, rel=0.02)
    assert one.standing
    assert other.changes == (second,)
    assert not other.speed.beyond_noise
    assert other.speed.before == pytest.approx(0.8 * SPEED, rel=0.02)


def test_what_happens_long_after_a_change_is_not_blamed_on_it() -> None:
    """A step 20 minutes after a change is a step of its own."""
    values = speeds(13, 160)
    ledger = fed(known(), values[:60], START)
    after = [v * (0.85 if number >= 20 else 1) for number, v in enumerate(values[60:])]
    ledger = after_change(ledger, after, START + 3600, image="new")
    (shift,) = told(ledger)
    assert not shift.explained
    assert shift.since_seconds == pytest.approx(START + 3600 + 20 * MINUTE, abs=3 * MINUTE)


def test_a_step_that_a_change_explains_soon_after_is_not_unexplained() -> None:
    """The file of the weights is looked at every ten minutes: what it explains leaves the list, and the news say so."""
    values = speeds(14, 260)
    before = fed(known(weights="one"), values[:200], START)
    slow = [0.8 * v for v in values[200:]]
    ledger = fed(before, slow[:9], START + 200 * MINUTE)
    (step,) = told(ledger)
    assert not step.explained
    at = START + 209 * MINUTE
    after = after_change(ledger, slow[9:10], at, weights="other")
    assert news(ledger, after).gone_shifts == (step,)
    (shift,) = told(after_change(ledger, slow[9:], at, weights="other"))
    assert shift.changes == (at,)
    assert shift.speed.ratio == pytest.approx(0.8, rel=0.02)


def test_each_module_is_judged_by_its_own_probes() -> None:
    """A change that halves one module's speed and leaves the other's has two shifts, of which one is told."""
    ledger = known()
    for number in range(60):
        ledger = fed(ledger, [SPEED], START + number * MINUTE)
        ledger = fed(ledger, [40.0], START + number * MINUTE + 30, module="parallel")
    ledger = observe_facts(ledger, START + 3600, FACTS | {"image": "new"})
    for number in range(30):
        ledger = fed(ledger, [SPEED], START + 3601 + number * MINUTE)
        ledger = fed(ledger, [20.0], START + 3631 + number * MINUTE, module="parallel")
    assert [shift.module for shift in ledger.standing] == ["parallel"]
    assert {shift.module for shift in ledger.shifts} == {"default", "parallel"}
    assert set(retain(ledger, {"default"}).trackers) == {"default"}
    assert accept(ledger, START + 9000).standing == ()


def test_ttft_and_prefill_are_compared_too() -> None:
    """A change that leaves the decode speed and doubles the TTFT shows it."""
    ledger = fed(known(), [SPEED] * 60, START)
    ledger = observe_facts(ledger, START + 3600, FACTS | {"image": "new"})
    for number in range(30):
        ledger = observe(ledger, "default", Sample(START + 3601 + number * MINUTE, SPEED, 0.62, None))
    (shift,) = ledger.shifts
    assert not shift.speed.beyond_noise
    assert shift.ttft is not None
    assert shift.ttft.ratio == pytest.approx(2)
    assert shift.prefill is None


def test_news_are_what_was_not_there_before() -> None:
    """Each change and each judgement of it is news once; probes that tell nothing are none."""
    ledger = fed(known(), speeds(15, 60), START)
    assert not news(Ledger("vllm"), ledger)
    changed = observe_facts(ledger, START + 3600, FACTS | {"image": "new"})
    assert news(ledger, changed).changes == changed.changes
    assert not news(changed, changed)
    counts = []
    for number, speed in enumerate(speeds(16, 40)):
        after = observe(changed, "default", probe(61 + number, speed))
        counts.append(len(news(changed, after).shifts))
        changed = after
    assert [number for number, count in enumerate(counts, 1) if count] == [3, 5, 10, 30]


def test_entries_are_newest_first() -> None:
    """Changes and unexplained steps in one list, as a person reads it."""
    values = speeds(17, 400)
    ledger = fed(known(), values[:100], START)
    ledger = after_change(ledger, values[100:250], START + 100 * MINUTE, kernel="6.15.0")
    ledger = fed(ledger, [0.8 * v for v in values[250:]], START + 251 * MINUTE)
    step, change = ledger.entries
    assert step.differences == ()
    assert change.differences[0].fact == "kernel"
    assert all(one.at_seconds >= other.at_seconds for one, other in itertools.pairwise(ledger.entries))
    assert entries_of("vllm", (), ()) == ()


# Behind long prompts


def deep(ledger: Ledger, count: int, at: float, *, decode: float = 1.0, prefill: float = 1.0) -> Ledger:
    """The ledger after canaries every ten minutes that decode and prefill at such shares of the usual speeds."""
    pairs = zip(speeds(int(at), count), speeds(int(at) + 1, count, 520.0), strict=True)
    for number, (one, other) in enumerate(pairs):
        sample = Sample(at + 600 * number, one * decode, 3.9, other * prefill)
        ledger = observe(ledger, "canary", sample, prefill=True)
    return ledger


@pytest.mark.parametrize(("decode", "prefill"), [(1.0, 0.61), (0.61, 1.0)])
def test_decode_holds_while_prefill_loses_and_the_reverse(decode: float, prefill: float) -> None:
    """Behind long prompts each of both is judged by itself: the one that lost 39 % stands, the other doesn't."""
    ledger = observe_facts(deep(known(), 40, START), START + 40 * 600, FACTS | {"image": "new"})
    ledger = deep(ledger, 5, START + 41 * 600, decode=decode, prefill=prefill)
    (shift,) = ledger.standing
    assert (shift.module, shift.phase) == ("canary", "decode" if decode < 1 else "prefill")
    assert shift.speed.ratio == pytest.approx(0.61, rel=0.05)
    (entry,) = ledger.entries
    assert sorted(each.phase for each in entry.shifts) == ["decode", "prefill"]
    assert ledger_of(document_of(ledger)) == ledger


def test_a_loss_of_prefill_that_nothing_explains_is_a_step() -> None:
    """Both lost at one time are one entry."""
    ledger = deep(deep(known(), 60, START), 20, START + 60 * 600, prefill=0.61)
    (shift,) = ledger.standing
    assert (shift.phase, shift.explained) == ("prefill", False)
    both = deep(deep(known(), 60, START), 20, START + 60 * 600, decode=0.61, prefill=0.61)
    assert len(both.standing) == 2
    (entry,) = both.entries
    assert entry.shifts == both.standing


def test_prefill_of_short_prompts_is_no_series() -> None:
    """It is compared beside the decode speed, and is no figure of its own; a module that goes takes both of its own."""
    ledger = fed(known(), speeds(3, 10), START)
    assert list(ledger.trackers) == ["default"]
    ledger = deep(ledger, 3, START + 3600)
    assert list(ledger.trackers) == ["default", "canary", "canary/prefill"]
    assert list(retain(ledger, ("default",)).trackers) == ["default"]


def test_a_step_of_the_fingerprint_is_a_change() -> None:
    """Another model behind the same name; what is known of its first tokens is kept as it was given."""
    ledger = observe_fingerprint(known(), START, {"model": b"one"}, stepped=False)
    ledger = fed(ledger, speeds(4, 20), START + 60)
    assert ledger.changes == ()
    ledger = observe_fingerprint(ledger, START + 1800, {"model": b"two"}, stepped=True)
    (change,) = ledger.changes
    assert change.differences == (Difference("answers", "fingerprint 1", "fingerprint 2"),)
    assert change_text(change.differences) == "model's answers changed, though its name did not"
    ledger = ledger_of(document_of(ledger))
    assert ledger.fingerprints == {"model": b"two"}
    assert observe_fingerprint(ledger, START + 5400, {}, stepped=False).changes == ledger.changes
