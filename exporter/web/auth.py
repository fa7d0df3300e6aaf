"""Authentication of the exporter's own endpoints: TLS, client certificates and passwords from ``web_config_file``.

``Auth`` holds the rules in force. ``guard`` puts it around the application, ``context`` gives the TLS of a new connection, and
``refresh`` takes over files that have changed. Rules that are wrong never replace rules that work.

A password is checked by bcrypt, which is slow on purpose, so an attacker could use it to keep the exporter busy. So one hash
runs at a time, in a thread, and few may wait for that. A wrong password is followed by a pause as long as its check. A password
that was right once is remembered (by a keyed digest), so that a scrape never waits.
"""

import asyncio
import base64
import binascii
import hashlib
import ipaddress
import logging
import os
import re
import secrets
import socket
import ssl
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from exporter.regular_file import read_bytes, require_regular
from exporter.settings import Problem, SettingsError, WebTls, load_web_config
from exporter.settings.document import read_document
from exporter.text import count_text
from exporter.web.server import AsgiApp, Message
from exporter.web.threads import in_thread

log = logging.getLogger(__name__)

OPEN_PATH: Final = "/-/healthy"
"""Answered without a password: the health check of a container has none, and the answer says nothing but that it runs."""
REMEMBERED: Final = 64
"""Right passwords that are remembered."""
WAITING: Final = 16
"""Different passwords that may wait to be checked, in all and from one address."""
WAITING_EACH: Final = 2
CA_BYTES: Final = 1 << 20
FAILURES_SECONDS: Final = 60.0
"""Failed logins are logged at most once in this time, with their number."""
BCRYPT_BYTES: Final = 72
"""What bcrypt reads of a password; everywhere the rest is ignored."""

_VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
# A certificate that is merely requested would be read by nobody here, so it is not asked for.
_VERIFY: Final = {
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_HOST: Final = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::\d*)?", re.ASCII)
_CHALLENGE: Final = {"www-authenticate": 'Basic realm="llm-probe-exporter", charset="UTF-8"'}

Stamp = tuple[int, int, int] | None
"""What changes when a file does: time of change, size, inode. None if there is no file."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Which clients get access: by which TLS, with which password; and the files that say so, as they were."""

    tls: ssl.SSLContext | None = None
    users: Mapping[str, str] = field(default_factory=dict)
    trust: str = ""
    """Which clients a certificate lets in: a digest of the CA and of what is asked for; empty if none is checked."""
    files: tuple[tuple[Path, Stamp], ...] = ()

    @property
    def closed(self) -> bool:
        """Whether a client needs a password or a certificate."""
        return bool(self.users) or (self.tls is not None and self.tls.verify_mode is ssl.CERT_REQUIRED)

    @property
    def cost(self) -> int:
        """The cost of the most expensive hash: every password is checked with that much work."""
        return max(map(_cost_of, self.users.values()), default=4)


def read_rules(path: Path | None) -> Rules:
    """The rules of a web configuration file, certificates loaded; SettingsError with what is wrong. None sets no authentication."""
    if path is None:
        return Rules()
    before = _stamp_of(path)
    config = load_web_config(path)
    files = [(path, before)]
    context, trust = None, ""
    if (tls := config.tls_server_config) is not None:
        named = (tls.cert_file, tls.key_file, tls.client_ca_file)
        files += [(each, _stamp_of(each)) for each in named if each is not None]
        context, trust = _context_of(tls, path)
    return Rules(context, config.basic_auth_users, trust, tuple(files))


def opening(now: Rules, new: Rules, path: Path | None) -> Problem | None:
    """What is wrong with rules that would remove the authentication that is in force; else None.

    A file that was emptied or truncated may be valid. Only a restart removes authentication.
    """
    if not now.closed or new.closed:
        return None
    message = "asks for no password and no client certificate any more. If that is intended, restart the exporter: a reload never removes authentication"
    return Problem("" if path else "web_config_file", message, str(path or ""))


def _context_of(tls: WebTls, path: Path) -> tuple[ssl.SSLContext, str]:
    """The TLS of new connections, and the digest of which clients it trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = _VERSIONS[tls.min_version], _VERSIONS[tls.max_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        for each in (tls.cert_file, tls.key_file):
            require_regular(each)  # OpenSSL opens them by their paths, and would wait for a FIFO
        # Without this, an encrypted key would ask for its password on a terminal.
        context.load_cert_chain(tls.cert_file, tls.key_file, password=_no_password)
    except (OSError, ValueError) as exc:
        wrong = f"can't be used with key_file: {_reason_of(exc)}"
        raise _wrong(path, "cert_file", wrong) from None
    verify, trust = _VERIFY[tls.client_auth_type], ""
    if tls.client_ca_file is not None and verify is not ssl.CERT_NONE:
        try:
            trusted = read_bytes(tls.client_ca_file, CA_BYTES)
            context.load_verify_locations(tls.client_ca_file)
            trust = hashlib.sha256(trusted + verify.name.encode()).hexdigest()
        except (OSError, ValueError) as exc:
            wrong = f"holds no certificates in PEM format ({getattr(exc, 'strerror', None) or exc})"
            raise _wrong(path, "client_ca_file", wrong) from None
    context.verify_mode = verify
    return context, trust


def _wrong(path: Path, key: str, message: str) -> SettingsError:
    location = read_document(path, 0).locations.get(("tls_server_config", key))
    return SettingsError([Problem(f"tls_server_config.{key}", message, location.source if location else str(path))])


def _no_password() -> str:
    raise ValueError("the key is encrypted: use one without a passphrase")


def _reason_of(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError):
        known = {
            "KEY_VALUES_MISMATCH": "the certificate and the key don't match",
            "": "one of them is not in PEM format",
        }
        return known.get(exc.reason or "", str(exc.reason).lower().replace("_", " "))
    return getattr(exc, "strerror", None) or str(exc)


@dataclass(frozen=True, slots=True)
class _LoggedFailures:
    """When failed logins were last logged, and how many there had been by then."""

    at: float = float("-inf")
    failures: int = 0


class Auth:
    """The rules in force. ``use`` and ``refresh`` are for one thread at a time; the rest is for the server's loop.

    ``hosts`` are the names by which it may be called without authentication, besides those that are always allowed.
    Raises SettingsError.
    """

    def __init__(self, path: Path | None = None, *, hosts: Iterable[str] = ()) -> None:
        self._path = path
        self._hosts = _names(hosts)
        self.rules = read_rules(path)
        self.problems: tuple[str, ...] = ()
        """What is wrong with files that have changed, while the rules of before are in force."""
        self.failures = 0
        """Wrong passwords, and client certificates that were missing or not accepted, since the start."""
        self.on_change: Callable[[], object] = lambda: None
        """Called when other rules are in force."""
        self._logged = _LoggedFailures()
        self._trusted: WeakKeyDictionary[ssl.SSLContext, str] = WeakKeyDictionary()
        self._settling: tuple[Stamp, ...] = ()
        self._salt = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._known_to = self.rules
        self._checking: dict[bytes, asyncio.Task[bool]] = {}
        self._waiting: Counter[str] = Counter()
        self._turn = asyncio.Lock()

    def use(self, path: Path | None, rules: Rules, hosts: Iterable[str] | None = None) -> None:
        """Put other rules in force, for new connections and for every request from now on."""
        if hosts is not None:
            self._hosts = _names(hosts)
        self._path, self.rules, self.problems, self._settling = path, rules, (), ()
        self.on_change()

    def refresh(self) -> tuple[str, ...]:
        """Read the files again if they have changed, and stayed so since the call before; gives ``problems``."""
        now = tuple(_stamp_of(path) for path, _ in self.rules.files)
        if not self.problems:
            if now == tuple(stamp for _, stamp in self.rules.files):
                return ()
            if now != self._settling:
                self._settling = now  # somebody may still be writing
                return ()
        try:
            rules = read_rules(self._path)
            if (problem := opening(self.rules, rules, self._path)) is not None:
                raise SettingsError([problem])  # noqa: TRY301 - treated as any other mistake in the file
        except SettingsError as exc:
            problems = tuple(map(str, exc.errors))
            if problems != self.problems:
                log.error("web_config_file not reloaded; the previous one stays in use: %s", "; ".join(problems))  # noqa: TRY400 - the user's mistake
            self.problems = problems
        else:
            self.use(self._path, rules)
            log.info("%s or a certificate has changed, and is used now", self._path)
        return self.problems

    def context(self) -> ssl.SSLContext | None:
        """The TLS of a new connection; None is plain HTTP."""
        rules = self.rules
        if rules.tls is not None:
            self._trusted[rules.tls] = rules.trust
        return rules.tls

    def is_stale(self, context: ssl.SSLContext | None) -> bool:
        """Whether a connection made with this context accepted a client that would be refused now."""
        trusted = self._trusted.get(context, "") if context is not None else ""
        return trusted != self.rules.trust

    def note_failure(self, address: str) -> None:
        """Count a failed login; the log names the address, at most once a minute, and never what was typed."""
        self.failures += 1
        now = time.monotonic()
        if now - self._logged.at >= FAILURES_SECONDS:
            since = self.failures - self._logged.failures
            log.warning("%s since the last such line; the last one from %s", count_text(since, "failed login"), address)
            self._logged = _LoggedFailures(now, self.failures)

    def guard(self, app: AsgiApp) -> AsgiApp:
        """The application behind these rules."""

        async def guarded(scope: Message, receive: Any, send: Any) -> None:
            refusal = await self._refusal(scope)
            await (app if refusal is None else refusal)(scope, receive, send)

        return guarded

    async def _refusal(self, scope: Message) -> PlainTextResponse | None:
        """The answer to a request that is refused; None if it is allowed."""
        if scope["path"] == OPEN_PATH:
            return None
        rules, headers = self.rules, Headers(scope=scope)
        if not rules.closed and not _is_meant(headers.get("host", ""), self._hosts):
            return _not_meant()
        if not rules.users:
            return None
        given = _password_of(headers.get("authorization", ""))
        if given is None:
            return _refused(401, "This exporter requires a user name and a password.", _CHALLENGE)
        right = await self._is_right(rules, *given, _neighbourhood_of(scope))
        if right is False:
            self.note_failure(str(scope["client"][0]) if scope.get("client") else "an unknown address")
        if right is None:
            return _refused(429, "Too many passwords wait to be checked: try again later.", {"retry-after": "5"})
        return None if right else _refused(401, "The user name or the password is wrong.", _CHALLENGE)

    async def _is_right(self, rules: Rules, user: str, password: bytes, address: str) -> bool | None:
        """Whether this is the user's password; None if too many others wait for that answer."""
        if rules is not self._known_to:
            self._known.clear()
            self._known_to = rules
        digest = self._digest(rules, user, password)
        if digest in self._known:
            self._known.move_to_end(digest)
            return True
        checking = self._checking.get(digest)
        if checking is None:
            if self._waiting.total() >= WAITING or self._waiting[address] >= WAITING_EACH:
                return None
            checking = self._checking[digest] = asyncio.create_task(self._check(rules, user, password))
            self._waiting[address] += 1
            checking.add_done_callback(lambda _: self._forget(digest, address))
        right = await asyncio.shield(checking)
        if right and rules is self._known_to:
            self._known[digest] = None
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return right

    async def _check(self, rules: Rules, user: str, password: bytes) -> bool:
        """Compare with the hash, one at a time; after a wrong password there is a pause before the next comparison."""
        async with self._turn:
            begun = time.monotonic()
            right = await in_thread(_is_password, password, rules.users.get(user), rules.cost)
            if not right:
                await asyncio.sleep(time.monotonic() - begun)
            return right

    def _forget(self, digest: bytes, address: str) -> None:
        del self._checking[digest]
        self._waiting[address] -= 1
        self._waiting += Counter()  # leaves those out that are at zero

    def _digest(self, rules: Rules, user: str, password: bytes) -> bytes:
        """What a password is remembered by: of no use outside of this process, another one when the user's hash changes."""
        parts = (user.encode("utf-8", "replace"), rules.users.get(user, "").encode(), password)
        lengths = b"".join(len(part).to_bytes(4) for part in parts)
        return hashlib.blake2b(lengths + b"".join(parts), key=self._salt, digest_size=32).digest()


def _is_password(password: bytes, wanted: str | None, cost: int) -> bool:
    """Whether a hash is that of a password. Takes as long for every user, whatever the cost of their hash, and for nobody.

    A hash of cost n is twice the work of one of cost n - 1, so what is missing to ``cost`` is done with one hash of each cost
    between.
    """
    import bcrypt  # noqa: PLC0415 - with the first password

    password = password[:BCRYPT_BYTES]
    stored = wanted.encode() if wanted is not None else bcrypt.gensalt(cost) + b"." * 31
    try:
        right = bcrypt.checkpw(password, stored)
        for rounds in range(_cost_of(stored.decode()), cost):
            bcrypt.hashpw(password, bcrypt.gensalt(rounds))
    except ValueError:  # a zero byte, in some versions
        return False
    return right and wanted is not None


def _cost_of(stored: str) -> int:
    return int(stored[4:6])


def _password_of(authorization: str) -> tuple[str, bytes] | None:
    """User name and password of a header; None if it has none."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user.decode("utf-8", "replace"), password) if colon else None


def _neighbourhood_of(scope: Message) -> str:
    """The address of a client; of IPv6 the network, in which it may have as many addresses as it wants."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return str(host)
    if address.version == 4:
        return host
    if address.ipv4_mapped is not None:  # a socket on every address sees IPv4 like this
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _names(hosts: Iterable[str]) -> frozenset[str]:
    """The names that are meant: those given, and the machine's own, also as mDNS has it."""
    own = socket.gethostname().lower()
    return frozenset({own, f"{own.partition('.')[0]}.local", *(each.lower().rstrip(".") for each in hosts)})


def _is_meant(host: str, hosts: frozenset[str]) -> bool:
    """Whether the Host header of a request is a name of this machine, whatever the address of the connection.

    A foreign web page can let its own name resolve to any address that its reader reaches. It is then of one site with what
    answers there, and could read all. Its requests still carry its name. A name without a dot is none of the public DNS.
    """
    if not host:
        return True  # no browser leaves it out
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = (found["address"] or found["name"]).rstrip(".").lower()
    if "." not in name or name.endswith(".localhost") or name in hosts:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _not_meant() -> PlainTextResponse:
    return _refused(
        421,
        "This exporter asks for no password, and answers only by an address, by localhost, by a name without a dot or by the name of"
        " its machine. Add the name to allowed_hosts, or set up authentication (web_config_file). A reverse proxy may send"
        " Host: 127.0.0.1.",
    )


def _refused(status: int, message: str, headers: Mapping[str, str] | None = None) -> PlainTextResponse:
    always = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return PlainTextResponse(f"{message}\n", status, headers={**always, **(headers or {})})


def _stamp_of(path: Path) -> Stamp:
    try:
        found = os.stat(path)  # noqa: PTH116 - one call for all three
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
