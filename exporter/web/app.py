"""The paths that the exporter answers, as one ASGI application.

It reads the snapshot and asks the daemon through ``Actions``; it starts nothing itself. What guards it (TLS, basic auth,
limits) is put around it: ``WebServer(guard(build_app(…)), …)``.

What draws the page, the badges and the documents is imported when the first of them is asked for: a daemon that is only scraped
never needs it.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from exporter.exposition import TEXT, render_probe
from exporter.history.change import Entry
from exporter.history.record import Plan, Point
from exporter.probe.result import ProbeResult
from exporter.settings import MAX_ADDRESS, MAX_KEEP_SECONDS, parse_duration
from exporter.snapshot import Snapshot, View, info_key, plan_key, probe_key
from exporter.text import escaped, finite, printable
from exporter.web.negotiate import accepts_gzip, choose_format, compress
from exporter.web.server import AsgiApp, Message
from exporter.web.threads import in_thread

log = logging.getLogger(__name__)

PROBES_AT_ONCE: Final = 8
"""Calls of ``/probe`` that wait for a probe; more get a 503, so that they never take the threads that scrapes need."""

MOST_ASKED: Final = 500
"""Characters of what a reader searches for."""

_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_STATIC: Final = {"status.css": "text/css", "status.js": "text/javascript", "icon.svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Refused:
    """A probe that ``/probe`` may not start, and why."""

    message: str


class Actions(Protocol):
    """What the daemon does when a client asks for it; each may be called from any thread."""

    def reload(self) -> tuple[str, ...]:
        """Validate, then swap the configuration; what is wrong with it, nothing when it is used now."""

    def probe(self, target: str, module: str) -> ProbeResult | Refused:
        """One probe of an allowed address that isn't configured, shared by all that ask; may take as long as a probe."""

    def changes(self, since: float, target: str | None) -> tuple[Entry, ...]:
        """What changed since a time (Unix), of one target or of all, newest first; may read a file."""

    def points(self, target: str, module: str, since: float, until: float) -> tuple[Point, ...]:
        """The speeds of a module between two times (Unix), oldest first; may read a file."""

    def accept(self, target: str | None) -> tuple[str, ...]:
        """Take the speeds of now for the usual ones, of one target or of all; the names of those."""

    def healthy(self) -> tuple[bool, str]:
        """Whether the scheduler runs, in words too; at once."""

    def ready(self) -> tuple[bool, str]:
        """Whether every target ran or was skipped once, in words too; at once."""


def build_app(
    snapshot: Snapshot,
    render: Callable[[View, str], bytes],
    actions: Actions,
    *,
    links: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.time,
) -> AsgiApp:
    """The application. ``render`` writes a view in a content type (``Exposition.render``), ``links`` are shown on the page.

    Blocking work runs in threads of its own, so a slow client or a long probe holds up nobody else.
    """
    site = _Site(snapshot, render, actions, links or {}, clock)
    routes = [
        Route("/", site.page),
        Route("/metrics", site.metrics),
        Route("/runbook", _runbook),
        Route("/probe", site.probe),
        Route("/api/v1/status", site.status),
        Route("/api/v1/probes", site.probes),
        Route("/api/v1/targets", site.targets),
        Route("/api/v1/changes", site.changes),
        Route("/api/v1/changes/accept", site.accept, methods=["POST"]),
        Route("/badge/{name:path}", site.badge),
        Route("/-/healthy", site.healthy),
        Route("/-/ready", site.ready),
        Route("/-/reload", site.reload, methods=["POST"]),
        Route("/static/{name}", _static),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refusal, Exception: _failure})
    app.router.redirect_slashes = False  # a redirect would repeat the Host header that came
    return _with_headers(app)


class _Site:
    """The endpoints over one snapshot."""

    def __init__(
        self,
        snapshot: Snapshot,
        render: Callable[[View, str], bytes],
        actions: Actions,
        links: Mapping[str, str],
        clock: Callable[[], float],
    ) -> None:
        self._snapshot = snapshot
        self._render = render
        self._actions = actions
        self._links = links
        self._clock = clock
        self._exposition = _SharedRendering(self._encoded)
        self._probing = 0

    def _encoded(self, content_type: str, *, gzipped: bool) -> bytes:
        body = self._render(self._snapshot.view(), content_type)
        return compress(body) if gzipped else body

    async def metrics(self, request: Request) -> Response:
        content_type = choose_format(request.headers.get("accept", ""))
        gzipped = accepts_gzip(request.headers.get("accept-encoding", ""))
        body = await self._exposition.get(content_type, gzipped=gzipped)
        headers = {"content-type": content_type, "vary": "accept, accept-encoding", "cache-control": "no-store"}
        return Response(body, headers=headers | ({"content-encoding": "gzip"} if gzipped else {}))

    async def probe(self, request: Request) -> Response:
        if _is_cross_site(request):
            raise HTTPException(403, "a page of another site may not ask for a probe")
        target, module = _name(request, "target"), _name(request, "module", "default")
        view = self._snapshot.view()
        record = view.records.get((target, module))
        # Of a configured target the newest result is at hand; only another address may mean a probe.
        result = record.last if record else await self._probed(target, module)
        debug = request.query_params.get("debug") == "true"
        content_type = TEXT if debug else choose_format(request.headers.get("accept", ""))
        if record is None and result is not None:
            body = _render_alone(result, content_type)
        else:
            body = render_probe(view, target, module, content_type)
        if debug:
            said = _log_of(result) if result else "Not probed yet.\n"
            return _text(f"{said}\nMetrics that the probe gives:\n{body.decode()}")
        return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})

    async def _probed(self, target: str, module: str) -> ProbeResult:
        if self._probing >= PROBES_AT_ONCE:
            raise HTTPException(
                503, f"{PROBES_AT_ONCE} probes are running already: try again later", {"retry-after": "5"}
            )
        self._probing += 1
        try:
            outcome = await in_thread(self._actions.probe, target, module)
        finally:
            self._probing -= 1
        if isinstance(outcome, Refused):
            raise HTTPException(400, outcome.message)
        return outcome

    async def page(self, request: Request) -> Response:
        """``board`` gives one large row a server, ``target`` one server, ``q`` and ``verdict`` those that they fit,
        ``range`` how far back the lines of speeds go: one of ``RANGES``.
        """
        given = {name: value[:MOST_ASKED] for name, value in request.query_params.items()}
        html = await in_thread(self._draw_page, given)
        return Response(html, media_type="text/html", headers={"cache-control": "no-store"})

    def _draw_page(self, given: Mapping[str, str]) -> str:
        from exporter.web import page
        from exporter.web.ranges import USUAL, Stretch

        asked = page.PageQuery("board" in given, given.get("target", ""), given.get("q", ""), given.get("verdict", ""))
        stretch = Stretch(given.get("range", USUAL), self._actions.points)
        return page.render_page(self._snapshot.view(), self._clock(), self._links, asked, stretch)

    async def badge(self, request: Request) -> Response:
        """A target as a picture; the name of a target may hold a slash."""
        path: str = request.path_params["name"]
        name, view = path.removesuffix(".svg"), self._snapshot.view()
        modules = sorted(module for target, module in view.records if target == name)
        if not modules or name == path:
            raise HTTPException(
                404, f"{printable(path)} is not the badge of a target; /api/v1/targets lists the targets"
            )
        svg = await in_thread(_draw_badge, view, name, modules, self._clock())
        # A badge is meant for other pages. If a password is set, it is required here, too.
        headers = {"cache-control": "no-store", "cross-origin-resource-policy": "cross-origin"}
        return Response(svg, media_type="image/svg+xml", headers=headers)

    async def status(self, _: Request) -> Response:
        return await in_thread(lambda: _json(_status_json(self._snapshot.view(), self._clock())))

    async def probes(self, request: Request) -> Response:
        recent = await in_thread(_recent_json, self._snapshot.view(), _name(request, "target"))
        if recent is None:
            raise HTTPException(404, "this is not a target; /api/v1/targets lists them")
        return _json(recent)

    async def targets(self, _: Request) -> Response:
        """Prometheus' HTTP service discovery: one group for each module of each target, for a job that scrapes /probe.

        Two modules of a target differ only in ``__param_module``: relabel it to ``module``, with ``honor_labels: true``.
        """
        view = self._snapshot.view()
        return _json([_discovered(view, target, module) for target, module in sorted(view.records)])

    async def changes(self, request: Request) -> Response:
        """``since`` is a Unix time or a duration that lies in the past (``7d``), ``target`` one of those that are configured."""
        since = self._since(request.query_params.get("since", "30d"))
        target = self._target(request)
        return await in_thread(lambda: _json(_changes_json(self._actions.changes(since, target))))

    async def accept(self, request: Request) -> Response:
        if _is_cross_site(request):
            raise HTTPException(403, "a page of another site may not accept a speed")
        accepted = await in_thread(self._actions.accept, self._target(request))
        return _json({"accepted": [printable(each) for each in accepted]})

    def _target(self, request: Request) -> str | None:
        target = request.query_params.get("target")
        if target is not None and target not in self._snapshot.view().targets:
            raise HTTPException(404, "this is not a target; /api/v1/targets lists them")
        return target

    def _since(self, text: str) -> float:
        try:
            number = finite(float(text)) if text.replace(".", "", 1).isdecimal() else None
            return self._clock() - parse_duration(text, MAX_KEEP_SECONDS) if number is None else number
        except ValueError as exc:
            raise HTTPException(400, f"since {exc}, or a Unix time") from None

    async def healthy(self, _: Request) -> Response:
        return _verdict(*self._actions.healthy())

    async def ready(self, _: Request) -> Response:
        return _verdict(*self._actions.ready())

    async def reload(self, request: Request) -> Response:
        if _is_cross_site(request):
            raise HTTPException(403, "a page of another site may not reload this exporter")
        errors = await in_thread(self._actions.reload)
        if errors:
            return _text(
                "The configuration was not reloaded; the previous one stays in use:\n" + "\n".join(errors), 400
            )
        return _text("The configuration was reloaded.")


class _SharedRendering:
    """One rendering at a time for each form; all who ask while it is made get the same bytes, which saves memory too."""

    def __init__(self, work: Callable[..., bytes]) -> None:
        self._work = work
        self._running: dict[tuple[str, bool], asyncio.Task[bytes]] = {}

    async def get(self, content_type: str, *, gzipped: bool) -> bytes:
        form = (content_type, gzipped)
        task = self._running.get(form)
        if task is None:
            task = asyncio.create_task(in_thread(self._work, content_type, gzipped=gzipped))
            self._running[form] = task
            task.add_done_callback(lambda _: self._running.pop(form, None))
        # A client that hangs up must not take the rendering from the others.
        return await asyncio.shield(task)


def _render_alone(result: ProbeResult, content_type: str) -> bytes:
    """A probe of an address that isn't configured, without counters: they would begin at 0 with every call."""
    alone = Snapshot()
    alone.publish(
        plan_key(result.target, result.module), Plan(result.interval_seconds, result.concurrency, bool(result.checks))
    )
    alone.publish(probe_key(result.target, result.module), result)
    return render_probe(alone.view(), result.target, result.module, content_type, totals=False)


def _log_of(result: ProbeResult) -> str:
    lines = [f"Probe of {printable(result.target)} by module {printable(result.module)}: {result.result}"]
    lines += [printable(result.error, 500)] if result.error else []
    return "\n".join([*lines, *(f"  {printable(line, 500)}" for line in result.log), ""])


def _draw_badge(view: View, target: str, modules: list[str], now: float) -> str:
    from exporter.web import status
    from exporter.web.badge import badge_of

    return badge_of(status.target_of(view, target, modules, now))


def _recent_json(view: View, target: str) -> dict[str, Any] | None:
    from exporter.web import documents

    return documents.recent_json(view, target)


def _changes_json(entries: Iterable[Entry]) -> dict[str, Any]:
    from exporter.web import documents

    return documents.changes_json(entries)


def _status_json(view: View, now: float) -> dict[str, Any]:
    from exporter.web import documents

    return documents.status_json(view, now)


def _discovered(view: View, target: str, module: str) -> dict[str, Any]:
    info = view.get(info_key(target))
    labels = {"__meta_llm_probe_target": target, "__param_module": module}
    if info is not None:
        labels |= {"__meta_llm_probe_url": info.url, "__meta_llm_probe_backend": info.backend}
    return {"targets": [target], "labels": {name: printable(text, 500) for name, text in labels.items()}}


def _name(request: Request, parameter: str, default: str = "") -> str:
    value = request.query_params.get(parameter, default)
    if not value:
        raise HTTPException(400, f"the parameter {parameter} is missing: {request.url.path}?{parameter}=…")
    if len(value) > MAX_ADDRESS:
        raise HTTPException(400, f"{parameter} is longer than {MAX_ADDRESS} characters")
    return value


def _is_cross_site(request: Request) -> bool:
    # Browsers send both; what isn't a browser sends neither and can't be tricked by a page.
    headers = request.headers
    site, host = headers.get("sec-fetch-site", "none"), headers.get("host")
    # Over plain http to another address than loopback they leave the first out; then where the page is from may be said here.
    told = [
        headers[name]
        for name in ("origin", "referer")[: 2 if "sec-fetch-site" not in headers else 1]
        if name in headers
    ]
    return site not in ("none", "same-origin") or any(_host_of(each) != host for each in told)


def _host_of(page: str) -> str:
    return page.partition("://")[2].partition("/")[0]


def _json(content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = escaped(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    return Response(
        body, status_code, media_type="application/json", headers={"cache-control": "no-store", **(headers or {})}
    )


def _text(content: str, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(
        escaped(content, keep="\n") + "\n", status_code, headers={"cache-control": "no-store", **(headers or {})}
    )


def _verdict(fine: bool, message: str) -> Response:  # noqa: FBT001 - the pair that Actions answers
    return _text(message, 200 if fine else 503)


def _error(request: Request, status_code: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    if request.url.path.startswith("/api/"):
        return _json({"error": message}, status_code, headers)
    return _text(message, status_code, headers)


async def _refusal(request: Request, refusal: Exception) -> Response:
    if not isinstance(refusal, HTTPException):
        raise refusal
    message = refusal.detail
    if refusal.status_code == 404 and message == "Not Found":
        message = "There is nothing at this path. Try / for people, /metrics for Prometheus."
    if refusal.status_code == 405:
        allowed = " and ".join(sorted((refusal.headers or {}).get("Allow", "").split(", ")))
        message = f"This path answers only {allowed}."
    return _error(request, refusal.status_code, message, refusal.headers)


async def _failure(request: Request, failure: Exception) -> Response:
    log.error("%s failed", printable(request.url.path), exc_info=failure)
    return _error(request, 500, "The exporter failed while it answered this; its log has the reason.")


async def _runbook(_: Request) -> Response:
    """What each alert means: the page to which the alerts link. It is the same for as long as the process runs."""
    html = await in_thread(_draw_runbook)
    return Response(html, media_type="text/html", headers={"cache-control": "no-store"})


def _draw_runbook() -> str:
    from exporter.web.runbook import render_runbook

    return render_runbook()


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _STATIC:
        raise HTTPException(404)
    content = resources.files("exporter.web").joinpath("static", name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"cache-control": "no-cache", "etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_STATIC[name], headers=headers)


def _with_headers(app: AsgiApp) -> AsgiApp:
    """The application with the headers that forbid a browser to load, run or embed anything else."""

    async def guarded(scope: Message, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = list(message.get("headers", ()))
                named = {name for name, _ in own}
                message["headers"] = [*own, *(each for each in _HEADERS if each[0] not in named)]
            await send(message)

        await app(scope, receive, send_with_headers)

    return guarded
