"""The real daemon as a process, real files, a real socket: facts of three rooms become one figure in the exposition."""

from pathlib import Path

import pytest

from tests.cache.build import Hub, safetensors
from tests.ports import free_port
from tests.real.daemon import forked_daemon, scrape, value
from tests.servers.exact import ExactServer, chat, plain
from tests.waiting import eventually

STRIX_HALO = Path(__file__).parent / "fixtures" / "host" / "sys" / "radeon-8060s"
BANDWIDTH = 256e9
"""Bytes a second: eight channels of LPDDR5X-8000, the product's own figure."""

# A made-up model: two layers, two KV heads of 64, an input embedding that is no output head.
MODEL = "made-up/Tiny-1M"
EMBEDDING, LAYERS, HEAD = 400_000, 1_200_000, 400_000
CONFIG = (
    b'{"architectures": ["Qwen2ForCausalLM"], "num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 4,'
    b' "num_key_value_heads": 2, "tie_word_embeddings": false, "torch_dtype": "bfloat16"}'
)
KV_BYTES = 2 * 2 * 2 * 64 * 2
"""Of one token of context: layers × (keys and values) × heads × their size × bytes of a 16-bit number."""

METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="made-up/Tiny-1M"} 0.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="made-up/Tiny-1M"} 0.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="made-up/Tiny-1M"} 100.0
"""


def vllm() -> ExactServer:
    """A server that answers as vLLM does, with 16 tokens after a prompt of 20."""
    model = {"id": MODEL, "object": "model", "owned_by": "vllm", "root": MODEL, "max_model_len": 2048}
    return ExactServer(
        {
            "/health": plain(b""),
            "/version": plain({"version": "0.11.2"}),
            "/metrics": plain(METRICS, content_type="text/plain; version=0.0.4"),
            "/v1/models": plain({"object": "list", "data": [model]}),
            "/v1/chat/completions": chat(tokens=16, prompt_tokens=20, tokens_per_second=100, running=True, model=MODEL),
        }
    )


def test_a_model_in_a_cache_gives_the_ceiling_of_its_server(tmp_path: Path) -> None:
    """A vLLM on a Strix Halo whose weights lie in the Hugging Face cache has the ceiling that its files allow."""
    hub = tmp_path / "hub"
    tensors = {
        "model.embed_tokens.weight": EMBEDDING,
        "model.layers.0.mlp.up_proj.weight": LAYERS,
        "lm_head.weight": HEAD,
    }
    Hub(hub).repository(MODEL, {"config.json": CONFIG, "model.safetensors": safetensors(tensors)})
    port, config = free_port(), tmp_path / "config.yml"
    with vllm() as server:
        config.write_text(f"""
targets: [{{name: tiny, url: "{server.url}", modules: [default]}}]
modules: {{default: {{interval: 1s, max_tokens: 16}}}}
discovery: {{local: false, docker: false}}
docker: {{enabled: false}}
host: {{sysfs: {STRIX_HALO}, rocm: {tmp_path}}}
cache: {{paths: [{{name: hub, kind: huggingface, path: {hub}}}]}}
""")
        with forked_daemon("--config", config, port=port, log=tmp_path / "log"):
            name = "llm_decode_efficiency_ratio"
            eventually(lambda: value(scrape(port), name, target="tiny") is not None, what="the ceiling of a good probe")
            samples = scrape(port)
    context = 20 + 16 / 2
    ceiling = BANDWIDTH / (LAYERS + HEAD + KV_BYTES * context)
    assert value(samples, "llm_decode_ceiling_tokens_per_second", target="tiny") == pytest.approx(ceiling)
    speed = value(samples, "llm_probe_tokens_per_second", target="tiny")
    assert speed
    assert value(samples, name, target="tiny") == pytest.approx(speed / ceiling)
