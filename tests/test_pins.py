"""The parts of libraries that are no public interface of theirs, or that a class of ours stands in for.

The bounds in pyproject.toml keep out versions that these tests have not seen. Before a bound is raised, they must pass with the
new version. Each names what is used, so that its absence is said here and not by a daemon that hangs.
"""

import ast
import asyncio
import inspect
import tomllib
from asyncio import sslproto
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import httpcore
import pytest
import uvicorn
from apscheduler.executors.base import BaseExecutor, MaxInstancesReachedError, run_job
from apscheduler.schedulers.background import BackgroundScheduler
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from exporter.probe.http import tls, transport
from exporter.web import server

ROOT = Path(__file__).parent.parent

OVERRIDDEN: Final[tuple[tuple[type, type, tuple[str, ...]], ...]] = (
    (
        server._Connection,
        H11Protocol,
        (
            "connection_made",
            "connection_lost",
            "data_received",
            "handle_events",
            "on_response_complete",
            "pause_writing",
            "resume_writing",
            "timeout_keep_alive_handler",
        ),
    ),
    (server._Server, uvicorn.Server, ("startup", "shutdown")),
    (transport._Backend, httpcore.NetworkBackend, ("connect_tcp",)),
    (transport._PlainStream, httpcore.NetworkStream, ("read", "write", "start_tls", "close")),
    (tls.TlsStream, httpcore.NetworkStream, ("read", "write", "close")),
)
"""Our class, the library's, and the methods that the library calls on ours."""


def overrides() -> list[tuple[type, type, str]]:
    """One entry for each overridden method."""
    return [(ours, theirs, name) for ours, theirs, names in OVERRIDDEN for name in names]


@pytest.mark.parametrize(("ours", "theirs", "name"), overrides(), ids=lambda each: getattr(each, "__name__", each))
def test_what_is_overridden_is_there_with_the_same_parameters(ours: type, theirs: type, name: str) -> None:
    """A method that a library renamed, or calls with other arguments, would never be called, or fail when it is."""
    library = theirs.__module__.partition(".")[0]
    found = getattr(theirs, name, None)
    assert found is not None, f"{library} {version(library)} has no {theirs.__name__}.{name}, which {ours} overrides"
    expected = list(inspect.signature(found).parameters)
    assert list(inspect.signature(getattr(ours, name)).parameters) == expected


def methods_that_call_super(ours: type) -> set[str]:
    """The names in ``super().name`` anywhere in a class, and of its methods that the class above has too."""
    tree = ast.parse(inspect.getsource(ours))
    called = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "super"
    }
    above = ours.__mro__[1]
    return (called | {name for name in vars(ours) if callable(getattr(above, name, None))}) - {"__init__"}


@pytest.mark.parametrize(("ours", "theirs", "names"), OVERRIDDEN, ids=[each.__name__ for each, *_ in OVERRIDDEN])
def test_the_table_names_all_that_is_overridden(ours: type, theirs: type, names: tuple[str, ...]) -> None:
    """A new override must be added to the table."""
    assert ours.__mro__[1] is theirs
    assert {name for name in methods_that_call_super(ours) if not name.startswith("__")} == set(names)


async def no_app(_scope: object, _receive: object, _send: object) -> None:
    """An ASGI application that is never called."""


@pytest.fixture
def connection() -> Iterator[H11Protocol]:
    """A connection of uvicorn before it is made, on an event loop of its own."""
    loop = asyncio.new_event_loop()
    yield H11Protocol(uvicorn.Config(no_app, ws="none", lifespan="off"), ServerState(), {}, loop)
    loop.close()


@pytest.mark.parametrize(
    "name",
    "app_state conn config connections cycle flow loop scope send_400_response server_state transport"
    " _unset_keepalive_if_required".split(),
)
def test_a_connection_of_uvicorn_has(connection: H11Protocol, name: str) -> None:
    """What exporter/web/server.py reads and calls of H11Protocol."""
    assert hasattr(connection, name), f"uvicorn {version('uvicorn')} has no H11Protocol.{name}"


def test_a_connection_of_uvicorn_has_no_scope_before_a_request(connection: H11Protocol) -> None:
    """So exporter/web/server.py tells a connection without a request from others."""
    scope: object = connection.scope
    assert scope is None


def test_uvicorn_says_who_has_to_act(connection: H11Protocol) -> None:
    """The cycle of a request says whether its answer is complete, and flow control whether the client takes it."""
    cycle = RequestResponseCycle(
        scope=connection.scope,
        conn=connection.conn,
        transport=connection.transport,
        flow=connection.flow,
        logger=connection.logger,
        access_logger=connection.access_logger,
        access_log=False,
        default_headers=[],
        message_event=asyncio.Event(),
        on_response=connection.on_response_complete,
    )
    assert cycle.response_complete is False
    assert FlowControl(connection.transport).write_paused is False


@pytest.mark.parametrize("name", "should_exit force_exit started server_state config".split())
def test_a_server_of_uvicorn_has(name: str) -> None:
    """What exporter/web/server.py reads and sets of uvicorn.Server."""
    made = uvicorn.Server(uvicorn.Config(no_app))
    assert hasattr(made, name), f"uvicorn {version('uvicorn')} has no Server.{name}"
    assert made.server_state.connections == set()


def test_an_executor_of_apscheduler_has_its_hooks() -> None:
    """What exporter/schedule.py overrides and calls of BaseExecutor, run_job, and a job, in the order of their arguments."""
    job = BackgroundScheduler().add_job(print, id="any", max_instances=1)
    assert hasattr(job, "_jobstore_alias"), f"apscheduler {version('apscheduler')} has no Job._jobstore_alias"
    assert hasattr(BaseExecutor, "_logger"), f"apscheduler {version('apscheduler')} has no BaseExecutor._logger"
    for called, parameters in (
        (BaseExecutor._do_submit_job, "self job run_times"),
        (BaseExecutor._run_job_success, "self job_id events"),
        (run_job, "job jobstore_alias run_times logger_name"),
    ):
        assert list(inspect.signature(called).parameters) == parameters.split()
    assert "any" in str(MaxInstancesReachedError(job))


@pytest.mark.parametrize("name", "ssl_context max_connections max_keepalive_connections network_backend".split())
def test_a_pool_of_httpcore_takes(name: str) -> None:
    """The arguments with which exporter/probe/http/transport.py opens it; the backend is what brings the stamps."""
    found = inspect.signature(httpcore.ConnectionPool).parameters
    assert name in found, f"httpcore {version('httpcore')} has no ConnectionPool({name}=…)"


@pytest.mark.parametrize("name", ["apscheduler", "httpcore", "uvicorn"])
def test_a_library_whose_inside_is_used_has_an_upper_bound(name: str) -> None:
    """Without one, an installation gets a version that these tests have not seen."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    bounds = [each.removeprefix(name) for each in wanted if each.startswith(name)]
    assert len(bounds) == 1
    assert "<" in bounds[0]


def test_asyncio_takes_the_buffer_of_tls_from_a_class_attribute() -> None:
    """What exporter/web/server.py sets is what a connection's buffer is made with; else 512 of them take 130 MB."""
    assert sslproto.SSLProtocol.max_size == server.TLS_BUFFER_BYTES
    assert "bytearray(self.max_size)" in inspect.getsource(sslproto.SSLProtocol.__init__)
