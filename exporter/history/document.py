"""A ledger as a JSON document and back, for the store. Pure.

What can't be read raises ValueError: an empty ledger is better than one that is half read.
"""

import base64
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from exporter.history.change import Change, Difference, Known, Ledger, Seen
from exporter.history.ratio import Ratio
from exporter.history.sample import Samples, is_whole
from exporter.history.shift import Shift
from exporter.history.speed_tracker import SpeedTracker
from exporter.history.steps import Cusum, Reference

VERSION: Final = 1
LedgerDocument = Mapping[str, Any]


def document_of(ledger: Ledger) -> dict[str, Any]:
    """Everything that ``ledger_of`` needs."""
    return {
        "version": VERSION,
        "target": ledger.target,
        "known": {name: [each.value, each.since_seconds] for name, each in ledger.known.items()},
        "recent": {name: [each.value, *each.times] for name, each in ledger.recent.items()},
        "changes": [asdict(each) for each in ledger.changes],
        "open": ledger.open,
        "fingerprints": {name: _text(packed) for name, packed in ledger.fingerprints.items()},
        "watches": [_tracker_document(each) for each in ledger.trackers.values()],
    }


def ledger_of(document: LedgerDocument) -> Ledger:
    """The ledger that a document was made of. Raises ValueError for anything else, and for another version."""
    try:
        return _ledger_of(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a ledger: {error!r}") from error


def _ledger_of(document: LedgerDocument) -> Ledger:
    if document["version"] != VERSION:
        raise ValueError(f"version {document['version']}, not {VERSION}")
    trackers = [_tracker_of(each) for each in document["watches"]]
    return Ledger(
        target=document["target"],
        known={name: Known(value, float(since)) for name, (value, since) in document["known"].items()},
        recent={name: Seen(value, tuple(times)) for name, (value, *times) in document["recent"].items()},
        changes=tuple(change_of(each) for each in document["changes"]),
        open=min(int(document["open"]), len(document["changes"])),
        fingerprints={name: _bytes(text) for name, text in document.get("fingerprints", {}).items()},
        trackers={each.series: each for each in trackers},
    )


def change_of(document: LedgerDocument) -> Change:
    """A change from its fields. Raises KeyError or TypeError if some are missing."""
    differences = tuple(Difference(**each) for each in document["differences"])
    return Change(document["target"], float(document["at_seconds"]), differences)


def shift_of(document: LedgerDocument) -> Shift:
    """A shift from its fields. Raises KeyError or TypeError if some are missing."""
    ratios = {name: document[name] and Ratio(**document[name]) for name in ("speed", "ttft", "prefill")}
    return Shift(**{**document, **ratios, "changes": tuple(document["changes"]), "meanwhile": _meanwhile(document)})


def _meanwhile(document: LedgerDocument) -> tuple[tuple[str, str, str], ...]:
    return tuple((str(name), str(before), str(after)) for name, before, after in document.get("meanwhile", ()))


def _tracker_document(tracker: SpeedTracker) -> dict[str, Any]:
    reference = tracker.reference
    return {
        "module": tracker.module,
        "phase": tracker.phase,
        "since": _text(tracker.since.packed),
        "before": _text(tracker.before.packed),
        "judged": tracker.judged,
        "changes": list(tracker.changes),
        "count": tracker.count,
        "early": tracker.early,
        "reference": {**asdict(reference), "packed": _text(reference.packed)},
        "down": asdict(tracker.down),
        "up": asdict(tracker.up),
        "shifts": [asdict(each) for each in tracker.shifts],
        "last_at_seconds": tracker.last_at_seconds,
        "watched_seconds": tracker.watched_seconds,
        "judged_after_seconds": tracker.judged_after_seconds,
    }


def _tracker_of(document: LedgerDocument) -> SpeedTracker:
    reference = document["reference"]
    read = {
        "since": _samples(document["since"]),
        "before": _samples(document["before"]),
        "changes": tuple(document["changes"]),
        "reference": Reference(**{**reference, "packed": _bytes(reference["packed"])}),
        "down": Cusum(**document["down"]),
        "up": Cusum(**document["up"]),
        "shifts": tuple(shift_of(each) for each in document["shifts"]),
    }
    return SpeedTracker(**{**document, **read})


def _samples(text: str) -> Samples:
    packed = _bytes(text)
    if not is_whole(packed):
        raise ValueError("samples that are cut off")
    return Samples(packed)


def _text(packed: bytes) -> str:
    return base64.b64encode(packed).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
