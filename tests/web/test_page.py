"""The page as HTML: it says what is so, lets no stranger's text in as markup, and asks nobody else for anything."""

import dataclasses
from html.parser import HTMLParser

import pytest

from exporter.history.record import Plan
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
from exporter.web.page import SHOWN, in_bytes, in_seconds, in_tokens, in_words, render_page
from tests.scenes import NOW, judged, probe, publish_all, steady

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects a page's elements and text, and checks that they are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
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
    """Who reads only one line knows how many servers are bad."""
    assert "Of 11 servers, 1 is down, 1 is failing, 1 is poor" in page.text


@pytest.mark.parametrize(
    "said",
    [
        "Below the 8–12 tokens/s that vllm-fp16 should reach",
        "The server failed: 500: CUDA error: HIP out of memory",
        "Connection refused",
        "16.2",
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
    ("speeds", "headline"),
    [((25,), "The server is fine"), ((25, 16), "All 2 servers are fine"), ((25, 3), "Of 2 servers, 1 is poor")],
)
def test_headlines(speeds: tuple[float, ...], headline: str) -> None:
    """The headline is a sentence for any number of servers."""
    snapshot = Snapshot()
    for number, speed in enumerate(speeds):
        snapshot.publish(plan_key(f"t{number}", "default"), Plan(60))
        snapshot.publish(probe_key(f"t{number}", "default"), probe(f"t{number}", 5, speed=speed))
        snapshot.publish(judgement_key(f"t{number}", "default"), judged(speed, "x", None, None))
    assert headline in page_of(snapshot.view()).text


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


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (in_tokens(6.44), "6.4"),
        (in_tokens(99.96), "100"),
        (in_tokens(1412.0), "1,412"),
        (in_tokens(None), "–"),
        (in_seconds(0.0004), "0.4 ms"),
        (in_seconds(0.41), "410 ms"),
        (in_seconds(0.9996), "1.00 s"),
        (in_seconds(12.3), "12 s"),
        (in_words(12), "12 s"),
        (in_words(89), "89 s"),
        (in_words(240), "4 min"),
        (in_words(3 * 3600), "3 h"),
        (in_words(-5), "0 s"),
        (in_bytes(29_540_067_328), "29.5 GB"),
        (in_bytes(999_900_000_000), "1000 GB"),
        (in_bytes(1_967_000_000_000), "1.97 TB"),
        (in_bytes(0), "0 kB"),
        (in_bytes(None), "–"),
    ],
)
def test_numbers_as_people_read_them(shown: str, wanted: str) -> None:
    """Three digits and a unit are enough."""
    assert shown == wanted
