"""Unix time that a test moves on, so that timers of minutes need no waiting."""

import time


class Clock:
    """The time of now, and ``ahead`` seconds."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        """Now, by it."""
        return time.time() + self.ahead
