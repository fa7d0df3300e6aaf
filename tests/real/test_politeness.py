"""A guest that does no harm, on a real llama-server: asleep it stays asleep, a router loads nothing, users lose nothing."""

import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from bisect import bisect
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from exporter.host.connections import read_connections
from exporter.probe.prober import Prober
from exporter.probe.result import ProbeResult
from exporter.settings import Module, Target
from tests.ports import free_port
from tests.probe.probes import check, probe
from tests.real.llama import MAKE_MODEL, make_model, running_llama, wait_until_ready
from tests.servers.user import User
from tests.waiting import eventually

pytestmark = pytest.mark.real

# How much later things happen on a machine that does other things too.
BUSY_SECONDS = 4.0

EVERY_SECOND = Module(interval=1.0, max_tokens=16, prompt_tokens=32)
# A user's request lasts so long, which holds several probes that wait for it and give up.
USER_SECONDS = 30.0
# Of the measurement of what they cost him.
FEWEST_RATIOS, MEASURE_SECONDS, SURE = 9, 120.0, 0.01


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for models."""
    return tmp_path_factory.mktemp("models")


def prober(port: int) -> Prober:
    """A prober of a local server."""
    return Prober(Target(url=f"http://127.0.0.1:{port}", name="llama"))


def get(port: int, path: str) -> Any:
    """The JSON of a harmless read."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.load(answer)


def test_a_sleeping_server_stays_asleep_over_ten_intervals(binary: Path, models: Path) -> None:
    """Ten probes and ten status checks, a second apart: skipped, not resident, up; it sleeps before and after each."""
    port = free_port()
    with running_llama(binary, make_model(models, "tiny"), port, "--sleep-idle-seconds", "1"):
        eventually(lambda: get(port, "/props")["is_sleeping"], "llama-server falls asleep", seconds=30)
        one = prober(port)
        for _ in range(10):
            result, state = probe(one, EVERY_SECOND), check(one)
            assert (result.result, state.model_resident, state.up) == ("skipped_unloaded", False, True)
            assert get(port, "/props")["is_sleeping"]
            time.sleep(EVERY_SECOND.interval)


def test_status_checks_keep_no_server_awake(binary: Path, models: Path) -> None:
    """Checked five times a second, a server that may sleep after two seconds falls asleep all the same."""
    port = free_port()
    with running_llama(binary, make_model(models, "tiny"), port, "--sleep-idle-seconds", "2"):
        one = prober(port)
        eventually(lambda: not check(one).model_resident, "it sleeps, though it is looked at", seconds=30, every=0.2)


@pytest.mark.parametrize("sleeps", [None, True])
def test_a_server_sleeps_in_time_after_its_last_user(binary: Path, models: Path, *, sleeps: bool | None) -> None:
    """After a user's request it sleeps as early with status checks as it says, whether its timer is known or not."""
    port = free_port()
    with running_llama(binary, make_model(models, "tiny"), port, "--sleep-idle-seconds", "3"):
        one = prober(port)
        one.add_hints(sleeps=sleeps)
        check(one)
        with User(f"http://127.0.0.1:{port}", tokens=4) as user:
            user.finished()
        ended, deadline = time.monotonic(), time.monotonic() + 30
        while check(one).model_resident:
            assert time.monotonic() < deadline, "the status checks keep llama-server awake"
            time.sleep(0.1)
        assert time.monotonic() - ended < 3 + BUSY_SECONDS


@pytest.mark.parametrize("parallel", [2, 4])
def test_a_follow_up_finds_its_prompt_cache_after_probes(binary: Path, models: Path, parallel: int) -> None:
    """On several slots without a host cache: all but the new tokens of a follow-up are cached, with and without probes between."""
    port, url = free_port(), ""
    more = ("--parallel", str(parallel), "--cache-ram", "0", "--no-kv-unified")
    with running_llama(binary, make_model(models, "tiny"), port, *more):
        url = f"http://127.0.0.1:{port}"
        one = prober(port)
        history = [{"role": "user", "content": "Tell me a story of " + " ".join(f"n{each}" for each in range(100))}]
        cached = []
        for probes in (0, 0, 3, 1):
            for _ in range(probes):
                assert probe(one, EVERY_SECOND).result == "ok"
            with User(url, messages=history, tokens=8) as user:
                user.finished()
            last = [each for each in user.events if each.get("timings")][-1]["timings"]
            cached.append((last["cache_n"], last["prompt_n"]))
            history += [{"role": "assistant", "content": "and so on"}, {"role": "user", "content": "go on"}]
        assert all(kept > 4 * fresh for kept, fresh in cached[1:]), cached


def test_a_user_sent_into_a_probe_waits_two_seconds_at_most(binary: Path, models: Path) -> None:
    """One slot, some 6 tokens a second: a user sent 0.5 s into a probe has his first token at most 2 s later than alone.

    Without --metrics only the kernel's table of connections shows that he waits, 1.5 s after sending. Then the batch of the
    prompt that has begun is worked through: in small batches, each as short as a GPU's. A machine may be in use, so the median
    counts, and a server that is slower waits in proportion. The user is a process of his own, as every user is.
    """
    model, port = models / "six.gguf", free_port()
    command: list[str | Path] = [sys.executable, MAKE_MODEL, "--preset", "big", "--layers", "16", "--gguf", model]
    subprocess.run(command, check=True, capture_output=True)
    try:
        with (
            running_llama(binary, model, port, "--batch-size", "4", "--ubatch-size", "4", metrics=False),
            ProcessPoolExecutor(1, get_context("spawn")) as users,
        ):
            one, module = prober(port), Module(when_idle="probe")
            one.add_hints(connected=partial(read_connections, Path("/proc/self"), port, Path("/proc/self")))
            assert check(one).notice == ""
            # The first one is cold, the second one tells the speed.
            speeds = [probe(one, module).measurements.tokens_per_second for _ in range(3)]
            alone, late, results = list[float](), list[float](), list[ProbeResult]()
            for turn in range(7):
                alone.append(users.submit(user_ttft, port, f"{turn} A story about {turn}").result(60))
                thread = threading.Thread(target=lambda: results.append(probe(one, module)))
                thread.start()
                time.sleep(0.5)
                late.append(users.submit(user_ttft, port, f"{turn} Another story about {turn}").result(60))
                thread.join()
    finally:
        model.unlink()
    print(
        f"a user's TTFT at {speeds[-1]} tok/s: alone {alone}, beside a probe {late}: {[each.result for each in results]}"
    )
    slower = max(1.0, 6.0 / statistics.median(each for each in speeds if each))
    assert statistics.median(late) - statistics.median(alone) <= 2.0 * slower, (alone, late)
    assert {each.result for each in results} <= {"ok", "yielded"}


def user_ttft(port: int, prompt: str) -> float:
    """The TTFT of a user who asks for two tokens, in seconds; none of his prompt is cached."""
    with User(f"http://127.0.0.1:{port}", tokens=2, prompt=prompt, cache_prompt=False) as user:
        user.finished()
    return user.ttft_seconds


@contextmanager
def running_router(binary: Path, folder: Path, port: int) -> Iterator[None]:
    """llama-server as a router of the models in a folder."""
    command = (
        f"{binary} --models-dir {folder} --host 127.0.0.1 --port {port} --threads 1 --ctx-size 1024 --metrics --offline"
    )
    process = subprocess.Popen(shlex.split(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(port)
        yield
    finally:
        process.terminate()
        process.wait()


def statuses(port: int) -> dict[str, str]:
    """Each model of a router, and its status."""
    return {each["id"]: each["status"]["value"] for each in get(port, "/v1/models")["data"]}


def test_a_router_of_two_models_loads_neither(binary: Path, models: Path) -> None:
    """Probes and status checks load nothing; once a user has loaded one, that one is probed and the other stays where it is."""
    folder, port = models / "router", free_port()
    folder.mkdir()
    tiny = make_model(models, "tiny")
    for name in ("first", "second"):
        (folder / f"{name}.gguf").hardlink_to(tiny)
    with running_router(binary, folder, port):
        one = prober(port)
        for _ in range(10):
            assert probe(one, EVERY_SECOND).result == "skipped_unloaded"
            assert check(one).model_resident is False
        assert statuses(port) == {"first": "unloaded", "second": "unloaded"}
        ask(port, 4, "second")
        result = probe(one, EVERY_SECOND)
        assert (result.result, result.model) == ("ok", "second")
        assert statuses(port) == {"first": "unloaded", "second": "loaded"}


@dataclass(frozen=True)
class UserStream:
    """What a user got: when each event with text came, in monotonic time, and the tokens up to it. A token may have no text."""

    times: list[float]
    tokens: list[int]

    def between(self, began: float, ended: float) -> tuple[int, float]:
        """Tokens, and the seconds in which they came, from the first event in a while to the last."""
        first, last = bisect(self.times, began), bisect(self.times, ended) - 1
        return self.tokens[last] - self.tokens[first], self.times[last] - self.times[first]


def ask(port: int, tokens: int, model: str = "any") -> UserStream:
    """A user's request, until its answer is whole."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Please write a long answer about the old lighthouse."}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "timings_per_token": True,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        events = [(time.monotonic(), line) for line in answer if b'"content":"' in line]
    counts = [re.search(rb'"predicted_n":(\d+)', line) for _, line in events]
    found = UserStream([at for at, _ in events], [int(count[1]) for count in counts if count])
    assert len(found.times) == len(found.tokens) > 0
    return found


@dataclass(frozen=True)
class Window:
    """A while in which a probe of ours waited, or none did, and what the server's process computed in it, in seconds."""

    probed: bool
    began: float
    ended: float
    computed: float

    def speed(self, stream: UserStream) -> float:
        """Tokens per second in it."""
        tokens, seconds = stream.between(self.began, self.ended)
        return tokens / seconds

    def cost(self, stream: UserStream) -> float:
        """Processor seconds per token in it."""
        return self.computed / (self.speed(stream) * (self.ended - self.began))


def test_a_users_tokens_come_as_fast_with_us_as_without(binary: Path, models: Path) -> None:
    """One slot, one user: while a probe waits for its turn his speed is the same within 5 %, and every probe is skipped.

    A probe waits, then as long a while passes without one, and so on while he is served; each while with a probe is compared
    with the two beside it. A machine may be in use: what the measurement itself is unsure of has to be small, and is allowed on
    top. The processor time that the server spends on a token is hardly touched by that, and stands beside it.
    """
    port = free_port()
    speeds, costs, results = list[float](), list[float](), list[ProbeResult]()
    with running_llama(binary, make_model(models, "slow"), port) as server:
        one = prober(port)
        one.add_hints(sleeps=False)  # as its command line says: its slots may be read
        generated, seconds = ask(port, 60).between(0.0, math.inf)
        tokens = min(max(round(generated / seconds * USER_SECONDS), 60), 3500)
        until = time.monotonic() + MEASURE_SECONDS
        while len(speeds) < FEWEST_RATIOS or (doubt(speeds) > SURE and time.monotonic() < until):
            with probing(one, server.pid) as (windows, found):
                stream = ask(port, tokens)
            begun, ended = stream.times[0], stream.times[-1]
            served = [window for window in windows if begun < window.began and window.ended < ended]
            for before, beside, after in zip(served, served[1:], served[2:], strict=False):
                if not beside.probed:
                    continue
                speeds.append(beside.speed(stream) / statistics.mean((before.speed(stream), after.speed(stream))))
                costs.append(beside.cost(stream) / statistics.mean((before.cost(stream), after.cost(stream))))
            results += found
            assert served, "no probe waited beside the user"
    for name, ratios in (("speed", speeds), ("processor time", costs)):
        middle = statistics.median(ratios)
        print(f"{name} beside a probe over alone: median {middle:.4f} ± {doubt(ratios):.4f} of {len(ratios)}")
    assert {each.result for each in results} == {"skipped_busy"}
    assert len(results) >= len(speeds)
    assert max(doubt(speeds), doubt(costs)) < 0.08
    assert abs(statistics.median(speeds) - 1) < 0.05 + 2 * doubt(speeds)
    assert statistics.median(costs) < 1.05 + 2 * doubt(costs)


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def doubt(ratios: list[float]) -> float:
    """How uncertain a median is: its standard error, from the spread's median, so that a disturbed ratio counts little."""
    middle = statistics.median(ratios)
    spread = 1.4826 * statistics.median(abs(each - middle) for each in ratios)
    return float(1.25 * spread / len(ratios) ** 0.5)


@contextmanager
def probing(one: Prober, server: int) -> Iterator[tuple[list[Window], list[ProbeResult]]]:
    """From when the user's request is served: no probe, a probe, no probe, and so on in turn; the windows and the results."""
    windows, found = list[Window](), list[ProbeResult]()
    over = threading.Event()

    def run() -> None:
        while not (check(one).requests_running or over.wait(0.01)):
            pass
        length = 2.0
        while not over.is_set():
            marks = [(time.monotonic(), processor_seconds(server))]
            over.wait(length)
            marks.append((time.monotonic(), processor_seconds(server)))
            result = probe(one, EVERY_SECOND)
            marks.append((time.monotonic(), processor_seconds(server)))
            length = marks[2][0] - marks[1][0]
            # What ends after the user's request has nothing to yield to any more.
            if not over.is_set():
                found.append(result)
                for probed, ((began, before), (ended, after)) in zip((False, True), pairwise(marks), strict=True):
                    windows.append(Window(probed, began, ended, after - before))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield windows, found
    finally:
        over.set()
        thread.join()


def test_production_speed_is_that_of_the_users(binary: Path, models: Path) -> None:
    """What a user generated between two status checks, by the server's counter, with the tokens of a probe in between left out."""
    port = free_port()
    with running_llama(binary, make_model(models, "tiny"), port):
        one = Prober(Target(url=f"http://127.0.0.1:{port}", name="llama", server_metrics=True))
        one.add_hints(sleeps=False)
        ask(port, 20)
        assert check(one).generated_tokens_per_second is None
        started = time.monotonic()
        tokens = ask(port, 600).tokens[-1]
        assert probe(one, EVERY_SECOND).result == "ok"
        time.sleep(max(0.0, 5.5 - (time.monotonic() - started)))
        speed = check(one).generated_tokens_per_second
        seconds = time.monotonic() - started
    assert speed is not None
    assert speed == pytest.approx(tokens / seconds, rel=0.05)


def test_a_large_model_that_loads_is_seen_as_loading(binary: Path, models: Path) -> None:
    """1.6 GB take seconds: loading and up, not down; the first probe after it is a cold start, the next one has a speed."""
    port = free_port()
    big = make_model(models, "big")
    try:
        with running_llama(binary, big, port, "--load-mode", "none", wait=False):
            one = prober(port)
            seen: list[ProbeResult] = []
            deadline = time.monotonic() + 180
            while not seen or seen[-1].result != "ok":
                assert time.monotonic() < deadline, [each.result for each in seen]
                seen.append(probe(one, EVERY_SECOND))
                time.sleep(0.1)
            last = probe(one, EVERY_SECOND)
    finally:
        big.unlink()
    loading = [each for each in seen if each.result == "loading"]
    assert loading
    for each in loading:
        assert each.state is not None
        assert (each.state.loading, each.state.up) == (True, True)
    assert {each.result for each in seen} <= {"connect", "loading", "ok"}
    first = seen[-1]
    assert first.cold_start
    assert first.model_load_seconds is not None
    assert 0 < first.model_load_seconds < 180
    assert first.measurements.tokens_per_second is None
    assert (last.result, last.cold_start) == ("ok", False)
    assert last.measurements.tokens_per_second is not None
