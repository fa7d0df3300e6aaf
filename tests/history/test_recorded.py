"""What is told of a real server that was restarted, and then given another quantization under the same name."""

from statistics import median

import pytest

from exporter.history.change import Ledger, observe, observe_facts
from tests.history.oracle import level_changes
from tests.history.recorded import PHASES, Recording, read_recording


@pytest.fixture(scope="module")
def recording() -> Recording:
    return read_recording()


def replayed(recording: Recording) -> Ledger:
    """The ledger after all of its samples, and the facts that the daemon saw, at the time at which it saw them."""
    before = {each.fact: each.before for each in recording.differences}
    after = {each.fact: each.after for each in recording.differences}
    ledger, seen = Ledger("llama"), False
    for sample in (each for phase in PHASES for each in recording.samples[phase]):
        if not seen and sample.at_seconds >= recording.changed_at_seconds:
            seen = True
            ledger = observe_facts(ledger, recording.changed_at_seconds, after)
        elif not seen:
            ledger = observe_facts(ledger, sample.at_seconds, before)
        ledger = observe(ledger, "default", sample)
    return ledger


def test_the_weights_are_named_with_what_they_cost(recording: Recording) -> None:
    """One change, of quantization and weights; slower, by the ratio of the medians, and its interval holds it."""
    ledger = replayed(recording)
    (change,) = ledger.changes
    assert {(each.fact, each.before, each.after) for each in change.differences} >= {("quantization", "Q4_0", "F16")}
    assert "model" not in {each.fact for each in change.differences}
    (shift,) = ledger.shifts
    true = median(recording.speeds("exchanged")) / median(recording.speeds("first", "restarted"))
    assert true < 0.9
    assert shift.changes == (change.at_seconds,)
    assert shift.speed.min < true < shift.speed.max
    assert shift.speed.n_before == 60


def test_the_restart_is_no_change_and_costs_nothing(recording: Recording) -> None:
    """Its cold start and the noise of a machine in use raise no alarm."""
    ledger = Ledger("llama")
    for phase in ("first", "restarted"):
        for sample in recording.samples[phase]:
            ledger = observe(ledger, "default", sample)
    assert ledger.entries == ()


def test_the_oracle_sees_one_change_of_level_where_the_weights_changed(recording: Recording) -> None:
    """An offline search over the whole series, within five probes."""
    speeds = recording.speeds(*PHASES)
    (found,) = level_changes(speeds)
    assert abs(found - len(recording.speeds("first", "restarted"))) <= 5
