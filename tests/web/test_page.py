"""The page as HTML: it says what is so, lets no stranger's text in as markup, and asks nobody else for anything."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from exporter.history.record import Plan
from exporter.probe.result import Measurements, Result
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
from exporter.web.page import CARDS, PageQuery, render_page
from tests.scenes import NOW, judged, probe, publish_all, publish_many, steady
from tests.states import LONG_NAME, publish_sick_machine, publish_states

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


def page_of(view: View, asked: PageQuery | None = None) -> Page:
    return Page(render_page(view, NOW, {"Grafana": "http://grafana.example/d/llm"}, asked or PageQuery()))


@pytest.fixture(scope="module")
def many() -> View:
    return publish_many(Snapshot(), 200).view()


@pytest.fixture(scope="module")
def page() -> Page:
    return page_of(publish_all(Snapshot()).view())


def test_the_headline_says_what_is_wrong(page: Page) -> None:
    """The first line alone names the bad servers; of several with one verdict it says how many there are."""
    assert "Of 12 servers, transformers is down, webui is failing, garbled is wrong, vllm is poor" in page.text


@pytest.mark.parametrize(
    "said",
    [
        "Slower than vllm-fp16 should be: 8–8.6 tokens/s",
        "The server failed: 500: CUDA error: HIP out of memory",
        "No connection: connection refused.",
        "16.2",
        "Long prompt: prefill 661 tokens/s, decode 11.9 tokens/s",
        "short prompt: right long prompt: degenerate",
        'the answer repeats one character to its end: "/"',
        "290 ms",
        "expected 12–19.4",
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
        "Check that the server runs, and that it listens at this address and port.",
        "16.2 of at most 19.4 tokens/s: 16-bit weights are the limit; a 4-bit copy could reach about 58 tokens/s.",
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
        ((25,), "t0 is fine"),
        ((25, 16), "All 2 servers are fine"),
        ((25, 3), "Of 2 servers, t1 is poor"),
        ((3, "skipped_busy", 3), "Of 3 servers, 2 are poor"),
        ((25, "skipped_busy"), "1 of 2 servers is fine, 1 is busy"),
        ((25, 16, None), "2 of 3 servers are fine, 1 is without a speed"),
        (("skipped_busy",), "t0 is busy"),
        ((3,), "t0 is poor"),
        ((None,), "t0 is without a speed"),
        ((3, 4), "All 2 servers are poor"),
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


@pytest.mark.parametrize("name", ["down-since-a-moment", "stuck", "loading", "starting"])
@pytest.mark.parametrize("board", [False, True])
def test_a_server_that_answers_nobody_has_no_speed(name: str, board: bool) -> None:  # noqa: FBT001
    """What its last probe measured is past: neither card nor board shows it as the speed of now."""
    html = render_page(publish_states(Snapshot(), [name]).view(), NOW, {}, PageQuery(board=board))
    main = html.partition("<main")[2].partition('class="more"')[0]
    assert ">16.7" not in main
    assert ">410 ms" not in main


@pytest.mark.parametrize(
    ("name", "summary"),
    [
        ("stuck", "Details"),
        ("buffered", "Details"),
        ("slow-for-users", "Details"),
        ("degenerate", "Details"),
        ("fails-http-5xx", "Details"),
        ("down-since-a-moment", "Details"),
        ("only-an-address", "Details"),
        ("heat", "Slower than"),
    ],
)
def test_the_reason_is_not_said_twice(name: str, summary: str) -> None:
    """Where the advice says the same as the reason, the line below it only says what opens."""
    html = render_page(publish_states(Snapshot(), [name]).view(), NOW, {})
    assert f'<span class="reason">{summary}' in html


def test_the_board_says_why_nothing_is_probed() -> None:
    """A pause stands on the board in place of what the last probe found."""
    html = render_page(publish_states(Snapshot(), ["paused"]).view(), NOW, {}, PageQuery(board=True))
    assert "Paused: nobody used Qwen/Qwen2.5-14B-Instruct since 09:41" in html


def test_a_long_name_is_counted_in_the_headline() -> None:
    """A name of 64 characters would fill it."""
    html = render_page(publish_states(Snapshot(), [LONG_NAME, "good"]).view(), NOW, {})
    assert Page(html).title.startswith("Of 2 servers, 1 is failing")


@pytest.mark.parametrize("name", ["unloaded", "fails-auth", "waiting", "loading", "cold-start"])
def test_a_scale_without_a_speed_is_not_drawn(name: str) -> None:
    """Zones that nothing stands in say nothing."""
    assert '<rect class="zone' not in render_page(publish_states(Snapshot(), [name]).view(), NOW, {})


def test_a_server_that_is_slow_for_its_users_shows_what_they_get() -> None:
    """The large figure is the speed that the verdict is about; the scale says that it is a probe's."""
    page = page_of(publish_states(Snapshot(), ["slow-for-users"]).view())
    text = " ".join(page.text.split())
    assert re.search(r"4.2 ?tokens/s for each user 3.1 s ?to first token .*20 a probe alone", text)


def test_a_command_in_advice_is_code() -> None:
    """Backticks are markup for the prompt and for the runbook; the page shows none."""
    page = page_of(publish_states(Snapshot(), ["slower-since-a-change", "own-layer"]).view())
    assert "`" not in page.text
    assert "llm-probe-exporter changes --accept" in page.text
    assert [tag for tag, _ in page.elements].count("code") >= 2


def test_what_is_set_for_a_gpu_stands_on_its_card() -> None:
    """With two GPUs, a power limit and a level say whose they are."""
    text = page_of(publish_sick_machine(Snapshot()).view()).text.partition("This machine")[2]
    cards = " ".join(text.partition("Setup")[0].split())
    assert re.search(
        r"Radeon 8060S .*Firmware mes ?0x83 GPU level ?low Radeon RX 9070 XT .*auto Power limit ?120 W", cards
    )
    assert "GPU level" not in text.partition("Setup")[2]


def test_a_launch_setting_has_its_name_for_people() -> None:
    """Abbreviations are written as such, and no identifier is shown."""
    text = page_of(publish_states(Snapshot(), ["offload", "aiter"]).view()).text
    assert re.search(r"CPU offload ?24 of 48 layers", " ".join(text.split()))
    assert re.search(r"AITER ?no effect", " ".join(text.split()))


def test_a_line_without_a_speed_is_not_drawn() -> None:
    """Nine probes behind a proxy that buffers give no point, and no empty box."""
    html = render_page(publish_all(Snapshot()).view(), NOW, {}, PageQuery(target="behind-nginx"))
    assert "no speed in" not in html


def test_a_stale_row_says_so() -> None:
    """Among many servers an old speed is not shown like a new one."""
    page = page_of(publish_states(Snapshot()).view())
    text = " ".join(page.text.split())
    assert re.search(r"\bstale ?stale ?15.8 tok/s", text)
    assert not re.search(r"\bpaused ?stale", text)


def test_an_empty_board_says_what_to_do() -> None:
    """A screen across the room is not just empty."""
    assert "Start an inference server here" in page_of(View(), PageQuery(board=True)).text
    nobody = page_of(publish_states(Snapshot(), ["good"]).view(), PageQuery(board=True, target="nobody"))
    assert "No server matches. Show all 1" in " ".join(nobody.text.split())


def links_of(page: Page) -> list[str]:
    """The targets that can be reached from a page."""
    links = [attributes.get("href") or "" for tag, attributes in page.elements if tag == "a"]
    return [link.removeprefix("?target=") for link in links if link.startswith("?target=")]


def test_of_many_targets_each_is_a_row_in_the_group_of_its_reason(many: View) -> None:
    """All 200 can be reached, the worst group first, what to do said once a group, and the page stays light."""
    html = render_page(many, NOW, {})
    page = Page(html)
    assert sorted(links_of(page)) == sorted(many.targets)
    assert [tag for tag, attributes in page.elements if "card target" in (attributes.get("class") or "")] == []
    text = " ".join(page.text.split())
    order = [
        "down No connection 10",
        "failing The server failed 10",
        "The server failed: 500: CUDA error: HIP out of memory. Look at",
        "poor At the memory's limit 10",
        "poor Slow for no known",
    ]
    places = [text.index(each) for each in order]
    assert places == sorted(places)
    assert text.count("Check that the server runs, and that it listens at this address and port.") == 1
    assert "Kernel" not in text.partition("This machine")[0]
    assert len(html) < 200_000


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        (PageQuery(verdict="poor"), 20),
        (PageQuery(text="MEMORY's limit"), 10),
        (PageQuery(text="hip qwen"), 10),
        (PageQuery(text="good-1", verdict="good"), 30),
        (PageQuery(text="excellent-002"), 1),
        (PageQuery(text="nobody"), 0),
        (PageQuery(target="poor-013"), 1),
        (PageQuery(target="nobody"), 0),
    ],
)
def test_a_reader_finds_what_is_asked_for(many: View, asked: PageQuery, count: int) -> None:
    """By words in any order and a verdict; the headline stays that of all servers."""
    page = page_of(many, asked)
    cards = [1 for tag, attributes in page.elements if tag == "article" and "target" in (attributes["class"] or "")]
    assert len(links_of(page)) + len(cards) == count
    assert (count > CARDS) == (not cards) or count == 0
    assert page.text.count("No server matches") == (2 if count == 0 else 1)
    assert page.title.startswith("Of 200 servers, 10 are down, 10 are failing, 20 are poor")


def test_one_target_alone_is_open(many: View) -> None:
    """A link to a target leads to its whole card, with its details open."""
    page = page_of(many, PageQuery(target="poor-013"))
    assert [
        attributes["data-key"] for tag, attributes in page.elements if tag == "details" and "open" in attributes
    ] == ["poor-013"]


def test_the_board_has_a_large_row_for_each_server(many: View) -> None:
    """Name, speed, verdict and cause, the worst first, and nothing of the machine."""
    page = page_of(publish_all(Snapshot()).view(), PageQuery(board=True))
    named = [
        "transformers",
        "webui",
        "garbled",
        "vllm",
        "behind-nginx",
        "loading",
        "ollama",
        "vllm-aiter",
        "llamacpp-q4",
    ]
    assert links_of(page) == [*named, "mi300x", "lm-studio", "new"]
    text = " ".join(page.text.split())
    assert "vllm 6.4 tok/s poor Slower since a change" in text
    assert "transformers down No connection" in text
    assert "ROCm" not in text
    assert len(links_of(page_of(many, PageQuery(board=True)))) == 200


def test_extremes_are_drawn() -> None:
    """A clock that stepped back, a refused reload and a speed of 0 don't break the page."""
    snapshot = Snapshot()
    snapshot.publish(plan_key("a", "default"), Plan(60))
    snapshot.publish(EXPORTER, ExporterState(reload_successful=False))
    for result in (*steady("a", 20, count=3), probe("a", -1e6, speed=0.0), probe("a", 1e12, speed=1e9)):
        snapshot.publish(probe_key("a", "default"), result)
    assert "last reload refused" in page_of(snapshot.view()).text


def test_a_probe_that_did_not_even_connect_breaks_no_page() -> None:
    """Its only phase is the wait for its turn: there is no whole to name."""
    snapshot = Snapshot()
    snapshot.publish(plan_key("one", "default"), Plan(60))
    refused = dataclasses.replace(probe("one", 9, "connect"), measurements=Measurements(phases=(("queue", 0.01),)))
    snapshot.publish(probe_key("one", "default"), refused)
    assert "one" in page_of(snapshot.view()).text
