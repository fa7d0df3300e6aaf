"""What the checks for users during a probe do to its figures: TTFT and speed against a server that keeps exact time.

    python tests/bench/interruption.py [--probes 24]

A probe that gives way checks for requests of users while its streams run. It reads ``/metrics`` if that shows who waits, and
otherwise the kernel's list of connections. A probe by hand doesn't. Both are taken in turn from the same server, in
processes apart. The first token comes after 0.1 s, or after 2 s, when checks fall before it, too.
"""

import argparse
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from exporter.host.connections import read_connections
from exporter.probe.prober import Prober
from exporter.settings import Module, Target
from tests.bench.truth import p99
from tests.servers.exact import ExactServer, Played, ScriptedAnswer, chat, plain

HEADER: Final = """\
| who waits is told by | first token | tokens/s | checks a probe | TTFT error, median | p99 | speed error, median | p99 |
|---|---|---|---|---|---|---|---|"""
CHAT: Final = "/v1/chat/completions"
NOT_BY_GET: Final = {f"GET {CHAT}": plain(status=405)}
SPEEDS: Final = (5, 20, 100)
TTFTS: Final = (0.1, 2.0)
DECODE_SECONDS: Final = 3
AT_ONCE: Final = 8
"""Servers that are probed at the same time, each in a process of its own."""
MODULE: Final = Module(max_tokens=1024, prompt_tokens=48, when_idle="probe")
VLLM: Final = {
    "/v1/models": plain({"object": "list", "data": [{"id": "exact", "object": "model", "owned_by": "vllm"}]}),
    "/health": plain(),
    "/version": plain({"version": "0.32.0"}),
    "/metrics": plain(
        'vllm:num_requests_running{model_name="exact"} 0\nvllm:num_requests_waiting{model_name="exact"} 0\n',
        content_type="text/plain",
    ),
}
PLAIN: Final = {
    "/v1/models": plain({"object": "list", "data": [{"id": "exact", "object": "model"}]}),
    "/health": plain(),
}
TOLD_BY: Final[dict[str, dict[str, ScriptedAnswer]]] = {"its /metrics": VLLM, "its connections": PLAIN}


@dataclass(slots=True)
class Errors:
    """How far probes were off: seconds, and shares of the speed; how many checks were made in all."""

    ttft: list[float] = field(default_factory=list)
    speed: list[float] = field(default_factory=list)
    checks: int = 0


class CountedReading:
    """Reads who is connected to a server of this machine, and counts how often."""

    def __init__(self, port: int) -> None:
        self.read = partial(read_connections, Path("/proc/self"), port, Path("/proc/self"))
        self.count = 0

    def __call__(self) -> object:
        """Who is connected."""
        self.count += 1
        return self.read()


def main() -> None:
    """Measure and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--probes", type=int, default=24, help="of each kind")
    probes: int = options.parse_args().probes
    print(HEADER, flush=True)
    for told_by, routes in TOLD_BY.items():
        for ttft in TTFTS:
            for speed in SPEEDS:
                for row in rows(told_by, routes, ttft, speed, probes):
                    print(row, flush=True)


def rows(told_by: str, routes: dict[str, ScriptedAnswer], ttft: float, speed: int, probes: int) -> Iterator[str]:
    """Without checks and with them."""
    found = {by_hand: Errors() for by_hand in (True, False)}
    answer = chat(tokens=speed * DECODE_SECONDS, tokens_per_second=speed, ttft=ttft)
    each = -(-probes // AT_ONCE)
    threads = [
        threading.Thread(target=measure_errors, args=({**routes, **NOT_BY_GET, CHAT: answer}, each, found))
        for _ in range(AT_ONCE)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for by_hand, errors in found.items():
        if len(errors.ttft) != each * AT_ONCE:
            raise RuntimeError(f"{len(errors.ttft)} of {each * AT_ONCE} probes were measured")
        said = "none" if by_hand else f"{errors.checks / len(errors.ttft):.1f}"
        yield (
            f"| {told_by} | {ttft:g} s | {speed} | {said} | {median(errors.ttft) * 1e3:.3f} ms | {p99(errors.ttft) * 1e3:.2f} ms "
            f"| {median(errors.speed):.4%} | {p99(errors.speed):.3%} |".replace("%", " %")
        )


def measure_errors(routes: dict[str, ScriptedAnswer], probes: int, found: dict[bool, Errors]) -> None:
    """Probe one server so many times of each kind, in turn."""
    with ExactServer(routes, own_process=True) as server:
        reading = CountedReading(server.port)
        probers = {by_hand: Prober(Target(url=server.url, name="exact"), by_hand=by_hand) for by_hand in found}
        for prober in probers.values():
            prober.add_hints(connected=reading)
        for number in range(probes + 1):  # the first of each kind recognises the server
            for by_hand, prober in probers.items():
                server.forget()
                reading.count = 0
                result = prober.probe("default", MODULE)
                if result is None or result.result != "ok":
                    raise RuntimeError(f"a probe gave {result}")
                played = server.played()
                (one,) = (each for each in played if (each.method, each.path) == ("POST", CHAT))
                reads = sum(each.path == "/metrics" and each.arrived_ns > one.arrived_ns for each in played)
                if number:
                    add(found[by_hand], result.measurements.ttft_seconds, result.measurements.tokens_per_second, one)
                    found[by_hand].checks += reads or reading.count


def add(errors: Errors, ttft: float | None, speed: float | None, played: Played) -> None:
    """Compare the figures of a probe with what the server did."""
    assert ttft is not None
    assert speed is not None
    (first, _), (last, _) = played.texts[0], played.texts[-1]
    true = (len(played.texts) - 1) * 1e9 / (last - first)
    errors.ttft.append(abs(ttft - (first - played.arrived_ns) / 1e9))
    errors.speed.append(abs(speed / true - 1))


if __name__ == "__main__":
    main()
