"""Which form of an answer a client asked for: exposition format and compression, by RFC 9110's quality values."""

import gzip
from collections.abc import Iterator
from typing import Final

from exporter.exposition import OPENMETRICS, TEXT

GZIP_LEVEL: Final = 1
"""An exposition repeats itself so much that more effort gains little and holds up a scrape."""


def choose_format(accept: str) -> str:
    """OpenMetrics if the client likes it at least as well as text, else text; a header that can't be read is text."""
    liked = {TEXT: 0.0, OPENMETRICS: 0.0}
    for value, quality, parameters in _preferences(accept):
        if value == "application/openmetrics-text" and parameters.get("version", "1.0.0") == "1.0.0":
            liked[OPENMETRICS] = max(liked[OPENMETRICS], quality)
        elif value in ("text/plain", "text/*", "*/*"):
            liked[TEXT] = max(liked[TEXT], quality)
    return OPENMETRICS if liked[OPENMETRICS] > 0 and liked[OPENMETRICS] >= liked[TEXT] else TEXT


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether gzip was named with a quality above 0 (``*`` counts if gzip itself is not named)."""
    liked = {value: quality for value, quality, _ in _preferences(accept_encoding)}
    return liked.get("gzip", liked.get("*", 0.0)) > 0


def compress(body: bytes) -> bytes:
    """The body as gzip, the same bytes for the same body."""
    return gzip.compress(body, GZIP_LEVEL, mtime=0)


def _preferences(header: str) -> Iterator[tuple[str, float, dict[str, str]]]:
    for element in header.split(","):
        value, *rest = (part.strip().lower() for part in element.split(";"))
        parameters = {name.strip(): text.strip(' "') for name, _, text in (part.partition("=") for part in rest)}
        try:
            yield value, float(parameters.get("q", "1")), parameters
        except ValueError:
            continue
