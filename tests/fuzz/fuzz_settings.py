"""Coverage-guided fuzzing of the settings (``make fuzz``, atheris).

    python tests/fuzz/fuzz_settings.py [-max_total_time=30]

Whatever a configuration file or the environment holds, loading gives ``Settings`` or a ``SettingsError`` whose every message is
one printable line. Whatever else is raised is a find, and atheris writes the input that did it.
"""

import os
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
with atheris.instrument_imports(include=["exporter"]):
    from exporter.settings import SettingsError, load, load_profiles, load_web_config

DICTIONARY = Path(__file__).with_name("settings.dict")
GOLDEN = ROOT / "tests" / "golden" / "settings"
CORPUS = ROOT / "build" / "fuzz" / "settings"
FOLDER = ROOT / "build" / "fuzz" / "scratch"
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
    given = atheris.FuzzedDataProvider(data)
    environ = {}
    if given.ConsumeIntInRange(0, 3) == 0:
        name = given.ConsumeUnicodeNoSurrogates(30).replace("\0", "").replace("=", "")
        environ[f"LLM_PROBE_{name}"] = given.ConsumeUnicodeNoSurrogates(60).replace("\0", "")
    check(given.ConsumeBytes(given.remaining_bytes()), environ)


def main() -> None:
    """Fuzz from the files of the golden tests on, as long as the arguments say; what was found of use is kept."""
    for folder in (CORPUS, FOLDER):
        folder.mkdir(parents=True, exist_ok=True)
    os.chdir(FOLDER)
    for example in sorted(GOLDEN.glob("*.yml")):
        seed = example.read_bytes() + b"\1"
        one_input(seed)
        (CORPUS / example.name).write_bytes(seed)
    atheris.Setup([sys.argv[0], f"-dict={DICTIONARY}", *sys.argv[1:], str(CORPUS)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
