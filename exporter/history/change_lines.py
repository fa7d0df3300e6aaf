"""Changes as they are reported: as JSON to programs, as lines to people. Pure; time comes in as Unix seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from exporter.history.change import Difference, Entry, Ledger
from exporter.history.change_text import (
    change_text,
    differences_of,
    effect_text,
    in_order,
    meanwhile_text,
    percent_text,
    phase_text,
)
from exporter.history.ratio import Ratio
from exporter.history.shift import DECODE, Shift
from exporter.text import rate_text

SHOWN_SECONDS: Final = 7 * 86400.0
"""A change that slowed nothing down is shown beside its target for so long."""
MOST_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class ChangeLine:
    """One change, or one unexplained step, and what it did to the speed; ``effect`` is empty while there are too few probes.

    ``standing`` says that the speed is lower since and neither back nor accepted, ``own`` that it is the decode speed of the
    module that judges the target.
    """

    at_seconds: float
    what: str
    effect: str
    standing: bool
    explained: bool = True
    own: bool = True


def lines_of(ledger: Ledger, module: str, now: float) -> tuple[ChangeLine, ...]:
    """What to show beside a target: the drops that stand, of all modules, else the newest change of the last days.

    Drops of one time are one line, that of the module's own decode speed first.
    """
    together: dict[tuple[float, tuple[float, ...]], list[Shift]] = {}
    for each in reversed(ledger.standing):
        together.setdefault((each.since_seconds, each.changes), []).append(each)
    drops = [
        ChangeLine(
            since,
            change_text(differences_of(shifts[0], ledger.changes)) + meanwhile_text(shifts[0].meanwhile),
            "; ".join(_effect_of(each, module) for each in sorted(shifts, key=lambda each: each.series != module)),
            standing=True,
            explained=bool(changes),
            own=any(each.series == module for each in shifts),
        )
        for (since, changes), shifts in together.items()
    ]
    if drops or not ledger.changes or now - ledger.changes[-1].at_seconds > SHOWN_SECONDS:
        return tuple(drops[:MOST_LINES])
    last = ledger.changes[-1]
    shift = next((each for each in ledger.shifts if each.series == module and last.at_seconds in each.changes), None)
    effect = effect_text(shift.speed) if shift else ""
    return (ChangeLine(last.at_seconds, change_text(last.differences), effect, standing=False),)


def _effect_of(shift: Shift, module: str) -> str:
    told = f"{phase_text(shift.phase)}{effect_text(shift.speed)}"
    return told if shift.module == module else f"{told} by the module {shift.module}"


def entry_json(entry: Entry) -> dict[str, Any]:
    """An entry as ``/api/v1/changes`` and ``changes --json`` give it; ratios are since ÷ before.

    ``tokens_per_second`` is the speed of the phase: decode, or prefill of a long prompt.
    """
    return {
        "target": entry.target,
        "timestamp_seconds": entry.at_seconds,
        "explained": bool(entry.differences),
        "differences": [_difference_json(each) for each in in_order(entry.differences)],
        "modules": [_shift_json(each) for each in entry.shifts],
    }


def _difference_json(difference: Difference) -> dict[str, str]:
    return {"what": difference.fact, "before": difference.before, "after": difference.after}


def _shift_json(shift: Shift) -> dict[str, Any]:
    return {
        "module": shift.module,
        "phase": shift.phase,
        "verdict": _verdict_of(shift),
        "tokens_per_second": _ratio_json(shift.speed),
        "ttft_seconds": _ratio_json(shift.ttft),
        "prefill_tokens_per_second": _ratio_json(shift.prefill),
        "meanwhile": [{"what": name, "before": old, "after": new} for name, old, new in shift.meanwhile],
        "judged_with": len(shift.changes),
        "judged_timestamp_seconds": shift.judged_at_seconds,
        "back_timestamp_seconds": shift.back_at_seconds,
        "accepted_timestamp_seconds": shift.accepted_at_seconds,
    }


def _verdict_of(shift: Shift) -> str:
    """What became of it: ``slower``, ``faster``, ``no change``, ``back`` or ``accepted``."""
    if shift.told_at_seconds is None:
        return "no change"
    if shift.back_at_seconds is not None:
        return "back"
    if not shift.speed.below:
        return "faster" if shift.speed.above else "no change"
    return "slower" if shift.accepted_at_seconds is None else "accepted"


def _ratio_json(ratio: Ratio | None) -> dict[str, Any] | None:
    if ratio is None:
        return None
    return {
        "before": ratio.before,
        "after": ratio.after,
        "ratio": ratio.ratio,
        "min": ratio.min,
        "max": ratio.max,
        "beyond_noise": ratio.beyond_noise,
        "probes_before": ratio.n_before,
        "probes_after": ratio.n_after,
    }


def entry_rows(document: Mapping[str, Any], time: str) -> list[tuple[str, ...]]:
    """An entry of the JSON as rows of a table: time, target, what changed, what that did; one row for each module."""
    differences = [Difference(each["what"], each["before"], each["after"]) for each in document["differences"]]
    modules: Sequence[Mapping[str, Any]] = document["modules"]
    meanwhile = modules[0].get("meanwhile", ()) if modules else ()
    what = change_text(differences) + meanwhile_text(tuple(each.values()) for each in meanwhile)
    effects = [_module_effect(each) for each in modules] or ["too few good probes yet"]
    first, *others = effects
    return [(time, document["target"], what, first), *(("", "", "", each) for each in others)]


def _module_effect(module: Mapping[str, Any]) -> str:
    speed = module["tokens_per_second"]
    between = f"{percent_text(speed['min'])} to {percent_text(speed['max'])}"
    figures = f"{rate_text(speed['after'])}, before {rate_text(speed['before'])} tok/s"
    probes = f"{speed['probes_before']} and {speed['probes_after']} probes"
    phase = phase_text(module.get("phase", DECODE))  # a daemon of an older version knows decode only
    return f"{phase}{module['verdict']}: {figures}, {percent_text(speed['ratio'])} ({between}; {module['module']}, {probes})"
