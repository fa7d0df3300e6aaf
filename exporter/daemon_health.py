"""Whether the running daemon is well: one request without a login, as the health check of a container asks."""

from http.client import HTTPException
from typing import Final
from urllib.error import HTTPError

from exporter.daemon_login import DaemonAddress, opener_for

SECONDS: Final = 5.0
LARGEST: Final = 1000


class UnhealthyError(Exception):
    """The daemon is not well, or does not answer; the message says what it said, or why there was no answer."""


def ask_health(daemon: DaemonAddress) -> str:
    """What a daemon that is well says. Raises UnhealthyError."""
    address = f"{daemon.url}/-/healthy"
    try:
        with opener_for(daemon).open(address, timeout=SECONDS) as answer:
            return _text(answer.read(LARGEST))
    except HTTPError as exc:
        with exc:
            raise UnhealthyError(f"{address}: {exc.code} {_text(exc.read(LARGEST))}") from None
    except (OSError, ValueError, HTTPException) as exc:
        reason = getattr(exc, "reason", exc)
        if daemon.wants_certificate and not isinstance(reason, ConnectionRefusedError | TimeoutError):
            why = f"the daemon requires a client certificate, and does not accept its own certificate as one: {reason}"
        else:
            why = str(getattr(reason, "strerror", None) or reason or type(reason).__name__)
        raise UnhealthyError(f"{address}: {why}") from None


def _text(answer: bytes) -> str:
    return answer.decode("utf-8", "replace").strip()
