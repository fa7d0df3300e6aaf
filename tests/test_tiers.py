"""The FAQ's figures as judgements: tiers at their bounds, scenarios, hardware, ceilings."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.settings import Thresholds, load_profiles
from exporter.tiers import (
    TIERS,
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
# Qwen2.5-14B-Instruct: 14,770,033,664 parameters, 29,540,067,328 bytes in BF16, an untied input embedding of 1.557 GB.
QWEN = Weights(
    bytes=29_540_067_328, streamed_bytes=27_983_000_000, parameters=14_770_033_664, kv_bytes_per_token=196_608
)
# As a server's own API tells it: nothing of what one token reads.
WHOLE = replace(QWEN, streamed_bytes=None)
STRIX_HALO = TargetFacts(
    "vllm",
    model="Qwen/Qwen2.5-14B-Instruct",
    quantization="none",
    aiter=False,
    weights=QWEN,
    gfx_target="gfx1151",
    compute_units=40,
    memory_bandwidth=256e9,
    gpus=1,
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
    assert expected_of(scenario, STRIX_HALO, PROFILES) == (low, high)


def test_a_model_of_another_size_has_no_band() -> None:
    """The FAQ's bands are about 14B models: a 72B or a 0.5B one is not measured against them."""
    assert expected_of("vllm-fp16", TargetFacts("vllm", model="Qwen2.5-72B-Instruct"), PROFILES) == (None, None)
    assert expected_of("vllm-fp16", TargetFacts("vllm", model="Qwen2.5-0.5B"), PROFILES) == (None, None)
    assert expected_of("vllm-fp16", TargetFacts("vllm", model="some-model"), PROFILES) == (8, 12)
    assert expected_of("no-such", STRIX_HALO, PROFILES) == (None, None)


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
    assert hardware_of(gfx_target, compute_units, PROFILES) == profile


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
    known = TargetFacts("vllm", weights=Weights(bytes=28e9, kv_bytes_per_token=2e9))
    ceiling = ceiling_of(known, 1, 128e9, PROFILES)
    assert ceiling == pytest.approx(4.27, abs=0.005)


def test_an_honest_ceiling_for_a_14b_in_bf16_on_strix_halo() -> None:
    """8 tokens per second on this machine are 87 % of what its memory allows, so they are not a fault of the setup."""
    judgement = judge(8.0, bounds=FAQ, known=STRIX_HALO, profiles=PROFILES, context_tokens=100)
    assert judgement.ceiling_tokens_per_second == pytest.approx(9.14, abs=0.02)
    assert judgement.efficiency == pytest.approx(8.0 / 9.14, abs=0.01)
    assert (judgement.tier, judgement.expected_min, judgement.expected_max) == ("poor", 8, 12)


def test_a_long_context_lowers_the_ceiling() -> None:
    """Each token of context is read again for each token that is generated."""
    short = bytes_per_token(STRIX_HALO, 0, PROFILES)
    long = bytes_per_token(STRIX_HALO, 32768, PROFILES)
    assert short == 27_983_000_000
    assert long == 27_983_000_000 + 32768 * 196_608


@pytest.mark.parametrize(
    "known",
    [
        replace(STRIX_HALO, gpus=2),
        replace(STRIX_HALO, offloaded=True),
        replace(STRIX_HALO, weights=Weights()),
        replace(STRIX_HALO, model="mixtral-8x7b", weights=WHOLE),
        replace(STRIX_HALO, model="gpt-oss-120b", weights=WHOLE),
        replace(STRIX_HALO, weights=replace(WHOLE, experts=True)),
    ],
)
def test_no_ceiling_where_it_would_be_a_guess(known: TargetFacts) -> None:
    """Several GPUs, an offloaded model, an unknown size and a mixture of experts of unknown active size have none."""
    judgement = judge(8.0, bounds=FAQ, known=known, profiles=PROFILES)
    assert judgement.ceiling_tokens_per_second is None
    assert judgement.efficiency is None


def test_a_mixture_of_experts_that_states_its_active_size_has_a_ceiling() -> None:
    """Only the active share of the weights is read for a token."""
    known = replace(STRIX_HALO, model="Qwen3-30B-A3B", weights=Weights(bytes=60e9, parameters=30e9))
    assert is_mixture_of_experts(known, PROFILES)
    assert ceiling_of(known, 0, 256e9, PROFILES) == pytest.approx(256e9 / 6e9)


def test_a_speed_beyond_the_ceiling_shows_that_there_was_none() -> None:
    """A model that beats its roofline by far was not read whole for each token: no ceiling is claimed for it."""
    judgement = judge(48.5, bounds=FAQ, known=STRIX_HALO, profiles=PROFILES)
    assert judgement.ceiling_tokens_per_second is None
    assert judgement.tier == "excellent"


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
