"""What llama-server's slots say: the form of its answers, and what follows from two of them."""

import json

from exporter.probe.slots import Growth, SlotReading, growth, running_tokens, slot_readings
from tests.servers.captured import load


def test_recorded_slots_are_read() -> None:
    """``/slots`` of a running b11434: the newest request, its prompt, and what lies in the slot."""
    (slot,) = slot_readings(json.loads(load("llama-server/get-slots").body))
    assert (slot.number, slot.running, slot.decoded) == (0, False, 0)


def test_older_and_odd_forms_are_read_as_far_as_they_go() -> None:
    """``next_token`` was an object once; what is no number says nothing, and a slot without a number is none."""
    found = slot_readings(
        [
            {"id": 0, "id_task": 7, "is_processing": True, "next_token": {"n_decoded": 12}},
            {"id": 1, "id_task": -1, "next_token": [], "n_prompt_tokens": "many"},
            {"id_task": 3},
        ]
    )
    assert found == (SlotReading(0, 7, running=True, decoded=12), SlotReading(1))


def test_a_long_answer_is_followed() -> None:
    """The same request at both readings: what it generated between them; the other slot rests."""
    before = (SlotReading(0, 7, running=True, decoded=100, held=164), SlotReading(1, 5, held=80))
    after = (SlotReading(0, 7, running=True, decoded=142, held=206), SlotReading(1, 5, held=80))
    assert growth(before, after) == Growth(42, followed=42, answers=1)
    assert running_tokens(after) == 142


def test_an_answer_that_ended_is_counted_by_what_lies_in_its_slot() -> None:
    """As recorded of b11434: 147 of 300 tokens at the first reading, idle at the second, the slot still named by its request."""
    before = (SlotReading(1, 3, running=True, decoded=147, processed=1417, held=1564),)
    after = (SlotReading(1, 3, held=1716),)
    assert growth(before, after) == Growth(152, ended=True)


def test_what_was_not_seen_is_not_known() -> None:
    """A request that came and went, one that ended under another, a prompt that became an answer, a build that is silent."""
    idle = SlotReading(0, 3, held=50)
    assert growth((idle,), (SlotReading(0, 9, held=70),)).tokens is None
    running = SlotReading(0, 3, running=True, decoded=5, held=50)
    assert growth((running,), (SlotReading(0, 9, running=True, decoded=2, held=70),)) == Growth(None, ended=True)
    assert growth((SlotReading(0, 3, running=True, held=50),), (idle,)).tokens is None
    assert growth((SlotReading(0, 3, running=True, decoded=5),), (SlotReading(0, 3),)).tokens is None


def test_a_request_that_began_has_all_its_tokens_from_between() -> None:
    """Its speed isn't known yet: when its first token came was not seen."""
    assert growth((SlotReading(0),), (SlotReading(0, 2, running=True, decoded=30),)) == Growth(30)
