"""Write what the documentation takes from the code's tables: ``python -m docs.build``.

``--check`` writes nothing and fails when a page is not what the tables say. A part of a page stands between
``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from exporter.backends import BACKENDS
from exporter.cache.layouts import LAYOUTS
from exporter.metrics import metrics_page

ROOT: Final = Path(__file__).parents[1]


def outputs(root: Path) -> dict[str, str]:
    """Every page that takes something from a table: path from the root → its text as it should be."""
    configuration = (root / "docs/configuration.md").read_text(encoding="utf-8")
    for name, table in (("backends", backends()), ("caches", caches())):
        configuration = _replaced(configuration, name, table)
    return {"docs/metrics.md": metrics_page(), "docs/configuration.md": configuration}


def backends() -> str:
    """The backends that may be configured, with the ports that are tried, and whether a real one was measured."""
    rows = [
        f"| `{backend.id}` | {backend.name} | {', '.join(map(str, backend.ports))} |"
        f" {'an imitation' if backend.imitated else 'the real one'} |"
        for backend in BACKENDS.values()
        if backend.configurable
    ]
    return "\n".join(["| `backend` | server | usual ports | tested against |", "|---|---|---|---|", *rows])


def caches() -> str:
    """The layouts of caches that may be configured."""
    kinds = [f"`{kind}`" for kind, layout in LAYOUTS.items() if layout.configurable]
    return f"A `kind` is one of {', '.join(kinds)}."


def _replaced(text: str, name: str, table: str) -> str:
    start, end = re.escape(f"<!-- table: {name} -->"), re.escape("<!-- end -->")
    made, count = re.subn(
        f"({start}\n).*?({end})", lambda match: f"{match[1]}{table}\n{match[2]}", text, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"the page has {count} places for the table {name}: it must have one")
    return made


def problems(root: Path) -> list[str]:
    """What ``--check`` finds wrong: one line each, empty when all is well."""
    return [
        f"{path}: not what the tables say; run make docs"
        for path, text in outputs(root).items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m docs.build", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is not current")
    if parser.parse_args(arguments).check:
        found = problems(ROOT)
        print("\n".join(found) or "current", file=sys.stderr if found else sys.stdout)
        return 1 if found else 0
    for path, text in outputs(ROOT).items():
        (ROOT / path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
