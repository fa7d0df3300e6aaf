"""The model of random weights that real servers are given: each quantization is of its type, and of the same weights."""

import argparse
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.cache.facts import WeightFacts
from exporter.cache.model_file import read_model
from tests.servers import make_tiny_gguf
from tests.servers.make_tiny_gguf import BLOCK, GGUF_TYPES, PRESETS, Tensor, TinyModel, Tokenizer

PARAMETERS = 2_756_864
BITS = {"F16": 16.0, "Q8_0": 8.5, "Q4_0": 4.5}


@pytest.fixture(scope="module")
def tensors() -> list[Tensor]:
    """The matrices of the smallest model."""
    layers, embd, ff, heads, kv = PRESETS["tiny"]
    sizes = {"layers": layers, "embd": embd, "ff": ff, "heads": heads, "kv_heads": kv}
    given = argparse.Namespace(**sizes, seed=1, mean_length=40.0, emoji=0.2)
    return [each for each in TinyModel(given, Tokenizer(600, 0)).tensors() if isinstance(each, Tensor)]


def scale_of(block: bytes) -> float:
    return float(struct.unpack("<e", block[:2])[0])


def values_q8_0(block: bytes) -> list[float]:
    return [scale_of(block) * each for each in struct.unpack("<32b", block[2:])]


def values_q4_0(block: bytes) -> list[float]:
    """By the format: the low halves of the bytes come first, and 8 is zero."""
    codes = [*(each & 15 for each in block[2:]), *(each >> 4 for each in block[2:])]
    return [scale_of(block) * (code - 8) for code in codes]


def blocks_of(tensor: Tensor, kind: str, few: range) -> list[bytes]:
    """Some blocks of the first rows."""
    size, data = GGUF_TYPES[kind][2], bytes(tensor.weights(kind))
    assert len(data) == tensor.rows * tensor.cols // BLOCK * size
    return [data[number * size : (number + 1) * size] for number in few]


def test_four_bits_are_the_eight_rounded(tensors: list[Tensor]) -> None:
    """No weight is off by more than one scale of its block, most by half of it; what steers the words is nearly exact."""
    off = total = 0
    for tensor in tensors[:4]:
        per_row, few = tensor.cols // BLOCK, range(40 * tensor.cols // BLOCK)
        pairs = zip(blocks_of(tensor, "Q8_0", few), blocks_of(tensor, "Q4_0", few), strict=True)
        for number, (fine, coarse) in enumerate(pairs):
            scale = abs(scale_of(coarse))
            errors = [abs(a - b) for a, b in zip(values_q8_0(fine), values_q4_0(coarse), strict=True)]
            assert max(errors) <= scale
            off, total = off + sum(each > scale / 2 for each in errors), total + BLOCK
            if number % per_row == 0 and tensor.exp0 != tensor.exp:
                largest = max(values_q8_0(fine), key=abs)
                assert largest in values_q4_0(coarse)
    assert 0 < off < total / 16


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_a_file_is_of_its_type(tmp_path: Path, kind: str) -> None:
    """The exporter's own reader sees the quantization, and as many bytes as its bits make."""
    path = tmp_path / "model.gguf"
    script = Path(make_tiny_gguf.__file__)
    subprocess.run([sys.executable, script, "--type", kind, "--gguf", path], check=True, capture_output=True)
    read = read_model(str(path))
    assert isinstance(read, WeightFacts)
    assert read.quantization == kind
    assert read.weight_bytes == pytest.approx(PARAMETERS * BITS[kind] / 8, rel=0.03)
