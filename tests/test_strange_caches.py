"""The running daemon beside caches full of strange files: what is scraped counts them, and the good models are there."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.cache import worker_process
from exporter.settings import Settings
from tests.cache.build import SMALL_GGUF, Hub, ollama, safetensors
from tests.cache.strange import GGUF, MANIFESTS, SAFETENSORS, lists_of_heads, ring_of_links, ways_out
from tests.daemon_settings import settings_of
from tests.test_daemon import running, scrape, value
from tests.waiting import eventually


def of_caches(tmp_path: Path, *caches: tuple[str, Path]) -> Callable[[], Settings]:
    """Settings with these caches, by their kinds."""
    paths = [{"name": kind, "kind": kind, "path": str(path)} for kind, path in caches]
    settings = settings_of(tmp_path, cache={"paths": paths})
    return lambda: settings


def fill_folder(root: Path) -> int:
    """Strange files and links in a plain folder, a good model among them; returns how many entries can't be read."""
    for number, content in enumerate(SAFETENSORS.values()):
        (root / f"s{number}").mkdir(parents=True)
        (root / f"s{number}" / "model.safetensors").write_bytes(content)
    for number, make in enumerate(GGUF.values()):
        (root / f"g{number}.gguf").write_bytes(make())
    shards = lists_of_heads(9999)
    for number in range(1, 6):
        (root / f"shards-{number:05d}-of-00005.gguf").write_bytes(shards)
    ring_of_links(root, 1609)
    for name, target in ways_out(root):
        (root / name).symlink_to(target)
    (root / "good.gguf").write_bytes(SMALL_GGUF)
    return len(SAFETENSORS) + 1 + len(list(ways_out(root)))


def test_strange_files_beside_a_running_daemon(tmp_path: Path) -> None:
    """Each cache has its good model and its number of unreadable entries, and no scan failed."""
    folder = tmp_path / "above" / "files"
    unreadable = {"files": fill_folder(folder), "huggingface": len(SAFETENSORS), "ollama": len(MANIFESTS)}
    hub = Hub(tmp_path / "hub")
    for number, content in enumerate(SAFETENSORS.values()):
        hub.repository(f"org/s{number}", {"model.safetensors": content})
    hub.repository("org/good", {"model.safetensors": safetensors({"lm_head.weight": 64})})
    for number, content in enumerate(MANIFESTS.values()):
        ollama(tmp_path / "ollama", f"m:{number}", {"model": SMALL_GGUF, "config": b"{}"}).write_bytes(content)
    ollama(tmp_path / "ollama", "good:1", {"model": SMALL_GGUF, "config": b"{}"})
    good = {"files": "good", "huggingface": "org/good", "ollama": "good:1"}
    load = of_caches(tmp_path, ("files", folder), ("huggingface", hub.root), ("ollama", tmp_path / "ollama"))
    with running(load) as (_, url):
        eventually(
            lambda: value(scrape(url), "llm_model_cache_unreadable_entries", cache="ollama") is not None,
            "the last cache was scanned",
        )
        samples = scrape(url)
        for cache, count in unreadable.items():
            assert value(samples, "llm_model_cache_unreadable_entries", cache=cache) == count
            assert value(samples, "llm_model_cache_scan_errors_total", cache=cache) == 0
            assert value(samples, "llm_model_cache_model_complete", cache=cache, model=good[cache]) == 1
            assert value(samples, "llm_probe_exporter_collector_success", collector=f"cache:{cache}") == 1
        assert value(samples, "llm_model_cache_model_complete", cache="files", model="shards") == 0


def test_a_scan_that_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the scanning process, as when the kernel is out of memory, ends nothing else: the next cache is scanned."""
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "good.gguf").write_bytes(SMALL_GGUF)
    (tmp_path / "deadly").mkdir()
    source = worker_process.WORKER.read_text().replace(
        "    _bound_memory(job",
        "    'deadly' in repr(job) and os.kill(os.getpid(), 9)\n    _bound_memory(job",
    )
    root = os.fspath(worker_process.WORKER.parents[2])
    (tmp_path / "worker.py").write_text(source.replace("sys.path.insert(0, ", f"sys.path.insert(0, {root!r} or "))
    monkeypatch.setattr(worker_process, "WORKER", tmp_path / "worker.py")
    load = of_caches(tmp_path, ("llama_cpp", tmp_path / "deadly"), ("files", tmp_path / "good"))
    with running(load) as (_, url):
        eventually(
            lambda: value(scrape(url), "llm_model_cache_models", cache="files") == 1, "the cache after it was scanned"
        )
        samples = scrape(url)
        assert value(samples, "llm_model_cache_scan_errors_total", cache="llama_cpp") == 1
        assert value(samples, "llm_model_cache_bytes", cache="llama_cpp") is None
        assert value(samples, "llm_probe_exporter_collector_success", collector="cache:llama_cpp") == 0
