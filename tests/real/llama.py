"""A real llama-server with a small model of random weights, for the tests of this folder."""

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final

from tests.waiting import eventually

HERE: Final = Path(__file__).parent
BUILD: Final = HERE / "build-llama-server"
LLAMA_SERVER: Final = (
    "llama-server (tests/real/build-llama-server: needs python3 with pip, cmake, c++, OpenSSL's headers)"
)
"""The part that a skip names."""
MAKE_MODEL: Final = HERE.parent / "servers" / "make_tiny_gguf.py"


@lru_cache
def llama_server() -> Path | None:
    """The binary, built from source at the first call; None where what the build needs is missing."""
    built = subprocess.run([BUILD], stdout=subprocess.PIPE, text=True, check=False)
    return Path(built.stdout.strip().splitlines()[-1]) if built.returncode == 0 else None


def make_model(folder: Path, preset: str) -> Path:
    """A GGUF of the size of a preset (``tiny``, ``slow``, ``big``) in a folder."""
    path = folder / f"{preset}.gguf"
    if not path.exists():
        subprocess.run(
            [sys.executable, MAKE_MODEL, "--preset", preset, "--gguf", path], check=True, capture_output=True
        )
    return path


@contextmanager
def running_llama(
    binary: Path, model: Path, port: int, *more: str, wait: bool = True, metrics: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """A llama-server on a loopback port, ended with the block; ``wait`` returns once it is ready."""
    command: Sequence[str | Path] = (
        *(binary, "--model", model, "--host", "127.0.0.1", "--port", str(port), "--threads", "1", "--ctx-size", "4096"),
        *("--parallel", "1", "--slots", "--offline", *(["--metrics"] if metrics else []), *more),
    )
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if wait:
            wait_until_ready(port)
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until_ready(port: int, seconds: float = 60.0) -> None:
    """Return once the server's health check is 200."""

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return True
        except urllib.error.HTTPError as exc:
            exc.close()  # it loads its model: 503
            return False

    eventually(ready, f"llama-server answers on port {port}", seconds=seconds)
