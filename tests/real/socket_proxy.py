"""A read-only proxy before an engine's socket. As a program it stands in for wollomatic/socket-proxy, which no hub gives here.

A request passes where a pattern of its method matches its whole path, as there; anything else gets 403. The program takes the
options that compose.yaml uses; any other is an error, as there. It runs in a container with nothing but Python.
"""

import argparse
import re
import socket
import socketserver
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path


def handler(
    upstream: Path, allowed: Iterable[str], seen: Callable[[str, str, bool], object]
) -> type[socketserver.StreamRequestHandler]:
    """A handler of one request for each connection; ``seen`` is told method, path, and whether it passes."""
    patterns = [re.compile(pattern) for pattern in allowed]

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                line = self.rfile.readline(65536)
                if not line:
                    return
                request += line
            method, target, _ = request.split(b"\r\n", 1)[0].decode().split(" ")
            path = target.partition("?")[0]
            passes = method == "GET" and any(pattern.fullmatch(path) for pattern in patterns)
            seen(method, path, passes)
            if not passes:
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            with socket.socket(socket.AF_UNIX) as engine:
                engine.connect(str(upstream))
                engine.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                with suppress(OSError):
                    while data := engine.recv(65536):
                        self.connection.sendall(data)

    return Handler


class OnSocket(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens on a socket's path; a thread for each connection."""

    daemon_threads = True
    block_on_close = False


class OnPort(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Listens on a port; a thread for each connection."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True


def main() -> None:
    """The program; it ends only from outside."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-loglevel")
    parser.add_argument("-socketpath", default="/var/run/docker.sock")
    parser.add_argument("-proxysocketendpoint", required=True)
    parser.add_argument("-proxysocketendpointfilemode", default="0600")
    parser.add_argument("-allowhealthcheck", action="store_true")
    parser.add_argument("-watchdoginterval", type=int)
    parser.add_argument("-stoponwatchdog", action="store_true")
    parser.add_argument("-allowGET", action="append", default=[])
    options = parser.parse_args()
    with socket.socket(socket.AF_UNIX) as upstream:
        upstream.connect(options.socketpath)  # as there, it ends where the engine can't be reached
    endpoint = Path(options.proxysocketendpoint)
    endpoint.unlink(missing_ok=True)

    def say(method: str, path: str, passes: bool) -> None:  # noqa: FBT001 - a callback
        print("passed" if passes else "refused", method, path, flush=True)

    with OnSocket(str(endpoint), handler(Path(options.socketpath), options.allowGET, say)) as server:
        endpoint.chmod(int(options.proxysocketendpointfilemode, 8))
        print("listening", file=sys.stderr, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
