"""Libraries without what the daemon uses none of."""

import subprocess
import sys
from pathlib import Path

import pytest

from exporter import lean
from exporter.lean import LEFT_OUT, placeholders


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_each_row_leaves_something_out() -> None:
    """Without this, each of the modules would be loaded by its library: a row that saves nothing is taken out of the table."""
    for library, names in LEFT_OUT.items():
        loaded = run(f"import sys, {library}\nprint(*({set(names)!r} & sys.modules.keys()))")
        assert set(loaded.split()) == set(names), library


def test_no_library_has_to_be_imported_whole() -> None:
    """With the versions that are installed, each takes its placeholders."""
    names = {name for names in LEFT_OUT.values() for name in names}
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


def test_a_library_that_takes_no_placeholder_is_imported_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that calls what is left out while it is imported still comes, with the real module."""
    (tmp_path / "made_up_library.py").write_text("import made_up_part\nVALUE = made_up_part.compute()\n")
    (tmp_path / "made_up_part.py").write_text("def compute():\n    return 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lean, "LEFT_OUT", {"made_up_library": ("made_up_part",)})
    lean.import_libraries()
    assert sys.modules["made_up_library"].VALUE == 7
    for name in ("made_up_library", "made_up_part"):
        del sys.modules[name]


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
