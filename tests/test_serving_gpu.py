"""Which GPU serves: every rule, on machines whose files are in tests/fixtures/host/machines."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.host.gpu import GpuFacts
from exporter.serving_gpu import (
    Candidate,
    Evidence,
    Serving,
    are_alike,
    bandwidth_together,
    which_gpu,
)
from tests.host.machines import build, candidates

DESKTOP = "ryzen-7800x3d-rx-7900-xtx"
XTX, RAPHAEL = "0000:03:00.0", "0000:7a:00.0"
TWINS = "two-r9700"
FIRST, SECOND = "0000:05:00.0", "0000:08:00.0"
HALO = "strix-halo-r9700-egpu"
R9700, HALO_8060S = "0000:64:00.0", "0000:c2:00.0"
RYZEN_9950X = "ryzen-9950x-rtx-4000"
RTX_4000, GRANITE_RIDGE = "0000:01:00.0", "0000:10:00.0"
BESIDE_3090 = "rtx-3090-without-drm"
RX_6900_XT, RTX_3090 = "0000:0c:00.0", "0000:0a:00.0"
ARC, RX_5700_XT = "0000:0b:00.0", "0000:28:00.0"
GIB = 1 << 30
QWEN_14B_Q4 = 8.99e9


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Where a machine's files are written."""
    return tmp_path / "machine"


def decide(machine: Path, name: str, **said: Any) -> Serving:
    return which_gpu(Evidence(candidates(build(name, machine)), **said))


@pytest.mark.parametrize(
    ("name", "weights", "gpus", "rule"),
    [
        (DESKTOP, QWEN_14B_Q4, [XTX], "small_integrated"),
        ("ryzen-7500x3d-rx-7900-xt", None, [XTX], "small_integrated"),
        ("ryzen-rx-6600", None, ["0000:12:00.0"], "small_integrated"),
        ("intel-uhd-770-rx-7900-xtx", None, [XTX], "small_integrated"),
        (RYZEN_9950X, 2.5e9, [], None),
        (TWINS, 17.3e9, [FIRST], "memory_in_use"),
        (TWINS, None, [], None),
        (HALO, 16.8e9, [R9700], "memory_in_use"),
        (HALO, None, [], None),
        ("mi50-renoir", 4e9, [], None),
        ("sleeping-rx-7600m-xt", 5e9, ["0000:64:00.0"], "memory_in_use"),
        ("three-mi210", 5e9, [], None),
        (BESIDE_3090, QWEN_14B_Q4, [], None),
        ("arc-a380-rx-5700-xt", 5e9, [], None),
        ("passed-through-rx-6800", 5e9, [], None),
        ("rtx-4080", 5e9, [], None),
        ("kubernetes-rx-7900-xtx", None, [XTX], "only_gpu"),
        ("rx-6900-xt", None, [RX_6900_XT], "only_gpu"),
        ("strix-halo-96-gib", None, ["0000:c4:00.0"], "only_gpu"),
        ("mi25-old-kernel", None, ["0000:19:00.0"], "only_gpu"),
        ("mi300a", None, ["0000:01:00.0"], "only_gpu"),
        ("bc-250", None, ["0000:01:00.0"], "only_gpu"),
        ("steam-deck", None, ["0000:04:00.0"], "only_gpu"),
    ],
)
def test_what_the_machine_shows(
    machine: Path, name: str, weights: float | None, gpus: list[str], rule: str | None
) -> None:
    """Where nobody says anything, the machine decides, or the reason is told why it doesn't."""
    found = decide(machine, name, weights_bytes=weights)
    assert (list(found.gpus), found.rule, found.others) == (gpus, rule, ())
    assert found.reason
    assert bool(found.in_question) == (rule is None)


@pytest.mark.parametrize(
    ("name", "said", "gpus", "rule"),
    [
        # The settings.
        (HALO, {"named": ("0000:c2:00.0",)}, [HALO_8060S], "settings"),
        (HALO, {"named": ("C2:00.0",)}, [HALO_8060S], "settings"),
        (HALO, {"named": ("/dev/dri/renderD129",)}, [HALO_8060S], "settings"),
        (HALO, {"named": ("/dev/dri/by-path/pci-0000:c2:00.0-render",)}, [HALO_8060S], "settings"),
        (TWINS, {"named": ("renderD128", "renderD129")}, [FIRST, SECOND], "settings"),
        (HALO, {"named": ("renderD129",), "variables": (("HIP_VISIBLE_DEVICES", "0"),)}, [HALO_8060S], "settings"),
        # What a container was given.
        (TWINS, {"render_nodes": ("renderD129",), "weights_bytes": 17.3e9}, [SECOND], "given"),
        (DESKTOP, {"render_nodes": ("renderD129",)}, [RAPHAEL], "given"),
        (BESIDE_3090, {"render_nodes": ("renderD128",)}, [RX_6900_XT], "given"),
        (BESIDE_3090, {"vendors": ("amd",)}, [RX_6900_XT], "only_gpu"),
        (TWINS, {"render_nodes": ("renderD200",)}, [], None),
        # Variables that hide devices.
        (TWINS, {"variables": (("HIP_VISIBLE_DEVICES", "1"),)}, [SECOND], "given"),
        (TWINS, {"variables": (("ROCR_VISIBLE_DEVICES", "1"),)}, [SECOND], "given"),
        (TWINS, {"variables": (("CUDA_VISIBLE_DEVICES", "1"),)}, [SECOND], "given"),
        (HALO, {"variables": (("HIP_VISIBLE_DEVICES", "1"),)}, [HALO_8060S], "given"),
        (HALO, {"variables": (("GGML_VK_VISIBLE_DEVICES", "0"),)}, [R9700], "given"),
        (HALO, {"variables": (("GGML_VK_VISIBLE_DEVICES", "1"),), "compute": "vulkan"}, [HALO_8060S], "given"),
        ("ryzen-rx-6600", {"variables": (("GGML_VK_VISIBLE_DEVICES", "0"),)}, ["0000:12:00.0"], "given"),
        ("ryzen-7500x3d-rx-7900-xt", {"variables": (("HIP_VISIBLE_DEVICES", "1"),)}, ["0000:0f:00.0"], "given"),
        ("three-mi210", {"variables": (("ROCR_VISIBLE_DEVICES", "GPU-51276AC12CE05DB3"),)}, ["0000:43:00.0"], "given"),
        ("three-mi210", {"variables": (("HIP_VISIBLE_DEVICES", "0"),)}, ["0000:63:00.0"], "given"),
        (
            "three-mi210",
            {"variables": (("ROCR_VISIBLE_DEVICES", "2,1"), ("HIP_VISIBLE_DEVICES", "1"))},
            ["0000:43:00.0"],
            "given",
        ),
        (HALO, {"variables": (("HIP_VISIBLE_DEVICES", "-1"),)}, [], "given"),
        (HALO, {"variables": (("HIP_VISIBLE_DEVICES", ""),), "weights_bytes": 16.8e9}, [R9700], "memory_in_use"),
        (
            HALO,
            {"variables": (("HIP_VISIBLE_DEVICES", "1"), ("GGML_VK_VISIBLE_DEVICES", "0"))},
            [],
            None,
        ),
        (
            HALO,
            {"variables": (("HIP_VISIBLE_DEVICES", "1"), ("GGML_VK_VISIBLE_DEVICES", "0")), "compute": "rocm"},
            [HALO_8060S],
            "given",
        ),
        (BESIDE_3090, {"variables": (("CUDA_VISIBLE_DEVICES", "0"),)}, [], None),
        (TWINS, {"render_nodes": ("renderD129",), "variables": (("HIP_VISIBLE_DEVICES", "0"),)}, [SECOND], "given"),
        # llama.cpp's own switches.
        (HALO, {"devices": "ROCm1"}, [HALO_8060S], "given"),
        (HALO, {"devices": "Vulkan1"}, [HALO_8060S], "given"),
        (HALO, {"devices": "Vulkan0,Vulkan1"}, [R9700, HALO_8060S], "given"),
        (HALO, {"devices": "none"}, [], "given"),
        (HALO, {"devices": "SYCL0", "weights_bytes": 16.8e9}, [R9700], "memory_in_use"),
        (TWINS, {"variables": (("HIP_VISIBLE_DEVICES", "1,0"),), "devices": "ROCm0"}, [SECOND], "given"),
        (TWINS, {"split_mode": "none", "main_gpu": 1}, [SECOND], "given"),
        (TWINS, {"split_mode": "none"}, [FIRST], "given"),
        (TWINS, {"split_mode": "none", "devices": "ROCm1,ROCm0"}, [SECOND], "given"),
        (TWINS, {"split_mode": "layer", "main_gpu": 1}, [], None),
        (HALO, {"split_mode": "none", "main_gpu": 1, "compute": "rocm"}, [], None),
        # What computes.
        (BESIDE_3090, {"compute": "rocm"}, [RX_6900_XT], "only_gpu"),
        ("arc-a380-rx-5700-xt", {"compute": "rocm"}, [RX_5700_XT], "only_gpu"),
        ("passed-through-rx-6800", {"process_found": True}, ["0000:03:00.0"], "only_gpu"),
        (RYZEN_9950X, {"compute": "cuda"}, [], None),
        (DESKTOP, {"compute": "cpu"}, [], "given"),
        # Memory of its processes.
        (DESKTOP, {"held": ((RAPHAEL, 3 * GIB),)}, [RAPHAEL], "process_memory"),
        (TWINS, {"held": ((SECOND, 20 * GIB), (FIRST, GIB // 4))}, [SECOND], "process_memory"),
        (TWINS, {"held": ((SECOND, 20 * GIB), (FIRST, 15 * GIB))}, [SECOND, FIRST], "process_memory"),
        (TWINS, {"held": ((SECOND, 2 * GIB), (FIRST, GIB // 2)), "weights_bytes": 1.5e9}, [SECOND], "process_memory"),
        (
            TWINS,
            {"held": ((SECOND, 12 * GIB), (FIRST, 8 * GIB)), "weights_bytes": 10e9},
            [SECOND, FIRST],
            "process_memory",
        ),
        (HALO, {"held_complete": True, "weights_bytes": 16.8e9}, [], None),
        # Tensor parallel.
        ("three-mi210", {"tensor_parallel": 1}, ["0000:63:00.0"], "tensor_parallel"),
        ("three-mi210", {"tensor_parallel": 2}, ["0000:63:00.0", "0000:43:00.0"], "tensor_parallel"),
        ("three-mi210", {"tensor_parallel": 4}, [], None),
        (
            "three-mi210",
            {"tensor_parallel": 2, "variables": (("HIP_VISIBLE_DEVICES", "2,0"),)},
            ["0000:03:00.0", "0000:63:00.0"],
            "tensor_parallel",
        ),
        (DESKTOP, {"tensor_parallel": 1}, [XTX], "small_integrated"),
    ],
)
def test_what_was_said(machine: Path, name: str, said: dict[str, Any], gpus: list[str], rule: str | None) -> None:
    """What is said of a server goes before what the machine shows, in the order of the rules."""
    found = decide(machine, name, **said)
    assert (list(found.gpus), found.rule) == (gpus, rule)
    assert found.reason


def test_gpu_of_another_vendor_that_is_known_to_serve(machine: Path) -> None:
    """It is told, and nothing is measured of it."""
    found = decide(machine, BESIDE_3090, named=("0a:00.0",))
    assert (found.gpus, found.others, found.rule) == ((), (RTX_3090,), "settings")
    arc = build("arc-a380-rx-5700-xt", machine / "arc")
    held = which_gpu(Evidence(candidates(arc), held=((ARC, 4 * GIB),)))
    assert (held.gpus, held.others, held.rule) == ((), (ARC,), "process_memory")


def test_cuda_device_beside_an_nvidia_card(machine: Path) -> None:
    """CUDA0 is the NVIDIA card where there is one, and otherwise AMD's runtime under that name."""
    assert decide(machine / "a", BESIDE_3090, devices="CUDA0").others == (RTX_3090,)
    assert decide(machine / "b", TWINS, devices="CUDA1").gpus == (SECOND,)


def test_reasons_name_what_is_missing(machine: Path) -> None:
    """An unknown says what may serve, what couldn't be read, and what to set."""
    problem = "/proc/7/fdinfo may not be read: the GPU memory of another user's process is hidden"
    reason = decide(machine / "a", TWINS, held_problem=problem).reason
    assert reason == (
        "2 GPUs may serve: Radeon AI PRO R9700 (0000:05:00.0), Radeon AI PRO R9700 (0000:08:00.0); "
        f"{problem}; the size of the model is not known; set targets[].gpu"
    )
    assert "NVIDIA RTX 4000 Ada Generation (0000:01:00.0)" in decide(machine / "b", RYZEN_9950X).reason
    assert "'renderD200'" in decide(machine / "c", TWINS, named=("renderD200",)).reason
    assert "not known of Instinct MI50" in decide(machine / "d", "mi50-renoir", weights_bytes=1e9).reason
    assert which_gpu(Evidence()).reason == "this machine has no GPU that can be seen"


def test_two_servers_on_two_equal_gpus(machine: Path) -> None:
    """Where both have as much in use as the model has, either may serve it; what both are alike in still holds."""
    gpus = tuple(replace(gpu, memory_in_use=20 * GIB) for gpu in candidates(build(TWINS, machine)))
    found = which_gpu(Evidence(gpus, weights_bytes=17e9))
    assert (found.gpus, found.rule, found.in_question) == ((), None, (FIRST, SECOND))
    parallel = which_gpu(
        Evidence(tuple(replace(gpu, kfd_nodes=()) for gpu in gpus), tensor_parallel=2, weights_bytes=30e9)
    )
    assert (parallel.gpus, parallel.rule) == ((FIRST, SECOND), "memory_in_use")


def test_order_that_is_not_known() -> None:
    """An index means nothing where ROCm may have put GPUs of one kind together, or KFD's nodes are hidden."""
    kinds = ("gfx908", "gfx1030", "gfx908")
    gpus = tuple(
        Candidate(f"0000:0{place}:00.0", kind, integrated=False, kfd_nodes=(place,), gfx_target=kind)
        for place, kind in enumerate(kinds, 1)
    )
    asked = (("HIP_VISIBLE_DEVICES", "1"),)
    assert which_gpu(Evidence(gpus, variables=asked)).rule is None
    assert which_gpu(Evidence(gpus[:2], variables=asked)).gpus == ("0000:02:00.0",)
    hidden = tuple(replace(gpu, kfd_nodes=()) for gpu in gpus[:2])
    assert which_gpu(Evidence(hidden, variables=asked)).rule is None


@given(
    st.lists(
        st.builds(
            Candidate,
            address=st.sampled_from([f"0000:0{place}:00.0" for place in range(6)]),
            name=st.just("GPU"),
            vendor=st.sampled_from(["amd", "nvidia", "intel"]),
            driver=st.sampled_from(["amdgpu", "nvidia", "vfio-pci"]),
            integrated=st.none() | st.booleans(),
            compute_units=st.none() | st.integers(0, 100),
            memory_in_use=st.none() | st.integers(0, 64 * GIB),
            kfd_nodes=st.just(()) | st.tuples(st.integers(1, 9)),
        ),
        max_size=4,
        unique_by=lambda gpu: gpu.address,
    ),
    st.builds(
        Evidence,
        variables=st.lists(
            st.tuples(
                st.sampled_from(["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES"]),
                st.text("0123,-GPU", max_size=6),
            ),
            max_size=3,
        ).map(tuple),
        devices=st.none() | st.text("ROCmVulkan012,", max_size=12),
        main_gpu=st.none() | st.integers(-2, 5),
        split_mode=st.none() | st.sampled_from(["none", "layer", "row"]),
        compute=st.none() | st.sampled_from(["rocm", "vulkan", "cuda", "cpu"]),
        tensor_parallel=st.none() | st.integers(0, 8),
        weights_bytes=st.none() | st.floats(0, 1e11),
    ),
)
def test_any_evidence_gives_a_decision_or_a_reason(gpus: list[Candidate], evidence: Evidence) -> None:
    """Whatever is said, the outcome names only GPUs of the machine, and always says why."""
    found = which_gpu(replace(evidence, gpus=tuple(gpus)))
    readable = {gpu.address for gpu in gpus if gpu.readable}
    assert set(found.gpus) <= readable
    assert set(found.others) <= {gpu.address for gpu in gpus} - readable
    assert found.reason
    assert not (found.in_question and found.rule)


@pytest.mark.parametrize(
    ("bandwidths", "split", "shares", "expected"),
    [
        ([640e9, 640e9], "parallel", (), 1280e9),
        ([640e9, 960e9], "parallel", (), 1280e9),
        ([640e9, 640e9], "layers", (), 640e9),
        ([960e9, 480e9], "layers", (2, 1), 720e9),
        ([960e9, 480e9], "layers", (), None),
        ([960e9, 480e9], "layers", (0, 0), None),
        ([640e9, None], "parallel", (), None),
        ([], "layers", (), None),
    ],
)
def test_bandwidth_of_several(bandwidths: Any, split: Any, shares: Any, expected: float | None) -> None:
    """Tensor parallel adds up, layers one after the other don't."""
    assert bandwidth_together(bandwidths, split, shares) == (expected and pytest.approx(expected))


def test_gpus_that_are_alike() -> None:
    """Two of one kind are alike whatever their addresses."""
    one = GpuFacts(FIRST, "R9700", "gfx1201", 64, bandwidth_bytes_per_second=640e9)
    assert are_alike([one, replace(one, address=SECOND)])
    assert not are_alike([one, replace(one, compute_units=56)])
