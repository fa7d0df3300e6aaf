"""A real Prometheus and a real Alertmanager on loopback, ended with the test, and a receiver of webhooks."""

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from tests.ports import free_port
from tests.waiting import eventually


def missing_tools(*names: str) -> str:
    """The names of those programs that are not on the path."""
    return ", ".join(name for name in names if not shutil.which(name))


@contextmanager
def _running(command: Sequence[str], ready: str, log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            eventually(lambda: _answers(ready) or process.poll() is not None, what=f"{command[0]} is ready")
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def running_prometheus(config: Path, storage: Path, port: int | None = None) -> Iterator[str]:
    """Prometheus with a configuration and a storage folder; gives its URL."""
    port = port or free_port()
    address = f"127.0.0.1:{port}"
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={storage}",
        f"--web.listen-address={address}",
    ]
    with _running(command, f"http://{address}/-/ready", storage.with_suffix(".log")):
        yield f"http://{address}"


@contextmanager
def running_alertmanager(config: Path, storage: Path, port: int) -> Iterator[str]:
    """Alertmanager with a configuration; gives its URL."""
    address = f"127.0.0.1:{port}"
    command = [
        "prometheus-alertmanager",
        f"--config.file={config}",
        f"--storage.path={storage}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with _running(command, f"http://{address}/-/ready", storage.with_suffix(".log")):
        yield f"http://{address}"


def query(url: str, expression: str, at: float | None = None) -> list[dict[str, Any]]:
    """The rows of an instant query: dictionaries with ``metric`` and ``value``; an error fails the test with its message."""
    parameters = {"query": expression, "time": f"{time.time() if at is None else at:.3f}"}
    return _ask(f"{url}/api/v1/query?{urlencode(parameters)}", expression)


def query_range(url: str, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
    """The rows of a range query: dictionaries with ``metric`` and ``values``."""
    parameters = {"query": expression, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
    return _ask(f"{url}/api/v1/query_range?{urlencode(parameters)}", expression)


def _ask(url: str, expression: str) -> list[dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            document = json.load(answer)
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{error.read().decode()}: {expression}") from error
    rows: list[dict[str, Any]] = document["data"]["result"]
    return rows


def filled(expression: str, board: Mapping[str, Any], chosen: Mapping[str, str]) -> str:
    """A dashboard's expression as Grafana would send it: with what is ``chosen``, else with the variables' present values.

    ``$1`` is no variable: Grafana leaves it to Prometheus.
    """
    values = dict[str, str]()
    for variable in board["templating"]["list"]:
        current = variable["current"].get("value", "")
        value = current[0] if isinstance(current, list) else current
        values[variable["name"]] = ".+" if value in ("$__all", "") else value
    values |= chosen
    return re.sub(r"\$\{?([A-Za-z_]\w*)\}?", lambda match: values[match[1]], expression)


def variables(board: Mapping[str, Any], chosen: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that Grafana would fill by a query: name, and an expression that has a row for each of its values."""
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            inner = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert inner
            yield variable["name"], f"count by ({inner[2]}) ({filled(inner[1], board, chosen)})"


class Webhook:
    """Receives Alertmanager's notifications; ``alerts`` are all of them, in the order in which they came."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        alerts = self.alerts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                alerts.extend(json.loads(body)["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where to send."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def got(self, name: str, status: str, target: str) -> list[dict[str, Any]]:
        """The notifications of an alert about a target in a status, ``firing`` or ``resolved``."""
        return [
            alert
            for alert in list(self.alerts)
            if alert["status"] == status
            and alert["labels"]["alertname"] == name
            and alert["labels"].get("target") == target
        ]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
