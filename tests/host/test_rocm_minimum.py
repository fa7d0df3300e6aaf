"""Whether a ROCm is recent enough, by what it is for."""

import pytest

from exporter.host.rocm_minimum import meets_minimum, minimum_rocm_for
from exporter.rocm_version import RocmVersion

SEVEN = RocmVersion("7.0", 7, 0)
SIX = RocmVersion("6.4.1", 6, 4, 1)


@pytest.mark.parametrize("target", ["gfx906", "gfx900", "gfx90c", "gfx803", "gfx701"])
def test_gpus_that_end_at_a_6x(target: str) -> None:
    """No release from 7 on is for them, so that none is asked for; an older minimum holds."""
    assert minimum_rocm_for(target, SEVEN) is None
    assert minimum_rocm_for(target, SIX) == SIX


@pytest.mark.parametrize("target", ["gfx908", "gfx90a", "gfx942", "gfx1030", "gfx1100", "gfx1151", "gfx1201", None])
def test_gpus_that_go_on(target: str | None) -> None:
    """The minimum is the one given, for a GPU that isn't known too."""
    assert minimum_rocm_for(target, SEVEN) == SEVEN


@pytest.mark.parametrize(
    ("targets", "compute", "expected"),
    [
        (["gfx1151"], None, False),
        (["gfx1151"], "rocm", False),
        (["gfx1151"], "vulkan", None),
        (["gfx1151"], "cpu", None),
        (["gfx906"], None, None),
        (["gfx906", "gfx1201"], None, False),
        ([None], None, False),
        ([], None, False),
    ],
)
def test_a_distributions_6_4(targets: list[str | None], compute: str | None, expected: bool | None) -> None:  # noqa: FBT001
    """It is a warning where ROCm computes on a GPU that newer releases support, and no judgement otherwise."""
    assert meets_minimum(SIX, SEVEN, targets, compute) is expected
    assert meets_minimum(SEVEN, SEVEN, targets, compute) in {True, None}
