"""Every recording rule and every alert, once: Prometheus rules, Grafana rules and the runbook are written from here.

An alert is a value that is compared with a bound, and gates that silence it. Prometheus gets ``value < bound`` and the gates as
one expression. Grafana gets the value with the gates as a query, and the comparison as a threshold expression. So a healthy
target still has a row there. The value is divided by the bound if the bound is a metric.
"""

from dataclasses import dataclass
from typing import Final, Literal

from exporter.probe.answer import FAULTS, AnswerFault

Severity = Literal["critical", "warning", "info"]

SPEED: Final = "llm_probe_tokens_per_second"
SLOWDOWN: Final = "llm_slowdown_speed_ratio"
TTFT: Final = "llm_probe_ttft_seconds"
BOUND: Final = "llm_performance_tier_threshold_tokens_per_second"
RECENT: Final = f"target_module:{SPEED}:median_recent"
TTFT_LONG: Final = f"target_module:{TTFT}:median_long"
TTFT_WEEK: Final = f"target_module:{TTFT}:median_7d"
COUNTS: Final = "target_module_result:llm_probes:increase_recent"
FAULT: Final = "target_module_fault:llm_answer_fault_info:max_recent"
OK_WEEK: Final = "target_module:llm_probes_ok:increase_7d"
CLOCK_NOW: Final = "target_module:llm_probe_clock_error:ratio"
CLOCK: Final = "target_module:llm_probe_clock_error:ratio_median"
CEILING: Final = "llm_decode_ceiling_tokens_per_second"
CEILING_SHARE: Final = "target_model:llm_probe_tokens_per_second:ceiling_share"
USER_SPEED: Final = "llm_server_user_tokens_per_second"
USERS: Final = f"target:{USER_SPEED}:median_recent"
USERS_SHARE: Final = f"target:{USER_SPEED}:ceiling_share"


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording rule. ``slow`` ones look back over days and are evaluated less often."""

    name: str
    expression: str
    why: str
    slow: bool = False


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. ``bound`` is a number, or an expression that ``match`` joins to ``value``.

    ``{{ $value }}`` in a text is ``value``. ``board`` and ``panel`` name where to look; ``variables`` are the labels that
    the link carries. ``means`` and ``look`` go into the runbook. While an alert without ``exporter_answers`` fires, no
    exporter can serve the runbook: it then says where the runbook is. ``detail`` is a template that asks for more
    series: only Prometheus can do that, and adds it to the description.
    """

    name: str
    severity: Severity
    summary: str
    description: str
    value: str
    op: Literal["<", ">"]
    bound: str
    hold: str
    keep: str
    board: str
    panel: str
    variables: tuple[str, ...]
    means: str
    look: tuple[str, ...]
    match: str = ""
    gates: tuple[str, ...] = ()
    exporter_answers: bool = True
    detail: str = ""


def _by_interval(expression: str, windows: tuple[str, ...]) -> str:
    """The expression over the shortest window ``W`` that holds four probes of the module at its present interval."""
    limits = {"10m": "<150s>", "20m": "<5m>", "1h": "<15m>"}
    parts = []
    above = ""
    for window in windows:
        limit = limits.get(window)
        bounds = " and ".join(
            f"llm_probe_interval_seconds {op} {bound}" for op, bound in ((">", above), ("<=", limit)) if bound
        )
        parts.append(f"(\n  {expression.replace('[W]', f'[{window}]')}\n  and on (@module) ({bounds})\n)")
        above = limit or ""
    return "\nor\n".join(parts)


def _recent(expression: str) -> str:
    return _by_interval(expression, ("10m", "20m", "1h", "6h"))


def _long(expression: str) -> str:
    return _by_interval(expression, ("1h", "6h"))


RECORDINGS: Final = (
    Recording(
        FAULT,
        _recent("max_over_time(llm_answer_fault_info[W])"),
        "The faults of recent answers, over the windows of the counts below. The alerts name them. A server whose nonsense changes from "
        "probe to probe has one series for each fault, which lasts for a whole window, so that no `for` begins again.",
    ),
    Recording(
        COUNTS,
        _recent("increase(llm_probes_total[W])"),
        "How many probes ended with each result within the recent window. The window is 10 minutes for a module with an interval of up "
        "to 150 s, 20 minutes for up to 5 minutes, an hour for up to 15 minutes, else 6 hours. One window for all would hold too few "
        "probes of a slow module, or be late with a fast one. The interval is the one that holds now: the budget may stretch 60 s to "
        "240 s for a slow server.",
    ),
    Recording(
        RECENT,
        f"(\n{_recent(f'quantile_over_time(0.5, {SPEED}[W])')}\n)\n"
        f"and on (@module, model) last_over_time({SPEED}[3m])\n"
        f'and on (@module) ({COUNTS}{{result="ok"}} > 2.5)',
        "Median decode speed over the same window. It exists only while this model had a speed within the last 3 minutes, and while at "
        "least three probes of the window succeeded. So a dead or busy server has no recent speed, and two failed probes don't restart "
        "the clock of every alert. (The bound is 2.5, because increase() extrapolates.)",
    ),
    Recording(
        CEILING_SHARE,
        f"max by (@target, model) (\n{RECENT} / on (@module) group_left () {CEILING}\n)",
        "The speed of a server with a model, by its fastest module, as a share of what its memory allows. From 0.75 on the memory is the "
        "limit, and nothing is wrong with the setup.",
    ),
    Recording(
        USERS,
        f"quantile_over_time(0.5, {USER_SPEED}[10m])\nand on (@target) last_over_time({USER_SPEED}[3m])",
        "Median of the speed that one user got within 10 minutes. It exists only while somebody was served within the last 3 minutes.",
    ),
    Recording(
        USERS_SHARE,
        f"{USERS} / on (@target) max by (@target) ({CEILING})",
        "The speed that one user gets, as a share of what the memory allows.",
    ),
    Recording(
        TTFT_LONG,
        f"(\n{_long(f'quantile_over_time(0.5, {TTFT}[W])')}\n)\n"
        f"and on (@module, model) last_over_time({TTFT}[3m])\n"
        f'and on (@module) ({COUNTS}{{result="ok"}} > 2.5)',
        "Median time to first token over 1 hour (6 hours for slow modules), with the same conditions. It is compared with the past.",
    ),
    Recording(
        CLOCK_NOW,
        'llm_probe_clock_error_seconds / on (@module) llm_probe_phase_seconds{phase="decode"}',
        "The measurement's own error bar, as a share of the time over which the speed is taken.",
    ),
    Recording(
        CLOCK,
        f"quantile_over_time(0.5, {CLOCK_NOW}[10m])",
        "The median of that share: one probe that was read late says nothing about the others.",
    ),
    Recording(
        TTFT_WEEK,
        f"quantile_over_time(0.5, {TTFT_LONG}[7d] offset 1h)",
        "The usual time to first token of this target, module and model. A new model has no past, and so no baseline.",
        slow=True,
    ),
    Recording(
        OK_WEEK,
        'sum by (@module) (increase(llm_probes_total{result="ok"}[7d]))',
        "How many probes are in that baseline.",
        slow=True,
    ),
)

_NOT_BUSY: Final = "unless on (@target) (avg_over_time(llm_server_requests_running[10m]) >= 1)"
_ONE_STREAM: Final = "unless on (@module) (llm_probe_concurrency > 1)"
_NO_COLD_START: Final = "unless on (@module) (max_over_time(llm_probe_cold_start[10m]) == 1)"
_TRUSTED: Final = f"unless on (@module) ({CLOCK} > 0.1)"
_COUNTED: Final = "unless on (@module) (llm_probe_token_count_exact == 0)"
_SPEED_GATES: Final = (_NOT_BUSY, _ONE_STREAM, _NO_COLD_START, _TRUSTED, _COUNTED)
_SPEED_GATES_TEXT: Final = (
    "The alert is silent while users keep the server busy (on average at least one of their requests runs), and in the ten minutes "
    "after a model load. It is also silent for modules that run several streams at once, and while the measurement's own error is "
    "above 10 %. If the server does not count its tokens, the speed is an estimate, and the alert is silent too."
)
_ONE_SERVER: Final = "max by (@target, model) (\n" + "\n".join((RECENT, *_SPEED_GATES)) + "\n)"
_ACCEPTABLE: Final = f'max by (@target) ({BOUND}{{tier="acceptable"}})'
_LOW_CEILING: Final = f"(max by (@target) ({CEILING}) < {_ACCEPTABLE})"
_IDLE_IS_POOR: Final = f"(max by (@target) (\n{_ONE_SERVER}\n) < on (@target) {_ACCEPTABLE})"


def _ask(series: str, *, of_all: str = "") -> str:
    """A template that asks for a series of the server that an alert is about, or for ``of_all`` of its series."""
    labels = ("job", "instance", "target")
    wanted = f"{series}{{{','.join(f'{label}=%q' for label in labels)}}}"
    asked = f"{of_all}({wanted})" if of_all else wanted
    return f'with printf "{asked}" ' + " ".join(f"$labels.{label}" for label in labels) + " | query"


_NOT_SKIPPING: Final = f'unless on (@module) (sum by (@module) ({COUNTS}{{result=~"skipped_.*|yielded"}}) > 0)'
_PROBE_LABELS: Final = ("job", "instance", "target", "module")
_TARGET_LABELS: Final = ("job", "instance", "target")
_HOST_LABELS: Final = ("job", "instance")
_WHO: Final = "{{ $labels.target }} on {{ $labels.instance }}"
_PROBE: Final = "{{ $labels.module }} probe of " + _WHO
_CONFIG_RESULTS: Final = "auth|no_model|http_4xx"
_NO_TEXT: Final = "degenerate|foreign_answer"
_NO_ANSWER: Final = f"{_NO_TEXT}|wrong_answer"
_WRONG_FAULTS: Final[tuple[AnswerFault, ...]] = ("fact_not_recalled", "pattern_not_matched")


def _by_fault(results: str, faults: str) -> str:
    """How many probes lately ended with these results, once for each fault that was seen; ``unknown`` if none was."""
    counted = f'sum by (@module) ({COUNTS}{{result=~"{results}"}})'
    return (
        f"{counted} * on (@module) group_right () {FAULT}{{{faults}}}\n"
        f'or on (@module) label_replace({counted}, "fault", "unknown", "module", ".*")'
    )


def _named_faults(*names: AnswerFault) -> str:
    return ", ".join(f"`{name}`" for name in names)


# Known causes of nonsense in answers: the part at fault, what made the fault go away, and where that is reported.
_KNOWN_FAULTS: Final = (
    (
        "*Is it the length of the prompt?* Compare the depths `short` and `deep` of the canary. A llama.cpp built for HIP gave wrong "
        "logits on gfx1151 for each prompt longer than its micro-batch of 512. A Vulkan build on the same GPU gave right ones "
        "(ggml-org/llama.cpp#28211). In ggml-org/llama.cpp#26239 the fault went away with `-b 6144 -ub 6144`, which does not split the "
        "prompt."
    ),
    (
        "*Was the server, its image or ROCm updated?* Try the version before. Updates brought the fault in ggml-org/llama.cpp#26209 "
        "(the answer is `/` for ever, on gfx1151) and ollama/ollama#17895. In ggml-org/llama.cpp#19307 ROCm 7.1.1 had it, and 7.0 had not."
    ),
    (
        "*Is it vLLM with AITER?* Switch off one kernel at a time. `VLLM_ROCM_USE_AITER_CUSTOM_AR=0` alone was enough in "
        "ROCm/aiter#4855; ROCm/aiter#1455 says to try `VLLM_ROCM_USE_AITER_MLA=0`. vllm-project/vllm#51580 names an image whose AITER "
        "fused-MoE path gives NaN."
    ),
    (
        "*Is it an answer of another request?* Start llama-server with `--parallel 1` to see whether its slots are mixed up "
        "(ggml-org/llama.cpp#25992, ggml-org/llama.cpp#28056)."
    ),
    (
        "*Does the answer hold markers of a chat template, such as* `<|im_end|>`*?* Then the template is not the model's. llama-server uses "
        "ChatML if a file has no template, and a base model then answers with its markers (seen with llama-server b11434 and Gemma 3 "
        "270M). Use the model that is tuned for chat, or give the model's own template with `--chat-template`."
    ),
    (
        "*Does it begin only after minutes of use?* In ggml-org/llama.cpp#23577 a restart helps until the next time. Then change flash "
        "attention and the quantization of the KV cache, one at a time."
    ),
)

ALERTS: Final = (
    Alert(
        name="LLMThroughputPoor",
        severity="warning",
        summary="An LLM server is too slow to use",
        description=(
            _WHO
            + ' decodes {{ $value | printf "%.1f" }} tokens per second with {{ $labels.model }} (median of the last '
            "probes). That is below the tier acceptable, and its memory's bandwidth is not known to be the limit."
        ),
        detail=(
            "{{ "
            + _ask("llm_limit_info")
            + ' }} What limits it: {{ . | first | label "limit" }}.{{ end }}{{ '
            + _ask(CEILING, of_all="max")
            + ' }} The memory allows at most {{ . | first | value | printf "%.1f" }} tokens per second with this model.{{ end }}'
        ),
        value=_ONE_SERVER,
        op="<",
        match="on (@target) group_left ()",
        bound=_ACCEPTABLE,
        gates=(f"unless on (@target, model) ({CEILING_SHARE} > 0.75 and on (@target) {_LOW_CEILING})",),
        hold="5m",
        keep="5m",
        board="llm-target",
        panel="Decode speed",
        variables=_TARGET_LABELS,
        means=(
            "The median decode speed of one stream, by the fastest module, is below the lower bound of the tier acceptable. The bound is "
            "10 tokens per second, unless the target's configuration sets another one. A speed of exactly the bound is not below it. If "
            "the ceiling itself is below the bound, a server that reaches 75 % of it has LLMThroughputAtCeiling instead. "
            + _SPEED_GATES_TEXT
        ),
        look=(
            (
                "`llm_limit_info` names what limits the speed, as far as it is known: `offload` (`llm_target_setting_info` says what is "
                "not on the GPU), `throttling` (heat), `users`, `unknown`."
            ),
            (
                "*How far is it from the ceiling?* A `llm_decode_efficiency_ratio` below 0.5 says that something other than the memory "
                "limits decoding. If there is no ceiling, the status page says why."
            ),
            '*Is the GPU used at all?* `llm_target_setting_info{setting="compute"}` says what computes; `cpu` is the usual fault.',
            (
                '*Is AITER on, and does it work?* Look at `llm_target_setting_info{setting="aiter"}`. `off` on an Instinct MI300 or MI350 '
                "costs much of vLLM's speed; `VLLM_ROCM_USE_AITER=1` switches it on there. `no_effect` says that AITER isn't built for the "
                "GPU. On a Ryzen AI Max (gfx1151) it changes nothing or ends the engine, so leave it off."
            ),
            "A quantized model reads fewer bytes for each token: AWQ or a Q4 GGUF has about a quarter of the bytes of BF16.",
            "*Is the GPU throttled, hot, or short of memory?* The Machine dashboard shows it with the speed.",
            "*Did the model, the image or the ROCm version change when the speed fell?* The dashboards show each change as an annotation.",
            "A model that can never reach the bound needs its own tiers: `targets[].tiers`.",
        ),
    ),
    Alert(
        name="LLMUsersThroughputPoor",
        severity="warning",
        summary="The users of an LLM server get too few tokens a second",
        description=(
            _WHO
            + ' gives each of its users {{ $value | printf "%.1f" }} tokens per second (median of ten minutes). That is below the tier '
            "acceptable."
        ),
        detail=(
            "{{ "
            + _ask(SPEED, of_all="max")
            + ' }} The last probe measured {{ . | first | value | printf "%.1f" }}.{{ end }}'
        ),
        value=USERS,
        op="<",
        match="on (@target)",
        bound=_ACCEPTABLE,
        gates=(
            f"unless on (@target) {_IDLE_IS_POOR}",
            f"unless on (@target) ({USERS_SHARE} > 0.75 and on (@target) {_LOW_CEILING})",
        ),
        hold="5m",
        keep="5m",
        board="llm-target",
        panel="What users get",
        variables=_TARGET_LABELS,
        means=(
            "This alert needs no probe, so it fires also for a server that is always busy. The speed comes from the histograms of vLLM and "
            "SGLang between two status checks, without the probes' share, and from the slots of llama.cpp while the answers run. If "
            "the idle server is too slow by itself, LLMThroughputPoor (or LLMThroughputAtCeiling) fires in its place: one slow server "
            "gives one alert. The alert is silent while nobody is served."
        ),
        look=(
            (
                "*How fast is the server for one user alone?* The panel also shows the last probe's speed. If that is far higher, too "
                "many requests run at once: `llm_server_requests_running`. Allow fewer at once (vLLM `--max-num-seqs`, llama.cpp "
                "`--parallel`), or share them among machines."
            ),
            (
                "*Do long prompts hold up the answers?* vLLM's `--max-num-batched-tokens` and llama.cpp's `-ub` set how much of a prompt is "
                "computed at once."
            ),
            "Long conversations decode more slowly. The canary's speed at depth, on the dashboard, shows by how much.",
            "*Is the GPU throttled?* The Machine dashboard shows it with the speed.",
        ),
    ),
    Alert(
        name="LLMThroughputAtCeiling",
        severity="info",
        summary="An LLM server is as fast as its memory allows, which is too slow to use",
        description=(
            _WHO + " decodes at {{ $value | humanizePercentage }} of the most that its memory's bandwidth allows"
            "{{ with $labels.model }} with {{ . }}{{ end }}, and that is below the tier acceptable. A smaller or quantized model is faster: half the "
            "bytes for each token allow twice the speed."
        ),
        detail=(
            "{{ "
            + _ask(CEILING)
            + ' }} The ceiling is {{ . | first | value | printf "%.1f" }} tokens per second.{{ end }}'
        ),
        value=(
            f"(\n{CEILING_SHARE} and on (@target, model) ({_ONE_SERVER})\n)\nor on (@target)\n"
            f"({USERS_SHARE} unless on (@target) ({_ONE_SERVER}))"
        ),
        op=">",
        bound="0.75",
        gates=(f"and on (@target) {_LOW_CEILING}",),
        hold="30m",
        keep="30m",
        board="llm-target",
        panel="Decode speed",
        variables=_TARGET_LABELS,
        means=(
            "Nothing is wrong with the setup: each token reads the model's active weights once, and the memory gives no more. A 14B "
            "in BF16 reads 28 GB a token, so 256 GB/s allow 9.2 tokens per second. This alert takes the place of LLMThroughputPoor. On a "
            "server that is always busy it takes the place of LLMUsersThroughputPoor, and the speed that one user gets counts. "
            + _SPEED_GATES_TEXT
        ),
        look=(
            "Q4 and AWQ have about a quarter of the bytes of BF16, FP8 and Q8 half of them. An FP8 KV cache changes little.",
            "A mixture of experts reads only its active weights: gpt-oss-20b and Qwen3-30B-A3B decode several times as fast as a 14B.",
            "Speculative decoding gives several tokens for one read of the weights.",
            "If this speed is enough for its use, give the target its own bounds: `targets[].tiers`.",
        ),
    ),
    Alert(
        name="LLMThroughputBelowExpected",
        severity="warning",
        summary="An LLM server is slower than its setup should be",
        description=(
            _WHO
            + ' decodes {{ $value | printf "%.1f" }} tokens per second with {{ $labels.model }}, which is less than its setup should '
            "reach{{ with $labels.scenario }} (scenario {{ . }}){{ end }}."
        ),
        value=_ONE_SERVER,
        op="<",
        match="on (@target) group_left (scenario)",
        bound='min by (@target, scenario) (llm_expected_tokens_per_second{bound="min"})',
        hold="30m",
        keep="10m",
        board="llm-target",
        panel="Decode speed",
        variables=_TARGET_LABELS,
        means=(
            "The median decode speed, by the fastest module, is below the band of this setup. The label `source` of "
            "`llm_expected_tokens_per_second` says where the band comes from. `faq` is the FAQ's band, for a Ryzen AI Max+ 395 with a "
            "14B. `ceiling` is a share of what the memory allows. " + _SPEED_GATES_TEXT
        ),
        look=(
            (
                "*Is the recognised scenario right?* It is a label of `llm_expected_tokens_per_second`. If it is wrong, set "
                "`targets[].scenario`."
            ),
            "*Is the hardware right?* `targets[].hardware` overrides what was read from the machine.",
            (
                "Compare the speed with the ceiling (memory bandwidth ÷ bytes per token). An efficiency far below 0.5 says that "
                "something other than the memory limits decoding."
            ),
        ),
    ),
    Alert(
        name="LLMSlowerSinceChange",
        severity="warning",
        summary="An LLM server is slower since something changed",
        description=(
            "The "
            + _PROBE
            + " measures {{ $value | humanizePercentage }} of the {{ $labels.phase }} speed from before a change: {{ $labels.what }} changed "
            "from {{ $labels.before }} to {{ $labels.after }}."
        ),
        value=f'{SLOWDOWN}{{cause="change"}}',
        op="<",
        bound="1",
        hold="1m",
        keep="0s",
        board="llm-target",
        panel="Speed since then",
        variables=_PROBE_LABELS,
        means=(
            "A watched fact changed (image, version, model, weights, ROCm, driver, kernel, launch setting …). The good probes since then "
            "are slower than those before, by more than the noise of both, in decode or in the prefill of long prompts. The median of 3, "
            "5, 10, 30 or more probes is compared with that of up to 60 probes before. Cold starts, probes at the same time as users and "
            "estimated speeds don't count. If several facts changed within ten minutes, or with too few probes between them, all of "
            "them are named. The alert ends when the speed is back, when somebody accepts the new speed, or after 30 days."
        ),
        look=(
            "`llm-probe-exporter changes` lists the change with the speeds before and since, and the interval of the ratio.",
            "`llm-probe-exporter compare TARGET@yesterday TARGET@1h` compares two times, and names every fact that differs.",
            "After you undo the change, the alert ends by itself.",
        ),
    ),
    Alert(
        name="LLMSlowerUnexplained",
        severity="warning",
        summary="An LLM server is slower, and nothing that is watched changed",
        description=(
            "The "
            + _PROBE
            + " measures {{ $value | humanizePercentage }} of the {{ $labels.phase }} speed from before. Nothing that is watched changed."
            "{{ if $labels.what }} At that time: {{ $labels.what }} from {{ $labels.before }} to {{ $labels.after }}.{{ end }}"
        ),
        value=f'{SLOWDOWN}{{cause="unexplained"}}',
        op="<",
        bound="1",
        hold="1m",
        keep="0s",
        board="llm-target",
        panel="Speed since then",
        variables=_PROBE_LABELS,
        means=(
            "The speed of decoding, or of the prefill of long prompts, fell in one step that no watched fact explains. A CUSUM over the "
            "good probes finds the step, usually in 8 to 15 probes. A comparison of the medians before and since confirms it. The alert "
            "ends when the speed is back, when somebody accepts the new speed, or after 30 days."
        ),
        look=(
            "The Machine dashboard shows temperature, power, clocks and memory at that time.",
            "*Did something change that is not watched?* Think of a library in the same image, a BIOS setting, the power supply.",
            "If the new speed is the usual one from now on, accept it: `llm-probe-exporter changes --accept`.",
        ),
    ),
    Alert(
        name="LLMTTFTRegressed",
        severity="warning",
        summary="An LLM server takes much longer to the first token than in the week before",
        description=(
            _WHO + ' takes {{ $value | printf "%.1f" }} times its median of seven days to the first token with '
            "{{ $labels.model }} ({{ $labels.module }} probe)."
        ),
        value=f"{TTFT_LONG} / on (@module, model) {TTFT_WEEK}",
        op=">",
        bound="2",
        gates=(
            f"and on (@module, model) ({TTFT_LONG} > 0.5)",
            f"and on (@module) ({OK_WEEK} > 200)",
            _NOT_BUSY,
            _ONE_STREAM,
            _NO_COLD_START,
        ),
        hold="30m",
        keep="1h",
        board="llm-target",
        panel="Time to first token",
        variables=_PROBE_LABELS,
        means=(
            "The median time to first token of the last hour is more than twice the median of the seven days before. It is also above "
            "half a second, because a few milliseconds may double by noise. Every prompt starts with fresh words, so a prefix cache doesn't "
            "explain it. The alert is silent while users keep the server busy, and after a model load."
        ),
        look=(
            (
                "*Which phase became longer?* The Target dashboard shows resolve, connect, TLS, queue, first token and decode. `queue` is the "
                "probe's wait for its turn in the exporter, and not the server's queue."
            ),
            "*Did prefill become slower, or do requests wait in the server's queue?* The Target dashboard shows both.",
        ),
    ),
    Alert(
        name="LLMAnswersDegenerate",
        severity="critical",
        summary="An LLM server answers with nonsense",
        description=(
            "Answers to the "
            + _PROBE
            + " are nonsense or belong to another request, however fast they come: {{ $labels.fault }}. The status page and "
            "/api/v1/probes say what repeats."
        ),
        value=_by_fault(_NO_TEXT, f'fault!~"{"|".join(_WRONG_FAULTS)}"'),
        op=">",
        bound="0.5",
        gates=(
            f'and on (@module) (llm_probe_success == 0 or on (@module) (sum by (@module) ({COUNTS}{{result=~"{_NO_TEXT}"}}) > 2.5))',
        ),
        hold="2m",
        keep="5m",
        board="llm-target",
        panel="Answers",
        variables=_PROBE_LABELS,
        means=(
            "With the result `degenerate`, the answer is one thing repeated, reserved tokens, broken characters, letters of many scripts in "
            "one word, or white space. With `foreign_answer`, it holds a made-up name from another request of this exporter: the server "
            "mixes requests up, and users may get each other's answers. Such a probe has no speed. The alert fires when the newest answer "
            "is such an answer, or when three recent ones were. Each `fault` seen recently gives one alert; the fault is `unknown` if Prometheus "
            "has scraped none. The exporter keeps made-up names as hashes and keeps no answer, so metrics and alerts hold no text of "
            "one. The faults: " + _named_faults(*(each for each in FAULTS if each not in _WRONG_FAULTS)) + "."
        ),
        look=_KNOWN_FAULTS,
    ),
    Alert(
        name="LLMAnswersWrong",
        severity="warning",
        summary="An LLM server's answers are wrong",
        description=(
            "The last two answers to the "
            + _PROBE
            + " were wrong, though the server answers as fast as ever: {{ $labels.fault }}. The status page says which."
        ),
        value=_by_fault("wrong_answer", f'fault=~"{"|".join(_WRONG_FAULTS)}"'),
        op=">",
        bound="1.5",
        gates=("and on (@module) (llm_probe_success == 0)",),
        hold="1m",
        keep="5m",
        board="llm-target",
        panel="Answers",
        variables=_PROBE_LABELS,
        means=(
            "The canary puts a fact at the beginning of a prompt, and asks for it at the end. The model recalled the fact in a short prompt, "
            "and not in a long one; a second try with another fact gave the same. Or an answer did not match the `expect` of a module. A "
            "model that recalls nothing even in the short prompt is `undecided`, and never wrong. The alert fires when two answers in the "
            "recent window were wrong, and the newest one is. The faults: " + _named_faults(*_WRONG_FAULTS) + "."
        ),
        look=(
            "*Does it happen at a smaller* `depth` *too?* Set `modules.canary.depth` to 600, 1024 and 4096 to see where it begins.",
            "LLMAnswersDegenerate lists known faults of servers and what made them go away. The same faults give wrong answers.",
        ),
    ),
    Alert(
        name="LLMModelChangedSilently",
        severity="info",
        summary="Another model answers under the same name",
        description=(
            "The first-token log-probabilities of "
            + _WHO
            + ' are {{ $value | printf "%.0f" }} times their noise away from what they were: its answers changed, though its name did not.'
        ),
        value="llm_answer_fingerprint_distance",
        op=">",
        bound="6",
        hold="0s",
        keep="0s",
        board="llm-target",
        panel="Fingerprint of the model",
        variables=_PROBE_LABELS,
        means=(
            "Once an hour the exporter reads the log-probabilities of one token after each of five fixed prompts. Their distance from the "
            "mean of earlier readings is given in units of their own noise. A distance above 6 was read three times. It means that another "
            "model, quantization, KV cache type or kernel answers under the same name and version. After a day the exporter takes the new "
            "readings as the usual ones, and the alert ends. A server without log-probabilities has no such series."
        ),
        look=(
            "*Was a model file replaced, or was the server started with other switches?* See the annotations of the Target dashboard.",
            "If nothing was changed on purpose, treat it as a fault. Compare the canary's verdicts and the speed before and after.",
        ),
    ),
    Alert(
        name="LLMProbeFailing",
        severity="critical",
        summary="Probes of an LLM server fail",
        description=(
            "The "
            + _PROBE
            + ' failed {{ $value | printf "%.0f" }} times lately and the newest one failed too, although the server answers its '
            "health check."
        ),
        value=f'sum by (@module) ({COUNTS}{{result!~"ok|skipped_.*|yielded|loading|{_CONFIG_RESULTS}|{_NO_ANSWER}"}})',
        op=">",
        bound="2.5",
        gates=(
            "and on (@module) (llm_probe_success == 0)",
            "unless on (@target) (llm_target_up == 0)",
        ),
        hold="2m",
        keep="5m",
        board="llm-target",
        panel="Results of probes",
        variables=_PROBE_LABELS,
        means=(
            "At least three probes failed within the recent window, and the last probe that ran failed. Skipped probes don't count, and "
            "neither do probes of a server that is loading its model. Errors of configuration are LLMProbeMisconfigured, a server that is "
            "down is LLMTargetDown, nonsense and wrong answers are LLMAnswersDegenerate and LLMAnswersWrong."
        ),
        look=(
            (
                "The panel shows the `result` of each probe. `timeout_first_token`: the server hangs. `timeout_stalled`: its stream stopped. "
                "`truncated`: the stream had no end. `server_error`: an error came in the stream. `http_5xx`: the server's log has the "
                "reason."
            ),
            (
                "The exporter's status page shows the last failures, each with its reason and its log. `llm-probe-exporter probe URL` sends a "
                "probe by hand."
            ),
            "*Does the GPU hang, or is the memory full?* See the Machine dashboard and `dmesg`.",
        ),
    ),
    Alert(
        name="LLMProbeMisconfigured",
        severity="warning",
        summary="An LLM server refuses the probe's requests",
        description=(
            "The "
            + _PROBE
            + ' was refused {{ $value | printf "%.0f" }} times lately: a wrong key, a model that is not served, or a request '
            "that the server does not accept."
        ),
        value=f'sum by (@module) ({COUNTS}{{result=~"{_CONFIG_RESULTS}"}})',
        op=">",
        bound="2.5",
        gates=("and on (@module) (llm_probe_success == 0)",),
        hold="5m",
        keep="5m",
        board="llm-target",
        panel="Results of probes",
        variables=_PROBE_LABELS,
        means="The server works, but answers with 401, 403, 404 or another 4xx: the configuration of the target does not fit the server.",
        look=(
            "With the result `auth`: does `targets[].api_key_file` hold the right key?",
            (
                "With `no_model`: is `targets[].model` among the models that the server lists? A server that lists several models, and does not "
                "say which one is in memory, needs `targets[].model`."
            ),
            "With `http_4xx`: is `targets[].backend` right? `llm-probe-exporter probe URL` prints the answer.",
        ),
    ),
    Alert(
        name="LLMTargetDown",
        severity="critical",
        summary="An LLM server is down",
        description=_WHO + " does not answer its health check and does not say that it is loading a model.",
        value="llm_target_up",
        op="<",
        bound="1",
        gates=("unless on (@target) (llm_target_loading == 1)",),
        hold="5m",
        keep="2m",
        board="llm-target",
        panel="Verdict over time",
        variables=_TARGET_LABELS,
        means=(
            "The health check has failed for five minutes. The alert is silent while the server says that it loads a model, and while its "
            "container or process is younger than `targets[].start_window` (20 minutes), because vLLM compiles before it listens. A server "
            "that was started three times without ever answering is down."
        ),
        look=(
            "*Does the container or the process run?* Look at `docker ps`, `docker logs` or `journalctl`.",
            "The usual reason is that the memory was full while the model loaded. See the GPU's memory on the Machine dashboard.",
            "*Is the exporter in a container with its own network?* There `localhost` is that container, and not the host.",
        ),
    ),
    Alert(
        name="LLMServerStuck",
        severity="critical",
        summary="An LLM server hangs: requests run, and no token comes",
        description=_WHO
        + " has had requests for four minutes and has done no work on them, though it answers its health check.",
        value="llm_target_stuck",
        op=">",
        bound="0",
        gates=("unless on (@target) (llm_target_up == 0)",),
        hold="0s",
        keep="2m",
        board="llm-target",
        panel="State of the server",
        variables=_TARGET_LABELS,
        means=(
            "Requests run or wait, and for four minutes the server has counted no work on them: no generated token, no prompt token, no "
            "step. (A long prompt counts as work.) Probes are skipped because the server looks busy, so no other alert reports the hang. A "
            "server without counters (Ollama) has no such series; there LLMProbeFailing reports a hang."
        ),
        look=(
            "Restart the server (`docker restart`, `systemctl restart`): an engine that hangs does not recover.",
            (
                "Look in `dmesg` and in the server's log for a GPU reset, a page fault of amdgpu, or an engine that ended while its API server "
                "went on."
            ),
            "*Does the GPU still work?* An `amdgpu_busy_ratio` of 0, or of 1 without any token, is a hang of the runtime.",
            (
                "In vLLM, a request that waits for ever may need more KV cache than there is. See `llm_server_kv_cache_usage_ratio` and "
                "`--max-model-len`."
            ),
            (
                "On Strix Halo, MES firmware 0x83 and kernels before 6.18.4 are known to hang. The Machine dashboard shows both versions."
            ),
        ),
    ),
    Alert(
        name="LLMTargetLoadingLong",
        severity="warning",
        summary="An LLM server has been loading its model for very long",
        description=_WHO + " has been loading its model or starting for half an hour.",
        value="llm_target_loading",
        op=">",
        bound="0",
        hold="30m",
        keep="0s",
        board="llm-target",
        panel="Verdict over time",
        variables=_TARGET_LABELS,
        means="LLMTargetDown and LLMProbeFailing are silent while a server loads its model. This alert reports a load that does not end.",
        look=(
            (
                "*Is a model being downloaded?* The Model cache dashboard shows incomplete downloads, and whether the container shares the "
                "host's cache."
            ),
            "*Is the disk slow or full, or is the model larger than the memory?* The server's log says which.",
        ),
    ),
    Alert(
        name="LLMProbeStale",
        severity="warning",
        summary="An LLM server is no longer probed",
        description="The " + _PROBE + ' last ran {{ $value | printf "%.0f" }} intervals ago.',
        value="(time() - llm_probe_last_run_timestamp_seconds) / on (@module) llm_probe_interval_seconds",
        op=">",
        bound="3",
        gates=(_NOT_SKIPPING,),
        hold="5m",
        keep="0s",
        board="llm-exporter",
        panel="Age in intervals",
        variables=_HOST_LABELS,
        means=(
            "The module last ran more than three intervals ago, and its probes were not skipped on purpose. The speeds on the dashboards are "
            "old."
        ),
        look=(
            (
                "*Is the scheduler late?* `llm_probe_exporter_schedule_delay_seconds` shows it. Then there are too many targets, or the machine has "
                "no CPU time left."
            ),
            "*Was the machine suspended, or was its clock set?* The exporter's log says so.",
            "The exporter's log and `/-/healthy` say whether its scheduler runs.",
        ),
    ),
    Alert(
        name="LLMNeverProbed",
        severity="warning",
        summary="An LLM server is configured but was never probed",
        description="The " + _PROBE + " has not been tried once since the exporter started.",
        value="llm_probe_interval_seconds unless on (@module) (sum by (@module) (llm_probes_total) > 0)",
        op=">",
        bound="0",
        gates=("and on (@module) (llm_probe_interval_seconds <= <10m> or llm_probe_interval_seconds offset 6h)",),
        hold="15m",
        keep="0s",
        board="llm-exporter",
        panel="Age in intervals",
        variables=_HOST_LABELS,
        means="Since the exporter started, no probe of this module has ended or been skipped. LLMProbeStale needs a first run to compare with.",
        look=(
            "`llm-probe-exporter check-config FILE` and the exporter's log name errors of the configuration.",
            "Only one probe of a server runs at a time. Is another one always running, or is the budget too small for a single probe?",
        ),
    ),
    Alert(
        name="LLMProbeStarved",
        severity="info",
        summary="An LLM server is too busy to be probed",
        description=(
            "The "
            + _PROBE
            + ' was skipped {{ $value | printf "%.0f" }} times in an hour because users kept the server busy, and never succeeded.'
        ),
        value='sum by (@module) (increase(llm_probes_total{result="skipped_busy"}[1h]))',
        op=">",
        bound="0",
        gates=(
            'unless on (@module) (sum by (@module) (increase(llm_probes_total{result="ok"}[1h])) > 0)',
            "and on (@module) (llm_probe_interval_seconds <= <15m>)",
        ),
        hold="30m",
        keep="0s",
        board="llm-target",
        panel="Load and throughput",
        variables=_PROBE_LABELS,
        means="This is not a fault: probes are skipped while users keep the server busy. The panel *What users get* shows their speed.",
        look=(
            (
                "To measure under load too, set `when_busy: probe` or a smaller `max_skips` in the module. Such speeds are those of a server "
                "that is shared."
            ),
        ),
    ),
    Alert(
        name="LLMProbeExporterDown",
        severity="critical",
        summary="An LLM probe exporter cannot be scraped",
        description="Prometheus cannot scrape the exporter {{ $labels.instance }}: nothing is known of its servers.",
        value="up{@job}",
        op="<",
        bound="1",
        exporter_answers=False,
        hold="5m",
        keep="0s",
        board="llm-exporter",
        panel="Exporters up",
        variables=_HOST_LABELS,
        means="The exporter's process, its machine or the network to it is down.",
        look=(
            "*Does the service run?* Look at `systemctl status llm-probe-exporter` or `docker ps`.",
            "*Can Prometheus reach port 9937 of that machine?* Its page of targets shows the error.",
        ),
    ),
    Alert(
        name="LLMProbeExporterAbsent",
        severity="critical",
        summary="No LLM probe exporter is known to Prometheus",
        description="Prometheus has no target in the job {{ $labels.job }}: LLM servers are not watched at all.",
        value="absent(up{@job})",
        op=">",
        bound="0",
        exporter_answers=False,
        hold="15m",
        keep="0s",
        board="llm-exporter",
        panel="Exporters up",
        variables=("job",),
        means=(
            "The job is not in Prometheus' configuration or discovery any more, or it has another name. LLMProbeExporterDown reports an "
            "exporter that is down."
        ),
        look=(
            "*Is the job in* `prometheus.yml`*, under the name that these rules were built for?* `--job` of `grafana.build` sets the name.",
        ),
    ),
    Alert(
        name="LLMProbeConfigReloadFailed",
        severity="warning",
        summary="An LLM probe exporter rejected its configuration",
        description="The exporter {{ $labels.instance }} could not reload its configuration; the previous one stays in use.",
        value="max_over_time(llm_probe_exporter_config_last_reload_successful[5m])",
        op="<",
        bound="1",
        hold="5m",
        keep="0s",
        board="llm-exporter",
        panel="Configuration reload",
        variables=_HOST_LABELS,
        means="The last reload found errors, and changed nothing. The next start would fail.",
        look=("`llm-probe-exporter check-config FILE` prints all errors at once, each with its path and line.",),
    ),
    Alert(
        name="LLMProbeCollectorFailing",
        severity="warning",
        summary="Part of an LLM probe exporter cannot read its source",
        description="The collector {{ $labels.collector }} of {{ $labels.instance }} has been failing.",
        value="max_over_time(llm_probe_exporter_collector_success[15m])",
        op="<",
        bound="1",
        hold="15m",
        keep="0s",
        board="llm-exporter",
        panel="Collectors",
        variables=_HOST_LABELS,
        means="The exporter can't read a source of facts, so the metrics of that source are absent. A source that is switched off does not fail.",
        look=(
            "The exporter's log names the file or socket and the reason.",
            "A cache in a home folder needs read permission. Docker needs access to its socket, or to a socket proxy.",
        ),
    ),
    Alert(
        name="LLMProbeMeasurementDegraded",
        severity="info",
        summary="The measured speed of an LLM server is not reliable",
        description=(
            "The measurement error of the "
            + _PROBE
            + " is {{ $value | humanizePercentage }} of its decode time. Speed alerts of this probe are silent."
        ),
        value=CLOCK,
        op=">",
        bound="0.1",
        hold="15m",
        keep="5m",
        board="llm-exporter",
        panel="Measurement error",
        variables=_HOST_LABELS,
        means="The exporter read the answer so late after its arrival that the speed may be wrong by more than 10 %.",
        look=(
            "*Does the exporter's machine have no CPU time left, or does a CPU quota limit the service?*",
            "Over TLS the kernel gives no arrival times, so the error grows with the load of the machine.",
        ),
    ),
    Alert(
        name="LLMProbeStreamBuffered",
        severity="info",
        summary="The answer of an LLM server arrives in one burst",
        description="The answer to the " + _PROBE + " arrives in a burst: its decode speed cannot be measured.",
        value="llm_probe_stream_buffered",
        op=">",
        bound="0",
        hold="15m",
        keep="5m",
        board="llm-target",
        panel="How it was measured",
        variables=_PROBE_LABELS,
        means="A proxy between the server and the exporter buffers the stream, or the server sends its answer all at once.",
        look=(
            "`llm-probe-exporter probe URL`, with the address of the server itself, shows whether the proxy is the reason.",
        ),
    ),
    Alert(
        name="LLMProbeScheduleLate",
        severity="info",
        summary="An LLM probe exporter starts its jobs late",
        description='The exporter {{ $labels.instance }} started its last job {{ $value | printf "%.0f" }} seconds late.',
        value="min_over_time(llm_probe_exporter_schedule_delay_seconds[10m])",
        op=">",
        bound="30",
        hold="15m",
        keep="0s",
        board="llm-exporter",
        panel="Lateness of the last job",
        variables=_HOST_LABELS,
        means="Jobs start more than half a minute late: there are too many targets for this machine, or jobs hang.",
        look=("*Do all probes wait for a timeout? Does the machine have no CPU time or memory left?*",),
    ),
    Alert(
        name="LLMModelCacheDiskFilling",
        severity="warning",
        summary="The file system of a model cache will be full within a day",
        description=(
            "The file system {{ $labels.mountpoint }} on {{ $labels.instance }} has {{ $value | humanizePercentage }} left and, "
            "at the pace of the last six hours, is full within a day."
        ),
        value="llm_model_cache_filesystem_free_bytes / on (job, instance, mountpoint) llm_model_cache_filesystem_size_bytes",
        op="<",
        bound="0.15",
        gates=(
            "and on (job, instance, mountpoint) (predict_linear(llm_model_cache_filesystem_free_bytes[6h], <24h>) < 0)",
        ),
        hold="1h",
        keep="0s",
        board="llm-cache",
        panel="Free space",
        variables=_HOST_LABELS,
        means=(
            "Less than 15 % is free, and by the trend of the last six hours nothing is left within 24 hours. Both must hold for an hour, so "
            "that one large download gives no alert."
        ),
        look=(
            "The Model cache dashboard lists models by size and last use.",
            "You can remove incomplete downloads. `llm-probe-exporter cache` names them, and deletes nothing.",
        ),
    ),
    Alert(
        name="LLMModelCacheDiskFull",
        severity="critical",
        summary="The file system of a model cache is full",
        description="The file system {{ $labels.mountpoint }} on {{ $labels.instance }} has {{ $value | humanizePercentage }} left.",
        value="llm_model_cache_filesystem_free_bytes / on (job, instance, mountpoint) llm_model_cache_filesystem_size_bytes",
        op="<",
        bound="0.03",
        hold="15m",
        keep="0s",
        board="llm-cache",
        panel="Free space",
        variables=_HOST_LABELS,
        means="Less than 3 % is free: the next download fails, and soon other programs on that file system fail too.",
        look=("Make room now, in the ways that LLMModelCacheDiskFilling names.",),
    ),
    Alert(
        name="LLMModelDownloadStuck",
        severity="info",
        summary="A model download has stopped",
        description=(
            "{{ $value | humanize }}B of incomplete downloads in the {{ $labels.cache }} cache on {{ $labels.instance }} "
            "have not changed for more than two hours."
        ),
        value="llm_model_cache_incomplete_bytes",
        op=">",
        bound="0",
        gates=(
            (
                "and on (job, instance, cache) (max_over_time(llm_model_cache_incomplete_bytes[2h]) == "
                "min_over_time(llm_model_cache_incomplete_bytes[2h]))"
            ),
            "and on (job, instance, cache) (llm_model_cache_incomplete_bytes offset 2h > 0)",
        ),
        hold="30m",
        keep="0s",
        board="llm-cache",
        panel="Incomplete downloads",
        variables=_HOST_LABELS,
        means="A download hangs, or it was interrupted and left partial files. (The size of a running download grows.)",
        look=(
            "`llm_model_cache_model_complete == 0` names the model. Start the download again, which resumes it, or delete the partial files.",
        ),
    ),
    Alert(
        name="LLMRocmBelowMinimum",
        severity="warning",
        summary="A ROCm version is below the minimum",
        description=(
            "ROCm of the {{ $labels.scope }} {{ $labels.container }} on {{ $labels.instance }} is below the configured minimum."
        ),
        value="rocm_version_supported",
        op="<",
        bound="1",
        hold="10m",
        keep="0s",
        board="llm-machine",
        panel="ROCm versions",
        variables=_HOST_LABELS,
        means=(
            "`host.minimum_rocm` sets the minimum; 7.0 is AMD's minimum for current hardware. The host brings the kernel driver, a container "
            "its own user space. A machine has no such series and no alert if it has no ROCm, or if no release from 7 on "
            "supports its GPU. The same holds if its servers compute with something else (Vulkan)."
        ),
        look=(
            "Update ROCm on the host, or the container's image. The panel lists each version, and where it was read.",
        ),
    ),
    Alert(
        name="LLMModelCacheNotShared",
        severity="info",
        summary="A container does not share the host's model cache",
        description=(
            "The container {{ $labels.container }} on {{ $labels.instance }} does not mount the host's {{ $labels.cache }} model "
            "cache: it downloads models again."
        ),
        value="llm_model_cache_shared",
        op="<",
        bound="1",
        hold="1h",
        keep="0s",
        board="llm-cache",
        panel="Shares the cache",
        variables=_HOST_LABELS,
        means="This may be intended. Otherwise each new container downloads tens of gigabytes that are on the host already.",
        look=(
            "In the container, the path is that of `HF_HOME`, or `~/.cache/huggingface` of the user that runs the server.",
        ),
    ),
    Alert(
        name="LLMGPUThrottling",
        severity="info",
        summary="A GPU is too hot and lowers its clocks",
        description=(
            "GPU {{ $labels.gpu }} of {{ $labels.instance }} was throttled by heat for {{ $value | humanizePercentage }} of the "
            "last quarter of an hour."
        ),
        value='avg_over_time(amdgpu_throttled{reason="thermal"}[15m])',
        op=">",
        bound="0.5",
        hold="10m",
        keep="5m",
        board="llm-machine",
        panel="Throttled",
        variables=_HOST_LABELS,
        means=(
            "Heat lowers the GPU's clocks. A power limit lowers them too, at full load on every healthy GPU, so only heat gives an alert. The "
            "panel shows all reasons. Some firmwares report heat at rest; such bits are left out if the temperature says otherwise."
        ),
        look=(
            "The Machine dashboard shows temperature, power and the power limit. Check fans, dust and the board's power profile.",
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Inhibition:
    """While ``source`` fires, alerts that match ``targets`` (a regular expression) with the same labels stay quiet."""

    source: str
    targets: str
    equal: tuple[str, ...]


_SPEED_ALERTS: Final = "LLMThroughput.*|LLMUsersThroughputPoor|LLMSlower.*|LLMTTFTRegressed"
INHIBITIONS: Final = (
    Inhibition("LLMProbeExporterAbsent", "LLM.*", ("job",)),
    Inhibition("LLMProbeExporterDown", "LLM.*", ("job", "instance")),
    Inhibition(
        "LLMTargetDown",
        f"LLMServerStuck|LLMProbeFailing|LLMProbeMisconfigured|LLMProbeStale|LLMNeverProbed|LLMProbeStreamBuffered|{_SPEED_ALERTS}",
        _TARGET_LABELS,
    ),
    Inhibition("LLMServerStuck", f"LLMProbeFailing|LLMProbeStale|LLMProbeStarved|{_SPEED_ALERTS}", _TARGET_LABELS),
    Inhibition("LLMProbeFailing", _SPEED_ALERTS, _PROBE_LABELS),
    Inhibition("LLMThroughputPoor", "LLMThroughputBelowExpected|LLMUsersThroughputPoor", _TARGET_LABELS),
    # The one that names the cause.
    Inhibition("LLMSlowerSinceChange", "LLMThroughput.*|LLMUsersThroughputPoor", _TARGET_LABELS),
    Inhibition("LLMModelCacheDiskFull", "LLMModelCacheDiskFilling", ("job", "instance", "mountpoint")),
)
