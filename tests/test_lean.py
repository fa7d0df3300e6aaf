"""Libraries without what the daemon uses none of."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from exporter import lean
from exporter.lean import LIBRARIES, LeanLibrary, is_known, placeholders


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each.distribution)
def test_each_row_leaves_something_out(library: LeanLibrary) -> None:
    """Without this, each of the modules would be loaded by its library: a row that saves nothing is taken out of the table."""
    loaded = run(f"import sys, {library.module}\nprint(*({set(library.left_out)!r} & sys.modules.keys()))")
    assert set(loaded.split()) == set(library.left_out)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each.distribution)
def test_the_installed_version_was_tried(library: LeanLibrary) -> None:
    """A newer minor version is imported whole until somebody has run these tests with it and has raised ``newest``."""
    assert is_known(library), f"{library.distribution} {version(library.distribution)}: see exporter/lean.py"


def test_no_library_has_to_be_imported_whole() -> None:
    """With the versions that are installed, each takes its placeholders."""
    names = {name for library in LIBRARIES for name in library.left_out}
    code = f"import sys\nfrom exporter import lean\nlean.import_libraries()\nprint({names!r} & sys.modules.keys())"
    assert run(code) == "set()"


def test_everyone_else_gets_the_real_module() -> None:
    """What is left out of one library is there for those who import it afterwards."""
    code = (
        "from exporter import lean\nlean.import_libraries()\n"
        "import http.server, logging.config, multiprocessing\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "print(http.server.HTTPServer.__module__, logging.config.dictConfig.__module__, multiprocessing.Process.__module__)"
    )
    assert run(code) == "http.server logging.config multiprocessing.context"


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], LeanLibrary]]:
    """A library in version 1.4.2 with some source, in a table of its own."""

    def make(source: str) -> LeanLibrary:
        (tmp_path / "made_up_library.py").write_text(source)
        (tmp_path / "made_up_part.py").write_text("def compute():\n    return 7\n")
        folder = tmp_path / "made_up_library-1.4.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up-library\nVersion: 1.4.2\n")
        library = LeanLibrary("made-up-library", "made_up_library", (1, 4), ("made_up_part",), "made up")
        monkeypatch.setattr(lean, "LIBRARIES", (library,))
        return library

    monkeypatch.syspath_prepend(tmp_path)
    yield make
    for name in ("made_up_library", "made_up_part"):
        sys.modules.pop(name, None)


def test_a_library_that_takes_no_placeholder_is_imported_whole(made_up: Callable[[str], LeanLibrary]) -> None:
    """One that calls what is left out while it is imported still comes, with the real module."""
    made_up("import made_up_part\nVALUE = made_up_part.compute()\n")
    lean.import_libraries()
    assert sys.modules["made_up_library"].VALUE == 7


def test_a_newer_library_is_imported_whole(
    made_up: Callable[[str], LeanLibrary], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it uses while it runs is there: such a use shows too late to be mended by the daemon."""
    library = made_up("import made_up_part\n\ndef use():\n    return made_up_part.compute()\n")
    assert [is_known(replace(library, newest=newest)) for newest in ((1, 3), (1, 4), (2, 0))] == [False, True, True]
    assert not is_known(replace(library, distribution="made-up-and-not-there"))
    monkeypatch.setattr(lean, "LIBRARIES", (replace(library, newest=(1, 3)),))
    lean.import_libraries()
    assert importlib.import_module("made_up_library").use() == 7


def test_a_placeholder_serves_for_importing_and_says_what_it_is() -> None:
    """It can be subclassed, subscripted and caught; a call says where to look. A module that is loaded already stays."""
    with placeholders(("made_up_part", "sys")):
        import made_up_part  # type: ignore[import-not-found]

        assert sys.modules["sys"] is sys
        assert issubclass(type("Made", (made_up_part.Server[int],), {}), made_up_part.Server[int].__bases__[0])
        with pytest.raises(RuntimeError, match=r"made_up_part\.Server is left out of the daemon"):
            made_up_part.Server(1, port=2)
        with pytest.raises(AttributeError):
            made_up_part.__path__  # noqa: B018 - it is no package
    assert "made_up_part" not in sys.modules
