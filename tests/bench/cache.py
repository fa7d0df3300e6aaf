"""How long a scan takes beside ``du -s`` of the same tree and huggingface_hub's own scan, all warm, in the same run.

    python tests/bench/cache.py [--blobs 50000] [--models 200] [--no-locks]

The tree is what huggingface_hub leaves: blobs, links, refs, an index and a config.json for each model. It has the lock file
that huggingface_hub makes for each download and never deletes (``--no-locks`` for a cache that was copied without them). Rounds
alternate, and the fastest of each counts: on a busy machine the others measure its neighbours. CPU seconds are those of the
scanning processes. Exits with 1 where the scan took longer than du.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from huggingface_hub import scan_cache_dir

from exporter.cache.facts import CacheFacts, CacheFolder
from exporter.cache.scanner import Scanner

ROUNDS: Final = 9
CONFIG: Final = b'{"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4}'


def build(root: Path, models: int, blobs: int, *, locks: bool) -> None:
    """A hub of ``models`` with ``blobs`` in all; shards are sparse, since only their sizes matter."""
    for number in range(models):
        shards = blobs // models - 2
        names = [f"model-{shard:05d}-of-{shards:05d}.safetensors" for shard in range(1, shards + 1)]
        index = {"metadata": {"total_size": 1000}, "weight_map": {f"layer.{name}": name for name in names}}
        files: dict[str, bytes | int] = {name: 1000 + 1000 * place for place, name in enumerate(names)}
        files |= {"config.json": CONFIG, "model.safetensors.index.json": json.dumps(index).encode()}
        add_model(root, f"models--org--model-{number}", files, locks=locks)


def add_model(root: Path, name: str, files: dict[str, bytes | int], *, locks: bool) -> None:
    """One repository with one revision."""
    commit = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
    here, revision = root / name, root / name / "snapshots" / commit
    for folder in (here / "blobs", here / "refs", revision, root / ".locks" / name):
        folder.mkdir(parents=True)
    (here / "refs" / "main").write_text(commit)
    for file, content in files.items():
        digest = hashlib.sha256(f"{name}/{file}".encode()).hexdigest()
        blob = digest if isinstance(content, int) else digest[:40]
        with (here / "blobs" / blob).open("wb") as out:
            out.truncate(content) if isinstance(content, int) else out.write(content)
        (revision / file).symlink_to(f"../../blobs/{blob}")
        if locks:
            (root / ".locks" / name / f"{blob}.lock").touch()


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """(wall seconds, CPU seconds of the processes that it started)."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run()
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(root: Path) -> float:
    """Print a table; the ratio of the scan to du."""
    place = CacheFolder("bench", "huggingface", str(root))
    scanner = Scanner(niceness=0)  # beside du as it runs from a shell
    found: list[CacheFacts] = []
    times: dict[str, list[tuple[float, float]]] = {"du -s": [], "scan": [], "scan, one process": [], "rescan": []}
    runs: dict[str, Callable[[], object]] = {
        "du -s": lambda: subprocess.run(["du", "-s", str(root)], check=True, stdout=subprocess.DEVNULL),
        "scan": lambda: found.append(Scanner(niceness=0).scan(place)),
        "scan, one process": lambda: Scanner(niceness=0, workers=1).scan(place),
        "rescan": lambda: scanner.scan(place),
    }
    for run in runs.values():
        run()
    for _ in range(ROUNDS):
        for name, run in runs.items():
            times[name].append(timed(run))
    started = time.perf_counter()
    theirs = scan_cache_dir(root)
    library = time.perf_counter() - started
    assert theirs.size_on_disk == found[0].bytes, "the sizes differ from huggingface_hub's"
    fastest = {name: min(wall for wall, _ in taken) for name, taken in times.items()}
    print("| | fastest | median | processor time | of du |\n|---|---|---|---|---|")
    for name, taken in times.items():
        middle, cpu = sorted(wall for wall, _ in taken)[ROUNDS // 2], min(cpu for _, cpu in taken)
        print(
            f"| {name} | {fastest[name]:.3f} s | {middle:.3f} s | {cpu:.3f} s | {fastest[name] / fastest['du -s']:.2f} |"
        )
    print(f"| `huggingface_hub.scan_cache_dir` | {library:.3f} s | | | {library / fastest['du -s']:.1f} |")
    return fastest["scan"] / fastest["du -s"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blobs", type=int, default=50_000)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--no-locks", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), options.models, options.blobs, locks=not options.no_locks)
        past = time.time() - 3600  # what has just changed is read again in any case
        for here, _, files in os.walk(folder):
            for name in ("", *files):
                os.utime(Path(here, name), (past, past), follow_symlinks=False)
        ratio = measure(Path(folder))
    print(f"A scan takes {ratio:.2f} of the time of du.")
    return 0 if ratio <= 1 or options.no_locks else 1


if __name__ == "__main__":
    sys.exit(main())
