"""Every query of the dashboards and of Grafana's rules, over a Prometheus that scrapes the real daemon with the shipped files.

The daemon watches simulated servers of several fates, a real Docker engine with a container, and a cache. It also reads the
published values of a real GPU and a real ROCm installation (tests/fixtures/host). The files are built with ``--time-scale
0.05``. Some rules look back over days: for those the storage holds eighty minutes of made-up past, which are the last day on
that scale. All else is what the daemon exported while the test ran.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.build import ROOT
from grafana.panels import walk_panels
from tests.cache.build import Hub
from tests.ports import free_port
from tests.real.conftest import need
from tests.real.daemon import running_daemon, scrape, value
from tests.real.docker import DockerEngine, busybox_rootfs
from tests.real.prometheus import filled, missing_tools, query_range, running_prometheus, variables
from tests.servers.answering import AnsweringServer
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.simulated import Simulated
from tests.servers.user import User
from tests.servers.vllm import SimulatedVllm
from tests.waiting import eventually

pytestmark = pytest.mark.real

SCALE = 0.05
STEP = 0.75
"""Seconds from scrape to scrape on this scale."""
MODEL = "Qwen/Qwen2.5-14B-Instruct"
WEIGHTS, STUCK = 28 << 30, 1 << 20
"""Bytes of the model's file, which has a hole in it, and of a download that does not go on."""
HOST = ROOT / "tests/fixtures/host"
BOARDS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "grafana/dashboards").glob("*.json"))]
SHIPPED = yaml.safe_load((ROOT / "grafana/provisioning/alerting/llm-probe.yml").read_text(encoding="utf-8"))
RULES = [rule["title"] for rule in SHIPPED["groups"][0]["rules"]]
# What this machine of two fixture trees and these servers don't have: gpu_metrics with throttle reasons, a power cap, firmware,
# BIOS, deciding kernel parameters and power profiles; a file of the served model; drafted tokens; how long users wait; a server that is replaced;
# an alert that is critical, or only information;
# a step that no fact explains, which needs thirty good probes on one level. The golden exposition has all.
NOT_HERE = (
    "amdgpu_throttled",
    "amdgpu_power_cap_watts",
    "amdgpu_firmware_info",
    "amdgpu_vbios_info",
    "host_bios_info",
    "host_power_profile_info",
    "host_kernel_parameter_info",
    "llm_decode_efficiency_ratio",
    "llm_probe_speculative_accepted_ratio",
    "ceiling_share",
    "llm_last_change",
    "llm_unexplained_change",
    "llm_slowdown",
    "llm_answer_fault_info{",
    "llm_server_user_ttft",
    'severity="critical"',
    'severity="info"',
)
INTERVALS = {"__rate_interval": "15s", "__range": "1m", "__interval": "5s"}


@dataclass(frozen=True)
class Live:
    """A Prometheus that scraped the daemon, as ``instance``, from ``began`` to ``end``; its files lie in ``built``."""

    url: str
    instance: str
    began: float
    end: float
    built: Path

    def answers(self, expression: str) -> bool:
        """Whether an expression gave anything while the daemon ran."""
        return bool(query_range(self.url, expression, self.began, self.end, STEP))


def past(folder: Path, instance: str, end: float) -> str:
    """The made-up days before: ``fast`` with its first token after 0.1 s, a download that did not go on, and a file
    system that fills.
    """
    probe = {"target": "fast", "module": "default"}
    recorded = probe | {"model": MODEL}
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    at = [end - 80 * 60 + 30 * number for number in range(160)]
    series: list[tuple[str, Mapping[str, str], list[float]]] = [
        ("target_module:llm_probe_ttft_seconds:median_long", recorded, [0.1] * len(at)),
        ("llm_probes_total", probe | {"result": "ok"}, [10.0 * number for number in range(len(at))]),
        ("llm_model_cache_incomplete_bytes", {"cache": "hub"}, [STUCK] * len(at)),
        (
            "llm_model_cache_filesystem_free_bytes",
            {"mountpoint": mount_point(folder)},
            [free * (1 + 4 * (end - when) / 4800) for when in at],
        ),
    ]
    lines = []
    for name, labels, values in series:
        every = {"job": "llm-probe-exporter", "instance": instance} | dict(labels)
        text = ",".join(f'{key}="{each}"' for key, each in every.items())
        kind = "counter" if name.endswith("_total") else "unknown"
        lines.append(f"# TYPE {name.removesuffix('_total')} {kind}")
        lines += [f"{name}{{{text}}} {each:.9g} {when:.3f}" for when, each in zip(at, values, strict=True)]
    return "\n".join([*lines, "# EOF\n"])


def mount_point(path: Path) -> str:
    """Where the file system is mounted that a path lies on."""
    path = path.resolve()
    while not path.is_mount():
        path = path.parent
    return str(path)


def fill_cache(folder: Path) -> None:
    """A whole model and an unfinished download, as huggingface_hub leaves them."""
    hub = Hub(folder)
    header = json.dumps({"weight": {"dtype": "BF16", "shape": [WEIGHTS // 2], "data_offsets": [0, WEIGHTS]}}).encode()
    config = {"num_hidden_layers": 48, "num_key_value_heads": 8, "num_attention_heads": 40, "hidden_size": 5120}
    folder.mkdir()
    where = hub.repository(MODEL, {"config.json": json.dumps(config).encode()})
    blob = Hub.file(where, f"snapshots/{next((where / 'snapshots').iterdir()).name}/model.safetensors", 0)
    with blob.open("r+b") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + WEIGHTS)
    (hub.repository("Qwen/Qwen3-8B", {}) / "blobs" / "0123.incomplete").write_bytes(b"\1" * STUCK)


def configuration(folder: Path, servers: Mapping[str, Simulated], docker: str) -> Path:
    """The daemon's: each server is probed every three seconds, and all that can be read is read."""
    path = folder / "config.yml"
    targets = [
        {"name": name, "url": server.url, "budget": {"share": "100%"}, "modules": ["default"]}
        for name, server in servers.items()
    ]
    targets[0] |= {"scenario": "vllm-fp16", "modules": ["default", "parallel"]}
    targets[-1] |= {"modules": ["default", "canary"]}
    document = {
        "discovery": {"local": False, "docker": True, "interval": "3s"},
        "docker": {"enabled": True, "host": docker},
        "host": {"sysfs": str(folder / "sys"), "rocm": str(HOST / "rocm/classic/opt/rocm-7.2.0"), "interval": "3s"},
        "cache": {"interval": "5s", "paths": [{"name": "hub", "kind": "huggingface", "path": str(folder / "hub")}]},
        "modules": {
            "default": {"interval": "3s", "max_tokens": 12, "max_skips": 1000},
            "parallel": {"interval": "12s", "max_tokens": 16, "concurrency": 2},
            "canary": {"interval": "3s", "max_tokens": 64, "depth": 600},
        },
        "targets": targets,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(document))
    return path


def start_container(engine: DockerEngine, port: int, hub: Path) -> None:
    """A container with vLLM's command line, ROCm files and a mounted cache; the simulated server answers at its port."""
    rootfs = busybox_rootfs(
        {"usr/local/bin/vllm": "#!/bin/sh\nexec sleep 600\n", "opt/rocm/.info/version": "7.1.1-38\n"}
    )
    engine.import_image("example.org/live/vllm:1", rootfs, ["ENV PATH=/usr/local/bin:/bin"])
    options = ("--network=host", "--env=VLLM_ROCM_USE_AITER=0", f"--volume={hub}:/root/.cache/huggingface/hub")
    engine.start_container("vllm", "example.org/live/vllm:1", "vllm", "serve", MODEL, f"--port={port}", options=options)


@pytest.fixture(scope="module")
def live(shared_engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One minute and a half of the daemon's life in a Prometheus."""
    missing = missing_tools("prometheus", "promtool")
    need(not missing, f"prometheus ({missing})")
    folder = tmp_path_factory.mktemp("live")
    exporter = free_port()
    instance = f"127.0.0.1:{exporter}"
    built = folder / "built"
    build = ["-m", "grafana.build", "--out", str(built), "--time-scale", str(SCALE), "--exporter", instance]
    subprocess.run([sys.executable, *build], cwd=ROOT, check=True)
    fill_cache(folder / "hub")
    for tree in ("sys/radeon-880m", "rocm/classic/sys"):
        shutil.copytree(HOST / tree, folder / "sys", dirs_exist_ok=True)
    began = time.time()
    (folder / "past.txt").write_text(past(folder, instance, began - 60))
    backfill = ["tsdb", "create-blocks-from", "openmetrics", str(folder / "past.txt"), str(folder / "tsdb")]
    subprocess.run(["promtool", *backfill], check=True, capture_output=True)
    fast = SimulatedVllm(tokens_per_second=24, prefill_seconds=0.05, model=MODEL)
    servers: dict[str, Simulated] = {
        "fast": fast,
        "loads": (loads := SimulatedLlamaServer()),
        "busy": (busy := SimulatedVllm(tokens_per_second=24, prefill_seconds=0.05, model="one")),
        "contained": (contained := SimulatedVllm(tokens_per_second=24, prefill_seconds=0.05, model=MODEL)),
        "thinks": (thinks := SimulatedVllm(tokens_per_second=24, model="two")),
        "hangs": SimulatedLlamaServer(prefill_seconds=600),
        "recalls": AnsweringServer(logprobs=True, tokens_per_second=40),
    }
    busy.users = 3
    loads.loading, loads.generated = True, 0
    thinks.thinks = 4
    with ExitStack() as stack:
        for server in servers.values():
            stack.enter_context(server)
        start_container(shared_engine, int(contained.url.rpartition(":")[2]), folder / "hub")
        stack.callback(shared_engine.remove_containers)
        prometheus = stack.enter_context(
            running_prometheus(built / "deploy/prometheus/prometheus.yml", folder / "tsdb")
        )
        time.sleep(3 * STEP)  # without an exporter: nothing is known of it
        config = configuration(folder, servers, shared_engine.host)
        daemon = stack.enter_context(running_daemon("--config", config, port=exporter, log=folder / "daemon.log"))
        assert daemon.poll() is None
        eventually(lambda: probed(exporter, "fast") >= 5, what="five speeds")
        stack.enter_context(User(thinks.url, tokens=1500))
        loads.loading = False
        fast.pace = 1 / 6.4
        fast.prefill_seconds = 0.6
        eventually(lambda: probed(exporter, "fast") >= 14, what="nine slow speeds after them", seconds=180)
        yield Live(prometheus, instance, began, time.time(), built)


def probed(port: int, target: str) -> float:
    """How many probes of a target succeeded."""
    return value(scrape(port), "llm_probes_total", target=target, module="default", result="ok") or 0.0


def choices(board: Mapping[str, Any], live: Live) -> list[dict[str, str]]:
    """What a user may have chosen: on the dashboard of one server, one after another, since no server has all there is."""
    if board["uid"] == "llm-compare":
        return [{"baseline": "contained", "candidate": "fast", "module": "default", "offset": "15s", "window": "30s"}]
    if board["uid"] == "llm-target":
        pairs = [
            ("fast", "default"),
            ("fast", "parallel"),
            ("loads", "default"),
            ("thinks", "default"),
            ("recalls", "canary"),
        ]
        return [{"instance": live.instance, "target": target, "module": module} for target, module in pairs]
    return [{}]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board["uid"])
def test_every_panel_has_data_of_the_real_daemon(live: Live, board: dict[str, Any]) -> None:
    """No query of a panel is an error, and none that this machine could answer is empty for as long as the daemon ran."""
    empty = []
    for panel in walk_panels(board):
        for target in panel["targets"]:
            asked = [filled(target["expr"], board, INTERVALS | chosen) for chosen in choices(board, live)]
            absent = any(name in target["expr"] for name in NOT_HERE)
            if not absent and not any(live.answers(expression) for expression in asked):
                empty.append(f"{panel['title']}: {asked[0]}")
    assert not empty, "\n".join(empty)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board["uid"])
def test_every_variable_has_values_of_the_real_daemon(live: Live, board: dict[str, Any]) -> None:
    """What Grafana would offer to choose from is there."""
    for name, expression in variables(board, INTERVALS | choices(board, live)[0]):
        assert live.answers(expression), name


@pytest.mark.parametrize("name", RULES)
def test_every_grafana_rule_has_data_of_the_real_daemon(live: Live, name: str) -> None:
    """Each query of a rule, as Grafana sends it, gave data at some time."""
    written = (live.built / "grafana/provisioning/alerting/llm-probe.yml").read_text(encoding="utf-8")
    (rule,) = (rule for rule in yaml.safe_load(written)["groups"][0]["rules"] if rule["title"] == name)
    queries = [part["model"]["expr"] for part in rule["data"] if "expr" in part["model"]]
    assert queries
    asked = [expression for expression in queries if not any(name in expression for name in NOT_HERE)]
    assert [expression for expression in asked if not live.answers(expression)] == []
