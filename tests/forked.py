"""Commands of the exporter as processes that are forked from one that has imported it already: a start without its imports.

From outside such a process is the one that ``python -m exporter`` starts: process id, signals, exit code, output and metrics;
tests/test_forked.py holds the two equal. What differs: its ``cmdline`` and ``environ`` in /proc are those of the fork server, and
hashes of texts have the same seed in all of them. A test of these, of imports, of a terminal or of the start itself takes
``running_process``.
"""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from tests.processes import SECONDS

ROOT: Final = Path(__file__).parent.parent
READ_AT_A_START: Final = ("PYTHON", "LANG", "LC_", "LD_", "MALLOC_", "GLIBC_")
"""What names of variables begin with that the interpreter or the C library reads when it starts, and never again."""
_ENVIRONMENT: Final = dict(os.environ)


class ForkServerError(Exception):
    """The process that forks has ended, and why, as far as it said."""


class ForkedProcess:
    """A forked command, with what subprocess.Popen has for a process. None of its waits is without a limit."""

    def __init__(self, arguments: Sequence[str], server: "ForkServer", news: socket.socket) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self._server, self._news = server, news
        pid = self._hear(SECONDS)
        if pid is None:
            raise subprocess.TimeoutExpired(arguments, SECONDS)
        self.pid = pid

    def _hear(self, seconds: float) -> int | None:
        """The next number that the server says of this process; None where it says nothing in so many seconds."""
        self._news.settimeout(max(seconds, 0.0))
        try:
            said = self._news.recv(64)
        except (BlockingIOError, TimeoutError):
            return None
        if not said:
            self._news.close()
            if hasattr(self, "pid"):  # nothing watches it any more
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
            raise self._server.error()
        return int(said)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._poll(0.0)

    def _poll(self, seconds: float) -> int | None:
        if self.returncode is None:
            self.returncode = self._hear(seconds)
            if self.returncode is not None:
                self._news.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. subprocess.TimeoutExpired where it still runs after so many seconds, a minute unless they are given."""
        seconds = SECONDS if timeout is None else timeout
        if (code := self._poll(seconds)) is None:
            raise subprocess.TimeoutExpired(self.args, seconds)
        return code

    def send_signal(self, sig: int) -> None:
        """Nothing where it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The process that has imported the exporter. ``close`` ends it and all that it forked."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
                cwd=ROOT,
                env=_ENVIRONMENT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
            )
        self._control.settimeout(SECONDS)

    def fork(
        self,
        arguments: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
    ) -> ForkedProcess:
        """``python -m exporter`` with these arguments; as subprocess.Popen, but only descriptors and files for its output.

        ValueError for an environment that another interpreter would read at its start.
        """
        environment = dict(os.environ if env is None else env)
        if differs := sorted(
            name
            for name in {*environment, *_ENVIRONMENT}
            if name.startswith(READ_AT_A_START) and environment.get(name) != _ENVIRONMENT.get(name)
        ):
            raise ValueError(
                f"{', '.join(differs)}: read only when an interpreter starts; start it with running_process"
            )
        words = [str(each) for each in arguments]
        request = {"arguments": words, "environment": environment, "folder": os.fspath(Path.cwd())}
        news, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                descriptors = [0, _descriptor(stdout, 1), _descriptor(stderr, 2), theirs.fileno()]
                socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
            return ForkedProcess(words, self, news)
        except BaseException as exc:
            news.close()
            if isinstance(exc, ConnectionError):
                raise self.error() from exc
            raise

    def error(self) -> ForkServerError:
        """Why this server does not answer any more."""
        code = self.process.wait(SECONDS)
        said = ""
        if not self._said.closed:
            self._said.seek(0)
            said = self._said.read().decode(errors="replace").strip()
        return ForkServerError(f"the fork server ended with {code}: {said or 'it said nothing'}")

    def close(self) -> None:
        """End it; TimeoutExpired where it does not end."""
        self._control.close()
        try:
            self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.wait(SECONDS)
            self._said.close()


def _descriptor(file: int | IO[Any] | None, default: int) -> int:
    if file is None:
        return default
    return file if isinstance(file, int) else file.fileno()


@functools.cache
def _server() -> ForkServer:
    """The one of this process, started when it is first needed."""
    return ForkServer()


def close_server() -> None:
    """End the server of this process, if there is one."""
    if _server.cache_info().currsize:
        _server().close()
        _server.cache_clear()


def fork(
    arguments: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
) -> ForkedProcess:
    """``ForkServer.fork`` by the server of this process."""
    return _server().fork(arguments, env, stdout, stderr)


@contextmanager
def forked_process(
    arguments: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
) -> Iterator[ForkedProcess]:
    """As ``running_process``: told to end with the block; subprocess.TimeoutExpired, and it is killed, where it doesn't."""
    process = fork(arguments, env=env, stdout=stdout, stderr=stderr)
    try:
        yield process
        process.terminate()
        process.wait(SECONDS)
    finally:
        process.kill()
        process.wait(SECONDS)
