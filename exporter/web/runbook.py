"""The runbook as a page: what each alert means. Its text, ``runbook.json``, is written by ``python -m grafana.build``."""

import functools
import json
import re
from importlib import resources
from typing import Final

from exporter.web.templating import new_environment

_MARKED: Final = re.compile(r"`([^`]+)`|\*([^*]+)\*")


@functools.cache
def render_runbook() -> str:
    """The page as HTML. Each alert has its name in lower case as its anchor."""
    text = resources.files("exporter.web").joinpath("runbook.json").read_text(encoding="utf-8")
    environment = new_environment()
    environment.filters["parts"] = parts_of
    return environment.get_template("runbook.html").render(runbook=json.loads(text))


def parts_of(text: str) -> list[tuple[str, str]]:
    """A text in pieces, each with its kind: ``code`` between backticks, ``em`` between asterisks, else ``plain``."""
    parts, end = [], 0
    for match in _MARKED.finditer(text):
        parts += [("plain", text[end : match.start()]), ("code", match[1]) if match[1] else ("em", match[2])]
        end = match.end()
    return [(kind, part) for kind, part in [*parts, ("plain", text[end:])] if part]
