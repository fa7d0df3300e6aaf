"""Starting or down: by when a silent server was started, how often, and for how long it has been silent."""

from exporter.probe.result import ProbeResult, TargetState
from exporter.starting import Silence, probe_of_starting, silence_of, starting_since, with_start

WINDOW = 1200.0


def down(at: float) -> TargetState:
    """A status check that failed."""
    return TargetState("one", "http://127.0.0.1:8000", at, up=False, error="connection refused")


def since(*checks: tuple[float, float | None]) -> float | None:
    """What follows from checks that failed, each at a time, with the newest start that was known then."""
    silence: Silence | None = None
    for at, started in checks:
        silence = silence_of(silence, down(at), [started, None])
    return starting_since(silence, WINDOW, checks[-1][0])


def test_a_young_server_is_starting() -> None:
    """From its first check until its window is over, in seconds since its start."""
    assert since((1000, 990)) == 990
    assert since((1000, 990), (2100, 990.4)) == 990
    assert since((1000, 990), (2190, 990)) is None


def test_an_old_server_that_stops_answering_is_down() -> None:
    """It was started long ago; so is one of which nothing is known, and one that is no longer there."""
    assert since((10_000, 1000)) is None
    assert since((1000, None)) is None
    assert since((1000, 990), (1030, None)) is None


def test_a_server_that_is_started_over_and_over_is_down() -> None:
    """A second start may be a person's; at the third without an answer it fails at each."""
    assert since((1000, 990), (1060, 1055)) == 1055
    assert since((1000, 990), (1060, 1055), (1120, 1118)) is None


def test_silence_for_a_whole_window_is_down_whatever_was_started() -> None:
    """The window counts from the first silent check on."""
    assert since((1000, 990), (2150, 2140)) == 2140
    assert since((1000, 990), (2250, 2240)) is None


def test_an_answer_ends_the_silence() -> None:
    """What fails afterwards begins anew."""
    silence = silence_of(None, down(1000), [990])
    assert silence_of(silence, TargetState("one", "http://127.0.0.1:8000", 1100, up=True), []) is None


def test_a_probe_of_a_starting_server_is_no_failure() -> None:
    """It counts as loading; a failure of another kind, or of a server that is down, stays what it is."""
    refused = ProbeResult(
        "one", "default", "connect", "connection refused", 1000, 60, state=with_start(down(1000), 990)
    )
    assert probe_of_starting(refused).result == "loading"
    assert "connection refused" in probe_of_starting(refused).error
    other = ProbeResult("one", "default", "auth", "401", 1000, 60, state=with_start(down(1000), 990))
    assert probe_of_starting(other) is other
    gone = ProbeResult("one", "default", "connect", "refused", 1000, 60, state=with_start(down(1000), None))
    assert probe_of_starting(gone) is gone
