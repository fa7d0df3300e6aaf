"""How long the daemon takes from its start to its first /metrics, and the memory that it holds then.

    python tests/bench/start.py [--times 9]

The package is installed into an environment of its own, as a user does it: what else an environment holds is searched at each
start. One target that does not answer, no container engine. The first start, which fills the file cache, does not count. ``processor`` is the time that the process used until then, of all cores. Exits with 1 where a goal is missed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
START_SECONDS = 0.7
MEMORY_BYTES = 60e6
SETTLE_SECONDS = 6.0
CONFIG = """\
targets: [{name: nobody, url: "http://127.0.0.1:9"}]
discovery: {local: false, docker: false}
docker: {enabled: false}
"""


def installed(folder: Path) -> Path:
    """The program in an environment that holds nothing else."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = str(folder / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(ROOT)]
    subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
    return folder / "venv" / "bin" / "llm-probe-exporter"


def one_start(program: Path, folder: Path) -> tuple[float, float, float]:
    """Seconds to the first /metrics, seconds of processor until then, and bytes of memory some seconds later."""
    config, port = folder / "config.yml", free_port()
    config.write_text(CONFIG)
    command = [str(program), "serve", "--config", str(config), "--listen", f"127.0.0.1:{port}"]
    begun = time.monotonic()
    with subprocess.Popen(
        command, stderr=subprocess.DEVNULL, env={**os.environ, "XDG_STATE_HOME": str(folder)}
    ) as process:
        try:
            scraped(port)
            took = time.monotonic() - begun
            ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            time.sleep(SETTLE_SECONDS)
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        finally:
            process.terminate()
    return took, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")


def scraped(port: int) -> None:
    """Return when a scrape was answered. Raises TimeoutError where none is for a minute."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                answer.read()
                return
        except urllib.error.URLError:
            time.sleep(0.005)
    raise TimeoutError("no scrape was answered")


def main() -> None:
    """Measure and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--times", type=int, default=9)
    times = options.parse_args().times
    with tempfile.TemporaryDirectory() as folder:
        program = installed(Path(folder))
        found = [one_start(program, Path(folder)) for _ in range(times + 1)][1:]
    start, processor, memory = (median(column) for column in zip(*found, strict=True))
    held = start < START_SECONDS and memory < MEMORY_BYTES
    print("| starts | to the first /metrics: median, least, longest | goal | processor | memory | goal |")
    print("|---|---|---|---|---|---|")
    times_taken = [took for took, _, _ in found]
    print(
        f"| {times} | {start:.2f}, {min(times_taken):.2f}, {max(times_taken):.2f} s | below {START_SECONDS} s | {processor:.2f} s"
        f" | {memory / 1e6:.1f} MB | below {MEMORY_BYTES / 1e6:.0f} MB |"
    )
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
