"""A made-up machine with servers in every state, published as the daemon would: for the golden exposition and the page.

The figures are invented; the shapes are those of a Strix Halo box with two containers.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from exporter.cache.facts import CacheFacts, FilesystemFacts, ModelFacts
from exporter.containers.facts import ContainerFacts, Devices, EngineReading, ImageRocm
from exporter.history.change import Ledger, observe, observe_facts
from exporter.history.record import Plan
from exporter.history.sample import Sample
from exporter.host.gpu import GpuFacts, GpuReading, GpuSample
from exporter.host.machine import GpuSettings, MachineFacts, PowerProfile
from exporter.host.rocm import DriverFacts, RocmFacts
from exporter.probe.result import AnswerCheck, FingerprintReading, Measurements, ProbeResult, Result, TargetState
from exporter.probe.timeline import Chunk, Timeline
from exporter.settings import Thresholds
from exporter.snapshot import (
    CONTAINERS,
    EXPORTER,
    GPU,
    GPU_SENSORS,
    MACHINE,
    ROCM,
    CollectorRun,
    ExporterState,
    Service,
    Snapshot,
    TargetInfo,
    cache_key,
    collector_key,
    info_key,
    judgement_key,
    ledger_key,
    plan_key,
    probe_key,
    service_key,
    target_key,
)
from exporter.tiers import Judgement, tier_of

NOW = 1_790_000_000.0
LIMITS = Thresholds(excellent=20, good=15, acceptable=10)
QWEN = "Qwen/Qwen2.5-14B-Instruct"


def gap_after(number: int) -> float:
    """Share of the mean gap that one has: a little more or less, and now and then twice as long."""
    return 2.0 if number % 16 == 9 else 0.93 + 0.12 * math.sin(number * 1.7)


def measured(speed: float | None, ttft: float = 0.41, tokens: int = 64) -> Measurements:
    """What a good probe of a warm model measures."""
    decode = (tokens - 1) / speed if speed else 0.0
    return Measurements(
        tokens_per_second=speed,
        end_to_end_tokens_per_second=tokens / (ttft + decode),
        ttft_seconds=ttft,
        time_to_first_answer_seconds=ttft,
        prefill_tokens_per_second=64 / ttft,
        server_tokens_per_second=None if speed is None else speed * 1.002,
        speculative_accepted_ratio=0.71,
        aggregate_tokens_per_second=speed,
        gaps=() if not speed else tuple((gap_after(i) / speed, 1) for i in range(tokens - 1)),
        prompt_tokens=64,
        cached_tokens=0,
        output_tokens=tokens,
        token_count_exact=True,
        stream_buffered=speed is None,
        clock_error_seconds=0.00021,
        phases=(
            ("resolve", 0.0),
            ("connect", 0.0004),
            ("queue", 0.002),
            ("first_token", ttft),
            ("decode", decode),
            ("total", ttft + decode + 0.003),
        ),
    )


def probe(
    target: str,
    ago: float,
    result: Result = "ok",
    *,
    error: str = "",
    module: str = "default",
    speed: float | None = None,
    ttft: float = 0.41,
    model: str | None = QWEN,
    cold_start: bool = False,
    tokens: int = 64,
) -> ProbeResult:
    """One result, so many seconds ago."""
    good = result == "ok"
    measurements = measured(speed, ttft, tokens) if good else Measurements(phases=(("connect", 0.0004), ("total", 0.9)))
    chunks = tuple(Chunk(int((ttft + i / 20) * 1e9), "answer", 4, i + 1) for i in range(tokens if good else 0))
    skipped = result.startswith("skipped")
    return ProbeResult(
        target,
        module,
        result,
        error,
        NOW - ago,
        60.0 if module == "default" else 600.0,
        model=model,
        measurements=measurements,
        cold_start=cold_start,
        model_load_seconds=34.0 if result == "loading" else None,
        queued=speed is None,
        queue_seconds=1.25 if speed is None else None,
        beside_users=0.0,
        prompt_tokens_spent=0 if skipped else 64,
        output_tokens_spent=tokens if good else 0,
        busy_seconds=0.0 if skipped else 1.25,
        timelines=() if skipped else (Timeline(0, 0, 400_000, None, 500_000, 9_000_000, chunks, 3_000_000_000),),
        log=() if skipped else ("+0.002 s POST /v1/chat/completions", f"+1.250 s {result}"),
    )


def judged(
    speed: float | None, scenario: str, low: float | None, high: float | None, ceiling: float | None = None
) -> Judgement:
    """A judgement as the tiers' room gives it: no band reaches above the ceiling."""
    return Judgement(
        None if speed is None else tier_of(speed, LIMITS),
        LIMITS,
        scenario or None,
        low,
        min((each for each in (high, ceiling) if each is not None), default=None) if high is not None else None,
        ceiling,
        speed / ceiling if speed and ceiling else None,
        None if speed is None else 95 / speed,
        "faq" if scenario and (low or high) else None,
        "" if ceiling else "nothing says whether the model is dense or a mixture of experts",
        None if speed is None else "memory_bandwidth" if ceiling and speed / ceiling >= 0.75 else "unknown",
        None if speed is None else "socket",
    )


def publish_run(
    snapshot: Snapshot,
    results: Sequence[ProbeResult],
    info: TargetInfo,
    judgement: Judgement | None,
    state: TargetState | None,
) -> None:
    """Publish a plan, then results in the order of time, then what is known beside them."""
    target, module = results[0].target, results[0].module
    snapshot.publish(plan_key(target, module), Plan(results[0].interval_seconds))
    snapshot.publish(info_key(target), info)
    for result in sorted(results, key=lambda each: each.at_seconds):
        snapshot.publish(probe_key(target, module), result)
    if judgement:
        snapshot.publish(judgement_key(target, module), judgement)
    if state:
        snapshot.publish(target_key(target), state)


@functools.cache
def steady(
    target: str, speed: float, *, count: int = 150, wavers: float = 0.03, ttft: float = 0.41
) -> tuple[ProbeResult, ...]:
    """A probe each minute whose speed wavers a little, the newest 12 s ago."""
    return tuple(
        probe(
            target,
            12 + 60 * i,
            speed=round(speed * (1 + wavers * math.sin(i * 1.7) + wavers / 2 * math.sin(i / 9)), 2) if i else speed,
            ttft=ttft,
        )
        for i in range(count)
    )


def up(target: str, url: str, ago: float = 5.0, **known: float | bool | str | None) -> TargetState:
    """A status check of a target; it is up unless ``known`` says otherwise."""
    fields: dict[str, float | bool | str | None] = {"up": True, "model_resident": True, **known}
    return TargetState(target, url, NOW - ago, **fields)  # type: ignore[arg-type]  # each field by its own type


def add_fine_servers(snapshot: Snapshot) -> None:
    """One excellent, one good with two modules, one acceptable."""
    publish_run(
        snapshot,
        steady("llamacpp-q4", 24.1, ttft=0.29),
        TargetInfo(
            "http://127.0.0.1:8080", "llama_cpp", "b6402", "Qwen2.5-14B-Instruct-Q4_K_M.gguf", "Q4_K_M",
            "llama", "ghcr.io/ggml-org/llama.cpp:server-rocm", "llamacpp-q4", "ryzen-ai-max-395",
            ("0000:c1:00.0",), "only_gpu", "AMD Radeon 8060S (0000:c1:00.0): it is the only GPU",
            (("compute", "rocm"), ("context", "32768"), ("gpu", "0000:c1:00.0"), ("slots", "1")),
        ),
        judged(24.1, "llamacpp-q4", 20, 30, 27.6),
        up("llamacpp-q4", "http://127.0.0.1:8080", requests_running=0.0, requests_waiting=0.0, kv_cache_usage=0.02),
    )  # fmt: skip
    good = TargetInfo(
        "http://127.0.0.1:8001", "vllm", "0.11.2", QWEN, "none",
        "vllm-aiter", "rocm/vllm:rocm7.0_vllm_0.11.2", "vllm-fp16-aiter", "ryzen-ai-max-395",
    )  # fmt: skip
    snapshot.publish(plan_key("vllm-aiter", "canary"), Plan(600, canary=True))
    snapshot.publish(
        probe_key("vllm-aiter", "canary"),
        canary("vllm-aiter", 220, AnswerCheck("short", "right"), AnswerCheck("deep", "right")),
    )
    state = up("vllm-aiter", good.url, requests_running=1.0, requests_waiting=0.0, kv_cache_usage=0.31)
    publish_run(snapshot, steady("vllm-aiter", 16.2), good, judged(16.2, "vllm-fp16-aiter", 12, 20, 19.4), state)
    prefill = [probe("vllm-aiter", 100 + 600 * i, module="prefill", speed=15.8, ttft=2.4, tokens=16) for i in range(12)]
    publish_run(snapshot, prefill, good, judged(15.8, "vllm-fp16-aiter", 12, 20), state)
    publish_run(
        snapshot,
        [*steady("ollama", 13.4, wavers=0.12), probe("ollama", 400, "timeout_first_token", error="no token in 120 s")],
        TargetInfo("http://127.0.0.1:11434", "ollama", "0.12.9", "qwen2.5:14b", "Q4_K_M", scenario="ollama"),
        judged(13.4, "ollama", 20, 25, 28.0),
        up("ollama", "http://127.0.0.1:11434"),
    )


def add_sick_servers(snapshot: Snapshot) -> None:
    """One poor, one that fails, one that answers nonsense, one that is down."""
    publish_run(
        snapshot,
        steady("vllm", 6.4, ttft=0.92),
        TargetInfo(
            "http://127.0.0.1:8000", "vllm", "0.10.1", QWEN, "none",
            "vllm", "rocm/vllm:rocm6.4.1_vllm_0.10.1", "vllm-fp16", "ryzen-ai-max-395",
        ),
        judged(6.4, "vllm-fp16", 8, 12, 8.6),
        up("vllm", "http://127.0.0.1:8000"),
    )  # fmt: skip
    good_once = [each for each in steady("webui", 19.2) if each.at_seconds < NOW - 1800]
    failing = [
        probe("webui", 15 + 60 * i, "http_5xx", error="500: CUDA error: HIP out of memory (torch 2.8.0+rocm6.4)")
        for i in range(25)
    ]
    publish_run(
        snapshot,
        [*good_once, *failing],
        TargetInfo(
            "http://192.168.1.20:5000",
            "text_generation_webui",
            "3.12",
            "Mistral-Nemo-12B",
            scenario="text-generation-webui",
        ),
        judged(None, "text-generation-webui", 18, 22),
        up("webui", "http://192.168.1.20:5000"),
    )
    add_garbled_server(snapshot)
    gone = [each for each in steady("transformers", 7.1) if each.at_seconds < NOW - 400]
    publish_run(
        snapshot,
        [*gone, *(probe("transformers", 20 + 60 * i, "connect", error="connection refused") for i in range(6))],
        TargetInfo("http://192.168.1.21:8000", "transformers", "5.1.0", "Phi-4", scenario="transformers"),
        judged(None, "transformers", 5, 8),
        up("transformers", "http://192.168.1.21:8000", up=False, model_resident=None, error="connection refused"),
    )


def canary(target: str, ago: float, *checks: AnswerCheck, result: Result = "ok", distance: float = 0.7) -> ProbeResult:
    """One canary, with the verdicts that are given."""
    error = "; ".join(each.reason for each in checks if each.reason)
    found = probe(target, ago, result, error=error, module="canary", speed=11.9, ttft=3.1, tokens=18)
    if found.result == "ok":
        deep = replace(found.measurements, prompt_tokens=2048, prefill_tokens_per_second=2048 / 3.1)
        found = replace(found, measurements=deep)
    fault = next((each.fault for each in checks if each.fault), None)
    return replace(found, fault=fault, checks=checks, fingerprint=FingerprintReading(distance))


def add_garbled_server(snapshot: Snapshot) -> None:
    """One whose short answers are right and whose long prompts bring nonsense, at the speed of good ones."""
    repeats = AnswerCheck(
        "deep", "degenerate", 'the answer repeats one character to its end: "/"', "repeated_character"
    )
    info = TargetInfo("http://127.0.0.1:8085", "llama_cpp", "b10729", "gemma-4-E2B-it-Q4_0.gguf", "Q4_0")
    state = up("garbled", info.url)
    publish_run(snapshot, steady("garbled", 41.0), info, judged(41.0, "llamacpp-q4", 20, 30), state)
    snapshot.publish(plan_key("garbled", "canary"), Plan(600, canary=True))
    for result in (
        canary("garbled", 1240, AnswerCheck("short", "right"), AnswerCheck("deep", "right")),
        canary("garbled", 640, AnswerCheck("short", "right"), repeats, result="degenerate", distance=9.4),
        canary("garbled", 40, AnswerCheck("short", "right"), repeats, result="degenerate", distance=9.3),
    ):
        snapshot.publish(probe_key("garbled", "canary"), result)


def add_quiet_servers(snapshot: Snapshot) -> None:
    """One loading, one busy with its users, one unloaded, one buffered, one never probed."""
    publish_run(
        snapshot,
        [probe("loading", 40, "loading", error="503: loading model", model=None)],
        TargetInfo("http://127.0.0.1:8002", "llama_cpp", "b6402"),
        judged(None, "llamacpp-q4", 20, 30),
        up("loading", "http://127.0.0.1:8002", loading=True, model_resident=None),
    )
    publish_run(
        snapshot,
        [probe("mi300x", 30 + 60 * i, "skipped_busy") for i in range(4)],
        TargetInfo("http://10.0.0.7:8000", "vllm", "0.11.2", "Llama-3.3-70B-Instruct", hardware="instinct-mi300x"),
        judged(None, "vllm-fp8-aiter", 18, 28),
        up(
            "mi300x", "http://10.0.0.7:8000",
            requests_running=37.0, requests_waiting=4.0, kv_cache_usage=0.83, generated_tokens_per_second=1412.0,
            user_tokens_per_second=38.2, user_ttft_seconds=1.9, stuck=False,
        ),
    )  # fmt: skip
    snapshot.publish(service_key("mi300x"), Service("excellent", 10))
    publish_run(
        snapshot,
        [probe("lm-studio", 55, "skipped_unloaded")],
        TargetInfo("http://127.0.0.1:1234", "openai"),
        judged(None, "", None, None),
        up("lm-studio", "http://127.0.0.1:1234", model_resident=False),
    )
    publish_run(
        snapshot,
        [probe("behind-nginx", 900 + 60 * i) for i in range(9)],
        TargetInfo("https://llm.example.org", "openai", "", "gpt-oss-20b"),
        judged(None, "", None, None),
        up("behind-nginx", "https://llm.example.org"),
    )
    snapshot.publish(plan_key("new", "default"), Plan(60))
    snapshot.publish(info_key("new"), TargetInfo("http://127.0.0.1:30000"))


def add_host(snapshot: Snapshot) -> None:
    """GPU, ROCm, containers, caches, collectors and the daemon's own state."""
    gpu = GpuFacts(
        "0000:c1:00.0", "AMD Radeon 8060S", "gfx1151", 40, True, 536_870_912, 118_111_600_640, 118_111_600_640, 256e9,
        "memory modules",
    )  # fmt: skip
    sample = GpuSample(
        "0000:c1:00.0", False, 0.97, 312_000_000, 71_500_000_000, 92.5, "socket",
        (("edge", 71.0), ("cpu", 74.5)), (("graphics", 2.9e9), ("memory", 1e9)), (("thermal", 0.0), ("power", 0.0)),
        power_cap_watts=120.0,
    )  # fmt: skip
    machine = MachineFacts(
        "6.18.4-200.fc43.x86_64",
        (("amd_iommu", "off"), ("ttm.pages_limit", "27648000")),
        PowerProfile("performance", "powersave", "amd-pstate-epp", "performance", "accelerator-performance"),
        "3.04",
        gpus=(GpuSettings("0000:c1:00.0", (("mes", "0x80"), ("smc", "0x5d5c00")), "113-STRXLGEN-001", "auto"),),
    )
    snapshot.publish(MACHINE, machine)
    disk = FilesystemFacts("/", "259:2", 412_000_000_000, 1_967_000_000_000)
    snapshot.publish(GPU, GpuReading((gpu,)))
    snapshot.publish(GPU_SENSORS, (sample,))
    snapshot.publish(
        ROCM, RocmFacts("7.2.0-43", "7.2.0", "7.2", "info", DriverFacts("6.16.13", "dkms"), kfd_present=True)
    )
    snapshot.publish(CONTAINERS, EngineReading(available=True, containers=containers()))
    models = (
        ModelFacts(QWEN, "models--Qwen--Qwen2.5-14B-Instruct", 29_540_067_328, True, last_used_seconds=NOW - 3600),
        ModelFacts(
            "mistralai/Mistral-Nemo-Instruct-2407", "m", 24_500_000_000, False, ("model-00005-of-00005.safetensors",)
        ),
        ModelFacts("microsoft/phi-4", "p", 29_300_000_000, None),
    )
    hub = CacheFacts(
        "huggingface", "huggingface", "/home/user/.cache/huggingface", 83_340_067_328, models,
        incomplete_bytes=4_200_000_000, orphaned_bytes=1_100_000_000, filesystem=disk, scan_seconds=0.42,
        scanned_at_seconds=NOW - 300,
    )  # fmt: skip
    snapshot.publish(cache_key("huggingface"), hub)
    snapshot.publish(
        cache_key("ollama"),
        CacheFacts(
            "ollama", "ollama", "/usr/share/ollama/.ollama/models", None, error="permission denied", filesystem=disk,
            scan_seconds=0.001, scanned_at_seconds=NOW - 300,
        ),
    )  # fmt: skip
    for number, name in enumerate(("cache", "containers", "gpu", "rocm")):
        snapshot.publish(collector_key(name), CollectorRun(name != "cache", 0.004 * (number + 1), NOW - 10 * number))
    states = (("failing", 1), ("fine", 4), ("waiting", 1))
    snapshot.publish(EXPORTER, ExporterState(True, NOW - 7200, 0.0021, states, "7.0", 421_888))


def containers() -> tuple[ContainerFacts, ...]:
    """Two inference containers, one of which keeps its models in its own layer."""
    hub = "/home/user/.cache/huggingface"
    return (
        ContainerFacts(
            "0123456789ab", "vllm", "rocm/vllm:rocm6.4.1_vllm_0.10.1", "sha256:1", "vllm", running=True,
            cache_path="/root/.cache/huggingface/hub", cache_source=f"{hub}/hub",
            rocm=ImageRocm("6.4.1-83", "6.4", "file"), devices=Devices(kfd=True, dri=True),
        ),
        ContainerFacts(
            "ba9876543210", "llama", "ghcr.io/ggml-org/llama.cpp:server-rocm", "sha256:2", "llama_cpp", running=True,
            cache_path="/models", rocm=ImageRocm("7.2.1", "7.2", "tag"), devices=Devices(kfd=True, dri=True),
        ),
        ContainerFacts("cccccccccccc", "toolbox", "kyuz0/vllm-therock-gfx1151", "sha256:3", None, running=False),
    )  # fmt: skip


def fed(ledger: Ledger, speed: float, ttft: float, since: float, until: float, *, deep: bool = False) -> Ledger:
    """A ledger after a probe a minute, from and until so many seconds ago, whose speed wavers by 1 %."""
    for number in range(int((since - until) // 60)):
        wavering = speed * (1 + 0.01 * math.sin(number * 1.7))
        ledger = observe(ledger, "default", Sample(NOW - since + 60 * number, wavering, ttft, 64 / ttft))
        if deep and number % 10 == 0:
            sample = Sample(NOW - since + 60 * number, wavering * 0.8, ttft * 5, 2048 / ttft / 5)
            ledger = observe(ledger, "canary", sample, prefill=True)
    return ledger


@functools.cache
def changed_ledgers() -> tuple[Ledger, Ledger]:
    """A server whose new image costs half of its speed, and one that lost a part of it for no known reason."""
    facts = {"image": "rocm/vllm:rocm6.4_vllm_0.9.2", "backend version": "0.9.2", "kernel": "6.18.4-200.fc43.x86_64"}
    ledger = fed(observe_facts(Ledger("vllm"), NOW - 15000, facts), 12.1, 0.48, 14400, 9000, deep=True)
    new = {"image": "rocm/vllm:rocm6.4.1_vllm_0.10.1", "backend version": "0.10.1"}
    slower = fed(observe_facts(ledger, NOW - 9000, facts | new), 6.4, 0.92, 8940, 12, deep=True)
    ledger = fed(observe_facts(Ledger("ollama"), NOW - 15000, {"model": "qwen2.5:14b"}), 15.6, 0.4, 14400, 7200)
    return slower, fed(ledger, 13.4, 0.4, 7200, 12)


def add_changes(snapshot: Snapshot) -> None:
    """What ``changed_ledgers`` tells."""
    for ledger in changed_ledgers():
        snapshot.publish(ledger_key(ledger.target), ledger)


MANY: Final = (
    *("good", "good", "excellent", "acceptable", "good", "excellent", "good", "excellent", "at_limit", "busy"),
    *("good", "excellent", "acceptable", "poor", "good", "down", "excellent", "failing", "unloaded", "waiting"),
)
"""States of which many servers have one each, in turns."""


def publish_many(snapshot: Snapshot, count: int) -> Snapshot:
    """So many servers, in every state, most of them fine."""
    for number in range(count):
        add_one(snapshot, f"{MANY[number % len(MANY)].replace('_', '-')}-{number:03}", MANY[number % len(MANY)], number)
    add_host(snapshot)
    return snapshot


def one(snapshot: Snapshot) -> Snapshot:
    """One server, as fast as its memory allows, which is too slow to use."""
    add_one(snapshot, "vllm", "at_limit", 1)
    add_host(snapshot)
    return snapshot


def nine(snapshot: Snapshot) -> Snapshot:
    """Nine servers, each in another state."""
    states = ("good", "excellent", "acceptable", "poor", "at_limit", "down", "failing", "busy", "waiting")
    for number, state in enumerate(states):
        add_one(snapshot, state.replace("_", "-"), state, number)
    add_host(snapshot)
    return snapshot


def add_one(snapshot: Snapshot, name: str, state: str, number: int) -> None:
    """One server in a state."""
    speeds = {"good": 16.0, "excellent": 24.0, "acceptable": 11.5, "poor": 6.4, "at_limit": 8.3}
    url = f"http://10.0.{number // 250}.{number % 250 + 1}:8000"
    info = TargetInfo(url, "vllm", "0.11.2", QWEN, "none", scenario="vllm-fp16")
    speed = speeds.get(state)
    if speed is not None:
        speed = round(speed * (1 + (number % 7) / 50), 2)
        ceiling = 9.4 if state == "at_limit" else None
        run, judgement = (
            steady(name, speed, count=6),
            judged(speed, "vllm-fp16", *((8, 12) if ceiling else (12, 26)), ceiling),
        )
        publish_run(snapshot, run, info, judgement, up(name, url))
    elif state == "waiting":
        snapshot.publish(plan_key(name, "default"), Plan(60))
        snapshot.publish(info_key(name), info)
    else:
        failures: dict[str, tuple[Result, str]] = {
            "busy": ("skipped_busy", ""),
            "unloaded": ("skipped_unloaded", ""),
            "down": ("connect", "connection refused"),
            "failing": ("http_5xx", "500: CUDA error: HIP out of memory"),
        }
        result, error = failures[state]
        known = {"requests_running": 3.0} if state == "busy" else {}
        checked = up(name, url, up=False, error=error) if state == "down" else up(name, url, **known)
        publish_run(snapshot, [probe(name, 20, result, error=error)], info, judged(None, "", None, None), checked)


def publish_all(snapshot: Snapshot) -> Snapshot:
    """The whole scene."""
    add_fine_servers(snapshot)
    add_sick_servers(snapshot)
    add_quiet_servers(snapshot)
    add_changes(snapshot)
    add_host(snapshot)
    return snapshot
