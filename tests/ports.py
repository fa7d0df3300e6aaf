"""Ports of the loopback for servers that a test starts."""

import random
import socket
from contextlib import ExitStack, suppress
from typing import Final

PORTS: Final = range(20_000, 32_768)
"""Below those that the system gives to outgoing connections: tests that run beside take one of these within milliseconds."""


def free_port() -> int:
    """A port on which nothing listens now."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """So many different ports on which nothing listens now."""
    candidates = random.SystemRandom().sample(PORTS, len(PORTS))
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            one = stack.enter_context(socket.socket())
            with suppress(OSError):
                one.bind(("127.0.0.1", candidates.pop()))
                found.append(one.getsockname()[1])
    return found


def is_free(port: int) -> bool:
    """Whether nothing listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
