"""Twenty scrapers of a daemon that probes: each scrape is one view, whatever others do, and no probe notices them."""

import socket
import statistics
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from exporter.daemon import Daemon
from exporter.probe.result import RESULTS
from exporter.settings import Settings, Target
from tests.daemon_settings import settings_of
from tests.real.daemon import value
from tests.samples import Samples
from tests.servers.exact import ExactServer, ScriptedAnswer, chat, plain
from tests.waiting import eventually

SCRAPERS = 20
CHAT = "/v1/chat/completions"
MODELS = plain({"object": "list", "data": [{"id": "exact", "object": "model", "owned_by": "exact"}]})
FAILURE = plain({"error": {"message": "boom"}}, status=500)
TARGETS = 4
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def probing(interval: str) -> dict[str, dict[str, object]]:
    """Modules that probe so often."""
    return {"default": {"interval": interval, "max_tokens": 40}}


@contextmanager
def running(settings: Settings) -> Iterator[Daemon]:
    """A daemon while the block runs."""
    daemon = Daemon(lambda: settings)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.drain()


class Scrapers:
    """Twenty clients at once: good ones, slow ones that take a page in small pieces, and those that hang up in its midst."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.texts: list[str] = []
        self.slow: list[str] = []
        self.hung_up = 0
        self._over = threading.Event()
        kinds = [self._scrape] * 12 + [self._dawdle] * 4 + [self._hang_up] * 4
        self._threads = [threading.Thread(target=self._repeat, args=(kind,)) for kind in kinds]
        assert len(self._threads) == SCRAPERS

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, kind: object) -> None:
        assert callable(kind)
        while not self._over.is_set():
            kind()
            # Twenty scrapers, each once a second, are what a very busy exporter sees.
            self._over.wait(1.0)

    def _scrape(self) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=20) as answer:
            self.texts.append(answer.read().decode())

    def _dawdle(self) -> None:
        with self._asking() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            pieces = []
            while piece := client.recv(2048):
                pieces.append(piece)
                time.sleep(0.01)
        self.slow.append(b"".join(pieces).partition(b"\r\n\r\n")[2].decode())

    def _hang_up(self) -> None:
        with self._asking() as client:
            client.recv(100)
        self.hung_up += 1

    def _asking(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), 20)
        client.sendall(REQUEST)
        return client


def samples_of(text: str) -> Samples:
    """The samples of an exposition; it fails where a label set is there twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def check(samples: Samples, target: str) -> bool:
    """Whether a target has been probed; what is said of it all comes from one instant, else it fails."""
    success = value(samples, "llm_probe_success", target=target)
    counts = {result: value(samples, "llm_probes_total", target=target, result=result) or 0.0 for result in RESULTS}
    assert (success is None) == (sum(counts.values()) == 0)
    if success is None:
        return False
    speed = value(samples, "llm_probe_tokens_per_second", target=target)
    tiers = [
        each
        for (name, labels), each in samples.items()
        if name == "llm_performance_tier" and ("target", target) in labels
    ]
    assert (speed is None) == (tiers == [])
    assert speed is None or sum(tiers) == 1
    assert success == 1 or speed is None
    assert (value(samples, "llm_probe_ttft_seconds", target=target) is None) == (success == 0)
    for name in ("llm_probe_time_to_first_token_seconds", "llm_probe_inter_token_seconds"):
        infinite = value(samples, f"{name}_bucket", target=target, le="+Inf")
        assert infinite == value(samples, f"{name}_count", target=target)
    ttfts = value(samples, "llm_probe_time_to_first_token_seconds_count", target=target) or 0.0
    assert ttfts == counts["ok"]
    last_run = value(samples, "llm_probe_last_run_timestamp_seconds", target=target)
    last_success = value(samples, "llm_probe_last_success_timestamp_seconds", target=target)
    assert (last_run == last_success) == (success == 1)
    return True


def test_every_scrape_is_one_view(tmp_path: Path) -> None:
    """While targets succeed and fail in turn, what a scrape says of each agrees: success, speed, tier, counters, histograms."""
    answers: list[ScriptedAnswer] = [chat(tokens=12, tokens_per_second=400, ttft=0.01), FAILURE] * 20
    with ExitStack() as stack:
        servers = [stack.enter_context(ExactServer({"/v1/models": MODELS, CHAT: answers})) for _ in range(TARGETS)]
        targets = [Target(name=f"t{number}", url=each.url, backend="openai") for number, each in enumerate(servers)]
        settings = settings_of(tmp_path, targets, modules=probing("1s"))
        with running(settings), Scrapers(int(settings.listen.rpartition(":")[2])) as scrapers:
            eventually(
                lambda: _seen(scrapers.texts), "a success and a failure of each target in the scrapes", every=0.2
            )
    checked = [check(samples_of(text), f"t{number}") for text in scrapers.texts for number in range(TARGETS)]
    slowly = [check(samples_of(text), f"t{number}") for text in scrapers.slow for number in range(TARGETS)]
    assert any(checked)
    assert any(slowly)
    assert scrapers.hung_up > 4


def _seen(texts: list[str]) -> bool:
    """Whether the scrapes of a moment ago have seen both a success and a failure of every target."""
    last = texts[-1] if texts else ""
    counts = {
        (sample.labels["target"], sample.labels["result"]): sample.value
        for family in text_string_to_metric_families(last)
        for sample in family.samples
        if sample.name == "llm_probes_total"
    }
    return bool(counts) and all(
        counts[f"t{number}", result] >= 1 for number in range(TARGETS) for result in ("ok", "http_5xx")
    )


def test_a_scrape_disturbs_no_probe(tmp_path: Path) -> None:
    """Speeds measured while twenty clients scrape are those at which the server sent, as they are while nobody does."""
    with ExactServer({"/v1/models": MODELS, CHAT: chat(tokens=40, tokens_per_second=100)}, own_process=True) as server:
        settings = settings_of(tmp_path, [Target(name="t", url=server.url, backend="openai")], modules=probing("1h"))
        with running(settings) as daemon:
            prober = daemon._targets._watched["t"].prober

            def off() -> float:
                """How far a probe's speed is from what the server did, as a ratio."""
                result = prober.probe("default", settings.modules["default"])
                assert result is not None
                texts = next(one.texts for one in reversed(server.played()) if one.texts)
                speed = 39 / ((texts[-1][0] - texts[0][0]) / 1e9)
                return abs((result.measurements.tokens_per_second or 0.0) / speed - 1)

            alone = [off() for _ in range(3)]
            with Scrapers(int(settings.listen.rpartition(":")[2])) as scrapers:
                scraped = [off() for _ in range(5)]
    assert len(scrapers.texts) > SCRAPERS / 2
    assert statistics.median(scraped) < 0.005, (alone, scraped)
    assert statistics.median(alone) < 0.005, (alone, scraped)
