"""The made-up states of ``tests/states.py`` are all that there are, and the page's documentation names each verdict."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.advice import TARGET_CONDITIONS
from exporter.advice.machine import GPU_CONDITIONS, MACHINE_CONDITIONS
from exporter.advice.target import FAILURES
from exporter.probe.result import RESULTS
from exporter.snapshot import Snapshot, View
from exporter.web.page import render_page
from exporter.web.status import TargetStatus, Verdict, machine_advice, targets_of
from tests.scenes import NOW
from tests.states import STATES, publish_sick_machine, publish_states

GUIDE = Path(__file__).parents[2] / "docs/status-page.md"


def view_of(*names: str) -> View:
    """Some of the states, on one machine."""
    return publish_states(Snapshot(), names).view()


@pytest.fixture(scope="module")
def statuses() -> tuple[TargetStatus, ...]:
    return tuple(each for name in STATES for each in targets_of(view_of(name), NOW))


def test_each_verdict_is_there(statuses: tuple[TargetStatus, ...]) -> None:
    """A verdict that no state shows was never looked at."""
    assert {each.verdict for each in statuses} == set(Verdict)


def test_each_result_is_there(statuses: tuple[TargetStatus, ...]) -> None:
    """Every way in which a probe can end has a state."""
    ends = {probe.record.last.result for each in statuses for probe in each.probes if probe.record.last}
    assert ends == set(RESULTS)


def test_each_advice_is_there(statuses: tuple[TargetStatus, ...]) -> None:
    """Every condition about a server has a state, and every one about a machine the sick one."""
    told = {advice.condition for each in statuses for advice in each.advice}
    machine = publish_sick_machine(Snapshot()).view()
    of_machine = {each.condition for each in machine_advice(machine)}
    told |= {advice.condition for each in targets_of(machine, NOW) for advice in each.advice}
    assert {"unexplained", *TARGET_CONDITIONS, *(f"failed_{result}" for result in FAILURES)} <= told
    assert of_machine == {*GPU_CONDITIONS, *MACHINE_CONDITIONS}


@pytest.mark.parametrize("name", STATES)
def test_each_state_is_drawn(name: str) -> None:
    """Alone on its page, with its name, and without a word of Python."""
    html = render_page(view_of(name), NOW, {})
    assert f">{name}</h2>" in html
    assert not {"None", "nan", "inf", "Undefined"} & set(words_of(html))


def words_of(html: str) -> Iterator[str]:
    """The words between the tags."""
    for part in html.split("<")[1:]:
        yield from part.partition(">")[2].split()


def test_the_guide_names_each_verdict() -> None:
    """A reader of the page finds its verdict in the guide."""
    guide = GUIDE.read_text(encoding="utf-8")
    assert [each.name for each in Verdict if f"`{each.name}`" not in guide] == []
