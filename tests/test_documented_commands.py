"""Every command and every configuration of the documentation is run: what somebody copies from a page works.

The exporter's own commands are run for real, against a simulated server and a daemon that watches it. ``sudo`` runs what follows with
paths of the system put below a folder of the test. Programs of others that need root, a network or a service are replaced by one that
notes how it was called; tests/real runs them where the machine has them.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import bcrypt
import pytest
import yaml

from exporter import cli
from exporter.demo import SimulatedServers, Simulation
from exporter.settings import load, load_web_config
from tests.ports import free_port
from tests.processes import running_process
from tests.servers.certificates import make_certificate
from tests.test_docs import PAGES, ROOT
from tests.waiting import eventually

REPLACED: Final = frozenset(
    "apt docker htpasswd kubectl make pip pipx prometheus systemctl uv vllm /opt/llm-probe-exporter/bin/python".split()
)
"""Programs of others: only that they are called with files that exist is shown here."""
LONG: Final = frozenset({"serve", "demo", "top"})
MAY_BE_1: Final = frozenset({"compare", "status", "cache"})
"""Commands whose exit code 1 is an answer."""
FAST: Final = Simulation("fast", "simulated-14b", 100.0, 0.02, "", wavers=0.01)

Block = tuple[str, str, str]
"""Page, language, text."""


def blocks() -> Iterator[Block]:
    """Every fenced block that is a command or a configuration."""
    for page in PAGES:
        for language, text in re.findall(r"```(\w+)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            yield str(page.relative_to(ROOT)), language, text


def script_of(language: str, text: str) -> str:
    """What a person types of a block."""
    if language == "sh":
        return text
    return "\n".join(line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))


SCRIPTS: Final = [
    (page, script_of(language, text)) for page, language, text in blocks() if language in {"sh", "console"}
]
CONFIGURATIONS: Final = [(page, text) for page, language, text in blocks() if language == "yaml"]
PROMETHEUS: Final = next(
    text for page, text in CONFIGURATIONS if page == "docs/getting-started.md" and "scrape_configs" in text
)


@dataclass(frozen=True, slots=True)
class CommandFolder:
    """Where commands are run: a home, a copy of the source, folders of the system below ``root``, programs, and who answers."""

    root: Path
    source: Path
    environ: Mapping[str, str]
    server: str
    daemon: str
    closed: str
    """Another daemon, behind TLS and a password."""

    def run(self, script: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """A script of a page with the addresses of this machine."""
        here = script.replace("http://127.0.0.1:8000", self.server).replace("http://127.0.0.1:9937", self.daemon)
        here = here.replace("https://gpu-box:9937", self.closed)
        return subprocess.run(
            ["bash", "-c", here],
            cwd=self.source,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )


SUDO: Final = """#!/bin/bash
# Run a command with the folders of the system below $ROOT.
words=()
for word in "$@"; do case "$word" in /etc/*|/var/*) words+=("$ROOT$word");; *) words+=("$word");; esac; done
exec "${words[@]}"
"""
NOTE: Final = """#!/bin/bash
# Note the call; fail where a file of the source that it names is not there.
echo "$(basename "$0") $*" >> "$ROOT/calls"
for word in "$@"; do case "$word" in --*=deploy/*) word="${word#*=}";; esac
case "$word" in deploy/*|grafana/*) [ -e "$word" ] || { echo "no such file: $word" >&2; exit 1; };; esac; done
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandFolder]:
    """A person's home and machine, a server, and a daemon that watches it."""
    root = tmp_path_factory.mktemp("machine")
    programs, home, source = root / "bin", root / "home", root / "source"
    for folder in (programs, home / ".config/fish/completions", source, *(root / name for name in SYSTEM)):
        folder.mkdir(parents=True)
    for name in (*REPLACED, "install.sh"):
        write_program(programs / Path(name).name, NOTE)
    write_program(programs / "sudo", SUDO)
    (programs / "llm-probe-exporter").symlink_to(Path(sys.executable).with_name("llm-probe-exporter"))
    for each in ("pyproject.toml", "README.md", "grafana", "Makefile"):
        (source / each).symlink_to(ROOT / each)
    shutil.copytree(ROOT / "deploy", source / "deploy")
    # The file of Debian's package after the change that the page asks for.
    (root / "etc/prometheus/prometheus.yml").write_text(PROMETHEUS, encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLM_PROBE_")}
    environ = {
        **clean,
        "HOME": str(home),
        "ROOT": str(root),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "LLM_PROBE_DOCKER__ENABLED": "false",
        "LLM_PROBE_DISCOVERY": "{local: false, docker: false}",
    }
    port = free_port()
    with SimulatedServers((FAST,)) as servers, closed_daemon(root, home, source, environ) as closed:
        server = servers.urls[0][1]
        watched = {
            **environ,
            "LLM_PROBE_LISTEN": f"127.0.0.1:{port}",
            "LLM_PROBE_TARGETS": f"[{{name: a, url: '{server}'}}]",
        }
        command = [sys.executable, "-m", "exporter", "serve"]
        with running_process(command, env=watched, stderr=subprocess.DEVNULL):
            drained = CommandFolder(
                root,
                source,
                {**environ, "LLM_PROBE_LISTEN": f"127.0.0.1:{port}"},
                server,
                f"http://127.0.0.1:{port}",
                closed,
            )
            eventually(
                lambda: "llm_probe_tokens_per_second{" in drained.run(f"curl -s {drained.daemon}/metrics").stdout,
                "a speed",
                seconds=240,
                every=0.5,
            )
            yield drained


@contextmanager
def closed_daemon(root: Path, home: Path, source: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """A daemon with nothing to watch behind TLS and a password, which lie where the page has them; its URL."""
    port, certificate = free_port(), make_certificate(root / "tls")
    shutil.copy(certificate[0], source / "ca.pem")
    stored = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    tls = f"tls_server_config: {{cert_file: {certificate[0]}, key_file: {certificate[1]}}}\n"
    web = root / "web.yml"
    web.write_text(f'{tls}basic_auth_users: {{prometheus: "{stored}"}}\n', encoding="utf-8")
    (home / ".config/llm-probe.password").write_text("secret\n", encoding="utf-8")
    environment = {**environ, "LLM_PROBE_LISTEN": f"127.0.0.1:{port}", "LLM_PROBE_WEB_CONFIG_FILE": str(web)}
    command = [sys.executable, "-m", "exporter", "serve"]
    with running_process(command, env=environment, stderr=subprocess.DEVNULL):
        yield f"https://127.0.0.1:{port}"


SYSTEM: Final = (
    "etc/prometheus", "etc/grafana/provisioning/datasources", "etc/grafana/provisioning/dashboards", "var/lib/grafana",
    "etc/llm-probe-exporter/keys",
)  # fmt: skip


def write_program(path: Path, text: str) -> None:
    """An executable script."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def lines_of(script: str) -> list[str]:
    """The commands of a script, one each, without comments and empty lines."""
    return [line for line in re.sub(r"(^|\s)#.*$", "", script, flags=re.MULTILINE).splitlines() if line.strip()]


# Each is a process or several: among the tests of real parts, so that the others stay quick.
@pytest.mark.real
@pytest.mark.parametrize(
    ("page", "script"), SCRIPTS, ids=[f"{page}-{number}" for number, (page, _) in enumerate(SCRIPTS)]
)
def test_every_documented_command_runs(machine: CommandFolder, page: str, script: str) -> None:
    """In the order of the page, each with an exit code that its command has when all is well."""
    assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0, page
    for line in lines_of(script):
        words = shlex.split(line.partition("|")[0])
        if words[0] == "llm-probe-exporter" and words[1] in LONG:
            assert_starts(machine, words[1:])
            continue
        if page in CHECKED_ELSEWHERE:
            continue
        if "promtool" in words[:2] and shutil.which("promtool") is None:
            continue
        if (
            "127.0.0.1:9090" in line
            or words[0].startswith(("~/", "rm", "ln", "/opt/"))
            or words[:2] == ["python3", "-m"]
        ):
            continue  # the venv of this page is made by tests/real/test_documented_installation.py, and a Prometheus by test_live.py
        done = machine.run(line)
        codes = {0, 1} if words[:1] == ["llm-probe-exporter"] and words[1] in MAY_BE_1 else {0}
        assert done.returncode in codes, f"{page}: {line}: {done.stdout}{done.stderr}"
        assert done.returncode == 0 or done.stdout, f"{page}: {line}: no answer: {done.stderr}"


CHECKED_ELSEWHERE: Final = {"docs/deploy-systemd.md", "docs/deploy-compose.md"}
"""Their installation is run by tests/real: systemd in a container, and Compose."""


def assert_starts(machine: CommandFolder, words: list[str]) -> None:
    """A command that goes on until it is told to end begins without an error; ``top`` refuses what is no terminal."""
    arguments = [*words, *(["--listen", f"127.0.0.1:{free_port()}"] if words[0] != "top" else [])]
    command = [sys.executable, "-m", "exporter", *arguments]
    with running_process(command, env=machine.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        ends = threading.Timer(3, process.terminate)
        ends.start()
        _, stderr = process.communicate(timeout=30)
        ends.cancel()
    assert process.returncode == (2 if words[0] == "top" else 0), stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_named_command_exists(page: Path) -> None:
    """A command within a sentence is one of the program's, with options that it has."""
    for text in re.findall(r"`llm-probe-exporter ([^`]+)`", page.read_text(encoding="utf-8")):
        name, *words = [word for word in text.replace("[", " ").replace("]", " ").split() if word != "…"]
        if name in {"COMMAND", "--help", "--version"}:
            continue
        assert name in cli.main.commands, f"{page.name}: {text}"
        known = {option for each in cli.main.commands[name].params for option in each.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, f"{page.name}: {text}"


@pytest.mark.parametrize(
    ("page", "text"), CONFIGURATIONS, ids=[f"{page}-{number}" for number, (page, _) in enumerate(CONFIGURATIONS)]
)
def test_every_documented_configuration_is_accepted(tmp_path: Path, page: str, text: str) -> None:
    """By the program that reads it: the exporter, or promtool; the job has the name that the alert rules know."""
    document: dict[str, Any] = yaml.safe_load(text)
    assert document, page
    path = tmp_path / "config.yml"
    if "scrape_configs" in document:
        assert [job["job_name"] for job in document["scrape_configs"]] == ["llm-probe-exporter"]
        for name in re.findall(r"/etc/prometheus/[\w.-]+", text):
            (tmp_path / Path(name).name).write_text("")
        path.write_text(text.replace("/etc/prometheus/", f"{tmp_path}/"), encoding="utf-8")
        if shutil.which("promtool"):
            done = subprocess.run(
                ["promtool", "check", "config", "--syntax-only", path], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
    elif "services" in document:
        for name, service in document["services"].items():
            assert {"image", "read_only", "cap_drop", "security_opt"} <= set(service), name
    elif document.get("kind") == "Kustomization":
        for resource in document["resources"]:
            assert (ROOT / resource.removeprefix("../")).is_dir(), resource
    elif set(document) & {"tls_server_config", "basic_auth_users"}:
        for name in re.findall(r"tls/[\w.-]+", text):
            (tmp_path / "tls").mkdir(exist_ok=True)
            (tmp_path / name).write_text("")
        path.write_text(text, encoding="utf-8")
        load_web_config(path)
    else:
        keys = re.findall(r"/run/credentials/\S+", text)
        for number, name in enumerate(keys):
            (tmp_path / f"key{number}").write_text("a key\n")
            text = text.replace(name, str(tmp_path / f"key{number}"))
        path.write_text(text, encoding="utf-8")
        load(path, {})
