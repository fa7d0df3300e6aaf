"""A real vLLM on the CPU: its own counters and histograms are the measure."""

import json
import random
import statistics
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_settings import PROBES_ONLY
from tests.ports import free_port
from tests.probe.guest import believe
from tests.real.daemon import labels_of, running_daemon, scrape, value
from tests.servers.user import User, several
from tests.servers_real.running import grown, probe, prober, samples_of, vllm
from tests.waiting import eventually

pytestmark = pytest.mark.servers

GAPS = "vllm:inter_token_latency_seconds"
USER_SPEED, USER_TTFT, TIER = (f"llm_server_user_{name}" for name in ("tokens_per_second", "ttft_seconds", "tier"))
COUNTED: Any = {"ignore_eos": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
WORDS = "sea hill tree house road river stone bird cloud rain".split()


@pytest.fixture(scope="module")
def url(vllm_commands: Path, tiny: Path) -> Iterator[str]:
    """One server for the tests that leave it as it was, warm."""
    with vllm(vllm_commands, tiny, free_port()) as found:
        assert probe(prober(found)).result == "ok"
        yield found


def test_counts_are_the_servers_own_and_speed_is_within_two_percent(url: str) -> None:
    """Five long probes: tokens equal to its counter; decode speed against its inter-token latencies, TTFT not below its own."""
    one, before = prober(url), samples_of(url)
    results = [probe(one, f"m{number}", max_tokens=256) for number in range(5)]
    after = samples_of(url)
    measured = [each.measurements for each in results]
    assert {(each.result, each.measurements.token_count_exact) for each in results} == {("ok", True)}
    assert sum(each.output_tokens_spent for each in results) == grown(before, after, "vllm:generation_tokens_total")
    assert sum(each.prompt_tokens_spent for each in results) == grown(before, after, "vllm:prompt_tokens_total")
    following = sum(each.output_tokens - 1 for each in measured if each.output_tokens)
    seconds = sum(
        (each.output_tokens - 1) / each.tokens_per_second
        for each in measured
        if each.output_tokens and each.tokens_per_second
    )
    theirs = grown(before, after, f"{GAPS}_count") / grown(before, after, f"{GAPS}_sum")
    print(f"{following / seconds:.2f} tok/s measured, {theirs:.2f} by vLLM's histogram")
    assert following == grown(before, after, f"{GAPS}_count")
    assert following / seconds == pytest.approx(theirs, rel=0.02)
    first = grown(before, after, "vllm:time_to_first_token_seconds_sum") / len(results)
    ours = sum(each.ttft_seconds or 0.0 for each in measured) / len(results)
    print(f"TTFT {ours * 1e3:.1f} ms measured, {first * 1e3:.1f} ms by vLLM's histogram")
    assert first <= ours < first + 0.1


def test_the_daemon_counts_what_the_server_counts(url: str, tmp_path: Path) -> None:
    """The whole daemon, which recognises it: tokens and probes at /metrics are those of the server's counters."""
    port, config, before = free_port(), tmp_path / "config.yml", samples_of(url)
    config.write_text(f"""
targets: [{{name: vllm, url: "{url}", budget: {{share: 1}}, modules: [default]}}]
modules: {{default: {{interval: 3s, max_tokens: 16, prompt_tokens: 32}}}}
{PROBES_ONLY}""")

    def probes() -> float:
        return value(scrape(port), "llm_probes_total", target="vllm", result="ok") or 0

    with running_daemon("--config", config, port=port, log=tmp_path / "log"):
        eventually(lambda: probes() >= 4, "four probes")
        eventually(lambda: _settled(url, port, before), "the daemon's count is the server's")
        samples = scrape(port)
    info = labels_of(samples, "llm_target_info", target="vllm")
    assert (info["backend"], info["backend_version"], info["model"]) == ("vllm", "0.32.0", "tiny")


def _settled(url: str, port: int, before: object) -> bool:
    """Whether both count the same, between two probes."""
    mine = value(scrape(port), "llm_probe_consumed_tokens_total", target="vllm", kind="output") or 0
    theirs = grown(before, samples_of(url), "vllm:generation_tokens_total")  # type: ignore[arg-type]
    return mine >= 64 and mine == theirs


def counted(user: User) -> int:
    """The tokens of a user's answer, by its usage: not each token has text."""
    found: int = user.events[-1]["usage"]["completion_tokens"]
    return found


def test_a_user_beside_the_probe_loses_nothing(url: str) -> None:
    """While a user is served a probe is skipped; one that a user comes into ends, and his answer is whole."""
    with User(url, model="tiny", tokens=1900, ignore_eos=True) as user:
        assert probe(prober(url)).result == "skipped_busy"
        user.finished()
    assert (user.complete, counted(user)) == (True, 1900)
    eventually(lambda: probe(prober(url)).result == "ok", "it is idle again")
    one, late = prober(url), User(url, model="tiny", tokens=600, ignore_eos=True)
    believe(one, 1000.0)  # else the first probe of a model is the shortest, and over before the user comes

    def come() -> None:
        time.sleep(1.0)
        late.send()

    coming = threading.Thread(target=come)
    coming.start()
    result = probe(one, max_tokens=1500)
    coming.join(10)
    late.finished()
    late.leave()
    assert result.result in {"ok", "yielded"}
    assert (result.output_tokens_spent < 1500, late.complete, counted(late)) == (True, True, 600), result.log


def prompt(words: int, seed: int) -> str:
    """A prompt of its own for each request, so that no prefix cache answers it."""
    draw = random.Random(seed)
    return " ".join(f"{draw.choice(WORDS)} {draw.randrange(10)}" for _ in range(words))


def speed_of(user: User, begin: float, end: float) -> float:
    """What the client itself measured between two instants, by the count in each chunk: on a busy machine one has several tokens."""
    usages = (
        (when, json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"])
        for when, line in user.lines
        if b'"choices":[{' in line
    )
    counts = [(when, count) for when, count in usages if count and begin <= when <= end]
    return float((counts[-1][1] - counts[0][1]) / (counts[-1][0] - counts[0][0]))


def test_what_users_get_is_what_their_clients_measure(url: str, tmp_path: Path) -> None:
    """Two users and probes beside them, by the whole daemon: speed within 5 %, their tier, and a TTFT no longer than the clients'."""
    port, config = free_port(), tmp_path / "config.yml"
    one = prober(url)
    probe(one)  # the first one of a model is the shortest
    alone = eventually(lambda: probe(one, max_tokens=64).measurements.tokens_per_second, "a speed")
    tiers = f"{{excellent: {9 * alone:.0f}, good: {8 * alone:.0f}, acceptable: {alone / 20:.2f}}}"
    config.write_text(f"""
targets: [{{name: vllm, url: "{url}", budget: {{share: 1}}, modules: [default], tiers: {tiers}}}]
modules: {{default: {{interval: 6s, max_tokens: 16, prompt_tokens: 64, when_busy: probe}}}}
{PROBES_ONLY}""")

    def of(name: str) -> float | None:
        return value(scrape(port), name, target="vllm")

    with running_daemon("--config", config, port=port, log=tmp_path / "log"):
        eventually(lambda: of("llm_probe_tokens_per_second"), "a probe of the idle server")
        assert of(USER_SPEED) is None
        ran = of("llm_probe_busy_seconds_total") or 0.0
        tokens = round(min(25 * alone, 1600))
        with several(
            *(User(url, model="tiny", tokens=tokens, prompt=prompt(150, n), **COUNTED) for n in (1, 2))
        ) as users:
            ttft = eventually(lambda: of(USER_TTFT), "a TTFT of the users", seconds=60)
            seen: list[tuple[float, float]] = []
            tiers_seen: set[str] = set()
            while not all(each.ended_at for each in users):
                samples = scrape(port)
                told = value(samples, USER_SPEED, target="vllm")
                if told is not None and (not seen or told != seen[-1][1]):
                    seen.append((time.monotonic(), told))
                    tiers_seen |= {
                        dict(own)["tier"] for (name, own), there in samples.items() if name == TIER and there
                    }
                time.sleep(0.1)
        assert (of("llm_probe_busy_seconds_total") or 0.0) > ran  # probes ran beside them
        eventually(lambda: of(USER_SPEED) is None, "nobody is served any more", seconds=60)
    # A new figure is that of the time since the one before it, the first one of all until then.
    windows = [(begin, *now) for (begin, _), now in pairwise([(0.0, 0.0), *seen])]
    measured = [statistics.mean(speed_of(each, begin, end) for each in users) for begin, end, _ in windows]
    ratio = statistics.mean(told / own for (*_, told), own in zip(windows, measured, strict=True))
    theirs = statistics.mean(each.ttft_seconds for each in users)
    print(f"users' speed {ratio:.3f} of what their clients measured, in {len(windows)} windows: {measured}")
    print(f"users' TTFT {ttft:.3f} s told, {theirs:.3f} s measured by the clients")
    assert tiers_seen == {"acceptable"}
    assert ratio == pytest.approx(1, rel=0.05)
    assert theirs / 2 < ttft <= theirs * 1.05


def test_a_base_model_without_a_chat_template_is_measured(vllm_commands: Path, base: Path) -> None:
    """The chat is refused with 400; a plain completion measures it, and the next probe asks for that at once."""
    with vllm(vllm_commands, base, free_port()) as url:
        one, before = prober(url), samples_of(url)
        results = [probe(one, max_tokens=32) for _ in range(3)]
        assert [each.result for each in results] == ["ok"] * 3
        assert any("once more as a plain completion" in line for line in results[0].log)
        assert not any("once more" in line for line in results[2].log)
        assert results[2].measurements.token_count_exact
        spent = sum(each.output_tokens_spent for each in results)
        assert spent == grown(before, samples_of(url), "vllm:generation_tokens_total")


def test_an_embedding_model_gets_no_chat(vllm_commands: Path, tiny: Path) -> None:
    """A pooling server is up, and skipped as unable, without a request for text."""
    with vllm(vllm_commands, tiny, free_port(), "--runner", "pooling") as url:
        one = prober(url)
        results = [probe(one) for _ in range(2)]
        assert [each.result for each in results] == ["skipped_unable"] * 2
        state = one.status()
        assert state is not None
        assert state.up
