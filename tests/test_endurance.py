"""The endurance bench in short: among faults and reloads a daemon holds after 1,000 probes what it held after 300."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.endurance import EndurancePlan, endure
from tests.ports import free_port

pytestmark = pytest.mark.real  # it loads the machine for half a minute, which the other tests must not


@pytest.fixture(autouse=True)
def _room_for_sockets() -> Iterator[None]:
    """The server and the daemon inherit the limit of descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_daemon_holds_later_what_it_held_early(tmp_path: Path) -> None:
    """The same descriptors and threads, the same lasting series, hardly more memory; who left, left whole."""
    said: list[str] = []
    plan = EndurancePlan(targets=60, rotating=20, port=free_port())
    early, *_, late = endure(plan, 1000, first=300, readings=2, reload=3.0, folder=tmp_path, progress=said.append)
    assert late.probes >= 1000, said
    assert late.descriptors <= early.descriptors + 2, said
    # Only those that are there for longer than a probe are counted: a worker seldom is.
    assert late.threads <= early.threads + 2, said
    assert late.resident_mib < early.resident_mib * 1.08, said
    assert early.kept == late.kept, said
    assert late.models <= 8, said
    assert "Traceback" not in (tmp_path / "log").read_text()
