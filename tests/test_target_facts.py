"""What the rooms know of one target, brought together: who wins, and what stays unknown."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exporter.cache.facts import CacheFacts, ModelFacts, WeightFacts
from exporter.cache.model_file import Unreadable
from exporter.containers.facts import CacheMount, CandidateUrl, ContainerFacts, Devices
from exporter.host.gpu import GpuFacts, PartitionFacts, read_gpus, sample_gpus
from exporter.host.gpu_links import read_links, read_render_nodes
from exporter.host.gpu_memory import ProcessMemory
from exporter.host.other_gpus import read_other_gpus
from exporter.host.process import OTHERS_HIDDEN, OWN_CONTAINER, Network, ProcessFacts, ProcessReading
from exporter.launch.settings import Compute, read_launch
from exporter.probe.result import Identity, Measurements
from exporter.settings import load_profiles, make_target
from exporter.snapshot import GpuNames, ModelFiles, ServerProcesses
from exporter.target_facts import (
    Machine,
    connections_to,
    hints_of,
    info_of,
    is_local,
    judgement_of,
    paths_of,
    target_facts_of,
)
from exporter.tiers import scenario_of
from tests.host.machines import build

PROFILES = load_profiles(None)
VLLM = ContainerFacts(
    id="0123456789ab",
    name="vllm-rocm",
    image="rocm/vllm-dev:nightly",
    image_id="sha256:ab",
    backend="vllm",
    running=True,
    urls=(CandidateUrl("http://127.0.0.1:8000", "published_port"),),
    model="Qwen/Qwen2.5-14B-Instruct",
    quantization="none",
    kv_cache_dtype="auto",
    aiter=True,
)
STRIX_HALO = GpuFacts(
    "0000:c1:00.0",
    "Radeon 8060S",
    gfx_target="gfx1151",
    compute_units=40,
    unified_memory=True,
    bandwidth_bytes_per_second=256e9,
    bandwidth_source="table",
)
WEIGHTS = WeightFacts(
    weight_bytes=29_540_067_328,
    input_embedding_bytes=1_557_000_000,
    tied=False,
    active_bytes=29_540_067_328,
    kv_elements_per_token=98_304,
)
CACHE = CacheFacts(
    "huggingface",
    "huggingface",
    "/home/u/.cache/huggingface/hub",
    bytes=29_540_067_328,
    models=(ModelFacts("Qwen/Qwen2.5-14B-Instruct", "/hub/models--Qwen", 1, complete=True, weights=WEIGHTS),),
)
MACHINE = Machine((VLLM,), (STRIX_HALO,), (CACHE,))
HERE = make_target(url="http://localhost:8000")
SAYS = Identity("vllm", "0.32.0", "Qwen/Qwen2.5-14B-Instruct")


@pytest.mark.parametrize(("exact", "tier"), [(True, "good"), (None, "good"), (False, None)])
def test_a_speed_whose_tokens_were_estimated_has_no_tier(*, exact: bool | None, tier: str | None) -> None:
    """An estimate may be off by more than a tier: it is shown, and not judged."""
    figures = Measurements(tokens_per_second=16.0, token_count_exact=exact)
    known = target_facts_of(HERE, SAYS, MACHINE)
    judgement = judgement_of(HERE, known, figures, PROFILES)
    assert judgement.tier == tier


def test_each_room_gives_its_part() -> None:
    """Server, container, GPU and cache together know what no one of them knows."""
    known = target_facts_of(HERE, SAYS, MACHINE)
    assert (known.backend, known.aiter, known.quantization, known.kv_cache) == ("vllm", True, "none", "auto")
    assert (known.gfx_target, known.compute_units, known.memory_bandwidth) == ("gfx1151", 40, 256e9)
    assert known.aiter_usable is False
    assert known.weights.streamed_bytes == 29_540_067_328 - 1_557_000_000
    assert known.weights.kv_bytes_per_token == 196_608
    assert scenario_of(known, PROFILES) == "vllm-fp16"


def test_the_identity_as_text() -> None:
    """llm_target_info names the container, the image, the scenario and the hardware."""
    info = info_of(HERE, SAYS, target_facts_of(HERE, SAYS, MACHINE), MACHINE, PROFILES)
    assert (info.container, info.image) == ("vllm-rocm", "rocm/vllm-dev:nightly")
    assert (info.scenario, info.hardware, info.backend_version) == ("vllm-fp16", "ryzen-ai-max-395", "0.32.0")


def test_a_server_elsewhere_has_nothing_of_this_machine() -> None:
    """The GPU, containers and caches here say nothing of a server on another one."""
    away = make_target(url="http://10.0.0.7:8000")
    known = target_facts_of(away, SAYS, MACHINE)
    assert not is_local(away.url, None)
    assert (known.gfx_target, known.memory_bandwidth, known.aiter, known.quantization) == (None, None, None, None)
    assert known.weights.bytes is None


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


def test_a_container_that_stopped_is_not_the_targets() -> None:
    """Another server on the port of a stopped container is not that container."""
    machine = replace(MACHINE, containers=(replace(VLLM, running=False),))
    assert info_of(HERE, SAYS, target_facts_of(HERE, SAYS, machine), machine, PROFILES).container == ""


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


def machine_named(name: str, folder: Path, **more: Any) -> Machine:
    """A machine of the fixtures, as the collectors read it."""
    root = build(name, folder / name)
    sysfs, proc = root / "sys", root / "proc"
    names = GpuNames(read_links(sysfs), read_other_gpus(sysfs, proc), tuple(sorted(read_render_nodes(sysfs).items())))
    return Machine(gpus=read_gpus(sysfs).gpus, names=names, samples=sample_gpus(sysfs), **more)


Q4 = WeightFacts(weight_bytes=8_988_000_000, tied=True, active_bytes=8_988_000_000, quantization="Q4_K_M")
LLAMA = Identity("llama_cpp", "b11434", "qwen2.5-14b", model_root="/models/qwen2.5-14b-q4_k_m.gguf")
FILES = ModelFiles((("/models/qwen2.5-14b-q4_k_m.gguf", Q4),))


def ran(command: str, *, compute: Compute | None = None, **more: Any) -> ServerProcesses:
    """One llama-server as a process on port 8000."""
    launch = read_launch("llama-server", command.split(), {}, complete=True)
    process = ProcessFacts(
        42,
        launch,
        1,
        pids=(42,),
        network="own",
        port=8000,
        listening=True,
        compute=compute,
        model_file=more.pop("file", None),
    )
    return ServerProcesses(ProcessReading((process,)), ((42, ProcessMemory(**more)),))


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


@pytest.mark.parametrize(
    ("command", "hints"),
    [
        ("--port 8000", {"sleeps": False}),
        ("--port 8000 --sleep-idle-seconds 300 --cache-ram 0", {"sleeps": True, "prompt_cache": False}),
        ("--port 8000 -cram 2048", {"sleeps": False, "prompt_cache": True}),
    ],
)
def test_what_a_prober_is_told(command: str, hints: dict[str, bool]) -> None:
    """The sleep timer and the prompt cache of a llama-server, by its own command line."""
    assert hints_of(HERE, Machine(processes=ran(command))) == hints
    assert hints_of(HERE, MACHINE) == {}


def table_of(url: str, machine: Machine) -> tuple[str, int] | None:
    """The process whose table is read for a URL, and the port in it; None where none is."""
    read = connections_to(url, machine, Path("/proc"))
    return (read.args[0].name, read.args[1]) if isinstance(read, partial) else None


@pytest.mark.parametrize(
    ("network", "table"),
    [("own", ("self", 8000)), (None, ("self", 8000)), ("other", ("42", 8080)), ("host", ("42", 8080))],
)
def test_whose_table_tells_who_is_connected(network: Network | None, table: tuple[str, int]) -> None:
    """A container's network has a table of its own, with the port inside."""
    port = 8000 if network in {"own", None} else 8080
    inside = replace(ran("--port 8080").reading.processes[0], port=port, network=network, container=VLLM.id)
    served = replace(VLLM, backend="llama_cpp")
    machine = Machine(containers=(served,), processes=ServerProcesses(ProcessReading((inside,))))
    assert table_of(HERE.url, machine) == table


def test_where_no_table_tells_who_is_connected() -> None:
    """A server elsewhere, in a container that can't be seen into, or behind Docker's proxy, past which others reach it."""
    forwarded = Machine(processes=ServerProcesses(ProcessReading(forwarded=frozenset({8000}))))
    on_host = replace(VLLM, urls=(CandidateUrl(HERE.url, "host_network"),))
    assert table_of("http://localhost:8000", Machine()) == ("self", 8000)
    assert table_of(HERE.url, Machine(containers=(on_host,))) == ("self", 8000)
    assert table_of("http://10.0.0.7:8000", Machine()) is None
    assert table_of(HERE.url, Machine(containers=(VLLM,))) is None
    assert table_of(HERE.url, forwarded) is None
    assert connections_to("http://10.0.0.7:8000", Machine(), Path("/proc"))() is None


@pytest.mark.parametrize(
    ("hidden", "found", "doubts"),
    [(OTHERS_HIDDEN, False, True), (OTHERS_HIDDEN, True, False), (OWN_CONTAINER, False, False), ("", False, False)],
)
def test_a_listener_of_root_is_doubted_where_processes_are_hidden(hidden: str, *, found: bool, doubts: bool) -> None:
    """It may be Docker's proxy, unless the server's own process is seen; in a pod of its own there is no such proxy."""
    processes = ran("--port 8000").reading.processes if found else ()
    machine = Machine(processes=ServerProcesses(ProcessReading(processes, hidden)))
    read = connections_to(HERE.url, machine, Path("/proc"))
    assert isinstance(read, partial)
    assert read.keywords == {"doubts_root": doubts}


def test_the_file_that_a_server_runs_is_found_by_its_path() -> None:
    """By what it says itself, by its process, by its container's mounts; in a container never by the path alone."""
    url = "http://localhost:8000"
    assert paths_of(url, LLAMA, Machine()) == ("/models/qwen2.5-14b-q4_k_m.gguf",)
    assert paths_of(url, LLAMA, Machine(processes=ran("--port 8000", file="/home/x.gguf"))) == (
        "/home/x.gguf",
        "/models/qwen2.5-14b-q4_k_m.gguf",
    )
    assert paths_of(url, LLAMA, Machine((VLLM,))) == ()
    mounted = replace(VLLM, cache_mounts=(CacheMount("/srv/gguf", "/models", "files"),))
    assert paths_of(url, LLAMA, Machine((mounted,))) == ("/srv/gguf/qwen2.5-14b-q4_k_m.gguf",)
    assert paths_of("http://10.0.0.7:8000", LLAMA, Machine()) == ()


def test_a_file_that_can_not_be_read_is_a_reason() -> None:
    """Why there is no ceiling says which file it was."""
    models = ModelFiles(((LLAMA.model_root or "", Unreadable("/models/x.gguf: Permission denied")),))
    known = target_facts_of(HERE, LLAMA, Machine(gpus=(STRIX_HALO,), models=models))
    assert "Permission denied" in judgement_of(HERE, known, None, PROFILES).no_ceiling


def test_weights_that_are_quantized_while_loading_are_unknown() -> None:
    """A BF16 checkpoint that is served as fp8 is not in memory as it is on the disk."""
    machine = replace(MACHINE, containers=(replace(VLLM, quantization="fp8"),))
    known = target_facts_of(HERE, SAYS, machine)
    assert known.weights.bytes is None
    assert known.weights.streamed_bytes is None


@pytest.mark.parametrize(("dtype", "bytes_each"), [("auto", 2.0), ("fp8_e4m3", 1.0), ("q8_0", 1.0625), (None, 2.0)])
def test_the_type_of_the_key_value_cache_counts(dtype: str | None, bytes_each: float) -> None:
    """An fp8 cache reads half as much for each token of context."""
    machine = replace(MACHINE, containers=(replace(VLLM, kv_cache_dtype=dtype),))
    known = target_facts_of(HERE, SAYS, machine)
    assert known.weights.kv_bytes_per_token == 98_304 * bytes_each


def test_a_file_is_found_by_its_name() -> None:
    """llama.cpp names a file, the cache knows it by its path."""
    gguf = ModelFacts("qwen", "/models/qwen.gguf", 1, complete=True, weights=WEIGHTS)
    machine = Machine(caches=(replace(CACHE, models=(gguf,)),))
    identity = Identity("llama_cpp", model="qwen", model_root="/srv/models/qwen.gguf", weight_bytes=8_180_228_096)
    known = target_facts_of(HERE, identity, machine)
    assert known.weights.bytes == 8_180_228_096
    assert known.weights.kv_bytes_per_token == 196_608


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


def test_a_toolbox_whose_engine_does_not_tell_what_runs_in_it() -> None:
    """The process that answers is in a container: its name and image are the target's, and its process tells the rest."""
    toolbox = ContainerFacts("0123456789ab", "llama-vulkan", "kyuz0/toolbox:1", "sha256:1", None, running=True)
    processes = ran("--port 8000 -np 3", compute="vulkan")
    inside = replace(processes.reading.processes[0], container=toolbox.id)
    machine = Machine(containers=(toolbox,), processes=replace(processes, reading=ProcessReading((inside,))))
    known = target_facts_of(HERE, LLAMA, machine)
    info = info_of(HERE, LLAMA, known, machine, PROFILES)
    assert (info.container, info.image) == ("llama-vulkan", "kyuz0/toolbox:1")
    assert dict(info.settings).items() >= {"slots": "3", "compute": "vulkan"}.items()
    stopped = replace(machine, containers=(replace(toolbox, running=False),))
    assert info_of(HERE, LLAMA, known, stopped, PROFILES).container == ""


@pytest.mark.parametrize(
    ("network", "published", "slots"), [("own", 8001, "2"), ("own", 8000, "1"), ("other", 9090, "1")]
)
def test_of_several_servers_in_one_container_the_one_at_the_port(network: Any, published: int, slots: str) -> None:
    """On the machine's network by the URL's port; behind a published one by the port that the container listens on."""
    url = f"http://127.0.0.1:{published}"
    launch = read_launch("llama-server", ["--port", "8000"], {}, complete=True)
    container = ContainerFacts(
        "0123456789ab", "two", "image", "sha256:1", "llama_cpp", running=True, launch=launch,
        urls=(CandidateUrl(url, "published_port"),),
    )  # fmt: skip
    first = ran("--port 8000 -np 1", compute="cpu").reading.processes[0]
    second = ran("--port 8001 -np 2", compute="cpu").reading.processes[0]
    inside = tuple(
        replace(each, pid=pid, port=pid, container=container.id, network=network)
        for pid, each in ((8000, first), (8001, second))
    )
    machine = Machine(containers=(container,), processes=ServerProcesses(ProcessReading(inside)))
    target = HERE.model_copy(update={"url": url})
    known = target_facts_of(target, LLAMA, machine)
    assert dict(info_of(target, LLAMA, known, machine, PROFILES).settings)["slots"] == slots
