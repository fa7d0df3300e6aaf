"""Which release of ROCm a machine should have at least, by its GPUs and by what computes on them. Pure.

A minimum is a judgement about a setup that can meet it. AMD's releases from 7 on have no libraries for GPUs of the Vega
generation before CDNA, and a server that computes through Vulkan doesn't use ROCm at all.
"""

import re
from collections.abc import Iterable
from typing import Final

from exporter.rocm_version import RocmVersion, is_supported

ENDED: Final = frozenset({"gfx900", "gfx902", "gfx904", "gfx906", "gfx909", "gfx90c"})
"""GPUs of the Vega generation, for which AMD's last release was a 6.x; GCN before them (gfx7, gfx8) ended earlier."""


def minimum_rocm_for(gfx_target: str | None, minimum: RocmVersion) -> RocmVersion | None:
    """The minimum for one GPU: the one given, or ``None`` if no release from 7 on supports the GPU."""
    ended = gfx_target in ENDED or (gfx_target is not None and re.fullmatch(r"gfx[78]\d\d", gfx_target) is not None)
    return None if ended and minimum.major >= 7 else minimum


def meets_minimum(
    version: RocmVersion, minimum: RocmVersion, gfx_targets: Iterable[str | None], *, serves: bool | None
) -> bool | None:
    """Tell whether a ROCm is recent enough for a machine, or ``None`` if there is nothing to judge.

    ``gfx_targets`` are those of the machine's GPUs; one that can meet the minimum is enough to judge by. ``serves`` says
    whether this ROCm computes for a server here. If it doesn't, it is not judged. If that isn't known, the result is at most
    that it is recent enough.
    """
    if serves is False:
        return None
    targets = tuple(gfx_targets) or (None,)
    wanted = [each for target in targets if (each := minimum_rocm_for(target, minimum)) is not None]
    if not wanted:
        return None
    supported = is_supported(version, wanted[0])
    return supported if supported or serves else None


def serves_by(computes: Iterable[str | None]) -> bool | None:
    """Whether ROCm computes for one of these servers, by what computes in each; ``None`` if it isn't known or there are none."""
    known = set(computes)
    if "rocm" in known:
        return True
    return False if known and None not in known else None
