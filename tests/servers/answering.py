"""A simulated server whose answers have a meaning: a model that recalls what its prompt says, or one with a recorded fault.

It speaks the OpenAI chat API over a real socket, streams token by token, and gives log-probabilities where ``logprobs`` is set.
What it says is made up by ``tests.probe.faults``.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

from tests.probe.faults import Fault, FaultyServer, first_tokens
from tests.probe.healthy import tokens_of
from tests.servers.simulated import DONE, ReceivedRequest, ServerAnswer, Simulated, as_json, sse, words_of

PATH = "/v1/chat/completions"


class AnsweringServer(Simulated):
    """``fault`` may be set while it runs; ``model`` is the name that it goes by."""

    def __init__(
        self, fault: Fault | None = None, *, logprobs: bool = False, tokens_per_second: float = 2000.0
    ) -> None:
        super().__init__()
        self.mind = FaultyServer(fault)
        self.logprobs = logprobs
        self.pace = 1 / tokens_per_second
        self.model = "answering"
        self.context: int | None = None
        """Tokens that a prompt may have."""

    def use(self, fault: Fault | None) -> None:
        """From the next request on it has this fault, or none."""
        self.mind.fault = fault

    def answer(self, request: ReceivedRequest) -> ServerAnswer:
        """Lists its model, and answers chats."""
        if request.path == "/v1/models":
            return as_json({"object": "list", "data": [{"id": self.model, "object": "model", "owned_by": "test"}]})
        if request.path != PATH:
            return as_json({"error": {"message": "no such path"}}, 404)
        prompt = request.body["messages"][-1]["content"]
        if self.context is not None and len(words_of(request.body)) > self.context:
            message = f"This model's maximum context length is {self.context} tokens. Please reduce the length of the messages."
            return as_json({"error": {"message": message, "type": "BadRequestError"}}, 400)
        if request.body.get("logprobs"):
            return self._logprobs(prompt)
        with self.lock:
            said = self.mind.answer(prompt)
        return ServerAnswer(kind="text/event-stream", pieces=self._stream(request, said.text, said.finish_reason))

    def _stream(self, request: ReceivedRequest, text: str, reason: str | None) -> Iterator[bytes]:
        chunk = {"id": "1", "object": "chat.completion.chunk", "model": self.model}
        tokens = tokens_of(self.mind.draw, text)[: request.body["max_tokens"]]
        reason = "length" if len(tokens) == request.body["max_tokens"] else reason
        for number, token in enumerate(tokens):
            if number:
                time.sleep(self.pace)
            yield sse({**chunk, "choices": [{"index": 0, "delta": {"content": token}, "finish_reason": None}]})
        yield sse({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        usage = {"prompt_tokens": len(words_of(request.body)), "completion_tokens": len(tokens)}
        yield sse({**chunk, "choices": [], "usage": usage}) + DONE

    def _logprobs(self, prompt: str) -> ServerAnswer:
        if not self.logprobs:
            return as_json({"error": {"message": "logprobs is not supported", "type": "invalid_request_error"}}, 400)
        moved = self.mind.fault.moves if self.mind.fault else 0.0
        number = sum(map(ord, prompt))
        with self.lock:
            found = first_tokens(number, moved, self.mind.noise, self.mind.draw)
        listed: list[dict[str, Any]] = [{"token": f"t{token}", "logprob": value} for token, value in found.items()]
        position = {**listed[0], "top_logprobs": listed}
        choice = {"index": 0, "message": {"content": listed[0]["token"]}, "logprobs": {"content": [position]}}
        return ServerAnswer(body=json.dumps({"object": "chat.completion", "choices": [choice]}).encode())
