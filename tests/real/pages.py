"""The status page of a made-up machine, served on loopback, and a real Chromium to look at it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from exporter.exposition import Exposition
from exporter.snapshot import Snapshot
from exporter.web.app import build_app
from exporter.web.page import CARDS
from exporter.web.server import WebServer, listen
from tests.real.conftest import need
from tests.scenes import NOW, nine, one, publish_all, publish_many
from tests.states import STATES, publish_sick_machine, publish_states
from tests.web.actions import StubActions

CHROMIUM: Final = "/usr/bin/chromium"
ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
Scene = Callable[[Snapshot], Snapshot]


def _states(begin: int) -> Scene:
    names = list(STATES)[begin : begin + CARDS]
    return lambda snapshot: publish_states(snapshot, names)


SCENES: Final[dict[str, Scene]] = {
    "none": lambda snapshot: snapshot,
    "1": one,
    "9": nine,
    "12": publish_all,
    "200": lambda snapshot: publish_many(snapshot, 200),
    "machine": publish_sick_machine,
    **{f"states-{begin // CARDS + 1}": _states(begin) for begin in range(0, len(STATES), CARDS)},
    "rows": publish_states,
}
"""Pages by name: none to 200 servers, and every state, as cards and as rows."""


@contextmanager
def serving(publish: Scene = publish_all) -> Iterator[tuple[Snapshot, int]]:
    """The page of one scene, on a port of loopback."""
    exposition = Exposition()
    snapshot = publish(Snapshot())
    bound = listen("127.0.0.1", 0)
    server = WebServer(build_app(snapshot, exposition.render, StubActions(), clock=lambda: NOW), bound)
    server.start()
    try:
        yield snapshot, bound.getsockname()[1]
    finally:
        server.stop()


@contextmanager
def browser() -> Iterator[Any]:
    """A real Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing (pip install playwright)")
    need(Path(CHROMIUM).exists(), "chromium (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            yield chromium
        finally:
            chromium.close()
