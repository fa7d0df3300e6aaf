"""The fuzz targets run without their engine too: the first inputs of each, and a planted fault that is found."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import engine

TARGETS = sorted(path.stem for path in Path(__file__).parent.glob("fuzz_*.py"))


def fuzz(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python from the root of the project; a find is written to ``folder``."""
    return subprocess.run(
        [sys.executable, *arguments, "-engine=random", f"-artifact_prefix={folder}/"],
        cwd=engine.ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_the_first_inputs_of_a_target(tmp_path: Path, target: str) -> None:
    """Two hundred inputs, the same on every machine, find nothing."""
    done = fuzz(tmp_path, "-m", f"tests.fuzz.{target}", "-runs=200")
    assert done.returncode == 0, done.stderr
    assert "200 inputs" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_planted_fault_is_found(tmp_path: Path) -> None:
    """A target that fails at a byte ends with an error, keeps the input, and fails with it again."""
    (tmp_path / "finds").mkdir()
    program = tmp_path / "fuzz_planted.py"
    program.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(engine.ROOT)!r})\n"
        "from tests.fuzz import engine\n"
        "def one_input(data):\n"
        "    assert b'\\xff' not in data, 'planted'\n"
        "engine.run('planted', one_input, [b'seed'])\n"
    )
    first = fuzz(tmp_path / "finds", str(program), "-runs=10000")
    (find,) = (tmp_path / "finds").iterdir()
    assert first.returncode != 0
    assert b"\xff" in find.read_bytes()
    assert str(find) in first.stderr
    assert "planted" in fuzz(tmp_path / "finds", str(program), str(find)).stderr


def test_mutations_are_the_same_everywhere() -> None:
    """The same number gives the same inputs, and they differ from one another."""
    first, again = ([engine.mutated(random.Random(7), [b"seed"], [b"word"]) for _ in range(3)] for _ in range(2))
    assert first == again
    choose = random.Random(7)
    assert len({engine.mutated(choose, [b"a longer seed"], []) for _ in range(100)}) > 50


def test_an_input_is_taken_apart_as_libfuzzer_does() -> None:
    """Bytes come from its begin, numbers from its end, within their bounds; what is used up gives the lowest number."""
    data = engine.Data(b"abcd" + bytes([0x58, 0x02]))
    assert data.number(0, 600) == 0x258
    assert (data.take(2), data.rest(), data.number(3, 9), data.flag(), data.text(3)) == (b"ab", b"cd", 3, False, "")


def test_words_of_a_dictionary(tmp_path: Path) -> None:
    """Named and unnamed words, escaped bytes, and no comments."""
    (tmp_path / "it.dict").write_text('# "no"\nkey="data: "\n"\\x0a\\"\\\\"\n')
    assert engine.words_of(tmp_path / "it.dict") == [b"data: ", b'\n"\\']
