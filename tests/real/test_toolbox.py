"""A real llama-server in a toolbox-like container: by the engine, by /proc, by both, through the whole daemon.

Like Toolbx and Distrobox, the container only sleeps, has the machine's network and processes, and shares a folder under its own
path; the server is started in it by hand. Its libraries are the machine's, which is mounted where these programs look.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.real.conftest import need
from tests.real.daemon import labels_of, running_daemon, scrape, value
from tests.real.docker import PARTS as DOCKER_PARTS
from tests.real.docker import busybox_rootfs, missing_parts
from tests.real.docker import engine as docker
from tests.real.llama import LLAMA_SERVER, llama_server, make_model, wait_until_ready
from tests.real.podman import PARTS as PODMAN_PARTS
from tests.real.podman import podman
from tests.samples import Samples
from tests.waiting import eventually

pytestmark = pytest.mark.real

IMAGE = "docker.io/kyuz0/amd-strix-halo-toolboxes:vulkan-radv"
NAME = "llama-vulkan"
ENGINES = {"docker": (docker, DOCKER_PARTS, "--ulimit=nofile=1024"), "podman": (podman, PODMAN_PARTS, "--ulimit=host")}


@dataclass(frozen=True)
class Toolbox:
    """A container with a server in it: the engine's address, the server's port, and its model's file."""

    host: str
    port: int
    model: Path


@contextmanager
def toolbox(kind: str, folder: Path) -> Iterator[Toolbox]:
    """A toolbox-like container of an engine, and a llama-server that was started in it by hand."""
    binary = llama_server()
    need(binary, LLAMA_SERVER)
    assert binary is not None
    run_engine, parts, ulimit = ENGINES[kind]
    missing = missing_parts(parts)
    need(not missing, f"for {kind}: {missing}")
    shutil.copy(binary, folder / "llama-server")
    model, port = make_model(folder, "tiny"), free_port()
    rootfs = busybox_rootfs(links={"lib": "usr/lib", "lib64": "usr/lib64"})
    shared = ("--pid=host", "--volume=/usr:/usr:ro", f"--volume={folder}:{folder}")
    own: Any
    with run_engine() as own:
        own.import_image(IMAGE, rootfs, ["ENV PATH=/bin", 'CMD ["sleep","600"]'])
        options = shared if kind == "podman" else ("--network=host", ulimit, *shared)
        own.start_container(NAME, IMAGE, options=options)
        command = (
            "--model",
            str(model),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--threads",
            "1",
            "--parallel",
            "2",
        )
        more = ("--ctx-size", "2048", "--flash-attn", "on", "--metrics", "--slots", "--offline")
        own.run("exec", "--detach", NAME, str(folder / "llama-server"), *command, *more)
        wait_until_ready(port)
        yield Toolbox(own.host, port, model)


def exported(folder: Path, more: str, ready: str) -> Samples:
    """What a daemon that finds everything itself exports, once there is a sample of this name."""
    port, config = free_port(), folder / "config.yml"
    config.write_text(f"""
modules: {{default: {{interval: 1s, max_tokens: 16}}}}
cache: {{paths: []}}
{more}
""")
    with running_daemon("--config", config, port=port, log=folder / "log"):
        eventually(lambda: any(name == ready for name, _ in scrape(port)), f"{ready} is exported", seconds=20)
        return scrape(port)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_toolbox_by_its_engine_and_by_proc(tmp_path: Path, kind: str) -> None:
    """Together: the container by its name and image, and what its process was started with and computes with."""
    with toolbox(kind, tmp_path) as box:
        samples = exported(
            tmp_path,
            f"discovery: {{local: false, interval: 5s}}\ndocker: {{enabled: true, host: '{box.host}'}}\nhost: {{interval: 5s}}",
            "llm_probe_tokens_per_second",
        )
        info = labels_of(samples, "llm_target_info")
        assert (info["container"], info["image"], info["backend"]) == (NAME, IMAGE, "llama_cpp")
        assert info["url"] == f"http://127.0.0.1:{box.port}"
        settings = {
            dict(labels)["setting"]: dict(labels)["value"]
            for name, labels in samples
            if name == "llm_target_setting_info"
        }
        assert settings.items() >= {"slots": "2", "context": "2048", "flash_attention": "on", "compute": "cpu"}.items()
        assert (value(samples, "llm_probe_tokens_per_second", target=NAME) or 0) > 0


def test_a_toolbox_by_its_engine_alone(tmp_path: Path) -> None:
    """Where no process can be seen, Docker's list of processes gives the port and the settings on the command line.

    Podman has none for a container with the machine's processes.
    """
    with toolbox("docker", tmp_path) as box:
        samples = exported(
            tmp_path,
            f"discovery: {{local: false, interval: 5s}}\ndocker: {{enabled: true, host: '{box.host}'}}\n"
            f"host: {{interval: 5s, proc: '{tmp_path}/none'}}",
            "llm_target_setting_info",
        )
        info = labels_of(samples, "llm_target_info")
        assert (info["container"], info["url"]) == (NAME, f"http://127.0.0.1:{box.port}")
        assert labels_of(samples, "llm_target_setting_info", setting="flash_attention")["value"] == "on"


def test_a_toolbox_by_proc_alone(tmp_path: Path) -> None:
    """Where no engine can be asked, a target on its port is that process, its model's file included."""
    with toolbox("podman", tmp_path) as box:
        samples = exported(
            tmp_path,
            f"targets: [{{name: it, url: 'http://127.0.0.1:{box.port}'}}]\ndiscovery: {{local: false, docker: false}}\n"
            "docker: {enabled: false}\nhost: {interval: 5s}",
            "llm_target_setting_info",
        )
        assert labels_of(samples, "llm_target_setting_info", setting="compute")["value"] == "cpu"
        assert labels_of(samples, "llm_target_setting_info", setting="slots")["value"] == "2"
        assert labels_of(samples, "llm_target_info")["container"] == ""
