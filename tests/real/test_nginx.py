"""A real nginx before a server that keeps exact time: what its buffering does to a stream, and what a probe says of it.

With ``proxy_buffering on``, its default, nginx passes on an answer without chunks when one of its buffers is full (as large as
a page of memory) or when it ends. So a client sees bursts: one of a short answer, a few of a long one. Its default is also to
ask the server by HTTP/1.0, which knows no chunks: vLLM and all others on uvicorn then answer without, and buffering bites. An
answer in chunks (nginx 1.22 takes one even by HTTP/1.0) it passes on chunk by chunk, buffering or not. With ``proxy_buffering
off`` it passes on whatever it has just read.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporter.daemon import Daemon
from exporter.probe.result import ProbeResult
from exporter.settings import Discovery, Docker, Host, Settings, Target
from exporter.snapshot import probe_key
from tests.ports import free_port
from tests.real.daemon import value
from tests.real.nginx import running_nginx
from tests.samples import Samples
from tests.servers.exact import ExactServer, Played, ScriptedAnswer, chat, head, plain

pytestmark = pytest.mark.real

CHAT = "/v1/chat/completions"
MODELS = plain({"object": "list", "data": [{"id": "exact", "object": "model", "owned_by": "exact"}]})


def without_chunks(answer: ScriptedAnswer) -> ScriptedAnswer:
    """The same answer as HTTP/1.0 has it: no chunks, no length, at its end the connection closes."""
    (_, _), *pieces = answer.steps
    bodies = [(at, data.partition(b"\r\n")[2].removesuffix(b"\r\n")) for at, data in pieces]
    return ScriptedAnswer(((0.0, head(200, [("content-type", "text/event-stream")])), *bodies), "close", answer.texts)


@contextmanager
def nginx(folder: Path, upstream: str) -> Iterator[tuple[str, str]]:
    """An nginx that buffers at one address and doesn't at another, while the block runs."""
    buffered, unbuffered = free_port(), free_port()
    with running_nginx(
        folder,
        f"listen 127.0.0.1:{buffered}; location / {{ proxy_pass {upstream}; proxy_buffering on; }}",
        f"listen 127.0.0.1:{unbuffered};"
        f" location / {{ proxy_pass {upstream}; proxy_buffering off; proxy_http_version 1.1; }}",
    ):
        yield f"http://127.0.0.1:{buffered}", f"http://127.0.0.1:{unbuffered}"


@contextmanager
def probing(folder: Path, **urls: str) -> Iterator[Daemon]:
    """A daemon with these targets that probes when it is told to."""
    targets = [{"name": name, "url": url, "backend": "openai", "modules": ["default"]} for name, url in urls.items()]
    settings = Settings.model_validate(
        {
            "listen": f"127.0.0.1:{free_port()}",
            "targets": [Target.model_validate(each) for each in targets],
            "discovery": Discovery(local=False, docker=False),
            "docker": Docker(enabled=False),
            "host": Host(sysfs=folder, rocm=folder),
            "cache": {"paths": ()},
            "modules": {"default": {"interval": "1s"}},
        }
    )
    daemon = Daemon(lambda: settings)
    daemon._apply(daemon._settings, daemon._profiles)
    try:
        yield daemon
    finally:
        daemon.drain()


def probe(daemon: Daemon, target: str) -> ProbeResult:
    """One probe of a target, published."""
    result = daemon._targets._watched[target].prober.probe("default", daemon._settings.modules["default"])
    assert result is not None
    assert result.result == "ok", result.error
    daemon._targets.publish(result)
    assert daemon.snapshot.view().get(probe_key(target, "default")) is not None
    return result


def exposition(daemon: Daemon) -> Samples:
    """What a scrape gives."""
    from prometheus_client.parser import text_string_to_metric_families

    body = daemon._exposition.render(daemon.snapshot.view()).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


@pytest.mark.parametrize(("tokens", "fills"), [(12, "part of one"), (64, "several")])
def test_a_buffering_proxy_is_seen_and_no_speed_is_made_up(tmp_path: Path, tokens: int, fills: str) -> None:
    """Whether the answer fits into one of nginx's buffers or fills several: stream_buffered is 1, and there is no speed."""
    answer = without_chunks(chat(tokens=tokens, tokens_per_second=100, ttft=0.1))
    with (
        ExactServer({"/v1/models": MODELS, CHAT: answer}, own_process=True) as server,
        nginx(tmp_path, server.url) as (buffered, _),
        probing(tmp_path, buffered=buffered) as daemon,
    ):
        result, samples = probe(daemon, "buffered"), exposition(daemon)
    size = sum(len(data) for _, data in answer.steps)
    timeline = result.timelines[0]
    bursts = len({chunk.at_ns for chunk in timeline.chunks})
    assert (size < 4096, bursts == 1) == (fills == "part of one", fills == "part of one")
    assert bursts <= size / 4096 + 1
    assert value(samples, "llm_probe_success", target="buffered") == 1
    assert value(samples, "llm_probe_stream_buffered", target="buffered") == 1
    assert value(samples, "llm_probe_tokens", target="buffered", kind="output") == tokens
    for name in ("llm_probe_tokens_per_second", "llm_performance_tier", "llm_probe_inter_token_seconds_count"):
        assert not [each for each, _ in samples if each == name], name


@pytest.mark.parametrize("chunks", [True, False], ids=["chunks", "no chunks"])
def test_without_buffering_the_figures_are_those_of_the_server(tmp_path: Path, *, chunks: bool) -> None:
    """Through an nginx that passes on what comes, speed and TTFT are off from what the server did as little as without it."""
    answer = chat(tokens=40, tokens_per_second=100, ttft=0.1)
    if not chunks:
        answer = without_chunks(answer)
    with (
        ExactServer({"/v1/models": MODELS, CHAT: answer}, own_process=True) as server,
        nginx(tmp_path, server.url) as (_, unbuffered),
        probing(tmp_path, proxied=unbuffered, direct=server.url) as daemon,
    ):

        def run(target: str) -> tuple[float, float]:
            """The ratio of a probe's speed to the server's, and the seconds that its TTFT is longer."""
            result = probe(daemon, target)
            assert result.measurements.stream_buffered is False
            assert result.measurements.tokens_per_second is not None
            assert result.measurements.ttft_seconds is not None
            played = newest(server.played())
            true_speed = 39 / ((played.texts[-1][0] - played.texts[0][0]) / 1e9)
            true_ttft = (played.texts[0][0] - played.arrived_ns) / 1e9
            return result.measurements.tokens_per_second / true_speed, result.measurements.ttft_seconds - true_ttft

        runs = {target: [run(target) for _ in range(5)] for target in ("direct", "proxied")}
    for target, found in runs.items():
        assert statistics.median(ratio for ratio, _ in found) == pytest.approx(1, abs=0.005), target
        assert abs(statistics.median(late for _, late in found)) < 0.01, target


def newest(played: list[Played]) -> Played:
    """The last stream that was played to its end."""
    time.sleep(0.05)
    return next(one for one in reversed(played) if len(one.texts) == 40)
