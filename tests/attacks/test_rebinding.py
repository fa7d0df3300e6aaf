"""DNS rebinding: a page whose name was made to mean an address of the exporter reads and changes nothing."""

import socket
from collections.abc import Iterator

import pytest

from tests.attacks.running import HASH, RunningExporter, configuration, running

FOREIGN = (
    "evil.example",
    "evil.example:9937",
    "EVIL.example.",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "127.0.0.1@evil.example",
    "gpu.example.org.evil.example",
    "xgpu.example.org",
    f"{socket.gethostname()}.evil.example",
    "127.0.0.1, evil.example",
    "evil.example#127.0.0.1",
    "127.0.0.1:9937:evil.example",
    "127.0.0.1 evil.example",
    "[::1].evil.example",
    "[::1]evil.example",
    "[evil.example]",
    "127.1",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "localhost.:9937.evil.example",
    "local.host",
    "notlocalhost.example",
    "localhost.example",
    "a.local",
    "evil.example.localdomain",
    "http://127.0.0.1",
    "user@127.0.0.1",
    "127.0.0.1/evil.example",
    "127.0.0.1%2eevil.example",
    "evil\u3002example".encode().decode("latin-1"),
    "\uff11\uff12\uff17.0.0.1".encode().decode("latin-1"),
)
OWN = (
    "127.0.0.1:9937",
    "192.0.2.7",
    "[::1]:9937",
    "[fd00::7]",
    "localhost",
    "LocalHost:9937",
    "exporter:9937",
    "gpu.example.org",
    "GPU.example.org.:9937",
    socket.gethostname(),
    f"{socket.gethostname().partition('.')[0]}.local",
)


def address_beyond_loopback() -> str | None:
    """An address of this machine that is not of its loopback, as a published port of a container has; None without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        try:
            route.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        return str(route.getsockname()[0])


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExporter]:
    """A daemon that listens on every address, as in a container, without authentication."""
    config = configuration(tmp_path_factory.mktemp("open"), "allowed_hosts: [gpu.example.org]\n")
    with running(config, host="0.0.0.0") as found:
        yield found


@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_name_is_refused_on_every_address(daemon: RunningExporter, host: str) -> None:
    """By loopback and by another address alike, a foreign name gets a 421 for every path, and reloads nothing."""
    for address in filter(None, ("127.0.0.1", address_beyond_loopback())):
        for path, method in (("/metrics", "GET"), ("/", "GET"), ("/api/v1/status", "GET"), ("/-/reload", "POST")):
            answer = daemon.ask(path, method=method, headers={"Host": host}, host=address)
            assert (answer.status, "allowed_hosts" in answer.body) == (421, True)
            assert host not in answer.body
    assert "is reloaded" not in daemon.said()


@pytest.mark.parametrize("host", OWN)
def test_a_name_that_is_meant_is_answered(daemon: RunningExporter, host: str) -> None:
    """An address, a name of this machine, one without a dot and one of allowed_hosts are no attack."""
    assert daemon.ask("/metrics", headers={"Host": host}).status == 200


def test_the_names_follow_a_reload(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A name that is added is answered after the reload, one that is removed is refused."""
    folder = tmp_path_factory.mktemp("names")
    with running(configuration(folder, "allowed_hosts: [a.example]\n")) as found:
        configuration(folder, "allowed_hosts: [b.example]\n")
        assert found.ask("/metrics", headers={"Host": "a.example"}).status == 200
        assert found.ask("/-/reload", method="POST").status == 200
        assert [found.ask("/metrics", headers={"Host": f"{name}.example"}).status for name in "ab"] == [421, 200]


def test_behind_a_password_any_name_is_answered(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A stranger's page has no password, so a proxy may pass on the name that its clients use."""
    folder = tmp_path_factory.mktemp("closed")
    web = folder / "web.yml"
    web.write_text(f'basic_auth_users: {{prom: "{HASH}"}}\n')
    with running(configuration(folder, f"web_config_file: {web}\n")) as found:
        assert found.ask("/metrics", user="prom", headers={"Host": "metrics.example"}).status == 200
        assert found.ask("/metrics", headers={"Host": "metrics.example"}).status == 401
