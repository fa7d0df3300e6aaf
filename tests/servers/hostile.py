r"""A server that says whatever bytes it likes, as fast as they are taken, to whoever connects.

    with RawServer(lambda request: [b"HTTP/1.1 200 OK\r\n", b"x" * 1_000_000]) as server:
        ...  # server.url

``say`` gets what came first (up to the end of the headers, or the first packet of something that is not HTTP) and gives what to
send. The connection is closed after that, or when the client leaves.
"""

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Self

_PATIENCE_SECONDS: Final = 15.0

Say = Callable[[bytes], Iterable[bytes]]


class RawServer:
    """Listens on a port of its own while the ``with`` block runs."""

    def __init__(self, say: Say, *, scheme: str = "http") -> None:
        self._say = say
        self._scheme = scheme
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{self._scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads = [*(each for each in self._threads if each.is_alive()), thread]
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(_PATIENCE_SECONDS)
            request = b""
            while b"\r\n\r\n" not in request:
                data = connection.recv(65536)
                if not data:
                    break
                request += data
                if request[:1] < b" ":  # TLS, not HTTP
                    break
            for data in self._say(request):
                connection.sendall(data)
        with self._lock:
            self._open.discard(connection)
