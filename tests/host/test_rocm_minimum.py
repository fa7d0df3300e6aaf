"""Whether a ROCm is recent enough, by what it is for."""

import pytest

from exporter.host.rocm_minimum import meets_minimum, minimum_rocm_for, serves_by
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
    ("targets", "serves", "expected"),
    [
        (["gfx1151"], True, False),
        (["gfx1151"], None, None),
        (["gfx1151"], False, None),
        (["gfx906"], True, None),
        (["gfx906", "gfx1201"], True, False),
        ([None], True, False),
        ([], True, False),
    ],
)
def test_a_distributions_6_4(targets: list[str | None], serves: bool | None, expected: bool | None) -> None:  # noqa: FBT001
    """It is a warning where ROCm is known to compute on a GPU that newer releases support, and no judgement otherwise."""
    assert meets_minimum(SIX, SEVEN, targets, serves=serves) is expected


@pytest.mark.parametrize(("serves", "expected"), [(True, True), (None, True), (False, None)])
def test_a_recent_one(serves: bool | None, expected: bool | None) -> None:  # noqa: FBT001
    """It is said to be recent enough unless something else is known to compute."""
    assert meets_minimum(SEVEN, SEVEN, ["gfx1151"], serves=serves) is expected


@pytest.mark.parametrize(
    ("computes", "expected"),
    [
        ([], None),
        ([None], None),
        (["vulkan"], False),
        (["vulkan", "cpu"], False),
        (["vulkan", None], None),
        (["rocm", "vulkan"], True),
        (["rocm", None], True),
    ],
)
def test_whether_rocm_serves(computes: list[str | None], expected: bool | None) -> None:  # noqa: FBT001
    """One server that computes with it is enough; none does where all are known to compute with something else."""
    assert serves_by(computes) is expected
