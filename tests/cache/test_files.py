"""Plain folders: llama.cpp's, LM Studio's, and any that is configured."""

import os
from pathlib import Path

import pytest

from exporter.cache import files
from exporter.cache.weights import Header, read_gguf_header
from tests.cache.build import SMALL_GGUF, Hub, answer_of, index, model_named, safetensors, scan, settle


def shards(folder: Path, stem: str, numbers: list[int], count: int) -> None:
    """Shards of a GGUF, all with the same content."""
    for number in numbers:
        (folder / f"{stem}-{number:05d}-of-{count:05d}.gguf").write_bytes(SMALL_GGUF)


def test_each_gguf_is_a_model(tmp_path: Path) -> None:
    """A single file, a whole set of shards and one with a hole, each by its name without the numbers."""
    (tmp_path / "one.gguf").write_bytes(SMALL_GGUF)
    shards(tmp_path, "whole", [1, 2], 2)
    shards(tmp_path, "hole", [1, 3], 3)
    (tmp_path / "notes.txt").write_text("mine")
    facts = scan("files", tmp_path)
    assert [(model.name, model.complete, model.missing) for model in facts.models] == [
        ("hole", False, ("hole-00002-of-00003.gguf",)),
        ("one", True, ()),
        ("whole", True, ()),
    ]
    assert model_named(facts, "whole").bytes == 2 * len(SMALL_GGUF)
    assert facts.bytes == 5 * len(SMALL_GGUF) + 4


def test_a_folder_of_safetensors(tmp_path: Path) -> None:
    """A folder with safetensors is one model with all its files, named by its path."""
    folder = tmp_path / "org" / "m"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"num_hidden_layers": 1}')
    (folder / "model.safetensors.index.json").write_bytes(index({"a": "x.safetensors", "b": "y.safetensors"}, 100))
    (folder / "x.safetensors").write_bytes(safetensors({"a": 50}))
    model = model_named(scan("files", tmp_path), "org/m")
    assert (model.complete, model.missing) == (False, ("y.safetensors",))
    (folder / "y.safetensors").write_bytes(safetensors({"b": 50}))
    model = model_named(scan("files", tmp_path), "org/m")
    assert model.complete is True
    assert model.bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_one_file_by_many_names(tmp_path: Path) -> None:
    """Hard links and links, to files and to folders, take no second room in the total."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "m.gguf").write_bytes(SMALL_GGUF)
    os.link(tmp_path / "a" / "m.gguf", tmp_path / "hard.gguf")
    (tmp_path / "soft.gguf").symlink_to("a/m.gguf")
    (tmp_path / "b").symlink_to("a")
    facts = scan("files", tmp_path)
    assert facts.bytes == len(SMALL_GGUF)
    assert {model.bytes for model in facts.models} == {len(SMALL_GGUF)}


def test_lm_studio(tmp_path: Path) -> None:
    """Publisher, repository and file make the name; a part of a download is not a model."""
    folder = tmp_path / "publisher" / "repository"
    folder.mkdir(parents=True)
    (folder / "m-Q4_K_M.gguf").write_bytes(SMALL_GGUF)
    (folder / "downloading_m-Q8_0.gguf.part").write_bytes(bytes(4096))
    facts = scan("lm_studio", tmp_path)
    assert [model.name for model in facts.models] == ["publisher/repository/m-Q4_K_M"]
    assert (facts.incomplete_bytes, facts.bytes) == (4096, len(SMALL_GGUF))


def test_llama_cpp_old_and_new(tmp_path: Path) -> None:
    """The flat files and the hub layout of one folder are both there, and nothing is counted twice."""
    (tmp_path / "org_repo_m.gguf").write_bytes(SMALL_GGUF)
    (tmp_path / "org_repo_m.gguf.json").write_text("{}")
    (tmp_path / "org_repo_n.gguf.downloadInProgress").write_bytes(bytes(4096))
    Hub(tmp_path).repository("org/new", {"m.gguf": SMALL_GGUF})
    (tmp_path / ".locks").mkdir()
    (tmp_path / ".locks" / "x.lock").write_text("locked")
    facts = scan("llama_cpp", tmp_path)
    assert [(model.name, model.complete) for model in facts.models] == [("org/new", True), ("org_repo_m", True)]
    assert facts.bytes == 2 * len(SMALL_GGUF) + 2
    assert facts.incomplete_bytes == 4096


def test_a_rescan_reads_no_header_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers of files that kept their size and time are not read; one that changed is."""
    (tmp_path / "still.gguf").write_bytes(SMALL_GGUF)
    (tmp_path / "changed.gguf").write_bytes(SMALL_GGUF)
    settle(tmp_path)
    first = answer_of("files", tmp_path)
    read: list[str] = []

    def reader(name: str, dir_fd: int | None = None) -> Header:
        read.append(name)
        return read_gguf_header(name, dir_fd)

    monkeypatch.setattr(files, "read_gguf_header", reader)
    assert answer_of("files", tmp_path, first.models).models == first.models
    assert read == []
    (tmp_path / "changed.gguf").write_bytes(SMALL_GGUF[:-1])
    model = model_named(scan("files", tmp_path, first.models), "changed")
    assert (model.complete, read) == (False, ["changed.gguf"])


def test_compiled_code(tmp_path: Path) -> None:
    """It is no model, and not in the size of a cache."""
    (tmp_path / "torch_compile_cache").mkdir()
    (tmp_path / "torch_compile_cache" / "kernel.so").write_bytes(bytes(500))
    facts = scan("compiled", tmp_path)
    assert (facts.bytes, facts.models, facts.compile_cache_bytes) == (0, (), 500)
