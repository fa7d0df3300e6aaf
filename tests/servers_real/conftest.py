"""What the tests on real inference servers share: a server that can't be installed is a skip that names it."""

from pathlib import Path

import pytest

from tests.real.conftest import need
from tests.servers_real.running import commands_of, make_model


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for models and logs."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny(models: Path) -> Path:
    """The small model, with a chat template."""
    return make_model(models)


@pytest.fixture(scope="session")
def base(models: Path) -> Path:
    """The small model without one."""
    return make_model(models, template=False)


def _commands(server: str) -> Path:
    found, why = commands_of(server)
    need(found, f"{server}: {why}" if why else server)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def vllm_commands() -> Path:
    """Where vLLM's command is."""
    return _commands("vllm")


@pytest.fixture(scope="session")
def transformers_commands() -> Path:
    """Where the command of transformers is."""
    return _commands("transformers")


@pytest.fixture(scope="session")
def litellm_commands() -> Path:
    """Where LiteLLM's command is."""
    return _commands("litellm")
