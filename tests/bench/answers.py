"""Whether healthy answers ever make an alarm: 100,000 of them over all styles, and years of hourly fingerprints.

    python tests/bench/answers.py [--only answers | --only fingerprints] [--answers 100000] [--years 5]

Each answer is made by a grammar of ``tests/probe/healthy.py``, whole or cut at a limit of tokens, half of them of forced
length. It is judged with the server's count of tokens and without it, and its words are compared with those of 512 earlier
requests. A year of a fingerprint is 8,766 readings of a model with noise. The exit code is 1 where one answer made an alarm,
where a fault was not found, or where a fingerprint made more than one step a year.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from exporter.probe.answer import judge_text
from exporter.probe.fingerprint import STEP_DISTANCE, State, observe
from exporter.probe.marker import REMEMBERED, Markers, foreign_markers, marker_of, remember
from tests.probe.faults import FAULTS, FaultyServer, stream_of
from tests.probe.healthy import STYLES, answer
from tests.probe.test_answer import texts_of
from tests.probe.test_fingerprint import FingerprintModel, heavy

HOURS_PER_YEAR: Final = 8766
NOISES: Final[dict[str, tuple[Callable[[random.Random], float], float]]] = {
    "none": (lambda _draw: 0.0, 0.0),
    "Gaussian, 0.001": (lambda draw: draw.gauss(0, 0.001), 0.0),
    "Gaussian, 0.03": (lambda draw: draw.gauss(0, 0.03), 0.0),
    "heavy tails, 0.01": (heavy, 0.0),
    "rounded to 1/16": (lambda draw: draw.gauss(0, 0.01), 1 / 16),
    "one hour in ten busy, 0.02": (lambda draw: draw.gauss(0, 0.02), 0.0),
}
BUSY: Final = "one hour in ten busy, 0.02"


@dataclass(frozen=True, slots=True)
class AnswersRow:
    """What came of one style: answers, tokens in them, alarms, and the processor time of a verdict in microseconds."""

    style: str
    answers: int
    tokens: int
    alarms: int
    microseconds: float


def main() -> None:
    """Judge, and print the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--answers", type=int, default=100_000, help="over all styles")
    options.add_argument("--years", type=float, default=5.0, help="of each kind of noise")
    options.add_argument("--only", choices=("answers", "fingerprints"))
    chosen = options.parse_args()
    wrong = False
    if chosen.only != "fingerprints":
        wrong |= judge_answers(chosen.answers)
    if chosen.only != "answers":
        wrong |= judge_fingerprints(chosen.years)
    sys.exit(wrong)


def judge_answers(answers: int) -> bool:
    """Print the table of so many answers; whether one made an alarm, or a fault was missed."""
    each = -(-answers // len(STYLES))
    known = remember(Markers(), map(marker_of, range(REMEMBERED)))
    rows = [judged(style, each, known) for style in STYLES]
    print("\n".join(table_of(rows)))
    missed = [fault.thread for fault in FAULTS if "text" in fault.detectors and not found(fault.name)]
    if missed:
        print(f"Faults that the text shows and that were missed: {missed}", file=sys.stderr)
    return bool(missed or sum(row.alarms for row in rows))


def judge_fingerprints(years: float) -> bool:
    """Print the table of so many years of each noise; whether one made more than one step a year."""
    steps = {name: years_of(name, years) for name in NOISES}
    print("\n".join(fingerprints_of(steps, years)))
    return any(each > years for each, _, _ in steps.values())


def judged(style: str, answers: int, known: Markers) -> AnswersRow:
    """Judge so many answers of a style."""
    tokens, alarms, spent = 0, 0, 0.0
    for number in range(answers):
        healthy = answer(style, number)
        count = len(healthy.chunks)
        began = time.process_time()
        nonsense = judge_text(healthy.chunks, forced=healthy.forced, tokens=count)
        spent += time.process_time() - began
        nonsense = nonsense or judge_text(healthy.chunks, forced=healthy.forced)
        words = foreign_markers("".join(healthy.chunks), known)
        tokens += count
        if nonsense or words:
            alarms += 1
            print(f"{style} {number}: {nonsense} {words}", file=sys.stderr)
    return AnswersRow(style, answers, tokens, alarms, 1e6 * spent / answers)


def found(name: str) -> bool:
    """Whether the text of a fault's stream is nonsense in its first 64 tokens, forced or not."""
    fault = next(each for each in FAULTS if each.name == name)
    said = FaultyServer(fault).answer("Once, " + "word " * fault.begins).text
    chunks = texts_of(stream_of(said, random.Random(1)))[:64]
    return all(judge_text(chunks, forced=forced, tokens=len(chunks)) for forced in (True, False))


def years_of(name: str, years: float) -> tuple[int, int, float]:
    """Steps, readings beyond the distance of a step, and the largest distance, in so many years of hourly readings."""
    noise, rounded = NOISES[name]
    model, draw, state = FingerprintModel(), random.Random(name), State()
    steps, beyond, largest = 0, 0, 0.0
    for hour in range(round(years * HOURS_PER_YEAR)):
        quiet = name == BUSY and random.Random(hour // 6).random() >= 0.1
        state, seen = observe(state, model.read(draw, (lambda _draw: 0.0) if quiet else noise, rounded))
        distance = seen.distance or 0.0
        steps, beyond, largest = steps + seen.stepped, beyond + (distance > STEP_DISTANCE), max(largest, distance)
    return steps, beyond, largest


def table_of(rows: list[AnswersRow]) -> list[str]:
    """The answers by style."""
    lines = ["| style | answers | tokens | false alarms | µs each |", "|---|---|---|---|---|"]
    lines += [f"| {row.style} | {row.answers} | {row.tokens} | {row.alarms} | {row.microseconds:.0f} |" for row in rows]
    answers, tokens, alarms = (sum(getattr(row, name) for row in rows) for name in ("answers", "tokens", "alarms"))
    mean = sum(row.answers * row.microseconds for row in rows) / answers
    return [*lines, f"| all | {answers} | {tokens} | {alarms} | {mean:.0f} |"]


def fingerprints_of(steps: dict[str, tuple[int, int, float]], years: float) -> list[str]:
    """The fingerprints by noise."""
    lines = [
        f"| noise of the log-probabilities, {years:g} years | steps | readings beyond {STEP_DISTANCE:g} | largest distance |"
    ]
    lines += ["|---|---|---|---|"]
    return [*lines, *(f"| {name} | {one} | {two} | {three:.1f} |" for name, (one, two, three) in steps.items())]


if __name__ == "__main__":
    main()
