"""Changes in words, in one form for labels, the page and the prompt. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

from exporter.history.change import ANSWERS, Change, Difference
from exporter.history.ratio import Ratio
from exporter.history.shift import DECODE, Phase, Shift
from exporter.text import count_text, rate_text

FIRST: Final = (
    "model",
    "image",
    "backend version",
    "weights",
    "weights file",
    "quantization",
    "host ROCm",
    "driver",
    "kernel",
)
"""What a reader asks for first; the rest follows in the order in which it was seen."""
MOST_NAMED: Final = 3


def in_order(differences: Iterable[Difference]) -> tuple[Difference, ...]:
    """The facts that explain most come first."""
    return tuple(sorted(differences, key=lambda each: FIRST.index(each.fact) if each.fact in FIRST else len(FIRST)))


def differences_of(shift: Shift, changes: Iterable[Change]) -> tuple[Difference, ...]:
    """What changed before a shift: of all the changes that are judged together."""
    found = (each for change in changes if change.at_seconds in shift.changes for each in change.differences)
    return in_order(found)


def facts_text(differences: Iterable[Difference]) -> str:
    """The names of the facts: ``image, backend version``."""
    return ", ".join(dict.fromkeys(each.fact for each in differences))


def before_text(differences: Iterable[Difference]) -> str:
    """What the facts were, in the same order."""
    return ", ".join(each.before for each in differences)


def after_text(differences: Iterable[Difference]) -> str:
    """What the facts are, in the same order."""
    return ", ".join(each.after for each in differences)


def phase_text(phase: Phase) -> str:
    """What to put before a speed that is not the usual one: ``prefill``, or nothing."""
    return "" if phase == DECODE else f"{phase} "


def change_text(differences: Iterable[Difference]) -> str:
    """``the image changed from A to B``; of several facts the first few, and how many more."""
    ordered = in_order(differences)
    if not ordered:
        return "nothing that is watched changed"
    if [each.fact for each in ordered] == [ANSWERS]:
        return "model's answers changed, though its name did not"
    named = [f"{each.fact} from {each.before} to {each.after}" for each in ordered[:MOST_NAMED]]
    more = [f"{count_text(len(ordered) - MOST_NAMED, 'more fact')}"] if len(ordered) > MOST_NAMED else []
    first, *others = named
    return f"{first.replace(' from ', ' changed from ', 1)}{''.join(f', {each}' for each in (*others, *more))}"


def meanwhile_text(meanwhile: Iterable[Sequence[str]]) -> str:
    """``; at that time: GPU temperature from 62 °C to 84 °C``, or nothing."""
    told = [f"{name} from {before} to {after}" for name, before, after in meanwhile]
    return f"; at that time: {', '.join(told)}" if told else ""


def percent_text(ratio: float) -> str:
    """How much more or less: ``-47 %``, ``+3 %``."""
    return f"{(ratio - 1) * 100:+.0f} %".replace("-", "\N{MINUS SIGN}")


def effect_text(speed: Ratio) -> str:
    """``6.4, before 12.1 tok/s (-47 %)``, and that it is noise if it is."""
    told = f"{rate_text(speed.after)}, before {rate_text(speed.before)} tok/s ({percent_text(speed.ratio)}"
    return f"{told})" if speed.beyond_noise else f"{told}, within the noise)"
