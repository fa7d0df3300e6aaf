"""A reverse proxy that passes only ``/v1/`` to an inference server and answers all else itself, as an nginx with one location does."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import urlencode, urlsplit

from tests.servers.simulated import ReceivedRequest, ServerAnswer, Simulated

NOT_FOUND = (
    b"<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n<center><h1>404 Not Found</h1></center>\r\n"
    b"<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n"
)
# They belong to one connection; nginx names itself as the server.
OWN_HEADERS = {"connection", "transfer-encoding", "content-length", "server", "date", "content-type", "keep-alive"}


class ProxyV1Only(Simulated):
    """``upstream`` is the server behind it. When a client leaves, the proxy closes its own connection, as nginx does."""

    name = "nginx/1.22.1"

    def __init__(self, upstream: Simulated) -> None:
        super().__init__()
        self.upstream = upstream

    def answer(self, request: ReceivedRequest) -> ServerAnswer:
        """Passed on, or a page of its own."""
        if not request.path.startswith("/v1/"):
            return ServerAnswer(404, NOT_FOUND, "text/html")
        address = urlsplit(self.upstream.url)
        connection = HTTPConnection(address.hostname or "", address.port, timeout=60)
        try:
            query = f"?{urlencode(request.query)}" if request.query else ""
            headers = {
                key: value
                for key, value in request.headers.items()
                if key not in {"connection", "host", "content-length"}
            }
            connection.request(request.method, request.path + query, request.raw or None, headers)
            # The connection forgets its socket with the headers of an answer after which it closes.
            upstream = connection.sock
            response = connection.getresponse()
        except (OSError, HTTPException):
            return ServerAnswer(502, b"<html><head><title>502 Bad Gateway</title></head></html>", "text/html")
        kept = {key: value for key, value in response.getheaders() if key.lower() not in OWN_HEADERS}
        kind = response.getheader("content-type") or ""
        if not response.chunked:
            return ServerAnswer(response.status, response.read(), kind, kept)
        return ServerAnswer(response.status, kind=kind, headers=kept, pieces=self._pieces(request, response, upstream))

    @staticmethod
    def _pieces(request: ReceivedRequest, response: HTTPResponse, upstream: socket.socket) -> Iterator[bytes]:
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                if request.left(0.02):
                    with suppress(OSError):
                        upstream.shutdown(socket.SHUT_RDWR)
                    return

        threading.Thread(target=watch, daemon=True).start()
        try:
            with suppress(OSError, HTTPException):
                while piece := response.read1(65_536):
                    yield piece
        finally:
            done.set()
            response.close()
            upstream.close()
