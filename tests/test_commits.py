"""The history, as far as this copy has it: a subject is one line that every tool shows whole."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST = 72
# Older subjects stay as they are.
SINCE = "2026-11-28T03:00:00+00:00"


def subjects() -> list[str]:
    """Subjects since then that this clone has, however shallow it is; skips where there is no history at all."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("no git, or a tree without its history")
    command = [git, "-C", str(ROOT), "log", "--no-merges", f"--since={SINCE}", "--format=%s"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"git log: {done.stderr.strip()}")
    return done.stdout.splitlines()


def test_subjects_are_short() -> None:
    """A subject has at most 72 characters."""
    assert [subject for subject in subjects() if len(subject) > MOST] == []
