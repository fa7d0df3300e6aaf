"""The running daemon's verdicts as lines for a terminal: what ``status`` prints and ``top`` draws. Pure.

A document is what ``/api/v1/status`` answered.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from exporter.settings import Thresholds
from exporter.text import ERROR_CHARACTERS, NONE, age_text, count_text, printable, rate_text, seconds_text, speed_text
from exporter.web.steady import speed_shown

StatusDocument = Mapping[str, Any]

HEADINGS: Final = ("TARGET", "VERDICT", "SPEED", "TTFT", "AGE", "MODEL", "WHY")
LEAVE_OUT: Final = ("MODEL", "TTFT", "AGE")
"""The columns that a narrow terminal leaves out, in this order."""
BAD: Final = frozenset({"down", "stuck", "failing", "wrong"})
"""Verdicts of a server that does not do what it is for; ``poor`` is slow, and not one of them."""
SILENT: Final = frozenset({"down", "stuck", "loading"})
"""Verdicts of a server that answers nobody."""
SAYS_ITS_ERROR: Final = frozenset({"down", "stuck", "failing"})
"""Verdicts of which the error says more than the advice."""
TREND_POINTS: Final = 24
_BARS: Final = "▁▂▃▄▅▆▇█"


def check(document: object) -> StatusDocument:
    """The document, if it is one. Raises ValueError."""
    if isinstance(document, Mapping) and isinstance(document.get("targets"), list):
        return document
    raise ValueError("has no list of targets")


def headline(document: StatusDocument) -> str:
    """How many targets have each verdict: ``3 targets: 1 poor, 2 good``."""
    counts = document.get("verdicts") or {}
    if not document["targets"]:
        return "no target yet: nothing is configured, and no server was found"
    listed = printable(", ".join(f"{count} {verdict}" for verdict, count in counts.items()), 500)
    return f"{count_text(len(document['targets']), 'target')}: {listed}"


def rows_of(document: StatusDocument, now: float) -> list[tuple[str, ...]]:
    """A line for each target, in the order of the document, which is the worst first. ``now`` is Unix time."""
    return [_row(target, now) for target in document["targets"]]


def _row(target: StatusDocument, now: float) -> tuple[str, ...]:
    probe = _first_probe(target)
    age = probe.get("last_success_timestamp_seconds")
    # What the last probe measured of a server that answers nobody now is past.
    current = {} if target.get("verdict") in SILENT else probe
    return (
        printable(str(target.get("target"))),
        printable(str(target.get("verdict"))),
        _speed_text(current),
        seconds_text(current.get("ttft_seconds")),
        age_text(now - age) if age is not None else NONE,
        printable(str((target.get("info") or {}).get("model") or probe.get("model") or NONE)),
        printable(_why(target, now), ERROR_CHARACTERS),
    )


def _speed_text(probe: StatusDocument) -> str:
    """The speed as the page shows it: with digits that agree with the tier, of several streams their speed together."""
    streams = probe.get("concurrency") or 1
    if streams > 1:
        together = probe.get("aggregate_tokens_per_second")
        return NONE if together is None else f"{speed_text(together)} ({streams} streams)"
    speed = probe.get("tokens_per_second")
    if speed is None:
        return NONE
    try:
        bounds = Thresholds(**((probe.get("judgement") or {}).get("thresholds") or {}))
    except (TypeError, ValueError):  # a daemon of another version
        return speed_text(speed)
    return f"{speed_shown(speed, bounds)} tok/s" if probe.get("tier") else speed_text(speed)


def _why(target: StatusDocument, now: float) -> str:
    """The sentence that the page says: the error of a server that does not answer, else the advice with its fact.

    Before it stands that the figures are old, if they are.
    """
    probe = _first_probe(target)
    ran_at = probe.get("last_run_timestamp_seconds") if probe.get("stale") else None
    old = "" if ran_at is None else f"Stale: probed {age_text(now - ran_at)} ago. "
    advice: StatusDocument = next(iter(target.get("advice") or ()), {})
    sentence = "" if target.get("verdict") in SAYS_ITS_ERROR else advice.get("sentence")
    said = str(sentence or target.get("reason") or "")
    return (old + said[:1].upper() + said[1:]).strip()


def _first_probe(target: StatusDocument) -> StatusDocument:
    """The module that judges the speed: the first one."""
    found: StatusDocument = next(iter(target.get("probes") or ()), {})
    return found


def next_text(target: StatusDocument, now: float) -> str:
    """How long until the target's next probe: ``12 s``, or ``due``; empty if it isn't known."""
    at = _first_probe(target).get("next_run_timestamp_seconds")
    return "" if at is None else "due" if at <= now else age_text(at - now)


def any_bad(document: StatusDocument) -> bool:
    """Whether a target is down, fails or gives wrong answers."""
    return any(target.get("verdict") in BAD for target in document["targets"])


def speeds_of(document: StatusDocument) -> dict[str, tuple[float, float]]:
    """By target: Unix time of its newest success, and the decode speed then, if it had one."""
    found = {}
    for target in document["targets"]:
        probe = _first_probe(target)
        at, speed = probe.get("last_success_timestamp_seconds"), probe.get("tokens_per_second")
        if at is not None and speed is not None:
            found[str(target.get("target"))] = (float(at), float(speed))
    return found


def trend_text(speeds: Sequence[float]) -> str:
    """The last speeds as bars from 0 to the fastest: ``▆▆▇█``; empty below two."""
    shown = speeds[-TREND_POINTS:]
    if len(shown) < 2 or max(shown) <= 0:
        return ""
    return "".join(_BARS[min(int(speed / max(shown) * len(_BARS)), len(_BARS) - 1)] for speed in shown)


def trend_range(speeds: Iterable[float]) -> str:
    """The slowest and the fastest of the speeds that a trend shows: ``6.2–6.6``."""
    known = list(speeds)[-TREND_POINTS:]
    return f"{rate_text(min(known))}–{rate_text(max(known))}" if len(known) > 1 else ""
