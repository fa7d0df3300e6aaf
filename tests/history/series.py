"""Simulated probes, made up: the noise that the goals are stated for, and what can happen to a series.

1 % noise, of which half carries over to the next probe (AR(1) 0.5), and 2 % outliers of -10 to -50 %.
"""

import math
import random
from collections.abc import Iterable, Iterator
from itertools import islice

from exporter.history.change import Ledger, observe, observe_facts
from exporter.history.sample import Sample

START = 1_790_000_000.0
MINUTE = 60.0
SPEED = 12.1
FACTS = {"image": "vllm:0.11@sha256:aa", "host ROCm": "7.0.2", "kernel": "6.14.0", "model": "Qwen2.5-14B"}


def noise(
    seed: int, *, scatter: float = 0.01, correlation: float = 0.5, outliers: float = 0.02, deepest: float = 0.5
) -> Iterator[float]:
    """Factors around 1, without end."""
    rng = random.Random(seed)
    fresh = math.sqrt(1 - correlation * correlation)
    carried = rng.gauss(0, 1)
    while True:
        carried = correlation * carried + fresh * rng.gauss(0, 1)
        outlier = 1 - rng.uniform(0.1, deepest) if rng.random() < outliers else 1.0
        yield math.exp(scatter * carried) * outlier


def speeds(seed: int, count: int, speed: float = SPEED, **kinds: float) -> list[float]:
    """So many decode speeds of an unchanged target."""
    return [speed * factor for factor in islice(noise(seed, **kinds), count)]


def probe(number: int, speed: float | None, start: float = START, *, cold_start: bool = False) -> Sample:
    """The probe of a minute."""
    return Sample(start + number * MINUTE, speed, 0.31, 520.0, cold_start=cold_start)


def fed(ledger: Ledger, values: Iterable[float], start: float, module: str = "default") -> Ledger:
    """The ledger after a probe a minute with these speeds, the first at ``start``."""
    for number, speed in enumerate(values):
        ledger = observe(ledger, module, probe(number, speed, start))
    return ledger


def known(target: str = "vllm", **facts: str) -> Ledger:
    """A ledger that has seen its target's facts."""
    return observe_facts(Ledger(target), START - 1, FACTS | facts)
