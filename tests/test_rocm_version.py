"""ROCm's version texts, in every form in which they are found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.rocm_version import (
    RocmVersion,
    is_supported,
    parse_header,
    parse_hip,
    parse_library,
    parse_manifest,
    parse_name,
    parse_version,
)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("7.2.0", "7.2.0"),
        ("7.2.0-43\n", "7.2.0"),
        ("6.4.1-83", "6.4.1"),
        ("7.10.1-36", "7.10.1"),
        ("7.10.0rc0", "7.10.0"),
        ("7.11.0a20251211", "7.11.0"),
        ("7.14.0a20260526+a0", "7.14.0"),
        ("10.1.0a20260811+bkc.20260813", "10.1.0"),
        ("7.10.0.dev0+9f8e7d6c5b4a39281706f5e4d3c2b1a098765432", "7.10.0"),
        ("7.2.3.70203-140~24.04", "7.2.3"),
        ("7.1.0+dfsg-1", "7.1.0"),
        ("10.1", "10.1"),
        ("7.2.26015-fc0010cf6a", "7.2"),
    ],
)
def test_versions_that_stand_alone(text: str, normalised: str) -> None:
    """Each form gives ROCm's numbers and keeps its own text; HIP's build count is not taken for a patch."""
    version = parse_version(text)
    assert version is not None
    assert (version.raw, version.normalised) == (text.strip(), normalised)
    assert normalised.startswith(version.release)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "unknown",
        "N/A",
        "0.1.0",
        "22.04",
        "24.04",
        "24.10",
        "v",
        "7.2.0\n7.1.0",
        "\0\0",
        "7." * 100,
        "7.2.0x" * 50,
    ],
)
def test_texts_that_are_no_version(text: str) -> None:
    """Placeholders, Ubuntu's versions, several lines and overlong texts are not taken for ROCm's."""
    assert parse_version(text) is None


@given(st.text())
def test_no_text_makes_a_parser_raise(text: str) -> None:
    """Whatever a file holds, a parser gives a version or nothing."""
    for parse in (parse_version, parse_library, parse_name, parse_header, parse_hip, parse_manifest):
        assert isinstance(parse(text), RocmVersion | None)


@pytest.mark.parametrize(
    ("name", "normalised"),
    [
        ("libamdhip64.so.7.2.70200", "7.2.0"),
        ("libamdhip64.so.7.2.70204", "7.2.4"),
        ("libamdhip64.so.6.4.43483", "6.4"),
        ("libamdhip64.so.7.16.26331-abc123", "7.16"),
    ],
)
def test_library_names(name: str, normalised: str) -> None:
    """A HIP library's name tells the release, and the patch where AMD's own packages put it there."""
    version = parse_library(name)
    assert version is not None
    assert version.normalised == normalised


@pytest.mark.parametrize(
    "name", ["libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.7.2", "libhsa-runtime64.so.1.18.70200"]
)
def test_names_of_other_libraries(name: str) -> None:
    """A link or another library tells nothing."""
    assert parse_library(name) is None


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("docker.io/kyuz0/amd-strix-halo-toolboxes:rocm-7.2.4-rocwmma", "7.2.4"),
        ("kyuz0/amd-strix-halo-toolboxes:rocm-7.14", "7.14"),
        ("rocm/vllm:rocm6.4.1_vllm_0.9.1", "6.4.1"),
        ("/usr/lib/ollama/rocm_v7_2", "7.2"),
        ("ROCM-7.2", "7.2"),
    ],
)
def test_names_that_carry_a_version(text: str, normalised: str) -> None:
    """Tags and folders name their ROCm in several spellings."""
    version = parse_name(text)
    assert version is not None
    assert version.normalised == normalised


@pytest.mark.parametrize(
    "text",
    [
        "ollama/ollama:rocm",
        "kyuz0/toolboxes:therock-7.14",
        "rocm/dev-ubuntu-24.04:latest",
        "vulkan-radv",
        "rocm-7.2142",
    ],
)
def test_names_that_carry_none(text: str) -> None:
    """A tag that only looks like it gives nothing, above all not Ubuntu's version."""
    assert parse_name(text) is None


def test_header_hip_and_manifest() -> None:
    """The three files that hold a version among other lines are read for it alone."""
    assert parse_header(
        "#define ROCM_VERSION_MAJOR   7\n#define ROCM_VERSION_MINOR   2\n#define ROCM_VERSION_PATCH   0\n"
    ) == (RocmVersion("7.2.0", 7, 2, 0))
    assert parse_hip("HIP_VERSION_MAJOR=7\nHIP_VERSION_MINOR=2\nHIP_VERSION_PATCH=26015\n") == RocmVersion("7.2", 7, 2)
    assert parse_hip("HIP_VERSION_MAJOR=7\n") is None
    assert parse_manifest('{"rocm_package_version": "7.14.0a20260526+a0"}') == RocmVersion(
        "7.14.0a20260526+a0", 7, 14, 0
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rocm_package_version": 7.2}', "{", "[" * 100_000])
def test_manifests_without_a_version(text: str) -> None:
    """A broken or different manifest gives nothing, however deep it is."""
    assert parse_manifest(text) is None


@pytest.mark.parametrize(
    ("version", "minimum", "supported"),
    [
        ("7.10", "7.2", True),
        ("10.1.0", "7.0", True),
        ("6.4.1-83", "7.0", False),
        ("7.0", "7.0", True),
        ("7.2.0-43", "7.2.0", True),
        ("7.2.0", "7.2.1", False),
        ("7.2.26015-fc0010cf6a", "7.2.1", True),
    ],
)
def test_support_is_judged_by_numbers(version: str, minimum: str, supported: bool) -> None:  # noqa: FBT001 - a table's column
    """7.10 is above 7.2, a build suffix counts for nothing, and a patch only where both have one."""
    found, least = parse_version(version), parse_version(minimum)
    assert found is not None
    assert least is not None
    assert is_supported(found, least) is supported
