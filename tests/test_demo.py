"""What the simulated servers of the demo say."""

import pytest

from exporter.demo import tokens_for
from exporter.probe.answer import judge_text
from exporter.probe.canary import Answer, compose_canary, judge_deep, judge_short
from exporter.probe.marker import Markers
from exporter.probe.prompt import compose


@pytest.mark.parametrize("seed", range(20))
def test_a_canary_of_the_demo_is_right(seed: int) -> None:
    """Both questions are answered rightly, in enough tokens for a speed at depth."""
    canary = compose_canary(seed)
    short, deep = (Answer("".join(tokens_for(each.prompt, 512))) for each in (canary.short, canary.deep))
    assert judge_short(canary.short, short, Markers()).verdict == "right"
    assert judge_deep(canary.deep, deep, short, Markers()).verdict == "right"
    assert len(tokens_for(canary.deep.prompt, 512)) > 9


def test_any_other_prompt_gets_words_that_are_an_answer() -> None:
    """As many as were asked for."""
    said = tokens_for(compose(64, 1), 64)
    assert len(said) == 64
    assert judge_text(said) is None
