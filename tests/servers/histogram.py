"""A Prometheus histogram, as servers write it."""

from bisect import bisect_left
from collections.abc import Sequence


class ServerHistogram:
    """Counts of values by bucket; ``bounds`` are the upper ends, ascending."""

    def __init__(self, name: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def render(self, labels: str) -> str:
        """Its lines, with these labels (``a="b",c="d"``) in each."""
        lines, so_far = [f"# TYPE {self.name} histogram"], 0
        for bound, count in zip([*map(repr, map(float, self.bounds)), "+Inf"], self.counts, strict=True):
            so_far += count
            lines.append(f'{self.name}_bucket{{le="{bound}",{labels}}} {float(so_far)}')
        lines += [f"{self.name}_count{{{labels}}} {float(so_far)}", f"{self.name}_sum{{{labels}}} {self.sum}"]
        return "\n".join(lines) + "\n"
