"""Processes of a test that end with it, whatever happens: a test fails in time and never waits for ever."""

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, Self

from tests.waiting import eventually

Command = Sequence[str | Path]
SECONDS = 60.0
"""How long a test waits for a process before it fails; a busy machine needs a part of it."""


class Process(Protocol):
    """What a test does with a process, however it was started; as subprocess.Popen has it."""

    pid: int

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


@contextmanager
def running_process(
    command: Command,
    *,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A process that is told to end with the block; subprocess.TimeoutExpired, and it is killed, where it doesn't."""
    with subprocess.Popen(command, env=env, stdout=stdout, stderr=stderr, text=True) as process:
        try:
            yield process
            process.terminate()
            process.wait(SECONDS)
        finally:
            process.kill()  # nothing where it has ended; without it, leaving Popen's own block would wait for ever


class Terminal:
    """A process at a terminal of its own; killed with the block where it has not ended."""

    def __init__(self, command: Command, env: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        try:
            self.process = subprocess.Popen(
                command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=env
            )
        finally:
            os.close(theirs)
        self.shown = b""
        """What it has written so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(SECONDS)
        os.close(self._ours)

    def _read(self, until: float) -> bytes:
        """What it writes next; empty at its end. AssertionError with all that was seen where nothing comes in time."""
        readable, _, _ = select.select([self._ours], [], [], max(until - time.monotonic(), 0.0))
        assert readable, f"the terminal stays silent after {self.shown!r}"
        try:
            piece = os.read(self._ours, 4096)
        except OSError:  # the other end is closed
            piece = b""
        self.shown += piece
        return piece

    def wait_for(self, text: bytes) -> None:
        """Until this was written."""
        until = time.monotonic() + SECONDS
        while text not in self.shown:
            assert self._read(until), f"it ended without {text!r}: {self.shown!r}"

    def wait_for_hidden_input(self) -> None:
        """Until what is typed is not echoed: what was typed before that is thrown away with the switch."""
        eventually(lambda: not termios.tcgetattr(self._ours)[3] & termios.ECHO, "the echo is switched off")

    def type(self, text: bytes) -> None:
        """As a person does."""
        os.write(self._ours, text)

    def rest(self) -> bytes:
        """All that it wrote, once it has ended."""
        until = time.monotonic() + SECONDS
        while self._read(until):
            pass
        self.process.wait(SECONDS)
        return self.shown
