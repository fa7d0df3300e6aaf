"""The exporter's table of advice in alerts and in the runbook: the same words as on the status page and at the prompt."""

from collections.abc import Iterator, Mapping
from typing import Final

from exporter.advice import CONDITION_TITLES, TARGET_CONDITIONS
from grafana.alerts import Alert

CONDITION_OF: Final[Mapping[str, str]] = {
    "LLMThroughputAtCeiling": "at_memory_limit",
    "LLMSlowerSinceChange": "slower_since_change",
    "LLMSlowerUnexplained": "slower_unexplained",
    "LLMAnswersDegenerate": "no_text",
    "LLMProbeStreamBuffered": "stream_buffered",
    "LLMGPUThrottling": "throttled_by_heat",
    "LLMModelCacheNotShared": "own_model_downloads",
}
"""The condition that an alert is about, by the alert's name."""


def remedy_of(alert: Alert) -> dict[str, str]:
    """The annotation that says what to do, for an alert that is about a condition of the table."""
    condition = CONDITION_OF.get(alert.name)
    return {"remedy": TARGET_CONDITIONS[condition].remedy} if condition else {}


def advice_rows() -> Iterator[dict[str, str]]:
    """Every condition of the table: its id, its title, and what to do if that does not depend on its fact."""
    for condition, title in CONDITION_TITLES.items():
        row = TARGET_CONDITIONS.get(condition)
        yield {"id": condition, "title": title, "remedy": row.remedy if row else ""}
