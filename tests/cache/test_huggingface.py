"""The hub cache, held against huggingface_hub itself."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from exporter.cache.facts import CacheFacts
from tests.cache.build import COMMIT, OLDER, Hub, answer_of, index, model_named, safetensors, scan, settle
from tests.cache.hub_server import serve
from tests.waiting import eventually

CONFIG = b'{"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}'
SHARD_1, SHARD_2 = safetensors({"model.embed_tokens.weight": 4096}), safetensors({"lm_head.weight": 6000})
WHOLE = {
    "config.json": CONFIG,
    "model.safetensors.index.json": index(
        {
            "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
            "lm_head.weight": "model-00002-of-00002.safetensors",
        },
        10096,
    ),
    "model-00001-of-00002.safetensors": SHARD_1,
    "model-00002-of-00002.safetensors": SHARD_2,
}


def agrees(facts: CacheFacts, root: Path) -> None:
    """Sizes to the byte, numbers of files, use: as the library says of each repository, and of all."""
    theirs = scan_cache_dir(root)
    assert not theirs.warnings
    assert facts.bytes == theirs.size_on_disk
    ours = {model.path: (model.bytes, model.files) for model in (*facts.models, *facts.others)}
    assert ours == {str(repo.repo_path): (repo.size_on_disk, repo.nb_files) for repo in theirs.repos}
    used = {model.path: model.last_used_seconds for model in (*facts.models, *facts.others)}
    for repo in theirs.repos:
        assert used[str(repo.repo_path)] == pytest.approx(repo.last_accessed, abs=1.0)


DOWNLOAD = """
import sys
from huggingface_hub import hf_hub_download
endpoint, cache, repository, *files = sys.argv[1:]
for file in files:
    hf_hub_download(repository, file, cache_dir=cache, endpoint=endpoint)
"""


def start_download(endpoint: str, cache: Path, repository: str, *files: str, **environ: str) -> subprocess.Popen[bytes]:
    """huggingface_hub in a process of its own, so that it can be killed."""
    quiet = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_SYMLINKS_WARNING": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", DOWNLOAD, endpoint, str(cache), repository, *files],
        env={**os.environ, **quiet, "HF_HOME": str(cache.parent), **environ},
        stderr=subprocess.DEVNULL,
    )


def test_a_cache_that_huggingface_hub_filled(tmp_path: Path) -> None:
    """What the library downloads, with links and without, is scanned as the library scans it, and found complete."""
    served = {f"org/sharded/{name}": content for name, content in WHOLE.items()}
    served["org/copied/model.safetensors"] = SHARD_1
    with serve(served) as endpoint:
        sharded = start_download(endpoint, tmp_path / "hub", "org/sharded", *WHOLE)
        copied = start_download(
            endpoint, tmp_path / "hub", "org/copied", "model.safetensors", HF_HUB_DISABLE_SYMLINKS="1"
        )
        assert (sharded.wait(60), copied.wait(60)) == (0, 0)
    facts = scan("huggingface", tmp_path / "hub")
    agrees(facts, tmp_path / "hub")
    assert [(model.name, model.complete) for model in facts.models] == [("org/copied", True), ("org/sharded", True)]
    assert not (tmp_path / "hub/models--org--copied/snapshots" / COMMIT / "model.safetensors").is_symlink()


def test_an_interrupted_download(tmp_path: Path) -> None:
    """A download killed half way is incomplete, its bytes are counted as incomplete and in no model's size."""
    served = {"org/model/config.json": CONFIG, "org/model/stall.safetensors": bytes(30 << 20)}
    with serve(served) as endpoint:
        process = start_download(endpoint, tmp_path / "hub", "org/model", "config.json", "stall.safetensors")
        try:
            blobs = tmp_path / "hub/models--org--model/blobs"
            eventually(
                lambda: sum(path.stat().st_size for path in blobs.glob("*.incomplete")), "a part of the download"
            )
        finally:
            process.kill()
            process.wait()
    (left,) = blobs.glob("*.incomplete")
    size = left.stat().st_blocks * 512
    facts = scan("huggingface", tmp_path)
    model = model_named(facts, "org/model")
    assert (model.complete, model.missing) == (False, ("1 unfinished download",))
    assert facts.bytes == model.bytes == len(CONFIG)
    assert facts.incomplete_bytes == size > 0
    assert facts.stale_incomplete_bytes == 0
    os.utime(left, (0, time.time() - 90_000))
    assert scan("huggingface", tmp_path).stale_incomplete_bytes == size > 0


def test_many_shapes_agree_with_the_library(tmp_path: Path) -> None:
    """Two revisions that share blobs, data sets, nested folders, refs within folders, orphans: sizes agree to the byte."""
    hub = Hub(tmp_path)
    hub.repository("org/two", WHOLE)
    folder = hub.repository("org/two", {"config.json": b"{}"}, commit=OLDER, reference="refs/pr/1")
    older = folder / "snapshots" / OLDER
    for path in (folder / "snapshots" / COMMIT).glob("model*"):
        (older / path.name).symlink_to(path.readlink())
    hub.repository("org/data", {"train/a.parquet": 5000, "README.md": b"x"}, kind="datasets")
    hub.repository("org/space", {"app.py": b"print()"}, kind="spaces")
    hub.repository("single", {"model.safetensors": safetensors({"a": 64})})
    (folder / "blobs" / ("f" * 64)).write_bytes(bytes(777))
    (tmp_path / ".locks").mkdir()
    (tmp_path / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
    facts = scan("huggingface", tmp_path)
    agrees(facts, tmp_path)
    assert facts.orphaned_bytes == 777
    assert [model.name for model in facts.models] == ["org/two", "single"]
    assert [(other.name, other.repo_type) for other in facts.others] == [
        ("datasets/org/data", "dataset"),
        ("spaces/org/space", "space"),
    ]


def test_the_store_that_repositories_share(tmp_path: Path) -> None:
    """A payload that two repositories link to counts in both and once in all, and so does one that none links to."""
    hub = Hub(tmp_path)
    store = tmp_path / "blobs"
    (store / "ab").mkdir(parents=True)
    (store / ".huggingface-shared-blobs").write_text("1\n")
    payload, unused = store / "ab" / ("ab" * 32), store / "ab" / ("ab" + "c" * 62)
    payload.write_bytes(safetensors({"a": 640}))
    unused.write_bytes(bytes(99))
    for name in ("org/one", "org/two"):
        folder = hub.repository(name, {"config.json": CONFIG})
        blob = folder / "blobs" / ("d" * 64)
        blob.symlink_to(os.path.relpath(payload, blob.parent))
        (folder / "snapshots" / COMMIT / "model.safetensors").symlink_to(f"../../blobs/{'d' * 64}")
    facts = scan("huggingface", tmp_path)
    agrees(facts, tmp_path)
    size = payload.stat().st_size
    assert facts.bytes == 2 * len(CONFIG) + size + 99
    assert [model.bytes for model in facts.models] == [len(CONFIG) + size] * 2
    assert [model.complete for model in facts.models] == [True, True]


@pytest.mark.parametrize(
    ("gone", "missing"),
    [
        ("model-00002-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        ("model.safetensors.index.json", None),
    ],
)
def test_complete_by_its_own_files(tmp_path: Path, gone: str, missing: str | None) -> None:
    """A shard that the index names must be there; without an index the shards' own numbers say how many there are."""
    folder = Hub(tmp_path).repository("org/m", {name: content for name, content in WHOLE.items() if name != gone})
    model = model_named(scan("huggingface", tmp_path), "org/m")
    assert model.complete is (missing is None)
    assert model.missing == (() if missing is None else (missing,))
    next((folder / "snapshots" / COMMIT).glob("model-00001*")).unlink()
    assert model_named(scan("huggingface", tmp_path), "org/m").complete is False


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    """A file whose blob is gone is missing, by its name, and the rest is still counted."""
    folder = Hub(tmp_path).repository("org/m", WHOLE)
    link = folder / "snapshots" / COMMIT / "model-00001-of-00002.safetensors"
    (link.parent / link.readlink()).unlink()
    model = model_named(scan("huggingface", tmp_path), "org/m")
    assert (model.complete, model.missing) == (False, ("model-00001-of-00002.safetensors",))
    assert model.bytes == sum(map(len, WHOLE.values())) - len(SHARD_1)


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    """A single safetensors file that ends before its header says is not complete."""
    Hub(tmp_path).repository("org/m", {"model.safetensors": SHARD_1[:-10]})
    model = model_named(scan("huggingface", tmp_path), "org/m")
    assert model.complete is False
    assert model.missing == (f"model.safetensors: has {len(SHARD_1) - 10} of {len(SHARD_1)} bytes",)


def test_an_index_that_came_along(tmp_path: Path) -> None:
    """An index of a format of which nothing was fetched doesn't make the model incomplete."""
    other = {"pytorch_model.bin.index.json": index({"a": "pytorch_model-00001-of-00001.bin"}, 1)}
    Hub(tmp_path).repository("org/m", {**WHOLE, **other})
    assert model_named(scan("huggingface", tmp_path), "org/m").complete is True


def test_only_a_tokenizer(tmp_path: Path) -> None:
    """Where no weights were fetched nothing says that they should be there."""
    Hub(tmp_path).repository("org/m", {"tokenizer.json": b"{}"})
    assert model_named(scan("huggingface", tmp_path), "org/m").complete is None


def test_a_reference_without_its_revision(tmp_path: Path) -> None:
    """huggingface_hub leaves such a repository out; here it is an incomplete model."""
    folder = Hub(tmp_path).repository("org/m", WHOLE)
    shutil.rmtree(folder / "snapshots")
    model = model_named(scan("huggingface", tmp_path), "org/m")
    assert (model.complete, model.missing) == (False, (f"snapshots/{COMMIT}",))
    assert model.orphaned_bytes == sum(map(len, WHOLE.values()))


def test_a_leftover_of_what_is_there(tmp_path: Path) -> None:
    """A second download of a blob that exists is waste, not a missing file."""
    folder = Hub(tmp_path).repository("org/m", WHOLE)
    blob = next(path for path in (folder / "blobs").iterdir() if len(path.name) == 64)
    (folder / "blobs" / f"{blob.name}.0a1b2c3d.incomplete").write_bytes(bytes(8192))
    facts = scan("huggingface", tmp_path)
    assert model_named(facts, "org/m").complete is True
    assert facts.incomplete_bytes == 8192


def test_an_unfinished_small_file(tmp_path: Path) -> None:
    """Small files have shorter names, and their downloads are seen as well."""
    folder = Hub(tmp_path).repository("org/m", WHOLE)
    (folder / "blobs" / f"{'a' * 40}.incomplete").write_bytes(bytes(4096))
    facts = scan("huggingface", tmp_path)
    assert (facts.incomplete_bytes, facts.orphaned_bytes) == (4096, 0)
    assert model_named(facts, "org/m").complete is False


def test_sparse_downloads_count_by_their_blocks(tmp_path: Path) -> None:
    """A partial file made at full size takes only what was written."""
    folder = Hub(tmp_path).repository("org/m", {"config.json": CONFIG})
    with (folder / "blobs" / f"{'e' * 64}.incomplete").open("wb") as file:
        file.truncate(1 << 30)
        file.write(bytes(8192))
    assert scan("huggingface", tmp_path).incomplete_bytes == 8192


def test_a_rescan_reads_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unchanged repository is not listed again, but its growing download and its use are seen; a changed one is read."""
    hub = Hub(tmp_path)
    still, changed = hub.repository("org/still", WHOLE), hub.repository("org/changed", WHOLE)
    partial = still / "blobs" / f"{'e' * 64}.incomplete"
    partial.write_bytes(bytes(4096))
    settle(tmp_path)
    first = answer_of("huggingface", tmp_path)
    listed: list[object] = []
    list_folder = os.scandir

    def counted(where: int | str) -> object:
        listed.append(str(Path(f"/proc/self/fd/{where}").readlink()) if isinstance(where, int) else where)
        return list_folder(where)

    monkeypatch.setattr(os, "scandir", counted)
    again = answer_of("huggingface", tmp_path, first.models)
    assert listed == [str(tmp_path)]
    assert again.models == first.models
    with partial.open("ab") as file:
        file.write(bytes(8192))
    largest = (still / "snapshots" / COMMIT / "model-00002-of-00002.safetensors").resolve()
    os.utime(largest, (2_000_000_000, largest.stat().st_mtime))
    hub.file(changed, f"snapshots/{COMMIT}/extra.txt", b"more")
    listed.clear()
    facts = scan("huggingface", tmp_path, first.models)
    assert not [path for path in listed if "still" in str(path)]
    assert model_named(facts, "org/still").last_used_seconds == 2_000_000_000
    assert facts.incomplete_bytes == 4096 + 8192
    assert model_named(facts, "org/changed").bytes == sum(map(len, WHOLE.values())) + 4


def test_what_a_roofline_needs(tmp_path: Path) -> None:
    """Weights, embedding and head by the index and one header, the KV cache by config.json."""
    Hub(tmp_path).repository("org/m", WHOLE)
    weights = model_named(scan("huggingface", tmp_path), "org/m").weights
    assert weights is not None
    assert (weights.weight_bytes, weights.input_embedding_bytes, weights.tied) == (10096, 4096, False)
    assert weights.read_bytes_per_token == 6000
    assert weights.kv_elements_per_token == 2 * 2 * 64
