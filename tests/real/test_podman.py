"""A real Podman, through the Docker-compatible API of its service: the same facts, and the same events."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.containers.engine import Engine, default_host
from exporter.containers.facts import CandidateUrl, ImageRocm
from tests.real.conftest import need
from tests.real.docker import busybox_rootfs, missing_parts
from tests.real.podman import PARTS, Podman, podman
from tests.real.watching import by_name, watching

pytestmark = pytest.mark.real

IMAGE = "docker.io/vllm/vllm-openai-rocm:v0.32.0"
CANARY = "canary-5f2b9c"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Podman]:
    """A Podman that runs a container with vLLM's command line, environment, mounts and ROCm files."""
    missing = missing_parts(PARTS)
    need(not missing, f"for Podman: {missing}")
    rootfs = busybox_rootfs(
        {"usr/local/bin/vllm": "#!/bin/sh\nexec sleep 600\n", "opt/rocm-7.2.1/.info/version": "7.2.1-43\n"},
        {"opt/rocm": "/etc/alternatives/rocm", "etc/alternatives/rocm": "/opt/rocm-7.2.1"},
    )
    (tmp_path / "huggingface" / "hub").mkdir(parents=True)
    with podman() as own:
        own.import_image(IMAGE, rootfs, ["ENV PATH=/usr/local/bin:/bin", 'ENTRYPOINT ["vllm","serve"]'])
        start_vllm(own, tmp_path, "Qwen/Qwen2.5-14B-Instruct-AWQ", 8000)
        yield own


def start_vllm(engine: Podman, folder: Path, model: str, port: int) -> None:
    """The container, with a key in its environment and in its command."""
    options = (
        f"--env=HF_TOKEN={CANARY}",
        "--env=VLLM_ROCM_USE_AITER=1",
        f"--volume={folder}/huggingface:/root/.cache/huggingface",
    )
    engine.start_container("vllm", IMAGE, model, f"--port={port}", "--api-key", CANARY, options=options)


def test_the_facts_of_a_container_under_podman(engine: Podman, tmp_path: Path) -> None:
    """Model, address, switches, cache and ROCm version come out as with Docker, without any secret."""
    reading = Engine(engine.host).read(["gfx1151"])
    assert reading.problem == ""
    (facts,) = by_name(reading).values()
    assert (facts.name, facts.image, facts.backend, facts.running) == ("vllm", IMAGE, "vllm", True)
    assert (facts.model, facts.quantization) == ("Qwen/Qwen2.5-14B-Instruct-AWQ", "awq")
    assert facts.urls == (CandidateUrl("http://127.0.0.1:8000", "host_network"),)
    assert (facts.aiter, facts.aiter_usable) == (True, False)
    assert facts.cache_source == str(tmp_path / "huggingface" / "hub")
    assert facts.rocm == ImageRocm("7.2.1-43", "7.2", "file")
    assert facts.started_at_seconds == pytest.approx(time.time(), abs=300)
    assert CANARY not in repr(reading)


def test_a_replaced_container_under_podman(engine: Podman, tmp_path: Path) -> None:
    """Its events tell of a container that goes and of one that takes its place."""
    with watching(Engine(engine.host)) as watched:
        engine.run("rm", "--force", "--time=0", "vllm")
        _, gone_after = watched.next_reading(lambda reading: "vllm" not in by_name(reading))
        start_vllm(engine, tmp_path, "Qwen/Qwen3-14B", 8002)
        reading, seen_after = watched.next_reading(lambda reading: "vllm" in by_name(reading))
    facts = by_name(reading)["vllm"]
    assert (facts.model, facts.urls[0].url) == ("Qwen/Qwen3-14B", "http://127.0.0.1:8002")
    assert max(gone_after, seen_after) < 5


def test_its_socket_is_found_and_its_return_too(engine: Podman) -> None:
    """Rootless Podman's socket is found below XDG_RUNTIME_DIR; a service that ends and comes back is seen."""
    host = default_host({"XDG_RUNTIME_DIR": str(engine.folder)})
    assert host == engine.host
    reader = Engine(host)
    assert set(by_name(reader.read())) == {"vllm"}
    engine.stop()
    gone = reader.read()
    assert (gone.available, gone.containers) == (False, ())
    engine.start()
    assert set(by_name(reader.read())) == {"vllm"}
