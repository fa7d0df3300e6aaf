"""Real inference servers from PyPI, each in an environment of its own: installed once, started on a loopback port."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self

from exporter.probe.exposition import MetricSample, parse, total
from exporter.probe.prober import Prober
from exporter.probe.result import ProbeResult
from exporter.settings import Module, Target
from tests.waiting import eventually

HERE: Final = Path(__file__).parent
INSTALL: Final = HERE / "install-server"
MAKE_MODEL: Final = HERE.parent / "servers" / "make_tiny_gguf.py"
# The key of a proxy that listens on the loopback alone, for as long as a test runs.
KEY: Final = "sk-loopback-only-3f9d2c7a51e84b06"
OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
VLLM: Final = {
    **OFFLINE,
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOOPBACK_IP": "127.0.0.1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
# They choose kernels for another build of a library.
LEFT_OUT: Final = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONPATH")


@lru_cache
def commands_of(server: str) -> tuple[Path | None, str]:
    """The folder of a server's commands, installed at the first call; None where that failed, with the reason."""
    done = subprocess.run([INSTALL, server], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Path(done.stdout.strip().splitlines()[-1]), ""
    said = [line for line in done.stderr.splitlines() if line.startswith("install-server: ")]
    return None, said[-1].removeprefix("install-server: ") if said else "it could not be installed"


def make_model(folder: Path, *, template: bool = True) -> Path:
    """The small model of random weights as a Hugging Face folder; without ``template`` it is a base model."""
    made = folder / ("tiny" if template else "tiny-base")
    subprocess.run([sys.executable, MAKE_MODEL, "--preset", "tiny", "--hf", made], check=True, capture_output=True)
    if not template:
        (made / "chat_template.jinja").unlink()
        settings = json.loads((made / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings.pop("chat_template", None)
        (made / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return made


@contextmanager
def running(
    command: list[str | Path], port: int, log: Path, environment: Mapping[str, str], path: str = "/health"
) -> Iterator[str]:
    """A server on a port of the loopback, ended with the block; gives its URL once a read of ``path`` is answered."""
    env = {name: value for name, value in os.environ.items() if name not in LEFT_OUT} | dict(environment)
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env, start_new_session=True)
        try:
            eventually(
                lambda: _answers(process, port, path, log), f"{command[0]} answers; its log is {log}", seconds=300
            )
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def vllm(commands: Path, model: Path, port: int, *more: str) -> Iterator[str]:
    """``vllm serve`` on the CPU; its model is called "tiny"."""
    command: list[str | Path] = [commands / "vllm", "serve", model, "--host", "127.0.0.1", "--port", str(port)]
    sizes = ["--max-model-len", "2048", "--max-num-seqs", "8", "--dtype", "bfloat16", "--enforce-eager"]
    with running(
        [*command, "--served-model-name", "tiny", *sizes, *more], port, model.parent / f"vllm-{port}.log", VLLM
    ) as url:
        yield url


@contextmanager
def transformers(commands: Path, model: Path, port: int, home: Path) -> Iterator[str]:
    """``transformers serve`` with a model; ``home`` is its HF_HOME, which is new."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    command: list[str | Path] = [commands / "transformers", "serve", model, "--host", "127.0.0.1", "--device", "cpu"]
    log = model.parent / f"transformers-{port}.log"
    with running([*command, "--port", str(port)], port, log, {**OFFLINE, "HF_HOME": str(home)}) as url:
        yield url


@contextmanager
def litellm(commands: Path, config: Path, port: int) -> Iterator[str]:
    """LiteLLM's proxy, which wants ``KEY``; readiness is the one health check of it that asks no model."""
    command: list[str | Path] = [commands / "litellm", "--config", config, "--host", "127.0.0.1", "--port", str(port)]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": KEY, "DO_NOT_TRACK": "1"}
    log = config.with_suffix(".log")
    with running([*command, "--telemetry", "False"], port, log, environment, "/health/readiness") as url:
        yield url


def samples_of(url: str) -> tuple[MetricSample, ...]:
    """What a server's own /metrics says."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        return parse(answer.read().decode())


def grown(before: tuple[MetricSample, ...], after: tuple[MetricSample, ...], name: str) -> float:
    """By how much a counter grew."""
    then, now = total(before, name), total(after, name)
    assert then is not None, name
    assert now is not None, name
    return now - then


def prober(url: str, **more: Any) -> Prober:
    """A prober of a server that names nothing but its URL, so that it is recognised."""
    return Prober(Target(url=url, name="t", **more))


def probe(one: Prober, name: str = "default", **module: Any) -> ProbeResult:
    """A probe that was not cancelled."""
    result = one.probe(name, Module(**module))
    assert result is not None
    return result


def _answers(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> bool:
    assert process.poll() is None, f"it ended with {process.returncode}: {log.read_text()[-2000:]}"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return bool(answer.status == 200)


class Tap:
    """A TCP forwarder before a server, which notes when what came from the server: the same stream, stamped by somebody else.

    Use it as a context manager. ``arrived`` are monotonic seconds and bytes, of all connections so far.
    """

    def __init__(self, url: str) -> None:
        self._upstream = ("127.0.0.1", int(url.rpartition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.arrived: list[tuple[float, bytes]] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._upstream) as server:
            there = threading.Thread(target=self._pass, args=(client, server, False), daemon=True)
            there.start()
            self._pass(server, client, noted=True)
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            there.join()

    def _pass(self, source: socket.socket, sink: socket.socket, noted: bool) -> None:  # noqa: FBT001 - a thread's target
        with suppress(OSError):
            while data := source.recv(65536):
                if noted:
                    self.arrived.append((time.monotonic(), data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
