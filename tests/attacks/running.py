"""The real daemon as a process for the tables of attempts: nothing to probe unless a test says so, its log in a file."""

import base64
import http.client
import os
import ssl
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import bcrypt

from tests.daemon_settings import PROBES_ONLY
from tests.forked import forked_process
from tests.ports import free_port
from tests.processes import Process, running_process
from tests.waiting import eventually

PASSWORD = "right"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
QUIET = f"{PROBES_ONLY}history: {{path: none}}\n"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What the daemon answered: its status, its headers as one text, and its body."""

    status: int
    headers: str
    body: str


@dataclass(frozen=True, slots=True)
class RunningExporter:
    """A daemon that runs, and the file of its log."""

    process: Process
    port: int
    log: Path

    def said(self) -> str:
        """All that it has logged."""
        return self.log.read_text(errors="replace")

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        user: str | None = None,
        password: str = PASSWORD,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> HttpAnswer:
        """One request on a connection of its own."""
        connection = (
            http.client.HTTPSConnection(host, self.port, timeout=20, context=tls)
            if tls
            else http.client.HTTPConnection(host, self.port, timeout=20)
        )
        sent = dict(headers or {})
        if user is not None:
            sent["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        try:
            connection.request(method, path, headers=sent)
            answer = connection.getresponse()
            return HttpAnswer(answer.status, str(answer.headers), answer.read().decode(errors="replace"))
        finally:
            connection.close()

    def probe(self, target: str, **headers: str) -> HttpAnswer:
        """Ask for a probe of an address."""
        return self.ask(f"/probe?target={quote(target, safe='')}", headers=headers)

    def metric(self, name: str, **asked: str) -> float:
        """The value of a metric that has no labels."""
        body = self.ask("/metrics", user=asked.get("user")).body
        (line,) = [line for line in body.splitlines() if line.startswith(f"{name} ")]
        return float(line.partition(" ")[2])


def configuration(folder: Path, text: str = "") -> Path:
    """Settings with nothing to probe but what ``text`` adds."""
    config = folder / "config.yml"
    config.write_text(f"host: {{sysfs: {folder}, rocm: {folder}}}\n{QUIET}{text}")
    return config


def arguments(config: Path, listen_on: str) -> list[str]:
    """What the daemon is started with."""
    return ["serve", "--config", str(config), "--listen", listen_on]


def command(config: Path, listen_on: str) -> list[str]:
    """What starts the daemon anew."""
    return [sys.executable, "-m", "exporter", *arguments(config, listen_on)]


@contextmanager
def running(
    config: Path,
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    interpreter: Mapping[str, str] | None = None,
) -> Iterator[RunningExporter]:
    """``serve`` as a process that answers, ended with the block.

    It is forked; with ``interpreter``, variables that an interpreter reads when it starts, it is started anew.
    """
    port, log = free_port(), config.parent / "daemon.log"
    listen_on = f"{host}:{port}"
    with (
        log.open("wb") as file,
        forked_process(arguments(config, listen_on), stderr=file)
        if interpreter is None
        else running_process(command(config, listen_on), stderr=file, env={**os.environ, **interpreter}) as process,
    ):
        found = RunningExporter(process, port, log)
        eventually(lambda: found.ask("/-/healthy", tls=tls).status == 200, f"a start: {log}")
        yield found
