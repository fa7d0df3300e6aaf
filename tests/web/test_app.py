"""Every path as a client sees it, over the whole application."""

import gzip
import json
import threading
from typing import Any

import pytest
from starlette.testclient import TestClient

from exporter.exposition import OPENMETRICS, TEXT, Exposition
from exporter.history.change import Difference, Entry
from exporter.history.record import Plan
from exporter.probe.result import ProbeResult
from exporter.snapshot import Snapshot, plan_key
from exporter.web.app import PROBES_AT_ONCE, Refused, build_app
from tests.scenes import NOW, probe, publish_all
from tests.web.actions import StubActions

PATHS = (
    "/",
    "/metrics",
    "/api/v1/status",
    "/api/v1/probes?target=vllm",
    "/api/v1/targets",
    "/api/v1/changes",
    "/runbook",
    "/badge/vllm.svg",
    "/-/healthy",
    "/-/ready",
)


@pytest.fixture
def daemon() -> StubActions:
    return StubActions()


@pytest.fixture(scope="module")
def scene() -> tuple[Snapshot, Exposition]:
    """One machine with everything, which no test changes."""
    return publish_all(Snapshot()), Exposition()


@pytest.fixture
def client(scene: tuple[Snapshot, Exposition], daemon: StubActions) -> TestClient:
    snapshot, exposition = scene
    app = build_app(snapshot, exposition.render, daemon, clock=lambda: NOW)
    return TestClient(app, headers={"accept-encoding": "identity"}, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2", OPENMETRICS),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
    ],
)
def test_metrics_by_negotiation(client: TestClient, accept: str, content_type: str) -> None:
    """A scrape gets the format that it asks for, and a browser readable text."""
    answer = client.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == content_type
    assert ("# EOF" in answer.text) == (content_type == OPENMETRICS)
    assert 'llm_probe_success{module="default",target="llamacpp-q4"} 1.0' in answer.text


def test_metrics_are_compressed_where_asked(client: TestClient) -> None:
    """Compression is used when accepted and only then, and unpacks to the same."""
    plain = client.get("/metrics")
    assert "content-encoding" not in plain.headers
    with client.stream("GET", "/metrics", headers={"accept-encoding": "gzip"}) as answer:
        packed = b"".join(answer.iter_raw())
        assert answer.headers["content-encoding"] == "gzip"
    unpacked = gzip.decompress(packed).decode()
    assert len(packed) < len(unpacked) / 5
    assert unpacked.split("# HELP process_")[0] == plain.text.split("# HELP process_")[0]


@pytest.mark.parametrize("path", PATHS)
def test_head_and_headers(client: TestClient, path: str) -> None:
    """HEAD answers as GET does, and every answer says what a browser may do with it, which is little."""
    answer = client.head(path)
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


def test_a_configured_target_is_answered_from_what_is_known(client: TestClient, daemon: StubActions) -> None:
    """/probe of a configured target starts nothing and answers its series, counters too, as /metrics has them."""
    answer = client.get("/probe", params={"target": "vllm-aiter", "module": "prefill"})
    assert answer.status_code == 200
    lines = set(answer.text.splitlines())
    assert lines <= set(client.get("/metrics").text.splitlines())
    assert 'llm_probes_total{module="prefill",result="ok",target="vllm-aiter"} 12.0' in lines
    waiting = client.get("/probe?target=new")
    assert 'llm_probes_total{module="default",result="ok",target="new"} 0.0' in waiting.text
    assert client.get("/probe?target=new&debug=true").text.startswith("Not probed yet.")
    assert daemon.calls == []


def test_an_address_that_is_only_allowed_has_gauges(client: TestClient, daemon: StubActions) -> None:
    """A one-off probe answers what it measured, and no counters, which would begin anew with every call."""
    daemon.outcome = lambda target, _: probe(target, 0, speed=33.3, model="m\n1")
    answer = client.get("/probe?target=http://10.0.0.9:8000")
    assert daemon.calls == [("probe", "http://10.0.0.9:8000", "default")]
    expected = 'llm_probe_tokens_per_second{model="m1",module="default",target="http://10.0.0.9:8000"} 33.3'
    assert expected in answer.text
    assert "_total" not in answer.text
    assert "http://10.0.0.9:8000" not in client.get("/metrics").text


def test_debug_shows_the_log(client: TestClient, daemon: StubActions) -> None:
    """With debug=true it answers readable text: result, reason, log, and then the metrics."""
    daemon.outcome = lambda target, _: probe(target, 0, "http_5xx", error="500: out of memory")
    answer = client.get("/probe?target=http://x&debug=true", headers={"accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.startswith("Probe of http://x by module default: http_5xx\n500: out of memory\n")
    assert "Probe of webui by module default: http_5xx" in client.get("/probe?target=webui&debug=true").text
    assert "POST /v1/chat/completions" in answer.text
    assert "llm_probe_success" in answer.text


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "the parameter target is missing: /probe?target=…"),
        ("?target=", "the parameter target is missing: /probe?target=…"),
        ("?target=http://evil", "http://evil is not allowed"),
        (f"?target={'a' * 301}", "target is longer than 300 characters"),
    ],
)
def test_what_may_not_be_probed_is_400(client: TestClient, query: str, message: str) -> None:
    """A probe that can't or may not be is refused in words."""
    answer = client.get(f"/probe{query}")
    assert (answer.status_code, answer.text) == (400, f"{message}\n")


def test_probes_that_wait_are_few(daemon: StubActions) -> None:
    """Beyond a number of waiting probes a call is told to come again, while scrapes are still served."""
    release, waiting = threading.Event(), threading.Semaphore(0)

    def slow(*_: str) -> ProbeResult | Refused:
        waiting.release()
        release.wait(10)
        return Refused("too late")

    daemon.outcome = slow
    with TestClient(build_app(Snapshot(), Exposition().render, daemon)) as client:
        threads = [threading.Thread(target=client.get, args=("/probe?target=a",)) for _ in range(PROBES_AT_ONCE)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert waiting.acquire(timeout=10)
        refused = client.get("/probe?target=a")
        scraped = client.get("/metrics")
        release.set()
        for thread in threads:
            thread.join()
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "5"
    assert scraped.status_code == 200


def test_status_as_json(client: TestClient) -> None:
    """The API has every target with its verdict, reason and figures, and the host's facts."""
    status = client.get("/api/v1/status").json()
    targets = {each["target"]: each for each in status["targets"]}
    assert targets["vllm"]["verdict"] == "poor"
    assert targets["vllm"]["probes"][0]["tokens_per_second"] == 6.4
    assert targets["vllm"]["probes"][0]["judgement"]["expected_min"] == 8
    assert targets["transformers"]["verdict"] == "down"
    assert targets["transformers"]["reason"] == "connection refused"
    assert targets["transformers"]["probes"][0]["tokens_per_second"] is None
    assert len(targets["vllm-aiter"]["probes"]) == 3
    assert targets["garbled"]["verdict"] == "wrong"
    assert targets["garbled"]["probes"][1]["answer_correct"] == {"short": "right", "deep": "degenerate"}
    assert targets["garbled"]["probes"][1]["tokens_per_second"] is None
    assert status["verdicts"]["poor"] == 1
    assert status["host"]["caches"][0]["models"][1]["complete"] is False
    assert status["host"]["rocm"]["release"] == "7.2"
    assert status["exporter"]["reload_successful"] is True


def test_recent_probes_as_json(client: TestClient) -> None:
    """The recent probes have phases, marks and log, the newest first, old failures among them."""
    answer = client.get("/api/v1/probes?target=ollama").json()
    newest = answer["probes"][0]
    assert newest["phase_seconds"]["first_token"] == 0.41
    assert newest["marks_seconds"][0]["first_text"] == 0.41
    assert newest["log"] == ["+0.002 s POST /v1/chat/completions", "+1.250 s ok"]
    assert answer["probes"][-1]["result"] == "timeout_first_token"
    times = [each["timestamp_seconds"] for each in answer["probes"]]
    assert times == sorted(times, reverse=True)
    assert answer["history"]["default"][-1] == {"at_seconds": NOW - 12, "tokens_per_second": 13.4, "ok": True}


def test_service_discovery(client: TestClient) -> None:
    """Prometheus' HTTP service discovery gets one group for each module of each target, labels being strings."""
    answer = client.get("/api/v1/targets")
    assert answer.headers["content-type"] == "application/json"
    groups = answer.json()
    assert {
        "targets": ["vllm-aiter"],
        "labels": {
            "__meta_llm_probe_target": "vllm-aiter",
            "__param_module": "prefill",
            "__meta_llm_probe_url": "http://127.0.0.1:8001",
            "__meta_llm_probe_backend": "vllm",
        },
    } in groups
    assert len(groups) == 15


@pytest.mark.parametrize("path", ["/-/healthy", "/-/ready"])
def test_health(client: TestClient, daemon: StubActions, path: str) -> None:
    """200 while fine, 503 with the reason while not."""
    assert client.get(path).status_code == 200
    daemon.fine = False
    answer = client.get(path)
    assert answer.status_code == 503
    assert answer.text.strip() == (daemon.ready() if path.endswith("ready") else daemon.healthy())[1]


def test_reload(client: TestClient, daemon: StubActions) -> None:
    """A reload answers 200, or 400 with all that is wrong."""
    assert client.post("/-/reload").status_code == 200
    daemon.errors = ("targets[0].url: is not a URL", "modules: is empty")
    answer = client.post("/-/reload")
    assert answer.status_code == 400
    assert answer.text.splitlines()[1:] == list(daemon.errors)


@pytest.mark.parametrize(
    ("headers", "status_code"),
    [
        ({}, 200),
        ({"origin": "http://testserver", "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://testserver", "sec-fetch-site": "same-site"}, 403),
    ],
)
def test_another_sites_page_cannot_reload(
    client: TestClient, daemon: StubActions, headers: dict[str, str], status_code: int
) -> None:
    """A browser on another site can't make the exporter reload; a tool can."""
    assert client.post("/-/reload", headers=headers).status_code == status_code
    assert daemon.calls == ([("reload",)] if status_code == 200 else [])


@pytest.mark.parametrize(
    ("method", "path", "status_code", "message"),
    [
        ("GET", "/-/reload", 405, "This path answers only POST."),
        ("POST", "/metrics", 405, "This path answers only GET and HEAD."),
        ("GET", "/nothing", 404, "There is nothing at this path. Try / for people, /metrics for Prometheus."),
        ("GET", "/static/../app.py", 404, None),
        ("GET", "/static/status.html", 404, None),
        ("GET", "/api/v1/probes?target=nobody", 404, "this is not a target; /api/v1/targets lists them"),
        ("GET", "/api/v1/probes", 400, "the parameter target is missing: /api/v1/probes?target=…"),
        ("GET", "/api/v2", 404, "There is nothing at this path. Try / for people, /metrics for Prometheus."),
    ],
)
def test_errors_say_what_is_wrong(
    client: TestClient, method: str, path: str, status_code: int, message: str | None
) -> None:
    """An error is a line of text for people, and JSON under /api."""
    answer = client.request(method, path)
    assert answer.status_code == status_code
    said = answer.json()["error"] if path.startswith("/api/") else answer.text.strip()
    assert message is None or said == message
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/targets", "/-/healthy"])
def test_a_failure_inside_is_a_500_without_details(path: str) -> None:
    """A failure inside the exporter is in the log and not in the answer."""

    class Broken(StubActions):
        def healthy(self) -> tuple[bool, str]:
            raise RuntimeError("secret")

    class Lost(Snapshot):
        def view(self) -> Any:
            raise RuntimeError("secret")

    client = TestClient(build_app(Lost(), Exposition().render, Broken()), raise_server_exceptions=False)
    answer = client.get(path)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "its log has the reason" in answer.text


def test_static_files(client: TestClient) -> None:
    """Style, script and icon come from here, with their types, and are not sent again unchanged."""
    for name, kind in (("status.css", "text/css"), ("status.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        again = client.get(f"/static/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_json_never_holds_what_json_cannot(daemon: StubActions) -> None:
    """A value that isn't finite is null in the API, whatever a probe measured."""
    snapshot = Snapshot()
    snapshot.publish(plan_key("a", "default"), Plan(float("nan")))
    client = TestClient(build_app(snapshot, Exposition().render, daemon))
    text = client.get("/api/v1/status").text
    probe_status = json.loads(text, parse_constant=pytest.fail)["targets"][0]["probes"][0]
    assert probe_status["interval_seconds"] is None


def test_changes_are_asked_for_by_time_and_target(client: TestClient, daemon: StubActions) -> None:
    """A duration counts back from now, a number is a Unix time; the answer has what changed, before and after."""
    difference = Difference("image", "A", "B")
    daemon.entries = (Entry("vllm", NOW - 60, (difference,), ()), Entry("other", NOW - 90, (), ()))
    answer = client.get("/api/v1/changes", params={"target": "vllm", "since": "2h"}).json()
    (change,) = answer["changes"]
    assert change["differences"] == [{"what": "image", "before": "A", "after": "B"}]
    assert change["timestamp_seconds"] == NOW - 60
    assert len(client.get("/api/v1/changes", params={"since": "100"}).json()["changes"]) == 2
    assert daemon.calls == [("changes", f"{NOW - 7200:.0f}", "vllm"), ("changes", "100", "")]
    assert client.get("/api/v1/changes", params={"since": "soon"}).status_code == 400
    assert client.get("/api/v1/changes", params={"target": "nobody"}).status_code == 404


def test_a_speed_is_accepted_by_post_alone(client: TestClient, daemon: StubActions) -> None:
    """Of one target or of all; not by a page of another site."""
    assert client.get("/api/v1/changes/accept").status_code == 405
    assert client.post("/api/v1/changes/accept", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/api/v1/changes/accept?target=nobody").status_code == 404
    assert daemon.calls == []
    assert client.post("/api/v1/changes/accept?target=vllm").json() == {"accepted": ["vllm"]}
    assert client.post("/api/v1/changes/accept").json() == {"accepted": ["all"]}


def test_a_badge_is_a_picture_for_other_pages(client: TestClient) -> None:
    """Another site may show it, and asks again each time; what is no target is a 404."""
    answer = client.get("/badge/vllm.svg")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "6.4 tok/s · poor" in answer.text
    assert client.get("/").headers["cross-origin-resource-policy"] == "same-origin"
    for path in ("/badge/nobody.svg", "/badge/vllm", "/badge/vllm.png"):
        assert client.get(path).status_code == 404
