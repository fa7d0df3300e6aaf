"""What Ollama's ``/api/show`` says of a model's shape under ``model_info``: the pairs of its GGUF, without the tensors. Pure.

Whether it is a mixture of experts, how many of its parameters a token uses, and the size of its key-value cache. What a pair
that is missing would say stays unknown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from exporter.probe.dialects.dialect import size_of, text_of

MATRICES: Final = 3
"""Of each expert: gate, up, down."""
LEAST_SHARE: Final = 0.3
"""Share of the parameters that the experts of a mixture have at least; a figure below it counts something else."""
# Architectures whose ``feed_forward_length`` is that of an expert, if nothing else says it: Mixtral's and gpt-oss's.
_ONE_LENGTH: Final = frozenset({"llama", "gptoss", "gpt-oss"})
# Pairs of models whose layers don't all keep the whole context, or read their embeddings in another way.
_OTHER_CACHE: Final = ("sliding_window", "conv_kernel", "kv_lora_rank", "full_attention_interval", "shared_kv_layers")
_PARTLY_READ: Final = "embedding_length_per_layer_input"


@dataclass(frozen=True, slots=True)
class Shape:
    """``experts``: whether it is a mixture of experts. ``kv_elements`` is of one token of context, keys and values of all layers."""

    parameters: int | None = None
    experts: bool | None = None
    active_parameters: int | None = None
    kv_elements: int | None = None


def shape_of(info: Any) -> Shape:
    """The shape by ``model_info``; empty if there is none."""
    architecture = text_of(info.get("general.architecture")) if isinstance(info, Mapping) else None
    if architecture is None:
        return Shape()
    own = {key.removeprefix(f"{architecture}."): value for key, value in info.items() if isinstance(key, str)}
    parameters, experts = size_of(info.get("general.parameter_count")), size_of(own.get("expert_count"))
    is_mixture: bool | None = True if (experts or 0) > 1 else None
    if is_mixture is None and parameters and "moe" not in architecture and _PARTLY_READ not in own:
        is_mixture = False
    return Shape(
        parameters=parameters,
        experts=is_mixture,
        active_parameters=_active(architecture, own, parameters, experts) if is_mixture and parameters else None,
        kv_elements=_kv_elements(own),
    )


def _active(architecture: str, own: Mapping[str, Any], parameters: int, experts: int | None) -> int | None:
    """The parameters that a token uses: all but those of the experts that it doesn't ask."""
    used, width, blocks = (size_of(own.get(name)) for name in ("expert_used_count", "embedding_length", "block_count"))
    length = size_of(own.get("expert_feed_forward_length"))
    if length is None and architecture in _ONE_LENGTH:
        length = size_of(own.get("feed_forward_length"))
    if not (experts and used and used <= experts and width and blocks and length):
        return None
    layers = (blocks - (size_of(own.get("leading_dense_block_count")) or 0)) // (
        size_of(own.get("interleave_moe_layer_step")) or 1
    )
    in_experts = MATRICES * width * length * experts * layers
    if not LEAST_SHARE * parameters <= in_experts <= parameters:
        return None
    return parameters - in_experts * (experts - used) // experts


def _kv_elements(own: Mapping[str, Any]) -> int | None:
    if any(name.endswith(other) for name in own for other in _OTHER_CACHE):
        return None
    heads, of_kv, width, blocks = (
        size_of(own.get(name))
        for name in ("attention.head_count", "attention.head_count_kv", "embedding_length", "block_count")
    )
    if not (heads and of_kv and width and blocks):
        return None
    keys, values = (size_of(own.get(f"attention.{kind}_length")) or width // heads for kind in ("key", "value"))
    return blocks * of_kv * (keys + values)
