"""The ROCm of the host and its kernel driver, read from files; no tool is run and nothing is imported.

A host without ROCm is normal (inference containers bring their own): everything is ``None`` then, and no problem.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from exporter.host.files import list_names, read_text
from exporter.rocm_version import (
    RocmVersion,
    parse_header,
    parse_hip,
    parse_library,
    parse_manifest,
    parse_version,
)

DPKG_STATUS_LIMIT: Final = 32 * 1024 * 1024
"""Bytes; a desktop's list of packages has some 5 MB."""
LINKS_FOLLOWED: Final = 40

# In the order of trust. HIP's own version comes late: it has no ROCm patch.
_FILES: Final[tuple[tuple[str, str, Callable[[str], RocmVersion | None]], ...]] = (
    ("info", ".info/version", parse_version),
    ("info", ".info/version-rocm", parse_version),
    ("info", ".info/version-dev", parse_version),
    ("info", ".info/version-utils", parse_version),
    ("header", "include/rocm-core/rocm_version.h", parse_header),
    ("manifest", "share/therock/therock_manifest.json", parse_manifest),
    ("hip", "share/hip/version", parse_hip),
    ("hip", "bin/.hipVersion", parse_hip),
)
_LIBRARY_FOLDERS: Final = ("lib", "lib64", "lib/x86_64-linux-gnu")
_INSTALLATION: Final = re.compile(r"(?:rocm|core(?:-asan)?)-(\d+\.\d+(?:\.\d+)?)")
_CORE_PACKAGE: Final = re.compile(r"(?:amd)?rocm-core[\d.]*")
_HIP_PACKAGE: Final = re.compile(r"libamdhip64-\d+")
_DIST_INFO: Final = re.compile(r"(?:rocm|rocm_sdk_core)-(\d.*)\.dist-info")


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """The amdgpu kernel driver: AMD's own module (``dkms``), or the kernel's, whose version is the kernel's release."""

    version: str
    source: Literal["dkms", "in-tree"]


@dataclass(frozen=True, slots=True)
class RocmFacts:
    """ROCm as installed on the host; ``None`` if there is none or it can't be known.

    ``version`` is the text as found (``7.2.0-43``), ``normalised`` its numbers (``7.2.0``, or ``7.2`` if only that is
    known), ``release`` major.minor. ``source`` is the kind of place where it was read: ``info``, ``header``, ``manifest``,
    ``hip``, ``library``, ``folder``, ``pip`` or ``package``. ``problems`` are lines for a person, each naming a file.
    """

    version: str | None = None
    normalised: str | None = None
    release: str | None = None
    source: str | None = None
    driver: DriverFacts | None = None
    kfd_present: bool = False
    problems: tuple[str, ...] = ()


def read_rocm(
    rocm_root: Path,
    system_root: Path = Path("/"),
    *,
    sysfs: Path | None = None,
    site_packages: Sequence[Path] = (),
) -> RocmFacts:
    """Read what is installed under ``rocm_root`` (``/opt/rocm``) and beside it, else what ``system_root`` has packaged.

    ``sysfs`` is ``/sys`` below ``system_root`` unless given; ``site_packages`` are folders in which pip's ``rocm`` and
    ``rocm-sdk-core`` are looked for. Never raises.
    """
    problems: list[str] = []
    sysfs = sysfs or system_root / "sys"
    found = next(_candidates(rocm_root, system_root, site_packages, problems), None)
    source, version = found or (None, None)
    return RocmFacts(
        version=version.raw if version else None,
        normalised=version.normalised if version else None,
        release=version.release if version else None,
        source=source,
        driver=_read_driver(system_root, sysfs, problems),
        kfd_present=os.path.lexists(system_root / "dev/kfd") or (sysfs / "class/kfd/kfd").exists(),
        problems=tuple(dict.fromkeys(problems)),
    )


def _candidates(
    rocm_root: Path, system_root: Path, site_packages: Sequence[Path], problems: list[str]
) -> Iterator[tuple[str, RocmVersion]]:
    """Every version found, the most trustworthy first; lazily, so that the later places are mostly not looked at."""
    for folder in _installations(rocm_root, system_root, problems):
        yield from _in_prefix(folder, problems)
        if named := _named(folder):
            yield "folder", named
    yield from _in_site_packages(site_packages, problems)
    yield from _in_packages(system_root, problems)
    yield from _in_prefix(system_root / "usr", problems)


def _installations(rocm_root: Path, system_root: Path, problems: list[str]) -> Iterator[Path]:
    """Folders that may hold a ROCm: the one that the links say is current, then the others, the newest first."""
    # Links of an installation are absolute (/opt/rocm/core → /etc/alternatives/… → /opt/rocm/core-7.14), and lead
    # nowhere, or into our own container, where the host's /opt is mounted elsewhere.
    root = rocm_root.parent.parent if rocm_root.parent.name == "opt" else system_root
    current = follow(rocm_root, root)
    if current:
        yield current
        core = follow(current / "core", root)
        if core:
            yield core
    for parent in (current or rocm_root, rocm_root.parent):
        folders = [parent / name for name in list_names(parent, problems) if _INSTALLATION.fullmatch(name)]
        versions = [(version, folder) for folder in folders if (version := _named(folder))]
        for _, folder in sorted(versions, key=lambda pair: pair[0].numbers, reverse=True):
            yield folder


def _named(folder: Path) -> RocmVersion | None:
    """The version in a folder's name; a link's name says nothing (``core-7`` is one)."""
    name = _INSTALLATION.fullmatch(folder.name)
    return parse_version(name[1]) if name and folder.is_dir() and not folder.is_symlink() else None


def _in_prefix(prefix: Path, problems: list[str]) -> Iterator[tuple[str, RocmVersion]]:
    for source, name, parse in _FILES:
        text = read_text(prefix / name, problems)
        if text is None:
            continue
        if version := parse(text):
            yield source, version
        else:
            problems.append(f"{prefix / name}: no ROCm version in {text[:40]!r}")
    for folder in _LIBRARY_FOLDERS:
        yield from _newest("library", map(parse_library, list_names(prefix / folder, problems)))


def _in_site_packages(folders: Sequence[Path], problems: list[str]) -> Iterator[tuple[str, RocmVersion]]:
    names = [name for folder in folders for name in list_names(folder, problems)]
    yield from _newest("pip", (parse_version(found[1]) for name in names if (found := _DIST_INFO.fullmatch(name))))


def _in_packages(system_root: Path, problems: list[str]) -> Iterator[tuple[str, RocmVersion]]:
    """Versions of the packages that dpkg says are installed."""
    status = read_text(system_root / "var/lib/dpkg/status", problems, DPKG_STATUS_LIMIT)
    installed: list[tuple[str, str]] = []
    for paragraph in (status or "").split("\n\n"):
        if "rocm-core" in paragraph or "libamdhip64" in paragraph:
            fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line)
            if fields.get("Status", "").endswith(" installed"):
                installed.append((fields.get("Package", ""), fields.get("Version", "")))
    for names in (_CORE_PACKAGE, _HIP_PACKAGE):
        versions = (
            parse_version(version.partition(":")[2] or version) for name, version in installed if names.fullmatch(name)
        )
        yield from _newest("package", versions)


def _newest(source: str, versions: Iterator[RocmVersion | None]) -> Iterator[tuple[str, RocmVersion]]:
    found = [version for version in versions if version]
    if found:
        yield source, max(found, key=lambda version: version.numbers)


def _read_driver(system_root: Path, sysfs: Path, problems: list[str]) -> DriverFacts | None:
    module = read_text(sysfs / "module/amdgpu/version", problems)
    if module:
        return DriverFacts(module, "dkms")
    # A driver that is built into the kernel has no initstate; its folders still exist.
    if not ((sysfs / "module/amdgpu").is_dir() or (sysfs / "bus/pci/drivers/amdgpu").is_dir()):
        return None
    release = read_text(system_root / "proc/sys/kernel/osrelease", problems)
    return DriverFacts(release, "in-tree") if release else None


def follow(path: Path, root: Path) -> Path | None:
    """Resolve every link in ``path`` as if ``root`` were ``/``; ``None`` unless that ends at a folder below ``root``.

    ``path`` itself begins with ``root``. A loop of links gives ``None``.
    """
    base = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow the links that are ours to follow
    try:
        rest = list(reversed(Path(os.path.abspath(path)).relative_to(base).parts))  # noqa: PTH100
    except ValueError:
        return path if path.is_dir() else None
    place, links = base, 0
    while rest:
        part = rest.pop()
        if part == "..":
            place = place if place == base else place.parent
            continue
        place /= part
        try:
            target = place.readlink()
        except OSError:  # no link, or nothing at all: the end of the walk shows which
            continue
        links += 1
        if links > LINKS_FOLLOWED:
            return None
        rest += [part for part in reversed(target.parts) if part != "/"]
        place = base if target.is_absolute() else place.parent
    return place if place.is_dir() else None
