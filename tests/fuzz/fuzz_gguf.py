"""Fuzzing of what reads a GGUF (``make fuzz``).

Any bytes are a header whose weights have figures below 2^63, or a ``WeightsError``.
"""

import os
from collections.abc import Iterator

from tests.fuzz import engine

with engine.instrumented():
    from exporter.cache.model_file import Unreadable, read_model
    from exporter.cache.weights import WeightsError, read_gguf_header, weights_of_gguf
    from tests.cache.build import SMALL_GGUF, gguf
    from tests.cache.strange import GGUF, LAYERS_WITHOUT_END
    from tests.fuzz.figures import check

FILE = engine.BUILD / "scratch-gguf" / "model.gguf"


def one_input(data: bytes) -> None:
    """One run of the fuzzer."""
    FILE.write_bytes(data)
    name = os.fspath(FILE)
    try:
        facts = weights_of_gguf([read_gguf_header(name)], len(data))
    except WeightsError:
        assert isinstance(read_model(name), Unreadable)
        return
    check(facts)


def seeds() -> Iterator[bytes]:
    """A small dense model, a mixture with lists for its layers, and the strange ones that are small."""
    yield SMALL_GGUF
    yield LAYERS_WITHOUT_END
    yield gguf(
        {
            "general.architecture": "x", "x.block_count": 2, "x.embedding_length": 64, "x.attention.head_count": 4,
            "x.attention.head_count_kv": [2, 0], "x.expert_count": 4, "x.expert_used_count": 2,
            "x.attention.sliding_window_pattern": [True, False], "x.attention.kv_lora_rank": 8,
            "tokenizer.ggml.tokens": ["a", "b"], "general.alignment": 64,
        },
        {"token_embd.weight": ((64, 32), 8), "blk.0.ffn_up_exps.weight": ((64, 32, 4), 39), "blk.1.x": ((32,), 99)},
    )  # fmt: skip
    yield from (content for content in (make() for make in GGUF.values()) if len(content) < 10_000)


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    engine.run("gguf", one_input, seeds())
