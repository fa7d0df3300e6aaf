"""Fuzzing of a scan of an Ollama's store, one of whose manifests holds anything (``make fuzz``).

The scan ends with the good tag complete and the other one there; every problem is one printable line.
"""

import shutil
import time
from collections.abc import Iterator

from tests.fuzz import engine

with engine.instrumented():
    from exporter.cache.facts import CacheFolder, combine
    from exporter.cache.scan_share import ScanJob, scan_share
    from tests.cache.build import SMALL_GGUF, ollama
    from tests.cache.strange import MANIFESTS

STORE = engine.BUILD / "scratch-ollama"
FOLDER = CacheFolder("it", "ollama", str(STORE))


def one_input(data: bytes) -> None:
    """One run of the fuzzer."""
    (STORE / "manifests/registry.ollama.ai/library/m/strange").write_bytes(data)
    answer = scan_share(ScanJob(FOLDER), 0, time.time())
    assert answer.error is None, answer.error
    facts = combine(FOLDER, list(answer.models), 0.0)
    assert {"m:good": True}.items() <= {model.name: model.complete for model in facts.models}.items()
    assert all(problem.isprintable() for problem in answer.problems), answer.problems
    for model in facts.models:
        assert all(name.isprintable() for name in (model.name, *model.missing)), model
        assert 0 <= model.bytes < 1 << 63


def seeds() -> Iterator[bytes]:
    """A manifest as Ollama writes it, and the strange ones."""
    if STORE.exists():
        shutil.rmtree(STORE)
    ollama(STORE, "m:good", {"model": SMALL_GGUF, "config": b"{}"})
    yield ollama(STORE, "m:strange", {"model": SMALL_GGUF, "template": b"x", "config": b"{}"}).read_bytes()
    yield from (content for content in MANIFESTS.values() if len(content) < 10_000)


if __name__ == "__main__":
    engine.run("ollama", one_input, seeds())
