"""What ``/api/show`` tells of a model's shape. The pairs are those of published models' files."""

from collections.abc import Mapping
from typing import Any

import pytest

from exporter.probe.dialects.model_info import Shape, shape_of

GPT_OSS_120B: Mapping[str, Any] = {
    "general.architecture": "gptoss", "general.parameter_count": 116_829_156_672, "gptoss.block_count": 36,
    "gptoss.embedding_length": 2880, "gptoss.attention.head_count": 64, "gptoss.attention.head_count_kv": 8,
    "gptoss.attention.key_length": 64, "gptoss.attention.value_length": 64, "gptoss.attention.sliding_window": 128,
    "gptoss.expert_count": 128, "gptoss.expert_used_count": 4, "gptoss.expert_feed_forward_length": 2880,
}  # fmt: skip
QWEN3_30B: Mapping[str, Any] = {
    "general.architecture": "qwen3moe", "general.parameter_count": 30_532_122_624, "qwen3moe.block_count": 48,
    "qwen3moe.embedding_length": 2048, "qwen3moe.attention.head_count": 32, "qwen3moe.attention.head_count_kv": 4,
    "qwen3moe.attention.key_length": 128, "qwen3moe.attention.value_length": 128, "qwen3moe.expert_count": 128,
    "qwen3moe.expert_used_count": 8, "qwen3moe.feed_forward_length": 6144,
    "qwen3moe.expert_feed_forward_length": 768,
}  # fmt: skip
MIXTRAL: Mapping[str, Any] = {
    "general.architecture": "llama", "general.parameter_count": 46_702_792_704, "llama.block_count": 32,
    "llama.embedding_length": 4096, "llama.attention.head_count": 32, "llama.attention.head_count_kv": 8,
    "llama.expert_count": 8, "llama.expert_used_count": 2, "llama.feed_forward_length": 14_336,
}  # fmt: skip
QWEN25_14B: Mapping[str, Any] = {
    "general.architecture": "qwen2", "general.parameter_count": 14_770_033_664, "qwen2.block_count": 48,
    "qwen2.embedding_length": 5120, "qwen2.attention.head_count": 40, "qwen2.attention.head_count_kv": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("info", "active", "kv_elements"),
    [
        # The model cards say 3.3, 12.9 and 5.1 billion; gpt-oss counts without its input embedding of 0.6.
        (QWEN3_30B, 3.35e9, 48 * 4 * 256),
        (MIXTRAL, 12.9e9, 32 * 8 * 256),
        (GPT_OSS_120B, 5.7e9, None),
    ],
)
def test_active_parameters_of_mixtures(info: Mapping[str, Any], active: float, kv_elements: int | None) -> None:
    """All but the experts that a token doesn't ask; the cache where all layers keep the whole context."""
    shape = shape_of(info)
    assert shape.experts is True
    assert shape.active_parameters == pytest.approx(active, rel=0.01)
    assert shape.kv_elements == kv_elements


def test_a_dense_model() -> None:
    """Without experts every parameter is read; the cache is that of Qwen2.5-14B, 98,304 elements a token."""
    assert shape_of(QWEN25_14B) == Shape(14_770_033_664, experts=False, kv_elements=98_304)


@pytest.mark.parametrize(
    ("info", "experts"),
    [
        (None, None),
        ({}, None),
        ([1], None),
        ({"general.architecture": "qwen2"}, None),
        ({"general.architecture": "nomic-bert-moe", "general.parameter_count": 475_288_320}, None),
        (
            {
                "general.architecture": "gemma3n",
                "general.parameter_count": 6_900_000_000,
                "gemma3n.embedding_length_per_layer_input": 256,
            },
            None,
        ),
        ({**QWEN3_30B, "qwen3moe.expert_used_count": None}, True),
        ({**QWEN3_30B, "qwen3moe.expert_feed_forward_length": None}, True),
        ({**QWEN3_30B, "qwen3moe.expert_feed_forward_length": 1 << 40}, True),
    ],
)
def test_what_is_not_told_stays_unknown(info: Any, experts: bool | None) -> None:  # noqa: FBT001
    """Neither dense nor an active size is assumed where the pairs don't say it, or say what can't be."""
    shape = shape_of(info)
    assert (shape.experts, shape.active_parameters) == (experts, None)
