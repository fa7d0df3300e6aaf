"""Fuzzing of the settings (``make fuzz``).

Whatever a configuration file or the environment holds, loading gives ``Settings`` or a ``SettingsError`` whose every message is
one printable line. Anything else that is raised is a find, and the input that did it is written to a file.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz import engine

with engine.instrumented():
    from exporter.settings import SettingsError, load, load_profiles, load_web_config

DICTIONARY = Path(__file__).with_name("settings.dict")
GOLDEN = engine.ROOT / "tests" / "golden" / "settings"
FOLDER = engine.BUILD / "scratch"
FILE = FOLDER / "config.yml"


def check(content: bytes, environ: dict[str, str]) -> None:
    """Load a file with this content in each of the three ways."""
    FILE.write_bytes(content)
    for read in (lambda: load(FILE, environ), lambda: load_profiles(FILE), lambda: load_web_config(FILE)):
        try:
            read()
        except SettingsError as error:
            problems = [str(problem) for problem in error.errors]
            if not problems or not all(map(str.isprintable, problems)):
                raise AssertionError(f"no fit message: {problems}") from error


def one_input(data: bytes) -> None:
    """One run of the fuzzer: mostly a file, now and then a variable of the environment too."""
    given = engine.Data(data)
    environ = {}
    if given.number(0, 3) == 0:
        name = given.text(30).replace("\0", "").replace("=", "")
        environ[f"LLM_PROBE_{name}"] = given.text(60).replace("\0", "")
    check(given.rest(), environ)


def seeds() -> Iterator[bytes]:
    """The files of the golden tests."""
    for example in sorted(GOLDEN.glob("*.yml")):
        yield example.read_bytes() + b"\1"


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.chdir(FOLDER)
    engine.run("settings", one_input, seeds(), DICTIONARY)
