"""The connection to a container engine: Docker or Podman, over a socket, TCP or a read-only proxy. GET only, never exec.

The SDK gives the transport (sockets, TLS, addresses; ``sdk``). Its calls for files and events lift the socket's timeout and read
without bound, so what is read goes through one bounded GET of our own.
"""

import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from exporter.containers.docker_archive import LARGEST_FILE, ArchiveStat, file_in, stat_of
from exporter.containers.errors import EngineError, NotFoundError, RefusedError
from exporter.containers.json_access import mapping, text

LARGEST_DOCUMENT: Final = 4 << 20
# A reading as a whole may take so many times the timeout of one call; half of that may go to files of images.
CALLS_IN_A_ROW: Final = 6


class EngineConnection:
    """A session for one reading; whatever it reads is bounded in bytes and in time."""

    def __init__(self, host: str, timeout_seconds: float) -> None:
        if urlsplit(host).scheme in {"ssh", "npipe"}:
            raise EngineError("only unix://, tcp:// and https:// addresses can be read")
        if host.startswith("unix://"):
            _try_socket("/" + host.removeprefix("unix://").lstrip("/"), timeout_seconds)
        # Not before an engine's socket could be opened: a machine without one never loads the SDK, which takes 6 MB.
        from exporter.containers import sdk  # noqa: PLC0415

        self._client = sdk.open_session(host, timeout_seconds)
        self._closable = sdk.closable
        self._timeout = timeout_seconds
        self._deadline = time.monotonic() + CALLS_IN_A_ROW * timeout_seconds
        self._prefix: str | None = None
        self._problems: dict[str, None] = {}
        self.is_podman = False

    def close(self) -> None:
        self._client.close()

    def has_time_for_files(self) -> bool:
        return time.monotonic() < self._deadline - CALLS_IN_A_ROW * self._timeout / 2

    def refused(self, call: str) -> None:
        """Remember that a proxy refuses a call."""
        self.note(f"GET {call} is refused: the facts that it gives are missing or guessed")

    def note(self, problem: str) -> None:
        """Remember what is missing from this reading."""
        self._problems[problem] = None

    def problem(self) -> str:
        """All that was remembered, as one line."""
        return "; ".join(self._problems)

    def json(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The answer to ``GET path``. Raises EngineError for anything but JSON."""
        with self.open(path, query) as response:
            body = self._body(response, LARGEST_DOCUMENT)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise EngineError(f"GET {path} was not answered with JSON") from error

    def optional(self, path: str, query: Mapping[str, str] | None = None) -> Mapping[str, Any] | None:
        """The same for what a reading can do without: None if it is refused, not there, or does not come in time."""
        kind, _, call = path.strip("/").partition("/")
        call = f"/{kind}/{{id}}/{call.rpartition('/')[2]}"
        try:
            return mapping(self.json(path, query))
        except RefusedError:
            self.refused(call)
        except OSError:
            self.note(f"GET {call} was not answered in time")
        except EngineError:
            pass
        return None

    def file(self, identifier: str, path: str) -> str | None:
        """The text of a small regular file; a symbolic link at the end of its path is followed once."""
        stat, content = self._archive(identifier, path)
        if stat and stat.link_target:
            _, content = self._archive(identifier, stat.link_target)
        return content

    def link_target(self, identifier: str, path: str) -> str | None:
        """Where a symbolic link leads; None if there is none."""
        stat, _ = self._archive(identifier, path)
        return stat.link_target or None if stat else None

    def _archive(self, identifier: str, path: str) -> tuple[ArchiveStat | None, str | None]:
        """What is at ``path``: its stat comes in a header, before a byte of it is read."""
        try:
            with self.open(f"/containers/{identifier}/archive", {"path": path}) as response:
                stat = stat_of(response.headers.get("X-Docker-Container-Path-Stat", ""))
                if stat is None or not stat.is_file or stat.size > LARGEST_FILE:
                    return stat, None
                # A tar archive rounds up to 10 KiB; extended headers may come before the file.
                return stat, file_in(self._body(response, LARGEST_FILE + (20 << 10)))
        except RefusedError:
            raise
        except EngineError:
            return None, None

    @contextmanager
    def open(
        self, path: str, query: Mapping[str, str] | None = None, silent_seconds: float | None = None
    ) -> Iterator[Any]:
        """The response to ``GET path``, its body not yet read. ``silent_seconds`` replaces the timeout of reads."""
        if self._prefix is None:
            self._prefix = ""
            self._prefix = self._version_prefix()
        if time.monotonic() > self._deadline:
            raise TimeoutError
        url = f"{self._client.base_url}{self._prefix}{path}"
        waits = (self._timeout, silent_seconds or self._timeout)
        with self._client.get(url, params=query, stream=True, timeout=waits, allow_redirects=False) as response:
            self.is_podman = self.is_podman or "Libpod-API-Version" in response.headers
            _check(response.status_code, path)
            yield response

    @contextmanager
    def events(self, filters: Mapping[str, list[str]], silent_seconds: float) -> Iterator[tuple[Any, Any]]:
        """The open stream of events: what another thread may close, and its bytes one by one.

        Byte by byte since some proxies end the body with the connection, where a larger read would wait for more. A stream
        that is silent for ``silent_seconds`` raises.
        """
        with self.open("/events", {"filters": json.dumps(filters)}, silent_seconds) as response:
            yield self._closable(response), response.iter_content(1)

    def _version_prefix(self) -> str:
        try:
            version = text(self.json("/version"), "ApiVersion")
        except (RefusedError, NotFoundError):
            return ""
        return f"/v{version}" if version.replace(".", "").isdecimal() else ""

    def _body(self, response: Any, largest: int) -> bytes:
        body = bytearray()
        for chunk in response.iter_content(16 << 10):
            body += chunk
            if len(body) > largest:
                raise EngineError(f"an answer was larger than {largest} bytes")
            if time.monotonic() > self._deadline:
                raise TimeoutError
        return bytes(body)


def _try_socket(path: str, timeout_seconds: float) -> None:
    """Raise OSError for a socket that can't be opened. The SDK would, too, and leave its own socket unclosed."""
    with socket.socket(socket.AF_UNIX) as trial:
        trial.settimeout(timeout_seconds)
        trial.connect(path)


def _check(status: int, path: str) -> None:
    match status:
        case 200:
            return
        case 404:
            raise NotFoundError(f"GET {path} answered 404")
        case 401 | 403 | 405 | 501:
            raise RefusedError(f"GET {path} is refused ({status}): a proxy in between must allow it")
        case _:
            raise EngineError(f"GET {path} answered {status}")
