"""The results of probing: frozen records, no behaviour.

``ProbeResult`` is one probe of a target by a module; ``TargetState`` is what the target said of itself at that time.
"""

from dataclasses import dataclass
from itertools import product
from typing import Final, Literal, get_args

from exporter.probe.answer import AnswerFault, AnswerVerdict
from exporter.probe.timeline import Timeline

Result = Literal[
    "ok",
    "skipped_busy",
    "skipped_unloaded",
    "skipped_unable",
    "yielded",
    "resolve",
    "connect",
    "tls",
    "timeout_connect",
    "timeout_first_token",
    "timeout_stalled",
    "timeout_total",
    "loading",
    "auth",
    "rate_limited",
    "no_model",
    "http_4xx",
    "http_5xx",
    "protocol",
    "truncated",
    "empty",
    "server_error",
    "too_large",
    "degenerate",
    "wrong_answer",
    "foreign_answer",
]
RESULTS: Final[tuple[Result, ...]] = get_args(Result)
SKIPPED: Final[frozenset[Result]] = frozenset({"skipped_busy", "skipped_unloaded", "skipped_unable", "yielded"})
"""Results that say nothing of the target's speed or health: what was known before stays."""


NOT_AN_ANSWER: Final[frozenset[Result]] = frozenset({"degenerate", "wrong_answer", "foreign_answer"})
"""Results of probes that a server answered at full speed, with a text that is no answer."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What the target is, as its own API says it; strings are as the server sent them, cut where they are published."""

    backend: str
    backend_version: str | None = None
    model: str | None = None
    quantization: str | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    context_length: int | None = None
    model_root: str | None = None
    offloaded: bool | None = None
    """Whether a part of the model lies in memory that isn't the GPU's, so that the CPU computes it."""
    on_cpu: bool | None = None
    """Whether none of the model lies in a GPU's memory, so that the CPU computes all of it."""
    experts: bool | None = None
    """Whether it is a mixture of experts."""
    active_parameters: int | None = None
    """Of a mixture of experts, those that a token uses."""
    kv_elements: int | None = None
    """Elements of the key-value cache for one token of context: keys and values of all layers."""


@dataclass(frozen=True, slots=True)
class TargetState:
    """One status check at a target by reads that cost it nothing; ``None`` if its backend has no way to say it.

    Ratios are 0 to 1. ``generated_tokens_per_second`` is the production throughput between this status check and the one before,
    the probes' own tokens taken out.
    """

    target: str
    url: str
    at_seconds: float
    up: bool
    loading: bool = False
    identity: Identity | None = None
    model_resident: bool | None = None
    requests_running: float | None = None
    requests_waiting: float | None = None
    kv_cache_usage: float | None = None
    generated_tokens_per_second: float | None = None
    user_tokens_per_second: float | None = None
    """What one user gets, the mean over the answers that ran since the last reading; None while nobody is served."""
    user_ttft_seconds: float | None = None
    stuck: bool | None = None
    """Whether requests have been running for minutes and nothing came of them."""
    starting_since: float | None = None
    """Unix time at which its container or process was started, if it doesn't answer yet; it then counts as loading."""
    drafts: bool = False
    """Whether the server or its answers reported drafted tokens (speculative decoding)."""
    error: str = ""
    notice: str = ""
    """What a person should know of probes of this server."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """The numbers of one probe; seconds, tokens per second, tokens. ``None`` if undefined or not measured."""

    tokens_per_second: float | None = None
    end_to_end_tokens_per_second: float | None = None
    ttft_seconds: float | None = None
    time_to_first_answer_seconds: float | None = None
    prefill_tokens_per_second: float | None = None
    server_tokens_per_second: float | None = None
    speculative_accepted_ratio: float | None = None
    aggregate_tokens_per_second: float | None = None
    gaps: tuple[tuple[float, int], ...] = ()
    """(seconds per token, tokens) of each gap between chunks that were stamped apart."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    output_tokens: int | None = None
    token_count_exact: bool | None = None
    stream_buffered: bool | None = None
    clock_error_seconds: float | None = None
    phases: tuple[tuple[str, float], ...] = ()
    """(phase, seconds) in the order resolve, connect, tls, queue, first_token, decode, total; only those that happened."""


Depth = Literal["short", "deep"]
CHECKS: Final[tuple[tuple[Depth, AnswerVerdict], ...]] = tuple(product(get_args(Depth), get_args(AnswerVerdict)))
"""All verdicts at all depths."""


@dataclass(frozen=True, slots=True)
class AnswerCheck:
    """The verdict on one answer of a canary, its reason in a clause, and what is wrong if something is."""

    depth: Depth
    verdict: AnswerVerdict
    reason: str = ""
    fault: AnswerFault | None = None


@dataclass(frozen=True, slots=True)
class FingerprintReading:
    """How far a model's first tokens are from those it had, in units of their noise; None while it is being learned.

    ``stepped`` is True once for a step: then another model, quantization or kernel answers.
    """

    distance: float | None = None
    stepped: bool = False


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One probe: its result, what was measured, and what it cost. A failed, skipped or yielded one has no measurements of speed."""

    target: str
    module: str
    result: Result
    error: str
    at_seconds: float
    """Unix time at which the probe was due to start."""
    interval_seconds: float
    """How often the module is meant to run on this target now, stretched by its budget or a pause."""
    concurrency: int = 1
    model: str | None = None
    measurements: Measurements = Measurements()
    cold_start: bool = False
    queued: bool = False
    """Whether the server made it wait behind others; then there is no TTFT."""
    queue_seconds: float | None = None
    beside_users: float | None = None
    """Requests of others that ran while it was measured; None if the server can't tell."""
    paused_since: float | None = None
    """If it was skipped since nobody uses the model: Unix time of the last use that is known."""
    model_load_seconds: float | None = None
    prompt_tokens_spent: int = 0
    output_tokens_spent: int = 0
    busy_seconds: float = 0.0
    fault: AnswerFault | None = None
    """What is wrong with its answer, if that is why it failed."""
    checks: tuple[AnswerCheck, ...] = ()
    """The verdicts of a canary, by depth."""
    fingerprint: FingerprintReading | None = None
    """None if none was taken."""
    state: TargetState | None = None
    timelines: tuple[Timeline, ...] = ()
    log: tuple[str, ...] = ()
    """Lines a person can follow: what was asked, what was answered, when. Never a key, never the prompt's text."""
