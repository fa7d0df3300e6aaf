"""The log of a probe, as a person reads it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.web.probe_log import log_rows, plain


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("POST /v1/chat/completions", "POST /v1/chat/completions"),
        ('refused: 400: {"error": {"message": "no such model", "code": 400}}', "refused: 400: no such model"),
        ('refused: {"detail": "not found"}; once more', "refused: not found; once more"),
        ('{"object": "error"}', ""),
        ("a {brace} stays", "a {brace} stays"),
        ("} {", "} {"),
    ],
)
def test_a_servers_json_is_told_by_its_message(text: str, said: str) -> None:
    """The message that is in it stands in its place; what is no JSON stays."""
    assert plain(text) == said


def test_each_line_has_its_time() -> None:
    """Seconds since the probe was due, where the line says so."""
    assert log_rows(("+0.412 s ok", "no time")) == [(0.412, "ok"), (None, "no time")]


@given(st.lists(st.text()))
def test_any_log_can_be_shown(lines: list[str]) -> None:
    """Nothing that a server says makes it raise, and no line is lost."""
    assert len(log_rows(tuple(lines))) == len(lines)
