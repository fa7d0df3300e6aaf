"""What all tests have in common: none reads or writes the history of a person or of another test, and none is timed."""

import gc
import itertools
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.forked import close_server

_NUMBERS = itertools.count()
FIRST = ("test_hostile.py", "test_long_prompts.py", "test_changes.py")
"""Modules that begin first: at the end they would be waited for, or split among workers that each make their fixtures anew."""

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Four for each processor, since these tests wait for sockets most of their time; one where coverage takes that time.

    Sixteen at most: each collects all tests, in 0.3 GB of memory.
    """
    processors = os.cpu_count() or 1
    return processors if config.getoption("cov_source", default=None) else min(4 * processors, 16)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """The thousands of tests stay to the end: without this, a third of the collecting is a search for garbage among them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order is else that of the files."""
    items.sort(key=lambda item: item.path.name not in FIRST)


@pytest.fixture(scope="session", autouse=True)
def _state_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For what outlives a single test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("STATE_DIRECTORY", raising=False)
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _fork_server_of_the_run() -> Iterator[None]:
    """It starts with the first test that forks a daemon."""
    yield
    close_server()


@pytest.fixture(autouse=True)
def _state_of_the_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is made when something is kept there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / f"state-{next(_NUMBERS)}"))
