"""Files that a server names as its model's: the running daemon reads each in a bounded process, and answers meanwhile."""

import ctypes
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.attacks.json_answers import JsonAnswers
from tests.attacks.running import RunningExporter, configuration, running
from tests.cache.build import SMALL_GGUF, safetensors
from tests.cache.strange import GGUF, SAFETENSORS, lists_of_heads, with_header
from tests.server_thread import in_thread
from tests.waiting import eventually

MACHINE = Path(__file__).parents[1] / "fixtures" / "host" / "sys" / "radeon-880m"
MOST_MEGABYTES = 120
"""Of the daemon; it has some 60 with nothing to do, and one of these files would take 331 MB of it."""


class _Naming(JsonAnswers, BaseHTTPRequestHandler):
    """A llama-server whose model's file is what its path says. Made up."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        _, number, asked = self.path.split("/", 2)
        server = self.server
        assert isinstance(server, NamingServer)
        if asked == "v1/models":
            self.send_json(200, {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "llamacpp"}]})
        elif asked == "props":
            self.send_json(
                200, {"model_path": server.files[int(number)], "build_info": "b11434-0d4c86e", "total_slots": 1}
            )
        else:
            self.send_json(404, {"error": {"message": "no"}})

    def do_POST(self) -> None:
        self.read_body()
        self.send_json(404, {"error": {"message": "no"}})


class NamingServer(ThreadingHTTPServer):
    """Which file it names, by the number in the path."""

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Naming)
        self.files = [str(each) for each in files]


@contextmanager
def naming(files: Sequence[Path]) -> Iterator[list[str]]:
    """The URLs of servers, each of which names one of the files as its model's."""
    with in_thread(NamingServer(files)) as server:
        yield [f"http://127.0.0.1:{server.server_port}/{number}" for number in range(len(files))]


def watching(folder: Path, urls: Mapping[str, str]) -> Path:
    """A configuration that watches such servers, by the names of their targets."""
    targets = [{"name": name, "backend": "llama_cpp", "modules": ["default"], "url": url} for name, url in urls.items()]
    text = f"targets: {json.dumps(targets)}\nmodules: {{default: {{interval: 10m, max_tokens: 8}}}}\n"
    config = configuration(folder, text)
    # A machine with one GPU: of another one nothing would be said of the model's size.
    config.write_text(config.read_text().replace(f"sysfs: {folder}", f"sysfs: {MACHINE}", 1))
    return config


def told_of(daemon: RunningExporter) -> dict[str, str]:
    """What the status says of each target, by its name."""
    status = json.loads(daemon.ask("/api/v1/status").body)
    return {each["target"]: json.dumps(each, ensure_ascii=False) for each in status["targets"]}


def _written(content: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return make


def _sparse(size: int, start: bytes = b"") -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        with path.open("wb") as file:
            file.write(start)
            file.truncate(size)
        return path

    return make


def _folder(**files: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.mkdir()
        for name, content in files.items():
            (path / name.replace("_", ".")).write_bytes(content)
        return path

    return make


def _link(target: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.symlink_to(target)
        return path

    return make


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _shards(path: Path) -> Path:
    for number in range(1, 6):
        path.with_name(f"{path.name}-{number:05d}-of-00005.gguf").write_bytes(lists_of_heads(9999))
    return path.with_name(f"{path.name}-00003-of-00005.gguf")


def _crowd(path: Path) -> Path:
    path.mkdir()
    for number in range(5000):
        (path / f"{number}.safetensors").touch()
    return path


ATTEMPTS: Mapping[str, Callable[[Path], Path]] = {
    "9,999 lists in 41 MB": _written(lists_of_heads(9999)),
    "five shards of them": _shards,
    "five million empty texts": _written(GGUF["five million empty texts"]()),
    "a terabyte of nothing": _sparse(1 << 40),
    "a header without end": _sparse(1 << 40, GGUF["a text longer than the file"]()),
    "an empty file": _written(b""),
    "a FIFO": _pipe,
    "a link to /dev/zero": _link("/dev/zero"),
    "a link to a terminal": _link("/dev/tty"),
    "a link to itself": lambda path: _link(path.name)(path),
    "a link to the kernel's memory": _link("/proc/kcore"),
    "a link to the kernel's log": _link("/proc/kmsg"),
    "a link to a process's memory": _link("/proc/self/mem"),
    "the devices": lambda _: Path("/dev"),
    "5,000 files": _crowd,
    "a tensors' header of 2 million values": _folder(model_safetensors=SAFETENSORS["two million values"]),
    "a header of 700,000 lists": _folder(model_safetensors=with_header('{"a": [' + "[]," * 360_000 + "0]}")),
    "a config that is deep": _folder(model_safetensors=safetensors({"lm_head.weight": 64}), config_json=b"[" * 100_000),
}


def peak_megabytes(daemon: RunningExporter) -> float:
    """The most memory that the daemon has had resident."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")
def test_no_file_blinds_the_daemon(tmp_path: Path) -> None:
    """Each attempt is told as one target's unreadable file; the daemon stays small, answers meanwhile, and reads the good one."""
    places = {name: make(tmp_path / f"m{number}") for number, (name, make) in enumerate(ATTEMPTS.items())}
    places["good"] = _written(SMALL_GGUF)(tmp_path / "good.gguf")
    left = set(ATTEMPTS)
    with (
        naming(list(places.values())) as urls,
        running(watching(tmp_path, dict(zip(places, urls, strict=True)))) as daemon,
    ):

        def told() -> bool:
            nonlocal left
            assert daemon.ask("/-/healthy").status == 200
            found = told_of(daemon)
            left = {name for name in left if "its file can't be read" not in found[name]}
            return not left

        try:
            eventually(told, "a word on each file", seconds=120, every=0.5)
        except AssertionError:
            pytest.fail(f"nothing was said of {left}")
        assert "can't be read" not in told_of(daemon)["good"]
        assert peak_megabytes(daemon) < MOST_MEGABYTES
        assert daemon.ask("/metrics").status == 200


@contextmanager
def hanging_filesystem(path: Path) -> Iterator[Path]:
    """A mounted filesystem whose server never answers, as NFS without its network: each access waits."""
    path.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"hangs", os.fsencode(path), b"fuse", 0, options) != 0:
            pytest.skip("a filesystem can't be mounted here")
        try:
            yield path
        finally:
            libc.umount2(os.fsencode(path), 2)
    finally:
        os.close(device)


@pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid() != 0, reason="needs root and /dev/fuse"
)
def test_a_filesystem_that_hangs_holds_up_nothing_else(tmp_path: Path) -> None:
    """A model's file on it: scrapes and other collectors go on, the one that hangs is reported, and SIGTERM ends the daemon."""
    with hanging_filesystem(tmp_path / "nfs") as nfs:
        places = {"there": nfs / "m.gguf", "here": _written(SMALL_GGUF)(tmp_path / "good.gguf")}
        with (
            naming(list(places.values())) as urls,
            running(watching(tmp_path, dict(zip(places, urls, strict=True)))) as daemon,
        ):
            reported = 'llm_probe_exporter_collector_success{collector="models"} 0.0'
            eventually(lambda: reported in daemon.ask("/metrics").body, "news of the collector", seconds=120, every=0.5)
            body = daemon.ask("/metrics").body
            assert 'llm_probe_exporter_collector_success{collector="sensors"} 1.0' in body
            assert daemon.ask("/-/healthy").status == 200
            assert daemon.ask("/-/reload", method="POST").status == 200
        assert daemon.process.returncode == 0
