"""``machine`` as another user, without any right, beside a real llama-server: all forms, and nothing private in them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import exporter
from tests.ports import free_port
from tests.real.conftest import need
from tests.real.llama import make_model, wait_until_ready

pytestmark = pytest.mark.real

AS_NOBODY = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
)  # fmt: skip
KEY, USER = "sk-canary0123456789", "canaryuser"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A home folder that every user may read, with a model and a copy of the exporter and of what it needs."""
    with tempfile.TemporaryDirectory(prefix="llm-probe-machine-") as name:
        path = Path(name) / "home" / USER
        path.mkdir(parents=True)
        Path(name).chmod(0o755)
        shutil.copytree(Path(exporter.__file__).parent, path / "exporter", ignore=shutil.ignore_patterns("__pycache__"))
        make_model(path, "tiny")
        yield path


def python_for_everyone() -> str | None:
    """A Python of this version that every user may run: that of the tests may lie in somebody's home."""
    wanted = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = (shutil.which(wanted, path=path) for path in ("/usr/bin", "/usr/local/bin"))
    return next((each for each in found if each), None)


@pytest.mark.parametrize("form", [(), ("--json",), ("--markdown",)])
def test_machine_as_another_user(binary: Path, folder: Path, form: tuple[str, ...]) -> None:
    """It names the kernel, the server with its model and why the rest is unknown, and no user, host, folder or key."""
    need(os.getuid() == 0 and shutil.which("setpriv"), "root with setpriv")
    python = python_for_everyone()
    need(python is not None, "a Python of this version in /usr/bin")
    assert python is not None
    port = free_port()
    command: list[str | Path] = [binary, "-m", folder / "tiny.gguf", "--port", str(port), "--api-key", KEY, "-c", "512"]
    libraries = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(port)
        done = subprocess.run(
            [*AS_NOBODY, python, "-B", "-m", "exporter", "machine", *form],
            cwd=folder, env={"PYTHONPATH": f"{folder}:{libraries}", "PATH": os.environ["PATH"], "HOME": "/nonexistent"},
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    finally:
        server.kill()
        server.wait()
    assert os.uname().release in done.stdout
    assert "tiny.gguf" in done.stdout
    assert "belongs to another user" in done.stdout
    machine_id = Path("/etc/machine-id")
    serial = machine_id.read_text().strip() if machine_id.exists() else ""
    for private in (KEY, USER, str(folder), os.uname().nodename, "/home", serial):
        assert not private or private not in done.stdout, private
