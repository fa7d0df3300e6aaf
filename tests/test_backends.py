"""The table of backends: what a row says is true of its dialect, and no two rows claim the same thing."""

import inspect
import json
from collections.abc import Iterator

import pytest

from exporter.backends import BACKENDS, Backend, name_of
from exporter.containers.servers import made_for
from exporter.launch.programs import started_by
from exporter.probe.client import Reply
from exporter.probe.dialects import DIALECTS, recognise
from exporter.probe.dialects.dialect import Dialect

ROWS = [pytest.param(row, id=row.id) for row in BACKENDS.values()]
MEMBERS = [name for name in vars(Dialect) if not name.startswith("_")]


def names() -> Iterator[tuple[object, str]]:
    """Everything by which a program is known, with the program."""
    for row in BACKENDS.values():
        for program in row.programs:
            for known in (program.name, *program.executables, *program.subcommands, *program.modules):
                yield known, program.name


@pytest.mark.parametrize("row", ROWS)
def test_each_row_has_a_dialect_that_is_one(row: Backend) -> None:
    """The class that a row names calls itself by the row's id and has every member of the Protocol, with its types."""
    dialect = DIALECTS[row.id]
    assert dialect.name == row.id
    for member in MEMBERS:
        expected = getattr(Dialect, member)
        if callable(expected):
            assert inspect.signature(getattr(type(dialect), member)) == inspect.signature(expected), member
        else:
            assert isinstance(getattr(dialect, member), str | frozenset), member


@pytest.mark.parametrize(("row", "owner"), [(row, owner) for row in BACKENDS.values() for owner in row.owned_by])
def test_the_owner_of_its_models_tells_a_backend(row: Backend, owner: str) -> None:
    """A server whose list of models names one of a row's owners is recognised as that backend, if nothing else tells."""
    listing = json.dumps({"data": [{"id": "a", "owned_by": owner}]}).encode()

    def get(path: str, _body: bytes | None = None, /) -> Reply:
        return Reply(200, {}, listing) if path == "/v1/models" else Reply(404, {}, b"")

    found = recognise(get)
    assert found is not None
    assert found.name == row.id


def test_no_two_programs_have_a_name_in_common() -> None:
    """A name, a command and a module each belong to one program; else the row that comes later would win unseen."""
    owners: dict[object, str] = {}
    for known, program in names():
        assert owners.setdefault(known, program) == program, known


def test_a_program_is_known_by_each_of_its_names() -> None:
    """What a row lists is found in a command line."""
    for row in BACKENDS.values():
        for program in row.programs:
            commands = [
                *((executable,) for executable in program.executables),
                *program.subcommands,
                *(("python3", "-m", module) for module in program.modules),
            ]
            for command in commands:
                started = started_by(command)
                assert started is not None, command
                assert started.name == program.name


def test_an_image_with_two_names_is_the_first_ones() -> None:
    """The order of the rows does not decide whose an image is."""
    assert made_for("example.org/vllm-llama.cpp") == "vllm"
    assert made_for("example.org/llama.cpp-vllm") == "llama-server"


def test_an_unknown_backend_is_shown_by_its_id() -> None:
    """A result from a later version, read from a file, names a backend that this one doesn't know."""
    assert (name_of("llama_cpp"), name_of("later")) == ("llama.cpp", "later")
