"""What the documentation shows is true: its configurations load, its links lead somewhere, its commands exist."""

import re
from pathlib import Path

import pytest
import yaml

from docs import build
from exporter import cli
from exporter.cache import memory, models
from exporter.history import change, ratio, speed_tracker, store
from exporter.metrics import FAMILIES
from exporter.probe import answer, canary, canary_run, fingerprint, interruption, measure, politeness, production, run
from exporter.settings import Settings, load
from exporter.settings.model import Module
from exporter.web import page as status_page
from exporter.web.ranges import RANGES
from exporter.web.status import Verdict
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_a_heading_find_it(page: Path) -> None:
    """What stands after the # of a link to a page is the anchor of one of its headings."""
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        assert anchor in anchors((page.parent / target) if target else page), f"{page.name}: {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_shows_metrics_with_their_labels() -> None:
    """Each line of its example has a name and labels that the exporter gives."""
    known = {family.name: set(family.all_labels) for family in FAMILIES}
    shown = re.findall(r"^(llm_\w+)\{(.*)\} ", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert shown
    for name, labels in shown:
        assert set(re.findall(r'(\w+)="', labels)) == known[name], name


def test_every_setting_of_a_module_is_explained() -> None:
    """The table in docs/configuration.md names each, with its default where that is one number or word."""
    text = (ROOT / "docs/configuration.md").read_text().partition("## Modules")[2].partition("###")[0]
    rows = {
        name: row
        for row in re.findall(r"^\| `.*$", text, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert set(rows) == set(Module.model_fields)
    for name, field in Module.model_fields.items():
        if isinstance(field.default, int | str) and field.default != Module.model_fields["max_tokens"].default:
            assert str(field.default) in rows[name].split("|")[2], name


def test_every_verdict_and_range_of_the_page_is_explained() -> None:
    """docs/status-page.md has a row for each verdict, and names how far back the lines go."""
    text = (ROOT / "docs/status-page.md").read_text()
    named = re.findall(
        r"`(\w+)`", "".join(row.split("|")[1] for row in re.findall(r"^\| `[a-z].*$", text, re.MULTILINE))
    )
    assert set(named) == set(Verdict.__members__)
    assert all(f"`{each}`" in text or f"range={each}" in text for each in RANGES)


def test_every_drop_in_is_explained() -> None:
    """docs/deploy-systemd.md has a row for each drop-in that the installer can add."""
    text = (ROOT / "docs/deploy-systemd.md").read_text()
    files = (ROOT / "deploy/systemd/llm-probe-exporter.service.d").glob("*.conf")
    assert {path.stem for path in files} == set(re.findall(r"^\| `([a-z-]+)(?:=\w+)?`", text, re.MULTILINE))


def test_the_ports_of_the_network_policy_are_named() -> None:
    """docs/deploy-kubernetes.md lists the ports that the exporter may reach in a cluster."""
    policy = yaml.safe_load((ROOT / "deploy/kubernetes/base/networkpolicy.yaml").read_text())
    *ports, last = [str(each["port"]) for each in policy["spec"]["egress"][1]["ports"]]
    assert (
        f"to the ports {', '.join(ports)} and {last} in the cluster" in (ROOT / "docs/deploy-kubernetes.md").read_text()
    )


def test_pages_name_the_same_versions() -> None:
    """The oldest Prometheus and Grafana are the same in getting-started.md and dashboards.md."""
    pages = [(ROOT / "docs" / name).read_text() for name in ("getting-started.md", "dashboards.md")]
    for program in ("Prometheus", "Grafana"):
        assert len({found for text in pages for found in re.findall(rf"{program} ([\d.]+) or later", text)}) == 1


FIGURES = [
    ("README.md", f"at most {Module().prompt_tokens} prompt and {Module().max_tokens} output tokens a minute"),
    ("docs/configuration.md", f"A speed needs at least {measure._MIN_TOKENS} tokens after the first chunk"),
    ("docs/troubleshooting.md", f"a speed needs at least {measure._MIN_TOKENS} tokens after the first chunk"),
    (
        "docs/configuration.md",
        f"more than {run.SHORT_PROMPT} prompt tokens gets one second more for each {run.SLOWEST_PREFILL:.0f} tokens",
    ),
    (
        "docs/configuration.md",
        f"A heavy probe ({politeness.LONG_PROMPT_TOKENS} or more prompt tokens, or several streams)",
    ),
    ("docs/configuration.md", f"has so many tokens ({canary.LEAST_DEPTH} or more)"),
    ("docs/configuration.md", f"at most {answer.NAME_LIMIT} characters of what repeats"),
    ("docs/configuration.md", f"thinks for more than some {canary_run.ANSWER_SECONDS:.0f} seconds"),
    ("docs/configuration.md", f"`llm_answer_fingerprint_distance` above {fingerprint.STEP_DISTANCE:.0f} means"),
    ("docs/configuration.md", f"and at most {memory.MOST_BYTES >> 20} MiB"),
    ("docs/configuration.md", f"with {memory.LEAST_BYTES >> 20} MiB and {models.READ_SECONDS:.0f} s"),
    ("docs/configuration.md", f"tries again after {models.AGAIN_SECONDS / 60:.0f} minutes"),
    (
        "docs/what-probing-costs.md",
        f"From {interruption.FIRST_READ_SECONDS:g} s on, the exporter looks for users once a second",
    ),
    (
        "docs/what-probing-costs.md",
        f"it has {politeness.LEAST_TOKENS} tokens and {politeness.LEAST_DECODE_SECONDS:.0f} s of decoding",
    ),
    (
        "docs/what-probing-costs.md",
        f"decode in {politeness.DECODE_SECONDS:g} s at the last speed, at least {politeness.LEAST_TOKENS}",
    ),
    ("docs/what-users-get.md", f"takes the second reading {production.AGAIN_SECONDS:.0f} s later"),
    (
        "docs/changes.md",
        f"After {', '.join(map(str, speed_tracker.JUDGED_AT[:-1]))} and {speed_tracker.JUDGED_AT[-1]} of them",
    ),
    ("docs/changes.md", f"the median of up to {speed_tracker.MOST_BEFORE} probes before it"),
    ("docs/changes.md", f"more than {ratio.LEAST_CHANGE:.0%} and more than".replace("%", " %")),
    ("docs/changes.md", "A fact that changes four times within an hour"),
    ("docs/status-page.md", f"up to {status_page.CARDS} servers as cards"),
]
"""Sentences of pages whose figures are those of the code."""


@pytest.mark.parametrize(
    ("page", "sentence"), FIGURES, ids=[f"{page}-{number}" for number, (page, _) in enumerate(FIGURES)]
)
def test_figures_of_pages_are_those_of_the_code(page: str, sentence: str) -> None:
    """A figure that the code changes has to change on its page, too."""
    assert sentence in " ".join((ROOT / page).read_text().split()), sentence


def test_how_long_the_history_is_kept() -> None:
    """Single probes for two days, then medians for 90 days; a fact that changes four times an hour is left out."""
    assert (store.RAW_HOURS, store.KEEP_SECONDS) == (48, 90 * 86400)
    assert (change.RESTLESS, change.RESTLESS_SECONDS) == (4, 3600)


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
