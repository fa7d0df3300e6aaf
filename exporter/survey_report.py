"""A round of discovery as a person or a script reads it: what would be probed and why, what not and why not. Pure."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from exporter.discovery import Found, Survey
from exporter.report import server_text
from exporter.text import ERROR_CHARACTERS, printable


def survey_json(configured: Iterable[tuple[str, str]], found: Survey, engine_problem: str) -> dict[str, Any]:
    """A survey as ``discover --json`` prints it; ``configured`` are names and URLs of the targets in the settings."""
    return {
        "configured": [{"name": name, "url": url} for name, url in configured],
        "found": [
            {
                "name": each.name,
                "url": each.url,
                "why": each.why,
                "container": each.container,
                "backend": each.identity.backend,
                "backend_version": each.identity.backend_version,
                "model": each.identity.model,
                "notice": each.notice or None,
            }
            for each in found.found
        ],
        "not_probed": [{"url": each.url, "why_not": each.why_not, "listening": each.listening} for each in found.seen],
        "containers_problem": engine_problem or None,
    }


def survey_rows(configured: Iterable[tuple[str, str]], found: Survey) -> list[tuple[str, str]]:
    """A survey as lines of a table: what becomes of each address, and why."""
    silent = [each.url for each in found.seen if not each.listening]
    return [
        *(("would be probed", f"{url}  {name}, as configured") for name, url in configured),
        *(("would be probed", f"{each.url}  {_found_text(each)}") for each in found.found),
        *(
            ("would not", f"{each.url}  {printable(each.why_not, ERROR_CHARACTERS)}")
            for each in found.seen
            if each.listening
        ),
        *([("nothing listens", ", ".join(silent))] if silent else []),
    ]


def _found_text(found: Found) -> str:
    """A server that was found: what it is, why it was looked for there, and what to know of probes of it."""
    known = f"{server_text(asdict(found.identity))}: {found.why}"
    return f"{known}. Note: {printable(found.notice, ERROR_CHARACTERS)}" if found.notice else known
