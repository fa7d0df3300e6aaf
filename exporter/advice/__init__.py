"""One table of advice: conditions that slow down or break a server, each with its fact and what to do.

The page, ``probe`` and ``machine`` at the prompt, the alerts and the runbook use these texts.
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
"""The title of every condition by its id."""

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
