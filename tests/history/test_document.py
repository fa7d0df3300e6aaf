"""A ledger as a JSON document: what is read back is what was written, and what was not written so is not read."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.history.change import Ledger, observe, observe_facts
from exporter.history.document import document_of, ledger_of
from exporter.history.sample import Sample, Samples
from tests.history.series import FACTS, START, fed, known, speeds

VALUES = st.none() | st.floats(1e-3, 1e6)


def busy() -> Ledger:
    """A ledger with everything in it: changes, one of them open, steps, a restless fact."""
    values = speeds(1, 400)
    ledger = fed(known(), values[:100], START)
    ledger = observe_facts(ledger, START + 6000, FACTS | {"image": "ü 2"})
    ledger = fed(ledger, [0.8 * v for v in values[100:200]], START + 6001)
    ledger = fed(ledger, [0.6 * v for v in values[200:260]], START + 12001)
    for number in range(9):
        ledger = observe_facts(ledger, START + 20_000 + number, FACTS | {"kernel": str(number)})
    assert ledger.open
    assert ledger.restless
    assert len(ledger.standing) == 2
    return ledger


def test_a_ledger_comes_back_as_it_was() -> None:
    """Through JSON text and back, and it goes on as the first would have."""
    ledger = busy()
    again = ledger_of(json.loads(json.dumps(document_of(ledger))))
    assert again == ledger
    assert fed(again, speeds(2, 50), START + 30_000) == fed(ledger, speeds(2, 50), START + 30_000)
    assert ledger_of(document_of(Ledger("a"))) == Ledger("a")


@given(st.lists(st.builds(Sample, st.floats(0, 4e9), VALUES, VALUES, VALUES, st.booleans(), st.booleans())))
def test_samples_come_back_with_six_digits(samples: list[Sample]) -> None:
    """Times and flags exactly, figures to six digits, and the same again when packed once more."""
    packed = Samples.of(samples)
    again = list(packed)
    assert len(packed) == len(samples)
    for one, other in zip(samples, again, strict=True):
        assert (one.at_seconds, one.ok, one.cold_start) == (other.at_seconds, other.ok, other.cold_start)
        assert one.counts == other.counts
        for name in ("tokens_per_second", "ttft_seconds", "prefill_tokens_per_second"):
            assert getattr(other, name) == (getattr(one, name) and pytest.approx(getattr(one, name), rel=1e-5))
    assert list(Samples.of(again)) == again


def test_parts_of_samples() -> None:
    """The newest, all but the newest, and joined: never more than asked for."""
    every = Samples.of(Sample(float(number)) for number in range(10))
    times = [[s.at_seconds for s in part] for part in (every.newest(3), every.without_newest(8), every.newest(0))]
    assert times == [[7, 8, 9], [0, 1], []]
    assert len(every.without_newest(99)) == 0
    assert len(every.newest(99)) == 10
    assert [s.at_seconds for s in every.joined(every, 12)] == [8, 9, *range(10)]
    assert [s.at_seconds for s in every.followed_by(Sample(10.0), 2)] == [9, 10]


def damaged() -> list[Any]:
    whole = document_of(busy())
    tracker = whole["watches"][0]
    return [
        None,
        [],
        {},
        {**whole, "version": 2},
        {**whole, "known": {"image": "a"}},
        {**whole, "changes": [{"target": "vllm"}]},
        {**whole, "watches": [{**tracker, "since": "AAAA"}]},
        {**whole, "watches": [{**tracker, "since": "no base 64"}]},
        {**whole, "watches": [{**tracker, "surprise": 1}]},
        {**whole, "watches": [{**tracker, "reference": {}}]},
        {**whole, "watches": [{**tracker, "shifts": [{"module": "default"}]}]},
        {name: value for name, value in whole.items() if name != "open"},
    ]


@pytest.mark.parametrize("document", damaged(), ids=range(12))
def test_what_is_no_ledger_is_not_read(document: Any) -> None:
    """Another version, missing parts and parts of another kind raise ValueError, and nothing else."""
    with pytest.raises(ValueError, match="ledger"):
        ledger_of(document)


def test_an_unknown_sample_is_harmless() -> None:
    """A ledger read back takes the next probe like any other."""
    again = ledger_of(document_of(busy()))
    assert observe(again, "default", Sample(START + 40_000)).trackers["default"].last_at_seconds == START + 40_000
