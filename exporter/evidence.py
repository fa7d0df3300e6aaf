"""A measurement as a table to paste into an issue or a forum: machine, software, model, speed, and what isn't known. Pure.

Nothing private is in it: no URL, host name, user name, path or key.
"""

from collections.abc import Iterator
from typing import Any, Final

from exporter.backends import name_of
from exporter.machine_report import Findings, ServerReport, machine_json, public, public_image
from exporter.report import Report, expected_text, why_no_speed
from exporter.text import bytes_text, count_text, printable, seconds_text, share_text, speed_text
from exporter.web.status import RESULT_TEXTS

UNKNOWN: Final = "unknown"
Row = tuple[str, str]


def evidence_markdown(report: Report, findings: Findings | None, server: ServerReport | None, version: str) -> str:
    """A report of ``probe`` with the machine that it is about; ``findings`` is None if the server runs elsewhere.

    ``server`` is what the machine shows of the server; ``version`` is that of the exporter.
    """
    rows = [*_machine_rows(findings), *_server_rows(report, findings, server), *_speed_rows(report, version)]
    lines = ["| what | |", "|---|---|"]
    lines += [f"| {what} | {printable(text, 500).replace('|', chr(92) + '|')} |" for what, text in rows]
    return "\n".join(lines)


def _machine_rows(findings: Findings | None) -> Iterator[Row]:
    if findings is None:
        yield "machine", f"{UNKNOWN}: the server does not run on the machine that measured it"
        return
    found = machine_json(findings)
    gpus = [_gpu_text(gpu) for gpu in found["gpus"]] + [each["name"] for each in found["other_gpus"]]
    yield "GPU", "; ".join(gpus) or f"{UNKNOWN}: none can be seen"
    yield "memory", bytes_text(found["memory_bytes"]) if found["memory_bytes"] else UNKNOWN
    parameters = " ".join(f"{name}={value}" for name, value in found["kernel_parameters"].items())
    yield "kernel", " ".join(filter(None, (found["kernel"] or UNKNOWN, parameters)))
    bios = found["bios"]
    yield "BIOS", " of ".join(filter(None, (bios["version"], bios["date"]))) or UNKNOWN
    firmware = [
        f"{block} {version}"
        for gpu in found["gpus"]
        for block, version in sorted({**gpu["firmware"], **({"vBIOS": gpu["vbios"]} if gpu["vbios"] else {})}.items())
    ]
    yield "firmware", ", ".join(firmware) or UNKNOWN
    power = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found["power_profile"].items() if value)
    yield "power profile", power or UNKNOWN
    driver = found["amdgpu_driver"]
    yield "amdgpu driver", f"{driver['version']} ({driver['source']})" if driver else UNKNOWN
    yield "ROCm of the host", found["rocm"]["version"] or f"{UNKNOWN}: none is installed in the usual places"


def _gpu_text(gpu: dict[str, Any]) -> str:
    size, width = gpu["memory_pool_bytes"], gpu["bandwidth_bytes_per_second"]
    parts = (
        gpu["name"],
        gpu["gfx_target"],
        f"{gpu['compute_units']} CUs" if gpu["compute_units"] else None,
        f"{bytes_text(size)} for models" if size else None,
        f"{bytes_text(width)}/s" if width else None,
    )
    return ", ".join(filter(None, parts))


def _server_rows(report: Report, findings: Findings | None, server: ServerReport | None) -> Iterator[Row]:
    backend = report.get("backend")
    name = " ".join(filter(None, (name_of(backend), report.get("backend_version")))) if backend else UNKNOWN
    yield "server", name if report.get("backend_version") or not backend else f"{name}, version {UNKNOWN}"
    image = public_image(server.image) if server and server.image else ""
    yield "image", image or ("none: no container" if server else UNKNOWN)
    if image and findings:
        inside = (
            [each.rocm.raw for each in findings.engine.containers if each.image == server.image and each.rocm]
            if server
            else []
        )
        yield "ROCm of the container", inside[0] if inside else UNKNOWN
    yield "model", public(report.get("model") or UNKNOWN)
    yield "quantization", report.get("quantization") or (server.info.quantization if server else "") or UNKNOWN
    yield "weights", bytes_text(server.model_bytes) if server and server.model_bytes else UNKNOWN
    settings = {name: value for name, value in (report.get("settings") or {}).items() if name != "gpu"}
    yield "settings", public(", ".join(f"{name} {value}" for name, value in settings.items())) or UNKNOWN


def _speed_rows(report: Report, version: str) -> Iterator[Row]:
    runs = report.get("runs") or [report]
    good = sum(1 for run in runs if run["success"])
    answer = "fine" if report["success"] else f"{report['result']}: {RESULT_TEXTS.get(report['result'], 'failed')}"
    yield "answer", f"{answer} ({good} of {count_text(len(runs), 'run')})"
    speed = report.get("tokens_per_second")
    yield "decode speed", _spread_text(report, "tokens_per_second") if speed is not None else _no_speed(report)
    streams = report.get("concurrency") or 1
    if streams > 1:
        yield f"speed of {streams} streams", _spread_text(report, "aggregate_tokens_per_second")
    yield "time to first token", _spread_text(report, "ttft_seconds")
    yield "prefill", _spread_text(report, "prefill_tokens_per_second")
    tokens = report.get("tokens") or {}
    depth = tokens.get("prompt")
    counted = "" if report.get("token_count_exact") else ", tokens estimated from chunks"
    yield "depth", f"{depth:g} tokens of prompt" if depth is not None else UNKNOWN
    output = tokens.get("output")
    yield "output", f"{output:g} tokens{counted}" if output is not None else UNKNOWN
    ceiling = report.get("ceiling_tokens_per_second")
    if ceiling is not None:
        reached = f", {share_text(report['efficiency'])} reached" if report.get("efficiency") is not None else ""
        yield "ceiling by memory bandwidth", f"{speed_text(ceiling)}{reached}"
    else:
        yield "ceiling by memory bandwidth", f"{UNKNOWN}: {public(report.get('no_ceiling') or 'not judged')}"
    if expected := expected_text(report):
        yield "expected", expected
    yield "measured by", f"llm-probe-exporter {version}, module {report['module']}"


def _no_speed(report: Report) -> str:
    return f"{UNKNOWN}: {why_no_speed(report) or 'the probe failed'}"


def _spread_text(report: Report, key: str) -> str:
    """A figure with its unit and, of several runs, the least and the most of them."""
    text_of = seconds_text if key.endswith("_seconds") else speed_text
    value, spread = report.get(key), (report.get("spread") or {}).get(key)
    if value is None:
        return UNKNOWN
    runs = sum(1 for run in report.get("runs") or () if run["success"])
    return (
        f"{text_of(value)} (median of {runs}: {text_of(spread['min'])} to {text_of(spread['max'])})"
        if spread
        else text_of(value)
    )
