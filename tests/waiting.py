"""Waiting for what another thread or process does, without a word on how long that takes."""

import time
from collections.abc import Callable
from typing import TypeVar
from urllib.error import HTTPError

T = TypeVar("T")


def eventually(condition: Callable[[], T | None], what: str, *, seconds: float = 120.0, every: float = 0.05) -> T:
    """What ``condition`` gives as soon as it is true; AssertionError with ``what`` did not happen, and what was seen last.

    An OSError counts as not yet: a server may not listen yet. ``seconds`` only ends a test that fails. It is called ``every`` so many
    seconds, later up to four times as rarely, since a call may cost a daemon a scrape.
    """
    until, pause = time.monotonic() + seconds, every
    while True:
        seen: object
        try:
            if value := condition():
                return value
            seen = value
        except HTTPError as error:
            error.close()  # it holds a connection
            seen = error
        except OSError as error:
            seen = error
        if time.monotonic() > until:
            raise AssertionError(f"did not happen within {seconds:g} s: {what}; seen last: {seen!r}")
        time.sleep(pause)
        pause = min(pause * 1.2, every * 4)
