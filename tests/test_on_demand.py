"""What /probe may reach: a table of attempts, and one probe for all who ask."""

import socket
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from exporter.on_demand import MOST_ADDRESSES, CrowdedError, OnDemand, permit_of, refusal_of
from exporter.probe.prober import Prober
from exporter.probe.result import Measurements, ProbeResult
from exporter.settings import Module, Target, probe_address_of
from tests.servers.exact import ExactServer, plain

MODULE = Module(interval=60)


@pytest.mark.parametrize(
    ("address", "allow"),
    [
        ("http://10.0.0.7:8000", ["http://10.0.0.*:8000"]),
        ("10.0.0.7:8000", ["10.0.0.*:8000"]),
        ("http://10.0.0.7:8000/v1", ["10.0.0.7:8000"]),
        ("https://10.0.0.7", ["10.0.0.7:443"]),
        ("http://[::1]:8000", ["[::1]:8000"]),
        ("http://GPU-7.LAN:8000", ["gpu-?.lan:8000"]),
        ("http://169.254.169.254", ["169.254.169.254:80"]),
        ("http://169.254.169.254", ["http://169.254.169.254"]),
        ("http://[fe80::1]:8000", ["*", "http://[fe80::1]:*"]),
        ("http://[fd00:ec2::254]", ["[fd00:ec2::254]:80"]),
        ("http://fd-box:8000", ["*:8000"]),
    ],
)
def test_what_is_allowed_by_pattern_may_be_probed(address: str, allow: Sequence[str]) -> None:
    """A URL or host:port that a pattern covers is no attempt to reach something else."""
    assert refusal_of(address, allow) is None


@pytest.mark.parametrize(
    ("address", "allow", "why"),
    [
        ("http://10.0.0.7:8000", [], "neither a configured target nor allowed"),
        ("http://10.0.0.7:8001", ["10.0.0.*:8000"], "neither a configured target nor allowed"),
        ("https://10.0.0.7:8000", ["http://10.0.0.*:8000"], "neither a configured target nor allowed"),
        ("http://evil.example/10.0.0.7:8000", ["*10.0.0.7:8000"], "neither a configured target nor allowed"),
        ("http://10.0.0.7:8000@evil.example", ["10.0.0.7:8000*"], "user name or password"),
        ("http://evil.example#10.0.0.7:8000", ["*"], "query or a fragment"),
        ("http://10.0.0.7:8000/?next=http://evil.example", ["*"], "query or a fragment"),
        ("file:///etc/passwd", ["*"], "has a scheme that can't be probed"),
        ("gopher://10.0.0.7:8000", ["*"], "has a scheme that can't be probed"),
        ("http://10.0.0.7:8000\r\nHost: evil", ["*"], "control character"),
        ("", ["*"], "names no host"),
        ("http://169.254.169.254", ["*"], "link-local"),
        ("http://169.254.169.254", ["169.254.*:80"], "link-local"),
        ("http://[fe80::1]:8000", ["*:*"], "link-local"),
        ("http://[::ffff:169.254.169.254]", ["*"], "link-local"),
        ("http://2852039166", ["*"], "link-local"),
        ("http://0xA9FEA9FE", ["*"], "link-local"),
        ("http://0.0.0.0:9937", ["*:*"], "no single host"),
        ("http://metadata.google.internal", ["*"], "metadata service"),
        ("http://METADATA.google.internal.", ["*"], "metadata service"),
        ("http://224.0.0.1:8000", ["*:*"], "no single host"),
        ("http://0:8080", ["*:8080"], "no single host"),
        ("http://[::]:9937", ["*:*"], "no single host"),
        ("http://169.254.169.254", ["*", "10.169.254.169.254.lan:80"], "link-local"),
        ("http://169.254.169.254:80", ["169.254.169.25?:80"], "link-local"),
        ("http://0251.0376.0251.0376", ["*"], "link-local"),
        ("http://169.254.43518", ["*"], "link-local"),
        ("http://[64:ff9b::a9fe:a9fe]", ["*"], "link-local"),
        ("http://[2002:a9fe:a9fe::1]", ["*"], "link-local"),
        ("http://[fe80::1%25eth0]:8000", ["*:*"], "link-local"),
        ("http://[fd00:ec2::254]", ["*"], "metadata service"),
        ("http://100.100.100.200", ["100.*:80"], "metadata service"),
        ("http://168.63.129.16", ["*"], "metadata service"),
        ("http://user:secret@10.0.0.7:8000", ["*"], "user name or password"),
        ("user:secret@10.0.0.7:8000", ["*"], "user name or password"),
        ("http://10.0.0.7:8000\\@169.254.169.254", ["10.0.0.7:8000*"], "user name or password"),
        ("http://10.0.0.7:0", ["*"], "port out of range"),
        ("http://10.0.0.7:99999", ["*"], "port out of range"),
        ("http://[::1", ["*"], "is not a URL"),
        ("unix:///var/run/docker.sock", ["*"], "has a scheme that can't be probed"),
        ("http:///var/run/docker.sock", ["*"], "names no host"),
    ],
)
def test_attempts_to_reach_something_else_are_refused(address: str, allow: Sequence[str], why: str) -> None:
    """Each way around the patterns, and each address of a metadata service, is refused with its reason."""
    assert why in (refusal_of(address, allow) or "it was allowed")


@pytest.mark.parametrize("meant", ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "0.0.0.0"])
def test_a_name_that_means_a_dangerous_address_is_refused(monkeypatch: pytest.MonkeyPatch, meant: str) -> None:
    """A name that a wildcard allows is resolved: all of its addresses must be fit to be reached."""

    def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(None, None, None, "", (address, 80)) for address in ("8.8.8.8", meant)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert "link-local" in (refusal_of("http://gpu.lan:8000", ["*.lan:8000"]) or "it was allowed")
    assert refusal_of("http://gpu.lan:8000", ["*.lan:8000", "gpu.lan:8000"]) is None


def test_a_name_that_changes_its_meaning_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolved to a fit address when it is checked and to another one when it is connected to, a name leads nowhere."""
    with ExactServer({"/v1/models": plain({"object": "list", "data": []})}) as reached:
        url, allow = f"http://gpu.lan:{reached.port}", ["*.lan:*"]
        meanings = iter(["8.8.8.8"])

        def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
            address = next(meanings, "127.0.0.1")
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, reached.port))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        assert refusal_of(url, allow) is None
        found = Prober(Target(url=url), permit=permit_of(url, allow)).probe("default", MODULE)
        assert found is not None
        assert (found.result, "may not be reached" in found.error) == ("connect", True)
        assert reached.played() == []
        named = Prober(Target(url=url), permit=permit_of(url, [*allow, f"gpu.lan:{reached.port}"]))
        named.probe("default", MODULE)
        assert reached.played() != []


def test_a_redirect_leads_nowhere() -> None:
    """A server that is allowed can't send a probe on to one that isn't."""
    with ExactServer({"/v1/models": plain({"object": "list", "data": []})}) as inside:
        away = plain(status=307, headers=[("location", f"{inside.url}/v1/models")])
        paths = ("/v1/models", "/health", "/version", "/props", "/api/tags", "/v1/chat/completions", "/")
        with ExactServer(dict.fromkeys(paths, away)) as allowed:
            permit = permit_of(allowed.url, ["127.0.0.1:*"])
            found = Prober(Target(url=allowed.url), permit=permit).probe("default", MODULE)
            assert found is not None
            assert found.result == "protocol"
            assert allowed.played() != []
        assert inside.played() == []


def result(target: Target, name: str) -> ProbeResult:
    """A probe that came out well."""
    return ProbeResult(target.name, name, "ok", "", at_seconds=0, interval_seconds=60)


def test_all_who_ask_at_once_share_one_probe() -> None:
    """Two Prometheus servers that scrape the same address don't double what the probing costs."""
    started, release = threading.Event(), threading.Event()
    runs: list[str] = []

    def run(target: Target, name: str, _: Module, __: ProbeResult | None) -> ProbeResult:
        runs.append(target.url)
        started.set()
        release.wait(10)
        return result(target, name)

    shared = OnDemand(run)
    results: list[ProbeResult | None] = []
    threads = [
        threading.Thread(target=lambda: results.append(shared.probe("10.0.0.7:8000", "default", MODULE)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    assert started.wait(10)
    release.set()
    for thread in threads:
        thread.join(10)
    assert runs == ["http://10.0.0.7:8000"]
    assert len(results) == 5
    assert all(each == results[0] for each in results)


def test_modules_and_addresses_are_apart() -> None:
    """Another module or another address is another probe."""
    runs: list[tuple[str, str]] = []

    def run(target: Target, name: str, _: Module, __: ProbeResult | None) -> ProbeResult:
        runs.append((target.url, name))
        return result(target, name)

    shared = OnDemand(run)
    for address, name in (("a:1", "default"), ("a:1", "prefill"), ("b:1", "default"), ("a:1", "default")):
        shared.probe(address, name, MODULE)
    assert runs == [("http://a:1", "default"), ("http://a:1", "prefill"), ("http://b:1", "default")]


def test_a_probe_gets_the_one_that_measured_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its speed says how long the next one may be; one that was skipped since has none."""
    now, outcomes = 1000.0, iter([20.0, None, None])
    given: list[float | None] = []

    def run(target: Target, name: str, _: Module, before: ProbeResult | None) -> ProbeResult:
        given.append(before.measurements.tokens_per_second if before else None)
        return replace(result(target, name), measurements=Measurements(tokens_per_second=next(outcomes)))

    monkeypatch.setattr("exporter.on_demand.time.monotonic", lambda: now)
    shared = OnDemand(run)
    for _ in range(3):
        shared.probe("a:1", "default", MODULE)
        now += MODULE.interval
    assert given == [None, 20.0, 20.0]


def test_what_is_remembered_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for ever more addresses grows no memory and buys no second probe: it is refused until an interval is over."""
    runs: list[str] = []
    now = 1000.0

    def run(target: Target, name: str, _: Module, __: ProbeResult | None) -> ProbeResult:
        runs.append(target.url)
        return result(target, name)

    monkeypatch.setattr("exporter.on_demand.time.monotonic", lambda: now)
    shared = OnDemand(run)
    for number in range(MOST_ADDRESSES):
        shared.probe(f"host-{number}:1", "default", MODULE)
    with pytest.raises(CrowdedError):
        shared.probe("one-more:1", "default", MODULE)
    shared.probe("host-0:1", "default", MODULE)
    assert runs.count("http://host-0:1") == 1
    now += MODULE.interval
    shared.probe("one-more:1", "default", MODULE)
    assert len(runs) == MOST_ADDRESSES + 1


@pytest.mark.parametrize(
    "spelling",
    [
        "http://LOCALHOST:8000",
        "localhost.:8000",
        "http://127.0.0.1:8000/",
        "http://127.0.0.1:8000/./",
        "http://127.0.0.1:8000/a/..",
        "http://127.0.0.1:8000/v1",
        "http://127.1:8000",
        "http://2130706433:8000",
        "http://0x7f.0.0.1:8000",
        "http://[::1]:8000",
        "http://[0:0:0:0:0:0:0:1]:8000",
    ],
)
def test_an_address_is_probed_once_however_it_is_spelled(spelling: str) -> None:
    """Other spellings of an address get the same probe, so they buy no second one within the interval."""
    runs: list[str] = []

    def run(target: Target, name: str, _: Module, __: ProbeResult | None) -> ProbeResult:
        runs.append(target.url)
        return result(target, name)

    shared = OnDemand(run)
    first, again = (shared.probe(each, "default", MODULE) for each in ("http://127.0.0.1:8000", spelling))
    assert runs == ["http://127.0.0.1:8000"]
    assert first is not None
    assert again is not None
    assert again.at_seconds == first.at_seconds


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://10.0.0.7:8000/./v1", "http://10.0.0.7:8000"),
        ("http://10.0.0.7:8000/v1/v1", "http://10.0.0.7:8000"),
        ("http://10.0.0.7:8000/.hidden/v1", "http://10.0.0.7:8000/.hidden"),
        ("http://10.0.0.7:8000/.v1", "http://10.0.0.7:8000/.v1"),
        ("http://10.0.0.7:8000//a/", "http://10.0.0.7:8000/a"),
    ],
)
def test_an_address_is_the_same_when_it_is_read_again(address: str, url: str) -> None:
    """However an address is spelt, it has one URL, and a folder whose name begins with a dot keeps it."""
    assert probe_address_of(address).url == url
    assert probe_address_of(url) == probe_address_of(address)
