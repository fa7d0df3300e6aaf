"""The runbook as a page."""

import html
import re
from importlib import resources

import pytest

from exporter.web.runbook import parts_of, render_runbook

MARKDOWN_LINK = re.compile(r"\[[^\]]*\]\([^)]*\)")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("plain", [("plain", "plain")]),
        ("", []),
        ("see `a *b*` now", [("plain", "see "), ("code", "a *b*"), ("plain", " now")]),
        ("*Hot?* Then", [("em", "Hot?"), ("plain", " Then")]),
        ("2 * 3", [("plain", "2 * 3")]),
    ],
)
def test_code_and_stress_are_told_apart(text: str, parts: list[tuple[str, str]]) -> None:
    """Asterisks within code are code; one alone is itself."""
    assert parts_of(text) == parts


def test_no_markup_is_left_on_the_page() -> None:
    """The texts use nothing but what the page understands; expressions and globs may hold asterisks."""
    prose = re.sub(r"<(pre|code)[^>]*>.*?</\\1>", "", render_runbook(), flags=re.DOTALL)
    text = html.unescape(re.sub(r"<[^>]+>", "", prose))
    assert "`" not in text
    assert "**" not in text
    assert not MARKDOWN_LINK.search(text)


def test_every_link_within_the_page_leads_somewhere() -> None:
    """An anchor that the list of alerts names is there, once."""
    page = render_runbook()
    anchors = re.findall(r'id="([^"]+)"', page)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(anchors)


def test_the_text_is_part_of_the_package() -> None:
    """The page needs no file that only the repository has."""
    assert resources.files("exporter.web").joinpath("runbook.json").is_file()
