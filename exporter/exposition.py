"""From a view to the bytes of an exposition, in both formats.

``Exposition`` writes what the client library would write: an observation becomes text once, when it is published, and a scrape
only joins. A collector of metrics that raises takes nothing else down, and no label set comes twice.
"""

import logging
import math
import operator
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any, Final

from prometheus_client import Metric, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.utils import floatToGoString

from exporter.history.record import Histogram
from exporter.metrics import COLLECTORS, FAMILIES, OF_A_TARGET, OWN_COLLECTOR, Family, Source
from exporter.snapshot import Changed, CollectorRun, Names, View
from exporter.text import finite, label, printable

log = logging.getLogger(__name__)

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# The exposition is itself a collector: whether it worked is known when all other sources have been read.
_SOURCES: Final = (*dict.fromkeys(family.source for family in FAMILIES if family.source is not COLLECTORS), COLLECTORS)
_FAMILIES_OF: Final = {source: tuple(f for f in FAMILIES if f.source is source) for source in _SOURCES}


@dataclass(frozen=True, slots=True)
class Series:
    """One line of an exposition: labels sorted by name, as both formats have them."""

    suffix: str
    labels: tuple[tuple[str, str], ...]
    value: float


def series_of(family: Family, names: Names, parts: Sequence[Any]) -> list[Series]:
    """The samples of a family for one key: label values made safe, each label set once, no value that isn't finite."""
    seen: set[Names] = set()
    found: list[Series] = []
    for own, value in family.read(*parts):
        values = tuple(label(text) for text in (*names, *own))
        if values in seen:
            continue
        labels = tuple(sorted(zip(family.all_labels, values, strict=True)))
        if isinstance(value, Histogram):
            found += _buckets(family, labels, value)
        elif (number := finite(value)) is not None:
            found.append(Series("", labels, number))
        else:
            continue
        seen.add(values)
    return found


def _buckets(family: Family, labels: tuple[tuple[str, str], ...], histogram: Histogram) -> Iterator[Series]:
    counts = list(accumulate(histogram.counts))
    position = bisect(labels, ("le",))
    before, after = labels[:position], labels[position:]
    for bound, count in zip(_bound_labels(family.bounds), counts, strict=True):
        yield Series("_bucket", (*before, ("le", bound), *after), float(count))
    yield Series("_count", labels, float(counts[-1]))
    yield Series("_sum", labels, histogram.sum)


@cache
def _bound_labels(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(map(_number, (*bounds, math.inf)))


def _line(family: Family, series: Series) -> str:
    return f"{family.name}{series.suffix}{_in_braces(series.labels)} {_number(series.value)}\n"


@lru_cache(maxsize=64)
def _in_braces(labels: tuple[tuple[str, str], ...]) -> str:
    # The families of one key follow each other with the same labels.
    text = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{text}}}" if text else ""


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _escaped(value: str) -> str:
    # printable() left no newline.
    return value.replace("\\", r"\\").replace('"', r"\"")


@dataclass(frozen=True, slots=True)
class _Metrics:
    """What the client library's generators ask of a registry."""

    metrics: Sequence[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.metrics


_HEADERS: Final = {family.name: generate_latest(_Metrics([family.metric()])) for family in FAMILIES}


def _generate_openmetrics(metrics: Sequence[Metric]) -> bytes:
    return bytes(openmetrics.generate_latest(_Metrics(metrics)))  # type: ignore[no-untyped-call]


_EOF: Final = b"# EOF\n"
_OPENMETRICS_HEADERS: Final = {
    family.name: _generate_openmetrics([family.metric()]).removesuffix(_EOF) for family in FAMILIES
}


@dataclass(frozen=True, slots=True)
class _Piece:
    """One key's part of an exposition: for each family of its source the lines, empty if it has none."""

    parts: tuple[Any, ...]
    lines: tuple[bytes, ...]
    failed: bool


class Exposition:
    """Writes a view as text. Pieces are kept as long as the observations that they were made of are the newest.

    Give ``prepare`` to ``Snapshot(watch=…)``, and the work is done in the thread that publishes; without it, the next
    scrape does it. An example of what comes out, in either format but for the headers::

        # HELP llm_probe_success 1 when the last probe that ran finished and passed its checks, else 0. …
        # TYPE llm_probe_success gauge
        llm_probe_success{module="default",target="vllm"} 1.0
        # HELP llm_probe_tokens_per_second Decode speed of the last successful probe: …
        # TYPE llm_probe_tokens_per_second gauge
        llm_probe_tokens_per_second{model="Qwen/Qwen2.5-14B-Instruct",module="default",target="vllm"} 18.4
    """

    def __init__(self) -> None:
        self._pieces: dict[tuple[int, Names], _Piece] = {}
        self._process = ProcessCollector(registry=None)

    def prepare(self, view: View, changed: Changed) -> None:
        """Make the pieces that a publication has changed."""
        kind, names = changed
        for number, source in enumerate(_SOURCES):
            if kind in source.kinds:
                self._piece(number, source, names if source.labels else (), view)

    def render(self, view: View, content_type: str = TEXT) -> bytes:
        """The whole exposition: what the view holds, then the client library's ``process_*``."""
        process = list(self._process.collect())
        if content_type == OPENMETRICS:
            return b"".join((*self._blocks(view, _OPENMETRICS_HEADERS), _generate_openmetrics(process)))
        return b"".join((*self._blocks(view, _HEADERS), generate_latest(_Metrics(process))))

    def _blocks(self, view: View, headers: Mapping[str, bytes]) -> Iterator[bytes]:
        columns: dict[str, tuple[bytes, ...]] = {}
        failed, used = False, 0
        for number, source in enumerate(_SOURCES):
            pieces = [self._piece(number, source, names, view) for names in _keys(source, view)]
            failed, used = failed or any(piece.failed for piece in pieces), used + len(pieces)
            if source is COLLECTORS:
                pieces.append(_piece(source, *_own_run(failed=failed)))
            for family, column in zip(_FAMILIES_OF[source], zip(*(p.lines for p in pieces), strict=True), strict=False):
                columns[family.name] = column
        if len(self._pieces) > used:
            self._forget(view)
        for family in FAMILIES:
            if any(column := columns.get(family.name, ())):
                yield headers[family.name]
                yield from column

    def _piece(self, number: int, source: Source, names: Names, view: View) -> _Piece:
        parts = source.parts(view, names)
        kept = self._pieces.get((number, names))
        if kept is not None and len(kept.parts) == len(parts) and all(map(operator.is_, kept.parts, parts)):
            return kept
        piece = _piece(source, names, parts)
        self._pieces[number, names] = piece
        return piece

    def _forget(self, view: View) -> None:
        used = {(number, names) for number, source in enumerate(_SOURCES) for names in _keys(source, view)}
        for gone in [key for key in list(self._pieces) if key not in used]:
            self._pieces.pop(gone, None)


def _keys(source: Source, view: View) -> Iterable[Names]:
    # Two names that are the same once they are printable would be the same label set: the first one has it.
    by_label: dict[Names, Names] = {}
    for names in source.keys(view):
        by_label.setdefault(tuple(map(label, names)), names)
    return by_label.values()


def _own_run(*, failed: bool) -> tuple[Names, tuple[CollectorRun]]:
    return (OWN_COLLECTOR,), (CollectorRun(success=not failed, duration_seconds=float("nan"), at_seconds=0.0),)


def _piece(source: Source, names: Names, parts: tuple[Any, ...]) -> _Piece:
    read = [_guarded(family, names, parts) for family in _FAMILIES_OF[source]]
    lines = (
        "".join(_line(family, each) for each in series or ()).encode()
        for family, series in zip(_FAMILIES_OF[source], read, strict=True)
    )
    return _Piece(parts, tuple(lines), failed=None in read)


def _guarded(family: Family, names: Names, parts: tuple[Any, ...]) -> list[Series] | None:
    try:
        return series_of(family, names, parts)
    except Exception:  # whatever is wrong with one observation, the rest of the exposition must stand
        log.exception("%s can't be shown for %s", family.name, "/".join(map(printable, names)) or "this exporter")
        return None


def render_probe(view: View, target: str, module: str, content_type: str = TEXT, *, totals: bool = True) -> bytes:
    """One module of one target alone, as ``/probe`` answers; ``totals=False`` leaves out counters and histograms."""
    is_openmetrics = content_type == OPENMETRICS
    headers = _OPENMETRICS_HEADERS if is_openmetrics else _HEADERS
    blocks: list[bytes] = []
    for family in FAMILIES:
        names = (target, module)[: len(family.source.labels)]
        if family.source not in OF_A_TARGET or names not in family.source.keys(view):
            continue
        if not totals and family.type != "gauge":
            continue
        if series := _guarded(family, names, family.source.parts(view, names)):
            blocks += [headers[family.name], "".join(_line(family, each) for each in series).encode()]
    return b"".join([*blocks, _EOF] if is_openmetrics else blocks)
