"""Dashboards and Grafana rules over a real Prometheus that holds some hours of made-up history (grafana/sample_history.py)."""

import json
import math
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana import sample_history
from grafana.alerts import ALERTS, Alert
from grafana.build import ROOT
from grafana.panels import walk_panels
from tests.real.conftest import need
from tests.real.prometheus import filled, missing_tools, query, query_range, running_prometheus, variables

pytestmark = pytest.mark.real

HOURS, STEP = 4.0, 60.0
BOARDS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "grafana/dashboards").glob("*.json"))]
CHOSEN = {
    "llm-target": {"instance": "framework:9937", "target": "vllm", "module": "default"},
    "llm-compare": {
        "instance": "framework:9937",
        "baseline": "vllm",
        "candidate": "vllm",
        "module": "default",
        "offset": "1h",
    },
}
INTERVALS = {"__rate_interval": "4m", "__range": "4h", "__interval": "1m"}
QUIET = {
    "LLMSlowerSinceChange", "LLMSlowerUnexplained", "LLMTTFTRegressed", "LLMNeverProbed", "LLMProbeExporterAbsent",
    "LLMModelDownloadStuck", "LLMModelCacheDiskFilling", "LLMThroughputAtCeiling",
}  # fmt: skip
"""Rules that have no row where all is well, or that need days of history."""


@dataclass(frozen=True)
class Past:
    """A Prometheus that holds the history, and the Unix time at which it ends."""

    url: str
    end: float


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    """The history with the recorded series, as Prometheus would have recorded them."""
    missing = missing_tools("prometheus", "promtool")
    need(not missing, f"prometheus ({missing})")
    folder = tmp_path_factory.mktemp("past")
    end = time.time() - 60
    with (folder / "history.txt").open("w", encoding="utf-8") as file:
        sample_history.write(file, end, HOURS, STEP)
    backfill = [
        "promtool",
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        str(folder / "history.txt"),
        str(folder / "tsdb"),
    ]
    subprocess.run(backfill, check=True, capture_output=True)
    config = folder / "prometheus.yml"
    config.write_text("global: {scrape_interval: 60s}\n")
    rules = str(ROOT / "deploy/prometheus/rules/recording.yml")
    for _ in range(3):  # each pass computes from what the pass before has written: a recorded series may read another
        with running_prometheus(config, folder / "tsdb") as url:
            record = ["promtool", "tsdb", "create-blocks-from", "rules", f"--url={url}", "--eval-interval=60s"]
            record += [
                f"--start={end - HOURS * 3600:.0f}",
                f"--end={end:.0f}",
                f"--output-dir={folder / 'tsdb'}",
                rules,
            ]
            subprocess.run(record, check=True, capture_output=True)
    with running_prometheus(config, folder / "tsdb") as url:
        yield Past(url, end)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board["uid"])
def test_every_query_of_every_panel_gives_data(past: Past, board: dict[str, Any]) -> None:
    """With the variables filled in, none is an error and none is empty, at least for some server at some time."""
    chosen = CHOSEN.get(board["uid"], {})
    drafting = {"instance": "oldbox:9937", "target": "llama-draft", "module": "default"}
    tried = [chosen, drafting, {}] if board["uid"] == "llm-target" else [chosen]
    empty = [
        f"{panel['title']}: {target['expr']}"
        for panel in walk_panels(board)
        for target in panel["targets"]
        if not any(shown(past, board, target, given, at) for given in tried for at in (past.end, past.end - 3600))
    ]
    assert not empty, "\n".join(empty)


def shown(past: Past, board: dict[str, Any], target: dict[str, Any], given: dict[str, str], at: float) -> bool:
    """Whether a query of a panel has rows at a time, with what is given for the variables."""
    expression = filled(target["expr"], board, INTERVALS | given)
    if target["instant"]:
        return bool(query(past.url, expression, at))
    return bool(query_range(past.url, expression, past.end - HOURS * 3600, at, STEP))


def choices(past: Past, board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every value that a person can choose: name of the variable, value."""
    chosen = INTERVALS | CHOSEN.get(board["uid"], {})
    for variable in board["templating"]["list"]:
        if variable["type"] == "custom":
            yield from ((variable["name"], option["value"]) for option in variable["options"])
    for name, expression in variables(board, chosen):
        for row in query(past.url, expression, past.end):
            yield name, next(iter(row["metric"].values()), "")


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board["uid"])
def test_every_value_of_every_variable_can_be_chosen(past: Past, board: dict[str, Any]) -> None:
    """Filled in one after the other, none makes a query an error, on the oldest Prometheus that the documentation names."""
    (oldest,) = re.findall(r"Prometheus (2\.\d+) or later", (ROOT / "docs/dashboards.md").read_text(encoding="utf-8"))
    said = subprocess.run(["prometheus", "--version"], check=True, capture_output=True, text=True)
    need(f"version {oldest}." in said.stdout + said.stderr, f"Prometheus {oldest}")
    found = list(choices(past, board))
    assert found
    for name, value in found:
        for panel in walk_panels(board):
            for target in panel["targets"]:
                given = INTERVALS | CHOSEN.get(board["uid"], {}) | {name: value}
                query(past.url, filled(target["expr"], board, given), past.end)


@contextmanager
def prometheus_with(folder: Path, text: str) -> Iterator[str]:
    """A Prometheus that holds a history in OpenMetrics, which may be empty; its URL."""
    missing = missing_tools("prometheus", "promtool")
    need(not missing, f"prometheus ({missing})")
    (folder / "history.txt").write_text(text, encoding="utf-8")
    (folder / "tsdb").mkdir()
    if text:
        backfill = ["promtool", "tsdb", "create-blocks-from", "openmetrics"]
        subprocess.run([*backfill, folder / "history.txt", folder / "tsdb"], check=True, capture_output=True)
    (folder / "prometheus.yml").write_text("global: {scrape_interval: 60s}\n")
    with running_prometheus(folder / "prometheus.yml", folder / "tsdb") as url:
        yield url


def test_an_empty_history_gives_no_figure(tmp_path: Path) -> None:
    """Before the first scrape every panel is empty: no zero that says that all is well, and no error."""
    with prometheus_with(tmp_path, "") as url:
        for board in BOARDS:
            for panel in walk_panels(board):
                for target in panel["targets"]:
                    given = INTERVALS | CHOSEN.get(board["uid"], {})
                    assert query(url, filled(target["expr"], board, given)) == [], (board["uid"], panel["title"])


COMPARED = {
    "one minute, against an hour ago": {"offset": "1h"},
    "one minute, against itself": {"offset": "1ms"},
    "no baseline": {"offset": "1ms", "baseline": "nobody"},
    "no candidate": {"offset": "1ms", "candidate": "nobody"},
}


def test_a_short_or_one_sided_history_gives_no_verdict(tmp_path: Path) -> None:
    """With one minute of history, or with one side alone, Compare says nothing of faster or slower, and no bound counts as missed."""
    (board,) = (each for each in BOARDS if each["uid"] == "llm-compare")
    end = time.time() - 60
    history = sample_history.make(end, 1 / 60, 15.0)
    with prometheus_with(tmp_path, "".join(f"{line}\n" for line in sample_history.lines(history))) as url:
        for name, changed in COMPARED.items():
            given = INTERVALS | CHOSEN["llm-compare"] | changed
            rows = {
                (panel["title"], place): query(url, filled(target["expr"], board, given), end)
                for panel in walk_panels(board)
                for place, target in enumerate(panel["targets"])
                if target["instant"] and target["format"] != "table"
            }
            values = {key: [float(row["value"][1]) for row in found] for key, found in rows.items()}
            assert not any(math.isnan(value) for found in values.values() for value in found), name
            assert values["Verdict", 0] in ([], [-2.0]), name
            for title in ("Speed-up", "Bounds reached", "First token, ratio"):
                assert not any(values[title, place] for place in range(3) if (title, place) in values), (name, title)


def test_the_first_scrapes_mark_no_change(tmp_path: Path) -> None:
    """What changed hours before Prometheus began to scrape is not marked as if it had just happened."""
    end = time.time() - 60
    history = sample_history.make(end, 1 / 60, 15.0)
    with prometheus_with(tmp_path, "".join(f"{line}\n" for line in sample_history.lines(history))) as url:
        for board in BOARDS:
            for annotation in board["annotations"]["list"]:
                if "expr" in annotation and annotation["enable"]:
                    asked = filled(annotation["expr"], board, INTERVALS | CHOSEN.get(board["uid"], {}))
                    assert not query_range(url, asked, end - 120, end, 15.0), annotation["name"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board["uid"])
def test_every_variable_and_annotation_is_answered(past: Past, board: dict[str, Any]) -> None:
    """Variables have values; annotations mark something where the history has it."""
    chosen = INTERVALS | CHOSEN.get(board["uid"], {})
    for name, expression in variables(board, chosen):
        assert query(past.url, expression, past.end), name
    for annotation in board["annotations"]["list"]:
        if "expr" in annotation and annotation["enable"]:
            rows = query_range(
                past.url,
                filled(annotation["expr"], board, INTERVALS | CHOSEN.get(board["uid"], {})),
                past.end - HOURS * 3600,
                past.end,
                STEP,
            )
            assert rows, annotation["name"]


def grafana_rule(name: str) -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "grafana/provisioning/alerting/llm-probe.yml").read_text(encoding="utf-8"))
    found: dict[str, Any] = next(rule for rule in document["groups"][0]["rules"] if rule["title"] == name)
    return found


def prometheus_rule(name: str) -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "deploy/prometheus/rules/alerts.yml").read_text(encoding="utf-8"))
    found: dict[str, Any] = next(rule for rule in document["groups"][0]["rules"] if rule["alert"] == name)
    return found


def labels_of(rows: list[dict[str, Any]]) -> set[frozenset[tuple[str, str]]]:
    return {frozenset((key, value) for key, value in row["metric"].items() if key != "__name__") for row in rows}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_grafana_and_prometheus_find_the_same(past: Past, alert: Alert) -> None:
    """At each of several times Grafana's query and threshold hold for exactly the servers for which Prometheus' rule has a row."""
    theirs = grafana_rule(alert.name)
    queries = {part["refId"]: part["model"] for part in theirs["data"]}
    evaluator = queries["C"]["conditions"][0]["evaluator"]
    limit = evaluator["params"][0]
    rows: list[dict[str, Any]] = []
    for minutes in (0, 5, 20, 40, 222):
        at = past.end - 60 * minutes
        found = query(past.url, queries["A"]["expr"], at)
        rows += found
        holds = [
            row
            for row in found
            if (float(row["value"][1]) < limit) == (evaluator["type"] == "lt") and float(row["value"][1]) != limit
        ]
        assert labels_of(holds) == labels_of(query(past.url, prometheus_rule(alert.name)["expr"], at))
        if "B" in queries:
            assert labels_of(query(past.url, queries["B"]["expr"], at)) >= labels_of(holds) or alert.match
    if alert.name not in QUIET:
        assert rows, "a healthy target has a row too, so that no data means no data"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board["uid"])
def test_grafanas_own_schema_reads_a_dashboard_and_writes_it_back(board: dict[str, Any]) -> None:
    """grafana-foundation-sdk knows every field that is written here, and loses none."""
    sdk = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="grafana-foundation-sdk is missing")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    back = json.loads(JSONEncoder(sort_keys=True).encode(sdk.Dashboard.from_json(board)))
    assert lost(board, back) == []


def lost(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where a value of ours is missing or different in theirs; defaults that they add are fine."""
    if isinstance(ours, dict):
        if not isinstance(theirs, dict):
            return [f"{path}: {ours!r} became {theirs!r}"]
        return [found for key, value in ours.items() for found in lost(value, theirs.get(key), f"{path}.{key}")]
    if isinstance(ours, list):
        if not isinstance(theirs, list) or len(ours) != len(theirs):
            return [] if not ours and theirs is None else [f"{path}: {ours!r} became {theirs!r}"]
        return [
            found
            for place, pair in enumerate(zip(ours, theirs, strict=True))
            for found in lost(*pair, f"{path}[{place}]")
        ]
    return [] if ours == theirs else [f"{path}: {ours!r} became {theirs!r}"]
