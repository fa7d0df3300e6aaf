"""What the simulated servers of the OpenAI chat API have in common: the queue, the pace, and the shapes of their streams."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tests.servers.queue import Queue, ticks
from tests.servers.simulated import DONE, ReceivedRequest, ServerAnswer, Simulated, sse, word, words_of


@dataclass(frozen=True)
class AnswerShape:
    """How a server writes its stream.

    ``role`` comes at once, with the first token, or never. ``finish`` comes in a chunk of its own or in the last token's.
    ``usage`` comes in a chunk of its own with these choices, in the finish chunk (``finish``), or never; and only if it was
    asked for unless ``always``.
    """

    role: Literal["at once", "first", "never"] = "first"
    role_delta: dict[str, Any] = field(default_factory=lambda: {"role": "assistant", "content": ""})
    finish: Literal["own", "last"] = "own"
    usage: Literal["own", "finish", "never"] = "own"
    usage_choices: list[Any] = field(default_factory=list)
    always: bool = False
    done: bool = True
    more: dict[str, Any] = field(default_factory=dict)
    """Further fields of each chunk."""


class OpenAIServer(Simulated):
    """Serves one request after another, or ``slots`` at once. ``answer_tokens`` is where a model ends by itself."""

    name = "uvicorn"
    shape = AnswerShape()
    prompt_tokens: int | None = None
    """What its usage says of every prompt, where it doesn't count."""
    extra_tokens = 0
    """What its usage counts besides the tokens of the answer."""

    def __init__(self, *, tokens_per_second: float = 1000.0, prefill_seconds: float = 0.0, slots: int = 1) -> None:
        super().__init__()
        self.pace = 1 / tokens_per_second
        self.prefill_seconds = prefill_seconds
        self.queue = Queue(slots)
        self.generated: Counter[str] = Counter()
        """Tokens of each model."""
        self.last_count = 0
        """Tokens of the answer that ended last."""
        self.answer_tokens: int | None = None

    def reply(self, request: ReceivedRequest, model: str, *, late: bool = True) -> ServerAnswer:
        """The answer to a chat: a stream if one was asked for."""
        pieces = self.stream(request, model)
        if request.body.get("stream"):
            return ServerAnswer(kind="text/event-stream", pieces=pieces, late=late)
        return ServerAnswer(pieces=self._whole(pieces), late=True)

    def imitated(self, request: ReceivedRequest, model: str) -> Iterator[bytes]:
        """The same answer as the lines of an imitated Ollama: an unfinished line for each token, no times in the last one."""
        options = request.body.get("options") or {}
        body = {**request.body, "max_tokens": options.get("num_predict"), "stream_options": {"include_usage": True}}
        usage: dict[str, Any] = {}
        for event in _events(self.stream(replace(request, body=body), model)):
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                if text := choice.get("delta", {}).get("content"):
                    yield _line(request, {"role": "assistant", "content": text}, done=False)
        if usage:
            counts = {"prompt_eval_count": usage["prompt_tokens"], "eval_count": usage["completion_tokens"]}
            times = dict.fromkeys(("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"), 0)
            last = {"done_reason": "stop", **counts, **times}
            yield _line(request, {"role": "assistant", "content": ""}, done=True, **last)

    def stream(self, request: ReceivedRequest, model: str) -> Iterator[bytes]:
        """The events of one request; nothing more comes when its client leaves."""
        shape, body = self.shape, request.body
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, **shape.more}
        role = sse({**chunk, "choices": [{"index": 0, "delta": shape.role_delta, "finish_reason": None}]})
        if shape.role == "at once":
            yield role
        with self.queue.slot(request.left) as waited:
            if waited is None or request.left(self.prefill_seconds):
                return
            most = body.get("max_tokens") or body.get("max_completion_tokens") or 1024
            ends = self.answer_tokens is not None and self.answer_tokens < most
            most, reason = (self.answer_tokens or 0, "stop") if ends else (most, "length")
            sent = 0
            for number in ticks(most, lambda: self.pace, request.left):
                last = reason if number == most and shape.finish == "last" else None
                event = {
                    **chunk,
                    "choices": [{"index": 0, "delta": {"content": f" {word(number)}"}, "finish_reason": last}],
                }
                with self.lock:
                    self.generated[model] += 1
                sent = number
                yield (role if number == 1 and shape.role == "first" else b"") + sse(event)
            self.last_count = sent
            if sent == most:
                yield from self._end(body, chunk, reason, most)

    def _end(self, body: Any, chunk: dict[str, Any], reason: str, count: int) -> Iterator[bytes]:
        shape = self.shape
        prompt = len(words_of(body)) if self.prompt_tokens is None else self.prompt_tokens
        output = count + self.extra_tokens
        usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
        wanted = shape.always or (body.get("stream_options") or {}).get("include_usage")
        finish = {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
        if shape.usage == "finish" and wanted:
            finish["usage"] = usage
        if shape.finish == "own":
            yield sse(finish)
        if shape.usage == "own" and wanted:
            yield sse({**chunk, "choices": shape.usage_choices, "usage": usage})
        if shape.done:
            yield DONE

    def _whole(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The answer without a stream."""
        events = list(_events(pieces))
        choices = [each["choices"][0] for each in events if each["choices"]]
        if choices:
            text = "".join(each["delta"].get("content") or "" for each in choices)
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": choices[-1]["finish_reason"],
            }
            yield json.dumps({"object": "chat.completion", "model": events[0]["model"], "choices": [choice]}).encode()


def _events(pieces: Iterator[bytes]) -> Iterator[Any]:
    """The JSON of a stream's events."""
    for piece in pieces:
        for line in piece.split(b"\n"):
            if line.startswith(b"data: {"):
                yield json.loads(line.removeprefix(b"data: "))


def _line(request: ReceivedRequest, message: dict[str, str], **fields: Any) -> bytes:
    return json.dumps({"model": request.body["model"], "message": message, **fields}).encode() + b"\n"
