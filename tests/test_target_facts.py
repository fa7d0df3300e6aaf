"""What the rooms know of one target, brought together: who wins, and what stays unknown."""

from dataclasses import replace

import pytest

from exporter.cache.facts import CacheFacts, ModelFacts, WeightFacts
from exporter.containers.facts import CandidateUrl, ContainerFacts, Devices
from exporter.host.gpu import GpuFacts, PartitionFacts
from exporter.probe.result import Identity, Measurements
from exporter.settings import load_profiles, make_target
from exporter.target_facts import Machine, info_of, is_local, judgement_of, target_facts_of
from exporter.tiers import scenario_of

PROFILES = load_profiles(None)
VLLM = ContainerFacts(
    id="0123456789ab",
    name="vllm-rocm",
    image="rocm/vllm-dev:nightly",
    image_id="sha256:ab",
    backend="vllm",
    running=True,
    urls=(CandidateUrl("http://127.0.0.1:8000", "published_port"),),
    model="Qwen/Qwen2.5-14B-Instruct",
    quantization="none",
    kv_cache_dtype="auto",
    aiter=True,
)
STRIX_HALO = GpuFacts(
    "0000:c1:00.0",
    "Radeon 8060S",
    gfx_target="gfx1151",
    compute_units=40,
    unified_memory=True,
    bandwidth_bytes_per_second=256e9,
    bandwidth_source="table",
)
WEIGHTS = WeightFacts(
    weight_bytes=29_540_067_328,
    input_embedding_bytes=1_557_000_000,
    tied=False,
    active_bytes=29_540_067_328,
    kv_elements_per_token=98_304,
)
CACHE = CacheFacts(
    "huggingface",
    "huggingface",
    "/home/u/.cache/huggingface/hub",
    bytes=29_540_067_328,
    models=(ModelFacts("Qwen/Qwen2.5-14B-Instruct", "/hub/models--Qwen", 1, complete=True, weights=WEIGHTS),),
)
MACHINE = Machine((VLLM,), (STRIX_HALO,), (CACHE,))
HERE = make_target(url="http://localhost:8000")
SAYS = Identity("vllm", "0.32.0", "Qwen/Qwen2.5-14B-Instruct")


@pytest.mark.parametrize(("exact", "tier"), [(True, "good"), (None, "good"), (False, None)])
def test_a_speed_whose_tokens_were_estimated_has_no_tier(*, exact: bool | None, tier: str | None) -> None:
    """An estimate may be off by more than a tier: it is shown, and not judged."""
    figures = Measurements(tokens_per_second=16.0, token_count_exact=exact)
    known = target_facts_of(HERE, SAYS, MACHINE)
    judgement = judgement_of(HERE, known, figures, PROFILES)
    assert judgement.tier == tier


def test_each_room_gives_its_part() -> None:
    """Server, container, GPU and cache together know what no one of them knows."""
    known = target_facts_of(HERE, SAYS, MACHINE)
    assert (known.backend, known.aiter, known.quantization, known.kv_cache) == ("vllm", True, "none", "auto")
    assert (known.gfx_target, known.compute_units, known.memory_bandwidth, known.gpus) == ("gfx1151", 40, 256e9, 1)
    assert known.weights.streamed_bytes == 29_540_067_328 - 1_557_000_000
    assert known.weights.kv_bytes_per_token == 196_608
    assert scenario_of(known, PROFILES) == "vllm-fp16-aiter"


def test_the_identity_in_words() -> None:
    """llm_target_info names the container, the image, the scenario and the hardware."""
    info = info_of(HERE, SAYS, target_facts_of(HERE, SAYS, MACHINE), MACHINE, PROFILES)
    assert (info.container, info.image) == ("vllm-rocm", "rocm/vllm-dev:nightly")
    assert (info.scenario, info.hardware, info.backend_version) == ("vllm-fp16-aiter", "ryzen-ai-max-395", "0.32.0")


def test_a_server_elsewhere_has_nothing_of_this_machine() -> None:
    """The GPU, containers and caches here say nothing of a server on another one."""
    away = make_target(url="http://10.0.0.7:8000")
    known = target_facts_of(away, SAYS, MACHINE)
    assert not is_local(away.url, None)
    assert (known.gfx_target, known.memory_bandwidth, known.aiter, known.quantization) == (None, None, None, None)
    assert known.weights.bytes is None


def test_what_the_server_says_wins_over_what_the_container_was_told() -> None:
    """The quantization that runs is the server's word, where it has one."""
    known = target_facts_of(HERE, replace(SAYS, quantization="awq"), MACHINE)
    assert known.quantization == "awq"


def test_before_the_first_look_the_configuration_and_the_container_speak() -> None:
    """Without an identity the target is what it was configured as."""
    known = target_facts_of(HERE, None, MACHINE)
    assert (known.backend, known.model) == ("vllm", "Qwen/Qwen2.5-14B-Instruct")
    alone = target_facts_of(make_target(url="http://127.0.0.1:9000", backend="ollama", model="m"), None, Machine())
    assert (alone.backend, alone.model) == ("ollama", "m")


def test_a_container_that_stopped_is_not_the_targets() -> None:
    """Another server on the port of a stopped container is not that container."""
    machine = replace(MACHINE, containers=(replace(VLLM, running=False),))
    assert info_of(HERE, SAYS, target_facts_of(HERE, SAYS, machine), machine, PROFILES).container == ""


@pytest.mark.parametrize(
    ("gpus", "parallel", "expected"),
    [
        ((), None, (None, None)),
        ((STRIX_HALO, replace(STRIX_HALO, address="0000:c2:00.0")), None, (2, None)),
        ((STRIX_HALO, replace(STRIX_HALO, address="0000:c2:00.0")), 1, (1, 256e9)),
        ((STRIX_HALO, replace(STRIX_HALO, address="0000:c2:00.0", gfx_target="gfx1100")), 1, (1, None)),
        ((replace(STRIX_HALO, partitions=(PartitionFacts(20, 1, 1.0),)),), None, (1, None)),
    ],
)
def test_a_bandwidth_only_where_it_is_clear_which_gpu_serves(
    gpus: tuple[GpuFacts, ...], parallel: int | None, expected: tuple[int | None, float | None]
) -> None:
    """Several GPUs, different ones, or a divided one leave the ceiling unknown."""
    machine = Machine((replace(VLLM, tensor_parallel=parallel),), gpus, (CACHE,))
    known = target_facts_of(HERE, SAYS, machine)
    assert (known.gpus, known.memory_bandwidth) == expected


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


def test_a_model_that_the_gpu_does_not_hold_alone_is_told() -> None:
    """By the server's own word, or because its container was given no GPU; else nobody says."""
    bare = replace(MACHINE, containers=())
    with_gpu = replace(MACHINE, containers=(replace(VLLM, devices=Devices(kfd=True, dri=True)),))
    assert target_facts_of(HERE, replace(SAYS, offloaded=True), bare).offloaded is True
    assert target_facts_of(HERE, SAYS, bare).offloaded is None
    assert target_facts_of(HERE, SAYS, MACHINE).offloaded is True
    assert target_facts_of(HERE, SAYS, with_gpu).offloaded is None
