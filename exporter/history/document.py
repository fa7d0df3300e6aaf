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
from exporter.history.steps import Cusum, Reference
from exporter.history.watch import Watch

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
        "watches": [_watch_document(each) for each in ledger.watches.values()],
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
    watches = [_watch_of(each) for each in document["watches"]]
    return Ledger(
        target=document["target"],
        known={name: Known(value, float(since)) for name, (value, since) in document["known"].items()},
        recent={name: Seen(value, tuple(times)) for name, (value, *times) in document["recent"].items()},
        changes=tuple(change_of(each) for each in document["changes"]),
        open=min(int(document["open"]), len(document["changes"])),
        fingerprints={name: _bytes(text) for name, text in document.get("fingerprints", {}).items()},
        watches={each.series: each for each in watches},
    )


def change_of(document: LedgerDocument) -> Change:
    """A change from its fields. Raises KeyError or TypeError where some are missing."""
    differences = tuple(Difference(**each) for each in document["differences"])
    return Change(document["target"], float(document["at_seconds"]), differences)


def shift_of(document: LedgerDocument) -> Shift:
    """A shift from its fields. Raises KeyError or TypeError where some are missing."""
    ratios = {name: document[name] and Ratio(**document[name]) for name in ("speed", "ttft", "prefill")}
    return Shift(**{**document, **ratios, "changes": tuple(document["changes"]), "meanwhile": _meanwhile(document)})


def _meanwhile(document: LedgerDocument) -> tuple[tuple[str, str, str], ...]:
    return tuple((str(name), str(before), str(after)) for name, before, after in document.get("meanwhile", ()))


def _watch_document(watch: Watch) -> dict[str, Any]:
    reference = watch.reference
    return {
        "module": watch.module,
        "phase": watch.phase,
        "since": _text(watch.since.packed),
        "before": _text(watch.before.packed),
        "judged": watch.judged,
        "changes": list(watch.changes),
        "count": watch.count,
        "early": watch.early,
        "reference": {**asdict(reference), "packed": _text(reference.packed)},
        "down": asdict(watch.down),
        "up": asdict(watch.up),
        "shifts": [asdict(each) for each in watch.shifts],
        "last_at_seconds": watch.last_at_seconds,
        "watched_seconds": watch.watched_seconds,
        "judged_after_seconds": watch.judged_after_seconds,
    }


def _watch_of(document: LedgerDocument) -> Watch:
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
    return Watch(**{**document, **read})


def _samples(text: str) -> Samples:
    packed = _bytes(text)
    if not is_whole(packed):
        raise ValueError("samples that are cut off")
    return Samples(packed)


def _text(packed: bytes) -> str:
    return base64.b64encode(packed).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
