"""The text format of Prometheus, read: what an inference server's own /metrics says. Pure; bad lines are left out."""

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_LINE = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+-?\d+)?\s*", re.ASCII)
_LABEL = re.compile(r'\s*([A-Za-z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)', re.ASCII)
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One sample of an exposition."""

    name: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)


def parse(text: str, *names: str) -> tuple[MetricSample, ...]:
    """The samples of these names that can be read, or all; exemplars, NaN and lines that are not samples are left out."""
    return tuple(_samples(text, names or ("",)))


def total(samples: tuple[MetricSample, ...], *names: str, **labels: str) -> float | None:
    """The sum over all series of the first of these names that is there and has these labels; None if none has."""
    for name in names:
        values = [each.value for each in samples if each.name == name and labels.items() <= each.labels.items()]
        if values:
            return math.fsum(values)
    return None


def _samples(text: str, names: tuple[str, ...]) -> Iterator[MetricSample]:
    for line in io.StringIO(text):  # which splits at \n alone, and one line at a time
        # Most of an exposition is buckets of histograms: what is not wanted is not taken apart.
        match = _LINE.fullmatch(line.partition(" # ")[0].strip()) if line.startswith(names) else None
        if match is None:
            continue
        try:
            value = float(match["value"])
        except ValueError:
            continue
        if math.isfinite(value):
            yield MetricSample(match["name"], value, dict(_labels(match["labels"] or "")))


def _labels(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while match := _LABEL.match(text, at):
        yield match[1], _ESCAPE.sub(lambda escape: {"n": "\n"}.get(escape[1], escape[1]), match[2])
        at = match.end()
