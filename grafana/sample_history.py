"""Some hours of made-up but plausible history of three made-up machines, as OpenMetrics for ``promtool tsdb
create-blocks-from openmetrics``. Nothing in it was measured: it is there to draw and test dashboards with.

- ``framework``: a Ryzen AI Max+ 395. vLLM in FP16 at 6.4 tok/s is restarted with AITER and reaches 16; llama.cpp with a Q4
  model runs at 24, slower while people use it; Ollama runs at 22 until the GPU gets hot and throttles.
- ``workstation``: an RX 7900 XTX. A vLLM with AWQ whose probes fail for half an hour and recover; a text-generation-webui that
  is so busy that its probes are skipped.
- ``oldbox``: an RX 7600 with ROCm 6.4. A Transformers server at 7, and one that goes down.
"""

import argparse
import math
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TextIO

from exporter.metrics import FAMILIES
from exporter.probe.result import RESULTS

JOB: Final = "llm-probe-exporter"
TIERS: Final = {"excellent": 20.0, "good": 15.0, "acceptable": 10.0}
MINUTE: Final = 60.0
HOUR: Final = 3600.0
GIB: Final = 1024.0**3

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Moment:
    """What a server does at one time: ``state`` is up, loading, down, failing or busy."""

    state: str = "up"
    speed: float = 0.0
    ttft: float = 0.4
    running: float = 0.0
    cold: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """A made-up target; ``at`` maps seconds before the end of the history (negative) to what it does then."""

    name: str
    host: str
    backend: str
    version: str
    model: str
    quantization: str
    hardware: str
    ceiling: float
    at: Callable[[float], Moment]
    scenario: Callable[[float], tuple[str, float, float]]
    image: Callable[[float], str]
    failure: str = "connect"


@dataclass(slots=True)
class History:
    """Samples by series, and the running totals of counters and histograms."""

    samples: dict[str, dict[Labels, list[tuple[float, float]]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    totals: dict[tuple[str, Labels], float] = field(default_factory=lambda: defaultdict(float))

    def put(self, name: str, when: float, value: float, labels: Mapping[str, str]) -> None:
        """One sample of a gauge."""
        self.samples[name][tuple(labels.items())].append((when, value))

    def add(self, name: str, when: float, value: float, labels: Mapping[str, str]) -> None:
        """One sample of a counter that has grown by ``value``."""
        key = tuple(labels.items())
        self.totals[name, key] += value
        self.samples[name][key].append((when, self.totals[name, key]))


def _fp16_then_aiter(age: float) -> Moment:
    if age < -3 * HOUR:
        return Moment(speed=6.4, ttft=0.82)
    if age < -3 * HOUR + 2 * MINUTE:
        return Moment("down")
    if age < -3 * HOUR + 7 * MINUTE:
        return Moment("loading")
    return Moment(speed=16.2, ttft=0.41, cold=age < -3 * HOUR + 8 * MINUTE)


def _by_day(age: float) -> Moment:
    load = max(0.0, math.sin(age / HOUR * 1.9)) ** 3
    return Moment(speed=24.3 - 5.5 * load, ttft=0.28 + 0.5 * load, running=1.0 if load > 0.7 else 0.0)


def _getting_hot(age: float) -> Moment:
    hot = min(1.0, max(0.0, (age + 1.6 * HOUR) / HOUR))
    return Moment(speed=22.4 - 9.5 * hot, ttft=0.35 + 0.25 * hot)


def _failing_for_a_while(age: float) -> Moment:
    return Moment("failing" if -4.2 * HOUR < age < -3.6 * HOUR else "up", speed=58.0, ttft=0.12)


def _busy(age: float) -> Moment:
    busy = -1.5 * HOUR < age
    return Moment("busy" if busy else "up", speed=21.0, ttft=0.5, running=6.0 if busy else 1.0)


def _slow(_: float) -> Moment:
    return Moment(speed=7.1, ttft=1.4)


def _goes_down(age: float) -> Moment:
    return Moment("down" if age > -25 * MINUTE else "up", speed=18.4, ttft=0.3)


SERVERS: Final = (
    Server(
        "vllm", "framework", "vllm", "0.11.2", "Qwen/Qwen2.5-14B-Instruct", "none", "ryzen-ai-max-395", 8.5 * 2.1,
        _fp16_then_aiter,
        lambda age: ("vllm-fp16", 8.0, 12.0) if age < -3 * HOUR else ("vllm-fp16-aiter", 12.0, 20.0),
        lambda age: "rocm/vllm:6.4" if age < -3 * HOUR else "rocm/vllm:7.0-aiter",
    ),
    Server(
        "llama-cpp", "framework", "llama_cpp", "b6871", "qwen2.5-14b-instruct-q4_k_m", "Q4_K_M", "ryzen-ai-max-395", 27.0,
        _by_day, lambda _: ("llamacpp-q4", 20.0, 30.0), lambda _: "ghcr.io/ggml-org/llama.cpp:server-rocm",
    ),
    Server(
        "ollama", "framework", "ollama", "0.12.9", "qwen2.5:14b", "Q4_K_M", "ryzen-ai-max-395", 27.0,
        _getting_hot, lambda _: ("ollama", 20.0, 25.0), lambda _: "ollama/ollama:rocm",
    ),
    Server(
        "vllm-awq", "workstation", "vllm", "0.11.2", "Qwen/Qwen2.5-14B-Instruct-AWQ", "awq", "radeon-rx-7900-xtx", 96.0,
        _failing_for_a_while, lambda _: ("vllm-awq-aiter", 25.0, 40.0), lambda _: "rocm/vllm:7.0-aiter", "timeout_first_token",
    ),
    Server(
        "textgen", "workstation", "text_generation_webui", "3.12", "Qwen2.5-14B-Instruct-GPTQ", "gptq", "radeon-rx-7900-xtx", 96.0,
        _busy, lambda _: ("text-generation-webui", 18.0, 22.0), lambda _: "textgen-webui:rocm",
    ),
    Server(
        "transformers", "oldbox", "transformers", "4.57", "Qwen/Qwen2.5-7B-Instruct", "none", "radeon-rx-7600", 19.0,
        _slow, lambda _: ("transformers", 5.0, 8.0), lambda _: "",
    ),
    Server(
        "llama-small", "oldbox", "llama_cpp", "b6871", "qwen2.5-7b-instruct-q4_k_m", "Q4_K_M", "radeon-rx-7600", 60.0,
        _goes_down, lambda _: ("llamacpp-q4", 15.0, 25.0), lambda _: "",
    ),
)
_MODULES: Final = {"default": (60.0, 64, 64), "prefill": (600.0, 16, 2048)}
_BOUNDS: Final[Mapping[str, tuple[float, ...]]] = {family.name: family.bounds for family in FAMILIES if family.bounds}


def _observe(history: History, name: str, when: float, values: list[float], labels: Mapping[str, str]) -> None:
    for bound in (*(b for b in _BOUNDS[name] if b != math.inf), math.inf):
        text = "+Inf" if bound == math.inf else f"{bound:g}"
        history.add(f"{name}_bucket", when, sum(value <= bound for value in values), {**labels, "le": text})
    history.add(f"{name}_sum", when, sum(values), labels)
    history.add(f"{name}_count", when, len(values), labels)


def _tier(speed: float) -> str:
    return next((tier for tier, bound in TIERS.items() if speed >= bound), "poor")


def _server(history: History, server: Server, when: float, age: float, step: float, dice: random.Random) -> None:
    where = {"job": JOB, "instance": f"{server.host}:9937", "target": server.name}
    now = server.at(age)
    scenario, low, high = server.scenario(age)
    up = now.state not in ("down", "loading")
    history.put("llm_target_up", when, float(up), where)
    history.put("llm_target_loading", when, float(now.state == "loading"), where)
    history.put(
        "llm_target_info", when, 1.0,
        where
        | {"url": "http://127.0.0.1:8000", "backend": server.backend, "backend_version": server.version, "model": server.model}
        | {"quantization": server.quantization, "container": server.name, "image": server.image(age)}
        | {"scenario": scenario, "hardware": server.hardware},
    )
    if up:
        history.put("llm_target_model_resident", when, 1.0, where)
        history.put("llm_server_requests_running", when, max(0.0, now.running + dice.choice((-1, 0, 0, 1)) * (now.running > 1)), where)
        history.put("llm_server_requests_waiting", when, max(0.0, now.running - 4), where)
        history.put("llm_server_kv_cache_usage_ratio", when, min(0.97, 0.04 + now.running * 0.11 + dice.uniform(0, 0.03)), where)
        history.put("llm_server_generated_tokens_per_second", when, now.running * now.speed * 0.62 * dice.uniform(0.85, 1.1), where)
    for module, (interval, tokens, prompt) in _MODULES.items():
        if module == "prefill" and server.backend != "vllm":
            continue
        _module(history, server, now, when, age, step, where | {"module": module}, (interval, tokens, prompt), (scenario, low, high), dice)


def _module(
    history: History, server: Server, now: Moment, when: float, age: float, step: float, probe: Mapping[str, str],
    shape: tuple[float, int, int], band: tuple[str, float, float], dice: random.Random,
) -> None:  # fmt: skip
    interval, tokens, prompt = shape
    runs = step / interval
    ran = when - (when % interval)
    result = {"failing": server.failure, "down": "connect", "loading": "loading", "busy": "skipped_busy"}.get(now.state, "ok")
    history.put("llm_probe_interval_seconds", when, interval, probe)
    history.put("llm_probe_success", when, float(result in ("ok", "skipped_busy")), probe)
    history.put("llm_probe_concurrency", when, 1.0, probe)
    history.put("llm_probe_last_run_timestamp_seconds", when, ran if result != "skipped_busy" else when - age - 1.5 * HOUR, probe)
    ok_until = {"failing": when - age - 4.2 * HOUR, "down": when - age - 25 * MINUTE, "busy": when - age - 1.5 * HOUR}
    history.put("llm_probe_last_success_timestamp_seconds", when, ok_until.get(now.state, ran), probe)
    for name in RESULTS:
        history.add("llm_probes_total", when, runs * (name == result), {**probe, "result": name})
    done = result == "ok"
    history.add("llm_probe_consumed_tokens_total", when, runs * prompt * done, {**probe, "kind": "prompt"})
    history.add("llm_probe_consumed_tokens_total", when, runs * tokens * done, {**probe, "kind": "output"})
    history.add("llm_probe_busy_seconds_total", when, runs * (tokens / now.speed + now.ttft) * done if now.speed else 0.0, probe)
    for tier, bound in TIERS.items():
        history.put("llm_performance_tier_threshold_tokens_per_second", when, bound, {**probe, "tier": tier})
    for bound_name, value in zip(("min", "max"), band[1:], strict=True):
        history.put("llm_expected_tokens_per_second", when, value, {**probe, "bound": bound_name, "scenario": band[0]})
    history.put("llm_decode_ceiling_tokens_per_second", when, server.ceiling, probe)
    if result not in ("ok", "skipped_busy"):
        return
    _success(history, server, now, when, probe, shape, random.Random(f"{server.name}{ran}{probe['module']}"), step)


def _success(
    history: History, server: Server, now: Moment, when: float, probe: Mapping[str, str], shape: tuple[float, int, int],
    dice: random.Random, step: float,
) -> None:  # fmt: skip
    interval, tokens, prompt = shape
    labels = {**probe, "model": server.model}
    speed = now.speed * dice.gauss(1.0, 0.012)
    ttft = now.ttft * (1 if prompt < 1000 else 4.5) * max(0.7, dice.gauss(1.0, 0.06))
    decode = tokens / speed
    thinks = 2.1 if server.name == "ollama" else 0.0
    for name, value in {
        "llm_probe_tokens_per_second": speed,
        "llm_probe_end_to_end_tokens_per_second": tokens / (decode + ttft),
        "llm_probe_ttft_seconds": ttft,
        "llm_probe_time_to_first_answer_seconds": ttft + thinks,
        "llm_probe_prefill_tokens_per_second": prompt / ttft,
        "llm_probe_server_tokens_per_second": speed * 1.006,
        "llm_probe_aggregate_tokens_per_second": speed,
        "llm_probe_energy_joules_per_token": 78.0 / speed,
    }.items():
        history.put(name, when, value, labels)
    phases = {"resolve": 0.0004, "connect": 0.0007, "tls": 0.0, "queue": dice.uniform(0, 0.02), "first_token": ttft, "decode": decode}
    for phase, seconds in (phases | {"total": sum(phases.values())}).items():
        history.put("llm_probe_phase_seconds", when, seconds, {**probe, "phase": phase})
    for kind, count in {"prompt": prompt, "cached": 0, "reasoning": 40 if thinks else 0, "output": tokens}.items():
        history.put("llm_probe_tokens", when, float(count), {**probe, "kind": kind, "model": server.model})
    history.put("llm_probe_token_count_exact", when, float(server.backend != "text_generation_webui"), probe)
    history.put("llm_probe_stream_buffered", when, 0.0, probe)
    history.put("llm_probe_cold_start", when, float(now.cold), probe)
    history.put("llm_probe_model_load_seconds", when, 286.0 if server.name == "vllm" else 12.0, probe)
    history.put("llm_probe_clock_error_seconds", when, dice.uniform(0.0001, 0.0009), probe)
    for tier in (*TIERS, "poor"):
        history.put("llm_performance_tier", when, float(_tier(speed) == tier), {**probe, "tier": tier})
    history.put("llm_decode_efficiency_ratio", when, speed / server.ceiling, probe)
    ran = now.state == "up"
    count = max(1, round(step / interval)) if ran else 0
    _observe(history, "llm_probe_time_to_first_token_seconds", when, [ttft] * count, labels)
    gaps = [dice.gauss(1 / speed, 0.06 / speed) * dice.choice((1,) * 30 + (1.6,)) for _ in range(tokens)] if ran else []
    _observe(history, "llm_probe_inter_token_seconds", when, gaps, labels)


_GPUS: Final = {
    "framework": ("0000:c3:00.0", "Radeon 8060S", "gfx1151", "40", "true", 256e9, 96 * GIB, 118.0),
    "workstation": ("0000:03:00.0", "Radeon RX 7900 XTX", "gfx1100", "96", "false", 960e9, 24 * GIB, 300.0),
    "oldbox": ("0000:0a:00.0", "Radeon RX 7600", "gfx1102", "32", "false", 288e9, 8 * GIB, 140.0),
}


def _machine(history: History, host: str, when: float, age: float, dice: random.Random) -> None:
    where = {"job": JOB, "instance": f"{host}:9937"}
    gpu, name, gfx, units, unified, bandwidth, vram, power = _GPUS[host]
    card = where | {"gpu": gpu}
    hot = min(1.0, max(0.0, (age + 1.6 * HOUR) / HOUR)) if host == "framework" else 0.0
    version = "6.4.1" if host == "oldbox" else "7.2.0"

    def rocm(scope: str, container: str, version: str, source: str) -> None:
        whose = where | {"scope": scope, "container": container}
        release = version.rpartition(".")[0]
        history.put("rocm_version_info", when, 1.0, whose | {"version": version, "release": release, "source": source})
        history.put("rocm_version_supported", when, float(version[0] == "7"), whose)

    rocm("host", "", version, "/opt/rocm/.info/version")
    if host == "framework":
        inside = "6.4.0" if age < -3 * HOUR else "7.0.2"
        rocm("container", "vllm", inside, "image")
        history.put("rocm_container_release_matches_host", when, 0.0, where | {"container": "vllm"})
    history.put("amdgpu_driver_info", when, 1.0, where | {"version": "6.14.14", "source": "/sys/module/amdgpu/version"})
    history.put("amdgpu_info", when, 1.0, card | {"name": name, "gfx_target": gfx, "compute_units": units, "unified_memory": unified})
    history.put("amdgpu_memory_bandwidth_bytes_per_second", when, bandwidth, card | {"source": "kfd"})
    busy = 0.35 + 0.25 * math.sin(when / 900) ** 2 + dice.uniform(0, 0.2) + 0.2 * hot
    history.put("amdgpu_busy_ratio", when, min(1.0, busy), card)
    history.put("amdgpu_memory_used_bytes", when, vram * (0.55 + 0.05 * math.sin(when / 3000)), card | {"kind": "vram"})
    history.put("amdgpu_memory_used_bytes", when, 1.2 * GIB, card | {"kind": "gtt"})
    history.put("amdgpu_memory_total_bytes", when, vram, card | {"kind": "vram"})
    history.put("amdgpu_memory_total_bytes", when, 15.4 * GIB, card | {"kind": "gtt"})
    history.put("amdgpu_power_watts", when, power * (0.3 + 0.6 * min(1.0, busy)), card | {"scope": "socket" if unified == "true" else "gpu"})
    heat = 52 + 22 * min(1.0, busy) + 24 * hot
    for sensor, extra in {"edge": 0.0, "junction": 6.0, "mem": 2.0}.items():
        history.put("amdgpu_temperature_celsius", when, heat + extra + dice.uniform(-0.6, 0.6), card | {"sensor": sensor})
    history.put("amdgpu_clock_hertz", when, (2.9e9 - 1.2e9 * hot) * dice.uniform(0.97, 1), card | {"domain": "sclk"})
    history.put("amdgpu_clock_hertz", when, 1.0e9, card | {"domain": "mclk"})
    history.put("amdgpu_throttled", when, float(hot > 0.4), card)


_MODELS: Final = {
    "huggingface": {
        "Qwen/Qwen2.5-14B-Instruct": (27.5, 1, 0.1), "Qwen/Qwen2.5-14B-Instruct-AWQ": (9.3, 1, 30.0),
        "meta-llama/Llama-3.1-8B-Instruct": (15.0, 1, 700.0), "Qwen/Qwen3-32B": (41.0, 0, 2.0),
    },
    "ollama": {"qwen2.5:14b": (8.4, 1, 0.1), "llama3.1:8b": (4.6, 1, 200.0)},
}  # fmt: skip


def _cache(history: History, host: str, when: float, age: float) -> None:
    where = {"job": JOB, "instance": f"{host}:9937"}
    for cache, models in _MODELS.items():
        of = where | {"cache": cache}
        loading = max(0.0, 12.0 * (1 + min(age, -HOUR) / (8 * HOUR))) if cache == "huggingface" and host == "framework" else 0.0
        for model, (size, complete, hours) in models.items():
            one = of | {"model": model}
            history.put("llm_model_cache_model_bytes", when, (size + (0.0 if complete else loading)) * GIB, one)
            history.put("llm_model_cache_model_complete", when, float(complete), one)
            history.put("llm_model_cache_model_last_used_timestamp_seconds", when, when - age - hours * HOUR, one)
        history.put("llm_model_cache_bytes", when, (sum(size for size, _, _ in models.values()) + loading) * GIB, of)
        history.put("llm_model_cache_models", when, float(len(models)), of)
        history.put("llm_model_cache_incomplete_bytes", when, loading * GIB, of)
        history.put("llm_model_cache_unreadable_entries", when, 2.0 if cache == "ollama" else 0.0, of)
        history.put("llm_model_cache_scan_seconds", when, 0.4 if cache == "ollama" else 1.9, of)
        history.put("llm_model_cache_last_scan_timestamp_seconds", when, when - when % 900, of)
        history.add("llm_model_cache_scan_errors_total", when, 0.0, of)
        history.put("llm_model_cache_shared", when, float(cache == "huggingface" or host != "framework"), of | {"container": "vllm"})
    size = 1.8e12
    left = {"framework": 0.31, "workstation": 0.52, "oldbox": 0.02}[host] - 0.03 * (age + 8 * HOUR) / HOUR * (host == "framework")
    history.put("llm_model_cache_filesystem_free_bytes", when, size * max(0.01, left), where | {"mountpoint": "/srv/models"})
    history.put("llm_model_cache_filesystem_size_bytes", when, size, where | {"mountpoint": "/srv/models"})


def _exporter(history: History, host: str, when: float, age: float, step: float, dice: random.Random) -> None:
    where = {"job": JOB, "instance": f"{host}:9937"}
    history.put("up", when, 1.0, where)
    history.put("llm_probe_exporter_build_info", when, 1.0, where | {"version": "0.1.0", "python": "3.12.7"})
    history.put("llm_probe_exporter_config_last_reload_successful", when, float(not (host == "oldbox" and age > -2 * HOUR)), where)
    history.put("llm_probe_exporter_config_last_reload_success_timestamp_seconds", when, when - age - 7 * HOUR, where)
    count = sum(server.host == host for server in SERVERS)
    for state, number in {"probed": count, "discovered": 1 if host == "framework" else 0, "refused": 0}.items():
        history.put("llm_probe_exporter_targets", when, float(number), where | {"state": state})
    for collector, seconds in {"rocm": 0.004, "amdgpu": 0.011, "cache": 1.9, "containers": 0.06}.items():
        broken = host == "oldbox" and collector == "containers"
        history.put("llm_probe_exporter_collector_success", when, float(not broken), where | {"collector": collector})
        history.put("llm_probe_exporter_collector_duration_seconds", when, seconds * dice.uniform(0.8, 1.3), where | {"collector": collector})
    history.put("llm_probe_exporter_schedule_delay_seconds", when, abs(dice.gauss(0, 0.02)), where)
    history.add("process_cpu_seconds_total", when, step * 0.006, where)
    history.put("process_resident_memory_bytes", when, 71e6 + 2e6 * dice.random(), where)
    history.put("process_virtual_memory_bytes", when, 410e6, where)
    history.put("process_open_fds", when, 21.0, where)
    history.put("process_max_fds", when, 1024.0, where)
    history.put("process_start_time_seconds", when, when - age - 30 * HOUR, where)


def _alerts(history: History, when: float, age: float) -> None:
    """What Prometheus itself would have written while these alerts fired."""

    def firing(name: str, severity: str, **labels: str) -> None:
        base = {"alertname": name, "alertstate": "firing", "severity": severity, "service": "llm-probe", "job": JOB}
        history.put("ALERTS", when, 1.0, base | labels)

    firing("LLMThroughputPoor", "warning", instance="oldbox:9937", target="transformers", module="default")
    firing("LLMRocmBelowMinimum", "warning", instance="oldbox:9937", scope="host")
    firing("LLMModelCacheDiskFull", "critical", instance="oldbox:9937", mountpoint="/srv/models")
    if age < -3 * HOUR:
        firing("LLMThroughputPoor", "warning", instance="framework:9937", target="vllm", module="default")
    if -4.1 * HOUR < age < -3.6 * HOUR:
        firing("LLMProbeFailing", "critical", instance="workstation:9937", target="vllm-awq", module="default")
    if age > -20 * MINUTE:
        firing("LLMTargetDown", "critical", instance="oldbox:9937", target="llama-small")
    if age > -HOUR:
        firing("LLMGPUThrottling", "info", instance="framework:9937", gpu="0000:c3:00.0")


def make(end: float, hours: float, step: float, ahead: float = 0.0) -> History:
    """The history up to ``end`` (Unix time) and ``ahead`` seconds beyond, in which things stay as they are at the end."""
    history = History()
    dice = random.Random(395)
    when = math.floor((end - hours * HOUR) / step) * step
    while when <= end + ahead:
        age = min(when - end, 0.0)
        for server in SERVERS:
            _server(history, server, when, age, step, dice)
        for host in _GPUS:
            _machine(history, host, when, age, dice)
            _cache(history, host, when, age)
            _exporter(history, host, when, age, step, dice)
        _alerts(history, when, age)
        when += step
    return history


def lines(history: History) -> Iterator[str]:
    """The history as OpenMetrics text."""
    for name, series in history.samples.items():
        kind = "counter" if name.endswith("_total") else "unknown"
        yield f"# TYPE {name.removesuffix('_total') if kind == 'counter' else name} {kind}"
        for labels, samples in series.items():
            text = ",".join(f'{label}="{value}"' for label, value in labels)
            for when, value in samples:
                yield f"{name}{{{text}}} {value:.6g} {when:.0f}" if value < 1e6 else f"{name}{{{text}}} {value:.0f} {when:.0f}"
    yield "# EOF"


def write(file: TextIO, end: float, hours: float, step: float, ahead: float = 0.0) -> None:
    """The text into an open file."""
    file.writelines(f"{line}\n" for line in lines(make(end, hours, step, ahead)))


def main() -> None:
    """``python -m grafana.sample_history [--hours 8] [--step 30] [--ahead 3600] > history.txt``."""
    parser = argparse.ArgumentParser(prog="python -m grafana.sample_history", description="Made-up history as OpenMetrics")
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--step", type=float, default=30.0, help="seconds between samples")
    parser.add_argument("--ahead", type=float, default=3600.0, help="seconds beyond now in which everything stays as it is")
    given = parser.parse_args()
    write(sys.stdout, time.time(), given.hours, given.step, given.ahead)


if __name__ == "__main__":
    main()
