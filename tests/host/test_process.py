"""Servers that are plain processes, from a captured ``/proc`` and from made-up processes in its form."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.host.proc import descendants, read_command_line, read_container, read_stat, read_unit
from exporter.host.process import (
    NO_PROC,
    OTHERS_HIDDEN,
    OWN_CONTAINER,
    ProcessFacts,
    ProcessReading,
    process_of,
    read_processes,
    settings_of_process,
    working,
)
from exporter.launch.settings import LaunchSettings
from tests.host.proc_tree import LLAMA, SOCKET, ProcTree
from tests.waiting import eventually

ID = "0123456789ab" * 5 + "0123"


def read(tree: ProcTree) -> ProcessReading:
    """What is read of a tree, with 100 clock ticks a second."""
    return read_processes(tree.path, ticks_per_second=100)


def only(reading: ProcessReading) -> ProcessFacts:
    (process,) = reading.processes
    return process


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    """A machine on which no server runs."""
    return ProcTree(tmp_path / "proc")


@pytest.fixture
def captured(tmp_path: Path) -> ProcTree:
    """The machine on which llama-server runs."""
    return ProcTree(tmp_path / "proc", captured=True)


def test_a_captured_llama_server(captured: ProcTree, tmp_path: Path) -> None:
    """All that the same user can read of a real llama-server: settings, port, start, unit, and that the CPU computes."""
    captured.open_sockets(LLAMA, SOCKET)
    (tmp_path / "tiny.gguf").touch()
    (captured.path / str(LLAMA) / "cwd").symlink_to(tmp_path)
    reading = read(captured)
    process = only(reading)
    assert reading.hidden == ""
    assert (process.pid, process.pids, process.user_id, process.unit) == (LLAMA, (LLAMA,), 0, "llama-server.service")
    assert (process.port, process.listening, process.network) == (18231, True, "own")
    assert process.start_ticks == 276053
    assert process.started_at_seconds == pytest.approx(1795827723 + 2760.53)
    assert process.launch.visible_devices == (("HIP_VISIBLE_DEVICES", "0"),)
    assert settings_of_process(process, layers=4) == {
        "compute": "cpu",
        "context": "2048",
        "cpu_offload": "all",
        "flash_attention": "on",
        "kv_cache": "q8_0/f16",
        "micro_batch": "256",
        "slots": "2",
        "speculative": "none",
    }
    assert (process.model_file, process.unknown) == (str(tmp_path / "tiny.gguf"), ())
    assert "canary" not in repr(reading)


def test_the_same_of_another_user(captured: ProcTree) -> None:
    """Without its environment and map the command line still tells the model and the port; the rest is unknown, and why."""
    for name in ("environ", "maps"):
        (captured.path / str(LLAMA) / name).unlink()
    process = only(read(captured))
    assert (process.launch.model, process.port, process.listening) == ("tiny.gguf", 18231, True)
    assert settings_of_process(process, layers=4) == {
        "context": "2048",
        "flash_attention": "on",
        "kv_cache": "q8_0/?",
        "micro_batch": "256",
    }
    assert [reason.partition(" can't be read: ")[0] for reason in process.unknown] == [
        "its environment",
        "what it computes with: its memory map",
        "its model's file: its working folder",
    ]
    assert all("another user" in reason for reason in process.unknown)


def test_a_restart_is_another_process(captured: ProcTree) -> None:
    """Process and clock ticks tell two runs apart, even under one number."""
    first = only(read(captured))
    stat = captured.path / str(LLAMA) / "stat"
    stat.write_text(stat.read_text().replace("276053", "999999"))
    second = only(read(captured))
    assert first.pid == second.pid
    assert first.start_ticks < second.start_ticks


@pytest.mark.parametrize(
    ("libraries", "compute", "runtime"),
    [
        (
            ["/opt/rocm-7.1.0/lib/libamdhip64.so.7.1.70100", "/opt/rocm-7.1.0/lib/libhsa-runtime64.so.1"],
            "rocm",
            "7.1.0",
        ),
        (["/opt/rocm-7.1.1/lib/libamdhip64.so.7.1.25424"], "rocm", "7.1.1"),
        (["/opt/rocm/core-7.14/lib/libamdhip64.so.7.14.26331-0f"], "rocm", "7.14"),
        (["/usr/lib64/libamdhip64.so.6.4.43484"], "rocm", "6.4"),
        (["/usr/lib/ollama/rocm/libamdhip64.so.6.3.60303"], "rocm", "6.3.3"),
        (["/opt/rocm-7.0.2/lib/libamdhip64.so.7.0.70002 (deleted)"], "rocm", "7.0.2"),
        (["/home/a/rocm-9.9.9/lib/libamdhip64.so"], "rocm", None),
        (["/v/lib/python3.12/site-packages/torch/lib/libamdhip64.so"], "rocm", "7.0.2"),
        (["/usr/lib64/libvulkan.so.1", "/usr/lib64/libvulkan_radeon.so"], "vulkan", "25.2.8"),
        (["/usr/lib64/libvulkan_radeon.so (deleted)"], "vulkan", None),
        (["/usr/lib/x86_64-linux-gnu/amdvlk64.so"], "vulkan", None),
        (["/usr/lib64/libvulkan.so.1", "/usr/lib64/libvulkan_lvp.so"], "cpu", None),
        (["/usr/lib64/libcuda.so.570.86.15", "/usr/local/cuda/lib64/libcudart.so.12.8.90"], "cuda", "12.8.90"),
        (["/usr/lib64/libcuda.so.1"], "cuda", None),
        (["/usr/lib64/libm.so.6"], "cpu", None),
        (
            ["/o/libggml-vulkan.so", "/usr/lib64/libvulkan_radeon.so", "/opt/rocm-7.1.0/lib/libamdhip64.so.7"],
            "vulkan",
            "25.2.8",
        ),
    ],
)
def test_what_computes(tree: ProcTree, libraries: list[str], compute: str, runtime: str | None) -> None:
    """By the libraries in its memory; versions by their names, their folders, PyTorch, or what Mesa's driver holds."""
    root = tree.add(50, ["llama-server"], libraries=libraries, environment={}) / "root"
    (root / "usr" / "lib64").mkdir(parents=True)
    (root / "usr" / "lib64" / "libvulkan_radeon.so").write_bytes(b"\x7fELF\0Mesa is\0Mesa 25.2.8-0ubuntu0.25.10.1%s\0")
    torch = root / "v" / "lib" / "python3.12" / "site-packages" / "torch"
    torch.mkdir(parents=True)
    (torch / "version.py").write_text("__version__ = '2.9.0+rocm7.0.2'\nhip = '7.0.51831'\n")
    process = only(read(tree))
    assert (process.compute, process.runtime) == (compute, runtime)


def test_two_runtimes_in_one_process(tree: ProcTree) -> None:
    """Which of two computes is unknown unless the command line says it."""
    libraries = ["/usr/lib64/libvulkan_radeon.so", "/opt/rocm-7.1.0/lib/libamdhip64.so.7.1.70100"]
    tree.add(50, ["llama-server", "--port", "1"], libraries=libraries, environment={})
    tree.add(51, ["llama-server", "--port", "2", "-dev", "ROCm0"], libraries=libraries, environment={})
    first, second = read(tree).processes
    assert (first.compute, first.unknown) == (None, ("what it computes with: it has loaded rocm and vulkan",))
    assert (second.compute, second.runtime, second.unknown) == ("rocm", "7.1.0", ())


def test_vllm_and_what_it_started(tree: ProcTree) -> None:
    """The engine's processes belong to the server: their libraries tell what computes, and they may hold the memory."""
    tree.add(60, ["/v/bin/python3", "/v/bin/vllm", "serve", "Qwen/Q", "-tp", "2"], libraries=[], cwd="/",
             environment={"VLLM_ROCM_USE_AITER": "1", "HF_TOKEN": "hf_canary"})  # fmt: skip
    for pid, title in ((61, "VLLM::EngineCore"), (62, "VLLM::Worker_TP0")):
        tree.add(pid, [title + " " * 20], parent=pid - 1, libraries=["/opt/rocm-7.2.0/lib/libamdhip64.so.7.2.70200"])
    tree.add(63, ["/v/bin/python3", "-c", "from multiprocessing.resource_tracker import main"], parent=60, libraries=[])
    process = only(read(tree))
    assert (process.pids, process.workers) == ((60, 61, 62, 63), ())
    assert settings_of_process(process, gfx_targets=["gfx1151"]) == {
        "aiter": "no_effect",
        "compute": "rocm",
        "cpu_offload": "none",
        "kv_cache": "auto",
        "runtime": "7.2.0",
        "speculative": "none",
        "tensor_parallel": "2",
    }
    assert process.model_file is None
    assert "canary" not in repr(process)


def test_ollama_and_the_llama_server_that_it_started(tree: ProcTree) -> None:
    """Ollama's settings are those of its one worker; with two of them it can't be told which one is meant."""
    blob = "/usr/share/ollama/.ollama/models/blobs/sha256-00"
    words = ["/usr/lib/ollama/llama-server", "--model", blob, "--port", "45871", "--host", "127.0.0.1", "--offline"]
    words += ["-c", "8192", "-np", "2", "--cache-type-k", "q8_0", "--cache-type-v", "q8_0", "-ngl", "20"]
    tree.add(70, ["/usr/local/bin/ollama", "serve"], environment={"OLLAMA_HOST": "0.0.0.0"}, libraries=[], user=997)
    tree.add(
        71, words, parent=70, environment={}, libraries=["/usr/lib/ollama/rocm/libamdhip64.so.6.3.60303"], user=997
    )
    process = only(read(tree))
    assert (process.launch.name, process.port, process.pids) == ("ollama", 11434, (70, 71))
    worker = working(process)
    assert worker is not None
    assert (worker.pid, worker.launch.name, worker.model_file, worker.port) == (71, "llama-server", blob, 45871)
    assert settings_of_process(process, layers=48) == {
        "compute": "rocm",
        "context": "8192",
        "cpu_offload": "gpu_layers 20",
        "kv_cache": "q8_0",
        "runtime": "6.3.3",
        "slots": "2",
        "speculative": "none",
    }
    tree.add(72, [*words, "-fa", "on"], parent=70, environment={}, libraries=[])
    assert working(only(read(tree))) is None
    assert settings_of_process(only(read(tree))) == {"kv_cache": "f16", "speculative": "none"}


def test_a_program_that_unpacks_itself(tree: ProcTree) -> None:
    """A child with its parent's command line is the same server, and it is the child that listens."""
    words = ["./koboldcpp-linux-x64-rocm", "--model", "m.gguf", "--usecublas"]
    (tree.path / "1" / "net" / "tcp").write_text(f"{'':4}\n   0: 00000000:1389 0:0 0A 0:0 0:0 0 1000 0 77\n")
    tree.add(80, words, sockets=[], libraries=[])
    tree.add(81, words, parent=80, sockets=[77], libraries=["/opt/rocm/lib/libamdhip64.so.7"])
    process = only(read(tree))
    assert (process.pids, process.workers, process.port, process.listening) == ((80, 81), (), 5001, True)
    assert process.compute == "rocm"


@pytest.mark.parametrize(
    ("group", "container", "unit"),
    [
        ("/system.slice/llama-server.service", "", "llama-server.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/llama.service", "", "llama.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "", ""),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope", "", ""),
        (f"/system.slice/docker-{ID}.scope", "0123456789ab", ""),
        (f"/docker/{ID}", "0123456789ab", ""),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container", "0123456789ab", ""),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-{ID}.scope", "", ""),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope", "0123456789ab", ""),
        (f"/../../docker-{ID}.scope", "0123456789ab", ""),
        ("/lxc.payload.llm/init.scope", "llm", ""),
        ("/lxc/101/ns", "101", ""),
        ("/", "", ""),
    ],
)  # fmt: skip
def test_container_and_unit(tree: ProcTree, group: str, container: str, unit: str) -> None:
    """By its control group a process is of a container, of a service, or of a login."""
    folder = tree.add(50, ["llama-server"], group=group)
    assert (read_container(folder), read_unit(folder) if not container else "") == (container, unit)


def test_a_server_in_a_toolbox(tree: ProcTree, tmp_path: Path) -> None:
    """Files of a container are read through its root, else where Toolbx and Distrobox share the machine's folders."""
    group = f"/user.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"
    for pid, path in enumerate(("/home/a/m.gguf", "/run/host/srv/m.gguf", "/models/m.gguf", "/in/m.gguf"), start=50):
        tree.add(pid, ["llama-server", "-m", path, "--port", str(pid)], group=group, environment={}, libraries=[])
    inside = tree.path / "53" / "root" / "in" / "m.gguf"
    inside.parent.mkdir(parents=True)
    inside.touch()
    processes = read(tree).processes
    assert [process.model_file for process in processes] == ["/home/a/m.gguf", "/srv/m.gguf", None, str(inside)]
    assert [process.unknown != () for process in processes] == [False, False, True, False]
    assert {process.container for process in processes} == {"0123456789ab"}
    relative = tmp_path / "m.gguf"
    relative.touch()
    tree.add(60, ["llama-server", "-m", "m.gguf"], cwd=str(tmp_path), environment={}, libraries=[])
    assert read(tree).processes[-1].model_file == str(relative)


def test_a_file_of_options_makes_the_rest_unknown(tree: ProcTree) -> None:
    """A config file of llama-server's, of the machine or of its user, may hold what the command line doesn't say."""
    for pid, path in ((50, "etc/llama.cpp/config.ini"), (51, "home/a/.config/llama.cpp/config.ini"), (52, "other")):
        file = tree.add(pid, ["llama-server"], environment={"HOME": "/home/a"}, libraries=[]) / "root" / path
        file.parent.mkdir(parents=True)
        file.touch()
    assert [process.launch.complete for process in read(tree).processes] == [False, False, True]


def made_up(port: int, **more: object) -> ProcessFacts:
    """A process that was told its port."""
    launch = LaunchSettings("llama-server", "llama_cpp", port=port, listen=str(more.pop("listen", "")) or None)
    return ProcessFacts(**{"pid": 1, "launch": launch, "start_ticks": 1, "network": "own", "port": port, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "process", "found"),
    [
        ("http://127.0.0.1:8080", made_up(8080, listening=True), True),
        ("http://localhost:8080/v1", made_up(8080), True),
        ("http://127.0.0.1:8081", made_up(8080, listening=True), False),
        ("http://127.0.0.1:8080", made_up(8080, listening=False), False),
        ("http://10.0.0.1:8080", made_up(8080, listening=True), False),
        ("http://10.0.0.1:8080", made_up(8080, listening=True, listen="10.0.0.1"), True),
        ("http://127.0.0.1:8080", made_up(8080, listening=True, listen="10.0.0.1"), False),
        ("http://127.0.0.1:8080", made_up(8080, listening=True, listen="0.0.0.0"), True),
        ("http://127.0.0.1:8080", made_up(8080, listening=True, listen="10.0.0.1,127.0.0.1"), True),
        ("http://gpu-box:8080", made_up(8080, listening=True, listen="0.0.0.0"), True),
        ("http://gpu-box:8080", made_up(8080, listening=True, listen="127.0.0.1"), False),
        ("http://gpu-box:8080", made_up(8080, listening=True, network="host"), True),
        ("http://127.0.0.1:8080", made_up(8080, listening=True, network="host"), False),
        ("http://127.0.0.1:8080", made_up(8080, listening=True, network="other"), False),
        ("http://127.0.0.1:8080", made_up(8080, listening=True, network=None), True),
    ],
)
def test_which_process_answers(url: str, process: ProcessFacts, *, found: bool) -> None:
    """By port, network, and the address that it binds."""
    assert (process_of(url, [process], {"gpu-box"}) is not None) is found


def test_which_of_several_answers() -> None:
    """The one that was seen to listen; a worker may be asked, too; of two that were seen neither is taken."""
    silent, seen, worker = made_up(8080, pid=2), made_up(8080, pid=3, listening=True), made_up(9, pid=4, listening=True)
    assert process_of("http://localhost:8080", [silent, seen]) == seen
    assert process_of("http://localhost:8080", [silent, silent]) is None
    assert process_of("http://localhost:9", [made_up(8080, workers=(worker,))]) == worker


def test_a_port_that_nobody_stated(tree: ProcTree) -> None:
    """The default counts only where it is listened to; a sole socket of the server's own wins over it."""
    (tree.path / "1" / "net" / "tcp").write_text("h\n   0: 00000000:2328 0:0 0A 0:0 0:0 0 1000 0 77\n   1: bad\n")
    tree.add(50, ["llama-server"], user=1000)
    process = only(read(tree))
    assert (process.port, process.listening, process_of("http://localhost:8080", [process])) == (8080, False, None)
    tree.open_sockets(50, 77)
    process = only(read(tree))
    assert (process.port, process.listening) == (9000, True)


def test_a_socket_of_another_user(tree: ProcTree) -> None:
    """Who listens at a server's port isn't known where the socket is another user's."""
    (tree.path / "1" / "net" / "tcp").write_text("h\n   0: 00000000:1F90 0:0 0A 0:0 0:0 0 0 0 77\n")
    tree.add(50, ["llama-server"], user=1000)
    assert only(read(tree)).listening is None


def test_networks(tree: ProcTree) -> None:
    """A container's network is another; the machine's is, for an exporter that has its own."""
    tree.add(50, ["llama-server", "--port", "50"])
    tree.add(51, ["llama-server", "--port", "51"])
    shutil.rmtree(tree.path / "51" / "net")
    tree.network(51, (51, 1000, 9))
    assert [process.network for process in read(tree).processes] == ["own", "other"]
    shutil.rmtree(tree.path / "self")
    tree.network("self")
    assert [process.network for process in read(tree).processes] == ["host", "other"]
    shutil.rmtree(tree.path / "50" / "net")
    assert read(tree).processes[0].network is None
    assert read(tree).processes[0].listening is None


def test_the_ports_of_dockers_proxy(tree: ProcTree) -> None:
    """By its command line; others and malformed ones are none."""
    command = (
        "/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port {} -container-ip 172.17.0.2 -container-port 80"
    )
    tree.add(70, [*command.format(8080).split(), "-use-listen-fd"])
    tree.add(71, command.format("x").split())
    tree.add(72, ["docker-proxy", "-host-port"])
    tree.add(73, command.format(8081).replace("docker-proxy", "other").split())
    assert read(tree) == ProcessReading(forwarded=frozenset({8080}))
    tree.add(74, ["llama-server", "--port", "9000"])
    assert read(tree).forwarded == {8080}


def test_what_is_hidden(tree: ProcTree, tmp_path: Path) -> None:
    """Why servers may be missing: no /proc, other users' processes hidden, a container of the exporter's own."""
    assert read(tree) == ProcessReading()
    assert read_processes(tmp_path / "nothing") == ProcessReading(hidden=NO_PROC)
    shutil.rmtree(tree.path / "2")
    assert read(tree).hidden == OWN_CONTAINER
    tree.add(2, ["sleep", "1"], parent=1)
    assert read(tree).hidden == OWN_CONTAINER
    (tree.path / "1" / "cmdline").unlink()
    assert read(tree).hidden == OTHERS_HIDDEN
    shutil.rmtree(tree.path / "1")
    assert read(tree).hidden == OTHERS_HIDDEN


def test_processes_that_end_meanwhile(tree: ProcTree) -> None:
    """A process without its stat is gone, and is no server."""
    (tree.add(50, ["llama-server"]) / "stat").unlink()
    assert read(tree).processes == ()
    assert read_command_line(tree.path / "51") is None
    assert read_stat(tree.path / "51") is None


def test_circles_among_processes(tree: ProcTree) -> None:
    """Numbers that were given out anew while they were read can't make it run for ever."""
    tree.add(50, ["llama-server", "--port", "1"], parent=51)
    tree.add(51, ["llama-server", "--port", "2"], parent=50)
    assert descendants({1: 1, 2: 3, 3: 2, 4: 3}, 3) == (2, 4)
    assert read(tree).hidden == ""


@given(
    content=st.binary(max_size=300),
    name=st.sampled_from(["cmdline", "environ", "maps", "stat", "status", "cgroup", "net/tcp"]),
)
def test_any_file_is_survived(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    """Whatever a file of /proc holds, the reader doesn't raise."""
    tree = ProcTree(tmp_path_factory.mktemp("any") / "proc", captured=True)
    file = tree.path / str(LLAMA) / name
    file.write_bytes(content)
    assert len(read(tree).processes) <= 1
    shutil.rmtree(tree.path)


MAP_A_FILE = "import mmap, os, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); {}"


@contextmanager
def running(words: list[str], environment: dict[str, str], ready: Callable[[int], bool]) -> Iterator[int]:
    """A Python program that calls itself something else; given once ``ready``."""
    process = subprocess.Popen(words, executable=sys.executable, env={**os.environ, **environment})
    try:
        eventually(lambda: ready(process.pid), f"the program {words[0]} is ready")
        yield process.pid
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="there is no /proc")
def test_a_live_process(tmp_path: Path) -> None:
    """A process of this machine that maps a file as a driver's is, with an environment: read from the kernel's own /proc."""
    driver = tmp_path / "libvulkan_radeon.so"
    driver.write_bytes(b"Mesa 24.1.0\0")
    words = ["llama-server", "-c", MAP_A_FILE.format("import time; time.sleep(60)"), str(driver), "--port", "18299"]

    def is_mapped(pid: int) -> bool:
        return str(driver) in Path(f"/proc/{pid}/maps").read_text()

    with running(words, {"LLAMA_ARG_N_PARALLEL": "3", "LLAMA_API_KEY": "sk-canary"}, is_mapped) as pid:
        reading = read_processes()
        found = {process.pid: process for process in reading.processes}
        assert pid in found
        process = found[pid]
    assert (process.launch.slots, process.port, process.listening, process.network) == (3, 18299, False, "own")
    assert (process.compute, process.runtime, process.user_id) == ("vulkan", "24.1.0", os.getuid())
    assert process.started_at_seconds == pytest.approx(time.time(), abs=60)
    assert "canary" not in repr(reading)
