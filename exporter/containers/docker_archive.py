"""What the engine's archive call answers: a stat in a header, a file in a tar. Pure; anything malformed is None."""

import base64
import io
import json
from dataclasses import dataclass
from typing import Final

from exporter.containers.json_access import mapping, text

# Go's os.FileMode: its bits for types are not those of POSIX.
_SYMLINK: Final = 1 << 27
_ANY_TYPE: Final = 0x8F28_0000
LARGEST_FILE: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class ArchiveStat:
    """A file in a container: bytes, and the path that a symbolic link leads to (the engine resolves it, within the image)."""

    size: int
    is_file: bool
    link_target: str = ""


def stat_of(header: str) -> ArchiveStat | None:
    """Read ``X-Docker-Container-Path-Stat``."""
    try:
        stat = mapping(json.loads(base64.b64decode(header, validate=True)))
    except (ValueError, RecursionError):
        return None
    size, mode = stat.get("size"), stat.get("mode")
    if not isinstance(size, int) or not isinstance(mode, int):
        return None
    return ArchiveStat(size, not mode & _ANY_TYPE, text(stat, "linkTarget") if mode & _SYMLINK else "")


def file_in(archive: bytes, limit: int = LARGEST_FILE) -> str | None:
    """The text of the first member, if that is a regular file: its first ``limit`` bytes, however large it says it is."""
    import tarfile  # noqa: PLC0415 - with the first file of a container

    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            member = tar.next()
            content = tar.extractfile(member) if member is not None and member.isfile() else None
            return content.read(limit).decode("utf-8", "replace") if content else None
    except (tarfile.TarError, EOFError, ValueError, OSError):
        return None
