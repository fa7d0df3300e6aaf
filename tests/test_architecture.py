"""The rooms of the product, held by walking the imports of every file."""

import ast
import functools
import re
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "exporter"

# Data flows from left to right, and a room imports only from rooms before it (and from itself).
ORDER = (
    {"address", "backends", "regular_file", "rocm_version", "text"},
    {"launch"},
    {"settings"},
    {"schedule"},
    {"probe", "host", "cache", "containers"},
    {"history"},
    {"snapshot"},
    {"tiers"},
    {"advice", "serving_gpu"},
    {"discovery"},
    {"starting", "target_facts"},
    {"watched_facts"},
    {"metrics"},
    {"exposition"},
    {"web"},
    {
        "allocator",
        "daemon_login",
        "demo",
        "lean",
        "ledgers",
        "machine_report",
        "on_demand",
        "report",
        "status_report",
        "systemd",
    },
    {"targets", "collectors", "evidence", "comparison", "survey_report", "daemon_health", "ledger_access"},
    {"daemon"},
    {"oneshot", "terminal"},
    {"cli"},
    {"__main__"},
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
# Judging is pure and knows nothing but the settings: the snapshot holds its results, so its records are known to both sides.
LEAVES = {"tiers"}
OBSERVING = {"probe", "host", "cache", "containers"}

DOORS = {
    "httpx": {"probe"},
    "httpcore": {"probe"},
    "docker": {"containers"},
    "apscheduler": {"schedule"},
    "pydantic": {"settings"},
    "pydantic_settings": {"settings"},
    "yaml": {"settings"},
    "prometheus_client": {"metrics", "exposition"},
    "starlette": {"web", "demo"},
    "uvicorn": {"web", "demo"},
    "jinja2": {"web"},
    "bcrypt": {"web"},
    "click": {"cli"},
    "rich": {"cli", "terminal"},
    "sqlite3": {"history"},
}
PURE = (
    "advice/machine.py",
    "advice/target.py",
    "comparison.py",
    "history/change.py",
    "history/document.py",
    "history/gaps.py",
    "history/hours.py",
    "history/ratio.py",
    "history/record.py",
    "history/sample.py",
    "history/shift.py",
    "history/steps.py",
    "history/change_lines.py",
    "history/speed_tracker.py",
    "history/change_text.py",
    "host/gpu_metrics.py",
    "host/products.py",
    "host/throttling.py",
    "launch/command.py",
    "launch/programs.py",
    "launch/settings.py",
    "metrics.py",
    "probe/measure.py",
    "probe/slots.py",
    "probe/users.py",
    "probe/result.py",
    "probe/stream.py",
    "probe/timeline.py",
    "serving_gpu.py",
    "status_report.py",
    "evidence.py",
    "exposition.py",
    "starting.py",
    "text.py",
    "tiers.py",
)
CLOCKS_AND_THREADS = {"time", "threading", "datetime", "socket", "subprocess"}


@functools.cache
def imports_of(path: Path) -> tuple[tuple[str, bool], ...]:
    """The modules that a file imports, and whether only for the type checker."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = list[tuple[str, bool]]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in typing_only) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, id(node) in typing_only))
            if node.module == "exporter":
                found += [(f"exporter.{alias.name}", id(node) in typing_only) for alias in node.names]
    return tuple(found)


def room_of(path: Path) -> str:
    """The room of a file: its folder or, at the top, its name."""
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


FILES = sorted(ROOT.rglob("*.py"))
SOURCES = [path for path in FILES if path != ROOT / "__init__.py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_left_to_right(path: Path) -> None:
    """A file imports only rooms before its own, and observing rooms don't know each other."""
    room = room_of(path)
    assert room in RANK, f"{path} is in no room: give it one in ORDER"
    for module, _ in imports_of(path):
        parts = module.split(".")
        if parts[0] != "exporter" or len(parts) == 1 or parts[1] == "__version__":
            continue
        other = parts[1]
        if other == room or other in LEAVES or other not in RANK:
            continue
        assert RANK[other] < RANK[room], f"{room} imports {other}, which lies to its right"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_third_party_package_has_one_door(path: Path) -> None:
    """A package is imported only in the room that owns it, so that it can be exchanged there."""
    for module, typing_only in imports_of(path):
        allowed = DOORS.get(module.split(".")[0])
        if allowed is not None and not typing_only:
            assert room_of(path) in allowed, f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_one_file_talks_to_the_database(path: Path) -> None:
    """Only the store imports sqlite3, and the rest of its room touches neither files nor threads."""
    imported = {module.split(".")[0] for module, typing_only in imports_of(path) if not typing_only}
    if room_of(path) != "history" or path.name == "store.py":
        assert path.name == "store.py" or "sqlite3" not in imported
        return
    assert imported.isdisjoint({"sqlite3", "os", "threading", "time", "fcntl", "socket", "subprocess", "logging"})


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_history_knows_no_observing_room(path: Path) -> None:
    """The history gets facts and figures as plain values: of the rooms that touch the world only the records of a probe."""
    if room_of(path) == "history":
        imported = {module for module, _ in imports_of(path) if module.startswith("exporter.")}
        records = {"exporter.probe.result", "exporter.probe.timeline"}
        rooms = {module.split(".")[1] for module in imported - records}
        assert rooms.isdisjoint(OBSERVING), f"{path.relative_to(ROOT)} imports {rooms & OBSERVING}"


@pytest.mark.parametrize("name", PURE)
def test_pure_files_use_no_clock_thread_or_socket(name: str) -> None:
    """Formulas get time as numbers, so that any script of instants can be tried on them."""
    imported = {module.split(".")[0] for module, _ in imports_of(ROOT / name)}
    assert imported.isdisjoint(CLOCKS_AND_THREADS)


def types_named(path: Path) -> Iterator[tuple[str, str]]:
    """The classes and the type aliases of a file by their names: where they stand, or what an alias says."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name, f"{path}:{node.lineno}"
    for node in tree.body:
        if isinstance(node, ast.Assign) and re.fullmatch(r"[A-Z][a-z]\w*", name := ast.unparse(node.targets[0])):
            yield name, ast.unparse(node.value)


def test_no_two_types_have_one_name() -> None:
    """A name stands for one thing, so that a reader of any file knows which is meant; an alias may stand twice if it says the same."""
    meanings: dict[str, set[str]] = {}
    for path in FILES:
        for name, meaning in types_named(path):
            meanings.setdefault(name, set()).add(meaning)
    assert {name: found for name, found in meanings.items() if len(found) > 1} == {}


def module_of(path: Path, root: Path) -> str:
    """The name under which a file is imported; that of a package for its ``__init__``."""
    return ".".join((root.name, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")


def modules_imported(path: Path, known: Collection[str]) -> Iterator[str]:
    """Those of the known modules that a file imports: where it imports from a package, the package's file of that name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            files = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [file if file in known else str(node.module) for file in files]
        yield from (name for name in names if name in known)


def circle_in(root: Path) -> list[str]:
    """Files of a package that import each other, the first one again at the end; empty where none do."""
    paths = {module_of(path, root): path for path in root.rglob("*.py")}
    sorter = TopologicalSorter({module: set(modules_imported(path, paths)) for module, path in paths.items()})
    try:
        sorter.prepare()
    except CycleError as exc:
        return [str(name) for name in exc.args[1]]
    return []


def test_no_files_import_each_other() -> None:
    """Each file can be read, and tried, without one that needs it: not even a function's import, or one for types, closes a circle."""
    assert circle_in(ROOT) == []


@pytest.mark.parametrize(
    "back", ["import house.one", "def f():\n    from house.one import it", "from house import one"]
)
def test_files_that_import_each_other_are_found(tmp_path: Path, back: str) -> None:
    """In whichever way one of them does it."""
    house = tmp_path / "house"
    (house / "rooms").mkdir(parents=True)
    (house / "__init__.py").touch()
    (house / "rooms" / "__init__.py").write_text("from house.rooms.two import more\n")
    (house / "one.py").write_text("from house.rooms import more\n")
    (house / "rooms" / "two.py").write_text(f"{back}\n")
    assert set(circle_in(house)) == {"house.one", "house.rooms", "house.rooms.two"}
