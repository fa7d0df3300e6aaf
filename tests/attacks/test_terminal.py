"""What strangers wrote, at a terminal: nothing that a command prints moves a cursor, turns text or names another colour."""

import json
import logging
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from exporter.cli import main
from exporter.cli.log_lines import PersonLine
from exporter.text import is_visible
from tests.attacks.json_answers import JsonAnswers
from tests.cache.build import SMALL_GGUF
from tests.server_thread import in_thread

STRANGE = "x\x1b[2J\x1b]0;title\x07\x9b31m\u202e\u200b\u3164\x7f\rend"
"""It clears a screen, sets a title and a colour, turns what follows, and begins the line anew."""


class _Strange(JsonAnswers, BaseHTTPRequestHandler):
    """Answers every path with words that a terminal would obey: as a server of models, and as a daemon. Made up."""

    def do_GET(self) -> None:
        models = {"object": "list", "data": [{"id": f"model {STRANGE}", "object": "model", "owned_by": STRANGE}]}
        daemon = {
            "targets": [{"target": STRANGE, "verdict": STRANGE, "reason": STRANGE, "info": {"model": STRANGE}}],
            "verdicts": {STRANGE: 1},
            "changes": [],
            "accepted": [STRANGE],
        }
        self.send_json(200, models if self.path.endswith("/v1/models") else daemon, escaped=False)

    def do_POST(self) -> None:
        self.read_body()
        if self.path.startswith("/api/"):
            self.send_json(200, {"accepted": [STRANGE]}, escaped=False)
        else:
            self.send_json(400, {"error": {"message": STRANGE}}, escaped=False)


@pytest.fixture(scope="module")
def strange() -> Iterator[str]:
    """The URL of such a server."""
    with in_thread(ThreadingHTTPServer(("127.0.0.1", 0), _Strange)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def hidden_in(output: str) -> list[str]:
    """The characters of an output that show nothing, line ends left out."""
    return sorted({each for each in output if each != "\n" and not is_visible(each)})


def run(*arguments: str) -> str:
    """What a command prints, on both streams."""
    return CliRunner().invoke(main, list(arguments), env={"LLM_PROBE_CONFIG": ""}).output


@pytest.mark.parametrize("more", [(), ("--json",), ("--markdown",)])
def test_a_server_s_text(strange: str, more: tuple[str, ...]) -> None:
    """Its model's name and its error stand in what `probe` prints, and do nothing."""
    output = run("probe", strange, "--backend", "openai", *more)
    assert "end" in output
    assert hidden_in(output) == []


@pytest.mark.parametrize("command", ["status", "changes --accept", "changes", "healthcheck"])
def test_a_daemon_s_text(strange: str, command: str) -> None:
    """What answers in place of the daemon moves no cursor either."""
    output = run(*command.split(), "--url", strange)
    assert output
    assert hidden_in(output) == []


@pytest.mark.parametrize("more", [(), ("--json",), ("--verify",)])
def test_the_names_of_files(tmp_path: Path, more: tuple[str, ...]) -> None:
    """Folders, files and blobs of a cache whose names are such words."""
    if sys.platform != "linux":
        pytest.skip("other systems refuse such names")
    hub = tmp_path / "hub" / f"models--org--{STRANGE}"
    (hub / "blobs").mkdir(parents=True)
    (hub / "blobs" / ("a" * 64)).write_bytes(b"not what its name says")
    (hub / "snapshots" / ("b" * 40)).mkdir(parents=True)
    (hub / "snapshots" / ("b" * 40) / f"{STRANGE}.gguf").write_bytes(b"cut")
    files = tmp_path / "files"
    (files / STRANGE).mkdir(parents=True)
    (files / f"{STRANGE}.gguf").write_bytes(SMALL_GGUF)
    (files / STRANGE / "loop").symlink_to("loop")
    config = tmp_path / "config.yml"
    paths = [
        {"name": each.name, "kind": kind, "path": str(each)}
        for kind, each in (("huggingface", hub.parent), ("files", files))
    ]
    config.write_text(f"cache: {{paths: {json.dumps(paths)}}}\n")
    output = run("cache", "--config", str(config), *more)
    assert "end" in output
    assert hidden_in(output) == []


@pytest.mark.parametrize("color", [True, False])
def test_a_traceback_on_a_terminal(color: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """An exception that holds a server's words is shown by lines, and its words by numbers."""
    try:
        raise ValueError(STRANGE)  # noqa: TRY301 - its traceback is wanted
    except ValueError:
        record = logging.LogRecord("exporter.x", logging.INFO, "x.py", 1, "%s", (STRANGE,), sys.exc_info())
    shown = PersonLine(color=color).format(record)
    assert "Traceback" in shown
    assert hidden_in(shown) == []
