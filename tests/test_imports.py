"""What the daemon loads: every module costs memory for as long as it runs, and time at each start."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import pytest

from exporter.demo import SimulatedServers, Simulation
from exporter.lean import LIBRARIES
from tests.ports import free_port
from tests.processes import running_process
from tests.waiting import eventually

FAST: Final = Simulation("fast", "simulated-14b", 100.0, 0.02, "", wavers=0.0)
NOT_LOADED: Final = {
    "rich": "for the output of our commands, and of httpx's, which is not loaded either",
    "pygments": "comes with rich",
    "markdown_it": "comes with rich",
    "docker": "for machines with a container engine",
    "requests": "comes with the Docker SDK",
    "urllib3": "comes with the Docker SDK",
    "charset_normalizer": "comes with requests",
    "jinja2": "for the status page, when somebody opens it",
    "exporter.web.page": "for the status page, too",
    "exporter.web.status": "for the status page and the documents about targets",
    "exporter.web.documents": "for those documents",
    "exporter.advice": "for the status page, too",
    "anyio._backends": "threads for clients are our own",
    "bcrypt": "for the first password",
    "tarfile": "for a file of a container",
    "difflib": "for a mistake in the settings",
    "pydantic.v1": "pydantic's former interface",
    **{name: f"a part of {each.distribution} that is left out" for each in LIBRARIES for name in each.left_out},
    "exporter.demo": "another command",
    "exporter.oneshot": "other commands",
    "exporter.report": "other commands",
    "exporter.comparison": "another command",
    "exporter.survey_report": "another command",
    "exporter.cli.measuring": "other commands",
    "exporter.daemon_health": "another command",
    "unittest": "a tool of tests",
    "pdb": "a tool for debugging",
}


@dataclass(frozen=True)
class ImportedExporter:
    """A daemon that runs with ``-X importtime``, which writes a line for each module to the file ``said``."""

    url: str
    said: Path

    def loaded(self) -> set[str]:
        """The modules loaded by now, in full."""
        lines = self.said.read_text(encoding="utf-8").splitlines()
        return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}

    def wait_for_probe(self) -> None:
        """Return when a scrape has the speed of the first probe."""

        def has_a_speed() -> bool:
            with urlopen(f"{self.url}/metrics") as answer:
                return b"\nllm_probe_tokens_per_second{" in answer.read()

        eventually(has_a_speed, f"a first probe; the daemon's log is {self.said}", every=0.1)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImportedExporter]:
    """A daemon with one target, on a machine without a container engine, after its first probe."""
    folder = tmp_path_factory.mktemp("imports")
    listen = f"127.0.0.1:{free_port()}"
    with SimulatedServers((FAST,)) as servers, (folder / "said").open("w") as said:
        (folder / "config.yml").write_text(f"targets: [{{name: one, url: {servers.urls[0][1]}}}]\n")
        command = [sys.executable, "-X", "importtime", "-m", "exporter", "serve", "--listen", listen]
        environ = {**os.environ, "DOCKER_HOST": f"unix://{folder}/none.sock"}
        with running_process([*command, "--config", folder / "config.yml"], stderr=said, env=environ):
            running = ImportedExporter(f"http://{listen}", folder / "said")
            running.wait_for_probe()
            yield running


def test_the_daemon_loads_nothing_that_it_does_not_use(daemon: ImportedExporter) -> None:
    """After a scrape and a probe, none of the modules for other commands, other machines and the page is loaded."""
    loaded = daemon.loaded()
    assert {"exporter.daemon", "httpx", "uvicorn.server", "apscheduler.schedulers.base"} <= loaded
    assert {name: reason for name, reason in NOT_LOADED.items() if name in loaded} == {}


def test_the_page_loads_what_it_needs_when_it_is_opened(daemon: ImportedExporter) -> None:
    """The status page is drawn by Jinja, and only then is it loaded."""
    with urlopen(f"{daemon.url}/") as answer:
        assert b"<html" in answer.read()
    assert "jinja2" in daemon.loaded()


def test_the_docker_sdk_is_loaded_for_a_socket_that_is_there(tmp_path: Path) -> None:
    """A reading of an engine loads the SDK once a socket could be opened, and not for one that is missing."""
    code = (
        "import socket, sys\nfrom exporter.containers.engine import Engine\n"
        f"Engine('unix://{tmp_path}/none.sock', 0.2).read()\nprint('docker' in sys.modules)\n"
        f"there = socket.socket(socket.AF_UNIX)\nthere.bind('{tmp_path}/there.sock')\nthere.listen()\n"
        f"Engine('unix://{tmp_path}/there.sock', 0.2).read()\nprint('docker' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_httpx_does_without_its_command_line() -> None:
    """All that the probe uses of httpx is there, though its command line is not."""
    code = (
        "import exporter.probe, httpx\n"
        "print(httpx.Client().build_request('GET', 'http://localhost/').url, httpx.main.__module__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["http://localhost/", "httpx"]
