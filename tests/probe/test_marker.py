"""Markers: each request has its own, one that comes back in another answer is found, and nothing else ever is."""

import random
import re

from hypothesis import given
from hypothesis import strategies as st

from exporter.probe.marker import REMEMBERED, Markers, foreign_markers, is_known, marker_of, remember
from tests.probe.healthy import NAMES, STYLES, answer
from tests.servers.make_tiny_gguf import CORPUS

SEEDS = st.integers(0, 2**64 - 1)


@given(seed=SEEDS)
def test_a_marker_is_a_name_that_is_made_again_from_its_seed(seed: int) -> None:
    """Eleven letters, the first a capital; the same seed gives the same one."""
    assert re.fullmatch(r"[A-Z][a-z]{10}", marker_of(seed))
    assert marker_of(seed) == marker_of(seed)


def test_markers_are_all_different() -> None:
    """Of 20,000 requests, which is two weeks of probes, no two share a marker."""
    assert len({marker_of(seed) for seed in range(20_000)}) == 20_000


@given(mine=SEEDS, theirs=SEEDS, end=st.sampled_from([".", ",", "'s", "!", "”", " went", "\n", "**", "。"]))
def test_a_marker_of_another_request_is_found_in_an_answer(mine: int, theirs: int, end: str) -> None:
    """As a word of its own, in any case and with any mark; the request's own marker is no evidence."""
    known = remember(Markers(), [marker_of(theirs), marker_of(mine)])
    text = f"The story of {marker_of(theirs).upper()}{end} and {marker_of(mine)}{end}"
    found = foreign_markers(text, known, [marker_of(mine)])
    assert found == (() if marker_of(mine) == marker_of(theirs) else (marker_of(theirs).lower(),))


@given(seed=SEEDS)
def test_a_marker_within_another_word_is_no_evidence(seed: int) -> None:
    """A longer word that holds the letters is another word, and so is one that is not remembered."""
    known = remember(Markers(), [marker_of(seed)])
    assert foreign_markers(f"un{marker_of(seed)}able {marker_of(seed)}s {marker_of(seed)[:-1]}", known) == ()
    assert foreign_markers(marker_of(seed), Markers()) == ()


def test_the_oldest_markers_are_forgotten_first() -> None:
    """The memory is bounded; what was asked long ago is no evidence any more."""
    known = Markers()
    for seed in range(REMEMBERED + 10):
        known = remember(known, [marker_of(seed)])
    assert len(known.hashes) == REMEMBERED
    assert not is_known(known, marker_of(9))
    assert is_known(known, marker_of(10))
    assert is_known(known, marker_of(REMEMBERED + 9))


def test_memory_holds_no_word() -> None:
    """Only numbers are kept."""
    known = remember(Markers(), [marker_of(1), "copper teapot"])
    assert all(isinstance(each, int) for each in known.hashes)
    assert is_known(known, "Copper Teapot")


def test_no_healthy_answer_holds_a_marker_of_another_request() -> None:
    """Not in thousands of answers of all styles, invented names and words of the random models included, by a full memory."""
    known = Markers()
    for seed in range(0, REMEMBERED, 64):
        known = remember(known, map(marker_of, range(seed, seed + 64)))
    assert foreign_markers(CORPUS + " ".join(NAMES), known) == ()
    for style in STYLES:
        for number in range(100):
            assert foreign_markers("".join(answer(style, number).chunks), known) == ()


def test_names_that_models_invent_are_not_those_of_other_requests() -> None:
    """Of 200,000 names of that many syllables, none is a marker that is remembered."""
    draw = random.Random(1)
    known = remember(Markers(), map(marker_of, range(REMEMBERED)))
    syllables = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiouy"]
    for _ in range(200):
        names = " ".join("".join(draw.choices(syllables, k=5)) + draw.choice("nrlskxthz") for _ in range(1000))
        assert foreign_markers(names, known) == ()
