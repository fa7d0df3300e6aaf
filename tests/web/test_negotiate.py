"""Accept headers as real clients send them, and as nobody should."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.exposition import OPENMETRICS, TEXT
from exporter.web.negotiate import accepts_gzip, choose_format, compress

PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT),
        (PROMETHEUS_3, OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"', OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0.3,text/plain;q=0.9", TEXT),
        ("application/openmetrics-text;version=1.x;q=oops,text/plain", TEXT),
        ("text/html,*/*;q=0.8", TEXT),
    ],
)
def test_format(accept: str, content_type: str) -> None:
    """OpenMetrics where it is liked at least as well, in the one version that is written; else text."""
    assert choose_format(accept) == content_type


@pytest.mark.parametrize(
    ("accept_encoding", "gzipped"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("*", True),
        ("*, gzip;q=0", False),
        ("br", False),
        ("gzip;q=high", False),
    ],
)
def test_compression(*, accept_encoding: str, gzipped: bool) -> None:
    """A client that gives gzip no quality, or none above 0, gets none."""
    assert accepts_gzip(accept_encoding) is gzipped


@given(st.text())
def test_no_header_breaks_it(header: str) -> None:
    """Any text is a header that has an answer."""
    assert choose_format(header) in (TEXT, OPENMETRICS)
    assert accepts_gzip(header) in (True, False)


@given(st.binary())
def test_compressed_unpacks_to_the_same(body: bytes) -> None:
    """Compression loses nothing and depends on nothing but the body."""
    assert gzip.decompress(compress(body)) == body
    assert compress(body) == compress(body)
