"""Hostile and broken servers, over real sockets: what a probe says of each, and what is exported then.

Every row of the table is a server. Its target was measured well before. Then it is probed once by the daemon's own steps, and
the exposition is read: the result, every metric that is there, and by that every one that is not. The rows of ``FLOODS`` are
for a daemon in a process of its own, whose memory is watched.
"""

import gc
import gzip
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.daemon import Daemon
from exporter.probe.http import stamped_socket
from exporter.probe.prober import Prober
from exporter.probe.result import RESULTS, SKIPPED, Result
from exporter.probe.status import identify
from exporter.settings import Module, Target
from tests.daemon_settings import PROBES_ONLY, settings_of
from tests.ports import free_port
from tests.real.daemon import forked_daemon, scrape, value
from tests.samples import Samples
from tests.servers.certificates import make_certificate
from tests.servers.exact import (
    WORDS,
    ExactServer,
    ScriptedAnswer,
    chat,
    event,
    head,
    piece,
    plain,
    stream_head,
    streamed,
)
from tests.servers.hostile import RawServer
from tests.waiting import eventually

TIMEOUTS = {"connect": "2s", "first_token": "1s", "stalled": "1s", "total": "4s"}
TOTAL = 4.0
MODULE = {"interval": "1h", "max_tokens": 16, "timeouts": TIMEOUTS}
CHAT = "/v1/chat/completions"
ENDLESS = 1000
TOKENS = 16


def listing(model: str = "exact") -> ScriptedAnswer:
    """The models of an OpenAI server."""
    return plain({"object": "list", "data": [{"id": model, "object": "model", "owned_by": "test"}]})


def text(words: str = " word") -> bytes:
    """A chunk with text."""
    return event({"choices": [{"delta": {"content": words}, "finish_reason": None}]})


def varied(chunk: bytes, number: int) -> bytes:
    """A chunk with another word, so that many of them are an answer."""
    return chunk.replace(b" word", WORDS[number % len(WORDS)].encode())


def usage(prompt: Any, output: Any) -> bytes:
    """The counts at the end."""
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}})


ROLE = event({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
FINISH = event({"choices": [{"delta": {}, "finish_reason": "length"}]})
DONE = event("[DONE]")

# What a server says -------------------------------------------------------------------------------------------------

Server = AbstractContextManager[Any]
"""Something with a ``url`` while it runs."""


def asked(answer: ScriptedAnswer) -> Callable[[Path], Server]:
    """A server that is well until it is asked to generate."""
    return lambda _: ExactServer({"/v1/models": listing(), CHAT: answer})


def everywhere(answer: ScriptedAnswer) -> Callable[[Path], Server]:
    """A server that answers so at every path."""
    return lambda _: ExactServer(dict.fromkeys(("/v1/models", "/health", CHAT), answer))


def said(*events: bytes, **how: Any) -> Callable[[Path], Server]:
    """A server whose stream has these events, all at once."""
    return asked(streamed([(0.0, each) for each in events], **how))


def paced(*ends: bytes, first: bytes = text(), rest: bytes | None = None, **how: Any) -> Callable[[Path], Server]:
    """A server that sends 16 chunks of text at 50 a second, then the end."""
    chunks = [(0.05 + n / 50, varied(first if n == 0 or rest is None else rest, n)) for n in range(TOKENS)]
    answer = streamed([*chunks, *((chunks[-1][0], end) for end in ends)], texts=range(TOKENS), **how)
    return asked(answer)


@contextmanager
def nobody(_: Path) -> Iterator[SimpleNamespace]:
    """A port at which nothing listens."""
    yield SimpleNamespace(url=f"http://127.0.0.1:{free_port()}")


@contextmanager
def unknown_name(_: Path) -> Iterator[SimpleNamespace]:
    """A name that does not exist, by RFC 6761."""
    yield SimpleNamespace(url="http://no-such-host.invalid:8000")


@contextmanager
def deaf(_: Path) -> Iterator[SimpleNamespace]:
    """The kernel takes the connection, and the server never looks at it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield SimpleNamespace(url=f"http://127.0.0.1:{listener.getsockname()[1]}")


def tls_to_plain(_: Path) -> Server:
    """What a plain server says to a TLS greeting."""
    return RawServer(lambda _: [b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"], scheme="https")


def plain_to_tls(_: Path) -> Server:
    """What a TLS server says to a plain request: the alert that this is no greeting."""
    return RawServer(lambda _: [b"\x15\x03\x01\x00\x02\x02\x0a"])


def certified(trusted: str = "its own", **certificate: str) -> Callable[[Path], Server]:
    """A good server behind a certificate; the target's CA is it, or the usual ones."""

    @contextmanager
    def serve(folder: Path) -> Iterator[SimpleNamespace]:
        made = make_certificate(folder / "c", **certificate)
        with ExactServer({"/v1/models": listing(), CHAT: chat()}, certificate=made) as server:
            tls = {"ca_file": str(made[0])} if trusted == "its own" else {}
            yield SimpleNamespace(url=server.url, tls=tls)

    return serve


@contextmanager
def redirecting(folder: Path) -> Iterator[SimpleNamespace]:
    """A server that points to another, which would be glad of the key."""
    key = folder / "key"
    key.parent.mkdir(parents=True, exist_ok=True)
    key.write_text("open-sesame\n")
    with ExactServer({"/v1/models": listing(), CHAT: chat()}) as other:
        moved = plain(status=307, headers=[("location", other.url + CHAT)])
        with ExactServer({"/v1/models": listing(), CHAT: moved}) as server:
            yield SimpleNamespace(url=server.url, api_key_file=str(key), played=server.played, other=other)


def dripping(_: Path) -> Server:
    """Every read is answered in time for itself; there are several before a probe."""
    return ExactServer(
        {path: plain({}, status=404, at=0.6 * TOTAL) for path in ("/v1/models", "/api/version", "/health", "/version")}
    )


# The table -----------------------------------------------------------------------------------------------------------

# What a failed probe leaves of its target: that it failed, when, how often, what it cost, what is configured, and the
# histograms and counters of before.
ALWAYS = set(
    "probe_success probe_phase_seconds probe_cold_start probe_concurrency probe_interval_seconds"
    " probe_last_run_timestamp_seconds probe_last_success_timestamp_seconds probes_total probe_consumed_tokens_total"
    " probe_busy_seconds_total probe_queued probe_time_to_first_token_seconds probe_inter_token_seconds target_info target_up"
    " target_loading performance_tier_threshold_tokens_per_second".split()
)
MEASURED = set(
    "probe_tokens probe_token_count_exact probe_end_to_end_tokens_per_second probe_ttft_seconds"
    " probe_time_to_first_answer_seconds probe_clock_error_seconds probe_stream_buffered".split()
)
SPEED = {"probe_tokens_per_second", "performance_tier", "limit_info"}
ESTIMATE = {"probe_tokens_per_second"}
"""A speed whose tokens were estimated, which has no tier."""
BY_COUNT = {"probe_tokens", "probe_token_count_exact"}
"""What is known of a failed probe too: the tokens that it cost."""
NO_REQUEST = "queue"
UNANSWERED = "connect queue resolve"
ANSWERED = "connect queue resolve total"
STREAMED = "connect decode first_token queue resolve total"


@dataclass(frozen=True, slots=True)
class FaultRow:
    """A server, and what is to be said of it: the result, a part of the message, and the metrics beside ``ALWAYS``."""

    serve: Callable[[Path], Server]
    result: Result
    says: str = ""
    has: set[str] = field(default_factory=set)
    phases: str = ANSWERED
    up: int = 1
    backend: str = "openai"
    values: dict[str, float] = field(default_factory=dict)
    """Of ``probe_tokens`` by kind, and of the metrics without labels of their own."""


def fails(serve: Callable[[Path], Server], result: Result, says: str, **more: Any) -> FaultRow:
    """A row of a server that was asked, and answered with something else than a stream."""
    return FaultRow(serve, result, says, **more)


def waits(serve: Callable[[Path], Server]) -> FaultRow:
    """A row of a server that answers its reads, can't say whether it is busy, and sends no token: what was known stays."""
    return FaultRow(serve, "skipped_busy", "it is busy with others", MEASURED | SPEED | PREFILL, STREAMED)


def breaks(serve: Callable[[Path], Server], result: Result, says: str, **more: Any) -> FaultRow:
    """A row of a stream that began, and did not come to its end: its tokens are known, its speed is not."""
    return FaultRow(serve, result, says, BY_COUNT, STREAMED, **more)


def unreached(serve: Callable[[Path], Server], result: Result, says: str, **more: Any) -> FaultRow:
    """A row of a server that was not there: no request was sent."""
    return FaultRow(serve, result, says, set(), NO_REQUEST, 0, **more)


def well(serve: Callable[[Path], Server], has: set[str] = SPEED, **more: Any) -> FaultRow:
    """A row of a server that is odd, and can be measured all the same."""
    return FaultRow(serve, "ok", "", MEASURED | has, STREAMED, **more)


PREFILL = {"probe_prefill_tokens_per_second"}
END = (FINISH, usage(20, TOKENS), DONE)

ROWS: dict[str, FaultRow] = {
    # No server
    "refused": unreached(nobody, "connect", "refused: nothing listens"),
    "unresolvable": unreached(unknown_name, "resolve", "the host name is not known"),
    "silent after connect": unreached(deaf, "timeout_total", "no whole answer"),
    "silent when asked": waits(asked(ScriptedAnswer((), "hang"))),
    "every read drips": unreached(dripping, "timeout_total", "no whole answer", backend="auto"),
    "closes at once": unreached(everywhere(ScriptedAnswer((), "close")), "connect", "closed without an answer"),
    "a list of models that is too long": unreached(
        everywhere(plain(b"x" * 3_000_000)), "protocol", "/v1/models answered with more than 2097152 bytes"
    ),
    "not HTTP": unreached(everywhere(ScriptedAnswer(((0, b"SSH-2.0-OpenSSH_9\r\n"),), "close")), "protocol", ""),
    # TLS
    "TLS to a plain port": unreached(tls_to_plain, "tls", "begin its url with http://"),
    "plain to a TLS port": unreached(plain_to_tls, "protocol", "begin its url with https://"),
    "expired certificate": unreached(certified(ends="20200102000000Z"), "tls", "certificate has expired"),
    "self-signed certificate": unreached(certified("nobody's"), "tls", "self-signed certificate"),
    "certificate of another name": unreached(certified(names="DNS:other.example"), "tls", "not valid for '127.0.0.1'"),
    # Refusals
    "301": fails(
        asked(plain(status=301, headers=[("location", "http://e.example/")])), "protocol", "http://e.example/"
    ),
    "redirect to another host": fails(redirecting, "protocol", "Redirects are not followed"),
    "400": fails(asked(plain({"error": {"message": "bad"}}, status=400)), "http_4xx", "answered 400: bad"),
    "401": fails(asked(plain({"error": "no key"}, status=401)), "auth", "answered 401: no key"),
    "401 everywhere": FaultRow(
        everywhere(plain({"error": "no key"}, status=401)), "auth", "the server requires an API key", phases=NO_REQUEST
    ),
    "403": fails(asked(plain(status=403)), "auth", "answered 403"),
    "404": fails(asked(plain(status=404)), "http_4xx", "answered 404"),
    "404 of a model": fails(asked(plain({"error": {"message": "model m not found"}}, status=404)), "no_model", "m not"),
    "404 everywhere": fails(everywhere(plain(status=404)), "http_4xx", "answered 404"),
    "422": fails(
        asked(plain({"detail": [{"loc": ["body"], "msg": "Extra"}]}, status=422)), "http_4xx", "Extra at body"
    ),
    "429": fails(asked(plain(status=429, headers=[("retry-after", "9")])), "rate_limited", "answered 429"),
    "500": fails(asked(plain("boom", status=500, content_type="text/plain")), "http_5xx", "answered 500: boom"),
    "500 everywhere": unreached(everywhere(plain(status=500)), "http_5xx", "answered 500"),
    "502 with HTML": fails(
        asked(plain("<h1>Bad Gateway</h1>", status=502, content_type="text/html")), "http_5xx", "502: Bad Gateway"
    ),
    "503 while loading": fails(
        asked(plain({"error": {"message": "Loading model"}}, status=503)), "loading", "Loading model"
    ),
    "503 while loading, everywhere": FaultRow(
        everywhere(plain({"error": {"message": "Loading model"}}, status=503)),
        "loading",
        "Loading model",
        phases=NO_REQUEST,
        values={"target_loading": 1},
    ),
    "HTML with 200": fails(
        asked(plain("<p>Welcome</p>", content_type="text/html")), "protocol", "a web page (Welcome)"
    ),
    "JSON with 200": fails(asked(plain({"choices": []})), "protocol", "not with a stream"),
    "error with 200": fails(asked(plain({"error": {"message": "no memory"}})), "server_error", "no memory"),
    # Streams without text
    "empty stream": fails(said(), "empty", "without any text"),
    "only role chunks": fails(said(ROLE, ROLE, FINISH, DONE), "empty", "without any text"),
    "counts and no text": fails(
        said(ROLE, FINISH, usage(20, 9), DONE),
        "empty",
        "the server counted 9 tokens",
        has={"probe_tokens"},
        values={"prompt": 20, "output": 9},
    ),
    "comments for ever": waits(asked(streamed([(n / 100, b": ping\n\n") for n in range(ENDLESS)]))),
    "role chunks for ever": waits(asked(streamed([(n / 100, ROLE) for n in range(ENDLESS)]))),
    # Streams that break off
    "reset": breaks(paced(whole=False, end="reset"), "truncated", "in the middle of the stream"),
    "close": breaks(paced(whole=False, end="close"), "truncated", "in the middle of the stream"),
    "a clean end without finish_reason": breaks(paced(), "truncated", "without a mark of its end"),
    "silence after the first token": breaks(
        asked(streamed([(0, text())], whole=False, end="hang")), "timeout_stalled", "no further token for 1 s"
    ),
    "comments after the first token": breaks(
        asked(streamed([(0, text()), *((n / 100, b": ping\n\n") for n in range(ENDLESS))])), "timeout_stalled", "1 s"
    ),
    "tokens for ever": breaks(
        asked(streamed([(n / 50, varied(text(), n)) for n in range(ENDLESS)])),
        "timeout_total",
        "the request has run for",
    ),
    "an error inside the stream": breaks(paced(event({"error": {"message": "GPU\nhang"}})), "server_error", "GPU hang"),
    "bad JSON": breaks(paced(b"data: {nonsense\n\n"), "protocol", "is not of this API"),
    "bad UTF-8": breaks(paced(b'data: {\xff\xfe"choices": []}\n\n'), "protocol", "is not of this API"),
    "NUL bytes": breaks(paced(b"data: \x00\x00\n\n"), "protocol", "is not of this API"),
    "deep JSON": breaks(paced(b"data: " + b"[" * 100_000 + b"\n\n"), "protocol", "is not of this API"),
    "a number without end": breaks(paced(b"data: " + b"9" * 100_000 + b"\n\n"), "protocol", "is not of this API"),
    "bad chunk framing": fails(
        asked(ScriptedAnswer(((0, stream_head() + b"zz\r\n"),), "close")), "protocol", "not HTTP"
    ),
    # Usage that can't be true: the chunks are counted instead
    "usage absent": well(paced(FINISH, DONE), ESTIMATE, values={"output": TOKENS, "probe_token_count_exact": 0}),
    "usage negative": well(
        paced(FINISH, usage(-5, -16), DONE), ESTIMATE, values={"output": TOKENS, "probe_token_count_exact": 0}
    ),
    "usage absurd": well(
        paced(FINISH, usage(10**30, 10**9), DONE), ESTIMATE, values={"output": TOKENS, "probe_token_count_exact": 0}
    ),
    "usage of no number": well(
        paced(FINISH, usage("many", [1]), DONE), ESTIMATE, values={"output": TOKENS, "probe_token_count_exact": 0}
    ),
    "usage that contradicts the text": well(
        paced(FINISH, usage(20, 1000), DONE),
        ESTIMATE | PREFILL,
        values={"prompt": 20, "output": TOKENS, "probe_token_count_exact": 0},
    ),
    # Odd, and right
    "one byte per packet": well(
        asked(
            streamed(
                [
                    (0.05 + n / 50, bytes([byte]))
                    for n, chunk in enumerate([*(varied(text(), n) for n in range(TOKENS)), b"".join(END)])
                    for byte in chunk
                ]
            )
        ),
        SPEED | PREFILL,
        values={"output": TOKENS, "probe_token_count_exact": 1},
    ),
    "CRLF": well(
        paced(*(each.replace(b"\n", b"\r\n") for each in END), first=text().replace(b"\n", b"\r\n")),
        SPEED | PREFILL,
        values={"output": TOKENS},
    ),
    "U+2028 in the text": well(
        paced(*END, first=text().replace(b" word", " word a\u2028b\u2029c\x85d".encode())),
        SPEED | PREFILL,
        values={"output": TOKENS, "probe_token_count_exact": 1},
    ),
    "a model name with quotes, line ends and 100 kB": well(
        lambda _: ExactServer({"/v1/models": listing('a"b\nc\ud800' + "e" * 100_000), CHAT: chat(tokens=TOKENS)}),
        # It had another model before.
        SPEED | PREFILL | {"last_change_timestamp_seconds", "last_change_info"},
        values={"output": TOKENS},
    ),
}


def exposition(daemon: Daemon) -> Samples:
    """What a scrape would give."""
    body = daemon._exposition.render(daemon.snapshot.view()).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


@dataclass(frozen=True, slots=True)
class HostileOutcome:
    """What the table gave: samples before and after, errors and seconds by row, what was left for the garbage collector by
    type, and the servers with what they were asked.
    """

    before: Samples
    after: Samples
    errors: dict[str, str]
    seconds: dict[str, float]
    left: Counter[str]
    servers: dict[str, Any]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileOutcome]:
    """Every row at once, since most of them wait."""
    folder = tmp_path_factory.mktemp("hostile")
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(row.serve(folder / str(number)))
            for number, (name, row) in enumerate(ROWS.items())
        }
        good = stack.enter_context(
            ExactServer({"/v1/models": listing(), CHAT: chat(tokens=TOKENS, tokens_per_second=50)}, own_process=True)
        )
        targets = [
            Target.model_validate(
                {"name": name, "url": server.url, "backend": ROWS[name].backend}
                | {key: getattr(server, key) for key in ("tls", "api_key_file") if hasattr(server, key)}
            )
            for name, server in servers.items()
        ]
        daemon = Daemon(lambda: settings_of(folder, targets, port=1, modules={"default": MODULE}))
        daemon._apply(daemon._settings, daemon._profiles)
        well = Prober(Target(name="well", url=good.url, backend="openai")).probe("default", Module(max_tokens=TOKENS))
        assert well is not None
        assert well.result == "ok"
        for name in ROWS:
            daemon._targets.publish(replace(well, target=name))
        before, seconds = exposition(daemon), dict[str, float]()

        def run(name: str) -> None:
            start = time.monotonic()
            daemon._targets.probe(name, "default")
            seconds[name] = time.monotonic() - start

        # Those that wait first, and no more at once than leave each other time.
        waiting = sorted(ROWS, key=lambda name: not ROWS[name].result.startswith("timeout"))
        with ThreadPoolExecutor(16) as pool, what_is_left() as left:
            list(pool.map(run, waiting))
        records = daemon.snapshot.view().records
        errors = {name: last.error for name in ROWS if (last := records[name, "default"].last)}
        yield HostileOutcome(before, exposition(daemon), errors, seconds, left, servers)
        daemon.drain()


@contextmanager
def what_is_left() -> Iterator[Counter[str]]:
    """Objects of the exporter and of its HTTP client that only a garbage collection finds after the block, by type."""
    left = Counter[str]()
    gc.collect()
    gc.disable()
    try:
        yield left
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = (type(each) for each in gc.garbage)
        rooms = ("exporter.", "httpx", "httpcore", "h11")
        left.update(f"{kind.__module__}.{kind.__name__}" for kind in kinds if kind.__module__.startswith(rooms))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def names_of(samples: Samples, target: str) -> set[str]:
    """The metrics of a target without ``llm_`` and a histogram's endings."""
    names = {name for name, labels in samples if ("target", target) in labels}
    for end in ("_bucket", "_sum", "_count"):
        names = {name.removesuffix(end) for name in names}
    return {name.removeprefix("llm_") for name in names}


@pytest.mark.parametrize("name", ROWS)
def test_what_is_said_of_a_server(name: str, outcome: HostileOutcome) -> None:
    """The result and its reason, exactly which metrics are there, and an end by the module's timeouts."""
    row, samples = ROWS[name], outcome.after
    counts = {result: value(samples, "llm_probes_total", target=name, result=result) for result in RESULTS}
    counted = {result for result, count in counts.items() if count} - {"ok"}
    assert (counted or {"ok"}, row.says in outcome.errors[name]) == ({row.result}, True), outcome.errors[name]
    assert counts["ok"] == (2 if row.result == "ok" else 1)
    assert value(samples, "llm_probe_success", target=name) == (row.result == "ok" or row.result in SKIPPED)
    assert value(samples, "llm_target_up", target=name) == row.up
    assert names_of(samples, name) == ALWAYS | row.has
    phases = {
        dict(labels)["phase"]
        for of, labels in samples
        if of == "llm_probe_phase_seconds" and ("target", name) in labels
    }
    assert phases == set(row.phases.split())
    for of, expected in row.values.items():
        kind = {"kind": of} if of in {"prompt", "output"} else {}
        found = value(samples, "llm_probe_tokens" if kind else f"llm_{of}", target=name, **kind)
        assert found == expected, of
    assert outcome.errors[name].isprintable()
    assert outcome.seconds[name] < TOTAL + 1


def test_no_failed_probe_leaves_a_figure_behind(outcome: HostileOutcome) -> None:
    """Each target had a speed, a TTFT and a tier before; after a failure it has none of them, after a good or skipped probe all."""
    measured = SPEED | MEASURED | PREFILL
    assert all(measured <= names_of(outcome.before, name) for name in ROWS)
    left = {name: names_of(outcome.after, name) & (measured - BY_COUNT) for name in ROWS}
    assert {name for name, figures in left.items() if figures} == {
        name for name, row in ROWS.items() if row.result == "ok" or row.result in SKIPPED
    }


def test_no_probe_leaves_anything_to_the_garbage_collector(outcome: HostileOutcome) -> None:
    """What a probe used goes when it is over, however it ended: else memory rises until a collection, which stops all else."""
    assert outcome.left == {}


def test_to_ask_who_is_there_leaves_nothing_either() -> None:
    """Discovery asks at every port where nothing listens, once a minute."""
    with what_is_left() as left:
        found = identify(f"http://127.0.0.1:{free_port()}")
    assert (found.listening, left) == (False, {})


def test_nothing_is_sent_to_where_a_redirect_points(outcome: HostileOutcome) -> None:
    """The server that was asked got the key; the other one got no connection, and so no key."""
    server = outcome.servers["redirect to another host"]
    assert [one.headers["authorization"] for one in server.played() if one.method == "POST"] == ["Bearer open-sesame"]
    assert server.other.played() == []
    assert not any("sesame" in error for error in outcome.errors.values())


def test_a_strange_model_name_becomes_a_label_that_can_be_read(outcome: HostileOutcome) -> None:
    """Quotes stay, control characters and half characters go; 128 characters are left, the last of them a digest."""
    name = "a model name with quotes, line ends and 100 kB"
    models = {dict(labels).get("model") for _, labels in outcome.after if ("target", name) in labels} - {None, "exact"}
    (model,) = models
    assert model is not None
    assert model.startswith('a"bc' + "e" * 100)
    assert (len(model), model[-9]) == (128, "…")


def test_a_server_that_asks_for_time_gets_it() -> None:
    """After 429 with Retry-After no module of the target is due until then."""
    now = [1000.0]
    busy = plain(status=429, headers=[("retry-after", "90")])
    with ExactServer({"/v1/models": listing(), CHAT: busy}) as server:
        prober = Prober(Target(name="t", url=server.url, backend="openai"), monotonic=lambda: now[0])
        module = Module(interval=10, max_tokens=TOKENS)
        result = prober.probe("default", module)
        due = []
        for later in (80.0, 100.0):
            now[0] = 1000.0 + later
            due.append(prober.due("default", module))
    assert result is not None
    assert (result.result, due) == ("rate_limited", [False, True])


def test_a_new_model_name_in_every_answer_does_not_grow_the_exposition(tmp_path: Path) -> None:
    """Of twenty names eight are shown, and the newest is among them."""
    answers = [chat(tokens=TOKENS, tokens_per_second=400, ttft=0, model=f"m{number}") for number in range(20)]
    listings = [listing(f"m{number}") for number in range(20)]
    with ExactServer({"/v1/models": listings, CHAT: answers}) as server:
        daemon = Daemon(
            lambda: settings_of(
                tmp_path, [Target(name="t", url=server.url, backend="openai")], port=1, modules={"default": MODULE}
            )
        )
        daemon._apply(daemon._settings, daemon._profiles)
        prober = daemon._targets._watched["t"].prober
        shown = []
        for _ in range(20):
            result = prober.probe("default", Module(max_tokens=TOKENS))
            assert result is not None
            daemon._targets.publish(result)
            models = {dict(labels).get("model") for name, labels in exposition(daemon) if name != "llm_target_info"}
            shown.append(models - {None})
        daemon.drain()
    assert shown == [{f"m{each}" for each in range(max(number - 7, 0), number + 1)} for number in range(20)]


@pytest.mark.skipif(not hasattr(socket, "SO_TIMESTAMP") and not Path("/proc").is_dir(), reason="stamps are Linux's")
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_steps_by_an_hour_during_a_probe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hours: int
) -> None:
    """Speed, TTFT and every phase are what the server did, whatever the wall clock did meanwhile."""
    true_wall, true_stamp = time.time_ns, stamped_socket._kernel_stamp
    step = hours * 3_600_000_000_000
    answer = chat(tokens=40, tokens_per_second=100, ttft=0.1)
    with ExactServer({"/v1/models": listing(), CHAT: answer}, own_process=True) as server:
        daemon = Daemon(
            lambda: settings_of(
                tmp_path, [Target(name="t", url=server.url, backend="openai")], port=1, modules={"default": MODULE}
            )
        )
        daemon._apply(daemon._settings, daemon._profiles)
        step_at = true_wall() + 300_000_000

        def stepped(wall_ns: int) -> int:
            return wall_ns + step if wall_ns >= step_at else wall_ns

        def stamp(ancillary: list[tuple[int, int, bytes]]) -> int | None:
            at = true_stamp(ancillary)
            return None if at is None else stepped(at)

        monkeypatch.setattr(time, "time_ns", lambda: stepped(true_wall()))
        monkeypatch.setattr(time, "time", lambda: stepped(true_wall()) / 1e9)
        monkeypatch.setattr(stamped_socket, "_kernel_stamp", stamp)
        daemon._targets.probe("t", "default")
        monkeypatch.undo()
        played, samples = server.played()[-1], exposition(daemon)
        daemon.drain()
    assert true_wall() > step_at
    truth = 39 / ((played.texts[-1][0] - played.texts[0][0]) / 1e9)
    assert value(samples, "llm_probe_tokens_per_second", target="t") == pytest.approx(truth, rel=0.05)
    ttft = (played.texts[0][0] - played.arrived_ns) / 1e9
    assert value(samples, "llm_probe_ttft_seconds", target="t") == pytest.approx(ttft, abs=0.05)
    phases = [seconds for (name, _), seconds in samples.items() if name == "llm_probe_phase_seconds"]
    assert all(0 <= seconds < 10 for seconds in phases)


# Floods --------------------------------------------------------------------------------------------------------------


def flood(pieces: Callable[[], Iterable[bytes]], path: bytes = b"POST") -> RawServer:
    """A server that lists one model, and sends these pieces to who asks for a path (or generates)."""
    models = json.dumps({"data": [{"id": "exact", "owned_by": "test"}]}).encode()
    kind = ("content-type", "application/json")
    well = head(200, [kind, ("content-length", str(len(models))), ("connection", "close")]) + models

    def say(request: bytes) -> Iterable[bytes]:
        return pieces() if path in request.split(b"\r\n", 1)[0] else [well]

    return RawServer(say)


def streaming(data: bytes, times: int) -> Callable[[], Iterator[bytes]]:
    """An SSE stream of the same chunk again and again."""

    def pieces() -> Iterator[bytes]:
        yield stream_head()
        for _ in range(times):
            yield piece(data)

    return pieces


def whole(body: bytes, times: int, *headers: tuple[str, str]) -> Callable[[], Iterator[bytes]]:
    """An answer without a length, of the same bytes again and again."""

    def pieces() -> Iterator[bytes]:
        yield head(200, [("content-type", "application/json"), *headers])
        for _ in range(times):
            yield body

    return pieces


def zeros() -> Iterator[bytes]:
    """A gzip bomb: 1 MB that is 1 GB."""
    yield head(200, [("content-type", "text/event-stream"), ("content-encoding", "gzip")])
    yield gzip.compress(bytes(1 << 20), 9) * 1000


MB = 1 << 20
FLOODS: dict[str, tuple[Callable[[], RawServer], str, set[str]]] = {
    "a line of 200 MB": (
        lambda: flood(streaming(b"x" * MB, 200)),
        "openai",
        {"too_large"},
    ),
    "an event of 200 MB": (lambda: flood(streaming(b"data: xxxxxxxx\n" * 70_000, 200)), "openai", {"too_large"}),
    "10 million tiny events": (
        lambda: flood(streaming(b"data: {}\n\n" * 100_000, 100)),
        "openai",
        {"too_large", "timeout_first_token"},
    ),
    "10 million tiny events with text": (
        lambda: flood(streaming(b"".join(varied(text(), n) for n in range(10_000)), 1000)),
        "openai",
        {"too_large", "timeout_total"},
    ),
    "headers of 1 MB": (
        lambda: flood(lambda: [b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 200_000, b"x: " + b"y" * MB]),
        "openai",
        {"too_large"},
    ),
    "a gzip bomb": (lambda: flood(zeros), "openai", {"too_large"}),
    "an error of 200 MB": (
        lambda: flood(lambda: [head(500), *[b"x" * MB] * 200]),
        "openai",
        {"http_5xx"},
    ),
    "an event of 1 MB of brackets": (
        lambda: flood(streaming(b"data: [" + b"[]," * (MB // 3 - 10) + b"[]]\n\n", 7)),
        "openai",
        {"protocol", "too_large"},
    ),
    "a list of models of brackets": (
        lambda: flood(whole(b'{"data":[' + b"[]," * (MB - 10) + b"[]]}", 1), b"/v1/models"),
        "openai",
        {"protocol"},
    ),
    "a list of 200 MB": (lambda: flood(whole(b"{" * MB, 200), b"GET"), "auto", {"protocol"}),
    "metrics of a million samples": (
        lambda: flood(whole(b"a 1\n" * (MB - 10), 1), b"GET /metrics"),
        "vllm",
        {"protocol"},
    ),
}
LIMIT_MIB = 150


def test_floods_are_bounded_in_memory(tmp_path: Path) -> None:
    """A daemon whose servers all send without end at once never holds more than 150 MB."""
    port = free_port()
    with ExitStack() as stack:
        lines = [
            PROBES_ONLY,
            f"modules: {{default: {{interval: 1s, timeouts: {json.dumps(TIMEOUTS)}}}}}",
            "targets:",
        ]
        for name, (serve, backend, _) in FLOODS.items():
            server = stack.enter_context(serve())
            target = {"name": name, "url": server.url, "backend": backend, "modules": ["default"]}
            lines.append(f"- {json.dumps(target)}")
        config, log = tmp_path / "config.yml", tmp_path / "log"
        config.write_text("\n".join(lines) + "\n")
        with forked_daemon("--config", config, port=port, log=log) as process:

            def counts(name: str) -> dict[str, float]:
                found = {each: value(samples, "llm_probes_total", target=name, result=each) for each in RESULTS}
                return {each: count for each, count in found.items() if count}

            samples = scrape(port)

            def all_ran() -> bool:
                nonlocal samples
                samples = scrape(port)
                return all(counts(name) for name in FLOODS)

            eventually(all_ran, what="every flood was probed")
            status = Path(f"/proc/{process.pid}/status").read_text()
        results = {name: set(counts(name)) for name in FLOODS}
    # Whether a limit or a deadline comes first is a matter of how busy this machine is.
    bounds = {"timeout_first_token", "timeout_total", "skipped_busy"}
    assert {name: found for name, found in results.items() if not found <= FLOODS[name][2] | bounds} == {}
    assert not [name for name, _ in samples if name == "llm_performance_tier"]
    peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < LIMIT_MIB
    assert "Traceback" not in log.read_text()
