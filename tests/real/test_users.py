"""What the users of real servers get, by the whole daemon: a llama-server's slots, and a vLLM that hangs for four minutes."""

import json
import statistics
import time
import urllib.request
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_settings import PROBES_ONLY
from tests.ports import free_port
from tests.real.daemon import page, running_daemon, scrape, value
from tests.real.llama import make_model, running_llama
from tests.servers.user import User
from tests.servers.vllm import SimulatedVllm
from tests.waiting import eventually

pytestmark = pytest.mark.real

SPEED, PRODUCTION = "llm_server_user_tokens_per_second", "llm_server_generated_tokens_per_second"
# About how long the answer is.
SECONDS = 45.0


def configuration(tmp_path: Path, url: str, interval: str = "5s", more: str = "") -> Path:
    """The daemon's: one target, which is checked every five seconds, and after the first probe hardly probed any more."""
    path = tmp_path / "config.yml"
    path.write_text(f"""
targets: [{{name: one, url: "{url}", modules: [default], budget: {{share: 0.1%}}{more}}}]
modules: {{default: {{interval: {interval}, max_tokens: 16, prompt_tokens: 48, max_skips: 1000}}}}
host: {{interval: 2s}}
{PROBES_ONLY}""")
    return path


def of(port: int, name: str) -> float | None:
    """What a scrape has of the target."""
    return value(scrape(port), name, target="one")


def speed_between(user: User, begin: float, end: float) -> float:
    """What the client measured between two instants of monotonic time."""
    times = [each for each in user.token_times if begin <= each <= end]
    return (len(times) - 1) / (times[-1] - times[0])


def test_users_of_a_real_llama_server(binary: Path, tmp_path: Path) -> None:
    """During a long answer and after it: within 5 % of what the user's own client measures; so is what all get together.

    It is known not to sleep by its command line, and its /metrics is not read.
    """
    server, port = free_port(), free_port()
    url, config = f"http://127.0.0.1:{server}", configuration(tmp_path, f"http://127.0.0.1:{server}")
    with ExitStack() as stack:
        model = make_model(tmp_path, "slow")
        stack.enter_context(running_llama(binary, model, server, "--parallel", "2", "--ctx-size", "8192"))
        with User(url, tokens=4) as first:  # else the only probe would be a cold start
            first.finished()
        stack.enter_context(running_daemon("--config", config, port=port, log=tmp_path / "log"))
        speed_alone = eventually(lambda: of(port, "llm_probe_tokens_per_second"), "a probe of the idle server")
        alone = page(port)
        with User(url, tokens=min(round(SECONDS * speed_alone), 3900), ignore_eos=True) as user:
            began = user.first_at
            assert began is not None
            eventually(lambda: of(port, SPEED), "a speed of the user", seconds=30)
            seen: list[tuple[float, float, float]] = []
            while user.ended_at is None and time.monotonic() < began + SECONDS - 3:
                samples = scrape(port)
                speed, production = value(samples, SPEED, target="one"), value(samples, PRODUCTION, target="one")
                if speed is not None and production is not None and (not seen or speed != seen[-1][1]):
                    seen.append((time.monotonic(), speed, production))
                time.sleep(0.2)
            shown = page(port)
            user.finished(120)
            after = of(port, SPEED)
        # A new figure is that of the time since the one before it.
        windows = [(before[0], *now) for before, now in pairwise(seen)]
        assert len(windows) >= 2
        own = [speed_between(user, begin, end) for begin, end, *_ in windows]
        told = {
            "user": statistics.mean(speed / each for (*_, speed, _), each in zip(windows, own, strict=True)),
            "all": statistics.mean(production / each for (*_, production), each in zip(windows, own, strict=True)),
        }
        print(json.dumps(told | {"client": own, "after": after, "windows": windows}))
        assert told == pytest.approx(dict.fromkeys(told, 1.0), rel=0.05)
        assert after is not None
        # Right after the answer the figure is that of some seconds near its end, at whatever pace the machine had then.
        ended = user.token_times[-1]
        paces = [speed_between(user, ended - back - 2, ended - back) for back in range(15)]
        assert min(*own, *paces) * 0.8 < after < max(*own, *paces) * 1.2
        assert "Each user gets" not in alone
        assert "Each user gets" in shown
        eventually(lambda: of(port, SPEED) is None, "nobody is served any more", seconds=60)


def test_an_answer_of_a_real_llama_server_between_two_checks(binary: Path, tmp_path: Path) -> None:
    """By its counters, as ``server_metrics`` allows: within 5 % of what the client measured of an answer of some two seconds."""
    server, port = free_port(), free_port()
    url = f"http://127.0.0.1:{server}"
    config = configuration(tmp_path, url, "12s", ", server_metrics: true")
    with ExitStack() as stack:
        model = make_model(tmp_path, "slow")
        stack.enter_context(running_llama(binary, model, server))
        with User(url, tokens=4) as first:  # else the only probe would be a cold start
            first.finished()
        stack.enter_context(running_daemon("--config", config, port=port, log=tmp_path / "log"))
        alone = eventually(lambda: of(port, "llm_probe_tokens_per_second"), "a probe of the idle server")
        time.sleep(2)  # the check after the probe
        with User(url, tokens=max(round(2 * alone), 40), ignore_eos=True) as user:
            user.finished()
        told = eventually(lambda: of(port, SPEED), "a speed of the user", seconds=30)
        assert of(port, "llm_server_user_ttft_seconds") is None
    client = speed_between(user, user.token_times[0], user.token_times[-1])
    print(json.dumps({"told": told, "client": client}))
    assert told == pytest.approx(client, rel=0.05)


def test_a_server_that_hangs_for_four_minutes(tmp_path: Path) -> None:
    """Two requests run and no token comes: stuck after four minutes, on the page too; before that, and after a token, it is not."""
    port = free_port()
    with (
        SimulatedVllm(tokens_per_second=200) as server,
        running_daemon("--config", configuration(tmp_path, server.url), port=port, log=tmp_path / "log"),
    ):
        eventually(lambda: of(port, "llm_target_stuck") == 0, "a status check")
        server.users = 2
        hung = time.monotonic()
        eventually(lambda: of(port, "llm_target_stuck") == 1, "it is stuck", seconds=300, every=2)
        assert time.monotonic() - hung > 235
        assert of(port, "llm_target_up") == 1
        assert verdict(port) == "stuck"
        assert "requests have been running for four minutes" in page(port).lower()
        server.generated += 1
        eventually(lambda: of(port, "llm_target_stuck") == 0, "it generates again", seconds=30, every=1)


def verdict(port: int) -> Any:
    """The target's, as the API has it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/status", timeout=10) as answer:
        (found,) = json.load(answer)["targets"]
        return found["verdict"]
