"""Whatever lies in a cache: a right answer or a counted error, never a crash, never a name that breaks a label."""

import os
import sys
from pathlib import Path
from typing import Self

import pytest

from exporter.cache.facts import CacheFacts, CacheFolder, ModelFacts, combine, printable
from exporter.cache.layouts import LAYOUTS
from exporter.cache.scanner import Scanner
from tests.cache.build import COMMIT, SMALL_GGUF, Hub, answer_of, gguf, model_named, ollama, scan

KINDS = sorted(LAYOUTS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_that_is_a_file(tmp_path: Path, kind: str) -> None:
    """It is an error that says so."""
    (tmp_path / "cache").write_text("no folder")
    assert answer_of(kind, tmp_path / "cache").error == f"{tmp_path}/cache: Not a directory"


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_that_is_not_there(tmp_path: Path, kind: str) -> None:
    """It is an error that says so."""
    assert answer_of(kind, tmp_path / "gone").error == f"{tmp_path}/gone: No such file or directory"


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_cache(tmp_path: Path, kind: str) -> None:
    """It holds nothing, which is no error."""
    facts = scan(kind, tmp_path)
    assert (facts.bytes, facts.models, facts.incomplete_bytes) == (0, (), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_loops_of_links(tmp_path: Path, kind: str) -> None:
    """Links to themselves, to a folder above and to each other end the scan no less than anything else."""
    cache = tmp_path / "above" / "cache"
    (cache / "models--a--b" / "snapshots" / COMMIT).mkdir(parents=True)
    for where in (cache, cache / "models--a--b", cache / "models--a--b" / "snapshots" / COMMIT):
        (where / "self").symlink_to("self")
        (where / "up").symlink_to("..")
        (where / "here.gguf").symlink_to(".")
    (cache / "models--loop").symlink_to("models--loop")
    (cache / "manifests").symlink_to(".")
    (cache / "blobs").symlink_to(".")
    answer = answer_of(kind, cache)
    assert answer.error is None
    assert sum(model.bytes for model in answer.models) == 0


def test_names_that_are_not_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 and line breaks become a mark, and names that then are equal get a number."""
    hub = Hub(tmp_path)
    for name in ("a\nb", "a\rb", os.fsdecode(b"a\xffb"), 'quo"te\\'):
        hub.repository(f"org/{name}", {"model.gguf": SMALL_GGUF})
    names = [model.name for model in scan("huggingface", tmp_path).models]
    assert names == ["org/a\ufffdb", "org/a\ufffdb~2", "org/a\ufffdb~3", 'org/quo"te\\']
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / os.fsdecode(b"m\xfe.gguf")).write_bytes(SMALL_GGUF)
    assert [model.name for model in scan("files", flat).models] == ["m\ufffd"]


def test_printable_keeps_what_people_write() -> None:
    """Letters of any language stay."""
    assert printable("通义/Größe ☃") == "通义/Größe ☃"
    assert printable("a\u2028b\x00\udcff") == "a\ufffdb\ufffd\ufffd"


def test_permission_denied(tmp_path: Path) -> None:
    """What another user may not read is counted and named; the rest of the cache is not affected."""
    hub = Hub(tmp_path)
    closed, opened = (
        hub.repository("org/closed", {"m.gguf": SMALL_GGUF}),
        hub.repository("org/open", {"m.gguf": SMALL_GGUF}),
    )
    for path in (tmp_path, *tmp_path.parents):
        if path.owner() == opened.owner() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o755)
    (closed / "blobs").chmod(0)
    (closed / "refs").chmod(0)
    try:
        answer = _as_nobody(tmp_path)
    finally:
        (closed / "blobs").chmod(0o755)
        (closed / "refs").chmod(0o755)
    models = {model.name: model for model in answer.models}
    assert answer.unreadable_entries == 3
    assert sorted(answer.problems) == [
        f"{closed}/blobs: Permission denied",
        f"{closed}/refs: Permission denied",
        f"{closed}/snapshots/{COMMIT}/m.gguf: Permission denied",
    ]
    assert models["org/open"].complete is True
    assert models["org/closed"].complete is False


def _as_nobody(path: Path) -> CacheFacts:
    """A scan by a user who owns nothing, in a process of its own."""
    import pickle
    import subprocess

    program = (
        "import os, sys, pickle, time\n"
        "from exporter.cache.scan_share import ScanJob, scan_share\n"
        "from exporter.cache.facts import CacheFolder\n"
        "import json, encodings.idna\n"
        "os.setgid(65534) if os.getuid() == 0 else None\n"
        "os.setuid(65534) if os.getuid() == 0 else None\n"
        "answer = scan_share(ScanJob(CacheFolder('it', 'huggingface', sys.argv[1])), 0, time.time())\n"
        "sys.stdout.buffer.write(pickle.dumps(answer))\n"
    )
    output = subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True).stdout
    facts: CacheFacts = pickle.loads(output)
    return facts


def test_files_that_vanish_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob, a link and a folder deleted after they were listed are no error."""
    folder = Hub(tmp_path).repository("org/m", {f"{n}.bin": n + 1 for n in range(40)})
    gone = [folder / "snapshots" / COMMIT / f"{n}.bin" for n in range(20)]
    blobs = [path.resolve() for path in gone]
    list_folder = os.scandir

    def deleting(where: int) -> object:
        entries = list_folder(where)
        if Path(f"/proc/self/fd/{where}").readlink().name == COMMIT:
            listed = list(entries)
            entries.close()
            for path in (*gone, *blobs):
                path.unlink()
            return _Listed(listed)
        return entries

    monkeypatch.setattr(os, "scandir", deleting)
    answer = answer_of("huggingface", tmp_path)
    assert (answer.unreadable_entries, answer.problems) == (0, ())
    facts = combine(CacheFolder("it", "huggingface", ""), list(answer.models), 0)
    assert facts.bytes == sum(range(21, 41))
    assert model_named(facts, "org/m").complete is True


class _Listed(list[os.DirEntry[str]]):
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_tree_too_deep(tmp_path: Path) -> None:
    """Folders below folders beyond any cache are counted as unreadable, and no descriptor runs out."""
    deep = tmp_path.joinpath(*["d"] * 60)
    deep.mkdir(parents=True)
    (deep / "m.gguf").write_bytes(SMALL_GGUF)
    answer = answer_of("files", tmp_path)
    assert answer.unreadable_entries == 1
    assert answer.problems[0].endswith("nested too deeply")


def test_very_many_empty_folders(tmp_path: Path) -> None:
    """They are no models, and take no memory that grows with their number."""
    for n in range(3000):
        (tmp_path / f"models--x--{n}").mkdir()
    answer = answer_of("huggingface", tmp_path)
    assert (answer.models, answer.unreadable_entries) == ((), 0)
    facts = scan("files", tmp_path)
    assert (facts.models, facts.bytes) == ((), 0)


def test_pipes_and_devices(tmp_path: Path) -> None:
    """A pipe in place of a manifest, a reference or weights is refused, not waited for."""
    folder = Hub(tmp_path / "hub").repository("org/m", {"model.gguf": SMALL_GGUF})
    os.mkfifo(folder / "refs" / "pipe")
    os.mkfifo(folder / "snapshots" / COMMIT / "config.json")
    answer = answer_of("huggingface", tmp_path / "hub")
    assert answer.unreadable_entries == 1
    ollama(tmp_path / "ollama", "m:1", {"model": SMALL_GGUF, "config": b"{}"})
    os.mkfifo(tmp_path / "ollama/manifests/registry.ollama.ai/library/m/2")
    assert [model.name for model in scan("ollama", tmp_path / "ollama").models] == ["m:1"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGU",
        b"GGUF",
        b"GGUF" + b"\xff" * 40,
        SMALL_GGUF[:60],
        SMALL_GGUF[:300],
        SMALL_GGUF.replace(b"GGUF\x03", b"GGUF\x09"),
        gguf({"general.architecture": "x"}, {})[:24] + b"\xff" * 100,
        SMALL_GGUF[:-100],
    ],
)
def test_a_gguf_that_is_none(tmp_path: Path, content: bytes) -> None:
    """Any other bytes are an incomplete model with the reason."""
    (tmp_path / "m.gguf").write_bytes(content)
    model = model_named(scan("files", tmp_path), "m")
    assert model.complete is False
    assert model.missing[0].startswith("m.gguf: ")


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"weight_map": 3}', b"[" * 100_000, b'{"weight_map": {"a": 7}}'])
def test_an_index_that_is_none(tmp_path: Path, content: bytes) -> None:
    """It is counted, and the model isn't called complete."""
    Hub(tmp_path).repository("org/m", {"model.safetensors.index.json": content})
    answer = answer_of("huggingface", tmp_path)
    assert answer.unreadable_entries == 1
    assert answer.models[0].complete is False


@pytest.mark.parametrize(
    "content", [b"[]", b"{", b"{}", b'{"layers": [{"digest": "sha256:../../x"}]}', b'{"layers": [3]}']
)
def test_a_manifest_that_is_none(tmp_path: Path, content: bytes) -> None:
    """It is counted, and its model is there and incomplete."""
    ollama(tmp_path, "m:1", {"model": SMALL_GGUF, "config": b"{}"}).write_bytes(content)
    answer = answer_of("ollama", tmp_path)
    assert answer.unreadable_entries == 1
    assert [(model.name, model.complete) for model in answer.models if model.name] == [("m:1", False)]


def test_more_models_than_anyone_has(tmp_path: Path) -> None:
    """The largest are listed, the rest is in the total, and it is said."""
    models = tuple(ModelFacts(f"m{n}", f"/m{n}", n, None, files=1) for n in range(5003))
    scanner = Scanner()
    from exporter.cache.scan_share import ScanShare

    facts = scanner._facts(CacheFolder("it", "files", str(tmp_path)), [ScanShare(models)], 0.0)
    assert len(facts.models) == 5000
    assert facts.bytes == sum(range(5003))
    assert facts.problems == (f"{tmp_path}: 5003 models, of which the 5000 largest are listed",)
