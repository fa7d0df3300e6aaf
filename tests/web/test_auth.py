"""Authentication: passwords, certificates, names; over real sockets, and with the real command."""

import base64
import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import pytest
from click.testing import CliRunner

from exporter.address import is_loopback
from exporter.cli import main
from exporter.daemon import AUTH_SECONDS, Daemon
from exporter.exposition import Exposition
from exporter.settings import SettingsError, load
from exporter.snapshot import Snapshot
from exporter.web import auth as auth_room
from exporter.web import server
from exporter.web.app import build_app
from exporter.web.auth import Auth, Rules, read_rules
from exporter.web.server import WebServer, listen
from tests.attacks import running
from tests.forked import forked_process
from tests.ports import free_port
from tests.processes import Process
from tests.servers.certificates import make_certificate
from tests.waiting import eventually
from tests.web.actions import StubActions

COST = 4
Answer = tuple[int, http.client.HTTPMessage, bytes]


@contextmanager
def serving(auth: Auth, host: str = "127.0.0.1") -> Iterator[tuple[int, StubActions]]:
    """A server behind authentication: its port, and what it did."""
    bound, actions = listen(host, 0), StubActions()
    app = build_app(Snapshot(), Exposition().render, actions)
    server = WebServer(auth.guard(app), bound, tls=auth.context)
    server.start()
    try:
        yield bound.getsockname()[1], actions
    finally:
        server.stop()


def ask(
    port: int,
    path: str = "/metrics",
    *,
    user: str | None = None,
    password: str = "",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Ask once, on a new connection."""
    connection = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=tls)
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    )
    sent = dict(headers or {})
    if user is not None:
        sent["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    try:
        connection.request(method, path, headers=sent)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def hashed(password: str, cost: int = COST) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


def write(path: Path, **users: str) -> Path:
    """A web configuration with these users and their hashes."""
    lines = [f'  {name}: "{stored}"\n' for name, stored in users.items()]
    path.write_text("basic_auth_users:\n" + "".join(lines))
    return path


def auth_of(tmp_path: Path, **passwords: str) -> Auth:
    return Auth(write(tmp_path / "web.yml", **{name: hashed(each) for name, each in passwords.items()}))


def settle(auth: Auth) -> tuple[str, ...]:
    """What two checks of the files say, of which the first sees the change and the second that it stays."""
    auth.refresh()
    return auth.refresh()


# Passwords


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/probe?target=a",
        "/api/v1/status",
        "/-/ready",
        "/?board",
        "/badge/a.svg",
        "/static/status.js",
        "/x",
    ],
)
def test_everything_wants_the_password(tmp_path: Path, path: str) -> None:
    """Without it, with a wrong one, and with another user's, no path says anything; the answer says what is wanted."""
    with serving(auth_of(tmp_path, prom="right", other="theirs")) as (port, _):
        for user, password in ((None, ""), ("prom", "wrong"), ("nobody", "right")):
            status, headers, body = ask(port, path, user=user, password=password)
            assert (status, headers["www-authenticate"]) == (401, 'Basic realm="llm-probe-exporter", charset="UTF-8"')
            assert b"llm_" not in body
        assert ask(port, path, user="prom", password="theirs")[0] == 401
        assert ask(port, path, user="prom", password="right")[0] != 401


@pytest.mark.parametrize(
    "path", ["/-/healthy/", "//-/healthy", "/metrics/../-/healthy", "/-/healthy/../../metrics", "/-/reload"]
)
def test_only_the_health_check_is_open(tmp_path: Path, path: str) -> None:
    """A container's health check has no password; what only looks like its path is closed."""
    with serving(auth_of(tmp_path, prom="right")) as (port, actions):
        assert ask(port, "/-/healthy")[::2] == (200, b"the scheduler runs\n")
        assert ask(port, path)[0] == 401
        assert ask(port, path, method="POST")[0] == 401
        assert actions.reloads == 0


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic !!!",
        "Basic cHJvbQ==",
        "Bearer right",
        "Basic cHJvbTpyaWdodA",
        "Basic /w==",
        "Basic " + base64.b64encode(b"prom:\0" + b"x" * 5000).decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:right").decode(),
    ],
)
def test_headers_that_are_none(tmp_path: Path, header: str) -> None:
    """Whatever stands in the header, it is no password, and nothing breaks."""
    with serving(auth_of(tmp_path, prom="right")) as (port, _):
        assert ask(port, headers={"Authorization": header})[0] == 401


def test_hashes_of_other_tools(tmp_path: Path) -> None:
    """The htpasswd command writes $2y$, and passwords may hold colons, letters of any script, and more bytes than bcrypt reads."""
    for password in ("a:b", "größer", "x" * 100):
        stored = bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(COST)).decode().replace("$2b$", "$2y$")
        with serving(Auth(write(tmp_path / "web.yml", prom=stored))) as (port, _):
            assert ask(port, user="prom", password=password)[0] == 200
            assert ask(port, user="prom", password="other")[0] == 401


def test_who_exists_can_not_be_told_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users of any cost and strangers cost the same work: so many rounds of bcrypt, whoever asks."""
    rounds: list[int] = []
    check, make = bcrypt.checkpw, bcrypt.hashpw

    def counted_check(password: bytes, stored: bytes) -> bool:
        rounds.append(1 << int(stored[4:6]))
        return check(password, stored)

    def counted_make(password: bytes, salt: bytes) -> bytes:
        rounds.append(1 << int(salt[4:6]))
        return make(password, salt)

    rules = Rules(users={"cheap": hashed("a", 4), "dear": hashed("a", 7)})
    monkeypatch.setattr(bcrypt, "checkpw", counted_check)
    monkeypatch.setattr(bcrypt, "hashpw", counted_make)
    work = []
    for user in ("cheap", "dear", "nobody", ""):
        rounds.clear()
        assert auth_room._is_password(b"wrong", rules.users.get(user), rules.cost) is False
        work.append(sum(rounds))
    assert work == [1 << 7] * 4


class SlowHash:
    """In place of the hash: it waits until it is let go, and notes how many ran at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release = threading.Event()
        self.started = threading.Event()
        self.calls = self.running = self.most = 0
        self._lock = threading.Lock()
        self._real = auth_room._is_password
        monkeypatch.setattr(auth_room, "_is_password", self._is_password)

    def _is_password(self, password: bytes, wanted: str | None, cost: int) -> bool:
        with self._lock:
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)
        self.started.set()
        self.release.wait(20)
        with self._lock:
            self.running -= 1
        return self._real(password, wanted, cost)


def test_a_flood_of_guesses_stops_no_scrape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While guesses are checked and wait, the health check and a scrape with a known password are answered; most are refused."""
    with serving(auth_of(tmp_path, prom="right")) as (port, _), ThreadPoolExecutor(20) as guessers:
        assert ask(port, user="prom", password="right")[0] == 200
        slow = SlowHash(monkeypatch)
        guesses = [guessers.submit(ask, port, user="prom", password=f"guess {number}") for number in range(20)]
        assert slow.started.wait(10)
        assert ask(port, user="prom", password="right")[0] == 200
        assert ask(port, "/-/healthy")[0] == 200
        assert slow.running == 1
        slow.release.set()
        answers = [guess.result() for guess in guesses]
        statuses = [status for status, _, _ in answers]
        assert set(statuses) == {401, 429}
        assert all(headers["retry-after"] for status, headers, _ in answers if status == 429)
        assert slow.most == 1
        assert slow.calls < 20


def test_the_same_guess_is_checked_once_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All who come with one password while it is checked share the answer, so that a page's parts are not refused."""
    with serving(auth_of(tmp_path, prom="right")) as (port, _), ThreadPoolExecutor(10) as clients:
        slow = SlowHash(monkeypatch)
        asked = [clients.submit(ask, port, user="prom", password="right") for _ in range(10)]
        assert slow.started.wait(10)
        time.sleep(0.2)
        slow.release.set()
        assert [each.result()[0] for each in asked] == [200] * 10
        assert slow.calls == 1


def test_guesses_from_one_network_leave_room_for_others() -> None:
    """What may wait of one address is less than what may wait in all; IPv6 networks count as one address."""
    assert auth_room.WAITING_EACH < auth_room.WAITING
    networks = {auth_room._neighbourhood_of({"client": (f"2001:db8::{number:x}", 1)}) for number in range(100)}
    assert len(networks) == 1
    assert auth_room._neighbourhood_of({"client": ("192.0.2.1", 1)}) != auth_room._neighbourhood_of(
        {"client": ("192.0.2.2", 1)}
    )


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right passwords are remembered, wrong ones never; the oldest leaves first."""
    monkeypatch.setattr(auth_room, "REMEMBERED", 1)
    auth = auth_of(tmp_path, prom="right", other="theirs")
    with serving(auth) as (port, _):
        for user, password in (("prom", "right"), ("other", "theirs"), ("prom", "wrong")):
            ask(port, user=user, password=password)
        assert len(auth._known) == 1
        assert not auth._waiting
        assert not auth._checking


# Files that change


def test_a_changed_password_is_used_without_a_restart(tmp_path: Path) -> None:
    """Once the file has changed and stays so, the new password opens and the old one doesn't, remembered or not."""
    auth = auth_of(tmp_path, prom="old")
    with serving(auth) as (port, _):
        assert ask(port, user="prom", password="old")[0] == 200
        write(tmp_path / "web.yml", prom=hashed("new"))
        assert auth.refresh() == ()
        assert ask(port, user="prom", password="old")[0] == 200
        assert auth.refresh() == ()
        assert ask(port, user="prom", password="old")[0] == 401
        assert ask(port, user="prom", password="new")[0] == 200


@pytest.mark.parametrize(
    "broken",
    ["basic_auth_users: {prom: plain}", "nonsense: 1", "{", 'basic_auth_users: {prom: "$2b$31$' + "a" * 53 + '"}'],
)
def test_a_broken_file_keeps_the_previous_authentication(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    """A file that is wrong, or gone, changes nothing, is named once in the log, and is used when it is right again."""
    auth, path = auth_of(tmp_path, prom="right"), tmp_path / "web.yml"
    with serving(auth) as (port, _):
        for spoil in (lambda: path.write_text(broken), path.unlink):
            spoil()
            assert str(path) in settle(auth)[0]
            auth.refresh()
            assert ask(port)[0] == 401
            assert ask(port, user="prom", password="right")[0] == 200
        assert len(caplog.records) == 2
        write(path, prom=hashed("new"))
        assert auth.refresh() == ()
        assert ask(port, user="prom", password="new")[0] == 200


# TLS


def tls_config(path: Path, certificate: tuple[Path, Path], *more: str) -> Path:
    cert, key = certificate
    lines = [f"cert_file: {cert}", f"key_file: {key}", *more]
    path.write_text("tls_server_config:\n" + "".join(f"  {line}\n" for line in lines))
    return path


def client_context(*trusted: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for each in trusted:
        context.load_verify_locations(each)
    return context


def test_tls_and_its_renewal(tmp_path: Path) -> None:
    """HTTPS by the certificate of the file; a renewed one is used for new connections, while an open connection goes on."""
    first, second = make_certificate(tmp_path / "a"), make_certificate(tmp_path / "b")
    for name in ("cert.pem", "key.pem"):
        shutil.copy(tmp_path / "a" / name, tmp_path / name)
    auth = Auth(tls_config(tmp_path / "web.yml", (tmp_path / "cert.pem", tmp_path / "key.pem")))
    trusts_first, trusts_second = client_context(first[0]), client_context(second[0])
    with serving(auth) as (port, _):
        assert ask(port, "/-/healthy", tls=trusts_first)[0] == 200
        kept = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=trusts_first)
        kept.connect()
        shutil.copy(second[0], tmp_path / "cert.pem")
        assert "the certificate and the key don't match" in settle(auth)[0]
        assert ask(port, tls=trusts_first)[0] == 200
        shutil.copy(second[1], tmp_path / "key.pem")
        assert settle(auth) == ()
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(port, tls=trusts_first)
        assert ask(port, tls=trusts_second)[0] == 200
        kept.request("GET", "/-/healthy")
        assert kept.getresponse().status == 200
        kept.close()
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(port, "/-/healthy")  # plain HTTP, not even for the health check


def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    """TLS 1.2 is the oldest that is spoken, and min_version can make that 1.3."""
    certificate = make_certificate(tmp_path / "a")
    old = client_context(certificate[0])
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving(Auth(tls_config(tmp_path / "web.yml", certificate))) as (port, _):
        assert ask(port, tls=old)[0] == 200
    assert read_rules(tmp_path / "web.yml").tls.minimum_version is ssl.TLSVersion.TLSv1_2  # type: ignore[union-attr]
    with serving(Auth(tls_config(tmp_path / "web.yml", certificate, "min_version: TLS13"))) as (port, _):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(port, tls=old)
        assert ask(port, tls=client_context(certificate[0]))[0] == 200


@pytest.mark.parametrize(
    ("kind", "without", "known", "stranger"),
    [
        ("NoClientCert", True, True, True),
        ("RequestClientCert", True, True, True),
        ("VerifyClientCertIfGiven", True, True, False),
        ("RequireAndVerifyClientCert", False, True, False),
    ],
)
def test_client_certificates(tmp_path: Path, kind: str, *, without: bool, known: bool, stranger: bool) -> None:
    """Each kind of demand lets in whom it should: without a certificate, with a known one, with a stranger's."""
    server, friend, other = (make_certificate(tmp_path / name) for name in ("server", "friend", "other"))
    more = (f"client_auth_type: {kind}", f"client_ca_file: {friend[0]}")
    auth = Auth(tls_config(tmp_path / "web.yml", server, *more))
    assert auth.rules.closed is (kind == "RequireAndVerifyClientCert")
    with serving(auth) as (port, _):

        def comes_in(certificate: tuple[Path, Path] | None) -> bool:
            context = client_context(server[0])
            if certificate:
                context.load_cert_chain(*certificate)
            try:
                return ask(port, "/-/healthy", tls=context)[0] == 200
            except (OSError, http.client.HTTPException):
                return False

        assert [comes_in(None), comes_in(friend), comes_in(other)] == [without, known, stranger]


@pytest.mark.parametrize(("knows_itself", "code"), [(True, 0), (False, 1)])
def test_a_health_check_where_certificates_are_wanted(tmp_path: Path, *, knows_itself: bool, code: int) -> None:
    """The health check shows the daemon's own certificate; where that is not accepted, it says so."""
    server, friend = make_certificate(tmp_path / "server"), make_certificate(tmp_path / "friend")
    accepted = server if knows_itself else friend
    more = ("client_auth_type: RequireAndVerifyClientCert", f"client_ca_file: {accepted[0]}")
    web = tls_config(tmp_path / "web.yml", server, *more)
    with serving(Auth(web)) as (port, _):
        environment = {
            "LLM_PROBE_LISTEN": f"127.0.0.1:{port}",
            "LLM_PROBE_WEB_CONFIG_FILE": str(web),
            "LLM_PROBE_CONFIG": "",
        }
        asked = CliRunner().invoke(main, ["healthcheck"], env=environment)
    assert asked.exit_code == code
    assert ("the scheduler runs" if code == 0 else "requires a client certificate") in asked.output


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda cert, _: cert.write_text("x"),
            "tls_server_config.cert_file: can't be used with key_file: one of them is not in PEM format",
        ),
        (lambda _, key: key.write_text("x"), "tls_server_config.cert_file: can't be used with key_file"),
        (lambda _, key: key.unlink(), "tls_server_config.key_file: there is no such file"),
    ],
    ids=["certificate", "key", "no key"],
)
def test_a_certificate_that_can_not_be_used_is_named(
    tmp_path: Path, spoil: Callable[[Path, Path], object], message: str
) -> None:
    """What is wrong with a certificate or its key is said at the start, and no key is ever asked for on a terminal."""
    cert, key = make_certificate(tmp_path / "a")
    path = tls_config(tmp_path / "web.yml", (cert, key))
    spoil(cert, key)
    with pytest.raises(SettingsError) as refused:
        read_rules(path)
    assert message in str(refused.value)
    assert f"{path}:" in str(refused.value)


def test_an_encrypted_key_is_an_error(tmp_path: Path) -> None:
    """Nobody is there to type its password."""
    cert, key = make_certificate(tmp_path / "a")
    secret = tmp_path / "secret.pem"
    command = ["openssl", "pkcs8", "-topk8", "-in", str(key), "-out", str(secret), "-passout", "pass:x"]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(SettingsError, match="the key is encrypted"):
        read_rules(tls_config(tmp_path / "web.yml", (cert, secret)))


def test_slow_handshakes_do_not_stop_a_scrape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that never shake hands count as connections: the oldest goes when there are too many."""
    certificate = make_certificate(tmp_path / "a")
    monkeypatch.setattr("exporter.web.server.CONNECTIONS", 5)
    with serving(Auth(tls_config(tmp_path / "web.yml", certificate))) as (port, _):
        silent = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(20)]
        try:
            assert ask(port, tls=client_context(certificate[0]))[0] == 200
            assert silent[0].recv(1) == b""
        finally:
            for each in silent:
                each.close()


# Names and sites


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9937", 200),
        ("[::1]:9937", 200),
        ("[::1]", 200),
        ("localhost", 200),
        ("LocalHost:9937", 200),
        ("exporter:9937", 200),
        ("gpu.lan:9937", 200),
        (f"{socket.gethostname()}:80", 200),
        ("192.0.2.7", 200),
        ("evil.example", 421),
        ("evil.example:9937", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:9937", 421),
        ("EVIL.example.", 421),
        ("evil.example:", 421),
        ("127.0.0.1@evil.example", 421),
        ("localhost,evil.example", 421),
        (f"{socket.gethostname()}.evil.example", 421),
    ],
)
def test_a_strangers_name_for_this_machine_is_refused(host: str, status: int) -> None:
    """A page whose own name was made to mean 127.0.0.1 reads nothing and changes nothing."""
    with serving(Auth(hosts=["gpu.lan"])) as (port, actions):
        assert ask(port, headers={"Host": host})[0] == status
        assert ask(port, "/-/reload", method="POST", headers={"Host": host})[0] == status
        assert actions.reloads == (1 if status == 200 else 0)


def test_behind_a_password_any_name_will_do(tmp_path: Path) -> None:
    """A page of a stranger has no password, so a proxy may pass on the name that its clients use."""
    with serving(auth_of(tmp_path, prom="right")) as (port, _):
        assert ask(port, user="prom", password="right", headers={"Host": "metrics.example"})[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"},
    ],
)
def test_pages_of_other_sites_change_nothing(headers: Mapping[str, str]) -> None:
    """A browser that somebody made send the request says so, and is refused."""
    with serving(Auth()) as (port, actions):
        assert ask(port, "/-/reload", method="POST", headers=headers)[0] == 403
        assert actions.reloads == 0


def test_only_post_changes_anything() -> None:
    """A reload takes a POST; no other method does anything anywhere."""
    with serving(Auth()) as (port, actions):
        for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            assert ask(port, "/-/reload", method=method)[0] == 405
        for path in ("/", "/metrics", "/api/v1/status", "/api/v1/targets", "/-/healthy", "/-/ready"):
            assert ask(port, path, method="POST")[0] == 405
        assert actions.reloads == 0
        assert ask(port, "/-/reload", method="POST")[0] == 200
        assert actions.reloads == 1


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("gpu.lan", False),
    ],
)
def test_what_is_loopback(host: str, *, own: bool) -> None:
    """Only addresses of which it is certain count as reached from this machine alone."""
    assert is_loopback(host) is own


# What the documentation says

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"


def test_the_documented_web_config_file_requires_a_password(tmp_path: Path) -> None:
    """The web configuration that docs/security.md shows can be used as it stands, its certificate made."""
    make_certificate(tmp_path / "tls")
    for made, named in (("cert.pem", "exporter.crt"), ("key.pem", "exporter.key")):
        (tmp_path / "tls" / made).rename(tmp_path / "tls" / named)
    shown = re.findall(r"```yaml\n(.*?)```", SECURITY.read_text(), re.DOTALL)[0]
    (tmp_path / "web.yml").write_text(shown)
    rules = read_rules(tmp_path / "web.yml")
    assert rules.tls is not None
    assert list(rules.users) == ["prometheus"]


def test_the_documented_command_makes_a_hash() -> None:
    """What docs/security.md says to type prints a hash that opens the door."""
    command = re.findall(r"bin/python -c '(.*?)'", SECURITY.read_text())[0]
    typed = command.replace("getpass.getpass()", "'right'")
    made = subprocess.run([sys.executable, "-c", typed], check=True, capture_output=True, text=True).stdout.strip()
    assert auth_room._is_password(b"right", made, auth_room._cost_of(made))
    assert not auth_room._is_password(b"wrong", made, auth_room._cost_of(made))


def test_the_documented_limits_are_the_limits() -> None:
    """The figures of docs/security.md are those of the code."""
    text = " ".join(SECURITY.read_text().split())
    for said in (
        f"| connections | {server.CONNECTIONS};",
        f"| {server.REQUEST_SECONDS:.0f} s, and {server.REQUEST_BYTES >> 10} KiB, of which {server.HEADER_BYTES >> 10} KiB",
        f"| between requests | {server.IDLE_SECONDS:.0f} s |",
        f"| an answer of which the client reads nothing | {server.WRITE_SECONDS:.0f} s |",
        f"At most {auth_room.WAITING} different passwords wait, {auth_room.WAITING_EACH} from one address",
        f"checked every {AUTH_SECONDS:.0f} s, and used once they have not changed for {AUTH_SECONDS:.0f} s",
    ):
        assert said in text, said


# The real command


def configuration(folder: Path, web: Path | None) -> Path:
    """Settings with nothing to probe."""
    return running.configuration(folder, f"web_config_file: {web}\n" if web else "")


@contextmanager
def daemon(folder: Path, listen_on: str, web: Path | None) -> Iterator[tuple[Process, Path]]:
    """``serve`` as a process, with nothing to probe; its log in a file."""
    config, log = configuration(folder, web), folder / "daemon.log"
    with log.open("wb") as file, forked_process(running.arguments(config, listen_on), stderr=file) as process:
        yield process, log


def test_serve_with_authentication(tmp_path: Path) -> None:
    """TLS and a password from a file, end to end: scrapes, health check, a change, a broken file, a reload."""
    certificate = make_certificate(tmp_path / "tls")
    web = tls_config(tmp_path / "web.yml", certificate)
    stored = web.read_text()
    web.write_text(f'{stored}basic_auth_users:\n  prom: "{hashed("first")}"\n')
    port, tls = free_port(), client_context(certificate[0])

    def status(path: str, password: str | None = None, method: str = "GET") -> int:
        user = None if password is None else "prom"
        return ask(port, path, user=user, password=password or "", tls=tls, method=method)[0]

    with daemon(tmp_path, f"0.0.0.0:{port}", web) as (process, log):
        eventually(lambda: status("/-/healthy") == 200, "a start")
        assert [status("/metrics"), status("/metrics", "wrong"), status("/metrics", "first")] == [401, 401, 200]
        health = [sys.executable, "-m", "exporter", "healthcheck"]
        environment = {"LLM_PROBE_LISTEN": f"127.0.0.1:{port}", "LLM_PROBE_WEB_CONFIG_FILE": str(web)}
        assert (
            subprocess.run(health, env={**os.environ, **environment}, capture_output=True, check=False).returncode == 0
        )
        web.write_text(f'{stored}basic_auth_users:\n  prom: "{hashed("second")}"\n')
        eventually(lambda: status("/metrics", "second") == 200, "the change of a password")
        assert status("/metrics", "first") == 401
        web.write_text("basic_auth_users: {prom: nonsense}\n")
        failed = b"llm_probe_exporter_config_last_reload_successful 0.0"
        eventually(lambda: failed in ask(port, user="prom", password="second", tls=tls)[2], "news of a broken file")
        refused = ask(port, "/-/reload", user="prom", password="second", tls=tls, method="POST")
        assert refused[0] == 400
        assert b"web.yml:1: basic_auth_users.prom: is not a bcrypt hash" in refused[2]
        assert status("/metrics") == 401
        web.write_text(f'{stored}basic_auth_users:\n  prom: "{hashed("third")}"\n')
        assert status("/-/reload", "second", "POST") == 200
        assert [status("/metrics", "second"), status("/metrics", "third")] == [401, 200]
        assert process.poll() is None
    said = log.read_text()
    assert said.count("web_config_file not reloaded; the previous one stays in use") == 1
    assert f"https://0.0.0.0:{port}/metrics" in said
    assert "NO AUTHENTICATION" not in said


@pytest.mark.parametrize(
    ("host", "users", "warnings"), [("0.0.0.0", {}, 1), ("0.0.0.0", {"prom": hashed("right")}, 0), ("127.0.0.1", {}, 0)]
)
def test_an_open_door_is_announced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, host: str, users: dict[str, str], warnings: int
) -> None:
    """Listening beyond loopback without authentication is said once, loudly, with what to do."""
    config = configuration(tmp_path, write(tmp_path / "web.yml", **users) if users else None)
    running = Daemon(lambda: load(config, {}), listen_on=f"{host}:{free_port()}")
    try:
        running.start()
        assert running.reload() == ()
    finally:
        running.drain()
    said = [record.getMessage() for record in caplog.records if "NO AUTHENTICATION" in record.getMessage()]
    assert len(said) == warnings
    assert all("Set web_config_file" in each and host in each for each in said)


def test_an_invalid_web_config_file_prevents_the_start(tmp_path: Path) -> None:
    """What is wrong in the file or with its certificate is named with its line, before anything is listened on."""
    web = tmp_path / "web.yml"
    config = configuration(tmp_path, web)
    web.write_text("basic_auth_users:\n  prom: plain text\n")
    checked = CliRunner().invoke(main, ["check-config", str(config)])
    assert checked.exit_code == 2
    assert f"{web}:2: basic_auth_users.prom: is not a bcrypt hash" in checked.output
    assert "plain text" not in checked.output
    cert, key = make_certificate(tmp_path / "tls")
    key.write_text("x")
    tls_config(web, (cert, key))
    checked = CliRunner().invoke(main, ["check-config", str(config)])
    assert checked.exit_code == 2
    assert f"{web}:2: tls_server_config.cert_file: can't be used with key_file" in checked.output
    with pytest.raises(SettingsError, match="can't be used with key_file"):
        Daemon(lambda: load(config, {}))
