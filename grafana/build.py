"""Write dashboards, rules, their tests, provisioning and the runbook from one source: ``python -m grafana.build``.

``--check`` writes nothing. It fails when a committed file is not what the source says, or when a file lies there that the
source doesn't write. It also fails when an expression reads a metric that the exporter doesn't have, or when one of its metrics
is on no dashboard. ``--time-scale 0.05 --out DIR`` writes a set whose windows, ``for`` and intervals are twenty times shorter:
for trials, or for probes that run every few seconds.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from grafana import contract, rules
from grafana.alerts import ALERTS, RECORDINGS
from grafana.boards import BOARDS
from grafana.panels import panel_ids, walk_panels
from grafana.rule_tests import rule_tests
from grafana.rules import RuleSettings, to_yaml

ROOT: Final = Path(__file__).parents[1]
OWNED: Final = ("grafana/dashboards", "grafana/provisioning", "deploy/prometheus", "deploy/alertmanager")
LINT: Final = {
    "exclusions": {
        "panel-units-rule": {"reason": "tokens per second and joules per token have no unit in the linter's list"},
        "target-rate-interval-rule": {
            "reason": "counts of probes are given over the shown range or a fixed window, as the title says"
        },
        "target-instance-rule": {"reason": "Compare joins two targets that may live on different instances"},
    }
}


def outputs(settings: RuleSettings) -> dict[str, str]:
    """Every file that is written: path from the root → its text."""
    boards = {board["uid"]: board for board in BOARDS}
    files = {f"grafana/dashboards/{uid}.json": _json(board) for uid, board in boards.items()}
    files["grafana/dashboards/.lint"] = to_yaml(LINT)
    titles = {uid: board["title"] for uid, board in boards.items()}
    ids = {(uid, title): number for uid, board in boards.items() for title, number in panel_ids(board).items()}
    files |= {
        "grafana/provisioning/alerting/llm-probe.yml": to_yaml(rules.grafana_rules(settings, ids)),
        "grafana/provisioning/dashboards/llm-probe.yml": to_yaml(rules.grafana_provider()),
        "grafana/provisioning/datasources/llm-probe.yml": to_yaml(rules.grafana_datasource(settings)),
        "deploy/prometheus/prometheus.yml": to_yaml(rules.prometheus_config(settings)),
        "deploy/prometheus/rules/recording.yml": to_yaml(rules.recording_rules(settings)),
        "deploy/prometheus/rules/alerts.yml": to_yaml(rules.alerting_rules(settings)),
        "deploy/kubernetes/overlays/operator/prometheusrule.yaml": to_yaml(rules.prometheus_rule(settings)),
        "deploy/alertmanager/alertmanager.yml": to_yaml(rules.alertmanager_config(settings)),
        "docs/runbook.md": rules.runbook(settings, titles),
        "exporter/web/runbook.json": _json(rules.runbook_data(settings, titles)),
    }
    if settings.time_scale == 1:
        files["deploy/prometheus/tests/alerts.yml"] = rule_tests(settings, 1)
        files["deploy/prometheus/tests/baselines.yml"] = rule_tests(settings, 5)
    return files


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def problems(root: Path, settings: RuleSettings) -> list[str]:
    """What ``--check`` finds wrong: one line each, empty when all is well."""
    files = outputs(settings)
    found = [
        f"{path}: {'not there' if not (root / path).is_file() else 'not what the source says'}; run python -m grafana.build"
        for path, text in files.items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    ]
    there = {str(path.relative_to(root)) for folder in OWNED for path in (root / folder).rglob("*") if path.is_file()}
    found += [f"{path}: a stray file, the source doesn't write it" for path in sorted(there - set(files))]
    return found + contract.problems(_expressions(), list(_alert_expressions(settings)))


def _expressions() -> list[tuple[str, str]]:
    """(where, expression) of every panel, variable and annotation."""
    found = []
    for board in BOARDS:
        for panel in walk_panels(board):
            found += [(f"{board['title']}: {panel['title']}", target["expr"]) for target in panel.get("targets", ())]
        found += [
            (f"{board['title']}: annotation {annotation['name']}", annotation["expr"])
            for annotation in board["annotations"]["list"]
            if "expr" in annotation
        ]
    return found


def _alert_expressions(settings: RuleSettings) -> list[tuple[str, str]]:
    found = [(f"alert {alert.name}", settings.expression(rules.condition(alert))) for alert in ALERTS]
    return found + [(rule.name, settings.expression(rule.expression)) for rule in RECORDINGS]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    default = RuleSettings()
    parser = argparse.ArgumentParser(prog="python -m grafana.build", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail when something is not current or not right"
    )
    parser.add_argument("--out", type=Path, default=ROOT, help="write below this folder instead of the repository")
    parser.add_argument(
        "--time-scale", type=float, default=1.0, help="multiply every window, `for` and interval (default 1)"
    )
    parser.add_argument("--job", default=default.job, help="Prometheus job of the exporters")
    parser.add_argument(
        "--exporter", action="append", default=[], metavar="ADDRESS", help="exporter to scrape; may be repeated"
    )
    parser.add_argument("--alertmanager", default=default.alertmanager, metavar="ADDRESS")
    parser.add_argument("--prometheus-url", default=default.prometheus_url, help="for Grafana's data source")
    parser.add_argument("--grafana-url", default=default.grafana_url, help="for the links in alerts")
    parser.add_argument(
        "--runbook-url",
        default=default.runbook_url,
        help="for the links in alerts, instead of the page that each exporter serves; may use alert labels",
    )
    parser.add_argument("--webhook-url", help="send alerts there")
    given = parser.parse_args(arguments)
    if not 0 < given.time_scale <= 100:
        parser.error("--time-scale must be above 0 and at most 100")
    settings = RuleSettings(
        time_scale=given.time_scale,
        job=given.job,
        exporters=tuple(given.exporter) or default.exporters,
        alertmanager=given.alertmanager,
        prometheus_url=given.prometheus_url,
        grafana_url=given.grafana_url,
        runbook_url=given.runbook_url,
        webhook_url=given.webhook_url,
    )
    if given.check:
        found = problems(given.out, settings)
        print("\n".join(found) or "current", file=sys.stderr if found else sys.stdout)
        return 1 if found else 0
    for path, text in outputs(settings).items():
        file = given.out / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
