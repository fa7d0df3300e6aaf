"""Why a server is as it is, and what to do: one table of conditions, each with its fact. Pure.

The first condition that holds is the *why* of a server: it is what decides most. A condition looks at facts that were read,
and says nothing if they weren't.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from exporter.advice.advice import Advice
from exporter.advice.machine import TITLES, AdviceFacts, advise
from exporter.containers.facts import ContainerFacts
from exporter.history.change_lines import ChangeLine
from exporter.host.gpu import GpuSample
from exporter.probe.result import NOT_AN_ANSWER, SKIPPED, ProbeResult, TargetState
from exporter.snapshot import TargetInfo
from exporter.text import BUFFERED, band_text, count_text, finite, rate_text, share_text
from exporter.tiers import NO_GPU_GIVEN, ON_CPU, UNQUANTIZED, Judgement, TargetFacts, is_below

FOUR_BIT: Final = 4.5
"""Bits of a weight with its share of the scales in a 4-bit copy: llama.cpp's Q4_0 has 18 bytes for 32 weights."""
BITS: Final[Mapping[str, float]] = {"q8": 8.5, "fp8": 8.0, "f8": 8.0, "int8": 8.0, "w8a": 8.0, "q6": 6.5625, "q5": 5.5}
"""Bits of a weight, by how a quantization's name begins; one of 4 bits or fewer has none, since nothing is to be won."""
HOT_SHARE: Final = 0.1
"""Heat that lowers the clocks for a smaller share of the time does not explain a slow speed."""


@dataclass(frozen=True, slots=True)
class Case:
    """All that is known of one target; None or empty if unknown.

    ``ran`` is the newest probe that ran and ``checked`` the newest of a canary. ``machine`` are the facts of this machine with
    the GPUs that serve the target alone, ``samples`` what these GPUs do now. ``user_tokens_per_second`` is what one request of
    its users gets, ``least_for_users`` the bound that it is below, if it is; ``stuck`` in words why the server counts as stuck.
    """

    info: TargetInfo
    judgement: Judgement | None = None
    ran: ProbeResult | None = None
    checked: ProbeResult | None = None
    state: TargetState | None = None
    changes: tuple[ChangeLine, ...] = ()
    container: ContainerFacts | None = None
    machine: AdviceFacts | None = None
    samples: tuple[GpuSample, ...] = ()
    user_tokens_per_second: float | None = None
    stuck: str = ""
    least_for_users: float | None = None
    settings: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Give the launch settings by their names."""
        object.__setattr__(self, "settings", dict(self.info.settings))

    @property
    def speed(self) -> float | None:
        """Tokens per second of the newest probe that ran, None after one that was not good."""
        good = self.ran is not None and self.ran.result == "ok"
        return finite(self.ran.measurements.tokens_per_second) if good and self.ran else None

    @property
    def tier(self) -> str | None:
        """The tier of that speed, if it is judged."""
        return self.judgement.tier if self.judgement else None

    @property
    def is_slow(self) -> bool:
        """Whether the speed is poor, or below what the setup should reach."""
        expected = self.judgement.expected_min if self.judgement else None
        short = self.speed is not None and is_below(self.speed, expected)
        return self.speed is not None and self.tier is not None and (self.tier == "poor" or short)


@dataclass(frozen=True, slots=True)
class Condition:
    """A row of the table. ``fact`` gives the sentence if the condition holds; ``remedy`` says what to do.

    ``only_slow`` conditions say something of a server that is slow, and nothing of one that is fast in spite of them.
    ``since`` gives the Unix time at which it began.
    """

    title: str
    remedy: str
    fact: Callable[[Case], str | None]
    only_slow: bool = False
    since: Callable[[Case], float | None] = lambda _: None


def advise_target(case: Case) -> tuple[Advice, ...]:
    """Give the advice of every condition that holds for one target, the most decisive first.

    A slow target without a known reason gets what to check.
    """
    if failed := _failed(case):
        return (failed,)
    found = [advice for name, row in TARGET_CONDITIONS.items() if (advice := _advice_of(name, row, case))]
    held = {each.condition for each in found}
    found = [each for each in found if not held & SAID_BY.get(each.condition, frozenset())]
    if case.is_slow and case.machine is not None:
        names = {each.condition for each in found}
        found += [each for each in advise(case.machine) if each.condition not in names]
    if case.is_slow and all(each.condition in EXPLAINS_NO_SPEED for each in found):
        first = 1 if found and found[0].condition == CEILING_IS_POOR else 0
        found.insert(first, Advice("unexplained", _unexplained(case), remedy=_next_check(case), title=UNEXPLAINED))
    return tuple(found)


def _advice_of(name: str, row: Condition, case: Case) -> Advice | None:
    sentence = None if row.only_slow and not case.is_slow else row.fact(case)
    if sentence is None:
        return None
    # Servers with the same fault of answers are alike; one that says nonsense and one that says Lyon are not.
    title = _fault(case) or row.title if name == "no_text" else row.title
    return Advice(name, sentence, remedy=row.remedy, title=title, since_seconds=row.since(case))


def _failed(case: Case) -> Advice | None:
    """What to do about the way in which the newest probe failed."""
    result: str = case.ran.result if case.ran else "ok"
    if case.state is not None and not case.state.up and not case.state.loading and result not in FAILURES:
        result = "down"
    remedy = FAILURES.get(result)
    if remedy is None:
        return None
    title, what_to_do = remedy
    error = case.state.error if result == "down" and case.state else case.ran.error if case.ran else ""
    return Advice(
        f"failed_{result}", _sentence(f"{title}: {error}" if error else title), remedy=what_to_do, title=title
    )


def _sentence(text: str) -> str:
    """Text with a capital letter and an end; an error of a server may have its own end."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?', '!')) else '.'}"


# Each returns its sentence if it holds, and None if it doesn't or nothing says whether it does. -----------------


FAULTS_OF_ANSWERS: Final[Mapping[str, str]] = {
    "degenerate": "the answer is nonsense",
    "foreign_answer": "the answer belongs to another request",
    "wrong_answer": "the answer is wrong",
}
"""By result: what is wrong with an answer that came, in words."""


def _not_an_answer(case: Case) -> ProbeResult | None:
    return next((each for each in (case.ran, case.checked) if each and each.result in NOT_AN_ANSWER), None)


def _fault(case: Case) -> str:
    found = _not_an_answer(case)
    return FAULTS_OF_ANSWERS[found.result] if found else ""


def _no_answer(case: Case) -> str | None:
    found = _not_an_answer(case)
    if found is None:
        return None
    return _sentence(f"{_fault(case)}: {found.error}" if found.error else _fault(case))


def _stuck(case: Case) -> str | None:
    return _sentence(case.stuck) if case.stuck else None


def _drop(case: Case, *, explained: bool) -> ChangeLine | None:
    drops = [each for each in case.changes if each.standing and each.explained is explained]
    return next((each for each in drops if each.own), drops[0] if drops else None)


def _slower_since_change(case: Case) -> str | None:
    drop = _drop(case, explained=True)
    return f"Slower since the {drop.what}: {drop.effect}." if drop else None


def _slower_unexplained(case: Case) -> str | None:
    drop = _drop(case, explained=False)
    return f"Slower, though {drop.what}: {drop.effect}." if drop else None


def _since(*, explained: bool) -> Callable[[Case], float | None]:
    def since(case: Case) -> float | None:
        drop = _drop(case, explained=explained)
        return drop.at_seconds if drop else None

    return since


def _throttled(case: Case) -> str | None:
    for sample in case.samples:
        share = max((share for reason, share in sample.throttling if reason == "thermal"), default=0.0)
        if share >= HOT_SHARE:
            hottest = max((degrees for _, degrees in sample.temperatures), default=None)
            at = "" if hottest is None else f"; it is at {hottest:.0f} °C now"
            return f"The GPU lowers its clocks because of heat for {share_text(share)} of the time{at}."
    return None


def _slow_for_users(case: Case) -> str | None:
    theirs, least = finite(case.user_tokens_per_second), case.least_for_users
    if theirs is None or least is None or theirs >= least:
        return None
    return f"Each user gets {rate_text(theirs)} tokens/s, below the acceptable minimum of {least:g} tokens/s."


def _users(case: Case) -> str | None:
    beside = case.ran.beside_users if case.ran and case.ran.result not in SKIPPED else None
    running = beside or (case.state.requests_running if case.state else None)
    if not running:
        return None
    number = max(round(running), 1)  # a mean over a while may be less than one
    requests = count_text(number, "request")
    theirs = case.user_tokens_per_second
    each = f", and each gets {rate_text(theirs)} tokens/s" if theirs is not None else ""
    together = case.state.generated_tokens_per_second if case.state and theirs is None else None
    whole = f", {rate_text(together)} tokens/s together" if together else ""
    verb = "ran during the probe" if beside else "runs now" if number == 1 else "run now"
    return f"{requests} of users {verb}{each}{whole}."


def _off_gpu(case: Case) -> str:
    """What is known to be done elsewhere than on the GPU; by the launch settings before anything was judged."""
    if case.settings.get("compute") == "cpu":
        return ON_CPU
    if case.judgement is not None and case.judgement.off_gpu:
        return case.judgement.off_gpu
    return TargetFacts(case.info.backend, offload=case.settings.get("cpu_offload")).off_gpu


def _on_cpu(case: Case) -> str | None:
    sentences = {
        ON_CPU: "The server computes on the CPU, not on a GPU.",
        NO_GPU_GIVEN: "The container of the server was given no GPU, so the server computes on the CPU.",
    }
    return sentences.get(_off_gpu(case))


def _offload(case: Case) -> str | None:
    found = _off_gpu(case)
    return f"{found[:1].upper()}{found[1:]}." if found not in {"", ON_CPU, NO_GPU_GIVEN} else None


def _aiter(case: Case) -> str | None:
    if case.settings.get("aiter") != "no_effect":
        return None
    return "AITER is switched on, but it is not built for this GPU: it has no effect, or the engine ends with an error."


def _buffered(case: Case) -> str | None:
    good = case.ran is not None and case.ran.result == "ok" and not case.ran.cold_start
    if not good or case.ran is None or not case.ran.measurements.stream_buffered:
        return None
    return f"{BUFFERED[:1].upper()}{BUFFERED[1:]}."


def _at_memory_limit(case: Case) -> str | None:
    judgement, speed = case.judgement, case.speed
    if judgement is None or speed is None or judgement.limit != "memory_bandwidth":
        return None
    ceiling = finite(judgement.ceiling_tokens_per_second)
    if ceiling is None:
        return None
    held = f"{rate_text(speed)} of at most {rate_text(ceiling)} tokens/s"
    bits, weights = weights_of(case.info.quantization)
    if bits is None:
        return f"{held}: {weights} are the limit, since each token reads them once."
    return f"{held}: {weights} are the limit; {_what_if(speed, bits)}."


def _ceiling_is_poor(case: Case) -> str | None:
    judgement, speed = case.judgement, case.speed
    if judgement is None or speed is None or judgement.tier != "poor" or judgement.limit == "memory_bandwidth":
        return None
    ceiling, least = finite(judgement.ceiling_tokens_per_second), judgement.thresholds.acceptable
    if ceiling is None or ceiling >= least:
        return None
    bits, weights = weights_of(case.info.quantization)
    best = f"with {weights} even the best speed is below {least:g} tokens/s"
    faster = "" if bits is None else f"; {_what_if(speed, bits)}"
    return f"{rate_text(speed)} of at most {rate_text(ceiling)} tokens/s: {best}{faster}."


def _what_if(speed: float, bits: float) -> str:
    return f"a 4-bit copy could reach about {_rounded(speed * bits / FOUR_BIT)} tokens/s"


def weights_of(quantization: str) -> tuple[float | None, str]:
    """Bits of a weight, None if a 4-bit copy has no fewer, and the weights as text."""
    name = quantization.lower()
    if name in UNQUANTIZED - {"fp32", "f32"}:
        return 16.0, "16-bit weights" if name in {"none", "auto", "half"} else f"{quantization.upper()} weights"
    bits = next((bits for begin, bits in BITS.items() if name.startswith(begin)), None)
    return bits, f"{quantization} weights" if quantization else "the weights"


def _band_is_poor(case: Case) -> str | None:
    judgement, speed = case.judgement, case.speed
    if judgement is None or speed is None or judgement.tier != "poor" or judgement.expected_min is None:
        return None
    if is_below(speed, judgement.expected_min):
        return None
    band = band_text(judgement.expected_min, judgement.expected_max)
    return f"{rate_text(speed)} tokens/s is what this setup is known to reach: {band}."


def _rounded(speed: float) -> str:
    """Two digits: the estimate is no better."""
    return f"{float(f'{speed:.2g}'):g}"


def _pool_below_model(case: Case) -> str | None:
    # Told even of a server that is fast enough: the rest of its model is what a longer context needs.
    found = advise(case.machine) if case.machine else ()
    return next((each.sentence for each in found if each.condition == "memory_pool_below_model"), None)


def _own_downloads(case: Case) -> str | None:
    found = case.container
    if found is None or not found.running or found.cache_path is None or found.cache_source is not None:
        return None
    return (
        f"The container {found.name} downloads its own models: they are stored in its own layer ({found.cache_path})."
    )


def _unexplained(case: Case) -> str:
    judgement = case.judgement
    if judgement and judgement.efficiency is not None and judgement.ceiling_tokens_per_second is not None:
        reached = f"{share_text(judgement.efficiency)} of the {rate_text(judgement.ceiling_tokens_per_second)} tokens/s"
        return f"The speed is only {reached} that the memory allows, and no known fact explains it."
    return f"The speed is {rate_text(case.speed)} tokens/s, and no known fact explains it."


def _next_check(case: Case) -> str:
    """Where to look for a reason: first at what could not be read, since it hides one."""
    if case.info.unknown:
        return f"Check first what could not be read: {case.info.unknown[0]}."
    if case.judgement and case.judgement.no_ceiling:
        return f"Check first why the ceiling isn't known: {case.judgement.no_ceiling}."
    if "compute" not in case.settings:
        return "Check first whether the GPU computes: the Machine dashboard shows how busy it is during a probe."
    return "Check first flash attention, the runtime's version, and other processes on the GPU."


UNEXPLAINED: Final = "slow for no known reason"
CEILING_IS_POOR: Final = "ceiling_is_poor"
SAID_BY: Final[Mapping[str, frozenset[str]]] = {
    "users": frozenset({"stuck", "slow_for_users"}),
    "band_is_poor": frozenset({"at_memory_limit"}),
}
"""Conditions that add nothing where one of these holds."""
EXPLAINS_NO_SPEED: Final = frozenset({"own_model_downloads", CEILING_IS_POOR})
"""Conditions beside which a speed below its ceiling is still unexplained."""

TARGET_CONDITIONS: Final[dict[str, Condition]] = {
    "no_text": Condition(
        "the answer is nonsense or wrong",
        "Restart the server. If the fault comes back, use another version of the image or runtime, or another quantization. "
        "Prompts longer than 512 tokens show the fault first.",
        _no_answer,
    ),
    "stuck": Condition("requests without progress", "Restart the server. Its log says what it waits for.", _stuck),
    "slow_for_users": Condition(
        "too slow for its users",
        "Let fewer requests run at once (--max-num-seqs, -np), or distribute them over several servers.",
        _slow_for_users,
    ),
    "slower_since_change": Condition(
        "slower since a change",
        "Undo the change, or accept the new speed as the usual one: `llm-probe-exporter changes --accept`.",
        _slower_since_change,
        since=_since(explained=True),
    ),
    "slower_unexplained": Condition(
        "slower, and nothing changed",
        "Check heat, power, memory and other users at that time.",
        _slower_unexplained,
        since=_since(explained=False),
    ),
    "throttled_by_heat": Condition(
        "throttled by heat",
        "Clean the fans, let them run faster, or improve the airflow. A lower power limit gives a steadier speed.",
        _throttled,
    ),
    "computes_on_cpu": Condition(
        "computes on the CPU",
        "Use a build of the server with ROCm or Vulkan. A container needs the GPU's devices.",
        _on_cpu,
    ),
    "offload": Condition(
        "partly on the CPU",
        "Put all layers on the GPU (-ngl 999), or use a model that fits into its memory.",
        _offload,
        only_slow=True,
    ),
    "memory_pool_below_model": Condition(TITLES["memory_pool_below_model"], "", _pool_below_model),
    CEILING_IS_POOR: Condition(
        "weights too large for this memory",
        "A quantized or smaller model, or a mixture of experts, reads fewer bytes for each token.",
        _ceiling_is_poor,
    ),
    "aiter_without_effect": Condition(
        "AITER without effect",
        "Leave VLLM_ROCM_USE_AITER off on this GPU. A quantized model decodes faster.",
        _aiter,
    ),
    "stream_buffered": Condition(
        "a proxy buffers the stream",
        "Switch buffering off for this path (nginx: proxy_buffering off), or probe the server behind the proxy.",
        _buffered,
    ),
    "at_memory_limit": Condition(
        "at the memory's limit",
        "A quantized or smaller model, or a mixture of experts, reads fewer bytes for each token.",
        _at_memory_limit,
    ),
    "band_is_poor": Condition(
        "a slow setup",
        "A quantized or smaller model, or another runtime, is faster on this hardware.",
        _band_is_poor,
    ),
    "users": Condition(
        "shared with users", "Judge the server by what its users get, or probe it when it is idle.", _users
    ),
    "own_model_downloads": Condition(
        "downloads its own models",
        "Mount the host's cache, so that a model is downloaded once: `-v ~/.cache/huggingface:/root/.cache/huggingface`.",
        _own_downloads,
    ),
}
"""The condition that decides most comes first."""

CHECK_IT_LISTENS: Final = "Check that the server runs, and that it listens at this address and port."

FAILURES: Final[Mapping[str, tuple[str, str]]] = {
    "down": ("no answer", f"{CHECK_IT_LISTENS} If it ended, its log says why."),
    "resolve": ("the host name can't be resolved", "Check the name in the target's url, and the DNS of this machine."),
    "connect": ("no connection", CHECK_IT_LISTENS),
    "tls": ("the TLS handshake failed", "Check its certificate, or set targets[].tls.ca_file to its CA."),
    "timeout_connect": ("no connection in time", "Check the route and the firewall between here and the server."),
    "timeout_first_token": (
        "no token in time",
        "Look at the server's log and queue: it accepted the request and sent nothing.",
    ),
    "timeout_stalled": (
        "the stream stalled",
        "Look at the server's log and at the GPU: it began to answer and stopped.",
    ),
    "timeout_total": (
        "the answer took too long",
        "Set a smaller max_tokens or a longer timeouts.total for a slow server.",
    ),
    "auth": ("the server refused the key", "Set targets[].api_key_file to a file with the key."),
    "rate_limited": (
        "the server limits the rate of requests",
        "Lengthen the module's interval, or raise the limit for this key.",
    ),
    "no_model": (
        "the server has no such model",
        "Set targets[].model to a model that the server serves, or leave it out.",
    ),
    "http_4xx": (
        "the server rejected the request",
        "The error says what the server does not accept. Change the request in the module, or choose another in targets[].modules.",
    ),
    "http_5xx": ("the server failed", "Look at the server's own log at that time."),
    "protocol": (
        "the answer is not of the expected API",
        "Check the port, and set targets[].backend to the server that runs there.",
    ),
    "truncated": ("the stream broke off", "Look at the server's log, and at the timeouts of a proxy on the way."),
    "empty": ("the answer had no text", "Send a request by hand. A thinking model may need a larger max_tokens."),
    "server_error": ("the server reported an error inside the stream", "Look at the server's own log at that time."),
    "too_large": ("the answer was too large", "Check the address: it may not be an inference server."),
}
"""By result: the failure in words, by which such servers are grouped, and what to do."""
