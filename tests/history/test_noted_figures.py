"""What was different around a step that no fact explains: told where it is beyond its noise and means something, else not."""

import random

import pytest

from exporter.history.change import Ledger, note_what_stood_out, observe
from exporter.history.change_text import meanwhile_text
from exporter.history.document import document_of, ledger_of
from exporter.history.noted_figures import KINDS, MOST, Figures, NotedFigures
from tests.history.series import MINUTE, START, known, probe, speeds

USUAL = {"GPU temperature": 62.0, "GPU clock": 2.9e9, "GPU power": 98.0, "GPU memory in use": 40 * 2.0**30}


def noted(before: Figures, after: Figures, count: int = 30, later: int = 10) -> NotedFigures:
    """A reading a minute, with 1 % noise; those since ``START`` are ``after``."""
    dice, found = random.Random(7), NotedFigures()
    for number in range(-count, later):
        figures = before if number < 0 else after
        wavering = {name: value * dice.gauss(1, 0.01) for name, value in figures.items()}
        found = found.followed_by(START + number * MINUTE, wavering)
    return found


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, ()),
        ({"GPU temperature": 64.0}, ()),
        ({"GPU temperature": 84.0}, ("GPU temperature",)),
        ({"GPU clock": 1.4e9, "GPU temperature": 95.0}, ("GPU clock", "GPU temperature")),
        ({"GPU memory in use": 60 * 2.0**30}, ("GPU memory in use",)),
        ({"time throttled": 0.8}, ()),
    ],
)
def test_what_stands_out(changed: dict[str, float], told: tuple[str, ...]) -> None:
    """What moved beyond its noise, the most telling first; what nobody measured before is no difference."""
    found = noted(USUAL, USUAL | changed).stood_out(START)
    assert tuple(sorted(name for name, _, _ in found)) == tuple(sorted(told))


def test_a_noted_figure_as_text() -> None:
    """With its unit, before and after."""
    found = noted(
        USUAL | {"time throttled": 0.0, "requests of users": 0.0},
        USUAL | {"time throttled": 0.5, "requests of users": 3.0},
    )
    assert meanwhile_text(found.stood_out(START)).startswith("; at that time: ")
    assert {name: after for name, _, after in found.stood_out(START)} == {
        "time throttled": "50 %",
        "requests of users": "3.0",
    }
    assert meanwhile_text(()) == ""


def test_few_readings_tell_nothing_and_many_are_bounded() -> None:
    """Four on one side are too few; older ones leave."""
    assert noted(USUAL, USUAL | {"GPU temperature": 90.0}, later=4).stood_out(START) == ()
    assert len(noted(USUAL, USUAL, count=400).readings) == MOST
    assert set(USUAL) < set(KINDS)


def test_a_step_is_kept_with_what_stood_out() -> None:
    """It is noted once, when the step is found, and is still there after more probes and a restart."""
    values = speeds(11, 120)
    before = known()
    ledger, noted = before, NotedFigures()
    for number, value in enumerate(values):
        hot = number >= 80
        noted = noted.followed_by(START + number * MINUTE, {"GPU temperature": 84.0 if hot else 62.0})
        after = observe(ledger, "default", probe(number, value * (0.8 if hot else 1)))
        ledger = note_what_stood_out(ledger, after, noted)
    (shift,) = ledger.standing
    assert shift.meanwhile == (("GPU temperature", "62 °C", "84 °C"),)
    back: Ledger = ledger_of(document_of(ledger))
    assert back == ledger
