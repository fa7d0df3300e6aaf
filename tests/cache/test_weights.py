"""What a roofline needs, from config.json with safetensors and from GGUF headers."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.cache.facts import WeightFacts
from exporter.cache.weights import (
    WeightsError,
    read_gguf_header,
    read_safetensors_header,
    weights_of_gguf,
    weights_of_safetensors,
)
from tests.cache.build import SMALL_GGUF, gguf, safetensors


def of_gguf(path: Path, content: bytes) -> WeightFacts:
    """The weights of a GGUF with that content."""
    (path / "m.gguf").write_bytes(content)
    return weights_of_gguf([read_gguf_header(str(path / "m.gguf"))], len(content))


def test_qwen_14b_by_its_config() -> None:
    """The published shapes of Qwen2.5-14B give its KV bytes a token and what a token reads."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 5120,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "num_hidden_layers": 48,
        "torch_dtype": "bfloat16",
        "sliding_window": 131072,
        "use_sliding_window": False,
    }
    embedding = 152064 * 5120 * 2
    weights = weights_of_safetensors(
        config, 29_540_067_328, ["lm_head.weight"], {"model.embed_tokens.weight": embedding}
    )
    assert weights.kv_elements_per_token is not None
    assert weights.kv_elements_per_token * 2 == 196_608
    assert weights.read_bytes_per_token == 29_540_067_328 - embedding
    assert (weights.dtype, weights.moe, weights.sliding_window) == ("bfloat16", False, None)


def test_a_tied_embedding_is_read() -> None:
    """Without a head of its own the embedding serves as one, and is read whole."""
    weights = weights_of_safetensors({}, 1000, ["model.embed_tokens.weight"], {"model.embed_tokens.weight": 300})
    assert (weights.tied, weights.read_bytes_per_token) == (True, 1000)


def test_a_mixture_of_experts() -> None:
    """One token reads what is shared and its experts' part of the rest; unknown where that isn't said."""
    sizes = {
        "embed_tokens.weight": 100,
        "layers.0.mlp.experts.0.up.weight": 400,
        "layers.0.mlp.experts.1.up.weight": 400,
    }
    config = {"num_local_experts": 2, "num_experts_per_tok": 1}
    weights = weights_of_safetensors(config, 1000, ["lm_head.weight"], sizes)
    assert (weights.moe, weights.active_bytes, weights.read_bytes_per_token) == (True, 600, 500)
    unknown = weights_of_safetensors({"num_experts": 2}, 1000, ["lm_head.weight"], sizes)
    assert (unknown.moe, unknown.active_bytes, unknown.read_bytes_per_token) == (True, None, None)


@pytest.mark.parametrize(
    ("config", "elements"),
    [
        ({"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 64}, 4 * 2 * 8 * 8),
        ({"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32}, 4 * 2 * 2 * 32),
        ({"num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, 61 * 576),
        (
            {
                "num_hidden_layers": 4,
                "num_attention_heads": 8,
                "hidden_size": 64,
                "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
            },
            2 * 8 * 8,
        ),
        ({"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 64, "mamba_d_state": 16}, None),
        (
            {"text_config": {"num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 4}, "num_hidden_layers": 9},
            16,
        ),
        ({"num_hidden_layers": "many", "num_attention_heads": [1], "head_dim": -3}, None),
        ({}, None),
    ],
)
def test_the_cache_of_a_token(config: dict[str, Any], elements: int | None) -> None:
    """Plain, grouped, latent, hybrid, nested and nonsensical configurations."""
    assert weights_of_safetensors(config, 1, [], {}).kv_elements_per_token == elements


def test_a_gguf(tmp_path: Path) -> None:
    """Tensor sizes by their types, the rest by the metadata."""
    weights = of_gguf(tmp_path, SMALL_GGUF)
    assert weights == WeightFacts(
        weight_bytes=2176 * 2 + 4352,
        input_embedding_bytes=2176,
        tied=False,
        layers=2,
        kv_heads=2,
        head_dim=16,
        active_bytes=2176 * 2 + 4352,
        kv_elements_per_token=2 * 2 * 32,
        quantization="Q8_0",
        architecture="qwen2",
    )


def test_a_gguf_with_experts_and_layers_without_a_cache(tmp_path: Path) -> None:
    """Experts lie in tensors named ``_exps``; a list of KV heads has one number for each layer."""
    weights = of_gguf(
        tmp_path,
        gguf(
            {
                "general.architecture": "q",
                "q.block_count": 4,
                "q.attention.head_count": 8,
                "q.attention.head_count_kv": [0, 2, 0, 2],
                "q.attention.key_length": 16,
                "q.attention.value_length": 16,
                "q.expert_count": 4,
                "q.expert_used_count": 1,
                "q.attention.sliding_window": 128,
            },
            {"token_embd.weight": ((32,), 1), "blk.0.ffn_up_exps.weight": ((32, 4), 1)},
        ),
    )
    assert (weights.moe, weights.tied) == (True, True)
    assert weights.read_bytes_per_token == 64 + 256 // 4
    assert weights.kv_elements_per_token == (2 + 2) * 32
    assert weights.sliding_window == 128


@given(st.binary(max_size=400))
def test_no_bytes_break_a_reader(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    """A header is read or refused; nothing else happens."""
    path = tmp_path_factory.getbasetemp() / "any"
    for content in (raw, SMALL_GGUF[:24] + raw, len(raw).to_bytes(8, "little") + raw):
        path.write_bytes(content)
        for reader in (read_gguf_header, read_safetensors_header):
            try:
                assert reader(str(path)).end >= 0
            except WeightsError:
                continue


def test_a_safetensors_header(tmp_path: Path) -> None:
    """Sizes and where the file must end."""
    content = safetensors({"a": 10, "b": 20})
    (tmp_path / "m").write_bytes(content)
    header = read_safetensors_header(str(tmp_path / "m"))
    assert (header.tensors, header.end) == ({"a": 10, "b": 20}, len(content))
    nonsense = json.dumps({"a": {"data_offsets": "xy"}}).encode()
    (tmp_path / "m").write_bytes(len(nonsense).to_bytes(8, "little") + nonsense)
    with pytest.raises(WeightsError):
        read_safetensors_header(str(tmp_path / "m"))
