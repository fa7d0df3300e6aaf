"""Run benches and write their tables into docs/accuracy.md and README.md: what stands there is what the last run measured.

    python tests/bench/report.py [NAME ...]

Without names: all but endurance, which takes half an hour; the others take an hour together.
"""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
ACCURACY: Final = ROOT / "docs/accuracy.md"
README: Final = ROOT / "README.md"
USUAL: Final = {
    "truth": ("truth.py",),
    "interruption": ("interruption.py",),
    "start": ("start.py",),
    "scrape": ("scrape.py",),
    "load": ("load.py",),
    "cache": ("cache.py",),
    "cache-without-locks": ("cache.py", "--no-locks"),
    "changes": ("changes.py",),
    "history": ("history.py",),
    "killed": ("killed.py",),
    "answers": ("answers.py", "--only", "answers"),
    "fingerprints": ("answers.py", "--only", "fingerprints"),
}
BENCHES: Final = USUAL | {"endurance": ("endurance.py",)}
LOADS: Final = {
    "idle": "idle",
    "served": "scraped, scanning, 50 other targets",
    "busy": "one busy process per core",
}
BRIEF: Final = """\
| load | tokens/s | TTFT error, median | p99 | speed error, median | p99 | speed error p99, stamps after the read |
|---|---|---|---|---|---|---|"""


def table_of(name: str) -> str:
    """Run a bench, show what it prints, and give its table. Raises RuntimeError where it fails or prints none."""
    script, *options = BENCHES[name]
    lines = []
    with subprocess.Popen([sys.executable, str(HERE / script), *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    table = [line for line in lines if line.startswith("|")]
    if process.returncode or not table:
        raise RuntimeError(f"{script} ended with {process.returncode} and {len(table)} lines of a table")
    return "\n".join(table)


def quoted(text: str, name: str) -> str:
    """The table that a page quotes under a name. Raises ValueError where it has no such place."""
    return _place(text, name)[2]


def replaced(text: str, name: str, table: str) -> str:
    """The page with another table under a name. Raises ValueError where it has no such place."""
    match = _place(text, name)
    return f"{text[: match.start(2)]}{table}{text[match.end(2) :]}"


def _place(text: str, name: str) -> re.Match[str]:
    match = re.search(rf"(<!-- table: {re.escape(name)} -->\n)(.*?)(\n<!-- end -->)", text, re.DOTALL)
    if match is None:
        raise ValueError(f"there is no place for the table {name}")
    return match


def cells(table: str) -> list[list[str]]:
    """The rows of a table below its head."""
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]


def brief(truth: str) -> str:
    """What README.md quotes of the table of truth.py: a line for each load and speed, with the kernel's stamps and beside them
    the speed's error with stamps after the read.
    """
    return "\n".join([BRIEF, *_brief(cells(truth))])


def _brief(rows: Iterable[list[str]]) -> Iterable[str]:
    after = {}
    kernel = []
    for load, speed, stamps, *figures in rows:
        if stamps == "kernel":
            kernel.append((load, speed, figures[:4]))
        else:
            after[load, speed] = figures[3]
    for load, speed, figures in kernel:
        yield f"| {' | '.join([LOADS[load], speed, *figures, after[load, speed]])} |"


def machine() -> str:
    """Where the figures were measured."""
    cores, python = os.cpu_count(), platform.python_version()
    return (
        f"| cores | kernel | Python |\n|---|---|---|\n| {cores} | {platform.system()} {platform.release()} | {python} |"
    )


def main(names: list[str]) -> None:
    """Run and write, table by table, so that a run that is broken off leaves what it had."""
    ACCURACY.write_text(replaced(ACCURACY.read_text("utf-8"), "machine", machine()), "utf-8")
    for name in names or USUAL:
        print(f"\n## {name}", flush=True)
        table = table_of(name)
        ACCURACY.write_text(replaced(ACCURACY.read_text("utf-8"), name, table), "utf-8")
        if name == "truth":
            README.write_text(replaced(README.read_text("utf-8"), name, brief(table)), "utf-8")


if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - set(BENCHES):
        sys.exit(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    main(sys.argv[1:])
