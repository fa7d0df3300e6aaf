"""A made-up server in each state that the page can show: every verdict, result and advice, and what stands beside them.

The figures are invented. A scene holds one or several of them; what is said of the machine needs a scene of its own.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from exporter.containers.facts import ContainerFacts, EngineReading
from exporter.history.change import Ledger, observe_facts
from exporter.history.record import Plan
from exporter.host.gpu import GpuFacts, GpuReading, GpuSample
from exporter.host.machine import GpuSettings, MachineFacts, PowerProfile
from exporter.host.rocm import DriverFacts, RocmFacts
from exporter.probe.result import NOT_AN_ANSWER, RESULTS, SKIPPED, AnswerCheck, ProbeResult, Result
from exporter.snapshot import (
    CONTAINERS,
    GPU,
    GPU_SENSORS,
    MACHINE,
    ROCM,
    Service,
    Snapshot,
    TargetInfo,
    info_key,
    ledger_key,
    plan_key,
    probe_key,
    service_key,
)
from exporter.tiers import Judgement
from tests.scenes import (
    LIMITS,
    NOW,
    QWEN,
    add_host,
    canary,
    fed,
    judged,
    probe,
    publish_run,
    steady,
    up,
)

Publish = Callable[[Snapshot, str], None]
URL: Final = "http://127.0.0.1:8000"
HALO: Final = "0000:c1:00.0"
INFO: Final = TargetInfo(URL, "vllm", "0.11.2", QWEN, "none", "vllm", "rocm/vllm:rocm7.0_vllm_0.11.2", "vllm-fp16")
ERRORS: Final[Mapping[Result, str]] = {
    "resolve": "Name or service not known",
    "connect": "connection refused",
    "tls": "certificate verify failed: self-signed certificate",
    "timeout_connect": "no connection in 5 s",
    "timeout_first_token": "no token in 120 s",
    "timeout_stalled": "no token for 30 s after 17 of 64",
    "timeout_total": "41 of 64 tokens in 180 s",
    "loading": "503: loading model",
    "auth": "401: invalid API key",
    "rate_limited": "429: too many requests",
    "no_model": "404: model 'llama4' not found",
    "http_4xx": "400: max_tokens is too large",
    "http_5xx": "500: CUDA error: HIP out of memory (torch 2.8.0+rocm6.4)",
    "protocol": "the answer is text/html, not an event stream",
    "truncated": "the stream ended after 12 tokens without [DONE]",
    "empty": "64 tokens, and no text in them",
    "server_error": "EngineDeadError: EngineCore encountered an issue",
    "too_large": "more than 1 MB",
    "degenerate": 'the answer repeats "/" to its end',
    "wrong_answer": "it was to say Paris and says Lyon",
    "foreign_answer": "it tells of a cake, and was asked for a capital",
}


def fast(
    speed: float, *, low: float | None = 12, high: float | None = 20, ceiling: float | None = None, **known: object
) -> Publish:
    """A server that was measured at this speed; ``known`` are fields of its information."""

    def publish(snapshot: Snapshot, name: str) -> None:
        info = replace(INFO, **known)  # type: ignore[arg-type]  # each field by its own type
        judgement = judged(speed, info.scenario, low, high, ceiling)
        publish_run(snapshot, steady(name, speed), info, judgement, up(name, URL))

    return publish


def after(results: Callable[[str], Iterable[ProbeResult]], judgement: Judgement | None = None) -> Publish:
    """A server with these probes, given its name."""

    def publish(snapshot: Snapshot, name: str) -> None:
        publish_run(snapshot, list(results(name)), INFO, judgement, up(name, URL))

    return publish


def failing(result: Result) -> Publish:
    """A server that was good until half an hour ago, and whose probes have failed in this way since."""

    def publish(snapshot: Snapshot, name: str) -> None:
        good = [each for each in steady(name, 16.2) if each.at_seconds < NOW - 1800]
        bad = [probe(name, 15 + 60 * number, result, error=ERRORS.get(result, "")) for number in range(29)]
        checked = up(name, URL, up=False, error="connection refused") if result == "connect" else up(name, URL)
        publish_run(snapshot, [*good, *bad], INFO, judged(None, INFO.scenario, 12, 20), checked)

    return publish


def skipped(result: Result, error: str = "", **state: float | bool | str | None) -> Publish:
    """A server that was never probed, since each probe was skipped for this reason."""

    def publish(snapshot: Snapshot, name: str) -> None:
        probes = [probe(name, 30 + 60 * number, result, error=error) for number in range(4)]
        publish_run(snapshot, probes, INFO, judged(None, INFO.scenario, 12, 20), up(name, URL, 5.0, **state))

    return publish


def without_speed(*, speed: float | None = None, tokens: int = 64, **changed: object) -> Publish:
    """A server whose last probe was good and gave nothing to judge; ``changed`` are fields of the probe."""

    def publish(snapshot: Snapshot, name: str) -> None:
        found = probe(name, 12, speed=speed, tokens=tokens)
        found = replace(found, **changed)  # type: ignore[arg-type]  # each field by its own type
        publish_run(snapshot, [found], INFO, judged(None, INFO.scenario, 12, 20), up(name, URL))

    return publish


def seen(**state: float | bool | str | None) -> Publish:
    """A server that was good a minute ago, and whose status says this now."""

    def publish(snapshot: Snapshot, name: str) -> None:
        good = [each for each in steady(name, 16.2) if each.at_seconds < NOW - 60]
        publish_run(snapshot, good, INFO, judged(16.2, INFO.scenario, 12, 20), up(name, URL, 5.0, **state))

    return publish


def changed(before: float, now: float, difference: tuple[str, str, str] | None, ago: float = 9000) -> Publish:
    """A server whose speed was another so many seconds ago, before this (fact, before, after) or before nothing known."""

    def publish(snapshot: Snapshot, name: str) -> None:
        fast(now)(snapshot, name)
        fact, old, new = difference or ("kernel", "6.18.4", "6.18.4")
        ledger = fed(observe_facts(Ledger(name), NOW - 15000, {fact: old}), before, 0.48, 14400, ago)
        ledger = fed(observe_facts(ledger, NOW - ago, {fact: new}), now, 0.92, ago - 60, 12)
        snapshot.publish(ledger_key(name), ledger)

    return publish


def waiting(snapshot: Snapshot, name: str) -> None:
    """A server that was found a moment ago."""
    snapshot.publish(plan_key(name, "default"), Plan(60))
    snapshot.publish(info_key(name), TargetInfo(URL))


def paused(snapshot: Snapshot, name: str) -> None:
    """A server whose model nobody uses, so that no probe keeps it in memory."""
    old = [each for each in steady(name, 16.2) if each.at_seconds < NOW - 1500]
    since = replace(
        probe(name, 20, "skipped_unloaded", error=f"paused: nobody used {QWEN} since 09:41"), paused_since=NOW - 1500
    )
    publish_run(snapshot, [*old, since], INFO, judged(16.2, INFO.scenario, 12, 20), up(name, URL))


def slow_for_users(snapshot: Snapshot, name: str) -> None:
    """A server that is fast when it is alone, and slow for those who use it."""
    fast(16.2)(snapshot, name)
    publish_run(
        snapshot, steady(name, 16.2, count=2), INFO, judged(16.2, INFO.scenario, 12, 20),
        up(name, URL, requests_running=6.0, requests_waiting=2.0, user_tokens_per_second=4.2, user_ttft_seconds=3.1),
    )  # fmt: skip
    snapshot.publish(service_key(name), Service("poor", 10))


def canaries(*checks: AnswerCheck, result: Result = "ok", alone: bool = False) -> Publish:
    """A server with a canary that found this, beside its usual probes or alone."""

    def publish(snapshot: Snapshot, name: str) -> None:
        found = canary(name, 40, *checks, result=result)
        if not alone:
            fast(16.2)(snapshot, name)
            snapshot.publish(plan_key(name, "canary"), Plan(600, canary=True))
            snapshot.publish(probe_key(name, "canary"), found)
            return
        snapshot.publish(plan_key(name, "canary"), Plan(600, canary=True))
        snapshot.publish(info_key(name), INFO)
        snapshot.publish(probe_key(name, "canary"), found)

    return publish


def together(*, alone: bool) -> Publish:
    """A server with a module of four streams, beside its usual one or alone."""

    def publish(snapshot: Snapshot, name: str) -> None:
        if not alone:
            fast(16.2)(snapshot, name)
        found = probe(name, 30, module="parallel", speed=11.2)
        figures = replace(found.measurements, aggregate_tokens_per_second=44.6)
        snapshot.publish(plan_key(name, "parallel"), Plan(600, concurrency=4))
        snapshot.publish(info_key(name), INFO)
        snapshot.publish(probe_key(name, "parallel"), replace(found, measurements=figures, concurrency=4))

    return publish


def near_bound(snapshot: Snapshot, name: str) -> None:
    """A server that was good, and whose last probe is a little below what is good."""
    results = [
        *(each for each in steady(name, 15.3, wavers=0.01) if each.at_seconds < NOW - 30),
        probe(name, 12, speed=14.96),
    ]
    publish_run(snapshot, results, INFO, judged(14.96, INFO.scenario, 12, 20), up(name, URL))


def stale(snapshot: Snapshot, name: str) -> None:
    """A server that was not probed for some time, though nothing paused it."""
    old = [each for each in steady(name, 16.2) if each.at_seconds < NOW - 1500]
    publish_run(snapshot, old, INFO, judged(16.2, INFO.scenario, 12, 20), up(name, URL))


def given_way(snapshot: Snapshot, name: str) -> None:
    """A good server that is busy with its users now."""
    old = [each for each in steady(name, 16.2) if each.at_seconds < NOW - 100]
    state = up(name, URL, requests_running=3.0, requests_waiting=0.0, user_tokens_per_second=14.1)
    publish_run(snapshot, [*old, probe(name, 20, "skipped_busy")], INFO, judged(16.2, INFO.scenario, 12, 20), state)


def unnamed_band(snapshot: Snapshot, name: str) -> None:
    """A server of which only the address is known, with a speed that nothing but the tiers judges."""
    judgement = Judgement("acceptable", LIMITS, no_ceiling="the size of its model isn't known")
    publish_run(snapshot, steady(name, 12.1), TargetInfo("http://192.168.1.20:8000", "openai"), judgement, None)


def downloads(snapshot: Snapshot, name: str) -> None:
    """A container that keeps its models in its own layer."""
    own = ContainerFacts(
        "ba9876543210", name, INFO.image, "sha256:2", "vllm", running=True, cache_path="/root/.cache/huggingface/hub"
    )
    snapshot.publish(CONTAINERS, EngineReading(available=True, containers=(own,), last_known=(own,)))
    fast(16.2, container=name)(snapshot, name)


LONG_NAME: Final = "a_server_whose_name_is_as_long_as_a_name_can_be_0123456789_01234"


def long_texts(snapshot: Snapshot, name: str) -> None:
    """Names without a place to break them, and an error of many lines."""
    info = replace(
        INFO,
        url=f"http://{'very-' * 12}long.example.org:8000/v1",
        model=f"organisation/{'Model-Of-Many-Words-' * 5}Instruct"[:128],
        quantization="compressed-tensors",
        image=f"registry.example.org/{'path/' * 12}image@sha256:{'0123456789abcdef' * 4}"[:128],
        container="container_" * 8,
    )
    error = (
        "500: RuntimeError: " + "HIP_error_invalid_device_function_in_kernel_" * 6 + " while the batch was decoded " * 6
    )
    good = [each for each in steady(name, 16.2) if each.at_seconds < NOW - 1800]
    bad = [probe(name, 15 + 60 * number, "http_5xx", error=error[:500]) for number in range(9)]
    publish_run(snapshot, [*good, *bad], info, judged(None, info.scenario, 12, 20), up(name, info.url))


UNEXPLAINED: Final = replace(judged(6.4, "vllm-fp16", 12, 20), no_ceiling="the size of its model isn't known")

STATES: Final[dict[str, Publish]] = {
    "excellent": fast(24.1, low=20, high=30, ceiling=27.6),
    "good": fast(16.2, ceiling=24.4),
    "acceptable": fast(11.5, low=8, high=14),
    "poor": fast(6.4),
    "poor-far-from-its-ceiling": fast(6.4, ceiling=27.0),
    "poor-as-known": fast(6.4, low=5, high=8),
    "slower-than-expected": fast(16.2, low=18, high=22),
    "faster-than-expected": fast(36.4),
    "of-a-large-card": fast(412.0, low=300, high=560, ceiling=589.0),
    "far-below-the-tiers": fast(0.35, low=None, high=None),
    "poor-even-at-its-ceiling": fast(6.4, low=8, high=9.2, ceiling=9.2, settings=(("aiter", "no_effect"),)),
    "at-the-memory-limit": fast(8.3, low=8, high=12, ceiling=9.2),
    "excellent-at-the-limit": fast(41.0, low=20, high=40, ceiling=46.0, quantization="Q4_K_M"),
    "only-an-address": unnamed_band,
    "near-a-bound": near_bound,
    "stale": stale,
    "paused": paused,
    "busy-now": given_way,
    "waiting": waiting,
    "loading": seen(loading=True),
    "starting": seen(up=False, loading=True, starting_since=NOW - 300),
    "stuck": seen(stuck=True, requests_running=4.0, requests_waiting=9.0),
    "down-since-a-moment": seen(up=False, error="connection refused"),
    "slow-for-users": slow_for_users,
    "beside-users": without_speed(speed=7.0, beside_users=3.0),
    "cold-start": without_speed(cold_start=True),
    "buffered": without_speed(),
    "too-few-tokens": without_speed(
        measurements=replace(probe("t", 0, speed=16.0, tokens=2).measurements, tokens_per_second=None, gaps=())
    ),
    "estimated": without_speed(measurements=replace(probe("t", 0, speed=16.0).measurements, token_count_exact=False)),
    "right-beside": canaries(AnswerCheck("short", "right"), AnswerCheck("deep", "right")),
    "right-alone": canaries(AnswerCheck("short", "right"), AnswerCheck("deep", "right"), alone=True),
    "undecided": canaries(AnswerCheck("short", "undecided", "it says neither"), alone=True),
    "parallel-beside": together(alone=False),
    "measured": together(alone=True),
    "slower-since-a-change": changed(12.1, 6.4, ("image", "rocm/vllm:rocm6.4_vllm_0.9.2", INFO.image)),
    "slower-unexplained": changed(15.6, 13.4, None),
    "faster-since-a-change": changed(11.2, 16.2, ("backend version", "0.10.1", "0.11.2")),
    "changed-just-now": changed(16.2, 16.2, ("kernel", "6.17.9-300.fc43", "6.18.4-200.fc43"), ago=90),
    "heat": fast(6.4, gpus=(HALO,)),
    "on-the-cpu": fast(2.1, settings=(("compute", "cpu"),)),
    "offload": fast(6.4, settings=(("compute", "rocm"), ("cpu_offload", "24 of 48 layers"))),
    "aiter": fast(11.2, settings=(("aiter", "no_effect"),)),
    "unread": fast(6.4, unknown=("how it was started: /proc of another user is hidden",)),
    "own-layer": downloads,
    "degenerate": canaries(
        AnswerCheck("short", "right"), AnswerCheck("deep", "degenerate", ERRORS["degenerate"]), result="degenerate"
    ),
    "wrong": canaries(AnswerCheck("short", "wrong", ERRORS["wrong_answer"]), result="wrong_answer"),
    "foreign": canaries(AnswerCheck("short", "foreign", ERRORS["foreign_answer"]), result="foreign_answer"),
    "busy": skipped("skipped_busy", requests_running=37.0, requests_waiting=4.0, generated_tokens_per_second=1412.0),
    "unloaded": skipped("skipped_unloaded", f"{QWEN} is not in memory, and a probe would load it"),
    "unable": skipped("skipped_unable"),
    "yielded": skipped("yielded"),
    **{
        f"fails-{result.replace('_', '-')}": failing(result)
        for result in RESULTS
        if result not in {"ok", *SKIPPED, *NOT_AN_ANSWER}
    },
    LONG_NAME: long_texts,
}
"""By name, which is the target's."""


def publish_states(snapshot: Snapshot, names: Iterable[str] = STATES) -> Snapshot:
    """A server in each of these states, on the machine of the other scenes, whose GPU is hot for the state ``heat``."""
    wanted = tuple(names)
    add_host(snapshot)
    for name in wanted:
        STATES[name](snapshot, name)
    if "heat" in wanted:
        hot = GpuSample(HALO, temperatures=(("edge", 97.0),), throttling=(("thermal", 0.4),), power_watts=80.0)
        snapshot.publish(GPU_SENSORS, (hot,))
    return snapshot


def publish_sick_machine(snapshot: Snapshot) -> Snapshot:
    """A machine set up by old guides with a slow server, so that everything that is said of a machine is said."""
    add_host(snapshot)
    card = "0000:03:00.0"
    gpus = (
        GpuFacts(HALO, "Radeon 8060S", "gfx1151", 40, unified_memory=True, memory_pool_bytes=8 * 1024**3),
        GpuFacts(card, "Radeon RX 9070 XT", "gfx1201", 64, unified_memory=False, memory_pool_bytes=16 * 1024**3),
    )
    snapshot.publish(GPU, GpuReading(gpus))
    snapshot.publish(GPU_SENSORS, ())
    snapshot.publish(ROCM, RocmFacts(driver=DriverFacts("6.17.9", "in-tree"), kfd_present=True))
    machine = MachineFacts(
        "6.17.9-300.fc43.x86_64",
        (("amd_iommu", "pt"), ("amdgpu.gttsize", "126976")),
        PowerProfile("low-power", "powersave", "amd-pstate", None, "throughput-performance"),
        "3.04",
        memory_bytes=128 * 1024**3,
        gpus=(
            GpuSettings(HALO, (("mes", "0x83"),), performance_level="low"),
            GpuSettings(card, performance_level="auto", power_cap_watts=120.0, power_cap_default_watts=304.0),
        ),
    )
    snapshot.publish(MACHINE, machine)
    fast(6.4, gpus=(HALO,), weight_bytes=29.54e9)(snapshot, "vllm")
    return snapshot
