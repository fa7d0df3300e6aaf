"""Lists that repeat another one: each says the same as that from which it should be taken."""

import re
from pathlib import Path

import click
import pytest

from exporter.address import DEFAULT_LISTEN
from exporter.cli import main
from exporter.cli.printing import STYLES as STYLES_OF_ROWS
from exporter.comparison import VERDICTS as VERDICTS_OF_COMPARISONS
from exporter.metrics import FAMILIES
from exporter.probe.result import RESULTS, SKIPPED
from exporter.status_report import BAD
from exporter.terminal import STYLES as STYLES_OF_TOP
from exporter.tiers import TIERS
from exporter.web.badge import COLOURS
from exporter.web.page import SKIPPED_TEXTS
from exporter.web.status import RESULT_TEXTS, Verdict
from grafana.alerts import ALERTS

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]
DEPLOYED = [path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file() and path.suffix != ".lock"]
VERDICTS = {verdict.name for verdict in Verdict}


@pytest.mark.parametrize(
    "coloured",
    [STYLES_OF_TOP, COLOURS, BAD, {*STYLES_OF_ROWS} - {"minimum", "below the minimum", "no change", "slower"}],
)
def test_what_is_coloured_by_its_verdict_is_one(coloured: set[str]) -> None:
    """The terminal, the badge and the rows at the prompt know no verdict that the status does not give."""
    assert {*coloured} <= VERDICTS


def test_a_verdict_on_a_comparison_has_its_colour() -> None:
    """Each, by the words before its colon; too few runs are no verdict."""
    assert {text.partition(":")[0] for text in VERDICTS_OF_COMPARISONS.values()} - {*STYLES_OF_ROWS} == {
        "too few runs to tell"
    }


def test_the_bad_verdicts_are_the_worst() -> None:
    """`status` exits with 1 for those that stand before ``poor`` in the order of the page."""
    assert {verdict.name for verdict in Verdict if verdict < Verdict.poor} == BAD


def test_a_tier_to_fail_below_is_one() -> None:
    """`probe --min-tier` offers each tier but the worst, below which nothing is."""
    (choice,) = [each.type for each in main.commands["probe"].params if each.name == "min_tier"]
    assert isinstance(choice, click.Choice)
    assert tuple(choice.choices) == TIERS[:-1]


def test_each_result_has_its_text() -> None:
    """On the page, short where the probe was skipped. A server that is down has its words among those of failed probes."""
    assert {*RESULT_TEXTS} - {"down"} == {*RESULTS} - {"ok"}
    assert {*SKIPPED_TEXTS} == SKIPPED


@pytest.mark.parametrize("alert", ALERTS, ids=lambda each: each.name)
def test_the_results_in_an_alert_are_results(alert: object) -> None:
    """A pattern in which a result is misspelt matches no series."""
    for pattern in re.findall(r'result[!=]~?"([^"]+)"', repr(alert)):
        for part in pattern.split("|"):
            assert any(re.fullmatch(part, result) for result in RESULTS), part


@pytest.mark.parametrize("path", [*PAGES, *DEPLOYED], ids=lambda path: str(path.relative_to(ROOT)))
def test_an_alert_that_is_named_is_there(path: Path) -> None:
    """In the documentation, and in what deploys it: by its name, or by how several begin."""
    names = [each.name for each in ALERTS]
    found = re.findall(r"\bLLM[A-Z]\w+", path.read_text(encoding="utf-8"))
    assert [name for name in found if not any(each.startswith(name) for each in names)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_metric_that_is_named_is_there(path: Path) -> None:
    """In the documentation: by its name, with the ending of a histogram, or by how several begin."""
    names = {f"{family.name}{ending}" for family in FAMILIES for ending in ("", "_bucket", "_sum", "_count")}
    found = re.findall(r"(?<![:\w])(?:llm|amdgpu|rocm)_[a-z0-9_]+(?![:\w])", path.read_text(encoding="utf-8"))
    begun = {name for name in found if name.endswith("_") and any(each.startswith(name) for each in names)}
    assert {*found} - names - begun == set()


@pytest.mark.parametrize("path", DEPLOYED, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_deployed_answers_at_the_port_that_is_documented(path: Path) -> None:
    """Each port of ours in the files under deploy/ is the built-in one."""
    port = DEFAULT_LISTEN.rpartition(":")[2]
    assert set(re.findall(r"(?<![\d.])99\d\d(?!\d)", path.read_text(encoding="utf-8"))) <= {port}
