"""How a change is said."""

import pytest

from exporter.history.change import Difference
from exporter.history.change_text import after_text, before_text, change_text, effect_text, facts_text, in_order
from exporter.history.ratio import Ratio

IMAGE = Difference("image", "A", "B")
VERSION = Difference("backend version", "1", "2")
OTHER = Difference("container ROCm", "6.4", "7.0")
MORE = Difference("setting slots", "1", "4")


@pytest.mark.parametrize(
    ("differences", "text"),
    [
        ((), "nothing that is watched changed"),
        ((IMAGE,), "image changed from A to B"),
        ((VERSION, IMAGE), "image changed from A to B, backend version from 1 to 2"),
        (
            (MORE, OTHER, VERSION, IMAGE),
            "image changed from A to B, backend version from 1 to 2, setting slots from 1 to 4, 1 more fact",
        ),
    ],
)
def test_a_change_names_the_most_telling_facts_first(differences: tuple[Difference, ...], text: str) -> None:
    """Three facts in full, the rest as a number."""
    assert change_text(differences) == text


def test_labels_have_one_order() -> None:
    """Names and values stand in the same places."""
    ordered = in_order((OTHER, VERSION, IMAGE))
    assert facts_text(ordered) == "image, backend version, container ROCm"
    assert (before_text(ordered), after_text(ordered)) == ("A, 1, 6.4", "B, 2, 7.0")


def test_an_effect_says_where_it_is_noise() -> None:
    """The percentage has a sign, and a difference within the noise says so."""
    assert effect_text(Ratio(12.1, 6.4, 0.529, 0.5, 0.56, 60, 5)) == "6.4, before 12.1 tok/s (\N{MINUS SIGN}47 %)"
    noise = effect_text(Ratio(12.0, 12.1, 1.008, 0.98, 1.03, 60, 5))
    assert noise == "12.1, before 12.0 tok/s (+1 %, within the noise)"
