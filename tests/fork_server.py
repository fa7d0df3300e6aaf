"""A process that has imported the exporter and forks a child for each request, which becomes the command that was asked for.

``tests/forked.py`` starts it. It imports what the daemon imports and hardly more, so that a child holds the memory of a daemon. It
ends, and its children with it, when the process that started it closes the other end of its socket.
"""

import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

LARGEST_REQUEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """What a child shall be: the arguments after ``python -m exporter``, the whole environment, the working directory."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str


def preload() -> None:
    """Import what each daemon imports, in its order; RuntimeError where that starts a thread, which no child would have."""
    import exporter.cli
    from exporter import lean

    lean.import_libraries()
    import exporter.daemon
    import exporter.settings.load  # noqa: F401

    if (threads := len(os.listdir("/proc/self/task"))) != 1:  # noqa: PTH208 - pathlib is not needed otherwise
        raise RuntimeError(f"the imports of the exporter started threads: there are {threads}")
    gc.collect()
    gc.freeze()


def serve(control: socket.socket, interrupt: Any) -> Request | None:
    """Fork a child for each request. Returns in each child, with its request; in the server itself at the end, with None.

    A request comes with descriptors: stdin, stdout, stderr, and a socket to which the child's process id and later its exit code
    are written. ``interrupt`` is what a child does at SIGINT.
    """
    children: dict[int, tuple[int, socket.socket]] = {}
    poller = select.poll()
    poller.register(control, select.POLLIN)
    while True:
        for ready, _ in poller.poll():
            if ready != control.fileno():
                poller.unregister(ready)
                os.close(ready)
                pid, news = children.pop(ready)
                _tell(news, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                news.close()
                continue
            message, descriptors, _, _ = socket.recv_fds(control, LARGEST_REQUEST, 4)
            if not message:
                for pid, _ in children.values():
                    os.kill(pid, signal.SIGKILL)
                return None
            request, standard = Request(**json.loads(message)), descriptors[:3]
            news = socket.socket(fileno=descriptors[3])
            if (pid := os.fork()) == 0:
                for number, descriptor in enumerate(standard):
                    os.dup2(descriptor, number)
                for descriptor in (*standard, *children):
                    os.close(descriptor)
                for each in (control, news, *(news for _, news in children.values())):
                    each.close()
                signal.signal(signal.SIGINT, interrupt)
                return request
            for descriptor in standard:
                os.close(descriptor)
            _tell(news, pid)
            child = os.pidfd_open(pid)
            children[child] = pid, news
            poller.register(child, select.POLLIN)


def _tell(news: socket.socket, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody listens any more
        news.send(str(number).encode())


def command_of(request: Request) -> Callable[[], object]:
    """Take over the surroundings of a request; gives what ``python -m exporter`` runs."""
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    time.tzset()
    sys.argv[1:] = request.arguments
    return lambda: runpy.run_module("exporter", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    # A person's Ctrl-C ends the tests, and they end this.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    preload()
    if (wanted := serve(socket.socket(fileno=int(sys.argv[1])), before)) is not None:
        command_of(wanted)()
