"""What changed, and what it cost, over real parts: a container that is replaced, and a model file that is swapped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grafana.build import ROOT
from tests.ports import free_port
from tests.real.conftest import need
from tests.real.daemon import labels_of, running_daemon, scrape, value
from tests.real.docker import DockerEngine, busybox_rootfs
from tests.real.llama import LLAMA_SERVER, MAKE_MODEL, llama_server, running_llama
from tests.real.prometheus import Webhook, missing_tools, running_alertmanager, running_prometheus
from tests.test_changes import WITHIN, changes, get, good
from tests.waiting import eventually

pytestmark = pytest.mark.real

SCALE = 0.05
BEFORE, AFTER = 60.0, 31.8
"""Tokens a second, 47 % apart."""
OLD, NEW = "example.org/vllm:0.11", "example.org/vllm:0.12"
MODEL = "Qwen/Qwen2.5-14B-Instruct"
SERVE = f"""
import sys, threading
sys.path.insert(0, {str(ROOT)!r})
from tests.servers.vllm import SimulatedVllm
server = SimulatedVllm(tokens_per_second=float(sys.argv[1]), prefill_seconds=0.02, model={MODEL!r})
server.start(int(sys.argv[2]))
threading.Event().wait()
"""


def make_images(engine: DockerEngine) -> None:
    """Two images that differ in the speed of their server, a simulated vLLM; Python comes from the host's files."""
    for tag, speed in ((OLD, BEFORE), (NEW, AFTER)):
        script = (
            "#!/bin/sh\n"
            'while [ "$#" -gt 0 ]; do case "$1" in --port=*) port="${1#--port=}";; esac; shift; done\n'
            f'exec busybox chroot /host {sys.executable} -B -c "$SERVE" {speed} "$port"\n'
        )
        rootfs = busybox_rootfs({"usr/local/bin/vllm": script, "speed": str(speed)})
        engine.import_image(tag, rootfs, ["ENV PATH=/usr/local/bin:/bin"])


def start(engine: DockerEngine, image: str, port: int) -> None:
    """Start the container of an image in the place of the one before."""
    engine.remove_containers()
    options = ("--network=host", "--volume=/:/host:ro", f"--env=SERVE={SERVE}")
    engine.start_container("vllm", image, "vllm", "serve", MODEL, f"--port={port}", options=options)


def configure(folder: Path, url: str, docker: str) -> Path:
    """A daemon that probes every two seconds, and reads the engine as often."""
    path = folder / "config.yml"
    path.write_text(f"""
targets: [{{name: vllm, url: "{url}", budget: {{share: 100%}}, modules: [default]}}]
modules: {{default: {{interval: 2s, max_tokens: 32}}}}
discovery: {{local: false, docker: true, interval: 2s}}
docker: {{enabled: true, host: "{docker}"}}
host: {{sysfs: {folder}, rocm: {folder}, interval: 2s}}
cache: {{paths: []}}
history: {{path: {folder / "history.sqlite"}}}
""")
    return path


@contextmanager
def alerting(folder: Path, exporter: int, webhook: Webhook) -> Iterator[None]:
    """Prometheus and Alertmanager with the shipped files, their times a twentieth."""
    alertmanager = free_port()
    build = [sys.executable, "-m", "grafana.build", "--out", str(folder), "--time-scale", str(SCALE)]
    build += ["--webhook-url", webhook.url, "--exporter", f"127.0.0.1:{exporter}"]
    build += ["--alertmanager", f"127.0.0.1:{alertmanager}"]
    subprocess.run(build, cwd=ROOT, check=True)
    deploy = folder / "deploy"
    with (
        running_alertmanager(deploy / "alertmanager/alertmanager.yml", folder / "am", alertmanager),
        running_prometheus(deploy / "prometheus/prometheus.yml", folder / "tsdb"),
    ):
        yield


def test_a_container_of_a_slower_image_is_named_everywhere(docker_engine: DockerEngine, tmp_path: Path) -> None:
    """The image is replaced while the daemon is dead: metrics, page, API, command and webhook name it within 6 probes."""
    missing = missing_tools("prometheus", "promtool", "prometheus-alertmanager", "amtool")
    need(not missing, f"prometheus and prometheus-alertmanager ({missing})")
    make_images(docker_engine)
    server, exporter = free_port(), free_port()
    config = configure(tmp_path, f"http://127.0.0.1:{server}", docker_engine.host)
    start(docker_engine, OLD, server)
    with Webhook() as webhook, alerting(tmp_path / "built", exporter, webhook):
        with running_daemon("--config", config, port=exporter, log=tmp_path / "first.log") as daemon:
            eventually(lambda: good(scrape(exporter)) >= 12, "a dozen of good probes", seconds=120)
            assert labels_of(scrape(exporter), "llm_target_info", target="vllm")["image"] == OLD
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
        start(docker_engine, NEW, server)
        with running_daemon("--config", config, port=exporter, log=tmp_path / "second.log"):
            eventually(
                lambda: value(scrape(exporter), "llm_slowdown_speed_ratio", target="vllm") is not None,
                "the drop is told",
                seconds=120,
            )
            samples = scrape(exporter)
            assert good(samples) <= WITHIN
            told = labels_of(samples, "llm_slowdown_speed_ratio", target="vllm")
            assert "image" in told["what"].split(", ")
            assert OLD in told["before"]
            assert NEW in told["after"]
            ratio = value(samples, "llm_slowdown_speed_ratio", target="vllm")
            assert ratio == pytest.approx(AFTER / BEFORE, rel=0.1)
            page = " ".join(get(exporter, "/").split())
            assert f"mage changed from {OLD}" in page
            assert f"to {NEW}" in page
            asked = changes(exporter, config, "--target", "vllm")
            assert f"image changed from {OLD}" in asked.stdout, asked.stderr
            assert "slower: " in asked.stdout
            eventually(
                lambda: bool(webhook.got("LLMSlowerSinceChange", "firing", "vllm")), "the webhook is told", seconds=60
            )
            (alert, *_) = webhook.got("LLMSlowerSinceChange", "firing", "vllm")
            said = alert["annotations"]["description"]
            assert OLD in said
            assert NEW in said
            assert f"{100 * (ratio or 0):.4g}%"[:2] in said
            print(f"told after {good(samples):g} good probes: {said}")


def test_another_quantization_under_the_same_name_is_a_change_of_weights(tmp_path: Path) -> None:
    """A real llama-server is restarted with another file at the same path: its weights have changed, its name has not."""
    binary = llama_server()
    need(binary, LLAMA_SERVER)
    assert binary is not None
    path, port, exporter = tmp_path / "model.gguf", free_port(), free_port()

    def make(kind: str) -> None:
        command: list[str | Path] = [sys.executable, MAKE_MODEL, "--ctx", "4096", "--type", kind, "--gguf", path]
        subprocess.run(command, check=True, capture_output=True)

    config = tmp_path / "config.yml"
    config.write_text(f"""
targets: [{{name: llama, url: "http://127.0.0.1:{port}", budget: {{share: 100%}}, modules: [default]}}]
modules: {{default: {{interval: 1s, max_tokens: 32}}}}
discovery: {{local: false, docker: false}}
docker: {{enabled: false}}
host: {{sysfs: {tmp_path}, rocm: {tmp_path}, interval: 1s}}
cache: {{paths: [], interval: 2s}}
history: {{path: {tmp_path / "history.sqlite"}}}
""")

    def told(what: str) -> dict[str, str]:
        every = json.loads(get(exporter, "/api/v1/changes"))["changes"]
        found: list[dict[str, str]] = [each for change in every for each in change["differences"]]
        return next((each for each in found if each["what"] == what), {})

    make("Q8_0")
    with running_daemon("--config", config, port=exporter, log=tmp_path / "log"):
        with running_llama(binary, path, port, "--alias", "model"):
            eventually(lambda: probed(exporter) >= 5, "five probes", seconds=120)
        with running_llama(binary, path, port, "--alias", "model"):
            before = probed(exporter)
            eventually(lambda: probed(exporter) >= before + 5, "five more of the same file", seconds=120)
            assert value(scrape(exporter), "llm_last_change_timestamp_seconds", target="llama") is None
        os.utime(path, (time.time() - 3600, time.time() - 3600))
        make("Q4_0")
        with running_llama(binary, path, port, "--alias", "model"):
            eventually(lambda: told("weights") and told("weights file"), "the change of weights", seconds=120)
            found = told("weights")
            assert int(found["before"].split()[0]) > 1.5 * int(found["after"].split()[0])
            eventually(lambda: told("quantization"), "the change of quantization", seconds=60)
            assert told("quantization") == {"what": "quantization", "before": "Q8_0", "after": "Q4_0"}
            assert not told("model")


def probed(port: int) -> float:
    """How many probes of the llama-server were good."""
    return value(scrape(port), "llm_probes_total", target="llama", module="default", result="ok") or 0.0
