"""Command lines and environments → launch settings: each program's switches, what is unknown, and that no key comes out."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.launch.programs import SERVERS, VARIABLES, ProgramName
from exporter.launch.settings import (
    Compute,
    LaunchSettings,
    aiter_state,
    aiter_usable,
    allowed,
    cpu_offload,
    defaults_of,
    read_launch,
    settings_of,
)


def launch(name: ProgramName, arguments: str = "", environment: str = "", *, complete: bool = True) -> LaunchSettings:
    """The settings of a command line and ``NAME=value`` words."""
    return read_launch(name, shlex.split(arguments), allowed(shlex.split(environment)), complete=complete)


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ("-m /m/a.gguf -c 8192", "", {"context": "8192"}),
        ("-ctk q8_0 -ctv q8_0", "", {"kv_cache": "q8_0"}),
        ("--cache-type-k q8_0", "", {"kv_cache": "q8_0/f16"}),
        ("", "LLAMA_ARG_CACHE_TYPE_K=q4_0 LLAMA_ARG_CACHE_TYPE_V=q4_0", {"kv_cache": "q4_0"}),
        ("-np 4 -ub 2048 -sm row", "", {"slots": "4", "micro_batch": "2048", "split_mode": "row"}),
        ("-np 2", "LLAMA_ARG_N_PARALLEL=8", {"slots": "2"}),
        ("-np -1 -c 0", "", {}),
        ("-fa", "", {"flash_attention": "on"}),
        ("-fa -ngl 99", "", {"flash_attention": "on", "cpu_offload": "none"}),
        ("-fa off", "", {"flash_attention": "off"}),
        ("--flash-attn 1", "LLAMA_ARG_FLASH_ATTN=off", {"flash_attention": "on"}),
        ("", "LLAMA_ARG_FLASH_ATTN=auto", {"flash_attention": "auto"}),
        ("-md draft.gguf", "", {"speculative": "draft"}),
        ("-hfd o/r:Q4_0 --spec-type draft-mtp,ngram-mod", "", {"speculative": "draft-mtp,ngram-mod"}),
        ("--spec-type none", "", {"speculative": "none"}),
        ("--spec-default", "", {"speculative": "ngram-mod"}),
        ("-mtp", "", {"speculative": "mtp"}),
        ("", "LLAMA_ARG_SPEC_TYPE=draft-mtp", {"speculative": "draft-mtp"}),
        ("--fim-qwen-7b-spec", "", {"speculative": "draft"}),
        ("-ngl all", "", {"cpu_offload": "none"}),
        ("-ngl -2", "", {"cpu_offload": "none"}),
        ("-ngl 49", "", {"cpu_offload": "none"}),
        ("-ngl 48", "", {"cpu_offload": "gpu_layers 48"}),
        ("-ngl 0", "", {"cpu_offload": "gpu_layers 0"}),
        ("-ngl 20", "LLAMA_ARG_N_GPU_LAYERS=all", {"cpu_offload": "gpu_layers 20"}),
        ("-ngl auto", "", {}),
        ("--n-cpu-moe 36", "", {"cpu_offload": "n_cpu_moe 36"}),
        ("-ncmoe 0 -ngl all", "", {"cpu_offload": "none"}),
        ("-ncffn 3", "", {"cpu_offload": "n_cpu_ffn 3"}),
        ("-cmoe", "", {"cpu_offload": "cpu_moe"}),
        ("", "LLAMA_ARG_CPU_MOE=1", {"cpu_offload": "cpu_moe"}),
        ("", "LLAMA_ARG_CPU_MOE=0", {}),
        ("-ot 'blk.[0-9].*exps=CPU'", "", {"cpu_offload": "override_tensor"}),
        ("-ot a=ROCm0,b=CPU -ot c=ROCm0", "", {"cpu_offload": "override_tensor"}),
        ("-ot a=ROCm0", "LLAMA_ARG_OVERRIDE_TENSOR=b=CPU", {"cpu_offload": "override_tensor"}),
        ("-ot exps=ROCm1", "", {}),
        ("-nkvo", "", {"cpu_offload": "no_kv_offload"}),
        ("", "LLAMA_ARG_NO_KV_OFFLOAD=0", {"cpu_offload": "no_kv_offload"}),
        ("", "LLAMA_ARG_KV_OFFLOAD=off", {"cpu_offload": "no_kv_offload"}),
        ("-kvo", "LLAMA_ARG_KV_OFFLOAD=off", {}),
        ("--rpc 10.0.0.2:50052", "", {"cpu_offload": "rpc"}),
        ("-dev none", "", {"cpu_offload": "device none", "compute": "cpu"}),
        ("-dev ROCm0", "", {"compute": "rocm"}),
        ("--device Vulkan0,Vulkan1", "", {"compute": "vulkan"}),
        ("--device ROCm0,CUDA0", "", {}),
        ("-ngl 99 -ot x=CPU -cmoe -nkvo", "", {"cpu_offload": "override_tensor, no_kv_offload, cpu_moe"}),
    ],
)
def test_llama_server(arguments: str, environment: str, expected: dict[str, str]) -> None:
    """Each switch and its twin in the environment, for a model of 48 layers; an option wins over a variable."""
    found = settings_of(launch("llama-server", arguments, environment), layers=48)
    defaults = {"kv_cache": "f16", "speculative": "none"}
    order = sorted(found.get("cpu_offload", "").split(", "))
    assert order == sorted(expected.get("cpu_offload", "").split(", "))
    assert {**found, "cpu_offload": ""} == {**defaults, **expected, "cpu_offload": ""}


def test_what_could_not_be_read_is_unknown() -> None:
    """Without its environment a server's command line says only what it says: no default, and nothing is ruled out."""
    assert settings_of(launch("llama-server", "-ngl all", complete=False), layers=48) == {}
    assert settings_of(launch("llama-server", "-ctk q8_0", complete=False)) == {"kv_cache": "q8_0/?"}
    assert settings_of(launch("vllm", "m", complete=False)) == {}
    assert settings_of(launch("llama-server", "-cmoe", complete=False)) == {"cpu_offload": "cpu_moe"}
    assert cpu_offload(launch("llama-server", "-ngl 99"), None) is None
    assert cpu_offload(launch("llama-server", "-ngl 0"), None) == "gpu_layers 0"


def test_a_file_of_settings_makes_the_rest_unknown() -> None:
    """What a config file may say is no default."""
    defaults = {
        "kv_cache": "auto",
        "speculative": "none",
        "cpu_offload": "none",
        "aiter": "off",
        "tensor_parallel": "1",
    }
    assert settings_of(launch("vllm", "m")) == defaults
    assert settings_of(launch("vllm", "--config c.yml")) == {}
    assert settings_of(launch("koboldcpp", "--config c.kcpps")) == {}
    assert settings_of(launch("text-generation-webui", "--api")) == {}


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ("m --kv-cache-dtype fp8_e4m3", "", {"kv_cache": "fp8_e4m3"}),
        ("m --kv_cache_dtype=fp8", "", {"kv_cache": "fp8"}),
        (
            "m -tp 2 --max-model-len 32K --max-num-seqs 8",
            "",
            {"tensor_parallel": "2", "context": "32768", "slots": "8"},
        ),
        ("m --cpu-offload-gb 10", "", {"cpu_offload": "cpu_offload_gb 10"}),
        ("m --cpu-offload-gb 0", "", {}),
        ("m --offload-group-size 8", "", {"cpu_offload": "offload_group_size 8"}),
        ("""m --speculative-config '{"method": "mtp", "num_speculative_tokens": 2}'""", "", {"speculative": "mtp"}),
        ("""m --speculative-config '{"model": "x/y"}'""", "", {"speculative": "draft"}),
        ("m --speculative-config '{broken'", "", {"speculative": "on"}),
        ("m --speculative-config.method eagle3", "", {"speculative": "eagle3"}),
        ("m --speculative-config.num_speculative_tokens 3", "", {"speculative": "on"}),
        ("m --speculative-model x/y", "", {"speculative": "draft"}),
        ("m", "VLLM_ROCM_USE_AITER=1", {"aiter": "on"}),
        ("m", "VLLM_ROCM_USE_AITER=yes", {"aiter": "off"}),
        ("m --attention-backend ROCM_AITER_FA", "", {"aiter": "on"}),
    ],
)
def test_vllm(arguments: str, environment: str, expected: dict[str, str]) -> None:
    """Each switch in both spellings; sizes as vLLM takes them."""
    defaults = {
        "kv_cache": "auto",
        "speculative": "none",
        "cpu_offload": "none",
        "aiter": "off",
        "tensor_parallel": "1",
    }
    assert settings_of(launch("vllm", arguments, environment)) == {**defaults, **expected}


def test_vllm_on_several_gpus_by_another_way() -> None:
    """One GPU is vLLM's default only where it isn't told to divide the model otherwise."""
    assert launch("vllm", "m -pp 2").tensor_parallel is None


@pytest.mark.parametrize(
    ("name", "arguments", "environment", "expected"),
    [
        (
            "ollama",
            "",
            "OLLAMA_KV_CACHE_TYPE=q8_0 OLLAMA_FLASH_ATTENTION=1 OLLAMA_NUM_PARALLEL=2 OLLAMA_CONTEXT_LENGTH=8192",
            {"kv_cache": "q8_0", "flash_attention": "on", "slots": "2", "context": "8192", "speculative": "none"},
        ),
        (
            "ollama-runner",
            "--model /b --ctx-size 8192 --n-gpu-layers 20 --flash-attn --kv-cache-type q8_0 --parallel 2 --port 4",
            "",
            {
                "kv_cache": "q8_0", "flash_attention": "on", "slots": "2", "context": "8192", "speculative": "none",
                "cpu_offload": "gpu_layers 20",
            },
        ),
        (
            "text-generation-webui",
            "--api --model m.gguf --cache-type q8_0 --ctx-size 4096 --cpu-moe --model-draft d.gguf --parallel 2",
            "",
            {"kv_cache": "q8_0", "context": "4096", "cpu_offload": "cpu_moe", "speculative": "draft", "slots": "2"},
        ),
        (
            "koboldcpp",
            "m.gguf 5002 --quantkv 1 --gpulayers 20 --usevulkan --flashattention --contextsize 4096 --draftmodel d",
            "",
            {
                "kv_cache": "q8_0", "cpu_offload": "gpu_layers 20", "compute": "vulkan", "flash_attention": "on",
                "context": "4096", "speculative": "draft",
            },
        ),
        ("koboldcpp", "--model m --moecpu", "", {"cpu_offload": "n_cpu_moe", "speculative": "none"}),
        ("koboldcpp", "--model m --usecpu", "", {"cpu_offload": "cpu", "compute": "cpu", "speculative": "none"}),
        (
            "sglang",
            "--model-path m --tp 2 --kv-cache-dtype fp8_e5m2 --speculative-algorithm EAGLE --context-length 4096",
            "SGLANG_USE_AITER=1",
            {
                "tensor_parallel": "2", "kv_cache": "fp8_e5m2", "speculative": "eagle", "context": "4096", "aiter": "on",
                "cpu_offload": "none",
            },
        ),
        ("transformers", "m --device cpu", "", {"cpu_offload": "device cpu", "compute": "cpu", "speculative": "none"}),
    ],
)  # fmt: skip
def test_other_programs(name: ProgramName, arguments: str, environment: str, expected: dict[str, str]) -> None:
    """The switches of the other programs, by their own names."""
    found = settings_of(launch(name, arguments, environment), layers=40)
    found.pop("kv_cache") if "kv_cache" not in expected and found.get("kv_cache") == "f16" else None
    assert found == expected


@pytest.mark.parametrize(
    ("name", "arguments", "environment", "expected"),
    [
        ("llama-server", "-m /m/a.gguf --port 9", "", ("a.gguf", "/m/a.gguf", 9)),
        ("llama-server", "-m a.gguf", "LLAMA_ARG_PORT=9", ("a.gguf", "a.gguf", 9)),
        ("llama-server", "-hf o/r:Q4_K_M", "", ("o/r:Q4_K_M", "o/r:Q4_K_M", None)),
        ("llama-server", "-mu https://u:p@h/a.gguf?x=1", "", ("a.gguf", None, None)),
        ("llama-server", "--gpt-oss-20b-default", "", ("ggml-org/gpt-oss-20b-GGUF", "ggml-org/gpt-oss-20b-GGUF", 8013)),
        ("llama-server", "--gpt-oss-20b-default --port 1", "", ("ggml-org/gpt-oss-20b-GGUF", "ggml-org/gpt-oss-20b-GGUF", 1)),
        ("ollama", "", "OLLAMA_HOST=0.0.0.0:80", (None, None, 80)),
        ("koboldcpp", "m.gguf 5002", "", ("m.gguf", "m.gguf", 5002)),
        ("vllm", "/h/hub/models--Q--R/snapshots/1 --port 0", "", ("Q/R", "/h/hub/models--Q--R/snapshots/1", 0)),
        ("text-generation-webui", "--api --listen --api-port 5001 --model m", "", ("m", "m", 5001)),
    ],
)  # fmt: skip
def test_model_and_port(
    name: ProgramName, arguments: str, environment: str, expected: tuple[str | None, str | None, int | None]
) -> None:
    """The model as it can be shown and as it can be opened, and the port as stated."""
    found = launch(name, arguments, environment)
    assert (found.model, found.model_path, found.port) == expected
    assert found.default_port == SERVERS[name].port


def test_devices() -> None:
    """What the server was told to use, and what it was allowed to see."""
    found = launch(
        "llama-server",
        "-dev ROCm0,ROCm1 -mg 1 --sleep-idle-seconds 300",
        "HIP_VISIBLE_DEVICES=0,1 GGML_VK_VISIBLE_DEVICES= CUDA_VISIBLE_DEVICES='a b'",
    )
    assert (found.devices, found.main_gpu, found.sleep_idle_seconds) == (("ROCm0", "ROCm1"), 1, 300)
    assert found.visible_devices == (("HIP_VISIBLE_DEVICES", "0,1"), ("GGML_VK_VISIBLE_DEVICES", ""))


@pytest.mark.parametrize(
    ("architectures", "targets", "usable"),
    [
        ((), (), None),
        ((), ("gfx942",), True),
        ((), ("gfx950", "gfx1036"), True),
        ((), ("gfx1151",), False),
        ((), ("gfx1100",), False),
        ((), ("gfx1201",), None),
        (("gfx942",), ("gfx1201",), False),
        (("gfx942", "gfx1151"), ("gfx1151",), True),
    ],
)
def test_where_aiter_works(architectures: tuple[str, ...], targets: tuple[str, ...], *, usable: bool | None) -> None:
    """By what it is built for; on RDNA 4 it depends on the version, and on a GPU that is not known nothing is said."""
    assert aiter_usable(architectures, targets) is usable
    on = launch("vllm", "m", f"VLLM_ROCM_USE_AITER=1 AITER_ROCM_ARCH={';'.join(architectures)}".replace(";", ","))
    assert aiter_state(on, targets) == ("no_effect" if usable is False else "on")
    assert aiter_state(launch("vllm", "m"), targets) == "off"
    assert aiter_state(launch("vllm", "m", complete=False), targets) is None


def test_a_positional_after_a_key_is_not_the_model() -> None:
    """Several keys may follow one option of vLLM's: none of them may pass for the model."""
    assert launch("vllm", "--api-key sk-1 sk-2").model is None
    assert launch("vllm", "--served-model-name a b").model is None
    assert launch("vllm", "--max-model-len 1k --enforce-eager org/m --api-key sk-1 sk-2").model == "org/m"


KEY = "sk-canary0123456789"
WORDS = st.one_of(
    st.sampled_from([f"--{option}" for server in SERVERS.values() for one in server.switches.values() for option in one.options]),
    st.sampled_from(["-m", "-c", "-ngl", "--jinja", "--unknown", "-x", "serve", "1", "a/b", "{", "x=CPU", "--config"]),
    st.text(max_size=6),
)  # fmt: skip
SECRETS = st.sampled_from(
    [
        ["--api-key", KEY],
        ["--api-key", KEY, KEY],
        [f"--api-key={KEY}"],
        ["--api_key", KEY],
        ["-hft", KEY],
        ["--hf-token", KEY],
        ["--password", KEY],
        ["--admin-key", KEY],
        ["--ssl-keyfile-password", KEY],
    ]
)
VARIABLES_WITH_KEYS = ["LLAMA_API_KEY", "LLAMA_ARG_API_KEY", "HF_TOKEN", "VLLM_API_KEY", "OLLAMA_API_KEY", "AWS_SECRET"]


@given(
    name=st.sampled_from(list(SERVERS)),
    before=st.lists(WORDS, max_size=8).map(lambda words: [*words, "-x"]),
    secret=SECRETS,
    after=st.lists(WORDS, max_size=8),
    complete=st.booleans(),
)
def test_no_key_comes_out(
    name: ProgramName, before: list[str], secret: list[str], after: list[str], *, complete: bool
) -> None:
    """Whatever stands around it, a key on the command line or in the environment is in no setting; nothing raises."""
    environment = allowed(f"{variable}={KEY}" for variable in VARIABLES_WITH_KEYS)
    assert environment == {}
    found = read_launch(name, [*before, *secret, *after], environment, complete=complete)
    assert KEY not in repr(found)
    assert KEY not in str(settings_of(found, layers=1))


@given(
    name=st.sampled_from(list(SERVERS)),
    words=st.lists(WORDS | st.text(), max_size=12),
    environment=st.dictionaries(
        st.sampled_from(sorted(VARIABLES)) | st.text(), st.text() | st.sampled_from(["1", "off", "2"])
    ),
    complete=st.booleans(),
)
def test_anything_is_survived(
    name: ProgramName, words: list[str], environment: dict[str, str], *, complete: bool
) -> None:
    """No arguments and no environment raise, and what comes out is one line each."""
    found = settings_of(read_launch(name, words, environment, complete=complete), layers=3, gfx_targets=("gfx1151",))
    assert all(value and "\n" not in value for value in found.values())


@pytest.mark.parametrize(
    ("name", "arguments", "compute", "complete", "expected"),
    [
        ("llama-server", "-m a.gguf", None, True, "context flash_attention micro_batch slots split_mode"),
        ("llama-server", "-m a.gguf", "rocm", True, "context cpu_offload flash_attention micro_batch slots split_mode"),
        ("llama-server", "-m a.gguf", "cpu", True, "context flash_attention micro_batch slots split_mode"),
        ("llama-server", "-m a.gguf -c 4096 -fa on -ngl 20", "rocm", True, "micro_batch slots split_mode"),
        ("llama-server", "-m a.gguf -cmoe -np 2 -ub 512 -sm row", "rocm", True, "context flash_attention"),
        ("vllm", "serve o/m --max-model-len 8192", "rocm", True, "flash_attention micro_batch slots split_mode"),
        ("llama-server", "-m a.gguf", "rocm", False, ""),
        ("llama-server", "--models-dir /m", "rocm", True, ""),
        ("ollama", "serve", "rocm", True, ""),
    ],
)
def test_what_a_whole_command_line_leaves_out_is_the_default(
    name: ProgramName, arguments: str, compute: Compute | None, *, complete: bool, expected: str
) -> None:
    """Of a server of one model only; whether work is off the GPU is known where it is known what computes."""
    found = defaults_of(launch(name, arguments, complete=complete), compute)
    assert " ".join(sorted(found)) == expected
    assert set(found.values()) <= {"default"}
