"""A target and a module make a ProbeResult: the door of this room.

A ``Prober`` belongs to one target and is kept across reloads while the target stays. Both ``status`` (what the server says of
itself) and ``probe`` end in bounded time and never raise.

How it is used: a job for each target and module asks ``due`` at every interval of the module, and calls ``probe`` when that is
True; where a budget or a pause stretches the interval, ``interval_seconds`` says to what. Another job calls ``status``, so that
state and production throughput are known between probes. Probers of one server get one ``Server`` (``Servers.at(url)``), so that
its probes wait for each other.
"""

import logging
import random
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Final

from exporter.probe import client
from exporter.probe.client import Deadlines, Request
from exporter.probe.dialects.dialect import ChatRequest, Dialect, ServerStatus, rejected_fields, short_name
from exporter.probe.dialects.keep_alive import after_probe, nearly_over, seconds_to_ask
from exporter.probe.failure import Cancelled, ProbeFailure, one_line
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.measure import combine, measure
from exporter.probe.politeness import (
    BUSY_POLL_SECONDS,
    BUSY_POLLS,
    Pace,
    is_heavy,
    standing_of,
)
from exporter.probe.prompt import compose, estimate
from exporter.probe.result import Identity, Measurements, ProbeResult, Result, TargetState
from exporter.probe.secret import hide
from exporter.probe.server import Server, pause
from exporter.probe.status import StatusResult, StatusTracker
from exporter.probe.timeline import Timeline, Usage
from exporter.settings import Module, Target

log = logging.getLogger(__name__)

# One harmless read. A server under load answers slowly, and slow is not down.
READ_SECONDS: Final = 10.0
# All reads of one status check that no probe waits for.
STATUS_SECONDS: Final = 30.0
# A status check waits so long for a probe of ours to end, so that it doesn't take our own work for a user's.
TURN_SECONDS: Final = 2.0
# Ollama's load_duration of a model that was in memory is far below this, a load from the fastest disk above.
LOAD_SECONDS: Final = 1.0
# Tokens of the context that a chat template may need besides prompt and answer.
TEMPLATE_TOKENS: Final = 32
# The length of a prompt is an estimate, so the context is not filled to its end.
SURE_SHARE: Final = 0.8
_PHASES: Final = ("resolve", "connect", "tls", "queue", "first_token", "decode", "total")
_NOT_LOADED: Final = b"model is not loaded"


@dataclass(frozen=True, slots=True)
class Stream:
    """How one stream of a probe went: its marks, its failure if it failed, and about how many tokens its prompt has."""

    timeline: Timeline | None
    failure: ProbeFailure | None
    prompt_estimate: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a probe went: its streams, the failure that decides if there is one, and how long it ran."""

    streams: tuple[Stream, ...] = ()
    failure: ProbeFailure | None = None
    busy_seconds: float = 0.0

    @property
    def timelines(self) -> tuple[Timeline, ...]:
        """The marks of all streams that have some."""
        return tuple(each.timeline for each in self.streams if each.timeline is not None)


class Prober:
    """Probes one target, one probe at a time for each server. Thread-safe."""

    def __init__(
        self,
        target: Target,
        *,
        server: Server | None = None,
        cancellation: Cancellation | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        draw: random.Random | None = None,
        permit: Callable[[str], bool] | None = None,
    ) -> None:
        self.target = target
        self.server = server or Server()
        self.cancellation = cancellation or Cancellation()
        self.pace = Pace(target.budget.share)
        self.tracker = StatusTracker(target, self.server, self.cancellation, monotonic, wall, permit=permit)
        self.monotonic = monotonic
        self.wall = wall
        self.draw = draw or random.SystemRandom()
        self.rejected: dict[tuple[str, str | None], frozenset[str]] = {}
        """Fields that the backend in its present version is known to refuse."""
        self.prompt_factor = 1.0
        """Tokens that the server counts for each token of our estimate."""
        self.took_seconds = 0.0
        """How long the streams of the last probe ran."""
        self._checking = Lock()

    def interval_seconds(self, name: str, module: Module) -> float:
        """How often this module is meant to run now: its interval, or a multiple where a budget or a pause wants that."""
        return self.pace.interval(name, module)

    def due(self, name: str, module: Module) -> bool:
        """Whether a module that asks at each of its intervals should run this time. A skipped probe was no run."""
        return self.pace.due(name, module, self.monotonic())

    def status(self) -> TargetState | None:
        """What the server says of itself, by reads that cost it nothing. None when it was cancelled, or had no turn."""
        try:
            with self.server.in_turn(TURN_SECONDS, self.cancellation) as alone:
                return self.check(STATUS_SECONDS, alone=alone)[1]
        except (Cancelled, ProbeFailure):
            return None

    def probe(self, name: str, module: Module) -> ProbeResult | None:
        """Send one probe, or skip it and say why. None only when it was cancelled."""
        run = Run(self, name, module)
        try:
            return run.result()
        except Cancelled:
            return None
        except ProbeFailure as exc:
            return run.end(Outcome(failure=exc.settled()))
        except Exception as exc:  # noqa: BLE001 - told by fault
            return run.end(Outcome(failure=self.fault("probe", exc)))

    def hide(self, text: str) -> str:
        """A text in which the server may have repeated our key, without it."""
        return hide(text, self.tracker.key)

    def fault(self, doing: str, exc: Exception) -> ProbeFailure:
        """Log a fault of the exporter itself; what is said of it may hold what the server sent."""
        trace = self.hide("".join(traceback.format_exception(exc)))
        log.error("a %s of %s failed in the exporter: %s", doing, self.target.name, trace)
        return ProbeFailure("protocol", f"a fault of the exporter: {exc!r}")

    def check(self, seconds: float, *, thorough: bool = False, alone: bool = True) -> tuple[StatusResult, TargetState]:
        """Check the status within so many seconds, one check of a target at a time. Raises ProbeFailure when its turn does
        not come.
        """
        until = time.monotonic() + seconds
        if not self._checking.acquire(timeout=seconds):
            raise ProbeFailure("timeout_total", f"the server has not answered the reads before for {seconds:.1f} s")
        try:
            try:
                checked = self.tracker.status(READ_SECONDS, until=until, thorough=thorough)
            except Cancelled:
                raise
            except Exception as exc:  # noqa: BLE001 - told by fault
                checked = StatusResult(failure=self.fault("status check", exc))
            return checked, self.tracker.state(checked, alone=alone)
        finally:
            self._checking.release()


class Run:
    """One probe, from the moment that it is due to its result."""

    def __init__(self, prober: Prober, name: str, module: Module) -> None:
        self._prober = prober
        self._name = name
        self._module = module
        self._at = prober.wall()
        self._due = prober.monotonic()
        self._queued = 0.0
        self._state: TargetState | None = None
        self._status = ServerStatus(Identity("unknown"))
        self._loads = False
        self._answered: str | None = None
        """The model that the answers named."""
        self._lines: list[str] = []

    def result(self) -> ProbeResult:
        """Wait for the turn, check the status, and probe if that does no harm. Raises Cancelled."""
        prober, module = self._prober, self._module
        with prober.server.in_turn(module.interval, prober.cancellation) as mine:
            self._queued = prober.monotonic() - self._due
            if not mine:
                return self._skip("skipped_busy", "other probes of this server took the whole interval")
            checked = self._see()
            if checked.failure:
                return self.end(Outcome(failure=checked.failure))
            refusal = self._refusal() or self._wait_for_users()
            if refusal:
                return refusal
            return self._send()

    def end(self, outcome: Outcome) -> ProbeResult:
        """The result of a probe that was not skipped, and what the prober learns from it."""
        prober, failure = self._prober, outcome.failure
        result: Result = failure.result if failure else "ok"
        measured = self._measure(outcome)
        self._answered = next((each.model for each in outcome.timelines if each.model), None)
        spent = [_spent(each) for each in outcome.streams]
        prompt, output = (sum(each[kind] for each in spent) for kind in (0, 1))
        prober.server.count(output)
        if outcome.timelines:
            prober.pace.ran(self._name, self._module, result, self._due, outcome.busy_seconds)
        if failure and failure.retry_after_seconds:
            prober.pace.hold_until(prober.monotonic() + failure.retry_after_seconds)
        if result in {"no_model", "http_4xx"}:
            prober.tracker.doubt()
        cold, load_seconds = self._cold_start(outcome)
        if cold or failure:
            measured = _without_speed(measured)
        self._say(f"{result}: {failure.message}" if failure else result + (" (cold start: no speed)" if cold else ""))
        return self._result(
            result,
            failure.message if failure else "",
            measurements=measured,
            cold_start=cold,
            model_load_seconds=load_seconds,
            prompt_tokens_spent=prompt,
            output_tokens_spent=output,
            busy_seconds=outcome.busy_seconds,
            timelines=outcome.timelines,
        )

    def _see(self) -> StatusResult:
        """Check the server's status, and log what it says."""
        checked, self._state = self._prober.check(self._left(), thorough=True)
        if status := checked.status:
            self._status = status
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
        """The result where the server's state forbids a probe: it loads, it would have to load, it is about to unload."""
        status, module = self._status, self._module
        if status.loading:
            return self.end(Outcome(failure=ProbeFailure("loading", f"the server is loading {self._model}")))
        self._loads = status.resident is False
        if self._loads and module.when_unloaded == "skip":
            return self._skip("skipped_unloaded", f"{self._model} is not in memory, and a probe would load it")
        if status.model is None and status.resident is not None and not status.error:
            return self.end(Outcome(failure=ProbeFailure("no_model", "the server has no model that could be probed")))
        now = self._prober.wall()
        if status.keep_alive and nearly_over(status.keep_alive, now, module.interval):
            left = max(status.keep_alive.leaves_at - now, 0.0)
            return self._skip(
                "skipped_unloaded",
                f"{self._model} leaves the memory in {left:.0f} s: a probe could shorten the stay of who asks next",
            )
        return None

    def _wait_for_users(self) -> ProbeResult | None:
        """Give a busy server a moment to become idle; the result where it does not, unless a probe may go to it."""
        prober, module = self._prober, self._module
        polls = 0
        while (standing := standing_of(self._status)) == "busy":
            if prober.pace.may_probe_busy(self._name, module):
                self._say("the server is busy; this probe may go to it all the same")
                return None
            if polls >= BUSY_POLLS:
                running, waiting = self._status.running or 0, self._status.waiting or 0
                skips = prober.pace.skipped(self._name)
                return self._skip(
                    "skipped_busy",
                    f"requests of users: {running:.0f} running, {waiting:.0f} waiting; skip {skips} in a row",
                )
            polls += 1
            pause(BUSY_POLL_SECONDS, prober.cancellation)
            checked = self._see()
            if checked.failure:
                return self.end(Outcome(failure=checked.failure))
        if standing == "unknown" and is_heavy(module):
            self._say("whether the server is idle is not known: a probe as heavy as this one may slow down users")
        return None

    def _send(self) -> ProbeResult:
        """Send the streams; once more without the fields that the server rejects, if it does."""
        dialect, status, prober = self._dialect, self._status, self._prober
        version = (dialect.name, status.identity.backend_version)
        known = prober.rejected.get(version, frozenset())
        outcome = self._stream(known)
        refusal = outcome.failure
        if refusal and refusal.status is not None and refusal.result in {"http_4xx", "no_model"}:
            more = rejected_fields(refusal.status, refusal.body, dialect.optional - known)
            if _NOT_LOADED in refusal.body and status.router:
                return self._skip("skipped_unloaded", f"{self._model} left the memory just now")
            if more and refusal.result == "http_4xx":
                self._say(f"refused: {refusal.message}; once more without {', '.join(sorted(more))}")
                outcome = self._stream(known | more)
                if outcome.failure is None:
                    prober.rejected = {version: known | more}
        return self.end(outcome)

    def _stream(self, rejected: frozenset[str]) -> Outcome:
        prober, module, status = self._prober, self._module, self._status
        chats = [self._chat_request(rejected) for _ in range(module.concurrency)]
        connection, headers = prober.tracker.connection()
        requests = [replace(each, headers=(*each.headers, *headers)) for each in map(self._dialect.request, chats)]
        limits = module.timeouts
        deadlines = Deadlines(limits.connect, limits.first_token, limits.stalled, self._left())
        self._say(
            f"POST {requests[0].path}: {len(requests)} stream(s), each of about {estimate(chats[0].prompt)} tokens of prompt"
        )

        def run(chat: ChatRequest, request: Request) -> Stream:
            about = estimate(chat.prompt) * prober.prompt_factor
            try:
                return Stream(client.stream(connection, request, self._dialect.read, deadlines), None, about)
            except ProbeFailure as exc:
                return Stream(exc.timeline, exc.settled(), about)

        started = prober.monotonic()
        with prober.server.streaming(len(requests)):
            streams = _at_once(run, chats, requests)
        prober.took_seconds = busy = prober.monotonic() - started
        for number, stream in enumerate(streams, start=1):
            self._say(f"stream {number}: {_course_of(stream)}")
        if status.keep_alive and chats[0].keep_alive_seconds is not None:
            prober.tracker.hold_keep_alive(after_probe(status.keep_alive, chats[0].keep_alive_seconds, prober.wall()))
        return Outcome(streams, next((each.failure for each in streams if each.failure), None), busy)

    def _chat_request(self, rejected: frozenset[str]) -> ChatRequest:
        """A fresh prompt, cut to what the model's context holds."""
        prober, module, status = self._prober, self._module, self._status
        tokens = module.prompt_tokens
        context = status.context_length or status.identity.context_length
        if context and tokens > (room := int((context - module.max_tokens - TEMPLATE_TOKENS) * SURE_SHARE)):
            tokens = max(room, 1)
            self._say(f"the prompt is cut to {tokens} tokens: the context holds {context}")
        return ChatRequest(
            model=status.model,
            prompt=compose(round(tokens / prober.prompt_factor), prober.draw.getrandbits(64)),
            max_tokens=module.max_tokens,
            salt=f"{prober.draw.getrandbits(128):032x}",
            status=status,
            may_load=module.when_unloaded == "load",
            rejected=rejected,
            keep_alive_seconds=seconds_to_ask(status.keep_alive, prober.wall(), prober.took_seconds)
            if status.keep_alive
            else None,
        )

    def _measure(self, outcome: Outcome) -> Measurements:
        timelines = outcome.timelines
        if not timelines:
            return Measurements(phases=self._phases(()))
        measured = combine(timelines) if len(timelines) > 1 else measure(timelines[0])
        if outcome.failure is None and measured.prompt_tokens:
            off = measured.prompt_tokens / sum(each.prompt_estimate for each in outcome.streams)
            self._prober.prompt_factor = min(max(self._prober.prompt_factor * off, 0.25), 8.0)
        return replace(measured, phases=self._phases(measured.phases))

    def _phases(self, measured: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
        return tuple(sorted((*measured, ("queue", self._queued)), key=lambda phase: _PHASES.index(phase[0])))

    def _cold_start(self, outcome: Outcome) -> tuple[bool, float | None]:
        """Whether the probe waited for a load, and how long that took where the server says or it was seen."""
        if outcome.failure or not outcome.timelines:
            return False, None
        tracker = self._prober.tracker
        said = [each.server.load_seconds for each in outcome.timelines if each.server and each.server.load_seconds]
        longest = max(said, default=None)
        loaded = longest is not None and longest >= LOAD_SECONDS
        cold = self._loads or tracker.cold or loaded
        seen = tracker.load_seconds
        tracker.warmed()
        return cold, (longest if loaded else seen) if cold else None

    def _skip(self, result: Result, why: str) -> ProbeResult:
        self._say(f"{result}: {why}")
        return self._result(result, why, measurements=Measurements(phases=self._phases(())))

    def _result(self, result: Result, error: str, **found: Any) -> ProbeResult:
        prober, module = self._prober, self._module
        empty = ProbeResult(
            target=prober.target.name,
            module=self._name,
            result=result,
            error=prober.hide(error),
            at_seconds=self._at,
            interval_seconds=prober.pace.interval(self._name, module),
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


def _at_once(
    run: Callable[[ChatRequest, Request], Stream], chats: list[ChatRequest], requests: list[Request]
) -> tuple[Stream, ...]:
    if len(requests) == 1:
        return (run(chats[0], requests[0]),)
    with ThreadPoolExecutor(len(requests)) as pool:
        return tuple(pool.map(run, chats, requests))


def _spent(stream: Stream) -> tuple[int, int]:
    """What one stream cost the server, prompt and output tokens: by its own count, else estimated.

    A failed one cost something where the server could have worked: the request was sent, and it was not refused. Then the
    prompt counts whole (it goes on after a client has left), and of the output what arrived.
    """
    marks, failure = stream.timeline, stream.failure
    if marks is None or marks.sent_ns is None or (failure and failure.status is not None and failure.status >= 400):
        return 0, 0
    usage = marks.usage or Usage()
    counted = max((each.output_tokens for each in marks.chunks if each.output_tokens is not None), default=None)
    prompt = usage.prompt if usage.prompt is not None else round(stream.prompt_estimate)
    output = next((each for each in (usage.output, counted) if each is not None), len(marks.chunks))
    return prompt, output


def _course_of(stream: Stream) -> str:
    """The marks of a stream in words, milliseconds from its start."""
    marks = stream.timeline
    if marks is None:
        return stream.failure.message if stream.failure else "nothing"
    first, last = (marks.chunks[0].at_ns, marks.chunks[-1].at_ns) if marks.chunks else (None, None)
    steps = {
        "connected": marks.connected_ns,
        "TLS": marks.secured_ns,
        "sent": marks.sent_ns,
        "headers": marks.headers_ns,
        "first text": first,
        "last text": last,
        "end": marks.end_ns,
    }
    times = [f"{name} {(at - marks.started_ns) / 1e6:.1f} ms" for name, at in steps.items() if at is not None]
    said = f"{len(marks.chunks)} chunks of text, finish_reason {marks.finish_reason}"
    return ", ".join([*times, said])


def _without_speed(measured: Measurements) -> Measurements:
    """What is left of a probe that failed or had to wait for a load: its phases, and the tokens that were counted."""
    return Measurements(
        prompt_tokens=measured.prompt_tokens,
        cached_tokens=measured.cached_tokens,
        reasoning_tokens=measured.reasoning_tokens,
        output_tokens=measured.output_tokens,
        token_count_exact=measured.token_count_exact,
        phases=measured.phases,
    )
