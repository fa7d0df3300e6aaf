"""Probes of an hour as their medians, and where the history is kept."""

import math
from pathlib import Path

import pytest

from exporter.history.folder import history_file
from exporter.history.hours import Hour, hour_number, hour_of, joined
from exporter.history.sample import Sample


def test_an_hour_is_the_median_of_what_counts() -> None:
    """Failures and cold starts are counted as probes, and enter no median; what nobody measured stays unknown."""
    samples = [
        Sample(3600.0, 10.0, 0.5),
        Sample(3700.0, 12.0, 0.7),
        Sample(3800.0, 11.0),
        Sample(3900.0, 2.0, 9.0, cold_start=True),
        Sample(4000.0, ok=False),
    ]
    assert hour_of(1, samples) == Hour(3600.0, 5, 3, 11.0, 0.6, None)
    assert hour_of(1, samples[4:]) == Hour(3600.0, 1, 0)


def test_two_parts_of_an_hour_join() -> None:
    """Where single probes are gone, numbers add up and the larger part gives the medians."""
    assert joined(Hour(0.0, 5, 3, 11.0, 0.6), Hour(0.0, 50, 40, 12.0, 0.5, 7.0)) == Hour(0.0, 55, 43, 12.0, 0.5, 7.0)


@pytest.mark.parametrize(
    ("at", "number"),
    [(0, 0), (3599.9, 0), (3600, 1), (-1e18, 0), (1e18, 2**24 - 1), (-math.inf, 0), (math.inf, 2**24 - 1)],
)
def test_every_time_has_an_hour(at: float, number: int) -> None:
    """Whatever a clock says, the number of its hour fits into a key."""
    assert hour_number(at) == number


@pytest.mark.parametrize(
    ("path", "environ", "expected"),
    [
        ("none", {"HOME": "/home/a"}, None),
        ("auto", {"STATE_DIRECTORY": "/var/lib/x", "HOME": "/root"}, "/var/lib/x/history.sqlite"),
        ("auto", {"STATE_DIRECTORY": "/var/lib/x:/var/lib/y"}, "/var/lib/x/history.sqlite"),
        (
            "auto",
            {"STATE_DIRECTORY": "relative", "XDG_STATE_HOME": "/state"},
            "/state/llm-probe-exporter/history.sqlite",
        ),
        (
            "auto",
            {"XDG_STATE_HOME": "relative", "HOME": "/home/a"},
            "/home/a/.local/state/llm-probe-exporter/history.sqlite",
        ),
        ("auto", {}, None),
        ("auto", {"HOME": "/"}, None),
        ("auto", {"HOME": "."}, None),
        ("/data/my.db", {}, "/data/my.db"),
    ],
)
def test_where_the_history_is_kept(path: str, environ: dict[str, str], expected: str | None) -> None:
    """The folder that systemd gives, else the user's state folder; relative variables are not valid, and nobody's home is no place."""
    found = history_file(path, environ)
    assert (None if found is None else str(found)) == expected


def test_a_folder_gets_the_file(tmp_path: Path) -> None:
    """A path that is a folder gets the file in it."""
    assert history_file(str(tmp_path), {}) == tmp_path / "history.sqlite"
