"""The simulated transformers serve does what the real one does, shown over HTTP."""

from tests.servers.transformers_serve import SimulatedTransformersServe
from tests.servers.user import User, several
from tests.simulated.plain import chat, events, get, post, read, spent

CHAT = "/v1/chat/completions"


def test_without_a_model_it_loads_what_a_request_names() -> None:
    """And downloads it where it isn't on the disk; after 300 s without a request it is dropped."""
    with SimulatedTransformersServe(model=None) as server:
        for path in ("/health", "/v1/models", "/version", "/metrics"):
            get(server, path)
        assert server.costs == {}
        assert spent(server, lambda: post(server, CHAT, chat(model="Qwen/Qwen3-8B"))) == {"load": 1, "timer restart": 1}
        assert spent(server, lambda: post(server, CHAT, chat(model="other/x")))["download"] == 1
        assert len(server.memory.ready) == 2
        server.clock.ahead += 301
        assert server.memory.ready == []
        assert post(server, CHAT, chat()).status_code == 500


def test_with_a_model_it_keeps_to_it() -> None:
    """No load, no timer; another name is refused."""
    with SimulatedTransformersServe() as server:
        assert post(server, CHAT, chat(stream=True)).status_code == 200
        assert "pinned" in post(server, CHAT, chat(model="x")).json()["detail"]
        assert server.costs == {}


def test_without_the_hubs_folder_the_list_is_an_error() -> None:
    """500 in plain text and without the request id that each other answer has, while the health check is fine."""
    with SimulatedTransformersServe(hub=False) as server:
        failed = get(server, "/v1/models")
        assert (failed.status_code, "x-request-id" in failed.headers) == (500, False)
        assert read(server, "/health") == {"status": "ok"}
        assert "x-request-id" in get(server, "/health").headers


def test_one_at_a_time_and_no_read_tells() -> None:
    """The role comes at once, the first token when the other is done."""
    with SimulatedTransformersServe(tokens_per_second=100) as server:
        first, second = User(server.url, tokens=30), User(server.url, tokens=4)
        with several(first, second):
            second.finished()
        assert second.first_at is not None
        assert second.lines[0][0] < first.token_times[-3] < second.first_at


def test_its_stream_is_the_odd_one() -> None:
    """Usage in the finish chunk though nobody asked, no [DONE], and unknown fields are a 422 that names them."""
    with SimulatedTransformersServe() as server:
        answer = post(server, CHAT, chat(tokens=2, stream=True))
        assert events(answer)[-1]["usage"]["completion_tokens"] == 2
        assert "[DONE]" not in answer.text
        refused = post(server, CHAT, chat(ignore_eos=True))
        assert (refused.status_code, "ignore_eos" in refused.json()["detail"]) == (422, True)
