"""What a model's first tokens say of it: their log-probabilities, and how far they are from those that it had.

One token is asked for after each of a few fixed prompts. The same model on the same kernels gives the same log-probabilities
but for rounding; another model, quantization or kernel behind the same name moves them. A distance is in units of the model's
own noise, which repeated readings show. The noise is never taken as less than ``LEAST_NOISE`` or half the step in which the
server's logits are rounded. So equal readings do not make a step out of the next rounding. Pure: what was read goes in as JSON,
and what is known is a value made of plain numbers, for a history to keep.

    state, seen = observe(state, tuple(first_token(answer) for answer in answers))

``first_token`` takes the answers of OpenAI's chat and completions APIs (vLLM, llama-server, SGLang, TGI and others), of
llama-server's ``/completion`` with ``n_probs``, and of Ollama. A server without log-probabilities gives no reading.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Final
from zlib import crc32

from exporter.probe.prompt import compose

PROMPTS: Final[tuple[str, ...]] = (
    "Name one animal.",
    "Pick a number between one and one hundred.",
    "Name a city.",
    "Write the first word of a story.",
    compose(700, 0),
)
"""Short ones with many likely first words, and one longer than the micro-batch of 512 tokens."""
TOP_TOKENS: Final = 10
FIELDS: Final[Mapping[str, Any]] = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": TOP_TOKENS}
"""What a chat request of the OpenAI API asks for. llama-server takes ``cache_prompt: false`` besides."""

STEP_DISTANCE: Final = 6.0
STEP_READINGS: Final = 3
"""A distance above ``STEP_DISTANCE`` in that many readings in a row, which agree with each other, is a step."""
LEARNED_READINGS: Final = 5
"""Readings before there is a distance."""
ADOPTED_READINGS: Final = 24
"""After that many readings beyond a step, the new log-probabilities are those that the next ones are compared with."""
LEAST_NOISE: Final = 0.003

_MEMORY: Final = 64  # readings that the running means go back
_MOST_TOKENS: Final = 32
_LOWEST, _HIGHEST = -100.0, 0.01  # vLLM says -9999 for what is impossible
_MOST_APART: Final = 20.0
_FEWEST_STEPS: Final = 4  # fewer may lie on a grid by chance
# Of three numbers that agree with a new state of things, each is much nearer to the others than to the old one.
_AGREEMENT: Final = 1 / 3
_FORMAT: Final = float(crc32("\n".join(("1", *PROMPTS)).encode()))

Tokens = Mapping[int, float]
TokenReading = tuple[Tokens | None, ...]
"""For each prompt the log-probabilities (natural) of its likeliest first tokens, each by a hash of its bytes; None unread."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What readings of one prompt have in common: how many, each token's mean, the mean of the lowest listed, the variance."""

    readings: int = 0
    lowest: float = 0.0
    variance: float = 0.0
    means: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a model, and what readings beyond a step have in common; one ``Learned`` for each prompt."""

    known: tuple[Learned, ...] = (Learned(),) * len(PROMPTS)
    beyond: tuple[Learned, ...] = (Learned(),) * len(PROMPTS)


@dataclass(frozen=True, slots=True)
class FingerprintObservation:
    """What one reading says. ``distance`` is None while the model is being learned; ``stepped`` is True once for a step."""

    distance: float | None = None
    stepped: bool = False


def observe(state: State, reading: TokenReading) -> tuple[State, FingerprintObservation]:
    """What is known after this reading, and what it says against what was known before."""
    distance = distance_of(state.known, reading)
    if distance is None:
        return State(_learn(state.known, reading)), FingerprintObservation()
    count = _readings(state.beyond)
    if distance <= STEP_DISTANCE:
        stray = 0 < count < STEP_READINGS  # no step, so it was noise
        known = _widen(state.known, state.beyond) if stray else state.known
        return State(_learn(known, reading)), FingerprintObservation(distance)
    if count and _apart(state.beyond, reading, state.known) > _AGREEMENT * distance:
        known = state.known if count >= STEP_READINGS else _widen(state.known, state.beyond)
        return State(known, _learn(State().beyond, reading)), FingerprintObservation(distance)
    beyond = _learn(state.beyond, reading)
    seen = FingerprintObservation(distance, stepped=_readings(beyond) == STEP_READINGS)
    return (State(beyond) if _readings(beyond) >= ADOPTED_READINGS else State(state.known, beyond)), seen


def distance_of(known: Sequence[Learned], reading: TokenReading) -> float | None:
    """How far a reading is from what is known, in units of its noise: that of the prompt that is farthest; None while learning."""
    found = [
        _apart_of(each, tokens) / _noise(each, tokens)
        for each, tokens in zip(known, reading, strict=False)
        if tokens and each.readings >= LEARNED_READINGS
    ]
    return max(found, default=None)


def first_token(answer: Any) -> dict[int, float] | None:
    """The log-probabilities of the first token of an answer (its JSON, read); None if it has fewer than two."""
    for entries in _lists_of(answer):
        found: dict[int, float] = {}
        for token, value in islice(entries, _MOST_TOKENS):
            if _is_sane(value):
                key = crc32(token)
                found[key] = max(value, found.get(key, value))
        if len(found) > 1:
            return found
    return None


def numbers_of(state: State) -> list[float]:
    """A state as plain numbers, for a history to keep."""
    numbers = [_FORMAT]
    for each in (*state.known, *state.beyond):
        numbers += [float(each.readings), each.lowest, each.variance, float(len(each.means))]
        numbers += map(float, chain.from_iterable(each.means))
    return numbers


def state_of(numbers: Sequence[float]) -> State:
    """The state that ``numbers_of`` wrote down; an empty one if the numbers are of other prompts, or are not whole."""
    try:
        found = _read_back(numbers)
    except (IndexError, ValueError, OverflowError, TypeError):
        return State()
    return State(tuple(found[: len(PROMPTS)]), tuple(found[len(PROMPTS) :]))


def _read_back(numbers: Sequence[float]) -> list[Learned]:
    if numbers[0] != _FORMAT:
        raise ValueError("other prompts")
    found, at = [], 1
    for _ in range(2 * len(PROMPTS)):
        readings, count = int(numbers[at]), int(numbers[at + 3])
        if not (readings >= 0 and 0 <= count <= _MOST_TOKENS and bool(readings) == bool(count)):
            raise ValueError("not what numbers_of wrote")
        pairs = [(int(numbers[each]), float(numbers[each + 1])) for each in range(at + 4, at + 4 + 2 * count, 2)]
        learned = Learned(readings, float(numbers[at + 1]), float(numbers[at + 2]), tuple(pairs))
        if not (
            0 <= learned.variance < math.inf and all(map(_is_sane, (learned.lowest, *(mean for _, mean in pairs))))
        ):
            raise ValueError("not what numbers_of wrote")
        found.append(learned)
        at += 4 + 2 * count
    return found


def _is_sane(value: float) -> bool:
    return _LOWEST <= value <= _HIGHEST


def _learn(learned: Iterable[Learned], reading: TokenReading) -> tuple[Learned, ...]:
    return tuple(_learn_one(each, tokens) if tokens else each for each, tokens in zip(learned, reading, strict=False))


def _learn_one(learned: Learned, tokens: Tokens) -> Learned:
    readings = learned.readings + 1
    weight = 1 / min(readings, _MEMORY)
    means = dict(learned.means)
    squares = [(value - means[token]) ** 2 for token, value in tokens.items() if token in means]
    for token, value in tokens.items():
        means[token] = means.get(token, value) + weight * (value - means.get(token, value))
    kept = sorted(means.items(), key=lambda each: -each[1])[:_MOST_TOKENS]
    return Learned(
        readings,
        lowest=learned.lowest + weight * (min(tokens.values()) - learned.lowest),
        variance=_mixed(learned, squares),
        means=tuple(sorted(kept)),
    )


def _mixed(learned: Learned, squares: Sequence[float]) -> float:
    """The variance with these squared deviations from the means of before."""
    if not squares:
        return learned.variance
    new = math.fsum(squares) / len(squares) * learned.readings / (learned.readings + 1)
    return learned.variance + (new - learned.variance) / min(learned.readings, _MEMORY)


def _widen(known: Sequence[Learned], strays: Sequence[Learned]) -> tuple[Learned, ...]:
    """What is known, with the noise that strays show; the means stay."""
    return tuple(
        replace(each, variance=_mixed(each, [_apart_of(each, dict(stray.means)) ** 2])) if stray.means else each
        for each, stray in zip(known, strays, strict=True)
    )


def _apart(beyond: Sequence[Learned], reading: TokenReading, known: Sequence[Learned]) -> float:
    """How far a reading is from those beyond the step, in units of the noise that is known."""
    found = [
        _apart_of(each, tokens) / _noise(measure, tokens)
        for each, tokens, measure in zip(beyond, reading, known, strict=False)
        if tokens and each.means
    ]
    return max(found, default=math.inf)


def _apart_of(learned: Learned, tokens: Tokens) -> float:
    """The root mean square of what the tokens of either differ by.

    A token that only one of them lists has at most the lowest log-probability that the other lists, so it differs at least by
    what it has above that.
    """
    means, lowest = dict(learned.means), min(tokens.values())
    apart = [
        value - means[token] if token in means else max(0.0, value - learned.lowest) for token, value in tokens.items()
    ]
    apart += [max(0.0, mean - lowest) for token, mean in learned.means if token not in tokens]
    return math.sqrt(math.fsum(min(each * each, _MOST_APART**2) for each in apart) / len(apart))


def _noise(learned: Learned, tokens: Tokens) -> float:
    """The noise of a prompt's log-probabilities; that of few readings is taken for more, since they may have been alike."""
    own = math.sqrt(learned.variance) * (1 + 4 / max(learned.readings, 1))
    return max(LEAST_NOISE, own, _rounding(tokens.values()) / 2)


def _rounding(values: Iterable[float]) -> float:
    """The step in which logits are rounded: vLLM's are often bfloat16, so that log-probabilities lie 1/16 or 1/8 apart."""
    highest, *others = sorted(values, reverse=True)
    if len(set(others)) < _FEWEST_STEPS:
        return 0.0
    for power in range(2, 8):
        steps = [(highest - each) * 2**power for each in others]
        if all(abs(each - round(each)) < 0.002 for each in steps):
            return 2.0**-power
    return 0.0


def _readings(learned: Sequence[Learned]) -> int:
    return max(each.readings for each in learned)


def _lists_of(answer: Any) -> Iterator[Iterator[tuple[bytes, float]]]:
    """The tokens of the first position, in each of the shapes that servers give them."""
    choice = _first(_get(answer, "choices"))
    chat = _first(_get(choice, "logprobs", "content"))
    own = _first(_get(answer, "completion_probabilities"))
    ollama = _first(_get(answer, "logprobs"))
    for position in (chat, own, ollama):
        yield chain(_tokens(_get(position, "top_logprobs")), _tokens([position]))
    yield _pairs(_first(_get(choice, "logprobs", "top_logprobs")))
    yield _shares(_get(own, "probs"))


def _tokens(entries: Any) -> Iterator[tuple[bytes, float]]:
    """``{"token", "bytes", "logprob"}`` each."""
    for each in entries if isinstance(entries, list) else ():
        token, value = _bytes_of(each), _number(_get(each, "logprob"))
        if token is not None and value is not None:
            yield token, value


def _pairs(entries: Any) -> Iterator[tuple[bytes, float]]:
    """``{token: logprob, …}``, as the completions API has it."""
    for token, entry in entries.items() if isinstance(entries, Mapping) else ():
        if isinstance(token, str) and (value := _number(entry)) is not None:
            yield token.encode("utf-8", "replace"), value


def _shares(entries: Any) -> Iterator[tuple[bytes, float]]:
    """``{"tok_str", "prob"}`` each, as llama-server had it before 2025."""
    for each in entries if isinstance(entries, list) else ():
        token, value = _get(each, "tok_str"), _number(_get(each, "prob"))
        if isinstance(token, str) and value is not None and 0 < value <= 1:
            yield token.encode("utf-8", "replace"), math.log(value)


def _bytes_of(entry: Any) -> bytes | None:
    listed, token = _get(entry, "bytes"), _get(entry, "token")
    if isinstance(listed, list) and listed and all(isinstance(each, int) and 0 <= each < 256 for each in listed):
        return bytes(listed)
    return token.encode("utf-8", "replace") if isinstance(token, str) else None


def _get(value: Any, *path: str) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
