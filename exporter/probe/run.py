"""One probe of a target by a module, from the moment that it is due to its ProbeResult: politeness, request, judgement."""

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from exporter.probe import client
from exporter.probe.checks import Said, judge_answers, said_of
from exporter.probe.client import Deadlines, Progress, Request
from exporter.probe.dialects.dialect import ChatRequest, Dialect, ServerStatus, rejected_fields, short_name
from exporter.probe.dialects.keep_alive import after_failure, after_probe, nearly_over, seconds_to_ask
from exporter.probe.failure import Cancelled, ProbeFailure, context_exceeded, one_line, wants_template
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.interruption import Interruption
from exporter.probe.marker import markers_in
from exporter.probe.measure import combine, measure, why_no_speed
from exporter.probe.newcomers import Newcomers
from exporter.probe.outcome import Outcome, Stream, course_of, hidden_wait, spent_by, undisturbed, without_speed
from exporter.probe.politeness import (
    ABANDONED,
    BUSY_POLL_SECONDS,
    BUSY_POLLS,
    HIDDEN_WAIT_SECONDS,
    QUEUED_SECONDS,
    is_heavy,
    is_late,
    short_length,
    standing_of,
)
from exporter.probe.prober_state import ProberState
from exporter.probe.prompt import compose, estimate
from exporter.probe.result import Identity, Measurements, ProbeResult, Result, TargetState
from exporter.probe.server import pause
from exporter.probe.status import Headers, StatusResult, read_secret, without_ours
from exporter.probe.users import ours_of
from exporter.settings import Module

log = logging.getLogger(__name__)

TTFTS_KEPT: Final = 15
SETTLE_SECONDS: Final = 0.1
# All reads after the streams of a probe.
CHECK_AFTER_SECONDS: Final = 2.0
# Ollama's load_duration of a model that was in memory is far below this, a load from the fastest disk above.
LOAD_SECONDS: Final = 1.0
# Tokens of the context that a chat template may need besides prompt and answer.
TEMPLATE_TOKENS: Final = 32
# The length of a prompt is an estimate, so the context is not filled to its end.
SURE_SHARE: Final = 0.8
# A prompt up to this length is within the usual time to the first token.
SHORT_PROMPT: Final = 1024
# Tokens per second at which a CPU still works through a prompt.
SLOWEST_PREFILL: Final = 50.0
_PHASES: Final = ("resolve", "connect", "tls", "queue", "first_token", "decode", "total")
FORCING: Final = frozenset({"ignore_eos", "min_tokens"})
"""Fields that keep a model from ending its answer: none of them if the answer is judged."""
_NOT_LOADED: Final = b"model is not loaded"
# What Ollama and llama-server say of a model that generates no text.
_NO_CHAT: Final = (b"does not support chat", b"does not support logits", b"does not support completions")


class Run:
    """One probe, from the moment that it is due to its result."""

    def __init__(self, prober: ProberState, name: str, module: Module) -> None:
        self._prober = prober
        self._name = name
        self._module = module
        self._at = prober.wall()
        self._due = prober.monotonic()
        self._queued = 0.0
        self._state: TargetState | None = None
        self._status = ServerStatus(Identity("unknown"))
        self._loads = False
        self._cold = False
        """Whether it is the first request since the server's start, as known when it was sent."""
        self._others: float | None = None
        """The most requests of others that were seen beside it; None if the server can't tell."""
        self._paused_since: float | None = None
        self._used = False
        """Whether somebody else is known to have used the model since our last probe."""
        self._asked_keep_alive: float | None = None
        self._answered: str | None = None
        """The model that the answers named."""
        self._said: tuple[Said, ...] = ()
        """What the streams said, until it is judged."""
        self._lines: list[str] = []

    def result(self) -> ProbeResult | None:
        """Wait for the turn, check the status, and probe if that does no harm. None if no turn came. Raises Cancelled."""
        prober = self._prober
        with prober.server.in_turn(self._interval, prober.cancellation) as mine:
            self._queued = prober.monotonic() - self._due
            if not mine:
                log.info(
                    "%s was not probed by %s: other probes of its server took the whole interval",
                    prober.target.name,
                    self._name,
                )
                return None
            checked = self._see()
            if checked.failure:
                return self.end(Outcome(failure=checked.failure))
            refusal = self._refusal() or self._pause() or self._wait_for_users()
            return refusal or self._send()

    def end(self, outcome: Outcome) -> ProbeResult:
        """The result of a probe that was not skipped, and what the prober learns from it."""
        prober = self._prober
        abandoned = outcome.failure.result if outcome.failure else "ok"
        failure = self._judged(self._or_busy(outcome))
        result: Result = failure.result if failure else "ok"
        self._answered = next((each.model for each in outcome.timelines if each.model), None)
        prober.tracker.answered = short_name(self._answered) or prober.tracker.answered
        prober.tracker.drafts |= any(each.server and each.server.drafted_tokens for each in outcome.timelines)
        self._state = self._state and prober.tracker.named(self._state)
        spent = outcome.spent
        prompt, output = (sum(each[kind] for each in spent) for kind in (0, 1))
        after = self._check_after(outcome)
        measured = self._measure(outcome)
        queue_seconds = self._queue_seconds(outcome, after)
        queued = self._was_queued(outcome, measured, queue_seconds, after)
        if outcome.timelines:
            prober.pace.ran(self._name, self._module, abandoned, self._due, outcome.busy_seconds)
            alone = self._pauses and not self._used and not self._status.activity_is_free
            prober.pace.lone(self._name, paused=alone)
        if failure and failure.retry_after_seconds:
            prober.pace.hold_until(prober.monotonic() + failure.retry_after_seconds)
        if result in {"no_model", "http_4xx"}:
            prober.tracker.doubt()
        cold, load_seconds = self._cold_start(outcome)
        if cold or failure:
            measured = without_speed(measured)
        elif queued:
            measured = replace(
                measured, ttft_seconds=None, time_to_first_answer_seconds=None, prefill_tokens_per_second=None
            )
        self._learn(outcome, result, measured, queued=queued or cold)
        self._say(f"{result}: {failure.message}" if failure else result + (" (cold start: no speed)" if cold else ""))
        return self._result(
            result,
            failure.message if failure else "",
            fault=failure.fault if failure else None,
            measurements=measured,
            cold_start=cold,
            queued=queued,
            queue_seconds=queue_seconds,
            beside_users=self._others if outcome.timelines else None,
            model_load_seconds=load_seconds,
            prompt_tokens_spent=prompt,
            output_tokens_spent=output,
            busy_seconds=outcome.busy_seconds,
            timelines=outcome.timelines,
        )

    def _judged(self, failure: ProbeFailure | None) -> ProbeFailure | None:
        """The failure of the probe, or of its answers."""
        said, self._said = self._said, ()
        return judge_answers(failure, said, self._prober.server.markers, self._module.expect)

    @property
    def _interval(self) -> float:
        return self._prober.pace.interval(self._name, self._module)

    @property
    def _pauses(self) -> bool:
        """Whether a model that nobody uses is left alone, so that its server can unload it."""
        if self._prober.by_hand or self._status.resident is False:
            return False
        wish = self._module.when_idle
        return wish == "pause" or (wish is None and self._status.unloads is not False)

    def _see(self) -> StatusResult:
        """Check the server's status, and log what it says."""
        checked, self._state = self._prober.check(self._left(), thorough=True)
        if status := checked.status:
            self._status = status
            self._used = self._prober.tracker.used_since_probe(status) is True or self._used
            identity = status.identity
            self._say(" ".join(filter(None, (identity.backend, one_line(identity.backend_version or ""), self._model))))
            for note in filter(None, (status.notice, status.error)):
                self._say(note)
        return checked

    def _left(self) -> float:
        """Seconds that are left of this probe. Raises ProbeFailure when it has none."""
        total = self._module.timeouts.total
        left = total - (self._prober.monotonic() - self._due - self._queued)
        if left <= 0:
            raise ProbeFailure("timeout_total", f"the server answered the reads before a probe too slowly: {total:g} s")
        return left

    def _refusal(self) -> ProbeResult | None:
        """The result if the server's state forbids a probe: it would cost somebody something, or can't succeed."""
        if failure := self._failure():
            return self.end(Outcome(failure=failure))
        if skip := self._reason_to_skip():
            return self._skip(*skip)
        status = self._status
        if status.model is None and status.resident is not None and not status.error:
            return self.end(Outcome(failure=ProbeFailure("no_model", "the server has no model that could be probed")))
        return None

    def _failure(self) -> ProbeFailure | None:
        """Why a request could not succeed, by what the server said."""
        status = self._status
        if status.loading:
            return ProbeFailure("loading", f"the server is loading {self._model}")
        if status.key_refused:
            return ProbeFailure("auth", status.error)
        if status.missing or status.choices:
            return ProbeFailure("no_model", status.missing or _name_one(status.choices))
        return None

    def _reason_to_skip(self) -> tuple[Result, str] | None:
        """What a request would cost somebody: a load, a reload, a shorter stay in memory."""
        status, tracker = self._status, self._prober.tracker
        if unable := status.unable or tracker.unable:
            return "skipped_unable", unable
        self._loads = status.resident is False
        if self._loads:
            skips = self._module.when_unloaded == "skip"
            return ("skipped_unloaded", f"{self._model} is not in memory, and a probe would load it") if skips else None
        if why := tracker.forbids(status) or status.would_reload:
            self._say("skipped_would_reload")
            return "skipped_unloaded", why
        now = self._prober.wall()
        if status.keep_alive and not self._prober.by_hand and nearly_over(status.keep_alive, now, self._interval):
            left = max(status.keep_alive.leaves_at - now, 0.0)
            return "skipped_unloaded", f"{self._model} unloads in {left:.0f} s; a probe now could change its keep-alive"
        return None

    def _pause(self) -> ProbeResult | None:
        """The result if nobody has used the model since our last probe, and the server could unload it by now."""
        tracker, status = self._prober.tracker, self._status
        if self._pauses and status.crowded and status.recent != status.model:
            self._paused_since = tracker.used_at or self._prober.started_at
            why = "a probe would change which of the models in memory is evicted first"
            return self._skip(
                "skipped_unloaded", f"paused: {self._model} is not known to be the one that was used last, and {why}"
            )
        if not (self._pauses and status.activity_is_free) or tracker.used_since_probe(status) is not False:
            return None
        since = tracker.used_at or self._prober.started_at
        self._paused_since = since
        at = time.strftime("%H:%M", time.localtime(since))
        return self._skip("skipped_unloaded", f"paused: nobody used {self._model} since {at}")

    def _wait_for_users(self) -> ProbeResult | None:
        """Give a busy server a moment to become idle; the result if it does not, unless a probe may go to it."""
        prober, module = self._prober, self._module
        polls = 0
        while (standing := standing_of(self._status)) == "busy" or self._status.conversation:
            if prober.pace.may_probe_busy(self._name, module) or (
                module.when_busy == "share" and self._has_room and not is_heavy(module)
            ):
                self._say("the server is busy; the module's when_busy allows this probe")
                return None
            if polls >= BUSY_POLLS or standing != "busy":
                running, waiting = self._status.running or 0, self._status.waiting or 0
                skips = prober.pace.skipped(self._name)
                why = (
                    f"requests of users: {running:.0f} running, {waiting:.0f} waiting"
                    if standing == "busy"
                    else "the server's only slot holds a conversation, and a probe would replace its prompt cache"
                )
                return self._skip("skipped_busy", f"{why}; skip {skips} in a row")
            polls += 1
            pause(BUSY_POLL_SECONDS, prober.cancellation)
            checked = self._see()
            if checked.failure:
                return self.end(Outcome(failure=checked.failure))
        if standing == "unknown" and is_heavy(module):
            self._say(
                "it is not known whether the server is idle, and a probe as heavy as this one may slow down users"
            )
        return None

    @property
    def _has_room(self) -> bool:
        """Whether a probe beside users would not wait for them, as far as the server says."""
        status = self._status
        return not status.waiting and not status.conversation and (status.slots is None or status.slot is not None)

    def _send(self) -> ProbeResult:
        """Send the streams, and end with what they brought."""
        found = self._exchange()
        return self.end(found) if isinstance(found, Outcome) else found

    def _exchange(self) -> Outcome | ProbeResult:
        """Send the streams; once more without the fields that the server rejects, if it does. A result if it can't answer."""
        dialect, status, prober = self._dialect, self._status, self._prober
        version = (dialect.name, status.identity.backend_version)
        known = prober.rejected.get(version, frozenset())
        outcome = self._adapted(self._stream(known), known)
        refusal = outcome.failure
        if refusal and refusal.status is not None and refusal.result in {"http_4xx", "http_5xx", "no_model"}:
            if refusal.status == 501 or any(text in refusal.body for text in _NO_CHAT):
                prober.tracker.unable = f"the server serves no chat: {refusal.message}"
                return self._skip("skipped_unable", prober.tracker.unable)
            more = rejected_fields(refusal.status, refusal.body, dialect.optional - known)
            if _NOT_LOADED in refusal.body and status.router:
                return self._skip("skipped_unloaded", f"{self._model} was unloaded just now")
            if more and refusal.result == "http_4xx":
                self._say(f"refused: {refusal.message}; once more without {', '.join(sorted(more))}")
                outcome = self._stream(known | more)
                if outcome.failure is None:
                    prober.rejected = {version: known | more}
        return outcome

    def _adapted(self, outcome: Outcome, rejected: frozenset[str]) -> Outcome:
        """Send once more, if the server refused a chat since the model has no template, or the prompt since it is too long."""
        prober, served = self._prober, self._served
        if outcome.failure and prober.completes != served and wants_template(outcome.failure):
            self._say(f"refused: {outcome.failure.message}; once more as a plain completion")
            prober.completes = served
            outcome = self._stream(rejected)
            if outcome.failure and outcome.failure.status in {404, 405, 501}:
                prober.completes = None
        if outcome.failure and (context := context_exceeded(outcome.failure)) is not None:
            tokens = self._prompt_tokens()
            room = round((context - self._module.max_tokens - TEMPLATE_TOKENS) * SURE_SHARE) if context else tokens // 2
            shorter = max(min(room, tokens // 2), 1)
            prober.fits = (served, shorter)
            self._say(f"refused: {outcome.failure.message}; once more with a prompt of {shorter} tokens")
            outcome = self._stream(rejected)
        return outcome

    def _stream(self, rejected: frozenset[str]) -> Outcome:
        prober, module, status = self._prober, self._module, self._status
        chats = [self._chat_request(rejected) for _ in range(module.concurrency)]
        base, headers = prober.tracker.connection()
        connection = replace(base, cancellation=Cancellation(prober.cancellation))
        sent, secrets = with_module_headers(headers, module)
        prober.secrets[self._name] = secrets
        requests = [
            replace(each, headers=(*each.headers, *sent), secrets=secrets) for each in map(self._dialect.request, chats)
        ]
        limits, more = module.timeouts, prefill_allowance(module, estimate(chats[0].prompt))
        deadlines = Deadlines(limits.connect, limits.first_token + more, limits.stalled, self._left() + more)
        self._say(
            f"POST {requests[0].path}: {len(requests)} stream(s), each of about {estimate(chats[0].prompt)} tokens of prompt"
            f" and at most {chats[0].max_tokens} of answer"
        )
        self._cold = prober.tracker.cold
        beside = standing_of(status) == "busy"
        self._others = sum(filter(None, without_ours(status, 0))) if status.running is not None else None
        progress = [Progress() for _ in requests]
        interruption = Interruption(
            connection,
            lambda: self._dialect.others(prober.tracker.read_now(base, headers), status, len(requests)),
            Newcomers(prober.tracker.hints.connected, len(requests)),
            progress,
            yields=not beside and not prober.by_hand,
        )

        def run(chat: ChatRequest, request: Request, seen: Progress) -> Stream:
            about = estimate(chat.prompt) * prober.prompt_factor
            try:
                return Stream(client.stream(connection, request, self._dialect.read, deadlines, seen), None, about)
            except ProbeFailure as exc:
                # A read that the interruption ended may look like a connection that broke.
                return Stream(exc.timeline, interruption.failure or exc.settled(), about)
            except Cancelled:
                prober.cancellation.check()
                return Stream(seen.timeline, interruption.failure, about)

        prober.server.remember(marker for chat in chats for marker in markers_in(chat.prompt))
        started = prober.monotonic()
        with prober.server.streaming(len(requests)), interruption:
            streams = _at_once(run, chats, requests, progress)
            busy = prober.monotonic() - started
        spent = tuple(map(spent_by, streams))
        marked = [(each.timeline, output) for each, (_, output) in zip(streams, spent, strict=True) if each.timeline]
        served = ours_of([marks for marks, _ in marked], [output for _, output in marked])
        prober.server.count(sum(output for _, output in spent), served)
        cut = interruption.failure is not None and interruption.failure.result == "yielded"
        if cut:
            streams = tuple(undisturbed(each, interruption.clean_until_ns) for each in streams)
        elif interruption.seen is not None:
            self._others = max(self._others or 0.0, interruption.seen)
        for number, stream in enumerate(streams, start=1):
            self._say(f"stream {number}: {course_of(stream)}")
        self._said = tuple(
            said_of(chat.prompt, request, seen, stream.timeline)
            for chat, request, seen, stream in zip(chats, requests, progress, streams, strict=True)
        )
        self._asked_keep_alive = chats[0].keep_alive_seconds
        return Outcome(streams, next((each.failure for each in streams if each.failure), None), busy, spent, cut)

    def _chat_request(self, rejected: frozenset[str]) -> ChatRequest:
        """A fresh prompt, cut to what the model's context holds, for as short an answer as the precision allows."""
        prober, module, status = self._prober, self._module, self._status
        tokens = self._prompt_tokens()
        context = status.context_length or status.identity.context_length
        if context and tokens > (room := int((context - module.max_tokens - TEMPLATE_TOKENS) * SURE_SHARE)):
            tokens = max(room, 1)
            self._say(f"the prompt is cut to {tokens} tokens: the context holds {context}")
        judged = module.expect is not None
        whole = judged or prober.by_hand
        return ChatRequest(
            model=status.model,
            prompt=module.prompt or compose(round(tokens / prober.prompt_factor), prober.draw.getrandbits(64)),
            max_tokens=module.max_tokens if whole else short_length(module, self._last_speed),
            salt=f"{prober.draw.getrandbits(128):032x}",
            # Streams that run at once need a slot each.
            status=replace(status, slot=None) if module.concurrency > 1 else status,
            may_load=module.when_unloaded == "load",
            rejected=rejected | FORCING if judged else rejected,
            keep_alive_seconds=self._keep_alive_seconds(),
            options=prober.target.options,
            fields=module.request,
            completion=prober.completes == self._served,
        )

    def _keep_alive_seconds(self) -> float | None:
        """What to ask for so that the model leaves when it would have; beside other models only what is owed, as it was."""
        kept = self._status.keep_alive
        if kept is None or self._prober.by_hand:
            return None
        if self._status.crowded:
            return kept.full_seconds if kept.owed else None
        return seconds_to_ask(kept, self._prober.wall(), self._prober.took_seconds)

    @property
    def _last_speed(self) -> float | None:
        return self._prober.speeds.of(self._name, self._status.identity)

    def _prompt_tokens(self) -> int:
        """How long the prompt is to be: as the module says, or as the model took it."""
        served, most = self._prober.fits
        return min(self._module.prompt_tokens, most) if served == self._served else self._module.prompt_tokens

    @property
    def _served(self) -> tuple[str | None, ...]:
        """A value that differs when another model is served, or the server was started again."""
        return self._dialect.name, self._status.model, self._status.identity.backend_version, self._status.started

    def _or_busy(self, outcome: Outcome) -> ProbeFailure | None:
        """The failure of a probe; of a server that can't say that it is busy, a first token that is late is no failure."""
        failure = outcome.failure
        if failure is None or failure.result != "timeout_first_token" or standing_of(self._status) != "unknown":
            return failure
        try:
            checked, _ = self._prober.check(CHECK_AFTER_SECONDS)
        except ProbeFailure:
            return failure
        if not checked.up or checked.loading:
            return failure
        return ProbeFailure(
            "skipped_busy", f"{failure.message}, while the server answers its reads: it is busy with others"
        )

    def _check_after(self, outcome: Outcome) -> ServerStatus | None:
        """What the server says right after its streams: who else is there, and until when the model stays now."""
        prober, status = self._prober, self._status
        tells = status.keep_alive or status.activity or status.queue or status.running is not None
        if not outcome.timelines or not tells:
            return None
        try:
            after = prober.check(CHECK_AFTER_SECONDS, thorough=True)[0].status
            if after and after.running and not outcome.failure:
                # A server may count a request for a moment after its last byte.
                pause(SETTLE_SECONDS, prober.cancellation)
                after = prober.check(CHECK_AFTER_SECONDS, thorough=True)[0].status
        except ProbeFailure:
            return None
        prober.tracker.probed(after)
        if after is None:
            return None
        abandoned = outcome.failure is not None and outcome.failure.result in ABANDONED
        if after.running is not None and not abandoned and not outcome.cut:
            grown = self._queue_growth(after)
            ended = max(grown[0] - len(outcome.streams), 0.0) if grown else 0.0
            self._others = max(self._others or 0.0, ended, sum(filter(None, without_ours(after, 0))))
        if status.keep_alive and after.keep_alive and self._asked_keep_alive is not None:
            asked, expires_at = self._asked_keep_alive, after.keep_alive.expires_at
            if outcome.failure is None:
                queued = (self._queue_seconds(outcome, after) or 0.0) > QUEUED_SECONDS
                held = after_probe(status.keep_alive, asked, expires_at, queued=queued, now=prober.wall())
            else:
                held = after_failure(status.keep_alive, asked, expires_at)
            prober.tracker.hold_keep_alive(held)
        return after

    def _queue_seconds(self, outcome: Outcome, after: ServerStatus | None) -> float | None:
        """How long our requests waited in the server's queue, by its word on them, else by what its count grew with them."""
        said = [
            line.server.queue_seconds
            for line in outcome.timelines
            if line.server and line.server.queue_seconds is not None
        ]
        if said:
            return max(said)
        grown = self._queue_growth(after)
        if grown is None or grown[0] < len(outcome.streams):
            return None
        requests, seconds = grown
        if seconds <= QUEUED_SECONDS or requests == len(outcome.streams):
            return seconds / requests
        return None  # how much of it was ours can't be known

    def _queue_growth(self, after: ServerStatus | None) -> tuple[float, float] | None:
        """How many requests left the server's queue since the check before the probe, and how long they waited in all."""
        before, now = self._status.queue, after.queue if after else None
        if before is None or now is None or now[0] < before[0]:
            return None
        return now[0] - before[0], max(now[1] - before[1], 0.0)

    def _was_queued(
        self, outcome: Outcome, measured: Measurements, queue_seconds: float | None, after: ServerStatus | None
    ) -> bool:
        """Whether the TTFT holds a wait behind others; in doubt it does."""
        if queue_seconds is not None:
            return queue_seconds > QUEUED_SECONDS
        if any(hidden_wait(each) > HIDDEN_WAIT_SECONDS for each in outcome.timelines):
            return True
        grown = self._queue_growth(after)
        if grown and grown[1] > QUEUED_SECONDS:
            return True
        if self._others or measured.ttft_seconds is None or standing_of(self._status) != "unknown":
            return bool(self._others and self._status.waiting)
        return is_late(measured.ttft_seconds, self._prober.ttfts.get(self._name, ()))

    def _learn(self, outcome: Outcome, result: Result, measured: Measurements, *, queued: bool) -> None:
        """Keep what the next probe goes by: speed, its own length, and the TTFT of a request that did not wait."""
        prober = self._prober
        if result != "ok":
            return
        if not queued:
            prober.took_seconds = outcome.busy_seconds
        # If the tokens were too few or came in a burst, the speed over the whole shows at least how long that many take.
        if speed := measured.tokens_per_second or (None if queued else measured.end_to_end_tokens_per_second):
            prober.speeds.note(self._name, self._status.identity, speed)
        if measured.ttft_seconds and not queued and not self._others:
            prober.ttfts.setdefault(self._name, deque(maxlen=TTFTS_KEPT)).append(measured.ttft_seconds)

    def _measure(self, outcome: Outcome) -> Measurements:
        timelines = outcome.timelines
        if not timelines:
            return Measurements(phases=self._phases(()))
        measured = combine(timelines) if len(timelines) > 1 else measure(timelines[0])
        for why in {} if outcome.failure else dict.fromkeys(filter(None, map(why_no_speed, timelines))):
            self._say(why)
        if outcome.failure is None and measured.prompt_tokens:
            off = measured.prompt_tokens / sum(each.prompt_estimate for each in outcome.streams)
            self._prober.prompt_factor = min(max(self._prober.prompt_factor * off, 0.25), 8.0)
        return replace(measured, phases=self._phases(measured.phases))

    def _phases(self, measured: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
        return tuple(sorted((*measured, ("queue", self._queued)), key=lambda phase: _PHASES.index(phase[0])))

    def _cold_start(self, outcome: Outcome) -> tuple[bool, float | None]:
        """Whether the probe waited for a load, and how long that took if the server says or it was seen."""
        if outcome.failure or not outcome.timelines:
            return False, None
        tracker = self._prober.tracker
        said = [each.server.load_seconds for each in outcome.timelines if each.server and each.server.load_seconds]
        longest = max(said, default=None)
        loaded = longest is not None and longest >= LOAD_SECONDS
        if loaded and self._status.resident and not self._loads:
            why = (
                f"the last probe made the server load {self._model} again ({longest:.1f} s), though it was in memory: other"
                " clients use runner options that can't be read. State them in targets[].options"
            )
            tracker.reloads = (self._status.model, why)
            log.warning("%s: %s", self._prober.target.name, why)
            self._say(why)
        cold = self._loads or self._cold or loaded
        seen = tracker.load_seconds
        tracker.warmed()
        return cold, (longest if loaded else seen) if cold else None

    def _skip(self, result: Result, why: str) -> ProbeResult:
        self._say(f"{result}: {why}")
        return self._result(
            result, why, measurements=Measurements(phases=self._phases(())), paused_since=self._paused_since
        )

    def _result(self, result: Result, error: str, **found: Any) -> ProbeResult:
        prober, module = self._prober, self._module
        empty = ProbeResult(
            target=prober.target.name,
            module=self._name,
            result=result,
            error=prober.hide(error),
            at_seconds=self._at,
            interval_seconds=self._interval,
            concurrency=module.concurrency,
            model=prober.hide(self._status.identity.model or short_name(self._answered) or "") or None,
            state=self._state,
            log=tuple(self._lines),
        )
        return replace(empty, **found)

    @property
    def _model(self) -> str:
        return one_line(self._status.identity.model or "") or "its model"

    @property
    def _dialect(self) -> Dialect:
        dialect = self._prober.tracker.dialect
        assert dialect is not None  # noqa: S101 - a status check that succeeded has found it
        return dialect

    def _say(self, line: str) -> None:
        self._lines.append(f"+{self._prober.monotonic() - self._due:.3f} s {self._prober.hide(line)}")


def prefill_allowance(module: Module, prompt_tokens: int) -> float:
    """Seconds that a long prompt may take beyond the module's timeouts, if those are the defaults."""
    if module.timeouts.model_fields_set:
        return 0.0
    return max(prompt_tokens - SHORT_PROMPT, 0) / SLOWEST_PREFILL


def with_module_headers(headers: Headers, module: Module) -> tuple[Headers, tuple[str, ...]]:
    """The headers of a request with those of its module, which win, and the secrets among them. Raises ProbeFailure."""
    read = {name: read_secret(path, f"the file of the header {name}") for name, path in module.header_files.items()}
    own = {**module.headers, **read}
    names = {name.lower() for name in own}
    secrets = tuple(value.split()[-1] for value in read.values())
    return (*(each for each in headers if each[0].lower() not in names), *own.items()), secrets


def _name_one(choices: tuple[str, ...]) -> str:
    """What to do if several models are served and nothing says which is in memory."""
    shown = ", ".join(one_line(each) for each in choices[:8]) + (", …" if len(choices) > 8 else "")
    return f"the server lists several models and does not say which is in memory: set model: to name one of: {shown}"


def _at_once(
    run: Callable[[ChatRequest, Request, Progress], Stream],
    chats: list[ChatRequest],
    requests: list[Request],
    progress: list[Progress],
) -> tuple[Stream, ...]:
    if len(requests) == 1:
        return (run(chats[0], requests[0], progress[0]),)
    with ThreadPoolExecutor(len(requests)) as pool:
        return tuple(pool.map(run, chats, requests, progress))
