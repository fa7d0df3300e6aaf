"""A real ``transformers serve``: it counts nothing itself, so its answers are the measure."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.probe.status import identify
from tests.daemon_settings import PROBES_ONLY
from tests.ports import free_port
from tests.real.daemon import labels_of, running_daemon, scrape, value
from tests.servers.user import User
from tests.servers_real.running import Tap, probe, prober, transformers
from tests.waiting import eventually

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def url(transformers_commands: Path, tiny: Path) -> Iterator[str]:
    """One server, whose cache folder is new, so that it fails to list its models."""
    with transformers(transformers_commands, tiny, free_port(), tiny.parent / "home") as found:
        yield found


def test_it_is_recognised_with_a_new_cache_folder(url: str) -> None:
    """Its list of models is 500 there; its request id and its health tell."""
    found = identify(url)
    assert found.identity is not None
    assert found.identity.backend == "transformers"


def test_each_token_is_counted_and_the_model_is_the_one_that_answers(url: str, tmp_path: Path) -> None:
    """The whole daemon: exactly as many tokens as asked for, by the usage; the model by its answers, without ``@main``."""
    port, config = free_port(), tmp_path / "config.yml"
    config.write_text(f"""
targets: [{{name: tf, url: "{url}", budget: {{share: 1}}, modules: [default]}}]
modules: {{default: {{interval: 3s, max_tokens: 32, prompt_tokens: 32}}}}
{PROBES_ONLY}""")

    def probes() -> float:
        return value(scrape(port), "llm_probes_total", target="tf", result="ok") or 0

    with running_daemon("--config", config, port=port, log=tmp_path / "log"):
        eventually(lambda: probes() >= 3, "three probes")
        samples = scrape(port)
    count = value(samples, "llm_probes_total", target="tf", result="ok") or 0
    assert value(samples, "llm_probe_token_count_exact", target="tf") == 1
    # A probe is as short as its precision allows, but never shorter than 16 tokens, nor longer than was asked.
    spent = value(samples, "llm_probe_consumed_tokens_total", target="tf", kind="output") or 0
    assert 16 * count <= spent <= 32 * count
    info = labels_of(samples, "llm_target_info", target="tf")
    assert (info["backend"], info["model"]) == ("transformers", "tiny")
    print(f"{value(samples, 'llm_probe_tokens_per_second', target='tf'):.1f} tok/s")


def test_the_speed_is_that_of_the_bytes(url: str) -> None:
    """It has no figures of its own: a forwarder before it stamps the same streams, and the speeds are within two percent."""
    with Tap(url) as tap:
        one = prober(tap.url)
        probe(one)
        ours = theirs = 0.0
        for number in range(5):
            tap.arrived.clear()
            measured = probe(one, f"m{number}", max_tokens=64).measurements
            assert measured.tokens_per_second
            assert measured.output_tokens == 64
            times = [at for at, data in tap.arrived if b'"content":' in data]
            ours += 63 / measured.tokens_per_second
            theirs += times[-1] - times[0]
    print(f"{5 * 63 / ours:.2f} tok/s measured, {5 * 63 / theirs:.2f} by the forwarder")
    assert ours == pytest.approx(theirs, rel=0.02)


def test_an_answer_without_a_stream_has_as_many_tokens(url: str) -> None:
    """The usage of a stream is that of a whole answer."""
    body = {"messages": [{"role": "user", "content": "Say some words."}], "max_tokens": 24}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        usage = json.load(answer)["usage"]
    one = prober(url)
    probe(one)  # the first one of a model is the shortest
    result = probe(one, max_tokens=24)
    assert (usage["completion_tokens"], result.measurements.output_tokens) == (24, 24)


def test_a_user_beside_the_probe_loses_nothing(url: str) -> None:
    """It can't say that it is busy, and answers one after the other: the user's answer is whole."""
    with User(url, tokens=300) as user:
        result = probe(prober(url))
        user.finished(120)
    assert (user.complete, result.result in {"ok", "skipped_busy"}) == (True, True)
