"""The Docker SDK: the session that it opens, with its sockets, TLS and addresses. The only file that imports the SDK."""

import os
from typing import Any, Final

import docker
from docker.errors import DockerException
from docker.types import CancellableStream
from docker.utils import kwargs_from_env

from exporter.containers.errors import AddressError

USER_AGENT: Final = "llm-probe-exporter"


def open_session(host: str, timeout_seconds: float) -> Any:
    """A session of requests on the engine's address: a unix socket, TCP or TLS. Raises ``AddressError`` or ``OSError``."""
    try:
        tls = kwargs_from_env(dict(os.environ)).get("tls") if host.startswith(("tcp:", "https:")) else None
        # A fixed version keeps the SDK from asking for one: a proxy may refuse that question.
        client = docker.APIClient(
            host, version="1.41", timeout=timeout_seconds, user_agent=USER_AGENT, tls=tls or host.startswith("https:")
        )
    except DockerException as exc:
        raise AddressError(type(exc).__name__) from exc
    client.trust_env = False
    return client


def closable(response: Any) -> Any:
    """What another thread may ``close`` while this one reads the response."""
    return CancellableStream(iter(()), response)
