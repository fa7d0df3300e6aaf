"""What a person and a program are told of a ledger."""

import json

from exporter.history.change import Ledger, accept, observe_facts
from exporter.history.change_lines import SHOWN_SECONDS, entry_json, entry_rows, lines_of
from tests.history.series import FACTS, MINUTE, START, fed, known, speeds

NOW = START + 200 * MINUTE


def slowed(share: float = 0.5) -> Ledger:
    """A ledger whose image changed after 60 probes, and 20 probes since."""
    ledger = fed(known(), speeds(1, 60), START)
    ledger = observe_facts(ledger, START + 60 * MINUTE, FACTS | {"image": "vllm:0.12@sha256:bb"})
    return fed(ledger, [share * each for each in speeds(2, 20)], START + 61 * MINUTE)


def test_a_drop_is_shown_until_it_is_accepted_and_then_as_the_last_change() -> None:
    """The line names what changed and both speeds; an accepted one is shown for a week more."""
    (line,) = lines_of(slowed(), "default", NOW)
    assert line.standing
    assert line.what == "image changed from vllm:0.11@sha256:aa to vllm:0.12@sha256:bb"
    assert line.effect.startswith("6.1, before 12.1 tok/s (")
    assert line.at_seconds == START + 60 * MINUTE
    assert lines_of(slowed(), "default", NOW + 2 * SHOWN_SECONDS) == (line,)
    accepted = accept(slowed(), NOW)
    (settled,) = lines_of(accepted, "default", NOW)
    assert not settled.standing
    assert lines_of(accepted, "default", NOW + 2 * SHOWN_SECONDS) == ()


def test_a_drop_of_another_module_says_whose_it_is() -> None:
    """A card is about the first module, but a drop of the others is told as well."""
    (line,) = lines_of(slowed(), "prefill", NOW)
    assert line.effect.endswith("by the module default")


def test_too_few_probes_give_no_effect() -> None:
    """A change is told at once, its effect when there are three good probes."""
    ledger = observe_facts(fed(known(), speeds(1, 60), START), NOW, FACTS | {"kernel": "6.15.0"})
    (line,) = lines_of(ledger, "default", NOW)
    assert (line.what, line.effect) == ("kernel changed from 6.14.0 to 6.15.0", "")
    (entry,) = ledger.entries
    ((_, _, _, effect),) = entry_rows(entry_json(entry), "now")
    assert effect == "too few good probes yet"
    assert lines_of(known(), "default", NOW) == ()


def test_an_entry_is_json_and_rows() -> None:
    """Both say what, before, after and the ratio with its interval; the verdict follows what became of it."""
    (entry,) = slowed().entries
    document = json.loads(json.dumps(entry_json(entry)))
    assert document["differences"] == [
        {"what": "image", "before": "vllm:0.11@sha256:aa", "after": "vllm:0.12@sha256:bb"}
    ]
    (module,) = document["modules"]
    speed = module["tokens_per_second"]
    assert speed["min"] < speed["ratio"] < speed["max"] < 1
    assert module["verdict"] == "slower"
    ((time, target, what, effect),) = entry_rows(document, "2026-01-01 03:12")
    assert (time, target) == ("2026-01-01 03:12", "vllm")
    assert what.startswith("image changed from")
    assert effect.startswith("slower: ")
    (after,) = accept(slowed(), NOW).entries
    assert entry_json(after)["modules"][0]["verdict"] == "accepted"
    (same,) = slowed(1.0).entries
    assert entry_json(same)["modules"][0]["verdict"] == "no change"
    (faster,) = slowed(1.5).entries
    assert entry_json(faster)["modules"][0]["verdict"] == "faster"


def test_a_drop_that_is_over_says_so() -> None:
    """The rollback is a change of its own, and ends the drop."""
    ledger = observe_facts(slowed(), START + 90 * MINUTE, FACTS)
    ledger = fed(ledger, speeds(3, 20), START + 91 * MINUTE)
    newest, oldest = ledger.entries
    assert entry_json(newest)["modules"][0]["verdict"] == "faster"
    assert entry_json(oldest)["modules"][0]["verdict"] == "back"


def test_an_unexplained_step_says_that_nothing_changed() -> None:
    """It has no differences."""
    ledger = fed(fed(known(), speeds(1, 90), START), [0.7 * each for each in speeds(4, 40)], START + 90 * MINUTE)
    (entry,) = ledger.entries
    assert entry_json(entry)["explained"] is False
    assert entry_rows(entry_json(entry), "")[0][2] == "nothing that is watched changed"
    assert lines_of(ledger, "default", NOW)[0].standing
