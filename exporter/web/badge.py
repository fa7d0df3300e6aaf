"""A target's verdict as a picture for a README or a wiki: its name, and its speed or its verdict. Pure."""

from html import escape
from typing import Final

from exporter.text import printable
from exporter.web.status import TargetStatus

GREY: Final = "#59616b"
COLOURS: Final = {
    "excellent": "#14744a",
    "right": "#14744a",
    "good": "#52750b",
    "acceptable": "#8f6000",
    "poor": "#bd3f0b",
    "down": "#b01038",
    "stuck": "#b01038",
    "failing": "#b01038",
    "wrong": "#b01038",
    "busy": "#2a5fae",
    "loading": "#2a5fae",
}
"""As on the status page in its light scheme; white text on each has a contrast of at least 4.5 to 1."""
LONGEST: Final = 40
_CHARACTER: Final = 7.2
"""Width of one character of the font, in pixels."""


def badge_of(status: TargetStatus) -> str:
    """An SVG of 20 pixels' height that needs nothing else: no font, no style sheet, no script."""
    target = printable(status.target)
    name = target if len(target) <= LONGEST else f"{target[: LONGEST - 1]}…"
    told = badge_text(status)
    left, right = round(len(name) * _CHARACTER) + 12, round(len(told) * _CHARACTER) + 12
    colour = COLOURS.get(status.verdict.name, GREY)
    text = (
        'y="14" fill="#fff" font-family="DejaVu Sans Mono,Menlo,Consolas,monospace" font-size="12" text-anchor="middle"'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img"'
        f' aria-label="{escape(name)}: {escape(told)}"><title>{escape(name)}: {escape(told)}</title>'
        f'<rect width="{left + right}" height="20" rx="3" fill="#3a4149"/>'
        f'<path d="M{left} 0h{right - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{right - 3}z" fill="{colour}"/>'
        f'<text x="{left / 2:g}" {text} textLength="{left - 12}">{escape(name)}</text>'
        f'<text x="{left + right / 2:g}" {text} textLength="{right - 12}">{escape(told)}</text></svg>\n'
    )


def badge_text(status: TargetStatus) -> str:
    """The verdict, with the speed that it is about if there is one."""
    first = status.probes[0]
    fresh = first.speed is not None and first.verdict == status.verdict and not first.stale
    if first.stale:
        return f"{status.verdict.name}, stale"
    return f"{first.speed_text} tok/s · {status.verdict.name}" if fresh else status.verdict.name
