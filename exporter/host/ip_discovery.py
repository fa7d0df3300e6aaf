"""The version of a GPU's graphics core, from the table of its blocks that the driver publishes for everyone to read.

``/sys/class/drm/cardN/device/ip_discovery/die/0/GC/0/{major,minor,revision}``; ``GC`` links to ``11``. GPUs before
Navi 1x have no such table.
"""

from pathlib import Path
from typing import Final

from exporter.host.files import read_number

# The compiler's name if it isn't the hardware's version: as the kernel's compute driver maps them.
_TARGETS: Final = {
    (9, 0, 1): "gfx900",
    (9, 1, 0): "gfx902",
    (9, 2, 1): "gfx904",
    (9, 2, 2): "gfx902",
    (9, 3, 0): "gfx90c",
    (9, 4, 0): "gfx906",
    (9, 4, 1): "gfx908",
    (9, 4, 2): "gfx90a",
    (9, 4, 3): "gfx942",
    (9, 4, 4): "gfx942",
    (10, 1, 1): "gfx1012",
    (10, 1, 2): "gfx1011",
    (10, 1, 3): "gfx1013",
    (10, 1, 4): "gfx1013",
    (10, 1, 10): "gfx1010",
    (10, 3, 1): "gfx1033",
    (10, 3, 2): "gfx1031",
    (10, 3, 3): "gfx1035",
    (10, 3, 4): "gfx1032",
    (10, 3, 5): "gfx1034",
    (10, 3, 7): "gfx1036",
    (11, 0, 1): "gfx1103",
    (11, 0, 3): "gfx1101",
    (11, 0, 4): "gfx1103",
}


def target_of(major: int, minor: int, revision: int) -> str:
    """Name the compiler's target of a graphics core: 11.0.3 is gfx1101, 11.5.1 is gfx1151."""
    return _TARGETS.get((major, minor, revision), f"gfx{major}{minor:x}{revision:x}")


def read_target(device: Path) -> str | None:
    """Read what a GPU's graphics core is; ``None`` if the driver doesn't say. Wakes no GPU."""
    for block in ("GC", "11"):
        folder = device / "ip_discovery/die/0" / block / "0"
        major, minor, revision = (read_number(folder / name) for name in ("major", "minor", "revision"))
        if major and minor is not None and revision is not None:
            return target_of(major, minor, revision)
    return None
