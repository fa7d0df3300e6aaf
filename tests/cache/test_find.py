"""Which model a server means."""

from pathlib import Path

import pytest

from exporter.cache.find import find_model, find_weights
from tests.cache.build import COMMIT, SMALL_GGUF, Hub, gguf, ollama, safetensors, scan


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("org/Model-8B", "org/Model-8B"),
        ("ORG/model-8b", "org/Model-8B"),
        ("model-8b", "org/Model-8B"),
        (f"/root/.cache/huggingface/hub/models--org--Model-8B/snapshots/{COMMIT}", "org/Model-8B"),
        ("/models/flat-Q4_K_M.gguf", "flat-Q4_K_M"),
        ("flat-Q4_K_M", "flat-Q4_K_M"),
        ("/models/big-00001-of-00002.gguf", "big"),
        ("qwen3", "qwen3:latest"),
        ("qwen3:8b", "qwen3:8b"),
        ("org/quants:Q8_0", "org/quants"),
        ("/x/m-Q8_0.gguf", "org/quants"),
        ("gpt-4", None),
        ("", None),
    ],
)
def test_find_model(tmp_path: Path, said: str, name: str | None) -> None:
    """By id, path, file, shard, tag or quantization; never by guess."""
    hub = Hub(tmp_path / "hub")
    hub.repository("org/Model-8B", {"model.safetensors": safetensors({"a": 64})})
    other = gguf({"general.architecture": "x", "general.file_type": 1}, {"token_embd.weight": ((32,), 1)})
    hub.repository("org/quants", {"m-Q4_0.gguf": SMALL_GGUF, "m-Q8_0.gguf": other})
    (tmp_path / "flat").mkdir()
    for file in ("flat-Q4_K_M.gguf", "big-00001-of-00002.gguf", "big-00002-of-00002.gguf"):
        (tmp_path / "flat" / file).write_bytes(SMALL_GGUF)
    for tag in ("qwen3:8b", "qwen3:latest"):
        ollama(tmp_path / "ollama", tag, {"model": SMALL_GGUF, "config": b"{}"})
    caches = [
        scan("huggingface", tmp_path / "hub"),
        scan("files", tmp_path / "flat"),
        scan("ollama", tmp_path / "ollama"),
    ]
    model = find_model(caches, said)
    assert (None if model is None else model.name) == name
    if said == "org/quants:Q8_0":
        weights = find_weights(caches, said)
        assert weights is not None
        assert weights.weight_bytes == 64
    if name == "org/quants":
        assert find_weights(caches, "org/quants") is None


def test_another_scan_is_another_answer(tmp_path: Path) -> None:
    """What was found in one scan is not kept for the next; a complete model wins over one that came before it."""
    cut = {"model.safetensors": safetensors({"a": 64})[:-1]}
    for hub in ("one", "two"):
        Hub(tmp_path / hub).repository("org/Model-8B", cut)
    before = [scan("huggingface", tmp_path / hub) for hub in ("one", "two")]
    assert find_model(before, "model-8b") is before[0].models[0]
    Hub(tmp_path / "two").repository("org/Other", {"model.safetensors": safetensors({"a": 64})})
    Hub(tmp_path / "three").repository("org/Model-8B", {"model.safetensors": safetensors({"a": 64})})
    after = [*before, scan("huggingface", tmp_path / "two"), scan("huggingface", tmp_path / "three")]
    assert find_model(after, "other") is not None
    assert find_model(after, "model-8b") is after[3].models[0]
    assert find_model(before, "other") is None
