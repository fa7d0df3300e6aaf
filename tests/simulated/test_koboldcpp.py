"""The simulated KoboldCpp does what the real one does, shown over HTTP."""

from tests.servers.koboldcpp import SimulatedKoboldCpp
from tests.servers.user import User, several
from tests.simulated.plain import chat, get, post, read, spent, wait_for

CHAT = "/v1/chat/completions"


def test_it_tells_who_runs_and_who_waits() -> None:
    """``idle`` is 0 while one runs, ``queue`` counts the others, ``idletime`` is since the last one began."""
    with SimulatedKoboldCpp(tokens_per_second=50) as server:
        server.clock.ahead += 100
        perf = read(server, "/api/extra/perf")
        assert (perf["idle"], perf["queue"], perf["idletime"] > 99) == (1, 0, True)
        users = [User(server.url, tokens=20) for _ in range(3)]
        with several(*users):
            wait_for(lambda: server.queue.waiting == 2)
            perf = read(server, "/api/extra/perf")
            assert (perf["idle"], perf["queue"], perf["idletime"] < 50) == (0, 2, True)
            users[-1].finished()
        server.idle()
        assert read(server, "/api/extra/perf")["total_gens"] == 3


def test_beyond_its_queue_it_refuses() -> None:
    """503 for the eighth at once."""
    with SimulatedKoboldCpp(tokens_per_second=20) as server:
        users = [User(server.url, tokens=500) for _ in range(7)]
        with several(*users):
            wait_for(lambda: server.queue.waiting == 6)
            assert post(server, CHAT, chat()).status_code == 503


def test_it_imitates_ollama_and_openai_and_says_its_name() -> None:
    """Ps and tags say the same; the owner of its model is koboldcpp; the version has a path of its own."""
    with SimulatedKoboldCpp() as server:
        assert read(server, "/api/version") == {"version": "0.7.0"}
        assert read(server, "/api/ps") == read(server, "/api/tags")
        assert read(server, "/v1/models")["data"][0]["owned_by"] == "koboldcpp"
        assert read(server, "/api/extra/version")["result"] == "KoboldCpp"
        assert get(server, "/props").status_code == 404
        assert server.costs == {}


def test_idle_it_unloads_and_only_a_router_loads_again() -> None:
    """Ps doesn't tell; the list says inactive; a router swaps for a name and comes back with the first one."""
    with SimulatedKoboldCpp(unload_timeout=600) as server:
        assert spent(server, lambda: post(server, CHAT, chat())) == {"timer restart": 1}
        server.clock.ahead += 601
        assert read(server, "/v1/models")["data"][0]["id"] == "koboldcpp/inactive"
        assert len(read(server, "/api/ps")["models"]) == 2
        assert post(server, CHAT, chat()).status_code == 503
    with SimulatedKoboldCpp(unload_timeout=600, router=("big.kcpps",)) as server:
        assert spent(server, lambda: post(server, CHAT, chat(model="big.kcpps")))["eviction"] == 1
        server.clock.ahead += 601
        assert spent(server, lambda: post(server, CHAT, chat()))["load"] == 1
