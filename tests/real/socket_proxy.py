"""Stands in for wollomatic/socket-proxy, which no hub gives here: understands the options that compose.yaml uses.

A request passes where a pattern of its method matches its whole path, as there; anything else gets 403. Any other option
than the known ones is an error, as there. Runs in a container with nothing but Python.
"""

import argparse
import re
import socket
import socketserver
import sys
from contextlib import suppress
from pathlib import Path

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


class Handler(socketserver.StreamRequestHandler):
    """One request, one answer."""

    def handle(self) -> None:
        """Pass the request on, or refuse it."""
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            line = self.rfile.readline(65536)
            if not line:
                return
            request += line
        method, target, _ = request.split(b"\r\n", 1)[0].decode().split(" ")
        path = target.partition("?")[0]
        passes = method == "GET" and any(re.fullmatch(pattern, path) for pattern in options.allowGET)
        print("passed" if passes else "refused", method, path, flush=True)
        if not passes:
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(options.socketpath)
            engine.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            with suppress(OSError):
                while data := engine.recv(65536):
                    self.connection.sendall(data)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A thread for each connection."""

    daemon_threads = True


if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX) as upstream:
        upstream.connect(options.socketpath)  # as there, it ends where the engine can't be reached
    endpoint = Path(options.proxysocketendpoint)
    endpoint.unlink(missing_ok=True)
    with Server(str(endpoint), Handler) as server:
        endpoint.chmod(int(options.proxysocketendpointfilemode, 8))
        print("listening", file=sys.stderr, flush=True)
        server.serve_forever()
