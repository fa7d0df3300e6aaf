"""Ollama's manifests and layers."""

import hashlib
import os
from pathlib import Path

from tests.cache.build import SMALL_GGUF, answer_of, model_named, ollama, scan, settle

LICENCE = b"some licence"


def test_tags_that_share_layers(tmp_path: Path) -> None:
    """A layer that two tags name counts in both and once in all; names are as Ollama prints them."""
    ollama(tmp_path, "qwen3:8b", {"model": SMALL_GGUF, "license": LICENCE, "config": b"{}"})
    ollama(tmp_path, "qwen3:chat", {"model": SMALL_GGUF, "system": b"be brief", "config": b"{}"})
    ollama(tmp_path, "own:1", {"model": b"GGUF?", "config": b"{ }"}, host="registry.ollama.ai/somebody")
    ollama(tmp_path, "repo:Q4_K_M", {"model": SMALL_GGUF, "config": b"{}"}, host="hf.co/org")
    facts = scan("ollama", tmp_path)
    assert [(model.name, model.complete) for model in facts.models] == [
        ("hf.co/org/repo:Q4_K_M", True),
        ("qwen3:8b", True),
        ("qwen3:chat", True),
        ("somebody/own:1", True),
    ]
    assert model_named(facts, "qwen3:8b").bytes == len(SMALL_GGUF) + len(LICENCE) + 2
    assert facts.bytes == sum(path.stat().st_size for path in (tmp_path / "blobs").iterdir())


def test_the_folder_above(tmp_path: Path) -> None:
    """``~/.ollama`` serves as well as its ``models``."""
    ollama(tmp_path / "models", "m:1", {"model": SMALL_GGUF, "config": b"{}"})
    assert [model.name for model in scan("ollama", tmp_path).models] == ["m:1"]


def test_layers_that_are_not_there(tmp_path: Path) -> None:
    """A missing or short layer makes its tag incomplete, with the layer's name."""
    ollama(tmp_path, "m:1", {"model": SMALL_GGUF, "license": LICENCE, "config": b"{}"})
    model = tmp_path / "blobs" / f"sha256-{hashlib.sha256(SMALL_GGUF).hexdigest()}"
    os.truncate(model, 100)
    short = model_named(scan("ollama", tmp_path), "m:1")
    assert (short.complete, short.missing) == (False, (f"{model.name}: has 100 of {len(SMALL_GGUF)} bytes",))
    model.unlink()
    gone = model_named(scan("ollama", tmp_path), "m:1")
    assert (gone.complete, gone.missing) == (False, (model.name,))
    assert gone.bytes == len(LICENCE) + 2


def test_partial_and_orphaned_layers(tmp_path: Path) -> None:
    """A download is counted by the blocks it has, not by the size that its file has from the start; orphans apart."""
    ollama(tmp_path, "m:1", {"model": SMALL_GGUF, "config": b"{}"})
    with (tmp_path / "blobs" / f"sha256-{'a' * 64}-partial").open("wb") as file:
        file.truncate(1 << 30)
        file.write(bytes(4096))
    (tmp_path / "blobs" / f"sha256-{'a' * 64}-partial-0").write_text('{"N": 0}')
    (tmp_path / "blobs" / f"sha256-{'b' * 64}").write_bytes(bytes(321))
    facts = scan("ollama", tmp_path)
    assert (facts.incomplete_bytes, facts.orphaned_bytes) == (4096, 321)
    assert facts.bytes == len(SMALL_GGUF) + 2


def test_a_rescan(tmp_path: Path) -> None:
    """Nothing changed gives the same; a growing download, a use and a new tag are seen."""
    ollama(tmp_path, "m:1", {"model": SMALL_GGUF, "config": b"{}"})
    partial = tmp_path / "blobs" / f"sha256-{'a' * 64}-partial"
    partial.write_bytes(bytes(4096))
    settle(tmp_path)
    first = answer_of("ollama", tmp_path)
    assert sorted(answer_of("ollama", tmp_path, first.models).models, key=str) == sorted(first.models, key=str)
    with partial.open("ab") as file:
        file.write(bytes(4096))
    blob = tmp_path / "blobs" / f"sha256-{hashlib.sha256(SMALL_GGUF).hexdigest()}"
    os.utime(blob, (2_000_000_000, blob.stat().st_mtime))
    facts = scan("ollama", tmp_path, first.models)
    assert facts.incomplete_bytes == 8192
    assert model_named(facts, "m:1").last_used_seconds == 2_000_000_000
    ollama(tmp_path, "m:2", {"model": SMALL_GGUF, "config": b"{}"})
    assert [model.name for model in scan("ollama", tmp_path, first.models).models] == ["m:1", "m:2"]


def test_weights_of_a_layer(tmp_path: Path) -> None:
    """The layer of the model is a GGUF, with all that its header says."""
    ollama(tmp_path, "m:1", {"model": SMALL_GGUF, "config": b"{}"})
    weights = model_named(scan("ollama", tmp_path), "m:1").weights
    assert weights is not None
    assert (weights.weight_bytes, weights.quantization, weights.kv_elements_per_token) == (2176 * 2 + 4352, "Q8_0", 128)
