"""Authentication stays when its file is emptied, cut or lost: attempts on the files of a running daemon, and at its start."""

import http.client
import os
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from exporter.cli import main
from tests.attacks.running import HASH, QUIET, RunningExporter, arguments, configuration, running
from tests.forked import forked_process
from tests.ports import free_port
from tests.servers.certificates import make_certificate
from tests.waiting import eventually

RELOADED = "llm_probe_exporter_config_last_reload_successful"
SECRET = "sk-hunter2-made-up-9f8e7d"

WEB = {
    "emptied": "",
    "white space": "\n\n  \n",
    "cut to a comment": "# who may read\n",
    "cut to its first key": "basic_auth_users:\n",
    "no users": "basic_auth_users: {}\n",
    "no users and null TLS": "basic_auth_users: {}\ntls_server_config:\n",
    "an empty mapping": "{}\n",
    "null": "null\n",
    "cut in a hash": f'basic_auth_users: {{prom: "{HASH[:40]}',
    "cut in a name": "basic_auth_users:\n  pro",
    "a colon in a name": f'basic_auth_users: {{"prom:x": "{HASH}"}}\n',
    "zero bytes": "\0" * 64,
    "a document mark": "---\n",
    "only a byte order mark": "\ufeff",
    "a list of users": "basic_auth_users: []\n",
    "a user without a hash": "basic_auth_users: {prom: }\n",
    "a user without a name": f'basic_auth_users: {{"": "{HASH}"}}\n',
    "an empty hash": 'basic_auth_users: {prom: ""}\n',
    "a key that is cut": f'basic_auth_use: {{prom: "{HASH}"}}\n',
    "another key": f'basic_auth_users_: {{prom: "{HASH}"}}\n',
    "two documents": f'basic_auth_users: {{prom: "{HASH}"}}\n---\nbasic_auth_users: {{}}\n',
    "twice, the second empty": f'basic_auth_users: {{prom: "{HASH}"}}\nbasic_auth_users: {{}}\n',
    "a merge of nothing": "<<: {}\n",
    "TLS without its files": "tls_server_config: {}\n",
    "TLS with files that are gone": "tls_server_config: {cert_file: /nowhere/c, key_file: /nowhere/k}\n",
    "all of it a comment": f'# basic_auth_users: {{prom: "{HASH}"}}\n',
    "a million spaces": " " * (1 << 21),
    "controls": "\x1b[2J\x07",
}
"""What a web_config_file may hold after a full disk, `: > web.yml`, or an htpasswd that empties it before it asks."""

MAIN = {
    "emptied": "",
    "white space": "\n \n",
    "cut to a comment": "# my servers\n",
    "null": "~\n",
    "a document mark": "---\n",
    "no web_config_file": QUIET,
    "an empty mapping": "{}\n",
    "zero bytes": "\0" * 512,
    "a list": "[]\n",
    "a word": "true\n",
    "the web_config_file without a value": f"{QUIET}web_config_file:\n",
    "the web_config_file with an empty value": f'{QUIET}web_config_file: ""\n',
    "the web_config_file with a space": f'{QUIET}web_config_file: " "\n',
    "the web_config_file that is nowhere": f"{QUIET}web_config_file: /nowhere/web.yml\n",
    "the web_config_file that is a device": f"{QUIET}web_config_file: /dev/null\n",
    "the web_config_file that is a folder": f"{QUIET}web_config_file: /\n",
    "the web_config_file by another key": f"{QUIET}web_config: /etc/web.yml\n",
    "the web_config_file as a comment": f"{QUIET}# web_config_file: /etc/web.yml\n",
    "the web_config_file within another": f"{QUIET}web: {{web_config_file: /etc/web.yml}}\n",
    "two documents": f"{QUIET}---\n{QUIET}",
    "cut after a line": "discovery: {local: false, docker: false}\n",
    "2 MiB of comments": "# x\n" * (1 << 19),
}
"""What the main file may hold after such an accident; the last ones are valid, and would open what is closed."""


def password_protected(folder: Path) -> tuple[Path, Path]:
    """A configuration behind a password: the main file, and the web_config_file."""
    web = folder / "web.yml"
    web.write_text(f'basic_auth_users: {{prom: "{HASH}"}}\n')
    return configuration(folder, f"web_config_file: {web}\n"), web


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended: its exit code, and what it said on stderr."""

    returncode: int
    stderr: str


def start(config: Path) -> Ended:
    """A start that must not last."""
    log = config.parent / "start.log"
    with log.open("wb") as file, forked_process(arguments(config, f"127.0.0.1:{free_port()}"), stderr=file) as process:
        code = process.wait()
    return Ended(code, log.read_text())


@pytest.mark.parametrize("accident", WEB)
def test_authentication_that_protects_nothing_prevents_the_start(tmp_path: Path, accident: str) -> None:
    """At the start an emptied or cut web_config_file is an error, with its path; nothing is listened on."""
    config, web = password_protected(tmp_path)
    web.write_text(WEB[accident])
    checked = CliRunner().invoke(main, ["check-config", str(config)])
    assert checked.exit_code == 2
    assert str(web) in checked.output


def test_the_daemon_does_not_start_without_its_web_config_file(tmp_path: Path) -> None:
    """The real command ends with 2 for the emptied web_config_file, for the emptied main file, and for a FIFO as either."""
    config, web = password_protected(tmp_path)
    kept = config.read_text()
    web.write_text("")
    ended = start(config)
    assert (ended.returncode, "protects nothing" in ended.stderr) == (2, True)
    web.unlink()
    os.mkfifo(web)
    ended = start(config)
    assert (ended.returncode, "not a regular file" in ended.stderr) == (2, True)
    config.write_text("")
    ended = start(config)
    assert (ended.returncode, "holds no settings" in ended.stderr) == (2, True)
    config.unlink()
    os.mkfifo(config)
    ended = start(config)
    assert (ended.returncode, "not a regular file" in ended.stderr) == (2, True)
    assert kept


def test_no_accident_to_a_file_opens_a_running_daemon(tmp_path: Path) -> None:
    """Whatever becomes of either file, the password stays, the reload says what is wrong, and the metric is 0 until it is right."""
    config, web = password_protected(tmp_path)
    right, settings = web.read_text(), config.read_text()
    with running(config) as daemon:
        for file, accidents in ((web, WEB), (config, MAIN)):
            before = file.read_text()
            cuts = {"cut in the middle of a line": before[: len(before) // 2]} if file is config else {}
            for name, content in {**accidents, **cuts}.items():
                file.write_text(content)
                refused = daemon.ask("/-/reload", method="POST", user="prom")
                assert (name, refused.status) == (name, 400)
                assert (name, daemon.ask("/metrics").status) == (name, 401)
                assert (name, daemon.metric(RELOADED, user="prom")) == (name, 0.0)
                file.write_text(before)
                assert (name, daemon.ask("/-/reload", method="POST", user="prom").status) == (name, 200)
                assert (name, daemon.metric(RELOADED, user="prom")) == (name, 1.0)
        assert (web.read_text(), config.read_text()) == (right, settings)


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.fspath(path))


def _extend(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


PUT_IN_PLACE: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "a folder": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a socket": _bind,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("/dev/null"),
    "a link to zeros": lambda path: path.symlink_to("/dev/zero"),
    "a link to the kernel": lambda path: path.symlink_to("/proc/self/mounts"),
    "a terabyte of nothing": _extend,
    "letters of two bytes": lambda path: path.write_text("basic_auth_users: {}\n", encoding="utf-16"),
    "random bytes": lambda path: path.write_bytes(bytes(range(256)) * 16),
}
"""What may stand where a file was."""


def _signalled(daemon: RunningExporter) -> None:
    """Reload by SIGHUP, and wait until it was refused; one that comes during the start is left out."""
    refused = daemon.said().count("is not reloaded")

    def is_refused() -> bool:
        daemon.process.send_signal(signal.SIGHUP)
        return daemon.said().count("is not reloaded") > refused

    eventually(is_refused, "a refused reload", every=0.3)


def test_nothing_in_place_of_a_file_opens_a_running_daemon(tmp_path: Path) -> None:
    """Whatever stands where either file was, by each way to reload: the password stays, and nothing hangs."""
    config, web = password_protected(tmp_path)
    with running(config) as daemon:
        for file in (web, config):
            before = file.read_text()
            for name, put in PUT_IN_PLACE.items():
                file.unlink()
                put(file)
                _signalled(daemon)
                assert (name, daemon.ask("/-/reload", method="POST", user="prom").status) == (name, 400)
                assert (name, daemon.ask("/metrics").status) == (name, 401)
                assert (name, daemon.metric(RELOADED, user="prom")) == (name, 0.0)
                file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)
                file.write_text(before)
                assert (name, daemon.ask("/-/reload", method="POST", user="prom").status) == (name, 200)


def test_an_emptied_web_config_file_is_noticed_without_a_reload(tmp_path: Path) -> None:
    """The check of the files that runs by itself keeps the previous authentication too, and makes the metric 0."""
    config, web = password_protected(tmp_path)
    with running(config) as daemon:
        web.write_text("")
        eventually(lambda: daemon.metric(RELOADED, user="prom") == 0.0, "news of the emptied file")
        assert daemon.ask("/metrics").status == 401
        assert "protects nothing" in daemon.said()


def test_from_closed_to_open_takes_a_restart(tmp_path: Path) -> None:
    """TLS alone in place of TLS with passwords is a valid file, and opens nothing until the restart that means it."""
    cert, key = make_certificate(tmp_path / "tls")
    tls = f"tls_server_config: {{cert_file: {cert}, key_file: {key}}}\n"
    web = tmp_path / "web.yml"
    web.write_text(f'{tls}basic_auth_users: {{prom: "{HASH}"}}\n')
    config = configuration(tmp_path, f"web_config_file: {web}\n")
    trusts = ssl.create_default_context(cafile=str(cert))
    with running(config, tls=trusts) as daemon:
        web.write_text(tls)
        refused = daemon.ask("/-/reload", method="POST", user="prom", tls=trusts)
        assert (refused.status, "restart" in refused.body) == (400, True)
        assert daemon.ask("/metrics", tls=trusts).status == 401
    with running(config, tls=trusts) as daemon:
        assert daemon.ask("/metrics", tls=trusts).status == 200


@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("a FIFO", os.mkfifo),
        ("a folder", Path.mkdir),
        ("more than 64 KiB", lambda path: path.write_bytes(b"k" * 65537)),
        ("a link to a device", lambda path: path.symlink_to("/dev/zero")),
    ],
)
def test_only_a_small_regular_file_is_a_key(tmp_path: Path, what: str, make: Callable[[Path], object]) -> None:
    """Anything else is an error at the start; put there later, it fails its probes and holds up nothing else."""
    key = tmp_path / "key"
    target = f"targets: [{{name: a, url: 'http://127.0.0.1:{free_port()}', api_key_file: {key}, modules: [default]}}]\n"
    config = configuration(tmp_path, f"{target}modules: {{default: {{interval: 1s}}}}\n")
    key.write_text(SECRET)
    with running(config) as daemon:
        key.unlink()
        make(key)
        eventually(
            lambda: "can't be read" in daemon.probe("a").body or _failed(daemon.ask("/api/v1/status").body), what
        )
        assert daemon.ask("/-/healthy").status == 200
        assert daemon.ask("/-/reload", method="POST").status == 400
    ended = start(config)
    assert ended.returncode == 2
    assert "api_key_file" in ended.stderr


def _failed(status: str) -> bool:
    return "api_key_file" in status and "can't be read" in status


RISKY = {
    "others can read it": ("http://127.0.0.1:1", "", 0o644, "other users can read the key file"),
    "over plain http": ("http://gpu.example:8000", "", 0o600, "sent over plain HTTP"),
    "past a certificate": ("https://gpu.example", "tls: {insecure_skip_verify: true}", 0o600, "is not checked"),
    "fine on loopback": ("http://127.0.0.1:1", "", 0o600, None),
    "fine over TLS": ("https://gpu.example", "", 0o600, None),
}


@pytest.mark.parametrize("case", RISKY)
def test_a_key_that_is_easy_to_reach_is_warned_about(tmp_path: Path, case: str) -> None:
    """`check-config` says, beside that the file is valid, where others can read a key or listen to it."""
    url, more, mode, words = RISKY[case]
    key = tmp_path / "key"
    key.write_text(SECRET)
    key.chmod(mode)
    config = configuration(
        tmp_path, f"targets: [{{name: a, url: '{url}', api_key_file: {key}{', ' * bool(more)}{more}}}]\n"
    )
    checked = CliRunner().invoke(main, ["check-config", str(config)])
    assert checked.exit_code == 0
    assert ("warning: " in checked.output) == (words is not None)
    assert words is None or words in checked.output


QUOTING = {
    "a bare key": SECRET,
    "a line of a .env": f"API_KEY={SECRET}\n",
    "a key of a mapping": f"{SECRET}: 1\n",
    "a section": f"targets: {SECRET}\n",
    "an item": f"targets: [{SECRET}]\n",
    "a number": f"modules: {{default: {{max_tokens: {SECRET}}}}}\n",
    "a duration": f"modules: {{default: {{interval: {SECRET}}}}}\n",
    "a share": f"targets: [{{url: 'http://a', budget: {{share: {SECRET}}}}}]\n",
    "an address": f"listen: {SECRET}\n",
    "a version": f"host: {{minimum_rocm: {SECRET}}}\n",
    "a choice": f"targets: [{{url: 'http://a', backend: {SECRET}}}]\n",
    "a module": f"targets: [{{url: 'http://a', modules: [{SECRET}]}}]\n",
    "a switch": f"discovery: {{local: {SECRET}}}\n",
    "an alias": f"listen: *{SECRET}\n",
    "a tag": f"listen: !{SECRET}!x y\n",
    "an open quote": f'listen: "{SECRET}\n',
    "a password file": f"root:{SECRET}:0:0::/root:/bin/sh\nprom:{SECRET}\n",
    "a private key": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n",
    "a header": f"modules: {{default: {{headers: {{'{SECRET} x': y}}}}}}\n",
    "an expression": f"modules: {{default: {{expect: '(?P<{SECRET}>x'}}}}\n",
    "twice": f"{SECRET}: 1\n{SECRET}: 2\n",
    "a URL": f"targets: [{{url: 'http://user:{SECRET}@a'}}]\n",
    "a key in place of its file": f"targets: [{{url: 'http://a', api_key_file: {SECRET}}}]\n",
    "a hash": f"basic_auth_users: {{prom: {SECRET}}}\n",
}


@pytest.mark.parametrize("case", QUOTING)
def test_no_error_quotes_what_a_file_holds(tmp_path: Path, case: str) -> None:
    """A file that is not what it should be is named with the line, and its content stays in it: as settings, web_config_file and profiles."""
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(QUOTING[case])
    for named in (wrong, configuration(tmp_path, f"web_config_file: {wrong}\n")):
        checked = CliRunner().invoke(main, ["check-config", str(named)])
        assert checked.exit_code == 2
        assert str(wrong) in checked.output
        assert SECRET not in checked.output
    checked = CliRunner().invoke(main, ["check-config", str(configuration(tmp_path, f"profiles_file: {wrong}\n"))])
    assert SECRET not in checked.output


def test_failed_logins_are_counted_and_logged_once(tmp_path: Path) -> None:
    """Wrong passwords count, their first is logged, and the next ones within a minute are not; nothing typed is repeated."""
    config, _ = password_protected(tmp_path)
    with running(config) as daemon:
        assert daemon.ask("/metrics").status == 401
        for _ in range(3):
            assert daemon.ask("/metrics", user="prom", password=SECRET).status == 401
        assert daemon.ask("/metrics", user=SECRET, password="x").status == 401
        name = "llm_probe_exporter_auth_failures_total"
        eventually(lambda: daemon.metric(name, user="prom") == 4.0, "four failed logins")
        said = daemon.said()
    assert said.count("failed login") == 1
    assert "127.0.0.1" in said
    assert SECRET not in said


def test_a_client_whose_ca_is_gone_is_cut_off(tmp_path: Path) -> None:
    """A kept connection ends when the CA that let its client in is replaced; one that is trusted still comes in anew."""
    cert, key = make_certificate(tmp_path / "server")
    first, second = make_certificate(tmp_path / "first"), make_certificate(tmp_path / "second")
    ca, web = tmp_path / "ca.pem", tmp_path / "web.yml"
    ca.write_bytes(first[0].read_bytes())
    web.write_text(
        f"tls_server_config: {{cert_file: {cert}, key_file: {key}, client_ca_file: {ca},"
        " client_auth_type: RequireAndVerifyClientCert}\n"
    )

    def as_client(certificate: tuple[Path, Path]) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(cert))
        context.load_cert_chain(*certificate)
        return context

    trusted, other = as_client(first), as_client(second)
    with running(configuration(tmp_path, f"web_config_file: {web}\n"), tls=trusted) as daemon:
        kept = http.client.HTTPSConnection("127.0.0.1", daemon.port, timeout=20, context=trusted)
        kept.request("GET", "/metrics")
        answer = kept.getresponse()
        answer.read()
        assert answer.status == 200
        ca.write_bytes(second[0].read_bytes())
        assert kept.sock.recv(1) == b""
        kept.close()
        assert daemon.ask("/metrics", tls=other).status == 200
        with pytest.raises((ssl.SSLError, OSError)):
            daemon.ask("/metrics", tls=trusted)
        failures = "llm_probe_exporter_auth_failures_total"
        eventually(lambda: f"{failures} 1.0" in daemon.ask("/metrics", tls=other).body, "the refused client counted")


def test_a_probe_by_hand_warns_of_its_key(tmp_path: Path) -> None:
    """`probe` says on stderr that others can read the key file; a file for the owner alone is no reason for a word."""
    key = tmp_path / "key"
    key.write_text(SECRET)
    for mode, warned in ((0o644, True), (0o600, False)):
        key.chmod(mode)
        url = f"http://127.0.0.1:{free_port()}"
        done = CliRunner().invoke(main, ["probe", url, "--api-key-file", str(key)], env={"LLM_PROBE_CONFIG": ""})
        assert ("warning: " in done.stderr) is warned
