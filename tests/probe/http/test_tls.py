"""TLS: whom it trusts, and records in any pieces."""

import os
import socket
import ssl
import threading
from pathlib import Path

import pytest

from exporter.probe.client import fetch
from exporter.probe.failure import ProbeFailure
from exporter.probe.http.tls import tls_context
from exporter.probe.http.transport import Connection
from tests.servers.certificates import make_certificate, make_home_authority
from tests.servers.exact import ExactServer, plain


def test_tls_is_verified_unless_told_otherwise(certificate: tuple[Path, Path]) -> None:
    """A self-signed certificate is refused, accepted as its own CA, or accepted unseen where that was asked for."""
    with ExactServer({"/": plain(b"here")}, certificate=certificate) as server:
        with pytest.raises(
            ProbeFailure,
            match=r"self-signed certificate\. Set url to the host that the certificate names, or tls.ca_file",
        ) as caught:
            fetch(Connection(server.url), "/", timeout=5, limit_bytes=100)
        assert caught.value.result == "tls"
        for connection in (
            Connection(server.url, ca_file=certificate[0]),
            Connection(server.url, insecure_skip_verify=True),
            Connection(server.url.replace("127.0.0.1", "localhost"), ca_file=certificate[0]),
        ):
            assert fetch(connection, "/", timeout=5, limit_bytes=100).body == b"here"


def test_a_ca_made_at_home_is_accepted_as_curl_accepts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CA without key usage, which Python refuses by default since 3.13, is good where a user names it; another is not."""
    usual = ssl.create_default_context

    def strict(cafile: str | None = None) -> ssl.SSLContext:
        context = usual(cafile=cafile)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    authority, certificate, key = make_home_authority(tmp_path / "home")
    assert not tls_context(authority, insecure_skip_verify=False).verify_flags & ssl.VERIFY_X509_STRICT
    with ExactServer({"/": plain(b"here")}, certificate=(certificate, key)) as server:
        for ca_file in (authority, certificate):
            assert fetch(Connection(server.url, ca_file=ca_file), "/", timeout=5, limit_bytes=100).body == b"here"
        other, _, _ = make_home_authority(tmp_path / "other")
        with pytest.raises(ProbeFailure, match="certificate"):
            fetch(Connection(server.url, ca_file=other), "/", timeout=5, limit_bytes=100)


def test_a_changed_ca_file_is_read_again(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    """The CA is not remembered beyond a change of its file."""
    ca_file = tmp_path / "ca.pem"
    with ExactServer({"/": plain(b"here")}, certificate=certificate) as server:
        ca_file.write_bytes(make_certificate(tmp_path / "other")[0].read_bytes())
        os.utime(ca_file, ns=(1, 1))
        with pytest.raises(ProbeFailure, match="certificate"):
            fetch(Connection(server.url, ca_file=ca_file), "/", timeout=5, limit_bytes=100)
        ca_file.write_bytes(certificate[0].read_bytes())
        assert fetch(Connection(server.url, ca_file=ca_file), "/", timeout=5, limit_bytes=100).body == b"here"


def test_tls_records_may_come_in_any_pieces(certificate: tuple[Path, Path]) -> None:
    """A server that sends its records byte by byte, and many records at once, is read like any other."""
    body = bytes(range(256)) * 200
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        thread = threading.Thread(target=_serve_tls_in_bytes, args=(listener, context, raw))
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        reply = fetch(Connection(url, ca_file=certificate[0]), "/", timeout=10, limit_bytes=100_000)
        thread.join()
    assert reply.body == body


def _serve_tls_in_bytes(listener: socket.socket, context: ssl.SSLContext, raw: bytes) -> None:
    """One answer over TLS: its first 300 bytes of ciphertext each in a packet of its own, the rest at once."""
    connection, _ = listener.accept()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        for step in (tls.do_handshake, lambda: tls.read(4096)):
            while True:
                try:
                    step()
                    break
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    incoming.write(connection.recv(4096))
        for at in range(0, len(raw), 1000):
            tls.write(raw[at : at + 1000])
        cipher = outgoing.read()
        for byte in range(300):
            connection.sendall(cipher[byte : byte + 1])
        connection.sendall(cipher[300:])
