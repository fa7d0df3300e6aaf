"""Two speeds beside each other: how many times as fast, noise or not, what differs, and the verdict. Pure.

A side is a report, as ``probe --json`` prints it, or what the history has of a target at a time.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final, Literal

from exporter.history.change import Difference
from exporter.history.change_text import in_order
from exporter.history.compare import BACKEND, MODEL, QUANTIZATION, Side, beside
from exporter.history.ratio import LEAST_SAMPLES, Ratio
from exporter.history.sample import Sample
from exporter.probe.result import NOT_AN_ANSWER
from exporter.report import Report
from exporter.settings import Criterion, SuccessCriteria, Thresholds
from exporter.text import no_speed_text, printable_text, speed_text
from exporter.tiers import tier_of

ComparisonVerdict = Literal["excellent", "good", "minimum", "below", "no_change", "slower", "too_few"]
REACHED: Final = frozenset({"excellent", "good", "minimum"})


@dataclass(frozen=True, slots=True)
class Noise:
    """Whether a difference is more than noise, by the same test as the ledger; ``beyond`` is None after too few runs.

    ``min`` and ``max`` are the interval that the ratio lies in.
    """

    beyond: bool | None
    min: float | None
    max: float | None
    why: str


@dataclass(frozen=True, slots=True)
class ComparisonSide:
    """One side of a comparison: what it is, its median speed in tokens per second, and that of each run."""

    name: str
    tokens_per_second: float
    runs: tuple[float, ...]
    tier: str
    model: str | None = None
    module: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    ttft: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """A baseline against a candidate. ``ttft_ratio`` is None after too few runs.

    ``differences`` are the facts that differ between the sides; ``unequal`` those of them that forbid the comparison: another
    model, another module or shape of it.
    """

    baseline: ComparisonSide
    candidate: ComparisonSide
    ratio: float
    noise: Noise
    verdict: ComparisonVerdict
    ttft_ratio: float | None = None
    differences: tuple[Difference, ...] = ()
    unequal: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()


def side_of(name: str, report: Report, bounds: Thresholds) -> ComparisonSide:
    """One side of a comparison out of a report; ValueError if it has no speed to compare, or is no report."""
    runs = report.get("runs") or [report]
    if not isinstance(runs, list) or not all(isinstance(run, Mapping) for run in runs):
        raise ValueError("has runs that are not a list of probes")
    if wrong := next((run for run in (report, *runs) if run.get("result") in NOT_AN_ANSWER), None):
        raise ValueError(
            f"has answers that are nonsense, so its speed means nothing: {printable_text(wrong.get('error')) or ''}"
        )
    speed = _number(report.get("tokens_per_second"))
    if speed is None:
        why = printable_text(report.get("error")) or (
            no_speed_text(cold_start=False, stream_buffered=True) if report.get("stream_buffered") else ""
        )
        raise ValueError("has no speed to compare" + (f": {why}" if why else ""))
    speeds = tuple(run_speed for run in runs if (run_speed := _number(run.get("tokens_per_second"))) is not None)
    ttft = tuple(each for run in runs if (each := _number(run.get("ttft_seconds"))) is not None)
    return ComparisonSide(
        name,
        speed,
        speeds,
        tier_of(speed, bounds),
        printable_text(report.get("model")),
        printable_text(report.get("module")),
        _facts_of(report),
        ttft,
    )


_FACTS: Final = (
    ("backend", BACKEND),
    ("backend_version", "backend version"),
    ("model", MODEL),
    ("quantization", QUANTIZATION),
)
"""Keys of a report that are facts, by the names that the ledger gives them."""


def _facts_of(report: Report) -> dict[str, str]:
    return {fact: text for key, fact in _FACTS if (text := printable_text(report.get(key)))}


def side_of_history(side: Side, bounds: Thresholds) -> ComparisonSide:
    """One side of a comparison out of the history: the good probes that stand for a time, and the facts of then."""
    speeds = tuple(each.tokens_per_second for each in side.samples if each.tokens_per_second is not None)
    ttft = tuple(each.ttft_seconds for each in side.samples if each.ttft_seconds is not None)
    hourly = ("single probes are no longer kept: each run is the median of an hour",) if side.hourly else ()
    speed = median(speeds)
    return ComparisonSide(
        side.name,
        speed,
        speeds,
        tier_of(speed, bounds),
        side.facts.get(MODEL),
        side.module,
        side.facts,
        ttft,
        tuple(f"{side.name}: {note}" for note in (*side.notes, *hourly)),
    )


def _number(value: object) -> float | None:
    """A positive number, else None: a report may come from a file that anyone wrote."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return None
    return float(value)


def compare(baseline: ComparisonSide, candidate: ComparisonSide, criteria: SuccessCriteria) -> Comparison:
    """Judge a change: how many times as fast, beyond the noise or not, what differs, and the verdict by the success criteria."""
    sides = beside(_as_side(baseline, candidate), _as_side(candidate, baseline))
    noise = noise_of(sides.speed)
    ratio = sides.speed.ratio if sides.speed else candidate.tokens_per_second / baseline.tokens_per_second
    return Comparison(
        baseline,
        candidate,
        ratio,
        noise,
        verdict_of(candidate.tokens_per_second, ratio, noise, criteria),
        sides.ttft.ratio if sides.ttft else None,
        in_order(sides.differences),
        sides.unequal,
        (*baseline.notes, *candidate.notes),
    )


def _as_side(side: ComparisonSide, other: ComparisonSide) -> Side:
    """In the terms of the history. A side that doesn't say its module has the other's."""
    samples = [Sample(0.0, tokens_per_second=speed) for speed in side.runs]
    samples += [Sample(0.0, ttft_seconds=seconds) for seconds in side.ttft]
    return Side(side.name, "", side.module or other.module or "", side.facts, tuple(samples))


def noise_of(ratio: Ratio | None) -> Noise:
    """What a ratio of runs says about noise, in words; None is one of too few runs."""
    if ratio is None:
        return Noise(
            None, None, None, f"too few runs to tell: {LEAST_SAMPLES} of each are needed (--count {LEAST_SAMPLES})"
        )
    between = f"the ratio lies between {ratio.min:.2f} and {ratio.max:.2f}"
    beyond = ratio.beyond_noise
    return Noise(beyond, ratio.min, ratio.max, f"{'beyond' if beyond else 'within'} the noise: {between}")


def verdict_of(tokens_per_second: float, ratio: float, noise: Noise, criteria: SuccessCriteria) -> ComparisonVerdict:
    """The best criterion that the speed or the ratio reaches; a change that is none reaches nothing, however fast it is."""
    if noise.beyond is None:
        return "too_few"
    if not noise.beyond:
        return "no_change"
    if ratio < 1:
        return "slower"
    steps: tuple[tuple[ComparisonVerdict, Criterion], ...] = (
        ("excellent", criteria.excellent),
        ("good", criteria.good),
        ("minimum", criteria.minimum),
    )
    for verdict, criterion in steps:
        if tokens_per_second >= criterion.tokens_per_second or _reaches(ratio, criterion.ratio):
            return verdict
    return "below"


def _reaches(ratio: float, bound: float) -> bool:
    """Whether a quotient is at least a bound, but for its rounding: 19.2 ÷ 6.4 is three times."""
    return ratio >= bound or math.isclose(ratio, bound)


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as ``compare --json`` prints it."""
    return asdict(comparison)


VERDICTS: Final[Mapping[ComparisonVerdict, str]] = {
    "excellent": "excellent: a full success",
    "good": "good: worth the change",
    "minimum": "minimum: enough to count as a success",
    "below": "below the minimum: faster, but not by enough",
    "no_change": "no change: the difference is within the noise",
    "slower": "slower",
    "too_few": "too few runs to tell",
}


def comparison_rows(comparison: Comparison) -> list[tuple[str, str]]:
    """A comparison as lines of a table."""
    return [
        *(
            (label, f"{speed_text(side.tokens_per_second)}  {side.tier}  {side.name}{_runs_text(side)}")
            for label, side in (("baseline", comparison.baseline), ("candidate", comparison.candidate))
        ),
        ("ratio", f"{comparison.ratio:.2f}×"),
        ("noise", comparison.noise.why),
        *([("time to first token", f"{comparison.ttft_ratio:.2f}×")] if comparison.ttft_ratio is not None else []),
        *((f"{each.fact} differs", f"{each.before} and {each.after}") for each in comparison.differences),
        ("verdict", VERDICTS[comparison.verdict]),
    ]


def _runs_text(side: ComparisonSide) -> str:
    return f"  (median of {len(side.runs)} runs)" if len(side.runs) > 1 else ""
