"""What /probe reaches: attempts to get a running daemon to connect where its patterns do not allow it."""

from collections.abc import Iterator
from functools import partial

import pytest

from exporter.settings import MAX_ADDRESS
from tests.attacks.running import RunningExporter, configuration, running
from tests.servers.exact import ExactServer, plain
from tests.waiting import eventually

ALLOW = [
    "http://10.0.0.*:8000",
    "192.168.7.0/24:8000",
    "http://*.gpu.example:8000",
    "local*:{port}",
    "http://127.0.0.1:{port}/*",
    "http://fine.example",
    "[fd00:ec2::]/64:*",
    "169.254.0.0/16:80",
    "[64:ff9b::]/16:80",
    "[::ffff:0:0]/96:80",
]
NOT_ALLOWED = "neither a configured target nor allowed"

REFUSED = {
    # A part of the text of a pattern in another part of the address.
    "http://10.0.0.evil.example:8000": NOT_ALLOWED,
    "http://10.0.0.7.evil.example:8000": NOT_ALLOWED,
    "http://evil.example:8000/10.0.0.7:8000": NOT_ALLOWED,
    "http://10.0.0.7:80000": "port out of range",
    "http://10.0.0.7:8000@evil.example": "user name or password",
    "http://10.0.0.7:8000.evil.example": "port out of range",
    "http://10.0.0.7:8000#.evil.example": "query or a fragment",
    "http://10.0.0.7\\@evil.example:8000": "user name or password",
    "http://evil.example:8000\\.gpu.example": "port out of range",
    "http://10.0.0.7:8001": NOT_ALLOWED,
    "https://10.0.0.7:8000": NOT_ALLOWED,
    "http://10.0.1.7:8000": NOT_ALLOWED,
    "http://192.168.8.1:8000": NOT_ALLOWED,
    "http://192.168.7.1.evil.example:8000": NOT_ALLOWED,
    "http://192.168.7.1:8000/v1/../admin": NOT_ALLOWED,
    "http://192.168.7.1:8000/%2e%2e": "escaped character",
    "http://gpu.example.evil.example:8000": NOT_ALLOWED,
    "http://xgpu.example:8000": NOT_ALLOWED,
    # A pattern without a port allows the scheme's own.
    "http://fine.example:8000": NOT_ALLOWED,
    "https://fine.example": NOT_ALLOWED,
    # A name that a wildcard allows, and that means this machine.
    "http://localhost:{port}": "not public",
    "http://LOCALHOST.:{port}": "not public",
    # Link-local addresses, metadata services, and addresses in which one of IPv4 stands, though a network allows them.
    "http://169.254.169.254": "link-local",
    "http://2852039166": "link-local",
    "http://0xA9.0xFE.0xA9.0xFE": "link-local",
    "http://[fd00:ec2::254]": "metadata service",
    "http://[fd00:ec2:0:0::254]:8080": "metadata service",
    "http://[64:ff9b::a9fe:a9fe]": "translated",
    "http://[64:ff9b::10.0.0.7]": "translated",
    "http://[::ffff:10.0.0.7]": "translated",
    # What is no address.
    "file:///etc/passwd": "scheme that can't be probed",
    "http://": "names no host",
    "http://[::1": "is not a URL",
    "http://gp\u00fc.example:8000": "is no name",
    "http://1.2.3.4.5:8000": "no IPv4 address",
    "http://a..gpu.example:8000": "is no name",
    f"http://{'a' * 254}.gpu.example:8000": "more than 253",
    f"http://{'a' * 650}.gpu.example:8000": f"longer than {MAX_ADDRESS}",
    f"http://10.0.0.7:8000/{'*' * 270}": NOT_ALLOWED,
}


@pytest.fixture(scope="module")
def reached() -> Iterator[ExactServer]:
    """A server on loopback that notes who comes."""
    with ExactServer({"/v1/models": plain({"object": "list", "data": []})}) as server:
        yield server


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, reached: ExactServer) -> Iterator[RunningExporter]:
    """A daemon with these patterns."""
    allowed = ", ".join(f'"{each.replace("{port}", str(reached.port))}"' for each in ALLOW)
    text = f"probe_endpoint: {{allow: [{allowed}]}}\nmodules: {{default: {{interval: 1h}}}}\n"
    with running(configuration(tmp_path_factory.mktemp("reach"), text)) as found:
        yield found


@pytest.mark.parametrize("address", REFUSED, ids=[each[:60] for each in REFUSED])
def test_an_attempt_is_refused_with_its_reason(daemon: RunningExporter, reached: ExactServer, address: str) -> None:
    """A 400 with the reason, no connection to the server, and no part of what was asked for that a terminal would interpret."""
    before = len(reached.played())
    answer = daemon.probe(address.replace("{port}", str(reached.port)))
    assert (answer.status, REFUSED[address] in answer.body) == (400, True), answer.body
    assert len(reached.played()) == before
    assert answer.body.rstrip("\n").isprintable()


def test_a_long_allowed_address_is_an_answer(daemon: RunningExporter, reached: ExactServer) -> None:
    """An address of nearly 300 characters is probed and answered, its label cut as any other."""
    start = f"http://127.0.0.1:{reached.port}/"
    answer = daemon.probe(start + "a" * (MAX_ADDRESS - len(start)))
    assert (answer.status, "llm_probe_success" in answer.body) == (200, True)


def test_other_spellings_buy_no_second_probe(daemon: RunningExporter, reached: ExactServer) -> None:
    """Case, dots in the path and the forms of an address lead to the one probe of the interval."""
    base = f"http://127.0.0.1:{reached.port}/once"
    assert daemon.probe(base).status == 200
    before = len(reached.played())
    for spelling in ("/./once", "/a/../once", "/once/", "/once/v1", "//once"):
        assert daemon.probe(base.removesuffix("/once") + spelling).status == 200
    assert daemon.probe(base.replace("127.0.0.1", "2130706433")).status == 200
    assert len(reached.played()) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    ],
)
def test_a_page_of_another_site_starts_no_probe(
    daemon: RunningExporter, reached: ExactServer, headers: dict[str, str]
) -> None:
    """A browser that a stranger's page made ask says so, and is refused as it is for a reload."""
    before = len(reached.played())
    assert daemon.probe(f"http://127.0.0.1:{reached.port}/browser", **headers).status == 403
    assert len(reached.played()) == before


def _warned(daemon: RunningExporter) -> bool:
    return "probe_endpoint.allow has * for the host" in daemon.said()


def test_a_daemon_that_allows_everything_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The log names the pattern that lets anyone connect anywhere."""
    for pattern in ("*", "*:*", "http://*:8000"):
        config = configuration(tmp_path_factory.mktemp("all"), f'probe_endpoint: {{allow: ["{pattern}"]}}\n')
        with running(config) as found:
            eventually(partial(_warned, found), "the warning")
