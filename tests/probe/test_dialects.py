"""Dialects against what real servers said: recognition, state, requests, streams cut anywhere, refusals."""

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.probe.client import Reply
from exporter.probe.dialects import DIALECTS, recognise
from exporter.probe.dialects.dialect import (
    MOST_LISTED,
    ChatRequest,
    Get,
    Hints,
    ServerStatus,
    StatusQuery,
    rejected_fields,
    short_name,
)
from exporter.probe.dialects.keep_alive import KeepAlive, after_probe, nearly_over, observe, seconds_to_ask
from exporter.probe.exposition import parse, total
from exporter.probe.failure import ProbeFailure, refuse
from exporter.probe.result import Identity, Result
from exporter.probe.stream import Event, NdjsonDecoder, SseDecoder
from exporter.probe.timeline import Delta
from tests.servers.captured import load, server_of

LIMIT = 1 << 20
# GETs of each recorded server, and what it says for all others.
SERVERS: dict[str, tuple[Mapping[str, str], str]] = {
    "vllm": (
        {
            "/health": "vllm/get-health",
            "/version": "vllm/get-version",
            "/metrics": "vllm/get-metrics-after",
            "/v1/models": "vllm/get-v1-models",
        },
        "vllm/error-404",
    ),
    "vllm without the key": (
        {
            "/health": "vllm/get-health",
            "/version": "vllm/get-version",
            "/metrics": "vllm/get-metrics-after",
            "/v1/models": "vllm/error-401-no-key",
        },
        "vllm/error-404",
    ),
    "llama-server": (
        {
            "/health": "llama-server/get-health",
            "/props": "llama-server/get-props",
            "/metrics": "llama-server/get-metrics-after",
            "/v1/models": "llama-server/get-v1-models",
            "/slots": "llama-server/get-slots",
        },
        "llama-server/error-404",
    ),
    "llama-server without --metrics": (
        {
            "/health": "llama-server/get-health",
            "/props": "llama-server/get-props",
            "/metrics": "llama-server/error-metrics-not-enabled",
            "/v1/models": "llama-server/get-v1-models",
            "/slots": "llama-server/get-slots",
        },
        "llama-server/error-404",
    ),
    "llama-server without the key": (
        {"/health": "llama-server/get-health"},
        "llama-server/error-401-no-key",
    ),
    "llama-server that loads": ({}, "llama-server/loading-get-props"),
    "llama-server asleep": (
        {
            "/health": "llama-server-sleeping/get-health",
            "/props": "llama-server-sleeping/get-props",
            "/metrics": "llama-server-sleeping/get-metrics",
            "/v1/models": "llama-server-sleeping/get-v1-models",
        },
        "llama-server/error-404",
    ),
    "router": (
        {
            "/health": "llama-server-router/get-health",
            "/props": "llama-server-router/get-props",
            "/v1/models": "llama-server-router/get-v1-models-unloaded",
            "/metrics?model=a&autoload=false": "llama-server-router/error-metrics-not-loaded",
        },
        "llama-server-router/error-metrics-no-model",
    ),
    "router with a model": (
        {
            "/health": "llama-server-router/get-health",
            "/props": "llama-server-router/get-props",
            "/v1/models": "llama-server-router/get-v1-models-loaded",
            "/metrics?model=a&autoload=false": "llama-server-router/get-metrics-a",
        },
        "llama-server-router/error-metrics-no-model",
    ),
    "transformers": (
        {
            "/health": "transformers-serve/get-health",
            "/v1/models": "transformers-serve/get-v1-models",
            "/version": "transformers-serve/get-version",
        },
        "transformers-serve/error-404",
    ),
}


class Reads:
    """A Get from recorded or made-up answers that remembers what was asked."""

    def __init__(self, answers: Mapping[str, Reply], missing: Reply) -> None:
        self.answers = answers
        self.missing = missing
        self.paths: list[str] = []

    def __call__(self, path: str, _body: bytes | None = None, /) -> Reply:
        self.paths.append(path)
        return self.answers.get(path, self.missing)


def reply(name: str) -> Reply:
    """A recorded answer."""
    answer = load(name)
    return Reply(answer.status, {"server": server_of(name), **answer.headers}, answer.body)


def recorded(server: str) -> Reads:
    """The reads of a recorded server."""
    gets, missing = SERVERS[server]
    return Reads({path: reply(name) for path, name in gets.items()}, reply(missing))


def made_up(answers: Mapping[str, Any]) -> Reads:
    """The reads of a server that answers these paths with this JSON."""
    return Reads(
        {path: Reply(200, {}, json.dumps(value).encode()) for path, value in answers.items()}, Reply(404, {}, b"")
    )


def check(
    get: Get,
    backend: str,
    *,
    wanted: str | None = None,
    last: ServerStatus | None = None,
    thorough: bool = False,
    hints: Hints | None = None,
) -> ServerStatus:
    """One status check."""
    return DIALECTS[backend].status(StatusQuery(get, wanted, last, thorough, 1_000_000.0, hints or Hints()))


# Recognition ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "backend"),
    [(name, "vllm" if name.startswith("vllm") else "llama_cpp") for name in SERVERS if name != "transformers"]
    + [("transformers", "transformers")],
)
def test_recorded_servers_are_recognised(server: str, backend: str) -> None:
    """Each recorded server is taken for what it is: loading, asleep, without the key, as a router."""
    found = recognise(recorded(server))
    assert found is not None
    assert found.name == backend


@pytest.mark.parametrize(
    ("answers", "backend"),
    [
        (
            {"/api/version": {"version": "0.12.6"}, "/api/ps": {"models": []}, "/v1/models": {"data": []}},
            "ollama",
        ),
        (
            {
                "/api/version": {"version": "0.7.0"},
                "/api/ps": {"models": []},
                "/v1/models": {"data": [{"id": "koboldcpp/x", "owned_by": "koboldcpp"}]},
            },
            "koboldcpp",
        ),
        (
            {
                "/v1/internal/model/info": {"model_name": "None", "lora_names": [], "loader": None},
                "/v1/models": {"data": []},
            },
            "text_generation_webui",
        ),
        # TabbyAPI answers at the same path, with something else.
        ({"/v1/internal/model/info": {"id": "x"}, "/v1/models": {"data": [{"id": "x"}]}}, "openai"),
        ({"/v1/models": {"data": [{"id": "demo", "owned_by": "llm-probe-exporter"}]}}, "simulator"),
        ({"/v1/models": {"data": [{"id": "x", "owned_by": "me"}]}}, "openai"),
        ({"/health": {"status": "ok"}, "/v1/models": {"data": [{"id": "x"}]}}, "openai"),
    ],
)
def test_other_servers_are_recognised_by_what_they_answer(answers: dict[str, Any], backend: str) -> None:
    """Ollama, text-generation-webui, the simulator and plain servers are told apart, and imitators too."""
    found = recognise(made_up(answers))
    assert found is not None
    assert found.name == backend


@pytest.mark.parametrize(
    "answer",
    [
        Reply(200, {}, b"<html>hello</html>"),
        Reply(401, {}, b"<html>log in</html>"),
        Reply(404, {}, b""),
        Reply(200, {}, b"[" * 100_000),
        Reply(200, {}, b'{"data": 3}'),
        Reply(0, {}, b""),
    ],
)
def test_what_is_no_inference_server_is_not_taken_for_one(answer: Reply) -> None:
    """Pages, hostile JSON and emptiness are recognised by no dialect, and none of them raises."""
    assert recognise(Reads({}, answer)) is None


# State ---------------------------------------------------------------------------------------------------------------


def test_vllm_tells_its_state() -> None:
    """Identity from the list and the version, residency, load and counter from its own metrics."""
    seen = check(recorded("vllm"), "vllm")
    assert seen.identity == Identity(
        "vllm", backend_version="0.32.0", model="tiny", context_length=2048, model_root="/models/tiny-hf"
    )
    assert (seen.model, seen.resident, seen.running, seen.waiting, seen.kv_cache_usage) == ("tiny", True, 0.0, 0.0, 0.0)
    assert seen.generated_tokens == 169.0
    assert seen.started == "1795552612.82"


def test_vllm_is_asked_again_only_after_a_restart() -> None:
    """Two reads while it runs on; after its start time changed two for the identity and those that tell whether it chats."""
    first = check(recorded("vllm"), "vllm")
    reads = recorded("vllm")
    assert check(reads, "vllm", last=first).identity == first.identity
    assert reads.paths == ["/health", "/metrics"]
    reads = recorded("vllm")
    check(reads, "vllm", last=replace(first, started="1"))
    assert reads.paths == ["/health", "/metrics", "/version", "/v1/models", "/v1/chat/completions", "/v1/completions"]


def test_a_sleeping_vllm_is_not_resident() -> None:
    """engine_sleep_state says whether its weights are in memory."""
    body = load("vllm/get-metrics-after").body.replace(b'sleep_state="awake"} 1.0', b'sleep_state="awake"} 0.0')
    gets = dict(recorded("vllm").answers) | {"/metrics": Reply(200, {}, body)}
    assert check(Reads(gets, Reply(404, {}, b"")), "vllm").resident is False


def test_llama_server_tells_its_state() -> None:
    """Version, quantization, size, parameters and context come from /props and /v1/models, the load from /slots."""
    reads = recorded("llama-server")
    seen = check(reads, "llama_cpp", thorough=True)
    assert seen.identity == Identity(
        "llama_cpp",
        backend_version="b11434-unknown",
        model="tiny.gguf",
        quantization="Q8_0",
        parameters=2_756_864,
        weight_bytes=2_941_952,
        context_length=2048,
        model_root="tiny.gguf",
    )
    assert (seen.resident, seen.running, seen.waiting, seen.generated_tokens) == (True, 0.0, None, None)
    assert (seen.served, seen.slots, seen.slot, seen.unloads) == (True, 1, None, None)
    again = recorded("llama-server")
    assert check(again, "llama_cpp", last=seen, thorough=True).identity == seen.identity
    assert again.paths == ["/props", "/slots"]


def test_a_llama_server_that_has_no_sleep_timer_is_read_at_each_check() -> None:
    """Known from its launch settings, its slots are free to read; its /metrics only where the user wants them."""
    reads = recorded("llama-server")
    assert check(reads, "llama_cpp", hints=Hints(sleeps=False)).running == 0.0
    assert "/metrics" not in reads.paths
    seen = check(reads, "llama_cpp", hints=Hints(sleeps=False, server_metrics=True))
    assert (seen.waiting, seen.generated_tokens) == (0.0, 173.0)


def test_slots_are_read_only_before_a_request() -> None:
    """GET /slots counts as a use of llama-server, so a mere status check leaves it alone."""
    reads = recorded("llama-server without --metrics")
    assert check(reads, "llama_cpp").running is None
    assert "/slots" not in reads.paths
    assert check(reads, "llama_cpp", thorough=True).running == 0.0


def test_a_sleeping_llama_server_is_left_asleep() -> None:
    """It is not resident, and neither /slots nor anything else that wakes it is read."""
    reads = recorded("llama-server asleep")
    seen = check(reads, "llama_cpp", thorough=True)
    assert seen.resident is False
    assert set(reads.paths) <= {"/props", "/metrics", "/v1/models"}


def test_a_router_is_asked_without_loading_anything() -> None:
    """With nothing loaded the first model stands for it, not resident; a loaded one is preferred and its load is read."""
    reads = recorded("router")
    seen = check(reads, "llama_cpp", thorough=True)
    assert (seen.model, seen.resident, seen.router, seen.running) == ("a", False, True, None)
    assert reads.paths == ["/props", "/v1/models"]
    reads = recorded("router with a model")
    seen = check(reads, "llama_cpp", thorough=True)
    assert (seen.model, seen.resident, seen.running, seen.generated_tokens) == ("a", True, None, None)
    assert (seen.identity.parameters, seen.identity.quantization) == (2_756_864, "Q8_0")
    assert reads.paths == ["/props", "/v1/models", "/slots?model=a&autoload=false"]
    assert check(recorded("router with a model"), "llama_cpp", wanted="b").resident is False


@pytest.mark.parametrize("server", ["vllm without the key", "llama-server without the key"])
def test_a_server_that_wants_a_key_is_up_and_says_so(server: str) -> None:
    """Without the key a server is up; what is missing is named."""
    seen = check(recorded(server), server.split(maxsplit=1)[0].replace("llama-server", "llama_cpp"))
    assert "api_key_file" in seen.error


@pytest.mark.parametrize(
    ("backend", "answer", "result"),
    [
        ("llama_cpp", reply("llama-server/loading-get-props"), "loading"),
        ("vllm", Reply(500, {}, b""), "http_5xx"),
        ("vllm", Reply(503, {}, b""), "http_5xx"),
        ("openai", Reply(502, {}, b"<html>bad gateway</html>"), "http_5xx"),
        ("openai", Reply(0, {}, b""), "protocol"),
        ("ollama", Reply(500, {}, b""), "http_5xx"),
        ("transformers", Reply(404, {}, b""), "http_4xx"),
        ("text_generation_webui", Reply(404, {}, b""), "http_4xx"),
    ],
)
def test_a_server_that_is_not_well_gives_a_failure(backend: str, answer: Reply, result: Result) -> None:
    """Loading is told from being ill, and both from being there."""
    with pytest.raises(ProbeFailure) as caught:
        check(Reads({}, answer), backend)
    assert caught.value.result == result


def test_transformers_never_picks_a_model_from_its_list() -> None:
    """It would load it: the request goes without a model, or with the configured one."""
    seen = check(recorded("transformers"), "transformers")
    assert (seen.model, seen.resident) == (None, None)
    body = json.loads(DIALECTS["transformers"].request(ask(seen)).body)
    assert "model" not in body
    assert check(recorded("transformers"), "transformers", wanted="x").model == "x"


def test_text_generation_webui_tells_whether_a_model_is_loaded() -> None:
    """The string None is none; a name may be that of a model that was unloaded; another than the configured one is not that."""
    path = "/v1/internal/model/info"
    backend = "text_generation_webui"
    for name in (None, "None"):
        assert check(made_up({path: {"model_name": name, "lora_names": []}}), backend).resident is False
    loaded = made_up({path: {"model_name": "qwen.gguf", "lora_names": []}})
    assert (check(loaded, backend).model, check(loaded, backend).resident) == ("qwen.gguf", None)
    assert check(loaded, backend, wanted="other").resident is False


def test_lm_studio_and_llama_swap_say_what_is_in_memory() -> None:
    """Of servers that load on request, only a model that is in memory counts as resident."""
    studio = {
        "/v1/models": {"data": [{"id": each, "owned_by": "organization_owner"} for each in ("a", "b")]},
        "/api/v0/models": {
            "data": [{"id": "a", "state": "not-loaded"}, {"id": "b", "state": "loaded", "quantization": "Q4_K_M"}]
        },
    }
    seen = check(made_up(studio), "openai")
    assert (seen.model, seen.resident, seen.identity.quantization) == ("b", True, "Q4_K_M")
    assert check(made_up(studio), "openai", wanted="a").resident is False
    swap: dict[str, Any] = {
        "/v1/models": {"data": [{"id": each, "owned_by": "llama-swap"} for each in ("a", "b")]},
        "/running": {"running": []},
    }
    assert (check(made_up(swap), "openai").model, check(made_up(swap), "openai").resident) == ("a", False)
    swap["/running"] = {"running": [{"model": "b", "state": "ready"}]}
    assert (check(made_up(swap), "openai").model, check(made_up(swap), "openai").resident) == ("b", True)


@pytest.mark.parametrize("models", [3, MOST_LISTED + 1])
def test_of_a_long_list_the_beginning_counts(models: int) -> None:
    """A long list is cut, whatever its size in bytes; of several none is picked, a configured one needs no place in it."""
    last = f"m{models - 1}"
    entries = [{"id": f"m{number}", "meta": {"n_ctx": 4096}} for number in range(models)]
    get = made_up({"/v1/models": {"data": entries}})
    unnamed = check(get, "openai")
    assert (unnamed.model, len(unnamed.choices)) == (None, min(models, MOST_LISTED))
    seen = check(get, "openai", wanted=last)
    assert (seen.model, seen.identity.context_length) == (last, 4096 if models < MOST_LISTED else None)


def test_ollama_prefers_what_is_in_memory_and_keeps_to_it() -> None:
    """No model configured: the one in memory, the same as before while it stays; cloud and embedding models never."""
    details = {"family": "qwen2", "parameter_size": "14.8B", "quantization_level": "Q4_K_M"}
    tags = [
        {"name": "gpt-oss:120b-cloud", "remote_host": "https://ollama.com", "details": details},
        {"name": "nomic-embed-text:latest", "details": {"family": "nomic-bert"}},
        {"name": "qwen2.5:14b", "size": 9_000_000_000, "details": details},
    ]
    answers: dict[str, Any] = {
        "/api/version": {"version": "0.12.6"},
        "/api/tags": {"models": tags},
        "/api/ps": {"models": []},
    }
    seen = check(made_up(answers), "ollama")
    assert (seen.model, seen.resident, seen.identity) == (None, False, Identity("ollama", "0.12.6"))
    seen = check(made_up(answers), "ollama", wanted="Qwen2.5:14B")
    assert (seen.model, seen.resident) == ("qwen2.5:14b", False)
    assert seen.identity == Identity("ollama", "0.12.6", "qwen2.5:14b", "Q4_K_M", 14_800_000_000, 9_000_000_000)
    running = [
        {"name": each, "expires_at": "2318-03-05T01:00:00.123456789+01:00", "context_length": 8192, "details": details}
        for each in ("llama3:latest", "qwen2.5:14b")
    ]
    answers["/api/ps"] = {"models": running}
    again = check(made_up(answers), "ollama", last=seen)
    assert (again.model, again.resident, again.context_length) == ("qwen2.5:14b", True, 8192)
    assert check(made_up(answers), "ollama", wanted="llama3").model == "llama3:latest"


@pytest.mark.parametrize(
    ("sizes", "offloaded", "on_cpu"),
    [
        ({"size": 10_000_000_000, "size_vram": 10_000_000_000}, False, False),
        ({"size": 10_000_000_000, "size_vram": 6_000_000_000}, True, False),
        ({"size": 10_000_000_000, "size_vram": 0}, True, True),
        ({"size": 10_000_000_000}, None, None),
        ({"size": "?", "size_vram": 0}, None, None),
    ],
)
def test_ollama_says_how_much_of_a_model_the_gpu_holds(
    sizes: dict[str, Any], *, offloaded: bool | None, on_cpu: bool | None
) -> None:
    """A model that the CPU computes, all or a part, is told, so that no ceiling of the GPU is claimed for it."""
    answers: dict[str, Any] = {
        "/api/version": {"version": "0.12.6"},
        "/api/tags": {"models": []},
        "/api/ps": {"models": [{"name": "llama3:latest", **sizes}]},
    }
    identity = check(made_up(answers), "ollama").identity
    assert (identity.offloaded, identity.on_cpu) == (offloaded, on_cpu)


def test_a_path_is_not_shown_as_a_models_name() -> None:
    """A server started from a folder names its model by a path, which may name its user."""
    assert short_name("/home/ann/models/qwen.gguf") == "qwen.gguf"
    assert short_name("/root/.cache/huggingface/hub/models--Qwen--Qwen2.5-14B/snapshots/ab12") == "Qwen/Qwen2.5-14B"
    assert short_name("C:\\models\\qwen.gguf") == "qwen.gguf"
    assert short_name("./tiny-hf@main") == "tiny-hf"
    assert short_name("org/name@v2") == "org/name@v2"
    assert short_name("Qwen/Qwen2.5-14B-Instruct") == "Qwen/Qwen2.5-14B-Instruct"


def test_an_exposition_is_read_whatever_is_in_its_labels() -> None:
    """Quotes, commas, braces and escapes in labels, exemplars, NaN and rubbish."""
    text = 'a{x="1, \\"}{",y="q\\nz"} 3 1700000000\n# HELP a b\na{x="2"} +Inf\na{x="3"} NaN\nb 1e3 # {t="u"} 1\n!!\nc{x=1} 4\n'
    samples = parse(text)
    assert [(each.name, each.value, each.labels) for each in samples[:2]] == [
        ("a", 3.0, {"x": '1, "}{', "y": "q\nz"}),
        ("b", 1000.0, {}),
    ]
    assert total(samples, "nothing", "b") == 1000.0
    assert total(samples, "a", x="2") is None


TEXTS = [
    "vllm",
    "llamacpp",
    "llama-swap",
    "organization_owner",
    "loaded",
    "ready",
    "not-loaded",
    "a",
    "b",
    "14.8B",
    "None",
]
LEAF: st.SearchStrategy[Any] = st.sampled_from(
    [*TEXTS, None, "", True, 0, -1, 3, 1e308, [], ["a"], {}, {"value": "loaded"}, {"family": []}]
)
NAME = st.sampled_from(["a", "b"]) | LEAF
ENTRY = st.fixed_dictionaries(
    {"id": NAME, "name": NAME, "owned_by": LEAF, "status": LEAF},
    optional=dict.fromkeys(
        "model state aliases meta root details expires_at context_length size remote_host".split(), LEAF
    ),
)
LISTS = {"data": st.lists(ENTRY | LEAF, max_size=3), "models": st.lists(ENTRY | LEAF, max_size=3)}
OTHERS = [
    "role",
    "is_sleeping",
    "build_info",
    "model_path",
    "endpoint_slots",
    "model_name",
    "lora_names",
    "status",
]
ANSWER = st.fixed_dictionaries(
    {**LISTS, "version": NAME},
    optional={"running": LISTS["data"], **dict.fromkeys(OTHERS, LEAF), "default_generation_settings": LEAF},
)


class Parrot(Reads):
    """Says the same at every path."""

    def __call__(self, path: str, _body: bytes | None = None, /) -> Reply:
        """The one answer."""
        self.paths.append(path)
        return self.missing


@settings(max_examples=200, deadline=None)
@given(answer=ANSWER, wanted=st.none() | st.just("a"))
def test_no_answer_surprises_a_status_query(answer: object, wanted: str | None) -> None:
    """Whatever JSON comes, recognising and looking raise nothing but what says that the server is not well."""
    get = Parrot({}, Reply(200, {}, json.dumps(answer).encode()))
    recognise(get)
    for backend in DIALECTS:
        try:
            first = check(get, backend, wanted=wanted, thorough=True)
            check(get, backend, wanted=wanted, last=first)
        except ProbeFailure:
            continue


# Requests ------------------------------------------------------------------------------------------------------------


def ask(seen: ServerStatus, **more: Any) -> ChatRequest:
    """A request for 32 tokens of this server's model."""
    return replace(ChatRequest(seen.model, "Good morning.", 32, "5a17", seen), **more)


def body_of(backend: str, server: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """Path and body of a request to a recorded server."""
    dialect = DIALECTS[backend]
    request = dialect.request(ask(check(recorded(server), backend), **more))
    return request.path, json.loads(request.body)


BASE = {
    "messages": [{"role": "user", "content": "Good morning."}],
    "stream": True,
    "max_tokens": 32,
    "temperature": 0,
    "seed": 1,
}
USAGE = {"stream_options": {"include_usage": True}}


def test_requests_ask_each_server_for_what_it_can_do() -> None:
    """Exact counts, a fixed length and a way past the prompt cache, by the fields that each server has."""
    assert body_of("vllm", "vllm") == (
        "/v1/chat/completions",
        {
            **BASE,
            "model": "tiny",
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "ignore_eos": True,
            "min_tokens": 32,
            "cache_salt": "5a17",
        },
    )
    more = {"ignore_eos": True, "cache_prompt": False, "timings_per_token": True, "return_progress": True}
    assert body_of("llama_cpp", "llama-server") == (
        "/v1/chat/completions",
        {**BASE, **USAGE, **more, "model": "tiny.gguf"},
    )
    assert body_of("transformers", "transformers") == ("/v1/chat/completions", {**BASE, **USAGE})


def test_a_request_to_a_router_may_not_load() -> None:
    """Unless it may, the router is told not to: between the status check and the request its model may have left."""
    path, body = body_of("llama_cpp", "router with a model")
    assert (path, body["model"]) == ("/v1/chat/completions?autoload=false", "a")
    assert body_of("llama_cpp", "router with a model", may_load=True)[0] == "/v1/chat/completions"


def test_a_request_to_ollama_names_the_context_in_memory_and_what_is_left_of_its_time() -> None:
    """Another num_ctx would make it load anew, its own keep-alive would keep the model longer."""
    seen = ServerStatus(Identity("ollama"), model="small:latest", resident=True, context_length=8192)
    request = DIALECTS["ollama"].request(ask(seen, keep_alive_seconds=120.5))
    assert (request.path, request.framing) == ("/api/chat", "ndjson")
    assert json.loads(request.body) == {
        "model": "small:latest",
        "messages": BASE["messages"],
        "stream": True,
        "options": {"num_predict": 32, "temperature": 0, "seed": 1, "num_ctx": 8192},
        "keep_alive": 120.5,
    }


@pytest.mark.parametrize("backend", DIALECTS)
def test_a_request_goes_without_every_field_that_is_optional(backend: str) -> None:
    """What a server may reject can be left out, each field, and what is left is still a request for so many tokens."""
    dialect = DIALECTS[backend]
    seen = ServerStatus(Identity(backend), model="m")
    body = json.loads(dialect.request(ask(seen, rejected=dialect.optional)).body)
    assert not body.keys() & dialect.optional
    limits = [body.get("max_tokens"), body.get("max_completion_tokens"), body.get("options", {}).get("num_predict")]
    assert 32 in limits


def test_rejected_fields_are_read_from_the_refusal() -> None:
    """By name where the server names them, else all; other statuses reject nothing."""
    body = load("transformers-serve/chat-stream-ignore-eos").body
    optional = DIALECTS["vllm"].optional | {"cache_prompt"}
    assert rejected_fields(422, body, optional) == {"ignore_eos", "cache_prompt", "min_tokens"}
    assert rejected_fields(400, b'{"error": "bad request"}', optional) == optional
    assert rejected_fields(500, body, optional) == frozenset()
    assert rejected_fields(404, body, optional) == frozenset()


# Streams -------------------------------------------------------------------------------------------------------------


def follow(backend: str, name: str, cuts: list[int]) -> list[Delta]:
    """What a recorded stream says, its bytes fed in pieces."""
    data = load(name).body
    bounds = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    decoder = SseDecoder(LIMIT)
    events = [event for a, b in pairwise(bounds) for event in decoder.feed(data[a:b])] + decoder.close()
    return [DIALECTS[backend].read(event) for event in events]


def summary(deltas: list[Delta]) -> tuple[object, ...]:
    """Chunks with text, the text's end, (prompt, output, cached), finish_reason, model, and whether an end was said."""
    usage = next((each.usage for each in reversed(deltas) if each.usage), None)
    texts = [each.answer or each.reasoning for each in deltas if each.answer or each.reasoning]
    return (
        len(texts),
        "".join(texts)[-10:],
        (usage.prompt, usage.output, usage.cached) if usage else None,
        next((each.finish_reason for each in reversed(deltas) if each.finish_reason), None),
        next((each.model for each in reversed(deltas) if each.model), None),
        any(each.final for each in deltas),
    )


TINY = ("length", "tiny.gguf", True)
STREAMS: dict[str, tuple[object, ...]] = {
    "llama-server/chat-maxtokens1": (1, " before", (26, 1, 25), *TINY),
    "llama-server/chat-stream-usage": (32, "ru ye many", (26, 32, 0), *TINY),
    "llama-server/chat-stream-usage-again": (32, "ru ye many", (26, 32, 25), *TINY),
    "llama-server/chat-stream-ignore-eos": (32, "ru ye many", (26, 32, 0), *TINY),
    "llama-server/chat-stream-cache-prompt-true": (4, "es climbed", (26, 4, 25), *TINY),
    "llama-server/chat-stream-return-progress": (4, "bell wor Y", (26, 4, 0), *TINY),
    "llama-server/chat-stream-timings-per-token": (4, "ickens Was", (26, 4, 25), *TINY),
    "llama-server/completions-stream-usage": (32, "r sta wind", (6, 32, 0), *TINY),
    # Usage was not asked for: the counts are those of its timings.
    "llama-server/chat-stream-nousage": (8, "c afternoo", (26, 8, 25), *TINY),
    "llama-server/error-unknown-model": (4, " H lon old", (26, 4, 25), *TINY),
    "llama-server-router/chat-stream": (12, "he looking", (22, 12, 0), "length", "a", True),
    "transformers-serve/chat-stream-usage": (32, "e there ru", (26, 32, None), "length", "./tiny-hf@main", False),
    "transformers-serve/chat-maxtokens1": (1, " before", (26, 1, None), "length", "./tiny-hf@main", False),
    "transformers-serve/completions-stream-usage": (32, "pful about", (6, 32, None), "length", "./tiny-hf@main", False),
    "transformers-serve/error-prompt-too-long": (8, "ck reme ch", (6022, 8, None), "length", "./tiny-hf@main", False),
    "vllm/chat-maxtokens1": (1, " before", (26, 1, None), "length", "tiny", True),
    "vllm/chat-stream-usage": (32, "ru ye many", (26, 32, None), "length", "tiny", True),
    "vllm/chat-stream-nousage": (8, "c afternoo", None, "length", "tiny", True),
    "vllm/chat-stream-continuous-usage": (4, "lew answer", (26, 4, None), "length", "tiny", True),
    "vllm/completions-stream-usage": (32, "pful about", (6, 32, None), "length", "tiny", True),
}


def backend_of(name: str) -> str:
    """The backend of a recorded stream."""
    return {"vllm": "vllm", "transformers-serve": "transformers"}.get(name.split("/", maxsplit=1)[0], "llama_cpp")


@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 1 << 16), max_size=8))
def test_recorded_streams_say_the_same_wherever_they_are_cut(name: str, cuts: list[int]) -> None:
    """Text, counts, finish and model of each recorded stream, its bytes in any pieces."""
    assert summary(follow(backend_of(name), name, cuts)) == STREAMS[name]


def test_running_counts_come_with_the_text() -> None:
    """VLLM's continuous usage and llama.cpp's timings count the tokens up to each chunk; the role before them is no end."""
    for name in ("vllm/chat-stream-continuous-usage", "llama-server/chat-stream-timings-per-token"):
        deltas = follow(backend_of(name), name, [])
        assert [each.output_tokens for each in deltas if each.answer] == [1, 2, 3, 4]
        assert deltas[0].usage is None


def test_llama_servers_own_times_are_read() -> None:
    """Its decode and prefill speeds are those of its timings."""
    server = [each.server for each in follow("llama_cpp", "llama-server/chat-stream-ignore-eos", []) if each.server][-1]
    assert server is not None
    assert server.decode_tokens_per_second == pytest.approx(1724.04, abs=0.01)
    assert server.prefill_seconds == pytest.approx(0.005061)
    assert server.prefill_tokens_per_second == pytest.approx(5137.32, abs=0.01)


def test_ollamas_lines_are_read() -> None:
    """Thinking is reasoning, durations are nanoseconds, an error line is an error of the server."""
    dialect = DIALECTS["ollama"]
    lines = (
        b'{"model":"m","message":{"role":"assistant","content":"","thinking":"Hm"},"done":false}\n'
        b'{"model":"m","message":{"role":"assistant","content":"Yes"},"done":false}\n'
        b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"length",'
        b'"load_duration":2500000000,"prompt_eval_count":10,"prompt_eval_duration":500000000,'
        b'"eval_count":30,"eval_duration":1500000000}\n'
    )
    first, second, last = (dialect.read(event) for event in NdjsonDecoder(LIMIT).feed(lines))
    assert (first.reasoning, first.answer, second.answer) == ("Hm", "", "Yes")
    assert last.final
    assert last.usage is not None
    assert last.server is not None
    assert (last.usage.prompt, last.usage.output, last.finish_reason) == (10, 30, "length")
    assert (last.server.load_seconds, last.server.decode_tokens_per_second) == (2.5, 20.0)
    assert (last.server.prefill_seconds, last.server.prefill_tokens_per_second) == (0.5, 20.0)
    assert dialect.read(Event(b'{"error":"model runner has stopped"}')).error == "model runner has stopped"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'{"error":{"message":"out of memory","code":500}}', "out of memory"),
        (b'{"error":"Unauthorized"}', "Unauthorized"),
        (b'{"error":{"code":7}}', '{"code": 7}'),
    ],
)
def test_an_error_inside_a_stream_is_one(data: bytes, error: str) -> None:
    """In all the shapes that servers give it."""
    assert DIALECTS["openai"].read(Event(data)).error == error
    assert DIALECTS["openai"].read(Event(b'{"message":"no"}', name="error")).error is not None


@pytest.mark.parametrize("data", [b"", b"not json", b"[1]", b'"x"', b"\xff\xfe", b"null"])
@pytest.mark.parametrize("backend", DIALECTS)
def test_what_is_not_of_the_api_is_a_value_error(backend: str, data: bytes) -> None:
    """The client makes a failed probe of it; nothing else may come out."""
    with pytest.raises(ValueError, match=r".*"):
        DIALECTS[backend].read(Event(data))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "content", "usage", "timings", "completion_tokens", "message", "error", "done"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(value=JSON)
def test_no_json_surprises_a_dialect(value: object) -> None:
    """Whatever shape comes, reading it gives a Delta or a ValueError, and counts are sane."""
    for dialect in DIALECTS.values():
        try:
            delta = dialect.read(Event(json.dumps(value).encode()))
        except ValueError:
            continue
        assert delta.output_tokens is None or 0 <= delta.output_tokens <= 10**9


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("vllm/error-401-no-key", "auth"),
        ("vllm/error-404", "http_4xx"),
        ("vllm/error-405-get-chat", "http_4xx"),
        ("vllm/error-bad-type", "http_4xx"),
        ("vllm/error-malformed-json", "http_4xx"),
        ("vllm/error-no-messages", "http_4xx"),
        ("vllm/error-prompt-too-long", "http_4xx"),
        ("vllm/error-unknown-model", "no_model"),
        ("llama-server/error-401-wrong-key", "auth"),
        ("llama-server/error-bad-type", "http_4xx"),
        ("llama-server/error-prompt-too-long", "http_4xx"),
        ("llama-server/error-metrics-not-enabled", "http_5xx"),
        ("llama-server/loading-chat", "loading"),
        ("llama-server-router/error-chat-unknown-model", "no_model"),
        ("llama-server-router/error-chat-not-loaded", "no_model"),
        ("transformers-serve/chat-stream-ignore-eos", "http_4xx"),
        ("transformers-serve/error-no-messages", "http_5xx"),
        ("transformers-serve/error-unknown-model", "no_model"),
        ("transformers-serve/error-404", "http_4xx"),
    ],
)
def test_recorded_refusals_are_told_apart(name: str, result: Result) -> None:
    """Each recorded error answer gives its result."""
    answer = load(name)
    assert refuse(answer.status, answer.headers, answer.body, "/v1/chat/completions").result == result


# The keep-alive of a model in Ollama's memory ---------------------------------------------------------------------------


def test_a_probe_leaves_the_models_time_as_it_was() -> None:
    """It asks for what is left; as long as nobody else comes, the end stays where it was, probe after probe."""
    keep_alive = observe(None, 300.0, 0.0)
    for now in (60.0, 120.0, 180.0):
        asked = seconds_to_ask(keep_alive, now, 0.0)
        assert asked == 300.0 - now
        expires = now + 1 + asked
        keep_alive = observe(after_probe(keep_alive, asked, expires, queued=False, now=now + 1), expires, now + 30)
        assert keep_alive.leaves_at == 300.0


def test_a_users_request_gets_its_full_time_back() -> None:
    """After a probe a request without a time of its own gets only what the probe asked for; the next probe repairs that."""
    keep_alive = after_probe(observe(None, 300.0, 0.0), 120.0, 300.0, queued=False, now=180.0)
    assert keep_alive.owed
    seen = observe(keep_alive, 200.0 + 120.0, 240.0)
    assert seen.leaves_at == 500.0
    assert observe(seen, 320.0, 250.0).leaves_at == 500.0
    assert seconds_to_ask(seen, 250.0, 0.0) == 250.0


def test_a_probe_that_waited_behind_a_user_gives_the_full_time() -> None:
    """The request that it waited for ended just before it, so its time counts from then."""
    keep_alive = after_probe(observe(None, 300.0, 0.0), 120.0, 310.0, queued=True, now=190.0)
    assert keep_alive.leaves_at == 490.0


def test_a_users_own_keep_alive_wins() -> None:
    """Longer, shorter, or for ever: what the server says after it is what its user wants."""
    keep_alive = after_probe(observe(None, 300.0, 0.0), 120.0, 300.0, queued=False, now=180.0)
    assert observe(keep_alive, 3800.0, 240.0).leaves_at == 3800.0
    assert observe(keep_alive, 250.0, 240.0).leaves_at == 250.0
    assert seconds_to_ask(observe(None, 1e11, 0.0), 0.0, 0.0) == -1.0


def test_a_model_about_to_leave_is_not_probed() -> None:
    """When less is left than it takes to repair the time of who asks next; with a short time, when half of it is gone."""
    assert not nearly_over(KeepAlive(300.0, 300.0), 200.0, 60.0)
    assert nearly_over(KeepAlive(300.0, 300.0), 211.0, 60.0)
    assert not nearly_over(KeepAlive(60.0, 60.0), 29.0, 60.0)
    assert nearly_over(KeepAlive(60.0, 60.0), 31.0, 60.0)
