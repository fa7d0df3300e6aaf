"""What ``make release`` refuses. tests/real/test_release.py builds, installs and uses the packages."""

import io
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests import release

ROOT = Path(__file__).parent.parent
VERSION = release.version_of(ROOT)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files that name the version, committed, with a changelog that is ready."""
    for path in (*release.TAGGED, "exporter/__init__.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, tmp_path / path)
    text = f"# Changelog\n\n## [Unreleased]\n\n## [{VERSION}] - 2026-11-28\n\n### Added\n- All.\n"
    (tmp_path / "CHANGELOG.md").write_text(text, encoding="utf-8")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "a")):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def test_every_file_names_the_version() -> None:
    """The image tags of the manifests are the version of the source."""
    assert release.version_problems(ROOT) == []


def test_a_file_with_another_version_is_named(tree: Path) -> None:
    """So is a version that is none."""
    path = tree / release.TAGGED[0]
    path.write_text(path.read_text().replace(f"newTag: {VERSION}", "newTag: 0.0.1"))
    assert release.version_problems(tree) == [f"{release.TAGGED[0]}: newTag is not {VERSION}"]
    (tree / "exporter/__init__.py").write_text('__version__ = "next"\n')
    assert "next is not a version like 1.2.3" in release.version_problems(tree)


def test_a_tree_that_is_ready_is_released(tree: Path) -> None:
    """A dated section that says something, nothing above it, nothing uncommitted."""
    assert release.release_problems(tree) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (" - 2026-11-28", "", "has no section"),
        ("### Added\n- All.\n", "", "has no section"),
        (f"[{VERSION}]", "[0.0.1]", "has no section"),
        ("## [Unreleased]\n", "## [Unreleased]\n\n### Added\n- More.\n", "[Unreleased] is not empty"),
    ],
)
def test_a_changelog_that_is_not_ready_is_refused(tree: Path, old: str, new: str, problem: str) -> None:
    """An entry can be neither forgotten nor left behind; and what is not committed is not released."""
    path = tree / "CHANGELOG.md"
    path.write_text(path.read_text().replace(old, new))
    found = "\n".join(release.release_problems(tree))
    assert problem in found
    assert "the tree is not that of a commit:\n M CHANGELOG.md" in found


def test_what_is_missing_in_a_package_or_too_much_is_named(tmp_path: Path) -> None:
    """Code, data, and the metadata's version."""
    source, wheel = tmp_path / "a.tar.gz", tmp_path / "a.whl"
    info = f"llm_probe_exporter-{VERSION}.dist-info"
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "exporter").rglob("*.py")}
    with zipfile.ZipFile(wheel, "w") as packed:
        for name in {*code, *release.DATA} - {"exporter/web/runbook.json"} | {"tests/a.py"}:
            packed.writestr(name, "")
        packed.writestr(f"{info}/METADATA", "Name: llm-probe-exporter\nVersion: 0.0.1\n")
    with tarfile.open(source, "w:gz") as packed_source:
        for name in {*code, *release.DATA, "README.md"}:
            packed_source.addfile(tarfile.TarInfo(f"a/{name}"), io.BytesIO())
    assert release.content_problems(source, wheel, VERSION) == [
        "the wheel lacks exporter/web/runbook.json",
        "the wheel has tests/a.py",
        "the source package lacks LICENSE",
        f"the wheel's metadata names another version than {VERSION}",
    ]
