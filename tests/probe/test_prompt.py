"""The prompt: fresh at its beginning, ordinary, about as long as asked for, the same for the same seed."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.probe.prompt import OPENING_WORDS, compose, estimate

SEEDS = st.integers(0, 2**64 - 1)
LEAST = 40


@settings(deadline=None)
@given(seed=SEEDS, tokens=st.integers(LEAST, 3000))
def test_a_prompt_is_about_as_long_as_asked_for(seed: int, tokens: int) -> None:
    """By the estimate it has the tokens that were asked for, one more or less."""
    assert abs(estimate(compose(tokens, seed)) - tokens) <= 1


@settings(deadline=None)
@given(seed=SEEDS)
def test_the_same_seed_gives_the_same_prompt(seed: int) -> None:
    """A prompt can be made again from its seed."""
    assert compose(64, seed) == compose(64, seed)


def test_prompts_begin_differently() -> None:
    """No two of a thousand prompts share their first three words, so no prefix cache answers one from another."""
    openings = [tuple(re.findall(r"\w+", compose(64, seed))[:3]) for seed in range(1000)]
    assert len(set(openings)) > 995


@pytest.mark.parametrize("tokens", [1, 8, 24])
def test_a_prompt_asks_for_something_however_short(tokens: int) -> None:
    """The opening and the request are always there."""
    words = re.findall(r"\w+", compose(tokens, 7))
    assert len(words) > OPENING_WORDS + 5


@settings(deadline=None)
@given(seed=SEEDS)
def test_a_prompt_is_plain_english(seed: int) -> None:
    """Only letters, spaces and sentence marks, in sentences that begin with a capital."""
    text = compose(200, seed)
    assert re.fullmatch(r"[A-Za-z ,.]+", text)
    assert all(sentence[0].isupper() for sentence in text.split(". "))
