"""Which file holds a target's weights, and what a token reads of it."""

from dataclasses import replace

import pytest

from exporter.cache.facts import ModelFacts
from exporter.cache.model_file import Unreadable
from exporter.containers.facts import CacheMount
from exporter.probe.result import Identity
from exporter.snapshot import ModelFiles
from exporter.target_facts import Machine, judgement_of, paths_of, target_facts_of
from tests.target_facts.machines import CACHE, HERE, LLAMA, MACHINE, PROFILES, SAYS, STRIX_HALO, VLLM, WEIGHTS, ran


def test_the_file_that_a_server_runs_is_found_by_its_path() -> None:
    """By what it says itself, by its process, by its container's mounts; in a container never by the path alone."""
    url = "http://localhost:8000"
    assert paths_of(url, LLAMA, Machine()) == ("/models/qwen2.5-14b-q4_k_m.gguf",)
    assert paths_of(url, LLAMA, Machine(processes=ran("--port 8000", file="/home/x.gguf"))) == (
        "/home/x.gguf",
        "/models/qwen2.5-14b-q4_k_m.gguf",
    )
    assert paths_of(url, LLAMA, Machine((VLLM,))) == ()
    mounted = replace(VLLM, cache_mounts=(CacheMount("/srv/gguf", "/models", "files"),))
    assert paths_of(url, LLAMA, Machine((mounted,))) == ("/srv/gguf/qwen2.5-14b-q4_k_m.gguf",)
    assert paths_of("http://10.0.0.7:8000", LLAMA, Machine()) == ()


def test_a_file_that_can_not_be_read_is_a_reason() -> None:
    """Why there is no ceiling says which file it was."""
    models = ModelFiles(((LLAMA.model_root or "", Unreadable("/models/x.gguf: Permission denied")),))
    known = target_facts_of(HERE, LLAMA, Machine(gpus=(STRIX_HALO,), models=models))
    assert "Permission denied" in judgement_of(HERE, known, None, PROFILES).no_ceiling


def test_weights_that_are_quantized_while_loading_are_unknown() -> None:
    """A BF16 checkpoint that is served as fp8 is not in memory as it is on the disk."""
    machine = replace(MACHINE, containers=(replace(VLLM, quantization="fp8"),))
    known = target_facts_of(HERE, SAYS, machine)
    assert known.weights.bytes is None
    assert known.weights.streamed_bytes is None


@pytest.mark.parametrize(("dtype", "bytes_each"), [("auto", 2.0), ("fp8_e4m3", 1.0), ("q8_0", 1.0625), (None, 2.0)])
def test_the_type_of_the_key_value_cache_counts(dtype: str | None, bytes_each: float) -> None:
    """An fp8 cache reads half as much for each token of context."""
    machine = replace(MACHINE, containers=(replace(VLLM, kv_cache_dtype=dtype),))
    known = target_facts_of(HERE, SAYS, machine)
    assert known.weights.kv_bytes_per_token == 98_304 * bytes_each


def test_a_file_is_found_by_its_name() -> None:
    """llama.cpp names a file, the cache knows it by its path."""
    gguf = ModelFacts("qwen", "/models/qwen.gguf", 1, complete=True, weights=WEIGHTS)
    machine = Machine(caches=(replace(CACHE, models=(gguf,)),))
    identity = Identity("llama_cpp", model="qwen", model_root="/srv/models/qwen.gguf", weight_bytes=8_180_228_096)
    known = target_facts_of(HERE, identity, machine)
    assert known.weights.bytes == 8_180_228_096
    assert known.weights.kv_bytes_per_token == 196_608
