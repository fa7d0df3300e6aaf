"""ROCm's version out of what an image holds: texts in, version and source out."""

import base64
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.containers.docker_archive import ArchiveStat, file_in, stat_of
from exporter.containers.facts import ON_HOST, ImageRocm, OwnNetwork
from exporter.containers.own_network import own_container, own_network_in
from exporter.containers.rocm import FileReading, files_to_read, stated_version, version_in
from tests.containers.documents import load

# Machines are shared: how long an example takes shows nothing.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

VERSIONS_TXT = """BASE_IMAGE: rocm/dev-ubuntu-22.04:7.2.1-complete
PYTORCH_BRANCH: 89075173
AITER_BRANCH: v0.1.10.post3
VLLM_BASE_IMAGE=example.org/base:1
"""
TORCH = "from typing import Optional\n__version__ = '2.10.0+rocm7.0'\nhip: Optional[str] = '7.0.51831-a3e329ad8'\n"
TORCH_BUILT = "__version__ = '2.9.0a0+git1c57644'\ncuda = None\nhip = '7.2.26015-fc0010cf6a'\n"


@pytest.mark.parametrize(
    ("reading", "content", "raw", "release"),
    [
        ("version", "7.2.0-43\n", "7.2.0-43", "7.2"),
        ("version", "7.14.0", "7.14.0", "7.14"),
        ("versions.txt", VERSIONS_TXT, "7.2.1", "7.2"),
        ("torch", TORCH, "7.0", "7.0"),
        ("torch", TORCH_BUILT, "7.2.26015-fc0010cf6a", "7.2"),
        ("manifest", '{"rocm_package_version": "7.14.0a20260526+a0"}', "7.14.0a20260526+a0", "7.14"),
        ("library", "/usr/lib/ollama/rocm/libamdhip64.so.7.2.70200", "7.2.70200", "7.2"),
    ],
)
def test_versions_in_files(reading: FileReading, content: str, raw: str, release: str) -> None:
    """Each kind of file states the version in its own way."""
    assert version_in(content, reading) == ImageRocm(raw, release, "file")


@pytest.mark.parametrize("reading", ["version", "versions.txt", "torch", "manifest", "library"])
@UNTIMED
@given(content=st.text())
def test_any_text_is_survived(reading: FileReading, content: str) -> None:
    """A file with anything in it gives a version or none, and never raises."""
    found = version_in(content, reading)
    assert found is None or found.release


def test_what_image_and_configuration_state() -> None:
    """The environment wins over labels, these over the tag; Ubuntu's version in a label is not ROCm's."""
    labels = {"org.opencontainers.image.version": "24.04", "com.amd.rocm.version": "7.1.0"}
    tag = "rocm/dev-ubuntu-22.04:7.2.1-complete"
    assert stated_version({"ROCM_VERSION": "6.4.1"}, labels, tag) == ImageRocm("6.4.1", "6.4", "env")
    assert stated_version({}, labels, tag) == ImageRocm("7.1.0", "7.1", "label")
    assert stated_version({}, {"org.opencontainers.image.version": "24.04"}, tag) == ImageRocm("7.2.1", "7.2", "tag")
    assert stated_version({}, {}, "rocm/vllm:latest") is None


def test_files_are_tried_where_the_environment_points() -> None:
    """ROCM_PATH and a virtual environment on PATH come before the usual places; every path is absolute."""
    files = files_to_read(
        {"ROCM_PATH": "/opt/rocm-6.4.4", "PATH": "/torch/.venv/bin:/usr/bin", "VIRTUAL_ENV": "/x/../y"}
    )
    assert files[0].path == "/opt/rocm-6.4.4/.info/version"
    assert any(file.path == "/torch/.venv/lib/python3.12/site-packages/torch/version.py" for file in files)
    assert all(file.path.startswith("/") and ".." not in file.path for file in files)


def header(**stat: object) -> str:
    """A stat as the engine writes it into a header."""
    return base64.b64encode(json.dumps(stat).encode()).decode()


def test_stats_of_a_real_engine() -> None:
    """Go's bits tell files, symbolic links and folders apart."""
    assert stat_of(header(name="version", size=7, mode=420, linkTarget="")) == ArchiveStat(7, is_file=True)
    link = header(name="l", size=24, mode=134218239, linkTarget="/usr/lib/ollama/rocm/libamdhip64.so.7.2.70200")
    assert stat_of(link) == ArchiveStat(24, is_file=False, link_target="/usr/lib/ollama/rocm/libamdhip64.so.7.2.70200")
    assert stat_of(header(name="opt", size=4096, mode=2147484141, linkTarget="")) == ArchiveStat(4096, is_file=False)


@UNTIMED
@given(st.text() | st.binary().map(lambda raw: base64.b64encode(raw).decode()))
def test_any_header_is_survived(text: str) -> None:
    """A header that is no stat is none."""
    stat = stat_of(text)
    assert stat is None or isinstance(stat.size, int)


@UNTIMED
@given(st.binary(max_size=2048), st.integers(0, 2048))
def test_any_archive_is_survived(noise: bytes, cut: int) -> None:
    """An archive that is broken, cut or none at all gives no text, or text."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("version")
        member.size = 7
        tar.addfile(member, io.BytesIO(b"7.2.0-4"))
    whole = buffer.getvalue()
    assert file_in(whole) == "7.2.0-4"
    for archive in (noise, whole[:cut], noise + whole, whole[:cut] + noise):
        assert file_in(archive) is None or isinstance(file_in(archive), str)


@pytest.mark.parametrize("name", ["GNU.sparse.size", "GNU.sparse.realsize"])
def test_a_sparse_member_is_read_to_its_bound(name: str) -> None:
    """An archive of 3 KiB whose file is said to have 2^60 bytes, all holes, gives no more than a small file may have."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("version")
        member.pax_headers = {name: str(1 << 60), "GNU.sparse.map": f"{1 << 60},0", "GNU.sparse.numblocks": "1"}
        tar.addfile(member, io.BytesIO(b""))
    content = file_in(buffer.getvalue())
    assert content is not None
    assert len(content) == 64 << 10
    assert len(file_in(buffer.getvalue(), 10) or "") == 10


def test_an_old_sparse_member_is_read_to_its_bound() -> None:
    """The same in GNU's older form, whose map stands in the header itself."""
    member = tarfile.TarInfo("version")
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[156:157] = b"S"
    block[386:398] = block[398:410] = b"%011o\0" % 0
    block[483:495] = b"\x80" + (1 << 60).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    content = file_in(bytes(block) + bytes(10_240 - len(block)))
    assert content is not None
    assert len(content) == 64 << 10


MOUNTINFO = """571 570 0:26 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/x
590 571 259:2 /var/lib/docker/containers/{id}/hostname /etc/hostname rw,relatime - ext4 /dev/sda2 rw
"""
ROUTE = "Iface\tDestination\tGateway \tFlags\neth0\t00000000\t010011AC\t0003\neth0\t000011AC\t00000000\t0001\n"


def test_the_exporters_own_network(tmp_path: Path) -> None:
    """Its own mounts name its container; that container's document, or the default route, gives networks and gateway."""
    assert own_container(tmp_path) is None
    assert own_network_in(None, tmp_path) == ON_HOST
    own = "ab" * 32
    (tmp_path / "self").mkdir()
    (tmp_path / "net").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(MOUNTINFO.format(id=own), encoding="utf-8")
    (tmp_path / "net" / "route").write_text(ROUTE, encoding="utf-8")
    assert own_container(tmp_path) == own
    assert own_network_in(None, tmp_path) == OwnNetwork(on_host_network=False, gateway="172.17.0.1")
    assert own_network_in(load("compose-published"), tmp_path) == OwnNetwork(
        on_host_network=False, networks=frozenset({"llm_default"}), gateway="172.18.0.1"
    )
    assert own_network_in(load("vllm-aiter-host-network"), tmp_path) == ON_HOST


def test_a_host_that_mounts_containers_is_no_container(tmp_path: Path) -> None:
    """On a host an engine's own mounts bear containers' ids too, but not on these three files."""
    (tmp_path / "self").mkdir()
    line = f"9 1 0:5 / /var/lib/docker/containers/{'cd' * 32}/mounts/shm rw - tmpfs shm rw\n"
    (tmp_path / "self" / "mountinfo").write_text(line, encoding="utf-8")
    assert own_container(tmp_path) is None
