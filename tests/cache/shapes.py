"""Headers of published models as GGUF has them: metadata, and tensors as (dimensions, ggml type). Made up from their shapes."""

from collections.abc import Mapping

Tensors = dict[str, tuple[tuple[int, ...], int]]
F32, Q8_0, Q4_K, Q6_K, BF16, MXFP4 = 0, 8, 12, 14, 30, 39


def attention(block: int, width: int, heads: tuple[int, int, int], kind: int) -> Tensors:
    """The four projections of a layer, and its norms; ``heads`` are (of queries, of keys and values, size of one)."""
    queries, others, size = heads
    return {
        f"blk.{block}.attn_norm.weight": ((width,), F32),
        f"blk.{block}.ffn_norm.weight": ((width,), F32),
        f"blk.{block}.attn_q.weight": ((width, queries * size), kind),
        f"blk.{block}.attn_k.weight": ((width, others * size), kind),
        f"blk.{block}.attn_v.weight": ((width, others * size), kind),
        f"blk.{block}.attn_output.weight": ((queries * size, width), kind),
    }


def vocabulary(width: int, words: int, kind: int) -> Tensors:
    """Input embedding, output matrix, last norm."""
    return {
        "token_embd.weight": ((width, words), kind),
        "output.weight": ((width, words), kind),
        "output_norm.weight": ((width,), F32),
    }


def qwen25_14b() -> tuple[Mapping[str, object], Tensors]:
    """Qwen2.5-14B in BF16: 48 layers of 5120, 40 heads, 8 of them for keys and values, 13824 in the middle."""
    tensors = vocabulary(5120, 152064, BF16)
    for block in range(48):
        tensors |= attention(block, 5120, (40, 8, 128), BF16)
        tensors |= {f"blk.{block}.attn_{x}.bias": ((n,), F32) for x, n in (("q", 5120), ("k", 1024), ("v", 1024))}
        tensors |= {f"blk.{block}.ffn_{x}.weight": ((5120, 13824), BF16) for x in ("gate", "up", "down")}
    metadata = {
        "general.architecture": "qwen2", "general.file_type": 32, "qwen2.block_count": 48,
        "qwen2.embedding_length": 5120, "qwen2.attention.head_count": 40, "qwen2.attention.head_count_kv": 8,
    }  # fmt: skip
    return metadata, tensors


def qwen25_14b_q4_k_m() -> tuple[Mapping[str, object], Tensors]:
    """The same in Q4_K_M, which keeps the output and, of half of the layers, values and the way back in Q6_K."""
    metadata, whole = qwen25_14b()
    tensors: Tensors = {}
    for name, (dimensions, kind) in whole.items():
        fine = name.endswith(("ffn_down.weight", "attn_v.weight")) and int(name.split(".")[1]) % 2 == 0
        small = Q6_K if fine or name == "output.weight" else Q4_K
        tensors[name] = dimensions, small if kind == BF16 else kind
    return {**metadata, "general.file_type": 15}, tensors


def qwen3_30b_a3b(kind: int = BF16) -> tuple[Mapping[str, object], Tensors]:
    """Qwen3-30B-A3B: 48 layers of 2048, 32 heads of 128, 4 for keys and values, 8 of 128 experts of 768."""
    tensors = vocabulary(2048, 151936, kind)
    for block in range(48):
        tensors |= attention(block, 2048, (32, 4, 128), kind)
        tensors |= {f"blk.{block}.ffn_{x}_exps.weight": ((2048, 768, 128), kind) for x in ("gate", "up", "down")}
        tensors[f"blk.{block}.ffn_gate_inp.weight"] = ((2048, 128), F32)
    metadata = {
        "general.architecture": "qwen3moe", "qwen3moe.block_count": 48, "qwen3moe.embedding_length": 2048,
        "qwen3moe.attention.head_count": 32, "qwen3moe.attention.head_count_kv": 4,
        "qwen3moe.attention.key_length": 128, "qwen3moe.attention.value_length": 128,
        "qwen3moe.expert_count": 128, "qwen3moe.expert_used_count": 8,
    }  # fmt: skip
    return metadata, tensors


def gpt_oss(layers: int, experts: int) -> tuple[Mapping[str, object], Tensors]:
    """OpenAI's gpt-oss: layers of 2880, 64 heads of 64, 8 for keys and values, 4 experts a token, in MXFP4."""
    tensors = vocabulary(2880, 201088, Q8_0)
    for block in range(layers):
        tensors |= attention(block, 2880, (64, 8, 64), Q8_0)
        tensors |= {f"blk.{block}.ffn_{x}_exps.weight": ((2880, 2880, experts), MXFP4) for x in ("gate", "up", "down")}
        tensors |= {f"blk.{block}.ffn_{x}_exps.bias": ((2880, experts), F32) for x in ("gate", "up", "down")}
        tensors[f"blk.{block}.ffn_gate_inp.weight"] = ((2880, experts), F32)
    metadata = {
        "general.architecture": "gpt-oss", "general.file_type": 38, "gpt-oss.block_count": layers,
        "gpt-oss.embedding_length": 2880, "gpt-oss.attention.head_count": 64, "gpt-oss.attention.head_count_kv": 8,
        "gpt-oss.attention.key_length": 64, "gpt-oss.attention.value_length": 64,
        "gpt-oss.expert_count": experts, "gpt-oss.expert_used_count": 4, "gpt-oss.attention.sliding_window": 128,
    }  # fmt: skip
    return metadata, tensors
