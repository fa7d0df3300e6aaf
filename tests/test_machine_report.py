"""What ``machine`` prints of a machine: all that is known, why the rest isn't, and nothing private."""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from exporter.cli import main
from exporter.oneshot import ENGINE_SECONDS
from tests.cache.build import sparse_gguf
from tests.host.machines import build
from tests.host.proc_tree import ProcTree

USER = "canary-user"
SERIALS = {
    "sys/class/dmi/id/product_serial": "SERIAL-1-canary",
    "sys/class/dmi/id/board_serial": "SERIAL-2-canary",
    "sys/class/dmi/id/product_uuid": "5e12a1b0-0000-4000-8000-00000canary0",
    "sys/class/drm/card1/device/unique_id": "51276ac12ce0canary",
    "sys/class/drm/card1/device/serial_number": "SERIAL-3-canary",
}
"""What files hold beside those that are read, and never a report."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A Strix Halo with a llama-server whose model lies in a home folder, as files."""
    root = build("framework-desktop-fedora", tmp_path / "machine")
    for place, serial in SERIALS.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(f"{serial}\n")
    folder = tmp_path / "home" / USER / "models"
    folder.mkdir(parents=True)
    model = sparse_gguf(
        folder / "qwen2.5-14b-q8.gguf",
        {"general.architecture": "qwen2", "general.file_type": 7, "qwen2.block_count": 48},
        {
            "token_embd.weight": ((5120, 152_064), 8),
            "output.weight": ((5120, 152_064), 8),
            "blk.0.x": ((5120, 2_560_000), 8),
        },
    )
    tree = ProcTree(tmp_path / "proc")
    tree.network(1, (8080, 1000, 7))
    information = tree.path / "driver/nvidia/gpus/0000:0a:00.0/information"
    information.parent.mkdir(parents=True)
    information.write_text("Model: \t\t NVIDIA GeForce RTX 3090\nGPU UUID: \t GPU-canary-uuid\n")
    command = [
        "/usr/bin/llama-server",
        "-m",
        str(model),
        "--port",
        "8080",
        "--api-key",
        "sk-canary0123456789",
        "-ngl",
        "99",
    ]
    tree.add(200, command, environment={"HOME": f"/home/{USER}"}, libraries=[], sockets=[7])
    path = tmp_path / "config.yml"
    path.write_text(
        f"host: {{sysfs: {root / 'sys'}, proc: {tree.path}, rocm: {tmp_path / 'rocm'}}}\n"
        "docker: {enabled: false}\ncache: {paths: []}\n"
    )
    return path


def printed(config: Path, *options: str) -> str:
    """What the command prints."""
    result = CliRunner().invoke(main, ["machine", "--config", str(config), *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_what_is_known_of_a_machine(config: Path) -> None:
    """GPU with its bandwidth, firmware and kernel, the server with its settings; and why the rest is unknown."""
    found = json.loads(printed(config, "--json"))
    (gpu,) = found["gpus"]
    assert (gpu["name"], gpu["gfx_target"], gpu["bandwidth_bytes_per_second"]) == ("Radeon 8060S", "gfx1151", 256e9)
    assert gpu["firmware"]
    (server,) = found["servers"]
    assert (server["backend"], server["model"]) == ("llama_cpp", "qwen2.5-14b-q8.gguf")
    assert server["weights_bytes"] > 1e9
    unknown = {each["what"]: each["why"] for each in found["unknown"]}
    assert unknown["containers"] == "the configuration says docker: {enabled: false}"
    assert all(unknown.values())


@pytest.mark.parametrize("options", [(), ("--json",), ("--markdown",)])
def test_nothing_private_is_printed(config: Path, options: tuple[str, ...]) -> None:
    """No user name, folder, key or host name, in none of the forms."""
    text = printed(config, *options)
    assert "Radeon 8060S" in text
    own = (USER, "sk-canary", str(config.parent), os.uname().nodename, "/home", "root=UUID", "systemd.hostname")
    for private in (*own, *SERIALS.values(), "canary-uuid", "canary"):
        assert private not in text, private


def test_it_takes_less_than_two_seconds(config: Path, tmp_path: Path) -> None:
    """Beside a thousand other processes, and with a container engine that takes a connection and never answers.

    Its work is counted, which a busy machine hardly changes; for the engine it waits a second at most.
    """
    tree = tmp_path / "proc"
    for pid in range(1000, 2000):
        (tree / str(pid)).mkdir()
        (tree / str(pid) / "cmdline").write_bytes(b"/usr/lib/firefox/firefox\0-contentproc\0")
        (tree / str(pid) / "stat").write_text(f"{pid} (firefox) S 1 {pid} {pid} {' '.join(['0'] * 15)} 1234 0 0\n")
    with socket.socket(socket.AF_UNIX) as engine:
        place = tmp_path / "e.sock"
        engine.bind(str(place))
        engine.listen(5)
        config.write_text(config.read_text().replace("enabled: false", f"host: 'unix://{place}'"))
        command = [sys.executable, "-m", "exporter", "machine", "--json", "--config", str(config)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout)
    assert [server["backend"] for server in found["servers"]] == ["llama_cpp"]
    assert (
        f"did not answer within {ENGINE_SECONDS:g} s"
        in {each["what"]: each["why"] for each in found["unknown"]}["containers"]
    )
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert worked < 2


def test_all_that_is_known_of_a_gpu(config: Path) -> None:
    """Memory in the page's units with carve-out and GTT, firmware by block, vBIOS, another maker's GPU; why the rest is unknown."""
    text = printed(config)
    assert "133 GB for models, carve-out 537 MB, GTT 133 GB, 256 GB/s (table)" in text
    assert "mes 0x83, mes_kiq 0x6f, vBIOS 113-STRXLGEN-001" in text
    assert "NVIDIA GeForce RTX 3090 (0000:0a:00.0), driver nvidia" in text
    assert "GiB" not in text
    unknown = {each["what"]: each["why"] for each in json.loads(printed(config, "--json"))["unknown"]}
    assert unknown["power limit of Radeon 8060S"] == "its driver has no power1_cap, as on every APU"
    assert "the driver nvidia" in unknown["memory and sensors of NVIDIA GeForce RTX 3090"]


def test_advice_is_about_the_gpu_that_serves(config: Path, tmp_path: Path) -> None:
    """The memory of a processor's small GPU is no fault where the card beside it runs the model."""
    root = build("ryzen-7800x3d-rx-7900-xtx", tmp_path / "ryzen")
    at_first = str(tmp_path / "machine" / "sys")
    config.write_text(config.read_text().replace(at_first, str(root / "sys")))
    shutil.rmtree(tmp_path / "proc" / "driver" / "nvidia")
    process = tmp_path / "proc" / "200" / "maps"
    process.write_text("7f0000000000-7f0000001000 r-xp 00000000 fe:00 12 /usr/lib/libvulkan_radeon.so\n")
    (igpu,) = (each for each in json.loads(printed(config, "--json"))["gpus"] if each["unified_memory"])
    assert igpu["memory_pool_bytes"] == pytest.approx(16.4e9, rel=0.01)
    model = tmp_path / "home" / USER / "models" / "qwen2.5-14b-q8.gguf"
    tensors = {"token_embd.weight": ((5120, 152_064), 8), "blk.0.x": ((5120, 4_200_000), 8)}
    sparse_gguf(model, {"general.architecture": "qwen2", "general.file_type": 7, "qwen2.block_count": 48}, tensors)
    found = json.loads(printed(config, "--json"))
    (server,) = found["servers"]
    assert server["weights_bytes"] > igpu["memory_pool_bytes"]
    assert server["gpu"].startswith("Radeon RX 7900 XTX")
    assert found["advice"] == []


def test_markdown_is_a_table(config: Path) -> None:
    """Every line has two cells, whatever a text holds."""
    lines = printed(config, "--markdown").splitlines()
    assert lines[:2] == ["| what | |", "|---|---|"]
    assert all(line.startswith("| ") and line.endswith(" |") for line in lines[2:])
