"""``TARGET@TIME`` against another side: which probes stand for it, which facts differ, whether both may be compared. Pure.

A time is ``2h`` (ago), ``yesterday``, ``today``, ``2026-11-20`` or ``2026-11-20T12:00``, in the machine's zone unless it says
its own. A day stands for all of its probes, a time for the 60 nearest; no side mixes probes from before and after a
change.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Final, Protocol

from exporter.history.change import Difference, Entry, Known, Ledger
from exporter.history.hours import HOUR_SECONDS, Hour
from exporter.history.ratio import LEAST_SAMPLES, Ratio, ratio_of
from exporter.history.sample import Sample

MODEL: Final = "model"
"""The fact that holds the model's name: two models are no comparison of anything else."""
BACKEND: Final = "backend"
QUANTIZATION: Final = "quantization"
NEAREST: Final = 60
REACH_SECONDS: Final = 6 * HOUR_SECONDS
MOST_OF_A_DAY: Final = 240
_END_OF_TIME: Final = 2**24 * HOUR_SECONDS
_AGO: Final = re.compile(r"(?:\d+(?:\.\d+)?[wdhm])+", re.ASCII)
_UNITS: Final = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0}
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_FORMS: Final = "write it like 2h, yesterday, 2026-11-20 or 2026-11-20T12:00"


class History(Protocol):
    """What is read of a history: see ``store.Reader``."""

    def series(self) -> tuple[tuple[str, str], ...]: ...
    def samples(self, target: str, module: str, since: float, until: float) -> tuple[Sample, ...]: ...
    def hours(self, target: str, module: str, since: float, until: float) -> tuple[Hour, ...]: ...
    def entries(self, since: float = 0.0, target: str | None = None) -> tuple[Entry, ...]: ...
    def ledgers(self) -> Mapping[str, Ledger]: ...


@dataclass(frozen=True, slots=True)
class Moment:
    """One time, if ``since`` and ``until`` are equal, else the stretch between them; Unix time."""

    text: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: good probes, oldest first, and the facts that were known then.

    ``hourly`` says that each sample is the median of an hour, because the single probes are no longer kept.
    """

    name: str
    target: str
    module: str
    facts: Mapping[str, str]
    samples: tuple[Sample, ...]
    hourly: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sides:
    """Two sides beside each other: each figure's ratio, None if a side has too few, and what differs between them.

    ``unequal`` are the differences that forbid the comparison: another model, another module or shape of it. ``unknown``
    are facts that only one side knows.
    """

    before: Side
    after: Side
    speed: Ratio | None
    ttft: Ratio | None
    prefill: Ratio | None
    differences: tuple[Difference, ...]
    unequal: tuple[Difference, ...]
    unknown: tuple[str, ...]


def shape_fact(module: str) -> str:
    """The name of the fact that holds a module's shape: what it sends, by how many streams."""
    return f"module {module}"


def split_target_at(text: str) -> tuple[str, str] | None:
    """``vllm@2h`` as target and time; None for what names no time: a URL, a plain name."""
    target, _, time = text.rpartition("@")
    return (target, time) if target and time and "://" not in text else None


def parse_moment(text: str, now: float, zone: tzinfo | None = None) -> Moment:
    """A time of the past in words, in a zone, None for the machine's; ``now`` is Unix time.

    Raises ValueError that says what is wrong.
    """
    if _AGO.fullmatch(text):
        parts = re.findall(r"([\d.]+)([wdhm])", text)
        at = now - math.fsum(float(number) * _UNITS[unit] for number, unit in parts)
        return Moment(text, at, at)
    days = {"today": 0, "yesterday": 1}
    try:
        if text in days or _DAY.fullmatch(text):
            today = datetime.fromtimestamp(now, zone).replace(hour=0, minute=0, second=0, microsecond=0)
            day = today - timedelta(days=days[text]) if text in days else _in_zone(text, zone)
            since, until = day.timestamp(), (day + timedelta(days=1)).timestamp()
        else:
            since = until = _in_zone(text, zone).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"is not a time: {text[:40]!r}; {_FORMS}") from None
    if since > now:
        raise ValueError(f"is in the future: {text}")
    return Moment(text, since, until)


def _in_zone(text: str, zone: tzinfo | None) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo or not zone else time.replace(tzinfo=zone)


def side_at(history: History, text: str, now: float, *, module: str | None = None, zone: tzinfo | None = None) -> Side:
    """The side that ``TARGET@TIME`` names, by the given module, else ``default``, else the first.

    Raises ValueError with a sentence if there is no such target, time or module, or no good probe near it, and
    whatever the history raises.
    """
    parts = split_target_at(text)
    if parts is None:
        raise ValueError(f"names no time: write it like {text or 'vllm'}@2h")
    target, moment = parts[0], parse_moment(parts[1], now, zone)
    module = _module_of(history, target, module)
    ledger, entries = history.ledgers().get(target), history.entries(target=target)
    bounds = [entry.at_seconds for entry in entries if entry.differences]
    samples, hourly = _chosen_of(history, target, module, moment, bounds)
    if len(samples) < LEAST_SAMPLES:
        nearest = _nearest_hour(history, target, module, moment.since)
        told = (
            f"; the nearest hour with one is {datetime.fromtimestamp(nearest, zone):%Y-%m-%dT%H:%M}" if nearest else ""
        )
        raise ValueError(f"{_too_few(moment, len(samples), f'{target} by the module {module}')}{told}")
    facts = facts_at(ledger.known if ledger else {}, entries, samples[-1].at_seconds)
    return Side(text, target, module, facts, samples, hourly, _notes(moment, bounds))


def _module_of(history: History, target: str, module: str | None) -> str:
    known = [each for name, each in history.series() if name == target]
    if not known:
        names = ", ".join(sorted({name for name, _ in history.series()})) or "none"
        raise ValueError(f"there is no history of {target} (targets: {names})")
    wanted = module or ("default" if "default" in known else known[0])
    if wanted not in known:
        raise ValueError(f"there is no history of {target} by the module {wanted} (modules: {', '.join(known)})")
    return wanted


def _chosen_of(
    history: History, target: str, module: str, moment: Moment, bounds: Sequence[float]
) -> tuple[tuple[Sample, ...], bool]:
    reach = REACH_SECONDS if moment.since == moment.until else 0.0
    span = moment.since - reach, moment.until + reach
    single = chosen(history.samples(target, module, *span), moment, bounds)
    if len(single) >= LEAST_SAMPLES:
        return single, False
    hours = [_sample_of(hour) for hour in history.hours(target, module, *span) if hour.good]
    return chosen(hours, moment, bounds), True


def _sample_of(hour: Hour) -> Sample:
    middle = hour.at_seconds + HOUR_SECONDS / 2
    return Sample(middle, hour.tokens_per_second, hour.ttft_seconds, hour.prefill_tokens_per_second)


def chosen(samples: Iterable[Sample], moment: Moment, bounds: Iterable[float]) -> tuple[Sample, ...]:
    """The good probes that stand for a moment, oldest first; ``bounds`` are the times of changes, which none may cross.

    Of a day in which something changed, those since the last change.
    """
    bounds = sorted(bounds)
    instant = moment.since == moment.until
    last = moment.until if instant else math.nextafter(moment.until, -math.inf)
    low = max((each for each in bounds if each <= last), default=-math.inf)
    high = min((each for each in bounds if each > last), default=math.inf)
    good = [each for each in samples if each.counts and low <= each.at_seconds < high]
    if not instant:
        day = sorted((s for s in good if moment.since <= s.at_seconds < moment.until), key=_time_of)
        return tuple(day[:: max(1, math.ceil(len(day) / MOST_OF_A_DAY))])
    near = [each for each in good if abs(each.at_seconds - moment.since) <= REACH_SECONDS]
    nearest = sorted(near, key=lambda sample: abs(sample.at_seconds - moment.since))[:NEAREST]
    return tuple(sorted(nearest, key=_time_of))


def _time_of(sample: Sample) -> float:
    return sample.at_seconds


def _notes(moment: Moment, bounds: Sequence[float]) -> tuple[str, ...]:
    if moment.since != moment.until and any(moment.since < each < moment.until for each in bounds):
        return (f"something changed during {moment.text}: only probes since the last change count",)
    return ()


def _too_few(moment: Moment, found: int, whose: str) -> str:
    span = f"within 6 h of {moment.text}" if moment.since == moment.until else f"in {moment.text}"
    number = {0: "no good probe", 1: "only 1 good probe"}.get(found, f"only {found} good probes")
    return f"the history has {number} of {whose} {span}"


def _nearest_hour(history: History, target: str, module: str, at_seconds: float) -> float | None:
    kept = [hour.at_seconds for hour in history.hours(target, module, 0.0, _END_OF_TIME) if hour.good]
    return min(kept, key=lambda at: abs(at - at_seconds), default=None)


def facts_at(known: Mapping[str, Known], entries: Iterable[Entry], at_seconds: float) -> dict[str, str]:
    """The facts as they were at a time: those of now, with the changes since undone. What was first seen later is unknown."""
    facts = {name: each.value for name, each in known.items()}
    first_seen = {name: each.since_seconds for name, each in known.items()}
    for entry in sorted(entries, key=lambda entry: entry.at_seconds, reverse=True):
        if entry.at_seconds <= at_seconds:
            break
        for each in entry.differences:
            facts[each.fact] = each.before
            first_seen[each.fact] = -math.inf
    return {name: value for name, value in facts.items() if first_seen.get(name, -math.inf) <= at_seconds}


def beside(before: Side, after: Side) -> Sides:
    """Compare two sides by the same test as the ledger, and name what differs between them."""
    facts = [name for name in before.facts if name in after.facts]
    differences = tuple(
        Difference(name, before.facts[name], after.facts[name])
        for name in facts
        if before.facts[name] != after.facts[name]
    )
    unequal = [each for each in differences if each.fact in {MODEL, shape_fact(before.module)}]
    if before.module != after.module:
        unequal.append(Difference("module", before.module, after.module))
    return Sides(
        before,
        after,
        speed=_ratio("tokens_per_second", before, after),
        ttft=_ratio("ttft_seconds", before, after),
        prefill=_ratio("prefill_tokens_per_second", before, after),
        differences=differences,
        unequal=tuple(unequal),
        unknown=tuple(sorted({*before.facts} ^ {*after.facts})),
    )


def _ratio(figure: str, before: Side, after: Side) -> Ratio | None:
    one, other = ([getattr(sample, figure) for sample in side.samples] for side in (before, after))
    return ratio_of((each for each in one if each is not None), (each for each in other if each is not None))
