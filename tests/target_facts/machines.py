"""A machine with one vLLM server and one llama-server, for the tests of what is known of a target. Made up but for the fixtures."""

from pathlib import Path
from typing import Any

from exporter.cache.facts import CacheFacts, ModelFacts, WeightFacts
from exporter.containers.facts import CandidateUrl, ContainerFacts
from exporter.host.gpu import GpuFacts, read_gpus, sample_gpus
from exporter.host.gpu_links import read_links, read_render_nodes
from exporter.host.gpu_memory import ProcessMemory
from exporter.host.other_gpus import read_other_gpus
from exporter.host.process import ProcessFacts, ProcessReading
from exporter.launch.settings import Compute, read_launch
from exporter.probe.result import Identity
from exporter.settings import load_profiles, make_target
from exporter.snapshot import GpuNames, ModelFiles, ServerProcesses
from exporter.target_facts import Machine
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
