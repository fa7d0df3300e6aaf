"""Scanning in processes of their own: the same facts, one at a time, and nothing that hangs holds anything up."""

import os
import sys
import threading
from pathlib import Path

import pytest

from exporter.cache import worker_process as module
from exporter.cache.facts import CacheFolder, filesystems
from exporter.cache.mounts import mount_of
from exporter.cache.scanner import Scanner
from tests.cache.build import SMALL_GGUF, Hub, scan, settle

HANGING = """
import os, sys, time
if os.fork() == 0:
    time.sleep(60)  # the process that it split off hangs as well
sys.stdin.buffer.read()
os.write(1, b".....")
time.sleep(60)
"""


def hub_of_many(path: Path) -> Path:
    """Thirty small repositories, settled."""
    hub = Hub(path / "hub")
    for n in range(30):
        hub.repository(f"org/m{n}", {"model.gguf": SMALL_GGUF, "config.json": b"{}"})
    settle(path)
    return hub.root


def test_the_same_in_other_processes(tmp_path: Path) -> None:
    """Two processes find what one finds here, the first time and again."""
    root = hub_of_many(tmp_path)
    scanner = Scanner(workers=2)
    folder = CacheFolder("it", "huggingface", str(root))
    here = scan("huggingface", root)
    first, there = scanner.scan(folder), scanner.scan(folder)
    assert (first.error, there.error) == (None, None)
    assert first.models == there.models == here.models
    assert first.bytes == there.bytes == here.bytes
    assert there.scan_seconds > 0
    assert there.filesystem is not None
    size = os.statvfs(root)
    assert there.filesystem.size_bytes == size.f_blocks * size.f_frsize
    assert root.is_relative_to(there.filesystem.mountpoint)


def test_errors_come_back(tmp_path: Path) -> None:
    """A cache that is a file is an error with the place's name, and no figure."""
    (tmp_path / "file").write_text("")
    facts = Scanner().scan(CacheFolder("it", "ollama", f"{tmp_path}/file"))
    assert (facts.name, facts.bytes, facts.error) == ("it", None, f"{tmp_path}/file: Not a directory")


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker that reads some folders and then hangs."""
    worker = tmp_path / "hangs.py"
    worker.write_text(HANGING)
    monkeypatch.setattr(module, "WORKER", worker)
    return worker


def test_one_that_hangs(tmp_path: Path, hanging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended with the process that it split off, marked, and the next cache is scanned."""
    scanner = Scanner(stall_seconds=0.3)
    folder = CacheFolder("it", "huggingface", str(tmp_path))
    before = set(_processes(str(hanging)))
    facts = scanner.scan(folder)
    assert (facts.bytes, facts.error) == (None, "no answer from its filesystem for 0.3 s")
    assert set(_processes(str(hanging))) == before
    monkeypatch.undo()
    scanner._processes.stall_seconds = 30.0
    assert scanner.scan(CacheFolder("other", "files", str(tmp_path))).error is None
    assert scanner.scan(folder).error is None


def _processes(argument: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if argument in (process / "cmdline").read_text() and "State:\tZ" not in (process / "status").read_text():
                found.append(process.name)
        except OSError:
            continue
    return found


def test_one_that_cannot_be_killed(tmp_path: Path, hanging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its process waits in the kernel its cache isn't scanned again; others are; later it is."""
    assert hanging.exists()
    gone, alive = module._gone, threading.Event()
    alive.set()
    monkeypatch.setattr(module, "_gone", lambda process, within=0.0: not alive.is_set() and gone(process, within))
    scanner = Scanner(stall_seconds=0.2)
    folder = CacheFolder("it", "huggingface", str(tmp_path))
    assert "no answer" in str(scanner.scan(folder).error)
    monkeypatch.setattr(module, "WORKER", Path(module.__file__).with_name("worker.py"))
    scanner._processes.stall_seconds = 30.0
    assert scanner.scan(folder).error == "has not answered since an earlier scan"
    alive.clear()
    assert scanner.scan(CacheFolder("other", "files", str(tmp_path))).error is None
    assert scanner.scan(folder).error is None


def test_cancelled(tmp_path: Path, hanging: Path) -> None:
    """A scan ends when the exporter does."""
    assert hanging.exists()
    cancel = threading.Event()
    cancel.set()
    facts = Scanner().scan(CacheFolder("it", "huggingface", str(tmp_path)), cancel=cancel)
    assert facts.error == "the scan was cancelled"


def test_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans that are asked for together run one after the other."""
    running, most, together = 0, 0, threading.Lock()
    start, end = module._start, module._end

    def started() -> object:
        nonlocal running, most
        with together:
            running += 1
            most = max(most, running)
        return start()

    def ended(process: object) -> bool:
        nonlocal running
        done = end(process)  # type: ignore[arg-type]  # what ``started`` gave
        with together:
            running -= 1
        return done

    monkeypatch.setattr(module, "_start", started)
    monkeypatch.setattr(module, "_end", ended)
    scanner = Scanner()
    threads = [
        threading.Thread(target=scanner.scan, args=(CacheFolder(f"c{n}", "files", str(tmp_path)),)) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (running, most) == (0, 1)


def test_a_worker_that_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends without an answer, or doesn't start, is an error of this cache."""
    folder = CacheFolder("it", "files", str(tmp_path))
    monkeypatch.setattr(module, "WORKER", tmp_path / "missing.py")
    assert Scanner().scan(folder).error == "the scanning process ended without an answer"
    monkeypatch.setattr(sys, "executable", f"{tmp_path}/no-python")
    assert "did not start" in str(Scanner().scan(folder).error)


MOUNTS = b"""\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /mnt/net rw - nfs4 server:/x rw
31 22 0:41 /vol /data\\040two rw - btrfs /dev/vdb rw
32 22 254:0 /etc/hosts /etc/hosts rw - ext4 /dev/vda rw
33 22 254:1 / /home/me rw - ext4 /dev/vdc rw
34 22 254:1 /models /srv/models rw - ext4 /dev/vdc rw
short line
"""


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/var/cache", ("/", "254:0")),
        ("/mnt/net", ("/mnt/net", "0:40")),
        ("/mnt/network", ("/", "254:0")),
        ("/data two/x", ("/data two", "0:41")),
        ("/etc/hosts", ("/", "254:0")),
        ("/srv/models/x", ("/home/me", "254:1")),
    ],
)
def test_mount_points(path: str, mount: tuple[str, str]) -> None:
    """By the longest mount point above a path; one device goes by one name, however often it is mounted."""
    assert mount_of(path, MOUNTS) == mount
    assert mount_of(path, b"") is None


def test_each_filesystem_once(tmp_path: Path) -> None:
    """Two caches on one filesystem give one."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    scanner = Scanner()
    facts = tuple(scanner.scan(CacheFolder(name, "files", f"{tmp_path}/{name}")) for name in "ab")
    assert len(filesystems(facts)) == 1


def test_a_scan_steps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scanning process runs at a lower priority than the exporter."""
    source = module.WORKER.read_text()
    told = tmp_path / "nice"
    spy = source.replace("os.nice(job.niceness)", f"open({str(told)!r}, 'w').write(str(os.nice(job.niceness)))")
    root = str(module.WORKER.parent.parent.parent)
    spy = spy.replace("sys.path.insert(0, ", f"sys.path.insert(0, {root!r} or ")
    (tmp_path / "spy.py").write_text(spy)
    monkeypatch.setattr(module, "WORKER", tmp_path / "spy.py")
    assert Scanner(niceness=7).scan(CacheFolder("it", "files", str(tmp_path))).error is None
    assert int(told.read_text()) == min(os.nice(0) + 7, 19)
