"""How long one scrape of many targets takes: the exposition as it is served, gzip, and the client library beside it.

    python tests/bench/scrape.py [targets]

Every target has published a probe, a judgement and its state. Before each timed scrape a quarter of them publish again, as they
would between two scrapes at 15 s of probes every 60 s. Publishing is timed on its own.
"""

import statistics
import sys
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, generate_latest

from exporter.exposition import OPENMETRICS, TEXT, Exposition
from exporter.history.record import Plan
from exporter.probe.result import Measurements, ProbeResult, TargetState
from exporter.settings import Thresholds
from exporter.snapshot import Snapshot, TargetInfo, info_key, judgement_key, plan_key, probe_key
from exporter.tiers import Judgement
from exporter.web.negotiate import compress
from tests.library import LibraryCollector

ROUNDS = 7


def result_of(number: int, turn: int) -> ProbeResult:
    name = f"target-{number:04}"
    gaps = tuple((0.02 + 0.0001 * ((number + turn + i) % 50), 1) for i in range(63))
    measurements = Measurements(
        tokens_per_second=50 - (number + turn) % 7 / 3,
        end_to_end_tokens_per_second=45.1,
        ttft_seconds=0.123 + turn / 1000,
        time_to_first_answer_seconds=0.123,
        prefill_tokens_per_second=812.5,
        server_tokens_per_second=50.01,
        aggregate_tokens_per_second=50.0,
        gaps=gaps,
        prompt_tokens=64,
        cached_tokens=0,
        reasoning_tokens=0,
        output_tokens=64,
        token_count_exact=True,
        stream_buffered=False,
        clock_error_seconds=0.0001,
        phases=(("connect", 0.001), ("queue", 0.0), ("first_token", 0.12), ("decode", 1.3), ("total", 1.42)),
    )
    return ProbeResult(
        name,
        "default",
        "ok",
        "",
        1_790_000_000.5 + 60 * turn,
        60.0,
        model="Qwen/Qwen2.5-14B-Instruct",
        measurements=measurements,
        prompt_tokens_spent=64,
        output_tokens_spent=64,
        busy_seconds=1.42,
        state=TargetState(name, f"http://10.0.0.{number % 250}:8000", 1_790_000_000.0, up=True, model_resident=True),
    )


def publish(snapshot: Snapshot, numbers: range, turn: int) -> float:
    """Seconds per publication of a result and its judgement."""
    started = time.perf_counter()
    for number in numbers:
        result = result_of(number, turn)
        judgement = Judgement(
            "excellent", Thresholds(excellent=20, good=15, acceptable=10), "vllm-fp16", 8, 12, 61.0, 0.8
        )
        snapshot.publish_all(
            (
                (probe_key(result.target, result.module), result),
                (judgement_key(result.target, result.module), judgement),
            )
        )
    return (time.perf_counter() - started) / len(numbers)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(targets: int) -> None:
    exposition = Exposition()
    snapshot = Snapshot(watch=exposition.prepare)
    for number in range(targets):
        name = f"target-{number:04}"
        snapshot.publish(plan_key(name, "default"), Plan(60.0))
        snapshot.publish(info_key(name), TargetInfo(f"http://10.0.0.{number % 250}:8000", "vllm", "0.11.0"))
    publish(snapshot, range(targets), 0)
    publishing, text, openmetrics, compressed = [], [], [], []
    body = b""
    for turn in range(1, ROUNDS + 1):
        quarter = range(turn % 4, targets, 4)
        publishing.append(publish(snapshot, quarter, turn))
        started = time.perf_counter()
        body = exposition.render(snapshot.view(), TEXT)
        text.append(time.perf_counter() - started)
        openmetrics.append(timed(lambda: exposition.render(snapshot.view(), OPENMETRICS)))
        compressed.append(timed(lambda: compress(body)))  # noqa: B023 - run at once
    registry = CollectorRegistry()
    registry.register(LibraryCollector(snapshot))
    library = timed(lambda: generate_latest(registry))
    samples = sum(not line.startswith(b"#") for line in body.splitlines())
    rows = [
        ("targets, samples, size", f"{targets}, {samples}, {len(body) / 1e6:.1f} MB"),
        ("a publication: fold and render", f"{statistics.median(publishing) * 1e3:.2f} ms"),
        ("scrape, text: median / worst", f"{statistics.median(text) * 1e3:.0f} ms / {max(text) * 1e3:.0f} ms"),
        ("scrape, OpenMetrics: median", f"{statistics.median(openmetrics) * 1e3:.0f} ms"),
        ("gzip of it", f"{statistics.median(compressed) * 1e3:.0f} ms"),
        ("the client library alone", f"{library * 1e3:.0f} ms"),
    ]
    print("| | |\n|---|---|")
    for name, figure in rows:
        print(f"| {name} | {figure} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
