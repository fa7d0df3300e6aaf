"""What the web room serves, read by who reads it: promtool, a Prometheus, and a browser."""

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from exporter.exposition import Exposition
from exporter.snapshot import Snapshot, judgement_key, probe_key
from exporter.web.page import said_of
from exporter.web.status import targets_of
from tests.ports import free_port
from tests.real.conftest import need
from tests.real.pages import SCENES, browser, serving
from tests.scenes import NOW, judged, probe, publish_all
from tests.waiting import eventually

pytestmark = pytest.mark.real


def test_promtool_finds_nothing() -> None:
    """Promtool's lint of a full exposition is silent."""
    promtool = shutil.which("promtool")
    need(promtool, "promtool (apt-get install prometheus)")
    assert promtool is not None
    exposition = Exposition().render(publish_all(Snapshot()).view())
    checked = subprocess.run([promtool, "check", "metrics"], input=exposition, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


PROMETHEUS = """
global: {{scrape_interval: 3s}}
scrape_configs:
  - job_name: exporter
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
  - job_name: discovered
    metrics_path: /probe
    honor_labels: true
    http_sd_configs: [{{url: "http://127.0.0.1:{port}/api/v1/targets", refresh_interval: 1s}}]
    relabel_configs:
      - {{source_labels: [__address__], target_label: __param_target}}
      - {{source_labels: [__address__], target_label: instance}}
      - {{source_labels: [__param_module], target_label: module}}
      - {{target_label: __address__, replacement: "127.0.0.1:{port}"}}
"""


def ask(port: int, query: str) -> dict[str, float]:
    """The values of an instant query, by the labels that it leaves."""
    url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(query)}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    except OSError:
        return {}
    return {",".join(sorted(each["metric"].values())): float(each["value"][1]) for each in found}


def test_prometheus_scrapes_everything_and_discovers_the_targets(tmp_path: Path) -> None:
    """A real Prometheus takes every sample, and scrapes each module of each target that it was told of."""
    binary = shutil.which("prometheus")
    need(binary, "prometheus (apt-get install prometheus)")
    assert binary is not None
    own = free_port()
    with serving() as (snapshot, port):
        (tmp_path / "prometheus.yml").write_text(PROMETHEUS.format(port=port))
        command = [
            binary,
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{own}",
        ]
        with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as prometheus:
            try:
                modules = len(snapshot.view().records)
                eventually(
                    lambda: ask(own, 'sum(up{job="discovered"})') == {"": modules}, what="every module is scraped"
                )
                lines = Exposition().render(snapshot.view()).decode().splitlines()
                wanted = sum(not line.startswith("#") for line in lines)
                samples = 'sum(scrape_samples_scraped{job="exporter"})'
                eventually(lambda: ask(own, samples) == {"": wanted}, what="every sample is taken")
                speeds = 'sum by (target) (llm_probe_tokens_per_second{module="default", job="%s"})'
                eventually(
                    lambda: ask(own, speeds % "exporter").get("vllm") == 6.4, what="a speed is what was measured"
                )
                discovered = speeds % "discovered"
                eventually(lambda: ask(own, discovered) == ask(own, speeds % "exporter"), what="both jobs say the same")
            finally:
                prometheus.terminate()


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """Light and dark, wide and on a phone: nothing is refused or missing, nobody else is asked, nothing sticks out."""
    with serving() as (_, port), browser() as chromium:
        for scheme, width in (("light", 1280), ("dark", 1280), ("light", 390)):
            context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
            page = context.new_page()
            said: list[str] = []
            asked: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(f"http://127.0.0.1:{port}/")
            page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
            assert said == []
            assert {urllib.parse.urlsplit(url).port for url in asked} == {port}
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.locator("article.target").count() == 12
            light = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (light == "rgb(17, 19, 22)") == (scheme == "dark")
            context.close()


CONTRAST = """
() => {
  const parse = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith("color(srgb") ? parts.map((each, i) => (i < 3 ? each * 255 : each)) : parts;
  };
  const light = ([r, g, b]) => [r, g, b]
    .map((each) => each / 255)
    .map((each) => (each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4))
    .reduce((sum, each, i) => sum + each * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      const parts = parse(colour);
      if (colour.startsWith("rgb") && (parts.length < 4 || parts[3] > 0.9)) return parts;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("h1,h2,h3,p,span,dt,dd,li,td,th,code,a,time")) {
    if (!element.textContent.trim() || !element.checkVisibility()) continue;
    const [front, back] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (front + 0.05) / (back + 0.05);
    if (ratio < 4.5) poor.push(`${element.className || element.tagName}: ${ratio.toFixed(2)}`);
  }
  return [...new Set(poor)];
}
"""


@pytest.mark.parametrize("path", ["", "runbook"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(scheme: str, path: str) -> None:
    """Every text stands out from what is behind it by at least 4.5 to 1, in both schemes, details open."""
    with serving() as (_, port), browser() as chromium:
        page = chromium.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}).new_page()
        page.goto(f"http://127.0.0.1:{port}/{path}")
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        assert page.evaluate(CONTRAST) == []


def test_a_link_to_the_runbook_shows_the_alert() -> None:
    """On a phone the alert stands at the top, nothing sticks out, and the way back leads to the status page."""
    with serving() as (_, port), browser() as chromium:
        page = chromium.new_context(viewport={"width": 390, "height": 900}).new_page()
        page.goto(f"http://127.0.0.1:{port}/runbook#llmtargetdown")
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        page.goto(f"http://127.0.0.1:{port}/runbook#llmthroughputpoor")
        top = page.evaluate("document.getElementById('llmthroughputpoor').getBoundingClientRect().top")
        assert 0 <= top < 30
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.get_by_role("link", name="Status page").click()
        assert page.locator("article.target").count() == 12


def test_the_page_without_a_script_is_complete() -> None:
    """With JavaScript off the page says the same."""
    with serving() as (_, port), browser() as chromium:
        page = chromium.new_context(java_script_enabled=False).new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        assert (
            page.locator("h1").inner_text()
            == "Of 12 servers, transformers is down, webui is failing, garbled is wrong, vllm is poor"
        )
        assert "probed 12 s ago" in page.locator("article", has_text="llamacpp-q4").first.inner_text()


def test_the_page_keeps_itself_fresh() -> None:
    """A refresh shows what was published since, and leaves open what a reader had opened."""
    with serving() as (snapshot, port), browser() as chromium:
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator("details[data-key='vllm'] summary").click()
        snapshot.publish_all(
            (
                (probe_key("vllm", "default"), probe("vllm", 1, speed=21.5)),
                (judgement_key("vllm", "default"), judged(21.5, "vllm-fp16", 8, 12)),
            )
        )
        page.evaluate("refresh()")
        card = page.locator("article.target", has_text="vLLM 0.10.1")
        assert card.locator(".badge").inner_text() == "excellent"
        assert card.locator(".big").inner_text() == "21.5"
        assert page.evaluate("document.querySelector(\"details[data-key='vllm']\").open") is True


def test_the_page_says_when_the_exporter_is_gone() -> None:
    """A page whose exporter has stopped keeps its figures, dims them, and its headline says that they are old."""
    with browser() as chromium:
        page = chromium.new_page()
        with serving() as (_, port):
            page.goto(f"http://127.0.0.1:{port}/")
        page.evaluate("refresh()")
        said = "The exporter has not answered since "
        assert page.locator("h1").inner_text().startswith(said)
        assert page.title().startswith(said)
        assert float(page.evaluate("getComputedStyle(document.querySelector('main')).opacity")) < 0.5
        assert page.locator("article.target").count() == 12


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", SCENES)
def test_axe_finds_nothing_in_any_state(tmp_path: Path, name: str, width: int, scheme: str) -> None:
    """No violation of axe's rules and no word on the console, of page and board, details open; nothing sticks out."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    with serving(SCENES[name]) as (_, port), browser() as chromium:
        context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True)
        page = context.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        for path in ("", "?board", *(["?target=poor-013", "?q=memory"] if name == "200" else [])):
            page.goto(f"http://127.0.0.1:{port}/{path}")
            page.screenshot(path=tmp_path / f"{name}-{width}-{scheme}{path.strip('?=')}.png", full_page=True)
            page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
            violations = axe.Axe().run(page).response["violations"]
            assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in violations] == []
            assert page.evaluate("document.documentElement.scrollWidth") == width
        assert said == []


LAYOUT = """
() => {
  const found = [];
  const said = (each) => each.text.trim().slice(0, 40);
  const boxes = ".target, .rows li, .dense li, .large li, header, .grid .card, .group-name, .card.empty";
  for (const box of document.querySelectorAll(boxes)) {
    const texts = [];
    const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode, parent = node.parentElement;
      if (!node.data.trim() || !parent.checkVisibility() || parent.closest(".hidden, .scroll")) continue;
      const range = document.createRange();
      range.selectNodeContents(node);
      for (const each of range.getClientRects()) {
        // Letters are lower than the line that the font gives them.
        const less = each.height / 5;
        texts.push({ text: node.data, left: each.left, right: each.right, top: each.top + less, bottom: each.bottom - less });
      }
    }
    const frame = box.getBoundingClientRect();
    for (const each of texts) {
      const sides = [each.left - frame.left, frame.right - each.right, each.top - frame.top, frame.bottom - each.bottom];
      if (Math.min(...sides, each.left, innerWidth - each.right) < -1) found.push(`sticks out: ${said(each)}`);
    }
    texts.forEach((one, place) => {
      for (const other of texts.slice(place + 1)) {
        const wide = Math.min(one.right, other.right) - Math.max(one.left, other.left);
        const high = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
        if (wide > 1 && high > 1) found.push(`over each other: ${said(one)} | ${said(other)}`);
      }
    });
  }
  return [...new Set(found)];
}
"""


@pytest.mark.parametrize("width", [360, 800, 1280])
@pytest.mark.parametrize("name", SCENES)
def test_no_text_is_cut_or_covered(name: str, width: int) -> None:
    """On page and board, details open, each text lies within its card and over no other text."""
    with serving(SCENES[name]) as (_, port), browser() as chromium:
        page = chromium.new_context(viewport={"width": width, "height": 800}).new_page()
        for path in ("", "?board"):
            page.goto(f"http://127.0.0.1:{port}/{path}")
            page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
            assert page.evaluate(LAYOUT) == []
            assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("viewport", [(360, 640), (1280, 720)], ids=["phone", "laptop"])
@pytest.mark.parametrize("name", ["9", "12", "200", "states-1", "states-2", "states-3", "states-4", "states-5", "rows"])
def test_the_worst_server_and_its_reason_are_seen_without_scrolling(name: str, viewport: tuple[int, int]) -> None:
    """The headline, the name of the worst server, its verdict and why it is so all lie in the first viewport."""
    with serving(SCENES[name]) as (snapshot, port), browser() as chromium:
        worst = targets_of(snapshot.view(), NOW)[0]
        page = chromium.new_context(viewport=dict(zip(("width", "height"), viewport, strict=True))).new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        first = page.locator("article.target, .group").first
        why = said_of(worst) if name in {"200", "rows"} or worst.why is None else worst.why.sentence
        for seen in (
            page.locator("h1 span").filter(has_text=f" {worst.verdict.name}").first,
            first.get_by_text(worst.target, exact=True).first,
            first.locator(".badge"),
            first.get_by_text(why).first,
        ):
            box = seen.bounding_box()
            assert box is not None
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= viewport[1], seen


def test_typing_filters_the_rows_and_a_refresh_keeps_that() -> None:
    """What is typed counts at once, survives a refresh, and leads to one server's card."""
    with serving(SCENES["200"]) as (_, port), browser() as chromium:
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        rows = page.locator("[data-find]:visible")
        assert rows.count() == 200
        page.get_by_label("Find").fill("memory's limit")
        assert rows.count() == 10
        assert page.locator(".group:visible").count() == 1
        page.evaluate("refresh()")
        assert rows.count() == 10
        page.get_by_label("Find").fill("nobody")
        assert page.get_by_text("No server matches.").is_visible()
        page.get_by_label("Find").fill("poor-013")
        page.get_by_role("link", name="poor-013").click()
        assert page.locator("article.target").count() == 1
        assert page.locator("details.more").get_attribute("open") is not None


def test_the_next_probe_counts_down() -> None:
    """The time to the next probe is that from now, not from when the page was made."""
    with serving() as (_, port), browser() as chromium:
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        until = page.locator("details[data-key='vllm'] time[data-until]")
        assert until.inner_text() in {"in 48 s", "in 47 s"}
        page.evaluate("ahead -= 20; tick()")
        assert until.inner_text() in {"in 28 s", "in 27 s", "in 26 s"}
        page.evaluate("ahead -= 40; tick()")
        assert until.inner_text() == "due"
