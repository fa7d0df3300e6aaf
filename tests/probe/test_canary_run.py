"""A canary from its being due to its result, over real sockets: verdicts, figures at depth, costs, and when it stays away."""

import threading
import time
from typing import Any

import pytest

from exporter.probe.fingerprint import LEARNED_READINGS, PROMPTS, STEP_DISTANCE
from exporter.probe.fingerprint_memory import EVERY_SECONDS, Fingerprints
from exporter.probe.prober import Prober
from exporter.probe.result import AnswerCheck, Identity, ProbeResult
from exporter.settings import Module, Settings
from tests.probe.faults import FAULTS, Fault
from tests.probe.probes import prober
from tests.servers import llama_cpp
from tests.servers.answering import AnsweringServer
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.ollama import SimulatedOllama

CANARY = Settings().modules["canary"]
DEPTH = 2048
CAUGHT = {
    "wrong-logits-above-micro-batch": ("right", "degenerate"),
    "reply-of-another-document": ("right", "foreign"),
    "other-slots-answer": ("foreign",),
    "slashes": ("degenerate",),
    "question-marks": ("degenerate",),
    "slashes-until-a-restart": ("degenerate",),
    "fast-and-wrong-kernel": ("right", "wrong"),
    "five-of-23-tools": ("right", "wrong"),
    "G": ("right", "degenerate"),
    "one-token-30-times": ("degenerate",),
    "accuracy-lost-in-a-commit": ("undecided", "undecided"),
}  # fmt: skip
RESULTS = {
    "right": "ok",
    "undecided": "ok",
    "wrong": "wrong_answer",
    "degenerate": "degenerate",
    "foreign": "foreign_answer",
}


class CanaryClock:
    """A monotonic clock that a test moves on besides."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def ask(one: Prober, module: Module = CANARY) -> ProbeResult:
    """A canary that was not cancelled."""
    result = one.probe("canary", module)
    assert result is not None
    return result


def verdicts(result: ProbeResult) -> tuple[str, ...]:
    """The verdicts, the short one first."""
    return tuple(each.verdict for each in result.checks)


def test_a_healthy_model_is_right_in_both_and_measured_at_depth() -> None:
    """Two questions, two right answers; the figures are those of the deep prompt, and what both cost is counted."""
    with AnsweringServer() as server:
        one = prober(server.url)
        first, second = ask(one), ask(one)
        sent = [each["messages"][0]["content"] for each in server.posts()]
    assert [each.result for each in (first, second)] == ["ok", "ok"]
    assert first.checks == (AnswerCheck("short", "right"), AnswerCheck("deep", "right"))
    assert len(sent) == len(set(sent)) == 4
    m = second.measurements
    assert m.prompt_tokens == pytest.approx(DEPTH, rel=0.2)
    assert m.prefill_tokens_per_second
    assert m.tokens_per_second
    assert second.prompt_tokens_spent > (m.prompt_tokens or 0)
    assert second.output_tokens_spent > (m.output_tokens or 0)


@pytest.mark.parametrize("fault", [each for each in FAULTS if each.begins <= DEPTH], ids=lambda fault: fault.name)
def test_a_recorded_fault_gets_its_verdict(fault: Fault) -> None:
    """Right before, named when it shows, after it was asked for once more; no figure of such an answer; right again after it."""
    with AnsweringServer() as server:
        one = prober(server.url)
        assert verdicts(ask(one)) == ("right", "right")
        server.use(fault)
        before = len(server.posts())
        broken = ask(one)
        asked = len(server.posts()) - before
        server.use(None)
        assert verdicts(ask(one)) == ("right", "right")
    expected = CAUGHT[fault.name]
    assert verdicts(broken) == expected
    assert broken.result == RESULTS[expected[-1]]
    if broken.result != "ok":
        assert asked == 2 * len(expected)
        assert broken.measurements.tokens_per_second is None
        assert broken.measurements.prefill_tokens_per_second is None


def test_a_wrong_answer_that_is_right_when_asked_again_is_right() -> None:
    """One wrong answer is no verdict: the second question decides."""

    class Once(AnsweringServer):
        def _stream(self, request: Any, text: str, reason: str | None) -> Any:
            return super()._stream(request, "Nobody knows." if len(self.posts()) == 2 else text, reason)

    with Once() as server:
        result = ask(prober(server.url))
        assert len(server.posts()) == 4
    assert (result.result, verdicts(result)) == ("ok", ("right", "right"))
    assert any("once more" in line for line in result.log)


def test_a_model_that_recalls_nothing_is_undecided_and_still_measured() -> None:
    """Words without meaning get no verdict; prefill and decode at depth are measured all the same."""
    with SimulatedLlamaServer(tokens_per_second=200.0) as server:
        one = prober(server.url)
        ask(one)
        result = ask(one)
        bodies = server.posts()[-2:]
    assert (result.result, verdicts(result)) == ("ok", ("undecided", "undecided"))
    assert result.measurements.tokens_per_second
    assert result.measurements.prefill_tokens_per_second
    assert ["ignore_eos" in each for each in bodies] == [False, True]


def test_a_context_that_is_too_short_gets_the_short_question_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deep question that does not fit is not sent."""
    monkeypatch.setattr(llama_cpp, "CONTEXT", 1024)
    with SimulatedLlamaServer() as server:
        result = ask(prober(server.url))
        assert len(server.posts()) == 1
    assert [each.depth for each in result.checks] == ["short"]
    assert any("no deep question" in line for line in result.log)


def test_a_prompt_that_does_not_fit_is_no_failure_and_the_next_is_shorter() -> None:
    """A server that doesn't say how long its context is refuses the deep question once."""
    with AnsweringServer() as server:
        server.context = 1600
        one = prober(server.url)
        first, second = ask(one), ask(one)
        server.context = 400
        third, fourth = ask(one), ask(one)
        assert one.fits == ((), 0)
    assert [each.result for each in (first, second, third, fourth)] == ["ok"] * 4
    assert [verdicts(each) for each in (first, second, third)] == [("right",), ("right", "right"), ("right",)]
    assert verdicts(fourth) == ("right",)


def test_a_busy_server_gets_no_canary() -> None:
    """However often it was skipped: its prompt is long."""
    with SimulatedLlamaServer() as server:
        one, server.users = prober(server.url), 1
        assert {ask(one, CANARY.model_copy(update={"max_skips": 1})).result for _ in range(2)} == {"skipped_busy"}
        assert server.posts() == []


def test_an_unloaded_model_gets_no_canary() -> None:
    """It would be loaded for it."""
    with SimulatedOllama() as server:
        result = ask(prober(server.url))
        assert not [path for path in server.paths("POST") if path == "/api/chat"]
    assert (result.result, result.checks) == ("skipped_unloaded", ())


def test_another_model_behind_the_same_name_is_found() -> None:
    """Learned within a few canaries, quiet while nothing changes, found at the next hourly reading, which is repeated at once."""
    clock = CanaryClock()
    with AnsweringServer(logprobs=True) as server:
        one = prober(server.url, monotonic=clock, fingerprints=Fingerprints())
        learning = [ask(one).fingerprint for _ in range(LEARNED_READINGS)]
        assert [each.distance for each in learning if each] == [None] * LEARNED_READINGS
        quiet = []
        for _ in range(5):
            quiet.append(ask(one).fingerprint)
            clock.ahead += EVERY_SECONDS
        assert max(each.distance or 0.0 for each in quiet if each) < STEP_DISTANCE / 2
        server.use(next(each for each in FAULTS if each.name == "accuracy-lost-in-a-commit"))
        found = ask(one).fingerprint
    assert found is not None
    assert found.stepped
    assert (found.distance or 0.0) > STEP_DISTANCE


def test_the_fingerprint_is_taken_hourly_or_when_something_changed() -> None:
    """A canary within the hour takes none, unless it is told that something changed."""
    clock, memory = CanaryClock(), Fingerprints()
    with AnsweringServer(logprobs=True) as server:
        one = prober(server.url, monotonic=clock, fingerprints=memory)
        for _ in range(LEARNED_READINGS + 1):
            assert ask(one).fingerprint is not None
        assert ask(one).fingerprint is None
        memory.soon()
        assert ask(one).fingerprint is not None
        assert ask(one).fingerprint is None
        clock.ahead += EVERY_SECONDS
        assert ask(one).fingerprint is not None


def test_a_server_without_log_probabilities_is_asked_once() -> None:
    """It has no fingerprint, and no request more is made for one."""
    with AnsweringServer() as server:
        one = prober(server.url, fingerprints=Fingerprints())
        results = [ask(one) for _ in range(3)]
        single = [each for each in server.posts() if each["max_tokens"] == 1]
    assert [each.fingerprint for each in results] == [None] * 3
    assert len(single) == 1


def test_what_a_fingerprint_costs_is_counted() -> None:
    """One output token for each prompt, and the prompts."""
    with AnsweringServer(logprobs=True) as server:
        without = ask(prober(server.url))
        with_it = ask(prober(server.url, fingerprints=Fingerprints()))
    assert with_it.output_tokens_spent - without.output_tokens_spent == pytest.approx(len(PROMPTS), abs=25)
    assert with_it.prompt_tokens_spent > without.prompt_tokens_spent + 500


def test_models_are_forgotten_after_eight_others() -> None:
    """A server that changes its model's name at each request can't grow the memory."""
    memory = Fingerprints()
    for number in range(20):
        memory.keep(Identity("openai", model=f"m{number}"), memory.state(Identity("x")), 0.0, learning=False)
    assert len(memory._states) == 8


def test_a_user_who_comes_ends_a_canary_without_a_verdict() -> None:
    """Half an answer is neither right nor wrong, and nothing more is asked."""
    with SimulatedLlamaServer(tokens_per_second=30, parallel=2) as server:
        one = prober(server.url)
        timer = threading.Timer(0.5, setattr, (server, "users", 1))
        timer.start()
        result = ask(one)
        timer.join()
        assert len(server.posts()) == 1
    assert (result.result, result.checks) == ("yielded", ())
    assert result.output_tokens_spent > 0
