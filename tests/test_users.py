"""What users get, through the whole daemon: real sockets, the servers' own counters, /metrics and the page. No probe is needed."""

import json
import re
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from tests.daemon_settings import PROBES_ONLY
from tests.ports import free_port
from tests.real.daemon import forked_daemon, page, scrape, value
from tests.samples import Samples
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.sglang import SimulatedSGLang
from tests.servers.user import User
from tests.servers.vllm import SimulatedVllm
from tests.waiting import eventually

USER_SPEED, USER_TTFT = "llm_server_user_tokens_per_second", "llm_server_user_ttft_seconds"
PRODUCTION = "llm_server_generated_tokens_per_second"


@contextmanager
def watching(tmp_path: Path, url: str, *, target: str = "", module: str = "", host: str = "60s") -> Iterator[int]:
    """A daemon that checks and probes one target each second; gives its port."""
    port, config = free_port(), tmp_path / "config.yml"
    config.write_text(f"""
targets: [{{name: one, url: "{url}", modules: [default], budget: {{share: 1}}{target}}}]
modules: {{default: {{interval: 1s, max_tokens: 16, prompt_tokens: 48{module}}}}}
host: {{interval: {host}}}
{PROBES_ONLY}""")
    with forked_daemon("--config", config, port=port, log=tmp_path / "log") as process:
        yield port
        process.terminate()
        process.wait(20)


def of_users(port: int, name: str) -> float | None:
    """What a scrape has of the only target."""
    return value(scrape(port), name, target="one")


def tier_of_users(samples: Samples) -> list[str]:
    """The tier of what users get; none or one."""
    return [
        dict(own)["tier"] for (name, own), there in samples.items() if name == "llm_server_user_tier" and there == 1
    ]


def state(port: int) -> dict[str, Any]:
    """The only target as the API has it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/status", timeout=10) as answer:
        (found,) = json.load(answer)["targets"]
        return dict(found)


def speed_of(user: User) -> float:
    """What the client itself measured by now."""
    times = user.token_times
    return (len(times) - 1) / (times[-1] - times[0])


def of_one_window(port: int) -> tuple[Samples, str, dict[str, Any]] | None:
    """What the metrics, the page and the API say; None if a new reading came between them."""
    before, shown, told, samples = scrape(port), page(port), state(port), scrape(port)
    same = value(before, USER_SPEED, target="one") == value(samples, USER_SPEED, target="one")
    return (samples, shown, told) if same else None


def test_users_of_a_vllm_beside_probes(tmp_path: Path) -> None:
    """Three users on a vLLM that slows down with each: speed and TTFT are theirs, though every other probe runs beside them.

    An idle probe before has what the machine can reach; the page shows both, and judges the server by its users.
    """
    with SimulatedVllm(tokens_per_second=22, prefill_seconds=0.1, slowdown=0.8) as server, ExitStack() as stack:
        with watching(tmp_path, server.url, module=", max_skips: 2, timeouts: {total: 30s}") as port:
            alone = eventually(lambda: of_users(port, "llm_probe_tokens_per_second"), "a speed without users")
            assert of_users(port, USER_SPEED) is None
            users = [stack.enter_context(User(server.url, tokens=700)) for _ in range(3)]
            eventually(lambda: of_users(port, USER_SPEED), "a speed of users")
            time.sleep(6)  # one more window, all of it with users
            samples, shown, told = eventually(lambda: of_one_window(port), "all say the same window")
            got = value(samples, USER_SPEED, target="one")
            measured = sum(map(speed_of, users)) / len(users)
        assert got is not None
        assert got == pytest.approx(measured, rel=0.1)
        assert got < 0.6 * alone
        assert tier_of_users(samples) == ["poor"]
        can = re.search(r"Each user gets ([\d.]+) tokens/s; a probe alone got ([\d.]+)", shown)
        assert can is not None
        assert float(can[1]) == pytest.approx(got, abs=0.1)
        assert float(can[2]) == pytest.approx(alone, rel=0.2)
        assert told["verdict"] == "poor"
        assert "each user gets" in str(told["reason"])


def test_the_ttft_of_users_is_theirs(tmp_path: Path) -> None:
    """One short answer after another: the mean time to first token, though no probe ever ran."""
    with SimulatedVllm(tokens_per_second=100, prefill_seconds=0.25) as server:
        server.users = 1  # somebody is always there, so that no probe is sent
        with watching(tmp_path, server.url) as port:
            seen: list[float] = []
            until = time.monotonic() + 12
            while time.monotonic() < until:
                with User(server.url, tokens=30) as user:
                    user.finished()
                seen.append(user.ttft_seconds)
            ttft, speed = of_users(port, USER_TTFT), of_users(port, USER_SPEED)
            assert value(scrape(port), "llm_probes_total", target="one", result="ok") == 0
    assert ttft == pytest.approx(sum(seen) / len(seen), rel=0.1)
    assert speed == pytest.approx(100, rel=0.15)


def test_users_of_an_sglang(tmp_path: Path) -> None:
    """Two users at once by its histograms, during their answers: its counter of whole answers says nothing yet."""
    with SimulatedSGLang(tokens_per_second=30, prefill_seconds=0.2) as server, ExitStack() as stack:
        users = [stack.enter_context(User(server.url, tokens=600)) for _ in range(2)]
        with watching(tmp_path, server.url) as port:
            speed = eventually(lambda: of_users(port, USER_SPEED), "a speed of users")
            production = eventually(lambda: of_users(port, PRODUCTION), "what all get")
            measured = sum(map(speed_of, users)) / len(users)
    assert speed == pytest.approx(measured, rel=0.1)
    assert production == pytest.approx(2 * measured, rel=0.15)


def test_a_long_answer_of_llama_cpp_has_its_speed_while_it_runs(tmp_path: Path) -> None:
    """By the slots: what the user gets and what all get, during the answer and not as 0; nothing a while after its end."""
    with (
        SimulatedLlamaServer(build=7000, tokens_per_second=40, parallel=2) as server,
        watching(tmp_path, server.url) as port,
        User(server.url, tokens=400) as user,
    ):
        eventually(lambda: of_users(port, USER_SPEED), "a speed of users")

        def agreeing() -> Samples | None:
            samples, measured = scrape(port), speed_of(user)
            speed, production = (value(samples, name, target="one") for name in (USER_SPEED, PRODUCTION))
            alike = speed == pytest.approx(measured, rel=0.05) and production == pytest.approx(measured, rel=0.1)
            return samples if alike and user.ended_at is None else None

        samples = eventually(agreeing, "the speed that the client measures, while the answer runs", seconds=15)
        assert tier_of_users(samples) == ["excellent"]
        user.finished()
        eventually(lambda: of_users(port, USER_SPEED) is None, "nobody is served any more")


def test_a_server_that_may_sleep_is_not_asked_for_its_users(tmp_path: Path) -> None:
    """Nobody says that it has no sleep timer: /slots is left alone while a user is there, and nothing is said of him."""
    with SimulatedLlamaServer(tokens_per_second=40, sleep_idle_seconds=600, parallel=2) as server:
        server.asleep = True
        with watching(tmp_path, server.url) as port:
            eventually(lambda: of_users(port, "llm_target_up"), "a status check")
            time.sleep(4)
            assert of_users(port, USER_SPEED) is None
            assert of_users(port, "llm_target_stuck") is None
        assert server.costs["wake"] == 0


@contextmanager
def starting(tmp_path: Path, port: int) -> Iterator[Popen[bytes]]:
    """A process with vLLM's command line that doesn't listen."""
    script = tmp_path / "vllm"
    script.write_text("import time\ntime.sleep(600)\n")
    process = Popen([sys.executable, script, "serve", "tiny", "--port", str(port)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_server_process_that_does_not_listen_yet_is_starting(tmp_path: Path) -> None:
    """Loading and not down, its probes no failures, the page says since when; down as soon as the process is gone."""
    port = free_port()
    with (
        starting(tmp_path, port) as process,
        watching(tmp_path, f"http://127.0.0.1:{port}", host="1s") as exporter,
    ):
        eventually(lambda: of_users(exporter, "llm_target_loading") == 1, "it is starting")
        eventually(lambda: value(scrape(exporter), "llm_probes_total", result="loading"), "a probe of it")
        told, shown = state(exporter), page(exporter)
        assert (told["verdict"], str(told["reason"])[:14]) == ("loading", "starting since")
        assert "Starting since" in shown
        process.kill()
        process.wait()
        eventually(lambda: of_users(exporter, "llm_target_loading") == 0, "it is down")
        eventually(lambda: state(exporter)["verdict"] == "down", "the page says so")


def test_a_server_that_starts_for_longer_than_its_window_is_down(tmp_path: Path) -> None:
    """``start_window`` of three seconds: starting at first, then down, though the process is still there."""
    port = free_port()
    with (
        starting(tmp_path, port),
        watching(tmp_path, f"http://127.0.0.1:{port}", target=", start_window: 3s", host="1s") as exporter,
    ):
        eventually(lambda: of_users(exporter, "llm_target_up") == 0, "a status check")

        def is_down() -> bool:
            return state(exporter)["verdict"] == "down" and of_users(exporter, "llm_target_loading") == 0

        # Down at first, too, as long as the process has not been seen.
        over = time.monotonic() + 4
        eventually(lambda: time.monotonic() > over and is_down(), "it is down after its window")
