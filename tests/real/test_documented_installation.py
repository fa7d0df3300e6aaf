"""The installation of docs/getting-started.md, as a person types it: into an environment of its own, upgraded, and removed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exporter import __version__
from tests.real.conftest import need
from tests.test_docs import ROOT, blocks

pytestmark = pytest.mark.real

PAGE = ROOT / "docs/getting-started.md"


def scripts_with(word: str) -> list[str]:
    """The blocks of the page in which a word stands, in order: install, upgrade, uninstall."""
    return [text for text in blocks(PAGE, "sh") if re.search(word, text)]


@pytest.mark.parametrize(
    ("program", "word"), [("python3", r"\.local/share/llm-probe-exporter"), ("pipx", r"^pipx"), ("uv", r"^uv")]
)
def test_each_way_installs_upgrades_and_removes(tmp_path: Path, program: str, word: str) -> None:
    """After the first block the command is on the PATH of the page, after the second it still is, after the last it is gone."""
    path = f"{os.environ['PATH']}:{Path(sys.executable).parent}"
    need(shutil.which(program, path=path), program)
    source, home = tmp_path / "source", tmp_path / "home"
    home.mkdir()
    shutil.copytree(ROOT / "exporter", source / "exporter", ignore=shutil.ignore_patterns("__pycache__"))
    for each in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / each, source / each)
    environ = {**os.environ, "HOME": str(home), "PATH": f"{home}/.local/bin:{path}"}
    environ.pop("VIRTUAL_ENV", None)
    install, upgrade, remove = scripts_with(word)
    installed = home / ".local/bin/llm-probe-exporter"
    for script in (install, upgrade):
        done = subprocess.run(
            ["bash", "-ec", script], cwd=source, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said = subprocess.run([installed, "--version"], env=environ, capture_output=True, text=True, check=True)
        assert said.stdout.strip().endswith(__version__)
    subprocess.run(["bash", "-ec", remove], cwd=source, env=environ, check=True, capture_output=True)
    assert not installed.exists()
