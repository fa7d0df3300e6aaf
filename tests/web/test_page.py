"""The page as HTML: it says what is so, lets no stranger's text in as markup, and asks nobody else for anything."""

import dataclasses
from html.parser import HTMLParser

import pytest

from exporter.history.record import Plan
from exporter.probe.result import Result
from exporter.snapshot import (
    EXPORTER,
    ExporterState,
    Snapshot,
    TargetInfo,
    View,
    info_key,
    judgement_key,
    plan_key,
    probe_key,
)
from exporter.web.page import SHOWN, render_page
from tests.scenes import NOW, judged, probe, publish_all, steady

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects a page's elements and text, and checks that they are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.title = html.partition("<title>")[2].partition("</title>")[0]
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(view: View) -> Page:
    return Page(render_page(view, NOW, {"Grafana": "http://grafana.example/d/llm"}))


@pytest.fixture(scope="module")
def page() -> Page:
    return page_of(publish_all(Snapshot()).view())


def test_the_headline_says_what_is_wrong(page: Page) -> None:
    """The first line alone says how many servers are bad."""
    assert "Of 12 servers, 1 is down, 1 is failing, 1 is wrong, 1 is poor" in page.text


@pytest.mark.parametrize(
    "said",
    [
        "Slower than vllm-fp16 should be: 8–12 tokens/s",
        "The server failed: 500: CUDA error: HIP out of memory",
        "Connection refused",
        "16.2",
        "Long prompt: prefill 661 tokens/s, decode 11.9 tokens/s",
        "short right deep degenerate",
        'the answer repeats "/" to its end',
        "290 ms",
        "expected 12–20",
        "ceiling 19.4, 84 % reached",
        "stale:",
        "Qwen/Qwen2.5-14B-Instruct",
        "rocm/vllm:rocm6.4.1_vllm_0.10.1",
        "AMD Radeon 8060S",
        "71.5 GB of 118 GB",
        "incomplete",
        "permission denied",
        "412 GB free of 1.97 TB",
        "http_5xx",
        "1,412",
        "Slower since the image changed from rocm/vllm:rocm6.4_vllm_0.9.2 to rocm/vllm:rocm6.4.1_vllm_0.10.1",
        "6.4, before 12.1 tok/s (\N{MINUS SIGN}47 %)",
        "Slower, though nothing that is watched changed: 13.4, before 15.6 tok/s (\N{MINUS SIGN}14 %). (since 2026-",
        "Does the server run, and does it listen at this address and port?",
        "16.2 of at most 19.4 tokens/s: 16-bit weights are the limit; a 4-bit copy could reach about 58.",
    ],
)
def test_it_says(page: Page, said: str) -> None:
    """Verdict and reason, figures, identity, failures, host and caches are all on the page."""
    assert said in " ".join(page.text.split())


def test_it_needs_nobody_else(page: Page) -> None:
    """Every resource is the exporter's own and relative, so that the page works below any prefix; nothing is inline."""
    resources = [
        attributes[key] or "" for _, attributes in page.elements for key in ("src", "href") if key in attributes
    ]
    assert {url for url in resources if "//" in url} == {"http://grafana.example/d/llm"}
    assert not [url for url in resources if url.startswith("/")]
    assert not [tag for tag, attributes in page.elements if tag == "style" or "style" in attributes]
    assert not [tag for tag, attributes in page.elements if tag == "script" and "src" not in attributes]
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]


def test_it_can_be_read_aloud(page: Page) -> None:
    """One main heading, a language, names on drawings, and labels that exist."""
    tags = [tag for tag, _ in page.elements]
    assert tags.count("h1") == tags.count("main") == 1
    assert dict(page.elements)["html"] == {"lang": "en"}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes} <= set(
        ids
    )
    assert all("aria-label" in attributes for tag, attributes in page.elements if attributes.get("role") == "img")


def test_a_strangers_text_is_text() -> None:
    """Markup in names, models, errors and addresses is shown and not obeyed."""
    nasty = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    snapshot = Snapshot()
    snapshot.publish(plan_key(nasty, "default"), Plan(60))
    snapshot.publish(info_key(nasty), TargetInfo(nasty, nasty, nasty, nasty, nasty, nasty, nasty, nasty, nasty))
    result = dataclasses.replace(probe("x", 5, "protocol", error=nasty, model=nasty), log=(nasty,))
    snapshot.publish(probe_key(nasty, "default"), result)
    page = page_of(snapshot.view())
    assert "img" not in [tag for tag, _ in page.elements]
    assert [attributes for tag, attributes in page.elements if tag == "script"] == [
        {"src": "static/status.js", "defer": None}
    ]
    assert nasty in page.text


def test_nothing_found_says_what_to_do() -> None:
    """Without a target the page explains how to get one."""
    page = page_of(View())
    assert "No inference server yet" in page.text
    assert "targets:\n  - name: my-server" in page.text


@pytest.mark.parametrize(
    ("states", "headline"),
    [
        ((25,), "The server is fine"),
        ((25, 16), "All 2 servers are fine"),
        ((25, 3), "Of 2 servers, 1 is poor"),
        ((3, "skipped_busy", 3), "Of 3 servers, 2 are poor"),
        ((25, "skipped_busy"), "1 of 2 servers is fine, 1 is busy"),
        ((25, 16, None), "2 of 3 servers are fine, 1 is without a speed"),
        (("skipped_busy",), "No server measured: 1 is busy"),
        (("skipped_unloaded", "loading", "loading"), "No server measured: 2 are loading, 1 is not loaded"),
    ],
)
def test_headlines(states: tuple[float | Result | None, ...], headline: str) -> None:
    """The headline is a sentence for any number of servers: a speed each, a result, or a probe that gave no speed."""
    snapshot = Snapshot()
    for number, state in enumerate(states):
        name = f"t{number}"
        speed = None if isinstance(state, str) else state
        result = probe(name, 5, state) if isinstance(state, str) else probe(name, 5, speed=speed)
        snapshot.publish(plan_key(name, "default"), Plan(60))
        snapshot.publish(probe_key(name, "default"), result)
        snapshot.publish(judgement_key(name, "default"), judged(speed, "x", None, None))
    assert Page(render_page(snapshot.view(), NOW, {})).title == f"{headline} · llm-probe-exporter"


def test_of_very_many_targets_the_worst_are_shown() -> None:
    """The page stays small with a thousand targets, shows the bad ones and says how many it leaves out."""
    snapshot = Snapshot()
    snapshot.publish_all((plan_key(f"t{number:03}", "default"), Plan(60)) for number in range(300))
    snapshot.publish(probe_key("t299", "default"), probe("t299", 5, "connect"))
    page = page_of(snapshot.view())
    assert "t299" in page.text
    assert "t250" not in page.text
    assert f"{300 - SHOWN} more" in page.text


def test_extremes_are_drawn() -> None:
    """A clock that stepped back, a refused reload and a speed of 0 don't break the page."""
    snapshot = Snapshot()
    snapshot.publish(plan_key("a", "default"), Plan(60))
    snapshot.publish(EXPORTER, ExporterState(reload_successful=False))
    for result in (*steady("a", 20, count=3), probe("a", -1e6, speed=0.0), probe("a", 1e12, speed=1e9)):
        snapshot.publish(probe_key("a", "default"), result)
    assert "last reload refused" in page_of(snapshot.view()).text
