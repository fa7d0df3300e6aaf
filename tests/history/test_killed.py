"""A writer that is killed at any point leaves a whole file, in which every probe that was kept stands once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed.py")


def killed(folder: Path, rounds: int) -> dict[str, int]:
    command = [sys.executable, str(SCRIPT), str(folder / "history.sqlite"), str(rounds)]
    root = SCRIPT.parents[2]
    run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=root, env={"PYTHONPATH": str(root)})
    assert run.returncode == 0, run.stderr
    found: dict[str, int] = json.loads(run.stdout)
    return found


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    """Thirty times in a row, from the opening of the file to the end of an hour; each goes on where the last one ended."""
    found = killed(tmp_path, 30)
    assert found["probes"] > 0
    assert list(tmp_path.glob("*damaged*")) == []


@pytest.mark.real
def test_two_hundred_killed_writers_leave_a_whole_file(tmp_path: Path) -> None:
    """Two hundred times, with hundreds of ends of hours among what was cut off."""
    found = killed(tmp_path, 200)
    assert found["rounds"] == 200
    assert found["probes"] > 200
    assert found["early"] < 180, "on a busy machine many are killed before the file is open"
    assert list(tmp_path.glob("*damaged*")) == []
