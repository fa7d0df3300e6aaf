"""ROCm version texts of every form in which they are found → one comparable record. Pure.

Forms (AMD's packages, TheRock, distributions, HIP): ``7.2.0``, ``7.2.0-43``, ``7.10.0rc0``, ``7.11.0a20251211``,
``10.1.0a20260811+bkc.20260813``, ``7.10.0.dev0+<sha>``, ``7.2.3.70203-140~24.04``, ``7.2.26015-<hash>`` (HIP: its third
number counts builds and is no ROCm patch). Every parser gives ``None`` for a text that is none of them; none raises.
"""

import json
import re
from dataclasses import dataclass
from typing import Final

LONGEST: Final = 128
"""Characters; a longer text is not a version."""

# Four digits at most: a longer third number is HIP's build count.
_VERSION: Final = re.compile(r"(\d{1,2})\.(0|[1-9]\d{0,2})(?:\.(\d{1,4}))?(?!\d)(?:[-+~.A-Za-z][ -~]*)?", re.ASCII)
_LIBRARY: Final = re.compile(r"libamdhip64\.so\.(\d{1,2})\.(\d{1,3})\.(\d+)(?:-[0-9A-Za-z]+)?", re.ASCII)
_NAME: Final = re.compile(r"(?<![a-z0-9])rocm[-_]?v?(\d{1,2})[._](\d{1,2})(?:[._](\d{1,2}))?(?!\d)", re.ASCII)
_HEADER: Final = re.compile(r"#\s*define\s+ROCM_VERSION_(MAJOR|MINOR|PATCH)\s+(\d{1,4})\b", re.ASCII)
_HIP: Final = re.compile(r"^\s*HIP_VERSION_(MAJOR|MINOR)\s*=\s*(\d{1,4})\s*$", re.ASCII | re.MULTILINE)

_TORCH_LOCAL: Final = re.compile(r"^__version__\b.*?\+rocm([\w.]+)", re.MULTILINE)
_TORCH_HIP: Final = re.compile(r"^hip\b[^=\n]*=\s*['\"]([\w.-]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RocmVersion:
    """A version as it was found (``raw``) and as numbers; ``patch`` is ``None`` if the text has none that is ROCm's."""

    raw: str
    major: int
    minor: int
    patch: int | None = None

    @property
    def release(self) -> str:
        """``major.minor``, by which versions are compared."""
        return f"{self.major}.{self.minor}"

    @property
    def normalised(self) -> str:
        """``major.minor.patch``, or ``major.minor`` if the patch is not known."""
        return self.release if self.patch is None else f"{self.release}.{self.patch}"

    @property
    def numbers(self) -> tuple[int, int, int]:
        """For sorting: 7.10 is above 7.2."""
        return (self.major, self.minor, self.patch or 0)


def parse_version(text: str) -> RocmVersion | None:
    """Read a version that stands alone in ``text``, as in ``.info/version``, ``torch.version.hip`` or a package's version."""
    raw = text.strip()
    found = _VERSION.fullmatch(raw) if len(raw) <= LONGEST else None
    return _version(raw, found[1], found[2], found[3]) if found else None


def parse_library(name: str) -> RocmVersion | None:
    """Read a HIP library's file name: ``libamdhip64.so.7.2.70200`` is 7.2.0, ``…so.7.2.26015-abc`` is 7.2."""
    found = _LIBRARY.fullmatch(name)
    if not found:
        return None
    major, minor, last = (int(group) for group in found.groups())
    patch = last - (major * 10_000 + minor * 100)
    return _version(name.partition(".so.")[2], found[1], found[2], str(patch) if 0 <= patch < 100 else None)


def parse_name(text: str) -> RocmVersion | None:
    """Read the version out of an image's tag or a folder's name: ``rocm-7.2.4-rocwmma``, ``rocm6.4``, ``rocm_v7_2``."""
    found = _NAME.search(text.lower()[:LONGEST])
    if not found:
        return None
    numbers = [number for number in found.groups() if number is not None]
    return _version(".".join(numbers), found[1], found[2], found[3])


def parse_header(text: str) -> RocmVersion | None:
    """Read the macros of ``include/rocm-core/rocm_version.h``."""
    return _from_parts(dict(_HEADER.findall(text)))


def parse_hip(text: str) -> RocmVersion | None:
    """Read ``share/hip/version`` (``KEY=VALUE`` lines): major and minor are ROCm's, the patch is not."""
    return _from_parts(dict(_HIP.findall(text)))


def parse_torch(text: str) -> RocmVersion | None:
    """Read PyTorch's ``torch/version.py``: its own version names ROCm's (``2.10.0+rocm7.0``), else ``hip`` does."""
    found = _TORCH_LOCAL.search(text) or _TORCH_HIP.search(text)
    return parse_version(found[1]) if found else None


def parse_manifest(text: str) -> RocmVersion | None:
    """Read TheRock's ``therock_manifest.json``."""
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError):
        return None
    version = manifest.get("rocm_package_version") if isinstance(manifest, dict) else None
    return parse_version(version) if isinstance(version, str) else None


def is_supported(version: RocmVersion, minimum: RocmVersion) -> bool:
    """Tell whether ``version`` is at or above ``minimum``; a patch counts only if both have one."""
    if version.patch is None or minimum.patch is None:
        return version.numbers[:2] >= minimum.numbers[:2]
    return version.numbers >= minimum.numbers


def _from_parts(parts: dict[str, str]) -> RocmVersion | None:
    if "MAJOR" not in parts or "MINOR" not in parts:
        return None
    numbers = [parts[part] for part in ("MAJOR", "MINOR", "PATCH") if part in parts]
    return _version(".".join(numbers), parts["MAJOR"], parts["MINOR"], parts.get("PATCH"))


def _version(raw: str, major: str, minor: str, patch: str | None) -> RocmVersion | None:
    # 0.1.0 is a placeholder on PyPI; 22.04 and 24.04 are Ubuntu's, and stand in labels next to ROCm's.
    if not 0 < int(major) < 20:
        return None
    return RocmVersion(raw, int(major), int(minor), None if patch is None else int(patch))
