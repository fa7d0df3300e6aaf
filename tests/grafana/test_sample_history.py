"""The made-up history is one that the exporter could have written: its labels, their values, and what the memory allows."""

import inspect
import re
from collections.abc import Iterator
from typing import Final, get_args

import pytest

from exporter.collectors import Collectors
from exporter.containers.facts import RocmSource
from exporter.host.throttling import REASONS
from exporter.metrics import FAMILIES
from exporter.probe.answer import FAULTS
from exporter.probe.dialects import ollama, text_generation_webui, transformers
from exporter.probe.result import RESULTS
from exporter.targets import TARGET_STATES
from exporter.tiers import LIMITS, TIERS
from grafana import sample_history
from grafana.contract import ELSEWHERE, labels_by_series
from grafana.sample_history import MACHINES, PROFILES, SERVERS, SampleHistory

END: Final = 1_790_000_000.0


@pytest.fixture(scope="module")
def history() -> SampleHistory:
    """Eight hours in large steps, so that every state occurs."""
    return sample_history.make(END, 8.0, 120.0)


def labels(history: SampleHistory, name: str) -> Iterator[dict[str, str]]:
    return (dict(each) for each in history.samples[name])


def test_its_series_have_the_exporters_labels(history: SampleHistory) -> None:
    """Every metric is one of the table, with exactly its labels, and those of a scrape."""
    table = labels_by_series()
    for name, series in history.samples.items():
        if name not in ELSEWHERE:
            for each in series:
                assert {key for key, _ in each} == table[name], name


def test_every_metric_of_the_table_is_in_it(history: SampleHistory) -> None:
    """A dashboard over it has no panel that is empty for want of a metric."""
    names = {f"{family.name}_bucket" if family.type == "histogram" else family.name for family in FAMILIES}
    assert names - set(history.samples) == set()


VALUES: Final[dict[tuple[str, str], set[str]]] = {
    ("llm_probes_total", "result"): set[str](RESULTS),
    ("llm_performance_tier", "tier"): set[str](TIERS),
    ("llm_performance_tier_threshold_tokens_per_second", "tier"): set[str](TIERS) - {"poor"},
    ("llm_expected_tokens_per_second", "bound"): {"min", "max"},
    ("llm_expected_tokens_per_second", "source"): {"faq", "ceiling"},
    ("llm_expected_tokens_per_second", "scenario"): {*PROFILES.scenarios, ""},
    ("llm_target_info", "scenario"): {*PROFILES.scenarios, ""},
    ("llm_target_info", "hardware"): set(PROFILES.hardware),
    ("llm_limit_info", "limit"): set[str](LIMITS),
    ("llm_probe_exporter_targets", "state"): set(TARGET_STATES),
    ("llm_probe_phase_seconds", "phase"): {"resolve", "connect", "tls", "queue", "first_token", "decode", "total"},
    ("llm_probe_tokens", "kind"): {"prompt", "cached", "reasoning", "output"},
    ("llm_probe_consumed_tokens_total", "kind"): {"prompt", "output"},
    ("llm_answer_checks_total", "verdict"): {"right", "wrong", "degenerate", "foreign", "undecided"},
    ("llm_answer_checks_total", "depth"): {"short", "deep"},
    ("llm_answer_fault_info", "fault"): set[str](FAULTS),
    ("amdgpu_throttled", "reason"): set[str](REASONS),
    ("amdgpu_clock_hertz", "domain"): {"sclk", "mclk", "fclk"},
    ("amdgpu_memory_used_bytes", "kind"): {"vram", "gtt"},
    ("amdgpu_power_watts", "scope"): {"gpu", "socket"},
    ("amdgpu_memory_bandwidth_bytes_per_second", "source"): {"memory bank", "memory modules", "memory clock", "table"},
    ("amdgpu_driver_info", "source"): {"dkms", "in-tree"},
    ("rocm_version_info", "scope"): {"host", "container"},
    ("rocm_version_info", "source"): {"info", "header", "manifest", "hip", *get_args(RocmSource)},
    ("llm_slowdown_speed_ratio", "cause"): {"change", "unexplained"},
    ("llm_last_change_info", "what"): {"image", "container ROCm"},
}
"""What the exporter may say there, from its own tables where it has one."""


@pytest.mark.parametrize(("name", "label"), VALUES, ids=lambda each: each)
def test_labels_have_values_that_the_exporter_has(history: SampleHistory, name: str, label: str) -> None:
    """An invented state or source would draw a dashboard that nobody ever sees."""
    found = {each[label] for each in labels(history, name)}
    assert found
    assert found <= VALUES[name, label]


def test_a_server_tells_only_what_its_backend_can(history: SampleHistory) -> None:
    """One whose dialect can't tell whether it is busy has no figure of its load, and no probe that is skipped for users."""
    mute = {
        "ollama": ollama.NOTICE,
        "text_generation_webui": text_generation_webui.NOTICE,
        "transformers": transformers.NOTICE,
    }
    assert all("can't tell whether it is busy" in notice for notice in mute.values())
    told = {each.name for each in SERVERS if each.backend not in mute}
    assert told
    loads = [name for name in history.samples if name.startswith("llm_server_")]
    assert {each["target"] for name in loads for each in labels(history, name)} == told
    for key, samples in history.samples["llm_probes_total"].items():
        each = dict(key)
        if each["result"] == "skipped_busy" and each["target"] not in told:
            assert samples[-1][1] == 0, each


def test_what_is_estimated_has_no_tier(history: SampleHistory) -> None:
    """A target whose tokens are not counted by its server has no tier, and none that has one is estimated."""
    tiers = {(each["target"], each["module"]) for each in labels(history, "llm_performance_tier")}
    for key, samples in history.samples["llm_probe_token_count_exact"].items():
        each = dict(key)
        assert all(value == 1.0 for _, value in samples) or (each["target"], each["module"]) not in tiers


def test_collectors_are_those_of_the_exporter(history: SampleHistory) -> None:
    """A cache's collector is named after the cache, the others are rows of the collectors' table."""
    rows = inspect.getsource(Collectors._rows)
    known = set(re.findall(r'Collector\("(\w+)"', rows))
    assert known
    for each in labels(history, "llm_probe_exporter_collector_success"):
        assert each["collector"] in known or each["collector"].startswith("cache:")


def test_no_speed_is_above_what_the_memory_allows(history: SampleHistory) -> None:
    """At no time, by the real bandwidth and the real size of the model; a server that drafts has no ceiling."""
    ceilings = history.samples["llm_decode_ceiling_tokens_per_second"]
    assert ceilings
    limits = {tuple(sorted(key)): samples for key, samples in ceilings.items()}
    for key, samples in history.samples["llm_probe_tokens_per_second"].items():
        bare = tuple(sorted(pair for pair in key if pair[0] != "model"))
        if limit := limits.get(bare):
            assert max(value for _, value in samples) < max(value for _, value in limit), key
    for server in SERVERS:
        judged = server.judged(server.at(-3 * 3600), None)
        expected = None if server.drafts else MACHINES[server.host].bandwidth / server.model.streamed
        assert judged.ceiling_tokens_per_second == (None if expected is None else pytest.approx(expected))


def test_models_fit_and_prompts_are_not_read_faster_than_the_gpu_computes() -> None:
    """What a machine serves lies in its memory at once, and a prompt's tokens cost two operations a parameter."""
    for host, machine in MACHINES.items():
        served = [each for each in SERVERS if each.host == host]
        assert 0.7e9 + sum(1.06 * each.model.bytes for each in served) < machine.vram, host
        flops = PROFILES.hardware[machine.hardware].fp16_flops
        assert flops is not None
        for each in served:
            assert 2 * each.model.parameters * each.prefill < flops, each.name
