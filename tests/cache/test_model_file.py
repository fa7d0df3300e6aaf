"""One model by its path: what a token reads of it, and why nothing can be said.

The headers are made up from the published shapes of the models; what they must come to are published figures.
"""

import json
import os
from pathlib import Path

import pytest

from exporter.cache.facts import WeightFacts
from exporter.cache.model_file import Unreadable, read_model
from tests.cache.build import SMALL_GGUF, gguf, index, safetensors, sparse_gguf
from tests.cache.shapes import (
    Q8_0,
    gpt_oss,
    qwen3_30b_a3b,
    qwen25_14b,
)

BANDWIDTH = 256e9
"""Bytes a second, of a Strix Halo."""


def weights(path: Path | str) -> WeightFacts:
    """The weights of a model that can be read."""
    found = read_model(str(path))
    assert isinstance(found, WeightFacts), found
    return found


def reason(path: Path | str) -> str:
    """Why a model can't be read."""
    found = read_model(str(path))
    assert isinstance(found, Unreadable)
    return found.reason


def test_a_dense_14b_in_bf16(tmp_path: Path) -> None:
    """29.5 GB on disk, 27.98 GB read a token, which is 9.15 tok/s on 256 GB/s."""
    found = weights(sparse_gguf(tmp_path / "m.gguf", *qwen25_14b()))
    assert found.weight_bytes == pytest.approx(29.54e9, rel=1e-3)
    assert found.read_bytes_per_token == pytest.approx(27.98e9, rel=1e-3)
    assert found.read_bytes_per_token is not None
    assert BANDWIDTH / found.read_bytes_per_token == pytest.approx(9.15, rel=1e-3)
    assert (found.moe, found.layers, found.quantization) == (False, 48, "BF16")
    assert found.kv_elements_per_token == 98_304


def test_a_mixture_of_30b_with_3b_active(tmp_path: Path) -> None:
    """30.5 billion parameters, of which a token reads 3.3 billion less the embedding's row."""
    found = weights(sparse_gguf(tmp_path / "m.gguf", *qwen3_30b_a3b()))
    assert found.weight_bytes / 2 == pytest.approx(30.5e9, rel=0.005)
    assert found.active_bytes is not None
    assert found.active_bytes / 2 == pytest.approx(3.3e9, rel=0.02)
    assert found.read_bytes_per_token == found.active_bytes - 2048 * 151936 * 2
    assert (found.moe, found.architecture, found.kv_elements_per_token) == (True, "qwen3moe", 48 * 4 * 256)


@pytest.mark.parametrize(
    ("layers", "experts", "file_gib", "published"), [(24, 32, 11.27, 79.78), (36, 128, 59.02, 56.61)]
)
def test_gpt_oss(tmp_path: Path, layers: int, experts: int, file_gib: float, published: float) -> None:
    """The file's published size comes out, and the published best speed on 256 GB/s stays below the ceiling."""
    found = weights(sparse_gguf(tmp_path / "m.gguf", *gpt_oss(layers, experts)))
    assert found.weight_bytes / 2**30 == pytest.approx(file_gib, rel=0.005)
    assert found.read_bytes_per_token is not None
    assert 0.6 < published / (BANDWIDTH / found.read_bytes_per_token) < 0.85
    assert (found.moe, found.quantization, found.sliding_window) == (True, "MXFP4_MOE", 128)


def test_layers_that_only_draft(tmp_path: Path) -> None:
    """The last block of a model that can draft its own tokens is on disk, and neither read nor cached while it doesn't."""
    metadata, tensors = qwen3_30b_a3b()
    without = weights(sparse_gguf(tmp_path / "without.gguf", metadata, tensors))
    for name, shape in list(tensors.items()):
        if name.startswith("blk.47."):
            tensors[name.replace("blk.47.", "blk.48.")] = shape
    drafting = {**metadata, "qwen3moe.block_count": 49, "qwen3moe.nextn_predict_layers": 1}
    found = weights(sparse_gguf(tmp_path / "with.gguf", drafting, tensors))
    assert found.weight_bytes > without.weight_bytes
    assert found.read_bytes_per_token == without.read_bytes_per_token
    assert (found.layers, found.kv_elements_per_token) == (49, without.kv_elements_per_token)


def test_tables_of_which_a_token_reads_a_row(tmp_path: Path) -> None:
    """An embedding for each layer is looked up, not multiplied with; a tied one is the output matrix as well."""
    tensors = {
        "token_embd.weight": ((64, 32), 8),
        "per_layer_token_embd.weight": ((64, 320), 8),
        "blk.0.a": ((64, 32), 8),
    }
    (tmp_path / "m").write_bytes(gguf({"general.architecture": "gemma3n", "gemma3n.block_count": 1}, tensors))
    found = weights(tmp_path / "m")
    assert (found.weight_bytes, found.tied, found.read_bytes_per_token) == (2176 * 12, True, 2176 * 2)


@pytest.mark.parametrize(
    ("more", "elements"),
    [
        ({"q.full_attention_interval": 4, "q.ssm.state_size": 128}, 2 * 2 * 32),
        ({"q.ssm.state_size": 128}, None),
        ({"q.attention.shared_kv_layers": 6}, 2 * 2 * 32),
        ({"q.attention.shared_kv_layers": 600}, 0),
        ({"q.attention.key_length_swa": 8, "q.attention.value_length_swa": 8,
          "q.attention.sliding_window_pattern": [True] * 6 + [False] * 2}, 6 * 2 * 16 + 2 * 2 * 32),
        ({"q.attention.head_count_kv": [0, 2] * 4, "q.ssm.state_size": 128}, 4 * 2 * 32),
        ({"q.attention.kv_lora_rank": 512, "q.rope.dimension_count": 64}, 8 * 576),
        ({"q.block_count": 0}, None),
    ],
)  # fmt: skip
def test_what_a_token_adds_to_the_cache(tmp_path: Path, more: dict[str, object], elements: int | None) -> None:
    """Layers without a cache of their own, and those with smaller heads in a window, are not counted like the others."""
    metadata = {
        "general.architecture": "q", "q.block_count": 8, "q.attention.head_count": 4, "q.attention.head_count_kv": 2,
        "q.attention.key_length": 16, "q.attention.value_length": 16, **more,
    }  # fmt: skip
    (tmp_path / "m").write_bytes(gguf(metadata, {"token_embd.weight": ((32,), 1)}))
    assert weights(tmp_path / "m").kv_elements_per_token == elements


@pytest.mark.parametrize(
    ("used", "read"), [([1, 2], 64 + 256 // 4 + 256 * 2 // 4), (2, 64 + 256), (None, None), (9, None), ([1], None)]
)
def test_experts_of_each_layer(tmp_path: Path, used: object, read: int | None) -> None:
    """A layer may use another number of experts; where it isn't said what a token reads isn't either."""
    tensors = {f"blk.{block}.ffn_up_exps.weight": ((32, 4), 1) for block in (0, 1)}
    metadata = {"general.architecture": "q", "q.block_count": 2, "q.expert_count": 4, "q.expert_used_count": used}
    kept = {key: value for key, value in metadata.items() if value is not None}
    (tmp_path / "m").write_bytes(gguf(kept, {"token_embd.weight": ((32,), 1), **tensors}))
    found = weights(tmp_path / "m")
    assert (found.moe, found.read_bytes_per_token) == (True, read)


def test_a_type_that_is_not_known(tmp_path: Path) -> None:
    """A tensor of a newer type is as large as the room that it has."""
    tensors = {"token_embd.weight": ((64, 32), 99), "output.weight": ((64, 32), 8), "blk.0.a": ((64, 64), 99)}
    (tmp_path / "m").write_bytes(gguf({"general.architecture": "q"}, tensors))
    found = weights(tmp_path / "m")
    assert (found.weight_bytes, found.read_bytes_per_token) == (2048 + 2176 + 4096, 2176 + 4096)


def test_a_model_in_shards(tmp_path: Path) -> None:
    """Any of them names all; one that is missing leaves nothing to be said."""
    metadata, tensors = qwen3_30b_a3b(Q8_0)
    names = list(tensors)
    for number, part in enumerate((names[:200], names[200:]), start=1):
        of_first = metadata if number == 1 else {}
        sparse_gguf(tmp_path / f"m-0000{number}-of-00002.gguf", of_first, {name: tensors[name] for name in part})
    whole = weights(sparse_gguf(tmp_path / "whole.gguf", metadata, tensors))
    assert weights(tmp_path / "m-00001-of-00002.gguf") == weights(tmp_path / "m-00002-of-00002.gguf") == whole
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    assert "m-00002-of-00002.gguf" in reason(tmp_path / "m-00001-of-00002.gguf")


def test_a_blob_without_a_suffix(tmp_path: Path) -> None:
    """Ollama's blobs are GGUF files named by their hash."""
    (tmp_path / "sha256-00").write_bytes(SMALL_GGUF)
    assert weights(tmp_path / "sha256-00").architecture == "qwen2"


def test_a_folder(tmp_path: Path) -> None:
    """A folder as vLLM is given one: config and shards; incomplete, empty or of several models it says nothing."""
    assert "holds no model" in reason(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(safetensors({"model.embed_tokens.weight": 64, "lm_head.weight": 64}))
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["X"], "num_hidden_layers": 2}))
    (tmp_path / "folder").mkdir()
    found = weights(tmp_path)
    assert (found.weight_bytes, found.read_bytes_per_token, found.architecture, found.moe) == (128, 64, "X", False)
    (tmp_path / "model.safetensors.index.json").write_bytes(index({"a": "a.safetensors", "b": "b.safetensors"}, 128))
    assert "b.safetensors" in reason(tmp_path)
    (tmp_path / "b.safetensors").symlink_to(tmp_path / "nowhere")
    assert "b.safetensors" in reason(tmp_path)


def test_a_mixture_in_a_folder(tmp_path: Path) -> None:
    """Experts by their share; layers that only draft and what sees aren't read; without counts nothing is said."""
    tensors = {
        "model.embed_tokens.weight": 100, "lm_head.weight": 100, "model.layers.0.mlp.experts.0.up.weight": 400,
        "model.layers.1.mlp.experts.0.up.weight": 400, "mtp.layers.0.up.weight": 60, "visual.blocks.0.weight": 40,
    }  # fmt: skip
    (tmp_path / "m.safetensors").write_bytes(safetensors(tensors))
    config = {"num_hidden_layers": 1, "num_experts": 4, "num_experts_per_tok": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = weights(tmp_path)
    assert (found.moe, found.read_bytes_per_token) == (True, 100 + 400 // 4)
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 2}))
    found = weights(tmp_path)
    assert (found.moe, found.read_bytes_per_token) == (True, None)


def test_what_can_t_be_read(tmp_path: Path) -> None:
    """Each reason names the path and what is wrong with it."""
    assert reason(tmp_path / "nothing.gguf") == f"{tmp_path}/nothing.gguf: No such file or directory"
    (tmp_path / "text.gguf").write_text("this is no model")
    assert reason(tmp_path / "text.gguf") == f"{tmp_path}/text.gguf: does not begin with GGUF"
    (tmp_path / "short.gguf").write_bytes(SMALL_GGUF[:40])
    assert reason(tmp_path / "short.gguf") == f"{tmp_path}/short.gguf: ends within its header"
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "not a regular file" in reason(tmp_path / "pipe.gguf")
    (tmp_path / "m-00001-of-00000.gguf").touch()
    assert reason(tmp_path / "m-00001-of-00000.gguf").endswith("set of 0 shards; from 1 to 512 are possible")
    assert reason("a\0b").endswith("embedded null byte")
    assert reason(f"{tmp_path}/\udcff").isprintable()
    assert reason(f"{tmp_path}/\ud800").isprintable()
