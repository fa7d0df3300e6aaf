"""What an exception or an answer means: the result for the counters and the message for people."""

import json
import socket
import ssl
import time
from email.utils import formatdate

import httpcore
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.probe.failure import Expired, ProbeFailure, classify, error_text, one_line, refuse
from exporter.probe.result import RESULTS, SKIPPED, Result
from exporter.probe.stream import TooLarge

PATH = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html; charset=utf-8"}
LLAMA_LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
LLAMA_KEY = b'{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}'
LLAMA_PATH = b'{"error":{"message":"File Not Found","type":"not_found_error","code":404}}'
VLLM_MODEL = (
    b'{"error":{"message":"The model `no-such-model` does not exist. Valid aliases: tiny.",'
    b'"type":"NotFoundError","param":"model","code":404}}'
)
TRANSFORMERS_MODEL = b"""{"detail":"Server is pinned to './tiny-hf'; requested 'no-such-model'."}"""
TRANSFORMERS_JSON = (
    b'{"detail":[{"type":"json_invalid","loc":["body",28],"msg":"JSON decode error","input":{},'
    b'"ctx":{"error":"Expecting value"}}]}'
)


@pytest.mark.parametrize(
    ("status", "headers", "body", "result", "message"),
    [
        (
            301,
            {"location": "https://other.example/v1"},
            b"",
            "protocol",
            "points to https://other.example/v1. Redirects",
        ),
        (308, {}, b"", "protocol", "points to nowhere"),
        (400, JSON, b'{"error":"bad"}', "http_4xx", f"{PATH} answered 400: bad"),
        (
            401,
            JSON,
            LLAMA_KEY,
            "auth",
            "answered 401: Invalid API Key. Set api_key_file to a key that the server accepts",
        ),
        (401, JSON, b'{"error":"Unauthorized"}', "auth", "answered 401: Unauthorized. Set"),
        (403, HTML, b"<html><body>no</body>", "auth", "answered 403: no. Set api_key_file"),
        (404, JSON, LLAMA_PATH, "http_4xx", "answered 404: File Not Found"),
        (404, JSON, b'{"detail":"Not Found"}', "http_4xx", "answered 404: Not Found"),
        (
            404,
            JSON,
            VLLM_MODEL,
            "no_model",
            "answered 404: The model `no-such-model` does not exist. Valid aliases: tiny.",
        ),
        (
            404,
            JSON,
            b"""{"error":"model 'x' not found"}""",
            "no_model",
            "answered 404: model 'x' not found. Set model to",
        ),
        (400, JSON, TRANSFORMERS_MODEL, "no_model", "pinned to './tiny-hf'; requested 'no-such-model'"),
        (422, JSON, TRANSFORMERS_JSON, "http_4xx", "answered 422: JSON decode error at body.28"),
        (429, JSON, b"", "rate_limited", f"{PATH} answered 429"),
        (
            500,
            {"content-type": "text/plain"},
            b"Internal Server Error",
            "http_5xx",
            "answered 500: Internal Server Error",
        ),
        (
            502,
            HTML,
            b"<html><head><title>502</title></head><h1>Bad Gateway</h1>",
            "http_5xx",
            "answered 502: Bad Gateway",
        ),
        (503, JSON, LLAMA_LOADING, "loading", "answered 503: Loading model"),
        (503, {"retry-after": "5"}, b"", "loading", "answered 503"),
        (503, HTML, b"<h1>overloaded</h1>", "http_5xx", "answered 503: overloaded"),
        (200, HTML, b"<!doctype html><title>x</title><p>Welcome", "protocol", "a web page"),
        (200, JSON, b'{"choices": []}', "protocol", "answered with application/json, not with a stream"),
        (200, JSON, b'{"error": {"message": "out of memory"}}', "server_error", "out of memory"),
        (200, {"content-encoding": "gzip"}, b"", "protocol", "in the encoding gzip, which was not asked for"),
        (204, {}, b"", "protocol", "answered with no content type, not with a stream"),
    ],
)
def test_an_answer_that_is_no_stream(
    *, status: int, headers: dict[str, str], body: bytes, result: Result, message: str
) -> None:
    """Each kind of refusal has its result, and a message with the path, the status and what the server said."""
    failure = refuse(status, headers, body, PATH)
    assert failure.result == result
    assert message in failure.message
    assert PATH in failure.message
    assert (failure.status, failure.body) == (status, body)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("999999999", 86400.0), ("soon", None), ("nan", None), ("", None)],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    """Seconds between 0 and a day; what is no number is no advice."""
    assert refuse(429, {"retry-after": value}, b"", PATH).retry_after_seconds == seconds


def test_retry_after_as_a_date() -> None:
    """A date counts from now."""
    seconds = refuse(429, {"retry-after": formatdate(time.time() + 100, usegmt=True)}, b"", PATH).retry_after_seconds
    assert seconds is not None
    assert 0 < seconds <= 100


def raised(exc: BaseException, *causes: BaseException) -> Exception:
    """An exception as httpx raises it, with what it came from."""
    at = exc
    for cause in causes:
        at.__cause__ = cause
        at = cause
    assert isinstance(exc, Exception)
    return exc


@pytest.mark.parametrize(
    ("exc", "result", "message"),
    [
        (Expired("timeout_stalled", 30, "no further token"), "timeout_stalled", "no further token for 30 s"),
        (TooLarge(100), "too_large", "more than 100 bytes"),
        (socket.gaierror(-2, "Name or service not known"), "resolve", "not known: Name or service not known"),
        (ConnectionRefusedError(111, "Connection refused"), "connect", "nothing listens on this port"),
        (OSError(113, "No route to host"), "connect", "no connection: No route to host"),
        (TimeoutError(110, "Connection timed out"), "timeout_connect", "Connection timed out"),
        (ConnectionResetError(104, "Connection reset by peer"), "truncated", "broke: Connection reset by peer"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "tls", "begin its url with http://"),
        (httpx.RemoteProtocolError("illegal status line"), "protocol", "is not HTTP: illegal status line"),
        (httpcore.RemoteProtocolError("illegal status line"), "protocol", "is not HTTP: illegal status line"),
        (httpcore.LocalProtocolError("Illegal header value b'Bearer secret\\n'"), "auth", "holds a character"),
        (httpx.UnsupportedProtocol("no scheme"), "connect", "not a URL to probe: no scheme"),
        (raised(httpx.ConnectError("x"), ConnectionRefusedError(111, "refused")), "connect", "nothing listens"),
        (
            raised(httpx.ReadError("x"), httpcore.ReadError("y"), ConnectionResetError(104, "reset")),
            "truncated",
            "reset",
        ),
        (httpx.ReadTimeout("late"), "timeout_connect", "late"),
        (RuntimeError("what"), "protocol", "RuntimeError: what"),
    ],
)
def test_an_exception_of_the_connection(exc: Exception, result: Result, message: str) -> None:
    """Each kind of fault has its result and says what to do; a key in a header is never repeated."""
    failure = classify(exc)
    assert failure.result == result
    assert message in failure.message
    assert "secret" not in failure.message


def test_a_certificate_that_is_not_accepted_says_why() -> None:
    """The reason of the check is in the message, and which settings help."""
    exc = ssl.SSLCertVerificationError(1, "certificate verify failed")
    exc.verify_message = "certificate has expired"
    failure = classify(exc)
    assert failure.result == "tls"
    assert (
        "certificate has expired. Set url to the host that the certificate names, or tls.ca_file to its CA"
        in failure.message
    )


def test_a_failure_stays_what_it_is() -> None:
    """A ProbeFailure on its way up is not classified again."""
    failure = ProbeFailure("empty", "nothing came")
    assert classify(failure) is failure


@given(
    status=st.integers(100, 599),
    headers=st.dictionaries(
        st.sampled_from(["content-type", "retry-after", "location", "content-encoding"]), st.text()
    ),
    body=st.binary(max_size=300)
    | st.recursive(
        st.none() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["error", "message", "detail", "msg", "loc"]), inner)
        ),
    ).map(lambda found: json.dumps(found).encode()),
)
def test_whatever_a_server_answers_is_one_clean_line(status: int, headers: dict[str, str], body: bytes) -> None:
    """No status, header or body makes it raise; messages have no control character and an end."""
    failure = refuse(status, headers, body, PATH)
    assert failure.result in set(RESULTS) - SKIPPED - {"ok"}
    assert failure.message.isprintable()
    assert len(failure.message) < 500


@given(st.text())
def test_one_line(text: str) -> None:
    """A server's text comes out printable, on one line, at most 200 characters, and clean text stays as it is."""
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= 200
    assert one_line(line) == line


def test_a_deeply_nested_body_is_no_trouble() -> None:
    """JSON too deep for the parser is shown as text."""
    assert error_text(b'{"error":' * 100_000).startswith('{"error":')
