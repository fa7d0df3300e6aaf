"""What the documentation shows is true: its configurations load, its links lead somewhere, its commands exist."""

import re
from pathlib import Path

import pytest

from docs import build
from exporter import cli
from exporter.settings import Settings, load
from tests.bench import report

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "RELEASING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language in a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def configuration(tmp_path: Path, text: str) -> Settings:
    """The settings that a text gives, without anything from the environment."""
    path = tmp_path / "config.yml"
    path.write_text(text)
    return load(path, {})


def test_the_documented_defaults_are_the_defaults(tmp_path: Path) -> None:
    """Every key that docs/configuration.md shows exists, and has the value it shows."""
    shown = configuration(tmp_path, blocks(ROOT / "docs" / "configuration.md", "yaml")[0])
    built_in = load(None, {})
    assert shown.model_copy(update={"targets": ()}) == built_in
    assert set(re.findall(r"^(\w+):", blocks(ROOT / "docs" / "configuration.md", "yaml")[0], re.MULTILINE)) == set(
        type(built_in).model_fields
    )


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "configuration.md"], ids=lambda page: page.name)
def test_configurations_in_the_documentation_load(tmp_path: Path, page: Path) -> None:
    """A configuration that somebody copies from a page is accepted."""
    found = [text for text in blocks(page, "yaml") if "scrape_configs" not in text]
    assert found
    for text in found:
        configuration(tmp_path, text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    """A relative link or picture in a page is a file or folder of the repository."""
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_what_is_taken_from_tables_is_current() -> None:
    """Metrics, backends and caches are listed as the code has them: else ``make docs`` was forgotten."""
    assert build.problems(ROOT) == []


def test_a_page_that_is_not_current_is_named(tmp_path: Path) -> None:
    """A table that was changed by hand and a page that is gone are each found."""
    (tmp_path / "docs").mkdir()
    page = (ROOT / "docs" / "configuration.md").read_text()
    (tmp_path / "docs" / "configuration.md").write_text(page.replace("| vLLM |", "| VLLM |"))
    found = build.problems(tmp_path)
    assert [problem.partition(":")[0] for problem in found] == ["docs/metrics.md", "docs/configuration.md"]


def test_the_readme_names_every_command() -> None:
    """What the command line offers is in the README."""
    text = (ROOT / "README.md").read_text()
    for name in cli.main.commands:
        assert re.search(rf"\b{name}\b", text), name


def test_the_readme_quotes_what_was_measured() -> None:
    """Its table is that of docs/accuracy.md, in brief, and every place for a table there is filled."""
    accuracy = (ROOT / "docs" / "accuracy.md").read_text()
    assert report.quoted((ROOT / "README.md").read_text(), "truth") == report.brief(report.quoted(accuracy, "truth"))
    for name in ("machine", *report.BENCHES):
        assert report.cells(report.quoted(accuracy, name)), name
