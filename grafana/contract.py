"""What the exporter's own table of metrics says about the expressions written here."""

from collections.abc import Mapping, Sequence
from typing import Final

from exporter.metrics import FAMILIES
from grafana.alerts import RECORDINGS
from grafana.promql import selectors

PROCESS: Final = frozenset(
    f"process_{name}"
    for name in (
        "cpu_seconds_total",
        "max_fds",
        "open_fds",
        "resident_memory_bytes",
        "start_time_seconds",
        "virtual_memory_bytes",
    )
)
"""What the client library says of the exporter's process."""
ELSEWHERE: Final = frozenset({"up", "ALERTS", *PROCESS})
_SCRAPED: Final = frozenset({"job", "instance"})

Expressions = Sequence[tuple[str, str]]
"""(where it stands, expression)"""


def labels_by_series() -> Mapping[str, frozenset[str]]:
    """Series name → its labels, job and instance among them; a histogram has three series."""
    table: dict[str, frozenset[str]] = {}
    for family in FAMILIES:
        labels = _SCRAPED | set(family.all_labels)
        if family.type == "histogram":
            table[f"{family.name}_bucket"] = labels | {"le"}
            table |= {f"{family.name}_{part}": labels for part in ("sum", "count")}
        else:
            table[family.name] = labels
    return table


def problems(shown: Expressions, alerting: Expressions) -> list[str]:
    """Metrics that don't exist, labels that a metric doesn't have, and metrics of the table that no dashboard shows."""
    table = labels_by_series()
    recorded = {rule.name for rule in RECORDINGS}
    found = []
    seen: set[str] = set()
    for where, expression in (*shown, *alerting):
        for selector in selectors(expression):
            name = selector.name or ""
            if name in recorded or name in ELSEWHERE:
                continue
            if name not in table:
                found.append(f"{where}: the exporter has no {name or expression!r}")
                continue
            unknown = {matcher.name for matcher in selector.matchers.matchers} - table[name]
            found += [f"{where}: {name} has no label {label!r}" for label in sorted(unknown)]
    for _, expression in shown:
        seen |= {selector.name for selector in selectors(expression) if selector.name}
    for family in FAMILIES:
        names = {family.name, *(f"{family.name}_{part}" for part in ("bucket", "sum", "count"))}
        if not names & seen:
            found.append(f"{family.name}: on no dashboard")
    return list(dict.fromkeys(found))
