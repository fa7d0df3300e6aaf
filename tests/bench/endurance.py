"""Whether a daemon is after many probes what it was after a few: descriptors, threads, memory, series.

    python tests/bench/endurance.py [--probes 100000] [--targets 80] [--rotating 20]

A server in its own process has a loopback address of its own for each target. It answers the first requests well, and then
about every second one; the others get one of all the faults that it knows. The daemon runs as a user starts it, every target
each second, which is as often as it may. A reload every five seconds lets some targets go and others come. At 100 probes a
second, 100,000 are 70 days of a target that is probed each minute.
"""

import argparse
import asyncio
import gzip
import logging
import os
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.daemon_settings import PROBES_ONLY
from tests.ports import free_port

PAUSE_SECONDS: Final = 0.5
RENAMING: Final = 8
"""So many targets name another model in every answer."""
ROTATING_NAMES: Final = 5
"""So many times more targets come and go than are there at once."""
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TEXT: Final = b'data: {"model":"%b","choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'
WORDS: Final = b"lamp boat moon road tree lake bird coat door fire gate hill king leaf milk nest".split()
FINISH: Final = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
USAGE: Final = b'data: {"choices":[],"usage":{"prompt_tokens":64,"completion_tokens":%d}}\n\n'
DONE: Final = b"data: [DONE]\n\n"
TOKENS: Final = 12
TOKEN_SECONDS: Final = 0.005
FIRST_TOKEN_SECONDS: Final = 0.03
"""In a target's first answers. Tokens that come faster may be read together on a busy machine, and then have no speed."""
FIRST_ANSWERS: Final = 3
BOMB: Final = gzip.compress(b"data: x\n\n" * 1_000_000)

# Read by hand: the client library's parser would take more time than the daemon.
PROBES: Final = re.compile(r'^llm_probes_total\{module="\w+",result="(\w+)",target="(\w+)"\} (\S+)$', re.MULTILINE)
TARGET: Final = re.compile(r'[{,]target="(\w+)"')
LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Series = tuple[str, frozenset[tuple[str, str]]]
Writer = asyncio.StreamWriter
Send = Callable[[bytes], None]


def whole(status: int, body: bytes = b"", *headers: bytes, kind: bytes = b"application/json") -> bytes:
    """A whole answer."""
    lines = [b"HTTP/1.1 %d X" % status, b"Content-Type: " + kind, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


def varied(text: bytes, number: int) -> bytes:
    """A chunk with another word: one word again and again is no answer."""
    return text.replace(b" word", b" " + WORDS[number % len(WORDS)])


def piece(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


WHOLE_FAULTS: Final = {
    "301": whole(301, b"", b"Location: http://elsewhere.invalid/"),
    "400": whole(400, b'{"error":{"message":"no"}}'),
    "401": whole(401, b'{"error":"no key"}'),
    "404": whole(404, b'{"error":{"message":"model x not found"}}'),
    "422": whole(422, b'{"detail":[{"loc":["body","seed"],"msg":"extra"}]}'),
    "429": whole(429, b"", b"Retry-After: 1"),
    "500": whole(500, b"Internal Server Error", kind=b"text/plain"),
    "502": whole(502, b"<h1>Bad Gateway</h1>", kind=b"text/html"),
    "503": whole(503, b'{"error":{"message":"Loading model"}}'),
    "HTML with 200": whole(200, b"<p>Welcome</p>", kind=b"text/html"),
    "empty stream": HEAD + piece(b""),
    "role chunks": HEAD
    + piece(b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n' * 9)
    + piece(b""),
    "clean end": HEAD + piece(TEXT % b"m") * 9 + piece(b""),
    "error in the stream": HEAD + piece(TEXT % b"m") + piece(b'data: {"error":{"message":"no memory"}}\n\n'),
    "bad JSON": HEAD + piece(TEXT % b"m") + piece(b"data: {nonsense\n\n"),
    "bad UTF-8": HEAD + piece(b"data: \xff\xfe\n\n"),
    "NUL": HEAD + piece(b"data: \x00\n\n"),
    "long line": HEAD + piece(b"data: " + b"x" * 2_000_000),
    "tiny events": HEAD + piece(b"data:\n\n" * 300_000),
    "long header": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200_000,
    "gzip bomb": whole(200, BOMB, b"Content-Encoding: gzip", kind=b"text/event-stream"),
    "not HTTP": b"SSH-2.0-OpenSSH_9\r\n",
}
"""Answers after which the connection is closed."""
HEAVY: Final = frozenset({"long line", "tiny events", "long header", "many headers", "gzip bomb"})
PLAYED_FAULTS: Final = "silent stall comments reset close bytes crlf".split()
LISTING: Final = b'{"object":"list","data":[{"id":"%b","object":"model","owned_by":"endurance"}]}'
LISTING_FAULTS: Final = (
    whole(500),
    whole(200, b"{"),
    whole(200, b"<html>"),
    b"",
)
LONG_LISTING: Final = b'{"data":[{"id":"%b"},' + b'{"id":"x"},' * 20_000 + b"{}]}"


class FaultServer:
    """Answers from many addresses in one event loop, by a seed."""

    def __init__(self, plan: "EndurancePlan", seed: int = 1) -> None:
        self.plan, self.renaming = plan, set(plan.addresses[:RENAMING])
        self.draw = random.Random(seed)
        self.played: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        """How often each address was asked for text."""
        names = [*WHOLE_FAULTS, *PLAYED_FAULTS]
        # Those that cost seconds, megabytes or a thousand packets come once for every four of the others.
        weights = [1 if name in HEAVY or name in {"silent", "stall", "comments", "bytes"} else 4 for name in names]
        self.kinds = ["good", *names]
        self.weights = [sum(weights), *weights]

    async def run(self) -> None:
        """Serve until standard input ends, then say what was played."""
        servers = [
            await asyncio.start_server(partial(self._serve, address), address, self.plan.port)
            for address in self.plan.addresses
        ]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for server in servers:
            server.close()
        print(" ".join(f"{name.replace(' ', '-')}={count}" for name, count in self.played.most_common()), flush=True)

    async def _serve(self, address: str, reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
            )
            await reader.readexactly(length)
            async with asyncio.timeout(30):
                await (self._post(address, writer) if head.startswith(b"POST") else self._get(address, head, writer))
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _get(self, address: str, head: bytes, writer: Writer) -> None:
        if b"/v1/models" not in head.split(b"\r\n", 1)[0]:
            writer.write(whole(404))
        elif self.draw.random() < 0.02:
            self.played["bad listing"] += 1
            # The long one begins with the target's own model: another one's series would come later than the first reading.
            writer.write(self.draw.choice([*LISTING_FAULTS, whole(200, LONG_LISTING % self._model(address))]))
        else:
            writer.write(whole(200, LISTING % self._model(address)))
        await writer.drain()

    async def _post(self, address: str, writer: Writer) -> None:
        kind, pause = self.draw.choices(self.kinds, self.weights)[0], TOKEN_SECONDS
        self._asked[address] += 1
        if self._asked[address] <= FIRST_ANSWERS:
            # A target's histograms come with the first probe that is good and surely timed: here before the first reading.
            kind, pause = "good", FIRST_TOKEN_SECONDS
        self.played[kind] += 1
        if kind in WHOLE_FAULTS:
            writer.write(WHOLE_FAULTS[kind])
            await writer.drain()
            return
        await self._stream(kind, TEXT % self._model(address), pause, writer)

    def _model(self, address: str) -> bytes:
        return b"m%d" % self.draw.getrandbits(64) if address in self.renaming else b"steady"

    async def _stream(self, kind: str, text: bytes, pause: float, writer: Writer) -> None:
        if kind == "silent":
            await asyncio.sleep(5)
            return
        writer.write(HEAD)
        end = FINISH + USAGE % TOKENS + DONE
        if kind == "bytes":
            for byte in b"".join(varied(text, number) for number in range(TOKENS)) + end:
                writer.write(piece(bytes([byte])))
            writer.write(piece(b""))
            await writer.drain()
            return
        for number in range(TOKENS):
            said = varied(text, number)
            writer.write(piece(said.replace(b"\n", b"\r\n") if kind == "crlf" else said))
            await writer.drain()
            await asyncio.sleep(pause)
            if number < TOKENS // 2:
                continue
            if kind == "close":
                return
            if kind == "reset":
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return
            while kind in {"stall", "comments"} and not writer.is_closing():
                writer.write(piece(b": ping\n\n") if kind == "comments" else b"")
                await writer.drain()
                await asyncio.sleep(0.05 if kind == "comments" else 5)
        writer.write(piece(end) + piece(b""))
        await writer.drain()


@dataclass(frozen=True, slots=True)
class EndurancePlan:
    """Who is probed: targets that stay, and those of which another part is there after each reload."""

    targets: int
    rotating: int
    port: int
    """Of the server, on every address."""

    def address(self, number: int) -> str:
        """The loopback address of a target."""
        return f"127.2.{number // 250}.{number % 250 + 1}"

    @property
    def addresses(self) -> list[str]:
        """Every address that is ever probed."""
        return [self.address(number) for number in range(self.targets + self.rotating * ROTATING_NAMES)]

    def names(self, turn: int) -> list[str]:
        """The rotating targets of one turn."""
        first = turn * self.rotating // 2
        return [f"r{(first + n) % (self.rotating * ROTATING_NAMES)}" for n in range(self.rotating)]

    def configuration(self, listen: int, turn: int) -> str:
        """The daemon's configuration in one turn; the last permanent targets are those that can't be reached."""
        # Nothing listens, no such name, TLS where there is none.
        special = [
            f"http://{self.address(0)}:1",
            "http://no-such-host.invalid:1",
            f"https://{self.address(0)}:{self.port}",
        ]
        plain = [f"http://{self.address(number)}:{self.port}" for number in range(self.targets - len(special))]
        lines = [
            f"listen: 127.0.0.1:{listen}",
            PROBES_ONLY,
            "modules: {default: {interval: 1s, max_tokens: 12, timeouts: {connect: 500ms, first_token: 500ms, stalled: 500ms, total: 1500ms}}}",
            "targets:",
            *(
                f"- {{name: t{number}, url: '{url}', backend: {'auto' if number % 10 == 0 else 'openai'}, modules: [default]}}"
                for number, url in enumerate(plain + special)
            ),
            *(
                f"- {{name: {name}, url: 'http://{self.address(self.targets + int(name[1:]))}:{self.port}', backend: openai, modules: [default]}}"
                for name in self.names(turn)
            ),
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class EnduranceReading:
    """What a daemon holds for longer than a probe takes: descriptors, threads, memory, series."""

    probes: int
    descriptors: int
    threads: int
    resident_mib: float
    series: int
    kept: frozenset[Series]
    """The counters and histograms of the targets that keep their model, which is left out: they come with the first good probe,
    and stay.
    """
    models: int
    """The most that one target shows."""


class Scrapes:
    """The expositions of one daemon, and how many probes they have shown in all."""

    def __init__(self, port: int, plan: "EndurancePlan") -> None:
        self.port = port
        self._steady = {f"t{number}" for number in range(RENAMING, plan.targets)}
        self.probes = 0
        self.results: Counter[str] = Counter()
        self._before: dict[tuple[str, str], float] = {}
        self._text = ""

    def take(self) -> None:
        """Scrape once, and count on."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            self._text = answer.read().decode()
        counts = {(target, result): float(count) for result, target, count in PROBES.findall(self._text)}
        for key, count in counts.items():
            more = int(count - self._before.get(key, 0))
            self.probes += more
            self.results[key[1]] += more
        self._before = counts

    def targets(self) -> set[str]:
        """Every target that any series names."""
        return set(TARGET.findall(self._text))

    def series(self) -> set[Series]:
        """All that the last scrape showed, without the values."""
        lines = (line for line in self._text.splitlines() if not line.startswith("#"))
        return {(line.partition("{")[0].partition(" ")[0], frozenset(LABEL.findall(line))) for line in lines}

    def read(self, process: int) -> EnduranceReading:
        """What the daemon holds now."""
        folder = Path(f"/proc/{process}")
        descriptors, threads, resident = _open_files(folder), _threads(folder), _resident_mib(folder)
        # A probe is over within two seconds, so what is seen for longer belongs to the daemon itself.
        for _ in range(25):
            time.sleep(0.1)
            descriptors &= _open_files(folder)
            threads &= _threads(folder)
            resident = min(resident, _resident_mib(folder))
        self.take()
        series = self.series()
        models = Counter(
            dict(labels)["target"] for name, labels in series if name == "llm_probe_time_to_first_token_seconds_count"
        )
        kept = frozenset(
            (name, frozenset(each for each in labels if each[0] != "model"))
            for name, labels in series
            if name.endswith(("_total", "_bucket", "_count", "_sum")) and dict(labels).get("target") in self._steady
        )
        return EnduranceReading(
            self.probes,
            len(descriptors),
            len(threads),
            resident,
            len(series),
            kept,
            max(models.values(), default=0),
        )


def _open_files(folder: Path) -> set[str]:
    found = set()
    for link in (folder / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found.add(f"{link.name} {link.readlink()}")
    return found


def _threads(folder: Path) -> set[str]:
    return {task.name for task in (folder / "task").iterdir()}


def _resident_mib(folder: Path) -> float:
    lines = (folder / "status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


@contextmanager
def daemon_and_server(plan: EndurancePlan, folder: Path, port: int) -> Iterator[tuple[int, Path]]:
    """Both processes while the block runs: the daemon's id, and its configuration file."""
    config, log = folder / "config.yml", folder / "log"
    config.write_text(plan.configuration(port, 0))
    role = [sys.executable, __file__, "--serve", *(f"--{name}={count}" for name, count in asdict(plan).items())]
    with log.open("wb") as stderr:
        server = subprocess.Popen(role, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n", "the server of faults did not start"
        daemon = subprocess.Popen([sys.executable, "-m", "exporter", "serve", "--config", str(config)], stderr=stderr)
        try:
            _wait_until_it_answers(port)
            yield daemon.pid, config
        finally:
            daemon.terminate()
            daemon.wait(timeout=20)
            server.stdin.close()
            said = server.stdout.read()
            server.wait(timeout=20)
            server.stdout.close()
    print(f"\nplayed: {said.strip()}")


def _wait_until_it_answers(port: int) -> None:
    for _ in range(200):
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/-/healthy", timeout=5):
            return
        time.sleep(0.1)
    raise RuntimeError("the daemon does not answer")


def endure(
    plan: EndurancePlan,
    probes: int,
    *,
    first: int,
    readings: int,
    reload: float,
    folder: Path,
    progress: Callable[[str], object],
) -> list[EnduranceReading]:
    """Run so many probes, with a reload every ``reload`` seconds; what the daemon held after the ``first`` ones, then from time
    to time, and at the end.

    Raises AssertionError where a target that left has series. Bounded: a probe takes a tenth of a second at the slowest.
    """
    port = free_port()
    with daemon_and_server(plan, folder, port) as (process, config):
        scrapes, found = Scrapes(port, plan), list[EnduranceReading]()
        began = reloaded = time.monotonic()
        turn = 0
        while scrapes.probes < probes:
            time.sleep(PAUSE_SECONDS)
            scrapes.take()
            seconds = time.monotonic() - began
            assert seconds < 60 + probes / 10, f"only {scrapes.probes} probes in {seconds:.0f} s"
            if scrapes.probes >= first + len(found) * (probes - first) // (readings - 1):
                found.append(scrapes.read(process))
                progress(f"{_reading_text(found[-1])}, {scrapes.probes / seconds:.0f} probes/s")
            if time.monotonic() - reloaded > reload:
                turn += 1
                config.write_text(plan.configuration(port, turn))
                os.kill(process, signal.SIGHUP)
                reloaded = time.monotonic()
                _await_turn(scrapes, plan, turn)
        found.append(scrapes.read(process))
        progress(f"{_reading_text(found[-1])} in {time.monotonic() - began:.0f} s, {turn} reloads")
        progress("results: " + ", ".join(f"{name} {count}" for name, count in scrapes.results.most_common() if count))
    return found


def _await_turn(scrapes: Scrapes, plan: EndurancePlan, turn: int) -> None:
    """Wait until the reload is seen, and check that who left has no series, and keeps none."""
    there = {f"t{number}" for number in range(plan.targets)} | set(plan.names(turn))
    for _ in range(120):
        scrapes.take()
        if scrapes.targets() == there:
            return
        time.sleep(0.5)
    raise AssertionError(f"a minute after a reload these are there or missing: {scrapes.targets() ^ there}")


def _reading_text(reading: EnduranceReading) -> str:
    return (
        f"{reading.probes} probes: {reading.descriptors} descriptors, {reading.threads} threads,"
        f" {reading.resident_mib:.1f} MiB, {reading.series} series ({len(reading.kept)} that stay),"
        f" {reading.models} models of a target at most"
    )


def main() -> None:
    """Parse, and run either side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", type=int, default=100_000)
    parser.add_argument("--targets", type=int, default=80)
    parser.add_argument("--rotating", type=int, default=20)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    plan = EndurancePlan(options.targets, options.rotating, options.port or free_port())
    if options.serve:
        logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each client that left
        asyncio.run(FaultServer(plan).run())
        return
    with tempfile.TemporaryDirectory() as folder:
        readings = endure(
            plan,
            options.probes,
            first=1000,
            readings=11,
            reload=5.0,
            folder=Path(folder),
            progress=lambda line: print(line, flush=True),
        )
        print((Path(folder) / "log").read_text().count("Traceback"), "tracebacks in the log")
    early, late = readings[0], readings[-1]
    print("| | after the first | at the end |\n|---|---|---|")
    print(f"| probes | {early.probes} | {late.probes} |")
    print(f"| descriptors | {early.descriptors} | {late.descriptors} |")
    print(f"| threads | {early.threads} | {late.threads} |")
    print(f"| resident memory | {early.resident_mib:.1f} MiB | {late.resident_mib:.1f} MiB |")
    print(f"| series that stay | {len(early.kept)} | {len(late.kept)} |")
    print(f"| all series | {early.series} | {late.series} |")


if __name__ == "__main__":
    main()
