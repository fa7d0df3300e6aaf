"""Where caches are found, and which container shares one."""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.cache import folders
from exporter.cache.facts import CacheFolder
from exporter.cache.folders import candidates, find_caches, find_compile_caches
from exporter.cache.layouts import LAYOUTS

HOME = "/home/me"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"XDG_CACHE_HOME": "/xdg"},
        {"XDG_CACHE_HOME": "/xdg", "HF_HOME": "/hf"},
        {"HF_HOME": "~/hf"},
        {"HF_HOME": "$BASE/hf", "BASE": "/base"},
        {"HF_HOME": "/hf", "HUGGINGFACE_HUB_CACHE": "/old"},
        {"HF_HOME": "/hf", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "~/new"},
        {"HF_HUB_CACHE": "${BASE}/x$NOT_SET", "BASE": "/base"},
    ],
)
def test_the_precedence_of_huggingface_hub(environ: Mapping[str, str]) -> None:
    """The library itself, asked with the same environment, says the same path."""
    told = subprocess.run(
        [sys.executable, "-c", "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"],
        env={"PATH": os.environ["PATH"], "HOME": HOME, **environ},
        capture_output=True,
        check=True,
        text=True,
    )
    assert candidates(environ, HOME)[0] == CacheFolder("huggingface", "huggingface", told.stdout.strip())


def found(
    environ: Mapping[str, str], home: Path, *, others: tuple[str, ...] = (), services: tuple[str, ...] = ()
) -> list[tuple[str, str]]:
    """(name, path) of what is found."""
    folders = find_caches(environ, str(home), other_homes=others, services=services)
    return [(folder.name, folder.path) for folder in folders]


def test_only_what_is_there(tmp_path: Path) -> None:
    """An empty home has no caches; the usual folders are found, a service's beside one's own."""
    assert found({}, tmp_path) == []
    for path in (".cache/huggingface/hub", ".ollama/models", ".cache/llama.cpp", ".lmstudio/models", "service/models"):
        (tmp_path / path).mkdir(parents=True)
    service = f"{tmp_path}/service/models"
    assert found({}, tmp_path, services=(service,)) == [
        ("huggingface", f"{tmp_path}/.cache/huggingface/hub"),
        ("ollama", f"{tmp_path}/.ollama/models"),
        ("llama_cpp", f"{tmp_path}/.cache/llama.cpp"),
        ("lm_studio", f"{tmp_path}/.lmstudio/models"),
        ("ollama-2", service),
    ]


def test_no_folder_twice(tmp_path: Path) -> None:
    """llama.cpp pointed at the hub, at the folder above it or through a link, and root's home that is one's own."""
    hub = tmp_path / ".cache/huggingface/hub"
    hub.mkdir(parents=True)
    (tmp_path / "link").symlink_to(hub)
    for same in (hub, hub.parent, tmp_path / "link"):
        assert found({"LLAMA_CACHE": str(same)}, tmp_path, others=(str(tmp_path),)) == [("huggingface", str(hub))]


def test_one_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder on a dead network filesystem is kept as it is named, and not read again while the first reading hangs."""
    release = threading.Event()
    reads: list[str] = []

    def hang(path: str) -> str:
        reads.append(path)
        release.wait(30)
        raise FileNotFoundError

    monkeypatch.setattr(folders, "LOOK_SECONDS", 0.05)
    hanging = {**LAYOUTS, "ollama": replace(LAYOUTS["ollama"], folder_of=hang)}
    monkeypatch.setattr(folders, "LAYOUTS", hanging)
    try:
        for _ in range(2):
            assert found({}, tmp_path) == [("ollama", f"{tmp_path}/.ollama/models")]
        assert reads == [f"{tmp_path}/.ollama/models"]
    finally:
        release.set()
        folders._IDENTIFYING.pop(f"{tmp_path}/.ollama/models").join()


def test_compile_caches(tmp_path: Path) -> None:
    """They are kept apart, with a kind of their own."""
    (tmp_path / ".triton").mkdir()
    (tmp_path / "vllm").mkdir()
    folders = find_compile_caches({"VLLM_CACHE_ROOT": f"{tmp_path}/vllm"}, str(tmp_path))
    assert [(folder.name, folder.kind) for folder in folders] == [("vllm", "compiled"), ("triton", "compiled")]
