"""Facts into judgements: tier, scenario, expected band, ceiling, efficiency. Pure; every figure comes from the profiles.

The ceiling is the roofline of single-stream decode: memory bandwidth ÷ bytes read for each token. These are the weights
(without an untied input embedding, of which one row is read) and the key-value cache of the context.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from exporter.settings import Band, Mixture, Profiles, Scenario, Thresholds
from exporter.text import number_text

Tier = Literal["excellent", "good", "acceptable", "poor"]
TIERS: Final[tuple[Tier, ...]] = ("excellent", "good", "acceptable", "poor")
NEAR: Final = 0.02
"""A speed within this share of a bound may be noise: what people read does not call it slow or fast."""

BandSource = Literal["faq", "ceiling"]
PowerScope = Literal["gpu", "socket"]
EnergyScope = Literal["gpu", "socket", "unknown"]
Limit = Literal["memory_bandwidth", "users", "offload", "throttling", "unknown"]
LIMITS: Final[tuple[Limit, ...]] = ("memory_bandwidth", "users", "offload", "throttling", "unknown")

ON_CPU: Final = "it computes on the CPU"
NO_GPU_GIVEN: Final = "its container was given no GPU"
PARTLY: Final = "not all of its work is done on the GPU"
CPU_ALONE: Final = frozenset({"all", "cpu", "device none", "device cpu"})
"""Launch settings by which nothing is done on a GPU, in the words of ``cpu_offload``."""

# Sizes in names are rounded; a family of the tables is meant only if a stated size agrees with its own this well.
SAME_SIZE: Final = 0.25
SAME_DENSE_SIZE: Final = 0.12


@dataclass(frozen=True, slots=True)
class Weights:
    """What is known of a model's size. Bytes; ``kv_bytes_per_token`` is of one token of context, keys and values.

    ``streamed_bytes`` are the weights read for each token if the files say it, ``bytes`` the whole. They are without an untied
    input embedding, and of a mixture of experts only the active ones. ``experts`` is True for a mixture of experts, None if
    unknown.
    """

    bytes: float | None = None
    streamed_bytes: float | None = None
    parameters: float | None = None
    kv_bytes_per_token: float | None = None
    experts: bool | None = None


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """All that is known of the setup behind one target; None or empty if nobody said.

    ``gfx_target``, ``compute_units`` and ``gpu_name`` are of the GPU that serves it, or of several that are alike.
    ``memory_bandwidth`` is in bytes/s, of several GPUs together as they share the work; ``bandwidth_problem`` is why it isn't
    known. ``aiter_usable`` is False if AITER has no effect on that GPU. ``no_gpu`` says in words why no GPU computes, empty if
    one may. ``offloaded`` is True if a part of the model lies in memory that the GPU doesn't own, ``offload`` what the launch
    settings keep off it. ``speculative`` is how tokens are drafted, ``none`` if they aren't. ``weights_problem`` is why the
    size of the weights isn't known. ``throttled`` says whether heat holds the GPU's clocks down now, ``users`` how many
    requests of others run, ``power_scope`` what the GPU's power sensor counts.
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
    no_gpu: str = ""
    offloaded: bool | None = None
    aiter_usable: bool | None = None
    gpu_name: str = ""
    bandwidth_problem: str = ""
    offload: str | None = None
    speculative: str | None = None
    weights_problem: str = ""
    throttled: bool | None = None
    users: float | None = None
    power_scope: PowerScope | None = None

    @property
    def drafts(self) -> bool:
        """Whether it drafts tokens, so that one read of the weights may give several."""
        return self.speculative not in {None, "none"}

    @property
    def keeps_off_gpu(self) -> bool:
        """Whether a part of the work is known to be done elsewhere than on the GPU."""
        return bool(self.no_gpu) or self.offloaded is True or self.offload not in {None, "none"}

    @property
    def off_gpu(self) -> str:
        """What is known to be done elsewhere than on the GPU, as a sentence about the server; empty if nothing is."""
        if self.no_gpu or not self.keeps_off_gpu:
            return self.no_gpu
        if self.offload in {None, "none"}:
            return "a part of its model lies outside the GPU's memory"
        parts = set((self.offload or "").split(", "))
        if parts & CPU_ALONE:
            return ON_CPU
        what = "no layer of its model is on the GPU" if "gpu_layers 0" in parts else PARTLY
        return f"{what} ({self.offload})"


@dataclass(frozen=True, slots=True)
class Judgement:
    """How good one probe was. ``tier``, ``efficiency``, ``limit`` and energy are None while no speed is known.

    ``expected_source`` says what the band is: the ``faq``'s, or a share of the ``ceiling``. ``no_ceiling`` says in words why
    there is no ceiling, empty if there is one. ``limit`` is what holds the speed down. ``energy_scope`` says whose energy it
    is: the ``gpu``'s, or that of the ``socket``, the CPU with it. ``off_gpu`` says in words what is known to be done elsewhere
    than on the GPU, empty if nothing is.
    """

    tier: Tier | None
    thresholds: Thresholds
    scenario: str | None = None
    expected_min: float | None = None
    expected_max: float | None = None
    ceiling_tokens_per_second: float | None = None
    efficiency: float | None = None
    energy_joules_per_token: float | None = None
    expected_source: BandSource | None = None
    no_ceiling: str = ""
    limit: Limit | None = None
    energy_scope: EnergyScope | None = None
    off_gpu: str = ""


def is_below(tokens_per_second: float, low: float | None) -> bool:
    """Whether a speed is below the lower end of a band, by more than may be noise."""
    return low is not None and tokens_per_second < low * (1 - NEAR)


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
        (scenario.aiter is None or scenario.aiter is _effective_aiter(known))
        and _text_holds(scenario.quantization, known.quantization)
        and _text_holds(scenario.kv_cache, known.kv_cache)
    )


def _effective_aiter(known: TargetFacts) -> bool | None:
    """Whether AITER computes; it doesn't if it is switched on without effect."""
    return False if known.aiter and known.aiter_usable is False else known.aiter


# Names of full-precision types. Each of them meets a condition of `none`.
UNQUANTIZED: Final = frozenset({"none", "auto", "fp16", "f16", "float16", "half", "bf16", "bfloat16", "fp32", "f32"})


def _text_holds(condition: str | None, known: str | None) -> bool:
    if condition is None:
        return True
    if known is None:
        return False
    if condition == "none":
        return known.lower() in UNQUANTIZED
    return known.lower().startswith(condition.lower())


def hardware_of(known: TargetFacts, profiles: Profiles) -> str | None:
    """The profile of a GPU by its gfx target and number of compute units; of another maker's by its name."""
    for name, hardware in profiles.hardware.items():
        if known.gfx_target is not None and hardware.gfx_target == known.gfx_target:
            if known.compute_units in hardware.compute_units:
                return name
        elif hardware.gfx_target is None and known.gpu_name == hardware.name:
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


def is_mixture_of_experts(known: TargetFacts, profiles: Profiles) -> bool | None:
    """Whether a token reads only some of the weights, by the files, the name or the tables; None if unknown."""
    if known.weights.experts is not None:
        return known.weights.experts
    name = _plain(known.model)
    size = _SIZE.search(name)
    if active_parameters_in(name) is not None or (size is not None and size["experts"] is not None):
        return True
    if _mixture_of(known, profiles) is not None:
        return True
    return False if _is_dense_family(known, profiles) else None


def size_of(known: TargetFacts) -> float | None:
    """The number of parameters that the server or the name states."""
    return known.weights.parameters or parameters_in(_plain(known.model))


def _plain(model: str | None) -> str:
    """A name as the tables have them: lower case, its parts with hyphens."""
    return re.sub(r"[:/_ ]", "-", (model or "").lower())


def _is_called(family: str, name: str) -> bool:
    """Whether a family's name stands in a model's as whole words; ``qwen2`` doesn't in ``qwen2.5``."""
    return re.search(rf"(?<![a-z0-9]){re.escape(family)}(?![a-z0-9]|\.\d)", name) is not None


def _mixture_of(known: TargetFacts, profiles: Profiles) -> Mixture | None:
    """The row of the table, unless a stated size is another model's (as of a dense one distilled from it)."""
    name, size = _plain(known.model), size_of(known)
    for family, mixture in profiles.mixture_of_experts.items():
        if _is_called(family, name) and (size is None or abs(size / mixture.total - 1) <= SAME_SIZE):
            return mixture
    return None


def _is_dense_family(known: TargetFacts, profiles: Profiles) -> bool:
    name, size = _plain(known.model), size_of(known)
    for family, dense in profiles.dense.items():
        is_size = size is not None and any(abs(size / (each * 1e9) - 1) <= SAME_DENSE_SIZE for each in dense.sizes)
        if (is_size or not dense.sizes) and _is_called(family, name):
            return True
    return False


def bytes_per_token(known: TargetFacts, context_tokens: float, profiles: Profiles) -> float | None:
    """Bytes read from memory for one token at this length of context; None if the model's size isn't known.

    Source: the roofline of memory-bound decode. For a mixture of experts it is the active share of the weights, if the
    model's files, its name or the tables state it. Of a model that may be either, nothing is known.
    """
    weights = known.weights
    whole = weights.streamed_bytes
    if whole is None and weights.bytes is not None:
        whole = weights.bytes * _share_read(known, profiles)
    if not whole:
        return None
    return whole + (weights.kv_bytes_per_token or 0.0) * context_tokens


def _share_read(known: TargetFacts, profiles: Profiles) -> float:
    """The share of the weights that one token reads; 0 if nobody states it."""
    is_mixture = is_mixture_of_experts(known, profiles)
    if not is_mixture:
        return 0.0 if is_mixture is None else 1.0
    if (mixture := _mixture_of(known, profiles)) is not None:
        return mixture.active / mixture.total
    active, total = active_parameters_in(_plain(known.model)), size_of(known)
    return active / total if active and total else 0.0


SAID_BY_THE_SERVER: Final = "the server says so"
_DRAFTS: Final[Mapping[str | None, str]] = {
    "on": "",
    "draft": " with a draft model",
    SAID_BY_THE_SERVER: ", as it says itself",
}


def ceiling_of(
    known: TargetFacts, context_tokens: float, bandwidth: float | None, profiles: Profiles
) -> tuple[float | None, str]:
    """Tokens per second that the memory allows, or None and why it isn't known, as a sentence."""
    if known.keeps_off_gpu:
        return None, f"{known.off_gpu}, so the GPU's memory isn't its limit"
    if known.drafts:
        how = _DRAFTS.get(known.speculative, f" ({known.speculative})")
        return None, f"the server drafts tokens{how}, so one read of the weights may give several tokens"
    if bandwidth is None:
        which = known.gpu_name or "the GPU that serves it"
        return None, known.bandwidth_problem or f"the memory bandwidth of {which} isn't known: set targets[].hardware"
    each = bytes_per_token(known, context_tokens, profiles)
    return (bandwidth / each, "") if each else (None, _why_no_bytes(known, profiles))


def _why_no_bytes(known: TargetFacts, profiles: Profiles) -> str:
    model = known.model or "its model"
    if known.weights.bytes is None:
        why = known.weights_problem or "its files were not found, and the server doesn't say it"
        return f"the size of {model} isn't known: {why}"
    if is_mixture_of_experts(known, profiles):
        why = f"{model} is a mixture of experts, and nothing says how much of it a token reads"
    else:
        why = f"nothing says whether {model} is dense or a mixture of experts"
    return f"{why}; {known.weights_problem}" if known.weights_problem else why


@dataclass(frozen=True, slots=True)
class Expected:
    """The band that a setup should reach, and where it comes from; all None if nothing is expected."""

    low: float | None = None
    high: float | None = None
    source: BandSource | None = None


NOTHING: Final = Expected()


def expected_of(
    scenario: str | None,
    known: TargetFacts,
    profiles: Profiles,
    *,
    hardware: str | None = None,
    ceiling: float | None = None,
    named: bool = False,
) -> Expected:
    """The scenario's band if it holds, else a share of the ceiling; never above the ceiling.

    ``hardware`` is the profile of what serves. ``named`` says that the user chose the scenario: then its band holds.
    """
    band = _band_of(scenario, known, profiles, hardware, named=named)
    if band is None or (ceiling is not None and (band.min or 0.0) >= ceiling):
        return _share_of(ceiling, known, profiles)
    high = band.max if ceiling is None or band.max is None else min(band.max, ceiling)
    return Expected(band.min, high, "faq")


def _band_of(
    scenario: str | None, known: TargetFacts, profiles: Profiles, hardware: str | None, *, named: bool
) -> Band | None:
    found = profiles.scenarios.get(scenario) if scenario else None
    if found is None or named:
        return found.expected if found else None
    size, limits = size_of(known), profiles.scenario_parameters
    fits = size is not None and (limits.min or 0.0) <= size <= (limits.max or float("inf"))
    is_here = found.hardware is None or found.hardware == hardware
    return found.expected if fits and is_here and is_mixture_of_experts(known, profiles) is False else None


def _share_of(ceiling: float | None, known: TargetFacts, profiles: Profiles) -> Expected:
    is_mixture = is_mixture_of_experts(known, profiles)
    if ceiling is None or is_mixture is None:
        return NOTHING
    shares = profiles.ceiling_shares.mixture if is_mixture else profiles.ceiling_shares.dense
    low = 1 / (1 / (shares.min * ceiling) + profiles.ceiling_shares.overhead) if shares.min else 0.0
    return Expected(low, shares.max * ceiling, "ceiling")


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
    """Judge one decode speed (None while none is known). ``scenario`` and ``hardware`` are ids that a user gave: these win.

    ``decode_watts`` is the mean power of the GPU while the probe decoded.
    """
    ceiling, no_ceiling = ceiling_of(known, context_tokens, bandwidth_of(known, profiles, hardware), profiles)
    if ceiling is not None and tokens_per_second is not None and tokens_per_second > ceiling:
        no_ceiling = (
            f"the measured {number_text(tokens_per_second)} tokens/s are more than the {number_text(ceiling)} tokens/s that the memory allows by the known facts: "
            "one of these facts is wrong, or the server drafts tokens"
        )
        ceiling = None
    expected = expected_of(
        scenario or scenario_of(known, profiles),
        known,
        profiles,
        hardware=hardware or hardware_of(known, profiles),
        ceiling=ceiling,
        named=scenario is not None,
    )
    judgement = Judgement(
        tier=None,
        thresholds=bounds,
        scenario=scenario or scenario_of(known, profiles),
        expected_min=expected.low,
        expected_max=expected.high,
        ceiling_tokens_per_second=ceiling,
        expected_source=expected.source,
        no_ceiling=no_ceiling,
        off_gpu=known.off_gpu,
    )
    if tokens_per_second is None:
        return judgement
    efficiency = tokens_per_second / ceiling if ceiling else None
    has_energy = decode_watts is not None and tokens_per_second > 0
    return replace(
        judgement,
        tier=tier_of(tokens_per_second, bounds),
        efficiency=efficiency,
        energy_joules_per_token=decode_watts / tokens_per_second if decode_watts is not None and has_energy else None,
        energy_scope=(known.power_scope or "unknown") if has_energy else None,
        limit=limit_of(efficiency, known, profiles),
    )


def bandwidth_of(known: TargetFacts, profiles: Profiles, hardware: str | None = None) -> float | None:
    """Bytes per second of the memory: of the hardware that the user named, else what was read, else its profile's."""
    named = profiles.hardware.get(hardware) if hardware else None
    if named is not None and named.memory_bandwidth is not None:
        return named.memory_bandwidth
    if known.memory_bandwidth is not None:
        return known.memory_bandwidth
    found = profiles.hardware.get(hardware_of(known, profiles) or "")
    return found.memory_bandwidth if found and not known.bandwidth_problem else None


def limit_of(efficiency: float | None, known: TargetFacts, profiles: Profiles) -> Limit:
    """What holds a speed down, the first that is known."""
    if efficiency is not None and efficiency >= profiles.ceiling_shares.at_ceiling:
        return "memory_bandwidth"
    if known.users:
        return "users"
    if known.keeps_off_gpu:
        return "offload"
    return "throttling" if known.throttled else "unknown"
