"""The recorded series of a real server: see ``tests/fixtures/history/ORIGIN.md``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exporter.history.change import Difference
from exporter.history.sample import Sample

FILE: Final = Path(__file__).parents[1] / "fixtures/history/llama-server-weights.json"
PHASES: Final = ("first", "restarted", "exchanged")


@dataclass(frozen=True, slots=True)
class Recording:
    """Samples of each phase in order, when the last phase was seen to begin (Unix time), and what was seen to have changed."""

    samples: dict[str, tuple[Sample, ...]]
    changed_at_seconds: float
    differences: tuple[Difference, ...]

    def speeds(self, *phases: str) -> list[float]:
        """The decode speeds of the samples that count."""
        found = (each for phase in phases for each in self.samples[phase] if each.counts)
        return [each.tokens_per_second or 0.0 for each in found]


def read_recording() -> Recording:
    """What stands in the file."""
    document = json.loads(FILE.read_text("utf-8"))
    samples = [Sample(*row) for row in document["samples"]]
    bounds = [document["began"][phase] for phase in PHASES] + [float("inf")]
    phases = {
        phase: tuple(each for each in samples if since <= each.at_seconds < until)
        for phase, since, until in zip(PHASES, bounds, bounds[1:], strict=False)
    }
    (change,) = document["changes"]
    return Recording(phases, change["at_seconds"], tuple(Difference(*each.values()) for each in change["differences"]))
