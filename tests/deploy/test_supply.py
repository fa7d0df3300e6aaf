"""What the image is built from: locked with hashes, complete, from nowhere in particular."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = {"deploy/requirements.lock": "project", "deploy/requirements-build.lock": "build-system"}


def locked(name: str) -> dict[str, tuple[str, int]]:
    """A lock's packages: name → (version, number of hashes)."""
    text = (ROOT / name).read_text(encoding="utf-8")
    entries = re.findall(
        r"^([\w.-]+)==(\S+)[^\n]*\\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE
    )
    return {canonicalize_name(package): (version, hashes.count("--hash")) for package, version, hashes in entries}


def wanted(table: str) -> list[Requirement]:
    """What pyproject.toml asks for."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    given = project[table]["dependencies" if table == "project" else "requires"]
    return [Requirement(each) for each in given]


@pytest.mark.parametrize(("name", "table"), LOCKS.items())
def test_the_lock_has_what_is_asked_for(name: str, table: str) -> None:
    """Each dependency is in the lock, in a version that pyproject.toml allows."""
    versions = locked(name)
    for requirement in wanted(table):
        version, _ = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}: make the lock anew"


@pytest.mark.parametrize("name", LOCKS)
def test_everything_has_a_hash_and_no_address(name: str) -> None:
    """No line is without a hash, and none says where packages come from: that is the user's own setting."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert len(locked(name)) == len(re.findall(r"^[\w.-]+==", text, re.MULTILINE)) > 5
    assert "://" not in text
    assert not re.search(r"^--?(index|extra|find)", text, re.MULTILINE)


def test_the_dockerfile_takes_nothing_unlocked() -> None:
    """Every pip that could download checks hashes and builds nothing from source; the last stage runs no command at all."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    installs = re.findall(r"pip (?:--python \S+ )?(?:install|wheel) [^&\n]*", text)
    assert len(installs) == 4
    for install in installs:
        assert "--require-hashes --only-binary=:all:" in install or "--no-deps" in install, install
    last = text.rsplit("\nFROM ", 1)[1]
    assert not re.search(r"^(RUN|ADD)\b", last, re.MULTILINE)
    assert re.search(r"^USER 65532:65532$", last, re.MULTILINE)
    assert re.search(r"^ARG BASE=python:\d+\.\d+\.\d+-\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE), (
        "the base is not pinned"
    )


def test_the_build_context_is_a_list_of_what_is_needed() -> None:
    """.dockerignore shuts everything out, then lets in what the Dockerfile and the wheel need, and no test or key."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert let_in == {"exporter", *LOCKS, "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
    assert all((ROOT / name).exists() for name in let_in)
