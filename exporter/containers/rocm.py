"""Which ROCm an image contains: out of its files' text, its environment, its labels or its tag. Pure.

An image need not have ``/opt/rocm`` (wheels, distribution packages, Ollama's bundled libraries), and its
``org.opencontainers.image.version`` is mostly the base distribution's, so that only labels that name ROCm count.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from posixpath import basename
from typing import Final, Literal

from exporter.containers.facts import ImageRocm, RocmSource
from exporter.rocm_version import RocmVersion, parse_library, parse_manifest, parse_name, parse_torch, parse_version

FileReading = Literal["version", "versions.txt", "torch", "manifest", "library"]

_LABEL = re.compile(r"(?:.*[._-])?rocm(?:[._-]version)?", re.IGNORECASE)
_BASE_IMAGE = re.compile(r"^\s*\w*BASE_IMAGE\s*[:=]\s*(?P<image>\S{1,200})", re.MULTILINE)
_DEV_IMAGE = re.compile(r"rocm/[\w.-]+:(?:rocm[-_]?)?(?P<version>\d{1,2}\.\d{1,2}(?:\.\d{1,2})?)(?![\w.])")

_PYTHONS: Final = tuple(f"python3.{minor}" for minor in (12, 10, 13, 11, 14))
_LIBRARIES: Final = (
    "/usr/lib/ollama/rocm",
    "/usr/lib/ollama/rocm_v7_2",
    "/usr/lib/ollama/rocm_v7",
    "/opt/rocm/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file that may hold the version: its absolute path in the image, and how to read its text.

    For a ``library`` the text is the name that its symbolic link points to.
    """

    path: str
    reading: FileReading


def files_to_read(environment: Mapping[str, str]) -> tuple[ImageFile, ...]:
    """The files worth trying, best first: ROCm's own, the image builder's, TheRock's wheels, PyTorch, libraries' names."""
    roots = _distinct([environment.get("ROCM_PATH", ""), "/opt/rocm"])
    files = [ImageFile(f"{root}{layout}/.info/version", "version") for root in roots for layout in ("", "/core")]
    files += [ImageFile(f"{root}/share/therock/therock_manifest.json", "manifest") for root in roots]
    files.append(ImageFile("/app/versions.txt", "versions.txt"))
    sites = _python_sites(environment)
    files += [ImageFile(f"{site}/_rocm_sdk_core/share/therock/therock_manifest.json", "manifest") for site in sites]
    files += [ImageFile(f"{site}/torch/version.py", "torch") for site in sites]
    files += [ImageFile(f"{folder}/libamdhip64.so.{major}", "library") for folder in _LIBRARIES for major in (7, 6)]
    return tuple(files)


def _python_sites(environment: Mapping[str, str]) -> tuple[str, ...]:
    on_path = [folder.removesuffix("/bin") for folder in environment.get("PATH", "").split(":") if "env" in folder]
    environments = _distinct([environment.get("VIRTUAL_ENV", ""), *on_path[:2], "/opt/venv", "/torch-therock/.venv"])
    sites = [f"{root}/lib/{python}/site-packages" for root in environments for python in _PYTHONS]
    return tuple(sites + [f"/usr/local/lib/{python}/dist-packages" for python in _PYTHONS])


def _distinct(folders: Sequence[str]) -> tuple[str, ...]:
    absolute = [folder.rstrip("/") for folder in folders if re.fullmatch(r"(?!.*\.\.)/[\w./-]{1,200}", folder)]
    return tuple(dict.fromkeys(absolute))


def version_in(content: str, reading: FileReading) -> ImageRocm | None:
    """The version that the text of such a file states; None if it states none."""
    found: RocmVersion | None
    match reading:
        case "version":
            found = parse_version(content)
        case "versions.txt":
            images = (_version_of_image(base["image"]) for base in _BASE_IMAGE.finditer(content))
            found = next((version for version in images if version), None)
        case "torch":
            found = parse_torch(content)
        case "manifest":
            found = parse_manifest(content)
        case "library":
            found = parse_library(basename(content))
    return _image_rocm(found, "file")


def stated_version(environment: Mapping[str, str], labels: Mapping[str, object], reference: str) -> ImageRocm | None:
    """The version that the image's environment, its labels or its reference state, in this order."""
    for name in ("ROCM_VERSION", "HIP_VERSION"):
        if found := parse_version(environment.get(name, "")):
            return _image_rocm(found, "env")
    for label, value in labels.items():
        if isinstance(value, str) and _LABEL.fullmatch(label) and (found := parse_version(value)):
            return _image_rocm(found, "label")
    return _image_rocm(_version_of_image(reference), "tag")


def _version_of_image(reference: str) -> RocmVersion | None:
    development = _DEV_IMAGE.search(reference)
    return parse_version(development["version"]) if development else parse_name(reference)


def _image_rocm(version: RocmVersion | None, source: RocmSource) -> ImageRocm | None:
    if version is None:
        return None
    # Text after the numbers can say anything: what comes from outside the files is kept as numbers alone.
    return ImageRocm(version.raw if source == "file" else version.normalised, version.release, source)
