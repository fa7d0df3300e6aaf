"""A real llama-server as a plain process: read by its own user, by another, and from where processes are hidden."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import exporter
from exporter.cache.facts import WeightFacts
from exporter.cache.model_file import read_model
from exporter.host.process import OTHERS_HIDDEN, OWN_CONTAINER
from exporter.launch.programs import PRESETS, SERVERS
from tests.ports import free_port
from tests.real.conftest import need
from tests.real.llama import make_model, wait_until_ready
from tests.waiting import eventually

pytestmark = pytest.mark.real

NOBODY = "65534"
KEY = "sk-canary0123456789"
READ = """
import json
from exporter.host.process import process_of, read_processes, settings_of_process
def shown(process):
    return {
        "pid": process.pid, "model": process.launch.model, "port": process.port, "listening": process.listening,
        "network": process.network, "file": process.model_file, "unknown": process.unknown, "user": process.user_id,
        "ticks": process.start_ticks, "settings": settings_of_process(process, layers=4), "all": repr(process),
        "workers": [shown(worker) for worker in process.workers],
        "answers": process_of(f"http://localhost:{process.port}", [process]) is not None,
    }
reading = read_processes()
print(json.dumps({"hidden": reading.hidden, "processes": [shown(process) for process in reading.processes]}))
"""
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
DROP_IN = Path(__file__).parents[2] / "deploy" / "systemd" / "llm-probe-exporter.service.d" / "processes.conf"


@pytest.fixture(scope="module")
def binary(binary: Path) -> Path:
    """The llama-server binary; the tests change users and namespaces, too."""
    need(os.getuid() == 0 and shutil.which("setpriv") and shutil.which("unshare"), "root with setpriv and unshare")
    return binary


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user may read, with a model, and a copy of what reads processes."""
    with tempfile.TemporaryDirectory(prefix="llm-probe-process-") as name:
        path = Path(name)
        path.chmod(0o755)
        package = Path(exporter.__file__).parent
        shutil.copytree(package, path / "exporter", ignore=shutil.ignore_patterns("__pycache__"))
        make_model(path, "tiny")
        yield path


@contextmanager
def started(
    command: Sequence[str | Path],
    port: int,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    wait: bool = True,
) -> Iterator[int]:
    """A server with no environment but the one that is given, in the folder; ended with the block."""
    process = subprocess.Popen(
        command, cwd=folder, env={"HOME": str(folder), "PATH": os.environ["PATH"], **(environment or {})},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        if wait:
            wait_until_ready(port)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def read(folder: Path, *prefix: str) -> dict[str, Any]:
    """What a reader sees that is started behind ``prefix``."""
    python = Path(sys.executable).resolve()
    done = subprocess.run(
        [*prefix, python, "-B", "-c", READ],
        cwd=folder, env={"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert KEY not in done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def with_rights(*capabilities: str) -> tuple[str, ...]:
    """The start of a command that runs as nobody with some of root's rights (``CAP_SYS_PTRACE``)."""
    rights = ",".join(f"+{capability.removeprefix('CAP_').lower()}" for capability in capabilities)
    return (*AS_NOBODY, f"--inh-caps={rights}", f"--ambient-caps={rights}")


def one(found: dict[str, Any], pid: int) -> dict[str, Any]:
    """A process of a reading, by its number."""
    (process,) = [process for process in found["processes"] if process["pid"] == pid]
    assert isinstance(process, dict)
    return process


def test_its_switches_are_those_that_are_read(binary: Path) -> None:
    """Every option, variable and preset that is read of llama-server is one that it has, or had."""
    told = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True, timeout=60).stdout
    options = set(re.findall(r"(?<![\w-])--?([A-Za-z][\w.-]*)", told))
    variables = set(re.findall(r"\(env: (\w+)\)", told))
    switches = SERVERS["llama-server"].switches.values()
    assert [option for switch in switches for option in switch.options if option not in options] == []
    assert PRESETS.keys() <= options
    of_old = {"LLAMA_ARG_MODEL_DRAFT", "LLAMA_ARG_HFD_REPO"}
    negated = {"LLAMA_ARG_NO_KV_OFFLOAD"}
    assert {name for switch in switches for name in switch.variables} - variables == of_old | negated


def test_by_its_own_user_and_by_another(binary: Path, folder: Path) -> None:
    """Its own user reads all; another only the command line, and why the rest is unknown; the drop-in's rights open it."""
    (named,) = re.findall(r"^#AmbientCapabilities=(.*)$", DROP_IN.read_text(encoding="utf-8"), re.MULTILINE)
    port = free_port()
    command = (binary, "-m", "tiny.gguf", "-c", "1024", "-ctk", "q8_0", "--offline", "--api-key", KEY, "-fa", "off")
    environment = {"LLAMA_ARG_PORT": str(port), "LLAMA_ARG_N_PARALLEL": "2", "LLAMA_ARG_UBATCH": "64", "HF_TOKEN": KEY}
    with started(command, port, folder, environment) as pid:
        own = one(read(folder), pid)
        other = one(read(folder, *AS_NOBODY), pid)
        tracing = one(read(folder, *with_rights("CAP_SYS_PTRACE")), pid)
        capable = one(read(folder, *with_rights(*named.split())), pid)
    stated = {"context": "1024", "flash_attention": "off"}
    assert own["settings"] == {
        **stated, "kv_cache": "q8_0/f16", "slots": "2", "micro_batch": "64", "speculative": "none",
        "compute": "cpu", "cpu_offload": "all",
    }  # fmt: skip
    assert (own["port"], own["listening"], own["answers"], own["unknown"]) == (port, True, True, [])
    assert own["file"] == str(folder / "tiny.gguf")
    assert capable == own
    assert (tracing["settings"]["compute"], "slots" in tracing["settings"]) == ("cpu", False)
    assert other["settings"] == {**stated, "kv_cache": "q8_0/?"}
    # The port stands in the environment, which it can't read; the default is not listened to.
    assert (other["model"], other["port"], other["listening"], other["answers"]) == ("tiny.gguf", 8080, False, False)
    assert len(other["unknown"]) == 3
    assert all("another user" in reason for reason in other["unknown"])


def test_of_another_user(binary: Path, folder: Path) -> None:
    """A port on the command line is found by whoever reads, and the socket's owner proves it."""
    port = free_port()
    copy = folder / "llama-server"
    shutil.copyfile(binary, copy)
    copy.chmod(0o755)
    command = (*AS_NOBODY, copy, "-m", folder / "tiny.gguf", "--port", str(port), "--offline", "-ngl", "3")
    with started(command, port, folder) as pid:
        root, other = one(read(folder), pid), one(read(folder, "setpriv", "--reuid=65533", "--clear-groups"), pid)
    assert (root["user"], root["port"], root["listening"], root["answers"]) == (65534, port, True, True)
    assert (other["user"], other["port"], other["listening"], other["answers"]) == (65534, port, True, True)
    assert other["settings"] == {"cpu_offload": "gpu_layers 3"}
    assert other["file"] == str(folder / "tiny.gguf")


def test_where_processes_are_hidden(binary: Path, folder: Path) -> None:
    """Behind hidepid, as in a unit with ProtectProc=, and in a PID namespace the reason is said; nothing is found."""
    port = free_port()
    hidden_proc = f'mount -t proc -o hidepid=invisible proc /proc && exec {" ".join(AS_NOBODY)} "$@"'
    with started((binary, "-m", "tiny.gguf", "--port", str(port), "--offline"), port, folder) as pid:
        assert read(folder)["hidden"] == ""
        assert read(folder, *AS_NOBODY)["hidden"] == ""
        behind = read(folder, "unshare", "--mount", "sh", "-c", hidden_proc, "sh")
        inside = read(folder, "unshare", "--pid", "--fork", "--mount-proc")
        assert one(read(folder, "unshare", "--net"), pid)["network"] == "host"
    assert (behind["hidden"], behind["processes"]) == (OTHERS_HIDDEN, [])
    assert (inside["hidden"], inside["processes"]) == (OWN_CONTAINER, [])


def test_in_a_network_of_its_own(binary: Path, folder: Path) -> None:
    """A server in another network namespace doesn't answer at this one's loopback, and any user can tell."""
    command = ("unshare", "--net", binary, "-m", "tiny.gguf", "--port", "18080", "--offline")
    with started(command, 18080, folder, wait=False) as pid:
        eventually(lambda: any(p["pid"] == pid for p in read(folder)["processes"]), what="the server's process")
        found = one(read(folder, *AS_NOBODY), pid)
    assert (found["network"], found["answers"]) == ("other", False)


def test_a_router_and_the_model_that_it_started(binary: Path, folder: Path) -> None:
    """A router's settings are those of the process that it started for a model; a config file makes the rest unknown."""
    port = free_port()
    home = folder / "home"
    (home / ".config" / "llama.cpp").mkdir(parents=True)
    (home / ".config" / "llama.cpp" / "config.ini").write_text(f"[*]\nport = {port}\n", encoding="utf-8")
    models = folder / "models"
    models.mkdir()
    shutil.copyfile(folder / "tiny.gguf", models / "tiny.gguf")
    with started((binary, "--models-dir", models, "--offline", "-np", "1"), port, folder, {"HOME": str(home)}) as pid:
        alone = one(read(folder), pid)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/models/load", b'{"model": "tiny"}', {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60):
            pass
        eventually(lambda: bool(one(read(folder), pid)["workers"]), what="the model's process")
        router = one(read(folder), pid)
    # No switch names the port: its own socket does.
    assert (alone["port"], alone["listening"], alone["workers"], alone["model"]) == (port, True, [], None)
    (worker,) = router["workers"]
    assert (worker["model"], worker["file"]) == ("tiny.gguf", str(models / "tiny.gguf"))
    assert router["settings"]["slots"] == "1"
    assert "speculative" not in router["settings"]


def test_a_restart_is_seen(binary: Path, folder: Path) -> None:
    """Two runs of one command differ by process and start."""
    port = free_port()
    seen = []
    for _ in range(2):
        with started((binary, "-m", "tiny.gguf", "--port", str(port), "--offline"), port, folder) as pid:
            process = one(read(folder, *AS_NOBODY), pid)
            seen.append((process["pid"], process["ticks"]))
    assert seen[0] != seen[1]
    assert seen[0][1] < seen[1][1]


def test_the_model_s_header_is_what_the_server_says(binary: Path, folder: Path) -> None:
    """Layers, context cache and size read from the file are those that the server reports of it."""
    port = free_port()
    with started((binary, "-m", "tiny.gguf", "--port", str(port), "--offline"), port, folder) as pid:
        path = one(read(folder), pid)["file"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30) as answer:
            meta = json.load(answer)["data"][0]["meta"]
    weights = read_model(path)
    assert isinstance(weights, WeightFacts)
    assert weights.weight_bytes == meta["size"]
    assert weights.moe is False
