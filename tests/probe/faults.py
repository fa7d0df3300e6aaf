"""Fifteen faults that users of real servers reported, as servers that show them: fast, HTTP 200, and wrong.

The streams are made up after what the cited threads tell; none is a copy. ``begins`` is the length of the prompt from which on
a fault shows, in tokens by ``estimate``. ``detectors`` are those that find it: the text alone, markers of other requests, the
canary, the fingerprint.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from exporter.probe.canary import Answer
from exporter.probe.fingerprint import PROMPTS, TokenReading
from exporter.probe.prompt import estimate
from tests.probe.healthy import prose, tokens_of

Detector = Literal["text", "foreign", "canary", "fingerprint"]
Reply = Callable[[str, list[str]], str]
"""The prompt, and the answers that other requests got before → what the server answers."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: where it is told, from where on it shows, what is answered then, and how far the first token's logits move."""

    name: str
    thread: str
    begins: int
    detectors: frozenset[Detector]
    reply: Reply
    moves: float = 0.0


@dataclass(slots=True)
class FaultyServer:
    """A server in memory: a model that recalls what its prompt says, with a fault or without one."""

    fault: Fault | None = None
    noise: float = 0.001
    draw: random.Random = field(default_factory=lambda: random.Random(7))
    said: list[str] = field(default_factory=list)

    def answer(self, prompt: str) -> Answer:
        """What the server answers to a prompt."""
        right = recall(prompt, self.draw)
        broken = self.fault is not None and estimate(prompt) >= self.fault.begins
        text = self.fault.reply(prompt, self.said) if self.fault and broken else right
        self.said.append(right)
        return Answer(text, finish_reason="length" if broken and len(text) > 400 else "stop")

    def reading(self) -> TokenReading:
        """The log-probabilities of the first token after each prompt of the fingerprint."""
        moved = self.fault.moves if self.fault else 0.0
        return tuple(first_tokens(number, moved, self.noise, self.draw) for number in range(len(PROMPTS)))


def recall(prompt: str, draw: random.Random) -> str:
    """What a healthy model says: the fact, where it is asked for one, else a story about the one who is named."""
    if fact := re.search(r"(\w+) keeps an? (\w+ \w+) in the cellar", prompt):
        return f"{fact[1]} keeps a {fact[2]} in the cellar."
    name = re.match(r"\w*", prompt)
    return f"{name[0] if name else 'She'} went on along the river. {prose(draw)}"


def first_tokens(number: int, moved: float, noise: float, draw: random.Random) -> dict[int, float]:
    """The likeliest tokens of a model's answer to one prompt, its logits moved at random by so much."""
    own, shift = random.Random(f"logits {number}"), random.Random(f"moved {number}")
    logits = [own.gauss(0, 3) + moved * shift.gauss(0, 1) + noise * draw.gauss(0, 1) for _ in range(60)]
    share = max(logits) - 1.0
    return {token: logits[token] - share - 2.0 for token in sorted(range(60), key=lambda each: -logits[each])[:10]}


def repeating(unit: str, times: int = 300) -> Reply:
    """One thing again and again."""
    return lambda _prompt, _said: unit * times


def saying(*texts: str) -> Reply:
    """A fixed answer, one of these for each length of prompt."""
    return lambda prompt, _said: texts[len(prompt) % len(texts)]


def soup(prompt: str, _said: list[str]) -> str:
    """Tokens of the whole vocabulary in any order, as wrong logits give them."""
    pieces = (
        " Dickinson", "FAk", "ynth", " lateral", "世", "ност", " the", "ัน", "מר", "((", "ensch", "هم", "된", "'];", " Robb", "াে", "δα", "।",
        "gov", "ция", "ไม", "של", "ال", "本", "까", "arrow", " 1943", "_tr", "क्ष", "ing",
    )  # fmt: skip
    return "".join(random.Random(prompt).choices(pieces, k=120))


def english_soup(prompt: str, _said: list[str]) -> str:
    """The same of a model that knows English alone: words without any order, none of them repeated."""
    words = "lateral silent prescribed forgotten widow galleries anxiety visions display scanner Lincoln mill shade through Bread"
    return " ".join(random.Random(prompt).choices(words.split(), k=60))


def digits(prompt: str, _said: list[str]) -> str:
    """Digits without end."""
    return "".join(random.Random(prompt).choices("0123456789", k=500))


def before(_prompt: str, said: list[str]) -> str:
    """The answer that another request got."""
    return said[0] if said else "The quarterly report covers revenue, staff and outlook."


FAULTS: Final[tuple[Fault, ...]] = (
    Fault(
        "wrong-logits-above-micro-batch", "ggml-org/llama.cpp#28211", 513, frozenset({"text", "canary", "fingerprint"}), soup, 1.0
    ),
    Fault("junk-above-5000", "lemonade-sdk/lemonade#3610", 5000, frozenset({"canary"}), english_soup),
    Fault("reply-of-another-document", "ollama/ollama#17895", 1200, frozenset({"foreign", "canary"}), before),
    Fault(
        "denies-what-it-was-told-above-4000", "ggml-org/llama.cpp#27579", 3500, frozenset({"canary"}),
        saying("I can't find that in the text; no such cellar is mentioned.", "There is no such item among the notes."),
    ),
    Fault("other-slots-answer", "ggml-org/llama.cpp#25992", 0, frozenset({"foreign"}), before),
    Fault("slashes", "ggml-org/llama.cpp#26209", 0, frozenset({"text", "canary", "fingerprint"}), repeating("/"), 2.0),
    Fault("unused49", "ROCm/TheRock#7714", 7000, frozenset({"text", "canary"}), repeating("<unused49>")),
    Fault("question-marks", "ROCm/TheRock#5579", 0, frozenset({"text", "canary", "fingerprint"}), repeating("???", 100), 2.0),
    Fault("slashes-until-a-restart", "ggml-org/llama.cpp#23577", 0, frozenset({"text", "canary"}), repeating("/////", 60)),
    Fault("digits", "ROCm/aiter#4855", 31_000, frozenset({"text", "canary"}), digits),
    Fault(
        "accuracy-lost-in-a-commit", "vllm-project/vllm#57132", 0, frozenset({"fingerprint"}),
        saying("The answer is 12.", "So the total is 7 apples, and the rest follows."), 0.8,
    ),
    Fault(
        "fast-and-wrong-kernel", "vllm-project/vllm#50603", 600, frozenset({"canary", "fingerprint"}),
        saying("She keeps her thoughts to herself, as ever.", "Mod09 Ember"), 0.5,
    ),
    Fault(
        "five-of-23-tools", "lmstudio-ai/lmstudio-bug-tracker#2376", 2000, frozenset({"canary"}),
        saying("The notes mention a bus, the post, bread, clouds and neighbours."),
    ),
    Fault("G", "ollama/ollama#10424", 64, frozenset({"text", "canary"}), repeating("G")),
    Fault("one-token-30-times", "Ollama's own repeat limit", 0, frozenset({"text", "canary"}), repeating(" the", 30)),
)  # fmt: skip


def stream_of(text: str, draw: random.Random) -> bytes:
    """A text as the stream of a chat completion, a token in each event."""
    return b"".join(_events(tokens_of(draw, text)))


def _events(tokens: tuple[str, ...]) -> Iterator[bytes]:
    for delta in ({"role": "assistant", "content": ""}, *({"content": token} for token in tokens), {}):
        chunk = {
            "id": "1",
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
        }
        yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"
