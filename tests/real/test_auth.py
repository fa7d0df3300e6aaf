"""Authentication with its real counterparts: a Prometheus that knows certificate and password, and nginx."""

import http.client
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import bcrypt
import pytest

from exporter.daemon import Daemon
from exporter.settings import Cache, Discovery, Docker, Host, Settings
from tests.ports import free_port
from tests.real.conftest import need
from tests.real.nginx import running_nginx
from tests.real.prometheus import missing_tools, query, running_prometheus
from tests.servers.certificates import make_certificate
from tests.waiting import eventually

pytestmark = pytest.mark.real

PROMETHEUS = """
scrape_configs:
- job_name: llm-probe
  scheme: https
  scrape_interval: 1s
  tls_config: {{ca_file: {ca}, cert_file: {cert}, key_file: {key}}}
  basic_auth: {{username: prom, password_file: {password}}}
  static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
WEB = """
tls_server_config:
  cert_file: {cert}
  key_file: {key}
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: {ca}
basic_auth_users:
  prom: {hash}
"""


@contextmanager
def running(folder: Path, web: Path | None) -> Iterator[int]:
    """A daemon that requires authentication, with nothing to probe; its port."""
    port = free_port()
    settings = Settings(
        listen=f"127.0.0.1:{port}",
        web_config_file=web,
        discovery=Discovery(local=False, docker=False),
        docker=Docker(enabled=False),
        host=Host(sysfs=folder, rocm=folder),
        cache=Cache(paths=()),
    )
    daemon = Daemon(lambda: settings)
    daemon.start()
    try:
        yield port
    finally:
        daemon.drain()


def test_prometheus_comes_in_and_stays_in(tmp_path: Path) -> None:
    """Prometheus scrapes by certificate and password among 400 idle clients, and again once both sides have a new one."""
    need(not (missing := missing_tools("prometheus")), missing)
    server, client = make_certificate(tmp_path / "server"), make_certificate(tmp_path / "client")
    web, password, config = tmp_path / "web.yml", tmp_path / "password", tmp_path / "prometheus.yml"

    def want(text: str) -> None:
        stored = bcrypt.hashpw(text.encode(), bcrypt.gensalt(10)).decode()
        web.write_text(WEB.format(cert=server[0], key=server[1], ca=client[0], hash=stored))

    want("first")
    password.write_text("first")
    with ExitStack() as stack:
        port = stack.enter_context(running(tmp_path, web))
        for _ in range(400):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        place = {"ca": server[0], "cert": client[0], "key": client[1], "password": password, "port": port}
        config.write_text(PROMETHEUS.format(**place))
        url = stack.enter_context(running_prometheus(config, tmp_path / "storage"))

        def up() -> list[str]:
            return [row["value"][1] for row in query(url, "up")]

        eventually(lambda: up() == ["1"], what="a scrape")
        want("second")
        eventually(lambda: up() == ["0"], what="the old password is refused")
        password.write_text("second")
        eventually(lambda: up() == ["1"], what="a scrape with the new password")


def test_a_proxy_that_names_the_daemon_comes_in(tmp_path: Path) -> None:
    """Through nginx as it is by default any name leads to the daemon; one that passes its clients' names on is refused."""
    usual, passing = free_port(), free_port()

    def status(at: int, name: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", at, timeout=20)
        connection.request("GET", "/metrics", headers={"Host": name})
        with connection.getresponse() as answer:
            found = answer.status
        connection.close()
        return found

    with running(tmp_path, None) as port:
        there = f"proxy_pass http://127.0.0.1:{port};"
        with running_nginx(
            tmp_path,
            f"listen 127.0.0.1:{usual}; location / {{ {there} }}",
            f"listen 127.0.0.1:{passing}; location / {{ {there} proxy_set_header Host $host; }}",
        ):
            assert status(usual, "metrics.example") == 200
            assert status(passing, "metrics.example") == 421
            assert status(passing, "localhost") == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/healthy", timeout=10) as answer:
            assert answer.status == 200
