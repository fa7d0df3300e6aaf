"""The options with which a command reaches the running daemon: its address, a user with a password, certificates."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.printing import say

if TYPE_CHECKING:
    from exporter.ledger_access import DaemonAccess


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """The daemon to ask, and the login: the options that ``with_daemon_options`` adds."""

    url: str | None
    user: str | None
    password_file: Path | None
    cacert: Path | None
    cert: Path | None
    key: Path | None

    def access(self, config: Path | None) -> "DaemonAccess":
        """The daemon by its URL, else the one of this machine. A password that is in no file is asked for."""
        from exporter.daemon_login import (
            Login,
            check_user,
            given_address,
            opener_for,
            own_address,
            read_password,
            risk_of,
        )
        from exporter.ledger_access import DaemonAccess

        environ = {**os.environ, **({"LLM_PROBE_CONFIG": str(config)} if config else {})}
        if self.user is None and self.password_file is not None:
            raise click.UsageError("--password-file needs --user NAME")
        if self.cert is None and self.key is not None:
            raise click.UsageError("--key needs --cert FILE")
        with wrong_login():
            address = given_address(self.url) if self.url else own_address(environ)
            user = check_user(self.user) if self.user else ""
            password = read_password(self.password_file) if self.password_file else _typed_password(user)
            login = Login(user, password, self.cacert, (self.cert, self.key) if self.cert else None)
            if risk := risk_of(address, login):
                say(f"warning: {risk}")
            return DaemonAccess(address.url, opener_for(address, login), user)


def with_daemon_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for the daemon to ask and for the login; the command gets them as ``options``."""
    file = click.Path(path_type=Path)

    @click.option(
        "--url", metavar="URL", help="URL of the daemon.  [default: from LLM_PROBE_LISTEN or the configuration]"
    )
    @click.option(
        "--user",
        "-u",
        metavar="NAME",
        help="User name, for a daemon that requires a password. The terminal asks for the password.",
    )
    @click.option("--password-file", metavar="FILE", type=file, help="The file that holds the user's password.")
    @click.option(
        "--cacert", metavar="FILE", type=file, help="The CA of the daemon's certificate, or the certificate itself."
    )
    @click.option("--cert", metavar="FILE", type=file, help="A client certificate, for a daemon that requires one.")
    @click.option("--key", metavar="FILE", type=file, help="The key of --cert, if it is in a separate file.")
    @functools.wraps(command)
    def with_options(
        *,
        url: str | None,
        user: str | None,
        password_file: Path | None,
        cacert: Path | None,
        cert: Path | None,
        key: Path | None,
        **more: Any,
    ) -> None:
        command(options=DaemonOptions(url, user, password_file, cacert, cert, key), **more)

    return with_options


@contextlib.contextmanager
def wrong_login() -> Iterator[None]:
    """Print what is wrong with the address or the login, and exit with 2."""
    from exporter.daemon_login import LoginError

    try:
        yield
    except LoginError as exc:
        say(str(exc))
        sys.exit(2)


def _typed_password(user: str) -> str:
    """What a person types at a terminal, unseen; nothing without a user."""
    if not user:
        return ""
    if not sys.stdin.isatty():
        raise click.UsageError("without a terminal, --user needs --password-file FILE")
    password: str = click.prompt(f"Password of {user}", hide_input=True, err=True)
    return password
