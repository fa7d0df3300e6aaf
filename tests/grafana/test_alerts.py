"""The alerts: whole, the same for Prometheus and Grafana, on any time scale, with a page and a dashboard each."""

import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from exporter.web.runbook import render_runbook
from grafana import contract, rules
from grafana.advice import CONDITION_OF, advice_rows, remedy_of
from grafana.alerts import ALERTS, INHIBITIONS, RECORDINGS, Alert
from grafana.boards import BOARDS
from grafana.build import ROOT, outputs, problems
from grafana.panels import panel_ids
from grafana.promql import expand, metrics, milliseconds, scaled, selectors
from grafana.rule_tests import CASES
from grafana.rules import RuleSettings

BY_NAME = {alert.name: alert for alert in ALERTS}
BOARD = {board["uid"]: board for board in BOARDS}
each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)


@cache
def committed(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def prometheus() -> dict[str, Any]:
    (group,) = committed("deploy/prometheus/rules/alerts.yml")["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def grafana() -> dict[str, Any]:
    (group,) = committed("grafana/provisioning/alerting/llm-probe.yml")["groups"]
    return {rule["title"]: rule for rule in group["rules"]}


def test_what_is_committed_is_what_the_source_says() -> None:
    """Nothing is out of date, astray, unknown to the exporter or shown nowhere."""
    assert problems(ROOT, RuleSettings()) == []


def test_the_check_finds_what_is_wrong(tmp_path: Path) -> None:
    """A changed file, a missing one and a stray one are each named."""
    for path, text in outputs(RuleSettings()).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    assert problems(tmp_path, RuleSettings()) == []
    (tmp_path / "docs/runbook.md").write_text("old", encoding="utf-8")
    (tmp_path / "deploy/alertmanager/alertmanager.yml").unlink()
    (tmp_path / "grafana/dashboards/mine.json").write_text("{}", encoding="utf-8")
    found = "\n".join(problems(tmp_path, RuleSettings()))
    assert "docs/runbook.md: not what the source says" in found
    assert "deploy/alertmanager/alertmanager.yml: not there" in found
    assert "grafana/dashboards/mine.json: a stray file" in found


def test_the_contract_names_what_does_not_exist_and_what_is_not_shown() -> None:
    """A metric, a label and a place are named for each mistake."""
    found = contract.problems([("a panel", 'llm_probe_sucess{job="x"}')], [("an alert", 'llm_target_up{module="x"}')])
    assert "a panel: the exporter has no 'llm_probe_sucess'" in found
    assert "an alert: llm_target_up has no label 'module'" in found
    assert "llm_probe_ttft_seconds: on no dashboard" in found


def test_a_recorded_series_is_recorded_before_it_is_read() -> None:
    """Rules that read recorded series come after those that record them, or in another group."""
    names = [rule.name for rule in RECORDINGS]
    for place, rule in enumerate(RECORDINGS):
        read = metrics(expand(rule.expression)) & set(names)
        assert all(names.index(name) < place for name in read), rule.name


@each_alert
def test_an_alert_has_everything_a_person_needs(alert: Alert) -> None:
    """Severity, texts, a page in the runbook, and a dashboard that has the panel and the variables of the link."""
    rule = prometheus()[alert.name]
    assert set(rule["labels"]) == {"severity", "service"}
    assert "$value" not in str(rule["labels"]), "a value in a label starts the alert anew at each change"
    texts = rule["annotations"]
    way = "runbook_url" if alert.exporter_answers else "runbook"
    assert set(texts) == {"summary", "description", way, "dashboard_url", *remedy_of(alert)}
    assert "{{" not in texts["summary"]
    assert "$labels" in texts["description"]
    assert f'id="{alert.name.lower()}"' in render_runbook()
    assert f"\n## {alert.name}\n" in (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    assert alert.name.lower() in texts[way].lower()
    link = urlsplit(texts["dashboard_url"])
    board = BOARD[link.path.removeprefix("/d/")]
    assert alert.panel in panel_ids(board)
    known = {variable["name"] for variable in board["templating"]["list"]}
    assert {name.removeprefix("var-") for name in parse_qs(link.query)} <= known
    assert alert.look


@each_alert
def test_a_link_to_the_runbook_leads_to_an_exporter(alert: Alert) -> None:
    """It needs the label instance of the alert, which only an alert about a job that is gone doesn't have."""
    labels = next(case.labels for case in CASES if case.alert == alert.name and case.description)
    link = rules.runbook_of(alert, RuleSettings())
    assert link == (
        {"runbook_url": f"http://{{{{ $labels.instance }}}}/runbook#{alert.name.lower()}"}
        if alert.exporter_answers
        else {"runbook": f"section {alert.name} of docs/runbook.md, or of the page /runbook of any exporter that runs"}
    )
    assert "instance" in labels or not alert.exporter_answers


@each_alert
def test_a_site_may_have_its_runbook_elsewhere(alert: Alert) -> None:
    """Then every alert links there, also one about an exporter that is down."""
    settings = RuleSettings(runbook_url="https://wiki.example.org/llm")
    assert rules.runbook_of(alert, settings) == {"runbook_url": f"https://wiki.example.org/llm#{alert.name.lower()}"}


@each_alert
def test_prometheus_and_grafana_say_the_same(alert: Alert) -> None:
    """Expression, bound, times, labels and texts of both variants agree."""
    ours, theirs = prometheus()[alert.name], grafana()[alert.name]
    queries = {query["refId"]: query["model"] for query in theirs["data"]}
    evaluator = queries["C"]["conditions"][0]["evaluator"]
    sign = {"lt": "<", "gt": ">"}[evaluator["type"]]
    if alert.match:
        assert evaluator["params"] == [1.0]
        assert (
            queries["A"]["expr"].replace(f" / {expand(alert.match)} ", f" {sign} {expand(alert.match)} ")
            == ours["expr"]
        )
        value = queries["B"]["expr"]
        compared = f" {sign} {expand(alert.match)} {expand(alert.bound)}"
        gates = "".join(f"\n{rules.RuleSettings().expression(gate)}" for gate in alert.gates)
        assert value.removesuffix(gates) + compared + gates == ours["expr"], "the shown value has the same gates"
    else:
        gates = (
            ours["expr"]
            .removesuffix("\n")
            .removeprefix(rules.RuleSettings().expression(rules.measured(alert)).split("\nand on")[0])
        )
        assert sign in gates
        assert f"{sign} {alert.bound}" in ours["expr"]
        assert float(alert.bound) == evaluator["params"][0]
        assert metrics(queries["A"]["expr"]) == metrics(ours["expr"])
    assert theirs["for"] == ours["for"]
    assert theirs.get("keepFiringFor") == ours.get("keep_firing_for")
    assert theirs["labels"] == ours["labels"]
    shown = "$values.B.Value" if alert.match else "$values.A.Value"
    told = {**ours["annotations"], "description": ours["annotations"]["description"].removesuffix(alert.detail)}
    assert {key: text.replace(shown, "$value") for key, text in theirs["annotations"].items()} == told
    assert "| query" not in str(theirs["annotations"]), "only Prometheus can ask for more series in a text"


def test_grafana_rules_keep_to_the_format() -> None:
    """Short unique uids, a panel that exists, spelling of file provisioning, and no news where there are no rows."""
    theirs = grafana()
    assert len({rule["uid"] for rule in theirs.values()}) == len(ALERTS)
    for name, rule in theirs.items():
        assert len(rule["uid"]) <= 40
        assert rule["panelId"] == panel_ids(BOARD[rule["dashboardUid"]])[BY_NAME[name].panel]
        assert rule["noDataState"] == "OK"
        assert "keep_firing_for" not in rule
        assert "${" not in str(rule["annotations"]), "Grafana would expand it as an environment variable"
        for query in rule["data"][:-1]:
            assert query["datasourceUid"] == rules.DATASOURCE
            assert "datasource" not in query["model"]


@each_alert
def test_every_gate_names_the_labels_that_it_joins_on(alert: Alert) -> None:
    """A gate without ``on (…)`` would compare labels that the other side doesn't have, and never match."""
    for gate in alert.gates:
        assert re.match(r"(and|unless) on \((@module(, model)?|@target(, model)?|job, instance, \w+)\) ", gate)
    for match in re.findall(r"on \(([^)]*)\)", rules.RuleSettings().expression(rules.condition(alert))):
        assert {"job", "instance"} <= set(match.split(", ")), "two hosts may have a target of the same name"


def test_the_bounds_of_tiers_come_from_the_exporter() -> None:
    """No rule holds the figure of a tier."""
    speed = [alert for alert in ALERTS if alert.name.startswith("LLMThroughputPoor")]
    assert len(speed) == 1
    for alert in speed:
        text = rules.condition(alert)
        assert "llm_performance_tier_threshold_tokens_per_second" in text
        assert not re.search(r"(?<![\d.\[<])(10|15|20)(?![\dm])", text)


@each_alert
def test_every_alert_has_unit_tests(alert: Alert) -> None:
    """One case where it fires with its texts, one where it doesn't."""
    cases = [case for case in CASES if case.alert == alert.name]
    assert any(case.description and alert.name in list(case.when.values())[-1] for case in cases)
    assert any(alert.name not in names for case in cases for names in case.when.values())


def test_inhibitions_name_alerts_and_labels_that_both_sides_have() -> None:
    """Every source and target is an alert, and each label is one that source and targets carry."""
    for rule in INHIBITIONS:
        assert rule.source in BY_NAME
        assert any(re.fullmatch(rule.targets, name) for name in BY_NAME)
        for part in rule.targets.split("|"):
            assert any(re.fullmatch(part, name) for name in BY_NAME), part


@pytest.mark.parametrize(
    ("duration", "scale", "expected"),
    [
        ("10m", 1, "10m"),
        ("90m", 1, "1h30m"),
        ("5m", 0.05, "15s"),
        ("10s", 0.01, "1s"),
        ("150s", 0.01, "1s500ms"),
        ("7d", 2, "14d"),
    ],
)
def test_durations_scale(duration: str, scale: float, expected: str) -> None:
    """In whole milliseconds, and never to nothing."""
    assert scaled(duration, scale) == expected
    assert milliseconds(expected) > 0


def test_a_duration_that_is_none_is_an_error() -> None:
    """The message names it."""
    with pytest.raises(ValueError, match="'10 minutes'"):
        milliseconds("10 minutes")


def test_the_time_scale_reaches_every_window() -> None:
    """Ranges, offsets, numbers of seconds, ``for``, intervals: all of a scaled set are a twentieth."""
    text = outputs(RuleSettings(time_scale=0.05))["deploy/prometheus/rules/recording.yml"]
    assert "[30s]" in text
    assert "llm_probe_interval_seconds <= 7.5" in text
    assert "[10m]" not in text
    alerts = yaml.safe_load(outputs(RuleSettings(time_scale=0.05))["deploy/prometheus/rules/alerts.yml"])
    whole = prometheus()
    for rule in alerts["groups"][0]["rules"]:
        assert milliseconds(rule["for"]) == milliseconds(whole[rule["alert"]]["for"]) * 0.05
    assert list(selectors(alerts["groups"][0]["rules"][0]["expr"]))


def test_alerts_and_runbook_give_the_same_advice() -> None:
    """Each alert that is about a condition of the table carries its remedy; the runbook lists every condition."""
    assert CONDITION_OF.keys() <= BY_NAME.keys()
    shown, page = render_runbook(), (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    for name in CONDITION_OF:
        (remedy,) = remedy_of(BY_NAME[name]).values()
        assert prometheus()[name]["annotations"]["remedy"] == remedy
        assert f"- {remedy}\n" in page
    for row in advice_rows():
        assert f'id="advice-{row["id"]}"' in shown
        assert f"| `{row['id']}` | {row['title']} |" in page
