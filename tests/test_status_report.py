"""The running daemon's verdicts at a prompt: ``status`` as a table, ``top`` as a screen that lives."""

import io
import json
import threading
from typing import Any

import pytest
from rich.console import Console

from exporter.cli.printing import fitted
from exporter.ledger_access import AccessError
from exporter.snapshot import Snapshot
from exporter.status_report import HEADINGS, LEAVE_OUT, any_bad, check, headline, rows_of, trend_text
from exporter.terminal import LEAST_WHY, Screen, watch
from exporter.web.documents import target_json
from exporter.web.status import counted, targets_of
from tests.scenes import NOW, publish_all
from tests.states import LONG_NAME, publish_states


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """What the daemon's API answers of servers in every state, through JSON."""
    targets = targets_of(publish_all(Snapshot()).view(), NOW)
    made = {"targets": [target_json(each) for each in targets], "verdicts": counted(targets)}
    found: dict[str, Any] = json.loads(json.dumps(made))
    return found


def drawn(screen: Screen, now: float, height: int = 40, width: int = 140) -> str:
    """A screen as text."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    console.print(screen.draw(now, height, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_line_for_each_target_the_worst_first(document: dict[str, Any]) -> None:
    """Verdict, speed and reason are those of the page; what was not measured is a dash, never 0."""
    rows = rows_of(document, NOW)
    assert [row[0] for row in rows] == [target["target"] for target in document["targets"]]
    assert rows[0][1] == "down"
    assert {row[2] for row in rows if row[1] == "down"} == {"–"}
    assert all(row[6] for row in rows if row[1] in {"down", "failing", "poor"})
    why = {row[0]: row[6] for row in rows}
    assert why["vllm"].startswith("Slower since the image changed from rocm/vllm:rocm6.4_vllm_0.9.2 to ")
    assert why["webui"] == "The server failed: 500: CUDA error: HIP out of memory (torch 2.8.0+rocm6.4)"
    assert headline(document).startswith(f"{len(rows)} targets: ")
    assert any_bad(document)


def test_a_server_that_answers_nobody_has_no_speed() -> None:
    """What its last probe measured is past."""
    targets = targets_of(publish_states(Snapshot(), ["loading"]).view(), NOW)
    (row,) = rows_of({"targets": [target_json(each) for each in targets]}, NOW)
    assert row[:5] == ("loading", "loading", "–", "–", "72 s")


def test_old_figures_say_so() -> None:
    """A narrow terminal has no column for the age, so the reason begins with it."""
    targets = targets_of(publish_states(Snapshot(), ["stale"]).view(), NOW)
    (row,) = rows_of({"targets": [target_json(each) for each in targets]}, NOW)
    assert row[6] == "Stale: probed 25 min ago. As expected of vllm-fp16: 12–20 tokens/s"


def test_a_speed_near_a_bound_does_not_contradict_its_tier() -> None:
    """It has the digits that the page gives it; of several streams it is their speed together."""
    targets = targets_of(publish_states(Snapshot(), ["near-a-bound", "measured"]).view(), NOW)
    rows = rows_of({"targets": [target_json(each) for each in targets]}, NOW)
    assert [row[1:3] for row in rows] == [("good", "14.96 tok/s"), ("measured", "44.6 tok/s (4 streams)")]


@pytest.mark.parametrize("thresholds", [None, {}, {"excellent": 5, "good": 9}, {"best": 20}])
def test_a_daemon_of_another_version_has_speeds(thresholds: dict[str, float] | None) -> None:
    """Bounds that are not known leave the speed as it is."""
    probes = [{"tokens_per_second": 14.96, "tier": "good", "judgement": {"thresholds": thresholds}}]
    (row,) = rows_of({"targets": [{"target": "t", "verdict": "good", "probes": probes}]}, NOW)
    assert row[2] in {"15.0 tok/s", "14.96 tok/s"}


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("states", [["good", "heat", "stuck"], [LONG_NAME, "near-a-bound"]])
def test_a_narrow_screen_keeps_names_verdicts_and_reasons(states: list[str], width: int) -> None:
    """Other columns make room, the reason has at least 36 characters, and no line is wider than the terminal."""
    targets = targets_of(publish_states(Snapshot(), states).view(), NOW)
    document = {"targets": [target_json(each) for each in targets], "verdicts": counted(targets)}
    screen = Screen(lambda: document, lambda _: [(NOW - 60 * i, 10.0 + i) for i in range(30)], AccessError)
    screen.refresh(NOW)
    lines = drawn(screen, NOW, width=width).splitlines()
    headings = next(line for line in lines if line.startswith("TARGET"))
    begins = headings.index("WHY")
    assert max(map(len, lines)) <= width
    assert width - begins >= LEAST_WHY
    for target, verdict, *_, why in rows_of(document, NOW):
        (line,) = (each for each in lines if each.startswith(target[:12]))
        assert f" {verdict} " in line
        assert line[begins:].startswith(why[:20])
    assert ("LAST SPEEDS" in headings) == (width > 80)


def test_a_headline_of_several_lines_takes_them_from_the_targets() -> None:
    """What does not fit below would be cut off without a word."""
    targets = targets_of(publish_states(Snapshot()).view(), NOW)
    document = {"targets": [target_json(each) for each in targets], "verdicts": counted(targets)}
    screen = Screen(lambda: document, lambda _: [], AccessError)
    screen.refresh(NOW)
    assert len(drawn(screen, NOW, height=20, width=80).splitlines()) <= 20


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (80, ("TARGET", "VERDICT", "SPEED", "WHY")),
        (120, ("TARGET", "VERDICT", "SPEED", "TTFT", "AGE", "WHY")),
        (200, HEADINGS),
    ],
)
def test_a_narrow_terminal_shows_whole_reasons(document: dict[str, Any], width: int, headings: tuple[str, ...]) -> None:
    """`status` leaves out columns instead of writing sentences into a ribbon."""
    shown, rows = fitted(rows_of(document, NOW), HEADINGS, LEAVE_OUT, width)
    assert shown == headings
    assert {len(row) for row in rows} == {len(headings)}
    assert [row[-1] for row in rows] == [row[-1] for row in rows_of(document, NOW)]


def test_no_target_is_said() -> None:
    """An empty list is no list of fine servers."""
    assert headline({"targets": [], "verdicts": {}}).startswith("no target yet")
    assert not any_bad({"targets": []})


def test_what_is_no_status_is_refused() -> None:
    """Something else that answers JSON there is no exporter."""
    others: list[object] = [[], {}, {"targets": 3}, "text"]
    for other in others:
        with pytest.raises(ValueError, match="no list of targets"):
            check(other)


def test_a_trend_is_drawn_from_zero() -> None:
    """Equal speeds are equally high, half the speed is half as high, and a single one is no trend."""
    assert trend_text([10, 10]) == "██"
    assert trend_text([20, 10, 0]) == "█▅▁"
    assert trend_text([10]) == ""
    assert trend_text([]) == ""


def test_the_screen_shows_the_worst_that_fit(document: dict[str, Any]) -> None:
    """On a low terminal the others are counted, and the trend begins with the past speeds that the daemon knows."""
    screen = Screen(lambda: document, lambda _: [(NOW - 60, 5.0), (NOW - 30, 10.0)], AccessError)
    screen.refresh(NOW)
    low = drawn(screen, NOW, height=9)
    assert document["targets"][0]["target"] in low
    assert f"and {len(document['targets']) - 3} more" in low
    assert "█" in drawn(screen, NOW)


def test_a_daemon_that_is_gone_leaves_no_verdict_uncommented(document: dict[str, Any]) -> None:
    """The headline says since when it does not answer; before the first answer there is only the reason."""
    answers = [document]

    def ask() -> dict[str, Any]:
        if not answers:
            raise AccessError("http://127.0.0.1:1: Connection refused")
        return answers.pop()

    screen = Screen(ask, lambda _: [], AccessError)
    screen.refresh(NOW)
    assert headline(document) in drawn(screen, NOW, width=300)
    screen.refresh(NOW + 2)
    gone = drawn(screen, NOW + 2, width=300)
    assert "The exporter has not answered since" in gone
    assert headline(document) not in gone
    never = Screen(ask, lambda _: [], AccessError)
    never.refresh(NOW)
    assert drawn(never, NOW).strip() == "http://127.0.0.1:1: Connection refused"


def test_watching_ends_when_it_is_told_to(document: dict[str, Any]) -> None:
    """The daemon is asked, the screen is drawn, and nothing goes on afterwards."""
    stop = threading.Event()

    def ask() -> dict[str, Any]:
        stop.set()
        return document

    console = Console(file=io.StringIO(), width=120, height=30, force_terminal=True)
    watch(Screen(ask, lambda _: [], AccessError), console, stop)
    assert stop.is_set()
