"""The whole daemon on a Strix Halo, as a user runs it: published models in their places, and the verdicts that follow.

Files and the server are simulated, nothing else: the headers of the models are made up from their published shapes, and the
files are sparse.
"""

import hashlib
import json
import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.cache.build import Hub, gguf_header, sparse_gguf
from tests.cache.shapes import Q8_0, Tensors, qwen3_30b_a3b, qwen25_14b
from tests.ports import free_port
from tests.real.daemon import forked_daemon, labels_of, scrape, value
from tests.samples import Samples
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.ollama import SimulatedOllama, stored
from tests.servers.simulated import Simulated
from tests.servers.text_generation_webui import SimulatedTextGenerationWebui
from tests.servers.transformers_serve import SimulatedTransformersServe
from tests.servers.vllm import SimulatedVllm
from tests.waiting import eventually

ROOT: Final = Path(__file__).parents[1]
STRIX_HALO: Final = ROOT / "tests" / "fixtures" / "host" / "sys" / "radeon-8060s"
DENSE, MIXTURE = "Qwen/Qwen2.5-14B-Instruct", "Qwen/Qwen3-30B-A3B"
LAYER_NAMES: Final = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
TOP_NAMES: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output.weight": "lm_head.weight",
    "output_norm.weight": "model.norm.weight",
}


def in_transformers_names(tensors: Tensors) -> dict[str, int]:
    """The same tensors as a repository in BF16 names them, with their bytes; each expert by itself."""
    found: dict[str, int] = {}
    for name, (dimensions, _) in tensors.items():
        size = 2
        for each in dimensions:
            size *= each
        if name in TOP_NAMES:
            found[TOP_NAMES[name]] = size
            continue
        _, block, part, kind = name.split(".")
        if part.endswith("_exps"):
            count, matrix = dimensions[-1], part.removeprefix("ffn_").removesuffix("_exps")
            for expert in range(count):
                found[f"model.layers.{block}.mlp.experts.{expert}.{matrix}_proj.weight"] = size // count
        else:
            found[f"model.layers.{block}.{LAYER_NAMES[part]}.{kind}"] = size
    return found


def into_hub(hub: Path, name: str, tensors: Tensors, config: Mapping[str, Any]) -> None:
    """Leave a repository of one sparse safetensors file in a Hugging Face cache."""
    header: dict[str, Any] = {}
    at = 0
    for tensor, size in in_transformers_names(tensors).items():
        header[tensor] = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    files: dict[str, bytes | int] = {"config.json": json.dumps(config).encode(), "model.safetensors": 8 + len(raw) + at}
    folder = Hub(hub).repository(name, files)
    (weights,) = folder.glob("snapshots/*/model.safetensors")
    with weights.open("r+b") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)


def into_ollama(root: Path, tag: str, metadata: Mapping[str, object], tensors: Tensors) -> None:
    """Leave a tag with one sparse blob in an Ollama's store; the digest is made up."""
    model, _, version = tag.partition(":")
    (root / "blobs").mkdir(parents=True)
    digest = hashlib.sha256(tag.encode()).hexdigest()
    sparse_gguf(root / "blobs" / f"sha256-{digest}", metadata, tensors)
    header, size = gguf_header(metadata, tensors)
    config = root / "blobs" / f"sha256-{hashlib.sha256(b'{}').hexdigest()}"
    config.write_bytes(b"{}")
    layer = {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": f"sha256:{digest}",
        "size": len(header) + size,
    }
    described = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": f"sha256:{config.name[7:]}"}
    manifest = root / "manifests" / "registry.ollama.ai" / "library" / model / version
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "config": {**described, "size": 2}, "layers": [layer]}))


QWEN2_CONFIG: Final = {
    "architectures": ["Qwen2ForCausalLM"], "num_hidden_layers": 48, "hidden_size": 5120, "num_attention_heads": 40,
    "num_key_value_heads": 8, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
QWEN3_CONFIG: Final = {
    "architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "num_experts": 128, "num_experts_per_tok": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A server with its model on the disk: the caches to scan, and the server to probe."""

    server: Simulated
    caches: str = "[]"
    model: str = "null"


def vllm(folder: Path, *, mixture: bool, speed: float) -> Scene:
    """A vLLM whose model lies in the Hugging Face cache, in BF16."""
    name = MIXTURE if mixture else DENSE
    _, tensors = qwen3_30b_a3b() if mixture else qwen25_14b()
    into_hub(folder / "hub", name, tensors, QWEN3_CONFIG if mixture else QWEN2_CONFIG)
    caches = f"[{{name: huggingface, kind: huggingface, path: {folder / 'hub'}}}]"
    return Scene(SimulatedVllm(tokens_per_second=speed, model=name), caches)


def llama_server(folder: Path, *, mixture: bool, speed: float) -> Scene:
    """A llama-server with a file that lies in no cache: /props says where."""
    metadata, tensors = qwen3_30b_a3b(Q8_0) if mixture else qwen25_14b()
    path = sparse_gguf(folder / "model.gguf", metadata, tensors)
    return Scene(SimulatedLlamaServer(tokens_per_second=speed, model=str(path)))


def ollama(folder: Path, *, mixture: bool, speed: float) -> Scene:
    """An Ollama with its own store."""
    tag = "qwen3:30b" if mixture else "qwen2.5:14b-instruct-fp16"
    metadata, tensors = qwen3_30b_a3b(Q8_0) if mixture else qwen25_14b()
    into_ollama(folder / "ollama", tag, metadata, tensors)
    server = SimulatedOllama(tokens_per_second=speed, load_seconds=0.1, gpu_memory_gib=96.0, version="0.33.0")
    server.disk = {tag: stored(tag, 30_000_000_000)}
    return Scene(server, f"[{{name: ollama, kind: ollama, path: {folder / 'ollama'}}}]", tag)


def transformers_serve(folder: Path, *, mixture: bool, speed: float) -> Scene:
    """A transformers serve whose model lies in the Hugging Face cache."""
    made = vllm(folder, mixture=mixture, speed=speed)
    name = MIXTURE if mixture else DENSE
    return Scene(SimulatedTransformersServe(tokens_per_second=speed, model=name, on_disk=(name,)), made.caches, name)


def text_generation_webui(folder: Path, *, mixture: bool, speed: float) -> Scene:
    """A text-generation-webui with a file in its folder of models."""
    metadata, tensors = qwen3_30b_a3b(Q8_0) if mixture else qwen25_14b()
    (folder / "models").mkdir()
    sparse_gguf(folder / "models" / "qwen.gguf", metadata, tensors)
    server = SimulatedTextGenerationWebui(tokens_per_second=speed, model="qwen.gguf")
    return Scene(server, f"[{{name: webui, kind: files, path: {folder / 'models'}}}]")


def judged(scene: Scene, folder: Path, name: str = "llm_decode_efficiency_ratio") -> Samples:
    """What the daemon exports of a server after a good probe, as soon as it has this series."""
    port, config = free_port(), folder / "config.yml"
    with scene.server as server:
        config.write_text(
            f"""
targets: [{{name: it, url: "http://127.0.0.1:{_port(server)}", model: {scene.model}, budget: {{share: 100%}}}}]
modules: {{default: {{interval: 1s, max_tokens: 16, when_unloaded: load, when_idle: probe}}}}
discovery: {{local: false, docker: false}}
docker: {{enabled: false}}
host: {{sysfs: {STRIX_HALO}, proc: {folder / "no-proc"}, rocm: {folder / "no-rocm"}}}
cache: {{paths: {scene.caches}}}
"""
        )
        with forked_daemon("--config", config, port=port, log=folder / "log"):
            eventually(lambda: value(scrape(port), name, target="it") is not None, "a ceiling and a speed")
            return scrape(port)


def _port(server: Simulated) -> int:
    assert server._http is not None
    return int(server._http.server_address[1])


@pytest.mark.parametrize(
    ("make", "mixture", "speed", "ceiling"),
    [
        (vllm, False, 8.3, 9.15),
        (llama_server, False, 8.3, 9.15),
        (ollama, False, 8.3, 9.15),
        (vllm, True, 25.0, 42.4),
        (llama_server, True, 50.0, 79.9),
        (ollama, True, 50.0, 79.9),
    ],
)
def test_a_server_at_its_best_is_no_fault(
    tmp_path: Path, make: Any, *, mixture: bool, speed: float, ceiling: float
) -> None:
    """Ceiling by the file that it runs, efficiency below 1, no band above the ceiling, and the limit by its name."""
    samples = judged(make(tmp_path, mixture=mixture, speed=speed), tmp_path)
    found = value(samples, "llm_decode_ceiling_tokens_per_second", target="it")
    assert found == pytest.approx(ceiling, rel=0.055)
    measured = value(samples, "llm_probe_tokens_per_second", target="it")
    assert measured is not None
    assert found is not None
    assert value(samples, "llm_decode_efficiency_ratio", target="it") == pytest.approx(measured / found)
    high = value(samples, "llm_expected_tokens_per_second", target="it", bound="max")
    low = value(samples, "llm_expected_tokens_per_second", target="it", bound="min")
    assert high is not None
    assert low is not None
    assert low <= measured <= found
    assert high <= found
    limit = labels_of(samples, "llm_limit_info", target="it")["limit"]
    assert limit == ("unknown" if mixture else "memory_bandwidth")
    assert labels_of(samples, "llm_target_info", target="it")["hardware"] == "ryzen-ai-max-395"
    setting = labels_of(samples, "llm_target_setting_info", target="it", setting="gpu")
    assert setting["value"] == labels_of(samples, "amdgpu_suspended")["gpu"]


@pytest.mark.parametrize("make", [transformers_serve, text_generation_webui])
def test_a_model_in_a_cache_gives_any_server_its_ceiling(tmp_path: Path, make: Any) -> None:
    """A transformers serve, and a text-generation-webui, whose tokens are estimated: so its speed has no efficiency."""
    name = "llm_decode_ceiling_tokens_per_second"
    samples = judged(make(tmp_path, mixture=False, speed=8.3), tmp_path, name)
    assert value(samples, name, target="it") == pytest.approx(9.15, abs=0.05)
    high = value(samples, "llm_expected_tokens_per_second", target="it", bound="max")
    assert high is not None
    assert high <= 9.15


def test_the_alerts_of_a_14b_in_bf16_on_a_strix_halo(tmp_path: Path) -> None:
    """What the daemon exports raises LLMThroughputAtCeiling by the shipped rules, and no warning."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    samples = judged(vllm(tmp_path, mixture=False, speed=8.3), tmp_path)
    rules = ROOT / "deploy" / "prometheus" / "rules"
    case = {
        "rule_files": [str(rules / "recording.yml"), str(rules / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": list(_series(samples)),
                "promql_expr_test": [
                    {
                        "expr": 'max by (alertname) (ALERTS{alertstate="firing", target="it"})',
                        "eval_time": "60m",
                        "exp_samples": [{"labels": '{alertname="LLMThroughputAtCeiling"}', "value": 1}],
                    }
                ],
            }
        ],
    }
    (tmp_path / "case.yml").write_text(yaml.safe_dump(case))
    ran = subprocess.run(
        [promtool, "test", "rules", str(tmp_path / "case.yml")], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def _series(samples: Samples) -> Any:
    """Each sample as it would go on for an hour: counters of good probes and times rise, all else stays."""
    for (name, labels), number in samples.items():
        if not name.startswith(("llm_", "amdgpu_", "host_")) or name.endswith(("_bucket", "_sum", "_count")):
            continue
        own = {**dict(labels), "job": "llm-probe-exporter", "instance": "box:9937"}
        words = ",".join(f"{key}={json.dumps(each)}" for key, each in sorted(own.items()))
        values = f"{number}+0x60"
        if name == "llm_probes_total" and own["result"] == "ok":
            values = "1+60x60"
        elif name.endswith("_timestamp_seconds"):
            values = "0+60x60"
        yield {"series": f"{name}{{{words}}}", "values": values}
