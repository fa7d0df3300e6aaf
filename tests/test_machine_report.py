"""What ``machine`` prints of a machine: all that is known, why the rest isn't, and nothing private."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from exporter.cli import main
from tests.cache.build import sparse_gguf
from tests.host.machines import build
from tests.host.proc_tree import ProcTree

USER = "canary-user"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A Strix Halo with a llama-server whose model lies in a home folder, as files."""
    root = build("framework-desktop-fedora", tmp_path / "machine")
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
    words = [
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
    tree.add(200, words, environment={"HOME": f"/home/{USER}"}, libraries=[], sockets=[7])
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
    for private in (USER, "sk-canary", str(config.parent), os.uname().nodename, "/home"):
        assert private not in text


def test_markdown_is_a_table(config: Path) -> None:
    """Every line has two cells, whatever a text holds."""
    lines = printed(config, "--markdown").splitlines()
    assert lines[:2] == ["| what | |", "|---|---|"]
    assert all(line.startswith("| ") and line.endswith(" |") for line in lines[2:])
