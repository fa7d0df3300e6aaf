"""Fuzzing of the addresses that ``/probe`` is asked for (``make fuzz``).

A text is an address or refused. An address is the same when its own URL is read again, and the client that connects reads the
same host and port in it. What is allowed lies in the scheme, the host and the port of a pattern. No name is looked up.
"""

import ipaddress
import socket
from collections.abc import Iterator
from typing import Any

import httpx

from tests.fuzz import engine

with engine.instrumented():
    from exporter.on_demand import permit_of, refusal_of
    from exporter.settings import probe_address_of

ALLOW = ("http://10.0.0.0/24:8000", "*.lan:8000", "https://api.example", "http://fd00*")


def resolved(host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
    """Every name means a public address, but those that begin with a figure: they mean this machine."""
    address = "127.0.0.1" if host[:1].isdigit() else "8.8.8.8"
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]


def one_input(data: bytes) -> None:
    """One run of the fuzzer."""
    text = data.decode("utf-8", "replace")
    refusal = refusal_of(text, ALLOW)
    if refusal is not None:
        assert refusal.isprintable(), refusal
    try:
        wanted = probe_address_of(text)
    except ValueError:
        assert refusal is not None, text
        return
    assert probe_address_of(wanted.url) == wanted, (text, wanted.url)
    read = httpx.URL(wanted.url)
    port = read.port or {"http": 80, "https": 443}[read.scheme]
    assert (read.scheme, read.raw_host.decode().strip("[]"), port) == (wanted.scheme, wanted.host, wanted.port), (
        text,
        read,
    )
    if refusal is not None:
        return
    in_network = wanted.ip is not None and wanted.ip in ipaddress.ip_network("10.0.0.0/24")
    assert (
        (in_network and (wanted.scheme, wanted.port) == ("http", 8000))
        or (wanted.ip is None and wanted.host.endswith(".lan") and wanted.port == 8000)
        or (wanted.scheme, wanted.host, wanted.port) == ("https", "api.example", 443)
    ), (text, wanted)
    permit = permit_of(wanted.url, ALLOW)
    assert permit is None or not permit("169.254.169.254"), text


def seeds() -> Iterator[bytes]:
    """Addresses as scrapers give them, and those of attempts."""
    for text in (
        "http://10.0.0.7:8000", "10.0.0.7:8000/v1", "gpu.lan:8000", "https://api.example", "http://10.0.0.evil.example:8000", "LOCALHOST:8000",
        "http://10.0.0.7:8000/./a/..", "http://a:b@10.0.0.7:8000", "http://10.0.0.7:8000#@evil.example", "http://[::ffff:169.254.169.254]",
        "http://0x0a000007:8000", "http://167772167:8000", "http://010.0.0.7:8000", "http://10.0.0.7\\@evil.example:8000", "http://\uff11\uff10.0.0.7:8000",
        "http://[fd00::1%25eth0]:8000", "http://10.0.0.7:08000", "http://10.0.0.7:8000?x=http://evil.example", "http://a.lan.:8000", "http://xn--a.lan:8000",
    ):  # fmt: skip
        yield text.encode()


if __name__ == "__main__":
    setattr(socket, "getaddrinfo", resolved)  # noqa: B010  # its signature is not that of the stub
    engine.run("probe_address", one_input, seeds())
