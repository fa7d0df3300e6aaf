"""The FAQ's figures as judgements: tiers at their bounds, scenarios, hardware, ceilings."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.settings import Thresholds, load_profiles
from exporter.tiers import (
    NO_GPU_GIVEN,
    NOTHING,
    ON_CPU,
    SAID_BY_THE_SERVER,
    TIERS,
    Expected,
    TargetFacts,
    Weights,
    active_parameters_in,
    bytes_per_token,
    ceiling_of,
    expected_of,
    hardware_of,
    is_mixture_of_experts,
    judge,
    parameters_in,
    scenario_of,
    tier_of,
)

PROFILES = load_profiles(None)
FAQ = Thresholds(excellent=20, good=15, acceptable=10)
HERE = "ryzen-ai-max-395"
# Qwen2.5-14B-Instruct: 14,770,033,664 parameters, 29,540,067,328 bytes in BF16, an untied input embedding of 1.557 GB.
QWEN = Weights(
    bytes=29_540_067_328,
    streamed_bytes=27_983_000_000,
    parameters=14_770_033_664,
    kv_bytes_per_token=196_608,
    experts=False,
)
# As a server's own API tells it: nothing of what one token reads.
WHOLE = replace(QWEN, streamed_bytes=None, parameters=None, experts=None)
STRIX_HALO = TargetFacts(
    "vllm",
    model="Qwen/Qwen2.5-14B-Instruct",
    quantization="none",
    aiter=False,
    weights=QWEN,
    gfx_target="gfx1151",
    compute_units=40,
    memory_bandwidth=256e9,
)


@pytest.mark.parametrize(
    ("speed", "tier"),
    [
        (24.0, "excellent"),
        (20.0, "excellent"),
        (19.999, "good"),
        (15.0, "good"),
        (14.999, "acceptable"),
        (10.0, "acceptable"),
        (9.999, "poor"),
        (6.4, "poor"),
        (0.0, "poor"),
    ],
)
def test_exactly_on_a_bound_is_the_better_tier(speed: float, tier: str) -> None:
    """20, 15 and 10 tokens per second belong to the tier that they open."""
    assert tier_of(speed, FAQ) == tier
    assert tier_of(speed, PROFILES.tiers) == tier


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_a_faster_server_never_has_a_worse_tier(one: float, other: float) -> None:
    """Tiers keep the order of the speeds."""
    slower, faster = sorted((one, other))
    assert TIERS.index(tier_of(faster, FAQ)) <= TIERS.index(tier_of(slower, FAQ))


@pytest.mark.parametrize(
    ("known", "scenario"),
    [
        (TargetFacts("vllm", aiter=False, quantization="none"), "vllm-fp16"),
        (TargetFacts("vllm", aiter=True, quantization="none"), "vllm-fp16-aiter"),
        (TargetFacts("vllm", aiter=True, quantization="none", kv_cache="fp8_e4m3"), "vllm-fp8-aiter"),
        (TargetFacts("vllm", aiter=True, quantization="awq"), "vllm-awq-aiter"),
        (TargetFacts("vllm", aiter=True, quantization="awq_marlin", kv_cache="fp8"), "vllm-awq-aiter"),
        (TargetFacts("vllm", aiter=False, quantization="awq"), None),
        (TargetFacts("vllm"), None),
        (TargetFacts("llama_cpp", quantization="Q4_K_M"), "llamacpp-q4"),
        (TargetFacts("llama_cpp", quantization="Q8_0"), None),
        (TargetFacts("llama_cpp"), None),
        (TargetFacts("ollama", quantization="Q8_0"), "ollama"),
        (TargetFacts("text_generation_webui"), "text-generation-webui"),
        (TargetFacts("transformers"), "transformers"),
        (TargetFacts("openai"), None),
    ],
)
def test_the_faqs_scenarios_are_recognised(known: TargetFacts, scenario: str | None) -> None:
    """Each row of the FAQ is found by its facts; where a fact that it needs isn't known, none is."""
    assert scenario_of(known, PROFILES) == scenario


@pytest.mark.parametrize(
    ("scenario", "low", "high"),
    [
        ("vllm-fp16", 8, 12),
        ("vllm-fp16-aiter", 12, 20),
        ("vllm-fp8-aiter", 18, 28),
        ("vllm-awq-aiter", 25, 40),
        ("llamacpp-q4", 20, 30),
        ("ollama", 20, 25),
        ("text-generation-webui", 18, 22),
        ("transformers", 5, 8),
    ],
)
def test_the_faqs_bands(scenario: str, low: float, high: float) -> None:
    """The built-in file holds the FAQ's expectation of each scenario."""
    assert expected_of(scenario, STRIX_HALO, PROFILES, hardware=HERE) == Expected(low, high, "faq")


@pytest.mark.parametrize(
    ("known", "hardware"),
    [
        (TargetFacts("vllm", model="Qwen2.5-72B-Instruct"), HERE),
        (TargetFacts("vllm", model="Qwen2.5-0.5B"), HERE),
        (TargetFacts("vllm", model="some-model"), HERE),
        (TargetFacts("vllm", model="made-up-14B"), HERE),
        (STRIX_HALO, "radeon-rx-7900-xtx"),
        (STRIX_HALO, None),
    ],
)
def test_the_faqs_bands_hold_for_its_own_machine_and_size(known: TargetFacts, hardware: str | None) -> None:
    """Another size, a size that nobody states, a model that may be a mixture, other hardware: no band without a ceiling."""
    assert expected_of("vllm-fp16", known, PROFILES, hardware=hardware) == NOTHING
    assert expected_of("no-such", STRIX_HALO, PROFILES, hardware=HERE) == NOTHING


@pytest.mark.parametrize(
    ("scenario", "ceiling", "expected"),
    [
        ("vllm-fp16", 9.15, Expected(8, 9.15, "faq")),
        ("vllm-fp16", 30.0, Expected(8, 12, "faq")),
        ("vllm-fp16-aiter", 9.0, Expected(1 / (1 / (0.6 * 9.0) + 0.002), 0.95 * 9.0, "ceiling")),
        (None, 9.0, Expected(1 / (1 / (0.6 * 9.0) + 0.002), 0.95 * 9.0, "ceiling")),
    ],
)
def test_no_band_reaches_above_the_ceiling(scenario: str | None, ceiling: float, expected: Expected) -> None:
    """A band's max is cut there; a band that lies above it as a whole, or none, becomes the ceiling's share."""
    assert expected_of(scenario, STRIX_HALO, PROFILES, hardware=HERE, ceiling=ceiling) == expected


def test_the_band_of_a_mixture_is_a_lower_share() -> None:
    """Mixtures of experts reach less of their ceiling than dense models do."""
    known = replace(STRIX_HALO, weights=replace(QWEN, experts=True))
    expected = expected_of("vllm-fp16", known, PROFILES, hardware=HERE, ceiling=100.0)
    assert expected.low == pytest.approx(1 / (1 / 40.0 + 0.002))
    assert (expected.high, expected.source) == (85.0, "ceiling")


@pytest.mark.parametrize(
    ("gfx_target", "compute_units", "profile"),
    [
        ("gfx1151", 40, "ryzen-ai-max-395"),
        ("gfx1151", 32, None),
        ("gfx1100", 96, "radeon-rx-7900-xtx"),
        ("gfx1102", 32, "radeon-rx-7600"),
        ("gfx942", 304, "instinct-mi300x"),
        ("gfx942", None, None),
        (None, 40, None),
    ],
)
def test_hardware_is_told_by_target_and_compute_units(
    gfx_target: str | None, compute_units: int | None, profile: str | None
) -> None:
    """One PCI id covers several products, so the number of compute units decides."""
    known = TargetFacts("vllm", gfx_target=gfx_target, compute_units=compute_units)
    assert hardware_of(known, PROFILES) == profile


def test_another_makers_hardware_is_told_by_its_name() -> None:
    """As its driver says it; of an AMD GPU a name alone says nothing."""
    assert hardware_of(TargetFacts("vllm", gpu_name="NVIDIA GeForce RTX 3090"), PROFILES) == "geforce-rtx-3090"
    assert hardware_of(TargetFacts("vllm", gpu_name="AMD Radeon RX 7900 XTX"), PROFILES) is None


@pytest.mark.parametrize(
    ("name", "parameters", "active"),
    [
        ("Qwen/Qwen2.5-14B-Instruct", 14e9, None),
        ("qwen2.5:0.5b", 0.5e9, None),
        ("Qwen3-30B-A3B-Instruct", 30e9, 3e9),
        ("mixtral-8x7b", 56e9, None),
        ("tinyllama.Q4_K_M.gguf", None, None),
        ("gfx90a-b200", None, None),
        ("llama-3.1-8B", 8e9, None),
    ],
)
def test_a_name_may_state_its_size(name: str, parameters: float | None, active: float | None) -> None:
    """Sizes are read from names in their usual forms, and nothing is read into others."""
    assert parameters_in(name) == parameters
    assert active_parameters_in(name) == active


def test_the_faqs_ceiling() -> None:
    """The FAQ's own example: 28 GB of weights and 2 GB of cache at 128 GB/s allow 4.3 tokens per second."""
    known = TargetFacts("vllm", weights=Weights(bytes=28e9, kv_bytes_per_token=2e9, experts=False))
    ceiling, _ = ceiling_of(known, 1, 128e9, PROFILES)
    assert ceiling == pytest.approx(4.27, abs=0.005)


def test_an_honest_ceiling_for_a_14b_in_bf16_on_strix_halo() -> None:
    """8 tokens per second on this machine are 87 % of what its memory allows, so they are not a fault of the setup."""
    judgement = judge(8.0, bounds=FAQ, known=STRIX_HALO, profiles=PROFILES, context_tokens=100)
    assert judgement.ceiling_tokens_per_second == pytest.approx(9.14, abs=0.02)
    assert judgement.efficiency == pytest.approx(8.0 / 9.14, abs=0.01)
    assert (judgement.tier, judgement.expected_min, judgement.limit) == ("poor", 8, "memory_bandwidth")
    assert judgement.expected_max == judgement.ceiling_tokens_per_second
    assert judgement.no_ceiling == ""


def test_a_long_context_lowers_the_ceiling() -> None:
    """Each token of context is read again for each token that is generated."""
    short = bytes_per_token(STRIX_HALO, 0, PROFILES)
    long = bytes_per_token(STRIX_HALO, 32768, PROFILES)
    assert short == 27_983_000_000
    assert long == 27_983_000_000 + 32768 * 196_608


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (
            replace(STRIX_HALO, bandwidth_problem="2 GPUs may serve", memory_bandwidth=None, gfx_target=None),
            "2 GPUs may serve",
        ),
        (replace(STRIX_HALO, offloaded=True), "a part of its model lies outside the GPU's memory, so"),
        (
            replace(STRIX_HALO, no_gpu=ON_CPU, offload="all"),
            "it computes on the CPU, so the GPU's memory isn't its limit",
        ),
        (
            replace(STRIX_HALO, no_gpu=NO_GPU_GIVEN),
            "its container was given no GPU, so the GPU's memory isn't its limit",
        ),
        (
            replace(STRIX_HALO, offload="cpu, gpu_layers 0"),
            "it computes on the CPU, so the GPU's memory isn't its limit",
        ),
        (replace(STRIX_HALO, offload="gpu_layers 0"), "no layer of its model is on the GPU (gpu_layers 0), so"),
        (replace(STRIX_HALO, offload="n_cpu_moe 36"), "not all of its work is done on the GPU (n_cpu_moe 36), so"),
        (replace(STRIX_HALO, speculative="draft-mtp"), "the server drafts tokens (draft-mtp), so"),
        (replace(STRIX_HALO, speculative="draft"), "the server drafts tokens with a draft model, so"),
        (replace(STRIX_HALO, speculative="on"), "the server drafts tokens, so"),
        (replace(STRIX_HALO, speculative=SAID_BY_THE_SERVER), "the server drafts tokens, as it says itself, so"),
        (replace(STRIX_HALO, weights=Weights()), "the size of Qwen/Qwen2.5-14B-Instruct isn't known"),
        (
            replace(STRIX_HALO, weights=Weights(), weights_problem="its file can't be read: x"),
            "the size of Qwen/Qwen2.5-14B-Instruct isn't known: its file can't be read: x",
        ),
        (replace(STRIX_HALO, model="qwen3-a-mixture-8x7b", weights=WHOLE), "nothing says how much of it a token reads"),
        (replace(STRIX_HALO, model="made-up-14B", weights=WHOLE), "is dense or a mixture of experts"),
        (replace(STRIX_HALO, weights=replace(WHOLE, experts=True)), "is a mixture of experts"),
    ],
)
def test_no_ceiling_where_it_would_be_a_guess(known: TargetFacts, why: str) -> None:
    """An unknown GPU, offload, drafting, an unknown size and a model that may be a mixture have none, and the reason is told."""
    judgement = judge(8.0, bounds=FAQ, known=known, profiles=PROFILES)
    assert judgement.ceiling_tokens_per_second is None
    assert judgement.efficiency is None
    assert why in judgement.no_ceiling


@pytest.mark.parametrize(
    ("model", "is_mixture", "share"),
    [
        ("Qwen3-30B-A3B-Instruct", True, 0.1),
        ("gpt-oss:20b", True, 3.6 / 20.9),
        ("openai/gpt-oss-120b", True, 5.1 / 116.8),
        ("zai-org/GLM-4.5-Air", True, 12 / 106),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", True, 12.9 / 46.7),
        ("deepseek-ai/DeepSeek-R1", True, 37 / 671),
        ("deepseek-r1:14b", False, 1.0),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", False, 1.0),
        ("deepseek-r1:latest", None, 0.0),
        ("GLM-4.7-Flash", True, 0.1),
        ("glm-5-nano", None, 0.0),
        ("llama3.1:8b", False, 1.0),
        ("Qwen/Qwen2.5-14B-Instruct", False, 1.0),
        ("qwen3-coder-480b", None, 0.0),
        (None, None, 0.0),
    ],
)
def test_dense_and_mixture_are_facts(model: str | None, is_mixture: bool | None, share: float) -> None:  # noqa: FBT001 - a table
    """By the name's own statement or the tables with their sizes; what neither knows may be either, and has no ceiling."""
    known = TargetFacts("vllm", model=model, weights=Weights(bytes=100.0))
    assert is_mixture_of_experts(known, PROFILES) is is_mixture
    assert (bytes_per_token(known, 0, PROFILES) or 0.0) == pytest.approx(100.0 * share)


def test_a_size_that_the_server_states_overrules_the_name() -> None:
    """An 8B that bears the name of a mixture of 671B is a distilled model."""
    known = TargetFacts("ollama", model="deepseek-r1:latest", weights=Weights(bytes=100.0, parameters=8.0e9))
    assert is_mixture_of_experts(known, PROFILES) is False


def test_a_mixture_of_experts_that_states_its_active_size_has_a_ceiling() -> None:
    """Only the active share of the weights is read for a token."""
    known = replace(STRIX_HALO, model="Qwen3-30B-A3B", weights=Weights(bytes=60e9, parameters=30e9))
    assert is_mixture_of_experts(known, PROFILES)
    assert ceiling_of(known, 0, 256e9, PROFILES)[0] == pytest.approx(256e9 / 6e9)


@pytest.mark.parametrize("speed", [9.2, 48.5])
def test_a_speed_beyond_the_ceiling_shows_that_there_was_none(speed: float) -> None:
    """What beats its roofline was not read whole for each token: no ceiling is claimed for it, and no efficiency above 1."""
    judgement = judge(speed, bounds=FAQ, known=STRIX_HALO, profiles=PROFILES)
    assert judgement.ceiling_tokens_per_second is None
    assert judgement.efficiency is None
    assert "one of these facts is wrong" in judgement.no_ceiling


@pytest.mark.parametrize(
    ("speed", "changes", "limit"),
    [
        (8.3, {"users": 2.0}, "memory_bandwidth"),
        (5.0, {"users": 2.0, "throttled": True}, "users"),
        (5.0, {"throttled": True}, "throttling"),
        (5.0, {"offload": "gpu_layers 20", "throttled": True}, "offload"),
        (5.0, {"offload": "none", "throttled": False}, "unknown"),
    ],
)
def test_what_limits_a_speed(speed: float, changes: dict[str, Any], limit: str) -> None:
    """The memory from three quarters of the ceiling on; below that the first cause that is known."""
    judgement = judge(speed, bounds=FAQ, known=replace(STRIX_HALO, **changes), profiles=PROFILES)
    assert judgement.limit == limit


def test_aiter_without_effect_is_no_aiter() -> None:
    """A server that has it switched on where it can't work is judged as one without."""
    known = replace(STRIX_HALO, aiter=True)
    assert scenario_of(known, PROFILES) == "vllm-fp16-aiter"
    assert scenario_of(replace(known, aiter_usable=False), PROFILES) == "vllm-fp16"
    assert scenario_of(replace(known, aiter_usable=True), PROFILES) == "vllm-fp16-aiter"


def test_without_a_speed_there_is_no_tier_but_the_thresholds_stand() -> None:
    """Dashboards read the thresholds from the start; tier, efficiency and energy wait for a measurement."""
    judgement = judge(None, bounds=FAQ, known=STRIX_HALO, profiles=PROFILES, decode_watts=90)
    assert judgement.thresholds == FAQ
    assert judgement.ceiling_tokens_per_second is not None
    assert (judgement.tier, judgement.efficiency, judgement.energy_joules_per_token) == (None, None, None)


def test_energy_is_power_over_speed() -> None:
    """96 watts at 8 tokens per second are 12 joules a token."""
    judgement = judge(8.0, bounds=FAQ, known=STRIX_HALO, profiles=PROFILES, decode_watts=96.0)
    assert judgement.energy_joules_per_token == 12.0


def test_what_the_user_names_wins() -> None:
    """A configured scenario, hardware and tiers are used as they are."""
    bounds = Thresholds(excellent=100.0, good=50.0, acceptable=7.0)
    judgement = judge(
        8.0,
        bounds=bounds,
        known=replace(STRIX_HALO, gfx_target=None, memory_bandwidth=None),
        profiles=PROFILES,
        scenario="transformers",
        hardware="radeon-rx-7600",
    )
    assert judgement.tier == "acceptable"
    assert (judgement.expected_min, judgement.expected_max) == (5, 8)
    assert judgement.ceiling_tokens_per_second == pytest.approx(288e9 / 27_983_000_000)
    read = judge(8.0, bounds=bounds, known=STRIX_HALO, profiles=PROFILES, hardware="radeon-rx-7600")
    assert read.ceiling_tokens_per_second == judgement.ceiling_tokens_per_second
