"""Probes that the tests of the connection send, and the reader of their answers."""

import json
import threading
import time
from collections.abc import Callable
from typing import Final

import pytest

from exporter.probe.client import Deadlines, Request
from exporter.probe.failure import Cancelled
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta, Usage

DEADLINES: Final = Deadlines(connect=5, first_token=5, stalled=5, total=10)
REQUEST: Final = Request("/chat", b"{}")


def read(event: Event) -> Delta:
    """What a chat event says, as far as these tests need it."""
    if event.data == b"[DONE]":
        return Delta(final=True)
    said = json.loads(event.data)
    if not isinstance(said, dict):
        raise ValueError("not an object")  # noqa: TRY004 - this is what a dialect raises
    if "error" in said:
        return Delta(error=said["error"]["message"])
    choice = said["choices"][0] if said["choices"] else {"delta": {}, "finish_reason": None}
    counts = said.get("usage") or {}
    return Delta(
        answer=choice["delta"].get("content") or "",
        reasoning=choice["delta"].get("reasoning_content") or "",
        output_tokens=counts.get("completion_tokens"),
        usage=Usage(counts["prompt_tokens"], counts["completion_tokens"]) if counts else None,
        finish_reason=choice["finish_reason"],
        model=said.get("model"),
    )


def cancelled_soon(run: Callable[[Cancellation], object]) -> float:
    """Run something, cancel it from another thread, and say how long it went on after that."""
    cancellation = Cancellation()
    at = []

    def cancel() -> None:
        at.append(time.monotonic())
        cancellation.cancel()

    timer = threading.Timer(0.15, cancel)
    timer.start()
    with pytest.raises(Cancelled):
        run(cancellation)
    timer.join()
    return time.monotonic() - at[0]
