"""Verdicts on a real llama-server: the answers of random models are texts, and another model behind the same name is found.

The models have random weights, so that they recall nothing: of the canary only the prompts are tried here.
"""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from exporter.probe.answer import judge_text
from exporter.probe.canary import Answer, compose_canary, judge_short
from exporter.probe.dialects.openai import read_chat
from exporter.probe.fingerprint import (
    FIELDS,
    LEARNED_READINGS,
    PROMPTS,
    STEP_DISTANCE,
    FingerprintObservation,
    State,
    first_token,
    observe,
)
from exporter.probe.marker import Markers
from exporter.probe.prompt import compose
from exporter.probe.stream import Event
from tests.daemon_settings import PROBES_ONLY
from tests.ports import free_port
from tests.probe.faults import FAULTS
from tests.real.answering_proxy import AnsweringProxy
from tests.real.daemon import running_daemon, scrape, value
from tests.real.llama import MAKE_MODEL, running_llama
from tests.waiting import eventually

pytestmark = pytest.mark.real

RESTARTS: Final = 20
WITHIN: Final = 10
ROOM: Final = ("--ctx-size", "16384")
MODELS: Final = {
    "tiny": ("--preset", "tiny"),
    "emoji": ("--preset", "tiny", "--emoji", "0.2"),
    "ending": ("--preset", "tiny", "--mean-length", "40"),
    "slow": ("--preset", "slow"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for models."""
    return tmp_path_factory.mktemp("models")


def make(folder: Path, name: str, *options: str) -> Path:
    """A model of random weights under a name; one that is there is replaced."""
    path = folder / f"{name}.gguf"
    command: list[str | Path] = [sys.executable, MAKE_MODEL, *options, "--ctx", "16384", "--gguf", path]
    subprocess.run(command, check=True, capture_output=True)
    return path


def post(port: int, body: dict[str, Any]) -> bytes:
    """The answer to a chat request."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        whole: bytes = answer.read()
        return whole


def ask(port: int, prompt: str, **fields: Any) -> tuple[list[str], int | None]:
    """The chunks of text of a streamed answer, and the server's count of tokens."""
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    lines = post(port, {**body, **fields}).splitlines()
    deltas = [read_chat(Event(line.removeprefix(b"data: "))) for line in lines if line]
    counts = [each.usage.output for each in deltas if each.usage]
    return [each.answer for each in deltas if each.answer], counts[-1] if counts else None


def read_fingerprint(port: int, state: State) -> tuple[State, FingerprintObservation]:
    """One reading, and what it says."""
    fields = {**FIELDS, "cache_prompt": False}
    answers = [post(port, {"messages": [{"role": "user", "content": each}], **fields}) for each in PROMPTS]
    return observe(state, tuple(first_token(json.loads(each)) for each in answers))


@pytest.mark.parametrize("name", MODELS)
def test_the_answers_of_a_random_model_are_texts(binary: Path, models: Path, name: str) -> None:
    """Whatever the temperature, the length, and whether it was forced: greedy ones, which come into loops, too."""
    port, judged = free_port(), 0
    with running_llama(binary, make(models, name, *MODELS[name]), port):
        for seed in range(1 if name == "slow" else 4):
            for temperature in (0, 1):
                for forced in (True, False):
                    for tokens in (16, 64, 512):
                        more = {"temperature": temperature, "seed": seed, "ignore_eos": forced, "max_tokens": tokens}
                        chunks, count = ask(port, compose(64, seed), **more)
                        found = judge_text(chunks, forced=forced, tokens=count)
                        assert found is None, (more, found, "".join(chunks))
                        judged += 1
    print(f"{name}: {judged} answers, no alarm")


def test_a_model_that_recalls_nothing_gets_no_verdict_of_the_canary(binary: Path, models: Path) -> None:
    """Both prompts fit and are answered; what is not recalled even in the short one is undecided."""
    canary, port = compose_canary(1), free_port()
    with running_llama(binary, make(models, "tiny", *MODELS["tiny"]), port, *ROOM):
        chunks, _ = ask(port, canary.short.prompt, temperature=0, max_tokens=48)
        assert (
            judge_short(canary.short, Answer("".join(chunks), finish_reason="length"), Markers()).verdict == "undecided"
        )
        chunks, _ = ask(port, canary.deep.prompt, temperature=0, max_tokens=48)
        assert judge_text(chunks) is None


def test_a_model_that_is_restarted_stays_the_same(binary: Path, models: Path) -> None:
    """Twenty starts of the same file: every distance is far below that of a step."""
    path, state, distances = make(models, "same", "--preset", "tiny"), State(), list[float]()
    for _ in range(RESTARTS + LEARNED_READINGS):
        port = free_port()
        with running_llama(binary, path, port):
            state, seen = read_fingerprint(port, state)
        assert not seen.stepped
        distances += [] if seen.distance is None else [seen.distance]
    print(f"distances over {len(distances)} restarts: {max(distances):.3f} at most")
    assert len(distances) == RESTARTS
    assert max(distances) < STEP_DISTANCE / 2


def test_other_slots_in_use_are_no_other_model(binary: Path, models: Path) -> None:
    """While three users are served beside, batches differ and so do roundings; no distance is that of a step."""
    port, state, distances = free_port(), State(), list[float]()
    with running_llama(binary, make(models, "same", "--preset", "tiny"), port, "--parallel", "4", *ROOM):
        for _ in range(LEARNED_READINGS):
            state, _ = read_fingerprint(port, state)
        with serving(port, users=3):
            for _ in range(RESTARTS):
                state, seen = read_fingerprint(port, state)
                assert seen.distance is not None
                assert not seen.stepped
                distances.append(seen.distance)
    print(f"distances beside three users: {max(distances):.3f} at most")
    assert max(distances) < STEP_DISTANCE / 2


@contextmanager
def serving(port: int, *, users: int) -> Iterator[None]:
    """Users who ask one request after the other while the block runs."""
    over = threading.Event()

    def use(seed: int) -> None:
        while not over.is_set():
            ask(port, compose(500, seed), max_tokens=8, ignore_eos=True, cache_prompt=False)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(users)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


SWAPS: Final = {"other weights": ("--seed", "2"), "Q4_0 for Q8_0": ("--type", "Q4_0")}
"""What the file under the name is made with in the place of Q8_0 and the first seed."""


@pytest.mark.parametrize("swap", SWAPS)
def test_another_model_under_the_same_name_is_found(binary: Path, models: Path, swap: str) -> None:
    """Swapped and swapped back three times, each within ten readings: other weights, and another quantization of the same."""
    state = State()
    for number in range(6):
        port = free_port()
        path = make(models, "swapped", "--preset", "tiny", *(SWAPS[swap] if number % 2 else ("--type", "Q8_0")))
        stepped, distance = 0, 0.0
        with running_llama(binary, path, port, "--alias", "model"):
            for _ in range(WITHIN):
                state, seen = read_fingerprint(port, state)
                stepped, distance = stepped + seen.stepped, seen.distance or 0.0
        print(f"{swap}, {'swapped' if number % 2 else 'as it was'}: distance {distance:.1f}, steps {stepped}")
        assert stepped == number % 2
        assert (distance > STEP_DISTANCE) == bool(number % 2)


# Through a whole daemon ------------------------------------------------------------------------------------------------

FAULT: Final = {each.name: each for each in FAULTS}


@contextmanager
def watching(folder: Path, url: str) -> Iterator[int]:
    """A daemon that probes this address often; gives its port."""
    port, config = free_port(), folder / "config.yml"
    config.write_text(f"""
targets: [{{name: llama, url: '{url}', budget: {{share: 100%}}}}]
modules: {{default: {{interval: 1s, max_tokens: 64}}, canary: {{interval: 2s, max_tokens: 128}}}}
{PROBES_ONLY}host: {{sysfs: {folder}, rocm: {folder}}}
""")
    with running_daemon("--config", config, port=port, log=folder / "log"):
        yield port


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("slashes", ("default", "degenerate", "repeated_character")),
        ("one-token-30-times", ("default", "degenerate", "repeated_word")),
        ("other-slots-answer", ("default", "foreign_answer", "name_of_another_request")),
        ("wrong-logits-above-micro-batch", ("canary", "degenerate", "mixed_scripts")),
        ("fast-and-wrong-kernel", ("canary", "wrong_answer", "fact_not_recalled")),
    ],
)
def test_a_proxy_that_spoils_the_answers_is_named(
    binary: Path, models: Path, tmp_path: Path, fault: str, named: tuple[str, str, str]
) -> None:
    """Repeats, swaps, garbles or spoils long prompts only: named by the first probe that began since, and over after it.

    A probe is at most one interval away: a minute of the module default, ten of the canary.
    """
    upstream, (module, result, kind) = free_port(), named
    with (
        running_llama(binary, make(models, "tiny", *MODELS["tiny"]), upstream, *ROOM),
        AnsweringProxy(upstream) as proxy,
        watching(tmp_path, proxy.url) as port,
    ):

        def seen(name: str, **labels: str) -> float | None:
            return value(scrape(port), name, target="llama", **labels)

        def good() -> bool:
            return all(seen("llm_probe_success", module=each) == 1 for each in ("default", "canary"))

        deep = {"module": "canary", "depth": "deep"}
        eventually(lambda: seen("llm_answer_correct", **deep) == 1 and good(), "right answers", seconds=300)
        eventually(lambda: seen("llm_probe_tokens_per_second", module="default"), "a speed")
        proxy.use(FAULT[fault])
        changed = time.time()
        eventually(lambda: seen("llm_probes_total", module=module, result=result), result)
        eventually(lambda: seen("llm_probe_success", module=module) == 0, "the failure")
        assert seen("llm_probe_tokens_per_second", module=module) is None
        eventually(lambda: seen("llm_answer_fault_info", module=module, fault=kind) == 1, "the fault by its name")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/probes?target=llama", timeout=10) as answer:
            probes = [each for each in json.load(answer)["probes"] if each["module"] == module]
        since = [each["result"] for each in probes if each["timestamp_seconds"] > changed]
        assert set(since) <= {result}  # one that was due before may have waited for its turn
        proxy.use(None)
        eventually(good, "right answers again")
    print(f"{fault}: {result} by {module}, in each of {len(since)} probes since it began")


def test_a_random_model_raises_nothing(binary: Path, models: Path, tmp_path: Path) -> None:
    """Odd as its answers are: no verdict but undecided, no failed probe, and figures at depth all the same."""
    upstream = free_port()
    with (
        running_llama(binary, make(models, "tiny", *MODELS["tiny"]), upstream, *ROOM),
        watching(tmp_path, f"http://127.0.0.1:{upstream}") as port,
    ):

        def counted(**labels: str) -> float:
            return value(scrape(port), "llm_answer_checks_total", target="llama", **labels) or 0.0

        eventually(lambda: counted(depth="deep", verdict="undecided") >= 5, "five canaries", seconds=60)
        samples = scrape(port)
        bad = ("right", "wrong", "degenerate", "foreign")
        assert {
            each: counted(depth="deep", verdict=each) + counted(depth="short", verdict=each) for each in bad
        } == dict.fromkeys(bad, 0.0)
        for name in ("llm_probe_prefill_tokens_per_second", "llm_probe_tokens_per_second"):
            assert value(samples, name, target="llama", module="canary"), name
        assert (
            value(samples, "llm_answer_fingerprint_distance", target="llama") is None
            or (value(samples, "llm_answer_fingerprint_distance", target="llama") or 0.0) < STEP_DISTANCE
        )
