"""How `status`, `top` and `changes` come in where the daemon wants a password, TLS or a certificate; over real sockets."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from exporter.cli import main
from exporter.daemon_login import Login, LoginError, given_address, opener_for
from exporter.exposition import Exposition
from exporter.snapshot import Snapshot
from exporter.web.app import build_app
from exporter.web.auth import Auth
from exporter.web.server import WebServer, listen
from tests.processes import SECONDS, Terminal
from tests.scenes import NOW, publish_all
from tests.servers.certificates import make_certificate, make_home_authority
from tests.web.actions import StubActions
from tests.web.test_auth import hashed, tls_config

PASSWORD = "correct horse"


@contextmanager
def serving(web: Path) -> Iterator[int]:
    """The made-up machine behind authentication; the port on loopback."""
    auth, bound = Auth(web), listen("127.0.0.1", 0)
    snapshot = publish_all(Snapshot())
    app = build_app(snapshot, Exposition().render, StubActions(), clock=lambda: NOW)
    server = WebServer(auth.guard(app), bound, tls=auth.context)
    server.start()
    try:
        yield bound.getsockname()[1]
    finally:
        server.stop()


def with_password(web: Path) -> Path:
    """The file with a user added, whose password is ``PASSWORD``."""
    before = web.read_text(encoding="utf-8") if web.exists() else ""
    web.write_text(f'{before}basic_auth_users:\n  me: "{hashed(PASSWORD)}"\n', encoding="utf-8")
    return web


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """The password as an editor saves it, with a line's end."""
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n", encoding="utf-8")
    return path


def run(*arguments: str | Path, **environ: str) -> Result:
    """A command with nothing else of this machine's environment."""
    clean = {name: None for name in os.environ if name.startswith("LLM_PROBE_")}
    return CliRunner().invoke(main, [str(each) for each in arguments], env={**clean, **environ})


def test_a_password_from_a_file(tmp_path: Path, password_file: Path) -> None:
    """Verdicts with the right password; without or with a wrong one a sentence that says what to do, and never the password."""
    wrong = tmp_path / "wrong"
    wrong.write_text("incorrect")
    with serving(with_password(tmp_path / "web.yml")) as port:
        url = f"http://127.0.0.1:{port}"
        told = run("status", "--url", url, "--user", "me", "--password-file", password_file)
        assert told.stdout.startswith("12 targets: 1 down"), told.output
        assert told.exit_code == 1  # since one is down
        assert run("changes", "--url", url, "-u", "me", "--password-file", password_file).exit_code == 0
        closed = run("status", "--url", url)
        assert (closed.exit_code, closed.stdout) == (1, "")
        assert closed.stderr == (
            f"{url} requires a password (401): name a user with --user, and the file of the password with --password-file\n"
        )
        refused = run("status", "--url", url, "--user", "me", "--password-file", wrong)
        assert refused.stderr == f"{url} does not accept the user me with this password (401)\n"


def test_a_password_is_asked_for_on_a_terminal(tmp_path: Path) -> None:
    """It is typed unseen; where there is no terminal the call is wrong and says what to give."""
    with serving(with_password(tmp_path / "web.yml")) as port:
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "exporter", "status", "--url", url, "--user", "me"]
        with Terminal(command, {**os.environ, "TERM": "dumb"}) as terminal:
            terminal.wait_for(b"Password of me")
            terminal.wait_for_hidden_input()
            terminal.type(PASSWORD.encode() + b"\n")
            shown = terminal.rest()
        assert b"12 targets" in shown
        assert PASSWORD.encode() not in shown
        piped = run("status", "--url", url, "--user", "me")
        assert piped.exit_code == 2
        assert "without a terminal, --user needs --password-file FILE" in piped.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user", "me:correct horse"], "A password in the command line can be read by others"),
        (["--url", "http://me:correct@127.0.0.1:9"], "has a user name or password in it"),
        (["--url", "ftp://here"], "write it like http://127.0.0.1:9937"),
        (["--user", "me", "--password-file", "nowhere"], "nowhere can't be read: No such file or directory"),
        (["--user", "me", "--password-file", "empty"], "empty is empty"),
        (["--user", "me", "--password-file", "binary"], "binary is not UTF-8"),
        (["--password-file", "empty"], "--password-file needs --user NAME"),
        (["--url", "https://127.0.0.1:9", "--cacert", "empty"], "empty holds no certificate in PEM format"),
        (["--url", "https://127.0.0.1:9", "--cacert", "nowhere"], "nowhere can't be read"),
        (["--url", "https://127.0.0.1:9", "--cert", "nowhere"], "nowhere or its key can't be read"),
        (["--url", "https://127.0.0.1:9", "--cert", "empty"], "and its key can't be used"),
        (["--key", "empty"], "--key needs --cert FILE"),
    ],
)
def test_a_wrong_login_is_a_wrong_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    """Exit code 2 and one sentence, which never repeats a password."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    result = run("status", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "correct" not in result.output


def test_tls_is_verified_where_a_password_is_sent(tmp_path: Path, password_file: Path) -> None:
    """By --cacert: a CA or the self-signed certificate itself; not without, not by another CA, not under another name."""
    authority, *certificate = make_home_authority(tmp_path / "home", names="IP:127.0.0.1")
    stranger, _ = make_certificate(tmp_path / "stranger")
    web = with_password(tls_config(tmp_path / "web.yml", (certificate[0], certificate[1])))
    login = ("--user", "me", "--password-file", password_file)
    with serving(web) as port:
        url = f"https://127.0.0.1:{port}"
        for known in (authority, certificate[0]):
            assert "12 targets" in run("status", "--url", url, *login, "--cacert", known).stdout
        unknown: list[tuple[str | Path, ...]] = [(), ("--cacert", stranger)]
        for wrong in unknown:
            refused = run("status", "--url", url, *login, *wrong)
            assert refused.exit_code == 1
            assert "the certificate of the daemon can't be verified" in refused.stderr
            assert "--cacert" in refused.stderr
        other = run("status", "--url", url.replace("127.0.0.1", "localhost"), *login, "--cacert", authority)
        assert "Hostname mismatch" in other.stderr
        told = run("changes", "--url", url, *login)
        assert "the certificate of the daemon can't be verified" in told.stderr
        plain = run("status", "--url", url.replace("https", "http"), *login)
        assert plain.exit_code == 1
        assert "begin the url with https://" in plain.stderr


def test_the_daemon_of_this_machine_is_known_by_its_own_certificate(tmp_path: Path, password_file: Path) -> None:
    """Where the configuration names its certificate nothing has to be said of it; an impostor at its port gets no password."""
    own, other = make_certificate(tmp_path / "own", names="DNS:gpu-box"), make_certificate(tmp_path / "other")
    web, impostor = tmp_path / "web.yml", tmp_path / "impostor.yml"
    with_password(tls_config(web, own))
    with_password(tls_config(impostor, other))
    login = ("--user", "me", "--password-file", password_file)
    with serving(web) as port, serving(impostor) as false_port:
        environment = {"LLM_PROBE_WEB_CONFIG_FILE": str(web), "LLM_PROBE_CONFIG": ""}
        told = run("status", *login, LLM_PROBE_LISTEN=f"127.0.0.1:{port}", **environment)
        assert "12 targets" in told.stdout, told.stderr
        assert "requires a password" in run("status", LLM_PROBE_LISTEN=f"127.0.0.1:{port}", **environment).stderr
        fooled = run("status", *login, LLM_PROBE_LISTEN=f"127.0.0.1:{false_port}", **environment)
        assert "the certificate of the daemon can't be verified" in fooled.stderr


def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    """--cert and --key, in two files or in one; without, a sentence that names both."""
    server, friend = make_certificate(tmp_path / "server"), make_certificate(tmp_path / "friend")
    more = ("client_auth_type: RequireAndVerifyClientCert", f"client_ca_file: {friend[0]}")
    both = tmp_path / "both.pem"
    both.write_bytes(friend[0].read_bytes() + friend[1].read_bytes())
    with serving(tls_config(tmp_path / "web.yml", server, *more)) as port:
        status = ("status", "--url", f"https://127.0.0.1:{port}", "--cacert", server[0])
        assert "12 targets" in run(*status, "--cert", friend[0], "--key", friend[1]).stdout
        assert "12 targets" in run(*status, "--cert", both).stdout
        assert "give one with --cert and --key" in run(*status).stderr


def test_top_comes_in_too(tmp_path: Path, password_file: Path) -> None:
    """It draws the verdicts of a daemon that wants a password."""
    with serving(with_password(tmp_path / "web.yml")) as port:
        command = [sys.executable, "-m", "exporter", "top", "--url", f"http://127.0.0.1:{port}"]
        command += ["--user", "me", "--password-file", str(password_file)]
        environ = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
        with Terminal(command, environ) as terminal:
            terminal.wait_for(b"12 targets")


def test_a_password_goes_nowhere_else(tmp_path: Path) -> None:
    """A redirect is not followed, and beyond loopback without TLS a person is warned."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        first.settimeout(SECONDS)
        second.settimeout(0.2)

        def redirect() -> None:
            connection, _ = first.accept()
            with connection:
                connection.recv(4096)
                to = second.getsockname()[1]
                connection.sendall(
                    f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{to}/\r\nContent-Length: 0\r\n\r\n".encode()
                )

        thread = threading.Thread(target=redirect)
        thread.start()
        done = run("status", "--url", f"http://127.0.0.1:{first.getsockname()[1]}")
        thread.join()
        assert done.exit_code == 1
        assert "302" in done.stderr
        with pytest.raises(TimeoutError):
            second.accept()
    path = tmp_path / "password"
    path.write_text("p")
    warned = run("status", "--url", "http://gpu-box.invalid:9937", "--user", "me", "--password-file", path)
    assert "without TLS: others on the network can read it" in warned.stderr


def test_what_speaks_no_http_is_said(tmp_path: Path) -> None:
    """An SSH server at the address is no traceback, for a health check neither."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SECONDS)

        def greet() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
                    connection.recv(4096)

        thread = threading.Thread(target=greet)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert "does not answer with HTTP" in run("status", "--url", url).stderr
        checked = run("healthcheck", "--url", url)
        thread.join()
    assert checked.exit_code == 1
    assert checked.stderr.startswith(f"{url}/-/healthy: ")
    assert tmp_path.exists()


def test_a_login_shows_no_password() -> None:
    """Not even in its repr, which a traceback or a log might hold."""
    assert PASSWORD not in repr(Login("me", PASSWORD))
    with pytest.raises(LoginError, match="--url"):
        given_address("gpu-box:9937")
    assert opener_for(given_address("http://127.0.0.1:9937/")).addheaders
