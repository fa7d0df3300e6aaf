"""Machines and setups on which a verdict was once wrong, each through the whole daemon.

A machine is a tree of files (tests/fixtures/host/machines, with origins). A server is a simulated one with its process in a
made-up ``/proc``, its model a sparse file with a published model's header. Nothing else is simulated.
"""

import json
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cache.build import sparse_gguf
from tests.cache.shapes import Q8_0, Tensors, qwen3_30b_a3b, qwen25_14b, qwen25_14b_q4_k_m
from tests.host.machines import build
from tests.host.proc_tree import ProcTree
from tests.ports import free_port
from tests.real.daemon import forked_daemon, labels_of, page, scrape, value
from tests.samples import Samples
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.ollama import SimulatedOllama, stored
from tests.servers.simulated import Simulated
from tests.servers.vllm import SimulatedVllm
from tests.waiting import eventually

CEILING, EFFICIENCY = "llm_decode_ceiling_tokens_per_second", "llm_decode_efficiency_ratio"
CUDA = ("/usr/lib/x86_64-linux-gnu/libcuda.so.570.86.10", "/opt/llama/libggml-cuda.so")
VULKAN = ("/usr/lib/x86_64-linux-gnu/libvulkan_radeon.so", "/opt/llama/libggml-vulkan.so")
ROCM = ("/opt/rocm-6.4.1/lib/libamdhip64.so.6.4.60401", "/opt/llama/libggml-hip.so")


@dataclass(frozen=True)
class Setup:
    """One server: what answers, the command line of its process after the program (``{port}`` is its port), what else is configured.

    ``environment`` and ``libraries`` are None where the exporter may not read them.
    """

    server: Simulated
    words: Sequence[str] = ()
    environment: Mapping[str, str] | None = None
    libraries: Sequence[str] | None = None
    target: str = ""


@dataclass(frozen=True)
class Watched:
    """What a daemon says of its machine and of its targets, by their names."""

    port: int
    samples: Samples

    def of(self, name: str) -> dict[str, Any]:
        """A target as ``/api/v1/status`` gives it, its newest judgement under ``judgement``."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/status", timeout=10) as answer:
            targets = json.load(answer)["targets"]
        (found,) = (each for each in targets if each["target"] == name)
        return {**found, "judgement": found["probes"][0]["judgement"]}

    def setting(self, target: str, setting: str) -> str | None:
        """A launch setting."""
        return labels_of(self.samples, "llm_target_setting_info", target=target, setting=setting).get("value")

    def hardware(self, target: str) -> str:
        """What a target runs on."""
        return labels_of(self.samples, "llm_target_info", target=target)["hardware"]


@contextmanager
def daemon(
    folder: Path,
    machine: str,
    setups: Mapping[str, Setup],
    *,
    change: Callable[[Path], object] | None = None,
    rocm: str = "no-rocm",
    seen: Callable[[Samples], object] | None = None,
) -> Iterator[Watched]:
    """A daemon on a machine with these servers, when each of them was measured and judged."""
    root = folder / "machine"
    tree = ProcTree(root / "proc")
    build(machine, root)
    if change:
        change(root)
    port, config = free_port(), folder / "config.yml"
    with ExitStack() as stack:
        targets, listeners = [], []
        for number, (name, setup) in enumerate(setups.items()):
            stack.enter_context(setup.server)
            assert setup.server._http is not None
            at = int(setup.server._http.server_address[1])
            more = f", {setup.target}" if setup.target else ""
            targets.append(
                f'  - {{name: {name}, url: "http://127.0.0.1:{at}", modules: [default], budget: {{share: 100%}}{more}}}'
            )
            if setup.words:
                inode = 700 + number
                listeners.append((at, 1000, inode))
                words = [word.format(port=at) for word in setup.words]
                tree.add(200 + number, words, environment=setup.environment, libraries=setup.libraries, sockets=[inode])
        tree.network(1, *listeners)  # the others have the same file
        config.write_text(
            "targets:\n" + "\n".join(targets) + "\n"
            "modules: {default: {interval: 1s, max_tokens: 16, when_unloaded: load, when_idle: probe}}\n"
            "discovery: {local: false, docker: false}\n"
            "docker: {enabled: false}\n"
            f"host: {{sysfs: {root / 'sys'}, proc: {root / 'proc'}, rocm: {folder / rocm}, interval: 1s}}\n"
            "cache: {paths: []}\n"
        )
        stack.enter_context(forked_daemon("--config", config, port=port, log=folder / "log"))

        def judged() -> Watched | None:
            samples = scrape(port)
            ready = all(value(samples, "llm_probe_tokens_per_second", target=name) for name in setups)
            return Watched(port, samples) if ready and (seen is None or seen(samples)) else None

        yield eventually(judged, "every target was measured and judged")


def model(folder: Path, name: str, shape: tuple[Mapping[str, object], Tensors]) -> str:
    """The path of a model's file."""
    path = folder / f"{name}.gguf"
    return str(path if path.exists() else sparse_gguf(path, *shape))


def llama_server(path: str, *words: str, speed: float = 100.0, **more: Any) -> Setup:
    """A llama-server that runs a file, with its process."""
    setup: dict[str, Any] = {each: more.pop(each) for each in ("environment", "libraries", "target") if each in more}
    server = SimulatedLlamaServer(tokens_per_second=speed, model=path, **more)
    return Setup(server, ("/usr/bin/llama-server", "-m", path, "--port", "{port}", *words), **setup)


def command(folder: Path, *words: str) -> Any:
    """What a command prints as JSON, with the daemon's configuration."""
    done = subprocess.run(
        [sys.executable, "-m", "exporter", *words, "--config", folder / "config.yml"],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def has(name: str, *targets: str) -> Callable[[Samples], bool]:
    """Whether these targets have a series of this name."""
    return lambda samples: all(value(samples, name, target=each) is not None for each in targets)


# Which GPU ----------------------------------------------------------------------------------------------------------------


def test_a_ryzen_desktop_with_a_discrete_card(tmp_path: Path) -> None:
    """The processor's small GPU takes nothing from the RX 7900 XTX: ceiling of a 14B in Q4_K_M about 107, a band by the ceiling.

    ``probe`` and ``machine`` at the prompt know the same ceiling, and how the server was started is told.
    """
    switches = ("-ngl", "99", "-c", "8192", "-np", "2", "-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on", "-ub", "256")
    one = llama_server(model(tmp_path, "14b", qwen25_14b_q4_k_m()), *switches, speed=70)
    with daemon(tmp_path, "ryzen-7800x3d-rx-7900-xtx", {"it": one}, seen=has(EFFICIENCY, "it")) as watched:
        samples = watched.samples
        ceiling = value(samples, CEILING, target="it")
        assert ceiling == pytest.approx(107, rel=0.06)
        assert watched.hardware("it") == "radeon-rx-7900-xtx"
        assert watched.setting("it", "gpu") == "0000:03:00.0"
        assert watched.of("it")["info"]["gpu_rule"] in {"memory_in_use", "small_integrated"}
        high = labels_of(samples, "llm_expected_tokens_per_second", target="it", bound="max")
        assert high["source"] == "ceiling"
        top = value(samples, "llm_expected_tokens_per_second", target="it", bound="max")
        assert top is not None
        assert ceiling is not None
        assert top <= ceiling
        settings = ("context", "slots", "kv_cache", "flash_attention", "micro_batch", "cpu_offload")
        told = [watched.setting("it", each) for each in settings]
        assert told[:5] == ["8192", "2", "q8_0", "on", "256"]
        # A probe that runs beside one of the daemon's has no efficiency, as any that runs beside users.
        at_prompt = eventually(
            lambda: found if (found := command(tmp_path, "probe", "it", "--json"))["efficiency"] else None,
            "a probe at the prompt had the server to itself",
        )
        assert at_prompt["ceiling_tokens_per_second"] == pytest.approx(ceiling, rel=0.01)
        assert at_prompt["efficiency"] == pytest.approx(
            at_prompt["tokens_per_second"] / at_prompt["ceiling_tokens_per_second"]
        )
        (server,) = command(tmp_path, "machine", "--json")["servers"]
        assert server["ceiling_tokens_per_second"] == pytest.approx(ceiling, rel=0.01)


def test_another_makers_card_beside_a_small_amd_gpu(tmp_path: Path) -> None:
    """A server on CUDA runs on the NVIDIA card: its name and bandwidth, never the AMD GPU's, and no energy of the wrong one."""
    path = model(tmp_path, "14b", qwen25_14b_q4_k_m())
    known = llama_server(path, libraries=CUDA, environment={}, speed=30)
    by_hand = llama_server(path, speed=30, target="hardware: geforce-rtx-4090")
    setups = {"known": known, "hand": by_hand}
    with daemon(tmp_path, "ryzen-9950x-rtx-4000", setups, seen=has(EFFICIENCY, *setups)) as watched:
        samples = watched.samples
        assert watched.hardware("known") == "rtx-4000-ada"
        assert watched.hardware("hand") == "geforce-rtx-4090"
        known_ceiling, by_hand_ceiling = (value(samples, CEILING, target=name) for name in setups)
        assert known_ceiling is not None
        assert by_hand_ceiling is not None
        assert by_hand_ceiling / known_ceiling == pytest.approx(1008 / 360, rel=0.001)
        assert not any(name == "llm_probe_energy_joules_per_token" for name, _ in samples)
        assert watched.setting("known", "gpu") is None
        assert watched.setting("known", "compute") == "cuda"
        assert "NVIDIA RTX 4000 Ada Generation" in page(watched.port)


def test_one_of_two_equal_gpus_by_the_memory_in_use(tmp_path: Path) -> None:
    """Of two R9700 the one that holds as much as the weights serves; the rule that decided is told."""
    path = model(tmp_path, "14b", qwen25_14b_q4_k_m())
    with daemon(tmp_path, "two-r9700", {"it": llama_server(path, speed=40)}, seen=has(EFFICIENCY, "it")) as watched:
        assert watched.setting("it", "gpu") == "0000:05:00.0"
        assert watched.of("it")["info"]["gpu_rule"] == "memory_in_use"
        assert value(watched.samples, CEILING, target="it") == pytest.approx(640 / 8.54, rel=0.01)


def test_two_gpus_that_serve_together(tmp_path: Path) -> None:
    """Tensor parallel of vLLM adds their bandwidths; llama.cpp's layers are read one GPU after the other, as fast as by one.

    What a server was given, and whose memory its process holds, decides which of the two serves it.
    """

    def shared(root: Path) -> None:
        for card in ("card1", "card2"):
            (root / f"sys/class/drm/{card}/device/mem_info_vram_used").write_text("5368709120\n")
        held = root / "sys/class/kfd/kfd/proc/204/vram_18121"
        held.parent.mkdir(parents=True)
        held.write_text("9000000000\n")

    path = model(tmp_path, "14b", qwen25_14b_q4_k_m())
    words = ("/usr/bin/python3", "/usr/bin/vllm", "serve", path, "--port", "{port}", "-tp", "2")
    setups = {
        "parallel": Setup(SimulatedVllm(tokens_per_second=60, model=path), words),
        "layers": llama_server(path, "-ngl", "99", speed=40),
        "hidden": llama_server(path, environment={"HIP_VISIBLE_DEVICES": "1"}, libraries=ROCM, speed=40),
        "device": llama_server(path, "--device", "Vulkan0", speed=40),
        "held": llama_server(path, speed=40),
    }
    with daemon(tmp_path, "two-r9700", setups, change=shared, seen=has(EFFICIENCY, *setups)) as watched:
        parallel, layers = (value(watched.samples, CEILING, target=name) for name in ("parallel", "layers"))
        assert layers == pytest.approx(640 / 8.54, rel=0.01)
        assert parallel is not None
        assert layers is not None
        assert parallel / layers == pytest.approx(2, rel=0.02)
        assert watched.setting("parallel", "tensor_parallel") == "2"
        decided = {name: (watched.setting(name, "gpu"), watched.of(name)["info"]["gpu_rule"]) for name in setups}
        assert decided == {
            "parallel": ("0000:05:00.0,0000:08:00.0", "tensor_parallel"),
            "layers": (None, ""),
            "hidden": ("0000:08:00.0", "given"),
            "device": ("0000:05:00.0", "given"),
            "held": ("0000:08:00.0", "process_memory"),
        }


def test_an_egpu_that_is_idle_leaves_the_strix_halo(tmp_path: Path) -> None:
    """The same machine with the model in the memory of the processor's GPU: that one serves."""

    def swapped(root: Path) -> None:
        (root / "sys/class/drm/card0/device/mem_info_vram_used").write_text("29360128\n")
        (root / "sys/class/drm/card1/device/mem_info_gtt_used").write_text("18253611008\n")

    one = llama_server(model(tmp_path, "14b", qwen25_14b_q4_k_m()), speed=20)
    with daemon(tmp_path, "strix-halo-r9700-egpu", {"it": one}, change=swapped, seen=has(EFFICIENCY, "it")) as watched:
        assert watched.hardware("it") == "ryzen-ai-max-395"
        assert value(watched.samples, CEILING, target="it") == pytest.approx(256 / 9.0, rel=0.06)


def test_hardware_and_gpu_that_were_set_by_hand_win(tmp_path: Path) -> None:
    """The bandwidth of the hardware that the user names counts, and the GPU that the user names serves."""
    path = model(tmp_path, "14b", qwen25_14b_q4_k_m())
    setups = {
        "hardware": llama_server(path, speed=20, target="hardware: radeon-rx-7600"),
        "gpu": llama_server(path, speed=20, target='gpu: "0000:c2:00.0"'),
        "read": llama_server(path, speed=20),
    }
    with daemon(tmp_path, "strix-halo-r9700-egpu", setups, seen=has(EFFICIENCY, *setups)) as watched:
        hardware, gpu, read = (value(watched.samples, CEILING, target=name) for name in setups)
        assert hardware is not None
        assert gpu is not None
        assert read is not None
        assert hardware / gpu == pytest.approx(288 / 256, rel=0.001)
        assert read / gpu == pytest.approx(640 / 256, rel=0.001)
        assert watched.of("gpu")["info"]["gpu_rule"] == "settings"
        assert watched.of("read")["info"]["gpu_rule"] == "memory_in_use"


# Bytes of a token ---------------------------------------------------------------------------------------------------------

DENSE_14B = {
    "general.architecture": "qwen2", "general.parameter_count": 14_770_033_664, "qwen2.block_count": 48,
    "qwen2.embedding_length": 5120, "qwen2.attention.head_count": 40, "qwen2.attention.head_count_kv": 8,
}  # fmt: skip
MIXTURE_30B = {
    "general.architecture": "qwen3moe", "general.parameter_count": 30_532_122_624, "qwen3moe.block_count": 48,
    "qwen3moe.embedding_length": 2048, "qwen3moe.attention.head_count": 32, "qwen3moe.attention.head_count_kv": 4,
    "qwen3moe.attention.key_length": 128, "qwen3moe.attention.value_length": 128, "qwen3moe.expert_count": 128,
    "qwen3moe.expert_used_count": 8, "qwen3moe.expert_feed_forward_length": 768,
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A model as an Ollama lists and shows it; ``ceiling`` is None where nothing tells what a token reads."""

    tag: str
    size: int
    parameters: str
    info: Mapping[str, Any]
    speed: float
    ceiling: float | None


SHOWN = {
    # A dense model that was distilled from a mixture, and one whose name tells nothing.
    "distilled": Shown("deepseek-r1:14b", 8_988_112_209, "14.8B", DENSE_14B, 20, 256 / 8.99),
    "nameless": Shown("mine:latest", 8_988_112_209, "14.8B", DENSE_14B, 20, 256 / 8.99),
    "mixture": Shown("coder:latest", 18_556_701_140, "30.5B", MIXTURE_30B, 50, 256 / 18.56 * 30.53 / 3.35),
    # What /api/show leaves out its name tells, or the table of families: 4.2 tok/s is a tenth of what the memory allows.
    "name": Shown("qwen3:30b-a3b", 18_556_701_140, "30.5B", {}, 50, 256 / 18.56 * 30.5 / 3),
    "table": Shown("glm-4.7-flash:latest", 19_000_000_000, "29.9B", {}, 4.2, 256 / 19.0 * 10),
    "unknown": Shown("secret:latest", 9_000_000_000, "3.2B", {}, 20, None),
}


def shown(one: Shown) -> Setup:
    """An Ollama that has this model."""
    server = SimulatedOllama(tokens_per_second=one.speed, load_seconds=0.1, gpu_memory_gib=96.0, version="0.33.0")
    server.disk = {one.tag: stored(one.tag, one.size, parameters=one.parameters, family="secret", info=one.info)}
    return Setup(server, target=f'model: "{one.tag}"')


def test_ollamas_whose_files_are_out_of_reach(tmp_path: Path) -> None:
    """``/api/show`` says whether a model is a mixture of experts and how much of it a token reads; else its name or the table.

    A model that may be a mixture has no ceiling, and the reason is told; nothing is guessed.
    """
    setups = {name: shown(one) for name, one in SHOWN.items()}
    known = [name for name, one in SHOWN.items() if one.ceiling is not None]
    with daemon(tmp_path, "strix-halo-96-gib", setups, seen=has(EFFICIENCY, *known)) as watched:
        for name in known:
            assert value(watched.samples, CEILING, target=name) == pytest.approx(SHOWN[name].ceiling, rel=0.06), name
            efficiency = value(watched.samples, EFFICIENCY, target=name)
            assert efficiency is not None
            assert efficiency < 1
            assert (efficiency < 0.15) == (name == "table"), name
        assert value(watched.samples, CEILING, target="unknown") is None
        assert "dense or a mixture" in watched.of("unknown")["judgement"]["no_ceiling"]


def test_offload_and_speculation_take_the_ceiling_away(tmp_path: Path) -> None:
    """Whatever says that work is done elsewhere or tokens are drafted: no ceiling, no efficiency, and the setting says why."""
    mixture = model(tmp_path, "30b", qwen3_30b_a3b(Q8_0))
    dense = model(tmp_path, "14b", qwen25_14b_q4_k_m())
    vllm = ("/usr/bin/python3", "/usr/bin/vllm", "serve", dense, "--port", "{port}")
    setups = {
        "layers": llama_server(dense, "-ngl", "20"),
        "layers-env": llama_server(dense, environment={"LLAMA_ARG_N_GPU_LAYERS": "0"}, libraries=ROCM),
        "n-cpu-moe": llama_server(mixture, "-ngl", "99", "--n-cpu-moe", "36"),
        "cpu-moe": llama_server(mixture, "-ngl", "99", "--cpu-moe"),
        "tensors": llama_server(mixture, "-ot", "blk.*exps=CPU"),
        "cache": llama_server(dense, "-ngl", "99", "-nkvo"),
        "vllm-offload": Setup(SimulatedVllm(tokens_per_second=100, model=dense), (*vllm, "--cpu-offload-gb", "8")),
        "draft": llama_server(dense, "-ngl", "99", "-md", "/models/small.gguf"),
        "ngram": llama_server(dense, "-ngl", "99", "--spec-type", "ngram-mod"),
        "vllm-draft": Setup(
            SimulatedVllm(tokens_per_second=100, model=dense), (*vllm, "--speculative-config", '{{"method": "mtp"}}')
        ),
        "timings": llama_server(dense, "-ngl", "99", drafts=True),
        "props": llama_server(dense, "-ngl", "99", props_drafts=True),
        "vllm-counts": Setup(SimulatedVllm(tokens_per_second=100, model=dense, drafts=True), vllm),
        "plain": llama_server(dense, "-ngl", "99", speed=20),
    }
    with daemon(tmp_path, "strix-halo-96-gib", setups, seen=has(EFFICIENCY, "plain")) as watched:
        for name in setups:
            told = watched.of(name)["judgement"]
            if name == "plain":
                assert told["no_ceiling"] == ""
                continue
            assert value(watched.samples, CEILING, target=name) is None, name
            assert value(watched.samples, EFFICIENCY, target=name) is None, name
            drafts = name in {"draft", "ngram", "vllm-draft", "timings", "props", "vllm-counts"}
            layers = "no layer of its model" if name == "layers-env" else "not all of its work"
            assert ("drafts tokens" if drafts else layers) in told["no_ceiling"], name
        offloads = {name: watched.setting(name, "cpu_offload") for name in setups}
        assert offloads["layers"] == "gpu_layers 20"
        assert offloads["n-cpu-moe"] == "n_cpu_moe 36"
        assert offloads["vllm-offload"] == "cpu_offload_gb 8"
        assert watched.setting("draft", "speculative") == "draft"
        assert watched.setting("vllm-draft", "speculative") == "mtp"
        assert labels_of(watched.samples, "llm_limit_info", target="layers")["limit"] == "offload"


def test_a_server_that_computes_on_the_cpu(tmp_path: Path) -> None:
    """It is said plainly, by the process's libraries or by the server itself; a part of a model elsewhere is another sentence."""
    dense = model(tmp_path, "14b", qwen25_14b_q4_k_m())

    def ollama(share: float) -> Setup:
        server = SimulatedOllama(
            tokens_per_second=8, load_seconds=0.1, gpu_memory_gib=96.0, version="0.33.0", gpu_share=share
        )
        server.disk = {
            "mine:14b": stored("mine:14b", 8_988_112_209, parameters="14.8B", family="qwen2", info=DENSE_14B)
        }
        return Setup(server, target='model: "mine:14b"')

    no_ceiling = "it computes on the CPU, so the GPU's memory isn't its limit"
    setups = {
        "process": llama_server(dense, libraries=("/usr/lib/libc.so.6",), environment={}, speed=8),
        "switch": llama_server(dense, "--device", "none", speed=8),
        "said": ollama(0.0),
        "part": ollama(0.6),
    }
    with daemon(tmp_path, "strix-halo-96-gib", setups) as watched:
        for name in ("process", "switch", "said"):
            told = watched.of(name)
            assert told["judgement"]["no_ceiling"] == no_ceiling, name
            assert told["reason"].endswith("; it computes on the CPU"), name
            assert watched.setting(name, "compute") == "cpu", name
            assert watched.setting(name, "gpu") is None, name
            assert [each["condition"] for each in told["advice"]] == ["computes_on_cpu"], name
            assert "(all)" not in json.dumps(told), name
        part = watched.of("part")
        assert part["judgement"]["no_ceiling"].startswith("a part of its model lies outside the GPU's memory, so")
        assert [each["sentence"] for each in part["advice"]] == ["A part of its model lies outside the GPU's memory."]
        at_prompt = command(tmp_path, "probe", "said", "--json")
        assert at_prompt["no_ceiling"] == no_ceiling
        assert [each["condition"] for each in at_prompt["advice"]] == ["computes_on_cpu"]


# Bands and settings -------------------------------------------------------------------------------------------------------


def test_a_vllm_with_aiter_and_an_fp8_cache_on_a_strix_halo(tmp_path: Path) -> None:
    """AITER has no effect there, and an FP8 cache shrinks no weights: the band of a server without both, below the ceiling."""
    path = model(tmp_path, "14b-bf16", qwen25_14b())
    words = ("/usr/bin/python3", "/usr/bin/vllm", "serve", path, "--port", "{port}", "--kv-cache-dtype", "fp8")
    environment = {"VLLM_ROCM_USE_AITER": "1", "HF_TOKEN": "hf_canary"}
    one = Setup(SimulatedVllm(tokens_per_second=8.3, model=path), words, environment, ROCM)
    with daemon(tmp_path, "strix-halo-96-gib", {"it": one}, seen=has(EFFICIENCY, "it")) as watched:
        samples = watched.samples
        assert value(samples, CEILING, target="it") == pytest.approx(9.15, abs=0.5)
        assert watched.setting("it", "aiter") == "no_effect"
        assert watched.setting("it", "kv_cache") == "fp8"
        assert watched.setting("it", "compute") == "rocm"
        assert watched.setting("it", "runtime") == "6.4.1"
        high = value(samples, "llm_expected_tokens_per_second", target="it", bound="max")
        assert high is not None
        assert high <= 9.65
        assert labels_of(samples, "llm_target_info", target="it")["scenario"] in {"vllm-fp16", ""}
        assert labels_of(samples, "llm_limit_info", target="it")["limit"] == "memory_bandwidth"
        assert "hf_canary" not in str(samples)


# ROCm ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "libraries", "expected"),
    [
        ("strix-halo-96-gib", ROCM, 0.0),
        ("strix-halo-96-gib", VULKAN, None),
        ("mi50-renoir", ROCM, None),
    ],
)
def test_a_rocm_6_4_of_a_distribution(
    tmp_path: Path, machine: str, libraries: Sequence[str] | None, expected: float | None
) -> None:
    """It is below the minimum only where it is known to serve, on a GPU that newer releases support."""
    (tmp_path / "rocm" / ".info").mkdir(parents=True)
    (tmp_path / "rocm" / ".info" / "version").write_text("6.4.1-83\n")
    readable: Mapping[str, str] | None = None if libraries is None else {}
    one = llama_server(model(tmp_path, "14b", qwen25_14b_q4_k_m()), libraries=libraries, environment=readable, speed=20)

    def seen(samples: Samples) -> bool:
        found = labels_of(samples, "rocm_version_info", scope="host")
        return bool(found) and labels_of(samples, "llm_target_info", target="it")["model"] != ""

    with daemon(tmp_path, machine, {"it": one}, rocm="rocm", seen=seen) as watched:
        assert value(watched.samples, "rocm_version_supported", scope="host") == expected


# Sensors ------------------------------------------------------------------------------------------------------------------


def test_a_throttle_bit_that_lies(tmp_path: Path) -> None:
    """An RX 7600S at 54 degrees keeps its hot spot's bit, and is at its power limit: neither is heat, and the page doesn't say so."""
    metrics = bytearray(b"\xff" * 120)
    struct.pack_into("<HBB", metrics, 0, 120, 1, 3)
    struct.pack_into("<Q", metrics, 112, 1 << 36 | 1)

    def change(root: Path) -> None:
        (root / "sys/class/drm/card1/device/gpu_metrics").write_bytes(metrics)
        # A sensor that nothing fills.
        (root / "sys/class/drm/card1/device/hwmon/hwmon5/temp3_input").write_text("0\n")

    one = llama_server(model(tmp_path, "14b", qwen25_14b_q4_k_m()), speed=20)

    def seen(samples: Samples) -> bool:
        return value(samples, "amdgpu_throttled", reason="power") is not None

    with daemon(tmp_path, "rx-7600s", {"it": one}, change=change, seen=seen) as watched:
        shares = {
            dict(own)["reason"]: share for (name, own), share in watched.samples.items() if name == "amdgpu_throttled"
        }
        assert shares == {"thermal": 0.0, "power": 1.0, "current": 0.0, "other": 0.0}
        assert labels_of(watched.samples, "amdgpu_temperature_celsius", sensor="junction")
        assert not labels_of(watched.samples, "amdgpu_temperature_celsius", sensor="mem")
        shown = page(watched.port)
        assert "throttled by heat" not in shown
        assert "power limit, which is normal" in shown


@pytest.mark.parametrize(("machine", "scope"), [("rx-6900-xt", "gpu"), ("steam-deck", "socket")])
def test_energy_says_whose_it_is(tmp_path: Path, machine: str, scope: str) -> None:
    """The energy of a token is the GPU's, or that of the processor with it."""
    one = llama_server(model(tmp_path, "14b", qwen25_14b_q4_k_m()), speed=20)
    name = "llm_probe_energy_joules_per_token"
    with daemon(tmp_path, machine, {"it": one}, seen=has(name, "it")) as watched:
        assert labels_of(watched.samples, name, target="it")["scope"] == scope
        assert labels_of(watched.samples, "amdgpu_power_watts")["scope"] == scope


@pytest.mark.parametrize(
    ("machine", "name", "target"), [("mi300a", "Instinct MI300A", "gfx942"), ("bc-250", "BC-250", "gfx1013")]
)
def test_memory_that_is_unified(tmp_path: Path, machine: str, name: str, target: str) -> None:
    """The MI300A and the BC-250 share one memory with their CPUs, and are their machines' only GPUs."""
    one = llama_server(model(tmp_path, "14b", qwen25_14b_q4_k_m()), speed=20)
    with daemon(tmp_path, machine, {"it": one}, seen=has(EFFICIENCY, "it")) as watched:
        found = labels_of(watched.samples, "amdgpu_info")
        assert (found["name"], found["gfx_target"], found["unified_memory"]) == (name, target, "true")


def test_a_sleeping_gpu_says_so(tmp_path: Path) -> None:
    """It is not woken: it has a series that says that it sleeps, no other sensor's, and the page says it."""
    one = llama_server(model(tmp_path, "14b", qwen25_14b_q4_k_m()), speed=10)
    asleep = "0000:03:00.0"

    def seen(samples: Samples) -> bool:
        return value(samples, "amdgpu_suspended", gpu=asleep) is not None

    with daemon(tmp_path, "sleeping-rx-7600m-xt", {"it": one}, seen=seen) as watched:
        assert value(watched.samples, "amdgpu_suspended", gpu=asleep) == 1
        assert value(watched.samples, "amdgpu_suspended", gpu="0000:64:00.0") == 0
        sensors = {"amdgpu_busy_ratio", "amdgpu_memory_used_bytes", "amdgpu_power_watts", "amdgpu_clock_hertz"}
        assert not any(name in sensors and dict(own)["gpu"] == asleep for name, own in watched.samples)
        assert "does not wake it" in page(watched.port)


def test_the_other_facts_of_a_machine(tmp_path: Path) -> None:
    """Firmware by block, vBIOS, kernel and its parameters, carve-out and GTT as metrics; the advice that follows on the page."""
    one = llama_server(model(tmp_path, "14b", qwen25_14b_q4_k_m()), speed=20)

    def seen(samples: Samples) -> bool:
        return bool(labels_of(samples, "host_kernel_info"))

    with daemon(tmp_path, "framework-desktop-fedora", {"it": one}, seen=seen) as watched:
        samples = watched.samples
        assert labels_of(samples, "host_kernel_info")["release"] == "6.17.9-300.fc43.x86_64"
        parameters = {
            dict(own)["parameter"]: dict(own)["value"] for name, own in samples if name == "host_kernel_parameter_info"
        }
        assert parameters["ttm.pages_limit"] == "32505856"
        assert parameters["amd_iommu"] == "pt"
        assert not {"root", "systemd.hostname"} & parameters.keys()
        assert labels_of(samples, "amdgpu_firmware_info", block="mes")["version"] == "0x83"
        assert labels_of(samples, "amdgpu_vbios_info")["version"] == "113-STRXLGEN-001"
        assert value(samples, "amdgpu_memory_total_bytes", kind="vram") == 536870912
        assert value(samples, "amdgpu_memory_total_bytes", kind="gtt") == 133143986176
        profile = labels_of(samples, "host_power_profile_info")
        assert profile["platform_profile"] == "low-power"
        shown = page(watched.port)
        assert "133 GB" in shown
        assert "parameter for passthrough is iommu=pt" in shown
        assert "0x83" in shown
