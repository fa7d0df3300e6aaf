"""Record a series of probes of a real llama-server whose model file is exchanged, into ``tests/fixtures/history/``.

    python tests/history/record_server.py FILE [--probes 60]

The daemon probes the server each second: first with Q4_0 weights, then after a restart with the same file, then with F16
weights in a file of the same name. What is written is what the daemon's own history held at the end: every probe that ran,
and the facts that changed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from exporter.history.store import Reader, open_reader
from tests.ports import free_port
from tests.real.daemon import running_daemon
from tests.real.llama import MAKE_MODEL, llama_server, running_llama
from tests.waiting import eventually

PHASES: Final = (("Q4_0", "first"), ("Q4_0", "restarted"), ("F16", "exchanged"))
MAKE: Final = (sys.executable, MAKE_MODEL, "--layers", "6", "--embd", "512", "--ff", "2048", "--ctx", "4096")
"""23 million weights: large enough for their bytes to count, small enough for a probe a second."""
CONFIG: Final = """
targets: [{{name: llama, url: "http://127.0.0.1:{port}", budget: {{share: 100%}}, modules: [default]}}]
modules: {{default: {{interval: 1s}}}}
discovery: {{local: false, docker: false}}
docker: {{enabled: false}}
cache: {{paths: []}}
history: {{path: {folder}/history.sqlite}}
"""


def record(folder: Path, probes: int) -> dict[str, object]:
    """Live through the phases; the document of what the history held."""
    binary = llama_server()
    assert binary is not None, "llama-server can't be built here"
    path, port, own = folder / "model.gguf", free_port(), free_port()
    config = folder / "config.yml"
    config.write_text(CONFIG.format(port=port, folder=folder))
    began: list[float] = []
    with running_daemon("--config", config, port=own, log=folder / "log"):
        for kind, phase in PHASES:
            if phase != "restarted":
                subprocess.run([*MAKE, "--type", kind, "--gguf", path], check=True, capture_output=True)
            with running_llama(binary, path, port, "--alias", "model"):
                began.append(time.time())
                reader = open_reader(folder / "history.sqlite")
                wait_for(reader, began[-1], probes)
            print(f"{phase}, {kind}: {probes} good probes", file=sys.stderr)
    reader = open_reader(folder / "history.sqlite")
    samples = reader.samples("llama", "default", 0.0, 1e12)
    return {
        "began": dict(zip((phase for _, phase in PHASES), began, strict=True)),
        "changes": [
            {"at_seconds": entry.at_seconds, "differences": [asdict(each) for each in entry.differences]}
            for entry in reversed(reader.entries())
            if entry.differences
        ],
        "fields": ["at_seconds", "tokens_per_second", "ttft_seconds", "prefill_tokens_per_second", "ok", "cold_start"],
        "samples": [
            [
                round(each.at_seconds, 3),
                each.tokens_per_second,
                each.ttft_seconds,
                each.prefill_tokens_per_second,
                each.ok,
                each.cold_start,
            ]
            for each in samples
        ],
    }


def wait_for(reader: Reader, since: float, probes: int) -> None:
    """Until the history holds so many good probes since a time."""

    def enough() -> bool:
        time.sleep(1)
        return sum(each.counts for each in reader.samples("llama", "default", since, 1e12)) >= probes

    eventually(enough, f"{probes} good probes", seconds=20.0 * probes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--probes", type=int, default=60, help="good ones in each phase")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        document = record(Path(folder), options.probes)
    text = json.dumps(document, ensure_ascii=False)
    options.file.write_text(text.replace('"samples": [', '"samples": [\n').replace("], [", "],\n[") + "\n", "utf-8")


if __name__ == "__main__":
    main()
