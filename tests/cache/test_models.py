"""The models that servers run, read in bounded processes: only what changed, whatever the files are."""

import os
import resource
import threading
import time
from pathlib import Path

import pytest

from exporter.cache import worker_process
from exporter.cache.facts import WeightFacts
from exporter.cache.model_file import ReadJob, Unreadable
from exporter.cache.models import AGAIN_SECONDS, Models
from exporter.cache.worker_process import Workers
from tests.cache.build import SMALL_GGUF, index, safetensors
from tests.cache.strange import GGUF, lists_of_heads, with_header
from tests.cache.test_scanner import HANGING

MIB = 1 << 20


def reason(models: Models, path: Path | str) -> str:
    """Why a model can't be read."""
    found = dict(models.read([str(path)]))[str(path)]
    assert isinstance(found, Unreadable), found
    return found.reason


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The paths that a process was started for."""
    started: list[object] = []
    run = Workers.run

    def counted(self: Workers, key: object, job: ReadJob, cancel: threading.Event | None = None) -> list[object]:
        started.append(key)
        return run(self, key, job, cancel)

    monkeypatch.setattr(Workers, "run", counted)
    return started


def test_a_model_is_read_again_when_its_file_has_changed(tmp_path: Path, jobs: list[object]) -> None:
    """A check of an unchanged file costs no second reading; what nobody runs any more is forgotten."""
    path = tmp_path / "a.gguf"
    path.write_bytes(SMALL_GGUF)
    models = Models()
    first = models.read([str(path), str(path)])
    assert isinstance(first[0][1], WeightFacts)
    assert models.read([str(path)]) == first
    assert jobs == [str(path)]
    path.write_bytes(SMALL_GGUF[:40])
    os.utime(path, (1, 1))
    assert isinstance(dict(models.read([str(path)]))[str(path)], Unreadable)
    models.read([])
    models.read([str(path)])
    assert len(jobs) == 3


def test_what_is_not_there_starts_no_process(tmp_path: Path, jobs: list[object]) -> None:
    """A path that leads nowhere is looked at each time, and costs nothing else."""
    models = Models()
    for path, why in ((tmp_path / "no.gguf", "No such file or directory"), ("a\0b", "embedded null byte")):
        assert reason(models, path).endswith(why)
    assert jobs == []


def test_a_file_is_told_from_another_of_its_name(tmp_path: Path) -> None:
    """By its size and time; a folder has none, and what is not there neither."""
    path, models = tmp_path / "a.gguf", Models()
    path.write_bytes(SMALL_GGUF)
    os.utime(path, (86400, 86400))
    models.read([str(path), str(tmp_path), str(tmp_path / "b.gguf")])
    assert models.stamps == ((str(path), f"{len(SMALL_GGUF)} bytes of 1970-01-02 00:00:00 UTC"),)


def test_a_server_names_what_is_no_model(tmp_path: Path) -> None:
    """Pipes, devices, the kernel's files and loops of links are refused with their reason, and not opened."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "device").symlink_to("/dev/zero")
    models = Models()
    assert "not a regular file" in reason(models, tmp_path / "pipe")
    assert "symbolic links" in reason(models, tmp_path / "loop")
    for name in ("/dev/zero", "/proc/kmsg", "/proc/self/mem", "/proc/self/fd", f"{tmp_path}/device"):
        assert "the kernel provides" in reason(models, name) or "not a regular file" in reason(models, name)


def test_a_header_takes_memory_of_its_own(tmp_path: Path) -> None:
    """A file of 41 MB with 9,999 lists, five such shards, and headers of many values leave this process as large as it was."""
    hostile = lists_of_heads(9999)
    (tmp_path / "a.gguf").write_bytes(hostile)
    for number in range(1, 6):
        (tmp_path / f"s-{number:05d}-of-00005.gguf").write_bytes(hostile)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(with_header('{"__metadata__": [' + ",".join(["[[]]"] * 240_000) + "]}"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    models = Models()
    for path in (tmp_path / "a.gguf", tmp_path / "s-00001-of-00005.gguf", folder):
        assert isinstance(dict(models.read([str(path)]))[str(path)], Unreadable)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024  # kilobytes


@pytest.mark.parametrize("attempt", GGUF)
def test_strange_headers(tmp_path: Path, attempt: str) -> None:
    """Each is a reason, and never an exception."""
    (tmp_path / "m.gguf").write_bytes(GGUF[attempt]())
    assert reason(Models(), tmp_path / "m.gguf").startswith(f"{tmp_path}/m.gguf: ")


def test_sparse_files(tmp_path: Path) -> None:
    """A terabyte of nothing is read to where its header ends, or has none."""
    for name, start in (
        ("a.gguf", b""),
        ("b.gguf", SMALL_GGUF[:24]),
        ("c.gguf", GGUF["a text longer than the file"]()),
    ):
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(1 << 40)
        ((_, found),) = Models().read([str(tmp_path / name)])
        assert isinstance(
            found, WeightFacts if name == "b.gguf" else Unreadable
        )  # zeros are pairs and tensors without a size


def test_one_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: list[object]) -> None:
    """It is given up with its reason, kept so for a while, then tried again; a model beside it is read."""
    hanging, path, other = tmp_path / "hangs.py", tmp_path / "a.gguf", tmp_path / "b.gguf"
    hanging.write_text(HANGING)
    for each in (path, other):
        each.write_bytes(SMALL_GGUF)
    models = Models(stall_seconds=0.3)
    with monkeypatch.context() as patch:
        patch.setattr(worker_process, "WORKER", hanging)
        assert reason(models, path) == f"{path}: no answer from its filesystem for 0.3 s"
    assert "no answer" in reason(models, path)
    assert jobs == [str(path)]
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + AGAIN_SECONDS)
    found = dict(Models(stall_seconds=30.0).read([str(other)]))
    assert isinstance(found[str(other)], WeightFacts)
    models._workers.stall_seconds = 30.0
    assert isinstance(dict(models.read([str(path)]))[str(path)], WeightFacts)


def test_one_that_takes_very_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that gets on, but to no end, is ended."""
    slow, path = tmp_path / "slow.py", tmp_path / "a.gguf"
    slow.write_text("import os, time\nwhile True:\n    os.write(1, b'.')\n    time.sleep(0.05)\n")
    path.write_bytes(SMALL_GGUF)
    monkeypatch.setattr(worker_process, "WORKER", slow)
    assert reason(Models(most_seconds=0.3), path) == f"{path}: took more than 0.3 s to be read"


def test_one_that_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its death, as where the kernel is out of memory, is a reason."""
    deadly, path = tmp_path / "deadly.py", tmp_path / "a.gguf"
    deadly.write_text("import os\nos.kill(os.getpid(), 9)\n")
    path.write_bytes(SMALL_GGUF)
    monkeypatch.setattr(worker_process, "WORKER", deadly)
    assert reason(Models(), path) == f"{path}: the scanning process ended without an answer"


def test_a_folder_and_a_swapped_file(tmp_path: Path) -> None:
    """A folder of tensors is read as ever; a file that another one replaces is another file."""
    (tmp_path / "model.safetensors").write_bytes(safetensors({"lm_head.weight": 64}))
    (tmp_path / "model.safetensors.index.json").write_bytes(index({"lm_head.weight": "model.safetensors"}, 64))
    assert isinstance(dict(Models().read([str(tmp_path)]))[str(tmp_path)], WeightFacts)
    path, models = tmp_path / "a.gguf", Models()
    path.write_bytes(SMALL_GGUF)
    models.read([str(path)])
    (tmp_path / "new").write_bytes(b"no model")
    (tmp_path / "new").replace(path)
    assert "does not begin with GGUF" in reason(models, path)


def test_cancelled(tmp_path: Path) -> None:
    """A read ends when the exporter does."""
    (tmp_path / "a.gguf").write_bytes(SMALL_GGUF)
    cancel = threading.Event()
    cancel.set()
    ((_, found),) = Models().read([f"{tmp_path}/a.gguf"], cancel)
    assert found == Unreadable(f"{tmp_path}/a.gguf: the scan was cancelled")
