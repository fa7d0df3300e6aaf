"""How a command reaches the running daemon: its address, who it is, and who asks. Raises LoginError for what is wrong."""

import base64
import contextlib
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from exporter.address import DEFAULT_LISTEN, is_loopback
from exporter.regular_file import read_bytes, require_regular

LARGEST_PASSWORD: Final = 4096


class LoginError(Exception):
    """What was given can't be used; the message names the option and says why."""


@dataclass(frozen=True, slots=True)
class Login:
    """Who asks, and by which CA the daemon is known; empty if the daemon asks for nothing.

    ``certificate`` is a client's certificate and its key, which may be in the same file.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    certificate: tuple[Path, Path | None] | None = None


@dataclass(frozen=True, slots=True)
class DaemonAddress:
    """Where the daemon is.

    ``certificate`` is the daemon's own with its key, if its configuration names one. ``wants_certificate`` says that it asks
    its clients for theirs.
    """

    url: str
    certificate: tuple[Path, Path] | None = None
    wants_certificate: bool = False


def given_address(url: str) -> DaemonAddress:
    """The daemon at a URL that a person has written."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise LoginError(f"--url: write it like http://{DEFAULT_LISTEN}")
    if parts.username is not None or parts.password is not None:
        raise LoginError(
            "--url: has a user name or password in it, which others can read: use --user and --password-file"
        )
    return DaemonAddress(url.rstrip("/"))


def own_address(environ: Mapping[str, str]) -> DaemonAddress:
    """The daemon on this machine that has this environment; every address is reached through loopback."""
    listen, scheme, certificate, wanted = environ.get("LLM_PROBE_LISTEN") or DEFAULT_LISTEN, "http", None, False
    if environ.get("LLM_PROBE_CONFIG") or environ.get("LLM_PROBE_WEB_CONFIG_FILE"):
        from exporter.settings import SettingsError, load, load_web_config  # noqa: PLC0415 - a health check needs no YAML

        # A file that was broken since is no reason to call a daemon sick that runs on.
        with contextlib.suppress(SettingsError):
            settings = load(Path(environ["LLM_PROBE_CONFIG"]) if environ.get("LLM_PROBE_CONFIG") else None, environ)
            listen = settings.listen
            if settings.web_config_file and (tls := load_web_config(settings.web_config_file).tls_server_config):
                scheme, certificate = "https", (tls.cert_file, tls.key_file)
                wanted = tls.client_auth_type == "RequireAndVerifyClientCert"
    host, _, port = listen.rpartition(":")
    own = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - replaced, not bound
    return DaemonAddress(f"{scheme}://{own.get(host, host)}:{port}", certificate, wanted)


def read_password(path: Path) -> str:
    """The password that a file holds, without the line's end."""
    try:
        password = read_bytes(path, LARGEST_PASSWORD).decode("utf-8").rstrip("\r\n")
    except OSError as exc:
        raise LoginError(f"--password-file: {path} can't be read: {exc.strerror or exc}") from None
    except UnicodeDecodeError:
        raise LoginError(f"--password-file: {path} is not UTF-8") from None
    if not password:
        raise LoginError(f"--password-file: {path} is empty")
    return password


def check_user(name: str) -> str:
    """A user name that basic authentication can send."""
    if ":" in name:
        raise LoginError(
            "--user: has a colon in it. A password in the command line can be read by others: use --password-file, "
            "or type it when asked"
        )
    return name


def risk_of(address: DaemonAddress, login: Login) -> str:
    """What a person should know before the password is sent; empty if there is nothing."""
    parts = urlsplit(address.url)
    if login.password and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        return f"the password is sent to {address.url} without TLS: others on the network can read it"
    return ""


def opener_for(address: DaemonAddress, login: Login | None = None) -> urllib.request.OpenerDirector:
    """What asks the daemon: by no proxy, at no other address, with what the login has. Without a login it is not verified."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirect()]
    if address.url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=_tls(address, login)))
    opener = urllib.request.build_opener(*handlers)
    if login is not None and login.user:
        told = base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
        opener.addheaders = [*opener.addheaders, ("Authorization", f"Basic {told}")]
    return opener


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """No redirect is followed: the daemon sends none, and a password must be sent to no other server."""

    def redirect_request(self, *_: Any) -> None:
        """No request: the answer stays an error."""


def _tls(address: DaemonAddress, login: Login | None) -> ssl.SSLContext:
    """The daemon is verified by --cacert, else by its own certificate if its configuration names one, else as any server is.

    One on loopback that gets no password isn't verified: its certificate is for others, who know it by a name.
    """
    here = is_loopback(urlsplit(address.url).hostname or "")
    own = address.certificate[0] if address.certificate else None
    known = login.ca_file if login else None
    if login is None or (known is None and here and not login.user):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        option = "--cacert" if known else "web_config_file"
        context = _loaded(option, known or own)
        # Loopback is no name of its certificate, unless a person wrote it.
        context.check_hostname = own is None
    if login is not None and login.certificate is not None:
        _show(context, *login.certificate)
    elif address.certificate and address.wants_certificate:
        with contextlib.suppress(OSError, ValueError):
            context.load_cert_chain(*address.certificate, password="")
    return context


def _loaded(option: str, known: Path | None) -> ssl.SSLContext:
    """A context that knows the CAs of a file, or those of the system, and checks as curl does."""
    try:
        if known is not None:
            require_regular(known)  # OpenSSL opens it by its path, and would wait for a FIFO
        context = ssl.create_default_context(cafile=known)
    except ssl.SSLError:
        raise LoginError(f"{option}: {known} holds no certificate in PEM format") from None
    except OSError as exc:
        raise LoginError(f"{option}: {known} can't be read: {exc.strerror or exc}") from None
    context.verify_flags = (context.verify_flags & ~ssl.VERIFY_X509_STRICT) | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _show(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Present a client's certificate to a daemon that asks for one."""
    try:
        for each in (certificate, key or certificate):
            require_regular(each)
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError:
        raise LoginError(
            f"--cert: {certificate} and its key can't be used: they don't match, or are not in PEM format"
        ) from None
    except OSError as exc:
        raise LoginError(f"--cert: {certificate} or its key can't be read: {exc.strerror or exc}") from None
