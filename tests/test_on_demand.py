"""What /probe may reach: a table of attempts, and one probe for all who ask."""

import threading
from collections.abc import Sequence

import pytest

from exporter.on_demand import MOST_ADDRESSES, OnDemand, refusal_of
from exporter.probe.result import ProbeResult
from exporter.settings import Module, Target

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
        ("http://[fe80::1]:8000", ["*"], "link-local"),
        ("http://[::ffff:169.254.169.254]", ["*"], "link-local"),
        ("http://2852039166", ["*"], "link-local"),
        ("http://0xA9FEA9FE", ["*"], "link-local"),
        ("http://0.0.0.0:9937", ["*"], "no host"),
        ("http://metadata.google.internal", ["*"], "metadata service"),
        ("http://METADATA.google.internal.", ["*"], "metadata service"),
        ("http://224.0.0.1:8000", ["*"], "no host"),
    ],
)
def test_attempts_to_reach_something_else_are_refused(address: str, allow: Sequence[str], why: str) -> None:
    """Each way around the patterns, and each address of a metadata service, is refused with its reason."""
    assert why in (refusal_of(address, allow) or "it was allowed")


def result(target: Target, name: str) -> ProbeResult:
    """A probe that came out well."""
    return ProbeResult(target.name, name, "ok", "", at_seconds=0, interval_seconds=60)


def test_all_who_ask_at_once_share_one_probe() -> None:
    """Two Prometheus servers that scrape the same address don't double what the probing costs."""
    started, release = threading.Event(), threading.Event()
    runs: list[str] = []

    def run(target: Target, name: str, _: Module) -> ProbeResult:
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
    assert len(set(map(id, results))) == 1


def test_modules_and_addresses_are_apart() -> None:
    """Another module or another address is another probe."""
    runs: list[tuple[str, str]] = []

    def run(target: Target, name: str, _: Module) -> ProbeResult:
        runs.append((target.url, name))
        return result(target, name)

    shared = OnDemand(run)
    for address, name in (("a:1", "default"), ("a:1", "prefill"), ("b:1", "default"), ("a:1", "default")):
        shared.probe(address, name, MODULE)
    assert runs == [("http://a:1", "default"), ("http://a:1", "prefill"), ("http://b:1", "default")]


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    """Asking for ever more addresses doesn't grow the memory: the oldest is forgotten and probed anew."""
    runs: list[str] = []

    def run(target: Target, name: str, _: Module) -> ProbeResult:
        runs.append(target.url)
        return result(target, name)

    shared = OnDemand(run)
    for number in range(MOST_ADDRESSES + 1):
        shared.probe(f"host-{number}:1", "default", MODULE)
    shared.probe("host-0:1", "default", MODULE)
    assert runs.count("http://host-0:1") == 2
