"""Alerts and recording rules as the files that Prometheus, Alertmanager and Grafana read, and as a page for people."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import yaml

from grafana.advice import advice_rows, remedy_of
from grafana.alerts import ALERTS, INHIBITIONS, RECORDINGS, Alert, Recording
from grafana.promql import expand, milliseconds, scaled

HEADER: Final = "# Written by `python -m grafana.build`; change grafana/, not this file.\n---\n"
SERVICE: Final = "llm-probe"
DATASOURCE: Final = "llm-probe-prometheus"
FOLDER: Final = "LLM probes"


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """What a site may change. ``time_scale`` multiplies every window, ``for`` and interval: 1 fits a probe a minute.

    ``runbook_url`` is by default the page that the exporter itself serves, at the address at which Prometheus scrapes it.
    """

    time_scale: float = 1.0
    job: str = "llm-probe-exporter"
    exporters: tuple[str, ...] = ("127.0.0.1:9937",)
    alertmanager: str = "127.0.0.1:9093"
    prometheus_url: str = "http://127.0.0.1:9090"
    grafana_url: str = "http://localhost:3000"
    runbook_url: str = "http://{{ $labels.instance }}/runbook"
    webhook_url: str | None = None

    def duration(self, text: str) -> str:
        """A duration of the sources on this site's time scale."""
        return text if text == "0s" else scaled(text, self.time_scale)

    def expression(self, source: str) -> str:
        """An expression of the sources on this site's time scale, with this site's job."""
        return expand(source.replace("@job", f'job="{self.job}"'), self.time_scale)


class _Dumper(yaml.SafeDumper):
    """Indented sequences and literal blocks, as people write YAML."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - PyYAML's signature
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def to_yaml(data: object) -> str:
    """The data as YAML under a header that says where it comes from."""
    return HEADER + yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


def condition(alert: Alert) -> str:
    """The whole alert as one PromQL expression: it has a row if the alert holds."""
    match = f"{alert.match} " if alert.match else ""
    return "\n".join((f"{_grouped(alert)} {alert.op} {match}{alert.bound}", *alert.gates))


def measured(alert: Alert) -> str:
    """What Grafana compares with 1 (a bound that is a metric) or with the bound: it has a row if anything is known."""
    return "\n".join(
        (f"{_grouped(alert)} / {alert.match} {alert.bound}" if alert.match else _grouped(alert), *alert.gates)
    )


def limit(alert: Alert) -> float:
    """The number that Grafana's threshold expression compares ``measured`` with."""
    return 1.0 if alert.match else float(alert.bound)


def _grouped(alert: Alert) -> str:
    plain = all(character.isalnum() or character in '_:{}="@' for character in alert.value)
    return alert.value if plain else f"({alert.value})"


def _annotations(alert: Alert, settings: RuleSettings) -> dict[str, str]:
    query = "&".join(f"var-{label}={{{{ $labels.{label} | urlquery }}}}" for label in alert.variables)
    return {
        "summary": alert.summary,
        "description": alert.description,
        **remedy_of(alert),
        **runbook_of(alert, settings),
        "dashboard_url": f"{settings.grafana_url}/d/{alert.board}?{query}",
    }


def runbook_of(alert: Alert, settings: RuleSettings) -> dict[str, str]:
    """The annotation that leads to an alert's entry in the runbook: an address, or a hint if nothing may answer there."""
    if "$labels.instance" in settings.runbook_url and not alert.exporter_answers:
        return {
            "runbook": f"section {alert.name} of docs/runbook.md, or of the page /runbook of any exporter that runs"
        }
    return {"runbook_url": f"{settings.runbook_url}#{alert.name.lower()}"}


def _labels(alert: Alert) -> dict[str, str]:
    return {"severity": alert.severity, "service": SERVICE}


def recording_rules(settings: RuleSettings) -> dict[str, Any]:
    """The rule file with the recorded series, those that look back over days in a group of their own."""

    def group(name: str, interval: str, rules: Iterable[Recording]) -> dict[str, Any]:
        return {
            "name": name,
            "interval": settings.duration(interval),
            "rules": [{"record": rule.name, "expr": settings.expression(rule.expression)} for rule in rules],
        }

    return {
        "groups": [
            group("llm-probe-recent", "30s", (rule for rule in RECORDINGS if not rule.slow)),
            group("llm-probe-baseline", "2m", (rule for rule in RECORDINGS if rule.slow)),
        ]
    }


def alerting_rules(settings: RuleSettings) -> dict[str, Any]:
    """The rule file with the alerts."""
    rules = []
    for alert in ALERTS:
        rule: dict[str, Any] = {"alert": alert.name, "expr": settings.expression(condition(alert))}
        rule["for"] = settings.duration(alert.hold)
        if alert.keep != "0s":
            rule["keep_firing_for"] = settings.duration(alert.keep)
        annotations = _annotations(alert, settings)
        annotations["description"] += alert.detail
        rule |= {"labels": _labels(alert), "annotations": annotations}
        rules.append(rule)
    return {"groups": [{"name": "llm-probe-alerts", "interval": settings.duration("30s"), "rules": rules}]}


def grafana_rules(settings: RuleSettings, panel_ids: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """The same alerts for Grafana's own alerting. They read the recorded series: Prometheus needs the recording rules.

    A row that a gate takes away is no news (``noDataState: OK``); an unreachable data source keeps the state, but for one
    rule that says so.
    """
    interval = settings.duration("1m")
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": "llm-probe-alerts",
                "folder": FOLDER,
                "interval": interval if milliseconds(interval) >= 10_000 else "10s",
                "rules": [_grafana_rule(alert, settings, panel_ids[alert.board, alert.panel]) for alert in ALERTS],
            }
        ],
    }


def _grafana_rule(alert: Alert, settings: RuleSettings, panel: int) -> dict[str, Any]:
    shown = "B" if alert.match else "A"
    data = [_query("A", settings.expression(measured(alert)))]
    if alert.match:
        plain = "\n".join((_grouped(alert), *alert.gates))
        data.append(_query("B", settings.expression(plain)))
    data.append(_threshold(alert))
    rule: dict[str, Any] = {
        "uid": uid(alert),
        "title": alert.name,
        "condition": "C",
        "data": data,
        "dashboardUid": alert.board,
        "panelId": panel,
        "noDataState": "OK",
        "execErrState": "Error" if alert.name == "LLMProbeExporterAbsent" else "KeepLast",
        "for": settings.duration(alert.hold),
    }
    if alert.keep != "0s":
        rule["keepFiringFor"] = settings.duration(alert.keep)
    rule["annotations"] = {
        key: text.replace("$value", f"$values.{shown}.Value") for key, text in _annotations(alert, settings).items()
    }
    rule["labels"] = _labels(alert)
    rule["isPaused"] = False
    return rule


def uid(alert: Alert) -> str:
    """The stable uid of the Grafana rule: at most 40 characters."""
    return "llm-" + alert.name.removeprefix("LLM").lower()


def _query(ref: str, expression: str) -> dict[str, Any]:
    return {
        "refId": ref,
        "relativeTimeRange": {"from": 600, "to": 0},
        "datasourceUid": DATASOURCE,
        "model": {
            "refId": ref,
            "expr": expression,
            "instant": True,
            "range": False,
            "intervalMs": 1000,
            "maxDataPoints": 43200,
        },
    }


def _threshold(alert: Alert) -> dict[str, Any]:
    evaluator = {"type": "lt" if alert.op == "<" else "gt", "params": [limit(alert)]}
    return {
        "refId": "C",
        "relativeTimeRange": {"from": 0, "to": 0},
        "datasourceUid": "__expr__",
        "model": {"refId": "C", "type": "threshold", "expression": "A", "conditions": [{"evaluator": evaluator}]},
    }


def grafana_datasource(settings: RuleSettings) -> dict[str, Any]:
    """The data source that the Grafana rules name by its uid; dashboards take any Prometheus."""
    return {
        "apiVersion": 1,
        "prune": True,
        "datasources": [
            {
                "name": "Prometheus (LLM probes)",
                "uid": DATASOURCE,
                "orgId": 1,
                "type": "prometheus",
                "access": "proxy",
                "url": settings.prometheus_url,
                "isDefault": True,
                "editable": False,
                "jsonData": {
                    "httpMethod": "POST",
                    "timeInterval": settings.duration("15s"),
                    "prometheusType": "Prometheus",
                },
            }
        ],
    }


def grafana_provider() -> dict[str, Any]:
    """Where Grafana finds the dashboards: mount grafana/dashboards there."""
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "llm-probe",
                "orgId": 1,
                "folder": FOLDER,
                "type": "file",
                "disableDeletion": True,
                "updateIntervalSeconds": 60,
                "allowUiUpdates": False,
                "options": {"path": "/var/lib/grafana/dashboards/llm-probe"},
            }
        ],
    }


def prometheus_config(settings: RuleSettings) -> dict[str, Any]:
    """A whole Prometheus configuration: scrape the exporter, load the rules, tell Alertmanager."""
    scrape = settings.duration("15s")
    return {
        "global": {
            "scrape_interval": scrape,
            "scrape_timeout": settings.duration("10s"),
            "evaluation_interval": scrape,
        },
        "rule_files": ["rules/*.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [settings.alertmanager]}]}]},
        "scrape_configs": [{"job_name": settings.job, "static_configs": [{"targets": list(settings.exporters)}]}],
    }


def prometheus_rule(settings: RuleSettings) -> dict[str, Any]:
    """The same rules as an object of the Prometheus operator. kube-prometheus-stack selects by the label ``release``."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": settings.job,
            "namespace": settings.job,
            "labels": {"release": "kube-prometheus-stack"},
        },
        "spec": {"groups": [*recording_rules(settings)["groups"], *alerting_rules(settings)["groups"]]},
    }


def alertmanager_config(settings: RuleSettings) -> dict[str, Any]:
    """Routes by severity, one notification per server, and the inhibitions. The receiver is empty until a site fills it."""
    receiver: dict[str, Any] = {"name": "default"}
    if settings.webhook_url:
        receiver["webhook_configs"] = [{"url": settings.webhook_url, "send_resolved": True}]
    return {
        "route": {
            "receiver": "default",
            "group_by": ["job", "instance", "target"],
            "group_wait": settings.duration("30s"),
            "group_interval": settings.duration("5m"),
            "repeat_interval": settings.duration("12h"),
            "routes": [{"matchers": ['severity="info"'], "receiver": "dashboard-only"}],
        },
        "receivers": [receiver, {"name": "dashboard-only"}],
        "inhibit_rules": [
            {
                "source_matchers": [f'alertname="{rule.source}"'],
                "target_matchers": [f'alertname=~"{rule.targets}"'],
                "equal": list(rule.equal),
            }
            for rule in INHIBITIONS
        ],
    }


_ABOUT: Final = (
    (
        "What each alert means, and what to look at first. The expressions are those of the rule file. The times fit a probe a minute; "
        "`--time-scale` changes them. Each alert carries its target, module and instance, a link to this page, and a link to its "
        "dashboard."
    ),
    (
        "*critical*: a server does not serve its users now, or is not watched now. *warning*: look at it today. *info*: a cause that is "
        "good to know; dashboards show it, and the shipped Alertmanager configuration notifies nobody."
    ),
)


_ADVICE: Final = (
    "The status page, `probe` and `machine` give this advice about a server or a machine, each with the fact that shows it. If "
    "the column of what to do is empty, that depends on the fact, and the advice itself says it."
)


def runbook_data(settings: RuleSettings, board_titles: Mapping[str, str]) -> dict[str, Any]:
    """The runbook as the exporter's page ``/runbook`` reads it. In its texts, backticks mark code and asterisks stress."""
    return {
        "about": list(_ABOUT),
        "alerts": [
            {
                "name": alert.name,
                "severity": alert.severity,
                "summary": alert.summary,
                "after": settings.duration(alert.hold),
                "stays": settings.duration(alert.keep) if alert.keep != "0s" else None,
                "dashboard": board_titles[alert.board],
                "panel": alert.panel,
                "means": alert.means,
                "look": [*remedy_of(alert).values(), *alert.look],
                "expression": settings.expression(condition(alert)),
            }
            for alert in ALERTS
        ],
        "inhibitions": [
            {"source": rule.source, "targets": rule.targets.split("|"), "equal": list(rule.equal)}
            for rule in INHIBITIONS
        ],
        "about_advice": _ADVICE,
        "advice": list(advice_rows()),
        "recorded": [{"name": rule.name, "why": rule.why} for rule in RECORDINGS],
    }


def runbook(settings: RuleSettings, board_titles: Mapping[str, str]) -> str:
    """The same as a page of the documentation: one heading per alert."""
    data = runbook_data(settings, board_titles)
    lines = ["<!-- Written by `python -m grafana.build`; change grafana/alerts.py, not this file. -->", "# Runbook"]
    for paragraph in data["about"]:
        lines += ["", paragraph.replace("the rule file", "[the rule file](../deploy/prometheus/rules/alerts.yml)")]
    lines += ["", "| alert | severity | says | after |", "|---|---|---|---|"]
    lines += [
        f"| [{alert['name']}](#{alert['name'].lower()}) | {alert['severity']} | {alert['summary']} | {alert['after']} |"
        for alert in data["alerts"]
    ]
    for alert in data["alerts"]:
        fires = "Fires at once." if alert["after"] == "0s" else f"Fires after {alert['after']}."
        stays = f" Stays for {alert['stays']} after its cause is gone." if alert["stays"] else ""
        anchor = quote(alert["dashboard"].lower().replace(" ", "-"))
        lines += [
            "",
            f"## {alert['name']}",
            "",
            (
                f"*{alert['severity']}* · {alert['summary']}. {fires}{stays} "
                f"Dashboard [{alert['dashboard']}](dashboards.md#{anchor}), panel *{alert['panel']}*."
            ),
            "",
            alert["means"],
            "",
            *(f"- {step}" for step in alert["look"]),
            "",
            "```promql",
            alert["expression"],
            "```",
        ]
    lines += [
        "",
        "## Alerts that silence others",
        "",
        "| while this alert fires | these alerts are silent | for the same |",
        "|---|---|---|",
    ]
    lines += [
        f"| {rule['source']} | {', '.join(f'`{name}`' for name in rule['targets'])} | {', '.join(rule['equal'])} |"
        for rule in data["inhibitions"]
    ]
    lines += ["", "## Advice", "", _ADVICE, "", "| condition | says | what to do |", "|---|---|---|"]
    lines += [f"| `{row['id']}` | {row['title']} | {row['remedy']} |" for row in data["advice"]]
    lines += ["", "## Recorded series", ""]
    for rule in data["recorded"]:
        lines += [f"`{rule['name']}`", f": {rule['why']}", ""]
    return "\n".join(lines).rstrip() + "\n"
