"""Some hours of made-up but plausible history of four made-up machines, as OpenMetrics for ``promtool tsdb
create-blocks-from openmetrics``. Nothing in it was measured: it is there to draw and test dashboards with.

Sizes of models and bandwidths are real. What follows from them (ceiling, band, tier, limit, energy, memory in use) is computed,
by the exporter's own judgement if it has one.

- ``framework``: a Ryzen AI Max+ 395. A vLLM with a 14B in BF16 at 6.4 tok/s is restarted from a newer image and reaches 8.3,
  which is what the memory allows. A llama.cpp with a Q4 model runs at 24. While people use it, both get less of the memory.
- ``minipc``: another one, whose GPU gets hot: its clocks fall, and Ollama's speed with them.
- ``workstation``: an RX 7900 XTX. A text-generation-webui whose probes fail for half an hour and recover. A vLLM with AWQ that
  is so busy with users that its probes are skipped, and slows the other one.
- ``oldbox``: an RX 7600 with ROCm 6.4. A Transformers server at 7, and a llama.cpp with a draft model that goes down.
"""

import argparse
import math
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple, TextIO

from exporter.metrics import FAMILIES
from exporter.probe.result import RESULTS
from exporter.settings import load_profiles
from exporter.tiers import TIERS, Judgement, TargetFacts, Weights, judge, tier_of

JOB: Final = "llm-probe-exporter"
PROFILES: Final = load_profiles(None)
MINUTE: Final = 60.0
HOUR: Final = 3600.0
BUDGET: Final = 0.05
"""The share of its time that a server gives to probes: a slow server is probed less often."""
GIB: Final = 1024.0**3
THROTTLES: Final = 0.4
"""How hot a GPU is from which on it lowers its clocks."""
COUNT_REQUESTS: Final = frozenset({"vllm", "llama_cpp"})
"""Backends that tell how many requests run; the others here can't, so their probes are never skipped for users."""
TELL_MODEL: Final = COUNT_REQUESTS | {"ollama"}
"""Backends that tell which model is in memory."""
BESIDE_USERS: Final = 0.55
"""What is left of a speed while another server of the same GPU answers users."""

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SampleMoment:
    """What a server does at one time: ``state`` is up, loading, down, failing or busy; ``hot`` is a share of what the GPU bears."""

    state: str = "up"
    speed: float = 0.0
    ttft: float = 0.4
    running: float = 0.0
    cold: bool = False
    hot: float = 0.0


class SampleShape(NamedTuple):
    """What a module does: seconds between probes, tokens of the answer and of the prompt."""

    interval: float
    tokens: int
    prompt: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model as its files tell: bytes on the disk, bytes that one token reads, parameters."""

    name: str
    quantization: str
    bytes: float
    streamed: float
    parameters: float


@dataclass(frozen=True, slots=True)
class SampleMachine:
    """A made-up machine: facts of its GPU, memory in bytes, watts while it decodes, and the ROCm of the host."""

    gpu: str
    name: str
    gfx: str
    units: int
    hardware: str
    vram: float
    watts: float
    power_cap: float
    rocm: str
    unified: bool = False

    @property
    def bandwidth(self) -> float:
        """Bytes per second, as the profiles have it."""
        return PROFILES.hardware[self.hardware].memory_bandwidth or math.nan


MACHINES: Final = {
    "framework": SampleMachine(
        "0000:c3:00.0", "Radeon 8060S", "gfx1151", 40, "ryzen-ai-max-395", 96 * GIB, 78.0, 120.0, "7.2.0", unified=True
    ),
    "minipc": SampleMachine(
        "0000:c4:00.0", "Radeon 8060S", "gfx1151", 40, "ryzen-ai-max-395", 64 * GIB, 78.0, 120.0, "7.2.0", unified=True
    ),
    "workstation": SampleMachine(
        "0000:03:00.0", "Radeon RX 7900 XTX", "gfx1100", 96, "radeon-rx-7900-xtx", 24 * GIB, 260.0, 339.0, "7.2.0"
    ),
    "oldbox": SampleMachine(
        "0000:0a:00.0", "Radeon RX 7600", "gfx1102", 32, "radeon-rx-7600", 8 * GIB, 115.0, 150.0, "6.4.1"
    ),
}

BF16_14B: Final = Model("Qwen/Qwen2.5-14B-Instruct", "none", 29.54e9, 27.98e9, 14.77e9)
AWQ_14B: Final = Model("Qwen/Qwen2.5-14B-Instruct-AWQ", "awq", 9.98e9, 8.42e9, 14.77e9)
GPTQ_14B: Final = Model("Qwen2.5-14B-Instruct-GPTQ", "gptq", 9.99e9, 8.43e9, 14.77e9)
Q4_14B: Final = Model("qwen2.5-14b-instruct-q4_k_m", "Q4_K_M", 8.99e9, 8.55e9, 14.77e9)
QWEN3_Q4: Final = Model("qwen3:14b", "Q4_K_M", 9.28e9, 8.84e9, 14.77e9)
BF16_1B: Final = Model("Qwen/Qwen2.5-1.5B-Instruct", "none", 3.09e9, 3.09e9, 1.54e9)
Q4_3B: Final = Model("qwen2.5-3b-instruct-q4_k_m", "Q4_K_M", 1.93e9, 1.93e9, 3.09e9)


@dataclass(frozen=True, slots=True)
class SampleServer:
    """A made-up target; ``at`` maps seconds before the end of the history (negative) to what it does then.

    ``prefill`` is in tokens per second.
    """

    name: str
    host: str
    backend: str
    version: str
    model: Model
    prefill: float
    at: Callable[[float], SampleMoment]
    image: Callable[[float], str] = lambda _: ""
    failure: str = "connect"
    thinks_tokens: int = 0
    drafts: bool = False
    aiter: bool = False

    def facts(self, now: SampleMoment) -> TargetFacts:
        """What the exporter would know of it."""
        machine, model = MACHINES[self.host], self.model
        return TargetFacts(
            self.backend,
            model.name,
            model.quantization,
            aiter=self.aiter,
            weights=Weights(
                bytes=model.bytes, streamed_bytes=model.streamed, parameters=model.parameters, experts=False
            ),
            gfx_target=machine.gfx,
            compute_units=machine.units,
            memory_bandwidth=machine.bandwidth,
            aiter_usable=False,
            speculative="draft" if self.drafts else "none",
            users=now.running if self.backend in COUNT_REQUESTS else None,
            throttled=self.host == "minipc" and now.hot > THROTTLES,
        )

    def judged(self, now: SampleMoment, speed: float | None) -> Judgement:
        """What the exporter would say of a speed then."""
        return judge(speed, bounds=PROFILES.tiers, known=self.facts(now), profiles=PROFILES)


@dataclass(slots=True)
class SampleHistory:
    """Samples by series, the running totals of counters and histograms, and the time that is being written now."""

    step: float
    when: float = 0.0
    age: float = 0.0
    dice: random.Random = field(default_factory=lambda: random.Random(395))
    samples: dict[str, dict[Labels, list[tuple[float, float]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    totals: dict[tuple[str, Labels], float] = field(default_factory=lambda: defaultdict(float))

    def put(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """One sample of a gauge."""
        self.samples[name][tuple(labels.items())].append((self.when, value))

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """One sample of a counter that has grown by ``value``."""
        key = tuple(labels.items())
        self.totals[name, key] += value
        self.samples[name][key].append((self.when, self.totals[name, key]))


def _restarted(age: float) -> SampleMoment:
    if age < _RESTARTED:
        return SampleMoment(speed=_BEFORE, ttft=0.82)
    if age < _RESTARTED + 2 * MINUTE:
        return SampleMoment("down")
    if age < _RESTARTED + 7 * MINUTE:
        return SampleMoment("loading")
    return SampleMoment(speed=_SINCE, ttft=0.41, cold=age < _RESTARTED + 8 * MINUTE)


def _used_for_a_while(age: float) -> SampleMoment:
    used = -5.0 * HOUR < age < -4.6 * HOUR
    return SampleMoment("busy" if used else "up", speed=24.3, ttft=0.28, running=1.0 if used else 0.0)


def _heat(age: float) -> float:
    return min(1.0, max(0.0, (age + 1.6 * HOUR) / HOUR))


def _getting_hot(age: float) -> SampleMoment:
    hot = _heat(age)
    return SampleMoment(speed=_COOL * (1 - 0.42 * hot), ttft=0.35 * (1 + 0.7 * hot), hot=hot)


def _failing_for_a_while(age: float) -> SampleMoment:
    return SampleMoment("failing" if -4.2 * HOUR < age < -3.6 * HOUR else "up", speed=71.0, ttft=0.3)


def _busy(age: float) -> SampleMoment:
    busy = age > -1.5 * HOUR
    return SampleMoment("busy" if busy else "up", speed=74.0, ttft=0.16, running=6.0 if busy else 0.0)


def _slow(_: float) -> SampleMoment:
    return SampleMoment(speed=7.1, ttft=1.4)


def _goes_down(age: float) -> SampleMoment:
    return SampleMoment("down" if age > -25 * MINUTE else "up", speed=118.0, ttft=0.2)


_BEFORE, _SINCE = 6.4, 8.3
"""Tokens per second of the restarted vLLM."""
_COOL: Final = 22.4
"""Those of the Ollama whose GPU gets hot, before it does."""
SERVERS: Final = (
    SampleServer(
        "vllm", "framework", "vllm", "0.11.2", BF16_14B, 700.0, _restarted,
        lambda age: "rocm/vllm:6.4" if age < _RESTARTED else "rocm/vllm:7.0", aiter=True,
    ),
    SampleServer(
        "llama-cpp", "framework", "llama_cpp", "b6871", Q4_14B, 480.0, _used_for_a_while, lambda _: "ghcr.io/ggml-org/llama.cpp:server-rocm",
    ),
    SampleServer("ollama", "minipc", "ollama", "0.12.9", QWEN3_Q4, 450.0, _getting_hot, lambda _: "ollama/ollama:rocm", thinks_tokens=40),
    SampleServer(
        "vllm-awq", "workstation", "vllm", "0.11.2", AWQ_14B, 1800.0, _busy, lambda _: "rocm/vllm:7.0",
    ),
    SampleServer(
        "textgen", "workstation", "text_generation_webui", "3.12", GPTQ_14B, 1500.0, _failing_for_a_while, lambda _: "textgen-webui:rocm",
        "timeout_first_token",
    ),
    SampleServer("transformers", "oldbox", "transformers", "4.57", BF16_1B, 900.0, _slow),
    SampleServer("llama-draft", "oldbox", "llama_cpp", "b6871", Q4_3B, 2500.0, _goes_down, drafts=True),
)  # fmt: skip
_MODULES: Final = {
    "default": SampleShape(60.0, 64, 64),
    "prefill": SampleShape(600.0, 16, 2048),
    "canary": SampleShape(600.0, 64, 2048),
}
_RESTARTED: Final = -2.8 * HOUR
"""When the vLLM of ``framework`` was restarted from another image."""
_HOT: Final = -1.2 * HOUR
"""When the Ollama of ``framework`` has lost enough speed to be told."""
_LESS_AT_DEPTH: Final = -1.5 * HOUR
"""When the same vLLM loses speed behind long prompts only."""
_GARBLED: Final = (-3.0 * HOUR, -2.7 * HOUR)
"""When the vLLM of ``workstation`` answers long prompts wrongly."""
_CHATS: Final = {"minipc": 0.5}
"""The share of its time in which a GPU works for a person whose server tells nothing of requests."""
_BOUNDS: Final[Mapping[str, tuple[float, ...]]] = {family.name: family.bounds for family in FAMILIES if family.bounds}


def _observe(history: SampleHistory, name: str, values: list[float], labels: Mapping[str, str]) -> None:
    for bound in (*(b for b in _BOUNDS[name] if b != math.inf), math.inf):
        text = "+Inf" if bound == math.inf else f"{bound:g}"
        history.add(f"{name}_bucket", sum(value <= bound for value in values), {**labels, "le": text})
    history.add(f"{name}_sum", sum(values), labels)
    history.add(f"{name}_count", len(values), labels)


@lru_cache(maxsize=4096)
def _last_up(name: str, age: float) -> float:
    """Seconds before the end of the history (negative) at which a server was last probed with success."""
    (server,) = (each for each in SERVERS if each.name == name)
    while server.at(age).state != "up":
        age -= MINUTE
    return age


def _left(server: SampleServer, age: float) -> float:
    """What is left of its speed beside the users of other servers on its GPU, as a share."""
    others = (each for each in SERVERS if each.host == server.host and each is not server)
    return BESIDE_USERS if any(each.at(age).running for each in others) else 1.0


def _cost(now: SampleMoment, shape: SampleShape) -> tuple[float, float]:
    """The seconds that a probe takes, and the interval to which that stretches its module's."""
    cost = shape.tokens / now.speed + now.ttft if now.speed else 0.0
    return cost, shape.interval * max(1, math.ceil(cost / shape.interval / BUDGET))


def _server(history: SampleHistory, server: SampleServer) -> None:
    age, dice = history.age, history.dice
    where = {"job": JOB, "instance": f"{server.host}:9937", "target": server.name}
    now, machine = server.at(age), MACHINES[server.host]
    scenario = server.judged(now, None).scenario
    up = now.state not in ("down", "loading")
    history.put("llm_target_up", float(up), where)
    history.put("llm_target_loading", float(now.state == "loading"), where)
    history.put(
        "llm_target_info",
        1.0,
        where
        | {
            "url": "http://127.0.0.1:8000",
            "backend": server.backend,
            "backend_version": server.version,
            "model": server.model.name,
        }
        | {"quantization": server.model.quantization, "container": server.name if server.image(age) else ""}
        | {"image": server.image(age), "scenario": scenario or "", "hardware": machine.hardware},
    )
    for setting, value in {"compute": "rocm", **({"aiter": "no_effect"} if server.aiter else {})}.items():
        history.put("llm_target_setting_info", 1.0, where | {"setting": setting, "value": value})
    if up:
        history.put("llm_target_stuck", 0.0, where)
    if up and server.backend in TELL_MODEL:
        history.put("llm_target_model_resident", 1.0, where)
    if up and server.backend in COUNT_REQUESTS:
        history.put(
            "llm_server_requests_running",
            max(0.0, now.running + dice.choice((-1, 0, 0, 1)) * (now.running > 1)),
            where,
        )
        history.put("llm_server_requests_waiting", max(0.0, now.running - 4), where)
        if server.backend == "vllm":
            used = min(0.97, 0.04 + now.running * 0.11 + dice.uniform(0, 0.03))
            history.put("llm_server_kv_cache_usage_ratio", used, where)
        history.put(
            "llm_server_generated_tokens_per_second",
            now.running * now.speed * 0.62 * dice.uniform(0.85, 1.1),
            where,
        )
        if now.running:
            got = now.speed * 0.62 * dice.uniform(0.95, 1.05)
            history.put("llm_server_user_tokens_per_second", got, where)
            history.put("llm_server_user_ttft_seconds", now.ttft * (1 + now.running / 4), where)
            for tier in TIERS:
                told = tier == tier_of(got, PROFILES.tiers)
                history.put("llm_server_user_tier", float(told), where | {"tier": tier})
    for module, shape in _MODULES.items():
        if module == "prefill" and server.backend != "vllm":
            continue
        _module(history, server, where | {"module": module}, shape)
    _answers(history, server, where | {"module": "canary"})
    _changes(history, server, where)


def _answers(history: SampleHistory, server: SampleServer, probe: Mapping[str, str]) -> None:
    """What the canary says of the answers."""
    if server.at(history.age).state != "up":
        return
    interval = _MODULES["canary"].interval
    ran = history.when // interval - (history.when - history.step) // interval
    garbled = server.name == "vllm-awq" and _GARBLED[0] < history.age < _GARBLED[1]
    if garbled:
        history.put("llm_answer_fault_info", 1.0, {**probe, "fault": "fact_not_recalled"})
    for depth in ("short", "deep"):
        wrong = garbled and depth == "deep"
        history.put("llm_answer_correct", float(not wrong), {**probe, "depth": depth})
        for verdict in ("right", "wrong", "degenerate", "foreign", "undecided"):
            told = verdict == ("wrong" if wrong else "right")
            history.add("llm_answer_checks_total", ran * told, {**probe, "depth": depth, "verdict": verdict})
    if server.backend in ("vllm", "llama_cpp"):
        dice = random.Random(f"{server.name}{history.when // HOUR}")
        history.put("llm_answer_fingerprint_distance", abs(dice.gauss(0.8, 0.4)), probe)


def _changes(history: SampleHistory, server: SampleServer, where: Mapping[str, str]) -> None:
    """What changed and what it cost: a faster image, and a speed that falls while nothing changes."""
    when, age = history.when, history.age
    if server.name == "vllm" and age >= _RESTARTED:
        history.put("llm_last_change_timestamp_seconds", when - age + _RESTARTED, where)
        for what, before, after in (
            ("image", "rocm/vllm:6.4", "rocm/vllm:7.0"),
            ("container ROCm", "6.4.0", "7.0.2"),
        ):
            history.put("llm_last_change_info", 1.0, {**where, "what": what, "before": before, "after": after})
        if age >= _RESTARTED + 12 * MINUTE:
            for module in ("default", "canary"):
                history.put("llm_last_change_speed_ratio", _SINCE / _BEFORE, {**where, "module": module})
                history.put("llm_last_change_ttft_ratio", 0.5, {**where, "module": module})
                if module == "canary":
                    deep = (_MODULES["canary"].prompt - 64) / server.prefill
                    history.put(
                        "llm_last_change_prefill_ratio", (0.82 + deep) / (0.41 + deep), {**where, "module": module}
                    )
                for bound, ratio in {"min": 0.98 * _SINCE / _BEFORE, "max": 1.02 * _SINCE / _BEFORE}.items():
                    bounds = {**where, "module": module, "bound": bound}
                    history.put("llm_last_change_speed_ratio_bound", ratio, bounds)
    for name, module, since, usual in (("ollama", "default", _HOT, _COOL), ("vllm", "canary", _LESS_AT_DEPTH, 0.0)):
        if server.name != name or age < since:
            continue
        ratio = server.at(age).speed / usual if usual else 0.78
        step = {**where, "module": module}
        history.put("llm_unexplained_change_timestamp_seconds", when - age + since, step)
        history.put("llm_unexplained_change_speed_ratio", ratio, step)
        cause = {"phase": "decode", "cause": "unexplained", "what": "", "before": "", "after": ""}
        history.put("llm_slowdown_speed_ratio", ratio, step | cause)


def _module(history: SampleHistory, server: SampleServer, probe: Mapping[str, str], shape: SampleShape) -> None:
    _, tokens, prompt = shape
    now, when, age = server.at(history.age), history.when, history.age
    cost, interval = _cost(now, shape)
    runs = when // interval - (when - history.step) // interval
    ran = when - (when % interval)
    result = {"failing": server.failure, "down": "connect", "loading": "loading", "busy": "skipped_busy"}.get(
        now.state, "ok"
    )
    history.put("llm_probe_interval_seconds", interval, probe)
    history.put("llm_probe_success", float(result in ("ok", "skipped_busy")), probe)
    history.put("llm_probe_concurrency", 1.0, probe)
    succeeded = ran if result == "ok" else when - age + _last_up(server.name, age)
    history.put("llm_probe_last_run_timestamp_seconds", succeeded if result == "skipped_busy" else ran, probe)
    history.put("llm_probe_last_success_timestamp_seconds", succeeded, probe)
    for name in RESULTS:
        history.add("llm_probes_total", runs * (name == result), {**probe, "result": name})
    done = result == "ok"
    history.add("llm_probe_consumed_tokens_total", runs * prompt * done, {**probe, "kind": "prompt"})
    history.add("llm_probe_consumed_tokens_total", runs * tokens * done, {**probe, "kind": "output"})
    history.add("llm_probe_busy_seconds_total", runs * cost * done, probe)
    if probe["module"] != "canary":
        _expected(history, server, probe)
    if result not in ("ok", "skipped_busy"):
        return
    seed = f"{server.name}{ran if result == 'ok' else ''}{probe['module']}"
    _success(history, server, probe, shape, runs=runs if result == "ok" else 0.0, dice=random.Random(seed))


def _expected(history: SampleHistory, server: SampleServer, probe: Mapping[str, str]) -> None:
    """What a speed is compared with; that behind the canary's deep prompt has no tier."""
    for tier, least in PROFILES.tiers:
        history.put("llm_performance_tier_threshold_tokens_per_second", least, {**probe, "tier": tier})
    judged = server.judged(server.at(history.age), None)
    for bound, value in {"min": judged.expected_min, "max": judged.expected_max}.items():
        if value is not None:
            of = {"bound": bound, "scenario": judged.scenario or "", "source": judged.expected_source or ""}
            history.put("llm_expected_tokens_per_second", value, {**probe, **of})
    if judged.ceiling_tokens_per_second is not None:
        history.put("llm_decode_ceiling_tokens_per_second", judged.ceiling_tokens_per_second, probe)


def _success(
    history: SampleHistory,
    server: SampleServer,
    probe: Mapping[str, str],
    shape: SampleShape,
    *,
    runs: float,
    dice: random.Random,
) -> None:
    _, tokens, prompt = shape
    now = server.at(history.age)
    labels = {**probe, "model": server.model.name}
    loses = server.name == "vllm" and probe["module"] == "canary" and history.age >= _LESS_AT_DEPTH
    speed = now.speed * _left(server, history.age) * dice.gauss(1.0, 0.012) * (0.78 if loses else 1.0)
    ttft = (now.ttft + (prompt - 64) / server.prefill) * max(0.7, dice.gauss(1.0, 0.06))
    decode = tokens / speed
    judged = server.judged(now, speed)
    for name, value in {
        "llm_probe_tokens_per_second": speed,
        "llm_probe_end_to_end_tokens_per_second": tokens / (decode + ttft),
        "llm_probe_ttft_seconds": ttft,
        "llm_probe_time_to_first_answer_seconds": ttft + server.thinks_tokens / speed,
        "llm_probe_prefill_tokens_per_second": prompt / ttft,
        "llm_probe_server_tokens_per_second": speed * 1.006,
        "llm_probe_aggregate_tokens_per_second": speed,
        **({"llm_probe_speculative_accepted_ratio": dice.uniform(0.62, 0.74)} if server.drafts else {}),
    }.items():
        history.put(name, value, labels)
    machine = MACHINES[server.host]
    scope = "socket" if machine.unified else "gpu"
    history.put("llm_probe_energy_joules_per_token", machine.watts / speed, {**labels, "scope": scope})
    phases = {
        "resolve": 0.0004,
        "connect": 0.0007,
        "tls": 0.0,
        "queue": dice.uniform(0, 0.02),
        "first_token": ttft,
        "decode": decode,
    }
    for phase, seconds in (phases | {"total": sum(phases.values())}).items():
        history.put("llm_probe_phase_seconds", seconds, {**probe, "phase": phase})
    for kind, count in {"prompt": prompt, "cached": 0, "reasoning": server.thinks_tokens, "output": tokens}.items():
        history.put("llm_probe_tokens", float(count), {**probe, "kind": kind, "model": server.model.name})
    history.put("llm_probe_token_count_exact", 1.0, probe)  # what is estimated has no tier
    history.put("llm_probe_stream_buffered", 0.0, probe)
    history.put("llm_probe_cold_start", float(now.cold), probe)
    history.put("llm_probe_queued", 0.0, probe)
    history.put("llm_probe_queue_seconds", 0.0, probe)
    history.put("llm_probe_beside_users", 0.0, probe)
    history.put("llm_probe_model_load_seconds", 286.0 if server.name == "vllm" else 12.0, probe)
    history.put("llm_probe_clock_error_seconds", dice.uniform(0.0001, 0.0009), probe)
    if probe["module"] != "canary":
        for tier in TIERS:
            history.put("llm_performance_tier", float(judged.tier == tier), {**probe, "tier": tier})
        if judged.efficiency is not None:
            history.put("llm_decode_efficiency_ratio", judged.efficiency, probe)
        if judged.limit is not None:
            history.put("llm_limit_info", 1.0, {**probe, "limit": judged.limit})
    _observe(history, "llm_probe_time_to_first_token_seconds", [ttft] if runs else [], labels)
    gaps = [dice.gauss(1 / speed, 0.06 / speed) * dice.choice((1,) * 30 + (1.6,)) for _ in range(tokens)]
    _observe(history, "llm_probe_inter_token_seconds", gaps if runs else [], labels)


def _machine(history: SampleHistory, host: str) -> None:
    age, dice = history.age, history.dice
    where = {"job": JOB, "instance": f"{host}:9937"}
    machine = MACHINES[host]
    card = where | {"gpu": machine.gpu}
    hot = _heat(age) if host == "minipc" else 0.0

    def rocm(scope: str, container: str, version: str, source: str) -> None:
        whose = where | {"scope": scope, "container": container}
        release = version.rpartition(".")[0]
        history.put("rocm_version_info", 1.0, whose | {"version": version, "release": release, "source": source})
        history.put("rocm_version_supported", float(version[0] == "7"), whose)

    rocm("host", "", machine.rocm, "info")
    if host == "framework":
        inside = "6.4.0" if age < _RESTARTED else "7.0.2"
        rocm("container", "vllm", inside, "file")
        history.put("rocm_container_release_matches_host", 0.0, where | {"container": "vllm"})
    history.put("amdgpu_driver_info", 1.0, where | {"version": "6.14.14", "source": "dkms"})
    history.put(
        "amdgpu_info",
        1.0,
        card
        | {"name": machine.name, "gfx_target": machine.gfx, "compute_units": str(machine.units)}
        | {"unified_memory": str(machine.unified).lower()},
    )
    history.put("amdgpu_memory_bandwidth_bytes_per_second", machine.bandwidth, card | {"source": "memory bank"})
    running = [each for each in SERVERS if each.host == host and each.at(age).state not in ("down", "loading")]
    probed = 0.0
    for each in running:
        costs = [_cost(each.at(age), shape) for shape in _MODULES.values()]
        probed += sum(cost / interval for cost, interval in costs)
    used = 0.93 if any(each.at(age).running for each in running) else _CHATS.get(host, 0.0)
    busy = min(0.99, max(0.0, probed + used + dice.uniform(-0.03, 0.03)))
    history.put("amdgpu_busy_ratio", busy, card)
    used = 0.7e9 + sum(1.06 * each.model.bytes for each in running)
    history.put("amdgpu_memory_used_bytes", used, card | {"kind": "vram"})
    history.put("amdgpu_memory_used_bytes", 1.2 * GIB, card | {"kind": "gtt"})
    history.put("amdgpu_memory_total_bytes", machine.vram, card | {"kind": "vram"})
    history.put("amdgpu_memory_total_bytes", 15.4 * GIB, card | {"kind": "gtt"})
    history.put(
        "amdgpu_power_watts",
        machine.watts * (0.12 + 0.88 * busy),
        card | {"scope": "socket" if machine.unified else "gpu"},
    )
    heat = 42 + 32 * busy + 34 * hot  # while the fan of minipc fails
    for sensor, extra in {"edge": 0.0, "junction": 6.0, "mem": 2.0}.items():
        history.put("amdgpu_temperature_celsius", heat + extra + dice.uniform(-0.6, 0.6), card | {"sensor": sensor})
    history.put("amdgpu_clock_hertz", (2.9e9 - 1.2e9 * hot) * dice.uniform(0.97, 1), card | {"domain": "sclk"})
    history.put("amdgpu_clock_hertz", 1.0e9 * (1 - 0.42 * hot), card | {"domain": "mclk"})
    history.put("amdgpu_throttled", float(hot > THROTTLES), {**card, "reason": "thermal"})
    history.put("amdgpu_suspended", 0.0, card)
    history.put("amdgpu_power_cap_watts", machine.power_cap, card)
    history.put("amdgpu_firmware_info", 1.0, {**card, "block": "smc", "version": "0x5d5c00"})
    history.put("amdgpu_vbios_info", 1.0, {**card, "version": "113-EXAMPLE-001"})
    history.put("host_kernel_info", 1.0, {**where, "release": "6.18.4"})
    history.put("host_kernel_parameter_info", 1.0, {**where, "parameter": "iommu", "value": "pt"})
    profile = {"platform_profile": "performance", "governor": "powersave", "tuned": "", "gpu_performance_level": "auto"}
    history.put("host_power_profile_info", 1.0, where | profile)
    history.put("host_bios_info", 1.0, {**where, "version": "3.04"})


_MODELS: Final = {
    ("framework", "huggingface"): {
        BF16_14B.name: (BF16_14B.bytes, 1, 0.1), "Qwen/Qwen3-32B": (44e9, 0, 2.0), "meta-llama/Llama-3.1-8B-Instruct": (16.1e9, 1, 700.0),
    },
    ("framework", "llama_cpp"): {Q4_14B.name: (Q4_14B.bytes, 1, 0.1)},
    ("minipc", "ollama"): {QWEN3_Q4.name: (QWEN3_Q4.bytes, 1, 0.1), "llama3.1:8b": (4.9e9, 1, 200.0)},
    ("workstation", "huggingface"): {AWQ_14B.name: (AWQ_14B.bytes, 1, 0.1), GPTQ_14B.name: (GPTQ_14B.bytes, 1, 0.1)},
    ("oldbox", "huggingface"): {BF16_1B.name: (BF16_1B.bytes, 1, 0.1)},
    ("oldbox", "llama_cpp"): {Q4_3B.name: (Q4_3B.bytes, 1, 0.4)},
}  # fmt: skip
"""Bytes, complete or not, hours since the last use."""
_FREE: Final = {"framework": 330e9, "minipc": 700e9, "workstation": 940e9, "oldbox": 36e9}
"""Bytes of the file system that are free at the end."""


def _downloaded(age: float) -> float:
    """Bytes of the download on ``framework`` that are there."""
    return max(0.0, 12e9 * (1 + min(age, -HOUR) / (8 * HOUR)))


def _cache(history: SampleHistory, host: str) -> None:
    when, age = history.when, history.age
    where = {"job": JOB, "instance": f"{host}:9937"}
    for (owner, cache), models in _MODELS.items():
        if owner != host:
            continue
        of = where | {"cache": cache}
        loading = _downloaded(age) if (host, cache) == ("framework", "huggingface") else 0.0
        for model, (size, complete, hours) in models.items():
            one = of | {"model": model}
            history.put("llm_model_cache_model_bytes", size + (0.0 if complete else loading), one)
            history.put("llm_model_cache_model_complete", float(complete), one)
            history.put("llm_model_cache_model_last_used_timestamp_seconds", when - age - hours * HOUR, one)
        history.put("llm_model_cache_bytes", sum(size for size, _, _ in models.values()) + loading, of)
        history.put("llm_model_cache_models", float(len(models)), of)
        history.put("llm_model_cache_incomplete_bytes", loading, of)
        history.put("llm_model_cache_unreadable_entries", 2.0 if cache == "ollama" else 0.0, of)
        history.put("llm_model_cache_scan_seconds", 0.4 if cache == "ollama" else 1.9, of)
        history.put("llm_model_cache_last_scan_timestamp_seconds", when - when % 900, of)
        history.add("llm_model_cache_scan_errors_total", 0.0, of)
        if host == "framework":
            history.put("llm_model_cache_shared", float(cache == "huggingface"), of | {"container": "vllm"})
    free = _FREE[host] + (_downloaded(0.0) - _downloaded(age) if host == "framework" else 0.0)
    history.put("llm_model_cache_filesystem_free_bytes", free, where | {"mountpoint": "/srv/models"})
    history.put("llm_model_cache_filesystem_size_bytes", 1.8e12, where | {"mountpoint": "/srv/models"})


_STATES: Final = {"down": "down", "loading": "loading"}


def _exporter(history: SampleHistory, host: str) -> None:
    when, age, dice, step = history.when, history.age, history.dice, history.step
    where = {"job": JOB, "instance": f"{host}:9937"}
    history.put("up", 1.0, where)
    history.put("llm_probe_exporter_build_info", 1.0, where | {"version": "0.1.0", "python": "3.12.7"})
    history.put(
        "llm_probe_exporter_config_last_reload_successful",
        float(not (host == "oldbox" and age > -2 * HOUR)),
        where,
    )
    history.put("llm_probe_exporter_config_last_reload_success_timestamp_seconds", when - age - 7 * HOUR, where)
    count = sum(server.host == host for server in SERVERS)
    states = Counter(_STATES.get(each.at(age).state, "up") for each in SERVERS if each.host == host)
    for state in ("up", "loading", "down", "unknown"):
        history.put("llm_probe_exporter_targets", float(states[state]), where | {"state": state})
    for collector, seconds in {
        "rocm": 0.004,
        "gpu": 0.011,
        "sensors": 0.003,
        "machine": 0.006,
        "containers": 0.06,
        "cache:huggingface": 1.9,
    }.items():
        broken = host == "oldbox" and collector == "containers"
        history.put("llm_probe_exporter_collector_success", float(not broken), where | {"collector": collector})
        history.put(
            "llm_probe_exporter_collector_duration_seconds",
            seconds * dice.uniform(0.8, 1.3),
            where | {"collector": collector},
        )
    history.put("llm_probe_exporter_auth_failures_total", 0, where)
    history.put("llm_probe_exporter_schedule_delay_seconds", abs(dice.gauss(0, 0.02)), where)
    history.put("llm_probe_exporter_history_bytes", 190e3 + 310.0 * count * (age + 8 * HOUR) / MINUTE, where)
    history.add("process_cpu_seconds_total", step * 0.006, where)
    history.put("process_resident_memory_bytes", 71e6 + 2e6 * dice.random(), where)
    history.put("process_virtual_memory_bytes", 410e6, where)
    history.put("process_open_fds", 21.0, where)
    history.put("process_max_fds", 1024.0, where)
    history.put("process_start_time_seconds", when - age - 30 * HOUR, where)


def _alerts(history: SampleHistory) -> None:
    """What Prometheus itself would have written while these alerts fired."""

    def firing(name: str, severity: str, **labels: str) -> None:
        base = {"alertname": name, "alertstate": "firing", "severity": severity, "service": "llm-probe", "job": JOB}
        history.put("ALERTS", 1.0, base | labels)

    age = history.age
    firing("LLMThroughputPoor", "warning", instance="oldbox:9937", target="transformers", module="default")
    firing("LLMRocmBelowMinimum", "warning", instance="oldbox:9937", scope="host")
    firing("LLMModelCacheDiskFull", "critical", instance="oldbox:9937", mountpoint="/srv/models")
    if age < _RESTARTED:
        firing("LLMThroughputPoor", "warning", instance="framework:9937", target="vllm", module="default")
    if age > _RESTARTED + 25 * MINUTE:
        firing("LLMThroughputAtCeiling", "info", instance="framework:9937", target="vllm")
    if -4.1 * HOUR < age < -3.6 * HOUR:
        firing("LLMProbeFailing", "critical", instance="workstation:9937", target="textgen", module="default")
    if age > -20 * MINUTE:
        firing("LLMTargetDown", "critical", instance="oldbox:9937", target="llama-draft")
    if age > -HOUR:
        firing("LLMGPUThrottling", "info", instance="minipc:9937", gpu=MACHINES["minipc"].gpu)


def make(end: float, hours: float, step: float, ahead: float = 0.0) -> SampleHistory:
    """The history up to ``end`` (Unix time) and ``ahead`` seconds beyond, in which things stay as they are at the end."""
    history = SampleHistory(step)
    history.when = math.floor((end - hours * HOUR) / step) * step
    while history.when <= end + ahead:
        history.age = min(history.when - end, 0.0)
        for server in SERVERS:
            _server(history, server)
        for host in MACHINES:
            _machine(history, host)
            _cache(history, host)
            _exporter(history, host)
        _alerts(history)
        history.when += step
    return history


def lines(history: SampleHistory) -> Iterator[str]:
    """The history as OpenMetrics text."""
    for name, series in history.samples.items():
        kind = "counter" if name.endswith("_total") else "unknown"
        yield f"# TYPE {name.removesuffix('_total') if kind == 'counter' else name} {kind}"
        for labels, samples in series.items():
            text = ",".join(f'{label}="{value}"' for label, value in labels)
            for when, value in samples:
                yield f"{name}{{{text}}} {value:.9g} {when:.0f}"
    yield "# EOF"


def write(file: TextIO, end: float, hours: float, step: float, ahead: float = 0.0) -> None:
    """The text into an open file."""
    file.writelines(f"{line}\n" for line in lines(make(end, hours, step, ahead)))


def main() -> None:
    """``python -m grafana.sample_history [--hours 8] [--step 30] [--ahead 3600] > history.txt``."""
    parser = argparse.ArgumentParser(
        prog="python -m grafana.sample_history", description="Made-up history as OpenMetrics"
    )
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--step", type=float, default=30.0, help="seconds between samples")
    parser.add_argument(
        "--ahead", type=float, default=3600.0, help="seconds beyond now in which everything stays as it is"
    )
    given = parser.parse_args()
    write(sys.stdout, time.time(), given.hours, given.step, given.ahead)


if __name__ == "__main__":
    main()
