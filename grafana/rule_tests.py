"""Unit tests of the alerts for ``promtool test rules``: a healthy world, and what changes in it.

Each case changes some series of the healthy world and says which alerts fire at which time, and that nothing else does.
The numbers are made up.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote_plus

import yaml

from grafana.advice import remedy_of
from grafana.alerts import ALERTS, BOUND, Alert
from grafana.promql import milliseconds
from grafana.rules import HEADER, SERVICE, RuleSettings, runbook_of

HOST: Final = 'job="llm-probe-exporter",instance="box:9937"'
SERVER: Final = HOST + ',target="vllm"'
PROBE: Final = SERVER + ',module="default"'
MODEL: Final = PROBE + ',model="qwen"'
CACHE: Final = HOST + ',cache="huggingface"'
DISK: Final = HOST + ',mountpoint="/models"'

UP: Final = f"up{{{HOST}}}"
SPEED: Final = f"llm_probe_tokens_per_second{{{MODEL}}}"
TTFT: Final = f"llm_probe_ttft_seconds{{{MODEL}}}"
SLOWER: Final = f'llm_slowdown_speed_ratio{{{PROBE},phase="decode",cause="change",what="image",before="vllm:0.11",after="vllm:0.12"}}'
UNEXPLAINED: Final = f'llm_slowdown_speed_ratio{{{PROBE},phase="decode",cause="unexplained",what="GPU temperature",before="62 °C",after="84 °C"}}'
SUCCESS: Final = f"llm_probe_success{{{PROBE}}}"
INTERVAL: Final = f"llm_probe_interval_seconds{{{PROBE}}}"
LAST_RUN: Final = f"llm_probe_last_run_timestamp_seconds{{{PROBE}}}"
CLOCK: Final = f"llm_probe_clock_error_seconds{{{PROBE}}}"
DECODE: Final = f'llm_probe_phase_seconds{{{PROBE},phase="decode"}}'
COLD: Final = f"llm_probe_cold_start{{{PROBE}}}"
REPEATED: Final = f'llm_answer_fault_info{{{PROBE},fault="repeated_character"}}'
RESERVED: Final = f'llm_answer_fault_info{{{PROBE},fault="reserved_tokens"}}'
NOT_RECALLED: Final = f'llm_answer_fault_info{{{PROBE},fault="fact_not_recalled"}}'
FINGERPRINT: Final = f"llm_answer_fingerprint_distance{{{PROBE}}}"
BUFFERED: Final = f"llm_probe_stream_buffered{{{PROBE}}}"
EXACT: Final = f"llm_probe_token_count_exact{{{PROBE}}}"
CONCURRENCY: Final = f"llm_probe_concurrency{{{PROBE}}}"
TARGET_UP: Final = f"llm_target_up{{{SERVER}}}"
LOADING: Final = f"llm_target_loading{{{SERVER}}}"
RUNNING: Final = f"llm_server_requests_running{{{SERVER}}}"
USERS_GET: Final = f"llm_server_user_tokens_per_second{{{SERVER}}}"
STUCK: Final = f"llm_target_stuck{{{SERVER}}}"
EXPECTED: Final = f'llm_expected_tokens_per_second{{{PROBE},bound="min",scenario="vllm-fp16-aiter",source="faq"}}'
RELOAD: Final = f"llm_probe_exporter_config_last_reload_successful{{{HOST}}}"
COLLECTOR: Final = f'llm_probe_exporter_collector_success{{{HOST},collector="cache"}}'
DELAY: Final = f"llm_probe_exporter_schedule_delay_seconds{{{HOST}}}"
FREE: Final = f"llm_model_cache_filesystem_free_bytes{{{DISK}}}"
SIZE: Final = f"llm_model_cache_filesystem_size_bytes{{{DISK}}}"
INCOMPLETE: Final = f"llm_model_cache_incomplete_bytes{{{CACHE}}}"
SHARED: Final = f'llm_model_cache_shared{{{CACHE},container="vllm"}}'
ROCM: Final = f'rocm_version_supported{{{HOST},scope="host",container=""}}'
THROTTLED: Final = f'amdgpu_throttled{{{HOST},gpu="0000:c5:00.0",reason="thermal"}}'
POWER_LIMITED: Final = f'amdgpu_throttled{{{HOST},gpu="0000:c5:00.0",reason="power"}}'
CEILING: Final = f"llm_decode_ceiling_tokens_per_second{{{PROBE}}}"
LIMITED: Final = f'llm_limit_info{{{PROBE},limit="unknown"}}'


def total(result: str) -> str:
    return f'llm_probes_total{{{PROBE},result="{result}"}}'


def bound(tier: str) -> str:
    return f'{BOUND}{{{PROBE},tier="{tier}"}}'


HEALTHY: Final[Mapping[str, str]] = {
    UP: "1",
    SPEED: "24",
    TTFT: "0.4",
    SUCCESS: "1",
    INTERVAL: "60",
    LAST_RUN: "up",
    CLOCK: "0.001",
    DECODE: "2.6",
    COLD: "0",
    BUFFERED: "0",
    CONCURRENCY: "1",
    TARGET_UP: "1",
    LOADING: "0",
    RUNNING: "0",
    USERS_GET: "18",
    STUCK: "0",
    EXPECTED: "12",
    total("ok"): "count",
    total("timeout_total"): "0",
    total("auth"): "0",
    total("degenerate"): "0",
    total("wrong_answer"): "0",
    FINGERPRINT: "0.8",
    total("loading"): "0",
    total("skipped_busy"): "0",
    bound("excellent"): "20",
    bound("good"): "15",
    bound("acceptable"): "10",
    RELOAD: "1",
    COLLECTOR: "1",
    DELAY: "0.01",
    FREE: "400e9",
    SIZE: "1000e9",
    INCOMPLETE: "0",
    SHARED: "1",
    ROCM: "1",
    THROTTLED: "0",
    POWER_LIMITED: "1",
    CEILING: "30",
    LIMITED: "1",
}


@dataclass(frozen=True, slots=True)
class RuleCase:
    """What changes in the healthy world, and what fires when.

    A series' value is one number, or pieces ``value@minutes`` from which on it holds. ``up`` rises with time, ``count`` with
    each probe; ``gone`` is a stale marker, ``flat`` stands still. ``when`` maps a time to the alerts that fire then, one that fires
    twice by two names.
    """

    alert: str
    says: str
    change: Mapping[str, str | None]
    when: Mapping[str, tuple[str, ...]]
    pending: Mapping[str, bool] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    minutes: int = 120
    step: int = 1


_HOST_L: Final = {"job": "llm-probe-exporter", "instance": "box:9937"}
_SERVER_L: Final = _HOST_L | {"target": "vllm"}
_PROBE_L: Final = _SERVER_L | {"module": "default"}
_MODEL_L: Final = _PROBE_L | {"model": "qwen"}
_ONE_L: Final = _SERVER_L | {"model": "qwen"}
_DAY: Final = 24 * 60


def _edge(name: str, start: str) -> dict[str, Any]:
    """Pending one evaluation before ``for`` has passed since ``start``, firing when it has."""
    hold = milliseconds(next(alert.hold for alert in ALERTS if alert.name == name))
    fires = milliseconds(start) + hold
    before = f"{fires // 60_000 - 1}m"
    after = f"{fires // 60_000}m"
    return {"when": {before: (), after: (name,)}, "pending": {before: True}}


def _missing(name: str, series: str, **other: str | None) -> RuleCase:
    """Without the series that the alert reads, it is silent: absence is not a fault of the server."""
    hold = next(alert.hold for alert in ALERTS if alert.name == name)
    end = f"{milliseconds(hold) // 60_000 + 20}m"
    return RuleCase(name, "is silent without its data", {series: None, **other}, {end: ()})


def _each_other_minute(first: int) -> str:
    """A series that is there at each second scrape from a minute on, for twenty minutes."""
    pieces = (f"1@{minute} gone@{minute + 1}" for minute in range(first, first + 20, 2))
    return " ".join(("gone", *pieces))


_SLOW: Final = {SPEED: "6.4", EXPECTED: "5"}
_NONSENSE: Final = {SUCCESS: "1 0@30", SPEED: "24 gone@30", TTFT: "0.4 gone@30", total("degenerate"): "0 count@30"}
# What a second module of the same server needs to count.
_SECOND: Final = {
    each.replace("default", "prefill"): HEALTHY[each]
    for each in (INTERVAL, total("ok"), CONCURRENCY, bound("acceptable"), LAST_RUN)
}
CASES: Final[tuple[RuleCase, ...]] = (
    RuleCase("", "a healthy world is silent", {}, {"1m": (), "60m": (), "200m": ()}, minutes=200),
    # LLMThroughputPoor: 24 falls to 6.4 at 30 minutes; the median of eleven samples turns five minutes later.
    RuleCase(
        "LLMThroughputPoor",
        "fires when the speed falls from 24 to 6.4, at the edge of its for",
        {SPEED: "24 6.4@30", EXPECTED: "5"},
        **_edge("LLMThroughputPoor", "35m"),
        labels=_ONE_L,
        description=(
            "vllm on box:9937 decodes 6.4 tokens per second with qwen (median of the last probes). That is below the tier "
            "acceptable, and its memory's bandwidth is not known to be the limit. What limits it: unknown. "
            "The memory allows at most 30.0 tokens per second with this model."
        ),
    ),
    RuleCase("LLMThroughputPoor", "is silent at exactly 10", {SPEED: "10.0", EXPECTED: "5"}, {"60m": ()}),
    RuleCase(
        "LLMThroughputPoor", "fires just below 10", {SPEED: "9.99", EXPECTED: "5"}, {"60m": ("LLMThroughputPoor",)}
    ),
    RuleCase(
        "LLMThroughputPoor",
        "resolves after the speed has come back, held for a while",
        {SPEED: "6.4 24@60", EXPECTED: "5"},
        {"64m": ("LLMThroughputPoor",), "69m": ("LLMThroughputPoor",), "71m": ()},
    ),
    RuleCase(
        "LLMThroughputPoor",
        "forgives one slow probe in ten",
        {SPEED: "24 6.4@30 24@34", EXPECTED: "5"},
        {"40m": (), "45m": ()},
    ),
    RuleCase(
        "LLMThroughputPoor",
        "forgets the speed of a server that is busy: its gauge stays, no probe succeeds",
        {SPEED: "6.4", EXPECTED: "5", total("ok"): "count flat@5", total("skipped_busy"): "0 count@5"},
        {"20m": (), "35m": ()},
    ),
    RuleCase(
        "LLMThroughputPoor", "is silent while users keep the server busy", {SPEED: "6.4", RUNNING: "3"}, {"60m": ()}
    ),
    RuleCase("LLMThroughputPoor", "is silent after a cold start", {SPEED: "6.4", COLD: "1"}, {"60m": ()}),
    RuleCase("LLMThroughputPoor", "is silent for concurrent streams", {SPEED: "6.4", CONCURRENCY: "4"}, {"60m": ()}),
    RuleCase("LLMThroughputPoor", "is silent where the tokens are estimated", {SPEED: "6.4", EXACT: "0"}, {"60m": ()}),
    RuleCase(
        "LLMThroughputPoor",
        "does not let one failed probe start its clock again",
        {SPEED: "24 6.4@30 gone@37 6.4@38", EXPECTED: "5"},
        {"41m": ("LLMThroughputPoor",)},
    ),
    RuleCase(
        "LLMThroughputPoor",
        "fires a little later when the budget stretches the interval of the slow probes",
        {SPEED: "24 6.4@30", EXPECTED: "5", INTERVAL: "60 240@33", total("ok"): "count quarter@33"},
        {"44m": (), "46m": ("LLMThroughputPoor",)},
    ),
    RuleCase(
        "LLMThroughputPoor",
        "sees a module that runs every ten minutes",
        {SPEED: "6.4", EXPECTED: "5", INTERVAL: "600", total("ok"): "slow"},
        {"50m": ("LLMThroughputPoor",)},
    ),
    RuleCase(
        "LLMThroughputPoor", "obeys another bound", {SPEED: "6.4", EXPECTED: "5", bound("acceptable"): "6"}, {"60m": ()}
    ),
    RuleCase(
        "LLMThroughputPoor",
        "stays with the model that is slow when the model is swapped",
        {SPEED: "6.4 gone@60", SPEED.replace("qwen", "gemma"): "gone 24@60", EXPECTED: "5"},
        {"59m": ("LLMThroughputPoor",), "70m": ()},
    ),
    _missing("LLMThroughputPoor", SPEED),
    _missing("LLMThroughputPoor", bound("acceptable"), **{SPEED: "6.4", EXPECTED: "5"}),
    RuleCase(
        "LLMThroughputPoor",
        "is one alert for a server, whatever number of its modules is slow",
        {**_SLOW, **_SECOND, SPEED.replace("default", "prefill"): "5"},
        {"60m": ("LLMThroughputPoor",)},
        labels=_ONE_L,
        description=(
            "vllm on box:9937 decodes 6.4 tokens per second with qwen (median of the last probes). That is below the tier "
            "acceptable, and its memory's bandwidth is not known to be the limit. What limits it: unknown. "
            "The memory allows at most 30.0 tokens per second with this model."
        ),
    ),
    RuleCase(
        "LLMThroughputPoor",
        "fires for a server that is far below a low ceiling, and says what the memory allows",
        {**_SLOW, CEILING: "9.15"},
        {"60m": ("LLMThroughputPoor",)},
        labels=_ONE_L,
        description=(
            "vllm on box:9937 decodes 6.4 tokens per second with qwen (median of the last probes). That is below the tier "
            "acceptable, and its memory's bandwidth is not known to be the limit. What limits it: unknown. "
            "The memory allows at most 9.2 tokens per second with this model."
        ),
    ),
    RuleCase(
        "LLMThroughputPoor",
        "fires below the bound where no ceiling is known",
        {**_SLOW, CEILING: None},
        {"60m": ("LLMThroughputPoor",)},
    ),
    # LLMThroughputAtCeiling: a 14B in BF16 at its best on 256 GB/s.
    RuleCase(
        "LLMThroughputAtCeiling",
        "stands in place of LLMThroughputPoor where the memory is the limit",
        {SPEED: "8.3", EXPECTED: "5.5", CEILING: "9.15"},
        {"20m": (), "60m": ("LLMThroughputAtCeiling",)},
        pending={"20m": True},
        labels=_ONE_L,
        description=(
            "vllm on box:9937 decodes at 90.71% of the most that its memory's bandwidth allows with qwen, and that is below the tier "
            "acceptable. A smaller or quantized model is faster: half the bytes for each token allow twice the speed. The ceiling "
            "is 9.2 tokens per second."
        ),
    ),
    RuleCase(
        "LLMThroughputAtCeiling",
        "is silent where the ceiling would allow an acceptable speed",
        {SPEED: "9", EXPECTED: "5.5", CEILING: "11"},
        {"60m": ("LLMThroughputPoor",)},
    ),
    RuleCase(
        "LLMThroughputAtCeiling",
        "is silent while users keep the server busy",
        {SPEED: "8.3", EXPECTED: "5.5", CEILING: "9.15", RUNNING: "3", USERS_GET: None},
        {"60m": ()},
    ),
    _missing("LLMThroughputAtCeiling", SPEED, **{CEILING: "9.15", USERS_GET: None}),
    RuleCase(
        "LLMThroughputAtCeiling",
        "goes by what users get where the server is always busy",
        {SPEED: "8.3", EXPECTED: "5.5", CEILING: "9.15", RUNNING: "3", USERS_GET: "8.2"},
        {"60m": ("LLMThroughputAtCeiling",)},
        labels=_SERVER_L,
        description=(
            "vllm on box:9937 decodes at 89.62% of the most that its memory's bandwidth allows, and that is below the tier "
            "acceptable. A smaller or quantized model is faster: half the bytes for each token allow twice the speed. The ceiling "
            "is 9.2 tokens per second."
        ),
    ),
    # LLMUsersThroughputPoor: the probe is fine or skipped, and what users get is not.
    RuleCase(
        "LLMUsersThroughputPoor",
        "fires when what users get falls from 18 to 6.4, at the edge of its for",
        {USERS_GET: "18 6.4@30", RUNNING: "6"},
        **_edge("LLMUsersThroughputPoor", "35m"),
        labels=_SERVER_L,
        description=(
            "vllm on box:9937 gives each of its users 6.4 tokens per second (median of ten minutes). That is below the tier acceptable. "
            "The last probe measured 24.0."
        ),
    ),
    RuleCase(
        "LLMUsersThroughputPoor",
        "fires on a server that is so busy that no probe ever ran",
        {
            USERS_GET: "6.4",
            RUNNING: "6",
            SPEED: None,
            TTFT: None,
            SUCCESS: None,
            total("ok"): "0",
            total("skipped_busy"): "count",
            LAST_RUN: None,
            CLOCK: None,
            DECODE: None,
            COLD: None,
            BUFFERED: None,
        },
        {"20m": ("LLMUsersThroughputPoor",)},
        labels=_SERVER_L,
    ),
    RuleCase("LLMUsersThroughputPoor", "is silent at exactly 10", {USERS_GET: "10.0"}, {"60m": ()}),
    RuleCase(
        "LLMUsersThroughputPoor", "fires just below 10", {USERS_GET: "9.99"}, {"60m": ("LLMUsersThroughputPoor",)}
    ),
    RuleCase(
        "LLMUsersThroughputPoor", "obeys another bound", {USERS_GET: "6.4", bound("acceptable"): "6"}, {"60m": ()}
    ),
    RuleCase(
        "LLMUsersThroughputPoor",
        "leaves it to LLMThroughputPoor where the idle server is too slow by itself",
        {**_SLOW, USERS_GET: "6"},
        {"60m": ("LLMThroughputPoor",)},
        labels=_ONE_L,
    ),
    RuleCase(
        "LLMUsersThroughputPoor",
        "is silent where the memory is the limit of what users get",
        {USERS_GET: "8.2", RUNNING: "3", CEILING: "9.15"},
        {"20m": ()},
    ),
    RuleCase("LLMUsersThroughputPoor", "forgets users who have left", {USERS_GET: "6.4 gone@2"}, {"8m": (), "60m": ()}),
    RuleCase(
        "LLMUsersThroughputPoor",
        "resolves after users get more, held for a while",
        {USERS_GET: "6.4 18@60"},
        {"64m": ("LLMUsersThroughputPoor",), "71m": ()},
    ),
    _missing("LLMUsersThroughputPoor", USERS_GET),
    _missing("LLMUsersThroughputPoor", bound("acceptable"), **{USERS_GET: "6.4"}),
    # LLMThroughputBelowExpected
    RuleCase(
        "LLMThroughputBelowExpected",
        "fires below the scenario's band, at the edge of its for",
        {SPEED: "24 11@30"},
        **_edge("LLMThroughputBelowExpected", "35m"),
        labels=_ONE_L | {"scenario": "vllm-fp16-aiter"},
        description=(
            "vllm on box:9937 decodes 11.0 tokens per second with qwen, which is less than its setup should reach "
            "(scenario vllm-fp16-aiter)."
        ),
    ),
    RuleCase("LLMThroughputBelowExpected", "is silent at exactly the band's bound", {SPEED: "12"}, {"90m": ()}),
    _missing("LLMThroughputBelowExpected", EXPECTED, **{SPEED: "11"}),
    # LLMSlowerSinceChange, LLMSlowerUnexplained: the exporter compares; there is no such series while nothing is slower.
    RuleCase(
        "LLMSlowerSinceChange",
        "fires with what changed and clears when the speed is back or accepted",
        {SLOWER: "gone 0.53@30 gone@60"},
        {"32m": ("LLMSlowerSinceChange",), "70m": (), "55m": ("LLMSlowerSinceChange",)},
        labels=_PROBE_L
        | {"phase": "decode", "cause": "change", "what": "image", "before": "vllm:0.11", "after": "vllm:0.12"},
        description=(
            "The default probe of vllm on box:9937 measures 53% of the decode speed from before a change: image changed from "
            "vllm:0.11 to vllm:0.12."
        ),
    ),
    RuleCase("LLMSlowerSinceChange", "is silent without its data", {SPEED: "24 22@30"}, {"60m": ()}),
    RuleCase(
        "LLMSlowerUnexplained",
        "fires for a step that nothing explains and clears with it",
        {UNEXPLAINED: "gone 0.85@30 gone@60"},
        {"32m": ("LLMSlowerUnexplained",), "70m": (), "55m": ("LLMSlowerUnexplained",)},
        labels=_PROBE_L
        | {"phase": "decode", "cause": "unexplained", "what": "GPU temperature", "before": "62 °C", "after": "84 °C"},
        description=(
            "The default probe of vllm on box:9937 measures 85% of the decode speed from before. Nothing that is watched changed. "
            "At that time: GPU temperature from 62 °C to 84 °C."
        ),
    ),
    RuleCase("LLMSlowerUnexplained", "is silent without its data", {SPEED: "24 22@30"}, {"60m": ()}),
    # LLMTTFTRegressed
    RuleCase(
        "LLMTTFTRegressed",
        "fires at three times the past",
        {TTFT: "0.4 1.2@2500"},
        {"2555m": (), "2565m": ("LLMTTFTRegressed",)},
        pending={"2555m": True},
        labels=_MODEL_L,
        description="vllm on box:9937 takes 3.0 times its median of seven days to the first token with qwen (default probe).",
        minutes=2600,
        step=5,
    ),
    RuleCase(
        "LLMTTFTRegressed",
        "is silent below half a second",
        {TTFT: "0.04 0.4@1000"},
        {"1150m": ()},
        minutes=1200,
        step=5,
    ),
    RuleCase(
        "LLMTTFTRegressed",
        "is silent after a model load",
        {TTFT: "0.4 40@600", COLD: "0 1@600"},
        {"700m": ()},
        minutes=700,
        step=5,
    ),
    _missing("LLMTTFTRegressed", TTFT),
    # LLMAnswersDegenerate: the first one is counted at 31 minutes.
    RuleCase(
        "LLMAnswersDegenerate",
        "fires when the answers become nonsense, at the edge of its for, and LLMProbeFailing does not",
        _NONSENSE | {REPEATED: "gone 1@30"},
        **_edge("LLMAnswersDegenerate", "30m"),
        labels=_PROBE_L | {"fault": "repeated_character"},
        description=(
            "Answers to the default probe of vllm on box:9937 are nonsense or belong to another request, however fast they come: "
            "repeated_character. The status page and /api/v1/probes say what repeats."
        ),
    ),
    RuleCase(
        "LLMAnswersDegenerate",
        "fires once for each fault of a server whose nonsense changes with each probe",
        _NONSENSE | {REPEATED: _each_other_minute(30), RESERVED: _each_other_minute(31)},
        {"31m": (), "32m": ("LLMAnswersDegenerate",), "33m": ("LLMAnswersDegenerate", "LLMAnswersDegenerate")},
    ),
    RuleCase(
        "LLMAnswersDegenerate",
        "fires where the fault is not known: an exporter that is older than these rules",
        _NONSENSE,
        **_edge("LLMAnswersDegenerate", "30m"),
        labels=_PROBE_L | {"fault": "unknown"},
        description=(
            "Answers to the default probe of vllm on box:9937 are nonsense or belong to another request, however fast they come: "
            "unknown. The status page and /api/v1/probes say what repeats."
        ),
    ),
    RuleCase(
        "LLMAnswersDegenerate",
        "does not name the fault of an answer that is merely wrong",
        _NONSENSE | {REPEATED: "gone 1@30", NOT_RECALLED: "gone 1@30"},
        {"40m": ("LLMAnswersDegenerate",)},
    ),
    RuleCase(
        "LLMAnswersDegenerate",
        "forgives two of them between good ones",
        {total("degenerate"): "0 count@30 flat@32", SUCCESS: "1 0@30 1@31"},
        {"35m": (), "40m": ()},
    ),
    RuleCase(
        "LLMAnswersDegenerate",
        "sees nonsense that comes now and then",
        {total("degenerate"): "0 half@30"},
        {"60m": ("LLMAnswersDegenerate",)},
    ),
    _missing("LLMAnswersDegenerate", total("degenerate"), **{SUCCESS: "0"}),
    # LLMAnswersWrong: the second one is counted at 31 minutes.
    RuleCase(
        "LLMAnswersWrong",
        "fires after two wrong answers, at the edge of its for",
        {
            SUCCESS: "1 0@30",
            SPEED: "24 gone@30",
            TTFT: "0.4 gone@30",
            total("wrong_answer"): "0 count@30",
            NOT_RECALLED: "gone 1@30",
        },
        **_edge("LLMAnswersWrong", "31m"),
        labels=_PROBE_L | {"fault": "fact_not_recalled"},
        description=(
            "The last two answers to the default probe of vllm on box:9937 were wrong, though the server answers as fast as ever: "
            "fact_not_recalled. The status page says which."
        ),
    ),
    RuleCase(
        "LLMAnswersWrong",
        "forgives one wrong answer",
        {total("wrong_answer"): "0 count@30 flat@31", SUCCESS: "1 0@30 1@31"},
        {"35m": (), "40m": ()},
    ),
    RuleCase(
        "LLMAnswersWrong",
        "sees a canary that runs every ten minutes",
        {INTERVAL: "600", total("ok"): "slow flat@30", total("wrong_answer"): "0 slow@30", SUCCESS: "1 0@30"},
        {"35m": (), "65m": ("LLMAnswersWrong",)},
    ),
    _missing("LLMAnswersWrong", total("wrong_answer"), **{SUCCESS: "0"}),
    # LLMModelChangedSilently
    RuleCase(
        "LLMModelChangedSilently",
        "fires when the distance is above 6",
        {FINGERPRINT: "0.8 11.6@30"},
        {"29m": (), "30m": ("LLMModelChangedSilently",)},
        labels=_PROBE_L,
        description=(
            "The first-token log-probabilities of vllm on box:9937 are 12 times their noise away from what they were: its answers "
            "changed, though its name did not."
        ),
    ),
    RuleCase("LLMModelChangedSilently", "is silent at exactly 6", {FINGERPRINT: "6"}, {"60m": ()}),
    _missing("LLMModelChangedSilently", FINGERPRINT),
    # LLMProbeFailing: the third failure comes at 32 minutes.
    RuleCase(
        "LLMProbeFailing",
        "fires after three failures, at the edge of its for",
        {
            SUCCESS: "1 0@30",
            SPEED: "24 gone@30",
            TTFT: "0.4 gone@30",
            total("ok"): "count flat@30",
            total("timeout_total"): "0 count@30",
        },
        **_edge("LLMProbeFailing", "32m"),
        labels=_PROBE_L,
        description=(
            "The default probe of vllm on box:9937 failed 3 times lately and the newest one failed too, although the server "
            "answers its health check."
        ).replace("failed 3", "failed 5"),
    ),
    RuleCase(
        "LLMProbeFailing",
        "forgives two failures",
        {total("timeout_total"): "0 count@30 flat@32", SUCCESS: "1 0@30 1@32"},
        {"35m": (), "40m": ()},
    ),
    RuleCase(
        "LLMProbeFailing", "does not take loading for failure", {SUCCESS: "0", total("loading"): "count"}, {"60m": ()}
    ),
    RuleCase("LLMProbeFailing", "does not take a skip for failure", {total("skipped_busy"): "count"}, {"60m": ()}),
    _missing("LLMProbeFailing", total("timeout_total"), **{SUCCESS: "0"}),
    # LLMProbeMisconfigured
    RuleCase(
        "LLMProbeMisconfigured",
        "fires when the key is refused, and LLMProbeFailing does not",
        {SUCCESS: "1 0@30", total("auth"): "0 count@30"},
        **_edge("LLMProbeMisconfigured", "32m"),
        labels=_PROBE_L,
        description=(
            "The default probe of vllm on box:9937 was refused 8 times lately: a wrong key, a model that is not served, or a "
            "request that the server does not accept."
        ),
    ),
    _missing("LLMProbeMisconfigured", total("auth"), **{SUCCESS: "0"}),
    # LLMTargetDown
    RuleCase(
        "LLMTargetDown",
        "fires when the health check fails, at the edge of its for",
        {TARGET_UP: "1 0@30", SUCCESS: "1 0@30"},
        **_edge("LLMTargetDown", "30m"),
        labels=_SERVER_L,
        description="vllm on box:9937 does not answer its health check and does not say that it is loading a model.",
    ),
    RuleCase(
        "LLMTargetDown",
        "is alone when the server was killed: failing probes are its consequence",
        {TARGET_UP: "1 0@30", SUCCESS: "1 0@30", total("ok"): "count flat@30", total("timeout_total"): "0 count@30"},
        {"60m": ("LLMTargetDown",)},
    ),
    RuleCase(
        "LLMTargetDown",
        "is silent while the server loads its model",
        {TARGET_UP: "1 0@30", LOADING: "0 1@30", SUCCESS: "1 0@30"},
        {"36m": (), "59m": ()},
    ),
    RuleCase("LLMTargetDown", "forgives a restart", {TARGET_UP: "1 0@30 1@34"}, {"34m": (), "40m": ()}),
    _missing("LLMTargetDown", TARGET_UP),
    RuleCase(
        "LLMTargetDown",
        "is silent while a server starts for fifteen minutes, and fires when it never comes",
        {TARGET_UP: "1 0@20", LOADING: "0 1@20 0@40"},
        {"39m": (), "44m": (), "46m": ("LLMTargetDown",)},
        pending={"44m": True},
    ),
    # LLMServerStuck
    RuleCase(
        "LLMServerStuck",
        "fires as soon as the exporter says that a server hangs, and clears with it",
        {STUCK: "0 1@30 0@60", RUNNING: "2", USERS_GET: None},
        {"29m": (), "64m": (), "30m": ("LLMServerStuck",)},
        labels=_SERVER_L,
        description=(
            "vllm on box:9937 has had requests for four minutes and has done no work on them, though it answers its health check."
        ),
    ),
    RuleCase(
        "LLMServerStuck",
        "leaves it to LLMTargetDown where the server does not even answer",
        {STUCK: "1", TARGET_UP: "0"},
        {"60m": ("LLMTargetDown",)},
    ),
    _missing("LLMServerStuck", STUCK, **{RUNNING: "2"}),
    # LLMTargetLoadingLong
    RuleCase(
        "LLMTargetLoadingLong",
        "fires after half an hour of loading",
        {TARGET_UP: "0", LOADING: "0 1@30"},
        {"29m": ("LLMTargetDown",), "59m": (), "60m": ("LLMTargetLoadingLong",)},
        pending={"59m": True},
        labels=_SERVER_L,
        description="vllm on box:9937 has been loading its model or starting for half an hour.",
    ),
    _missing("LLMTargetLoadingLong", LOADING),
    # LLMProbeStale: the last run was at 29 minutes, so its age is above three intervals from 33 minutes on.
    RuleCase(
        "LLMProbeStale",
        "fires when the module stops running, at the edge of its for",
        {LAST_RUN: "up flat@30", total("ok"): "count flat@30"},
        **_edge("LLMProbeStale", "33m"),
        labels=_PROBE_L,
        description="The default probe of vllm on box:9937 last ran 9 intervals ago.",
    ),
    RuleCase(
        "LLMProbeStale",
        "is silent while probes are skipped on purpose",
        {LAST_RUN: "up flat@30", total("ok"): "count flat@30", total("skipped_busy"): "0 count@30"},
        {"50m": ()},
    ),
    _missing("LLMProbeStale", LAST_RUN),
    # LLMNeverProbed
    RuleCase(
        "LLMNeverProbed",
        "fires when no probe was ever tried, at the edge of its for",
        {SPEED: None, TTFT: None, SUCCESS: None, LAST_RUN: None, total("ok"): "0"},
        **_edge("LLMNeverProbed", "0m"),
        labels=_PROBE_L,
        description="The default probe of vllm on box:9937 has not been tried once since the exporter started.",
    ),
    RuleCase(
        "LLMNeverProbed",
        "waits for a module that runs every few hours",
        {SPEED: None, TTFT: None, SUCCESS: None, LAST_RUN: None, INTERVAL: "14400", total("ok"): "0"},
        {"60m": ()},
    ),
    _missing("LLMNeverProbed", INTERVAL),
    # LLMProbeStarved: the last success leaves the hour at 89 minutes.
    RuleCase(
        "LLMProbeStarved",
        "fires after an hour of nothing but skips",
        {total("ok"): "count flat@30", total("skipped_busy"): "0 count@30", LAST_RUN: "up flat@30"},
        {"118m": (), "119m": ("LLMProbeStarved",)},
        pending={"118m": True},
        labels=_PROBE_L,
        description=(
            "The default probe of vllm on box:9937 was skipped 60 times in an hour because users kept the server busy, and never "
            "succeeded."
        ),
        minutes=130,
    ),
    _missing("LLMProbeStarved", total("skipped_busy")),
    # The exporter itself
    RuleCase(
        "LLMProbeExporterDown",
        "fires when the scrape fails, and everything else falls silent",
        {series: f"{value} gone@30" for series, value in HEALTHY.items()} | {UP: "1 0@30"},
        **_edge("LLMProbeExporterDown", "30m"),
        labels=_HOST_L,
        description="Prometheus cannot scrape the exporter box:9937: nothing is known of its servers.",
    ),
    RuleCase(
        "LLMProbeExporterAbsent",
        "fires when the job is gone from Prometheus, at the edge of its for",
        {UP: "1 gone@30"},
        **_edge("LLMProbeExporterAbsent", "30m"),
        labels={"job": "llm-probe-exporter"},
        description="Prometheus has no target in the job llm-probe-exporter: LLM servers are not watched at all.",
    ),
    RuleCase(
        "LLMProbeConfigReloadFailed",
        "fires when a reload was rejected; five minutes of success must leave the window first",
        {RELOAD: "1 0@30"},
        {"39m": (), "40m": ("LLMProbeConfigReloadFailed",)},
        pending={"39m": True},
        labels=_HOST_L,
        description="The exporter box:9937 could not reload its configuration; the previous one stays in use.",
    ),
    _missing("LLMProbeConfigReloadFailed", RELOAD),
    RuleCase(
        "LLMProbeCollectorFailing",
        "fires when a collector has failed for half an hour in all",
        {COLLECTOR: "1 0@30"},
        {"59m": (), "60m": ("LLMProbeCollectorFailing",)},
        pending={"59m": True},
        labels=_HOST_L | {"collector": "cache"},
        description="The collector cache of box:9937 has been failing.",
    ),
    RuleCase(
        "LLMProbeCollectorFailing",
        "forgives a collector that works now and then",
        {COLLECTOR: "0 1@20 0@21 1@34 0@35"},
        {"48m": ()},
    ),
    _missing("LLMProbeCollectorFailing", COLLECTOR),
    RuleCase(
        "LLMProbeMeasurementDegraded",
        "fires at 20 % error, and the speed alerts fall silent",
        {CLOCK: "0.001 0.52@30", SPEED: "24 6.4@30"},
        **_edge("LLMProbeMeasurementDegraded", "35m"),
        labels=_PROBE_L,
        description=(
            "The measurement error of the default probe of vllm on box:9937 is 20% of its decode time. Speed alerts of this "
            "probe are silent."
        ),
    ),
    RuleCase(
        "LLMProbeMeasurementDegraded",
        "does not let one late reading silence the others",
        {CLOCK: "0.001 0.9@36 0.001@38", SPEED: "24 6.4@30", EXPECTED: "5"},
        {"40m": ("LLMThroughputPoor",)},
    ),
    RuleCase("LLMProbeMeasurementDegraded", "is silent at 9 % error", {CLOCK: "0.234"}, {"60m": ()}),
    _missing("LLMProbeMeasurementDegraded", CLOCK),
    RuleCase(
        "LLMProbeStreamBuffered",
        "fires when the answer comes in a burst, at the edge of its for",
        {BUFFERED: "0 1@30", SPEED: "24 gone@30"},
        **_edge("LLMProbeStreamBuffered", "30m"),
        labels=_PROBE_L,
        description="The answer to the default probe of vllm on box:9937 arrives in a burst: its decode speed cannot be measured.",
    ),
    _missing("LLMProbeStreamBuffered", BUFFERED),
    RuleCase(
        "LLMProbeScheduleLate",
        "fires when every job of ten minutes was late",
        {DELAY: "0.01 45@30"},
        {"54m": (), "55m": ("LLMProbeScheduleLate",)},
        pending={"54m": True},
        labels=_HOST_L,
        description="The exporter box:9937 started its last job 45 seconds late.",
    ),
    _missing("LLMProbeScheduleLate", DELAY),
    # Model cache
    RuleCase(
        "LLMModelCacheDiskFilling",
        "fires when the trend of six hours ends within a day and little is left",
        {FREE: "300e9-0.5e9"},
        {"300m": (), "400m": ("LLMModelCacheDiskFilling",)},
        labels=_HOST_L | {"mountpoint": "/models"},
        description="The file system /models on box:9937 has 10% left and, at the pace of the last six hours, is full within a day.",
        minutes=400,
    ),
    RuleCase(
        "LLMModelCacheDiskFilling",
        "does not take one large download for a trend",
        {FREE: "700e9 300e9@60"},
        {"120m": (), "180m": ()},
        minutes=180,
    ),
    RuleCase(
        "LLMModelCacheDiskFilling",
        "is silent on a small disk that stands still",
        {FREE: "100e9"},
        {"180m": ()},
        minutes=180,
    ),
    _missing("LLMModelCacheDiskFilling", FREE),
    RuleCase(
        "LLMModelCacheDiskFull",
        "fires below 3 %, at the edge of its for",
        {FREE: "400e9 20e9@30"},
        **_edge("LLMModelCacheDiskFull", "30m"),
        labels=_HOST_L | {"mountpoint": "/models"},
        description="The file system /models on box:9937 has 2% left.",
    ),
    RuleCase("LLMModelCacheDiskFull", "is silent at exactly 3 %", {FREE: "30e9"}, {"60m": ()}),
    _missing("LLMModelCacheDiskFull", SIZE),
    RuleCase(
        "LLMModelDownloadStuck",
        "fires when incomplete bytes stand still for two hours",
        {INCOMPLETE: "0 4294967296@30"},
        {"179m": (), "180m": ("LLMModelDownloadStuck",)},
        pending={"179m": True},
        labels=_HOST_L | {"cache": "huggingface"},
        description="4.295GB of incomplete downloads in the huggingface cache on box:9937 have not changed for more than two hours.",
        minutes=200,
    ),
    RuleCase(
        "LLMModelDownloadStuck",
        "is silent while the download grows",
        {INCOMPLETE: "1e9+1e6"},
        {"200m": ()},
        minutes=200,
    ),
    _missing("LLMModelDownloadStuck", INCOMPLETE),
    RuleCase(
        "LLMModelCacheNotShared",
        "fires after an hour, at its edge",
        {SHARED: "1 0@30"},
        **_edge("LLMModelCacheNotShared", "30m"),
        labels=_HOST_L | {"cache": "huggingface", "container": "vllm"},
        description=(
            "The container vllm on box:9937 does not mount the host's huggingface model cache: it downloads models again."
        ),
    ),
    _missing("LLMModelCacheNotShared", SHARED),
    # Host
    RuleCase(
        "LLMRocmBelowMinimum",
        "fires when the host's ROCm is too old, at the edge of its for",
        {ROCM: "1 0@30"},
        **_edge("LLMRocmBelowMinimum", "30m"),
        labels=_HOST_L | {"scope": "host"},
        description="ROCm of the host  on box:9937 is below the configured minimum.",
    ),
    _missing("LLMRocmBelowMinimum", ROCM),
    RuleCase(
        "LLMGPUThrottling",
        "fires when the GPU was throttled most of a quarter of an hour",
        {THROTTLED: "0 1@30"},
        {"47m": (), "48m": ("LLMGPUThrottling",)},
        pending={"47m": True},
        labels=_HOST_L | {"gpu": "0000:c5:00.0", "reason": "thermal"},
        description="GPU 0000:c5:00.0 of box:9937 was throttled by heat for 100% of the last quarter of an hour.",
    ),
    _missing("LLMGPUThrottling", THROTTLED),
)


def _values(value: str, minutes: int, step: int) -> str:
    """The pieces as promtool's expanding notation."""
    pieces = []
    for piece in value.split(" "):
        shape, _, minute = piece.partition("@")
        pieces.append((shape, int(minute or 0) // step))
    ends = [start for _, start in pieces[1:]] + [minutes // step + 1]
    text: list[str] = []
    last = 0.0
    for (shape, start), following in zip(pieces, ends, strict=True):
        count = following - start
        rise = {
            "up": 60.0 * step,
            "count": 1.0 * step,
            "half": 0.5 * step,
            "quarter": 0.25 * step,
            "slow": 0.1 * step,
        }.get(shape)
        if shape == "gone":
            text.append(f"stale _x{count - 1}" if count > 1 else "stale")
        elif rise is not None:
            first = last + rise if start else 0.0
            text.append(f"{first:g}+{rise:g}x{count - 1}")
            last = first + rise * (count - 1)
        elif shape == "flat":
            text.append(f"{last:g}+0x{count - 1}")
        elif "-" in shape or "+" in shape:
            text.append(f"{shape}x{count - 1}")
        else:
            text.append(f"{shape}+0x{count - 1}")
    return " ".join(text)


def _queries(case: RuleCase) -> Iterator[dict[str, Any]]:
    for time, firing in case.when.items():
        yield {
            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": time,
            "exp_samples": [
                {"labels": f'{{alertname="{name}"}}', "value": firing.count(name)} for name in sorted(set(firing))
            ],
        }
    for time, pending in case.pending.items():
        yield {
            "expr": f'count(ALERTS{{alertstate="pending",alertname="{case.alert}"}})',
            "eval_time": time,
            "exp_samples": [{"labels": "{}", "value": 1}] if pending else [],
        }


def _texts(case: RuleCase, alert: Alert, settings: RuleSettings) -> dict[str, Any]:
    link = "&".join(f"var-{label}={quote_plus(case.labels[label])}" for label in alert.variables)
    return {
        "eval_time": list(case.when)[-1],
        "alertname": alert.name,
        "exp_alerts": [
            {
                "exp_labels": {"severity": alert.severity, "service": SERVICE, **case.labels},
                "exp_annotations": {
                    "summary": alert.summary,
                    "description": case.description,
                    **remedy_of(alert),
                    **{
                        name: text.replace("{{ $labels.instance }}", case.labels.get("instance", ""))
                        for name, text in runbook_of(alert, settings).items()
                    },
                    "dashboard_url": f"{settings.grafana_url}/d/{alert.board}?{link}",
                },
            }
        ],
    }


def _test(case: RuleCase, settings: RuleSettings) -> dict[str, Any]:
    world = {series: value for series, value in (dict(HEALTHY) | dict(case.change)).items() if value is not None}
    test: dict[str, Any] = {
        "name": f"{case.alert or 'all'}: {case.says}",
        "interval": f"{case.step}m",
        "input_series": [
            {"series": series, "values": _values(value, case.minutes, case.step)} for series, value in world.items()
        ],
        "promql_expr_test": list(_queries(case)),
    }
    if case.description:
        alert = next(alert for alert in ALERTS if alert.name == case.alert)
        test["alert_rule_test"] = [_texts(case, alert, settings)]
    return test


def rule_tests(settings: RuleSettings, step: int) -> str:
    """The test file for the cases whose samples are ``step`` minutes apart."""
    document = {
        "rule_files": ["../rules/recording.yml", "../rules/alerts.yml"],
        "evaluation_interval": f"{step}m",
        "group_eval_order": ["llm-probe-recent", "llm-probe-baseline", "llm-probe-alerts"],
        "tests": [_test(case, settings) for case in CASES if case.step == step],
    }
    return HEADER + yaml.safe_dump(document, sort_keys=False, width=1000, default_flow_style=None)
