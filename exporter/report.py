"""Probe results as a person or a script reads them: plain data, medians over runs, rows of a table. Pure.

A report is the object that ``probe --json`` prints. Its keys are metric names without ``llm_probe_``; a figure that was not
measured is null, and within ``phase_seconds`` and ``tokens`` it is absent.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Final

from exporter.advice import Advice
from exporter.backends import name_of
from exporter.probe.result import Measurements, ProbeResult
from exporter.settings import Thresholds
from exporter.snapshot import TargetInfo
from exporter.text import (
    ERROR_CHARACTERS,
    band_text,
    finite,
    no_speed_text,
    printable,
    printable_text,
    seconds_text,
    speed_text,
)
from exporter.tiers import TIERS, Judgement, tier_of

Report = Mapping[str, Any]

SPEEDS: Final = (
    "tokens_per_second",
    "end_to_end_tokens_per_second",
    "aggregate_tokens_per_second",
    "prefill_tokens_per_second",
    "server_tokens_per_second",
)
TIMES: Final = ("ttft_seconds", "time_to_first_answer_seconds", "clock_error_seconds")
NESTED: Final = ("inter_token_seconds", "phase_seconds", "tokens")


def report_of(
    result: ProbeResult,
    url: str,
    judgement: Judgement,
    info: TargetInfo | None = None,
    advice: Iterable[Advice] = (),
) -> dict[str, Any]:
    """One probe as a report; ``info`` is what lies behind the target, ``advice`` why it is so, what decides most first."""
    measured = result.measurements
    identity = result.state.identity if result.state else None
    return {
        "success": result.result == "ok",
        "result": result.result,
        "error": printable(result.error, ERROR_CHARACTERS),
        "answer_fault": result.fault,
        "url": url,
        "backend": identity.backend if identity else None,
        "backend_version": printable_text(identity.backend_version) if identity else None,
        "model": printable_text(result.model) or (printable_text(identity.model) if identity else None),
        "quantization": printable_text((identity and identity.quantization) or (info and info.quantization)) or None,
        "module": result.module,
        "concurrency": result.concurrency,
        **{name: finite(getattr(measured, name)) for name in (*SPEEDS, *TIMES)},
        "inter_token_seconds": inter_token_of(measured),
        "phase_seconds": dict(measured.phases),
        "tokens": tokens_of(measured),
        "token_count_exact": measured.token_count_exact,
        "stream_buffered": measured.stream_buffered,
        "cold_start": result.cold_start,
        "model_load_seconds": finite(result.model_load_seconds),
        "queued": result.queued,
        "queue_seconds": finite(result.queue_seconds),
        "beside_users": finite(result.beside_users),
        "notice": printable(result.state.notice, ERROR_CHARACTERS) or None if result.state else None,
        "tier": judgement.tier,
        "scenario": judgement.scenario,
        "expected": {"min": judgement.expected_min, "max": judgement.expected_max, "source": judgement.expected_source}
        if judgement.expected_min is not None or judgement.expected_max is not None
        else None,
        "ceiling_tokens_per_second": judgement.ceiling_tokens_per_second,
        "no_ceiling": judgement.no_ceiling or None,
        "efficiency": judgement.efficiency,
        "limit": judgement.limit,
        "gpu": (info.gpu_reason or None) if info else None,
        "settings": dict(info.settings) if info else {},
        "advice": [
            {"condition": each.condition, "sentence": printable(each.sentence, ERROR_CHARACTERS), "remedy": each.remedy}
            for each in advice
        ],
    }


def tokens_of(measured: Measurements) -> dict[str, int]:
    """Tokens by kind, those that were counted."""
    kinds = ("prompt", "cached", "reasoning", "output")
    counts = {kind: getattr(measured, f"{kind}_tokens") for kind in kinds}
    return {kind: count for kind, count in counts.items() if count is not None}


def inter_token_of(measured: Measurements) -> dict[str, float] | None:
    """Seconds per token that half and 99 of 100 tokens took at most."""
    if not measured.gaps:
        return None
    return {f"p{percent}": percentile(measured.gaps, percent / 100) for percent in (50, 99)}


def percentile(gaps: Iterable[tuple[float, int]], share: float) -> float:
    """The value below or at which a share of the weighted values lies: the smallest that reaches it."""
    ordered = sorted(gaps)
    wanted, seen = share * sum(weight for _, weight in ordered), 0
    for value, weight in ordered:
        seen += weight
        if seen >= wanted:
            return value
    return ordered[-1][0]


def combined(reports: Sequence[Report], bounds: Thresholds) -> dict[str, Any]:
    """Several runs as one report: medians and the spread of those that were fine, and all of them under ``runs``.

    It is a success only if every run was; else ``result``, ``error`` and ``answer_fault`` are those of the first that was not. The tier is
    that of the median; there is none if the tokens of a run were estimated.
    """
    fine = [report for report in reports if report["success"]]
    bad = [report for report in reports if not report["success"]]
    newest = (fine or reports)[-1]
    both = {
        **newest,
        **{name: _median(report[name] for report in fine) for name in (*SPEEDS, *TIMES)},
        **{name: _medians([report[name] for report in fine]) for name in NESTED},
    }
    if bad:
        both |= {"success": False, **{key: bad[0].get(key) for key in ("result", "error", "answer_fault")}}
    speed = both["tokens_per_second"]
    estimated = any(report.get("token_count_exact") is False for report in fine)
    both["tier"] = None if speed is None or estimated else tier_of(speed, bounds)
    ceilings = [report["ceiling_tokens_per_second"] for report in fine]
    ceiling = both["ceiling_tokens_per_second"] = None if None in ceilings else _median(ceilings)
    both["efficiency"] = None if speed is None or ceiling is None else speed / ceiling
    both["spread"] = {name: found for name in (*SPEEDS, *TIMES) if (found := _spread(report[name] for report in fine))}
    both["runs"] = [dict(report) for report in reports]
    return both


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    middle = median(known)
    return int(middle) if middle == int(middle) and all(isinstance(value, int) for value in known) else middle


def _medians(parts: Sequence[Mapping[str, float] | None]) -> dict[str, float | None] | None:
    known = [part for part in parts if part is not None]
    names = dict.fromkeys(name for part in known for name in part)
    return {name: _median(part.get(name) for part in known) for name in names} if known else None


def _spread(values: Iterable[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    return {"min": min(known), "max": max(known)} if known else None


def server_text(report: Report) -> str:
    """What answered: ``vLLM 0.11.0, Qwen2.5-14B-Instruct (awq)``; empty if nothing known did."""
    backend = report.get("backend")
    if not backend:
        return ""
    version, model, quantization = (
        printable_text(report.get(key)) for key in ("backend_version", "model", "quantization")
    )
    name = " ".join(filter(None, (name_of(backend), version)))
    return ", ".join(filter(None, (name, f"{model} ({quantization})" if model and quantization else model)))


def expected_text(report: Report) -> str | None:
    """What a scenario should reach, and whether it does."""
    expected, speed = report.get("expected"), report.get("tokens_per_second")
    if not expected or (expected["min"] is None and expected["max"] is None):
        return None
    low, high = expected["min"], expected["max"]
    text = f"{band_text(low, high)} tok/s {'by the ceiling' if expected.get('source') == 'ceiling' else 'for ' + str(report['scenario'])}"
    if speed is None:
        return text
    position = (
        "below it" if low is not None and speed < low else "above it" if high is not None and speed > high else "within"
    )
    return f"{text}: {position}"


def rows_of(report: Report) -> list[tuple[str, str]]:
    """A report as lines of a table: what, how much. Only what was measured."""
    spread = report.get("spread", {})

    def figure(label: str, key: str, text_of: Any, note: str = "") -> tuple[str, str] | None:
        value = report.get(key)
        if value is None:
            return None
        between = spread.get(key)
        varies = between and between["min"] != between["max"]
        around = f"  ({text_of(between['min'])} to {text_of(between['max'])})" if varies else ""
        return label, f"{text_of(value)}{around}{note}"

    streams = report.get("concurrency") or 1
    rows = [
        ("answer", "fine") if report["success"] else None,
        figure("speed", "tokens_per_second", speed_text, " for each stream" if streams > 1 else ""),
        figure(f"speed of {streams} streams", "aggregate_tokens_per_second", speed_text) if streams > 1 else None,
        ("tier", report["tier"]) if report.get("tier") else None,
        ("expected", expected) if (expected := expected_text(report)) else None,
        _ceiling_row(report),
        *_advice_rows(report),
        ("GPU", report["gpu"]) if report.get("gpu") and report["success"] else None,
        _settings_row(report),
        figure("time to first token", "ttft_seconds", seconds_text),
        _answer_row(report),
        figure("prefill", "prefill_tokens_per_second", speed_text),
        _inter_token_row(report),
        figure("end to end", "end_to_end_tokens_per_second", speed_text),
        figure("the server's own figure", "server_tokens_per_second", speed_text),
        _tokens_row(report),
        _phases_row(report),
        _error_row(report),
        figure("loading the model", "model_load_seconds", seconds_text),
        ("note", report["notice"]) if report.get("notice") else None,
    ]
    return [row for row in rows if row is not None]


def _error_row(report: Report) -> tuple[str, str] | None:
    error = report.get("clock_error_seconds")
    return None if error is None else ("timing error", f"at most {seconds_text(error)}")


def _ceiling_row(report: Report) -> tuple[str, str] | None:
    ceiling, efficiency = report.get("ceiling_tokens_per_second"), report.get("efficiency")
    if not report["success"]:
        return None
    if ceiling is None:
        return ("no ceiling", str(report["no_ceiling"])) if report.get("no_ceiling") else None
    return "ceiling", speed_text(ceiling) + (f", {efficiency:.0%} reached" if efficiency is not None else "")


def _advice_rows(report: Report) -> list[tuple[str, str]]:
    """Why the speed is what it is, and the other advice."""
    told = [f"{each['sentence']} {each['remedy']}".strip() for each in report.get("advice") or ()]
    return [("why" if number == 0 else "", text) for number, text in enumerate(told)]


def _settings_row(report: Report) -> tuple[str, str] | None:
    settings = {name: value for name, value in (report.get("settings") or {}).items() if name != "gpu"}
    return ("settings", ", ".join(f"{name} {value}" for name, value in settings.items())) if settings else None


def _answer_row(report: Report) -> tuple[str, str] | None:
    answer, first = report.get("time_to_first_answer_seconds"), report.get("ttft_seconds")
    return None if answer is None or answer == first else ("time to first answer", seconds_text(answer))


def _inter_token_row(report: Report) -> tuple[str, str] | None:
    gaps = report.get("inter_token_seconds")
    return ("between tokens", f"p50 {seconds_text(gaps['p50'])}, p99 {seconds_text(gaps['p99'])}") if gaps else None


def _tokens_row(report: Report) -> tuple[str, str] | None:
    tokens = report.get("tokens")
    if not tokens:
        return None
    counted = "" if report.get("token_count_exact") is not False else "  (estimated: the server does not count them)"
    return "tokens", ", ".join(f"{count:g} {kind}" for kind, count in tokens.items()) + counted


def _phases_row(report: Report) -> tuple[str, str] | None:
    phases = report.get("phase_seconds")
    if not phases or set(phases) == {"queue"}:  # nothing happened but that its turn came
        return None
    return "phases", ", ".join(f"{name.replace('_', ' ')} {seconds_text(value)}" for name, value in phases.items())


def why_no_speed(report: Report) -> str | None:
    """Why a probe that was fine gave no speed."""
    if not report["success"] or report.get("tokens_per_second") is not None:
        return None
    return no_speed_text(cold_start=bool(report.get("cold_start")), stream_buffered=report.get("stream_buffered"))


def below(tier: str | None, least: str) -> bool:
    """Whether a tier is worse than another; no tier is worse than any."""
    return tier is None or TIERS.index(tier) > TIERS.index(least)
