"""What a service tells systemd, if systemd asked for it; a datagram, no library."""

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(message: str) -> None:
    """Send ``READY=1``, ``WATCHDOG=1``, ``STATUS=…`` to ``NOTIFY_SOCKET``; without one, do nothing. Never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(message.encode(), address)
    except OSError as exc:
        log.warning("systemd could not be told %s: %s", message.partition("=")[0], exc)
