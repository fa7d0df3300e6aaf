"""A real Docker engine with containers that look like inference servers: what the exporter makes of them."""

import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporter.containers.engine import Engine
from exporter.containers.facts import CandidateUrl, ContainerFacts, ImageRocm, OwnNetwork
from tests.real.docker import DockerEngine, busybox_rootfs
from tests.real.socket_proxy import OnPort, OnSocket, handler
from tests.real.watching import by_name, watching
from tests.server_thread import in_thread
from tests.waiting import eventually

pytestmark = pytest.mark.real

ROOT = Path(__file__).parent.parent.parent
SLEEPER = "#!/bin/sh\nexec sleep 600\n"
# A shell keeps its command line, as a server does; one that execs would become `sleep`.
STAYING = "#!/bin/sh\nwhile :; do sleep 600; done\n"
CANARY = "canary-5f2b9c"
VLLM, LLAMA, OLLAMA = "vllm/vllm-openai-rocm:v0.32.0", "ghcr.io/ggml-org/llama.cpp:server-rocm", "ollama/ollama:rocm"
TOOLBOX, FEDORA = "docker.io/kyuz0/amd-strix-halo-toolboxes:rocm-7.2.4", "example.org/llm/own:1"
SECRETS = ("--env", f"HF_TOKEN={CANARY}", "--env", f"VLLM_API_KEY={CANARY}", "--label", f"com.example.key={CANARY}")


@pytest.fixture
def stocked(docker_engine: DockerEngine) -> DockerEngine:
    """The engine with images of busybox that have the files, variables and commands of the real ones."""
    # The last one that is made: another test may have put something of its own under a well-known name.
    if FEDORA not in docker_engine.run("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split():
        make_images(docker_engine)
    return docker_engine


def make_images(engine: DockerEngine) -> None:
    """Import them; half a second."""
    path = "ENV PATH=/usr/local/bin:/bin"
    classic = busybox_rootfs(
        {"usr/local/bin/vllm": SLEEPER, "opt/rocm-7.2.1/.info/version": "7.2.1-43\n"},
        {"opt/rocm": "/etc/alternatives/rocm", "etc/alternatives/rocm": "/opt/rocm-7.2.1"},
    )
    engine.import_image(VLLM, classic, [path, 'ENTRYPOINT ["vllm","serve"]', "ENV AITER_ROCM_ARCH=gfx942;gfx950"])
    therock = busybox_rootfs(
        {"app/llama-server": SLEEPER, "opt/rocm/core-7.14/.info/version": "7.14.0\n"},
        {"opt/rocm/core": "/etc/alternatives/rocm-core", "etc/alternatives/rocm-core": "/opt/rocm/core-7.14"},
    )
    engine.import_image(LLAMA, therock, ["ENV LLAMA_ARG_HOST=0.0.0.0", 'ENTRYPOINT ["/app/llama-server"]'])
    bundled = busybox_rootfs(
        {"bin/ollama": SLEEPER, "usr/lib/ollama/rocm/libamdhip64.so.7.2.70200": "ELF"},
        {"usr/lib/ollama/rocm/libamdhip64.so.7": "libamdhip64.so.7.2.70200"},
    )
    changes = ["ENV OLLAMA_HOST=0.0.0.0:11434", "EXPOSE 11434", 'ENTRYPOINT ["/bin/ollama"]', 'CMD ["serve"]']
    engine.import_image(OLLAMA, bundled, changes)
    toolbox = busybox_rootfs({"usr/local/bin/llama-server": STAYING}, {"bin/bash": "busybox"})
    engine.import_image(TOOLBOX, toolbox, [path, 'CMD ["sleep","600"]'])
    built = busybox_rootfs(
        {"usr/local/bin/vllm": SLEEPER, "app/versions.txt": "BASE_IMAGE: rocm/dev-ubuntu-22.04:7.1.1-complete\n"}
    )
    engine.import_image(FEDORA, built, [path])


@pytest.fixture
def servers(stocked: DockerEngine, tmp_path: Path) -> DockerEngine:
    """vLLM, llama.cpp and Ollama with their command lines, environment and mounts."""
    cache, models = tmp_path / "huggingface", tmp_path / "models"
    (cache / "hub").mkdir(parents=True)
    models.mkdir()
    vllm_options = ("--network=host", "--env", "VLLM_ROCM_USE_AITER=1", "--env", "VLLM_ROCM_USE_AITER_MOE=0", *SECRETS)
    stocked.start_container(
        "vllm-awq", VLLM, "Qwen/Qwen2.5-14B-Instruct-AWQ", "--port=8000", "--kv-cache-dtype", "fp8_e4m3", "--api-key", CANARY,
        "--served-model-name", "qwen", "--max_model_len", "32k", "-tp", "2",
        options=(*vllm_options, "--volume", f"{cache}:/root/.cache/huggingface"),
    )  # fmt: skip
    stocked.start_container(
        "llama", LLAMA, "-m", "/models/Qwen2.5-14B-Instruct-IQ4_XS.gguf", "--port", "8081", "-c", "16384", "--api-key", CANARY,
        options=("--network=host", "--volume", f"{models}:/models:ro", *SECRETS),
    )  # fmt: skip
    stocked.start_container("ollama", OLLAMA, options=("--network=host", "--volume", "ollama:/root/.ollama", *SECRETS))
    return stocked


def test_the_facts_of_three_servers(servers: DockerEngine, tmp_path: Path) -> None:
    """Command lines, environment, mounts and ROCm files of running containers come out as facts."""
    reading = Engine(servers.host).read(["gfx1151"])
    found = by_name(reading)
    assert reading.problem == ""
    assert set(found) == {"vllm-awq", "llama", "ollama"}

    vllm = found["vllm-awq"]
    assert (vllm.backend, vllm.model, vllm.served_model_name) == ("vllm", "Qwen/Qwen2.5-14B-Instruct-AWQ", "qwen")
    assert vllm.launch is not None
    assert (vllm.quantization, vllm.kv_cache_dtype, vllm.launch.context, vllm.tensor_parallel) == (
        "awq",
        "fp8_e4m3",
        32000,
        2,
    )
    assert (vllm.aiter, vllm.aiter_usable) == (True, False)
    assert vllm.urls == (CandidateUrl("http://127.0.0.1:8000", "host_network"),)
    assert vllm.cache_path == "/root/.cache/huggingface/hub"
    assert vllm.cache_source == str(tmp_path / "huggingface" / "hub")
    assert vllm.rocm == ImageRocm("7.2.1-43", "7.2", "file")
    assert (vllm.image, vllm.running) == (VLLM, True)
    assert vllm.started_at_seconds == pytest.approx(time.time(), abs=300)

    llama = found["llama"]
    assert llama.launch is not None
    assert (llama.backend, llama.quantization, llama.launch.context) == ("llama_cpp", "IQ4_XS", 16384)
    assert llama.urls == (CandidateUrl("http://127.0.0.1:8081", "host_network"),)
    assert [(mount.source, mount.destination, mount.kind) for mount in llama.cache_mounts] == [
        (str(tmp_path / "models"), "/models", "files")
    ]
    assert llama.rocm == ImageRocm("7.14.0", "7.14", "file")

    ollama = found["ollama"]
    assert (ollama.backend, ollama.urls) == ("ollama", (CandidateUrl("http://127.0.0.1:11434", "host_network"),))
    assert ollama.cache_source == f"{servers.folder}/data/volumes/ollama/_data/models"
    assert ollama.rocm is not None
    assert (ollama.rocm.release, ollama.rocm.source) == ("7.2", "file")


def test_no_secret_leaves_the_room(servers: DockerEngine, caplog: pytest.LogCaptureFixture) -> None:
    """Keys in the environment, in labels and in arguments are in no fact and in no line of the log."""
    caplog.set_level(logging.DEBUG)
    engine = Engine(servers.host)
    reading = engine.read()
    assert len(reading.containers) == 3
    assert CANARY in str(servers.inspect("vllm-awq"))
    assert CANARY not in repr(reading)
    assert CANARY not in repr(vars(engine))
    assert CANARY not in caplog.text


def test_a_toolbox_is_seen_through_its_processes(stocked: DockerEngine) -> None:
    """A server that was started by hand in an idle container is found by what runs there; without one, none is claimed."""
    stocked.start_container("toolbox", TOOLBOX)
    engine = Engine(stocked.host)
    before = by_name(engine.read())["toolbox"]
    assert (before.backend, before.urls, before.rocm) == (None, (), ImageRocm("7.2.4", "7.2", "tag"))
    stocked.run(
        "exec", "-d", "toolbox", "llama-server", "-m", "/m/gemma-Q8_0.gguf", "--host", "0.0.0.0", "--port", "9001"
    )

    def with_a_server() -> ContainerFacts | None:
        facts = by_name(engine.read())["toolbox"]
        return facts if facts.backend else None

    after = eventually(with_a_server, "a process of the server in the toolbox")
    assert (after.backend, after.quantization) == ("llama_cpp", "Q8_0")
    assert after.urls == (CandidateUrl("http://127.0.0.1:9001", "host_network"),)


def test_a_shell_script_and_an_image_of_ones_own(stocked: DockerEngine) -> None:
    """The server in a shell's script is found, variables in it are filled in, and its image may be called anything."""
    script = 'export VLLM_ROCM_USE_AITER=1; exec vllm serve "$MODEL" --port ${PORT:-8100} 2>&1'
    options = ("--network=host", "--env", "MODEL=Qwen/Qwen3-14B")
    stocked.start_container("own", FEDORA, "sh", "-ec", script, options=options)
    facts = by_name(Engine(stocked.host).read())["own"]
    assert (facts.backend, facts.model, facts.aiter, facts.quantization) == ("vllm", "Qwen/Qwen3-14B", True, "none")
    assert facts.urls == (CandidateUrl("http://127.0.0.1:8100", "host_network"),)
    assert facts.rocm == ImageRocm("7.1.1", "7.1", "file")


def test_others_are_left_alone(stocked: DockerEngine) -> None:
    """What only bears the name of a server, and what is none at all, is not taken for one."""
    stocked.start_container("bench", FEDORA, "sh", "-c", "vllm bench serve --model x")
    stocked.start_container("plain", FEDORA, "sleep", "600")
    engine = Engine(stocked.host)
    assert engine.read().containers == ()
    assert engine.read().containers == ()


def test_a_container_without_a_network(stocked: DockerEngine) -> None:
    """A server that can't be reached is still described, with the reason."""
    stocked.start_container("alone", VLLM, "Qwen/Qwen3-8B", options=("--network=none",))
    facts = by_name(Engine(stocked.host).read())["alone"]
    assert (facts.urls, facts.unreachable) == ((), "it has no network")


def test_the_network_of_another_container(stocked: DockerEngine) -> None:
    """With ``network_mode: container:X`` the address is that of X."""
    stocked.start_container("owner", FEDORA, "sleep", "600")
    stocked.start_container("guest", VLLM, "Qwen/Qwen3-8B", options=("--network=container:owner",))
    facts = by_name(Engine(stocked.host, own_network=OwnNetwork()).read())["guest"]
    assert facts.urls == (CandidateUrl("http://127.0.0.1:8000", "host_network"),)


def test_an_image_named_by_its_id(stocked: DockerEngine) -> None:
    """A container that was started from an image's id gets the tag that points to it."""
    image = stocked.import_image(
        "example.org/moved:1", busybox_rootfs({"bin/vllm": SLEEPER}), ['CMD ["vllm","serve","M"]']
    )
    stocked.start_container("old", image, options=("--network=host", "--env", "ROCM_VERSION=6.4.1"))
    facts = by_name(Engine(stocked.host).read())["old"]
    assert (facts.image, facts.rocm) == ("example.org/moved:1", ImageRocm("6.4.1", "6.4", "env"))


def test_a_replaced_container_is_seen_within_seconds(servers: DockerEngine) -> None:
    """Events tell of a container that another takes the place of, long before the next regular reading."""
    with watching(Engine(servers.host)) as watched:
        servers.run("rm", "--force", "vllm-awq")
        _, gone_after = watched.next_reading(lambda reading: "vllm-awq" not in by_name(reading))
        servers.start_container("vllm-awq", VLLM, "Qwen/Qwen3-14B", "--port", "8002")
        reading, seen_after = watched.next_reading(lambda reading: "vllm-awq" in by_name(reading))
    facts = by_name(reading)["vllm-awq"]
    assert (facts.model, facts.urls[0].url) == ("Qwen/Qwen3-14B", "http://127.0.0.1:8002")
    assert max(gone_after, seen_after) < 5


def test_a_stopped_engine_and_its_return(servers: DockerEngine, caplog: pytest.LogCaptureFixture) -> None:
    """An engine that stops is a problem said once; when it is back, the watch finds it by itself."""
    caplog.set_level(logging.INFO, logger="exporter.containers")
    engine = Engine(servers.host)
    with watching(engine) as watched:
        servers.stop()
        reading, _ = watched.next_reading(lambda reading: not reading.available)
        assert reading.containers == ()
        assert re.search(r"there is no such socket|is stopped", reading.problem)
        for _ in range(3):
            engine.read()
        servers.start()
        servers.run("start", "llama")
        watched.next_reading(lambda reading: reading.available and "llama" in by_name(reading), seconds=60)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len({record.message for record in warnings}) == len(warnings)
    assert any("answers again" in record.message for record in caplog.records)


def test_a_denied_socket(docker_engine: DockerEngine) -> None:
    """A user who may not open the socket gets a reading that says so, and what to do."""
    docker_engine.folder.chmod(0o755)  # so that only the socket denies
    code = (
        "import os, sys; from exporter.containers.engine import Engine;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); reading = Engine(sys.argv[1]).read();"
        "print(reading.available, reading.problem)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, docker_engine.host],
        capture_output=True, text=True, check=True, timeout=60, env={"PATH": os.defpath, "HOME": "/"},
    )  # fmt: skip
    assert done.stdout.startswith("False no permission to open")
    assert "read-only proxy" in done.stdout


# The allow-list that the documentation gives to users, and what is left of it for one who trusts the exporter least.
DOCUMENTED = tuple(re.findall(r"'-allowGET=([^']+)'", (ROOT / "docs" / "docker.md").read_text(encoding="utf-8")))
LEAST = tuple(each for each in DOCUMENTED if not each.endswith(("/top", "/archive", "/events")))


@contextmanager
def proxy(upstream: Path, listen: Path | tuple[str, int], allowed: tuple[str, ...]) -> Iterator[list[str]]:
    """A read-only proxy on a socket or a port: GET on the allowed paths, 403 for all else. Gives the calls that it saw."""
    calls: list[str] = []
    handling = handler(upstream, allowed, lambda method, path, _: calls.append(f"{method} {path}"))
    server = OnSocket(str(listen), handling) if isinstance(listen, Path) else OnPort(listen, handling)
    with in_thread(server):
        yield calls


def test_a_read_only_proxy_in_between(servers: DockerEngine) -> None:
    """Through a proxy that lets only the documented calls pass, nothing is missing, and nothing else is asked for."""
    path = servers.folder / "proxy.sock"
    direct = Engine(servers.host).read()
    assert len(direct.containers) == 3
    with proxy(servers.socket, path, DOCUMENTED) as calls:
        engine = Engine(f"unix://{path}")
        through = engine.read()
        with watching(engine) as watched:
            servers.run("kill", "ollama")
            reading, took = watched.next_reading(lambda reading: "ollama" not in by_name(reading))
    assert through.problem == ""
    assert through.containers == direct.containers
    assert "llama" in by_name(reading)
    assert took < 5
    assert {call.split()[0] for call in calls} == {"GET"}


def test_an_engine_by_tcp(servers: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """DOCKER_HOST with a TCP address gives the same facts and the same events, whatever web proxy is set."""
    direct = Engine(servers.host).read()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with proxy(servers.socket, ("127.0.0.1", port), DOCUMENTED):
        engine = Engine()
        assert engine.read() == direct
        with watching(engine) as watched:
            servers.run("kill", "ollama")
            watched.next_reading(lambda reading: "ollama" not in by_name(reading))


def test_a_proxy_that_hands_out_no_files_and_no_events(servers: DockerEngine) -> None:
    """Without files the ROCm version is guessed from the rest, and said to be; without events changes are polled for."""
    path = servers.folder / "least.sock"
    with proxy(servers.socket, path, LEAST):
        engine = Engine(f"unix://{path}")
        reading = engine.read()
        found = by_name(reading)
        assert found["vllm-awq"].backend == "vllm"
        assert found["vllm-awq"].rocm is None
        assert "/containers/{id}/archive is refused" in reading.problem
        with watching(engine) as watched:
            servers.run("kill", "ollama")
            _, took = watched.next_reading(lambda reading: "ollama" not in by_name(reading))
    assert took < 10


def test_only_reading_calls_exist(stocked: DockerEngine) -> None:
    """Where all is allowed, nothing is asked for but what the documentation lists."""
    path = stocked.folder / "seen.sock"
    stocked.start_container("toolbox", TOOLBOX)
    with proxy(stocked.socket, path, (r".*",)) as calls:
        by_name(Engine(f"unix://{path}").read())
    assert len(DOCUMENTED) == 7
    assert calls
    assert all(re.fullmatch(f"GET (?:{'|'.join(DOCUMENTED)})", call) for call in calls), calls
