"""Facts into judgements: tier, scenario, expected band, ceiling, efficiency. Pure; every figure comes from the profiles.

The ceiling is the roofline of single-stream decode: memory bandwidth ÷ bytes read for each token, which are the weights
(without an untied input embedding, of which one row is read) and the key-value cache of the context.
"""

import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from exporter.settings import Profiles, Scenario, Thresholds

Tier = Literal["excellent", "good", "acceptable", "poor"]
TIERS: Final[tuple[Tier, ...]] = ("excellent", "good", "acceptable", "poor")

# A measurement that beats a ceiling by more than this shows that the ceiling was not one (a mixture of experts that could
# not be recognised, speculative decoding): then none is given, rather than an efficiency that can't be.
BEYOND_DOUBT: Final = 1.15


@dataclass(frozen=True, slots=True)
class Weights:
    """What is known of a model's size. Bytes; ``kv_bytes_per_token`` is of one token of context, keys and values.

    ``streamed_bytes`` are the weights read for each token where the files told (without an untied input embedding, and of
    a mixture of experts the active ones), ``bytes`` the whole; ``experts`` is True for a mixture of experts, None where nothing told.
    """

    bytes: float | None = None
    streamed_bytes: float | None = None
    parameters: float | None = None
    kv_bytes_per_token: float | None = None
    experts: bool | None = None


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """All that is known of the setup behind one target; None where nobody said.

    ``gfx_target``, ``compute_units`` and ``memory_bandwidth`` (bytes/s) are of the one GPU that serves it; ``gpus`` counts
    those that do, ``offloaded`` is True where a part of the model lies in memory that the GPU doesn't own.
    """

    backend: str
    model: str | None = None
    quantization: str | None = None
    kv_cache: str | None = None
    aiter: bool | None = None
    weights: Weights = Weights()
    gfx_target: str | None = None
    compute_units: int | None = None
    memory_bandwidth: float | None = None
    gpus: int | None = None
    offloaded: bool | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """How good one probe was. ``tier``, ``efficiency`` and energy are None while no speed is known."""

    tier: Tier | None
    thresholds: Thresholds
    scenario: str | None = None
    expected_min: float | None = None
    expected_max: float | None = None
    ceiling_tokens_per_second: float | None = None
    efficiency: float | None = None
    energy_joules_per_token: float | None = None


def tier_of(tokens_per_second: float, bounds: Thresholds) -> Tier:
    """The tier of a decode speed; exactly on a bound is the better one."""
    if tokens_per_second >= bounds.excellent:
        return "excellent"
    if tokens_per_second >= bounds.good:
        return "good"
    if tokens_per_second >= bounds.acceptable:
        return "acceptable"
    return "poor"


def scenario_of(known: TargetFacts, profiles: Profiles) -> str | None:
    """The first scenario of the profiles whose every condition is known to hold, else None."""
    for name, scenario in profiles.scenarios.items():
        if scenario.backend == known.backend and _conditions_hold(scenario, known):
            return name
    return None


def _conditions_hold(scenario: Scenario, known: TargetFacts) -> bool:
    return (
        (scenario.aiter is None or scenario.aiter is known.aiter)
        and _text_holds(scenario.quantization, known.quantization)
        and _text_holds(scenario.kv_cache, known.kv_cache)
    )


# What a full-precision model is called where it is called anything: all of these answer a condition of `none`.
UNQUANTIZED: Final = frozenset({"none", "auto", "fp16", "f16", "float16", "half", "bf16", "bfloat16", "fp32", "f32"})


def _text_holds(condition: str | None, known: str | None) -> bool:
    if condition is None:
        return True
    if known is None:
        return False
    if condition == "none":
        return known.lower() in UNQUANTIZED
    return known.lower().startswith(condition.lower())


def hardware_of(gfx_target: str | None, compute_units: int | None, profiles: Profiles) -> str | None:
    """The profile of a GPU by its gfx target and number of compute units; None unless both are known and match."""
    for name, hardware in profiles.hardware.items():
        if gfx_target is not None and hardware.gfx_target == gfx_target and compute_units in hardware.compute_units:
            return name
    return None


_SIZE = re.compile(r"(?<![a-z0-9.])(?:(?P<experts>\d+)x)?(?P<billions>\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)
_ACTIVE = re.compile(r"(?<![a-z0-9])a(?P<billions>\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)


def parameters_in(model: str) -> float | None:
    """The number of parameters that a model's name states (``Qwen2.5-14B`` gives 14e9); None without one."""
    if (found := _SIZE.search(model)) is None:
        return None
    return int(found["experts"] or 1) * float(found["billions"]) * 1e9


def active_parameters_in(model: str) -> float | None:
    """The active parameters of a mixture of experts that its name states (``30B-A3B`` gives 3e9)."""
    return float(found["billions"]) * 1e9 if (found := _ACTIVE.search(model)) else None


def is_mixture_of_experts(known: TargetFacts, profiles: Profiles) -> bool:
    """True where the files, the name or the profiles say that a token reads only some of the weights."""
    if known.weights.experts is not None:
        return known.weights.experts
    name = (known.model or "").lower()
    size = _SIZE.search(name)
    return (
        active_parameters_in(name) is not None
        or (size is not None and size["experts"] is not None)
        or any(part in name for part in profiles.mixture_of_experts)
    )


def bytes_per_token(known: TargetFacts, context_tokens: float, profiles: Profiles) -> float | None:
    """Bytes read from memory for one token at this length of context; None where the model's size isn't known.

    Source: the roofline of memory-bound decode. For a mixture of experts it is the active share of the weights, where the
    model's files or its name state it.
    """
    weights = known.weights
    whole = weights.streamed_bytes
    if whole is None and weights.bytes is not None:
        whole = weights.bytes * _share_read(known, profiles)
    if not whole:
        return None
    return whole + (weights.kv_bytes_per_token or 0.0) * context_tokens


def _share_read(known: TargetFacts, profiles: Profiles) -> float:
    """The share of the weights that one token reads; 0 where it is a share that nobody states."""
    if not is_mixture_of_experts(known, profiles):
        return 1.0
    active = active_parameters_in(known.model or "")
    total = known.weights.parameters or parameters_in(known.model or "")
    return active / total if active and total else 0.0


def ceiling_of(known: TargetFacts, context_tokens: float, bandwidth: float | None, profiles: Profiles) -> float | None:
    """Tokens per second that the memory allows; None for several GPUs, an offloaded model, or an unknown size."""
    if bandwidth is None or known.offloaded or (known.gpus is not None and known.gpus != 1):
        return None
    each = bytes_per_token(known, context_tokens, profiles)
    return bandwidth / each if each else None


def expected_of(scenario: str | None, known: TargetFacts, profiles: Profiles) -> tuple[float | None, float | None]:
    """The band of a scenario; (None, None) without one, or for a model known to be of another size than its figures."""
    if scenario is None or scenario not in profiles.scenarios:
        return None, None
    size = known.weights.parameters or parameters_in(known.model or "")
    limits = profiles.scenario_parameters
    if size is not None and not (limits.min or 0.0) <= size <= (limits.max or float("inf")):
        return None, None
    band = profiles.scenarios[scenario].expected
    return band.min, band.max


def judge(
    tokens_per_second: float | None,
    *,
    bounds: Thresholds,
    known: TargetFacts,
    profiles: Profiles,
    scenario: str | None = None,
    hardware: str | None = None,
    context_tokens: float = 0.0,
    decode_watts: float | None = None,
) -> Judgement:
    """Judge one decode speed (None while none is known). ``scenario`` and ``hardware`` are ids that a user gave.

    ``decode_watts`` is the mean power of the GPU while the probe decoded.
    """
    scenario = scenario or scenario_of(known, profiles)
    low, high = expected_of(scenario, known, profiles)
    hardware = hardware or hardware_of(known.gfx_target, known.compute_units, profiles)
    profile = profiles.hardware.get(hardware) if hardware else None
    bandwidth = known.memory_bandwidth or (profile.memory_bandwidth if profile else None)
    judgement = Judgement(
        tier=None,
        thresholds=bounds,
        scenario=scenario,
        expected_min=low,
        expected_max=high,
        ceiling_tokens_per_second=ceiling_of(known, context_tokens, bandwidth, profiles),
    )
    return judgement if tokens_per_second is None else _with_speed(judgement, tokens_per_second, bounds, decode_watts)


def _with_speed(judgement: Judgement, speed: float, bounds: Thresholds, decode_watts: float | None) -> Judgement:
    ceiling = judgement.ceiling_tokens_per_second
    if ceiling is not None and speed > ceiling * BEYOND_DOUBT:
        ceiling = None
    return replace(
        judgement,
        tier=tier_of(speed, bounds),
        ceiling_tokens_per_second=ceiling,
        efficiency=speed / ceiling if ceiling else None,
        energy_joules_per_token=decode_watts / speed if decode_watts is not None and speed > 0 else None,
    )
