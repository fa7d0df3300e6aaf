"""The HTTP client of one request: httpx on httpcore on a network backend that opens stamped sockets."""

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpcore
import httpx

from exporter import __version__
from exporter.probe.failure import ProbeFailure
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.http.deadlines import nanoseconds
from exporter.probe.http.exchange import Exchange
from exporter.probe.http.resolve import resolve
from exporter.probe.http.stamped_socket import StampedSocket
from exporter.probe.http.tls import TlsStream, tls_context

_SMALL_EVENT: Final = 32
"""A read is not cut before that many bytes: shorter events carry no text, and one read for each would cost too much."""
_EVENT_END: Final = re.compile(rb"(?:\n\r?\n|\r\r|\}\r?\n)[\r\n]*")
"""Where an event of SSE or a line of JSON ends, with the end of the HTTP chunk that holds it."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a server is and how to reach it.

    ``kernel_stamps`` off is for comparing with stamps taken after the read. ``permit`` says of an IP address whether it may be
    connected to, once its name is resolved; None permits all.
    """

    base_url: str
    ca_file: str | Path | None = None
    insecure_skip_verify: bool = False
    cancellation: Cancellation = field(default_factory=Cancellation)
    kernel_stamps: bool = True
    permit: Callable[[str], bool] | None = None


def open_client(connection: Connection, exchange: Exchange) -> httpx.Client:
    """An HTTP client for one request: a fresh connection, no proxy, no cookies, no redirects, no compression."""
    https = connection.base_url.lower().startswith("https:")
    context = tls_context(connection.ca_file, insecure_skip_verify=connection.insecure_skip_verify) if https else None
    return httpx.Client(
        transport=_Transport(exchange, context, connection.permit),
        headers={"accept-encoding": "identity", "user-agent": f"llm-probe-exporter/{__version__}"},
        timeout=None,  # noqa: S113 - the exchange has deadlines, finer than httpx's
        trust_env=False,
        follow_redirects=False,
    )


def connect(connection: Connection, exchange: Exchange) -> None:
    """Connect and close at once. Raises what connecting raises."""
    url = httpx.URL(connection.base_url)
    port = url.port or (443 if url.scheme == "https" else 80)
    _Backend(exchange, connection.permit).connect_tcp(url.host, port).close()


class _Transport(httpx.BaseTransport):
    """httpx on httpcore on our backend, by the public parts of both."""

    def __init__(
        self, exchange: Exchange, context: ssl.SSLContext | None, permit: Callable[[str], bool] | None
    ) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=_Backend(exchange, permit),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        response = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        assert isinstance(response.stream, Iterable)  # noqa: S101 - the sync pool gives no other
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response.stream))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        self._stream.close()


class _Backend(httpcore.NetworkBackend):
    """Opens the connection, and notes when its name was resolved and when it was connected."""

    def __init__(self, exchange: Exchange, permit: Callable[[str], bool] | None) -> None:
        self._exchange = exchange
        self._permit = permit

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the exchange has a timer
        local_address: str | None = None,  # noqa: ARG002 - never set
        socket_options: object = None,  # noqa: ARG002 - never set
    ) -> "_PlainStream":
        exchange = self._exchange
        exchange.started_ns = time.monotonic_ns()
        addresses = resolve(host.strip("[]"), port, exchange)
        exchange.resolved_ns = time.monotonic_ns()
        if self._permit is not None and not (addresses := [each for each in addresses if self._permit(each[4][0])]):
            raise ProbeFailure("connect", f"{host} is now an address that may not be reached under this name")
        sock = _connect(addresses, exchange)
        exchange.connected_ns = time.monotonic_ns()
        return _PlainStream(sock, exchange)


def _connect(addresses: list[Any], exchange: Exchange) -> StampedSocket:
    """Connect to the first address that answers; each gets an equal part of the time that is left."""
    failure: OSError | None = None
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        others = len(addresses) - tried
        share = exchange.timer.remaining() / others
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stamped = StampedSocket(sock, exchange)
            stamped.connect(address, time.monotonic_ns() + nanoseconds(share) if others > 1 else None)
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
        else:
            return stamped
    assert failure is not None  # noqa: S101 - getaddrinfo gives at least one address
    raise failure


class _PlainStream(httpcore.NetworkStream):
    """A connection without TLS, read event by event."""

    def __init__(self, sock: StampedSocket, exchange: Exchange) -> None:
        self._socket = sock
        self._exchange = exchange

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the exchange has a timer
        return self._socket.receive(max_bytes, _event_end)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the exchange has a timer
        self._socket.write(buffer)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 - the exchange has a timer
    ) -> TlsStream:
        stream = TlsStream(self._socket, self._exchange, ssl_context, server_hostname)
        try:
            stream.handshake()
        except BaseException:
            self.close()
            raise
        self._exchange.secured_ns = time.monotonic_ns()
        return stream

    def close(self) -> None:
        self._socket.close()


def _event_end(ahead: bytes) -> int:
    """Bytes up to the end of the first event ahead, or all of them."""
    found = _EVENT_END.search(ahead, _SMALL_EVENT)
    return found.end() if found else len(ahead)
