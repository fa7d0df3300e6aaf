"""What /probe reaches: attempts to get a running daemon to connect where its patterns do not allow it."""

import json
import os
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
    "http://gp\u00fc.example:8000": "is not a valid name",
    "http://1.2.3.4.5:8000": "not an IPv4 address",
    "http://a..gpu.example:8000": "is not a valid name",
    f"http://{'a' * 254}.gpu.example:8000": "more than 253",
    f"http://{'a' * 650}.gpu.example:8000": f"longer than {MAX_ADDRESS}",
    f"http://10.0.0.7:8000/{'*' * 270}": NOT_ALLOWED,
    # Numbers, letters and marks that a resolver, a browser or a proxy may read as something else.
    "http://0x7f.1:{port}/x/../..": NOT_ALLOWED,
    "http://017700000001:{port}": NOT_ALLOWED,
    "http://0177.0.0.01:{port}": NOT_ALLOWED,
    "http://127.1:{port}": NOT_ALLOWED,
    "http://0:{port}": NOT_ALLOWED,
    "http://08.0.0.1:8000": "not an IPv4 address",
    "http://256.0.0.1:8000": "not an IPv4 address",
    "http://10.0.0.7.:8001": NOT_ALLOWED,
    "http://\uff11\uff10.0.0.7:8000": "is not a valid name",
    "http://10\u30020\u30020\u30027:8000": "is not a valid name",
    "http://gp\u0443.gpu.example:8000": "is not a valid name",
    "http://xn--gpu-\u00e4.example:8000": "is not a valid name",
    "http://x_.gpu.example@10.0.0.7:8000": "user name or password",
    "http://10.0.0.7%2f@evil.example:8000": "user name or password",
    "http://10.0.0.7:8000%40evil.example": "port out of range",
    "http://10.0.0.7:+8000": "port out of range",
    "http://10.0.0.7:\uff18\uff10\uff10\uff10": "port out of range",
    "http://10.0.0.7:0": "port out of range",
    "http://10.0.0.7 :8000": "space or a control character",
    "http://10.0.0.7\t:8000": "space or a control character",
    "http://10.0.0.7\u200b:8000": "space or a control character",
    "http://10.0.0.7\r\nHost: evil": "space or a control character",
    "http://10.0.0.7:8000\0.gpu.example": "space or a control character",
    "HTTP://10.0.0.7:8000": "scheme that can't be probed",
    "http:/10.0.0.7:8000": NOT_ALLOWED,
    "http:10.0.0.7:8000": "port out of range",
    "//10.0.0.7:8000": "names no host",
    "gopher://10.0.0.7:8000": "scheme that can't be probed",
    "unix:///run/docker.sock": "scheme that can't be probed",
    "http+unix://%2frun%2fdocker.sock": "scheme that can't be probed",
    "http://10.0.0.7:8000/v1/models": "the path of a request",
    "http://10.0.0.7:8000/metrics": "the path of a request",
    "http://10.0.0.7:8000/..;/admin": NOT_ALLOWED,
    "http://10.0.0.7:8000/\\..\\admin": "escaped character",
    "http://[::127.0.0.1]": NOT_ALLOWED,
    "http://[0:0:0:0:0:ffff:7f00:1]": "translated",
    "http://[64:ff9b::127.0.0.1%25lo]": "translated",
    "http://[64:ff9b:1::7f00:1]": "translated",
    "http://[2002:7f00:1::]": NOT_ALLOWED,
    "http://[fe80::1%25lo]:{port}": NOT_ALLOWED,
    "http://[fd00:ec2::254%25eth0]": "metadata service",
    "http://[fd00:ec2::23]": "metadata service",
    "http://[::1]:{port}": NOT_ALLOWED,
    "http://[v1.x]:8000": NOT_ALLOWED,
    "http://169.254.170.2": "link-local",
    "http://0251.0376.0251.0376": "link-local",
    "http://169.254.43518": "link-local",
    "http://metadata.google.internal:8000": NOT_ALLOWED,
    "http://-x.gpu.example:8000": "is not a valid name",
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
        {"Sec-Fetch-Site": "nonsense"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "file://"},
        {"Origin": ""},
        {"Referer": "http://evil.example/"},
        {"Referer": "http://evil.example"},
        {"Referer": "https://evil.example/?127.0.0.1"},
        {"Referer": "http://127.0.0.1@evil.example/"},
        {"Referer": "about:blank"},
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
    return "for the host: anyone who can reach /probe" in daemon.said()


def test_a_daemon_that_allows_everything_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The log names the pattern that lets anyone connect anywhere."""
    for pattern in ("*", "http://*:8000", "*.*:8000", "0.0.0.0/0:8000", "[::]/0:*"):
        config = configuration(tmp_path_factory.mktemp("all"), f'probe_endpoint: {{allow: ["{pattern}"]}}\n')
        with running(config) as found:
            eventually(partial(_warned, found), "the warning")


RESOLVER = """
import json, os, socket
answers = json.loads(os.environ["TEST_NAMES"])
asked, own = {}, socket.getaddrinfo
def getaddrinfo(host, port, *more, **named):
    if host not in answers:
        return own(host, port, *more, **named)
    turn = asked[host] = asked.get(host, -1) + 1
    found = answers[host][min(turn, len(answers[host]) - 1)]
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (each, port or 0, 0, 0)) if ":" in each
        else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port or 0))
        for each in found
    ]
socket.getaddrinfo = getaddrinfo
"""
PUBLIC = "93.184.216.34"
NAMES = {
    "two": [[PUBLIC, "127.0.0.1"]],
    "second-of-two": [["127.0.0.1", PUBLIC]],
    "mixed": [[PUBLIC, "::1"]],
    "loopback": [["127.8.9.10"]],
    "unspecified": [["0.0.0.0"]],
    "private": [["192.168.1.1"]],
    "carrier": [["100.64.0.1"]],
    "benchmark": [["198.18.0.1"]],
    "link": [["169.254.169.254"]],
    "azure": [["168.63.129.16"]],
    "alibaba": [["100.100.100.200"]],
    "oracle": [["192.0.0.192"]],
    "broadcast": [["255.255.255.255"]],
    "multicast": [["224.0.0.1"]],
    "reserved": [["240.0.0.1"]],
    "unique-local": [["fd12::1"]],
    "site-local": [["fec0::1"]],
    "segment": [["5f00::1"]],
    "unassigned": [["4000::1"]],
    "zone": [["fe80::1%lo"]],
    "mapped": [["::ffff:127.0.0.1"]],
    "compatible": [["::7f00:1"]],
    "nat64": [["64:ff9b::7f00:1"]],
    "six-to-four": [["2002:7f00:1::1"]],
    "teredo": [["2001:0:7f00:1::1"]],
    "isatap": [["2606:4700::5efe:7f00:1"]],
    "isatap-global": [["2606:4700::200:5efe:7f00:1"]],
    "metadata": [["fd00:ec2::254"]],
    "google": [["fd20:ce::254"]],
}
"""What a name of a stranger resolves to, in turn; each holds an address that no pattern allows."""
REBOUND = {
    "then-loopback": [[PUBLIC], ["127.0.0.1"]],
    "then-mapped": [[PUBLIC], ["::ffff:127.0.0.1"]],
    "then-link": [[PUBLIC], ["169.254.169.254"]],
    "then-two": [[PUBLIC], ["127.0.0.1", "::1"]],
    "twice-public": [[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]],
    "nothing-then-loopback": [[], ["127.0.0.1"]],
}
"""Public when it is checked, and another address when it is connected to."""


@pytest.fixture(scope="module")
def misled(tmp_path_factory: pytest.TempPathFactory, reached: ExactServer) -> Iterator[RunningExporter]:
    """A daemon whose resolver answers for ``*.pub.example`` as the tables say."""
    folder = tmp_path_factory.mktemp("misled")
    (folder / "sitecustomize.py").write_text(RESOLVER)
    names = {f"{name}.pub.example": answers for name, answers in {**NAMES, **REBOUND}.items()}
    text = (
        f'probe_endpoint: {{allow: ["http://*.pub.example:{reached.port}"]}}\nmodules: {{default: {{interval: 1s}}}}\n'
    )
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    resolver = {"PYTHONPATH": path, "TEST_NAMES": json.dumps(names)}
    with running(configuration(folder, text), interpreter=resolver) as found:
        yield found


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_means_what_is_not_public(misled: RunningExporter, reached: ExactServer, name: str) -> None:
    """One such address among several is enough: the name is refused, and nothing is connected to."""
    before = len(reached.played())
    answer = misled.probe(f"http://{name}.pub.example:{reached.port}")
    assert (answer.status, "which is" in answer.body) == (400, True), answer.body
    assert len(reached.played()) == before


@pytest.mark.parametrize("name", REBOUND)
def test_a_name_that_means_another_address_at_the_connection(
    misled: RunningExporter, reached: ExactServer, name: str
) -> None:
    """The address is judged again when it is connected to: the probe fails, and nothing is connected to."""
    before = len(reached.played())
    answer = misled.ask(f"/probe?target=http://{name}.pub.example:{reached.port}&debug=true")
    assert (answer.status, "may not be reached under this name" in answer.body) == (200, True), answer.body
    assert len(reached.played()) == before
