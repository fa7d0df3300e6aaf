"""Keys and passwords stay where they are: canaries are planted, and everything that leaves the process is searched."""

import base64
import html
import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import bcrypt
import pytest
from click.testing import CliRunner

from exporter.cli import main
from exporter.daemon import Daemon
from exporter.probe.result import Identity
from exporter.probe.secret import hide, without_key
from exporter.settings import SettingsError, load
from tests.ports import free_port
from tests.processes import running_process
from tests.server_thread import in_thread
from tests.waiting import eventually

# Made up for this test. The characters are those that JSON, HTML and URLs write in ways of their own.
KEY = "canary-K7/q&x+9aWd/3fH0sLm-api-key-of-a-server"
PASSWORD = "canary-P4 basic auth password"
IN_URL = "canary-U2-password-in-a-url"

ECHOES = ("models", "json", "html", "cut", "location", "header", "stream", "broken", "escaped")


class EchoHandler(BaseHTTPRequestHandler):
    """An OpenAI-like server that repeats the key that it was sent, in as many ways as there are paths. Made up."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._answer()

    def _answer(self) -> None:
        _, way, path = self.path.split("/", 2)
        sent = self.headers.get("authorization", "")
        key = sent.removeprefix("Bearer ")
        server = self.server
        assert isinstance(server, EchoServer)
        server.heard.append((way, sent))
        if path == "v1/models":
            name = f"model {key}" if way == "models" else "model"
            listed = {"object": "list", "data": [{"id": name, "object": "model", "owned_by": sent}]}
            self._send(200, json.dumps(listed), "application/json")
        elif path != "v1/chat/completions":
            self._send(404, sent, "text/plain")
        else:
            self._chat(way, sent, key)

    def _chat(self, way: str, sent: str, key: str) -> None:
        match way:
            case "json":
                self._send(401, json.dumps({"error": {"message": f"no such key: {key}"}}), "application/json")
            case "html":
                self._send(502, f"<html><h1>Bad gateway</h1><p>{html.escape(sent)}</p></html>", "text/html")
            case "cut":
                self._send(500, "x" * 160 + sent, "text/plain")
            case "location":
                self._send(307, "", "text/html", location=f"/login?token={urllib.parse.quote(key)}&raw={key}")
            case "header":
                self._send(200, "", f"text/{key}")
            case "stream" | "models":
                self._send(200, self._stream(key), "text/event-stream")
            case "broken":
                self._send(200, f"data: {{{sent}\n\n", "text/event-stream")
            case _:
                escaped = json.dumps({"error": key}).replace("/", "\\/")
                self._send(400, f"not JSON {escaped}", "text/plain")

    def _stream(self, key: str) -> str:
        words = [{"content": f"{key} "}, {"content": "more "}, {"content": "words"}]
        chunks = [{"model": key, "choices": [{"index": 0, "delta": each, "finish_reason": None}]} for each in words]
        chunks.append({"model": key, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        return "".join(f"data: {json.dumps(each)}\n\n" for each in chunks) + "data: [DONE]\n\n"

    def _send(self, status: int, body: str, kind: str, **headers: str) -> None:
        raw = body.encode()
        self.send_response(status, "Played")
        for name, value in {"content-type": kind, "content-length": str(len(raw)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class EchoServer(ThreadingHTTPServer):
    """What it heard: the path's way, and the Authorization header."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), EchoHandler)
        self.heard: list[tuple[str, str]] = []


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    """A running server that repeats keys."""
    with in_thread(EchoServer()) as server:
        yield server


def forms(secret: str) -> list[bytes]:
    """The ways in which a secret may be written, its first and its second half among them."""
    half = len(secret) // 2
    plain = [secret, secret[: half + 1], secret[half:]]
    written = [
        *plain,
        json.dumps(secret)[1:-1],
        secret.replace("/", "\\/"),
        html.escape(secret),
        urllib.parse.quote(secret),
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote_plus(secret),
        base64.b64encode(secret.encode()).decode(),
        secret.encode().hex(),
    ]
    return [each.encode() for each in written]


def leaks(shown: dict[str, bytes]) -> list[str]:
    """Where a canary is found, and which."""
    named = {"key": KEY, "password": PASSWORD, "login": f"prom:{PASSWORD}", "password in a URL": IN_URL}
    return [
        f"{name} in {where}"
        for where, content in shown.items()
        for name, secret in named.items()
        if any(form in content for form in forms(secret))
    ]


def test_the_search_finds_what_it_searches() -> None:
    """A canary is found in any of its forms, whole or half."""
    for form in forms(KEY):
        assert leaks({"here": b"text " + form + b" text"}) == ["key in here"]
    assert leaks({"here": b"nothing"}) == []


def fetch(url: str, *, password: str | None = PASSWORD, method: str = "GET", accept: str = "*/*") -> bytes:
    """An answer whole: its headers and its body, whatever its status."""
    headers = {"Accept": accept}
    if password is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"prom:{password}".encode()).decode()
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            content: bytes = bytes(answer.headers) + answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            content = bytes(refused.headers) + refused.read()
    return content


@contextmanager
def serving(folder: Path, echo: EchoServer) -> Iterator[tuple[str, subprocess.Popen[str], Path]]:
    """``serve`` as a process at its most talkative, with a target for each way of repeating a key."""
    key, web, config, log = (folder / name for name in ("key", "web.yml", "config.yml", "log"))
    key.write_text(f"{KEY}\n")
    web.write_text(f'basic_auth_users: {{prom: "{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}"}}\n')
    address = f"http://127.0.0.1:{echo.server_port}"
    settings = {
        "web_config_file": str(web),
        "discovery": {"local": False, "docker": False},
        "docker": {"enabled": False},
        "host": {"sysfs": str(folder), "rocm": str(folder)},
        "cache": {"paths": []},
        "modules": {"default": {"interval": "1s", "max_tokens": 8}},
        "targets": [
            {"name": way, "url": f"{address}/{way}", "api_key_file": str(key), "modules": ["default"]} for way in ECHOES
        ],
        "probe_endpoint": {"allow": [address]},
    }
    config.write_text(json.dumps(settings))
    listen = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "exporter", "serve", "--log-level", "debug"]
    arguments = ["--config", str(config), "--listen", listen]
    with log.open("wb") as said, running_process([*command, *arguments], stdout=said, stderr=said) as process:
        yield f"http://{listen}", process, log


def processes(pid: int) -> dict[str, bytes]:
    """What other users may see of a process and of its children: their arguments and environments."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {
        f"/proc/{each}/{name}": Path(f"/proc/{each}/{name}").read_bytes()
        for each in (str(pid), *children)
        for name in ("cmdline", "environ")
    }


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system has no /proc")
def test_no_secret_leaves_the_daemon(tmp_path: Path, echo: EchoServer) -> None:
    """With servers that repeat the key in every way, nothing that the daemon serves, logs or shows of itself holds it."""
    with serving(tmp_path, echo) as (url, process, log):
        eventually(lambda: b"Every target was probed" in fetch(f"{url}/-/ready"), "a probe of every target")
        shown = {
            path: fetch(f"{url}{path}")
            for path in (
                *("/", "/metrics", "/api/v1/status", "/api/v1/targets", "/-/healthy", "/-/ready", "/static/status.js"),
                *(f"/api/v1/probes?target={way}" for way in ECHOES),
                *(f"/probe?target={way}&debug=true" for way in ECHOES),
                f"/probe?target=http://127.0.0.1:{echo.server_port}&debug=true",
                f"/probe?target=http://user:{IN_URL}@127.0.0.1:1",
                f"/probe?target=user:{IN_URL}@127.0.0.1:1",
                f"/probe?target={urllib.parse.quote(f'http://127.0.0.1:1/?key={IN_URL}')}",
            )
        }
        shown["OpenMetrics"] = fetch(f"{url}/metrics", accept="application/openmetrics-text")
        shown["a refusal"] = fetch(f"{url}/metrics", password=None)
        shown["another refusal"] = fetch(f"{url}/metrics", password=PASSWORD + "!")
        shown["a reload"] = fetch(f"{url}/-/reload", method="POST")
        shown |= processes(process.pid)
    shown["the log"] = log.read_bytes()
    heard = set(echo.heard)
    assert {(way, f"Bearer {KEY}") for way in ECHOES} <= heard, "the servers never heard the key, so they repeated none"
    status = json.loads(shown["/api/v1/status"].partition(b"\n\n")[2])
    assert len(status["targets"]) == len(ECHOES)
    for way in set(ECHOES) - {"stream", "models", "location", "header"}:
        assert "…".encode() in shown[f"/probe?target={way}&debug=true"], f"{way} shows no trace of what was hidden"
    assert leaks(shown) == []


@pytest.mark.parametrize("way", ECHOES)
def test_no_secret_leaves_a_probe_by_hand(tmp_path: Path, echo: EchoServer, way: str) -> None:
    """What `probe` prints for people and for scripts holds no key, whatever the server repeats."""
    key = tmp_path / "key"
    key.write_text(KEY)
    url = f"http://127.0.0.1:{echo.server_port}/{way}"
    done = CliRunner().invoke(main, ["probe", url, "--api-key-file", str(key), "--json"], env={"LLM_PROBE_CONFIG": ""})
    assert (way, f"Bearer {KEY}") in echo.heard
    assert json.loads(done.stdout)["url"] == url
    assert leaks({"what it prints": done.output.encode()}) == []


def test_a_key_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    """Written into the configuration, into a URL, or where its file should be named, it is refused and not shown."""
    config = tmp_path / "config.yml"
    target = {"url": f"http://user:{IN_URL}@127.0.0.1:1", "api_key": KEY, "api_key_file": KEY}
    config.write_text(json.dumps({"targets": [target, {"url": f"http://127.0.0.1:1/?key={KEY}"}], "api_key": KEY}))
    checked = CliRunner().invoke(main, ["check-config", str(config)])
    assert checked.exit_code == 2
    assert "targets[0].url" in checked.output
    with pytest.raises(SettingsError) as refused:
        Daemon(lambda: load(config, {}))
    said = f"{checked.output}\n{refused.value}\n{refused.value!r}"
    assert leaks({"what it prints": said.encode()}) == []


@pytest.mark.parametrize("text", ["a {} b", "{}", '"{}"', "x{}{}"])
def test_hiding(text: str) -> None:
    """Every form of a key, and what is left of one that was cut, is hidden; the rest of the text stays."""
    for form in (KEY, json.dumps(KEY)[1:-1], KEY.replace("/", "\\/"), html.escape(KEY), urllib.parse.quote(KEY)):
        assert hide(text.format(form, form), KEY) == text.format("…", "…")
    assert hide(f"said: {KEY[:30]}", KEY) == "said: …"


@pytest.mark.parametrize("key", ["", "x", "abc"])
def test_a_key_that_is_none_hides_nothing(key: str) -> None:
    """No key, or one of a letter, doesn't make holes in what is published."""
    assert hide("axe abc", key) == "axe abc"


def test_names_keep_all_but_the_key() -> None:
    """A record's texts are without it; what is no text, and what the key isn't in, stays."""
    identity = Identity("vllm", backend_version=f"1 {KEY}", model="qwen", parameters=7)
    assert without_key(identity, KEY) == Identity("vllm", backend_version="1 …", model="qwen", parameters=7)
