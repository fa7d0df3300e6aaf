"""What the sources know of one target, brought together: which one wins, and what stays unknown."""

from dataclasses import replace

from exporter.containers.facts import Devices
from exporter.settings import make_target
from exporter.target_facts import Machine, info_of, judgement_of, target_facts_of
from exporter.tiers import scenario_of
from tests.target_facts.machines import FILES, HERE, LLAMA, MACHINE, PROFILES, SAYS, STRIX_HALO, VLLM, ran


def test_each_room_gives_its_part() -> None:
    """Server, container, GPU and cache together know what no one of them knows."""
    known = target_facts_of(HERE, SAYS, MACHINE)
    assert (known.backend, known.aiter, known.quantization, known.kv_cache) == ("vllm", True, "none", "auto")
    assert (known.gfx_target, known.compute_units, known.memory_bandwidth) == ("gfx1151", 40, 256e9)
    assert known.aiter_usable is False
    assert known.weights.streamed_bytes == 29_540_067_328 - 1_557_000_000
    assert known.weights.kv_bytes_per_token == 196_608
    assert scenario_of(known, PROFILES) == "vllm-fp16"


def test_what_the_server_says_wins_over_what_the_container_was_told() -> None:
    """The quantization that runs is the server's word, where it has one."""
    known = target_facts_of(HERE, replace(SAYS, quantization="awq"), MACHINE)
    assert known.quantization == "awq"


def test_before_the_first_status_check_the_configuration_and_the_container_decide() -> None:
    """Without an identity the target is what it was configured as."""
    known = target_facts_of(HERE, None, MACHINE)
    assert (known.backend, known.model) == ("vllm", "Qwen/Qwen2.5-14B-Instruct")
    alone = target_facts_of(make_target(url="http://127.0.0.1:9000", backend="ollama", model="m"), None, Machine())
    assert (alone.backend, alone.model) == ("ollama", "m")


def test_what_a_process_was_started_with_is_told() -> None:
    """Its settings are the target's, and offload and drafting leave no ceiling."""
    machine = replace(
        MACHINE,
        containers=(),
        models=FILES,
        processes=ran("--port 8000 -c 8192 -ctk q8_0 -ctv q8_0 --n-cpu-moe 4 -np 2", compute="vulkan"),
    )
    known = target_facts_of(HERE, LLAMA, machine)
    settings = dict(info_of(HERE, LLAMA, known, machine, PROFILES).settings)
    assert settings["compute"] == "vulkan"
    assert (settings["slots"], settings["context"], settings["kv_cache"]) == ("2", "8192", "q8_0")
    assert settings["cpu_offload"] == "n_cpu_moe 4"
    assert settings["gpu"] == STRIX_HALO.address
    assert "n_cpu_moe 4" in judgement_of(HERE, known, None, PROFILES).no_ceiling


def test_a_model_that_the_gpu_does_not_hold_alone_is_told() -> None:
    """By the server's own word, or because its container was given no GPU; else nobody says."""
    bare = replace(MACHINE, containers=())
    with_gpu = replace(MACHINE, containers=(replace(VLLM, devices=Devices(kfd=True, dri=True)),))
    on_cpu = replace(SAYS, offloaded=True, on_cpu=True)
    found = [
        target_facts_of(HERE, identity, machine)
        for identity, machine in (
            (replace(SAYS, offloaded=True), bare),
            (SAYS, bare),
            (SAYS, MACHINE),
            (SAYS, with_gpu),
            (on_cpu, with_gpu),
        )
    ]
    assert [known.off_gpu for known in found] == [
        "a part of its model lies outside the GPU's memory",
        "",
        "its container was given no GPU",
        "",
        "it computes on the CPU",
    ]
    info = info_of(HERE, on_cpu, found[-1], with_gpu, PROFILES)
    assert dict(info.settings)["compute"] == "cpu"
    assert (info.gpus, info.gpu_reason) == ((), "no GPU: the server computes on the CPU")
    elsewhere = make_target(url="http://10.0.0.7:8000")
    assert target_facts_of(elsewhere, on_cpu, bare).off_gpu == "it computes on the CPU"
