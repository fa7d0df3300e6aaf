"""The whole daemon as a guest: a real file, real sockets, its /metrics and its page, and what the servers say it cost them."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from exporter.discovery import ServerCandidate, Survey, survey
from exporter.probe.status import identify
from exporter.survey_report import survey_rows
from tests.daemon_settings import PROBES_ONLY
from tests.ports import free_port
from tests.real.daemon import forked_daemon, page, scrape, value
from tests.servers.koboldcpp import SimulatedKoboldCpp
from tests.servers.litellm import SimulatedLiteLLM
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.nobody import SimulatedNobody
from tests.servers.ollama import DEFAULT_KEEP_ALIVE, SimulatedOllama
from tests.servers.simulated import Simulated
from tests.servers.text_generation_webui import SimulatedTextGenerationWebui
from tests.servers.user import User
from tests.servers.vllm import SimulatedVllm
from tests.simulated.plain import get
from tests.waiting import eventually


@contextmanager
def watching(
    tmp_path: Path, module: str = "", *, tokens: int = 16, proc: str = "/proc", **servers: Simulated
) -> Iterator[int]:
    """A daemon that probes these servers each second, for so many tokens at most, and keeps its history; gives its port."""
    port, config = free_port(), tmp_path / "config.yml"
    targets = ", ".join(
        f'{{name: {name}, url: "{server.url}", budget: {{share: 1}}, modules: [default]}}'
        for name, server in servers.items()
    )
    config.write_text(f"""
targets: [{targets}]
modules: {{default: {{interval: 1s, max_tokens: {tokens}, prompt_tokens: 48{module}}}}}
history: {{path: {tmp_path / "history.db"}}}
{PROBES_ONLY}host: {{proc: {proc}}}
""")
    with forked_daemon("--config", config, port=port, log=tmp_path / "log") as process:
        yield port
        process.terminate()
        process.wait(20)


def results(port: int, target: str, result: str) -> float:
    """How many probes of a target by the default module ended so."""
    return value(scrape(port), "llm_probes_total", target=target, module="default", result=result) or 0


def test_nothing_is_paid_and_no_stranger_posted_to(tmp_path: Path) -> None:
    """A LiteLLM and a NAS as targets: three rounds of probes, no call, the reason in words on the page."""
    with SimulatedLiteLLM() as proxy, SimulatedNobody("nas") as nas:
        with watching(tmp_path, proxy=proxy, nas=nas) as port:
            eventually(lambda: results(port, "proxy", "no_model") >= 3, what="three probes of LiteLLM")
            eventually(lambda: results(port, "nas", "auth") >= 3, what="three probes of the NAS")
            shown = page(port)
        assert (+proxy.costs, +nas.costs) == ({}, {})
    assert "name one of: local, gpt-4o" in shown
    assert "api_key_file" in shown


def test_a_paused_server_is_neither_failing_nor_stale(tmp_path: Path) -> None:
    """A KoboldCpp that nobody uses is probed once; the page says since when it is paused, and keeps its speed."""
    with SimulatedKoboldCpp(tokens_per_second=100) as server, watching(tmp_path, quiet=server) as port:
        eventually(lambda: results(port, "quiet", "skipped_unloaded") >= 4, what="four pauses")
        shown, samples = page(port), scrape(port)
        assert results(port, "quiet", "ok") == 1
    assert "paused: nobody used koboldcpp/qwen3-8b since" in shown
    assert "stale" not in shown.partition("<main")[2].lower()
    assert value(samples, "llm_target_up", target="quiet") == 1
    assert value(samples, "llm_probe_tokens_per_second", target="quiet", module="default")


def test_an_ollama_gets_its_time_back_at_the_end(tmp_path: Path) -> None:
    """SIGTERM: the daemon ends, and later requests that name no keep-alive get the model's full time again."""
    with SimulatedOllama() as server:
        server.use("small")
        used = time.monotonic()
        time.sleep(2)
        with watching(tmp_path, ollama=server) as port:
            eventually(lambda: results(port, "ollama", "ok") >= 3, what="three probes")
            assert server.memory["small:latest"].keep_alive < DEFAULT_KEEP_ALIVE - 2
            watched_for = time.monotonic() - used
        server.idle()
        held = server.memory["small:latest"].keep_alive
        # What is left of the time is all that the daemon saw at its first status check.
        assert DEFAULT_KEEP_ALIVE - watched_for < held <= DEFAULT_KEEP_ALIVE
        assert (server.costs["load"], server.costs["reload"]) == (1, 0)


def test_a_probe_beside_users_has_a_mark_and_no_tier(tmp_path: Path) -> None:
    """With max_skips 1 every other probe runs beside the user: it is marked, feeds no histogram and has no tier."""
    with (
        SimulatedVllm(tokens_per_second=200) as server,
        User(server.url, tokens=6000),
        watching(tmp_path, ", max_skips: 1", shared=server) as port,
    ):
        marked = {"target": "shared", "module": "default"}
        eventually(lambda: value(scrape(port), "llm_probe_beside_users", **marked), what="a probe beside a user")
        samples, shown = scrape(port), page(port)
    assert not value(samples, "llm_probe_ttft_seconds_count", **marked)
    tiers = {own for (name, own), there in samples.items() if name == "llm_performance_tier" and there}
    assert not any(("target", "shared") in own for own in tiers)
    assert "Measured during 1 request of users" in shown


@pytest.mark.skipif(sys.platform != "linux", reason="the list of connections is Linux's")
def test_a_probe_of_a_single_slot_gives_way_to_whoever_connects(tmp_path: Path) -> None:
    """A llama-server with one slot: the probe ends for a user, by no read of ``/metrics``, and no notice is needed. It ends
    also for one whose client had kept a connection.

    Scrapes of it that others make all the time end no probe.
    """
    with (
        SimulatedLlamaServer(tokens_per_second=6) as server,
        watching(tmp_path, ", when_idle: probe", alone=server) as port,
    ):
        over, scraped = threading.Event(), list[int]()

        def scrape_it() -> None:
            while not over.wait(0.005):
                scraped.append(get(server, "/health").status_code)

        others = threading.Thread(target=scrape_it)
        others.start()
        eventually(lambda: results(port, "alone", "ok") >= 2, what="two whole probes beside scrapes")
        over.set()
        others.join()
        assert (len(scraped) > 20, results(port, "alone", "yielded")) == (True, 0)

        def gives_way(user: User, times: int) -> None:
            before = len(server.posts())
            eventually(lambda: len(server.posts()) > before, what="a probe that has begun", every=0.01)
            with user:
                user.finished()
            eventually(lambda: results(port, "alone", "yielded") == times, what="a probe that gave way")

        gives_way(User(server.url, tokens=2), 1)
        gives_way(User(server.url, tokens=2).connect(), 2)
        shown = page(port)
    assert "/metrics" not in server.paths()
    assert "a user who comes into a probe" not in shown + (tmp_path / "log").read_text()


def two_probes(port: int) -> bool:
    """Whether the target ``slow`` has been probed twice."""
    return results(port, "slow", "ok") >= 2


def test_a_restart_goes_by_the_last_speed(tmp_path: Path) -> None:
    """The first probe of a server is the shortest. After a restart of the daemon the first one is as long as the last speed says."""
    with SimulatedVllm(tokens_per_second=12) as server:
        for first in (16, 30):
            before = len(server.posts())
            with watching(tmp_path, tokens=64, slow=server) as port:
                eventually(partial(two_probes, port), what="two probes")
            asked = [each["max_tokens"] for each in server.posts()[before:]]
            assert (asked[0], asked[1]) == (pytest.approx(first, abs=2), pytest.approx(30, abs=2))


def test_a_notice_reaches_probe_discover_page_and_log(tmp_path: Path) -> None:
    """Servers that can't tell whether they are busy, or who waits for their only slot: all four say so, the log once for each.

    The daemon and the command get an empty ``/proc``, as for a server whose connections can't be seen.
    """
    empty = tmp_path / "proc"
    empty.mkdir()
    with SimulatedTextGenerationWebui() as webui, SimulatedLlamaServer() as llama:
        servers = {"webui": webui, "llama": llama}
        notices = {
            "webui": "text-generation-webui can't tell whether it is busy",
            "llama": "a user who comes into a probe waits for its end, unless `server_metrics: true` lets it give way",
        }
        with watching(tmp_path, ", when_idle: probe", proc=str(empty), webui=webui, llama=llama) as port:
            eventually(lambda: results(port, "webui", "ok") >= 3, what="three probes of text-generation-webui")
            eventually(lambda: results(port, "llama", "ok") >= 3, what="three probes of llama-server")
            shown = page(port).replace("&#39;", "'")
        config = ["--config", str(tmp_path / "config.yml")]
        for name, server in servers.items():
            command = [sys.executable, "-m", "exporter", "probe", server.url, "--json", *config]
            told = json.loads(subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout)
            candidate = ServerCandidate(name, (server.url,), "a test")
            found = survey_rows((), survey([candidate], (), Survey(), identify, time.time()))
            assert notices[name] in shown
            assert notices[name] in told["notice"]
            assert any(notices[name] in text for _, text in found)
            assert (tmp_path / "log").read_text().count(notices[name]) == 1
