"""Which runtime computes in a process, by the libraries that it has loaded, and that runtime's version.

ROCm's libraries name their version in their files' names or folders, Mesa writes its own into the Vulkan driver, and
PyTorch says in ``torch/version.py`` which ROCm its wheels bring.
"""

import mmap
import os
import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path
from posixpath import basename, dirname
from typing import Final

from exporter.launch.settings import Compute
from exporter.regular_file import read_start
from exporter.rocm_version import RocmVersion, parse_library, parse_name, parse_torch

_REPLACED: Final = " (deleted)"
"""What the kernel adds to the name of a file that is no longer there, as after an update of the package."""
_LARGEST_DRIVER: Final = 256 << 20
_MESA = re.compile(rb"Mesa (\d{1,2}\.\d{1,2}\.\d{1,3}(?:-(?:devel|rc\d{1,2}))?)(?![\w.])")
_CUDA_RUNTIME = re.compile(r"libcudart\.so\.(\d{1,2}\.\d{1,3}(?:\.\d{1,4})?)")
_HIP_LIBRARY = re.compile(r"libamdhip64\.so(?:\.[\w.-]+)?")
_VULKAN_DRIVER = re.compile(
    r"libvulkan_(?:radeon|intel|intel_hasvk|nouveau|asahi|freedreno|dzn)(?:-[\w.]+)?\.so(?:\.[\w.]+)?|amdvlk64\.so"
    r"|libGLX_nvidia\.so\.\d+"
)
_CUDA_LIBRARY = re.compile(r"libcuda\.so(?:\.[\w.]+)?")
_KINDS: Final[tuple[tuple[Compute, re.Pattern[str]], ...]] = (
    ("rocm", _HIP_LIBRARY),
    ("vulkan", _VULKAN_DRIVER),
    ("cuda", _CUDA_LIBRARY),
)
# llama.cpp's own backends, if they are libraries: the one that it loaded shows what it computes with.
_GGML: Final[tuple[tuple[Compute, re.Pattern[str]], ...]] = (
    ("rocm", re.compile(r"libggml-hip(?:-[\w.]+)?\.so(?:\.[\d.]+)?")),
    ("vulkan", re.compile(r"libggml-vulkan\.so(?:\.[\d.]+)?")),
    ("cuda", re.compile(r"libggml-cuda(?:-[\w.]+)?\.so(?:\.[\d.]+)?")),
)


def find_compute(libraries: Collection[str]) -> tuple[Compute, ...]:
    """The runtimes that the loaded libraries are of: ``cpu`` if there is no other, several if it can't be known."""
    names = {basename(path.removesuffix(_REPLACED)) for path in libraries}
    found = tuple(kind for kind, pattern in _KINDS if any(map(pattern.fullmatch, names)))
    if len(found) < 2:
        return found or ("cpu",)
    backends = tuple(kind for kind, pattern in _GGML if kind in found and any(map(pattern.fullmatch, names)))
    return backends if len(backends) == 1 else found


def find_version(compute: Compute, libraries: Iterable[str], root: Path) -> str | None:
    """The version of a runtime, by its libraries; ``None`` if none of them says it.

    ``root`` is the folder under which the process's files are seen: ``/``, or ``/proc/<pid>/root``.
    """
    paths = sorted(libraries)
    match compute:
        case "rocm":
            return _rocm_version([path for path in paths if _is(path, _HIP_LIBRARY)], root)
        case "vulkan":
            return _mesa_version([path for path in paths if _is(path, _VULKAN_DRIVER)], root)
        case "cuda":
            found = (_CUDA_RUNTIME.fullmatch(basename(path.removesuffix(_REPLACED))) for path in paths)
            return next((version[1] for version in found if version), None)
        case "cpu":
            return None


def _is(path: str, pattern: re.Pattern[str]) -> bool:
    return pattern.fullmatch(basename(path.removesuffix(_REPLACED))) is not None


def _rocm_version(paths: Iterable[str], root: Path) -> str | None:
    """The first that has a patch, of what the library's name, its folders' names and PyTorch beside it say."""
    found = [version for path in paths for version in _rocm_versions(path.removesuffix(_REPLACED), root)]
    best = next((version for version in found if version.patch is not None), found[0] if found else None)
    return best.normalised if best else None


def _rocm_versions(path: str, root: Path) -> list[RocmVersion]:
    # Of the folders only those below /opt: a user's own may be called anything.
    folders = path.split("/")[2:-1] if path.startswith("/opt/") else []
    found = [parse_library(basename(path)), *(parse_name(folder) for folder in reversed(folders))]
    if path.startswith("/") and basename(dirname(path)) == "lib" and basename(dirname(dirname(path))) == "torch":
        text = _read_text(root / dirname(dirname(path)).lstrip("/") / "version.py")
        found.append(parse_torch(text))
    return [version for version in found if version is not None]


def _read_text(path: Path) -> str:
    try:
        return read_start(path, 64 * 1024).decode("utf-8", "replace")
    except OSError:
        return ""


def _mesa_version(paths: Iterable[str], root: Path) -> str | None:
    # A driver that was replaced since it was loaded is another one on disk.
    for path in (path for path in paths if not path.endswith(_REPLACED)):
        try:
            driver = root / path.lstrip("/")
            seen = driver.stat()
            found = _version_in_driver(str(driver), (seen.st_dev, seen.st_ino, seen.st_mtime_ns))
        except (OSError, ValueError):
            continue
        if found:
            return found
    return None


@lru_cache(maxsize=16)
def _version_in_driver(path: str, identity: tuple[int, int, int]) -> str | None:  # noqa: ARG001 - a new file is read again
    """Mesa's version, as its drivers give it to programs; they hold it as text. Raises OSError, ValueError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if os.fstat(handle).st_size > _LARGEST_DRIVER:
            return None
        with mmap.mmap(handle, 0, prot=mmap.PROT_READ) as content:
            found = _MESA.search(content)
            return found[1].decode() if found else None
    finally:
        os.close(handle)
