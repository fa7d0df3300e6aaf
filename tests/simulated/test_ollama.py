"""The simulated Ollama does what the real one does, shown over HTTP."""

import time
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.servers.ollama import CLOUD, DEFAULT_KEEP_ALIVE, EMBEDDING, SimulatedOllama, stored
from tests.servers.user import User, several
from tests.simulated.plain import events, get, post, read, spent, wait_for

OLD, CLAMPS, NEW = "0.9.6", "0.24.0", "0.33.0"


def ask(server: SimulatedOllama, model: str = "small", *, tokens: int = 2, **more: Any) -> list[Any]:
    """A streamed chat, read to its end."""
    options = {"num_predict": tokens, **more.pop("options", {})}
    body = {"model": model, "messages": [{"role": "user", "content": "a b c"}], "options": options, **more}
    return events(post(server, "/api/chat", body))


def user(server: SimulatedOllama, model: str = "small", **more: Any) -> User:
    """A user's chat."""
    return User(server.url, path="/api/chat", model=model, **more)


def running(server: SimulatedOllama) -> dict[str, Any]:
    """The models of ``/api/ps`` by name."""
    return {each["name"]: each for each in read(server, "/api/ps")["models"]}


def leaves_in(server: SimulatedOllama, model: str = "small:latest") -> float:
    """Seconds until a model leaves, by ``/api/ps`` and the server's clock."""
    return datetime.fromisoformat(running(server)[model]["expires_at"]).timestamp() - server.clock()


# The timer ------------------------------------------------------------------------------------------------------------


def test_the_timer_is_set_when_the_last_request_ends() -> None:
    """While requests run, what ps says stays as it was; the last end sets it to now and that request's keep_alive."""
    with SimulatedOllama(tokens_per_second=100, parallel=2) as server:
        server.use("small")
        before = running(server)["small:latest"]["expires_at"]
        server.clock.ahead += 200
        with user(server, tokens=500) as first:
            ask(server, keep_alive=1000)
            assert running(server)["small:latest"]["expires_at"] == before
            first.leave()
        server.idle()
        assert 990 < leaves_in(server) < 1001
        ask(server)
        assert 990 < leaves_in(server) < 1001


def test_right_after_a_load_the_end_moves() -> None:
    """Until the first request has ended, ps says now + keep_alive, whenever it is asked."""
    with SimulatedOllama(tokens_per_second=50, load_seconds=0.05) as server, user(server, tokens=500):
        for _ in range(2):
            assert DEFAULT_KEEP_ALIVE - 5 < leaves_in(server) <= DEFAULT_KEEP_ALIVE
            server.clock.ahead += 100


@pytest.mark.parametrize("keep_alive", [-1, "-1m"])
def test_a_negative_keep_alive_is_for_ever(keep_alive: Any) -> None:
    """It stays so for requests that name none."""
    with SimulatedOllama(load_seconds=0) as server:
        ask(server, keep_alive=keep_alive)
        server.clock.ahead += 1e8
        ask(server)
        assert running(server)["small:latest"]["expires_at"] > "2300"
        assert server.loads == 1


def test_an_empty_chat_restarts_the_timer() -> None:
    """It loads nothing that is in memory, gets no slot, and with keep_alive 0 unloads."""
    with SimulatedOllama(load_seconds=0) as server:
        server.use("small")
        server.clock.ahead += 100
        answer: list[Any] = []
        empty = {"model": "small", "messages": []}
        assert spent(server, lambda: answer.append(post(server, "/api/chat", empty).json())) == {"timer restart": 1}
        assert answer[0]["done_reason"] == "load"
        assert leaves_in(server) > DEFAULT_KEEP_ALIVE - 5
        assert post(server, "/api/chat", {**empty, "keep_alive": 0}).json()["done_reason"] == "unload"
        assert running(server) == {}


def test_a_model_leaves_when_its_time_is_over() -> None:
    """By the clock that tests move, and the next request loads it."""
    with SimulatedOllama(load_seconds=0) as server:
        ask(server, keep_alive="1m30s")
        server.clock.ahead += 80
        assert running(server)
        server.clock.ahead += 20
        assert running(server) == {}
        ask(server)
        assert server.costs["load"] == 2
        assert post(server, "/api/chat", {"model": "small", "keep_alive": "30"}).status_code == 400


# The queue and the times ----------------------------------------------------------------------------------------------


def test_one_slot_first_come_first_served() -> None:
    """The second waits for the first, the third for both, and nothing comes before that, not even the headers."""
    with SimulatedOllama(tokens_per_second=100) as server:
        server.use("small")
        users = [user(server, tokens=tokens) for tokens in (40, 20, 20)]
        with several(*users):
            for each in users:
                each.finished()
        for before, after in pairwise(users):
            assert after.waited_for(before)


def test_the_wait_in_the_queue_is_what_the_durations_leave() -> None:
    """What load, prompt and eval leave of the total is near zero for the first, and as long as the first ran for the second."""
    with SimulatedOllama(tokens_per_second=100) as server:
        server.use("small")
        first, second = (user(server, tokens=50) for _ in range(2))
        with several(first, second):
            second.finished()
        waits = [_queued(each.events[-1]) for each in (first, second)]
        assert waits[1] > 0.7 * first.events[-1]["total_duration"] > 5 * waits[0]
        assert second.events[-1]["eval_count"] == 50


def _queued(last: dict[str, Any]) -> float:
    return float(last["total_duration"] - sum(last[f"{part}_duration"] for part in ("load", "prompt_eval", "eval")))


def test_a_load_takes_its_time_and_ps_is_empty_meanwhile() -> None:
    """The time is in load_duration; a client that leaves during a load leaves nothing in memory."""
    with SimulatedOllama(load_seconds=0.4) as server:
        one = user(server, tokens=2).send()
        wait_for(lambda: server.loads)
        assert running(server) == {}
        one.finished()
        assert one.events[-1]["load_duration"] > 0.8 * one.events[-1]["total_duration"]
        server.clock.ahead += 1000
        other = user(server, tokens=2).send()
        wait_for(lambda: server.loads == 2)
        other.leave()
        server.idle()
        assert running(server) == {}


def test_a_client_that_leaves_frees_the_slot_at_once() -> None:
    """Decoding stops, and so does waiting."""
    with SimulatedOllama(tokens_per_second=20) as server:
        server.use("small")
        first, waits, last = user(server, tokens=2000), user(server, tokens=2000), user(server, tokens=2)
        with several(first, waits, last):
            waits.leave()
            first.leave()
            last.finished()
        assert last.events[-1]["done"] is True


# Reloads and evictions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"num_ctx": 8192}, {"num_thread": 8}, {"num_batch": 128}, {"main_gpu": 1}, {"use_mmap": False}]
)
def test_any_other_option_of_the_runner_reloads(options: dict[str, Any]) -> None:
    """Of a request without the option, and back again; num_gpu -1 and options of sampling never do."""
    with SimulatedOllama(load_seconds=0) as server:
        ask(server)
        assert spent(server, lambda: ask(server, options={"temperature": 1, "num_gpu": -1}))["load"] == 0
        assert spent(server, lambda: ask(server, options=options))["reload"] == 1
        assert spent(server, lambda: ask(server, options=options))["reload"] == 0
        assert spent(server, lambda: ask(server))["reload"] == 1


def test_a_reload_waits_for_running_requests_and_blocks_all_other_loads() -> None:
    """A user decodes; a request with another context waits for it, and a third one, of another model, for both."""
    with SimulatedOllama(tokens_per_second=50, load_seconds=0.05, max_loaded=2) as server:
        server.use("small")
        first = user(server, tokens=40)
        reloads = user(server, tokens=2, options={"num_ctx": 8192})
        other = user(server, "large", tokens=2)
        with several(first, reloads, other):
            other.finished()
        assert first.complete
        assert reloads.waited_for(first)
        assert other.ttft_seconds > reloads.ttft_seconds
        last = reloads.events[-1]
        assert last["load_duration"] > 0.7 * last["total_duration"]


def test_a_reload_forgets_the_keep_alive_of_before() -> None:
    """The new runner has the default, but for a request that names one."""
    with SimulatedOllama(load_seconds=0) as server:
        ask(server, keep_alive=-1)
        ask(server, options={"num_ctx": 8192})
        assert leaves_in(server) < DEFAULT_KEEP_ALIVE + 1


def test_another_model_evicts_an_idle_one() -> None:
    """Where one fits, the one in memory goes."""
    with SimulatedOllama(load_seconds=0) as server:
        ask(server)
        assert spent(server, lambda: ask(server, "large")) == {"eviction": 1, "load": 1, "timer restart": 1}
        assert list(running(server)) == ["large:latest"]


def test_a_context_above_the_models_own_is_told_clamped_and_compared_as_asked() -> None:
    """0.15.5 to 0.24 with a big GPU: repeating what ps says reloads, and so does the next user, in turn; not so from 0.30 on."""
    for version, reloads in ((CLAMPS, 4), (NEW, 0)):
        with SimulatedOllama(version=version, gpu_memory_gib=48, load_seconds=0) as server:
            server.disk["small:latest"] = stored("small", 1, trained=40_960)
            ask(server)
            assert running(server)["small:latest"]["context_length"] == 40_960
            for _ in range(2):
                ask(server, options={"num_ctx": running(server)["small:latest"]["context_length"]})
                ask(server)
            assert server.costs["reload"] == reloads


def test_from_0_30_on_an_automatic_batch_fits_the_context() -> None:
    """A request that names none takes it, one that names Ollama's default reloads."""
    with SimulatedOllama(version=NEW, load_seconds=0) as server:
        ask(server, options={"num_ctx": 8192})
        assert spent(server, lambda: ask(server, options={"num_ctx": 8192}))["reload"] == 0
        assert spent(server, lambda: ask(server, options={"num_ctx": 8192, "num_batch": 512}))["reload"] == 1


def test_a_killed_runner_stays_in_ps() -> None:
    """Its stream ends with an error line, and the next request loads the model anew."""
    with SimulatedOllama(tokens_per_second=50, load_seconds=0) as server:
        with user(server, tokens=500) as one:
            server.kill_runner("small")
            one.finished()
        assert "unexpected EOF" in one.events[-1]["error"]
        assert running(server)
        assert spent(server, lambda: ask(server))["load"] == 1


# Lists and names ------------------------------------------------------------------------------------------------------


def test_versions_say_more_or_less() -> None:
    """Up to 0.9.6 ps has no context_length; capabilities are in tags from 0.30 on, in show before; digests have 64 digits."""
    for version in (OLD, CLAMPS, NEW):
        with SimulatedOllama(version=version) as server:
            server.use("small")
            tag = read(server, "/api/tags")["models"][0]
            assert read(server, "/api/version") == {"version": version}
            assert ("context_length" in running(server)["small:latest"]) == (version != OLD)
            assert ("capabilities" in tag) == (version == NEW)
            assert "completion" in post(server, "/api/show", {"model": "small"}).json()["capabilities"]
            assert len(tag["digest"]) == 64


def test_models_of_one_second_come_in_any_order() -> None:
    """In tags and in ps."""
    with SimulatedOllama(max_loaded=2) as server:
        server.use("small")
        server.use("large")
        for path in ("/api/tags", "/api/ps"):
            orders = {tuple(each["name"] for each in read(server, path)["models"]) for _ in range(40)}
            assert len(orders) == 2


def test_names_have_no_case_and_a_copy_is_the_same_runner() -> None:
    """``ollama cp`` makes a second name; ps shows the one that was loaded first."""
    with SimulatedOllama(load_seconds=0) as server:
        server.copy("small", "mine")
        ask(server, "MINE")
        assert spent(server, lambda: ask(server, "Small:LATEST"))["load"] == 0
        assert list(running(server)) == ["mine:latest"]
        digests = {each["name"]: each["digest"] for each in read(server, "/api/tags")["models"]}
        assert digests["mine:latest"] == digests["small:latest"] != digests["large:latest"]


def test_a_model_of_the_cloud_costs() -> None:
    """It is told by remote_host and remote_model, is never in Ollama's own ps, and each chat is a paid call."""
    for listed in (False, True):
        with SimulatedOllama(cloud_in_ps=listed) as server:
            server.disk["gpt-oss:120b-cloud"] = CLOUD
            assert spent(server, lambda: ask(server, "gpt-oss:120b-cloud")) == {"paid call": 1}
            tags = {each["name"]: each for each in read(server, "/api/tags")["models"]}
            assert tags["gpt-oss:120b-cloud"]["remote_host"] == "https://ollama.com:443"
            assert "remote_host" not in tags["small:latest"]
            assert list(running(server)) == (["gpt-oss:120b-cloud"] if listed else [])


def test_refusals_have_the_texts_of_the_real_one() -> None:
    """Unknown model, model for embeddings, no model, a GET where a POST belongs, an unknown path."""
    with SimulatedOllama() as server:
        server.disk["nomic-embed-text:latest"] = EMBEDDING
        unknown = post(server, "/api/chat", {"model": "Nothing"})
        assert (unknown.status_code, unknown.json()) == (404, {"error": "model 'Nothing' not found"})
        embeds = post(server, "/api/chat", {"model": "nomic-embed-text", "messages": [{"content": "x"}]})
        assert (embeds.status_code, embeds.json()) == (400, {"error": '"nomic-embed-text" does not support chat'})
        assert post(server, "/api/chat", {}).json() == {"error": "model is required"}
        assert get(server, "/api/chat").status_code == 405
        assert get(server, "/props").text == "404 page not found"
        assert post(server, "/v1/chat/completions", {"model": "x"}).json()["error"]["type"] == "not_found_error"
        assert "server" not in get(server, "/").headers
        assert server.costs == {}
        post(server, "/api/embed", {"model": "nomic-embed-text", "input": "x"})
        assert list(running(server)) == ["nomic-embed-text:latest"]


def test_after_thirty_repeats_the_stream_just_ends() -> None:
    """31 equal tokens, no line with done."""
    with SimulatedOllama(load_seconds=0) as server:
        server.repeats = True
        lines = ask(server, tokens=64)
        assert len(lines) == 31
        assert not any(each["done"] for each in lines)


def test_the_openai_path_says_the_same() -> None:
    """Chunks, usage in a chunk of its own if asked for, [DONE]; thinking is ``reasoning``."""
    with SimulatedOllama(load_seconds=0) as server:
        server.thinks = 1
        with User(server.url, tokens=3, model="small") as one:
            one.finished()
        assert one.tokens == 3
        assert one.events[0]["choices"][0]["delta"]["reasoning"] == " word1"
        assert one.events[-1]["usage"]["completion_tokens"] == 3
        assert one.lines[-2][1] == b"data: [DONE]"


def test_reads_cost_nothing() -> None:
    """Version, tags, ps, show and the model list, with a model in memory."""
    with SimulatedOllama() as server:
        server.use("small")
        server.costs.clear()
        for path in ("/", "/api/version", "/api/tags", "/api/ps", "/v1/models"):
            get(server, path)
        post(server, "/api/show", {"model": "small"})
        assert server.costs == {}


def test_it_listens_before_it_answers() -> None:
    """At its start a connection is taken, and the answer comes when it is ready."""
    server = SimulatedOllama()
    server.start(answering=False)
    one = user(server, "nothing").send()
    time.sleep(0.05)
    assert not one.lines
    server.serve()
    one.finished()
    assert one.status == 404
    server.kill()
