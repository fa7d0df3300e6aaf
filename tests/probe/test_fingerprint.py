"""The fingerprint: every server's shape is read, no JSON raises, noise makes no alarm in years, another model is found at once."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.probe.fingerprint import (
    ADOPTED_READINGS,
    LEARNED_READINGS,
    PROMPTS,
    STEP_DISTANCE,
    STEP_READINGS,
    TOP_TOKENS,
    FingerprintObservation,
    State,
    TokenReading,
    distance_of,
    first_token,
    numbers_of,
    observe,
    state_of,
)
from exporter.probe.prompt import estimate
from tests.probe.faults import FAULTS, Fault, FaultyServer

RECORDED: Final = Path(__file__).parent.parent / "fixtures" / "logprobs"
HOURS: Final = 2000
Noise = Callable[[random.Random], float]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "choices logprobs content top_logprobs token logprob bytes completion_probabilities probs tok_str prob".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=30,
)
VLLM: Final = {
    "choices": [
        {
            "message": {"role": "assistant", "content": "A"},
            "logprobs": {
                "content": [
                    {
                        "token": "A",
                        "logprob": -0.25,
                        "bytes": [65],
                        "top_logprobs": [
                            {"token": "A", "logprob": -0.25, "bytes": [65]},
                            {"token": "The", "logprob": -2.5, "bytes": None},
                            {"token": "\ufffd", "logprob": -3.5, "bytes": [240]},
                            {"token": "\ufffd", "logprob": -4.0, "bytes": [241]},
                            {"token": "x", "logprob": -9999.0, "bytes": [120]},
                        ],
                    }
                ]
            },
        }
    ]
}
LEGACY: Final = {
    "choices": [
        {
            "text": " a",
            "logprobs": {"tokens": [" a"], "token_logprobs": [-0.5], "top_logprobs": [{" a": -0.5, " b": -1.5}]},
        }
    ]
}
OLLAMA: Final = {
    "message": {"content": "A"},
    "logprobs": [
        {
            "token": "A",
            "logprob": -0.5,
            "top_logprobs": [{"token": "A", "logprob": -0.5}, {"token": "B", "logprob": -1.0}],
        }
    ],
}
LLAMA_BEFORE_2025: Final = {
    "completion_probabilities": [
        {
            "content": "A",
            "probs": [{"tok_str": "A", "prob": 0.5}, {"tok_str": "B", "prob": 0.0}, {"tok_str": "C", "prob": 0.25}],
        }
    ]
}


def key(token: str | bytes) -> int:
    """A token as readings name it."""
    return crc32(token.encode() if isinstance(token, str) else token)


class FingerprintModel:
    """Logits of a model after each prompt, and readings of them with a noise, in steps where the server rounds them."""

    def __init__(self, seed: int = 1, *, tokens: int = 40) -> None:
        draw = random.Random(seed)
        self.logits = [[draw.gauss(0, 3) for _ in range(tokens)] for _ in PROMPTS]

    def moved(self, by: float, *, only: int | None = None) -> "FingerprintModel":
        """The same model with other weights or kernels: each logit moved at random by so much, of one prompt or of all."""
        draw, other = random.Random(9), FingerprintModel()
        other.logits = [
            [each + (by * draw.gauss(0, 1) if only in {None, number} else 0) for each in logits]
            for number, logits in enumerate(self.logits)
        ]
        return other

    def read(self, draw: random.Random, noise: Noise = lambda _draw: 0.0, steps: float = 0.0) -> TokenReading:
        """One reading."""
        return tuple(self._tokens(logits, draw, noise, steps) for logits in self.logits)

    @staticmethod
    def _tokens(logits: list[float], draw: random.Random, noise: Noise, steps: float) -> dict[int, float]:
        noisy = [each + noise(draw) for each in logits]
        rounded = [round(each / steps) * steps for each in noisy] if steps else noisy
        highest = max(rounded)
        total = highest + math.log(math.fsum(math.exp(each - highest) for each in rounded))
        top = sorted(range(len(rounded)), key=lambda token: -rounded[token])[:TOP_TOKENS]
        return {token: rounded[token] - total for token in top}


def learned(
    model: FingerprintModel, draw: random.Random, noise: Noise = lambda _draw: 0.0, *, readings: int = 24
) -> State:
    """What is known after so many readings."""
    state = State()
    for _ in range(readings):
        state, _ = observe(state, model.read(draw, noise))
    return state


def steps_of(state: State, readings: list[TokenReading]) -> tuple[State, list[FingerprintObservation]]:
    """What readings one after the other say."""
    seen = []
    for reading in readings:
        state, observation = observe(state, reading)
        seen.append(observation)
    return state, seen


def heavy(draw: random.Random) -> float:
    """Noise with heavy tails: Student's t with 3 degrees of freedom, at 0.01."""
    return 0.01 * draw.gauss(0, 1) / math.sqrt(math.fsum(draw.gauss(0, 1) ** 2 for _ in range(3)) / 3)


@pytest.mark.parametrize("name", ["llama-server-chat", "llama-server-completions", "llama-server-completion"])
def test_the_answers_of_llama_server_are_read(name: str) -> None:
    """Five tokens of each recorded answer, the likeliest first in it."""
    found = first_token(json.loads((RECORDED / f"{name}.json").read_bytes()))
    assert found is not None
    assert len(found) == 5
    assert all(-6 < value < 0 for value in found.values())
    likeliest = {"llama-server-chat": " before"}.get(name, " I")
    assert max(found, key=lambda token: found[token]) == key(likeliest)


def test_an_answer_without_log_probabilities_is_no_reading() -> None:
    """None, and so is one that names a single token."""
    assert first_token(json.loads((RECORDED / "llama-server-without.json").read_bytes())) is None
    assert (
        first_token({"choices": [{"logprobs": {"content": [{"token": "A", "logprob": -0.1, "top_logprobs": []}]}}]})
        is None
    )
    assert first_token({"error": {"message": "logprobs are not supported"}}) is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (VLLM, {key("A"): -0.25, key("The"): -2.5, key(b"\xf0"): -3.5, key(b"\xf1"): -4.0}),
        (LEGACY, {key(" a"): -0.5, key(" b"): -1.5}),
        (OLLAMA, {key("A"): -0.5, key("B"): -1.0}),
        (LLAMA_BEFORE_2025, {key("A"): math.log(0.5), key("C"): math.log(0.25)}),
    ],
)
def test_the_shapes_of_other_servers_are_read(answer: Any, expected: dict[int, float]) -> None:
    """Made up after the documentation: bytes tell tokens apart that have no text, and what is impossible has no figure."""
    assert first_token(answer) == expected


@settings(max_examples=300)
@given(answer=JSON)
def test_no_json_raises(answer: Any) -> None:
    """Any JSON is a reading of finite log-probabilities, or none."""
    found = first_token(answer)
    assert found is None or (len(found) > 1 and all(-100 < value <= 0.01 for value in found.values()))


@given(value=JSON, path=st.sampled_from(["choices", "logprobs", "content", "position", "entry"]))
def test_no_part_of_an_answer_raises(value: Any, path: str) -> None:
    """Whatever stands in one place of an answer that is else well-formed."""
    entry = value if path == "entry" else {"token": "A", "logprob": -1.0, "bytes": [65]}
    position = (
        value
        if path == "position"
        else {"token": "A", "logprob": -1.0, "top_logprobs": [entry, entry, {"token": "B", "logprob": -2}]}
    )
    content = value if path == "content" else [position]
    logprobs = value if path == "logprobs" else {"content": content}
    first_token(
        {"choices": value if path == "choices" else [{"logprobs": logprobs}], "completion_probabilities": content}
    )


def test_the_prompts_are_short_and_one_is_beyond_the_micro_batch() -> None:
    """Four of a few tokens, one of more than 512."""
    assert [estimate(each) > 512 for each in PROMPTS] == [False, False, False, False, True]
    assert sum(map(estimate, PROMPTS)) < 800


def test_nothing_is_said_before_the_noise_is_known() -> None:
    """The first readings are learned from; then a reading that is the same is at distance 0."""
    model, draw = FingerprintModel(), random.Random(1)
    state, seen = steps_of(State(), [model.read(draw) for _ in range(LEARNED_READINGS + 1)])
    assert [each.distance for each in seen] == [None] * LEARNED_READINGS + [pytest.approx(0.0, abs=1e-6)]
    assert not any(each.stepped for each in seen)
    assert distance_of(state.known, ()) is None


def test_identical_readings_make_no_alarm_of_a_rounding() -> None:
    """Readings that were all the same leave a noise of 0, and a difference of a thousandth is still none."""
    model, draw = FingerprintModel(), random.Random(1)
    state = learned(model, draw)
    _, seen = observe(state, model.moved(0.001).read(draw))
    assert seen.distance is not None
    assert 0 < seen.distance < 1


@pytest.mark.parametrize(
    ("noise", "steps"),
    [
        (lambda _draw: 0.0, 0.0),
        (lambda draw: draw.gauss(0, 0.001), 0.0),
        (lambda draw: draw.gauss(0, 0.03), 0.0),
        (heavy, 0.0),
        (lambda draw: draw.gauss(0, 0.01), 1 / 16),
    ],
    ids=["none", "small", "large", "heavy", "bfloat16"],
)
def test_noise_makes_no_step(noise: Noise, steps: float) -> None:
    """An hourly reading for twelve weeks of each kind of noise; ``tests/bench/answers.py`` reads for twenty years."""
    model, draw, state = FingerprintModel(), random.Random(3), State()
    for _ in range(HOURS):
        state, seen = observe(state, model.read(draw, noise, steps))
        assert not seen.stepped


def test_hours_in_which_the_server_is_busy_make_no_step() -> None:
    """Batches of other requests add noise for a few hours every few days, in which readings differ among themselves."""
    model, draw, state = FingerprintModel(), random.Random(4), State()
    for hour in range(HOURS):
        busy = random.Random(hour // 6).random() < 0.1
        state, seen = observe(state, model.read(draw, (lambda d: d.gauss(0, 0.02)) if busy else (lambda _draw: 0.0)))
        assert not seen.stepped


@pytest.mark.parametrize("noise", [0.0, 0.005, 0.03])
@pytest.mark.parametrize("only", [None, len(PROMPTS) - 1], ids=["all", "deep"])
def test_another_model_is_found_in_three_readings(noise: float, only: int | None) -> None:
    """Logits that moved by more than the noise, after all prompts or after the long one alone, are a step at the third reading."""
    model, draw = FingerprintModel(), random.Random(5)
    state = learned(model, draw, lambda d: d.gauss(0, noise))
    other = model.moved(0.06 + 12 * noise, only=only)
    state, seen = steps_of(state, [other.read(draw, lambda d: d.gauss(0, noise)) for _ in range(10)])
    assert [each.stepped for each in seen] == [False, False, True] + [False] * 7
    assert all((each.distance or 0.0) > STEP_DISTANCE for each in seen)


def test_another_model_with_other_words_is_found() -> None:
    """Tokens that only one of them lists count for what they have above the lowest that the other lists."""
    draw = random.Random(6)
    _, seen = steps_of(learned(FingerprintModel(), draw), [FingerprintModel(seed=2).read(draw) for _ in range(3)])
    assert seen[-1].stepped


def test_a_step_stays_visible_for_a_day_and_is_then_the_new_state() -> None:
    """The distance is that from what was before, until the new readings are as many as a day has hours; then it is small."""
    model, draw = FingerprintModel(), random.Random(7)
    other = model.moved(0.5)
    state, seen = steps_of(learned(model, draw), [other.read(draw) for _ in range(ADOPTED_READINGS + 3)])
    far = [(each.distance or 0.0) > STEP_DISTANCE for each in seen]
    assert far == [True] * ADOPTED_READINGS + [False] * 3
    assert sum(each.stepped for each in seen) == 1
    _, seen = steps_of(state, [model.read(draw) for _ in range(STEP_READINGS)])
    assert [each.stepped for each in seen] == [False, False, True]


def test_a_model_that_comes_back_is_the_known_one() -> None:
    """Swapped for some hours and back, the distance is small again, and the next swap is found again."""
    model, draw = FingerprintModel(), random.Random(8)
    other, state = model.moved(0.5), learned(FingerprintModel(), draw)
    for _ in range(5):
        state, seen = steps_of(state, [other.read(draw) for _ in range(10)])
        assert [each.stepped for each in seen].count(True) == 1
        state, seen = steps_of(state, [model.read(draw) for _ in range(10)])
        assert not any(each.stepped for each in seen)
        assert seen[-1].distance is not None
        assert seen[-1].distance < STEP_DISTANCE


def test_a_single_stray_reading_is_no_step() -> None:
    """Nor are two; they widen the noise, so that the next is not far."""
    model, draw = FingerprintModel(), random.Random(9)
    state = learned(model, draw)
    for _ in range(20):
        stray = [model.moved(0.1 * draw.random() + 0.05).read(draw, lambda d: d.gauss(0, 0.05)) for _ in range(2)]
        state, seen = steps_of(state, [*stray, *(model.read(draw) for _ in range(5))])
        assert not any(each.stepped for each in seen)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: each.name)
def test_a_fault_that_moves_the_logits_is_found(fault: Fault) -> None:
    """Wrong kernels and lost accuracy are steps within ten readings; a fault that shows elsewhere makes none."""
    server = FaultyServer()
    state, _ = steps_of(State(), [server.reading() for _ in range(12)])
    _, seen = steps_of(state, [FaultyServer(fault).reading() for _ in range(10)])
    assert any(each.stepped for each in seen) == ("fingerprint" in fault.detectors)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), readings=st.integers(0, 12), strays=st.integers(0, 4))
def test_a_state_comes_back_from_its_numbers(seed: int, readings: int, strays: int) -> None:
    """Written down as numbers, through JSON too, and read again it is the same."""
    model, draw = FingerprintModel(seed), random.Random(seed)
    state = learned(model, draw, lambda d: d.gauss(0, 0.01), readings=readings)
    state, _ = steps_of(state, [model.moved(1.0).read(draw) for _ in range(strays)])
    numbers = numbers_of(state)
    assert all(map(math.isfinite, numbers))
    assert state_of(json.loads(json.dumps(numbers))) == state


@given(numbers=st.lists(st.floats() | st.integers(), max_size=60), at=st.integers(0, 400), value=st.floats())
def test_numbers_that_are_not_a_state_are_an_empty_one(numbers: list[float], at: int, value: float) -> None:
    """Those of another version, cut ones and any others: nothing is known, and nothing raises."""
    assert state_of(numbers) == State()
    known = numbers_of(learned(FingerprintModel(), random.Random(1), readings=3))
    assert state_of(known[:-1]) == State()
    known[at % len(known)] = value
    observe(state_of(known), FingerprintModel().read(random.Random(2)))
