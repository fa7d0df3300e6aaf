"""The marks of one streaming request: instants and counts as they were observed, no formulas.

Every instant is monotonic time in nanoseconds (``time.monotonic_ns()``); ``None`` if it did not happen. An instant of something
received is the time at which its last byte arrived in the kernel if that could be read, else the time right after the read.
``late_ns`` says how far apart the two may be.
"""

from dataclasses import dataclass
from typing import Literal

TextKind = Literal["answer", "reasoning"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts that the server reported for one request."""

    prompt: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None


@dataclass(frozen=True, slots=True)
class ServerTimings:
    """What the server itself says of one request: llama.cpp's ``timings``, Ollama's ``*_duration``, vLLM's ``metrics``.

    Seconds and tokens/s. ``queue_seconds`` is the time that it waited behind other requests before its prompt was worked on.
    """

    decode_tokens_per_second: float | None = None
    prefill_tokens_per_second: float | None = None
    prefill_seconds: float | None = None
    load_seconds: float | None = None
    queue_seconds: float | None = None
    ttft_seconds: float | None = None
    drafted_tokens: int | None = None
    accepted_tokens: int | None = None
    """Of those that a draft proposed (speculative decoding), how many the model accepted."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one event of a stream says, in the terms that all dialects share. Empty for an event that says nothing.

    ``output_tokens`` is the server's own running count of generated tokens up to and including this event, if the server gives
    one for each chunk. ``final`` marks the event after which the dialect expects nothing more. ``blank`` marks a chunk of the
    answer without text, which may still hold a token; ``unread`` one with something in it that is no known form of text.
    """

    answer: str = ""
    reasoning: str = ""
    output_tokens: int | None = None
    usage: Usage | None = None
    server: ServerTimings | None = None
    finish_reason: str | None = None
    model: str | None = None
    error: str | None = None
    final: bool = False
    blank: bool = False
    unread: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event that carried generated text: when it arrived, how much text, and the server's running token count.

    ``words`` counts words, digits and marks, and stands for the characters if it is None. An event without text has 0
    characters: it is a chunk only in a stream that shows no text at all.
    """

    at_ns: int
    kind: TextKind
    characters: int
    output_tokens: int | None = None
    late_ns: int = 0
    words: float | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """One request from the moment that it was due to the end of its stream.

    ``started_ns`` is when the probe's turn came; the wait before it is not the server's. ``reads`` counts the reads from
    the socket in which text arrived, ``coalesced`` those chunks that shared a read with a later one and so have no
    arrival time of their own. ``blank`` and ``unread`` count the chunks without known text before the first text;
    ``max_tokens`` is how many tokens were asked for.
    """

    started_ns: int
    resolved_ns: int | None = None
    connected_ns: int | None = None
    secured_ns: int | None = None
    sent_ns: int | None = None
    headers_ns: int | None = None
    chunks: tuple[Chunk, ...] = ()
    end_ns: int | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    server: ServerTimings | None = None
    model: str | None = None
    reads: int = 0
    coalesced: int = 0
    clock_error_ns: int | None = None
    blank: int = 0
    unread: int = 0
    max_tokens: int | None = None
