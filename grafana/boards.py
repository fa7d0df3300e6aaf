"""The eight dashboards."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

from exporter.settings import load_profiles
from grafana.alerts import BOUND, COUNTS
from grafana.panels import (
    DURATION,
    IDENTITY_COLORS,
    TIER_COLORS,
    TOKENS_PER_SECOND,
    annotation,
    bar_gauge,
    custom_variable,
    dashboard,
    dashed,
    fixed,
    heatmap,
    named,
    override,
    query,
    row,
    stat,
    state_timeline,
    table,
    tier_lines,
    timeseries,
    values,
    variable,
)
from grafana.promql import expand

# The verdicts on a change have no metric of their own, so their ratios come from the built-in profiles.
_SUCCESS: Final = load_profiles(None).success_criteria
_MINIMUM, _GOOD, _EXCELLENT = (f"{step.ratio:g}" for step in (_SUCCESS.minimum, _SUCCESS.good, _SUCCESS.excellent))

_HOST: Final = 'job=~"$job", instance=~"$instance"'
_TARGET: Final = f'{_HOST}, target=~"$target"'
_PROBE: Final = f'{_TARGET}, module=~"$module"'
_MODEL: Final = f'{_PROBE}, model=~"$model"'


def select(metric: str, scope: str, **matchers: str) -> str:
    """A selector: ``label=`` is equal, ``label__not=`` not, ``label__in=`` and ``label__not_in=`` regular expressions."""
    operators = {"": "=", "not": "!=", "in": "=~", "not_in": "!~"}
    more = [
        f'{name}{operators[how]}"{value}"'
        for (name, _, how), value in ((key.partition("__"), value) for key, value in matchers.items())
    ]
    return f"{metric}{{{', '.join((scope, *more))}}}"


def host(metric: str, **matchers: str) -> str:
    """Within the chosen hosts."""
    return select(metric, _HOST, **matchers)


def server(metric: str, **matchers: str) -> str:
    """Within the chosen targets."""
    return select(metric, _TARGET, **matchers)


def probe(metric: str, **matchers: str) -> str:
    """Within the chosen targets and modules."""
    return select(metric, _PROBE, **matchers)


def measured(metric: str, **matchers: str) -> str:
    """Within the chosen targets, modules and models."""
    return select(metric, _MODEL, **matchers)


def _answers_by_verdict() -> list[dict[str, Any]]:
    """Overrides for series that are named after a depth and a verdict on an answer."""
    colors = {"right": "green", "(wrong|degenerate|foreign)": "red", "undecided": "#8e8e8e"}
    return [
        override("byRegexp", f"^.* {verdict}$", color={"mode": "shades", "fixedColor": color})
        for verdict, color in colors.items()
    ]


# Verdicts are numbers in order of urgency, so that a table sorts worst first; people see the names.
VERDICTS: Final[Mapping[str, tuple[str, str]]] = {
    "0": ("down", "dark-red"),
    "1": ("stuck", "dark-red"),
    "2": ("failing", "red"),
    "3": ("poor", TIER_COLORS["poor"]),
    "4": ("no speed", "#8e8e8e"),
    "5": ("not probed", "#8e8e8e"),
    "6": ("loading", "blue"),
    "7": ("busy", "purple"),
    "8": ("unloaded", "#8e8e8e"),
    "9": ("acceptable", TIER_COLORS["acceptable"]),
    "10": ("good", TIER_COLORS["good"]),
    "11": ("excellent", TIER_COLORS["excellent"]),
}
_CODE: Final = {name: int(code) for code, (name, _) in VERDICTS.items()}


def verdict() -> str:
    """What to think of each target and module now: a key of ``VERDICTS``. The first that applies wins."""
    interval = probe("llm_probe_interval_seconds")
    age = f"time() - {probe('llm_probe_last_success_timestamp_seconds')} > on (@module) 5 * {interval}"
    skipped = {
        result: f"increase({probe('llm_probes_total', result=result)}[15m]) > 0"
        for result in ("skipped_busy", "skipped_unloaded")
    }
    conditions = {
        "loading": f"on (@target) ({server('llm_target_loading')} == 1)",
        "down": f"on (@target) ({server('llm_target_up')} == 0)",
        "stuck": f"on (@target) ({server('llm_target_stuck')} == 1)",
        "failing": f"on (@module) ({probe('llm_probe_success')} == 0)",
        "busy": f"on (@module) ({age}) and on (@module) ({skipped['skipped_busy']})",
        "unloaded": f"on (@module) ({age}) and on (@module) ({skipped['skipped_unloaded']})",
        "not probed": f"on (@module) ({age})",
        **{tier: f"on (@module) ({probe('llm_performance_tier', tier=tier)} == 1)" for tier in (*TIER_COLORS,)},
    }
    parts = [f"(0 * {interval} and {condition}) + {_CODE[name]}" for name, condition in conditions.items()]
    return expand(
        "max by (@module) (\n" + "\nor on (@module)\n".join([*parts, f"0 * {interval} + {_CODE['no speed']}"]) + "\n)"
    )


def _count(*names: str) -> str:
    codes = " or ".join(f"({verdict()} == {_CODE[name]})" for name in names)
    return f"count({codes}) or 0 * count({probe('llm_probe_interval_seconds')})"


def _worst_first() -> str:
    """The verdict over time of those whose verdict is worst at the end of the shown time, as many as ``$worst`` says.

    Prometheus computes a subquery at whole multiples of its step. So with a long step a new exporter would not be shown for
    as long.
    """
    return expand(f"{verdict()} and on (@module) bottomk($worst, last_over_time(({verdict()})[1m:10s] @ end()))")


def _alerts(number: str, severity: str) -> str:
    """The firing alerts of a severity, as ``number``: with names as short as they can be, and with "about", their target if they have one."""
    firing = host("ALERTS", alertstate="firing", service="llm-probe", severity=severity)
    named = f'label_replace({number} * max by (alertname, instance, target) ({firing}), "alertname", "$1", "alertname", "LLM(.*)")'
    return _without_port(f'label_replace({named}, "about", "$1 · ", "target", "(.+)")')


# The first colour is also that of no data.
_FAULTS: Final = (("#8e8e8e", None), ("green", 0), ("red", 1))
_WARN: Final = (("#8e8e8e", None), ("green", 0), ("orange", 1))
_YES_NO: Final = values({"0": ("no", "red"), "1": ("yes", "green")})
_FLAG: Final = values({"0": ("no", "green"), "1": ("yes", "orange")})
_SLOWER: Final = {"mode": "shades", "fixedColor": "red"}
_WHO: Final = "{{target}} {{module}} · {{instance}}"
_NO_DATA: Final = "No data"
_SEVERITIES: Final = {"1": ("info", "blue"), "2": ("warning", "orange"), "3": ("critical", "red")}
_NOISE, _TOO_FEW = "-1", "-2"
"""What a comparison gives where there is no ratio to judge: no ratio is below 0."""


def _results(before: str = "") -> list[dict[str, Any]]:
    """Overrides for series that are named after results: failures are red, users' skips purple."""
    colors = {
        ".*": "red",
        "(skipped_.*|yielded)": "#8e8e8e",
        "skipped_busy": "purple",
        "loading": "blue",
        "ok": "green",
    }
    return [
        override("byRegexp", f"^{before}{result}$", color={"mode": "shades", "fixedColor": color})
        for result, color in colors.items()
    ]


def _verdict_cell(**more: Any) -> dict[str, Any]:
    return override(
        "byName", "Verdict", mappings=values(VERDICTS), custom__width=100,
        custom__cellOptions={"type": "color-background", "mode": "basic"}, **more,
    )  # fmt: skip


def _in_words(series: str, name: str) -> str:
    """A series with a label as people write it: ``memory_bandwidth`` with a space."""
    return f'label_replace({series}, "{name}", "$1 $2", "{name}", "(.*)_(.*)")'


def _without_port(series: str) -> str:
    """A series whose host has no port: a name for an axis or a screen."""
    return f'label_replace({series}, "instance", "$1", "instance", "(.*):[0-9]+")'


def _short(series: str) -> str:
    """A series of a GPU whose host has no port, and whose address no domain of 0."""
    return _without_port(f'label_replace({series}, "gpu", "$1", "gpu", "0000:(.*)")')


def _link(title: str, uid: str, *labels: str) -> dict[str, Any]:
    """A link to a dashboard that carries the row's labels, the data source and the time."""
    carried = "".join(
        f"&var-{label}=${{__data.fields.{heading}}}" for label, heading in (pair.split("=") for pair in labels)
    )
    return {
        "title": title,
        "url": f"/d/{uid}?${{__url_time_range}}&${{datasource:queryparam}}{carried}",
        "targetBlank": False,
    }


def _series_link(title: str, uid: str, *labels: str) -> dict[str, Any]:
    carried = "".join(f"&var-{label}=${{__field.labels.{label}}}" for label in labels)
    return {
        "title": title,
        "url": f"/d/{uid}?${{__url_time_range}}&${{datasource:queryparam}}{carried}",
        "targetBlank": False,
    }


_TO_TARGET: Final = _series_link("Open this target", "llm-target", "job", "instance", "target", "module")


def _variables(*, many: bool = True, module: str = "") -> list[dict[str, Any]]:
    chosen = variable("module", "module", f"label_values(llm_probe_interval_seconds{{{_TARGET}}}, module)", multi=many)
    if module:
        chosen["current"] = {"text": [module], "value": [module]} if many else {"text": module, "value": module}
    return [
        *_host_variables(),
        variable("target", "target", f"label_values(llm_probe_interval_seconds{{{_HOST}}}, target)", multi=many),
        chosen,
        variable("model", "model", f"label_values(llm_probe_tokens_per_second{{{_PROBE}}}, model)"),
    ]


def _host_variables() -> list[dict[str, Any]]:
    return [
        variable("job", "job", "label_values(llm_probe_exporter_build_info, job)"),
        variable("instance", "instance", 'label_values(llm_probe_exporter_build_info{job=~"$job"}, instance)'),
    ]


def _changed(series: str, labels: str, *, watched: str = "") -> str:
    """Above 0 for two minutes after a combination of labels first appears beside an older one of the same thing.

    ``watched``: for what has no series until something happens, a series of the same thing that was there before. Without it,
    the first scrape would mark what changed long ago, and so would the first one after an outage.
    """
    by = labels.replace(" ", "").split(",")
    same = ", ".join(label for label in by if label in ("job", "instance", "target", "container", "scope"))
    now = f"count by ({labels}) ({series})"
    before = [f"count by ({labels}) ({series} offset {ago})" for ago in ("2m", "10m")]
    there = f"count by ({same}) ({watched} offset 2m)" if watched else f"count by ({same}) ({series} offset 10m)"
    return f"({now} unless {before[0]} unless {before[1]}) and on ({same}) {there}"


def _annotations() -> list[dict[str, Any]]:
    changes, slower = server("llm_last_change_info"), server("llm_slowdown_speed_ratio")
    return [
        annotation(
            "Something changed",
            _changed(changes, "job, instance, target, what, before, after", watched=server("llm_target_up")),
            "blue",
            "{{target}} on {{instance}}: {{what}} changed",
            "{{what}} changed from {{before}} to {{after}}",
        ),
        annotation(
            "Slower",
            _changed(
                slower,
                "job, instance, target, module, phase, cause, what, before, after",
                watched=server("llm_target_up"),
            ),
            "red",
            "{{target}} on {{instance}} is slower",
            "{{phase}} by the {{module}} probe; {{cause}}: {{what}} {{before}} {{after}}",
        ),
        annotation(
            "ROCm changed",
            _changed(host("rocm_version_info"), "job, instance, scope, container, version"),
            "purple",
            "ROCm of {{scope}} {{container}} on {{instance}} is now {{version}}",
        ),
        annotation(
            "Configuration reloaded",
            f"changes({host('llm_probe_exporter_config_last_reload_success_timestamp_seconds')}[2m]) > 0",
            "green",
            "{{instance}} reloaded its configuration",
            enable=False,
        ),
    ]


def _tier_queries() -> list[dict[str, Any]]:
    return [query(f"max({probe(BOUND, tier=tier)})", f"{tier} from") for tier in ("excellent", "good", "acceptable")]


def _overview() -> dict[str, Any]:
    speed = timeseries(
        "Decode speed",
        "Decode speed of one stream, as a client sees it. Dashed lines: the lower bounds of the tiers, from the exporter's configuration "
        "(the highest ones, where targets differ). A server below the lowest line is too slow to use. Each line of the grid is twice the "
        "line below it. In a gap nothing was measured. Metric: llm_probe_tokens_per_second.",
        [query(measured("llm_probe_tokens_per_second"), _WHO), *_tier_queries()],
        unit=TOKENS_PER_SECOND, logarithmic=True, identified=True, overrides=tier_lines(), links=[_TO_TARGET], size=(12, 10),
    )  # fmt: skip
    ttft = timeseries(
        "Time to first token",
        "From the request to the first generated text. If it jumps while the speed stays, prefill is slower, or requests wait in a queue. "
        "Metric: llm_probe_ttft_seconds.",
        [query(measured("llm_probe_ttft_seconds"), _WHO)],
        unit="s", identified=True, links=[_TO_TARGET], size=(12, 10),
    )  # fmt: skip
    panels = [
        row("Is it good?"),
        stat(
            "Servers", "Targets with a schedule. Metric: llm_probe_interval_seconds.",
            [query(expand(f"count(count by (@target) ({probe('llm_probe_interval_seconds')}))"), instant=True)],
        ),
        stat(
            "Faults", "Probes whose server is down, hangs, or answers wrongly. Look at these first.",
            [query(_count("down", "stuck", "failing"), instant=True)], thresholds=_FAULTS, background=True,
        ),
        stat(
            "Poor", "Probes whose last speed is in the tier poor, which is too slow to use. Metric: llm_performance_tier.",
            [query(_count("poor"), instant=True)], thresholds=_WARN, background=True,
        ),
        stat(
            "Other", "Probes whose server is busy with users, loads its model, has unloaded it, was not probed for five intervals, or gave no "
            "measurable speed.",
            [query(_count("busy", "loading", "unloaded", "not probed", "no speed"), instant=True)],
            thresholds=(("#8e8e8e", None), ("green", 0), ("blue", 1)), background=True,
        ),
        stat(
            "Oldest", "How long ago the last success was, of the target whose last success is oldest. "
            "Metric: llm_probe_last_success_timestamp_seconds.",
            [query(f"time() - min({probe('llm_probe_last_success_timestamp_seconds')})", instant=True)], unit=DURATION, decimals=0, no_value="not known",
        ),
        stat(
            "Alerts", "Alerts of the shipped rules that fire, except those of severity info. No data: Prometheus has not loaded the rules. "
            "Metric: ALERTS.",
            [query(f"count({host('ALERTS', alertstate='firing', service='llm-probe', severity__not='info')}) or 0 * count({host(COUNTS)})", instant=True)],
            thresholds=_FAULTS, background=True,
        ),
        table(
            "Which server, and how good",
            "The worst first. Verdict: the tier of the last speed, or why there is none. Share: speed ÷ lower bound of acceptable; a "
            "server below 100 % is poor. A click on a target opens it. Metrics: llm_performance_tier, llm_probe_tokens_per_second, "
            "llm_probe_ttft_seconds, llm_probe_last_success_timestamp_seconds.",
            [
                query(verdict(), table=True),
                query(expand(f"max by (@module, model) ({measured('llm_probe_tokens_per_second')})"), table=True),
                query(
                    expand(
                        f"max by (@module) ({measured('llm_probe_tokens_per_second')}) / on (@module) "
                        f"max by (@module) ({probe(BOUND, tier='acceptable')})"
                    ),
                    table=True,
                ),
                query(expand(f"max by (@module) ({measured('llm_probe_ttft_seconds')})"), table=True),
                query(expand(f"time() - max by (@module) ({probe('llm_probe_last_success_timestamp_seconds')})"), table=True),
            ],
            (24, 9),
            columns={
                "target": "Target", "Value #A": "Verdict", "Value #B": "Speed", "Value #C": "Share", "Value #D": "TTFT",
                "Value #E": "Age", "model": "Model", "module": "Module", "instance": "Instance",
            },
            sort=("Verdict", False),
            overrides=[
                _verdict_cell(),
                override("byName", "Target", custom__width=115, links=[
                    _link("Open this target", "llm-target", "instance=Instance", "target=Target", "module=Module")
                ]),
                override("byName", "Speed", unit=TOKENS_PER_SECOND, decimals=1, custom__width=95),
                override("byName", "Share", unit="percentunit", decimals=0, custom__width=65,
                         color={"mode": "thresholds"}, custom__cellOptions={"type": "color-text"},
                         thresholds={"mode": "absolute", "steps": [
                             {"color": "text", "value": None}, {"color": "orange", "value": 0}, {"color": "text", "value": 1}]}),
                override("byName", "TTFT", unit="s", custom__width=85),
                override("byName", "Age", unit=DURATION, decimals=0, custom__width=95, noValue="not known"),
                override("byName", "Model", custom__minWidth=230),
                override("byName", "Module", custom__width=70),
                override("byName", "Instance", custom__width=135),
            ],
            no_value=_NO_DATA,
        ),
        state_timeline(
            "Verdict over time",
            "The colour of the tier while a speed is known. Red: probes fail. Purple: users keep the server so busy that probes are "
            "skipped. Blue: the server loads a model. Grey: its model is unloaded, or nothing is known. Metrics: "
            "llm_performance_tier, llm_probe_success, llm_target_up.",
            [query(verdict(), _WHO)], (24, 8), values(VERDICTS),
        ),
        row("How fast, and what changed (blue: a change; red: slower; purple: ROCm)"),
        speed,
        ttft,
        row("Is it fresh?"),
        timeseries(
            "Age of the last success",
            "It grows while a server is busy, failing or down. Otherwise it stays near the interval. "
            "Metric: llm_probe_last_success_timestamp_seconds.",
            [
                query(
                    # The age just before each success: between two steps it goes up and down once a probe.
                    f"max_over_time((time() - {probe('llm_probe_last_success_timestamp_seconds')})[$__rate_interval:10s]) / 60",
                    _WHO,
                )
            ],
            (8, 8), unit="suffix:min", identified=True,
            links=[_TO_TARGET],
        ),
        timeseries(
            "Success of probes",
            "Share of the probes that ran; skipped ones don't count. Metric: llm_probes_total.",
            [
                query(
                    expand(
                        f"sum by (@module) (rate({probe('llm_probes_total', result='ok')}[$__rate_interval])) / on (@module) "
                        f"(sum by (@module) (rate({probe('llm_probes_total', result__not_in='skipped_.*|yielded')}[$__rate_interval])) > 0)"
                    ),
                    _WHO,
                )
            ],
            (8, 8), unit="percentunit", maximum=1, identified=True, links=[_TO_TARGET],
        ),
        timeseries(
            "Failed and skipped",
            "Probes per step of at least five minutes, by reason. Metric: llm_probes_total.",
            [query(f"sum by (target, result) (increase({probe('llm_probes_total', result__not='ok')}[$__rate_interval])) > 0.5", "{{target}} {{result}}")],
            (8, 8), bars=True, stacked=True, no_value="No data, or none failed or skipped", overrides=_results(".* "),
        ),
    ]  # fmt: skip
    return dashboard(
        "llm-overview", "LLM Overview", "Is every LLM server good? Tier, speed, time to first token, age of the results, and what changed.",
        _variables(module="default"), panels, annotations=_annotations(),
    )  # fmt: skip


def _target() -> dict[str, Any]:
    percentiles = [
        query(
            f"histogram_quantile({q}, sum by (le) (rate({measured('llm_probe_time_to_first_token_seconds_bucket')}[$__rate_interval])))",
            f"p{q * 100:g}",
        )
        for q in (0.5, 0.9, 0.99)
    ]
    gaps = [
        query(
            f"histogram_quantile({q}, sum by (le) (rate({measured('llm_probe_inter_token_seconds_bucket')}[$__rate_interval])))",
            f"p{q * 100:g}",
        )
        for q in (0.5, 0.9, 0.99)
    ]
    tier_gaps = [
        query(f"1 / max({probe(BOUND, tier=tier)})", f"{tier} from") for tier in ("excellent", "good", "acceptable")
    ]
    panels = [
        row("Is it good?"),
        stat("Verdict", "The tier of the last speed, or why there is none.", [query(verdict(), instant=True)], (6, 4),
             mappings=values(VERDICTS), background=True, no_value=_NO_DATA),
        stat("Speed", "Decode speed of the last success. Metric: llm_probe_tokens_per_second.",
             [query(measured("llm_probe_tokens_per_second"), instant=True)], (6, 4), unit=TOKENS_PER_SECOND, decimals=1, no_value="not measured"),
        stat("First token", "Metric: llm_probe_ttft_seconds.", [query(measured("llm_probe_ttft_seconds"), instant=True)], (6, 4),
             unit="s", no_value="not measured"),
        stat("Age", "Time since the last success. Metric: llm_probe_last_success_timestamp_seconds.",
             [query(f"time() - {probe('llm_probe_last_success_timestamp_seconds')}", instant=True)], (6, 4), unit=DURATION, decimals=0,
             no_value="not known"),
        stat("At depth", "Decode and prefill speed with the canary's long prompt. Metrics: llm_probe_tokens_per_second, "
             "llm_probe_prefill_tokens_per_second.",
             [query(expand(f"{server(metric)} and on (@module) {server('llm_answer_correct', depth='deep')}"), name, instant=True)
              for metric, name in (("llm_probe_tokens_per_second", "decode"), ("llm_probe_prefill_tokens_per_second", "prefill"))],
             (6, 4), unit=TOKENS_PER_SECOND, decimals=1, names=True, rows=True, no_value="not measured",
             overrides=[override("byName", "prefill", decimals=0)]),
        stat("Expected", "The band that the recognised scenario should reach. Metric: llm_expected_tokens_per_second.",
             [query(probe("llm_expected_tokens_per_second", bound=bound), bound, instant=True) for bound in ("min", "max")], (6, 4), unit=TOKENS_PER_SECOND,
             decimals=1, names=True, rows=True, no_value="not known"),
        stat("Of the ceiling", "Speed ÷ the ceiling that the memory's bandwidth sets. Where the server decodes speculatively, also the share of "
             "drafted tokens that was accepted. Metrics: llm_decode_efficiency_ratio, llm_probe_speculative_accepted_ratio.",
             [query(probe("llm_decode_efficiency_ratio"), "of the ceiling", instant=True),
              query(measured("llm_probe_speculative_accepted_ratio"), "draft accepted", instant=True)],
             (6, 4), unit="percentunit", decimals=0, names=True, rows=True, no_value="not known"),
        stat("Limit", "What limits the speed now, as far as it is known. Metric: llm_limit_info.",
             [query(_in_words(probe("llm_limit_info"), "limit"), "{{limit}}", instant=True)], (6, 4), only_names=True, no_value="not known"),
        timeseries(
            "Decode speed",
            "The speed that the client measures, and the server's own figure for the same request. Dashed lines: the lower bounds of the "
            "tiers, the expected band, and the ceiling (memory bandwidth ÷ bytes per token). Metrics: llm_probe_tokens_per_second, "
            "llm_probe_server_tokens_per_second, llm_expected_tokens_per_second, llm_decode_ceiling_tokens_per_second.",
            [
                query(measured("llm_probe_tokens_per_second"), "client"),
                query(measured("llm_probe_server_tokens_per_second"), "server says"),
                *_tier_queries(),
                query(f"max by (bound) ({probe('llm_expected_tokens_per_second')})", "expected {{bound}}"),
                query(probe("llm_decode_ceiling_tokens_per_second"), "ceiling"),
            ],
            (12, 10), unit=TOKENS_PER_SECOND, legend="right",
            overrides=[
                *tier_lines(), dashed("^expected.*", IDENTITY_COLORS[0]), dashed("^ceiling$", IDENTITY_COLORS[1]),
                override("byName", "client", color=fixed("text")),
                override("byName", "server says", color=fixed(IDENTITY_COLORS[2]), custom__lineWidth=1),
            ],
        ),
        timeseries(
            "Time to first token",
            'Percentiles of the probes within each step, and the last value. "To the answer" includes the thinking before it. Metrics: '
            "llm_probe_time_to_first_token_seconds, llm_probe_ttft_seconds, llm_probe_time_to_first_answer_seconds.",
            [
                *percentiles,
                query(measured("llm_probe_time_to_first_answer_seconds"), "last, to the answer"),
                query(measured("llm_probe_ttft_seconds"), "last"),
            ],
            (12, 10), unit="s", legend="right", overrides=named("p50", "p90", "p99", "last, to the answer", "last"),
        ),
        state_timeline("Verdict over time", "Metrics: llm_performance_tier, llm_probe_success, llm_target_up, llm_target_loading.",
                       [query(verdict(), "{{target}} {{module}}")], (24, 4), values(VERDICTS)),
        table(
            "What it is", "What the server and the machine report. More than one row: it changed within the last minutes. "
            "Metric: llm_target_info.",
            [query(server("llm_target_info"), table=True)], (24, 4),
            columns={"backend": "Backend", "backend_version": "Version", "model": "Model", "quantization": "Quantization",
                     "scenario": "Scenario", "hardware": "Hardware", "container": "Container", "image": "Image", "url": "URL"},
            overrides=[override("byName", "Version", custom__width=75),
                       override("byName", "Backend", custom__width=85), override("byName", "Model", custom__minWidth=230),
                       override("byName", "Quantization", custom__width=105), override("byName", "Scenario", custom__width=125),
                       override("byName", "Hardware", custom__width=140), override("byName", "Container", custom__width=100),
                       override("byName", "Image", custom__minWidth=160), override("byName", "URL", custom__minWidth=180)],
            no_value=_NO_DATA,
        ),
        table(
            "How it was started", "Launch settings that decide about the speed, as far as command line and environment can be read, and the GPU "
            "that serves. Metric: llm_target_setting_info.",
            [query(f"max by (job, instance, target, setting, value) ({server('llm_target_setting_info')})", table=True)], (12, 6),
            columns={"setting": "Setting", "value": "Value"},
            no_value=_NO_DATA,
        ),
        state_timeline("What limits it", "What limits the speed, as far as it is known. Memory bandwidth: this model can't be faster on this "
                       "memory. Metric: llm_limit_info.",
                       [query(_in_words(probe("llm_limit_info"), "limit"), "{{limit}}")], (12, 6), values({"1": ("limit", IDENTITY_COLORS[3])}),
                       no_value=_NO_DATA),
        row("What changed"),
        table(
            "Last change", "What was last seen to change on the target and its machine. Metric: llm_last_change_info.",
            [query(f"max by (job, instance, target, what, before, after) ({server('llm_last_change_info')})", table=True)], (10, 9),
            columns={"what": "What", "before": "Before", "after": "After"},
            overrides=[override("byName", "What", custom__minWidth=125), override("byName", "Before", custom__minWidth=115),
                       override("byName", "After", custom__minWidth=115)],
            no_value=_NO_DATA,
        ),
        timeseries(
            "Speed since then",
            "Median decode speed since the last change ÷ before it, with its interval. Where the interval includes 100 %, the difference is "
            "noise. Steps that no fact explains have lines of their own. Metrics: llm_last_change_speed_ratio, "
            "llm_last_change_speed_ratio_bound, llm_last_change_ttft_ratio, llm_last_change_prefill_ratio, llm_unexplained_change_speed_ratio, "
            "llm_slowdown_speed_ratio.",
            [
                query(server("llm_last_change_speed_ratio"), "speed {{module}}"),
                query(server("llm_last_change_speed_ratio_bound"), "speed {{bound}} {{module}}"),
                query(server("llm_last_change_ttft_ratio"), "first token {{module}}"),
                query(server("llm_last_change_prefill_ratio"), "prefill {{module}}"),
                query(server("llm_unexplained_change_speed_ratio"), "unexplained {{module}}"),
                query(server("llm_slowdown_speed_ratio"), "slower {{module}} {{phase}}: {{cause}} {{what}}"),
            ],
            (10, 9), unit="percentunit", no_value="No data", identified=True,
            overrides=[dashed("^speed (min|max) .*$", "text"), override("byRegexp", "^slower .*", color=_SLOWER)],
        ),
        stat("Since", "Time since the last change, and since the last step that no fact explains. Metrics: "
             "llm_last_change_timestamp_seconds, llm_unexplained_change_timestamp_seconds.",
             [query(f"time() - {server('llm_last_change_timestamp_seconds')}", "change", instant=True),
              query(f"time() - {server('llm_unexplained_change_timestamp_seconds')}", "unexplained, {{module}}", instant=True)],
             (4, 9), unit=DURATION, decimals=0, names=True, rows=True, no_value=_NO_DATA),
        row("Where the time goes"),
        timeseries(
            "Phases of the last probe",
            "Stacked: resolve, connect, TLS, the wait for its own turn (queue), first token, decode. Metric: llm_probe_phase_seconds.",
            [query(f"max by (phase) ({probe('llm_probe_phase_seconds', phase__not='total')})", "{{phase}}")],
            (8, 9), unit="s", stacked=True, fill=60, overrides=named("decode", "first_token", "queue", "connect", "tls", "resolve"),
        ),
        timeseries(
            "Seconds per token",
            "Percentiles of the gaps between tokens. Dashed lines: the gaps at the bounds of the tiers (1 ÷ their speed). A high p99 with a "
            "good median means that the stream stutters. Metric: llm_probe_inter_token_seconds.",
            [*gaps, *tier_gaps], (8, 9), unit="s", overrides=[*named("p50", "p90", "p99"), *tier_lines()],
        ),
        heatmap(
            "Gaps between tokens", "How the gaps are distributed. One narrow band is a steady stream. Metric: llm_probe_inter_token_seconds.",
            [query(f"sum by (le) (increase({measured('llm_probe_inter_token_seconds_bucket')}[$__rate_interval]))", "{{le}}", heatmap=True)],
            (8, 9), unit="s",
        ),
        timeseries(
            "Prefill speed",
            "Uncached prompt tokens per second, by module. The longer the prompt, the more precise: the canary's is long. Metric: "
            "llm_probe_prefill_tokens_per_second.",
            [query(server("llm_probe_prefill_tokens_per_second"), "{{module}}")], (8, 8), unit=TOKENS_PER_SECOND, identified=True,
        ),
        timeseries(
            "End to end, all streams",
            "Output tokens ÷ the whole time, and the speed of all concurrent streams together. Metrics: llm_probe_end_to_end_tokens_per_second, "
            "llm_probe_aggregate_tokens_per_second, llm_probe_concurrency.",
            [
                query(measured("llm_probe_end_to_end_tokens_per_second"), "end to end"),
                query(measured("llm_probe_aggregate_tokens_per_second"), "all streams"),
                query(probe("llm_probe_concurrency"), "streams at once"),
            ],
            (8, 8), unit=TOKENS_PER_SECOND,
            overrides=[*named("end to end", "all streams", "streams at once"),
                       override("byName", "streams at once", unit="short", decimals=0, custom__axisPlacement="right", custom__axisSoftMax=5)],
        ),
        timeseries(
            "Energy per token", "GPU power during decode ÷ speed, where the GPU is local. Metric: llm_probe_energy_joules_per_token.",
            [query(measured("llm_probe_energy_joules_per_token"), "energy")], (8, 8), unit="suffix:J/tok", no_value="No data: it needs a local power sensor",
        ),
        row("Are the answers right?"),
        state_timeline(
            "Answers",
            "The canary's last verdict: whether the model recalled the fact from the short and from the deep prompt. Absent where the model "
            "does not recall it even from the short prompt. Below, by module, what is wrong with the last answer, while something is. "
            "Metrics: llm_answer_correct, llm_answer_fault_info.",
            [
                query(server("llm_answer_correct"), "{{module}} {{depth}}"),
                query(f"2 * {server('llm_answer_fault_info')}", "{{module}} {{fault}}"),
            ],
            (8, 8), values({"0": ("wrong", "red"), "1": ("right", "green"), "2": ("wrong", "red")}),
        ),
        timeseries(
            "Verdicts", "Answers that a canary judged, by depth and verdict. Metric: llm_answer_checks_total.",
            [query(f"sum by (depth, verdict) (increase({server('llm_answer_checks_total')}[$__rate_interval])) > 0", "{{depth}} {{verdict}}")], (8, 8),
            bars=True, stacked=True, decimals=0, overrides=_answers_by_verdict(),
        ),
        timeseries(
            "Fingerprint of the model",
            "Distance of the first-token log-probabilities from the earlier ones, in units of their own noise. Above 6, another model, "
            "quantization or kernel answers. Metric: llm_answer_fingerprint_distance.",
            [query(server("llm_answer_fingerprint_distance"), "{{module}}")], (8, 8), no_value="No data: it needs log-probabilities", identified=True,
        ),
        row("What users get meanwhile"),
        timeseries(
            "Load and throughput",
            "From the server's own metrics: requests that run and wait, and the tokens per second that users get (right axis), without "
            "the probes' own. Metrics: llm_server_requests_running, llm_server_requests_waiting, "
            "llm_server_generated_tokens_per_second.",
            [
                query(server("llm_server_requests_running"), "running"),
                query(server("llm_server_requests_waiting"), "waiting"),
                query(server("llm_server_generated_tokens_per_second"), "production"),
            ],
            (8, 8), no_value="No data: it needs the server's own metrics", decimals=0,
            overrides=[*named("running", "waiting", "production"),
                       override("byRegexp", "^(running|waiting)$", custom__axisSoftMax=5),
                       override("byName", "production", unit=TOKENS_PER_SECOND, custom__axisPlacement="right")],
        ),
        timeseries(
            "KV cache in use", "Near 100 %, requests wait or are evicted. Metric: llm_server_kv_cache_usage_ratio.",
            [query(server("llm_server_kv_cache_usage_ratio"), "KV cache")], (6, 8), unit="percentunit", maximum=1,
            no_value=_NO_DATA,
        ),
        state_timeline(
            "State of the server", "Queued: the last probe waited in the server's queue. Metrics: llm_target_up, llm_target_loading, llm_target_stuck, llm_target_model_resident, llm_probe_cold_start, llm_probe_queued.",
            [
                query(server("llm_target_up"), "up"),
                query(server("llm_target_loading"), "loading"),
                query(server("llm_target_stuck"), "stuck"),
                query(server("llm_target_model_resident"), "model in memory"),
                query(probe("llm_probe_cold_start"), "cold start"),
                query(probe("llm_probe_queued"), "queued"),
            ],
            (10, 8), values({"0": ("no", "#8e8e8e"), "1": ("yes", "blue")}),
            overrides=[override("byName", "up", mappings=values({"0": ("down", "red"), "1": ("up", "green")})),
                       override("byName", "stuck", mappings=values({"0": ("no", "#8e8e8e"), "1": ("yes", "red")})),
                       override("byName", "model in memory", mappings=values({"0": ("no", "#8e8e8e"), "1": ("yes", "green")}))],
        ),
        timeseries(
            "What users get",
            "Decode speed of one user's answer, and of the last probe that ran without users. On the right: mean time to first token. "
            "Dashed lines: the lower bounds of the tiers. Metrics: llm_server_user_tokens_per_second, llm_server_user_ttft_seconds, "
            "llm_probe_tokens_per_second, llm_probe_beside_users.",
            [
                query(server("llm_server_user_tokens_per_second"), "users get"),
                query(expand(f"{measured('llm_probe_tokens_per_second')} unless on (@module) ({probe('llm_probe_beside_users')} > 0)"), "the machine can"),
                query(server("llm_server_user_ttft_seconds"), "first token"),
                *_tier_queries(),
            ],
            (12, 8), unit=TOKENS_PER_SECOND, no_value="No data: nobody is served, or this server doesn't tell",
            overrides=[*named("users get", "the machine can", "first token"), *tier_lines(),
                       override("byName", "first token", unit="s", custom__axisPlacement="right")],
        ),
        state_timeline(
            "Tier of what users get", "The tier of the speed that one user gets, while somebody is served. Metric: llm_server_user_tier.",
            [query(f"max by (tier) ({server('llm_server_user_tier')}) == 1", "{{tier}}")], (12, 8), values({"1": ("this one", "blue")}),
            no_value="No data: nobody is served, or this server doesn't tell",
        ),
        row("What probing costs, and how it was measured"),
        timeseries(
            "Results of probes", "Probes per step of at least five minutes, by how they ended. Metric: llm_probes_total.",
            [query(f"sum by (result) (increase({probe('llm_probes_total')}[$__rate_interval])) > 0.1", "{{result}}")],
            (12, 8), bars=True, stacked=True,
            overrides=_results(),
        ),
        timeseries(
            "Tokens per hour", "Tokens that probes made the server read and write within 1h. Metric: llm_probe_consumed_tokens_total.",
            [query(f"sum by (kind) (increase({probe('llm_probe_consumed_tokens_total')}[1h]))", "{{kind}}")], (6, 8),
            overrides=named("output", "prompt"),
        ),
        timeseries(
            "Share of time", "Share of the server's time that probes took within 1h, by module. Metric: llm_probe_busy_seconds_total.",
            [query(f"sum by (module) (rate({probe('llm_probe_busy_seconds_total')}[1h]))", "{{module}}")],
            (6, 8), unit="percentunit", stacked=True, fill=30, identified=True,
        ),
        table(
            "How it was measured",
            "Of the last probe: tokens by kind, whether the server counted them, whether the text came in a burst, the measurement's own "
            "error, the time of the last model load, the wait in the server's queue, and users' requests at the same time. Metrics: llm_probe_tokens, llm_probe_token_count_exact, llm_probe_stream_buffered, "
            "llm_probe_clock_error_seconds, llm_probe_model_load_seconds, llm_probe_queue_seconds, llm_probe_beside_users.",
            [
                query(expand(f"max by (@module) ({probe('llm_probe_tokens', kind='prompt')})"), table=True),
                query(expand(f"max by (@module) ({probe('llm_probe_tokens', kind='cached')})"), table=True),
                query(expand(f"max by (@module) ({probe('llm_probe_tokens', kind='reasoning')})"), table=True),
                query(expand(f"max by (@module) ({probe('llm_probe_tokens', kind='output')})"), table=True),
                query(expand(f"max by (@module) ({probe('llm_probe_token_count_exact')})"), table=True),
                query(expand(f"max by (@module) ({probe('llm_probe_stream_buffered')})"), table=True),
                query(expand(f"max by (@module) ({probe('llm_probe_clock_error_seconds')})"), table=True),
                query(expand(f"max by (@module) ({probe('llm_probe_model_load_seconds')})"), table=True),
                query(expand(f"max by (@module) ({probe('llm_probe_queue_seconds')})"), table=True),
                query(expand(f"max by (@module) ({probe('llm_probe_beside_users')})"), table=True),
            ],
            (24, 4),
            columns={"module": "Module", "Value #A": "Prompt", "Value #B": "Cached", "Value #C": "Reasoning", "Value #D": "Output",
                     "Value #E": "Counted", "Value #F": "Burst", "Value #G": "Error", "Value #H": "Load", "Value #I": "Queue", "Value #J": "Users"},
            overrides=[
                *(override("byName", name, custom__width=width) for name, width in
                  (("Module", 85), ("Prompt", 65), ("Cached", 70), ("Reasoning", 90), ("Output", 65), ("Queue", 60), ("Users", 60))),
                override("byName", "Counted", mappings=values({"0": ("estimated", "yellow"), "1": ("exact", "green")}), custom__minWidth=90),
                override("byName", "Burst", mappings=_FLAG), override("byName", "Error", unit="s"),
                override("byName", "Load", unit="s", decimals=1, custom__minWidth=85), override("byName", "Queue", unit="s"),
            ],
        ),
    ]  # fmt: skip
    return dashboard(
        "llm-target",
        "LLM Target",
        "One server in detail.",
        _variables(many=False, module="default"),
        panels,
        annotations=_annotations(),
    )


# Prometheus 2.42 refuses an offset of 0: one millisecond is the same scrape.
_OFFSETS: Final = {"now": "1ms", **{f"{each} ago": each for each in ("15m", "1h", "3h", "6h", "12h", "1d", "7d")}}


def _compare() -> dict[str, Any]:
    def side(metric: str, name: str, **matchers: str) -> str:
        return select(metric, f'{_HOST}, target=~"${name}", module=~"$module"', **matchers)

    speed, ttft = "llm_probe_tokens_per_second", "llm_probe_ttft_seconds"
    sides = {"baseline": " offset $offset", "candidate": ""}

    def over(metric: str, name: str, share: float = 0.5) -> str:
        """A quantile over the window of a side, and over its series where there are several."""
        return f"quantile({share}, quantile_over_time({share}, {side(metric, name)}[$window]{sides[name]}))"

    def enough(name: str) -> str:
        """Something where at least three probes of a side succeeded within the window (2.5, since increase() extrapolates)."""
        return f"sum(increase({side('llm_probes_total', name, result='ok')}[$window]{sides[name]})) > 2.5"

    both = f"{enough('baseline')} and {enough('candidate')}"
    base, new = over(speed, "baseline"), over(speed, "candidate")
    ratio = f"{new} / {base}"
    low = f"{over(speed, 'candidate', 0.25)} / {over(speed, 'baseline', 0.75)}"
    high = f"{over(speed, 'candidate', 0.75)} / {over(speed, 'baseline', 0.25)}"
    # The middle halves of both sides overlap, or the medians differ by less than 2 %: then the difference is noise.
    noise = f"({low} <= 1 and {high} >= 1) or (abs({ratio} - 1) < 0.02)"
    judged = (
        f"(({ratio} and ({both})) unless ({noise}))\n"
        f"or (0 * ({ratio}) + {_NOISE} and ({both}))\nor 0 * ({ratio}) + {_TOO_FEW}"
    )

    def reaches(bound: str) -> str:
        return f"({new} >= bool max({bound})) and {enough('candidate')}"

    colors = named(*sides)
    lines = [
        dashed("^minimum: .*", "yellow"),
        dashed("^good: .*", "green"),
        dashed("^excellent: .*", "dark-green"),
    ]
    steps = (
        ("1", "below the minimum", "orange"), (_MINIMUM, "minimum reached", TIER_COLORS["acceptable"]),
        (_GOOD, "good", TIER_COLORS["good"]), (_EXCELLENT, "excellent", TIER_COLORS["excellent"]),
    )  # fmt: skip
    # A mapping's ranges include both ends: a hair below a step belongs to the one before.
    edges = [0.0, *(float(number) - 0.0001 for number, _, _ in steps), None]
    verdicts = [("slower", "red"), *((text, color) for _, text, color in steps)]
    few = "needs 3 probes of each"
    panels = [
        row("Candidate against baseline: two targets now, or one target now and before"),
        stat("Verdict", "By the FAQ's success criteria, which compare a candidate with a baseline: "
             f"{_MINIMUM}× is the minimum, {_GOOD}× is good, {_EXCELLENT}× is excellent. No change: the middle halves of both speeds overlap, or the "
             "medians differ by less than 2 %. Too few probes: fewer than three probes of one side succeeded within the window.",
             [query(judged, instant=True)], (8, 4),
             mappings=[
                 *values({_TOO_FEW: ("too few probes", "#8e8e8e"), _NOISE: ("no change", "#8e8e8e")}),
                 *(
                     {"type": "range", "options": {"from": low, "to": high, "result": {"text": text, "color": color, "index": index}}}
                     for index, ((low, high), (text, color)) in enumerate(zip(pairwise(edges), verdicts, strict=True), start=2)
                 ),
             ], background=True, no_value="not measured"),
        stat("Speed-up", "Candidate ÷ baseline, of the medians. At least: lower quartile of the candidate ÷ upper quartile of the baseline. At most: upper "
             "quartile of the candidate ÷ lower quartile of the baseline.",
             [query(f"{each} and ({both})", name, instant=True) for name, each in (("median", ratio), ("at least", low), ("at most", high))],
             (8, 4), unit="suffix:×", decimals=2, names=True, no_value=few),
        stat("Bounds reached", "Lower bounds that the candidate reaches: its scenario's expected minimum, and the tiers "
             "good and excellent (15 and 20 by default). Metrics: llm_expected_tokens_per_second, "
             "llm_performance_tier_threshold_tokens_per_second.",
             [
                 query(reaches(side("llm_expected_tokens_per_second", "candidate", bound="min")), "expected", instant=True),
                 query(reaches(side(BOUND, "candidate", tier="good")), "good", instant=True),
                 query(reaches(side(BOUND, "candidate", tier="excellent")), "excellent", instant=True),
             ], (8, 4), mappings=values({"0": ("no", "text"), "1": ("yes", "green")}), names=True, no_value="not known"),
        stat("Baseline", "Median speed of the baseline over the window, at the time that the offset gives. "
             f"Metric: {speed}.", [query(base, instant=True)], (8, 4), unit=TOKENS_PER_SECOND, decimals=1, no_value="not measured"),
        stat("Candidate", f"Median speed of the candidate over the window up to now. Metric: {speed}.",
             [query(new, instant=True)], (8, 4), unit=TOKENS_PER_SECOND, decimals=1, no_value="not measured"),
        stat("First token, ratio", f"Candidate ÷ baseline: below 1 is faster. Metric: {ttft}.",
             [query(f"{over(ttft, 'candidate')} / {over(ttft, 'baseline')} and ({both})", instant=True)], (8, 4), unit="suffix:×", decimals=2,
             no_value=few),
        timeseries(
            "Speed, side by side",
            "The baseline is shifted by the offset, so that both can be compared. Dashed lines: the bounds of the success criteria. "
            "Metric: llm_probe_tokens_per_second.",
            [
                query(f"max({side(speed, 'baseline')} offset $offset)", "baseline"),
                query(f"max({side(speed, 'candidate')})", "candidate"),
                *(query(f"{number} * {base}", f"{name}: {number}×") for number, name in ((_MINIMUM, "minimum"), (_GOOD, "good"), (_EXCELLENT, "excellent"))),
            ],
            (24, 10), unit=TOKENS_PER_SECOND, overrides=[*colors, *lines],
        ),
        timeseries(
            "Time to first token", "Metric: llm_probe_ttft_seconds.",
            [query(f"max({side('llm_probe_ttft_seconds', 'baseline')} offset $offset)", "baseline"),
             query(f"max({side('llm_probe_ttft_seconds', 'candidate')})", "candidate")],
            (8, 9), unit="s", overrides=colors,
        ),
        timeseries(
            "Prefill", "Metric: llm_probe_prefill_tokens_per_second.",
            [query(f"max({side('llm_probe_prefill_tokens_per_second', 'baseline')} offset $offset)", "baseline"),
             query(f"max({side('llm_probe_prefill_tokens_per_second', 'candidate')})", "candidate")],
            (8, 9), unit=TOKENS_PER_SECOND, overrides=colors,
        ),
        timeseries(
            "Energy per token", "Metric: llm_probe_energy_joules_per_token.",
            [query(f"max({side('llm_probe_energy_joules_per_token', 'baseline')} offset $offset)", "baseline"),
             query(f"max({side('llm_probe_energy_joules_per_token', 'candidate')})", "candidate")],
            (8, 9), unit="suffix:J/tok", overrides=colors, no_value="No data: it needs a local power sensor",
        ),
        table(
            "What was compared", "The facts of both sides, each at its time. Metric: llm_target_info.",
            [
                query(f'label_replace({select("llm_target_info", _HOST, target__in="$baseline")} offset $offset, "side", "baseline", "", "")', table=True),
                query(f'label_replace({select("llm_target_info", _HOST, target__in="$candidate")}, "side", "candidate", "", "")', table=True),
            ],
            (24, 5),
            columns={"side": "Side", "target": "Target", "instance": "Instance", "backend": "Backend", "backend_version": "Version", "model": "Model",
                     "quantization": "Quantization", "scenario": "Scenario", "hardware": "Hardware", "image": "Image"},
            overrides=[override("byName", "Side", custom__width=85), override("byName", "Model", custom__minWidth=230),
                       override("byName", "Target", custom__width=110), override("byName", "Instance", custom__width=135),
                       override("byName", "Backend", custom__width=85), override("byName", "Version", custom__width=75),
                       override("byName", "Quantization", custom__width=105), override("byName", "Scenario", custom__width=125),
                       override("byName", "Hardware", custom__width=140), override("byName", "Image", custom__minWidth=160)],
        ),
    ]  # fmt: skip
    variables = [
        *_host_variables(),
        variable("baseline", "baseline", f"label_values(llm_probe_interval_seconds{{{_HOST}}}, target)", multi=False),
        custom_variable("offset", "baseline from", _OFFSETS, "1h"),
        variable("candidate", "candidate", f"label_values(llm_probe_interval_seconds{{{_HOST}}}, target)", multi=False),
        variable("module", "module", f'label_values(llm_probe_interval_seconds{{{_HOST}, target=~"$baseline|$candidate"}}, module)',
                 multi=False, current="default"),
        custom_variable("window", "median over", {each: each for each in ("10m", "30m", "1h", "6h", "1d")}, "1h"),
    ]  # fmt: skip
    changed = annotation(
        "Model or server changed",
        _changed(f'llm_target_info{{{_HOST}, target=~"$candidate"}}', "job, instance, target, backend_version, model, quantization, image, scenario"),
        "blue", "{{target}} changed", "now {{model}} {{quantization}}, image {{image}}, scenario {{scenario}}",
    )  # fmt: skip
    return dashboard(
        "llm-compare",
        "LLM Compare",
        "Two targets, or one target at two times, side by side.",
        variables,
        panels,
        annotations=[changed],
    )


def _machine() -> dict[str, Any]:
    gpu = "{{instance}} {{gpu}}"
    panels = [
        row("What the machine is"),
        table(
            "ROCm versions", "ROCm of the host and of each container, and whether each is at or above the minimum. A container may have "
            "another release than the host. Metrics: rocm_version_info, rocm_version_supported, rocm_container_release_matches_host.",
            [
                query(f"max by (job, instance, scope, container, version, release, source) ({host('rocm_version_info')})", table=True),
                query(f"max by (job, instance, scope, container) ({host('rocm_version_supported')})", table=True),
                query(f'max by (job, instance, scope, container) (label_replace({host("rocm_container_release_matches_host")}, "scope", "container", "", ""))', table=True),
            ],
            (12, 8),
            columns={"instance": "Instance", "scope": "Scope", "container": "Container", "version": "Version", "release": "Release",
                     "Value #B": "At minimum", "Value #C": "As host", "source": "Read from"},
            overrides=[override("byName", "At minimum", mappings=_YES_NO, custom__cellOptions={"type": "color-text"}),
                       override("byName", "As host", mappings=values({"0": ("differs", "text"), "1": ("same", "green")}),
                                custom__cellOptions={"type": "color-text"}),
                       override("byName", "Instance", custom__width=140), override("byName", "At minimum", custom__width=95),
                       override("byName", "Scope", custom__width=85), override("byName", "Container", custom__width=85), override("byName", "Version", custom__width=70), override("byName", "Release", custom__width=70),
                       override("byName", "As host", custom__width=75), override("byName", "Read from", custom__width=85)],
            no_value=_NO_DATA,
        ),
        table(
            "GPUs and driver", "Metrics: amdgpu_info, amdgpu_driver_info, amdgpu_memory_bandwidth_bytes_per_second.",
            [
                query(f"max by (job, instance, gpu, name, gfx_target, compute_units, unified_memory) ({host('amdgpu_info')})", table=True),
                query(f"max by (job, instance, gpu) ({host('amdgpu_memory_bandwidth_bytes_per_second')})", table=True),
                query(f"max by (job, instance, version) ({host('amdgpu_driver_info')})", table=True),
            ],
            (12, 8),
            columns={"instance": "Instance", "name": "GPU", "gfx_target": "GFX", "compute_units": "CUs", "unified_memory": "Unified",
                     "gpu": "PCI address", "Value #B": "Bandwidth", "version": "Driver"},
            overrides=[override("byName", "Bandwidth", unit="Bps", custom__width=95), override("byName", "Instance", custom__width=140), override("byName", "GPU", custom__width=155), override("byName", "PCI address", custom__width=115), override("byName", "CUs", custom__width=55),
                       override("byName", "Unified", custom__width=65), override("byName", "GFX", custom__width=80)],
            no_value=_NO_DATA,
        ),
        row("Does the machine explain the speed?"),
        timeseries(
            "Decode speed of its servers", "Speed by the module default. The time axis is that of the panels below: look for figures that change together. "
            "Metric: llm_probe_tokens_per_second.",
            [query(host("llm_probe_tokens_per_second", module="default"), "{{target}} · {{instance}}")], (12, 8), unit=TOKENS_PER_SECOND, logarithmic=True, identified=True,
            links=[_series_link("Open this target", "llm-target", "job", "instance", "target")],
        ),
        timeseries("Temperature", "Metric: amdgpu_temperature_celsius.",
                   [query(host("amdgpu_temperature_celsius"), "{{instance}} {{sensor}}")], (12, 8), unit="celsius", identified=True),
        state_timeline(
            "Throttled", "Reasons that lowered the GPU's clocks for more than half of the time. A power limit at full load is normal, heat is not. Metric: "
            "amdgpu_throttled.",
            [query(_short(f"({host('amdgpu_throttled', reason='thermal')} > bool 0.5) or 2 * ({host('amdgpu_throttled')} > bool 0.5)"), gpu + " {{reason}}")],
            (24, 7), values({"0": ("no", "green"), "1": ("throttled", "orange"), "2": ("held down", "text")}),
            no_value=_NO_DATA,
        ),
        timeseries("Clock", "Metric: amdgpu_clock_hertz.", [query(host("amdgpu_clock_hertz"), "{{instance}} {{domain}}")], (12, 8), unit="hertz", identified=True),
        timeseries("Power", "Power of the GPU, or of the whole socket where they share a sensor. Dashed: the limit that is set. Metrics: "
                   "amdgpu_power_watts, amdgpu_power_cap_watts.",
                   [query(host("amdgpu_power_watts"), "{{instance}} {{scope}}"), query(host("amdgpu_power_cap_watts"), "{{instance}} limit")], (12, 8), unit="watt", identified=True,
                   overrides=[override("byRegexp", "^.* limit$", custom__lineStyle={"fill": "dash", "dash": [6, 6]}, custom__lineWidth=1)]),
        timeseries("GPU busy", "Metric: amdgpu_busy_ratio.", [query(_short(host("amdgpu_busy_ratio")), gpu)], (12, 8), unit="percentunit", maximum=1, identified=True),
        timeseries("Memory in use", "VRAM, and system memory that the GPU uses (gtt), of their totals. Metrics: amdgpu_memory_used_bytes, "
                   "amdgpu_memory_total_bytes.",
                   [query(f"{host('amdgpu_memory_used_bytes')} / on (job, instance, gpu, kind) {host('amdgpu_memory_total_bytes')}", "{{instance}} {{kind}}")],
                   (12, 8), unit="percentunit", maximum=1, identified=True),
        row("What else decides how fast it is"),
        table(
            "Kernel, BIOS and power profile", "Metrics: host_kernel_info, host_bios_info, host_power_profile_info.",
            [
                query(f"max by (job, instance, release) ({host('host_kernel_info')})", table=True),
                query(f"max by (job, instance, version) ({host('host_bios_info')})", table=True),
                query(f"max by (job, instance, platform_profile, governor, tuned, gpu_performance_level) ({host('host_power_profile_info')})", table=True),
            ],
            (12, 7),
            columns={"instance": "Instance", "release": "Kernel", "version": "BIOS", "platform_profile": "Platform profile", "governor": "Governor",
                     "tuned": "tuned", "gpu_performance_level": "GPU level"},
            overrides=[override("byName", "Instance", custom__width=135), override("byName", "Kernel", custom__minWidth=80),
                       override("byName", "BIOS", custom__width=65), override("byName", "Platform profile", custom__minWidth=115),
                       override("byName", "Governor", custom__minWidth=90), override("byName", "GPU level", custom__width=80)],
            no_value=_NO_DATA,
        ),
        table(
            "Kernel parameters", "Parameters that decide how much memory a GPU may use and how fast it is. Metric: host_kernel_parameter_info.",
            [query(f"max by (job, instance, parameter, value) ({host('host_kernel_parameter_info')})", table=True)], (12, 7),
            columns={"instance": "Instance", "parameter": "Parameter", "value": "Value"},
            overrides=[override("byName", "Instance", custom__width=135)],
            no_value=_NO_DATA,
        ),
        table(
            "Firmware", "Firmware of each GPU by block, and the GPU's BIOS. Metrics: amdgpu_firmware_info, amdgpu_vbios_info.",
            [
                query(f"max by (job, instance, gpu, block, version) ({host('amdgpu_firmware_info')})", table=True),
                query(f'max by (job, instance, gpu, block, version) (label_replace({host("amdgpu_vbios_info")}, "block", "vbios", "", ""))', table=True),
            ],
            (12, 7),
            columns={"instance": "Instance", "gpu": "GPU", "block": "Block", "version": "Version"},
            overrides=[override("byName", "Instance", custom__width=135), override("byName", "GPU", custom__width=110),
                       override("byName", "Block", custom__width=70), override("byName", "Version", custom__minWidth=135)],
            no_value=_NO_DATA,
        ),
        state_timeline("Asleep", "The exporter does not wake a GPU that sleeps, so its other figures are then absent. Metric: amdgpu_suspended.", [query(_short(host("amdgpu_suspended")), gpu)], (12, 7),
                       values({"0": ("awake", "green"), "1": ("asleep", "blue")}), no_value=_NO_DATA),
    ]  # fmt: skip
    return dashboard(
        "llm-machine",
        "LLM Machine",
        "ROCm, driver and GPU, together with the speed of the servers.",
        _host_variables(),
        panels,
        annotations=_machine_annotations(),
    )


def _machine_annotations() -> list[dict[str, Any]]:
    return [
        annotation("ROCm changed", _changed(host("rocm_version_info"), "job, instance, scope, container, version"), "purple",
                   "ROCm of {{scope}} {{container}} on {{instance}} is now {{version}}"),
    ]  # fmt: skip


def _cache() -> dict[str, Any]:
    free, size = host("llm_model_cache_filesystem_free_bytes"), host("llm_model_cache_filesystem_size_bytes")
    panels = [
        row("Is there room?"),
        bar_gauge(
            "Free space", "Share of each file system that is free. Metrics: llm_model_cache_filesystem_free_bytes, "
            "llm_model_cache_filesystem_size_bytes.",
            [query(f"{free} / on (job, instance, mountpoint) {size}", "{{instance}} {{mountpoint}}", instant=True)], (8, 9), unit="percentunit",
            maximum=1, thresholds=(("red", None), ("orange", 0.03), ("green", 0.15)), no_value=_NO_DATA,
        ),
        timeseries("Free bytes", "A step is a download or a deletion; a slope that goes on ends in a full disk. "
                   "Metric: llm_model_cache_filesystem_free_bytes.", [query(free, "{{instance}} {{mountpoint}}")], (8, 9), unit="decbytes", identified=True),
        bar_gauge("Size of the caches", "Metric: llm_model_cache_bytes.",
                  [query(host("llm_model_cache_bytes"), "{{instance}} {{cache}}", instant=True)], (8, 9), unit="decbytes", no_value=_NO_DATA),
        row("Which models are stored?"),
        table(
            "Models", "The largest first. A model that is not complete is being downloaded, or its download was interrupted. The last use is "
            "known where the file system records it. Metrics: llm_model_cache_model_bytes, llm_model_cache_model_complete, "
            "llm_model_cache_model_last_used_timestamp_seconds.",
            [
                query(f"max by (job, instance, cache, model) ({host('llm_model_cache_model_bytes')})", table=True),
                query(f"max by (job, instance, cache, model) ({host('llm_model_cache_model_complete')})", table=True),
                query(f"time() - max by (job, instance, cache, model) ({host('llm_model_cache_model_last_used_timestamp_seconds')})", table=True),
            ],
            (14, 11),
            columns={"model": "Model", "Value #A": "Size", "Value #B": "Complete", "Value #C": "Unused for", "cache": "Cache", "instance": "Instance"},
            sort=("Size", True),
            overrides=[override("byName", "Model", custom__minWidth=250), override("byName", "Cache", custom__width=105), override("byName", "Instance", custom__width=140), override("byName", "Size", unit="decbytes", custom__width=80), override("byName", "Unused for", unit=DURATION, decimals=0, custom__width=105),
                       override("byName", "Complete", mappings=_YES_NO, custom__cellOptions={"type": "color-text"}, custom__width=90)],
            no_value=_NO_DATA,
        ),
        timeseries("Size over time", "Metric: llm_model_cache_bytes.", [query(host("llm_model_cache_bytes"), "{{instance}} {{cache}}")], (10, 11), unit="decbytes", identified=True),
        row("Downloads, containers and the scan"),
        timeseries("Incomplete downloads", "It grows while a model is downloaded. It stays the same where a download hangs or was interrupted. "
                   "Metric: llm_model_cache_incomplete_bytes.", [query(host("llm_model_cache_incomplete_bytes"), "{{instance}} {{cache}}")], (7, 9), unit="decbytes", identified=True),
        table(
            "Shares the cache", "A container that does not mount the host's cache downloads its models again. "
            "Metric: llm_model_cache_shared.",
            [query(f"max by (job, instance, container, cache) ({host('llm_model_cache_shared')})", table=True)], (7, 9),
            columns={"container": "Container", "Value": "Shares it", "cache": "Cache", "instance": "Instance"},
            overrides=[override("byName", "Shares it", mappings=_YES_NO, custom__cellOptions={"type": "color-text"}, custom__width=80),
                       override("byName", "Container", custom__minWidth=90), override("byName", "Cache", custom__width=100),
                       override("byName", "Instance", custom__width=135)],
            no_value=_NO_DATA,
        ),
        table(
            "Scan", "How long the last scan of a cache took, how long ago it was, and what could not be read. Metrics: llm_model_cache_scan_seconds, "
            "llm_model_cache_last_scan_timestamp_seconds, llm_model_cache_models, llm_model_cache_unreadable_entries, "
            "llm_model_cache_scan_errors_total.",
            [
                query(f"max by (job, instance, cache) ({host('llm_model_cache_models')})", table=True),
                query(f"max by (job, instance, cache) ({host('llm_model_cache_unreadable_entries')})", table=True),
                query(f"max by (job, instance, cache) ({host('llm_model_cache_scan_seconds')})", table=True),
                query(f"time() - max by (job, instance, cache) ({host('llm_model_cache_last_scan_timestamp_seconds')})", table=True),
                query(f"max by (job, instance, cache) (increase({host('llm_model_cache_scan_errors_total')}[$__range]))", table=True),
            ],
            (10, 9),
            columns={"instance": "Instance", "cache": "Cache", "Value #A": "Models", "Value #B": "Unread", "Value #C": "Took",
                     "Value #D": "Ago", "Value #E": "Errors"},
            overrides=[override("byName", "Instance", custom__width=135), override("byName", "Cache", custom__width=95), override("byName", "Models", custom__width=75), override("byName", "Unread", custom__width=75), override("byName", "Took", unit="s", decimals=1, custom__width=80), override("byName", "Ago", unit=DURATION, decimals=0, custom__width=95), override("byName", "Errors", decimals=0),
                       override("byName", "Unread", custom__cellOptions={"type": "color-text"},
                                thresholds={"mode": "absolute", "steps": [{"color": "text", "value": None}, {"color": "orange", "value": 1}]})],
            no_value=_NO_DATA,
        ),
    ]  # fmt: skip
    return dashboard(
        "llm-cache",
        "LLM Model cache",
        "Which models are on the disks, whether they are complete, and when the disks will be full.",
        _host_variables(),
        panels,
    )


def _fleet() -> dict[str, Any]:
    share = expand(
        f"max by (@module) ({measured('llm_probe_tokens_per_second')}) / on (@module) max by (@module) ({probe(BOUND, tier='acceptable')})"
    )
    panels = [
        row("Worst first"),
        stat("Hosts", "Exporters that Prometheus can scrape, of all it knows. Metric: up.",
             [query(f"sum({host('up')})", "up", instant=True), query(f"count({host('up')})", "known", instant=True)], (6, 3), names=True, wide=False),
        *(
            stat(title, description, [query(_count(*names), instant=True)], (6, 3), thresholds=colors, background=colors in (_FAULTS, _WARN))
            for title, description, names, colors in (
                ("Down", "Servers whose health check fails, or that hang.", ("down", "stuck"), _FAULTS),
                ("Failing", "Servers that answer, and whose probes fail.", ("failing",), _FAULTS),
                ("Poor", "Servers that are too slow to use.", ("poor",), _WARN),
                ("Busy", "Servers that users keep so busy that probes are skipped.", ("busy",), (("text", None), ("purple", 1))),
                ("Unloaded", "Servers whose probes are skipped, because a probe would load the model.", ("unloaded",), (("text", None), ("#8e8e8e", 1))),
                ("Not measured", "Servers that load a model, were not probed lately, or gave no measurable speed.", ("loading", "not probed", "no speed"),
                 (("text", None), ("blue", 1))),
                ("Fine", "Servers at or above the lower bound of acceptable.", ("acceptable", "good", "excellent"),
                 (("text", None), ("green", 1))),
            )
        ),
        table(
            "Every server of every host", "The worst first. A click opens the target or its host. Share: speed ÷ lower bound of acceptable.",
            [
                query(verdict(), table=True),
                query(expand(f"max by (@module, model) ({measured('llm_probe_tokens_per_second')})"), table=True),
                query(share, table=True),
                query(expand(f"max by (@module) (increase({probe('llm_probes_total', result__not_in='ok|skipped_.*|yielded')}[$__range]))"), table=True),
                query(expand(f"time() - max by (@module) ({probe('llm_probe_last_success_timestamp_seconds')})"), table=True),
            ],
            (24, 10),
            columns={"instance": "Instance", "target": "Target", "Value #A": "Verdict", "Value #B": "Speed", "Value #C": "Share",
                     "Value #D": "Failures", "Value #E": "Age", "model": "Model", "module": "Module"},
            sort=("Verdict", False),
            overrides=[
                _verdict_cell(),
                override("byName", "Target", custom__width=125, links=[_link("Open this target", "llm-target", "instance=Instance", "target=Target", "module=Module")]),
                override("byName", "Instance", custom__width=140, links=[_link("Open this machine", "llm-machine", "instance=Instance")]),
                override("byName", "Speed", unit=TOKENS_PER_SECOND, decimals=1, custom__width=100),
                override("byName", "Share", unit="percentunit", decimals=0, custom__width=75),
                override("byName", "Failures", unit="short", decimals=0, custom__width=80),
                override("byName", "Age", unit=DURATION, decimals=0, noValue="not known", custom__width=95),
                override("byName", "Model", custom__minWidth=230),
                override("byName", "Module", custom__width=75),
            ],
            no_value=_NO_DATA,
        ),
        row("How it went"),
        state_timeline("Verdict over time", "The worst servers, by their verdict at the end of the shown time; the variable worst says how many. Metrics: "
                       "llm_performance_tier, llm_probe_success, llm_target_up.",
                       [query(_worst_first(), "{{target}} · {{instance}}")], (24, 10), values(VERDICTS)),
        state_timeline("Alerts that fire", "A band for each alert, with the target and host that it is about. Metric: ALERTS.",
                       [query(_alerts(number, severity), "{{alertname}} · {{about}}{{instance}}") for number, (severity, _) in _SEVERITIES.items()],
                       (24, 9), values(_SEVERITIES)),
        bar_gauge(
            "Speed, in multiples of acceptable", "Speed ÷ lower bound of acceptable: a server below 1 is poor. So servers with different tiers can be "
            "compared. It shows the slowest servers; the variable worst says how many. Metrics: llm_probe_tokens_per_second, "
            "llm_performance_tier_threshold_tokens_per_second.",
            [query(f"sort(bottomk($worst, {share}))", "{{target}} · {{instance}}", instant=True)], (12, 10), unit="suffix:×", decimals=2,
            thresholds=(("orange", None), ("green", 1)), no_value="not measured",
        ),
        timeseries("Production throughput by host", "Tokens per second that users get, without the probes' own. "
                   "Metric: llm_server_generated_tokens_per_second.",
                   [query(f"sum by (instance) ({server('llm_server_generated_tokens_per_second')})", "{{instance}}")], (12, 10),
                   unit=TOKENS_PER_SECOND, stacked=True, fill=30, identified=True),
    ]  # fmt: skip
    chosen = [
        *_variables(module="default"),
        custom_variable("worst", "worst", {each: each for each in ("10", "20", "50")}, "10"),
    ]
    return dashboard("llm-fleet", "LLM Fleet", "Many hosts: the worst first.", chosen, panels)


def _wall() -> dict[str, Any]:
    """For a screen that people read from across the room: few things, and large."""
    fastest = expand(f"max by (@module) ({measured('llm_probe_tokens_per_second')})")
    panels = [
        stat("Verdicts", "The tier of each server's last speed, or why there is none. It shows the worst servers; the variable worst says how many. Metrics: "
             "llm_performance_tier, llm_probe_success, llm_target_up.",
             [query(f"sort({_without_port(f'bottomk($worst, {verdict()})')})", "{{target}} · {{instance}}", instant=True)], (24, 11),
             mappings=values(VERDICTS), background=True, names=True),
        stat("Speeds", "Decode speed of the last success, slowest first. Metric: llm_probe_tokens_per_second.",
             [query(f"sort({_without_port(f'bottomk($worst, {fastest})')})", "{{target}} · {{instance}}", instant=True)],
             (24, 8), unit=TOKENS_PER_SECOND, decimals=1, names=True, no_value="not measured"),
        *(
            stat(title, description, [query(_count(*names), instant=True)], (6, 5), thresholds=colors, background=True, value_size=72, no_value="–")
            for title, description, names, colors in (
                ("Faults", "Servers that are down, hang or fail.", ("down", "stuck", "failing"), _FAULTS),
                ("Poor", "Servers that are too slow to use.", ("poor",), _WARN),
                ("Fine", "Servers that are acceptable or better.", ("acceptable", "good", "excellent"), (("#8e8e8e", None), ("green", 1))),
            )
        ),
        stat("Critical alerts", "Alerts of severity critical that fire. A dash: Prometheus has not loaded the rules. Metric: ALERTS.",
             [query(f"count({host('ALERTS', alertstate='firing', service='llm-probe', severity='critical')}) or 0 * count({host(COUNTS)})",
                    instant=True)], (6, 5), thresholds=_FAULTS, background=True, value_size=72, no_value="–"),
    ]  # fmt: skip
    chosen = [
        *_variables(module="default"),
        custom_variable("worst", "worst", {each: each for each in ("6", "12", "24")}, "12"),
    ]
    return dashboard(
        "llm-wall", "LLM Wall", "For a screen that people read from across the room.", chosen, panels, period="now-15m"
    )


def _exporter() -> dict[str, Any]:
    age = expand(
        f"(time() - {probe('llm_probe_last_run_timestamp_seconds')}) / on (@module) {probe('llm_probe_interval_seconds')}"
    )
    error = expand(
        f"{probe('llm_probe_clock_error_seconds')} / on (@module) {probe('llm_probe_phase_seconds', phase='decode')}"
    )
    panels = [
        row("Is the exporter itself working?"),
        stat("Exporters up", "Metric: up.", [query(host("up"), "{{instance}}", instant=True)], (7, 7),
             mappings=values({"0": ("down", "red"), "1": ("up", "green")}), names=True, background=True, no_value=_NO_DATA),
        stat("Configuration reload", "Whether the last reload was accepted. Metric: llm_probe_exporter_config_last_reload_successful.",
             [query(host("llm_probe_exporter_config_last_reload_successful"), "{{instance}}", instant=True)], (7, 7),
             mappings=values({"0": ("rejected", "red"), "1": ("accepted", "green")}), names=True, background=True, no_value=_NO_DATA),
        table("Versions", "Metrics: llm_probe_exporter_build_info, llm_probe_exporter_config_last_reload_success_timestamp_seconds, "
              "process_start_time_seconds.",
              [query(f"max by (job, instance, version, python) ({host('llm_probe_exporter_build_info')})", table=True),
               query(f"time() - max by (job, instance) ({host('llm_probe_exporter_config_last_reload_success_timestamp_seconds')})", table=True),
               query(f"time() - max by (job, instance) ({host('process_start_time_seconds')})", table=True)],
              (10, 7),
              columns={"instance": "Instance", "version": "Version", "python": "Python", "Value #B": "Configured", "Value #C": "Running for"},
              overrides=[override("byName", "Instance", custom__width=140), override("byName", "Version", custom__width=75),
                         override("byName", "Python", custom__width=75), override("byName", "Configured", unit=DURATION, decimals=0, custom__minWidth=95),
                         override("byName", "Running for", unit=DURATION, decimals=0, custom__minWidth=100)]),
        state_timeline("Collectors", "The worst state among the chosen exporters. The metrics of a collector that fails are absent; the others go on. "
                       "Metric: llm_probe_exporter_collector_success.",
                       [query(f"min by (collector) ({host('llm_probe_exporter_collector_success')})", "{{collector}}")], (12, 9),
                       values({"0": ("failing", "red"), "1": ("works", "green")})),
        timeseries("Collector times", "How long each took. Metric: llm_probe_exporter_collector_duration_seconds.",
                   [query(f"max by (collector) ({host('llm_probe_exporter_collector_duration_seconds')})", "{{collector}}")], (6, 9), unit="s", identified=True),
        timeseries("Targets", "By state. Metric: llm_probe_exporter_targets.",
                   [query(f"sum by (state) ({host('llm_probe_exporter_targets')})", "{{state}}")], (6, 9),
                   overrides=[override("byName", state, color=fixed(color))
                              for state, color in (("up", "green"), ("loading", "blue"), ("down", "red"), ("unknown", "#8e8e8e"))]),
        row("Is it on time and accurate?"),
        timeseries("Lateness of the last job", "Metric: llm_probe_exporter_schedule_delay_seconds.",
                   [query(host("llm_probe_exporter_schedule_delay_seconds"), "{{instance}}")], (8, 8), unit="s", identified=True),
        timeseries("Age in intervals", "Age of the last run ÷ interval. Above 3 the results are stale, unless probes are skipped because the server is busy. "
                   "Metrics: llm_probe_last_run_timestamp_seconds, llm_probe_interval_seconds.",
                   [query(f"max_over_time(({age})[$__rate_interval:10s])", _WHO)], (8, 8), identified=True),
        timeseries("Measurement error", "How far the measured speed may be off at most, as a share of the decode time. Above 10 %, alerts about speed are silent. "
                   "Metrics: llm_probe_clock_error_seconds, llm_probe_phase_seconds.",
                   [query(error, _WHO)], (8, 8), unit="percentunit", identified=True),
        row("What it costs"),
        timeseries("CPU", "Seconds of CPU per second. Metric: process_cpu_seconds_total.",
                   [query(f"rate({host('process_cpu_seconds_total')}[$__rate_interval])", "{{instance}}")], (8, 8), unit="percentunit", identified=True),
        timeseries("Memory, and the history", "Memory of the process, and the size of the history of changes and speeds. Metrics: "
                   "process_resident_memory_bytes, llm_probe_exporter_history_bytes.",
                   [query(host("process_resident_memory_bytes"), "{{instance}}"),
                    query(host("llm_probe_exporter_history_bytes"), "history {{instance}}")], (8, 8), unit="decbytes", identified=True),
        timeseries("Open files", "Open files ÷ the most that the process may open. Metrics: process_open_fds, process_max_fds.",
                   [query(f"{host('process_open_fds')} / on (job, instance) {host('process_max_fds')}", "{{instance}}")], (8, 8),
                   unit="percentunit", maximum=1, no_value=_NO_DATA, identified=True),
        timeseries("Time that probing takes", "Share of each server's time within 1h. Metric: llm_probe_busy_seconds_total.",
                   [query(expand(f"sum by (@target) (rate({probe('llm_probe_busy_seconds_total')}[1h]))"), "{{target}} · {{instance}}")],
                   (8, 8), unit="percentunit", identified=True),
        timeseries("Tokens per hour", "Tokens that probing cost within 1h. Metric: llm_probe_consumed_tokens_total.",
                   [query(expand(f"sum by (@target) (increase({probe('llm_probe_consumed_tokens_total')}[1h]))"), "{{target}} · {{instance}}")],
                   (8, 8), identified=True),
        timeseries("Failed logins per hour", "Wrong passwords and client certificates that were not accepted within 1h. Metric: "
                   "llm_probe_exporter_auth_failures_total.",
                   [query(f"increase({host('llm_probe_exporter_auth_failures_total')}[1h])", "{{instance}}")], (8, 8), identified=True,
                   overrides=[override("byRegexp", ".*", custom__axisSoftMax=5)]),
    ]  # fmt: skip
    return dashboard(
        "llm-exporter",
        "LLM Exporter",
        "Does the exporter itself work, is it on time, and what does it cost?",
        _variables(),
        panels,
    )


BOARDS: Final = (_overview(), _target(), _compare(), _machine(), _cache(), _fleet(), _wall(), _exporter())
