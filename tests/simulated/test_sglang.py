"""The simulated SGLang does what its source says of the real one, shown over HTTP."""

from tests.servers.sglang import SECRET, SimulatedSGLang
from tests.servers.user import User
from tests.simulated.plain import chat, events, get, post, read, spent, wait_for


def test_its_health_check_generates_a_token_unless_it_is_busy() -> None:
    """By default both paths do; reads of the list, the settings and the metrics cost nothing."""
    with SimulatedSGLang(tokens_per_second=50) as server:
        for path in ("/v1/models", "/get_server_info", "/get_model_info", "/metrics"):
            assert get(server, path).status_code == 200
        assert server.costs == {}
        assert spent(server, lambda: get(server, "/health")) == {"health token": 1}
        with User(server.url, model=server.model, tokens=30):
            wait_for(lambda: server.queue.running)
            assert spent(server, lambda: get(server, "/health_generate")) == {}


def test_it_names_itself_and_its_settings_hold_its_key() -> None:
    """The owner of its model; the settings tell everything."""
    with SimulatedSGLang() as server:
        assert {each["owned_by"] for each in read(server, "/v1/models")["data"]} == {"sglang"}
        assert read(server, "/get_server_info")["api_key"] == SECRET


def test_each_rank_and_each_priority_has_series_of_its_own() -> None:
    """Two ranks of one replica tell the same number, and with priorities there is a sum beside its parts."""
    with SimulatedSGLang(ranks=2, by_priority=True) as server:
        running = [line for line in get(server, "/metrics").text.splitlines() if line.startswith("sglang:num_running")]
        assert len(running) == 4
    with SimulatedSGLang(metrics=False) as server:
        assert get(server, "/metrics").status_code == 404


def test_usage_comes_in_every_chunk_if_asked_for() -> None:
    """Continuous usage counts up; the last chunk has all of it and no choice."""
    with SimulatedSGLang() as server:
        options = {"include_usage": True, "continuous_usage_stats": True}
        found = events(post(server, "/v1/chat/completions", chat(tokens=3, stream=True) | {"stream_options": options}))
        counts = [each["usage"]["completion_tokens"] for each in found if "usage" in each and each["choices"]]
        assert (counts, found[-1]["choices"]) == ([1, 2, 3], [])
