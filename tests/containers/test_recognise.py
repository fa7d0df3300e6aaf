"""Documents of an engine in, facts of an inference server out: commands, traps, models, switches, odd documents."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.containers.facts import (
    CacheMount,
    CandidateUrl,
    ContainerFacts,
    Devices,
    ImageRocm,
    OwnNetwork,
)
from exporter.containers.quantization import gguf_type, method_in
from exporter.containers.recognise import needs_processes, recognise
from exporter.containers.servers import made_for, repository_of
from tests.containers.documents import CANARY, FOLDER, load, made_up

# Machines are shared: how long an example takes shows nothing.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

STORED = sorted(path.stem for path in FOLDER.glob("*.json") if not path.stem.endswith(".top"))


def facts_of(document: dict[str, Any], **more: Any) -> ContainerFacts:
    """The facts of a document that must be recognised."""
    facts = recognise(document, **more)
    assert facts is not None
    return facts


def test_vllm_with_aiter_on_the_host_network() -> None:
    """Everything that names the FAQ's scenario comes from the command line and the environment."""
    facts = facts_of(load("vllm-aiter-host-network"), host_gfx=["gfx1151"])
    assert (facts.backend, facts.quantization, facts.kv_cache_dtype) == ("vllm", "awq", "fp8_e4m3")
    assert (facts.aiter, facts.aiter_usable) == (True, False)
    assert facts.launch is not None
    assert (facts.served_model_name, facts.launch.context, facts.tensor_parallel) == ("qwen", 32000, 2)
    assert facts.urls == (CandidateUrl("http://127.0.0.1:8000", "host_network"),)
    assert facts.cache_source == "/home/user/.cache/huggingface/hub"
    assert facts.cache_mounts == (
        CacheMount("/home/user/.cache/huggingface", "/root/.cache/huggingface", "huggingface"),
    )


def test_a_compose_service_with_published_ports() -> None:
    """From the host a published port comes first, the container's own address last."""
    facts = facts_of(load("compose-published"))
    assert facts.urls == (
        CandidateUrl("http://127.0.0.1:18000", "published_port"),
        CandidateUrl("http://172.18.0.3:8000", "container_address"),
    )
    assert (facts.quantization, facts.kv_cache_dtype, facts.aiter) == ("none", "auto", False)
    assert facts.devices == Devices(kfd=True, dri=True)
    assert (facts.cache_path, facts.cache_source) == ("/models/hf/hub", "/srv/hf/hub")
    assert facts.rocm == ImageRocm("6.4.1", "6.4", "tag")
    assert facts.started_at_seconds == pytest.approx(1795161601.123456)


def test_podman_s_document() -> None:
    """Another engine's spelling gives the same facts."""
    facts = facts_of(load("podman"))
    assert (facts.name, facts.backend, facts.quantization, facts.kv_cache_dtype) == (
        "llama",
        "llama_cpp",
        "Q4_K_M",
        "q8_0",
    )
    assert facts.model == "unsloth/gemma-3-27b-it-GGUF:Q4_K_M"
    assert facts.image == "docker.io/kyuz0/amd-strix-halo-toolboxes:vulkan-radv"
    assert facts.urls == (CandidateUrl("http://127.0.0.1:8088", "published_port"),)
    assert (facts.devices, facts.cache_source) == (
        Devices(dri=True, render_nodes=("renderD128",)),
        "/home/user/.cache/llama.cpp",
    )
    assert facts.started_at_seconds == pytest.approx(1795161601.123456)


def test_a_paused_privileged_container() -> None:
    """Privileged implies devices that no list names; a pause is not running; a label may name ROCm."""
    facts = facts_of(load("privileged-cdi"))
    assert (facts.backend, facts.quantization, facts.running) == ("transformers", "gptq", False)
    assert facts.devices == Devices(privileged=True, cdi=True)
    assert (facts.cache_path, facts.cache_source) == ("/data", "/var/lib/docker/volumes/tgi/_data")
    assert (facts.rocm, facts.started_at_seconds) == (ImageRocm("6.3.1", "6.3", "label"), None)


def test_a_toolbox_shows_a_server_only_in_its_processes() -> None:
    """An idle container of an inference image is one without a server until something is started in it."""
    document = load("toolbox")
    assert needs_processes(document)
    idle = facts_of(document)
    assert (idle.backend, idle.urls, idle.rocm) == (None, (), ImageRocm("7.2.4", "7.2", "tag"))
    busy = facts_of(document, top=load("toolbox.top"))
    assert (busy.backend, busy.quantization) == ("llama_cpp", "Q8_0")
    assert busy.urls == (CandidateUrl("http://127.0.0.1:9001", "host_network"),)


def test_a_script_in_a_shell() -> None:
    """Assignments before the server count, and variables in its arguments are filled in."""
    facts = facts_of(load("vllm-in-a-shell"))
    assert (facts.model, facts.aiter) == ("Qwen/Qwen3-14B", True)
    assert facts.urls == (CandidateUrl("http://127.0.0.1:8100", "host_network"),)


@pytest.mark.parametrize(
    ("command", "backend", "model", "port"),
    [
        (["vllm", "serve", "Qwen/Q", "--port=9"], "vllm", "Qwen/Q", 9),
        (["vllm", "serve", "--enforce-eager", "Qwen/Q"], "vllm", "Qwen/Q", 8000),
        (["tini", "--", "vllm", "serve", "--model", "Qwen/Q"], "vllm", "Qwen/Q", 8000),
        (["bash", "-lc", "cd /app && exec vllm serve 'Qwen/Q' \\\n  --port 7 | tee log"], "vllm", "Qwen/Q", 7),
        (["sh", "-c", "# vllm serve old\nvllm serve new"], "vllm", "new", 8000),
        (["sh", "-c", "bash -c 'vllm serve a --port 5'"], "vllm", "a", 5),
        (["sh", "-c", "vllm serve it's"], "vllm", "it's", 8000),
        (["python3", "/w/vllm/entrypoints/openai/api_server.py", "--model", "m"], "vllm", "m", 8000),
        (["vllm", "serve", "/root/.cache/huggingface/hub/models--Qwen--Q/snapshots/abc"], "vllm", "Qwen/Q", 8000),
        (["vllm", "serve", "s3://user:secret@bucket/m?sig=1"], "vllm", "s3://bucket/m", 8000),
        (["/app/llama-server", "-m", "/m/a-Q8_0.gguf", "--port", "6"], "llama_cpp", "a-Q8_0.gguf", 6),
        (["/app/tools.sh", "--server", "-hf", "org/m:Q4_0"], "llama_cpp", "org/m:Q4_0", 8080),
        (["sh", "-c", "ollama serve & sleep 3; ollama pull qwen; wait"], "ollama", None, 11434),
        (["python", "server.py", "--api", "--listen", "--model", "m"], "text_generation_webui", "m", 5000),
        (["transformers", "serve", "./m", "--port", "4"], "transformers", "./m", 4),
        (["text-generation-launcher", "--model-id", "m", "-p", "3"], "transformers", "m", 3),
        (["python3", "-m", "sglang.launch_server", "--model-path", "m"], "sglang", "m", 30000),
        (["python3", "-m", "llama_cpp.server", "--model", "/m/x.gguf", "--port", "8106"], "openai", "x.gguf", 8106),
    ],
)
def test_command_lines(command: list[str], backend: str, model: str | None, port: int) -> None:
    """Each way to start a server is read, however it is wrapped."""
    facts = facts_of(made_up(command))
    assert (facts.backend, facts.model) == (backend, model)
    assert [url.url for url in facts.urls] == [f"http://127.0.0.1:{port}"]


@pytest.mark.parametrize(
    ("image", "command"),
    [
        ("rocm/vllm", ["vllm", "bench", "serve", "--model", "m"]),
        ("vllm/vllm-openai", ["vllm", "collect-env"]),
        ("ghcr.io/ggml-org/llama.cpp:full-rocm", ["/app/llama-bench", "-m", "x.gguf"]),
        ("ollama/ollama", ["ollama", "pull", "qwen"]),
        ("ghcr.io/open-webui/open-webui:main", ["bash", "start.sh"]),
        ("example.org/vllm-exporter", ["/exporter"]),
        ("example.org/ollama-proxy:1", ["/proxy"]),
        ("nginx", ["nginx", "-g", "daemon off;"]),
        ("example.org/own", ["python3", "client.py", "--url", "http://vllm:8000"]),
        ("alpine", ["sh"]),
    ],
)
def test_what_is_no_server(image: str, command: list[str]) -> None:
    """Names lie: what talks to a server, measures one or only waits is not taken for one."""
    assert recognise(made_up(command, image)) is None


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("rocm/vllm-dev:nightly", "vllm"),
        ("registry.local:5000/vllm/vllm-openai-rocm@sha256:00", "vllm"),
        ("kyuz0/vllm-therock-gfx1151", "vllm"),
        ("vllm/production-stack-router", None),
        ("ollama/ollama:rocm", "ollama"),
        ("atinoda/text-generation-webui:default-rocm", "text-generation-webui"),
        ("lmsysorg/sglang:v0.5", "sglang"),
        ("ghcr.io/mostlygeek/llama-swap:rocm", "llama-swap"),
        ("ghcr.io/lemonade-sdk/lemonade-server", "lemonade"),
        ("quay.io/go-skynet/local-ai:latest-gpu-hipblas", "localai"),
        ("theroyallab/tabbyapi", "tabbyapi"),
        ("ghcr.io/berriai/litellm", None),
        ("ghcr.io/ggml-org/llama.cpp:server-vulkan", "llama-server"),
        ("open-webui/open-webui", None),
    ],
)
def test_what_images_are_made_for(image: str, name: str | None) -> None:
    """The repository's last part tells, not its owner, registry or tag."""
    assert made_for(image) == name


def test_a_repository_without_registry_tag_and_digest() -> None:
    """A registry is known by its dot or port."""
    assert repository_of("localhost:5000/Org/Name:tag@sha256:00") == "org/name"
    assert repository_of("name:tag") == "name"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen2.5-14B-Instruct-Q4_K_M-00001-of-00002.gguf", "Q4_K_M"),
        ("model-IQ4_XS.gguf", "IQ4_XS"),
        ("gemma-UD-Q4_K_XL.gguf", "Q4_K_XL"),
        ("qwen2.5:14b-instruct-q8_0", "Q8_0"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("m.BF16.gguf", "BF16"),
        ("m-f16.gguf", "F16"),
        ("Qwen2.5-14B.gguf", None),
    ],
)
def test_gguf_types(name: str, expected: str | None) -> None:
    """The type stands in the file's name, before a shard's number."""
    assert gguf_type(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen2.5-14B-Instruct-AWQ", "awq"),
        ("Qwen/Qwen2.5-14B-Instruct-GPTQ-Int4", "gptq"),
        ("RedHatAI/Qwen3-14B-FP8-dynamic", "fp8"),
        ("openai/gpt-oss-20b", "mxfp4"),
        ("Qwen/Qwen2.5-14B-Instruct", None),
        ("hawqs/nest", None),
    ],
)
def test_methods_in_names(name: str, expected: str | None) -> None:
    """A repository's name says how its weights are quantized, or nothing."""
    assert method_in(name) == expected


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_aiter_switched_on(value: str) -> None:
    """The switch is true for what vLLM takes as true, and usable where the image's build covers the GPU."""
    document = made_up(["vllm", "serve", "m"], environment={"VLLM_ROCM_USE_AITER": value})
    assert facts_of(document).aiter_usable is None
    assert facts_of(document, host_gfx=["gfx942"]).aiter_usable is True
    assert facts_of(document, host_gfx=["gfx1151"]).aiter_usable is False
    document["Config"]["Env"].append("AITER_ROCM_ARCH=gfx942;gfx1151")
    assert facts_of(document, host_gfx=["gfx1151"]).aiter_usable is True


@pytest.mark.parametrize("value", ["0", "false", "yes", ""])
def test_aiter_switched_off(value: str) -> None:
    """Anything else is off, and then there is nothing to be usable."""
    facts = facts_of(made_up(["vllm", "serve", "m"], environment={"VLLM_ROCM_USE_AITER": value}), host_gfx=["gfx942"])
    assert (facts.aiter, facts.aiter_usable) == (False, None)


def test_aiter_is_vllm_s() -> None:
    """Of other servers, and of a vLLM that was started by hand, nothing is said."""
    assert facts_of(made_up(["ollama", "serve"])).aiter is None
    processes = {"Titles": ["PID", "CMD"], "Processes": [["1", "bash"], ["2", "/usr/bin/python3 /bin/vllm serve m"]]}
    facts = facts_of(made_up(["bash"], "rocm/vllm"), top=processes)
    assert (facts.backend, facts.model, facts.aiter) == ("vllm", "m", None)


def test_llama_server_by_its_environment() -> None:
    """Where llama-server is configured by variables alone, these are its options."""
    environment = {
        "LLAMA_ARG_MODEL": "/models/x-Q6_K.gguf",
        "LLAMA_ARG_PORT": "9090",
        "LLAMA_ARG_HOST": "0.0.0.0",
        "LLAMA_ARG_CTX_SIZE": "4096",
        "LLAMA_ARG_ALIAS": "x",
    }
    facts = facts_of(made_up(["/start"], environment=environment))
    assert (facts.backend, facts.model, facts.quantization) == ("llama_cpp", "x-Q6_K.gguf", "Q6_K")
    assert facts.launch is not None
    assert (facts.launch.context, facts.served_model_name, facts.urls[0].url) == (4096, "x", "http://127.0.0.1:9090")


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("http://192.168.7.1", "http://192.168.7.1:80"),
        ("[::]:9", "http://127.0.0.1:9"),
        ("nonsense:port", "http://127.0.0.1:11434"),
    ],
)
def test_ollama_s_host_variable(value: str, url: str) -> None:
    """OLLAMA_HOST holds host and port in several spellings."""
    facts = facts_of(made_up(["ollama", "serve"], environment={"OLLAMA_HOST": value}))
    assert facts.urls[0].url == url


def test_a_server_that_listens_to_itself() -> None:
    """Inside its own network a server on 127.0.0.1 can't be reached, and the reason says what to do."""
    facts = facts_of(made_up(["llama-server", "-m", "x.gguf"], network="bridge"))
    assert facts.urls == ()
    assert "--host 0.0.0.0" in facts.unreachable


def test_from_inside_a_container() -> None:
    """On a shared network the container's name comes first; a port on the host is behind the gateway."""
    inside = OwnNetwork(on_host_network=False, networks=frozenset({"llm_default"}), gateway="172.18.0.1")
    document = load("compose-published")
    assert facts_of(document, own_network=inside).urls == (
        CandidateUrl("http://llm-vllm-1:8000", "shared_network"),
        CandidateUrl("http://172.18.0.1:18000", "published_port"),
    )
    assert facts_of(load("vllm-aiter-host-network"), own_network=inside).urls == (
        CandidateUrl("http://172.18.0.1:8000", "host_network"),
    )
    document["NetworkSettings"]["Ports"]["8000/tcp"] = [{"HostIp": "127.0.0.1", "HostPort": "18000"}]
    stranger = facts_of(document, own_network=OwnNetwork(on_host_network=False, gateway="172.17.0.1"))
    assert stranger.urls == ()
    assert "share no network" in stranger.unreachable


def test_the_network_of_another_container() -> None:
    """A container that uses another's network answers where that one does."""
    document = made_up(["vllm", "serve", "m"], network="container:abc")
    facts = facts_of(document, peer=load("compose-published"))
    assert facts.urls[0] == CandidateUrl("http://127.0.0.1:18000", "published_port")


def test_https_and_unix_sockets() -> None:
    """A server with a certificate is asked by https, one on a Unix socket not at all."""
    tls = facts_of(made_up(["vllm", "serve", "m", "--ssl-keyfile", "/k", "--ssl-certfile", "/c"]))
    assert tls.urls[0].url == "https://127.0.0.1:8000"
    assert facts_of(made_up(["llama-server", "--host", "/run/l.sock"])).unreachable == "it listens on a Unix socket"


def test_an_image_named_by_its_id() -> None:
    """Where only an id is configured, a tag of that image is shown and read."""
    document = made_up(["/entrypoint.sh"], "sha256:" + "1" * 64)
    assert recognise(document) is None
    facts = facts_of(document, image={"RepoTags": ["rocm/vllm:rocm7.0_vllm_0.11"]})
    assert (facts.image, facts.backend) == ("rocm/vllm:rocm7.0_vllm_0.11", "vllm")
    assert facts.rocm == ImageRocm("7.0", "7.0", "tag")


def test_weights_in_the_container_s_own_layer() -> None:
    """Without a mount over the cache there is no source on the host."""
    facts = facts_of(made_up(["vllm", "serve", "Qwen/Q"], environment={"HOME": "/home/app"}))
    assert (facts.cache_path, facts.cache_source) == ("/home/app/.cache/huggingface/hub", None)


@pytest.mark.parametrize("name", STORED)
def test_no_secret_in_any_fact(name: str) -> None:
    """Whatever stands in variables, labels and arguments, none of it comes out."""
    document = load(name)
    top = load("toolbox.top") if name == "toolbox" else None
    assert name == "podman" or CANARY in str(document) + str(top)
    assert CANARY not in repr(facts_of(document, top=top, host_gfx=["gfx1151"]))


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths_in(inner, (*path, key))


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.lists(st.none() | st.text() | st.integers(), max_size=3),
    st.dictionaries(st.text(), st.none() | st.text(), max_size=3),
)
DOCUMENTS = {name: load(name) for name in STORED}
PLACES = {name: list(paths_in(document)) for name, document in DOCUMENTS.items()}


@UNTIMED
@given(st.data())
def test_odd_documents_never_raise(data: st.DataObject) -> None:
    """Any value of a document may be missing or of another type."""
    name = data.draw(st.sampled_from(STORED))
    document = copy.deepcopy(DOCUMENTS[name])
    for *parents, key in data.draw(st.lists(st.sampled_from(PLACES[name][1:]), min_size=1, max_size=4)):
        inner: Any = document
        try:
            for parent in parents:
                inner = inner[parent]
            inner[key] = data.draw(ODD)
        except (KeyError, IndexError, TypeError):
            continue
    needs_processes(document, document)
    facts = recognise(document, document, document, peer=document, host_gfx=["gfx1151"])
    assert facts is None or facts.id


@UNTIMED
@given(st.lists(st.text(alphabet=st.sampled_from("vllm serve-'\"\\$;&|\n{}#=/"), max_size=30), max_size=5))
def test_any_script_is_survived(words: list[str]) -> None:
    """No shell script, however broken, is more than a container that may not be recognised."""
    facts = recognise(made_up(["sh", "-c", *words, "vllm serve m"]))
    assert facts is None or facts.backend in {"vllm", None}
