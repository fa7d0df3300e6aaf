"""The command line: helps, exit codes, what goes to stdout and what to stderr, against servers on real sockets."""

import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exporter import __version__, discovery
from exporter.cli import main
from exporter.cli.log_lines import LogLine, PersonLine
from exporter.demo import SimulatedServers, Simulation
from exporter.oneshot import Session
from tests.processes import SECONDS, Terminal, running_process
from tests.server_thread import in_thread
from tests.waiting import eventually

FAST = Simulation("fast", "simulated-14b", 100.0, 0.02, "", wavers=0.0)
COMMANDS = {
    "serve": ["--config", "--listen"],
    "demo": ["--listen"],
    "probe": [
        "URL",
        "--backend",
        "--model",
        "--count",
        "--module",
        "--api-key-file",
        "--min-tier",
        "--markdown",
        "--json",
    ],
    "status": ["--url", "--user", "--password-file", "--cacert", "--cert", "--key", "--json"],
    "top": ["--url", "--user", "--password-file", "--cacert"],
    "compare": ["BASELINE CANDIDATE", "--anyway", "--json"],
    "discover": ["--json"],
    "machine": ["--json", "--markdown"],
    "changes": ["--url", "--user", "--target", "--since", "--accept", "--json"],
    "cache": ["--json", "--verify"],
    "check-config": ["FILE"],
    "healthcheck": ["--url"],
}


def run(*arguments: str | Path, **environ: str) -> Result:
    """A command as a user calls it, without a container engine and with nothing else of this machine's environment."""
    clean = {name: None for name in os.environ if name.startswith("LLM_PROBE_")}
    environment = {**clean, "LLM_PROBE_DOCKER__ENABLED": "false", **environ}
    return CliRunner().invoke(
        main, [str(argument) for argument in arguments], env=environment, prog_name="llm-probe-exporter"
    )


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A command that runs within the test takes signals over; afterwards they are the tests' own again."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a simulated server that is quick."""
    with SimulatedServers((FAST,)) as servers:
        yield servers.urls[0][1]


@pytest.fixture
def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class FixedAnswers(BaseHTTPRequestHandler):
    """Answers every GET as it is told; no inference server."""

    status, body = 200, b"fine"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def answering() -> Iterator[ThreadingHTTPServer]:
    """A web server whose handler's ``status`` and ``body`` can be set."""
    handler = type("Told", (FixedAnswers,), {})
    with in_thread(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield server


def address(server: ThreadingHTTPServer) -> str:
    """Where it answers."""
    return f"http://127.0.0.1:{server.server_address[1]}"


# Help and versions


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_documented_argument(command: str) -> None:
    """A user needs no manual."""
    result = run(command, "--help")
    assert result.exit_code == 0
    assert [word for word in COMMANDS[command] if word not in result.output] == []


def test_the_main_help_lists_every_command_whole() -> None:
    """Each command's line says what it does."""
    lines = run("--help").output.splitlines()
    listed = {match[1]: match[2] for line in lines if (match := re.fullmatch(r"  ([a-z-]+)  +(.+)", line))}
    assert set(COMMANDS) == {name for name in listed if not name.startswith("-")}
    assert not [text for name, text in listed.items() if name in COMMANDS and text.endswith("...")]


def test_the_module_is_the_command() -> None:
    """``python -m exporter`` is the same command under the same name."""
    done = subprocess.run([sys.executable, "-m", "exporter", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"llm-probe-exporter, version {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["healthcheck", "--url", "http://127.0.0.1:9"]])
def test_quick_commands_import_nothing_heavy(arguments: list[str]) -> None:
    """A container's health check runs every few seconds: it must not load the whole daemon."""
    code = (
        "import sys\nfrom exporter.cli import main\n"
        f"main({arguments!r}, standalone_mode=False) if {arguments[0] != 'healthcheck'} else None\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "print(sorted({'pydantic', 'httpx', 'rich', 'uvicorn', 'apscheduler', 'docker', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments", [["prob"], ["probe"], ["probe", "a", "b"], ["serve", "--conf", "x"], ["probe", "x", "--count", "0"]]
)
def test_a_wrong_call_exits_with_2(arguments: list[str]) -> None:
    """Misspelt commands, missing and surplus arguments, numbers out of range."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


# probe


def test_probe_prints_what_it_measured(url: str) -> None:
    """Speed, TTFT, tokens, tier and what the server is, in words."""
    result = run("probe", url)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0] == f"{url}: Simulator, simulated-14b"
    assert re.search(r"^speed +[\d,.]+ tok/s$", result.stdout, re.MULTILINE)
    assert re.search(r"^tier +excellent$", result.stdout, re.MULTILINE)
    assert re.search(r"^tokens +\d+ prompt, 64 output$", result.stdout, re.MULTILINE)
    assert result.stderr == ""


def test_probe_json_is_one_object(url: str) -> None:
    """Nothing but the object is on stdout, and its figures agree with each other."""
    result = run("probe", url, "--json")
    report = json.loads(result.stdout)
    assert (report["success"], report["result"], report["backend"], report["module"]) == (
        True,
        "ok",
        "simulator",
        "default",
    )
    assert report["tokens"]["output"] == 64
    assert report["phase_seconds"]["decode"] == pytest.approx(63 / report["tokens_per_second"], rel=0.2)
    assert "runs" not in report


def test_probe_count_gives_medians_and_all_runs(url: str) -> None:
    """Three runs: the middle one is the figure."""
    report = json.loads(run("probe", url, "--count", "3", "--json").stdout)
    speeds = [each["tokens_per_second"] for each in report["runs"]]
    assert report["tokens_per_second"] == sorted(speeds)[1]
    assert report["spread"]["tokens_per_second"] == {"min": min(speeds), "max": max(speeds)}


def test_probe_takes_its_module_from_the_configuration(url: str, tmp_path: Path) -> None:
    """A module that only the user's file has."""
    config = tmp_path / "c.yml"
    config.write_text("modules: {tiny: {max_tokens: 12}}\n", encoding="utf-8")
    report = json.loads(run("probe", url, "--config", config, "--module", "tiny", "--json").stdout)
    assert report["tokens"]["output"] == 12
    assert run("probe", url, LLM_PROBE_CONFIG=str(config)).exit_code == 0


def test_probe_fails_below_a_wanted_tier(url: str, tmp_path: Path) -> None:
    """Fast by the shipped tiers, poor by those of the configuration for this very server."""
    assert run("probe", url, "--min-tier", "excellent").exit_code == 0
    config = tmp_path / "c.yml"
    config.write_text(
        f"targets: [{{url: '{url}', tiers: {{excellent: 4000, good: 3000, acceptable: 2000}}}}]\n", encoding="utf-8"
    )
    result = run("probe", url, "--min-tier", "acceptable", "--config", config)
    assert (result.exit_code, result.stderr) == (1, "the tier is poor: below acceptable\n")


def test_probe_of_nothing_says_so(closed_port: int) -> None:
    """Exit code 1, the result and its reason on stderr, no figure on stdout."""
    result = run("probe", f"http://127.0.0.1:{closed_port}")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"http://127.0.0.1:{closed_port}\n")
    assert "tok/s" not in result.stdout
    assert result.stderr.startswith("connect: ")
    report = json.loads(run("probe", f"http://127.0.0.1:{closed_port}", "--json").stdout)
    assert (report["success"], report["result"], report["tokens_per_second"]) == (False, "connect", None)


def test_probe_of_something_else_says_so(answering: ThreadingHTTPServer) -> None:
    """A web server that is no inference server is a failed probe, not a crash."""
    result = run("probe", address(answering))
    assert result.exit_code == 1
    assert result.stderr.startswith("protocol: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["somewhere"], "url: has no scheme: write http:// or https:// before it"),
        (["http://a/v1/chat/completions"], "url: ends in /v1/chat/completions, the path of a request"),
        (["http://u:hunter2@a"], "url: has a user name or password in it"),
        (["http://a", "--backend", "vlm"], ": did you mean vllm?"),
        (
            ["http://a", "--module", "defualt"],
            "--module: there is no module 'defualt' (known: default, prefill, parallel, canary)",
        ),
        (["http://a", "--api-key-file", "/nowhere"], "api_key_file: there is no such file"),
        (["http://a", "--config", "/nowhere.yml"], "/nowhere.yml: there is no such file"),
    ],
)
def test_probe_of_a_wrong_call_names_what_is_wrong(arguments: list[str], message: str) -> None:
    """Exit code 2 before anything is sent, and never a password in the message."""
    result = run("probe", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "hunter2" not in result.stderr


def test_interrupting_a_probe_ends_it_at_once() -> None:
    """Ctrl-C while a server is silent: no traceback, the usual exit code, and the connection is closed."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        command = [sys.executable, "-m", "exporter", "probe", f"http://127.0.0.1:{silent.getsockname()[1]}"]
        environ = {**os.environ, "LLM_PROBE_DOCKER__ENABLED": "false"}
        with running_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
            connection, _ = silent.accept()
            with connection:
                connection.settimeout(30)
                process.send_signal(signal.SIGINT)
                stdout, stderr = process.communicate(timeout=10)
                while connection.recv(65536):  # ends: the other side has hung up
                    pass
    assert (process.returncode, stdout, stderr) == (130, "", "")


def test_interrupting_a_series_keeps_what_was_measured(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C before the third probe of many: the report of the two that were done, how many they are, and the usual exit code."""

    @contextlib.contextmanager
    def progress(_: int) -> Iterator[Callable[[int, str], None]]:
        yield lambda done, _: signal.raise_signal(signal.SIGINT) if done == 2 else None

    monkeypatch.setattr("exporter.cli.measuring.probes_progress", progress)
    result = run("probe", url, "--count", "1000", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 130
    assert len(report["runs"]) == 2
    assert report["tokens_per_second"] > 0
    assert result.stderr == "interrupted: this is what 2 of 1,000 probes measured\n"


def test_probe_takes_a_target_by_its_name(url: str, tmp_path: Path) -> None:
    """The configured server, with its own settings; a name that no target has is a wrong call that lists them."""
    config = tmp_path / "c.yml"
    config.write_text(f"targets: [{{name: mine, url: '{url}', model: simulated-14b}}]\n", encoding="utf-8")
    named = run("probe", "mine", "--config", config, "--json")
    assert named.exit_code == 0, named.stderr
    assert json.loads(named.stdout)["url"] == url
    wrong = run("probe", "mien", "--config", config)
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "no target is named 'mien', and it is no URL (targets: mine)" in wrong.stderr
    judged = run("compare", "mine", save(tmp_path / "old.json", 6.4, 6.4, 6.5, 6.5), "--count", "3", "--config", config)
    assert re.search(r"^candidate +6\.5 tok/s", judged.stdout, re.MULTILINE), judged.stderr


# status and top


def test_status_says_what_the_daemon_says(answering: ThreadingHTTPServer, closed_port: int) -> None:
    """A table with exit code 1 where a server is down, 0 where none is; nobody there, or somebody else, is an error with a reason."""
    told = {"targets": [{"target": "a", "verdict": "down", "reason": "refused", "probes": []}], "verdicts": {"down": 1}}
    answering.RequestHandlerClass.body = json.dumps(told).encode()  # type: ignore[attr-defined]
    result = run("status", "--url", address(answering))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == "1 target: 1 down"
    assert re.search(r"^a +down +– +– +– +– +Refused$", result.stdout, re.MULTILINE)
    assert json.loads(run("status", "--url", address(answering), "--json").stdout) == told
    answering.RequestHandlerClass.body = b'{"targets": [], "verdicts": {}}'  # type: ignore[attr-defined]
    assert run("status", "--url", address(answering)).exit_code == 0
    answering.RequestHandlerClass.body = b"[]"  # type: ignore[attr-defined]
    assert "not that of an exporter" in run("status", "--url", address(answering)).stderr
    gone = run("status", LLM_PROBE_LISTEN=f"127.0.0.1:{closed_port}")
    assert (gone.exit_code, gone.stdout) == (1, "")
    assert "Connection refused; check that `llm-probe-exporter serve` runs" in gone.stderr


def test_top_needs_a_terminal() -> None:
    """In a pipe it is a wrong call that names the command to use."""
    result = run("top", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert "use `status` without one" in result.stderr


# compare


def save(path: Path, *speeds: float, **more: Any) -> Path:
    """A file as ``probe --count N --json`` saves it."""
    runs = [{"tokens_per_second": speed} for speed in speeds]
    report = {"success": True, "tokens_per_second": sorted(speeds)[len(speeds) // 2], "runs": runs, **more}
    path.write_text(json.dumps(report), encoding="utf-8")
    return path


def test_compare_of_saved_files(tmp_path: Path) -> None:
    """The FAQ's before and after in one command."""
    before = save(tmp_path / "before.json", 6.3, 6.4, 6.4, 6.5, 6.6)
    after = save(tmp_path / "after.json", 16.0, 16.1, 16.2, 16.3, 16.4)
    result = run("compare", before, after)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"^ratio +2\.53×$", result.stdout, re.MULTILINE)
    assert re.search(r"^verdict +good: worth the change$", result.stdout, re.MULTILINE)
    judged = json.loads(run("compare", before, after, "--json").stdout)
    assert set(judged) == {
        *("baseline", "candidate", "ratio", "noise", "verdict"),
        *("ttft_ratio", "differences", "unequal", "notes"),
    }
    assert (judged["verdict"], judged["noise"]["beyond"], judged["candidate"]["tier"]) == ("good", True, "good")
    assert run("compare", after, before).exit_code == 1


def test_compare_refuses_unequal_things(tmp_path: Path) -> None:
    """Another model is no comparison, unless a person wants it; too few runs are no success."""
    before = save(tmp_path / "before.json", 6.3, 6.4, 6.4, 6.5, 6.6, model="a")
    after = save(tmp_path / "after.json", 16.0, 16.1, 16.2, 16.3, 16.4, model="b")
    refused = run("compare", before, after)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "not compared: the model differs: a and b" in refused.stderr
    assert run("compare", before, after, "--anyway").exit_code == 0
    single = run("compare", save(tmp_path / "one.json", 6.4), save(tmp_path / "other.json", 25.0))
    assert single.exit_code == 1
    assert "too few runs to tell" in single.stdout
    assert "success" not in single.stdout


def test_compare_probes_urls(url: str, tmp_path: Path) -> None:
    """A saved baseline against a running server."""
    result = run("compare", save(tmp_path / "before.json", 6.4, 6.4, 6.5, 6.5), url, "--count", "4", "--json")
    assert result.exit_code == 0, result.stderr
    judged = json.loads(result.stdout)
    assert (judged["candidate"]["name"], len(judged["candidate"]["runs"]), judged["verdict"]) == (url, 4, "excellent")


def test_compare_probes_two_urls_in_turns(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What disturbs one side for a while disturbs the other; a server that is as fast as itself is no change."""
    monkeypatch.setenv("LLM_PROBE_DOCKER__ENABLED", "false")
    with SimulatedServers((FAST,)) as servers:
        other, probed = servers.urls[0][1], list[str]()
        session = Session(None, "default")
        session.measure([session.target(url), session.target(other)], 3, lambda _, what: probed.append(what))
        assert probed == [url, other] * 3
        # Two more than are needed: on a machine that is busy an answer may come in one burst, and then has no speed.
        result = run("compare", url, other, "--count", "5")
        assert result.exit_code == 1, result.stderr
        assert "no change: the difference is within the noise" in result.stdout


@pytest.mark.parametrize(
    ("content", "message", "code"),
    [
        ("", "is not a file saved from `probe --json`", 2),
        ("[" * 100_000, "is not a file saved from `probe --json`", 2),
        ("[1]", "it has no tokens_per_second", 2),
        ('{"success": true}', "it has no tokens_per_second", 2),
        ('{"success": false, "error": "refused", "tokens_per_second": null}', "has no speed to compare: refused", 1),
        ('{"success": true, "tokens_per_second": NaN}', "has no speed to compare", 1),
    ],
)
def test_compare_of_a_file_that_is_no_report(tmp_path: Path, content: str, message: str, code: int) -> None:
    """What the file lacks, with its name."""
    bad, good = tmp_path / "bad.json", save(tmp_path / "good.json", 6.4)
    bad.write_text(content, encoding="utf-8")
    result = run("compare", good, bad)
    assert result.exit_code == code
    assert message in result.stderr.replace("\n", " ")
    assert "bad.json" in result.stderr


def test_compare_with_neither_a_url_nor_a_file(tmp_path: Path) -> None:
    """A word that is none of both is a wrong call."""
    result = run("compare", save(tmp_path / "a.json", 6.4), "somewhere")
    assert result.exit_code == 2
    assert "neither a URL" in result.stderr


# discover


def test_discover_says_what_and_why(
    url: str, answering: ThreadingHTTPServer, closed_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An inference server, a web server and a silent port: one would be probed, and each has its reason."""
    nothing = str(tmp_path)  # of the processes of this machine
    ports = [int(each.rpartition(":")[2]) for each in (url, address(answering))]
    monkeypatch.setattr(discovery, "LOCAL_PORTS", (*ports, closed_port))
    found = json.loads(run("discover", "--json", LLM_PROBE_HOST__PROC=nothing).stdout)
    assert [(each["url"], each["backend"]) for each in found["found"]] == [(url, "simulator")]
    assert {each["url"]: each["listening"] for each in found["not_probed"]} == {
        address(answering): True,
        f"http://127.0.0.1:{closed_port}": False,
    }
    assert all(each["why_not"] for each in found["not_probed"] if each["listening"])
    result = run("discover", LLM_PROBE_HOST__PROC=nothing)
    assert result.exit_code == 0
    assert re.search(rf"^would be probed +{re.escape(url)}  Simulator", result.stdout, re.MULTILINE)
    assert "containers were not read: " in result.stderr


# cache


def test_cache_shows_and_verifies_a_folder(tmp_path: Path) -> None:
    """Models with their sizes; a blob whose content is not what its name says is named, and the exit code is 1."""
    hub = tmp_path / "hub"
    good = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # SHA-256 of "hello"
    blobs, snapshot = hub / "models--org--name" / "blobs", hub / "models--org--name" / "snapshots" / "x"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / good).write_text("hello", encoding="utf-8")
    (snapshot / "config.json").symlink_to(blobs / good)
    config = tmp_path / "c.yml"
    config.write_text("cache: {paths: [{name: mine, kind: huggingface, path: hub}]}\n", encoding="utf-8")
    listed = json.loads(run("cache", "--config", config, "--json").stdout)
    assert [(each["name"], each["bytes"]) for each in listed["caches"]] == [("mine", 5)]
    assert [each["name"] for each in listed["caches"][0]["models"]] == ["org/name"]
    assert run("cache", "--config", config, "--verify").exit_code == 0
    (blobs / good).write_text("hallo", encoding="utf-8")
    result = run("cache", "--config", config, "--verify")
    assert result.exit_code == 1
    assert re.search(r"^mine +org/name +5 B", result.stdout, re.MULTILINE)
    assert f"corrupt: {blobs / good}: " in result.stdout
    checked = json.loads(run("cache", "--config", config, "--verify", "--json").stdout)
    assert [each["model"] for each in checked["verified"]["bad"]] == ["org/name"]


def test_cache_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """A configured cache that can't be read is an error with its path."""
    config = tmp_path / "c.yml"
    config.write_text("cache: {paths: [{name: mine, kind: files, path: nowhere}]}\n", encoding="utf-8")
    result = run("cache", "--config", config)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].startswith("mine ")
    assert json.loads(run("cache", "--config", config, "--json").stdout)["caches"][0]["error"]


# check-config, healthcheck, serve


def test_check_config(tmp_path: Path) -> None:
    """A right file is said to be right; a wrong one gives all its errors and exit code 2; the environment counts."""
    config = tmp_path / "c.yml"
    config.write_text("targets: [{url: http://127.0.0.1:8000}]\n", encoding="utf-8")
    assert (
        run("check-config", config).stdout
        == f"{config} is valid: 1 target, modules default, prefill, parallel, canary\n"
    )
    config.write_text("lisen: 1\ncache: {interval: 5}\n", encoding="utf-8")
    result = run("check-config", config, LLM_PROBE_LISTN="x")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        f"{config}:1: lisen: unknown key: did you mean listen?",
        f"{config}:2: cache.interval: has no unit: write it like 500ms, 60s, 5m or 1h30m",
        "LLM_PROBE_LISTN: is not a setting: did you mean LLM_PROBE_LISTEN?",
    ]
    assert run("check-config", tmp_path / "none.yml").exit_code == 2


def test_healthcheck_asks_the_daemon(answering: ThreadingHTTPServer, closed_port: int, tmp_path: Path) -> None:
    """0 where it says that it is well, 1 where it says that it is not, or says nothing; no proxy in between."""
    result = run("healthcheck", "--url", address(answering), http_proxy=f"http://127.0.0.1:{closed_port}")
    assert (result.exit_code, result.stdout) == (0, "fine\n")
    host_port = address(answering).removeprefix("http://")
    assert run("healthcheck", LLM_PROBE_LISTEN=host_port).exit_code == 0
    assert run("healthcheck", LLM_PROBE_LISTEN=f"0.0.0.0:{host_port.rpartition(':')[2]}").exit_code == 0
    config = tmp_path / "c.yml"
    config.write_text(f"listen: {host_port}\n", encoding="utf-8")
    assert run("healthcheck", LLM_PROBE_CONFIG=str(config)).exit_code == 0
    answering.RequestHandlerClass.status, answering.RequestHandlerClass.body = 503, b"the scheduler hangs"  # type: ignore[attr-defined]
    sick = run("healthcheck", "--url", address(answering))
    assert (sick.exit_code, sick.stdout) == (1, "")
    assert "503 the scheduler hangs" in sick.stderr
    gone = run("healthcheck", "--url", f"http://127.0.0.1:{closed_port}")
    assert gone.exit_code == 1
    assert "Connection refused" in gone.stderr
    assert run("healthcheck", "--url", "file:///etc").exit_code == 2


def test_serve_with_a_wrong_configuration_does_not_start(tmp_path: Path) -> None:
    """All errors, exit code 2."""
    config = tmp_path / "c.yml"
    config.write_text("lisen: 1\ntargets: [{url: a}]\n", encoding="utf-8")
    result = run("serve", "--config", config)
    assert result.exit_code == 2
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == ["lisen", "targets[0].url"]
    assert run("serve", "--listen", "nonsense").exit_code == 2


def test_serve_on_a_port_in_use_says_so(answering: ThreadingHTTPServer) -> None:
    """The port is asked for before anything starts."""
    result = run("serve", "--listen", address(answering).removeprefix("http://"), LLM_PROBE_DISCOVERY__LOCAL="false")
    assert result.exit_code == 1
    assert "in use" in result.stderr


def test_serve_starts_and_stops(closed_port: int) -> None:
    """The daemon is well within seconds, logs one line for each thing, and SIGTERM ends it with 0."""
    listen = f"127.0.0.1:{closed_port}"
    environ = {
        **os.environ,
        "LLM_PROBE_DISCOVERY": "{local: false, docker: false}",
        "LLM_PROBE_DOCKER__ENABLED": "false",
    }
    command = [sys.executable, "-m", "exporter", "serve", "--listen", listen]
    with running_process(command, stderr=subprocess.PIPE, env=environ) as process:
        eventually(
            lambda: run("healthcheck", "--url", f"http://{listen}").exit_code == 0, "a health check that is fine"
        )
        assert process.stderr is not None
        stderr = process.stderr.readline()  # it answers a moment before it has said where
        process.send_signal(signal.SIGTERM)
        stderr += process.communicate(timeout=SECONDS)[1]
        assert process.returncode == 0
    assert stderr
    assert [
        line for line in stderr.splitlines() if not re.fullmatch(r'ts=\S+Z level=info component=\S+ msg=".*"', line)
    ] == []


# Output


def test_a_log_record_is_one_line() -> None:
    """Text of a server with line breaks can't forge a line of the log; a traceback is within its line."""
    error = RuntimeError("broken\nin two")
    told = (RuntimeError, error, None)
    record = logging.LogRecord("exporter.probe.run", logging.ERROR, __file__, 1, "it said %s", ("a\nb",), told)
    line = LogLine().format(record)
    assert len(line.splitlines()) == 1
    assert re.match(
        r'ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=error component=probe\.run msg="it said a\\nb\\nRuntimeError: broken',
        line,
    )


def test_a_person_at_a_terminal_reads_a_short_line() -> None:
    """Time, component and text; the level where it is no information; control characters of a server escaped."""
    info = logging.LogRecord("exporter.targets", logging.INFO, __file__, 1, "probe of %s: ok", ("a",), None)
    bad = logging.LogRecord("exporter.web.auth", logging.WARNING, __file__, 1, "said %s", ("a\x1b[2J\nb",), None)
    assert re.fullmatch(r"\d\d:\d\d:\d\d targets: probe of a: ok", PersonLine(color=True).format(info))
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d web\.auth: warning: said a\\u001b\[2J\\nb", PersonLine(color=False).format(bad)
    )
    assert PersonLine(color=True).format(bad).startswith("\x1b[33m")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["compare", "a.json", "b.json", "--json"], ["--help"], ["discover", "--json"]])
def test_a_full_disk_is_an_error_with_a_sentence(tmp_path: Path, arguments: list[str]) -> None:
    """Output that can't be written ends with exit code 1 and one line, not with a traceback."""
    save(tmp_path / "a.json", 6.3, 6.4, 6.4, 6.5, 6.6)
    save(tmp_path / "b.json", 16.0, 16.1, 16.2, 16.3, 16.4)
    environ = {**os.environ, "LLM_PROBE_DOCKER__ENABLED": "false"}
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "exporter", *arguments]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environ, check=False
        )
    assert (done.returncode, done.stderr) == (1, "the output can't be written: No space left on device\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered_to_each_shell(shell: str) -> None:
    """What the documentation says to evaluate is a script that asks the command for its words."""
    environ = {**os.environ, "_LLM_PROBE_EXPORTER_COMPLETE": f"{shell}_source"}
    program = Path(sys.executable).with_name("llm-probe-exporter")
    done = subprocess.run([program], capture_output=True, text=True, env=environ, check=True)
    assert f"_LLM_PROBE_EXPORTER_COMPLETE={shell}_complete" in done.stdout
    asked = {**os.environ, "COMP_WORDS": "llm-probe-exporter sta", "COMP_CWORD": "1"}
    words = subprocess.run(
        [program],
        capture_output=True,
        text=True,
        env={**asked, "_LLM_PROBE_EXPORTER_COMPLETE": "bash_complete"},
        check=True,
    )
    assert words.stdout == "plain,status\n"


def terminal_output(arguments: list[str], **environ: str) -> str:
    """What a command writes to a terminal of 80 columns."""
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", **environ}
    environment.pop("NO_COLOR", None) if "NO_COLOR" not in environ else None
    with Terminal([sys.executable, "-m", "exporter", *arguments], environment) as terminal:
        return terminal.rest().decode()


def test_colour_only_on_a_terminal_that_wants_it(tmp_path: Path) -> None:
    """A terminal gets colour, one with NO_COLOR none, a pipe no control sequence at all."""
    before = save(tmp_path / "before.json", 6.3, 6.4, 6.4, 6.5, 6.6)
    after = save(tmp_path / "after.json", 16.0, 16.1, 16.2, 16.3, 16.4)
    arguments = ["compare", str(before), str(after)]
    colour = re.compile(r"\x1b\[[\d;]*3\d[\d;]*m")
    assert colour.search(terminal_output(arguments))
    assert not colour.search(terminal_output(arguments, NO_COLOR="1"))
    assert "\x1b" not in run(*arguments).output


def test_a_pipe_that_closes_ends_quietly(tmp_path: Path) -> None:
    """``| head -1`` is no reason for a traceback."""
    report = save(tmp_path / "a.json", *([6.4] * 5), noise="x" * 300_000)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "exporter", "compare", str(report), str(report), "--json"]
    with running_process(command, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        _, stderr = process.communicate(timeout=SECONDS)
    assert (process.returncode, stderr) == (1, "")
