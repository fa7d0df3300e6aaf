"""The installation of docs/getting-started.md, as a person types it: into an environment of its own, upgraded, and removed.

Here, and in a Debian whose Python belongs to its packages.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter import __version__
from tests.real import images
from tests.real.conftest import need
from tests.real.docker import DockerEngine
from tests.test_docs import ROOT, blocks

pytestmark = pytest.mark.real

PAGE = ROOT / "docs/getting-started.md"
WORDS = {"python3": r"\.local/share/llm-probe-exporter", "pipx": r"^pipx", "uv": r"^uv"}
"""By program: what the blocks of its way have in them."""


def scripts_with(word: str) -> list[str]:
    """The blocks of the page in which a word stands, in order: install, upgrade, uninstall."""
    return [text for text in blocks(PAGE, "sh") if re.search(word, text)]


@pytest.mark.parametrize(("program", "word"), WORDS.items())
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


@pytest.fixture(scope="module")
def debian(shared_engine: DockerEngine) -> Iterator[DockerEngine]:
    """A Debian whose Python belongs to its packages, with pip and pipx from them and the source in a person's home."""
    need(not (missing := images.missing_parts()), missing)
    lines = (
        f"FROM {images.base(shared_engine)}",
        "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-pip pipx >/dev/null",
        "RUN useradd --create-home person",
        "COPY --chown=person src /home/person/llm-probe-exporter",
        "USER person",
        "WORKDIR /home/person/llm-probe-exporter",
        "ENV PATH=/home/person/.local/bin:/usr/local/bin:/usr/bin:/bin SSL_CERT_FILE=/etc/host-ca.crt",
    )
    with tempfile.TemporaryDirectory() as folder:
        images.copy_sources(Path(folder) / "src")
        (Path(folder) / "Dockerfile").write_text("\n".join(lines), encoding="utf-8")
        images.build(shared_engine, Path(folder), "debian-person:test")
    shared_engine.start_container("person", "debian-person:test", "sleep", "3600")
    try:
        yield shared_engine
    finally:
        shared_engine.run("rm", "--force", "person", check=False)


def typed(engine: DockerEngine, script: str) -> subprocess.CompletedProcess[str]:
    """What the person types there."""
    return engine.run("exec", "person", "bash", "-ec", script, check=False)


def test_the_system_refuses_a_bare_pip_install(debian: DockerEngine) -> None:
    """The reason for the other ways: pip says externally-managed-environment, by which troubleshooting.md knows it."""
    refused = typed(debian, "pip install .")
    assert refused.returncode != 0
    assert "error: externally-managed-environment" in refused.stderr
    assert "externally-managed-environment" in (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("before", "word"), [("true", WORDS["python3"]), ("true", WORDS["pipx"]), ("pipx install uv", WORDS["uv"])]
)
def test_each_way_works_where_the_system_owns_python(debian: DockerEngine, before: str, word: str) -> None:
    """On Debian, as a person without root: installed, the command measures and reads; upgraded, it is there; removed, it is gone."""
    install, upgrade, remove = scripts_with(word)
    for script in (before, install, upgrade):
        done = typed(debian, script)
        assert done.returncode == 0, f"{script}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
    assert typed(debian, "llm-probe-exporter --version").stdout.strip().endswith(__version__)
    assert json.loads(typed(debian, "llm-probe-exporter machine --json").stdout)
    nothing = typed(debian, "llm-probe-exporter probe http://127.0.0.1:9")
    assert "nothing listens on this port" in nothing.stderr
    assert typed(debian, remove).returncode == 0
    assert "command not found" in typed(debian, "llm-probe-exporter --version").stderr
