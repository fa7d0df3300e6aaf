"""Facts of caches as a person or a script reads them."""

from collections.abc import Iterable, Sequence
from typing import Any

from exporter.cache.facts import STALE_SECONDS, CacheFacts, ModelFacts, filesystems, printable
from exporter.cache.verify import Checked, owner_of
from exporter.text import age_text, bytes_text, count_text

HEADINGS = ("cache", "model", "size", "complete", "last used", "waste")


def caches_json(caches: Sequence[CacheFacts], checked: Sequence[Checked] | None = None) -> dict[str, Any]:
    """One object: ``caches``, ``filesystems`` and, after verifying, ``verified``."""
    report: dict[str, Any] = {
        "caches": [_cache_json(cache) for cache in caches],
        "filesystems": [
            {"mountpoint": each.mountpoint, "free_bytes": each.free_bytes, "size_bytes": each.size_bytes}
            for each in filesystems(tuple(caches))
        ],
    }
    if checked is not None:
        report["verified"] = {
            "files": len(checked),
            "bytes": sum(each.blob.bytes for each in checked),
            "bad": [
                {"path": printable(each.blob.path), "model": owner_of(each.blob), "problem": each.problem}
                for each in checked
                if each.problem is not None
            ],
        }
    return report


def _cache_json(cache: CacheFacts) -> dict[str, Any]:
    return {
        "name": cache.name,
        "kind": cache.kind,
        "path": printable(cache.path),
        "error": cache.error and printable(cache.error),
        "bytes": cache.bytes,
        "models": [_model_json(model) for model in cache.models],
        "others": [_model_json(model) for model in cache.others],
        "incomplete_bytes": cache.incomplete_bytes,
        "stale_incomplete_bytes": cache.stale_incomplete_bytes,
        "orphaned_bytes": cache.orphaned_bytes,
        "compile_cache_bytes": cache.compile_cache_bytes,
        "unreadable_entries": cache.unreadable_entries,
        "problems": list(cache.problems),
        "scan_seconds": cache.scan_seconds,
    }


def _model_json(model: ModelFacts) -> dict[str, Any]:
    return {
        "name": model.name,
        "path": printable(model.path),
        "bytes": model.bytes,
        "complete": model.complete,
        "missing": list(model.missing),
        "last_used_timestamp_seconds": model.last_used_seconds,
        "incomplete_bytes": sum(download.bytes for download in model.unfinished),
        "orphaned_bytes": model.orphaned_bytes,
        "weight_bytes": model.weight_bytes,
        "quantization": model.weights.quantization if model.weights else None,
    }


def cache_rows(cache: CacheFacts, now: float) -> list[tuple[str, ...]]:
    """A cache as lines under ``HEADINGS``, its largest model first, its total last."""
    if cache.error is not None:
        return [(cache.name, printable(cache.error), "", "", "", "")]
    models = sorted((*cache.models, *cache.others), key=lambda model: (-model.bytes, model.name))
    if cache.kind == "compiled":
        return [(cache.name, "compiled code", bytes_text(cache.compile_cache_bytes), "", "", "")]
    waste = _waste(cache.stale_incomplete_bytes, cache.orphaned_bytes)
    running = cache.incomplete_bytes - cache.stale_incomplete_bytes
    total = count_text(len(cache.models), "model") + (f", {bytes_text(running)} being downloaded" if running else "")
    return [
        *((cache.name, *_model_row(model, now)) for model in models),
        (cache.name, total, bytes_text(cache.bytes or 0), "", "", waste),
    ]


def _model_row(model: ModelFacts, now: float) -> tuple[str, ...]:
    complete = {True: "yes", False: "no", None: "not known"}[model.complete]
    if model.missing:
        more = ", …" if len(model.missing) > 2 else ""
        complete = f"no: {', '.join(model.missing[:2])}{more}"
    stale = sum(each.bytes for each in model.unfinished if now - each.modified_seconds > STALE_SECONDS)
    used = "" if model.last_used_seconds is None else f"{age_text(now - model.last_used_seconds)} ago"
    return model.name, bytes_text(model.bytes), complete, used, _waste(stale, model.orphaned_bytes)


def _waste(stale: int, orphaned: int) -> str:
    parts = ((stale, "of abandoned downloads"), (orphaned, "that no model uses"))
    return ", ".join(f"{bytes_text(size)} {what}" for size, what in parts if size)


def notes(caches: Iterable[CacheFacts]) -> list[str]:
    """What else there is to say: free space, and what could not be read."""
    caches = tuple(caches)
    return [
        *(
            f"{each.mountpoint}: {bytes_text(each.free_bytes)} free of {bytes_text(each.size_bytes)}"
            for each in filesystems(caches)
        ),
        *(problem for cache in caches for problem in cache.problems),
        *(
            f"{cache.name}: {cache.unreadable_entries} of its entries could not be read"
            for cache in caches
            if cache.unreadable_entries > len(cache.problems)
        ),
    ]


def checked_lines(checked: Sequence[Checked]) -> list[str]:
    """What verifying found: a line for each file that is corrupt or couldn't be read, and how many there were."""
    bad = [each for each in checked if each.problem is not None]
    lines = [f"{'corrupt' if each.corrupt else 'not verified'}: {each.blob.path}: {each.problem}" for each in bad]
    files = count_text(len(checked), "file")
    if not checked:
        outcome = "none is named by its hash"
    elif bad:
        outcome = f"{len(checked) - len(bad)} match their names"
    else:
        outcome = "each matches its name"
    return [*lines, f"checked {files}: {outcome}"]
