"""What a probe makes of an answer that is none: its result, the absence of figures, and what is said of it; over real sockets."""

import re

import pytest

from exporter.probe.checks import Said, judge_answers
from exporter.probe.failure import ProbeFailure
from exporter.probe.marker import Markers, marker_of, remember
from exporter.probe.result import ProbeResult, Result
from exporter.settings import Module
from tests.probe.faults import FAULTS, Fault
from tests.probe.probes import probe, prober
from tests.servers.answering import AnsweringServer
from tests.servers.exact import ExactServer, ScriptedAnswer, chat, plain
from tests.servers.llama_cpp import SimulatedLlamaServer

MODULE = Module(max_tokens=64, prompt_tokens=80)
AT_ONCE = [each for each in FAULTS if each.begins <= 64 and {"text", "foreign"} & each.detectors]


def figures(result: ProbeResult) -> list[float | None]:
    """The figures that say how fast a server is."""
    m = result.measurements
    return [m.tokens_per_second, m.ttft_seconds, m.prefill_tokens_per_second, m.end_to_end_tokens_per_second]


@pytest.mark.parametrize("fault", AT_ONCE, ids=lambda fault: fault.name)
def test_a_recorded_fault_is_no_speed(fault: Fault) -> None:
    """Of each fault that shows in a short prompt: good before, then named, without any figure, and good again after it."""
    with AnsweringServer() as server:
        one = prober(server.url)
        healthy = [probe(one, MODULE) for _ in range(3)]
        server.use(fault)
        broken = probe(one, MODULE)
        server.use(None)
        assert [each.result for each in [*healthy, probe(one, MODULE)]] == ["ok"] * 4
    assert broken.result == ("degenerate" if "text" in fault.detectors else "foreign_answer")
    assert broken.error
    assert figures(broken) == [None] * 4
    assert broken.measurements.gaps == ()
    assert broken.output_tokens_spent > 0


def test_what_repeats_is_named_and_no_more_of_the_answer_is_kept() -> None:
    """The result and its log name the repeated thing in at most 40 characters; no record holds the text."""
    routes = {"/v1/models": models(), "/v1/chat/completions": chat(tokens=64, word="secretword ")}
    with ExactServer(routes) as server:
        result = probe(prober(server.url), MODULE)
    assert (result.result, result.error) == ("degenerate", 'the answer repeats one word to its end: "secretword"')
    assert result.fault == "repeated_word"
    assert repr(result).count("secretword") == 2  # the error, and the log's last line
    assert any("degenerate" in line for line in result.log)


def test_no_healthy_answer_leaves_its_text_behind() -> None:
    """Of a good probe nothing that was said, nor its marker, is in what is published."""
    with AnsweringServer() as server:
        one = prober(server.url)
        result = probe(one, MODULE)
        prompt = server.posts()[-1]["messages"][0]["content"]
    assert result.result == "ok"
    name = re.match(r"\w+", prompt)
    assert name
    assert name[0] not in repr(result)
    assert name[0] not in repr(one.server)


def test_a_stream_that_is_cut_off_because_it_repeats_is_degenerate() -> None:
    """A server that ends an answer after its thirtieth equal token has no broken connection: the text is the cause."""
    cut = chat(tokens=30, word="!", finish=None, usage=False, done=False)
    with ExactServer({"/v1/models": models(), "/v1/chat/completions": cut}) as server:
        result = probe(prober(server.url), MODULE)
    assert result.result == "degenerate"
    assert "ended after 30 chunks" in result.error


def test_a_healthy_stream_that_is_cut_off_is_truncated() -> None:
    """A text that is one changes no other failure."""
    cut = chat(tokens=30, finish=None, usage=False, done=False)
    with ExactServer({"/v1/models": models(), "/v1/chat/completions": cut}) as server:
        assert probe(prober(server.url), MODULE).result == "truncated"


def test_a_module_that_expects_something_gets_it_or_says_so() -> None:
    """The user's own question is sent as it is; the answer has to match, and what does not match is a wrong answer."""
    question = "Anna keeps a red bicycle in the cellar. What does Anna keep in the cellar?"
    with AnsweringServer() as server:
        one = prober(server.url)
        good = probe(one, MODULE.model_copy(update={"prompt": question, "expect": "(?i)red bicycle"}))
        bad = probe(one, MODULE.model_copy(update={"prompt": question, "expect": "blue"}))
        assert {each["messages"][0]["content"] for each in server.posts()} == {question}
    assert (good.result, good.error) == ("ok", "")
    assert (bad.result, bad.error) == ("wrong_answer", "the answer does not match the pattern 'blue'")
    assert figures(bad) == [None] * 4


def test_a_model_whose_answer_is_judged_may_end() -> None:
    """With ``expect`` the length is not forced, and without it it is."""
    with SimulatedLlamaServer() as server:
        one = prober(server.url)
        probe(one, MODULE)
        probe(one, MODULE.model_copy(update={"expect": "word"}))
        forced = ["ignore_eos" in each for each in server.posts()]
    assert forced == [True, False]


def test_streams_that_run_at_once_and_are_swapped_are_foreign() -> None:
    """Two clients that get each other's answers: both are right for somebody, and neither for whom asked."""
    first, second = marker_of(1), marker_of(2)
    known = remember(Markers(), (first, second))
    swapped = [Said((first,), (("answer", f"{second} went home."),)), Said((second,), (("answer", f"{first} sat."),))]
    straight = [Said((first,), (("answer", f"{first} went home."),)), Said((second,), (("answer", f"{second} sat."),))]
    found = judge_answers(None, swapped, known)
    assert found is not None
    assert found.result == "foreign_answer"
    assert judge_answers(None, straight, known) is None


@pytest.mark.parametrize("result", ["connect", "timeout_first_token", "http_5xx", "skipped_busy", "yielded"])
def test_failures_before_the_text_stay_what_they_are(result: Result) -> None:
    """Only a stream that broke off is judged by its text."""
    failure = ProbeFailure(result, "why")
    said = [Said((), (("answer", "!" * 200),))]
    assert judge_answers(failure, said, Markers()) is failure


def models() -> ScriptedAnswer:
    """The list of one model."""
    return plain({"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "test"}]})
