"""Fuzzing of what reads a folder of safetensors: header, index, config.json (``make fuzz``).

Whatever the three files hold, the folder is judged, or refused with ``WeightsError``; figures are absent, or whole numbers that
are not negative and below 2^63.
"""

import json
import os
import struct
from collections.abc import Iterator

from tests.fuzz import engine

with engine.instrumented():
    from exporter.cache.files import _Judgement
    from exporter.cache.tree import ScanErrors, folder
    from exporter.cache.weights import WeightsError
    from tests.fuzz.figures import check

FOLDER = engine.BUILD / "scratch-weights"


def one_input(data: bytes) -> None:
    """One run of the fuzzer: three files, one after the other."""
    given = engine.Data(data)
    contents = {
        "config.json": given.take(given.number(0, 400)),
        "model.safetensors.index.json": given.take(given.number(0, 400)),
    }
    is_framed = given.flag()
    header = given.rest()
    contents["model.safetensors"] = (struct.pack("<Q", len(header)) if is_framed else b"") + header
    for name, content in contents.items():
        if content:
            (FOLDER / name).write_bytes(content)
        else:
            (FOLDER / name).unlink(missing_ok=True)
    with folder(os.fspath(FOLDER)) as here:
        sizes: dict[str, int | None] = {name: len(content) for name, content in contents.items() if content}
        scan_errors = ScanErrors(0.0)
        try:
            verdict = _Judgement(sizes, "", here, "it", scan_errors).verdict()
        except WeightsError:
            return
    check(verdict.weights)
    for _, facts in verdict.variants:
        check(facts)


def seeds() -> Iterator[bytes]:
    """A dense model and a mixture, with and without an index."""
    dense = {
        "model.embed_tokens.weight": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]},
        "lm_head.weight": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [64, 128]},
        "__metadata__": {"format": "pt"},
    }
    mixture = {f"model.layers.0.mlp.experts.{n}.up_proj.weight": {"data_offsets": [n * 8, n * 8 + 8]} for n in range(4)}
    configs = (
        {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "torch_dtype": "bfloat16"},
        {"num_hidden_layers": 2, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "num_key_value_heads": 2},
        {"text_config": {"layer_types": ["full_attention"], "sliding_window": 8}, "architectures": ["X"]},
    )
    for tensors in (dense, mixture):
        for config in configs:
            for index in (b"", json.dumps({"weight_map": dict.fromkeys(tensors, "model.safetensors")}).encode()):
                raw = json.dumps(config).encode()
                ends = b"".join(
                    bytes([len(each) & 255, len(each) >> 8]) for each in (index, raw)
                )  # choices come from the end: the first one last
                yield raw + index + json.dumps(tensors).encode() + b"\1" + ends


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    engine.run("weights", one_input, seeds())
