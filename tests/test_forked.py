"""A forked command is the one that the interpreter starts: the same metrics, log, exit codes and signals."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.attacks.running import arguments, command, configuration
from tests.forked import ROOT, ForkServer, ForkServerError, fork, forked_process
from tests.ports import free_port
from tests.processes import SECONDS, Process, running_process
from tests.real.daemon import scrape, value
from tests.test_imports import NOT_LOADED
from tests.waiting import eventually

WAYS: Final = ("forked", "started")


@dataclass(frozen=True, slots=True)
class Seen:
    """What is seen of a daemon from outside: series, each with its labels, the log without times and ports, its exit code."""

    series: frozenset[tuple[str, frozenset[tuple[str, str]]]]
    log: list[str]
    code: int


@contextmanager
def daemon(way: str, config: Path, port: int, log: Path) -> Iterator[Process]:
    """A daemon by one of the two ways."""
    with log.open("wb") as file:
        listen_on = f"127.0.0.1:{port}"
        start = (
            forked_process(arguments(config, listen_on), stderr=file)
            if way == "forked"
            else running_process(command(config, listen_on), stderr=file)
        )
        with start as process:
            yield process


def seen(way: str, folder: Path) -> Seen:
    """A daemon with a target that nobody answers for, until SIGTERM ends it."""
    port, log = free_port(), folder / f"{way}.log"
    text = 'targets: [{name: a, url: "http://127.0.0.1:1"}]\n'
    with daemon(way, configuration(folder, text), port, log) as process:
        eventually(lambda: b"probe of a" in log.read_bytes() or None, "a probe")
        samples = eventually(lambda: scrape(port), "a scrape")
        process.terminate()
        code = process.wait(SECONDS)
    lines = [re.sub(r"ts=\S+Z ", "", line) for line in log.read_text().replace(str(port), "PORT").splitlines()]
    return Seen(frozenset(samples), lines, code)


def test_both_ways_give_the_same_daemon(tmp_path: Path) -> None:
    """The same series with the same labels, the same log line for line, and exit code 0 at SIGTERM."""
    forked, started = (seen(way, tmp_path) for way in WAYS)
    assert forked.series == started.series
    assert {"process_start_time_seconds", "llm_target_up"} <= {name for name, _ in forked.series}
    assert (forked.log, forked.code) == (started.log, started.code)
    assert forked.code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("serve", "--listen", "nonsense"),
        ("serve", "--config", "wrong.yml"),
        ("--version",),
        ("serve", "--help"),
        ("check-config", "right.yml"),
        ("status", "--url", "http://127.0.0.1:1"),
    ],
)
def test_both_ways_end_and_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Exit code, stdout and stderr, in the same working directory and environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_PROBE_MODULES", "{default: {interval: 90s}}")
    (tmp_path / "wrong.yml").write_text("listen: nonsense\nother: 1\n")
    (tmp_path / "right.yml").write_text("discovery: {local: false}\n")
    with (tmp_path / "out").open("w+") as out, (tmp_path / "err").open("w+") as err:
        code = fork(words, stdout=out, stderr=err).wait()
        out.seek(0)
        err.seek(0)
        forked = (code, out.read(), err.read())
    run = [sys.executable, "-m", "exporter", *words]
    done = subprocess.run(
        run, capture_output=True, text=True, check=False, timeout=SECONDS, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert forked == (done.returncode, done.stdout, done.stderr)
    assert forked[1] + forked[2]


def test_a_forked_process_starts_when_it_is_forked(tmp_path: Path) -> None:
    """Its start is its own by the kernel's account, and not that of the process that it was forked from."""
    port = free_port()
    with daemon("forked", configuration(tmp_path), port, tmp_path / "log") as process:
        started = eventually(lambda: value(scrape(port), "process_start_time_seconds"), "a scrape")
        ticks = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        boot = int(Path("/proc/stat").read_text().partition("\nbtime ")[2].split()[0])
    assert started == pytest.approx(boot + ticks / os.sysconf("SC_CLK_TCK"), abs=0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 0)])
def test_signals_reach_a_forked_process(tmp_path: Path, number: int, code: int) -> None:
    """SIGKILL is its exit code, as for any process, SIGINT ends a daemon with 0, and neither ends the server."""
    port = free_port()
    process = fork(arguments(configuration(tmp_path), f"127.0.0.1:{port}"))
    eventually(lambda: scrape(port), "a daemon")
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(SECONDS) == code
    process.kill()
    assert process.poll() == code
    assert fork(["--version"]).wait() == 0


def test_an_environment_for_an_interpreter_is_refused() -> None:
    """What is read only when an interpreter starts would be without effect."""
    with pytest.raises(ValueError, match="PYTHONPATH"):
        fork(["--version"], env={**os.environ, "PYTHONPATH": "/nowhere"})


def test_a_dead_server_is_named_and_its_daemons_end(tmp_path: Path) -> None:
    """Nothing waits for a server that was killed: the error says how it ended, and no daemon is left."""
    server = ForkServer()
    port = free_port()
    process = server.fork(arguments(configuration(tmp_path), f"127.0.0.1:{port}"))
    eventually(lambda: scrape(port), "a daemon")
    server.process.kill()
    with pytest.raises(ForkServerError, match="ended with -9"):
        process.wait(SECONDS)
    with pytest.raises(ForkServerError, match="ended with -9"):
        server.fork(["--version"])
    eventually(lambda: not answers(port), "the end of the daemon")
    server.close()


def answers(port: int) -> bool:
    """Whether a daemon answers there."""
    try:
        return bool(scrape(port))
    except OSError:
        return False


def test_the_end_of_the_tests_ends_the_daemons(tmp_path: Path) -> None:
    """A daemon that a test left behind ends with the server."""
    server = ForkServer()
    port = free_port()
    process = server.fork(arguments(configuration(tmp_path), f"127.0.0.1:{port}"))
    eventually(lambda: scrape(port), "a daemon")
    server.close()
    eventually(lambda: not answers(port), "the end of the daemon")
    with pytest.raises(ForkServerError):
        process.wait(SECONDS)


def test_the_server_loads_no_more_than_a_daemon() -> None:
    """None of the modules that a daemon does without is loaded before a fork, and no thread runs."""
    code = "import sys\nfrom tests.fork_server import preload\npreload()\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(NOT_LOADED) & set(done.stdout.split()) == set()
