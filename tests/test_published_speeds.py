"""Speeds that people publish, judged: no efficiency above 1, no hardware's best called a fault, no sick server healthy.

Each row says where it comes from. Sizes are those that the source or the model's card gives; of a mixture of experts the
parameters that a token uses.
"""

from dataclasses import dataclass
from typing import Literal

import pytest

from exporter.settings import load_profiles
from exporter.tiers import Judgement, TargetFacts, Weights, judge

PROFILES = load_profiles(None)
GIB, MIB = float(1 << 30), float(1 << 20)
TOOLBOXES = "kyuz0/amd-strix-halo-toolboxes, docs/results.json"
STRIX_HALO = 256e9


@dataclass(frozen=True)
class Published:
    """One speed: of which model on which memory. ``active`` is None for a dense model; sizes in 10⁹ and in bytes."""

    model: str
    source: str
    bandwidth: float
    size: float
    parameters: float
    active: float | None
    speed: float
    verdict: Literal["best", "sick"] = "best"
    speculative: str | None = None
    offload: str | None = None


ROWS = (
    Published("llama-2-7b Q4_0", TOOLBOXES, STRIX_HALO, 3.56 * GIB, 6.74, None, 55.73),
    Published("Ministral-3-14B BF16", TOOLBOXES, STRIX_HALO, 25.16 * GIB, 13.51, None, 8.51),
    Published("Qwen3.6-27B UD-Q8_K_XL", TOOLBOXES, STRIX_HALO, 33.31 * GIB, 27.32, None, 6.51),
    Published("gemma-4-31B UD-Q4_K_XL", TOOLBOXES, STRIX_HALO, 17.46 * GIB, 30.7, None, 11.45),
    Published("Qwen3.6-35B-A3B UD-Q4_K_XL", TOOLBOXES, STRIX_HALO, 21.27 * GIB, 35.51, 3.0, 60.43),
    Published("gemma-4-26B-A4B BF16", TOOLBOXES, STRIX_HALO, 47.02 * GIB, 25.23, 4.0, 24.65),
    Published("Qwen3.5-122B-A10B UD-Q5_K_XL", TOOLBOXES, STRIX_HALO, 85.6 * GIB, 122.11, 10.0, 22.3),
    Published("gpt-oss-20b MXFP4", TOOLBOXES, STRIX_HALO, 11.27 * GIB, 20.91, 3.61, 79.78),
    Published("gpt-oss-120b MXFP4", TOOLBOXES, STRIX_HALO, 59.02 * GIB, 116.83, 5.13, 56.61),
    Published("Qwen2.5-14B BF16", "reported of a Ryzen AI Max+ 395, vLLM", STRIX_HALO, 27.98e9, 14.77, None, 8.3),
    Published("Llama-3.1-8B Q4_K_M", "deseven/strixhalo-homelab#11", STRIX_HALO, 4.58 * GIB, 8.03, None, 41.6),
    Published("deepseek-r1:8b Q4_K_M", "AlexsJones/llmfit#915, RX 6800", 512e9, 5.2e9, 8.19, None, 80.4),
    Published("27B Q4_K_M", "reported of an RX 7900 XTX", 960e9, 16.8e9, 27.0, None, 36.3),
    Published("Qwen2.5-Coder-7B Q4_K_M", "AlexsJones/llmfit#947, Radeon 780M", 89.6e9, 4.68e9, 7.62, None, 11.7),
    Published("Llama-3-8B Q6_K", "dmatora/LLM-inference-speed-benchmarks#10, RTX 4090", 1008e9, 6.6e9, 8.03, None, 93.0),
    Published("Llama-3.1-8B Q4_K_M", "dmatora/LLM-…-benchmarks#12, RTX 3080", 760e9, 4.92e9, 8.03, None, 111.95),
    Published("Qwen3-8B BF16", "AlexsJones/llmfit#1046, RTX 4090, vLLM", 1008e9, 15.14e9, 8.19, None, 58.7),
    Published("Qwen3-4B BF16", "pegainfer-project/pegainfer#69, RTX 4090", 1008e9, 8.04e9, 4.02, None, 97.02),
    Published("Qwen3-4B BF16", "pegainfer-project/pegainfer#69, RTX 5070 Ti", 896e9, 8.04e9, 4.02, None, 81.05),
    Published("Llama-7B FP16", "tinygrad/tinygrad#3837, RTX 3090", 936e9, 13.48e9, 6.74, None, 50.95),
    Published("TinyLlama-1.1B Q4_K_M", "geerlingguy/ai-benchmarks#43, RTX 4090", 1008e9, 636.18 * MIB, 1.1, None, 762.37),
    Published("Llama-3.2-1B Q4_K_M", "AlexsJones/llmfit#778, RTX 2080", 448e9, 0.808e9, 1.24, None, 304.3),
    Published("gemma-2-2B Q4_K_M", "AlexsJones/llmfit#778, RTX 2080", 448e9, 1.71e9, 2.61, None, 140.3),
    Published("Llama-3-8B Q4_K_M", "ggml-org/llama.cpp#26284, RX 7900 XTX, HIP", 960e9, 4.58 * GIB, 8.03, None, 105.75),
    Published("llama-2-7b Q4_0", "ggml-org/llama.cpp#20934, RX 7900 XTX, Vulkan", 960e9, 3.56 * GIB, 6.74, None, 167.0),
    Published("llama-2-7b Q4_0", "ggml-org/llama.cpp#20934, RX 7900 XTX, ROCm", 960e9, 3.56 * GIB, 6.74, None, 129.0),
    Published("llama-7b Q4_0", "ggml-org/llama.cpp#4766, RTX 3090", 936e9, 3.56 * GIB, 6.74, None, 121.82),
    Published("Qwen3-8B Q4_K_M", "CambrianTech/continuum#1627, RTX 5090", 1792e9, 5.03e9, 8.19, None, 221.7),
    Published(
        "27B Q4_K_M with a drafting head", "reported of an RX 7900 XTX", 960e9, 16.8e9, 27.0, None, 62.6, speculative="mtp"
    ),
    Published(
        "30B-A3B", "reported of an RX 7900 XTX", 960e9, 18.6e9, 30.5, 3.3, 36.7, offload="n_cpu_moe 36"
    ),
    Published("gpt-oss-120b MXFP4", "reported of a Strix Halo, vLLM", STRIX_HALO, 59.02 * GIB, 116.83, 5.13, 7.9, "sick"),
    Published("GLM-4.7-Flash BF16", "reported of a Strix Halo", STRIX_HALO, 58.2 * GIB, 31.2, 3.2, 4.2, "sick"),
    Published(
        "Qwen2.5-14B Q4_K_M", "geerlingguy/ai-benchmarks#23, RX 7900 XT on one lane of a Raspberry Pi", 800e9, 8.37 * GIB,
        14.77, None, 7.16, "sick",
    ),
)  # fmt: skip


def judged(row: Published) -> Judgement:
    """The verdict on a row, by the facts that files would give."""
    read = row.size if row.active is None else row.size * row.active / row.parameters
    weights = Weights(row.size, read, row.parameters * 1e9, experts=row.active is not None)
    known = TargetFacts(
        "llama_cpp",
        row.model,
        weights=weights,
        memory_bandwidth=row.bandwidth,
        speculative=row.speculative,
        offload=row.offload,
    )
    return judge(row.speed, bounds=PROFILES.tiers, known=known, profiles=PROFILES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.model}, {row.source}")
def test_a_published_speed_is_judged_as_what_it_is(row: Published) -> None:
    """The best of a hardware lies within its band and below its ceiling; a sick server lies below its band."""
    judgement = judged(row)
    low, high = judgement.expected_min, judgement.expected_max
    if row.speculative or row.offload:
        assert (judgement.efficiency, low, high) == (None, None, None)
        assert judgement.no_ceiling
        return
    assert judgement.efficiency is not None, judgement.no_ceiling
    assert judgement.efficiency <= 1
    assert low is not None
    assert high is not None
    assert high <= (judgement.ceiling_tokens_per_second or 0.0)
    if row.verdict == "sick":
        assert row.speed < low
        assert judgement.limit != "memory_bandwidth"
    else:
        assert low <= row.speed <= high


def test_what_a_token_costs_beyond_its_reads() -> None:
    """It lowers the band of a small model on fast memory, and next to nothing of a large one's."""

    def low(size: float, bandwidth: float) -> float:
        known = TargetFacts("llama_cpp", weights=Weights(size, size, experts=False), memory_bandwidth=bandwidth)
        found = judge(None, bounds=PROFILES.tiers, known=known, profiles=PROFILES)
        assert found.expected_min is not None
        assert found.ceiling_tokens_per_second is not None
        return found.expected_min / found.ceiling_tokens_per_second

    assert low(27.98e9, STRIX_HALO) == pytest.approx(0.6, rel=0.02)
    assert low(0.667e9, 1008e9) == pytest.approx(0.21, abs=0.01)
    assert 0.25 < low(1.6e9, 1792e9) < low(4.92e9, 1008e9) < 0.55


def test_the_best_of_a_strix_halo_lies_where_it_is_known_to_lie() -> None:
    """Dense models reach 0.83 to 0.91 of the ceiling, mixtures of experts 0.45 to 0.77."""
    for row in (each for each in ROWS if each.source == TOOLBOXES):
        efficiency = judged(row).efficiency
        assert efficiency is not None
        bounds = (0.83, 0.915) if row.active is None else (0.45, 0.775)
        assert bounds[0] <= efficiency <= bounds[1], f"{row.model}: {efficiency:.3f}"
