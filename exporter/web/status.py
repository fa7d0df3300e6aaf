"""A view in the terms of a person who asks how the servers are: one verdict for each target, and the reason for it.

Pure: the time is an argument. ``/api/v1/status`` and the status page show these records.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from exporter.advice import Advice, AdviceFacts, Case, advise, advise_target, model_on
from exporter.advice.target import FAILURES, FAULTS_OF_ANSWERS
from exporter.history.change import Ledger
from exporter.history.change_lines import ChangeLine, lines_of
from exporter.history.record import Record
from exporter.probe.result import NOT_AN_ANSWER, RESULTS, SKIPPED, Depth, Measurements, ProbeResult, TargetState
from exporter.snapshot import (
    CONTAINERS,
    GPU,
    GPU_SENSORS,
    INFO,
    MACHINE,
    ROCM,
    Service,
    TargetInfo,
    View,
    info_key,
    judgement_key,
    ledger_key,
    service_key,
    target_key,
)
from exporter.text import (
    band_text,
    count_text,
    finite,
    no_speed_text,
    rate_text,
    share_text,
)
from exporter.tiers import NEAR, Judgement, is_below, tier_of
from exporter.web.steady import near_bound, speed_shown, steady_tier

STALE_AFTER_INTERVALS: Final = 3
LOOK_BACK: Final = 30
"""Probes that decide which tier is shown near a bound."""


class Verdict(IntEnum):
    """How a target is; the worst first, which is the order of the page."""

    down = 0
    stuck = 1
    failing = 2
    wrong = 3
    poor = 4
    unmeasured = 5
    loading = 6
    acceptable = 7
    good = 8
    excellent = 9
    right = 10
    measured = 11
    undecided = 12
    busy = 13
    unloaded = 14
    unable = 15
    waiting = 16


SILENT: Final = frozenset({Verdict.down, Verdict.stuck, Verdict.loading})
"""Verdicts of a server that answers nobody."""

RESULT_TEXTS: Final[Mapping[str, str]] = {
    "skipped_busy": "the server was busy with users, so no probe was sent",
    "skipped_unloaded": "a probe would have loaded the model or kept it from unloading, so none was sent",
    "skipped_unable": "the server serves no text generation, so no probe was sent",
    "yielded": "the probe was stopped for requests of users before there was enough to measure",
    "loading": "the server is loading a model",
    **{result: title for result, (title, _) in FAILURES.items()},
    **FAULTS_OF_ANSWERS,
}


STUCK: Final = "requests have been running for four minutes, and the server has done no work on them"
PROMPTS: Final[Mapping[Depth, str]] = {"short": "short", "deep": "long"}
"""What people read for the depth of a canary's prompt."""
LIMIT_WORDS: Final[Mapping[str | None, str]] = {
    "users": "users used the server during the probe",
    "throttling": "the GPU is too hot and lowers its clocks",
}


@dataclass(frozen=True, slots=True)
class ProbeStatus:
    """One module on one target, judged at one time; ``tier`` is None while no speed is known.

    ``verdict`` is the tier as people see it: near a bound it stays what it was (``steady_tier``).
    """

    record: Record
    judgement: Judgement | None
    verdict: Verdict
    reason: str
    tier: str | None
    stale: bool

    @property
    def figures(self) -> Measurements:
        """What the last probe measured, empty after a failed one."""
        return self.record.figures or Measurements()

    @property
    def silent(self) -> bool:
        """Whether the server answers nobody now, so that what its last probe measured is past."""
        return self.verdict in SILENT

    @property
    def speed(self) -> float | None:
        """Tokens per second that it has now; None while it answers nobody."""
        return None if self.silent else self.measured_speed

    @property
    def measured_speed(self) -> float | None:
        """Tokens per second of the last probe: of one stream, or of all streams of a module that runs several."""
        return finite(
            self.figures.aggregate_tokens_per_second
            if self.record.plan.concurrency > 1
            else self.figures.tokens_per_second
        )

    @property
    def speed_text(self) -> str:
        """The speed, with as many digits as agree with its tier."""
        return self._in_words(self.speed)

    @property
    def measured_text(self) -> str:
        """What the last probe measured, in the same way."""
        return self._in_words(self.measured_speed)

    def _in_words(self, speed: float | None) -> str:
        return speed_shown(speed, self.judgement.thresholds) if self.judgement and self.tier else rate_text(speed)

    @property
    def next_run_seconds(self) -> float | None:
        """Unix time of the next probe, as far as the last one says."""
        last = self.record.last
        return None if last is None else last.at_seconds + self.record.interval_seconds

    @property
    def answers(self) -> tuple[str, ...]:
        """What the last canary found, by its prompts: ``long prompt: right``."""
        checks = self.record.ran.checks if self.record.ran else ()
        return tuple(f"{PROMPTS[check.depth]} prompt: {check.verdict}" for check in checks)

    @property
    def good_failed_skipped(self) -> tuple[int, int, int]:
        """How many probes succeeded, failed, and were skipped or stopped for users, since the daemon's start."""
        counts = dict(zip(RESULTS, self.record.totals.results, strict=True))
        good, skipped = counts["ok"], sum(counts[result] for result in SKIPPED)
        return good, sum(counts.values()) - good - skipped, skipped

    @property
    def failures(self) -> tuple[ProbeResult, ...]:
        """The last failures, newest first."""
        return tuple(result for result in self.record.recent if failed(result))


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """One target: its verdict is the worst that any of its modules has found, and the reason that module's."""

    target: str
    verdict: Verdict
    reason: str
    info: TargetInfo
    state: TargetState | None
    probes: tuple[ProbeStatus, ...]
    """The module that judges its speed first."""
    ledger: Ledger | None = None
    changes: tuple[ChangeLine, ...] = ()
    """What to say of what changed."""
    advice: tuple[Advice, ...] = ()
    """Why it is so and what to do, what decides most first."""

    @property
    def why(self) -> Advice | None:
        """What decides most."""
        return self.advice[0] if self.advice else None

    @property
    def cause(self) -> str:
        """A few words by which servers are grouped that are as they are for the same reason; empty if none is known."""
        return self.why.title if self.why else ""

    @property
    def summary(self) -> str:
        """The reason as a sentence, or what opens if the advice says the same."""
        reason = self.reason
        for probe in self.probes:
            reason = reason.removeprefix(f"{probe.record.module}: ")
        repeats = self.why is not None and (
            reason.lower() in self.why.sentence.lower() or self.why.condition == "stream_buffered"
        )
        return "Details" if repeats or not reason else self.reason[:1].upper() + self.reason[1:]

    @property
    def users_decide(self) -> bool:
        """Whether it is poor because of what its users get, though its speed for a probe alone is better."""
        return self.verdict is Verdict.poor and self.probes[0].verdict > Verdict.poor

    @property
    def speed_text(self) -> str:
        """The speed that the verdict is about; empty if there is none, and if the answers are wrong."""
        if self.users_decide:
            return rate_text(self.state.user_tokens_per_second if self.state else None)
        first = self.probes[0]
        return "" if first.speed is None or self.verdict is Verdict.wrong else first.speed_text

    @property
    def other_changes(self) -> tuple[ChangeLine, ...]:
        """What changed besides what the reason says."""
        why = self.why.sentence if self.why else ""
        return tuple(each for each in self.changes if not (each.effect and f"{each.what}: {each.effect}." in why))

    @property
    def speed_alone(self) -> float | None:
        """What the newest good probe measured that no user's request ran beside; what users get is set beside it."""
        alone = self.probes[0].record.alone
        return alone[1] if alone else None

    @property
    def at_depth(self) -> Measurements | None:
        """What the canary's long prompt measured, if it has run."""
        return next((each.figures for each in self.probes if each.record.plan.canary and each.record.figures), None)


def targets_of(view: View, now: float) -> tuple[TargetStatus, ...]:
    """Every configured target, the worst first, then by name."""
    names: dict[str, list[str]] = {}
    for target, module in sorted(view.records):
        names.setdefault(target, []).append(module)
    found = [target_of(view, target, modules, now) for target, modules in names.items()]
    return tuple(sorted(found, key=lambda status: (status.verdict, status.target)))


def target_of(view: View, target: str, modules: list[str], now: float) -> TargetStatus:
    """One target out of a view."""
    state = view.get(target_key(target))
    info = view.get(info_key(target)) or TargetInfo(state.url if state else "")
    ordered = sorted(modules, key=lambda module: (module != "default", module))
    probes = tuple(
        probe_of(view.records[target, module], view.get(judgement_key(target, module)), state, now)
        for module in ordered
    )
    # Speed is judged by the first module: a long prompt or many streams at once are not what the tiers are made for.
    ledger = view.get(ledger_key(target))
    changes = lines_of(ledger, ordered[0], now) if ledger else ()
    worst = min(probes, key=lambda probe: probe.verdict)
    service = view.get(service_key(target))
    advice = advise_target(_case(view, info, state, probes, changes, service=service))
    verdict, reason = probes[0].verdict, probes[0].reason
    if worst is not probes[0] and worst.verdict <= Verdict.wrong:
        verdict, reason = worst.verdict, f"{worst.record.module}: {worst.reason}"
    elif verdict > Verdict.poor and (of_users := _too_slow_for_users(service, state)):
        verdict, reason = Verdict.poor, of_users
    return TargetStatus(target, verdict, reason, info, state, probes, ledger, changes, advice)


def _case(
    view: View,
    info: TargetInfo,
    state: TargetState | None,
    probes: Sequence[ProbeStatus],
    changes: tuple[ChangeLine, ...],
    *,
    service: Service | None,
) -> Case:
    """All that advice looks at, out of a view."""
    first, engine = probes[0], view.get(CONTAINERS)
    canaries = (each.record.ran for each in probes if each.record.plan.canary)
    containers = engine.last_known if engine else ()
    return Case(
        info,
        first.judgement,
        first.record.ran,
        next(canaries, None),
        state,
        changes,
        next((each for each in containers if info.container and each.name == info.container), None),
        machine_facts(view, model_on(info.gpus, info.weight_bytes), info.gpus) if info.gpus else None,
        tuple(sample for sample in view.get(GPU_SENSORS) or () if sample.address in info.gpus),
        state.user_tokens_per_second if state else None,
        STUCK if state and state.stuck else "",
        service.acceptable if service and service.tier == "poor" else None,
    )


def machine_facts(
    view: View, models: tuple[tuple[str, float], ...], addresses: Sequence[str] | None = None
) -> AdviceFacts | None:
    """What advice about this machine looks at, with these of its GPUs or all; None before the machine was read."""
    machine, reading, rocm = view.get(MACHINE), view.get(GPU), view.get(ROCM)
    if machine is None:
        return None
    gpus = reading.gpus if reading else ()
    wanted = tuple(gpu for gpu in gpus if addresses is None or gpu.address in addresses)
    return AdviceFacts(machine, wanted, models, rocm.driver.source if rocm and rocm.driver else None)


def machine_advice(view: View) -> tuple[Advice, ...]:
    """The advice about this machine, whichever server it runs; of a GPU's models the largest counts."""
    models = [model for info in view.of(INFO).values() for model in model_on(info.gpus, info.weight_bytes)]
    facts = machine_facts(view, tuple(models))
    return advise(facts) if facts else ()


def probe_of(record: Record, judgement: Judgement | None, state: TargetState | None, now: float) -> ProbeStatus:
    """One module on one target, judged at ``now`` (Unix time)."""
    has_speed = record.figures is not None and finite(record.figures.tokens_per_second) is not None
    # The tiers are of one stream.
    tier = judgement.tier if judgement and has_speed and record.plan.concurrency == 1 else None
    verdict, reason = _judge(record, judgement, tier, state)
    ran_at = record.totals.last_run_seconds
    paused = record.last is not None and record.last.paused_since is not None
    stale = ran_at is not None and now - ran_at > STALE_AFTER_INTERVALS * record.interval_seconds and not paused
    return ProbeStatus(record, judgement, verdict, reason, tier, stale)


def failed(result: ProbeResult) -> bool:
    """Whether a probe ran and was not good."""
    return result.result != "ok" and result.result not in SKIPPED


def _judge(
    record: Record, judgement: Judgement | None, tier: str | None, state: TargetState | None
) -> tuple[Verdict, str]:
    ran = record.ran
    # A status that is newer than the last probe overrules it.
    newer = state if state and (ran is None or state.at_seconds > ran.at_seconds) else None
    if newer and newer.loading:
        verdict = Verdict.loading, _why_loading(newer)
    elif newer and not newer.up:
        verdict = Verdict.down, newer.error or "the server does not answer its health check"
    elif newer and newer.stuck:
        verdict = Verdict.stuck, STUCK
    elif ran is None:
        verdict = _not_run(record)
    elif failed(ran):
        verdict = _failure(ran, state), _said(ran)
    elif ran.checks:
        verdict = _checked(ran)
    elif record.plan.concurrency > 1:
        verdict = _together(record)
    elif judgement is None or tier is None:
        verdict = Verdict.unmeasured, _why_no_speed(record)
    else:
        verdict = _tiered(record, judgement)
    return verdict


def _why_loading(state: TargetState) -> str:
    if state.starting_since is None:
        return "the server is loading a model"
    at = time.strftime("%H:%M", time.localtime(state.starting_since))
    return f"starting since {at}: it does not answer yet"


def _too_slow_for_users(service: Service | None, state: TargetState | None) -> str:
    """What to say if users get less than is acceptable; empty if they don't."""
    speed = finite(state.user_tokens_per_second) if state else None
    if speed is None or service is None or service.tier != "poor":
        return ""
    return (
        f"each user gets {rate_text(speed)} tokens/s, below the acceptable minimum of {service.acceptable:g} tokens/s"
    )


def _tiered(record: Record, judgement: Judgement) -> tuple[Verdict, str]:
    speed = (record.figures and record.figures.tokens_per_second) or 0.0
    before = [point.tokens_per_second for point in record.history if point.tokens_per_second is not None]
    shown = steady_tier([*before[-LOOK_BACK:-1], speed], judgement.thresholds) or tier_of(speed, judgement.thresholds)
    bound = near_bound(speed, shown, judgement.thresholds)
    near = (
        f"; {speed_shown(speed, judgement.thresholds)} is within {share_text(NEAR)} of the bound at {bound:g}"
        if bound
        else ""
    )
    return Verdict[shown], (_why(record, judgement, shown) + near).removeprefix("; ")


def _together(record: Record) -> tuple[Verdict, str]:
    """What a module that runs several streams found."""
    figures, streams = record.figures or Measurements(), record.plan.concurrency
    if finite(figures.aggregate_tokens_per_second) is None:
        return Verdict.unmeasured, _why_no_speed(record)
    each = f", {rate_text(figures.tokens_per_second)} for each" if finite(figures.tokens_per_second) is not None else ""
    whole = f"{rate_text(figures.aggregate_tokens_per_second)} tokens/s of {streams} streams together{each}"
    return Verdict.measured, f"{whole}; tiers are of one stream"


def _failure(ran: ProbeResult, state: TargetState | None) -> Verdict:
    if ran.result == "loading":
        return Verdict.loading
    if ran.result in NOT_AN_ANSWER:
        return Verdict.wrong
    return Verdict.down if state is not None and not state.up else Verdict.failing


def _checked(ran: ProbeResult) -> tuple[Verdict, str]:
    """What a canary found that is fine."""
    right = [PROMPTS[check.depth] for check in ran.checks if check.verdict == "right"]
    if right:
        answers = "answer to the" if len(right) == 1 else "answers to the"
        return (
            Verdict.right,
            f"the {answers} {' and the '.join(right)} prompt {'is' if len(right) == 1 else 'are'} right",
        )
    return (
        Verdict.undecided,
        "it is not known whether its answers are right: the model does not answer the short question",
    )


def _not_run(record: Record) -> tuple[Verdict, str]:
    last = record.last
    why = last.error if last else ""
    match last and last.result:
        case "skipped_busy" | "yielded" as result:
            return Verdict.busy, RESULT_TEXTS[result]
        case "skipped_unloaded":
            return Verdict.unloaded, why or RESULT_TEXTS["skipped_unloaded"]
        case "skipped_unable":
            return Verdict.unable, why or RESULT_TEXTS["skipped_unable"]
        case _:
            return Verdict.waiting, "not probed yet"


def _said(result: ProbeResult) -> str:
    words = RESULT_TEXTS.get(result.result, result.result)
    return f"{words}: {result.error}" if result.error else words


def _why_no_speed(record: Record) -> str:
    ran, figures = record.ran, record.figures or Measurements()
    cold_start = ran is not None and ran.cold_start
    if ran and ran.beside_users and not cold_start and not figures.stream_buffered:
        requests = count_text(round(ran.beside_users), "request")
        return f"measured during {requests} of users, so the speed says nothing about the setup"
    if finite(figures.tokens_per_second) is not None and figures.token_count_exact is False:
        return "the server does not count its tokens: the speed is an estimate, and is not judged"
    if finite(figures.tokens_per_second) is not None:
        return "the speed is measured, and not judged yet"
    return no_speed_text(cold_start=cold_start, stream_buffered=figures.stream_buffered)


def _why(record: Record, judgement: Judgement, tier: str) -> str:
    speed = (record.figures and record.figures.tokens_per_second) or 0.0
    low, high = judgement.expected_min, judgement.expected_max
    scenario = judgement.scenario if judgement.scenario and judgement.expected_source != "ceiling" else "this setup"
    band = f"{band_text(low, high)} tokens/s"
    limit = judgement.off_gpu if judgement.limit == "offload" else LIMIT_WORDS.get(judgement.limit, "")
    held = f"; {limit}" if limit else ""
    ceiling = judgement.ceiling_tokens_per_second
    if tier == "poor" and judgement.limit == "memory_bandwidth" and ceiling is not None:
        return f"below {judgement.thresholds.acceptable:g} tokens/s, and as fast as the memory allows"
    if is_below(speed, low):
        return f"slower than {scenario} should be: {band}{held}"
    if tier == "poor":
        limit = f"below the acceptable minimum of {judgement.thresholds.acceptable:g} tokens/s{held}"
        return f"{limit}; {scenario} is known to reach {band}" if low is not None else limit
    if low is not None and speed < low:
        return f"just below what {scenario} should reach: {band}"
    if high is not None and speed > high * (1 + NEAR):
        return f"faster than expected of {scenario}: {band}"
    return f"as expected of {scenario}: {band}" if low is not None or high is not None else ""


def counted(targets: Iterable[TargetStatus]) -> dict[str, int]:
    """How many targets have each verdict, the worst first."""
    counts = Counter(target.verdict for target in targets)
    return {verdict.name: counts[verdict] for verdict in Verdict if counts[verdict]}
