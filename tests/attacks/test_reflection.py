"""What comes back: keys that a server reflects in other forms, a stranger's letters that can't be seen, and what a client sent."""

import base64
import html
import json
import re
import socket
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from exporter.probe.secret import hide
from exporter.text import is_visible
from exporter.web.server import HEADER_BYTES
from tests.attacks.json_answers import JsonAnswers
from tests.attacks.running import RunningExporter, configuration, running
from tests.server_thread import in_thread
from tests.waiting import eventually

KEY = "canary-K7/q&x+9aWd/3fH0sLm-key-of-a-server"
HALF = len(KEY) // 2
REFLECTED = {
    "as it is": KEY,
    "upper case": KEY.upper(),
    "lower case": KEY.lower(),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "base64 of the header": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "base64 of a login": base64.b64encode(f"me:{KEY}".encode()).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(f"x{KEY}".encode()).decode(),
    "decimal entities": "".join(f"&#{ord(each)};" for each in KEY),
    "hexadecimal entities": "".join(f"&#x{ord(each):X};" for each in KEY),
    "escaped HTML": html.escape(KEY),
    "twice escaped HTML": html.escape(html.escape(KEY)),
    "per cent": "".join(f"%{ord(each):02x}" for each in KEY),
    "twice in per cent": urllib.parse.quote(urllib.parse.quote(KEY, safe="")),
    "JSON": json.dumps(KEY)[1:-1],
    "JSON in JSON": json.dumps(json.dumps(KEY)),
    "JSON numbers": "".join(f"\\u{ord(each):04x}" for each in KEY),
    "hexadecimal digits": KEY.encode().hex(),
    "the first half": KEY[:HALF],
    "the second half": KEY[HALF:],
    "two halves": f"{KEY[:HALF]} and {KEY[HALF:]}",
    "zero width between": "\u200b".join(KEY),
    "soft hyphens between": "\u00ad".join(KEY),
    "directions between": "\u202e".join(KEY),
    "zero bytes between": "\0".join(KEY),
    "fillers between": "\u3164".join(KEY),
    "spaced": " ".join(KEY),
    "by dashes": "-".join(KEY),
    "on lines": "\n".join(KEY),
    "full width": "".join(chr(ord(each) + 0xFEE0) for each in KEY),
    "bold": "".join(chr(0x1D41A + ord(each) - 97) if each.islower() else each for each in KEY),
    "backwards": KEY[::-1],
    "base32": base64.b32encode(KEY.encode()).decode(),
    "base32 of the header": base64.b32encode(f"Bearer {KEY}".encode()).decode(),
    "base64 on lines": "\r\n".join(re.findall(".{1,16}", base64.b64encode(KEY.encode()).decode())),
    "hexadecimal digits with colons": KEY.encode().hex(":").upper(),
    "hexadecimal digits with spaces": KEY.encode().hex(" "),
    "hexadecimal digits of 16 bits": KEY.encode("utf-16-le").hex(),
    "quoted printable": "".join(f"={ord(each):02X}" for each in KEY),
    "octal": "".join(f"\\{ord(each):03o}" for each in KEY),
    "wide per cent": "".join(f"%u{ord(each):04X}" for each in KEY),
    "code points": " ".join(f"U+{ord(each):04X}" for each in KEY),
    "a list of numbers": str(list(KEY.encode())),
    "a list of hexadecimal numbers": ", ".join(map(hex, KEY.encode())),
}
INVISIBLE = "\u202e\u2066\u200b\u200f\ufeff\u00ad\u2028\u0085\u009b\x1b\u3164\ufe0f\u2800\U000e0041"
"""Directions, zero width, a soft hyphen, line ends, controls, fillers, a variation selector, a tag."""


def found(text: str) -> list[str]:
    """In which forms half of the key stands in a text."""
    low, bare = text.lower(), bared(text)
    return [
        name
        for name, form in REFLECTED.items()
        if form.lower() in low or (len(form) > 50 and form[8:40].lower() in low) or bared(form) in bare
    ]


def bared(text: str) -> str:
    """The letters and digits of a text."""
    return "".join(each for each in text.lower() if each.isalnum())


class _Reflecting(JsonAnswers, BaseHTTPRequestHandler):
    """An OpenAI-like server that answers a chat with an error that holds what its path names. Made up."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        _, name, path = urllib.parse.unquote(self.path).split("/", 2)
        said = REFLECTED.get(name, f"seen {INVISIBLE}text")
        if path == "v1/models":
            listed = {"object": "list", "data": [{"id": f"model {said}"[:120], "object": "model", "owned_by": said}]}
            self.send_json(200, listed)
        else:
            self.send_json(404, {"error": {"message": said}})

    def do_POST(self) -> None:
        self.read_body()
        name = urllib.parse.unquote(self.path).split("/", 2)[1]
        self.send_json(401, {"error": {"message": f"no such key: {REFLECTED.get(name, INVISIBLE + 'text')}"}})


@pytest.fixture(scope="module")
def reflecting() -> Iterator[int]:
    """The port of such a server."""
    with in_thread(ThreadingHTTPServer(("127.0.0.1", 0), _Reflecting)) as server:
        yield server.server_port


@contextmanager
def watching(folder: Path, port: int, names: list[str]) -> Iterator[RunningExporter]:
    """A daemon that has probed one target for each name, with the key."""
    key = folder / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    targets = [
        {
            "name": f"t{number}",
            "url": f"http://127.0.0.1:{port}/{urllib.parse.quote(name)}",
            "api_key_file": str(key),
            "modules": ["default"],
        }
        for number, name in enumerate(names)
    ]
    text = f"targets: {json.dumps(targets)}\nmodules: {{default: {{interval: 1s, max_tokens: 8}}}}\n"
    with running(configuration(folder, text)) as daemon:
        eventually(lambda: daemon.ask("/-/ready").status == 200, "a probe of every target")
        yield daemon


def shown_by(daemon: RunningExporter, count: int) -> dict[str, str]:
    """All that the daemon shows, by its path; the log too."""
    paths = ["/", "/?board", "/metrics", "/api/v1/status", "/api/v1/targets", "/api/v1/changes", "/-/ready"]
    for number in range(count):
        paths += [f"/api/v1/probes?target=t{number}", f"/probe?target=t{number}&debug=true"]
    return {path: daemon.ask(path).body for path in paths} | {"the log": daemon.said()}


def test_no_form_of_a_reflected_key_is_shown(tmp_path: Path, reflecting: int) -> None:
    """Servers that give the key back coded, in capitals or in halves: none of it stands on a page, in the API or in the log."""
    with watching(tmp_path, reflecting, list(REFLECTED)) as daemon:
        shown = shown_by(daemon, len(REFLECTED))
    assert (
        sum("…" in shown[f"/probe?target=t{number}&debug=true"] for number in range(len(REFLECTED)))
        >= len(REFLECTED) - 1
    )
    assert {path: found(text) for path, text in shown.items() if found(text)} == {}


@pytest.mark.parametrize("form", REFLECTED)
def test_each_form_is_hidden(form: str) -> None:
    """The text around the key stays, and nothing of the key does."""
    hidden = hide(f"before {REFLECTED[form]} after", KEY)
    assert hidden.startswith("before ")
    assert hidden.endswith(" after")
    assert "…" in hidden
    assert found(hidden) == []


def test_letters_that_show_nothing_are_cleaned(tmp_path: Path, reflecting: int) -> None:
    """What turns or hides text is gone from all that shows a server's text."""
    with watching(tmp_path, reflecting, ["invisible"]) as daemon:
        shown = shown_by(daemon, 1)
    assert "text" in shown["/probe?target=t0&debug=true"]
    for path, text in shown.items():
        assert [each for each in text if not is_visible(each) and each != "\n"] == [], path


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExporter]:
    """A daemon with nothing to probe."""
    with running(configuration(tmp_path_factory.mktemp("quiet"))) as daemon:
        yield daemon


SENT = "reflected\u202e<b>me</b>"


@pytest.mark.parametrize("method", ["GET", "POST", "BREW"])
@pytest.mark.parametrize(
    "path",
    [
        f"/{urllib.parse.quote(SENT)}",
        f"/static/{urllib.parse.quote(SENT)}",
        f"/api/v1/probes?target={urllib.parse.quote(SENT)}",
        f"/api/v1/changes?target={urllib.parse.quote(SENT)}",
        f"/api/v1/changes?since={urllib.parse.quote(SENT)}",
        f"/probe?target={urllib.parse.quote(SENT)}",
        f"/probe?target=a&module={urllib.parse.quote(SENT)}",
        f"/metrics?x={urllib.parse.quote(SENT)}",
        f"/-/reload?x={urllib.parse.quote(SENT)}",
    ],
)
def test_nothing_that_was_sent_comes_back(quiet: RunningExporter, path: str, method: str) -> None:
    """Neither a path, a query, a header nor a method stands in an answer or in its headers."""
    headers = {"X-Sent": "reflected", "Referer": "http://reflected", "User-Agent": "reflected"}
    answer = quiet.ask(path, method=method, headers=headers)
    assert "reflected" not in f"{answer.headers}{answer.body}"
    assert "BREW" not in answer.body


@pytest.mark.parametrize("path", ["/metrics/", "/api/v1/status/", "/-/healthy/", "/probe/", "//evil.example/%2e%2e"])
def test_a_slash_is_no_redirect(quiet: RunningExporter, path: str) -> None:
    """A path with a slash too many is not there; a redirect would repeat the Host header of the request."""
    answer = quiet.ask(path, headers={"Host": "reflected"})
    assert answer.status == 404
    assert "location" not in answer.headers.lower()


def reply_to(port: int, sent: bytes, pieces: int) -> bytes:
    """All that comes back to bytes that are sent in so many pieces, until the server closes."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client, suppress(ConnectionError):
        step = len(sent) // pieces + 1
        for at in range(0, len(sent), step):
            client.sendall(sent[at : at + step])
        while more := client.recv(4096):
            received += more
    return received


@pytest.mark.parametrize(("size", "fits"), [(HEADER_BYTES - 1, True), (HEADER_BYTES + 1, False), (60_000, False)])
@pytest.mark.parametrize("pieces", [1, 50])
def test_16_kib_of_headers_are_the_most(quiet: RunningExporter, size: int, pieces: int, *, fits: bool) -> None:
    """More is refused, whether it comes at once or in parts, on a new connection and behind another request."""
    start = b"GET /-/healthy HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    last = start + b"Connection: close\r\nX-A: "
    request = last + b"a" * (size - len(last) - 4) + b"\r\n\r\n"
    assert len(request) == size
    for before in (b"", start + b"\r\n"):
        answered = reply_to(quiet.port, before + request, pieces).count(b"HTTP/1.1 200")
        # One that is cut off may lose what had been sent to it.
        assert answered == bool(before) + 1 if fits else answered <= bool(before)
