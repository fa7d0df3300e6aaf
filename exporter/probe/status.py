"""What a target says of itself: one status check after another, and what follows from two of them.

A status check is a round of reads that cost the server nothing. From one to the next follow what it does for its users (``production``),
that it restarted, and how long it loaded.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from exporter.probe import client
from exporter.probe.client import Reply
from exporter.probe.dialects import DIALECTS, recognise
from exporter.probe.dialects.dialect import (
    WHY_NOT,
    Dialect,
    Get,
    Hints,
    ServerStatus,
    StatusQuery,
    refused_without_key,
    unusable,
)
from exporter.probe.dialects.keep_alive import KeepAlive
from exporter.probe.failure import ProbeFailure
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.http.transport import Connection
from exporter.probe.production import ProductionMeter
from exporter.probe.result import Identity, Result, TargetState
from exporter.probe.secret import hide, without_key
from exporter.probe.server import Server
from exporter.regular_file import read_bytes
from exporter.settings import Target

log = logging.getLogger(__name__)

READ_BYTES: Final = 2 * 1024 * 1024
KEY_BYTES: Final = 64 * 1024
BESIDE_SECONDS: Final = 2.5
NOT_KNOWN: Final = "Something answers, but it is not a server type that I know. If it is one, set `backend:`"
WANTS_KEY: Final = (
    "Something answers and requires a key. If it is an inference server, add it to targets with its api_key_file"
)
# A server that is awake after so long without any use has no sleep timer that a probe an hour would leave alone.
SLEEPLESS_SECONDS: Final = 3300.0
_NOBODY_THERE: Final[frozenset[Result]] = frozenset({"resolve", "connect", "tls", "timeout_connect"})

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class StatusResult:
    """Outcome of one status check: the status, or the failure that prevented it."""

    status: ServerStatus | None = None
    failure: ProbeFailure | None = None

    @property
    def loading(self) -> bool:
        """Whether a model is being loaded; a server that says so is up."""
        return self.status.loading if self.status else self.failure is not None and self.failure.result == "loading"

    @property
    def up(self) -> bool:
        """Whether the server answered its health check."""
        return self.status is not None or self.loading


@dataclass(frozen=True, slots=True)
class Identified:
    """What ``identify`` found: an identity, or why not. ``listening`` is False if nothing is there at all.

    ``notice`` is what a person should know before such a server is probed.
    """

    identity: Identity | None = None
    why_not: str = ""
    listening: bool = False
    notice: str = ""


class StatusTracker:
    """The status checks at one target. Not thread-safe: its prober checks one at a time."""

    def __init__(
        self,
        target: Target,
        server: Server,
        cancellation: Cancellation,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        *,
        permit: Callable[[str], bool] | None = None,
    ) -> None:
        self.target = target
        self.permit = permit
        self.cancellation = cancellation
        self.dialect: Dialect | None = None if target.backend == "auto" else DIALECTS[target.backend]
        self.last: ServerStatus | None = None
        """The newest status check that succeeded; the server may be down since."""
        self.cold = False
        """True while the next request would be the first one since the server's start."""
        self.load_seconds: float | None = None
        """How long the load took that was seen last, from the first status check that saw it to the first that saw its end."""
        self.key = ""
        """The key that was sent last: a server may repeat it."""
        self.answered: str | None = None
        """The model that the newest answer named."""
        self.drafts = False
        """Whether an answer reported drafted tokens, since the server came up."""
        self.hints = Hints(options=target.options, server_metrics=target.server_metrics)
        """What is known of the server from elsewhere."""
        self.reloads: tuple[str | None, str] | None = None
        """A model in memory that is probed no more, and why: a probe made the server load it again."""
        self.unable = ""
        """Why probes of the server as it is now are given up: it refused to generate text."""
        self.used_at: float | None = None
        """Unix time of the last use by somebody else that was noticed."""
        self._probed_activity: str | None = None
        self._touched: tuple[float, str | None] | None = None
        self._sleeps: bool | None = None
        self._noticed = ""
        self._server = server
        self._monotonic = monotonic
        self._wall = wall
        self._up = False
        self._doubtful = False
        self._refused = False
        self._loading_since: float | None = None
        self.production = ProductionMeter(server, monotonic)

    def status(
        self, seconds: float, *, until: float = math.inf, thorough: bool = False, fresh: bool = False
    ) -> StatusResult:
        """Check the status once, each read bounded by that many seconds, all by ``until`` in monotonic time. Raises only Cancelled.

        ``fresh`` reads although the prober is cancelled.
        """
        try:
            connection, headers = self.connection()
            if fresh:
                connection = replace(connection, cancellation=Cancellation())
            checked = StatusResult(self._status(_reader(connection, headers, seconds, until), thorough=thorough))
        except ProbeFailure as exc:
            checked = StatusResult(failure=exc.settled())
        self._note(checked, thorough=thorough)
        return checked

    def read_now(self, connection: Connection, headers: Headers) -> Get:
        """Reads beside a probe that runs, each bounded by some seconds: llama-server answers them between two steps only."""
        return _reader(connection, headers, BESIDE_SECONDS)

    def connection(self) -> tuple[Connection, Headers]:
        """Where to connect and with which headers; the key is read again each time, since it may change on the disk."""
        target = self.target
        connection = Connection(
            base_url=target.url,
            ca_file=target.tls.ca_file,
            insecure_skip_verify=target.tls.insecure_skip_verify,
            cancellation=self.cancellation,
            permit=self.permit,
        )
        headers = _key_header(target.api_key_file)
        self.key = headers[0][1].removeprefix("Bearer ") if headers else ""
        return connection, headers

    def hold_keep_alive(self, keep_alive: KeepAlive) -> None:
        """Remember what a probe asked for of the time that the model stays."""
        if self.last:
            self.last = replace(self.last, keep_alive=keep_alive)

    def doubt(self) -> None:
        """Read again at the next status check what the server serves. Who it is stays: recognition sends it more than a status."""
        self._doubtful = True

    def probed(self, after: ServerStatus | None) -> None:
        """Remember what the server says right after a probe of ours, to distinguish other uses from it."""
        self._probed_activity = after.activity if after else None
        if after and self.last:
            self.last = replace(self.last, own_task=after.slot_task, slot=after.slot)

    def used_since_probe(self, status: ServerStatus) -> bool | None:
        """Whether somebody else used the model since our last probe; None if that can't be known."""
        if self._probed_activity is None or status.activity is None:
            return None
        used = status.activity != self._probed_activity
        if used:
            self.used_at = self._wall()
        return used

    def forbids(self, status: ServerStatus) -> str:
        """Why the model that is loaded now is not probed again, by what an earlier probe did or was answered."""
        return self.reloads[1] if self.reloads and status.resident and self.reloads[0] == status.model else ""

    def warmed(self) -> None:
        """Remember that a request has been answered since the server's start."""
        self.cold, self.load_seconds = False, None

    def state(self, checked: StatusResult) -> TargetState:
        """A status check as the rest of the program sees it: what runs of ours is left out."""
        status, ours = checked.status, self._server.streams
        identity = self.last.identity if self.last else Identity(self.dialect.name) if self.dialect else None
        state = TargetState(
            target=self.target.name,
            url=self.target.url,
            at_seconds=self._wall(),
            up=checked.up,
            loading=checked.loading,
            identity=without_key(identity, self.key) if identity else None,
            error=hide(checked.failure.message, self.key) if checked.failure else "",
        )
        state = self.named(state)
        if status is None:
            return state
        produced = self.production.read(status)
        # What only a thorough check reads would come and go from one check to the next.
        running, waiting = (None, None) if status.read_is_use else without_ours(status, ours)
        return replace(
            state,
            model_resident=status.resident,
            requests_running=running,
            requests_waiting=waiting,
            kv_cache_usage=status.kv_cache_usage,
            generated_tokens_per_second=produced.generated_tokens_per_second,
            user_tokens_per_second=produced.user_tokens_per_second,
            user_ttft_seconds=produced.user_ttft_seconds,
            stuck=produced.stuck,
            error=hide(status.error, self.key),
            notice=hide(status.notice, self.key),
        )

    def named(self, state: TargetState) -> TargetState:
        """The state with what the answers reported: drafted tokens, and the model, if nothing else names one."""
        state = replace(state, drafts=self.drafts or (state.up and self.last is not None and self.last.drafts))
        if state.identity is None or state.identity.model is not None or self.answered is None:
            return state
        return replace(state, identity=replace(state.identity, model=hide(self.answered, self.key)))

    def _status(self, get: Get, *, thorough: bool) -> ServerStatus:
        if self.target.backend == "auto" and not self._up:
            # What comes back after it was down may be another server.
            self.dialect = _recognise(get, named=True)
        assert self.dialect is not None  # noqa: S101 - named or recognised
        known = self._up and not self._doubtful and self.last and self.last.identity.backend == self.dialect.name
        last = self.last if known else None
        self._doubtful = False
        if self._refused:
            self._sleeps = None  # it was down: it may have been started with a timer
        hints = self.hints if self.hints.sleeps is not None else replace(self.hints, sleeps=self._sleeps)
        return self.dialect.status(StatusQuery(get, self.target.model, last, thorough, self._wall(), hints))

    def _note(self, checked: StatusResult, *, thorough: bool) -> None:
        """Remember a status check, and what it says against the one before: a load, a restart."""
        status, last, now = checked.status, self.last, self._monotonic()
        if checked.loading:
            self._loading_since = now if self._loading_since is None else self._loading_since
            self.cold = True
        elif status:
            if self._loading_since is not None:
                self.load_seconds, self._loading_since = now - self._loading_since, None
            self.cold = not status.served and (
                self.cold
                or _restarted(last, status, refused=self._refused)
                or (last is None and status.served is False)
            )
            restarted = _restarted(last, status, refused=self._refused)
            if restarted or (self.reloads and self.reloads[0] == status.model and not status.resident):
                self.reloads = None
            if last is None or restarted or last.model != status.model:
                self.unable, self.drafts = "", False
            if restarted:
                self._sleeps = self._touched = self._probed_activity = None
                status = replace(status, own_task=None)
            self._learn_of_sleep(status, thorough=thorough)
            self._log_notice(status.notice)
        self._up = status is not None
        if not checked.up:
            self.answered, self.drafts = None, False
        if status:
            self._refused, self.last = False, status
        elif checked.failure and checked.failure.result == "connect":
            self._refused = True

    def _log_notice(self, notice: str) -> None:
        """Log once what a person should know of probes of this server."""
        if notice and notice != self._noticed:
            log.info("%s: %s", self.target.name, hide(notice, self.key))
            self._noticed = notice

    def _learn_of_sleep(self, status: ServerStatus, *, thorough: bool) -> None:
        """A server that slept has a sleep timer; one that stayed awake for an hour without any use has none.

        A thorough check counts as a use. The activity shows that nobody else used it since.
        """
        now, touched = self._monotonic(), self._touched
        if status.resident is False and status.unloads:
            self._sleeps = True
        if not thorough or status.activity is None:
            return
        quiet = touched is not None and touched[1] == status.activity and now - touched[0] >= SLEEPLESS_SECONDS
        if quiet and status.unloads is None:
            self._sleeps = False
        self._touched = (now, status.activity)


def without_ours(status: ServerStatus, ours: int) -> tuple[float | None, float | None]:
    """Requests of others that run and wait. Ours wait first: they came last."""
    waiting = status.waiting
    if waiting is not None:
        queued = min(waiting, ours)
        waiting, ours = waiting - queued, ours - int(queued)
    return None if status.running is None else max(status.running - ours, 0.0), waiting


def identify(
    url: str,
    *,
    seconds: float = 2.0,
    cancellation: Cancellation | None = None,
    api_key_file: Path | None = None,
    hints: Hints | None = None,
) -> Identified:
    """Ask by harmless reads what answers at a URL, each read bounded by that many seconds. Raises nothing but Cancelled."""
    connection = Connection(base_url=url, cancellation=cancellation or Cancellation())
    try:
        get = _reader(connection, _key_header(api_key_file), seconds)
        dialect = _recognise(get, named=False)
    except ProbeFailure as exc:
        return Identified(
            why_not=exc.settled().message, listening=exc.result not in {"resolve", "connect", "timeout_connect"}
        )
    try:
        status = dialect.status(StatusQuery(get, now=time.time(), hints=hints or Hints()))
        return Identified(status.identity, listening=True, notice=status.notice)
    except ProbeFailure:
        # It is known, but loads its model or has a fault: still a target.
        return Identified(Identity(dialect.name), listening=True)


def _recognise(get: Get, *, named: bool) -> Dialect:
    """Who answers. ``named``: a user says that it is an inference server, so one that wants a key is taken for one."""
    dialect = recognise(get)
    if dialect is not None:
        return dialect
    models = get("/v1/models")
    if refused_without_key(models) and b"html" not in models.body[:500].lower():
        if named:
            return DIALECTS["openai"]
        raise ProbeFailure("auth", WANTS_KEY, status=models.status)
    if models.status >= 500:
        raise unusable("/v1/models", models)
    raise ProbeFailure("protocol", NOT_KNOWN)


def _restarted(last: ServerStatus | None, status: ServerStatus, *, refused: bool) -> bool:
    """Whether a server's start lies between two status checks, by what it says of its start, else because nothing was there."""
    if last and last.started and status.started:
        return last.started != status.started
    return refused


def _key_header(api_key_file: Path | None) -> Headers:
    if api_key_file is None:
        return ()
    return (("authorization", f"Bearer {read_secret(api_key_file, 'api_key_file')}"),)


def read_secret(path: Path, what: str) -> str:
    """The one line of a file that holds a key. Raises ProbeFailure, which says what file it is."""
    try:
        key = read_bytes(path, KEY_BYTES).decode("ascii").strip()
    except OSError as exc:
        raise ProbeFailure("auth", f"{what} {path} can't be read: {exc.strerror or exc}") from None
    except ValueError:
        raise ProbeFailure("auth", f"{what} {path} is not plain text") from None
    if not key or not key.isprintable():
        raise ProbeFailure("auth", f"{what} {path} holds no key, or more than one line")
    return key


def _reader(connection: Connection, headers: Headers, seconds: float, until: float = math.inf) -> Get:
    """A read that asks each path once. What only this path does wrong is a reply of status 0, what is wrong with all raises."""
    replies: dict[tuple[str, bytes], Reply] = {}

    def get(path: str, body: bytes | None = None, /) -> Reply:
        key = (path, body or b"")
        if key not in replies:
            timeout = max(min(seconds, until - time.monotonic()), 0.001)
            method = "GET" if body is None else "POST"
            try:
                replies[key] = client.fetch(
                    connection,
                    path,
                    timeout=timeout,
                    limit_bytes=READ_BYTES,
                    headers=headers,
                    method=method,
                    body=body or b"",
                )
            except ProbeFailure as exc:
                # Whatever accepted the connection and then said nothing will not say more at another path.
                if exc.result in _NOBODY_THERE or exc.result.startswith("timeout"):
                    raise
                # Nor will what does not speak HTTP, as its first answer shows.
                if not replies and exc.result == "protocol" and exc.status is None:
                    raise
                replies[key] = Reply(0, {WHY_NOT: exc.message}, b"")
        return replies[key]

    return get
