"""The packages as a user gets them: built, installed in an environment of their own, and used."""

from pathlib import Path

import pytest

from tests import release

pytestmark = pytest.mark.real


def test_the_wheel_measures_the_demo(tmp_path: Path) -> None:
    """What ``make release`` does to what isn't released yet: no file is missing, and the installed program works."""
    assert release.main(["--unreleased", "--out", str(tmp_path / "dist")]) == 0
