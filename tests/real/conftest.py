"""What the tests against real parts share: a missing part is a skip that names it, unless the run requires all of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.docker import DockerEngine, engine, missing_parts
from tests.real.llama import LLAMA_SERVER, llama_server


def need(found: object, part: str) -> None:
    """Skip the test when ``found`` is falsy, or fail it when LLM_PROBE_REQUIRE_REAL=1 says that no part may be missing."""
    if found:
        return
    if os.environ.get("LLM_PROBE_REQUIRE_REAL") == "1":
        pytest.fail(f"{part} is missing, and LLM_PROBE_REQUIRE_REAL=1 requires it")
    pytest.skip(f"{part} is missing")


@pytest.fixture(scope="session")
def binary() -> Path:
    """The llama-server binary."""
    found = llama_server()
    need(found, LLAMA_SERVER)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def shared_engine() -> Iterator[DockerEngine]:
    """One private Docker engine for the whole run; a test that stops it starts it again."""
    missing = missing_parts()
    need(not missing, f"for a Docker engine: {missing}")
    with engine() as own:
        yield own


@pytest.fixture
def docker_engine(shared_engine: DockerEngine) -> Iterator[DockerEngine]:
    """The shared engine, without any container before and after the test; its images stay."""
    yield shared_engine
    if shared_engine.daemon is None:
        shared_engine.start()
    shared_engine.remove_containers()
