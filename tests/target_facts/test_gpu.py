"""Which GPU's bandwidth a target has."""

from dataclasses import replace
from pathlib import Path

import pytest

from exporter.containers.facts import Devices
from exporter.host.gpu import GpuFacts, PartitionFacts
from exporter.settings import make_target
from exporter.target_facts import Machine, info_of, judgement_of, target_facts_of
from tests.target_facts.machines import (
    CACHE,
    FILES,
    HERE,
    LLAMA,
    MACHINE,
    PROFILES,
    SAYS,
    STRIX_HALO,
    VLLM,
    machine_named,
    ran,
)

SECOND = replace(STRIX_HALO, address="0000:c2:00.0")


@pytest.mark.parametrize(
    ("gpus", "parallel", "bandwidth", "problem"),
    [
        ((), None, None, "this machine has no GPU that can be seen"),
        ((STRIX_HALO, SECOND), None, None, "2 GPUs may serve"),
        ((STRIX_HALO, SECOND), 1, 256e9, ""),
        ((STRIX_HALO, replace(SECOND, gfx_target="gfx1100")), 1, None, "set targets[].gpu"),
        ((replace(STRIX_HALO, partitions=(PartitionFacts(20, 1, 1.0),)),), None, None, "is partitioned"),
        ((replace(STRIX_HALO, bandwidth_bytes_per_second=None),), None, None, "set targets[].hardware"),
    ],
)
def test_a_bandwidth_only_where_it_is_clear_which_gpu_serves(
    gpus: tuple[GpuFacts, ...], parallel: int | None, bandwidth: float | None, problem: str
) -> None:
    """Several GPUs, different ones, or a divided one leave the ceiling unknown, and the reason is told."""
    machine = Machine((replace(VLLM, tensor_parallel=parallel),), gpus, (CACHE,))
    known = target_facts_of(HERE, SAYS, machine)
    assert known.memory_bandwidth == bandwidth
    assert problem in known.bandwidth_problem
    assert bool(problem) == bool(known.bandwidth_problem)


def test_the_gpu_that_the_settings_name_serves() -> None:
    """By its address, with its own bandwidth, and the decision is told with its rule."""
    machine = Machine((VLLM,), (STRIX_HALO, replace(SECOND, bandwidth_bytes_per_second=640e9)), (CACHE,))
    target = make_target(url="http://localhost:8000", gpu="c2:00.0")
    known = target_facts_of(target, SAYS, machine)
    info = info_of(target, SAYS, known, machine, PROFILES)
    assert known.memory_bandwidth == 640e9
    assert (info.gpus, info.gpu_rule) == (("0000:c2:00.0",), "settings")
    assert dict(info.settings)["gpu"] == "0000:c2:00.0"


def test_the_bandwidth_of_hardware_that_was_named_wins() -> None:
    """`hardware:` brings its own bandwidth along, whatever GPU was read."""
    target = make_target(url="http://localhost:8000", hardware="radeon-rx-7900-xtx")
    machine = replace(MACHINE, containers=(replace(VLLM, devices=Devices(kfd=True, dri=True)),))
    judgement = judgement_of(target, target_facts_of(target, SAYS, machine), None, PROFILES)
    assert judgement.ceiling_tokens_per_second == pytest.approx(960e9 / (29_540_067_328 - 1_557_000_000))


def test_a_discrete_card_beside_the_processors_own_graphics(tmp_path: Path) -> None:
    """A 14B in Q4 on an RX 7900 XTX in a Ryzen desktop has the card's ceiling, and the card's name."""
    machine = machine_named("ryzen-7800x3d-rx-7900-xtx", tmp_path, models=FILES)
    known = target_facts_of(HERE, LLAMA, machine)
    judgement = judgement_of(HERE, known, None, PROFILES)
    assert judgement.ceiling_tokens_per_second == pytest.approx(107, abs=1)
    info = info_of(HERE, LLAMA, known, machine, PROFILES)
    assert (info.hardware, info.gpu_rule) == ("radeon-rx-7900-xtx", "small_integrated")


def test_cuda_beside_the_processors_own_graphics(tmp_path: Path) -> None:
    """With a card of another maker the AMD GPU isn't taken for what serves; hardware by hand gives the ceiling."""
    machine = machine_named(
        "ryzen-9950x-rtx-4000", tmp_path, models=FILES, processes=ran("--port 8000", compute="cuda")
    )
    known = target_facts_of(HERE, LLAMA, machine)
    assert (known.gfx_target, known.memory_bandwidth) == (None, None)
    assert info_of(HERE, LLAMA, known, machine, PROFILES).gpus == ()
    by_hand = make_target(url="http://localhost:8000", hardware="rtx-4000-ada")
    judgement = judgement_of(by_hand, target_facts_of(by_hand, LLAMA, machine), None, PROFILES)
    assert judgement.ceiling_tokens_per_second == pytest.approx(360e9 / 8_988_000_000)


def test_two_equal_cards_read_as_fast_as_one_by_layers(tmp_path: Path) -> None:
    """llama.cpp's layers on two R9700 take turns; of two that may serve, either has the same bandwidth."""
    machine = machine_named("two-r9700", tmp_path, models=FILES)
    assert target_facts_of(HERE, LLAMA, machine).memory_bandwidth == 640e9


def test_an_external_card_by_the_memory_that_the_server_holds(tmp_path: Path) -> None:
    """Beside a Strix Halo the R9700 serves where the server's process holds its memory."""
    held = {"by_gpu": (("0000:63:00.0", 9_000_000_000),), "complete": True}
    machine = machine_named("strix-halo-r9700-egpu", tmp_path, models=FILES)
    address = next(gpu.address for gpu in machine.gpus if gpu.gfx_target == "gfx1201")
    held["by_gpu"] = ((address, 9_000_000_000),)
    machine = replace(machine, processes=ran("--port 8000", compute="rocm", **held))
    known = target_facts_of(HERE, LLAMA, machine)
    assert known.memory_bandwidth == 640e9
    assert info_of(HERE, LLAMA, known, machine, PROFILES).gpu_rule == "process_memory"
