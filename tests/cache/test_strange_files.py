"""A strange file is one unreadable entry: the models beside it are seen, and it costs neither memory nor a scan."""

import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.cache import files, scan_share, scanner, weights, worker, worker_process
from exporter.cache.facts import CacheFolder, WeightFacts
from exporter.cache.layouts import LAYOUTS, Layout
from exporter.cache.links import LinkLoops
from exporter.cache.memory import memory_for_scans
from exporter.cache.model_file import Unreadable, read_model
from exporter.cache.mounts import kernel_devices
from exporter.cache.scan_share import ScanJob, ScanShare
from exporter.cache.scanner import Scanner
from exporter.cache.tree import ScanErrors
from tests.cache.build import SMALL_GGUF, Hub, answer_of, gguf, ollama, safetensors
from tests.cache.strange import (
    GGUF,
    LAYERS_WITHOUT_END,
    MANIFESTS,
    SAFETENSORS,
    lists_of_heads,
    ring_of_links,
    ways_out,
    with_header,
)

FOLDERS = ("files", "lm_studio", "llama_cpp")
MIB = 1 << 20


def complete(answer: ScanShare) -> list[str]:
    """The names of the models that are whole."""
    assert answer.error is None
    return sorted(model.name for model in answer.models if model.complete)


@pytest.mark.parametrize("attempt", SAFETENSORS)
def test_strange_safetensors_in_a_hub(tmp_path: Path, attempt: str) -> None:
    """Its repository is there, with one unreadable or cut file, and the one beside it is complete."""
    hub = Hub(tmp_path)
    hub.repository("org/strange", {"model.safetensors": SAFETENSORS[attempt]})
    hub.repository("org/good", {"model.safetensors": safetensors({"lm_head.weight": 64})})
    answer = answer_of("huggingface", tmp_path)
    assert "org/good" in complete(answer)
    assert answer.unreadable_entries == 1
    (strange,) = [model for model in answer.models if model.name == "org/strange"]
    assert (strange.weights, strange.files) == (None, 1)


@pytest.mark.parametrize("kind", FOLDERS)
def test_strange_safetensors_in_folders(tmp_path: Path, kind: str) -> None:
    """All of them in one cache: as many unreadable entries, and the model beside them is complete."""
    for number, content in enumerate(SAFETENSORS.values()):
        (tmp_path / f"m{number}").mkdir()
        (tmp_path / f"m{number}" / "model.safetensors").write_bytes(content)
    (tmp_path / "good.gguf").write_bytes(SMALL_GGUF)
    answer = answer_of(kind, tmp_path)
    assert "good" in complete(answer)
    assert answer.unreadable_entries == len(SAFETENSORS)
    assert all(model.weights is None for model in answer.models if model.name.startswith("m"))


def test_offsets_as_files_have_them(tmp_path: Path) -> None:
    """Tensors in any order, empty ones among them, are read."""
    (tmp_path / "model.safetensors").write_bytes(
        with_header(
            '{"b": {"data_offsets": [8, 24]}, "a": {"data_offsets": [0, 8]}, "e": {"data_offsets": [24, 24]},'
            ' "__metadata__": {"data_offsets": "x"}}'
        )
        + bytes(24)
    )
    found = read_model(str(tmp_path))
    assert isinstance(found, WeightFacts)
    assert found.weight_bytes == 24


@pytest.mark.parametrize("attempt", GGUF)
def test_strange_ggufs(tmp_path: Path, attempt: str) -> None:
    """In folders, in a hub and in an Ollama's store: none hides the model beside it, none is complete."""
    content = GGUF[attempt]()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "strange.gguf").write_bytes(content)
    (tmp_path / "folder" / "good.gguf").write_bytes(SMALL_GGUF)
    assert complete(answer_of("files", tmp_path / "folder")) == ["good"]
    hub = Hub(tmp_path / "hub")
    hub.repository("org/strange", {"strange.gguf": content})
    hub.repository("org/good", {"good.gguf": SMALL_GGUF})
    assert complete(answer_of("huggingface", hub.root)) == ["org/good"]
    ollama(tmp_path / "ollama", "strange:1", {"model": content, "config": b"{}"})
    ollama(tmp_path / "ollama", "good:1", {"model": SMALL_GGUF, "config": b"{}"})
    of_ollama = {model.name: model.weights for model in answer_of("ollama", tmp_path / "ollama").models if model.name}
    assert of_ollama["strange:1"] is None
    assert of_ollama["good:1"] is not None
    assert isinstance(read_model(str(tmp_path / "folder" / "strange.gguf")), Unreadable)


def test_what_is_kept_of_a_gguf(tmp_path: Path) -> None:
    """Of five shards of 41 MB that are lists alone, under 8 MiB are in memory at any time."""
    content = lists_of_heads(9999)
    assert len(content) > 41_000_000
    for number in range(1, 6):
        (tmp_path / f"m-{number:05d}-of-00005.gguf").write_bytes(content)
    del content
    tracemalloc.start()
    try:
        (model,) = [model for model in answer_of("files", tmp_path).models if model.name]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (model.complete, model.files) == (False, 5)
    assert peak < 8 * MIB


def test_lists_that_are_used_have_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the bound of all elements, lists by keys that are used are bounded by themselves."""
    monkeypatch.setattr(weights, "MAX_ELEMENTS", 1 << 40)
    (tmp_path / "m.gguf").write_bytes(lists_of_heads(9999))
    found = read_model(str(tmp_path / "m.gguf"))
    assert isinstance(found, Unreadable)
    assert found.reason.endswith("more lists than a model has")


def test_layers_without_end(tmp_path: Path) -> None:
    """A number of layers that no model has takes no memory: what would grow with it is unknown."""
    (tmp_path / "m.gguf").write_bytes(LAYERS_WITHOUT_END)
    found = read_model(str(tmp_path / "m.gguf"))
    assert isinstance(found, WeightFacts)
    assert found.kv_elements_per_token is None
    assert found.weight_bytes == 32 * 34


def test_a_header_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading ends when a file's time is over."""
    (tmp_path / "m.gguf").write_bytes(SMALL_GGUF)
    monkeypatch.setattr(weights, "MAX_SECONDS", -1.0)
    found = read_model(str(tmp_path / "m.gguf"))
    assert isinstance(found, Unreadable)
    assert "took more than" in found.reason


def test_more_tensors_than_a_model_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files of one model share a bound; the model beside it is complete."""
    monkeypatch.setattr(files, "MAX_MODEL_TENSORS", 3)
    for number in (1, 2):
        (tmp_path / f"m-{number:05d}-of-00002.gguf").write_bytes(SMALL_GGUF)
    (tmp_path / "good.gguf").write_bytes(SMALL_GGUF)
    answer = answer_of("files", tmp_path)
    assert complete(answer) == ["good"]
    assert answer.problems == (f"{tmp_path}: can't be read: WeightsError: more than 3 tensors",)


@pytest.mark.parametrize("attempt", MANIFESTS)
def test_strange_manifests(tmp_path: Path, attempt: str) -> None:
    """One unreadable entry and an incomplete model; the tag beside it is complete."""
    ollama(tmp_path, "strange:1", {"model": SMALL_GGUF, "config": b"{}"}).write_bytes(MANIFESTS[attempt])
    ollama(tmp_path, "good:1", {"model": SMALL_GGUF, "config": b"{}"})
    answer = answer_of("ollama", tmp_path)
    assert complete(answer) == ["good:1"]
    assert answer.unreadable_entries == 1


@pytest.mark.parametrize("kind", [*FOLDERS, "huggingface", "ollama"])
@pytest.mark.parametrize("raised", [MemoryError(), OverflowError("int too large"), RuntimeError("\x1b[2J")])
def test_whatever_judging_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, raised: Exception) -> None:
    """It is that model's problem, with its reason in words; the others are complete."""
    strange = gguf({"general.architecture": "strange"}, {"token_embd.weight": ((32, 32), 8)})
    weights_of = weights.weights_of_gguf

    def judge(headers: object, data_bytes: int) -> WeightFacts:
        found = weights_of(headers, data_bytes)  # type: ignore[arg-type]  # what the caller gave
        if found.architecture == "strange":
            raise raised
        return found

    monkeypatch.setattr(files, "weights_of_gguf", judge)
    monkeypatch.setattr("exporter.cache.ollama.weights_of_gguf", judge)
    contents = {"strange": strange, "good": SMALL_GGUF}
    for name, content in contents.items():
        if kind == "huggingface":
            Hub(tmp_path).repository(f"org/{name}", {"m.gguf": content})
        elif kind == "ollama":
            ollama(tmp_path, f"{name}:1", {"model": content, "config": b"{}"})
        else:
            (tmp_path / f"{name}.gguf").write_bytes(content)
    answer = answer_of(kind, tmp_path)
    assert any("good" in name for name in complete(answer))
    assert answer.unreadable_entries == 1
    assert f"can't be read: {type(raised).__name__}" in answer.problems[0]
    assert answer.problems[0].isprintable()
    assert {bool(model.weights) for model in answer.models if "strange" in model.name} == {False}


def test_a_model_by_its_path_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's own model file ends nothing either."""

    def judge(_headers: object, _bytes: int) -> WeightFacts:
        raise MemoryError

    monkeypatch.setattr("exporter.cache.model_file.weights_of_gguf", judge)
    (tmp_path / "m.gguf").write_bytes(SMALL_GGUF)
    assert read_model(str(tmp_path / "m.gguf")) == Unreadable(f"{tmp_path}/m.gguf: can't be read: MemoryError")


# Signs of life ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*FOLDERS, "huggingface", "ollama"])
def test_a_sign_of_life_for_each_file(tmp_path: Path, kind: str) -> None:
    """A hundred files in one folder give at least a hundred: no folder is so large that its scan looks dead."""
    if kind == "huggingface":
        Hub(tmp_path).repository("org/m", {f"{n}.gguf": SMALL_GGUF + bytes(n) for n in range(100)})
    elif kind == "ollama":
        for n in range(100):
            ollama(tmp_path, f"m:{n}", {"model": SMALL_GGUF + bytes(n), "config": b"{}"})
    else:
        for n in range(100):
            (tmp_path / f"{n}.gguf").write_bytes(SMALL_GGUF)
    signs: list[None] = []
    job = ScanJob(CacheFolder("it", kind, str(tmp_path)))
    answer = scan_share.scan_share(job, 0, time.time(), lambda: signs.append(None))
    assert answer.error is None
    assert len(signs) >= 200  # when it is listed, and when its header is read


def test_signs_of_life_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast a scan is, its process writes one a fifth of a second."""
    written: list[bytes] = []
    now = 100.0
    monkeypatch.setattr(worker, "_write", lambda _, piece: written.append(piece))
    monkeypatch.setattr(time, "monotonic", lambda: now)
    tick = worker._sign_of_life()
    for _ in range(1000):
        tick()
    assert written == [worker.ALIVE]
    now += 0.3
    tick()
    assert written == [worker.ALIVE] * 2


# Memory ----------------------------------------------------------------------------------------------------------------


def test_the_scanner_is_bounded(tmp_path: Path) -> None:
    """In its own process, a file that needs more memory than a scan may take is that model's problem."""
    bound = _own_bytes() + 24 * MIB
    header = '{"__metadata__": [' + ",".join(["[[]]"] * 240_000) + "]}"
    for name, content in {"strange": with_header(header), "good": safetensors({"lm_head.weight": 64})}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    facts = Scanner(memory_bytes=bound).scan(CacheFolder("it", "files", str(tmp_path)))
    assert facts.error is None
    assert [model.name for model in facts.models if model.weights] == ["good"]
    assert facts.unreadable_entries == 1
    assert "MemoryError" in facts.problems[0]
    assert Scanner(memory_bytes=384 * MIB).scan(CacheFolder("it", "files", str(tmp_path))).unreadable_entries == 0


def _own_bytes() -> int:
    """The address space that the scanning process takes before it scans anything, on this machine."""
    import subprocess
    import sys

    program = (
        f"import sys; sys.path.insert(0, {str(Path(scanner.__file__).parents[2])!r})\n"
        "import exporter.cache.scan_share, pickle, resource, contextlib\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmSize')).split()[1])\n"
    )
    output = subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True, capture_output=True, text=True)
    return int(output.stdout) << 10


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/", {}, 384),
        ("0::/", {"memory.max": "max"}, 384),
        ("0::/", {"memory.max": str(256 * MIB)}, 128),
        ("0::/", {"memory.max": str(64 * MIB)}, 96),
        ("0::/a/b", {"a/memory.max": str(1024 * MIB), "a/memory.high": str(512 * MIB), "a/b/memory.max": "max"}, 256),
        ("4:memory:/docker/x\n0::/", {"memory/docker/x/memory.limit_in_bytes": str(300 * MIB)}, 150),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 384),
        ("4:cpu:/", {"memory.max": str(256 * MIB)}, 384),
        ("0::/../..", {"memory.max": str(256 * MIB)}, 128),
        ("nonsense", {"memory.max": "1" * 30}, 384),
    ],
)
def test_the_memory_of_scans_follows_the_control_group(
    tmp_path: Path, group: str, files: dict[str, str], expected: int
) -> None:
    """Half of the smallest limit above this process, so that a scan never takes the exporter's own; 96 to 384 MiB."""
    (tmp_path / "own").write_text(group)
    for name, content in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(content)
    assert memory_for_scans(str(tmp_path / "cgroup"), str(tmp_path / "own")) == expected * MIB


def test_a_scan_without_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache whose listing alone needs too much is an error that says how much it may take."""

    def scan(*_: object) -> list[object]:
        raise MemoryError

    monkeypatch.setattr(scan_share, "LAYOUTS", {**LAYOUTS, "files": Layout(scan)})  # type: ignore[arg-type]  # it only raises
    job = ScanJob(CacheFolder("it", "files", str(tmp_path)), memory_bytes=96 * MIB)
    answer = scan_share.scan_share(job, 0, 0.0)
    assert answer.error == f"{tmp_path}: needs more than 96 MiB of memory to be scanned"


def test_an_answer_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a scan tells is bounded too: it comes into the exporter's own memory."""
    for n in range(50):
        (tmp_path / f"{n}.gguf").write_bytes(SMALL_GGUF)
    monkeypatch.setattr(worker_process, "MAX_ANSWER_BYTES", 2000)
    facts = Scanner().scan(CacheFolder("it", "files", str(tmp_path)))
    assert facts.error == "holds more than 0 MiB of facts"


def test_the_kernel_ends_the_scanner_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine runs out of memory, the scanning process is ended before any other."""
    told = tmp_path / "score"
    source = worker_process.WORKER.read_text()
    spy = source.replace(
        "    share, to_first, others = 0",
        f"    open({str(told)!r}, 'w').write(open('/proc/self/oom_score_adj').read())\n    share, to_first, others = 0",
    ).replace("sys.path.insert(0, ", f"sys.path.insert(0, {str(worker_process.WORKER.parents[2])!r} or ")
    (tmp_path / "spy.py").write_text(spy)
    monkeypatch.setattr(worker_process, "WORKER", tmp_path / "spy.py")
    (tmp_path / "cache").mkdir()
    assert Scanner().scan(CacheFolder("it", "files", f"{tmp_path}/cache")).error is None
    assert int(told.read_text()) == 1000


# Links -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("links", [1, 2, 39, 1609])
def test_a_loop_of_links(tmp_path: Path, kind: str, links: int) -> None:
    """However many links are in it, it is one unreadable entry; another loop is another."""
    ring_of_links(tmp_path, links)
    (tmp_path / "good.gguf").write_bytes(SMALL_GGUF)
    (tmp_path / "other").symlink_to("other")
    answer = answer_of(kind, tmp_path)
    assert complete(answer) == ["good"]
    assert answer.unreadable_entries == 2


def test_a_loop_of_links_in_a_hub(tmp_path: Path) -> None:
    """It is one unreadable entry there as well."""
    repository = Hub(tmp_path).repository("org/m", {"good.gguf": SMALL_GGUF})
    ring_of_links(next((repository / "snapshots").iterdir()), 1609)
    assert answer_of("huggingface", tmp_path).unreadable_entries == 1


def test_a_loop_across_folders(tmp_path: Path) -> None:
    """Two links in two folders that lead to each other are one loop."""
    for here, there in (("a", "b"), ("b", "a")):
        (tmp_path / here).mkdir()
        (tmp_path / here / "x").symlink_to(f"../{there}/x")
    assert answer_of("files", tmp_path).unreadable_entries == 1


def test_folders_that_all_lead_to_each_other(tmp_path: Path) -> None:
    """Forty folders with a link to each of the others, and a loop in each: each is entered once, by its own name."""
    for n in range(40):
        folder = tmp_path / f"d{n}"
        folder.mkdir()
        (folder / "m.gguf").write_bytes(SMALL_GGUF)
        (folder / "loop").symlink_to("loop")
        for other in range(40):
            (folder / f"to{other}").symlink_to(f"../d{other}")
    answer = answer_of("files", tmp_path)
    models = [model for model in answer.models if model.name]
    assert sorted(model.name for model in models) == sorted(f"d{n}/m" for n in range(40))
    assert answer.unreadable_entries == 40


def test_links_that_lead_out(tmp_path: Path) -> None:
    """Each that leads to the kernel's files, to the system's folders or above the cache is one entry, and not followed."""
    cache = tmp_path / "above" / "cache"
    cache.mkdir(parents=True)
    for name, target in ways_out(cache):
        (cache / name).symlink_to(target)
    (cache / "kernel.gguf").symlink_to("/proc/version")
    (cache / "good.gguf").write_bytes(SMALL_GGUF)
    signs: list[None] = []
    job = ScanJob(CacheFolder("it", "files", str(cache)))
    answer = scan_share.scan_share(job, 0, time.time(), lambda: signs.append(None))
    assert complete(answer) == ["good"]
    assert answer.unreadable_entries == len(list(ways_out(cache))) + 1
    assert len(signs) < 30  # one for each entry of this one folder


def test_links_to_where_models_may_be(tmp_path: Path) -> None:
    """Another disk's folder, and one in memory, are followed."""
    (tmp_path / "disk" / "org").mkdir(parents=True)
    (tmp_path / "disk" / "org" / "m.gguf").write_bytes(SMALL_GGUF)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "linked").symlink_to(tmp_path / "disk")
    assert complete(answer_of("files", tmp_path / "cache")) == ["linked/org/m"]


def test_links_to_very_many_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a bound of linked folders the rest is left out, which is one entry; real folders are all seen."""
    monkeypatch.setattr(files, "MAX_LINKED_FOLDERS", 10)
    (tmp_path / "cache" / "real").mkdir(parents=True)
    (tmp_path / "cache" / "real" / "good.gguf").write_bytes(SMALL_GGUF)
    for n in range(50):
        (tmp_path / "disk" / f"d{n}").mkdir(parents=True)
    (tmp_path / "cache" / "a").symlink_to(tmp_path / "disk")
    answer = answer_of("files", tmp_path / "cache")
    assert complete(answer) == ["real/good"]
    assert answer.unreadable_entries == 1


def test_links_of_a_hub_into_the_kernel(tmp_path: Path) -> None:
    """A file and a reference that lead there are two entries, and nothing of what they hold is told."""
    repository = Hub(tmp_path).repository("org/m", {"good.gguf": SMALL_GGUF})
    (snapshot,) = (repository / "snapshots").iterdir()
    (snapshot / "model.safetensors").symlink_to("/proc/version")
    (repository / "refs" / "main").unlink()
    (repository / "refs" / "main").symlink_to("/proc/version")
    answer = answer_of("huggingface", tmp_path)
    assert answer.unreadable_entries == 2
    assert Path("/proc/version").read_text()[:10] not in repr(answer)
    assert complete(answer) == ["org/m"]


def test_the_kernels_devices() -> None:
    """They are told by the kind of filesystem; a line that is cut tells nothing."""
    table = b"22 1 0:21 / /proc rw shared:1 - proc proc rw\n23 1 254:0 / / rw - ext4 /dev/vda rw\n24 1 0:5 / /dev rw - devtmpfs x\nshort"
    assert kernel_devices(table) == {os.makedev(0, 21), os.makedev(0, 5)}
    assert kernel_devices(b"") == frozenset()


@pytest.mark.parametrize("make", [lambda path: path / "gone", lambda path: path])
def test_what_is_no_loop_of_links(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """A path that is no link is told each time."""
    loops = LinkLoops()
    assert [loops.is_new(str(make(tmp_path))) for _ in range(2)] == [True, True]


def test_a_problem_keeps_its_reason() -> None:
    """Only loops are told once: two files of one reason are two entries."""
    scan_errors = ScanErrors(0.0)
    for name in "ab":
        scan_errors.add(name, PermissionError(13, "Permission denied"))
    assert scan_errors.unreadable == 2
