"""The listening socket and uvicorn on it, in a thread of its own.

The socket is bound where the daemon starts, so that a port in use is an error at start and not a line in a log.
"""

import errno
import logging
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import uvicorn

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
AsgiApp = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

HEADER_BYTES: Final = 16 * 1024
CONNECTIONS: Final = 200
IDLE_SECONDS: Final = 75
"""Longer than any usual scrape interval: Prometheus keeps its connection."""


class ListenError(Exception):
    """The address can't be listened on; the message says why and what to do."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on the address (``""`` is every address); ListenError where that can't be."""
    at = f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as exc:
        raise ListenError(f"cannot listen on {at}: {host} is not an address of this machine ({exc.strerror})") from exc
    bound = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as exc:
        bound.close()
        raise ListenError(f"cannot listen on {at}: {_advice(exc, port)}") from exc
    bound.setblocking(False)
    return bound


def _advice(error: OSError, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"the port is in use, perhaps by another llm-probe-exporter (`ss -ltnp 'sport = :{port}'` shows by what)."
                " Stop that, or choose another address with --listen"
            )
        case errno.EACCES:
            return "ports below 1024 need privileges. Choose another with --listen, such as 127.0.0.1:9937"
        case errno.EADDRNOTAVAIL:
            return "the address is not of this machine. Choose another with --listen, such as 127.0.0.1:9937"
        case _:
            return error.strerror or str(error)


class WebServer:
    """Serves an ASGI application on a bound socket until ``stop``.

    ``app`` is what answers, with whatever guards it already around it; ``tls`` makes the socket speak HTTPS.
    """

    def __init__(self, app: AsgiApp, bound: socket.socket, *, tls: ssl.SSLContext | None = None) -> None:
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=HEADER_BYTES,
        )
        config.load()
        config.ssl = tls
        self._server = uvicorn.Server(config)
        self._socket = bound
        # A daemon thread, and so are those that it starts: a probe that still runs for a client can't hold up the end.
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it serves: started, and its thread still runs."""
        return bool(self._server.started) and self._thread.is_alive()

    def start(self, timeout: float = 5.0) -> None:
        """Serve; returns once requests are answered. RuntimeError where that takes longer than ``timeout`` seconds."""
        self._thread.start()
        deadline = time.monotonic() + timeout
        while not self.alive:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("the web server did not start; the log says why")
            time.sleep(0.01)

    def stop(self, timeout: float = 2.0) -> bool:
        """Take no more requests, let running ones end, within ``timeout`` seconds; False where some did not."""
        self._server.should_exit = True
        self._thread.join(timeout * 0.75)
        self._server.force_exit = True
        self._thread.join(timeout * 0.25)
        self._socket.close()
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except Exception:
            log.exception("the web server has stopped")
