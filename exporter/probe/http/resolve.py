"""Host names to addresses, within a deadline that ``getaddrinfo`` itself does not have."""

import ipaddress
import queue
import socket
import threading
from contextlib import suppress
from copy import copy
from typing import Any, Final

from exporter.probe.failure import ProbeFailure
from exporter.probe.http.exchange import Exchange

_ADDRESSES_LIMIT: Final = 8

_lookups: Final[dict[tuple[str, int], list["queue.SimpleQueue[Any]"]]] = {}
_lookups_lock: Final = threading.Lock()


def resolve(host: str, port: int, exchange: Exchange) -> list[Any]:
    """Addresses in the form of ``getaddrinfo``, at most 8; an IP address needs no look-up.

    The look-up runs in its own thread, since it may hang. There is at most one for each name; concurrent probes share it.
    Raises ``ProbeFailure`` at the deadline, ``Cancelled``, and what ``getaddrinfo`` raises.
    """
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with _lookups_lock:
        waiting = _lookups.get((host, port))
        if waiting is None:
            waiting = _lookups[host, port] = []
            threading.Thread(target=_look_up, args=(host, port), name=f"resolve {host}", daemon=True).start()
        waiting.append(answer)
    with exchange.cancellation.waking(lambda: answer.put(None)):
        seconds = exchange.timer.remaining()
        try:
            found = answer.get(timeout=seconds)
        except queue.Empty:
            raise ProbeFailure("resolve", f"the name {host} was not resolved within {seconds:.1f} s") from None
    exchange.cancellation.check()
    if isinstance(found, Exception):
        raise copy(found)  # a copy for each probe: one exception raised in two threads mixes their tracebacks
    return list(found)


def _look_up(host: str, port: int) -> None:
    found: Any
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[:_ADDRESSES_LIMIT]
    except (OSError, UnicodeError) as exc:
        found = exc
    with _lookups_lock:
        for answer in _lookups.pop((host, port)):
            answer.put(found)
