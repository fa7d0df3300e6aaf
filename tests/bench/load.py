"""How many targets one daemon holds: a thousand by default, each probed once a minute, some of which hang.

    python tests/bench/load.py [--targets 1000] [--hanging 20] [--minutes 3]

A simulated server in its own process listens on a loopback address of its own for each target (a target is a server: two on one
address would take turns). It streams 64 tokens at 50 tokens per second and notes when it really sent them. The daemon runs as a
user starts it. It prints how late probes began, the error of the exported speeds, the time of a scrape, and what the daemon
took. A probe is late by how much more than the interval lies between it and the one before.
"""

import argparse
import asyncio
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

TOKENS: Final = 64
TOKENS_PER_SECOND: Final = 50.0
TTFT_SECONDS: Final = 0.2
INTERVAL_SECONDS: Final = 60
UNSURE_SECONDS: Final = 0.0002
PORT: Final = 18800
OWN: Final = 18799


def address(number: int) -> str:
    """The loopback address of a target."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


class LoadServers:
    """Streams from many addresses in one event loop; notes each probe's arrival and its first and last send."""

    def __init__(self, targets: int, hanging: int) -> None:
        self.targets, self.hanging = targets, hanging
        self.probes: dict[int, list[tuple[float, float, float]]] = {number: [] for number in range(targets)}

    async def run(self, out: Path) -> None:
        """Serve until standard input ends, then write what was sent."""
        servers = [
            await asyncio.start_server(partial(self._serve, number), address(number), PORT)
            for number in range(self.targets)
        ]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for server in servers:
            server.close()
        await asyncio.to_thread(out.write_text, json.dumps(self.probes))

    async def _serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line = head.split(b"\r\n", 1)[0]
                length = next(
                    (int(each[15:]) for each in head.lower().split(b"\r\n") if each[:15] == b"content-length:"), 0
                )
                await reader.readexactly(length)
                if number < self.hanging and line.startswith(b"POST"):
                    await asyncio.sleep(3600)
                await (self._stream(number, writer) if line.startswith(b"POST") else self._models(line, writer))
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _models(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        if b"/v1/models" in line:
            body = b'{"object":"list","data":[{"id":"load","object":"model","owned_by":"load"}]}'
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
        else:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async def _stream(self, number: int, writer: asyncio.StreamWriter) -> None:
        arrived = time.monotonic()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        first = last = unsure = 0.0
        for token in range(TOKENS):
            await asyncio.sleep(arrived + TTFT_SECONDS + token / TOKENS_PER_SECOND - time.monotonic())
            if writer.is_closing():
                return
            last = time.monotonic()
            first = first or last
            _event(writer, {"index": 0, "delta": {"content": f" word{token}"}}, token + 1)
            if token in {0, TOKENS - 1}:
                unsure = max(unsure, time.monotonic() - last)
        _event(writer, {"index": 0, "delta": {}, "finish_reason": "length"}, TOKENS)
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()
        # Where this process was set aside between the clock and the write, it doesn't know when it sent.
        self.probes[number].append((arrived, first, last if unsure < UNSURE_SECONDS else math.nan))


def _event(writer: asyncio.StreamWriter, choice: dict[str, object], count: int) -> None:
    usage = {"prompt_tokens": 64, "completion_tokens": count, "total_tokens": 64 + count}
    data = b"data: " + json.dumps({"model": "load", "choices": [choice], "usage": usage}).encode() + b"\n\n"
    writer.write(b"%x\r\n" % len(data) + data + b"\r\n")


def configuration(targets: int) -> str:
    """The daemon's configuration: the targets, and nothing else to do."""
    lines = [
        f"listen: 127.0.0.1:{OWN}",
        "discovery: {local: false, docker: false}",
        "docker: {enabled: false}",
        "cache: {paths: []}",
        f"modules: {{default: {{interval: {INTERVAL_SECONDS}s, max_tokens: {TOKENS}}}}}",
        "targets:",
        *(
            f"- {{name: t{number}, url: 'http://{address(number)}:{PORT}', modules: [default]}}"
            for number in range(targets)
        ),
    ]
    return "\n".join(lines) + "\n"


def percentile(values: list[float], share: float) -> float:
    """The value that so many of all are not above."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Run both processes for the time, then compare what the daemon said with what the server did."""
    config, out = folder / "config.yml", folder / "sent.json"
    config.write_text(configuration(options.targets))
    role = [sys.executable, __file__, "--serve", str(out), "--targets", str(options.targets)]
    server = subprocess.Popen(
        [*role, "--hanging", str(options.hanging)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdout.readline()
    log = (folder / "log").open("wb")
    daemon = subprocess.Popen([sys.executable, "-m", "exporter", "serve", "--config", str(config)], stderr=log)
    scrapes: list[float] = []
    text = ""
    try:
        deadline = time.monotonic() + options.minutes * 60
        time.sleep(20)
        while time.monotonic() < deadline:
            begun = time.monotonic()
            with urllib.request.urlopen(f"http://127.0.0.1:{OWN}/metrics", timeout=30) as answer:
                text = answer.read().decode()
            scrapes.append(time.monotonic() - begun)
            time.sleep(max(15 - scrapes[-1], 0))
        status = Path(f"/proc/{daemon.pid}/status").read_text()
    finally:
        daemon.terminate()
        daemon.wait(timeout=20)
        server.stdin.close()
        server.wait(timeout=20)
        log.close()
    probes = {int(number): each for number, each in json.loads(out.read_text()).items()}
    report(options, probes, text, scrapes, status)


def report(
    options: argparse.Namespace,
    probes: dict[int, list[tuple[float, float, float]]],
    text: str,
    scrapes: list[float],
    status: str,
) -> None:
    """Print the figures as a Markdown table."""
    late = [
        abs((after[0] - before[0]) - INTERVAL_SECONDS) for each in probes.values() for before, after in pairwise(each)
    ]
    said = {
        sample.labels["target"]: sample.value
        for family in text_string_to_metric_families(text)
        if family.name == "llm_probe_tokens_per_second"
        for sample in family.samples
    }
    errors = []
    for number, each in probes.items():
        true = [(TOKENS - 1) / (last - first) for _, first, last in each]
        if any(map(math.isnan, true[-2:])):
            continue
        if true and f"t{number}" in said:
            # A probe that ended after the last scrape isn't in it: the one that was exported is the nearest.
            errors.append(min(abs(said[f"t{number}"] / speed - 1) for speed in true[-2:]))
    memory = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    threads = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads"))
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    count = sum(map(len, probes.values()))
    rows = [
        ("targets, of which hang", f"{options.targets}, {options.hanging}"),
        ("targets measured, of which compared", f"{len(said)}, {len(errors)}"),
        ("probes in the time", f"{count} in {options.minutes:g} min"),
        ("start, off its time: p50 / p99", f"{percentile(late, 0.5):.3f} s / {percentile(late, 0.99):.3f} s"),
        ("started within 1 s of their time", f"{sum(each < 1 for each in late) / len(late):.2%}"),
        ("error of the speed: p50 / p99", f"{percentile(errors, 0.5):.3%} / {percentile(errors, 0.99):.3%}"),
        ("scrape: p50 / worst", f"{statistics.median(scrapes):.3f} s / {max(scrapes):.3f} s"),
        ("peak memory, threads at the end", f"{memory:.0f} MiB, {threads}"),
        ("CPU time of both processes", f"{cpu.ru_utime + cpu.ru_stime:.0f} s in {options.minutes * 60:.0f} s"),
    ]
    print("| | |\n|---|---|")
    for name, figure in rows:
        print(f"| {name} | {figure} |")


def main() -> None:
    """Parse, and run either side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--hanging", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    if options.serve:
        asyncio.run(LoadServers(options.targets, options.hanging).run(options.serve))
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(options, Path(folder))


if __name__ == "__main__":
    main()
