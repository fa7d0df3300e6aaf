"""A target as a picture: well-formed, named, and of the page's verdict."""

from xml.etree import ElementTree as ET

import pytest

from exporter.snapshot import Snapshot
from exporter.web.badge import COLOURS, GREY, badge_of
from exporter.web.status import TargetStatus, targets_of
from tests.scenes import NOW, publish_all
from tests.states import publish_states

STATUSES = {status.target: status for status in targets_of(publish_all(Snapshot()).view(), NOW)}


def text_of(status: TargetStatus) -> str:
    return "".join(ET.fromstring(badge_of(status)).itertext())


@pytest.mark.parametrize("name", STATUSES)
def test_each_state_has_a_picture(name: str) -> None:
    """It is one SVG element with a name for who can't see it, and holds nothing that a page would load or run."""
    svg = ET.fromstring(badge_of(STATUSES[name]))
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert svg.get("role") == "img"
    assert (svg.get("aria-label") or "").startswith(f"{name}: ")
    assert {each.tag.rpartition("}")[2] for each in svg.iter()} == {"svg", "title", "rect", "path", "text"}


def test_speed_and_verdict() -> None:
    """A judged target shows its speed, one without a speed its verdict alone."""
    assert "24.1 tok/s · excellent" in text_of(STATUSES["llamacpp-q4"])
    assert "6.4 tok/s · poor" in text_of(STATUSES["vllm"])
    assert text_of(STATUSES["transformers"]).endswith("down")
    assert "tok/s" not in text_of(STATUSES["garbled"])
    assert "stale" in text_of(STATUSES["behind-nginx"])
    (down,) = targets_of(publish_states(Snapshot(), ["down-since-a-moment"]).view(), NOW)
    assert text_of(down).endswith("momentdown")


def test_a_name_is_text_and_never_markup() -> None:
    """What a name holds is shown, cut to a length, and can't break out."""
    status = STATUSES["vllm"]
    hostile = TargetStatus('"><script>&\x07' + "x" * 99, status.verdict, "", status.info, None, status.probes)
    assert text_of(hostile).startswith('"><script>&xxx')
    assert "…" in text_of(hostile)


def contrast_with_white(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.03928 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


@pytest.mark.parametrize("colour", sorted({*COLOURS.values(), GREY}))
def test_white_text_can_be_read_on_each_colour(colour: str) -> None:
    """At least 4.5 to 1."""
    assert contrast_with_white(colour) >= 4.5
