"""The real daemon as a process, as a user starts it, and what it exports."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.forked import fork
from tests.processes import SECONDS, Process
from tests.samples import Samples, samples_of
from tests.waiting import eventually


@contextmanager
def running_daemon(
    *arguments: str | Path, port: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """``python -m exporter serve`` on a loopback port with more arguments, ended with the block; its log goes to a file."""
    command = [sys.executable, "-m", "exporter", *_serve(port, arguments)]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env={**os.environ, **(environment or {})})
        with _answering(process, port, log):
            yield process


@contextmanager
def forked_daemon(*arguments: str | Path, port: int, log: Path) -> Iterator[Process]:
    """``running_daemon`` without the time of its imports."""
    with log.open("wb") as stderr:
        process = fork(_serve(port, arguments), stderr=stderr)
        with _answering(process, port, log):
            yield process


def _serve(port: int, arguments: Sequence[str | Path]) -> list[str | Path]:
    return ["serve", "--listen", f"127.0.0.1:{port}", *arguments]


@contextmanager
def _answering(process: Process, port: int, log: Path) -> Iterator[None]:
    try:
        eventually(lambda: _answers(port), what=f"the daemon answers; its log is {log}")
        yield
    finally:
        process.kill()
        process.wait(SECONDS)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/healthy", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def scrape(port: int) -> Samples:
    """All samples that a scrape gives, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return samples_of(answer.read().decode())


def page(port: int) -> str:
    """The page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """The sample of a name that has these labels among its own; None without one."""
    wanted = set(labels.items())
    found = [each for (sample, own), each in samples.items() if sample == name and wanted <= own]
    assert len(found) <= 1, f"{name}{labels} is ambiguous"
    return found[0] if found else None


def labels_of(samples: Samples, name: str, **labels: str) -> dict[str, str]:
    """All labels of the one sample of a name that has these among its own; empty without one."""
    wanted = set(labels.items())
    found = [dict(own) for sample, own in samples if sample == name and wanted <= own]
    assert len(found) <= 1, f"{name}{labels} is ambiguous"
    return found[0] if found else {}
