"""Kill what writes the history, with SIGKILL at instants by chance, and count what is missing or damaged.

    python tests/bench/killed.py [--writers 200] [--daemons 20]

``writers``: a process that writes probes, ledgers and ends of hours as fast as it can (``tests/history/killed.py``), killed before it
has written much, again and again. ``daemons``: the whole daemon beside a server, killed in its first eight seconds. Each goes on with
the file that the last one left. Exits with 1 where a file is not whole, or a probe that was in it is gone or there twice.
"""

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from exporter.history.store import open_reader
from tests.ports import free_port
from tests.real.daemon import running_daemon
from tests.servers.vllm import SimulatedVllm

ROOT: Final = Path(__file__).parents[2]
CONFIG: Final = """
targets: [{{name: vllm, url: "{url}", budget: {{share: 100%}}, modules: [default]}}]
modules: {{default: {{interval: 1s, max_tokens: 32}}}}
discovery: {{local: false, docker: false}}
docker: {{enabled: false}}
cache: {{paths: []}}
history: {{path: {folder}/history.sqlite}}
"""


def kill_writers(folder: Path, rounds: int) -> tuple[str, ...]:
    """A row: rounds, probes kept, probes lost, files damaged, and how many kills came before the first commit."""
    command = [sys.executable, str(ROOT / "tests/history/killed.py"), str(folder / "history.sqlite"), str(rounds)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    if not run.stdout:
        raise RuntimeError(run.stderr)
    found = json.loads(run.stdout)
    figures = found["rounds"], found["probes"], found["lost"], damaged_in(folder), found["early"]
    return ("a writer", *map(str, figures))


def damaged_in(folder: Path) -> int:
    """How many files were set aside."""
    return len(list(folder.glob("*damaged*")))


def times_in(path: Path) -> list[float]:
    """When the probes in the file were made; raises RuntimeError where the file is not whole."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as connection:
        ((found,),) = connection.execute("PRAGMA integrity_check").fetchall()
        if found != "ok":
            raise RuntimeError(f"the file is not whole: {found}")
    return [each.at_seconds for each in open_reader(path).samples("vllm", "default", 0.0, 1e12)]


def kill_daemons(folder: Path, rounds: int) -> tuple[str, ...]:
    """The same row of the daemon. What a reader sees right before the kill must be there after it, once."""
    rng, path, port = random.Random(rounds), folder / "history.sqlite", free_port()
    config, early, lost, before = folder / "config.yml", 0, 0, list[float]()
    with SimulatedVllm(tokens_per_second=400.0) as server:
        config.write_text(CONFIG.format(url=server.url, folder=folder), "utf-8")
        for _ in range(rounds):
            begun = len(before)
            with running_daemon("--config", config, port=port, log=folder / "log") as daemon:
                time.sleep(rng.uniform(0, 8))
                seen = times_in(path)
                daemon.kill()
                daemon.wait()
            before = times_in(path)
            if len(set(before)) != len(before):
                raise RuntimeError(f"of {len(before)} probes some are there twice")
            lost += len(set(seen) - set(before))
            early += len(before) == begun
    return ("the daemon", *map(str, (rounds, len(before), lost, damaged_in(folder), early)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, default=200)
    parser.add_argument("--daemons", type=int, default=20)
    options = parser.parse_args()
    print("| killed | times | probes kept | of those in the file lost | files damaged | killed before a commit |")
    print("|---|---|---|---|---|---|", flush=True)
    for kill, rounds in ((kill_writers, options.writers), (kill_daemons, options.daemons)):
        with tempfile.TemporaryDirectory() as folder:
            row = kill(Path(folder), rounds)
        print(f"| {' | '.join(row)} |", flush=True)
        if row[3:5] != ("0", "0"):
            sys.exit(f"{row[0]}: probes were lost, or a file was damaged")


if __name__ == "__main__":
    main()
