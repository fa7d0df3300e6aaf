"""A probe that asks whether the answers are right: a fact in a short prompt and in a deep one, and at times the fingerprint.

The rules are those of any probe: it waits for its turn, skips a busy server, and stops for users. The deep question also measures
the speed of prefill and of decode at its depth; if a model recalls nothing it is asked for that alone. An answer that is
wrong is asked for once more before it counts.
"""

import json
import math
from dataclasses import replace
from typing import Any, Final

from exporter.probe import client
from exporter.probe.answer import AnswerFault, AnswerVerdict
from exporter.probe.canary import LEAST_DEPTH, Question, compose_canary, judge_deep, judge_short
from exporter.probe.checks import Said, judge_answers
from exporter.probe.dialects.dialect import ChatRequest, json_of
from exporter.probe.failure import ProbeFailure, context_exceeded
from exporter.probe.fingerprint import FIELDS, PROMPTS, STEP_DISTANCE, STEP_READINGS, TOP_TOKENS, first_token, observe
from exporter.probe.outcome import Outcome, Stream
from exporter.probe.politeness import ABANDONED, standing_of
from exporter.probe.prober_state import ProberState
from exporter.probe.prompt import estimate
from exporter.probe.result import AnswerCheck, Depth, FingerprintReading, Measurements, ProbeResult, Result
from exporter.probe.run import FORCING, SURE_SHARE, TEMPLATE_TOKENS, Run, with_module_headers
from exporter.probe.users import Served
from exporter.settings import Module

# How long one answer may take: a model that thinks longer than that gets no verdict.
ANSWER_SECONDS: Final = 15.0
LEAST_ANSWER: Final = 64
# What a model is asked for at depth, that recalls nothing: enough to measure its speed.
MEASURED_TOKENS: Final = 64
ONE_TOKEN_SECONDS: Final = 30.0
READING_BYTES: Final = 262_144
_ASKS: Final = ("logprobs", "top_logprobs")
_NOT_IN_ONE: Final = FORCING | {"stream_options", "timings_per_token", "return_progress"}
_RESULTS: Final[dict[AnswerVerdict, Result]] = {
    "wrong": "wrong_answer",
    "degenerate": "degenerate",
    "foreign": "foreign_answer",
}
_VERDICTS: Final = {result: verdict for verdict, result in _RESULTS.items()}


class CanaryRun(Run):
    """One canary, from the moment that it is due to its result. ``depth`` is in tokens."""

    def __init__(self, prober: ProberState, name: str, module: Module, depth: int) -> None:
        super().__init__(prober, name, module)
        self._depth = depth
        self._prompt = ""
        self._tokens = module.max_tokens
        self._may_end = True
        self._sent: list[Stream] = []
        self._costs: list[tuple[int, int]] = []
        self._busy_seconds = 0.0
        self._deep: Stream | None = None
        """The stream that is measured."""
        self._checks: tuple[AnswerCheck, ...] = ()
        self._reading: FingerprintReading | None = None
        self._spent_on_reading = 0

    def end(self, outcome: Outcome) -> ProbeResult:
        """The result, with the verdicts and the reading of the fingerprint."""
        result = super().end(outcome)
        failed = result.result in _VERDICTS and not any(_RESULTS.get(each.verdict) for each in self._checks)
        if failed:  # a stream broke off in nonsense
            depth: Depth = "deep" if any(each.depth == "short" for each in self._checks) else "short"
            self._checks = (*self._checks, AnswerCheck(depth, _VERDICTS[result.result], result.error, result.fault))
        return replace(
            result,
            checks=self._checks if failed or outcome.failure is None else (),
            fingerprint=self._reading,
            prompt_tokens_spent=result.prompt_tokens_spent + self._spent_on_reading,
            output_tokens_spent=result.output_tokens_spent + (len(PROMPTS) if self._spent_on_reading else 0),
        )

    def _send(self) -> ProbeResult:
        """Ask both questions, once more if an answer is wrong, and take the fingerprint if one is due."""
        for again in (False, True):
            if again:
                self._say("asked once more, with other facts")
            if (found := self._ask_both()) is not None:
                return found if isinstance(found, ProbeResult) else self.end(self._whole(found))
            if not any(_RESULTS.get(each.verdict) for each in self._checks):
                self._take_fingerprint()
                break
        return self.end(self._whole(None))

    def _whole(self, failure: ProbeFailure | None) -> Outcome:
        return Outcome(tuple(self._sent), failure, self._busy_seconds, tuple(self._costs))

    def _ask_both(self) -> ProbeFailure | ProbeResult | None:
        """Ask the short question, and the deep one if it fits; what ends the probe early, if something does."""
        prober, self._checks, self._deep = self._prober, (), None
        depth = self._depth_now()
        canary = compose_canary(prober.draw.getrandbits(64), depth or LEAST_DEPTH)
        prober.server.remember(canary.words)
        said = self._ask(canary.short, self._answer_tokens(), may_end=True)
        if not isinstance(said, Said):
            return said
        judged = judge_short(canary.short, said.answer, prober.server.markers)
        self._note("short", judged.verdict, judged.reason, judged.fault)
        if _RESULTS.get(judged.verdict) or depth is None:
            return None
        return self._no_longer_idle() or self._ask_deep(canary.deep, said if judged.verdict == "right" else None)

    def _ask_deep(self, question: Question, short: Said | None) -> ProbeFailure | ProbeResult | None:
        """Ask the deep question, and judge its answer by the short one, if that was right."""
        prober = self._prober
        tokens = MEASURED_TOKENS if short is None else self._answer_tokens()
        said = self._ask(question, tokens, may_end=short is not None)
        if isinstance(said, ProbeFailure) and (said.result == "http_4xx" or context_exceeded(said) is not None):
            self._say(f"the server did not take the deep question: {said.message}")
            self._sent.pop()
            return None
        if isinstance(said, ProbeFailure) and said.result in ABANDONED:
            self._ask_less_deep(self._depth)
        if not isinstance(said, Said):
            return said
        self._deep = self._sent[-1]
        if short is not None:
            judged = judge_deep(question, said.answer, short.answer, prober.server.markers)
            self._note("deep", judged.verdict, judged.reason, judged.fault)
        elif found := judge_answers(None, [said], prober.server.markers):
            self._note("deep", _VERDICTS[found.result], found.message, found.fault)
        else:
            self._note("deep", "undecided", "the short answer was undecided")
        return None

    def _ask(self, question: Question, tokens: int, *, may_end: bool) -> Said | ProbeFailure | ProbeResult:
        """What was said to a question, or what came instead."""
        self._prompt, self._tokens, self._may_end = question.prompt, tokens, may_end
        try:
            found = self._exchange()
        except ProbeFailure as exc:
            return exc.settled()
        if isinstance(found, ProbeResult):
            return found
        self._sent += found.streams
        self._costs += found.spent
        self._busy_seconds += found.busy_seconds
        if found.cut:  # half an answer is neither right nor wrong
            return ProbeFailure("yielded", "the probe was stopped for requests of users")
        return found.failure or self._said[0]

    def _adapted(self, outcome: Outcome, rejected: frozenset[str]) -> Outcome:
        """A prompt that the context does not hold is not sent again: the next deep question is shorter."""
        if outcome.failure is None or (context := context_exceeded(outcome.failure)) is None:
            return super()._adapted(outcome, rejected)
        room = int((context - self._module.max_tokens - TEMPLATE_TOKENS) * SURE_SHARE) if context else self._depth
        self._ask_less_deep(room)
        return outcome

    def _deepest(self) -> int:
        """Tokens of the deep prompt at most, as far as this model of this server has shown."""
        served, depth = self._prober.depths.get(self._name, (None, self._depth))
        return depth if served == self._served else self._depth

    def _ask_less_deep(self, room: int) -> None:
        """From the next canary on ask half as deep, or as deep as there is room for."""
        self._prober.depths[self._name] = self._served, max(min(room, self._deepest() // 2), 0)

    def _no_longer_idle(self) -> ProbeFailure | None:
        """Why nothing more is asked: users came, or the server does not answer its reads."""
        try:
            checked = self._see()
        except ProbeFailure as exc:
            return exc.settled()
        if checked.failure:
            return checked.failure
        if standing_of(self._status) == "busy":
            return ProbeFailure(
                "yielded", "the probe was stopped for requests of users, which came between its questions"
            )
        return None

    def _depth_now(self) -> int | None:
        """Tokens of the deep prompt, by our estimate; None if the context, or the server's time, is too short for one."""
        prober, module, status = self._prober, self._module, self._status
        context = status.context_length or status.identity.context_length
        room = int((context - module.max_tokens - TEMPLATE_TOKENS) * SURE_SHARE) if context else self._depth
        depth = min(self._depth, room, self._deepest())
        if room / prober.prompt_factor < LEAST_DEPTH or depth < LEAST_DEPTH:
            self._say(f"no deep question: {depth} tokens are too few for one")
            return None
        return round(depth / prober.prompt_factor)

    def _note(self, depth: Depth, verdict: AnswerVerdict, reason: str, fault: AnswerFault | None = None) -> None:
        self._checks = (*self._checks, AnswerCheck(depth, verdict, reason, fault))
        self._said = ()
        self._say(f"the {depth} answer is {verdict}{f': {reason}' if reason else ''}")

    def _answer_tokens(self) -> int:
        """Tokens of an answer at most: of a model that thinks, those of some seconds."""
        speed = self._prober.speeds.of("default", self._status.identity)
        most = max(LEAST_ANSWER, math.ceil(speed * ANSWER_SECONDS)) if speed else self._module.max_tokens
        return min(most, self._module.max_tokens)

    def _chat_request(self, rejected: frozenset[str]) -> ChatRequest:
        """The question, which a model that recalls it may end by itself."""
        chat = super()._chat_request(rejected | FORCING if self._may_end else rejected)
        return replace(chat, prompt=self._prompt, max_tokens=self._tokens)

    def _learn(self, outcome: Outcome, result: Result, measured: Measurements, *, queued: bool) -> None:
        """As after any probe, but without its duration: this run was several probes."""
        took = self._prober.took_seconds
        super()._learn(outcome, result, measured, queued=queued)
        self._prober.took_seconds = took

    def _measure(self, outcome: Outcome) -> Measurements:
        """The figures of the deep question alone: what a short sentence takes says nothing."""
        return super()._measure(replace(outcome, streams=(self._deep,) if self._deep else ()))

    def _judged(self, failure: ProbeFailure | None) -> ProbeFailure | None:
        if failure is not None:
            return super()._judged(failure)
        for check in self._checks:
            if result := _RESULTS.get(check.verdict):
                return ProbeFailure(result, f"{check.reason} (asked {check.depth})", fault=check.fault)
        return None

    # The fingerprint ---------------------------------------------------------------------------------------------------

    def _take_fingerprint(self) -> None:
        """Read the first tokens if that is due and nobody is there; again at once if they are far from what they were."""
        prober, memory, identity = self._prober, self._prober.fingerprints, self._status.identity
        if memory is None or not memory.due(identity, prober.monotonic()):
            return
        state, distances, stepped = memory.state(identity), list[float](), False
        started = prober.monotonic()
        for _ in range(STEP_READINGS):
            if self._no_longer_idle():
                break
            reading = self._read_first_tokens()
            if reading is None:
                break
            state, seen = observe(state, reading)
            stepped |= seen.stepped
            memory.keep(identity, state, prober.monotonic(), learning=seen.distance is None)
            self._reading = FingerprintReading(
                None if seen.distance is None else min(*distances, seen.distance, math.inf)
            )
            if seen.distance is None or seen.distance <= STEP_DISTANCE:
                break
            distances.append(seen.distance)
        if self._reading is not None:
            self._reading = replace(self._reading, stepped=stepped)
            self._say(f"fingerprint: {_reading_text(self._reading)}")
        self._busy_seconds += prober.monotonic() - started

    def _read_first_tokens(self) -> tuple[dict[int, float] | None, ...] | None:
        """The log-probabilities of the first token after each prompt; None if the server gives none, or fails."""
        found: list[dict[int, float] | None] = []
        for prompt in PROMPTS:
            try:
                answer = self._one_token(prompt)
            except ProbeFailure as exc:
                self._say(f"no fingerprint: {exc.message}")
                return None
            tokens = first_token(json_of(answer))
            if tokens is None and not any(found):
                self._say("no fingerprint: the server gives no log-probabilities")
                memory = self._prober.fingerprints
                if memory is not None and answer.status in {200, 400, 422, 501}:
                    memory.give_up(self._status.identity)
                return None
            found.append(tokens)
        return tuple(found)

    def _one_token(self, prompt: str) -> client.Reply:
        """The answer to a request for one token with its log-probabilities."""
        self._prompt, self._tokens, self._may_end = prompt, 1, True
        prober, dialect = self._prober, self._dialect
        known = prober.rejected.get((dialect.name, self._status.identity.backend_version), frozenset())
        chat = self._chat_request(known | _NOT_IN_ONE)
        request = dialect.request(chat)
        body: dict[str, Any] = json.loads(request.body)
        wanted = {"logprobs": TOP_TOKENS} if chat.completion else {name: FIELDS[name] for name in _ASKS}
        body |= {"stream": False, **wanted}
        connection, headers = prober.tracker.connection()
        sent, _ = with_module_headers(headers, self._module)
        self._spent_on_reading += round(estimate(prompt) * prober.prompt_factor)
        sent_at = prober.monotonic()
        with prober.server.streaming(1):
            answer = client.fetch(
                connection,
                request.path,
                timeout=min(ONE_TOKEN_SECONDS, self._left()),
                limit_bytes=READING_BYTES,
                headers=(*request.headers, *sent),
                method="POST",
                body=json.dumps(body).encode(),
            )
        prober.server.count(1, Served(1.0, prober.monotonic() - sent_at, 1.0))
        return answer


def _reading_text(reading: FingerprintReading) -> str:
    if reading.distance is None:
        return "the usual values of this model are being collected"
    return f"distance {reading.distance:.1f}" + (", a step: another model answers" if reading.stepped else "")
