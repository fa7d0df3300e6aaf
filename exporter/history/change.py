"""The ledger of one target: facts and samples into changes, what each of them cost, and steps that none explains. Pure.

A ``Ledger`` is never changed: each function gives the next one. Time comes in as Unix seconds and only says when
something was seen; what lies before and after is decided by the order in which it came in.

    ledger = observe_facts(ledger, now, {"image": "vllm:0.12@sha256:…", "kernel": "6.14"})
    ledger = observe(ledger, "default", Sample(now, tokens_per_second=12.1, ttft_seconds=0.31))
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from exporter.history import speed_tracker
from exporter.history.noted_figures import NotedFigures
from exporter.history.sample import Sample
from exporter.history.shift import DECODE, PREFILL, Phase, Shift, series_name
from exporter.history.speed_tracker import SpeedTracker
from exporter.text import printable

CHARACTERS: Final = 128
"""Of the name and of the value of a fact."""
MOST_FACTS: Final = 256
MOST_CHANGES: Final = 32
MOST_SERIES: Final = 24
ANSWERS: Final = "answers"
"""The fact that is known by its effect: the fingerprint of the model, which gets a new number when it has stepped."""
TOGETHER_SECONDS: Final = 600.0
"""Facts that change within this time and without a good probe between them are one change."""
RESTLESS: Final = 4
RESTLESS_SECONDS: Final = 3600.0
"""A fact that is seen to change so often in this time is left out until it has kept one value for as long."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact before and after a change, or on two sides of a comparison; in words."""

    fact: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Change:
    """Facts of a target, or of its machine, that were seen to change at one time (Unix seconds)."""

    target: str
    at_seconds: float
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line for a reader: a change with what each module's speed did since, or a step that no fact explains.

    ``differences`` is empty for such a step. A shift with several changes stands in the entry of each of them.
    """

    target: str
    at_seconds: float
    differences: tuple[Difference, ...]
    shifts: tuple[Shift, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What a fact was last known to be, and since when (Unix seconds)."""

    value: str
    since_seconds: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A fact that changed within the last hour: its newest value, and when it changed."""

    value: str
    times: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Ledger:
    """All that is known of one target: its facts, its newest changes (oldest first), and each module's speed.

    ``trackers`` are by the name of their series. ``fingerprints`` are the states of the models' fingerprints, by the model's identity.
    ``open`` is how many of the newest changes no good probe has followed yet: they may still grow, or be undone.
    """

    target: str
    known: Mapping[str, Known] = field(default_factory=dict)
    recent: Mapping[str, Seen] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    open: int = 0
    trackers: Mapping[str, SpeedTracker] = field(default_factory=dict)
    fingerprints: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, str]:
        """The last known value of each fact."""
        return {name: known.value for name, known in self.known.items()}

    @property
    def shifts(self) -> tuple[Shift, ...]:
        """What the speeds did since changes and steps, of all modules, oldest first."""
        found = (shift for each in self.trackers.values() for shift in each.shifts)
        return tuple(sorted(found, key=lambda shift: shift.since_seconds))

    @property
    def standing(self) -> tuple[Shift, ...]:
        """The drops that are neither over nor accepted."""
        return tuple(shift for shift in self.shifts if shift.standing)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Its changes and unexplained steps, newest first."""
        return entries_of(self.target, self.changes, self.shifts)

    @property
    def restless(self) -> tuple[str, ...]:
        """The facts that change too often to be reported."""
        return tuple(name for name, seen in self.recent.items() if len(seen.times) >= RESTLESS)


@dataclass(frozen=True, slots=True)
class News:
    """What a ledger says that the one before it did not: to be kept and reported. ``gone`` was undone or explained."""

    changes: tuple[Change, ...] = ()
    shifts: tuple[Shift, ...] = ()
    gone_changes: tuple[Change, ...] = ()
    gone_shifts: tuple[Shift, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes or self.shifts or self.gone_changes or self.gone_shifts)


def fact_text(text: str) -> str:
    """A fact's name or value as it is kept: one line, no control characters, at most 128 characters."""
    return printable(text.strip(), CHARACTERS).strip()


def observe_facts(ledger: Ledger, at_seconds: float, facts: Mapping[str, str | None]) -> Ledger:
    """After the facts were read. None, an empty text and a fact that is not given are unknown, which changes nothing."""
    known, recent = dict(ledger.known), dict(ledger.recent)
    differences = []
    for name, value in _given(facts):
        old = known.get(name)
        if old is None:
            known[name] = Known(value, at_seconds)
        elif not _is_restless(recent, name, old.value, value, at_seconds) and value != old.value:
            known[name] = Known(value, at_seconds)
            differences.append(Difference(name, old.value, value))
    if known == ledger.known and recent == ledger.recent:
        return ledger
    ledger = replace(ledger, known=_bounded(known, facts), recent=recent)
    return _changed(ledger, at_seconds, differences) if differences else ledger


def _given(facts: Mapping[str, str | None]) -> Iterable[tuple[str, str]]:
    for name, value in islice(facts.items(), MOST_FACTS):
        text = fact_text(value) if value else ""
        if text:
            yield fact_text(name), text


def _bounded(known: dict[str, Known], given: Collection[str]) -> dict[str, Known]:
    surplus = sorted((name for name in known if name not in given), key=lambda name: known[name].since_seconds)
    for name in surplus[: max(0, len(known) - MOST_FACTS)]:
        del known[name]
    return known


def _is_restless(recent: dict[str, Seen], name: str, told: str, value: str, at_seconds: float) -> bool:
    """Note whether a fact has changed, in ``recent``, and say whether it does so too often to be reported."""
    seen = recent.get(name)
    if value != (seen.value if seen else told):
        times = tuple(each for each in (seen.times if seen else ()) if abs(at_seconds - each) < RESTLESS_SECONDS)
        recent[name] = seen = Seen(value, (*times, at_seconds)[-RESTLESS:])
    elif seen is not None and abs(at_seconds - seen.times[-1]) >= RESTLESS_SECONDS:
        del recent[name]
        return False
    return seen is not None and len(seen.times) >= RESTLESS


def _changed(ledger: Ledger, at_seconds: float, differences: Iterable[Difference]) -> Ledger:
    newest = ledger.changes[-1] if ledger.open else None
    if newest is None or abs(at_seconds - newest.at_seconds) > TOGETHER_SECONDS:
        taken = {each.at_seconds for each in ledger.changes}
        while at_seconds in taken:  # a change is known by its time
            at_seconds += 0.001
        change = Change(ledger.target, at_seconds, tuple(differences))
        opened = min(ledger.open + 1, MOST_CHANGES)
        return replace(ledger, changes=(*ledger.changes, change)[-MOST_CHANGES:], open=opened)
    merged = {each.fact: each for each in newest.differences}
    for each in differences:
        first = merged.pop(each.fact, each)
        if first.before != each.after:
            merged[each.fact] = replace(first, after=each.after)
    if not merged:
        return replace(ledger, changes=ledger.changes[:-1], open=ledger.open - 1)
    grown = replace(newest, differences=tuple(merged.values()))
    return replace(ledger, changes=(*ledger.changes[:-1], grown))


def observe(ledger: Ledger, module: str, sample: Sample, *, prefill: bool = False) -> Ledger:
    """After one probe by a module that was not skipped. Samples come in the order in which they were measured.

    ``prefill`` says that the prompt was long enough for the speed of prefill to be a figure of its own; once it was, it is.
    """
    ledger = _observe(ledger, module, DECODE, sample)
    if not prefill and series_name(module, PREFILL) not in ledger.trackers:
        return ledger
    own = replace(sample, tokens_per_second=sample.prefill_tokens_per_second, prefill_tokens_per_second=None)
    return _observe(ledger, module, PREFILL, own)


def _observe(ledger: Ledger, module: str, phase: Phase, sample: Sample) -> Ledger:
    trackers, series = dict(ledger.trackers), series_name(module, phase)
    if series not in trackers and len(trackers) >= MOST_SERIES:
        return ledger
    trackers.setdefault(series, SpeedTracker(module, phase=phase))
    open_changes = ledger.open
    if open_changes and sample.counts:
        for change in ledger.changes[-open_changes:]:
            trackers = {name: speed_tracker.begin(each, change.at_seconds) for name, each in trackers.items()}
        open_changes = 0
    trackers[series] = speed_tracker.observe(trackers[series], sample)
    return replace(ledger, trackers=trackers, open=open_changes)


def observe_fingerprint(
    ledger: Ledger, at_seconds: float, fingerprints: Mapping[str, bytes], *, stepped: bool
) -> Ledger:
    """After the fingerprint of a model that is known was read; if it has stepped, another model answers to the name."""
    number = int(ledger.facts.get(ANSWERS, "").rpartition(" ")[2] or 1)
    ledger = observe_facts(ledger, at_seconds, {ANSWERS: f"fingerprint {number}"})
    if stepped:
        ledger = observe_facts(ledger, at_seconds, {ANSWERS: f"fingerprint {number + 1}"})
    return replace(ledger, fingerprints=dict(fingerprints))


def note_what_stood_out(before: Ledger, after: Ledger, noted: NotedFigures) -> Ledger:
    """The later of two successive ledgers, in which an unexplained step that is new says what else was different since."""
    known, trackers = {(each.series, each.since_seconds) for each in before.shifts}, dict(after.trackers)
    for shift in after.shifts:
        if shift.explained or (shift.series, shift.since_seconds) in known:
            continue
        if meanwhile := noted.stood_out(shift.since_seconds):
            trackers[shift.series] = speed_tracker.note_meanwhile(
                trackers[shift.series], shift.since_seconds, meanwhile
            )
    return replace(after, trackers=trackers) if trackers != after.trackers else after


def accept(ledger: Ledger, at_seconds: float) -> Ledger:
    """The speeds of now are the usual ones: no drop stands any more."""
    trackers = {name: speed_tracker.accept(each, at_seconds) for name, each in ledger.trackers.items()}
    return replace(ledger, trackers=trackers)


def retain(ledger: Ledger, modules: Collection[str]) -> Ledger:
    """Without what is known of modules that no longer probe this target."""
    return replace(ledger, trackers={name: each for name, each in ledger.trackers.items() if each.module in modules})


def entries_of(target: str, changes: Iterable[Change], shifts: Collection[Shift]) -> tuple[Entry, ...]:
    """Changes and unexplained steps, newest first. A change has no shift of a module with too few good probes."""
    entries = [
        Entry(target, change.at_seconds, change.differences, tuple(s for s in shifts if change.at_seconds in s.changes))
        for change in changes
    ]
    steps: dict[float, list[Shift]] = {}
    for shift in shifts:
        if not shift.explained:
            steps.setdefault(shift.since_seconds, []).append(shift)
    entries += [Entry(target, since, (), tuple(found)) for since, found in steps.items()]
    return tuple(sorted(entries, key=lambda entry: entry.at_seconds, reverse=True))


def news(before: Ledger, after: Ledger) -> News:
    """What is new in the later of two successive ledgers."""
    if before.changes == after.changes and before.trackers == after.trackers:
        return News()
    old, new = set(before.changes), {each.at_seconds for each in after.changes}
    gone = before.changes[len(before.changes) - before.open :]
    shifts = [
        _news_of(before.trackers.get(name, SpeedTracker(each.module)), each) for name, each in after.trackers.items()
    ]
    return News(
        tuple(each for each in after.changes if each not in old),
        tuple(shift for fresh, _ in shifts for shift in fresh),
        tuple(each for each in gone if each.at_seconds not in new),
        tuple(shift for _, explained in shifts for shift in explained),
    )


def _news_of(before: SpeedTracker, after: SpeedTracker) -> tuple[list[Shift], list[Shift]]:
    if before.shifts is after.shifts:
        return [], []
    old, kept = set(before.shifts), {each.since_seconds for each in after.shifts}
    explained = [
        each for each in before.shifts if each.since_seconds not in kept and each.since_seconds == before.judged
    ]
    return [each for each in after.shifts if each not in old], explained
