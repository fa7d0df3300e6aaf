"""How true the figures are: TTFT and decode speed against a server that keeps exact time, in a process of its own.

    python tests/bench/truth.py [--quick] [--probes 200] [--loads idle,served,busy] [--output FILE]

At 5, 20, 100 and 300 tokens per second, with the kernel's stamps and with stamps taken after the read in turn, while

- idle: nothing else is done,
- served: the daemon runs in the measuring process itself, so that both share one interpreter. Its /metrics is scraped 20
  times a second, it scans a cache of 50,000 files again and again, and probes 50 other targets every 5 s,
- busy: one busy process per core runs beside it.

An error is that against the instant at which the server set out to send, so it contains the way through the kernel. A bar
(``llm_probe_clock_error_seconds``) holds where it is no smaller than what the error is beyond the time of the send itself.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from exporter.daemon import Daemon
from exporter.probe.client import Deadlines, Request, stream
from exporter.probe.http.transport import Connection
from exporter.probe.measure import measure
from exporter.probe.timeline import Timeline
from exporter.settings import load
from tests.ports import free_port
from tests.probe.http.probing import read
from tests.servers.exact import ExactServer, Played, chat, plain

TTFT_SECONDS: Final = 0.1
CASES: Final = {5: (12, 40), 20: (24, 16), 100: (64, 4), 300: (64, 2)}
"""Tokens per second: tokens of a probe, and how many probes run at once."""
OTHER_TARGETS: Final = 50
CACHED_FILES: Final = 50_000
SCRAPES_PER_SECOND: Final = 20
HEADER: Final = """\
| load | tokens/s | stamps | TTFT error, median | p99 | speed error, median | p99 | bar, median | bar holds | merged |
|---|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True, slots=True)
class Error:
    """How far one probe was off: seconds and a ratio; what remains of both beyond the server's own sends; its bar."""

    ttft: float
    speed: float
    beyond: float
    bar: float
    merged: float


def main() -> None:
    """Measure and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="20 probes of each kind")
    options.add_argument("--probes", type=int, default=200, help="of each kind")
    options.add_argument("--loads", default="idle,served,busy")
    options.add_argument("--output", type=Path)
    options.add_argument("--scrape", help=argparse.SUPPRESS)
    options.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.scrape:
        scrape(chosen.scrape)
    elif chosen.serve:
        serve(chosen.serve)
    else:
        probes = 20 if chosen.quick else chosen.probes
        rows = [HEADER]
        print(HEADER, flush=True)
        for name in chosen.loads.split(","):
            with LOADS[name]():
                for row in measured(name, probes):
                    rows.append(row)
                    print(row, flush=True)
        if chosen.output:
            chosen.output.write_text("\n".join(rows) + "\n")


def measured(load: str, probes: int) -> Iterator[str]:
    """The rows of one load."""
    for speed, (tokens, at_once) in CASES.items():
        answer = chat(tokens=tokens, tokens_per_second=speed, ttft=TTFT_SECONDS)
        with ExactServer({"/kernel": answer, "/read": answer}, own_process=True) as server:
            run_probes(server.url, 2, at_once)  # to warm up
            server.forget()
            timelines = run_probes(server.url, probes, at_once)
            played = server.played()
        for path, stamps in (("/kernel", "kernel"), ("/read", "after the read")):
            did = sorted((one for one in played if one.path == path), key=lambda one: one.arrived_ns)
            seen = sorted(timelines[path], key=lambda timeline: timeline.sent_ns or 0)
            yield row(load, speed, stamps, [compare(*pair) for pair in zip(seen, did, strict=True)])


def run_probes(url: str, probes: int, at_once: int) -> dict[str, list[Timeline]]:
    """So many probes with each kind of stamps, in turn, from so many threads; gives their timelines by path."""
    found: dict[str, list[Timeline]] = {"/kernel": [], "/read": []}
    left = iter([*found] * probes)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                path = next(left, None)
            if path is None:
                return
            connection = Connection(url, kernel_stamps=path == "/kernel")
            found[path].append(stream(connection, Request(path, b"{}"), read, Deadlines(10, 30, 30, 60)))

    threads = [threading.Thread(target=work) for _ in range(at_once)]
    for thread in threads:
        thread.start()
        time.sleep(0.029)  # so that the streams do not keep step
    for thread in threads:
        thread.join()
    return found


def compare(timeline: Timeline, played: Played) -> Error:
    """One probe against what the server did in it."""
    found = measure(timeline)
    assert found.ttft_seconds is not None
    assert found.clock_error_seconds is not None
    (first, first_done), (last, last_done) = played.texts[0], played.texts[-1]
    tokens = len(played.texts) - 1
    decode = (timeline.chunks[-1].at_ns - timeline.chunks[0].at_ns) / 1e9
    ttft = found.ttft_seconds
    return Error(
        ttft=abs(ttft - (first - played.arrived_ns) / 1e9),
        speed=abs((found.tokens_per_second or tokens / decode) * (last - first) / 1e9 / tokens - 1),
        beyond=max(
            beyond(ttft, (first - played.arrived_ns) / 1e9, (first_done - played.arrived_ns) / 1e9),
            beyond(decode, (last - first_done) / 1e9, (last_done - first) / 1e9),
        ),
        bar=found.clock_error_seconds,
        merged=timeline.coalesced / len(timeline.chunks),
    )


def beyond(figure: float, least: float, most: float) -> float:
    """By how much a figure lies outside of what it can have been."""
    return max(least - figure, figure - most, 0.0)


def row(load: str, speed: int, stamps: str, errors: list[Error]) -> str:
    """One line of the table."""
    ttft, speeds = [one.ttft * 1e3 for one in errors], [one.speed * 100 for one in errors]
    bars = [one.bar * 1e3 for one in errors]
    holds = sum(one.bar >= one.beyond for one in errors) / len(errors)
    merged = sum(one.merged for one in errors) / len(errors)
    return (
        f"| {load} | {speed} | {stamps} | {median(ttft):.3f} ms | {p99(ttft):.2f} ms | {median(speeds):.4f} % "
        f"| {p99(speeds):.3f} % | {median(bars):.3f} ms | {holds:.1%} | {merged:.1%} |"
    )


def p99(figures: list[float]) -> float:
    """The 99th percentile."""
    return quantiles(figures, n=100, method="inclusive")[98]


@contextlib.contextmanager
def idle() -> Iterator[None]:
    """Nothing else is done."""
    yield


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """One busy process per core, for as long as the block runs, and not for ever should this process die."""
    loop = "import time\nuntil = time.monotonic() + 1800\nwhile time.monotonic() < until: pass"
    processes = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def served() -> Iterator[None]:
    """The daemon runs in this process, with 50 targets and a large cache, and is scraped."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="truth-")))
        make_files(folder / "cache")
        ports = started(stack, "--serve", str(OTHER_TARGETS)).split()
        config = folder / "config.yml"
        config.write_text(configuration(ports, folder / "cache"))
        port = free_port()
        daemon = Daemon(partial(load, config, {}), listen_on=f"127.0.0.1:{port}")
        daemon.start()
        stack.callback(daemon.drain)
        started(stack, "--scrape", f"http://127.0.0.1:{port}/metrics")
        time.sleep(8)  # until every target was probed once
        yield


def configuration(ports: list[str], cache: Path) -> str:
    """Settings with a target for each port and a cache that is scanned all the time."""
    targets = "".join(
        f"  - {{name: other-{port}, url: 'http://127.0.0.1:{port}', backend: openai, modules: [default], budget: {{share: 100%}}}}\n"
        for port in ports
    )
    return (
        "discovery: {local: false, docker: false}\n"
        "docker: {enabled: false}\n"
        "modules:\n  default: {interval: 5s, max_tokens: 32}\n"
        f"cache: {{interval: 5s, paths: [{{name: large, kind: files, path: {cache}}}]}}\n"
        f"targets:\n{targets}"
    )


def make_files(folder: Path) -> None:
    """A tree of 50,000 files."""
    for number in range(CACHED_FILES):
        if number % 100 == 0:
            (folder / f"model-{number // 100}").mkdir(parents=True)
        (folder / f"model-{number // 100}" / f"part-{number % 100}.gguf").touch()


def started(stack: ExitStack, *arguments: str) -> str:
    """Run this file in a process of its own until the stack is left; gives its first line."""
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stack.callback(process.wait, 20)
    stack.callback(process.stdout.close)
    stack.callback(process.stdin.close)
    return process.stdout.readline()


def serve(targets: int) -> None:
    """Be so many inference servers, until standard input ends."""
    routes: dict[str, Any] = {
        "/v1/models": plain({"object": "list", "data": [{"id": "exact", "object": "model"}]}),
        "/v1/chat/completions": chat(tokens=32, tokens_per_second=50, ttft=TTFT_SECONDS),
    }
    with ExitStack() as stack:
        servers = [stack.enter_context(ExactServer(routes)) for _ in range(targets)]
        print(*(server.port for server in servers), flush=True)
        sys.stdin.read()


def scrape(url: str) -> None:
    """Scrape 20 times a second, until standard input ends."""
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    print("scraping", flush=True)
    while not ended.wait(1 / SCRAPES_PER_SECOND):
        with urllib.request.urlopen(url) as response:
            response.read()


LOADS: Final[dict[str, Callable[[], contextlib.AbstractContextManager[None]]]] = {
    "idle": idle,
    "served": served,
    "busy": busy,
}

if __name__ == "__main__":
    main()
