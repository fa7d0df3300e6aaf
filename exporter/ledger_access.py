"""What a command asks of the running daemon: its verdicts, and what changed; without a daemon, the file of the history."""

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import OpenerDirector, Request

from exporter.history.change import accept
from exporter.history.change_lines import entry_json
from exporter.history.folder import history_file
from exporter.history.store import HistoryError, Reader, Store, open_reader
from exporter.settings import HistoryFile
from exporter.status_report import check

SECONDS = 10.0
LARGEST = 64 << 20

Changes = list[dict[str, Any]]


class AccessError(Exception):
    """Neither a daemon nor a file gives an answer; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class DaemonAccess:
    """The running daemon, by its URL; ``user`` is who asks, for messages. Calls raise AccessError."""

    url: str
    opener: OpenerDirector
    user: str = ""

    @property
    def name(self) -> str:
        """A text for people that says where this comes from."""
        return f"from the daemon at {self.url}"

    @property
    def answers(self) -> bool:
        """Whether anything answers there."""
        try:
            with self.opener.open(f"{self.url}/-/healthy", timeout=SECONDS):
                return True
        except HTTPError as exc:
            exc.close()
            return True
        except (OSError, ValueError, HTTPException) as exc:
            # What speaks TLS answers, though not to this command: the next question says why.
            return isinstance(getattr(exc, "reason", exc), ssl.SSLError)

    def changes(self, since: float, target: str | None) -> Changes:
        """The entries since a time (Unix), newest first."""
        found = self._fetch("/api/v1/changes", "GET", since=f"{since:.0f}", target=target)
        return list(found["changes"])

    def status(self) -> Mapping[str, Any]:
        """What ``/api/v1/status`` answers."""
        try:
            return check(self._fetch("/api/v1/status", "GET"))
        except ValueError as exc:
            raise AccessError(f"{self.url}: the answer is not that of an exporter: it {exc}") from None

    def speeds(self, target: str) -> list[tuple[float, float]]:
        """Past speeds of a target by its first module with some: Unix time, tokens per second; oldest first."""
        history: Mapping[str, Any] = self._fetch("/api/v1/probes", "GET", target=target).get("history") or {}
        ordered = sorted(history.items(), key=lambda item: (item[0] != "default", item[0]))
        points: list[dict[str, Any]] = next((points for _, points in ordered if points), [])
        return [
            (point["at_seconds"], point["tokens_per_second"])
            for point in points
            if point.get("tokens_per_second") is not None
        ]

    def accept(self, target: str | None, _: float) -> tuple[str, ...]:
        """Take the speeds of now for the usual ones; the names of the targets."""
        return tuple(self._fetch("/api/v1/changes/accept", "POST", target=target)["accepted"])

    def _fetch(self, path: str, method: str, **query: str | None) -> Any:
        query_text = urlencode({name: value for name, value in query.items() if value is not None})
        request = Request(f"{self.url}{path}{query_text and f'?{query_text}'}", method=method)  # noqa: S310 - http or https, checked
        try:
            with self.opener.open(request, timeout=SECONDS) as answer:
                return json.loads(answer.read(LARGEST))
        except HTTPError as exc:
            with exc:
                raise AccessError(_refused(self.url, path, exc, self.user)) from None
        except (OSError, ValueError, HTTPException) as exc:
            raise AccessError(f"{self.url}: {unreached_text(self.url, exc)}") from None


def unreached_text(url: str, error: Exception) -> str:
    """Why no answer came from there, and what to do if TLS is the reason."""
    reason, encrypted = getattr(error, "reason", error), url.startswith("https:")
    if isinstance(reason, ConnectionRefusedError):
        return f"{reason.strerror}; check that `llm-probe-exporter serve` runs"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"the certificate of the daemon can't be verified ({reason.verify_message.rstrip('.')}): name its CA, or the "
            "certificate itself if it is self-signed, with --cacert"
        )
    # A server of TLS 1.3 refuses a client after the client's handshake is done: by an alert, or by closing the connection.
    closed = isinstance(reason, ConnectionResetError | ssl.SSLEOFError)
    if encrypted and (closed or (isinstance(reason, ssl.SSLError) and "CERTIFICATE" in (reason.reason or ""))):
        return "the daemon closed the connection: if it requires a client certificate, give one with --cert and --key"
    if isinstance(reason, ssl.SSLError):
        return "this port does not use TLS: begin the url with http://"
    if isinstance(reason, HTTPException):
        return "this port does not answer with HTTP: if it uses TLS, begin the url with https://"
    return str(getattr(reason, "strerror", None) or reason)


def _refused(url: str, path: str, error: HTTPError, user: str) -> str:
    if error.code == HTTPStatus.UNAUTHORIZED:
        if user:
            return f"{url} does not accept the user {user} with this password (401)"
        return f"{url} requires a password (401): name a user with --user, and the file of the password with --password-file"
    try:
        said = json.loads(error.read(4096))["error"]
    except (OSError, ValueError, KeyError, TypeError):
        said = f"there is no {path}: this is not an exporter, or an older version"
    return f"{url}: {error.code} {said}"


class FileAccess:
    """The history's file, if no daemon runs. Raises AccessError if there is none."""

    def __init__(self, settings: HistoryFile, environ: Mapping[str, str]) -> None:
        path = history_file(str(settings.path), environ)
        if path is None or not path.is_file():
            where = f"there is no history at {path}" if path else "the history is kept in memory only"
            raise AccessError(where)
        self._path = path

    @property
    def name(self) -> str:
        """A text for people that says where this comes from."""
        return f"no daemon answers; read from {self._path}"

    @property
    def reader(self) -> Reader:
        """What the file holds."""
        return open_reader(self._path)

    def changes(self, since: float, target: str | None) -> Changes:
        """The entries since a time (Unix), newest first."""
        reader = self.reader
        try:
            if target is not None and target not in reader.ledgers():
                raise AccessError(f"there is no target {target} in {self._path}")
            return [entry_json(each) for each in reader.entries(since, target)]
        except HistoryError as exc:
            raise AccessError(f"{self._path}: {exc}") from None

    def accept(self, target: str | None, now: float) -> tuple[str, ...]:
        """Take the speeds of now (Unix time) for the usual ones; the names of the targets."""
        store = Store(self._path)
        store.start()
        try:
            if store.status.path is None:
                raise AccessError(f"{self._path} can't be written: {store.status.problem}")
            chosen = {name: ledger for name, ledger in store.reader.ledgers().items() if target in {None, name}}
            if target is not None and not chosen:
                raise AccessError(f"there is no target {target} in {self._path}")
            for ledger in chosen.values():
                store.save(accept(ledger, now))
        except HistoryError as exc:
            raise AccessError(f"{self._path}: {exc}") from None
        finally:
            store.close()
        return tuple(chosen)
