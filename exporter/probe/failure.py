"""What went wrong → one of the closed set of results, with a message that a person understands.

``classify`` takes exceptions of the connection, ``refuse`` takes an HTTP answer that is no stream. Text that a server sent
appears as one line without control characters, cut to 200.
"""

import json
import re
import socket
import ssl
import time
import traceback
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpcore
import httpx

from exporter.probe.answer import AnswerFault
from exporter.probe.result import Result
from exporter.probe.stream import TooLarge
from exporter.probe.timeline import Timeline
from exporter.text import is_visible

_TEXT_LIMIT: Final = 200
_BODY_LIMIT: Final = 4096
_LOADING: Final = re.compile(r"\bloading\b|\bstarting\b|\binitiali[sz]ing\b|\bwarming\b|not ready", re.IGNORECASE)
_NO_MODEL: Final = re.compile(
    r"model\b.*(not found|does not exist|doesn't exist|not loaded|not available|no such|unknown|not served)"
    r"|(no such|unknown|invalid|no) model\b|model_not_found|pinned to .*; requested",
    re.IGNORECASE | re.DOTALL,
)


_NO_TEMPLATE: Final = re.compile(r"chat[ _]template", re.IGNORECASE)
_TOO_LONG: Final = re.compile(
    r"exceed_context_size|context_length_exceeded|(exceeds?|longer than|maximum)\b.{0,60}\bcontext|context (length|size|window)\b"
    r".{0,40}\bexceed|(prompt|input)\b.{0,40}\btoo (long|large)",
    re.IGNORECASE | re.DOTALL,
)
_CONTEXT: Final = re.compile(
    r'"n_ctx"\s*:\s*(\d{1,9})|(?:maximum|available) (?:model )?context (?:length|size|window)\D{0,20}(\d{1,9})',
    re.IGNORECASE,
)


class ProbeFailure(Exception):  # noqa: N818 - a result of measuring, not a fault of the program
    """A probe that did not succeed: ``result`` for the counters, ``message`` for people, and what had been seen by then.

    ``status`` and ``body`` (its first 4 KiB) are those of the HTTP answer, if there was one; ``fault`` is what is wrong with the
    model's answer, if that is the failure.
    """

    def __init__(
        self,
        result: Result,
        message: str,
        *,
        status: int | None = None,
        body: bytes = b"",
        timeline: Timeline | None = None,
        retry_after_seconds: float | None = None,
        fault: AnswerFault | None = None,
    ) -> None:
        super().__init__(message)
        self.result: Result = result
        self.message = message
        self.status = status
        self.body = body[:_BODY_LIMIT]
        self.timeline = timeline
        self.retry_after_seconds = retry_after_seconds
        self.fault: AnswerFault | None = fault

    def settled(self) -> "ProbeFailure":
        """Clear the traceback, so that a stored failure keeps no sockets or buffers alive.

        The frames of a traceback hold the failure, and the failure holds them, until a garbage collection.
        """
        chain: list[BaseException | None] = [self]
        while chain:
            if (each := chain.pop()) is not None:
                chain += [each.__cause__, each.__context__]
                traceback.clear_frames(each.__traceback__)
                each.__traceback__ = each.__cause__ = each.__context__ = None
        return self


class Cancelled(Exception):  # noqa: N818 - somebody wanted this, it is no error
    """The daemon or the user ended the probe."""


class Expired(Exception):  # noqa: N818 - a deadline passed
    """A deadline passed: which one, how long it was, and what was being waited for."""

    def __init__(self, result: Result, seconds: float, doing: str) -> None:
        super().__init__(result, seconds, doing)
        self.result: Result = result
        self.seconds = seconds
        self.doing = doing


def classify(exc: Exception) -> ProbeFailure:
    """Tell what an exception of httpx, ssl, socket or the decoder means for a probe."""
    if isinstance(exc, ProbeFailure):
        return exc
    if isinstance(exc, Expired):
        return ProbeFailure(exc.result, f"{exc.doing} for {exc.seconds:g} s")
    if isinstance(exc, TooLarge):
        return ProbeFailure("too_large", f"the stream has {exc}: this is no stream of tokens")
    cause = _root(exc)
    for kinds, result, message in _TRANSPORT:
        if isinstance(cause, kinds) or isinstance(exc, kinds):
            return ProbeFailure(result, message.format(reason=one_line(_reason(cause))))
    return ProbeFailure("protocol", f"{type(exc).__name__}: {one_line(str(exc))}")


_TRANSPORT: Final[tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Result, str], ...]] = (
    (
        ssl.SSLCertVerificationError,
        "tls",
        "the server's certificate is not accepted: {reason}. Set url to the host that the certificate names, or tls.ca_file to its CA",
    ),
    (
        ssl.SSLError,
        "tls",
        "TLS failed on this port: {reason}. If the server uses plain HTTP, begin its url with http://",
    ),
    (socket.gaierror, "resolve", "the host name is not known: {reason}"),
    (UnicodeError, "resolve", "this is not a host name: {reason}"),
    (ConnectionRefusedError, "connect", "refused: nothing listens on this port. Is the server running?"),
    (
        (httpx.LocalProtocolError, httpcore.LocalProtocolError),
        "auth",
        "the request can't be sent: the API key, or another header, holds a character that HTTP does not allow there",
    ),
    (
        (httpx.RemoteProtocolError, httpcore.RemoteProtocolError),
        "protocol",
        "what the server sent is not HTTP: {reason}",
    ),
    ((TimeoutError, httpx.TimeoutException), "timeout_connect", "no connection in time: {reason}"),
    ((ConnectionError, httpx.NetworkError, httpcore.NetworkError), "truncated", "the connection broke: {reason}"),
    (OSError, "connect", "no connection: {reason}"),
    (
        (OverflowError, httpx.UnsupportedProtocol, httpx.InvalidURL, httpcore.UnsupportedProtocol),
        "connect",
        "not a URL to probe: {reason}",
    ),
)


def refuse(status: int, headers: Mapping[str, str], body: bytes, path: str) -> ProbeFailure:
    """Tell what an HTTP answer means that is not the stream which was asked for; header names in lower case."""
    retry_after = _retry_after(headers.get("retry-after", ""))
    result, message = _refusal(status, headers, body, path)
    if status == 503 and retry_after is not None:
        result = "loading"
    return ProbeFailure(result, message, status=status, body=body, retry_after_seconds=retry_after)


def _refusal(  # noqa: PLR0911 - one for each kind of answer
    status: int, headers: Mapping[str, str], body: bytes, path: str
) -> tuple[Result, str]:
    text = error_text(body)
    said = f"{path} answered {status}" + (f": {text}" if text else "")
    if status < 300:
        return ("server_error", said) if _is_error(body) else ("protocol", _not_a_stream(headers, body, path, text))
    if status < 400:
        where = one_line(headers.get("location", "")) or "nowhere"
        message = f"{path} answered {status} and points to {where}. Redirects are not followed: set url to that address"
        return "protocol", message
    if status in {401, 403}:
        return "auth", f"{said}. Set api_key_file to a key that the server accepts"
    if status == 429:
        return "rate_limited", said
    if status == 503 and _LOADING.search(text):
        return "loading", said
    if status in {400, 404} and _NO_MODEL.search(text):
        return "no_model", f"{said}. Set model to one that the server has"
    return "http_4xx" if status < 500 else "http_5xx", said


def wants_template(failure: ProbeFailure) -> bool:
    """Whether a server refused a chat since its model has no chat template: a base model, which completes text."""
    return failure.status in {400, 422, 500} and _NO_TEMPLATE.search(_said(failure)) is not None


def context_exceeded(failure: ProbeFailure) -> int | None:
    """If a server refused a prompt as too long, how many tokens its context holds (0 if it doesn't say); else None."""
    said = _said(failure)
    refused = failure.status in {400, 413, 422} or failure.result == "server_error"
    if not refused or _TOO_LONG.search(said) is None:
        return None
    found = _CONTEXT.search(said)
    return int(found[1] or found[2]) if found else 0


def _said(failure: ProbeFailure) -> str:
    return f"{failure.message}\n{failure.body.decode('utf-8', 'replace')}"


def error_text(body: bytes) -> str:
    """Find the error message in a body of any of the known shapes; one line of at most 200 characters, or empty."""
    text = body[:_BODY_LIMIT].decode("utf-8", "replace")
    try:
        found = _message(json.loads(body))
    except (ValueError, RecursionError):
        found = re.sub(r"<(style|script|head)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    return one_line(found)


def one_line(text: str) -> str:
    """Make a server's text fit for a log or a page: one line, no control characters, at most 200 characters."""
    visible = "".join(c if is_visible(c) else " " for c in text[: 4 * _TEXT_LIMIT])
    line = " ".join(visible.split())
    return line if len(line) <= _TEXT_LIMIT else line[: _TEXT_LIMIT - 1] + "…"


def _message(found: Any) -> str:
    """Read {"error": {"message": …}}, {"error": "…"}, {"detail": "…"} and {"detail": [{"loc": …, "msg": …}]}."""
    match found:
        case {"error": {"message": str(text)}} | {"error": str(text)} | {"detail": str(text)}:
            return text
        case {"detail": [{"msg": str(text), **rest}, *_]}:
            where = rest.get("loc")
            return f"{text} at {'.'.join(map(str, where))}" if isinstance(where, list) else text
        case {"error": dict(inner)} | {"detail": dict(inner)}:
            return _message(inner) or json.dumps(inner)
        case {"message": str(text)}:
            return text
        case _:
            return ""


def _is_error(body: bytes) -> bool:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and bool(found.get("error"))


def _not_a_stream(headers: Mapping[str, str], body: bytes, path: str, text: str) -> str:
    kind = one_line(headers.get("content-type", "")) or "no content type"
    encoding = headers.get("content-encoding", "")
    if encoding and encoding != "identity":
        return f"{path} answered in the encoding {one_line(encoding)}, which was not asked for"
    if "html" in kind or body.lstrip()[:1] == b"<":
        return f"{path} answered with a web page ({text[:80]}): this url is not an inference server's API"
    return f"{path} answered with {kind}, not with a stream"


def _retry_after(value: str) -> float | None:
    """Read seconds or a date; at most a day."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), 86400.0) if seconds == seconds else None  # noqa: PLR0124 - NaN is a float too


def _root(exc: BaseException) -> BaseException:
    """Follow httpx → httpcore → socket to the exception that started it, unless an own one lies on the way."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return exc


def _reason(exc: BaseException) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message or str(exc)
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__
