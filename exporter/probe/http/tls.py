"""TLS on memory buffers, so that every read from the socket is one of ours and has a stamp."""

import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar

import httpcore

from exporter.probe.http.exchange import Exchange
from exporter.probe.http.stamped_socket import READ_BYTES, StampedSocket
from exporter.regular_file import require_regular

_T = TypeVar("_T")

_HEADER_BYTES: Final = 5
"""Of a TLS record; its last two bytes are the length of what follows."""


def tls_context(ca_file: str | Path | None, *, insecure_skip_verify: bool) -> ssl.SSLContext:
    """The context for these settings, cached until the CA file changes; the system's CAs if there is no file.

    Certificates are checked as curl checks them, whatever Python does by default. A CA made at home, without the extensions
    that strict checking asks for, is accepted, and so is an intermediate one that is named.

    Raises ``OSError`` (``ssl.SSLError`` is one) when the file can't be read.
    """
    changed = 0
    if ca_file:
        require_regular(Path(ca_file))  # OpenSSL opens it by its path, and would wait for a FIFO
        changed = Path(ca_file).stat().st_mtime_ns
    return _make_context(str(ca_file or ""), insecure_skip_verify, changed)


@lru_cache(maxsize=32)
def _make_context(ca_file: str, insecure: bool, _changed: int) -> ssl.SSLContext:  # noqa: FBT001 - a cache key
    context = ssl.create_default_context(cafile=ca_file or None)
    # Since Python 3.13 the default is strict.
    context.verify_flags = (context.verify_flags & ~ssl.VERIFY_X509_STRICT) | ssl.VERIFY_X509_PARTIAL_CHAIN
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class TlsStream(httpcore.NetworkStream):
    """A connection that speaks TLS, read record by record. Call ``handshake`` first."""

    def __init__(
        self, sock: StampedSocket, exchange: Exchange, context: ssl.SSLContext, server_hostname: str | None
    ) -> None:
        self._socket = sock
        self._exchange = exchange
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._header = b""
        self._left = 0

    def handshake(self) -> None:
        """Agree on keys with the server; raises ``ssl.SSLError`` and what the socket raises."""
        self._perform(self._tls.do_handshake)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the exchange has a timer
        with suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return self._perform(lambda: self._tls.read(max_bytes))
        self._exchange.ended = True
        return b""

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the exchange has a timer
        if buffer:
            self._tls.write(buffer)
            self._socket.write(self._outgoing.read())

    def close(self) -> None:
        self._socket.close()

    def _perform(self, step: Callable[[], _T]) -> _T:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._socket.receive(READ_BYTES, self._record_end)
                self._incoming.write(data) if data else self._incoming.write_eof()
            except ssl.SSLError:
                with suppress(OSError):  # tell the server why; the error reported is the first one
                    self._flush()
                raise
            else:
                self._flush()
                return done

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._socket.send(self._outgoing.read())

    def _record_end(self, ahead: bytes) -> int:
        """Bytes up to the end of the TLS record that is being read."""
        if not self._left:
            had = len(self._header)
            self._header += ahead[: _HEADER_BYTES - had]
            if len(self._header) < _HEADER_BYTES:
                return len(ahead)
            self._left = _HEADER_BYTES - had + int.from_bytes(self._header[3:])
            self._header = b""
        length = min(self._left, len(ahead))
        self._left -= length
        return length
