"""What drives the fuzz targets: atheris where it is installed, which follows coverage; else mutation at random.

A target gives a function of bytes that raises where something is wrong, seeds, and a dictionary. Arguments are those of
libFuzzer: ``-max_total_time=SECONDS``, ``-runs=COUNT``, ``-artifact_prefix=PATH``, and files to be run once each. ``-engine=random``
takes mutation at random in any case. It always begins from the same number, so that the first inputs are the same everywhere.
"""

import hashlib
import random
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, NoReturn

ROOT: Final = Path(__file__).parents[2]
BUILD: Final = ROOT / "build" / "fuzz"
INPUT_SECONDS: Final = 10
MEMORY_BYTES: Final = 2 << 30
LONGEST: Final = 1 << 16
FIRST_NUMBER: Final = 20_260_101

try:
    import atheris
except ImportError:
    atheris = None
if "-engine=random" in sys.argv:
    atheris = None


def instrumented() -> AbstractContextManager[Any]:
    """The exporter's modules that are imported within it tell which branches an input takes, where that is to be had."""
    return nullcontext() if atheris is None else atheris.instrument_imports(include=["exporter"])


class Data:
    """An input that is taken apart: bytes from its begin, choices from its end, as libFuzzer does."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def number(self, lowest: int, highest: int) -> int:
        """A whole number, both bounds included."""
        span, bits, found = highest - lowest, 0, 0
        while span >> bits and self._data:
            found, bits = found << 8 | self._data[-1], bits + 8
            self._data = self._data[:-1]
        return lowest + found % (span + 1)

    def flag(self) -> bool:
        """A choice of two."""
        return bool(self.number(0, 255) & 1)

    def take(self, count: int) -> bytes:
        """Up to so many bytes."""
        found, self._data = self._data[:count], self._data[count:]
        return found

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(len(self._data))

    def text(self, count: int) -> str:
        """Up to so many letters, of any language or none."""
        return self.take(2 * count).decode("utf-8", "replace")[:count]


def run(
    name: str, one_input: Callable[[bytes], object], seeds: Iterable[bytes], dictionary: Path | None = None
) -> None:
    """Run each seed, then what becomes of them, as long as the arguments say. Ends the process; 0 where nothing was found."""
    corpus = BUILD / name
    corpus.mkdir(parents=True, exist_ok=True)
    first = list(seeds)
    for number, seed in enumerate(first):
        one_input(seed)
        (corpus / f"seed-{number}").write_bytes(seed)
    if atheris is not None:
        flags = [] if dictionary is None else [f"-dict={dictionary}"]
        atheris.Setup([sys.argv[0], f"-timeout={INPUT_SECONDS}", *flags, *sys.argv[1:], str(corpus)], one_input)
        atheris.Fuzz()
    _run_at_random(name, one_input, first, [] if dictionary is None else words_of(dictionary))


def words_of(dictionary: Path) -> list[bytes]:
    """The words of a dictionary as libFuzzer reads it: ``"…"`` or ``name="…"`` a line, bytes by their hexadecimal numbers."""
    found = re.findall(r'^[^#\n"]*"(.*)"', dictionary.read_text(encoding="utf-8"), re.MULTILINE)
    escaped = re.compile(rb'\\(x[0-9a-fA-F]{2}|[\\"])')
    return [
        escaped.sub(lambda each: bytes([int(each[1][1:], 16)]) if each[1][:1] == b"x" else each[1], word.encode())
        for word in found
    ]


def _run_at_random(
    name: str, one_input: Callable[[bytes], object], seeds: Sequence[bytes], words: Sequence[bytes]
) -> NoReturn:
    given = dict(argument[1:].split("=", 1) for argument in sys.argv[1:] if re.match(r"-\w+=", argument))
    files = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    until = time.monotonic() + float(given.get("max_total_time", "inf"))
    runs = int(given.get("runs", 1 << 62))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _too_long)
    choose = random.Random(FIRST_NUMBER)  # no secret: the same inputs every time are wanted
    done = 0
    while done < (len(files) or runs) and (files or time.monotonic() < until):
        data = files[done].read_bytes() if files else mutated(choose, seeds, words)
        signal.alarm(INPUT_SECONDS)
        try:
            one_input(data)
        except BaseException:
            where = Path(
                f"{given.get('artifact_prefix', f'{BUILD}/{name}-')}crash-{hashlib.sha256(data).hexdigest()[:16]}"
            )
            where.write_bytes(data)
            print(f"{name}: input {done} failed; it is in {where}", file=sys.stderr)
            raise
        finally:
            signal.alarm(0)
        done += 1
    print(f"{name}: {done} inputs, mutated at random (without coverage); none failed")
    sys.exit(0)


def _too_long(_signal: int, _frame: object) -> NoReturn:
    raise AssertionError(f"one input took more than {INPUT_SECONDS} s")


_NUMBERS: Final = (
    0,
    1,
    2,
    7,
    8,
    31,
    32,
    255,
    4096,
    65_535,
    100_000,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63,
    2**64 - 1,
)
_TEXTS: Final = (
    b"1e999",
    b"Infinity",
    b"NaN",
    b"-1",
    b"9" * 4300,
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"\xff",
    b"\x00",
    b"..",
)


def mutated(choose: random.Random, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One of the seeds with one to eight changes."""
    data = bytearray(choose.choice(seeds))
    for _ in range(choose.randint(1, 8)):
        at = choose.randint(0, len(data))
        length = choose.choice((1, 1, 2, 4, 8, choose.randint(0, 64), choose.randint(0, len(data))))
        match choose.randint(0, 7):
            case 0:
                data[at : at + 1] = bytes([choose.randint(0, 255)])
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                width = choose.choice((1, 2, 4, 8))
                value = choose.choice(_NUMBERS) % (1 << 8 * width)
                data[at : at + width] = value.to_bytes(width, choose.choice(("little", "big")))
            case 4:
                data[at : at + length] = choose.choice(_TEXTS)
            case 5 if words:
                data[at:at] = choose.choice(words)
            case 6:
                other = choose.choice(seeds)
                data[at:] = other[choose.randint(0, len(other)) :]
            case _:
                data[at : at + length] = choose.randbytes(length)
    return bytes(data[:LONGEST])
