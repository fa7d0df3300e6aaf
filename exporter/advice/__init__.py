"""One table of advice: conditions that hurt a machine or a server, each with its fact and what to do.

The page, ``probe`` and ``machine`` at the prompt, the alerts and the runbook take their words from here.
"""

from typing import Final

from exporter.advice.advice import Advice
from exporter.advice.machine import TITLES, AdviceFacts, advise, model_on
from exporter.advice.target import TARGET_CONDITIONS, UNEXPLAINED, Case, advise_target

CONDITION_TITLES: Final[dict[str, str]] = {
    **{condition: row.title for condition, row in TARGET_CONDITIONS.items()},
    "unexplained": UNEXPLAINED,
    **TITLES,
}
"""Every condition of the table by its id, in a few words."""

__all__ = [
    "CONDITION_TITLES",
    "TARGET_CONDITIONS",
    "Advice",
    "AdviceFacts",
    "Case",
    "advise",
    "advise_target",
    "model_on",
]
