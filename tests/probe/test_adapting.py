"""What a probe does where a server wants it otherwise: a completion, a shorter prompt, fields and headers of the user's own."""

import json
from pathlib import Path
from typing import Any

import pytest

from exporter.probe.failure import ProbeFailure, context_exceeded, refuse, wants_template
from exporter.probe.run import prefill_allowance
from exporter.settings import Module, Timeouts, load_profiles
from exporter.target_facts import Machine, info_of, target_facts_of
from tests.probe.probes import probe, prober
from tests.servers.captured import Captured, load
from tests.servers.exact import ExactServer, chat, plain
from tests.servers.simulated import ReceivedRequest, ServerAnswer, Simulated, as_json

MODELS = {"object": "list", "data": [{"id": "m"}]}


class Picky(Simulated):
    """A plain server that looks at each POST before it answers with a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.template = True
        self.context = 100_000
        self.tells_context = True
        self.tokens = 16

    def answer(self, request: ReceivedRequest) -> ServerAnswer:
        """As vLLM answers a chat without a template, and a prompt over the context."""
        if request.path == "/v1/models":
            return as_json(MODELS)
        if request.method != "POST":
            return as_json({"detail": "Not Found"}, 404)
        if request.path == "/v1/chat/completions" and not self.template:
            message = "default chat template is no longer allowed, so you must provide a chat template"
            return as_json({"error": {"message": message, "code": 400}}, 400)
        body = request.body
        prompt = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
        if len(prompt.split()) > self.context:
            message = "the request exceeds the available context size"
            extra = {"n_ctx": self.context} if self.tells_context else {}
            error = {"code": 400, "message": message, "type": "exceed_context_size_error", **extra}
            return as_json({"error": error}, 400)
        return ServerAnswer(kind="text/event-stream", pieces=self._stream(len(prompt.split()), plain="prompt" in body))

    def _stream(self, prompt: int, *, plain: bool) -> Any:
        for number in range(self.tokens):
            text = {"text": f" word{number}"} if plain else {"delta": {"content": f" word{number}"}}
            finish = "length" if number == self.tokens - 1 else None
            chunk = {"model": "m", "choices": [{"index": 0, **text, "finish_reason": finish}]}
            yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
        usage = {"prompt_tokens": prompt, "completion_tokens": self.tokens}
        yield b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"


def test_a_base_model_is_asked_for_a_completion() -> None:
    """Without a chat template the request goes once more as a completion, and the next probe begins with that."""
    with Picky() as server:
        server.template = False
        one = prober(server.url)
        first, second = probe(one), probe(one)
        assert server.paths("POST") == ["/v1/chat/completions", "/v1/completions", "/v1/completions"]
        assert [each.keys() & {"prompt", "messages"} for each in server.posts()] == [
            {"messages"},
            {"prompt"},
            {"prompt"},
        ]
    assert [(each.result, each.measurements.output_tokens) for each in (first, second)] == [("ok", 16)] * 2
    assert any("once more as a plain completion" in line for line in first.log)


@pytest.mark.parametrize("tells", [True, False])
def test_a_prompt_that_does_not_fit_is_sent_shorter(*, tells: bool) -> None:
    """Once, by what the server says that its context holds, else by half; the next probe begins with that."""
    with Picky() as server:
        server.context, server.tells_context = 600, tells
        one = prober(server.url)
        module = Module(max_tokens=16, prompt_tokens=1000, when_busy="probe")
        first, second = probe(one, module), probe(one, module)
        lengths = [len(each["messages"][0]["content"].split()) for each in server.posts()]
    assert (first.result, second.result, len(lengths)) == ("ok", "ok", 3)
    assert lengths[0] > 600 > lengths[1]
    assert any("once more with a prompt of" in line for line in first.log)


@pytest.mark.parametrize(
    ("status", "body", "context"),
    [
        (400, load("llama-server/error-prompt-too-long").body, 2048),
        (400, load("vllm/error-prompt-too-long").body, 2048),
        (400, b'{"error": {"code": "context_length_exceeded", "message": "too many"}}', 0),
        (413, b'{"error": "the prompt is too long"}', 0),
        (400, load("vllm/error-bad-type").body, None),
        (500, b"the prompt is too long", None),
    ],
)
def test_a_prompt_over_the_context_is_recognised(status: int, body: bytes, context: int | None) -> None:
    """By the words of real servers, with the length of their context where they tell it."""
    assert context_exceeded(refuse(status, {}, body, "/v1/chat/completions")) == context


def test_an_error_in_the_stream_may_say_that_the_prompt_is_too_long() -> None:
    """llama-server of old says so there."""
    failure = ProbeFailure("server_error", "broke off: the request exceeds the available context size")
    assert context_exceeded(failure) == 0
    assert not wants_template(failure)


def test_the_modules_fields_and_headers_are_sent(tmp_path: Path) -> None:
    """With each probe, over the exporter's own where both set one; a secret is read anew, and shown nowhere."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2-hunter2\n")
    module = Module(
        max_tokens=16,
        prompt_tokens=48,
        request={"chat_template_kwargs": {"enable_thinking": False}, "temperature": 0.5},
        headers={"X-Priority": "low"},
        header_files={"X-Proxy": secret},
    )
    refusal = plain({"error": "you are hunter2-hunter2, and may not"}, status=403)
    with ExactServer({"/v1/models": plain(MODELS), "/v1/chat/completions": [chat(), refusal]}) as server:
        one = prober(server.url)
        good, bad = probe(one, module), probe(one, module)
        sent = next(each for each in server.played() if each.method == "POST")
        reads = [each for each in server.played() if each.method == "GET"]
    assert (good.result, bad.result) == ("ok", "auth")
    body = json.loads(sent.body)
    assert (body["chat_template_kwargs"], body["temperature"]) == ({"enable_thinking": False}, 0.5)
    assert (sent.headers["x-priority"], sent.headers["x-proxy"]) == ("low", "hunter2-hunter2")
    assert all("x-proxy" not in each.headers for each in reads)
    assert "hunter2" not in "\n".join((bad.error, *bad.log, *good.log))
    assert "you are …" in bad.error


def test_a_header_of_the_module_replaces_the_key(tmp_path: Path) -> None:
    """Two Authorization headers would be one too many."""
    key, own = tmp_path / "key", tmp_path / "own"
    key.write_text("the-targets-key")
    own.write_text("Basic dXNlcjpodW50ZXIy")
    module = Module(max_tokens=16, prompt_tokens=48, header_files={"Authorization": own})
    with ExactServer({"/v1/models": plain(MODELS), "/v1/chat/completions": chat()}) as server:
        assert probe(prober(server.url, api_key_file=key), module).result == "ok"
        (sent,) = [each for each in server.played() if each.method == "POST"]
    assert sent.headers["authorization"] == "Basic dXNlcjpodW50ZXIy"


def test_a_header_file_that_is_gone_is_told(tmp_path: Path) -> None:
    """Nothing is sent, and the failure names the header and its file."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    module = Module(max_tokens=16, prompt_tokens=48, header_files={"X-Proxy": secret})
    secret.unlink()
    with ExactServer({"/v1/models": plain(MODELS), "/v1/chat/completions": chat()}) as server:
        result = probe(prober(server.url), module)
        assert all(each.method == "GET" for each in server.played())
    assert (result.result, "the file of the header X-Proxy" in result.error) == ("auth", True)


def test_the_time_to_the_first_token_grows_with_the_prompt() -> None:
    """By a second for 50 tokens above 1024, unless the module sets its own timeouts."""
    assert prefill_allowance(Module(), 64) == 0
    assert prefill_allowance(Module(), 6024) == 100
    assert prefill_allowance(Module(timeouts=Timeouts(first_token=9.0)), 6024) == 0


def test_a_target_is_named_by_what_its_answers_name() -> None:
    """Transformers serve lists nothing: after a probe the target has the model of its answer, without the revision main."""
    gets = {
        "/health": "transformers-serve/get-health",
        "/v1/models": "transformers-serve/get-v1-models",
        "/version": "transformers-serve/get-version",
    }
    with Captured(
        gets, "transformers-serve/error-404", lambda _: load("transformers-serve/chat-stream-usage")
    ) as server:
        one = prober(server.url)
        result = probe(one)
        later = one.status()
    assert later is not None
    assert result.state is not None
    for state in (result.state, later):
        known = target_facts_of(one.target, state.identity, Machine())
        info = info_of(one.target, state.identity, known, Machine(), load_profiles(None))
        assert (info.model, result.model) == ("tiny-hf", "tiny-hf")


@pytest.mark.parametrize("path", ["", "/llm", "/llm/v1"])
def test_a_url_may_have_a_path(path: str) -> None:
    """A server behind a proxy's path, with and without /v1."""
    base = path.removesuffix("/v1")
    routes = {f"{base}/v1/models": plain(MODELS), f"{base}/v1/chat/completions": chat()}
    with ExactServer(routes) as server:
        assert probe(prober(server.url + path)).result == "ok"
